"""The package's face: light import, threads, seed, configuration, signals and memory failure."""

from __future__ import annotations

import doctest
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import deepseek_det as dd
from deepseek_det import _core, _process


@pytest.fixture(autouse=True)
def _threads_restored():
    before = dd.get_num_threads()
    yield
    dd.set_num_threads(before)


def run_python(code: str, **environment: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        cwd=Path(dd.__file__).parent.parent,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return result.stdout + result.stderr


def test_import_loads_numpy_and_the_core_only():
    code = (
        "import sys, numpy, __future__; before = set(sys.modules); import deepseek_det;"
        "print(sorted(m for m in set(sys.modules) - before if not m.startswith('deepseek_det')));"
        "print(sorted(m for m in sys.modules if m.startswith('deepseek_det.')))"
    )
    foreign, own = run_python(code).splitlines()
    assert foreign == "[]"
    assert own == "['deepseek_det._core', 'deepseek_det._process']"


def test_import_takes_less_than_150_ms_over_numpy():
    code = (
        "import time, numpy; t = time.perf_counter(); import deepseek_det;"
        "print(time.perf_counter() - t)"
    )
    assert min(float(run_python(code)) for _ in range(3)) < 0.15


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'no_such_thing'"):
        _ = dd.no_such_thing
    assert {"Detector", "data", "show_config", "list_models"} <= set(dir(dd))


@pytest.mark.parametrize("name", sorted({*dd._SUBMODULES, *dd._HOMES}))
def test_every_offered_name_loads(name):
    assert getattr(dd, name) is not None


def test_docstring_examples_run():
    assert doctest.testmod(_process).failed == 0


def test_config_describes_the_machine():
    config = _core.config()
    assert config["isa"] in config["isa_supported"]
    assert config["isa_supported"][0] == "scalar"
    assert config["threads"] == dd.get_num_threads()
    assert config["isa"] in dd.show_config()


@pytest.mark.parametrize(
    ("isa", "expected"), [("scalar", "scalar"), ("", None), ("avx9", "scalar")]
)
def test_isa_is_lowered_by_the_environment(isa, expected):
    out = run_python("from deepseek_det import _core; print(_core.config()['isa'])", DD_ISA=isa)
    assert out.splitlines()[0] == (expected or _core.config()["isa_supported"][-1])
    assert ("RuntimeWarning: DD_ISA: 'avx9' is no level" in out) == (isa == "avx9")


@pytest.mark.parametrize(("text", "expected"), [("3", "3"), ("999", "256")])
def test_threads_come_from_the_environment(text, expected):
    code = "import deepseek_det as dd; print(dd.get_num_threads())"
    assert run_python(code, DD_NUM_THREADS=text).strip() == expected


@pytest.mark.parametrize("text", ["", "0", "-1", "two", "1.5"])
def test_threads_of_a_bad_environment_are_the_cpus(text):
    code = "from deepseek_det import _core; c = _core.config(); print(c['threads'] == c['cpus'])"
    assert run_python(code, DD_NUM_THREADS=text).strip() == "True"


@pytest.mark.parametrize(
    ("n", "error"),
    [
        (0, ValueError),
        (-1, ValueError),
        (257, ValueError),
        (10**30, ValueError),
        (-(10**30), ValueError),
        (2.0, TypeError),
        ("2", TypeError),
        (None, TypeError),
    ],
)
def test_set_num_threads_refuses(n, error):
    before = dd.get_num_threads()
    with pytest.raises(error, match="threads"):
        dd.set_num_threads(n)
    assert dd.get_num_threads() == before


def test_set_num_threads_takes_numpy_integers():
    dd.set_num_threads(np.int64(3))
    assert dd.get_num_threads() == 3


@pytest.mark.parametrize(
    ("seed", "error"), [(-1, ValueError), (1 << 64, ValueError), (1.5, TypeError)]
)
def test_set_seed_refuses(seed, error):
    dd.set_seed(5)
    with pytest.raises(error):
        dd.set_seed(seed)
    assert dd.get_seed() == 5
    dd.set_seed(0)


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_ctrl_c_ends_a_long_call(threads):
    dd.set_num_threads(threads)
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    begin = time.perf_counter()
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        _core._busy(10.0)
    assert time.perf_counter() - begin < 0.2 + 0.2 + 0.3  # the timer, the promise, a busy machine
    timer.join()
    _core._busy(0.01)  # the flag is lowered again


def test_a_signal_handler_may_raise_and_call_the_core():
    def handler(number, frame):
        _core._busy(0.001)
        raise LookupError("from the handler")

    before = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(LookupError, match="from the handler"):
            _core._busy(10.0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_long_call_lets_other_threads_run():
    worker = threading.Thread(target=_core._busy, args=(0.3,))
    worker.start()
    begin = time.perf_counter()
    count = sum(range(1000))
    assert count == 499500
    assert time.perf_counter() - begin < 0.25
    worker.join()


def test_core_works_in_a_forked_child():
    dd.set_num_threads(2)
    _core._busy(0.001)
    code = (
        "import os\n"
        "from deepseek_det import _core\n"
        "_core.set_num_threads(2); _core._busy(0.001)\n"
        "pid = os.fork()\n"
        "_core._busy(0.001)\n"
        "if pid == 0: os._exit(0)\n"
        "print(os.waitpid(pid, 0)[1])"
    )
    assert run_python(code).splitlines()[0] == "0"
