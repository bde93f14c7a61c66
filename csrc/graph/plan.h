/* Plan, then run.
 *
 * A plan turns (graph, input types) into steps, lays all buffers into one arena by lifetime and
 * cuts the work into units. It holds offsets only and binds to a store and an arena at run time. A
 * run allocates nothing after the first with the same store version and thread count, takes no
 * lock but its barriers, and touches no Python. Bits do not depend on the number of threads. */
#ifndef DD_GRAPH_PLAN_H
#define DD_GRAPH_PLAN_H

#include "graph/graph.h"

typedef struct dd_plan dd_plan;

/* Turns off single step patterns (bit i: row i of steps.def), for tests: everything stays right. */
typedef struct dd_plan_options {
    uint64_t without_patterns;
    int strip_rows; /* 0: chosen by cache; else the strip's height (tests) */
    bool bf16;      /* training: maps and their gradients between steps are stored as bfloat16 */
} dd_plan_options;

dd_status dd_plan_create(const dd_graph *g, const dd_store *s, const dd_type *inputs,
                         const dd_plan_options *options, dd_plan **plan);
void dd_plan_destroy(dd_plan *plan);

size_t dd_plan_arena_bytes(const dd_plan *plan); /* activations, by lifetime */
/* Types of the outputs, dense at the API. */
dd_type dd_plan_output_type(const dd_plan *plan, int output);

typedef struct dd_binding {
    dd_store *store;
    void *arena;            /* dd_plan_arena_bytes, aligned to DD_ALIGN */
    const dd_array *inputs; /* dense */
    dd_array *outputs;      /* dense, all given, written by the forward */
    const dd_array *seeds;  /* backward: a gradient an output; data NULL: zeros */
    float *gradient;        /* backward: added to; the store's size floats */
    uint64_t seed, step;    /* of random operators */
} dd_binding;

/* The forward steps; in a training plan the arena keeps what the backward needs. */
dd_status dd_plan_forward(dd_plan *plan, const dd_binding *b);
dd_status dd_plan_backward(dd_plan *plan, const dd_binding *b);

/* One line a step: its pattern, the nodes that it covers (indices of the graph's), what it makes,
 * milliseconds of the last run (when profiling is on; steps then run one after another), MACs, and
 * the bytes that it can't do without: every stored operand and weight read once, every result
 * written once. */
typedef struct dd_step_report {
    const char *pattern, *name; /* of the first node */
    const int *nodes;
    int n_nodes;
    dd_type type; /* of the last value that it stores; rank -1 where it stores none */
    double milliseconds;
    int64_t macs, bytes;
    bool backward;
} dd_step_report;
void dd_plan_profile(dd_plan *plan, bool on);
int dd_plan_steps(const dd_plan *plan);
dd_step_report dd_plan_step(const dd_plan *plan, int step);

/* The first value of the last run that holds a non-finite number, by name; NULL where none does. */
const char *dd_plan_first_nonfinite(dd_plan *plan, const dd_binding *b);

#endif
