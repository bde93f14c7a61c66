/* Small nets for tests: a builder with a word a layer, and random nets that train and deploy.
 * Every function aborts on failure: a test that wants one builds the call itself. */
#ifndef DD_TESTS_NETS_H
#define DD_TESTS_NETS_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/random.h"
#include "graph/graph.h"
#include "ops/params.h"

typedef struct net {
    dd_graph *g;
    dd_store *s;
    dd_stream random;
    int layers; /* for names */
} net;

static inline void net_must(dd_status status) {
    if (status == DD_OK)
        return;
    fprintf(stderr, "net: %s\n", dd_message());
    abort();
}

static inline void net_init(net *n, uint64_t seed) {
    memset(n, 0, sizeof *n);
    net_must(dd_graph_create(&n->g));
    net_must(dd_store_create(&n->s));
    dd_stream_init(&n->random, seed, 0, 0, DD_FOR_TEST);
}

static inline void net_free(net *n) {
    dd_graph_destroy(n->g);
    dd_store_destroy(n->s);
}

static inline int net_input(net *n, const char *name, int channels) {
    dd_type t = {.dtype = DD_F32, .rank = 4, .dims = {-1, -1, -1, channels}};
    int id;
    net_must(dd_graph_input(n->g, name, &t, &id));
    return id;
}

/* A parameter with values uniform in [low, high). */
static inline int net_entry(net *n, const char *name, dd_role role, int rank, const int64_t *dims,
                            float low, float high) {
    dd_type t = dd_type_make(DD_F32, rank, dims);
    int entry, id;
    net_must(dd_store_add(n->s, name, role, &t, rank > 1, &entry));
    for (int64_t k = 0; k < n->s->entries[entry].count; k++)
        dd_store_data(n->s, entry)[k] = dd_stream_range(&n->random, low, high);
    net_must(dd_graph_entry(n->g, n->s, entry, &id));
    return id;
}

static inline int net_op(net *n, const char *op, const void *params, const int *in, int n_in) {
    char name[64];
    int out[DD_MANY];
    snprintf(name, sizeof name, "%s%d", op, n->layers++);
    net_must(dd_graph_node(n->g, dd_op_find(op), name, params, in, n_in, 0, out, NULL));
    return out[0];
}

/* conv with given weight value; k×k, padded by k/2. */
static inline int net_conv_with(net *n, int x, int weight, int bias, int k, int stride,
                                int groups) {
    dd_conv_params p = {.stride = {2, {stride, stride}},
                        .pads = {4, {k / 2, k / 2, k / 2, k / 2}},
                        .groups = groups};
    return net_op(n, "conv", &p, (int[]){x, weight, bias}, 3);
}

static inline int net_weight(net *n, int c_in, int c_out, int k, int groups) {
    char name[64];
    float bound = 1.5f / (float)(k * k * c_in / groups);
    snprintf(name, sizeof name, "layer%d.weight", n->layers);
    bound = bound < 0.2f ? 0.2f : bound;
    return net_entry(n, name, DD_TRAINABLE, 4, (int64_t[]){c_out, c_in / groups, k, k}, -bound,
                     bound);
}

static inline int net_conv(net *n, int x, int c_in, int c_out, int k, int stride, int groups,
                           bool bias) {
    char name[64];
    int w = net_weight(n, c_in, c_out, k, groups), b = -1;
    snprintf(name, sizeof name, "layer%d.bias", n->layers);
    if (bias)
        b = net_entry(n, name, DD_TRAINABLE, 1, (int64_t[]){c_out}, -0.5f, 0.5f);
    return net_conv_with(n, x, w, b, k, stride, groups);
}

static inline int net_norm(net *n, int x, int c) {
    static const char *const words[4] = {"weight", "bias", "running_mean", "running_var"};
    static const float low[4] = {0.5f, -0.5f, -0.3f, 0.4f}, high[4] = {1.5f, 0.5f, 0.3f, 1.6f};
    int in[5] = {x};
    char name[64];
    for (int k = 0; k < 4; k++) {
        snprintf(name, sizeof name, "layer%d.%s", n->layers, words[k]);
        in[k + 1] =
            net_entry(n, name, k < 2 ? DD_TRAINABLE : DD_STATE, 1, (int64_t[]){c}, low[k], high[k]);
    }
    return net_op(n, "batch_norm", NULL, in, 5);
}

static inline int net_act(net *n, int x, dd_unary kind) {
    dd_unary_params p = {.kind = kind};
    return net_op(n, "unary", &p, &x, 1);
}

static inline int net_binary(net *n, int a, int b, dd_binary kind) {
    dd_binary_params p = {.kind = kind};
    return net_op(n, "binary", &p, (int[]){a, b}, 2);
}

static inline int net_concat(net *n, int a, int b) {
    return net_op(n, "concat", NULL, (int[]){a, b}, 2);
}

static inline int net_up(net *n, int x) {
    dd_resize_params p = {.scale = {2, {2, 2}}};
    return net_op(n, "resize", &p, &x, 1);
}

static inline int net_max_pool(net *n, int x) {
    dd_pool_params p = {.kernel = {2, {2, 2}}, .stride = {2, {2, 2}}};
    return net_op(n, "max_pool", &p, &x, 1);
}

/* RepVGG: 3×3 + BN, 1×1 + BN and (stride 1, equal channels) BN, added in the order that `order`
 * says, 0 to 5; then the activation where `act`. */
static inline int net_repvgg(net *n, int x, int c_in, int c_out, int stride, int order, int groups,
                             bool act) {
    static const int orders[6][3] = {{0, 1, 2}, {0, 2, 1}, {1, 0, 2},
                                     {1, 2, 0}, {2, 0, 1}, {2, 1, 0}};
    bool identity = stride == 1 && c_in == c_out;
    int b[3];
    b[0] = net_norm(n, net_conv(n, x, c_in, c_out, 3, stride, groups, false), c_out);
    b[1] = net_norm(n, net_conv(n, x, c_in, c_out, 1, stride, groups, false), c_out);
    b[2] = identity ? net_norm(n, x, c_in) : -1;
    int sum = -1;
    for (int k = 0; k < 3; k++) {
        int v = b[orders[order][k]];
        sum = v < 0 ? sum : sum < 0 ? v : net_binary(n, sum, v, DD_ADD);
    }
    return act ? net_act(n, sum, DD_RELU) : sum;
}

/* ---- random nets --------------------------------------------------------------------------- */

typedef struct net_value {
    int id, c, level; /* size / 2^level */
} net_value;

static inline int net_draw(net *n, int below) {
    return (int)dd_stream_below(&n->random, (uint32_t)below);
}

/* One more layer on one of the values so far. */
static inline net_value net_random_layer(net *n, const net_value *have, int count) {
    static const dd_unary kinds[] = {DD_RELU, DD_HARD_SWISH, DD_SIGMOID, DD_SILU};
    net_value v = have[net_draw(n, count)];
    int c = 4 + 4 * net_draw(n, 3);
    switch (net_draw(n, 10)) {
    case 0:
    case 1: {
        int stride = v.level < 2 ? 1 + net_draw(n, 2) : 1, k = 1 + 2 * net_draw(n, 2);
        int id = net_conv(n, v.id, v.c, c, k, stride, 1, net_draw(n, 2) == 0);
        return (net_value){id, c, v.level + (stride == 2)};
    }
    case 2: { /* depthwise + BN + activation */
        int id = net_conv(n, v.id, v.c, v.c, 3 + 2 * net_draw(n, 2), 1, v.c, false);
        id = net_act(n, net_norm(n, id, v.c), kinds[net_draw(n, 4)]);
        return (net_value){id, v.c, v.level};
    }
    case 3:
        return (net_value){net_norm(n, v.id, v.c), v.c, v.level};
    case 4:
        return (net_value){net_act(n, v.id, kinds[net_draw(n, 4)]), v.c, v.level};
    case 5:
    case 6: { /* join with another of the same size */
        for (int k = count; k-- > 0;) {
            const net_value *o = &have[k];
            if (o->level != v.level)
                continue;
            if (o->c == v.c)
                return (net_value){net_binary(n, v.id, o->id, net_draw(n, 3) ? DD_ADD : DD_MUL),
                                   v.c, v.level};
            if (o->c + v.c <= 24)
                return (net_value){net_concat(n, v.id, o->id), o->c + v.c, v.level};
        }
        return (net_value){net_act(n, v.id, DD_RELU), v.c, v.level};
    }
    case 7:
        if (v.level > 0)
            return (net_value){net_up(n, v.id), v.c, v.level - 1};
        return (net_value){net_max_pool(n, v.id), v.c, v.level + 1};
    case 8: { /* squeeze and excitation */
        int pooled = net_op(n, "avg_pool", NULL, &v.id, 1);
        int gate = net_act(n, net_conv(n, pooled, v.c, v.c, 1, 1, 1, true), DD_HARD_SIGMOID);
        return (net_value){net_binary(n, v.id, gate, DD_MUL), v.c, v.level};
    }
    default: {
        int stride = v.level < 2 ? 1 + net_draw(n, 2) : 1;
        int out = net_draw(n, 2) ? v.c : c;
        int id = net_repvgg(n, v.id, v.c, out, stride, net_draw(n, 6), 1, true);
        return (net_value){id, out, v.level + (stride == 2)};
    }
    }
}

/* A net of `layers` random layers over an input "x" of 3 channels, with one to three outputs. Its
 * sizes work for any H and W that are multiples of 8. */
static inline void net_random(net *n, uint64_t seed, int layers) {
    net_value v[64];
    int count = 0;
    char name[16];
    net_init(n, seed);
    int x = net_input(n, "x", 3);
    x = net_act(n, net_norm(n, net_conv(n, x, 3, 8, 3, 1, 1, false), 8), DD_HARD_SWISH);
    v[count++] = (net_value){x, 8, 0};
    while (count < layers && count < 64) {
        v[count] = net_random_layer(n, v, count);
        count++;
    }
    int outputs = 1 + net_draw(n, 3);
    for (int k = 0; k < outputs; k++) {
        snprintf(name, sizeof name, "out%d", k);
        net_must(dd_graph_output(n->g, name, v[k ? net_draw(n, count) : count - 1].id));
    }
}

#endif
