/* Depthwise convolution forward, one row at a time; the backward is depthwise_backward.c.
 *
 * Letters: k the kernel's side, r and s a tap's row and column, x an output pixel, j an input pixel
 * of the block, ch the first channel of a vector, n its lanes (VL, or fewer in the last one).
 *
 * The row is cut into blocks of neighbouring pixels, and a block's results for one vector of
 * channels are held in registers: every pixel read serves all taps that it meets, and a block's
 * pixels stay in the first-level cache while the channels go by. A result is summed in the order
 * (r, s), whatever its block: the cut never shows in the bits. */
#include "kernels/activation.h"

enum { BLOCK = 20 }; /* pixels of the largest block */

/* ---- forward ------------------------------------------------------------------------------- */

/* The functions that end a block in registers. The others (exponentials) would swell every block:
 * depthwise_f32 sends the finished pixels through unary_rows_f32. */
static bool act_is_inline(dd_unary kind) {
    return kind == DD_IDENTITY || kind == DD_RELU || kind == DD_HARD_SWISH || kind == DD_CLIP ||
           kind == DD_LEAKY_RELU;
}

V_INLINE void map_block(const dd_unary kind, dd_act act, vf *sum, int pixels) {
    DD_UNROLL
    for (int i = 0; i < pixels; i++)
        sum[i] = act_apply(act_of_kind(kind, act), sum[i]);
}

V_INLINE void activate_block(dd_act act, vf *sum, int pixels) {
    switch (act.kind) {
    case DD_RELU:
        map_block(DD_RELU, act, sum, pixels);
        break;
    case DD_HARD_SWISH:
        map_block(DD_HARD_SWISH, act, sum, pixels);
        break;
    case DD_CLIP:
        map_block(DD_CLIP, act, sum, pixels);
        break;
    case DD_LEAKY_RELU:
        map_block(DD_LEAKY_RELU, act, sum, pixels);
        break;
    default:
        break;
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

/* `blocks` neighbouring blocks from x on; k, stride and pixels are constants. The arguments come as
 * a copy: the compiler then knows that stores leave them be. */
V_INLINE void forward_blocks(const dd_depthwise d, int k, int stride, int pixels, int64_t x,
                             int64_t blocks) {
    for (; blocks > 0; blocks--, x += pixels) {
        int ch = 0;
        for (; ch + VL <= d.c; ch += VL)
            forward_block(&d, k, stride, pixels, x, ch, VL);
        if (ch < d.c)
            forward_block(&d, k, stride, pixels, x, ch, d.c - ch);
    }
}

/* Block sizes, largest first: sums, a row of weights and an input must fit into the registers, and
 * with less than eight sums the units wait for each other. With stride 2 a block meets twice the
 * pixels, so that smaller ones are better. A function each: in one for all, the compiler runs out
 * of general registers and keeps addresses in vector ones. */
#if V_REGISTERS >= 32
#define SIZES_K3S1(X) X(3, 1, 20) X(3, 1, 16) X(3, 1, 13) X(3, 1, 10) SMALL_SIZES(X, 3, 1)
#define SIZES_K5S1(X) X(5, 1, 20) X(5, 1, 16) X(5, 1, 13) X(5, 1, 10) SMALL_SIZES(X, 5, 1)
#define SIZES_K3S2(X) X(3, 2, 13) X(3, 2, 10) SMALL_SIZES(X, 3, 2)
#define SIZES_K5S2(X) X(5, 2, 13) X(5, 2, 10) SMALL_SIZES(X, 5, 2)
#elif VL > 1
#define SIZES_K3S1(X) X(3, 1, 12) X(3, 1, 10) SMALL_SIZES(X, 3, 1)
#define SIZES_K5S1(X) X(5, 1, 10) SMALL_SIZES(X, 5, 1)
#define SIZES_K3S2(X) X(3, 2, 10) SMALL_SIZES(X, 3, 2)
#define SIZES_K5S2(X) X(5, 2, 10) SMALL_SIZES(X, 5, 2)
#else
#define SIZES_K3S1(X) SMALL_SIZES(X, 3, 1)
#define SIZES_K5S1(X) SMALL_SIZES(X, 5, 1)
#define SIZES_K3S2(X) SMALL_SIZES(X, 3, 2)
#define SIZES_K5S2(X) SMALL_SIZES(X, 5, 2)
#endif
#define SMALL_SIZES(X, k, stride) X(k, stride, 8) X(k, stride, 5) X(k, stride, 3) X(k, stride, 1)

typedef struct block_function {
    int pixels;
    void (*run)(const dd_depthwise *d, int64_t x, int64_t blocks);
} block_function;

#define BLOCK_FUNCTION(k, stride, pixels)                                                          \
    DD_RARE void forward_k##k##s##stride##x##pixels(const dd_depthwise *d, int64_t x,              \
                                                    int64_t blocks) {                              \
        forward_blocks(*d, k, stride, pixels, x, blocks);                                          \
    }
#define BLOCK_SLOT(k, stride, pixels) {pixels, forward_k##k##s##stride##x##pixels},
SIZES_K3S1(BLOCK_FUNCTION)
SIZES_K3S2(BLOCK_FUNCTION)
SIZES_K5S1(BLOCK_FUNCTION)
SIZES_K5S2(BLOCK_FUNCTION)
static const block_function forward_k3s1[] = {SIZES_K3S1(BLOCK_SLOT)};
static const block_function forward_k3s2[] = {SIZES_K3S2(BLOCK_SLOT)};
static const block_function forward_k5s1[] = {SIZES_K5S1(BLOCK_SLOT)};
static const block_function forward_k5s2[] = {SIZES_K5S2(BLOCK_SLOT)};

/* The smallest block that covers `pixels`; `f` does. */
static const block_function *smallest_block(const block_function *f, int64_t pixels) {
    while (f->pixels > 1 && f[1].pixels >= pixels)
        f++;
    return f;
}

/* A row is cut into blocks of one size; what is left over gets the smallest block that covers it,
 * moved back until it ends with the row: some results are made twice. Of the sizes the one that
 * computes least is taken, a block's own cost counted as BLOCK_COST pixels. Pixels whole multiples
 * of 512 bytes apart fall on eight sets of a first-level cache of 48 KB, too few for large blocks.
 */
enum { BLOCK_COST = 3 };
static void forward_row(const dd_depthwise *d, const block_function *f) {
    const int most = d->pitch % 128 == 0 ? 8 : BLOCK;
    const block_function *best = NULL, *rest = NULL;
    int64_t least = 0;
    for (;; f++) {
        if (f->pixels <= d->width && f->pixels <= most) {
            const int64_t left = d->width % f->pixels;
            const block_function *tail = left ? smallest_block(f, left) : NULL;
            const int64_t cost = d->width / f->pixels * (f->pixels + BLOCK_COST) +
                                 (tail ? tail->pixels + BLOCK_COST : 0);
            if (!best || cost < least) {
                best = f;
                rest = tail;
                least = cost;
            }
        }
        if (f->pixels == 1)
            break;
    }
    best->run(d, 0, d->width / best->pixels);
    if (rest)
        rest->run(d, d->width - rest->pixels, 1);
}

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

static void forward(const dd_depthwise *d) {
    if (d->width <= 0)
        return;
    if (d->k == 3 && d->stride == 1)
        forward_row(d, forward_k3s1);
    else if (d->k == 3 && d->stride == 2)
        forward_row(d, forward_k3s2);
    else if (d->k == 5 && d->stride == 1)
        forward_row(d, forward_k5s1);
    else if (d->k == 5 && d->stride == 2)
        forward_row(d, forward_k5s2);
    else
        forward_any(d);
}

void DD_NAME(depthwise_f32)(const dd_depthwise *d) {
    if (act_is_inline(d->act.kind)) {
        forward(d);
        return;
    }
    dd_depthwise sums = *d;
    sums.act.kind = DD_IDENTITY;
    sums.residual = NULL;
    forward(&sums);
    DD_NAME(unary_rows_f32)(d->act, d->y, d->y_pitch, d->width, d->c);
    for (int64_t x = 0; d->residual && x < d->width; x++)
        for (int ch = 0; ch < d->c; ch += VL) {
            const int n = d->c - ch < VL ? d->c - ch : VL;
            float *y = d->y + x * d->y_pitch + ch;
            v_store_n(
                y, v_add(v_load_n(y, n), v_load_n(d->residual + x * d->residual_pitch + ch, n)), n);
        }
}
