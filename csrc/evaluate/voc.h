/* Average precision as the PASCAL VOC development kit computes it (Everingham et al. 2010).
 *
 * Boxes are xmin, ymin, xmax, ymax in inclusive pixels, so a side is max - min + 1. A detection is
 * compared with the object of its class and image that it overlaps most, taken or not: an overlap
 * of at least `iou` with a free object is a hit, with one taken already a false alarm, with a
 * difficult one nothing. Ties of scores go by input order. */
#ifndef DD_EVALUATE_VOC_H
#define DD_EVALUATE_VOC_H

#include "evaluate/coco.h"

enum dd_voc_fate { DD_VOC_FALSE = 0, DD_VOC_HIT = 1, DD_VOC_NOTHING = 2 };

typedef struct dd_voc_result { /* the caller's arrays, K = n_classes */
    double *ap;                /* (K); NaN for a class without an object that is not difficult */
    int64_t *positives;        /* (K) objects that are not difficult */
    uint8_t *fates;            /* (n_detections) in input order; DD_VOC_NOTHING where left out */
    uint32_t *order;           /* (n_detections) input positions, best score first */
} dd_voc_result;

/* `input` is read as in coco.h, but its boxes are corners, object_crowd means difficult and areas
 * are not used. eleven_points: the mean of the best precision at recalls 0, .1, ... 1 (VOC2007);
 * else the whole area under the monotone curve (2010 on). DD_EVALUE on an index out of range. */
dd_status dd_voc_evaluate(const dd_coco_input *input, double iou, bool eleven_points,
                          const dd_voc_result *result);

#endif
