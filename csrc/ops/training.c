/* What only training knows: dropout and stop_gradient. */
#include "base/random.h"
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

/* ---- dropout ------------------------------------------------------------------------------- */

static const dd_field dropout_fields[] = {DD_FLOAT(dd_dropout_params, p, 0.5), DD_END};

/* p = 1 would divide by 0. */
static dd_status dropout_infer(const dd_node *node, const dd_type *in, dd_type *out, int *n_out) {
    double p = ((const dd_dropout_params *)node->params)->p;
    DD_TRY(dd_need_f32("dropout", "x", &in[0]));
    if (!(p >= 0 && p < 1))
        return dd_fail(DD_EVALUE, "dropout: p is %g, at least 0 and less than 1 is needed", p);
    out[0] = in[0];
    *n_out = 1;
    return DD_OK;
}

/* One byte an element: kept or not. The draw cannot be repeated in the backward, whose node has
 * another number. */
static dd_status dropout_saved(const dd_node *node, const dd_type *in, dd_type *saved, int *n) {
    (void)node;
    saved[0] = in[0];
    saved[0].dtype = DD_U8;
    *n = 1;
    return DD_OK;
}

/* One draw an element in row-major order, pads not counted: the pitch changes nothing. */
static dd_status dropout_forward(const dd_op_args *a) {
    const dd_array *x = &a->in[0], *y = &a->out[0];
    double p = ((const dd_dropout_params *)a->params)->p;
    float scale = (float)(1 / (1 - p));
    int64_t rows = dd_type_rows(&x->type), last = dd_type_last(&x->type);
    dd_stream stream;
    if (!a->training) {
        dd_copy(x, y);
        return DD_OK;
    }
    dd_stream_init(&stream, a->seed, (uint32_t)a->step, (uint32_t)a->node_index, DD_FOR_DROPOUT);
    for (int64_t row = 0; row < rows; row++) {
        const float *from = dd_row_f32(x, row);
        float *to = dd_row_f32(y, row);
        uint8_t *kept = a->saved[0].data ? (uint8_t *)dd_row_any(&a->saved[0], row) : NULL;
        for (int64_t i = 0; i < last; i++) {
            bool keep = dd_stream_uniform(&stream) >= p;
            to[i] = keep ? from[i] * scale : 0;
            if (kept)
                kept[i] = keep;
        }
    }
    return DD_OK;
}

/* The same elements, the same factor. */
static dd_status dropout_backward(const dd_op_args *a) {
    const dd_array *dy = &a->dout[0], *dx = &a->din[0];
    float scale = (float)(1 / (1 - ((const dd_dropout_params *)a->params)->p));
    int64_t rows = dd_type_rows(&dy->type), last = dd_type_last(&dy->type);
    for (int64_t row = 0; dx->data && row < rows; row++) {
        const uint8_t *kept = (const uint8_t *)dd_row_any(&a->saved[0], row);
        const float *from = dd_row_f32(dy, row);
        float *to = dd_row_f32(dx, row);
        for (int64_t i = 0; i < last; i++)
            to[i] = kept[i] ? from[i] * scale : 0;
    }
    return DD_OK;
}

static int dropout_sample(int i, void *params, dd_type *in, int *n_in) {
    static const struct {
        dd_dropout_params p;
        int n;
        dd_type in[1];
    } cases[] = {{{0.5}, 1, {F32(2, 3, 4, 5)}}, {{0.1}, 1, {F32(67)}}, {{0}, 1, {F32(3, 5)}}};
    SAMPLES(cases, i, params, in, n_in);
}

/* ---- stop_gradient ------------------------------------------------------------------------- */

/* The value passes; DD_OP_NO_GRAD does the rest. */
static dd_status stop_forward(const dd_op_args *a) {
    dd_copy(&a->in[0], &a->out[0]);
    return DD_OK;
}

static int stop_sample(int i, void *params, dd_type *in, int *n_in) {
    static const dd_type shapes[] = {F32(2, 3, 4, 5), F32(7), U8(2, 3)};
    (void)params;
    if (i < 0 || i >= 3)
        return 0;
    in[0] = shapes[i];
    *n_in = 1;
    return 1;
}

const dd_op dd_op_dropout = {
    .name = "dropout",
    .doc = "In training each element of x is 0 with probability p, else x / (1 - p); in inference "
           "x. The draw depends on the seed, the step, the node and the element only.",
    .version = 1,
    .min_in = 1,
    .max_in = 1,
    .n_saved = 1,
    .params_size = sizeof(dd_dropout_params),
    .fields = dropout_fields,
    .flags = DD_OP_RANDOM | DD_OP_TRAIN_ONLY,
    .infer = dropout_infer,
    .saved = dropout_saved,
    .forward = dropout_forward,
    .backward = dropout_backward,
    .window = same_window,
    .channels = same_channels,
    .quant = DD_Q_TIE,
    .sample = dropout_sample,
};

const dd_op dd_op_stop_gradient = {
    .name = "stop_gradient",
    .doc = "x; no gradient flows through it.",
    .version = 1,
    .min_in = 1,
    .max_in = 1,
    .flags = DD_OP_NO_GRAD | DD_OP_TRAIN_ONLY,
    .infer = dd_infer_same,
    .forward = stop_forward,
    .window = same_window,
    .channels = same_channels,
    .quant = DD_Q_TIE,
    .sample = stop_sample,
};
