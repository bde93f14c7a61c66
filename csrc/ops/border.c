/* Between floats and integers: quantize, dequantize, cast. */
#include <math.h>
#include <string.h>

#include "ops/channels.h"
#include "ops/describe.h"
#include "ops/node.h"
#include "ops/walk.h"

static dd_status same_window(const dd_node *node, const dd_type *in, dd_range out, int input,
                             dd_range *rows) {
    (void)node;
    (void)in;
    (void)input;
    *rows = out;
    return DD_OK;
}

static void same_channels(const dd_node *node, dd_channel_ids *ids) {
    (void)node;
    dd_channels_keep(ids, 0, 0);
}

/* One scale for all channels, or one a channel; `zero` likewise, empty: 0. */
static dd_status check_scales(const char *who, const dd_floats *scale, const dd_floats *zero,
                              const dd_type *x) {
    int64_t c = dd_type_last(x);
    if (scale->n != 1 && scale->n != c)
        return dd_fail(DD_EVALUE, "%s: scale has %d items, 1 or %d are needed", who, (int)scale->n,
                       (int)c);
    if (zero->n > 1 && zero->n != c)
        return dd_fail(DD_EVALUE, "%s: zero has %d items, 0, 1 or %d are needed", who, (int)zero->n,
                       (int)c);
    for (int64_t i = 0; i < scale->n; i++)
        if (!(scale->v[i] > 0) || isinf(scale->v[i]))
            return dd_fail(DD_EVALUE, "%s: scale is %g, a number above 0 is needed", who,
                           scale->v[i]);
    for (int64_t i = 0; i < zero->n; i++)
        if (!isfinite(zero->v[i]))
            return dd_fail(DD_EVALUE, "%s: zero is %g, a number is needed", who, zero->v[i]);
    return DD_OK;
}

/* Rounded to float32 once, as the kernels hold it. */
static float of_channel(const dd_floats *list, int64_t c, float otherwise) {
    return list->n == 0 ? otherwise : (float)list->v[list->n == 1 ? 0 : c];
}

/* ---- quantize ------------------------------------------------------------------------------ */

static const char *const quantize_names[] = {"u8", "s8", NULL};

static const dd_field quantize_fields[] = {
    DD_FLOATS(dd_quantize_params, scale),
    DD_FLOATS(dd_quantize_params, zero),
    DD_ENUM(dd_quantize_params, dtype, 0, quantize_names),
    DD_END,
};

/* A zero point is a code: whole and in range, so that 0.0 has an exact code. */
static dd_status quantize_infer(const dd_node *node, const dd_type *in, dd_type *out, int *n_out) {
    const dd_quantize_params *p = node->params;
    double low = p->dtype ? -128 : 0;
    DD_TRY(dd_need_f32("quantize", "x", &in[0]));
    DD_TRY(check_scales("quantize", &p->scale, &p->zero, &in[0]));
    for (int64_t i = 0; i < p->zero.n; i++)
        if (p->zero.v[i] != floor(p->zero.v[i]) || p->zero.v[i] < low || p->zero.v[i] > low + 255)
            return dd_fail(DD_EVALUE, "quantize: zero is %g, a whole number of %s is needed",
                           p->zero.v[i], quantize_names[p->dtype]);
    out[0] = in[0];
    out[0].dtype = p->dtype ? DD_S8 : DD_U8;
    *n_out = 1;
    return DD_OK;
}

/* clamp(rne(x / scale) + zero); a NaN becomes zero's place, so that no undefined conversion is
 * met. The quotient is float32, as in ONNX. */
static dd_status quantize_forward(const dd_op_args *a) {
    const dd_array *x = &a->in[0], *y = &a->out[0];
    const dd_quantize_params *p = a->params;
    float low = p->dtype ? -128.0f : 0.0f, high = low + 255.0f;
    int64_t rows = dd_type_rows(&x->type), last = dd_type_last(&x->type);
    for (int64_t row = 0; row < rows; row++) {
        const float *from = dd_row_f32(x, row);
        char *to = dd_row_any(y, row);
        for (int64_t c = 0; c < last; c++) {
            float zero = of_channel(&p->zero, c, 0);
            float q = rintf(from[c] / of_channel(&p->scale, c, 1)) + zero;
            q = isnan(q) ? zero : q < low ? low : q > high ? high : q;
            if (p->dtype)
                ((int8_t *)to)[c] = (int8_t)q;
            else
                ((uint8_t *)to)[c] = (uint8_t)q;
        }
    }
    return DD_OK;
}

static int quantize_sample(int i, void *params, dd_type *in, int *n_in) {
    static const struct {
        dd_quantize_params p;
        int n;
        dd_type in[1];
    } cases[] = {
        {{.scale = FLOATS(0.01), .zero = FLOATS(128)}, 1, {F32(2, 3, 4, 5)}},
        {{.scale = FLOATS(0.02, 0.5, 0.125), .zero = FLOATS(-3, 0, 7), .dtype = 1},
         1,
         {F32(2, 2, 5, 3)}},
        {{.scale = FLOATS(0.25)}, 1, {F32(17)}},
    };
    SAMPLES(cases, i, params, in, n_in);
}

/* ---- dequantize ---------------------------------------------------------------------------- */

static const dd_field dequantize_fields[] = {
    DD_FLOATS(dd_dequantize_params, scale),
    DD_FLOATS(dd_dequantize_params, zero),
    DD_END,
};

/* `zero` may be any number here: a picture's mean is one. */
static dd_status dequantize_infer(const dd_node *node, const dd_type *in, dd_type *out,
                                  int *n_out) {
    const dd_dequantize_params *p = node->params;
    if (in[0].rank < 0)
        return dd_fail(DD_EVALUE, "dequantize: x is missing");
    if (in[0].dtype != DD_U8 && in[0].dtype != DD_S8 && in[0].dtype != DD_F32)
        return dd_fail(DD_ETYPE, "dequantize: x is %s, u8, s8 or f32 is needed",
                       dd_dtype_name(in[0].dtype));
    DD_TRY(check_scales("dequantize", &p->scale, &p->zero, &in[0]));
    out[0] = in[0];
    out[0].dtype = DD_F32;
    *n_out = 1;
    return DD_OK;
}

/* In float32, in this order: the plan's load stage does the same. */
static dd_status dequantize_forward(const dd_op_args *a) {
    const dd_array *x = &a->in[0], *y = &a->out[0];
    const dd_dequantize_params *p = a->params;
    int64_t rows = dd_type_rows(&x->type), last = dd_type_last(&x->type);
    if (x->type.dtype == DD_F32) {
        dd_copy(x, y);
        return DD_OK;
    }
    for (int64_t row = 0; row < rows; row++) {
        const char *from = dd_row_any(x, row);
        float *to = dd_row_f32(y, row);
        for (int64_t c = 0; c < last; c++) {
            float q = x->type.dtype == DD_S8 ? (float)((const int8_t *)from)[c]
                                             : (float)((const uint8_t *)from)[c];
            to[c] = (q - of_channel(&p->zero, c, 0)) * of_channel(&p->scale, c, 1);
        }
    }
    return DD_OK;
}

/* Floats pass through, so does their gradient; integers have none. */
static dd_status dequantize_backward(const dd_op_args *a) {
    if (a->din[0].data && a->din[0].type.dtype == DD_F32)
        dd_copy(&a->dout[0], &a->din[0]);
    return DD_OK;
}

static int dequantize_sample(int i, void *params, dd_type *in, int *n_in) {
    static const struct {
        dd_dequantize_params p;
        int n;
        dd_type in[1];
    } cases[] = {
        {{.scale = FLOATS(0.00392156862745098)}, 1, {U8(2, 3, 4, 3)}},
        {{.scale = FLOATS(0.02, 0.5, 0.125), .zero = FLOATS(123.7, 116.3, 103.5)},
         1,
         {U8(1, 2, 5, 3)}},
        {{.scale = FLOATS(0.1), .zero = FLOATS(-3)}, 1, {S8(13)}},
        {{.scale = FLOATS(0.5)}, 1, {F32(2, 3, 2, 3)}},
    };
    SAMPLES(cases, i, params, in, n_in);
}

/* ---- cast ---------------------------------------------------------------------------------- */

static const char *const cast_names[] = {"f32", "u8", "s8", "s32", NULL};
static const dd_dtype cast_dtypes[] = {DD_F32, DD_U8, DD_S8, DD_S32};

static const dd_field cast_fields[] = {DD_ENUM(dd_cast_params, dtype, 0, cast_names), DD_END};

/* Half floats have no kernels yet. */
static dd_status cast_infer(const dd_node *node, const dd_type *in, dd_type *out, int *n_out) {
    if (in[0].rank < 0)
        return dd_fail(DD_EVALUE, "cast: x is missing");
    if (in[0].dtype == DD_F16 || in[0].dtype == DD_BF16)
        return dd_fail(DD_ETYPE, "cast: x is %s, f32, u8, s8 or s32 is needed",
                       dd_dtype_name(in[0].dtype));
    out[0] = in[0];
    out[0].dtype = cast_dtypes[((const dd_cast_params *)node->params)->dtype];
    *n_out = 1;
    return DD_OK;
}

/* Every value of the four types is exact in a double. */
static double load(const char *row, dd_dtype dtype, int64_t i) {
    switch (dtype) {
    case DD_U8:
        return (double)((const uint8_t *)row)[i];
    case DD_S8:
        return (double)((const int8_t *)row)[i];
    case DD_S32:
        return (double)((const int32_t *)(const void *)row)[i];
    default:
        return (double)((const float *)(const void *)row)[i];
    }
}

/* Truncates toward zero and saturates; a NaN is 0. */
static int64_t whole(double v, double low, double high) {
    return isnan(v) ? 0 : (int64_t)(v < low ? low : v > high ? high : v);
}

static void store(char *row, dd_dtype dtype, int64_t i, double v) {
    switch (dtype) {
    case DD_U8:
        ((uint8_t *)row)[i] = (uint8_t)whole(v, 0, 255);
        break;
    case DD_S8:
        ((int8_t *)row)[i] = (int8_t)whole(v, -128, 127);
        break;
    case DD_S32:
        ((int32_t *)(void *)row)[i] = (int32_t)whole(v, INT32_MIN, INT32_MAX);
        break;
    default:
        ((float *)(void *)row)[i] = (float)v;
    }
}

static dd_status cast_forward(const dd_op_args *a) {
    const dd_array *x = &a->in[0], *y = &a->out[0];
    int64_t rows = dd_type_rows(&x->type), last = dd_type_last(&x->type);
    for (int64_t row = 0; row < rows; row++)
        for (int64_t i = 0; i < last; i++)
            store(dd_row_any(y, row), y->type.dtype, i, load(dd_row_any(x, row), x->type.dtype, i));
    return DD_OK;
}

static int cast_sample(int i, void *params, dd_type *in, int *n_in) {
    static const struct {
        dd_cast_params p;
        int n;
        dd_type in[1];
    } cases[] = {
        {{0}, 1, {U8(2, 3, 5)}}, {{1}, 1, {F32(2, 3, 5)}}, {{2}, 1, {S32(11)}},
        {{3}, 1, {F32(4, 3)}},   {{0}, 1, {S8(3, 2)}},
    };
    SAMPLES(cases, i, params, in, n_in);
}

const dd_op dd_op_quantize = {
    .name = "quantize",
    .doc = "x (f32) to u8 or s8: clamp(round-to-even(x / scale) + zero), by one value or one a "
           "channel. No gradient.",
    .version = 1,
    .min_in = 1,
    .max_in = 1,
    .params_size = sizeof(dd_quantize_params),
    .fields = quantize_fields,
    .flags = DD_OP_NO_GRAD,
    .infer = quantize_infer,
    .forward = quantize_forward,
    .window = same_window,
    .channels = same_channels,
    .sample = quantize_sample,
};

const dd_op dd_op_dequantize = {
    .name = "dequantize",
    .doc = "x (u8 or s8) to f32: (x - zero) · scale, by one value or one a channel. A float x "
           "passes through unchanged.",
    .version = 1,
    .min_in = 1,
    .max_in = 1,
    .params_size = sizeof(dd_dequantize_params),
    .fields = dequantize_fields,
    .infer = dequantize_infer,
    .forward = dequantize_forward,
    .backward = dequantize_backward,
    .window = same_window,
    .channels = same_channels,
    .sample = dequantize_sample,
};

const dd_op dd_op_cast = {
    .name = "cast",
    .doc = "x as f32, u8, s8 or s32; to integers it truncates toward zero and saturates. No "
           "gradient.",
    .version = 1,
    .min_in = 1,
    .max_in = 1,
    .params_size = sizeof(dd_cast_params),
    .fields = cast_fields,
    .flags = DD_OP_NO_GRAD,
    .infer = cast_infer,
    .forward = cast_forward,
    .window = same_window,
    .channels = same_channels,
    .sample = cast_sample,
};
