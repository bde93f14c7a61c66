/* Winograd's minimal filtering for 3×3 convolutions of stride 1: the transforms around the matrix
 * products.
 *
 * `side`² outputs come from a patch of α² inputs, α = side + 2. Both the patch and the kernel are
 * carried over to α² numbers a channel, where the convolution is a product: α² products of
 * matrices (tiles × channels) instead of 9·side², and one transform back. With side 4 that is a
 * quarter of the multiplications, with side 2 four ninths (Lavin & Gray 2016). A transform of two
 * dimensions is one of one dimension over the columns, then over the rows; `between` holds what
 * lies between, in the first-level cache.
 *
 * The gradient of the kernel is the same read backwards: outputs' gradients are carried over by the
 * transpose of the outputs' transform, multiplied with the patches number by number, summed over
 * the tiles, and what comes out by the transpose of the kernel's.
 *
 * Points: 0, ±1, ∞ for side 2; 0, ±1, ±2, ∞ for side 4. Rounding errors grow by these factors:
 * against double precision, outputs of unit variance are within 3e-6 (side 2) and 3e-5 (side 4);
 * tests/c/kernels_winograd.h holds them to it. A sum's order is fixed: the same bits on every
 * level, wherever a tile lies. */
#include "kernels/activation.h"

enum { MAX_ALPHA = 6 };

/* Bᵀ·d in place: α numbers. */
V_INLINE void input_line(vf *d, const int side) {
    if (side == 2) {
        vf d1 = d[1];
        d[0] = v_sub(d[0], d[2]);
        d[1] = v_add(d1, d[2]);
        d[2] = v_sub(d[2], d1);
        d[3] = v_sub(d1, d[3]);
        return;
    }
    const vf minus4 = v_set1(-4.0f), minus5 = v_set1(-5.0f), four = v_set1(4.0f);
    vf even = v_fma(minus4, d[2], d[4]), odd = v_fma(minus4, d[1], d[3]);
    vf far_even = v_sub(d[4], d[2]), far_odd = v_sub(d[3], d[1]);
    d[0] = v_fma(four, d[0], v_fma(minus5, d[2], d[4]));
    d[5] = v_fma(four, d[1], v_fma(minus5, d[3], d[5]));
    d[1] = v_add(even, odd);
    d[2] = v_sub(even, odd);
    d[3] = v_fma(v_set1(2.0f), far_odd, far_even);
    d[4] = v_fma(v_set1(-2.0f), far_odd, far_even);
}

/* Aᵀ·m in place: α numbers become side. */
V_INLINE void output_line(vf *m, const int side) {
    vf sum = v_add(m[1], m[2]), difference = v_sub(m[1], m[2]);
    if (side == 2) {
        m[0] = v_add(m[0], sum);
        m[1] = v_sub(difference, m[3]);
        return;
    }
    vf sum2 = v_add(m[3], m[4]), difference2 = v_sub(m[3], m[4]);
    m[0] = v_add(m[0], v_add(sum, sum2));
    m[1] = v_fma(v_set1(2.0f), difference2, difference);
    m[2] = v_fma(v_set1(4.0f), sum2, sum);
    m[3] = v_add(v_fma(v_set1(8.0f), difference2, difference), m[5]);
}

/* ---- input --------------------------------------------------------------------------------- */

/* The arguments come as a copy: the compiler then knows that stores leave them be. */
V_INLINE void input_tile(const dd_winograd_input w, const int side, const float *x, float *v,
                         int n) {
    const int alpha = side + 2;
    vf between[MAX_ALPHA][MAX_ALPHA];
    DD_ROLLED
    for (int j = 0; j < alpha; j++, x += w.pitch) {
        vf d[MAX_ALPHA];
        DD_UNROLL
        for (int i = 0; i < alpha; i++)
            d[i] = V_LOAD(x + i * w.row_pitch, n);
        input_line(d, side);
        DD_UNROLL
        for (int i = 0; i < alpha; i++)
            between[i][j] = d[i];
    }
    DD_ROLLED
    for (int i = 0; i < alpha; i++) {
        vf d[MAX_ALPHA];
        DD_UNROLL
        for (int j = 0; j < alpha; j++)
            d[j] = between[i][j];
        input_line(d, side);
        DD_UNROLL
        for (int j = 0; j < alpha; j++, v += w.plane) {
            DD_OPAQUE(v);
            V_STORE(v, d[j], n);
        }
    }
}

V_INLINE void input_tiles(const dd_winograd_input w, const int side) {
    for (int64_t t = 0; t < w.tiles; t++) {
        const float *x = w.x + t * side * w.pitch;
        float *v = w.v + t * w.v_pitch;
        int ch = 0;
        for (; ch + VL <= w.c; ch += VL)
            input_tile(w, side, x + ch, v + ch, VL);
        if (ch < w.c)
            input_tile(w, side, x + ch, v + ch, w.c - ch);
    }
}

void DD_NAME(winograd_input_f32)(const dd_winograd_input *w) {
    if (w->side == 2)
        input_tiles(*w, 2);
    else
        input_tiles(*w, 4);
}

/* ---- gradients ----------------------------------------------------------------------------- */

/* A·d in place: side numbers become α. */
V_INLINE void gradient_line(vf *d, const int side) {
    vf last = d[side - 1];
    if (side == 2) {
        d[2] = v_sub(d[0], last);
        d[1] = v_add(d[0], last);
        d[3] = v_sub(v_zero(), last);
        return;
    }
    vf even = v_add(d[0], d[2]), odd = v_add(d[1], last);
    vf far_even = v_fma(v_set1(4.0f), d[2], d[0]);
    vf far_odd = v_fma(v_set1(8.0f), last, v_mul(v_set1(2.0f), d[1]));
    d[1] = v_add(even, odd);
    d[2] = v_sub(even, odd);
    d[3] = v_add(far_even, far_odd);
    d[4] = v_sub(far_even, far_odd);
    d[5] = last;
}

V_INLINE void gradient_tile(const dd_winograd_input w, const int side, const float *x, float *v,
                            int n) {
    const int alpha = side + 2;
    vf between[MAX_ALPHA][4];
    DD_ROLLED
    for (int j = 0; j < side; j++, x += w.pitch) {
        vf d[MAX_ALPHA];
        DD_UNROLL
        for (int i = 0; i < side; i++)
            d[i] = V_LOAD(x + i * w.row_pitch, n);
        gradient_line(d, side);
        DD_UNROLL
        for (int i = 0; i < alpha; i++)
            between[i][j] = d[i];
    }
    DD_ROLLED
    for (int i = 0; i < alpha; i++) {
        vf d[MAX_ALPHA];
        DD_UNROLL
        for (int j = 0; j < side; j++)
            d[j] = between[i][j];
        gradient_line(d, side);
        DD_UNROLL
        for (int j = 0; j < alpha; j++, v += w.plane) {
            DD_OPAQUE(v);
            V_STORE(v, d[j], n);
        }
    }
}

V_INLINE void gradient_tiles(const dd_winograd_input w, const int side) {
    for (int64_t t = 0; t < w.tiles; t++) {
        const float *x = w.x + t * side * w.pitch;
        float *v = w.v + t * w.v_pitch;
        int ch = 0;
        for (; ch + VL <= w.c; ch += VL)
            gradient_tile(w, side, x + ch, v + ch, VL);
        if (ch < w.c)
            gradient_tile(w, side, x + ch, v + ch, w.c - ch);
    }
}

void DD_NAME(winograd_gradient_f32)(const dd_winograd_input *w) {
    if (w->side == 2)
        gradient_tiles(*w, 2);
    else
        gradient_tiles(*w, 4);
}

/* ---- output -------------------------------------------------------------------------------- */

/* Bias, residual, activation and store of `pixels` neighbours. */
V_INLINE void output_row(const dd_winograd_output w, const int side, vf *out, int64_t pixels,
                         int64_t at, int64_t residual_at, int ch, int n) {
    const vf bias = w.bias ? V_LOAD(w.bias + ch, n) : v_zero();
    DD_UNROLL
    for (int j = 0; j < side; j++) {
        if (j >= pixels)
            break;
        vf y = v_add(out[j], bias);
        if (w.residual)
            y = v_add(y, V_LOAD(w.residual + residual_at + j * w.residual_pitch + ch, n));
        V_STORE(w.y + at + j * w.y_pitch + ch, act_apply_hot(w.act, y), n);
    }
}

V_INLINE void output_tile(const dd_winograd_output w, const int side, int64_t t, int ch, int n) {
    const int alpha = side + 2;
    const int64_t pixels = w.width - t * side;
    const float *m = w.m + t * w.m_pitch + ch;
    vf between[4][MAX_ALPHA];
    DD_ROLLED
    for (int j = 0; j < alpha; j++, m += w.plane) {
        vf d[MAX_ALPHA];
        DD_UNROLL
        for (int i = 0; i < alpha; i++)
            d[i] = V_LOAD(m + i * alpha * w.plane, n);
        output_line(d, side);
        DD_UNROLL
        for (int i = 0; i < side; i++)
            between[i][j] = d[i];
    }
    DD_ROLLED
    for (int i = 0; i < w.rows; i++) {
        vf d[MAX_ALPHA];
        DD_UNROLL
        for (int j = 0; j < alpha; j++)
            d[j] = between[i][j];
        output_line(d, side);
        output_row(w, side, d, pixels, i * w.y_row + t * side * w.y_pitch,
                   i * w.residual_row + t * side * w.residual_pitch, ch, n);
    }
}

V_INLINE void output_tiles(const dd_winograd_output w, const int side) {
    for (int64_t t = 0; t < w.tiles; t++) {
        int ch = 0;
        for (; ch + VL <= w.c; ch += VL)
            output_tile(w, side, t, ch, VL);
        if (ch < w.c)
            output_tile(w, side, t, ch, w.c - ch);
    }
}

void DD_NAME(winograd_output_f32)(const dd_winograd_output *w) {
    if (w->side == 2)
        output_tiles(*w, 2);
    else
        output_tiles(*w, 4);
}
