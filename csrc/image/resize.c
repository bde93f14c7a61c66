/* Separable resizing in integers: rows are filtered once into a ring of 14-bit values, columns of
 * the ring are summed into the target. Weights have 14 bits and sum to exactly 1, so a flat area
 * keeps its value and no result leaves 0..255. */
#include "image/resize.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"

enum {
    WEIGHT_BITS = 14,                   /* 1.0 = 16384 still fits in int16 */
    ROW_BITS = 6,                       /* fraction bits of a value in the ring */
    ROW_SHIFT = WEIGHT_BITS - ROW_BITS, /* 22-bit sums to 14-bit values */
    OUT_SHIFT = WEIGHT_BITS + ROW_BITS, /* 28-bit sums to bytes */
};

/* The taps of one axis: output i reads `count[i]` inputs from `first[i]` on. */
typedef struct taps {
    int *first, *count;
    int16_t *weights; /* (outputs, most) */
    int most;
} taps;

dd_status dd_fit_make(int width, int height, int side, dd_fit *fit) {
    if (width < 1 || height < 1 || width > DD_PIXEL_MAX_SIDE || height > DD_PIXEL_MAX_SIDE)
        return dd_fail(DD_EVALUE,
                       "letterbox: a picture of %d x %d pixels came, sides of 1 to %d are needed",
                       width, height, DD_PIXEL_MAX_SIDE);
    if (side < 1 || side > DD_LETTERBOX_MAX_SIDE)
        return dd_fail(DD_EVALUE, "letterbox: a side of %d pixels came, 1 to %d is needed", side,
                       DD_LETTERBOX_MAX_SIDE);
    double scale = (double)side / (width > height ? width : height);
    int w = (int)floor(width * scale + 0.5), h = (int)floor(height * scale + 0.5);
    w = w < 1 ? 1 : w > side ? side : w;
    h = h < 1 ? 1 : h > side ? side : h;
    *fit = (dd_fit){
        .scale = scale, .width = w, .height = h, .left = (side - w) / 2, .top = (side - h) / 2};
    return DD_OK;
}

static void taps_free(taps *t) {
    dd_free(t->first);
    dd_free(t->count);
    dd_free(t->weights);
    memset(t, 0, sizeof *t);
}

/* The weights of one output: a triangle around `centre`, rounded so that the sum stays exact
 * (each weight is the difference of two rounded partial sums). */
static void taps_one(double centre, double support, int inputs, int *first, int *count,
                     int16_t *weights) {
    int low = (int)floor(centre - support + 0.5), high = (int)floor(centre + support + 0.5);
    low = low < 0 ? 0 : low > inputs - 1 ? inputs - 1 : low;
    high = high > inputs ? inputs : high < low + 1 ? low + 1 : high;
    double total = 0.0;
    for (int i = low; i < high; i++) {
        double height = 1.0 - fabs(i + 0.5 - centre) / support;
        total += height > 0.0 ? height : 0.0;
    }
    *first = low;
    *count = high - low;
    if (!(total > 0.0)) { /* the centre lies beyond the edge by more than the support */
        *count = 1;
        weights[0] = 1 << WEIGHT_BITS;
        return;
    }
    double sum = 0.0;
    int before = 0;
    for (int i = low; i < high; i++) {
        double height = 1.0 - fabs(i + 0.5 - centre) / support;
        sum += height > 0.0 ? height : 0.0;
        int now = (int)floor(sum / total * (1 << WEIGHT_BITS) + 0.5);
        weights[i - low] = (int16_t)(now - before);
        before = now;
    }
}

/* Taps for outputs from..to−1 of an axis with `inputs` pixels. */
static dd_status taps_make(int inputs, double step, int from, int to, taps *t) {
    dd_status status = DD_OK;
    double support = step > 1.0 ? step : 1.0;
    size_t outputs = (size_t)(to - from), cells;
    double most = 2.0 * support + 2.0;
    t->most = most < inputs ? (int)most : inputs;
    DD_TRY_DONE(dd_size_mul(outputs, (size_t)t->most, "resize", &cells));
    DD_TRY_DONE(dd_alloc_array(outputs, sizeof *t->first, &t->first));
    DD_TRY_DONE(dd_alloc_array(outputs, sizeof *t->count, &t->count));
    DD_TRY_DONE(dd_alloc_array(cells, sizeof *t->weights, &t->weights));
    for (int i = from; i < to; i++)
        taps_one((i + 0.5) * step, support, inputs, &t->first[i - from], &t->count[i - from],
                 t->weights + (size_t)(i - from) * (size_t)t->most);
done:
    if (status != DD_OK)
        taps_free(t);
    return status;
}

/* One source row through the horizontal taps: (width, 3) values of 8.6 bits. */
static void filter_row(const uint8_t *row, const taps *t, int width, int16_t *out) {
    for (int x = 0; x < width; x++) {
        const uint8_t *p = row + 3 * (ptrdiff_t)t->first[x];
        const int16_t *w = t->weights + (size_t)x * (size_t)t->most;
        int r = 1 << (ROW_SHIFT - 1), g = r, b = r;
        for (int k = 0; k < t->count[x]; k++, p += 3) {
            r += w[k] * p[0];
            g += w[k] * p[1];
            b += w[k] * p[2];
        }
        out[3 * x] = (int16_t)(r >> ROW_SHIFT);
        out[3 * x + 1] = (int16_t)(g >> ROW_SHIFT);
        out[3 * x + 2] = (int16_t)(b >> ROW_SHIFT);
    }
}

/* sum[i] += w · row[i]: a plain loop that compilers turn into 16-bit multiplies. */
static void add_row(int32_t *restrict sum, const int16_t *restrict row, int w, size_t n) {
    for (size_t i = 0; i < n; i++)
        sum[i] += (int16_t)w * row[i];
}

static void store_row(uint8_t *restrict out, const int32_t *restrict sum, size_t n) {
    for (size_t i = 0; i < n; i++)
        out[i] = (uint8_t)((sum[i] + (1 << (OUT_SHIFT - 1))) >> OUT_SHIFT);
}

static void copy_rows(const dd_pixels *source, const dd_pixels *target, int y0, int y1) {
    int width = source->width < target->width ? source->width : target->width;
    for (int y = y0; y < y1; y++) {
        int from = y < source->height ? y : source->height - 1;
        uint8_t *out = dd_pixels_row(target, y);
        memcpy(out, dd_pixels_row(source, from), 3 * (size_t)width);
        for (int x = width; x < target->width; x++)
            memcpy(out + 3 * (ptrdiff_t)x, out + 3 * (ptrdiff_t)(width - 1), 3);
    }
}

dd_status dd_resize(const dd_pixels *source, double step, const dd_pixels *target, int y0, int y1) {
    dd_status status = DD_OK;
    taps across = {0}, down = {0};
    int16_t *ring = NULL;
    int32_t *sum = NULL;
    DD_TRY(dd_pixels_check(source, "resize: source"));
    DD_TRY(dd_pixels_check(target, "resize: target"));
    if (!(step > 0.0) || step > DD_PIXEL_MAX_SIDE)
        return dd_fail(DD_EVALUE, "resize: a step of %g source pixels came, 0 to %d is needed",
                       step, DD_PIXEL_MAX_SIDE);
    if (y0 < 0 || y1 > target->height || y0 > y1)
        return dd_fail(DD_EVALUE, "resize: rows %d to %d came, the target has %d", y0, y1,
                       target->height);
    if (y0 == y1)
        return DD_OK;
    if (step == 1.0) {
        copy_rows(source, target, y0, y1);
        return DD_OK;
    }
    size_t row = 3 * (size_t)target->width, cells;
    DD_TRY_DONE(taps_make(source->width, step, 0, target->width, &across));
    DD_TRY_DONE(taps_make(source->height, step, y0, y1, &down));
    DD_TRY_DONE(dd_size_mul(row, (size_t)down.most, "resize", &cells));
    DD_TRY_DONE(dd_alloc_array(cells, sizeof *ring, &ring));
    DD_TRY_DONE(dd_alloc_array(row, sizeof *sum, &sum));
    int ready = down.first[0]; /* source rows below it are in the ring or no longer needed */
    for (int y = 0; y < y1 - y0; y++) {
        int first = down.first[y], last = first + down.count[y];
        for (ready = ready < first ? first : ready; ready < last; ready++)
            filter_row(dd_pixels_row(source, ready), &across, target->width,
                       ring + (size_t)(ready % down.most) * row);
        memset(sum, 0, row * sizeof *sum);
        for (int k = 0; k < down.count[y]; k++)
            add_row(sum, ring + (size_t)((first + k) % down.most) * row,
                    down.weights[(size_t)y * (size_t)down.most + (size_t)k], row);
        store_row(dd_pixels_row(target, y0 + y), sum, row);
    }
done:
    taps_free(&across);
    taps_free(&down);
    dd_free(ring);
    dd_free(sum);
    return status;
}

dd_status dd_letterbox(const dd_pixels *source, double source_scale, const dd_fit *fit,
                       const dd_pixels *target) {
    DD_TRY(dd_pixels_check(target, "letterbox: target"));
    int side = target->width;
    if (target->height != side || fit->left < 0 || fit->top < 0 || fit->width < 1 ||
        fit->height < 1 || fit->left + fit->width > side || fit->top + fit->height > side)
        return dd_fail(DD_EVALUE, "letterbox: %d x %d pixels at (%d, %d) do not fit in %d x %d",
                       fit->width, fit->height, fit->left, fit->top, side, target->height);
    if (!(source_scale > 0.0))
        return dd_fail(DD_EVALUE, "letterbox: a source scale of %g came, more than 0 is needed",
                       source_scale);
    int right = fit->left + fit->width, bottom = fit->top + fit->height;
    dd_pixels_fill(target, (dd_rect){0, 0, side, fit->top}, DD_PIXEL_BORDER);
    dd_pixels_fill(target, (dd_rect){0, bottom, side, side}, DD_PIXEL_BORDER);
    dd_pixels_fill(target, (dd_rect){0, fit->top, fit->left, bottom}, DD_PIXEL_BORDER);
    dd_pixels_fill(target, (dd_rect){right, fit->top, side, bottom}, DD_PIXEL_BORDER);
    dd_pixels content = dd_pixels_window(target, (dd_rect){fit->left, fit->top, right, bottom});
    return dd_resize(source, source_scale / fit->scale, &content, 0, fit->height);
}
