/* Matching and accumulation.
 *
 * pycocotools makes a matrix of IoUs for each (class, image), then walks it once for each area
 * range and threshold. Here a detection is the outer loop: its IoUs are worked out once, those
 * below every threshold are forgotten (nearly all), and the 40 combinations look at the few
 * candidates that are left. That gives the same matches, since the combinations do not see each
 * other and each one still meets its detections best first; and it needs no matrix, so a crowded
 * image costs G, not D x G.
 *
 * The objects that count come first in pycocotools' order, the ignored ones after them, and its
 * loop stops at the first ignored object once it has a match. Two passes over the candidates, first
 * the ones that count, then the ignored ones, are the same thing without sorting.
 *
 * Both stages are cut into units whose results do not depend on the thread: a unit of matching
 * writes the fates of its own detections, a unit of accumulation its own curves. */
#include "evaluate/coco.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "base/threads.h"
#include "evaluate/coco_order.h"

#define GROUPS_A_UNIT 8
#define EPS 2.220446049250313e-16 /* numpy.spacing(1) */

/* Fate of a detection at one (area range, IoU threshold). */
enum { MATCHED = 1, IGNORED = 2 };

typedef struct candidate { /* an object that overlaps the detection enough for some threshold */
    double iou;
    uint32_t object; /* within the group */
} candidate;

typedef struct job {
    const dd_coco_input *in;
    const dd_coco_params *p;
    dd_coco_order order;
    double *bound;  /* (T) min(threshold, 1 - 1e-10) */
    double floor;   /* the least of them: an IoU below it matters nowhere */
    uint8_t *fates; /* (detections in order, A, T) */
    unsigned char *scratch;
    size_t scratch_bytes; /* of one thread */
    double *precision, *recall, *scores;
} job;

/* ---- matching ------------------------------------------------------------------------------ */

/* IoU as pycocotools' bbIou has it, operation by operation. */
static double box_iou(const double *d, const double *g, bool crowd) {
    double w = fmin(d[2] + d[0], g[2] + g[0]) - fmax(d[0], g[0]);
    if (w <= 0)
        return 0;
    double h = fmin(d[3] + d[1], g[3] + g[1]) - fmax(d[1], g[1]);
    if (h <= 0)
        return 0;
    double detection_area = d[2] * d[3], object_area = g[2] * g[3], both = w * h;
    return both / (crowd ? detection_area : detection_area + object_area - both);
}

/* The best free candidate of those that are ignored, or of those that are not; -1 if none. The
 * comparisons are the ones of pycocotools, so that even a NaN (0/0) goes the same way. */
static int64_t best_candidate(const candidate *c, uint32_t n, double bound, bool ignored,
                              const uint8_t *ignore, const uint8_t *taken) {
    int64_t best = -1;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t g = c[i].object;
        if (ignore[g] != ignored || taken[g] || c[i].iou < bound)
            continue;
        bound = c[i].iou;
        best = g;
    }
    return best;
}

/* The memory of one thread while it works on one group of G objects. */
typedef struct workspace {
    candidate *candidates; /* (G) */
    uint8_t *ignore;       /* (A, G) */
    uint8_t *taken;        /* (A, T, G); stays 0 for crowds */
} workspace;

/* The thread's part of the scratch, laid out for the largest group. */
static workspace workspace_of(const job *j, int thread) {
    size_t most = j->order.most_objects;
    unsigned char *base = j->scratch + (size_t)thread * j->scratch_bytes;
    workspace w = {.candidates = (candidate *)(void *)base};
    w.ignore = base + most * sizeof(candidate);
    w.taken = w.ignore + most * (size_t)j->p->n_area;
    return w;
}

/* Gives detection `d` (a place in the order) its fate at every area range and threshold. */
static void match_detection(const job *j, const dd_coco_group *group, const workspace *w,
                            uint32_t d, uint32_t n_candidates) {
    const dd_coco_input *in = j->in;
    size_t T = (size_t)j->p->n_iou, G = group->object_end - group->object_begin;
    const uint32_t *objects = j->order.objects + group->object_begin;
    const double *box = in->detection_box + 4 * (size_t)j->order.detections[d];
    double area = box[2] * box[3];
    for (size_t a = 0; a < (size_t)j->p->n_area; a++) {
        /* A detection without a match is no false alarm of a size range that it is not in. */
        bool outside = area < j->p->area[2 * a] || area > j->p->area[2 * a + 1];
        const uint8_t *ignore = w->ignore + a * G;
        uint8_t *fate = j->fates + ((size_t)d * (size_t)j->p->n_area + a) * T;
        memset(fate, outside ? IGNORED : 0, T);
        if (!n_candidates)
            continue;
        for (size_t t = 0; t < T; t++) {
            uint8_t *taken = w->taken + (a * T + t) * G;
            int64_t m =
                best_candidate(w->candidates, n_candidates, j->bound[t], false, ignore, taken);
            if (m < 0)
                m = best_candidate(w->candidates, n_candidates, j->bound[t], true, ignore, taken);
            if (m < 0)
                continue;
            bool blank = in->object_blank && in->object_blank[objects[m]];
            /* A blank object is taken like any other; only its match does not show. */
            taken[m] = !in->object_crowd[objects[m]];
            fate[t] = (uint8_t)((blank ? fate[t] : MATCHED) | (ignore[m] ? IGNORED : 0));
        }
    }
}

/* All detections of one (class, image), best first, up to the largest max_det. */
static void match_group(const job *j, const dd_coco_group *group, const workspace *w) {
    const dd_coco_input *in = j->in;
    size_t A = (size_t)j->p->n_area, T = (size_t)j->p->n_iou;
    size_t G = group->object_end - group->object_begin;
    const uint32_t *objects = j->order.objects + group->object_begin;
    int64_t most = j->p->max_det[j->p->n_max_det - 1];
    for (size_t a = 0; a < A; a++)
        for (size_t g = 0; g < G; g++) {
            double area = in->object_area[objects[g]];
            w->ignore[a * G + g] = in->object_crowd[objects[g]] || area < j->p->area[2 * a] ||
                                   area > j->p->area[2 * a + 1];
        }
    memset(w->taken, 0, A * T * G);
    for (uint32_t d = group->detection_begin; d < group->detection_end; d++) {
        if (j->order.rank[d] >= most)
            break;
        const double *box = in->detection_box + 4 * (size_t)j->order.detections[d];
        uint32_t n = 0;
        for (uint32_t g = 0; g < G; g++) {
            /* "not below" and not "at or above": a NaN stays a candidate, as in pycocotools. */
            bool crowd = in->object_crowd[objects[g]];
            double iou = box_iou(box, in->object_box + 4 * (size_t)objects[g], crowd);
            if (!(iou < j->floor))
                w->candidates[n++] = (candidate){iou, g};
        }
        match_detection(j, group, w, d, n);
    }
}

static void match_unit(void *context, int64_t unit, int thread) {
    const job *j = context;
    workspace w = workspace_of(j, thread);
    size_t begin = (size_t)unit * GROUPS_A_UNIT, end = begin + GROUPS_A_UNIT;
    if (dd_cancelled())
        return;
    for (size_t i = begin; i < end && i < j->order.n_groups; i++)
        match_group(j, &j->order.groups[i], &w);
}

/* ---- accumulation -------------------------------------------------------------------------- */

/* Where the results of (class k, area a, max_det m) lie: stride to the next recall, next IoU. */
typedef struct place {
    size_t precision, recall, precision_r, precision_t, recall_t;
} place;

static place place_of(const job *j, int64_t k, int64_t a, int64_t m) {
    size_t A = (size_t)j->p->n_area, M = (size_t)j->p->n_max_det;
    size_t K = (size_t)j->order.n_classes, R = (size_t)j->p->n_recall;
    size_t at = ((size_t)k * A + (size_t)a) * M + (size_t)m;
    return (place){at, at, K * A * M, R * K * A * M, K * A * M};
}

/* The first i with rc[i] >= value, n if there is none; rc ascends. */
static size_t lower_bound(const double *rc, size_t n, double value) {
    size_t low = 0;
    while (n) {
        size_t half = n / 2;
        if (rc[low + half] < value) {
            low += half + 1;
            n -= half + 1;
        } else {
            n = half;
        }
    }
    return low;
}

/* One curve: the n detections in `list` (places in the order, best first) at area a, threshold t.
 * rc, pr: (n) scratch. */
static void fill_curve(const job *j, const uint32_t *list, size_t n, int64_t a, int64_t t,
                       double n_objects, double *rc, double *pr, place at) {
    size_t A = (size_t)j->p->n_area, T = (size_t)j->p->n_iou;
    const uint8_t *fates = j->fates + (size_t)a * T + (size_t)t;
    double tp = 0, fp = 0; /* exact as doubles, and divided as such */
    for (size_t i = 0; i < n; i++) {
        uint8_t fate = fates[(size_t)list[i] * A * T];
        tp += fate == MATCHED;
        fp += fate == 0;
        rc[i] = tp / n_objects;
        pr[i] = tp / (fp + tp + EPS);
    }
    j->recall[at.recall + (size_t)t * at.recall_t] = n ? rc[n - 1] : 0;
    for (size_t i = n; i-- > 1;)
        if (pr[i] > pr[i - 1])
            pr[i - 1] = pr[i];
    double *precision = j->precision + at.precision + (size_t)t * at.precision_t;
    double *scores = j->scores + at.precision + (size_t)t * at.precision_t;
    bool beyond = false; /* the curve ended: zeros from here on */
    for (size_t r = 0; r < (size_t)j->p->n_recall; r++) {
        size_t i = beyond ? n : lower_bound(rc, n, j->p->recall[r]);
        beyond = i == n;
        precision[r * at.precision_r] = beyond ? 0 : pr[i];
        scores[r * at.precision_r] =
            beyond ? 0 : j->in->detection_score[j->order.detections[list[i]]];
    }
}

/* Objects of class k that count at area range a. */
static int64_t count_objects(const job *j, int64_t k, int64_t a) {
    int64_t count = 0;
    for (uint32_t i = j->order.class_objects[k]; i < j->order.class_objects[k + 1]; i++) {
        uint32_t g = j->order.objects[i];
        double area = j->in->object_area[g];
        count +=
            !(j->in->object_crowd[g] || area < j->p->area[2 * a] || area > j->p->area[2 * a + 1]);
    }
    return count;
}

/* The curves of (k, a, m - 1) are those of (k, a, m), too: no image has more detections. */
static void copy_curves(const job *j, place at) {
    for (size_t t = 0; t < (size_t)j->p->n_iou; t++) {
        double *recall = j->recall + at.recall + t * at.recall_t;
        recall[0] = recall[-1];
        for (size_t r = 0; r < (size_t)j->p->n_recall; r++) {
            size_t i = at.precision + t * at.precision_t + r * at.precision_r;
            j->precision[i] = j->precision[i - 1];
            j->scores[i] = j->scores[i - 1];
        }
    }
}

/* A unit is a (class, area range). */
static void accumulate_unit(void *context, int64_t unit, int thread) {
    const job *j = context;
    int64_t k = unit / j->p->n_area, a = unit % j->p->n_area;
    int64_t n_objects = count_objects(j, k, a);
    if (!n_objects || dd_cancelled())
        return;
    double *rc = (double *)(void *)(j->scratch + (size_t)thread * j->scratch_bytes);
    double *pr = rc + j->order.most_detections;
    uint32_t *list = (uint32_t *)(void *)(pr + j->order.most_detections);
    uint32_t begin = j->order.class_detections[k], end = j->order.class_detections[k + 1];
    size_t before = 0;
    for (int64_t m = 0; m < j->p->n_max_det; m++) {
        size_t n = 0; /* the class's detections that are among the best of their image */
        for (uint32_t i = begin; i < end; i++)
            if (j->order.rank[j->order.best_first[i]] < j->p->max_det[m])
                list[n++] = j->order.best_first[i];
        if (m && n == before) {
            copy_curves(j, place_of(j, k, a, m));
            continue;
        }
        for (int64_t t = 0; t < j->p->n_iou; t++)
            fill_curve(j, list, n, a, t, (double)n_objects, rc, pr, place_of(j, k, a, m));
        before = n;
    }
}

/* ---- the whole ----------------------------------------------------------------------------- */

/* Parameters, then the input's indices: after this nothing can be out of range. */
static dd_status check(const dd_coco_input *in, const dd_coco_params *p) {
    if (p->n_iou < 1 || p->n_recall < 1 || p->n_area < 1 || p->n_max_det < 1)
        return dd_fail(DD_EVALUE, "coco_evaluate: a list of thresholds, area ranges or max_det is "
                                  "empty, at least one each is needed");
    for (int64_t m = 0; m < p->n_max_det; m++)
        if (p->max_det[m] < 1 || (m && p->max_det[m] < p->max_det[m - 1]))
            return dd_fail(DD_EVALUE,
                           "coco_evaluate: max_det[%lld] is %lld, ascending numbers of "
                           "at least 1 are needed",
                           (long long)m, (long long)p->max_det[m]);
    return dd_coco_input_check(in);
}

/* One thread's scratch serves matching first and accumulation then. */
static dd_status make_scratch(job *j) {
    size_t A = (size_t)j->p->n_area, T = (size_t)j->p->n_iou, a_object = 0, match, curve;
    DD_TRY(dd_size_mul(A, T, "coco_evaluate", &a_object));
    DD_TRY(dd_size_add(a_object, A + sizeof(candidate), "coco_evaluate", &a_object));
    DD_TRY(dd_size_mul(j->order.most_objects, a_object, "coco_evaluate", &match));
    curve = j->order.most_detections * (2 * sizeof(double) + sizeof(uint32_t));
    j->scratch_bytes = (match > curve ? match : curve) + 64;
    j->scratch_bytes -= j->scratch_bytes % 64; /* so that each thread's part is aligned */
    size_t fates = j->order.class_detections[j->order.n_classes];
    DD_TRY(dd_size_mul(fates, A, "coco_evaluate", &fates));
    DD_TRY(dd_alloc_array(fates, T, &j->fates));
    return dd_alloc_array((size_t)dd_threads(), j->scratch_bytes, &j->scratch);
}

/* Everything is allocated here, before the threads start. */
dd_status dd_coco_evaluate(const dd_coco_input *input, const dd_coco_params *params,
                           double *precision, double *recall, double *scores) {
    dd_status status = DD_OK;
    job j = {.in = input, .p = params, .precision = precision, .recall = recall, .scores = scores};
    DD_TRY(check(input, params));
    size_t T = (size_t)params->n_iou;
    DD_TRY_DONE(dd_alloc_array(T, sizeof *j.bound, &j.bound));
    for (size_t t = 0; t < T; t++) {
        j.bound[t] = params->iou[t] < 1 - 1e-10 ? params->iou[t] : 1 - 1e-10;
        j.floor = t && j.floor < j.bound[t] ? j.floor : j.bound[t];
    }
    DD_TRY_DONE(dd_coco_order_make(input, params->use_classes, &j.order));
    DD_TRY_DONE(make_scratch(&j));
    size_t curves = T * (size_t)(j.order.n_classes * params->n_area * params->n_max_det);
    for (size_t i = 0; i < curves; i++)
        recall[i] = -1;
    for (size_t i = 0; i < curves * (size_t)params->n_recall; i++)
        precision[i] = scores[i] = -1;
    int64_t units = (int64_t)((j.order.n_groups + GROUPS_A_UNIT - 1) / GROUPS_A_UNIT);
    dd_parallel(units, match_unit, &j);
    dd_parallel(j.order.n_classes * params->n_area, accumulate_unit, &j);
    if (dd_cancelled())
        status = dd_fail(DD_ECANCELED, "coco_evaluate: canceled");
done:
    dd_free(j.bound);
    dd_free(j.fates);
    dd_free(j.scratch);
    dd_coco_order_free(&j.order);
    return status;
}
