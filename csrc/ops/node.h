/* A node: one use of an operator. What an operator's rules are given; graphs are made of them
 * (graph/graph.h), and no operator knows a graph. */
#ifndef DD_OPS_NODE_H
#define DD_OPS_NODE_H

#include "ops/op.h"

typedef struct dd_node {
    const dd_op *op;
    bool backward;   /* runs op->backward; see below */
    bool training;   /* forward node of a training graph: its saved values follow its outputs */
    int n_in, n_out; /* n_out counts saved values too */
    int n_saved;
    int *in, *out; /* value ids; -1: absent or unwanted */
    void *params;  /* op->params_size bytes, owned */
    char *name;    /* "backbone.stage1.0.expand.conv" */
    /* A backward node's inputs are the forward node's [in, out, saved, gradients of out] in this
     * order, forward_in + forward_out + n_saved + forward_out of them; its outputs are the
     * gradients of in. */
    int forward_in, forward_out;
} dd_node;

#endif
