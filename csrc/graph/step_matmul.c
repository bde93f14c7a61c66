/* The matrix product: a's rows against packed matrices of b, with bias and activation.
 *
 * b is packed before the run where it is a parameter, else in a phase of its own. Where one matrix
 * of b serves all of a (a Linear layer), all of a's rows are one matrix. Units are blocks of rows
 * or, where rows are few, of columns: a sum is formed in the order of k whatever the cut. */
#include "base/threads.h"
#include "graph/steps.h"
#include "ops/walk.h"

enum { FEW_ROWS = 32 };

/* An operand by the result's leading axes: 0 where one matrix serves all along an axis. */
typedef struct operand {
    int64_t rows, columns, row, column; /* strides of the two, as the product sees them */
    int64_t lead[DD_MAX_RANK];
} operand;

typedef struct product {
    int rank; /* leading axes */
    int64_t dims[DD_MAX_RANK], matrices;
    operand a, b, y;
    int64_t b_matrices;
    size_t b_floats;           /* of a packed matrix */
    int64_t b_at[DD_MAX_RANK]; /* packed matrices between neighbours along the leading axes */
} product;

/* ---- geometry ------------------------------------------------------------------------------ */

static operand operand_of(const dd_pvalue *v, bool transposed, int rank) {
    int64_t strides[DD_MAX_RANK], step = 1;
    int own = v->type.rank, missing = rank + 2 - own;
    for (int i = own; i-- > 0;) {
        strides[i] = i == 0 && own >= 2 ? v->image : step;
        step = i == own - 1 ? v->pitch : step * v->type.dims[i];
    }
    operand o = {.rows = v->type.dims[own - 2 + transposed],
                 .columns = v->type.dims[own - 1 - transposed],
                 .row = strides[own - 2 + transposed],
                 .column = strides[own - 1 - transposed]};
    for (int k = 0; k < own - 2; k++)
        o.lead[missing + k] = v->type.dims[k] == 1 ? 0 : strides[k];
    return o;
}

/* Whether the matrices lie behind each other, so that their rows can be one matrix's. */
static bool one_behind_other(const product *p, const operand *o) {
    int64_t step = o->rows * o->row;
    for (int k = p->rank; k-- > 0; step *= p->dims[k])
        if (p->dims[k] != 1 && o->lead[k] != step)
            return false;
    return true;
}

static product measure(const dd_plan *plan, const dd_step *s) {
    const dd_node *n = &plan->graph->nodes[s->nodes[0]];
    const dd_matmul_params *params = n->params;
    const dd_type *y = &plan->values[s->y].type, *b = &plan->values[n->in[1]].type;
    product p = {.rank = y->rank - 2, .matrices = 1, .b_matrices = 1};
    p.a = operand_of(&plan->values[n->in[0]], params->transpose_a, p.rank);
    p.b = operand_of(&plan->values[n->in[1]], params->transpose_b, p.rank);
    p.y = operand_of(&plan->values[s->y], false, p.rank);
    for (int k = 0; k < p.rank; k++) {
        p.dims[k] = y->dims[k];
        p.matrices *= y->dims[k];
    }
    for (int k = b->rank - 2, at = p.rank; k-- > 0;) {
        p.b_at[--at] = b->dims[k] == 1 ? 0 : p.b_matrices;
        p.b_matrices *= b->dims[k];
    }
    p.b_floats = (plan->kernels->gemm_f32_packed(p.b.rows, (int)p.b.columns) + 15) / 16 * 16;
    if (p.b_matrices == 1 && !params->transpose_a && one_behind_other(&p, &p.a) &&
        one_behind_other(&p, &p.y)) {
        p.a.rows *= p.matrices;
        p.y.rows *= p.matrices;
        p.matrices = 1;
        p.rank = 0;
    }
    return p;
}

/* ---- packing ------------------------------------------------------------------------------- */

/* The i-th matrix of b, its own leading axes counted in row-major order. */
static void pack(const dd_run *run, const dd_step *s, const product *p, int64_t i) {
    const dd_plan *plan = run->plan;
    int value = plan->graph->nodes[s->nodes[0]].in[1];
    const dd_pvalue *v = &plan->values[value];
    const float *b = plan->data[value];
    int64_t left = i, step = 1;
    for (int k = v->type.rank - 2; k-- > 0; left /= v->type.dims[k]) {
        step = k == v->type.rank - 3 ? v->type.dims[k + 1] * v->pitch : step * v->type.dims[k + 1];
        b += left % v->type.dims[k] * (k == 0 ? v->image : step);
    }
    plan->kernels->gemm_f32_pack(b, p->b.row, p->b.column, p->b.rows, (int)p->b.columns,
                                 plan->packed + s->packed + (size_t)i * p->b_floats);
}

static void prepare(const dd_run *run, const dd_step *s, int thread) {
    product p = measure(run->plan, s);
    (void)thread;
    for (int64_t i = 0; i < p.b_matrices; i++)
        pack(run, s, &p, i);
}

/* ---- products ------------------------------------------------------------------------------ */

/* What a unit does of a matrix: rows and columns begin..end-1. */
typedef struct block {
    int64_t row, row_end, column, column_end;
} block;

static int64_t parts_of(const dd_plan *plan, const product *p, int threads) {
    int64_t wanted = threads == 1 ? 1 : (4 * threads + p->matrices - 1) / p->matrices;
    int64_t panel = plan->kernels->gemm_f32_panel((int)p->b.columns);
    int64_t most =
        p->a.rows >= FEW_ROWS ? p->a.rows / (FEW_ROWS / 4) : (p->b.columns + panel - 1) / panel;
    return wanted < most ? wanted : most;
}

static block block_of(const dd_plan *plan, const product *p, int64_t parts, int64_t part) {
    block b = {0, p->a.rows, 0, p->b.columns};
    int64_t panel = plan->kernels->gemm_f32_panel((int)p->b.columns);
    if (p->a.rows >= FEW_ROWS) {
        dd_cut(p->a.rows, parts, part, &b.row, &b.row_end);
        return b;
    }
    dd_cut((p->b.columns + panel - 1) / panel, parts, part, &b.column, &b.column_end);
    b.column *= panel;
    b.column_end = b.column_end * panel < p->b.columns ? b.column_end * panel : p->b.columns;
    return b;
}

/* a's rows where they lie, or turned in scratch: the product reads them along k. */
static const float *rows_of(const dd_run *run, const product *p, const float *a, const block *b,
                            float *scratch, int64_t *pitch) {
    *pitch = p->a.row;
    if (p->a.column == 1)
        return a + b->row * p->a.row;
    *pitch = p->a.columns;
    run->plan->kernels->transpose_f32(a + b->row, p->a.column, scratch, p->a.columns, p->a.columns,
                                      b->row_end - b->row);
    return scratch;
}

static void multiply(const dd_run *run, const dd_step *s, const product *p, int64_t matrix,
                     const block *b, float *scratch) {
    const dd_plan *plan = run->plan;
    const dd_node *n = &plan->graph->nodes[s->nodes[0]];
    int64_t index[DD_MAX_RANK] = {0}, left = matrix, lda;
    for (int k = p->rank; k-- > 0; left /= p->dims[k])
        index[k] = left % p->dims[k];
    const float *a = (const float *)plan->data[n->in[0]] + dd_dot(p->rank, index, p->a.lead);
    a = rows_of(run, p, a, b, scratch, &lda);
    float *y = (float *)plan->data[s->y] + dd_dot(p->rank, index, p->y.lead);
    plan->kernels->gemm_f32(&(dd_gemm){
        .a = &a,
        .lda = lda,
        .segments = 1,
        .k = (int)p->a.columns,
        .b = plan->packed + s->packed + (size_t)dd_dot(p->rank, index, p->b_at) * p->b_floats,
        .c = y + b->row * p->y.row,
        .ldc = p->y.row,
        .m = b->row_end - b->row,
        .n = (int)p->b.columns,
        .bias = n->n_in > 2 && n->in[2] >= 0 ? plan->data[n->in[2]] : NULL,
        .act = s->act,
        .n_begin = (int)b->column,
        .n_end = (int)b->column_end});
}

static void step_run(const dd_run *run, const dd_step *s, int phase, int64_t unit, int thread) {
    product p = measure(run->plan, s);
    if (phase + 1 < s->n_phases) {
        pack(run, s, &p, unit);
        return;
    }
    int64_t parts = parts_of(run->plan, &p, dd_threads());
    block b = block_of(run->plan, &p, parts, unit % parts);
    multiply(run, s, &p, unit / parts, &b, dd_scratch(run, thread));
}

static int64_t step_units(const dd_plan *plan, const dd_step *s, int phase, int threads) {
    product p = measure(plan, s);
    if (phase + 1 < s->n_phases)
        return p.b_matrices;
    return p.matrices * parts_of(plan, &p, threads);
}

/* ---- matching ------------------------------------------------------------------------------ */

static bool is_empty(const dd_plan *plan, const dd_node *n) {
    return dd_type_count(&plan->values[n->in[0]].type) == 0 ||
           dd_type_count(&plan->values[n->in[1]].type) == 0;
}

dd_status dd_match_matmul(dd_plan *plan, const dd_store *store, int node, bool *matched) {
    (void)store;
    const dd_node *n = &plan->graph->nodes[node];
    if (n->op != &dd_op_matmul || n->backward || is_empty(plan, n))
        return DD_OK;
    bool parameter = plan->graph->values[n->in[1]].kind == DD_VALUE_ENTRY;
    dd_step *s;
    DD_TRY(dd_step_new(plan, "matmul", &s));
    s->run = step_run;
    s->units = step_units;
    s->prepare = parameter ? prepare : NULL;
    s->n_phases = parameter ? 1 : 2;
    s->y = n->out[0];
    dd_step_node(plan, s, node);
    for (int i = 0; i < n->n_in; i++)
        if (n->in[i] >= 0)
            dd_step_reads(plan, s, n->in[i]);
    product p = measure(plan, s);
    s->packed = plan->packed_size;
    plan->packed_size += (size_t)p.b_matrices * p.b_floats;
    if (((const dd_matmul_params *)n->params)->transpose_a)
        s->scratch = (size_t)(p.a.rows * p.a.columns) * sizeof(float);
    dd_take_activation(plan, s);
    dd_step_writes(s, s->y);
    *matched = true;
    return DD_OK;
}
