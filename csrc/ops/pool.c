/* Max and average pooling over the map (N, H, W, C); a window's taps outside the map are left out.
 * With ceil_mode the last window may reach beyond the pads, but begins inside them, as in torch. */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "ops/channels.h"
#include "ops/describe.h"
#include "ops/node.h"
#include "ops/walk.h"

static const dd_field max_fields[] = {
    DD_INTS(dd_pool_params, kernel),       DD_INTS(dd_pool_params, stride),
    DD_INTS(dd_pool_params, pads),         DD_INTS(dd_pool_params, dilation),
    DD_BOOL(dd_pool_params, ceil_mode, 0), DD_END,
};

static const dd_field avg_fields[] = {
    DD_INTS(dd_pool_params, kernel),
    DD_INTS(dd_pool_params, stride),
    DD_INTS(dd_pool_params, pads),
    DD_INTS(dd_pool_params, dilation),
    DD_BOOL(dd_pool_params, ceil_mode, 0),
    DD_BOOL(dd_pool_params, count_pad, 0),
    DD_END,
};

/* One axis of the windows: `taps`, `dilation` pixels apart, over `reach` pixels; `out` windows. */
typedef struct axis {
    int64_t in, out, taps, stride, before, after, dilation, reach;
} axis;

static axis axis_of(const dd_pool_params *p, const dd_type *x, int k) {
    axis a = {.in = x->dims[1 + k],
              .before = dd_item(&p->pads, k, 0),
              .after = dd_item(&p->pads, 2 + k, 0),
              .dilation = dd_item(&p->dilation, k, 1)};
    a.taps = dd_item(&p->kernel, k, a.in);
    a.stride = dd_item(&p->stride, k, a.taps);
    a.reach = a.dilation * (a.taps - 1) + 1;
    int64_t room = a.in + a.before + a.after - a.reach;
    if (room < 0 || a.stride < 1)
        return a;
    a.out = (room + (p->ceil_mode ? a.stride - 1 : 0)) / a.stride + 1;
    if (p->ceil_mode && (a.out - 1) * a.stride >= a.in + a.before)
        a.out--;
    return a;
}

static dd_status check_attributes(const char *who, const dd_pool_params *p) {
    if (p->kernel.n)
        DD_TRY(dd_need_list(who, "kernel", &p->kernel, 2, 1));
    else if (p->stride.n || p->pads.n || p->dilation.n)
        return dd_fail(DD_EVALUE, "%s: stride, pads and dilation need a kernel", who);
    if (p->stride.n)
        DD_TRY(dd_need_list(who, "stride", &p->stride, 2, 1));
    if (p->dilation.n)
        DD_TRY(dd_need_list(who, "dilation", &p->dilation, 2, 1));
    if (p->pads.n)
        DD_TRY(dd_need_list(who, "pads", &p->pads, 4, 0));
    return DD_OK;
}

/* Pads below the window's reach, so that every window meets the map (a dilated one may still have
 * all its taps beside it). */
static dd_status pool_infer(const dd_node *node, const dd_type *in, dd_type *out, int *n_out) {
    const dd_pool_params *p = node->params;
    const char *who = node->op->name;
    DD_TRY(dd_need_rank(who, "x", &in[0], 4, 4));
    DD_TRY(check_attributes(who, p));
    out[0] = in[0];
    for (int k = 0; k < 2; k++) {
        axis a = axis_of(p, &in[0], k);
        if (a.before >= a.reach || a.after >= a.reach)
            return dd_fail(DD_EVALUE,
                           "%s: pads are %" PRId64 " and %" PRId64
                           ", less than the kernel's %" PRId64 " is needed",
                           who, a.before, a.after, a.reach);
        if (a.out < 1)
            return dd_fail(DD_EVALUE,
                           "%s: x has %" PRId64 " pixels along axis %d, too few for %" PRId64
                           " taps",
                           who, a.in, 1 + k, a.taps);
        out[0].dims[1 + k] = a.out;
    }
    *n_out = 1;
    return DD_OK;
}

/* ---- windows ------------------------------------------------------------------------------- */

/* The taps of a window along one axis: n of them inside the map, from position `first` on; `size`
 * counts those up to the pads' end, for count_pad. */
typedef struct span {
    int64_t first, n, size;
} span;

static int64_t taps_below(int64_t first, int64_t dilation, int64_t end, int64_t taps) {
    int64_t n = end > first ? (end - first - 1) / dilation + 1 : 0;
    return n < taps ? n : taps;
}

static span span_of(const axis *a, int64_t o) {
    int64_t start = o * a->stride - a->before;
    int64_t skipped = start < 0 ? (-start + a->dilation - 1) / a->dilation : 0;
    int64_t below = taps_below(start, a->dilation, a->in, a->taps);
    return (span){.first = start + skipped * a->dilation,
                  .n = below > skipped ? below - skipped : 0,
                  .size = taps_below(start, a->dilation, a->in + a->after, a->taps)};
}

typedef struct geometry {
    axis y, x;
    int64_t n, c;
    bool count_pad;
} geometry;

/* Of the map `x` is the type of: of dx as well. */
static geometry measure(const dd_op_args *a, const dd_type *x) {
    const dd_pool_params *p = a->params;
    return (geometry){.y = axis_of(p, x, 0),
                      .x = axis_of(p, x, 1),
                      .n = x->dims[0],
                      .c = x->dims[3],
                      .count_pad = p->count_pad};
}

/* One output pixel's window. */
typedef struct window {
    span y, x;
    int64_t taps, base; /* inside the map; row of the array where the image begins */
} window;

/* `row` counts output pixels over all images. */
static window window_at(const geometry *g, int64_t row) {
    int64_t map = g->y.out * g->x.out;
    window w = {.y = span_of(&g->y, row % map / g->x.out),
                .x = span_of(&g->x, row % g->x.out),
                .base = row / map * g->y.in * g->x.in};
    w.taps = w.y.n * w.x.n;
    return w;
}

/* Position y·W + x in the map of tap t of those inside. */
static int64_t tap_at(const geometry *g, const window *w, int64_t t) {
    int64_t y = w->y.first + t / w->x.n * g->y.dilation;
    return y * g->x.in + w->x.first + t % w->x.n * g->x.dilation;
}

/* ---- max ----------------------------------------------------------------------------------- */

/* Where each maximum was: y·W + x in the map; the first one on ties; -1 without taps. */
static dd_status max_saved(const dd_node *node, const dd_type *in, dd_type *saved, int *n) {
    int n_out;
    DD_TRY(pool_infer(node, in, saved, &n_out));
    saved[0].dtype = DD_S32;
    if (in[0].dims[1] * in[0].dims[2] > INT32_MAX)
        return dd_fail(DD_EVALUE, "max_pool: x has 2^31 pixels or more");
    *n = 1;
    return DD_OK;
}

/* Takes tap `at` into the maxima. A NaN wins against every number and stays: a broken step shows up
 * in the loss. */
static void max_tap(const float *restrict x, float *restrict most, int64_t c) {
    for (int64_t i = 0; i < c; i++)
        most[i] = x[i] > most[i] || x[i] != x[i] ? x[i] : most[i];
}

static void max_tap_index(const float *restrict x, float *restrict most, int32_t *restrict best,
                          int32_t at, int64_t c) {
    for (int64_t i = 0; i < c; i++)
        if (x[i] > most[i] || (isnan(x[i]) && !isnan(most[i]))) {
            most[i] = x[i];
            best[i] = at;
        }
}

/* A window without taps has the maximum of nothing, as in torch and ONNX. */
static void max_begin(const geometry *g, const window *w, const dd_array *x, float *most,
                      int32_t *best) {
    int64_t at = w->taps ? tap_at(g, w, 0) : -1;
    for (int64_t i = 0; i < g->c; i++)
        most[i] = w->taps ? dd_row_f32(x, w->base + at)[i] : -INFINITY;
    for (int64_t i = 0; best && i < g->c; i++)
        best[i] = (int32_t)at;
}

static dd_status max_forward(const dd_op_args *a) {
    const dd_array *x = &a->in[0], *y = &a->out[0];
    bool keep = a->training && a->saved[0].data;
    geometry g = measure(a, &x->type);
    for (int64_t row = 0; row < g.n * g.y.out * g.x.out; row++) {
        window w = window_at(&g, row);
        float *most = dd_row_f32(y, row);
        int32_t *best = keep ? (int32_t *)(void *)dd_row_any(&a->saved[0], row) : NULL;
        max_begin(&g, &w, x, most, best);
        for (int64_t t = 1; t < w.taps; t++) {
            int64_t at = tap_at(&g, &w, t);
            if (keep)
                max_tap_index(dd_row_f32(x, w.base + at), most, best, (int32_t)at, g.c);
            else
                max_tap(dd_row_f32(x, w.base + at), most, g.c);
        }
    }
    return DD_OK;
}

/* Windows overlap where the stride is below the kernel, so the gradients add up. */
static dd_status max_backward(const dd_op_args *a) {
    const dd_array *dy = &a->dout[0], *dx = &a->din[0];
    if (!dx->data)
        return DD_OK;
    geometry g = measure(a, &dx->type);
    dd_fill_zero(dx);
    for (int64_t row = 0; row < g.n * g.y.out * g.x.out; row++) {
        int64_t base = row / (g.y.out * g.x.out) * g.y.in * g.x.in;
        const int32_t *best = (const int32_t *)(const void *)dd_row_any(&a->saved[0], row);
        for (int64_t c = 0; c < g.c; c++)
            if (best[c] >= 0)
                dd_row_f32(dx, base + best[c])[c] += dd_row_f32(dy, row)[c];
    }
    return DD_OK;
}

/* ---- average ------------------------------------------------------------------------------- */

enum { BLOCK = 64 }; /* channels whose sums are held at a time */

/* The divisor is the window's own: at the border it has fewer taps, unless pads count. No taps: 0.
 */
static double divisor_of(const geometry *g, const window *w) {
    int64_t n = g->count_pad ? w->y.size * w->x.size : w->taps;
    return n ? (double)n : 1;
}

static dd_status avg_forward(const dd_op_args *a) {
    const dd_array *x = &a->in[0], *y = &a->out[0];
    geometry g = measure(a, &x->type);
    double sums[BLOCK];
    for (int64_t row = 0; row < g.n * g.y.out * g.x.out; row++) {
        window w = window_at(&g, row);
        for (int64_t first = 0; first < g.c; first += BLOCK) {
            int64_t n = g.c - first < BLOCK ? g.c - first : BLOCK;
            float *to = dd_row_f32(y, row) + first;
            memset(sums, 0, sizeof sums);
            for (int64_t t = 0; t < w.taps; t++) {
                const float *from = dd_row_f32(x, w.base + tap_at(&g, &w, t)) + first;
                for (int64_t c = 0; c < n; c++)
                    sums[c] += (double)from[c];
            }
            for (int64_t c = 0; c < n; c++)
                to[c] = (float)(sums[c] / divisor_of(&g, &w));
        }
    }
    return DD_OK;
}

/* Every tap gets its share. */
static dd_status avg_backward(const dd_op_args *a) {
    const dd_array *dy = &a->dout[0], *dx = &a->din[0];
    if (!dx->data)
        return DD_OK;
    geometry g = measure(a, &dx->type);
    dd_fill_zero(dx);
    for (int64_t row = 0; row < g.n * g.y.out * g.x.out; row++) {
        window w = window_at(&g, row);
        const float *d = dd_row_f32(dy, row);
        for (int64_t t = 0; t < w.taps; t++) {
            float *to = dd_row_f32(dx, w.base + tap_at(&g, &w, t));
            for (int64_t c = 0; c < g.c; c++)
                to[c] += (float)((double)d[c] / divisor_of(&g, &w));
        }
    }
    return DD_OK;
}

/* ---- rules --------------------------------------------------------------------------------- */

/* From the first tap of all windows to the last one (dilated windows may have none inside). */
static dd_status pool_window(const dd_node *node, const dd_type *in, dd_range out, int input,
                             dd_range *rows) {
    axis a = axis_of(node->params, &in[0], 0);
    (void)input;
    *rows = (dd_range){a.in, 0};
    for (int64_t o = out.begin; o < out.end; o++) {
        span s = span_of(&a, o);
        int64_t end = s.first + (s.n - 1) * a.dilation + 1;
        if (s.n == 0)
            continue;
        rows->begin = s.first < rows->begin ? s.first : rows->begin;
        rows->end = end > rows->end ? end : rows->end;
    }
    if (rows->end == 0)
        *rows = (dd_range){0, 0};
    return DD_OK;
}

static void pool_channels(const dd_node *node, dd_channel_ids *ids) {
    (void)node;
    dd_channels_keep(ids, 0, 0);
}

static int pool_sample(int i, void *params, dd_type *in, int *n_in) {
    static const struct {
        dd_pool_params p;
        int n;
        dd_type in[1];
    } cases[] = {
        {{.kernel = INTS(2, 2)}, 1, {F32(2, 4, 6, 7)}},
        {{.kernel = INTS(3, 3), .stride = INTS(2, 2), .pads = INTS(1, 1, 1, 1)},
         1,
         {F32(2, 7, 6, 5)}},
        {{.kernel = INTS(5, 5), .stride = INTS(1, 1), .pads = INTS(2, 2, 2, 2)},
         1,
         {F32(1, 6, 4, 8)}},
        {{.kernel = INTS(3, 2), .stride = INTS(2, 3), .pads = INTS(0, 1, 2, 0), .ceil_mode = 1},
         1,
         {F32(1, 8, 9, 3)}},
        {{.kernel = INTS(2, 2), .stride = INTS(2, 2), .ceil_mode = 1}, 1, {F32(1, 5, 5, 4)}},
        {{.ceil_mode = 0}, 1, {F32(2, 3, 5, 9)}},
        {{.kernel = INTS(3, 2),
          .stride = INTS(1, 2),
          .pads = INTS(2, 0, 1, 2),
          .dilation = INTS(2, 3),
          .ceil_mode = 1},
         1,
         {F32(1, 7, 8, 3)}},
        {{.kernel = INTS(2, 2), .stride = INTS(1, 1), .dilation = INTS(2, 2)},
         1,
         {F32(2, 5, 4, 70)}},
    };
    SAMPLES(cases, i, params, in, n_in);
}

/* The same, then with the pads counted. */
static int avg_sample(int i, void *params, dd_type *in, int *n_in) {
    if (i < 8)
        return pool_sample(i, params, in, n_in);
    if (!pool_sample(i - 7, params, in, n_in))
        return 0;
    ((dd_pool_params *)params)->count_pad = 1;
    return 1;
}

const dd_op dd_op_max_pool = {
    .name = "max_pool",
    .doc = "The maximum over windows of x (N, H, W, C). An empty kernel: the whole map; an empty "
           "stride: the kernel; an empty dilation: 1.",
    .version = 1,
    .min_in = 1,
    .max_in = 1,
    .n_saved = 1,
    .params_size = sizeof(dd_pool_params),
    .fields = max_fields,
    .infer = pool_infer,
    .saved = max_saved,
    .forward = max_forward,
    .backward = max_backward,
    .window = pool_window,
    .channels = pool_channels,
    .quant = DD_Q_TIE,
    .sample = pool_sample,
};

const dd_op dd_op_avg_pool = {
    .name = "avg_pool",
    .doc = "The mean over windows of x (N, H, W, C), over their taps inside the map, or with the "
           "pads counted. An empty kernel: the whole map; an empty stride: the kernel; an empty "
           "dilation: 1.",
    .version = 1,
    .min_in = 1,
    .max_in = 1,
    .params_size = sizeof(dd_pool_params),
    .fields = avg_fields,
    .infer = pool_infer,
    .forward = avg_forward,
    .backward = avg_backward,
    .window = pool_window,
    .channels = pool_channels,
    .quant = DD_Q_REQUANT,
    .sample = avg_sample,
};
