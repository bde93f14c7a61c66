/* COCO, VOC and confusion figures of flat arrays; the Python modules `evaluate` and `metrics` give
 * them names. A `holder` keeps the arrays of one call, so that every way out is one release. */
#include "python/binding.h"

#include <stddef.h>
#include <string.h>

#include "base/memory.h"
#include "evaluate/coco.h"
#include "evaluate/coco_order.h"
#include "evaluate/confusion.h"
#include "evaluate/voc.h"
#include "python/py_mask.h"

/* ---- figures ------------------------------------------------------------------------------- */

#define MAX_ARRAYS 24

/* Arrays that a call holds on to. */
typedef struct holder {
    PyArrayObject *arrays[MAX_ARRAYS];
    int count;
} holder;

static void release(holder *h) {
    for (int i = 0; i < h->count; i++)
        Py_DECREF(h->arrays[i]);
    h->count = 0;
}

/* A new array of zeros for a result. */
static PyArrayObject *hold_new(holder *h, int typenum, int rank, const npy_intp *dims) {
    PyArrayObject *array = dd_py_new(typenum, rank, dims);
    if (array)
        h->arrays[h->count++] = array;
    return array;
}

/* The data of a (n, ...) array of `width` values a row; the first call for a side sets *n. */
static const void *hold(holder *h, PyObject *object, int typenum, int width, int64_t *n,
                        const char *who) {
    PyArrayObject *array = dd_py_array(object, typenum, width > 1 ? 2 : 1, width > 1 ? 2 : 1, who);
    if (!array)
        return NULL;
    h->arrays[h->count++] = array;
    npy_intp rows = PyArray_DIM(array, 0);
    if ((width > 1 && PyArray_DIM(array, 1) != width) || (*n >= 0 && rows != *n)) {
        PyErr_Format(PyExc_ValueError, "%s: an array of %zd rows came, (%lld, %d) is needed", who,
                     (Py_ssize_t)rows, *n >= 0 ? (long long)*n : (long long)rows, width);
        return NULL;
    }
    *n = rows;
    return PyArray_DATA(array);
}

/* objects: (image, class, box, area or None, crowd, blank or None); detections: (image, class,
 * box, score). */
static int hold_input(holder *h, PyObject *objects, PyObject *detections, dd_coco_input *in) {
    PyObject *image, *class, *box, *area, *crowd, *blank, *score;
    in->n_objects = in->n_detections = -1;
    int64_t *n = &in->n_objects;
    if (!PyArg_ParseTuple(objects, "OOOOOO", &image, &class, &box, &area, &crowd, &blank) ||
        !(in->object_image = hold(h, image, NPY_INT32, 1, n, "object image")) ||
        !(in->object_class = hold(h, class, NPY_INT32, 1, n, "object class")) ||
        !(in->object_box = hold(h, box, NPY_FLOAT64, 4, n, "object box")) ||
        !(in->object_crowd = hold(h, crowd, NPY_BOOL, 1, n, "object crowd")))
        return -1;
    if (area != Py_None && !(in->object_area = hold(h, area, NPY_FLOAT64, 1, n, "object area")))
        return -1;
    if (blank != Py_None && !(in->object_blank = hold(h, blank, NPY_BOOL, 1, n, "object blank")))
        return -1;
    n = &in->n_detections;
    if (!PyArg_ParseTuple(detections, "OOOO", &image, &class, &box, &score) ||
        !(in->detection_image = hold(h, image, NPY_INT32, 1, n, "detection image")) ||
        !(in->detection_class = hold(h, class, NPY_INT32, 1, n, "detection class")) ||
        !(in->detection_box = hold(h, box, NPY_FLOAT64, 4, n, "detection box")) ||
        !(in->detection_score = hold(h, score, NPY_FLOAT64, 1, n, "detection score")))
        return -1;
    return 0;
}

/* params: (iou, recall, area ranges, max_det, use_classes). */
static int hold_params(holder *h, PyObject *tuple, dd_coco_params *p) {
    PyObject *iou, *recall, *area, *max_det;
    int use_classes;
    if (!PyArg_ParseTuple(tuple, "OOOOp", &iou, &recall, &area, &max_det, &use_classes))
        return -1;
    *p = (dd_coco_params){-1, -1, -1, -1, NULL, NULL, NULL, NULL, use_classes};
    return (p->iou = hold(h, iou, NPY_FLOAT64, 1, &p->n_iou, "iou thresholds")) &&
                   (p->recall = hold(h, recall, NPY_FLOAT64, 1, &p->n_recall, "recalls")) &&
                   (p->area = hold(h, area, NPY_FLOAT64, 2, &p->n_area, "area ranges")) &&
                   (p->max_det = hold(h, max_det, NPY_INT64, 1, &p->n_max_det, "max_det"))
               ? 0
               : -1;
}

/* NumPy's exponential, which pycocotools' similarities are made with, for oks.h: values in place.
 * Called without the GIL. */
static dd_status numpy_exponential(void *context, double *values, size_t n) {
    PyGILState_STATE state = PyGILState_Ensure();
    npy_intp dims = (npy_intp)n;
    PyObject *array = PyArray_SimpleNewFromData(1, &dims, NPY_FLOAT64, values);
    PyObject *out =
        array ? PyObject_CallFunctionObjArgs(context, array, array, NULL) : NULL; /* exp(x, out) */
    dd_status status = out ? DD_OK : DD_ECANCELED; /* the exception stays set */
    Py_XDECREF(out);
    Py_XDECREF(array);
    PyGILState_Release(state);
    return status;
}

/* An optional array of a call's extras: NULL, too, where it is not there. */
static int hold_extra(holder *h, PyObject *extra, const char *key, int typenum, int64_t *n,
                      const void *out_pointer) {
    PyObject *object = PyDict_GetItemString(extra, key);
    const void *data = NULL;
    if (object && object != Py_None && !(data = hold(h, object, typenum, 1, n, key)))
        return -1;
    memcpy((void *)(uintptr_t)out_pointer, &data, sizeof data);
    return 0;
}

/* The masks of one side. */
static int hold_masks(PyObject *extra, const char *key, int64_t n, const dd_region **out) {
    PyObject *object = PyDict_GetItemString(extra, key);
    if (!object || object == Py_None)
        return 0;
    const dd_mask_set *set = dd_py_mask_set(object);
    if (!set)
        return -1;
    if (set->n != (size_t)n) {
        PyErr_Format(PyExc_ValueError, "%s: %zu masks came for %lld boxes", key, set->n,
                     (long long)n);
        return -1;
    }
    *out = set->regions;
    return 0;
}

/* points: (object (n, 3k), detection (m, 3k), variances (k), exp). */
static int hold_points(holder *h, PyObject *extra, dd_coco_input *in, dd_oks *oks) {
    PyObject *tuple = PyDict_GetItemString(extra, "points"), *object, *detection, *variances;
    if (!tuple || tuple == Py_None)
        return 0;
    if (!PyArg_ParseTuple(tuple, "OOOO", &object, &detection, &variances, &oks->context))
        return -1;
    oks->n_points = -1;
    oks->variances = hold(h, variances, NPY_FLOAT64, 1, &oks->n_points, "keypoint variances");
    if (!oks->variances)
        return -1;
    /* With one keypoint a row is three numbers wide, never one, so `hold` sees two dimensions. */
    int width = (int)(3 * oks->n_points);
    if (width < 3) {
        PyErr_SetString(PyExc_ValueError, "keypoints: at least one is needed");
        return -1;
    }
    oks->object = hold(h, object, NPY_FLOAT64, width, &in->n_objects, "object keypoints");
    oks->detection =
        oks->object ? hold(h, detection, NPY_FLOAT64, width, &in->n_detections, "keypoints") : NULL;
    if (!oks->detection)
        return -1;
    oks->exponential = numpy_exponential;
    in->points = oks;
    return 0;
}

/* extra: None or a dict with any of ignore, detection_area, partial, object_masks, detection_masks,
 * points. */
static int hold_extras(holder *h, PyObject *extra, dd_coco_input *in, dd_oks *oks) {
    if (!extra || extra == Py_None)
        return 0;
    if (!PyDict_Check(extra)) {
        PyErr_SetString(PyExc_TypeError, "evaluate: extras are a dictionary");
        return -1;
    }
    int64_t *n = &in->n_objects, *m = &in->n_detections;
    if (hold_extra(h, extra, "ignore", NPY_BOOL, n, &in->object_ignore) < 0 ||
        hold_extra(h, extra, "detection_area", NPY_FLOAT64, m, &in->detection_area) < 0 ||
        hold_extra(h, extra, "partial", NPY_BOOL, m, &in->detection_partial) < 0 ||
        hold_masks(extra, "object_masks", *n, &in->object_region) < 0 ||
        hold_masks(extra, "detection_masks", *m, &in->detection_region) < 0)
        return -1;
    return hold_points(h, extra, in, oks);
}

/* What coco_evaluate and coco_match take: n_images, n_classes, objects, detections, params and
 * perhaps extras. */
static int hold_call(holder *h, PyObject *args, dd_coco_input *in, dd_coco_params *p, dd_oks *oks) {
    PyObject *objects, *detections, *params, *extra = NULL;
    long long images, classes;
    if (!PyArg_ParseTuple(args, "LLO!O!O!|O", &images, &classes, &PyTuple_Type, &objects,
                          &PyTuple_Type, &detections, &PyTuple_Type, &params, &extra))
        return -1;
    in->n_images = images;
    in->n_classes = classes;
    if (hold_input(h, objects, detections, in) < 0 || hold_params(h, params, p) < 0)
        return -1;
    if (!in->object_area) {
        PyErr_SetString(PyExc_ValueError, "coco_evaluate: object areas are needed");
        return -1;
    }
    return hold_extras(h, extra, in, oks);
}

/* coco_evaluate(n_images, n_classes, objects, detections, params, extra=None)
 * -> precision, recall, scores */
static PyObject *coco_evaluate(PyObject *module, PyObject *args) {
    (void)module;
    holder h = {.count = 0};
    dd_coco_input in = {0};
    dd_coco_params p;
    dd_oks oks = {0};
    PyObject *result = NULL;
    if (hold_call(&h, args, &in, &p, &oks) < 0)
        goto done;
    npy_intp K = p.use_classes ? (npy_intp)in.n_classes : 1;
    npy_intp curve[5] = {p.n_iou, p.n_recall, K, p.n_area, p.n_max_det};
    npy_intp end[4] = {p.n_iou, K, p.n_area, p.n_max_det};
    PyArrayObject *precision = hold_new(&h, NPY_FLOAT64, 5, curve);
    PyArrayObject *recall = hold_new(&h, NPY_FLOAT64, 4, end);
    PyArrayObject *scores = hold_new(&h, NPY_FLOAT64, 5, curve);
    if (!precision || !recall || !scores)
        goto done;
    dd_status status;
    DD_PY_CALL(status, dd_coco_evaluate(&in, &p, PyArray_DATA(precision), PyArray_DATA(recall),
                                        PyArray_DATA(scores)));
    result =
        status == DD_OK ? Py_BuildValue("(OOO)", precision, recall, scores) : dd_py_raise(status);
done:
    release(&h);
    return result;
}

/* A new array of uint32 or int32 with a copy of `data`. */
static PyArrayObject *copied(holder *h, int typenum, int rank, const npy_intp *dims,
                             const void *data) {
    PyArrayObject *array = hold_new(h, typenum, rank, dims);
    if (array && data)
        memcpy(PyArray_DATA(array), data, (size_t)PyArray_NBYTES(array));
    return array;
}

/* coco_match(the same) -> objects, detections (input positions by class, image, then rank),
 * groups (n, 4) of begins and ends in both, match (detections, A, T) places in `objects` or -1 */
static PyObject *coco_match(PyObject *module, PyObject *args) {
    (void)module;
    holder h = {.count = 0};
    dd_coco_input in = {0};
    dd_coco_params p;
    dd_oks oks = {0};
    dd_coco_detail detail = {0};
    PyObject *result = NULL;
    if (hold_call(&h, args, &in, &p, &oks) < 0)
        goto done;
    dd_status status;
    DD_PY_CALL(status, dd_coco_match(&in, &p, &detail));
    if (status != DD_OK) {
        dd_py_raise(status);
        goto done;
    }
    const dd_coco_order *o = detail.order;
    npy_intp G = o->class_objects[o->n_classes], D = o->class_detections[o->n_classes];
    npy_intp groups[2] = {(npy_intp)o->n_groups, 4}, match[3] = {D, p.n_area, p.n_iou};
    PyArrayObject *a = copied(&h, NPY_UINT32, 1, &G, o->objects);
    PyArrayObject *b = copied(&h, NPY_UINT32, 1, &D, o->detections);
    PyArrayObject *c = copied(&h, NPY_UINT32, 2, groups, o->groups);
    PyArrayObject *d = copied(&h, NPY_INT32, 3, match, detail.match);
    if (a && b && c && d)
        result = Py_BuildValue("(OOOO)", a, b, c, d);
done:
    dd_coco_detail_free(&detail);
    release(&h);
    return result;
}

/* coco_stats(params, n_classes, (all, small, medium, large), precision, recall) -> (12,) */
static PyObject *coco_stats(PyObject *module, PyObject *args) {
    (void)module;
    holder h = {.count = 0};
    dd_coco_params p;
    PyObject *params, *precision, *recall, *result = NULL;
    long long classes;
    int areas[4];
    if (!PyArg_ParseTuple(args, "O!L(iiii)OO", &PyTuple_Type, &params, &classes, &areas[0],
                          &areas[1], &areas[2], &areas[3], &precision, &recall))
        return NULL;
    if (hold_params(&h, params, &p) < 0)
        goto done;
    int64_t K = p.use_classes ? classes : 1, curves = p.n_iou * K * p.n_area * p.n_max_det;
    for (int i = 0; i < 4; i++)
        if (areas[i] >= p.n_area || areas[i] < -1)
            areas[i] = -1;
    PyArrayObject *both[2] = {dd_py_array(precision, NPY_FLOAT64, 5, 5, "precision"), NULL};
    if (!both[0])
        goto done;
    h.arrays[h.count++] = both[0];
    both[1] = dd_py_array(recall, NPY_FLOAT64, 4, 4, "recall");
    if (!both[1])
        goto done;
    h.arrays[h.count++] = both[1];
    if (PyArray_SIZE(both[0]) != curves * p.n_recall || PyArray_SIZE(both[1]) != curves) {
        PyErr_SetString(PyExc_ValueError, "coco_stats: the arrays are not of these parameters");
        goto done;
    }
    PyArrayObject *stats = hold_new(&h, NPY_FLOAT64, 1, &(npy_intp){12});
    if (!stats)
        goto done;
    dd_status status = dd_coco_stats(&p, classes, areas, PyArray_DATA(both[0]),
                                     PyArray_DATA(both[1]), PyArray_DATA(stats));
    result = status == DD_OK ? Py_NewRef((PyObject *)stats) : dd_py_raise(status);
done:
    release(&h);
    return result;
}

/* voc_evaluate(n_images, n_classes, objects, detections, iou, eleven_points)
 * -> ap, positives, fates, order */
static PyObject *voc_evaluate(PyObject *module, PyObject *args) {
    (void)module;
    holder h = {.count = 0};
    dd_coco_input in = {0};
    PyObject *objects, *detections, *result = NULL;
    PyArrayObject *made[4] = {NULL, NULL, NULL, NULL};
    long long images, classes;
    double iou;
    int eleven;
    if (!PyArg_ParseTuple(args, "LLO!O!dp", &images, &classes, &PyTuple_Type, &objects,
                          &PyTuple_Type, &detections, &iou, &eleven))
        return NULL;
    in.n_images = images;
    in.n_classes = classes;
    if (hold_input(&h, objects, detections, &in) < 0)
        goto done;
    static const int types[4] = {NPY_FLOAT64, NPY_INT64, NPY_UINT8, NPY_UINT32};
    for (int i = 0; i < 4; i++) {
        npy_intp n = (npy_intp)(i < 2 ? in.n_classes : in.n_detections);
        made[i] = hold_new(&h, types[i], 1, &n);
        if (!made[i])
            goto done;
    }
    dd_voc_result voc = {PyArray_DATA(made[0]), PyArray_DATA(made[1]), PyArray_DATA(made[2]),
                         PyArray_DATA(made[3])};
    dd_status status;
    DD_PY_CALL(status, dd_voc_evaluate(&in, iou, eleven, &voc));
    result = status == DD_OK ? Py_BuildValue("(OOOO)", made[0], made[1], made[2], made[3])
                             : dd_py_raise(status);
done:
    release(&h);
    return result;
}

/* confusion_count(n_images, n_classes, objects, detections, score, iou) -> (K+1, K+1) */
static PyObject *confusion_count(PyObject *module, PyObject *args) {
    (void)module;
    holder h = {.count = 0};
    dd_coco_input in = {0};
    PyObject *objects, *detections, *result = NULL;
    long long images, classes;
    double score, iou;
    if (!PyArg_ParseTuple(args, "LLO!O!dd", &images, &classes, &PyTuple_Type, &objects,
                          &PyTuple_Type, &detections, &score, &iou))
        return NULL;
    in.n_images = images;
    in.n_classes = classes;
    npy_intp dims[2] = {(npy_intp)classes + 1, (npy_intp)classes + 1};
    if (hold_input(&h, objects, detections, &in) < 0)
        goto done;
    PyArrayObject *counts = hold_new(&h, NPY_INT64, 2, dims);
    if (!counts)
        goto done;
    dd_status status;
    DD_PY_CALL(status, dd_confusion_count(&in, score, iou, PyArray_DATA(counts)));
    result = status == DD_OK ? Py_NewRef((PyObject *)counts) : dd_py_raise(status);
done:
    release(&h);
    return result;
}

PyMethodDef dd_py_evaluate_methods[] = {
    {"coco_evaluate", coco_evaluate, METH_VARARGS, NULL},
    {"coco_match", coco_match, METH_VARARGS, NULL},
    {"coco_stats", coco_stats, METH_VARARGS, NULL},
    {"voc_evaluate", voc_evaluate, METH_VARARGS, NULL},
    {"confusion_count", confusion_count, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};
