/* Chosen by indices along one axis: gather takes pieces of x, gather_elements an element for each
 * index. */
#include <inttypes.h>
#include <string.h>

#include "ops/channels.h"
#include "ops/describe.h"
#include "ops/grad.h"
#include "ops/node.h"
#include "ops/walk.h"

static const dd_field gather_fields[] = {DD_INT(dd_axis_params, axis, 0), DD_END};

/* *axis = x's axis, from 0 on. */
static dd_status check_indices(const char *who, const dd_node *node, const dd_type *in, int *axis) {
    if (in[0].rank < 1 || in[1].rank < 0)
        return dd_fail(DD_EVALUE, "%s: x of rank 1 or more and indices are needed", who);
    if (in[1].dtype != DD_S32)
        return dd_fail(DD_ETYPE, "%s: indices is %s, s32 is needed", who,
                       dd_dtype_name(in[1].dtype));
    return dd_need_axis(who, ((const dd_axis_params *)node->params)->axis, in[0].rank, axis);
}

/* The indices' axes stand where x's axis was. */
static dd_status gather_infer(const dd_node *node, const dd_type *in, dd_type *out, int *n_out) {
    int axis;
    DD_TRY(check_indices("gather", node, in, &axis));
    dd_type y = {.dtype = in[0].dtype, .rank = in[0].rank - 1 + in[1].rank};
    if (y.rank > DD_MAX_RANK)
        return dd_fail(DD_EVALUE, "gather: the result has rank %d, at most %d is possible", y.rank,
                       DD_MAX_RANK);
    memcpy(y.dims, in[0].dims, (size_t)axis * sizeof *y.dims);
    memcpy(y.dims + axis, in[1].dims, (size_t)in[1].rank * sizeof *y.dims);
    memcpy(y.dims + axis + in[1].rank, in[0].dims + axis + 1,
           (size_t)(in[0].rank - 1 - axis) * sizeof *y.dims);
    out[0] = y;
    *n_out = 1;
    return DD_OK;
}

/* The result by lines along its last axis, with the steps that x and the indices make along each of
 * its axes: one of the two stands still. */
typedef struct walk {
    const char *who;
    int outer;
    int64_t n, size, x_axis; /* elements of a line; of x's axis, and their distance */
    int64_t dims[DD_MAX_RANK], x[DD_MAX_RANK], at[DD_MAX_RANK];
    int64_t x_step, at_step;
} walk;

/* `x` may be the dense twin of the input's gradient. */
static walk gather_walk(const void *params, const dd_array *x, const dd_array *indices,
                        const dd_type *y) {
    int64_t axis = ((const dd_axis_params *)params)->axis;
    int64_t xs[DD_MAX_RANK], is[DD_MAX_RANK];
    walk w = {.who = "gather", .outer = y->rank ? y->rank - 1 : 0, .n = dd_type_last(y)};
    dd_strides(x, xs);
    dd_strides(indices, is);
    axis = axis < 0 ? axis + x->type.rank : axis;
    w.size = x->type.dims[axis];
    w.x_axis = xs[axis];
    memcpy(w.dims, y->dims, sizeof w.dims);
    for (int k = 0; k < y->rank; k++) {
        int chosen = k - (int)axis, rank = indices->type.rank;
        if (chosen >= 0 && chosen < rank)
            w.at[k] = is[chosen];
        else
            w.x[k] = xs[chosen < 0 ? k : k - rank + 1];
    }
    w.x_step = y->rank ? w.x[w.outer] : 0;
    w.at_step = y->rank ? w.at[w.outer] : 0;
    return w;
}

/* gather_elements: every other axis is walked in both, as far as the indices reach. */
static walk elements_walk(const void *params, const dd_array *x, const dd_array *indices,
                          const dd_type *y) {
    int64_t axis = ((const dd_axis_params *)params)->axis;
    walk w = {.who = "gather_elements", .outer = y->rank - 1, .n = dd_type_last(y)};
    axis = axis < 0 ? axis + y->rank : axis;
    dd_strides(x, w.x);
    dd_strides(indices, w.at);
    w.size = x->type.dims[axis];
    w.x_axis = w.x[axis];
    w.x[axis] = 0;
    memcpy(w.dims, y->dims, sizeof w.dims);
    w.x_step = w.x[w.outer];
    w.at_step = w.at[w.outer];
    return w;
}

static walk walk_of(const dd_op_args *a, const dd_array *x, const dd_array *indices,
                    const dd_type *y) {
    return a->node->op == &dd_op_gather ? gather_walk(a->params, x, indices, y)
                                        : elements_walk(a->params, x, indices, y);
}

/* *place = index as 0..size-1; negative ones count from the end. */
static dd_status look_up(const walk *w, int32_t index, int64_t *place) {
    if (index < -w->size || index >= w->size)
        return dd_fail(DD_EVALUE, "%s: an index is %" PRId32 ", the axis has %" PRId64, w->who,
                       index, w->size);
    *place = index < 0 ? index + w->size : index;
    return DD_OK;
}

/* Where in x line `index` begins, and which indices serve it. */
static int64_t begin_of(const walk *w, const int64_t *index) {
    return dd_dot(w->outer, index, w->x);
}

static const int32_t *indices_of(const walk *w, const dd_array *indices, const int64_t *index) {
    return (const int32_t *)indices->data + dd_dot(w->outer, index, w->at);
}

/* Where the line is not the indices' own it is one copy. */
static dd_status gather_forward(const dd_op_args *a) {
    const dd_array *x = &a->in[0], *y = &a->out[0];
    int64_t bytes = (int64_t)dd_dtype_bytes(x->type.dtype), index[DD_MAX_RANK] = {0}, row = 0;
    walk w = walk_of(a, x, &a->in[1], &y->type);
    if (dd_type_count(&y->type) == 0)
        return DD_OK;
    do {
        const int32_t *at = indices_of(&w, &a->in[1], index);
        const char *from = (const char *)x->data + begin_of(&w, index) * bytes;
        char *to = dd_row_any(y, row++);
        int64_t place, run = w.at_step == 0 && w.x_step == 1 ? w.n : 1;
        for (int64_t i = 0; i < w.n; i += run) {
            DD_TRY(look_up(&w, at[i * w.at_step], &place));
            memcpy(to + i * bytes, from + (place * w.x_axis + i * w.x_step) * bytes,
                   (size_t)(run * bytes));
        }
    } while (dd_next(w.outer, w.dims, index));
    return DD_OK;
}

static size_t gather_scratch(const dd_node *node, const dd_type *in) {
    return node->backward ? (size_t)dd_type_count(&in[0]) * sizeof(double) : 0;
}

/* An element may have been chosen several times: sums in double, in a dense twin of x. */
static dd_status gather_backward(const dd_op_args *a) {
    const dd_array *dx = &a->din[0], *dy = &a->dout[0];
    double *sums = a->scratch;
    int64_t index[DD_MAX_RANK] = {0}, row = 0;
    if (!dx->data)
        return DD_OK;
    dd_array twin = dd_array_dense(NULL, &dx->type);
    walk w = walk_of(a, &twin, &a->in[1], &dy->type);
    memset(sums, 0, (size_t)dd_type_count(&dx->type) * sizeof *sums);
    if (dd_type_count(&dy->type) > 0)
        do {
            const int32_t *at = indices_of(&w, &a->in[1], index);
            const float *from = dd_row_f32(dy, row++);
            double *to = sums + begin_of(&w, index);
            for (int64_t i = 0; i < w.n; i++) {
                int64_t place;
                DD_TRY(look_up(&w, at[i * w.at_step], &place));
                to[place * w.x_axis + i * w.x_step] += (double)from[i];
            }
        } while (dd_next(w.outer, w.dims, index));
    int64_t last = dd_type_last(&dx->type);
    for (int64_t r = 0; r < dd_type_rows(&dx->type); r++)
        for (int64_t i = 0; i < last; i++)
            dd_row_f32(dx, r)[i] = (float)sums[r * last + i];
    return DD_OK;
}

/* Places are no numbers: nothing flows into the indices, whatever they were computed from. */
static dd_status gather_grad(dd_graph *g, int node, const int *dout, int *din) {
    din[1] = 0;
    return dd_grad_backward(g, node, dout, din);
}

/* The tests draw indices from -100 to 199. */
static int gather_sample(int i, void *params, dd_type *in, int *n_in) {
    static const struct {
        dd_axis_params p;
        int n;
        dd_type in[2];
    } cases[] = {
        {{0}, 2, {F32(200, 3), S32(5)}},
        {{1}, 2, {F32(2, 200, 2), S32(3, 2)}},
        {{-1}, 2, {F32(3, 200), S32(4)}},
        {{0}, 2, {F32(200), {DD_S32, 0, {0}}}},
        {{-1}, 2, {F32(2, 200), {DD_S32, 0, {0}}}},
        {{0}, 2, {U8(200, 3), S32(7)}},
    };
    SAMPLES(cases, i, params, in, n_in);
}

const dd_op dd_op_gather = {
    .name = "gather",
    .doc = "x's pieces along `axis` at `indices` (s32, of any shape, which takes the axis' place); "
           "negative ones count from the end. An index beyond the axis fails the run.",
    .version = 1,
    .min_in = 2,
    .max_in = 2,
    .params_size = sizeof(dd_axis_params),
    .fields = gather_fields,
    .backward_uses = DD_USES_IN(1),
    .infer = gather_infer,
    .scratch = gather_scratch,
    .forward = gather_forward,
    .backward = gather_backward,
    .grad = gather_grad,
    .quant = DD_Q_TIE,
    .sample = gather_sample,
};

/* ---- gather_elements ----------------------------------------------------------------------- */

static dd_status elements_infer(const dd_node *node, const dd_type *in, dd_type *out, int *n_out) {
    int axis;
    char x_text[192], at_text[192];
    DD_TRY(check_indices("gather_elements", node, in, &axis));
    bool fits = in[0].rank == in[1].rank;
    for (int k = 0; fits && k < in[0].rank; k++)
        fits = k == axis || in[1].dims[k] <= in[0].dims[k];
    if (!fits)
        return dd_fail(DD_EVALUE,
                       "gather_elements: indices is %s, x is %s: they may differ along the axis "
                       "only, or be fewer",
                       dd_type_text(&in[1], at_text, sizeof at_text),
                       dd_type_text(&in[0], x_text, sizeof x_text));
    out[0] = in[1];
    out[0].dtype = in[0].dtype;
    *n_out = 1;
    return DD_OK;
}

static int elements_sample(int i, void *params, dd_type *in, int *n_in) {
    static const struct {
        dd_axis_params p;
        int n;
        dd_type in[2];
    } cases[] = {
        {{0}, 2, {F32(200, 3), S32(5, 3)}},  {{1}, 2, {F32(2, 200, 4), S32(2, 3, 4)}},
        {{-1}, 2, {F32(3, 200), S32(2, 7)}}, {{0}, 2, {F32(200), S32(4)}},
        {{0}, 2, {U8(200, 3), S32(7, 2)}},
    };
    SAMPLES(cases, i, params, in, n_in);
}

const dd_op dd_op_gather_elements = {
    .name = "gather_elements",
    .doc = "x's element at the place of each index (s32, of x's rank), but along `axis` at the "
           "index; negative ones count from the end. An index beyond the axis fails the run.",
    .version = 1,
    .min_in = 2,
    .max_in = 2,
    .params_size = sizeof(dd_axis_params),
    .fields = gather_fields,
    .backward_uses = DD_USES_IN(1),
    .infer = elements_infer,
    .scratch = gather_scratch,
    .forward = gather_forward,
    .backward = gather_backward,
    .grad = gather_grad,
    .quant = DD_Q_TIE,
    .sample = elements_sample,
};
