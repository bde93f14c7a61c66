/* What py_interpreter.c and py_plan.c share: arrays of a run. */
#ifndef DD_PYTHON_PY_RUN_H
#define DD_PYTHON_PY_RUN_H

#include "python/py_graph.h"

/* NumPy arrays that are kept alive while C works on them. */
typedef struct dd_py_arrays {
    size_t n;
    PyObject **objects; /* NULL: absent */
    dd_array *arrays;
} dd_py_arrays;

/* n absent ones; -1 with MemoryError. Python's memory: a run of a plan takes none of the core's. */
int dd_py_arrays_make(dd_py_arrays *a, size_t n);
void dd_py_arrays_clear(dd_py_arrays *a);
/* Arrays of a sequence; item i must be of type types[which[i]] exactly, None where `optional`.
 * -1 with an exception that names `names[i]`. */
int dd_py_arrays_take(dd_py_arrays *a, PyObject *sequence, size_t n, const int *which,
                      const dd_type *types, char *const *names, bool optional);
/* The values' names for dd_py_arrays_take's `names`: inputs of a graph. NULL on failure; dd_free.
 */
char **dd_py_input_names(const dd_graph *g);

/* A new array of a type, zeros. */
PyArrayObject *dd_py_new_of(const dd_type *type);

/* The store's flat gradient, in place. */
PyArrayObject *dd_py_gradient(PyObject *object, const dd_store *s, const char *who);

int dd_py_plan_init(PyObject *module);

#endif
