/* The pool step: max_pool and avg_pool by rows and threads, and the mean or sum of a whole map.
 *
 * A maximum of several rows and columns is that of columns of maxima: the rows of a window first,
 * all pixels of the map's row at once, into scratch, then its columns. So a 13×13 window costs 26
 * looks a pixel and not 169. A whole map is cut by channels, so its sum has one order.
 *
 * With a convolution in front (conv_pool), its rows are made in a ring of scratch as the windows
 * come to them, and never stored. */
#include <string.h>

#include "base/threads.h"
#include "graph/steps.h"

enum { MAX_TAPS = 64, BLOCK_CHANNELS = 64 };

static int item(const dd_ints *list, int i, int initial) {
    return list->n > i ? (int)list->v[i] : initial;
}

/* The windows and the map that they look at. */
typedef struct window {
    int k_h, k_w, stride_y, stride_x, top, left;
    int64_t h, w, c, pitch; /* of the map */
    bool own;               /* the lanes between its pixels may be read */
} window;

static window window_of(const dd_plan *plan, const dd_step *s) {
    const dd_pool_params *p = plan->graph->nodes[s->nodes[0]].params;
    const dd_pvalue *x = &plan->values[s->conv < 0 ? s->x : s->pooled];
    const int64_t *dims = x->type.dims;
    window w = {.k_h = item(&p->kernel, 0, (int)dims[1]),
                .k_w = item(&p->kernel, 1, (int)dims[2]),
                .top = item(&p->pads, 0, 0),
                .left = item(&p->pads, 1, 0),
                .h = dims[1],
                .w = dims[2],
                .c = dims[3],
                .pitch = s->conv < 0 ? x->pitch : dims[3],
                .own = x->root == s->x};
    w.stride_y = item(&p->stride, 0, w.k_h);
    w.stride_x = item(&p->stride, 1, w.k_w);
    return w;
}

static bool is_max(const dd_plan *plan, const dd_step *s) {
    return plan->graph->nodes[s->nodes[0]].op == &dd_op_max_pool;
}

/* Whether rows first, then columns, is less work. */
static bool in_two_passes(const dd_plan *plan, const dd_step *s, const window *w) {
    int64_t out = plan->values[s->y].type.dims[2];
    return is_max(plan, s) && w->k_h > 1 && w->k_w > 1 &&
           w->k_h * w->k_w * out >= w->k_h * w->w + w->k_w * out;
}

/* The convolution's rows while the windows go down an image. */
typedef struct made_rows {
    dd_conv_rows rows;
    float *ring;
    int64_t made;
} made_rows;

/* The rows of the window of output row y, NULL outside of the map. */
static void window_rows(const dd_run *run, const dd_step *s, const window *w, made_rows *m,
                        int64_t n, int64_t y, const float **rows) {
    int64_t first = y * w->stride_y - w->top, row = w->w * w->pitch;
    for (int r = 0; r < w->k_h; r++) {
        int64_t at = first + r;
        rows[r] = NULL;
        if (at < 0 || at >= w->h)
            continue;
        if (s->conv < 0) {
            rows[r] = dd_row(run, s->x, n, at);
            continue;
        }
        float *slot = m->ring + at % w->k_h * row;
        if (at >= m->made) {
            dd_conv_rows_make(&m->rows, at, slot, w->pitch);
            m->made = at + 1;
        }
        rows[r] = slot;
    }
}

/* The largest of the window's rows, for each pixel of the map's row, at the map's own pitch. */
static void maxima_of_rows(const dd_run *run, const window *w, const float *const *rows,
                           float *to) {
    dd_pool p = {.rows = rows,
                 .pitch = w->pitch,
                 .in_width = w->w,
                 .width = w->w,
                 .k_h = w->k_h,
                 .k_w = 1,
                 .stride = 1,
                 .c = (int)w->c,
                 .y = to,
                 .y_pitch = w->pitch};
    if (w->pitch == w->c || w->own) { /* one long pixel: the pad lanes are its own */
        p.in_width = p.width = 1;
        p.c = (int)((w->w - 1) * w->pitch + w->c);
    }
    run->plan->kernels->pool_f32(&p);
}

static void pool_row(const dd_run *run, const dd_step *s, const window *w, const float **rows,
                     int64_t n, int64_t y, float *scratch) {
    const dd_pvalue *out = &run->plan->values[s->y];
    const dd_pool_params *params = run->plan->graph->nodes[s->nodes[0]].params;
    const float *maxima = scratch;
    dd_pool p = {.rows = rows,
                 .pitch = w->pitch,
                 .in_width = w->w,
                 .width = out->type.dims[2],
                 .k_h = w->k_h,
                 .k_w = w->k_w,
                 .stride = w->stride_x,
                 .pad_left = w->left,
                 .c = (int)w->c,
                 .mean = !is_max(run->plan, s),
                 .count_pad = params->count_pad,
                 .y = dd_row(run, s->y, n, y),
                 .y_pitch = out->pitch};
    if (in_two_passes(run->plan, s, w)) {
        maxima_of_rows(run, w, rows, scratch);
        p.rows = &maxima;
        p.k_h = 1;
    }
    run->plan->kernels->pool_f32(&p);
}

static int64_t maxima_floats(const window *w) {
    return (w->w * w->pitch + 15) / 16 * 16;
}

static void pool_run(const dd_run *run, const dd_step *s, int phase, int64_t unit, int thread) {
    const dd_type *y = &run->plan->values[s->y].type;
    window w = window_of(run->plan, s);
    float *scratch = dd_scratch(run, thread);
    made_rows m = {.ring = scratch + maxima_floats(&w)};
    int64_t row, end;
    dd_cut(y->dims[0] * y->dims[1], s->units(run->plan, s, phase, dd_threads()), unit, &row, &end);
    for (bool begins = true; row < end; row++) {
        const float *rows[MAX_TAPS];
        int64_t n = row / y->dims[1];
        if (s->conv >= 0 && (begins || row % y->dims[1] == 0)) { /* another image: other rows */
            m.rows = (dd_conv_rows){.run = run,
                                    .c = &run->plan->convs[s->conv],
                                    .x = s->x,
                                    .n = n,
                                    .act = s->act,
                                    .ring = m.ring + w.k_h * maxima_floats(&w)};
            m.made = 0;
        }
        begins = false;
        window_rows(run, s, &w, &m, n, row % y->dims[1], rows);
        pool_row(run, s, &w, rows, n, row % y->dims[1], scratch);
    }
}

/* ---- a whole map --------------------------------------------------------------------------- */

static int64_t channel_blocks(const dd_plan *plan, const dd_step *s) {
    return (plan->values[s->x].type.dims[3] + BLOCK_CHANNELS - 1) / BLOCK_CHANNELS;
}

/* One image's block of channels. */
static void whole_run(const dd_run *run, const dd_step *s, int phase, int64_t unit, int thread) {
    const dd_plan *plan = run->plan;
    const dd_pvalue *x = &plan->values[s->x], *y = &plan->values[s->y];
    const dd_node *node = &plan->graph->nodes[s->nodes[0]];
    int64_t blocks = channel_blocks(plan, s), n = unit / blocks;
    int64_t first = unit % blocks * BLOCK_CHANNELS, left = x->type.dims[3] - first;
    double sums[BLOCK_CHANNELS] = {0};
    int c = (int)(left < BLOCK_CHANNELS ? left : BLOCK_CHANNELS);
    (void)phase;
    (void)thread;
    plan->kernels->channel_sums_f32(&(dd_channel_sums){.x = dd_row(run, s->x, n, 0) + first,
                                                       .pitch = x->pitch,
                                                       .row_pitch = x->type.dims[2] * x->pitch,
                                                       .width = x->type.dims[2],
                                                       .rows = x->type.dims[1],
                                                       .c = c,
                                                       .sum = sums});
    bool sum =
        node->op == &dd_op_reduce && ((const dd_reduce_params *)node->params)->kind == DD_SUM;
    double count = sum ? 1 : (double)(x->type.dims[1] * x->type.dims[2]);
    float *to = (float *)plan->data[s->y] + n * y->image + first;
    for (int i = 0; i < c; i++)
        to[i] = (float)(sums[i] / count);
}

static int64_t whole_units(const dd_plan *plan, const dd_step *s, int phase, int threads) {
    (void)phase;
    (void)threads;
    return plan->values[s->x].type.dims[0] * channel_blocks(plan, s);
}

/* ---- matching ------------------------------------------------------------------------------ */

/* A mean or sum over height and width, whatever it is called. */
static bool is_whole_map(const dd_plan *plan, const dd_node *n) {
    const dd_type *x = &plan->values[n->in[0]].type;
    if (n->op == &dd_op_avg_pool)
        return ((const dd_pool_params *)n->params)->kernel.n == 0;
    const dd_reduce_params *p = n->params;
    if (n->op != &dd_op_reduce || n->n_in > 1 || (p->kind != DD_SUM && p->kind != DD_MEAN) ||
        p->axes.n != 2 || x->rank != 4)
        return false;
    int64_t a = p->axes.v[0], b = p->axes.v[1];
    a = a < 0 ? a + 4 : a;
    b = b < 0 ? b + 4 : b;
    return (a == 1 && b == 2) || (a == 2 && b == 1);
}

/* Windows by rows: those whose divisor the kernel knows. */
static bool is_window(const dd_plan *plan, const dd_node *n) {
    if ((n->op != &dd_op_max_pool && n->op != &dd_op_avg_pool) || n->n_out != 1)
        return false;
    const dd_pool_params *p = n->params;
    bool dilated = item(&p->dilation, 0, 1) != 1 || item(&p->dilation, 1, 1) != 1;
    return item(&p->kernel, 0, (int)plan->values[n->in[0]].type.dims[1]) <= MAX_TAPS && !dilated &&
           !(p->ceil_mode && p->count_pad);
}

/* The convolution, with its activation, that alone feeds `value` to the pool; nothing else knows
 * it. Covers its nodes. */
static bool take_convolution(dd_plan *plan, dd_step *s, int value) {
    const dd_graph *g = plan->graph;
    int nodes[2], n_nodes = 0;
    s->pooled = value;
    for (;; value = g->nodes[nodes[0]].in[0]) {
        const dd_value *v = &g->values[value];
        if (v->kind != DD_VALUE_NODE || plan->taken[v->producer] || dd_is_output(plan, value) ||
            dd_sole_reader(plan, value) < 0 || plan->values[value].pending ||
            plan->values[value].root != value)
            return false;
        const dd_node *n = &g->nodes[v->producer];
        nodes[n_nodes++] = v->producer;
        if (n->op == &dd_op_conv)
            break;
        if (n->op != &dd_op_unary || n_nodes == 2)
            return false;
        const dd_unary_params *u = n->params;
        s->act = (dd_act){(dd_unary)u->kind, (float)u->a, (float)u->b};
    }
    int conv = plan->conv_of[nodes[n_nodes - 1]];
    if (conv < 0 || !dd_conv_has_rows(&plan->convs[conv]))
        return false;
    s->conv = conv;
    s->x = g->nodes[nodes[n_nodes - 1]].in[0];
    for (int i = 0; i < n_nodes; i++)
        dd_step_node(plan, s, nodes[i]);
    return true;
}

dd_status dd_match_conv_pool(dd_plan *plan, const dd_store *store, int node, bool *matched) {
    (void)store;
    const dd_node *n = &plan->graph->nodes[node];
    if (plan->graph->training || n->op != &dd_op_max_pool || !is_window(plan, n) ||
        dd_type_count(&plan->values[n->out[0]].type) == 0)
        return DD_OK;
    dd_step *s;
    DD_TRY(dd_step_new(plan, "conv_pool", &s));
    dd_step_node(plan, s, node); /* the first: its attributes are read */
    if (!take_convolution(plan, s, n->in[0])) {
        plan->taken[node] = false;
        plan->n_steps--;
        return DD_OK;
    }
    s->run = pool_run;
    s->units = dd_row_units;
    s->y = n->out[0];
    dd_step_reads(plan, s, s->x);
    dd_step_writes(s, s->y);
    dd_conv *c = &plan->convs[s->conv];
    dd_conv_use(plan, c);
    window w = window_of(plan, s);
    s->scratch = (size_t)((1 + w.k_h) * maxima_floats(&w) + dd_conv_rows_floats(c)) * sizeof(float);
    *matched = true;
    return DD_OK;
}

dd_status dd_match_pool(dd_plan *plan, const dd_store *store, int node, bool *matched) {
    (void)store;
    const dd_node *n = &plan->graph->nodes[node];
    if (n->backward || n->n_in == 0)
        return DD_OK;
    bool whole = is_whole_map(plan, n);
    const dd_type *x = &plan->values[n->in[0]].type;
    if ((!whole && !is_window(plan, n)) || x->dtype != DD_F32 ||
        dd_type_count(&plan->values[n->out[0]].type) == 0 || dd_type_count(x) == 0)
        return DD_OK;
    dd_step *s;
    DD_TRY(dd_step_new(plan, "pool", &s));
    s->run = whole ? whole_run : pool_run;
    s->units = whole ? whole_units : dd_row_units;
    s->x = n->in[0];
    s->y = n->out[0];
    dd_step_node(plan, s, node);
    dd_step_reads(plan, s, s->x);
    dd_step_writes(s, s->y);
    s->scratch = (size_t)(x->dims[2] * plan->values[s->x].pitch) * sizeof(float);
    *matched = true;
    return DD_OK;
}
