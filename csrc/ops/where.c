/* where: one of two values elementwise, by a condition, with NumPy's broadcasting of all three. */
#include <string.h>

#include "ops/channels.h"
#include "ops/describe.h"
#include "ops/node.h"
#include "ops/walk.h"

/* The condition is what comparisons give: bytes; s32 too. a and b are of one dtype. */
static dd_status where_infer(const dd_node *node, const dd_type *in, dd_type *out, int *n_out) {
    char text[3][192];
    (void)node;
    for (int i = 0; i < 3; i++)
        if (in[i].rank < 0)
            return dd_fail(DD_EVALUE, "where: input %d is missing", i);
    if (in[0].dtype != DD_U8 && in[0].dtype != DD_S8 && in[0].dtype != DD_S32)
        return dd_fail(DD_ETYPE, "where: condition is %s, u8, s8 or s32 is needed",
                       dd_dtype_name(in[0].dtype));
    if (in[1].dtype == DD_F16 || in[1].dtype == DD_BF16)
        return dd_fail(DD_ETYPE, "where: a is %s, f32, u8, s8 or s32 is needed",
                       dd_dtype_name(in[1].dtype));
    if (in[1].dtype != in[2].dtype)
        return dd_fail(DD_ETYPE, "where: a is %s, b is %s: one dtype is needed",
                       dd_dtype_name(in[1].dtype), dd_dtype_name(in[2].dtype));
    dd_type y = in[1];
    if (!dd_broadcast(&y, &in[2]) || !dd_broadcast(&y, &in[0]))
        return dd_fail(DD_EVALUE, "where: condition is %s, a is %s, b is %s: they do not broadcast",
                       dd_type_text(&in[0], text[0], sizeof *text),
                       dd_type_text(&in[1], text[1], sizeof *text),
                       dd_type_text(&in[2], text[2], sizeof *text));
    out[0] = y;
    *n_out = 1;
    return DD_OK;
}

/* ---- the walk: lines along the result's last axis ------------------------------------------ */

typedef struct lines {
    int outer;
    int64_t n, dims[DD_MAX_RANK], strides[3][DD_MAX_RANK], step[3];
} lines;

static lines lines_of(const dd_array *in, const dd_type *wide) {
    lines l = {.outer = wide->rank ? wide->rank - 1 : 0, .n = dd_type_last(wide)};
    memcpy(l.dims, wide->dims, sizeof l.dims);
    for (int i = 0; i < 3; i++) {
        dd_strides_broadcast(&in[i], wide, l.strides[i]);
        l.step[i] = wide->rank ? l.strides[i][l.outer] : 0;
    }
    return l;
}

/* Where input i's line begins. */
static const char *line_at(const dd_array *in, const lines *l, int i, const int64_t *index) {
    return (const char *)in[i].data +
           dd_dot(l->outer, index, l->strides[i]) * (int64_t)dd_dtype_bytes(in[i].type.dtype);
}

static bool holds(const char *condition, dd_dtype dtype, int64_t i) {
    return dtype == DD_S32 ? ((const int32_t *)(const void *)condition)[i] != 0 : condition[i] != 0;
}

/* A line of elements of one size: words are moved, whatever they mean. */
#define WHERE_LINE(word)                                                                           \
    for (int64_t i = 0; i < l.n; i++)                                                              \
        ((word *)(void *)to)[i] = holds(c, in[0].type.dtype, i * l.step[0])                        \
                                      ? ((const word *)(const void *)a)[i * l.step[1]]             \
                                      : ((const word *)(const void *)b)[i * l.step[2]];

static dd_status where_forward(const dd_op_args *args) {
    const dd_array *y = &args->out[0], *in = args->in;
    size_t bytes = dd_dtype_bytes(y->type.dtype);
    int64_t index[DD_MAX_RANK] = {0}, row = 0;
    lines l = lines_of(in, &y->type);
    if (dd_type_count(&y->type) == 0)
        return DD_OK;
    do {
        const char *c = line_at(in, &l, 0, index);
        const char *a = line_at(in, &l, 1, index), *b = line_at(in, &l, 2, index);
        char *to = dd_row_any(y, row++);
        if (bytes == 1)
            WHERE_LINE(char)
        else
            WHERE_LINE(int32_t)
    } while (dd_next(l.outer, l.dims, index));
    return DD_OK;
}

static size_t where_scratch(const dd_node *node, const dd_type *in) {
    int64_t a = dd_type_count(&in[1]), b = dd_type_count(&in[2]);
    return node->backward ? (size_t)(a > b ? a : b) * sizeof(double) : 0;
}

/* The gradient of operand `which`, 1 or 2: what it gave, summed in double where it was broadcast.
 */
static void operand_gradient(const dd_op_args *args, int which) {
    const dd_array *dy = &args->dout[0], *d = &args->din[which];
    double *sums = args->scratch;
    dd_array in[3] = {args->in[0], args->in[1], args->in[2]};
    int64_t index[DD_MAX_RANK] = {0}, row = 0;
    memset(sums, 0, (size_t)dd_type_count(&d->type) * sizeof *sums);
    in[which] = dd_array_dense(NULL, &d->type); /* strides of the dense twin */
    lines l = lines_of(in, &dy->type);
    if (dd_type_count(&dy->type) > 0)
        do {
            const char *c = line_at(in, &l, 0, index);
            const float *from = dd_row_f32(dy, row++);
            double *to = sums + dd_dot(l.outer, index, l.strides[which]);
            for (int64_t i = 0; i < l.n; i++)
                if (holds(c, in[0].type.dtype, i * l.step[0]) == (which == 1))
                    to[i * l.step[which]] += (double)from[i];
        } while (dd_next(l.outer, l.dims, index));
    int64_t last = dd_type_last(&d->type);
    for (int64_t r = 0; r < dd_type_rows(&d->type); r++)
        for (int64_t i = 0; i < last; i++)
            dd_row_f32(d, r)[i] = (float)sums[r * last + i];
}

static dd_status where_backward(const dd_op_args *args) {
    for (int i = 1; i < 3; i++)
        if (args->din[i].data)
            operand_gradient(args, i);
    return DD_OK;
}

/* ---- rules --------------------------------------------------------------------------------- */

static dd_status where_window(const dd_node *node, const dd_type *in, dd_range out, int input,
                              dd_range *rows) {
    (void)node;
    bool whole = in[input].rank < 4 || in[input].dims[1] == 1;
    *rows = whole ? (dd_range){0, in[input].rank < 2 ? 1 : in[input].dims[1]} : out;
    return DD_OK;
}

/* S32 conditions draw 0 and 1 in the tests. */
static int where_sample(int i, void *params, dd_type *in, int *n_in) {
    static const dd_type cases[][3] = {
        {S32(2, 3, 4, 5), F32(2, 3, 4, 5), F32(2, 3, 4, 5)},
        {S32(2, 3, 4, 1), F32(5), F32(2, 1, 1, 5)},
        {S32(7), F32(1), F32(3, 7)},
        {U8(2, 3), F32(2, 3), F32(2, 3)},
        {S32(4, 3), S32(3), S32(4, 1)},
        {S32(5, 3), U8(5, 3), U8(3)},
    };
    (void)params;
    if (i < 0 || (size_t)i >= sizeof cases / sizeof *cases)
        return 0;
    memcpy(in, cases[i], sizeof *cases);
    *n_in = 3;
    return 1;
}

const dd_op dd_op_where = {
    .name = "where",
    .doc =
        "a where the condition (u8, s8 or s32) is not 0, else b; with NumPy's broadcasting of all "
        "three (condition, a, b). a and b are of one dtype.",
    .version = 1,
    .min_in = 3,
    .max_in = 3,
    .backward_uses = DD_USES_IN(0),
    .infer = where_infer,
    .scratch = where_scratch,
    .forward = where_forward,
    .backward = where_backward,
    .window = where_window,
    .sample = where_sample,
};
