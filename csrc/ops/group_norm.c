/* Group norm (Wu & He 2018) of x (N, …, C): each image's channels in groups, over all its pixels. A
 * group a channel is instance norm. Sums run by channel along the rows, then join by group, all in
 * double. */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "ops/channels.h"
#include "ops/describe.h"
#include "ops/node.h"
#include "ops/walk.h"

static const dd_field gn_fields[] = {
    DD_INT(dd_group_norm_params, groups, 0),
    DD_FLOAT(dd_group_norm_params, eps, 1e-5),
    DD_END,
};

/* gamma and beta may each be left out. */
static bool given(const dd_node *node, const dd_type *in, int i) {
    return node->n_in > i && dd_present(&in[i]);
}

static int64_t groups_of(const void *params, const dd_type *x) {
    int64_t groups = ((const dd_group_norm_params *)params)->groups;
    return groups ? groups : dd_type_last(x);
}

/* A group without elements has no mean. */
static dd_status gn_infer(const dd_node *node, const dd_type *in, dd_type *out, int *n_out) {
    const dd_group_norm_params *p = node->params;
    DD_TRY(dd_need_rank("group_norm", "x", &in[0], 2, DD_MAX_RANK));
    int64_t c = dd_type_last(&in[0]);
    if (!(p->eps > 0))
        return dd_fail(DD_EVALUE, "group_norm: eps is %g, more than 0 is needed", p->eps);
    if (p->groups < 0 || c < 1 || c % groups_of(p, &in[0]))
        return dd_fail(DD_EVALUE, "group_norm: %" PRId64 " channels in %" PRId64 " groups", c,
                       p->groups);
    for (int k = 1; k < in[0].rank; k++)
        if (in[0].dims[k] == 0)
            return dd_fail(DD_EVALUE, "group_norm: axis %d is empty", k);
    if (given(node, in, 1))
        DD_TRY(dd_need_vector("group_norm", "gamma", &in[1], c));
    if (given(node, in, 2))
        DD_TRY(dd_need_vector("group_norm", "beta", &in[2], c));
    out[0] = in[0];
    *n_out = 1;
    return DD_OK;
}

/* Mean and rstd of each image's groups. */
static dd_status gn_saved(const dd_node *node, const dd_type *in, dd_type *saved, int *n) {
    saved[0] = saved[1] = (dd_type){
        .dtype = DD_F32, .rank = 2, .dims = {in[0].dims[0], groups_of(node->params, &in[0])}};
    *n = 2;
    return DD_OK;
}

static const float *vector_of(const dd_op_args *a, int i) {
    return a->n_in > i ? a->in[i].data : NULL;
}

/* Sums and two values a channel in the forward; two more sums, and the parameters' gradients, in
 * the backward. */
static size_t gn_scratch(const dd_node *node, const dd_type *in) {
    return (node->backward ? 8 : 3) * (size_t)dd_type_last(&in[0]) * sizeof(double);
}

/* values[c], summed over each group and divided by `count`, becomes every channel's. */
static void join(double *values, int64_t c, int64_t groups, double count) {
    int64_t size = c / groups;
    for (int64_t g = 0; g < groups; g++) {
        double sum = 0;
        for (int64_t i = 0; i < size; i++)
            sum += values[g * size + i];
        for (int64_t i = 0; i < size; i++)
            values[g * size + i] = sum / count;
    }
}

/* Mean, then variance around it (so that nothing cancels), by channel, of one image's rows. */
static void moments(const dd_array *x, int64_t first, int64_t rows, int64_t c, int64_t groups,
                    double *mean, double *var) {
    double count = (double)rows * (double)(c / groups);
    memset(mean, 0, (size_t)c * sizeof *mean);
    memset(var, 0, (size_t)c * sizeof *var);
    for (int64_t row = first; row < first + rows; row++)
        for (int64_t i = 0; i < c; i++)
            mean[i] += (double)dd_row_f32(x, row)[i];
    join(mean, c, groups, count);
    for (int64_t row = first; row < first + rows; row++)
        for (int64_t i = 0; i < c; i++) {
            double d = (double)dd_row_f32(x, row)[i] - mean[i];
            var[i] += d * d;
        }
    join(var, c, groups, count);
}

static dd_status gn_forward(const dd_op_args *a) {
    const dd_array *x = &a->in[0], *y = &a->out[0];
    const float *gamma = vector_of(a, 1), *beta = vector_of(a, 2);
    double eps = ((const dd_group_norm_params *)a->params)->eps;
    int64_t c = dd_type_last(&x->type), n = x->type.dims[0],
            groups = groups_of(a->params, &x->type);
    int64_t rows = n ? dd_type_rows(&x->type) / n : 0;
    double *mean = a->scratch, *rstd = mean + c, *scale = rstd + c;
    for (int64_t image = 0; image < n; image++) {
        moments(x, image * rows, rows, c, groups, mean, rstd);
        for (int64_t i = 0; i < c; i++) {
            rstd[i] = 1 / sqrt(rstd[i] + eps);
            scale[i] = rstd[i] * (gamma ? (double)gamma[i] : 1);
        }
        for (int64_t row = image * rows; row < (image + 1) * rows; row++) {
            const float *from = dd_row_f32(x, row);
            float *to = dd_row_f32(y, row);
            for (int64_t i = 0; i < c; i++)
                to[i] =
                    (float)(((double)from[i] - mean[i]) * scale[i] + (beta ? (double)beta[i] : 0));
        }
        for (int64_t g = 0; a->training && g < groups; g++) {
            int64_t i = g * (c / groups);
            if (a->saved[0].data)
                ((float *)a->saved[0].data)[image * groups + g] = (float)mean[i];
            if (a->saved[1].data)
                ((float *)a->saved[1].data)[image * groups + g] = (float)rstd[i];
        }
    }
    return DD_OK;
}

/* What the backward of an image works on, by channel. */
typedef struct sums {
    double *mean, *rstd, *e, *e_h, *dgamma, *dbeta, *d, *d_h;
} sums;

/* d[i] = Σ dy, d_h[i] = Σ dy·h over the image's rows. */
static void gather_sums(const dd_op_args *a, const sums *s, int64_t first, int64_t rows,
                        int64_t c) {
    memset(s->d, 0, (size_t)c * sizeof *s->d);
    memset(s->d_h, 0, (size_t)c * sizeof *s->d_h);
    for (int64_t row = first; row < first + rows; row++) {
        const float *x = dd_row_f32(&a->in[0], row), *dy = dd_row_f32(&a->dout[0], row);
        for (int64_t i = 0; i < c; i++) {
            s->d[i] += (double)dy[i];
            s->d_h[i] += (double)dy[i] * ((double)x[i] - s->mean[i]) * s->rstd[i];
        }
    }
}

/* With h = (x - mean)·rstd and e = dy·gamma: dx = rstd·(e - mean(e) - h·mean(e·h)). */
static void image_gradient(const dd_op_args *a, const sums *s, int64_t image, int64_t rows,
                           int64_t groups) {
    const float *gamma = vector_of(a, 1);
    int64_t c = dd_type_last(&a->in[0].type), first = image * rows, size = c / groups;
    double count = (double)rows * (double)size;
    for (int64_t i = 0; i < c; i++) {
        s->mean[i] = (double)((const float *)a->saved[0].data)[image * groups + i / size];
        s->rstd[i] = (double)((const float *)a->saved[1].data)[image * groups + i / size];
    }
    gather_sums(a, s, first, rows, c);
    for (int64_t i = 0; i < c; i++) {
        s->dgamma[i] += s->d_h[i];
        s->dbeta[i] += s->d[i];
        s->e[i] = s->d[i] * (gamma ? (double)gamma[i] : 1);
        s->e_h[i] = s->d_h[i] * (gamma ? (double)gamma[i] : 1);
    }
    join(s->e, c, groups, count);
    join(s->e_h, c, groups, count);
    for (int64_t row = first; a->din[0].data && row < first + rows; row++) {
        const float *x = dd_row_f32(&a->in[0], row), *dy = dd_row_f32(&a->dout[0], row);
        float *dx = dd_row_f32(&a->din[0], row);
        for (int64_t i = 0; i < c; i++) {
            double h = ((double)x[i] - s->mean[i]) * s->rstd[i];
            double e = (double)dy[i] * (gamma ? (double)gamma[i] : 1);
            dx[i] = (float)(s->rstd[i] * (e - s->e[i] - h * s->e_h[i]));
        }
    }
}

static dd_status gn_backward(const dd_op_args *a) {
    const dd_type *x = &a->in[0].type;
    int64_t c = dd_type_last(x), n = x->dims[0], rows = n ? dd_type_rows(x) / n : 0;
    double *at = a->scratch;
    sums s = {.mean = at,
              .rstd = at + c,
              .e = at + 2 * c,
              .e_h = at + 3 * c,
              .dgamma = at + 4 * c,
              .dbeta = at + 5 * c,
              .d = at + 6 * c,
              .d_h = at + 7 * c};
    memset(s.dgamma, 0, 2 * (size_t)c * sizeof(double));
    for (int64_t image = 0; image < n; image++)
        image_gradient(a, &s, image, rows, groups_of(a->params, x));
    for (int k = 1; k < a->n_in && k < 3; k++)
        for (int64_t i = 0; a->din[k].data && i < c; i++)
            ((float *)a->din[k].data)[i] = (float)(k == 1 ? s.dgamma : s.dbeta)[i];
    return DD_OK;
}

static int gn_sample(int i, void *params, dd_type *in, int *n_in) {
    static const struct {
        dd_group_norm_params p;
        int n;
        dd_type in[3];
    } cases[] = {
        {{2, 1e-5}, 3, {F32(2, 3, 4, 6), F32(6), F32(6)}},
        {{0, 1e-3}, 3, {F32(2, 3, 3, 5), F32(5), F32(5)}},
        {{1, 1e-5}, 1, {F32(3, 4, 5)}},
        {{3, 1e-5}, 3, {F32(2, 9), ABSENT, F32(9)}},
        {{4, 1e-5}, 2, {F32(1, 2, 2, 2, 8), F32(8)}},
    };
    SAMPLES(cases, i, params, in, n_in);
}

const dd_op dd_op_group_norm = {
    .name = "group_norm",
    .doc =
        "x (N, …, C) normalized over each image's pixels and the channels of a group, times gamma "
        "(C), plus beta (C) (both optional). groups 0: a group a channel (instance norm).",
    .version = 1,
    .min_in = 1,
    .max_in = 3,
    .n_saved = 2,
    .params_size = sizeof(dd_group_norm_params),
    .fields = gn_fields,
    .backward_uses = DD_USES_IN(0) | DD_USES_IN(1),
    .infer = gn_infer,
    .saved = gn_saved,
    .scratch = gn_scratch,
    .forward = gn_forward,
    .backward = gn_backward,
    .sample = gn_sample,
};
