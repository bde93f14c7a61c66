/* Softmax and its logarithm along one axis. */
#include <math.h>

#include "ops/channels.h"
#include "ops/describe.h"
#include "ops/node.h"
#include "ops/walk.h"

static const dd_field softmax_fields[] = {DD_INT(dd_axis_params, axis, -1), DD_END};

/* Any axis of any rank. */
static dd_status softmax_infer(const dd_node *node, const dd_type *in, dd_type *out, int *n_out) {
    int axis;
    DD_TRY(dd_need_rank(node->op->name, "x", &in[0], 1, DD_MAX_RANK));
    DD_TRY(dd_need_axis(node->op->name, ((const dd_axis_params *)node->params)->axis, in[0].rank,
                        &axis));
    out[0] = in[0];
    *n_out = 1;
    return DD_OK;
}

/* Visits the lines along the axis: `index` walks all other axes. */
typedef struct lines {
    int axis, rank;
    int64_t dims[DD_MAX_RANK], n; /* dims with 1 at the axis; elements of a line */
} lines;

static lines lines_of(const void *params, const dd_type *t) {
    int64_t axis = ((const dd_axis_params *)params)->axis;
    lines l = {.axis = (int)(axis < 0 ? axis + t->rank : axis), .rank = t->rank};
    for (int k = 0; k < t->rank; k++)
        l.dims[k] = t->dims[k];
    l.n = l.dims[l.axis];
    l.dims[l.axis] = 1;
    return l;
}

/* The maximum goes first: e^x overflows beyond 88. It is found by comparison and not by fmax(), at
 * which gcc 12 for aarch64 fails with an internal error when it vectorizes the loop. */
static void softmax_line(bool log_of_it, const float *x, int64_t x_step, float *y, int64_t y_step,
                         int64_t n) {
    double most = (double)x[0], sum = 0;
    for (int64_t i = 1; i < n; i++)
        most = (double)x[i * x_step] > most ? (double)x[i * x_step] : most;
    for (int64_t i = 0; i < n; i++)
        sum += exp((double)x[i * x_step] - most);
    double shift = log_of_it ? most + log(sum) : 0;
    for (int64_t i = 0; i < n; i++)
        y[i * y_step] = log_of_it ? (float)((double)x[i * x_step] - shift)
                                  : (float)(exp((double)x[i * x_step] - most) / sum);
}

static dd_status softmax_forward(const dd_op_args *a) {
    const dd_array *x = &a->in[0], *y = &a->out[0];
    int64_t xs[DD_MAX_RANK], ys[DD_MAX_RANK], index[DD_MAX_RANK] = {0};
    lines l = lines_of(a->params, &x->type);
    bool log_of_it = a->node->op == &dd_op_log_softmax;
    if (dd_type_count(&x->type) == 0)
        return DD_OK;
    dd_strides(x, xs);
    dd_strides(y, ys);
    do
        softmax_line(log_of_it, (const float *)x->data + dd_dot(l.rank, index, xs), xs[l.axis],
                     (float *)y->data + dd_dot(l.rank, index, ys), ys[l.axis], l.n);
    while (dd_next(l.rank, l.dims, index));
    return DD_OK;
}

/* dx = y · (dy - Σ dy·y), and for the logarithm dx = dy - e^y · Σ dy. */
static dd_status softmax_backward(const dd_op_args *a) {
    const dd_array *y = &a->out[0], *dy = &a->dout[0], *dx = &a->din[0];
    int64_t ys[DD_MAX_RANK], ds[DD_MAX_RANK], xs[DD_MAX_RANK], index[DD_MAX_RANK] = {0};
    lines l = lines_of(a->params, &y->type);
    bool log_of_it = a->node->op == &dd_op_log_softmax;
    if (!dx->data || dd_type_count(&y->type) == 0)
        return DD_OK;
    dd_strides(y, ys);
    dd_strides(dy, ds);
    dd_strides(dx, xs);
    do {
        const float *v = (const float *)y->data + dd_dot(l.rank, index, ys);
        const float *d = (const float *)dy->data + dd_dot(l.rank, index, ds);
        float *to = (float *)dx->data + dd_dot(l.rank, index, xs);
        double sum = 0;
        for (int64_t i = 0; i < l.n; i++)
            sum += (double)d[i * ds[l.axis]] * (log_of_it ? 1 : (double)v[i * ys[l.axis]]);
        for (int64_t i = 0; i < l.n; i++) {
            double out = (double)v[i * ys[l.axis]], g = (double)d[i * ds[l.axis]];
            to[i * xs[l.axis]] = (float)(log_of_it ? g - exp(out) * sum : out * (g - sum));
        }
    } while (dd_next(l.rank, l.dims, index));
    return DD_OK;
}

static int softmax_sample(int i, void *params, dd_type *in, int *n_in) {
    static const struct {
        dd_axis_params p;
        int n;
        dd_type in[1];
    } cases[] = {
        {{-1}, 1, {F32(2, 3, 4, 7)}},   {{1}, 1, {F32(2, 5, 3)}}, {{0}, 1, {F32(9)}},
        {{2}, 1, {F32(2, 1, 4, 3, 2)}}, {{-1}, 1, {F32(3, 1)}},
    };
    SAMPLES(cases, i, params, in, n_in);
}

const dd_op dd_op_softmax = {
    .name = "softmax",
    .doc = "exp(x) over its sum along `axis`.",
    .version = 1,
    .min_in = 1,
    .max_in = 1,
    .params_size = sizeof(dd_axis_params),
    .fields = softmax_fields,
    .backward_uses = DD_USES_OUT(0),
    .infer = softmax_infer,
    .forward = softmax_forward,
    .backward = softmax_backward,
    .sample = softmax_sample,
};

const dd_op dd_op_log_softmax = {
    .name = "log_softmax",
    .doc = "The logarithm of softmax along `axis`: x - log Σ e^x.",
    .version = 1,
    .min_in = 1,
    .max_in = 1,
    .params_size = sizeof(dd_axis_params),
    .fields = softmax_fields,
    .backward_uses = DD_USES_OUT(0),
    .infer = softmax_infer,
    .forward = softmax_forward,
    .backward = softmax_backward,
    .sample = softmax_sample,
};
