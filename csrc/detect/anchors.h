/* Anchors: the boxes that a head's outputs are relative to, and an index for fast search in them.
 *
 * A grid is one feature map's anchors in the order row, column, size, ratio. A detector's anchors
 * are the grids of its levels, fine to coarse. Shapes: anchors (A, 4) x0 y0 x1 y1 in pixels of the
 * network's input. */
#ifndef DD_DETECT_ANCHORS_H
#define DD_DETECT_ANCHORS_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

typedef struct dd_anchor_grid {
    int64_t rows, cols; /* of the feature map */
    double stride;      /* pixels between neighbouring centres; the first lies at stride / 2 */
    int64_t n_sizes, n_ratios;
    const double *sizes;  /* side of the square of equal area, in pixels */
    const double *ratios; /* height / width */
} dd_anchor_grid;

/* Checks the grid and returns how many anchors it has. Fails with DD_EVALUE on sizes, ratios or a
 * stride that are not positive and finite, and on more than 2^31 - 1 anchors. */
dd_status dd_anchor_count(const dd_anchor_grid *grid, int64_t *count);

/* out: (count, 4). Width is size / sqrt(ratio), height size * sqrt(ratio), so the area stays.
 * Computed in double, rounded once. The grid has passed dd_anchor_count. Cannot fail. */
void dd_anchor_fill(const dd_anchor_grid *grid, float *out);

/* How a detector's heads are laid out: a level a stride, fine to coarse, whose cells carry an
 * anchor of side base * stride * scale for each scale and ratio. At most DD_ANCHOR_LIST of each. */
enum { DD_ANCHOR_LIST = 16 };

typedef struct dd_anchor_rule {
    int n_strides, n_scales, n_ratios;
    int64_t strides[DD_ANCHOR_LIST]; /* pixels a cell */
    double scales[DD_ANCHOR_LIST], ratios[DD_ANCHOR_LIST];
    double base; /* a level's base size in strides */
} dd_anchor_rule;

/* Strides 8, 16, 32; scale 1; ratios 1, 2, 0.5; base 3. */
dd_anchor_rule dd_anchor_rule_default(void);

/* The levels' offsets for images of height x width: levels[0..n_strides], the last being the
 * number of anchors; a level has ceil(side / stride) cells an axis. Fails with DD_EVALUE on lists
 * that are empty or too long, numbers that are not positive, and as dd_anchor_count does. */
dd_status dd_anchor_rule_levels(const dd_anchor_rule *rule, int64_t height, int64_t width,
                                int64_t *levels);

/* out: (levels[n_strides], 4). The rule and sizes have passed dd_anchor_rule_levels. */
void dd_anchor_rule_fill(const dd_anchor_rule *rule, int64_t height, int64_t width, float *out);

/* Anchors as separate columns, with bounds of every 64 neighbours: a search for the anchors near
 * an object skips whole blocks. Any anchors in any order are right; order only helps speed. */
enum { DD_ANCHOR_BLOCK = 64 };

typedef struct dd_anchor_bounds {
    float x0, y0, x1, y1;           /* of the centres */
    float left, top, right, bottom; /* of the boxes */
    float w0, w1, h0, h1;           /* of the sides */
} dd_anchor_bounds;

typedef struct dd_anchor_index {
    int64_t count, blocks;
    const float *boxes; /* (count, 4), borrowed */
    float *cx, *cy, *w, *h;
    dd_anchor_bounds *bounds; /* (blocks) */
    const int64_t *levels;    /* (n_levels + 1) offsets of the levels, 0 .. count; borrowed */
    int64_t n_levels;
} dd_anchor_index;

size_t dd_anchor_index_bytes(int64_t count);

/* Builds the index over `memory` (dd_anchor_index_bytes, aligned to 8), which it borrows with the
 * boxes. levels may be NULL with n_levels 0: one level. Fails with DD_EVALUE on an anchor that is
 * not finite or has no area, and on offsets that do not ascend from 0 to count. */
dd_status dd_anchor_index_init(dd_anchor_index *index, const float *boxes, int64_t count,
                               const int64_t *levels, int64_t n_levels, void *memory);

/* The centre form of a predicted box: centre = anchor's + delta * its sides, side = anchor's *
 * exp(delta), the exponent clamped to +-DD_DELTA_CLAMP. out: x0 y0 x1 y1, in double so that a
 * gradient taken through it is exact to rounding. */
#define DD_DELTA_CLAMP 4.0
void dd_anchor_decode(const float *anchor, const float *delta, double out[4]);

/* The inverse, not clamped; the box has positive sides. */
void dd_anchor_encode(const float *anchor, const float *box, double delta[4]);

#endif
