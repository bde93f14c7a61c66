/* Pad: a larger array around a box, of one value or of the box's own elements. */
#include <inttypes.h>
#include <string.h>

#include "ops/channels.h"
#include "ops/describe.h"
#include "ops/node.h"
#include "ops/walk.h"

static const char *const mode_names[] = {"constant", "edge", "reflect", "wrap", NULL};

enum { CONSTANT = 0, EDGE, REFLECT, WRAP };

static const dd_field pad_fields[] = {
    DD_INTS(dd_pad_params, before),
    DD_INTS(dd_pad_params, after),
    DD_FLOAT(dd_pad_params, value, 0),
    DD_ENUM(dd_pad_params, mode, CONSTANT, mode_names),
    DD_END,
};

/* Lists of the rank's length: an axis without pads says 0. A mirror has no second one behind it. */
static dd_status pad_infer(const dd_node *node, const dd_type *in, dd_type *out, int *n_out) {
    const dd_pad_params *p = node->params;
    DD_TRY(dd_need_f32("pad", "x", &in[0]));
    DD_TRY(dd_need_list("pad", "before", &p->before, in[0].rank, 0));
    DD_TRY(dd_need_list("pad", "after", &p->after, in[0].rank, 0));
    out[0] = in[0];
    for (int k = 0; k < in[0].rank; k++) {
        int64_t most = p->before.v[k] > p->after.v[k] ? p->before.v[k] : p->after.v[k];
        int64_t room = p->mode == REFLECT ? in[0].dims[k] - 1 : in[0].dims[k];
        if (p->mode != CONSTANT && p->mode != EDGE && most > room)
            return dd_fail(DD_EVALUE,
                           "pad: %" PRId64 " positions before or after axis %d of %" PRId64
                           ", at most %" PRId64 " can be its own",
                           most, k, in[0].dims[k], room < 0 ? 0 : room);
        if (p->mode == EDGE && most > 0 && in[0].dims[k] == 0)
            return dd_fail(DD_EVALUE, "pad: axis %d is empty and has no edge", k);
        out[0].dims[k] += p->before.v[k] + p->after.v[k];
    }
    *n_out = 1;
    return DD_OK;
}

/* ---- constant: a move of the box ----------------------------------------------------------- */

/* Between x (or its gradient) and its place in the padded array. */
static void move_inner(const dd_pad_params *p, const dd_array *x, const dd_array *padded,
                       bool out) {
    int64_t strides[DD_MAX_RANK];
    dd_move m = {.rank = x->type.rank, .bytes = sizeof(float)};
    dd_strides(padded, strides);
    memcpy(m.dims, x->type.dims, (size_t)m.rank * sizeof *m.dims);
    memcpy(out ? m.to_strides : m.from_strides, strides, (size_t)m.rank * sizeof *strides);
    dd_strides(x, out ? m.from_strides : m.to_strides);
    float *first = (float *)padded->data + dd_dot(m.rank, p->before.v, strides);
    m.from = out ? x->data : first;
    m.to = out ? first : x->data;
    dd_move_run(&m);
}

/* ---- x's own elements ---------------------------------------------------------------------- */

/* Which of x's positions stands at position `at` of a padded axis. */
static int64_t source(int64_t mode, int64_t at, int64_t before, int64_t size) {
    int64_t i = at - before;
    if (i >= 0 && i < size)
        return i;
    if (mode == EDGE)
        return i < 0 ? 0 : size - 1;
    if (mode == REFLECT)
        return i < 0 ? -i : 2 * (size - 1) - i;
    return i < 0 ? i + size : i - size;
}

/* Where a row of the padded array comes from: the row of x; `index` counts the padded axes but the
 * last. */
static int64_t source_row(const dd_pad_params *p, const dd_type *x, const int64_t *index) {
    int64_t row = 0;
    for (int k = 0; k < x->rank - 1; k++)
        row = row * x->dims[k] + source(p->mode, index[k], p->before.v[k], x->dims[k]);
    return row;
}

/* A row: its middle is x's, the pads at its ends one by one. */
static void pad_row(const dd_pad_params *p, const float *from, float *to, int64_t n, int64_t wide) {
    int64_t before = p->before.v[p->before.n - 1];
    memcpy(to + before, from, (size_t)n * sizeof *to);
    for (int64_t i = 0; i < before; i++)
        to[i] = from[source(p->mode, i, before, n)];
    for (int64_t i = before + n; i < wide; i++)
        to[i] = from[source(p->mode, i, before, n)];
}

/* Constant: everything gets the value first, so the border has no case of its own. */
static dd_status pad_forward(const dd_op_args *a) {
    const dd_pad_params *p = a->params;
    const dd_array *x = &a->in[0], *y = &a->out[0];
    int64_t index[DD_MAX_RANK] = {0}, row = 0;
    if (p->mode == CONSTANT || x->type.rank == 0) {
        dd_fill_f32(y, (float)p->value);
        move_inner(p, x, y, true);
        return DD_OK;
    }
    if (dd_type_count(&y->type) == 0)
        return DD_OK;
    do
        pad_row(p, dd_row_f32(x, source_row(p, &x->type, index)), dd_row_f32(y, row++),
                dd_type_last(&x->type), dd_type_last(&y->type));
    while (dd_next(y->type.rank - 1, y->type.dims, index));
    return DD_OK;
}

static size_t pad_scratch(const dd_node *node, const dd_type *in) {
    bool sums = node->backward && ((const dd_pad_params *)node->params)->mode != CONSTANT;
    return sums ? (size_t)dd_type_count(&in[0]) * sizeof(double) : 0;
}

/* An element's gradient is that of all its copies: sums in double. Constant pads lead nowhere. */
static dd_status pad_backward(const dd_op_args *a) {
    const dd_pad_params *p = a->params;
    const dd_array *dy = &a->dout[0], *dx = &a->din[0];
    double *sums = a->scratch;
    int64_t index[DD_MAX_RANK] = {0}, row = 0, n = dd_type_last(&dx->type);
    if (!dx->data)
        return DD_OK;
    if (p->mode == CONSTANT || dx->type.rank == 0) {
        move_inner(p, dx, dy, false);
        return DD_OK;
    }
    memset(sums, 0, (size_t)dd_type_count(&dx->type) * sizeof *sums);
    if (dd_type_count(&dy->type) > 0)
        do {
            const float *d = dd_row_f32(dy, row++);
            double *to = sums + source_row(p, &dx->type, index) * n;
            for (int64_t i = 0; i < dd_type_last(&dy->type); i++)
                to[source(p->mode, i, p->before.v[dx->type.rank - 1], n)] += (double)d[i];
        } while (dd_next(dy->type.rank - 1, dy->type.dims, index));
    for (int64_t r = 0; r < dd_type_rows(&dx->type); r++)
        for (int64_t i = 0; i < n; i++)
            dd_row_f32(dx, r)[i] = (float)sums[r * n + i];
    return DD_OK;
}

/* ---- rules --------------------------------------------------------------------------------- */

/* Of x's rows inside the range, and of those that stand for pads in it. */
static dd_status pad_window(const dd_node *node, const dd_type *in, dd_range out, int input,
                            dd_range *rows) {
    const dd_pad_params *p = node->params;
    (void)input;
    if (in[0].rank < 2) {
        *rows = (dd_range){0, 1};
        return DD_OK;
    }
    int64_t height = in[0].dims[1], before = p->before.v[1];
    *rows = (dd_range){height, 0};
    for (int64_t y = out.begin; y < out.end; y++) {
        if (p->mode == CONSTANT && (y < before || y >= before + height))
            continue;
        int64_t from = source(p->mode, y, before, height);
        rows->begin = from < rows->begin ? from : rows->begin;
        rows->end = from + 1 > rows->end ? from + 1 : rows->end;
    }
    if (rows->end == 0)
        *rows = (dd_range){0, 0};
    return DD_OK;
}

static int pad_sample(int i, void *params, dd_type *in, int *n_in) {
    static const struct {
        dd_pad_params p;
        int n;
        dd_type in[1];
    } cases[] = {
        {{.before = INTS(0, 1, 2, 0), .after = INTS(0, 2, 0, 0), .value = 0.5},
         1,
         {F32(2, 3, 4, 5)}},
        {{.before = INTS(0, 0, 0, 1), .after = INTS(0, 0, 0, 3)}, 1, {F32(1, 2, 3, 4)}},
        {{.before = INTS(2), .after = INTS(1), .value = -1}, 1, {F32(5)}},
        {{.before = INTS(1, 0, 0, 2, 1), .after = INTS(0, 1, 0, 0, 1)}, 1, {F32(2, 1, 2, 3, 2)}},
        {{.before = INTS(0, 2, 1, 0), .after = INTS(0, 1, 3, 0), .mode = EDGE},
         1,
         {F32(2, 3, 4, 5)}},
        {{.before = INTS(0, 2, 1, 1), .after = INTS(0, 1, 3, 2), .mode = REFLECT},
         1,
         {F32(1, 3, 4, 5)}},
        {{.before = INTS(0, 3, 1, 2), .after = INTS(1, 1, 4, 0), .mode = WRAP},
         1,
         {F32(2, 3, 4, 3)}},
        {{.before = INTS(4), .after = INTS(1), .mode = REFLECT}, 1, {F32(5)}},
    };
    SAMPLES(cases, i, params, in, n_in);
}

const dd_op dd_op_pad = {
    .name = "pad",
    .doc = "x with `before` and `after` positions along each axis: constant `value`; edge, the "
           "outer element again; reflect, mirrored without the edge; wrap, from the other end.",
    .version = 1,
    .min_in = 1,
    .max_in = 1,
    .params_size = sizeof(dd_pad_params),
    .fields = pad_fields,
    .infer = pad_infer,
    .scratch = pad_scratch,
    .forward = pad_forward,
    .backward = pad_backward,
    .window = pad_window,
    .quant = DD_Q_TIE,
    .sample = pad_sample,
};
