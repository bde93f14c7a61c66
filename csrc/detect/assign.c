/* The frame of the three rules, and the task-aligned one.
 *
 * The frame: a rule lists for every object the anchors that it claims, best first; conflicts are
 * resolved; an object that lost everything is rescued; targets are written; background inside
 * ignore regions is marked last, so that it never takes an anchor from an object.
 *
 * Cost: an object looks at the bounds of all blocks (100 for 6,300 anchors), and into those few
 * that lie under it and have anchors of its size. */
#include "detect/assign.h"

#include <math.h>
#include <string.h>

#include "detect/boxes.h"
#include "detect/claims.h"
#include "detect/sigmoid.h"

dd_assign_options dd_assign_defaults(dd_assigner assigner) {
    return (dd_assign_options){.assigner = assigner,
                               .alpha = 0.5f,
                               .beta = 6,
                               .topk = assigner == DD_ASSIGN_ATSS ? 27 : 13,
                               .max_ratio = 3,
                               .positive_iou = 0.5f,
                               .negative_iou = 0.4f,
                               .ignore_share = 0.5f};
}

/* Written so that NaN is outside of every range. */
static bool within(float x, float low, float high) {
    return x >= low && x <= high;
}

dd_status dd_assign_check(const dd_assign_options *o, const dd_anchor_index *anchors) {
    if (o->topk < 1 || o->topk > DD_MAX_TOPK)
        return dd_fail(DD_EVALUE, "assign: topk is %d, 1 to %d was needed", o->topk, DD_MAX_TOPK);
    if (anchors->n_levels > DD_MAX_LEVELS)
        return dd_fail(DD_EVALUE, "assign: %lld levels came, at most %d are possible",
                       (long long)anchors->n_levels, DD_MAX_LEVELS);
    if (!within(o->alpha, 0, 100) || !within(o->beta, 0, 100))
        return dd_fail(DD_EVALUE, "assign: alpha is %g and beta %g, 0 to 100 was needed", o->alpha,
                       o->beta);
    if (!within(o->max_ratio, 1, 1e6f))
        return dd_fail(DD_EVALUE, "assign: max_ratio is %g, 1 to 1e6 was needed", o->max_ratio);
    if (!within(o->negative_iou, 0, 1) || !within(o->positive_iou, o->negative_iou, 1))
        return dd_fail(DD_EVALUE,
                       "assign: negative_iou is %g and positive_iou %g, 0 <= negative <= positive "
                       "<= 1 was needed",
                       o->negative_iou, o->positive_iou);
    if (!within(o->ignore_share, 0, 1))
        return dd_fail(DD_EVALUE, "assign: ignore_share is %g, 0 to 1 was needed", o->ignore_share);
    return DD_OK;
}

/* Claims that one object can have at the same time. */
static int64_t capacity_of(const dd_assign_options *o, const dd_anchor_index *anchors) {
    switch (o->assigner) {
    case DD_ASSIGN_ATSS:
        return o->topk * anchors->n_levels;
    case DD_ASSIGN_MAX_IOU:
        return 0; /* its anchors choose; objects claim nothing */
    case DD_ASSIGN_TAL:
    default:
        return o->topk;
    }
}

size_t dd_assign_scratch_bytes(const dd_assign_options *options, const dd_anchor_index *anchors,
                               int64_t objects) {
    return dd_claims_bytes(objects, capacity_of(options, anchors), anchors->count);
}

/* ---- task-aligned -------------------------------------------------------------------------- */

/* x^e for 0 <= x <= 1; whole exponents by products, so that the usual 6 and 0.5 cost no pow. */
static float power(float x, float e) {
    if (e == 0.5f)
        return sqrtf(x);
    /* Square and multiply: IoU^6 is three products, and the same bits on every machine. */
    int whole = (int)e;
    if ((float)whole != e)
        return powf(x, e);
    float result = 1;
    for (; whole; whole >>= 1, x *= x)
        if (whole & 1)
            result *= x;
    return result;
}

/* Candidates of one object among the anchors of one block. */
static void tal_block(const dd_assign_options *o, const dd_anchor_index *anchors, int64_t block,
                      const float *box, int32_t label, const dd_predictions *predictions,
                      dd_claim *list, int32_t *length, int64_t capacity) {
    int64_t end = (block + 1) * DD_ANCHOR_BLOCK;
    end = end < anchors->count ? end : anchors->count;
    float bw = box[2] - box[0], bh = box[3] - box[1], ratio = o->max_ratio;
    for (int64_t a = block * DD_ANCHOR_BLOCK; a < end; a++) {
        float cx = anchors->cx[a], cy = anchors->cy[a], w = anchors->w[a], h = anchors->h[a];
        bool inside = cx >= box[0] && cx < box[2] && cy >= box[1] && cy < box[3];
        bool alike = w <= ratio * bw && bw <= ratio * w && h <= ratio * bh && bh <= ratio * h;
        if (!inside || !alike)
            continue;
        /* Only here the predictions are touched: a candidate costs two exponentials and a
         * sigmoid, the geometry above a few comparisons. */
        float iou = dd_predicted_iou(anchors, predictions, a, box), score = 1;
        if (predictions && predictions->logits)
            score = dd_sigmoid(predictions->logits[a * predictions->classes + label]);
        float metric = power(score, o->alpha) * power(iou, o->beta);
        if (metric > 0) /* false for NaN */
            dd_claim_insert(list, length, capacity, (dd_claim){(int32_t)a, metric, iou});
    }
}

/* Blocks are skipped on their bounds: `far` when no centre can lie in the box, `unlike` when all
 * sides are more than max_ratio off in one direction. Anchors come in ascending order, as
 * dd_claim_insert asks for its ties. */
void dd_assign_tal(const dd_assign_options *o, const dd_anchor_index *anchors,
                   const dd_objects *objects, const dd_predictions *predictions,
                   dd_claims *claims) {
    for (int64_t m = 0; m < objects->count; m++) {
        if (!dd_object_counts(objects, m))
            continue;
        const float *box = objects->boxes + 4 * m;
        float bw = box[2] - box[0], bh = box[3] - box[1], ratio = o->max_ratio;
        for (int64_t b = 0; b < anchors->blocks; b++) {
            const dd_anchor_bounds *near = &anchors->bounds[b];
            bool far =
                near->x1 < box[0] || near->x0 >= box[2] || near->y1 < box[1] || near->y0 >= box[3];
            bool unlike = near->w0 > ratio * bw || bw > ratio * near->w1 || near->h0 > ratio * bh ||
                          bh > ratio * near->h1;
            if (!far && !unlike)
                tal_block(o, anchors, b, box, objects->labels[m], predictions,
                          claims->list + m * claims->capacity, &claims->length[m],
                          claims->capacity);
        }
    }
}

/* What the metric's scale is does not matter to a target, only its shape over the object's anchors:
 * target = metric / the object's best metric * its best IoU, over the anchors that it kept. */
static void tal_targets(const dd_claims *claims, const dd_assignment *out) {
    for (int64_t m = 0; m < claims->objects; m++) {
        const dd_claim *list = claims->list + m * claims->capacity;
        float metric = 0, iou = 0;
        for (int32_t i = 0; i < claims->length[m]; i++)
            if (out->object[list[i].anchor] == m) {
                metric = dd_max_f(metric, list[i].rank);
                iou = dd_max_f(iou, list[i].iou);
            }
        for (int32_t i = 0; metric > 0 && i < claims->length[m]; i++)
            if (out->object[list[i].anchor] == m)
                out->target[list[i].anchor] = list[i].rank / metric * iou;
    }
}

/* ---- the frame ----------------------------------------------------------------------------- */

/* Background anchors that lie mostly in an ignore region get no class loss: what is there may well
 * be an object. Positives stay what they are: an object beside a crowd is still one. */
static void ignore_near(const dd_assign_options *o, const dd_anchor_index *anchors,
                        const float *box, const dd_assignment *out) {
    for (int64_t b = 0; b < anchors->blocks; b++) {
        const dd_anchor_bounds *near = &anchors->bounds[b];
        if (near->right <= box[0] || near->left >= box[2] || near->bottom <= box[1] ||
            near->top >= box[3])
            continue;
        int64_t end = (b + 1) * DD_ANCHOR_BLOCK;
        for (int64_t a = b * DD_ANCHOR_BLOCK; a < end && a < anchors->count; a++) {
            float inside = dd_box_overlap(anchors->boxes + 4 * a, box);
            if (out->object[a] == DD_BACKGROUND &&
                inside > o->ignore_share * dd_box_area(anchors->boxes + 4 * a))
                out->object[a] = DD_IGNORED;
        }
    }
}

void dd_assign(const dd_assign_options *o, const dd_anchor_index *anchors,
               const dd_objects *objects, const dd_predictions *predictions, void *scratch,
               const dd_assignment *out) {
    dd_claims claims;
    dd_claims_init(&claims, objects->count, capacity_of(o, anchors), anchors->count, scratch);
    for (int64_t a = 0; a < anchors->count; a++)
        out->object[a] = DD_BACKGROUND;
    memset(out->target, 0, (size_t)anchors->count * sizeof *out->target);
    memset(out->iou, 0, (size_t)anchors->count * sizeof *out->iou);
    if (o->assigner == DD_ASSIGN_TAL)
        dd_assign_tal(o, anchors, objects, predictions, &claims);
    else if (o->assigner == DD_ASSIGN_ATSS)
        dd_assign_atss(o, anchors, objects, &claims);
    else
        dd_assign_max_iou(o, anchors, objects, &claims, out);
    dd_claims_resolve(&claims, out);
    dd_claims_rescue(&claims, anchors, objects, out);
    if (o->assigner == DD_ASSIGN_TAL)
        tal_targets(&claims, out);
    for (int64_t m = 0; objects->ignore && m < objects->count; m++)
        if (objects->ignore[m] && dd_box_valid(objects->boxes + 4 * m))
            ignore_near(o, anchors, objects->boxes + 4 * m, out);
    /* IoU of the finished assignment: the targets of the quality losses where TAL gave none. */
    for (int64_t a = 0; a < anchors->count; a++) {
        int32_t m = out->object[a];
        if (m < 0)
            continue;
        out->iou[a] = dd_predicted_iou(anchors, predictions, a, objects->boxes + 4 * (int64_t)m);
        if (o->assigner != DD_ASSIGN_TAL)
            out->target[a] = 1;
        else if (claims.forced[m])
            out->target[a] = dd_max_f(out->iou[a], DD_FORCED_TARGET);
    }
}
