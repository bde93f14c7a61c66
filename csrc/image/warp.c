/* The affine warp. Source coordinates are integers with 24 fraction bits that step from pixel to
 * pixel, so a row splits exactly into border, edge (taps must be clamped) and interior (they need
 * not), and a map by whole pixels is exact. */
#include "image/warp.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    POINT = 24,         /* fraction bits of a coordinate */
    BLEND = 8,          /* fraction bits of a bilinear weight */
    MAX_PLACES = 8 * 8, /* places within a pixel that are averaged */
};
#define ONE ((int64_t)1 << POINT)

typedef struct warp {
    const dd_pixels *source;
    int64_t x, y;           /* the source place of target coordinate (0, 0) */
    int64_t xx, xy, yx, yy; /* d(source x)/d(target x), d(source x)/d(target y), … */
    int places, shift;      /* places a pixel; log2 of their number */
    int64_t place_x[MAX_PLACES], place_y[MAX_PLACES]; /* offsets from the pixel's centre */
    int64_t margin_x, margin_y;                       /* how far the places reach */
} warp;

dd_warp_matrix dd_warp_matrix_after(dd_warp_matrix s, dd_warp_matrix t) {
    return (dd_warp_matrix){
        s.a * t.a + s.b * t.d, s.a * t.b + s.b * t.e, s.a * t.c + s.b * t.f + s.c,
        s.d * t.a + s.e * t.d, s.d * t.b + s.e * t.e, s.d * t.c + s.e * t.f + s.f,
    };
}

dd_status dd_warp_matrix_invert(const dd_warp_matrix *m, dd_warp_matrix *inverse) {
    double det = m->a * m->e - m->b * m->d;
    if (!(fabs(det) > 1e-12) || !isfinite(det) || !isfinite(m->c) || !isfinite(m->f))
        return dd_fail(DD_EVALUE,
                       "warp: a matrix of determinant %g came, one that can be inverted is needed",
                       det);
    dd_warp_matrix v = {.a = m->e / det, .b = -m->b / det, .d = -m->d / det, .e = m->a / det};
    v.c = -(v.a * m->c + v.b * m->f);
    v.f = -(v.d * m->c + v.e * m->f);
    *inverse = v;
    return DD_OK;
}

/* ceil(n / d) for d > 0. */
static int64_t divide_up(int64_t n, int64_t d) {
    return n / d + (n % d > 0);
}

/* Narrows *from <= x < *to to the x with low <= start + x · step < high. */
static void narrow(int64_t start, int64_t step, int64_t low, int64_t high, int *from, int *to) {
    if (step == 0) {
        if (start < low || start >= high)
            *to = *from;
        return;
    }
    if (step < 0) { /* the same question mirrored */
        int64_t mirrored = 1 - high;
        high = 1 - low;
        low = mirrored;
        start = -start;
        step = -step;
    }
    int64_t first = divide_up(low - start, step), end = divide_up(high - start, step);
    if (first > *from)
        *from = first < *to ? (int)first : *to;
    if (end < *to)
        *to = end > *from ? (int)end : *from;
}

/* Adds one bilinear tap, weights summing to 2^16. (x, y) is relative to pixel centres. */
static inline void tap(const dd_pixels *s, int64_t x, int64_t y, int edge, uint32_t *sum) {
    int64_t ix = x >> POINT, iy = y >> POINT;
    uint32_t fx = (uint32_t)(x >> (POINT - BLEND)) & 255,
             fy = (uint32_t)(y >> (POINT - BLEND)) & 255;
    const uint8_t *p, *q, *u, *v;
    if (edge) {
        int64_t right = s->width - 1, bottom = s->height - 1;
        int64_t x0 = ix < 0 ? 0 : ix > right ? right : ix, x1 = ix + 1 < 0 ? 0 : ix + 1;
        int64_t y0 = iy < 0 ? 0 : iy > bottom ? bottom : iy, y1 = iy + 1 < 0 ? 0 : iy + 1;
        x1 = x1 > right ? right : x1;
        y1 = y1 > bottom ? bottom : y1;
        p = s->data + y0 * s->stride + 3 * x0;
        q = s->data + y0 * s->stride + 3 * x1;
        u = s->data + y1 * s->stride + 3 * x0;
        v = s->data + y1 * s->stride + 3 * x1;
    } else {
        p = s->data + iy * s->stride + 3 * ix;
        q = p + 3;
        u = p + s->stride;
        v = u + 3;
    }
    uint32_t wq = fx * (256 - fy), wu = (256 - fx) * fy, wv = fx * fy;
    uint32_t wp = 65536 - wq - wu - wv;
    for (int c = 0; c < 3; c++)
        sum[c] += wp * p[c] + wq * q[c] + wu * u[c] + wv * v[c];
}

/* Target pixels from..to−1 of row y; `edge` and `single` are constants where it is inlined. */
static inline void run(const warp *w, int y, int from, int to, int edge, int single, uint8_t *out) {
    int64_t sx = w->x + (int64_t)y * w->xy + (int64_t)from * w->xx - ONE / 2;
    int64_t sy = w->y + (int64_t)y * w->yy + (int64_t)from * w->yx - ONE / 2;
    const dd_pixels source = *w->source; /* a copy: bytes stored through `out` may not alias it */
    const int64_t xx = w->xx, yx = w->yx;
    const int shift = 2 * BLEND + w->shift;
    for (int x = from; x < to; x++, sx += xx, sy += yx, out += 3) {
        uint32_t sum[3] = {1u << (shift - 1), 1u << (shift - 1), 1u << (shift - 1)};
        if (single)
            tap(&source, sx, sy, edge, sum);
        else
            for (int i = 0; i < w->places; i++)
                tap(&source, sx + w->place_x[i], sy + w->place_y[i], edge, sum);
        out[0] = (uint8_t)(sum[0] >> shift);
        out[1] = (uint8_t)(sum[1] >> shift);
        out[2] = (uint8_t)(sum[2] >> shift);
    }
}

static void edge_run(const warp *w, int y, int from, int to, uint8_t *out) {
    run(w, y, from, to, 1, 0, out);
}

static void inner_run(const warp *w, int y, int from, int to, uint8_t *out) {
    if (w->places == 1)
        run(w, y, from, to, 0, 1, out);
    else
        run(w, y, from, to, 0, 0, out);
}

static void warp_row(const warp *w, const dd_hsv *hsv, uint8_t *row, int y, dd_rect where) {
    int64_t width = w->source->width * ONE, height = w->source->height * ONE;
    int64_t x = w->x + (int64_t)y * w->xy, y_at_0 = w->y + (int64_t)y * w->yy;
    int from = where.x0, to = where.x1;
    narrow(x, w->xx, 0, width, &from, &to);
    narrow(y_at_0, w->yx, 0, height, &from, &to);
    memset(row + 3 * (ptrdiff_t)where.x0, DD_PIXEL_BORDER, 3 * (size_t)(from - where.x0));
    memset(row + 3 * (ptrdiff_t)to, DD_PIXEL_BORDER, 3 * (size_t)(where.x1 - to));
    int in_from = from, in_to = to;
    narrow(x, w->xx, ONE / 2 + w->margin_x, width - ONE / 2 - w->margin_x, &in_from, &in_to);
    narrow(y_at_0, w->yx, ONE / 2 + w->margin_y, height - ONE / 2 - w->margin_y, &in_from, &in_to);
    if (in_to <= in_from)
        in_from = in_to = to;
    edge_run(w, y, from, in_from, row + 3 * (ptrdiff_t)from);
    inner_run(w, y, in_from, in_to, row + 3 * (ptrdiff_t)in_from);
    edge_run(w, y, in_to, to, row + 3 * (ptrdiff_t)in_to);
    if (hsv && to > from)
        dd_hsv_apply(hsv, row + 3 * (ptrdiff_t)from, to - from);
}

/* How many places a pixel needs, and where they are: a grid over the target pixel. */
static void warp_places(warp *w, const dd_warp_matrix *m) {
    double shrink = sqrt(fabs(m->a * m->e - m->b * m->d));
    int side = shrink <= 1.5 ? 1 : shrink <= 3.0 ? 2 : shrink <= 6.0 ? 4 : 8;
    w->places = side * side;
    w->shift = side == 1 ? 0 : side == 2 ? 2 : side == 4 ? 4 : 6;
    for (int i = 0; i < w->places; i++) {
        /* odd multiples of half a grid step around the centre */
        int px = 2 * (i % side) - side + 1, py = 2 * (i / side) - side + 1;
        w->place_x[i] = (px * w->xx + py * w->xy) / (2 * side);
        w->place_y[i] = (px * w->yx + py * w->yy) / (2 * side);
    }
    w->margin_x = side == 1 ? 0 : (llabs(w->xx) + llabs(w->xy)) / 2;
    w->margin_y = side == 1 ? 0 : (llabs(w->yx) + llabs(w->yy)) / 2;
}

static int64_t fixed(double value) {
    return (int64_t)llrint(value * (double)ONE);
}

dd_status dd_warp(const dd_pixels *source, const dd_warp_matrix *inverse, const dd_hsv *hsv,
                  const dd_pixels *target, dd_rect where) {
    const dd_warp_matrix m = *inverse;
    DD_TRY(dd_pixels_check(source, "warp: source"));
    DD_TRY(dd_pixels_check(target, "warp: target"));
    if (where.x0 < 0 || where.y0 < 0 || where.x1 > target->width || where.y1 > target->height ||
        where.x0 > where.x1 || where.y0 > where.y1)
        return dd_fail(DD_EVALUE, "warp: a rectangle (%d, %d, %d, %d) came, the target is %d x %d",
                       where.x0, where.y0, where.x1, where.y1, target->width, target->height);
    /* a sum and no maximum: fmax() would swallow a NaN */
    double linear = fabs(m.a) + fabs(m.b) + fabs(m.d) + fabs(m.e);
    if (!(linear <= 65536.0) || !(fabs(m.c) <= 0x1p30) || !(fabs(m.f) <= 0x1p30))
        return dd_fail(DD_EVALUE, "warp: coefficients (%g, %g, %g; %g, %g, %g) are too large", m.a,
                       m.b, m.c, m.d, m.e, m.f);
    warp w = {
        .source = source, .xx = fixed(m.a), .xy = fixed(m.b), .yx = fixed(m.d), .yy = fixed(m.e)};
    /* the place of a pixel's centre: half a step further in both directions */
    w.x = fixed(m.c + 0.5 * m.a + 0.5 * m.b);
    w.y = fixed(m.f + 0.5 * m.d + 0.5 * m.e);
    warp_places(&w, &m);
    for (int y = where.y0; y < where.y1; y++)
        warp_row(&w, hsv, dd_pixels_row(target, y), y, where);
    return DD_OK;
}
