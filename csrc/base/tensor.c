/* Types and dense arrays. The plain product functions trust their type: dd_type_bytes() checks one
 * at the boundary, once. */
#include "base/tensor.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define BYTES_MAX ((int64_t)1 << 40)

static const struct {
    const char *name;
    size_t bytes;
} dtypes[DD_DTYPES] = {
    [DD_F32] = {"f32", 4}, [DD_F16] = {"f16", 2}, [DD_BF16] = {"bf16", 2},
    [DD_U8] = {"u8", 1},   [DD_S8] = {"s8", 1},   [DD_S32] = {"s32", 4},
};

size_t dd_dtype_bytes(dd_dtype dtype) {
    return (unsigned)dtype < DD_DTYPES ? dtypes[dtype].bytes : 0;
}

const char *dd_dtype_name(dd_dtype dtype) {
    return (unsigned)dtype < DD_DTYPES ? dtypes[dtype].name : "?";
}

dd_type dd_type_make(dd_dtype dtype, int rank, const int64_t *dims) {
    dd_type t = {.dtype = dtype, .rank = rank};
    for (int i = 0; i < rank && i < DD_MAX_RANK; i++)
        t.dims[i] = dims[i];
    return t;
}

bool dd_type_equal(const dd_type *a, const dd_type *b) {
    if (a->dtype != b->dtype || a->rank != b->rank)
        return false;
    for (int i = 0; i < a->rank; i++)
        if (a->dims[i] != b->dims[i])
            return false;
    return true;
}

int64_t dd_type_rows(const dd_type *t) {
    int64_t rows = 1;
    for (int i = 0; i + 1 < t->rank; i++)
        rows *= t->dims[i];
    return rows;
}

int64_t dd_type_last(const dd_type *t) {
    return t->rank ? t->dims[t->rank - 1] : 1;
}

int64_t dd_type_count(const dd_type *t) {
    return dd_type_rows(t) * dd_type_last(t);
}

dd_status dd_type_bytes(const dd_type *t, const char *who, size_t *bytes) {
    if (t->rank < 0 || t->rank > DD_MAX_RANK)
        return dd_fail(DD_EVALUE, "%s: rank is %d, 0 to %d is needed", who, t->rank, DD_MAX_RANK);
    if ((unsigned)t->dtype >= DD_DTYPES)
        return dd_fail(DD_EVALUE, "%s: %d is not a data type", who, (int)t->dtype);
    int64_t item = (int64_t)dtypes[t->dtype].bytes;
    int64_t size = item; /* with empty dimensions left out: products of others stay safe too */
    bool empty = false;
    for (int i = 0; i < t->rank; i++) {
        int64_t d = t->dims[i];
        if (d < 0)
            return dd_fail(DD_EVALUE, "%s: dimension %d is %" PRId64 ", at least 0 is needed", who,
                           i, d);
        empty |= d == 0;
        if (d > 0 && size > BYTES_MAX / d) {
            char text[160];
            return dd_fail(DD_ENOMEM, "%s: %s is larger than 1 TiB", who,
                           dd_type_text(t, text, sizeof text));
        }
        size *= d > 0 ? d : 1;
    }
    *bytes = empty ? 0 : (size_t)size;
    return DD_OK;
}

const char *dd_type_text(const dd_type *t, char *text, size_t capacity) {
    /* Six dimensions of twenty digits fit; a shorter `capacity` cuts the text, never overruns. */
    char whole[192];
    size_t used = (size_t)snprintf(whole, sizeof whole, "%s (", dd_dtype_name(t->dtype));
    for (int i = 0; i < t->rank && i < DD_MAX_RANK; i++)
        used += (size_t)snprintf(whole + used, sizeof whole - used, "%s%" PRId64, i ? ", " : "",
                                 t->dims[i]);
    (void)snprintf(whole + used, sizeof whole - used, "%s)", t->rank == 1 ? "," : "");
    if (capacity) {
        size_t length = strlen(whole);
        if (length > capacity - 1)
            length = capacity - 1;
        memcpy(text, whole, length);
        text[length] = '\0';
    }
    return text;
}

dd_array dd_array_dense(void *data, const dd_type *type) {
    return (dd_array){.data = data, .type = *type, .pitch = dd_type_last(type)};
}
