/* Polygons to run lengths, pixel by pixel what maskApi makes of them.
 *
 * Its rule: coordinates are rounded to a grid five times as fine, each edge becomes a chain of grid
 * points (one a step of its longer axis), and where the chain passes from one fine column to the
 * next in the middle of a pixel's column, that pixel column changes between out and in from the
 * row below the chain on. The sorted places of change are the ends of the runs.
 *
 * maskApi makes every point of the chain. Here only the steps that pass a middle (one column in
 * five) are worked out, straight from the edge's formula, so an edge costs its pixel columns and a
 * tall one next to nothing. The formula is evaluated at the same places with the same operations,
 * hence the same rounding. */
#include "evaluate/mask.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

#define SCALE 5
#define MIDDLE 2 /* fine column of a pixel's middle: (2 + .5) / 5 - .5 is 0 */
#define MAX_COORDINATE 1e8

typedef struct raster {
    uint32_t h, w;
    dd_runs *runs;
    size_t n; /* keys */
} raster;

/* The pixel column x changes at fine row v. */
static dd_status add_change(raster *r, int64_t x, int64_t v) {
    double y = ((double)v + .5) / SCALE - .5;
    y = y < 0 ? 0 : y > r->h ? r->h : y;
    DD_TRY(dd_reserve(&r->runs->keys, &r->runs->keys_capacity, r->n + 1, sizeof *r->runs->keys));
    r->runs->keys[r->n++] = (uint32_t)((uint64_t)x * r->h + (uint64_t)ceil(y));
    return DD_OK;
}

/* The pixel columns whose middle lies in the fine columns [u0, u1): *first to *last. */
static void pixel_columns(const raster *r, int64_t u0, int64_t u1, int64_t *first, int64_t *last) {
    *first = u0 <= MIDDLE ? 0 : (u0 - MIDDLE + SCALE - 1) / SCALE;
    *last = u1 <= MIDDLE ? -1 : (u1 - 1 - MIDDLE) / SCALE;
    if (*last > (int64_t)r->w - 1)
        *last = (int64_t)r->w - 1;
}

/* An edge that is at least as wide as tall, from (xs, ys) to the right: one point a column. */
static dd_status wide_edge(raster *r, int64_t xs, int64_t ys, int64_t xe, int64_t ye) {
    double slope = (double)(ye - ys) / (double)(xe - xs);
    int64_t first, last;
    pixel_columns(r, xs, xe, &first, &last);
    for (int64_t x = first; x <= last; x++) {
        int64_t t = x * SCALE + MIDDLE - xs; /* the step from column t to t + 1 */
        int64_t v0 = (int64_t)((double)ys + slope * (double)t + .5);
        int64_t v1 = (int64_t)((double)ys + slope * (double)(t + 1) + .5);
        DD_TRY(add_change(r, x, v0 < v1 ? v0 : v1));
    }
    return DD_OK;
}

/* An edge that is taller than wide, from (xs, ys) downwards: one point a row. The column grows (or
 * falls) with the row, so the row where it passes a middle is guessed by division and set right by
 * the formula itself. */
static dd_status tall_edge(raster *r, int64_t xs, int64_t ys, int64_t xe, int64_t ye) {
    double slope = (double)(xe - xs) / (double)(ye - ys), base = (double)xs;
    int64_t first, last, steps = ye - ys;
    pixel_columns(r, xs < xe ? xs : xe, xs < xe ? xe : xs, &first, &last);
    for (int64_t x = first; x <= last; x++) {
        int64_t c = x * SCALE + MIDDLE;
        /* Right: the first t of a column above c. Left: the first of a column not above c. */
        bool right = slope > 0;
        double edge = (double)c + .5;
        int64_t t = (int64_t)((edge - base) / slope);
        t = t < 1 ? 1 : t > steps ? steps : t;
#define COLUMN(t) ((int64_t)(base + slope * (double)(t) + .5))
#define PASSED(t) (right ? COLUMN(t) > c : COLUMN(t) <= c)
        while (t > 1 && PASSED(t - 1))
            t--;
        while (t < steps && !PASSED(t))
            t++;
        if (!PASSED(t))
            continue;
#undef PASSED
#undef COLUMN
        DD_TRY(add_change(r, x, ys + t - 1));
    }
    return DD_OK;
}

/* Edges are walked from their upper or left end, whichever way they point. */
static dd_status edge(raster *r, int64_t xs, int64_t ys, int64_t xe, int64_t ye) {
    int64_t dx = llabs(xe - xs), dy = llabs(ye - ys);
    if (xs == xe)
        return DD_OK; /* passes no column */
    bool flip = dx >= dy ? xs > xe : ys > ye;
    if (dx >= dy)
        return flip ? wide_edge(r, xe, ye, xs, ys) : wide_edge(r, xs, ys, xe, ye);
    return flip ? tall_edge(r, xe, ye, xs, ys) : tall_edge(r, xs, ys, xe, ye);
}

#define FEW 48
#define DIGIT 11 /* bits of a digit; three make a key */

/* Most masks have a few dozen changes, nearly in order. Of more each digit is sorted by counting;
 * keys has room for 2 n, and the sorted ones come out in front. */
static void sort_keys(uint32_t *keys, size_t n) {
    if (n > FEW) {
        uint32_t *from = keys, *to = keys + n;
        for (unsigned shift = 0; shift < 32; shift += DIGIT) {
            uint32_t starts[1 << DIGIT] = {0}, sum = 0;
            for (size_t i = 0; i < n; i++)
                starts[(from[i] >> shift) & ((1 << DIGIT) - 1)]++;
            for (size_t d = 0; d < 1 << DIGIT; d++) {
                uint32_t here = starts[d];
                starts[d] = sum;
                sum += here;
            }
            for (size_t i = 0; i < n; i++)
                to[starts[(from[i] >> shift) & ((1 << DIGIT) - 1)]++] = from[i];
            uint32_t *t = from;
            from = to;
            to = t;
        }
        memcpy(keys, from, n * sizeof *keys); /* three digits: the result lies behind */
        return;
    }
    for (size_t i = 1; i < n; i++) {
        uint32_t key = keys[i];
        size_t k = i;
        for (; k && keys[k - 1] > key; k--)
            keys[k] = keys[k - 1];
        keys[k] = key;
    }
}

/* Sorted changes to runs. Two changes at one place cancel out: the runs around them join. */
static dd_status append_runs(raster *r) {
    dd_runs *runs = r->runs;
    size_t n = r->n;
    DD_TRY(dd_reserve(&runs->keys, &runs->keys_capacity, 2 * n, sizeof *runs->keys));
    uint32_t *keys = runs->keys, before = 0;
    sort_keys(keys, n);
    DD_TRY(dd_reserve(&runs->counts, &runs->capacity, runs->n + n + 1, sizeof *runs->counts));
    uint32_t *counts = runs->counts + runs->n;
    size_t m = 0;
    for (size_t i = 0; i <= n; i++) {
        uint32_t key = i < n ? keys[i] : r->h * r->w, run = key - before;
        before = key;
        if (run || !m) {
            counts[m++] = run;
        } else if (i < n) { /* an empty run: the next one goes on with the one before it */
            i++;
            key = i < n ? keys[i] : r->h * r->w;
            counts[m - 1] += key - before;
            before = key;
        }
    }
    runs->n += m;
    return DD_OK;
}

dd_status dd_mask_from_polygon(const double *xy, size_t k, uint32_t h, uint32_t w, dd_runs *runs) {
    raster r = {.h = h, .w = w, .runs = runs};
    DD_TRY(dd_mask_check_size(h, w));
    for (size_t i = 0; i < 2 * k; i++)
        if (!(fabs(xy[i]) <= MAX_COORDINATE))
            return dd_fail(DD_EVALUE, "mask: coordinate %zu of a polygon is %g", i, xy[i]);
    for (size_t i = 0; i < k; i++) {
        const double *a = xy + 2 * i, *b = xy + 2 * (i + 1 < k ? i + 1 : 0);
        DD_TRY(edge(&r, (int64_t)(SCALE * a[0] + .5), (int64_t)(SCALE * a[1] + .5),
                    (int64_t)(SCALE * b[0] + .5), (int64_t)(SCALE * b[1] + .5)));
    }
    return append_runs(&r);
}

dd_status dd_mask_from_box(const double box[4], uint32_t h, uint32_t w, dd_runs *runs) {
    double x1 = box[0] + box[2], y1 = box[1] + box[3];
    double xy[8] = {box[0], box[1], box[0], y1, x1, y1, x1, box[1]};
    return dd_mask_from_polygon(xy, 4, h, w, runs);
}
