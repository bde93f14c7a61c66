/* What the stages of one COCO evaluation share; internal to coco*.c. */
#ifndef DD_EVALUATE_COCO_JOB_H
#define DD_EVALUATE_COCO_JOB_H

#include "evaluate/coco.h"
#include "evaluate/coco_order.h"

#define DD_COCO_EPS 2.220446049250313e-16 /* numpy.spacing(1) */
#define DD_COCO_BLOCK 32                  /* IoU thresholds that are decided together */

/* Fate of a detection in one area range, a bit for each of up to 32 thresholds: whether its match
 * shows, and whether it is left out of the counting. */
typedef struct dd_coco_fate {
    uint32_t matched, ignored;
} dd_coco_fate;

typedef struct dd_coco_job {
    const dd_coco_input *in;
    const dd_coco_params *p;
    dd_coco_order order;
    size_t n_blocks;     /* of thresholds */
    double *bound;       /* (T) min(threshold, 1 - 1e-10) */
    double floor;        /* the least of them: an IoU below it matters nowhere */
    dd_coco_fate *fates; /* (detections in order, A, blocks) */
    int32_t *match;      /* (detections in order, A, T), or NULL */
    double *oks;         /* keypoints: similarities of all pairs, group by group; else NULL */
    size_t *oks_at;      /* (groups) where each group's begin */
    unsigned char *scratch;
    size_t scratch_bytes; /* of one thread */
    double *precision, *recall, *scores;
} dd_coco_job;

/* Whether object g (an input position) does not count at area range a. */
static inline bool dd_coco_ignored(const dd_coco_job *j, uint32_t g, size_t a) {
    const dd_coco_input *in = j->in;
    double area = in->object_area[g];
    return in->object_crowd[g] || (in->object_ignore && in->object_ignore[g]) ||
           area < j->p->area[2 * a] || area > j->p->area[2 * a + 1];
}

/* Thresholds of a block, as bits. */
static inline uint32_t dd_coco_block_bits(const dd_coco_job *j, size_t block) {
    size_t n = (size_t)j->p->n_iou - block * DD_COCO_BLOCK;
    return n >= DD_COCO_BLOCK ? 0xffffffffu : ((uint32_t)1 << n) - 1;
}

size_t dd_coco_match_scratch(const dd_coco_job *j); /* bytes a thread */
size_t dd_coco_curve_scratch(const dd_coco_job *j);
dd_status dd_coco_make_oks(dd_coco_job *j);
void dd_coco_match_all(dd_coco_job *j);
void dd_coco_accumulate_all(dd_coco_job *j);

#endif
