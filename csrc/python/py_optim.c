/* The binding of csrc/graph/optim: one update of a store from its flat gradient. */
#include "python/py_graph.h"

#include <math.h>
#include <string.h>

#include "graph/optim.h"

/* A flat twin of the store, in place; NULL for None where that is allowed. -1 with an
   exception. */
static int as_twin(PyObject *object, const dd_store *s, const char *name, bool optional,
                   PyArrayObject **array) {
    *array = NULL;
    if (optional && object == Py_None)
        return 0;
    *array = dd_py_array_inplace(object, NPY_FLOAT32, name);
    if (!*array)
        return -1;
    if (PyArray_NDIM(*array) == 1 && PyArray_DIM(*array, 0) == (npy_intp)s->size)
        return 0;
    PyErr_Format(PyExc_ValueError, "optim_apply: %s has %zd elements, the store has %zu", name,
                 (Py_ssize_t)PyArray_SIZE(*array), s->size);
    Py_CLEAR(*array);
    return -1;
}

/* NULL stays NULL. */
static float *floats(PyArrayObject *array) {
    return array ? PyArray_DATA(array) : NULL;
}

/* optim_apply(store, gradient, m, v, ema, *, ...) -> norm. lr and step have no initial value: the
 * core refuses NaN and 0. */
PyObject *dd_py_optim_apply(PyObject *module, PyObject *args, PyObject *keywords) {
    static char *names[] = {"store",      "gradient", "m",        "v",     "ema", "kind",
                            "lr",         "decay",    "momentum", "beta2", "eps", "clip_norm",
                            "grad_scale", "ema_rate", "step",     NULL};
    static const char *const buffers[4] = {"gradient", "m", "v", "ema"};
    PyObject *store, *objects[4];
    PyArrayObject *arrays[4] = {NULL};
    const char *kind = "adamw";
    unsigned long long step = 0;
    double norm = 0;
    dd_optim_step o = {.lr = NAN, .momentum = 0.9f, .beta2 = 0.999f, .eps = 1e-8f, .grad_scale = 1};
    dd_status status = DD_EVALUE;
    (void)module;
    if (!PyArg_ParseTupleAndKeywords(
            args, keywords, "O!OOOO|$sffffffffK:optim_apply", names, dd_py_store_type, &store,
            &objects[0], &objects[1], &objects[2], &objects[3], &kind, &o.lr, &o.decay, &o.momentum,
            &o.beta2, &o.eps, &o.clip_norm, &o.grad_scale, &o.ema_rate, &step))
        return NULL;
    dd_store *s = ((dd_py_store *)store)->store;
    bool adamw = strcmp(kind, "adamw") == 0;
    if (!adamw && strcmp(kind, "sgd") != 0) {
        PyErr_Format(PyExc_ValueError, "optim_apply: kind '%s' came, 'adamw' or 'sgd' is needed",
                     kind);
        return NULL;
    }
    o.kind = adamw ? DD_ADAMW : DD_SGD;
    o.step = step;
    bool fine = true;
    for (int i = 0; i < 4 && fine; i++)
        fine = as_twin(objects[i], s, buffers[i], i >= (adamw ? 3 : 2), &arrays[i]) == 0;
    if (fine) {
        ((dd_py_store *)store)->pins++;
        DD_PY_CALL(status, dd_optim_apply(s, floats(arrays[0]), floats(arrays[1]),
                                          floats(arrays[2]), floats(arrays[3]), &o, &norm));
        ((dd_py_store *)store)->pins--;
    }
    for (int i = 0; i < 4; i++)
        Py_XDECREF((PyObject *)arrays[i]);
    if (!fine)
        return NULL;
    return status == DD_OK ? PyFloat_FromDouble(norm) : dd_py_raise(status);
}
