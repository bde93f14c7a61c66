/* Resize: nearest, bilinear and cubic. The map is (N, H, W, C); each output pixel is a weighted sum
 * of the same few rows and columns of input pixels in all channels, found once an axis. */
#include "ops/resize.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "ops/channels.h"
#include "ops/describe.h"
#include "ops/node.h"
#include "ops/walk.h"

static const char *const mode_names[] = {"nearest", "bilinear", "cubic", NULL};
static const char *const coordinate_names[] = {
    "auto", "half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners", "symmetric", NULL};
static const char *const rounding_names[] = {"floor", "ceil", "half_down", "half_up", NULL};

static const dd_field resize_fields[] = {
    DD_ENUM(dd_resize_params, mode, 0, mode_names),
    DD_BOOL(dd_resize_params, align_corners, 0),
    DD_FLOATS(dd_resize_params, scale),
    DD_INTS(dd_resize_params, size),
    DD_ENUM(dd_resize_params, coordinates, DD_COORD_AUTO, coordinate_names),
    DD_ENUM(dd_resize_params, rounding, 0, rounding_names),
    DD_FLOAT(dd_resize_params, cubic_a, -0.75),
    DD_BOOL(dd_resize_params, exclude_outside, 0),
    DD_END,
};

/* ---- shapes -------------------------------------------------------------------------------- */

static dd_status check_attributes(const dd_resize_params *p, bool like) {
    if (like + (p->scale.n > 0) + (p->size.n > 0) != 1)
        return dd_fail(DD_EVALUE, "resize: either `scale`, `size` or a second input is needed");
    if (p->size.n)
        DD_TRY(dd_need_list("resize", "size", &p->size, 2, 1));
    if (p->scale.n && p->scale.n != 2)
        return dd_fail(DD_EVALUE, "resize: scale has %d items, 2 are needed", (int)p->scale.n);
    for (int k = 0; k < p->scale.n; k++)
        if (!(p->scale.v[k] > 0 && p->scale.v[k] <= 1e6))
            return dd_fail(DD_EVALUE, "resize: scale is %g, more than 0 is needed", p->scale.v[k]);
    if (p->align_corners && (p->mode == 0 || p->coordinates != DD_COORD_AUTO))
        return dd_fail(DD_EVALUE, "resize: align_corners needs the mode bilinear or cubic, and "
                                  "coordinates auto");
    if (p->rounding && p->mode != 0)
        return dd_fail(DD_EVALUE, "resize: rounding needs the mode nearest");
    if (!(fabs(p->cubic_a) <= 10))
        return dd_fail(DD_EVALUE, "resize: cubic_a is %g, -10 to 10 is needed", p->cubic_a);
    return DD_OK;
}

/* A scale is rounded down to whole pixels, as torch and ONNX do. */
static dd_status resize_infer(const dd_node *node, const dd_type *in, dd_type *out, int *n_out) {
    const dd_resize_params *p = node->params;
    bool like = node->n_in > 1 && dd_present(&in[1]);
    DD_TRY(dd_need_rank("resize", "x", &in[0], 4, 4));
    DD_TRY(check_attributes(p, like));
    if (like && in[1].rank != 4)
        return dd_fail(DD_EVALUE, "resize: like has rank %d, 4 is needed", in[1].rank);
    out[0] = in[0];
    *n_out = 1;
    for (int k = 1; k < 3; k++) {
        out[0].dims[k] = like        ? in[1].dims[k]
                         : p->size.n ? p->size.v[k - 1]
                                     : (int64_t)floor((double)in[0].dims[k] * p->scale.v[k - 1]);
        if (out[0].dims[k] < 1 || in[0].dims[k] < 1)
            return dd_fail(DD_EVALUE, "resize: %" PRId64 " to %" PRId64 " pixels along axis %d",
                           in[0].dims[k], out[0].dims[k], k);
    }
    return DD_OK;
}

/* ---- places and weights -------------------------------------------------------------------- */

static dd_coordinates coordinates_of(const dd_resize_params *p) {
    if (p->coordinates != DD_COORD_AUTO)
        return (dd_coordinates)p->coordinates;
    if (p->mode == 0)
        return DD_COORD_ASYMMETRIC;
    return p->align_corners ? DD_COORD_CORNERS : DD_COORD_HALF_PIXEL;
}

/* Where output position o looks, in input pixels whose centres are whole numbers. Where the sizes
 * give the scale, one division of exact numbers: a tie stays a tie. */
static double place_of(const dd_resize_params *p, int axis, int64_t o, int64_t in, int64_t out) {
    double scale = p->scale.n ? p->scale.v[axis] : 0, at = (double)o;
    dd_coordinates kind = coordinates_of(p);
    if (kind == DD_COORD_CORNERS)
        return out > 1 ? at * (double)(in - 1) / (double)(out - 1) : 0;
    if (kind == DD_COORD_PYTORCH && out == 1)
        return 0;
    double half = kind == DD_COORD_ASYMMETRIC ? 0 : 0.5;
    at = (scale > 0 ? (at + half) / scale : (at + half) * (double)in / (double)out) - half;
    if (kind == DD_COORD_SYMMETRIC && scale > 0)
        at += 0.5 * (double)in * (1 - (double)out / (scale * (double)in));
    return at;
}

static int64_t inside(int64_t at, int64_t in) {
    return at < 0 ? 0 : at < in ? at : in - 1;
}

/* Torch's nearest, ONNX' "asymmetric, floor": whole numbers where the sizes give the scale. */
static bool floors(const dd_resize_params *p) {
    return p->mode == 0 && p->rounding == 0 && coordinates_of(p) == DD_COORD_ASYMMETRIC;
}

static int64_t nearest(const dd_resize_params *p, int axis, int64_t o, int64_t in, int64_t out) {
    if (floors(p) && !p->scale.n)
        return o * in / out;
    double at = place_of(p, axis, o, in, out);
    switch (p->rounding) {
    case 0:
        at = floor(at);
        break;
    case 1:
        at = ceil(at);
        break;
    case 2: /* halves go down, ONNX' round_prefer_floor */
        at = ceil(at - 0.5);
        break;
    default:
        at = floor(at + 0.5);
    }
    return inside((int64_t)at, in);
}

/* With a whole factor f the half-pixel places of an input pixel's f copies lie within half a pixel
 * of it, so rounding to the nearest gives the same as floor(o / f). */
int64_t dd_resize_factor(const dd_resize_params *p, const dd_type *x, const dd_type *y) {
    int64_t factor = x->dims[1] > 0 ? y->dims[1] / x->dims[1] : 0;
    dd_coordinates kind = coordinates_of(p);
    bool centres =
        kind == DD_COORD_HALF_PIXEL || kind == DD_COORD_PYTORCH || kind == DD_COORD_SYMMETRIC;
    bool repeats = floors(p) || (p->mode == 0 && centres && p->rounding >= 2);
    for (int k = 0; k < 2; k++)
        repeats = repeats && y->dims[1 + k] == factor * x->dims[1 + k] &&
                  (!p->scale.n || p->scale.v[k] == (double)factor);
    return repeats ? factor : 0;
}

/* Keys' kernel: the weight at distance d. */
static double cubic(double a, double d) {
    d = fabs(d);
    if (d <= 1)
        return ((a + 2) * d - (a + 3)) * d * d + 1;
    return d < 2 ? ((a * d - 5 * a) * d + 8 * a) * d - 4 * a : 0;
}

/* Taps outside the map read its edge, or are left out and the others' weights grow. */
static void cubic_taps(const dd_resize_params *p, double place, int64_t in, int64_t *at,
                       double *weight) {
    int64_t first = (int64_t)floor(place) - 1;
    double sum = 0;
    for (int k = 0; k < 4; k++) {
        bool outside = first + k < 0 || first + k >= in;
        at[k] = inside(first + k, in);
        weight[k] =
            p->exclude_outside && outside ? 0 : cubic(p->cubic_a, place - (double)(first + k));
        sum += weight[k];
    }
    for (int k = 0; k < 4 && p->exclude_outside; k++)
        weight[k] /= sum;
}

/* Bilinear: a place beyond the outer pixels' centres has the edge's value. */
int dd_resize_taps(const dd_resize_params *p, int axis, int64_t o, int64_t in, int64_t out,
                   int64_t at[DD_RESIZE_TAPS], double weight[DD_RESIZE_TAPS]) {
    if (p->mode == 0) {
        at[0] = nearest(p, axis, o, in, out);
        weight[0] = 1;
        return 1;
    }
    double place = place_of(p, axis, o, in, out);
    if (p->mode == 2) {
        cubic_taps(p, place, in, at, weight);
        return 4;
    }
    place = place > 0 ? place : 0;
    at[0] = inside((int64_t)place, in);
    at[1] = inside(at[0] + 1, in);
    weight[1] = place - (double)at[0] < 1 ? place - (double)at[0] : 1;
    weight[0] = 1 - weight[1];
    return 2;
}

/* ---- forward and backward ------------------------------------------------------------------ */

/* The input pixels of one output pixel with the products of both axes' weights. A weight of 0 does
 * not read: inf · 0. */
typedef struct corners {
    int n;
    int64_t row[DD_RESIZE_TAPS * DD_RESIZE_TAPS]; /* of the array */
    double weight[DD_RESIZE_TAPS * DD_RESIZE_TAPS];
} corners;

static corners corners_of(const dd_resize_params *p, const int64_t *in, const int64_t *out,
                          int64_t row) {
    int64_t n = row / (out[1] * out[2]), y[DD_RESIZE_TAPS], x[DD_RESIZE_TAPS];
    double wy[DD_RESIZE_TAPS], wx[DD_RESIZE_TAPS];
    corners c = {0};
    int ny = dd_resize_taps(p, 0, row / out[2] % out[1], in[1], out[1], y, wy);
    int nx = dd_resize_taps(p, 1, row % out[2], in[2], out[2], x, wx);
    for (int i = 0; i < ny; i++)
        for (int j = 0; j < nx; j++)
            if (wy[i] * wx[j] != 0) {
                c.row[c.n] = (n * in[1] + y[i]) * in[2] + x[j];
                c.weight[c.n++] = wy[i] * wx[j];
            }
    return c;
}

enum { BLOCK = 64 }; /* channels whose sums are held at a time */

static void resize_pixel(const dd_array *x, const corners *k, float *restrict to, int64_t c) {
    double sums[BLOCK];
    if (k->n == 1 && k->weight[0] == 1) {
        memcpy(to, dd_row_f32(x, k->row[0]), (size_t)c * sizeof *to);
        return;
    }
    for (int64_t first = 0; first < c; first += BLOCK) {
        int64_t n = c - first < BLOCK ? c - first : BLOCK;
        memset(sums, 0, sizeof sums);
        for (int t = 0; t < k->n; t++) {
            const float *restrict from = dd_row_f32(x, k->row[t]) + first;
            for (int64_t i = 0; i < n; i++)
                sums[i] += k->weight[t] * (double)from[i];
        }
        for (int64_t i = 0; i < n; i++)
            to[first + i] = (float)sums[i];
    }
}

static dd_status resize_forward(const dd_op_args *a) {
    const dd_array *x = &a->in[0], *y = &a->out[0];
    for (int64_t row = 0; row < dd_type_rows(&y->type); row++) {
        corners k = corners_of(a->params, x->type.dims, y->type.dims, row);
        resize_pixel(x, &k, dd_row_f32(y, row), x->type.dims[3]);
    }
    return DD_OK;
}

static size_t resize_scratch(const dd_node *node, const dd_type *in) {
    return node->backward ? (size_t)dd_type_count(&in[0]) * sizeof(double) : 0;
}

/* Each output pixel gives its gradient to the pixels it came from; sums in double. */
static dd_status resize_backward(const dd_op_args *a) {
    const dd_array *dy = &a->dout[0], *dx = &a->din[0];
    double *sums = a->scratch;
    int64_t c = dx->type.dims[3], rows = dd_type_rows(&dx->type);
    if (!dx->data)
        return DD_OK;
    memset(sums, 0, (size_t)dd_type_count(&dx->type) * sizeof *sums);
    for (int64_t row = 0; row < dd_type_rows(&dy->type); row++) {
        corners k = corners_of(a->params, dx->type.dims, dy->type.dims, row);
        const float *d = dd_row_f32(dy, row);
        for (int t = 0; t < k.n; t++) {
            double *to = sums + k.row[t] * c;
            for (int64_t i = 0; i < c; i++)
                to[i] += k.weight[t] * (double)d[i];
        }
    }
    for (int64_t row = 0; row < rows; row++)
        for (int64_t i = 0; i < c; i++)
            dd_row_f32(dx, row)[i] = (float)sums[row * c + i];
    return DD_OK;
}

/* ---- rules --------------------------------------------------------------------------------- */

/* Places grow with the output position: the first row's first tap to the last row's last. */
static dd_status resize_window(const dd_node *node, const dd_type *in, dd_range out, int input,
                               dd_range *rows) {
    const dd_resize_params *p = node->params;
    int64_t at[DD_RESIZE_TAPS], height = in[0].dims[1];
    double weight[DD_RESIZE_TAPS];
    dd_type y;
    int n_out;
    *rows = (dd_range){0, 0};
    if (input != 0 || out.end <= out.begin) /* `like` is read for its type */
        return DD_OK;
    DD_TRY(resize_infer(node, in, &y, &n_out));
    (void)dd_resize_taps(p, 0, out.begin, height, y.dims[1], at, weight);
    rows->begin = at[0];
    int n = dd_resize_taps(p, 0, out.end - 1, height, y.dims[1], at, weight);
    rows->end = at[n - 1] + 1;
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
        {{.size = INTS(5, 3), .coordinates = DD_COORD_HALF_PIXEL, .rounding = 2},
         1,
         {F32(2, 3, 7, 3)}},
        {{.scale = FLOATS(2, 1.5), .coordinates = DD_COORD_CORNERS, .rounding = 3},
         1,
         {F32(1, 3, 4, 3)}},
        {{.scale = FLOATS(2, 2), .rounding = 1}, 1, {F32(1, 3, 4, 3)}},
        {{.scale = FLOATS(3, 3), .coordinates = DD_COORD_HALF_PIXEL, .rounding = 2},
         1,
         {F32(1, 3, 4, 3)}},
        {{.scale = FLOATS(2.09, 2.09)}, 1, {F32(1, 10, 10, 2)}},
        {{.scale = FLOATS(2, 3), .coordinates = DD_COORD_ASYMMETRIC, .rounding = 2},
         1,
         {F32(1, 3, 4, 3)}},
        {{.mode = 1, .size = INTS(1, 6), .coordinates = DD_COORD_PYTORCH}, 1, {F32(1, 4, 4, 3)}},
        {{.mode = 1, .scale = FLOATS(2, 2), .coordinates = DD_COORD_ASYMMETRIC},
         1,
         {F32(1, 3, 4, 70)}},
        {{.mode = 1, .scale = FLOATS(1.3, 0.7), .coordinates = DD_COORD_SYMMETRIC},
         1,
         {F32(1, 5, 5, 2)}},
        {{.mode = 2, .scale = FLOATS(2, 0.8), .cubic_a = -0.75}, 1, {F32(2, 4, 5, 3)}},
        {{.mode = 2, .size = INTS(6, 7), .cubic_a = -0.5, .exclude_outside = 1},
         1,
         {F32(1, 4, 3, 3)}},
        {{.mode = 2, .align_corners = 1, .cubic_a = -0.75}, 2, {F32(1, 3, 1, 5), F32(1, 6, 2, 1)}},
    };
    SAMPLES(cases, i, params, in, n_in);
}

const dd_op dd_op_resize = {
    .name = "resize",
    .doc =
        "x (N, H, W, C) resized by `scale` (y, x), to `size` (y, x), or to the height and width "
        "of a second input. coordinates, the place of output pixel o: half_pixel (o + ½) / scale "
        "- ½; pytorch_half_pixel, likewise but 0 for a single one; asymmetric o / scale; "
        "align_corners o · (in - 1) / (out - 1); symmetric, half_pixel about the map's centre; "
        "auto: asymmetric for nearest, else half_pixel, or align_corners with that flag. "
        "rounding serves nearest. cubic_a is Keys' coefficient; exclude_outside gives cubic taps "
        "outside the map no weight.",
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
