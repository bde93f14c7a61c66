/* Resize: nearest and bilinear. The map is (N, H, W, C); each output pixel is a weighted sum of up
 * to two rows and two columns of input pixels, found once an axis by `place`. */
#include <math.h>
#include <string.h>

#include "ops/channels.h"
#include "ops/describe.h"
#include "ops/node.h"
#include "ops/walk.h"

static const char *const mode_names[] = {"nearest", "bilinear", NULL};

static const dd_field resize_fields[] = {
    DD_ENUM(dd_resize_params, mode, 0, mode_names),
    DD_BOOL(dd_resize_params, align_corners, 0),
    DD_FLOATS(dd_resize_params, scale),
    DD_END,
};

/* A scale is rounded down to whole pixels, as torch does. */
static dd_status resize_infer(const dd_node *node, const dd_type *in, dd_type *out, int *n_out) {
    const dd_resize_params *p = node->params;
    bool like = node->n_in > 1 && dd_present(&in[1]);
    DD_TRY(dd_need_rank("resize", "x", &in[0], 4, 4));
    out[0] = in[0];
    *n_out = 1;
    if (like == (p->scale.n > 0))
        return dd_fail(DD_EVALUE, "resize: either `scale` or a second input is needed");
    if (like && in[1].rank != 4)
        return dd_fail(DD_EVALUE, "resize: like has rank %d, 4 is needed", in[1].rank);
    if (!like && p->scale.n != 2)
        return dd_fail(DD_EVALUE, "resize: scale has %d items, 2 are needed", (int)p->scale.n);
    if (p->align_corners && p->mode == 0)
        return dd_fail(DD_EVALUE, "resize: align_corners needs the mode bilinear");
    for (int k = 1; k < 3; k++) {
        if (!like && !(p->scale.v[k - 1] > 0 && p->scale.v[k - 1] <= 1e6))
            return dd_fail(DD_EVALUE, "resize: scale is %g, more than 0 is needed",
                           p->scale.v[k - 1]);
        out[0].dims[k] =
            like ? in[1].dims[k] : (int64_t)floor((double)in[0].dims[k] * p->scale.v[k - 1]);
        if (out[0].dims[k] < 1 || in[0].dims[k] < 1)
            return dd_fail(DD_EVALUE, "resize: %d to %d pixels along axis %d", (int)in[0].dims[k],
                           (int)out[0].dims[k], k);
    }
    return DD_OK;
}

/* An output position along one axis: the two input positions and their weights. */
typedef struct place {
    int64_t at[2];
    double weight[2];
} place;

/* Nearest is floor(o / scale), in whole numbers where the sizes give the scale (torch's and ONNX'
 * "asymmetric, floor"). Bilinear takes the pixels' centres: (o + ½) / scale - ½, not below 0; with
 * align_corners the outer pixels' centres fall on each other. */
static place find_place(const dd_resize_params *p, int axis, int64_t o, int64_t in, int64_t out) {
    double scale = p->scale.n ? p->scale.v[axis] : (double)out / (double)in, at;
    if (p->mode == 0) {
        int64_t whole = p->scale.n ? (int64_t)floor((double)o / scale) : o * in / out;
        whole = whole < in ? whole : in - 1;
        return (place){{whole, whole}, {1, 0}};
    }
    if (p->align_corners)
        at = out > 1 ? (double)o * (double)(in - 1) / (double)(out - 1) : 0;
    else
        at = ((double)o + 0.5) / scale - 0.5;
    at = at > 0 ? at : 0;
    int64_t first = (int64_t)at < in - 1 ? (int64_t)at : in - 1;
    double part = at - (double)first < 1 ? at - (double)first : 1;
    return (place){{first, first + 1 < in ? first + 1 : first}, {1 - part, part}};
}

/* The four corners' weights are products of the axes'. */
static void resize_pixel(const dd_array *x, int64_t n, place y, place z, float *to) {
    const int64_t h = x->type.dims[1], w = x->type.dims[2], c = x->type.dims[3];
    const float *from[4];
    double weight[4];
    for (int k = 0; k < 4; k++) {
        from[k] = dd_row_f32(x, (n * h + y.at[k / 2]) * w + z.at[k % 2]);
        weight[k] = y.weight[k / 2] * z.weight[k % 2];
    }
    for (int64_t i = 0; i < c; i++) {
        double sum = 0;
        for (int k = 0; k < 4; k++) /* a weight of 0 does not read: inf · 0 */
            sum += weight[k] > 0 ? weight[k] * (double)from[k][i] : 0;
        to[i] = (float)sum;
    }
}

static dd_status resize_forward(const dd_op_args *a) {
    const dd_array *x = &a->in[0], *y = &a->out[0];
    const dd_resize_params *p = a->params;
    const int64_t *in = x->type.dims, *out = y->type.dims;
    for (int64_t n = 0; n < out[0]; n++)
        for (int64_t oy = 0; oy < out[1]; oy++) {
            place row = find_place(p, 0, oy, in[1], out[1]);
            for (int64_t ox = 0; ox < out[2]; ox++) {
                place column = find_place(p, 1, ox, in[2], out[2]);
                float *to = dd_row_f32(y, (n * out[1] + oy) * out[2] + ox);
                resize_pixel(x, n, row, column, to);
            }
        }
    return DD_OK;
}

static size_t resize_scratch(const dd_node *node, const dd_type *in) {
    return node->backward ? (size_t)dd_type_count(&in[0]) * sizeof(double) : 0;
}

/* Each output pixel gives its gradient to the pixels it came from; sums in double. */
static dd_status resize_backward(const dd_op_args *a) {
    const dd_array *dy = &a->dout[0], *dx = &a->din[0];
    const dd_resize_params *p = a->params;
    const int64_t *in = dx->type.dims, *out = dy->type.dims;
    double *sums = a->scratch;
    int64_t c = in[3], rows = dd_type_rows(&dx->type);
    if (!dx->data)
        return DD_OK;
    memset(sums, 0, (size_t)dd_type_count(&dx->type) * sizeof *sums);
    for (int64_t row = 0; row < out[0] * out[1] * out[2]; row++) {
        int64_t n = row / (out[1] * out[2]), oy = row / out[2] % out[1], ox = row % out[2];
        place y = find_place(p, 0, oy, in[1], out[1]), z = find_place(p, 1, ox, in[2], out[2]);
        const float *d = dd_row_f32(dy, row);
        for (int k = 0; k < 4; k++) {
            double weight = y.weight[k / 2] * z.weight[k % 2];
            double *to = sums + ((n * in[1] + y.at[k / 2]) * in[2] + z.at[k % 2]) * c;
            for (int64_t i = 0; weight > 0 && i < c; i++)
                to[i] += weight * (double)d[i];
        }
    }
    for (int64_t row = 0; row < rows; row++)
        for (int64_t i = 0; i < c; i++)
            dd_row_f32(dx, row)[i] = (float)sums[row * c + i];
    return DD_OK;
}

static dd_status resize_window(const dd_node *node, const dd_type *in, dd_range out, int input,
                               dd_range *rows) {
    const dd_resize_params *p = node->params;
    dd_type y;
    int n_out;
    if (input != 0) { /* `like` is read for its type */
        *rows = (dd_range){0, 0};
        return DD_OK;
    }
    DD_TRY(resize_infer(node, in, &y, &n_out));
    if (out.end <= out.begin) {
        *rows = (dd_range){0, 0};
        return DD_OK;
    }
    rows->begin = find_place(p, 0, out.begin, in[0].dims[1], y.dims[1]).at[0];
    rows->end = find_place(p, 0, out.end - 1, in[0].dims[1], y.dims[1]).at[1] + 1;
    return DD_OK;
}

static void resize_channels(const dd_node *node, dd_channel_ids *ids) {
    (void)node;
    dd_channels_keep(ids, 0, 0);
}

static int resize_sample(int i, void *params, dd_type *in, int *n_in) {
    static const struct {
        dd_resize_params p;
        int n;
        dd_type in[2];
    } cases[] = {
        {{.scale = FLOATS(2, 2)}, 1, {F32(2, 3, 4, 7)}},
        {{.scale = FLOATS(1.5, 0.5)}, 1, {F32(1, 4, 6, 5)}},
        {{.mode = 0}, 2, {F32(2, 3, 5, 3), F32(2, 7, 4, 1)}},
        {{.mode = 1, .scale = FLOATS(2, 3)}, 1, {F32(1, 3, 4, 5)}},
        {{.mode = 1, .align_corners = 1}, 2, {F32(2, 3, 4, 3), F32(2, 6, 7, 2)}},
        {{.mode = 1, .scale = FLOATS(0.5, 0.75)}, 1, {F32(1, 6, 5, 9)}},
        {{.mode = 1}, 2, {F32(1, 1, 1, 8), F32(1, 3, 2, 8)}},
    };
    SAMPLES(cases, i, params, in, n_in);
}

const dd_op dd_op_resize = {
    .name = "resize",
    .doc = "x (N, H, W, C) resized by `scale` (y, x) or to the height and width of a second input. "
           "nearest: floor(o / scale); bilinear: between the pixels' centres, or with the corners "
           "aligned.",
    .version = 1,
    .min_in = 1,
    .max_in = 2,
    .params_size = sizeof(dd_resize_params),
    .fields = resize_fields,
    .shape_inputs = 1u << 1,
    .infer = resize_infer,
    .scratch = resize_scratch,
    .forward = resize_forward,
    .backward = resize_backward,
    .window = resize_window,
    .channels = resize_channels,
    .quant = DD_Q_TIE,
    .sample = resize_sample,
};
