/* Rewrites: graph and store in, a new graph and a new store out. */
#ifndef DD_GRAPH_REWRITE_H
#define DD_GRAPH_REWRITE_H

#include "graph/graph.h"

/* The deployed form: batch norms folded into the convolutions that feed them (or into the
 * identity), parallel branches of convolutions that are added (RepVGG: 3×3, 1×1 and identity)
 * merged into one, dropout and stop_gradient removed, dead nodes dropped. A convolution shared by
 * several batch norms is cloned a use. Arithmetic in double. Idempotent. A graph without any of
 * these comes back as a copy. Batch norms that can't be folded become one affine (scale, shift). */
dd_status dd_graph_deploy(const dd_graph *graph, const dd_store *store, dd_graph **deployed,
                          dd_store **deployed_store);

#endif
