/* Types and arrays: what every layer above the kernels calls data.
 *
 * An array's last dimension is contiguous; its rows (the product of all other dimensions) lie
 * `pitch` elements apart, pitch >= dims[rank-1]. An activation is (N, H, W, C), so a row is a
 * pixel. A dense array has pitch == dims[rank-1]. Rank 0 is one element. */
#ifndef DD_BASE_TENSOR_H
#define DD_BASE_TENSOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

#define DD_MAX_RANK 6
#define DD_MAX_NAME 400 /* bytes of a name, of entries and of graphs' parts: a file's limit too */

typedef enum dd_dtype { DD_F32 = 0, DD_F16, DD_BF16, DD_U8, DD_S8, DD_S32, DD_DTYPES } dd_dtype;

typedef struct dd_type {
    dd_dtype dtype;
    int rank;
    int64_t dims[DD_MAX_RANK];
} dd_type;

typedef struct dd_array {
    void *data; /* NULL: an absent optional input, or an output that nobody wants */
    dd_type type;
    int64_t pitch;
} dd_array;

size_t dd_dtype_bytes(dd_dtype dtype);
const char *dd_dtype_name(dd_dtype dtype); /* "f32", "u8", ... */

dd_type dd_type_make(dd_dtype dtype, int rank, const int64_t *dims);
bool dd_type_equal(const dd_type *a, const dd_type *b);
int64_t dd_type_rows(const dd_type *t);  /* product of all dimensions but the last; 1 for rank 0 */
int64_t dd_type_last(const dd_type *t);  /* the last dimension; 1 for rank 0 */
int64_t dd_type_count(const dd_type *t); /* elements */
/* Bytes of a dense array. Fails on a dimension < 0 or when the size passes 2^40. */
dd_status dd_type_bytes(const dd_type *t, const char *who, size_t *bytes);
/* "f32 (1, 40, 40, 64)" into `text`, returned. */
const char *dd_type_text(const dd_type *t, char *text, size_t capacity);

dd_array dd_array_dense(void *data, const dd_type *type);

#endif
