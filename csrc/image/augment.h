/* Augmentation: what is drawn for a sample, and how pictures and boxes are composed from it.
 *
 * A sample is one to four *pieces*, painted in order into a square of `side` pixels: one piece is a
 * plain sample, two are CutMix (the second is a rectangle of another augmented picture), four are
 * Mosaic (a quadrant each). Every piece is one warp of one picture, straight from the decoded
 * pixels: letterbox, then about the square's centre flip, scale by `scale`, turn by `degrees`
 * (clockwise as seen, y pointing down), shift; then zoom and offset of the window; then colour.
 *
 * Boxes go through the same matrix. A box of half-sides (p, q) becomes the bounding box of its
 * inscribed ellipse, half-sides sqrt((a·p)² + (b·q)²) and sqrt((d·p)² + (e·q)²) for the matrix
 * (a b; d e): exact without rotation and for round objects, and tighter than the hull of the four
 * corners, which at 15 degrees is a quarter too large on a side. Then a box is judged:
 *   outside   nothing of it is in its piece's rectangle
 *   clipped   the rectangle keeps no more than `min_clipped` of its area
 *   covered   a later piece leaves less than `min_visible` of what was there, or the two cuts
 *             together no more than `min_clipped` of the whole; else it is shrunk to the visible
 *             part's bounding box (which is smaller only if the cover spans a whole side)
 *   tiny      a side is below one pixel (never under the identity, which drops nothing)
 *   flat      it came without area
 * A region to ignore (a crowd) loses no object, so it stays while any of it can be seen. */
#ifndef DD_IMAGE_AUGMENT_H
#define DD_IMAGE_AUGMENT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/random.h"
#include "image/pixels.h"
#include "image/resize.h"
#include "image/warp.h"

#define DD_MAX_PIECES 4

/* The ranges that a draw is made from. A range around 0 is given by its half-width. */
typedef struct dd_augment {
    double scale_low, scale_high;
    double degrees;
    double shift;                  /* a share of the side, on both axes */
    double flip_lr, flip_ud;       /* probabilities */
    double hue, saturation, value; /* OpenCV units, see hsv.h */
    double mix;                    /* the share of samples that are mixed */
} dd_augment;

/* A piece: nine drawn values, then where it goes. Plain doubles, so that it travels as an array
 * of DD_PIECE_FIELDS. */
typedef struct dd_piece {
    double scale, degrees, shift_x, shift_y; /* shifts as shares of the side */
    double flip_lr, flip_ud;                 /* 0 or 1 */
    double hue, saturation, value;
    double x0, y0, x1, y1;           /* the rectangle it fills, as shares of the side */
    double zoom, offset_x, offset_y; /* place in the square = zoom · place + offset · side */
} dd_piece;

#define DD_PIECE_FIELDS 16

typedef struct dd_recipe {
    int n;                            /* pieces: 1 plain, 2 CutMix, 4 Mosaic */
    uint32_t partners[DD_MAX_PIECES]; /* whose picture; entry 0 is the sample's own, not set */
    dd_piece pieces[DD_MAX_PIECES];
} dd_recipe;

/* DD_EVALUE with the field's name for a range that makes no sense. */
dd_status dd_augment_check(const dd_augment *a);

/* The piece that changes nothing: the letterbox. */
dd_piece dd_piece_identity(void);

/* How many of the samples before `position` of an epoch are mixed, so `position` is mixed if the
 * count grows there, and it is the epoch's k-th mixed sample with k that count (from 0). Mixed
 * samples are spread evenly: their number is the share of the epoch, rounded up or down. */
uint64_t dd_mix_count(double mix, uint64_t seed, uint32_t epoch, uint64_t position);

/* Draws the sample at `position`: a pure function of its arguments. Partners are uniform in
 * 0..n_pictures−1. `mixing` off: always plain. The k-th mixed sample is Mosaic where k mod 5 = 4
 * and CutMix otherwise.
 * CutMix: both sides of the rectangle uniform in 0.3..0.7 of the square, anywhere inside.
 * Mosaic: the centre uniform in 0.35..0.65; a quadrant shows a window of its augmented picture
 * that lies within the square, at a zoom uniform from the smallest that can fill it up to 1. */
dd_status dd_recipe_draw(const dd_augment *a, uint64_t seed, uint32_t epoch, uint32_t position,
                         uint32_t n_pictures, bool mixing, dd_recipe *recipe);

/* The picture that a piece is made of. `boxes` are (n_boxes, 4) xyxy pixels of the original, which
 * is width × height; `scale` says how many pixels of `pixels` one of the original's is (0.5 after a
 * decode at half size). All borrowed. */
typedef struct dd_picture {
    dd_pixels pixels;
    double scale;
    int width, height;
    const float *boxes;
    const uint8_t *ignore; /* (n_boxes), not 0: a region to ignore; NULL: none is */
    int n_boxes;
} dd_picture;

typedef enum dd_drop {
    DD_KEPT = 0,
    DD_DROP_OUTSIDE,
    DD_DROP_CLIPPED,
    DD_DROP_COVERED,
    DD_DROP_TINY,
    DD_DROP_FLAT,
    DD_DROPS,
} dd_drop;

const char *dd_drop_name(dd_drop drop); /* "" for DD_KEPT, "outside", "clipped", … */

typedef struct dd_limits {
    double min_clipped; /* 0.30 */
    double min_visible; /* 0.50 */
} dd_limits;

/* A whole sample: n pieces and their pictures for a square of `side` pixels. */
typedef struct dd_canvas {
    const dd_piece *pieces;
    const dd_picture *pictures;
    int n, side;
    dd_limits limits;
} dd_canvas;

/* The pixel rectangle of a piece, and its matrix from the original's pixels to the square's. */
dd_rect dd_piece_rect(const dd_piece *piece, int side);
dd_status dd_piece_matrix(const dd_piece *piece, int width, int height, int side,
                          dd_warp_matrix *m);

/* Paints the pieces into the square `out` and moves their boxes. What no piece covers keeps its
 * bytes; a place that three pieces share would be counted twice against the box under them. `boxes`
 * gets (Σ n_boxes, 4) xyxy pixels of the square and `drops` one dd_drop each, in the pictures'
 * order; a dropped box holds what was left of it. Fails with DD_EVALUE on pictures or pieces out of
 * range, DD_ENOMEM. */
dd_status dd_compose(const dd_canvas *canvas, const dd_pixels *out, float *boxes, uint8_t *drops);

#endif
