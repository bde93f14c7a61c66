/* Measures the machine with the kernels' own vector code, on all threads at once: two cores that
 * share a clock or a memory channel have less than twice what one has. */
#include "graph/machine.h"

#include "base/cpu.h"
#include "base/memory.h"
#include "base/threads.h"
#include "kernels/kernels.h"

/* A half of 32 MiB: more than the private caches of any CPU, and little enough for small ones. Both
 * loops take turns, so that a neighbour's burst does not spoil all runs of one of them. */
enum { RUNS = 32, HALF_FLOATS = 8 << 20 };

static const double RUN_SECONDS = 1e-3;

typedef struct measure {
    float *memory; /* a thread: two halves */
    int64_t turns;
    double start;
    double peak, copy; /* the best so far: FLOP/s, bytes/s */
} measure;

/* Multiply-adds on values that neither grow nor vanish: x → x/2 + 1. Returns their number. */
static double multiply_add(int64_t turns) {
    float start[DD_PEAK_FLOATS], end[DD_PEAK_FLOATS];
    for (int i = 0; i < DD_PEAK_FLOATS; i++)
        start[i] = 1.0f + (float)i / DD_PEAK_FLOATS;
    return (double)dd_kernels()->peak_fma_f32(start, 0.5f, 1.0f, turns, end) * (double)turns;
}

/* Turns for about RUN_SECONDS; also brings the clock up to speed. */
static int64_t turns_of_run(void) {
    for (int64_t turns = 1024;; turns *= 2) {
        double start = dd_seconds();
        (void)multiply_add(turns);
        if (dd_seconds() - start >= RUN_SECONDS)
            return turns;
    }
}

/* All threads start together; thread 0 holds the watch. */
static void begin(measure *m, int thread) {
    dd_barrier();
    if (thread == 0)
        m->start = dd_seconds();
    dd_barrier();
}

static void finish(measure *m, int thread, double amount, double *best) {
    dd_barrier();
    if (thread > 0)
        return;
    double rate = amount / (dd_seconds() - m->start);
    *best = rate > *best ? rate : *best;
}

static void body(void *context, int thread, int threads) {
    measure *m = context;
    float *from = m->memory + (size_t)thread * 2 * HALF_FLOATS, *to = from + HALF_FLOATS;
    if (thread == 0)
        m->turns = turns_of_run();
    for (int64_t i = 0; i < HALF_FLOATS; i++) /* the thread that uses a page touches it first */
        from[i] = 1.0f;
    dd_kernels()->peak_copy_f32(from, to, HALF_FLOATS);
    for (int run = 0; run < RUNS; run++) {
        begin(m, thread);
        double done = multiply_add(m->turns);
        finish(m, thread, 2 * done * threads, &m->peak);
        begin(m, thread);
        dd_kernels()->peak_copy_f32(from, to, HALF_FLOATS);
        finish(m, thread, 2.0 * sizeof(float) * HALF_FLOATS * threads, &m->copy);
    }
}

static double clock_step(void) {
    double least = 1;
    for (int i = 0; i < 100; i++) {
        double before = dd_seconds(), now = dd_seconds();
        while (now == before)
            now = dd_seconds();
        least = now - before < least ? now - before : least;
    }
    return least;
}

dd_status dd_machine_measure(dd_machine *machine) {
    measure m = {.peak = 0};
    int threads = dd_threads();
    size_t floats;
    DD_TRY(dd_size_mul((size_t)threads, 2 * (size_t)HALF_FLOATS, "machine: buffers", &floats));
    DD_TRY(dd_alloc_array(floats, sizeof(float), &m.memory));
    dd_team(body, &m);
    dd_free(m.memory);
    *machine = (dd_machine){.isa = dd_isa_name(dd_isa_best()),
                            .threads = threads,
                            .flops = m.peak,
                            .bytes_per_second = m.copy,
                            .clock_seconds = clock_step()};
    return DD_OK;
}
