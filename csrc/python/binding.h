/* What the files of the binding share. The binding converts and checks; it does no arithmetic.
 *
 * A file an area (py_detect.c, py_image.c, ...) exports `PyMethodDef dd_py_<area>_methods[]`, and
 * `int dd_py_<area>_init(PyObject *module)` where it adds types; module.c lists the areas. Every
 * function: parse, check sizes, allocate results, drop the GIL, one core call, map the status. */
#ifndef DD_PYTHON_BINDING_H
#define DD_PYTHON_BINDING_H

#ifndef Py_LIMITED_API
#define Py_LIMITED_API 0x030B0000
#endif
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#define PY_ARRAY_UNIQUE_SYMBOL dd_numpy_api
#ifndef DD_BINDING_MAIN
#define NO_IMPORT_ARRAY
#endif
#include <numpy/arrayobject.h>

#include "base/error.h"
#include "base/tensor.h"

/* Sets the Python exception for a failed status from dd_message(); returns NULL. */
PyObject *dd_py_raise(dd_status status);

/* A new reference to a C-contiguous, aligned array of NumPy type `typenum` (a copy only where
 * needed; a cast only where it is safe) with min_rank..max_rank dimensions; NULL with an exception
 * that names `who` otherwise. */
PyArrayObject *dd_py_array(PyObject *object, int typenum, int min_rank, int max_rank,
                           const char *who);

/* The same array, not converted: exact type, C-contiguous, writable; for results in place. */
PyArrayObject *dd_py_array_inplace(PyObject *object, int typenum, const char *who);

/* A new array of zeros. */
PyArrayObject *dd_py_new(int typenum, int rank, const npy_intp *dims);

/* `status = call` without the GIL, while signals are looked for: Ctrl-C raises the cancel flag, and
 * the status is then never DD_OK, because a Python exception is set; dd_py_raise() keeps it. Code
 * that uses begin and end by hand asks PyErr_Occurred() after the end. */
void dd_py_begin(PyThreadState **state);
void dd_py_end(PyThreadState **state);
#define DD_PY_CALL(status, call)                                                                   \
    do {                                                                                           \
        PyThreadState *dd_py_state;                                                                \
        dd_py_begin(&dd_py_state);                                                                 \
        (status) = (call);                                                                         \
        dd_py_end(&dd_py_state);                                                                   \
        if ((status) == DD_OK && PyErr_Occurred())                                                 \
            (status) = DD_ECANCELED;                                                               \
    } while (0)

#endif
