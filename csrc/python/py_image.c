/* The binding of csrc/image: pictures, pieces and the order of an epoch.
 *
 * Calls drop the GIL by the plain pair of macros, without the watch for signals: they take
 * milliseconds and run in loader threads, where a signal is never delivered. */
#include "python/binding.h"

#include <string.h>

#include "image/augment.h"
#include "image/order.h"

/* Py_XDECREF for arrays: it takes a PyObject and nothing else. */
static void release(void *object) {
    Py_XDECREF((PyObject *)object);
}

/* ---- arguments ----------------------------------------------------------------------------- */

/* A number for "O&": 0..2^64-1 and 0..2^32-1, a wrong one is a ValueError or TypeError. */
static int as_u64(PyObject *object, void *out) {
    PyObject *index = PyNumber_Index(object);
    if (!index)
        return 0;
    unsigned long long value = PyLong_AsUnsignedLongLong(index);
    Py_DECREF(index);
    if (value == (unsigned long long)-1 && PyErr_Occurred()) {
        if (PyErr_ExceptionMatches(PyExc_OverflowError))
            PyErr_Format(PyExc_ValueError, "a seed of %S came, 0 to 2^64 - 1 is needed", object);
        return 0;
    }
    *(uint64_t *)out = value;
    return 1;
}

static int as_u32(PyObject *object, void *out) {
    uint64_t value;
    if (!as_u64(object, &value) || value > UINT32_MAX) {
        if (!PyErr_Occurred() || PyErr_ExceptionMatches(PyExc_ValueError))
            PyErr_Format(PyExc_ValueError, "%S came, 0 to 2^32 - 1 is needed", object);
        return 0;
    }
    *(uint32_t *)out = (uint32_t)value;
    return 1;
}

/* An (H, W, 3) uint8 array and the view of it; NULL with an exception otherwise. */
static PyArrayObject *as_picture(PyObject *object, dd_pixels *view, const char *who) {
    PyArrayObject *array = dd_py_array(object, NPY_UINT8, 3, 3, who);
    if (!array)
        return NULL;
    npy_intp height = PyArray_DIM(array, 0), width = PyArray_DIM(array, 1);
    if (PyArray_DIM(array, 2) != 3 || height < 1 || width < 1 || height > DD_PIXEL_MAX_SIDE ||
        width > DD_PIXEL_MAX_SIDE) {
        PyErr_Format(
            PyExc_ValueError,
            "%s: an image of shape (%zd, %zd, %zd) came, (H, W, 3) with sides of 1 to %d is "
            "needed",
            who, (Py_ssize_t)height, (Py_ssize_t)width, (Py_ssize_t)PyArray_DIM(array, 2),
            DD_PIXEL_MAX_SIDE);
        Py_DECREF(array);
        return NULL;
    }
    *view = (dd_pixels){PyArray_DATA(array), (int)width, (int)height, 3 * (ptrdiff_t)width};
    return array;
}

/* A new picture of zeros and its view; the size must have been checked. */
static PyArrayObject *new_picture(int width, int height, dd_pixels *view) {
    npy_intp dims[3] = {height, width, 3};
    PyArrayObject *array = dd_py_new(NPY_UINT8, 3, dims);
    if (array)
        *view = (dd_pixels){PyArray_DATA(array), width, height, 3 * (ptrdiff_t)width};
    return array;
}

/* ---- pictures ------------------------------------------------------------------------------ */

static PyObject *image_fit(PyObject *module, PyObject *args) {
    (void)module;
    int width, height, side;
    dd_fit fit;
    if (!PyArg_ParseTuple(args, "iii:image_fit", &width, &height, &side))
        return NULL;
    dd_status status = dd_fit_make(width, height, side, &fit);
    if (status != DD_OK)
        return dd_py_raise(status);
    return Py_BuildValue("diiii", fit.scale, fit.width, fit.height, fit.left, fit.top);
}

static PyObject *image_letterbox(PyObject *module, PyObject *args) {
    (void)module;
    PyObject *object;
    double scale;
    int width, height, side;
    dd_pixels source, target;
    dd_fit fit;
    if (!PyArg_ParseTuple(args, "Odiii:image_letterbox", &object, &scale, &width, &height, &side))
        return NULL;
    dd_status status = dd_fit_make(width, height, side, &fit);
    if (status != DD_OK)
        return dd_py_raise(status);
    PyArrayObject *image = as_picture(object, &source, "letterbox"), *out = NULL;
    if (image)
        out = new_picture(side, side, &target);
    if (out) {
        Py_BEGIN_ALLOW_THREADS
        status = dd_letterbox(&source, scale, &fit, &target);
        Py_END_ALLOW_THREADS
        if (status != DD_OK) {
            dd_py_raise(status);
            Py_CLEAR(out);
        }
    }
    release(image);
    return (PyObject *)out;
}

static PyObject *image_resize(PyObject *module, PyObject *args) {
    (void)module;
    PyObject *object;
    double step;
    int width, height;
    dd_pixels source, target;
    if (!PyArg_ParseTuple(args, "Odii:image_resize", &object, &step, &width, &height))
        return NULL;
    if (width < 1 || height < 1 || width > DD_PIXEL_MAX_SIDE || height > DD_PIXEL_MAX_SIDE)
        return PyErr_Format(PyExc_ValueError,
                            "resize: a target of %d x %d pixels came, sides of 1 to %d are needed",
                            width, height, DD_PIXEL_MAX_SIDE);
    PyArrayObject *image = as_picture(object, &source, "resize"), *out = NULL;
    if (image)
        out = new_picture(width, height, &target);
    if (out) {
        dd_status status;
        Py_BEGIN_ALLOW_THREADS
        status = dd_resize(&source, step, &target, 0, height);
        Py_END_ALLOW_THREADS
        if (status != DD_OK) {
            dd_py_raise(status);
            Py_CLEAR(out);
        }
    }
    release(image);
    return (PyObject *)out;
}

static PyObject *image_hsv(PyObject *module, PyObject *args) {
    (void)module;
    PyObject *object;
    double hue, saturation, value;
    dd_pixels source, target;
    dd_hsv hsv;
    if (!PyArg_ParseTuple(args, "Oddd:image_hsv", &object, &hue, &saturation, &value))
        return NULL;
    dd_status status = dd_hsv_make(hue, saturation, value, &hsv);
    if (status != DD_OK)
        return dd_py_raise(status);
    PyArrayObject *image = as_picture(object, &source, "hsv"), *out = NULL;
    if (image)
        out = new_picture(source.width, source.height, &target);
    if (out) {
        Py_BEGIN_ALLOW_THREADS
        status = dd_resize(&source, 1.0, &target, 0, target.height); /* a copy */
        for (int y = 0; status == DD_OK && y < target.height; y++)
            dd_hsv_apply(&hsv, dd_pixels_row(&target, y), target.width);
        Py_END_ALLOW_THREADS
        if (status != DD_OK) {
            dd_py_raise(status);
            Py_CLEAR(out);
        }
    }
    release(image);
    return (PyObject *)out;
}

/* ---- pieces -------------------------------------------------------------------------------- */

_Static_assert(sizeof(dd_piece) == DD_PIECE_FIELDS * sizeof(double), "a piece is its fields");
_Static_assert(sizeof(dd_augment) == 10 * sizeof(double), "the ranges are ten doubles");

/* The ten ranges of dd_augment, in its order. */
static int as_augment(PyObject *object, dd_augment *augment) {
    PyArrayObject *array = dd_py_array(object, NPY_DOUBLE, 1, 1, "augment: ranges");
    if (!array)
        return -1;
    if (PyArray_DIM(array, 0) != 10) {
        PyErr_Format(PyExc_ValueError, "augment: %zd ranges came, 10 are needed",
                     (Py_ssize_t)PyArray_DIM(array, 0));
        Py_DECREF(array);
        return -1;
    }
    memcpy(augment, PyArray_DATA(array), sizeof *augment);
    Py_DECREF(array);
    return 0;
}

static PyObject *image_recipe(PyObject *module, PyObject *args) {
    (void)module;
    PyObject *ranges;
    uint64_t seed;
    uint32_t epoch, position, n;
    int mixing;
    dd_augment augment;
    dd_recipe recipe;
    if (!PyArg_ParseTuple(args, "OO&O&O&O&p:image_recipe", &ranges, as_u64, &seed, as_u32, &epoch,
                          as_u32, &position, as_u32, &n, &mixing) ||
        as_augment(ranges, &augment) < 0)
        return NULL;
    dd_status status = dd_recipe_draw(&augment, seed, epoch, position, n, mixing != 0, &recipe);
    if (status != DD_OK)
        return dd_py_raise(status);
    npy_intp dims[2] = {recipe.n, DD_PIECE_FIELDS};
    PyArrayObject *partners = dd_py_new(NPY_UINT32, 1, dims);
    PyArrayObject *pieces = dd_py_new(NPY_DOUBLE, 2, dims);
    if (!partners || !pieces) {
        release(partners);
        release(pieces);
        return NULL;
    }
    memcpy(PyArray_DATA(partners), recipe.partners, (size_t)recipe.n * sizeof *recipe.partners);
    memcpy(PyArray_DATA(pieces), recipe.pieces, (size_t)recipe.n * sizeof *recipe.pieces);
    return Py_BuildValue("NN", partners, pieces);
}

static PyObject *image_mix_count(PyObject *module, PyObject *args) {
    (void)module;
    double mix;
    uint64_t seed, position;
    uint32_t epoch;
    if (!PyArg_ParseTuple(args, "dO&O&O&:image_mix_count", &mix, as_u64, &seed, as_u32, &epoch,
                          as_u64, &position))
        return NULL;
    if (!(mix >= 0.0 && mix <= 1.0) || position > (uint64_t)1 << 40) {
        PyErr_SetString(PyExc_ValueError, "mix_count: mix must be 0 to 1, position at most 2^40");
        return NULL;
    }
    return PyLong_FromUnsignedLongLong(dd_mix_count(mix, seed, epoch, position));
}

/* What compose holds of a picture: the views and the arrays behind them. */
typedef struct held {
    PyArrayObject *image, *boxes, *ignore;
} held;

/* (image, scale, width, height, boxes (n, 4) float32, ignore (n,) bool) */
static int hold_picture(PyObject *tuple, dd_picture *picture, held *h) {
    PyObject *image, *boxes, *ignore;
    if (!PyTuple_Check(tuple)) {
        PyErr_SetString(PyExc_TypeError, "compose: a picture must be a tuple");
        return -1;
    }
    if (!PyArg_ParseTuple(tuple, "OdiiOO:compose", &image, &picture->scale, &picture->width,
                          &picture->height, &boxes, &ignore))
        return -1;
    h->image = as_picture(image, &picture->pixels, "compose: image");
    h->boxes = h->image ? dd_py_array(boxes, NPY_FLOAT32, 2, 2, "compose: boxes") : NULL;
    h->ignore = h->boxes ? dd_py_array(ignore, NPY_BOOL, 1, 1, "compose: ignore") : NULL;
    if (!h->ignore)
        return -1;
    npy_intp n = PyArray_DIM(h->boxes, 0);
    if (PyArray_DIM(h->boxes, 1) != 4 || PyArray_DIM(h->ignore, 0) != n || n > INT32_MAX / 8) {
        PyErr_Format(PyExc_ValueError,
                     "compose: boxes (%zd, %zd) and ignore (%zd,) came, (n, 4) and (n,) are needed",
                     (Py_ssize_t)n, (Py_ssize_t)PyArray_DIM(h->boxes, 1),
                     (Py_ssize_t)PyArray_DIM(h->ignore, 0));
        return -1;
    }
    picture->boxes = PyArray_DATA(h->boxes);
    picture->ignore = PyArray_DATA(h->ignore);
    picture->n_boxes = (int)n;
    return 0;
}

/* Holds every picture of a sequence; how many, or -1. */
static int hold_pictures(PyObject *sequence, dd_picture *pictures, held *h) {
    Py_ssize_t n = PySequence_Size(sequence);
    if (n < 0)
        return -1;
    if (n < 1 || n > DD_MAX_PIECES) {
        PyErr_Format(PyExc_ValueError, "compose: %zd pictures came, 1 to %d are needed", n,
                     DD_MAX_PIECES);
        return -1;
    }
    for (Py_ssize_t i = 0; i < n; i++) {
        PyObject *item = PySequence_GetItem(sequence, i);
        int failed = !item || hold_picture(item, &pictures[i], &h[i]) < 0;
        Py_XDECREF(item); /* h keeps the arrays */
        if (failed)
            return -1;
    }
    return (int)n;
}

/* The pieces array (n, 16) and the square target, both checked against the canvas. */
static int hold_canvas(PyObject *pieces_object, PyObject *out_object, PyArrayObject **pieces,
                       PyArrayObject **out, dd_canvas *canvas) {
    *pieces = dd_py_array(pieces_object, NPY_DOUBLE, 2, 2, "compose: pieces");
    if (!*pieces)
        return -1;
    if (PyArray_DIM(*pieces, 0) != canvas->n || PyArray_DIM(*pieces, 1) != DD_PIECE_FIELDS) {
        PyErr_Format(PyExc_ValueError, "compose: pieces (%zd, %zd) came, (%d, %d) are needed",
                     (Py_ssize_t)PyArray_DIM(*pieces, 0), (Py_ssize_t)PyArray_DIM(*pieces, 1),
                     canvas->n, DD_PIECE_FIELDS);
        return -1;
    }
    canvas->pieces = PyArray_DATA(*pieces);
    *out = dd_py_array_inplace(out_object, NPY_UINT8, "compose: out");
    if (!*out)
        return -1;
    if (PyArray_NDIM(*out) != 3 || PyArray_DIM(*out, 0) != PyArray_DIM(*out, 1) ||
        PyArray_DIM(*out, 2) != 3 || PyArray_DIM(*out, 0) > DD_LETTERBOX_MAX_SIDE) {
        PyErr_SetString(PyExc_ValueError, "compose: out must be a square (side, side, 3)");
        return -1;
    }
    canvas->side = (int)PyArray_DIM(*out, 0);
    return 0;
}

static PyObject *image_compose(PyObject *module, PyObject *args) {
    (void)module;
    PyObject *pieces_object, *sequence, *out_object, *result = NULL;
    PyArrayObject *pieces = NULL, *out = NULL, *boxes = NULL, *drops = NULL;
    dd_picture pictures[DD_MAX_PIECES];
    held h[DD_MAX_PIECES] = {{0}};
    dd_canvas canvas = {.pictures = pictures};
    if (!PyArg_ParseTuple(args, "OOddO:image_compose", &pieces_object, &sequence,
                          &canvas.limits.min_clipped, &canvas.limits.min_visible, &out_object))
        return NULL;
    canvas.n = hold_pictures(sequence, pictures, h);
    if (canvas.n < 0 || hold_canvas(pieces_object, out_object, &pieces, &out, &canvas) < 0)
        goto done;
    npy_intp dims[2] = {0, 4};
    for (int i = 0; i < canvas.n; i++)
        dims[0] += pictures[i].n_boxes;
    boxes = dd_py_new(NPY_FLOAT32, 2, dims);
    drops = dd_py_new(NPY_UINT8, 1, dims);
    if (!boxes || !drops)
        goto done;
    dd_pixels target = {PyArray_DATA(out), canvas.side, canvas.side, 3 * (ptrdiff_t)canvas.side};
    dd_status status;
    Py_BEGIN_ALLOW_THREADS
    status = dd_compose(&canvas, &target, PyArray_DATA(boxes), PyArray_DATA(drops));
    Py_END_ALLOW_THREADS
    result = status == DD_OK ? Py_BuildValue("OO", boxes, drops) : dd_py_raise(status);
done:
    for (int i = 0; i < DD_MAX_PIECES; i++) {
        release(h[i].image);
        release(h[i].boxes);
        release(h[i].ignore);
    }
    release(pieces);
    release(out);
    release(boxes);
    release(drops);
    return result;
}

/* ---- the order of an epoch ----------------------------------------------------------------- */

static PyObject *order_permutation(PyObject *module, PyObject *args) {
    (void)module;
    uint64_t seed;
    uint32_t epoch, n;
    if (!PyArg_ParseTuple(args, "O&O&O&:order_permutation", as_u64, &seed, as_u32, &epoch, as_u32,
                          &n))
        return NULL;
    npy_intp dims[1] = {n};
    PyArrayObject *order = dd_py_new(NPY_UINT32, 1, dims);
    if (order) {
        Py_BEGIN_ALLOW_THREADS
        dd_order_draw(seed, epoch, PyArray_DATA(order), n);
        Py_END_ALLOW_THREADS
    }
    return (PyObject *)order;
}

static PyObject *order_repeats(PyObject *module, PyObject *args) {
    (void)module;
    PyObject *object;
    uint64_t seed;
    uint32_t epoch;
    if (!PyArg_ParseTuple(args, "O&O&O:order_repeats", as_u64, &seed, as_u32, &epoch, &object))
        return NULL;
    PyArrayObject *factors = dd_py_array(object, NPY_DOUBLE, 1, 1, "sampler: factors"),
                  *counts = NULL;
    npy_intp n = factors ? PyArray_DIM(factors, 0) : 0;
    if (n > INT32_MAX)
        PyErr_SetString(PyExc_ValueError, "sampler: more than 2^31 - 1 factors came");
    else if (factors)
        counts = dd_py_new(NPY_UINT32, 1, &n);
    if (counts) {
        dd_status status =
            dd_repeats_draw(seed, epoch, PyArray_DATA(factors), PyArray_DATA(counts), (uint32_t)n);
        if (status != DD_OK) {
            dd_py_raise(status);
            Py_CLEAR(counts);
        }
    }
    release(factors);
    return (PyObject *)counts;
}

static PyObject *order_side(PyObject *module, PyObject *args) {
    (void)module;
    uint64_t seed;
    uint32_t epoch, batch;
    int side, drawn = 0;
    double spread;
    if (!PyArg_ParseTuple(args, "O&O&O&id:order_side", as_u64, &seed, as_u32, &epoch, as_u32,
                          &batch, &side, &spread))
        return NULL;
    dd_status status = dd_side_draw(seed, epoch, batch, side, spread, &drawn);
    return status == DD_OK ? PyLong_FromLong(drawn) : dd_py_raise(status);
}

extern PyMethodDef dd_py_image_methods[];
PyMethodDef dd_py_image_methods[] = {
    {"image_fit", image_fit, METH_VARARGS, NULL},
    {"image_letterbox", image_letterbox, METH_VARARGS, NULL},
    {"image_resize", image_resize, METH_VARARGS, NULL},
    {"image_hsv", image_hsv, METH_VARARGS, NULL},
    {"image_recipe", image_recipe, METH_VARARGS, NULL},
    {"image_mix_count", image_mix_count, METH_VARARGS, NULL},
    {"image_compose", image_compose, METH_VARARGS, NULL},
    {"order_permutation", order_permutation, METH_VARARGS, NULL},
    {"order_repeats", order_repeats, METH_VARARGS, NULL},
    {"order_side", order_side, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};
