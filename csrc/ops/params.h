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

/* conv_transpose(x (N,H,W,C), weight (C, O/groups, kh, kw), bias (O)?) -> (N, H', W', O), H' = (H -
 * 1) · stride - pads + dilation · (kh - 1) + 1 + output_pad: the gradient of x of a conv from O to
 * C channels. output_pad adds rows at the end, fewer than the stride. */
typedef struct dd_conv_transpose_params {
    dd_ints stride;     /* (y, x) */
    dd_ints pads;       /* (top, left, bottom, right) */
    dd_ints dilation;   /* (y, x) */
    dd_ints output_pad; /* (y, x) */
    int64_t groups;
} dd_conv_transpose_params;

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

/* binary(a, b) -> y with NumPy's broadcasting; comparisons and logic give u8, 0 or 1. */
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
    DD_AND,
    DD_OR,
    DD_XOR,
    DD_COMPARISONS_END,
} dd_comparison;

/* reduce(x, like?) over `axes` (empty: all), or, with `like`, the sum over what broadcasting like
 * to x's shape repeats: the gradient of a broadcast operand. */
typedef enum dd_reduction {
    DD_SUM = 0,
    DD_MEAN,
    DD_MAXIMUM,
    DD_MINIMUM,
    DD_PRODUCT,
    DD_NORM1,       /* Σ |x| */
    DD_NORM2,       /* √Σ x² */
    DD_SUM_SQUARES, /* Σ x² */
    DD_LOG_SUM_EXP, /* log Σ e^x */
} dd_reduction;

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
    dd_ints dilation; /* (y, x); empty: 1 */
} dd_pool_params;

/* resize(x, like?) nearest, bilinear or cubic, by `scale`, to `size`, or to the height and width of
 * `like`. `coordinates` says which place of the input an output pixel looks at; rounding serves
 * nearest, cubic_a and exclude_outside the cubic. */
typedef enum dd_coordinates {
    DD_COORD_AUTO = 0, /* nearest: asymmetric; else half_pixel, or the corners with align_corners */
    DD_COORD_HALF_PIXEL, /* (o + ½) / scale - ½ */
    DD_COORD_PYTORCH,    /* likewise, but 0 where the output has one pixel */
    DD_COORD_ASYMMETRIC, /* o / scale */
    DD_COORD_CORNERS,    /* o · (in - 1) / (out - 1) */
    DD_COORD_SYMMETRIC,  /* half_pixel about the map's centre, whatever was rounded off the size */
} dd_coordinates;

typedef struct dd_resize_params {
    int64_t mode; /* 0 nearest, 1 bilinear, 2 cubic */
    int64_t align_corners;
    dd_floats scale;     /* (y, x); empty with `like` or `size` */
    dd_ints size;        /* (y, x); empty with `like` or `scale` */
    int64_t coordinates; /* dd_coordinates */
    int64_t rounding;    /* 0 floor, 1 ceil, 2 half down, 3 half up */
    double cubic_a;
    int64_t exclude_outside; /* weights of taps outside the map are 0, the others sum to 1 */
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

/* pad(x): `before` and `after` positions along each axis, of `value`, or by `mode` of x's own: 1
 * the edge's, 2 mirrored without the edge, 3 from the other end. */
typedef struct dd_pad_params {
    dd_ints before, after;
    double value;
    int64_t mode; /* 0 constant, 1 edge, 2 reflect, 3 wrap */
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
 * or (…, N, K). The leading axes broadcast. */
typedef struct dd_matmul_params {
    int64_t transpose_a, transpose_b;
} dd_matmul_params;

/* group_norm(x (N, …, C), gamma (C)?, beta (C)?) over all axes but the first, by groups of
 * channels; saves mean and 1/sqrt(var + eps), (N, groups). groups 0: a group a channel (instance
 * norm). */
typedef struct dd_group_norm_params {
    int64_t groups;
    double eps;
} dd_group_norm_params;

/* gather(x, indices) along `axis`: dd_axis_params. arg_max(x): the place of the extreme. */
typedef struct dd_arg_max_params {
    int64_t axis;
    int64_t minimum;  /* the smallest instead */
    int64_t keepdims; /* the axis stays, with size 1 */
    int64_t last;     /* of equal ones the last; else the first */
} dd_arg_max_params;

/* top_k(x) -> (values, indices): the k first along `axis`, in order. */
typedef struct dd_top_k_params {
    int64_t k, axis;
    int64_t smallest; /* the smallest instead */
} dd_top_k_params;

/* suppress(boxes (N, A, 4), scores (N, A, C)): NMS by image and class. */
typedef struct dd_suppress_params {
    double iou, conf; /* overlap beyond which a weaker box goes; scores must be above */
    int64_t max_det;  /* of an image's class */
    int64_t centre;   /* boxes are centre x, centre y, width, height instead of two corners */
} dd_suppress_params;

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
