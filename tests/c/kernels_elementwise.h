/* Checks of elementwise.c: the same bits as the scalar level, and within 1e-6 of double precision
 * (slopes: 1e-6 relative or 5e-7 absolute, since slopes have roots). */
#ifndef DD_TESTS_KERNELS_ELEMENTWISE_H
#define DD_TESTS_KERNELS_ELEMENTWISE_H

#include <math.h>
#include <string.h>

#include "check_kernels.h"
#include "plain_activations.h"

/* Spreads uniform numbers over the function's range: half evenly, half by magnitude, a few at the
 * kinks and the ends. log and sqrt get positive numbers, exp those whose result is finite. */
static void spread_inputs(kernel_check *k, dd_unary kind, float *x, int64_t n) {
    static const float special[] = {0.0f,  -0.0f,  3.0f,  -3.0f,  -0.5f,   0.75f,
                                    1.0f,  -1.0f,  6.0f,  1e-38f, -1e-38f, INFINITY,
                                    88.0f, -86.0f, 20.0f, -20.0f, 1e-20f,  NAN};
    const bool positive = kind == DD_LOG || kind == DD_SQRT;
    for (int64_t i = 0; i < n; i++) {
        const int64_t sort = kernel_draw(k, 0, 9);
        if (sort == 0)
            x[i] = special[kernel_draw(k, 0, (int64_t)(sizeof special / sizeof *special) - 1)];
        else if (sort <= 5)
            x[i] *= kind == DD_EXP ? 85.0f : 15.0f;
        else
            x[i] = copysignf(expf(40.0f * fabsf(x[i]) - 37.0f), x[i]);
        if (positive)
            x[i] = fabsf(x[i]);
    }
}

void check_unary_f32(kernel_check *k) {
    bool good = true;
    for (int i = 0; i < 20 * DD_UNARIES && good; i++) {
        const dd_act act = plain_act(i % DD_UNARIES);
        const int64_t n = kernel_draw(k, 0, i < 4 * DD_UNARIES ? 20 : 300);
        kernel_begin(k, "%s n=%lld", plain_names[act.kind], (long long)n);
        float *x = kernel_floats(k, n);
        spread_inputs(k, act.kind, x, n);
        float *y = kernel_floats(k, n), *ref = kernel_twin(k, y), *want = kernel_twin(k, y);
        for (int64_t j = 0; j < n; j++)
            want[j] = (float)plain_unary(act, (double)x[j]);
        k->fast->unary_f32(act, x, y, n);
        k->ref->unary_f32(act, x, ref, n);
        kernel_same(k, "y against ref", y, ref);
        /* roots that rounding moves, and a tail of e^-x² whose argument is rounded */
        const bool hard = act.kind == DD_HARD_SIGMOID || act.kind == DD_HARD_SWISH ||
                          act.kind == DD_RAMP || act.kind == DD_GELU_TANH;
        kernel_close(k, "y", y, want, 1, n, n, hard ? 4e-7 : 1e-36, 1e-6);
        k->fast->unary_f32(act, x, x, n);
        kernel_same(k, "in place", x, y);
        good = kernel_end(k);
    }
    static const dd_unary timed[] = {DD_RELU, DD_HARD_SWISH, DD_SIGMOID, DD_SILU, DD_GELU, DD_LOG};
    for (size_t i = 0; k->bench && i < sizeof timed / sizeof *timed; i++) {
        const dd_act act = plain_act(timed[i]);
        kernel_begin(k, "bench");
        float *x = kernel_floats(k, 4096), *y = kernel_floats(k, 4096);
        KERNEL_BENCH(k, plain_names[act.kind], 4096.0, "Gfloat/s",
                     k->fast->unary_f32(act, x, y, 4096));
        kernel_end(k);
    }
}

void check_unary_rows_f32(kernel_check *k) {
    bool good = true;
    for (int i = 0; i < 6 * DD_UNARIES && good; i++) {
        const dd_act act = plain_act(i % DD_UNARIES);
        const int64_t rows = kernel_draw(k, 0, 9), n = kernel_draw(k, 1, 70);
        const int64_t pitch = n + kernel_draw(k, 0, 1) * kernel_draw(k, 1, 9);
        kernel_begin(k, "%s rows=%lld n=%lld", plain_names[act.kind], (long long)rows,
                     (long long)n);
        float *y = kernel_matrix(k, rows, n, pitch), *want = kernel_twin(k, y);
        for (int64_t row = 0; row < rows; row++)
            k->ref->unary_f32(act, want + row * pitch, want + row * pitch, n);
        k->fast->unary_rows_f32(act, y, pitch, rows, n);
        kernel_same(k, "y", y, want);
        good = kernel_end(k);
    }
}

void check_unary_backward_f32(kernel_check *k) {
    bool good = true;
    for (int i = 0; i < 20 * DD_UNARIES && good; i++) {
        const dd_act act = plain_act(i % DD_UNARIES);
        const int64_t n = kernel_draw(k, 0, i < 4 * DD_UNARIES ? 20 : 300);
        kernel_begin(k, "%s n=%lld", plain_names[act.kind], (long long)n);
        float *x = kernel_floats(k, n);
        spread_inputs(k, act.kind, x, n);
        for (int64_t j = 0; j < n; j++) /* slopes at infinity and NaN are not asked for */
            x[j] = isfinite(x[j]) ? x[j] : 1.5f;
        for (int64_t j = 0; j < n; j++) /* nor where 1/x² is beyond float */
            x[j] = act.kind == DD_RECIPROCAL && fabsf(x[j]) < 1e-16f ? 0.5f : x[j];
        float *dy = kernel_floats(k, n), *dx = kernel_floats(k, n), *ref = kernel_twin(k, dx);
        float *want = kernel_twin(k, dx);
        for (int64_t j = 0; j < n; j++)
            want[j] = (float)((double)dy[j] * plain_slope(act, (double)x[j]));
        k->fast->unary_backward_f32(act, x, dy, dx, n);
        k->ref->unary_backward_f32(act, x, dy, ref, n);
        kernel_same(k, "dx against ref", dx, ref);
        kernel_close(k, "dx", dx, want, 1, n, n, 5e-7, 1e-6);
        k->fast->unary_backward_f32(act, x, dy, dy, n);
        kernel_same(k, "in place", dy, dx);
        good = kernel_end(k);
    }
    static const dd_unary timed[] = {DD_RELU, DD_HARD_SWISH, DD_SILU, DD_GELU};
    for (size_t i = 0; k->bench && i < sizeof timed / sizeof *timed; i++) {
        const dd_act act = plain_act(timed[i]);
        kernel_begin(k, "bench");
        float *x = kernel_floats(k, 4096), *dy = kernel_floats(k, 4096), *dx = kernel_twin(k, x);
        KERNEL_BENCH(k, plain_names[act.kind], 4096.0, "Gfloat/s",
                     k->fast->unary_backward_f32(act, x, dy, dx, 4096));
        kernel_end(k);
    }
}

static double plain_binary(dd_binary kind, double a, double b) {
    switch (kind) {
    case DD_ADD:
        return a + b;
    case DD_SUB:
        return a - b;
    case DD_MUL:
        return a * b;
    case DD_DIV:
        return a / b;
    case DD_MAX:
        return isnan(a) || isnan(b) ? (double)NAN : a > b ? a : b;
    case DD_MIN:
        return isnan(a) || isnan(b) ? (double)NAN : a < b ? a : b;
    case DD_POW:
        return pow(a, b);
    case DD_BINARIES:
        break;
    }
    return a;
}

void check_binary_f32(kernel_check *k) {
    static const char *const names[] = {"add", "sub", "mul", "div", "max", "min", "pow"};
    bool good = true;
    for (int i = 0; i < 20 * DD_BINARIES && good; i++) {
        const dd_binary kind = (dd_binary)(i % DD_BINARIES);
        const int64_t n = kernel_draw(k, 0, 70);
        kernel_begin(k, "%s n=%lld", names[kind], (long long)n);
        float *a = kernel_floats(k, n), *b = kernel_floats(k, n);
        if (n > 2) {
            a[n / 2] = NAN;
            b[n - 1] = NAN;
        }
        float *y = kernel_floats(k, n), *ref = kernel_twin(k, y), *want = kernel_twin(k, y);
        for (int64_t j = 0; j < n; j++)
            want[j] = (float)plain_binary(kind, (double)a[j], (double)b[j]);
        k->fast->binary_f32(kind, a, b, y, n);
        k->ref->binary_f32(kind, a, b, ref, n);
        kernel_same(k, "y against ref", y, ref);
        kernel_close(k, "y", y, want, 1, n, n, 0.0, 3e-7);
        k->fast->binary_f32(kind, a, b, b, n);
        kernel_same(k, "in place", b, y);
        good = kernel_end(k);
    }
    for (int i = 0; k->bench && i < DD_BINARIES; i++) {
        kernel_begin(k, "bench");
        float *a = kernel_floats(k, 4096), *b = kernel_floats(k, 4096), *y = kernel_twin(k, a);
        KERNEL_BENCH(k, names[i], 4096.0, "Gfloat/s",
                     k->fast->binary_f32((dd_binary)i, a, b, y, 4096));
        kernel_end(k);
    }
}

void check_prelu_f32(kernel_check *k) {
    bool good = true;
    for (int i = 0; i < 60 && good; i++) {
        const int64_t n = kernel_draw(k, 0, 70);
        kernel_begin(k, "n=%lld", (long long)n);
        float *x = kernel_floats(k, n), *slope = kernel_floats(k, n);
        if (n > 2) {
            x[n / 2] = NAN;
            x[n - 1] = -0.0f;
        }
        float *y = kernel_floats(k, n), *ref = kernel_twin(k, y), *want = kernel_twin(k, y);
        for (int64_t j = 0; j < n; j++)
            want[j] = x[j] > 0 ? x[j] : x[j] * slope[j];
        k->fast->prelu_f32(x, slope, y, n);
        k->ref->prelu_f32(x, slope, ref, n);
        kernel_same(k, "y against ref", y, ref);
        kernel_close(k, "y", y, want, 1, n, n, 0.0, 0.0);
        k->fast->prelu_f32(x, slope, slope, n);
        kernel_same(k, "over the slope", slope, y);
        k->fast->prelu_f32(x, ref, x, 0);
        good = kernel_end(k);
    }
    if (k->bench) {
        kernel_begin(k, "bench");
        float *x = kernel_floats(k, 4096), *slope = kernel_floats(k, 4096), *y = kernel_twin(k, x);
        KERNEL_BENCH(k, "", 4096.0, "Gfloat/s", k->fast->prelu_f32(x, slope, y, 4096));
        kernel_end(k);
    }
}

void check_stream_f32(kernel_check *k) {
    bool good = true;
    for (int i = 0; i < 100 && good; i++) {
        const int64_t n = kernel_draw(k, 1, 200), skipped = kernel_draw(k, 0, n < 20 ? n : 20);
        kernel_begin(k, "n=%lld skipped=%lld", (long long)n, (long long)skipped);
        float *x = kernel_floats(k, n), *y = kernel_floats(k, n), *want = kernel_twin(k, y);
        memcpy(want + skipped, x + skipped, (size_t)(n - skipped) * sizeof(float));
        if (n > skipped)
            k->fast->stream_f32(x + skipped, y + skipped, n - skipped);
        k->fast->stream_f32(NULL, NULL, 0);
        kernel_same(k, "y", y, want);
        good = kernel_end(k);
    }
    if (k->bench) {
        const int64_t n = 4 << 20;
        kernel_begin(k, "bench");
        float *x = kernel_floats(k, n), *y = kernel_floats(k, n);
        KERNEL_BENCH(k, "16 MB", 8.0 * (double)n, "GB/s", k->fast->stream_f32(x, y, n));
        kernel_end(k);
    }
}

/* Round to nearest even by the definition: of the two neighbours that bfloat16 holds, the nearer.
 */
static uint16_t plain_bf16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if (isnan(x))
        return 0x7fc0;
    const uint32_t below = bits >> 16, rest = bits & 0xffffu;
    return (uint16_t)(below + (rest > 0x8000u || (rest == 0x8000u && below % 2 == 1)));
}

/* Any bits: infinities, NaN, subnormals and ties among them. */
static float *draw_bits(kernel_check *k, int64_t n) {
    float *x = kernel_floats(k, n);
    for (int64_t i = 0; i < n; i++) {
        uint32_t bits =
            (uint32_t)kernel_draw(k, 0, 0x7fffffff) * 2u + (uint32_t)kernel_draw(k, 0, 1);
        if (kernel_draw(k, 0, 3) == 0)
            bits = (bits & 0xffff0000u) | 0x8000u;
        if (kernel_draw(k, 0, 9) == 0)
            bits |= 0x7f800000u;
        memcpy(&x[i], &bits, sizeof bits);
    }
    return x;
}

void check_f32_to_bf16(kernel_check *k) {
    bool good = true;
    for (int i = 0; i < 200 && good; i++) {
        const int64_t n = kernel_draw(k, 1, 90), skipped = kernel_draw(k, 0, n < 20 ? n : 20);
        const bool stream = kernel_draw(k, 0, 1);
        kernel_begin(k, "n=%lld skipped=%lld stream=%d", (long long)n, (long long)skipped, stream);
        const float *x = draw_bits(k, n);
        uint16_t *y = kernel_bytes(k, (size_t)n * sizeof *y), *want = kernel_twin(k, y);
        for (int64_t j = skipped; j < n; j++)
            want[j] = plain_bf16(x[j]);
        k->fast->f32_to_bf16(x + skipped, y + skipped, n - skipped, stream);
        k->fast->stream_f32(NULL, NULL, 0);
        kernel_same(k, "y", y, want);
        good = kernel_end(k);
    }
    if (k->bench) {
        kernel_begin(k, "bench");
        float *x = kernel_floats(k, 4096);
        uint16_t *y = kernel_bytes(k, 4096 * sizeof *y);
        KERNEL_BENCH(k, "n 4096", 4096.0, "Gfloat/s", k->fast->f32_to_bf16(x, y, 4096, false));
        kernel_end(k);
    }
}

void check_bf16_to_f32(kernel_check *k) {
    bool good = true;
    for (int i = 0; i < 100 && good; i++) {
        const int64_t n = kernel_draw(k, 0, 90);
        kernel_begin(k, "n=%lld", (long long)n);
        uint16_t *x = kernel_bytes(k, (size_t)n * sizeof *x);
        float *y = kernel_floats(k, n), *want = kernel_twin(k, y);
        for (int64_t j = 0; j < n; j++) {
            x[j] = (uint16_t)kernel_draw(k, 0, 0xffff);
            const uint32_t bits = (uint32_t)x[j] << 16;
            memcpy(&want[j], &bits, sizeof bits);
        }
        k->fast->bf16_to_f32(x, y, n);
        kernel_same(k, "y", y, want);
        good = kernel_end(k);
    }
    if (k->bench) {
        kernel_begin(k, "bench");
        uint16_t *x = memset(kernel_bytes(k, 4096 * sizeof *x), 7, 4096 * sizeof *x);
        float *y = kernel_floats(k, 4096);
        KERNEL_BENCH(k, "n 4096", 4096.0, "Gfloat/s", k->fast->bf16_to_f32(x, y, 4096));
        kernel_end(k);
    }
}

void check_u8_to_f32(kernel_check *k) {
    bool good = true;
    for (int i = 0; i < 60 && good; i++) {
        const int64_t n = kernel_draw(k, 0, 70);
        kernel_begin(k, "n=%lld", (long long)n);
        uint8_t *x = kernel_bytes(k, (size_t)n);
        for (int64_t j = 0; j < n; j++)
            x[j] = (uint8_t)kernel_draw(k, 0, 255);
        float *y = kernel_floats(k, n), *ref = kernel_twin(k, y), *want = kernel_twin(k, y);
        const float scale = 1.0f / 255.0f, shift = -0.25f;
        for (int64_t j = 0; j < n; j++)
            want[j] = (float)((double)x[j] * (double)scale + (double)shift);
        k->fast->u8_to_f32(x, scale, shift, y, n);
        k->ref->u8_to_f32(x, scale, shift, ref, n);
        kernel_same(k, "y against ref", y, ref);
        kernel_close(k, "y", y, want, 1, n, n, 1e-10, 1e-7);
        good = kernel_end(k);
    }
    if (k->bench) {
        kernel_begin(k, "bench");
        uint8_t *x = memset(kernel_bytes(k, 4096), 7, 4096);
        float *y = kernel_floats(k, 4096);
        KERNEL_BENCH(k, "4096 bytes", 4096.0, "Gfloat/s",
                     k->fast->u8_to_f32(x, 1.0f, 0.0f, y, 4096));
        kernel_end(k);
    }
}

#endif
