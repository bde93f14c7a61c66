/* The elementwise functions and their slopes in double precision, from libm and textbook formulas:
 * what the vector forms are held to. */
#ifndef DD_TESTS_PLAIN_ACTIVATIONS_H
#define DD_TESTS_PLAIN_ACTIVATIONS_H

#include <math.h>

#include "kernels/kernels.h"

static inline double plain_sigmoid(double x) {
    return 1.0 / (1.0 + exp(-x));
}
static inline double plain_softplus(double x) {
    return x > 0.0 ? x + log1p(exp(-x)) : log1p(exp(x));
}
static inline double plain_density(double x) {
    return exp(-0.5 * x * x) * 0.39894228040143267794;
}
static inline double plain_normal(double x) {
    return 0.5 * erfc(-x * 0.70710678118654752440);
}
static inline double plain_clip(double x, double low, double high) {
    return x < low ? low : x > high ? high : x;
}

/* 2u of ½·x·(1 + tanh u) = x · sigmoid(2u), with u = √(2/π)·(x + 0.044715·x³). */
static inline double plain_gelu_tanh_inner(double x) {
    return 1.59576912160573071176 * x * (1 + 0.044715 * x * x);
}

static inline double plain_unary(dd_act act, double x) {
    const double a = (double)act.a, b = (double)act.b;
    switch (act.kind) {
    case DD_RELU:
        return x < 0.0 ? 0.0 : x;
    case DD_CLIP:
        return plain_clip(x, a, b);
    case DD_LEAKY_RELU:
        return x > 0.0 ? x : a * x;
    case DD_HARD_SIGMOID:
        return plain_clip(x / 6.0 + 0.5, 0.0, 1.0);
    case DD_HARD_SWISH:
        return x * plain_clip(x / 6.0 + 0.5, 0.0, 1.0);
    case DD_SIGMOID:
        return plain_sigmoid(x);
    case DD_SILU:
        return x * plain_sigmoid(x);
    case DD_MISH:
        return x * tanh(plain_softplus(x));
    case DD_ELU:
        return x > 0.0 ? x : a * expm1(x);
    case DD_SOFTPLUS:
        return plain_softplus(x);
    case DD_TANH:
        return tanh(x);
    case DD_GELU:
        return x * plain_normal(x);
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
        return plain_clip(a * x + b, 0, 1);
    case DD_SELU:
        return b * (x > 0 ? x : a * expm1(x));
    case DD_SOFTSIGN:
        return x / (1 + fabs(x));
    case DD_GELU_TANH:
        return x * plain_sigmoid(plain_gelu_tanh_inner(x));
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

static inline double plain_gelu_tanh_slope(double x) {
    double rise = 1.59576912160573071176 * (1 + 3 * 0.044715 * x * x);
    double s = plain_sigmoid(plain_gelu_tanh_inner(x));
    return s + x * s * plain_sigmoid(-plain_gelu_tanh_inner(x)) * rise;
}

static inline double plain_slope(dd_act act, double x) {
    const double a = (double)act.a, b = (double)act.b, s = plain_sigmoid(x);
    switch (act.kind) {
    case DD_RELU:
        return x > 0.0;
    case DD_CLIP:
        return x > a && x < b;
    case DD_LEAKY_RELU:
        return x > 0.0 ? 1.0 : a;
    case DD_HARD_SIGMOID:
        return x > -3.0 && x < 3.0 ? 1.0 / 6.0 : 0.0;
    case DD_HARD_SWISH:
        return x <= -3.0 ? 0.0 : x >= 3.0 ? 1.0 : x / 3.0 + 0.5;
    case DD_SIGMOID:
        return s * plain_sigmoid(-x);
    case DD_SILU:
        return s + x * s * plain_sigmoid(-x);
    case DD_MISH: {
        const double t = tanh(plain_softplus(x));
        return t + x * s * (1.0 - t) * (1.0 + t);
    }
    case DD_ELU:
        return x > 0.0 ? 1.0 : a * exp(x);
    case DD_SOFTPLUS:
        return s;
    case DD_TANH:
        return 1.0 / (cosh(x) * cosh(x));
    case DD_GELU:
        return plain_normal(x) + x * plain_density(x);
    case DD_ERF:
        return 1.12837916709551257390 * exp(-x * x);
    case DD_EXP:
        return exp(x);
    case DD_LOG:
        return 1.0 / x;
    case DD_SQRT:
        return 0.5 / sqrt(x);
    case DD_ABS:
        return (x > 0.0) - (x < 0.0);
    case DD_NEG:
        return -1.0;
    case DD_RAMP:
        return a * x + b > 0 && a * x + b < 1 ? a : 0;
    case DD_SELU:
        return b * (x > 0 ? 1 : a * exp(x));
    case DD_SOFTSIGN:
        return 1 / ((1 + fabs(x)) * (1 + fabs(x)));
    case DD_GELU_TANH:
        return plain_gelu_tanh_slope(x);
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
    return 1.0;
}

static const char *const plain_names[DD_UNARIES] = {
    "identity", "relu", "clip",  "leaky_relu", "hard_sigmoid", "hard_swish",
    "sigmoid",  "silu", "mish",  "elu",        "softplus",     "tanh",
    "gelu",     "erf",  "exp",   "log",        "sqrt",         "abs",
    "neg",      "ramp", "selu",  "softsign",   "gelu_tanh",    "reciprocal",
    "floor",    "ceil", "round", "sign",       "sin",          "cos"};

/* One of the functions with parameters that suit it. */
static inline dd_act plain_act(int64_t kind) {
    dd_act act = {(dd_unary)kind, 0.0f, 0.0f};
    if (act.kind == DD_CLIP) {
        act.a = -0.5f;
        act.b = 0.75f;
    } else if (act.kind == DD_LEAKY_RELU) {
        act.a = 0.1f;
    } else if (act.kind == DD_ELU) {
        act.a = 0.8f;
    } else if (act.kind == DD_RAMP) {
        act.a = 0.3f;
        act.b = 0.45f;
    } else if (act.kind == DD_SELU) {
        act.a = 1.6732632f;
        act.b = 1.0507010f;
    }
    return act;
}

#endif
