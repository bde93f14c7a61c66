/* NMS looks at boxes best first and compares each with the kept ones only: n log n for the order
 * and n times kept for the rest, instead of all pairs. The kept boxes lie in columns, and a run of
 * 16 is compared without a branch. Classes are compared, not shifted apart by an offset, which
 * would cost bits of the coordinates. */
#include "detect/nms.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "detect/boxes.h"

/* ---- order --------------------------------------------------------------------------------- */

uint64_t dd_score_key(float score, uint32_t index) {
    uint32_t bits;
    score += 0.0f; /* -0 becomes 0: the two are equal scores */
    memcpy(&bits, &score, sizeof bits);
    /* Floats order like their bits once negative ones are mirrored below positive ones. */
    bits = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return (uint64_t)~bits << 32 | index;
}

float dd_key_score(uint64_t key) {
    uint32_t bits = ~(uint32_t)(key >> 32);
    float score;
    bits = bits & 0x80000000u ? bits & 0x7fffffffu : ~bits;
    memcpy(&score, &bits, sizeof score);
    return score;
}

/* Keys are different (the index is part of each), so any correct sort gives the same order. */
enum { SMALL = 48, DIGITS = 8 }; /* below SMALL, counting 256 digits costs more than insertion */

void dd_keys_sort(uint64_t *keys, uint64_t *spare, int64_t n) {
    if (n < SMALL) {
        for (int64_t i = 1; i < n; i++) {
            uint64_t key = keys[i];
            int64_t at = i;
            for (; at > 0 && key < keys[at - 1]; at--)
                keys[at] = keys[at - 1];
            keys[at] = key;
        }
        return;
    }
    /* Radix sort from the lowest byte; a byte that is the same everywhere costs only its count. */
    uint64_t *from = keys, *to = spare;
    for (int digit = 0; digit < DIGITS; digit++) {
        int64_t start[257] = {0};
        int shift = 8 * digit;
        for (int64_t i = 0; i < n; i++)
            start[(from[i] >> shift & 255) + 1]++;
        if (start[(from[0] >> shift & 255) + 1] == n)
            continue;
        for (int v = 0; v < 256; v++)
            start[v + 1] += start[v];
        for (int64_t i = 0; i < n; i++)
            to[start[from[i] >> shift & 255]++] = from[i];
        uint64_t *swap = from;
        from = to;
        to = swap;
    }
    if (from != keys)
        memcpy(keys, from, (size_t)n * sizeof *keys);
}

/* ---- the kept boxes ------------------------------------------------------------------------ */

size_t dd_kept_bytes(int64_t capacity) {
    return (size_t)capacity * (5 * sizeof(float) + sizeof(int32_t));
}

void dd_kept_init(dd_kept *k, int64_t capacity, void *memory) {
    float *columns = memory;
    *k = (dd_kept){.x0 = columns,
                   .y0 = columns + capacity,
                   .x1 = columns + 2 * capacity,
                   .y1 = columns + 3 * capacity,
                   .area = columns + 4 * capacity,
                   .cls = (int32_t *)(columns + 5 * capacity)};
}

void dd_kept_add(dd_kept *k, const float *box, int32_t cls) {
    k->x0[k->count] = box[0];
    k->y0[k->count] = box[1];
    k->x1[k->count] = box[2];
    k->y1[k->count] = box[3];
    k->area[k->count] = dd_box_area(box);
    k->cls[k->count] = cls;
    k->count++;
}

/* 1 where kept box j suppresses; no branch, so that a run of them becomes vector code. An empty
 * union gives 0/0, which is not above any threshold. */
static inline int suppresses(const dd_kept *k, int64_t j, const float *box, float area, int32_t cls,
                             float threshold) {
    float w = dd_min_f(k->x1[j], box[2]) - dd_max_f(k->x0[j], box[0]);
    float h = dd_min_f(k->y1[j], box[3]) - dd_max_f(k->y0[j], box[1]);
    float inter = dd_max_f(w, 0) * dd_max_f(h, 0);
    return (inter / (k->area[j] + area - inter) > threshold) & (k->cls[j] == cls);
}

enum { RUN = 16 };

bool dd_kept_suppresses(const dd_kept *k, const float *box, int32_t cls, float threshold) {
    float area = dd_box_area(box);
    int64_t j = 0;
    for (; j + RUN <= k->count; j += RUN) {
        int any = 0;
        for (int i = 0; i < RUN; i++)
            any |= suppresses(k, j + i, box, area, cls, threshold);
        if (any)
            return true;
    }
    for (; j < k->count; j++)
        if (suppresses(k, j, box, area, cls, threshold))
            return true;
    return false;
}

/* ---- the two functions --------------------------------------------------------------------- */

static bool has_nan(const float *box) {
    return isnan(box[0]) || isnan(box[1]) || isnan(box[2]) || isnan(box[3]);
}

static dd_status nms_check(const char *who, int64_t n, float threshold) {
    if (!(threshold >= 0 && threshold <= 1))
        return dd_fail(DD_EVALUE, "%s: iou_threshold is %g, 0 to 1 was needed", who, threshold);
    if (n > UINT32_MAX)
        return dd_fail(DD_EVALUE, "%s: %lld boxes came, at most %u are possible", who, (long long)n,
                       UINT32_MAX);
    return DD_OK;
}

dd_status dd_nms(int64_t n, const float *boxes, const float *scores, const int32_t *classes,
                 float threshold, int64_t capacity, int64_t *keep, int64_t *count) {
    dd_status status = DD_OK;
    uint64_t *keys = NULL;
    void *memory = NULL;
    int64_t candidates = 0;
    dd_kept kept;
    DD_TRY(nms_check("nms", n, threshold));
    capacity = capacity < n ? capacity : n;
    DD_TRY_DONE(dd_alloc_array((size_t)n, 2 * sizeof *keys, &keys));
    DD_TRY_DONE(dd_alloc(dd_kept_bytes(capacity), &memory));
    dd_kept_init(&kept, capacity, memory);
    /* NaN would have no place in the order, and IoU with it would always be "not above". */
    for (int64_t i = 0; i < n; i++)
        if (!isnan(scores[i]) && !has_nan(boxes + 4 * i))
            keys[candidates++] = dd_score_key(scores[i], (uint32_t)i);
    dd_keys_sort(keys, keys + n, candidates);
    for (int64_t i = 0; i < candidates && kept.count < capacity; i++) {
        int64_t at = dd_key_index(keys[i]);
        int32_t cls = classes ? classes[at] : 0;
        if (dd_kept_suppresses(&kept, boxes + 4 * at, cls, threshold))
            continue;
        keep[kept.count] = at;
        dd_kept_add(&kept, boxes + 4 * at, cls);
    }
    *count = kept.count;
done:
    dd_free(keys);
    dd_free(memory);
    return status;
}

dd_status dd_soft_nms(int64_t n, const float *boxes, const float *scores, const int32_t *classes,
                      dd_soft_nms_method method, float threshold, float sigma, float min_score,
                      int64_t capacity, int64_t *keep, float *kept_scores, int64_t *count) {
    float *left = NULL; /* scores as they stand; NaN once a box is kept or out */
    int64_t kept = 0;
    DD_TRY(nms_check("soft_nms", n, threshold));
    if (!(sigma > 0) || isnan(min_score))
        return dd_fail(DD_EVALUE, "soft_nms: sigma is %g and min_score %g, sigma above 0 needed",
                       sigma, min_score);
    DD_TRY(dd_alloc_array((size_t)n, sizeof *left, &left));
    for (int64_t i = 0; i < n; i++)
        left[i] = has_nan(boxes + 4 * i) ? NAN : scores[i];
    /* The order changes with every kept box, so the best is searched anew: n times kept. */
    while (kept < capacity) {
        int64_t best = -1;
        for (int64_t i = 0; i < n; i++)
            if (!isnan(left[i]) && (best < 0 || left[i] > left[best]))
                best = i;
        if (best < 0 || left[best] < min_score)
            break;
        keep[kept] = best;
        kept_scores[kept++] = left[best];
        left[best] = NAN;
        for (int64_t i = 0; i < n; i++) {
            if (isnan(left[i]) || (classes && classes[i] != classes[best]))
                continue;
            double iou = dd_box_iou(boxes + 4 * best, boxes + 4 * i);
            if (method == DD_SOFT_GAUSSIAN)
                left[i] = (float)(left[i] * exp(-iou * iou / sigma));
            else if (iou > threshold)
                left[i] = (float)(left[i] * (1 - iou));
        }
    }
    *count = kept;
    dd_free(left);
    return DD_OK;
}
