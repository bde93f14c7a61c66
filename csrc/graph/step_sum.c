/* The sum step: y = act(a + b + …) by rows, each term stored, pending (batch norm, batch-norm
 * gradient) or upsampled to the nearest. It serves residual additions, RepVGG's merge, the PAN's
 * joins, an activation alone, and a pending value that somebody needs stored. */
#include "graph/steps.h"

#include <string.h>

#include "base/threads.h"
#include "ops/resize.h"

dd_map dd_map_of(const dd_type *type) {
    if (type->rank == 4)
        return (dd_map){type->dims[0], type->dims[1], type->dims[2], type->dims[3]};
    int64_t rows = dd_type_rows(type), n = type->rank >= 2 ? type->dims[0] : 1;
    return (dd_map){n, 1, n ? rows / n : 0, dd_type_last(type)};
}

enum { CHUNK_FLOATS = 8192 };

/* Pixels at a time: whole rows where a term is upsampled. */
static int64_t chunk_pixels(const dd_step *s, const dd_map *m) {
    for (int i = 0; i < s->n_terms; i++)
        if (s->terms[i].upsample > 1)
            return m->w;
    int64_t pixels = CHUNK_FLOATS / (m->c > 0 ? m->c : 1);
    pixels = pixels > 1 ? pixels : 1;
    return pixels < m->w ? pixels : m->w;
}

/* to (+)= term, `count` dense pixels from (n, y, x). */
static void add_term(const dd_run *run, const dd_term *t, bool first, int64_t n, int64_t y,
                     int64_t x, int64_t count, int64_t c, float *to, float *spare) {
    const dd_plan *plan = run->plan;
    const dd_pvalue *v = &plan->values[t->value];
    if (t->upsample > 1) {
        dd_upsample u = {.x = dd_row(run, t->value, n, y / t->upsample),
                         .pitch = v->pitch,
                         .width = count,
                         .factor = t->upsample,
                         .c = (int)c,
                         .y = to,
                         .y_pitch = c,
                         .base = first ? NULL : to,
                         .base_pitch = c};
        plan->kernels->upsample_f32(&u);
    } else if (first) {
        dd_load_pixels(run, t->value, n, y, x, count, to);
    } else if (v->pending == DD_STORED || v->pending == DD_PENDING_AFFINE) {
        bool affine = v->pending == DD_PENDING_AFFINE;
        int source = affine ? v->x : t->value;
        dd_affine a = {.x = dd_pixels(run, source, n, y, x),
                       .x_bf16 = dd_is_half(plan, source),
                       .pitch = plan->values[source].pitch,
                       .y = to,
                       .y_pitch = c,
                       .pixels = count,
                       .c = (int)c,
                       .residual = to,
                       .residual_pitch = c};
        if (affine) {
            a.scale = plan->vectors + plan->norms[v->norm].scale;
            a.shift = plan->vectors + plan->norms[v->norm].shift;
            a.act = v->act;
        }
        plan->kernels->affine_f32(&a);
    } else {
        dd_load_pixels(run, t->value, n, y, x, count, spare);
        plan->kernels->binary_f32(DD_ADD, to, spare, to, count * c);
    }
}

static void sum_run(const dd_run *run, const dd_step *s, int phase, int64_t unit, int thread) {
    (void)phase;
    const dd_plan *plan = run->plan;
    const dd_pvalue *out = &plan->values[s->y];
    dd_map m = dd_map_of(&out->type);
    int64_t chunk = chunk_pixels(s, &m), begin, end;
    float *dense = dd_scratch(run, thread), *spare = dense + chunk * m.c;
    dd_cut(m.n * m.h, s->units(plan, s, 0, dd_threads()), unit, &begin, &end);
    for (int64_t row = begin; row < end; row++)
        for (int64_t x = 0; x < m.w; x += chunk) {
            int64_t n = row / m.h, y = row % m.h, count = m.w - x < chunk ? m.w - x : chunk;
            bool in_place = out->pitch == m.c && !dd_is_half(plan, s->y);
            float *sum = in_place ? dd_pixels(run, s->y, n, y, x) : dense;
            for (int i = 0; i < s->n_terms; i++)
                add_term(run, &s->terms[i], i == 0, n, y, x, count, m.c, sum, spare);
            if (s->act.kind != DD_IDENTITY)
                plan->kernels->unary_f32(s->act, sum, sum, count * m.c);
            if (!in_place)
                dd_store_pixels(run, s->y, n, y, x, count, sum, m.c);
        }
}

/* The factor of a nearest resize by one whole number; 0 for any other. */
static int upsample_factor(const dd_plan *plan, const dd_node *n) {
    if (n->op != &dd_op_resize || n->backward)
        return 0;
    const dd_type *x = &plan->values[n->in[0]].type, *y = &plan->values[n->out[0]].type;
    int64_t factor = dd_resize_factor(n->params, x, y);
    return x->dtype == DD_F32 && factor <= 16 ? (int)factor : 0;
}

bool dd_is_addition(const dd_plan *plan, const dd_node *n) {
    if (n->op != &dd_op_binary || n->backward ||
        ((const dd_binary_params *)n->params)->kind != DD_ADD)
        return false;
    const dd_type *y = &plan->values[n->out[0]].type;
    return y->dtype == DD_F32 && dd_type_equal(&plan->values[n->in[0]].type, y) &&
           dd_type_equal(&plan->values[n->in[1]].type, y);
}

static bool is_activation(const dd_plan *plan, const dd_node *n) {
    return n->op == &dd_op_unary && !n->backward && plan->values[n->out[0]].type.dtype == DD_F32;
}

/* The producer of `value` when the step may take it over: nothing else reads the value. */
static int open_producer(const dd_plan *plan, int value) {
    const dd_value *v = &plan->graph->values[value];
    if (v->kind != DD_VALUE_NODE || plan->taken[v->producer] || dd_is_output(plan, value) ||
        dd_sole_reader(plan, value) < 0 || plan->values[value].pending)
        return -1;
    return v->producer;
}

/* Appends the terms of `value` in order; an addition opens up while there is room. */
static void gather(dd_plan *plan, dd_step *s, int value, int room) {
    int p = open_producer(plan, value);
    const dd_node *n = p >= 0 ? &plan->graph->nodes[p] : NULL;
    if (n && dd_is_addition(plan, n) && room >= 2) {
        dd_step_node(plan, s, p);
        gather(plan, s, n->in[0], room - 1);
        gather(plan, s, n->in[1], DD_STEP_TERMS - s->n_terms);
        return;
    }
    int factor = n ? upsample_factor(plan, n) : 0;
    if (factor) {
        dd_step_node(plan, s, p);
        value = n->in[0];
    }
    s->terms[s->n_terms++] = (dd_term){value, factor ? factor : 1};
    dd_step_reads(plan, s, value);
}

static dd_status start(dd_plan *plan, int node, int y, dd_step **s) {
    DD_TRY(dd_step_new(plan, "sum", s));
    (*s)->run = sum_run;
    (*s)->units = dd_row_units;
    (*s)->n_phases = 1;
    (*s)->halves = true;
    (*s)->y = y;
    dd_step_node(plan, *s, node);
    return DD_OK;
}

static void finish(dd_plan *plan, dd_step *s) {
    dd_map m = dd_map_of(&plan->values[s->y].type);
    dd_step_writes(s, s->y);
    s->scratch = 2 * (size_t)(chunk_pixels(s, &m) * m.c) * sizeof(float);
}

dd_status dd_sum_store(dd_plan *plan, int from, int value, int node) {
    dd_step *s;
    bool taken = plan->taken[node]; /* the norm's statistics are a step of their own */
    DD_TRY(start(plan, node, value, &s));
    plan->taken[node] = taken;
    s->late = true;
    s->terms[s->n_terms++] = (dd_term){from, 1};
    dd_step_reads(plan, s, from);
    finish(plan, s);
    return DD_OK;
}

dd_status dd_match_sum(dd_plan *plan, const dd_store *store, int node, bool *matched) {
    (void)store;
    const dd_node *n = &plan->graph->nodes[node];
    bool activation = is_activation(plan, n);
    if (!activation && !dd_is_addition(plan, n) && !upsample_factor(plan, n))
        return DD_OK;
    if (plan->values[n->out[0]].type.rank == 0)
        return DD_OK;
    dd_step *s;
    DD_TRY(start(plan, node, n->out[0], &s));
    if (activation) {
        const dd_unary_params *u = n->params;
        s->act = (dd_act){(dd_unary)u->kind, (float)u->a, (float)u->b};
        gather(plan, s, n->in[0], DD_STEP_TERMS);
    } else if (dd_is_addition(plan, n)) {
        gather(plan, s, n->in[0], DD_STEP_TERMS - 1);
        gather(plan, s, n->in[1], DD_STEP_TERMS - s->n_terms);
    } else {
        s->terms[s->n_terms++] = (dd_term){n->in[0], upsample_factor(plan, n)};
        dd_step_reads(plan, s, n->in[0]);
    }
    finish(plan, s);
    *matched = true;
    return DD_OK;
}

/* ---- dy · f'(x) ---------------------------------------------------------------------------- */

static void unary_dx_run(const dd_run *run, const dd_step *s, int phase, int64_t unit, int thread) {
    (void)phase;
    (void)thread;
    const dd_pvalue *x = &run->plan->values[s->x], *dy = &run->plan->values[s->dy],
                    *dx = &run->plan->values[s->y];
    dd_map m = dd_map_of(&dx->type);
    int64_t begin, end;
    bool dense = x->pitch == m.c && dy->pitch == m.c && dx->pitch == m.c;
    int64_t pieces = dense ? 1 : m.w, length = dense ? m.w * m.c : m.c;
    dd_cut(m.n * m.h, s->units(run->plan, s, 0, dd_threads()), unit, &begin, &end);
    for (int64_t row = begin; row < end; row++)
        for (int64_t i = 0; i < pieces; i++)
            run->plan->kernels->unary_backward_f32(
                s->act, dd_row(run, s->x, row / m.h, row % m.h) + i * x->pitch,
                dd_row(run, s->dy, row / m.h, row % m.h) + i * dy->pitch,
                dd_row(run, s->y, row / m.h, row % m.h) + i * dx->pitch, length);
}

dd_status dd_match_unary_dx(dd_plan *plan, const dd_store *store, int node, bool *matched) {
    (void)store;
    const dd_node *n = &plan->graph->nodes[node];
    if (n->op != &dd_op_unary_dx || n->backward || plan->values[n->out[0]].type.rank == 0)
        return DD_OK;
    const dd_unary_params *u = n->params;
    dd_step *s;
    DD_TRY(dd_step_new(plan, "unary_dx", &s));
    s->run = unary_dx_run;
    s->units = dd_row_units;
    s->n_phases = 1;
    s->dy = n->in[0];
    s->x = n->in[1];
    s->y = n->out[0];
    s->act = (dd_act){(dd_unary)u->kind, (float)u->a, (float)u->b};
    dd_step_node(plan, s, node);
    dd_step_reads(plan, s, s->dy);
    dd_step_reads(plan, s, s->x);
    dd_step_writes(s, s->y);
    *matched = true;
    return DD_OK;
}
