/* suppress: non-maximum suppression whose result has a fixed size, the scores that are left.
 *
 * N images, A boxes, C classes. ONNX' NonMaxSuppression lists what it keeps, as many rows as there
 * are; nets that go on with tensors put these scores back in their places and zeros elsewhere,
 * which is this operator. The suppression itself is detect/nms.h's. */
#include <math.h>
#include <string.h>

#include "detect/boxes.h"
#include "detect/nms.h"
#include "ops/channels.h"
#include "ops/describe.h"
#include "ops/node.h"
#include "ops/walk.h"

static const dd_field suppress_fields[] = {
    DD_FLOAT(dd_suppress_params, iou, 0),
    DD_FLOAT(dd_suppress_params, conf, 0),
    DD_INT(dd_suppress_params, max_det, 100),
    DD_BOOL(dd_suppress_params, centre, 0),
    DD_END,
};

static dd_status suppress_infer(const dd_node *node, const dd_type *in, dd_type *out, int *n_out) {
    const dd_suppress_params *p = node->params;
    char text[2][192];
    DD_TRY(dd_need_rank("suppress", "boxes", &in[0], 3, 3));
    DD_TRY(dd_need_rank("suppress", "scores", &in[1], 3, 3));
    if (in[0].dims[2] != 4 || in[0].dims[0] != in[1].dims[0] || in[0].dims[1] != in[1].dims[1] ||
        in[0].dims[1] > INT32_MAX)
        return dd_fail(DD_EVALUE,
                       "suppress: boxes is %s, scores is %s: (N, A, 4) and (N, A, C) are needed",
                       dd_type_text(&in[0], text[0], sizeof *text),
                       dd_type_text(&in[1], text[1], sizeof *text));
    if (!(p->iou >= 0 && p->iou <= 1) || isnan(p->conf) || p->max_det < 0)
        return dd_fail(
            DD_EVALUE,
            "suppress: iou is %g, conf %g, max_det %lld: 0 to 1, a number, and 0 or more "
            "are needed",
            p->iou, p->conf, (long long)p->max_det);
    out[0] = in[1];
    *n_out = 1;
    return DD_OK;
}

static int64_t capacity_of(const dd_suppress_params *p, int64_t boxes) {
    return p->max_det < boxes ? p->max_det : boxes;
}

/* Keys and their spare room, an image's boxes, the kept ones. */
static size_t suppress_scratch(const dd_node *node, const dd_type *in) {
    int64_t boxes = in[0].dims[1];
    return (size_t)boxes * (2 * sizeof(uint64_t) + 4 * sizeof(float)) +
           dd_kept_bytes(capacity_of(node->params, boxes));
}

/* Row `from` as the corners x0 y0 x1 y1: given ones may be any two that lie opposite. */
static void corners(const float *from, bool centre, float *to) {
    for (int k = 0; k < 2; k++) {
        float a = centre ? from[k] - from[k + 2] / 2 : from[k];
        float b = centre ? from[k] + from[k + 2] / 2 : from[k + 2];
        to[k] = a < b ? a : b;
        to[k + 2] = a < b ? b : a;
    }
}

/* One class of one image; `row` is the image's first row. A score that is no number is never kept;
 * neither does a box without area suppress, or go. */
static void suppress_class(const dd_op_args *a, const float *boxes, int64_t row, int64_t cls) {
    const dd_suppress_params *p = a->params;
    const dd_array *scores = &a->in[1], *y = &a->out[0];
    int64_t n = a->in[0].type.dims[1], count = 0, capacity = capacity_of(p, n);
    uint64_t *keys = a->scratch;
    dd_kept kept;
    dd_kept_init(&kept, capacity, (char *)a->scratch + (size_t)n * (2 * sizeof *keys + 16));
    for (int64_t i = 0; i < n; i++) {
        float score = dd_row_f32(scores, row + i)[cls];
        if (score > (float)p->conf)
            keys[count++] = dd_score_key(score, (uint32_t)i);
    }
    dd_keys_sort(keys, keys + n, count);
    for (int64_t k = 0; k < count && kept.count < capacity; k++) {
        int64_t i = dd_key_index(keys[k]);
        if (dd_kept_suppresses(&kept, boxes + 4 * i, 0, (float)p->iou))
            continue;
        dd_kept_add(&kept, boxes + 4 * i, 0);
        dd_row_f32(y, row + i)[cls] = dd_row_f32(scores, row + i)[cls];
    }
}

static dd_status suppress_forward(const dd_op_args *a) {
    const dd_suppress_params *p = a->params;
    int64_t images = a->in[0].type.dims[0], n = a->in[0].type.dims[1];
    float *boxes = (float *)((uint64_t *)a->scratch + 2 * n);
    dd_fill_zero(&a->out[0]);
    for (int64_t image = 0; image < images; image++) {
        for (int64_t i = 0; i < n; i++)
            corners(dd_row_f32(&a->in[0], image * n + i), p->centre, boxes + 4 * i);
        for (int64_t cls = 0; cls < a->in[1].type.dims[2]; cls++)
            suppress_class(a, boxes, image * n, cls);
    }
    return DD_OK;
}

static int suppress_sample(int i, void *params, dd_type *in, int *n_in) {
    static const struct {
        dd_suppress_params p;
        int n;
        dd_type in[2];
    } cases[] = {
        {{.iou = 0.3, .max_det = 5}, 2, {F32(2, 40, 4), F32(2, 40, 3)}},
        {{.iou = 0.5, .conf = 0.2, .max_det = 100, .centre = 1}, 2, {F32(1, 60, 4), F32(1, 60, 1)}},
        {{.iou = 0, .max_det = 0}, 2, {F32(1, 3, 4), F32(1, 3, 2)}},
    };
    SAMPLES(cases, i, params, in, n_in);
}

const dd_op dd_op_suppress = {
    .name = "suppress",
    .doc = "The scores (N, A, C) above `conf` that non-maximum suppression of boxes (N, A, 4) "
           "leaves, by image and class, at most `max_det` each, others 0: a box goes where its IoU "
           "with a kept one is above `iou`. Boxes are two opposite corners, or `centre` and sides.",
    .version = 1,
    .min_in = 2,
    .max_in = 2,
    .params_size = sizeof(dd_suppress_params),
    .fields = suppress_fields,
    .flags = DD_OP_NO_GRAD,
    .infer = suppress_infer,
    .scratch = suppress_scratch,
    .forward = suppress_forward,
    .sample = suppress_sample,
};
