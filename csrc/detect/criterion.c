/* Two parallel regions: first every image is assigned, which fixes the sums of the targets; then
 * every block of anchors gets its losses and gradients, already divided by them.
 *
 * Shapes: N images, A anchors, nc classes, M objects. A block is as many anchors as have about
 * BLOCK logits; all of a block is first treated as background by the vectorized sweep, then the
 * few logits with another target are put right, in double, before the block is summed. */
#include "detect/criterion.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "base/threads.h"
#include "detect/boxes.h"
#include "detect/sweep.h"

enum { BLOCK = 2048, BLOCKS_PER_UNIT = 4 };

dd_criterion dd_criterion_defaults(void) {
    return (dd_criterion){.assign = dd_assign_defaults(DD_ASSIGN_TAL),
                          .cls_loss = dd_loss_find("bce"),
                          .box_loss = dd_loss_find("giou"),
                          .cls_weight = 1,
                          .box_weight = 2};
}

typedef struct criterion_job {
    const dd_criterion *options;
    const dd_detection_batch *batch;
    dd_anchor_index index;
    dd_assignment assigned; /* (N, A) each */
    double *image_sums;     /* (N, 2): targets of the classes, weights of the boxes */
    int64_t *image_counts;  /* (N) positives */
    uint8_t *thread_scratch;
    size_t thread_bytes;
    int threads;
    bool decoded;                /* the box loss compares boxes, not deltas */
    bool hard;                   /* targets of the class loss are 1 */
    float gamma;                 /* of the sweep */
    int64_t block;               /* anchors of a block */
    int64_t units_an_image;      /* of the second region */
    float *pattern;              /* (block, nc) weights of a block of background */
    double cls_scale, box_scale; /* weight / sum of targets */
    double *slots;               /* (units, 2) */
    float *dlogits, *ddeltas;
} criterion_job;

/* ---- first region ----
 *
 * A unit is an image: objects of one image compete with each other only. */

/* Targets of positives in the class loss. The focal loss was made for hard labels; the others take
 * the quality. ATSS and max-IoU say who, not how well, so the predicted box's IoU says it. */
static float class_target(const criterion_job *job, int64_t at) {
    if (job->hard)
        return 1;
    return job->options->assign.assigner == DD_ASSIGN_TAL ? job->assigned.target[at]
                                                          : job->assigned.iou[at];
}

static void assign_image(void *context, int64_t n, int thread) {
    criterion_job *job = context;
    const dd_detection_batch *b = job->batch;
    int64_t first = b->offsets[n], A = b->anchors;
    dd_objects objects = {.count = b->offsets[n + 1] - first,
                          .boxes = b->boxes + 4 * first,
                          .labels = b->labels + first,
                          .ignore = b->ignore ? b->ignore + first : NULL};
    dd_predictions predictions = {.classes = b->classes,
                                  .logits = b->logits + n * A * b->classes,
                                  .deltas = b->deltas + n * A * 4};
    dd_assignment out = {.object = job->assigned.object + n * A,
                         .target = job->assigned.target + n * A,
                         .iou = job->assigned.iou + n * A};
    dd_assign(&job->options->assign, &job->index, &objects, &predictions,
              job->thread_scratch + (size_t)thread * job->thread_bytes, &out);
    /* Sums in double and in the anchors' order; the images' sums are added in theirs. */
    double cls = 0, box = 0;
    int64_t count = 0;
    for (int64_t a = 0; a < A; a++)
        if (out.object[a] >= 0) {
            cls += class_target(job, n * A + a);
            box += out.target[a];
            count++;
        }
    job->image_sums[2 * n] = cls;
    job->image_sums[2 * n + 1] = box;
    job->image_counts[n] = count;
}

/* ---- second region ----
 *
 * A unit is a run of blocks of one image, so that one large image keeps all threads busy. The
 * gradients are final when written: nobody reads them again to scale them. */

/* Anchors a0 .. a1-1 of image n: the class loss, returned; gradients go to `grad`. */
static double block_classes(const criterion_job *job, int64_t n, int64_t a0, int64_t a1,
                            float *value, float *grad) {
    const dd_detection_batch *b = job->batch;
    int64_t nc = b->classes, count = (a1 - a0) * nc;
    const float *x = b->logits + (n * b->anchors + a0) * nc;
    dd_sweep_background(count, x, job->pattern, job->gamma, (float)job->cls_scale, value, grad);
    for (int64_t a = a0; a < a1; a++) {
        int64_t at = n * b->anchors + a, row = (a - a0) * nc;
        int32_t object = job->assigned.object[at];
        if (object == DD_IGNORED) {
            memset(value + row, 0, (size_t)nc * sizeof *value);
            memset(grad + row, 0, (size_t)nc * sizeof *grad);
        } else if (object >= 0) {
            /* The other classes of a positive are background and stay as the sweep left them. */
            int32_t label = b->labels[b->offsets[n] + object];
            double weight = job->options->class_weights ? job->options->class_weights[label] : 1;
            double logit = x[row + label], target = class_target(job, at), v, g;
            job->options->cls_loss->item(&logit, &target, job->options->cls_params, &v, &g);
            value[row + label] = (float)(weight * v);
            grad[row + label] = (float)(weight * g * job->cls_scale);
        }
    }
    /* An ignored row hides nothing: a NaN there is found too. */
    return dd_sweep_sum(count, value) + dd_sweep_poison(count, x);
}

/* The box loss of one positive, unweighted, and its gradient with respect to the deltas. */
static double box_item(const criterion_job *job, const float *anchor, const float *delta,
                       const float *object, double grad[4]) {
    /* Losses on deltas compare with the object's own, so that small and large boxes weigh the same;
     * there the prediction is not clamped, and a delta beyond the clamp is pulled back. */
    const dd_loss *loss = job->options->box_loss;
    double value, x[4], t[4], g[4];
    if (!job->decoded) {
        dd_anchor_encode(anchor, object, t);
        for (int k = 0; k < 4; k++)
            x[k] = delta[k];
        loss->item(x, t, job->options->box_params, &value, grad);
        return value;
    }
    dd_anchor_decode(anchor, delta, x);
    for (int k = 0; k < 4; k++)
        t[k] = object[k];
    loss->item(x, t, job->options->box_params, &value, g);
    /* Both edges of an axis move with the centre; half of the side moves each of them. Beyond the
     * clamp the side does not depend on the delta. */
    for (int k = 0; k < 2; k++) {
        double side = (double)anchor[k + 2] - anchor[k];
        bool free = fabs((double)delta[k + 2]) <= DD_DELTA_CLAMP;
        grad[k] = (g[k] + g[k + 2]) * side;
        grad[k + 2] = free ? (g[k + 2] - g[k]) / 2 * (x[k + 2] - x[k]) : 0;
    }
    return value;
}

static double block_boxes(const criterion_job *job, int64_t n, int64_t a0, int64_t a1) {
    const dd_detection_batch *b = job->batch;
    int64_t first = n * b->anchors;
    /* Most deltas belong to no object and enter nothing; a NaN among them must show all the same,
     * for the run is broken. */
    double sum = dd_sweep_poison((a1 - a0) * 4, b->deltas + (first + a0) * 4);
    if (job->ddeltas)
        memset(job->ddeltas + (first + a0) * 4, 0, (size_t)(a1 - a0) * 4 * sizeof(float));
    for (int64_t a = a0; a < a1; a++) {
        int32_t object = job->assigned.object[first + a];
        if (object < 0)
            continue;
        double grad[4], weight = job->assigned.target[first + a];
        const float *box = b->boxes + 4 * (b->offsets[n] + object);
        sum +=
            weight * box_item(job, b->anchor_boxes + 4 * a, b->deltas + 4 * (first + a), box, grad);
        for (int k = 0; job->ddeltas && k < 4; k++)
            job->ddeltas[4 * (first + a) + k] = (float)(weight * grad[k] * job->box_scale);
    }
    return sum;
}

static void loss_unit(void *context, int64_t unit, int thread) {
    criterion_job *job = context;
    const dd_detection_batch *b = job->batch;
    int64_t n = unit / job->units_an_image, part = unit % job->units_an_image;
    int64_t end = (part + 1) * job->block * BLOCKS_PER_UNIT;
    float *value = (float *)(job->thread_scratch + (size_t)thread * job->thread_bytes);
    float *spare = value + job->block * b->classes;
    double cls = 0, box = 0;
    end = end < b->anchors ? end : b->anchors;
    for (int64_t a0 = part * job->block * BLOCKS_PER_UNIT; a0 < end; a0 += job->block) {
        int64_t a1 = a0 + job->block < end ? a0 + job->block : end;
        float *grad = job->dlogits ? job->dlogits + (n * b->anchors + a0) * b->classes : spare;
        cls += block_classes(job, n, a0, a1, value, grad);
        box += block_boxes(job, n, a0, a1);
    }
    job->slots[2 * unit] = cls;
    job->slots[2 * unit + 1] = box;
}

/* ---- checks and memory ----
 *
 * All scratch is one allocation, laid out twice by the same function: to count, then to place. The
 * two regions use a thread's part one after the other. */

static dd_status batch_check(const dd_criterion *o, const dd_detection_batch *b, int64_t *most) {
    if (b->images < 0 || b->anchors < 0 || b->classes < 1 || b->anchors > INT32_MAX)
        return dd_fail(DD_EVALUE, "detection_loss: %lld images, %lld anchors, %lld classes came",
                       (long long)b->images, (long long)b->anchors, (long long)b->classes);
    if (!o->cls_loss || o->cls_loss->width != 1)
        return dd_fail(DD_EVALUE, "detection_loss: the class loss must be bce, focal or qfl");
    if (!o->box_loss || o->box_loss->width != 4)
        return dd_fail(DD_EVALUE, "detection_loss: the box loss must be giou, l2 or smooth_l1");
    DD_TRY(dd_loss_check(o->cls_loss, o->cls_params));
    DD_TRY(dd_loss_check(o->box_loss, o->box_params));
    if (!isfinite(o->cls_weight) || !isfinite(o->box_weight))
        return dd_fail(DD_EVALUE, "detection_loss: weights are %g and %g, finite ones were needed",
                       o->cls_weight, o->box_weight);
    *most = 0;
    if (b->offsets[0] != 0)
        return dd_fail(DD_EVALUE, "detection_loss: offsets must begin with 0");
    for (int64_t n = 0; n < b->images; n++) {
        int64_t count = b->offsets[n + 1] - b->offsets[n];
        if (count < 0 || count > INT32_MAX)
            return dd_fail(DD_EVALUE, "detection_loss: image %lld has %lld objects", (long long)n,
                           (long long)count);
        *most = count > *most ? count : *most;
    }
    for (int64_t m = 0; m < b->offsets[b->images]; m++)
        if (!(b->ignore && b->ignore[m]) && (b->labels[m] < 0 || b->labels[m] >= b->classes))
            return dd_fail(DD_EVALUE, "detection_loss: object %lld has label %d, 0 to %lld needed",
                           (long long)m, b->labels[m], (long long)b->classes - 1);
    return DD_OK;
}

/* Takes `bytes` from the block that begins at base; with base NULL it only counts. */
static void *take(uint8_t *base, size_t *used, size_t bytes) {
    void *here = base ? base + *used : NULL;
    *used += (bytes + DD_ALIGN - 1) / DD_ALIGN * DD_ALIGN;
    return here;
}

static void job_layout(criterion_job *job, uint8_t *base, void **index_memory, size_t *bytes) {
    const dd_detection_batch *b = job->batch;
    size_t N = (size_t)b->images, A = (size_t)b->anchors, used = 0;
    *index_memory = take(base, &used, dd_anchor_index_bytes(b->anchors));
    job->assigned.object = take(base, &used, N * A * sizeof(int32_t));
    job->assigned.target = take(base, &used, N * A * sizeof(float));
    job->assigned.iou = take(base, &used, N * A * sizeof(float));
    job->image_sums = take(base, &used, N * 2 * sizeof(double));
    job->image_counts = take(base, &used, N * sizeof(int64_t));
    job->slots = take(base, &used, N * (size_t)job->units_an_image * 2 * sizeof(double));
    job->pattern = take(base, &used, (size_t)(job->block * b->classes) * sizeof(float));
    job->thread_scratch = take(base, &used, (size_t)job->threads * job->thread_bytes);
    *bytes = used;
}

/* The sweep's exponent, and the weight of background logits in a block. */
static void pattern_fill(criterion_job *job) {
    const dd_criterion *o = job->options;
    double factor = 1;
    job->gamma = 0;
    if (o->cls_loss == dd_loss_find("focal")) {
        job->gamma = (float)o->cls_params[1];
        factor = o->cls_params[0] < 0 ? 1 : 1 - o->cls_params[0];
    } else if (o->cls_loss == dd_loss_find("qfl")) {
        job->gamma = (float)o->cls_params[0];
    }
    for (int64_t i = 0; i < job->block * job->batch->classes; i++) {
        int64_t c = i % job->batch->classes;
        job->pattern[i] = (float)(factor * (o->class_weights ? o->class_weights[c] : 1));
    }
}

/* Slots in the order of the units: the one place where the results of threads meet. */
static void job_finish(criterion_job *job, dd_detection_loss *loss) {
    double cls = 0, box = 0;
    for (int64_t u = 0; u < job->batch->images * job->units_an_image; u++) {
        cls += job->slots[2 * u];
        box += job->slots[2 * u + 1];
    }
    loss->loss_cls = cls * job->cls_scale;
    loss->loss_box = box * job->box_scale;
}

dd_status dd_detection_loss_run(const dd_criterion *o, const dd_detection_batch *b,
                                dd_detection_loss *loss) {
    dd_status status = DD_OK;
    int64_t most = 0, positives = 0;
    void *memory = NULL, *index_memory;
    size_t bytes, assign_bytes, sweep_bytes, span;
    double targets = 0, weights = 0;
    DD_TRY(batch_check(o, b, &most));
    DD_TRY(dd_size_mul((size_t)b->anchors, (size_t)b->classes, "detection_loss", &span));
    DD_TRY(dd_size_mul((size_t)b->images, span, "detection_loss", &span));
    /* Everything that can fail comes before the first region; the regions cannot. */
    criterion_job job = {.options = o,
                         .batch = b,
                         .threads = dd_threads(),
                         .decoded = o->box_loss == dd_loss_find("giou"),
                         .hard = o->cls_loss == dd_loss_find("focal"),
                         .dlogits = loss->dlogits,
                         .ddeltas = loss->ddeltas};
    job.index.count = b->anchors; /* enough for the sizes; the index itself follows */
    job.index.n_levels = b->levels ? b->n_levels : 1;
    DD_TRY(dd_assign_check(&o->assign, &job.index));
    job.block = b->classes < BLOCK ? BLOCK / b->classes : 1;
    int64_t unit = job.block * BLOCKS_PER_UNIT;
    job.units_an_image = (b->anchors + unit - 1) / unit;
    assign_bytes = dd_assign_scratch_bytes(&o->assign, &job.index, most);
    sweep_bytes = 2 * (size_t)(job.block * b->classes) * sizeof(float);
    job.thread_bytes = assign_bytes > sweep_bytes ? assign_bytes : sweep_bytes;
    job.thread_bytes = (job.thread_bytes + DD_ALIGN - 1) / DD_ALIGN * DD_ALIGN;
    job_layout(&job, NULL, &index_memory, &bytes);
    DD_TRY_DONE(dd_alloc(bytes, &memory));
    job_layout(&job, memory, &index_memory, &bytes);
    DD_TRY_DONE(dd_anchor_index_init(&job.index, b->anchor_boxes, b->anchors, b->levels,
                                     b->n_levels, index_memory));
    pattern_fill(&job);
    dd_parallel(b->images, assign_image, &job);
    for (int64_t n = 0; n < b->images; n++) {
        targets += job.image_sums[2 * n];
        weights += job.image_sums[2 * n + 1];
        positives += job.image_counts[n];
    }
    job.cls_scale = o->cls_weight / fmax(targets, 1);
    job.box_scale = o->box_weight / fmax(weights, 1);
    dd_parallel(b->images * job.units_an_image, loss_unit, &job);
    loss->target_sum = targets;
    loss->positives = positives;
    job_finish(&job, loss);
done:
    dd_free(memory);
    return status;
}
