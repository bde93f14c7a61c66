/* See channels.h. Lists lie one after another in `ids`; a list is (first, count) in it. */
#include "graph/channels.h"

#include "base/memory.h"

/* A run of `items`. */
typedef struct list {
    size_t first;
    int64_t n; /* -1: not known */
} list;

/* The channels along one axis of a store's entry. */
typedef struct axis {
    int entry, axis;
    list list;
} axis;

struct dd_channel_ids {
    int *parent; /* union-find over ids */
    size_t n_ids, ids_capacity;
    int *items; /* all lists */
    size_t n_items, items_capacity;
    list *values;
    axis *axes;
    size_t n_axes, axes_capacity;
    const dd_graph *g;
    const dd_type *types; /* by value, borrowed while hooks run */
    const dd_node *node;  /* whose hook runs */
    dd_status status;     /* the first failure */
};

/* ---- union-find ---------------------------------------------------------------------------- */

/* With path halving: chains stay short without a second pass. */
static int root(dd_channel_ids *c, int id) {
    while (c->parent[id] != id) {
        c->parent[id] = c->parent[c->parent[id]];
        id = c->parent[id];
    }
    return id;
}

/* The smaller id is the root, so that 0 stays the locked class and groups are in order of making.
 */
static void unite(dd_channel_ids *c, int a, int b) {
    a = root(c, a);
    b = root(c, b);
    if (a < b)
        c->parent[b] = a;
    else
        c->parent[a] = b;
}

/* Hooks return nothing; the first failure is kept and reported at the end. */
static void note(dd_channel_ids *c, dd_status status) {
    if (c->status == DD_OK)
        c->status = status;
}

/* A channel that nothing is tied to yet; the locked one after a failure. */
static int new_id(dd_channel_ids *c) {
    dd_status status = dd_reserve(&c->parent, &c->ids_capacity, c->n_ids + 1, sizeof *c->parent);
    if (status != DD_OK) {
        note(c, status);
        return 0;
    }
    c->parent[c->n_ids] = (int)c->n_ids;
    return (int)c->n_ids++;
}

/* A list of n channels, all locked. */
static list new_list(dd_channel_ids *c, int64_t n) {
    list l = {.first = c->n_items, .n = n};
    dd_status status =
        dd_reserve(&c->items, &c->items_capacity, c->n_items + (size_t)n, sizeof *c->items);
    if (status != DD_OK) {
        note(c, status);
        return (list){.n = 0};
    }
    for (int64_t k = 0; k < n; k++)
        c->items[c->n_items++] = 0;
    return l;
}

/* Channel by channel; lists of different lengths have nothing to say to each other. */
static void unify_lists(dd_channel_ids *c, list a, list b) {
    for (int64_t k = 0; k < a.n && a.n == b.n; k++)
        unite(c, c->items[a.first + (size_t)k], c->items[b.first + (size_t)k]);
}

static void lock_list(dd_channel_ids *c, list l) {
    for (int64_t k = 0; k < l.n; k++)
        unite(c, c->items[l.first + (size_t)k], 0);
}

/* ---- for op->channels ---------------------------------------------------------------------- */

/* The list of an input of the node whose hook runs. */
static list input_list(const dd_channel_ids *c, int input) {
    bool there = input < c->node->n_in && c->node->in[input] >= 0;
    return there ? c->values[c->node->in[input]] : (list){.n = -1};
}

int64_t dd_channels_count(const dd_channel_ids *c, int input) {
    return input_list(c, input).n;
}

int64_t dd_channels_axis(const dd_channel_ids *c, int input, int number) {
    int value = input < c->node->n_in ? c->node->in[input] : -1;
    return value >= 0 && number < c->types[value].rank ? c->types[value].dims[number] : -1;
}

void dd_channels_size(dd_channel_ids *c, int output, int64_t n) {
    c->values[c->node->out[output]] = new_list(c, n);
}

void dd_channels_fresh(dd_channel_ids *c, int output, int64_t n) {
    dd_channels_size(c, output, n);
    list l = c->values[c->node->out[output]];
    for (int64_t k = 0; k < l.n; k++)
        c->items[l.first + (size_t)k] = new_id(c);
}

void dd_channels_take(dd_channel_ids *c, int output, int64_t channel, int input, int64_t from) {
    list to = c->values[c->node->out[output]], in = input_list(c, input);
    if (channel >= 0 && channel < to.n && from >= 0 && from < in.n)
        c->items[to.first + (size_t)channel] = c->items[in.first + (size_t)from];
}

void dd_channels_keep(dd_channel_ids *c, int output, int input) {
    list in = input_list(c, input);
    if (in.n >= 0)
        c->values[c->node->out[output]] = in;
}

void dd_channels_unify(dd_channel_ids *c, int input_a, int input_b) {
    list a = input_list(c, input_a), b = input_list(c, input_b);
    if (a.n > 1 && b.n > 1)
        unify_lists(c, a, b);
}

void dd_channels_lock(dd_channel_ids *c, int input) {
    lock_list(c, input_list(c, input));
}

/* Records the channels of an entry's axis, or unifies them with those of an earlier use. */
static void record_axis(dd_channel_ids *c, int input, int number, list l) {
    int value = input < c->node->n_in ? c->node->in[input] : -1;
    if (value < 0 || l.n < 0)
        return;
    if (c->g->values[value].kind != DD_VALUE_ENTRY) {
        /* an ordinary operand has a list for its last axis; computed weights are out of reach */
        if (number == c->types[value].rank - 1)
            unify_lists(c, c->values[value], l);
        else
            lock_list(c, l);
        return;
    }
    int entry = c->g->values[value].entry;
    for (size_t i = 0; i < c->n_axes; i++)
        if (c->axes[i].entry == entry && c->axes[i].axis == number) {
            unify_lists(c, c->axes[i].list, l);
            return;
        }
    dd_status status = dd_reserve(&c->axes, &c->axes_capacity, c->n_axes + 1, sizeof *c->axes);
    if (status == DD_OK)
        c->axes[c->n_axes++] = (axis){.entry = entry, .axis = number, .list = l};
    else
        note(c, status);
}

void dd_channels_axis_output(dd_channel_ids *c, int input, int number, int output) {
    record_axis(c, input, number, c->values[c->node->out[output]]);
}

void dd_channels_axis_input(dd_channel_ids *c, int input, int number, int other) {
    record_axis(c, input, number, input_list(c, other));
}

/* ---- for pruning --------------------------------------------------------------------------- */

void dd_channels_destroy(dd_channel_ids *c) {
    if (!c)
        return;
    dd_free(c->parent);
    dd_free(c->items);
    dd_free(c->values);
    dd_free(c->axes);
    dd_free(c);
}

/* Inputs and seeds are locked from the start, outputs at the end; in between each node's hook, or
 * the lock of all that an operator without one touches. */
static dd_status walk(dd_channel_ids *c, const dd_type *types) {
    const dd_graph *g = c->g;
    c->types = types;
    (void)new_id(c); /* the locked class */
    for (size_t i = 0; i < g->n_values && c->status == DD_OK; i++) {
        const dd_value *v = &g->values[i];
        c->values[i] =
            v->kind == DD_VALUE_NODE ? (list){.n = -1} : new_list(c, dd_type_last(&types[i]));
        /* a parameter that is an operand (a scale) is free until something locks it */
        for (int64_t k = 0; v->kind == DD_VALUE_ENTRY && k < c->values[i].n; k++)
            c->items[c->values[i].first + (size_t)k] = new_id(c);
    }
    for (size_t i = 0; i < g->n_nodes && c->status == DD_OK; i++) {
        const dd_node *n = c->node = &g->nodes[i];
        if (n->op->channels)
            n->op->channels(n, c);
        else
            for (int k = 0; k < n->n_in; k++)
                dd_channels_lock(c, k);
        for (int k = 0; k < n->n_out; k++)
            if (c->values[n->out[k]].n != dd_type_last(&types[n->out[k]]))
                c->values[n->out[k]] = new_list(c, dd_type_last(&types[n->out[k]]));
    }
    for (size_t i = 0; i < g->n_outputs && c->status == DD_OK; i++)
        lock_list(c, c->values[g->outputs[i]]);
    return c->status;
}

dd_status dd_channels_create(const dd_graph *g, const dd_store *s, const dd_type *types,
                             dd_channel_ids **ids) {
    dd_status status;
    dd_channel_ids *c = NULL;
    (void)s;
    if (g->training)
        return dd_fail(DD_EVALUE, "channels: a training graph came, the forward graph is needed");
    DD_TRY_DONE(dd_alloc_array(1, sizeof *c, &c));
    c->g = g;
    DD_TRY_DONE(dd_alloc_array(g->n_values, sizeof *c->values, &c->values));
    DD_TRY_DONE(walk(c, types));
    *ids = c;
    c = NULL;
done:
    dd_channels_destroy(c);
    return status;
}

/* The groups are final only now: a later node may have united what an earlier one made. */
static int64_t write_groups(dd_channel_ids *c, list l, int *groups) {
    for (int64_t k = 0; k < l.n; k++)
        groups[k] = root(c, c->items[l.first + (size_t)k]);
    return l.n < 0 ? 0 : l.n;
}

int64_t dd_channels_of_value(dd_channel_ids *c, int value, int *groups) {
    return write_groups(c, c->values[value], groups);
}

int64_t dd_channels_of_entry(dd_channel_ids *c, int entry, int number, int *groups) {
    for (size_t i = 0; i < c->n_axes; i++)
        if (c->axes[i].entry == entry && c->axes[i].axis == number)
            return write_groups(c, c->axes[i].list, groups);
    return 0;
}
