/* Autodiff appends nodes: a training graph is the forward graph with what it saves, then the
 * backward nodes. Fusion runs after it and sees forward and backward as one graph.
 *
 * The default gradient of an operator is one backward node (dd_node.backward) that calls
 * op->backward; conv, batch_norm, unary and binary append nodes of their own by op->grad. A value
 * with several consumers gets the sum of its gradients by binary(add) nodes, in the order in which
 * they arise. A gradient is wanted only where a trainable, not frozen entry lies upstream; nodes
 * without one have no backward, and a batch norm whose gamma is frozen runs on its running
 * statistics (`frozen` attribute set). */
#ifndef DD_GRAPH_AUTODIFF_H
#define DD_GRAPH_AUTODIFF_H

#include "graph/graph.h"

/* Every output of `forward` gets a seed value, added to the gradient from its consumers. Fails with
 * the node's name where an operator on the way has no gradient. `inputs_too`: gradients of float
 * inputs are computed as well and become extra outputs "d:<input>" (tests, adversarial use). */
dd_status dd_graph_differentiate(const dd_graph *forward, const dd_store *store, bool inputs_too,
                                 dd_graph **training);

/* The contract of op->grad(g, node, dout, din): dout[i] is the value id of the gradient of output i,
 * -1 where none arrives (at least one does). din[i] is 1 on entry where the gradient of input i is
 * wanted, else 0; on exit the value id of that gradient, or -1. g->nodes may move while nodes are
 * appended: keep `node`, not a pointer; a node's in, out and params do not move. A forward node's
 * saved values are in out[n_out - n_saved] and on. */

/* For op->grad: appends a node to the training graph under construction. n_out is the operator's
 * number of outputs; an output that nobody reads costs nothing (it becomes -1 at the end). */
dd_status dd_grad_node(dd_graph *g, const char *op, const char *name, const void *params,
                       const int *in, int n_in, int *out, int n_out);

/* For op->grad: the default, one opaque backward node; dout and din as there. */
dd_status dd_grad_backward(dd_graph *g, int node, const int *dout, int *din);

/* Where an activation's gradient feeds nothing but the gradient of the batch norm before it, the
 * two become one: bn_reduce and bn_dx get the activation, unary_dx goes, and the backward no longer
 * reads the batch norm's output. dd_graph_differentiate does it. */
dd_status dd_graph_fuse_backward(dd_graph *training);

#endif
