/* PReLU (He et al. 2015): x · slope where x is not positive. The slope broadcasts to x, as a value
 * a channel in most nets. */
#include <string.h>

#include "ops/channels.h"
#include "ops/describe.h"
#include "ops/node.h"
#include "ops/walk.h"

/* One way only: x's shape is the result's. */
static dd_status prelu_infer(const dd_node *node, const dd_type *in, dd_type *out, int *n_out) {
    char x_text[192], slope_text[192];
    (void)node;
    DD_TRY(dd_need_f32("prelu", "x", &in[0]));
    DD_TRY(dd_need_f32("prelu", "slope", &in[1]));
    int missing = in[0].rank - in[1].rank;
    bool fits = missing >= 0;
    for (int k = 0; fits && k < in[1].rank; k++)
        fits = in[1].dims[k] == 1 || in[1].dims[k] == in[0].dims[k + missing];
    if (!fits)
        return dd_fail(DD_EVALUE, "prelu: slope is %s, which does not broadcast to x, %s",
                       dd_type_text(&in[1], slope_text, sizeof slope_text),
                       dd_type_text(&in[0], x_text, sizeof x_text));
    out[0] = in[0];
    *n_out = 1;
    return DD_OK;
}

/* x by lines along its last axis, with the slope's strides beside them. */
typedef struct lines {
    int outer;
    int64_t n, step; /* elements of a line; the slope's stride in it, 0 or 1 */
    int64_t dims[DD_MAX_RANK], slope[DD_MAX_RANK];
} lines;

static lines lines_of(const dd_array *slope, const dd_type *x) {
    lines l = {.outer = x->rank ? x->rank - 1 : 0, .n = dd_type_last(x)};
    dd_strides_broadcast(slope, x, l.slope);
    memcpy(l.dims, x->dims, sizeof l.dims);
    l.step = x->rank ? l.slope[l.outer] : 0;
    return l;
}

static dd_status prelu_forward(const dd_op_args *a) {
    const dd_array *x = &a->in[0], *y = &a->out[0];
    int64_t index[DD_MAX_RANK] = {0}, row = 0;
    lines l = lines_of(&a->in[1], &x->type);
    if (dd_type_count(&x->type) == 0)
        return DD_OK;
    do {
        const float *slope = (const float *)a->in[1].data + dd_dot(l.outer, index, l.slope);
        const float *from = dd_row_f32(x, row);
        float *to = dd_row_f32(y, row++);
        for (int64_t i = 0; i < l.n; i++)
            to[i] = from[i] > 0 ? from[i] : from[i] * slope[i * l.step];
    } while (dd_next(l.outer, l.dims, index));
    return DD_OK;
}

static size_t prelu_scratch(const dd_node *node, const dd_type *in) {
    return node->backward ? (size_t)dd_type_count(&in[1]) * sizeof(double) : 0;
}

/* The slope's gradient sums over all that it was broadcast to: in double, in a dense twin of it. */
static dd_status prelu_backward(const dd_op_args *a) {
    const dd_array *x = &a->in[0], *dy = &a->dout[0], *dx = &a->din[0], *ds = &a->din[1];
    double *sums = a->scratch;
    dd_array twin = dd_array_dense(sums, &a->in[1].type);
    int64_t index[DD_MAX_RANK] = {0}, row = 0;
    lines l = lines_of(&a->in[1], &x->type), to = lines_of(&twin, &x->type);
    memset(sums, 0, (size_t)dd_type_count(&a->in[1].type) * sizeof *sums);
    if (dd_type_count(&x->type) > 0)
        do {
            const float *slope = (const float *)a->in[1].data + dd_dot(l.outer, index, l.slope);
            const float *v = dd_row_f32(x, row), *d = dd_row_f32(dy, row);
            double *sum = sums + dd_dot(l.outer, index, to.slope);
            for (int64_t i = 0; dx->data && i < l.n; i++)
                dd_row_f32(dx, row)[i] = v[i] > 0 ? d[i] : d[i] * slope[i * l.step];
            for (int64_t i = 0; i < l.n; i++)
                sum[i * to.step] += v[i] > 0 ? 0 : (double)d[i] * (double)v[i];
            row++;
        } while (dd_next(l.outer, l.dims, index));
    int64_t last = dd_type_last(&a->in[1].type);
    for (int64_t r = 0; ds->data && r < dd_type_rows(&ds->type); r++)
        for (int64_t i = 0; i < last; i++)
            dd_row_f32(ds, r)[i] = (float)sums[r * last + i];
    return DD_OK;
}

/* x's own rows; a slope is one row, or has x's. */
static dd_status prelu_window(const dd_node *node, const dd_type *in, dd_range out, int input,
                              dd_range *rows) {
    (void)node;
    bool whole = in[input].rank < 4 || in[input].dims[1] == 1;
    *rows = whole ? (dd_range){0, in[input].rank < 2 ? 1 : in[input].dims[1]} : out;
    return DD_OK;
}

/* A slope a channel goes with its channel; one for all stays. */
static void prelu_channels(const dd_node *node, dd_channel_ids *ids) {
    int rank = 0;
    (void)node;
    dd_channels_keep(ids, 0, 0);
    while (dd_channels_axis(ids, 1, rank) >= 0)
        rank++;
    if (rank > 0 && dd_channels_axis(ids, 1, rank - 1) == dd_channels_count(ids, 0))
        dd_channels_axis_input(ids, 1, rank - 1, 0);
}

static int prelu_sample(int i, void *params, dd_type *in, int *n_in) {
    static const dd_type cases[][2] = {
        {F32(2, 3, 5, 7), F32(7)},       {F32(4, 9), F32(1)},       {F32(3), F32(3)},
        {F32(2, 3, 4, 5), F32(3, 1, 5)}, {F32(2, 5, 3), F32(5, 1)},
    };
    (void)params;
    if (i < 0 || (size_t)i >= sizeof cases / sizeof *cases)
        return 0;
    memcpy(in, cases[i], sizeof *cases);
    *n_in = 2;
    return 1;
}

const dd_op dd_op_prelu = {
    .name = "prelu",
    .doc =
        "x where it is positive, else x · slope. slope broadcasts to x: (C) is a value a channel "
        "of the last axis.",
    .version = 1,
    .min_in = 2,
    .max_in = 2,
    .backward_uses = DD_USES_IN(0) | DD_USES_IN(1),
    .infer = prelu_infer,
    .scratch = prelu_scratch,
    .forward = prelu_forward,
    .backward = prelu_backward,
    .window = prelu_window,
    .channels = prelu_channels,
    .sample = prelu_sample,
};
