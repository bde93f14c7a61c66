/* Sums, means, extremes, norms and products over axes. The walk has two nests: over what is kept,
 * and for each of those over what is reduced, in double. */
#include <math.h>
#include <string.h>

#include "ops/channels.h"
#include "ops/describe.h"
#include "ops/node.h"
#include "ops/walk.h"

static const char *const kind_names[] = {"sum", "mean", "max",        "min",         "prod",
                                         "l1",  "l2",   "sum_square", "log_sum_exp", NULL};

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

/* An empty sum is 0, an empty product 1, but an empty mean or maximum is nothing: refused. */
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
        bool needs_one = p->kind == DD_MEAN || p->kind == DD_MAXIMUM || p->kind == DD_MINIMUM ||
                         p->kind == DD_LOG_SUM_EXP;
        if (gone[k] && in[0].dims[k] == 0 && needs_one)
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

/* The sum so far with one more element. Extremes let a NaN win, as NumPy and torch do. */
static double combine(int64_t kind, double sum, double v) {
    switch (kind) {
    case DD_MAXIMUM:
        return v > sum || isnan(v) ? v : sum;
    case DD_MINIMUM:
        return v < sum || isnan(v) ? v : sum;
    case DD_PRODUCT:
        return sum * v;
    case DD_NORM1:
        return sum + fabs(v);
    case DD_NORM2:
    case DD_SUM_SQUARES:
        return sum + v * v;
    default:
        return sum + v;
    }
}

/* What the sum becomes when all is in it. */
static double finish(int64_t kind, double sum, int64_t count) {
    return kind == DD_MEAN ? sum / (double)count : kind == DD_NORM2 ? sqrt(sum) : sum;
}

/* e^x overflows beyond 88 in float and 709 in double: the maximum goes first. */
static double log_sum_exp(const nests *n, const float *x, double most) {
    int64_t index[DD_MAX_RANK] = {0};
    double sum = 0;
    if (isinf(most) || isnan(most))
        return most;
    do
        sum += exp((double)x[dd_dot(n->gone, index, n->gone_x)] - most);
    while (dd_next(n->gone, n->gone_dims, index));
    return most + log(sum);
}

static double start(int64_t kind, double first) {
    bool extreme = kind == DD_MAXIMUM || kind == DD_MINIMUM;
    return extreme ? first : kind == DD_PRODUCT ? 1 : 0;
}

/* One result: all that is reduced into it, a line of the last reduced axis at a time. */
static double reduce_one(const nests *n, int64_t kind, const float *x) {
    int64_t index[DD_MAX_RANK] = {0}, outer = n->gone ? n->gone - 1 : 0;
    int64_t line = n->gone ? n->gone_dims[outer] : 1, step = n->gone ? n->gone_x[outer] : 0;
    int64_t inner = kind == DD_LOG_SUM_EXP ? DD_MAXIMUM : kind;
    if (n->count == 0)
        return start(kind, 0);
    double sum = start(inner, (double)*x);
    do {
        const float *from = x + dd_dot((int)outer, index, n->gone_x);
        for (int64_t i = 0; i < line; i++)
            sum = combine(inner, sum, (double)from[i * step]);
    } while (dd_next((int)outer, n->gone_dims, index));
    return kind == DD_LOG_SUM_EXP ? log_sum_exp(n, x, sum) : finish(kind, sum, n->count);
}

/* y is addressed by strides: without keepdims its axes are others than x's. */
static dd_status reduce_plainly(const dd_op_args *a, const nests *n, int64_t kind) {
    int64_t index[DD_MAX_RANK] = {0};
    const float *x = a->in[0].data;
    float *y = a->out[0].data;
    do
        y[dd_dot(n->kept, index, n->kept_y)] =
            (float)reduce_one(n, kind, x + dd_dot(n->kept, index, n->kept_x));
    while (dd_next(n->kept, n->kept_dims, index));
    return DD_OK;
}

/* Channels stay, as in a mean over the map: their sums run together over the rows of x, so that
 * memory is read in its own order. */
static dd_status reduce_rows(const dd_op_args *a, const nests *n, int64_t kind) {
    int64_t index[DD_MAX_RANK] = {0}, c = n->kept_dims[n->kept - 1];
    int outer = n->kept - 1;
    double *sums = a->scratch;
    do {
        const float *x = (const float *)a->in[0].data + dd_dot(outer, index, n->kept_x);
        float *y = (float *)a->out[0].data + dd_dot(outer, index, n->kept_y);
        int64_t gone[DD_MAX_RANK] = {0};
        for (int64_t i = 0; i < c; i++)
            sums[i] = start(kind, n->count ? (double)x[i] : 0);
        if (n->count > 0)
            do {
                const float *row = x + dd_dot(n->gone, gone, n->gone_x);
                for (int64_t i = 0; i < c; i++)
                    sums[i] = combine(kind, sums[i], (double)row[i]);
            } while (dd_next(n->gone, n->gone_dims, gone));
        for (int64_t i = 0; i < c; i++)
            y[i] = (float)finish(kind, sums[i], n->count);
    } while (dd_next(outer, n->kept_dims, index));
    return DD_OK;
}

static size_t reduce_scratch(const dd_node *node, const dd_type *in) {
    return node->backward ? 0 : (size_t)dd_type_last(&in[0]) * sizeof(double);
}

static dd_status reduce_forward(const dd_op_args *a) {
    int64_t kind = ((const dd_reduce_params *)a->params)->kind;
    nests n = nests_of(a, &a->in[0], &a->out[0]);
    if (dd_type_count(&a->out[0].type) == 0)
        return DD_OK;
    bool rows = n.kept > 0 && n.kept_x[n.kept - 1] == 1 && n.kept_y[n.kept - 1] == 1;
    return rows && kind != DD_LOG_SUM_EXP ? reduce_rows(a, &n, kind) : reduce_plainly(a, &n, kind);
}

/* ---- gradient ------------------------------------------------------------------------------ */

/* Elements equal to the extreme `y`: they share its gradient, as in torch's amax. */
static int64_t ties(const nests *n, const float *x, float y) {
    int64_t index[DD_MAX_RANK] = {0}, count = 0;
    do
        count += x[dd_dot(n->gone, index, n->gone_x)] == y;
    while (dd_next(n->gone, n->gone_dims, index));
    return count;
}

/* The product of all elements but zeros, and how many zeros there are. */
static double without_zeros(const nests *n, const float *x, int64_t *zeros) {
    int64_t index[DD_MAX_RANK] = {0};
    double product = 1;
    *zeros = 0;
    do {
        double v = (double)x[dd_dot(n->gone, index, n->gone_x)];
        *zeros += v == 0;
        product *= v == 0 ? 1 : v;
    } while (dd_next(n->gone, n->gone_dims, index));
    return product;
}

/* What one result's gradient is spread with. */
typedef struct slopes {
    int64_t kind, ties, zeros; /* elements that share an extreme; that are 0 in a product */
    double y, product, count;
} slopes;

static slopes slopes_of(const nests *n, int64_t kind, const float *x, float y) {
    slopes s = {.kind = kind, .y = (double)y, .count = (double)n->count};
    if (kind == DD_MAXIMUM || kind == DD_MINIMUM)
        s.ties = ties(n, x, y);
    if (kind == DD_PRODUCT)
        s.product = without_zeros(n, x, &s.zeros);
    return s;
}

/* d y / d x for an element x. Where a norm is 0 its slope is 0, as in torch. */
static double slope(const slopes *s, double x) {
    switch (s->kind) {
    case DD_MEAN:
        return 1 / s->count;
    case DD_MAXIMUM:
    case DD_MINIMUM:
        return x == s->y ? 1 / (double)s->ties : 0;
    case DD_PRODUCT: /* of all the others */
        return x == 0 ? (s->zeros == 1 ? s->product : 0) : s->zeros ? 0 : s->product / x;
    case DD_NORM1:
        return (x > 0) - (x < 0);
    case DD_NORM2:
        return s->y > 0 ? x / s->y : 0;
    case DD_SUM_SQUARES:
        return 2 * x;
    case DD_LOG_SUM_EXP:
        return exp(x - s->y);
    default:
        return 1;
    }
}

/* The gradient of one result to what it came from; x is NULL where no slope reads it. */
static void spread(const nests *n, const slopes *s, const float *x, double dy, float *dx,
                   const int64_t *dx_strides) {
    int64_t index[DD_MAX_RANK] = {0};
    do {
        double v = x ? (double)x[dd_dot(n->gone, index, n->gone_x)] : 0;
        dx[dd_dot(n->gone, index, dx_strides)] = (float)(dy * slope(s, v));
    } while (dd_next(n->gone, n->gone_dims, index));
}

static dd_status reduce_backward(const dd_op_args *a) {
    int64_t kind = ((const dd_reduce_params *)a->params)->kind, index[DD_MAX_RANK] = {0};
    if (!a->din[0].data || dd_type_count(&a->in[0].type) == 0)
        return DD_OK;
    /* x, y and their gradients may each have a pitch of its own. */
    nests n = nests_of(a, &a->in[0], &a->out[0]), d = nests_of(a, &a->din[0], &a->dout[0]);
    const float *dy = a->dout[0].data;
    float *dx = a->din[0].data;
    bool reads = kind != DD_SUM && kind != DD_MEAN;
    do {
        const float *x = (const float *)a->in[0].data + dd_dot(n.kept, index, n.kept_x);
        const float *y = (const float *)a->out[0].data + dd_dot(n.kept, index, n.kept_y);
        slopes s = slopes_of(&n, kind, x, reads ? *y : 0);
        spread(&n, &s, reads ? x : NULL, (double)dy[dd_dot(d.kept, index, d.kept_y)],
               dx + dd_dot(d.kept, index, d.kept_x), d.gone_x);
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
        {{.kind = DD_PRODUCT, .axes = INTS(1)}, 1, {F32(3, 4, 2)}},
        {{.kind = DD_NORM1, .axes = INTS(-1), .keepdims = 1}, 1, {F32(3, 9)}},
        {{.kind = DD_NORM2, .axes = INTS(1, 2)}, 1, {F32(2, 3, 2, 5)}},
        {{.kind = DD_SUM_SQUARES}, 1, {F32(2, 3, 4)}},
        {{.kind = DD_LOG_SUM_EXP, .axes = INTS(2, 0), .keepdims = 1}, 1, {F32(2, 3, 5)}},
        {{.kind = DD_LOG_SUM_EXP, .axes = INTS(0)}, 1, {F32(6, 3)}},
    };
    SAMPLES(cases, i, params, in, n_in);
}

const dd_op dd_op_reduce = {
    .name = "reduce",
    .doc =
        "sum, mean, max, min, product, l1 (Σ |x|), l2 (√Σ x²), Σ x² or log Σ e^x of x over `axes` "
        "(empty: all). With a second input `like` (read "
        "for its type): the sum over what broadcasting like to x repeats.",
    .version = 1,
    .min_in = 1,
    .max_in = 2,
    .params_size = sizeof(dd_reduce_params),
    .fields = reduce_fields,
    .shape_inputs = 1u << 1,
    .backward_uses = DD_USES_IN(0) | DD_USES_OUT(0),
    .infer = reduce_infer,
    .scratch = reduce_scratch,
    .forward = reduce_forward,
    .backward = reduce_backward,
    .channels = reduce_channels,
    .sample = reduce_sample,
};
