/* Batch norm in training: statistics, and the sums of its gradient.
 *
 * Statistics are sums of x - running mean (so that little cancels), float32 within a map row,
 * double across rows, in DD_SLOTS slots added in order. With n pixels, d the gradient behind the
 * affine and x̂ = (x - mean)·rstd, the input's gradient is γ·rstd·(d - Σd/n - x̂·Σd·x̂/n): linear
 * in d and x, so a load stage forms it from three vectors (p, q, r). */
#include "graph/steps.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"

static size_t take_vector(dd_plan *plan, int c) {
    size_t at = plan->vectors_size;
    plan->vectors_size += ((size_t)c + 15) / 16 * 16;
    return at;
}

dd_status dd_norm_record(dd_plan *plan, int node, int *norm) {
    const dd_node *n = &plan->graph->nodes[node];
    const dd_value *values = plan->graph->values;
    const dd_batch_norm_params *p = n->params;
    const dd_type *type = &plan->values[n->in[0]].type;
    *norm = -1;
    for (int i = 1; i < 5; i++)
        if (n->in[i] < 0 || values[n->in[i]].kind != DD_VALUE_ENTRY)
            return DD_OK;
    if (type->rank != 4 || type->dtype != DD_F32 || dd_type_count(type) == 0)
        return DD_OK;
    DD_TRY(dd_reserve(&plan->norms, &plan->norms_capacity, plan->n_norms + 1, sizeof(dd_norm)));
    dd_norm *r = &plan->norms[plan->n_norms];
    *r = (dd_norm){.node = node,
                   .x = n->in[0],
                   .c = (int)type->dims[3],
                   .batch = n->training && !p->frozen,
                   .eps = p->eps,
                   .momentum = p->momentum,
                   .gamma = values[n->in[1]].entry,
                   .beta = values[n->in[2]].entry,
                   .running_mean = values[n->in[3]].entry,
                   .running_var = values[n->in[4]].entry,
                   .count = dd_type_rows(type)};
    size_t *vectors[] = {&r->mean, &r->rstd, &r->scale, &r->shift, &r->p, &r->q, &r->r};
    for (size_t i = 0; i < sizeof vectors / sizeof *vectors; i++)
        *vectors[i] = take_vector(plan, r->c);
    /* What forward saves (mean, rstd) lies in the vectors, for whoever reads it. A norm that has
     * no backward (frozen, before all that trains) saves nothing. */
    for (int i = 0; i < 2 && n->n_saved == 2; i++) {
        int value = n->out[n->n_out - 2 + i];
        if (value < 0)
            continue;
        dd_pvalue *saved = &plan->values[value];
        saved->place = DD_AT_VECTOR;
        saved->offset = (i ? r->rstd : r->mean) * sizeof(float);
    }
    r->sums = plan->sums_size;
    plan->sums_size += (size_t)DD_SLOTS * 2 * (size_t)r->c;
    *norm = (int)plan->n_norms++;
    return DD_OK;
}

/* The slots' sums of channel c, in order. */
static void add_slots(const dd_plan *plan, const dd_norm *r, int64_t slots, int c, double *first,
                      double *second) {
    *first = *second = 0;
    for (int64_t slot = 0; slot < slots; slot++) {
        const double *sums = plan->sums + r->sums + (size_t)slot * 2 * (size_t)r->c;
        *first += sums[c];
        *second += sums[r->c + c];
    }
}

static int64_t slots_of(const dd_plan *plan, const dd_norm *r) {
    dd_map m = dd_map_of(&plan->values[r->x].type);
    return m.n * m.h < DD_SLOTS ? m.n * m.h : DD_SLOTS;
}

void dd_norm_set(const dd_run *run, int norm, int c, double mean, double var) {
    dd_plan *plan = run->plan;
    dd_store *store = run->binding->store;
    const dd_norm *r = &plan->norms[norm];
    float *running_mean = (float *)dd_store_data(store, r->running_mean) + c;
    float *running_var = (float *)dd_store_data(store, r->running_var) + c;
    const float *gamma = dd_store_data(store, r->gamma), *beta = dd_store_data(store, r->beta);
    double n = (double)r->count;
    var = var > 0 ? var : var <= 0 ? 0 : var; /* rounding below zero; NaN stays */
    double rstd = 1 / sqrt(var + r->eps), scale = (double)gamma[c] * rstd;
    plan->vectors[r->mean + (size_t)c] = (float)mean;
    plan->vectors[r->rstd + (size_t)c] = (float)rstd;
    plan->vectors[r->scale + (size_t)c] = (float)scale;
    plan->vectors[r->shift + (size_t)c] = (float)((double)beta[c] - mean * scale);
    double unbiased = r->count > 1 ? var * n / (n - 1) : var;
    *running_mean = (float)((double)*running_mean + r->momentum * (mean - (double)*running_mean));
    *running_var += (float)(r->momentum * (unbiased - (double)*running_var));
}

void dd_norm_finish(const dd_run *run, int norm) {
    const dd_norm *r = &run->plan->norms[norm];
    const float *running_mean = dd_store_data(run->binding->store, r->running_mean);
    int64_t slots = slots_of(run->plan, r);
    double n = (double)r->count;
    for (int c = 0; c < r->c; c++) {
        double sum, squares;
        add_slots(run->plan, r, slots, c, &sum, &squares);
        double moved = sum / n; /* sums are about the running mean */
        dd_norm_set(run, norm, c, (double)running_mean[c] + moved, squares / n - moved * moved);
    }
}

void dd_norm_static(const dd_run *run, int norm) {
    dd_plan *plan = run->plan;
    const dd_store *store = run->binding->store;
    const dd_norm *r = &plan->norms[norm];
    const float *gamma = dd_store_data(store, r->gamma), *beta = dd_store_data(store, r->beta);
    const float *mean = dd_store_data(store, r->running_mean);
    const float *var = dd_store_data(store, r->running_var);
    for (int c = 0; c < r->c; c++) {
        double rstd = 1 / sqrt((double)var[c] + r->eps), scale = (double)gamma[c] * rstd;
        plan->vectors[r->mean + (size_t)c] = mean[c];
        plan->vectors[r->rstd + (size_t)c] = (float)rstd;
        plan->vectors[r->scale + (size_t)c] = (float)scale;
        plan->vectors[r->shift + (size_t)c] = (float)((double)beta[c] - (double)mean[c] * scale);
        /* Gradient of an affine that does not depend on the batch. */
        plan->vectors[r->p + (size_t)c] = (float)scale;
        plan->vectors[r->q + (size_t)c] = plan->vectors[r->r + (size_t)c] = 0;
    }
}

static void sum_rows(const dd_run *run, const dd_step *s, int64_t n, int64_t y, int64_t rows,
                     double *sums) {
    const dd_norm *r = &run->plan->norms[s->norm];
    const dd_pvalue *x = &run->plan->values[r->x];
    dd_channel_sums sum = {.x = dd_row(run, r->x, n, y),
                           .pitch = x->pitch,
                           .row_pitch = x->type.dims[2] * x->pitch,
                           .width = x->type.dims[2],
                           .rows = rows,
                           .c = r->c,
                           .shift = dd_store_data(run->binding->store, r->running_mean),
                           .sum = sums,
                           .squares = sums + r->c};
    run->plan->kernels->channel_sums_f32(&sum);
}

/* The slot's rows, in pieces within one image. */
static void sum_slot(const dd_run *run, const dd_step *s, int64_t unit) {
    const dd_norm *r = &run->plan->norms[s->norm];
    dd_map m = dd_map_of(&run->plan->values[r->x].type);
    double *sums = run->plan->sums + r->sums + (size_t)unit * 2 * (size_t)r->c;
    memset(sums, 0, 2 * (size_t)r->c * sizeof(double));
    int64_t row, end;
    dd_cut(m.n * m.h, slots_of(run->plan, r), unit, &row, &end);
    while (row < end) {
        int64_t n = row / m.h, y = row % m.h;
        int64_t count = end - row < m.h - y ? end - row : m.h - y;
        sum_rows(run, s, n, y, count, sums);
        row += count;
    }
}

static int64_t norm_units(const dd_plan *plan, const dd_step *s, int phase, int threads) {
    (void)threads;
    return phase == 1 ? 1 : slots_of(plan, &plan->norms[s->norm]);
}

static void norm_run(const dd_run *run, const dd_step *s, int phase, int64_t unit, int thread) {
    (void)thread;
    if (phase == 1)
        dd_norm_finish(run, s->norm);
    else
        sum_slot(run, s, unit);
}

dd_status dd_match_norm(dd_plan *plan, const dd_store *store, int node, bool *matched) {
    (void)store;
    const dd_node *n = &plan->graph->nodes[node];
    if (n->op != &dd_op_batch_norm || plan->norm_of[node] < 0)
        return DD_OK;
    const dd_norm *r = &plan->norms[plan->norm_of[node]];
    dd_step *s;
    if (r->batch) {
        DD_TRY(dd_step_new(plan, "norm", &s));
        s->norm = plan->norm_of[node];
        s->run = norm_run;
        s->units = norm_units;
        s->n_phases = 2;
        dd_step_node(plan, s, node);
        dd_step_reads(plan, s, r->x);
    }
    plan->taken[node] = true;
    *matched = true;
    return DD_OK;
}

/* ---- the gradient's sums ------------------------------------------------------------------- */

static double *slot_sums(const dd_run *run, const dd_norm_gradient *r, int64_t slot) {
    const dd_norm *norm = &run->plan->norms[r->norm];
    return run->plan->sums + norm->sums + (size_t)slot * 2 * (size_t)norm->c;
}

void dd_norm_gradient_begin(const dd_run *run, const dd_norm_gradient *r, int64_t slot) {
    memset(slot_sums(run, r, slot), 0, 2 * (size_t)run->plan->norms[r->norm].c * sizeof(double));
}

static void add_gradient(const dd_run *run, const dd_norm_gradient *r, dd_bn_reduce reduce,
                         int64_t slot) {
    const dd_norm *norm = &run->plan->norms[r->norm];
    const float *vectors = run->plan->vectors;
    reduce.pitch = run->plan->values[norm->x].pitch;
    reduce.row_pitch = run->plan->values[norm->x].type.dims[2] * reduce.pitch;
    reduce.x_bf16 = dd_is_half(run->plan, norm->x);
    reduce.c = norm->c;
    reduce.scale = vectors + norm->scale;
    reduce.shift = vectors + norm->shift;
    reduce.mean = vectors + norm->mean;
    reduce.act = r->act;
    reduce.sum_d = slot_sums(run, r, slot);
    reduce.sum_dx = reduce.sum_d + norm->c;
    run->plan->kernels->bn_reduce_f32(&reduce);
}

void dd_norm_gradient_rows(const dd_run *run, const dd_norm_gradient *r, int dz, int64_t n,
                           int64_t y, int64_t rows, int64_t slot) {
    const dd_pvalue *v = &run->plan->values[dz];
    dd_bn_reduce reduce = {.dz = dd_pixels(run, dz, n, y, 0),
                           .dz_bf16 = dd_is_half(run->plan, dz),
                           .dz_pitch = v->pitch,
                           .dz_row_pitch = v->type.dims[2] * v->pitch,
                           .x = dd_pixels(run, run->plan->norms[r->norm].x, n, y, 0),
                           .width = v->type.dims[2],
                           .rows = rows};
    add_gradient(run, r, reduce, slot);
}

void dd_norm_gradient_pixels(const dd_run *run, const dd_norm_gradient *r, const float *dz,
                             int64_t dz_pitch, int64_t n, int64_t y, int64_t x, int64_t pixels,
                             int64_t slot) {
    int in = run->plan->norms[r->norm].x;
    dd_bn_reduce reduce = {.dz = dz,
                           .dz_pitch = dz_pitch,
                           .x = dd_pixels(run, in, n, y, x),
                           .width = pixels,
                           .rows = 1};
    add_gradient(run, r, reduce, slot);
}

static void give(const dd_run *run, int value, int entry, int c, double gradient) {
    if (entry >= 0)
        run->binding->gradient[run->binding->store->entries[entry].offset + c] += (float)gradient;
    else if (value >= 0 && run->plan->data[value])
        ((float *)run->plan->data[value])[c] = (float)gradient;
}

void dd_norm_gradient_finish(const dd_run *run, const dd_norm_gradient *reduction, int64_t slots) {
    dd_plan *plan = run->plan;
    const dd_norm *r = &plan->norms[reduction->norm];
    float *vectors = plan->vectors;
    for (int c = 0; c < r->c; c++) {
        size_t i = (size_t)c;
        double d, dx;
        add_slots(plan, r, slots, c, &d, &dx);
        double rstd = (double)vectors[r->rstd + i], mean = (double)vectors[r->mean + i];
        double dgamma = dx * rstd, n = (double)r->count;
        give(run, reduction->dgamma, reduction->dgamma_entry, c, dgamma);
        give(run, reduction->dbeta, reduction->dbeta_entry, c, d);
        if (!r->batch)
            continue;
        double p = (double)vectors[r->scale + i], q = -p * rstd * dgamma / n;
        vectors[r->p + i] = (float)p;
        vectors[r->q + i] = (float)q;
        vectors[r->r + i] = (float)(-p * d / n - q * mean);
    }
}

dd_norm_gradient dd_norm_gradient_of(dd_plan *plan, dd_step *s, int node) {
    const dd_node *n = &plan->graph->nodes[node];
    const dd_batch_norm_params *p = n->params;
    dd_norm_gradient r = {.norm = plan->norm_of[node],
                          .act = {(dd_unary)p->act, (float)p->a, (float)p->b}};
    int *values[2] = {&r.dgamma, &r.dbeta}, *entries[2] = {&r.dgamma_entry, &r.dbeta_entry};
    for (int i = 0; i < 2; i++) {
        *entries[i] = -1;
        *values[i] = n->out[i];
        for (size_t j = 0; n->out[i] >= 0 && j < plan->graph->n_gradients; j++)
            if (plan->graph->gradients[j].value == n->out[i])
                *entries[i] = plan->graph->gradients[j].entry;
        if (n->out[i] >= 0 && *entries[i] < 0)
            dd_step_writes(s, n->out[i]);
    }
    return r;
}

static void reduce_run(const dd_run *run, const dd_step *s, int phase, int64_t unit, int thread) {
    (void)thread;
    const dd_norm *norm = &run->plan->norms[s->reduction.norm];
    int64_t slots = slots_of(run->plan, norm);
    if (phase == 1) {
        dd_norm_gradient_finish(run, &s->reduction, slots);
        return;
    }
    dd_map m = dd_map_of(&run->plan->values[norm->x].type);
    int64_t row, end;
    dd_norm_gradient_begin(run, &s->reduction, unit);
    dd_cut(m.n * m.h, slots, unit, &row, &end);
    while (row < end) {
        int64_t n = row / m.h, y = row % m.h;
        int64_t rows = end - row < m.h - y ? end - row : m.h - y;
        dd_norm_gradient_rows(run, &s->reduction, s->dy, n, y, rows, unit);
        row += rows;
    }
}

dd_status dd_match_norm_reduce(dd_plan *plan, const dd_store *store, int node, bool *matched) {
    (void)store;
    const dd_node *n = &plan->graph->nodes[node];
    if (n->op != &dd_op_bn_reduce || plan->norm_of[node] < 0)
        return DD_OK;
    dd_step *s;
    DD_TRY(dd_step_new(plan, "norm_reduce", &s));
    s->run = reduce_run;
    s->units = norm_units;
    s->n_phases = 2;
    s->dy = n->in[0];
    dd_step_node(plan, s, node);
    dd_step_reads(plan, s, s->dy);
    s->reduction = dd_norm_gradient_of(plan, s, node);
    dd_step_reads(plan, s, plan->norms[s->reduction.norm].x);
    s->norm = s->reduction.norm;
    s->halves = true;
    *matched = true;
    return DD_OK;
}
