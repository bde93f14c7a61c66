/* Checks of optimizer.c: the bits of the scalar level, and 1e-6 from the formulas in double. */
#ifndef DD_TESTS_KERNELS_OPTIMIZER_H
#define DD_TESTS_KERNELS_OPTIMIZER_H

#include <math.h>
#include <string.h>

#include "check_kernels.h"

static dd_optimize draw_optimize(kernel_check *k, int64_t n) {
    const double t = (double)kernel_draw(k, 1, 50);
    dd_optimize o = {.n = n,
                     .g_scale = 0.5f,
                     .lr = 0.01f,
                     .decay = 0.05f,
                     .beta1 = 0.9f,
                     .beta2 = 0.999f,
                     .eps = 1e-8f,
                     .bias1 = (float)(1.0 - pow(0.9, t)),
                     .bias2 = (float)(1.0 - pow(0.999, t)),
                     .ema_rate = 0.02f,
                     .nesterov = kernel_draw(k, 0, 1) != 0};
    o.w = kernel_floats(k, n);
    o.m = kernel_floats(k, n);
    o.v = kernel_floats(k, n);
    for (int64_t i = 0; i < n; i++)
        o.v[i] = fabsf(o.v[i]);
    o.ema = kernel_draw(k, 0, 1) ? kernel_floats(k, n) : NULL;
    o.g = kernel_floats(k, n);
    return o;
}

static dd_optimize twin_optimize(kernel_check *k, const dd_optimize *o) {
    dd_optimize twin = *o;
    twin.w = kernel_twin(k, o->w);
    twin.m = kernel_twin(k, o->m);
    twin.v = kernel_twin(k, o->v);
    twin.ema = o->ema ? kernel_twin(k, o->ema) : NULL;
    return twin;
}

/* torch.optim.AdamW's and SGD's step for one element, in double. */
static void plain_optimize(const dd_optimize *o, bool adam) {
    for (int64_t i = 0; i < o->n; i++) {
        const double g = (double)o->g[i] * (double)o->g_scale;
        double w = (double)o->w[i], m = (double)o->m[i], v = (double)o->v[i];
        w -= (double)o->lr * (double)o->decay * w;
        if (adam) {
            m = (double)o->beta1 * m + (1.0 - (double)o->beta1) * g;
            v = (double)o->beta2 * v + (1.0 - (double)o->beta2) * g * g;
            const double m_hat = m / (double)o->bias1, v_hat = v / (double)o->bias2;
            w -= (double)o->lr * m_hat / (sqrt(v_hat) + (double)o->eps);
        } else {
            m = (double)o->beta1 * m + g;
            w -= (double)o->lr * (o->nesterov ? g + (double)o->beta1 * m : m);
        }
        o->w[i] = (float)w;
        o->m[i] = (float)m;
        o->v[i] = (float)v;
        if (o->ema)
            o->ema[i] += (float)((double)o->ema_rate * (w - (double)o->ema[i]));
    }
}

static void check_optimizer(kernel_check *k, bool adam) {
    bool good = true;
    for (int i = 0; i < 100 && good; i++) {
        const int64_t n = kernel_draw(k, 0, 200);
        kernel_begin(k, "n=%lld", (long long)n);
        const dd_optimize got = draw_optimize(k, n);
        const dd_optimize ref = twin_optimize(k, &got), want = twin_optimize(k, &got);
        plain_optimize(&want, adam);
        (adam ? k->fast->adamw_f32 : k->fast->sgd_f32)(&got);
        (adam ? k->ref->adamw_f32 : k->ref->sgd_f32)(&ref);
        kernel_same(k, "w against ref", got.w, ref.w);
        kernel_same(k, "m against ref", got.m, ref.m);
        kernel_same(k, "v against ref", got.v, ref.v);
        kernel_close(k, "w", got.w, want.w, 1, n, n, 3e-7, 1e-6);
        kernel_close(k, "m", got.m, want.m, 1, n, n, 3e-7, 1e-6);
        kernel_close(k, "v", got.v, want.v, 1, n, n, 1e-9, 1e-6);
        if (got.ema) {
            kernel_same(k, "ema against ref", got.ema, ref.ema);
            kernel_close(k, "ema", got.ema, want.ema, 1, n, n, 3e-7, 1e-6);
        }
        good = kernel_end(k);
    }
    if (k->bench) {
        kernel_begin(k, "bench");
        dd_optimize o = draw_optimize(k, 16384);
        o.ema = kernel_floats(k, o.n);
        o.lr = o.decay = 0.0f; /* the numbers stay where they are */
        KERNEL_BENCH(k, "16384 weights", (double)o.n, "Gfloat/s",
                     (adam ? k->fast->adamw_f32 : k->fast->sgd_f32)(&o));
        kernel_end(k);
    }
}

void check_adamw_f32(kernel_check *k) {
    check_optimizer(k, true);
}

void check_sgd_f32(kernel_check *k) {
    check_optimizer(k, false);
}

void check_sum_squares_f32(kernel_check *k) {
    static const int64_t sizes[] = {0, 1, 15, 16, 17, 1023, 1024, 1025, 5000};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        const int64_t n = sizes[i];
        kernel_begin(k, "n=%lld", (long long)n);
        float *x = kernel_floats(k, n);
        for (int64_t j = 0; j < n; j += 7)
            x[j] *= 1e30f; /* the square leaves the range of float */
        const double got = k->fast->sum_squares_f32(x, n), ref = k->ref->sum_squares_f32(x, n);
        double want = 0.0, blocks = 0.0;
        for (int64_t j = 0; j < n; j++)
            want += (double)x[j] * (double)x[j];
        for (int64_t j = 0; j < n; j += 1024) /* as threads would: block by block */
            blocks += k->fast->sum_squares_f32(x + j, n - j < 1024 ? n - j : 1024);
        if (memcmp(&got, &ref, sizeof got) != 0 || memcmp(&got, &blocks, sizeof got) != 0)
            kernel_fail(k, "%.17g here, %.17g at ref, %.17g in blocks", got, ref, blocks);
        if (!(fabs(got - want) <= 1e-13 * want))
            kernel_fail(k, "%.17g, not %.17g", got, want);
        if (!kernel_end(k))
            return;
    }
    if (k->bench) {
        kernel_begin(k, "bench");
        float *x = kernel_floats(k, 16384);
        volatile double keep = 0.0;
        KERNEL_BENCH(k, "16384 floats", 16384.0, "Gfloat/s",
                     keep = k->fast->sum_squares_f32(x, 16384));
        (void)keep;
        kernel_end(k);
    }
}

void check_lerp_f32(kernel_check *k) {
    bool good = true;
    for (int i = 0; i < 60 && good; i++) {
        const int64_t n = kernel_draw(k, 0, 70);
        kernel_begin(k, "n=%lld", (long long)n);
        float *average = kernel_floats(k, n), *ref = kernel_twin(k, average);
        float *want = kernel_twin(k, average), *w = kernel_floats(k, n);
        for (int64_t j = 0; j < n; j++)
            want[j] += 0.03f * (w[j] - want[j]);
        k->fast->lerp_f32(average, w, 0.03f, n);
        k->ref->lerp_f32(ref, w, 0.03f, n);
        kernel_same(k, "average against ref", average, ref);
        kernel_close(k, "average", average, want, 1, n, n, 2e-7, 1e-6);
        good = kernel_end(k);
    }
    if (k->bench) {
        kernel_begin(k, "bench");
        float *average = kernel_floats(k, 16384), *w = kernel_floats(k, 16384);
        KERNEL_BENCH(k, "16384 floats", 16384.0, "Gfloat/s",
                     k->fast->lerp_f32(average, w, 0.03f, 16384));
        kernel_end(k);
    }
}

#endif
