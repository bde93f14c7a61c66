/* What this machine can do, measured: the yardstick of profiles and benchmarks. */
#ifndef DD_GRAPH_MACHINE_H
#define DD_GRAPH_MACHINE_H

#include "base/error.h"

typedef struct dd_machine {
    const char *isa;         /* the level that the kernels run at */
    int threads;             /* of the measurement: dd_threads() */
    double flops;            /* multiply-add peak of all threads at that level, FLOP/s */
    double bytes_per_second; /* copied beyond the cores' own caches: bytes read plus written */
    double clock_seconds;    /* the shortest time that the clock can tell from nothing */
} dd_machine;

/* Takes some tenths of a second and 64 MiB a thread; the best of several short runs, since other
 * programs can only make them longer. Call it once a process and thread count and keep the result.
 * DD_ENOMEM where the buffers don't fit. */
dd_status dd_machine_measure(dd_machine *machine);

#endif
