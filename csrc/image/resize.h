/* Resizing and the letterbox.
 *
 * The letterbox puts a picture into a square: one scale for both axes, centred on whole pixels,
 * value 114 around it, the same in training, validation, prediction and export:
 *     scale = side / max(width, height);  x' = scale · x + left;  y' = scale · y + top
 *     left = (side − w') div 2, top = (side − h') div 2, w' = max(1, round(scale · width)), …
 * The map is exact, the content's rounded size never bends it, so boxes return by
 * x = (x' − left) / scale.
 *
 * The filter is a triangle of one source pixel's half-width for enlargement (plain bilinear) and of
 * one target pixel's for shrinking, so a strong shrink averages all that it covers (antialias).
 * At scale 1 the bytes are copied. */
#ifndef DD_IMAGE_RESIZE_H
#define DD_IMAGE_RESIZE_H

#include "base/error.h"
#include "image/pixels.h"

#define DD_LETTERBOX_MAX_SIDE 8192

typedef struct dd_fit {
    double scale;      /* target pixels a source pixel */
    int width, height; /* the content's size in the square */
    int left, top;     /* where it begins */
} dd_fit;

/* Where a picture of width × height lies in a square of `side` pixels. Fails with DD_EVALUE when a
 * size is out of range (1..DD_PIXEL_MAX_SIDE, side 1..DD_LETTERBOX_MAX_SIDE). */
dd_status dd_fit_make(int width, int height, int side, dd_fit *fit);

/* Fills the whole target: target pixel x is centred on source coordinate (x + 0.5) · step, the same
 * for y; what would lie beyond the source repeats its edge. step > 0, in source pixels a target
 * pixel. Rows y0 <= y < y1 of the target only; a row's bytes do not depend on the range. Memory:
 * two weight tables and a ring of rows, never a whole picture. Source and target do not overlap. */
dd_status dd_resize(const dd_pixels *source, double step, const dd_pixels *target, int y0, int y1);

/* The letterbox of a picture into a square target. `source_scale` says how many source pixels one
 * pixel of the original is: 1, or 1/2, 1/4, 1/8 after a scaled decode; `fit` was made for the
 * original's size and the target's side. */
dd_status dd_letterbox(const dd_pixels *source, double source_scale, const dd_fit *fit,
                       const dd_pixels *target);

#endif
