/* Checks of pool.c and resize.c. Maxima, indices and copies are exact; means have the bits of the
 * scalar level and are within 1e-6 of double precision. */
#ifndef DD_TESTS_KERNELS_POOL_H
#define DD_TESTS_KERNELS_POOL_H

#include <math.h>
#include <string.h>

#include "check_kernels.h"

enum { POOL_ROWS = 6 };

/* The contract's words: `out` and `index` for one row. */
static void plain_pool(const dd_pool *p, float *out, int32_t *index) {
    for (int64_t x = 0; x < p->width; x++)
        for (int c = 0; c < p->c; c++) {
            double sum = 0.0;
            float best = 0.0f;
            int taps = 0;
            for (int r = 0; r < p->k_h; r++)
                for (int s = 0; s < p->k_w; s++) {
                    const int64_t at = x * p->stride - p->pad_left + s;
                    if (!p->rows[r] || at < 0 || at >= p->in_width)
                        continue;
                    const float v = p->rows[r][at * p->pitch + c];
                    sum += (double)v;
                    if (taps == 0 || v > best || isnan(v)) { /* torch's rule */
                        best = v;
                        index[x * p->c + c] = (int32_t)(p->row_index[r] * p->in_width + at);
                    }
                    taps++;
                }
            taps = p->count_pad ? p->k_h * p->k_w : taps;
            out[x * p->y_pitch + c] = p->mean ? (float)(sum / taps) : best;
        }
}

void check_pool_f32(kernel_check *k) {
    bool good = true;
    for (int i = 0; i < 300 && good; i++) {
        const float *rows[POOL_ROWS];
        int32_t row_index[POOL_ROWS];
        dd_pool p = {.rows = rows, .row_index = row_index, .mean = kernel_draw(k, 0, 1) != 0};
        p.k_h = (int)kernel_draw(k, 1, POOL_ROWS);
        p.k_w = (int)kernel_draw(k, 1, 6);
        p.stride = (int)kernel_draw(k, 1, 3);
        p.pad_left = (int)kernel_draw(k, 0, p.k_w / 2);
        p.c = (int)kernel_draw(k, 1, 40);
        p.pitch = p.c + kernel_draw(k, 0, 5);
        p.in_width = kernel_draw(k, p.k_w, 20);
        p.width = (p.in_width + 2 * p.pad_left - p.k_w) / p.stride + 1;
        p.count_pad = kernel_draw(k, 0, 1) != 0;
        p.y_pitch = p.c + kernel_draw(k, 0, 5);
        kernel_begin(k, "%s %dx%d stride=%d pad=%d c=%d in=%lld", p.mean ? "mean" : "max", p.k_h,
                     p.k_w, p.stride, p.pad_left, p.c, (long long)p.in_width);
        const int inside = (int)kernel_draw(k, 0, p.k_h - 1); /* this row is there in any case */
        for (int r = 0; r < p.k_h; r++) {
            rows[r] = NULL;
            row_index[r] = r + 3;
            if (r != inside && kernel_draw(k, 0, 4) == 0)
                continue;
            float *row = kernel_matrix(k, p.in_width, p.c, p.pitch);
            for (int64_t x = 0; x < p.in_width; x++)
                for (int c = 0; c < p.c; c++) { /* few values: ties are common */
                    const int64_t sort = kernel_draw(k, 0, 60);
                    float *v = &row[x * p.pitch + c];
                    *v = sort == 0 ? NAN : sort == 1 ? -INFINITY : rintf(*v * 4.0f);
                }
            rows[r] = row;
        }
        float *y = kernel_matrix(k, p.width, p.c, p.y_pitch), *ref = kernel_twin(k, y);
        float *want = kernel_twin(k, y);
        const size_t indices = (size_t)(p.width * p.c) * sizeof(int32_t);
        int32_t *index = kernel_bytes(k, indices), *index_want = kernel_bytes(k, indices);
        plain_pool(&p, want, index_want);
        p.y = y;
        p.index = !p.mean && kernel_draw(k, 0, 1) ? index : NULL;
        k->fast->pool_f32(&p);
        if (p.index && memcmp(index, index_want, indices) != 0)
            kernel_fail(k, "the indices differ");
        p.y = ref;
        k->ref->pool_f32(&p);
        kernel_same(k, "y against ref", y, ref);
        kernel_close(k, "y", y, want, p.width, p.c, p.y_pitch, p.mean ? 3e-6 : 0.0, 0.0);
        good = kernel_end(k);
    }
    for (int mean = 0; k->bench && mean < 2; mean++) {
        kernel_begin(k, "bench");
        const float *rows[3];
        for (int r = 0; r < 3; r++)
            rows[r] = kernel_floats(k, 40 * 64);
        dd_pool p = {.rows = rows,
                     .pitch = 64,
                     .in_width = 40,
                     .width = 20,
                     .k_h = 3,
                     .k_w = 3,
                     .stride = 2,
                     .pad_left = 1,
                     .c = 64,
                     .mean = mean != 0,
                     .y_pitch = 64};
        p.y = kernel_floats(k, 20 * 64);
        KERNEL_BENCH(k, mean ? "mean 3x3 s2 c=64" : "max 3x3 s2 c=64", 9.0 * 20.0 * 64.0, "Gtap/s",
                     k->fast->pool_f32(&p));
        kernel_end(k);
    }
}

void check_upsample_f32(kernel_check *k) {
    bool good = true;
    for (int i = 0; i < 200 && good; i++) {
        dd_upsample u = {.factor = (int)kernel_draw(k, 1, 4)};
        u.c = (int)kernel_draw(k, 1, 70);
        u.width = kernel_draw(k, 1, 20);
        u.pitch = u.c + kernel_draw(k, 0, 5);
        u.y_pitch = u.c + kernel_draw(k, 0, 5);
        u.base_pitch = u.c + kernel_draw(k, 0, 5);
        kernel_begin(k, "factor=%d c=%d width=%lld", u.factor, u.c, (long long)u.width);
        u.x = kernel_matrix(k, (u.width + u.factor - 1) / u.factor, u.c, u.pitch);
        u.base = kernel_draw(k, 0, 1) ? kernel_matrix(k, u.width, u.c, u.base_pitch) : NULL;
        float *y = kernel_matrix(k, u.width, u.c, u.y_pitch), *ref = kernel_twin(k, y);
        float *want = kernel_twin(k, y);
        for (int64_t x = 0; x < u.width; x++)
            for (int c = 0; c < u.c; c++) {
                const float v = u.x[x / u.factor * u.pitch + c];
                want[x * u.y_pitch + c] = u.base ? u.base[x * u.base_pitch + c] + v : v;
            }
        u.y = y;
        k->fast->upsample_f32(&u);
        u.y = ref;
        k->ref->upsample_f32(&u);
        kernel_same(k, "y against ref", y, ref);
        kernel_same(k, "y", y, want);
        good = kernel_end(k);
    }
    if (k->bench) {
        kernel_begin(k, "bench");
        dd_upsample u = {
            .pitch = 64, .width = 40, .factor = 2, .c = 64, .y_pitch = 64, .base_pitch = 64};
        u.x = kernel_floats(k, 20 * 64);
        u.y = kernel_floats(k, 40 * 64);
        u.base = kernel_floats(k, 40 * 64);
        KERNEL_BENCH(k, "factor 2, added, c=64", 2.5 * 4.0 * 40.0 * 64.0, "GB/s",
                     k->fast->upsample_f32(&u));
        kernel_end(k);
    }
}

#endif
