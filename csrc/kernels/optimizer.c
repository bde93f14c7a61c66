/* The optimizers: one pass over a flat segment reads the gradient once and updates weights, moments
 * and moving average. Formulas are torch.optim's, with decay decoupled from the gradient in both:
 * the weights shrink by lr·decay first. */
#include "kernels/kernels.h"
#include "kernels/loops.h"
#include "simd/simd.h"

/* ema += rate · (w - ema), where there is one. */
V_INLINE void follow(const dd_optimize *o, vf w, vf rate, int64_t i, int n) {
    if (o->ema == NULL)
        return;
    vf ema = V_LOAD(o->ema + i, n);
    V_STORE(o->ema + i, v_fma(rate, v_sub(w, ema), ema), n);
}

typedef struct adamw_constants {
    vf g_scale, shrink, rise1, beta2, rise2, step, root2, eps, ema_rate;
} adamw_constants;

/* m += (1 - β1)(g - m);  v = β2·v + (1 - β2)·g²;  w -= lr/bias1 · m / (√v / √bias2 + eps). */
V_INLINE void adamw_vector(const dd_optimize *o, const adamw_constants *k, int64_t i, int n) {
    vf g = v_mul(V_LOAD(o->g + i, n), k->g_scale);
    vf m = V_LOAD(o->m + i, n), v = V_LOAD(o->v + i, n);
    m = v_fma(k->rise1, v_sub(g, m), m);
    v = v_fma(v_mul(k->rise2, g), g, v_mul(k->beta2, v));
    vf size = v_fma(v_sqrt(v), k->root2, k->eps);
    vf w = v_mul(V_LOAD(o->w + i, n), k->shrink);
    w = v_sub(w, v_div(v_mul(k->step, m), size));
    V_STORE(o->m + i, m, n);
    V_STORE(o->v + i, v, n);
    V_STORE(o->w + i, w, n);
    follow(o, w, k->ema_rate, i, n);
}

void DD_NAME(adamw_f32)(const dd_optimize *o) {
    const adamw_constants k = {
        .g_scale = v_set1(o->g_scale),
        .shrink = v_set1((float)(1.0 - (double)o->lr * (double)o->decay)),
        .rise1 = v_set1((float)(1.0 - (double)o->beta1)),
        .beta2 = v_set1(o->beta2),
        .rise2 = v_set1((float)(1.0 - (double)o->beta2)),
        .step = v_set1((float)((double)o->lr / (double)o->bias1)),
        .root2 = v_div(v_set1(1.0f), v_sqrt(v_set1(o->bias2))),
        .eps = v_set1(o->eps),
        .ema_rate = v_set1(o->ema_rate),
    };
    int64_t i = 0;
    for (; i + VL <= o->n; i += VL)
        adamw_vector(o, &k, i, VL);
    if (i < o->n)
        adamw_vector(o, &k, i, (int)(o->n - i));
}

typedef struct sgd_constants {
    vf g_scale, shrink, momentum, step, ema_rate;
} sgd_constants;

/* m = μ·m + g;  w -= lr · (g + μ·m) with Nesterov, lr · m without. */
V_INLINE void sgd_vector(const dd_optimize *o, const sgd_constants *k, int64_t i, int n) {
    vf g = v_mul(V_LOAD(o->g + i, n), k->g_scale);
    vf m = v_fma(k->momentum, V_LOAD(o->m + i, n), g);
    vf way = o->nesterov ? v_fma(k->momentum, m, g) : m;
    vf w = v_mul(V_LOAD(o->w + i, n), k->shrink);
    w = v_sub(w, v_mul(k->step, way));
    V_STORE(o->m + i, m, n);
    V_STORE(o->w + i, w, n);
    follow(o, w, k->ema_rate, i, n);
}

void DD_NAME(sgd_f32)(const dd_optimize *o) {
    const sgd_constants k = {
        .g_scale = v_set1(o->g_scale),
        .shrink = v_set1((float)(1.0 - (double)o->lr * (double)o->decay)),
        .momentum = v_set1(o->beta1),
        .step = v_set1(o->lr),
        .ema_rate = v_set1(o->ema_rate),
    };
    int64_t i = 0;
    for (; i + VL <= o->n; i += VL)
        sgd_vector(o, &k, i, VL);
    if (i < o->n)
        sgd_vector(o, &k, i, (int)(o->n - i));
}

/* Sixteen double sums a block of 1,024, folded in halves; then block after block. Plain C: the
 * compiler turns it into vectors, and since nothing is fused the bits are those of every level. A
 * caller that cuts at multiples of 1,024 and adds the parts in order gets the same bits again only
 * if it cuts everything into blocks; so it should. */
double DD_NAME(sum_squares_f32)(const float *x, int64_t n) {
    double total = 0.0;
    for (int64_t begin = 0; begin < n; begin += 1024) {
        const float *block = x + begin;
        const int64_t count = n - begin < 1024 ? n - begin : 1024;
        double sum[16] = {0.0};
        int64_t i = 0;
        for (; i + 16 <= count; i += 16)
            for (int lane = 0; lane < 16; lane++)
                sum[lane] += (double)block[i + lane] * (double)block[i + lane];
        for (; i < count; i++)
            sum[i % 16] += (double)block[i] * (double)block[i];
        for (int half = 8; half > 0; half /= 2)
            for (int lane = 0; lane < half; lane++)
                sum[lane] += sum[lane + half];
        total += sum[0];
    }
    return total;
}

void DD_NAME(lerp_f32)(float *average, const float *w, float rate, int64_t n) {
    const vf by = v_set1(rate);
    int64_t i = 0;
    for (; i + VL <= n; i += VL) {
        vf a = v_load(average + i);
        v_store(average + i, v_fma(by, v_sub(v_load(w + i), a), a));
    }
    if (i < n) {
        const int left = (int)(n - i);
        vf a = v_load_n(average + i, left);
        v_store_n(average + i, v_fma(by, v_sub(v_load_n(w + i, left), a), a), left);
    }
}
