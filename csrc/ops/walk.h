/* Walking arrays of any pitch: rows, strides, and the one loop nest that every data movement is. */
#ifndef DD_OPS_WALK_H
#define DD_OPS_WALK_H

#include "base/tensor.h"

enum { DD_WALK_RANK = 8 }; /* a factored axis counts as two */

/* Row `row` of a float32 array (a row is a pixel of an activation). */
static inline float *dd_row_f32(const dd_array *a, int64_t row) {
    return (float *)a->data + row * a->pitch;
}

/* Row `row` of an array of any dtype. */
static inline char *dd_row_any(const dd_array *a, int64_t row) {
    return (char *)a->data + row * a->pitch * (int64_t)dd_dtype_bytes(a->type.dtype);
}

/* Elements between neighbours along each axis; for rank 0 nothing is written. */
static inline void dd_strides(const dd_array *a, int64_t *strides) {
    int64_t step = 1;
    for (int i = a->type.rank; i-- > 0;) {
        strides[i] = step;
        step = i == a->type.rank - 1 ? a->pitch : step * a->type.dims[i];
    }
}

/* Strides of `a` seen as an array of shape `wide` (NumPy's broadcasting: axes are aligned at the
 * end, a missing axis or one of size 1 has stride 0). */
void dd_strides_broadcast(const dd_array *a, const dd_type *wide, int64_t *strides);

/* Widens the shape of `wide` to what NumPy's broadcasting makes of it and `t`; false, and nothing
 * done, where sizes differ and neither is 1. dtypes are not looked at. */
bool dd_broadcast(dd_type *wide, const dd_type *t);

/* to[Σ i_k · to_stride_k] = from[Σ i_k · from_stride_k] over all 0 <= i_k < dims_k. Strides and
 * pointers are in elements of `bytes` bytes; strides may be negative, or 0 in `from`. */
typedef struct dd_move {
    int rank;
    int64_t dims[DD_WALK_RANK], from_strides[DD_WALK_RANK], to_strides[DD_WALK_RANK];
    const void *from;
    void *to;
    size_t bytes;
} dd_move;

void dd_move_run(const dd_move *m);

/* Copies `from` to `to`: equal counts and dtypes, any shapes, any pitches (row-major order). The
 * same memory on both sides is left alone. */
void dd_copy(const dd_array *from, const dd_array *to);

/* Every element of `a`, never its pad lanes, becomes the f32 `value`, or zero bytes. */
void dd_fill_f32(const dd_array *a, float value);
void dd_fill_zero(const dd_array *a);

/* An odometer: steps `index` (all zero at first) to the next place in row-major order of `dims`;
 * false after the last. */
static inline bool dd_next(int rank, const int64_t *dims, int64_t *index) {
    for (int k = rank; k-- > 0;) {
        if (++index[k] < dims[k])
            return true;
        index[k] = 0;
    }
    return false;
}

static inline int64_t dd_dot(int rank, const int64_t *index, const int64_t *strides) {
    int64_t sum = 0;
    for (int k = 0; k < rank; k++)
        sum += index[k] * strides[k];
    return sum;
}

#endif
