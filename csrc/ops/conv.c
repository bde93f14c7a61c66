/* Convolution and its two gradients.
 *
 * Letters: N images, H×W input pixels of C channels, O output channels, P×Q output pixels, R×S
 * taps. x is (N, H, W, C), weight (O, C/groups, R, S), y (N, P, Q, O). Each sum is formed in
 * double, one output element at a time: this is the reference, speed lives in the planner's steps.
 */
#include <inttypes.h>
#include <string.h>

#include "ops/channels.h"
#include "ops/describe.h"
#include "ops/grad.h"
#include "ops/walk.h"

static const dd_field conv_fields[] = {
    DD_INTS(dd_conv_params, stride),
    DD_INTS(dd_conv_params, pads),
    DD_INTS(dd_conv_params, dilation),
    DD_INT(dd_conv_params, groups, 1),
    DD_END,
};

typedef struct geometry {
    int64_t n, h, w, c, o, p, q, r, s;
    int64_t stride_y, stride_x, top, left, dilation_y, dilation_x;
    int64_t c_group, o_group; /* channels of a group */
} geometry;

/* ---- shapes -------------------------------------------------------------------------------- */

/* Output pixels along one axis; below 1 where the padded map is smaller than the window. */
static int64_t extent(int64_t in, int64_t pads, int64_t taps, int64_t dilation, int64_t stride) {
    int64_t room = in + pads - dilation * (taps - 1) - 1;
    return room < 0 ? 0 : room / stride + 1;
}

/* Everything about (x, weight) under attributes that are in order. */
static dd_status measure(const char *who, const dd_conv_params *p, const dd_type *x,
                         const dd_type *weight, geometry *g) {
    DD_TRY(dd_need_window(who, &p->stride, &p->pads, &p->dilation, p->groups));
    DD_TRY(dd_need_rank(who, "x", x, 4, 4));
    DD_TRY(dd_need_rank(who, "weight", weight, 4, 4));
    *g = (geometry){.n = x->dims[0],
                    .h = x->dims[1],
                    .w = x->dims[2],
                    .c = x->dims[3],
                    .o = weight->dims[0],
                    .r = weight->dims[2],
                    .s = weight->dims[3],
                    .stride_y = dd_item(&p->stride, 0, 1),
                    .stride_x = dd_item(&p->stride, 1, 1),
                    .top = dd_item(&p->pads, 0, 0),
                    .left = dd_item(&p->pads, 1, 0),
                    .dilation_y = dd_item(&p->dilation, 0, 1),
                    .dilation_x = dd_item(&p->dilation, 1, 1)};
    if (g->r < 1 || g->s < 1 || g->o < 1 || weight->dims[1] < 1)
        return dd_fail(DD_EVALUE, "%s: weight has an empty dimension", who);
    if (g->o % p->groups)
        return dd_fail(DD_EVALUE, "%s: %" PRId64 " output channels in %" PRId64 " groups", who,
                       g->o, p->groups);
    if (weight->dims[1] * p->groups != g->c)
        return dd_fail(DD_EVALUE,
                       "%s: weight has %" PRId64 " input channels in %" PRId64
                       " groups, x has %" PRId64,
                       who, weight->dims[1], p->groups, g->c);
    g->c_group = weight->dims[1];
    g->o_group = g->o / p->groups;
    g->p = extent(g->h, g->top + dd_item(&p->pads, 2, 0), g->r, g->dilation_y, g->stride_y);
    g->q = extent(g->w, g->left + dd_item(&p->pads, 3, 0), g->s, g->dilation_x, g->stride_x);
    if (g->p < 1 || g->q < 1)
        return dd_fail(DD_EVALUE,
                       "%s: x is %" PRId64 "×%" PRId64 " pixels, too few for %" PRId64 "×%" PRId64
                       " taps",
                       who, g->h, g->w, g->r, g->s);
    return DD_OK;
}

static dd_type output_type(const geometry *g) {
    return (dd_type){.dtype = DD_F32, .rank = 4, .dims = {g->n, g->p, g->q, g->o}};
}

/* y's channels are the weight's first axis. */
static dd_status conv_infer(const dd_node *node, const dd_type *in, dd_type *out, int *n_out) {
    geometry g;
    DD_TRY(measure("conv", node->params, &in[0], &in[1], &g));
    if (node->n_in > 2 && dd_present(&in[2]))
        DD_TRY(dd_need_vector("conv", "bias", &in[2], g.o));
    out[0] = output_type(&g);
    *n_out = 1;
    return DD_OK;
}

/* x's type comes as an input: with a stride, several heights give the same y. */
static dd_status dx_infer(const dd_node *node, const dd_type *in, dd_type *out, int *n_out) {
    geometry g;
    DD_TRY(measure("conv_dx", node->params, &in[2], &in[1], &g));
    dd_type dy = output_type(&g);
    DD_TRY(dd_need_type("conv_dx", "dy", &in[0], &dy));
    out[0] = in[2];
    *n_out = 1;
    return DD_OK;
}

/* db is always the second output; nobody needs to take it. */
static dd_status dw_infer(const dd_node *node, const dd_type *in, dd_type *out, int *n_out) {
    geometry g;
    DD_TRY(measure("conv_dw", node->params, &in[0], &in[2], &g));
    dd_type dy = output_type(&g);
    DD_TRY(dd_need_type("conv_dw", "dy", &in[1], &dy));
    out[0] = in[2];
    out[1] = (dd_type){.dtype = DD_F32, .rank = 1, .dims = {g.o}};
    *n_out = 2;
    return DD_OK;
}

/* For a call whose types have been checked by infer. */
static geometry measured(const dd_conv_params *p, const dd_type *x, const dd_type *weight) {
    geometry g = {0};
    (void)measure("conv", p, x, weight, &g);
    return g;
}

/* ---- sums ---------------------------------------------------------------------------------- */

/* The tap for output channel o and the group's input channel c. */
static const float *tap_of(const dd_array *weight, const geometry *g, int64_t o, int64_t c,
                           int64_t r, int64_t s) {
    return dd_row_f32(weight, (o * g->c_group + c) * g->r + r) + s;
}

/* Row y of an image of the map, or NULL above and below it. */
static const float *row_of(const dd_array *map, int64_t height, int64_t width, int64_t n,
                           int64_t y) {
    return y < 0 || y >= height ? NULL : dd_row_f32(map, (n * height + y) * width);
}

/* One output element. */
static double conv_element(const dd_array *x, const dd_array *weight, const geometry *g, int64_t n,
                           int64_t py, int64_t qx, int64_t o) {
    double sum = 0;
    int64_t first = o / g->o_group * g->c_group, step = g->r * weight->pitch;
    for (int64_t r = 0; r < g->r; r++) {
        const float *row = row_of(x, g->h, g->w, n, py * g->stride_y - g->top + r * g->dilation_y);
        for (int64_t s = 0; row && s < g->s; s++) {
            int64_t ix = qx * g->stride_x - g->left + s * g->dilation_x;
            if (ix < 0 || ix >= g->w)
                continue;
            const float *pixel = row + ix * x->pitch + first, *tap = tap_of(weight, g, o, 0, r, s);
            for (int64_t c = 0; c < g->c_group; c++)
                sum += (double)pixel[c] * (double)tap[c * step];
        }
    }
    return sum;
}

/* The bias joins in double: one rounding an element. */
static dd_status conv_forward(const dd_op_args *a) {
    const dd_array *x = &a->in[0], *weight = &a->in[1], *y = &a->out[0];
    const float *bias = a->n_in > 2 ? a->in[2].data : NULL;
    geometry g = measured(a->params, &x->type, &weight->type);
    for (int64_t n = 0; n < g.n; n++)
        for (int64_t py = 0; py < g.p; py++)
            for (int64_t qx = 0; qx < g.q; qx++) {
                float *to = dd_row_f32(y, (n * g.p + py) * g.q + qx);
                for (int64_t o = 0; o < g.o; o++) {
                    double sum = conv_element(x, weight, &g, n, py, qx, o);
                    to[o] = (float)(sum + (bias ? (double)bias[o] : 0));
                }
            }
    return DD_OK;
}

/* Output position that reads input position `at` through tap `tap`; -1 where there is none. */
static int64_t source(int64_t at, int64_t pad, int64_t tap, int64_t dilation, int64_t stride,
                      int64_t count) {
    int64_t place = at + pad - tap * dilation;
    if (place < 0 || place % stride)
        return -1;
    return place / stride < count ? place / stride : -1;
}

/* One element of the input's gradient: taps and output channels of the element's group. */
static double dx_element(const dd_array *dy, const dd_array *weight, const geometry *g, int64_t n,
                         int64_t iy, int64_t ix, int64_t c) {
    double sum = 0;
    int64_t group = c / g->c_group, step = g->c_group * g->r * weight->pitch;
    for (int64_t r = 0; r < g->r; r++) {
        int64_t py = source(iy, g->top, r, g->dilation_y, g->stride_y, g->p);
        for (int64_t s = 0; py >= 0 && s < g->s; s++) {
            int64_t qx = source(ix, g->left, s, g->dilation_x, g->stride_x, g->q);
            if (qx < 0)
                continue;
            const float *d = dd_row_f32(dy, (n * g->p + py) * g->q + qx) + group * g->o_group;
            const float *tap = tap_of(weight, g, group * g->o_group, c % g->c_group, r, s);
            for (int64_t o = 0; o < g->o_group; o++)
                sum += (double)d[o] * (double)tap[o * step];
        }
    }
    return sum;
}

/* As a gather: each dx element looks up the taps that read it, so nothing is summed in memory. */
static dd_status dx_forward(const dd_op_args *a) {
    const dd_array *dy = &a->in[0], *weight = &a->in[1], *dx = &a->out[0];
    geometry g = measured(a->params, &dx->type, &weight->type);
    for (int64_t n = 0; n < g.n; n++)
        for (int64_t iy = 0; iy < g.h; iy++)
            for (int64_t ix = 0; ix < g.w; ix++) {
                float *to = dd_row_f32(dx, (n * g.h + iy) * g.w + ix);
                for (int64_t c = 0; c < g.c; c++)
                    to[c] = (float)dx_element(dy, weight, &g, n, iy, ix, c);
            }
    return DD_OK;
}

/* The range of output positions whose tap lies inside the map. */
static void inside(int64_t in, int64_t pad, int64_t tap, int64_t dilation, int64_t stride,
                   int64_t count, int64_t *begin, int64_t *end) {
    int64_t offset = tap * dilation - pad; /* input = output · stride + offset */
    *begin = offset >= 0 ? 0 : (-offset + stride - 1) / stride;
    *end = in - offset <= 0 ? 0 : (in - offset - 1) / stride + 1;
    *end = *end < count ? *end : count;
}

/* sums[c] = Σ over images and pixels of dy[o] · x[c] for one output channel and tap. */
static void dw_line(const dd_array *x, const dd_array *dy, const geometry *g, int64_t o, int64_t r,
                    int64_t s, double *sums) {
    int64_t p0, p1, q0, q1, first = o / g->o_group * g->c_group;
    inside(g->h, g->top, r, g->dilation_y, g->stride_y, g->p, &p0, &p1);
    inside(g->w, g->left, s, g->dilation_x, g->stride_x, g->q, &q0, &q1);
    memset(sums, 0, (size_t)g->c_group * sizeof *sums);
    for (int64_t n = 0; n < g->n; n++)
        for (int64_t py = p0; py < p1; py++) {
            int64_t iy = py * g->stride_y - g->top + r * g->dilation_y;
            for (int64_t qx = q0; qx < q1; qx++) {
                int64_t ix = qx * g->stride_x - g->left + s * g->dilation_x;
                double d = (double)dd_row_f32(dy, (n * g->p + py) * g->q + qx)[o];
                const float *pixel = dd_row_f32(x, (n * g->h + iy) * g->w + ix) + first;
                for (int64_t c = 0; c < g->c_group; c++)
                    sums[c] += d * (double)pixel[c];
            }
        }
}

/* The bias is added at every pixel. */
static void db_sums(const dd_array *dy, const geometry *g, float *db) {
    for (int64_t o = 0; o < g->o; o++) {
        double sum = 0;
        for (int64_t row = 0; row < g->n * g->p * g->q; row++)
            sum += (double)dd_row_f32(dy, row)[o];
        db[o] = (float)sum;
    }
}

/* A sum an input channel of a group. */
static size_t dw_scratch(const dd_node *node, const dd_type *in) {
    (void)node;
    return (size_t)in[2].dims[1] * sizeof(double);
}

/* One output channel and tap at a time: the sums of its input channels run together over x. */
static dd_status dw_forward(const dd_op_args *a) {
    const dd_array *x = &a->in[0], *dy = &a->in[1], *dw = &a->out[0];
    geometry g = measured(a->params, &x->type, &a->in[2].type);
    double *sums = a->scratch;
    for (int64_t o = 0; o < g.o && dw->data; o++)
        for (int64_t r = 0; r < g.r; r++)
            for (int64_t s = 0; s < g.s; s++) {
                dw_line(x, dy, &g, o, r, s, sums);
                for (int64_t c = 0; c < g.c_group; c++)
                    dd_row_f32(dw, (o * g.c_group + c) * g.r + r)[s] = (float)sums[c];
            }
    if (a->out[1].data)
        db_sums(dy, &g, a->out[1].data);
    return DD_OK;
}

/* ---- rules --------------------------------------------------------------------------------- */

/* Two nodes, so that dx can go where no trainable ancestor is, and each can join a step. */
static dd_status conv_grad(dd_graph *g, int node, const int *dout, int *din) {
    char name[DD_MAX_NAME + 1];
    const dd_node n = *dd_grad_of(g, node);
    int bias = n.n_in > 2 ? din[2] : 0, out[2], made;
    if (din[0] == 1) {
        int in[3] = {dout[0], n.in[1], n.in[0]};
        DD_TRY(dd_grad_node(g, "conv_dx", dd_grad_name(name, "dx", n.name), n.params, in, 3, &made,
                            1));
        din[0] = made;
    }
    if (din[1] == 1 || bias == 1) {
        int in[3] = {n.in[0], dout[0], n.in[1]};
        DD_TRY(
            dd_grad_node(g, "conv_dw", dd_grad_name(name, "dw", n.name), n.params, in, 3, out, 2));
        din[1] = din[1] == 1 ? out[0] : -1;
        if (n.n_in > 2)
            din[2] = bias == 1 ? out[1] : -1;
    }
    return DD_OK;
}

/* Weight and bias are needed whole. */
static dd_status conv_window(const dd_node *node, const dd_type *in, dd_range out, int input,
                             dd_range *rows) {
    geometry g;
    DD_TRY(measure("conv", node->params, &in[0], &in[1], &g));
    if (input != 0) {
        *rows = (dd_range){0, dd_present(&in[input]) && in[input].rank > 1 ? in[input].dims[1] : 0};
        return DD_OK;
    }
    int64_t begin = out.begin * g.stride_y - g.top;
    int64_t end = (out.end - 1) * g.stride_y - g.top + (g.r - 1) * g.dilation_y + 1;
    rows->begin = begin < 0 ? 0 : begin < g.h ? begin : g.h;
    rows->end = end > g.h ? g.h : end > rows->begin ? end : rows->begin;
    return DD_OK;
}

/* Dense: new channels out, the weight's axes follow. Depthwise (one input and one output channel a
 * group): channels stay. Any other grouping locks both sides. */
static void conv_channels(const dd_node *node, dd_channel_ids *ids) {
    const dd_conv_params *p = node->params;
    int64_t c = dd_channels_count(ids, 0);
    bool bias = node->n_in > 2 && node->in[2] >= 0;
    if (p->groups == 1) {
        dd_channels_fresh(ids, 0, dd_channels_axis(ids, 1, 0));
        dd_channels_axis_input(ids, 1, 1, 0);
    } else if (p->groups == c && dd_channels_axis(ids, 1, 0) == c) {
        dd_channels_keep(ids, 0, 0);
    } else {
        dd_channels_lock(ids, 0);
        return;
    }
    dd_channels_axis_output(ids, 1, 0, 0);
    if (bias)
        dd_channels_axis_output(ids, 2, 0, 0);
}

static int64_t conv_macs(const dd_node *node, const dd_type *in) {
    geometry g = measured(node->params, &in[0], &in[1]);
    return g.n * g.p * g.q * g.o * g.c_group * g.r * g.s;
}

static int64_t dx_macs(const dd_node *node, const dd_type *in) {
    geometry g = measured(node->params, &in[2], &in[1]);
    return g.n * g.p * g.q * g.o * g.c_group * g.r * g.s;
}

static int64_t dw_macs(const dd_node *node, const dd_type *in) {
    geometry g = measured(node->params, &in[0], &in[2]);
    return g.n * g.p * g.q * g.o * g.c_group * g.r * g.s;
}

/* ---- samples ------------------------------------------------------------------------------- */

typedef struct conv_case {
    dd_conv_params p;
    int n;
    dd_type in[3];
} conv_case;

static const conv_case conv_cases[] = {
    {{.groups = 1}, 2, {F32(2, 3, 5, 7), F32(6, 7, 1, 1)}},
    {{.pads = INTS(1, 1, 1, 1), .groups = 1}, 3, {F32(2, 5, 6, 3), F32(8, 3, 3, 3), F32(8)}},
    {{.stride = INTS(2, 2), .pads = INTS(1, 1, 1, 1), .groups = 1},
     3,
     {F32(1, 7, 8, 5), F32(9, 5, 3, 3), F32(9)}},
    {{.stride = INTS(2, 1), .pads = INTS(0, 2, 1, 0), .dilation = INTS(1, 2), .groups = 2},
     3,
     {F32(2, 6, 7, 4), F32(6, 2, 3, 2), F32(6)}},
    {{.pads = INTS(2, 2, 2, 2), .groups = 11}, 2, {F32(1, 5, 5, 11), F32(11, 1, 5, 5)}},
    {{.stride = INTS(2, 2), .pads = INTS(1, 1, 1, 1), .groups = 8},
     3,
     {F32(2, 6, 5, 8), F32(8, 1, 3, 3), F32(8)}},
    {{.pads = INTS(1, 1, 1, 1), .groups = 3}, 2, {F32(1, 4, 4, 3), F32(6, 1, 3, 3)}},
    {{.stride = INTS(3, 2), .groups = 1}, 3, {F32(1, 8, 5, 2), F32(3, 2, 2, 1), F32(3)}},
};

enum { CASES = sizeof conv_cases / sizeof *conv_cases };

static int conv_sample(int i, void *params, dd_type *in, int *n_in) {
    SAMPLES(conv_cases, i, params, in, n_in);
}

/* The gradients' cases are those of conv with dy in its place. */
static int dx_sample(int i, void *params, dd_type *in, int *n_in) {
    if (i < 0 || i >= CASES)
        return 0;
    const conv_case *c = &conv_cases[i];
    geometry g = measured(&c->p, &c->in[0], &c->in[1]);
    memcpy(params, &c->p, sizeof c->p);
    in[0] = output_type(&g);
    in[1] = c->in[1];
    in[2] = c->in[0];
    *n_in = 3;
    return 1;
}

static int dw_sample(int i, void *params, dd_type *in, int *n_in) {
    if (!dx_sample(i, params, in, n_in))
        return 0;
    dd_type dy = in[0];
    in[0] = in[2];
    in[2] = in[1];
    in[1] = dy;
    return 1;
}

const dd_op dd_op_conv = {
    .name = "conv",
    .doc =
        "Convolution of x (N, H, W, C) with weight (O, C/groups, R, S) and an optional bias (O): "
        "(N, P, Q, O). stride (y, x), pads (top, left, bottom, right), dilation (y, x); empty "
        "lists mean 1, 0 and 1.",
    .version = 1,
    .min_in = 2,
    .max_in = 3,
    .params_size = sizeof(dd_conv_params),
    .fields = conv_fields,
    .infer = conv_infer,
    .forward = conv_forward,
    .grad = conv_grad,
    .window = conv_window,
    .channels = conv_channels,
    .quant = DD_Q_COMPUTE,
    .macs = conv_macs,
    .sample = conv_sample,
};

const dd_op dd_op_conv_dx = {
    .name = "conv_dx",
    .doc = "conv's gradient of x from (dy, weight, x); of x only the type is read.",
    .version = 1,
    .min_in = 3,
    .max_in = 3,
    .params_size = sizeof(dd_conv_params),
    .fields = conv_fields,
    .shape_inputs = 1u << 2,
    .infer = dx_infer,
    .forward = dx_forward,
    .macs = dx_macs,
    .sample = dx_sample,
};

const dd_op dd_op_conv_dw = {
    .name = "conv_dw",
    .doc = "conv's gradients of weight and bias from (x, dy, weight); of weight only the type is "
           "read.",
    .version = 1,
    .min_in = 3,
    .max_in = 3,
    .n_outputs = 2,
    .params_size = sizeof(dd_conv_params),
    .fields = conv_fields,
    .shape_inputs = 1u << 2,
    .infer = dw_infer,
    .scratch = dw_scratch,
    .forward = dw_forward,
    .macs = dw_macs,
    .sample = dw_sample,
};
