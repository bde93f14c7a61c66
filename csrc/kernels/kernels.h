/* Kernels: the inner loops, and the table that picks among their builds.
 *
 * A kernel works on float rows in memory that its caller made ready and knows nothing of graphs,
 * fusion, threads or padding. kernels.def is THE list; a family file (gemm.c, depthwise.c, ...) is
 * compiled once per instruction-set level, and dd_kernels() gives the table for this process.
 * The level "ref" is the scalar build: the reference of tests/c/check_kernels.
 *
 * Words: VL lanes of a vector; a pixel is `c` floats at a pitch >= c (in floats). Loads never pass
 * the last real lane of the last pixel, stores never touch a lane beyond `c`, unless said. */
#ifndef DD_KERNELS_KERNELS_H
#define DD_KERNELS_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cpu.h"

/* The elementwise functions. `a` and `b`: clip's bounds, leaky_relu's slope (a), elu's alpha (a),
 * ramp's clip(a·x + b, 0, 1), selu's alpha (a) and scale (b). hard_sigmoid is clip(x/6 + 1/2, 0,
 * 1), hard_swish x · hard_sigmoid(x), gelu the erf form, softsign x / (1 + |x|); round takes halves
 * to the even neighbour. */
typedef enum dd_unary {
    DD_IDENTITY = 0,
    DD_RELU,
    DD_CLIP,
    DD_LEAKY_RELU,
    DD_HARD_SIGMOID,
    DD_HARD_SWISH,
    DD_SIGMOID,
    DD_SILU,
    DD_MISH,
    DD_ELU,
    DD_SOFTPLUS,
    DD_TANH,
    DD_GELU,
    DD_ERF,
    DD_EXP,
    DD_LOG,
    DD_SQRT,
    DD_ABS,
    DD_NEG,
    DD_RAMP,
    DD_SELU,
    DD_SOFTSIGN,
    DD_GELU_TANH,
    DD_RECIPROCAL,
    DD_FLOOR,
    DD_CEIL,
    DD_ROUND,
    DD_SIGN,
    DD_SIN,
    DD_COS,
    DD_UNARIES,
} dd_unary;

typedef struct dd_act {
    dd_unary kind;
    float a, b;
} dd_act;

typedef enum dd_binary {
    DD_ADD = 0,
    DD_SUB,
    DD_MUL,
    DD_DIV,
    DD_MAX,
    DD_MIN,
    DD_POW,
    DD_BINARIES
} dd_binary;

/* ---- matrix products (gemm.c) -------------------------------------------------------------- */

/* C[m, n] = act(Σ_s Σ_k A_s[m, k] · B[s·k.., n] + bias[n] + residual[m, n]).
 *
 * A comes as `segments` blocks: A_s[m, k] = a[s][m·lda + k]. A 1×1 convolution has one segment; a
 * K×K one has K (a segment is K·C neighbouring floats of a padded row; lda = stride·C) or K·K
 * (a segment a tap, where pixels have pad lanes). B is packed by gemm_f32_pack; keep it and C's
 * rows on 64 bytes, vectors that cross cache lines take twice as long. The sum starts from the
 * bias, plus C's old value with `accumulate`, and goes on in the order s, k, whatever m, the tile
 * and the instruction set: position independence. Pointers stand at column 0 whatever n_begin is.
 */
typedef struct dd_gemm {
    const float *const *a;
    int64_t lda;
    int segments, k;
    const int *ks; /* or NULL: a length a segment, in k's place */
    const float *b;
    float *c;
    int64_t ldc;
    int64_t m;
    int n;
    const float *bias;     /* n floats, or NULL */
    const float *residual; /* (m, n) at pitch ldr, or NULL; may be c itself */
    int64_t ldr;
    dd_act act;
    bool act_first; /* C = act(A·B + bias) + residual; residual is not c */
    bool accumulate;
    int n_begin, n_end; /* only these columns; multiples of gemm_f32_panel(n), or n. 0, 0: all */
} dd_gemm;

/* Memory that the caller reads next. A kernel that is bound by arithmetic asks for it on the way,
 * so that it waits in the second-level cache: without that, memory and arithmetic take turns. Only
 * a hint: what lies there doesn't matter, nor whether it is memory at all. */
enum { DD_AHEAD = 6 };
typedef struct dd_ahead {
    int n;
    const char *at[DD_AHEAD];
    int64_t bytes[DD_AHEAD];
} dd_ahead;

/* C[k, n] += Σ_m A[m, k] · B[m, n]: a weight gradient. A's row m lies at a + m·lda, B's at
 * b + m·ldb, C's row k at c + k·ldc. Summed in the order of m. */
typedef struct dd_gemm_tn {
    const float *a;
    int64_t lda;
    const float *b;
    int64_t ldb;
    float *c;
    int64_t ldc;
    int64_t m;
    int k, n;
    const dd_ahead *ahead; /* or NULL */
} dd_gemm_tn;

/* ---- depthwise (depthwise.c) --------------------------------------------------------------- */

/* One output row: y[x, c] = act(Σ_r Σ_s rows[r][(x·stride + s)·pitch + c] · w[(r·k + s)·wpitch + c]
 * + bias[c]), then + residual[x, c] where given. rows[r] points at the pixel of tap s = 0 for x = 0
 * in row r (already padded with zeros at both ends). k is 3, 5 or any other; the first two are
 * tuned. y overlaps nothing that is read: some results are made twice. */
typedef struct dd_depthwise {
    const float *const *rows;
    int64_t pitch;
    int k, stride, c;
    int64_t width; /* output pixels */
    const float *w;
    int64_t wpitch;
    const float *bias; /* or NULL */
    dd_act act;
    const float *residual; /* or NULL */
    int64_t residual_pitch;
    float *y;
    int64_t y_pitch;
} dd_depthwise;

/* The backward of one row of the input (depthwise_backward.c). dx[x, c], overwritten, is the sum
 * over taps (r, s) and output pixels x' with x'·stride + s = x of dy_rows[r][x'·dy_pitch + c] ·
 * w[(r·k + s)·wpitch + c], and dw[(r·k + s)·wpitch + c] += that dy times the input's x[x, c], in
 * the order of x. dy_rows[r] is NULL where no output row meets tap r. x counts in the padded input
 * row, from `x_begin` on for `width` pixels, the first of which `x` and `dx` point at; output
 * pixels are 0..out_width-1. */
typedef struct dd_depthwise_backward {
    const float *const *dy_rows;
    int64_t dy_pitch, out_width;
    int k, stride, c;
    int64_t x_begin, width;
    const float *x;
    int64_t pitch;
    const float *w;
    int64_t wpitch;
    float *dx;
    int64_t dx_pitch;
    float *dw;
} dd_depthwise_backward;

/* ---- Winograd (winograd.c) ----------------------------------------------------------------- */

/* A row of `tiles` tiles of side × side outputs (side 2 or 4) of a 3×3 convolution of stride 1.
 * Tile t's patch of α × α inputs, α = side + 2, starts at x + t·side·pitch; its number (i, j) goes
 * to v[(i·α + j)·plane + t·v_pitch + c]. */
typedef struct dd_winograd_input {
    int side;
    const float *x;
    int64_t pitch, row_pitch; /* floats between pixels and rows, padded with zeros */
    int64_t tiles;
    int c;
    float *v;
    int64_t v_pitch, plane;
} dd_winograd_input;
/* winograd_gradient_f32: tile t's patch is one of side × side gradients of outputs at the same
 * place, from which come α × α numbers as well. */

/* Back: y = act(Aᵀ·m·A + bias + residual) from numbers (i, j) of tile t at m[(i·α + j)·plane +
 * t·m_pitch + c]. Of the tiles' pixels the first `width` columns and `rows` rows are stored. */
typedef struct dd_winograd_output {
    int side;
    const float *m;
    int64_t m_pitch, plane;
    int64_t tiles;
    int c;
    const float *bias; /* or NULL */
    dd_act act;
    const float *residual; /* or NULL; may be y */
    int64_t residual_pitch, residual_row;
    float *y;
    int64_t y_pitch, y_row; /* floats between pixels and rows */
    int64_t width;
    int rows;
} dd_winograd_output;

/* ---- batch norm (norm.c) ------------------------------------------------------------------- */

/* Over `rows` map rows of `width` pixels (a row starts row_pitch floats after the last): sum[c] +=
 * Σ (x - shift[c]), squares[c] += Σ (x - shift[c])²; float32 within a row, double across rows. */
typedef struct dd_channel_sums {
    const float *x;
    int64_t pitch, row_pitch, width, rows;
    int c;
    const float *shift;
    double *sum, *squares; /* squares may be NULL; shift may be NULL (zeros) */
} dd_channel_sums;

/* y[p, c] = act(x[p, c] · scale[c] + shift[c]) (+ residual after the activation), `pixels` pixels.
 */
typedef struct dd_affine {
    const float *x;
    int64_t pitch;
    float *y;
    int64_t y_pitch;
    int64_t pixels;
    int c;
    const float *scale, *shift; /* scale NULL: ones; shift NULL: zeros */
    dd_act act;
    const float *residual;
    int64_t residual_pitch;
    bool x_bf16; /* x is bfloat16; the pitch counts elements */
} dd_affine;

/* Batch norm's gradient with its activation. With u = x·scale + shift and d = dz · act'(u):
 * sum_d[c] += Σ d, sum_dx[c] += Σ d·(x - mean[c]); rows and precision as in dd_channel_sums. */
typedef struct dd_bn_reduce {
    const float *dz;
    int64_t dz_pitch, dz_row_pitch;
    const float *x;
    int64_t pitch, row_pitch, width, rows;
    int c;
    const float *scale, *shift, *mean;
    dd_act act;
    double *sum_d, *sum_dx;
    bool dz_bf16, x_bf16; /* as in dd_affine */
} dd_bn_reduce;

/* dx[p, c] = d·p[c] + x·q[c] + r[c] with d as in dd_bn_reduce; (p, q, r) hold the means, the
 * variance and gamma. dx may be dz where that is float. */
typedef struct dd_bn_dx {
    const float *dz;
    int64_t dz_pitch;
    const float *x;
    int64_t pitch;
    float *dx;
    int64_t dx_pitch;
    int64_t pixels;
    int c;
    const float *scale, *shift, *p, *q, *r;
    dd_act act;
    bool dz_bf16, x_bf16; /* as in dd_affine */
} dd_bn_dx;

/* ---- optimizer (optimizer.c): one pass over a flat segment --------------------------------- */

/* AdamW (Loshchilov & Hutter 2019) or SGD with Nesterov momentum, decoupled decay, and the moving
 * average of the weights: w, m, v, ema are updated in place; g is read and multiplied by g_scale
 * (clipping, accumulation). bias1 = 1 - beta1^t and bias2 = 1 - beta2^t. */
typedef struct dd_optimize {
    float *w, *m, *v, *ema; /* v unused by SGD; ema may be NULL */
    const float *g;
    int64_t n;
    float g_scale, lr, decay, beta1, beta2, eps, bias1, bias2, ema_rate;
    bool nesterov;
} dd_optimize;

/* ---- pooling and resizing (pool.c, resize.c) ----------------------------------------------- */

/* One output row of max or mean over k_h×k_w windows, k_h at most 64 for a max without indices;
 * taps outside the map are left out.
 * rows[r] is the start (pixel 0) of input row r or NULL outside. index (max only, may be NULL): the
 * winning tap's flat position y·W + x in the map, first on ties, dense (c a pixel, no pitch);
 * row_index[r]: the y of rows[r]. Every window has a tap inside the map. */
typedef struct dd_pool {
    const float *const *rows;
    const int32_t *row_index;
    int64_t pitch, in_width, width;
    int k_h, k_w, stride, pad_left, c;
    bool mean, count_pad; /* count_pad: the mean divides by k_h·k_w */
    float *y;
    int64_t y_pitch;
    int32_t *index;
} dd_pool;

/* One output row of nearest upsampling by an integer factor: y[x] = x_in[x / factor]; `add` adds
 * to y[x]'s source `base` instead of overwriting: y = base + up(x). */
typedef struct dd_upsample {
    const float *x;
    int64_t pitch, width; /* output pixels */
    int factor, c;
    float *y;
    int64_t y_pitch;
    const float *base; /* or NULL */
    int64_t base_pitch;
} dd_upsample;

/* ---- measuring (measure.c) ---------------------------------------------------------------- */

enum { DD_PEAK_FLOATS = 512 }; /* at least what any level's peak_fma_f32 works on */

/* One output row of a resize with weights: y[x] = base[x] + Σ_s weight[x·taps + s] · Σ_r
 * row_weight[r] · rows[r][at[x·taps + s]]; at most 4 rows and 4 taps. */
typedef struct dd_resize_row {
    const float *const *rows; /* pixel 0 of each */
    const float *row_weight;
    int n_rows, taps, c;
    const int32_t *at;
    const float *weight;
    int64_t pitch, width; /* output pixels */
    float *y;
    int64_t y_pitch;
    const float *base; /* or NULL */
    int64_t base_pitch;
} dd_resize_row;

/* ---- the table ----------------------------------------------------------------------------- */

typedef struct dd_kernels {
#define DD_KERNEL(name, result, arguments) result(*name) arguments;
#include "kernels/kernels.def"
#undef DD_KERNEL
} dd_kernels_table;

#define DD_KERNEL(name, result, arguments)                                                         \
    result dd_##name##__ref arguments;                                                             \
    result dd_##name##__avx2 arguments;                                                            \
    result dd_##name##__avx512 arguments;                                                          \
    result dd_##name##__neon arguments;
#include "kernels/kernels.def"
#undef DD_KERNEL

const dd_kernels_table *dd_kernels(void);          /* for dd_isa_best() */
const dd_kernels_table *dd_kernels_of(dd_isa isa); /* NULL where this build lacks the level */

#endif
