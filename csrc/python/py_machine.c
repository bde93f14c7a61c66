/* The binding of csrc/graph/machine: measure_machine(). */
#include "python/binding.h"

#include "graph/machine.h"

static PyObject *measure_machine(PyObject *module, PyObject *nothing) {
    dd_machine m;
    dd_status status;
    (void)module, (void)nothing;
    DD_PY_CALL(status, dd_machine_measure(&m));
    if (status != DD_OK)
        return dd_py_raise(status);
    return Py_BuildValue("{s:s,s:i,s:d,s:d,s:d}", "isa", m.isa, "threads", m.threads, "flops",
                         m.flops, "bytes_per_second", m.bytes_per_second, "clock_seconds",
                         m.clock_seconds);
}

PyMethodDef dd_py_machine_methods[] = {
    {"measure_machine", measure_machine, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};
