/* Most logits fall to the first comparison: with the logit of `conf`, later with the logit of the
 * pre_nms-th best candidate so far. What passes becomes a sort key (score, flat index); the buffer
 * holds 2 * pre_nms keys and is cut to the best half when full. Boxes are decoded only when NMS
 * reaches them, best first, and it ends at max_det. */
#include "detect/decode.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "base/threads.h"
#include "detect/anchors.h"
#include "detect/nms.h"

dd_detect_options dd_detect_defaults(void) {
    return (dd_detect_options){
        .conf = 0.25f, .iou = 0.7f, .max_det = 300, .pre_nms = 4096, .multi_label = true};
}

enum { MAX_PRE_NMS = 1 << 20, RUN = 16 };

typedef struct decode_job {
    const dd_detect_options *options;
    const dd_detect_input *input;
    const dd_detections *out;
    uint8_t *scratch; /* a thread's: 4 * pre_nms keys, then the kept boxes */
    size_t thread_bytes;
    int64_t pre_nms; /* the option, or the number of logits where that is less */
} decode_job;

typedef struct candidates {
    uint64_t *keys, *spare;
    int64_t count, capacity; /* of the answer; keys has room for twice as many */
    float conf, limit;       /* only logits above limit can still matter */
    const float *logits;
} candidates;

/* Keeps the best `capacity` keys, sorted, and raises the limit to the worst of them. Amortized a
 * candidate costs two passes of the sort, however many there are. */
static void candidates_cut(candidates *c) {
    dd_keys_sort(c->keys, c->spare, c->count);
    if (c->count < c->capacity)
        return;
    c->count = c->capacity;
    /* Later candidates have higher indices, so one of equal score would lose as well. */
    float last = c->logits[dd_key_index(c->keys[c->count - 1])];
    c->limit = last > c->limit ? last : c->limit;
}

static void candidates_add(candidates *c, int64_t flat) {
    /* Double, rounded once: two logits in order never give scores out of order. */
    float score = (float)(1 / (1 + exp(-(double)c->logits[flat])));
    if (!(score > c->conf))
        return;
    if (c->count == 2 * c->capacity) {
        candidates_cut(c);
        if (!(c->logits[flat] > c->limit))
            return;
    }
    c->keys[c->count++] = dd_score_key(score, (uint32_t)flat);
}

/* Runs of 16 comparisons without a branch: at most a few of a thousand logits pass, and the
 * compiler makes vector code of it. NaN is not above anything. */
static void collect_every(candidates *c, int64_t n) {
    int64_t i = 0;
    for (; i + RUN <= n; i += RUN) {
        int any = 0;
        for (int k = 0; k < RUN; k++)
            any |= c->logits[i + k] > c->limit;
        for (int k = 0; any && k < RUN; k++)
            if (c->logits[i + k] > c->limit)
                candidates_add(c, i + k);
    }
    for (; i < n; i++)
        if (c->logits[i] > c->limit)
            candidates_add(c, i);
}

/* An anchor's best class, the lowest of equals. */
static void collect_best(candidates *c, int64_t anchors, int64_t classes) {
    for (int64_t a = 0; a < anchors; a++) {
        const float *row = c->logits + a * classes;
        int64_t best = -1;
        for (int64_t k = 0; k < classes; k++)
            if (row[k] > c->limit && (best < 0 || row[k] > row[best]))
                best = k;
        if (best >= 0)
            candidates_add(c, a * classes + best);
    }
}

/* Just below the logit of conf: the score itself decides, this only saves computing it. */
static float conf_limit(float conf) {
    if (conf <= 0)
        return -INFINITY;
    double logit = log(conf) - log1p(-(double)conf); /* infinite for conf 1: nothing passes */
    return (float)(logit - 1e-3 * (1 + fabs(logit)));
}

/* In double until the last step: a box of a 10,000-pixel image keeps its hundredths. */
static float clip(double x, float high) {
    return x < 0 ? 0 : x > (double)high ? high : (float)x;
}

/* Network pixels to the original image; false when nothing of the box is in it. */
static bool map_back(const dd_letterbox_map *map, const double *in, float *out) {
    out[0] = clip((in[0] - map->pad_x) / map->scale, map->width);
    out[1] = clip((in[1] - map->pad_y) / map->scale, map->height);
    out[2] = clip((in[2] - map->pad_x) / map->scale, map->width);
    out[3] = clip((in[3] - map->pad_y) / map->scale, map->height);
    return out[2] > out[0] && out[3] > out[1];
}

/* Greedy NMS over the sorted candidates of image n, straight into its results. */
static void suppress(const decode_job *job, int64_t n, const candidates *c, dd_kept *kept) {
    const dd_detect_input *in = job->input;
    int64_t capacity = job->options->max_det, first = n * capacity;
    for (int64_t i = 0; i < c->count && kept->count < capacity; i++) {
        int64_t flat = dd_key_index(c->keys[i]), anchor = flat / in->classes;
        int32_t cls = (int32_t)(flat % in->classes);
        double decoded[4];
        float box[4], mapped[4];
        dd_anchor_decode(in->anchor_boxes + 4 * anchor, in->deltas + 4 * (n * in->anchors + anchor),
                         decoded);
        bool finite = true;
        for (int k = 0; k < 4; k++) {
            box[k] = (float)decoded[k];
            finite = finite && isfinite(box[k]);
        }
        if (!finite || !map_back(&in->maps[n], decoded, mapped) ||
            dd_kept_suppresses(kept, box, job->options->agnostic ? 0 : cls, job->options->iou))
            continue;
        int64_t at = first + kept->count;
        memcpy(job->out->boxes + 4 * at, mapped, sizeof mapped);
        job->out->scores[at] = dd_key_score(c->keys[i]);
        job->out->classes[at] = cls;
        if (job->out->anchors)
            job->out->anchors[at] = (int32_t)anchor;
        dd_kept_add(kept, box, job->options->agnostic ? 0 : cls);
    }
}

static void decode_image(void *context, int64_t n, int thread) {
    const decode_job *job = context;
    const dd_detect_options *o = job->options;
    const dd_detect_input *in = job->input;
    uint64_t *keys = (uint64_t *)(job->scratch + (size_t)thread * job->thread_bytes);
    candidates c = {.keys = keys,
                    .spare = keys + 2 * job->pre_nms,
                    .capacity = job->pre_nms,
                    .conf = o->conf,
                    .limit = conf_limit(o->conf),
                    .logits = in->logits + n * in->anchors * in->classes};
    dd_kept kept;
    dd_kept_init(&kept, o->max_det, keys + 4 * job->pre_nms);
    /* The flat index (anchor, class) ascends in both, as the tie rule needs. */
    if (o->multi_label)
        collect_every(&c, in->anchors * in->classes);
    else
        collect_best(&c, in->anchors, in->classes);
    candidates_cut(&c);
    suppress(job, n, &c, &kept);
    int64_t first = n * o->max_det + kept.count, rest = o->max_det - kept.count;
    memset(job->out->boxes + 4 * first, 0, (size_t)rest * 4 * sizeof(float));
    memset(job->out->scores + first, 0, (size_t)rest * sizeof(float));
    memset(job->out->classes + first, 0, (size_t)rest * sizeof(int32_t));
    if (job->out->anchors)
        memset(job->out->anchors + first, 0, (size_t)rest * sizeof(int32_t));
    job->out->count[n] = (int32_t)kept.count;
}

/* A map comes from outside (an image's size, a user's own letterbox), so it is checked like the
 * options: a scale of 0 would give infinite boxes. */
static dd_status decode_check(const dd_detect_options *o, const dd_detect_input *in) {
    if (!(o->conf >= 0 && o->conf <= 1) || !(o->iou >= 0 && o->iou <= 1))
        return dd_fail(DD_EVALUE, "detect: conf is %g and iou %g, 0 to 1 was needed", o->conf,
                       o->iou);
    if (o->max_det < 1 || o->pre_nms < 1 || o->pre_nms > MAX_PRE_NMS || o->max_det > MAX_PRE_NMS)
        return dd_fail(DD_EVALUE, "detect: max_det is %d and pre_nms %d, 1 to %d was needed",
                       o->max_det, o->pre_nms, MAX_PRE_NMS);
    if (in->images < 0 || in->anchors < 0 || in->classes < 1 || in->anchors > INT32_MAX ||
        in->classes > UINT32_MAX || in->anchors * in->classes > UINT32_MAX)
        return dd_fail(DD_EVALUE, "detect: %lld images, %lld anchors, %lld classes came",
                       (long long)in->images, (long long)in->anchors, (long long)in->classes);
    for (int64_t n = 0; n < in->images; n++) {
        const dd_letterbox_map *m = &in->maps[n];
        if (!(m->scale > 0) || !isfinite(m->scale) || !isfinite(m->pad_x) || !isfinite(m->pad_y) ||
            !(m->width >= 0) || !(m->height >= 0))
            return dd_fail(DD_EVALUE,
                           "detect: image %lld has scale %g, pads %g and %g, size %g x %g",
                           (long long)n, m->scale, m->pad_x, m->pad_y, m->width, m->height);
    }
    return DD_OK;
}

dd_status dd_detect_postprocess(const dd_detect_options *o, const dd_detect_input *in,
                                const dd_detections *out) {
    size_t bytes;
    decode_job job = {.options = o, .input = in, .out = out};
    DD_TRY(decode_check(o, in));
    job.pre_nms = in->anchors * in->classes < o->pre_nms ? in->anchors * in->classes : o->pre_nms;
    job.pre_nms = job.pre_nms > 0 ? job.pre_nms : 1;
    job.thread_bytes = 4 * (size_t)job.pre_nms * sizeof(uint64_t) + dd_kept_bytes(o->max_det);
    job.thread_bytes = (job.thread_bytes + DD_ALIGN - 1) / DD_ALIGN * DD_ALIGN;
    DD_TRY(dd_size_mul(job.thread_bytes, (size_t)dd_threads(), "detect", &bytes));
    DD_TRY(dd_alloc(bytes, &job.scratch));
    dd_parallel(in->images, decode_image, &job);
    dd_free(job.scratch);
    return DD_OK;
}
