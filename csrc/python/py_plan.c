/* The binding of plans: `Plan`, and the `Arena` that the plans of a model share.
 *
 * The arena is a model's one mutex: a run holds its lock, waiting without the GIL. A backward needs
 * what its forward left in the arena, so the arena remembers which plan ran last. */
#include "python/py_run.h"

#include <pythread.h>

#include "base/memory.h"
#include "graph/plan.h"

/* ---- Arena --------------------------------------------------------------------------------- */

typedef struct arena {
    PyObject_HEAD void *data;
    size_t bytes;
    PyThread_type_lock lock;
    unsigned long holder; /* the thread that holds the lock; 0: none */
    uint64_t runs;        /* goes up with each forward: a plan knows its own */
} arena;

static PyTypeObject *arena_type;

/* Arena(): empty until a plan runs. */
static PyObject *arena_new(PyTypeObject *type, PyObject *args, PyObject *keywords) {
    static char *names[] = {NULL};
    (void)type;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "", names))
        return NULL;
    allocfunc make = (allocfunc)PyType_GetSlot(arena_type, Py_tp_alloc);
    arena *a = (arena *)make(arena_type, 0);
    if (a && !(a->lock = PyThread_allocate_lock())) {
        Py_DECREF((PyObject *)a);
        return PyErr_NoMemory();
    }
    return (PyObject *)a;
}

static void arena_dealloc(PyObject *self) {
    arena *a = (arena *)self;
    dd_free(a->data);
    if (a->lock)
        PyThread_free_lock(a->lock);
    dd_py_free_object(self);
}

/* Takes the lock. -1 with an exception where this thread holds it already: a signal handler that
 * runs the model during a run of it would wait for ever. */
static int arena_lock(arena *a) {
    if (a->holder == PyThread_get_thread_ident()) {
        PyErr_SetString(PyExc_RuntimeError, "plan: a run of the same model is under way");
        return -1;
    }
    if (!PyThread_acquire_lock(a->lock, NOWAIT_LOCK)) {
        PyThreadState *state = PyEval_SaveThread();
        (void)PyThread_acquire_lock(a->lock, WAIT_LOCK);
        PyEval_RestoreThread(state);
    }
    a->holder = PyThread_get_thread_ident();
    return 0;
}

static void arena_unlock(arena *a) {
    a->holder = 0;
    PyThread_release_lock(a->lock);
}

/* Room for `bytes`; the content does not survive growth. */
static dd_status arena_grow(arena *a, size_t bytes) {
    void *data;
    if (bytes <= a->bytes)
        return DD_OK;
    dd_free(a->data); /* first: both at once would double the peak */
    a->data = NULL;
    a->bytes = 0;
    DD_TRY(dd_alloc(bytes, &data));
    a->data = data;
    a->bytes = bytes;
    return DD_OK;
}

static PyObject *arena_bytes(PyObject *self, void *closure) {
    (void)closure;
    return PyLong_FromSize_t(((arena *)self)->bytes);
}

static PyGetSetDef arena_getset[] = {
    {"bytes", arena_bytes, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot arena_slots[] = {
    {Py_tp_doc, "Memory for activations, shared by all plans of a model; it grows as needed."},
    {Py_tp_new, arena_new},
    {Py_tp_dealloc, arena_dealloc},
    {Py_tp_getset, arena_getset},
    {0, NULL},
};

static PyType_Spec arena_spec = {
    .name = "deepseek_det._core.Arena",
    .basicsize = sizeof(arena),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = arena_slots,
};

/* ---- Plan ---------------------------------------------------------------------------------- */

typedef struct object {
    PyObject_HEAD PyObject *store, *arena;
    dd_graph *graph; /* a copy, for names and checks */
    dd_plan *plan;
    dd_type *types; /* of all values */
    char **names;   /* of the inputs */
    uint64_t seed, step;
    uint64_t run;                 /* the arena's number of this plan's last forward */
    dd_py_arrays inputs, outputs; /* of the last forward: the backward reads them in place */
    dd_py_arrays spare;           /* outputs of the one before, to be used again */
} object;

static PyTypeObject *plan_type;

/* The C store that the runs read. */
static dd_store *store_of(const object *self) {
    return ((dd_py_store *)self->store)->store;
}

static void plan_dealloc(PyObject *self) {
    object *o = (object *)self;
    dd_plan_destroy(o->plan);
    dd_graph_destroy(o->graph);
    dd_free(o->types);
    dd_free(o->names);
    dd_py_arrays_clear(&o->inputs);
    dd_py_arrays_clear(&o->outputs);
    dd_py_arrays_clear(&o->spare);
    Py_XDECREF(o->store);
    Py_XDECREF(o->arena);
    dd_py_free_object(self);
}

/* The C parts; dealloc frees what is there when one fails. */
static dd_status create(object *o, const dd_graph *graph, const dd_type *inputs,
                        const dd_plan_options *options) {
    DD_TRY(dd_graph_copy(graph, &o->graph));
    DD_TRY(dd_alloc_array(o->graph->n_values, sizeof *o->types, &o->types));
    DD_TRY(dd_graph_infer(o->graph, store_of(o), inputs, o->types));
    return dd_plan_create(o->graph, store_of(o), inputs, options, &o->plan);
}

/* Plan(graph, store, inputs, without_patterns=0, strip_rows=0, arena=None, seed=0, bf16=False) */
static PyObject *plan_new(PyTypeObject *type, PyObject *args, PyObject *keywords) {
    static char *names[] = {"graph", "store", "inputs", "without_patterns", "strip_rows", "arena",
                            "seed",  "bf16",  NULL};
    PyObject *graph, *store, *shapes, *given = Py_None;
    unsigned long long without = 0, seed = 0;
    dd_plan_options options = {0};
    dd_type *inputs;
    int bf16 = 0;
    (void)type;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "O!O!O|KiOKp", names, dd_py_graph_type, &graph,
                                     dd_py_store_type, &store, &shapes, &without,
                                     &options.strip_rows, &given, &seed, &bf16))
        return NULL;
    if (given != Py_None && !PyObject_TypeCheck(given, arena_type)) {
        PyErr_SetString(PyExc_TypeError, "plan: arena is an Arena or None");
        return NULL;
    }
    if (dd_py_input_types(((dd_py_graph *)graph)->graph, shapes, &inputs) < 0)
        return NULL;
    options.without_patterns = without;
    options.bf16 = bf16 != 0;
    allocfunc make = (allocfunc)PyType_GetSlot(plan_type, Py_tp_alloc);
    object *o = (object *)make(plan_type, 0);
    PyObject *own =
        given == Py_None ? PyObject_CallNoArgs((PyObject *)arena_type) : Py_NewRef(given);
    if (!o || !own) {
        Py_XDECREF((PyObject *)o);
        Py_XDECREF(own);
        dd_free(inputs);
        return NULL;
    }
    o->store = Py_NewRef(store);
    o->arena = own;
    o->seed = seed;
    dd_status status = create(o, ((dd_py_graph *)graph)->graph, inputs, &options);
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

/* The arrays of `given`; outputs that it does not have stay NULL. */
static int take_outputs(object *o, PyObject *given, dd_py_arrays *out) {
    const dd_graph *g = o->graph;
    if (dd_py_arrays_make(out, g->n_outputs) < 0)
        return -1;
    if (given == Py_None)
        return 0;
    PyObject *tuple = PySequence_Tuple(given);
    if (tuple && PyTuple_Size(tuple) != (Py_ssize_t)g->n_outputs)
        PyErr_Format(PyExc_ValueError, "run: out has %zd arrays, %zu are needed",
                     PyTuple_Size(tuple), g->n_outputs);
    for (size_t i = 0; tuple && i < g->n_outputs && !PyErr_Occurred(); i++) {
        dd_type t = dd_plan_output_type(o->plan, (int)i);
        PyObject *item = PyTuple_GetItem(tuple, (Py_ssize_t)i);
        if (item == Py_None)
            continue;
        PyArrayObject *a = dd_py_array_inplace(item, dd_py_typenum(t.dtype), g->output_names[i]);
        if (!a)
            break;
        out->objects[i] = (PyObject *)a;
        out->arrays[i] = dd_array_dense(PyArray_DATA(a), &t);
        bool fits = PyArray_NDIM(a) == t.rank;
        for (int k = 0; fits && k < t.rank; k++)
            fits = PyArray_DIM(a, k) == (npy_intp)t.dims[k];
        if (!fits)
            PyErr_Format(PyExc_ValueError, "'%s': out has another shape", g->output_names[i]);
    }
    Py_XDECREF(tuple);
    if (!PyErr_Occurred())
        return 0;
    dd_py_arrays_clear(out);
    return -1;
}

/* Moves the i-th array out of `from` where nobody else holds it; NULL elsewhere. */
static PyObject *recycle(dd_py_arrays *from, size_t i) {
    PyObject *array = from->objects ? from->objects[i] : NULL;
    if (!array || Py_REFCNT(array) != 1 ||
        !PyArray_CHKFLAGS((PyArrayObject *)array, NPY_ARRAY_OWNDATA | NPY_ARRAY_CARRAY))
        return NULL;
    from->objects[i] = NULL;
    return array;
}

/* Arrays for the outputs that were not given: those of the last two forwards that the caller holds
 * no more, since their pages are there already (`out = forward(x)` in a loop holds one set), or new
 * ones. Only under the arena's lock: a run in another thread may be writing them before. */
static int fill_outputs(object *o, dd_py_arrays *out) {
    for (size_t i = 0; i < out->n; i++) {
        dd_type t = dd_plan_output_type(o->plan, (int)i);
        if (out->objects[i])
            continue;
        out->objects[i] = recycle(&o->outputs, i);
        if (!out->objects[i])
            out->objects[i] = recycle(&o->spare, i);
        if (!out->objects[i])
            out->objects[i] = (PyObject *)dd_py_new_of(&t);
        if (!out->objects[i])
            return -1;
        out->arrays[i] = dd_array_dense(PyArray_DATA((PyArrayObject *)out->objects[i]), &t);
    }
    return 0;
}

/* The last forward's arrays in the arena as it is now; only under the arena's lock. */
static dd_binding binding_of(object *o) {
    return (dd_binding){.store = store_of(o),
                        .arena = ((arena *)o->arena)->data,
                        .inputs = o->inputs.arrays,
                        .outputs = o->outputs.arrays,
                        .seed = o->seed,
                        .step = o->step};
}

/* forward(inputs, step=0, out=None) -> [arrays]. The arrays are kept until the next forward, for
 * the backward; the old ones are let go after the lock, since that may run any code. */
static PyObject *plan_forward(PyObject *self, PyObject *args, PyObject *keywords) {
    static char *names[] = {"inputs", "step", "out", NULL};
    object *o = (object *)self;
    const dd_graph *g = o->graph;
    arena *a = (arena *)o->arena;
    PyObject *inputs, *given = Py_None;
    unsigned long long step = 0;
    dd_py_arrays in, out;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "O|KO", names, &inputs, &step, &given) ||
        dd_py_arrays_take(&in, inputs, g->n_inputs, g->inputs, o->types, o->names, false) < 0)
        return NULL;
    if (take_outputs(o, given, &out) < 0) {
        dd_py_arrays_clear(&in);
        return NULL;
    }
    if (arena_lock(a) < 0) {
        dd_py_arrays_clear(&in);
        dd_py_arrays_clear(&out);
        return NULL;
    }
    o->run = 0; /* until it has succeeded there is nothing to go back from */
    if (fill_outputs(o, &out) < 0) {
        arena_unlock(a);
        dd_py_arrays_clear(&in);
        dd_py_arrays_clear(&out);
        return NULL;
    }
    dd_py_arrays old_in = o->inputs, old_spare = o->spare;
    o->inputs = in;
    o->spare = o->outputs;
    o->outputs = out;
    o->step = step;
    a->runs++;
    ((dd_py_store *)o->store)->pins++;
    dd_status status = arena_grow(a, dd_plan_arena_bytes(o->plan));
    dd_binding b = binding_of(o);
    if (status == DD_OK)
        DD_PY_CALL(status, dd_plan_forward(o->plan, &b));
    ((dd_py_store *)o->store)->pins--;
    if (status == DD_OK)
        o->run = a->runs;
    PyObject *list = status == DD_OK ? PyList_New((Py_ssize_t)g->n_outputs) : NULL;
    for (size_t i = 0; list && i < g->n_outputs; i++)
        if (PyList_SetItem(list, (Py_ssize_t)i, Py_NewRef(o->outputs.objects[i])) < 0)
            Py_CLEAR(list);
    arena_unlock(a);
    dd_py_arrays_clear(&old_in);
    dd_py_arrays_clear(&old_spare);
    return status == DD_OK ? list : dd_py_raise(status);
}

/* Whether the arena still holds this plan's forward; call it with the lock. */
static bool holds_forward(const object *o) {
    return o->run && o->run == ((arena *)o->arena)->runs;
}

/* With the lock held. */
static dd_status run_backward(object *o, const dd_array *seeds, float *gradient) {
    dd_status status;
    if (!o->graph->training)
        return dd_fail(DD_ESTATE, "plan: backward needs the plan of a training graph");
    if (!holds_forward(o))
        return dd_fail(DD_ESTATE, "plan: backward needs a forward of the same plan just before it");
    dd_binding b = binding_of(o);
    b.seeds = seeds;
    b.gradient = gradient;
    ((dd_py_store *)o->store)->pins++;
    DD_PY_CALL(status, dd_plan_backward(o->plan, &b));
    ((dd_py_store *)o->store)->pins--;
    return status;
}

/* backward(seeds, gradient) -> {"d:<input>": array} */
static PyObject *plan_backward(PyObject *self, PyObject *args) {
    object *o = (object *)self;
    const dd_graph *g = o->graph;
    PyObject *seeds, *flat, *dict = NULL;
    dd_py_arrays in;
    if (!PyArg_ParseTuple(args, "OO", &seeds, &flat))
        return NULL;
    PyArrayObject *gradient = dd_py_gradient(flat, store_of(o), "backward");
    if (!gradient)
        return NULL;
    if (dd_py_arrays_take(&in, seeds, g->n_outputs, g->outputs, o->types, g->output_names, true) ==
        0) {
        if (arena_lock((arena *)o->arena) == 0) {
            dd_status status = run_backward(o, in.arrays, PyArray_DATA(gradient));
            dict = status == DD_OK ? PyDict_New() : dd_py_raise(status);
            for (size_t i = 0; dict && i < g->n_outputs; i++)
                if (g->seeds[i] < 0 &&
                    PyDict_SetItemString(dict, g->output_names[i], o->outputs.objects[i]) < 0)
                    Py_CLEAR(dict);
            arena_unlock((arena *)o->arena);
        }
        dd_py_arrays_clear(&in);
    }
    Py_DECREF((PyObject *)gradient);
    return dict;
}

/* The numbers of the nodes that a step covers. */
static PyObject *nodes_of(const dd_step_report *r) {
    PyObject *list = PyList_New(r->n_nodes);
    for (int i = 0; list && i < r->n_nodes; i++) {
        PyObject *number = PyLong_FromLong(r->nodes[i]);
        if (!number || PyList_SetItem(list, i, number) < 0)
            Py_CLEAR(list);
    }
    return list;
}

/* The shape of what a step makes; None where it stores nothing. */
static PyObject *shape_of(const dd_step_report *r) {
    if (r->type.rank < 0)
        return Py_NewRef(Py_None);
    PyObject *shape = PyTuple_New(r->type.rank);
    for (int i = 0; shape && i < r->type.rank; i++) {
        PyObject *size = PyLong_FromLongLong((long long)r->type.dims[i]);
        if (!size || PyTuple_SetItem(shape, i, size) < 0)
            Py_CLEAR(shape);
    }
    return shape;
}

static PyObject *plan_steps(PyObject *self, PyObject *nothing) {
    (void)nothing;
    object *o = (object *)self;
    PyObject *list = PyList_New(0);
    for (int i = 0; list && i < dd_plan_steps(o->plan); i++) {
        dd_step_report r = dd_plan_step(o->plan, i);
        PyObject *nodes = nodes_of(&r), *shape = nodes ? shape_of(&r) : NULL;
        if (!shape)
            Py_CLEAR(nodes);
        PyObject *item =
            shape ? Py_BuildValue("{s:s,s:s,s:N,s:N,s:d,s:L,s:L,s:O}", "pattern", r.pattern, "name",
                                  r.name, "nodes", nodes, "shape", shape, "milliseconds",
                                  r.milliseconds, "macs", (long long)r.macs, "bytes",
                                  (long long)r.bytes, "backward", r.backward ? Py_True : Py_False)
                  : NULL;
        if (!item || PyList_Append(list, item) < 0)
            Py_CLEAR(list);
        Py_XDECREF(item);
    }
    return list;
}

static PyObject *plan_profile(PyObject *self, PyObject *on) {
    int wanted = PyObject_IsTrue(on);
    if (wanted < 0)
        return NULL;
    dd_plan_profile(((object *)self)->plan, wanted != 0);
    Py_RETURN_NONE;
}

/* The first value of the last run that holds a non-finite number, or None. */
static PyObject *plan_first_nonfinite(PyObject *self, PyObject *nothing) {
    (void)nothing;
    object *o = (object *)self;
    PyObject *result = NULL;
    if (arena_lock((arena *)o->arena) < 0)
        return NULL;
    if (!holds_forward(o)) {
        (void)dd_py_raise(dd_fail(DD_ESTATE, "plan: first_nonfinite needs a forward just before"));
    } else {
        dd_binding b = binding_of(o);
        const char *name = dd_plan_first_nonfinite(o->plan, &b);
        result = name ? PyUnicode_FromString(name) : Py_NewRef(Py_None);
    }
    arena_unlock((arena *)o->arena);
    return result;
}

static PyObject *plan_arena_bytes(PyObject *self, void *closure) {
    (void)closure;
    return PyLong_FromSize_t(dd_plan_arena_bytes(((object *)self)->plan));
}

static PyObject *plan_arena(PyObject *self, void *closure) {
    (void)closure;
    return Py_NewRef(((object *)self)->arena);
}

static PyMethodDef plan_methods[] = {
    {"forward", (PyCFunction)(void (*)(void))plan_forward, METH_VARARGS | METH_KEYWORDS, NULL},
    {"backward", plan_backward, METH_VARARGS, NULL},
    {"steps", plan_steps, METH_NOARGS, NULL},
    {"profile", plan_profile, METH_O, NULL},
    {"first_nonfinite", plan_first_nonfinite, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef plan_getset[] = {
    {"arena_bytes", plan_arena_bytes, NULL, NULL, NULL},
    {"arena", plan_arena, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot plan_slots[] = {
    {Py_tp_doc, "A graph planned for given input shapes: steps in an arena, run by all threads."},
    {Py_tp_new, plan_new},
    {Py_tp_dealloc, plan_dealloc},
    {Py_tp_methods, plan_methods},
    {Py_tp_getset, plan_getset},
    {0, NULL},
};

static PyType_Spec plan_spec = {
    .name = "deepseek_det._core.Plan",
    .basicsize = sizeof(object),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = plan_slots,
};

int dd_py_plan_init(PyObject *module) {
    arena_type = dd_py_add_type(module, &arena_spec);
    plan_type = arena_type ? dd_py_add_type(module, &plan_spec) : NULL;
    return plan_type ? 0 : -1;
}
