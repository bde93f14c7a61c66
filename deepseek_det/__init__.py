"""Small object detectors, from data to deployment: a C core, NumPy, no deep-learning framework.

The import is light: NumPy and the C module only. Everything else is loaded at its first use, so
``import deepseek_det as dd`` followed by ``dd.data.load(...)`` works without further imports.
"""

from __future__ import annotations

import importlib
from typing import Any

from deepseek_det._core import Error
from deepseek_det._process import (
    get_num_threads,
    get_seed,
    set_num_threads,
    set_seed,
    show_config,
)

__version__ = "0.1.0"

# Names that live in a submodule and are offered here.
_HOMES = {
    "Detector": "detector",
    "list_models": "models",
    "load_onnx": "onnx",
}

_SUBMODULES = (
    "anchors",
    "checkpoint",
    "cli",
    "data",
    "detector",
    "evaluate",
    "losses",
    "models",
    "nn",
    "onnx",
    "ops",
    "predict",
    "profile",
    "quality",
    "report",
    "results",
    "train",
)

__all__ = [
    "Error",
    "__version__",
    "get_num_threads",
    "get_seed",
    "set_num_threads",
    "set_seed",
    "show_config",
]


def __getattr__(name: str) -> Any:
    """Loads a submodule, or what stands in one, at its first use."""
    value: Any
    if name in _HOMES:
        value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    elif name in _SUBMODULES:
        value = importlib.import_module(f"{__name__}.{name}")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*__all__, *_HOMES, *_SUBMODULES})
