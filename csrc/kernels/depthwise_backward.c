/* The backward of a depthwise convolution, one row of its input at a time: the gradient of the
 * input and the row's share of the gradient of the weights in one pass, since both multiply the
 * same pixels of dy: every vector of dy that is loaded serves two products a tap.
 *
 * Letters: k the kernel's side, r and s a tap's row and column, x a pixel of the padded input row,
 * t a pixel of dy, ch the first channel of a vector, n its lanes (VL, or fewer in the last one).
 *
 * The row is cut into blocks of neighbouring pixels. A block holds its pixels of dx and of the
 * input in registers, and a row of taps of the weights' gradient on the way through; the block's
 * pixels stay in the first-level cache while the channels go by. dx is summed in the order of
 * (r, s descending), a tap of dw in the order of x, whatever the block: the cut never shows in the
 * bits. */
#include "kernels/activation.h"

/* Pixels of the largest block: with them live as many of the input and a row of taps. */
#if V_REGISTERS >= 32
enum { BLOCK = 8 };
#else
enum { BLOCK = 4 };
#endif

/* `pixels` neighbours from x on, where x is a multiple of stride and k, stride and pixels are
 * constants: pixel x/stride + j of dy meets pixels j·stride + s. Pixels of dy are checked one by
 * one: a compare for 2·k multiply-adds, and most blocks of a small map touch an edge. */
V_INLINE void back_block(const dd_depthwise_backward *d, int k, int stride, int pixels, int64_t x,
                         int ch, int n) {
    const int before = (k - 1) / stride, last = (pixels - 1) / stride;
    const int64_t first = x / stride - before;
    const float *in = d->x + (x - d->x_begin) * d->pitch + ch;
    vf a[BLOCK], sum[BLOCK];
    DD_UNROLL
    for (int i = 0; i < pixels; i++, in += d->pitch) {
        DD_OPAQUE(in);
        a[i] = V_LOAD(in, n);
        sum[i] = v_zero();
    }
    DD_ROLLED
    for (int r = 0; r < k; r++) {
        if (d->dy_rows[r] == NULL)
            continue;
        const float *w = d->w + r * k * d->wpitch + ch;
        float *dw = d->dw + r * k * d->wpitch + ch;
        vf tap[5], part[5];
        DD_UNROLL
        for (int s = 0; s < k; s++, w += d->wpitch, dw += d->wpitch) {
            DD_OPAQUE(w);
            DD_OPAQUE(dw);
            tap[s] = V_LOAD(w, n);
            part[s] = V_LOAD(dw, n);
        }
        const float *row = d->dy_rows[r] + ch;
        int64_t at = first * d->dy_pitch;
        DD_UNROLL
        for (int t = 0; t <= before + last; t++, at += d->dy_pitch) {
            DD_OPAQUE(at);
            if ((uint64_t)(first + t) >= (uint64_t)d->out_width)
                continue;
            const int j = (t - before) * stride;
            vf v = V_LOAD(row + at, n);
            V_KEEP(v);
            DD_UNROLL
            for (int s = 0; s < k; s++)
                if (j + s >= 0 && j + s < pixels) {
                    sum[j + s] = v_fma(v, tap[s], sum[j + s]);
                    part[s] = v_fma(v, a[j + s], part[s]);
                }
        }
        DD_UNROLL
        for (int s = k - 1; s >= 0; s--) {
            dw -= d->wpitch;
            DD_OPAQUE(dw);
            V_STORE(dw, part[s], n);
        }
    }
    float *dx = d->dx + (x - d->x_begin) * d->dx_pitch + ch;
    DD_UNROLL
    for (int i = 0; i < pixels; i++, dx += d->dx_pitch) {
        DD_OPAQUE(dx);
        V_STORE(dx, sum[i], n);
    }
}

/* All blocks of a size, from x on. The arguments come as a copy: the compiler then knows that
 * stores leave them be. */
V_INLINE int64_t back_blocks(const dd_depthwise_backward d, int k, int stride, int pixels,
                             int64_t x) {
    for (; x + pixels <= d.x_begin + d.width; x += pixels) {
        int ch = 0;
        for (; ch + VL <= d.c; ch += VL)
            back_block(&d, k, stride, pixels, x, ch, VL);
        if (ch < d.c)
            back_block(&d, k, stride, pixels, x, ch, d.c - ch);
    }
    return x;
}

/* Any k and stride, one pixel. */
static void back_pixel(const dd_depthwise_backward *d, int64_t x) {
    for (int ch = 0; ch < d->c; ch += VL) {
        const int n = d->c - ch < VL ? d->c - ch : VL;
        const vf a = v_load_n(d->x + (x - d->x_begin) * d->pitch + ch, n);
        vf sum = v_zero();
        for (int r = 0; r < d->k; r++) {
            if (d->dy_rows[r] == NULL)
                continue;
            for (int s = d->k - 1; s >= 0; s--) {
                const int64_t at = x - s;
                if (at < 0 || at % d->stride != 0 || at / d->stride >= d->out_width)
                    continue;
                vf v = v_load_n(d->dy_rows[r] + at / d->stride * d->dy_pitch + ch, n);
                float *dw = d->dw + (r * d->k + s) * d->wpitch + ch;
                sum = v_fma(v, v_load_n(d->w + (r * d->k + s) * d->wpitch + ch, n), sum);
                v_store_n(dw, v_fma(v, a, v_load_n(dw, n)), n);
            }
        }
        v_store_n(d->dx + (x - d->x_begin) * d->dx_pitch + ch, sum, n);
    }
}

/* Each tuned (k, stride) has a function a block size: in one function for all, the compiler runs
 * out of general registers and keeps addresses in vector ones. */
#define BACK_BLOCKS(k, stride, pixels)                                                             \
    DD_RARE int64_t back_k##k##s##stride##x##pixels(const dd_depthwise_backward *d, int64_t x) {   \
        return back_blocks(*d, k, stride, pixels, x);                                              \
    }
#if V_REGISTERS >= 32
#define BACK_LARGEST(k, stride) BACK_BLOCKS(k, stride, 8)
#define BACK_LARGE(k, stride, d, x) back_k##k##s##stride##x8(d, x)
#else
#define BACK_LARGEST(k, stride)
#define BACK_LARGE(k, stride, d, x) x
#endif
#define BACK_ROW(k, stride)                                                                        \
    BACK_LARGEST(k, stride)                                                                        \
    BACK_BLOCKS(k, stride, 4)                                                                      \
    BACK_BLOCKS(k, stride, 2)                                                                      \
    static void back_k##k##s##stride(const dd_depthwise_backward *d) {                             \
        const int64_t end = d->x_begin + d->width;                                                 \
        int64_t x = d->x_begin;                                                                    \
        for (; x < end && x % stride != 0; x++)                                                    \
            back_pixel(d, x);                                                                      \
        x = BACK_LARGE(k, stride, d, x);                                                           \
        x = back_k##k##s##stride##x4(d, x);                                                        \
        x = back_k##k##s##stride##x2(d, x);                                                        \
        for (; x < end; x++)                                                                       \
            back_pixel(d, x);                                                                      \
    }
BACK_ROW(3, 1)
BACK_ROW(3, 2)
BACK_ROW(5, 1)
BACK_ROW(5, 2)

void DD_NAME(depthwise_backward_f32)(const dd_depthwise_backward *d) {
    if (d->k == 3 && d->stride == 1)
        back_k3s1(d);
    else if (d->k == 3 && d->stride == 2)
        back_k3s2(d);
    else if (d->k == 5 && d->stride == 1)
        back_k5s1(d);
    else if (d->k == 5 && d->stride == 2)
        back_k5s2(d);
    else
        for (int64_t x = 0; x < d->width; x++)
            back_pixel(d, d->x_begin + x);
}
