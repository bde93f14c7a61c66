/* The evaluation as a whole: checks, memory, and the three stages, order (coco_order.c), matches
 * (coco_match.c) and curves (coco_curves.c).
 *
 * Both later stages are cut into units whose results do not depend on the thread: a unit of
 * matching writes the fates of its own detections, a unit of accumulation its own curves. */
#include "evaluate/coco.h"

#include <string.h>

#include "base/memory.h"
#include "base/threads.h"
#include "evaluate/coco_job.h"

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
    if (!in->object_region != !in->detection_region)
        return dd_fail(DD_EVALUE, "coco_evaluate: masks of one side came, both are needed");
    return dd_coco_input_check(in);
}

/* One thread's scratch serves matching first and accumulation then. */
static dd_status make_scratch(dd_coco_job *j) {
    size_t A = (size_t)j->p->n_area, fates = j->order.class_detections[j->order.n_classes];
    size_t match = dd_coco_match_scratch(j), curve = dd_coco_curve_scratch(j);
    j->scratch_bytes = (match > curve ? match : curve) + 64;
    j->scratch_bytes -= j->scratch_bytes % 64; /* so that each thread's part is aligned */
    DD_TRY(dd_size_mul(fates, A * j->n_blocks, "coco_evaluate", &fates));
    DD_TRY(dd_size_mul(fates, sizeof *j->fates, "coco_evaluate", &fates));
    DD_TRY(dd_alloc(fates, &j->fates)); /* each one is written before it is read */
    size_t scratch = 0;
    DD_TRY(dd_size_mul((size_t)dd_threads(), j->scratch_bytes, "coco_evaluate", &scratch));
    return dd_alloc(scratch, &j->scratch);
}

/* Checks, orders and matches; what it made is job_free's to clean. */
static dd_status job_match(dd_coco_job *j) {
    const dd_coco_params *p = j->p;
    DD_TRY(check(j->in, p));
    size_t T = (size_t)p->n_iou;
    j->n_blocks = (T + DD_COCO_BLOCK - 1) / DD_COCO_BLOCK;
    DD_TRY(dd_alloc_array(T, sizeof *j->bound, &j->bound));
    for (size_t t = 0; t < T; t++) {
        j->bound[t] = p->iou[t] < 1 - 1e-10 ? p->iou[t] : 1 - 1e-10;
        j->floor = t && j->floor < j->bound[t] ? j->floor : j->bound[t];
    }
    DD_TRY(dd_coco_order_make(j->in, p->use_classes, &j->order));
    DD_TRY(make_scratch(j));
    if (j->in->points)
        DD_TRY(dd_coco_make_oks(j));
    return DD_OK;
}

static void job_free(dd_coco_job *j) {
    dd_free(j->bound);
    dd_free(j->fates);
    dd_free(j->match);
    dd_free(j->oks);
    dd_free(j->oks_at);
    dd_free(j->scratch);
    dd_coco_order_free(&j->order);
}

dd_status dd_coco_evaluate(const dd_coco_input *input, const dd_coco_params *params,
                           double *precision, double *recall, double *scores) {
    dd_status status = DD_OK;
    dd_coco_job j = {
        .in = input, .p = params, .precision = precision, .recall = recall, .scores = scores};
    DD_TRY_DONE(job_match(&j));
    dd_coco_match_all(&j);
    dd_coco_accumulate_all(&j);
    if (dd_cancelled())
        status = dd_fail(DD_ECANCELED, "coco_evaluate: canceled");
done:
    job_free(&j);
    return status;
}

dd_status dd_coco_match(const dd_coco_input *input, const dd_coco_params *params,
                        dd_coco_detail *out) {
    dd_status status = DD_OK;
    dd_coco_job j = {.in = input, .p = params};
    dd_coco_detail detail = {0};
    size_t n = 0;
    DD_TRY_DONE(job_match(&j));
    DD_TRY_DONE(dd_size_mul((size_t)(params->n_iou * params->n_area),
                            j.order.class_detections[j.order.n_classes], "coco_match", &n));
    DD_TRY_DONE(dd_alloc_array(n, sizeof *j.match, &j.match));
    memset(j.match, 0xff, n * sizeof *j.match); /* -1 */
    DD_TRY_DONE(dd_alloc_array(1, sizeof *detail.order, &detail.order));
    dd_coco_match_all(&j);
    if (dd_cancelled()) {
        dd_free(detail.order);
        status = dd_fail(DD_ECANCELED, "coco_match: canceled");
        goto done;
    }
    detail.match = j.match;
    *detail.order = j.order;
    j.match = NULL;
    j.order = (dd_coco_order){0};
    *out = detail;
done:
    job_free(&j);
    return status;
}

void dd_coco_detail_free(dd_coco_detail *detail) {
    if (detail->order)
        dd_coco_order_free(detail->order);
    dd_free(detail->order);
    dd_free(detail->match);
    *detail = (dd_coco_detail){0};
}
