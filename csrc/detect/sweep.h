/* The class losses of everything that is background: the one loop that sees every logit.
 *
 * With target 0 the three class losses are one family, p^gamma softplus(x): gamma 0 is BCE, the
 * focal loss has its gamma and a factor 1 - alpha, the quality focal loss its beta as gamma. */
#ifndef DD_DETECT_SWEEP_H
#define DD_DETECT_SWEEP_H

#include <stdint.h>

/* value[i] = weight[i] p^gamma softplus(x[i]), grad[i] = scale * d value[i] / d x[i], p being
 * sigmoid(x[i]). A NaN or infinity in x gives a non-finite value. Relative error below 2e-6,
 * and 1.2e-7 gamma |log p| more for a gamma that is neither 0 nor 2. The same bits with every
 * instruction set. Arrays do not overlap. */
void dd_sweep_background(int64_t n, const float *x, const float *weight, float gamma, float scale,
                         float *value, float *grad);

/* The sum of n floats in double, in eight lanes that are added in order. */
double dd_sweep_sum(int64_t n, const float *x);

/* 0 when all of n floats are finite, NaN otherwise. */
float dd_sweep_poison(int64_t n, const float *x);

#endif
