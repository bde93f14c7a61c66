/* The move step: concatenations, pieces, transposes, shuffles and reshapes that no window spares,
 * by rows and threads.
 *
 * Each is one box or several: a loop nest with a stride an axis on both sides. The two axes that
 * lie closest together in memory become one call of a kernel, the others an odometer; the longest
 * axis is cut into units. */
#include <string.h>

#include "base/threads.h"
#include "graph/steps.h"
#include "ops/walk.h"

/* Elements between neighbours along each axis of a value. */
static void strides_of(const dd_pvalue *v, int64_t *strides) {
    int64_t step = 1;
    for (int i = v->type.rank; i-- > 0;) {
        strides[i] = i == 0 && v->type.rank >= 2 ? v->image : step;
        step = i == v->type.rank - 1 ? v->pitch : step * v->type.dims[i];
    }
}

/* ---- boxes --------------------------------------------------------------------------------- */

/* A part and the box of `whole` that begins `before` positions along `axis`. */
static dd_move part_box(const dd_run *run, int whole, int part, int axis, int64_t before,
                        bool to_part) {
    const dd_pvalue *w = &run->plan->values[whole], *p = &run->plan->values[part];
    int64_t strides[DD_MAX_RANK];
    dd_move m = {.rank = p->type.rank, .bytes = sizeof(float)};
    memcpy(m.dims, p->type.dims, (size_t)m.rank * sizeof *m.dims);
    strides_of(w, strides);
    memcpy(to_part ? m.from_strides : m.to_strides, strides, sizeof strides);
    float *box = (float *)run->plan->data[whole] + before * strides[axis];
    strides_of(p, to_part ? m.to_strides : m.from_strides);
    m.from = to_part ? box : run->plan->data[part];
    m.to = to_part ? run->plan->data[part] : box;
    return m;
}

static int axis_of(const dd_node *n, int rank) {
    int64_t axis = ((const dd_axis_params *)n->params)->axis;
    return (int)(axis < 0 ? axis + rank : axis);
}

static dd_move joined_box(const dd_run *run, const dd_node *n, int part) {
    bool split = n->op == &dd_op_split;
    const dd_pvalue *values = run->plan->values;
    int whole = split ? n->in[0] : n->out[0], axis = axis_of(n, values[whole].type.rank);
    const int *parts = split ? n->out : n->in;
    int64_t before = 0;
    for (int i = 0; i < part; i++)
        before += values[parts[i]].type.dims[axis];
    return part_box(run, whole, parts[part], axis, before, split);
}

/* A box between the node's input and its output, of the output's shape; the strides of the input
 * are the caller's. */
static dd_move whole_box(const dd_run *run, const dd_node *n) {
    const dd_pvalue *y = &run->plan->values[n->out[0]];
    dd_move m = {.rank = y->type.rank,
                 .from = run->plan->data[n->in[0]],
                 .to = run->plan->data[n->out[0]],
                 .bytes = sizeof(float)};
    memcpy(m.dims, y->type.dims, (size_t)m.rank * sizeof *m.dims);
    strides_of(y, m.to_strides);
    return m;
}

/* Python's rule for where a cut begins. */
static int64_t first_of(int64_t start, int64_t step, int64_t size) {
    int64_t low = step > 0 ? 0 : -1, high = step > 0 ? size : size - 1;
    start = start < 0 ? start + size : start;
    return start < low ? low : start > high ? high : start;
}

static dd_move slice_box(const dd_run *run, const dd_node *n) {
    const dd_slice_params *p = n->params;
    const dd_pvalue *x = &run->plan->values[n->in[0]];
    dd_move m = whole_box(run, n);
    strides_of(x, m.from_strides);
    int64_t offset = 0;
    for (int64_t i = 0; i < p->starts.n; i++) {
        int64_t axis = p->axes.n ? p->axes.v[i] : i, step = p->steps.n ? p->steps.v[i] : 1;
        axis = axis < 0 ? axis + x->type.rank : axis;
        offset += first_of(p->starts.v[i], step, x->type.dims[axis]) * m.from_strides[axis];
        m.from_strides[axis] *= step;
    }
    m.from = (const float *)m.from + offset;
    return m;
}

static dd_move transpose_box(const dd_run *run, const dd_node *n) {
    const dd_ints *perm = &((const dd_transpose_params *)n->params)->perm;
    int64_t strides[DD_MAX_RANK];
    dd_move m = whole_box(run, n);
    strides_of(&run->plan->values[n->in[0]], strides);
    for (int k = 0; k < m.rank; k++) {
        int64_t axis = perm->n ? perm->v[k] : m.rank - 1 - k;
        m.from_strides[k] = strides[axis < 0 ? axis + m.rank : axis];
    }
    return m;
}

/* Rows of one length on both sides: images, rows of an image, the last axis. */
static dd_move rows_box(const dd_run *run, const dd_node *n) {
    const dd_pvalue *x = &run->plan->values[n->in[0]], *y = &run->plan->values[n->out[0]];
    int64_t images = y->type.rank >= 2 ? y->type.dims[0] : 1, c = dd_type_last(&y->type);
    return (dd_move){.rank = 3,
                     .dims = {images, dd_type_rows(&y->type) / images, c},
                     .from_strides = {x->image, x->pitch, 1},
                     .to_strides = {y->image, y->pitch, 1},
                     .from = run->plan->data[n->in[0]],
                     .to = run->plan->data[n->out[0]],
                     .bytes = sizeof(float)};
}

/* Pixels of `groups` × `each` channels to pixels of `each` × `groups`. */
static dd_move shuffle_box(const dd_run *run, const dd_node *n) {
    int64_t groups = ((const dd_shuffle_params *)n->params)->groups;
    dd_move m = rows_box(run, n);
    int64_t each = m.dims[2] / groups;
    m.rank = 4;
    m.dims[2] = each;
    m.dims[3] = groups;
    m.from_strides[3] = each;
    m.to_strides[2] = groups;
    m.to_strides[3] = 1;
    return m;
}

static dd_move box_of(const dd_run *run, const dd_node *n, int part) {
    if (n->op == &dd_op_concat || n->op == &dd_op_split)
        return joined_box(run, n, part);
    if (n->op == &dd_op_slice)
        return slice_box(run, n);
    if (n->op == &dd_op_transpose)
        return transpose_box(run, n);
    return n->op == &dd_op_channel_shuffle ? shuffle_box(run, n) : rows_box(run, n);
}

/* ---- running a box ------------------------------------------------------------------------- */

static int contiguous_axis(const dd_move *m, const int64_t *strides) {
    for (int k = m->rank; k-- > 0;)
        if (strides[k] == 1 && m->dims[k] > 1)
            return k;
    return -1;
}

static int longest_axis(const dd_move *m, int but) {
    int longest = -1;
    for (int k = 0; k < m->rank; k++)
        if (k != but && (longest < 0 || m->dims[k] > m->dims[longest]))
            longest = k;
    return longest;
}

/* All but axes a and b is an odometer. */
static void run_planes(const dd_run *run, const dd_move *m, int a, int b) {
    const dd_kernels_table *kernels = run->plan->kernels;
    int64_t dims[DD_WALK_RANK], index[DD_WALK_RANK] = {0};
    memcpy(dims, m->dims, sizeof dims);
    dims[a] = dims[b] = 1;
    do {
        const float *from = (const float *)m->from + dd_dot(m->rank, index, m->from_strides);
        float *to = (float *)m->to + dd_dot(m->rank, index, m->to_strides);
        if (m->to_strides[a] == 1) /* and so has the source: lines along a */
            kernels->copy_f32(from, m->from_strides[b], to, m->to_strides[b], m->dims[b],
                              m->dims[a]);
        else /* lines along a become lines along b */
            kernels->transpose_f32(from, m->from_strides[b], to, m->to_strides[a], m->dims[b],
                                   m->dims[a]);
    } while (dd_next(m->rank, dims, index));
}

/* Unit `unit` of `units` of a box: a share of its longest axis. */
static void run_box(const dd_run *run, dd_move m, int64_t unit, int64_t units) {
    int a = contiguous_axis(&m, m.from_strides), b = contiguous_axis(&m, m.to_strides);
    int cut = longest_axis(&m, a == b ? a : -1);
    int64_t begin, end;
    if (m.from == m.to || m.to == NULL)
        return;
    if (cut >= 0) {
        dd_cut(m.dims[cut], units, unit, &begin, &end);
        m.dims[cut] = end - begin;
        m.from = (const float *)m.from + begin * m.from_strides[cut];
        m.to = (float *)m.to + begin * m.to_strides[cut];
    } else if (unit > 0) {
        return;
    }
    for (int k = 0; k < m.rank; k++)
        if (m.dims[k] == 0)
            return;
    if (a == b)
        b = longest_axis(&m, a);
    bool lines = a >= 0 && b >= 0 && (m.to_strides[a] == 1 || m.to_strides[b] == 1);
    if (lines)
        run_planes(run, &m, a, b);
    else
        dd_move_run(&m);
}

static int parts_of(const dd_node *n) {
    return n->op == &dd_op_concat ? n->n_in : n->op == &dd_op_split ? n->n_out : 1;
}

static int64_t move_units(const dd_plan *plan, const dd_step *s, int phase, int threads) {
    (void)plan;
    (void)s;
    (void)phase;
    return threads == 1 ? 1 : 4 * (int64_t)threads;
}

static void move_run(const dd_run *run, const dd_step *s, int phase, int64_t unit, int thread) {
    const dd_node *n = &run->plan->graph->nodes[s->nodes[0]];
    (void)thread;
    for (int i = 0; i < parts_of(n); i++)
        run_box(run, box_of(run, n, i), unit, s->units(run->plan, s, phase, dd_threads()));
}

/* ---- matching ------------------------------------------------------------------------------ */

/* Whether a box or a few describe what the node does. */
static bool is_move(const dd_plan *plan, const dd_node *n) {
    const dd_type *x = &plan->values[n->in[0]].type, *y = &plan->values[n->out[0]].type;
    if (n->backward || x->dtype != DD_F32 || x->rank < 1 || y->rank < 1 || dd_type_count(y) == 0)
        return false;
    if (n->op == &dd_op_reshape) {
        bool images = x->rank >= 2 && y->rank >= 2 && x->dims[0] == y->dims[0];
        return dd_type_last(x) == dd_type_last(y) && images;
    }
    return n->op == &dd_op_concat || n->op == &dd_op_split || n->op == &dd_op_slice ||
           n->op == &dd_op_transpose || n->op == &dd_op_channel_shuffle;
}

dd_status dd_match_move(dd_plan *plan, const dd_store *store, int node, bool *matched) {
    (void)store;
    const dd_node *n = &plan->graph->nodes[node];
    if (n->n_in == 0 || !is_move(plan, n))
        return DD_OK;
    dd_step *s;
    DD_TRY(dd_step_new(plan, "move", &s));
    s->run = move_run;
    s->units = move_units;
    dd_step_node(plan, s, node);
    for (int i = 0; i < n->n_in; i++)
        dd_step_reads(plan, s, n->in[i]);
    for (int i = 0; i < n->n_out; i++)
        dd_step_writes(s, n->out[i]);
    *matched = true;
    return DD_OK;
}
