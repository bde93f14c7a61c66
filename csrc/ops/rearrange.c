/* Space to depth, depth to space and channel shuffle: permutations of factored axes.
 *
 * With blocks of b × b pixels, space_to_depth's channel (r·b + s)·C + c of pixel (y, x) is channel
 * c of pixel (y·b + r, x·b + s); depth_to_space is its inverse (ONNX' DCR order). With g groups,
 * channel_shuffle's channel j·g + i is channel i·(C/g) + j. */
#include <inttypes.h>

#include "ops/channels.h"
#include "ops/describe.h"
#include "ops/node.h"
#include "ops/walk.h"

static const dd_field block_fields[] = {DD_INT(dd_block_params, block, 2), DD_END};

/* The bound keeps block² a small number. */
static dd_status check_block(const char *who, int64_t block, const dd_type *x) {
    DD_TRY(dd_need_rank(who, "x", x, 4, 4));
    if (block < 1 || block > 1024)
        return dd_fail(DD_EVALUE, "%s: block is %" PRId64 ", 1 to 1024 is needed", who, block);
    return DD_OK;
}

static int64_t block_of(const void *params) {
    return ((const dd_block_params *)params)->block;
}

/* Whole blocks only: a padded one would hide an odd image size. */
static dd_status to_depth_infer(const dd_node *node, const dd_type *in, dd_type *out, int *n_out) {
    int64_t b = block_of(node->params);
    DD_TRY(check_block("space_to_depth", b, &in[0]));
    if (in[0].dims[1] % b || in[0].dims[2] % b)
        return dd_fail(DD_EVALUE,
                       "space_to_depth: x is %" PRId64 "×%" PRId64 " pixels, blocks have %" PRId64,
                       in[0].dims[1], in[0].dims[2], b);
    out[0] = in[0];
    out[0].dims[1] /= b;
    out[0].dims[2] /= b;
    out[0].dims[3] *= b * b;
    *n_out = 1;
    return DD_OK;
}

static dd_status to_space_infer(const dd_node *node, const dd_type *in, dd_type *out, int *n_out) {
    int64_t b = block_of(node->params);
    DD_TRY(check_block("depth_to_space", b, &in[0]));
    if (in[0].dims[3] % (b * b))
        return dd_fail(DD_EVALUE,
                       "depth_to_space: x has %" PRId64 " channels, a multiple of %" PRId64
                       " is needed",
                       in[0].dims[3], b * b);
    out[0] = in[0];
    out[0].dims[1] *= b;
    out[0].dims[2] *= b;
    out[0].dims[3] /= b * b;
    *n_out = 1;
    return DD_OK;
}

/* Between the spread map (N, H·b, W·b, C) and the deep one (N, H, W, b·b·C). */
static void move_blocks(int64_t b, const dd_array *spread, const dd_array *deep, bool to_deep) {
    const int64_t *d = deep->type.dims;
    int64_t c = spread->type.dims[3];
    int64_t row = spread->type.dims[2] * spread->pitch;
    dd_move m = {.rank = 6, .dims = {d[0], d[1], b, d[2], b, c}, .bytes = sizeof(float)};
    int64_t wide[6] = {spread->type.dims[1] * row, b * row,       row,
                       b * spread->pitch,          spread->pitch, 1};
    int64_t thin[6] = {d[1] * d[2] * deep->pitch, d[2] * deep->pitch, b * c, deep->pitch, c, 1};
    memcpy(to_deep ? m.from_strides : m.to_strides, wide, sizeof wide);
    memcpy(to_deep ? m.to_strides : m.from_strides, thin, sizeof thin);
    m.from = to_deep ? spread->data : deep->data;
    m.to = to_deep ? deep->data : spread->data;
    dd_move_run(&m);
}

/* The gradient of each of the two is the other one's forward. */
static dd_status to_depth_forward(const dd_op_args *a) {
    move_blocks(block_of(a->params), &a->in[0], &a->out[0], true);
    return DD_OK;
}

static dd_status to_depth_backward(const dd_op_args *a) {
    if (a->din[0].data)
        move_blocks(block_of(a->params), &a->din[0], &a->dout[0], false);
    return DD_OK;
}

static dd_status to_space_forward(const dd_op_args *a) {
    move_blocks(block_of(a->params), &a->out[0], &a->in[0], false);
    return DD_OK;
}

static dd_status to_space_backward(const dd_op_args *a) {
    if (a->din[0].data)
        move_blocks(block_of(a->params), &a->dout[0], &a->din[0], true);
    return DD_OK;
}

/* A row of blocks is `block` rows of pixels. */
static dd_status to_depth_window(const dd_node *node, const dd_type *in, dd_range out, int input,
                                 dd_range *rows) {
    (void)in;
    (void)input;
    *rows = (dd_range){out.begin * block_of(node->params), out.end * block_of(node->params)};
    return DD_OK;
}

static dd_status to_space_window(const dd_node *node, const dd_type *in, dd_range out, int input,
                                 dd_range *rows) {
    int64_t b = block_of(node->params);
    (void)in;
    (void)input;
    *rows = (dd_range){out.begin / b, (out.end + b - 1) / b};
    return DD_OK;
}

static int to_depth_sample(int i, void *params, dd_type *in, int *n_in) {
    static const struct {
        dd_block_params p;
        int n;
        dd_type in[1];
    } cases[] = {
        {{2}, 1, {F32(2, 4, 6, 3)}}, {{3}, 1, {F32(1, 3, 6, 5)}}, {{1}, 1, {F32(1, 2, 3, 4)}}};
    SAMPLES(cases, i, params, in, n_in);
}

static int to_space_sample(int i, void *params, dd_type *in, int *n_in) {
    static const struct {
        dd_block_params p;
        int n;
        dd_type in[1];
    } cases[] = {
        {{2}, 1, {F32(2, 2, 3, 12)}}, {{3}, 1, {F32(1, 1, 2, 18)}}, {{1}, 1, {F32(1, 2, 3, 4)}}};
    SAMPLES(cases, i, params, in, n_in);
}

/* ---- channel shuffle ----------------------------------------------------------------------- */

static const dd_field shuffle_fields[] = {DD_INT(dd_shuffle_params, groups, 2), DD_END};

static dd_status shuffle_infer(const dd_node *node, const dd_type *in, dd_type *out, int *n_out) {
    int64_t groups = ((const dd_shuffle_params *)node->params)->groups;
    DD_TRY(dd_need_rank("channel_shuffle", "x", &in[0], 1, DD_MAX_RANK));
    int64_t c = dd_type_last(&in[0]);
    if (groups < 1 || c % groups)
        return dd_fail(DD_EVALUE, "channel_shuffle: %" PRId64 " channels in %" PRId64 " groups", c,
                       groups);
    out[0] = in[0];
    *n_out = 1;
    return DD_OK;
}

/* Pixels of `groups` × `each` channels to pixels of `each` × `groups`. */
static void swap_channels(const dd_array *from, const dd_array *to, int64_t groups) {
    int64_t rows = dd_type_rows(&from->type);
    int64_t each = dd_type_last(&from->type) / groups;
    dd_move m = {.rank = 3,
                 .dims = {rows, each, groups},
                 .from_strides = {from->pitch, 1, each},
                 .to_strides = {to->pitch, groups, 1},
                 .from = from->data,
                 .to = to->data,
                 .bytes = sizeof(float)};
    dd_move_run(&m);
}

static dd_status shuffle_forward(const dd_op_args *a) {
    swap_channels(&a->in[0], &a->out[0], ((const dd_shuffle_params *)a->params)->groups);
    return DD_OK;
}

/* The inverse of a shuffle in g groups is one in C/g groups. */
static dd_status shuffle_backward(const dd_op_args *a) {
    int64_t groups = ((const dd_shuffle_params *)a->params)->groups;
    int64_t c = dd_type_last(&a->in[0].type);
    if (a->din[0].data && c > 0)
        swap_channels(&a->dout[0], &a->din[0], c / groups);
    return DD_OK;
}

static dd_status shuffle_window(const dd_node *node, const dd_type *in, dd_range out, int input,
                                dd_range *rows) {
    (void)node;
    (void)in;
    (void)input;
    *rows = out;
    return DD_OK;
}

/* The permutation of the head comment. */
static void shuffle_channels(const dd_node *node, dd_channel_ids *ids) {
    int64_t groups = ((const dd_shuffle_params *)node->params)->groups;
    int64_t c = dd_channels_count(ids, 0), each = c / groups;
    dd_channels_size(ids, 0, c);
    for (int64_t k = 0; k < c; k++)
        dd_channels_take(ids, 0, k, 0, k % groups * each + k / groups);
}

static int shuffle_sample(int i, void *params, dd_type *in, int *n_in) {
    static const struct {
        dd_shuffle_params p;
        int n;
        dd_type in[1];
    } cases[] = {{{2}, 1, {F32(2, 3, 2, 6)}},
                 {{3}, 1, {F32(1, 2, 2, 12)}},
                 {{5}, 1, {F32(4, 5)}},
                 {{1}, 1, {F32(1, 3, 3, 7)}}};
    SAMPLES(cases, i, params, in, n_in);
}

const dd_op dd_op_space_to_depth = {
    .name = "space_to_depth",
    .doc = "Blocks of x (N, H, W, C) become channels: (N, H/b, W/b, b·b·C), the block's row first, "
           "then its column, then x's channel.",
    .version = 1,
    .min_in = 1,
    .max_in = 1,
    .params_size = sizeof(dd_block_params),
    .fields = block_fields,
    .infer = to_depth_infer,
    .forward = to_depth_forward,
    .backward = to_depth_backward,
    .window = to_depth_window,
    .quant = DD_Q_TIE,
    .sample = to_depth_sample,
};

const dd_op dd_op_depth_to_space = {
    .name = "depth_to_space",
    .doc = "The inverse of space_to_depth: (N, H, W, b·b·C) to (N, H·b, W·b, C), ONNX' DCR order.",
    .version = 1,
    .min_in = 1,
    .max_in = 1,
    .params_size = sizeof(dd_block_params),
    .fields = block_fields,
    .infer = to_space_infer,
    .forward = to_space_forward,
    .backward = to_space_backward,
    .window = to_space_window,
    .quant = DD_Q_TIE,
    .sample = to_space_sample,
};

const dd_op dd_op_channel_shuffle = {
    .name = "channel_shuffle",
    .doc = "Interleaves `groups` groups of channels: channel j·groups + i of the result is channel "
           "i·(C/groups) + j of x.",
    .version = 1,
    .min_in = 1,
    .max_in = 1,
    .params_size = sizeof(dd_shuffle_params),
    .fields = shuffle_fields,
    .infer = shuffle_infer,
    .forward = shuffle_forward,
    .backward = shuffle_backward,
    .window = shuffle_window,
    .channels = shuffle_channels,
    .quant = DD_Q_TIE,
    .sample = shuffle_sample,
};
