/* The graph: values and nodes in topological order. The only description of a network.
 *
 * A value is an input, an entry of a store (parameter, state, constant), or the output of one
 * node. Sizes are not part of it: types are inferred for given input types. A training graph is a
 * graph too: the forward nodes with what they save, then the backward nodes (autodiff.h). */
#ifndef DD_GRAPH_GRAPH_H
#define DD_GRAPH_GRAPH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/tensor.h"
#include "graph/store.h"
#include "ops/node.h"
#include "ops/op.h"

typedef enum dd_value_kind {
    DD_VALUE_NODE = 0, /* output of `producer` */
    DD_VALUE_INPUT,    /* given at each run; `type` has its dtype and rank, dims -1 where free */
    DD_VALUE_ENTRY,    /* the store's entry `entry` */
    DD_VALUE_SEED,     /* training: the gradient of output `of`, given by the caller (or zero) */
} dd_value_kind;

typedef struct dd_value {
    char *name;
    dd_value_kind kind;
    int producer, slot; /* NODE: the node and its output's number */
    int entry;          /* ENTRY: index in the store */
    int of;             /* SEED: the value whose gradient this is */
    dd_type type;       /* INPUT */
} dd_value;

/* A gradient of a training graph: value `value` is added to the store's gradient of `entry`. */
typedef struct dd_gradient {
    int value, entry;
} dd_gradient;

typedef struct dd_graph {
    dd_value *values;
    dd_node *nodes;
    int *inputs, *outputs; /* value ids */
    char **output_names;
    int *seeds;             /* training: value id of each output's seed */
    dd_gradient *gradients; /* training */
    size_t n_values, n_nodes, n_inputs, n_outputs, n_gradients;
    size_t values_capacity, nodes_capacity, inputs_capacity, outputs_capacity, gradients_capacity;
    int n_forward; /* nodes before the backward ones; n_nodes where there are none */
    bool training;
} dd_graph;

dd_status dd_graph_create(dd_graph **graph);
void dd_graph_destroy(dd_graph *graph); /* NULL is allowed */
dd_status dd_graph_copy(const dd_graph *from, dd_graph **to);

/* Each adds a value and gives its id. Names are copied. */
dd_status dd_graph_input(dd_graph *g, const char *name, const dd_type *type, int *value);
dd_status dd_graph_entry(dd_graph *g, const dd_store *s, int entry,
                         int *value); /* the same id twice */
/* A node; `params` (copied) may be NULL for the initial ones. Its output values get the ids
 * out[0..*n_out-1]; n_outputs is asked for where the operator leaves it open (split), else 0. */
dd_status dd_graph_node(dd_graph *g, const dd_op *op, const char *name, const void *params,
                        const int *in, int n_in, int n_outputs, int *out, int *n_out);
dd_status dd_graph_output(dd_graph *g, const char *name, int value);
/* For passes: appends a node as `shape` says (op, flags, n_in, n_out, n_saved, forward_in and
 * forward_out) without checking it; its outputs are in g->nodes[g->n_nodes - 1].out. */
dd_status dd_graph_node_append(dd_graph *g, const dd_node *shape, const char *name,
                               const void *params, const int *in);

/* Types of all values (n_values of them, caller's memory; rank -1 where a value has none) for the
 * given input types; names the node on failure. An input of u8 may be given as f32: dequantize
 * passes floats through. */
dd_status dd_graph_infer(const dd_graph *g, const dd_store *s, const dd_type *inputs,
                         dd_type *types);

/* For executors: the types of a node's inputs out of those of all values, and the types of its
 * n_out outputs from them (in: at most 3 · DD_MANY + DD_MAX_SAVED, out: 2 · DD_MANY). */
void dd_node_types(const dd_node *n, const dd_type *types, dd_type *in);
dd_status dd_node_infer(const dd_node *n, const dd_type *in, dd_type *out);

/* What the outputs do not need goes; ids change. Inputs and seeds stay. A gradient or saved value
 * that nobody reads becomes -1 in its node's `out`. */
dd_status dd_graph_prune_dead(dd_graph *g);

/* Multiply-adds of one run; an opaque backward node counts twice its forward. */
int64_t dd_graph_macs(const dd_graph *g, const dd_type *types);

/* JSON, as the checkpoint keeps it: operators with version, attributes, names. The text is the
 * caller's to free with dd_free. Reading checks every index, count and name. */
dd_status dd_graph_to_json(const dd_graph *g, const dd_store *s, char **text);
dd_status dd_graph_from_json(const char *text, size_t length, const dd_store *s, dd_graph **g);

#endif
