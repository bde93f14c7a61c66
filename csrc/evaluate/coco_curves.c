/* Accumulation: from the fates of a class's detections, best first, to its curves.
 *
 * pycocotools makes recall and precision at every detection. Both are only ever read at a true
 * positive: recall grows there alone, so the first place where it reaches a threshold is one, and
 * precision falls between two of them, so the best precision from a place on is that of one, too.
 * (The place of recall 0 is the first detection; from there on the best is the same.) Hence one
 * walk notes the true positives of all thresholds of a block, with the false alarms before each,
 * and a division is made for each of them and not for each detection. Recall after i true positives
 * is i / objects whatever the threshold, so how many are needed for each recall is found once. */
#include <math.h>
#include <string.h>

#include "base/threads.h"
#include "evaluate/coco_job.h"

/* A true positive: false alarms before it, and its place in the order. */
typedef struct hit {
    uint32_t false_alarms, place;
} hit;

/* The scratch of one thread. Events are detections that some threshold matched: the others are
 * false alarms at all thresholds, or ignored at all, so before each event it is enough to know how
 * many. */
typedef struct workspace {
    double *best;        /* (most_class_objects) */
    size_t *need;        /* (R) true positives that reach each recall */
    size_t *length;      /* (M) detections that count at each max_det */
    hit *hits;           /* (block, most_class_objects) */
    double *curves;      /* (2, T, R, A, M) precision and scores of the class */
    dd_coco_fate *fates; /* (events, A, blocks) */
    uint32_t *alarms;    /* (events + 1, M, A) common false alarms before each event */
    uint32_t *place;     /* (events) in the order */
    uint32_t *first;     /* (M) place of the best detection */
    size_t most_hits, events;
} workspace;

/* Hits of a threshold: no class has more objects than that. */
static size_t most_class_objects(const dd_coco_job *j) {
    size_t most = 0;
    for (int64_t k = 0; k < j->order.n_classes; k++) {
        size_t n = j->order.class_objects[k + 1] - j->order.class_objects[k];
        most = n > most ? n : most;
    }
    return most;
}

static size_t block_width(const dd_coco_job *j) {
    size_t T = (size_t)j->p->n_iou;
    return T < DD_COCO_BLOCK ? T : DD_COCO_BLOCK;
}

/* Fates of a detection. */
static size_t fates_each(const dd_coco_job *j) {
    return (size_t)j->p->n_area * j->n_blocks;
}

/* Values of all curves of a class. */
static size_t curve_size(const dd_coco_job *j) {
    return (size_t)(j->p->n_iou * j->p->n_recall * j->p->n_area * j->p->n_max_det);
}

/* Common false alarms are counted by max_det and area range. */
static size_t alarms_each(const dd_coco_job *j) {
    return (size_t)(j->p->n_max_det * j->p->n_area);
}

size_t dd_coco_curve_scratch(const dd_coco_job *j) {
    size_t most = most_class_objects(j), events = j->order.most_detections;
    size_t M = (size_t)j->p->n_max_det;
    return most * (sizeof(double) + block_width(j) * sizeof(hit)) +
           2 * curve_size(j) * sizeof(double) + ((size_t)j->p->n_recall + M) * sizeof(size_t) +
           events * fates_each(j) * sizeof(dd_coco_fate) +
           ((events + 1) * alarms_each(j) + events + M) * sizeof(uint32_t);
}

static workspace workspace_of(const dd_coco_job *j, int thread) {
    workspace w = {.most_hits = most_class_objects(j)};
    size_t events = j->order.most_detections, M = (size_t)j->p->n_max_det;
    w.best = (double *)(void *)(j->scratch + (size_t)thread * j->scratch_bytes);
    w.need = (size_t *)(void *)(w.best + w.most_hits);
    w.length = w.need + j->p->n_recall;
    w.hits = (hit *)(void *)(w.length + M);
    w.curves = (double *)(void *)(w.hits + block_width(j) * w.most_hits);
    w.fates = (dd_coco_fate *)(void *)(w.curves + 2 * curve_size(j));
    w.alarms = (uint32_t *)(void *)(w.fates + events * fates_each(j));
    w.place = w.alarms + (events + 1) * alarms_each(j);
    w.first = w.place + events;
    return w;
}

/* Objects of class k that count at area range a. */
static size_t count_objects(const dd_coco_job *j, int64_t k, size_t a) {
    size_t count = 0;
    for (uint32_t i = j->order.class_objects[k]; i < j->order.class_objects[k + 1]; i++)
        count += !dd_coco_ignored(j, j->order.objects[i], a);
    return count;
}

/* need[r]: the least i with i / n not below recall r, by pycocotools' own comparison; n + 1 where
 * there is none. */
static void count_needed(const dd_coco_job *j, size_t n, size_t *need) {
    for (size_t r = 0; r < (size_t)j->p->n_recall; r++) {
        double recall = j->p->recall[r], guess = recall * (double)n;
        size_t i = guess > 0 ? guess < (double)n ? (size_t)guess : n : 0;
        while (i && (double)(i - 1) / (double)n >= recall)
            i--;
        while (i <= n && (double)i / (double)n < recall)
            i++;
        need[r] = i;
    }
}

/* Walks the events once for an area range, a max_det and a block of thresholds; n_hits[t] and
 * hits[t] come out. */
static void find_hits(const dd_coco_job *j, const workspace *w, size_t a, size_t m, size_t block,
                      uint32_t *n_hits) {
    uint32_t all = dd_coco_block_bits(j, block), alarms[DD_COCO_BLOCK] = {0};
    size_t stride = fates_each(j), each = alarms_each(j);
    const dd_coco_fate *fates = w->fates + a * j->n_blocks + block;
    const uint32_t *common = w->alarms + m * (size_t)j->p->n_area + a;
    memset(n_hits, 0, DD_COCO_BLOCK * sizeof *n_hits);
    for (size_t i = 0; i < w->events; i++) {
        if (j->order.rank[w->place[i]] >= j->p->max_det[m])
            continue;
        dd_coco_fate fate = fates[i * stride];
        uint32_t counted = all & ~fate.ignored;
        for (uint32_t bits = counted & ~fate.matched; bits; bits &= bits - 1)
            alarms[__builtin_ctz(bits)]++;
        for (uint32_t bits = counted & fate.matched; bits; bits &= bits - 1) {
            int t = __builtin_ctz(bits);
            w->hits[(size_t)t * w->most_hits + n_hits[t]++] =
                (hit){common[i * each] + alarms[t], w->place[i]};
        }
    }
}

/* best[i]: the best precision from the i-th true positive on. */
static void best_precision(const hit *hits, size_t n, double *best) {
    double most = 0;
    for (size_t i = n; i-- > 0;) {
        double tp = (double)(i + 1), fp = hits[i].false_alarms;
        double precision = tp / (fp + tp + DD_COCO_EPS);
        most = precision > most ? precision : most;
        best[i] = most;
    }
}

/* Where the results of (area a, max_det m) lie: precision and scores in the class's own array, from
 * which they go out in one go, since in the caller's arrays neighbours are pages apart. */
typedef struct place {
    double *precision, *scores, *recall;
    size_t next_r, next_t, recall_next_t;
} place;

static place place_of(const dd_coco_job *j, const workspace *w, int64_t k, size_t a, size_t m) {
    size_t A = (size_t)j->p->n_area, M = (size_t)j->p->n_max_det;
    size_t K = (size_t)j->order.n_classes, R = (size_t)j->p->n_recall, at = a * M + m;
    return (place){w->curves + at,
                   w->curves + curve_size(j) + at,
                   j->recall + (size_t)k * A * M + at,
                   A * M,
                   R * A * M,
                   K * A * M};
}

/* Copies the class's curves of areas [a, a_end) into the caller's arrays. */
static void write_out(const dd_coco_job *j, const workspace *w, int64_t k, size_t a, size_t a_end) {
    size_t A = (size_t)j->p->n_area, M = (size_t)j->p->n_max_det;
    size_t K = (size_t)j->order.n_classes, rows = (size_t)(j->p->n_iou * j->p->n_recall);
    const double *precision = w->curves + a * M, *scores = precision + curve_size(j);
    size_t out = (size_t)k * A * M + a * M, bytes = (a_end - a) * M * sizeof(double);
    for (size_t i = 0; i < rows; i++) {
        memcpy(j->precision + i * K * A * M + out, precision + i * A * M, bytes);
        memcpy(j->scores + i * K * A * M + out, scores + i * A * M, bytes);
    }
}

/* One curve: threshold t at max_det m, with n hits. */
static void write_curve(const dd_coco_job *j, const workspace *w, const hit *hits, size_t n,
                        size_t m, size_t n_objects, place at, size_t t) {
    double *precision = at.precision + t * at.next_t, *scores = at.scores + t * at.next_t;
    const double *score = j->in->detection_score;
    best_precision(hits, n, w->best);
    at.recall[t * at.recall_next_t] = w->length[m] ? (double)n / (double)n_objects : 0;
    bool beyond = w->length[m] == 0; /* the curve ended: zeros from here on */
    for (size_t r = 0; r < (size_t)j->p->n_recall; r++) {
        size_t need = w->need[r];
        beyond = beyond || need > n;
        double value = 0, confidence = 0;
        if (!beyond) {
            size_t i = need ? need - 1 : 0; /* recall 0 is read at the very first detection */
            value = n ? w->best[i] : 0;
            confidence = score[j->order.detections[need ? hits[i].place : w->first[m]]];
        }
        precision[r * at.next_r] = value;
        scores[r * at.next_r] = confidence;
    }
}

/* Every value of a curve is the same: -1 where nothing counts, or the neighbour's, whose curves
 * are these, too (no image has more detections than max_det[m - 1]). */
static void fill_curves(const dd_coco_job *j, place at, bool copy) {
    for (size_t t = 0; t < (size_t)j->p->n_iou; t++) {
        double *recall = at.recall + t * at.recall_next_t;
        *recall = copy ? recall[-1] : -1;
        for (size_t r = 0; r < (size_t)j->p->n_recall; r++) {
            double *precision = at.precision + t * at.next_t + r * at.next_r;
            double *scores = at.scores + t * at.next_t + r * at.next_r;
            *precision = copy ? precision[-1] : -1;
            *scores = copy ? scores[-1] : -1;
        }
    }
}

#define AHEAD 16 /* detections whose fates are on their way from memory */

/* Whether the detection's fate is the same at all thresholds of an area range, and no match. */
static bool is_common(const dd_coco_job *j, const dd_coco_fate *fates) {
    for (size_t a = 0; a < (size_t)j->p->n_area; a++)
        for (size_t block = 0; block < j->n_blocks; block++, fates++)
            if (fates->matched ||
                (fates->ignored && fates->ignored != dd_coco_block_bits(j, block)))
                return false;
    return true;
}

/* Walks the class's detections, best first, once: events with their fates, and the common false
 * alarms before each. */
static void find_events(const dd_coco_job *j, workspace *w, int64_t k) {
    size_t M = (size_t)j->p->n_max_det, A = (size_t)j->p->n_area;
    size_t each = fates_each(j), counts = alarms_each(j);
    uint32_t *running = w->alarms, end = j->order.class_detections[k + 1];
    memset(running, 0, counts * sizeof *running);
    memset(w->length, 0, M * sizeof *w->length);
    w->events = 0;
    for (uint32_t i = j->order.class_detections[k]; i < end; i++) {
        uint32_t d = j->order.best_first[i];
        const dd_coco_fate *fates = j->fates + d * each;
        size_t from = 0; /* the first max_det that takes it */
        if (i + AHEAD < end)
            __builtin_prefetch(j->fates + j->order.best_first[i + AHEAD] * each);
        while (from < M && j->order.rank[d] >= j->p->max_det[from])
            from++;
        for (size_t m = from; m < M; m++)
            if (w->length[m]++ == 0)
                w->first[m] = d;
        if (from == M)
            continue;
        if (is_common(j, fates)) {
            for (size_t a = 0; a < A; a++)
                for (size_t m = fates[a * j->n_blocks].ignored ? M : from; m < M; m++)
                    running[m * A + a]++;
            continue;
        }
        memcpy(w->fates + w->events * each, fates, each * sizeof *fates);
        w->place[w->events++] = d;
        memcpy(running + counts, running, counts * sizeof *running);
        running += counts;
    }
}

/* All curves of a class at areas [a, a_end). */
static void accumulate(const dd_coco_job *j, int64_t k, size_t a, size_t a_end, int thread) {
    workspace w = workspace_of(j, thread);
    uint32_t n_hits[DD_COCO_BLOCK];
    size_t T = (size_t)j->p->n_iou, first = a;
    find_events(j, &w, k);
    for (a = first; a < a_end; a++) {
        size_t n_objects = count_objects(j, k, a);
        if (n_objects)
            count_needed(j, n_objects, w.need);
        for (size_t m = 0; m < (size_t)j->p->n_max_det; m++) {
            place at = place_of(j, &w, k, a, m);
            if (!n_objects || (m && w.length[m] == w.length[m - 1])) {
                fill_curves(j, at, n_objects > 0);
                continue;
            }
            for (size_t t = 0; t < T; t++) {
                size_t bit = t % DD_COCO_BLOCK;
                if (bit == 0)
                    find_hits(j, &w, a, m, t / DD_COCO_BLOCK, n_hits);
                write_curve(j, &w, w.hits + bit * w.most_hits, n_hits[bit], m, n_objects, at, t);
            }
        }
    }
    write_out(j, &w, k, first, a_end);
}

/* A unit is a class, whose results lie together. */
static void class_unit(void *context, int64_t unit, int thread) {
    const dd_coco_job *j = context;
    if (!dd_cancelled())
        accumulate(j, unit, 0, (size_t)j->p->n_area, thread);
}

/* Of few classes a unit is a (class, area range), so that all threads have work. */
static void area_unit(void *context, int64_t unit, int thread) {
    const dd_coco_job *j = context;
    size_t a = (size_t)(unit % j->p->n_area);
    if (!dd_cancelled())
        accumulate(j, unit / j->p->n_area, a, a + 1, thread);
}

void dd_coco_accumulate_all(dd_coco_job *j) {
    if (j->order.n_classes < 4 * dd_threads())
        dd_parallel(j->order.n_classes * j->p->n_area, area_unit, j);
    else
        dd_parallel(j->order.n_classes, class_unit, j);
}
