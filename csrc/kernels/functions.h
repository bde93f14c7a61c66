/* Vector forms of the elementary functions, on the vocabulary's v_exp.
 *
 * Errors are relative, over the whole range where the result is a normal number, and measured by
 * tests/c/kernels_elementwise.h against double precision. A NaN comes through everywhere. The
 * polynomials are least-maximum fits of our own unless said. */
#ifndef DD_KERNELS_FUNCTIONS_H
#define DD_KERNELS_FUNCTIONS_H

#include "simd/simd.h"

/* log x, 2 ulp: x = 2^e · m with m in [√½, √2), and r = m - 1. The comparison of bit patterns that
 * finds e is FreeBSD's: adding 1 - √½ as integers carries into the exponent exactly when m would
 * reach √2. log 0 is -inf and log of a negative number NaN; subnormals are scaled first. */
V_INLINE vf v_log(vf x) {
    const float smallest = 1.17549435e-38f, two23 = 8388608.0f;
    const int32_t half_root = 0x3f3504f3, one = 0x3f800000;
    vm tiny = v_lt(x, v_set1(smallest));
    vf scaled = v_select(tiny, v_mul(x, v_set1(two23)), x);
    vi bits = v_add_int(v_as_int(scaled), v_set1_int(one - half_root));
    vf e = v_to_float(v_sub_int(v_shift_right(bits, 23), v_set1_int(127)));
    e = v_sub(e, v_select(tiny, v_set1(23.0f), v_zero()));
    vi mantissa = v_and_int(bits, v_set1_int(0x007fffff));
    vf r = v_sub(v_as_float(v_add_int(mantissa, v_set1_int(half_root))), v_set1(1.0f));

    vf p = v_set1(0.06746640056f); /* (log(1+r) - r + r²/2) / r³, 7.5e-10 */
    p = v_fma(p, r, v_set1(-0.11675652117f));
    p = v_fma(p, r, v_set1(0.11888162047f));
    p = v_fma(p, r, v_set1(-0.12405589223f));
    p = v_fma(p, r, v_set1(0.14219552279f));
    p = v_fma(p, r, v_set1(-0.16667996347f));
    p = v_fma(p, r, v_set1(0.20002119243f));
    p = v_fma(p, r, v_set1(-0.25000008941f));
    p = v_fma(p, r, v_set1(0.33333313465f));
    vf square = v_mul(r, r);
    vf tail = v_fma(p, v_mul(square, r), v_mul(e, v_set1(-2.12194440e-4f)));
    tail = v_fma(square, v_set1(-0.5f), tail);
    vf y = v_fma(e, v_set1(0.693359375f), v_add(r, tail));

    y = v_select(v_gt(x, v_set1(3.402823466e38f)), x, y);
    y = v_select(v_eq(x, v_zero()), v_set1(-__builtin_inff()), y);
    return v_select(v_ge(x, v_zero()), y, v_set1(__builtin_nanf("")));
}

/* log(1 + e) for e in [0, 1], 3 ulp: the second term is what the sum 1 + e rounds away. */
V_INLINE vf v_log1p_unit(vf e) {
    vf u = v_add(v_set1(1.0f), e);
    vf lost = v_sub(e, v_sub(u, v_set1(1.0f)));
    return v_add(v_log(u), v_div(lost, u));
}

/* e^x - 1 for x <= 88, 2 ulp: with x = n·ln 2 + r it is 2^n·(e^r - 1) + (2^n - 1), and nothing
 * cancels. Taylor's series serves e^r - 1: its next term is below 2e-8 of the sum. */
V_INLINE vf v_expm1(vf x) {
    vf t = v_max(v_set1(-87.0f), v_min(v_set1(88.0f), x));
    vf n = v_floor(v_fma(t, v_set1(1.44269504f), v_set1(0.5f)));
    vf r = v_fma(n, v_set1(-0.693359375f), t);
    r = v_fma(n, v_set1(2.12194440e-4f), r);
    vf p = v_set1(1.0f / 5040.0f);
    p = v_fma(p, r, v_set1(1.0f / 720.0f));
    p = v_fma(p, r, v_set1(1.0f / 120.0f));
    p = v_fma(p, r, v_set1(1.0f / 24.0f));
    p = v_fma(p, r, v_set1(1.0f / 6.0f));
    p = v_fma(p, r, v_set1(0.5f));
    p = v_fma(p, v_mul(r, r), r);
    vf power = v_scale_by_power(v_set1(1.0f), n);
    return v_fma(power, p, v_sub(power, v_set1(1.0f)));
}

/* 1 + e^-x for x in [-88, 87], 4 ulp. As v_exp, with what a sum with 1 lets go: a shorter
 * polynomial (1.1e-7), ln 2 in one piece (2e-9 · n). n = round(-x / ln 2) is found by adding 1.5 ·
 * 2²³ + 127, whose low bits then hold n + 127, the exponent of 2^n; r is negative what v_exp calls
 * so. */
V_INLINE vf v_one_plus_exp_negative(vf x) {
    const vf magic = v_set1(12583039.0f), one = v_set1(1.0f);
    vf shifted = v_fma(x, v_set1(-1.44269504f), magic);
    vf r = v_fma(v_sub(shifted, magic), v_set1(0.693147182f), x);
    vf p = v_fma(v_set1(-0.00831250101f), r, v_set1(0.0418903306f));
    p = v_fma(p, r, v_set1(-0.166671157f));
    p = v_fma(p, r, v_set1(0.499992311f));
    p = v_fma(p, r, v_set1(-1.0f));
    p = v_fma(p, r, one);
    return v_fma(p, v_as_float(v_shift_left(v_as_int(shifted), 23)), one);
}

/* 1 / (1 + e^-x), 4 ulp; 0 or a subnormal below -87. */
V_INLINE vf v_sigmoid(vf x) {
    vf bounded = v_min(v_set1(87.0f), v_max(v_set1(-88.0f), x));
    return v_div(v_set1(1.0f), v_one_plus_exp_negative(bounded));
}

/* x · sigmoid(x), 4 ulp; below -88 it is what it is there, less than 1e-36. */
V_INLINE vf v_silu(vf x) {
    vf above = v_max(v_set1(-88.0f), x);
    return v_div(above, v_one_plus_exp_negative(v_min(v_set1(87.0f), above)));
}

/* tanh x = -t / (t + 2) for x > 0 with t = e^-2x - 1, 4 ulp. */
V_INLINE vf v_tanh(vf x) {
    vf t = v_expm1(v_mul(v_set1(-2.0f), v_abs(x)));
    vf y = v_div(v_neg(t), v_add(t, v_set1(2.0f)));
    return v_select(v_lt(x, v_zero()), v_neg(y), y);
}

/* log(1 + e^x) = max(x, 0) + log(1 + e^-|x|), 3 ulp. */
V_INLINE vf v_softplus(vf x) {
    return v_add(v_max(v_zero(), x), v_log1p_unit(v_exp(v_neg(v_abs(x)))));
}

/* erfc(a) · e^(a²) for 1 <= a <= 10, as t·Q(t) with t = 1 / (a + 1.5); 2e-8. */
V_INLINE vf v_erfc_scaled(vf a) {
    vf t = v_div(v_set1(1.0f), v_add(a, v_set1(1.5f)));
    vf q = v_set1(-4.83772993f);
    q = v_fma(q, t, v_set1(10.9467068f));
    q = v_fma(q, t, v_set1(-8.23582554f));
    q = v_fma(q, t, v_set1(1.09824169f));
    q = v_fma(q, t, v_set1(0.378199697f));
    q = v_fma(q, t, v_set1(1.01142931f));
    q = v_fma(q, t, v_set1(0.845043242f));
    q = v_fma(q, t, v_set1(0.564216495f));
    return v_mul(t, q);
}

/* erf(x) for |x| <= 1, as x·P(x²); 2e-9 and the rounding. */
V_INLINE vf v_erf_small(vf x) {
    vf s = v_mul(x, x);
    vf p = v_set1(7.85388256e-5f);
    p = v_fma(p, s, v_set1(-8.01020069e-4f));
    p = v_fma(p, s, v_set1(5.18832868e-3f));
    p = v_fma(p, s, v_set1(-2.68538129e-2f));
    p = v_fma(p, s, v_set1(0.112835854f));
    p = v_fma(p, s, v_set1(-0.37612626f));
    p = v_fma(p, s, v_set1(1.12837911f));
    return v_mul(x, p);
}

/* erf x, 3 ulp. */
V_INLINE vf v_erf(vf x) {
    vf a = v_abs(x), bounded = v_min(v_set1(10.0f), a);
    vf large = v_mul(v_exp(v_neg(v_mul(bounded, bounded))), v_erfc_scaled(bounded));
    large = v_sub(v_set1(1.0f), large);
    large = v_select(v_lt(x, v_zero()), v_neg(large), large);
    return v_select(v_lt(a, v_set1(1.0f)), v_erf_small(x), large);
}

/* e^(-x²/2), 4 ulp: the rounding error of x² is carried along. */
V_INLINE vf v_bell(vf x) {
    vf bounded = v_min(v_set1(20.0f), v_abs(x));
    vf square = v_mul(bounded, bounded), lost = v_fma(bounded, bounded, v_neg(square));
    vf e = v_exp(v_mul(square, v_set1(-0.5f)));
    return v_fma(v_mul(e, v_set1(-0.5f)), lost, e);
}

/* The normal distribution function ½·erfc(-x/√2); 1e-6, the lower tail included. */
V_INLINE vf v_normal(vf x) {
    const float root_half = 0.707106781f;
    vf small = v_fma(v_set1(0.5f), v_erf_small(v_mul(x, v_set1(root_half))), v_set1(0.5f));
    vf a = v_mul(v_min(v_set1(20.0f), v_abs(x)), v_set1(root_half));
    vf tail = v_mul(v_mul(v_set1(0.5f), v_bell(x)), v_erfc_scaled(a));
    vf large = v_select(v_lt(x, v_zero()), tail, v_sub(v_set1(1.0f), tail));
    return v_select(v_lt(a, v_set1(1.0f)), small, large);
}

#endif
