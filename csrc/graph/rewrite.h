/* Rewrites: graph and store in, a new graph and a new store out. */
#ifndef DD_GRAPH_REWRITE_H
#define DD_GRAPH_REWRITE_H

#include "graph/graph.h"

/* The deployed form: batch norms, and multiplications by an entry of one element or one a channel,
 * folded into the convolutions that feed them; parallel branches of convolutions over one input
 * that are added (RepVGG: 3×3, 1×1 and identity, in any order) merged into one; dropout and
 * stop_gradient removed, dead nodes dropped. A convolution shared by several batch norms is cloned
 * a use (its weight's further copies are called name@2, name@3, ...). A batch norm that can't be
 * folded stays: in inference it is one affine. Arithmetic in double. Idempotent. The new store
 * holds what the new graph uses; a graph without any of these comes back as a copy. */
dd_status dd_graph_deploy(const dd_graph *graph, const dd_store *store, dd_graph **deployed,
                          dd_store **deployed_store);

/* Puts channels into orders in which shuffles and cuts of channels dissolve: the store's
 * convolutions are permuted in place, *graph is replaced. Results are the same but for roundings.
 * A graph without shuffles is left alone; so are values whose order somebody else knows. The last
 * pass of dd_graph_deploy. */
dd_status dd_graph_unshuffle(dd_graph **graph, dd_store *store);

#endif
