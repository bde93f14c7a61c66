/* Planning: from a graph and input types to steps, places and one arena.
 *
 * Order: types → readers → records of convolutions and norms → what stays pending (layout.c) →
 * which values are windows of others (layout.c) → step patterns → the rest as plain steps →
 * lifetimes → places in the arena. */
#include "graph/steps.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/threads.h"
#include "graph/layout.h"

/* ---- for the matchers ---------------------------------------------------------------------- */

dd_status dd_step_new(dd_plan *plan, const char *pattern, dd_step **step) {
    DD_TRY(dd_reserve(&plan->steps, &plan->steps_capacity, plan->n_steps + 1, sizeof(dd_step)));
    dd_step *s = &plan->steps[plan->n_steps++];
    *s = (dd_step){.pattern = pattern,
                   .n_phases = 1,
                   .at = -1,
                   .conv = -1,
                   .expand = -1,
                   .front = -1,
                   .project = -1,
                   .x = -1,
                   .y = -1,
                   .residual = -1,
                   .norm = -1,
                   .expansion = {.conv = -1},
                   .reduction = {.norm = -1},
                   .dy = -1,
                   .dx = -1,
                   .dx_residual = -1,
                   .dw = -1,
                   .db = -1,
                   .dw_entry = -1,
                   .db_entry = -1};
    *step = s;
    return DD_OK;
}

void dd_step_node(dd_plan *plan, dd_step *s, int node) {
    plan->taken[node] = true;
    s->nodes[s->n_nodes++] = node;
    s->at = node > s->at ? node : s->at;
    s->backward = s->at >= plan->graph->n_forward;
}

void dd_step_reads(dd_plan *plan, dd_step *s, int value) {
    const dd_pvalue *v = &plan->values[value];
    if (v->pending == DD_STORED) {
        s->reads[s->n_reads++] = value;
        return;
    }
    const dd_node *parts = v->pending == DD_PENDING_PARTS ? &plan->graph->nodes[v->parts] : NULL;
    for (int i = 0; parts && i < parts->n_in; i++)
        s->reads[s->n_reads++] = parts->in[i];
    if (parts)
        return;
    s->reads[s->n_reads++] = v->x;
    if (v->pending == DD_PENDING_BN_DX)
        s->reads[s->n_reads++] = v->dz;
}

void dd_step_writes(dd_step *s, int value) {
    s->writes[s->n_writes++] = value;
}

int dd_sole_reader(const dd_plan *plan, int value) {
    return plan->n_readers[value] == 1 ? plan->readers[value][0] : -1;
}

bool dd_is_output(const dd_plan *plan, int value) {
    for (size_t i = 0; i < plan->graph->n_outputs; i++)
        if (plan->graph->outputs[i] == value)
            return true;
    return false;
}

void dd_take_activation(dd_plan *plan, dd_step *s) {
    int reader = dd_is_output(plan, s->y) ? -1 : dd_sole_reader(plan, s->y);
    const dd_node *n = reader >= 0 ? &plan->graph->nodes[reader] : NULL;
    if (!n || plan->taken[reader] || n->op != &dd_op_unary || n->backward ||
        plan->values[n->out[0]].pending)
        return;
    const dd_unary_params *u = n->params;
    s->act = (dd_act){(dd_unary)u->kind, (float)u->a, (float)u->b};
    s->y = n->out[0];
    dd_step_node(plan, s, reader);
}

bool dd_output_of_backward(const dd_plan *plan, size_t output) {
    const dd_graph *g = plan->graph;
    return g->training && g->seeds && g->seeds[output] < 0;
}

bool dd_pattern_on(const dd_plan *plan, int pattern) {
    return !(plan->options.without_patterns >> pattern & 1);
}

int dd_gradient_entry(const dd_plan *plan, int value) {
    if (value < 0 || plan->n_readers[value] > 0)
        return -1;
    for (size_t i = 0; i < plan->graph->n_gradients; i++)
        if (plan->graph->gradients[i].value == value)
            return plan->graph->gradients[i].entry;
    return -1;
}

/* ---- readers ------------------------------------------------------------------------------- */

bool dd_reads_data(const dd_node *n, int i) {
    if (n->in[i] < 0)
        return false;
    if (!n->backward)
        return i >= 32 || !(n->op->shape_inputs >> i & 1);
    if (i < n->forward_in)
        return n->op->backward_uses >> (i < 7 ? i : 7) & 1;
    if (i < n->forward_in + n->forward_out) {
        int out = i - n->forward_in;
        return n->op->backward_uses >> (8 + (out < 7 ? out : 7)) & 1;
    }
    return true;
}

static dd_status find_readers(dd_plan *plan) {
    const dd_graph *g = plan->graph;
    size_t total = 0;
    DD_TRY(dd_alloc_array(g->n_values + 1, sizeof(int), &plan->n_readers));
    DD_TRY(dd_alloc_array(g->n_values + 1, sizeof(int *), &plan->readers));
    for (size_t i = 0; i < g->n_nodes; i++)
        for (int k = 0; k < g->nodes[i].n_in; k++)
            total += (size_t)(g->nodes[i].in[k] >= 0);
    int *all;
    DD_TRY(dd_alloc_array(total + 1, sizeof(int), &all));
    plan->reader_pool = all;
    for (int pass = 0; pass < 2; pass++) {
        for (size_t i = 0; i < g->n_nodes; i++)
            for (int k = 0; k < g->nodes[i].n_in; k++) {
                int v = g->nodes[i].in[k];
                if (!dd_reads_data(&g->nodes[i], k))
                    continue;
                if (pass)
                    plan->readers[v][plan->n_readers[v]] = (int)i;
                plan->n_readers[v]++;
            }
        for (size_t v = 0; v < g->n_values && !pass; v++) {
            plan->readers[v] = all;
            all += plan->n_readers[v];
            plan->n_readers[v] = 0;
        }
    }
    return DD_OK;
}

/* relu's gradient may look at its result instead of its input: u > 0 just where relu(u) > 0. So
 * the sum before it need not be kept. */
static void read_relu_results(dd_graph *g) {
    for (size_t i = (size_t)g->n_forward; i < g->n_nodes; i++) {
        dd_node *n = &g->nodes[i];
        if (n->op != &dd_op_unary_dx || ((dd_unary_params *)n->params)->kind != DD_RELU)
            continue;
        for (int k = 0; k < g->n_forward; k++) {
            const dd_node *f = &g->nodes[k];
            if (f->op == &dd_op_unary && f->in[0] == n->in[1] &&
                ((dd_unary_params *)f->params)->kind == DD_RELU) {
                n->in[1] = f->out[0];
                break;
            }
        }
    }
}

/* ---- records ------------------------------------------------------------------------------- */

/* A gradient folded to the shape that it has already is the gradient itself. */
static void drop_folds(dd_plan *plan) {
    dd_graph *g = plan->graph;
    for (size_t i = 0; i < g->n_nodes; i++) {
        const dd_node *n = &g->nodes[i];
        if (n->op != &dd_op_reduce || n->backward || n->n_in != 2 ||
            !dd_type_equal(&plan->values[n->in[0]].type, &plan->values[n->out[0]].type))
            continue;
        plan->taken[i] = true;
        int from = n->out[0], to = n->in[0];
        for (size_t k = i + 1; k < g->n_nodes; k++)
            for (int j = 0; j < g->nodes[k].n_in; j++)
                if (g->nodes[k].in[j] == from)
                    g->nodes[k].in[j] = to;
        for (size_t k = 0; k < g->n_gradients; k++)
            if (g->gradients[k].value == from)
                g->gradients[k].value = to;
        for (size_t k = 0; k < g->n_outputs; k++) /* "d:<input>" */
            if (g->outputs[k] == from)
                g->outputs[k] = to;
        g->nodes[i].n_in = 0; /* reads nothing any more */
    }
}

static dd_status record_convs(dd_plan *plan, const dd_store *store) {
    const dd_graph *g = plan->graph;
    for (size_t i = 0; i < g->n_nodes; i++) {
        const dd_node *n = &g->nodes[i];
        bool dx = n->op == &dd_op_conv_dx, dw = n->op == &dd_op_conv_dw;
        plan->conv_of[i] = -1;
        if (n->backward)
            continue;
        if (n->op == &dd_op_conv && dd_pattern_on(plan, DD_PATTERN_conv))
            DD_TRY(dd_conv_record(plan, store, (int)i, n->in[0], n->out[0], n->in[1],
                                  n->n_in > 2 ? n->in[2] : -1, &plan->conv_of[i]));
        if ((!dx && !dw) || !dd_pattern_on(plan, DD_PATTERN_conv_backward) ||
            (int)i < g->n_forward) /* the step adds into the gradient: it is for the backward */
            continue;
        int x = dx ? n->in[2] : n->in[0], dy = dx ? n->in[0] : n->in[1], w = n->in[dx ? 1 : 2];
        int record = -1;
        for (size_t k = (size_t)g->n_forward; k < i && record < 0; k++) {
            const dd_node *o = &g->nodes[k];
            bool pair =
                (dx && o->op == &dd_op_conv_dw && o->in[1] == dy && o->in[0] == x &&
                 o->in[2] == w) ||
                (dw && o->op == &dd_op_conv_dx && o->in[0] == dy && o->in[2] == x && o->in[1] == w);
            record = pair ? plan->conv_of[k] : -1;
        }
        if (record < 0)
            DD_TRY(dd_conv_record(plan, store, (int)i, x, dy, w, -1, &record));
        bool possible = record >= 0 && plan->convs[record].k_h <= 64 &&
                        (!dx || plan->convs[record].depthwise || plan->convs[record].n_phases > 0);
        plan->conv_of[i] = possible ? record : -1;
    }
    return DD_OK;
}

static dd_status record_norms(dd_plan *plan) {
    const dd_graph *g = plan->graph;
    for (size_t i = 0; i < g->n_nodes; i++)
        plan->norm_of[i] = -1;
    if (!dd_pattern_on(plan, DD_PATTERN_norm))
        return DD_OK;
    for (size_t i = 0; i < g->n_nodes; i++) {
        const dd_node *n = &g->nodes[i];
        if (n->op == &dd_op_batch_norm && !n->backward) {
            DD_TRY(dd_norm_record(plan, (int)i, &plan->norm_of[i]));
        } else if ((n->op == &dd_op_bn_reduce || n->op == &dd_op_bn_dx) &&
                   dd_pattern_on(plan, DD_PATTERN_norm_reduce)) {
            const dd_value *mean = &g->values[n->in[4]];
            if (mean->kind == DD_VALUE_NODE)
                plan->norm_of[i] = plan->norm_of[mean->producer];
        }
    }
    return DD_OK;
}

/* ---- plain steps: what no pattern took ----------------------------------------------------- */

static dd_status match_all(dd_plan *plan, const dd_store *store) {
    static dd_status (*const match[])(dd_plan *, const dd_store *, int, bool *) = {
#define DD_PATTERN(name) dd_match_##name,
#include "graph/steps.def"
#undef DD_PATTERN
    };
    const dd_graph *g = plan->graph;
    for (int p = 0; p < DD_PATTERNS; p++) {
        if (!dd_pattern_on(plan, p))
            continue;
        for (size_t i = 0; i < g->n_nodes; i++) {
            /* A sum starts at its last addition: from the end. */
            int node = (int)(p == DD_PATTERN_sum ? g->n_nodes - 1 - i : i);
            bool matched = false;
            if (!plan->taken[node] && !plan->view[node])
                DD_TRY(match[p](plan, store, node, &matched));
        }
    }
    for (size_t i = 0; i < g->n_nodes; i++)
        if (!plan->taken[i] && !plan->view[i])
            DD_TRY(dd_plain_step(plan, (int)i));
    return dd_gradient_steps(plan);
}

static int by_place(const void *a, const void *b) {
    const dd_step *x = a, *y = b;
    if (x->at != y->at)
        return x->at - y->at;
    return x->late != y->late ? x->late - y->late : x->order - y->order;
}

/* Calls `use` for every value that the step reads, then for every one that it writes. */
static void walk_values(dd_plan *plan, const dd_step *s,
                        void (*use)(dd_plan *, int value, bool written, int wave)) {
    const dd_node *n = s->plain ? &plan->graph->nodes[s->nodes[0]] : NULL;
    for (int k = 0; k < s->n_reads; k++)
        use(plan, s->reads[k], false, s->wave);
    for (int k = 0; n && k < n->n_in; k++)
        if (dd_reads_data(n, k) && plan->values[n->in[k]].pending == DD_STORED)
            use(plan, n->in[k], false, s->wave);
    for (int k = 0; n && k < n->n_out; k++)
        if (n->out[k] >= 0)
            use(plan, n->out[k], true, s->wave);
    for (int k = 0; k < s->n_writes; k++)
        use(plan, s->writes[k], true, s->wave);
}

/* ---- waves --------------------------------------------------------------------------------- */

static void note_wave(dd_plan *plan, int value, bool written, int wave) {
    dd_pvalue *root = &plan->values[plan->values[value].root];
    if (written && wave > root->last)
        root->last = wave;
}

static void wait_for(dd_plan *plan, int value, bool written, int wave) {
    (void)wave;
    int last = plan->values[plan->values[value].root].last;
    if (!written && last >= plan->wave_floor)
        plan->wave_floor = last + 1;
}

static int by_wave(const void *a, const void *b) {
    const dd_step *x = a, *y = b;
    return x->wave != y->wave ? x->wave - y->wave : x->order - y->order;
}

/* Steps that need nothing of each other make a wave: one barrier serves them all, and the heads'
 * small maps fill the threads together. A value is written once and windows of a buffer are apart,
 * so only reads after writes bind. Training keeps a wave a step: its steps share slots and sums,
 * and a batch has work enough. */
static void make_waves(dd_plan *plan) {
    for (size_t i = 0; i < plan->n_values; i++)
        plan->values[i].last = -1;
    for (size_t i = 0; i < plan->n_steps; i++) {
        dd_step *s = &plan->steps[i];
        s->order = s->wave = (int)i;
        if (plan->graph->training)
            continue;
        plan->wave_floor = 0;
        walk_values(plan, s, wait_for);
        s->wave = plan->wave_floor;
        walk_values(plan, s, note_wave);
    }
    if (plan->n_steps)
        qsort(plan->steps, plan->n_steps, sizeof *plan->steps, by_wave);
}

/* ---- lifetimes and the arena --------------------------------------------------------------- */

static void touch(dd_plan *plan, int value, bool written, int wave) {
    (void)written;
    dd_pvalue *root = &plan->values[plan->values[value].root];
    root->first = root->first < 0 || wave < root->first ? wave : root->first;
    root->last = wave > root->last ? wave : root->last;
    root->needed = true;
}

static void find_lifetimes(dd_plan *plan) {
    for (size_t i = 0; i < plan->n_values; i++)
        plan->values[i].first = plan->values[i].last = -1;
    plan->n_forward_steps = 0;
    for (size_t i = 0; i < plan->n_steps; i++) {
        plan->n_forward_steps += !plan->steps[i].backward;
        walk_values(plan, &plan->steps[i], touch);
    }
    /* Outputs that are copied live until the forward ends, or the backward for its own ones. */
    for (size_t i = 0; i < plan->graph->n_outputs; i++)
        touch(plan, plan->graph->outputs[i], true,
              dd_output_of_backward(plan, i) ? (int)plan->n_steps : plan->n_forward_steps);
}

static size_t value_bytes(const dd_pvalue *v) {
    int64_t n = v->type.rank >= 2 ? v->type.dims[0] : 1;
    size_t bytes = (size_t)(n * v->image) * dd_dtype_bytes(v->type.dtype);
    return (bytes + DD_ALIGN) / DD_ALIGN * DD_ALIGN; /* one spare lane at least */
}

static bool overlap(const dd_pvalue *a, const dd_pvalue *b) {
    return a->first <= b->last && b->first <= a->last;
}

typedef struct block {
    int value;
    size_t bytes;
} block;

static int by_size(const void *a, const void *b) {
    const block *x = a, *y = b;
    return x->bytes != y->bytes ? (x->bytes < y->bytes ? 1 : -1) : x->value - y->value;
}

/* Largest first, each at the lowest offset where no value that lives at the same time lies. */
static dd_status lay_out_arena(dd_plan *plan) {
    block *blocks;
    size_t n = 0;
    DD_TRY(dd_alloc_array(plan->n_values + 1, sizeof *blocks, &blocks));
    for (size_t i = 0; i < plan->n_values; i++) {
        dd_pvalue *v = &plan->values[i];
        if (v->root == (int)i && v->needed && v->place == DD_AT_NONE && v->pending == DD_STORED) {
            v->place = DD_AT_ARENA;
            blocks[n++] = (block){(int)i, value_bytes(v)};
        }
    }
    qsort(blocks, n, sizeof *blocks, by_size);
    plan->arena_bytes = 0;
    for (size_t i = 0; i < n; i++) {
        dd_pvalue *v = &plan->values[blocks[i].value];
        size_t at = 0;
        for (bool moved = true; moved;) {
            moved = false;
            for (size_t k = 0; k < i; k++) {
                const dd_pvalue *o = &plan->values[blocks[k].value];
                if (overlap(v, o) && at < o->offset + blocks[k].bytes &&
                    o->offset < at + blocks[i].bytes) {
                    at = o->offset + blocks[k].bytes;
                    moved = true;
                }
            }
        }
        v->offset = at;
        size_t end = at + blocks[i].bytes;
        plan->arena_bytes = end > plan->arena_bytes ? end : plan->arena_bytes;
    }
    dd_free(blocks);
    return DD_OK;
}

/* ---- create and destroy -------------------------------------------------------------------- */

static dd_status init_values(dd_plan *plan, const dd_store *store, const dd_type *inputs) {
    const dd_graph *g = plan->graph;
    dd_type *types;
    dd_status status = DD_OK;
    /* A pending value that is stored as well has a second row: see layout.c. */
    plan->n_values = g->n_values;
    DD_TRY(dd_alloc_array(2 * g->n_values + 1, sizeof(dd_pvalue), &plan->values));
    DD_TRY(dd_alloc_array(g->n_values + 1, sizeof *types, &types));
    DD_TRY_DONE(dd_graph_infer(g, store, inputs, types));
    for (size_t i = 0; i < g->n_values; i++) {
        const dd_value *from = &g->values[i];
        dd_pvalue *v = &plan->values[i];
        v->type = types[i];
        v->root = (int)i;
        v->norm = -1;
        v->index = from->entry;
        v->place = from->kind == DD_VALUE_ENTRY   ? DD_AT_ENTRY
                   : from->kind == DD_VALUE_INPUT ? DD_AT_INPUT
                   : from->kind == DD_VALUE_SEED  ? DD_AT_SEED
                                                  : DD_AT_NONE;
    }
    for (size_t i = 0; i < g->n_inputs; i++)
        plan->values[g->inputs[i]].index = (int)i;
    for (size_t i = 0; i < g->n_outputs && g->seeds; i++)
        if (g->seeds[i] >= 0)
            plan->values[g->seeds[i]].index = (int)i;
done:
    dd_free(types);
    return status;
}

static dd_status allocate(dd_plan *plan) {
    size_t counters = 2; /* packing forward and backward */
    for (size_t i = 0; i < plan->n_steps; i++) {
        plan->steps[i].counter = counters;
        counters += (size_t)plan->steps[i].n_phases;
        if (plan->steps[i].scratch > plan->scratch_bytes)
            plan->scratch_bytes = plan->steps[i].scratch;
    }
    for (size_t i = 0; i < plan->n_convs; i++) {
        size_t pack = dd_conv_pack_scratch(&plan->convs[i]);
        plan->scratch_bytes = pack > plan->scratch_bytes ? pack : plan->scratch_bytes;
    }
    plan->scratch_bytes = (plan->scratch_bytes + 2 * DD_ALIGN) / DD_ALIGN * DD_ALIGN;
    plan->n_counters = counters;
    DD_TRY(dd_alloc_array(plan->vectors_size + 1, sizeof(float), &plan->vectors));
    DD_TRY(dd_alloc_array(plan->sums_size + 1, sizeof(double), &plan->sums));
    DD_TRY(dd_alloc_array(plan->packed_size + 1, sizeof(float), &plan->packed));
    DD_TRY(dd_alloc_array(plan->slots_size + 1, sizeof(float), &plan->slots));
    return dd_alloc_array(plan->n_values + 1, sizeof(void *), &plan->data);
}

dd_status dd_plan_create(const dd_graph *g, const dd_store *s, const dd_type *inputs,
                         const dd_plan_options *options, dd_plan **result) {
    dd_plan *plan;
    dd_status status = DD_OK;
    DD_TRY(dd_alloc_array(1, sizeof *plan, &plan));
    plan->options = options ? *options : (dd_plan_options){0};
    plan->kernels = dd_kernels();
    DD_TRY_DONE(dd_graph_copy(g, &plan->graph));
    read_relu_results(plan->graph);
    DD_TRY_DONE(init_values(plan, s, inputs));
    DD_TRY_DONE(dd_alloc_array(g->n_nodes + 1, sizeof(bool), &plan->taken));
    drop_folds(plan);
    DD_TRY_DONE(find_readers(plan));
    DD_TRY_DONE(dd_alloc_array(g->n_nodes + 1, sizeof(bool), &plan->view));
    DD_TRY_DONE(dd_alloc_array(g->n_nodes + 1, sizeof(int), &plan->conv_of));
    DD_TRY_DONE(dd_alloc_array(g->n_nodes + 1, sizeof(int), &plan->norm_of));
    DD_TRY_DONE(record_convs(plan, s));
    DD_TRY_DONE(record_norms(plan));
    DD_TRY_DONE(dd_layout_pending(plan));
    dd_layout_views(plan);
    DD_TRY_DONE(match_all(plan, s));
    dd_choose_halves(plan);
    for (size_t i = 0; i < plan->n_steps; i++)
        plan->steps[i].order = (int)i;
    if (plan->n_steps)
        qsort(plan->steps, plan->n_steps, sizeof *plan->steps, by_place);
    dd_layout_outputs(plan);
    make_waves(plan);
    dd_winograd_places(plan);
    find_lifetimes(plan);
    DD_TRY_DONE(lay_out_arena(plan));
    dd_count_work(plan);
    DD_TRY_DONE(allocate(plan));
    *result = plan;
    plan = NULL;
done:
    dd_plan_destroy(plan);
    return status;
}

void dd_plan_destroy(dd_plan *plan) {
    if (!plan)
        return;
    dd_graph_destroy(plan->graph);
    void *blocks[] = {plan->values,  plan->readers, plan->n_readers,       plan->reader_pool,
                      plan->taken,   plan->steps,   plan->convs,           plan->norms,
                      plan->norm_of, plan->conv_of, plan->vectors,         plan->sums,
                      plan->packed,  plan->slots,   plan->scratch,         plan->zero_seed,
                      plan->data,    plan->view,    (void *)plan->counters};
    for (size_t i = 0; i < sizeof blocks / sizeof *blocks; i++)
        dd_free(blocks[i]);
    dd_free(plan);
}

size_t dd_plan_arena_bytes(const dd_plan *plan) {
    return plan->arena_bytes;
}

dd_type dd_plan_output_type(const dd_plan *plan, int output) {
    return plan->values[plan->graph->outputs[output]].type;
}
