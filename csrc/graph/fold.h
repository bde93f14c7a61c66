/* The arithmetic of deployment: a convolution in double precision that takes in batch norms, scales
 * and parallel branches. Nothing here knows a graph. */
#ifndef DD_GRAPH_FOLD_H
#define DD_GRAPH_FOLD_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

/* y = conv(x, weight) + bias, with weight (o, i / groups, kh, kw). A batch norm on its own is one
 * too: 1×1 with groups = channels (`diagonal`). A transposed one has its weight (i, o / groups, kh,
 * kw) and takes in norms and scales, but joins no sum. */
typedef struct dd_fold {
    bool transposed;
    int64_t o, i, kh, kw, groups;
    int64_t stride[2], pads[4], dilation[2]; /* (y, x); (top, left, bottom, right) */
    double *weight, *bias;                   /* owned; bias is always there (zeros) */
} dd_fold;

void dd_fold_free(dd_fold *f); /* a zeroed one is allowed */
int64_t dd_fold_weights(const dd_fold *f);

/* From float32 parameters; the geometry is set in *f already. bias may be NULL. */
dd_status dd_fold_fill(dd_fold *f, const float *weight, const float *bias);
/* x · scale[c] + shift[c]; NULL: ones, zeros. */
dd_status dd_fold_diagonal(dd_fold *f, int64_t channels, const double *scale, const double *shift);
dd_status dd_fold_copy(const dd_fold *from, dd_fold *to);

bool dd_fold_is_diagonal(const dd_fold *f);

/* y := y · scale[c] + shift[c] */
void dd_fold_affine(dd_fold *f, const double *scale, const double *shift);

/* Whether the sum of both, over the same input, is one convolution of a's geometry: same stride,
 * b's kernel lies within a's, groups agree or b is diagonal. */
bool dd_fold_can_add(const dd_fold *a, const dd_fold *b);
void dd_fold_add(dd_fold *a, const dd_fold *b); /* a := a + b */

#endif
