/* Boxes, NMS and post-processing for Python, and the area's table of functions.
 *
 * Positional arguments only: deepseek_det/{ops,losses,anchors}.py give them names and defaults. */
#include "python/py_detect.h"

#include "detect/boxes.h"
#include "detect/decode.h"
#include "detect/nms.h"

PyMethodDef dd_py_detect_methods[];

/* ---- boxes --------------------------------------------------------------------------------- */

/* box_iou(a, b) -> (n, m) */
static PyObject *box_iou(PyObject *module, PyObject *args) {
    (void)module;
    holder h = {.count = 0};
    PyObject *first, *second, *result = NULL;
    npy_intp n[2] = {-1, 4}, m[2] = {-1, 4};
    const float *a, *b;
    float *out;
    if (!PyArg_ParseTuple(args, "OO", &first, &second))
        return NULL;
    if (!(a = hold(&h, first, NPY_FLOAT32, 2, n, "box_iou: a")) ||
        !(b = hold(&h, second, NPY_FLOAT32, 2, m, "box_iou: b")) ||
        !(out = hold_new(&h, NPY_FLOAT32, 2, (npy_intp[]){n[0], m[0]})))
        goto done;
    dd_status status;
    DD_PY_CALL(status, (dd_box_iou_matrix(a, n[0], b, m[0], out), DD_OK));
    (void)status;
    result = Py_NewRef((PyObject *)h.arrays[2]);
done:
    holder_release(&h);
    return result;
}

/* box_best(boxes, others) -> iou (n), index (n) */
static PyObject *box_best(PyObject *module, PyObject *args) {
    (void)module;
    holder h = {.count = 0};
    PyObject *first, *second, *result = NULL;
    npy_intp n[2] = {-1, 4}, m[2] = {-1, 4};
    const float *a, *b;
    float *iou;
    int32_t *index;
    if (!PyArg_ParseTuple(args, "OO", &first, &second))
        return NULL;
    if (!(a = hold(&h, first, NPY_FLOAT32, 2, n, "box_best: boxes")) ||
        !(b = hold(&h, second, NPY_FLOAT32, 2, m, "box_best: others")) ||
        !(iou = hold_new(&h, NPY_FLOAT32, 1, n)) || !(index = hold_new(&h, NPY_INT32, 1, n)))
        goto done;
    dd_status status;
    DD_PY_CALL(status, (dd_box_best(a, n[0], b, m[0], iou, index), DD_OK));
    (void)status;
    result = Py_BuildValue("OO", h.arrays[2], h.arrays[3]);
done:
    holder_release(&h);
    return result;
}

/* ---- NMS and post-processing --------------------------------------------------------------- */

/* nms(boxes, scores, classes, iou_threshold, max_det) -> kept indices */
static PyObject *nms(PyObject *module, PyObject *args) {
    (void)module;
    holder h = {.count = 0};
    PyObject *boxes, *scores, *classes, *result = NULL;
    float threshold;
    long long max_det;
    npy_intp n[2] = {-1, 4};
    const float *b, *s;
    const int32_t *c;
    int64_t *keep, count;
    if (!PyArg_ParseTuple(args, "OOOfL", &boxes, &scores, &classes, &threshold, &max_det))
        return NULL;
    if (!(b = hold(&h, boxes, NPY_FLOAT32, 2, n, "nms: boxes")) ||
        !(s = hold(&h, scores, NPY_FLOAT32, 1, n, "nms: scores")) ||
        hold_optional(&h, classes, NPY_INT32, 1, n, "nms: classes", &c) < 0)
        goto done;
    int first = h.count;
    if (!(keep = hold_new(&h, NPY_INT64, 1, n)))
        goto done;
    dd_status status;
    DD_PY_CALL(status, dd_nms(n[0], b, s, c, threshold, max_det, keep, &count));
    result = status ? dd_py_raise(status) : held_front(&h, first, count);
done:
    holder_release(&h);
    return result;
}

/* soft_nms(boxes, scores, classes, gaussian, iou_threshold, sigma, min_score, max_det)
 * -> kept indices, their lowered scores */
static PyObject *soft_nms(PyObject *module, PyObject *args) {
    (void)module;
    holder h = {.count = 0};
    PyObject *boxes, *scores, *classes, *result = NULL, *kept = NULL, *lowered = NULL;
    float threshold, sigma, min_score, *left;
    int gaussian;
    long long max_det;
    npy_intp n[2] = {-1, 4};
    const float *b, *s;
    const int32_t *c;
    int64_t *keep, count;
    if (!PyArg_ParseTuple(args, "OOOpfffL", &boxes, &scores, &classes, &gaussian, &threshold,
                          &sigma, &min_score, &max_det))
        return NULL;
    if (!(b = hold(&h, boxes, NPY_FLOAT32, 2, n, "soft_nms: boxes")) ||
        !(s = hold(&h, scores, NPY_FLOAT32, 1, n, "soft_nms: scores")) ||
        hold_optional(&h, classes, NPY_INT32, 1, n, "soft_nms: classes", &c) < 0)
        goto done;
    int first = h.count;
    if (!(keep = hold_new(&h, NPY_INT64, 1, n)) || !(left = hold_new(&h, NPY_FLOAT32, 1, n)))
        goto done;
    dd_status status;
    int64_t capacity = max_det < n[0] ? max_det : n[0];
    DD_PY_CALL(status, dd_soft_nms(n[0], b, s, c, gaussian ? DD_SOFT_GAUSSIAN : DD_SOFT_LINEAR,
                                   threshold, sigma, min_score, capacity, keep, left, &count));
    if (status) {
        dd_py_raise(status);
        goto done;
    }
    kept = held_front(&h, first, count);
    lowered = held_front(&h, first + 1, count);
    if (kept && lowered)
        result = Py_BuildValue("OO", kept, lowered);
done:
    Py_XDECREF(kept);
    Py_XDECREF(lowered);
    holder_release(&h);
    return result;
}

/* detect(logits, deltas, anchors, maps, (conf, iou, max_det, pre_nms, agnostic, multi_label))
 * -> count (N), boxes (N, max_det, 4), scores, classes, anchors (N, max_det) */
static PyObject *detect(PyObject *module, PyObject *args) {
    (void)module;
    holder h = {.count = 0};
    PyObject *logits, *deltas, *anchors, *maps, *options, *result = NULL;
    npy_intp l[3] = {-1, -1, -1}, d[3] = {-1, -1, 4}, a[2] = {-1, 4}, m[2] = {-1, 5};
    dd_detect_options o = {0};
    dd_detect_input in = {0};
    dd_detections out = {0};
    int agnostic, multi_label;
    _Static_assert(sizeof(dd_letterbox_map) == 5 * sizeof(float), "a map is a row of five floats");
    if (!PyArg_ParseTuple(args, "OOOOO!", &logits, &deltas, &anchors, &maps, &PyTuple_Type,
                          &options) ||
        !PyArg_ParseTuple(options, "ffiipp", &o.conf, &o.iou, &o.max_det, &o.pre_nms, &agnostic,
                          &multi_label))
        return NULL;
    o.agnostic = agnostic;
    o.multi_label = multi_label;
    if (!(in.logits = hold(&h, logits, NPY_FLOAT32, 3, l, "detect: logits")))
        goto done;
    d[0] = m[0] = l[0];
    d[1] = a[0] = l[1];
    if (!(in.deltas = hold(&h, deltas, NPY_FLOAT32, 3, d, "detect: deltas")) ||
        !(in.anchor_boxes = hold(&h, anchors, NPY_FLOAT32, 2, a, "detect: anchors")) ||
        !(in.maps = hold(&h, maps, NPY_FLOAT32, 2, m, "detect: maps")))
        goto done;
    in.images = l[0];
    in.anchors = l[1];
    in.classes = l[2];
    /* The core checks max_det too, but the results are made before. */
    npy_intp max = o.max_det > 0 && o.max_det <= 1 << 20 ? o.max_det : 0;
    npy_intp shape[3] = {l[0], max, 4};
    int first = h.count;
    if (!(out.count = hold_new(&h, NPY_INT32, 1, shape)) ||
        !(out.boxes = hold_new(&h, NPY_FLOAT32, 3, shape)) ||
        !(out.scores = hold_new(&h, NPY_FLOAT32, 2, shape)) ||
        !(out.classes = hold_new(&h, NPY_INT32, 2, shape)) ||
        !(out.anchors = hold_new(&h, NPY_INT32, 2, shape)))
        goto done;
    dd_status status;
    DD_PY_CALL(status, dd_detect_postprocess(&o, &in, &out));
    PyArrayObject **made = h.arrays + first;
    result = status ? dd_py_raise(status)
                    : Py_BuildValue("OOOOO", made[0], made[1], made[2], made[3], made[4]);
done:
    holder_release(&h);
    return result;
}

PyMethodDef dd_py_detect_methods[] = {
    {"box_iou", box_iou, METH_VARARGS, "box_iou(a, b) -> (n, m) float32"},
    {"box_best", box_best, METH_VARARGS, "box_best(boxes, others) -> iou, index"},
    {"losses", dd_py_losses, METH_NOARGS, "losses() -> [(name, width, params, defaults, doc)]"},
    {"loss", dd_py_loss, METH_VARARGS, "loss(name, x, t, params, reduction) -> values, grad"},
    {"class_weights", dd_py_class_weights, METH_VARARGS, "class_weights(counts, beta) -> weights"},
    {"anchor_grid", dd_py_anchor_grid, METH_VARARGS,
     "anchor_grid(rows, cols, stride, sizes, ratios) -> (A, 4)"},
    {"anchor_rule", dd_py_anchor_rule, METH_NOARGS, "anchor_rule() -> the default rule"},
    {"detector_anchors", dd_py_detector_anchors, METH_VARARGS,
     "detector_anchors(height, width, strides, scales, ratios, base) -> (A, 4), levels"},
    {"assign", dd_py_assign, METH_VARARGS,
     "assign(anchors, levels, boxes, labels, ignore, logits, deltas, options) -> object, target, "
     "iou"},
    {"detection_loss", dd_py_detection_loss, METH_VARARGS,
     "detection_loss(outputs, truth, class_weights, assign options, criterion, dlogits, ddeltas) "
     "-> loss_cls, loss_box, target_sum, positives"},
    {"nms", nms, METH_VARARGS, "nms(boxes, scores, classes, iou_threshold, max_det) -> indices"},
    {"soft_nms", soft_nms, METH_VARARGS,
     "soft_nms(boxes, scores, classes, gaussian, iou_threshold, sigma, min_score, max_det) -> "
     "indices, scores"},
    {"detect", detect, METH_VARARGS,
     "detect(logits, deltas, anchors, maps, options) -> count, boxes, scores, classes, anchors"},
    {NULL, NULL, 0, NULL},
};
