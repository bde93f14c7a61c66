/* Attributes between Python and an operator's struct, by the operator's table of fields: the
 * binding has no code per operator. */
#include "python/py_params.h"

#include <string.h>

/* "int", "float", ... for messages and the list of operators */
static const char *const kinds[] = {"int", "float", "bool", "enum", "ints", "floats"};

static int fail_type(const dd_op *op, const char *node, const dd_field *f, PyObject *value) {
    static const char *const needs[] = {
        "an integer",       "a number",           "a bool",
        "one of its names", "a list of integers", "a list of numbers",
    };
    PyErr_Clear();
    PyErr_Format(PyExc_TypeError, "%s '%s': attribute '%s' is %R, %s is needed", op->name, node,
                 f->name, value, needs[f->kind]);
    return -1;
}

/* The names of an enum or of all fields as "a, b, c"; a new string. */
static PyObject *enum_names(const dd_field *f) {
    PyObject *text = PyUnicode_FromString("");
    for (int i = 0; text && f->names[i]; i++) {
        PyObject *next = PyUnicode_FromFormat("%U%s%s", text, i ? ", " : "", f->names[i]);
        Py_DECREF(text);
        text = next;
    }
    return text;
}

static PyObject *field_names(const dd_op *op) {
    PyObject *text = PyUnicode_FromString("");
    for (const dd_field *f = op->fields; text && f && f->name; f++) {
        PyObject *next = PyUnicode_FromFormat("%U%s%s", text, f == op->fields ? "" : ", ", f->name);
        Py_DECREF(text);
        text = next;
    }
    return text;
}

/* What is an integer by itself: 2.0 is none. */
static int as_int(PyObject *value, int64_t *out) {
    PyObject *index = PyNumber_Index(value);
    long long i = index ? PyLong_AsLongLong(index) : -1;
    Py_XDECREF(index);
    if (i == -1 && PyErr_Occurred())
        return -1;
    *out = i;
    return 0;
}

/* By word. The message lists all words: they are few. */
static int set_enum(const dd_op *op, const char *node, const dd_field *f, PyObject *value,
                    char *at) {
    PyObject *text = PyUnicode_Check(value) ? PyUnicode_AsUTF8String(value) : NULL;
    if (!text)
        return fail_type(op, node, f, value);
    int64_t found = -1;
    for (int64_t i = 0; f->names[i]; i++)
        if (strcmp(f->names[i], PyBytes_AsString(text)) == 0)
            found = i;
    Py_DECREF(text);
    if (found < 0) {
        PyObject *names = enum_names(f);
        PyErr_Format(PyExc_ValueError, "%s '%s': attribute '%s' is %R, one of %V is needed",
                     op->name, node, f->name, value, names, "its names");
        Py_XDECREF(names);
        return -1;
    }
    memcpy(at, &found, sizeof found);
    return 0;
}

/* Any sequence but a string, which would be one of characters. */
static int set_list(const dd_op *op, const char *node, const dd_field *f, PyObject *value,
                    char *at) {
    dd_ints ints = {0};
    dd_floats floats = {0};
    PyObject *tuple = PyUnicode_Check(value) ? NULL : PySequence_Tuple(value);
    if (!tuple)
        return fail_type(op, node, f, value);
    Py_ssize_t n = PyTuple_Size(tuple);
    if (n > DD_MAX_LIST) {
        Py_DECREF(tuple);
        PyErr_Format(PyExc_ValueError,
                     "%s '%s': attribute '%s' has %zd items, at most %d are "
                     "allowed",
                     op->name, node, f->name, n, DD_MAX_LIST);
        return -1;
    }
    ints.n = floats.n = n;
    for (Py_ssize_t i = 0; i < n && !PyErr_Occurred(); i++) {
        if (f->kind == DD_FIELD_INTS)
            (void)as_int(PyTuple_GetItem(tuple, i), &ints.v[i]);
        else
            floats.v[i] = PyFloat_AsDouble(PyTuple_GetItem(tuple, i));
    }
    Py_DECREF(tuple);
    if (PyErr_Occurred())
        return fail_type(op, node, f, value);
    if (f->kind == DD_FIELD_INTS)
        memcpy(at, &ints, sizeof ints);
    else
        memcpy(at, &floats, sizeof floats);
    return 0;
}

/* One attribute; conversion and nothing else, since the graph checks values. */
static int set_field(const dd_op *op, const char *node, const dd_field *f, PyObject *value,
                     char *at) {
    int64_t i = 0;
    double d;
    switch (f->kind) {
    case DD_FIELD_ENUM:
        return set_enum(op, node, f, value, at);
    case DD_FIELD_INTS:
    case DD_FIELD_FLOATS:
        return set_list(op, node, f, value, at);
    case DD_FIELD_FLOAT:
        d = PyFloat_AsDouble(value);
        if (d == -1.0 && PyErr_Occurred())
            return fail_type(op, node, f, value);
        memcpy(at, &d, sizeof d);
        return 0;
    case DD_FIELD_BOOL:
        if (!PyBool_Check(value))
            return fail_type(op, node, f, value);
        i = value == Py_True;
        break;
    case DD_FIELD_INT:
        if (as_int(value, &i) < 0)
            return fail_type(op, node, f, value);
        break;
    }
    memcpy(at, &i, sizeof i);
    return 0;
}

int dd_py_set_params(const dd_op *op, const char *node, PyObject *dict, char *params) {
    PyObject *key, *value;
    Py_ssize_t at = 0;
    dd_op_params_init(op, params);
    if (!dict || dict == Py_None)
        return 0;
    if (!PyDict_Check(dict)) {
        PyErr_Format(PyExc_TypeError, "%s '%s': attributes are a dict", op->name, node);
        return -1;
    }
    while (PyDict_Next(dict, &at, &key, &value)) {
        const dd_field *f = op->fields;
        PyObject *text = PyUnicode_Check(key) ? PyUnicode_AsUTF8String(key) : NULL;
        while (text && f && f->name && strcmp(f->name, PyBytes_AsString(text)) != 0)
            f++;
        if (!text || !f || !f->name) {
            PyObject *names = field_names(op);
            PyErr_Clear();
            PyErr_Format(PyExc_ValueError, "%s '%s': unknown attribute %R, valid are: %V", op->name,
                         node, key, names, "none");
            Py_XDECREF(names);
            Py_XDECREF(text);
            return -1;
        }
        Py_DECREF(text);
        if (set_field(op, node, f, value, params + f->offset) < 0)
            return -1;
    }
    return 0;
}

/* Lists come back as tuples: attributes of a node do not change. */
static PyObject *get_list(const dd_field *f, const char *at) {
    int64_t n;
    memcpy(&n, at, sizeof n);
    PyObject *tuple = PyTuple_New((Py_ssize_t)n);
    for (int64_t i = 0; tuple && i < n; i++) {
        PyObject *item = f->kind == DD_FIELD_INTS
                             ? PyLong_FromLongLong(((const dd_ints *)(const void *)at)->v[i])
                             : PyFloat_FromDouble(((const dd_floats *)(const void *)at)->v[i]);
        if (!item || PyTuple_SetItem(tuple, (Py_ssize_t)i, item) < 0)
            Py_CLEAR(tuple);
    }
    return tuple;
}

static PyObject *get_field(const dd_field *f, const char *at) {
    int64_t i;
    double d;
    memcpy(&i, at, sizeof i);
    memcpy(&d, at, sizeof d);
    switch (f->kind) {
    case DD_FIELD_INT:
        return PyLong_FromLongLong(i);
    case DD_FIELD_FLOAT:
        return PyFloat_FromDouble(d);
    case DD_FIELD_BOOL:
        return PyBool_FromLong(i != 0);
    case DD_FIELD_ENUM:
        return PyUnicode_FromString(f->names[i]);
    case DD_FIELD_INTS:
    case DD_FIELD_FLOATS:
        return get_list(f, at);
    }
    Py_RETURN_NONE;
}

PyObject *dd_py_get_params(const dd_op *op, const char *params) {
    PyObject *dict = PyDict_New();
    for (const dd_field *f = op->fields; dict && f && f->name; f++) {
        PyObject *value = get_field(f, params + f->offset);
        if (!value || PyDict_SetItemString(dict, f->name, value) < 0)
            Py_CLEAR(dict);
        Py_XDECREF(value);
    }
    return dict;
}

/* ---- the list of operators ----------------------------------------------------------------- */

/* {"name", "kind", "initial", "names"} */
static PyObject *field_dict(const dd_field *f) {
    PyObject *names = PyTuple_New(0), *initial = NULL;
    int count = 0;
    while (f->names && f->kind == DD_FIELD_ENUM && f->names[count])
        count++;
    if (count) {
        Py_XDECREF(names);
        names = PyTuple_New(count);
        for (int i = 0; names && i < count; i++) {
            PyObject *name = PyUnicode_FromString(f->names[i]);
            if (!name || PyTuple_SetItem(names, i, name) < 0)
                Py_CLEAR(names);
        }
    }
    if (!names)
        return NULL;
    switch (f->kind) {
    case DD_FIELD_INT:
        initial = PyLong_FromDouble(f->initial);
        break;
    case DD_FIELD_FLOAT:
        initial = PyFloat_FromDouble(f->initial);
        break;
    case DD_FIELD_BOOL:
        initial = PyBool_FromLong(f->initial != 0);
        break;
    case DD_FIELD_ENUM:
        initial = PyUnicode_FromString(f->names[(int)f->initial]);
        break;
    case DD_FIELD_INTS:
    case DD_FIELD_FLOATS:
        initial = PyTuple_New(0);
        break;
    }
    if (!initial) {
        Py_DECREF(names);
        return NULL;
    }
    return Py_BuildValue("{s:s,s:s,s:N,s:N}", "name", f->name, "kind", kinds[f->kind], "initial",
                         initial, "names", names);
}

/* What Python needs to make functions, help and documentation of an operator. */
static PyObject *op_dict(const dd_op *op) {
    PyObject *fields = PyList_New(0);
    for (const dd_field *f = op->fields; fields && f && f->name; f++) {
        PyObject *item = field_dict(f);
        if (!item || PyList_Append(fields, item) < 0)
            Py_CLEAR(fields);
        Py_XDECREF(item);
    }
    if (!fields)
        return NULL;
    int outputs = op->n_outputs ? op->n_outputs : 1;
    return Py_BuildValue("{s:s,s:s,s:i,s:i,s:i,s:i,s:O,s:N}", "name", op->name, "doc", op->doc,
                         "version", op->version, "min_in", op->min_in, "max_in", op->max_in,
                         "n_outputs", outputs == DD_MANY ? -1 : outputs, "gradient",
                         op->grad || op->backward ? Py_True : Py_False, "fields", fields);
}

PyObject *dd_py_ops(PyObject *module, PyObject *nothing) {
    int n;
    const dd_op *const *ops = dd_ops(&n);
    PyObject *list = PyList_New(0);
    (void)module, (void)nothing;
    for (int i = 0; list && i < n; i++) {
        PyObject *item = op_dict(ops[i]);
        if (!item || PyList_Append(list, item) < 0)
            Py_CLEAR(list);
        Py_XDECREF(item);
    }
    return list;
}
