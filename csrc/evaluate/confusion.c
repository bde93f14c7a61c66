/* The matrix answers another question than AP, so its rule is another: a detection may take an
 * object of a wrong class, and only confident ones are looked at. */
#include "evaluate/confusion.h"

#include <math.h>

#include "base/memory.h"
#include "evaluate/coco_order.h"

/* Area of the intersection of two x, y, w, h boxes. */
static double intersection(const double *a, const double *b) {
    double w = fmin(a[0] + a[2], b[0] + b[2]) - fmax(a[0], b[0]);
    double h = fmin(a[1] + a[3], b[1] + b[3]) - fmax(a[1], b[1]);
    return w > 0 && h > 0 ? w * h : 0;
}

/* The place in the order of the object that detection box `d` takes, or -1; *in_crowd tells whether
 * it lies in a crowd. */
static int64_t best_object(const dd_coco_input *in, const dd_coco_order *o,
                           const dd_coco_group *group, const double *d, double iou,
                           const uint8_t *taken, bool *in_crowd) {
    int64_t best = -1;
    *in_crowd = false;
    for (uint32_t i = group->object_begin; i < group->object_end; i++) {
        const double *g = in->object_box + 4 * (size_t)o->objects[i];
        double both = intersection(d, g), area = d[2] * d[3];
        if (in->object_crowd[o->objects[i]]) {
            *in_crowd |= both > 0 && both >= .5 * area;
            continue;
        }
        double here = both > 0 ? both / (area + g[2] * g[3] - both) : 0;
        if (here > 0 && here >= iou && !taken[i]) {
            iou = here;
            best = i;
        }
    }
    return best;
}

/* One image: a group of an order without classes. taken: a flag an object, cleared. */
static void count_image(const dd_coco_input *in, const dd_coco_order *o, const dd_coco_group *group,
                        double score, double iou, uint8_t *taken, int64_t *counts) {
    int64_t K = in->n_classes;
    for (uint32_t i = group->detection_begin; i < group->detection_end; i++) {
        uint32_t d = o->detections[i];
        if (!(in->detection_score[d] >= score))
            break; /* best first */
        bool in_crowd;
        int64_t best =
            best_object(in, o, group, in->detection_box + 4 * (size_t)d, iou, taken, &in_crowd);
        if (best < 0 && in_crowd)
            continue;
        int64_t row = best < 0 ? K : in->object_class[o->objects[best]];
        counts[row * (K + 1) + in->detection_class[d]]++;
        if (best >= 0)
            taken[best] = 1;
    }
    for (uint32_t i = group->object_begin; i < group->object_end; i++)
        if (!taken[i] && !in->object_crowd[o->objects[i]])
            counts[in->object_class[o->objects[i]] * (K + 1) + K]++;
}

dd_status dd_confusion_count(const dd_coco_input *in, double score, double iou, int64_t *counts) {
    dd_status status = DD_OK;
    dd_coco_order o = {0};
    uint8_t *taken = NULL;
    DD_TRY(dd_coco_input_check(in));
    DD_TRY_DONE(dd_coco_order_make(in, false, &o));
    DD_TRY_DONE(dd_alloc_array((size_t)in->n_objects, 1, &taken));
    for (size_t i = 0; i < o.n_groups; i++)
        count_image(in, &o, &o.groups[i], score, iou, taken, counts);
done:
    dd_coco_order_free(&o);
    dd_free(taken);
    return status;
}
