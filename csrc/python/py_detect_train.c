/* Losses, anchors, assignment and the criterion for Python: what training uses. */
#include "python/py_detect.h"

#include "base/memory.h"
#include "detect/anchors.h"
#include "detect/assign.h"
#include "detect/criterion.h"
#include "detect/losses.h"

/* ---- losses -------------------------------------------------------------------------------- */

/* losses() -> the table: [(name, width, parameter names, defaults, doc)] */
PyObject *dd_py_losses(PyObject *module, PyObject *nothing) {
    (void)module, (void)nothing;
    int count;
    const dd_loss *table = dd_loss_table(&count);
    PyObject *list = PyList_New(0);
    for (int i = 0; list && i < count; i++) {
        PyObject *defaults = PyTuple_New(table[i].n_params);
        for (int k = 0; defaults && k < table[i].n_params; k++)
            PyTuple_SetItem(defaults, k, PyFloat_FromDouble(table[i].defaults[k]));
        PyObject *row = defaults ? Py_BuildValue("sisNs", table[i].name, table[i].width,
                                                 table[i].params, defaults, table[i].doc)
                                 : NULL;
        if (!row || PyList_Append(list, row) < 0)
            Py_CLEAR(list);
        Py_XDECREF(row);
    }
    return list;
}

/* loss(name, x, t, params, reduction) -> values (n) or (1), grad like x; x, t (n, width) float64 */
PyObject *dd_py_loss(PyObject *module, PyObject *args) {
    (void)module;
    holder h = {.count = 0};
    const char *name;
    PyObject *xs, *ts, *params, *result = NULL;
    int reduction;
    if (!PyArg_ParseTuple(args, "sOOOi", &name, &xs, &ts, &params, &reduction))
        return NULL;
    const dd_loss *row = dd_loss_find(name);
    if (!row)
        return dd_py_raise(DD_EVALUE);
    npy_intp dims[2] = {-1, row->width}, given = row->n_params;
    const double *x, *t, *p;
    double *values, *grad;
    if (!(x = hold(&h, xs, NPY_FLOAT64, 2, dims, name)) ||
        !(t = hold(&h, ts, NPY_FLOAT64, 2, dims, name)) ||
        !(p = hold(&h, params, NPY_FLOAT64, 1, &given, name)) ||
        !(values =
              hold_new(&h, NPY_FLOAT64, 1, reduction == DD_REDUCE_NONE ? dims : &(npy_intp){1})) ||
        !(grad = hold_new(&h, NPY_FLOAT64, 2, dims)))
        goto done;
    dd_status status;
    DD_PY_CALL(status,
               dd_loss_run(row, dims[0], x, t, p, (dd_loss_reduction)reduction, values, grad));
    result = status ? dd_py_raise(status) : Py_BuildValue("OO", h.arrays[3], h.arrays[4]);
done:
    holder_release(&h);
    return result;
}

/* class_weights(counts, beta) -> (C) float64 */
PyObject *dd_py_class_weights(PyObject *module, PyObject *args) {
    (void)module;
    holder h = {.count = 0};
    PyObject *counts, *result = NULL;
    double beta, *weights;
    npy_intp n = -1;
    const double *c;
    if (!PyArg_ParseTuple(args, "Od", &counts, &beta))
        return NULL;
    if ((c = hold(&h, counts, NPY_FLOAT64, 1, &n, "class_balanced_weights: counts")) &&
        (weights = hold_new(&h, NPY_FLOAT64, 1, &n))) {
        dd_status status = dd_loss_class_weights(n, c, beta, weights);
        result = status ? dd_py_raise(status) : Py_NewRef((PyObject *)h.arrays[1]);
    }
    holder_release(&h);
    return result;
}

/* ---- anchors and assignment ---------------------------------------------------------------- */

/* anchor_grid(rows, cols, stride, sizes, ratios) -> (A, 4) */
PyObject *dd_py_anchor_grid(PyObject *module, PyObject *args) {
    (void)module;
    holder h = {.count = 0};
    long long rows, cols;
    double stride;
    PyObject *sizes, *ratios, *result = NULL;
    npy_intp n = -1, m = -1;
    dd_anchor_grid grid = {0};
    int64_t count;
    if (!PyArg_ParseTuple(args, "LLdOO", &rows, &cols, &stride, &sizes, &ratios))
        return NULL;
    if (!(grid.sizes = hold(&h, sizes, NPY_FLOAT64, 1, &n, "anchors: sizes")) ||
        !(grid.ratios = hold(&h, ratios, NPY_FLOAT64, 1, &m, "anchors: ratios")))
        goto done;
    grid.rows = rows;
    grid.cols = cols;
    grid.stride = stride;
    grid.n_sizes = n;
    grid.n_ratios = m;
    if (dd_anchor_count(&grid, &count)) {
        dd_py_raise(DD_EVALUE);
        goto done;
    }
    float *out = hold_new(&h, NPY_FLOAT32, 2, (npy_intp[]){(npy_intp)count, 4});
    if (!out)
        goto done;
    dd_status status;
    DD_PY_CALL(status, (dd_anchor_fill(&grid, out), DD_OK));
    (void)status;
    result = Py_NewRef((PyObject *)h.arrays[2]);
done:
    holder_release(&h);
    return result;
}

/* anchor_rule() -> the default {"strides", "scales", "ratios", "base"} */
PyObject *dd_py_anchor_rule(PyObject *module, PyObject *nothing) {
    (void)module, (void)nothing;
    dd_anchor_rule r = dd_anchor_rule_default();
    PyObject *strides = PyTuple_New(r.n_strides), *scales = PyTuple_New(r.n_scales),
             *ratios = PyTuple_New(r.n_ratios);
    for (int i = 0; strides && i < r.n_strides; i++)
        PyTuple_SetItem(strides, i, PyLong_FromLongLong(r.strides[i]));
    for (int i = 0; scales && i < r.n_scales; i++)
        PyTuple_SetItem(scales, i, PyFloat_FromDouble(r.scales[i]));
    for (int i = 0; ratios && i < r.n_ratios; i++)
        PyTuple_SetItem(ratios, i, PyFloat_FromDouble(r.ratios[i]));
    PyObject *result = NULL;
    if (!PyErr_Occurred())
        result = Py_BuildValue("{s:O,s:O,s:O,s:d}", "strides", strides, "scales", scales, "ratios",
                               ratios, "base", r.base);
    Py_XDECREF(strides);
    Py_XDECREF(scales);
    Py_XDECREF(ratios);
    return result;
}

/* detector_anchors(height, width, strides, scales, ratios, base) -> (A, 4), levels */
PyObject *dd_py_detector_anchors(PyObject *module, PyObject *args) {
    (void)module;
    holder h = {.count = 0};
    long long height, width;
    PyObject *lists[3], *result = NULL;
    npy_intp n[3] = {-1, -1, -1};
    const void *data[3];
    dd_anchor_rule r = {0};
    int64_t levels[DD_ANCHOR_LIST + 1];
    static const char *const who[3] = {"anchors: strides", "anchors: scales", "anchors: ratios"};
    if (!PyArg_ParseTuple(args, "LLOOOd", &height, &width, &lists[0], &lists[1], &lists[2],
                          &r.base))
        return NULL;
    for (int i = 0; i < 3; i++)
        if (!(data[i] = hold(&h, lists[i], i ? NPY_FLOAT64 : NPY_INT64, 1, &n[i], who[i])))
            goto done;
    r.n_strides =
        n[0] > DD_ANCHOR_LIST ? INT_MAX : (int)n[0]; /* the core refuses what is too many */
    r.n_scales = n[1] > DD_ANCHOR_LIST ? INT_MAX : (int)n[1];
    r.n_ratios = n[2] > DD_ANCHOR_LIST ? INT_MAX : (int)n[2];
    void *lists_of_rule[3] = {r.strides, r.scales, r.ratios};
    for (int i = 0; i < 3; i++)
        if (n[i] <= DD_ANCHOR_LIST)
            memcpy(lists_of_rule[i], data[i], (size_t)n[i] * 8);
    dd_status status = dd_anchor_rule_levels(&r, height, width, levels);
    if (status != DD_OK) {
        dd_py_raise(status);
        goto done;
    }
    npy_intp rows[2] = {(npy_intp)levels[r.n_strides], 4}, offsets = r.n_strides + 1;
    float *boxes = hold_new(&h, NPY_FLOAT32, 2, rows);
    int64_t *starts = boxes ? hold_new(&h, NPY_INT64, 1, &offsets) : NULL;
    if (!starts)
        goto done;
    memcpy(starts, levels, (size_t)offsets * sizeof *starts);
    DD_PY_CALL(status, (dd_anchor_rule_fill(&r, height, width, boxes), DD_OK));
    (void)status;
    result = Py_BuildValue("OO", h.arrays[3], h.arrays[4]);
done:
    holder_release(&h);
    return result;
}

static int assigner_find(const char *name, dd_assigner *assigner) {
    static const char *const names[] = {"tal", "atss", "max_iou"};
    for (int i = 0; i < 3; i++)
        if (!strcmp(name, names[i])) {
            *assigner = (dd_assigner)i;
            return 0;
        }
    PyErr_Format(PyExc_ValueError, "assigner: \"%s\" came, one of tal, atss, max_iou was needed",
                 name);
    return -1;
}

/* (assigner, alpha, beta, topk, max_ratio, positive_iou, negative_iou, ignore_share); a topk of 0
 * means the rule's own. */
static int assign_options_parse(PyObject *tuple, dd_assign_options *o) {
    const char *name;
    dd_assigner assigner;
    dd_assign_options got;
    if (!PyArg_ParseTuple(tuple, "sffiffff", &name, &got.alpha, &got.beta, &got.topk,
                          &got.max_ratio, &got.positive_iou, &got.negative_iou,
                          &got.ignore_share) ||
        assigner_find(name, &assigner) < 0)
        return -1;
    got.assigner = assigner;
    if (got.topk == 0)
        got.topk = dd_assign_defaults(assigner).topk;
    *o = got;
    return 0;
}

/* levels: offsets as a list of integers, or None. */
static int levels_parse(holder *h, PyObject *levels, const int64_t **offsets, int64_t *n_levels) {
    npy_intp n = -1;
    if (hold_optional(h, levels, NPY_INT64, 1, &n, "levels", offsets) < 0)
        return -1;
    if (*offsets && n < 2) {
        PyErr_SetString(PyExc_ValueError, "levels: two offsets or more are needed");
        return -1;
    }
    *n_levels = *offsets ? n - 1 : 0;
    return 0;
}

static dd_status assign_run(const dd_assign_options *o, const float *anchors, int64_t count,
                            const int64_t *levels, int64_t n_levels, const dd_objects *objects,
                            const dd_predictions *predictions, const dd_assignment *out) {
    dd_status status = DD_OK;
    void *memory = NULL, *scratch = NULL;
    dd_anchor_index index;
    DD_TRY_DONE(dd_alloc(dd_anchor_index_bytes(count), &memory));
    DD_TRY_DONE(dd_anchor_index_init(&index, anchors, count, levels, n_levels, memory));
    DD_TRY_DONE(dd_assign_check(o, &index));
    DD_TRY_DONE(dd_alloc(dd_assign_scratch_bytes(o, &index, objects->count), &scratch));
    dd_assign(o, &index, objects, predictions, scratch, out);
done:
    dd_free(memory);
    dd_free(scratch);
    return status;
}

/* assign(anchors, levels, boxes, labels, ignore, logits, deltas, options)
 * -> object (A), target (A), iou (A); logits and deltas may both be None */
PyObject *dd_py_assign(PyObject *module, PyObject *args) {
    (void)module;
    holder h = {.count = 0};
    PyObject *anchors, *levels, *boxes, *labels, *ignore, *logits, *deltas, *options;
    PyObject *result = NULL;
    npy_intp a[2] = {-1, 4}, m[2] = {-1, 4}, l[2], d[2];
    const float *anchor_boxes;
    const int64_t *offsets;
    int64_t n_levels;
    dd_objects objects = {0};
    dd_predictions predictions = {0};
    dd_assignment out = {0};
    dd_assign_options o;
    if (!PyArg_ParseTuple(args, "OOOOOOOO!", &anchors, &levels, &boxes, &labels, &ignore, &logits,
                          &deltas, &PyTuple_Type, &options))
        return NULL;
    if (assign_options_parse(options, &o) < 0 ||
        !(anchor_boxes = hold(&h, anchors, NPY_FLOAT32, 2, a, "assign: anchors")) ||
        levels_parse(&h, levels, &offsets, &n_levels) < 0 ||
        !(objects.boxes = hold(&h, boxes, NPY_FLOAT32, 2, m, "assign: boxes")) ||
        !(objects.labels = hold(&h, labels, NPY_INT32, 1, m, "assign: labels")) ||
        hold_optional(&h, ignore, NPY_BOOL, 1, m, "assign: ignore", &objects.ignore) < 0)
        goto done;
    l[0] = d[0] = a[0];
    l[1] = -1;
    d[1] = 4;
    if (hold_optional(&h, logits, NPY_FLOAT32, 2, l, "assign: logits", &predictions.logits) < 0 ||
        hold_optional(&h, deltas, NPY_FLOAT32, 2, d, "assign: deltas", &predictions.deltas) < 0)
        goto done;
    objects.count = m[0];
    predictions.classes = predictions.logits ? l[1] : INT32_MAX;
    for (int64_t i = 0; i < objects.count; i++)
        if (!(objects.ignore && objects.ignore[i]) &&
            (objects.labels[i] < 0 || objects.labels[i] >= predictions.classes)) {
            PyErr_Format(PyExc_ValueError, "assign: object %zd has label %d", (Py_ssize_t)i,
                         objects.labels[i]);
            goto done;
        }
    int first = h.count;
    if (!(out.object = hold_new(&h, NPY_INT32, 1, a)) ||
        !(out.target = hold_new(&h, NPY_FLOAT32, 1, a)) ||
        !(out.iou = hold_new(&h, NPY_FLOAT32, 1, a)))
        goto done;
    dd_status status;
    DD_PY_CALL(status,
               assign_run(&o, anchor_boxes, a[0], offsets, n_levels, &objects, &predictions, &out));
    result = status
                 ? dd_py_raise(status)
                 : Py_BuildValue("OOO", h.arrays[first], h.arrays[first + 1], h.arrays[first + 2]);
done:
    holder_release(&h);
    return result;
}

/* ---- the criterion ------------------------------------------------------------------------- */

/* (cls_loss, cls_params, box_loss, box_params, cls_weight, box_weight) */
static int criterion_parse(holder *h, PyObject *tuple, dd_criterion *c) {
    const char *cls, *box;
    PyObject *params[2];
    if (!PyArg_ParseTuple(tuple, "sOsOdd", &cls, &params[0], &box, &params[1], &c->cls_weight,
                          &c->box_weight))
        return -1;
    if (!(c->cls_loss = dd_loss_find(cls)) || !(c->box_loss = dd_loss_find(box))) {
        dd_py_raise(DD_EVALUE);
        return -1;
    }
    const dd_loss *rows[2] = {c->cls_loss, c->box_loss};
    double *targets[2] = {c->cls_params, c->box_params};
    for (int i = 0; i < 2; i++) {
        npy_intp n = rows[i]->n_params;
        const double *given = hold(h, params[i], NPY_FLOAT64, 1, &n, rows[i]->name);
        if (!given)
            return -1;
        memcpy(targets[i], given, (size_t)n * sizeof *given);
    }
    return 0;
}

/* outputs: (logits, deltas, anchors, levels); truth: (boxes, labels, ignore, offsets). */
static int batch_parse(holder *h, PyObject *outputs, PyObject *truth, dd_detection_batch *b) {
    PyObject *logits, *deltas, *anchors, *levels, *boxes, *labels, *ignore, *offsets;
    npy_intp l[3] = {-1, -1, -1}, d[3] = {-1, -1, 4}, a[2] = {-1, 4}, m[2] = {-1, 4}, n;
    if (!PyArg_ParseTuple(outputs, "OOOO", &logits, &deltas, &anchors, &levels) ||
        !PyArg_ParseTuple(truth, "OOOO", &boxes, &labels, &ignore, &offsets) ||
        !(b->logits = hold(h, logits, NPY_FLOAT32, 3, l, "detection_loss: logits")))
        return -1;
    d[0] = l[0];
    d[1] = a[0] = l[1];
    n = l[0] + 1;
    if (!(b->deltas = hold(h, deltas, NPY_FLOAT32, 3, d, "detection_loss: deltas")) ||
        !(b->anchor_boxes = hold(h, anchors, NPY_FLOAT32, 2, a, "detection_loss: anchors")) ||
        levels_parse(h, levels, &b->levels, &b->n_levels) < 0 ||
        !(b->boxes = hold(h, boxes, NPY_FLOAT32, 2, m, "detection_loss: boxes")) ||
        !(b->labels = hold(h, labels, NPY_INT32, 1, m, "detection_loss: labels")) ||
        hold_optional(h, ignore, NPY_BOOL, 1, m, "detection_loss: ignore", &b->ignore) < 0 ||
        !(b->offsets = hold(h, offsets, NPY_INT64, 1, &n, "detection_loss: offsets")))
        return -1;
    b->images = l[0];
    b->anchors = l[1];
    b->classes = l[2];
    if (b->offsets[b->images] != m[0]) {
        PyErr_Format(PyExc_ValueError, "detection_loss: offsets end at %lld, there are %zd boxes",
                     (long long)b->offsets[b->images], (Py_ssize_t)m[0]);
        return -1;
    }
    return 0;
}

/* detection_loss(outputs, truth, class_weights, assign options, criterion, dlogits, ddeltas)
 * -> loss_cls, loss_box, target_sum, positives; gradients go into the two arrays unless None */
PyObject *dd_py_detection_loss(PyObject *module, PyObject *args) {
    (void)module;
    holder h = {.count = 0};
    PyObject *outputs, *truth, *weights, *assign_options, *criterion, *dlogits, *ddeltas;
    PyObject *result = NULL;
    dd_criterion c = {0};
    dd_detection_batch b = {0};
    dd_detection_loss out = {0};
    if (!PyArg_ParseTuple(args, "O!O!OO!O!OO", &PyTuple_Type, &outputs, &PyTuple_Type, &truth,
                          &weights, &PyTuple_Type, &assign_options, &PyTuple_Type, &criterion,
                          &dlogits, &ddeltas))
        return NULL;
    if (batch_parse(&h, outputs, truth, &b) < 0 ||
        assign_options_parse(assign_options, &c.assign) < 0 ||
        criterion_parse(&h, criterion, &c) < 0)
        goto done;
    npy_intp nc = (npy_intp)b.classes, rows = (npy_intp)(b.images * b.anchors);
    if (hold_optional(&h, weights, NPY_FLOAT32, 1, &nc, "detection_loss: class_weights",
                      &c.class_weights) < 0 ||
        hold_inplace(&h, dlogits, rows * nc, "detection_loss: dlogits", &out.dlogits) < 0 ||
        hold_inplace(&h, ddeltas, rows * 4, "detection_loss: ddeltas", &out.ddeltas) < 0)
        goto done;
    dd_status status;
    DD_PY_CALL(status, dd_detection_loss_run(&c, &b, &out));
    result = status ? dd_py_raise(status)
                    : Py_BuildValue("dddL", out.loss_cls, out.loss_box, out.target_sum,
                                    (long long)out.positives);
done:
    holder_release(&h);
    return result;
}
