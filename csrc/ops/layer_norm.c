/* Layer norm over the last axis (C), row by row. */
#include <math.h>
#include <string.h>

#include "ops/channels.h"
#include "ops/describe.h"
#include "ops/node.h"
#include "ops/walk.h"

static const dd_field ln_fields[] = {DD_FLOAT(dd_layer_norm_params, eps, 1e-5), DD_END};

/* gamma and beta may each be left out. */
static bool given(const dd_node *node, const dd_type *in, int i) {
    return node->n_in > i && dd_present(&in[i]);
}

/* A row without elements has no mean. */
static dd_status ln_infer(const dd_node *node, const dd_type *in, dd_type *out, int *n_out) {
    double eps = ((const dd_layer_norm_params *)node->params)->eps;
    DD_TRY(dd_need_rank("layer_norm", "x", &in[0], 1, DD_MAX_RANK));
    if (!(eps > 0))
        return dd_fail(DD_EVALUE, "layer_norm: eps is %g, more than 0 is needed", eps);
    if (dd_type_last(&in[0]) < 1)
        return dd_fail(DD_EVALUE, "layer_norm: x has no channels");
    if (given(node, in, 1))
        DD_TRY(dd_need_vector("layer_norm", "gamma", &in[1], dd_type_last(&in[0])));
    if (given(node, in, 2))
        DD_TRY(dd_need_vector("layer_norm", "beta", &in[2], dd_type_last(&in[0])));
    out[0] = in[0];
    *n_out = 1;
    return DD_OK;
}

/* Mean and rstd of each row, dense whatever x's pitch. */
static dd_status ln_saved(const dd_node *node, const dd_type *in, dd_type *saved, int *n) {
    (void)node;
    saved[0] = saved[1] = (dd_type){.dtype = DD_F32, .rank = 1, .dims = {dd_type_rows(&in[0])}};
    *n = 2;
    return DD_OK;
}

static const float *vector_of(const dd_op_args *a, int i) {
    return a->n_in > i ? a->in[i].data : NULL;
}

/* Two passes over a row: the variance around the mean that was found, so nothing cancels. */
static dd_status ln_forward(const dd_op_args *a) {
    const dd_array *x = &a->in[0], *y = &a->out[0];
    const float *gamma = vector_of(a, 1), *beta = vector_of(a, 2);
    double eps = ((const dd_layer_norm_params *)a->params)->eps;
    int64_t rows = dd_type_rows(&x->type), c = dd_type_last(&x->type);
    for (int64_t row = 0; row < rows; row++) {
        const float *from = dd_row_f32(x, row);
        float *to = dd_row_f32(y, row);
        double mean = 0, var = 0;
        for (int64_t i = 0; i < c; i++)
            mean += (double)from[i] / (double)c;
        for (int64_t i = 0; i < c; i++)
            var += ((double)from[i] - mean) * ((double)from[i] - mean) / (double)c;
        double rstd = 1 / sqrt(var + eps);
        for (int64_t i = 0; i < c; i++) {
            double hat = ((double)from[i] - mean) * rstd;
            to[i] = (float)(hat * (gamma ? (double)gamma[i] : 1) + (beta ? (double)beta[i] : 0));
        }
        if (a->training && a->saved[0].data)
            ((float *)a->saved[0].data)[row] = (float)mean;
        if (a->training && a->saved[1].data)
            ((float *)a->saved[1].data)[row] = (float)rstd;
    }
    return DD_OK;
}

/* The parameters' gradients sum over all rows: in double. */
static size_t ln_scratch(const dd_node *node, const dd_type *in) {
    return node->backward ? 2 * (size_t)dd_type_last(&in[0]) * sizeof(double) : 0;
}

/* One row. With h = (x - mean)·rstd and e = dy·gamma: dx = rstd·(e - mean(e) - h·mean(e·h)). */
static void ln_row(const dd_op_args *a, int64_t row, double *dgamma, double *dbeta) {
    const float *x = dd_row_f32(&a->in[0], row), *dy = dd_row_f32(&a->dout[0], row);
    const float *gamma = vector_of(a, 1);
    double mean = (double)((const float *)a->saved[0].data)[row];
    double rstd = (double)((const float *)a->saved[1].data)[row];
    int64_t c = dd_type_last(&a->in[0].type);
    double sum = 0, sum_h = 0;
    for (int64_t i = 0; i < c; i++) {
        double h = ((double)x[i] - mean) * rstd, d = (double)dy[i];
        double e = d * (gamma ? (double)gamma[i] : 1);
        sum += e / (double)c;
        sum_h += e * h / (double)c;
        dgamma[i] += d * h;
        dbeta[i] += d;
    }
    if (!a->din[0].data)
        return;
    float *dx = dd_row_f32(&a->din[0], row);
    for (int64_t i = 0; i < c; i++) {
        double h = ((double)x[i] - mean) * rstd;
        double e = (double)dy[i] * (gamma ? (double)gamma[i] : 1);
        dx[i] = (float)(rstd * (e - sum - h * sum_h));
    }
}

static dd_status ln_backward(const dd_op_args *a) {
    int64_t rows = dd_type_rows(&a->in[0].type), c = dd_type_last(&a->in[0].type);
    double *sums[3] = {NULL, a->scratch, (double *)a->scratch + c};
    memset(a->scratch, 0, 2 * (size_t)c * sizeof(double));
    for (int64_t row = 0; row < rows; row++)
        ln_row(a, row, sums[1], sums[2]);
    for (int k = 1; k < a->n_in && k < 3; k++)
        for (int64_t i = 0; a->din[k].data && i < c; i++)
            ((float *)a->din[k].data)[i] = (float)sums[k][i];
    return DD_OK;
}

static int ln_sample(int i, void *params, dd_type *in, int *n_in) {
    static const struct {
        dd_layer_norm_params p;
        int n;
        dd_type in[3];
    } cases[] = {
        {{1e-5}, 3, {F32(2, 3, 7), F32(7), F32(7)}},
        {{1e-3}, 1, {F32(2, 3, 2, 5)}},
        {{1e-5}, 2, {F32(9), F32(9)}},
        {{1e-5}, 3, {F32(4, 8), ABSENT, F32(8)}},
    };
    SAMPLES(cases, i, params, in, n_in);
}

const dd_op dd_op_layer_norm = {
    .name = "layer_norm",
    .doc = "Each row of x normalized over the last axis, times gamma, plus beta (both optional).",
    .version = 1,
    .min_in = 1,
    .max_in = 3,
    .n_saved = 2,
    .params_size = sizeof(dd_layer_norm_params),
    .fields = ln_fields,
    .backward_uses = DD_USES_IN(0) | DD_USES_IN(1),
    .infer = ln_infer,
    .saved = ln_saved,
    .scratch = ln_scratch,
    .forward = ln_forward,
    .backward = ln_backward,
    .sample = ln_sample,
};
