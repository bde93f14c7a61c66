/* The orders in which the COCO evaluator walks its boxes. */
#ifndef DD_EVALUATE_COCO_ORDER_H
#define DD_EVALUATE_COCO_ORDER_H

#include "evaluate/coco.h"

typedef struct dd_coco_group { /* a (class, image) that has a box; ranges of the orders below */
    uint32_t object_begin, object_end, detection_begin, detection_end;
} dd_coco_group;

typedef struct dd_coco_order {
    int64_t n_classes;    /* 1 when classes are not in use */
    uint32_t *objects;    /* input positions by (class, image, input order) */
    uint32_t *detections; /* input positions by (class, image, score, input order) */
    uint32_t *rank;       /* place of detections[i] within its group: 0 is the best */
    uint32_t *best_first; /* positions in `detections` by (class, score, image, rank) */
    uint32_t *class_objects, *class_detections; /* (n_classes + 1) where each class begins */
    dd_coco_group *groups;                      /* by (class, image) */
    size_t n_groups;
    uint32_t most_objects;    /* in one group */
    uint32_t most_detections; /* in one class */
} dd_coco_order;

/* DD_EVALUE where a count or an index is out of range or a score is NaN. */
dd_status dd_coco_input_check(const dd_coco_input *input);

/* The input was checked by the caller. On failure *out is untouched. */
dd_status dd_coco_order_make(const dd_coco_input *input, bool use_classes, dd_coco_order *out);
void dd_coco_order_free(dd_coco_order *order);

/* Stable, descending; -0.0 equals 0.0; no NaN. `order` holds n positions in `score` and is sorted
 * in place. */
dd_status dd_sort_scores(const double *score, uint32_t *order, size_t n);

#endif
