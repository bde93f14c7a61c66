/* See walk.h. */
#include "ops/walk.h"

#include <string.h>

/* A size of 1 gets stride 0 even where the wide one is 1 too: the index is 0 there anyway. */
void dd_strides_broadcast(const dd_array *a, const dd_type *wide, int64_t *strides) {
    int64_t own[DD_MAX_RANK];
    int missing = wide->rank - a->type.rank;
    dd_strides(a, own);
    for (int k = 0; k < wide->rank; k++) {
        bool there = k >= missing && a->type.dims[k - missing] != 1;
        strides[k] = there ? own[k - missing] : 0;
    }
}

bool dd_broadcast(dd_type *wide, const dd_type *t) {
    dd_type y = *wide;
    y.rank = wide->rank > t->rank ? wide->rank : t->rank;
    for (int k = 0; k < y.rank; k++) {
        int kw = k - (y.rank - wide->rank), kt = k - (y.rank - t->rank);
        int64_t a = kw < 0 ? 1 : wide->dims[kw], b = kt < 0 ? 1 : t->dims[kt];
        if (a != b && a != 1 && b != 1)
            return false;
        y.dims[k] = a == 1 ? b : a;
    }
    *wide = y;
    return true;
}

/* The innermost axis: one block where both sides are contiguous. */
static void move_line(const char *from, char *to, int64_t n, int64_t from_step, int64_t to_step,
                      size_t bytes) {
    if (from_step == 1 && to_step == 1) {
        memmove(to, from, (size_t)n * bytes);
        return;
    }
    int64_t f = from_step * (int64_t)bytes, t = to_step * (int64_t)bytes;
    if (bytes == 4) {
        for (int64_t i = 0; i < n; i++)
            memcpy(to + i * t, from + i * f, 4);
        return;
    }
    for (int64_t i = 0; i < n; i++)
        memcpy(to + i * t, from + i * f, bytes);
}

/* The inner axis is a line, the others an odometer: no axis order is special, so one function
 * serves transposes, windows, flips and factored axes. memmove, since a view may be its source. */
void dd_move_run(const dd_move *m) {
    int64_t index[DD_WALK_RANK] = {0};
    int outer = m->rank - 1;
    for (int k = 0; k < m->rank; k++)
        if (m->dims[k] == 0)
            return;
    if (m->rank == 0) {
        memmove(m->to, m->from, m->bytes);
        return;
    }
    do {
        int64_t f = dd_dot(outer, index, m->from_strides), t = dd_dot(outer, index, m->to_strides);
        move_line((const char *)m->from + f * (int64_t)m->bytes,
                  (char *)m->to + t * (int64_t)m->bytes, m->dims[outer], m->from_strides[outer],
                  m->to_strides[outer], m->bytes);
    } while (dd_next(outer, m->dims, index));
}

/* Both sides run through their rows at their own lengths; a step is what is left of both. */
void dd_copy(const dd_array *from, const dd_array *to) {
    if (from->data == to->data)
        return;
    size_t bytes = dd_dtype_bytes(from->type.dtype);
    int64_t count = dd_type_count(&from->type);
    int64_t f_last = dd_type_last(&from->type), t_last = dd_type_last(&to->type);
    int64_t f_row = 0, t_row = 0, f_at = 0, t_at = 0;
    while (count > 0) {
        int64_t f_left = f_last - f_at, t_left = t_last - t_at;
        int64_t n = f_left < t_left ? f_left : t_left;
        memmove(dd_row_any(to, t_row) + (size_t)t_at * bytes,
                dd_row_any(from, f_row) + (size_t)f_at * bytes, (size_t)n * bytes);
        f_at += n;
        t_at += n;
        if (f_at == f_last) {
            f_at = 0;
            f_row++;
        }
        if (t_at == t_last) {
            t_at = 0;
            t_row++;
        }
        count -= n;
    }
}

void dd_fill_f32(const dd_array *a, float value) {
    int64_t rows = dd_type_rows(&a->type), last = dd_type_last(&a->type);
    for (int64_t row = 0; row < rows; row++) {
        float *p = dd_row_f32(a, row);
        for (int64_t i = 0; i < last; i++)
            p[i] = value;
    }
}

void dd_fill_zero(const dd_array *a) {
    int64_t rows = dd_type_rows(&a->type);
    size_t bytes = (size_t)dd_type_last(&a->type) * dd_dtype_bytes(a->type.dtype);
    for (int64_t row = 0; row < rows; row++)
        memset(dd_row_any(a, row), 0, bytes);
}
