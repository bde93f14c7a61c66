/* The matching of label quality for Python: deepseek_det/quality gives the arguments names. */
#include "python/py_detect.h"

#include "detect/match.h"

PyMethodDef dd_py_match_methods[];

/* assignment(cost) -> column (n), -1 where rows outnumber columns */
static PyObject *assignment(PyObject *module, PyObject *args) {
    (void)module;
    holder h = {.count = 0};
    PyObject *object, *result = NULL;
    npy_intp n[2] = {-1, -1};
    const double *cost;
    int32_t *column;
    if (!PyArg_ParseTuple(args, "O", &object))
        return NULL;
    if (!(cost = hold(&h, object, NPY_FLOAT64, 2, n, "assignment: cost")) ||
        !(column = hold_new(&h, NPY_INT32, 1, n)))
        goto done;
    dd_status status;
    DD_PY_CALL(status, dd_assignment_solve(n[0], n[1], cost, column));
    result = status ? dd_py_raise(status) : Py_NewRef((PyObject *)h.arrays[1]);
done:
    holder_release(&h);
    return result;
}

/* match_labels(boxes a, labels a, boxes b, labels b, iou, near) -> partner (n), overlap (n) */
static PyObject *match_labels(PyObject *module, PyObject *args) {
    (void)module;
    holder h = {.count = 0};
    PyObject *boxes_a, *labels_a, *boxes_b, *labels_b, *result = NULL;
    float iou, near, *overlap;
    npy_intp n[2] = {-1, 4}, m[2] = {-1, 4};
    dd_labelled a = {0}, b = {0};
    int32_t *partner;
    if (!PyArg_ParseTuple(args, "OOOOff", &boxes_a, &labels_a, &boxes_b, &labels_b, &iou, &near))
        return NULL;
    if (!(a.boxes = hold(&h, boxes_a, NPY_FLOAT32, 2, n, "match_labels: boxes a")) ||
        !(a.labels = hold(&h, labels_a, NPY_INT32, 1, n, "match_labels: labels a")) ||
        !(b.boxes = hold(&h, boxes_b, NPY_FLOAT32, 2, m, "match_labels: boxes b")) ||
        !(b.labels = hold(&h, labels_b, NPY_INT32, 1, m, "match_labels: labels b")))
        goto done;
    a.count = n[0];
    b.count = m[0];
    int first = h.count;
    if (!(partner = hold_new(&h, NPY_INT32, 1, n)) || !(overlap = hold_new(&h, NPY_FLOAT32, 1, n)))
        goto done;
    dd_status status;
    DD_PY_CALL(status, dd_labels_match(&a, &b, iou, near, partner, overlap));
    result =
        status ? dd_py_raise(status) : Py_BuildValue("OO", h.arrays[first], h.arrays[first + 1]);
done:
    holder_release(&h);
    return result;
}

PyMethodDef dd_py_match_methods[] = {
    {"assignment", assignment, METH_VARARGS, "assignment(cost) -> column"},
    {"match_labels", match_labels, METH_VARARGS,
     "match_labels(boxes_a, labels_a, boxes_b, labels_b, iou, near) -> partner, overlap"},
    {NULL, NULL, 0, NULL},
};
