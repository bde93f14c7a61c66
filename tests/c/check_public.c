/* The public header alone: it compiles without anything before it, its example is right, and what
 * it promises of ownership and failure holds. Includes nothing of the core but dd.h. */
#include "dd.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"

/* The example of dd.h, word for word; tests/test_structure.py compares the two. */
// y (1, h, w, 8) = relu(conv(x (1, h, w, 3), filters (8, 3, 3, 3))), all dense.
static dd_status filter_image(float *x, int64_t h, int64_t w, const float *filters, float *y) {
    dd_type any_size = {DD_F32, 4, {-1, -1, -1, 3}}, of_x = {DD_F32, 4, {1, h, w, 3}};
    dd_type of_filters = {DD_F32, 4, {8, 3, 3, 3}};
    dd_conv_params same = {.pads = {4, {1, 1, 1, 1}}, .groups = 1};
    dd_unary_params relu = {.kind = DD_RELU};
    dd_store *store = NULL;
    dd_graph *graph = NULL;
    dd_plan *plan = NULL;
    void *arena = NULL;
    int entry, in[2], conv, out;
    dd_status status;

    DD_TRY_DONE(dd_store_create(&store));
    DD_TRY_DONE(dd_store_add(store, "filters", DD_TRAINABLE, &of_filters, true, &entry));
    memcpy(dd_store_data(store, entry), filters, 8 * 3 * 3 * 3 * sizeof *filters);
    dd_store_touch(store); // values were written from outside

    DD_TRY_DONE(dd_graph_create(&graph));
    DD_TRY_DONE(dd_graph_input(graph, "x", &any_size, &in[0]));
    DD_TRY_DONE(dd_graph_entry(graph, store, entry, &in[1]));
    DD_TRY_DONE(dd_graph_node(graph, &dd_op_conv, "conv", &same, in, 2, 0, &conv, NULL));
    DD_TRY_DONE(dd_graph_node(graph, &dd_op_unary, "relu", &relu, &conv, 1, 0, &out, NULL));
    DD_TRY_DONE(dd_graph_output(graph, "y", out));

    DD_TRY_DONE(dd_plan_create(graph, store, &of_x, NULL, &plan));
    DD_TRY_DONE(dd_alloc(dd_plan_arena_bytes(plan), &arena));
    dd_type of_y = dd_plan_output_type(plan, 0);
    dd_array given = dd_array_dense(x, &of_x), wanted = dd_array_dense(y, &of_y);
    dd_binding binding = {.store = store, .arena = arena, .inputs = &given, .outputs = &wanted};
    DD_TRY_DONE(dd_plan_forward(plan, &binding)); // as often as you like
done:
    dd_free(arena);
    dd_plan_destroy(plan);
    dd_graph_destroy(graph);
    dd_store_destroy(store);
    return status;
}
/* The end of the example. */

enum { H = 7, W = 10, C = 3, O = 8 };

/* relu(conv) by its definition, in double. */
static double expected(const float *x, const float *filters, int row, int column, int o) {
    double sum = 0;
    for (int c = 0; c < C; c++)
        for (int r = 0; r < 3; r++)
            for (int s = 0; s < 3; s++) {
                int at_row = row + r - 1, at_column = column + s - 1;
                if (at_row >= 0 && at_row < H && at_column >= 0 && at_column < W)
                    sum += (double)x[(at_row * W + at_column) * C + c] *
                           (double)filters[((o * C + c) * 3 + r) * 3 + s];
            }
    return sum > 0 ? sum : 0;
}

static void fill(float *values, int n, uint32_t sample) {
    dd_stream random;
    dd_stream_init(&random, 1, 0, sample, DD_FOR_TEST);
    for (int i = 0; i < n; i++)
        values[i] = dd_stream_range(&random, -1, 1);
}

static void check_example(void) {
    float x[H * W * C], filters[O * C * 9], y[H * W * O];
    double worst = 0;
    fill(x, H * W * C, 0);
    fill(filters, O * C * 9, 1);
    uint64_t live = dd_alloc_live();
    dd_status status = filter_image(x, H, W, filters, y);
    CHECK(status == DD_OK, "%s", dd_message());
    CHECK(dd_alloc_live() == live, "%d blocks leak", (int)(dd_alloc_live() - live));
    for (int row = 0; row < H && status == DD_OK; row++)
        for (int column = 0; column < W; column++)
            for (int o = 0; o < O; o++) {
                double e = expected(x, filters, row, column, o);
                double off = fabs(e - (double)y[(row * W + column) * O + o]);
                worst = off > worst ? off : worst;
            }
    CHECK(worst < 1e-5, "off by %g", worst);
}

/* The promise of the header: no failed allocation crashes or leaks, each is DD_ENOMEM. */
static void check_each_allocation_failing(void) {
    float x[H * W * C], filters[O * C * 9], y[H * W * O];
    fill(x, H * W * C, 0);
    fill(filters, O * C * 9, 1);
    for (uint64_t n = 1; n < 10000; n++) {
        uint64_t live = dd_alloc_live();
        dd_alloc_fail_at(n);
        dd_status status = filter_image(x, H, W, filters, y);
        dd_alloc_fail_at(0);
        CHECK(dd_alloc_live() == live, "allocation %d: %d blocks leak", (int)n,
              (int)(dd_alloc_live() - live));
        CHECK(status == DD_OK || status == DD_ENOMEM, "allocation %d: status %d", (int)n, status);
        if (status == DD_OK)
            return; /* fewer than n allocations */
    }
    CHECK(false, "the loop never ended");
}

static void check_messages(void) {
    float x[2], filters[O * C * 9] = {0}, y[2];
    CHECK(filter_image(x, 0, 5, filters, y) != DD_OK, "a map of no rows was taken");
    CHECK(strstr(dd_message(), ": ") != NULL, "message without who: %s", dd_message());
}

int main(void) {
    check_example();
    check_each_allocation_failing();
    check_messages();
    return check_done("public");
}
