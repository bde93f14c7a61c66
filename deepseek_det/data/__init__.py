"""Data sets: reading, checking, converting, and the demo's drawn one.

`load` reads one split of any layout into a `Dataset`; `splits` names what there is; `check` lists
what is wrong with a data set; `convert` writes it in another layout; `split`, `merge` and `subset`
make new ones of it; `synthetic` draws one.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from deepseek_det.data.check import check
from deepseek_det.data.compose import merge, split, subset
from deepseek_det.data.convert import convert
from deepseek_det.data.datasets import Dataset, holdout, load, splits
from deepseek_det.data.records import Defect, Record, Sample
from deepseek_det.data.synthetic import synthetic

if TYPE_CHECKING:
    from deepseek_det.data.census import statistics
    from deepseek_det.data.pages import write_pictures, write_statistics
    from deepseek_det.data.sampling import RepeatSampler

__all__ = [
    "Dataset",
    "Defect",
    "Record",
    "RepeatSampler",
    "Sample",
    "check",
    "convert",
    "holdout",
    "load",
    "merge",
    "split",
    "splits",
    "statistics",
    "subset",
    "synthetic",
    "write_pictures",
    "write_statistics",
]

_LATER = {
    "RepeatSampler": "sampling",
    "statistics": "census",
    "write_pictures": "pages",
    "write_statistics": "pages",
}


def __getattr__(name: str) -> Any:
    # These need the C core's training side or the report: reading a data set should not load them.
    if name in _LATER:
        value = getattr(import_module(f"deepseek_det.data.{_LATER[name]}"), name)
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
