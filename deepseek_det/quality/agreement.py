"""How well annotators agree: F1 and Krippendorff's α, by class, image and annotator.

Two boxes agree when the optimal matching pairs them, they are of one class, and their IoU reaches
the threshold.

**F1** of two annotators is 2·agreed / (labels of the one + labels of the other), the same whichever
of them is taken for the truth; of more annotators the sums run over all pairs.

**α** is Krippendorff's for nominal data (Computing Krippendorff's Alpha-Reliability, 2011) after
localization, as Tschirschwitz and Rodehorst do it for detection ("localization first": Label
Convergence, arXiv:2409.09412; KαLOS, CVPR 2026): a unit is a place, that is boxes whose IoU
reaches the threshold; an annotator's value there is the class, or "absent" where there is no box. A
box in the wrong place makes two units with one "absent" each. A place that nobody marks is no unit.
An annotator who did not see the image, or has an ignored region there, has no value. So α is 1 for
perfect agreement, near 0 for what chance would give, and can be negative. Where all values are
equal it is 0/0; it counts as 1 here, since there is nothing to disagree on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

ABSENT, UNKNOWN = -1, -2
"""Values of a unit: the annotator has no box there; the annotator was not asked."""


def krippendorff_alpha(values: npt.ArrayLike) -> float:
    """Krippendorff's α of nominal values.

    values: (units, annotators) integers, `UNKNOWN` where an annotator has none. 1.0 where all
    values are equal, NaN where no unit has two values.
    Raises ValueError on another shape.

    >>> round(krippendorff_alpha([[0, 0], [1, 1], [0, 1], [-1, 1]]), 4)
    0.2632
    """
    table = np.asarray(values)
    if table.ndim != 2:
        raise ValueError(f"krippendorff_alpha: an array {table.shape} came, (units, annotators)")
    kinds = np.unique(table[table != UNKNOWN])
    counts = np.stack([(table == k).sum(1) for k in kinds], 1) if len(kinds) else table[:, :0]
    raters = counts.sum(1)
    counts, raters = counts[raters > 1].astype(np.float64), raters[raters > 1]
    if not len(raters):
        return float("nan")
    # Of the m(m-1) ordered pairs of a unit those that differ, each unit weighing m.
    observed = float(((raters**2 - (counts**2).sum(1)) / (raters - 1)).sum())
    totals, n = counts.sum(0), float(raters.sum())
    expected = n * n - float((totals**2).sum())
    return 1.0 if observed == 0 else 1 - (n - 1) * observed / expected


@dataclass(frozen=True, slots=True)
class Figures:
    """Agreement on one class, image, annotator, or on all. labels: how many were compared, of all
    annotators; f1, alpha: NaN where there is nothing to compare; counts: agreed places and disputes
    by reason, for an annotator "alone" and "lacks"."""

    name: str
    labels: int
    f1: float
    alpha: float
    counts: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        """Plain values; None for NaN."""
        figures = {k: None if np.isnan(v) else v for k, v in (("f1", self.f1), ("α", self.alpha))}
        return {
            "name": self.name,
            "labels": self.labels,
            "f1": figures["f1"],
            "alpha": figures["α"],
            "counts": self.counts,
        }


@dataclass(frozen=True, slots=True)
class Agreement:
    """All figures of a comparison: overall, and lists by class, image and annotator."""

    overall: Figures
    classes: list[Figures]
    images: list[Figures]
    annotators: list[Figures]

    def to_dict(self, images: bool = True) -> dict[str, Any]:
        """Plain values; images: whether those of single images are in."""
        made: dict[str, Any] = {"overall": self.overall.to_dict()}
        made["classes"] = [f.to_dict() for f in self.classes]
        made["annotators"] = [f.to_dict() for f in self.annotators]
        if images:
            made["images"] = [f.to_dict() for f in self.images]
        return made

    def text(self, worst: int = 5) -> str:
        """A table, with the `worst` images by F1."""
        parts: list[tuple[str, Sequence[Figures]]] = [
            ("all", [self.overall]),
            ("classes", self.classes),
            ("annotators", self.annotators),
        ]
        low = sorted((f for f in self.images if f.f1 < 1), key=lambda f: (f.f1, f.alpha))
        if low and worst:
            parts.append(("images of least agreement", low[:worst]))
        width = max(12, *(len(f.name) for _, figures in parts for f in figures))
        lines = [f"  {'':{width}} {'labels':>8} {'F1':>6} {'α':>6}"]
        for title, figures in parts:
            if title != "all":
                lines.append(f"  {title}:")
            for f in figures:
                lines.append(f"  {f.name:{width}} {f.labels:8d} {_digits(f.f1)} {_digits(f.alpha)}")
        return "\n".join(lines)


def _digits(value: float) -> str:
    return f"{'–':>6}" if np.isnan(value) else f"{value:6.3f}"


class Tally:
    """Collects what `cross_check` finds on each image, and makes the figures of it."""

    def __init__(self, annotators: Sequence[str], names: Sequence[str]) -> None:
        self.annotators, self.names = list(annotators), list(names)
        self.images: list[str] = []
        self._units: list[tuple[int, list[int]]] = []  # image, a value an annotator
        self._labels: list[tuple[int, int, int, int, bool]] = []  # image, class, pair, agreed
        self._counts: list[Counter[str]] = []
        self._class_counts: list[Counter[str]] = [Counter() for _ in names]
        self._people_counts: list[Counter[str]] = [Counter() for _ in annotators]

    def begin(self, image: str) -> None:
        """What follows is of this image."""
        self.images.append(image)
        self._counts.append(Counter())

    def unit(self, values: Sequence[int]) -> None:
        """A place: an annotator's class each, `ABSENT` or `UNKNOWN`."""
        self._units.append((len(self.images) - 1, list(values)))

    def label(self, label: int, pair: tuple[int, int], agreed: bool) -> None:
        """A label of one of two annotators, compared with the other's."""
        self._labels.append((len(self.images) - 1, label, *pair, agreed))

    def outcome(self, outcome: str, labels: Sequence[int], has: Sequence[int]) -> None:
        """What became of a group: "agreed" or a reason; its classes, and the annotators in it."""
        self._counts[-1][outcome] += 1
        for label in sorted(set(labels)):
            self._class_counts[label][outcome] += 1
        for k, counts in enumerate(self._people_counts):
            counts[outcome] += k in has
            counts["alone"] += list(has) == [k]
            counts["lacks"] += k not in has and len(has) == len(self.annotators) - 1

    def figures(self) -> Agreement:
        """All figures."""
        rows = np.array(self._labels, np.int64).reshape(-1, 5)
        unit_image = np.array([u[0] for u in self._units], np.int64)
        units = np.array([u[1] for u in self._units], np.int64)
        units = units.reshape(len(self._units), len(self.annotators))
        everything = sum(self._counts, Counter[str]())
        overall = _figures("all", rows, krippendorff_alpha(units), everything)
        classes = []
        for k, name in enumerate(self.names):
            # One class against all others: what Krippendorff calls α of a single value.
            single = np.where(units >= ABSENT, units == k, UNKNOWN)
            mine = rows[rows[:, 1] == k]
            alpha = krippendorff_alpha(single) if len(mine) else float("nan")
            classes.append(_figures(name, mine, alpha, self._class_counts[k]))
        return Agreement(overall, classes, self._by_image(rows, unit_image, units), self._by(rows))

    def _by_image(
        self,
        rows: npt.NDArray[np.int64],
        unit_image: npt.NDArray[np.int64],
        units: npt.NDArray[np.int64],
    ) -> list[Figures]:
        places = np.arange(len(self.images) + 1)
        row_cuts = np.searchsorted(rows[:, 0], places)
        unit_cuts = np.searchsorted(unit_image, places)
        made = []
        for i, (name, counts) in enumerate(zip(self.images, self._counts, strict=True)):
            mine = rows[row_cuts[i] : row_cuts[i + 1]]
            alpha = krippendorff_alpha(units[unit_cuts[i] : unit_cuts[i + 1]])
            made.append(_figures(name, mine, alpha, counts))
        return made

    def _by(self, rows: npt.NDArray[np.int64]) -> list[Figures]:
        """By annotator: α is the mean of those with each of the others."""
        values = np.array([u[1] for u in self._units], np.int64)
        values = values.reshape(len(self._units), len(self.annotators))
        made = []
        for k, person in enumerate(self.annotators):
            others = [j for j in range(len(self.annotators)) if j != k]
            pairs = [krippendorff_alpha(values[:, [k, j]]) for j in others]
            known = [a for a in pairs if not np.isnan(a)]
            mine = rows[(rows[:, 2] == k) | (rows[:, 3] == k)]
            alpha = float(np.mean(known)) if known else float("nan")
            made.append(_figures(person, mine, alpha, self._people_counts[k]))
        return made


def _figures(name: str, rows: npt.NDArray[np.int64], alpha: float, counts: Counter[str]) -> Figures:
    # Each agreed pair stands in two rows, one a label, so the mean is 2·agreed / labels.
    f1 = float(rows[:, 4].mean()) if len(rows) else float("nan")
    return Figures(name, len(rows), f1, alpha, {k: n for k, n in sorted(counts.items()) if n})
