/* The extension module `_core`: what its areas share, and the functions about the process.
 *
 * One phase of initialization: NumPy's C API is imported once for a process anyway. The limited
 * API makes one binary serve Python 3.11 and later. */
#define DD_BINDING_MAIN
#include "python/binding.h"

#include <string.h>

#include "base/cpu.h"
#include "base/cpus.h"
#include "base/memory.h"
#include "base/threads.h"

/* Weak: a build may leave areas out, and most areas add no types. */
#define DD_AREA(name)                                                                              \
    extern PyMethodDef dd_py_##name##_methods[] __attribute__((weak));                             \
    extern int dd_py_##name##_init(PyObject *module) __attribute__((weak));
#include "python/areas.def"
#undef DD_AREA

static PyObject *error_class; /* deepseek_det.Error; set once by the module's import */

/* ---- status to exception ------------------------------------------------------------------- */

PyObject *dd_py_raise(dd_status status) {
    /* A signal handler that ran during the call has set the exception that counts. */
    if (PyErr_Occurred())
        return NULL;
    PyObject *kind = error_class;
    switch (status) {
    case DD_EVALUE:
        kind = PyExc_ValueError;
        break;
    case DD_ETYPE:
        kind = PyExc_TypeError;
        break;
    case DD_ENOMEM:
        kind = PyExc_MemoryError;
        break;
    case DD_EIO:
        kind = PyExc_OSError;
        break;
    case DD_ECANCELED:
        PyErr_SetNone(PyExc_KeyboardInterrupt);
        return NULL;
    case DD_EFORMAT:
    case DD_ESTATE:
        break;
    case DD_OK:
        PyErr_SetString(PyExc_SystemError, "a call that succeeded was reported as failed");
        return NULL;
    }
    /* A message may quote bytes of a file; what is not UTF-8 is replaced, never a new error. */
    const char *text = dd_message();
    PyObject *string = PyUnicode_DecodeUTF8(text, (Py_ssize_t)strlen(text), "replace");
    if (string) {
        PyErr_SetObject(kind, string);
        Py_DECREF(string);
    }
    return NULL;
}

/* ---- arrays -------------------------------------------------------------------------------- */

/* The name of a NumPy type for a message. */
static const char *type_name(int typenum) {
    switch (typenum) {
    case NPY_FLOAT32:
        return "float32";
    case NPY_FLOAT64:
        return "float64";
    case NPY_UINT8:
        return "uint8";
    case NPY_INT8:
        return "int8";
    case NPY_INT32:
        return "int32";
    case NPY_UINT32:
        return "uint32";
    case NPY_INT64:
        return "int64";
    case NPY_UINT64:
        return "uint64";
    case NPY_BOOL:
        return "bool";
    default:
        return "another type";
    }
}

/* Puts "who: " before the message of the present exception and keeps its class. */
static void exception_within(const char *who) {
    PyObject *kind, *value, *trace;
    PyErr_Fetch(&kind, &value, &trace);
    PyObject *text = value ? PyObject_Str(value) : NULL;
    if (text) {
        PyErr_Format(kind, "%s: %U", who, text);
        Py_DECREF(text);
        Py_XDECREF(kind);
        Py_XDECREF(value);
        Py_XDECREF(trace);
    } else {
        PyErr_Clear();
        PyErr_Restore(kind, value, trace);
    }
}

PyArrayObject *dd_py_array(PyObject *object, int typenum, int min_rank, int max_rank,
                           const char *who) {
    /* FromAny casts only where it is safe; a wrong rank gets our message, not NumPy's. */
    PyArray_Descr *type = PyArray_DescrFromType(typenum);
    if (!type)
        return NULL;
    PyObject *result = PyArray_FromAny(object, type, 0, 0, NPY_ARRAY_CARRAY_RO, NULL);
    if (!result) {
        exception_within(who);
        return NULL;
    }
    PyArrayObject *array = (PyArrayObject *)result;
    int rank = PyArray_NDIM(array);
    if (rank < min_rank || rank > max_rank) {
        if (min_rank == max_rank)
            PyErr_Format(PyExc_ValueError, "%s: an array of %d dimensions came, %d are needed", who,
                         rank, min_rank);
        else
            PyErr_Format(PyExc_ValueError,
                         "%s: an array of %d dimensions came, %d to %d are needed", who, rank,
                         min_rank, max_rank);
        Py_DECREF(result);
        return NULL;
    }
    return array;
}

PyArrayObject *dd_py_array_inplace(PyObject *object, int typenum, const char *who) {
    if (!PyArray_Check(object)) {
        PyErr_Format(PyExc_TypeError, "%s: a NumPy array is needed", who);
        return NULL;
    }
    PyArrayObject *array = (PyArrayObject *)object;
    if (PyArray_TYPE(array) != typenum) {
        PyErr_Format(PyExc_TypeError, "%s: an array of type %S came, %s is needed", who,
                     (PyObject *)PyArray_DESCR(array), type_name(typenum));
        return NULL;
    }
    if (!PyArray_CHKFLAGS(array, NPY_ARRAY_CARRAY)) {
        PyErr_Format(PyExc_ValueError,
                     "%s: the result goes into the array, so it must be C-contiguous and writable",
                     who);
        return NULL;
    }
    Py_INCREF(object);
    return array;
}

PyArrayObject *dd_py_new(int typenum, int rank, const npy_intp *dims) {
    return (PyArrayObject *)PyArray_ZEROS(rank, (npy_intp *)dims, typenum, 0);
}

/* ---- calls without the GIL ----------------------------------------------------------------- */

/* This thread's call that is under way without the GIL. */
static _Thread_local struct {
    PyThreadState **state;
    bool raised; /* its look raised the cancel flag */
} call;

/* Runs on the calling thread each 50 ms. Signal handlers are Python code: they may raise, and they
 * may call this module again, so the place of the call is put aside meanwhile. */
static void look_for_signals(void) {
    PyThreadState **state = call.state;
    call.state = NULL;
    PyEval_RestoreThread(*state);
    bool stop = PyErr_Occurred() || PyErr_CheckSignals() != 0;
    *state = PyEval_SaveThread();
    call.state = state;
    dd_cancel_look(look_for_signals); /* a call from the handler has turned it off */
    if (stop) {
        call.raised = true;
        dd_cancel_set(true);
    }
}

void dd_py_begin(PyThreadState **state) {
    *state = PyEval_SaveThread();
    call.state = state;
    dd_cancel_look(look_for_signals);
}

void dd_py_end(PyThreadState **state) {
    dd_cancel_look(NULL);
    call.state = NULL;
    PyEval_RestoreThread(*state);
    if (call.raised) {
        call.raised = false;
        dd_cancel_set(false);
    }
}

/* ---- functions about the process ----------------------------------------------------------- */

static PyObject *get_num_threads(PyObject *module, PyObject *nothing) {
    (void)module, (void)nothing;
    return PyLong_FromLong(dd_threads());
}

static PyObject *set_num_threads(PyObject *module, PyObject *number) {
    (void)module;
    /* Only what is an integer by itself: 2.7 threads are a mistake. */
    PyObject *index = PyNumber_Index(number);
    if (!index) {
        exception_within("set_num_threads");
        return NULL;
    }
    int overflow = 0;
    long n = PyLong_AsLongAndOverflow(index, &overflow);
    Py_DECREF(index);
    if (n == -1 && PyErr_Occurred())
        return NULL;
    if (overflow)
        n = overflow < 0 ? INT_MIN : INT_MAX;
    n = n > INT_MAX ? INT_MAX : n < INT_MIN ? INT_MIN : n;
    dd_status status;
    DD_PY_CALL(status, dd_threads_set((int)n)); /* waits for a region of another thread */
    if (status != DD_OK)
        return dd_py_raise(status);
    Py_RETURN_NONE;
}

/* The names of the levels that this machine supports. */
static PyObject *levels_list(void) {
    PyObject *list = PyList_New(0);
    for (int isa = 0; list && isa < DD_ISA_COUNT; isa++) {
        if (!dd_isa_supported((dd_isa)isa))
            continue;
        PyObject *name = PyUnicode_FromString(dd_isa_name((dd_isa)isa));
        if (!name || PyList_Append(list, name) < 0)
            Py_CLEAR(list);
        Py_XDECREF(name);
    }
    return list;
}

static PyObject *config(PyObject *module, PyObject *nothing) {
    (void)module, (void)nothing;
#if defined(__clang__)
    const char *compiler = "clang " __clang_version__;
#elif defined(__GNUC__)
    const char *compiler = "gcc " __VERSION__;
#else
    const char *compiler = "unknown";
#endif
#ifdef NDEBUG
    const char *build = "release";
#else
    const char *build = "debug";
#endif
    PyObject *levels = levels_list();
    if (!levels)
        return NULL;
    return Py_BuildValue("{s:s,s:N,s:s,s:i,s:i,s:s,s:s}", "isa", dd_isa_name(dd_isa_best()),
                         "isa_supported", levels, "cpu", dd_cpu_name(), "threads", dd_threads(),
                         "cpus", dd_cpus_allowed(), "compiler", compiler, "build", build);
}

static PyObject *alloc_calls(PyObject *module, PyObject *nothing) {
    (void)module, (void)nothing;
    return PyLong_FromUnsignedLongLong(dd_alloc_calls());
}

static PyObject *alloc_live(PyObject *module, PyObject *nothing) {
    (void)module, (void)nothing;
    return PyLong_FromUnsignedLongLong(dd_alloc_live());
}

static PyObject *alloc_fail_at(PyObject *module, PyObject *number) {
    (void)module;
    unsigned long long n = PyLong_AsUnsignedLongLong(number);
    if (n == (unsigned long long)-1 && PyErr_Occurred())
        return NULL;
    dd_alloc_fail_at(n);
    Py_RETURN_NONE;
}

static void wait_unit(void *context, int64_t unit, int thread) {
    (void)unit, (void)thread;
    double end = *(double *)context;
    while (!dd_cancelled() && dd_seconds() < end)
        ;
}

static dd_status wait_on_all(double seconds) {
    double end = dd_seconds() + seconds;
    dd_parallel(dd_threads(), wait_unit, &end);
    return dd_cancelled() ? DD_ECANCELED : DD_OK;
}

static PyObject *busy(PyObject *module, PyObject *seconds) {
    (void)module;
    double s = PyFloat_AsDouble(seconds);
    if (s == -1.0 && PyErr_Occurred())
        return NULL;
    dd_status status;
    DD_PY_CALL(status, wait_on_all(s));
    if (status != DD_OK)
        return dd_py_raise(status);
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"get_num_threads", get_num_threads, METH_NOARGS, NULL},
    {"set_num_threads", set_num_threads, METH_O, NULL},
    {"config", config, METH_NOARGS, NULL},
    /* For tests: the heap's counters and its hook, and a long call that Ctrl-C ends. */
    {"_alloc_calls", alloc_calls, METH_NOARGS, NULL},
    {"_alloc_live", alloc_live, METH_NOARGS, NULL},
    {"_alloc_fail_at", alloc_fail_at, METH_O, NULL},
    {"_busy", busy, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "deepseek_det._core",
    .m_size = -1,
    .m_methods = methods,
};

/* Adds the functions and types of every area that this build has. */
static int add_areas(PyObject *module) {
#define DD_AREA(name)                                                                              \
    if (dd_py_##name##_methods && PyModule_AddFunctions(module, dd_py_##name##_methods) < 0)       \
        return -1;                                                                                 \
    if (dd_py_##name##_init && dd_py_##name##_init(module) < 0)                                    \
        return -1;
#include "python/areas.def"
#undef DD_AREA
    return 0;
}

PyMODINIT_FUNC PyInit__core(void);
PyMODINIT_FUNC PyInit__core(void) {
    import_array();
    PyObject *module = PyModule_Create(&definition);
    if (!module)
        return NULL;
    error_class = PyErr_NewExceptionWithDoc(
        "deepseek_det.Error", "A file, a model or an object is not what the call needs.", NULL,
        NULL);
    if (!error_class || PyModule_AddObjectRef(module, "Error", error_class) < 0 ||
        add_areas(module) < 0)
        goto failed;
    /* A misspelt DD_ISA is worth a word and no failure. */
    if (dd_isa_check() != DD_OK && PyErr_WarnEx(PyExc_RuntimeWarning, dd_message(), 1) < 0)
        goto failed;
    return module;
failed:
    Py_DECREF(module);
    return NULL;
}
