/* The chain step of inference: [stem →] [expand 1×1 →] depthwise [→ project 1×1 with its epilogue],
 * a row at a time, so that what lies between never leaves the cache.
 *
 * The depthwise input is a ring of rows in scratch: each is made once, and only the first rows of
 * a unit are a halo. Depthwise and projection alternate over some tens of pixels. Arithmetic is
 * that of the single steps, to the last bit. An expansion whose map fits in a core's cache anyway
 * is left out: its halo would cost more than it saves. N, H, W, C: the depthwise input; OH, OW: its
 * output; K its side. */
#include "graph/steps.h"

#include <string.h>

#include "base/threads.h"

/* Bytes: of an expanded map that a core's cache holds; of the pixels between two stages, which
 * share the first-level cache with the projection's weights. */
enum { EXPANDED_BYTES = 192 << 10, BETWEEN_BYTES = 24 << 10 };

/* One image while its rows go by. Source rows count from the padding on: row p is row p - pad_top
 * of the map. */
typedef struct chain {
    const dd_run *run;
    const dd_step *s;
    const dd_conv *c;
    int64_t n;
    int64_t width; /* of a source row, with its zeros */
    int64_t pitch; /* of a source pixel */
    int64_t slots; /* rows of the ring */
    float *ring, *between;
    dd_conv_rows stem; /* where there is one */
    float *stem_row;   /* its row, where an expansion follows */
} chain;

/* Pixels of a source row, zeros on both sides included. */
static int64_t padded_width(const dd_conv *c) {
    int64_t reach = (c->ow - 1) * c->stride + c->k_w, least = c->pad_left + c->w;
    return reach > least ? reach : least;
}

static int64_t source_rows(const dd_conv *c, int64_t rows) {
    return (rows - 1) * c->stride + c->k_h;
}

/* Floats between pixels of the ring: an odd number of cache lines, so that a block of pixels
 * spreads over all sets of the first-level cache. */
static int64_t ring_pitch(const dd_conv *c) {
    return ((c->c_in + 15) / 16 | 1) * 16;
}

static float *ring_row(const chain *t, int64_t row) {
    return t->ring + row % t->slots * t->width * t->pitch;
}

static void zero_pixels(const chain *t, float *row, int64_t first, int64_t count) {
    if (count > 0)
        memset(row + first * t->pitch, 0, (size_t)(count * t->pitch) * sizeof(float));
}

/* The stem's record: in front of the expansion or in its place; -1. */
static int stem_of(const dd_plan *plan, const dd_step *s) {
    if (s->front >= 0 || s->expand < 0)
        return s->front;
    return dd_conv_pointwise(&plan->convs[s->expand]) ? -1 : s->expand;
}

/* Source row `row` into its slot. */
static void source_row(chain *t, int64_t row) {
    const dd_run *run = t->run;
    const dd_step *s = t->s;
    int64_t y = row - t->c->pad_top, left = t->c->pad_left, count = t->c->w;
    float *slot = ring_row(t, row), *to = slot + left * t->pitch;
    if (y < 0 || y >= t->c->h) {
        zero_pixels(t, slot, 0, t->width);
        return;
    }
    zero_pixels(t, slot, 0, left);
    zero_pixels(t, slot, left + count, t->width - left - count);
    if (s->expand < 0) {
        dd_load_pixels_at(run, s->x, t->n, y, 0, count, to, t->pitch);
        return;
    }
    if (s->expand == stem_of(run->plan, s)) {
        dd_conv_rows_make(&t->stem, y, to, t->pitch);
        return;
    }
    const dd_conv *e = &run->plan->convs[s->expand];
    const float *made = t->stem_row;
    dd_sources sources;
    dd_gemm g = {.a = &made,
                 .lda = e->c_in,
                 .segments = 1,
                 .k = e->c_in,
                 .b = run->plan->packed + e->packed,
                 .c = to,
                 .ldc = t->pitch,
                 .m = count,
                 .n = t->c->c_in,
                 .bias = dd_conv_bias(run, e),
                 .act = s->act_expand,
                 .n_end = t->c->c_in};
    if (s->front >= 0)
        dd_conv_rows_make(&t->stem, y, t->stem_row, e->c_in);
    else
        dd_gemm_source(run, s->x, t->n, y, 0, &sources, &g);
    run->plan->kernels->gemm_f32(&g);
}

/* `count` outputs of row y from column x on; to `to` where a projection follows. */
static void depthwise_pixels(const chain *t, int64_t y, int64_t x, int64_t count, float *to) {
    const dd_run *run = t->run;
    const dd_step *s = t->s;
    const dd_conv *c = t->c;
    const float *taps[64];
    bool last = s->project < 0;
    for (int r = 0; r < c->k_h; r++)
        taps[r] = ring_row(t, y * c->stride + r) + x * c->stride * t->pitch;
    dd_depthwise d = {.rows = taps,
                      .pitch = t->pitch,
                      .k = c->k_h,
                      .stride = c->stride,
                      .c = c->c_in,
                      .width = count,
                      .w = run->plan->packed + c->packed,
                      .wpitch = dd_depthwise_pitch(c),
                      .bias = dd_conv_bias(run, c),
                      .act = last ? s->act : s->act_depthwise,
                      .y = to,
                      .y_pitch = c->c_out};
    if (last) {
        d.y_pitch = run->plan->values[s->y].pitch;
        d.y = dd_row(run, s->y, t->n, y) + x * d.y_pitch;
    }
    if (last && s->residual >= 0) {
        d.residual_pitch = run->plan->values[s->residual].pitch;
        d.residual = dd_row(run, s->residual, t->n, y) + x * d.residual_pitch;
    }
    run->plan->kernels->depthwise_f32(&d);
}

/* The projection of `count` pixels from (y, x) on; they may run over whole rows. */
static void project_pixels(const chain *t, int64_t y, int64_t x, int64_t count) {
    const dd_run *run = t->run;
    const dd_step *s = t->s;
    const dd_conv *p = &run->plan->convs[s->project];
    const float *from = t->between;
    int64_t ldc = run->plan->values[s->y].pitch;
    dd_gemm g = {.a = &from,
                 .lda = t->c->c_out,
                 .segments = 1,
                 .k = t->c->c_out,
                 .b = run->plan->packed + p->packed,
                 .c = dd_row(run, s->y, t->n, y) + x * ldc,
                 .ldc = ldc,
                 .m = count,
                 .n = p->c_out,
                 .bias = dd_conv_bias(run, p),
                 .act = dd_product_act(s),
                 .act_first = s->act_first,
                 .n_end = p->c_out};
    if (s->residual >= 0) {
        g.ldr = run->plan->values[s->residual].pitch;
        g.residual = dd_row(run, s->residual, t->n, y) + x * g.ldr;
    }
    run->plan->kernels->gemm_f32(&g);
}

/* Output rows [y, end). */
static void chain_rows(chain *t, int64_t y, int64_t end) {
    const dd_conv *c = t->c;
    int64_t chunk = t->s->pixels, made = 0;
    for (int64_t rows; y < end; y += rows) {
        rows = end - y < t->s->strip ? end - y : t->s->strip;
        int64_t first = y * c->stride, last = first + source_rows(c, rows);
        for (made = made > first ? made : first; made < last; made++)
            source_row(t, made);
        if (rows > 1) { /* small maps: the pixels of several rows make one product */
            for (int64_t i = 0; i < rows; i++)
                depthwise_pixels(t, y + i, 0, c->ow, t->between + i * c->ow * c->c_out);
            if (t->s->project >= 0)
                project_pixels(t, y, 0, rows * c->ow);
            continue;
        }
        for (int64_t x = 0; x < c->ow; x += chunk) {
            int64_t count = c->ow - x < chunk ? c->ow - x : chunk;
            depthwise_pixels(t, y, x, count, t->between);
            if (t->s->project >= 0)
                project_pixels(t, y, x, count);
        }
    }
}

static void chain_run(const dd_run *run, const dd_step *s, int phase, int64_t unit, int thread) {
    const dd_conv *c = &run->plan->convs[s->conv];
    chain t = {.run = run,
               .s = s,
               .c = c,
               .width = padded_width(c),
               .pitch = ring_pitch(c),
               .slots = source_rows(c, s->strip),
               .ring = dd_scratch(run, thread)};
    t.between = t.ring + t.slots * t.width * t.pitch;
    const int stem = stem_of(run->plan, s);
    int64_t row, end;
    dd_cut(c->n * c->oh, s->units(run->plan, s, phase, dd_threads()), unit, &row, &end);
    while (row < end) {
        int64_t y = row % c->oh, rows = end - row < c->oh - y ? end - row : c->oh - y;
        t.n = row / c->oh;
        if (stem >= 0)
            t.stem = (dd_conv_rows){.run = run,
                                    .c = &run->plan->convs[stem],
                                    .x = s->x,
                                    .n = t.n,
                                    .act = stem == s->front ? s->act_front : s->act_expand,
                                    .ring = t.between + s->between_floats};
        t.stem_row = stem >= 0 ? t.stem.ring + dd_conv_rows_floats(t.stem.c) : NULL;
        chain_rows(&t, y, y + rows);
        row += rows;
    }
}

/* A unit a thread where an expansion would be computed again at each cut; else as many for each
 * thread, up to four, as are HALOS times their halo, whose rows are loaded again. */
enum { HALOS = 4 };
static int64_t chain_units(const dd_plan *plan, const dd_step *s, int phase, int threads) {
    (void)phase;
    const dd_conv *c = &plan->convs[s->conv];
    int64_t rows = c->n * c->oh, halo = c->k_h > c->stride ? c->k_h - c->stride : 1;
    int64_t each = s->expand >= 0 || threads == 1 ? 1 : rows / (HALOS * halo * threads);
    int64_t units = (each < 1 ? 1 : each < 4 ? each : 4) * threads;
    return rows < units ? rows : units;
}

/* A 1×1 that reads in place, or a stem. */
static bool makes_rows(const dd_plan *plan, const dd_conv *c, int x) {
    return dd_conv_pointwise(c) ? dd_is_in_place(plan, x) : dd_conv_has_rows(c);
}

/* The 1×1 convolution, or the stem, whose activated result, read by nothing else, is `value`; -1.
 * Its activation comes through `act`, the nodes through conv_node and act_node (-1: none). */
static int row_producer(const dd_plan *plan, int value, dd_act *act, int *conv_node,
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
            makes_rows(plan, &plan->convs[plan->conv_of[v->producer]], n->in[0])) {
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

static void take_producer(dd_plan *plan, dd_step *s, int conv_node, int act_node) {
    dd_step_node(plan, s, conv_node);
    if (act_node >= 0)
        dd_step_node(plan, s, act_node);
    s->x = plan->graph->nodes[conv_node].in[0];
}

static void take_expand(dd_plan *plan, dd_step *s, const dd_conv *c) {
    int conv_node, act_node;
    int64_t bytes = c->n * c->h * c->w * c->c_in * (int64_t)sizeof(float);
    if (bytes / c->n <= EXPANDED_BYTES)
        return;
    s->expand = row_producer(plan, s->x, &s->act_expand, &conv_node, &act_node);
    if (s->expand < 0)
        return;
    take_producer(plan, s, conv_node, act_node);
    if (!dd_conv_pointwise(&plan->convs[s->expand]))
        return;
    int front = row_producer(plan, s->x, &s->act_front, &conv_node, &act_node);
    if (front < 0 || dd_conv_pointwise(&plan->convs[front]))
        return;
    s->front = front;
    take_producer(plan, s, conv_node, act_node);
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

/* Pixels between two stages at a time; on small maps so many rows that a product has enough. */
static void choose_strip(const dd_plan *plan, dd_step *s, const dd_conv *c) {
    int64_t pixel = c->c_in * (int64_t)sizeof(float), ring = ring_pitch(c) * (int64_t)sizeof(float);
    int64_t pixels = BETWEEN_BYTES / pixel / 16 * 16;
    pixels = pixels < 16 ? 16 : pixels;
    int64_t rows = plan->options.strip_rows > 0 ? plan->options.strip_rows : pixels / c->ow;
    rows = rows < 1 ? 1 : rows < c->oh ? rows : c->oh;
    const dd_conv *front = stem_of(plan, s) >= 0 ? &plan->convs[stem_of(plan, s)] : NULL;
    int64_t stem = front ? dd_conv_rows_floats(front) + front->ow * front->c_out : 0;
    s->strip = (int)rows;
    s->pixels = (int)pixels;
    s->between_floats = ((rows > 1 ? rows * c->ow : pixels) * c->c_in + 15) / 16 * 16;
    s->scratch = (size_t)(source_rows(c, rows) * padded_width(c) * ring) +
                 (size_t)(s->between_floats + stem) * sizeof(float);
}

dd_status dd_match_chain(dd_plan *plan, const dd_store *store, int node, bool *matched) {
    (void)store;
    const dd_node *n = &plan->graph->nodes[node];
    if (plan->graph->training || n->op != &dd_op_conv || plan->conv_of[node] < 0)
        return DD_OK;
    dd_conv *c = &plan->convs[plan->conv_of[node]];
    if (!c->depthwise || c->k_h > 64 || plan->values[n->in[0]].pending == DD_PENDING_BN_DX)
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
    if (s->front >= 0)
        dd_conv_use(plan, &plan->convs[s->front]);
    if (s->project >= 0)
        dd_conv_use(plan, &plan->convs[s->project]);
    choose_strip(plan, s, c);
    *matched = true;
    return DD_OK;
}
