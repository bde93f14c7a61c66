/* JSON text to Python values, and COCO files to dicts of columns. */
#include "python/binding.h"

#include <stddef.h>
#include <string.h>

#include "base/memory.h"
#include "evaluate/coco_file.h"
#include "evaluate/id_map.h"
#include "evaluate/json.h"

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
              COLUMN(d, "keypoints_at", NPY_UINT64, 1, r, n, keypoints) < 0 ||
              COLUMN(d, "keypoints_bytes", NPY_UINT32, 1, r, n, keypoints_bytes) < 0 ||
              COLUMN(d, "num_keypoints", NPY_INT32, 1, r, n, num_keypoints) < 0 ||
              COLUMN(d, "segmentation_at", NPY_UINT64, 1, r, n, segmentation) < 0 ||
              COLUMN(d, "segmentation_bytes", NPY_UINT32, 1, r, n, segmentation_bytes) < 0))
        Py_CLEAR(d);
    return d;
}

/* Results as columns that are filled without the GIL; keys of masks and keypoints only where there
 * are any. */
static PyObject *results_to_python(const dd_coco_file *f) {
    static const char *const keys[] = {"image_id",     "category_id",     "box",
                                       "score",        "segmentation_at", "segmentation_bytes",
                                       "keypoints_at", "keypoints_bytes"};
    static const int types[] = {NPY_INT64,  NPY_INT64,  NPY_FLOAT64, NPY_FLOAT64,
                                NPY_UINT64, NPY_UINT32, NPY_UINT64,  NPY_UINT32};
    bool segmentation, keypoints;
    size_t n = dd_coco_results_count(f, &segmentation, &keypoints);
    void *data[8] = {NULL};
    PyObject *d = PyDict_New();
    for (int i = 0; d && i < 8; i++) {
        if ((i == 4 || i == 5) ? !segmentation : i > 5 && !keypoints)
            continue;
        npy_intp dims[2] = {(npy_intp)n, 4};
        PyArrayObject *array = dd_py_new(types[i], i == 2 ? 2 : 1, dims);
        data[i] = array ? PyArray_DATA(array) : NULL;
        if (!array || PyDict_SetItemString(d, keys[i], (PyObject *)array) < 0)
            Py_CLEAR(d);
        Py_XDECREF((PyObject *)array);
    }
    if (!d)
        return NULL;
    dd_coco_columns columns = {data[0], data[1], data[2], data[3],
                               data[4], data[6], data[5], data[7]};
    PyThreadState *state = PyEval_SaveThread();
    dd_coco_columns_fill(f, &columns);
    PyEval_RestoreThread(state);
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

static PyObject *file_to_python(const dd_coco_file *f, int results) {
    PyObject *images = images_to_python(f), *categories = categories_to_python(f);
    PyObject *annotations = results ? results_to_python(f) : annotations_to_python(f);
    PyObject *defects = defects_to_python(f);
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

/* Reads and parses without the GIL; text NULL: the file at `path`, whose text the caller gets in
 * *owned. */
static dd_status read_coco(const char *text, size_t *length, const char *path, const char *name,
                           int results, char **owned, dd_coco_file *file) {
    if (!text) {
        DD_TRY(dd_file_read(path, owned, length));
        text = *owned;
    }
    return results ? dd_coco_read_results(text, *length, name, file)
                   : dd_coco_read(text, *length, name, false, file);
}

static void free_text(PyObject *capsule) {
    dd_free(PyCapsule_GetPointer(capsule, "deepseek_det.text"));
}

/* Puts the file's text, with its NUL byte, into the dict as an array that owns it. */
static int add_text(PyObject *dict, char **owned, const char *text, size_t length) {
    npy_intp n = (npy_intp)length + 1;
    int failed = -1;
    PyObject *array;
    if (*owned) {
        PyObject *capsule = PyCapsule_New(*owned, "deepseek_det.text", free_text);
        if (!capsule)
            return -1;
        array = PyArray_SimpleNewFromData(1, &n, NPY_UINT8, *owned);
        *owned = NULL; /* the capsule's now */
        if (!array) {
            Py_DECREF(capsule);
            return -1;
        }
        failed = PyArray_SetBaseObject((PyArrayObject *)array, capsule); /* takes the capsule */
    } else {
        array = (PyObject *)dd_py_new(NPY_UINT8, 1, &n);
        if (!array)
            return -1;
        memcpy(PyArray_DATA((PyArrayObject *)array), text, length);
        failed = 0;
    }
    if (!failed)
        failed = PyDict_SetItemString(dict, "text", array);
    Py_DECREF(array);
    return failed;
}

/* coco_read(source, results=False, name=None, keep=False): source is a path, or bytes that hold the
 * file; keep: the dict gets the text, too, which places of masks and keypoints refer to. */
static PyObject *coco_read(PyObject *module, PyObject *args, PyObject *kwargs) {
    (void)module;
    static char *keywords[] = {"source", "results", "name", "keep", NULL};
    PyObject *source, *path = NULL, *result = NULL;
    int results = 0, keep = 0;
    const char *name = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|pzp", keywords, &source, &results, &name,
                                     &keep))
        return NULL;
    char *text = NULL, *owned = NULL;
    Py_ssize_t size = 0;
    if (PyBytes_Check(source)) {
        if (PyBytes_AsStringAndSize(source, &text, &size) < 0)
            return NULL;
        name = name ? name : "COCO text";
    } else if (PyUnicode_FSConverter(source, &path)) {
        name = name ? name : PyBytes_AsString(path);
    } else {
        return NULL;
    }
    dd_coco_file file = {0};
    dd_status status;
    size_t length = (size_t)size;
    DD_PY_CALL(status, read_coco(text, &length, path ? PyBytes_AsString(path) : NULL, name, results,
                                 &owned, &file));
    result = status == DD_OK ? file_to_python(&file, results) : dd_py_raise(status);
    if (result && keep && add_text(result, &owned, text, length) < 0)
        Py_CLEAR(result);
    dd_coco_file_free(&file);
    dd_free(owned);
    Py_XDECREF(path);
    return result;
}

/* id_positions(ids (n,) int64, sorted (m,) int64) -> (n,) int32 */
static PyObject *id_positions(PyObject *module, PyObject *args) {
    (void)module;
    PyObject *a, *b;
    if (!PyArg_ParseTuple(args, "OO", &a, &b))
        return NULL;
    PyArrayObject *ids = dd_py_array(a, NPY_INT64, 1, 1, "ids"), *out = NULL;
    PyArrayObject *sorted = ids ? dd_py_array(b, NPY_INT64, 1, 1, "sorted ids") : NULL;
    if (sorted)
        out = dd_py_new(NPY_INT32, 1, PyArray_DIMS(ids));
    if (out) {
        PyThreadState *state = PyEval_SaveThread();
        dd_id_positions(PyArray_DATA(ids), (size_t)PyArray_DIM(ids, 0), PyArray_DATA(sorted),
                        (size_t)PyArray_DIM(sorted, 0), PyArray_DATA(out));
        PyEval_RestoreThread(state);
    }
    Py_XDECREF((PyObject *)ids);
    Py_XDECREF((PyObject *)sorted);
    return (PyObject *)out;
}

PyMethodDef dd_py_coco_file_methods[] = {
    {"json_parse", json_parse, METH_VARARGS, NULL},
    {"coco_read", (PyCFunction)(void (*)(void))coco_read, METH_VARARGS | METH_KEYWORDS, NULL},
    {"id_positions", id_positions, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};
