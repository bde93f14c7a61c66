/* The elementwise functions: one operator for all, and its gradient. Formulas are the textbook's in
 * double precision; kernels/activation.h is their fast form. */
#include "ops/activation.h"

#include <math.h>

#include "ops/grad.h"
#include "ops/channels.h"
#include "ops/describe.h"
#include "ops/walk.h"

/* ---- the functions ------------------------------------------------------------------------- */

/* The comparisons let a NaN fall through to x itself. */
static double clip(double x, double low, double high) {
    return x < low ? low : x > high ? high : x;
}

static double sigmoid(double x) {
    return 1 / (1 + exp(-x));
}

/* log(1 + e^x) without overflow for large x. */
static double softplus(double x) {
    return x > 0 ? x + log1p(exp(-x)) : log1p(exp(x));
}

/* The normal distribution function; erfc keeps the lower tail's precision. */
static double normal(double x) {
    return 0.5 * erfc(-x * 0.70710678118654752440);
}

static double density(double x) {
    return 0.39894228040143267794 * exp(-0.5 * x * x);
}

/* 2u of ½·x·(1 + tanh u) = x · sigmoid(2u), with u = √(2/π)·(x + 0.044715·x³). */
static double gelu_tanh_inner(double x) {
    return 1.59576912160573071176 * x * (1 + 0.044715 * x * x);
}

double dd_unary_value(dd_act act, double x) {
    double a = (double)act.a, b = (double)act.b;
    switch (act.kind) {
    case DD_RELU:
        return x < 0 ? 0 : x;
    case DD_CLIP:
        return clip(x, a, b);
    case DD_LEAKY_RELU:
        return x > 0 ? x : a * x;
    case DD_HARD_SIGMOID:
        return clip(x / 6 + 0.5, 0, 1);
    case DD_HARD_SWISH:
        return x * clip(x / 6 + 0.5, 0, 1);
    case DD_SIGMOID:
        return sigmoid(x);
    case DD_SILU:
        return x * sigmoid(x);
    case DD_MISH:
        return x * tanh(softplus(x));
    case DD_ELU:
        return x > 0 ? x : a * expm1(x);
    case DD_SOFTPLUS:
        return softplus(x);
    case DD_TANH:
        return tanh(x);
    case DD_GELU:
        return x * normal(x);
    case DD_ERF:
        return erf(x);
    case DD_EXP:
        return exp(x);
    case DD_LOG:
        return log(x);
    case DD_SQRT:
        return sqrt(x);
    case DD_ABS:
        return fabs(x);
    case DD_NEG:
        return -x;
    case DD_RAMP:
        return clip(a * x + b, 0, 1);
    case DD_SELU:
        return b * (x > 0 ? x : a * expm1(x));
    case DD_SOFTSIGN:
        return x / (1 + fabs(x));
    case DD_GELU_TANH:
        return x * sigmoid(gelu_tanh_inner(x));
    case DD_RECIPROCAL:
        return 1 / x;
    case DD_FLOOR:
        return floor(x);
    case DD_CEIL:
        return ceil(x);
    case DD_ROUND:
        return rint(x);
    case DD_SIGN:
        return isnan(x) ? x : (x > 0) - (x < 0);
    case DD_SIN:
        return sin(x);
    case DD_COS:
        return cos(x);
    case DD_IDENTITY:
    case DD_UNARIES:
        break;
    }
    return x;
}

/* With t = tanh(softplus x): t + x·sigmoid(x)·(1 - t²). */
static double mish_slope(double x) {
    double t = tanh(softplus(x));
    return t + x * sigmoid(x) * (1 - t) * (1 + t);
}

static double gelu_tanh_slope(double x) {
    double rise = 1.59576912160573071176 * (1 + 3 * 0.044715 * x * x);
    double s = sigmoid(gelu_tanh_inner(x));
    return s + x * s * sigmoid(-gelu_tanh_inner(x)) * rise;
}

double dd_unary_slope(dd_act act, double x) {
    double a = (double)act.a, b = (double)act.b;
    switch (act.kind) {
    case DD_RELU:
        return x > 0;
    case DD_CLIP:
        return x > a && x < b;
    case DD_LEAKY_RELU:
        return x > 0 ? 1 : a;
    case DD_HARD_SIGMOID:
        return x > -3 && x < 3 ? 1.0 / 6 : 0;
    case DD_HARD_SWISH:
        return x <= -3 ? 0 : x >= 3 ? 1 : x / 3 + 0.5;
    case DD_SIGMOID:
        return sigmoid(x) * sigmoid(-x);
    case DD_SILU:
        return sigmoid(x) * (1 + x * sigmoid(-x));
    case DD_MISH:
        return mish_slope(x);
    case DD_ELU:
        return x > 0 ? 1 : a * exp(x);
    case DD_SOFTPLUS:
        return sigmoid(x);
    case DD_TANH:
        return 1 / (cosh(x) * cosh(x));
    case DD_GELU:
        return normal(x) + x * density(x);
    case DD_ERF:
        return 1.12837916709551257390 * exp(-x * x);
    case DD_EXP:
        return exp(x);
    case DD_LOG:
        return 1 / x;
    case DD_SQRT:
        return 0.5 / sqrt(x);
    case DD_ABS:
        return (x > 0) - (x < 0);
    case DD_NEG:
        return -1;
    case DD_RAMP:
        return a * x + b > 0 && a * x + b < 1 ? a : 0;
    case DD_SELU:
        return b * (x > 0 ? 1 : a * exp(x));
    case DD_SOFTSIGN:
        return 1 / ((1 + fabs(x)) * (1 + fabs(x)));
    case DD_GELU_TANH:
        return gelu_tanh_slope(x);
    case DD_RECIPROCAL:
        return -1 / (x * x);
    case DD_FLOOR:
    case DD_CEIL:
    case DD_ROUND:
    case DD_SIGN:
        return 0;
    case DD_SIN:
        return cos(x);
    case DD_COS:
        return -sin(x);
    case DD_IDENTITY:
    case DD_UNARIES:
        break;
    }
    return 1;
}

/* ---- the operators ------------------------------------------------------------------------- */

static const dd_field unary_fields[] = {
    DD_ENUM(dd_unary_params, kind, DD_IDENTITY, dd_unary_names),
    DD_FLOAT(dd_unary_params, a, 0),
    DD_FLOAT(dd_unary_params, b, 0),
    DD_END,
};

static dd_act act_of(const void *params) {
    const dd_unary_params *p = params;
    return (dd_act){(dd_unary)p->kind, (float)p->a, (float)p->b};
}

/* a and b are free but for clip, whose bounds must not cross. */
static dd_status unary_infer(const dd_node *node, const dd_type *in, dd_type *out, int *n_out) {
    const dd_unary_params *p = node->params;
    DD_TRY(dd_need_f32("unary", "x", &in[0]));
    if (p->kind == DD_CLIP && p->a > p->b)
        return dd_fail(DD_EVALUE, "unary: clip from a = %g to b = %g, a <= b is needed", p->a,
                       p->b);
    out[0] = in[0];
    *n_out = 1;
    return DD_OK;
}

static dd_status unary_forward(const dd_op_args *args) {
    const dd_array *x = &args->in[0], *y = &args->out[0];
    dd_act act = act_of(args->params);
    int64_t rows = dd_type_rows(&x->type), last = dd_type_last(&x->type);
    for (int64_t row = 0; row < rows; row++) {
        const float *from = dd_row_f32(x, row);
        float *to = dd_row_f32(y, row);
        for (int64_t i = 0; i < last; i++)
            to[i] = (float)dd_unary_value(act, (double)from[i]);
    }
    return DD_OK;
}

/* dx (dy, x): dx = dy · f'(x). */
static dd_status dx_infer(const dd_node *node, const dd_type *in, dd_type *out, int *n_out) {
    (void)node;
    DD_TRY(dd_need_f32("unary_dx", "x", &in[1]));
    DD_TRY(dd_need_type("unary_dx", "dy", &in[0], &in[1]));
    out[0] = in[1];
    *n_out = 1;
    return DD_OK;
}

static dd_status dx_forward(const dd_op_args *args) {
    const dd_array *dy = &args->in[0], *x = &args->in[1], *dx = &args->out[0];
    dd_act act = act_of(args->params);
    int64_t rows = dd_type_rows(&x->type), last = dd_type_last(&x->type);
    for (int64_t row = 0; row < rows; row++) {
        const float *from = dd_row_f32(x, row), *d = dd_row_f32(dy, row);
        float *to = dd_row_f32(dx, row);
        for (int64_t i = 0; i < last; i++)
            to[i] = (float)((double)d[i] * dd_unary_slope(act, (double)from[i]));
    }
    return DD_OK;
}

/* A node of its own: behind a batch norm a pass merges it into the norm's gradient. */
static dd_status unary_grad(dd_graph *g, int node, const int *dout, int *din) {
    char name[DD_MAX_NAME + 1];
    const dd_node n = *dd_grad_of(g, node);
    int in[2] = {dout[0], n.in[0]};
    return dd_grad_node(g, "unary_dx", dd_grad_name(name, "dx", n.name), n.params, in, 2, &din[0],
                        1);
}

static dd_status unary_window(const dd_node *node, const dd_type *in, dd_range out, int input,
                              dd_range *rows) {
    (void)node;
    (void)in;
    (void)input;
    *rows = out;
    return DD_OK;
}

/* Elementwise: a channel stays what it is. A function with f(0) ≠ 0 makes a pruned channel a
 * constant, which pruning folds into the next bias. */
static void unary_channels(const dd_node *node, dd_channel_ids *ids) {
    (void)node;
    dd_channels_keep(ids, 0, 0);
}

/* Each function, over ranks 1 to 5; the parameters suit the kind. */
static int unary_sample(int i, void *params, dd_type *in, int *n_in) {
    static const dd_type shapes[] = {F32(2, 3, 5, 7), F32(13), F32(3, 9), F32(2, 2, 2, 3, 5),
                                     F32(4, 2, 11)};
    if (i < 0 || i >= DD_UNARIES)
        return 0;
    dd_unary_params p = {.kind = i};
    if (i == DD_CLIP) {
        p.a = -0.45;
        p.b = 0.65;
    } else if (i == DD_LEAKY_RELU) {
        p.a = 0.1;
    } else if (i == DD_ELU) {
        p.a = 0.8;
    } else if (i == DD_RAMP) {
        p.a = 0.3;
        p.b = 0.45;
    } else if (i == DD_SELU) {
        p.a = 1.6732632;
        p.b = 1.0507010;
    }
    memcpy(params, &p, sizeof p);
    in[0] = shapes[i % 5];
    *n_in = 1;
    return 1;
}

/* The same cases with a gradient in front. */
static int dx_sample(int i, void *params, dd_type *in, int *n_in) {
    if (!unary_sample(i, params, in, n_in))
        return 0;
    in[1] = in[0];
    *n_in = 2;
    return 1;
}

const dd_op dd_op_unary = {
    .name = "unary",
    .doc = "An elementwise function of x, by `kind`. a and b: the bounds of clip; a: the slope of "
           "leaky_relu below 0, the alpha of elu. ramp is clip(a·x + b, 0, 1); selu has alpha a "
           "and scale b; gelu is the erf form; round takes halves to even.",
    .version = 1,
    .min_in = 1,
    .max_in = 1,
    .params_size = sizeof(dd_unary_params),
    .fields = unary_fields,
    .flags = DD_OP_INPLACE,
    .infer = unary_infer,
    .forward = unary_forward,
    .grad = unary_grad,
    .window = unary_window,
    .channels = unary_channels,
    .quant = DD_Q_TABLE,
    .sample = unary_sample,
};

const dd_op dd_op_unary_dx = {
    .name = "unary_dx",
    .doc = "unary's gradient of x from (dy, x): dy · f'(x).",
    .version = 1,
    .min_in = 2,
    .max_in = 2,
    .params_size = sizeof(dd_unary_params),
    .fields = unary_fields,
    .flags = DD_OP_INPLACE,
    .infer = dx_infer,
    .forward = dx_forward,
    .sample = dx_sample,
};
