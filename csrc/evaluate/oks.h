/* Object keypoint similarity, as pycocotools computes it with NumPy.
 *
 * The exponential is its caller's, because NumPy's differs from the C library's in the last bit:
 * the binding hands in NumPy's own, so that the similarities are equal to pycocotools'. */
#ifndef DD_EVALUATE_OKS_H
#define DD_EVALUATE_OKS_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

typedef dd_status (*dd_exponential)(void *context, double *values, size_t n); /* in place */

typedef struct dd_oks {
    int64_t n_points;                 /* k */
    const double *variances;          /* (k) (2 · sigma)² */
    const double *object, *detection; /* (n, k, 3) x, y, visibility */
    dd_exponential exponential;       /* NULL: the C library's exp */
    void *context;
} dd_oks;

/* Writes the negative exponents of one pair, those of visible points (of all if none is visible)
 * and returns how many: the pair's similarity is the mean of their exponentials. box, area: the
 * object's. */
size_t dd_oks_exponents(const dd_oks *oks, int64_t object, int64_t detection, const double box[4],
                        double area, double *out);

/* NumPy's sum of n values: its order of additions decides the last bits. */
double dd_pairwise_sum(const double *x, size_t n);

#endif
