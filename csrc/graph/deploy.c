/* Deployment: the training form becomes the form that runs.
 *
 * Three passes over the nodes. First each value learns whether it is a convolution of some earlier
 * value (a `form`): a convolution is one, a batch norm or a scale of one is one, a sum of two over
 * the same input is one (RepVGG), and an unfolded batch norm is a diagonal one, which may still
 * join a sum. Then the outputs say which values are needed: what a changed form has taken in is
 * needed no longer. Last the needed nodes are written to a new graph and a new store; a changed
 * form becomes one convolution with parameters of its own, so shared weights are cloned a use. */
#include "graph/rewrite.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "graph/fold.h"
#include "ops/params.h"

typedef struct form {
    bool known;   /* this value is conv(x) */
    bool changed; /* not what its node says: fold holds the arrays */
    int x;        /* value */
    int base;     /* node that gives name and parameter names; -1 for a diagonal */
    dd_fold fold;
} form;

typedef struct pass {
    const dd_graph *g;
    const dd_store *s;
    int *alias;     /* by value: what it equals in inference */
    int *consumers; /* by value: uses as an input, and as an output */
    int *norms;     /* by value: uses as the input of a batch norm that can be folded */
    bool *needed;
    form *forms;
    int *value_map, *entry_map; /* old to new */
    dd_graph *to;
    dd_store *to_store;
} pass;

/* ---- reading the old graph ----------------------------------------------------------------- */

/* The store's entry behind a value; NULL for anything else, absent values included. */
static const dd_entry *entry_of(const pass *p, int value) {
    if (value < 0 || p->g->values[value].kind != DD_VALUE_ENTRY)
        return NULL;
    return &p->s->entries[p->g->values[value].entry];
}

/* Channels of a batch norm whose parameters are all entries of one length; -1 otherwise. */
static int64_t norm_channels(const pass *p, const dd_node *n) {
    const dd_entry *first =
        n->op == &dd_op_batch_norm && n->n_in == 5 ? entry_of(p, n->in[1]) : NULL;
    if (!first)
        return -1;
    for (int k = 2; k < 5; k++) {
        const dd_entry *e = entry_of(p, n->in[k]);
        if (!e || e->count != first->count)
            return -1;
    }
    return first->count;
}

/* What is the identity in inference: readers read its input instead. */
static bool passes_through(const dd_node *n) {
    return n->op == &dd_op_dropout || n->op == &dd_op_stop_gradient;
}

/* Aliases and counts of uses. */
static void read_uses(pass *p) {
    const dd_graph *g = p->g;
    for (size_t i = 0; i < g->n_values; i++)
        p->alias[i] = (int)i;
    for (size_t i = 0; i < g->n_nodes; i++) {
        const dd_node *n = &g->nodes[i];
        if (passes_through(n)) {
            p->alias[n->out[0]] = p->alias[n->in[0]];
            continue;
        }
        for (int k = 0; k < n->n_in; k++)
            if (n->in[k] >= 0)
                p->consumers[p->alias[n->in[k]]]++;
        if (norm_channels(p, n) >= 0)
            p->norms[p->alias[n->in[0]]]++;
    }
    for (size_t i = 0; i < g->n_outputs; i++)
        p->consumers[p->alias[g->outputs[i]]]++;
}

/* ---- forms --------------------------------------------------------------------------------- */

/* An attribute list as numbers, or its initial value where the list is empty. */
static void spread(const dd_ints *list, int n, int64_t initial, int64_t *out) {
    for (int k = 0; k < n; k++)
        out[k] = list->n == n ? list->v[k] : initial;
}

/* A convolution whose weight and bias are entries is a form; computed weights are not. The arrays
 * are filled only when something changes it. */
static void read_conv(pass *p, int node) {
    const dd_node *n = &p->g->nodes[node];
    const dd_conv_params *c = n->params;
    const dd_entry *w = n->n_in >= 2 ? entry_of(p, n->in[1]) : NULL;
    bool has_bias = n->n_in > 2 && n->in[2] >= 0;
    const dd_entry *b = has_bias ? entry_of(p, n->in[2]) : NULL;
    if (!w || w->type.rank != 4 || c->groups < 1 ||
        (has_bias && (!b || b->count != w->type.dims[0])))
        return;
    form *f = &p->forms[n->out[0]];
    *f = (form){.known = true, .x = p->alias[n->in[0]], .base = node};
    f->fold = (dd_fold){.o = w->type.dims[0],
                        .i = w->type.dims[1] * c->groups,
                        .kh = w->type.dims[2],
                        .kw = w->type.dims[3],
                        .groups = c->groups};
    spread(&c->stride, 2, 1, f->fold.stride);
    spread(&c->pads, 4, 0, f->fold.pads);
    spread(&c->dilation, 2, 1, f->fold.dilation);
}

/* A transposed convolution likewise. */
static void read_transposed(pass *p, int node) {
    const dd_node *n = &p->g->nodes[node];
    const dd_conv_transpose_params *c = n->params;
    const dd_entry *w = n->n_in >= 2 ? entry_of(p, n->in[1]) : NULL;
    bool has_bias = n->n_in > 2 && n->in[2] >= 0;
    const dd_entry *b = has_bias ? entry_of(p, n->in[2]) : NULL;
    if (!w || w->type.rank != 4 || c->groups < 1 || w->type.dims[0] % c->groups ||
        (has_bias && (!b || b->count != w->type.dims[1] * c->groups)))
        return;
    form *f = &p->forms[n->out[0]];
    *f = (form){.known = true, .x = p->alias[n->in[0]], .base = node};
    f->fold = (dd_fold){.transposed = true,
                        .o = w->type.dims[1] * c->groups,
                        .i = w->type.dims[0],
                        .kh = w->type.dims[2],
                        .kw = w->type.dims[3],
                        .groups = c->groups};
    spread(&c->stride, 2, 1, f->fold.stride);
    spread(&c->pads, 4, 0, f->fold.pads);
    spread(&c->dilation, 2, 1, f->fold.dilation);
}

/* The form of value v with arrays of its own: moved from v when nobody else uses v. */
static dd_status take_form(pass *p, int v, form *f) {
    form *have = &p->forms[v];
    *f = *have;
    f->changed = true;
    if (have->fold.weight && p->consumers[v] == 1) {
        have->fold.weight = have->fold.bias = NULL;
        have->known = have->changed = false;
        return DD_OK;
    }
    if (have->fold.weight)
        return dd_fold_copy(&have->fold, &f->fold);
    const dd_node *n = &p->g->nodes[have->base];
    const dd_entry *b = n->n_in > 2 ? entry_of(p, n->in[2]) : NULL;
    return dd_fold_fill(&f->fold, p->s->values + entry_of(p, n->in[1])->offset,
                        b ? p->s->values + b->offset : NULL);
}

/* scale = gamma / sqrt(var + eps), shift = beta - mean · scale, in *both: 2 · channels doubles. */
static dd_status norm_affine(const pass *p, const dd_node *n, int64_t channels, double **both) {
    const float *v[5] = {NULL};
    /* in double: a variance far below eps would lose its digits in float */
    double eps = ((const dd_batch_norm_params *)n->params)->eps;
    for (int k = 1; k < 5; k++)
        v[k] = p->s->values + entry_of(p, n->in[k])->offset;
    DD_TRY(dd_alloc_array((size_t)channels * 2, sizeof(double), both));
    for (int64_t c = 0; c < channels; c++) {
        double scale = (double)v[1][c] / sqrt((double)v[4][c] + eps);
        (*both)[c] = scale;
        (*both)[channels + c] = (double)v[2][c] - (double)v[3][c] * scale;
    }
    return DD_OK;
}

static dd_status read_norm(pass *p, int node) {
    dd_status status;
    const dd_node *n = &p->g->nodes[node];
    int64_t channels = norm_channels(p, n);
    double *both = NULL;
    if (channels < 0)
        return DD_OK;
    int u = p->alias[n->in[0]];
    form f = {.known = true, .x = u, .base = -1};
    /* Folded where every use of u is such a batch norm: else u would be computed twice. */
    const form *before = &p->forms[u];
    bool fold = before->known && before->base >= 0 && before->fold.o == channels &&
                p->norms[u] == p->consumers[u];
    DD_TRY_DONE(norm_affine(p, n, channels, &both));
    if (fold) {
        DD_TRY_DONE(take_form(p, u, &f));
        dd_fold_affine(&f.fold, both, both + channels);
    } else {
        DD_TRY_DONE(dd_fold_diagonal(&f.fold, channels, both, both + channels));
    }
    p->forms[n->out[0]] = f;
done:
    dd_free(both);
    return status;
}

/* mul(convolution, entry of one element or one a channel) */
static dd_status read_scale(pass *p, const dd_node *n, int u, const dd_entry *e) {
    form f;
    double *scale;
    const form *before = &p->forms[u];
    if (!before->known || before->base < 0 || p->consumers[u] != 1 || e->type.rank > 4)
        return DD_OK;
    int64_t channels = before->fold.o;
    if (e->count != 1 && (e->count != channels || dd_type_last(&e->type) != channels))
        return DD_OK;
    DD_TRY(dd_alloc_array((size_t)channels, sizeof *scale, &scale));
    for (int64_t c = 0; c < channels; c++)
        scale[c] = (double)p->s->values[e->offset + (e->count == 1 ? 0 : c)];
    dd_status status = take_form(p, u, &f);
    if (status == DD_OK) {
        dd_fold_affine(&f.fold, scale, NULL);
        p->forms[n->out[0]] = f;
    }
    dd_free(scale);
    return status;
}

/* One summand: value v's form, or the identity where v is the other summand's input. */
static dd_status take_summand(pass *p, int v, int x, int64_t channels, form *f) {
    if (v != x)
        return take_form(p, v, f);
    *f = (form){.known = true, .changed = true, .x = x, .base = -1};
    return dd_fold_diagonal(&f->fold, channels, NULL, NULL);
}

/* add(a, b) of two forms over one input. */
static dd_status read_sum(pass *p, const dd_node *n, int a, int b) {
    dd_status status;
    dd_fold identity = {0};
    form fa = {0}, fb = {0};
    const form *have_a = &p->forms[a], *have_b = &p->forms[b];
    /* a: the one that holds the other's kernel, so a convolution and not a diagonal */
    bool swap = !have_a->known || have_a->base < 0 || p->consumers[a] != 1 ||
                (have_b->known && have_b->base >= 0 && p->consumers[b] == 1 &&
                 have_b->x == have_a->x && !dd_fold_can_add(&have_a->fold, &have_b->fold));
    if (swap) {
        int v = a;
        a = b;
        b = v;
        have_a = &p->forms[a];
        have_b = &p->forms[b];
    }
    if (!have_a->known || have_a->base < 0 || p->consumers[a] != 1)
        return DD_OK;
    int x = have_a->x;
    identity.o = identity.i = identity.groups = have_a->fold.o;
    identity.kh = identity.kw = 1;
    for (int k = 0; k < 2; k++)
        identity.stride[k] = identity.dilation[k] = 1;
    /* b must be over the same input and used by nobody else, or it would be computed all the same;
     * x itself is the identity branch */
    bool other = b == x || (have_b->known && have_b->x == x && p->consumers[b] == 1);
    if (!other || !dd_fold_can_add(&have_a->fold, b == x ? &identity : &have_b->fold))
        return DD_OK;
    DD_TRY_DONE(take_form(p, a, &fa));
    DD_TRY_DONE(take_summand(p, b, x, fa.fold.o, &fb));
    dd_fold_add(&fa.fold, &fb.fold);
    p->forms[n->out[0]] = fa;
    fa = (form){0};
done:
    dd_fold_free(&fa.fold);
    dd_fold_free(&fb.fold);
    return status;
}

/* Additions merge branches, multiplications by an entry are scales; the rest ends a form. */
static dd_status read_binary(pass *p, int node) {
    const dd_node *n = &p->g->nodes[node];
    int64_t kind = ((const dd_binary_params *)n->params)->kind;
    int a = p->alias[n->in[0]], b = p->alias[n->in[1]];
    if (kind == DD_ADD)
        return read_sum(p, n, a, b);
    if (kind == DD_MUL && entry_of(p, b))
        return read_scale(p, n, a, entry_of(p, b));
    if (kind == DD_MUL && entry_of(p, a))
        return read_scale(p, n, b, entry_of(p, a));
    return DD_OK;
}

/* In the order of the nodes: a form is known before anything reads it. */
static dd_status read_forms(pass *p) {
    for (size_t i = 0; i < p->g->n_nodes; i++) {
        const dd_node *n = &p->g->nodes[i];
        if (n->op == &dd_op_conv)
            read_conv(p, (int)i);
        else if (n->op == &dd_op_conv_transpose)
            read_transposed(p, (int)i);
        else if (n->op == &dd_op_batch_norm)
            DD_TRY(read_norm(p, (int)i));
        else if (n->op == &dd_op_binary)
            DD_TRY(read_binary(p, (int)i));
    }
    return DD_OK;
}

/* From the outputs backwards. A changed form needs its own input alone: what it has taken in is
 * not marked, unless somebody else reads it. */
static void read_needed(pass *p) {
    const dd_graph *g = p->g;
    for (size_t i = 0; i < g->n_outputs; i++)
        p->needed[p->alias[g->outputs[i]]] = true;
    for (size_t i = g->n_nodes; i-- > 0;) {
        const dd_node *n = &g->nodes[i];
        bool needed = false;
        for (int k = 0; k < n->n_out; k++)
            needed |= p->needed[n->out[k]];
        if (!needed || passes_through(n))
            continue;
        if (p->forms[n->out[0]].changed) {
            p->needed[p->forms[n->out[0]].x] = true;
            continue;
        }
        for (int k = 0; k < n->n_in; k++)
            if (n->in[k] >= 0)
                p->needed[p->alias[n->in[k]]] = true;
    }
}

/* ---- writing the new one ------------------------------------------------------------------- */

/* `name`, or the first of name@2, name@3, ... that the new store does not have. */
static void free_name(const dd_store *s, const char *name, char *text, size_t capacity) {
    (void)snprintf(text, capacity, "%s", name);
    for (int k = 2; dd_store_find(s, text) >= 0; k++)
        (void)snprintf(text, capacity, "%.*s@%d", (int)capacity - 16, name, k);
}

/* A value's id in the new graph; entries come over at their first use. */
static dd_status map_value(pass *p, int value, int *id) {
    char name[DD_MAX_NAME + 1];
    if (value < 0) {
        *id = -1;
        return DD_OK;
    }
    value = p->alias[value];
    const dd_entry *e = entry_of(p, value);
    if (!e) {
        *id = p->value_map[value];
        return DD_OK;
    }
    int *entry = &p->entry_map[p->g->values[value].entry];
    if (*entry < 0) {
        int made;
        free_name(p->to_store, e->name, name, sizeof name);
        DD_TRY(dd_store_add(p->to_store, name, e->role, &e->type, e->decay, &made));
        dd_entry *n = &p->to_store->entries[made];
        n->lr_factor = e->lr_factor;
        n->frozen = e->frozen;
        if (e->count)
            memcpy(dd_store_data(p->to_store, made), p->s->values + e->offset,
                   (size_t)e->count * sizeof(float));
        *entry = made;
    }
    return dd_graph_entry(p->to, p->to_store, *entry, id);
}

/* A new entry like `like` (NULL: a plain one) with the folded numbers. */
static dd_status write_entry(pass *p, const char *name, const dd_entry *like, const dd_type *type,
                             const double *from, int *id) {
    char text[DD_MAX_NAME + 1];
    int entry;
    free_name(p->to_store, name, text, sizeof text);
    DD_TRY(dd_store_add(p->to_store, text, DD_TRAINABLE, type, like && like->decay, &entry));
    dd_entry *e = &p->to_store->entries[entry];
    if (like) {
        e->lr_factor = like->lr_factor;
        e->frozen = like->frozen;
    }
    float *to = dd_store_data(p->to_store, entry);
    for (int64_t k = 0; k < e->count; k++)
        to[k] = (float)from[k];
    return dd_graph_entry(p->to, p->to_store, entry, id);
}

/* The convolution that a changed form is. */
static dd_status write_form(pass *p, int value) {
    const form *f = &p->forms[value];
    const dd_node *base = &p->g->nodes[f->base];
    const dd_entry *w = entry_of(p, base->in[1]);
    const dd_entry *b = base->n_in > 2 ? entry_of(p, base->in[2]) : NULL;
    char name[DD_MAX_NAME + 1];
    int in[3];
    dd_type weight = w->type, bias = dd_type_make(DD_F32, 1, &f->fold.o);
    DD_TRY(map_value(p, f->x, &in[0]));
    DD_TRY(write_entry(p, w->name, w, &weight, f->fold.weight, &in[1]));
    if (b) {
        DD_TRY(write_entry(p, b->name, b, &bias, f->fold.bias, &in[2]));
    } else { /* "stem.conv.weight" gets a "stem.conv.bias" */
        size_t n = strlen(w->name);
        bool ends = n > 7 && strcmp(w->name + n - 7, ".weight") == 0;
        (void)snprintf(name, sizeof name, "%.*s.bias", (int)(ends ? n - 7 : n), w->name);
        DD_TRY(write_entry(p, name, NULL, &bias, f->fold.bias, &in[2]));
    }
    /* what it has taken in fits into its own geometry */
    return dd_graph_node(p->to, base->op, base->name, base->params, in, 3, 0, &p->value_map[value],
                         NULL);
}

/* A node that stays as it is, over the new values. */
static dd_status write_node(pass *p, const dd_node *n) {
    int in[DD_MANY], out[DD_MANY];
    for (int k = 0; k < n->n_in; k++)
        DD_TRY(map_value(p, n->in[k], &in[k]));
    DD_TRY(dd_graph_node(p->to, n->op, n->name, n->params, in, n->n_in,
                         n->op->n_outputs == DD_MANY ? n->n_out : 0, out, NULL));
    for (int k = 0; k < n->n_out; k++)
        p->value_map[n->out[k]] = out[k];
    return DD_OK;
}

/* All inputs, so that a call's signature stays; the needed nodes in their order; the outputs. */
static dd_status write_graph(pass *p) {
    const dd_graph *g = p->g;
    for (size_t i = 0; i < g->n_inputs; i++) {
        const dd_value *v = &g->values[g->inputs[i]];
        DD_TRY(dd_graph_input(p->to, v->name, &v->type, &p->value_map[g->inputs[i]]));
    }
    for (size_t i = 0; i < g->n_nodes; i++) {
        const dd_node *n = &g->nodes[i];
        bool needed = false;
        for (int k = 0; k < n->n_out; k++)
            needed |= p->needed[n->out[k]];
        if (!needed || passes_through(n))
            continue;
        DD_TRY(p->forms[n->out[0]].changed ? write_form(p, n->out[0]) : write_node(p, n));
    }
    for (size_t i = 0; i < g->n_outputs; i++) {
        int id;
        DD_TRY(map_value(p, g->outputs[i], &id));
        DD_TRY(dd_graph_output(p->to, g->output_names[i], id));
    }
    return DD_OK;
}

/* Work arrays and the empty results. */
static dd_status make_arrays(pass *p) {
    size_t n = p->g->n_values;
    DD_TRY(dd_alloc_array(n, sizeof *p->alias, &p->alias));
    DD_TRY(dd_alloc_array(n, sizeof *p->consumers, &p->consumers));
    DD_TRY(dd_alloc_array(n, sizeof *p->norms, &p->norms));
    DD_TRY(dd_alloc_array(n, sizeof *p->needed, &p->needed));
    DD_TRY(dd_alloc_array(n, sizeof *p->forms, &p->forms));
    DD_TRY(dd_alloc_array(n, sizeof *p->value_map, &p->value_map));
    DD_TRY(dd_alloc_array(p->s->n, sizeof *p->entry_map, &p->entry_map));
    for (size_t i = 0; i < n; i++)
        p->value_map[i] = -1;
    for (size_t i = 0; i < p->s->n; i++)
        p->entry_map[i] = -1;
    DD_TRY(dd_graph_create(&p->to));
    return dd_store_create(&p->to_store);
}

dd_status dd_graph_deploy(const dd_graph *graph, const dd_store *store, dd_graph **deployed,
                          dd_store **deployed_store) {
    dd_status status;
    dd_graph *live = NULL; /* uses by dead nodes must not hinder a fold */
    pass p = {.s = store};
    if (graph->training)
        return dd_fail(DD_EVALUE, "deploy: a training graph came, the forward graph is needed");
    DD_TRY_DONE(dd_graph_copy(graph, &live));
    DD_TRY_DONE(dd_graph_prune_dead(live));
    p.g = live;
    DD_TRY_DONE(make_arrays(&p));
    read_uses(&p);
    DD_TRY_DONE(read_forms(&p));
    read_needed(&p);
    DD_TRY_DONE(write_graph(&p));
    DD_TRY_DONE(dd_graph_unshuffle(&p.to, p.to_store));
    *deployed = p.to;
    *deployed_store = p.to_store;
    p.to = NULL;
    p.to_store = NULL;
done:
    for (size_t i = 0; p.forms && i < live->n_values; i++)
        dd_fold_free(&p.forms[i].fold);
    dd_graph_destroy(live);
    dd_graph_destroy(p.to);
    dd_store_destroy(p.to_store);
    dd_free(p.alias);
    dd_free(p.consumers);
    dd_free(p.norms);
    dd_free(p.needed);
    dd_free(p.forms);
    dd_free(p.value_map);
    dd_free(p.entry_map);
    return status;
}
