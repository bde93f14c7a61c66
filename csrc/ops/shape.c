/* Reshape, transpose and expand: the same elements under another shape. Any dtype; gradients are
 * float32. */
#include <inttypes.h>
#include <string.h>

#include "ops/channels.h"
#include "ops/describe.h"
#include "ops/node.h"
#include "ops/walk.h"

/* ---- reshape ------------------------------------------------------------------------------- */

static const dd_field reshape_fields[] = {DD_INTS(dd_reshape_params, shape), DD_END};

/* 0 and -1 keep a graph free of sizes: (0, -1, classes) holds for every batch and image. */
static dd_status reshape_infer(const dd_node *node, const dd_type *in, dd_type *out, int *n_out) {
    const dd_ints *shape = &((const dd_reshape_params *)node->params)->shape;
    char text[192];
    int rest = -1;
    int64_t known = 1, count;
    dd_type y = {.dtype = in[0].dtype, .rank = (int)shape->n};
    if (in[0].rank < 0)
        return dd_fail(DD_EVALUE, "reshape: x is missing");
    if (shape->n > DD_MAX_RANK)
        return dd_fail(DD_EVALUE, "reshape: shape has %" PRId64 " items, at most %d are possible",
                       shape->n, DD_MAX_RANK);
    count = dd_type_count(&in[0]);
    for (int k = 0; k < y.rank; k++) {
        int64_t size = shape->v[k];
        if (size < -1 || (size == 0 && k >= in[0].rank) || (size == -1 && rest >= 0))
            return dd_fail(DD_EVALUE,
                           "reshape: shape[%d] is %" PRId64
                           ": a size, 0 (x's own) or one -1 (the rest) is needed",
                           k, size);
        y.dims[k] = size == 0 ? in[0].dims[k] : size;
        if (size == -1)
            rest = k;
        else if (y.dims[k] > 0 && known > ((int64_t)1 << 40) / y.dims[k])
            return dd_fail(DD_EVALUE, "reshape: shape is larger than 2^40 elements");
        else
            known *= y.dims[k];
    }
    bool fits = rest < 0 ? known == count : known > 0 && count % known == 0;
    if (!fits)
        return dd_fail(
            DD_EVALUE, "reshape: x is %s, which does not fill a shape of %" PRId64 " elements%s",
            dd_type_text(&in[0], text, sizeof text), known, rest < 0 ? "" : " and a free axis");
    if (rest >= 0)
        y.dims[rest] = count / known;
    out[0] = y;
    *n_out = 1;
    return DD_OK;
}

/* A plan gives both the same bytes where it can; dd_copy() then does nothing. */
static dd_status reshape_forward(const dd_op_args *a) {
    dd_copy(&a->in[0], &a->out[0]);
    return DD_OK;
}

static dd_status reshape_backward(const dd_op_args *a) {
    if (a->din[0].data)
        dd_copy(&a->dout[0], &a->din[0]);
    return DD_OK;
}

static int reshape_sample(int i, void *params, dd_type *in, int *n_in) {
    static const struct {
        dd_reshape_params p;
        int n;
        dd_type in[1];
    } cases[] = {
        {{INTS(0, -1, 6)}, 1, {F32(2, 3, 4, 12)}}, {{INTS(-1)}, 1, {F32(2, 3, 5)}},
        {{INTS(0, 0, 3, 3)}, 1, {F32(2, 5, 9)}},   {{INTS(4, 3)}, 1, {F32(2, 2, 3)}},
        {{INTS(1, 1, 7, 1, 1)}, 1, {F32(7)}},
    };
    SAMPLES(cases, i, params, in, n_in);
}

/* ---- transpose ----------------------------------------------------------------------------- */

static const dd_field transpose_fields[] = {DD_INTS(dd_transpose_params, perm), DD_END};

/* x's axis that becomes axis k. */
static int source_axis(const dd_ints *perm, int rank, int k) {
    return perm->n ? (int)(perm->v[k] < 0 ? perm->v[k] + rank : perm->v[k]) : rank - 1 - k;
}

/* A permutation: every axis once. */
static dd_status transpose_infer(const dd_node *node, const dd_type *in, dd_type *out, int *n_out) {
    const dd_ints *perm = &((const dd_transpose_params *)node->params)->perm;
    unsigned seen = 0;
    if (in[0].rank < 0)
        return dd_fail(DD_EVALUE, "transpose: x is missing");
    if (perm->n && perm->n != in[0].rank)
        return dd_fail(DD_EVALUE, "transpose: perm has %" PRId64 " items, x has rank %d", perm->n,
                       in[0].rank);
    out[0] = in[0];
    for (int k = 0; k < in[0].rank; k++) {
        int axis = source_axis(perm, in[0].rank, k);
        DD_TRY(dd_need_axis("transpose", perm->n ? perm->v[k] : axis, in[0].rank, &axis));
        if (seen >> axis & 1)
            return dd_fail(DD_EVALUE, "transpose: axis %d is named twice", axis);
        seen |= 1u << axis;
        out[0].dims[k] = in[0].dims[axis];
    }
    *n_out = 1;
    return DD_OK;
}

/* y = transpose(x), or x from y: the walk is over y's axes either way. */
static void move_transposed(const void *params, const dd_array *x, const dd_array *y, bool out) {
    const dd_ints *perm = &((const dd_transpose_params *)params)->perm;
    int64_t strides[DD_MAX_RANK];
    dd_move m = {.rank = y->type.rank, .bytes = dd_dtype_bytes(y->type.dtype)};
    dd_strides(x, strides);
    memcpy(m.dims, y->type.dims, (size_t)m.rank * sizeof *m.dims);
    for (int k = 0; k < m.rank; k++)
        (out ? m.from_strides : m.to_strides)[k] = strides[source_axis(perm, m.rank, k)];
    dd_strides(y, out ? m.to_strides : m.from_strides);
    m.from = out ? x->data : y->data;
    m.to = out ? y->data : x->data;
    dd_move_run(&m);
}

static dd_status transpose_forward(const dd_op_args *a) {
    move_transposed(a->params, &a->in[0], &a->out[0], true);
    return DD_OK;
}

static dd_status transpose_backward(const dd_op_args *a) {
    if (a->din[0].data)
        move_transposed(a->params, &a->din[0], &a->dout[0], false);
    return DD_OK;
}

/* Channels stay channels where the last axis stays last. */
static void transpose_channels(const dd_node *node, dd_channel_ids *ids) {
    const dd_ints *perm = &((const dd_transpose_params *)node->params)->perm;
    bool stays = perm->n && (perm->v[perm->n - 1] == perm->n - 1 || perm->v[perm->n - 1] == -1);
    if (stays)
        dd_channels_keep(ids, 0, 0);
    else
        dd_channels_lock(ids, 0);
}

static int transpose_sample(int i, void *params, dd_type *in, int *n_in) {
    static const struct {
        dd_transpose_params p;
        int n;
        dd_type in[1];
    } cases[] = {
        {{INTS(0, 3, 1, 2)}, 1, {F32(2, 3, 4, 5)}},
        {{INTS(0, 2, 1, 3)}, 1, {F32(2, 3, 4, 5)}},
        {{.perm = {0}}, 1, {F32(3, 7)}},
        {{INTS(0, 2, -1, 1, 3)}, 1, {F32(2, 2, 3, 2, 3)}},
        {{INTS(0)}, 1, {F32(6)}},
    };
    SAMPLES(cases, i, params, in, n_in);
}

/* ---- expand -------------------------------------------------------------------------------- */

static const dd_field expand_fields[] = {DD_INTS(dd_reshape_params, shape), DD_END};

/* `like` serves graphs without sizes, `shape` those that know one. */
static dd_status expand_infer(const dd_node *node, const dd_type *in, dd_type *out, int *n_out) {
    const dd_ints *shape = &((const dd_reshape_params *)node->params)->shape;
    char have[192], want[192];
    bool like = node->n_in > 1 && dd_present(&in[1]), fits = true;
    if (in[0].rank < 0)
        return dd_fail(DD_EVALUE, "expand: x is missing");
    if (like == (shape->n > 0))
        return dd_fail(DD_EVALUE, "expand: either `shape` or a second input is needed");
    if (shape->n > DD_MAX_RANK)
        return dd_fail(DD_EVALUE, "expand: shape has %" PRId64 " items, at most %d are possible",
                       shape->n, DD_MAX_RANK);
    dd_type y = like ? in[1] : (dd_type){.rank = (int)shape->n};
    y.dtype = in[0].dtype;
    int missing = y.rank - in[0].rank;
    for (int k = 0; k < y.rank; k++) {
        int64_t own = k >= missing ? in[0].dims[k - missing] : 1;
        if (!like)
            y.dims[k] = shape->v[k] == -1 ? own : shape->v[k];
        fits = fits && y.dims[k] >= 0 && (own == 1 || own == y.dims[k]);
    }
    if (!fits || missing < 0)
        return dd_fail(DD_EVALUE, "expand: x is %s, which does not broadcast to %s",
                       dd_type_text(&in[0], have, sizeof have),
                       dd_type_text(&y, want, sizeof want));
    out[0] = y;
    *n_out = 1;
    return DD_OK;
}

/* A broadcast is a move whose source stands still along the repeated axes. */
static dd_status expand_forward(const dd_op_args *a) {
    const dd_array *x = &a->in[0], *y = &a->out[0];
    dd_move m = {.rank = y->type.rank,
                 .from = x->data,
                 .to = y->data,
                 .bytes = dd_dtype_bytes(y->type.dtype)};
    memcpy(m.dims, y->type.dims, (size_t)m.rank * sizeof *m.dims);
    dd_strides_broadcast(x, &y->type, m.from_strides);
    dd_strides(y, m.to_strides);
    dd_move_run(&m);
    return DD_OK;
}

static size_t expand_scratch(const dd_node *node, const dd_type *in) {
    return node->backward ? (size_t)dd_type_count(&in[0]) * sizeof(double) : 0;
}

/* Sums of the repeats, in double, in a dense twin of x. */
static dd_status expand_backward(const dd_op_args *a) {
    const dd_array *dy = &a->dout[0], *dx = &a->din[0];
    double *sums = a->scratch;
    dd_array twin = dd_array_dense(sums, &dx->type);
    int64_t index[DD_MAX_RANK] = {0}, from[DD_MAX_RANK], to[DD_MAX_RANK];
    int64_t last = dd_type_last(&dx->type), rows = dd_type_rows(&dx->type);
    if (!dx->data)
        return DD_OK;
    memset(sums, 0, (size_t)dd_type_count(&dx->type) * sizeof *sums);
    dd_strides(dy, from);
    dd_strides_broadcast(&twin, &dy->type, to);
    int rank = dy->type.rank;
    if (dd_type_count(&dy->type) > 0)
        do
            sums[dd_dot(rank, index, to)] +=
                (double)((const float *)dy->data)[dd_dot(rank, index, from)];
        while (dd_next(rank, dy->type.dims, index));
    for (int64_t row = 0; row < rows; row++)
        for (int64_t i = 0; i < last; i++)
            dd_row_f32(dx, row)[i] = (float)sums[row * last + i];
    return DD_OK;
}

static int expand_sample(int i, void *params, dd_type *in, int *n_in) {
    static const struct {
        dd_reshape_params p;
        int n;
        dd_type in[2];
    } cases[] = {
        {{INTS(2, 3, 4, 7)}, 1, {F32(2, 1, 1, 7)}},
        {{INTS(-1, 5)}, 1, {F32(3, 1)}},
        {{INTS(2, 3, 4)}, 1, {F32(4)}},
        {{.shape = {0}}, 2, {F32(1, 1, 1, 5), F32(2, 3, 2, 5)}},
        {{.shape = {0}}, 2, {F32(3, 1, 2, 1), F32(2, 3, 2, 2, 3)}},
    };
    SAMPLES(cases, i, params, in, n_in);
}

const dd_op dd_op_reshape = {
    .name = "reshape",
    .doc = "x's elements in row-major order under `shape`: 0 takes x's size at that place, one -1 "
           "the rest.",
    .version = 1,
    .min_in = 1,
    .max_in = 1,
    .params_size = sizeof(dd_reshape_params),
    .fields = reshape_fields,
    .flags = DD_OP_VIEW,
    .infer = reshape_infer,
    .forward = reshape_forward,
    .backward = reshape_backward,
    .quant = DD_Q_TIE,
    .sample = reshape_sample,
};

const dd_op dd_op_transpose = {
    .name = "transpose",
    .doc = "x with its axes in another order: axis k of the result is axis perm[k] of x; an empty "
           "perm reverses them.",
    .version = 1,
    .min_in = 1,
    .max_in = 1,
    .params_size = sizeof(dd_transpose_params),
    .fields = transpose_fields,
    .infer = transpose_infer,
    .forward = transpose_forward,
    .backward = transpose_backward,
    .channels = transpose_channels,
    .quant = DD_Q_TIE,
    .sample = transpose_sample,
};

const dd_op dd_op_expand = {
    .name = "expand",
    .doc = "x broadcast to `shape` (-1: x's own size), or to the shape of a second input.",
    .version = 1,
    .min_in = 1,
    .max_in = 2,
    .params_size = sizeof(dd_reshape_params),
    .fields = expand_fields,
    .shape_inputs = 1u << 1,
    .infer = expand_infer,
    .scratch = expand_scratch,
    .forward = expand_forward,
    .backward = expand_backward,
    .quant = DD_Q_TIE,
    .sample = expand_sample,
};
