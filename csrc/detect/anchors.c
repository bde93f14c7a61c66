/* Anchor grids, the search index over anchors, and the map between anchors and boxes.
 *
 * Everything that is computed once for a shape (the grid) is double and rounded at the end, so that
 * anchors of neighbouring cells differ by exactly the stride wherever float32 can say so. The index
 * is rebuilt at every call of the criterion: one pass over a few thousand anchors is cheap beside
 * the losses, and a cached index would have to be kept right. */
#include "detect/anchors.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "detect/boxes.h"

static bool positive(double x) {
    return isfinite(x) && x > 0;
}

/* The counts come from feature maps of any size, so their product is checked before it is one; the
 * numbers come from users, and a ratio of 0 would otherwise show up as NaN anchors much later. */
dd_status dd_anchor_count(const dd_anchor_grid *g, int64_t *count) {
    if (g->rows < 0 || g->cols < 0 || g->n_sizes < 0 || g->n_ratios < 0)
        return dd_fail(DD_EVALUE, "anchors: a map of %lld x %lld came, sizes of 0 or more needed",
                       (long long)g->rows, (long long)g->cols);
    if (!positive(g->stride))
        return dd_fail(DD_EVALUE, "anchors: stride is %g, a positive number was needed", g->stride);
    for (int64_t i = 0; i < g->n_sizes; i++)
        if (!positive(g->sizes[i]))
            return dd_fail(DD_EVALUE, "anchors: size %lld is %g, a positive number was needed",
                           (long long)i, g->sizes[i]);
    for (int64_t i = 0; i < g->n_ratios; i++)
        if (!positive(g->ratios[i]))
            return dd_fail(DD_EVALUE, "anchors: ratio %lld is %g, a positive number was needed",
                           (long long)i, g->ratios[i]);
    /* In double the product of four counts cannot wrap. */
    double total = (double)g->rows * (double)g->cols * (double)g->n_sizes * (double)g->n_ratios;
    if (total > INT32_MAX)
        return dd_fail(DD_EVALUE, "anchors: %.0f came, at most %d are possible", total, INT32_MAX);
    *count = (int64_t)total;
    return DD_OK;
}

/* The loops stand in the order of the output: a head's channels are (ratio within size) within a
 * cell, so the anchors of a cell lie side by side as its outputs do. */
void dd_anchor_fill(const dd_anchor_grid *g, float *out) {
    for (int64_t row = 0; row < g->rows; row++)
        for (int64_t col = 0; col < g->cols; col++) {
            /* Centres at half cells: a cell stands for the pixels around its middle. */
            double cy = ((double)row + 0.5) * g->stride, cx = ((double)col + 0.5) * g->stride;
            for (int64_t i = 0; i < g->n_sizes; i++)
                for (int64_t j = 0; j < g->n_ratios; j++, out += 4) {
                    double root = sqrt(g->ratios[j]);
                    double half_w = g->sizes[i] / root / 2, half_h = g->sizes[i] * root / 2;
                    out[0] = (float)(cx - half_w);
                    out[1] = (float)(cy - half_h);
                    out[2] = (float)(cx + half_w);
                    out[3] = (float)(cy + half_h);
                }
        }
}

/* ---- a detector's levels ------------------------------------------------------------------- */

dd_anchor_rule dd_anchor_rule_default(void) {
    return (dd_anchor_rule){.n_strides = 3,
                            .n_scales = 1,
                            .n_ratios = 3,
                            .strides = {8, 16, 32},
                            .scales = {1},
                            .ratios = {1, 2, 0.5},
                            .base = 3};
}

/* One level's grid; `sizes` gets its sides, which the grid borrows with the rule's ratios. */
static dd_anchor_grid rule_grid(const dd_anchor_rule *r, int level, int64_t height, int64_t width,
                                double sizes[DD_ANCHOR_LIST]) {
    int64_t stride = r->strides[level];
    for (int i = 0; i < r->n_scales; i++)
        sizes[i] = r->base * (double)stride * r->scales[i];
    return (dd_anchor_grid){.rows = (height - 1) / stride + 1,
                            .cols = (width - 1) / stride + 1,
                            .stride = (double)stride,
                            .n_sizes = r->n_scales,
                            .n_ratios = r->n_ratios,
                            .sizes = sizes,
                            .ratios = r->ratios};
}

dd_status dd_anchor_rule_levels(const dd_anchor_rule *r, int64_t height, int64_t width,
                                int64_t *levels) {
    double sizes[DD_ANCHOR_LIST];
    const int counts[3] = {r->n_strides, r->n_scales, r->n_ratios};
    for (int i = 0; i < 3; i++)
        if (counts[i] < 1 || counts[i] > DD_ANCHOR_LIST)
            return dd_fail(DD_EVALUE,
                           "anchors: %d strides, %d scales and %d ratios came, 1 to %d are needed",
                           counts[0], counts[1], counts[2], DD_ANCHOR_LIST);
    if (height < 1 || width < 1)
        return dd_fail(DD_EVALUE, "anchors: images of %lld x %lld came, 1 or more was needed",
                       (long long)height, (long long)width);
    int64_t total = 0, offsets[DD_ANCHOR_LIST + 1] = {0};
    for (int level = 0; level < r->n_strides; level++) {
        int64_t count = 0;
        if (r->strides[level] < 1)
            return dd_fail(DD_EVALUE, "anchors: stride %d is %lld, 1 or more was needed", level,
                           (long long)r->strides[level]);
        dd_anchor_grid grid = rule_grid(r, level, height, width, sizes);
        DD_TRY(dd_anchor_count(&grid, &count));
        total += count; /* at most 16 times 2^31 */
        offsets[level + 1] = total;
    }
    if (total > INT32_MAX)
        return dd_fail(DD_EVALUE, "anchors: %lld came, at most %d are possible", (long long)total,
                       INT32_MAX);
    memcpy(levels, offsets, (size_t)(r->n_strides + 1) * sizeof *levels);
    return DD_OK;
}

void dd_anchor_rule_fill(const dd_anchor_rule *r, int64_t height, int64_t width, float *out) {
    double sizes[DD_ANCHOR_LIST];
    for (int level = 0; level < r->n_strides; level++) {
        dd_anchor_grid grid = rule_grid(r, level, height, width, sizes);
        dd_anchor_fill(&grid, out);
        out += 4 * grid.rows * grid.cols * grid.n_sizes * grid.n_ratios;
    }
}

/* ---- the index ----------------------------------------------------------------------------- */

static int64_t block_count(int64_t count) {
    return (count + DD_ANCHOR_BLOCK - 1) / DD_ANCHOR_BLOCK;
}

/* The bounds first: they need no padding before the four float columns. */
size_t dd_anchor_index_bytes(int64_t count) {
    return (size_t)block_count(count) * sizeof(dd_anchor_bounds) +
           4 * (size_t)count * sizeof(float);
}

/* A block's bounds hold centres, edges and sides, because the rules ask for all three: TAL for
 * centres in a box and for alike sides, max-IoU and the ignore regions for any overlap. */
static void bounds_widen(dd_anchor_bounds *b, const float *box, float cx, float cy, float w,
                         float h, bool first) {
    if (first)
        *b = (dd_anchor_bounds){cx, cy, cx, cy, box[0], box[1], box[2], box[3], w, w, h, h};
    b->x0 = dd_min_f(b->x0, cx);
    b->y0 = dd_min_f(b->y0, cy);
    b->x1 = dd_max_f(b->x1, cx);
    b->y1 = dd_max_f(b->y1, cy);
    b->left = dd_min_f(b->left, box[0]);
    b->top = dd_min_f(b->top, box[1]);
    b->right = dd_max_f(b->right, box[2]);
    b->bottom = dd_max_f(b->bottom, box[3]);
    b->w0 = dd_min_f(b->w0, w);
    b->w1 = dd_max_f(b->w1, w);
    b->h0 = dd_min_f(b->h0, h);
    b->h1 = dd_max_f(b->h1, h);
}

/* Empty levels are allowed: a map may have no cells at a tiny image size. */
static dd_status levels_check(const int64_t *levels, int64_t n_levels, int64_t count) {
    if (!levels)
        return DD_OK;
    bool good = n_levels >= 1 && levels[0] == 0 && levels[n_levels] == count;
    for (int64_t l = 0; good && l < n_levels; l++)
        good = levels[l] <= levels[l + 1];
    if (!good)
        return dd_fail(DD_EVALUE, "anchors: offsets of %lld levels must ascend from 0 to %lld",
                       (long long)n_levels, (long long)count);
    return DD_OK;
}

dd_status dd_anchor_index_init(dd_anchor_index *index, const float *boxes, int64_t count,
                               const int64_t *levels, int64_t n_levels, void *memory) {
    DD_TRY(levels_check(levels, n_levels, count));
    /* An anchor without area would divide by zero in every encoding; better refused here, by its
     * number, than found as a NaN in the loss. */
    for (int64_t a = 0; a < count; a++)
        if (!dd_box_valid(boxes + 4 * a))
            return dd_fail(DD_EVALUE,
                           "anchors: anchor %lld is (%g, %g, %g, %g), positive finite "
                           "sides were needed",
                           (long long)a, boxes[4 * a], boxes[4 * a + 1], boxes[4 * a + 2],
                           boxes[4 * a + 3]);
    int64_t blocks = block_count(count);
    dd_anchor_bounds *bounds = memory;
    float *columns = (float *)(bounds + blocks);
    *index = (dd_anchor_index){.count = count,
                               .blocks = blocks,
                               .boxes = boxes,
                               .cx = columns,
                               .cy = columns + count,
                               .w = columns + 2 * count,
                               .h = columns + 3 * count,
                               .bounds = bounds,
                               .levels = levels,
                               .n_levels = levels ? n_levels : 1};
    for (int64_t a = 0; a < count; a++) {
        const float *b = boxes + 4 * a;
        float cx = (b[0] + b[2]) * 0.5f, cy = (b[1] + b[3]) * 0.5f, w = b[2] - b[0],
              h = b[3] - b[1];
        index->cx[a] = cx;
        index->cy[a] = cy;
        index->w[a] = w;
        index->h[a] = h;
        bounds_widen(&bounds[a / DD_ANCHOR_BLOCK], b, cx, cy, w, h, a % DD_ANCHOR_BLOCK == 0);
    }
    return DD_OK;
}

/* NaN stays NaN: both comparisons are false for it. */
static double clamped(double t) {
    return t > DD_DELTA_CLAMP ? DD_DELTA_CLAMP : t < -DD_DELTA_CLAMP ? -DD_DELTA_CLAMP : t;
}

/* The clamp keeps a side below 55 anchors, so that an untrained or diverging head gives large boxes
 * and not infinite ones; exp never sees more than 4. */
void dd_anchor_decode(const float *anchor, const float *delta, double out[4]) {
    double aw = (double)anchor[2] - anchor[0], ah = (double)anchor[3] - anchor[1];
    double cx = ((double)anchor[0] + anchor[2]) / 2 + delta[0] * aw;
    double cy = ((double)anchor[1] + anchor[3]) / 2 + delta[1] * ah;
    double w = aw * exp(clamped(delta[2])), h = ah * exp(clamped(delta[3]));
    out[0] = cx - w / 2;
    out[1] = cy - h / 2;
    out[2] = cx + w / 2;
    out[3] = cy + h / 2;
}

/* Twice the centres are subtracted before halving: both sums are exact in double. */
void dd_anchor_encode(const float *anchor, const float *box, double delta[4]) {
    double aw = (double)anchor[2] - anchor[0], ah = (double)anchor[3] - anchor[1];
    delta[0] = ((double)box[0] + box[2] - anchor[0] - anchor[2]) / 2 / aw;
    delta[1] = ((double)box[1] + box[3] - anchor[1] - anchor[3]) / 2 / ah;
    delta[2] = log(((double)box[2] - box[0]) / aw);
    delta[3] = log(((double)box[3] - box[1]) / ah);
}
