/* One output row of max or mean pooling. A window's columns are cut to the map once a pixel; its
 * rows outside the map come as NULL. Every window has at least one tap inside the map. */
#include <string.h>

#include "kernels/loops.h"
#include "kernels/kernels.h"
#include "simd/simd.h"

enum { MAX_ROWS = 64 }; /* of a maximum without indices */

typedef struct window {
    int64_t first; /* input pixel of the first tap */
    int taps;      /* of a row, those inside the map */
} window;

static window window_of(const dd_pool *p, int64_t x) {
    int64_t begin = x * p->stride - p->pad_left, end = begin + p->k_w;
    begin = begin < 0 ? 0 : begin;
    end = end > p->in_width ? p->in_width : end;
    return (window){begin, end > begin ? (int)(end - begin) : 0};
}

/* The larger of both, the first on ties; a NaN stays, as in torch: max(v, best) is best where one
 * of the two is a NaN, so that of v asks for a word of its own. */
V_INLINE vf larger(vf best, vf v) {
    return v_select(v_eq(v, v), v_max(v, best), v);
}

/* Of `rows` rows by `taps` pixels from `first` on; n lanes from channel ch on. The constants, where
 * they are, unroll it. */
V_INLINE vf max_of(const float *const *rows, int n_rows, int64_t first, int64_t pitch, int taps,
                   int ch, int n) {
    vf best = v_set1(-__builtin_inff());
    for (int r = 0; r < n_rows; r++) {
        const float *in = rows[r] + first * pitch + ch;
        for (int s = 0; s < taps; s++)
            best = larger(best, V_LOAD(in + s * pitch, n));
    }
    return best;
}

V_INLINE void max_pixel(const dd_pool *p, const float *const *rows, int n_rows, window w, float *y,
                        int taps) {
    int ch = 0;
    for (; ch + VL <= p->c; ch += VL)
        v_store(y + ch, max_of(rows, n_rows, w.first, p->pitch, taps, ch, VL));
    if (ch < p->c)
        v_store_n(y + ch, max_of(rows, n_rows, w.first, p->pitch, taps, ch, p->c - ch), p->c - ch);
}

/* Maxima without indices: of a long pixel's few rows, or of a row's few pixels, mostly. */
static void max_row(const dd_pool *p) {
    const float *rows[MAX_ROWS];
    int n_rows = 0;
    for (int r = 0; r < p->k_h; r++)
        if (p->rows[r] != NULL)
            rows[n_rows++] = p->rows[r];
    for (int64_t x = 0; x < p->width; x++) {
        const window w = window_of(p, x);
        float *y = p->y + x * p->y_pitch;
        if (n_rows == 3 && w.taps == 1)
            max_pixel(p, rows, 3, w, y, 1);
        else if (n_rows == 1 && w.taps == 3)
            max_pixel(p, rows, 1, w, y, 3);
        else if (n_rows == 1 && w.taps == 5)
            max_pixel(p, rows, 1, w, y, 5);
        else
            max_pixel(p, rows, n_rows, w, y, w.taps);
    }
}

/* The same with the tap's flat position. The first tap wins over the start value even where it is
 * -inf, so that an index always names a tap of the window. */
V_INLINE void max_index_vector(const dd_pool *p, window w, float *y, int32_t *index, int ch,
                               int n) {
    vf best = v_zero();
    vi where = v_set1_int(0);
    bool started = false;
    for (int r = 0; r < p->k_h; r++) {
        if (p->rows[r] == NULL)
            continue;
        const float *in = p->rows[r] + w.first * p->pitch + ch;
        const int64_t place = p->row_index[r] * p->in_width + w.first;
        for (int s = 0; s < w.taps; s++) {
            vf v = V_LOAD(in + s * p->pitch, n);
            vi at = v_set1_int((int32_t)(place + s));
            if (!started) {
                best = v;
                where = at;
                started = true;
                continue;
            }
            where = v_select_int(v_gt(v, best), at, where);
            where = v_select_int(v_eq(v, v), where, at);
            best = larger(best, v);
        }
    }
    V_STORE(y + ch, best, n);
    v_store_int_n(index + ch, where, n);
}

V_INLINE void mean_vector(const dd_pool *p, window w, float *y, float factor, int ch, int n) {
    vf sum = v_zero();
    for (int r = 0; r < p->k_h; r++) {
        if (p->rows[r] == NULL)
            continue;
        const float *in = p->rows[r] + w.first * p->pitch + ch;
        for (int s = 0; s < w.taps; s++)
            sum = v_add(sum, V_LOAD(in + s * p->pitch, n));
    }
    V_STORE(y + ch, v_mul(sum, v_set1(factor)), n);
}

/* 1 / (number of taps that the mean divides by). */
static float mean_factor(const dd_pool *p, window w) {
    int rows = 0;
    for (int r = 0; r < p->k_h; r++)
        rows += p->rows[r] != NULL;
    const int taps = p->count_pad ? p->k_h * p->k_w : rows * w.taps;
    return taps > 0 ? 1.0f / (float)taps : 0.0f;
}

void DD_NAME(pool_f32)(const dd_pool *p) {
    if (!p->mean && p->index == NULL) {
        max_row(p);
        return;
    }
    for (int64_t x = 0; x < p->width; x++) {
        const window w = window_of(p, x);
        float *y = p->y + x * p->y_pitch;
        /* indices are dense: c to a pixel, since no other array has their layout */
        int32_t *index = p->index ? p->index + x * p->c : NULL;
        const float factor = p->mean ? mean_factor(p, w) : 0.0f;
        for (int ch = 0; ch < p->c; ch += VL) {
            const int n = p->c - ch < VL ? p->c - ch : VL;
            if (p->mean)
                mean_vector(p, w, y, factor, ch, n);
            else
                max_index_vector(p, w, y, index, ch, n);
        }
    }
}
