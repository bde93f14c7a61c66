/* Shuffles that dissolve: exactness on random chains of moves, what stays, failing memory. */
#include <math.h>

#include "check.h"
#include "graph/interpret.h"
#include "graph/rewrite.h"
#include "nets.h"

enum { H = 6, W = 5, CHANNELS = 4 };

static float picture[2 * H * W * CHANNELS];

static int count_op(const dd_graph *g, const dd_op *op) {
    int count = 0;
    for (size_t i = 0; i < g->n_nodes; i++)
        count += g->nodes[i].op == op;
    return count;
}

/* Largest difference of the outputs, relative to the largest of each. */
static double difference(const dd_graph *a, dd_store *sa, const dd_graph *b, dd_store *sb) {
    dd_interpreter *x, *y;
    dd_type t = {.dtype = DD_F32, .rank = 4, .dims = {2, H, W, CHANNELS}};
    dd_array in = dd_array_dense(picture, &t);
    double worst = 0;
    net_must(dd_interpreter_create(a, sa, &t, 5, &x));
    net_must(dd_interpreter_create(b, sb, &t, 5, &y));
    net_must(dd_interpreter_forward(x, &in, 0));
    net_must(dd_interpreter_forward(y, &in, 0));
    for (size_t i = 0; i < a->n_outputs; i++) {
        dd_array u = dd_interpreter_value(x, a->outputs[i]);
        dd_array v = dd_interpreter_value(y, b->outputs[i]);
        double error = 0, scale = 1e-30;
        for (int64_t k = 0; k < dd_type_count(&u.type); k++) {
            error = fmax(error, fabs((double)((float *)u.data)[k] - (double)((float *)v.data)[k]));
            scale = fmax(scale, fabs((double)((float *)u.data)[k]));
        }
        worst = fmax(worst, dd_type_equal(&u.type, &v.type) ? error / scale : INFINITY);
    }
    dd_interpreter_destroy(x);
    dd_interpreter_destroy(y);
    return worst;
}

static int shuffle(net *n, int x, int64_t groups) {
    return net_op(n, "channel_shuffle", &(dd_shuffle_params){groups}, &x, 1);
}

static int cut(net *n, int x, int64_t start, int64_t end, int64_t step) {
    dd_slice_params p = {
        .starts = {1, {start}}, .ends = {1, {end}}, .axes = {1, {-1}}, .steps = {1, {step}}};
    return net_op(n, "slice", &p, &x, 1);
}

static int concat(net *n, int a, int b) {
    return net_op(n, "concat", &(dd_axis_params){-1}, (int[]){a, b}, 2);
}

/* A unit of stride 1 of ShuffleNetV2, or with even and odd channels; 2·half channels. */
static int unit(net *n, int x, int half, bool odd) {
    int y = odd ? x : shuffle(n, x, 2);
    int left = odd ? cut(n, y, 0, 2 * half, 2) : cut(n, y, 0, half, 1);
    int right = odd ? cut(n, y, 1, 2 * half, 2) : cut(n, y, -half, 2 * half, 1);
    right = net_act(n, net_conv(n, right, half, half, 1, 1, 1, true), DD_RELU);
    right = net_conv(n, right, half, half, 3, 1, half, true);
    return concat(n, left, net_act(n, net_conv(n, right, half, half, 1, 1, 1, true), DD_RELU));
}

static void draw_net(net *n, uint64_t seed) {
    net_init(n, seed);
    int half = 2 * (1 + (int)dd_stream_below(&n->random, 4));
    int units = 1 + (int)dd_stream_below(&n->random, 4);
    bool odd = dd_stream_below(&n->random, 2) != 0;
    int x = net_conv(n, net_input(n, "x", CHANNELS), CHANNELS, 2 * half, 3, 1, 1, true);
    for (int i = 0; i < units; i++)
        x = unit(n, x, half, odd);
    if (dd_stream_below(&n->random, 3) == 0) /* its order is known outside: nothing dissolves */
        net_must(dd_graph_output(n->g, "map", x));
    int y = net_conv(n, x, 2 * half, 3, 3, 2, 1, true);
    int z = net_conv(n, net_conv(n, x, 2 * half, 2 * half, 3, 1, 2 * half, true), 2 * half, 2, 1, 1,
                     1, true);
    net_must(dd_graph_output(n->g, "y", y));
    net_must(dd_graph_output(n->g, "z", z));
}

static void check_random(void) {
    for (uint64_t seed = 0; seed < 60; seed++) {
        net n;
        dd_graph *g, *again;
        dd_store *s, *store;
        draw_net(&n, seed);
        net_must(dd_graph_deploy(n.g, n.s, &g, &s));
        double error = difference(n.g, n.s, g, s);
        CHECK(error <= 1e-6, "seed %d: differs by %.3g", (int)seed, error);
        if (n.g->n_outputs == 2)
            CHECK(count_op(g, &dd_op_channel_shuffle) == 0, "seed %d: a shuffle stays", (int)seed);
        net_must(dd_graph_deploy(g, s, &again, &store));
        CHECK(again->n_nodes == g->n_nodes &&
                  memcmp(store->values, s->values, s->size * sizeof(float)) == 0,
              "seed %d: not idempotent", (int)seed);
        dd_graph_destroy(g);
        dd_graph_destroy(again);
        dd_store_destroy(s);
        dd_store_destroy(store);
        net_free(&n);
    }
}

/* Every allocation fails once: an error, nothing leaked, the arguments untouched. */
static void check_memory(void) {
    net n;
    draw_net(&n, 1);
    const uint64_t live = dd_alloc_live();
    for (uint64_t at = 1;; at++) {
        dd_graph *g = NULL;
        dd_store *s = NULL;
        dd_alloc_fail_at(at);
        dd_status status = dd_graph_deploy(n.g, n.s, &g, &s);
        dd_alloc_fail_at(0);
        dd_graph_destroy(g);
        dd_store_destroy(s);
        CHECK(dd_alloc_live() == live, "allocation %d: a leak", (int)at);
        if (status == DD_OK)
            break;
        CHECK(status == DD_ENOMEM, "allocation %d: status %d", (int)at, (int)status);
    }
    net_free(&n);
}

int main(void) {
    for (size_t i = 0; i < sizeof picture / sizeof *picture; i++)
        picture[i] = sinf((float)i * 1.7f);
    check_random();
    check_memory();
    return check_done("check_unshuffle");
}
