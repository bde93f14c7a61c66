/* JSON and COCO files, COCO and VOC figures, the confusion matrix.
 *
 * Flat arrays go in and out; the Python modules `evaluate` and `metrics` give them names. A
 * `holder` keeps the arrays of one call, so that every way out is one release. */
#include "python/binding.h"

#include <stddef.h>
#include <string.h>

#include "base/memory.h"
#include "evaluate/coco.h"
#include "evaluate/coco_file.h"
#include "evaluate/confusion.h"
#include "evaluate/json.h"
#include "evaluate/voc.h"

/* ---- JSON ---------------------------------------------------------------------------------- */

/* A Python string of checked text. */
static PyObject *text_to_python(const dd_json_text *text) {
    if (!text->escaped)
        return PyUnicode_DecodeUTF8(text->data, (Py_ssize_t)text->length, NULL);
    char *plain;
    dd_status status = dd_alloc(text->length, &plain);
    if (status != DD_OK)
        return dd_py_raise(status);
    PyObject *string = PyUnicode_DecodeUTF8(plain, (Py_ssize_t)dd_json_unescape(text, plain), NULL);
    dd_free(plain);
    return string;
}

/* A number: whole ones as int where the reader takes them as such, others as float. */
static PyObject *number_to_python(dd_json *json) {
    size_t start = json->at;
    double value = 0;
    int64_t whole = 0;
    dd_status status = dd_json_number(json, &value);
    if (status != DD_OK)
        return dd_py_raise(status);
    for (size_t i = start; i < json->at; i++)
        if (json->text[i] == '.' || json->text[i] == 'e' || json->text[i] == 'E')
            return PyFloat_FromDouble(value);
    json->at = start;
    if (dd_json_int(json, &whole) == DD_OK)
        return PyLong_FromLongLong(whole);
    status = dd_json_number(json, &value);
    return status == DD_OK ? PyFloat_FromDouble(value) : dd_py_raise(status);
}

/* The value at the cursor; an object or array comes back empty and entered. */
static PyObject *value_to_python(dd_json *json) {
    dd_status status = DD_OK;
    dd_json_text text;
    bool flag = false;
    switch (dd_json_peek(json)) {
    case DD_JSON_OBJECT:
        status = dd_json_object(json);
        return status == DD_OK ? PyDict_New() : dd_py_raise(status);
    case DD_JSON_ARRAY:
        status = dd_json_array(json);
        return status == DD_OK ? PyList_New(0) : dd_py_raise(status);
    case DD_JSON_STRING:
        status = dd_json_string(json, &text);
        return status == DD_OK ? text_to_python(&text) : dd_py_raise(status);
    case DD_JSON_NUMBER:
        return number_to_python(json);
    case DD_JSON_BOOL:
        status = dd_json_bool(json, &flag);
        return status == DD_OK ? PyBool_FromLong(flag) : dd_py_raise(status);
    case DD_JSON_NULL:
        status = dd_json_null(json);
        return status == DD_OK ? Py_NewRef(Py_None) : dd_py_raise(status);
    default: /* no value: skipping gives the error */
        return dd_py_raise(dd_json_skip(json));
    }
}

/* Puts `value` (stolen) into the container under `key` (NULL for a list). */
static int put_value(PyObject *container, PyObject *key, PyObject *value) {
    int failed = key ? PyDict_SetItem(container, key, value) : PyList_Append(container, value);
    Py_DECREF(value);
    return failed;
}

/* Reads the next item of the innermost open container. Returns the container that the cursor is
 * in afterwards: itself, a child (borrowed from it), or NULL with `*left` once it has ended. */
static PyObject *next_to_python(dd_json *json, PyObject *container, bool *left) {
    dd_json_text text;
    bool more;
    int depth = json->depth;
    bool is_object = PyDict_Check(container);
    dd_status status = is_object ? dd_json_key(json, &text, &more) : dd_json_item(json, &more);
    if (status != DD_OK)
        return dd_py_raise(status);
    *left = !more;
    if (!more)
        return NULL;
    PyObject *key = is_object ? text_to_python(&text) : NULL;
    PyObject *value = is_object && !key ? NULL : value_to_python(json);
    if (value && put_value(container, key, value) < 0)
        value = NULL;
    Py_XDECREF(key);
    /* The container keeps the value alive, so the pointer stays good. */
    return !value ? NULL : json->depth > depth ? value : container;
}

/* json_parse(text, name="text"): the value as json.loads would make it, but strict. The containers
 * that are open lie in a C array as deep as the reader goes: no recursion here either. */
static PyObject *json_parse(PyObject *module, PyObject *args) {
    (void)module;
    const char *text, *name = "text";
    Py_ssize_t length;
    if (!PyArg_ParseTuple(args, "y#|s", &text, &length, &name))
        return NULL;
    dd_json json;
    dd_json_begin(&json, text, (size_t)length, name); /* bytes end with a NUL */
    PyObject *open[DD_JSON_DEPTH + 1];
    int depth = 0;
    PyObject *root = value_to_python(&json);
    if (root && json.depth)
        open[depth++] = root;
    while (root && depth) {
        bool left = false;
        PyObject *now = next_to_python(&json, open[depth - 1], &left);
        if (left)
            depth--;
        else if (!now)
            Py_CLEAR(root);
        else if (now != open[depth - 1])
            open[depth++] = now;
    }
    dd_status status = root ? dd_json_end(&json) : DD_OK;
    if (status != DD_OK) {
        Py_CLEAR(root);
        dd_py_raise(status);
    }
    dd_json_free(&json);
    return root;
}

/* ---- COCO files ---------------------------------------------------------------------------- */

/* Puts one field of n records into the dict as an array: `first` is the field of record 0. */
static int add_column(PyObject *dict, const char *key, int typenum, int width, size_t n,
                      const void *first, size_t stride, size_t bytes) {
    npy_intp dims[2] = {(npy_intp)n, width};
    PyArrayObject *array = dd_py_new(typenum, width > 1 ? 2 : 1, dims);
    if (!array)
        return -1;
    char *out = PyArray_BYTES(array);
    for (size_t i = 0; i < n; i++)
        memcpy(out + i * bytes, (const char *)first + i * stride, bytes);
    int failed = PyDict_SetItemString(dict, key, (PyObject *)array);
    Py_DECREF(array);
    return failed;
}

/* The address of a field of the first record; of no record at all where there is none. */
#define COLUMN(dict, key, typenum, width, records, n, field)                                       \
    add_column(dict, key, typenum, width, n,                                                       \
               (const char *)(records) + ((records) ? offsetof_field(records, field) : 0),         \
               sizeof *(records), sizeof(records)->field)
#define offsetof_field(records, field)                                                             \
    ((size_t)((const char *)&(records)->field - (const char *)(records)))

/* Names as a list of str, out of the pool. */
static int add_names(PyObject *dict, const char *pool, const size_t *first, size_t stride,
                     size_t n) {
    PyObject *list = PyList_New((Py_ssize_t)n);
    for (size_t i = 0; list && i < n; i++) {
        const char *name = pool + *(const size_t *)(const void *)((const char *)first + i * stride);
        PyObject *string = PyUnicode_FromString(name);
        if (!string)
            Py_CLEAR(list);
        else
            (void)PyList_SetItem(list, (Py_ssize_t)i, string);
    }
    int failed = list ? PyDict_SetItemString(dict, "name", list) : -1;
    Py_XDECREF(list);
    return failed;
}

/* Each record type becomes a dict of columns: an array a field, a list for names. */
static PyObject *images_to_python(const dd_coco_file *f) {
    PyObject *d = PyDict_New();
    const dd_coco_image *r = f->images;
    size_t n = f->n_images;
    if (d && (COLUMN(d, "id", NPY_INT64, 1, r, n, id) < 0 ||
              COLUMN(d, "width", NPY_INT32, 1, r, n, width) < 0 ||
              COLUMN(d, "height", NPY_INT32, 1, r, n, height) < 0 ||
              COLUMN(d, "line", NPY_UINT32, 1, r, n, line) < 0 ||
              COLUMN(d, "negative_at", NPY_UINT64, 1, r, n, negative) < 0 ||
              COLUMN(d, "negative_bytes", NPY_UINT32, 1, r, n, negative_bytes) < 0 ||
              COLUMN(d, "partial_at", NPY_UINT64, 1, r, n, partial) < 0 ||
              COLUMN(d, "partial_bytes", NPY_UINT32, 1, r, n, partial_bytes) < 0 ||
              add_names(d, f->names, n ? &r->name : NULL, sizeof *r, n) < 0))
        Py_CLEAR(d);
    return d;
}

static PyObject *categories_to_python(const dd_coco_file *f) {
    PyObject *d = PyDict_New();
    const dd_coco_category *r = f->categories;
    size_t n = f->n_categories;
    if (d && (COLUMN(d, "id", NPY_INT64, 1, r, n, id) < 0 ||
              COLUMN(d, "line", NPY_UINT32, 1, r, n, line) < 0 ||
              COLUMN(d, "frequency", NPY_UINT8, 1, r, n, frequency) < 0 ||
              add_names(d, f->names, n ? &r->name : NULL, sizeof *r, n) < 0))
        Py_CLEAR(d);
    return d;
}

static PyObject *annotations_to_python(const dd_coco_file *f) {
    PyObject *d = PyDict_New();
    const dd_coco_annotation *r = f->annotations;
    size_t n = f->n_annotations;
    if (d && (COLUMN(d, "id", NPY_INT64, 1, r, n, id) < 0 ||
              COLUMN(d, "image_id", NPY_INT64, 1, r, n, image_id) < 0 ||
              COLUMN(d, "category_id", NPY_INT64, 1, r, n, category_id) < 0 ||
              COLUMN(d, "image", NPY_INT32, 1, r, n, image) < 0 ||
              COLUMN(d, "category", NPY_INT32, 1, r, n, category) < 0 ||
              COLUMN(d, "box", NPY_FLOAT64, 4, r, n, box) < 0 ||
              COLUMN(d, "area", NPY_FLOAT64, 1, r, n, area) < 0 ||
              COLUMN(d, "score", NPY_FLOAT64, 1, r, n, score) < 0 ||
              COLUMN(d, "crowd", NPY_BOOL, 1, r, n, crowd) < 0 ||
              COLUMN(d, "line", NPY_UINT32, 1, r, n, line) < 0 ||
              COLUMN(d, "segmentation_at", NPY_UINT64, 1, r, n, segmentation) < 0 ||
              COLUMN(d, "segmentation_bytes", NPY_UINT32, 1, r, n, segmentation_bytes) < 0))
        Py_CLEAR(d);
    return d;
}

/* [(section, reason, index, line, field, value)] of the defects that were kept. */
static PyObject *defects_to_python(const dd_coco_file *f) {
    PyObject *list = PyList_New((Py_ssize_t)f->n_defects);
    for (size_t i = 0; list && i < f->n_defects; i++) {
        const dd_coco_defect *d = &f->defects[i];
        PyObject *row = Py_BuildValue("(ssLnss)", dd_coco_section_name(d->section),
                                      dd_coco_reason_name(d->reason), (long long)d->index,
                                      (Py_ssize_t)d->line, d->field, d->value);
        if (!row)
            Py_CLEAR(list);
        else
            (void)PyList_SetItem(list, (Py_ssize_t)i, row);
    }
    return list;
}

/* {(section, reason): count} of all defects, also of those beyond the kept ones. */
static PyObject *counts_to_python(const dd_coco_file *f) {
    PyObject *dict = PyDict_New();
    for (int i = 0; dict && i < DD_COCO_SECTIONS * DD_COCO_REASONS; i++) {
        int section = i / DD_COCO_REASONS, reason = i % DD_COCO_REASONS;
        if (!f->reasons[section][reason])
            continue;
        PyObject *key = Py_BuildValue("(ss)", dd_coco_section_name((dd_coco_section)section),
                                      dd_coco_reason_name((dd_coco_reason)reason));
        PyObject *count = PyLong_FromLongLong(f->reasons[section][reason]);
        if (!key || !count || PyDict_SetItem(dict, key, count) < 0)
            Py_CLEAR(dict);
        Py_XDECREF(key);
        Py_XDECREF(count);
    }
    return dict;
}

/* The sections that the file has, so that a caller can tell an empty list from none. */
static PyObject *sections_to_python(const dd_coco_file *f) {
    PyObject *list = PyList_New(0);
    for (int i = 0; list && i < DD_COCO_SECTIONS; i++) {
        if (!f->has[i])
            continue;
        PyObject *name = PyUnicode_FromString(dd_coco_section_name((dd_coco_section)i));
        if (!name || PyList_Append(list, name) < 0)
            Py_CLEAR(list);
        Py_XDECREF(name);
    }
    return list;
}

static PyObject *file_to_python(const dd_coco_file *f) {
    PyObject *images = images_to_python(f), *categories = categories_to_python(f);
    PyObject *annotations = annotations_to_python(f), *defects = defects_to_python(f);
    PyObject *counts = counts_to_python(f), *sections = sections_to_python(f), *result = NULL;
    if (images && categories && annotations && defects && counts && sections)
        result = Py_BuildValue("{s:O,s:O,s:O,s:O,s:O,s:O}", "images", images, "categories",
                               categories, "annotations", annotations, "defects", defects,
                               "defect_counts", counts, "sections", sections);
    Py_XDECREF(images);
    Py_XDECREF(categories);
    Py_XDECREF(annotations);
    Py_XDECREF(defects);
    Py_XDECREF(counts);
    Py_XDECREF(sections);
    return result;
}

/* Reads and parses without the GIL; text NULL: the file at `path`. */
static dd_status read_coco(const char *text, size_t length, const char *path, const char *name,
                           int results, dd_coco_file *file) {
    char *owned = NULL;
    if (!text) {
        DD_TRY(dd_file_read(path, &owned, &length));
        text = owned;
    }
    dd_status status = dd_coco_read(text, length, name, results, file);
    dd_free(owned);
    return status;
}

/* coco_read(source, results=False, name=None): source is a path, or bytes that hold the file. */
static PyObject *coco_read(PyObject *module, PyObject *args, PyObject *kwargs) {
    (void)module;
    static char *keywords[] = {"source", "results", "name", NULL};
    PyObject *source, *path = NULL, *result = NULL;
    int results = 0;
    const char *name = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|pz", keywords, &source, &results, &name))
        return NULL;
    char *text = NULL;
    Py_ssize_t length = 0;
    if (PyBytes_Check(source)) {
        if (PyBytes_AsStringAndSize(source, &text, &length) < 0)
            return NULL;
        name = name ? name : "COCO text";
    } else if (PyUnicode_FSConverter(source, &path)) {
        name = name ? name : PyBytes_AsString(path);
    } else {
        return NULL;
    }
    dd_coco_file file = {0};
    dd_status status;
    DD_PY_CALL(status, read_coco(text, (size_t)length, path ? PyBytes_AsString(path) : NULL, name,
                                 results, &file));
    result = status == DD_OK ? file_to_python(&file) : dd_py_raise(status);
    dd_coco_file_free(&file);
    Py_XDECREF(path);
    return result;
}

/* ---- figures ------------------------------------------------------------------------------- */

#define MAX_ARRAYS 16

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

/* coco_evaluate(n_images, n_classes, objects, detections, params) -> precision, recall, scores */
static PyObject *coco_evaluate(PyObject *module, PyObject *args) {
    (void)module;
    holder h = {.count = 0};
    dd_coco_input in = {0};
    dd_coco_params p;
    PyObject *objects, *detections, *params, *result = NULL;
    long long images, classes;
    if (!PyArg_ParseTuple(args, "LLO!O!O!", &images, &classes, &PyTuple_Type, &objects,
                          &PyTuple_Type, &detections, &PyTuple_Type, &params))
        return NULL;
    in.n_images = images;
    in.n_classes = classes;
    if (hold_input(&h, objects, detections, &in) < 0 || hold_params(&h, params, &p) < 0)
        goto done;
    if (!in.object_area) {
        PyErr_SetString(PyExc_ValueError, "coco_evaluate: object areas are needed");
        goto done;
    }
    npy_intp K = p.use_classes ? (npy_intp)classes : 1;
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
    {"json_parse", json_parse, METH_VARARGS, NULL},
    {"coco_read", (PyCFunction)(void (*)(void))coco_read, METH_VARARGS | METH_KEYWORDS, NULL},
    {"coco_evaluate", coco_evaluate, METH_VARARGS, NULL},
    {"coco_stats", coco_stats, METH_VARARGS, NULL},
    {"voc_evaluate", voc_evaluate, METH_VARARGS, NULL},
    {"confusion_count", confusion_count, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};
