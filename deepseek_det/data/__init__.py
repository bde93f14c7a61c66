"""Data sets: reading, checking, converting, and the demo's drawn one.

`load` reads one split of any layout into a `Dataset`; `splits` names what there is; `check` lists
what is wrong with a data set; `convert` writes it in another layout; `split`, `merge` and `subset`
make new ones of it; `synthetic` draws one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deepseek_det.data.check import check
from deepseek_det.data.compose import merge, split, subset
from deepseek_det.data.convert import convert
from deepseek_det.data.datasets import Dataset, holdout, load, splits
from deepseek_det.data.records import Defect, Record, Sample
from deepseek_det.data.synthetic import synthetic

if TYPE_CHECKING:
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
    "subset",
    "synthetic",
]


def __getattr__(name: str) -> Any:
    # The sampler belongs to training: reading and checking a data set should not load it.
    if name == "RepeatSampler":
        from deepseek_det.data.sampling import RepeatSampler

        return RepeatSampler
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
