/* What op->grad says its gradient with: nodes appended to the training graph under construction.
 * Declared here, where operators need it; graph/autodiff.c does it. */
#ifndef DD_OPS_GRAD_H
#define DD_OPS_GRAD_H

#include "ops/node.h"

typedef struct dd_graph dd_graph;

/* The contract of op->grad(g, node, dout, din): dout[i] is the value id of the gradient of output
 * i, -1 where none arrives (at least one does). din[i] is 1 on entry where the gradient of input i
 * is wanted, else 0; on exit the value id of that gradient, or -1. Appending nodes moves the
 * others: keep a copy of the node; its in, out, params and name stay where they are. A forward
 * node's saved values are in out[n_out - n_saved] and on. */

/* For op->grad: appends a node to the training graph under construction. n_out is the operator's
 * number of outputs; an output that nobody reads costs nothing (it becomes -1 at the end). */
dd_status dd_grad_node(dd_graph *g, const char *op, const char *name, const void *params,
                       const int *in, int n_in, int *out, int n_out);

/* For op->grad: the default, one opaque backward node; dout and din as there. */
dd_status dd_grad_backward(dd_graph *g, int node, const int *dout, int *din);

/* The forward node, valid until a node is appended. */
const dd_node *dd_grad_of(const dd_graph *g, int node);

#endif
