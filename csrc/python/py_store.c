/* The binding of csrc/graph/store: `Store`, and what the other files of the area share. */
#include "python/py_graph.h"

#include <string.h>

#include "base/memory.h"

PyTypeObject *dd_py_store_type;

static const char *const roles[] = {"trainable", "state", "constant"};

/* ---- shared -------------------------------------------------------------------------------- */

PyTypeObject *dd_py_add_type(PyObject *module, PyType_Spec *spec) {
    PyObject *type = PyType_FromSpec(spec);
    if (type && PyModule_AddType(module, (PyTypeObject *)type) < 0)
        Py_CLEAR(type);
    return (PyTypeObject *)type;
}

void dd_py_free_object(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(self);
    Py_DECREF(type); /* an instance owns a reference to its heap type */
}

int dd_py_typenum(dd_dtype dtype) {
    static const int numbers[DD_DTYPES] = {
        [DD_F32] = NPY_FLOAT32, [DD_F16] = NPY_HALF, [DD_BF16] = NPY_UINT16,
        [DD_U8] = NPY_UINT8,    [DD_S8] = NPY_INT8,  [DD_S32] = NPY_INT32};
    return numbers[dtype];
}

PyObject *dd_py_shape(const dd_type *type) {
    PyObject *tuple = PyTuple_New(type->rank);
    for (int i = 0; tuple && i < type->rank; i++) {
        PyObject *size = PyLong_FromLongLong(type->dims[i]);
        if (!size || PyTuple_SetItem(tuple, i, size) < 0)
            Py_CLEAR(tuple);
    }
    return tuple;
}

int dd_py_dims(PyObject *shape, dd_type *type, const char *who) {
    PyObject *tuple = PySequence_Tuple(shape);
    if (!tuple)
        return -1;
    Py_ssize_t rank = PyTuple_Size(tuple);
    if (rank > DD_MAX_RANK) {
        PyErr_Format(PyExc_ValueError, "%s: %zd dimensions came, at most %d are possible", who,
                     rank, DD_MAX_RANK);
        Py_DECREF(tuple);
        return -1;
    }
    type->rank = (int)rank;
    for (Py_ssize_t i = 0; i < rank; i++) {
        type->dims[i] = PyNumber_AsSsize_t(PyTuple_GetItem(tuple, i), PyExc_ValueError);
        if (type->dims[i] == -1 && PyErr_Occurred()) {
            Py_DECREF(tuple);
            return -1;
        }
    }
    Py_DECREF(tuple);
    return 0;
}

PyObject *dd_py_type(const dd_type *type) {
    PyObject *shape = dd_py_shape(type);
    return shape ? Py_BuildValue("(sN)", dd_dtype_name(type->dtype), shape) : NULL;
}

/* ---- entries ------------------------------------------------------------------------------- */

/* The C store of a Store. */
static dd_store *store_of(PyObject *self) {
    return ((dd_py_store *)self)->store;
}

/* The entry of a name; -1 with KeyError. */
static int find_entry(PyObject *self, const char *name) {
    int entry = dd_store_find(store_of(self), name);
    if (entry < 0)
        PyErr_Format(PyExc_KeyError, "there is no entry '%s'", name);
    return entry;
}

/* Roles are words in Python. -1 with ValueError. */
static int as_role(PyObject *role, dd_role *out) {
    PyObject *text = PyUnicode_Check(role) ? PyUnicode_AsUTF8String(role) : NULL;
    for (int i = 0; text && i < 3; i++)
        if (strcmp(PyBytes_AsString(text), roles[i]) == 0) {
            *out = (dd_role)i;
            Py_DECREF(text);
            return 0;
        }
    Py_XDECREF(text);
    if (!PyErr_Occurred())
        PyErr_Format(PyExc_ValueError,
                     "store: role %R came, 'trainable', 'state' or 'constant' is needed", role);
    return -1;
}

/* add(name, shape, role="trainable", decay=False) -> index */
static PyObject *store_add(PyObject *self, PyObject *args, PyObject *keywords) {
    static char *names[] = {"name", "shape", "role", "decay", NULL};
    const char *name;
    PyObject *shape, *role = NULL;
    int decay = 0, entry;
    dd_role r = DD_TRAINABLE;
    dd_type type = {.dtype = DD_F32};
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "sO|Op", names, &name, &shape, &role, &decay))
        return NULL;
    if ((role && as_role(role, &r) < 0) || dd_py_dims(shape, &type, name) < 0)
        return NULL;
    if (((dd_py_store *)self)->pins) {
        PyErr_SetString(PyExc_BufferError, "store: an entry can't be added while a view or a run "
                                           "holds the values");
        return NULL;
    }
    dd_status status = dd_store_add(store_of(self), name, r, &type, decay, &entry);
    return status == DD_OK ? PyLong_FromLong(entry) : dd_py_raise(status);
}

/* All that Python may know of an entry. */
static PyObject *entry_dict(const dd_entry *e, size_t index) {
    PyObject *shape = dd_py_shape(&e->type);
    if (!shape)
        return NULL;
    return Py_BuildValue("{s:s,s:n,s:s,s:N,s:L,s:L,s:d,s:O,s:O}", "name", e->name, "index",
                         (Py_ssize_t)index, "role", roles[e->role], "shape", shape, "offset",
                         (long long)e->offset, "count", (long long)e->count, "lr_factor",
                         (double)e->lr_factor, "decay", e->decay ? Py_True : Py_False, "frozen",
                         e->frozen ? Py_True : Py_False);
}

static PyObject *store_entry(PyObject *self, PyObject *args) {
    const char *name;
    if (!PyArg_ParseTuple(args, "s", &name))
        return NULL;
    int entry = find_entry(self, name);
    return entry < 0 ? NULL : entry_dict(&store_of(self)->entries[entry], (size_t)entry);
}

static PyObject *store_entries(PyObject *self, PyObject *nothing) {
    (void)nothing;
    const dd_store *s = store_of(self);
    PyObject *list = PyList_New(0);
    for (size_t i = 0; list && i < s->n; i++) {
        PyObject *item = entry_dict(&s->entries[i], i);
        if (!item || PyList_Append(list, item) < 0)
            Py_CLEAR(list);
        Py_XDECREF(item);
    }
    return list;
}

static PyObject *store_names(PyObject *self, void *closure) {
    (void)closure;
    const dd_store *s = store_of(self);
    PyObject *list = PyList_New((Py_ssize_t)s->n);
    for (size_t i = 0; list && i < s->n; i++) {
        PyObject *name = PyUnicode_FromString(s->entries[i].name);
        if (!name || PyList_SetItem(list, (Py_ssize_t)i, name) < 0)
            Py_CLEAR(list);
    }
    return list;
}

/* set_options(name, lr_factor=None, frozen=None, decay=None): None leaves a setting as it is; all
 * are checked before one is changed. */
static PyObject *store_set_options(PyObject *self, PyObject *args, PyObject *keywords) {
    static char *names[] = {"name", "lr_factor", "frozen", "decay", NULL};
    const char *name;
    PyObject *factor = Py_None, *frozen = Py_None, *decay = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "s|OOO", names, &name, &factor, &frozen,
                                     &decay))
        return NULL;
    int entry = find_entry(self, name);
    if (entry < 0)
        return NULL;
    dd_entry e = store_of(self)->entries[entry];
    if (factor != Py_None) {
        double f = PyFloat_AsDouble(factor);
        if (f == -1.0 && PyErr_Occurred())
            return NULL;
        if (!(f >= 0 && f < 1e6)) {
            PyErr_Format(PyExc_ValueError, "store: lr_factor %R of '%s' came, 0 to 1e6 is needed",
                         factor, name);
            return NULL;
        }
        e.lr_factor = (float)f;
    }
    int frozen_on = frozen == Py_None ? e.frozen : PyObject_IsTrue(frozen);
    int decay_on = decay == Py_None ? e.decay : PyObject_IsTrue(decay);
    if (frozen_on < 0 || decay_on < 0)
        return NULL;
    e.frozen = frozen_on;
    e.decay = decay_on;
    store_of(self)->entries[entry] = e;
    Py_RETURN_NONE;
}

/* ---- values -------------------------------------------------------------------------------- */

/* A copy: the store's own memory is given out by flat() alone, which pins it. */
static PyObject *store_get(PyObject *self, PyObject *args) {
    const char *name;
    npy_intp dims[DD_MAX_RANK];
    if (!PyArg_ParseTuple(args, "s", &name))
        return NULL;
    int entry = find_entry(self, name);
    if (entry < 0)
        return NULL;
    const dd_entry *e = &store_of(self)->entries[entry];
    for (int i = 0; i < e->type.rank; i++)
        dims[i] = (npy_intp)e->type.dims[i];
    PyArrayObject *array = dd_py_new(NPY_FLOAT32, e->type.rank, dims);
    if (array && e->count)
        memcpy(PyArray_DATA(array), dd_store_data(store_of(self), entry),
               (size_t)e->count * sizeof(float));
    return (PyObject *)array;
}

/* set(name, array): exactly the entry's shape, no broadcasting. */
static PyObject *store_set(PyObject *self, PyObject *args) {
    const char *name;
    PyObject *object;
    if (!PyArg_ParseTuple(args, "sO", &name, &object))
        return NULL;
    int entry = find_entry(self, name);
    if (entry < 0)
        return NULL;
    const dd_entry *e = &store_of(self)->entries[entry];
    PyArrayObject *array = dd_py_array(object, NPY_FLOAT32, 0, DD_MAX_RANK, name);
    if (!array)
        return NULL;
    bool fits = PyArray_NDIM(array) == e->type.rank;
    for (int i = 0; fits && i < e->type.rank; i++)
        fits = PyArray_DIM(array, i) == (npy_intp)e->type.dims[i];
    if (!fits) {
        PyObject *want = dd_py_shape(&e->type), *have = PyObject_GetAttrString(object, "shape");
        PyErr_Clear();
        PyErr_Format(PyExc_ValueError, "store: '%s' of shape %S came, %S is needed", name, have,
                     want);
        Py_XDECREF(want);
        Py_XDECREF(have);
    } else {
        if (e->count)
            memcpy(dd_store_data(store_of(self), entry), PyArray_DATA(array),
                   (size_t)e->count * sizeof(float));
        dd_store_touch(store_of(self));
    }
    Py_DECREF((PyObject *)array);
    if (!fits)
        return NULL;
    Py_RETURN_NONE;
}

/* The capsule that a view has as its base: it keeps the store alive and pinned. */
static void unpin(PyObject *capsule) {
    dd_py_store *store = PyCapsule_GetPointer(capsule, NULL);
    store->pins--;
    Py_DECREF((PyObject *)store);
}

/* The view has a capsule as its base. Whoever writes through it calls touch(), or packed weights
 * stay the old ones. */
static PyObject *store_flat(PyObject *self, PyObject *nothing) {
    (void)nothing;
    dd_py_store *store = (dd_py_store *)self;
    npy_intp size = (npy_intp)store->store->size;
    if (!size)
        return (PyObject *)dd_py_new(NPY_FLOAT32, 1, &size);
    PyObject *capsule = PyCapsule_New(store, NULL, unpin);
    if (!capsule)
        return NULL;
    Py_INCREF(self);
    store->pins++;
    PyObject *array = PyArray_SimpleNewFromData(1, &size, NPY_FLOAT32, store->store->values);
    if (!array) {
        Py_DECREF(capsule);
        return NULL;
    }
    if (PyArray_SetBaseObject((PyArrayObject *)array, capsule) < 0) /* takes the capsule */
        Py_CLEAR(array);
    return array;
}

static PyObject *store_touch(PyObject *self, PyObject *nothing) {
    (void)nothing;
    dd_store_touch(store_of(self));
    Py_RETURN_NONE;
}

/* ---- the type ------------------------------------------------------------------------------ */

PyObject *dd_py_store_wrap(dd_store *store) {
    allocfunc make = (allocfunc)PyType_GetSlot(dd_py_store_type, Py_tp_alloc);
    PyObject *self = make(dd_py_store_type, 0);
    if (!self) {
        dd_store_destroy(store);
        return NULL;
    }
    ((dd_py_store *)self)->store = store;
    return self;
}

static PyObject *store_new(PyTypeObject *type, PyObject *args, PyObject *keywords) {
    static char *names[] = {NULL};
    dd_store *store;
    (void)type; /* the type can't be subclassed */
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "", names))
        return NULL;
    dd_status status = dd_store_create(&store);
    return status == DD_OK ? dd_py_store_wrap(store) : dd_py_raise(status);
}

static void store_dealloc(PyObject *self) {
    dd_store_destroy(store_of(self));
    dd_py_free_object(self);
}

static PyObject *store_copy(PyObject *self, PyObject *nothing) {
    dd_store *copy;
    (void)nothing;
    dd_status status = dd_store_copy(store_of(self), &copy);
    return status == DD_OK ? dd_py_store_wrap(copy) : dd_py_raise(status);
}

static Py_ssize_t store_length(PyObject *self) {
    return (Py_ssize_t)store_of(self)->n;
}

/* `name in store`; what is no string is not in it. */
static int store_contains(PyObject *self, PyObject *name) {
    PyObject *text = PyUnicode_Check(name) ? PyUnicode_AsUTF8String(name) : NULL;
    if (!text) {
        PyErr_Clear();
        return 0;
    }
    int found = dd_store_find(store_of(self), PyBytes_AsString(text)) >= 0;
    Py_DECREF(text);
    return found;
}

static PyObject *store_size(PyObject *self, void *closure) {
    (void)closure;
    return PyLong_FromSize_t(store_of(self)->size);
}

static PyObject *store_version(PyObject *self, void *closure) {
    (void)closure;
    return PyLong_FromUnsignedLongLong(store_of(self)->version);
}

static PyMethodDef store_methods[] = {
    {"add", (PyCFunction)(void (*)(void))store_add, METH_VARARGS | METH_KEYWORDS, NULL},
    {"entry", store_entry, METH_VARARGS, NULL},
    {"entries", store_entries, METH_NOARGS, NULL},
    {"set_options", (PyCFunction)(void (*)(void))store_set_options, METH_VARARGS | METH_KEYWORDS,
     NULL},
    {"get", store_get, METH_VARARGS, NULL},
    {"set", store_set, METH_VARARGS, NULL},
    {"flat", store_flat, METH_NOARGS, NULL},
    {"touch", store_touch, METH_NOARGS, NULL},
    {"copy", store_copy, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef store_getset[] = {
    {"names", store_names, NULL, NULL, NULL},
    {"size", store_size, NULL, NULL, NULL},
    {"version", store_version, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot store_slots[] = {
    {Py_tp_doc, "All parameters of a model in one flat float32 array."},
    {Py_tp_new, store_new},
    {Py_tp_dealloc, store_dealloc},
    {Py_tp_methods, store_methods},
    {Py_tp_getset, store_getset},
    {Py_sq_length, store_length},
    {Py_sq_contains, store_contains},
    {0, NULL},
};

static PyType_Spec store_spec = {
    .name = "deepseek_det._core.Store",
    .basicsize = sizeof(dd_py_store),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = store_slots,
};

int dd_py_store_init(PyObject *module) {
    dd_py_store_type = dd_py_add_type(module, &store_spec);
    return dd_py_store_type ? 0 : -1;
}
