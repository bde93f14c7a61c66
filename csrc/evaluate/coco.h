/* COCO's average precision and recall of boxes, masks or keypoints, equal to pycocotools to the
 * last bit.
 *
 * Equal means: the same double operations in the same order, so that `precision`, `recall` and
 * `scores` compare with == against pycocotools' arrays. The rules that matter for that:
 * - detections of one (class, image) go best first, ties in input order, cut at the largest
 *   max_det; the class's list is sorted by score, ties by image, then by that order;
 * - a detection takes, among the free objects that count, the one of the highest IoU not below
 *   min(threshold, 1 - 1e-10), the last of equals; only if there is none, one that is ignored
 *   (a crowd, or of a size outside the area range); a crowd may be taken again and again;
 * - IoU with a crowd is intersection over the detection's area; boxes are x, y, w, h without +1;
 * - a detection without a match whose area is outside the range is ignored;
 * - precision = tp / (fp + tp + 2^-52), made monotone from the right, read at the first recall not
 *   below each recall threshold; -1 where a class has no object that counts. */
#ifndef DD_EVALUATE_COCO_H
#define DD_EVALUATE_COCO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "evaluate/oks.h"
#include "evaluate/region.h"

/* All borrowed. What two boxes share is their IoU, unless regions (masks) or points are given. An
 * index of -1 for image or class leaves the box out. */
typedef struct dd_coco_input {
    int64_t n_images, n_classes; /* images and classes in the order of their ids */
    int64_t n_objects;           /* ground truth */
    const int32_t *object_image, *object_class;
    const double *object_box;    /* (n, 4) x, y, w, h */
    const double *object_area;   /* decides the area range */
    const uint8_t *object_crowd; /* 1: a crowd, which is ignored */
    /* NULL, or 1 for an object whose match does not count as one: what pycocotools does with an
     * annotation of id 0, whose matches it takes for "unmatched". */
    const uint8_t *object_blank;
    /* NULL, or 1 for an object that is ignored without being a crowd (one without a visible
     * keypoint): it can be matched once. */
    const uint8_t *object_ignore;
    const dd_region *object_region; /* masks; of both sides or of none */
    int64_t n_detections;
    const int32_t *detection_image, *detection_class;
    const double *detection_box; /* (n, 4) x, y, w, h */
    const double *detection_score;
    const double *detection_area; /* NULL: w · h */
    /* NULL, or 1: without a match this detection is ignored at any size, because its image is not
     * labelled to the end for its class (LVIS). */
    const uint8_t *detection_partial;
    const dd_region *detection_region;
    const dd_oks *points; /* NULL: no keypoints */
} dd_coco_input;

typedef struct dd_coco_params {
    int64_t n_iou, n_recall, n_area, n_max_det; /* T, R, A, M: at least 1 each */
    const double *iou;                          /* (T) */
    const double *recall;                       /* (R), ascending */
    const double *area;                         /* (A, 2): least and greatest, both inclusive */
    const int64_t *max_det;                     /* (M), ascending, at least 1 */
    bool use_classes;                           /* false: all classes are one, K is 1 */
} dd_coco_params;

/* What was matched with what, by (class, image). */
typedef struct dd_coco_detail {
    struct dd_coco_order *order; /* coco_order.h */
    int32_t *match;              /* (detections in order, A, T) place in order->objects, or -1 */
} dd_coco_detail;

/* Matches only. On failure *out is untouched; else free it with dd_coco_detail_free. */
dd_status dd_coco_match(const dd_coco_input *input, const dd_coco_params *params,
                        dd_coco_detail *out);
void dd_coco_detail_free(dd_coco_detail *detail);

/* Fills the caller's precision (T,R,K,A,M), recall (T,K,A,M) and scores (T,R,K,A,M); K is
 * n_classes, or 1. Runs in the thread pool; the result does not depend on the number of threads.
 * DD_EVALUE on a broken parameter or an index out of range, DD_ENOMEM, DD_ECANCELED. */
dd_status dd_coco_evaluate(const dd_coco_input *input, const dd_coco_params *params,
                           double *precision, double *recall, double *scores);

/* COCO's own parameters (thresholds .5 to .95, recalls 0 to 1, four area ranges, 1/10/100), whose
 * arrays live for ever in `storage`. */
typedef struct dd_coco_defaults {
    double iou[10], recall[101], area[8];
    int64_t max_det[3];
} dd_coco_defaults;
dd_coco_params dd_coco_params_default(dd_coco_defaults *storage);

/* The twelve figures AP AP50 AP75 APs APm APl AR1 AR10 AR100 ARs ARm ARl as pycocotools' summarize
 * computes them (means in NumPy's order of summation; -1 where nothing counts). Areas are all,
 * small, medium and large: positions in params->area, or -1 where that label is not in use. Figures
 * other than AR1 and AR10 belong to max_det[2] (to the last where M < 3), AP to the max_det of 100
 * as pycocotools has it. */
dd_status dd_coco_stats(const dd_coco_params *params, int64_t n_classes, const int areas[4],
                        const double *precision, const double *recall, double stats[12]);

#endif
