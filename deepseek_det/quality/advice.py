"""A model's word on what annotators dispute.

Two people who disagree are two opinions of equal weight. A model that has not seen either's labels
is a third: where it clearly takes a side, that is the suggestion; where it does not, or the place
is blurred, nobody is clearly wrong and the dispute is ambiguous.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

import numpy as np

from deepseek_det.quality.blur import Place, blurred
from deepseek_det.quality.disputes import CrossCheck, Dispute
from deepseek_det.quality.predictions import Predictions, Seen
from deepseek_det.quality.ranking import WAVER, FloatArray, fit, seen_on, support

YES, NO = 0.5, 0.15
"""Support from which the model says that there is an object, and up to which that there is none."""
CLEARLY = 0.15
"""How much better one candidate has to be supported, or fit, than the others."""


def advise(
    q: CrossCheck, predictions: Predictions | str | os.PathLike[str], blur: bool = True
) -> CrossCheck:
    """The comparison with a model's suggestions, and with what is ambiguous called so.

    q: of `cross_check`; predictions: of `fold_predictions` or `predictions_of`, or their file, on
    the same images. A dispute that a majority of annotators has a suggestion for keeps it. blur:
    decode the images to see which places are blurred. Decisions on `q` fit the result only where
    no reason changed: advise first, then decide.
    Raises Error where an image has no predictions or classes do not fit.
    """
    if not isinstance(predictions, Predictions):
        predictions = Predictions.read(predictions)
    marks = _blurred(q) if blur else [False] * len(q.disputes)
    made = [
        _advised(d, q.names, predictions, mark) for d, mark in zip(q.disputes, marks, strict=True)
    ]
    values = {f.name: getattr(q, f.name) for f in fields(CrossCheck)}
    return CrossCheck(**{**values, "disputes": made})


def _blurred(q: CrossCheck) -> list[bool]:
    """Whether the place of each dispute is blurred, against the agreed labels."""
    path = {image.name: image.path for image in q.images}
    labels: dict[Path, list[Place]] = {}
    for a in q.agreed:
        labels.setdefault(path[a.image], []).append((a.xyxy, a.name))
    asked = [(path[d.image], (d.candidates[0].xyxy, d.candidates[0].name)) for d in q.disputes]
    return blurred(asked, labels)


def _advised(
    d: Dispute, names: Sequence[str], predictions: Predictions, is_blurred: bool
) -> Dispute:
    if d.reason == "ambiguous" or d.suggestion is not None:
        return d
    choice, why = _choice(d, seen_on(predictions, d.image, names, "advise"), names)
    if is_blurred or choice is None:
        why = "blurred" if is_blurred else why
        return replace(d, reason="ambiguous", suggestion="ignore", text=f"{d.text}; {why}")
    return replace(d, suggestion=choice, text=f"{d.text}; {why}")


def _choice(
    d: Dispute, views: Sequence[Seen], names: Sequence[str]
) -> tuple[int | str | None, str]:
    """The side that the model takes, None where it takes none; and what it says."""
    evidence = [support(views, c.xyxy, names.index(c.name)) for c in d.candidates]
    means = [float(e.mean()) for e in evidence]
    best = int(np.argmax(means))
    if max(float(np.ptp(e)) for e in evidence) > WAVER:
        return None, "the model wavers"
    if len(d.candidates) == 1 or d.reason == "only-in-some":
        if means[best] >= YES:
            return best, f"the model sees it ({means[best]:.2f})"
        if means[best] <= NO:
            return "drop", f"the model sees nothing ({means[best]:.2f})"
        return None, f"the model is not sure ({means[best]:.2f})"
    if d.reason == "location":
        worth: FloatArray = np.array(
            [fit(views, c.xyxy, names.index(c.name)).mean() for c in d.candidates]
        )
        said = "fits"
    else:
        worth, said = np.array(means), "sees"
    order = np.argsort(-worth, kind="stable")
    if worth[order[0]] - worth[order[1]] >= CLEARLY:
        first = d.candidates[order[0]]
        return int(order[0]), f"the model {said} {first.annotator}'s {first.name}"
    return None, "the model takes no side"
