/* Attributes that both an operator's file and the planner's step patterns read. */
#ifndef DD_OPS_PARAMS_H
#define DD_OPS_PARAMS_H

#include "kernels/kernels.h"
#include "ops/op.h"

/* conv(x (N,H,W,C), weight (O, C/groups, kh, kw), bias (O)?) -> (N, H', W', O). Empty lists mean
 * stride 1, pad 0, dilation 1. conv_dx(dy, weight, x's type) and conv_dw(x, dy, weight's type) ->
 * (dw, db) have the same. */
typedef struct dd_conv_params {
    dd_ints stride;   /* (y, x) */
    dd_ints pads;     /* (top, left, bottom, right) */
    dd_ints dilation; /* (y, x) */
    int64_t groups;
} dd_conv_params;

/* batch_norm(x, gamma, beta, running mean, running variance) -> y; saves (mean, 1/sqrt(var + eps)).
 * In training the running ones move by momentum (unbiased variance, as torch does); with
 * `frozen` the running ones are used in training too. bn_reduce(dz, x, gamma, beta, mean, rstd) ->
 * (dgamma, dbeta); bn_dx(dz, x, gamma, beta, mean, rstd, dgamma, dbeta) -> dx. Both have the
 * activation that stood behind the batch norm folded in when a pass put it there: dz is then the
 * gradient behind the activation. */
typedef struct dd_batch_norm_params {
    double eps, momentum;
    int64_t frozen;
    int64_t act; /* dd_unary of the activation folded into bn_reduce and bn_dx */
    double a, b;
} dd_batch_norm_params;

/* unary(x) -> y. */
typedef struct dd_unary_params {
    int64_t kind; /* dd_unary */
    double a, b;
} dd_unary_params;

/* binary(a, b) -> y with NumPy's broadcasting; comparisons give u8, 0 or 1. */
typedef struct dd_binary_params {
    int64_t kind; /* dd_binary, then dd_comparison */
} dd_binary_params;

typedef enum dd_comparison {
    DD_EQUAL = DD_BINARIES,
    DD_NOT_EQUAL,
    DD_LESS,
    DD_LESS_EQUAL,
    DD_GREATER,
    DD_GREATER_EQUAL,
    DD_COMPARISONS_END,
} dd_comparison;

/* reduce(x, like?) over `axes` (empty: all), or, with `like`, the sum over what broadcasting like
 * to x's shape repeats: the gradient of a broadcast operand. */
typedef enum dd_reduction { DD_SUM = 0, DD_MEAN, DD_MAXIMUM, DD_MINIMUM } dd_reduction;

typedef struct dd_reduce_params {
    int64_t kind; /* dd_reduction */
    dd_ints axes;
    int64_t keepdims;
} dd_reduce_params;

/* max_pool(x), avg_pool(x). kernel (y, x) empty: the whole map (global); stride (y, x) empty: the
 * kernel; pads (top, left, bottom, right). count_pad: a mean divides by its window with pads. */
typedef struct dd_pool_params {
    dd_ints kernel, stride, pads;
    int64_t count_pad, ceil_mode;
} dd_pool_params;

/* resize(x, like?) nearest or bilinear, by `scale` or to the height and width of `like`. */
typedef struct dd_resize_params {
    int64_t mode; /* 0 nearest, 1 bilinear */
    int64_t align_corners;
    dd_floats scale; /* (y, x); empty with `like` */
} dd_resize_params;

typedef struct dd_axis_params {
    int64_t axis; /* negative counts from the end */
} dd_axis_params;

/* split(x) along `axis` into `parts` equal pieces, or into pieces of `sizes`. */
typedef struct dd_split_params {
    int64_t axis, parts;
    dd_ints sizes;
} dd_split_params;

/* slice(x): Python's x[start:end:step] along each of `axes` (empty: the first ones in order);
 * empty `steps`: 1. An end beyond the map means its end. */
typedef struct dd_slice_params {
    dd_ints starts, ends, axes, steps;
} dd_slice_params;

/* pad(x): `before` and `after` positions of `value` along each axis. */
typedef struct dd_pad_params {
    dd_ints before, after;
    double value;
} dd_pad_params;

/* reshape(x): sizes with 0 = the input's dimension at that place, -1 = the rest. */
typedef struct dd_reshape_params {
    dd_ints shape;
} dd_reshape_params;

/* transpose(x): axis k of the result is axis perm[k] of x; empty: reversed. */
typedef struct dd_transpose_params {
    dd_ints perm;
} dd_transpose_params;

/* space_to_depth and depth_to_space: blocks of block × block pixels. */
typedef struct dd_block_params {
    int64_t block;
} dd_block_params;

typedef struct dd_shuffle_params {
    int64_t groups;
} dd_shuffle_params;

/* matmul(a (…, M, K), b (…, K, N), bias (N)?) -> (…, M, N); a transposed operand lies as (…, K, M)
 * or (…, N, K). The leading axes agree, or one operand has rank 2. */
typedef struct dd_matmul_params {
    int64_t transpose_a, transpose_b;
} dd_matmul_params;

/* layer_norm(x, gamma?, beta?) over the last axis; saves mean and 1/sqrt(var + eps) of each row. */
typedef struct dd_layer_norm_params {
    double eps;
} dd_layer_norm_params;

/* dropout(x): zero with probability p, else x / (1 - p), in training. */
typedef struct dd_dropout_params {
    double p;
} dd_dropout_params;

/* quantize(x f32) -> u8 or s8: clamp(rne(x / scale) + zero), one value or one a channel. */
typedef struct dd_quantize_params {
    dd_floats scale, zero;
    int64_t dtype; /* 0 u8, 1 s8 */
} dd_quantize_params;

typedef struct dd_cast_params {
    int64_t dtype; /* 0 f32, 1 u8, 2 s8, 3 s32 */
} dd_cast_params;

/* dequantize(x u8 or s8) -> f32: (x - zero) · scale, one value or one a channel. A float x passes
 * through: so one graph takes pictures as bytes or as floats. */
typedef struct dd_dequantize_params {
    dd_floats scale, zero;
} dd_dequantize_params;

#endif
