/* The interpreter: one operator at a time over dense arrays that all live at once.
 *
 * It is the oracle of every test, so it does nothing clever: no buffer is shared, no node is
 * skipped, and every value can be looked at after a run. One block holds all values, the outputs
 * that nobody wants (their operators write them all the same) and the largest scratch. */
#include "graph/interpret.h"

#include <string.h>

#include "base/memory.h"
#include "base/threads.h"

#define MAX_ARRAYS (3 * DD_MANY + DD_MAX_SAVED)

struct dd_interpreter {
    const dd_graph *g;
    dd_store *s;
    uint64_t seed;
    dd_type *types;   /* by value */
    size_t *offsets;  /* by value, in bytes; entries have none */
    size_t *unwanted; /* by node: where its unwanted outputs begin */
    bool *computed;   /* by value: holds data of the last run */
    char *block;
    size_t scratch; /* offset of the scratch */
    uint64_t step;
    bool has_forward;
};

/* NULL and half-made ones are allowed. */
void dd_interpreter_destroy(dd_interpreter *it) {
    if (!it)
        return;
    dd_free(it->types);
    dd_free(it->offsets);
    dd_free(it->unwanted);
    dd_free(it->computed);
    dd_free(it->block);
    dd_free(it);
}

/* Takes room for one array behind *end. */
static dd_status take(const dd_type *t, const char *who, size_t *end, size_t *offset) {
    size_t bytes;
    DD_TRY(dd_type_bytes(t, who, &bytes));
    *offset = *end;
    DD_TRY(dd_size_add(*end, (bytes + DD_ALIGN - 1) / DD_ALIGN * DD_ALIGN, who, end));
    return DD_OK;
}

/* Places of all values, of unwanted outputs and of the scratch; *total bytes in all. */
static dd_status lay_out(dd_interpreter *it, size_t *total) {
    const dd_graph *g = it->g;
    dd_type in[MAX_ARRAYS], out[2 * DD_MANY];
    size_t end = 0, scratch = 0, unused;
    for (size_t i = 0; i < g->n_values; i++)
        if (g->values[i].kind != DD_VALUE_ENTRY)
            DD_TRY(take(&it->types[i], g->values[i].name, &end, &it->offsets[i]));
    for (size_t i = 0; i < g->n_nodes; i++) {
        const dd_node *n = &g->nodes[i];
        dd_node_types(n, it->types, in);
        it->unwanted[i] = end;
        if (!n->backward) {
            DD_TRY(dd_node_infer(n, in, out));
            for (int k = 0; k < n->n_out; k++)
                if (n->out[k] < 0)
                    DD_TRY(take(&out[k], n->name, &end, &unused));
        }
        size_t bytes = n->op->scratch ? n->op->scratch(n, in) : 0;
        if (bytes > scratch)
            scratch = bytes;
    }
    it->scratch = end;
    return dd_size_add(end, scratch, "interpreter", total);
}

/* All memory is taken here: runs can fail by their data alone. */
dd_status dd_interpreter_create(const dd_graph *g, dd_store *s, const dd_type *inputs,
                                uint64_t seed, dd_interpreter **interpreter) {
    dd_status status;
    size_t total;
    dd_interpreter *it = NULL;
    DD_TRY_DONE(dd_alloc_array(1, sizeof *it, &it));
    it->g = g;
    it->s = s;
    it->seed = seed;
    DD_TRY_DONE(dd_alloc_array(g->n_values, sizeof *it->types, &it->types));
    DD_TRY_DONE(dd_alloc_array(g->n_values, sizeof *it->offsets, &it->offsets));
    DD_TRY_DONE(dd_alloc_array(g->n_values, sizeof *it->computed, &it->computed));
    DD_TRY_DONE(dd_alloc_array(g->n_nodes, sizeof *it->unwanted, &it->unwanted));
    DD_TRY_DONE(dd_graph_infer(g, s, inputs, it->types));
    DD_TRY_DONE(lay_out(it, &total));
    DD_TRY_DONE(dd_alloc_array(total, 1, &it->block));
    *interpreter = it;
    it = NULL;
done:
    dd_interpreter_destroy(it);
    return status;
}

static const dd_array absent = {.type = {.rank = -1}};

/* The array of a value; absent for -1. Entries are looked up at each run: the store may move. */
static dd_array array_of(const dd_interpreter *it, int value) {
    if (value < 0)
        return absent;
    const dd_value *v = &it->g->values[value];
    void *data = v->kind == DD_VALUE_ENTRY ? (void *)dd_store_data(it->s, v->entry)
                                           : (void *)(it->block + it->offsets[value]);
    return dd_array_dense(data, &it->types[value]);
}

/* A forward node, or a gradient node that is an operator of its own (conv_dx, bn_reduce, ...). What
 * nobody wants is written to its own place: operators need not ask. */
static dd_status run_forward(dd_interpreter *it, int index) {
    const dd_node *n = &it->g->nodes[index];
    dd_array in[DD_MANY], out[2 * DD_MANY];
    dd_type in_types[DD_MANY], out_types[2 * DD_MANY];
    size_t end = it->unwanted[index];
    int outputs = n->n_out - n->n_saved;
    for (int k = 0; k < n->n_in; k++) {
        in[k] = array_of(it, n->in[k]);
        in_types[k] = in[k].type;
    }
    DD_TRY(dd_node_infer(n, in_types, out_types));
    for (int k = 0; k < n->n_out; k++) {
        size_t offset;
        out[k] = array_of(it, n->out[k]);
        if (n->out[k] < 0) {
            DD_TRY(take(&out_types[k], n->name, &end, &offset));
            out[k] = dd_array_dense(it->block + offset, &out_types[k]);
        } else {
            it->computed[n->out[k]] = true;
        }
    }
    for (int k = n->n_saved; k < DD_MAX_SAVED; k++)
        out[outputs + k] = absent;
    dd_op_args args = {.node = n,
                       .params = n->params,
                       .n_in = n->n_in,
                       .n_out = outputs,
                       .in = in,
                       .out = out,
                       .saved = out + outputs,
                       .scratch = it->block + it->scratch,
                       .seed = it->seed,
                       .step = it->step,
                       .node_index = index,
                       .training = n->training};
    return n->op->forward(&args);
}

/* An opaque backward node: its inputs are the forward's arrays, see dd_node. */
static dd_status run_backward(dd_interpreter *it, int index) {
    const dd_node *n = &it->g->nodes[index];
    dd_array a[MAX_ARRAYS], din[DD_MANY];
    for (int k = 0; k < n->n_in; k++)
        a[k] = array_of(it, n->in[k]);
    for (int k = 0; k < n->n_out; k++) {
        din[k] = n->out[k] < 0 ? a[k] : array_of(it, n->out[k]);
        if (n->out[k] < 0)
            din[k].data = NULL;
        else
            it->computed[n->out[k]] = true;
    }
    dd_op_args args = {.node = n,
                       .params = n->params,
                       .n_in = n->forward_in,
                       .n_out = n->forward_out,
                       .in = a,
                       .out = a + n->forward_in,
                       .saved = a + n->forward_in + n->forward_out,
                       .dout = a + n->forward_in + n->forward_out + n->n_saved,
                       .din = din,
                       .scratch = it->block + it->scratch,
                       .seed = it->seed,
                       .step = it->step,
                       .node_index = index,
                       .training = true};
    return n->op->backward(&args);
}

/* In the order of the nodes; the cancel flag is looked at before each. */
static dd_status run_nodes(dd_interpreter *it, int begin, int end) {
    for (int i = begin; i < end; i++) {
        if (dd_cancelled())
            return dd_fail(DD_ECANCELED, "interpreter: cancelled");
        const dd_node *n = &it->g->nodes[i];
        dd_status status = n->backward ? run_backward(it, i) : run_forward(it, i);
        if (status != DD_OK)
            return dd_fail_within(status, "%s", n->name);
    }
    return DD_OK;
}

/* Copies a caller's array into the value's own. */
static dd_status take_array(dd_interpreter *it, int value, const dd_array *given) {
    char have[192], want[192];
    const dd_value *v = &it->g->values[value];
    const dd_type *t = &it->types[value];
    if (!dd_type_equal(&given->type, t))
        return dd_fail(DD_EVALUE, "interpreter: '%s' is %s, %s is needed", v->name,
                       dd_type_text(&given->type, have, sizeof have),
                       dd_type_text(t, want, sizeof want));
    size_t bytes = (size_t)dd_type_count(t) * dd_dtype_bytes(t->dtype);
    if (bytes && !given->data)
        return dd_fail(DD_EVALUE, "interpreter: '%s' has no data", v->name);
    if (bytes)
        memcpy(it->block + it->offsets[value], given->data, bytes);
    it->computed[value] = true;
    return DD_OK;
}

/* Inputs are copied, so the caller may change its arrays before the backward. */
dd_status dd_interpreter_forward(dd_interpreter *it, const dd_array *inputs, uint64_t step) {
    const dd_graph *g = it->g;
    it->has_forward = false;
    it->step = step;
    memset(it->computed, 0, g->n_values * sizeof *it->computed);
    for (size_t i = 0; i < g->n_inputs; i++)
        DD_TRY(take_array(it, g->inputs[i], &inputs[i]));
    DD_TRY(run_nodes(it, 0, g->n_forward));
    if (g->training) /* running statistics may have moved */
        dd_store_touch(it->s);
    it->has_forward = true;
    return DD_OK;
}

dd_status dd_interpreter_backward(dd_interpreter *it, const dd_array *seeds, float *gradient) {
    const dd_graph *g = it->g;
    if (!g->training)
        return dd_fail(DD_ESTATE, "interpreter: backward needs a training graph");
    if (!it->has_forward)
        return dd_fail(DD_ESTATE, "interpreter: backward needs a forward before it");
    for (size_t i = 0; i < g->n_outputs; i++) {
        int v = g->seeds[i];
        if (v < 0)
            continue; /* "d:<input>", an output of the backward itself */
        if (seeds[i].data) {
            DD_TRY(take_array(it, v, &seeds[i]));
        } else {
            memset(it->block + it->offsets[v], 0,
                   (size_t)dd_type_count(&it->types[v]) * dd_dtype_bytes(it->types[v].dtype));
            it->computed[v] = true;
        }
    }
    DD_TRY(run_nodes(it, g->n_forward, (int)g->n_nodes));
    /* in the order of the list: a weight with several uses is summed in one fixed order */
    for (size_t i = 0; i < g->n_gradients; i++) {
        const dd_entry *e = &it->s->entries[g->gradients[i].entry];
        dd_array a = array_of(it, g->gradients[i].value);
        for (int64_t k = 0; k < e->count; k++)
            gradient[e->offset + k] += ((const float *)a.data)[k];
    }
    return DD_OK;
}

dd_array dd_interpreter_value(const dd_interpreter *it, int value) {
    if (value < 0 || (size_t)value >= it->g->n_values)
        return absent;
    dd_array a = array_of(it, value);
    if (it->g->values[value].kind != DD_VALUE_ENTRY && !it->computed[value])
        a.data = NULL;
    return a;
}
