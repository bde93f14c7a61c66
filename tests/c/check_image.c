/* Checks of csrc/image against twins in double precision that share no code with it: sizes, edges,
 * random parameters, bad input, failing memory. Every buffer is exactly as long as it must be, so
 * that the address sanitizer sees any step beyond. */
#include "check.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/random.h"
#include "image/augment.h"
#include "image/order.h"

static const double PI = 3.14159265358979323846;

/* ---- pictures ------------------------------------------------------------------------------ */

static dd_pixels picture_make(int width, int height, uint32_t seed) {
    dd_stream s;
    dd_stream_init(&s, seed, 0, 0, DD_FOR_TEST);
    dd_pixels p = {.width = width, .height = height, .stride = 3 * (ptrdiff_t)width};
    p.data = malloc((size_t)p.stride * (size_t)height);
    for (size_t i = 0; i < (size_t)p.stride * (size_t)height; i++)
        p.data[i] = (uint8_t)dd_stream_u32(&s);
    return p;
}

/* Smooth content: a wrong coordinate shows, a rounded weight does not. */
static void picture_smooth(const dd_pixels *p) {
    for (int y = 0; y < p->height; y++)
        for (int x = 0; x < p->width; x++)
            for (int c = 0; c < 3; c++)
                dd_pixels_row(p, y)[3 * x + c] =
                    (uint8_t)(128 + 100 * sin(0.11 * x + c) * cos(0.07 * y - c));
}

static int at(const dd_pixels *p, int x, int y, int c) {
    x = x < 0 ? 0 : x >= p->width ? p->width - 1 : x;
    y = y < 0 ? 0 : y >= p->height ? p->height - 1 : y;
    return dd_pixels_row(p, y)[3 * x + c];
}

static double bilinear(const dd_pixels *p, double x, double y, int c) {
    x -= 0.5;
    y -= 0.5;
    int ix = (int)floor(x), iy = (int)floor(y);
    double fx = x - ix, fy = y - iy;
    return (1 - fy) * ((1 - fx) * at(p, ix, iy, c) + fx * at(p, ix + 1, iy, c)) +
           fy * ((1 - fx) * at(p, ix, iy + 1, c) + fx * at(p, ix + 1, iy + 1, c));
}

/* ---- letterbox and resize ------------------------------------------------------------------ */

static void check_fit(void) {
    static const struct {
        int w, h, side, fw, fh, left, top;
    } rows[] = {
        {640, 480, 320, 320, 240, 0, 40}, {480, 640, 320, 240, 320, 40, 0},
        {320, 320, 320, 320, 320, 0, 0},  {1, 1, 64, 64, 64, 0, 0},
        {60000, 10, 320, 320, 1, 0, 159}, {333, 500, 416, 277, 416, 69, 0},
        {65535, 65535, 32, 32, 32, 0, 0}, {100, 30, 320, 320, 96, 0, 112},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        dd_fit f;
        CHECK(dd_fit_make(rows[i].w, rows[i].h, rows[i].side, &f) == DD_OK, "%s", dd_message());
        CHECK(f.width == rows[i].fw && f.height == rows[i].fh && f.left == rows[i].left &&
                  f.top == rows[i].top,
              "row %zu: %d x %d at (%d, %d)", i, f.width, f.height, f.left, f.top);
    }
    static const int bad[][3] = {{0, 5, 32}, {5, -1, 32}, {65536, 5, 32}, {5, 5, 0}, {5, 5, 8193}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        dd_fit f = {.width = -7};
        CHECK(dd_fit_make(bad[i][0], bad[i][1], bad[i][2], &f) == DD_EVALUE, "row %zu", i);
        CHECK(f.width == -7, "a failure left its result touched");
    }
}

static double resize_twin(const dd_pixels *s, double step, int x, int y, int c) {
    double support = step > 1 ? step : 1, cx = (x + 0.5) * step, cy = (y + 0.5) * step;
    double sum = 0, total = 0;
    for (int j = 0; j < s->height; j++) {
        double wy = 1 - fabs(j + 0.5 - cy) / support;
        if (wy <= 0)
            continue;
        for (int i = 0; i < s->width; i++) {
            double wx = 1 - fabs(i + 0.5 - cx) / support;
            if (wx <= 0)
                continue;
            sum += wx * wy * at(s, i, j, c);
            total += wx * wy;
        }
    }
    return sum / total;
}

static void check_resize(void) {
    static const struct {
        int w, h, tw, th;
        double step;
    } rows[] = {{40, 30, 20, 15, 2.0},     {41, 31, 21, 16, 2.0}, {17, 23, 34, 46, 0.5},
                {50, 20, 16, 6, 3.125},    {9, 9, 9, 9, 1.0},     {1, 1, 5, 5, 0.2},
                {64, 3, 20, 1, 3.2},       {200, 1, 2, 1, 100.0}, {33, 47, 30, 43, 33.0 / 30},
                {300, 200, 32, 21, 9.375}, {7, 5, 8, 6, 1.0}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        dd_pixels s = picture_make(rows[i].w, rows[i].h, (uint32_t)i);
        dd_pixels t = picture_make(rows[i].tw, rows[i].th, 99),
                  u = picture_make(t.width, t.height, 98);
        CHECK(dd_resize(&s, rows[i].step, &t, 0, t.height) == DD_OK, "%s", dd_message());
        double worst = 0;
        for (int y = 0; y < t.height; y++)
            for (int x = 0; x < t.width; x++)
                for (int c = 0; c < 3; c++)
                    worst =
                        fmax(worst, fabs(at(&t, x, y, c) - resize_twin(&s, rows[i].step, x, y, c)));
        CHECK(worst <= 1.0, "row %zu: %g away from the twin", i, worst);
        for (int y = 0; y < t.height; y += 3) /* strips give the same bytes */
            dd_resize(&s, rows[i].step, &u, y, y + 3 < t.height ? y + 3 : t.height);
        CHECK(!memcmp(t.data, u.data, (size_t)t.stride * (size_t)t.height), "row %zu: strips", i);
        memset(s.data, 255, (size_t)s.stride * (size_t)s.height);
        CHECK(dd_resize(&s, rows[i].step, &t, 0, t.height) == DD_OK, "%s", dd_message());
        for (ptrdiff_t k = 0; k < t.stride * t.height; k++)
            if (t.data[k] != 255) {
                CHECK(false, "row %zu: a flat picture came out with %d", i, t.data[k]);
                break;
            }
        free(s.data), free(t.data), free(u.data);
    }
}

static void check_letterbox(void) {
    dd_pixels s = picture_make(64, 48, 1), t = picture_make(64, 64, 2);
    dd_fit f;
    dd_fit_make(128, 96, 64, &f); /* a scaled decode at one half: bytes are copied */
    CHECK(dd_letterbox(&s, 0.5, &f, &t) == DD_OK, "%s", dd_message());
    for (int y = 0; y < 64; y++) {
        const uint8_t *row = dd_pixels_row(&t, y);
        if (y >= 8 && y < 56)
            CHECK(!memcmp(row, dd_pixels_row(&s, y - 8), 192), "row %d is not the source's", y);
        else
            for (int i = 0; i < 192; i++)
                CHECK(row[i] == DD_PIXEL_BORDER, "border (%d, %d) is %d", i / 3, y, row[i]);
    }
    /* every allocation of a real resize may fail: nothing leaks, the status says so */
    uint64_t live = dd_alloc_live();
    int failures = 0;
    for (uint64_t n = 1; n < 30; n++) {
        dd_alloc_fail_at(n);
        dd_status status = dd_letterbox(&s, 0.7, &f, &t);
        dd_alloc_fail_at(0);
        CHECK(status == DD_OK || status == DD_ENOMEM, "allocation %d: status %d", (int)n, status);
        CHECK(dd_alloc_live() == live, "allocation %d: a block is left", (int)n);
        failures += status != DD_OK;
    }
    CHECK(failures >= 5 && failures < 29, "%d allocations were made to fail", failures);
    dd_pixels narrow = {t.data, 64, 32, 192};
    CHECK(dd_letterbox(&s, 1.0, &f, &narrow) == DD_EVALUE, "a target that is not square");
    CHECK(dd_letterbox(&s, 0.0, &f, &t) == DD_EVALUE, "a scale of 0");
    CHECK(dd_resize(&s, NAN, &t, 0, 1) == DD_EVALUE, "a step of NaN");
    CHECK(dd_resize(&s, 2.0, &t, 3, 99) == DD_EVALUE, "rows beyond the target");
    narrow.stride = 100;
    CHECK(dd_resize(&narrow, 2.0, &t, 0, 1) == DD_EVALUE, "a stride below a row");
    free(s.data), free(t.data);
}

/* ---- warp ---------------------------------------------------------------------------------- */

static dd_warp_matrix random_inverse(dd_stream *s, const dd_pixels *source,
                                     const dd_pixels *target) {
    double zoom = exp(dd_stream_range(s, -1.6f, 1.6f)), turn = dd_stream_range(s, -3.2f, 3.2f);
    double mirror = dd_stream_below(s, 2) ? -1 : 1;
    dd_warp_matrix m = {zoom * cos(turn),          -zoom * sin(turn),         0,
                        mirror * zoom * sin(turn), mirror * zoom * cos(turn), 0};
    double cx = target->width * 0.5, cy = target->height * 0.5;
    m.c = source->width * dd_stream_uniform(s) - m.a * cx - m.b * cy;
    m.f = source->height * dd_stream_uniform(s) - m.d * cx - m.e * cy;
    return m;
}

/* The pixel by the header's words: the centre decides, then the mean over the places. */
static double warp_twin(const dd_pixels *s, const dd_warp_matrix *m, int x, int y, int c,
                        bool *sure) {
    double cx = x + 0.5, cy = y + 0.5;
    double sx = m->a * cx + m->b * cy + m->c, sy = m->d * cx + m->e * cy + m->f;
    double near = fmin(fmin(fabs(sx), fabs(sx - s->width)), fmin(fabs(sy), fabs(sy - s->height)));
    *sure = near > 1e-3; /* on the very border rounding decides */
    if (sx < 0 || sy < 0 || sx >= s->width || sy >= s->height)
        return DD_PIXEL_BORDER;
    double shrink = sqrt(fabs(m->a * m->e - m->b * m->d));
    int n = shrink <= 1.5 ? 1 : shrink <= 3 ? 2 : shrink <= 6 ? 4 : 8;
    double sum = 0;
    for (int j = 0; j < n; j++)
        for (int i = 0; i < n; i++) {
            double px = x + (i + 0.5) / n, py = y + (j + 0.5) / n;
            sum += bilinear(s, m->a * px + m->b * py + m->c, m->d * px + m->e * py + m->f, c);
        }
    return sum / (n * n);
}

static void check_warp_random(void) {
    static const int sizes[][4] = {
        {40, 30, 24, 24}, {1, 1, 9, 9}, {2, 60, 31, 17}, {90, 3, 16, 16}};
    dd_stream s;
    dd_stream_init(&s, 5, 0, 0, DD_FOR_TEST);
    for (int trial = 0; trial < 240; trial++) {
        const int *size = sizes[trial % 4];
        dd_pixels source = picture_make(size[0], size[1], (uint32_t)trial);
        dd_pixels target = picture_make(size[2], size[3], 7),
                  parts = picture_make(size[2], size[3], 8);
        picture_smooth(&source);
        dd_warp_matrix m = random_inverse(&s, &source, &target);
        dd_rect all = {0, 0, target.width, target.height};
        CHECK(dd_warp(&source, &m, NULL, &target, all) == DD_OK, "%s", dd_message());
        double worst = 0;
        for (int y = 0; y < target.height; y++)
            for (int x = 0; x < target.width; x++)
                for (int c = 0; c < 3; c++) {
                    bool sure;
                    double twin = warp_twin(&source, &m, x, y, c, &sure);
                    if (sure)
                        worst = fmax(worst, fabs(at(&target, x, y, c) - twin));
                }
        CHECK(worst <= 1.5, "trial %d: %g away from the twin", trial, worst);
        int cx = (int)dd_stream_below(&s, (uint32_t)target.width + 1);
        int cy = (int)dd_stream_below(&s, (uint32_t)target.height + 1);
        dd_rect part[4] = {
            {0, 0, cx, cy}, {cx, 0, all.x1, cy}, {0, cy, cx, all.y1}, {cx, cy, all.x1, all.y1}};
        for (int i = 0; i < 4; i++)
            CHECK(dd_warp(&source, &m, NULL, &parts, part[i]) == DD_OK, "%s", dd_message());
        CHECK(!memcmp(target.data, parts.data, (size_t)target.stride * (size_t)target.height),
              "trial %d: parts differ from the whole", trial);
        free(source.data), free(target.data), free(parts.data);
    }
}

static void check_warp_exact(void) {
    dd_pixels s = picture_make(20, 14, 3), t = picture_make(20, 14, 4);
    dd_rect all = {0, 0, 20, 14};
    dd_warp_matrix same = {1, 0, 0, 0, 1, 0}, mirror = {-1, 0, 20, 0, 1, 0},
                   shift = {1, 0, -3, 0, 1, 5};
    dd_warp(&s, &same, NULL, &t, all);
    CHECK(!memcmp(s.data, t.data, 20 * 14 * 3), "the identity changes bytes");
    dd_warp(&s, &mirror, NULL, &t, all);
    for (int x = 0; x < 20; x++)
        CHECK(at(&t, x, 6, 1) == at(&s, 19 - x, 6, 1), "the mirror is off at %d", x);
    dd_warp(&s, &shift, NULL, &t, all);
    for (int y = 0; y < 14; y++)
        for (int x = 0; x < 20; x++)
            CHECK(at(&t, x, y, 2) == (x < 3 || y >= 9 ? DD_PIXEL_BORDER : at(&s, x - 3, y + 5, 2)),
                  "the shift is off at (%d, %d)", x, y);
    /* bad input leaves the target alone */
    dd_pixels before = picture_make(20, 14, 4);
    memcpy(before.data, t.data, 20 * 14 * 3);
    dd_warp_matrix bad[] = {{NAN, 0, 0, 0, 1, 0},
                            {1, 0, 0, 0, NAN, 0},
                            {1, 0, NAN, 0, 1, 0},
                            {1e9, 0, 0, 0, 1, 0},
                            {1, 0, INFINITY, 0, 1, 0}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        CHECK(dd_warp(&s, &bad[i], NULL, &t, all) == DD_EVALUE, "bad matrix %zu", i);
    CHECK(dd_warp(&s, &same, NULL, &t, (dd_rect){0, 0, 21, 14}) == DD_EVALUE, "a wide rectangle");
    CHECK(!memcmp(before.data, t.data, 20 * 14 * 3), "a failure wrote");
    dd_warp_matrix inverse, flat = {1, 2, 0, 2, 4, 0};
    CHECK(dd_warp_matrix_invert(&flat, &inverse) == DD_EVALUE, "a singular matrix");
    free(s.data), free(t.data), free(before.data);
}

/* ---- colours ------------------------------------------------------------------------------- */

/* The formulas of hsv.h in real numbers, hue in 0..180. */
static void hsv_twin(const uint8_t *in, double dh, double ds, double dv, double *out) {
    double r = in[0], g = in[1], b = in[2];
    double v = fmax(r, fmax(g, b)), c = v - fmin(r, fmin(g, b));
    double h = c == 0 ? 0 : v == r ? (g - b) / c : v == g ? 2 + (b - r) / c : 4 + (r - g) / c;
    double s = v > 0 ? 255 * c / v : 0;
    double s2 = fmin(fmax(s + ds, 0), fmin(255, 2 * s)), v2 = fmin(fmax(v + dv, 0), 255);
    h = fmod(h + dh / 30 + 12, 6);
    static const double primary[3] = {0, 2, 4};
    for (int i = 0; i < 3; i++) {
        double away = fabs(h - primary[i]);
        away = fmin(away, 6 - away);
        out[i] = v2 * (1 - s2 / 255 * (1 - fmin(fmax(2 - away, 0), 1)));
    }
}

static void check_hsv(void) {
    dd_stream s;
    dd_stream_init(&s, 11, 0, 0, DD_FOR_TEST);
    double worst = 0, worst_rounded = 0;
    for (int trial = 0; trial < 300; trial++) {
        double dh = dd_stream_range(&s, -15, 15), ds = dd_stream_range(&s, -30, 30);
        double dv = trial % 3 ? dd_stream_range(&s, -20, 20) : 0;
        dv = floor(dv + 0.5); /* the value's table rounds; whole shifts keep the twin simple */
        if (trial % 5 == 0)
            dh = 180 * (trial % 2 ? 1 : -1), ds = trial % 2 ? 255 : -255;
        dd_hsv hsv;
        CHECK(dd_hsv_make(dh, ds, dv, &hsv) == DD_OK, "%s", dd_message());
        for (int i = 0; i < 400; i++) {
            uint32_t bits = dd_stream_u32(&s);
            uint8_t rgb[3] = {(uint8_t)bits, (uint8_t)(bits >> 8), (uint8_t)(bits >> 16)}, was[3];
            if (i < 60) /* primaries, black, white and grays */
                for (int c = 0; c < 3; c++)
                    rgb[c] = (uint8_t)(i < 30 ? (i >> c & 1) * 255 : i * 4);
            memcpy(was, rgb, 3);
            double twin[3];
            hsv_twin(was, dh, ds, dv, twin);
            dd_hsv_apply(&hsv, rgb, 1);
            for (int c = 0; c < 3; c++) {
                worst = fmax(worst, fabs(rgb[c] - twin[c]));
                worst_rounded = fmax(worst_rounded, fabs(rgb[c] - floor(twin[c] + 0.5)));
            }
            if (was[0] == was[1] && was[1] == was[2])
                CHECK(rgb[0] == rgb[1] && rgb[1] == rgb[2], "gray %d became coloured", was[0]);
        }
    }
    CHECK(worst <= 1.5 && worst_rounded <= 1, "%g away from the formulas (%g rounded)", worst,
          worst_rounded);
    dd_hsv hsv;
    dd_hsv_make(0, 0, 0, &hsv);
    uint8_t rgb[3] = {1, 2, 3};
    dd_hsv_apply(&hsv, rgb, 1);
    CHECK(rgb[0] == 1 && rgb[1] == 2 && rgb[2] == 3, "no shift changes bytes");
    CHECK(dd_hsv_make(NAN, 0, 0, &hsv) == DD_EVALUE && dd_hsv_make(0, 300, 0, &hsv) == DD_EVALUE &&
              dd_hsv_make(0, 0, -256, &hsv) == DD_EVALUE &&
              dd_hsv_make(200, 0, 0, &hsv) == DD_EVALUE,
          "a shift out of range passed");
}

/* ---- draws --------------------------------------------------------------------------------- */

static const dd_augment SEED = {0.8, 1.2, 15, 0.1, 0.5, 0.5, 15, 30, 20, 0.5};

static void check_draw(void) {
    for (uint32_t epoch = 0; epoch < 4; epoch++) {
        int count[5] = {0}, k = 0;
        for (uint32_t position = 0; position < 1000; position++) {
            dd_recipe r, again;
            CHECK(dd_recipe_draw(&SEED, 3, epoch, position, 17, true, &r) == DD_OK, "%s",
                  dd_message());
            dd_recipe_draw(&SEED, 3, epoch, position, 17, true, &again);
            CHECK(!memcmp(&r, &again, sizeof r), "a second draw differs");
            count[r.n]++;
            if (r.n > 1)
                CHECK(r.n == (k++ % 5 == 4 ? 4 : 2), "position %u: %d pieces", position, r.n);
            for (int i = 0; i < r.n; i++) {
                const dd_piece *p = &r.pieces[i];
                CHECK(r.partners[i] < 17, "partner %u", r.partners[i]);
                CHECK(p->scale >= 0.8 && p->scale <= 1.2 && fabs(p->degrees) <= 15 &&
                          fabs(p->shift_x) <= 0.1 && fabs(p->shift_y) <= 0.1 &&
                          fabs(p->hue) <= 15 && fabs(p->saturation) <= 30 && fabs(p->value) <= 20,
                      "position %u: a value out of its range", position);
                /* the window lies within the square that its picture was augmented to */
                CHECK(p->x0 >= p->offset_x - 1e-12 && p->x1 <= p->offset_x + p->zoom + 1e-12 &&
                          p->y0 >= p->offset_y - 1e-12 && p->y1 <= p->offset_y + p->zoom + 1e-12,
                      "position %u: the window leaves its picture", position);
            }
        }
        CHECK(count[1] == 500 && count[2] == 400 && count[4] == 100, "epoch %u: %d plain, %d, %d",
              epoch, count[1], count[2], count[4]);
    }
    dd_recipe r, q;
    for (uint32_t position = 0; position < 100; position++) {
        dd_recipe_draw(&SEED, 3, 0, position, 17, false, &r);
        CHECK(r.n == 1, "mixing is off, %d pieces came", r.n);
        dd_recipe_draw(&SEED, 3, 0, position, 17, true, &q); /* mixing does not move the values */
        CHECK(r.pieces[0].scale == q.pieces[0].scale && r.pieces[0].value == q.pieces[0].value,
              "mixing moved a value");
    }
}

static void check_draw_errors(void) {
    dd_recipe r = {.n = 77};
    const double ranges[][10] = {
        {1.2, 0.8, 15, .1, .5, .5, 15, 30, 20, .5}, {0, 1, 15, .1, .5, .5, 15, 30, 20, .5},
        {.8, NAN, 15, .1, .5, .5, 15, 30, 20, .5},  {.8, 1.2, -1, .1, .5, .5, 15, 30, 20, .5},
        {.8, 1.2, 15, 2, .5, .5, 15, 30, 20, .5},   {.8, 1.2, 15, .1, 1.5, .5, 15, 30, 20, .5},
        {.8, 1.2, 15, .1, .5, NAN, 15, 30, 20, .5}, {.8, 1.2, 15, .1, .5, .5, 91, 30, 20, .5},
        {.8, 1.2, 15, .1, .5, .5, 15, 256, 20, .5}, {.8, 1.2, 15, .1, .5, .5, 15, 30, -1, .5},
        {.8, 1.2, 15, .1, .5, .5, 15, 30, 20, 1.1},
    };
    for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++) {
        dd_augment a;
        memcpy(&a, ranges[i], sizeof a);
        CHECK(dd_recipe_draw(&a, 0, 0, 0, 5, true, &r) == DD_EVALUE && r.n == 77, "row %zu passed",
              i);
    }
    CHECK(dd_recipe_draw(&SEED, 0, 0, 0, 0, true, &r) == DD_EVALUE, "no pictures");
    CHECK(dd_recipe_draw(&SEED, 0, 0, UINT32_MAX, 5, true, &r) == DD_EVALUE,
          "the epoch's own number");
}

/* ---- the order of an epoch ----------------------------------------------------------------- */

static void check_order(void) {
    enum { N = 257 };
    uint32_t order[N], again[N], counts[4] = {7, 7, 7, 7};
    for (uint32_t epoch = 0; epoch < 3; epoch++) {
        bool seen[N] = {false};
        dd_order_draw(9, epoch, order, N);
        dd_order_draw(9, epoch, again, N);
        CHECK(!memcmp(order, again, sizeof order), "a second permutation differs");
        for (int i = 0; i < N; i++) {
            CHECK(order[i] < N && !seen[order[i]], "%u comes twice", order[i]);
            seen[order[i]] = true;
        }
    }
    const double factors[4] = {0, 1, 2.5, 1e6}, bad[][1] = {{-1}, {NAN}, {INFINITY}, {2e6}};
    CHECK(dd_repeats_draw(1, 2, factors, counts, 4) == DD_OK, "%s", dd_message());
    CHECK(counts[0] == 0 && counts[1] == 1 && (counts[2] == 2 || counts[2] == 3) &&
              counts[3] == 1000000,
          "%u %u %u %u", counts[0], counts[1], counts[2], counts[3]);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        CHECK(dd_repeats_draw(1, 2, bad[i], counts, 1) == DD_EVALUE && counts[0] == 0, "row %zu",
              i);
    for (uint32_t batch = 0; batch < 200; batch++) {
        int side = -1;
        CHECK(dd_side_draw(4, 1, batch, 320, 0.1, &side) == DD_OK, "%s", dd_message());
        CHECK(side == 288 || side == 320 || side == 352, "side %d", side);
    }
    int side = -1;
    CHECK(dd_side_draw(4, 1, 0, 33, 0.1, &side) == DD_EVALUE &&
              dd_side_draw(4, 1, 0, 0, 0.1, &side) == DD_EVALUE &&
              dd_side_draw(4, 1, 0, 320, 1.0, &side) == DD_EVALUE &&
              dd_side_draw(4, 1, 0, 320, NAN, &side) == DD_EVALUE &&
              dd_side_draw(4, 1, UINT32_MAX, 320, 0, &side) == DD_EVALUE && side == -1,
          "a bad size passed");
}

/* ---- composition --------------------------------------------------------------------------- */

/* Boxes against the matrix applied to many points of the ellipse; all random, all under the
 * sanitizer, pictures painted too. */
static void check_compose_random(void) {
    dd_limits limits = {0.3, 0.5};
    dd_pixels out = picture_make(96, 96, 1);
    dd_pixels sources[3] = {picture_make(80, 60, 1), picture_make(31, 64, 2),
                            picture_make(5, 5, 3)};
    for (uint32_t trial = 0; trial < 400; trial++) {
        dd_recipe r;
        dd_recipe_draw(&SEED, 1, 0, trial, 3, true, &r);
        dd_picture pictures[4];
        float in[4][12], boxes[4][12];
        uint8_t drops[12];
        for (int i = 0; i < r.n; i++) {
            const dd_pixels *p = &sources[(trial + (uint32_t)i) % 3];
            float w = (float)p->width * 2, h = (float)p->height * 2;
            const float b[12] = {0,     0,     w,        h,        w / 4, h / 4,
                                 w / 2, h / 2, 0.7f * w, 0.1f * h, w,     0.5f * h};
            memcpy(in[i], b, sizeof b);
            pictures[i] = (dd_picture){*p, 0.5, p->width * 2, p->height * 2, in[i], NULL, 3};
        }
        CHECK(dd_compose(&(dd_canvas){r.pieces, pictures, r.n, 96, limits}, &out, boxes[0],
                         drops) == DD_OK,
              "%s", dd_message());
        for (int k = 0; k < 3 * r.n; k++) {
            const float *b = boxes[k / 3] + 4 * (k % 3), *from = in[k / 3] + 4 * (k % 3);
            dd_rect rect = dd_piece_rect(&r.pieces[k / 3], 96);
            CHECK(drops[k] < DD_DROPS, "drop %d", drops[k]);
            if (drops[k] != DD_KEPT)
                continue;
            CHECK(b[0] >= (float)rect.x0 && b[1] >= (float)rect.y0 && b[2] <= (float)rect.x1 &&
                      b[3] <= (float)rect.y1 && b[2] - b[0] >= 1 && b[3] - b[1] >= 1,
                  "trial %u box %d leaves its piece", trial, k);
            if (r.n == 2 && k < 3)
                continue; /* what a cover leaves is checked by cases */
            dd_warp_matrix m;
            dd_piece_matrix(&r.pieces[k / 3], pictures[k / 3].width, pictures[k / 3].height, 96,
                            &m);
            double x0 = 1e9, y0 = 1e9, x1 = -1e9, y1 = -1e9;
            for (int a = 0; a < 720; a++) {
                double x =
                    0.5 * (from[0] + from[2]) + 0.5 * (from[2] - from[0]) * cos(a * PI / 360);
                double y =
                    0.5 * (from[1] + from[3]) + 0.5 * (from[3] - from[1]) * sin(a * PI / 360);
                double u = m.a * x + m.b * y + m.c, v = m.d * x + m.e * y + m.f;
                x0 = fmin(x0, u), x1 = fmax(x1, u), y0 = fmin(y0, v), y1 = fmax(y1, v);
            }
            double worst =
                fmax(fmax(fabs(fmax(x0, rect.x0) - b[0]), fabs(fmax(y0, rect.y0) - b[1])),
                     fmax(fabs(fmin(x1, rect.x1) - b[2]), fabs(fmin(y1, rect.y1) - b[3])));
            CHECK(worst < 0.02, "trial %u box %d: %g px off its ellipse", trial, k, worst);
        }
    }
    free(out.data);
    for (int i = 0; i < 3; i++)
        free(sources[i].data);
}

/* One box under a pasted rectangle (shares of a 100-pixel square). */
static void check_cover(void) {
    static const struct {
        double cover[4];
        float box[4];
        bool ignore;
        dd_drop drop;
        float out[4];
    } rows[] = {
        {{.5, .5, .9, .9}, {10, 10, 30, 30}, false, DD_KEPT, {10, 10, 30, 30}}, /* apart */
        {{.2, 0, .5, .6}, {10, 10, 30, 30}, false, DD_KEPT, {10, 10, 20, 30}},  /* right half */
        {{.19, 0, .5, .6}, {10, 10, 30, 30}, false, DD_DROP_COVERED, {10, 10, 30, 30}}, /* > half */
        {{0, 0, .15, .6}, {10, 10, 30, 30}, false, DD_KEPT, {15, 10, 30, 30}},          /* left */
        {{0, 0, .6, .18}, {10, 10, 30, 30}, false, DD_KEPT, {10, 18, 30, 30}},          /* top */
        {{0, .22, .6, .8}, {10, 10, 30, 30}, false, DD_KEPT, {10, 10, 30, 22}},         /* bottom */
        {{.2, .2, .6, .6}, {10, 10, 30, 30}, false, DD_KEPT, {10, 10, 30, 30}},     /* a corner */
        {{.15, .15, .25, .25}, {10, 10, 30, 30}, false, DD_KEPT, {10, 10, 30, 30}}, /* a hole */
        {{.15, 0, .25, 1}, {10, 10, 30, 30}, false, DD_KEPT, {10, 10, 30, 30}},     /* a stripe */
        {{0, 0, .6, .6},
         {10, 10, 30, 30},
         false,
         DD_DROP_COVERED,
         {10, 10, 30, 30}},                                                    /* all of it */
        {{.15, 0, .6, .6}, {10, 10, 30, 30}, true, DD_KEPT, {10, 10, 15, 30}}, /* a crowd */
        {{0, 0, .6, .6}, {10, 10, 30, 30}, true, DD_DROP_COVERED, {10, 10, 30, 30}},
        {{.5, .5, .9, .9}, {10, 10, 10, 30}, false, DD_DROP_FLAT, {10, 10, 10, 30}},
        {{.5, .5, .9, .9}, {30, 10, 10, 30}, false, DD_DROP_FLAT, {0}}, /* reversed */
        {{.5, .5, .9, .9}, {10, 10, 10.5f, 30}, false, DD_DROP_TINY, {10, 10, 10.5f, 30}},
        {{.5, .5, .9, .9}, {-80, 10, 30, 30}, false, DD_DROP_CLIPPED, {0, 10, 30, 30}},
        {{.5, .5, .9, .9}, {-80, 10, -3, 30}, false, DD_DROP_OUTSIDE, {0, 10, -3, 30}},
        {{.5, .5, .9, .9}, {NAN, 10, 30, 30}, false, DD_DROP_FLAT, {0}},
    };
    dd_pixels s = picture_make(100, 100, 1), out = picture_make(100, 100, 2);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        dd_piece pieces[2] = {dd_piece_identity(), dd_piece_identity()};
        pieces[1].x0 = rows[i].cover[0], pieces[1].y0 = rows[i].cover[1];
        pieces[1].x1 = rows[i].cover[2], pieces[1].y1 = rows[i].cover[3];
        uint8_t ignore = rows[i].ignore, drop = 99;
        float box[4];
        dd_picture pictures[2] = {{s, 1, 100, 100, rows[i].box, &ignore, 1},
                                  {s, 1, 100, 100, NULL, NULL, 0}};
        CHECK(dd_compose(&(dd_canvas){pieces, pictures, 2, 100, {.3, .5}}, &out, box, &drop) ==
                  DD_OK,
              "%s", dd_message());
        CHECK(drop == rows[i].drop, "row %zu: %s", i, dd_drop_name(drop));
        if (rows[i].drop != DD_DROP_FLAT)
            for (int c = 0; c < 4; c++)
                CHECK(fabsf(box[c] - rows[i].out[c]) < 1e-4f, "row %zu: side %d is %g", i, c,
                      box[c]);
    }
    free(s.data), free(out.data);
}

static void check_compose_identity(void) {
    dd_pixels s = picture_make(45, 60, 1), a = picture_make(32, 32, 2), b = picture_make(32, 32, 3);
    dd_fit f;
    dd_fit_make(45, 60, 32, &f);
    dd_letterbox(&s, 1, &f, &a);
    dd_piece piece = dd_piece_identity();
    const float boxes[] = {0, 0, 45, 60, 1, 1, 1.2f, 1.2f, 9, 9, 9, 12};
    float out[12];
    uint8_t drops[3];
    dd_picture picture = {s, 1, 45, 60, boxes, NULL, 3};
    dd_canvas canvas = {&piece, &picture, 1, 32, {.3, .5}};
    CHECK(dd_compose(&canvas, &b, out, drops) == DD_OK, "%s", dd_message());
    CHECK(!memcmp(a.data, b.data, 32 * 32 * 3), "the identity is not the letterbox");
    CHECK(drops[0] == DD_KEPT && drops[1] == DD_KEPT, "the identity dropped a box");
    CHECK(drops[2] == DD_DROP_FLAT, "a box without area stayed");
    CHECK(out[0] == 4 && out[1] == 0 && out[2] == 28 && out[3] == 32, "(%g, %g, %g, %g)", out[0],
          out[1], out[2], out[3]);
    dd_piece bad[5];
    for (int i = 0; i < 5; i++)
        bad[i] = piece;
    bad[0].scale = 0, bad[1].degrees = NAN, bad[2].x1 = 1.5, bad[3].zoom = INFINITY,
    bad[4].hue = 999;
    for (int i = 0; i < 5; i++) {
        canvas.pieces = &bad[i];
        CHECK(dd_compose(&canvas, &b, out, drops) == DD_EVALUE, "bad piece %d", i);
    }
    canvas.pieces = &piece;
    canvas.n = 5;
    CHECK(dd_compose(&canvas, &b, out, drops) == DD_EVALUE, "five pieces");
    canvas.n = 1, canvas.side = 64;
    CHECK(dd_compose(&canvas, &b, out, drops) == DD_EVALUE, "a target of another size");
    canvas.side = 32, picture.scale = 2;
    CHECK(dd_compose(&canvas, &b, out, drops) == DD_EVALUE, "a picture above its original's size");
    free(s.data), free(a.data), free(b.data);
}

int main(void) {
    check_fit();
    check_resize();
    check_letterbox();
    check_warp_random();
    check_warp_exact();
    check_hsv();
    check_draw();
    check_draw_errors();
    check_order();
    check_compose_random();
    check_cover();
    check_compose_identity();
    return check_done("check_image");
}
