/* Moving rows of floats: copies between pitches, and transposes. No arithmetic, so every level
 * gives the same bits. */
#include "kernels/kernels.h"
#include "kernels/loops.h"
#include "simd/simd.h"

void DD_NAME(copy_f32)(const float *x, int64_t x_pitch, float *y, int64_t y_pitch, int64_t rows,
                       int64_t n) {
    if (x_pitch == n && y_pitch == n) {
        n *= rows;
        rows = rows > 0;
    }
    for (int64_t row = 0; row < rows; row++, x += x_pitch, y += y_pitch) {
        int64_t i = 0;
        for (; i + VL <= n; i += VL)
            v_store(y + i, v_load(x + i));
        if (i < n)
            v_store_n(y + i, v_load_n(x + i, (int)(n - i)), (int)(n - i));
    }
}

/* A square of the matrix whose rows, on both sides, stay in the first-level cache. */
enum { BLOCK = 16 };

/* Few columns of x: whole rows of x at a time, a float each to rows of y that lie apart. */
static void transpose_narrow(const float *x, int64_t x_pitch, float *y, int64_t y_pitch,
                             int64_t rows, int64_t n) {
    for (int64_t j = 0; j < n; j++) {
        float *to = y + j * y_pitch;
        for (int64_t i = 0; i < rows; i++)
            to[i] = x[i * x_pitch + j];
    }
}

void DD_NAME(transpose_f32)(const float *x, int64_t x_pitch, float *y, int64_t y_pitch,
                            int64_t rows, int64_t n) {
    if (n <= 4) {
        transpose_narrow(x, x_pitch, y, y_pitch, rows, n);
        return;
    }
    for (int64_t i = 0; i < rows; i += BLOCK) {
        const int64_t height = rows - i < BLOCK ? rows - i : BLOCK;
        for (int64_t j = 0; j < n; j++) {
            const float *from = x + i * x_pitch + j;
            float *to = y + j * y_pitch + i;
            for (int64_t k = 0; k < height; k++)
                to[k] = from[k * x_pitch];
        }
    }
}
