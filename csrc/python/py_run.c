/* The binding of the interpreter, and the arrays that it shares with the plan. */
#include "python/py_run.h"

#include <string.h>

#include "base/memory.h"
#include "graph/interpret.h"

/* ---- arrays -------------------------------------------------------------------------------- */

void dd_py_arrays_clear(dd_py_arrays *a) {
    for (size_t i = 0; a->objects && i < a->n; i++)
        Py_XDECREF(a->objects[i]);
    PyMem_Free(a->objects);
    PyMem_Free(a->arrays);
    *a = (dd_py_arrays){0};
}

/* One array of exactly this type. */
static int take_one(PyObject *object, const dd_type *type, const char *name, PyObject **kept,
                    dd_array *array) {
    /* uint8 would cast to float32 safely, and 255 would come where 1 was meant */
    if (PyArray_Check(object) &&
        PyArray_TYPE((PyArrayObject *)object) != dd_py_typenum(type->dtype)) {
        PyErr_Format(PyExc_TypeError, "'%s': an array of type %S came, %s is needed", name,
                     (PyObject *)PyArray_DESCR((PyArrayObject *)object),
                     dd_dtype_name(type->dtype));
        return -1;
    }
    PyArrayObject *a = dd_py_array(object, dd_py_typenum(type->dtype), 0, DD_MAX_RANK, name);
    if (!a)
        return -1;
    bool fits = PyArray_NDIM(a) == type->rank;
    for (int i = 0; fits && i < type->rank; i++)
        fits = PyArray_DIM(a, i) == (npy_intp)type->dims[i];
    if (!fits) {
        PyObject *want = dd_py_shape(type), *have = PyObject_GetAttrString((PyObject *)a, "shape");
        PyErr_Clear();
        PyErr_Format(PyExc_ValueError, "'%s': shape %S came, %S is needed", name, have, want);
        Py_XDECREF(want);
        Py_XDECREF(have);
        Py_DECREF((PyObject *)a);
        return -1;
    }
    *kept = (PyObject *)a;
    *array = dd_array_dense(PyArray_DATA(a), type);
    return 0;
}

int dd_py_arrays_make(dd_py_arrays *a, size_t n) {
    *a = (dd_py_arrays){.n = n};
    a->objects = PyMem_Calloc(n, sizeof *a->objects);
    a->arrays = PyMem_Calloc(n, sizeof *a->arrays);
    if (a->objects && a->arrays)
        return 0;
    dd_py_arrays_clear(a);
    PyErr_NoMemory();
    return -1;
}

int dd_py_arrays_take(dd_py_arrays *a, PyObject *sequence, size_t n, const int *which,
                      const dd_type *types, char *const *names, bool optional) {
    *a = (dd_py_arrays){0};
    PyObject *tuple = PySequence_Tuple(sequence);
    if (!tuple)
        return -1;
    if (PyTuple_Size(tuple) != (Py_ssize_t)n) {
        PyErr_Format(PyExc_ValueError, "run: %zd arrays came, %zu are needed", PyTuple_Size(tuple),
                     n);
        goto failed;
    }
    if (dd_py_arrays_make(a, n) < 0)
        goto failed;
    for (size_t i = 0; i < n; i++) {
        PyObject *item = PyTuple_GetItem(tuple, (Py_ssize_t)i);
        a->arrays[i] = (dd_array){.type = types[which[i]], .pitch = dd_type_last(&types[which[i]])};
        if (optional && item == Py_None)
            continue;
        if (take_one(item, &types[which[i]], names[i], &a->objects[i], &a->arrays[i]) < 0)
            goto failed;
    }
    Py_DECREF(tuple);
    return 0;
failed:
    Py_DECREF(tuple);
    dd_py_arrays_clear(a);
    return -1;
}

char **dd_py_input_names(const dd_graph *g) {
    char **names;
    dd_status status = dd_alloc_array(g->n_inputs, sizeof *names, &names);
    if (status != DD_OK) {
        (void)dd_py_raise(status);
        return NULL;
    }
    for (size_t i = 0; i < g->n_inputs; i++)
        names[i] = g->values[g->inputs[i]].name; /* borrowed */
    return names;
}

PyArrayObject *dd_py_new_of(const dd_type *type) {
    npy_intp dims[DD_MAX_RANK];
    for (int i = 0; i < type->rank; i++)
        dims[i] = (npy_intp)type->dims[i];
    return dd_py_new(dd_py_typenum(type->dtype), type->rank, dims);
}

PyArrayObject *dd_py_gradient(PyObject *object, const dd_store *s, const char *who) {
    PyArrayObject *array = dd_py_array_inplace(object, NPY_FLOAT32, who);
    if (array && (PyArray_NDIM(array) != 1 || PyArray_DIM(array, 0) != (npy_intp)s->size)) {
        PyErr_Format(PyExc_ValueError, "%s: the gradient has %zd elements, the store has %zu", who,
                     (Py_ssize_t)PyArray_SIZE(array), s->size);
        Py_CLEAR(array);
    }
    return array;
}

/* ---- Interpreter --------------------------------------------------------------------------- */

typedef struct object {
    PyObject_HEAD PyObject *store;
    dd_graph *graph; /* a copy: the caller's may grow */
    dd_interpreter *interpreter;
    dd_type *types; /* of all values */
    char **names;   /* of the inputs */
    bool busy;
} object;

static PyTypeObject *interpreter_type;

/* The C store that the runs read. */
static dd_store *store_of(const object *self) {
    return ((dd_py_store *)self->store)->store;
}

static void interpreter_dealloc(PyObject *self) {
    object *o = (object *)self;
    dd_interpreter_destroy(o->interpreter);
    dd_graph_destroy(o->graph);
    dd_free(o->types);
    dd_free(o->names);
    Py_XDECREF(o->store);
    dd_py_free_object(self);
}

/* The C parts, in the order of their use; dealloc frees what is there when one fails. */
static dd_status create(object *o, const dd_graph *graph, const dd_type *inputs, uint64_t seed) {
    DD_TRY(dd_graph_copy(graph, &o->graph));
    DD_TRY(dd_alloc_array(o->graph->n_values, sizeof *o->types, &o->types));
    DD_TRY(dd_graph_infer(o->graph, store_of(o), inputs, o->types));
    return dd_interpreter_create(o->graph, store_of(o), inputs, seed, &o->interpreter);
}

/* Interpreter(graph, store, inputs, seed=0) */
static PyObject *interpreter_new(PyTypeObject *type, PyObject *args, PyObject *keywords) {
    static char *names[] = {"graph", "store", "inputs", "seed", NULL};
    PyObject *graph, *store, *shapes;
    unsigned long long seed = 0;
    dd_type *inputs;
    (void)type;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "O!O!O|K", names, dd_py_graph_type, &graph,
                                     dd_py_store_type, &store, &shapes, &seed))
        return NULL;
    if (dd_py_input_types(((dd_py_graph *)graph)->graph, shapes, &inputs) < 0)
        return NULL;
    allocfunc make = (allocfunc)PyType_GetSlot(interpreter_type, Py_tp_alloc);
    object *o = (object *)make(interpreter_type, 0);
    if (!o) {
        dd_free(inputs);
        return NULL;
    }
    o->store = Py_NewRef(store);
    dd_status status = create(o, ((dd_py_graph *)graph)->graph, inputs, seed);
    dd_free(inputs);
    if (status != DD_OK)
        (void)dd_py_raise(status);
    else
        o->names = dd_py_input_names(o->graph);
    if (PyErr_Occurred()) {
        Py_DECREF((PyObject *)o);
        return NULL;
    }
    return (PyObject *)o;
}

/* One call at a time: the values are the object's own. */
static int begin(object *o) {
    if (o->busy) {
        PyErr_SetString(PyExc_RuntimeError, "interpreter: another thread is running it");
        return -1;
    }
    o->busy = true;
    ((dd_py_store *)o->store)->pins++;
    return 0;
}

static void end(object *o) {
    o->busy = false;
    ((dd_py_store *)o->store)->pins--;
}

/* A copy of a value's data; None where it has none. */
static PyObject *value_array(const object *o, int value) {
    dd_array a = dd_interpreter_value(o->interpreter, value);
    if (!a.data)
        Py_RETURN_NONE;
    PyArrayObject *array = dd_py_new_of(&a.type);
    size_t bytes = (size_t)dd_type_count(&a.type) * dd_dtype_bytes(a.type.dtype);
    if (array && bytes)
        memcpy(PyArray_DATA(array), a.data, bytes);
    return (PyObject *)array;
}

/* forward(inputs, step=0) -> [arrays]; None for outputs that only the backward makes. */
static PyObject *interpreter_forward(PyObject *self, PyObject *args, PyObject *keywords) {
    static char *names[] = {"inputs", "step", NULL};
    object *o = (object *)self;
    const dd_graph *g = o->graph;
    PyObject *inputs;
    unsigned long long step = 0;
    dd_py_arrays in;
    dd_status status;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "O|K", names, &inputs, &step) ||
        dd_py_arrays_take(&in, inputs, g->n_inputs, g->inputs, o->types, o->names, false) < 0)
        return NULL;
    if (begin(o) < 0) {
        dd_py_arrays_clear(&in);
        return NULL;
    }
    DD_PY_CALL(status, dd_interpreter_forward(o->interpreter, in.arrays, step));
    end(o);
    dd_py_arrays_clear(&in);
    if (status != DD_OK)
        return dd_py_raise(status);
    PyObject *list = PyList_New((Py_ssize_t)g->n_outputs);
    for (size_t i = 0; list && i < g->n_outputs; i++) {
        PyObject *array = value_array(o, g->outputs[i]);
        if (!array || PyList_SetItem(list, (Py_ssize_t)i, array) < 0)
            Py_CLEAR(list);
    }
    return list;
}

/* backward(seeds, gradient) -> {"d:<input>": array} */
static PyObject *interpreter_backward(PyObject *self, PyObject *args) {
    object *o = (object *)self;
    const dd_graph *g = o->graph;
    PyObject *seeds, *flat;
    dd_py_arrays in;
    dd_status status;
    if (!PyArg_ParseTuple(args, "OO", &seeds, &flat))
        return NULL;
    PyArrayObject *gradient = dd_py_gradient(flat, store_of(o), "backward");
    if (!gradient)
        return NULL;
    if (dd_py_arrays_take(&in, seeds, g->n_outputs, g->outputs, o->types, g->output_names, true) <
        0) {
        Py_DECREF((PyObject *)gradient);
        return NULL;
    }
    if (begin(o) < 0) {
        Py_DECREF((PyObject *)gradient);
        dd_py_arrays_clear(&in);
        return NULL;
    }
    DD_PY_CALL(status, dd_interpreter_backward(o->interpreter, in.arrays, PyArray_DATA(gradient)));
    end(o);
    Py_DECREF((PyObject *)gradient);
    dd_py_arrays_clear(&in);
    if (status != DD_OK)
        return dd_py_raise(status);
    PyObject *dict = PyDict_New(); /* what the backward alone makes: gradients of inputs */
    for (size_t i = 0; dict && i < g->n_outputs; i++) {
        PyObject *array = g->seeds[i] < 0 ? value_array(o, g->outputs[i]) : Py_NewRef(Py_None);
        if (!array ||
            (g->seeds[i] < 0 && PyDict_SetItemString(dict, g->output_names[i], array) < 0))
            Py_CLEAR(dict);
        Py_XDECREF(array);
    }
    return dict;
}

/* value(id): any value of the last run. */
static PyObject *interpreter_value(PyObject *self, PyObject *args) {
    int value;
    if (!PyArg_ParseTuple(args, "i", &value))
        return NULL;
    if (value < 0 || (size_t)value >= ((object *)self)->graph->n_values) {
        PyErr_Format(PyExc_IndexError, "interpreter: value %d of %zu", value,
                     ((object *)self)->graph->n_values);
        return NULL;
    }
    return value_array((object *)self, value);
}

static PyMethodDef interpreter_methods[] = {
    {"forward", (PyCFunction)(void (*)(void))interpreter_forward, METH_VARARGS | METH_KEYWORDS,
     NULL},
    {"backward", interpreter_backward, METH_VARARGS, NULL},
    {"value", interpreter_value, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot interpreter_slots[] = {
    {Py_tp_doc, "Runs a graph in plain C, one operator at a time: the oracle of tests."},
    {Py_tp_new, interpreter_new},
    {Py_tp_dealloc, interpreter_dealloc},
    {Py_tp_methods, interpreter_methods},
    {0, NULL},
};

static PyType_Spec interpreter_spec = {
    .name = "deepseek_det._core.Interpreter",
    .basicsize = sizeof(object),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = interpreter_slots,
};

int dd_py_run_init(PyObject *module) {
    interpreter_type = dd_py_add_type(module, &interpreter_spec);
    return interpreter_type ? dd_py_plan_init(module) : -1;
}
