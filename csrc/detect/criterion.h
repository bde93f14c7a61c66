/* The detection criterion: raw outputs and ground truth in, losses and their gradients out.
 *
 *   loss_cls = cls_weight / n_cls * sum over images, anchors, classes of weight[c] L(logit, t)
 *   loss_box = box_weight / n_box * sum over positives of u * B(box, object)
 *
 * L is a class loss of the table, t the assignment's target at the object's class (1 for the focal
 * loss; the predicted box's IoU where ATSS or max-IoU assigned) and 0 elsewhere; B is a box loss, u
 * the assignment's target; n_cls and n_box are the sums of t and u over the batch, 1 at least.
 * giou compares decoded boxes, l2 and smooth_l1 the deltas. Targets are constants of the gradient.
 */
#ifndef DD_DETECT_CRITERION_H
#define DD_DETECT_CRITERION_H

#include <stdint.h>

#include "base/error.h"
#include "detect/assign.h"
#include "detect/losses.h"

typedef struct dd_criterion {
    dd_assign_options assign;
    const dd_loss *cls_loss; /* bce, focal or qfl */
    const dd_loss *box_loss; /* giou, l2 or smooth_l1 */
    double cls_params[DD_LOSS_PARAMS], box_params[DD_LOSS_PARAMS];
    double cls_weight, box_weight; /* 1 and 2 */
    const float *class_weights;    /* (nc) by which a class' column counts; NULL: all 1 */
} dd_criterion;

/* Task-aligned, BCE, 2 x GIoU: the core's own start; the trainer asks for ATSS (docs/models.md). */
dd_criterion dd_criterion_defaults(void);

typedef struct dd_detection_batch {
    int64_t images, anchors, classes; /* N, A, nc */
    const float *logits;              /* (N, A, nc) */
    const float *deltas;              /* (N, A, 4) */
    const float *anchor_boxes;        /* (A, 4) */
    const int64_t *levels;            /* (n_levels + 1) offsets into A, or NULL: one level */
    int64_t n_levels;
    const float *boxes;     /* (M, 4) of all images, one after another */
    const int32_t *labels;  /* (M), 0 .. nc-1; not read where ignore is set */
    const uint8_t *ignore;  /* (M) or NULL */
    const int64_t *offsets; /* (N + 1) into M */
} dd_detection_batch;

typedef struct dd_detection_loss {
    double loss_cls, loss_box;
    double target_sum; /* n_cls before the floor of 1 */
    int64_t positives;
    float *dlogits; /* (N, A, nc), the caller's, or NULL when no gradient is wanted */
    float *ddeltas; /* (N, A, 4), likewise */
} dd_detection_loss;

/* Parallel over images and blocks of anchors; sums go through slots in order: same bits for any
 * number of threads. Non-finite outputs make the losses non-finite and never crash. One allocation.
 * Fails with DD_EVALUE on options, labels, offsets or anchors that do not fit, and DD_ENOMEM. */
dd_status dd_detection_loss_run(const dd_criterion *criterion, const dd_detection_batch *batch,
                                dd_detection_loss *loss);

#endif
