/* Which class is taken for which. */
#ifndef DD_EVALUATE_CONFUSION_H
#define DD_EVALUATE_CONFUSION_H

#include "evaluate/coco.h"

/* Adds to counts (K+1, K+1): row = true class, column = detected class, the last of each is the
 * background. Per image the detections of at least `score`, best first, take the free object of
 * any class that they overlap most, by an IoU of at least `iou`. What is left over counts as
 * (background, class) or (class, background). Crowds are not counted, nor is a left-over detection
 * that lies in one by half of its area or more. DD_EVALUE on an index out of range. */
dd_status dd_confusion_count(const dd_coco_input *input, double score, double iou, int64_t *counts);

#endif
