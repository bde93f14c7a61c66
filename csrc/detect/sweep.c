/* With 80 classes a batch of 16 has eight million logits at 320 pixels; this file is where their
 * time goes. One pass reads a logit and writes its value and gradient: an exponential, a logarithm
 * and two divisions, four or eight lanes at a time. */
#include "detect/sweep.h"

#include "base/cpu.h"
#include "detect/sigmoid.h"

/* The body is compiled twice on x86: for the base level and for AVX2 (twice the lanes). It is the
 * same straight-line arithmetic without contraction, so the bits are the same. */
#define BODY static inline __attribute__((always_inline))

typedef void (*sweep)(int64_t n, const float *restrict x, const float *restrict weight, float gamma,
                      float scale, float *restrict value, float *restrict grad);

/* What every member shares: p, q = 1 - p and the softplus, which carries x - x: 0 for finite
 * logits, NaN otherwise, so that exp's clamp hides no infinity. */
#define LOGIT(x)                                                                                   \
    float e = dd_exp(-dd_abs_f(x)), large = 1.0f / (1.0f + e), small = e * large;                  \
    float p = (x) < 0 ? small : large;                                                             \
    float rest = dd_log1p_unit(e) + ((x) - (x));                                                   \
    float soft = ((x) < 0 ? 0.0f : (x)) + rest

/* gamma 0: d softplus / dx is p itself. */
BODY void sweep_bce(int64_t n, const float *restrict x, const float *restrict weight, float scale,
                    float *restrict value, float *restrict grad) {
    for (int64_t i = 0; i < n; i++) {
        LOGIT(x[i]);
        value[i] = weight[i] * soft;
        grad[i] = weight[i] * scale * p;
    }
}

/* gamma 2, the usual one, needs no power. In general d/dx p^g soft = p^g (g q soft + p), because
 * dp/dx = p q. */
BODY void sweep_square(int64_t n, const float *restrict x, const float *restrict weight,
                       float scale, float *restrict value, float *restrict grad) {
    for (int64_t i = 0; i < n; i++) {
        LOGIT(x[i]);
        float q = x[i] < 0 ? large : small, factor = weight[i] * (p * p);
        value[i] = factor * soft;
        grad[i] = factor * scale * (2.0f * q * soft + p);
    }
}

/* p^g = exp(g log p), and log p = min(x, 0) - log1p(e). */
BODY void sweep_power(int64_t n, const float *restrict x, const float *restrict weight, float gamma,
                      float scale, float *restrict value, float *restrict grad) {
    for (int64_t i = 0; i < n; i++) {
        LOGIT(x[i]);
        float q = x[i] < 0 ? large : small, log_p = (x[i] < 0 ? x[i] : 0.0f) - rest;
        float factor = weight[i] * dd_exp(gamma * log_p);
        value[i] = factor * soft;
        grad[i] = factor * scale * (gamma * q * soft + p);
    }
}

BODY void sweep_any(int64_t n, const float *restrict x, const float *restrict weight, float gamma,
                    float scale, float *restrict value, float *restrict grad) {
    if (gamma == 0)
        sweep_bce(n, x, weight, scale, value, grad);
    else if (gamma == 2)
        sweep_square(n, x, weight, scale, value, grad);
    else
        sweep_power(n, x, weight, gamma, scale, value, grad);
}

static void sweep_plain(int64_t n, const float *restrict x, const float *restrict weight,
                        float gamma, float scale, float *restrict value, float *restrict grad) {
    sweep_any(n, x, weight, gamma, scale, value, grad);
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) static void sweep_avx2(int64_t n, const float *restrict x,
                                                       const float *restrict weight, float gamma,
                                                       float scale, float *restrict value,
                                                       float *restrict grad) {
    sweep_any(n, x, weight, gamma, scale, value, grad);
}
#endif

void dd_sweep_background(int64_t n, const float *x, const float *weight, float gamma, float scale,
                         float *value, float *grad) {
    sweep run = sweep_plain;
#if defined(__x86_64__)
    if (dd_isa_best() >= DD_ISA_AVX2)
        run = sweep_avx2;
#endif
    run(n, x, weight, gamma, scale, value, grad);
}

/* A sum in one variable would wait for every addition; eight lanes run side by side, and their
 * number is a constant, so the order of additions is too. */
enum { LANES = 8 };

double dd_sweep_sum(int64_t n, const float *x) {
    double lane[LANES] = {0}, sum = 0;
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int k = 0; k < LANES; k++)
            lane[k] += x[i + k];
    for (int k = 0; i < n; i++, k++)
        lane[k] += x[i];
    for (int k = 0; k < LANES; k++)
        sum += lane[k];
    return sum;
}

float dd_sweep_poison(int64_t n, const float *x) {
    float lane[LANES] = {0}, sum = 0;
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int k = 0; k < LANES; k++)
            lane[k] += x[i + k] - x[i + k];
    for (; i < n; i++)
        lane[0] += x[i] - x[i];
    for (int k = 0; k < LANES; k++)
        sum += lane[k];
    return sum;
}
