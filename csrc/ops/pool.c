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
    DD_INTS(dd_pool_params, kernel),
    DD_INTS(dd_pool_params, stride),
    DD_INTS(dd_pool_params, pads),
    DD_BOOL(dd_pool_params, ceil_mode, 0),
    DD_END,
};

static const dd_field avg_fields[] = {
    DD_INTS(dd_pool_params, kernel),       DD_INTS(dd_pool_params, stride),
    DD_INTS(dd_pool_params, pads),         DD_BOOL(dd_pool_params, ceil_mode, 0),
    DD_BOOL(dd_pool_params, count_pad, 0), DD_END,
};

/* One axis of the windows: `taps` wide, `out` of them. */
typedef struct axis {
    int64_t in, out, taps, stride, before, after;
} axis;

static axis axis_of(const dd_pool_params *p, const dd_type *x, int k) {
    axis a = {.in = x->dims[1 + k],
              .before = dd_item(&p->pads, k, 0),
              .after = dd_item(&p->pads, 2 + k, 0)};
    a.taps = dd_item(&p->kernel, k, a.in);
    a.stride = dd_item(&p->stride, k, a.taps);
    int64_t room = a.in + a.before + a.after - a.taps;
    if (room < 0 || a.stride < 1)
        return a;
    a.out = (room + (p->ceil_mode ? a.stride - 1 : 0)) / a.stride + 1;
    if (p->ceil_mode && (a.out - 1) * a.stride >= a.in + a.before)
        a.out--;
    return a;
}

/* Pads below the kernel, so that every window has a tap inside the map. */
static dd_status pool_infer(const dd_node *node, const dd_type *in, dd_type *out, int *n_out) {
    const dd_pool_params *p = node->params;
    const char *who = node->op->name;
    DD_TRY(dd_need_rank(who, "x", &in[0], 4, 4));
    if (p->kernel.n)
        DD_TRY(dd_need_list(who, "kernel", &p->kernel, 2, 1));
    else if (p->stride.n || p->pads.n)
        return dd_fail(DD_EVALUE, "%s: stride and pads need a kernel", who);
    if (p->stride.n)
        DD_TRY(dd_need_list(who, "stride", &p->stride, 2, 1));
    if (p->pads.n)
        DD_TRY(dd_need_list(who, "pads", &p->pads, 4, 0));
    out[0] = in[0];
    for (int k = 0; k < 2; k++) {
        axis a = axis_of(p, &in[0], k);
        if (a.before >= a.taps || a.after >= a.taps)
            return dd_fail(DD_EVALUE,
                           "%s: pads are %" PRId64 " and %" PRId64
                           ", less than the kernel's %" PRId64 " is needed",
                           who, a.before, a.after, a.taps);
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

/* The taps of window `o` inside the map, and its size for count_pad: up to the pads' end. */
static void window_of(const axis *a, int64_t o, int64_t *begin, int64_t *end, int64_t *size) {
    int64_t first = o * a->stride - a->before, last = first + a->taps;
    last = last < a->in + a->after ? last : a->in + a->after;
    *size = last - first;
    *begin = first > 0 ? first : 0;
    *end = last < a->in ? last : a->in;
}

/* One output pixel's window. */
typedef struct window {
    int64_t y0, y1, x0, x1;
    double divisor;
    int64_t base; /* row of the array where the image begins */
} window;

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

/* `row` counts output pixels over all images. */
static window window_at(const geometry *g, int64_t row) {
    window w;
    int64_t height, width, map = g->y.out * g->x.out;
    window_of(&g->y, row % map / g->x.out, &w.y0, &w.y1, &height);
    window_of(&g->x, row % g->x.out, &w.x0, &w.x1, &width);
    w.divisor = (double)(g->count_pad ? height * width : (w.y1 - w.y0) * (w.x1 - w.x0));
    w.base = row / map * g->y.in * g->x.in;
    return w;
}

/* ---- max ----------------------------------------------------------------------------------- */

/* Where each maximum was: y·W + x in the map; the first one on ties. */
static dd_status max_saved(const dd_node *node, const dd_type *in, dd_type *saved, int *n) {
    int n_out;
    DD_TRY(pool_infer(node, in, saved, &n_out));
    saved[0].dtype = DD_S32;
    if (in[0].dims[1] * in[0].dims[2] > INT32_MAX)
        return dd_fail(DD_EVALUE, "max_pool: x has 2^31 pixels or more");
    *n = 1;
    return DD_OK;
}

/* A NaN wins against every number and stays: a broken step shows up in the loss. */
static dd_status max_forward(const dd_op_args *a) {
    const dd_array *x = &a->in[0], *y = &a->out[0];
    bool keep = a->training && a->saved[0].data;
    geometry g = measure(a, &x->type);
    for (int64_t row = 0; row < g.n * g.y.out * g.x.out; row++) {
        window w = window_at(&g, row);
        for (int64_t c = 0; c < g.c; c++) {
            int64_t best = w.y0 * g.x.in + w.x0;
            float most = dd_row_f32(x, w.base + best)[c];
            for (int64_t iy = w.y0; iy < w.y1; iy++)
                for (int64_t ix = w.x0; ix < w.x1; ix++) {
                    float v = dd_row_f32(x, w.base + iy * g.x.in + ix)[c];
                    if (v > most || (isnan(v) && !isnan(most))) {
                        most = v;
                        best = iy * g.x.in + ix;
                    }
                }
            dd_row_f32(y, row)[c] = most;
            if (keep)
                ((int32_t *)(void *)dd_row_any(&a->saved[0], row))[c] = (int32_t)best;
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
        window w = window_at(&g, row);
        const int32_t *best = (const int32_t *)(const void *)dd_row_any(&a->saved[0], row);
        for (int64_t c = 0; c < g.c; c++)
            dd_row_f32(dx, w.base + best[c])[c] += dd_row_f32(dy, row)[c];
    }
    return DD_OK;
}

/* ---- average ------------------------------------------------------------------------------- */

/* The divisor is the window's own: at the border it has fewer taps, unless pads count. */
static dd_status avg_forward(const dd_op_args *a) {
    const dd_array *x = &a->in[0], *y = &a->out[0];
    geometry g = measure(a, &x->type);
    for (int64_t row = 0; row < g.n * g.y.out * g.x.out; row++) {
        window w = window_at(&g, row);
        for (int64_t c = 0; c < g.c; c++) {
            double sum = 0;
            for (int64_t iy = w.y0; iy < w.y1; iy++)
                for (int64_t ix = w.x0; ix < w.x1; ix++)
                    sum += (double)dd_row_f32(x, w.base + iy * g.x.in + ix)[c];
            dd_row_f32(y, row)[c] = (float)(sum / w.divisor);
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
        for (int64_t iy = w.y0; iy < w.y1; iy++)
            for (int64_t ix = w.x0; ix < w.x1; ix++) {
                float *to = dd_row_f32(dx, w.base + iy * g.x.in + ix);
                for (int64_t c = 0; c < g.c; c++)
                    to[c] += (float)((double)d[c] / w.divisor);
            }
    }
    return DD_OK;
}

/* ---- rules --------------------------------------------------------------------------------- */

/* From the first window's first tap to the last one's last. */
static dd_status pool_window(const dd_node *node, const dd_type *in, dd_range out, int input,
                             dd_range *rows) {
    axis a = axis_of(node->params, &in[0], 0);
    int64_t size, unused;
    (void)input;
    *rows = (dd_range){0, 0};
    if (out.end <= out.begin)
        return DD_OK;
    window_of(&a, out.begin, &rows->begin, &unused, &size);
    window_of(&a, out.end - 1, &unused, &rows->end, &size);
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
    };
    SAMPLES(cases, i, params, in, n_in);
}

/* The same, then with the pads counted. */
static int avg_sample(int i, void *params, dd_type *in, int *n_in) {
    if (i < 6)
        return pool_sample(i, params, in, n_in);
    if (!pool_sample(i - 5, params, in, n_in))
        return 0;
    ((dd_pool_params *)params)->count_pad = 1;
    return 1;
}

const dd_op dd_op_max_pool = {
    .name = "max_pool",
    .doc = "The maximum over windows of x (N, H, W, C). An empty kernel: the whole map; an empty "
           "stride: the kernel.",
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
           "pads counted. An empty kernel: the whole map; an empty stride: the kernel.",
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
