/* Pending values, windows and places. See layout.h. */
#include "graph/layout.h"

#include <string.h>

#include "base/memory.h"

static bool is_concat(const dd_node *n) {
    return n->op == &dd_op_concat;
}

static bool is_cut(const dd_node *n) {
    return !n->backward && (n->op == &dd_op_split || n->op == &dd_op_slice);
}

/* ---- pending values ------------------------------------------------------------------------ */

/* Whether `node` can form `value` in its load. */
static bool loads_pending(const dd_plan *plan, int node, int value, dd_pending kind) {
    const dd_node *n = &plan->graph->nodes[node];
    if (n->backward)
        return false;
    if (n->op == &dd_op_conv)
        return plan->conv_of[node] >= 0 && n->in[0] == value && n->in[1] != value &&
               kind != DD_PENDING_BN_DX &&
               (kind != DD_PENDING_PARTS || dd_conv_pointwise(&plan->convs[plan->conv_of[node]]));
    if (n->op == &dd_op_conv_dw)
        return plan->conv_of[node] >= 0 && n->in[kind == DD_PENDING_BN_DX ? 1 : 0] == value &&
               n->in[0] != n->in[1];
    if (n->op == &dd_op_conv_dx)
        return plan->conv_of[node] >= 0 && kind == DD_PENDING_BN_DX && n->in[0] == value;
    return kind <= DD_PENDING_BN_DX && kind != DD_PENDING_U8 &&
           dd_pattern_on(plan, DD_PATTERN_sum) && dd_is_addition(plan, n);
}

static bool all_load(const dd_plan *plan, int value, dd_pending kind) {
    if (dd_is_output(plan, value))
        return false;
    for (int i = 0; i < plan->n_readers[value]; i++)
        if (!loads_pending(plan, plan->readers[value][i], value, kind))
            return false;
    return true;
}

/* Makes `value` pending, or, where somebody needs it stored, adds a pending row and a step that
 * stores it after `node`. */
static dd_status make_pending(dd_plan *plan, int value, int node, dd_pvalue pending) {
    dd_pvalue *v = &plan->values[value];
    pending.type = v->type;
    if (all_load(plan, value, pending.pending)) {
        pending.root = value;
        *v = pending;
        return DD_OK;
    }
    int second = (int)plan->n_values++;
    pending.root = second;
    plan->values[second] = pending;
    return dd_sum_store(plan, second, value, node);
}

static dd_status norm_pending(dd_plan *plan, int node) {
    const dd_graph *g = plan->graph;
    int value = g->nodes[node].out[0], last = node;
    dd_act act = {0};
    int reader = dd_sole_reader(plan, value);
    const dd_node *next = reader >= 0 ? &g->nodes[reader] : NULL;
    if (next && next->op == &dd_op_unary && !next->backward && !dd_is_output(plan, value)) {
        const dd_unary_params *u = next->params;
        act = (dd_act){(dd_unary)u->kind, (float)u->a, (float)u->b};
        value = next->out[0];
        last = reader;
        plan->taken[reader] = true;
    }
    int norm = plan->norm_of[node];
    return make_pending(
        plan, value, last,
        (dd_pvalue){
            .pending = DD_PENDING_AFFINE, .x = plan->norms[norm].x, .norm = norm, .act = act});
}

static dd_status gradient_pending(dd_plan *plan, int node) {
    const dd_node *n = &plan->graph->nodes[node];
    const dd_batch_norm_params *p = n->params;
    int norm = plan->norm_of[node];
    plan->taken[node] = true;
    return make_pending(plan, n->out[0], node,
                        (dd_pvalue){.pending = DD_PENDING_BN_DX,
                                    .x = plan->norms[norm].x,
                                    .dz = n->in[0],
                                    .norm = norm,
                                    .act = {(dd_unary)p->act, (float)p->a, (float)p->b}});
}

static void input_pending(dd_plan *plan, int node) {
    const dd_node *n = &plan->graph->nodes[node];
    const dd_dequantize_params *p = n->params;
    const dd_pvalue *x = &plan->values[n->in[0]];
    int value = n->out[0];
    if (x->type.dtype != DD_U8 || x->type.rank != 4 || p->scale.n != 1 || p->zero.n > 1 ||
        !all_load(plan, value, DD_PENDING_U8))
        return;
    plan->taken[node] = true;
    plan->values[value].pending = DD_PENDING_U8;
    plan->values[value].x = n->in[0];
    plan->values[value].scale = (float)p->scale.v[0];
    plan->values[value].zero = p->zero.n ? (float)p->zero.v[0] : 0;
}

static int axis_of(const dd_node *n, int rank) {
    int64_t axis = ((const dd_axis_params *)n->params)->axis;
    return (int)(axis < 0 ? axis + rank : axis);
}

/* A part of a concatenation that lies elsewhere already: its maker can't write it there. */
static bool lies_elsewhere(const dd_plan *plan, int part, int node) {
    const dd_graph *g = plan->graph;
    const dd_value *v = &g->values[part];
    if (v->kind != DD_VALUE_NODE || dd_is_output(plan, part))
        return true;
    for (int i = 0; i < plan->n_readers[part]; i++)
        if (plan->readers[part][i] != node && is_concat(&g->nodes[plan->readers[part][i]]))
            return true;
    return is_cut(&g->nodes[v->producer]);
}

/* A concatenation that 1×1 convolutions read part by part. Where every part can be written in its
 * place, windows are better. */
static void parts_pending(dd_plan *plan, int node) {
    const dd_node *n = &plan->graph->nodes[node];
    dd_pvalue *y = &plan->values[n->out[0]];
    bool elsewhere = false;
    if (plan->graph->training || y->type.rank != 4 || y->type.dtype != DD_F32 ||
        axis_of(n, 4) != 3 || n->n_in > DD_MAX_PARTS || plan->n_readers[n->out[0]] == 0 ||
        dd_type_count(&y->type) == 0)
        return;
    for (int i = 0; i < n->n_in; i++) {
        if (plan->values[n->in[i]].pending != DD_STORED)
            return;
        elsewhere |= lies_elsewhere(plan, n->in[i], node);
    }
    if (!elsewhere || !all_load(plan, n->out[0], DD_PENDING_PARTS))
        return;
    plan->taken[node] = true;
    y->pending = DD_PENDING_PARTS;
    y->parts = node;
}

/* An image with its channels first, as foreign nets have it: the convolution that reads it takes a
 * channel's rows for its segments. */
static void planes_pending(dd_plan *plan, int node) {
    const dd_node *n = &plan->graph->nodes[node];
    const dd_ints *perm = &((const dd_transpose_params *)n->params)->perm;
    const dd_pvalue *x = &plan->values[n->in[0]];
    int value = n->out[0], source = plan->graph->values[n->in[0]].kind;
    if (plan->graph->training || source != DD_VALUE_INPUT || x->type.rank != 4 ||
        x->type.dtype != DD_F32 || perm->n != 4 || perm->v[0] != 0 || perm->v[1] != 2 ||
        perm->v[2] != 3 || perm->v[3] != 1 || plan->n_readers[value] == 0 ||
        plan->n_readers[value] > 2 || !all_load(plan, value, DD_PENDING_NCHW))
        return;
    plan->taken[node] = true;
    plan->values[value].pending = DD_PENDING_NCHW;
    plan->values[value].x = n->in[0];
    for (int i = 0; i < plan->n_readers[value]; i++) {
        dd_conv *c = &plan->convs[plan->conv_of[plan->readers[value][i]]];
        c->planar = !c->depthwise && !c->by_tap && c->k_h * c->c_in <= 64;
    }
}

dd_status dd_layout_pending(dd_plan *plan) {
    const dd_graph *g = plan->graph;
    for (size_t i = 0; i < g->n_nodes; i++) {
        const dd_op *op = g->nodes[i].op;
        if (g->nodes[i].backward || plan->taken[i])
            continue;
        if (op == &dd_op_batch_norm && plan->norm_of[i] >= 0)
            DD_TRY(norm_pending(plan, (int)i));
        else if (op == &dd_op_bn_dx && plan->norm_of[i] >= 0)
            DD_TRY(gradient_pending(plan, (int)i));
        else if (op == &dd_op_dequantize)
            input_pending(plan, (int)i);
        else if (op == &dd_op_concat)
            parts_pending(plan, (int)i);
        else if (op == &dd_op_transpose)
            planes_pending(plan, (int)i);
    }
    return DD_OK;
}

/* ---- windows ------------------------------------------------------------------------------- */

/* A reshape, or the dequantize of an input that is given as floats. */
static bool is_reshape(const dd_plan *plan, const dd_node *n) {
    return (n->op->flags & DD_OP_VIEW) != 0 || (n->op == &dd_op_dequantize && !n->backward &&
                                                plan->values[n->in[0]].type.dtype == DD_F32);
}

/* A backward node's gradient of its first output. */
static int dout_of(const dd_node *n) {
    return n->in[n->forward_in + n->forward_out + n->n_saved];
}

static void set_pitches(dd_plan *plan) {
    const dd_graph *g = plan->graph;
    for (size_t i = 0; i < g->n_nodes; i++) {
        const dd_node *n = &g->nodes[i];
        if (!is_reshape(plan, n))
            continue;
        int a = n->backward ? dout_of(n) : n->in[0], b = n->out[0];
        if (a >= 0)
            plan->values[a].dense = true;
        if (b >= 0)
            plan->values[b].dense = true;
    }
    for (size_t i = 0; i < g->n_outputs; i++)
        plan->values[g->outputs[i]].dense = true;
    for (size_t i = 0; i < plan->n_values; i++) {
        dd_pvalue *v = &plan->values[i];
        int64_t c = dd_type_last(&v->type), lanes = v->type.dtype == DD_F32 ? 8 : 16;
        bool own = v->place == DD_AT_NONE && v->type.rank == 4 && !v->dense;
        v->pitch = own ? (c + lanes - 1) / lanes * lanes : c;
        int64_t n = v->type.rank >= 2 ? v->type.dims[0] : 1;
        v->image = n > 0 ? dd_type_rows(&v->type) / n * v->pitch : 0;
    }
}

/* May `value` move into a window of another buffer? */
static bool can_move(const dd_plan *plan, int value) {
    const dd_pvalue *v = &plan->values[value];
    return plan->graph->values[value].kind == DD_VALUE_NODE && v->place == DD_AT_NONE &&
           v->root == value && v->pending == DD_STORED && !dd_is_output(plan, value) &&
           v->type.rank >= 2 && dd_type_count(&v->type) > 0;
}

static void set_window(dd_plan *plan, int value, int of, int64_t elements, int64_t pitch,
                       int64_t image) {
    dd_pvalue *v = &plan->values[value];
    const dd_pvalue *o = &plan->values[of];
    v->root = o->root;
    v->root_offset = o->root_offset + (size_t)elements * dd_dtype_bytes(o->type.dtype);
    v->pitch = pitch;
    v->image = image;
}

/* Elements from the joined value's start to its part `before` positions along `axis`; -1 where the
 * part is no window (another axis, or pixels that must be dense). */
static int64_t part_offset(const dd_plan *plan, int joined, int part, int axis, int64_t before) {
    const dd_pvalue *o = &plan->values[joined], *v = &plan->values[part];
    if (axis == o->type.rank - 1)
        return v->dense && o->pitch != dd_type_last(&v->type) ? -1 : before;
    if (axis != 1)
        return -1;
    int64_t rows = before;
    for (int i = 2; i < o->type.rank - 1; i++)
        rows *= o->type.dims[i];
    return v->dense && o->pitch != dd_type_last(&v->type) ? -1 : rows * o->pitch;
}

static bool once(const dd_node *n, int value) {
    int times = 0;
    for (int i = 0; i < n->n_in; i++)
        times += n->in[i] == value;
    return times == 1;
}

/* The parts of a forward concat become windows of its result; true where all did. */
static bool move_parts(dd_plan *plan, const dd_node *n) {
    int joined = n->out[0];
    const dd_pvalue *o = &plan->values[joined];
    int axis = axis_of(n, o->type.rank);
    int64_t before = 0;
    bool all = o->type.rank >= 2;
    for (int i = 0; i < n->n_in && o->type.rank >= 2; i++) {
        int part = n->in[i];
        int64_t at = part_offset(plan, joined, part, axis, before);
        before += plan->values[part].type.dims[axis];
        if (at >= 0 && can_move(plan, part) && once(n, part))
            set_window(plan, part, joined, at, o->pitch, o->image);
        else
            all = false;
    }
    return all;
}

/* The input of a reshape whose result is a window moves there as well. */
static bool move_through(dd_plan *plan, const dd_node *n) {
    const dd_pvalue *out = &plan->values[n->out[0]];
    const dd_pvalue *in = &plan->values[n->in[0]];
    if (out->root == n->out[0] || !can_move(plan, n->in[0]) || out->type.rank < 2 ||
        in->type.dims[0] != out->type.dims[0] || out->pitch != dd_type_last(&out->type))
        return false;
    set_window(plan, n->in[0], n->out[0], 0, dd_type_last(&in->type), out->image);
    return true;
}

/* Where output `i` of a split or a slice lies in the input: `*before` positions along `*axis`.
 * False for a slice of several axes or with a step. */
static bool cut_place(const dd_plan *plan, const dd_node *n, int i, int *axis, int64_t *before) {
    const dd_type *x = &plan->values[n->in[0]].type;
    *before = 0;
    if (n->op == &dd_op_split) {
        *axis = axis_of(n, x->rank); /* `axis` comes first in both structs */
        for (int k = 0; k < i; k++)
            *before += plan->values[n->out[k]].type.dims[*axis];
        return true;
    }
    const dd_slice_params *p = n->params;
    const dd_type *y = &plan->values[n->out[0]].type;
    *axis = -1;
    for (int64_t k = 0; k < p->starts.n; k++) {
        int at = (int)(p->axes.n ? p->axes.v[k] : k);
        at = at < 0 ? at + x->rank : at;
        if (p->steps.n > k && p->steps.v[k] != 1)
            return false;
        if (y->dims[at] == x->dims[at])
            continue;
        if (*axis >= 0)
            return false;
        int64_t start = p->starts.v[k] < 0 ? p->starts.v[k] + x->dims[at] : p->starts.v[k];
        *axis = at;
        *before = start < 0 ? 0 : start;
    }
    *axis = *axis < 0 ? x->rank - 1 : *axis;
    return true;
}

/* The pieces of a split or a slice become windows of what they are cut from. */
static bool cut_pieces(dd_plan *plan, const dd_node *n) {
    const dd_pvalue *x = &plan->values[n->in[0]];
    if (x->pending != DD_STORED || x->type.rank < 2)
        return false;
    for (int pass = 0; pass < 2; pass++)
        for (int i = 0; i < n->n_out; i++) {
            int axis;
            int64_t before;
            if (!cut_place(plan, n, i, &axis, &before) || !can_move(plan, n->out[i]))
                return false;
            int64_t at = part_offset(plan, n->in[0], n->out[i], axis, before);
            if (at < 0)
                return false;
            if (pass)
                set_window(plan, n->out[i], n->in[0], at, x->pitch, x->image);
        }
    return true;
}

/* `to` becomes `from`'s bytes with another shape. */
static bool view_of(dd_plan *plan, int from, int to) {
    const dd_pvalue *f = &plan->values[from], *t = &plan->values[to];
    int64_t n = f->type.rank >= 2 ? f->type.dims[0] : 1;
    bool contiguous = f->image * n == dd_type_count(&f->type);
    bool same_images = f->type.rank >= 2 && t->type.rank >= 2 && f->type.dims[0] == t->type.dims[0];
    if (f->pending != DD_STORED || f->pitch != dd_type_last(&f->type) || t->place != DD_AT_NONE ||
        t->root != to || t->pending != DD_STORED || (!contiguous && !same_images) ||
        dd_type_count(&t->type) == 0)
        return false;
    set_window(plan, to, from, 0, dd_type_last(&t->type), same_images ? f->image : t->image);
    return true;
}

/* The gradients of a concat's parts are windows of the gradient of its result. */
static bool split_gradient(dd_plan *plan, const dd_node *n) {
    int dout = dout_of(n);
    const dd_pvalue *o = &plan->values[dout];
    int axis = axis_of(n, o->type.rank);
    int64_t before = 0;
    if (o->pending != DD_STORED || o->type.rank < 2)
        return false;
    for (int pass = 0; pass < 2; pass++, before = 0)
        for (int i = 0; i < n->n_out; i++) {
            const dd_type *type = &plan->values[n->in[i]].type;
            if (n->out[i] >= 0) {
                int64_t at = part_offset(plan, dout, n->out[i], axis, before);
                if (at < 0 || !can_move(plan, n->out[i]))
                    return false;
                if (pass)
                    set_window(plan, n->out[i], dout, at, o->pitch, o->image);
            }
            before += type->dims[axis];
        }
    return true;
}

void dd_layout_views(dd_plan *plan) {
    const dd_graph *g = plan->graph;
    set_pitches(plan);
    for (size_t i = (size_t)g->n_forward; i-- > 0;) {
        const dd_node *n = &g->nodes[i];
        if (plan->taken[i])
            continue;
        if (is_concat(n))
            plan->view[i] = move_parts(plan, n);
        else if (is_reshape(plan, n))
            plan->view[i] = move_through(plan, n);
    }
    for (size_t i = 0; i < g->n_nodes; i++) {
        const dd_node *n = &g->nodes[i];
        if (plan->taken[i] || plan->view[i])
            continue;
        if (is_reshape(plan, n) && !n->backward)
            plan->view[i] = view_of(plan, n->in[0], n->out[0]);
        else if (is_reshape(plan, n) && n->out[0] >= 0)
            plan->view[i] = view_of(plan, dout_of(n), n->out[0]);
        else if (is_concat(n) && n->backward)
            plan->view[i] = split_gradient(plan, n);
        else if (is_cut(n))
            plan->view[i] = cut_pieces(plan, n);
    }
}

void dd_layout_outputs(dd_plan *plan) {
    const dd_graph *g = plan->graph;
    for (size_t i = 0; i < g->n_outputs; i++) {
        int value = g->outputs[i];
        dd_pvalue *v = &plan->values[value];
        bool kept = false;
        for (int k = 0; k < plan->n_readers[value]; k++)
            kept = kept || plan->readers[value][k] >= g->n_forward;
        if (g->values[value].kind != DD_VALUE_NODE || v->root != value || v->place != DD_AT_NONE ||
            v->pending != DD_STORED || kept)
            continue;
        v->place = DD_AT_OUTPUT;
        v->index = (int)i;
    }
}
