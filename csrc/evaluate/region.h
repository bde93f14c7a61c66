/* Masks as the evaluator compares them: the ends of the runs of a mask that is read column by
 * column. What maskApi computes from run lengths comes out the same from ends, as all of it is
 * counting; but ends can be searched, so two masks are compared only where their boxes meet. */
#ifndef DD_EVALUATE_REGION_H
#define DD_EVALUATE_REGION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "evaluate/mask.h"

typedef struct dd_region {
    uint32_t h, w;        /* of the image */
    uint32_t n;           /* ends; run k covers [ends[k - 1], ends[k]) and is set where k is odd */
    const uint32_t *ends; /* borrowed */
    uint32_t area;        /* pixels that are set */
    bool odd;             /* a run but the first is empty, which no encoder writes */
    double box[4];        /* x, y, w, h as maskApi's rleToBbox gives them */
} dd_region;

/* The region of run lengths, which are turned into ends in place and stay borrowed. DD_EVALUE where
 * they sum to more than h · w. */
dd_status dd_region_make(const dd_rle *rle, dd_region *out);

/* Pixels that both have; the sizes must be the same. */
uint64_t dd_region_common(const dd_region *a, const dd_region *b);

/* maskApi's rleIou of a detection and an object: -1 where their boxes meet and their sizes differ.
 * Below `floor` any value below it may come back, which saves the work. */
double dd_region_iou(const dd_region *detection, const dd_region *object, bool crowd, double floor);

#endif
