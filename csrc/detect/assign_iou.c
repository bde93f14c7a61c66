/* The rules that look at anchors only: ATSS and max-IoU. They judge by geometry that training does
 * not move, so their positives are the same in every epoch. */
#include <math.h>
#include <stddef.h>

#include "detect/boxes.h"
#include "detect/claims.h"

/* The squared distance of a point from the rectangle that holds a block's centres; 0 inside. It
 * never exceeds that of a centre in the block: the differences are taken the same way. */
static float gap(const dd_anchor_bounds *b, float x, float y) {
    float dx = dd_max_f(dd_max_f(b->x0 - x, x - b->x1), 0);
    float dy = dd_max_f(dd_max_f(b->y0 - y, y - b->y1), 0);
    return dx * dx + dy * dy;
}

/* ATSS (Zhang et al. 2020, algorithm 1): the topk anchors nearest to the object's centre on every
 * level; those whose IoU reaches mean + standard deviation (n - 1, as in the authors' code) of the
 * candidates' and whose centre lies in the box. topk counts anchors: with three anchors at a
 * location the authors' 9 are 27 here. */
static void atss_object(const dd_assign_options *o, const dd_anchor_index *anchors,
                        const float *box, dd_claim *list, int32_t *length) {
    float cx = (box[0] + box[2]) * 0.5f, cy = (box[1] + box[3]) * 0.5f;
    int64_t whole[2] = {0, anchors->count};
    const int64_t *levels = anchors->levels ? anchors->levels : whole;
    int32_t n = 0;
    for (int64_t level = 0; level < anchors->n_levels; level++) {
        int32_t found = 0;
        for (int64_t a = levels[level]; a < levels[level + 1]; a++) {
            /* A block that begins beyond the farthest claim of a full list has nothing for it. */
            if (a % DD_ANCHOR_BLOCK == 0 && found == o->topk &&
                -gap(&anchors->bounds[a / DD_ANCHOR_BLOCK], cx, cy) <= list[n + found - 1].rank) {
                a += DD_ANCHOR_BLOCK - 1;
                continue;
            }
            float dx = anchors->cx[a] - cx, dy = anchors->cy[a] - cy;
            dd_claim claim = {(int32_t)a, -(dx * dx + dy * dy), 0};
            dd_claim_insert(list + n, &found, o->topk, claim);
        }
        n += found;
    }
    /* In double: the threshold is compared with the very numbers that it is the mean of. */
    double sum = 0, squares = 0;
    for (int32_t i = 0; i < n; i++) {
        list[i].iou = dd_box_iou(anchors->boxes + 4 * (int64_t)list[i].anchor, box);
        sum += list[i].iou;
    }
    double mean = n ? sum / n : 0;
    for (int32_t i = 0; i < n; i++)
        squares += (list[i].iou - mean) * (list[i].iou - mean);
    double threshold = mean + (n > 1 ? sqrt(squares / (n - 1)) : 0);
    /* Kept candidates move to the front of the same list, best IoU first: `i` is never behind. */
    *length = 0;
    for (int32_t i = 0; i < n; i++) {
        int64_t a = list[i].anchor;
        bool inside = anchors->cx[a] >= box[0] && anchors->cx[a] < box[2] &&
                      anchors->cy[a] >= box[1] && anchors->cy[a] < box[3];
        dd_claim claim = {(int32_t)a, list[i].iou, list[i].iou};
        if (inside && claim.iou > 0 && claim.iou >= threshold)
            dd_claim_insert(list, length, i + 1, claim);
    }
}

void dd_assign_atss(const dd_assign_options *o, const dd_anchor_index *anchors,
                    const dd_objects *objects, dd_claims *claims) {
    for (int64_t m = 0; m < objects->count; m++)
        if (dd_object_counts(objects, m))
            atss_object(o, anchors, objects->boxes + 4 * m, claims->list + m * claims->capacity,
                        &claims->length[m]);
}

/* Every anchor looks for its best object; from positive_iou on it is that object's, below
 * negative_iou background, in between ignored. An object that wins none gets its best anchor from
 * dd_claims_rescue. */
void dd_assign_max_iou(const dd_assign_options *o, const dd_anchor_index *anchors,
                       const dd_objects *objects, dd_claims *claims, const dd_assignment *out) {
    for (int64_t m = 0; m < objects->count; m++) {
        const float *box = objects->boxes + 4 * m;
        if (!dd_object_counts(objects, m))
            continue;
        for (int64_t b = 0; b < anchors->blocks; b++) {
            const dd_anchor_bounds *near = &anchors->bounds[b];
            if (near->right <= box[0] || near->left >= box[2] || near->bottom <= box[1] ||
                near->top >= box[3])
                continue;
            int64_t end = (b + 1) * DD_ANCHOR_BLOCK;
            for (int64_t a = b * DD_ANCHOR_BLOCK; a < end && a < anchors->count; a++) {
                float iou = dd_box_iou(anchors->boxes + 4 * a, box);
                if (iou > claims->highest[a]) {
                    claims->highest[a] = iou;
                    out->object[a] = (int32_t)m;
                }
            }
        }
    }
    /* Objects whose best anchors all prefer another one own nothing here; the rescue follows. */
    for (int64_t a = 0; a < anchors->count; a++) {
        if (out->object[a] < 0)
            continue;
        if (claims->highest[a] >= o->positive_iou)
            claims->owned[out->object[a]]++;
        else
            out->object[a] = claims->highest[a] < o->negative_iou ? DD_BACKGROUND : DD_IGNORED;
    }
}
