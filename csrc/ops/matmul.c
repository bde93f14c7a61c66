/* Matrix products: (…, M, K) × (…, K, N), batched. A Linear layer is transpose_b with a bias.
 *
 * An operand of rank 2 serves every matrix of a batched other one; its gradient sums over them. */
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

/* No full broadcasting: equal leading axes, or one matrix for the whole batch. */
static dd_status matmul_infer(const dd_node *node, const dd_type *in, dd_type *out, int *n_out) {
    const dd_matmul_params *p = node->params;
    char a_text[192], b_text[192];
    DD_TRY(dd_need_rank("matmul", "a", &in[0], 2, DD_MAX_RANK));
    DD_TRY(dd_need_rank("matmul", "b", &in[1], 2, DD_MAX_RANK));
    const dd_type *wide = in[0].rank >= in[1].rank ? &in[0] : &in[1];
    bool fits = in[0].rank == in[1].rank || in[0].rank == 2 || in[1].rank == 2;
    for (int k = 0; fits && in[0].rank == in[1].rank && k < wide->rank - 2; k++)
        fits = in[0].dims[k] == in[1].dims[k];
    if (!fits)
        return dd_fail(DD_EVALUE, "matmul: a is %s, b is %s: the leading axes must agree",
                       dd_type_text(&in[0], a_text, sizeof a_text),
                       dd_type_text(&in[1], b_text, sizeof b_text));
    int64_t k_a = axis(&in[0], p->transpose_a, 1), k_b = axis(&in[1], p->transpose_b, 0);
    if (k_a != k_b)
        return dd_fail(DD_EVALUE, "matmul: a has %" PRId64 " columns, b has %" PRId64 " rows", k_a,
                       k_b);
    out[0] = *wide;
    out[0].dims[wide->rank - 2] = axis(&in[0], p->transpose_a, 0);
    out[0].dims[wide->rank - 1] = axis(&in[1], p->transpose_b, 1);
    if (node->n_in > 2 && dd_present(&in[2]))
        DD_TRY(dd_need_vector("matmul", "bias", &in[2], dd_type_last(&out[0])));
    *n_out = 1;
    return DD_OK;
}

/* A batch of matrices: element (row, column) of matrix i is data[i·matrix + row·r + column·c]. */
typedef struct batch {
    float *data;
    int64_t rows, columns, count, matrix, r, c;
} batch;

static batch batch_of(const dd_array *a, bool transposed) {
    const int64_t *dims = a->type.dims;
    int rank = a->type.rank;
    batch b = {.data = a->data,
               .rows = axis(&a->type, transposed, 0),
               .columns = axis(&a->type, transposed, 1),
               .count = 1,
               .matrix = dims[rank - 2] * a->pitch,
               .r = transposed ? 1 : a->pitch,
               .c = transposed ? a->pitch : 1};
    for (int k = 0; k < rank - 2; k++)
        b.count *= dims[k];
    if (rank == 2) /* one matrix for all */
        b.matrix = 0;
    return b;
}

/* out[i, j] of matrix `at` = Σ_k x[i, k] · y[k, j], summed over matrices begin..end-1 as well. */
static void product(const batch *out, int64_t at, const batch *x, const batch *y, int64_t begin,
                    int64_t end, const float *bias) {
    float *to = out->data + at * out->matrix;
    for (int64_t i = 0; i < out->rows; i++)
        for (int64_t j = 0; j < out->columns; j++) {
            double sum = bias ? (double)bias[j] : 0;
            for (int64_t m = begin; m < end; m++) {
                const float *a = x->data + m * x->matrix + i * x->r;
                const float *b = y->data + m * y->matrix + j * y->c;
                for (int64_t k = 0; k < x->columns; k++)
                    sum += (double)a[k * x->c] * (double)b[k * y->r];
            }
            to[i * out->r + j * out->c] = (float)sum;
        }
}

/* The bias joins the sum in double. */
static dd_status matmul_forward(const dd_op_args *args) {
    const dd_matmul_params *p = args->params;
    batch a = batch_of(&args->in[0], p->transpose_a), b = batch_of(&args->in[1], p->transpose_b);
    batch y = batch_of(&args->out[0], false);
    const float *bias = args->n_in > 2 ? args->in[2].data : NULL;
    for (int64_t i = 0; i < y.count; i++)
        product(&y, i, &a, &b, i, i + 1, bias);
    return DD_OK;
}

/* The transpose is the same memory with other strides. */
static batch turned(batch b) {
    return (batch){b.data, b.columns, b.rows, b.count, b.matrix, b.c, b.r};
}

/* An operand's gradient: x · y, by matrix, or summed where the operand is one for all. */
static void operand_gradient(const batch *out, const batch *x, const batch *y, int64_t count) {
    bool shared = out->matrix == 0;
    for (int64_t i = 0; i < (shared ? 1 : count); i++)
        product(out, i, x, y, shared ? 0 : i, shared ? count : i + 1, NULL);
}

/* With y = a·b: da = dy·bᵀ, db = aᵀ·dy, dbias = the sum of dy's rows. */
static dd_status matmul_backward(const dd_op_args *args) {
    const dd_matmul_params *p = args->params;
    batch a = batch_of(&args->in[0], p->transpose_a), b = batch_of(&args->in[1], p->transpose_b);
    batch dy = batch_of(&args->dout[0], false), a_t = turned(a), b_t = turned(b);
    if (args->din[0].data) {
        batch da = batch_of(&args->din[0], p->transpose_a);
        operand_gradient(&da, &dy, &b_t, dy.count);
    }
    if (args->din[1].data) {
        batch db = batch_of(&args->din[1], p->transpose_b);
        operand_gradient(&db, &a_t, &dy, dy.count);
    }
    if (args->n_in > 2 && args->din[2].data)
        for (int64_t j = 0; j < dy.columns; j++) {
            double sum = 0;
            for (int64_t row = 0; row < dy.count * dy.rows; row++)
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
    };
    SAMPLES(cases, i, params, in, n_in);
}

const dd_op dd_op_matmul = {
    .name = "matmul",
    .doc = "a (…, M, K) times b (…, K, N), plus an optional bias (N). Leading axes agree, or one "
           "operand has rank 2. A transposed operand lies as (…, K, M) or (…, N, K).",
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
