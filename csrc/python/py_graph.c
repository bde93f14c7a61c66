/* The binding of csrc/graph: `Graph`, and the area's functions. */
#include "python/py_graph.h"

#include <limits.h>
#include <string.h>

#include "base/memory.h"
#include "graph/autodiff.h"
#include "graph/rewrite.h"
#include "python/py_params.h"

PyTypeObject *dd_py_graph_type;

/* The C graph of a Graph. */
static dd_graph *graph_of(PyObject *self) {
    return ((dd_py_graph *)self)->graph;
}

/* ---- building ------------------------------------------------------------------------------ */

/* The core's names of dtypes, the same as in files. -1 with ValueError. */
static int as_dtype(const char *name, dd_dtype *dtype) {
    for (int d = 0; d < DD_DTYPES; d++)
        if (strcmp(dd_dtype_name((dd_dtype)d), name) == 0) {
            *dtype = (dd_dtype)d;
            return 0;
        }
    PyErr_Format(PyExc_ValueError,
                 "graph: dtype '%s' came, f32, f16, bf16, u8, s8 or s32 is needed", name);
    return -1;
}

/* input(name, dtype, shape) -> value; -1 is a free dimension. */
static PyObject *graph_input(PyObject *self, PyObject *args) {
    const char *name, *dtype;
    PyObject *shape;
    dd_type type = {0};
    int id;
    if (!PyArg_ParseTuple(args, "ssO", &name, &dtype, &shape) || as_dtype(dtype, &type.dtype) < 0 ||
        dd_py_dims(shape, &type, name) < 0)
        return NULL;
    dd_status status = dd_graph_input(graph_of(self), name, &type, &id);
    return status == DD_OK ? PyLong_FromLong(id) : dd_py_raise(status);
}

/* entry(store, name) -> value */
static PyObject *graph_entry(PyObject *self, PyObject *args) {
    const char *name;
    PyObject *store;
    int id;
    if (!PyArg_ParseTuple(args, "O!s", dd_py_store_type, &store, &name))
        return NULL;
    const dd_store *s = ((dd_py_store *)store)->store;
    int entry = dd_store_find(s, name);
    if (entry < 0) {
        PyErr_Format(PyExc_KeyError, "there is no entry '%s'", name);
        return NULL;
    }
    dd_status status = dd_graph_entry(graph_of(self), s, entry, &id);
    return status == DD_OK ? PyLong_FromLong(id) : dd_py_raise(status);
}

/* Value ids from a sequence of int or None. -1 with an exception. */
static int as_values(PyObject *sequence, const char *who, int *in) {
    PyObject *tuple = PySequence_Tuple(sequence);
    if (!tuple)
        return -1;
    Py_ssize_t n = PyTuple_Size(tuple);
    if (n > DD_MANY) {
        PyErr_Format(PyExc_ValueError, "%s: %zd inputs, at most %d are possible", who, n, DD_MANY);
        n = -1;
    }
    for (Py_ssize_t i = 0; i < n; i++) {
        PyObject *item = PyTuple_GetItem(tuple, i);
        Py_ssize_t id = item == Py_None ? -1 : PyNumber_AsSsize_t(item, PyExc_ValueError);
        if (id == -1 && PyErr_Occurred()) {
            n = -1;
        } else if (id < -1 || id > INT_MAX) {
            PyErr_Format(PyExc_ValueError, "%s: there is no value %zd", who, id);
            n = -1;
        } else {
            in[i] = (int)id;
        }
    }
    Py_DECREF(tuple);
    return (int)n;
}

static PyObject *int_list(const int *items, size_t n) {
    PyObject *list = PyList_New((Py_ssize_t)n);
    for (size_t i = 0; list && i < n; i++) {
        PyObject *item = PyLong_FromLong(items[i]);
        if (!item || PyList_SetItem(list, (Py_ssize_t)i, item) < 0)
            Py_CLEAR(list);
    }
    return list;
}

/* node(op, name, inputs, params=None, n_outputs=0) -> [values]. The attributes are built in memory
 * of their own; the graph copies them. */
static PyObject *graph_node(PyObject *self, PyObject *args, PyObject *keywords) {
    static char *names[] = {"op", "name", "inputs", "params", "n_outputs", NULL};
    const char *op_name, *name;
    PyObject *inputs, *dict = Py_None;
    int n_outputs = 0, in[DD_MANY], out[DD_MANY], n_out;
    char *params = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "ssO|Oi", names, &op_name, &name, &inputs,
                                     &dict, &n_outputs))
        return NULL;
    const dd_op *op = dd_op_find(op_name);
    if (!op) {
        PyErr_Format(PyExc_ValueError, "graph: there is no operator '%s'", op_name);
        return NULL;
    }
    int n_in = as_values(inputs, name, in);
    if (n_in < 0)
        return NULL;
    dd_status status = dd_alloc_array(1, op->params_size, &params);
    if (status != DD_OK)
        return dd_py_raise(status);
    if (dd_py_set_params(op, name, dict, params) < 0) {
        dd_free(params);
        return NULL;
    }
    status = dd_graph_node(graph_of(self), op, name, params, in, n_in, n_outputs, out, &n_out);
    dd_free(params);
    return status == DD_OK ? int_list(out, (size_t)n_out) : dd_py_raise(status);
}

/* output(name, value) */
static PyObject *graph_output(PyObject *self, PyObject *args) {
    const char *name;
    int value;
    if (!PyArg_ParseTuple(args, "si", &name, &value))
        return NULL;
    dd_status status = dd_graph_output(graph_of(self), name, value);
    if (status != DD_OK)
        return dd_py_raise(status);
    Py_RETURN_NONE;
}

static PyObject *graph_prune_dead(PyObject *self, PyObject *nothing) {
    (void)nothing;
    dd_status status = dd_graph_prune_dead(graph_of(self));
    if (status != DD_OK)
        return dd_py_raise(status);
    Py_RETURN_NONE;
}

/* ---- types --------------------------------------------------------------------------------- */

/* (dtype, shape) or shape. */
static int as_input_type(PyObject *item, const dd_value *v, dd_type *type) {
    const char *dtype;
    PyObject *shape;
    type->dtype = v->type.dtype;
    PyObject *first =
        PySequence_Check(item) && PySequence_Size(item) == 2 ? PySequence_GetItem(item, 0) : NULL;
    bool pair = first && PyUnicode_Check(first);
    Py_XDECREF(first);
    PyErr_Clear();
    if (!pair)
        return dd_py_dims(item, type, v->name);
    PyObject *tuple = PySequence_Tuple(item);
    int status = -1;
    if (tuple && PyArg_ParseTuple(tuple, "sO", &dtype, &shape) &&
        as_dtype(dtype, &type->dtype) == 0)
        status = dd_py_dims(shape, type, v->name);
    Py_XDECREF(tuple);
    return status;
}

int dd_py_input_types(const dd_graph *g, PyObject *inputs, dd_type **types) {
    dd_type *made;
    PyObject *tuple = PySequence_Tuple(inputs);
    if (!tuple)
        return -1;
    if (PyTuple_Size(tuple) != (Py_ssize_t)g->n_inputs) {
        PyErr_Format(PyExc_ValueError, "graph: %zd input types came, %zu are needed",
                     PyTuple_Size(tuple), g->n_inputs);
        Py_DECREF(tuple);
        return -1;
    }
    dd_status status = dd_alloc_array(g->n_inputs, sizeof *made, &made);
    if (status != DD_OK) {
        Py_DECREF(tuple);
        (void)dd_py_raise(status);
        return -1;
    }
    for (size_t i = 0; i < g->n_inputs; i++)
        if (as_input_type(PyTuple_GetItem(tuple, (Py_ssize_t)i), &g->values[g->inputs[i]],
                          &made[i]) < 0) {
            dd_free(made);
            Py_DECREF(tuple);
            return -1;
        }
    Py_DECREF(tuple);
    *types = made;
    return 0;
}

/* {"values": [(dtype, shape) or None], "outputs": {name: (dtype, shape)}, "macs": int} */
static PyObject *inferred(const dd_graph *g, const dd_type *types) {
    PyObject *values = PyList_New((Py_ssize_t)g->n_values), *outputs = PyDict_New();
    for (size_t i = 0; values && i < g->n_values; i++) {
        PyObject *item = types[i].rank < 0 ? Py_NewRef(Py_None) : dd_py_type(&types[i]);
        if (!item || PyList_SetItem(values, (Py_ssize_t)i, item) < 0)
            Py_CLEAR(values);
    }
    for (size_t i = 0; outputs && i < g->n_outputs; i++) {
        PyObject *item = dd_py_type(&types[g->outputs[i]]);
        if (!item || PyDict_SetItemString(outputs, g->output_names[i], item) < 0)
            Py_CLEAR(outputs);
        Py_XDECREF(item);
    }
    if (!values || !outputs) {
        Py_XDECREF(values);
        Py_XDECREF(outputs);
        return NULL;
    }
    return Py_BuildValue("{s:N,s:N,s:L}", "values", values, "outputs", outputs, "macs",
                         (long long)dd_graph_macs(g, types));
}

/* Parses (store, input types) and infers; `types` is the caller's to dd_free. NULL with an
 * exception, else the store. */
static const dd_store *infer_types(PyObject *self, PyObject *args, dd_type **types) {
    PyObject *store, *shapes;
    dd_type *inputs = NULL, *made = NULL;
    const dd_graph *g = graph_of(self);
    if (!PyArg_ParseTuple(args, "O!O", dd_py_store_type, &store, &shapes) ||
        dd_py_input_types(g, shapes, &inputs) < 0)
        return NULL;
    const dd_store *s = ((dd_py_store *)store)->store;
    dd_status status = dd_alloc_array(g->n_values, sizeof *made, &made);
    if (status == DD_OK)
        status = dd_graph_infer(g, s, inputs, made);
    dd_free(inputs);
    if (status != DD_OK) {
        dd_free(made);
        (void)dd_py_raise(status);
        return NULL;
    }
    *types = made;
    return s;
}

static PyObject *graph_infer(PyObject *self, PyObject *args) {
    dd_type *types;
    if (!infer_types(self, args, &types))
        return NULL;
    PyObject *result = inferred(graph_of(self), types);
    dd_free(types);
    return result;
}

static PyObject *graph_macs(PyObject *self, PyObject *args) {
    dd_type *types;
    if (!infer_types(self, args, &types))
        return NULL;
    long long macs = dd_graph_macs(graph_of(self), types);
    dd_free(types);
    return PyLong_FromLongLong(macs);
}

/* One row a node. A parameter counts where it is used first. */
static PyObject *layer_dict(const dd_graph *g, const dd_store *s, const dd_type *types, size_t i,
                            char *counted) {
    const dd_node *n = &g->nodes[i];
    dd_type in[3 * DD_MANY + DD_MAX_SAVED];
    long long params = 0;
    for (int k = 0; k < n->n_in; k++) {
        const dd_value *v = n->in[k] < 0 ? NULL : &g->values[n->in[k]];
        if (!v || v->kind != DD_VALUE_ENTRY || counted[v->entry])
            continue;
        counted[v->entry] = 1;
        params += s->entries[v->entry].role == DD_STATE ? 0 : s->entries[v->entry].count;
    }
    dd_node_types(n, types, in);
    long long macs = n->op->macs && !n->backward ? n->op->macs(n, in) : 0;
    PyObject *shape = n->out[0] < 0 ? PyTuple_New(0) : dd_py_shape(&types[n->out[0]]);
    return shape ? Py_BuildValue("{s:s,s:s,s:N,s:L,s:L}", "name", n->name, "op", n->op->name,
                                 "shape", shape, "params", params, "macs", macs)
                 : NULL;
}

/* layers(store, inputs): the table that `info` prints. */
static PyObject *graph_layers(PyObject *self, PyObject *args) {
    dd_type *types;
    const dd_graph *g = graph_of(self);
    const dd_store *s = infer_types(self, args, &types);
    if (!s)
        return NULL;
    char *counted = PyMem_Calloc(s->n, 1);
    PyObject *list = counted ? PyList_New(0) : PyErr_NoMemory();
    for (size_t i = 0; list && i < g->n_nodes; i++) {
        PyObject *item = layer_dict(g, s, types, i, counted);
        if (!item || PyList_Append(list, item) < 0)
            Py_CLEAR(list);
        Py_XDECREF(item);
    }
    PyMem_Free(counted);
    dd_free(types);
    return list;
}

/* ---- looking at it ------------------------------------------------------------------------- */

/* One node for people and tests. */
static PyObject *node_dict(const dd_node *n, bool backward) {
    PyObject *in = int_list(n->in, (size_t)n->n_in), *out = int_list(n->out, (size_t)n->n_out);
    PyObject *params = dd_py_get_params(n->op, n->params);
    if (!in || !out || !params) {
        Py_XDECREF(in);
        Py_XDECREF(out);
        Py_XDECREF(params);
        return NULL;
    }
    return Py_BuildValue("{s:s,s:s,s:N,s:N,s:N,s:O,s:O,s:i}", "op", n->op->name, "name", n->name,
                         "inputs", in, "outputs", out, "params", params, "opaque",
                         n->backward ? Py_True : Py_False, "backward",
                         backward ? Py_True : Py_False, "n_saved", n->n_saved);
}

static PyObject *graph_nodes(PyObject *self, PyObject *nothing) {
    (void)nothing;
    const dd_graph *g = graph_of(self);
    PyObject *list = PyList_New(0);
    for (size_t i = 0; list && i < g->n_nodes; i++) {
        PyObject *item = node_dict(&g->nodes[i], i >= (size_t)g->n_forward);
        if (!item || PyList_Append(list, item) < 0)
            Py_CLEAR(list);
        Py_XDECREF(item);
    }
    return list;
}

static PyObject *graph_values(PyObject *self, PyObject *nothing) {
    static const char *const kinds[] = {"node", "input", "entry", "seed"};
    (void)nothing;
    const dd_graph *g = graph_of(self);
    PyObject *list = PyList_New(0);
    for (size_t i = 0; list && i < g->n_values; i++) {
        const dd_value *v = &g->values[i];
        PyObject *item =
            Py_BuildValue("{s:s,s:s,s:i,s:i,s:i}", "name", v->name, "kind", kinds[v->kind],
                          "producer", v->producer, "slot", v->slot, "entry", v->entry);
        if (!item || PyList_Append(list, item) < 0)
            Py_CLEAR(list);
        Py_XDECREF(item);
    }
    return list;
}

/* [(name, dtype, shape, value id)] */
static PyObject *graph_inputs(PyObject *self, void *closure) {
    (void)closure;
    const dd_graph *g = graph_of(self);
    PyObject *list = PyList_New(0);
    for (size_t i = 0; list && i < g->n_inputs; i++) {
        const dd_value *v = &g->values[g->inputs[i]];
        PyObject *shape = dd_py_shape(&v->type);
        PyObject *item = shape ? Py_BuildValue("(ssNi)", v->name, dd_dtype_name(v->type.dtype),
                                               shape, g->inputs[i])
                               : NULL;
        if (!item || PyList_Append(list, item) < 0)
            Py_CLEAR(list);
        Py_XDECREF(item);
    }
    return list;
}

/* [(name, value id)] */
static PyObject *graph_outputs(PyObject *self, void *closure) {
    (void)closure;
    const dd_graph *g = graph_of(self);
    PyObject *list = PyList_New(0);
    for (size_t i = 0; list && i < g->n_outputs; i++) {
        PyObject *item = Py_BuildValue("(si)", g->output_names[i], g->outputs[i]);
        if (!item || PyList_Append(list, item) < 0)
            Py_CLEAR(list);
        Py_XDECREF(item);
    }
    return list;
}

static PyObject *graph_output_names(PyObject *self, void *closure) {
    (void)closure;
    const dd_graph *g = graph_of(self);
    PyObject *list = PyList_New((Py_ssize_t)g->n_outputs);
    for (size_t i = 0; list && i < g->n_outputs; i++) {
        PyObject *name = PyUnicode_FromString(g->output_names[i]);
        if (!name || PyList_SetItem(list, (Py_ssize_t)i, name) < 0)
            Py_CLEAR(list);
    }
    return list;
}

/* [(value id, entry index)] */
static PyObject *graph_gradients(PyObject *self, void *closure) {
    (void)closure;
    const dd_graph *g = graph_of(self);
    PyObject *list = PyList_New(0);
    for (size_t i = 0; list && i < g->n_gradients; i++) {
        PyObject *item = Py_BuildValue("(ii)", g->gradients[i].value, g->gradients[i].entry);
        if (!item || PyList_Append(list, item) < 0)
            Py_CLEAR(list);
        Py_XDECREF(item);
    }
    return list;
}

static PyObject *graph_training(PyObject *self, void *closure) {
    (void)closure;
    return PyBool_FromLong(graph_of(self)->training);
}

/* ---- passes -------------------------------------------------------------------------------- */

static PyObject *graph_to_json(PyObject *self, PyObject *args) {
    PyObject *store;
    char *text;
    if (!PyArg_ParseTuple(args, "O!", dd_py_store_type, &store))
        return NULL;
    dd_status status = dd_graph_to_json(graph_of(self), ((dd_py_store *)store)->store, &text);
    if (status != DD_OK)
        return dd_py_raise(status);
    PyObject *result = PyUnicode_FromString(text);
    dd_free(text);
    return result;
}

/* from_json(text, store), static. The text is checked in every number and name. */
static PyObject *graph_from_json(PyObject *nothing, PyObject *args) {
    const char *text;
    Py_ssize_t length;
    PyObject *store;
    dd_graph *graph;
    (void)nothing;
    if (!PyArg_ParseTuple(args, "s#O!", &text, &length, dd_py_store_type, &store))
        return NULL;
    dd_status status =
        dd_graph_from_json(text, (size_t)length, ((dd_py_store *)store)->store, &graph);
    return status == DD_OK ? dd_py_graph_wrap(graph) : dd_py_raise(status);
}

static PyObject *graph_copy(PyObject *self, PyObject *nothing) {
    dd_graph *copy;
    (void)nothing;
    dd_status status = dd_graph_copy(graph_of(self), &copy);
    return status == DD_OK ? dd_py_graph_wrap(copy) : dd_py_raise(status);
}

static PyObject *graph_differentiate(PyObject *self, PyObject *args, PyObject *keywords) {
    static char *names[] = {"store", "inputs_too", NULL};
    PyObject *store;
    int inputs_too = 0;
    dd_graph *training;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "O!|p", names, dd_py_store_type, &store,
                                     &inputs_too))
        return NULL;
    dd_status status = dd_graph_differentiate(graph_of(self), ((dd_py_store *)store)->store,
                                              inputs_too != 0, &training);
    return status == DD_OK ? dd_py_graph_wrap(training) : dd_py_raise(status);
}

/* deploy(store) -> (graph, store), both new. */
static PyObject *graph_deploy(PyObject *self, PyObject *args) {
    PyObject *store;
    dd_graph *graph;
    dd_store *made;
    if (!PyArg_ParseTuple(args, "O!", dd_py_store_type, &store))
        return NULL;
    dd_status status =
        dd_graph_deploy(graph_of(self), ((dd_py_store *)store)->store, &graph, &made);
    if (status != DD_OK)
        return dd_py_raise(status);
    PyObject *g = dd_py_graph_wrap(graph), *s = dd_py_store_wrap(made);
    if (!g || !s) {
        Py_XDECREF(g);
        Py_XDECREF(s);
        return NULL;
    }
    return Py_BuildValue("(NN)", g, s);
}

/* ---- the type ------------------------------------------------------------------------------ */

PyObject *dd_py_graph_wrap(dd_graph *graph) {
    allocfunc make = (allocfunc)PyType_GetSlot(dd_py_graph_type, Py_tp_alloc);
    PyObject *self = make(dd_py_graph_type, 0);
    if (!self) {
        dd_graph_destroy(graph);
        return NULL;
    }
    ((dd_py_graph *)self)->graph = graph;
    return self;
}

static PyObject *graph_new(PyTypeObject *type, PyObject *args, PyObject *keywords) {
    static char *names[] = {NULL};
    dd_graph *graph;
    (void)type;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "", names))
        return NULL;
    dd_status status = dd_graph_create(&graph);
    return status == DD_OK ? dd_py_graph_wrap(graph) : dd_py_raise(status);
}

static void graph_dealloc(PyObject *self) {
    dd_graph_destroy(graph_of(self));
    dd_py_free_object(self);
}

static PyMethodDef graph_methods[] = {
    {"input", graph_input, METH_VARARGS, NULL},
    {"entry", graph_entry, METH_VARARGS, NULL},
    {"node", (PyCFunction)(void (*)(void))graph_node, METH_VARARGS | METH_KEYWORDS, NULL},
    {"output", graph_output, METH_VARARGS, NULL},
    {"prune_dead", graph_prune_dead, METH_NOARGS, NULL},
    {"infer", graph_infer, METH_VARARGS, NULL},
    {"macs", graph_macs, METH_VARARGS, NULL},
    {"layers", graph_layers, METH_VARARGS, NULL},
    {"nodes", graph_nodes, METH_NOARGS, NULL},
    {"values", graph_values, METH_NOARGS, NULL},
    {"to_json", graph_to_json, METH_VARARGS, NULL},
    {"from_json", graph_from_json, METH_VARARGS | METH_STATIC, NULL},
    {"copy", graph_copy, METH_NOARGS, NULL},
    {"differentiate", (PyCFunction)(void (*)(void))graph_differentiate,
     METH_VARARGS | METH_KEYWORDS, NULL},
    {"deploy", graph_deploy, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef graph_getset[] = {
    {"inputs", graph_inputs, NULL, NULL, NULL},
    {"outputs", graph_outputs, NULL, NULL, NULL},
    {"output_names", graph_output_names, NULL, NULL, NULL},
    {"gradients", graph_gradients, NULL, NULL, NULL},
    {"training", graph_training, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot graph_slots[] = {
    {Py_tp_doc, "Operators and values in topological order: the only description of a network."},
    {Py_tp_new, graph_new},
    {Py_tp_dealloc, graph_dealloc},
    {Py_tp_methods, graph_methods},
    {Py_tp_getset, graph_getset},
    {0, NULL},
};

static PyType_Spec graph_spec = {
    .name = "deepseek_det._core.Graph",
    .basicsize = sizeof(dd_py_graph),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = graph_slots,
};

/* ---- the area ------------------------------------------------------------------------------ */

PyMethodDef dd_py_graph_methods[] = {
    {"ops", dd_py_ops, METH_NOARGS, NULL},
    {"optim_apply", (PyCFunction)(void (*)(void))dd_py_optim_apply, METH_VARARGS | METH_KEYWORDS,
     NULL},
    {NULL, NULL, 0, NULL},
};

int dd_py_graph_init(PyObject *module);
int dd_py_graph_init(PyObject *module) {
    if (dd_py_store_init(module) < 0)
        return -1;
    dd_py_graph_type = dd_py_add_type(module, &graph_spec);
    return dd_py_graph_type ? dd_py_run_init(module) : -1;
}
