/* Depthwise convolution, one row at a time: forward, data gradient and weight gradient.
 *
 * Letters: k the kernel's side, r and s a tap's row and column, x an output pixel, j an input pixel
 * of the block, ch the first channel of a vector, n its lanes (VL, or fewer in the last one).
 *
 * Forward and data gradient cut the row into blocks of neighbouring pixels and hold a block's
 * results for one vector of channels in registers: every pixel read serves all taps that it meets,
 * and a block's pixels stay in the first-level cache while the channels go by. Rows are cut
 * greedily into blocks of 16, 8, 4, 2 and 1. A result is summed in the order (r, s), in the data
 * gradient (r, s descending), whatever its block: the cut never shows in the bits.
 *
 * The weight gradient holds the taps of a vector of channels in registers and runs over a piece of
 * the row; pieces begin at multiples of DW_PIECE, and their sums are added in order. */
#include "kernels/activation.h"

/* Pixels of the largest block: with them live a row of weights (five at most) and one input. Blocks
 * of 16 are for levels with 32 registers and stride 1. */
enum { BLOCK = 16 };

/* ---- forward ------------------------------------------------------------------------------- */

/* Activations without a fast case of their own. */
DD_RARE void activate_rarely(dd_act act, vf *sum, int pixels) {
    for (int i = 0; i < pixels; i++)
        sum[i] = act_apply(act, sum[i]);
}

V_INLINE void activate_block(dd_act act, vf *sum, int pixels) {
    switch (act.kind) {
    case DD_IDENTITY:
        break;
    case DD_RELU:
        DD_UNROLL
        for (int i = 0; i < pixels; i++)
            sum[i] = act_apply(act_of_kind(DD_RELU, act), sum[i]);
        break;
    case DD_HARD_SWISH:
        DD_UNROLL
        for (int i = 0; i < pixels; i++)
            sum[i] = act_apply(act_of_kind(DD_HARD_SWISH, act), sum[i]);
        break;
    default: { /* by way of a copy: only here do the sums leave their registers */
        vf kept[BLOCK];
        DD_UNROLL
        for (int i = 0; i < pixels; i++)
            kept[i] = sum[i];
        activate_rarely(act, kept, pixels);
        DD_UNROLL
        for (int i = 0; i < pixels; i++)
            sum[i] = kept[i];
        break;
    }
    }
}

/* A block's epilogue: activation, residual, store. */
V_INLINE void finish_block(const dd_depthwise *d, vf *sum, int pixels, int64_t x, int ch, int n) {
    activate_block(d->act, sum, pixels);
    if (d->residual != NULL) {
        const float *residual = d->residual + x * d->residual_pitch + ch;
        DD_UNROLL
        for (int i = 0; i < pixels; i++, residual += d->residual_pitch) {
            DD_OPAQUE(residual);
            sum[i] = v_add(sum[i], V_LOAD(residual, n));
        }
    }
    float *y = d->y + x * d->y_pitch + ch;
    DD_UNROLL
    for (int i = 0; i < pixels; i++, y += d->y_pitch) {
        DD_OPAQUE(y);
        V_STORE(y, sum[i], n);
    }
}

V_INLINE void forward_block(const dd_depthwise *d, int k, int stride, int pixels, int64_t x, int ch,
                            int n) {
    vf sum[BLOCK];
    const vf bias = d->bias != NULL ? V_LOAD(d->bias + ch, n) : v_zero();
    DD_UNROLL
    for (int i = 0; i < pixels; i++)
        sum[i] = bias;
    const float *w = d->w + ch;
    DD_ROLLED
    for (int r = 0; r < k; r++) {
        vf tap[5];
        DD_UNROLL
        for (int s = 0; s < k; s++, w += d->wpitch) {
            DD_OPAQUE(w);
            tap[s] = V_LOAD(w, n);
        }
        const float *in = d->rows[r] + x * stride * d->pitch + ch;
        DD_UNROLL
        for (int j = 0; j < (pixels - 1) * stride + k; j++, in += d->pitch) {
            DD_OPAQUE(in);
            vf v = V_LOAD(in, n);
            V_KEEP(v);
            DD_UNROLL
            for (int s = 0; s < k; s++)
                if (j >= s && (j - s) % stride == 0 && (j - s) / stride < pixels)
                    sum[(j - s) / stride] = v_fma(v, tap[s], sum[(j - s) / stride]);
        }
    }
    finish_block(d, sum, pixels, x, ch, n);
}

/* All blocks of a size, from x on, for every channel; k, stride and pixels are constants. Returns
 * where it stopped. The arguments come as a copy: the compiler then knows that stores leave them
 * be. */
V_INLINE int64_t forward_blocks(const dd_depthwise d, int k, int stride, int pixels, int64_t x) {
    for (; x + pixels <= d.width; x += pixels) {
        int ch = 0;
        for (; ch + VL <= d.c; ch += VL)
            forward_block(&d, k, stride, pixels, x, ch, VL);
        if (ch < d.c)
            forward_block(&d, k, stride, pixels, x, ch, d.c - ch);
    }
    return x;
}

/* Each tuned (k, stride) has a function a block size: in one function for all, the compiler runs
 * out of general registers and keeps addresses in vector ones. */
#define FORWARD_BLOCKS(k, stride, pixels)                                                          \
    DD_RARE int64_t forward_k##k##s##stride##x##pixels(const dd_depthwise *d, int64_t x) {         \
        return forward_blocks(*d, k, stride, pixels, x);                                           \
    }
#define FORWARD_ROW(k, stride, wide)                                                               \
    FORWARD_BLOCKS(k, stride, 8)                                                                   \
    FORWARD_BLOCKS(k, stride, 4)                                                                   \
    FORWARD_BLOCKS(k, stride, 2)                                                                   \
    FORWARD_BLOCKS(k, stride, 1)                                                                   \
    static void forward_k##k##s##stride(const dd_depthwise *d) {                                   \
        int64_t x = wide;                                                                          \
        x = forward_k##k##s##stride##x8(d, x);                                                     \
        x = forward_k##k##s##stride##x4(d, x);                                                     \
        x = forward_k##k##s##stride##x2(d, x);                                                     \
        forward_k##k##s##stride##x1(d, x);                                                         \
    }
/* Pixels 512 bytes apart fall on eight sets of a first-level cache of 48 KB: a block of 16 for k =
 * 5 does not fit there. */
#if V_REGISTERS >= 32
FORWARD_BLOCKS(3, 1, 16)
FORWARD_BLOCKS(5, 1, 16)
FORWARD_ROW(3, 1, forward_k3s1x16(d, 0))
FORWARD_ROW(5, 1, d->pitch % 128 != 0 ? forward_k5s1x16(d, 0) : 0)
#else
FORWARD_ROW(3, 1, 0)
FORWARD_ROW(5, 1, 0)
#endif
FORWARD_ROW(3, 2, 0)
FORWARD_ROW(5, 2, 0)

/* Any k and stride: four pixels at a time, or one, with a load a tap. */
V_INLINE void forward_any_block(const dd_depthwise *d, int pixels, int64_t x, int ch, int n) {
    vf sum[BLOCK];
    const vf bias = d->bias != NULL ? v_load_n(d->bias + ch, n) : v_zero();
    DD_UNROLL
    for (int i = 0; i < pixels; i++)
        sum[i] = bias;
    for (int r = 0; r < d->k; r++) {
        const float *in = d->rows[r] + x * d->stride * d->pitch + ch;
        const float *w = d->w + r * d->k * d->wpitch + ch;
        for (int s = 0; s < d->k; s++) {
            vf tap = v_load_n(w + s * d->wpitch, n);
            DD_UNROLL
            for (int i = 0; i < pixels; i++) {
                vf v = v_load_n(in + (i * d->stride + s) * d->pitch, n);
                sum[i] = v_fma(v, tap, sum[i]);
            }
        }
    }
    finish_block(d, sum, pixels, x, ch, n);
}

static void forward_any(const dd_depthwise *d) {
    for (int ch = 0; ch < d->c; ch += VL) {
        const int n = d->c - ch < VL ? d->c - ch : VL;
        int64_t x = 0;
        for (; x + 4 <= d->width; x += 4)
            forward_any_block(d, 4, x, ch, n);
        for (; x < d->width; x++)
            forward_any_block(d, 1, x, ch, n);
    }
}

void DD_NAME(depthwise_f32)(const dd_depthwise *d) {
    if (d->k == 3 && d->stride == 1)
        forward_k3s1(d);
    else if (d->k == 3 && d->stride == 2)
        forward_k3s2(d);
    else if (d->k == 5 && d->stride == 1)
        forward_k5s1(d);
    else if (d->k == 5 && d->stride == 2)
        forward_k5s2(d);
    else
        forward_any(d);
}

/* ---- data gradient ------------------------------------------------------------------------- */

/* `pixels` neighbours from x on, where x is a multiple of stride and k, stride and pixels are
 * constants: output pixel x/stride + j gives to pixels j·stride + s. Output pixels are checked one
 * by one: a compare for k multiply-adds, and most blocks of a small map touch an edge. */
V_INLINE void dx_block(const dd_depthwise_dx *d, int k, int stride, int pixels, int64_t x, int ch,
                       int n) {
    const int before = (k - 1) / stride, last = (pixels - 1) / stride;
    const int64_t first = x / stride - before;
    vf sum[BLOCK];
    DD_UNROLL
    for (int i = 0; i < pixels; i++)
        sum[i] = v_zero();
    DD_ROLLED
    for (int r = 0; r < k; r++) {
        if (d->dy_rows[r] == NULL)
            continue;
        const float *w = d->w + r * k * d->wpitch + ch;
        vf tap[5];
        DD_UNROLL
        for (int s = 0; s < k; s++, w += d->wpitch) {
            DD_OPAQUE(w);
            tap[s] = V_LOAD(w, n);
        }
        const float *row = d->dy_rows[r] + ch;
        int64_t at = first * d->dy_pitch;
        DD_UNROLL
        for (int t = 0; t <= before + last; t++, at += d->dy_pitch) {
            DD_OPAQUE(at);
            if ((uint64_t)(first + t) >= (uint64_t)d->out_width)
                continue;
            const int j = t - before;
            vf v = V_LOAD(row + at, n);
            V_KEEP(v);
            DD_UNROLL
            for (int s = 0; s < k; s++)
                if (j * stride + s >= 0 && j * stride + s < pixels)
                    sum[j * stride + s] = v_fma(v, tap[s], sum[j * stride + s]);
        }
    }
    float *dx = d->dx + (x - d->x_begin) * d->dx_pitch + ch;
    DD_UNROLL
    for (int i = 0; i < pixels; i++, dx += d->dx_pitch) {
        DD_OPAQUE(dx);
        V_STORE(dx, sum[i], n);
    }
}

/* All blocks of a size, from x on; as in forward. */
V_INLINE int64_t dx_blocks(const dd_depthwise_dx d, int k, int stride, int pixels, int64_t x) {
    for (; x + pixels <= d.x_begin + d.width; x += pixels) {
        int ch = 0;
        for (; ch + VL <= d.c; ch += VL)
            dx_block(&d, k, stride, pixels, x, ch, VL);
        if (ch < d.c)
            dx_block(&d, k, stride, pixels, x, ch, d.c - ch);
    }
    return x;
}

/* Any k and stride, one pixel. */
static void dx_any_pixel(const dd_depthwise_dx *d, int64_t x) {
    float *dx = d->dx + (x - d->x_begin) * d->dx_pitch;
    for (int ch = 0; ch < d->c; ch += VL) {
        const int n = d->c - ch < VL ? d->c - ch : VL;
        vf sum = v_zero();
        for (int r = 0; r < d->k; r++) {
            if (d->dy_rows[r] == NULL)
                continue;
            for (int s = d->k - 1; s >= 0; s--) {
                const int64_t at = x - s;
                if (at < 0 || at % d->stride != 0 || at / d->stride >= d->out_width)
                    continue;
                vf v = v_load_n(d->dy_rows[r] + at / d->stride * d->dy_pitch + ch, n);
                sum = v_fma(v, v_load_n(d->w + (r * d->k + s) * d->wpitch + ch, n), sum);
            }
        }
        v_store_n(dx + ch, sum, n);
    }
}

#define DX_BLOCKS(k, stride, pixels)                                                               \
    DD_RARE int64_t dx_k##k##s##stride##x##pixels(const dd_depthwise_dx *d, int64_t x) {           \
        return dx_blocks(*d, k, stride, pixels, x);                                                \
    }
#define DX_ROW(k, stride)                                                                          \
    DX_BLOCKS(k, stride, 8)                                                                        \
    DX_BLOCKS(k, stride, 4)                                                                        \
    DX_BLOCKS(k, stride, 2)                                                                        \
    static void dx_k##k##s##stride(const dd_depthwise_dx *d) {                                     \
        const int64_t end = d->x_begin + d->width;                                                 \
        int64_t x = d->x_begin;                                                                    \
        for (; x < end && x % stride != 0; x++)                                                    \
            dx_any_pixel(d, x);                                                                    \
        x = dx_k##k##s##stride##x8(d, x);                                                          \
        x = dx_k##k##s##stride##x4(d, x);                                                          \
        x = dx_k##k##s##stride##x2(d, x);                                                          \
        for (; x < end; x++)                                                                       \
            dx_any_pixel(d, x);                                                                    \
    }
DX_ROW(3, 1)
DX_ROW(3, 2)
DX_ROW(5, 1)
DX_ROW(5, 2)

void DD_NAME(depthwise_dx_f32)(const dd_depthwise_dx *d) {
    if (d->k == 3 && d->stride == 1)
        dx_k3s1(d);
    else if (d->k == 3 && d->stride == 2)
        dx_k3s2(d);
    else if (d->k == 5 && d->stride == 1)
        dx_k5s1(d);
    else if (d->k == 5 && d->stride == 2)
        dx_k5s2(d);
    else
        for (int64_t x = 0; x < d->width; x++)
            dx_any_pixel(d, d->x_begin + x);
}

/* ---- weight gradient ----------------------------------------------------------------------- */

/* Rows of the kernel whose taps fit in registers together, beside four gradients and an input. */
#define DW_ROWS(k) ((k) == 3 ? 3 : V_REGISTERS >= 32 ? 5 : 2)

/* Output pixels of a piece: its inputs stay in the first-level cache until the next vector of
 * channels, which may lie in the same lines, comes by. */
enum { DW_PIECE = 20 };

/* Adds what `pixels` neighbours from x on give to the taps of rows r..r+rows-1. */
V_INLINE void dw_step(const dd_depthwise_dw *d, int k, int stride, int rows, int pixels, int r,
                      int64_t x, int ch, int n, vf *sum) {
    const float *gradient = d->dy + x * d->dy_pitch + ch;
    vf dy[4];
    DD_UNROLL
    for (int i = 0; i < pixels; i++, gradient += d->dy_pitch) {
        DD_OPAQUE(gradient);
        dy[i] = V_LOAD(gradient, n);
    }
    DD_UNROLL
    for (int q = 0; q < rows; q++) {
        const float *in = d->rows[r + q] + x * stride * d->pitch + ch;
        DD_UNROLL
        for (int j = 0; j < (pixels - 1) * stride + k; j++, in += d->pitch) {
            DD_OPAQUE(in);
            vf v = V_LOAD(in, n);
            V_KEEP(v);
            DD_UNROLL
            for (int s = 0; s < k; s++)
                if (j >= s && (j - s) % stride == 0 && (j - s) / stride < pixels)
                    sum[q * k + s] = v_fma(v, dy[(j - s) / stride], sum[q * k + s]);
        }
    }
}

/* The taps of rows r..r+rows-1 for one vector of channels, over a piece of the row. */
V_INLINE void dw_rows(const dd_depthwise_dw *d, int k, int stride, int rows, int r, int64_t x,
                      int64_t end, int ch, int n) {
    vf sum[25];
    DD_UNROLL
    for (int i = 0; i < rows * k; i++)
        sum[i] = v_zero();
    DD_ROLLED
    for (; x + 4 <= end; x += 4)
        dw_step(d, k, stride, rows, 4, r, x, ch, n, sum);
    DD_ROLLED
    for (; x < end; x++)
        dw_step(d, k, stride, rows, 1, r, x, ch, n, sum);
    float *dw = d->dw + r * k * d->wpitch + ch;
    DD_UNROLL
    for (int i = 0; i < rows * k; i++, dw += d->wpitch) {
        DD_OPAQUE(dw);
        V_STORE(dw, v_add(V_LOAD(dw, n), sum[i]), n);
    }
}

V_INLINE void dw_channels(const dd_depthwise_dw *d, int k, int stride, int64_t x, int64_t end,
                          int ch, int n) {
    int r = 0;
    for (; r + DW_ROWS(k) <= k; r += DW_ROWS(k))
        dw_rows(d, k, stride, DW_ROWS(k), r, x, end, ch, n);
    if (k % DW_ROWS(k) != 0)
        dw_rows(d, k, stride, k % DW_ROWS(k), r, x, end, ch, n);
}

/* Any k and stride: a tap at a time. */
static void dw_any(const dd_depthwise_dw *d, int ch, int n) {
    for (int r = 0; r < d->k; r++)
        for (int s = 0; s < d->k; s++) {
            const float *in = d->rows[r] + s * d->pitch + ch, *dy = d->dy + ch;
            float *dw = d->dw + (r * d->k + s) * d->wpitch + ch;
            vf sum = v_zero();
            for (int64_t x = 0; x < d->width; x++)
                sum = v_fma(v_load_n(in + x * d->stride * d->pitch, n),
                            v_load_n(dy + x * d->dy_pitch, n), sum);
            v_store_n(dw, v_add(v_load_n(dw, n), sum), n);
        }
}

static void add_bias_gradient(const dd_depthwise_dw *d, int ch, int n) {
    vf sum = v_zero();
    for (int64_t x = 0; x < d->width; x++)
        sum = v_add(sum, v_load_n(d->dy + x * d->dy_pitch + ch, n));
    v_store_n(d->db + ch, v_add(v_load_n(d->db + ch, n), sum), n);
}

V_INLINE void dw_row(const dd_depthwise_dw d, int k, int stride) {
    for (int64_t x = 0; x < d.width; x += DW_PIECE) {
        const int64_t end = x + DW_PIECE < d.width ? x + DW_PIECE : d.width;
        int ch = 0;
        for (; ch + VL <= d.c; ch += VL)
            dw_channels(&d, k, stride, x, end, ch, VL);
        if (ch < d.c)
            dw_channels(&d, k, stride, x, end, ch, d.c - ch);
    }
}

#define DW_ROW(k, stride)                                                                          \
    DD_RARE void dw_k##k##s##stride(const dd_depthwise_dw *d) {                                    \
        dw_row(*d, k, stride);                                                                     \
    }
DW_ROW(3, 1)
DW_ROW(3, 2)
DW_ROW(5, 1)
DW_ROW(5, 2)

void DD_NAME(depthwise_dw_f32)(const dd_depthwise_dw *d) {
    if (d->k == 3 && d->stride == 1)
        dw_k3s1(d);
    else if (d->k == 3 && d->stride == 2)
        dw_k3s2(d);
    else if (d->k == 5 && d->stride == 1)
        dw_k5s1(d);
    else if (d->k == 5 && d->stride == 2)
        dw_k5s2(d);
    else
        for (int ch = 0; ch < d->c; ch += VL)
            dw_any(d, ch, d->c - ch < VL ? d->c - ch : VL);
    if (d->db != NULL)
        for (int ch = 0; ch < d->c; ch += VL)
            add_bias_gradient(d, ch, d->c - ch < VL ? d->c - ch : VL);
}
