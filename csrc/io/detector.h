/* A detector ready to look: a model's deployed network, planned for one image size, with the
 * letterbox before it and decoding and NMS behind it.
 *
 * What it finds on an image is what Python's Detector.predict finds on the same pixels, bit for
 * bit, on the same machine. */
#ifndef DD_IO_DETECTOR_H
#define DD_IO_DETECTOR_H

#include <stdint.h>

#include "detect/decode.h"
#include "image/pixels.h"
#include "io/model_file.h"

typedef struct dd_detector dd_detector;

/* One object: a box in pixels of the image, half-open and clipped to it. */
typedef struct dd_detection {
    float x0, y0, x1, y1;
    float score; /* 0 to 1 */
    int32_t cls; /* model->classes[cls] is its name */
} dd_detection;

/* Deploys and plans the model for images that are letterboxed to imgsz x imgsz: a multiple of 32
 * up to 8192, or 0 for the size that the model was trained at. The model is only read, and may be
 * destroyed before the detector. Fails with DD_EVALUE on the size, DD_EFORMAT where the model is
 * no detector (its outputs are not "cls" (N, A, classes) and "box" (N, A, 4) for its anchors, or
 * its names are not as many as its classes) and DD_ENOMEM. */
dd_status dd_detector_create(const dd_model *model, int imgsz, dd_detector **detector);
void dd_detector_destroy(dd_detector *detector); /* NULL is allowed */

/* Looks at one image. options: NULL for dd_detect_defaults(). found: the caller's, room for
 * options->max_det (300 by default); *count says how many were written, best score first. Fails
 * with DD_EVALUE on the image or options, DD_ECANCELED and DD_ENOMEM. One thread at a time a
 * detector; the work itself goes to all threads of the pool. */
dd_status dd_detector_run(dd_detector *detector, const dd_pixels *image,
                          const dd_detect_options *options, dd_detection *found, int32_t *count);

#endif
