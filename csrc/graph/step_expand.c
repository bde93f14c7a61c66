/* Training's 1×1 → batch norm → activation → depthwise, without the wide map between them.
 *
 * The wide map is the largest of its block, and forward and backward would write and read it six
 * times. Here it is computed again from the narrow map wherever it is needed, some rows or pixels
 * at a time, and never stored; neither is its gradient. What needs the whole batch comes from the
 * narrow map's moments and from sums over products. With x the narrow map less its mean m, C its
 * covariance, n pixels, W the weights, z = W·x the wide map less its mean:
 *
 *   statistics    mean W·m, variance diag(W·C·Wᵀ): exact, whatever x is
 *   forward       u = (γ·rstd·W)·x + β, which depthwise goes on with (step_conv_pieces.c)
 *   backward      g = act'(u)·(depthwise dx), and over all pixels G = Σ x·gᵀ, Σ g
 *                 (step_depthwise_backward.c)
 *   its norm      Σ g·z = diag(W·G), hence p, q, r of dz = p·g + q·z + r
 *   weights       Σ dz·xᵀ = p·Gᵀ + q·n·W·C, since x sums to zero
 *   dx            Wᵀ·dz = (p·W)ᵀ·g + (Wᵀ·q·W)·x + Wᵀ·r: the first term in the same pass over the
 *                 pixels, the others, which need its sums, in one over the narrow maps
 *
 * Taking the mean from x first keeps the sums free of cancellation. C, K: channels of the narrow
 * and the wide map. */
#include "graph/expand.h"

#include <string.h>

enum { PAYS = 2 }; /* wide channels a narrow one from which on it is faster */

/* ---- forward ------------------------------------------------------------------------------- */

static int64_t forward_units(const dd_plan *plan, const dd_step *s, int phase, int threads) {
    const dd_conv *c = &plan->convs[s->conv];
    (void)threads;
    if (phase == 2)
        return c->n * c->oh < DD_SLOTS ? c->n * c->oh : DD_SLOTS;
    return phase ? 1 : dd_expand_slots(&plan->convs[s->expansion.conv]);
}

static void forward_run(const dd_run *run, const dd_step *s, int phase, int64_t unit, int thread) {
    const dd_conv *c = &run->plan->convs[s->conv];
    float *scratch = dd_scratch(run, thread);
    int64_t row, end;
    switch (phase) {
    case 0:
        dd_expand_moments(run, s, unit, scratch);
        return;
    case 1:
        dd_expand_finish_moments(run, s, scratch);
        dd_expand_fold(run, s, scratch);
        return;
    case 2:
        if (s->norm >= 0) {
            const dd_norm *norm = &run->plan->norms[s->norm];
            memset(run->plan->sums + norm->sums + (size_t)unit * 2 * (size_t)norm->c, 0,
                   2 * (size_t)norm->c * sizeof(double));
        }
        dd_cut(c->n * c->oh, forward_units(run->plan, s, 2, 1), unit, &row, &end);
        dd_conv_pieces(run, s, row, end, unit, scratch);
        return;
    default:
        dd_norm_finish(run, s->norm);
    }
}

/* ---- backward ------------------------------------------------------------------------------ */

static void mix_slot(const dd_run *run, const dd_step *s, int64_t unit, float *scratch) {
    const dd_conv *c = &run->plan->convs[s->expansion.conv];
    int64_t row, end, piece = dd_expand_mix_piece(c);
    if (s->reduction.norm >= 0)
        dd_norm_gradient_begin(run, &s->reduction, unit);
    dd_cut(c->n * c->h, s->n_slots, unit, &row, &end);
    while (row < end) {
        int64_t y = row % c->h, rows = end - row < c->h - y ? end - row : c->h - y;
        for (int64_t x = 0; x < rows * c->w; x += piece)
            dd_expand_mix(run, s, row / c->h, y, x,
                          rows * c->w - x < piece ? rows * c->w - x : piece, unit, scratch);
        row += rows;
    }
    dd_pieces_done(run, s->dx);
}

static int64_t backward_units(const dd_plan *plan, const dd_step *s, int phase, int threads) {
    (void)plan;
    (void)threads;
    return phase % 2 ? 1 : s->n_slots;
}

static void backward_run(const dd_run *run, const dd_step *s, int phase, int64_t unit, int thread) {
    const dd_conv *c = &run->plan->convs[s->conv], *e = &run->plan->convs[s->expansion.conv];
    int64_t taps = c->k_h * c->k_w * dd_depthwise_pitch(c), floats = (e->c_in + 1) * e->c_out;
    switch (phase) {
    case 0:
        memset(run->plan->slots + unit * taps, 0, (size_t)taps * sizeof(float));
        memset(run->plan->slots + s->expansion.slots + unit * floats, 0,
               (size_t)floats * sizeof(float));
        dd_depthwise_backward_unit(run, s, unit, thread);
        return;
    case 1:
        dd_expand_finish(run, s, dd_scratch(run, thread));
        return;
    case 2:
        mix_slot(run, s, unit, dd_scratch(run, thread));
        return;
    default:
        dd_norm_gradient_finish(run, &s->reduction, s->n_slots);
    }
}

/* ---- matching ------------------------------------------------------------------------------ */

/* The nodes of a block, in the graph's order. */
typedef struct block {
    int expand, norm, depthwise;                    /* forward */
    int depthwise_dx, depthwise_dw;                 /* backward */
    int norm_reduce, norm_dx, expand_dx, expand_dw; /* expand_dx -1: unwanted */
} block;

/* The one reader of `value` that is an `op` and free; -1 where there is none. *others counts the
 * rest. */
static int reader_of(const dd_plan *plan, int value, const dd_op *op, int *others) {
    int found = -1;
    for (int i = 0; i < plan->n_readers[value]; i++) {
        int r = plan->readers[value][i];
        const dd_node *n = &plan->graph->nodes[r];
        if (n->op == op && !n->backward && found < 0)
            found = r;
        else
            (*others)++;
    }
    return found;
}

static bool is_hidden(const dd_plan *plan, int value) {
    return plan->graph->values[value].kind == DD_VALUE_NODE && !dd_is_output(plan, value) &&
           plan->values[value].root == value;
}

static bool free_conv(const dd_plan *plan, int node, const dd_op *op) {
    const dd_node *n = node >= 0 ? &plan->graph->nodes[node] : NULL;
    return n && n->op == op && !n->backward && !plan->taken[node] && plan->conv_of[node] >= 0;
}

/* 1×1 → norm → activation before the depthwise convolution, read by nothing else. */
static bool find_forward(const dd_plan *plan, block *b) {
    const dd_graph *g = plan->graph;
    int wide = g->nodes[b->depthwise].in[0], others = 0;
    const dd_pvalue *v = &plan->values[wide];
    if (v->pending != DD_PENDING_AFFINE || !is_hidden(plan, wide) || !is_hidden(plan, v->x))
        return false;
    const dd_norm *norm = &plan->norms[v->norm];
    b->norm = norm->node;
    b->expand = g->values[v->x].producer;
    if (!norm->batch || plan->taken[b->norm] || !free_conv(plan, b->expand, &dd_op_conv) ||
        b->expand >= g->n_forward)
        return false;
    b->norm_reduce = reader_of(plan, v->x, &dd_op_bn_reduce, &others);
    b->norm_dx = reader_of(plan, v->x, &dd_op_bn_dx, &others);
    if (b->norm_reduce < 0 || b->norm_dx < 0 || plan->taken[b->norm_reduce] ||
        plan->norm_of[b->norm_reduce] != v->norm || plan->norm_of[b->norm_dx] != v->norm ||
        plan->n_readers[v->x] != 3)
        return false;
    const dd_conv *c = &plan->convs[plan->conv_of[b->expand]];
    return dd_conv_pointwise(c) && c->bias < 0 && c->c_out >= PAYS * c->c_in;
}

/* The gradients, read by nothing else as well. */
static bool find_backward(const dd_plan *plan, block *b) {
    const dd_graph *g = plan->graph;
    const dd_node *norm_dx = &g->nodes[b->norm_dx];
    int wide = g->nodes[b->depthwise].in[0], d_after = norm_dx->in[0], d_before = norm_dx->out[0];
    int others = 0;
    if (g->nodes[b->norm_reduce].in[0] != d_after || !is_hidden(plan, d_after) ||
        plan->values[d_after].pending || plan->n_readers[d_after] != 2 ||
        plan->values[d_before].pending != DD_PENDING_BN_DX || !is_hidden(plan, d_before))
        return false;
    b->depthwise_dx = g->values[d_after].producer;
    b->depthwise_dw = reader_of(plan, wide, &dd_op_conv_dw, &others);
    b->expand_dw = reader_of(plan, d_before, &dd_op_conv_dw, &others);
    b->expand_dx = reader_of(plan, d_before, &dd_op_conv_dx, &others);
    if (!free_conv(plan, b->depthwise_dx, &dd_op_conv_dx) ||
        !free_conv(plan, b->depthwise_dw, &dd_op_conv_dw) ||
        !free_conv(plan, b->expand_dw, &dd_op_conv_dw) || plan->n_readers[wide] != 2 ||
        plan->n_readers[d_before] != 1 + (b->expand_dx >= 0))
        return false;
    const dd_node *dx = &g->nodes[b->depthwise_dx], *dw = &g->nodes[b->depthwise_dw];
    return plan->conv_of[b->depthwise_dx] == plan->conv_of[b->depthwise_dw] &&
           dx->in[0] == dw->in[1] && dw->in[0] == wide &&
           g->nodes[b->expand_dw].in[0] == g->nodes[b->expand].in[0] &&
           dd_gradient_entry(plan, dw->out[0]) >= 0 &&
           dd_gradient_entry(plan, g->nodes[b->expand_dw].out[0]) >= 0;
}

static size_t take_floats(size_t *size, size_t floats) {
    size_t at = *size;
    *size += (floats + 15) / 16 * 16;
    return at;
}

static dd_expansion new_expansion(dd_plan *plan, const block *b) {
    const dd_pvalue *wide = &plan->values[plan->graph->nodes[b->depthwise].in[0]];
    const dd_kernels_table *kernels = plan->kernels;
    dd_expansion e = {.conv = plan->conv_of[b->expand], .norm = wide->norm, .act = wide->act};
    const dd_conv *c = &plan->convs[e.conv];
    e.moments = plan->sums_size;
    plan->sums_size += (size_t)dd_expand_slots(c) * dd_expand_moment_count(c);
    e.shift = take_floats(&plan->vectors_size, (size_t)c->c_in);
    e.mix_shift = take_floats(&plan->vectors_size, (size_t)c->c_in);
    e.packed = take_floats(&plan->packed_size, kernels->gemm_f32_packed(c->c_in, c->c_out));
    e.packed_dx = take_floats(&plan->packed_size, kernels->gemm_f32_packed(c->c_out, c->c_in));
    e.mix = take_floats(&plan->packed_size, kernels->gemm_f32_packed(c->c_in, c->c_in));
    return e;
}

static size_t most(size_t a, size_t b) {
    return a > b ? a : b;
}

static dd_status make_forward(dd_plan *plan, const block *b, const dd_expansion *e) {
    const dd_node *n = &plan->graph->nodes[b->depthwise];
    dd_conv *c = &plan->convs[plan->conv_of[b->depthwise]];
    const dd_conv *wide = &plan->convs[e->conv];
    dd_step *s;
    DD_TRY(dd_step_new(plan, "expand", &s));
    s->expansion = *e;
    s->conv = plan->conv_of[b->depthwise];
    s->run = forward_run;
    s->units = forward_units;
    s->x = plan->graph->nodes[b->expand].in[0];
    s->y = n->out[0];
    dd_step_node(plan, s, b->expand);
    dd_step_node(plan, s, b->norm);
    dd_step_node(plan, s, b->depthwise);
    dd_step_reads(plan, s, s->x);
    dd_conv_epilogue(plan, s, c);
    dd_conv_take_sums(plan, s);
    dd_step_writes(s, s->y);
    s->n_phases = s->norm >= 0 ? 4 : 3;
    s->by_pieces = s->halves = true;
    s->scratch =
        most(dd_conv_pieces_scratch(plan, s, c),
             most(dd_expand_moments_floats(wide), (size_t)(wide->c_in * (wide->c_out + 2))) *
                 sizeof(float));
    dd_conv_use(plan, c);
    return DD_OK;
}

static dd_status make_backward(dd_plan *plan, const block *b, const dd_expansion *e) {
    const dd_node *dw = &plan->graph->nodes[b->depthwise_dw];
    dd_conv *c = &plan->convs[plan->conv_of[b->depthwise_dw]];
    const dd_conv *wide = &plan->convs[e->conv];
    const int nodes[] = {b->depthwise_dx, b->depthwise_dw, b->norm_reduce, b->expand_dw};
    dd_step *s;
    DD_TRY(dd_step_new(plan, "expand_backward", &s));
    s->expansion = *e;
    s->conv = plan->conv_of[b->depthwise_dw];
    s->run = backward_run;
    s->units = backward_units;
    s->dy = dw->in[1];
    s->x = plan->graph->nodes[b->expand].in[0];
    for (size_t i = 0; i < sizeof nodes / sizeof *nodes; i++)
        dd_step_node(plan, s, nodes[i]);
    if (b->expand_dx >= 0) {
        dd_step_node(plan, s, b->expand_dx);
        s->dx = plan->graph->nodes[b->expand_dx].out[0];
    }
    dd_step_reads(plan, s, s->dy);
    dd_step_reads(plan, s, s->x);
    s->dw_entry = dd_gradient_entry(plan, dw->out[0]);
    s->expansion.dw_entry = dd_gradient_entry(plan, plan->graph->nodes[b->expand_dw].out[0]);
    s->expansion.reduction = dd_norm_gradient_of(plan, s, b->norm_reduce);
    if (s->dx >= 0) {
        dd_conv_take_residual(plan, s, wide);
        dd_conv_take_reduction(plan, s);
        dd_step_writes(s, s->dx);
    }
    c->uses_dx = true;
    c->packed_dx = take_floats(&plan->packed_size, c->packed_dx_floats);
    s->halves = true;
    s->n_slots = (int)dd_expand_slots(c);
    s->n_phases = s->dx < 0 ? 2 : s->reduction.norm < 0 ? 3 : 4;
    size_t taps = (size_t)(c->k_h * c->k_w) * (size_t)dd_depthwise_pitch(c);
    size_t sums = (size_t)(wide->c_in + 1) * (size_t)wide->c_out;
    s->expansion.slots = taps * (size_t)s->n_slots;
    plan->slots_size = most(plan->slots_size, (taps + sums) * (size_t)s->n_slots);
    size_t mix = (size_t)(dd_expand_mix_piece(wide) * dd_expand_pitch(wide));
    if (s->dx >= 0)
        mix += (size_t)(dd_load_floats(plan, s->dx, dd_expand_mix_piece(wide)) +
                        dd_piece_floats(plan, s->dx, dd_expand_mix_piece(wide)));
    s->scratch = most(dd_depthwise_backward_scratch(plan, s, c),
                      most(mix * sizeof(float), dd_expand_finish_doubles(wide) * sizeof(double)));
    return DD_OK;
}

dd_status dd_match_expand(dd_plan *plan, const dd_store *store, int node, bool *matched) {
    (void)store;
    block b = {.depthwise = node};
    if (!plan->graph->training || node >= plan->graph->n_forward ||
        !free_conv(plan, node, &dd_op_conv))
        return DD_OK;
    const dd_conv *c = &plan->convs[plan->conv_of[node]];
    if (!c->depthwise || c->k_h > 64 || c->bias >= 0 || !find_forward(plan, &b) ||
        !find_backward(plan, &b))
        return DD_OK;
    dd_expansion e = new_expansion(plan, &b);
    DD_TRY(make_forward(plan, &b, &e));
    DD_TRY(make_backward(plan, &b, &e));
    *matched = true;
    return DD_OK;
}
