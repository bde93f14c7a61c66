/* Deployment: what is folded and what stays, exactness to 1e-5, idempotence; channel groups. */
#include <math.h>

#include "check.h"
#include "graph/channels.h"
#include "graph/interpret.h"
#include "graph/rewrite.h"
#include "nets.h"

#define H 8
#define W 16

static float picture[2 * H * W * 32]; /* channels as a test needs them */

static int count_op(const dd_graph *g, const char *op) {
    int count = 0;
    for (size_t i = 0; i < g->n_nodes; i++)
        count += strcmp(g->nodes[i].op->name, op) == 0;
    return count;
}

/* Largest |a - b| / max |b| over all outputs of both graphs on the test picture. */
static double difference(const dd_graph *a, dd_store *sa, const dd_graph *b, dd_store *sb,
                         int channels) {
    dd_interpreter *x, *y;
    dd_type t = {.dtype = DD_F32, .rank = 4, .dims = {2, H, W, channels}};
    dd_array in = dd_array_dense(picture, &t);
    double worst = a->n_outputs == b->n_outputs ? 0 : INFINITY;
    net_must(dd_interpreter_create(a, sa, &t, 5, &x));
    net_must(dd_interpreter_create(b, sb, &t, 5, &y));
    net_must(dd_interpreter_forward(x, &in, 0));
    net_must(dd_interpreter_forward(y, &in, 0));
    for (size_t i = 0; i < a->n_outputs && i < b->n_outputs; i++) {
        dd_array u = dd_interpreter_value(x, a->outputs[i]),
                 v = dd_interpreter_value(y, b->outputs[i]);
        double error = 0, scale = 1e-30;
        if (!dd_type_equal(&u.type, &v.type) || strcmp(a->output_names[i], b->output_names[i]) != 0)
            worst = INFINITY;
        for (int64_t k = 0; worst < INFINITY && k < dd_type_count(&u.type); k++) {
            error = fmax(error, fabs((double)((float *)u.data)[k] - (double)((float *)v.data)[k]));
            scale = fmax(scale, fabs((double)((float *)v.data)[k]));
        }
        worst = fmax(worst, error / scale);
    }
    dd_interpreter_destroy(x);
    dd_interpreter_destroy(y);
    return worst;
}

/* Deploys, checks exactness and that a second time changes no bit; the result is the caller's. */
static void deploy(const net *n, int channels, const char *who, dd_graph **g, dd_store **s) {
    dd_graph *twice;
    dd_store *store;
    dd_status status = dd_graph_deploy(n->g, n->s, g, s);
    if (status != DD_OK)
        fprintf(stderr, "%s: %s\n", who, dd_message());
    net_must(status);
    double error = difference(n->g, n->s, *g, *s, channels);
    CHECK(error <= 1e-5, "%s: deployed differs by %.3g", who, error);
    net_must(dd_graph_deploy(*g, *s, &twice, &store));
    CHECK(twice->n_nodes == (*g)->n_nodes && store->size == (*s)->size &&
              memcmp(store->values, (*s)->values, store->size * sizeof(float)) == 0,
          "%s: not idempotent", who);
    dd_graph_destroy(twice);
    dd_store_destroy(store);
}

static void done(net *n, dd_graph *g, dd_store *s) {
    dd_graph_destroy(g);
    dd_store_destroy(s);
    net_free(n);
}

/* ---- one at a time ------------------------------------------------------------------------- */

static void check_fold(void) {
    net n;
    dd_graph *g;
    dd_store *s;
    net_init(&n, 1);
    int x = net_input(&n, "x", 3);
    x = net_conv(&n, x, 3, 8, 3, 2, 1, false); /* without a bias: one appears */
    x = net_act(&n, net_norm(&n, x, 8), DD_RELU);
    x = net_conv(&n, x, 8, 8, 5, 1, 8, true); /* depthwise, with one */
    double p = 0.5;
    x = net_op(&n, "dropout", &p, &x, 1); /* identity in inference, so no hindrance */
    x = net_norm(&n, x, 8);
    x = net_op(&n, "stop_gradient", NULL, &x, 1);
    net_must(dd_graph_output(n.g, "y", x));
    n.s->entries[0].lr_factor = 0.5f;
    deploy(&n, 3, "fold", &g, &s);
    CHECK(g->n_nodes == 3 && count_op(g, "conv") == 2, "%zu nodes", g->n_nodes);
    CHECK(dd_store_find(s, "layer0.weight") >= 0 && dd_store_find(s, "layer0.bias") >= 0, "names");
    CHECK(s->n == 4, "%zu entries", s->n);
    int w = dd_store_find(s, "layer0.weight");
    CHECK(w >= 0 && s->entries[w].lr_factor == 0.5f && s->entries[w].decay, "settings follow");
    done(&n, g, s);
}

/* A transposed convolution, its norm and a scale a channel behind that; in a sum it stays apart. */
static void check_transposed(void) {
    for (int groups = 1; groups <= 4; groups *= 2)
        for (int bias = 0; bias < 2; bias++) {
            net n;
            dd_graph *g;
            dd_store *s;
            char who[48];
            dd_conv_transpose_params p = {
                .stride = {2, {2, 1}}, .pads = {4, {1, 0, 0, 1}}, .groups = groups};
            snprintf(who, sizeof who, "transposed groups %d bias %d", groups, bias);
            net_init(&n, (uint64_t)groups);
            int x = net_input(&n, "x", 8);
            int w = net_entry(&n, "up.weight", DD_TRAINABLE, 4, (int64_t[]){8, 12 / groups, 3, 2},
                              -0.4f, 0.4f);
            int b = net_entry(&n, "up.bias", DD_TRAINABLE, 1, (int64_t[]){12}, -0.5f, 0.5f);
            int y = net_op(&n, "conv_transpose", &p, (int[]){x, w, b}, 2 + bias);
            y = net_norm(&n, y, 12);
            int scale = net_entry(&n, "scale", DD_TRAINABLE, 1, (int64_t[]){12}, 0.5f, 2);
            y = net_act(&n, net_binary(&n, y, scale, DD_MUL), DD_RELU);
            net_must(dd_graph_output(n.g, "y", y));
            p = (dd_conv_transpose_params){.groups = groups};
            w = net_entry(&n, "same.weight", DD_TRAINABLE, 4, (int64_t[]){8, 8 / groups, 1, 1},
                          -0.4f, 0.4f);
            int z = net_norm(&n, net_op(&n, "conv_transpose", &p, (int[]){x, w}, 2), 8);
            z = net_binary(&n, z, net_conv(&n, x, 8, 8, 1, 1, 1, false), DD_ADD);
            net_must(dd_graph_output(n.g, "z", net_binary(&n, z, x, DD_ADD)));
            deploy(&n, 8, who, &g, &s);
            CHECK(count_op(g, "conv_transpose") == 2 && count_op(g, "batch_norm") == 0 &&
                      count_op(g, "conv") == 1 && count_op(g, "binary") == 2,
                  "%s: %zu nodes", who, g->n_nodes);
            CHECK(dd_store_find(s, "up.weight") >= 0 && dd_store_find(s, "up.bias") >= 0 &&
                      dd_store_find(s, "same.bias") >= 0,
                  "%s: names", who);
            done(&n, g, s);
        }
}

static void check_repvgg(void) {
    for (int order = 0; order < 6; order++)
        for (int stride = 1; stride <= 2; stride++)
            for (int groups = 1; groups <= 8; groups *= 2) {
                net n;
                dd_graph *g;
                dd_store *s;
                char who[64];
                snprintf(who, sizeof who, "RepVGG order %d stride %d groups %d", order, stride,
                         groups);
                net_init(&n, (uint64_t)(order * 10 + stride));
                int x = net_input(&n, "x", 8);
                net_must(dd_graph_output(n.g, "y",
                                         net_repvgg(&n, x, 8, 8, stride, order, groups, true)));
                deploy(&n, 8, who, &g, &s);
                CHECK(g->n_nodes == 2 && count_op(g, "conv") == 1, "%s: %zu nodes", who,
                      g->n_nodes);
                done(&n, g, s);
            }
}

/* A head's convolution shared by three maps, each with a batch norm of its own, and an output
 * convolution shared as it is with a learned scale a map. */
static void check_shared(void) {
    net n;
    dd_graph *g;
    dd_store *s;
    char name[8];
    net_init(&n, 3);
    int x = net_input(&n, "x", 8);
    int w = net_weight(&n, 8, 8, 3, 1),
        last = net_entry(&n, "last.weight", DD_TRAINABLE, 4, (int64_t[]){4, 8, 1, 1}, -1, 1);
    for (int level = 0; level < 3; level++) {
        int y = net_act(&n, net_norm(&n, net_conv_with(&n, x, w, -1, 3, 1, 1), 8), DD_RELU);
        int plain = net_conv_with(&n, y, last, -1, 1, 1, 1);
        snprintf(name, sizeof name, "cls%d", level);
        net_must(dd_graph_output(n.g, name, plain));
        snprintf(name, sizeof name, "s%d", level);
        int scale = net_entry(&n, name, DD_TRAINABLE, 1, (int64_t[]){1}, 0.5f, 2);
        int box = net_binary(&n, net_conv_with(&n, y, last, -1, 1, 1, 1), scale, DD_MUL);
        snprintf(name, sizeof name, "box%d", level);
        net_must(dd_graph_output(n.g, name, box));
        x = net_max_pool(&n, x);
    }
    deploy(&n, 8, "shared", &g, &s);
    CHECK(count_op(g, "batch_norm") == 0 && count_op(g, "binary") == 0, "all folded");
    CHECK(dd_store_find(s, "layer0.weight") >= 0 && dd_store_find(s, "layer0.weight@2") >= 0 &&
              dd_store_find(s, "layer0.weight@3") >= 0,
          "a clone a use");
    int plain = 0;
    for (size_t i = 0; i < g->n_values; i++)
        plain += g->values[i].kind == DD_VALUE_ENTRY && strstr(g->values[i].name, "last.weight");
    CHECK(plain == 4, "last.weight: one shared and three scaled, %d came", plain);
    done(&n, g, s);
}

/* One convolution that feeds two batch norms becomes two; one that is read otherwise stays. */
static void check_two_norms(void) {
    net n;
    dd_graph *g;
    dd_store *s;
    net_init(&n, 4);
    int x = net_input(&n, "x", 4), y = net_conv(&n, x, 4, 4, 3, 1, 1, true);
    net_must(dd_graph_output(n.g, "a", net_act(&n, net_norm(&n, y, 4), DD_RELU)));
    net_must(dd_graph_output(n.g, "b", net_norm(&n, y, 4)));
    deploy(&n, 4, "two norms", &g, &s);
    CHECK(count_op(g, "batch_norm") == 0 && count_op(g, "conv") == 2, "cloned");
    done(&n, g, s);
    net_init(&n, 4);
    x = net_input(&n, "x", 4);
    y = net_conv(&n, x, 4, 4, 3, 1, 1, true);
    net_must(dd_graph_output(n.g, "raw", y));
    net_must(dd_graph_output(n.g, "normed", net_norm(&n, y, 4)));
    deploy(&n, 4, "norm beside an output", &g, &s);
    CHECK(count_op(g, "batch_norm") == 1 && count_op(g, "conv") == 1, "not computed twice");
    done(&n, g, s);
}

static void check_unfoldable(void) {
    net n;
    dd_graph *g;
    dd_store *s;
    net_init(&n, 5);
    int x = net_input(&n, "x", 4);
    int join = net_concat(&n, x, net_conv(&n, x, 4, 4, 1, 1, 1, false));
    int y = net_norm(&n, join, 8);
    y = net_conv(&n, y, 8, 8, 3, 1, 1, false); /* a norm before a padded convolution stays too */
    net_must(dd_graph_output(n.g, "y", y));
    deploy(&n, 4, "norm of a concat", &g, &s);
    CHECK(count_op(g, "batch_norm") == 1, "kept as an affine");
    done(&n, g, s);
    /* sums that are no single convolution: other input, other stride of reach, a branch read twice
     */
    net_init(&n, 6);
    x = net_input(&n, "x", 4);
    int a = net_conv(&n, x, 4, 4, 3, 1, 1, true), b = net_conv(&n, a, 4, 4, 1, 1, 1, true);
    net_must(dd_graph_output(n.g, "chain", net_binary(&n, a, b, DD_ADD)));
    int c = net_conv(&n, x, 4, 4, 3, 1, 1, true), d = net_conv(&n, x, 4, 4, 1, 1, 1, true);
    int e = net_binary(&n, c, d, DD_ADD);
    net_must(dd_graph_output(n.g, "twice", net_binary(&n, e, c, DD_MUL)));
    net_must(dd_graph_output(n.g, "difference",
                             net_binary(&n, net_conv(&n, x, 4, 4, 3, 1, 1, true),
                                        net_conv(&n, x, 4, 4, 1, 1, 1, true), DD_SUB)));
    deploy(&n, 4, "sums that stay", &g, &s);
    CHECK(count_op(g, "binary") == 4 - 1, "the residual over a's own input merges, the rest stays");
    done(&n, g, s);
}

/* x + conv(x) is one convolution; x + conv(conv(x)) is not. */
static void check_identity(void) {
    net n;
    dd_graph *g;
    dd_store *s;
    net_init(&n, 7);
    int x = net_act(&n, net_input(&n, "x", 4), DD_RELU);
    int y = net_binary(&n, x, net_conv(&n, x, 4, 4, 3, 1, 2, true), DD_ADD);
    net_must(dd_graph_output(n.g, "y", y));
    int z = net_conv(&n, net_conv(&n, x, 4, 8, 1, 1, 1, true), 8, 4, 1, 1, 1, true);
    net_must(dd_graph_output(n.g, "z", net_binary(&n, z, x, DD_ADD)));
    deploy(&n, 4, "identity", &g, &s);
    CHECK(count_op(g, "binary") == 1 && count_op(g, "conv") == 3, "%d adds", count_op(g, "binary"));
    done(&n, g, s);
}

static void check_random(void) {
    for (uint64_t seed = 1; seed <= 30; seed++) {
        net n;
        dd_graph *g;
        dd_store *s;
        char who[32];
        snprintf(who, sizeof who, "net %d", (int)seed);
        net_random(&n, seed, 18);
        deploy(&n, 3, who, &g, &s);
        done(&n, g, s);
    }
}

/* ---- channel groups ------------------------------------------------------------------------ */

static int *value_groups(dd_channel_ids *ids, int value, int64_t n) {
    int *groups;
    net_must(dd_alloc_array((size_t)n, sizeof *groups, &groups));
    CHECK(dd_channels_of_value(ids, value, groups) == n, "value %d", value);
    return groups;
}

static void check_channels(void) {
    net n;
    dd_channel_ids *ids;
    dd_type t = {.dtype = DD_F32, .rank = 4, .dims = {1, H, W, 3}}, types[64];
    net_init(&n, 8);
    int x = net_input(&n, "x", 3);
    int a = net_act(&n, net_norm(&n, net_conv(&n, x, 3, 8, 3, 1, 1, false), 8), DD_RELU);
    int weight = 0;                                /* of the first convolution */
    int d = net_conv(&n, a, 8, 8, 3, 1, 8, false); /* depthwise keeps */
    int b = net_conv(&n, x, 3, 8, 1, 1, 1, false);
    int sum = net_binary(&n, d, b, DD_ADD); /* unifies a's channels with b's */
    int free_one = net_conv(&n, sum, 8, 4, 1, 1, 1, false);
    int join = net_concat(&n, sum, free_one);
    int y = net_conv(&n, join, 12, 2, 1, 1, 1, false);
    net_must(dd_graph_output(n.g, "y", y));
    net_must(dd_graph_infer(n.g, n.s, &t, types));
    net_must(dd_channels_create(n.g, n.s, types, &ids));
    int *ga = value_groups(ids, a, 8), *gb = value_groups(ids, b, 8),
        *gf = value_groups(ids, free_one, 4), *gj = value_groups(ids, join, 12),
        *gy = value_groups(ids, y, 2), *gx = value_groups(ids, x, 3), gw[8];
    for (int k = 0; k < 8; k++) {
        CHECK(ga[k] == gb[k] && ga[k] != 0 && ga[k] == gj[k], "channel %d of the sum", k);
        CHECK(k == 0 || ga[k] != ga[k - 1], "channels are apart");
    }
    for (int k = 0; k < 4; k++)
        CHECK(gf[k] != 0 && gf[k] == gj[8 + k], "concat joins");
    CHECK(gy[0] == 0 && gy[1] == 0 && gx[0] == 0, "inputs and outputs are locked");
    CHECK(dd_channels_of_entry(ids, weight, 0, gw) == 8 && gw[3] == ga[3], "weight, axis 0");
    CHECK(dd_channels_of_entry(ids, weight, 1, gw) == 3 && gw[0] == 0, "weight, axis 1");
    int gamma = dd_store_find(n.s, "layer1.weight");
    CHECK(dd_channels_of_entry(ids, gamma, 0, gw) == 8 && gw[7] == ga[7], "gamma");
    int *all[] = {ga, gb, gf, gj, gy, gx};
    for (size_t k = 0; k < sizeof all / sizeof *all; k++)
        dd_free(all[k]);
    dd_channels_destroy(ids);
    net_free(&n);
}

int main(void) {
    dd_stream r;
    dd_stream_init(&r, 9, 0, 0, DD_FOR_TEST);
    for (size_t k = 0; k < sizeof picture / sizeof *picture; k++)
        picture[k] = dd_stream_range(&r, -1, 1);
    check_fold();
    check_transposed();
    check_repvgg();
    check_shared();
    check_two_norms();
    check_unfoldable();
    check_identity();
    check_random();
    check_channels();
    CHECK(dd_alloc_live() == 0, "%llu blocks leak", (unsigned long long)dd_alloc_live());
    return check_done("check_rewrite");
}
