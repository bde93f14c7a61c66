/* Elementwise functions over n contiguous floats. One loop per function, so that nothing is decided
 * per vector; the tail runs the same vector code on fewer lanes, hence the same bits. */
#include <math.h>

#include "kernels/activation.h"

#define EACH_UNARY(X)                                                                              \
    X(DD_IDENTITY)                                                                                 \
    X(DD_RELU)                                                                                     \
    X(DD_CLIP)                                                                                     \
    X(DD_LEAKY_RELU)                                                                               \
    X(DD_HARD_SIGMOID)                                                                             \
    X(DD_HARD_SWISH)                                                                               \
    X(DD_SIGMOID)                                                                                  \
    X(DD_SILU)                                                                                     \
    X(DD_MISH)                                                                                     \
    X(DD_ELU)                                                                                      \
    X(DD_SOFTPLUS)                                                                                 \
    X(DD_TANH)                                                                                     \
    X(DD_GELU)                                                                                     \
    X(DD_ERF)                                                                                      \
    X(DD_EXP)                                                                                      \
    X(DD_LOG)                                                                                      \
    X(DD_SQRT)                                                                                     \
    X(DD_ABS)                                                                                      \
    X(DD_NEG)                                                                                      \
    X(DD_RAMP)                                                                                     \
    X(DD_SELU)                                                                                     \
    X(DD_SOFTSIGN)                                                                                 \
    X(DD_GELU_TANH)                                                                                \
    X(DD_RECIPROCAL)                                                                               \
    X(DD_FLOOR)                                                                                    \
    X(DD_CEIL)                                                                                     \
    X(DD_ROUND)                                                                                    \
    X(DD_SIGN)                                                                                     \
    X(DD_SIN)                                                                                      \
    X(DD_COS)

/* Whole vectors in pairs, so that two chains overlap. */
V_INLINE void unary_row(dd_act act, const float *x, float *y, int64_t n) {
    int64_t i = 0;
    for (; i + 2 * VL <= n; i += 2 * VL) {
        vf a = act_apply(act, v_load(x + i)), b = act_apply(act, v_load(x + i + VL));
        v_store(y + i, a);
        v_store(y + i + VL, b);
    }
    if (i + VL <= n) {
        v_store(y + i, act_apply(act, v_load(x + i)));
        i += VL;
    }
    if (i < n)
        v_store_n(y + i, act_apply(act, v_load_n(x + i, (int)(n - i))), (int)(n - i));
}

V_INLINE void unary_loop(dd_act act, const float *x, int64_t x_pitch, float *y, int64_t y_pitch,
                         int64_t rows, int64_t n) {
    for (int64_t row = 0; row < rows; row++)
        unary_row(act, x + row * x_pitch, y + row * y_pitch, n);
}

static void unary_of_rows(dd_act act, const float *x, int64_t x_pitch, float *y, int64_t y_pitch,
                          int64_t rows, int64_t n) {
    switch (act.kind) {
#define CASE(kind)                                                                                 \
    case kind:                                                                                     \
        unary_loop(act_of_kind(kind, act), x, x_pitch, y, y_pitch, rows, n);                       \
        break;
        EACH_UNARY(CASE)
#undef CASE
    case DD_UNARIES:
        break;
    }
}

void DD_NAME(unary_f32)(dd_act act, const float *x, float *y, int64_t n) {
    unary_of_rows(act, x, n, y, n, 1, n);
}

void DD_NAME(unary_rows_f32)(dd_act act, float *y, int64_t pitch, int64_t rows, int64_t n) {
    if (pitch == n)
        unary_of_rows(act, y, n, y, n, 1, rows * n);
    else
        unary_of_rows(act, y, pitch, y, pitch, rows, n);
}

V_INLINE void unary_backward_loop(dd_act act, const float *x, const float *dy, float *dx,
                                  int64_t n) {
    int64_t i = 0;
    for (; i + VL <= n; i += VL)
        v_store(dx + i, v_mul(v_load(dy + i), act_slope(act, v_load(x + i))));
    if (i < n) {
        int left = (int)(n - i);
        vf slope = act_slope(act, v_load_n(x + i, left));
        v_store_n(dx + i, v_mul(v_load_n(dy + i, left), slope), left);
    }
}

void DD_NAME(unary_backward_f32)(dd_act act, const float *x, const float *dy, float *dx,
                                 int64_t n) {
    switch (act.kind) {
#define CASE(kind)                                                                                 \
    case kind:                                                                                     \
        unary_backward_loop(act_of_kind(kind, act), x, dy, dx, n);                                 \
        break;
        EACH_UNARY(CASE)
#undef CASE
    case DD_UNARIES:
        break;
    }
}

/* max and min let a NaN of either side through, as NumPy's maximum does. */
V_INLINE vf binary_apply(dd_binary kind, vf a, vf b) {
    switch (kind) {
    case DD_ADD:
        return v_add(a, b);
    case DD_SUB:
        return v_sub(a, b);
    case DD_MUL:
        return v_mul(a, b);
    case DD_DIV:
        return v_div(a, b);
    case DD_MAX:
        return v_select(v_eq(a, a), v_max(a, b), a);
    case DD_MIN:
        return v_select(v_eq(a, a), v_min(a, b), a);
    case DD_POW:
    case DD_BINARIES:
        break;
    }
    return a;
}

V_INLINE void binary_loop(dd_binary kind, const float *a, const float *b, float *y, int64_t n) {
    int64_t i = 0;
    for (; i + VL <= n; i += VL)
        v_store(y + i, binary_apply(kind, v_load(a + i), v_load(b + i)));
    if (i < n) {
        int left = (int)(n - i);
        vf r = binary_apply(kind, v_load_n(a + i, left), v_load_n(b + i, left));
        v_store_n(y + i, r, left);
    }
}

void DD_NAME(binary_f32)(dd_binary kind, const float *a, const float *b, float *y, int64_t n) {
    switch (kind) {
#define CASE(kind)                                                                                 \
    case kind:                                                                                     \
        binary_loop(kind, a, b, y, n);                                                             \
        break;
        CASE(DD_ADD)
        CASE(DD_SUB)
        CASE(DD_MUL)
        CASE(DD_DIV)
        CASE(DD_MAX)
        CASE(DD_MIN)
#undef CASE
    case DD_POW: /* rare, and e^(b·log a) would lose bits: libm's, on every level */
        for (int64_t i = 0; i < n; i++)
            y[i] = powf(a[i], b[i]);
        break;
    case DD_BINARIES:
        break;
    }
}

void DD_NAME(prelu_f32)(const float *x, const float *slope, float *y, int64_t n) {
    int64_t i = 0;
    for (; i + VL <= n; i += VL) {
        vf v = v_load(x + i), below = v_mul(v, v_load(slope + i));
        v_store(y + i, v_select(v_gt(v, v_zero()), v, below));
    }
    if (i < n) {
        int left = (int)(n - i);
        vf v = v_load_n(x + i, left), below = v_mul(v, v_load_n(slope + i, left));
        v_store_n(y + i, v_select(v_gt(v, v_zero()), v, below), left);
    }
}

void DD_NAME(u8_to_f32)(const uint8_t *x, float scale, float shift, float *y, int64_t n) {
    const vf by = v_set1(scale), plus = v_set1(shift);
    int64_t i = 0;
    for (; i + VL <= n; i += VL)
        v_store(y + i, v_fma(v_load_u8(x + i), by, plus));
    if (i < n)
        v_store_n(y + i, v_fma(v_load_u8_n(x + i, (int)(n - i)), by, plus), (int)(n - i));
}

void DD_NAME(stream_f32)(const float *x, float *y, int64_t n) {
    const int64_t mask = VL * (int64_t)sizeof(float) - 1;
    int64_t i = ((mask + 1 - ((intptr_t)y & mask)) & mask) / (int64_t)sizeof(float);
    if (n == 0) {
        v_stream_end();
        return;
    }
    i = i < n ? i : n;
    for (int64_t j = 0; j < i; j++)
        y[j] = x[j];
    for (; i + VL <= n; i += VL)
        v_stream(y + i, v_load(x + i));
    if (i < n)
        v_store_n(y + i, v_load_n(x + i, (int)(n - i)), (int)(n - i));
}

void DD_NAME(bf16_to_f32)(const uint16_t *x, float *y, int64_t n) {
    int64_t i = 0;
    for (; i + VL <= n; i += VL)
        v_store(y + i, v_load_bf16(x + i));
    if (i < n)
        v_store_n(y + i, v_load_bf16_n(x + i, (int)(n - i)), (int)(n - i));
}

void DD_NAME(f32_to_bf16)(const float *x, uint16_t *y, int64_t n, bool stream) {
    const int64_t mask = VL * (int64_t)sizeof *y - 1;
    int64_t i = 0;
    if (stream) {
        i = ((mask + 1 - ((intptr_t)y & mask)) & mask) / (int64_t)sizeof *y;
        i = i < n ? i : n;
        v_store_bf16_n(y, v_load_n(x, (int)i), (int)i);
        for (; i + VL <= n; i += VL)
            v_stream_bf16(y + i, v_load(x + i));
    }
    for (; i + VL <= n; i += VL)
        v_store_bf16(y + i, v_load(x + i));
    if (i < n)
        v_store_bf16_n(y + i, v_load_n(x + i, (int)(n - i)), (int)(n - i));
}
