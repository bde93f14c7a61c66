/* Slice: a box of a larger array. */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "ops/channels.h"
#include "ops/describe.h"
#include "ops/node.h"
#include "ops/walk.h"

static const dd_field slice_fields[] = {
    DD_INTS(dd_slice_params, starts),
    DD_INTS(dd_slice_params, ends),
    DD_INTS(dd_slice_params, axes),
    DD_INTS(dd_slice_params, steps),
    DD_END,
};

typedef struct cuts {
    int64_t start[DD_MAX_RANK], step[DD_MAX_RANK], count[DD_MAX_RANK];
} cuts;

static int64_t bound(int64_t v, int64_t low, int64_t high) {
    return v < low ? low : v > high ? high : v;
}

/* Python's slice.indices(): where the cut begins and how many positions it has. */
static void cut_axis(int64_t start, int64_t end, int64_t step, int64_t size, int64_t *first,
                     int64_t *count) {
    int64_t low = step > 0 ? 0 : -1, high = step > 0 ? size : size - 1;
    start = bound(start < 0 ? start + size : start, low, high);
    end = bound(end < 0 ? end + size : end, low, high);
    int64_t span = step > 0 ? end - start : start - end, stride = step > 0 ? step : -step;
    *first = start;
    *count = span > 0 ? (span - 1) / stride + 1 : 0;
}

/* Axes that are not named stay whole. */
static dd_status find_cuts(const dd_slice_params *p, const dd_type *x, cuts *c) {
    bool seen[DD_MAX_RANK] = {false};
    int64_t n = p->starts.n;
    if (p->ends.n != n || (p->axes.n && p->axes.n != n) || (p->steps.n && p->steps.n != n))
        return dd_fail(DD_EVALUE,
                       "slice: starts, ends, axes and steps have %" PRId64 ", %" PRId64 ", %" PRId64
                       " and %" PRId64 " items",
                       n, p->ends.n, p->axes.n, p->steps.n);
    for (int k = 0; k < x->rank; k++) {
        c->start[k] = 0;
        c->step[k] = 1;
        c->count[k] = x->dims[k];
    }
    for (int64_t i = 0; i < n; i++) {
        int axis;
        DD_TRY(dd_need_axis("slice", dd_item(&p->axes, (int)i, i), x->rank, &axis));
        int64_t step = dd_item(&p->steps, (int)i, 1);
        if (step == 0 || step < -INT32_MAX || step > INT32_MAX)
            return dd_fail(DD_EVALUE, "slice: a step is %" PRId64, step);
        if (seen[axis])
            return dd_fail(DD_EVALUE, "slice: axis %d is named twice", axis);
        seen[axis] = true;
        c->step[axis] = step;
        cut_axis(p->starts.v[i], p->ends.v[i], step, x->dims[axis], &c->start[axis],
                 &c->count[axis]);
    }
    return DD_OK;
}

/* Bounds are Python's: what lies outside is cut off, never an error. */
static dd_status slice_infer(const dd_node *node, const dd_type *in, dd_type *out, int *n_out) {
    cuts c;
    if (in[0].rank < 0)
        return dd_fail(DD_EVALUE, "slice: x is missing");
    DD_TRY(find_cuts(node->params, &in[0], &c));
    out[0] = in[0];
    memcpy(out[0].dims, c.count, (size_t)in[0].rank * sizeof *c.count);
    *n_out = 1;
    return DD_OK;
}

/* Between x (or its gradient) and what the slice takes of it. */
static void move_slice(const void *params, const dd_array *x, const dd_array *taken, bool out) {
    cuts c;
    int64_t strides[DD_MAX_RANK];
    dd_move m = {.rank = x->type.rank, .bytes = dd_dtype_bytes(x->type.dtype)};
    (void)find_cuts(params, &x->type, &c);
    dd_strides(x, strides);
    memcpy(m.dims, c.count, (size_t)m.rank * sizeof *m.dims);
    char *first = (char *)x->data + dd_dot(m.rank, c.start, strides) * (int64_t)m.bytes;
    for (int k = 0; k < m.rank; k++)
        (out ? m.from_strides : m.to_strides)[k] = strides[k] * c.step[k];
    dd_strides(taken, out ? m.to_strides : m.from_strides);
    m.from = out ? first : taken->data;
    m.to = out ? taken->data : first;
    dd_move_run(&m);
}

static dd_status slice_forward(const dd_op_args *a) {
    move_slice(a->params, &a->in[0], &a->out[0], true);
    return DD_OK;
}

/* What the slice left out has gradient 0. */
static dd_status slice_backward(const dd_op_args *a) {
    if (!a->din[0].data)
        return DD_OK;
    dd_fill_zero(&a->din[0]);
    move_slice(a->params, &a->din[0], &a->dout[0], false);
    return DD_OK;
}

/* Channel i of the result is the i-th one that was taken. */
static void slice_channels(const dd_node *node, dd_channel_ids *ids) {
    cuts c;
    dd_type x = {.dtype = DD_F32};
    while (x.rank < DD_MAX_RANK && dd_channels_axis(ids, 0, x.rank) >= 0) {
        x.dims[x.rank] = dd_channels_axis(ids, 0, x.rank);
        x.rank++;
    }
    if (x.rank == 0 || find_cuts(node->params, &x, &c) != DD_OK)
        return;
    int last = x.rank - 1;
    dd_channels_size(ids, 0, c.count[last]);
    for (int64_t i = 0; i < c.count[last]; i++)
        dd_channels_take(ids, 0, i, 0, c.start[last] + i * c.step[last]);
}

static int slice_sample(int i, void *params, dd_type *in, int *n_in) {
    static const struct {
        dd_slice_params p;
        int n;
        dd_type in[1];
    } cases[] = {
        {{.starts = INTS(2), .ends = INTS(7), .axes = INTS(-1)}, 1, {F32(2, 3, 4, 9)}},
        {{.starts = INTS(0, 1, 0, 0), .ends = INTS(2, INT64_MAX, -1, 5), .steps = INTS(1, 2, 1, 2)},
         1,
         {F32(2, 6, 5, 5)}},
        {{.starts = INTS(-1), .ends = INTS(INT64_MIN), .steps = INTS(-1)}, 1, {F32(7)}},
        {{.starts = INTS(5, 0), .ends = INTS(0, 3), .axes = INTS(1, 0), .steps = INTS(-2, 2)},
         1,
         {F32(3, 6, 2)}},
        {{.starts = INTS(1), .ends = INTS(2), .axes = INTS(2)}, 1, {F32(2, 2, 3, 2, 3)}},
    };
    SAMPLES(cases, i, params, in, n_in);
}

const dd_op dd_op_slice = {
    .name = "slice",
    .doc = "Python's x[start:end:step] along each of `axes` (empty: the first ones in order); "
           "empty `steps` means 1.",
    .version = 1,
    .min_in = 1,
    .max_in = 1,
    .params_size = sizeof(dd_slice_params),
    .fields = slice_fields,
    .infer = slice_infer,
    .forward = slice_forward,
    .backward = slice_backward,
    .channels = slice_channels,
    .quant = DD_Q_TIE,
    .sample = slice_sample,
};
