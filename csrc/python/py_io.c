/* The binding of csrc/io: torch's files as Python values and arrays. */
#include "python/binding.h"

#include "base/memory.h"
#include "io/torch_file.h"

/* What one call converts. */
typedef struct conversion {
    const dd_torch_file *f;
    const char *name;   /* of the file, for messages */
    PyObject **objects; /* a reference a value, NULL where it is not made yet */
    PyObject *arrays;   /* {where a storage's bytes lie and its type: its array} */
} conversion;

static int typenum_of(dd_torch_type type) {
    static const int types[DD_TORCH_TYPES] = {
        NPY_FLOAT32, NPY_FLOAT64, NPY_FLOAT16, NPY_FLOAT32 /* of bfloat16 */,
        NPY_INT64,   NPY_INT32,   NPY_INT16,   NPY_INT8,
        NPY_UINT8,   NPY_BOOL};
    return types[type];
}

/* A storage's array, a new reference; tensors that share a storage share it. */
static PyObject *storage_array(const conversion *c, const dd_torch_storage *s) {
    uintptr_t place = (uintptr_t)s->data * DD_TORCH_TYPES + (uintptr_t)s->type;
    PyObject *key = PyLong_FromUnsignedLongLong(place);
    if (!key)
        return NULL;
    PyObject *array = PyDict_GetItemWithError(c->arrays, key);
    Py_XINCREF(array);
    if (!array && !PyErr_Occurred()) {
        npy_intp count = (npy_intp)s->count;
        array = PyArray_SimpleNew(1, &count, typenum_of(s->type));
        if (array)
            dd_torch_storage_copy(c->f, s, PyArray_DATA((PyArrayObject *)array));
        if (array && PyDict_SetItem(c->arrays, key, array) < 0)
            Py_CLEAR(array);
    }
    Py_DECREF(key);
    return array;
}

/* A view of the storage's array; a tensor without elements has nothing to look at. */
static PyObject *tensor_array(const conversion *c, const dd_torch_tensor *t) {
    const dd_torch_storage *s = &c->f->storages[t->storage];
    npy_intp dims[DD_TORCH_MAX_RANK], strides[DD_TORCH_MAX_RANK];
    PyArray_Descr *type = PyArray_DescrFromType(typenum_of(s->type));
    if (!type)
        return NULL;
    npy_intp bytes = (npy_intp)PyDataType_ELSIZE(type);
    for (int i = 0; i < t->rank; i++) {
        dims[i] = (npy_intp)dd_torch_size(c->f, t, i);
        strides[i] = t->count ? (npy_intp)dd_torch_stride(c->f, t, i) : 0;
        strides[i] = dims[i] > 1 ? strides[i] * bytes : bytes; /* never used: it may be anything */
    }
    if (!t->count)
        return PyArray_NewFromDescr(&PyArray_Type, type, t->rank, dims, NULL, NULL, 0, NULL);
    PyObject *base = storage_array(c, s);
    if (!base) {
        Py_DECREF((PyObject *)type);
        return NULL;
    }
    char *data = (char *)PyArray_DATA((PyArrayObject *)base) + t->offset * bytes;
    PyObject *view = PyArray_NewFromDescr(&PyArray_Type, type, t->rank, dims, strides, data,
                                          NPY_ARRAY_WRITEABLE, NULL);
    if (!view) {
        Py_DECREF(base);
        return NULL;
    }
    if (PyArray_SetBaseObject((PyArrayObject *)view, base) < 0) /* takes the reference */
        Py_CLEAR(view);
    return view;
}

static PyObject *big_number(const dd_torch_value *v) {
    PyObject *bytes = PyBytes_FromStringAndSize(v->as.bytes, (Py_ssize_t)v->count);
    PyObject *words = bytes ? Py_BuildValue("(Os)", bytes, "little") : NULL;
    PyObject *sign = words ? Py_BuildValue("{s:O}", "signed", Py_True) : NULL;
    PyObject *from = sign ? PyObject_GetAttrString((PyObject *)&PyLong_Type, "from_bytes") : NULL;
    PyObject *number = from ? PyObject_Call(from, words, sign) : NULL;
    Py_XDECREF(bytes);
    Py_XDECREF(words);
    Py_XDECREF(sign);
    Py_XDECREF(from);
    return number;
}

/* A value as an object; lists and dicts are empty yet. A tuple's items are there already: their
 * numbers are lower. */
static PyObject *make_object(const conversion *c, const dd_torch_value *v) {
    PyObject *tuple;
    switch (v->kind) {
    case DD_TORCH_NONE:
        return Py_NewRef(Py_None);
    case DD_TORCH_FLAG:
        return PyBool_FromLong(v->as.flag);
    case DD_TORCH_WHOLE:
        return PyLong_FromLongLong(v->as.whole);
    case DD_TORCH_BIG:
        return big_number(v);
    case DD_TORCH_NUMBER:
        return PyFloat_FromDouble(v->as.number);
    case DD_TORCH_TEXT:
        return PyUnicode_DecodeUTF8(v->as.bytes, (Py_ssize_t)v->count, NULL);
    case DD_TORCH_NAME:
        return PyUnicode_FromString(v->as.bytes);
    case DD_TORCH_LIST:
        return PyList_New(0);
    case DD_TORCH_DICT:
        return PyDict_New();
    case DD_TORCH_TUPLE:
        tuple = PyTuple_New((Py_ssize_t)v->count);
        for (uint32_t i = 0; tuple && i < v->count; i++) /* SetItem takes the reference */
            PyTuple_SetItem(tuple, (Py_ssize_t)i,
                            Py_NewRef(c->objects[c->f->items[v->as.first + i]]));
        return tuple;
    case DD_TORCH_TENSOR:
        return tensor_array(c, &c->f->tensors[v->as.index]);
    case DD_TORCH_STORAGE:
        return storage_array(c, &c->f->storages[v->as.index]);
    }
    return NULL;
}

/* Puts a list's or dict's items into it. */
static int fill_object(const conversion *c, const dd_torch_value *v, PyObject *object) {
    const uint32_t *items = c->f->items + v->as.first;
    for (uint32_t i = 0; v->kind == DD_TORCH_LIST && i < v->count; i++)
        if (PyList_Append(object, c->objects[items[i]]) < 0)
            return -1;
    for (uint32_t i = 0; v->kind == DD_TORCH_DICT && i < v->count; i += 2)
        if (PyDict_SetItem(object, c->objects[items[i]], c->objects[items[i + 1]]) < 0)
            return -1;
    return 0;
}

/* The root's object. First all values in their order, then what the containers hold: so it needs no
 * recursion, and what holds itself comes out holding itself. */
static PyObject *convert(const conversion *c) {
    const dd_torch_file *f = c->f;
    for (size_t i = 0; i < f->n_values; i++) {
        c->objects[i] = make_object(c, &f->values[i]);
        if (c->objects[i])
            continue;
        if (!PyErr_ExceptionMatches(PyExc_ValueError))
            return NULL;
        PyErr_Clear(); /* NumPy knows fewer shapes than the file may name */
        return dd_py_raise(dd_fail(
            DD_EFORMAT, "checkpoint: %s: its pickle is damaged (a tensor's size)", c->name));
    }
    for (size_t i = 0; i < f->n_values; i++)
        if (fill_object(c, &f->values[i], c->objects[i]) < 0)
            return NULL;
    return Py_NewRef(c->objects[f->root]);
}

/* torch_read(data, name) -> the nested values; tensors are arrays */
static PyObject *torch_read(PyObject *module, PyObject *args) {
    (void)module;
    PyObject *data, *result = NULL;
    dd_torch_file *file = NULL;
    char *bytes;
    Py_ssize_t length;
    conversion c = {0};
    if (!PyArg_ParseTuple(args, "O!s", &PyBytes_Type, &data, &c.name) ||
        PyBytes_AsStringAndSize(data, &bytes, &length) < 0)
        return NULL;
    dd_status status;
    DD_PY_CALL(status, dd_torch_read(bytes, (size_t)length, c.name, &file));
    if (status == DD_OK)
        status = dd_alloc_array(file->n_values, sizeof *c.objects, &c.objects);
    if (status != DD_OK) {
        dd_torch_destroy(file);
        return dd_py_raise(status);
    }
    c.f = file;
    c.arrays = PyDict_New();
    if (c.arrays)
        result = convert(&c);
    for (size_t i = 0; i < file->n_values; i++)
        Py_XDECREF(c.objects[i]);
    Py_XDECREF(c.arrays);
    dd_free(c.objects);
    dd_torch_destroy(file);
    return result;
}

PyMethodDef dd_py_io_methods[] = {
    {"torch_read", torch_read, METH_VARARGS, "torch_read(data, name) -> nested values and arrays"},
    {NULL, NULL, 0, NULL},
};
