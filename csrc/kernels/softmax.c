/* Softmax of rows: the largest first, so that no exponential overflows; then the exponentials and
 * their sum; then the quotient. A row with a NaN becomes NaN. The sum has a part a lane: levels
 * agree within roundings, not in bits. */
#include "kernels/functions.h"
#include "kernels/kernels.h"
#include "kernels/loops.h"
#include "simd/simd.h"

static float largest(const float *x, int n) {
    float best = x[0];
    int i = 0;
    if (n >= VL) {
        float lanes[VL];
        vf most = v_load(x);
        for (i = VL; i + VL <= n; i += VL)
            most = v_max(most, v_load(x + i));
        v_store(lanes, most);
        best = lanes[0];
        for (int k = 1; k < VL; k++)
            best = lanes[k] > best ? lanes[k] : best;
    }
    for (; i < n; i++)
        best = x[i] > best ? x[i] : best;
    return best;
}

/* y = e^(x - shift) where x is a lane of the row; returns their sum. */
static float exponentials(const float *x, float *y, float shift, int n) {
    const vf by = v_set1(shift);
    vf sum = v_zero();
    int i = 0;
    for (; i + VL <= n; i += VL) {
        vf e = v_exp(v_sub(v_load(x + i), by));
        sum = v_add(sum, e);
        v_store(y + i, e);
    }
    float total = v_sum(sum);
    if (i < n) {
        float lanes[VL];
        v_store(lanes, v_exp(v_sub(v_load_n(x + i, n - i), by)));
        for (int k = 0; k < n - i; k++) {
            y[i + k] = lanes[k];
            total += lanes[k];
        }
    }
    return total;
}

void DD_NAME(softmax_f32)(const float *x, int64_t x_pitch, float *y, int64_t y_pitch, int64_t rows,
                          int n) {
    for (int64_t row = 0; row < rows && n > 0; row++, x += x_pitch, y += y_pitch) {
        const float sum = exponentials(x, y, largest(x, n), n);
        const vf by = v_set1(1.0f / sum);
        int i = 0;
        for (; i + VL <= n; i += VL)
            v_store(y + i, v_mul(v_load(y + i), by));
        if (i < n)
            v_store_n(y + i, v_mul(v_load_n(y + i, n - i), by), n - i);
    }
}
