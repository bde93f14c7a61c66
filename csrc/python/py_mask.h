/* What py_evaluate.c needs of py_mask.c. */
#ifndef DD_PYTHON_PY_MASK_H
#define DD_PYTHON_PY_MASK_H

#include "evaluate/mask_file.h"
#include "python/binding.h"

/* The set in a capsule that mask_set() made, borrowed; NULL with an exception for anything else. */
const dd_mask_set *dd_py_mask_set(PyObject *capsule);

#endif
