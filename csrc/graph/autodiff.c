/* Autodiff: appends the backward nodes to a copy of the forward graph.
 *
 * Reverse mode, one pass over the nodes from last to first. `grad[v]` is the value that holds the
 * gradient of value v so far; a second contribution appends an add at once, so that the order of
 * sums is the order of arrival: outputs' seeds first, then consumers from last to first. Gradients
 * of store entries are not summed by nodes: each use is a row of `gradients`, and the executor adds
 * them into the flat gradient. */
#include "graph/autodiff.h"

#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "ops/params.h"

const dd_node *dd_grad_of(const dd_graph *g, int node) {
    return &g->nodes[node];
}

dd_status dd_grad_node(dd_graph *g, const char *op, const char *name, const void *params,
                       const int *in, int n_in, int *out, int n_out) {
    int made;
    const dd_op *found = dd_op_find(op);
    if (!found)
        return dd_fail(DD_EVALUE, "%s: there is no operator '%s' for its gradient", name, op);
    /* A caller with too small an `out` would be written past its end. */
    int count = found->n_outputs ? found->n_outputs : 1;
    if (count != n_out)
        return dd_fail(DD_EVALUE, "%s: %s has %d outputs, its caller takes %d", name, op, count,
                       n_out);
    return dd_graph_node(g, found, name, params, in, n_in, 0, out, &made);
}

dd_status dd_grad_backward(dd_graph *g, int node, const int *dout, int *din) {
    int in[3 * DD_MANY + DD_MAX_SAVED], n = 0;
    char name[DD_MAX_NAME + 1];
    const dd_node f = g->nodes[node]; /* by value: appending moves the array */
    int outputs = f.n_out - f.n_saved;
    if (!f.op->backward)
        return dd_fail(DD_EVALUE, "%s: %s has no gradient", f.name, f.op->name);
    for (int i = 0; i < f.n_in; i++)
        in[n++] = f.in[i];
    for (int i = 0; i < f.n_out; i++) /* outputs, then saved values */
        in[n++] = f.out[i];
    for (int i = 0; i < outputs; i++)
        in[n++] = dout[i];
    (void)snprintf(name, sizeof name, "d:%s", f.name);
    dd_node shape = {.op = f.op,
                     .backward = true,
                     .n_in = n,
                     .n_out = f.n_in,
                     .n_saved = f.n_saved,
                     .forward_in = f.n_in,
                     .forward_out = outputs};
    DD_TRY(dd_graph_node_append(g, &shape, name, f.params, in));
    const int *out = g->nodes[g->n_nodes - 1].out;
    for (int i = 0; i < f.n_in; i++) {
        bool wanted = din[i] == 1;
        din[i] = wanted ? out[i] : -1;
        /* The executor skips what is -1; the value itself goes with the dead ones. */
        if (!wanted)
            g->nodes[g->n_nodes - 1].out[i] = -1;
    }
    return DD_OK;
}

/* ---- the training copy of the forward ------------------------------------------------------ */

/* A batch norm whose parameters are all frozen runs on its running statistics: any operator with
 * state and an attribute `frozen` is told so. */
static void set_frozen(const dd_graph *g, const dd_store *s, dd_node *n) {
    if (!(n->op->flags & DD_OP_STATE))
        return;
    for (int i = 0; i < n->n_in; i++) {
        const dd_value *v = n->in[i] < 0 ? NULL : &g->values[n->in[i]];
        if (!v || v->kind != DD_VALUE_ENTRY)
            continue;
        const dd_entry *e = &s->entries[v->entry];
        if (e->role == DD_TRAINABLE && !e->frozen)
            return;
    }
    for (const dd_field *f = n->op->fields; f && f->name; f++)
        if (f->kind == DD_FIELD_BOOL && strcmp(f->name, "frozen") == 0)
            memcpy((char *)n->params + f->offset, &(int64_t){1}, sizeof(int64_t));
}

/* Copies the nodes with their saved values. Value ids change (saved values come in between);
 * `map` gives each old id its new one. */
static dd_status copy_forward(const dd_graph *f, const dd_store *s, dd_graph *g, int *map) {
    int in[DD_MANY], out[DD_MANY + DD_MAX_SAVED];
    for (size_t i = 0; i < f->n_values; i++) {
        const dd_value *v = &f->values[i];
        map[i] = -1;
        if (v->kind == DD_VALUE_ENTRY)
            DD_TRY(dd_graph_entry(g, s, v->entry, &map[i]));
    }
    for (size_t i = 0; i < f->n_inputs; i++) {
        const dd_value *v = &f->values[f->inputs[i]];
        DD_TRY(dd_graph_input(g, v->name, &v->type, &map[f->inputs[i]]));
    }
    for (size_t i = 0; i < f->n_nodes; i++) {
        const dd_node *n = &f->nodes[i];
        dd_node shape = {.op = n->op,
                         .training = true,
                         .n_in = n->n_in,
                         .n_out = n->n_out + n->op->n_saved,
                         .n_saved = n->op->n_saved};
        for (int k = 0; k < n->n_in; k++)
            in[k] = n->in[k] < 0 ? -1 : map[n->in[k]];
        DD_TRY(dd_graph_node_append(g, &shape, n->name, n->params, in));
        dd_node *made = &g->nodes[g->n_nodes - 1];
        memcpy(out, made->out, (size_t)made->n_out * sizeof *out);
        for (int k = 0; k < n->n_out; k++)
            map[n->out[k]] = out[k];
        set_frozen(g, s, made);
    }
    for (size_t i = 0; i < f->n_outputs; i++)
        DD_TRY(dd_graph_output(g, f->output_names[i], map[f->outputs[i]]));
    return DD_OK;
}

/* Appends a value that the caller gives at each backward. */
static dd_status add_seed(dd_graph *g, const char *output, int of, int *value) {
    char name[DD_MAX_NAME + 1];
    char *copy;
    (void)snprintf(name, sizeof name, "seed:%s", output);
    DD_TRY(dd_reserve(&g->values, &g->values_capacity, g->n_values + 1, sizeof *g->values));
    DD_TRY(dd_strdup(name, &copy));
    g->values[g->n_values] =
        (dd_value){.name = copy, .kind = DD_VALUE_SEED, .producer = -1, .entry = -1, .of = of};
    *value = (int)g->n_values++;
    return DD_OK;
}

/* ---- the backward pass --------------------------------------------------------------------- */

/* The state of one differentiation. */
typedef struct pass {
    dd_graph *g;
    const dd_store *store;
    bool *wanted; /* by value id of the forward part */
    int *grad;    /* likewise; -1: none yet */
} pass;

/* A gradient is wanted of trainable entries, of float inputs when asked for, and of what a wanted
 * value flows into. */
static void mark_wanted(pass *p, bool inputs_too) {
    const dd_graph *g = p->g;
    for (size_t i = 0; i < g->n_values; i++) {
        const dd_value *v = &g->values[i];
        /* running statistics and constants are never wanted, whatever reads them */
        p->grad[i] = -1;
        if (v->kind == DD_VALUE_ENTRY) {
            const dd_entry *e = &p->store->entries[v->entry];
            p->wanted[i] = e->role == DD_TRAINABLE && !e->frozen;
        } else if (v->kind == DD_VALUE_INPUT) {
            p->wanted[i] = inputs_too && v->type.dtype == DD_F32;
        }
    }
    for (int i = 0; i < g->n_forward; i++) {
        const dd_node *n = &g->nodes[i];
        bool any = false;
        for (int k = 0; k < n->n_in; k++)
            any |=
                n->in[k] >= 0 && !(k < 32 && (n->op->shape_inputs >> k & 1)) && p->wanted[n->in[k]];
        if (any && !(n->op->flags & DD_OP_NO_GRAD))
            for (int k = 0; k < n->n_out - n->n_saved; k++)
                p->wanted[n->out[k]] = true;
    }
}

/* Adds `gradient` to the gradient of value v. */
static dd_status arrive(pass *p, int v, int gradient) {
    dd_graph *g = p->g;
    if (g->values[v].kind == DD_VALUE_ENTRY) {
        DD_TRY(dd_reserve(&g->gradients, &g->gradients_capacity, g->n_gradients + 1,
                          sizeof *g->gradients));
        g->gradients[g->n_gradients++] =
            (dd_gradient){.value = gradient, .entry = g->values[v].entry};
        return DD_OK;
    }
    if (p->grad[v] < 0) {
        p->grad[v] = gradient;
        return DD_OK;
    }
    char name[DD_MAX_NAME + 1];
    int both[2] = {p->grad[v], gradient};
    dd_binary_params add;
    dd_op_params_init(&dd_op_binary, &add);
    add.kind = DD_ADD;
    (void)snprintf(name, sizeof name, "sum:%s", g->values[v].name);
    return dd_grad_node(g, "binary", name, &add, both, 2, &p->grad[v], 1);
}

/* The gradient nodes of forward node `index`. */
static dd_status differentiate_node(pass *p, int index) {
    int dout[DD_MANY], din[DD_MANY];
    /* by value: op->grad appends nodes and moves the array; in, out and params stay in place */
    const dd_node n = p->g->nodes[index];
    bool arrives = false, wanted = false;
    if (n.op->flags & DD_OP_NO_GRAD)
        return DD_OK;
    for (int k = 0; k < n.n_out - n.n_saved; k++) {
        dout[k] = p->grad[n.out[k]];
        arrives |= dout[k] >= 0;
    }
    for (int k = 0; k < n.n_in; k++) {
        bool data = !(k < 32 && (n.op->shape_inputs >> k & 1));
        din[k] = n.in[k] >= 0 && data && p->wanted[n.in[k]];
        wanted |= din[k] == 1;
    }
    /* Nothing comes from behind, or nobody before it wants anything: no backward node. */
    if (!arrives || !wanted)
        return DD_OK;
    DD_TRY(n.op->grad ? n.op->grad(p->g, index, dout, din)
                      : dd_grad_backward(p->g, index, dout, din));
    for (int k = 0; k < n.n_in; k++) {
        bool asked =
            n.in[k] >= 0 && p->wanted[n.in[k]] && !(k < 32 && (n.op->shape_inputs >> k & 1));
        if (asked && din[k] >= 0)
            DD_TRY(arrive(p, n.in[k], din[k]));
    }
    return DD_OK;
}

/* Seeds of all outputs, then the nodes from last to first, then the inputs' gradients. */
static dd_status append_backward(pass *p, const int *seeds, bool inputs_too) {
    dd_graph *g = p->g;
    char name[DD_MAX_NAME + 1];
    size_t outputs = g->n_outputs;
    for (size_t i = 0; i < outputs; i++)
        if (p->wanted[g->outputs[i]])
            DD_TRY(arrive(p, g->outputs[i], seeds[i]));
    for (int i = g->n_forward; i-- > 0;)
        DD_TRY(differentiate_node(p, i));
    for (size_t i = 0; inputs_too && i < g->n_inputs; i++) {
        int v = g->inputs[i];
        if (p->grad[v] < 0)
            continue;
        (void)snprintf(name, sizeof name, "d:%s", g->values[v].name);
        DD_TRY(dd_graph_output(g, name, p->grad[v]));
    }
    return dd_alloc_array(g->n_outputs, sizeof *g->seeds, &g->seeds);
}

/* Order matters: the border between forward and backward is set once the forward is copied; seeds
 * come before the backward nodes, so that every input of a node has a smaller id than its outputs;
 * fusion leaves dead nodes, which go last. */
static dd_status differentiate_into(const dd_graph *forward, pass *p, int *map, bool inputs_too) {
    dd_status status;
    dd_graph *g = p->g;
    int *seeds = NULL;
    DD_TRY(copy_forward(forward, p->store, g, map));
    g->n_forward = (int)g->n_nodes;
    g->training = true;
    DD_TRY(dd_alloc_array(g->n_values + forward->n_outputs, sizeof *p->wanted, &p->wanted));
    DD_TRY(dd_alloc_array(g->n_values + forward->n_outputs, sizeof *p->grad, &p->grad));
    DD_TRY(dd_alloc_array(forward->n_outputs, sizeof *seeds, &seeds));
    /* by value of the forward part; the seeds come after it and need no row of their own */
    mark_wanted(p, inputs_too);
    for (size_t i = 0; i < forward->n_outputs; i++)
        DD_TRY_DONE(add_seed(g, g->output_names[i], g->outputs[i], &seeds[i]));
    DD_TRY_DONE(append_backward(p, seeds, inputs_too));
    for (size_t i = 0; i < g->n_outputs; i++)
        g->seeds[i] = i < forward->n_outputs ? seeds[i] : -1;
    DD_TRY_DONE(dd_graph_fuse_backward(g));
    DD_TRY_DONE(dd_graph_prune_dead(g));
done:
    dd_free(seeds);
    return status;
}

dd_status dd_graph_differentiate(const dd_graph *forward, const dd_store *store, bool inputs_too,
                                 dd_graph **training) {
    dd_status status;
    int *map = NULL;
    pass p = {.store = store};
    if (forward->training)
        return dd_fail(DD_EVALUE, "autodiff: the graph is a training graph already");
    DD_TRY_DONE(dd_alloc_array(forward->n_values, sizeof *map, &map));
    DD_TRY_DONE(dd_graph_create(&p.g));
    DD_TRY_DONE(differentiate_into(forward, &p, map, inputs_too));
    *training = p.g;
    p.g = NULL;
done:
    dd_graph_destroy(p.g);
    dd_free(p.wanted);
    dd_free(p.grad);
    dd_free(map);
    return status;
}
