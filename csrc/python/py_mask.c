/* Masks: run lengths from and to Python's dictionaries, and sets of masks read from a COCO file.
 *
 * A mask is {"size": [h, w], "counts": bytes or str}, as pycocotools has it. `deepseek_det.mask`
 * gives the functions their public forms. */
#include "python/binding.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "evaluate/mask.h"
#include "evaluate/mask_file.h"
#include "evaluate/points_file.h"
#include "evaluate/region.h"
#include "python/py_mask.h"

/* ---- dictionaries -------------------------------------------------------------------------- */

/* Masks that a call reads: their runs lie in one list. */
typedef struct masks {
    dd_runs runs;
    dd_rle *rle; /* (n) */
    size_t n;
} masks;

static void masks_free(masks *m) {
    dd_runs_free(&m->runs);
    dd_free(m->rle);
}

/* A whole number out of "size". */
static int read_side(PyObject *size, Py_ssize_t i, uint32_t *side) {
    PyObject *item = PySequence_GetItem(size, i);
    PyObject *index = item ? PyNumber_Index(item) : NULL;
    unsigned long long value = index ? PyLong_AsUnsignedLongLong(index) : 0;
    Py_XDECREF(item);
    Py_XDECREF(index);
    if (PyErr_Occurred())
        return -1;
    *side = value > UINT32_MAX ? UINT32_MAX : (uint32_t)value;
    return 0;
}

/* The compressed text of "counts", borrowed from the object. */
static int counts_text(PyObject *counts, const char **text, Py_ssize_t *length) {
    if (PyUnicode_Check(counts))
        return (*text = PyUnicode_AsUTF8AndSize(counts, length)) ? 0 : -1;
    char *data;
    if (PyBytes_Check(counts) && PyBytes_AsStringAndSize(counts, &data, length) == 0) {
        *text = data;
        return 0;
    }
    PyErr_SetString(PyExc_TypeError, "mask: counts of bytes or str are needed");
    return -1;
}

/* Appends one dictionary's runs. */
static int read_mask(masks *m, PyObject *object, dd_rle *rle) {
    PyObject *size = PyMapping_GetItemString(object, "size");
    PyObject *counts = size ? PyMapping_GetItemString(object, "counts") : NULL;
    const char *text;
    Py_ssize_t length;
    size_t before = m->runs.n;
    int failed = !counts || read_side(size, 0, &rle->h) < 0 || read_side(size, 1, &rle->w) < 0 ||
                 counts_text(counts, &text, &length) < 0;
    dd_status status = failed ? DD_OK : dd_mask_check_size(rle->h, rle->w);
    if (!failed && status == DD_OK)
        status = dd_mask_from_text(text, (size_t)length, &m->runs);
    if (status != DD_OK)
        dd_py_raise(status);
    rle->n = m->runs.n - before;
    Py_XDECREF(size);
    Py_XDECREF(counts);
    return failed || status != DD_OK ? -1 : 0;
}

/* A list of dictionaries; free it in any case. */
static int read_masks(PyObject *list, masks *m) {
    Py_ssize_t n = PySequence_Size(list);
    *m = (masks){.n = n < 0 ? 0 : (size_t)n};
    if (n < 0)
        return -1;
    if (dd_alloc_array(m->n, sizeof *m->rle, &m->rle) != DD_OK) {
        dd_py_raise(DD_ENOMEM);
        return -1;
    }
    for (Py_ssize_t i = 0; i < n; i++) {
        PyObject *item = PySequence_GetItem(list, i);
        int failed = item ? read_mask(m, item, &m->rle[i]) : -1;
        Py_XDECREF(item);
        if (failed)
            return -1;
    }
    uint32_t *counts = m->runs.counts; /* which no longer moves */
    for (size_t i = 0; i < m->n; i++) {
        m->rle[i].counts = counts;
        counts += m->rle[i].n;
    }
    return 0;
}

/* {"size": [h, w], "counts": bytes} */
static PyObject *mask_to_python(const dd_rle *rle) {
    char *text;
    dd_status status = dd_alloc(7 * rle->n + 1, &text);
    if (status != DD_OK)
        return dd_py_raise(status);
    size_t length = dd_mask_to_text(rle, text);
    PyObject *mask =
        Py_BuildValue("{s:[II],s:y#}", "size", rle->h, rle->w, "counts", text, (Py_ssize_t)length);
    dd_free(text);
    return mask;
}

/* Adds the runs that came since `before` as a mask to the list, and forgets them. */
static int append_mask(PyObject *list, dd_runs *runs, uint32_t h, uint32_t w) {
    dd_rle rle = {h, w, runs->n, runs->counts};
    PyObject *mask = mask_to_python(&rle);
    int failed = mask ? PyList_Append(list, mask) : -1;
    Py_XDECREF(mask);
    runs->n = 0;
    return failed;
}

/* ---- making masks -------------------------------------------------------------------------- */

/* mask_encode(pixels (n, w, h) uint8) -> list of masks */
static PyObject *mask_encode(PyObject *module, PyObject *object) {
    (void)module;
    PyArrayObject *array = dd_py_array(object, NPY_UINT8, 3, 3, "mask_encode");
    if (!array)
        return NULL;
    size_t n = (size_t)PyArray_DIM(array, 0), w = (size_t)PyArray_DIM(array, 1),
           h = (size_t)PyArray_DIM(array, 2);
    dd_runs runs = {0};
    PyObject *list = PyList_New(0);
    dd_status status = dd_mask_check_size(h, w);
    for (size_t i = 0; list && status == DD_OK && i < n; i++) {
        const uint8_t *pixels = (const uint8_t *)PyArray_DATA(array) + i * w * h;
        status = dd_mask_from_pixels(pixels, (uint32_t)h, (uint32_t)w, &runs);
        if (status == DD_OK && append_mask(list, &runs, (uint32_t)h, (uint32_t)w) < 0)
            Py_CLEAR(list);
    }
    if (status != DD_OK) {
        Py_CLEAR(list);
        dd_py_raise(status);
    }
    dd_runs_free(&runs);
    Py_DECREF((PyObject *)array);
    return list;
}

/* mask_from(rows, h, w, kind) -> list of masks; rows: arrays of float64, polygons (kind 0) or boxes
 * (1), or run lengths (2). */
static PyObject *mask_from(PyObject *module, PyObject *args) {
    (void)module;
    PyObject *rows;
    unsigned long long h, w;
    int kind;
    if (!PyArg_ParseTuple(args, "OKKi", &rows, &h, &w, &kind))
        return NULL;
    Py_ssize_t n = PySequence_Size(rows);
    if (n < 0)
        return NULL;
    dd_status status = dd_mask_check_size(h, w);
    if (status != DD_OK)
        return dd_py_raise(status);
    dd_runs runs = {0};
    PyObject *list = PyList_New(0);
    for (Py_ssize_t i = 0; list && i < n; i++) {
        PyObject *row = PySequence_GetItem(rows, i);
        PyArrayObject *array = row ? dd_py_array(row, NPY_FLOAT64, 1, 1, "mask") : NULL;
        Py_XDECREF(row);
        if (!array) {
            Py_CLEAR(list);
            break;
        }
        const double *xy = PyArray_DATA(array);
        size_t count = (size_t)PyArray_DIM(array, 0);
        if (kind == 2) {
            status = dd_reserve(&runs.counts, &runs.capacity, count, sizeof *runs.counts);
            for (size_t k = 0; status == DD_OK && k < count; k++)
                if (xy[k] >= 0 && xy[k] <= UINT32_MAX && xy[k] == floor(xy[k]))
                    runs.counts[runs.n++] = (uint32_t)xy[k];
                else
                    status = dd_fail(DD_EVALUE, "mask: a run of %g pixels came", xy[k]);
        } else if (kind == 1 && count == 4) {
            status = dd_mask_from_box(xy, (uint32_t)h, (uint32_t)w, &runs);
        } else {
            status = dd_mask_from_polygon(xy, count / 2, (uint32_t)h, (uint32_t)w, &runs);
        }
        Py_DECREF((PyObject *)array);
        if (status != DD_OK)
            dd_py_raise(status);
        if (status != DD_OK || append_mask(list, &runs, (uint32_t)h, (uint32_t)w) < 0)
            Py_CLEAR(list);
    }
    dd_runs_free(&runs);
    return list;
}

/* mask_merge(masks, intersect) -> mask */
static PyObject *mask_merge(PyObject *module, PyObject *args) {
    (void)module;
    PyObject *list, *result = NULL;
    int intersect;
    masks m;
    dd_runs merged = {0};
    if (!PyArg_ParseTuple(args, "Op", &list, &intersect))
        return NULL;
    if (read_masks(list, &m) == 0) {
        dd_rle rle = {0};
        dd_status status = dd_mask_merge(m.rle, m.n, intersect, &merged, &rle.h, &rle.w);
        rle.n = merged.n;
        rle.counts = merged.counts;
        result = status == DD_OK ? mask_to_python(&rle) : dd_py_raise(status);
    }
    masks_free(&m);
    dd_runs_free(&merged);
    return result;
}

/* ---- reading masks ------------------------------------------------------------------------- */

/* mask_decode(masks) -> (n, w, h) uint8; the masks are of one size. */
static PyObject *mask_decode(PyObject *module, PyObject *list) {
    (void)module;
    masks m;
    PyArrayObject *out = NULL;
    dd_status status = DD_OK;
    if (read_masks(list, &m) == 0) {
        npy_intp dims[3] = {(npy_intp)m.n, m.n ? m.rle[0].w : 0, m.n ? m.rle[0].h : 0};
        for (size_t i = 1; i < m.n && status == DD_OK; i++)
            if (m.rle[i].h != m.rle[0].h || m.rle[i].w != m.rle[0].w)
                status = dd_fail(DD_EVALUE, "mask: sizes of one decode differ");
        if (status == DD_OK)
            out = dd_py_new(NPY_UINT8, 3, dims);
        size_t pixels = m.n ? (size_t)m.rle[0].h * m.rle[0].w : 0;
        for (size_t i = 0; out && status == DD_OK && i < m.n; i++)
            status = dd_mask_to_pixels(&m.rle[i], (uint8_t *)PyArray_DATA(out) + i * pixels);
        if (status != DD_OK) {
            Py_CLEAR(out);
            dd_py_raise(status);
        }
    }
    masks_free(&m);
    return (PyObject *)out;
}

/* mask_measures(masks) -> areas (n,) uint32, boxes (n, 4) float64 */
static PyObject *mask_measures(PyObject *module, PyObject *list) {
    (void)module;
    masks m;
    PyObject *result = NULL;
    if (read_masks(list, &m) == 0) {
        npy_intp dims[2] = {(npy_intp)m.n, 4};
        PyArrayObject *areas = dd_py_new(NPY_UINT32, 1, dims);
        PyArrayObject *boxes = dd_py_new(NPY_FLOAT64, 2, dims);
        for (size_t i = 0; areas && boxes && i < m.n; i++) {
            ((uint32_t *)PyArray_DATA(areas))[i] = (uint32_t)dd_mask_area(&m.rle[i]);
            dd_mask_box(&m.rle[i], (double *)PyArray_DATA(boxes) + 4 * i);
        }
        if (areas && boxes)
            result = Py_BuildValue("(OO)", areas, boxes);
        Py_XDECREF((PyObject *)areas);
        Py_XDECREF((PyObject *)boxes);
    }
    masks_free(&m);
    return result;
}

/* Regions of all masks, in place. */
static dd_status make_regions(const masks *m, dd_region **out) {
    dd_region *regions;
    DD_TRY(dd_alloc_array(m->n, sizeof *regions, &regions));
    for (size_t i = 0; i < m->n; i++) {
        dd_status status = dd_region_make(&m->rle[i], &regions[i]);
        if (status != DD_OK) {
            dd_free(regions);
            return status;
        }
    }
    *out = regions;
    return DD_OK;
}

/* mask_iou(detections, objects, crowd (m,) bool) -> (n, m) */
static PyObject *mask_iou(PyObject *module, PyObject *args) {
    (void)module;
    PyObject *dt, *gt, *crowd_object;
    masks d = {0}, g = {0};
    dd_region *rd = NULL, *rg = NULL;
    PyArrayObject *out = NULL, *crowd = NULL;
    dd_status status = DD_OK;
    if (!PyArg_ParseTuple(args, "OOO", &dt, &gt, &crowd_object))
        return NULL;
    crowd = dd_py_array(crowd_object, NPY_BOOL, 1, 1, "mask_iou: crowd");
    if (!crowd || read_masks(dt, &d) < 0 || read_masks(gt, &g) < 0)
        goto done;
    if ((size_t)PyArray_DIM(crowd, 0) != g.n) {
        PyErr_SetString(PyExc_ValueError, "mask_iou: a crowd flag for each object is needed");
        goto done;
    }
    npy_intp dims[2] = {(npy_intp)d.n, (npy_intp)g.n};
    out = dd_py_new(NPY_FLOAT64, 2, dims);
    if (!out)
        goto done;
    DD_TRY_DONE(make_regions(&d, &rd));
    DD_TRY_DONE(make_regions(&g, &rg));
    double *value = PyArray_DATA(out);
    const uint8_t *flags = PyArray_DATA(crowd);
    for (size_t i = 0; i < d.n; i++)
        for (size_t k = 0; k < g.n; k++)
            *value++ = dd_region_iou(&rd[i], &rg[k], flags[k], 0);
done:
    if (status != DD_OK) {
        Py_CLEAR(out);
        dd_py_raise(status);
    }
    Py_XDECREF((PyObject *)crowd);
    masks_free(&d);
    masks_free(&g);
    dd_free(rd);
    dd_free(rg);
    return (PyObject *)out;
}

/* ---- sets ---------------------------------------------------------------------------------- */

#define SET_NAME "deepseek_det.mask_set"

static void free_set(PyObject *capsule) {
    dd_mask_set *set = PyCapsule_GetPointer(capsule, SET_NAME);
    dd_mask_set_free(set);
    dd_free(set);
}

const dd_mask_set *dd_py_mask_set(PyObject *capsule) {
    return PyCapsule_GetPointer(capsule, SET_NAME);
}

/* Columns of one set of annotations. */
#define COLUMNS 5
static int hold_columns(PyObject **objects, PyArrayObject **arrays, npy_intp *n) {
    static const int types[COLUMNS] = {NPY_UINT64, NPY_UINT32, NPY_INT32, NPY_INT32, NPY_FLOAT64};
    static const char *const names[COLUMNS] = {"at", "bytes", "h", "w", "box"};
    for (int i = 0; i < COLUMNS; i++) {
        if (!objects[i])
            continue;
        arrays[i] = dd_py_array(objects[i], types[i], i == 4 ? 2 : 1, i == 4 ? 2 : 1, names[i]);
        if (!arrays[i])
            return -1;
        if (i == 0)
            *n = PyArray_DIM(arrays[i], 0);
        if (PyArray_DIM(arrays[i], 0) != *n || (i == 4 && PyArray_DIM(arrays[i], 1) != 4)) {
            PyErr_Format(PyExc_ValueError, "masks: %s: %zd rows are needed", names[i],
                         (Py_ssize_t)*n);
            return -1;
        }
    }
    return 0;
}

/* The text that coco_read kept, and its length without the NUL byte. */
static const char *kept_text(PyArrayObject *text, size_t *length) {
    npy_intp n = PyArray_DIM(text, 0);
    if (n < 1 || ((const char *)PyArray_DATA(text))[n - 1]) {
        PyErr_SetString(PyExc_ValueError, "masks: the text must end with a NUL byte");
        return NULL;
    }
    *length = (size_t)n - 1;
    return PyArray_DATA(text);
}

/* mask_set(name, text, at, bytes, h, w, box) -> capsule, areas (n,), boxes (n, 4) */
static PyObject *mask_set(PyObject *module, PyObject *args) {
    (void)module;
    const char *name;
    PyObject *text_object, *objects[COLUMNS], *result = NULL, *capsule = NULL;
    PyArrayObject *arrays[COLUMNS] = {NULL}, *text = NULL, *areas = NULL, *boxes = NULL;
    npy_intp n = 0;
    if (!PyArg_ParseTuple(args, "sOOOOOO", &name, &text_object, &objects[0], &objects[1],
                          &objects[2], &objects[3], &objects[4]))
        return NULL;
    dd_mask_source source = {.name = name};
    dd_mask_set made = {0}, *set = NULL;
    dd_status status = DD_OK;
    text = dd_py_array(text_object, NPY_UINT8, 1, 1, "masks: text");
    if (!text || hold_columns(objects, arrays, &n) < 0 ||
        !(source.text = kept_text(text, &source.length)))
        goto done;
    source.n = (size_t)n;
    source.at = PyArray_DATA(arrays[0]);
    source.bytes = PyArray_DATA(arrays[1]);
    source.h = PyArray_DATA(arrays[2]);
    source.w = PyArray_DATA(arrays[3]);
    source.box = PyArray_DATA(arrays[4]);
    DD_PY_CALL(status, dd_mask_set_read(&source, &made));
    DD_TRY_DONE(status);
    DD_TRY_DONE(dd_alloc(sizeof *set, &set));
    *set = made;
    capsule = PyCapsule_New(set, SET_NAME, free_set);
    npy_intp dims[2] = {n, 4};
    areas = dd_py_new(NPY_FLOAT64, 1, dims);
    boxes = dd_py_new(NPY_FLOAT64, 2, dims);
    if (!capsule || !areas || !boxes)
        goto done;
    for (size_t i = 0; i < source.n; i++) {
        ((double *)PyArray_DATA(areas))[i] = set->regions[i].area;
        memcpy((double *)PyArray_DATA(boxes) + 4 * i, set->regions[i].box, 4 * sizeof(double));
    }
    result = Py_BuildValue("(OOO)", capsule, areas, boxes);
done:
    if (status != DD_OK)
        dd_py_raise(status);
    if (!capsule) {
        dd_mask_set_free(&made);
        dd_free(set);
    }
    Py_XDECREF(capsule);
    Py_XDECREF((PyObject *)areas);
    Py_XDECREF((PyObject *)boxes);
    Py_XDECREF((PyObject *)text);
    for (int i = 0; i < COLUMNS; i++)
        Py_XDECREF((PyObject *)arrays[i]);
    return result;
}

/* points_read(name, text, at, bytes, count) -> (n, count) float64; count 0: as many as the first
 * list has. */
static PyObject *points_read(PyObject *module, PyObject *args) {
    (void)module;
    const char *name;
    PyObject *text_object, *objects[COLUMNS] = {NULL};
    PyArrayObject *arrays[COLUMNS] = {NULL}, *text = NULL, *out = NULL;
    npy_intp n = 0;
    Py_ssize_t count = 0;
    if (!PyArg_ParseTuple(args, "sOOOn", &name, &text_object, &objects[0], &objects[1], &count))
        return NULL;
    dd_points_source source = {.name = name};
    dd_status status = DD_OK;
    text = dd_py_array(text_object, NPY_UINT8, 1, 1, "keypoints: text");
    if (!text || hold_columns(objects, arrays, &n) < 0 ||
        !(source.text = kept_text(text, &source.length)))
        goto done;
    source.n = (size_t)n;
    source.at = PyArray_DATA(arrays[0]);
    source.bytes = PyArray_DATA(arrays[1]);
    size_t width = count > 0 ? (size_t)count : 0;
    if (!width)
        DD_TRY_DONE(dd_points_count(&source, &width));
    npy_intp dims[2] = {n, (npy_intp)width};
    out = dd_py_new(NPY_FLOAT64, 2, dims);
    if (out)
        DD_TRY_DONE(dd_points_read(&source, width, PyArray_DATA(out)));
done:
    if (status != DD_OK) {
        Py_CLEAR(out);
        dd_py_raise(status);
    }
    Py_XDECREF((PyObject *)text);
    Py_XDECREF((PyObject *)arrays[0]);
    Py_XDECREF((PyObject *)arrays[1]);
    return (PyObject *)out;
}

PyMethodDef dd_py_mask_methods[] = {
    {"mask_encode", mask_encode, METH_O, NULL},
    {"mask_from", mask_from, METH_VARARGS, NULL},
    {"mask_merge", mask_merge, METH_VARARGS, NULL},
    {"mask_decode", mask_decode, METH_O, NULL},
    {"mask_measures", mask_measures, METH_O, NULL},
    {"mask_iou", mask_iou, METH_VARARGS, NULL},
    {"mask_set", mask_set, METH_VARARGS, NULL},
    {"points_read", points_read, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};
