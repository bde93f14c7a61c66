/* Matrix products: (…, M, K) × (…, K, N), batched. A Linear layer is transpose_b with a bias.
 *
 * The leading axes broadcast: an operand of rank 2 serves every matrix of a batched other one. Its
 * gradient sums over all that it served. */
#include <inttypes.h>
#include <string.h>

#include "ops/channels.h"
#include "ops/describe.h"
#include "ops/node.h"
#include "ops/walk.h"

static const dd_field matmul_fields[] = {
    DD_BOOL(dd_matmul_params, transpose_a, 0),
    DD_BOOL(dd_matmul_params, transpose_b, 0),
    DD_END,
};

/* The two matrix axes of an operand, as rows and columns of the product. */
static int64_t axis(const dd_type *t, bool transposed, int k) {
    return t->dims[t->rank - 2 + (transposed ? 1 - k : k)];
}

/* The result's leading axes: NumPy's broadcasting, aligned at the end. */
static bool leading(const dd_type *a, const dd_type *b, dd_type *y) {
    *y = a->rank >= b->rank ? *a : *b;
    for (int k = 0; k < y->rank - 2; k++) {
        int ka = k - (y->rank - a->rank), kb = k - (y->rank - b->rank);
        int64_t in_a = ka < 0 ? 1 : a->dims[ka], in_b = kb < 0 ? 1 : b->dims[kb];
        if (in_a != in_b && in_a != 1 && in_b != 1)
            return false;
        y->dims[k] = in_a == 1 ? in_b : in_a;
    }
    return true;
}

static dd_status matmul_infer(const dd_node *node, const dd_type *in, dd_type *out, int *n_out) {
    const dd_matmul_params *p = node->params;
    char a_text[192], b_text[192];
    dd_type y;
    DD_TRY(dd_need_rank("matmul", "a", &in[0], 2, DD_MAX_RANK));
    DD_TRY(dd_need_rank("matmul", "b", &in[1], 2, DD_MAX_RANK));
    if (!leading(&in[0], &in[1], &y))
        return dd_fail(DD_EVALUE, "matmul: a is %s, b is %s: the leading axes must broadcast",
                       dd_type_text(&in[0], a_text, sizeof a_text),
                       dd_type_text(&in[1], b_text, sizeof b_text));
    int64_t k_a = axis(&in[0], p->transpose_a, 1), k_b = axis(&in[1], p->transpose_b, 0);
    if (k_a != k_b)
        return dd_fail(DD_EVALUE, "matmul: a has %" PRId64 " columns, b has %" PRId64 " rows", k_a,
                       k_b);
    y.dims[y.rank - 2] = axis(&in[0], p->transpose_a, 0);
    y.dims[y.rank - 1] = axis(&in[1], p->transpose_b, 1);
    out[0] = y;
    if (node->n_in > 2 && dd_present(&in[2]))
        DD_TRY(dd_need_vector("matmul", "bias", &in[2], dd_type_last(&out[0])));
    *n_out = 1;
    return DD_OK;
}

/* A batch of matrices: element (row, column) of a matrix is data[row·r + column·c], and lead[k]
 * elements lie between neighbours along the result's leading axis k; 0 where one serves all. */
typedef struct batch {
    float *data;
    int64_t rows, columns, r, c, lead[DD_MAX_RANK];
} batch;

static batch batch_of(const dd_array *a, bool transposed, const dd_type *y) {
    int rank = a->type.rank, missing = y->rank - rank;
    batch b = {.data = a->data,
               .rows = axis(&a->type, transposed, 0),
               .columns = axis(&a->type, transposed, 1),
               .r = transposed ? 1 : a->pitch,
               .c = transposed ? a->pitch : 1};
    int64_t strides[DD_MAX_RANK];
    dd_strides(a, strides);
    for (int k = 0; k < rank - 2; k++)
        b.lead[missing + k] = a->type.dims[k] == 1 ? 0 : strides[k];
    return b;
}

/* Axes that a result's element sums over beside the products' own: those along which the operand
 * whose gradient it is was broadcast. */
typedef struct nest {
    int rank;
    int64_t dims[DD_MAX_RANK], x[DD_MAX_RANK], y[DD_MAX_RANK];
} nest;

enum { BLOCK = 64 }; /* columns whose sums are held at a time */

/* sums[j] += Σ_k x[k·x->c] · y[k·y->r + j·y->c]. Where y's columns are neighbours they run
 * together, else a sum at a time along k. */
static void add_row(double *sums, const batch *x, const float *a, const batch *y, const float *b,
                    int64_t columns) {
    int64_t depth = x->columns;
    if (y->c == 1) {
        for (int64_t k = 0; k < depth; k++) {
            double v = (double)a[k * x->c];
            const float *row = b + k * y->r;
            for (int64_t j = 0; j < columns; j++)
                sums[j] += v * (double)row[j];
        }
        return;
    }
    for (int64_t j = 0; j < columns; j++)
        for (int64_t k = 0; k < depth; k++)
            sums[j] += (double)a[k * x->c] * (double)b[k * y->r + j * y->c];
}

/* One matrix: to[i, j] = bias[j] + Σ_k x[i, k] · y[k, j], summed over the nest as well. */
static void product(const batch *out, float *to, const batch *x, const float *a, const batch *y,
                    const float *b, const nest *n, const float *bias) {
    double sums[BLOCK];
    for (int64_t i = 0; i < out->rows; i++)
        for (int64_t first = 0; first < out->columns; first += BLOCK) {
            int64_t columns = out->columns - first < BLOCK ? out->columns - first : BLOCK;
            int64_t index[DD_MAX_RANK] = {0};
            for (int64_t j = 0; j < columns; j++)
                sums[j] = bias ? (double)bias[first + j] : 0;
            do
                add_row(sums, x, a + i * x->r + dd_dot(n->rank, index, n->x), y,
                        b + first * y->c + dd_dot(n->rank, index, n->y), columns);
            while (dd_next(n->rank, n->dims, index));
            for (int64_t j = 0; j < columns; j++)
                to[i * out->r + (first + j) * out->c] = (float)sums[j];
        }
}

/* Every matrix of `out`, which is broadcast along those leading axes `dims` where it stands still.
 */
static void products(const batch *out, const batch *x, const batch *y, int rank,
                     const int64_t *dims, const float *bias) {
    nest over = {0}, sum = {0};
    int64_t to[DD_MAX_RANK], index[DD_MAX_RANK] = {0};
    for (int k = 0; k < rank; k++) {
        nest *n = out->lead[k] || dims[k] == 1 ? &over : &sum;
        to[over.rank] = out->lead[k];
        n->dims[n->rank] = dims[k];
        n->x[n->rank] = x->lead[k];
        n->y[n->rank++] = y->lead[k];
    }
    do
        product(out, out->data + dd_dot(over.rank, index, to), x,
                x->data + dd_dot(over.rank, index, over.x), y,
                y->data + dd_dot(over.rank, index, over.y), &sum, bias);
    while (dd_next(over.rank, over.dims, index));
}

/* The bias joins the sum in double. */
static dd_status matmul_forward(const dd_op_args *args) {
    const dd_matmul_params *p = args->params;
    const dd_type *t = &args->out[0].type;
    batch a = batch_of(&args->in[0], p->transpose_a, t);
    batch b = batch_of(&args->in[1], p->transpose_b, t), y = batch_of(&args->out[0], false, t);
    if (dd_type_count(t) > 0)
        products(&y, &a, &b, t->rank - 2, t->dims, args->n_in > 2 ? args->in[2].data : NULL);
    return DD_OK;
}

/* The transpose is the same memory with other strides. */
static batch turned(batch b) {
    batch t = b;
    t.rows = b.columns;
    t.columns = b.rows;
    t.r = b.c;
    t.c = b.r;
    return t;
}

/* With y = a·b: da = dy·bᵀ, db = aᵀ·dy, dbias = the sum of dy's rows. Nothing flows into a result
 * without elements. */
static dd_status matmul_backward(const dd_op_args *args) {
    const dd_matmul_params *p = args->params;
    const dd_type *t = &args->dout[0].type;
    batch a = batch_of(&args->in[0], p->transpose_a, t);
    batch b = batch_of(&args->in[1], p->transpose_b, t), dy = batch_of(&args->dout[0], false, t);
    batch a_t = turned(a), b_t = turned(b);
    for (int i = 0; i < 2; i++) {
        if (!args->din[i].data)
            continue;
        batch d = batch_of(&args->din[i], i ? p->transpose_b : p->transpose_a, t);
        if (dd_type_count(t) == 0)
            dd_fill_zero(&args->din[i]);
        else
            products(&d, i ? &a_t : &dy, i ? &dy : &b_t, t->rank - 2, t->dims, NULL);
    }
    if (args->n_in > 2 && args->din[2].data)
        for (int64_t j = 0; j < dy.columns; j++) {
            double sum = 0;
            for (int64_t row = 0; row < dd_type_rows(t); row++)
                sum += (double)dd_row_f32(&args->dout[0], row)[j];
            ((float *)args->din[2].data)[j] = (float)sum;
        }
    return DD_OK;
}

/* A Linear layer (transpose_b, a parameter) makes new channels; any other product locks. */
static void matmul_channels(const dd_node *node, dd_channel_ids *ids) {
    const dd_matmul_params *p = node->params;
    bool linear = p->transpose_b && !p->transpose_a && dd_channels_axis(ids, 1, 2) < 0;
    if (!linear) {
        for (int i = 0; i < node->n_in; i++)
            dd_channels_lock(ids, i);
        return;
    }
    dd_channels_fresh(ids, 0, dd_channels_axis(ids, 1, 0));
    dd_channels_axis_input(ids, 1, 1, 0);
    dd_channels_axis_output(ids, 1, 0, 0);
    if (node->n_in > 2)
        dd_channels_axis_output(ids, 2, 0, 0);
}

/* An element of the result costs K. */
static int64_t matmul_macs(const dd_node *node, const dd_type *in) {
    dd_type out;
    int n_out;
    if (matmul_infer(node, in, &out, &n_out) != DD_OK)
        return 0;
    return dd_type_count(&out) *
           axis(&in[0], ((const dd_matmul_params *)node->params)->transpose_a, 1);
}

static int matmul_sample(int i, void *params, dd_type *in, int *n_in) {
    static const struct {
        dd_matmul_params p;
        int n;
        dd_type in[3];
    } cases[] = {
        {{0, 0}, 2, {F32(3, 5), F32(5, 7)}},
        {{0, 1}, 3, {F32(4, 9), F32(6, 9), F32(6)}},
        {{0, 1}, 3, {F32(2, 3, 4, 5), F32(7, 5), F32(7)}},
        {{1, 0}, 2, {F32(2, 5, 3), F32(2, 5, 4)}},
        {{1, 1}, 3, {F32(2, 2, 5, 3), F32(2, 2, 4, 5), F32(4)}},
        {{0, 0}, 2, {F32(3, 5), F32(2, 5, 2)}},
        {{0, 0}, 2, {F32(2, 1, 3, 5), F32(4, 5, 2)}},
        {{0, 1}, 3, {F32(3, 1, 2, 4), F32(1, 2, 70, 4), F32(70)}},
        {{1, 0}, 2, {F32(2, 3, 4), F32(1, 3, 5)}},
    };
    SAMPLES(cases, i, params, in, n_in);
}

const dd_op dd_op_matmul = {
    .name = "matmul",
    .doc = "a (…, M, K) times b (…, K, N), plus an optional bias (N). The leading axes broadcast. "
           "A transposed operand lies as (…, K, M) or (…, N, K).",
    .version = 1,
    .min_in = 2,
    .max_in = 3,
    .params_size = sizeof(dd_matmul_params),
    .fields = matmul_fields,
    .backward_uses = DD_USES_IN(0) | DD_USES_IN(1),
    .infer = matmul_infer,
    .forward = matmul_forward,
    .backward = matmul_backward,
    .channels = matmul_channels,
    .quant = DD_Q_COMPUTE,
    .macs = matmul_macs,
    .sample = matmul_sample,
};
