/* The order of an epoch, drawn. */
#include "image/order.h"

#include <math.h>

#include "base/random.h"

enum { SIDE_STEP = 32 };
#define FIRST_BATCH 1u
#define FIRST_REPEAT 0x80000000u

void dd_order_draw(uint64_t seed, uint32_t epoch, uint32_t *order, uint32_t n) {
    dd_stream s;
    for (uint32_t i = 0; i < n; i++)
        order[i] = i;
    dd_stream_init(&s, seed, epoch, 0, DD_FOR_SHUFFLE);
    dd_stream_shuffle(&s, order, n);
}

dd_status dd_repeats_draw(uint64_t seed, uint32_t epoch, const double *factors, uint32_t *counts,
                          uint32_t n) {
    for (uint32_t i = 0; i < n; i++)
        if (!(factors[i] >= 0.0 && factors[i] <= 1e6))
            return dd_fail(DD_EVALUE, "sampler: factor %lu is %g, 0 to 10^6 is needed",
                           (unsigned long)i, factors[i]);
    for (uint32_t i = 0; i < n; i++) {
        dd_stream s;
        dd_stream_init(&s, seed, epoch, FIRST_REPEAT + i, DD_FOR_SHUFFLE);
        counts[i] = (uint32_t)floor(factors[i] + dd_stream_uniform(&s));
    }
    return DD_OK;
}

dd_status dd_side_draw(uint64_t seed, uint32_t epoch, uint32_t batch, int side, double spread,
                       int *drawn) {
    if (side < SIDE_STEP || side % SIDE_STEP != 0)
        return dd_fail(DD_EVALUE, "multi-scale: a side of %d came, a multiple of %d is needed",
                       side, SIDE_STEP);
    if (!(spread >= 0.0 && spread < 1.0))
        return dd_fail(DD_EVALUE, "multi-scale: a spread of %g came, 0 to below 1 is needed",
                       spread);
    if (batch >= FIRST_REPEAT - FIRST_BATCH)
        return dd_fail(DD_EVALUE, "multi-scale: batch %lu is out of range", (unsigned long)batch);
    /* the tolerance keeps 320 · 1.1 = 352.00000000000006 and its mirror inside */
    int low = (int)ceil(side * (1.0 - spread) / SIDE_STEP - 1e-9);
    int high = (int)floor(side * (1.0 + spread) / SIDE_STEP + 1e-9);
    low = low < 1 ? 1 : low;
    dd_stream s;
    dd_stream_init(&s, seed, epoch, FIRST_BATCH + batch, DD_FOR_SHUFFLE);
    *drawn = SIDE_STEP * (low + (int)dd_stream_below(&s, (uint32_t)(high - low + 1)));
    return DD_OK;
}
