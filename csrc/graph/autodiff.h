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
#include "ops/grad.h"

/* Every output of `forward` gets a seed value, added to the gradient from its consumers. Fails with
 * the node's name where an operator on the way has no gradient. `inputs_too`: gradients of float
 * inputs are computed as well and become extra outputs "d:<input>" (tests, adversarial use). */
dd_status dd_graph_differentiate(const dd_graph *forward, const dd_store *store, bool inputs_too,
                                 dd_graph **training);

/* Where an activation's gradient feeds nothing but the gradient of the batch norm before it, the
 * two become one: bn_reduce and bn_dx get the activation, unary_dx goes, and the backward no longer
 * reads the batch norm's output. dd_graph_differentiate does it. */
dd_status dd_graph_fuse_backward(dd_graph *training);

#endif
