/* The elementwise functions and their slopes on vectors: what elementwise.c loops over, and what
 * the other families apply in their epilogues.
 *
 * `act_apply(act, u)` = f(u) and `act_slope(act, u)` = f'(u). Both are a switch over act.kind that
 * vanishes where the kind is a constant: a hot loop is instantiated per kind (ACT_DISPATCH) and
 * never switches per vector. At kinks the slope is what torch takes: relu'(0) = clip'(a) = clip'(b)
 * = abs'(0) = 0, leaky_relu'(0) = a, elu'(0) = a, hard_swish'(-3) = 0 and hard_swish'(3) = 1,
 * hard_sigmoid'(±3) = 0; the slope of floor, ceil, round and sign is 0 everywhere. A NaN in u gives
 * a NaN in f(u): a broken step shows up in the loss. */
#ifndef DD_KERNELS_ACTIVATION_H
#define DD_KERNELS_ACTIVATION_H

#include <math.h>

#include "kernels/functions.h"
#include "kernels/kernels.h"
#include "kernels/loops.h"

/* Runs `call` with the constant KIND for the functions that nets of this project use in hot places,
 * and with KIND = kind for all others. `call` uses act_apply_hot and act_slope_hot. */
#define ACT_DISPATCH(kind, call)                                                                   \
    switch (kind) {                                                                                \
        ACT_CASE(DD_IDENTITY, call)                                                                \
        ACT_CASE(DD_RELU, call)                                                                    \
        ACT_CASE(DD_HARD_SWISH, call)                                                              \
    default: {                                                                                     \
        const dd_unary KIND = (kind);                                                              \
        call;                                                                                      \
        break;                                                                                     \
    }                                                                                              \
    }
#define ACT_CASE(kind, call)                                                                       \
    case kind: {                                                                                   \
        const dd_unary KIND = kind;                                                                \
        call;                                                                                      \
        break;                                                                                     \
    }

/* The same function with a kind known to the compiler. */
V_INLINE dd_act act_of_kind(dd_unary kind, dd_act act) {
    return (dd_act){kind, act.a, act.b};
}

/* x/6 + 1/2 between 0 and 1; the bounds stand first, so that a NaN comes through. */
V_INLINE vf act_hard_sigmoid(vf x) {
    vf y = v_fma(x, v_set1(1.0f / 6.0f), v_set1(0.5f));
    return v_min(v_set1(1.0f), v_max(v_zero(), y));
}

/* With e = e^x, tanh(log(1 + e)) = n / (n + 2), n = e·(e + 2). From 20 on it is 1 in float. */
V_INLINE vf act_mish(vf x) {
    vf e = v_exp(v_min(v_set1(20.0f), x));
    vf n = v_mul(e, v_add(e, v_set1(2.0f)));
    return v_mul(x, v_div(n, v_add(n, v_set1(2.0f))));
}

V_INLINE vf act_ramp(dd_act act, vf x) {
    vf y = v_fma(x, v_set1(act.a), v_set1(act.b));
    return v_min(v_set1(1.0f), v_max(v_zero(), y));
}

/* 2u of ½·x·(1 + tanh u) = x · sigmoid(2u): 2·√(2/π)·(x + 0.044715·x³). */
V_INLINE vf act_gelu_tanh_inner(vf x) {
    vf t = v_fma(v_mul(x, x), v_set1(0.044715f), v_set1(1.0f));
    return v_mul(v_mul(x, v_set1(1.5957691216f)), t);
}

/* Adding 2^23 rounds what is smaller to whole numbers, halves to even; larger ones are whole. */
V_INLINE vf act_round(vf x) {
    const vf two23 = v_set1(8388608.0f);
    vf a = v_abs(x), whole = v_sub(v_add(a, two23), two23);
    whole = v_select(v_lt(x, v_zero()), v_neg(whole), whole);
    return v_select(v_lt(a, two23), whole, x);
}

V_INLINE vf act_sign(vf x) {
    vf y = v_select(v_lt(x, v_zero()), v_set1(-1.0f), x);
    return v_select(v_gt(x, v_zero()), v_set1(1.0f), y);
}

/* Rare in nets (rotated boxes), and a range reduction of our own would lose bits: libm's. */
V_INLINE vf act_wave(dd_unary kind, vf x) {
    float lanes[VL];
    v_store(lanes, x);
    for (int i = 0; i < VL; i++)
        lanes[i] = kind == DD_SIN ? sinf(lanes[i]) : cosf(lanes[i]);
    return v_load(lanes);
}

V_INLINE vf act_apply(dd_act act, vf x) {
    switch (act.kind) {
    case DD_RELU:
        return v_max(v_zero(), x);
    case DD_CLIP:
        return v_min(v_set1(act.b), v_max(v_set1(act.a), x));
    case DD_LEAKY_RELU:
        return v_select(v_gt(x, v_zero()), x, v_mul(x, v_set1(act.a)));
    case DD_HARD_SIGMOID:
        return act_hard_sigmoid(x);
    case DD_HARD_SWISH:
        return v_mul(x, act_hard_sigmoid(x));
    case DD_SIGMOID:
        return v_sigmoid(x);
    case DD_SILU:
        return v_silu(x);
    case DD_MISH:
        return act_mish(x);
    case DD_ELU: {
        vf below = v_mul(v_set1(act.a), v_expm1(v_min(v_zero(), x)));
        return v_select(v_gt(x, v_zero()), x, below);
    }
    case DD_SOFTPLUS:
        return v_softplus(x);
    case DD_TANH:
        return v_tanh(x);
    case DD_GELU:
        return v_mul(x, v_normal(x));
    case DD_ERF:
        return v_erf(x);
    case DD_EXP:
        return v_exp(x);
    case DD_LOG:
        return v_log(x);
    case DD_SQRT:
        return v_sqrt(x);
    case DD_ABS:
        return v_abs(x);
    case DD_NEG:
        return v_neg(x);
    case DD_RAMP:
        return act_ramp(act, x);
    case DD_SELU: {
        vf below = v_mul(v_set1(act.a), v_expm1(v_min(v_zero(), x)));
        return v_mul(v_set1(act.b), v_select(v_gt(x, v_zero()), x, below));
    }
    case DD_SOFTSIGN:
        return v_div(x, v_add(v_set1(1.0f), v_abs(x)));
    case DD_GELU_TANH:
        return v_mul(x, v_sigmoid(act_gelu_tanh_inner(x)));
    case DD_RECIPROCAL:
        return v_div(v_set1(1.0f), x);
    case DD_FLOOR:
        return v_floor(x);
    case DD_CEIL:
        return v_neg(v_floor(v_neg(x)));
    case DD_ROUND:
        return act_round(x);
    case DD_SIGN:
        return act_sign(x);
    case DD_SIN:
    case DD_COS:
        return act_wave(act.kind, x);
    case DD_IDENTITY:
    case DD_UNARIES:
        break;
    }
    return x;
}

/* 1 where low < x < high, else 0. */
V_INLINE vf act_inside(vf x, float low, float high) {
    vf below = v_select(v_lt(x, v_set1(high)), v_set1(1.0f), v_zero());
    return v_select(v_gt(x, v_set1(low)), below, v_zero());
}

/* 0 up to -3, x/3 + 1/2 between, 1 from 3 on. */
V_INLINE vf act_hard_swish_slope(vf x) {
    vf y = v_fma(x, v_set1(1.0f / 3.0f), v_set1(0.5f));
    y = v_select(v_ge(x, v_set1(3.0f)), v_set1(1.0f), y);
    return v_select(v_le(x, v_set1(-3.0f)), v_zero(), y);
}

/* s·(1 - s) with s = sigmoid(x) is r·r·e with e = e^-|x| and r = 1 / (1 + e): nothing cancels. */
V_INLINE vf act_sigmoid_slope(vf x) {
    vf e = v_exp(v_neg(v_abs(x)));
    vf r = v_div(v_set1(1.0f), v_add(v_set1(1.0f), e));
    return v_mul(v_mul(e, r), r);
}

/* s + x·s·(1 - s). */
V_INLINE vf act_silu_slope(vf x) {
    return v_fma(x, act_sigmoid_slope(x), v_sigmoid(x));
}

/* tanh(softplus x) and x times its slope; with e and n as in act_mish the latter is
 * 4·e·(1 + e) / (n + 2)². */
V_INLINE vf act_mish_slope(vf x) {
    vf e = v_exp(v_min(v_set1(20.0f), x));
    vf n = v_mul(e, v_add(e, v_set1(2.0f)));
    vf inverse = v_div(v_set1(1.0f), v_add(n, v_set1(2.0f)));
    vf rise = v_mul(v_mul(v_set1(4.0f), e), v_add(v_set1(1.0f), e));
    vf slope = v_mul(v_mul(rise, inverse), inverse);
    return v_fma(x, slope, v_mul(n, inverse));
}

/* 1 - tanh² = 4·e / (1 + e)² with e = e^-2|x|. */
V_INLINE vf act_tanh_slope(vf x) {
    vf e = v_exp(v_mul(v_set1(-2.0f), v_abs(x)));
    vf r = v_div(v_set1(1.0f), v_add(v_set1(1.0f), e));
    return v_mul(v_mul(v_mul(v_set1(4.0f), e), r), r);
}

/* The normal distribution function and x times the density. */
V_INLINE vf act_gelu_slope(vf x) {
    vf density = v_mul(v_set1(0.398942280f), v_bell(x));
    return v_fma(v_max(v_set1(-20.0f), v_min(v_set1(20.0f), x)), density, v_normal(x));
}

/* s + x·s·(1 - s)·(2u)'. Beyond ±10 nothing changes in float, and x³ may overflow. */
V_INLINE vf act_gelu_tanh_slope(vf x) {
    vf t = v_max(v_set1(-10.0f), v_min(v_set1(10.0f), x)), inner = act_gelu_tanh_inner(t);
    vf rise = v_fma(v_mul(t, t), v_set1(3.0f * 0.044715f), v_set1(1.0f));
    rise = v_mul(v_mul(rise, v_set1(1.5957691216f)), t);
    return v_fma(rise, act_sigmoid_slope(inner), v_sigmoid(inner));
}

/* 2/√π · e^-x². */
V_INLINE vf act_erf_slope(vf x) {
    return v_mul(v_set1(1.12837917f), v_bell(v_mul(x, v_set1(1.41421356f))));
}

V_INLINE vf act_slope(dd_act act, vf x) {
    const vf one = v_set1(1.0f);
    switch (act.kind) {
    case DD_RELU:
        return v_select(v_gt(x, v_zero()), one, v_zero());
    case DD_CLIP:
        return act_inside(x, act.a, act.b);
    case DD_LEAKY_RELU:
        return v_select(v_gt(x, v_zero()), one, v_set1(act.a));
    case DD_HARD_SIGMOID:
        return v_mul(act_inside(x, -3.0f, 3.0f), v_set1(1.0f / 6.0f));
    case DD_HARD_SWISH:
        return act_hard_swish_slope(x);
    case DD_SIGMOID:
        return act_sigmoid_slope(x);
    case DD_SILU:
        return act_silu_slope(x);
    case DD_MISH:
        return act_mish_slope(x);
    case DD_ELU:
        return v_select(v_gt(x, v_zero()), one, v_mul(v_set1(act.a), v_exp(v_min(v_zero(), x))));
    case DD_SOFTPLUS:
        return v_sigmoid(x);
    case DD_TANH:
        return act_tanh_slope(x);
    case DD_GELU:
        return act_gelu_slope(x);
    case DD_ERF:
        return act_erf_slope(x);
    case DD_EXP:
        return v_exp(x);
    case DD_LOG:
        return v_div(one, x);
    case DD_SQRT:
        return v_div(v_set1(0.5f), v_sqrt(x));
    case DD_ABS:
        return v_select(v_gt(x, v_zero()), one,
                        v_select(v_lt(x, v_zero()), v_set1(-1.0f), v_zero()));
    case DD_NEG:
        return v_set1(-1.0f);
    case DD_RAMP:
        return v_mul(act_inside(v_fma(x, v_set1(act.a), v_set1(act.b)), 0.0f, 1.0f), v_set1(act.a));
    case DD_SELU: {
        vf below = v_mul(v_set1(act.a), v_exp(v_min(v_zero(), x)));
        return v_mul(v_set1(act.b), v_select(v_gt(x, v_zero()), one, below));
    }
    case DD_SOFTSIGN: {
        vf r = v_div(one, v_add(one, v_abs(x)));
        return v_mul(r, r);
    }
    case DD_GELU_TANH:
        return act_gelu_tanh_slope(x);
    case DD_RECIPROCAL: {
        vf r = v_div(one, x);
        return v_neg(v_mul(r, r));
    }
    case DD_FLOOR:
    case DD_CEIL:
    case DD_ROUND:
    case DD_SIGN:
        return v_zero();
    case DD_SIN:
        return act_wave(DD_COS, x);
    case DD_COS:
        return v_neg(act_wave(DD_SIN, x));
    case DD_IDENTITY:
    case DD_UNARIES:
        break;
    }
    return one;
}

/* The functions outside of ACT_DISPATCH's list, as calls: they would swell the loops. */
DD_RARE vf act_apply_rarely(dd_act act, vf x) {
    return act_apply(act, x);
}
DD_RARE vf act_slope_rarely(dd_act act, vf x) {
    return act_slope(act, x);
}

V_INLINE bool act_is_hot(dd_unary kind) {
    return kind == DD_IDENTITY || kind == DD_RELU || kind == DD_HARD_SWISH;
}
V_INLINE vf act_apply_hot(dd_act act, vf x) {
    return act_is_hot(act.kind) ? act_apply(act, x) : act_apply_rarely(act, x);
}
V_INLINE vf act_slope_hot(dd_act act, vf x) {
    return act_is_hot(act.kind) ? act_slope(act, x) : act_slope_rarely(act, x);
}

#endif
