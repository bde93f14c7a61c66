/* Building, copying and walking the graph.
 *
 * Every function that adds something first makes all it needs and then commits it, so that a
 * failure leaves the graph as it was. Ids are positions in `values`; only dd_graph_prune_dead()
 * changes them. */
#include "graph/graph.h"

#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"

#define MAX_ITEMS (1 << 24) /* values, nodes: ids are ints, and a graph that large is an error */

dd_status dd_graph_create(dd_graph **graph) {
    return dd_alloc_array(1, sizeof **graph, graph);
}

/* The heap parts of a node, not the node: nodes lie in one array. A half-made node is allowed. */
static void free_node(dd_node *n) {
    dd_free(n->in);
    dd_free(n->out);
    dd_free(n->params);
    dd_free(n->name);
}

void dd_graph_destroy(dd_graph *graph) {
    if (!graph)
        return;
    for (size_t i = 0; i < graph->n_values; i++)
        dd_free(graph->values[i].name);
    for (size_t i = 0; i < graph->n_nodes; i++)
        free_node(&graph->nodes[i]);
    for (size_t i = 0; i < graph->n_outputs; i++)
        dd_free(graph->output_names[i]);
    dd_free(graph->values);
    dd_free(graph->nodes);
    dd_free(graph->inputs);
    dd_free(graph->outputs);
    dd_free(graph->output_names);
    dd_free(graph->seeds);
    dd_free(graph->gradients);
    dd_free(graph);
}

/* ---- values -------------------------------------------------------------------------------- */

/* Names stand in files and in messages, and derived names ("d:...", "...:1") are built in buffers
 * of fixed size: so they have a limit. */
static dd_status check_name(const char *what, const char *name) {
    size_t n = strlen(name);
    if (n < 1 || n > DD_MAX_NAME)
        return dd_fail(DD_EVALUE, "graph: the name of %s has %zu bytes, 1 to %d are needed", what,
                       n, DD_MAX_NAME);
    return DD_OK;
}

/* Appends a value whose fields are in `v`, with a copy of `name`. */
static dd_status add_value(dd_graph *g, const char *name, dd_value v, int *value) {
    char *copy;
    if (g->n_values >= MAX_ITEMS)
        return dd_fail(DD_EVALUE, "graph: more than %d values", MAX_ITEMS);
    DD_TRY(dd_reserve(&g->values, &g->values_capacity, g->n_values + 1, sizeof *g->values));
    DD_TRY(dd_strdup(name, &copy));
    v.name = copy;
    g->values[g->n_values] = v;
    *value = (int)g->n_values++;
    return DD_OK;
}

/* Undoes add_value() of the last value. */
static void drop_last_value(dd_graph *g) {
    dd_free(g->values[--g->n_values].name);
}

dd_status dd_graph_input(dd_graph *g, const char *name, const dd_type *type, int *value) {
    DD_TRY(check_name("an input", name));
    for (size_t i = 0; i < g->n_inputs; i++)
        if (strcmp(g->values[g->inputs[i]].name, name) == 0)
            return dd_fail(DD_EVALUE, "graph: there is an input '%s' already", name);
    if (type->rank < 0 || type->rank > DD_MAX_RANK || (unsigned)type->dtype >= DD_DTYPES)
        return dd_fail(DD_EVALUE, "graph: input '%s' has dtype %d and rank %d", name,
                       (int)type->dtype, type->rank);
    for (int i = 0; i < type->rank; i++)
        if (type->dims[i] < -1)
            return dd_fail(DD_EVALUE,
                           "graph: input '%s' has dimension %d of %" PRId64
                           ", -1 (free) or a size is needed",
                           name, i, type->dims[i]);
    /* The place in `inputs` is reserved before the value exists: no way back is needed then. */
    DD_TRY(dd_reserve(&g->inputs, &g->inputs_capacity, g->n_inputs + 1, sizeof *g->inputs));
    dd_value v = {.kind = DD_VALUE_INPUT, .producer = -1, .entry = -1, .of = -1, .type = *type};
    DD_TRY(add_value(g, name, v, value));
    g->inputs[g->n_inputs++] = *value;
    return DD_OK;
}

dd_status dd_graph_entry(dd_graph *g, const dd_store *s, int entry, int *value) {
    if (entry < 0 || (size_t)entry >= s->n)
        return dd_fail(DD_EVALUE, "graph: entry %d of a store of %zu entries", entry, s->n);
    /* One value an entry: its uses meet there, in autodiff and in the channel groups alike. */
    for (size_t i = 0; i < g->n_values; i++)
        if (g->values[i].kind == DD_VALUE_ENTRY && g->values[i].entry == entry) {
            *value = (int)i;
            return DD_OK;
        }
    dd_value v = {.kind = DD_VALUE_ENTRY, .producer = -1, .entry = entry, .of = -1};
    return add_value(g, s->entries[entry].name, v, value);
}

dd_status dd_graph_output(dd_graph *g, const char *name, int value) {
    char *copy;
    if (value < 0 || (size_t)value >= g->n_values)
        return dd_fail(DD_EVALUE, "graph: output '%s' is value %d of %zu", name, value,
                       g->n_values);
    DD_TRY(check_name("an output", name));
    for (size_t i = 0; i < g->n_outputs; i++)
        if (strcmp(g->output_names[i], name) == 0)
            return dd_fail(DD_EVALUE, "graph: there is an output '%s' already", name);
    /* Two arrays share one capacity: the names grow first, so that a failure of the second leaves
     * a capacity that both keep. */
    size_t room = g->outputs_capacity;
    DD_TRY(dd_reserve(&g->output_names, &room, g->n_outputs + 1, sizeof *g->output_names));
    DD_TRY(dd_reserve(&g->outputs, &g->outputs_capacity, g->n_outputs + 1, sizeof *g->outputs));
    DD_TRY(dd_strdup(name, &copy));
    g->output_names[g->n_outputs] = copy;
    g->outputs[g->n_outputs++] = value;
    return DD_OK;
}

/* ---- nodes --------------------------------------------------------------------------------- */

/* NaN is no attribute: it would compare unequal to itself wherever graphs are compared. Infinity is
 * one (a clip without an upper bound). */
static dd_status check_numbers(const char *who, const dd_field *f, const double *v, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        if (isnan(v[i]))
            return dd_fail(DD_EVALUE, "%s: attribute '%s' is not a number", who, f->name);
    return DD_OK;
}

/* What no operator should have to check by itself: enums, flags and list lengths. */
static dd_status check_field(const char *who, const dd_field *f, const char *at) {
    int64_t i = 0;
    switch (f->kind) {
    case DD_FIELD_ENUM:
        memcpy(&i, at, sizeof i);
        for (int64_t n = 0; n <= i; n++)
            if (i > 1000 || !f->names[n])
                return dd_fail(DD_EVALUE, "%s: attribute '%s' is %" PRId64, who, f->name, i);
        if (i < 0)
            return dd_fail(DD_EVALUE, "%s: attribute '%s' is %" PRId64, who, f->name, i);
        return DD_OK;
    case DD_FIELD_BOOL:
        memcpy(&i, at, sizeof i);
        if (i != 0 && i != 1)
            return dd_fail(DD_EVALUE, "%s: attribute '%s' is %" PRId64 ", 0 or 1 is needed", who,
                           f->name, i);
        return DD_OK;
    case DD_FIELD_INTS:
    case DD_FIELD_FLOATS: /* both begin with their length */
        memcpy(&i, at, sizeof i);
        if (i < 0 || i > DD_MAX_LIST)
            return dd_fail(DD_EVALUE,
                           "%s: attribute '%s' has %" PRId64 " items, at most %d are allowed", who,
                           f->name, i, DD_MAX_LIST);
        return f->kind == DD_FIELD_FLOATS
                   ? check_numbers(who, f, ((const dd_floats *)(const void *)at)->v, i)
                   : DD_OK;
    case DD_FIELD_FLOAT:
        return check_numbers(who, f, (const double *)(const void *)at, 1);
    case DD_FIELD_INT:
        return DD_OK;
    }
    return DD_OK;
}

/* The node's inputs, outputs and attributes against its operator. */
static dd_status check_node(const dd_graph *g, const dd_op *op, const char *name,
                            const void *params, const int *in, int n_in, int n_outputs) {
    DD_TRY(check_name("a node", name));
    if (n_in < op->min_in || n_in > op->max_in)
        return dd_fail(DD_EVALUE, "%s '%s': %d inputs, %d to %d are needed", op->name, name, n_in,
                       op->min_in, op->max_in);
    for (int i = 0; i < n_in; i++) {
        if (in[i] < -1 || (in[i] >= 0 && (size_t)in[i] >= g->n_values))
            return dd_fail(DD_EVALUE, "%s '%s': input %d is value %d of %zu", op->name, name, i,
                           in[i], g->n_values);
        if (in[i] < 0 && i < op->min_in)
            return dd_fail(DD_EVALUE, "%s '%s': input %d is absent, it is needed", op->name, name,
                           i);
    }
    bool open = op->n_outputs == DD_MANY;
    if (open ? n_outputs < 1 || n_outputs > DD_MANY
             : n_outputs != 0 && n_outputs != (op->n_outputs ? op->n_outputs : 1))
        return dd_fail(DD_EVALUE, "%s '%s': %d outputs asked for, %s", op->name, name, n_outputs,
                       open ? "1 to 64 are needed" : "the operator has its own number");
    if (params)
        for (const dd_field *f = op->fields; f && f->name; f++)
            DD_TRY(check_field(name, f, (const char *)params + f->offset));
    return DD_OK;
}

/* A value is called like its node; further outputs get their number: "cut", "cut:1". */
static void output_name(const char *node, int slot, char *text, size_t capacity) {
    if (slot == 0)
        (void)snprintf(text, capacity, "%s", node);
    else
        (void)snprintf(text, capacity, "%s:%d", node, slot);
}

/* Appends `node` (whose heap parts then belong to the graph) and its n_out output values. */
static dd_status commit_node(dd_graph *g, dd_node *node) {
    dd_status status = DD_OK;
    char text[DD_MAX_NAME + 1];
    int made = 0;
    DD_TRY(dd_reserve(&g->nodes, &g->nodes_capacity, g->n_nodes + 1, sizeof *g->nodes));
    for (; made < node->n_out; made++) {
        output_name(node->name, made, text, sizeof text);
        dd_value v = {.producer = (int)g->n_nodes, .slot = made, .entry = -1, .of = -1};
        status = add_value(g, text, v, &node->out[made]);
        if (status != DD_OK)
            break;
    }
    if (status != DD_OK) {
        while (made-- > 0)
            drop_last_value(g);
        return status;
    }
    g->nodes[g->n_nodes++] = *node;
    /* While a graph is built all nodes are forward ones; autodiff sets the border by itself. */
    if (!g->training)
        g->n_forward = (int)g->n_nodes;
    return DD_OK;
}

/* The parts are made first, the node is committed last: a failure frees the parts and the graph has
 * not changed. */
dd_status dd_graph_node_append(dd_graph *g, const dd_node *shape, const char *name,
                               const void *params, const int *in) {
    dd_status status;
    dd_node n = *shape;
    n.in = n.out = NULL;
    n.params = NULL;
    n.name = NULL;
    if (g->n_nodes >= MAX_ITEMS)
        return dd_fail(DD_EVALUE, "graph: more than %d nodes", MAX_ITEMS);
    DD_TRY_DONE(dd_alloc_array((size_t)n.n_in, sizeof *n.in, &n.in));
    DD_TRY_DONE(dd_alloc_array((size_t)n.n_out, sizeof *n.out, &n.out));
    DD_TRY_DONE(dd_alloc_array(1, n.op->params_size, &n.params));
    DD_TRY_DONE(dd_strdup(name, &n.name));
    if (n.n_in)
        memcpy(n.in, in, (size_t)n.n_in * sizeof *in);
    if (params && n.op->params_size)
        memcpy(n.params, params, n.op->params_size);
    else if (n.op->params_size)
        dd_op_params_init(n.op, n.params);
    status = commit_node(g, &n);
done:
    if (status != DD_OK)
        free_node(&n);
    return status;
}

dd_status dd_graph_node(dd_graph *g, const dd_op *op, const char *name, const void *params,
                        const int *in, int n_in, int n_outputs, int *out, int *n_out) {
    DD_TRY(check_node(g, op, name, params, in, n_in, n_outputs));
    int count = op->n_outputs == DD_MANY ? n_outputs : op->n_outputs ? op->n_outputs : 1;
    dd_node shape = {.op = op, .n_in = n_in, .n_out = count};
    DD_TRY(dd_graph_node_append(g, &shape, name, params, in));
    memcpy(out, g->nodes[g->n_nodes - 1].out, (size_t)count * sizeof *out);
    if (n_out)
        *n_out = count;
    return DD_OK;
}

/* ---- copies -------------------------------------------------------------------------------- */

/* Arrays of length 0 stay NULL: a copy has no more memory than its original. */
static dd_status copy_ints(const int *from, size_t n, int **to, size_t *capacity) {
    if (!n)
        return DD_OK;
    DD_TRY(dd_reserve(to, capacity, n, sizeof **to));
    memcpy(*to, from, n * sizeof *from);
    return DD_OK;
}

/* All parts anew; ids keep their meaning, since a copy keeps all values. */
static dd_status copy_node(const dd_node *from, dd_node *to) {
    dd_status status;
    dd_node n = *from;
    n.in = n.out = NULL;
    n.params = NULL;
    n.name = NULL;
    DD_TRY_DONE(dd_alloc_array((size_t)n.n_in, sizeof *n.in, &n.in));
    DD_TRY_DONE(dd_alloc_array((size_t)n.n_out, sizeof *n.out, &n.out));
    DD_TRY_DONE(dd_alloc_array(1, n.op->params_size, &n.params));
    DD_TRY_DONE(dd_strdup(from->name, &n.name));
    memcpy(n.in, from->in, (size_t)n.n_in * sizeof *n.in);
    memcpy(n.out, from->out, (size_t)n.n_out * sizeof *n.out);
    memcpy(n.params, from->params, n.op->params_size);
    *to = n;
done:
    if (status != DD_OK)
        free_node(&n);
    return status;
}

/* Fills the empty graph `g`; on failure it holds what was copied so far. */
static dd_status copy_into(const dd_graph *from, dd_graph *g) {
    size_t no_capacity = 0;
    g->n_forward = from->n_forward;
    g->training = from->training;
    if (from->n_values)
        DD_TRY(dd_reserve(&g->values, &g->values_capacity, from->n_values, sizeof *g->values));
    for (size_t i = 0; i < from->n_values; i++) {
        int id;
        DD_TRY(add_value(g, from->values[i].name, from->values[i], &id));
    }
    if (from->n_nodes)
        DD_TRY(dd_reserve(&g->nodes, &g->nodes_capacity, from->n_nodes, sizeof *g->nodes));
    for (size_t i = 0; i < from->n_nodes; i++, g->n_nodes++)
        DD_TRY(copy_node(&from->nodes[i], &g->nodes[i]));
    DD_TRY(copy_ints(from->inputs, from->n_inputs, &g->inputs, &g->inputs_capacity));
    g->n_inputs = from->n_inputs;
    for (size_t i = 0; i < from->n_outputs; i++)
        DD_TRY(dd_graph_output(g, from->output_names[i], from->outputs[i]));
    if (from->seeds)
        DD_TRY(copy_ints(from->seeds, from->n_outputs, &g->seeds, &no_capacity));
    if (from->n_gradients) {
        DD_TRY(dd_reserve(&g->gradients, &g->gradients_capacity, from->n_gradients,
                          sizeof *g->gradients));
        memcpy(g->gradients, from->gradients, from->n_gradients * sizeof *g->gradients);
        g->n_gradients = from->n_gradients;
    }
    return DD_OK;
}

/* A failure in the middle leaves a graph whose counts tell what is there, so destroy frees it. */
dd_status dd_graph_copy(const dd_graph *from, dd_graph **to) {
    dd_graph *g;
    DD_TRY(dd_graph_create(&g));
    dd_status status = copy_into(from, g);
    if (status != DD_OK) {
        dd_graph_destroy(g);
        return status;
    }
    *to = g;
    return DD_OK;
}

/* ---- dead nodes ---------------------------------------------------------------------------- */

/* Marks the values that outputs, gradients and the call's signature need, and all behind them. */
static void mark_live(const dd_graph *g, bool *live) {
    for (size_t i = 0; i < g->n_inputs; i++)
        live[g->inputs[i]] = true; /* a call's signature does not change */
    for (size_t i = 0; i < g->n_outputs; i++) {
        live[g->outputs[i]] = true;
        if (g->seeds && g->seeds[i] >= 0)
            live[g->seeds[i]] = true;
    }
    for (size_t i = 0; i < g->n_gradients; i++)
        live[g->gradients[i].value] = true;
    for (size_t i = g->n_nodes; i-- > 0;) {
        const dd_node *n = &g->nodes[i];
        bool needed = false;
        for (int k = 0; k < n->n_out; k++)
            needed |= n->out[k] >= 0 && live[n->out[k]];
        for (int k = 0; needed && k < n->n_in; k++)
            if (n->in[k] >= 0)
                live[n->in[k]] = true;
    }
}

/* An output that nobody reads becomes "unwanted" where the executor can save its work: gradients
 * and saved values. A forward node's own outputs stay, so that the node keeps its shape. */
static bool keeps_output(const dd_graph *g, const dd_node *n, size_t index, int slot) {
    return index < (size_t)g->n_forward && slot < n->n_out - n->n_saved;
}

/* Moves what is live to the front; `map` gives each old id its new one, -1 for dropped ones. */
static void compact(dd_graph *g, const bool *live, int *map) {
    /* Nodes first: they decide which values survive, since a node's shape keeps its outputs. */
    size_t kept = 0;
    int forward = 0;
    for (size_t i = 0; i < g->n_values; i++)
        map[i] = live[i] ? 0 : -1;
    for (size_t i = 0; i < g->n_nodes; i++) {
        dd_node *n = &g->nodes[i];
        bool needed = false;
        for (int k = 0; k < n->n_out; k++)
            needed |= n->out[k] >= 0 && live[n->out[k]];
        if (!needed) {
            free_node(n);
            continue;
        }
        for (int k = 0; k < n->n_out; k++)
            if (n->out[k] >= 0) {
                if (keeps_output(g, n, i, k))
                    map[n->out[k]] = 0;
                g->values[n->out[k]].producer = (int)kept;
            }
        forward += i < (size_t)g->n_forward;
        g->nodes[kept++] = *n;
    }
    g->n_nodes = kept;
    g->n_forward = forward;
    size_t id = 0;
    for (size_t i = 0; i < g->n_values; i++) {
        if (map[i] < 0) {
            dd_free(g->values[i].name);
            continue;
        }
        map[i] = (int)id;
        g->values[id++] = g->values[i];
    }
    g->n_values = id;
}

/* Both work arrays are taken before anything moves: so a failure leaves the graph as it was, and
 * from the first move on nothing can fail. */
dd_status dd_graph_prune_dead(dd_graph *g) {
    dd_status status;
    bool *live = NULL;
    int *map = NULL;
    DD_TRY_DONE(dd_alloc_array(g->n_values, sizeof *live, &live));
    DD_TRY_DONE(dd_alloc_array(g->n_values, sizeof *map, &map));
    mark_live(g, live);
    compact(g, live, map); /* from here on nothing can fail */
    for (size_t i = 0; i < g->n_nodes; i++) {
        dd_node *n = &g->nodes[i];
        for (int k = 0; k < n->n_in; k++)
            n->in[k] = n->in[k] < 0 ? -1 : map[n->in[k]];
        for (int k = 0; k < n->n_out; k++)
            n->out[k] = n->out[k] < 0 ? -1 : map[n->out[k]];
    }
    for (size_t i = 0; i < g->n_inputs; i++)
        g->inputs[i] = map[g->inputs[i]];
    for (size_t i = 0; i < g->n_outputs; i++) {
        g->outputs[i] = map[g->outputs[i]];
        if (g->seeds && g->seeds[i] >= 0)
            g->seeds[i] = map[g->seeds[i]];
    }
    for (size_t i = 0; i < g->n_gradients; i++)
        g->gradients[i].value = map[g->gradients[i].value];
    for (size_t i = 0; i < g->n_values; i++)
        if (g->values[i].kind == DD_VALUE_SEED)
            g->values[i].of = map[g->values[i].of];
done:
    dd_free(live);
    dd_free(map);
    return status;
}
