/* Claims, conflicts and the rescue.
 *
 * Every step goes through objects and anchors in ascending order and replaces only what is strictly
 * worse. So the result is a pure function of the input: no hash, no sort whose ties float. */
#include "detect/claims.h"

#include <string.h>

#include "detect/boxes.h"
#include "detect/sigmoid.h"

size_t dd_claims_bytes(int64_t objects, int64_t capacity, int64_t anchors) {
    return (size_t)objects * ((size_t)capacity * sizeof(dd_claim) + 2 * sizeof(int32_t) + 1) +
           (size_t)anchors * sizeof(float);
}

void dd_claims_init(dd_claims *c, int64_t objects, int64_t capacity, int64_t anchors,
                    void *memory) {
    /* Four-byte members first, bytes last: no padding between them. */
    *c = (dd_claims){.objects = objects, .capacity = capacity, .list = memory};
    c->highest = (float *)(c->list + objects * capacity);
    c->length = (int32_t *)(c->highest + anchors);
    c->owned = c->length + objects;
    c->forced = (uint8_t *)(c->owned + objects);
    memset(c->length, 0, 2 * (size_t)objects * sizeof *c->length);
    memset(c->forced, 0, (size_t)objects);
    memset(c->highest, 0, (size_t)anchors * sizeof *c->highest);
}

void dd_claim_insert(dd_claim *list, int32_t *length, int64_t capacity, dd_claim claim) {
    /* Insertion into a short sorted list: topk is 13 or 27, and most claims of a long scan are
     * refused by the first comparison. */
    if (*length == capacity) {
        if (!(claim.rank > list[capacity - 1].rank))
            return;
    } else {
        (*length)++;
    }
    int64_t at = *length - 1;
    for (; at > 0 && claim.rank > list[at - 1].rank; at--)
        list[at] = list[at - 1];
    list[at] = claim;
}

void dd_claims_resolve(dd_claims *c, const dd_assignment *out) {
    for (int64_t m = 0; m < c->objects; m++)
        for (int32_t i = 0; i < c->length[m]; i++) {
            const dd_claim *claim = &c->list[m * c->capacity + i];
            int32_t holder = out->object[claim->anchor];
            /* Strictly higher: between equals the lower object stays. */
            if (holder >= 0 && !(claim->iou > c->highest[claim->anchor]))
                continue;
            if (holder >= 0)
                c->owned[holder]--;
            c->owned[m]++;
            c->highest[claim->anchor] = claim->iou;
            out->object[claim->anchor] = (int32_t)m;
        }
}

/* An anchor may be given away unless it is the last one of its holder: the rescue must not create
 * a new orphan. Background and ignored anchors have no holder. */
static bool available(const dd_claims *c, const dd_assignment *out, int64_t anchor) {
    int32_t holder = out->object[anchor];
    return holder < 0 || c->owned[holder] > 1;
}

/* Orphans are rare (an object of a few pixels, or one of two identical boxes), so a plain look at
 * every anchor is good enough. The best overlapping anchor that can be had, else the nearest one;
 * -1 when every anchor is some object's last. */
static int64_t rescue_anchor(const dd_claims *c, const dd_anchor_index *anchors, const float *box,
                             const dd_assignment *out) {
    float cx = (box[0] + box[2]) * 0.5f, cy = (box[1] + box[3]) * 0.5f;
    float best_iou = 0, best_distance = 0;
    int64_t best = -1;
    for (int64_t a = 0; a < anchors->count; a++) {
        if (!available(c, out, a))
            continue;
        float iou = dd_box_iou(anchors->boxes + 4 * a, box);
        float dx = anchors->cx[a] - cx, dy = anchors->cy[a] - cy, distance = dx * dx + dy * dy;
        if (best < 0 || iou > best_iou || (iou == best_iou && distance < best_distance)) {
            best = a;
            best_iou = iou;
            best_distance = distance;
        }
    }
    return best;
}

void dd_claims_rescue(dd_claims *c, const dd_anchor_index *anchors, const dd_objects *objects,
                      const dd_assignment *out) {
    for (int64_t m = 0; m < c->objects; m++) {
        if (c->owned[m] > 0 || !dd_object_counts(objects, m))
            continue;
        /* Its own candidates first, best first: they were judged by the rule. */
        int64_t anchor = -1;
        for (int32_t i = 0; i < c->length[m] && anchor < 0; i++)
            if (available(c, out, c->list[m * c->capacity + i].anchor))
                anchor = c->list[m * c->capacity + i].anchor;
        if (anchor < 0)
            anchor = rescue_anchor(c, anchors, objects->boxes + 4 * m, out);
        if (anchor < 0)
            continue;
        if (out->object[anchor] >= 0)
            c->owned[out->object[anchor]]--;
        out->object[anchor] = (int32_t)m;
        c->owned[m] = 1;
        c->forced[m] = 1;
    }
}

bool dd_object_counts(const dd_objects *objects, int64_t m) {
    return !(objects->ignore && objects->ignore[m]) && dd_box_valid(objects->boxes + 4 * m);
}

float dd_predicted_iou(const dd_anchor_index *anchors, const dd_predictions *predictions, int64_t a,
                       const float *box) {
    if (!predictions || !predictions->deltas)
        return dd_box_iou(anchors->boxes + 4 * a, box);
    /* float32 and the vectorizable exp: an assignment looks at tens of thousands of candidates,
     * and a target needs no double. */
    const float *d = predictions->deltas + 4 * a;
    float aw = anchors->w[a], ah = anchors->h[a], limit = (float)DD_DELTA_CLAMP;
    float tw = d[2] > limit ? limit : d[2] < -limit ? -limit : d[2];
    float th = d[3] > limit ? limit : d[3] < -limit ? -limit : d[3];
    float cx = anchors->cx[a] + d[0] * aw, cy = anchors->cy[a] + d[1] * ah;
    float half_w = 0.5f * aw * dd_exp(tw), half_h = 0.5f * ah * dd_exp(th);
    float predicted[4] = {cx - half_w, cy - half_h, cx + half_w, cy + half_h};
    return dd_box_iou(predicted, box);
}
