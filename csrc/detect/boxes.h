/* Boxes: areas, IoU and GIoU.
 *
 * A box is four floats x0 y0 x1 y1 in pixels, half-open. A side that is not positive (a reversed
 * box, or NaN) counts as zero, so that a broken box has no area, overlaps nothing and suppresses
 * nothing. Arrays of boxes are (n, 4), dense, borrowed. */
#ifndef DD_DETECT_BOXES_H
#define DD_DETECT_BOXES_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

static inline float dd_min_f(float a, float b) {
    return a < b ? a : b;
}
static inline float dd_max_f(float a, float b) {
    return a > b ? a : b;
}

/* 0 for a box without area, NaN sides included. */
static inline float dd_box_area(const float *b) {
    float w = b[2] - b[0], h = b[3] - b[1];
    return w > 0 && h > 0 ? w * h : 0;
}

/* The area that two sound boxes share. */
static inline float dd_box_overlap(const float *a, const float *b) {
    float w = dd_min_f(a[2], b[2]) - dd_max_f(a[0], b[0]);
    float h = dd_min_f(a[3], b[3]) - dd_max_f(a[1], b[1]);
    return w > 0 && h > 0 ? w * h : 0;
}

/* Intersection over union; 0 where a box has no area (min and max would pass over a NaN edge), nor
 * sides and area of a normal number, since threads flush what is smaller to 0. The order of the
 * additions is torchvision's, so that both packages agree at a threshold to the last bit. */
static inline float dd_box_iou(const float *a, const float *b) {
    float area_a = dd_box_area(a), area_b = dd_box_area(b);
    if (!(area_a > 0) || !(area_b > 0))
        return 0;
    float inter = dd_box_overlap(a, b);
    return inter / (area_a + area_b - inter);
}

/* All four numbers are finite and both sides positive. */
bool dd_box_valid(const float *box);

/* out: (n, m), IoU of every a with every b. Rows are shared out to the threads. Cannot fail. */
void dd_box_iou_matrix(const float *a, int64_t n, const float *b, int64_t m, float *out);

/* For each of n boxes the highest IoU with any of m others and the lowest index that has it; 0 and
 * -1 where it meets none. iou (n) or index (n) may be NULL. Cannot fail. */
void dd_box_best(const float *boxes, int64_t n, const float *others, int64_t m, float *iou,
                 int32_t *index);

/* Generalized IoU (Rezatofighi et al. 2019) of one pair in double: I/U - (C - U)/C, C being the
 * area of the smallest box around both. grad, unless NULL, gets its exact derivative with respect
 * to the four numbers of `a`. Where two edges coincide the derivative is the mean of the one-sided
 * ones (torch's convention, and what central differences see). An empty union or hull contributes
 * its limit 0 instead of 0/0. */
double dd_box_giou(const double a[4], const double b[4], double grad[4]);

#endif
