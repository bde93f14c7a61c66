/* Types of all values for given input types, and what follows from them. */
#include "graph/graph.h"

#include <inttypes.h>
#include <stdio.h>

/* A backward node's inputs: forward inputs, outputs, saved values and gradients of outputs. */
#define MAX_TYPES (3 * DD_MANY + DD_MAX_SAVED)

static const dd_type no_type = {.rank = -1};

/* A uint8 input takes floats as well: its dequantize passes them through. */
/* A given type against the declared one, whose free dimensions are -1. */
static dd_status check_input(const dd_value *v, const dd_type *given) {
    char have[192], want[192];
    bool real = v->type.dtype == DD_U8 && given->dtype == DD_F32;
    bool fits = (given->dtype == v->type.dtype || real) && given->rank == v->type.rank;
    for (int i = 0; fits && i < given->rank; i++)
        fits = v->type.dims[i] < 0 ? given->dims[i] >= 0 : given->dims[i] == v->type.dims[i];
    if (!fits)
        return dd_fail(DD_EVALUE, "input '%s': %s came, %s was needed", v->name,
                       dd_type_text(given, have, sizeof have),
                       dd_type_text(&v->type, want, sizeof want));
    size_t bytes;
    return dd_type_bytes(given, v->name, &bytes);
}

/* The types that stand before any node has run. */
static dd_status infer_sources(const dd_graph *g, const dd_store *s, const dd_type *inputs,
                               dd_type *types) {
    for (size_t i = 0; i < g->n_values; i++) {
        const dd_value *v = &g->values[i];
        types[i] = no_type;
        if (v->kind != DD_VALUE_ENTRY)
            continue;
        if (!s || v->entry < 0 || (size_t)v->entry >= s->n)
            return dd_fail(DD_EVALUE, "graph: value '%s' is entry %d of a store of %zu", v->name,
                           v->entry, s ? s->n : 0);
        types[i] = s->entries[v->entry].type;
    }
    for (size_t i = 0; i < g->n_inputs; i++) {
        DD_TRY(check_input(&g->values[g->inputs[i]], &inputs[i]));
        types[g->inputs[i]] = inputs[i];
    }
    return DD_OK;
}

/* Absent inputs have rank -1. */
void dd_node_types(const dd_node *n, const dd_type *types, dd_type *in) {
    for (int k = 0; k < n->n_in; k++)
        in[k] = n->in[k] < 0 ? no_type : types[n->in[k]];
}

dd_status dd_node_infer(const dd_node *n, const dd_type *in, dd_type *out) {
    /* The operator's own check of the node comes first; what it made is checked against the node.
     */
    int count = 0, saved = 0;
    if (n->backward) { /* a gradient has its value's type */
        for (int k = 0; k < n->n_out; k++)
            out[k] = in[k];
        return DD_OK;
    }
    dd_status status = n->op->infer(n, in, out, &count);
    if (status != DD_OK)
        return dd_fail_within(status, "%s", n->name);
    if (count != n->n_out - n->n_saved)
        return dd_fail(DD_EVALUE, "%s: %s makes %d outputs, the node has %d", n->name, n->op->name,
                       count, n->n_out - n->n_saved);
    if (n->n_saved) {
        status = n->op->saved(n, in, out + count, &saved);
        if (status != DD_OK)
            return dd_fail_within(status, "%s", n->name);
        if (saved != n->n_saved)
            return dd_fail(DD_EVALUE, "%s: %s keeps %d values, the node has %d", n->name,
                           n->op->name, saved, n->n_saved);
    }
    /* Sizes are checked here, once: whoever multiplies dimensions later need not. */
    for (int k = 0; k < n->n_out; k++) {
        size_t bytes;
        DD_TRY(dd_type_bytes(&out[k], n->name, &bytes));
    }
    return DD_OK;
}

/* A seed is the gradient of an output, so it has the output's type. */
static void infer_seeds(const dd_graph *g, dd_type *types) {
    for (size_t i = 0; i < g->n_values; i++)
        if (g->values[i].kind == DD_VALUE_SEED)
            types[i] = types[g->values[i].of];
}

dd_status dd_graph_infer(const dd_graph *g, const dd_store *s, const dd_type *inputs,
                         dd_type *types) {
    dd_type in[MAX_TYPES], out[2 * DD_MANY];
    DD_TRY(infer_sources(g, s, inputs, types));
    for (size_t i = 0; i < g->n_nodes; i++) {
        const dd_node *n = &g->nodes[i];
        if (i == (size_t)g->n_forward) /* every forward type is known now */
            infer_seeds(g, types);
        dd_node_types(n, types, in);
        DD_TRY(dd_node_infer(n, in, out));
        for (int k = 0; k < n->n_out; k++)
            if (n->out[k] >= 0)
                types[n->out[k]] = out[k];
    }
    if (g->n_nodes <= (size_t)g->n_forward)
        infer_seeds(g, types);
    return DD_OK;
}

/* Of a training graph the backward is counted with the forward. */
int64_t dd_graph_macs(const dd_graph *g, const dd_type *types) {
    int64_t sum = 0;
    dd_type in[MAX_TYPES];
    for (size_t i = 0; i < g->n_nodes; i++) {
        const dd_node *n = &g->nodes[i];
        if (!n->op->macs)
            continue;
        dd_node_types(n, types, in);
        sum += n->op->macs(n, in) * (n->backward ? 2 : 1);
    }
    return sum;
}
