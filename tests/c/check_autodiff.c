/* Autodiff: gradients of whole random nets against differences along a direction, and the shape of
 * the training graph: shared values and weights, outputs, frozen entries, the fusion of activation
 * and batch norm.
 *
 * Directions: d = Σ gradient · u over all parameters for a random u against the loss at ±h·u, with
 * Richardson's extrapolation over h and h / 2. Nets here are smooth (no relu, no max), so that a
 * difference means something; kinks are checked an operator at a time by check_ops. */
#include <math.h>

#include "check.h"
#include "graph/autodiff.h"
#include "graph/interpret.h"
#include "nets.h"

static const dd_type image = {.dtype = DD_F32, .rank = 4, .dims = {2, 8, 8, 3}};
static float picture[2 * 8 * 8 * 3];

typedef struct run {
    net *n;
    dd_graph *training;
    dd_interpreter *it;
    dd_array seeds[8];
    float *gradient;
    float *values; /* the store's at the start */
} run;

/* The training graph of a net, one forward, and random seeds for its outputs. */
static void start(run *r, net *n, bool inputs_too) {
    dd_array in = dd_array_dense(picture, &image);
    memset(r, 0, sizeof *r);
    r->n = n;
    dd_status status = dd_graph_differentiate(n->g, n->s, inputs_too, &r->training);
    CHECK(status == DD_OK, "%s", dd_message());
    net_must(status);
    net_must(dd_interpreter_create(r->training, n->s, &image, 5, &r->it));
    net_must(dd_alloc_array(n->s->size + 1, sizeof(float), &r->gradient));
    net_must(dd_alloc_array(n->s->size + 1, sizeof(float), &r->values));
    memcpy(r->values, n->s->values, n->s->size * sizeof(float));
    net_must(dd_interpreter_forward(r->it, &in, 1));
    for (size_t i = 0; i < r->training->n_outputs && i < 8; i++) {
        if (r->training->seeds[i] < 0)
            continue;
        dd_array out = dd_interpreter_value(r->it, r->training->outputs[i]);
        float *seed;
        net_must(dd_alloc_array((size_t)dd_type_count(&out.type), sizeof *seed, &seed));
        for (int64_t k = 0; k < dd_type_count(&out.type); k++)
            seed[k] = dd_stream_range(&n->random, -1, 1);
        r->seeds[i] = dd_array_dense(seed, &out.type);
    }
}

static void backward(run *r) {
    dd_status status = dd_interpreter_backward(r->it, r->seeds, r->gradient);
    CHECK(status == DD_OK, "%s", dd_message());
}

static void stop(run *r) {
    for (int i = 0; i < 8; i++)
        dd_free(r->seeds[i].data);
    dd_interpreter_destroy(r->it);
    dd_graph_destroy(r->training);
    dd_free(r->gradient);
    dd_free(r->values);
}

/* Σ seed · output with the parameters at values + h · u. Running statistics move; they are put
 * back, since frozen norms read them. */
static double loss(run *r, const float *u, double h) {
    dd_array in = dd_array_dense(picture, &image);
    double sum = 0;
    for (size_t k = 0; k < r->n->s->size; k++)
        r->n->s->values[k] = (float)((double)r->values[k] + h * (double)u[k]);
    net_must(dd_interpreter_forward(r->it, &in, 1));
    for (size_t i = 0; i < r->training->n_outputs; i++) {
        if (r->training->seeds[i] < 0)
            continue;
        dd_array out = dd_interpreter_value(r->it, r->training->outputs[i]);
        for (int64_t k = 0; k < dd_type_count(&out.type); k++)
            sum += (double)((float *)out.data)[k] * (double)((float *)r->seeds[i].data)[k];
    }
    memcpy(r->n->s->values, r->values, r->n->s->size * sizeof(float));
    return sum;
}

/* One random direction over the trainable entries that are not frozen. */
static void check_direction(run *r, const char *who) {
    dd_store *s = r->n->s;
    float *u;
    double d = 0, size = 0, h = 1.0 / 256;
    net_must(dd_alloc_array(s->size, sizeof *u, &u));
    for (size_t e = 0; e < s->n; e++)
        for (int64_t k = 0; k < s->entries[e].count; k++)
            if (s->entries[e].role == DD_TRAINABLE && !s->entries[e].frozen)
                u[s->entries[e].offset + k] = dd_stream_u32(&r->n->random) & 1 ? 1.0f : -1.0f;
    for (size_t k = 0; k < s->size; k++) {
        d += (double)r->gradient[k] * (double)u[k];
        size += (double)r->gradient[k] * (double)r->gradient[k];
    }
    double far = (loss(r, u, h) - loss(r, u, -h)) / (2 * h);
    double near = (loss(r, u, h / 2) - loss(r, u, -h / 2)) / h;
    double error = fabs((4 * near - far) / 3 - d) / sqrt(size + 1e-12);
    CHECK(error < 0.02, "%s: the slope is %g, the gradient says %g (norm %g)", who,
          (4 * near - far) / 3, d, sqrt(size));
    dd_free(u);
}

static int count_op(const dd_graph *g, const char *op, bool backward_part) {
    int count = 0;
    for (size_t i = 0; i < g->n_nodes; i++)
        count +=
            strcmp(g->nodes[i].op->name, op) == 0 && (i >= (size_t)g->n_forward) == backward_part;
    return count;
}

/* ---- whole nets ---------------------------------------------------------------------------- */

/* Layers over smooth functions with every way of joining. */
static void smooth_net(net *n, uint64_t seed) {
    static const dd_unary kinds[] = {DD_SILU, DD_SIGMOID, DD_TANH, DD_SOFTPLUS};
    net_init(n, seed);
    int x = net_input(n, "x", 3);
    int a = net_act(n, net_norm(n, net_conv(n, x, 3, 8, 3, 1, 1, false), 8), kinds[seed % 4]);
    int b = net_norm(n, net_conv(n, a, 8, 8, 3, 1, 8, true), 8);
    int c = net_binary(n, a, b, seed % 2 ? DD_ADD : DD_MUL);
    int d = net_repvgg(n, c, 8, 8, 1, (int)(seed % 6), 1, false);
    int e = net_act(n, net_conv(n, d, 8, 6, 1, 2, 2, true), DD_SILU);
    int f = net_up(n, e);
    int g = net_concat(n, f, d);
    int pooled = net_op(n, "avg_pool", NULL, &g, 1);
    int gate = net_act(n, net_conv(n, pooled, 14, 14, 1, 1, 1, true), DD_SIGMOID);
    int y = net_binary(n, g, gate, DD_MUL);
    net_must(dd_graph_output(n->g, "y", y));
    if (seed % 3 == 0)
        net_must(dd_graph_output(n->g, "e", e)); /* read on and an output as well */
    if (seed % 3 == 1)
        net_must(dd_graph_output(n->g, "b", b)); /* a batch norm's output */
}

static void check_nets(void) {
    for (uint64_t seed = 1; seed <= 12; seed++) {
        net n;
        run r;
        char who[32];
        snprintf(who, sizeof who, "net %d", (int)seed);
        smooth_net(&n, seed);
        if (seed % 4 == 0) /* some entries stay as they are */
            for (size_t e = 0; e < n.s->n; e += 3)
                n.s->entries[e].frozen = true;
        start(&r, &n, false);
        backward(&r);
        check_direction(&r, who);
        for (size_t e = 0; e < n.s->n; e++)
            for (int64_t k = 0; k < n.s->entries[e].count; k++)
                if (n.s->entries[e].frozen || n.s->entries[e].role != DD_TRAINABLE)
                    CHECK(r.gradient[n.s->entries[e].offset + k] == 0, "%s: '%s' moves", who,
                          n.s->entries[e].name);
        stop(&r);
        net_free(&n);
    }
}

/* ---- the fusion ---------------------------------------------------------------------------- */

static void check_fusion(void) {
    net n;
    run r;
    net_init(&n, 20);
    int x = net_input(&n, "x", 3);
    int y = net_norm(&n, net_conv(&n, x, 3, 8, 3, 1, 1, false), 8);
    int z = net_act(&n, y, DD_SILU);
    net_must(dd_graph_output(n.g, "z", z));
    start(&r, &n, false);
    CHECK(count_op(r.training, "unary_dx", true) == 0, "unary_dx is gone");
    CHECK(count_op(r.training, "bn_reduce", true) == 1 && count_op(r.training, "bn_dx", true) == 1,
          "batch norm's gradient");
    int bn_output = -1, readers = 0;
    for (int i = 0; i < r.training->n_forward; i++)
        if (strcmp(r.training->nodes[i].op->name, "batch_norm") == 0)
            bn_output = r.training->nodes[i].out[0];
    for (size_t i = (size_t)r.training->n_forward; i < r.training->n_nodes; i++) {
        const dd_node *node = &r.training->nodes[i];
        for (int k = 0; k < node->n_in; k++)
            readers += node->in[k] == bn_output;
        if (strncmp(node->op->name, "bn_", 3) == 0)
            CHECK(((dd_batch_norm_params *)node->params)->act == DD_SILU, "act of %s", node->name);
    }
    CHECK(readers == 0, "the backward reads the norm's output");
    backward(&r);
    check_direction(&r, "fused");
    stop(&r);
    net_free(&n);
    /* read twice, or an output: its gradient is a sum, so nothing is fused */
    for (int way = 0; way < 2; way++) {
        net_init(&n, 21);
        x = net_input(&n, "x", 3);
        y = net_norm(&n, net_conv(&n, x, 3, 8, 3, 1, 1, false), 8);
        z = net_act(&n, y, DD_SILU);
        if (way)
            z = net_binary(&n, z, y, DD_ADD);
        else
            net_must(dd_graph_output(n.g, "y", y));
        net_must(dd_graph_output(n.g, "z", z));
        start(&r, &n, false);
        CHECK(count_op(r.training, "unary_dx", true) == 1, "way %d: unary_dx stays", way);
        backward(&r);
        check_direction(&r, way ? "read twice" : "an output");
        stop(&r);
        net_free(&n);
    }
}

/* ---- shared values, shared weights, seeds -------------------------------------------------- */

static void check_shared(void) {
    net n;
    run r;
    net_init(&n, 22);
    int x = net_input(&n, "x", 3), w = net_weight(&n, 3, 3, 3, 1);
    int a = net_conv_with(&n, x, w, -1, 3, 1, 1);
    int b = net_conv_with(&n, net_act(&n, a, DD_TANH), w, -1, 3, 1, 1); /* the same weight */
    int c = net_binary(&n, b, b, DD_MUL);                               /* the same value */
    net_must(dd_graph_output(n.g, "c", c));
    net_must(dd_graph_output(n.g, "c2", c)); /* one value, two outputs: both seeds count */
    start(&r, &n, true);
    int rows = 0;
    for (size_t i = 0; i < r.training->n_gradients; i++)
        rows += r.training->gradients[i].entry == 0;
    CHECK(rows == 2, "a row a use of the weight, %d came", rows);
    CHECK(r.training->n_outputs == 3 && r.training->seeds[2] == -1 &&
              strcmp(r.training->output_names[2], "d:x") == 0,
          "the input's gradient is an output");
    backward(&r);
    dd_array dx = dd_interpreter_value(r.it, r.training->outputs[2]);
    double sum = 0;
    for (int64_t k = 0; dx.data && k < dd_type_count(&dx.type); k++)
        sum += fabs((double)((float *)dx.data)[k]);
    CHECK(dd_type_equal(&dx.type, &image) && sum > 0, "d:x");
    /* without a seed the gradient is zero, and gradients add up */
    float *once;
    net_must(dd_alloc_array(n.s->size, sizeof *once, &once));
    memcpy(once, r.gradient, n.s->size * sizeof *once);
    backward(&r);
    for (size_t k = 0; k < n.s->size; k++)
        CHECK(fabsf(r.gradient[k] - 2 * once[k]) <= 1e-5f * (1 + fabsf(once[k])), "adds up");
    dd_array none[3] = {{0}};
    memset(r.gradient, 0, n.s->size * sizeof(float));
    net_must(dd_interpreter_backward(r.it, none, r.gradient));
    for (size_t k = 0; k < n.s->size; k++)
        CHECK(r.gradient[k] == 0, "no seeds, no gradient");
    memcpy(r.gradient, once, n.s->size * sizeof *once);
    check_direction(&r, "shared");
    dd_free(once);
    stop(&r);
    net_free(&n);
}

/* A parameter that is an output itself, an output without parameters, a stopped gradient. */
static void check_corners(void) {
    net n;
    run r;
    net_init(&n, 23);
    int x = net_input(&n, "x", 3);
    int p = net_entry(&n, "p", DD_TRAINABLE, 1, (int64_t[]){3}, -1, 1);
    int stopped = net_op(&n, "stop_gradient", NULL, &p, 1);
    net_must(dd_graph_output(n.g, "p", p));
    net_must(dd_graph_output(n.g, "plain", net_act(&n, x, DD_TANH)));
    net_must(dd_graph_output(n.g, "stopped", net_binary(&n, x, stopped, DD_MUL)));
    start(&r, &n, false);
    CHECK(r.training->n_nodes == (size_t)r.training->n_forward, "no backward nodes");
    backward(&r);
    for (int k = 0; k < 3; k++)
        CHECK(r.gradient[k] == ((float *)r.seeds[0].data)[k], "the seed is the gradient");
    dd_graph *again;
    CHECK(dd_graph_differentiate(r.training, n.s, false, &again) == DD_EVALUE, "twice");
    stop(&r);
    net_free(&n);
    net_init(&n, 24); /* an operator without gradient on the way */
    x = net_input(&n, "x", 3);
    int y = net_conv(&n, x, 3, 3, 1, 1, 1, false);
    dd_conv_params c = {.groups = 1};
    y = net_op(&n, "conv_dx", &c, (int[]){y, n.g->nodes[0].in[1], x}, 3);
    net_must(dd_graph_output(n.g, "y", y));
    CHECK(dd_graph_differentiate(n.g, n.s, false, &again) == DD_EVALUE &&
              strstr(dd_message(), "conv_dx1"),
          "named: %s", dd_message());
    net_free(&n);
}

/* ---- frozen norms, running statistics ------------------------------------------------------ */

static void check_running(void) {
    net n;
    run r;
    net_init(&n, 25);
    int x = net_input(&n, "x", 3);
    int y = net_norm(&n, x, 3);
    net_must(dd_graph_output(n.g, "y", y));
    int mean = dd_store_find(n.s, "layer0.running_mean"),
        var = dd_store_find(n.s, "layer0.running_var");
    uint64_t version = n.s->version;
    start(&r, &n, false);
    CHECK(n.s->version > version, "the store's version");
    for (int c = 0; c < 3; c++) { /* torch's rule: unbiased variance, momentum 0.1 */
        double sum = 0, squares = 0, count = 2 * 8 * 8;
        for (int k = c; k < 2 * 8 * 8 * 3; k += 3)
            sum += (double)picture[k];
        for (int k = c; k < 2 * 8 * 8 * 3; k += 3)
            squares += ((double)picture[k] - sum / count) * ((double)picture[k] - sum / count);
        double old_mean = (double)(n.s->values + n.s->entries[mean].offset)[c];
        double old_var = (double)(n.s->values + n.s->entries[var].offset)[c];
        /* `values` was copied before the forward */
        double want_mean =
            0.9 * (double)r.values[n.s->entries[mean].offset + c] + 0.1 * sum / count;
        double want_var =
            0.9 * (double)r.values[n.s->entries[var].offset + c] + 0.1 * squares / (count - 1);
        CHECK(fabs(old_mean - want_mean) < 1e-6 && fabs(old_var - want_var) < 1e-6,
              "running statistics of channel %d", c);
    }
    stop(&r);
    for (size_t e = 0; e < n.s->n; e++)
        n.s->entries[e].frozen = true;
    start(&r, &n, true); /* frozen: the running ones are used and stay */
    CHECK(((dd_batch_norm_params *)r.training->nodes[0].params)->frozen == 1, "frozen is set");
    CHECK(memcmp(r.values, n.s->values, n.s->size * sizeof(float)) == 0, "nothing moves");
    dd_array out = dd_interpreter_value(r.it, r.training->outputs[0]);
    for (int k = 0; k < 2 * 8 * 8 * 3; k++) {
        int c = k % 3;
        const float *p[4];
        for (int e = 0; e < 4; e++)
            p[e] = n.s->values + n.s->entries[e].offset;
        double want = ((double)picture[k] - (double)p[2][c]) / sqrt((double)p[3][c] + 1e-5) *
                          (double)p[0][c] +
                      (double)p[1][c];
        CHECK(fabs((double)((float *)out.data)[k] - want) < 1e-5, "frozen forward");
    }
    backward(&r);
    dd_array dx = dd_interpreter_value(r.it, r.training->outputs[1]);
    for (int k = 0; dx.data && k < 2 * 8 * 8 * 3; k++) {
        int c = k % 3;
        double slope = (double)(n.s->values + n.s->entries[0].offset)[c] /
                       sqrt((double)(n.s->values + n.s->entries[var].offset)[c] + 1e-5);
        double want = slope * (double)((float *)r.seeds[0].data)[k];
        CHECK(fabs((double)((float *)dx.data)[k] - want) < 1e-5, "frozen backward");
    }
    stop(&r);
    net_free(&n);
}

int main(void) {
    dd_stream s;
    dd_stream_init(&s, 9, 0, 0, DD_FOR_TEST);
    for (size_t k = 0; k < sizeof picture / sizeof *picture; k++)
        picture[k] = dd_stream_range(&s, -1, 1);
    check_nets();
    check_fusion();
    check_shared();
    check_corners();
    check_running();
    CHECK(dd_alloc_live() == 0, "%llu blocks leak", (unsigned long long)dd_alloc_live());
    return check_done("check_autodiff");
}
