/* What a kernel's check needs: arrays between guard pages, comparisons, timing.
 *
 * kernels.def is walked: its kernel `x` needs `void check_x(kernel_check *k)` (see
 * kernels_gemm.h), which runs once a level. It draws shapes, runs k->ref->x and k->fast->x on
 * twins of the same arrays and compares; at the level ref both are the same table, so a check
 * also holds k->fast to a plain loop of its own. Between kernel_begin and kernel_end lies one
 * case; its arrays are gone after it. Random numbers depend on the seed, kernel and case alone. */
#ifndef DD_TESTS_CHECK_KERNELS_H
#define DD_TESTS_CHECK_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/random.h"
#include "kernels/kernels.h"

enum { KERNEL_BLOCKS = 24 };

/* Accessible pages between two guard pages; the data lies flush with one of their ends. */
typedef struct kernel_block {
    uint8_t *map;
    size_t map_bytes; /* with both guard pages */
    uint8_t *data;
    size_t bytes;
} kernel_block;

typedef struct kernel_check {
    const char *kernel, *level;
    const dd_kernels_table *ref, *fast;
    bool bench;
    dd_stream random;
    kernel_block blocks[KERNEL_BLOCKS];
    int used;
    char label[256]; /* of the case: part of every message about it */
    int64_t cases, failures;
} kernel_check;

/* Starts a case; the format names its shape for messages. */
__attribute__((format(printf, 2, 3))) void kernel_begin(kernel_check *k, const char *format, ...);
/* Looks for stores just outside of the case's arrays. False after any failure of this kernel:
 * the loop over the cases may stop. */
bool kernel_end(kernel_check *k);

/* A whole number in [low, high], both included. */
int64_t kernel_draw(kernel_check *k, int64_t low, int64_t high);

/* Arrays with a guard page right behind the last byte or right before the first one, by chance.
 * A matrix is `rows` rows of n floats at `pitch`; its end is the last real lane. Real lanes are
 * uniform in [-1, 1); the lanes between rows are NaN, so that a use of them shows in the result
 * and a store to them in kernel_same. */
void *kernel_bytes(kernel_check *k, size_t bytes);
float *kernel_floats(kernel_check *k, int64_t n);
float *kernel_matrix(kernel_check *k, int64_t rows, int64_t n, int64_t pitch);
/* n floats on a page's start, for timing: as aligned as the program's own buffers. */
float *kernel_aligned(kernel_check *k, int64_t n);
/* A copy of one of the case's arrays in pages of its own. */
void *kernel_twin(kernel_check *k, const void *array);

/* Compares two whole arrays (twins) bit by bit; any two NaNs of real lanes count as equal. */
bool kernel_same(kernel_check *k, const char *what, const void *got, const void *want);
/* |got - want| <= absolute + relative·|want| in every real lane, NaN and infinities where want
 * has them; `want` is a twin of got or an array of the same layout. */
bool kernel_close(kernel_check *k, const char *what, const float *got, const float *want,
                  int64_t rows, int64_t n, int64_t pitch, double absolute, double relative);
/* A failure with its own words. */
__attribute__((format(printf, 2, 3))) void kernel_fail(kernel_check *k, const char *format, ...);

/* Seconds, from a clock that only runs forward. */
double kernel_clock(void);
void kernel_report(const kernel_check *k, const char *label, double amount, const char *unit);

/* With --bench: times `call`, the best of a few runs of some milliseconds, and prints work / time
 * in units of 1e9 (work 2·m·k·n with "GFLOP/s", bytes with "GB/s"). */
#define KERNEL_BENCH(k, label, work, unit, call)                                                   \
    do {                                                                                           \
        if (!(k)->bench)                                                                           \
            break;                                                                                 \
        double bench_best = 1e30, bench_work = (double)(work);                                     \
        int64_t bench_turns = 1 + (int64_t)(2e7 / (bench_work + 1e3));                             \
        for (int bench_run = 0; bench_run < 12; bench_run++) {                                     \
            double bench_start = kernel_clock();                                                   \
            for (int64_t bench_turn = 0; bench_turn < bench_turns; bench_turn++) {                 \
                call;                                                                              \
            }                                                                                      \
            double bench_time = (kernel_clock() - bench_start) / (double)bench_turns;              \
            bench_best = bench_time < bench_best ? bench_time : bench_best;                        \
        }                                                                                          \
        kernel_report((k), (label), bench_work / bench_best * 1e-9, (unit));                       \
    } while (0)

#endif
