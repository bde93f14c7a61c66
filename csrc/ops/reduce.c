/* Sums, means and extremes over axes. The walk has two nests: over what is kept, and for each of
 * those over what is reduced, in double. */
#include <math.h>
#include <string.h>

#include "ops/channels.h"
#include "ops/describe.h"
#include "ops/node.h"
#include "ops/walk.h"

static const char *const kind_names[] = {"sum", "mean", "max", "min", NULL};

static const dd_field reduce_fields[] = {
    DD_ENUM(dd_reduce_params, kind, DD_SUM, kind_names),
    DD_INTS(dd_reduce_params, axes),
    DD_BOOL(dd_reduce_params, keepdims, 0),
    DD_END,
};

/* Which axes go. */
static dd_status find_axes(const dd_reduce_params *p, int rank, bool *gone) {
    for (int k = 0; k < rank; k++)
        gone[k] = p->axes.n == 0;
    for (int64_t i = 0; i < p->axes.n; i++) {
        int axis;
        DD_TRY(dd_need_axis("reduce", p->axes.v[i], rank, &axis));
        if (gone[axis])
            return dd_fail(DD_EVALUE, "reduce: axis %d is named twice", axis);
        gone[axis] = true;
    }
    return DD_OK;
}

static bool has_like(const dd_node *node, const dd_type *in) {
    return node->n_in > 1 && dd_present(&in[1]);
}

/* The axes in which `like`, broadcast to x, repeats itself. */
static dd_status find_repeats(const dd_type *x, const dd_type *like, bool *gone) {
    char x_text[192], like_text[192];
    int missing = x->rank - like->rank;
    bool fits = missing >= 0;
    for (int k = 0; fits && k < x->rank; k++) {
        int64_t have = k < missing ? 1 : like->dims[k - missing];
        gone[k] = have == 1 && x->dims[k] != 1;
        fits = have == 1 || have == x->dims[k];
    }
    if (!fits)
        return dd_fail(DD_EVALUE, "reduce: like is %s, which does not broadcast to x, %s",
                       dd_type_text(like, like_text, sizeof like_text),
                       dd_type_text(x, x_text, sizeof x_text));
    return DD_OK;
}

/* An empty sum is 0, but an empty mean or maximum is nothing: refused. */
static dd_status reduce_infer(const dd_node *node, const dd_type *in, dd_type *out, int *n_out) {
    const dd_reduce_params *p = node->params;
    bool gone[DD_MAX_RANK];
    DD_TRY(dd_need_f32("reduce", "x", &in[0]));
    *n_out = 1;
    if (has_like(node, in)) {
        if (p->kind != DD_SUM || p->axes.n)
            return dd_fail(DD_EVALUE, "reduce: with `like`, kind is sum and axes is empty");
        DD_TRY(dd_need_f32("reduce", "like", &in[1]));
        out[0] = in[1];
        return find_repeats(&in[0], &in[1], gone);
    }
    DD_TRY(find_axes(p, in[0].rank, gone));
    dd_type y = {.dtype = DD_F32};
    for (int k = 0; k < in[0].rank; k++) {
        if (gone[k] && in[0].dims[k] == 0 && p->kind != DD_SUM)
            return dd_fail(DD_EVALUE, "reduce: axis %d is empty", k);
        if (!gone[k] || p->keepdims)
            y.dims[y.rank++] = gone[k] ? 1 : in[0].dims[k];
    }
    out[0] = y;
    return DD_OK;
}

/* ---- the walk ------------------------------------------------------------------------------ */

typedef struct nests {
    int kept, gone; /* axes of each nest */
    int64_t kept_dims[DD_MAX_RANK], kept_x[DD_MAX_RANK], kept_y[DD_MAX_RANK];
    int64_t gone_dims[DD_MAX_RANK], gone_x[DD_MAX_RANK];
    int64_t count; /* of the elements behind one result */
} nests;

/* Of x and of an array of the result's type; both carry their pitch. */
static nests nests_of(const dd_op_args *a, const dd_array *x, const dd_array *y) {
    nests n = {.count = 1};
    bool gone[DD_MAX_RANK];
    int64_t x_strides[DD_MAX_RANK], y_strides[DD_MAX_RANK];
    bool like = a->n_in > 1 && a->in[1].type.rank >= 0;
    const dd_reduce_params *p = a->params;
    dd_strides(x, x_strides);
    dd_strides(y, y_strides);
    if (like)
        (void)find_repeats(&x->type, &y->type, gone);
    else
        (void)find_axes(p, x->type.rank, gone);
    int missing = like ? x->type.rank - y->type.rank : 0, at = 0;
    for (int k = 0; k < x->type.rank; k++) {
        if (gone[k]) {
            n.gone_dims[n.gone] = x->type.dims[k];
            n.gone_x[n.gone++] = x_strides[k];
            n.count *= x->type.dims[k];
        } else if (k >= missing) { /* what is missing in like and kept has size 1 */
            n.kept_dims[n.kept] = x->type.dims[k];
            n.kept_x[n.kept] = x_strides[k];
            n.kept_y[n.kept++] = y_strides[like ? k - missing : at];
        }
        at += !gone[k] || p->keepdims;
    }
    return n;
}

/* Extremes let a NaN win, as NumPy and torch do. */
static double combine(int64_t kind, double sum, double v) {
    if (kind == DD_MAXIMUM)
        return v > sum || isnan(v) ? v : sum;
    if (kind == DD_MINIMUM)
        return v < sum || isnan(v) ? v : sum;
    return sum + v;
}

/* One result: all that is reduced into it. */
static double reduce_line(const nests *n, int64_t kind, const float *x) {
    int64_t index[DD_MAX_RANK] = {0};
    if (n->count == 0)
        return 0;
    double sum = kind == DD_MAXIMUM || kind == DD_MINIMUM ? (double)*x : 0;
    do
        sum = combine(kind, sum, (double)x[dd_dot(n->gone, index, n->gone_x)]);
    while (dd_next(n->gone, n->gone_dims, index));
    return kind == DD_MEAN ? sum / (double)n->count : sum;
}

/* y is addressed by strides: without keepdims its axes are others than x's. */
static dd_status reduce_forward(const dd_op_args *a) {
    int64_t kind = ((const dd_reduce_params *)a->params)->kind, index[DD_MAX_RANK] = {0};
    nests n = nests_of(a, &a->in[0], &a->out[0]);
    const float *x = a->in[0].data;
    float *y = a->out[0].data;
    if (dd_type_count(&a->out[0].type) == 0)
        return DD_OK;
    do
        y[dd_dot(n.kept, index, n.kept_y)] =
            (float)reduce_line(&n, kind, x + dd_dot(n.kept, index, n.kept_x));
    while (dd_next(n.kept, n.kept_dims, index));
    return DD_OK;
}

/* Elements equal to the extreme `y`: they share its gradient, as in torch's amax. */
static int64_t ties(const nests *n, const float *x, float y) {
    int64_t index[DD_MAX_RANK] = {0}, count = 0;
    do
        count += x[dd_dot(n->gone, index, n->gone_x)] == y;
    while (dd_next(n->gone, n->gone_dims, index));
    return count;
}

/* The gradient of one result to what it came from. */
static void spread(const nests *n, int64_t kind, const float *x, float y, double dy, float *dx,
                   const int64_t *dx_strides) {
    int64_t index[DD_MAX_RANK] = {0};
    bool extreme = kind == DD_MAXIMUM || kind == DD_MINIMUM;
    double share = kind == DD_MEAN ? dy / (double)n->count : dy;
    if (extreme)
        share = dy / (double)ties(n, x, y);
    do {
        bool takes = !extreme || x[dd_dot(n->gone, index, n->gone_x)] == y;
        dx[dd_dot(n->gone, index, dx_strides)] = takes ? (float)share : 0;
    } while (dd_next(n->gone, n->gone_dims, index));
}

static dd_status reduce_backward(const dd_op_args *a) {
    int64_t kind = ((const dd_reduce_params *)a->params)->kind, index[DD_MAX_RANK] = {0};
    if (!a->din[0].data || dd_type_count(&a->in[0].type) == 0)
        return DD_OK;
    /* x, y and their gradients may each have a pitch of its own. */
    nests n = nests_of(a, &a->in[0], &a->out[0]), d = nests_of(a, &a->din[0], &a->dout[0]);
    const float *x = a->in[0].data, *y = a->out[0].data, *dy = a->dout[0].data;
    float *dx = a->din[0].data;
    bool extreme = kind == DD_MAXIMUM || kind == DD_MINIMUM;
    do {
        float value = extreme ? y[dd_dot(n.kept, index, n.kept_y)] : 0;
        spread(&n, kind, extreme ? x + dd_dot(n.kept, index, n.kept_x) : NULL, value,
               (double)dy[dd_dot(d.kept, index, d.kept_y)], dx + dd_dot(d.kept, index, d.kept_x),
               d.gone_x);
    } while (dd_next(n.kept, n.kept_dims, index));
    return DD_OK;
}

/* Channels stay where the last axis does. */
static void reduce_channels(const dd_node *node, dd_channel_ids *ids) {
    const dd_reduce_params *p = node->params;
    int rank = 0;
    while (dd_channels_axis(ids, 0, rank) >= 0)
        rank++;
    bool last = p->axes.n == 0;
    for (int64_t i = 0; i < p->axes.n; i++)
        last |= p->axes.v[i] == -1 || p->axes.v[i] == rank - 1;
    if (last)
        dd_channels_lock(ids, 0);
    else
        dd_channels_keep(ids, 0, 0);
}

static int reduce_sample(int i, void *params, dd_type *in, int *n_in) {
    static const struct {
        dd_reduce_params p;
        int n;
        dd_type in[2];
    } cases[] = {
        {{.kind = DD_SUM}, 1, {F32(2, 3, 5)}},
        {{.kind = DD_MEAN, .axes = INTS(1, 2), .keepdims = 1}, 1, {F32(2, 3, 5, 7)}},
        {{.kind = DD_MEAN, .axes = INTS(-1)}, 1, {F32(2, 3, 7)}},
        {{.kind = DD_MAXIMUM, .axes = INTS(0, 2)}, 1, {F32(3, 2, 4, 5)}},
        {{.kind = DD_MINIMUM, .axes = INTS(3, 1), .keepdims = 1}, 1, {F32(2, 3, 2, 9)}},
        {{.kind = DD_SUM, .axes = INTS(0, 1, 3)}, 1, {F32(2, 3, 4, 2, 3)}},
        {{.kind = DD_SUM}, 2, {F32(2, 3, 4, 7), F32(7)}},
        {{.kind = DD_SUM}, 2, {F32(2, 3, 4, 7), F32(2, 1, 1, 7)}},
        {{.kind = DD_SUM}, 2, {F32(2, 3, 5), F32(1)}},
        {{.kind = DD_SUM}, 2, {F32(3, 4), F32(3, 4)}},
    };
    SAMPLES(cases, i, params, in, n_in);
}

const dd_op dd_op_reduce = {
    .name = "reduce",
    .doc = "sum, mean, max or min of x over `axes` (empty: all). With a second input `like` (read "
           "for its type): the sum over what broadcasting like to x repeats.",
    .version = 1,
    .min_in = 1,
    .max_in = 2,
    .params_size = sizeof(dd_reduce_params),
    .fields = reduce_fields,
    .shape_inputs = 1u << 1,
    .backward_uses = DD_USES_IN(0) | DD_USES_OUT(0),
    .infer = reduce_infer,
    .forward = reduce_forward,
    .backward = reduce_backward,
    .channels = reduce_channels,
    .sample = reduce_sample,
};
