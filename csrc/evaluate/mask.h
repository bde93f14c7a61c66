/* Run-length encoded masks, with the results of pycocotools' maskApi bit by bit: the polygons'
 * rasterization, the compressed text, merge, area, boxes.
 *
 * A mask of h rows and w columns is read down its columns. The first run counts zeros (it may be
 * empty), the next ones, and so on. Runs of length 0 may occur anywhere in what users pass. */
#ifndef DD_EVALUATE_MASK_H
#define DD_EVALUATE_MASK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

typedef struct dd_rle {
    uint32_t h, w;
    size_t n;
    uint32_t *counts; /* (n) */
} dd_rle;

/* A growing list of run lengths that functions append to; zeroed is empty, free with
 * dd_runs_free. Masks are ranges of it. */
typedef struct dd_runs {
    uint32_t *counts;
    size_t n, capacity;
    uint32_t *keys; /* scratch of the rasterization */
    size_t keys_capacity;
} dd_runs;
void dd_runs_free(dd_runs *runs);

#define DD_MASK_MAX_PIXELS 0xffffffffu /* h · w: run lengths are 32-bit numbers */

/* DD_EVALUE unless h · w fits. */
dd_status dd_mask_check_size(uint64_t h, uint64_t w);

/* Appends the mask of a polygon of k points xy (k, 2) in pixels. DD_EVALUE where a coordinate is
 * beyond ±100 million or no number. */
dd_status dd_mask_from_polygon(const double *xy, size_t k, uint32_t h, uint32_t w, dd_runs *runs);
/* Appends the mask of a box x, y, w, h. */
dd_status dd_mask_from_box(const double box[4], uint32_t h, uint32_t w, dd_runs *runs);
/* Appends what maskApi's compressed text says; length bytes. DD_EFORMAT on bytes that are none. */
dd_status dd_mask_from_text(const char *text, size_t length, dd_runs *runs);
/* Appends the runs of pixels (h, w) in column order, 0 or not. */
dd_status dd_mask_from_pixels(const uint8_t *pixels, uint32_t h, uint32_t w, dd_runs *runs);

/* Appends the union (or the intersection) of n masks of one size; of one mask its copy; of no mask,
 * or of different sizes, nothing, and *h and *w are 0. */
dd_status dd_mask_merge(const dd_rle *masks, size_t n, bool intersect, dd_runs *runs, uint32_t *h,
                        uint32_t *w);

uint64_t dd_mask_area(const dd_rle *mask);
void dd_mask_box(const dd_rle *mask, double box[4]);

/* Writes the compressed text and returns its length; `out` has room for 7 bytes a run. */
size_t dd_mask_to_text(const dd_rle *mask, char *out);
/* Writes h · w pixels in column order, 0 and 1. DD_EVALUE where the runs are too long; where they
 * end early the rest is 0. */
dd_status dd_mask_to_pixels(const dd_rle *mask, uint8_t *pixels);

#endif
