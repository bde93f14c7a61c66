"""What holds for the whole process: threads, the default seed, the description of the build."""

from __future__ import annotations

import operator

import numpy as np

from deepseek_det import _core

_seed = 0


def get_num_threads() -> int:
    """Threads that the core uses: at first the CPUs that affinity and cgroup quota allow.

    The environment variable ``DD_NUM_THREADS`` overrides that start value.

    >>> import deepseek_det as dd
    >>> dd.get_num_threads() >= 1
    True
    """
    return _core.get_num_threads()


def set_num_threads(n: int) -> None:
    """Sets the number of threads of the core; results are the same bits for any number.

    n: 1 to 256.
    Raises ValueError outside of that, TypeError for what is not an integer.

    >>> import deepseek_det as dd
    >>> before = dd.get_num_threads()
    >>> dd.set_num_threads(2)
    >>> dd.get_num_threads()
    2
    >>> dd.set_num_threads(before)
    """
    _core.set_num_threads(n)


def set_seed(seed: int) -> None:
    """Sets the seed that calls without a ``seed`` of their own use; at first 0.

    seed: 0 to 2**64 - 1.
    Raises ValueError outside of that, TypeError for what is not an integer.

    >>> import deepseek_det as dd
    >>> dd.set_seed(7)
    >>> dd.get_seed()
    7
    >>> dd.set_seed(0)
    """
    global _seed
    value = operator.index(seed)
    if not 0 <= value < 1 << 64:
        raise ValueError(f"set_seed: {value} came, 0 to 2**64 - 1 is needed")
    _seed = value


def get_seed() -> int:
    """The seed that calls without a ``seed`` of their own use.

    >>> import deepseek_det as dd
    >>> dd.get_seed()
    0
    """
    return _seed


def show_config() -> str:
    """Text about version, instruction set, threads and build, for a bug report.

    >>> import deepseek_det as dd
    >>> print(dd.show_config())  # doctest: +ELLIPSIS
    deepseek_det ...
    """
    from deepseek_det import __version__

    config = _core.config()
    rows = {
        "cpu": config["cpu"] or "unknown",
        "instructions": f"{config['isa']} (of {', '.join(config['isa_supported'])})",
        "threads": f"{config['threads']} (CPUs allowed: {config['cpus']})",
        "build": f"{config['build']}, {config['compiler'].strip()}",
        "numpy": np.__version__,
    }
    width = max(map(len, rows))
    lines = [f"{name:<{width}}  {value}" for name, value in rows.items()]
    return "\n".join([f"deepseek_det {__version__}", *lines])
