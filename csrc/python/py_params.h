/* Attributes between Python and an operator's struct. */
#ifndef DD_PYTHON_PY_PARAMS_H
#define DD_PYTHON_PY_PARAMS_H

#include "python/binding.h"

#include "ops/op.h"

/* Fills `params` (the operator's size) with initial values and those of `dict` (None: none).
 * -1 with an exception that names operator, node and field, and lists the valid ones. */
int dd_py_set_params(const dd_op *op, const char *node, PyObject *dict, char *params);
/* A new dict of all attributes. */
PyObject *dd_py_get_params(const dd_op *op, const char *params);
/* ops(): a list of dicts, one an operator. */
PyObject *dd_py_ops(PyObject *module, PyObject *nothing);

#endif
