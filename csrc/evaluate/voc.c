/* The development kit's rules, in its order of operations. A detection looks at the object that it
 * overlaps most, whether that is free or not: unlike COCO's rule a second detection of one object
 * does not fall back on a neighbour. Groups and orders are COCO's (coco_order.h). */
#include "evaluate/voc.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "evaluate/coco_order.h"

/* Overlap with the inclusive pixel convention; negative where there is none, as in the kit. */
static double overlap(const double *a, const double *b) {
    double w = fmin(a[2], b[2]) - fmax(a[0], b[0]) + 1;
    double h = fmin(a[3], b[3]) - fmax(a[1], b[1]) + 1;
    if (!(w > 0 && h > 0))
        return -1;
    double both = w * h;
    double all = (a[2] - a[0] + 1) * (a[3] - a[1] + 1) + (b[2] - b[0] + 1) * (b[3] - b[1] + 1);
    return both / (all - both);
}

/* Decides the detections of one (class, image). taken: one flag an object, cleared. */
static void match_group(const dd_coco_input *in, const dd_coco_order *o, const dd_coco_group *group,
                        double iou, uint8_t *taken, uint8_t *fates) {
    for (uint32_t i = group->detection_begin; i < group->detection_end; i++) {
        uint32_t d = o->detections[i], best = 0;
        double most = -INFINITY;
        for (uint32_t g = group->object_begin; g < group->object_end; g++) {
            double here = overlap(in->detection_box + 4 * (size_t)d,
                                  in->object_box + 4 * (size_t)o->objects[g]);
            if (here > most) {
                most = here;
                best = g;
            }
        }
        /* A difficult object is never taken: any number of detections of it are passed over. */
        if (!(most >= iou)) {
            fates[d] = DD_VOC_FALSE;
        } else if (in->object_crowd[o->objects[best]]) {
            fates[d] = DD_VOC_NOTHING;
        } else {
            fates[d] = taken[best] ? DD_VOC_FALSE : DD_VOC_HIT;
            taken[best] = 1;
        }
    }
}

/* rc, pr: (n) the curve, in order. */
static double area_eleven_points(const double *rc, const double *pr, size_t n) {
    double ap = 0;
    for (int step = 0; step <= 10; step++) {
        double best = 0;
        for (size_t i = 0; i < n; i++)
            if (rc[i] >= step * .1 && pr[i] > best)
                best = pr[i];
        ap += best / 11;
    }
    return ap;
}

/* The area under the curve; pr is made monotone in place. Steps without gain in recall add zero. */
static double area_all_points(const double *rc, double *pr, size_t n) {
    double ap = 0;
    for (size_t i = n; i-- > 1;) /* the best precision at this recall or beyond */
        pr[i - 1] = pr[i] > pr[i - 1] ? pr[i] : pr[i - 1];
    for (size_t i = 0; i < n; i++)
        ap += (rc[i] - (i ? rc[i - 1] : 0)) * pr[i];
    return ap;
}

/* The class's curve out of its detections, best first. */
static double class_ap(const uint32_t *best_first, size_t n, const uint8_t *fates,
                       int64_t positives, bool eleven_points, double *rc, double *pr) {
    double hits = 0, false_alarms = 0;
    for (size_t i = 0; i < n; i++) {
        hits += fates[best_first[i]] == DD_VOC_HIT;
        false_alarms += fates[best_first[i]] == DD_VOC_FALSE;
        rc[i] = hits / (double)positives;
        pr[i] = hits + false_alarms > 0 ? hits / (hits + false_alarms) : 0;
    }
    return eleven_points ? area_eleven_points(rc, pr, n) : area_all_points(rc, pr, n);
}

/* Sorts all detections by score and deals them out to their classes: ties stay in input order
 * over all images, which the order of coco_order.h does not keep. */
static dd_status sort_detections(const dd_coco_input *in, const dd_coco_order *o, uint32_t *order,
                                 uint32_t *by_class, uint32_t *ends) {
    size_t n = (size_t)in->n_detections;
    for (size_t i = 0; i < n; i++)
        order[i] = (uint32_t)i;
    DD_TRY(dd_sort_scores(in->detection_score, order, n));
    memcpy(ends, o->class_detections, (size_t)in->n_classes * sizeof *ends);
    for (size_t i = 0; i < n; i++)
        if (in->detection_image[order[i]] >= 0 && in->detection_class[order[i]] >= 0)
            by_class[ends[in->detection_class[order[i]]]++] = order[i];
    return DD_OK;
}

dd_status dd_voc_evaluate(const dd_coco_input *in, double iou, bool eleven_points,
                          const dd_voc_result *result) {
    dd_status status = DD_OK;
    dd_coco_order o = {0};
    uint8_t *taken = NULL;
    uint32_t *by_class = NULL, *ends = NULL;
    double *curve = NULL;
    DD_TRY(dd_coco_input_check(in));
    size_t n = (size_t)in->n_detections, K = (size_t)in->n_classes;
    DD_TRY_DONE(dd_coco_order_make(in, true, &o));
    DD_TRY_DONE(dd_alloc_array((size_t)in->n_objects, 1, &taken));
    DD_TRY_DONE(dd_alloc_array(n, sizeof *by_class, &by_class));
    DD_TRY_DONE(dd_alloc_array(K, sizeof *ends, &ends));
    DD_TRY_DONE(dd_alloc_array(n, 2 * sizeof *curve, &curve));
    DD_TRY_DONE(sort_detections(in, &o, result->order, by_class, ends));
    memset(result->fates, DD_VOC_NOTHING, n);
    for (size_t i = 0; i < o.n_groups; i++)
        match_group(in, &o, &o.groups[i], iou, taken, result->fates);
    for (size_t k = 0; k < K; k++) {
        int64_t positives = 0;
        for (uint32_t i = o.class_objects[k]; i < o.class_objects[k + 1]; i++)
            positives += !in->object_crowd[o.objects[i]];
        uint32_t begin = o.class_detections[k], end = o.class_detections[k + 1];
        result->positives[k] = positives;
        result->ap[k] = positives ? class_ap(by_class + begin, end - begin, result->fates,
                                             positives, eleven_points, curve, curve + n)
                                  : NAN;
    }
done:
    dd_coco_order_free(&o);
    dd_free(taken);
    dd_free(by_class);
    dd_free(ends);
    dd_free(curve);
    return status;
}
