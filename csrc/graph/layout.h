/* Inside the planner: which values stay pending, which are windows of others, where outputs lie;
 * and the steps that fill the gaps between the patterns. */
#ifndef DD_GRAPH_LAYOUT_H
#define DD_GRAPH_LAYOUT_H

#include "graph/steps.h"

/* Batch norms with their activation, batch-norm gradients and uint8 inputs stay pending where all
 * who read them can form them in their load; else a step stores them. */
dd_status dd_layout_pending(dd_plan *plan);

/* Pitches, and windows: concatenation, reshape and their gradients without a copy. */
void dd_layout_views(dd_plan *plan);

/* Outputs that are produced straight in the caller's array. Call after the steps are known. */
void dd_layout_outputs(dd_plan *plan);

/* A node that no pattern took: its operator's plain C, one unit. */
dd_status dd_plain_step(dd_plan *plan, int node);
/* Adds stored gradients of entries into the flat gradient. */
dd_status dd_gradient_steps(dd_plan *plan);

#endif
