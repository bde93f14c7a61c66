/* Elementwise operators of two operands, with NumPy's broadcasting.
 *
 * Gradients of add, sub and mul are nodes (they are met in every net, and fusion must see through
 * them); the others have one plain backward. Sizes are not known when autodiff runs, so a
 * broadcast is undone by reduce(gradient, like = operand), which a plan drops where the shapes turn
 * out equal. */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "ops/channels.h"
#include "ops/describe.h"
#include "ops/grad.h"
#include "ops/walk.h"

static const char *const kind_names[] = {
    "add",  "sub",        "mul",     "div",           "max", "min", "pow", "equal", "not_equal",
    "less", "less_equal", "greater", "greater_equal", "and", "or",  "xor", NULL};

_Static_assert(sizeof kind_names / sizeof *kind_names == DD_COMPARISONS_END + 1,
               "a name for each kind");

static const dd_field binary_fields[] = {
    DD_ENUM(dd_binary_params, kind, DD_ADD, kind_names),
    DD_END,
};

/* Kinds behind the arithmetic ones: comparisons and logic, which give bytes. */
static bool compares(const void *params) {
    return ((const dd_binary_params *)params)->kind >= DD_BINARIES;
}

/* Arithmetic is float32's, or of places and counts (s32), which have no powers; comparisons take
 * two of any one dtype, logic takes bytes. */
static dd_status check_dtypes(const dd_binary_params *p, const dd_type *in) {
    static const char *const names[] = {"a", "b"};
    if (!compares(p)) {
        if (p->kind != DD_POW && in[0].rank >= 0 && in[1].rank >= 0 && in[0].dtype == DD_S32 &&
            in[1].dtype == DD_S32)
            return DD_OK;
        DD_TRY(dd_need_f32("binary", "a", &in[0]));
        return dd_need_f32("binary", "b", &in[1]);
    }
    for (int i = 0; i < 2; i++) {
        dd_dtype have = in[i].dtype;
        if (in[i].rank < 0)
            return dd_fail(DD_EVALUE, "binary: %s is missing", names[i]);
        if (p->kind >= DD_AND && have != DD_U8)
            return dd_fail(DD_ETYPE, "binary: %s is %s, u8 is needed", names[i],
                           dd_dtype_name(have));
        if (have == DD_F16 || have == DD_BF16)
            return dd_fail(DD_ETYPE, "binary: %s is %s, f32, u8, s8 or s32 is needed", names[i],
                           dd_dtype_name(have));
    }
    if (in[0].dtype != in[1].dtype)
        return dd_fail(DD_ETYPE, "binary: a is %s, b is %s: one dtype is needed",
                       dd_dtype_name(in[0].dtype), dd_dtype_name(in[1].dtype));
    return DD_OK;
}

static dd_status binary_infer(const dd_node *node, const dd_type *in, dd_type *out, int *n_out) {
    char a_text[192], b_text[192];
    DD_TRY(check_dtypes(node->params, in));
    dd_type y = in[0];
    if (!dd_broadcast(&y, &in[1]))
        return dd_fail(DD_EVALUE, "binary: a is %s, b is %s: they do not broadcast",
                       dd_type_text(&in[0], a_text, sizeof a_text),
                       dd_type_text(&in[1], b_text, sizeof b_text));
    y.dtype = compares(node->params) ? DD_U8 : in[0].dtype;
    out[0] = y;
    *n_out = 1;
    return DD_OK;
}

/* ---- walking the broadcast shape ----------------------------------------------------------- */

/* The result's shape by lines along its last axis. */
typedef struct lines {
    int outer;                                                 /* axes but the last */
    int64_t n;                                                 /* elements of a line */
    int64_t dims[DD_MAX_RANK], a[DD_MAX_RANK], b[DD_MAX_RANK]; /* strides of the operands */
    int64_t a_step, b_step;
} lines;

static lines lines_of(const dd_array *a, const dd_array *b, const dd_type *wide) {
    lines l = {.outer = wide->rank ? wide->rank - 1 : 0, .n = dd_type_last(wide)};
    dd_strides_broadcast(a, wide, l.a);
    dd_strides_broadcast(b, wide, l.b);
    memcpy(l.dims, wide->dims, sizeof l.dims);
    l.a_step = wide->rank ? l.a[l.outer] : 0;
    l.b_step = wide->rank ? l.b[l.outer] : 0;
    return l;
}

/* max and min let a NaN through, as NumPy's maximum does. */
static float arithmetic(int64_t kind, float a, float b) {
    switch (kind) {
    case DD_ADD:
        return a + b;
    case DD_SUB:
        return a - b;
    case DD_MUL:
        return a * b;
    case DD_DIV:
        return a / b;
    case DD_MAX:
        return isnan(a) || a > b ? a : b;
    case DD_MIN:
        return isnan(a) || a < b ? a : b;
    default:
        return (float)pow((double)a, (double)b);
    }
}

/* Exact or refused: what does not fit would be another number in a program with wider integers.
 * A division goes towards 0. */
static dd_status whole(int64_t kind, int32_t a, int32_t b, int32_t *y) {
    int64_t wide;
    if (kind == DD_DIV && b == 0)
        return dd_fail(DD_EVALUE, "binary: %" PRId32 " is to be divided by 0", a);
    switch (kind) {
    case DD_ADD:
        wide = (int64_t)a + b;
        break;
    case DD_SUB:
        wide = (int64_t)a - b;
        break;
    case DD_MUL:
        wide = (int64_t)a * b;
        break;
    case DD_DIV:
        wide = (int64_t)a / b;
        break;
    case DD_MAX:
        wide = a > b ? a : b;
        break;
    default:
        wide = a < b ? a : b;
    }
    if (wide < INT32_MIN || wide > INT32_MAX)
        return dd_fail(DD_EVALUE, "binary: %s of %" PRId32 " and %" PRId32 " is beyond 32 bits",
                       kind_names[kind], a, b);
    *y = (int32_t)wide;
    return DD_OK;
}

/* IEEE: all but not_equal are false where a NaN stands. Every value of the dtypes is exact in a
 * double. */
static uint8_t comparison(int64_t kind, double a, double b) {
    switch (kind) {
    case DD_EQUAL:
        return a == b;
    case DD_NOT_EQUAL:
        return a != b;
    case DD_LESS:
        return a < b;
    case DD_LESS_EQUAL:
        return a <= b;
    case DD_GREATER:
        return a > b;
    case DD_GREATER_EQUAL:
        return a >= b;
    case DD_AND:
        return a != 0 && b != 0;
    case DD_OR:
        return a != 0 || b != 0;
    default:
        return (a != 0) != (b != 0);
    }
}

static double load(const void *line, dd_dtype dtype, int64_t i) {
    switch (dtype) {
    case DD_U8:
        return (double)((const uint8_t *)line)[i];
    case DD_S8:
        return (double)((const int8_t *)line)[i];
    case DD_S32:
        return (double)((const int32_t *)line)[i];
    default:
        return (double)((const float *)line)[i];
    }
}

/* Where an operand's line begins. */
static const void *line_at(const dd_array *a, const lines *l, const int64_t *strides,
                           const int64_t *index) {
    return (const char *)a->data +
           dd_dot(l->outer, index, strides) * (int64_t)dd_dtype_bytes(a->type.dtype);
}

/* A line of the result is a row of y, whatever the operands' strides (0 where they repeat). */
static dd_status binary_forward(const dd_op_args *args) {
    const dd_array *y = &args->out[0], *in = args->in;
    int64_t kind = ((const dd_binary_params *)args->params)->kind;
    int64_t index[DD_MAX_RANK] = {0}, row = 0;
    dd_dtype dtype = in[0].type.dtype;
    lines l = lines_of(&in[0], &in[1], &y->type);
    if (dd_type_count(&y->type) == 0)
        return DD_OK;
    do {
        const void *a = line_at(&in[0], &l, l.a, index), *b = line_at(&in[1], &l, l.b, index);
        void *to = dd_row_any(y, row++);
        if (kind >= DD_BINARIES)
            for (int64_t i = 0; i < l.n; i++)
                ((uint8_t *)to)[i] =
                    comparison(kind, load(a, dtype, i * l.a_step), load(b, dtype, i * l.b_step));
        else if (dtype == DD_S32)
            for (int64_t i = 0; i < l.n; i++)
                DD_TRY(whole(kind, ((const int32_t *)a)[i * l.a_step],
                             ((const int32_t *)b)[i * l.b_step], (int32_t *)to + i));
        else
            for (int64_t i = 0; i < l.n; i++)
                ((float *)to)[i] = arithmetic(kind, ((const float *)a)[i * l.a_step],
                                              ((const float *)b)[i * l.b_step]);
    } while (dd_next(l.outer, l.dims, index));
    return DD_OK;
}

/* ---- gradients ----------------------------------------------------------------------------- */

/* Half of the gradient to each of two equal operands of max and min, as torch does. */
static double wins(int64_t kind, double a, double b) {
    if (a == b)
        return 0.5;
    return kind == DD_MAX ? a > b : a < b;
}

static double slope_a(int64_t kind, double a, double b) {
    switch (kind) {
    case DD_MUL:
        return b;
    case DD_DIV:
        return 1 / b;
    case DD_MAX:
    case DD_MIN:
        return wins(kind, a, b);
    case DD_POW:
        return b == 0 ? 0 : b * pow(a, b - 1);
    default:
        return 1;
    }
}

static double slope_b(int64_t kind, double a, double b) {
    switch (kind) {
    case DD_SUB:
        return -1;
    case DD_MUL:
        return a;
    case DD_DIV:
        return -a / (b * b);
    case DD_MAX:
    case DD_MIN:
        return wins(kind, b, a);
    case DD_POW: /* 0^b is constant in b */
        return a == 0 && b >= 0 ? 0 : pow(a, b) * log(a);
    default:
        return 1;
    }
}

/* Only the plain backward needs it, one operand at a time. */
static size_t binary_scratch(const dd_node *node, const dd_type *in) {
    int64_t a = dd_type_count(&in[0]), b = dd_type_count(&in[1]);
    return node->backward ? (size_t)(a > b ? a : b) * sizeof(double) : 0;
}

/* The gradient of one operand: sums in double, in a dense twin of it. */
static void operand_gradient(const dd_op_args *args, int which) {
    const dd_array *dout = &args->dout[0], *din = &args->din[which];
    int64_t kind = ((const dd_binary_params *)args->params)->kind;
    double *sums = args->scratch;
    dd_array twin = dd_array_dense(sums, &args->in[which].type);
    int64_t index[DD_MAX_RANK] = {0}, to[DD_MAX_RANK], row = 0;
    lines l = lines_of(&args->in[0], &args->in[1], &dout->type);
    memset(sums, 0, (size_t)dd_type_count(&din->type) * sizeof *sums);
    dd_strides_broadcast(&twin, &dout->type, to);
    int64_t step = dout->type.rank ? to[l.outer] : 0;
    if (dd_type_count(&dout->type) > 0)
        do {
            const float *a = (const float *)args->in[0].data + dd_dot(l.outer, index, l.a);
            const float *b = (const float *)args->in[1].data + dd_dot(l.outer, index, l.b);
            const float *d = dd_row_f32(dout, row++);
            double *sum = sums + dd_dot(l.outer, index, to);
            for (int64_t i = 0; i < l.n; i++) {
                double x = (double)a[i * l.a_step], y = (double)b[i * l.b_step];
                sum[i * step] += (double)d[i] * (which ? slope_b(kind, x, y) : slope_a(kind, x, y));
            }
        } while (dd_next(l.outer, l.dims, index));
    int64_t rows = dd_type_rows(&din->type), last = dd_type_last(&din->type);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < last; i++)
            dd_row_f32(din, r)[i] = (float)sums[r * last + i];
}

/* The plain gradient: of max, min, div and pow in nets, of all kinds for the tests. */
static dd_status binary_backward(const dd_op_args *args) {
    for (int i = 0; i < 2; i++)
        if (args->din[i].data)
            operand_gradient(args, i);
    return DD_OK;
}

/* *folded = gradient summed to the shape of `like`. */
static dd_status fold(dd_graph *g, const char *name, int gradient, int like, int *folded) {
    char text[DD_MAX_NAME + 1];
    int in[2] = {gradient, like};
    dd_reduce_params sum = {.kind = DD_SUM};
    return dd_grad_node(g, "reduce", dd_grad_name(text, "fold", name), &sum, in, 2, folded, 1);
}

/* gradient · other, for the operand that `other` was multiplied with. */
static dd_status times(dd_graph *g, const char *name, int gradient, int other, int *product) {
    char text[DD_MAX_NAME + 1];
    int in[2] = {gradient, other};
    dd_binary_params mul = {.kind = DD_MUL};
    return dd_grad_node(g, "binary", dd_grad_name(text, "d", name), &mul, in, 2, product, 1);
}

static dd_status binary_grad(dd_graph *g, int node, const int *dout, int *din) {
    char text[DD_MAX_NAME + 1];
    const dd_node n = *dd_grad_of(g, node);
    int64_t kind = ((const dd_binary_params *)n.params)->kind;
    dd_unary_params neg = {.kind = DD_NEG};
    if (kind >= DD_BINARIES) {
        din[0] = din[1] = -1;
        return DD_OK;
    }
    if (kind != DD_ADD && kind != DD_SUB && kind != DD_MUL)
        return dd_grad_backward(g, node, dout, din);
    for (int i = 0; i < 2; i++) {
        int gradient = dout[0];
        if (din[i] != 1)
            continue;
        if (kind == DD_MUL)
            DD_TRY(times(g, n.name, dout[0], n.in[1 - i], &gradient));
        DD_TRY(fold(g, n.name, gradient, n.in[i], &gradient));
        if (kind == DD_SUB && i == 1)
            DD_TRY(dd_grad_node(g, "unary", dd_grad_name(text, "neg", n.name), &neg, &gradient, 1,
                                &gradient, 1));
        din[i] = gradient;
    }
    return DD_OK;
}

/* ---- rules --------------------------------------------------------------------------------- */

/* Rows are the result's, or the one row of an operand that is broadcast over them. */
static dd_status binary_window(const dd_node *node, const dd_type *in, dd_range out, int input,
                               dd_range *rows) {
    (void)node;
    bool whole = in[input].rank < 4 || in[input].dims[1] == 1;
    *rows = whole ? (dd_range){0, in[input].rank < 2 ? 1 : in[input].dims[1]} : out;
    return DD_OK;
}

/* A residual addition ties both branches; one value a pixel (N, H, W, 1) ties nothing. */
static void binary_channels(const dd_node *node, dd_channel_ids *ids) {
    (void)node;
    int64_t a = dd_channels_count(ids, 0), b = dd_channels_count(ids, 1);
    dd_channels_unify(ids, 0, 1);
    dd_channels_keep(ids, 0, a == 1 && b > 1 ? 1 : 0);
    /* A parameter's last axis follows the other operand's channels. */
    for (int i = 0; i < 2; i++) {
        int rank = 0;
        while (dd_channels_axis(ids, i, rank) >= 0)
            rank++;
        if (rank > 0 && a == b)
            dd_channels_axis_input(ids, i, rank - 1, 1 - i);
    }
}

/* Shapes: equal, a vector a channel, a gate (N, 1, 1, C), an outer product, a scalar, a vector,
 * rank 5 against rank 4. */
static int binary_sample(int i, void *params, dd_type *in, int *n_in) {
    static const dd_type shapes[][2] = {
        {F32(2, 3, 5, 7), F32(2, 3, 5, 7)},
        {F32(2, 3, 5, 7), F32(7)},
        {F32(2, 1, 1, 7), F32(2, 3, 4, 7)},
        {F32(3, 1), F32(1, 5)},
        {F32(2, 1, 3), F32(1)},
        {F32(9), F32(9)},
        {F32(2, 1, 3, 1, 5), F32(4, 1, 2, 1)},
    };
    /* Logic on bytes, comparisons and arithmetic of integers. */
    static const struct {
        int64_t kind;
        dd_type in[2];
    } bytes[] = {{DD_AND, {U8(2, 3), U8(3)}},       {DD_OR, {U8(4), U8(4)}},
                 {DD_XOR, {U8(2, 1, 3), U8(2, 3)}}, {DD_LESS, {S32(3, 4), S32(1)}},
                 {DD_EQUAL, {U8(5), U8(5)}},        {DD_GREATER, {S8(2, 3), S8(2, 1)}},
                 {DD_ADD, {S32(2, 3), S32(3)}},     {DD_SUB, {S32(1), S32(2, 2)}},
                 {DD_MUL, {S32(3, 1), S32(2)}},     {DD_MIN, {S32(5), S32(5)}}};
    enum { SHAPES = sizeof shapes / sizeof *shapes, FLOATS_END = DD_AND + SHAPES - 1 };
    if (i < 0 || (size_t)i >= FLOATS_END + sizeof bytes / sizeof *bytes)
        return 0;
    /* Every kind once, then products of all other shapes. */
    dd_binary_params p = {.kind = i < DD_AND ? i : (i % 2 ? DD_MUL : DD_SUB)};
    if (i >= FLOATS_END)
        p.kind = bytes[i - FLOATS_END].kind;
    memcpy(params, &p, sizeof p);
    memcpy(in, i >= FLOATS_END ? bytes[i - FLOATS_END].in : shapes[i % SHAPES], sizeof *shapes);
    *n_in = 2;
    return 1;
}

const dd_op dd_op_binary = {
    .name = "binary",
    .doc = "a and b elementwise, by `kind`, with NumPy's broadcasting: floats, or s32 but for pow, "
           "where "
           "a result beyond 32 bits fails the run and div goes towards 0. Comparisons (of one "
           "dtype) and logic (of u8; not 0 is true) give u8, 0 or 1, and have no gradient.",
    .version = 1,
    .min_in = 2,
    .max_in = 2,
    .params_size = sizeof(dd_binary_params),
    .fields = binary_fields,
    .backward_uses = DD_USES_IN(0) | DD_USES_IN(1),
    .infer = binary_infer,
    .scratch = binary_scratch,
    .forward = binary_forward,
    .backward = binary_backward,
    .grad = binary_grad,
    .window = binary_window,
    .channels = binary_channels,
    .quant = DD_Q_REQUANT,
    .sample = binary_sample,
};
