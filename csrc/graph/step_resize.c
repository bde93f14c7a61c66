/* The resize step: any rule, by rows and threads. A row is a weighted sum of one, two or four rows
 * of the map, a pixel of as many pixels; which ones, the operator's own function says. */
#include "base/threads.h"
#include "graph/steps.h"
#include "ops/resize.h"

/* The columns' taps, the same for every row; in scratch. */
typedef struct columns {
    int taps;
    int32_t *at;
    float *weight;
} columns;

/* Taps of weight 0 look where another one does: what lies there may be infinite. */
static int taps_of(const dd_resize_params *p, int axis, int64_t o, int64_t in, int64_t out,
                   int64_t *at, float *weight) {
    double exact[DD_RESIZE_TAPS];
    int n = dd_resize_taps(p, axis, o, in, out, at, exact), some = 0;
    for (int i = 0; i < n; i++)
        some = exact[i] != 0 ? i : some;
    for (int i = 0; i < n; i++) {
        at[i] = exact[i] != 0 ? at[i] : at[some];
        weight[i] = (float)exact[i];
    }
    return n;
}

static columns columns_of(const dd_run *run, const dd_step *s, void *scratch) {
    const dd_type *x = &run->plan->values[s->x].type, *y = &run->plan->values[s->y].type;
    const dd_resize_params *p = run->plan->graph->nodes[s->nodes[0]].params;
    columns c = {.at = scratch};
    c.weight = (float *)(void *)(c.at + y->dims[2] * DD_RESIZE_TAPS);
    for (int64_t o = 0; o < y->dims[2]; o++) {
        int64_t at[DD_RESIZE_TAPS] = {0};
        float weight[DD_RESIZE_TAPS] = {0};
        c.taps = taps_of(p, 1, o, x->dims[2], y->dims[2], at, weight);
        for (int i = 0; i < c.taps; i++) {
            c.at[o * c.taps + i] = (int32_t)at[i];
            c.weight[o * c.taps + i] = weight[i];
        }
    }
    return c;
}

static void resize_row(const dd_run *run, const dd_step *s, const columns *c, int64_t n,
                       int64_t y) {
    const dd_pvalue *x = &run->plan->values[s->x], *out = &run->plan->values[s->y];
    const dd_resize_params *p = run->plan->graph->nodes[s->nodes[0]].params;
    const float *rows[DD_RESIZE_TAPS];
    int64_t at[DD_RESIZE_TAPS] = {0};
    float weight[DD_RESIZE_TAPS] = {0};
    int n_rows = taps_of(p, 0, y, x->type.dims[1], out->type.dims[1], at, weight);
    for (int i = 0; i < n_rows; i++)
        rows[i] = dd_row(run, s->x, n, at[i]);
    run->plan->kernels->resize_f32(&(dd_resize_row){.rows = rows,
                                                    .row_weight = weight,
                                                    .n_rows = n_rows,
                                                    .taps = c->taps,
                                                    .c = (int)x->type.dims[3],
                                                    .at = c->at,
                                                    .weight = c->weight,
                                                    .pitch = x->pitch,
                                                    .width = out->type.dims[2],
                                                    .y = dd_row(run, s->y, n, y),
                                                    .y_pitch = out->pitch});
}

static void resize_run(const dd_run *run, const dd_step *s, int phase, int64_t unit, int thread) {
    const dd_type *y = &run->plan->values[s->y].type;
    columns c = columns_of(run, s, dd_scratch(run, thread));
    int64_t row, end;
    dd_cut(y->dims[0] * y->dims[1], s->units(run->plan, s, phase, dd_threads()), unit, &row, &end);
    for (; row < end; row++)
        resize_row(run, s, &c, row / y->dims[1], row % y->dims[1]);
}

/* The columns' taps are found anew in each unit: few units. */
static int64_t resize_units(const dd_plan *plan, const dd_step *s, int phase, int threads) {
    const dd_type *y = &plan->values[s->y].type;
    int64_t rows = y->dims[0] * y->dims[1], units = threads == 1 ? 1 : 2 * (int64_t)threads;
    (void)phase;
    return rows < units ? rows : units;
}

dd_status dd_match_resize(dd_plan *plan, const dd_store *store, int node, bool *matched) {
    (void)store;
    const dd_node *n = &plan->graph->nodes[node];
    if (n->op != &dd_op_resize || n->backward)
        return DD_OK;
    const dd_type *x = &plan->values[n->in[0]].type, *y = &plan->values[n->out[0]].type;
    if (x->rank != 4 || x->dtype != DD_F32 || dd_type_count(y) == 0)
        return DD_OK;
    dd_step *s;
    DD_TRY(dd_step_new(plan, "resize", &s));
    s->run = resize_run;
    s->units = resize_units;
    s->x = n->in[0];
    s->y = n->out[0];
    dd_step_node(plan, s, node);
    dd_step_reads(plan, s, s->x);
    dd_step_writes(s, s->y);
    s->scratch = (size_t)y->dims[2] * DD_RESIZE_TAPS * (sizeof(int32_t) + sizeof(float));
    *matched = true;
    return DD_OK;
}
