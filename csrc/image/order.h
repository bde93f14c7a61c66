/* The order of an epoch: permutations, rounding of repeat factors and sizes of batches, each a pure
 * function of (seed, epoch, number). All draws are of the purpose DD_FOR_SHUFFLE; its sample
 * numbers are 0 for the permutation, 1 + batch for sizes, 2^31 + image for repeats. */
#ifndef DD_IMAGE_ORDER_H
#define DD_IMAGE_ORDER_H

#include <stdint.h>

#include "base/error.h"

/* order gets the permutation of 0..n-1 that belongs to (seed, epoch). */
void dd_order_draw(uint64_t seed, uint32_t epoch, uint32_t *order, uint32_t n);

/* Rounds factors[i] >= 0 up or down to counts[i], so that the mean over epochs is the factor.
 * Fails with DD_EVALUE on a factor that is negative, not finite or above 10^6. */
dd_status dd_repeats_draw(uint64_t seed, uint32_t epoch, const double *factors, uint32_t *counts,
                          uint32_t n);

/* The side of a batch in multi-scale training: a multiple of 32, uniform among those from
 * side · (1 − spread) to side · (1 + spread); `side` itself for a spread of 0.
 * Fails with DD_EVALUE unless side is a positive multiple of 32 and 0 <= spread < 1. */
dd_status dd_side_draw(uint64_t seed, uint32_t epoch, uint32_t batch, int side, double spread,
                       int *drawn);

#endif
