/* What the two files of the area `detect` share: arrays that a call holds until its end.
 *
 * A function keeps every array that it takes or makes in one holder and releases them all at its
 * one exit, so that no error path can forget one. */
#ifndef DD_PYTHON_PY_DETECT_H
#define DD_PYTHON_PY_DETECT_H

#include "python/binding.h"

#include <string.h>

enum { HELD = 16 };

typedef struct holder {
    PyArrayObject *arrays[HELD];
    int count;
} holder;

static inline void holder_release(holder *h) {
    while (h->count > 0)
        Py_DECREF(h->arrays[--h->count]);
}

static inline PyArrayObject *holder_keep(holder *h, PyArrayObject *array) {
    if (array)
        h->arrays[h->count++] = array;
    return array;
}

/* A held array of exactly `rank` dimensions whose sizes are dims[], a negative one being free and
 * set to what came; NULL with an exception otherwise. */
static inline void *hold(holder *h, PyObject *object, int typenum, int rank, npy_intp *dims,
                         const char *who) {
    PyArrayObject *array = holder_keep(h, dd_py_array(object, typenum, rank, rank, who));
    if (!array)
        return NULL;
    for (int i = 0; i < rank; i++) {
        npy_intp came = PyArray_DIM(array, i);
        if (dims[i] >= 0 && dims[i] != came) {
            PyErr_Format(PyExc_ValueError, "%s: dimension %d is %zd, %zd was needed", who, i,
                         (Py_ssize_t)came, (Py_ssize_t)dims[i]);
            return NULL;
        }
        dims[i] = came;
    }
    return PyArray_DATA(array);
}

/* The same for an argument that may be None: returns 0 with *data NULL then, -1 on an error. */
static inline int hold_optional(holder *h, PyObject *object, int typenum, int rank, npy_intp *dims,
                                const char *who, void *data_pointer) {
    void *data = NULL;
    if (object != Py_None && !(data = hold(h, object, typenum, rank, dims, who)))
        return -1;
    memcpy(data_pointer, &data, sizeof data);
    return 0;
}

/* A new array of zeros, held. */
static inline void *hold_new(holder *h, int typenum, int rank, const npy_intp *dims) {
    PyArrayObject *array = holder_keep(h, dd_py_new(typenum, rank, dims));
    return array ? PyArray_DATA(array) : NULL;
}

/* An array that gets results in place, or None. */
static inline int hold_inplace(holder *h, PyObject *object, npy_intp size, const char *who,
                               float **data) {
    *data = NULL;
    if (object == Py_None)
        return 0;
    PyArrayObject *array = dd_py_array_inplace(object, NPY_FLOAT32, who);
    if (!array)
        return -1;
    holder_keep(h, array);
    if (PyArray_SIZE(array) != size) {
        PyErr_Format(PyExc_ValueError, "%s: %zd numbers have room, %zd are needed", who,
                     (Py_ssize_t)PyArray_SIZE(array), (Py_ssize_t)size);
        return -1;
    }
    *data = PyArray_DATA(array);
    return 0;
}

/* The first `length` of what the i-th held array has, as a new reference. */
static inline PyObject *held_front(const holder *h, int i, int64_t length) {
    return PySequence_GetSlice((PyObject *)h->arrays[i], 0, (Py_ssize_t)length);
}

/* py_detect_train.c: losses, anchors, assignment, the criterion. */
PyObject *dd_py_losses(PyObject *module, PyObject *args);
PyObject *dd_py_loss(PyObject *module, PyObject *args);
PyObject *dd_py_class_weights(PyObject *module, PyObject *args);
PyObject *dd_py_anchor_grid(PyObject *module, PyObject *args);
PyObject *dd_py_anchor_rule(PyObject *module, PyObject *nothing);
PyObject *dd_py_detector_anchors(PyObject *module, PyObject *args);
PyObject *dd_py_assign(PyObject *module, PyObject *args);
PyObject *dd_py_detection_loss(PyObject *module, PyObject *args);

#endif
