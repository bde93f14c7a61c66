"""The registry of detectors, and the backbones that can be used alone."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deepseek_det.models.mobilenet import mobilenetv3 as mobilenetv3
    from deepseek_det.models.rep_vgg import repvgg as repvgg
    from deepseek_det.nn import Module

__all__ = ["build", "list_models", "mobilenetv3", "register", "repvgg"]

Builder = Callable[[int], "Module"]
_registry: dict[str, Builder] = {}


def register(name: str, build: Builder) -> None:
    """Adds a detector under a name; build(classes) gives a module with outputs "cls" and "box"."""
    _registry[name] = build


def list_models() -> list[str]:
    """The names that `Detector` takes.

    >>> list_models()[:3]
    ['dsdet-n', 'dsdet-s', 'dsdet-m']
    """
    return list(_registry)


def build(name: str, classes: int) -> Module:
    """The untrained module of a registered detector."""
    if name not in _registry:
        raise ValueError(f"models: {name!r} is not one of {', '.join(_registry)}")
    return _registry[name](classes)


def _dsdet(size: str) -> Builder:
    def make(classes: int) -> Module:
        from deepseek_det.models.dsdet import SIZES, DSDet

        return DSDet(SIZES[size], classes)

    return make


for _size in ("n", "s", "m"):
    register(f"dsdet-{_size}", _dsdet(_size))


_HOMES = {"mobilenetv3": "mobilenet", "repvgg": "rep_vgg"}


def __getattr__(name: str) -> Any:
    """Loads a backbone at its first use: the detectors do without."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
