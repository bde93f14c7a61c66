/* The runner: binds a plan to store, arena and arrays, and walks its waves with a team of threads.
 *
 * A thread's share of a phase is a band of its units, the same band of the map in every step: what
 * it wrote last is in its own cache. Whoever ends early takes over from the others; a barrier ends
 * the phase. Nothing is allocated but at the first run with a higher thread count. */
#include "graph/steps.h"

#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "base/threads.h"

void dd_run_fail(const dd_run *run, dd_status status) {
    int none = DD_OK;
    if (atomic_compare_exchange_strong(&run->failure->status, &none, (int)status))
        (void)snprintf(run->failure->message, sizeof run->failure->message, "%s", dd_message());
}

/* ---- addresses ----------------------------------------------------------------------------- */

static void *base_of(const dd_plan *plan, const dd_binding *b, const dd_pvalue *v) {
    switch (v->place) {
    case DD_AT_ARENA:
        return (char *)b->arena + v->offset;
    case DD_AT_ENTRY:
        return dd_store_data(b->store, v->index);
    case DD_AT_INPUT:
        return b->inputs ? b->inputs[v->index].data : NULL;
    case DD_AT_OUTPUT:
        return b->outputs ? b->outputs[v->index].data : NULL;
    case DD_AT_SEED:
        return b->seeds && b->seeds[v->index].data ? b->seeds[v->index].data : plan->zero_seed;
    case DD_AT_VECTOR:
        return (char *)plan->vectors + v->offset;
    case DD_AT_NONE:
        break;
    }
    return NULL;
}

static void resolve(dd_plan *plan, const dd_binding *b) {
    for (size_t i = 0; i < plan->n_values; i++) {
        const dd_pvalue *v = &plan->values[i];
        char *base = v->pending == DD_STORED ? base_of(plan, b, &plan->values[v->root]) : NULL;
        plan->data[i] = base ? base + v->root_offset : NULL;
    }
}

/* Seeds that the caller leaves out are zeros. */
static dd_status make_zero_seed(dd_plan *plan, const dd_binding *b) {
    size_t floats = 0;
    for (size_t i = 0; i < plan->n_values; i++) {
        const dd_pvalue *v = &plan->values[i];
        if (v->place == DD_AT_SEED && (!b->seeds || !b->seeds[v->index].data) &&
            (size_t)dd_type_count(&v->type) > floats)
            floats = (size_t)dd_type_count(&v->type);
    }
    if (floats <= plan->zero_seed_floats)
        return DD_OK;
    dd_free(plan->zero_seed);
    plan->zero_seed = NULL;
    plan->zero_seed_floats = 0;
    DD_TRY(dd_alloc_array(floats, sizeof(float), &plan->zero_seed));
    plan->zero_seed_floats = floats;
    return DD_OK;
}

/* What grows with the number of threads: scratch and counters. */
static dd_status make_room(dd_plan *plan, int threads) {
    if (threads <= plan->room_threads)
        return DD_OK;
    size_t bytes, counters;
    char *scratch;
    _Atomic int64_t *taken;
    DD_TRY(dd_size_mul((size_t)threads, plan->scratch_bytes, "plan: scratch", &bytes));
    DD_TRY(dd_size_mul((size_t)threads, plan->n_counters, "plan: counters", &counters));
    DD_TRY(dd_alloc(bytes, &scratch));
    dd_status status = dd_alloc_array(counters, sizeof *taken, &taken);
    if (status != DD_OK) {
        dd_free(scratch);
        return status;
    }
    dd_free(plan->scratch);
    dd_free((void *)plan->counters);
    plan->scratch = scratch;
    plan->counters = taken;
    plan->room_threads = threads;
    return DD_OK;
}

/* ---- the team ------------------------------------------------------------------------------ */

typedef struct team {
    dd_run run;
    size_t first, end; /* steps */
    bool prepare;      /* pack weights and fixed norms first */
} team;

/* Takes the next unit of `units` that thread `owner` has as its share; -1 where none is left. */
static int64_t take(dd_plan *plan, size_t counter, int owner, int threads, int64_t units) {
    int64_t begin, end;
    dd_cut(units, threads, owner, &begin, &end);
    _Atomic int64_t *taken = &plan->counters[(size_t)owner * plan->n_counters + counter];
    if (begin + atomic_load_explicit(taken, memory_order_relaxed) >= end)
        return -1;
    int64_t unit = begin + atomic_fetch_add_explicit(taken, 1, memory_order_relaxed);
    return unit < end ? unit : -1;
}

/* The units of a phase that thread `owner` has as its share, until none is left. */
static void run_share(const team *t, dd_step *s, int phase, int owner, int thread) {
    int threads = dd_threads(); /* not the team's size: the steps cut by it */
    int64_t units = s->units(t->run.plan, s, phase, threads);
    for (int64_t u;
         (u = take(t->run.plan, s->counter + (size_t)phase, owner, threads, units)) >= 0;)
        if (!dd_cancelled())
            s->run(&t->run, s, phase, u, thread);
}

/* A phase of the steps first..end-1, which are of one wave: first every own share, then what the
 * others have left. */
static void run_phase(const team *t, size_t first, size_t end, int phase, int thread) {
    int threads = dd_threads();
    for (int k = 0; k < threads; k++)
        for (size_t i = first; i < end; i++) {
            dd_step *s = &t->run.plan->steps[i];
            if (phase < s->n_phases)
                run_share(t, s, phase, (thread + k) % threads, thread);
        }
}

/* Weights are packed where the store has changed since; running statistics become affines. */
static void prepare(const team *t, int thread) {
    dd_plan *plan = t->run.plan;
    int64_t convs = (int64_t)plan->n_convs, norms = (int64_t)plan->n_norms;
    int64_t steps = (int64_t)plan->n_steps;
    for (int64_t u; (u = take(plan, 0, 0, 1, 2 * convs + norms + steps)) >= 0;) {
        if (u >= 2 * convs + norms) {
            const dd_step *s = &plan->steps[u - 2 * convs - norms];
            if (s->prepare)
                s->prepare(&t->run, s, thread);
            continue;
        }
        if (u >= 2 * convs) {
            if (!plan->norms[u - 2 * convs].batch)
                dd_norm_static(&t->run, (int)(u - 2 * convs));
            continue;
        }
        const dd_conv *c = &plan->convs[u / 2];
        if (u % 2 ? c->uses_dx : c->uses_forward)
            dd_conv_pack(&t->run, (int)(u / 2), u % 2 == 1, thread);
    }
}

static void body(void *context, int thread, int n_threads) {
    team *t = context;
    dd_plan *plan = t->run.plan;
    if (t->prepare) {
        prepare(t, thread);
        dd_barrier();
    }
    double before = plan->profile && thread == 0 ? dd_seconds() : 0;
    for (size_t i = t->first, end; i < t->end; i = end) {
        dd_step *s = &plan->steps[i];
        int phases = s->n_phases;
        for (end = i + 1; end < t->end && plan->steps[end].wave == s->wave && !plan->profile; end++)
            phases = plan->steps[end].n_phases > phases ? plan->steps[end].n_phases : phases;
        for (int phase = 0; phase < phases; phase++) {
            run_phase(t, i, end, phase, thread);
            if (n_threads > 1)
                dd_barrier();
        }
        if (plan->profile && thread == 0) {
            double now = dd_seconds();
            s->seconds = now - before;
            before = now;
        }
    }
}

static dd_status run_steps(dd_plan *plan, const dd_binding *b, size_t first, size_t end,
                           bool forward) {
    dd_run_failure failure = {.status = DD_OK};
    team t = {.run = {plan, b, &failure}, .first = first, .end = end};
    /* Training changes the store in every step, and what backward packs is what forward used. */
    t.prepare = forward && (plan->graph->training || plan->packed_version != b->store->version ||
                            plan->packed_store != b->store->id);
    int threads = dd_threads();
    DD_TRY(make_room(plan, threads));
    DD_TRY(make_zero_seed(plan, b));
    resolve(plan, b);
    for (size_t i = 0; i < plan->n_counters * (size_t)threads; i++)
        atomic_store_explicit(&plan->counters[i], 0, memory_order_relaxed);
    dd_team(body, &t);
    if (dd_cancelled())
        return dd_fail(DD_ECANCELED, "plan: the run was interrupted");
    if (failure.status != DD_OK)
        return dd_fail((dd_status)failure.status, "%s", failure.message);
    if (t.prepare) {
        plan->packed_version = b->store->version;
        plan->packed_store = b->store->id;
    }
    return DD_OK;
}

/* Outputs of the forward, or of the backward, that were not produced in the caller's arrays. */
static void copy_outputs(dd_plan *plan, const dd_binding *b, bool backward) {
    for (size_t i = 0; i < plan->graph->n_outputs; i++) {
        const dd_pvalue *v = &plan->values[plan->graph->outputs[i]];
        const char *from = plan->data[plan->graph->outputs[i]];
        if ((v->place == DD_AT_OUTPUT && v->index == (int)i) || dd_type_count(&v->type) == 0 ||
            dd_output_of_backward(plan, i) != backward)
            continue;
        size_t size = dd_dtype_bytes(v->type.dtype), c = (size_t)dd_type_last(&v->type) * size;
        int64_t n = v->type.rank >= 2 ? v->type.dims[0] : 1, rows = dd_type_rows(&v->type) / n;
        for (int64_t image = 0; image < n; image++)
            for (int64_t row = 0; row < rows; row++)
                memcpy((char *)b->outputs[i].data + (size_t)(image * rows + row) * c,
                       from + (size_t)(image * v->image + row * v->pitch) * size, c);
    }
}

static dd_status check_binding(const dd_plan *plan, const dd_binding *b) {
    for (size_t i = 0; i < plan->graph->n_inputs; i++) {
        const dd_type *needed = &plan->values[plan->graph->inputs[i]].type;
        char came[96], wanted[96];
        if (!b->inputs[i].data || !dd_type_equal(&b->inputs[i].type, needed))
            return dd_fail(DD_EVALUE, "plan: input %zu is %s, it was planned for %s", i,
                           dd_type_text(&b->inputs[i].type, came, sizeof came),
                           dd_type_text(needed, wanted, sizeof wanted));
    }
    for (size_t i = 0; i < plan->graph->n_outputs; i++)
        if (!b->outputs[i].data)
            return dd_fail(DD_EVALUE, "plan: output %zu has no array", i);
    return DD_OK;
}

dd_status dd_plan_forward(dd_plan *plan, const dd_binding *b) {
    DD_TRY(check_binding(plan, b));
    DD_TRY(run_steps(plan, b, 0, (size_t)plan->n_forward_steps, true));
    copy_outputs(plan, b, false);
    if (plan->graph->training)
        dd_store_touch(b->store); /* running statistics moved */
    return DD_OK;
}

dd_status dd_plan_backward(dd_plan *plan, const dd_binding *b) {
    if (!plan->graph->training)
        return dd_fail(DD_ESTATE, "plan: backward of a graph that was not differentiated");
    DD_TRY(run_steps(plan, b, (size_t)plan->n_forward_steps, plan->n_steps, false));
    copy_outputs(plan, b, true);
    return DD_OK;
}

static bool is_finite(const dd_pvalue *v, const void *data, int64_t at) {
    if (v->type.dtype == DD_BF16)
        return (((const uint16_t *)data)[at] & 0x7f80) != 0x7f80;
    return isfinite(((const float *)data)[at]);
}

const char *dd_plan_first_nonfinite(dd_plan *plan, const dd_binding *b) {
    resolve(plan, b);
    for (size_t i = 0; i < plan->n_steps; i++) {
        const dd_step *s = &plan->steps[i];
        for (int k = 0; k < s->n_writes; k++) {
            const dd_pvalue *v = &plan->values[s->writes[k]];
            const float *data = plan->data[s->writes[k]];
            if (!data || (v->type.dtype != DD_F32 && v->type.dtype != DD_BF16))
                continue;
            int64_t n = v->type.rank >= 2 ? v->type.dims[0] : 1, c = dd_type_last(&v->type);
            int64_t rows = n ? dd_type_rows(&v->type) / n : 0;
            for (int64_t row = 0; row < n * rows; row++)
                for (int64_t j = 0; j < c; j++)
                    if (!is_finite(v, data, row / rows * v->image + row % rows * v->pitch + j))
                        return plan->graph->nodes[s->nodes[0]].name;
        }
    }
    return NULL;
}
