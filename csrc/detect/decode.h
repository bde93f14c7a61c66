/* From a network's raw outputs to detections: confidence, top candidates, decoding, NMS, and the
 * way back to the original image, in one call for a batch. */
#ifndef DD_DETECT_DECODE_H
#define DD_DETECT_DECODE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

/* How an image came to the network's input: x_in = x * scale + pad_x, likewise y. */
typedef struct dd_letterbox_map {
    float scale, pad_x, pad_y;
    float width, height; /* of the original; detections are clipped to it */
} dd_letterbox_map;

typedef struct dd_detect_options {
    float conf;       /* a score must be above it; 0.25 for use, 0.001 for evaluation */
    float iou;        /* NMS threshold; 0.7 */
    int32_t max_det;  /* detections an image, at most; 300 */
    int32_t pre_nms;  /* best candidates an image that NMS looks at; 4096 */
    bool agnostic;    /* boxes suppress those of other classes too */
    bool multi_label; /* every class above conf makes a candidate; else an anchor's best only */
} dd_detect_options;

dd_detect_options dd_detect_defaults(void);

typedef struct dd_detect_input {
    int64_t images, anchors, classes; /* N, A, nc; A * nc < 2^32 */
    const float *logits;              /* (N, A, nc) */
    const float *deltas;              /* (N, A, 4) */
    const float *anchor_boxes;        /* (A, 4) */
    const dd_letterbox_map *maps;     /* (N) */
} dd_detect_input;

/* Results, the caller's memory. Rows from count on are zero. */
typedef struct dd_detections {
    int32_t *count;   /* (N) */
    float *boxes;     /* (N, max_det, 4) x0 y0 x1 y1 in pixels of the original image */
    float *scores;    /* (N, max_det), descending */
    int32_t *classes; /* (N, max_det) */
    int32_t *anchors; /* (N, max_det) the anchor that it comes from, or NULL */
} dd_detections;

/* Order: score descending, then (anchor, class) ascending; the same with any number of threads.
 * NaN logits make no candidate; a box that is not finite, or empty once clipped to the image, is
 * left out before it can suppress another. NMS looks at the boxes before clipping. One allocation.
 * Fails with DD_EVALUE on options or maps out of range and DD_ENOMEM. */
dd_status dd_detect_postprocess(const dd_detect_options *options, const dd_detect_input *input,
                                const dd_detections *out);

#endif
