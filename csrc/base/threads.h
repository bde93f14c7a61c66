/* The thread pool: one for the process, without OpenMP (which hangs after fork).
 *
 * Work is a number of units; a unit's result must not depend on the thread that runs it. Threads
 * start at the first use and again after a fork. Between regions they spin for 100 microseconds at
 * the most and then sleep on a futex. Flush-to-zero is set in pool and caller during a region and
 * restored after it. */
#ifndef DD_BASE_THREADS_H
#define DD_BASE_THREADS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

#define DD_MAX_THREADS 256

/* `thread` is in [0, dd_threads()); use it for scratch only. Within one region no two units run
 * under the same number at once; a nested region runs under its caller's number. */
typedef void (*dd_work)(void *context, int64_t unit, int thread);

/* Threads that the next region uses: at first the CPUs that affinity and cgroup quota allow. */
int dd_threads(void);
dd_status dd_threads_set(int n);

/* Runs `work` for units 0..n-1, handed out in ascending order; the caller takes part. Regions of
 * several calling threads run one after another. A region within a region runs in its caller. */
void dd_parallel(int64_t n, dd_work work, void *context);

/* A region that stays open: `body(context, thread, n_threads)` runs once on every thread and the
 * threads meet at dd_barrier(); so a list of steps costs one start and a barrier a step. */
typedef void (*dd_team_body)(void *context, int thread, int n_threads);
void dd_team(dd_team_body body, void *context);
void dd_barrier(void); /* only inside dd_team, by every thread of the team */

/* The cancel flag: raised by a signal watcher, polled by long loops (one relaxed load). */
void dd_cancel_set(bool on);
bool dd_cancelled(void);

/* `look` is called by dd_cancelled() on the thread that set it, at most every 50 ms, so that the
 * binding can look for signals (and raise the flag) during a long call; NULL turns it off. */
void dd_cancel_look(void (*look)(void));

double dd_seconds(void); /* monotonic clock */

#endif
