/* Checks of move.c, softmax.c and resize.c's weighted taps. Moves are exact; a softmax is held to
 * double precision within 2e-6 of the largest, a resize has the bits of the scalar level. */
#ifndef DD_TESTS_KERNELS_MOVE_H
#define DD_TESTS_KERNELS_MOVE_H

#include <math.h>

#include "check_kernels.h"

void check_copy_f32(kernel_check *k) {
    bool good = true;
    for (int i = 0; i < 200 && good; i++) {
        const int64_t rows = kernel_draw(k, 0, 20), n = kernel_draw(k, 1, 80);
        const int64_t x_pitch = n + kernel_draw(k, 0, 1) * kernel_draw(k, 0, 9);
        const int64_t y_pitch = n + kernel_draw(k, 0, 1) * kernel_draw(k, 0, 9);
        kernel_begin(k, "rows=%lld n=%lld", (long long)rows, (long long)n);
        const float *x = kernel_matrix(k, rows, n, x_pitch);
        float *y = kernel_matrix(k, rows, n, y_pitch), *want = kernel_twin(k, y);
        for (int64_t r = 0; r < rows; r++)
            for (int64_t j = 0; j < n; j++)
                want[r * y_pitch + j] = x[r * x_pitch + j];
        k->fast->copy_f32(x, x_pitch, y, y_pitch, rows, n);
        kernel_same(k, "y", y, want);
        good = kernel_end(k);
    }
}

void check_transpose_f32(kernel_check *k) {
    bool good = true;
    for (int i = 0; i < 200 && good; i++) {
        const int64_t rows = kernel_draw(k, 0, 40), n = kernel_draw(k, 1, 40);
        const int64_t x_pitch = n + kernel_draw(k, 0, 5), y_pitch = rows + kernel_draw(k, 0, 5);
        kernel_begin(k, "rows=%lld n=%lld", (long long)rows, (long long)n);
        const float *x = kernel_matrix(k, rows, n, x_pitch);
        float *y = kernel_matrix(k, n, rows, y_pitch), *want = kernel_twin(k, y);
        for (int64_t r = 0; r < rows; r++)
            for (int64_t j = 0; j < n; j++)
                want[j * y_pitch + r] = x[r * x_pitch + j];
        k->fast->transpose_f32(x, x_pitch, y, y_pitch, rows, n);
        kernel_same(k, "y", y, want);
        good = kernel_end(k);
    }
    if (k->bench) {
        kernel_begin(k, "bench");
        const float *x = kernel_floats(k, 484 * 88);
        float *y = kernel_floats(k, 484 * 85);
        KERNEL_BENCH(k, "484 x 85", 484.0 * 85.0, "Gfloat/s",
                     k->fast->transpose_f32(x, 88, y, 484, 484, 85));
        kernel_end(k);
    }
}

void check_softmax_f32(kernel_check *k) {
    bool good = true;
    for (int i = 0; i < 200 && good; i++) {
        const int64_t rows = kernel_draw(k, 0, 8);
        const int n = (int)kernel_draw(k, 1, 90);
        const int64_t x_pitch = n + kernel_draw(k, 0, 5), y_pitch = n + kernel_draw(k, 0, 5);
        const double size = kernel_draw(k, 0, 1) ? 4.0 : 400.0;
        kernel_begin(k, "rows=%lld n=%d size=%g", (long long)rows, n, size);
        float *x = kernel_matrix(k, rows, n, x_pitch);
        float *y = kernel_matrix(k, rows, n, y_pitch), *want = kernel_twin(k, y);
        for (int64_t r = 0; r < rows; r++) {
            const bool broken = kernel_draw(k, 0, 9) == 0;
            double most = -INFINITY, sum = 0;
            for (int j = 0; j < n; j++) {
                x[r * x_pitch + j] *= (float)size;
                if ((double)x[r * x_pitch + j] > most) /* fmax(): see ops/softmax.c */
                    most = (double)x[r * x_pitch + j];
            }
            if (broken)
                x[r * x_pitch + kernel_draw(k, 0, n - 1)] = NAN;
            for (int j = 0; j < n; j++)
                sum += exp((double)x[r * x_pitch + j] - most);
            for (int j = 0; j < n; j++)
                want[r * y_pitch + j] = (float)(exp((double)x[r * x_pitch + j] - most) / sum);
        }
        k->fast->softmax_f32(x, x_pitch, y, y_pitch, rows, n);
        kernel_close(k, "y", y, want, rows, n, y_pitch, 2e-6, 0.0);
        good = kernel_end(k);
    }
}

void check_resize_f32(kernel_check *k) {
    bool good = true;
    for (int i = 0; i < 200 && good; i++) {
        const float *rows[4];
        float row_weight[4], weight[20 * 4];
        int32_t at[20 * 4];
        dd_resize_row r = {.rows = rows, .row_weight = row_weight, .at = at, .weight = weight};
        r.n_rows = (int)kernel_draw(k, 1, 4);
        r.taps = (int)kernel_draw(k, 1, 4);
        r.c = (int)kernel_draw(k, 1, 70);
        r.width = kernel_draw(k, 1, 20);
        r.pitch = r.c + kernel_draw(k, 0, 5);
        r.y_pitch = r.c + kernel_draw(k, 0, 5);
        r.base_pitch = r.c + kernel_draw(k, 0, 5);
        const int64_t in = kernel_draw(k, 1, 20);
        kernel_begin(k, "rows=%d taps=%d c=%d width=%lld", r.n_rows, r.taps, r.c,
                     (long long)r.width);
        for (int j = 0; j < r.n_rows; j++) {
            rows[j] = kernel_matrix(k, in, r.c, r.pitch);
            row_weight[j] = (float)kernel_draw(k, -8, 8) / 8.0f;
        }
        for (int64_t j = 0; j < r.width * r.taps; j++) {
            at[j] = (int32_t)kernel_draw(k, 0, in - 1);
            weight[j] = (float)kernel_draw(k, -8, 8) / 8.0f;
        }
        r.base = kernel_draw(k, 0, 1) ? kernel_matrix(k, r.width, r.c, r.base_pitch) : NULL;
        float *y = kernel_matrix(k, r.width, r.c, r.y_pitch), *ref = kernel_twin(k, y);
        float *want = kernel_twin(k, y);
        for (int64_t x = 0; x < r.width; x++)
            for (int c = 0; c < r.c; c++) {
                double sum = r.base ? (double)r.base[x * r.base_pitch + c] : 0.0;
                for (int s = 0; s < r.taps; s++)
                    for (int j = 0; j < r.n_rows; j++)
                        sum += (double)(weight[x * r.taps + s] * row_weight[j]) *
                               (double)rows[j][at[x * r.taps + s] * r.pitch + c];
                want[x * r.y_pitch + c] = (float)sum;
            }
        r.y = y;
        k->fast->resize_f32(&r);
        r.y = ref;
        k->ref->resize_f32(&r);
        kernel_same(k, "y against ref", y, ref);
        kernel_close(k, "y", y, want, r.width, r.c, r.y_pitch, 3e-6, 1e-6);
        good = kernel_end(k);
    }
    if (k->bench) {
        kernel_begin(k, "bench");
        const float *rows[2], row_weight[2] = {0.25f, 0.75f};
        float weight[104];
        int32_t at[104];
        for (int i = 0; i < 2; i++)
            rows[i] = kernel_floats(k, 26 * 96);
        for (int i = 0; i < 104; i++) {
            at[i] = (i / 2 + i % 2) / 2;
            weight[i] = i % 2 ? 0.25f : 0.75f;
        }
        dd_resize_row r = {.rows = rows,
                           .row_weight = row_weight,
                           .n_rows = 2,
                           .taps = 2,
                           .c = 96,
                           .at = at,
                           .weight = weight,
                           .pitch = 96,
                           .width = 52,
                           .y_pitch = 96};
        r.y = kernel_floats(k, 52 * 96);
        KERNEL_BENCH(k, "2x2 taps, c=96", 52.0 * 96.0, "Gfloat/s", k->fast->resize_f32(&r));
        kernel_end(k);
    }
}

#endif
