/* The chain step of inference: [expand 1×1 →] depthwise [→ project 1×1 with its epilogue], a strip
 * of rows at a time, so that what lies between never leaves the cache.
 *
 * The expanded strip is a ring: rows that the next strip meets again are kept, so only the first
 * strip of a unit computes a halo. Arithmetic is that of the single steps, to the last bit. An
 * expansion whose map fits in a core's cache anyway is left out: its halo would cost more than it
 * saves. N, H, W, C: the depthwise input; OH, OW: its output; K its side. */
#include "graph/steps.h"

#include <string.h>

#include "base/threads.h"

enum { EXPANDED_BYTES = 640 << 10, STRIP_BYTES = 224 << 10 };

static int64_t padded_width(const dd_conv *c) {
    int64_t reach = (c->ow - 1) * c->stride + c->k_w, least = c->pad_left + c->w;
    return reach > least ? reach : least;
}

static int64_t source_rows(const dd_conv *c, int64_t rows) {
    return (rows - 1) * c->stride + c->k_h;
}

/* One row of the depthwise input, padded, into the strip. */
static void source_row(const dd_run *run, const dd_step *s, const dd_conv *c, int64_t n, int64_t y,
                       float *row) {
    if (y < 0 || y >= c->h) {
        memset(row, 0, (size_t)(padded_width(c) * c->c_in) * sizeof(float));
        return;
    }
    float *to = row + (int64_t)c->pad_left * c->c_in;
    if (s->expand < 0) {
        dd_load_pixels(run, s->x, n, y, 0, c->w, to);
        return;
    }
    const dd_conv *e = &run->plan->convs[s->expand];
    const float *a = dd_row(run, s->x, n, y);
    dd_gemm g = {.a = &a,
                 .lda = run->plan->values[s->x].pitch,
                 .segments = 1,
                 .k = e->c_in,
                 .b = run->plan->packed + e->packed,
                 .c = to,
                 .ldc = c->c_in,
                 .m = c->w,
                 .n = c->c_in,
                 .bias = dd_conv_bias(run, e),
                 .act = s->act_expand,
                 .n_end = c->c_in};
    run->plan->kernels->gemm_f32(&g);
}

/* Output row i of the strip; to scratch where a projection follows. */
static void depthwise_row(const dd_run *run, const dd_step *s, const dd_conv *c, const float *rows,
                          int64_t n, int64_t y, float *to) {
    const float *taps[64];
    bool last = s->project < 0;
    for (int r = 0; r < c->k_h; r++)
        taps[r] = rows + r * padded_width(c) * c->c_in;
    dd_depthwise d = {.rows = taps,
                      .pitch = c->c_in,
                      .k = c->k_h,
                      .stride = c->stride,
                      .c = c->c_in,
                      .width = c->ow,
                      .w = run->plan->packed + c->packed,
                      .wpitch = dd_depthwise_pitch(c),
                      .bias = dd_conv_bias(run, c),
                      .act = last ? s->act : s->act_depthwise,
                      .y = last ? dd_row(run, s->y, n, y) : to,
                      .y_pitch = last ? run->plan->values[s->y].pitch : c->c_out};
    if (last && s->residual >= 0) {
        d.residual = dd_row(run, s->residual, n, y);
        d.residual_pitch = run->plan->values[s->residual].pitch;
    }
    run->plan->kernels->depthwise_f32(&d);
}

static void project_rows(const dd_run *run, const dd_step *s, const dd_conv *c, const float *from,
                         int64_t n, int64_t y, int64_t rows) {
    const dd_conv *p = &run->plan->convs[s->project];
    dd_gemm g = {.a = &from,
                 .lda = c->c_out,
                 .segments = 1,
                 .k = c->c_out,
                 .b = run->plan->packed + p->packed,
                 .c = dd_row(run, s->y, n, y),
                 .ldc = run->plan->values[s->y].pitch,
                 .m = rows * c->ow,
                 .n = p->c_out,
                 .bias = dd_conv_bias(run, p),
                 .act = s->residual >= 0 ? s->act_after : s->act,
                 .n_end = p->c_out};
    if (s->residual >= 0) {
        g.residual = dd_row(run, s->residual, n, y);
        g.ldr = run->plan->values[s->residual].pitch;
    }
    run->plan->kernels->gemm_f32(&g);
}

/* Rows [y, end) of image n. */
static void chain_rows(const dd_run *run, const dd_step *s, const dd_conv *c, int64_t n, int64_t y,
                       int64_t end, float *strip) {
    int64_t row = padded_width(c) * c->c_in, have = 0;
    float *between = strip + source_rows(c, s->strip) * row;
    memset(strip, 0, (size_t)(source_rows(c, s->strip) * row) * sizeof(float));
    for (int64_t rows; y < end; y += rows) {
        rows = end - y < s->strip ? end - y : s->strip;
        for (int64_t i = have; i < source_rows(c, rows); i++)
            source_row(run, s, c, n, y * c->stride - c->pad_top + i, strip + i * row);
        for (int64_t i = 0; i < rows; i++)
            depthwise_row(run, s, c, strip + i * c->stride * row, n, y + i,
                          between + i * c->ow * c->c_out);
        if (s->project >= 0)
            project_rows(run, s, c, between, n, y, rows);
        have = c->k_h > c->stride ? c->k_h - c->stride : 0;
        memmove(strip, strip + rows * c->stride * row, (size_t)(have * row) * sizeof(float));
    }
}

static void chain_run(const dd_run *run, const dd_step *s, int phase, int64_t unit, int thread) {
    const dd_conv *c = &run->plan->convs[s->conv];
    int64_t row, end;
    dd_cut(c->n * c->oh, s->units(run->plan, s, phase, dd_threads()), unit, &row, &end);
    while (row < end) {
        int64_t n = row / c->oh, y = row % c->oh;
        int64_t rows = end - row < c->oh - y ? end - row : c->oh - y;
        chain_rows(run, s, c, n, y, y + rows, dd_scratch(run, thread));
        row += rows;
    }
}

/* A unit a thread where an expansion would be computed again at each cut. */
static int64_t chain_units(const dd_plan *plan, const dd_step *s, int phase, int threads) {
    (void)phase;
    const dd_conv *c = &plan->convs[s->conv];
    int64_t units = threads == 1 ? 1 : (s->expand >= 0 ? 1 : 4) * (int64_t)threads;
    return c->n * c->oh < units ? c->n * c->oh : units;
}

/* The 1×1 convolution whose activated result, read by nothing else, is `value`; -1. Its activation
 * comes through `act`, the nodes through conv_node and act_node (-1: none). */
static int producer_1x1(const dd_plan *plan, int value, dd_act *act, int *conv_node,
                        int *act_node) {
    const dd_graph *g = plan->graph;
    *act_node = -1;
    for (int depth = 0; depth < 2; depth++) {
        const dd_value *v = &g->values[value];
        if (v->kind != DD_VALUE_NODE || plan->taken[v->producer] || dd_is_output(plan, value) ||
            dd_sole_reader(plan, value) < 0 || plan->values[value].pending ||
            plan->values[value].root != value)
            return -1;
        const dd_node *n = &g->nodes[v->producer];
        if (n->op == &dd_op_conv && plan->conv_of[v->producer] >= 0 &&
            dd_conv_pointwise(&plan->convs[plan->conv_of[v->producer]]) &&
            dd_is_stored(plan, n->in[0])) {
            *conv_node = v->producer;
            return plan->conv_of[v->producer];
        }
        if (depth || n->op != &dd_op_unary)
            return -1;
        const dd_unary_params *u = n->params;
        *act = (dd_act){(dd_unary)u->kind, (float)u->a, (float)u->b};
        *act_node = v->producer;
        value = n->in[0];
    }
    return -1;
}

static void take_expand(dd_plan *plan, dd_step *s, const dd_conv *c) {
    int conv_node, act_node;
    int64_t bytes = c->n * c->h * c->w * c->c_in * (int64_t)sizeof(float);
    if (bytes / c->n <= EXPANDED_BYTES)
        return;
    s->expand = producer_1x1(plan, s->x, &s->act_expand, &conv_node, &act_node);
    if (s->expand < 0)
        return;
    dd_step_node(plan, s, conv_node);
    if (act_node >= 0)
        dd_step_node(plan, s, act_node);
    s->x = plan->graph->nodes[conv_node].in[0];
}

/* [activation →] 1×1 behind the depthwise convolution. */
static void take_project(dd_plan *plan, dd_step *s, const dd_conv *c) {
    const dd_graph *g = plan->graph;
    int value = s->y, act_node = -1;
    dd_act act = {0};
    for (int depth = 0; depth < 2; depth++) {
        int reader = dd_sole_reader(plan, value);
        if (reader < 0 || plan->taken[reader] || dd_is_output(plan, value) ||
            plan->values[value].root != value)
            return;
        const dd_node *n = &g->nodes[reader];
        if (n->op == &dd_op_unary && depth == 0) {
            const dd_unary_params *u = n->params;
            act = (dd_act){(dd_unary)u->kind, (float)u->a, (float)u->b};
            act_node = reader;
            value = n->out[0];
            continue;
        }
        int conv = n->op == &dd_op_conv && n->in[0] == value ? plan->conv_of[reader] : -1;
        if (conv < 0 || !dd_conv_pointwise(&plan->convs[conv]) ||
            plan->convs[conv].c_in != c->c_out)
            return;
        if (act_node >= 0)
            dd_step_node(plan, s, act_node);
        dd_step_node(plan, s, reader);
        s->act_depthwise = act;
        s->project = conv;
        s->y = n->out[0];
        return;
    }
}

/* As many rows as keep both strips within the budget. */
static void choose_strip(const dd_plan *plan, dd_step *s, const dd_conv *c) {
    int64_t rows = c->oh, bytes;
    for (;; rows = (rows + 1) / 2) {
        bytes = (source_rows(c, rows) * padded_width(c) * c->c_in +
                 (s->project >= 0 ? rows * c->ow * c->c_out : 0)) *
                (int64_t)sizeof(float);
        if (plan->options.strip_rows > 0 && rows > plan->options.strip_rows)
            continue;
        if (bytes <= STRIP_BYTES || rows == 1)
            break;
    }
    s->strip = (int)rows;
    s->scratch = (size_t)bytes;
}

dd_status dd_match_chain(dd_plan *plan, const dd_store *store, int node, bool *matched) {
    (void)store;
    const dd_node *n = &plan->graph->nodes[node];
    if (plan->graph->training || n->op != &dd_op_conv || plan->conv_of[node] < 0)
        return DD_OK;
    dd_conv *c = &plan->convs[plan->conv_of[node]];
    if (!c->depthwise || c->k_h > 64 || plan->values[n->in[0]].pending)
        return DD_OK;
    dd_step *s;
    DD_TRY(dd_step_new(plan, "chain", &s));
    s->conv = plan->conv_of[node];
    s->run = chain_run;
    s->units = chain_units;
    s->x = n->in[0];
    s->y = n->out[0];
    dd_step_node(plan, s, node);
    take_expand(plan, s, c);
    take_project(plan, s, c);
    dd_step_reads(plan, s, s->x);
    const dd_conv *last = s->project >= 0 ? &plan->convs[s->project] : c;
    dd_conv_epilogue(plan, s, last);
    dd_step_writes(s, s->y);
    dd_conv_use(plan, c);
    if (s->expand >= 0)
        dd_conv_use(plan, &plan->convs[s->expand]);
    if (s->project >= 0)
        dd_conv_use(plan, &plan->convs[s->project]);
    choose_strip(plan, s, c);
    *matched = true;
    return DD_OK;
}
