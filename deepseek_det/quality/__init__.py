"""Label quality: what annotators, or a model, disagree on; decisions; a better data set.

`cross_check` compares several people's labels of the same images, `rank` compares one set of labels
with a model's predictions; both give disputes. `advise` asks a model about those of people. A
person decides on the page that `CrossCheck.page` writes, or a program does, and `resolve` writes a
new data set.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deepseek_det.quality.agreement import Agreement, Figures, krippendorff_alpha
from deepseek_det.quality.cross_check import cross_check
from deepseek_det.quality.disputes import Agreed, Candidate, CrossCheck, Dispute, read_disputes
from deepseek_det.quality.resolve import read_decisions, resolve

if TYPE_CHECKING:
    from deepseek_det.quality.advice import advise
    from deepseek_det.quality.page import write_page
    from deepseek_det.quality.predictions import Predictions, fold_predictions, predictions_of
    from deepseek_det.quality.ranking import Ranking, rank

__all__ = [
    "Agreed",
    "Agreement",
    "Candidate",
    "CrossCheck",
    "Dispute",
    "Figures",
    "Predictions",
    "Ranking",
    "advise",
    "cross_check",
    "fold_predictions",
    "krippendorff_alpha",
    "predictions_of",
    "rank",
    "read_decisions",
    "read_disputes",
    "resolve",
    "write_page",
]

# What needs a detector, or the page's template, is loaded when it is asked for.
_HOMES = {
    "Predictions": "predictions",
    "Ranking": "ranking",
    "advise": "advice",
    "fold_predictions": "predictions",
    "predictions_of": "predictions",
    "rank": "ranking",
    "write_page": "page",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        import importlib

        value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
