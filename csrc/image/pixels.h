/* Pictures: views of interleaved 8-bit RGB pixels, a row every `stride` bytes.
 *
 * A view owns nothing. Coordinates are continuous and half-open: pixel (x, y) covers
 * [x, x+1) × [y, y+1) and its centre is (x + 0.5, y + 0.5), so boxes and pixels go through the same
 * matrix without half-pixel corrections. Nothing here touches Python, starts threads or keeps
 * state: any number of threads may call, each with an output of its own. */
#ifndef DD_IMAGE_PIXELS_H
#define DD_IMAGE_PIXELS_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

#define DD_PIXEL_BORDER 114     /* what lies outside of a picture, in training and in use */
#define DD_PIXEL_MAX_SIDE 65535 /* fixed-point coordinates are exact up to here */

typedef struct dd_pixels {
    uint8_t *data;
    int width, height;
    ptrdiff_t stride; /* bytes from a row to the next, at least 3 · width */
} dd_pixels;

/* Whole pixels x0 <= x < x1, y0 <= y < y1. */
typedef struct dd_rect {
    int x0, y0, x1, y1;
} dd_rect;

/* Fails with DD_EVALUE when a side is not in 1..DD_PIXEL_MAX_SIDE, a row does not fit in the stride
 * or the data is missing; `who` begins the message. */
dd_status dd_pixels_check(const dd_pixels *picture, const char *who);

/* The view of a rectangle inside `picture`; the rectangle must lie within it and not be empty. */
dd_pixels dd_pixels_window(const dd_pixels *picture, dd_rect where);

/* Sets every byte of a rectangle (cut to the picture; it may be empty) to `value`. */
void dd_pixels_fill(const dd_pixels *picture, dd_rect where, uint8_t value);

static inline uint8_t *dd_pixels_row(const dd_pixels *picture, int y) {
    return picture->data + (ptrdiff_t)y * picture->stride;
}

#endif
