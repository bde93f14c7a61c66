/* Walks the operator table: every operator needs a sample, and every sample is put through
 *   - the gradient against finite differences (through autodiff and the interpreter),
 *   - arrays with a pitch (pad lanes hold NaN and stay as they are) against dense ones,
 *   - what the descriptor promises: shape_inputs, backward_uses, INPLACE, window, channels.
 *
 * Finite differences: the loss is Σ r·out in double over float32 outputs, differences at h and 2h
 * with Richardson's extrapolation. Where the two differ much the element sits at a kink (relu, max)
 * and is passed over; most elements must remain. Tolerance: 2e-3 of the largest gradient, which is
 * what float32 outputs leave at h = 1/64. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/random.h"
#include "check.h"
#include "graph/autodiff.h"
#include "graph/channels.h"
#include "graph/interpret.h"

#define MAX_IN 16
#define ELEMENTS 24 /* of each input, at most */
#define STEP (1.0 / 64)
#define TOLERANCE 2e-3

typedef struct sample {
    const dd_op *op;
    int index, n_in;
    _Alignas(16) char params[1024];
    dd_type in[MAX_IN];
    dd_array data[MAX_IN]; /* dense, owned */
    bool positive;         /* how it is filled */
    char name[96];
} sample;

static dd_stream stream;

/* ---- samples ------------------------------------------------------------------------------- */

static void *must_alloc(size_t bytes) {
    void *p;
    if (dd_alloc(bytes ? bytes : 1, &p) != DD_OK)
        abort();
    memset(p, 0, bytes ? bytes : 1);
    return p;
}

static size_t bytes_of(const dd_type *t) {
    return (size_t)dd_type_count(t) * dd_dtype_bytes(t->dtype);
}

static void fill(dd_array *a, bool positive) {
    for (int64_t k = 0; k < dd_type_count(&a->type); k++) {
        float v =
            positive ? dd_stream_range(&stream, 0.3f, 1.8f) : dd_stream_range(&stream, -2.0f, 2.0f);
        if (a->type.dtype == DD_F32)
            ((float *)a->data)[k] = v;
        else if (a->type.dtype == DD_S32)
            ((int32_t *)a->data)[k] = (int32_t)dd_stream_below(&stream, 2);
        else if (dd_dtype_bytes(a->type.dtype) == 1)
            ((uint8_t *)a->data)[k] = (uint8_t)dd_stream_below(&stream, 128);
    }
}

static void fill_all(sample *s, bool positive) {
    s->positive = positive;
    for (int k = 0; k < s->n_in; k++)
        if (s->in[k].rank >= 0)
            /* a variance is positive whatever the rest is */
            fill(&s->data[k], positive || ((s->op->flags & DD_OP_STATE) && k == 4));
}

static bool make_sample(const dd_op *op, int index, sample *s) {
    *s = (sample){.op = op, .index = index};
    if (op->params_size > sizeof s->params)
        abort();
    dd_op_params_init(op, s->params);
    if (!op->sample(index, s->params, s->in, &s->n_in))
        return false;
    snprintf(s->name, sizeof s->name, "%s[%d]", op->name, index);
    for (int k = 0; k < s->n_in; k++)
        if (s->in[k].rank >= 0)
            s->data[k] = dd_array_dense(must_alloc(bytes_of(&s->in[k])), &s->in[k]);
    fill_all(s, false);
    return true;
}

static void free_sample(sample *s) {
    for (int k = 0; k < s->n_in; k++)
        dd_free(s->data[k].data);
}

/* ---- the sample as a graph ----------------------------------------------------------------- */

typedef struct net {
    dd_graph *graph, *training;
    dd_store *store;
    dd_interpreter *run;
    dd_type inputs[MAX_IN];
    dd_array arrays[MAX_IN]; /* of the graph's inputs, borrowed from the sample */
    int from[MAX_IN];        /* sample input of graph input i */
    int entry[MAX_IN];       /* of sample input k; -1: it is a graph input or absent */
    int n_inputs;
    bool differentiable;
} net;

/* Parameters of operators with state are store entries (batch norm moves the running ones); all
 * other inputs are inputs. */
static dd_status build(const sample *s, net *n) {
    int in[MAX_IN], out[DD_MANY], n_out;
    char name[64];
    *n = (net){0};
    DD_TRY(dd_store_create(&n->store));
    DD_TRY(dd_graph_create(&n->graph));
    for (int k = 0; k < s->n_in; k++) {
        in[k] = n->entry[k] = -1;
        if (s->in[k].rank < 0)
            continue;
        snprintf(name, sizeof name, "in%d", k);
        if ((s->op->flags & DD_OP_STATE) && k > 0) {
            dd_role role = k < 3 ? DD_TRAINABLE : DD_STATE;
            DD_TRY(dd_store_add(n->store, name, role, &s->in[k], false, &n->entry[k]));
            DD_TRY(dd_graph_entry(n->graph, n->store, n->entry[k], &in[k]));
        } else {
            n->from[n->n_inputs] = k;
            n->inputs[n->n_inputs++] = s->in[k];
            DD_TRY(dd_graph_input(n->graph, name, &s->in[k], &in[k]));
        }
    }
    int open = s->op->n_outputs == DD_MANY ? 1 : 0;
    dd_type types[DD_MANY];
    if (open) { /* the attributes say how many: infer tells */
        dd_node probe = {.op = s->op, .n_in = s->n_in, .params = (void *)s->params};
        for (n_out = 1; n_out <= DD_MANY; n_out++) {
            probe.n_out = n_out;
            if (s->op->infer(&probe, s->in, types, &open) == DD_OK && open == n_out)
                break;
        }
    }
    DD_TRY(dd_graph_node(n->graph, s->op, "node", s->params, in, s->n_in, open, out, &n_out));
    for (int k = 0; k < n_out; k++) {
        snprintf(name, sizeof name, "out%d", k);
        DD_TRY(dd_graph_output(n->graph, name, out[k]));
    }
    bool gradient = s->op->grad || s->op->backward;
    DD_TRY(dd_graph_differentiate(n->graph, n->store, gradient, &n->training));
    n->differentiable = n->training->n_nodes > (size_t)n->training->n_forward;
    return dd_interpreter_create(n->training, n->store, n->inputs, 7, &n->run);
}

static void free_net(net *n) {
    dd_interpreter_destroy(n->run);
    dd_graph_destroy(n->graph);
    dd_graph_destroy(n->training);
    dd_store_destroy(n->store);
}

/* Forward from the sample's data (the store's copy anew, since running statistics move). */
static dd_status forward(const sample *s, net *n) {
    for (int k = 0; k < s->n_in; k++)
        if (n->entry[k] >= 0)
            memcpy(dd_store_data(n->store, n->entry[k]), s->data[k].data, bytes_of(&s->in[k]));
    for (int i = 0; i < n->n_inputs; i++)
        n->arrays[i] = s->data[n->from[i]];
    return dd_interpreter_forward(n->run, n->arrays, 3);
}

/* ---- gradients ----------------------------------------------------------------------------- */

/* Random weights of the loss for each output. */
static void make_seeds(const net *n, dd_array *seeds) {
    for (size_t i = 0; i < n->training->n_outputs; i++) {
        seeds[i].data = NULL;
        if (n->training->seeds[i] < 0)
            continue;
        dd_array out = dd_interpreter_value(n->run, n->training->outputs[i]);
        seeds[i] = dd_array_dense(must_alloc(bytes_of(&out.type)), &out.type);
        if (out.type.dtype == DD_F32)
            fill(&seeds[i], false);
    }
}

static double loss(const net *n, const dd_array *seeds) {
    double sum = 0;
    for (size_t i = 0; i < n->training->n_outputs; i++) {
        if (!seeds[i].data || seeds[i].type.dtype != DD_F32)
            continue;
        dd_array out = dd_interpreter_value(n->run, n->training->outputs[i]);
        for (int64_t k = 0; k < dd_type_count(&out.type); k++)
            sum += (double)((float *)out.data)[k] * (double)((float *)seeds[i].data)[k];
    }
    return sum;
}

/* Difference quotient of the loss over element k of input `which`, at -d and +d. */
static double slope(sample *s, net *n, const dd_array *seeds, int which, int64_t k, double d) {
    float *x = (float *)s->data[which].data + k, old = *x;
    double at[2], losses[2];
    for (int side = 0; side < 2; side++) {
        *x = (float)((double)old + (side ? d : -d));
        at[side] = (double)*x; /* rounded: the quotient takes the steps really taken */
        dd_status status = forward(s, n);
        CHECK(status == DD_OK, "%s: %s", s->name, dd_message());
        losses[side] = loss(n, seeds);
    }
    *x = old;
    return (losses[1] - losses[0]) / (at[1] - at[0]);
}

/* Gradient of input `which`, or NULL where there is none. */
static const float *gradient_of(const net *n, const float *flat, int which, char *name) {
    if (n->entry[which] >= 0) {
        const dd_entry *e = &n->store->entries[n->entry[which]];
        return e->role == DD_TRAINABLE ? flat + e->offset : NULL;
    }
    snprintf(name, 64, "d:in%d", which);
    for (size_t i = 0; i < n->training->n_outputs; i++)
        if (strcmp(n->training->output_names[i], name) == 0)
            return dd_interpreter_value(n->run, n->training->outputs[i]).data;
    return NULL;
}

static void check_input_gradient(sample *s, net *n, const dd_array *seeds, int which,
                                 const float *g) {
    int64_t count = dd_type_count(&s->in[which]);
    double scale = 1e-3, worst = 0;
    int used = 0, tried = 0;
    for (int64_t k = 0; k < count; k++)
        scale = fabs((double)g[k]) > scale ? fabs((double)g[k]) : scale; /* as in ops/softmax.c */
    for (int t = 0; t < ELEMENTS && t < count; t++) {
        int64_t k = count <= ELEMENTS ? t : (int64_t)dd_stream_below(&stream, (uint32_t)count);
        double near = slope(s, n, seeds, which, k, STEP);
        double far = slope(s, n, seeds, which, k, 2 * STEP);
        tried++;
        if (fabs(near - far) >
            TOLERANCE * scale) /* a kink, or curvature beyond the extrapolation */
            continue;
        used++;
        worst = fmax(worst, fabs((4 * near - far) / 3 - (double)g[k]) / scale);
    }
    CHECK(worst <= TOLERANCE, "%s: gradient of input %d is off by %.2g of its largest", s->name,
          which, worst);
    CHECK(used * 2 >= tried, "%s: only %d of %d elements of input %d could be checked", s->name,
          used, tried, which);
}

static void check_gradient(sample *s, net *n) {
    dd_array seeds[2 * DD_MANY];
    char name[64];
    float *flat = must_alloc((n->store->size + 1) * sizeof *flat);
    float *kept[MAX_IN] = {NULL};
    make_seeds(n, seeds);
    dd_status status = forward(s, n);
    if (status == DD_OK)
        status = dd_interpreter_backward(n->run, seeds, flat);
    CHECK(status == DD_OK, "%s: backward: %s", s->name, dd_message());
    /* copies first: the differences run forward again */
    for (int k = 0; status == DD_OK && k < s->n_in; k++) {
        const float *g = s->in[k].rank < 0 ? NULL : gradient_of(n, flat, k, name);
        if (!g)
            continue;
        kept[k] = must_alloc(bytes_of(&s->in[k]));
        memcpy(kept[k], g, bytes_of(&s->in[k]));
    }
    for (int k = 0; k < s->n_in; k++) {
        if (kept[k])
            check_input_gradient(s, n, seeds, k, kept[k]);
        dd_free(kept[k]);
    }
    for (size_t i = 0; i < n->training->n_outputs; i++)
        dd_free(seeds[i].data);
    dd_free(flat);
}

/* ---- arrays with a pitch, and the descriptor's promises ------------------------------------ */

/* One direct call of an operator. */
typedef struct call {
    dd_node node;
    dd_array in[MAX_IN], out[DD_MANY], saved[DD_MAX_SAVED], dout[DD_MANY], din[MAX_IN];
    int n_out;
    void *scratch;
} call;

/* A copy of `a` with `pad` lanes behind each row, which hold NaN (0xff bytes). */
static dd_array pitched(const dd_array *a, int64_t pad) {
    dd_array p = *a;
    size_t item = dd_dtype_bytes(a->type.dtype), row = (size_t)dd_type_last(&a->type) * item;
    p.pitch = dd_type_last(&a->type) + pad;
    size_t step = (size_t)p.pitch * item;
    p.data = must_alloc((size_t)dd_type_rows(&a->type) * step);
    memset(p.data, 0xff, (size_t)dd_type_rows(&a->type) * step);
    for (int64_t r = 0; r < dd_type_rows(&a->type); r++)
        memcpy((char *)p.data + (size_t)r * step, (char *)a->data + (size_t)r * row, row);
    return p;
}

/* Whether a pitched array has the dense one's elements and its pads are untouched. */
static bool same_rows(const dd_array *p, const dd_array *dense) {
    size_t item = dd_dtype_bytes(p->type.dtype), row = (size_t)dd_type_last(&p->type) * item;
    for (int64_t r = 0; r < dd_type_rows(&p->type); r++) {
        const unsigned char *at = (unsigned char *)p->data + (size_t)r * (size_t)p->pitch * item;
        if (memcmp(at, (char *)dense->data + (size_t)r * row, row) != 0)
            return false;
        for (size_t k = row; k < (size_t)p->pitch * item; k++)
            if (at[k] != 0xff)
                return false;
    }
    return true;
}

static dd_array poison_like(const dd_type *t, int64_t pad) {
    dd_array a = {.type = *t, .pitch = dd_type_last(t) + pad};
    size_t bytes = (size_t)dd_type_rows(t) * (size_t)a.pitch * dd_dtype_bytes(t->dtype);
    a.data = must_alloc(bytes);
    memset(a.data, 0xff, bytes);
    return a;
}

static dd_op_args args_of(call *c, const sample *s, bool training) {
    return (dd_op_args){.node = &c->node,
                        .params = s->params,
                        .n_in = s->n_in,
                        .n_out = c->n_out,
                        .in = c->in,
                        .out = c->out,
                        .saved = c->saved,
                        .dout = c->dout,
                        .din = c->din,
                        .scratch = c->scratch,
                        .seed = 7,
                        .step = 3,
                        .training = training};
}

/* Inputs, outputs and saved values with `pad` lanes; outputs are poisoned. */
static bool make_call(call *c, const sample *s, int64_t pad) {
    dd_type types[DD_MANY];
    int n_saved = 0;
    *c = (call){.node = {.op = s->op,
                         .training = true,
                         .n_in = s->n_in,
                         .params = (void *)s->params,
                         .name = (char *)"node"}};
    int ids[MAX_IN];
    for (int k = 0; k < s->n_in; k++)
        ids[k] = s->in[k].rank < 0 ? -1 : k;
    for (c->node.n_out = 1; c->node.n_out <= DD_MANY; c->node.n_out++)
        if (s->op->infer(&c->node, s->in, types, &c->n_out) == DD_OK &&
            (s->op->n_outputs != DD_MANY || c->n_out == c->node.n_out))
            break;
    c->node.n_out = c->n_out;
    c->node.in = ids;
    for (int k = 0; k < s->n_in; k++)
        c->in[k] = s->in[k].rank < 0 ? (dd_array){.type = {.rank = -1}} : pitched(&s->data[k], pad);
    for (int k = 0; k < c->n_out; k++)
        c->out[k] = poison_like(&types[k], pad);
    if (s->op->saved && s->op->saved(&c->node, s->in, types, &n_saved) != DD_OK)
        return false;
    for (int k = 0; k < n_saved; k++)
        c->saved[k] = poison_like(&types[k], 0);
    c->scratch = must_alloc(s->op->scratch ? s->op->scratch(&c->node, s->in) : 1);
    c->node.in = NULL; /* the local array ends here */
    return true;
}

static void free_call(call *c) {
    for (int k = 0; k < MAX_IN; k++) {
        dd_free(c->in[k].data);
        dd_free(c->din[k].data);
    }
    for (int k = 0; k < DD_MANY; k++) {
        dd_free(c->out[k].data);
        dd_free(c->dout[k].data);
    }
    for (int k = 0; k < DD_MAX_SAVED; k++)
        dd_free(c->saved[k].data);
    dd_free(c->scratch);
}

static void check_forward_promises(const sample *s) {
    call dense, wide, blind;
    if (!make_call(&dense, s, 0) || !make_call(&wide, s, 3) || !make_call(&blind, s, 0))
        return;
    for (int k = 0; k < s->n_in; k++)
        if ((s->op->shape_inputs >> k & 1) && blind.in[k].data)
            memset(blind.in[k].data, 0xff, bytes_of(&s->in[k]));
    dd_op_args a = args_of(&dense, s, true), b = args_of(&wide, s, true),
               c = args_of(&blind, s, true);
    CHECK(s->op->forward(&a) == DD_OK, "%s: %s", s->name, dd_message());
    CHECK(s->op->forward(&b) == DD_OK, "%s: %s", s->name, dd_message());
    CHECK(s->op->forward(&c) == DD_OK, "%s: %s", s->name, dd_message());
    for (int k = 0; k < dense.n_out; k++) {
        CHECK(same_rows(&wide.out[k], &dense.out[k]), "%s: output %d depends on the pitch", s->name,
              k);
        CHECK(same_rows(&blind.out[k], &dense.out[k]), "%s: forward reads a shape input", s->name);
    }
    if (s->op->flags & DD_OP_INPLACE) {
        call in_place;
        if (make_call(&in_place, s, 0)) {
            dd_free(in_place.out[0].data);
            in_place.out[0].data = in_place.in[0].data;
            dd_op_args d = args_of(&in_place, s, true);
            CHECK(s->op->forward(&d) == DD_OK, "%s: %s", s->name, dd_message());
            CHECK(same_rows(&in_place.out[0], &dense.out[0]), "%s: in place differs", s->name);
            in_place.out[0].data = NULL;
            free_call(&in_place);
        }
    }
    free_call(&dense);
    free_call(&wide);
    free_call(&blind);
}

static void seed_call(call *c, const sample *s, const dd_array *seeds, int64_t pad) {
    for (int k = 0; k < c->n_out; k++)
        c->dout[k] = pitched(&seeds[k], pad);
    for (int k = 0; k < s->n_in; k++)
        if (s->in[k].rank >= 0 && s->in[k].dtype == DD_F32 && !(s->op->shape_inputs >> k & 1))
            c->din[k] = poison_like(&s->in[k], pad);
        else
            c->din[k] = (dd_array){.type = s->in[k]};
}

/* The node becomes its own backward node, with the scratch of one. */
static void as_backward(call *c, const sample *s) {
    c->node.backward = true;
    c->node.forward_in = s->n_in;
    c->node.forward_out = c->n_out;
    dd_free(c->scratch);
    c->scratch = must_alloc(s->op->scratch ? s->op->scratch(&c->node, s->in) : 1);
}

/* Backward on pitched arrays, and with everything poisoned that it claims not to read. */
static void check_backward_promises(const sample *s) {
    call dense, wide;
    dd_array seeds[DD_MANY];
    if (!s->op->backward || !make_call(&dense, s, 0) || !make_call(&wide, s, 3))
        return;
    dd_op_args a = args_of(&dense, s, true), b = args_of(&wide, s, true);
    CHECK(s->op->forward(&a) == DD_OK && s->op->forward(&b) == DD_OK, "%s", s->name);
    for (int k = 0; k < dense.n_out; k++) {
        seeds[k] = dense.out[k];
        seeds[k].data = must_alloc(bytes_of(&seeds[k].type));
        fill(&seeds[k], false);
    }
    seed_call(&dense, s, seeds, 0);
    seed_call(&wide, s, seeds, 3);
    as_backward(&dense, s);
    as_backward(&wide, s);
    a = args_of(&dense, s, true);
    b = args_of(&wide, s, true);
    for (int k = 0; k < s->n_in; k++)
        if (!(s->op->backward_uses & DD_USES_IN(k < 7 ? k : 7)) && wide.in[k].data)
            memset(wide.in[k].data, 0xff,
                   (size_t)dd_type_rows(&s->in[k]) * (size_t)wide.in[k].pitch *
                       dd_dtype_bytes(s->in[k].dtype));
    for (int k = 0; k < wide.n_out; k++)
        if (!(s->op->backward_uses & DD_USES_OUT(k < 7 ? k : 7)))
            memset(wide.out[k].data, 0xff,
                   (size_t)dd_type_rows(&wide.out[k].type) * (size_t)wide.out[k].pitch *
                       dd_dtype_bytes(wide.out[k].type.dtype));
    CHECK(s->op->backward(&a) == DD_OK, "%s: %s", s->name, dd_message());
    CHECK(s->op->backward(&b) == DD_OK, "%s: %s", s->name, dd_message());
    for (int k = 0; k < s->n_in; k++)
        if (dense.din[k].data)
            CHECK(same_rows(&wide.din[k], &dense.din[k]),
                  "%s: the gradient of input %d depends on pitch or unread data", s->name, k);
    for (int k = 0; k < dense.n_out; k++)
        dd_free(seeds[k].data);
    free_call(&dense);
    free_call(&wide);
}

/* Output rows must not change when the input's rows outside the window do. */
static void check_window(const sample *s) {
    call whole, part;
    if (!s->op->window || !make_call(&whole, s, 0) || !make_call(&part, s, 0))
        return;
    dd_op_args a = args_of(&whole, s, false), b = args_of(&part, s, false);
    const dd_type *out = &whole.out[0].type;
    if (out->rank == 4 && s->op->forward(&a) == DD_OK) {
        dd_range rows = {.begin = out->dims[1] / 3, .end = out->dims[1] / 3 + 1};
        for (int k = 0; k < s->n_in; k++) {
            dd_range in = {0, 0};
            if (s->in[k].rank != 4 || !part.in[k].data ||
                s->op->window(&part.node, s->in, rows, k, &in) != DD_OK)
                continue;
            CHECK(in.begin >= 0 && in.begin <= in.end && in.end <= s->in[k].dims[1],
                  "%s: window of input %d", s->name, k);
            size_t row = bytes_of(&s->in[k]) / (size_t)(s->in[k].dims[0] * s->in[k].dims[1]);
            for (int64_t y = 0; y < s->in[k].dims[0] * s->in[k].dims[1]; y++)
                if (y % s->in[k].dims[1] < in.begin || y % s->in[k].dims[1] >= in.end)
                    memset((char *)part.in[k].data + (size_t)y * row, 0x11, row);
        }
        CHECK(s->op->forward(&b) == DD_OK, "%s: %s", s->name, dd_message());
        size_t row = bytes_of(out) / (size_t)(out->dims[0] * out->dims[1]);
        for (int64_t n = 0; n < out->dims[0]; n++)
            CHECK(memcmp((char *)whole.out[0].data + (size_t)(n * out->dims[1] + rows.begin) * row,
                         (char *)part.out[0].data + (size_t)(n * out->dims[1] + rows.begin) * row,
                         row) == 0,
                  "%s: row %d reads beyond its window", s->name, (int)rows.begin);
    }
    free_call(&whole);
    free_call(&part);
}

/* The hook gives every output a list of the right length. */
static void check_channels(const sample *s, const net *n) {
    dd_channel_ids *ids = NULL;
    dd_type *types = must_alloc(n->graph->n_values * sizeof *types);
    dd_status status = dd_graph_infer(n->graph, n->store, n->inputs, types);
    if (status == DD_OK)
        status = dd_channels_create(n->graph, n->store, types, &ids);
    CHECK(status == DD_OK, "%s: channels: %s", s->name, dd_message());
    for (size_t i = 0; ids && i < n->graph->n_outputs; i++) {
        const dd_type *t = &types[n->graph->outputs[i]];
        int *groups = must_alloc((size_t)dd_type_last(t) * sizeof *groups);
        int64_t count = dd_channels_of_value(ids, n->graph->outputs[i], groups);
        CHECK(count == dd_type_last(t), "%s: channels", s->name);
        dd_free(groups);
    }
    dd_channels_destroy(ids);
    dd_free(types);
}

/* ---- the walk ------------------------------------------------------------------------------ */

static bool finite_outputs(const net *n) {
    for (size_t i = 0; i < n->graph->n_outputs; i++) {
        dd_array out = dd_interpreter_value(n->run, n->training->outputs[i]);
        for (int64_t k = 0; out.type.dtype == DD_F32 && k < dd_type_count(&out.type); k++)
            if (!isfinite(((float *)out.data)[k]))
                return false;
    }
    return true;
}

static void check_sample(sample *s) {
    net n;
    dd_status status = build(s, &n);
    if (status == DD_OK)
        status = forward(s, &n);
    if (status == DD_OK && !finite_outputs(&n)) { /* log, sqrt, pow, a norm's variance */
        fill_all(s, true);
        status = forward(s, &n);
    }
    CHECK(status == DD_OK, "%s: %s", s->name, dd_message());
    if (status == DD_OK) {
        CHECK(finite_outputs(&n), "%s: an output is not finite", s->name);
        bool promised = s->op->grad || s->op->backward;
        dd_array out = dd_interpreter_value(n.run, n.training->outputs[0]);
        bool floats = s->n_in > 0 && s->in[0].rank >= 0 && s->in[0].dtype == DD_F32 &&
                      out.type.dtype == DD_F32; /* comparisons give bytes */
        CHECK(!(promised && floats) || n.differentiable || (s->op->flags & DD_OP_NO_GRAD),
              "%s: no gradient came out", s->name);
        if (n.differentiable)
            check_gradient(s, &n);
        check_forward_promises(s);
        if (n.differentiable)
            check_backward_promises(s);
        check_window(s);
        check_channels(s, &n);
    }
    free_net(&n);
}

/* A stream of its own: a new operator leaves the others' numbers alone. */
static void start_stream(const char *name) {
    uint64_t seed = 1;
    for (; *name; name++)
        seed = seed * 31 + (unsigned char)*name;
    dd_stream_init(&stream, seed, 0, 0, DD_FOR_TEST);
}

int main(void) {
    int n;
    const dd_op *const *ops = dd_ops(&n);
    for (int i = 0; i < n; i++) {
        const dd_op *op = ops[i];
        start_stream(op->name);
        CHECK(op->name && op->doc && op->doc[0] && op->version >= 1 && op->infer && op->forward,
              "row %d of ops.def", i);
        CHECK(op->sample, "%s has no sample", op->name);
        CHECK(dd_op_find(op->name) == op, "%s is not found", op->name);
        CHECK(!op->saved == !op->n_saved, "%s: saved without n_saved", op->name);
        sample s;
        int count = 0;
        while (op->sample && make_sample(op, count, &s)) {
            check_sample(&s);
            free_sample(&s);
            count++;
        }
        CHECK(count > 0, "%s has no sample", op->name);
    }
    CHECK(dd_alloc_live() == 0, "%llu blocks leak", (unsigned long long)dd_alloc_live());
    return check_done("check_ops");
}
