/* One affine warp that does everything geometric at once: scale, rotation, flips, shift and the
 * placement into a window of a larger picture, then the colour shift while the row is in cache. */
#ifndef DD_IMAGE_WARP_H
#define DD_IMAGE_WARP_H

#include "base/error.h"
#include "image/hsv.h"
#include "image/pixels.h"

/* x' = a·x + b·y + c, y' = d·x + e·y + f, in continuous pixel coordinates. */
typedef struct dd_warp_matrix {
    double a, b, c, d, e, f;
} dd_warp_matrix;

dd_warp_matrix dd_warp_matrix_after(dd_warp_matrix second,
                                    dd_warp_matrix first); /* second ∘ first */

/* The inverse; DD_EVALUE for a matrix that is singular or not finite. */
dd_status dd_warp_matrix_invert(const dd_warp_matrix *m, dd_warp_matrix *inverse);

/* Fills `where` of the target (which must lie within it): a target pixel takes the source at its
 * centre mapped by `inverse` (target → source), bilinear in steps of 1/256 pixel, edges repeated;
 * centres that fall outside of the source get the border value. Where the map shrinks by more than
 * 1.5, 3 or 6, the mean of 2×2, 4×4 or 8×8 places within the target pixel is taken. A map by whole
 * pixels copies bytes.
 *
 * `hsv` (NULL: none) is applied to pixels from the source, not to the border. A pixel's bytes
 * depend on its coordinates alone, not on `where`. No memory is allocated. Fails with DD_EVALUE on
 * bad pictures, a rectangle outside of the target, and coefficients beyond ±2^16 (offsets ±2^30).
 */
dd_status dd_warp(const dd_pixels *source, const dd_warp_matrix *inverse, const dd_hsv *hsv,
                  const dd_pixels *target, dd_rect where);

#endif
