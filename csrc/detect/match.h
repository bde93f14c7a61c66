/* Two sets of labels on one image: which box of the one is which box of the other.
 *
 * The matching is one to one and optimal, so it does not depend on the order of the boxes: a greedy
 * one takes the best pair first and may leave two objects without partner that had one. */
#ifndef DD_DETECT_MATCH_H
#define DD_DETECT_MATCH_H

#include <stdint.h>

#include "base/error.h"

/* The linear assignment problem: rows (n) to columns (m), each used at most once, min(n, m) pairs,
 * least sum of cost (n, m). column (n) gets each row's column, -1 where rows outnumber columns.
 * Shortest augmenting paths with potentials (Jonker and Volgenant 1987), O(min² · max); of equal
 * sums one is taken that depends on the input only. Sums of integers below 2^53 are exact. Costs
 * must be finite. DD_EVALUE, DD_ENOMEM or DD_ECANCELED; column is untouched then. */
dd_status dd_assignment_solve(int64_t n, int64_t m, const double *cost, int32_t *column);

typedef struct dd_labelled {
    int64_t count;
    const float *boxes;    /* (count, 4) x0 y0 x1 y1 */
    const int32_t *labels; /* (count) */
} dd_labelled;

/* Pairs boxes whose IoU is at least `near` (0 < near <= iou <= 1). Of all one-to-one pairings the
 * one is taken that has
 *   1. the most pairs that agree: of one class, with an IoU of at least `iou`;
 *   2. of these the greatest sum of IoU (in units of 2^-20, coarser in crowds beyond 2,000 boxes
 *      that hang together);
 *   3. of these the most pairs of one class.
 * So a class decides only where agreement or overlap does not, and a box may be paired with one of
 * another class. partner (a->count): position in b or -1; overlap (a->count): the pair's IoU or 0.
 * A box without area or with a NaN is paired with nothing. Boxes that overlap nothing of each other
 * are solved apart, so that an image of thousands of boxes costs little. DD_EVALUE on thresholds
 * and on more than DD_MATCH_BOXES boxes, DD_ENOMEM, DD_ECANCELED; results untouched then. */
#define DD_MATCH_BOXES 1000000
dd_status dd_labels_match(const dd_labelled *a, const dd_labelled *b, float iou, float near,
                          int32_t *partner, float *overlap);

#endif
