/* Batch norm with its gradient, and layer norm. C is the last axis; a row is a pixel, n of them.
 * Statistics and sums are formed in double. */
#include <math.h>
#include <string.h>

#include "ops/activation.h"
#include "ops/channels.h"
#include "ops/describe.h"
#include "ops/grad.h"
#include "ops/walk.h"

/* ---- batch norm ---------------------------------------------------------------------------- */

static const dd_field bn_fields[] = {
    DD_FLOAT(dd_batch_norm_params, eps, 1e-5),
    DD_FLOAT(dd_batch_norm_params, momentum, 0.1),
    DD_BOOL(dd_batch_norm_params, frozen, 0),
    DD_END,
};

static const dd_field bn_gradient_fields[] = {
    DD_FLOAT(dd_batch_norm_params, eps, 1e-5),
    DD_FLOAT(dd_batch_norm_params, momentum, 0.1),
    DD_BOOL(dd_batch_norm_params, frozen, 0),
    DD_ENUM(dd_batch_norm_params, act, DD_IDENTITY, dd_unary_names),
    DD_FLOAT(dd_batch_norm_params, a, 0),
    DD_FLOAT(dd_batch_norm_params, b, 0),
    DD_END,
};

/* eps above 0 keeps 1/sqrt finite for a channel that does not vary. */
static dd_status check_bn(const char *who, const dd_batch_norm_params *p) {
    if (!(p->eps > 0))
        return dd_fail(DD_EVALUE, "%s: eps is %g, more than 0 is needed", who, p->eps);
    if (!(p->momentum >= 0 && p->momentum <= 1))
        return dd_fail(DD_EVALUE, "%s: momentum is %g, 0 to 1 is needed", who, p->momentum);
    return DD_OK;
}

/* In training, unless its parameters are frozen: then it is an affine like in inference. */
static bool uses_batch(const dd_node *node) {
    return node->training && !((const dd_batch_norm_params *)node->params)->frozen;
}

/* Any rank from 2: a row of features is a map of one pixel. */
static dd_status bn_infer(const dd_node *node, const dd_type *in, dd_type *out, int *n_out) {
    static const char *const what[] = {"x", "gamma", "beta", "running mean", "running variance"};
    DD_TRY(check_bn("batch_norm", node->params));
    DD_TRY(dd_need_rank("batch_norm", "x", &in[0], 2, DD_MAX_RANK));
    for (int i = 1; i < 5; i++)
        DD_TRY(dd_need_vector("batch_norm", what[i], &in[i], dd_type_last(&in[0])));
    if (uses_batch(node) && dd_type_rows(&in[0]) == 0)
        return dd_fail(DD_EVALUE, "batch_norm: x has no pixels, training needs some");
    out[0] = in[0];
    *n_out = 1;
    return DD_OK;
}

/* (mean, rstd): with them the gradient needs neither y nor the statistics again. */
static dd_status bn_saved(const dd_node *node, const dd_type *in, dd_type *saved, int *n) {
    (void)node;
    saved[0] = saved[1] = (dd_type){.dtype = DD_F32, .rank = 1, .dims = {dd_type_last(&in[0])}};
    *n = 2;
    return DD_OK;
}

/* Mean and biased variance of channel c. */
static void statistics(const dd_array *x, int64_t c, double *mean, double *var) {
    int64_t rows = dd_type_rows(&x->type);
    double sum = 0, squares = 0;
    for (int64_t row = 0; row < rows; row++)
        sum += (double)dd_row_f32(x, row)[c];
    *mean = sum / (double)rows;
    for (int64_t row = 0; row < rows; row++) {
        double d = (double)dd_row_f32(x, row)[c] - *mean;
        squares += d * d;
    }
    *var = squares / (double)rows;
}

/* Moves the running statistics as torch does: the variance is the unbiased one. */
static void move_running(const dd_batch_norm_params *p, double mean, double var, int64_t rows,
                         float *running_mean, float *running_var) {
    double unbiased = rows > 1 ? var * (double)rows / (double)(rows - 1) : var;
    *running_mean += (float)(p->momentum * (mean - (double)*running_mean));
    *running_var += (float)(p->momentum * (unbiased - (double)*running_var));
}

/* A channel at a time: statistics first, since they need all pixels, then the affine. */
static dd_status bn_forward(const dd_op_args *a) {
    const dd_array *x = &a->in[0], *y = &a->out[0];
    const dd_batch_norm_params *p = a->params;
    const float *gamma = a->in[1].data, *beta = a->in[2].data;
    float *running_mean = a->in[3].data, *running_var = a->in[4].data;
    int64_t rows = dd_type_rows(&x->type), channels = dd_type_last(&x->type);
    for (int64_t c = 0; c < channels; c++) {
        double mean = (double)running_mean[c], var = (double)running_var[c];
        if (a->training && !p->frozen) {
            statistics(x, c, &mean, &var);
            move_running(p, mean, var, rows, &running_mean[c], &running_var[c]);
        }
        double rstd = 1 / sqrt(var + p->eps), scale = (double)gamma[c] * rstd;
        if (a->training && a->saved[0].data)
            ((float *)a->saved[0].data)[c] = (float)mean;
        if (a->training && a->saved[1].data)
            ((float *)a->saved[1].data)[c] = (float)rstd;
        for (int64_t row = 0; row < rows; row++)
            dd_row_f32(y, row)[c] =
                (float)(((double)dd_row_f32(x, row)[c] - mean) * scale + (double)beta[c]);
    }
    return DD_OK;
}

/* (dz, x, gamma, beta, mean, rstd) of both gradient operators. */
static dd_status check_gradient(const char *who, const dd_node *node, const dd_type *in) {
    static const char *const what[] = {"dz", "x", "gamma", "beta", "mean", "rstd"};
    DD_TRY(check_bn(who, node->params));
    DD_TRY(dd_need_rank(who, "x", &in[1], 2, DD_MAX_RANK));
    DD_TRY(dd_need_type(who, "dz", &in[0], &in[1]));
    for (int i = 2; i < 6; i++)
        DD_TRY(dd_need_vector(who, what[i], &in[i], dd_type_last(&in[1])));
    return DD_OK;
}

/* (dgamma, dbeta) have gamma's type. */
static dd_status reduce_infer(const dd_node *node, const dd_type *in, dd_type *out, int *n_out) {
    DD_TRY(check_gradient("bn_reduce", node, in));
    out[0] = out[1] = in[2];
    *n_out = 2;
    return DD_OK;
}

/* The two sums are inputs, so that one pass over the map serves parameters and x. */
static dd_status dx_infer(const dd_node *node, const dd_type *in, dd_type *out, int *n_out) {
    DD_TRY(check_gradient("bn_dx", node, in));
    if (!((const dd_batch_norm_params *)node->params)->frozen) {
        if (node->n_in < 8)
            return dd_fail(DD_EVALUE, "bn_dx: dgamma and dbeta are missing");
        DD_TRY(dd_need_vector("bn_dx", "dgamma", &in[6], dd_type_last(&in[1])));
        DD_TRY(dd_need_vector("bn_dx", "dbeta", &in[7], dd_type_last(&in[1])));
    }
    out[0] = in[1];
    *n_out = 1;
    return DD_OK;
}

/* One channel of a gradient: what both operators need of it. */
typedef struct channel {
    double mean, rstd, gamma, beta;
    dd_act act;
} channel;

static channel channel_of(const dd_op_args *a, int64_t c) {
    const dd_batch_norm_params *p = a->params;
    const float *gamma = a->in[2].data, *beta = a->in[3].data;
    const float *mean = a->in[4].data, *rstd = a->in[5].data;
    return (channel){.mean = (double)mean[c],
                     .rstd = (double)rstd[c],
                     .gamma = (double)gamma[c],
                     .beta = (double)beta[c],
                     .act = {(dd_unary)p->act, (float)p->a, (float)p->b}};
}

/* d = dz · act'(u): the gradient behind the affine. */
static double behind(const channel *k, double dz, double x) {
    return dz * dd_unary_slope(k->act, (x - k->mean) * k->rstd * k->gamma + k->beta);
}

/* dbeta = Σ d and dgamma = Σ d·(x - mean)·rstd. */
static dd_status reduce_forward(const dd_op_args *a) {
    const dd_array *dz = &a->in[0], *x = &a->in[1];
    float *dgamma = a->out[0].data, *dbeta = a->out[1].data;
    int64_t rows = dd_type_rows(&x->type), channels = dd_type_last(&x->type);
    for (int64_t c = 0; c < channels; c++) {
        channel k = channel_of(a, c);
        double sum = 0, sum_x = 0;
        for (int64_t row = 0; row < rows; row++) {
            double v = (double)dd_row_f32(x, row)[c];
            double d = behind(&k, (double)dd_row_f32(dz, row)[c], v);
            sum += d;
            sum_x += d * (v - k.mean);
        }
        if (dgamma)
            dgamma[c] = (float)(sum_x * k.rstd);
        if (dbeta)
            dbeta[c] = (float)sum;
    }
    return DD_OK;
}

/* dx = gamma·rstd·(d - dbeta/n - x̂·dgamma/n); the last two terms are the way through the
 * batch's mean and variance, which a frozen norm does not have. */
static dd_status dx_forward(const dd_op_args *a) {
    const dd_array *dz = &a->in[0], *x = &a->in[1], *dx = &a->out[0];
    const dd_batch_norm_params *p = a->params;
    int64_t rows = dd_type_rows(&x->type), channels = dd_type_last(&x->type);
    for (int64_t c = 0; c < channels; c++) {
        channel k = channel_of(a, c);
        double from_gamma = 0, from_beta = 0;
        if (!p->frozen) { /* the statistics depend on x too */
            from_gamma = (double)((const float *)a->in[6].data)[c] / (double)rows;
            from_beta = (double)((const float *)a->in[7].data)[c] / (double)rows;
        }
        for (int64_t row = 0; row < rows; row++) {
            double v = (double)dd_row_f32(x, row)[c], hat = (v - k.mean) * k.rstd;
            double d = behind(&k, (double)dd_row_f32(dz, row)[c], v);
            dd_row_f32(dx, row)[c] = (float)(k.gamma * k.rstd * (d - from_beta - hat * from_gamma));
        }
    }
    return DD_OK;
}

/* bn_reduce is needed for x alone too: its sums enter bn_dx. */
static dd_status bn_grad(dd_graph *g, int node, const int *dout, int *din) {
    char name[DD_MAX_NAME + 1];
    const dd_node n = *dd_grad_of(g, node);
    const dd_batch_norm_params *p = n.params;
    int mean = n.out[n.n_out - 2], rstd = n.out[n.n_out - 1];
    int in[8] = {dout[0], n.in[0], n.in[1], n.in[2], mean, rstd, -1, -1}, sums[2] = {-1, -1};
    bool batch = n.training && !p->frozen;
    if (din[1] == 1 || din[2] == 1 || batch)
        DD_TRY(dd_grad_node(g, "bn_reduce", dd_grad_name(name, "reduce", n.name), n.params, in, 6,
                            sums, 2));
    if (din[0] == 1) {
        in[6] = sums[0];
        in[7] = sums[1];
        DD_TRY(dd_grad_node(g, "bn_dx", dd_grad_name(name, "dx", n.name), n.params, in,
                            batch ? 8 : 6, &din[0], 1));
    }
    din[1] = din[1] == 1 ? sums[0] : -1;
    din[2] = din[2] == 1 ? sums[1] : -1;
    din[3] = din[4] = -1;
    return DD_OK;
}

/* With the batch's statistics every output pixel depends on the whole map. */
static dd_status bn_window(const dd_node *node, const dd_type *in, dd_range out, int input,
                           dd_range *rows) {
    if (uses_batch(node))
        return dd_fail(DD_EVALUE, "batch_norm: training needs the whole map");
    *rows = input == 0 ? out : (dd_range){0, in[input].dims[0]};
    return DD_OK;
}

/* Each parameter is a vector over the channels. */
static void bn_channels(const dd_node *node, dd_channel_ids *ids) {
    (void)node;
    dd_channels_keep(ids, 0, 0);
    for (int i = 1; i < 5; i++)
        dd_channels_axis_input(ids, i, 0, 0);
}

typedef struct bn_case {
    dd_batch_norm_params p;
    int n;
    dd_type in[8];
} bn_case;

static int bn_sample(int i, void *params, dd_type *in, int *n_in) {
    static const bn_case cases[] = {
        {{.eps = 1e-5, .momentum = 0.1}, 5, {F32(2, 3, 5, 7), F32(7), F32(7), F32(7), F32(7)}},
        {{.eps = 1e-3, .momentum = 0.03}, 5, {F32(9, 4), F32(4), F32(4), F32(4), F32(4)}},
        {{.eps = 1e-3, .momentum = 0.1, .frozen = 1},
         5,
         {F32(2, 4, 3, 8), F32(8), F32(8), F32(8), F32(8)}},
    };
    SAMPLES(cases, i, params, in, n_in);
}

static int reduce_sample(int i, void *params, dd_type *in, int *n_in) {
    static const bn_case cases[] = {
        {{.eps = 1e-5, .momentum = 0.1, .act = DD_HARD_SWISH},
         6,
         {F32(2, 3, 5, 7), F32(2, 3, 5, 7), F32(7), F32(7), F32(7), F32(7)}},
        {{.eps = 1e-3, .momentum = 0.03},
         6,
         {F32(9, 4), F32(9, 4), F32(4), F32(4), F32(4), F32(4)}},
        {{.eps = 1e-5, .momentum = 0.1, .act = DD_RELU},
         6,
         {F32(1, 4, 4, 8), F32(1, 4, 4, 8), F32(8), F32(8), F32(8), F32(8)}},
    };
    SAMPLES(cases, i, params, in, n_in);
}

static int dx_sample(int i, void *params, dd_type *in, int *n_in) {
    if (i == 3) { /* frozen: no sums */
        (void)reduce_sample(0, params, in, n_in);
        ((dd_batch_norm_params *)params)->frozen = 1;
        return 1;
    }
    if (!reduce_sample(i, params, in, n_in))
        return 0;
    in[6] = in[7] = in[2];
    *n_in = 8;
    return 1;
}

const dd_op dd_op_batch_norm = {
    .name = "batch_norm",
    .doc = "Batch norm of x over all axes but the last, with gamma, beta, running mean and running "
           "variance (C). Training uses the batch's mean and biased variance and moves the running "
           "ones by momentum (with the unbiased variance); inference, and `frozen`, use the "
           "running ones.",
    .version = 1,
    .min_in = 5,
    .max_in = 5,
    .n_saved = 2,
    .params_size = sizeof(dd_batch_norm_params),
    .fields = bn_fields,
    .flags = DD_OP_STATE,
    .infer = bn_infer,
    .saved = bn_saved,
    .forward = bn_forward,
    .grad = bn_grad,
    .window = bn_window,
    .channels = bn_channels,
    .sample = bn_sample,
};

const dd_op dd_op_bn_reduce = {
    .name = "bn_reduce",
    .doc = "batch_norm's gradients of gamma and beta from (dz, x, gamma, beta, mean, rstd); dz is "
           "the gradient behind the activation `act`.",
    .version = 1,
    .min_in = 6,
    .max_in = 6,
    .n_outputs = 2,
    .params_size = sizeof(dd_batch_norm_params),
    .fields = bn_gradient_fields,
    .infer = reduce_infer,
    .forward = reduce_forward,
    .sample = reduce_sample,
};

const dd_op dd_op_bn_dx = {
    .name = "bn_dx",
    .doc = "batch_norm's gradient of x from (dz, x, gamma, beta, mean, rstd, dgamma, dbeta); the "
           "last two are not needed when frozen.",
    .version = 1,
    .min_in = 6,
    .max_in = 8,
    .params_size = sizeof(dd_batch_norm_params),
    .fields = bn_gradient_fields,
    .infer = dx_infer,
    .forward = dx_forward,
    .sample = dx_sample,
};
