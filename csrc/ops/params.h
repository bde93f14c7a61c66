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

/* binary(a, b) -> y with NumPy's broadcasting. */
typedef struct dd_binary_params {
    int64_t kind; /* dd_binary, then comparisons */
} dd_binary_params;

/* max_pool(x), avg_pool(x). kernel empty: the whole map (global). */
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

/* reshape(x): sizes with 0 = the input's dimension at that place, -1 = the rest. */
typedef struct dd_reshape_params {
    dd_ints shape;
} dd_reshape_params;

/* dequantize(x u8 or s8) -> f32: (x - zero) · scale, one value or one a channel. A float x passes
 * through: so one graph takes pictures as bytes or as floats. */
typedef struct dd_dequantize_params {
    dd_floats scale, zero;
} dd_dequantize_params;

#endif
