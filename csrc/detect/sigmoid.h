/* float32 exp, log1p, sigmoid and softplus as straight-line code that compilers vectorize.
 *
 * The class losses look at every logit of a batch (millions with 80 classes), where libm's scalar
 * functions would cost more than the network's last layer. Only +, -, *, / and bit operations are
 * used, no contraction and no table: every instruction set gives the same bits. NaN goes through.
 * Errors against double, measured over all exponents by check_detect: dd_exp and dd_log1p_unit
 * within 2.5e-7 relative. */
#ifndef DD_DETECT_SIGMOID_H
#define DD_DETECT_SIGMOID_H

#include <stdint.h>
#include <string.h>

/* exp(x) for x clamped to [-87, 87], so the result (1.6e-38 at least) is never denormal. */
static inline float dd_exp(float x) {
    x = x < -87.0f ? -87.0f : x; /* this form keeps NaN */
    x = x > 87.0f ? 87.0f : x;
    /* Adding 1.5 * 2^23 rounds to an integer, which then stands in the low bits. */
    float shifted = x * 1.44269504088896341f + 12582912.0f;
    float n = shifted - 12582912.0f;
    float r = x - n * 0.693359375f; /* ln 2 in two parts: n times the first is exact */
    r = r - n * -2.12194440e-4f;
    float p = 1.9875691500e-4f; /* Cephes' expf */
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    uint32_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    bits = (bits << 23) + 0x3f800000u; /* 2^n: the high bits of `shifted` leave by the shift */
    float scale;
    memcpy(&scale, &bits, sizeof scale);
    return p * scale;
}

/* log(1 + e) for 0 <= e <= 1 by 2 atanh(e / (2 + e)); relative precision down to e = 0. */
static inline float dd_log1p_unit(float e) {
    float s = e / (2.0f + e), z = s * s; /* z <= 1/9: eight terms of the series suffice */
    float p = 1.0f / 15;
    p = p * z + 1.0f / 13;
    p = p * z + 1.0f / 11;
    p = p * z + 1.0f / 9;
    p = p * z + 1.0f / 7;
    p = p * z + 1.0f / 5;
    p = p * z + 1.0f / 3;
    return 2.0f * s + 2.0f * s * z * p;
}

static inline float dd_abs_f(float x) {
    return x < 0 ? -x : x;
}

/* 1 / (1 + exp(-x)), both tails with full relative precision. */
static inline float dd_sigmoid(float x) {
    float e = dd_exp(-dd_abs_f(x));
    return (x < 0 ? e : 1.0f) / (1.0f + e);
}

#endif
