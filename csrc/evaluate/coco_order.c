/* All orders come from stable counting sorts and a radix sort a class: linear in the number of
 * boxes.
 *
 * A stable sort keeps the order that an earlier one made among equals, so sorting by the least
 * important key first gives any order of several keys: by image, then by class is (class, image,
 * input order). From there on each class is sorted by score on its own, in the thread pool. */
#include "evaluate/coco_order.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "base/threads.h"

/* ---- checks -------------------------------------------------------------------------------- */

/* One side of the input: ground truth, or detections, which have scores. */
static dd_status check_side(const char *who, const int32_t *image, const int32_t *class,
                            const double *score, int64_t n, const dd_coco_input *in) {
    if (n < 0 || n > INT32_MAX)
        return dd_fail(DD_EVALUE, "evaluate: %lld %ss came, at most 2^31 are possible",
                       (long long)n, who);
    for (int64_t i = 0; i < n; i++) {
        if (image[i] >= in->n_images || class[i] >= in->n_classes || image[i] < -1 || class[i] < -1)
            return dd_fail(DD_EVALUE,
                           "evaluate: %s %lld is of image %d and class %d, there are %lld images "
                           "and %lld classes",
                           who, (long long)i, image[i], class[i], (long long)in -> n_images,
                           (long long)in -> n_classes);
        if (score && isnan(score[i]))
            return dd_fail(DD_EVALUE, "evaluate: the score of %s %lld is NaN", who, (long long)i);
    }
    return DD_OK;
}

dd_status dd_coco_input_check(const dd_coco_input *in) {
    if (in->n_images < 0 || in->n_images > INT32_MAX - 1 || in->n_classes < 0 ||
        in->n_classes > INT32_MAX - 1)
        return dd_fail(DD_EVALUE,
                       "evaluate: %lld images and %lld classes came, 0 to 2^31 are possible",
                       (long long)in->n_images, (long long)in->n_classes);
    DD_TRY(check_side("object", in->object_image, in->object_class, NULL, in->n_objects, in));
    return check_side("detection", in->detection_image, in->detection_class, in->detection_score,
                      in->n_detections, in);
}

/* ---- sorts --------------------------------------------------------------------------------- */

typedef struct pair {
    uint64_t key; /* ascends as the score descends */
    uint32_t item;
} pair;

static uint64_t score_key(double score) {
    uint64_t bits;
    score += 0.0; /* -0.0 becomes 0.0 */
    memcpy(&bits, &score, sizeof bits);
    return bits >> 63 ? bits : ~(bits | (uint64_t)1 << 63);
}

#define FEW 48 /* pairs that are sorted by insertion */

/* Stable. Sorts the n pairs in a; b is as long. The result is returned, in one of the two. */
static pair *sort_pairs(pair *a, pair *b, size_t n) {
    if (n <= FEW) {
        for (size_t i = 1; i < n; i++) {
            pair moved = a[i];
            size_t k = i;
            for (; k && a[k - 1].key > moved.key; k--)
                a[k] = a[k - 1];
            a[k] = moved;
        }
        return a;
    }
    uint32_t count[8][256] = {{0}};
    for (size_t i = 0; i < n; i++)
        for (int byte = 0; byte < 8; byte++)
            count[byte][(a[i].key >> (8 * byte)) & 0xff]++;
    for (int byte = 0; byte < 8; byte++) {
        uint32_t *c = count[byte], sum = 0;
        if (c[(a[0].key >> (8 * byte)) & 0xff] == n)
            continue; /* this byte is the same in all keys */
        for (int v = 0; v < 256; v++) {
            uint32_t here = c[v];
            c[v] = sum;
            sum += here;
        }
        for (size_t i = 0; i < n; i++)
            b[c[(a[i].key >> (8 * byte)) & 0xff]++] = a[i];
        pair *t = a;
        a = b;
        b = t;
    }
    return a;
}

dd_status dd_sort_scores(const double *score, uint32_t *order, size_t n) {
    pair *a = NULL;
    DD_TRY(dd_alloc_array(n, 2 * sizeof *a, &a));
    for (size_t i = 0; i < n; i++)
        a[i] = (pair){score_key(score[order[i]]), order[i]};
    pair *sorted = sort_pairs(a, a + n, n);
    for (size_t i = 0; i < n; i++)
        order[i] = sorted[i].item;
    dd_free(a);
    return DD_OK;
}

/* Stable sort of the n positions in *order by key[position] in [0, buckets), through *spare, which
 * then is the old order. starts: (buckets + 1) room; afterwards where each bucket begins. */
static void sort_by(const int32_t *key, size_t buckets, uint32_t **order, uint32_t **spare,
                    size_t n, uint32_t *starts) {
    uint32_t *in = *order, *out = *spare;
    memset(starts, 0, (buckets + 1) * sizeof *starts);
    for (size_t i = 0; i < n; i++)
        starts[key[in[i]] + 1]++;
    for (size_t b = 0; b < buckets; b++)
        starts[b + 1] += starts[b];
    for (size_t i = 0; i < n; i++)
        out[starts[key[in[i]]]++] = in[i];
    /* Each bucket's start now is its end: move them one on. */
    memmove(starts + 1, starts, buckets * sizeof *starts);
    starts[0] = 0;
    *order = out;
    *spare = in;
}

/* ---- orders -------------------------------------------------------------------------------- */

/* What both sides need: positions of the boxes that take part, and room to sort them. */
typedef struct side {
    const int32_t *image, *class;
    size_t n; /* that take part */
    uint32_t *order, *spare;
    uint32_t *image_starts; /* (n_images + 1), scratch */
} side;

/* Lists the boxes that take part; what it made before a failure is side_free's to clean. */
static dd_status side_make(side *s, const int32_t *image, const int32_t *class, int64_t n,
                           int64_t n_images) {
    s->image = image;
    s->class = class;
    s->n = 0;
    DD_TRY(dd_alloc_array((size_t)n, sizeof *s->order, &s->order));
    DD_TRY(dd_alloc_array((size_t)n, sizeof *s->spare, &s->spare));
    DD_TRY(dd_alloc_array((size_t)n_images + 1, sizeof *s->image_starts, &s->image_starts));
    for (int64_t i = 0; i < n; i++)
        if (image[i] >= 0 && class[i] >= 0)
            s->order[s->n++] = (uint32_t)i;
    return DD_OK;
}

static void side_free(side *s) {
    dd_free(s->order);
    dd_free(s->spare);
    dd_free(s->image_starts);
}

/* Stable, so the order among an image's boxes stays. */
static void side_by_image(side *s, int64_t n_images) {
    sort_by(s->image, (size_t)n_images, &s->order, &s->spare, s->n, s->image_starts);
}

/* The outermost sort. Without classes everything is class 0 and stays in order. */
static void side_by_class(side *s, const dd_coco_order *o, bool use_classes, uint32_t *starts) {
    if (use_classes) {
        sort_by(s->class, (size_t)o->n_classes, &s->order, &s->spare, s->n, starts);
    } else {
        starts[0] = 0;
        starts[1] = (uint32_t)s->n;
    }
}

/* Walks both orders side by side and cuts them into groups. */
static dd_status make_groups(const dd_coco_input *in, dd_coco_order *o, size_t n_objects,
                             size_t n_detections) {
    DD_TRY(dd_alloc_array(n_objects + n_detections, sizeof *o->groups, &o->groups));
    for (int64_t k = 0; k < o->n_classes; k++) {
        uint32_t g = o->class_objects[k], g_end = o->class_objects[k + 1];
        uint32_t d = o->class_detections[k], d_end = o->class_detections[k + 1];
        if (d_end - d > o->most_detections)
            o->most_detections = d_end - d;
        while (g < g_end || d < d_end) {
            int32_t image = g < g_end ? in->object_image[o->objects[g]] : INT32_MAX;
            if (d < d_end && in->detection_image[o->detections[d]] < image)
                image = in->detection_image[o->detections[d]];
            dd_coco_group group = {.object_begin = g, .detection_begin = d};
            while (g < g_end && in->object_image[o->objects[g]] == image)
                g++;
            for (; d < d_end && in->detection_image[o->detections[d]] == image; d++)
                o->rank[d] = (uint32_t)o->n_groups; /* for now: sort_class needs the group */
            group.object_end = g;
            group.detection_end = d;
            if (g - group.object_begin > o->most_objects)
                o->most_objects = g - group.object_begin;
            o->groups[o->n_groups++] = group;
        }
    }
    return DD_OK;
}

/* What the threads share while they sort the classes. */
typedef struct sorting {
    const dd_coco_input *in;
    dd_coco_order *o;
    uint32_t *ordered; /* (n) detections as they will stand */
    uint32_t *ranks;   /* (n) the same of rank */
    uint32_t *used;    /* (groups) places that are filled */
    pair *pairs;       /* (threads, 2, most_detections) */
} sorting;

/* One class: its detections stand by (image, input order) and get the order by (score, image,
 * input order), which is best_first. Dealing them out to their images in that order sorts each
 * image's by (score, input order): one sort serves both. */
static void sort_class(void *context, int64_t k, int thread) {
    const sorting *s = context;
    const dd_coco_order *o = s->o;
    uint32_t begin = o->class_detections[k], n = o->class_detections[k + 1] - begin;
    pair *a = s->pairs + 2 * (size_t)thread * o->most_detections, *sorted;
    for (uint32_t i = 0; i < n; i++)
        a[i] = (pair){score_key(s->in->detection_score[o->detections[begin + i]]), begin + i};
    sorted = sort_pairs(a, a + o->most_detections, n);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t from = sorted[i].item, group = o->rank[from], rank = s->used[group]++;
        uint32_t to = o->groups[group].detection_begin + rank;
        s->ordered[to] = o->detections[from];
        s->ranks[to] = rank;
        o->best_first[begin + i] = to;
    }
}

static dd_status sort_classes(const dd_coco_input *in, dd_coco_order *o, size_t n) {
    dd_status status = DD_OK;
    sorting s = {.in = in, .o = o};
    DD_TRY_DONE(dd_alloc(n * sizeof *s.ordered, &s.ordered));
    DD_TRY_DONE(dd_alloc(n * sizeof *s.ranks, &s.ranks));
    DD_TRY_DONE(dd_alloc(n * sizeof *o->best_first, &o->best_first));
    DD_TRY_DONE(dd_alloc_array(o->n_groups, sizeof *s.used, &s.used));
    DD_TRY_DONE(
        dd_alloc(2 * (size_t)dd_threads() * o->most_detections * sizeof *s.pairs, &s.pairs));
    dd_parallel(o->n_classes, sort_class, &s);
    uint32_t *t = o->detections;
    o->detections = s.ordered;
    s.ordered = t;
    t = o->rank;
    o->rank = s.ranks;
    s.ranks = t;
done:
    dd_free(s.ordered);
    dd_free(s.ranks);
    dd_free(s.used);
    dd_free(s.pairs);
    return status;
}

/* pycocotools lists an image's boxes class by class when classes are not in use, so ties keep that
 * order: the sort by class comes first then, and last otherwise. */
static void sort_side(side *s, const dd_coco_input *in, const dd_coco_order *o, bool use_classes,
                      uint32_t *starts) {
    if (!use_classes)
        sort_by(s->class, (size_t)in->n_classes, &s->order, &s->spare, s->n, starts);
    side_by_image(s, in->n_images);
    side_by_class(s, o, use_classes, starts);
}

dd_status dd_coco_order_make(const dd_coco_input *in, bool use_classes, dd_coco_order *out) {
    dd_status status = DD_OK;
    side objects = {0}, detections = {0};
    dd_coco_order o = {.n_classes = use_classes ? in->n_classes : 1};
    size_t bounds = (size_t)(in->n_classes > 1 ? in->n_classes : 1) + 1;
    DD_TRY_DONE(dd_alloc_array(bounds, sizeof *o.class_objects, &o.class_objects));
    DD_TRY_DONE(dd_alloc_array(bounds, sizeof *o.class_detections, &o.class_detections));
    DD_TRY_DONE(
        side_make(&objects, in->object_image, in->object_class, in->n_objects, in->n_images));
    sort_side(&objects, in, &o, use_classes, o.class_objects);
    DD_TRY_DONE(side_make(&detections, in->detection_image, in->detection_class, in->n_detections,
                          in->n_images));
    sort_side(&detections, in, &o, use_classes, o.class_detections);
    o.objects = objects.order;
    o.detections = detections.order;
    objects.order = detections.order = NULL;
    DD_TRY_DONE(dd_alloc(detections.n * sizeof *o.rank, &o.rank));
    DD_TRY_DONE(make_groups(in, &o, objects.n, detections.n));
    DD_TRY_DONE(sort_classes(in, &o, detections.n));
    *out = o;
    o = (dd_coco_order){0};
done:
    side_free(&objects);
    side_free(&detections);
    dd_coco_order_free(&o);
    return status;
}

void dd_coco_order_free(dd_coco_order *order) {
    dd_free(order->objects);
    dd_free(order->detections);
    dd_free(order->rank);
    dd_free(order->best_first);
    dd_free(order->class_objects);
    dd_free(order->class_detections);
    dd_free(order->groups);
    *order = (dd_coco_order){0};
}
