/* Planned equals interpreted on every sample of every operator: forward, gradients of inputs and of
 * parameters, and what the operator leaves in the store.
 *
 * Each sample is planned four ways: all its inputs are the graph's, or all but the first are
 * parameters (as in nets); with every step pattern and with none. Inference is compared too. The
 * bound is 1e-5 of an array's largest element; integers must be equal. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/random.h"
#include "check.h"
#include "graph/autodiff.h"
#include "graph/interpret.h"
#include "graph/plan.h"
#include "ops/params.h"

#define MAX_IN 16
#define BOUND 1e-5

static dd_stream stream;

typedef struct sample {
    const dd_op *op;
    int n_in, n_out;
    _Alignas(16) char params[1024];
    dd_type in[MAX_IN];
    void *data[MAX_IN]; /* NULL: absent */
    char name[96];
} sample;

typedef struct net {
    dd_store *store;
    dd_graph *graph;
    dd_type types[MAX_IN];
    dd_array inputs[MAX_IN];
    int n_inputs;
} net;

static void *must_alloc(size_t bytes) {
    void *p;
    if (dd_alloc(bytes, &p) != DD_OK)
        abort();
    memset(p, 0, bytes ? bytes : 1);
    return p;
}

static void must(dd_status status, const char *name) {
    if (status == DD_OK)
        return;
    fprintf(stderr, "%s: %s\n", name, dd_message());
    exit(1);
}

static size_t bytes_of(const dd_type *t) {
    return (size_t)dd_type_count(t) * dd_dtype_bytes(t->dtype);
}

/* ---- samples ------------------------------------------------------------------------------- */

static void fill(void *data, const dd_type *t, float low) {
    for (int64_t k = 0; k < dd_type_count(t); k++)
        if (t->dtype == DD_F32)
            ((float *)data)[k] = dd_stream_range(&stream, low, 2.0f);
        else if (t->dtype == DD_S32)
            ((int32_t *)data)[k] = (int32_t)dd_stream_below(&stream, 300) - 100;
        else
            ((uint8_t *)data)[k] = (uint8_t)dd_stream_below(&stream, 256);
}

static bool needs_positive(const sample *s) {
    const dd_unary_params *u = (const void *)s->params;
    const dd_binary_params *b = (const void *)s->params;
    if (s->op == &dd_op_unary || s->op == &dd_op_unary_dx)
        return u->kind == DD_LOG || u->kind == DD_SQRT;
    return s->op == &dd_op_binary && (b->kind == DD_POW || b->kind == DD_DIV);
}

/* Functions that need it get positive numbers everywhere; so does a variance. */
static bool make_sample(const dd_op *op, int index, sample *s) {
    *s = (sample){.op = op};
    dd_type out[DD_MANY];
    if (op->params_size > sizeof s->params)
        abort();
    dd_op_params_init(op, s->params);
    if (!op->sample(index, s->params, s->in, &s->n_in))
        return false;
    (void)snprintf(s->name, sizeof s->name, "%s[%d]", op->name, index);
    bool positive = needs_positive(s);
    for (int k = 0; k < s->n_in; k++) {
        if (s->in[k].rank < 0)
            continue;
        s->data[k] = must_alloc(bytes_of(&s->in[k]));
        fill(s->data[k], &s->in[k],
             positive || ((op->flags & DD_OP_STATE) && k == 4) ? 0.3f : -2.0f);
    }
    dd_node probe = {.op = op, .n_in = s->n_in, .params = s->params, .name = s->name};
    must(op->infer(&probe, s->in, out, &s->n_out), s->name);
    return true;
}

/* The sample as a graph of one node. Parameters keep operators with state as they must be. */
static void build(const sample *s, bool parameters, net *n) {
    int in[MAX_IN], out[DD_MANY], entry, n_out;
    char name[32];
    *n = (net){0};
    must(dd_store_create(&n->store), s->name);
    must(dd_graph_create(&n->graph), s->name);
    bool state = s->op->flags & DD_OP_STATE;
    for (int k = 0; k < s->n_in; k++) {
        in[k] = -1;
        if (!s->data[k])
            continue;
        (void)snprintf(name, sizeof name, "in%d", k);
        if (k > 0 && (parameters || state) && s->in[k].dtype == DD_F32) {
            bool trains = s->op->grad || s->op->backward;
            dd_role role = state && k >= 3 ? DD_STATE : trains ? DD_TRAINABLE : DD_CONSTANT;
            must(dd_store_add(n->store, name, role, &s->in[k], false, &entry), s->name);
            memcpy(dd_store_data(n->store, entry), s->data[k], bytes_of(&s->in[k]));
            must(dd_graph_entry(n->graph, n->store, entry, &in[k]), s->name);
        } else {
            must(dd_graph_input(n->graph, name, &s->in[k], &in[k]), s->name);
            n->types[n->n_inputs] = s->in[k];
            n->inputs[n->n_inputs++] = dd_array_dense(s->data[k], &s->in[k]);
        }
    }
    int asked = s->op->n_outputs == DD_MANY ? s->n_out : 0;
    must(dd_graph_node(n->graph, s->op, "node", s->params, in, s->n_in, asked, out, &n_out),
         s->name);
    for (int k = 0; k < n_out; k++) {
        (void)snprintf(name, sizeof name, "out%d", k);
        must(dd_graph_output(n->graph, name, out[k]), s->name);
    }
}

/* ---- comparison ---------------------------------------------------------------------------- */

static void compare(const char *name, const char *what, const dd_array *have,
                    const dd_array *want) {
    if (want->type.dtype != DD_F32) {
        CHECK(memcmp(have->data, want->data, bytes_of(&want->type)) == 0, "%s: %s", name, what);
        return;
    }
    double largest = 1e-6, worst = 0;
    for (int64_t k = 0; k < dd_type_count(&want->type); k++) {
        double w = (double)((float *)want->data)[k], h = (double)((float *)have->data)[k];
        bool same = h == w || (isnan(h) && isnan(w));
        largest = isfinite(w) ? fmax(largest, fabs(w)) : largest;
        worst = same ? worst : isfinite(w) && isfinite(h) ? fmax(worst, fabs(h - w)) : INFINITY;
    }
    CHECK(worst <= BOUND * largest, "%s: %s is off by %.2g of its largest", name, what,
          worst / largest);
}

typedef struct result {
    dd_array outputs[2 * DD_MANY]; /* owned; those of the backward among them */
    float *gradient;
} result;

static void free_result(result *r) {
    for (size_t i = 0; i < sizeof r->outputs / sizeof *r->outputs; i++)
        dd_free(r->outputs[i].data);
    dd_free(r->gradient);
}

static result interpret(const char *name, const dd_graph *g, dd_store *store, const net *n,
                        const dd_array *seeds) {
    result r = {.gradient = must_alloc(store->size * sizeof(float))};
    dd_interpreter *it;
    must(dd_interpreter_create(g, store, n->types, 7, &it), name);
    must(dd_interpreter_forward(it, n->inputs, 3), name);
    if (seeds)
        must(dd_interpreter_backward(it, seeds, r.gradient), name);
    for (size_t i = 0; i < g->n_outputs; i++) {
        dd_array value = dd_interpreter_value(it, g->outputs[i]);
        if (!value.data)
            continue;
        r.outputs[i] = dd_array_dense(must_alloc(bytes_of(&value.type)), &value.type);
        memcpy(r.outputs[i].data, value.data, bytes_of(&value.type));
    }
    dd_interpreter_destroy(it);
    return r;
}

static result run_plan(const char *name, const dd_graph *g, dd_store *store, const net *n,
                       const dd_array *seeds, uint64_t without) {
    result r = {.gradient = must_alloc(store->size * sizeof(float))};
    dd_plan_options options = {.without_patterns = without};
    dd_plan *plan;
    must(dd_plan_create(g, store, n->types, &options, &plan), name);
    void *arena = must_alloc(dd_plan_arena_bytes(plan));
    memset(arena, 0xff, dd_plan_arena_bytes(plan)); /* NaN wherever nothing is written */
    for (size_t i = 0; i < g->n_outputs; i++) {
        dd_type t = dd_plan_output_type(plan, (int)i);
        r.outputs[i] = dd_array_dense(must_alloc(bytes_of(&t)), &t);
    }
    dd_binding b = {.store = store,
                    .arena = arena,
                    .inputs = n->inputs,
                    .outputs = r.outputs,
                    .seeds = seeds,
                    .gradient = r.gradient,
                    .seed = 7,
                    .step = 3};
    must(dd_plan_forward(plan, &b), name);
    if (seeds)
        must(dd_plan_backward(plan, &b), name);
    dd_plan_destroy(plan);
    dd_free(arena);
    return r;
}

/* ---- the walk ------------------------------------------------------------------------------ */

/* One graph, interpreted and planned, each on a store of its own. */
static void check_graph(const char *name, const dd_graph *g, const net *n, bool backward,
                        uint64_t without) {
    dd_store *a, *b;
    dd_array seeds[2 * DD_MANY] = {{0}};
    must(dd_store_copy(n->store, &a), name);
    must(dd_store_copy(n->store, &b), name);
    if (backward) {
        dd_type *types = must_alloc(g->n_values * sizeof *types);
        must(dd_graph_infer(g, a, n->types, types), name);
        for (size_t i = 0; i < g->n_outputs; i++) {
            const dd_type *t = &types[g->outputs[i]];
            if (g->seeds[i] < 0 || t->dtype != DD_F32)
                continue;
            seeds[i] = dd_array_dense(must_alloc(bytes_of(t)), t);
            fill(seeds[i].data, t, -2.0f);
        }
        dd_free(types);
    }
    result want = interpret(name, g, a, n, backward ? seeds : NULL);
    result have = run_plan(name, g, b, n, backward ? seeds : NULL, without);
    for (size_t i = 0; i < g->n_outputs; i++)
        if (want.outputs[i].data)
            compare(name, g->output_names[i], &have.outputs[i], &want.outputs[i]);
    for (size_t e = 0; e < a->n; e++) {
        const dd_entry *entry = &a->entries[e];
        dd_array x = dd_array_dense(want.gradient + entry->offset, &entry->type);
        dd_array y = dd_array_dense(have.gradient + entry->offset, &entry->type);
        dd_array p = dd_array_dense(dd_store_data(a, (int)e), &entry->type);
        dd_array q = dd_array_dense(dd_store_data(b, (int)e), &entry->type);
        compare(name, "a parameter's gradient", &y, &x);
        compare(name, "the store", &q, &p);
    }
    for (size_t i = 0; i < g->n_outputs; i++)
        dd_free(seeds[i].data);
    free_result(&want);
    free_result(&have);
    dd_store_destroy(a);
    dd_store_destroy(b);
}

static void check_sample(const sample *s) {
    for (int way = 0; way < 4; way++) {
        uint64_t without = way & 1 ? ~(uint64_t)0 : 0;
        dd_graph *training;
        net n;
        build(s, way & 2, &n);
        check_graph(s->name, n.graph, &n, false, without);
        must(dd_graph_differentiate(n.graph, n.store, s->op->grad || s->op->backward, &training),
             s->name);
        check_graph(s->name, training, &n, training->n_nodes > (size_t)training->n_forward,
                    without);
        dd_graph_destroy(training);
        dd_graph_destroy(n.graph);
        dd_store_destroy(n.store);
    }
}

int main(void) {
    int n;
    const dd_op *const *ops = dd_ops(&n);
    sample s;
    dd_stream_init(&stream, 2, 0, 0, DD_FOR_TEST);
    for (int i = 0; i < n; i++)
        for (int index = 0; make_sample(ops[i], index, &s); index++) {
            check_sample(&s);
            for (int k = 0; k < s.n_in; k++)
                dd_free(s.data[k]);
        }
    return check_done("check_samples");
}
