/* Regions: areas and boxes once, then intersections of two lists of intervals. */
#include "evaluate/region.h"

#include <math.h>

dd_status dd_region_make(const dd_rle *rle, dd_region *out) {
    uint64_t sum = 0, size = (uint64_t)rle->h * rle->w;
    dd_region r = {.h = rle->h, .w = rle->w, .ends = rle->counts};
    if (rle->n > UINT32_MAX)
        return dd_fail(DD_EVALUE, "mask: %zu runs came, at most 2^32 - 1 are possible", rle->n);
    dd_mask_box(rle, r.box);
    r.n = (uint32_t)rle->n;
    for (uint32_t i = 0; i < r.n; i++) {
        r.area += i & 1 ? rle->counts[i] : 0;
        r.odd |= i && !rle->counts[i];
        sum += rle->counts[i];
        if (sum > size)
            return dd_fail(DD_EVALUE, "mask: the runs are longer than %u x %u pixels", rle->h,
                           rle->w);
        rle->counts[i] = (uint32_t)sum;
    }
    *out = r;
    return DD_OK;
}

/* The first odd run whose end lies beyond `pixel`. */
static uint32_t first_run(const dd_region *r, uint64_t pixel) {
    uint32_t low = 0, n = r->n / 2; /* runs 1, 3, 5, ... */
    while (n) {
        uint32_t half = n / 2;
        if (r->ends[2 * (low + half) + 1] <= pixel) {
            low += half + 1;
            n -= half + 1;
        } else {
            n = half;
        }
    }
    return 2 * low + 1;
}

uint64_t dd_region_common(const dd_region *a, const dd_region *b) {
    /* Only the columns that both boxes have can share a pixel. */
    double x0 = fmax(a->box[0], b->box[0]);
    double x1 = fmin(a->box[0] + a->box[2], b->box[0] + b->box[2]);
    if (!(x0 < x1))
        return 0;
    uint64_t begin = (uint64_t)x0 * a->h, end = (uint64_t)x1 * a->h, common = 0;
    uint32_t i = first_run(a, begin), k = first_run(b, begin);
    while (i < a->n && k < b->n) {
        uint32_t start_a = a->ends[i - 1], start_b = b->ends[k - 1];
        uint32_t end_a = a->ends[i], end_b = b->ends[k];
        uint32_t start = start_a > start_b ? start_a : start_b;
        uint32_t stop = end_a < end_b ? end_a : end_b;
        if (start >= end)
            break;
        common += stop > start ? stop - start : 0;
        i += 2 * (end_a <= end_b); /* without a branch: which one ends first is anyone's guess */
        k += 2 * (end_b <= end_a);
    }
    return common;
}

/* Run i's length. */
static uint32_t run(const dd_region *r, uint32_t i) {
    return i ? r->ends[i] - r->ends[i - 1] : r->ends[0];
}

/* maskApi's own walk for masks with empty runs, which it takes one at a step and where it stops as
 * soon as both masks meet one at once: its result then is not what the masks share. */
static double odd_iou(const dd_region *d, const dd_region *g, bool crowd) {
    uint32_t a = 1, b = 1, left_a = d->n ? d->ends[0] : 0, left_b = g->n ? g->ends[0] : 0;
    uint64_t common = 0, whole = 0;
    bool in_a = false, in_b = false;
    do {
        uint32_t step = left_a < left_b ? left_a : left_b;
        /* An end that came too early would never be passed. */
        if ((!left_a && a >= d->n) || (!left_b && b >= g->n))
            step = left_a + left_b;
        whole += in_a || in_b ? step : 0;
        common += in_a && in_b ? step : 0;
        left_a -= left_a < step ? left_a : step;
        left_b -= left_b < step ? left_b : step;
        if (!left_a && a < d->n) {
            left_a = run(d, a++);
            in_a = !in_a;
        }
        if (!left_b && b < g->n) {
            left_b = run(g, b++);
            in_b = !in_b;
        }
    } while (left_a || left_b);
    return common ? (double)common / (double)(crowd ? d->area : whole) : 0;
}

double dd_region_iou(const dd_region *d, const dd_region *g, bool crowd, double floor) {
    const double *p = d->box, *q = g->box;
    double w = fmin(p[2] + p[0], q[2] + q[0]) - fmax(p[0], q[0]);
    double h = fmin(p[3] + p[1], q[3] + q[1]) - fmax(p[1], q[1]);
    if (w <= 0 || h <= 0)
        return 0;
    if (d->h != g->h || d->w != g->w)
        return -1;
    if (d->odd || g->odd)
        return odd_iou(d, g, crowd);
    /* No more than this can be shared; where that is too little the runs need not be walked. */
    double most = fmin(fmin(d->area, g->area), w * h);
    double least_union = crowd ? d->area : (double)d->area + g->area - most;
    if (most == 0 || most / least_union < floor)
        return 0; /* below the floor, which is above 0 here */
    uint64_t common = dd_region_common(d, g);
    if (!common)
        return 0;
    uint64_t whole = crowd ? d->area : (uint64_t)d->area + g->area - common;
    return (double)common / (double)whole;
}
