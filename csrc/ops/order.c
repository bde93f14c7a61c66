/* By order: arg_max, the place of an extreme, and top_k, the k first ones. Along one axis; a NaN
 * counts as larger than every number, so that a broken step shows up. Of equal ones the first comes
 * first, as in ONNX. */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "ops/channels.h"
#include "ops/describe.h"
#include "ops/node.h"
#include "ops/walk.h"

/* Visits the lines along an axis: `index` walks all other axes. */
typedef struct lines {
    int axis, rank;
    int64_t dims[DD_MAX_RANK], n; /* dims with 1 at the axis; elements of a line */
} lines;

static lines lines_of(int64_t axis, const dd_type *t) {
    lines l = {.axis = (int)(axis < 0 ? axis + t->rank : axis), .rank = t->rank};
    memcpy(l.dims, t->dims, sizeof l.dims);
    l.n = l.dims[l.axis];
    l.dims[l.axis] = 1;
    return l;
}

/* Whether a comes before b: the larger one first, or with `smallest` the smaller one. */
static bool before(float a, float b, bool smallest) {
    if (isnan(a) || isnan(b))
        return smallest ? isnan(b) && !isnan(a) : isnan(a) && !isnan(b);
    return smallest ? a < b : a > b;
}

/* Indices are s32. */
static dd_status check_axis(const char *who, const dd_type *x, int64_t axis, int *at) {
    DD_TRY(dd_need_rank(who, "x", x, 1, DD_MAX_RANK));
    DD_TRY(dd_need_axis(who, axis, x->rank, at));
    if (x->dims[*at] < 1 || x->dims[*at] > INT32_MAX)
        return dd_fail(DD_EVALUE, "%s: axis %d has %" PRId64 " elements, 1 to 2^31 - 1 are needed",
                       who, *at, x->dims[*at]);
    return DD_OK;
}

/* ---- arg_max ------------------------------------------------------------------------------- */

static const dd_field arg_max_fields[] = {
    DD_INT(dd_arg_max_params, axis, -1),
    DD_BOOL(dd_arg_max_params, minimum, 0),
    DD_BOOL(dd_arg_max_params, keepdims, 1),
    DD_BOOL(dd_arg_max_params, last, 0),
    DD_END,
};

static dd_status arg_max_infer(const dd_node *node, const dd_type *in, dd_type *out, int *n_out) {
    const dd_arg_max_params *p = node->params;
    int axis;
    DD_TRY(check_axis("arg_max", &in[0], p->axis, &axis));
    dd_type y = {.dtype = DD_S32};
    for (int k = 0; k < in[0].rank; k++)
        if (k != axis || p->keepdims)
            y.dims[y.rank++] = k == axis ? 1 : in[0].dims[k];
    out[0] = y;
    *n_out = 1;
    return DD_OK;
}

/* Of equal ones the first, or the last. */
static int32_t best_of(const float *x, int64_t step, int64_t n, bool smallest, bool last) {
    int64_t best = 0;
    for (int64_t i = 1; i < n; i++) {
        float v = x[i * step], most = x[best * step];
        if (last ? !before(most, v, smallest) : before(v, most, smallest))
            best = i;
    }
    return (int32_t)best;
}

/* The result's elements in row-major order, whatever its shape. */
static dd_status arg_max_forward(const dd_op_args *a) {
    const dd_arg_max_params *p = a->params;
    const dd_array *x = &a->in[0], *y = &a->out[0];
    int64_t xs[DD_MAX_RANK], index[DD_MAX_RANK] = {0}, place = 0, last = dd_type_last(&y->type);
    lines l = lines_of(p->axis, &x->type);
    if (dd_type_count(&x->type) == 0)
        return DD_OK;
    dd_strides(x, xs);
    do {
        int32_t *row = (int32_t *)(void *)dd_row_any(y, place / last);
        row[place++ % last] = best_of((const float *)x->data + dd_dot(l.rank, index, xs),
                                      xs[l.axis], l.n, p->minimum, p->last);
    } while (dd_next(l.rank, l.dims, index));
    return DD_OK;
}

static int arg_max_sample(int i, void *params, dd_type *in, int *n_in) {
    static const struct {
        dd_arg_max_params p;
        int n;
        dd_type in[1];
    } cases[] = {
        {{.axis = -1, .keepdims = 1}, 1, {F32(2, 3, 4, 7)}},
        {{.axis = 1}, 1, {F32(2, 5, 3)}},
        {{.axis = 0, .minimum = 1, .keepdims = 1}, 1, {F32(4, 3)}},
        {{.axis = 0, .last = 1}, 1, {F32(9)}},
        {{.axis = 2, .minimum = 1, .last = 1}, 1, {F32(2, 3, 4, 2, 2)}},
    };
    SAMPLES(cases, i, params, in, n_in);
}

/* ---- top_k --------------------------------------------------------------------------------- */

static const dd_field top_k_fields[] = {
    DD_INT(dd_top_k_params, k, 1),
    DD_INT(dd_top_k_params, axis, -1),
    DD_BOOL(dd_top_k_params, smallest, 0),
    DD_END,
};

static dd_status top_k_infer(const dd_node *node, const dd_type *in, dd_type *out, int *n_out) {
    const dd_top_k_params *p = node->params;
    int axis;
    DD_TRY(check_axis("top_k", &in[0], p->axis, &axis));
    if (p->k < 1 || p->k > in[0].dims[axis])
        return dd_fail(DD_EVALUE, "top_k: k is %" PRId64 ", 1 to the axis' %" PRId64 " is needed",
                       p->k, in[0].dims[axis]);
    out[0] = in[0];
    out[0].dims[axis] = p->k;
    out[1] = out[0];
    out[1].dtype = DD_S32;
    *n_out = 2;
    return DD_OK;
}

/* The k best of the line so far. */
static size_t top_k_scratch(const dd_node *node, const dd_type *in) {
    (void)in;
    return node->backward ? 0
                          : (size_t)((const dd_top_k_params *)node->params)->k * sizeof(int32_t);
}

/* A line, and the order of its positions: a total one, so the result does not depend on how it is
 * found. */
typedef struct line {
    const float *x;
    int64_t step;
    bool smallest;
} line;

static bool precedes(const line *l, int32_t i, int32_t j) {
    float a = l->x[i * l->step], b = l->x[j * l->step];
    return before(a, b, l->smallest) || (!before(b, a, l->smallest) && i < j);
}

/* Heap order from `at` down: a parent comes after its children, so the root is the first to go. */
static void sift(const line *l, int32_t *heap, int64_t n, int64_t at) {
    for (int64_t child; (child = 2 * at + 1) < n; at = child) {
        if (child + 1 < n && precedes(l, heap[child], heap[child + 1]))
            child++;
        if (!precedes(l, heap[at], heap[child]))
            return;
        int32_t held = heap[at];
        heap[at] = heap[child];
        heap[child] = held;
    }
}

/* The k first of n positions, in order. */
static void select_first(const line *l, int64_t n, int64_t k, int32_t *heap) {
    for (int64_t i = 0; i < k; i++)
        heap[i] = (int32_t)i;
    for (int64_t i = k / 2; i-- > 0;)
        sift(l, heap, k, i);
    for (int64_t i = k; i < n; i++)
        if (precedes(l, (int32_t)i, heap[0])) {
            heap[0] = (int32_t)i;
            sift(l, heap, k, 0);
        }
    for (int64_t left = k; left-- > 1;) {
        int32_t held = heap[0];
        heap[0] = heap[left];
        heap[left] = held;
        sift(l, heap, left, 0);
    }
}

static dd_status top_k_forward(const dd_op_args *a) {
    const dd_top_k_params *p = a->params;
    const dd_array *x = &a->in[0], *values = &a->out[0], *places = &a->out[1];
    int64_t xs[DD_MAX_RANK], vs[DD_MAX_RANK], ps[DD_MAX_RANK], index[DD_MAX_RANK] = {0};
    int32_t *heap = a->scratch;
    lines l = lines_of(p->axis, &x->type);
    if (dd_type_count(&x->type) == 0)
        return DD_OK;
    dd_strides(x, xs);
    dd_strides(values, vs);
    dd_strides(places, ps);
    do {
        line at = {(const float *)x->data + dd_dot(l.rank, index, xs), xs[l.axis], p->smallest};
        float *value = values->data;
        int32_t *place = places->data;
        select_first(&at, l.n, p->k, heap);
        for (int64_t i = 0; value && i < p->k; i++)
            value[dd_dot(l.rank, index, vs) + i * vs[l.axis]] = at.x[heap[i] * at.step];
        for (int64_t i = 0; place && i < p->k; i++)
            place[dd_dot(l.rank, index, ps) + i * ps[l.axis]] = heap[i];
    } while (dd_next(l.rank, l.dims, index));
    return DD_OK;
}

/* Each chosen element gets its gradient, the others 0. */
static dd_status top_k_backward(const dd_op_args *a) {
    const dd_top_k_params *p = a->params;
    const dd_array *dx = &a->din[0], *dy = &a->dout[0], *places = &a->out[1];
    int64_t xs[DD_MAX_RANK], ds[DD_MAX_RANK], ps[DD_MAX_RANK], index[DD_MAX_RANK] = {0};
    if (!dx->data)
        return DD_OK;
    dd_fill_zero(dx);
    lines l = lines_of(p->axis, &dx->type);
    if (!dy->data || dd_type_count(&dx->type) == 0)
        return DD_OK;
    dd_strides(dx, xs);
    dd_strides(dy, ds);
    dd_strides(places, ps);
    do {
        float *to = (float *)dx->data + dd_dot(l.rank, index, xs);
        const float *from = (const float *)dy->data + dd_dot(l.rank, index, ds);
        const int32_t *place = (const int32_t *)places->data + dd_dot(l.rank, index, ps);
        for (int64_t i = 0; i < p->k; i++)
            to[place[i * ps[l.axis]] * xs[l.axis]] = from[i * ds[l.axis]];
    } while (dd_next(l.rank, l.dims, index));
    return DD_OK;
}

static int top_k_sample(int i, void *params, dd_type *in, int *n_in) {
    static const struct {
        dd_top_k_params p;
        int n;
        dd_type in[1];
    } cases[] = {
        {{.k = 3, .axis = -1}, 1, {F32(2, 3, 9)}},
        {{.k = 4, .axis = 1, .smallest = 1}, 1, {F32(2, 6, 3)}},
        {{.k = 5, .axis = 0}, 1, {F32(5)}},
        {{.k = 1, .axis = 2}, 1, {F32(2, 3, 4, 2)}},
    };
    SAMPLES(cases, i, params, in, n_in);
}

const dd_op dd_op_arg_max = {
    .name = "arg_max",
    .doc = "The place (s32) of x's maximum, or `minimum`, along `axis`, which stays with size 1 "
           "(keepdims) or goes. Of equal ones the first, or the `last`. A NaN is the largest.",
    .version = 1,
    .min_in = 1,
    .max_in = 1,
    .params_size = sizeof(dd_arg_max_params),
    .fields = arg_max_fields,
    .flags = DD_OP_NO_GRAD,
    .infer = arg_max_infer,
    .forward = arg_max_forward,
    .sample = arg_max_sample,
};

const dd_op dd_op_top_k = {
    .name = "top_k",
    .doc = "The k largest (or `smallest`) of x along `axis`, in order, and their places (s32); of "
           "equal ones the first comes first. A NaN is the largest.",
    .version = 1,
    .min_in = 1,
    .max_in = 1,
    .n_outputs = 2,
    .params_size = sizeof(dd_top_k_params),
    .fields = top_k_fields,
    .backward_uses = DD_USES_OUT(1),
    .infer = top_k_infer,
    .scratch = top_k_scratch,
    .forward = top_k_forward,
    .backward = top_k_backward,
    .sample = top_k_sample,
};
