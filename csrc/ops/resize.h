/* Which input pixels an output pixel of resize looks at: for the operator and the planner's step.
 */
#ifndef DD_OPS_RESIZE_H
#define DD_OPS_RESIZE_H

#include "ops/params.h"

enum { DD_RESIZE_TAPS = 4 };

/* Output position o of 0..out-1 along an axis of the map (0 rows, 1 columns) of `in` input pixels:
 * the input positions, in order and inside the map (the same one twice at an edge), and their
 * weights, which sum to 1. Returns how many, the same for every o: 1, 2 or 4 by the mode. */
int dd_resize_taps(const dd_resize_params *p, int axis, int64_t o, int64_t in, int64_t out,
                   int64_t at[DD_RESIZE_TAPS], double weight[DD_RESIZE_TAPS]);

/* The whole factor by which the resize repeats each pixel along both axes; 0 for any other. x and
 * y: rank 4. */
int64_t dd_resize_factor(const dd_resize_params *p, const dd_type *x, const dd_type *y);

#endif
