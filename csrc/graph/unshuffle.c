/* Channel shuffles dissolve into the weights around them.
 *
 * A ShuffleNet moves channels about between its convolutions: concat, shuffle, split, again and
 * again, so that half of them travel through a whole stage without any arithmetic. But a dense
 * convolution reads its input channels in any order once its weights are in that order, and writes
 * its own in any order. So every value gets an order of its channels in which what is read together
 * lies together, the weights are put into these orders, and what is left of the moves are slices
 * and concatenations of whole runs, which the planner reads where they lie: the half that passes
 * never moves.
 *
 * Values whose channels must be in one order (through activations, depthwise convolutions, pools,
 * additions) form a class. A class is locked, its order kept, where anything else reads or makes
 * it: an output, a reshape, weights that two nodes share. A move that ends in a locked class stays
 * as it is and locks what it reads. */
#include "graph/rewrite.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "ops/params.h"

enum { MAX_RUNS = 12 }; /* of a concatenation; beyond that the shuffle stays */

/* A channel of a value that no move made. */
typedef struct origin {
    int value, channel;
} origin;

typedef struct pass {
    const dd_graph *g;
    dd_store *s;
    size_t n_values;
    int *uses;         /* by value: readers */
    int *parent;       /* by value: union-find of classes */
    bool *locked;      /* by class */
    int64_t *channels; /* by value; -1: not a map with known channels */
    bool *read;        /* by value: something else than a move reads it */
    bool *moves;       /* by node */
    origin **lists;    /* by value: what a move made of origins; NULL for others */
    int **orders;      /* by class: order[position] = channel; NULL: as it is */
    int **first_use;   /* by class and channel: the first assembled value that has it; NULL */
    bool *assembled;   /* by class: holds a value that moves make */
    int *map;          /* by value: its id in the new graph */
    bool again;        /* a lock was added */
} pass;

/* ---- classes ------------------------------------------------------------------------------- */

static int class_of(pass *p, int value) {
    while (p->parent[value] != value) {
        p->parent[value] = p->parent[p->parent[value]];
        value = p->parent[value];
    }
    return value;
}

static void tie(pass *p, int a, int b) {
    a = class_of(p, a);
    b = class_of(p, b);
    p->parent[a] = b;
    p->locked[b] |= p->locked[a];
}

static void lock(pass *p, int value) {
    if (value >= 0)
        p->locked[class_of(p, value)] = true;
}

static void lock_around(pass *p, const dd_node *n) {
    for (int k = 0; k < n->n_in; k++)
        lock(p, n->in[k]);
    for (int k = 0; k < n->n_out; k++)
        lock(p, n->out[k]);
}

static bool is_locked(pass *p, int value) {
    return p->locked[class_of(p, value)];
}

static const dd_entry *entry_of(const pass *p, int value) {
    const dd_value *v = value >= 0 ? &p->g->values[value] : NULL;
    return v && v->kind == DD_VALUE_ENTRY ? &p->s->entries[v->entry] : NULL;
}

/* An entry that only this node reads may be put into another order. */
static const dd_entry *own_entry(const pass *p, int value) {
    return value >= 0 && p->uses[value] == 1 ? entry_of(p, value) : NULL;
}

static bool last_axis(int64_t axis) {
    return axis == -1 || axis == 3;
}

/* A slice of channels alone. */
static bool cuts_channels(const dd_slice_params *c) {
    return c->starts.n == 1 && c->axes.n == 1 && last_axis(c->axes.v[0]);
}

/* Moves of channels: of maps (rank 4) only. Sets the outputs' channels; false for anything else. */
static bool read_move(pass *p, const dd_node *n) {
    int64_t sum = 0, in = p->channels[n->in[0]];
    bool shuffle = n->op == &dd_op_channel_shuffle, split = n->op == &dd_op_split;
    bool slice = n->op == &dd_op_slice && cuts_channels(n->params);
    for (int k = 0; k < n->n_in; k++)
        sum += p->channels[n->in[k]] < 0 ? INT32_MIN : p->channels[n->in[k]];
    if (sum < 0 || sum > INT32_MAX)
        return false;
    if (n->op == &dd_op_concat) {
        p->channels[n->out[0]] = sum;
        return last_axis(((const dd_axis_params *)n->params)->axis);
    }
    if (split) {
        const dd_split_params *c = n->params;
        for (int i = 0; i < n->n_out; i++)
            p->channels[n->out[i]] = c->sizes.n ? c->sizes.v[i] : in / c->parts;
        return last_axis(c->axis);
    }
    if (shuffle)
        p->channels[n->out[0]] = in;
    return shuffle || slice; /* a slice's are known with its list */
}

/* A dense convolution frees both sides, a depthwise one ties them. */
static bool read_conv(pass *p, const dd_node *n) {
    const dd_entry *w = n->op == &dd_op_conv && n->n_in >= 2 ? own_entry(p, n->in[1]) : NULL;
    if (!w || w->type.rank != 4 || (n->n_in > 2 && n->in[2] >= 0 && !own_entry(p, n->in[2])))
        return false;
    int64_t groups = ((const dd_conv_params *)n->params)->groups;
    bool depthwise = groups > 1 && w->type.dims[0] == groups && w->type.dims[1] == 1;
    p->channels[n->out[0]] = w->type.dims[0];
    if (depthwise)
        tie(p, n->in[0], n->out[0]);
    return groups <= 1 || depthwise;
}

/* Two maps, or a map and one number a channel or for all. */
static bool read_binary(pass *p, const dd_node *n) {
    for (int k = 0; k < 2; k++) {
        const dd_entry *e = entry_of(p, n->in[k]);
        bool channels = e && e->type.rank <= 1 && own_entry(p, n->in[k]) &&
                        e->count == p->channels[n->in[1 - k]];
        if (!e && p->channels[n->in[k]] < 0)
            return false;
        if (e && e->count != 1 && !channels)
            return false;
    }
    int a = entry_of(p, n->in[0]) ? n->in[1] : n->in[0];
    int b = entry_of(p, n->in[1]) ? n->in[0] : n->in[1];
    if (entry_of(p, a) || p->channels[a] != p->channels[b])
        return false;
    p->channels[n->out[0]] = p->channels[a];
    tie(p, a, n->out[0]);
    tie(p, b, n->out[0]);
    return true;
}

/* What works on each channel alone and has no parameters. */
static bool read_channelwise(pass *p, const dd_node *n) {
    if (n->op != &dd_op_unary && n->op != &dd_op_max_pool && n->op != &dd_op_avg_pool &&
        n->op != &dd_op_resize && n->op != &dd_op_dropout && n->op != &dd_op_stop_gradient)
        return false;
    p->channels[n->out[0]] = p->channels[n->in[0]];
    tie(p, n->in[0], n->out[0]);
    return true;
}

static int64_t move_channels(pass *p, const dd_node *n, int output, origin *list);

static void read_node(pass *p, int node) {
    const dd_node *n = &p->g->nodes[node];
    bool move = n->n_in > 0 && n->in[0] >= 0 && read_move(p, n);
    p->moves[node] = move;
    if (move && n->op == &dd_op_slice)
        p->channels[n->out[0]] = move_channels(p, n, 0, NULL);
    if (move)
        return;
    for (int k = 0; k < n->n_in; k++)
        if (n->in[k] >= 0)
            p->read[n->in[k]] = true;
    if (n->n_in > 0 && n->in[0] >= 0 &&
        (read_conv(p, n) || (n->op == &dd_op_binary && read_binary(p, n)) ||
         read_channelwise(p, n)))
        return;
    lock_around(p, n);
}

/* A move with a locked result stays, in the old order on both sides. */
static void spread_locks(pass *p) {
    for (bool changed = true; changed;) {
        changed = false;
        for (size_t i = 0; i < p->g->n_nodes; i++) {
            const dd_node *n = &p->g->nodes[i];
            bool any = false, all = true;
            for (int k = 0; p->moves[i] && k < n->n_out; k++)
                any |= is_locked(p, n->out[k]);
            for (int k = 0; any && k < n->n_in; k++)
                all &= is_locked(p, n->in[k]);
            for (int k = 0; any && k < n->n_out; k++)
                all &= is_locked(p, n->out[k]);
            if (!all)
                lock_around(p, n);
            changed |= !all;
        }
    }
}

/* ---- lists --------------------------------------------------------------------------------- */

static origin channel_of(const pass *p, int value, int64_t channel) {
    return p->lists[value] ? p->lists[value][channel] : (origin){value, (int)channel};
}

/* Python's rule for where a cut begins and ends. */
static int64_t bound(int64_t at, int64_t step, int64_t size) {
    int64_t low = step > 0 ? 0 : -1, high = step > 0 ? size : size - 1;
    at = at < 0 ? at + size : at;
    return at < low ? low : at > high ? high : at;
}

/* The channels of a move's output, to `list` where it is given; returns how many. */
static int64_t move_channels(pass *p, const dd_node *n, int output, origin *list) {
    int64_t count = 0, in = p->channels[n->in[0]];
    if (n->op == &dd_op_concat) {
        for (int k = 0; k < n->n_in; k++)
            for (int64_t c = 0; c < p->channels[n->in[k]]; c++)
                list[count++] = channel_of(p, n->in[k], c);
        return count;
    }
    int64_t first = 0, step = 1, groups = 1;
    count = p->channels[n->out[output]];
    if (n->op == &dd_op_split) {
        for (int k = 0; k < output; k++)
            first += p->channels[n->out[k]];
    } else if (n->op == &dd_op_slice) {
        const dd_slice_params *c = n->params;
        step = c->steps.n ? c->steps.v[0] : 1;
        first = bound(c->starts.v[0], step, in);
        int64_t span = (bound(c->ends.v[0], step, in) - first) * (step > 0 ? 1 : -1);
        int64_t stride = step > 0 ? step : -step;
        count = span > 0 ? (span - 1) / stride + 1 : 0;
    } else {
        groups = ((const dd_shuffle_params *)n->params)->groups;
    }
    for (int64_t c = 0; list && c < count; c++) {
        int64_t from = groups > 1 ? c % groups * (in / groups) + c / groups : first + c * step;
        list[c] = channel_of(p, n->in[0], from);
    }
    return count;
}

/* What a move makes in a free class is a list of origins; a locked result is an origin itself. */
static dd_status make_lists(pass *p) {
    for (size_t i = 0; i < p->g->n_nodes; i++) {
        const dd_node *n = &p->g->nodes[i];
        for (int k = 0; p->moves[i] && k < n->n_out; k++) {
            int v = n->out[k];
            if (is_locked(p, v))
                continue;
            DD_TRY(dd_alloc_array((size_t)p->channels[v] + 1, sizeof(origin), &p->lists[v]));
            (void)move_channels(p, n, k, p->lists[v]);
        }
    }
    return DD_OK;
}

/* ---- orders -------------------------------------------------------------------------------- */

/* A value that the new graph assembles out of runs. */
static bool is_assembled(pass *p, int value) {
    return p->lists[value] && p->read[value];
}

/* Which channels of a class are read first, and by which assembled value. */
static dd_status note_uses(pass *p, int value) {
    for (int64_t c = 0; c < p->channels[value]; c++) {
        origin o = p->lists[value][c];
        int k = class_of(p, o.value);
        int64_t n = p->channels[o.value];
        if (!p->first_use[k]) {
            DD_TRY(dd_alloc_array((size_t)n, sizeof(int), &p->first_use[k]));
            for (int64_t i = 0; i < n; i++)
                p->first_use[k][i] = INT32_MAX;
        }
        if (p->first_use[k][o.channel] == INT32_MAX)
            p->first_use[k][o.channel] = value;
    }
    return DD_OK;
}

/* A channel and what it is sorted by. */
typedef struct place {
    int a, b, channel;
} place;

static int by_place(const void *x, const void *y) {
    const place *p = x, *q = y;
    if (p->a != q->a)
        return p->a < q->a ? -1 : 1;
    if (p->b != q->b)
        return p->b < q->b ? -1 : 1;
    return p->channel - q->channel;
}

/* Where a channel stands in its value's order. */
static int position_of(pass *p, origin o) {
    const int *order = p->orders[class_of(p, o.value)];
    for (int i = 0; order && i < (int)p->channels[o.value]; i++)
        if (order[i] == o.channel)
            return i;
    return o.channel;
}

/* Gives a class its order: of an assembled value its origins one after the other, each in its own
 * order; of a value that a convolution makes what is read first stands first. */
static dd_status order_class(pass *p, int value, bool is_list) {
    int k = class_of(p, value);
    int64_t n = p->channels[value];
    place *places;
    dd_status status;
    if (p->locked[k] || p->orders[k] || (!is_list && !p->first_use[k]))
        return DD_OK;
    DD_TRY(dd_alloc_array((size_t)n + 1, sizeof *places, &places));
    for (int64_t c = 0; c < n; c++) {
        origin o = is_list ? p->lists[value][c] : (origin){p->first_use[k][c], 0};
        places[c] = (place){o.value, is_list ? position_of(p, o) : 0, (int)c};
    }
    if (n)
        qsort(places, (size_t)n, sizeof *places, by_place);
    DD_TRY_DONE(dd_alloc_array((size_t)n + 1, sizeof(int), &p->orders[k]));
    for (int64_t i = 0; i < n; i++)
        p->orders[k][i] = places[i].channel;
done:
    dd_free(places);
    return status;
}

/* Orders an assembled value and what it is made of; one whose origin waits for a later order is
 * locked instead. */
static dd_status order_assembled(pass *p, int value) {
    for (int64_t c = 0; c < p->channels[value]; c++) {
        int from = class_of(p, p->lists[value][c].value);
        if (p->assembled[from] && !p->orders[from] && !p->locked[from]) {
            lock(p, value);
            p->again = true;
            return DD_OK;
        }
        DD_TRY(order_class(p, p->lists[value][c].value, false));
    }
    return order_class(p, value, true);
}

typedef struct run {
    int value, first, count;
} run;

/* The runs of an assembled value in its order; more than MAX_RUNS are only counted. */
static int find_runs(pass *p, int value, run *runs) {
    int n = 0;
    const int *order = p->orders[class_of(p, value)];
    for (int64_t i = 0; i < p->channels[value]; i++) {
        origin o = p->lists[value][order[i]];
        int at = position_of(p, o);
        run *last = n > 0 && n <= MAX_RUNS ? &runs[n - 1] : NULL;
        if (last && last->value == o.value && last->first + last->count == at) {
            last->count++;
            continue;
        }
        if (n < MAX_RUNS)
            runs[n] = (run){o.value, at, 1};
        n++;
    }
    return n;
}

static dd_status choose_orders(pass *p) {
    run runs[MAX_RUNS];
    for (size_t v = 0; v < p->g->n_values; v++)
        if (is_assembled(p, (int)v)) {
            p->assembled[class_of(p, (int)v)] = true;
            DD_TRY(note_uses(p, (int)v));
        }
    for (size_t v = 0; v < p->g->n_values && !p->again; v++) {
        if (!is_assembled(p, (int)v))
            continue;
        DD_TRY(order_assembled(p, (int)v));
        if (!p->again && find_runs(p, (int)v, runs) > MAX_RUNS) {
            lock(p, (int)v);
            p->again = true;
        }
    }
    return DD_OK;
}

/* ---- weights ------------------------------------------------------------------------------- */

/* Puts axis `axis` of an entry into the order of the class of `value`. */
static dd_status permute(pass *p, int entry_value, int axis, int value) {
    const int *order = p->orders[class_of(p, value)];
    const dd_entry *e = entry_of(p, entry_value);
    float *old;
    if (!order || !e || e->count <= 1 || e->type.rank <= axis)
        return DD_OK;
    int64_t outer = 1, n = e->type.dims[axis];
    for (int k = 0; k < axis; k++)
        outer *= e->type.dims[k];
    int64_t inner = e->count / (outer * n);
    float *data = dd_store_data(p->s, p->g->values[entry_value].entry);
    DD_TRY(dd_alloc_array((size_t)e->count, sizeof *old, &old));
    memcpy(old, data, (size_t)e->count * sizeof *old);
    for (int64_t i = 0; i < outer; i++)
        for (int64_t k = 0; k < n; k++)
            memcpy(data + (i * n + k) * inner, old + (i * n + order[k]) * inner,
                   (size_t)inner * sizeof *old);
    dd_free(old);
    return DD_OK;
}

static dd_status permute_weights(pass *p) {
    for (size_t i = 0; i < p->g->n_nodes; i++) {
        const dd_node *n = &p->g->nodes[i];
        if (n->op == &dd_op_conv && n->n_in >= 2) {
            DD_TRY(permute(p, n->in[1], 0, n->out[0]));
            if (((const dd_conv_params *)n->params)->groups <= 1)
                DD_TRY(permute(p, n->in[1], 1, n->in[0]));
            if (n->n_in > 2 && n->in[2] >= 0)
                DD_TRY(permute(p, n->in[2], 0, n->out[0]));
        } else if (n->op == &dd_op_binary) {
            for (int k = 0; k < 2; k++)
                DD_TRY(permute(p, n->in[k], 0, n->out[0]));
        }
    }
    dd_store_touch(p->s);
    return DD_OK;
}

/* ---- the new graph ------------------------------------------------------------------------- */

static dd_status map_value(pass *p, dd_graph *to, int value, int *id) {
    if (value < 0) {
        *id = -1;
        return DD_OK;
    }
    if (p->g->values[value].kind == DD_VALUE_ENTRY)
        return dd_graph_entry(to, p->s, p->g->values[value].entry, id);
    *id = p->map[value];
    return DD_OK;
}

/* Slices where a run is not a whole value, and their concatenation. */
static dd_status write_runs(pass *p, dd_graph *to, int value, const char *name) {
    run runs[MAX_RUNS];
    int n = find_runs(p, value, runs), parts[MAX_RUNS];
    for (int i = 0; i < n; i++) {
        parts[i] = p->map[runs[i].value];
        if (runs[i].count == p->channels[runs[i].value])
            continue;
        dd_slice_params cut = {.starts = {.n = 1, .v = {runs[i].first}},
                               .ends = {.n = 1, .v = {runs[i].first + runs[i].count}},
                               .axes = {.n = 1, .v = {3}}};
        DD_TRY(dd_graph_node(to, &dd_op_slice, name, &cut, &p->map[runs[i].value], 1, 0, &parts[i],
                             NULL));
    }
    if (n == 1) {
        p->map[value] = parts[0];
        return DD_OK;
    }
    dd_axis_params axis = {.axis = 3};
    return dd_graph_node(to, &dd_op_concat, name, &axis, parts, n, 0, &p->map[value], NULL);
}

static dd_status write_node(pass *p, dd_graph *to, int node) {
    const dd_node *n = &p->g->nodes[node];
    int in[DD_MANY], out[DD_MANY];
    if (p->moves[node] && !is_locked(p, n->out[0])) { /* one locked output locks them all */
        for (int k = 0; k < n->n_out; k++)
            if (is_assembled(p, n->out[k]))
                DD_TRY(write_runs(p, to, n->out[k], n->name));
        return DD_OK;
    }
    for (int k = 0; k < n->n_in; k++)
        DD_TRY(map_value(p, to, n->in[k], &in[k]));
    DD_TRY(dd_graph_node(to, n->op, n->name, n->params, in, n->n_in,
                         n->op->n_outputs == DD_MANY ? n->n_out : 0, out, NULL));
    for (int k = 0; k < n->n_out; k++)
        p->map[n->out[k]] = out[k];
    return DD_OK;
}

static dd_status write_graph(pass *p, dd_graph *to) {
    const dd_graph *g = p->g;
    for (size_t i = 0; i < g->n_inputs; i++) {
        const dd_value *v = &g->values[g->inputs[i]];
        DD_TRY(dd_graph_input(to, v->name, &v->type, &p->map[g->inputs[i]]));
    }
    for (size_t i = 0; i < g->n_nodes; i++)
        DD_TRY(write_node(p, to, (int)i));
    for (size_t i = 0; i < g->n_outputs; i++) {
        int id;
        DD_TRY(map_value(p, to, g->outputs[i], &id));
        DD_TRY(dd_graph_output(to, g->output_names[i], id));
    }
    return DD_OK;
}

/* Shuffles, and slices that take every second channel. */
static bool has_shuffle(const dd_graph *g) {
    for (size_t i = 0; i < g->n_nodes; i++) {
        const dd_node *n = &g->nodes[i];
        const dd_slice_params *c = n->op == &dd_op_slice ? n->params : NULL;
        if (n->op == &dd_op_channel_shuffle ||
            (c && cuts_channels(c) && c->steps.n && c->steps.v[0] != 1))
            return true;
    }
    return false;
}

static dd_status make_arrays(pass *p) {
    size_t n = p->g->n_values + 1;
    DD_TRY(dd_alloc_array(n, sizeof *p->uses, &p->uses));
    DD_TRY(dd_alloc_array(n, sizeof *p->parent, &p->parent));
    DD_TRY(dd_alloc_array(n, sizeof *p->locked, &p->locked));
    DD_TRY(dd_alloc_array(n, sizeof *p->channels, &p->channels));
    DD_TRY(dd_alloc_array(n, sizeof *p->read, &p->read));
    DD_TRY(dd_alloc_array(p->g->n_nodes + 1, sizeof *p->moves, &p->moves));
    DD_TRY(dd_alloc_array(n, sizeof *p->lists, &p->lists));
    DD_TRY(dd_alloc_array(n, sizeof *p->orders, &p->orders));
    DD_TRY(dd_alloc_array(n, sizeof *p->first_use, &p->first_use));
    DD_TRY(dd_alloc_array(n, sizeof *p->assembled, &p->assembled));
    return dd_alloc_array(n, sizeof *p->map, &p->map);
}

/* What a round found, so that the next can begin. */
static void forget(pass *p) {
    for (size_t i = 0; i < p->n_values; i++) {
        dd_free(p->lists[i]);
        dd_free(p->orders[i]);
        dd_free(p->first_use[i]);
        p->lists[i] = NULL;
        p->orders[i] = p->first_use[i] = NULL;
        p->assembled[i] = false;
    }
}

static void drop(pass *p) {
    void *arrays[] = {p->uses,  p->parent, p->locked,    p->channels,  p->read, p->moves,
                      p->lists, p->orders, p->first_use, p->assembled, p->map};
    if (p->lists && p->orders && p->first_use && p->assembled)
        forget(p);
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++)
        dd_free(arrays[i]);
}

static void read_graph(pass *p) {
    const dd_graph *g = p->g;
    for (size_t i = 0; i < g->n_values; i++) {
        p->parent[i] = (int)i;
        p->channels[i] = -1;
    }
    for (size_t i = 0; i < g->n_nodes; i++)
        for (int k = 0; k < g->nodes[i].n_in; k++)
            if (g->nodes[i].in[k] >= 0)
                p->uses[g->nodes[i].in[k]]++;
    for (size_t i = 0; i < g->n_inputs; i++)
        lock(p, g->inputs[i]);
    for (size_t i = 0; i < g->n_nodes; i++)
        read_node(p, (int)i);
    for (size_t i = 0; i < g->n_outputs; i++) {
        lock(p, g->outputs[i]);
        p->read[g->outputs[i]] = true;
    }
}

dd_status dd_graph_unshuffle(dd_graph **graph, dd_store *store) {
    dd_status status = DD_OK;
    pass p = {.g = *graph, .s = store, .n_values = (*graph)->n_values};
    dd_graph *to = NULL;
    if (!has_shuffle(*graph))
        return DD_OK;
    DD_TRY_DONE(make_arrays(&p));
    read_graph(&p);
    do { /* a lock more each time, so it ends */
        p.again = false;
        forget(&p);
        spread_locks(&p);
        DD_TRY_DONE(make_lists(&p));
        DD_TRY_DONE(choose_orders(&p));
    } while (p.again);
    DD_TRY_DONE(dd_graph_create(&to));
    DD_TRY_DONE(write_graph(&p, to));
    DD_TRY_DONE(permute_weights(&p));
    dd_graph_destroy(*graph);
    *graph = to;
    to = NULL;
done:
    dd_graph_destroy(to);
    drop(&p);
    return status;
}
