/* What the files of the graph's area share: py_store.c, py_graph.c and py_run.c.
 *
 * An object's C part may be in use by a thread that has dropped the GIL. Graphs never are
 * (interpreters and plans copy theirs); a store in use or with a NumPy view is pinned: its values
 * can be written, but no entry can be added, which would move them. */
#ifndef DD_PYTHON_PY_GRAPH_H
#define DD_PYTHON_PY_GRAPH_H

#include "python/binding.h"

#include "graph/graph.h"

typedef struct dd_py_store {
    PyObject_HEAD dd_store *store;
    Py_ssize_t pins;
} dd_py_store;

typedef struct dd_py_graph {
    PyObject_HEAD dd_graph *graph;
} dd_py_graph;

/* Set once by the module's import. */
extern PyTypeObject *dd_py_store_type, *dd_py_graph_type;

/* Each adds the types of its file. */
int dd_py_store_init(PyObject *module);
int dd_py_run_init(PyObject *module);

/* optim_apply(), see _core.pyi. */
PyObject *dd_py_optim_apply(PyObject *module, PyObject *args, PyObject *keywords);

/* New objects around what they then own (freed on failure). */
PyObject *dd_py_store_wrap(dd_store *store);
PyObject *dd_py_graph_wrap(dd_graph *graph);

/* Makes a heap type from `spec` and adds it to the module; NULL with an exception. */
PyTypeObject *dd_py_add_type(PyObject *module, PyType_Spec *spec);
/* The object's memory goes back to its heap type. */
void dd_py_free_object(PyObject *self);

/* NumPy's type number of a dtype. */
int dd_py_typenum(dd_dtype dtype);
/* A tuple of sizes from a type, and back; the latter sets rank and dims only. */
PyObject *dd_py_shape(const dd_type *type);
int dd_py_dims(PyObject *shape, dd_type *type, const char *who);
/* (dtype name, shape) */
PyObject *dd_py_type(const dd_type *type);
/* Types of the graph's inputs from a sequence whose items are (dtype, shape), or a shape alone for
 * the dtype that the input has; `types` is the caller's to dd_free. */
int dd_py_input_types(const dd_graph *g, PyObject *shapes, dd_type **types);

#endif
