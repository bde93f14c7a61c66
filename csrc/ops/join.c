/* Concat, split, slice and pad: each moves boxes of elements, whose places are strides and an
 * offset. They take any dtype; the last two move values only. */
#include <inttypes.h>
#include <string.h>

#include "ops/channels.h"
#include "ops/describe.h"
#include "ops/node.h"
#include "ops/walk.h"

/* Copies between `part` and the box of `whole` that begins `before` positions along `axis`. */
static void move_part(const dd_array *whole, const dd_array *part, int axis, int64_t before,
                      bool to_part) {
    dd_move m = {.rank = part->type.rank, .bytes = dd_dtype_bytes(part->type.dtype)};
    int64_t *outside = to_part ? m.from_strides : m.to_strides;
    memcpy(m.dims, part->type.dims, (size_t)m.rank * sizeof *m.dims);
    dd_strides(whole, outside);
    dd_strides(part, to_part ? m.to_strides : m.from_strides);
    char *box = (char *)whole->data + before * outside[axis] * (int64_t)m.bytes;
    m.from = to_part ? box : part->data;
    m.to = to_part ? part->data : box;
    if (m.from != m.to) /* a window of the other already */
        dd_move_run(&m);
}

/* ---- concat -------------------------------------------------------------------------------- */

static const dd_field axis_fields[] = {DD_INT(dd_axis_params, axis, -1), DD_END};

/* Every input is compared with the first, so the message can name the odd one. */
static dd_status concat_infer(const dd_node *node, const dd_type *in, dd_type *out, int *n_out) {
    int axis;
    char first[192], other[192];
    if (in[0].rank < 1)
        return dd_fail(DD_EVALUE, "concat: x0 is %s, rank 1 or more is needed",
                       in[0].rank < 0 ? "missing" : "a scalar");
    DD_TRY(dd_need_axis("concat", ((const dd_axis_params *)node->params)->axis, in[0].rank, &axis));
    out[0] = in[0];
    for (int i = 1; i < node->n_in; i++) {
        dd_type like = in[i];
        like.dims[axis] = in[0].dims[axis];
        if (in[i].rank < 0 || !dd_type_equal(&like, &in[0]))
            return dd_fail(DD_EVALUE, "concat: x%d is %s, x0 is %s: all but axis %d must agree", i,
                           in[i].rank < 0 ? "missing" : dd_type_text(&in[i], other, sizeof other),
                           dd_type_text(&in[0], first, sizeof first), axis);
        out[0].dims[axis] += in[i].dims[axis];
    }
    *n_out = 1;
    return DD_OK;
}

static int axis_of(const void *params, int rank) {
    int64_t axis = ((const dd_axis_params *)params)->axis;
    return (int)(axis < 0 ? axis + rank : axis);
}

/* A plan makes the parts windows of the result instead; then nothing is left to move. */
static dd_status concat_forward(const dd_op_args *a) {
    int axis = axis_of(a->params, a->out[0].type.rank);
    int64_t before = 0;
    for (int i = 0; i < a->n_in; i++) {
        move_part(&a->out[0], &a->in[i], axis, before, false);
        before += a->in[i].type.dims[axis];
    }
    return DD_OK;
}

/* The reverse: cut dout into the parts' gradients. */
static dd_status concat_backward(const dd_op_args *a) {
    int axis = axis_of(a->params, a->dout[0].type.rank);
    int64_t before = 0;
    for (int i = 0; i < a->n_in; i++) {
        if (a->din[i].data)
            move_part(&a->dout[0], &a->din[i], axis, before, true);
        before += a->in[i].type.dims[axis];
    }
    return DD_OK;
}

/* Along rows each part keeps its share of the range; along any other axis all rows stay. */
static dd_status concat_window(const dd_node *node, const dd_type *in, dd_range out, int input,
                               dd_range *rows) {
    int64_t before = 0, own = in[input].dims[1];
    if (in[0].rank < 2 || axis_of(node->params, in[0].rank) != 1) {
        *rows = out;
        return DD_OK;
    }
    for (int i = 0; i < input; i++)
        before += in[i].dims[1];
    int64_t begin = out.begin - before, end = out.end - before;
    rows->begin = begin < 0 ? 0 : begin < own ? begin : own;
    rows->end = end < rows->begin ? rows->begin : end < own ? end : own;
    return DD_OK;
}

/* The hooks know sizes by axis only. */
static int rank_of(const dd_channel_ids *ids, int input) {
    int rank = 0;
    while (dd_channels_axis(ids, input, rank) >= 0)
        rank++;
    return rank;
}

/* Joined along channels, the lists follow each other. */
static void concat_channels(const dd_node *node, dd_channel_ids *ids) {
    int rank = rank_of(ids, 0);
    int64_t sum = 0, at = 0;
    if (axis_of(node->params, rank) != rank - 1) { /* joined along pixels: channels go together */
        for (int i = 1; i < node->n_in; i++)
            dd_channels_unify(ids, 0, i);
        dd_channels_keep(ids, 0, 0);
        return;
    }
    for (int i = 0; i < node->n_in; i++)
        sum += dd_channels_count(ids, i);
    dd_channels_size(ids, 0, sum);
    for (int i = 0; i < node->n_in; i++)
        for (int64_t c = 0; c < dd_channels_count(ids, i); c++)
            dd_channels_take(ids, 0, at++, i, c);
}

static int concat_sample(int i, void *params, dd_type *in, int *n_in) {
    static const struct {
        dd_axis_params p;
        int n;
        dd_type in[4];
    } cases[] = {
        {{-1}, 3, {F32(2, 3, 4, 5), F32(2, 3, 4, 8), F32(2, 3, 4, 1)}},
        {{1}, 2, {F32(2, 3, 4, 5), F32(2, 1, 4, 5)}},
        {{1}, 2, {F32(2, 6, 5), F32(2, 3, 5)}},
        {{0}, 4, {F32(3), F32(1), F32(2), F32(5)}},
        {{-2}, 2, {F32(2, 2, 3, 2, 3), F32(2, 2, 3, 4, 3)}},
        {{0}, 1, {F32(4, 3)}},
        {{-1}, 2, {U8(2, 3, 5), U8(2, 3, 2)}},
    };
    SAMPLES(cases, i, params, in, n_in);
}

/* ---- split --------------------------------------------------------------------------------- */

static const dd_field split_fields[] = {
    DD_INT(dd_split_params, axis, -1),
    DD_INT(dd_split_params, parts, 0),
    DD_INTS(dd_split_params, sizes),
    DD_END,
};

/* The size of piece i of an axis of `whole`. */
static int64_t piece(const dd_split_params *p, int64_t whole, int64_t i) {
    return p->sizes.n ? p->sizes.v[i] : whole / p->parts;
}

static int64_t pieces(const dd_split_params *p) {
    return p->sizes.n ? p->sizes.n : p->parts;
}

/* Either way the pieces must fill the axis: a forgotten channel is an error, not a cut. */
static dd_status split_infer(const dd_node *node, const dd_type *in, dd_type *out, int *n_out) {
    const dd_split_params *p = node->params;
    int axis;
    int64_t sum = 0;
    if (in[0].rank < 1)
        return dd_fail(DD_EVALUE, "split: x is %s, rank 1 or more is needed",
                       in[0].rank < 0 ? "missing" : "a scalar");
    DD_TRY(dd_need_axis("split", p->axis, in[0].rank, &axis));
    int64_t whole = in[0].dims[axis];
    if (!p->sizes.n && (p->parts < 1 || p->parts > DD_MANY || whole % p->parts))
        return dd_fail(DD_EVALUE, "split: axis %d of %" PRId64 " in %" PRId64 " equal parts", axis,
                       whole, p->parts);
    if (p->sizes.n && p->parts && p->parts != p->sizes.n)
        return dd_fail(DD_EVALUE, "split: parts is %" PRId64 ", sizes has %" PRId64 " items",
                       p->parts, p->sizes.n);
    for (int64_t i = 0; i < pieces(p); i++) {
        int64_t size = piece(p, whole, i);
        if (size < 0 || size > whole)
            return dd_fail(DD_EVALUE, "split: a size is %" PRId64 ", 0 to %" PRId64 " is needed",
                           size, whole);
        sum += size;
        out[i] = in[0];
        out[i].dims[axis] = size;
    }
    if (sum != whole)
        return dd_fail(DD_EVALUE, "split: sizes sum to %" PRId64 ", axis %d has %" PRId64, sum,
                       axis, whole);
    *n_out = (int)pieces(p);
    return DD_OK;
}

/* A piece that nobody wants is passed over. */
static dd_status split_forward(const dd_op_args *a) {
    int axis = axis_of(a->params, a->in[0].type.rank); /* `axis` comes first in both structs */
    int64_t before = 0;
    for (int i = 0; i < a->n_out; i++) {
        if (a->out[i].data)
            move_part(&a->in[0], &a->out[i], axis, before, true);
        before += a->out[i].type.dims[axis];
    }
    return DD_OK;
}

static dd_status split_backward(const dd_op_args *a) {
    int axis = axis_of(a->params, a->in[0].type.rank);
    int64_t before = 0;
    if (!a->din[0].data)
        return DD_OK;
    dd_fill_zero(&a->din[0]); /* where no gradient arrives */
    for (int i = 0; i < a->n_out; i++) {
        if (a->dout[i].data)
            move_part(&a->din[0], &a->dout[i], axis, before, false);
        before += a->out[i].type.dims[axis];
    }
    return DD_OK;
}

/* Cut along channels, the lists are cut; along pixels, all pieces share theirs. */
static void split_channels(const dd_node *node, dd_channel_ids *ids) {
    const dd_split_params *p = node->params;
    int rank = rank_of(ids, 0);
    int64_t whole = dd_channels_count(ids, 0), at = 0;
    for (int i = 0; i < pieces(p); i++) {
        if (axis_of(p, rank) != rank - 1) {
            dd_channels_keep(ids, i, 0);
            continue;
        }
        dd_channels_size(ids, i, piece(p, whole, i));
        for (int64_t c = 0; c < piece(p, whole, i); c++)
            dd_channels_take(ids, i, c, 0, at++);
    }
}

static int split_sample(int i, void *params, dd_type *in, int *n_in) {
    static const struct {
        dd_split_params p;
        int n;
        dd_type in[1];
    } cases[] = {
        {{.axis = -1, .sizes = INTS(3, 1, 5)}, 1, {F32(2, 3, 4, 9)}},
        {{.axis = 1, .parts = 2}, 1, {F32(2, 4, 3, 5)}},
        {{.axis = 0, .sizes = INTS(2, 3)}, 1, {F32(5)}},
        {{.axis = -2, .parts = 3}, 1, {F32(2, 2, 2, 6, 3)}},
        {{.axis = 1, .sizes = INTS(4)}, 1, {F32(3, 4)}},
    };
    SAMPLES(cases, i, params, in, n_in);
}

const dd_op dd_op_concat = {
    .name = "concat",
    .doc = "Joins its inputs along `axis`.",
    .version = 1,
    .min_in = 1,
    .max_in = DD_MANY,
    .params_size = sizeof(dd_axis_params),
    .fields = axis_fields,
    .infer = concat_infer,
    .forward = concat_forward,
    .backward = concat_backward,
    .window = concat_window,
    .channels = concat_channels,
    .quant = DD_Q_TIE,
    .sample = concat_sample,
};

const dd_op dd_op_split = {
    .name = "split",
    .doc = "Cuts x along `axis` into `parts` equal pieces, or into pieces of `sizes`.",
    .version = 1,
    .min_in = 1,
    .max_in = 1,
    .n_outputs = DD_MANY,
    .params_size = sizeof(dd_split_params),
    .fields = split_fields,
    .infer = split_infer,
    .forward = split_forward,
    .backward = split_backward,
    .channels = split_channels,
    .quant = DD_Q_TIE,
    .sample = split_sample,
};
