/* What a level can do at the most: loops without any purpose but to be timed. A share of the
 * machine's peak means something only against the same vector code that the kernels are built of,
 * so they stand here and not in the driver (graph/machine.c). */
#include "kernels/kernels.h"
#include "kernels/loops.h"
#include "simd/simd.h"

/* Chains that do not wait for each other: latency (4, NEON's widest cores 4 at four pipes) times
 * pipes is at most 16, and two registers are left for the factors. */
enum { CHAINS = V_REGISTERS >= 32 ? 24 : 12 };

int DD_NAME(peak_fma_f32)(const float *start, float a, float b, int64_t turns, float *end) {
    const vf factor = v_set1(a), term = v_set1(b);
    vf x[CHAINS];
    DD_UNROLL for (int k = 0; k < CHAINS; k++) x[k] = v_load(start + k * VL);
    DD_ROLLED for (int64_t i = 0; i < turns; i++) {
        DD_UNROLL for (int k = 0; k < CHAINS; k++) x[k] = v_fma(x[k], factor, term);
    }
    DD_UNROLL for (int k = 0; k < CHAINS; k++) v_store(end + k * VL, x[k]);
    return CHAINS * VL;
}

/* Plain stores, as the kernels have them: the line is read before it is written, and that is part
 * of what a step pays. */
void DD_NAME(peak_copy_f32)(const float *x, float *y, int64_t n) {
    int64_t i = 0;
    for (; i + 4 * VL <= n; i += 4 * VL) {
        vf v[4];
        DD_UNROLL for (int k = 0; k < 4; k++) v[k] = v_load(x + i + k * VL);
        DD_UNROLL for (int k = 0; k < 4; k++) v_store(y + i + k * VL, v[k]);
    }
    for (; i < n; i += VL) {
        int lanes = n - i < VL ? (int)(n - i) : VL;
        v_store_n(y + i, v_load_n(x + i, lanes), lanes);
    }
}
