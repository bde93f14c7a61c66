/* Transposed convolution: every input pixel adds weight-sized stamps to the output.
 *
 * Letters: N images, H×W input pixels of C channels, P×Q output pixels of O channels, R×S taps. x
 * is (N, H, W, C), weight (C, O/groups, R, S), y (N, P, Q, O). It is the gradient of x of a
 * convolution from O to C channels with the same weight, so its own gradients are conv and conv_dw
 * nodes. The forward is written as a gather over output pixels, so that sums are formed in one
 * place. */
#include <inttypes.h>
#include <string.h>

#include "ops/channels.h"
#include "ops/describe.h"
#include "ops/grad.h"
#include "ops/walk.h"

static const dd_field fields[] = {
    DD_INTS(dd_conv_transpose_params, stride),   DD_INTS(dd_conv_transpose_params, pads),
    DD_INTS(dd_conv_transpose_params, dilation), DD_INTS(dd_conv_transpose_params, output_pad),
    DD_INT(dd_conv_transpose_params, groups, 1), DD_END,
};

/* One axis of the map. */
typedef struct axis {
    int64_t in, out, taps, stride, dilation, before;
} axis;

typedef struct geometry {
    axis y, x;
    int64_t n, c, o, c_group, o_group; /* channels of a group */
} geometry;

/* ---- shapes -------------------------------------------------------------------------------- */

/* A row of output_pad at or beyond the stride would get no stamp, and no convolution would have
 * this operator as its gradient. */
static dd_status check_attributes(const dd_conv_transpose_params *p) {
    const char *who = "conv_transpose";
    DD_TRY(dd_need_window(who, &p->stride, &p->pads, &p->dilation, p->groups));
    if (p->output_pad.n)
        DD_TRY(dd_need_list(who, "output_pad", &p->output_pad, 2, 0));
    for (int k = 0; k < 2; k++)
        if (dd_item(&p->output_pad, k, 0) >= dd_item(&p->stride, k, 1))
            return dd_fail(DD_EVALUE,
                           "%s: output_pad is %" PRId64 ", less than the stride's %" PRId64
                           " is needed",
                           who, dd_item(&p->output_pad, k, 0), dd_item(&p->stride, k, 1));
    return DD_OK;
}

static axis axis_of(const dd_conv_transpose_params *p, int k, int64_t in, int64_t taps) {
    axis a = {.in = in,
              .taps = taps,
              .stride = dd_item(&p->stride, k, 1),
              .dilation = dd_item(&p->dilation, k, 1),
              .before = dd_item(&p->pads, k, 0)};
    a.out = (in - 1) * a.stride + a.dilation * (taps - 1) + 1 + dd_item(&p->output_pad, k, 0) -
            a.before - dd_item(&p->pads, 2 + k, 0);
    return a;
}

static dd_status measure(const dd_conv_transpose_params *p, const dd_type *x, const dd_type *weight,
                         geometry *g) {
    const char *who = "conv_transpose";
    DD_TRY(check_attributes(p));
    DD_TRY(dd_need_rank(who, "x", x, 4, 4));
    DD_TRY(dd_need_rank(who, "weight", weight, 4, 4));
    for (int k = 0; k < 4; k++)
        if (weight->dims[k] < 1 || (k > 0 && k < 3 && x->dims[k] < 1))
            return dd_fail(DD_EVALUE, "%s: weight or x has an empty dimension", who);
    if (weight->dims[0] != x->dims[3])
        return dd_fail(DD_EVALUE, "%s: weight has %" PRId64 " input channels, x has %" PRId64, who,
                       weight->dims[0], x->dims[3]);
    if (x->dims[3] % p->groups)
        return dd_fail(DD_EVALUE, "%s: %" PRId64 " input channels in %" PRId64 " groups", who,
                       x->dims[3], p->groups);
    *g = (geometry){.y = axis_of(p, 0, x->dims[1], weight->dims[2]),
                    .x = axis_of(p, 1, x->dims[2], weight->dims[3]),
                    .n = x->dims[0],
                    .c = x->dims[3],
                    .o = weight->dims[1] * p->groups,
                    .c_group = x->dims[3] / p->groups,
                    .o_group = weight->dims[1]};
    if (g->y.out < 1 || g->x.out < 1)
        return dd_fail(DD_EVALUE, "%s: y would have %" PRId64 "×%" PRId64 " pixels", who, g->y.out,
                       g->x.out);
    return DD_OK;
}

static dd_status infer(const dd_node *node, const dd_type *in, dd_type *out, int *n_out) {
    geometry g;
    DD_TRY(measure(node->params, &in[0], &in[1], &g));
    if (node->n_in > 2 && dd_present(&in[2]))
        DD_TRY(dd_need_vector("conv_transpose", "bias", &in[2], g.o));
    out[0] = (dd_type){.dtype = DD_F32, .rank = 4, .dims = {g.n, g.y.out, g.x.out, g.o}};
    *n_out = 1;
    return DD_OK;
}

static geometry measured(const void *params, const dd_type *x, const dd_type *weight) {
    geometry g = {0};
    (void)measure(params, x, weight, &g);
    return g;
}

/* ---- forward ------------------------------------------------------------------------------- */

/* The weight as (R, S, C, O/groups), so that a pixel's channels are neighbours; then O sums. */
static size_t scratch(const dd_node *node, const dd_type *in) {
    (void)node;
    geometry g = measured(node->params, &in[0], &in[1]);
    return (size_t)g.o * sizeof(double) + (size_t)dd_type_count(&in[1]) * sizeof(float);
}

static void turn_weight(const dd_array *weight, const geometry *g, float *turned) {
    int64_t taps = g->y.taps * g->x.taps, plane = g->c * g->o_group;
    for (int64_t i = 0; i < plane; i++)
        for (int64_t t = 0; t < taps; t++)
            turned[t * plane + i] =
                dd_row_f32(weight, i * g->y.taps + t / g->x.taps)[t % g->x.taps];
}

/* Input position whose stamp's tap falls on output position `at`; -1 where there is none. */
static int64_t source(const axis *a, int64_t at, int64_t tap) {
    int64_t place = at + a->before - tap * a->dilation;
    if (place < 0 || place % a->stride)
        return -1;
    return place / a->stride < a->in ? place / a->stride : -1;
}

/* sums[o] += Σ_c x[c] · w[c, o], a group at a time. */
static void add_pixel(const geometry *g, const float *restrict x, const float *restrict w,
                      double *restrict sums) {
    for (int64_t c = 0; c < g->c; c++) {
        double v = (double)x[c];
        double *to = sums + c / g->c_group * g->o_group;
        for (int64_t o = 0; o < g->o_group; o++)
            to[o] += v * (double)w[c * g->o_group + o];
    }
}

/* One output pixel: the taps that meet an input pixel. */
static void pixel(const dd_op_args *a, const geometry *g, const float *turned, int64_t n,
                  int64_t py, int64_t qx, double *sums) {
    const dd_array *x = &a->in[0];
    for (int64_t r = 0; r < g->y.taps; r++) {
        int64_t iy = source(&g->y, py, r);
        for (int64_t s = 0; iy >= 0 && s < g->x.taps; s++) {
            int64_t ix = source(&g->x, qx, s);
            if (ix >= 0)
                add_pixel(g, dd_row_f32(x, (n * g->y.in + iy) * g->x.in + ix),
                          turned + (r * g->x.taps + s) * g->c * g->o_group, sums);
        }
    }
}

static dd_status forward(const dd_op_args *a) {
    const dd_array *y = &a->out[0];
    const float *bias = a->n_in > 2 ? a->in[2].data : NULL;
    geometry g = measured(a->params, &a->in[0].type, &a->in[1].type);
    double *sums = a->scratch;
    float *turned = (float *)(sums + g.o);
    turn_weight(&a->in[1], &g, turned);
    for (int64_t row = 0; row < dd_type_rows(&y->type); row++) {
        int64_t map = g.y.out * g.x.out;
        float *to = dd_row_f32(y, row);
        for (int64_t o = 0; o < g.o; o++)
            sums[o] = bias ? (double)bias[o] : 0;
        pixel(a, &g, turned, row / map, row % map / g.x.out, row % g.x.out, sums);
        for (int64_t o = 0; o < g.o; o++)
            to[o] = (float)sums[o];
    }
    return DD_OK;
}

/* ---- rules --------------------------------------------------------------------------------- */

/* With y = convᵀ(x, w): dx = conv(dy, w), dw = conv_dw(dy, x), and the bias is added everywhere. */
static dd_status gradient(dd_graph *g, int node, const int *dout, int *din) {
    char name[DD_MAX_NAME + 1];
    const dd_node n = *dd_grad_of(g, node);
    const dd_conv_transpose_params *p = n.params;
    dd_conv_params conv = {p->stride, p->pads, p->dilation, p->groups};
    dd_reduce_params sum = {.kind = DD_SUM};
    int made, out[2];
    if (din[0] == 1) {
        int in[3] = {dout[0], n.in[1], -1};
        DD_TRY(dd_grad_node(g, "conv", dd_grad_name(name, "dx", n.name), &conv, in, 2, &made, 1));
        din[0] = made;
    }
    if (din[1] == 1) {
        int in[3] = {dout[0], n.in[0], n.in[1]};
        DD_TRY(dd_grad_node(g, "conv_dw", dd_grad_name(name, "dw", n.name), &conv, in, 3, out, 2));
        din[1] = out[0];
    }
    if (n.n_in > 2 && din[2] == 1) {
        int in[2] = {dout[0], n.in[2]};
        DD_TRY(dd_grad_node(g, "reduce", dd_grad_name(name, "db", n.name), &sum, in, 2, &made, 1));
        din[2] = made;
    }
    return DD_OK;
}

/* From the first input row whose stamp reaches the rows to the last one. Weight and bias are needed
 * whole. */
static dd_status window(const dd_node *node, const dd_type *in, dd_range out, int input,
                        dd_range *rows) {
    geometry g;
    DD_TRY(measure(node->params, &in[0], &in[1], &g));
    if (input != 0) {
        *rows = (dd_range){0, dd_present(&in[input]) && in[input].rank > 1 ? in[input].dims[1] : 0};
        return DD_OK;
    }
    int64_t first = out.begin + g.y.before - (g.y.taps - 1) * g.y.dilation;
    int64_t last = out.end - 1 + g.y.before;
    rows->begin = first <= 0 ? 0 : (first + g.y.stride - 1) / g.y.stride;
    rows->end = last / g.y.stride + 1 < g.y.in ? last / g.y.stride + 1 : g.y.in;
    rows->begin = rows->begin < rows->end ? rows->begin : rows->end;
    return DD_OK;
}

/* As conv's, with the weight's first two axes exchanged. */
static void channels(const dd_node *node, dd_channel_ids *ids) {
    const dd_conv_transpose_params *p = node->params;
    int64_t c = dd_channels_count(ids, 0);
    if (p->groups == 1) {
        dd_channels_fresh(ids, 0, dd_channels_axis(ids, 1, 1));
        dd_channels_axis_input(ids, 1, 0, 0);
        dd_channels_axis_output(ids, 1, 1, 0);
    } else if (p->groups == c && dd_channels_axis(ids, 1, 1) == 1) {
        dd_channels_keep(ids, 0, 0);
        dd_channels_axis_input(ids, 1, 0, 0);
    } else {
        dd_channels_lock(ids, 0);
        return;
    }
    if (node->n_in > 2 && node->in[2] >= 0)
        dd_channels_axis_output(ids, 2, 0, 0);
}

/* Every input pixel meets every tap. */
static int64_t macs(const dd_node *node, const dd_type *in) {
    geometry g = measured(node->params, &in[0], &in[1]);
    return g.n * g.y.in * g.x.in * g.c * g.o_group * g.y.taps * g.x.taps;
}

static int sample(int i, void *params, dd_type *in, int *n_in) {
    static const struct {
        dd_conv_transpose_params p;
        int n;
        dd_type in[3];
    } cases[] = {
        {{.groups = 1}, 2, {F32(2, 3, 4, 5), F32(5, 7, 1, 1)}},
        {{.stride = INTS(2, 2), .groups = 1}, 3, {F32(2, 3, 4, 6), F32(6, 5, 2, 2), F32(5)}},
        {{.stride = INTS(2, 2), .pads = INTS(1, 1, 1, 1), .groups = 1},
         3,
         {F32(1, 4, 5, 3), F32(3, 9, 4, 4), F32(9)}},
        {{.stride = INTS(3, 2),
          .pads = INTS(0, 2, 1, 0),
          .dilation = INTS(1, 2),
          .output_pad = INTS(2, 1),
          .groups = 2},
         3,
         {F32(2, 4, 3, 4), F32(4, 3, 3, 2), F32(6)}},
        {{.stride = INTS(2, 2), .pads = INTS(1, 1, 1, 1), .output_pad = INTS(1, 1), .groups = 8},
         2,
         {F32(1, 3, 4, 8), F32(8, 1, 3, 3)}},
        {{.pads = INTS(2, 2, 2, 2), .groups = 1}, 2, {F32(1, 5, 5, 2), F32(2, 3, 3, 3)}},
    };
    SAMPLES(cases, i, params, in, n_in);
}

const dd_op dd_op_conv_transpose = {
    .name = "conv_transpose",
    .doc =
        "Transposed convolution of x (N, H, W, C) with weight (C, O/groups, R, S) and an optional "
        "bias (O): (N, P, Q, O), P = (H - 1) · stride - pads + dilation · (R - 1) + 1 + "
        "output_pad. stride, dilation, output_pad (y, x), pads (top, left, bottom, right); empty "
        "lists mean 1, 1, 0 and 0; output_pad is less than the stride.",
    .version = 1,
    .min_in = 2,
    .max_in = 3,
    .params_size = sizeof(dd_conv_transpose_params),
    .fields = fields,
    .infer = infer,
    .scratch = scratch,
    .forward = forward,
    .grad = gradient,
    .window = window,
    .channels = channels,
    .quant = DD_Q_COMPUTE,
    .macs = macs,
    .sample = sample,
};
