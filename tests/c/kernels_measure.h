/* Checks of csrc/kernels/measure.c: loops that are only timed must still do what they say, or the
 * compiler has thrown their work away. */
#ifndef DD_TESTS_KERNELS_MEASURE_H
#define DD_TESTS_KERNELS_MEASURE_H

#include <math.h>
#include <string.h>

#include "check_kernels.h"

void check_peak_fma_f32(kernel_check *k) {
    static const int64_t turns[] = {0, 1, 2, 7, 100};
    for (size_t i = 0; i < sizeof turns / sizeof *turns; i++) {
        kernel_begin(k, "turns=%lld", (long long)turns[i]);
        float *start = kernel_floats(k, DD_PEAK_FLOATS), *end = kernel_twin(k, start);
        const int n = k->fast->peak_fma_f32(start, 0.75f, 0.5f, turns[i], end);
        if (n <= 0 || n > DD_PEAK_FLOATS)
            kernel_fail(k, "%d floats, 1 to %d are possible", n, DD_PEAK_FLOATS);
        for (int j = 0; j < n; j++) {
            float want = start[j];
            for (int64_t t = 0; t < turns[i]; t++)
                want = fmaf(want, 0.75f, 0.5f);
            if (memcmp(&want, &end[j], sizeof want) != 0)
                kernel_fail(k, "float %d is %.9g, not %.9g", j, (double)end[j], (double)want);
        }
        for (int j = n > 0 ? n : 0; j < DD_PEAK_FLOATS; j++)
            if (end[j] != start[j])
                kernel_fail(k, "float %d was touched", j);
        if (!kernel_end(k))
            return;
    }
    if (k->bench) {
        kernel_begin(k, "bench");
        float *start = kernel_floats(k, DD_PEAK_FLOATS), *end = kernel_floats(k, DD_PEAK_FLOATS);
        const int n = k->fast->peak_fma_f32(start, 0.5f, 1.0f, 1, end);
        KERNEL_BENCH(k, "1000 turns", 2000.0 * n, "GFLOP/s",
                     k->fast->peak_fma_f32(start, 0.5f, 1.0f, 1000, end));
        kernel_end(k);
    }
}

void check_peak_copy_f32(kernel_check *k) {
    for (int i = 0; i < 100; i++) {
        const int64_t n = i < 70 ? i : kernel_draw(k, 70, 3000);
        kernel_begin(k, "n=%lld", (long long)n);
        float *x = kernel_floats(k, n), *y = kernel_floats(k, n);
        k->fast->peak_copy_f32(x, y, n);
        kernel_same(k, "y", y, x);
        if (!kernel_end(k))
            return;
    }
    if (k->bench) {
        kernel_begin(k, "bench");
        float *x = kernel_aligned(k, 1 << 20), *y = kernel_aligned(k, 1 << 20);
        KERNEL_BENCH(k, "4 MiB to 4 MiB", 8.0 * (1 << 20), "GB/s",
                     k->fast->peak_copy_f32(x, y, 1 << 20));
        kernel_end(k);
    }
}

#endif
