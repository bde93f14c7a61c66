/* Matching.
 *
 * pycocotools makes a matrix of IoUs for each (class, image), then walks it once for each area
 * range and threshold. Here a detection is the outer loop: its IoUs are worked out once, those
 * below every threshold are forgotten (nearly all), and the few candidates that are left are
 * offered to all thresholds at once, as a word with a bit for each. The combinations do not see
 * each other and each one still meets its detections best first, so the matches are the same.
 *
 * Best first among the candidates means: by falling IoU, of equals the last. A threshold takes the
 * first of these that it finds free and above its bound, so walking the candidates in that order
 * and giving each to all thresholds that still look for one is what the loop over thresholds does.
 * The objects that count come first in pycocotools' order and its loop stops at the first ignored
 * one once it has a match; two passes over the candidates are the same thing without sorting. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/threads.h"
#include "evaluate/coco_job.h"

#define GROUPS_A_UNIT 16
#define AHEAD 12
#define FEW 16 /* candidates that are sorted by insertion */

typedef struct candidate { /* an object that overlaps the detection enough for some threshold */
    double iou;
    uint32_t object; /* within the group */
} candidate;

/* The memory of one thread while it works on one group of G objects. */
typedef struct workspace {
    candidate *candidates; /* (G) */
    uint32_t *taken;       /* (A, blocks, G) bits of thresholds; stays 0 for crowds */
    uint8_t *ignore;       /* (A, G) */
} workspace;

size_t dd_coco_match_scratch(const dd_coco_job *j) {
    size_t A = (size_t)j->p->n_area;
    return j->order.most_objects * (sizeof(candidate) + A * (j->n_blocks * sizeof(uint32_t) + 1));
}

/* The thread's part of the scratch, laid out for the largest group. */
static workspace workspace_of(const dd_coco_job *j, int thread) {
    size_t most = j->order.most_objects;
    unsigned char *base = j->scratch + (size_t)thread * j->scratch_bytes;
    workspace w = {.candidates = (candidate *)(void *)base};
    w.taken = (uint32_t *)(void *)(base + most * sizeof(candidate));
    w.ignore = (uint8_t *)(w.taken + most * (size_t)j->p->n_area * j->n_blocks);
    return w;
}

/* ---- what two have in common --------------------------------------------------------------- */

static double least(double a, double b) {
    return a < b ? a : b;
}

static double most(double a, double b) {
    return a > b ? a : b;
}

/* IoU as pycocotools' bbIou has it, operation by operation. */
static double box_iou(const double *d, const double *g, bool crowd) {
    double w = least(d[2] + d[0], g[2] + g[0]) - most(d[0], g[0]);
    if (w <= 0)
        return 0;
    double h = least(d[3] + d[1], g[3] + g[1]) - most(d[1], g[1]);
    if (h <= 0)
        return 0;
    double detection_area = d[2] * d[3], object_area = g[2] * g[3], both = w * h;
    return both / (crowd ? detection_area : detection_area + object_area - both);
}

/* The objects of the group that the detection (a place in the order) overlaps enough. "not below"
 * and not "at or above": a NaN stays a candidate, as in pycocotools. */
static uint32_t find_candidates(const dd_coco_job *j, const dd_coco_group *group, uint32_t d,
                                candidate *out) {
    const dd_coco_input *in = j->in;
    const uint32_t *objects = j->order.objects + group->object_begin;
    uint32_t detection = j->order.detections[d], n = 0;
    uint32_t G = group->object_end - group->object_begin;
    const double *box = in->detection_box + 4 * (size_t)detection;
    const double *row = NULL;
    if (j->oks)
        row =
            j->oks + j->oks_at[group - j->order.groups] + (size_t)(d - group->detection_begin) * G;
    for (uint32_t g = 0; g < G; g++) {
        bool crowd = in->object_crowd[objects[g]];
        double iou = row ? row[g]
                     : in->object_region
                         ? dd_region_iou(&in->detection_region[detection],
                                         &in->object_region[objects[g]], crowd, j->floor)
                         : box_iou(box, in->object_box + 4 * (size_t)objects[g], crowd);
        if (!(iou < j->floor))
            out[n++] = (candidate){iou, g};
    }
    return n;
}

/* ---- choice -------------------------------------------------------------------------------- */

static bool better(const candidate *a, const candidate *b) {
    return a->iou > b->iou || (a->iou == b->iou && a->object > b->object);
}

static int compare_candidates(const void *a, const void *b) {
    return better(a, b) ? -1 : 1; /* no two are the same */
}

/* Best first. False where an IoU is no number: then there is no such order. */
static bool sort_candidates(candidate *c, uint32_t n) {
    for (uint32_t i = 0; i < n; i++)
        if (isnan(c[i].iou))
            return false;
    if (n > FEW) {
        qsort(c, n, sizeof *c, compare_candidates);
        return true;
    }
    for (uint32_t i = 1; i < n; i++) {
        candidate moved = c[i];
        uint32_t k = i;
        for (; k && better(&moved, &c[k - 1]); k--)
            c[k] = c[k - 1];
        c[k] = moved;
    }
    return true;
}

/* One choice: where it is made, and what comes of it. */
typedef struct choice {
    const uint32_t *objects; /* of the group */
    const uint8_t *ignore;   /* (G) */
    uint32_t *taken;         /* (G) */
    const double *bound;     /* of the block's thresholds */
    int32_t *match;          /* of the block's thresholds, or NULL */
    uint32_t base;           /* place of the group's first object in the order */
    uint32_t open;           /* thresholds that still look for an object */
    dd_coco_fate fate;
} choice;

/* Object g goes to the thresholds of `bits`. */
static void take(const dd_coco_input *in, choice *c, uint32_t g, uint32_t bits) {
    uint32_t object = c->objects[g];
    c->open &= ~bits;
    /* A blank object is taken like any other; only its match does not show. */
    if (!in->object_blank || !in->object_blank[object])
        c->fate.matched |= bits;
    if (c->ignore[g])
        c->fate.ignored |= bits;
    if (!in->object_crowd[object])
        c->taken[g] |= bits;
    for (; c->match && bits; bits &= bits - 1)
        c->match[__builtin_ctz(bits)] = (int32_t)(c->base + g);
}

/* All thresholds of a block at once; the candidates are sorted. */
static void choose(const dd_coco_input *in, choice *c, const candidate *candidates, uint32_t n) {
    for (int ignored = 0; ignored < 2 && c->open; ignored++)
        for (uint32_t i = 0; i < n && c->open; i++) {
            uint32_t g = candidates[i].object, bits = 0;
            if (c->ignore[g] != ignored)
                continue;
            for (uint32_t left = c->open & ~c->taken[g]; left; left &= left - 1) {
                int t = __builtin_ctz(left);
                bits |= (uint32_t) !(candidates[i].iou < c->bound[t]) << t;
            }
            if (bits)
                take(in, c, g, bits);
        }
}

/* The same with pycocotools' own comparisons, threshold by threshold, for IoUs that are NaN (0/0):
 * once one is met, every later one replaces it. */
static void choose_plainly(const dd_coco_input *in, choice *c, const candidate *candidates,
                           uint32_t n) {
    for (uint32_t left = c->open; left; left &= left - 1) {
        uint32_t bit = left & -left;
        for (int ignored = 0; ignored < 2 && c->open & bit; ignored++) {
            double bound = c->bound[__builtin_ctz(left)];
            int64_t best = -1;
            for (uint32_t i = 0; i < n; i++) {
                uint32_t g = candidates[i].object;
                if (c->ignore[g] != ignored || c->taken[g] & bit || candidates[i].iou < bound)
                    continue;
                bound = candidates[i].iou;
                best = g;
            }
            if (best >= 0)
                take(in, c, (uint32_t)best, bit);
        }
    }
}

/* Gives detection `d` (a place in the order) its fate at every area range and threshold. */
static void decide(const dd_coco_job *j, const dd_coco_group *group, const workspace *w, uint32_t d,
                   uint32_t n) {
    const dd_coco_input *in = j->in;
    size_t A = (size_t)j->p->n_area, T = (size_t)j->p->n_iou;
    size_t G = group->object_end - group->object_begin;
    uint32_t detection = j->order.detections[d];
    const double *box = in->detection_box + 4 * (size_t)detection;
    double area = in->detection_area ? in->detection_area[detection] : box[2] * box[3];
    bool partial = in->detection_partial && in->detection_partial[detection];
    if (!n) { /* nearly always */
        for (size_t a = 0; a < A; a++) {
            bool outside = partial || area < j->p->area[2 * a] || area > j->p->area[2 * a + 1];
            for (size_t block = 0; block < j->n_blocks; block++)
                j->fates[((size_t)d * A + a) * j->n_blocks + block] =
                    (dd_coco_fate){0, outside ? dd_coco_block_bits(j, block) : 0};
        }
        return;
    }
    bool sorted = sort_candidates(w->candidates, n);
    for (size_t a = 0; a < A; a++) {
        /* A detection without a match is no false alarm of a size range that it is not in. */
        bool outside = partial || area < j->p->area[2 * a] || area > j->p->area[2 * a + 1];
        dd_coco_fate *fates = j->fates + ((size_t)d * A + a) * j->n_blocks;
        for (size_t block = 0; block < j->n_blocks; block++) {
            uint32_t all = dd_coco_block_bits(j, block);
            choice c = {.objects = j->order.objects + group->object_begin,
                        .ignore = w->ignore + a * G,
                        .taken = w->taken + (a * j->n_blocks + block) * G,
                        .bound = j->bound + block * DD_COCO_BLOCK,
                        .base = group->object_begin,
                        .open = all};
            if (j->match)
                c.match = j->match + ((size_t)d * A + a) * T + block * DD_COCO_BLOCK;
            if (sorted)
                choose(in, &c, w->candidates, n);
            else
                choose_plainly(in, &c, w->candidates, n);
            if (outside)
                c.fate.ignored |= all & ~c.fate.matched;
            fates[block] = c.fate;
        }
    }
}

/* ---- groups -------------------------------------------------------------------------------- */

/* All detections of one (class, image), best first, up to the largest max_det. */
static void match_group(const dd_coco_job *j, const dd_coco_group *group, const workspace *w) {
    size_t A = (size_t)j->p->n_area, G = group->object_end - group->object_begin;
    const uint32_t *objects = j->order.objects + group->object_begin;
    int64_t most = j->p->max_det[j->p->n_max_det - 1];
    uint32_t end = j->order.class_detections[j->order.n_classes];
    if (group->detection_begin == group->detection_end)
        return;
    for (size_t a = 0; a < A; a++)
        for (size_t g = 0; g < G; g++)
            w->ignore[a * G + g] = dd_coco_ignored(j, objects[g], a);
    memset(w->taken, 0, A * j->n_blocks * G * sizeof *w->taken);
    for (uint32_t d = group->detection_begin; d < group->detection_end; d++) {
        if (j->order.rank[d] >= most)
            break;
        /* Boxes lie in the caller's order: the ones that come are asked for in time. */
        if (d + AHEAD < end)
            __builtin_prefetch(j->in->detection_box + 4 * (size_t)j->order.detections[d + AHEAD]);
        decide(j, group, w, d, find_candidates(j, group, d, w->candidates));
    }
}

static void match_unit(void *context, int64_t unit, int thread) {
    const dd_coco_job *j = context;
    workspace w = workspace_of(j, thread);
    size_t begin = (size_t)unit * GROUPS_A_UNIT, end = begin + GROUPS_A_UNIT;
    if (dd_cancelled())
        return;
    for (size_t i = begin; i < end && i < j->order.n_groups; i++)
        match_group(j, &j->order.groups[i], &w);
}

void dd_coco_match_all(dd_coco_job *j) {
    dd_parallel((int64_t)((j->order.n_groups + GROUPS_A_UNIT - 1) / GROUPS_A_UNIT), match_unit, j);
}

/* ---- keypoints ----------------------------------------------------------------------------- */

#define OKS_VALUES 65536 /* exponents that go through one call of the exponential, about */

/* Detections of a group that take part. */
static size_t group_rows(const dd_coco_job *j, const dd_coco_group *group) {
    size_t n = group->detection_end - group->detection_begin;
    size_t most = (size_t)j->p->max_det[j->p->n_max_det - 1];
    return n < most ? n : most;
}

/* The exponents of a detection against all objects of its group; counts[g] of each. */
static size_t row_exponents(const dd_coco_job *j, const dd_coco_group *group, size_t row,
                            double *values, uint32_t *counts) {
    const dd_coco_input *in = j->in;
    size_t n = 0;
    uint32_t detection = j->order.detections[group->detection_begin + row];
    for (uint32_t i = group->object_begin; i < group->object_end; i++) {
        uint32_t g = j->order.objects[i];
        size_t count = dd_oks_exponents(in->points, g, detection, in->object_box + 4 * (size_t)g,
                                        in->object_area[g], values + n);
        *counts++ = (uint32_t)count;
        n += count;
    }
    return n;
}

/* Exponentials of what was gathered, then the means, which go to the next places of *out. */
static dd_status flush(const dd_coco_job *j, double *values, size_t n, const uint32_t *counts,
                       size_t pairs, double **out) {
    const dd_oks *oks = j->in->points;
    if (oks->exponential)
        DD_TRY(oks->exponential(oks->context, values, n));
    else
        for (size_t i = 0; i < n; i++)
            values[i] = exp(values[i]);
    for (size_t i = 0; i < pairs; i++) {
        *(*out)++ = dd_pairwise_sum(values, counts[i]) / (double)counts[i];
        values += counts[i];
    }
    return DD_OK;
}

/* Where each group's similarities begin; the sum is returned. */
static size_t place_groups(dd_coco_job *j) {
    size_t pairs = 0;
    for (size_t i = 0; i < j->order.n_groups; i++) {
        const dd_coco_group *group = &j->order.groups[i];
        j->oks_at[i] = pairs;
        pairs += group_rows(j, group) * (group->object_end - group->object_begin);
    }
    return pairs;
}

/* Similarities of all pairs before the matching: the exponential may be Python's and then needs
 * its lock, so it is called here for many values at a time and not by the threads. */
dd_status dd_coco_make_oks(dd_coco_job *j) {
    dd_status status = DD_OK;
    double *values = NULL;
    uint32_t *counts = NULL;
    size_t row_pairs = j->order.most_objects, k = (size_t)j->in->points->n_points, n = 0, pairs = 0;
    size_t room = 0;
    DD_TRY_DONE(dd_size_mul(row_pairs, k, "coco_evaluate", &room));
    DD_TRY_DONE(dd_alloc_array(j->order.n_groups, sizeof *j->oks_at, &j->oks_at));
    DD_TRY_DONE(dd_alloc_array(place_groups(j), sizeof *j->oks, &j->oks));
    DD_TRY_DONE(dd_alloc_array(OKS_VALUES + room, sizeof *values, &values));
    DD_TRY_DONE(dd_alloc_array(OKS_VALUES + row_pairs, sizeof *counts, &counts));
    double *out = j->oks;
    for (size_t i = 0; i < j->order.n_groups; i++) {
        const dd_coco_group *group = &j->order.groups[i];
        size_t G = group->object_end - group->object_begin, rows = G ? group_rows(j, group) : 0;
        for (size_t row = 0; row < rows; row++) {
            n += row_exponents(j, group, row, values + n, counts + pairs);
            pairs += G;
            if (n >= OKS_VALUES || pairs >= OKS_VALUES) {
                DD_TRY_DONE(flush(j, values, n, counts, pairs, &out));
                n = pairs = 0;
            }
        }
    }
    DD_TRY_DONE(flush(j, values, n, counts, pairs, &out));
done:
    dd_free(values);
    dd_free(counts);
    return status;
}
