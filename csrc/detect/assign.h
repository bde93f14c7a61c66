/* Assignment: which anchor is trained towards which object.
 *
 * Three rules: task-aligned (Feng et al. 2021), ATSS (Zhang et al. 2020) and max-IoU (Ren et al.
 * 2015). Each anchor gets one object at most; an anchor that several claim goes to the one with
 * the highest IoU, then to the lowest object. Under the first two rules an object that is left
 * without an anchor takes one: from its own candidates, else the anchor that overlaps it best,
 * else the nearest; never the last anchor of another object. Targets are constants of the loss. */
#ifndef DD_DETECT_ASSIGN_H
#define DD_DETECT_ASSIGN_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "detect/anchors.h"

#define DD_BACKGROUND (-1)
#define DD_IGNORED (-2) /* no class loss here */

typedef enum dd_assigner { DD_ASSIGN_TAL = 0, DD_ASSIGN_ATSS, DD_ASSIGN_MAX_IOU } dd_assigner;

typedef struct dd_assign_options {
    dd_assigner assigner;
    float alpha, beta; /* TAL: metric = score^alpha * IoU^beta; 0.5 and 6 */
    int topk;          /* TAL: anchors an object over all levels, 13; ATSS: a level, 27 = 9 x 3 */
    float max_ratio;   /* TAL: no side of a candidate is more than this many times off; 3 */
    float positive_iou, negative_iou; /* max-IoU: 0.5 and 0.4; ignored in between */
    float
        ignore_share; /* background with more than this share inside an ignore box: ignored; 0.5 */
} dd_assign_options;

#define DD_MAX_TOPK 256
#define DD_MAX_LEVELS 16

dd_assign_options dd_assign_defaults(dd_assigner assigner);
dd_status dd_assign_check(const dd_assign_options *options, const dd_anchor_index *anchors);

/* One image's ground truth, borrowed. Boxes that are not finite or have no area are nobody's
 * object. Labels have been checked against the number of classes. */
typedef struct dd_objects {
    int64_t count;
    const float *boxes;    /* (count, 4) */
    const int32_t *labels; /* (count) */
    const uint8_t *ignore; /* (count), nonzero: a region to ignore, not an object; or NULL */
} dd_objects;

/* One image's raw outputs, borrowed; TAL reads both. NULL: anchors stand for boxes, scores are 1.
 */
typedef struct dd_predictions {
    int64_t classes;
    const float *logits; /* (A, classes) */
    const float *deltas; /* (A, 4) */
} dd_predictions;

typedef struct dd_assignment {
    int32_t *object; /* (A): index into the objects, DD_BACKGROUND or DD_IGNORED */
    float *target;   /* (A): TAL: metric / object's best metric * its best IoU; else 1; 0 where no
                        object is. An anchor that was forced has at least DD_FORCED_TARGET. */
    float *iou;      /* (A): of the predicted box with the object's, 0 where no object is */
} dd_assignment;

/* An object that nothing reaches would otherwise have a target of about 0 and never be learnt. */
#define DD_FORCED_TARGET 0.1f

size_t dd_assign_scratch_bytes(const dd_assign_options *options, const dd_anchor_index *anchors,
                               int64_t objects);

/* Fills `out`; scratch is aligned to 8 bytes. Pure, single-threaded, cannot fail after
 * dd_assign_check. Non-finite predictions make no candidates. */
void dd_assign(const dd_assign_options *options, const dd_anchor_index *anchors,
               const dd_objects *objects, const dd_predictions *predictions, void *scratch,
               const dd_assignment *out);

#endif
