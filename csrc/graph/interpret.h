/* The interpreter: plain C, one operator at a time, no fusion, no planning. The oracle. */
#ifndef DD_GRAPH_INTERPRET_H
#define DD_GRAPH_INTERPRET_H

#include "graph/graph.h"

typedef struct dd_interpreter dd_interpreter;

/* Infers types and allocates all values. Graph and store are borrowed. */
dd_status dd_interpreter_create(const dd_graph *g, dd_store *s, const dd_type *inputs,
                                uint64_t seed, dd_interpreter **interpreter);
void dd_interpreter_destroy(dd_interpreter *);
/* Forward over all forward nodes; inputs are dense arrays. In a training graph running statistics
 * in the store move. */
dd_status dd_interpreter_forward(dd_interpreter *, const dd_array *inputs, uint64_t step);
/* Backward of a training graph: seeds[i] is output i's gradient (data NULL: zeros). Adds into
 * `gradient` (the store's size floats). */
dd_status dd_interpreter_backward(dd_interpreter *, const dd_array *seeds, float *gradient);
/* Any value after a run (a tap), dense; NULL data where it was not computed. */
dd_array dd_interpreter_value(const dd_interpreter *, int value);

#endif
