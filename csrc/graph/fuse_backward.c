/* Fusion of an activation's gradient into that of the batch norm before it (a step pattern, hence
 * operators by name).
 *
 * Before: dx_bn = unary_dx(dz, y); bn_reduce(dx_bn, x, ...), bn_dx(dx_bn, x, ...) with
 * y = batch_norm(x). After: bn_reduce(dz, x, ..., act), bn_dx(dz, x, ..., act), which form y again
 * from x by one multiply-add. It saves a pass over the map and keeps y out of the backward. */
#include "graph/autodiff.h"

#include "base/memory.h"
#include "ops/params.h"

/* Whether every reader of unary_dx's output (value v) takes it as dz of the gradient of the batch
 * norm that made `y` from `x`; counts them. */
static bool only_batch_norm_reads(const dd_graph *g, int v, int x, int *readers) {
    *readers = 0;
    for (size_t i = 0; i < g->n_outputs; i++)
        if (g->outputs[i] == v)
            return false;
    for (size_t i = 0; i < g->n_gradients; i++)
        if (g->gradients[i].value == v)
            return false;
    for (size_t i = (size_t)g->n_forward; i < g->n_nodes; i++) {
        const dd_node *n = &g->nodes[i];
        for (int k = 0; k < n->n_in; k++) {
            if (n->in[k] != v)
                continue;
            bool fits = k == 0 && !n->backward && n->in[1] == x &&
                        (n->op == &dd_op_bn_reduce || n->op == &dd_op_bn_dx) &&
                        ((const dd_batch_norm_params *)n->params)->act == DD_IDENTITY;
            if (!fits)
                return false;
            (*readers)++;
        }
    }
    return *readers > 0;
}

/* Rewires all readers of v: they get the gradient behind the activation, and the activation. */
static void fuse(dd_graph *g, int v, int dz, const dd_unary_params *unary) {
    for (size_t i = (size_t)g->n_forward; i < g->n_nodes; i++) {
        dd_node *n = &g->nodes[i];
        if (n->n_in < 1 || n->in[0] != v)
            continue;
        dd_batch_norm_params *p = n->params;
        p->act = unary->kind;
        p->a = unary->a;
        p->b = unary->b;
        n->in[0] = dz;
    }
}

dd_status dd_graph_fuse_backward(dd_graph *g) {
    for (size_t i = (size_t)g->n_forward; i < g->n_nodes; i++) {
        const dd_node *n = &g->nodes[i];
        if (n->op != &dd_op_unary_dx || n->backward)
            continue;
        int y = n->in[1], readers;
        if (y < 0 || g->values[y].kind != DD_VALUE_NODE || g->values[y].slot != 0)
            continue;
        const dd_node *bn = &g->nodes[g->values[y].producer];
        if (bn->op != &dd_op_batch_norm || bn->backward)
            continue;
        if (only_batch_norm_reads(g, n->out[0], bn->in[0], &readers))
            fuse(g, n->out[0], n->in[0], n->params); /* unary_dx is dead now */
    }
    return DD_OK;
}
