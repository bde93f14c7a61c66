"""What a data set holds, in figures: classes, sizes, shapes and places of boxes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from deepseek_det.data.convert import load_all
from deepseek_det.data.datasets import MEDIUM_PX, SMALL_PX, Dataset
from deepseek_det.data.sampling import RepeatSampler

HEAT_CELLS = 24
"""Cells a side of the map of where boxes lie."""

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Histogram:
    """counts (n,) between edges (n + 1,); values beyond the ends count in the end bins."""

    edges: Floats
    counts: Counts
    log: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Edges and counts as lists."""
        return {"edges": self.edges.tolist(), "counts": self.counts.tolist()}


@dataclass(frozen=True, slots=True)
class Statistics:
    """One split in figures; ignored regions count in `ignored` alone.

    class_boxes, class_images: (classes,) boxes of each class and images that hold it; sizes:
    (classes, 3) boxes below 32² px, below 96², others; sides: (classes,) median of the square root
    of the area in px, NaN without a box; repeats: (classes,) how often `RepeatSampler("inverse")`
    shows a box of the class in an epoch, over how often there is one; weights: (classes,) of the
    balanced loss; heat: (HEAT_CELLS, HEAT_CELLS) share of boxes over each place of the image.
    """

    split: str
    names: list[str]
    images: int
    empty: int
    ignored: int
    class_boxes: Counts
    class_images: Counts
    sizes: Counts
    sides: Floats
    repeats: Floats
    weights: Floats
    per_image: Histogram
    side: Histogram
    aspect: Histogram
    image_side: Histogram
    heat: Floats

    @property
    def boxes(self) -> int:
        """Boxes of all classes."""
        return int(self.class_boxes.sum())

    def to_dict(self) -> dict[str, Any]:
        """Everything as dictionaries and lists that `json` can write."""
        rows = zip(
            self.names,
            self.class_boxes.tolist(),
            self.class_images.tolist(),
            self.sizes.tolist(),
            self.sides.tolist(),
            self.weights.tolist(),
            self.repeats.tolist(),
            strict=True,
        )
        keys = ("name", "boxes", "images", "sizes", "side", "weight", "repeat")
        classes = [dict(zip(keys, row, strict=True)) for row in rows]
        for c in classes:
            c["side"] = c["side"] if c["boxes"] else None
        histograms = ("per_image", "side", "aspect", "image_side")
        return {
            "split": self.split,
            "images": self.images,
            "empty": self.empty,
            "boxes": self.boxes,
            "ignored": self.ignored,
            "classes": classes,
            **{name: getattr(self, name).to_dict() for name in histograms},
        }

    def table(self, limit: int | None = None) -> str:
        """The classes as text: boxes, images, loss weight and repeats of each.

        limit: with more classes, the first and last half of `limit` by number of boxes.
        """
        width = max([5, *map(len, self.names)])
        lines = []
        for i in np.argsort(-self.class_boxes, kind="stable").tolist():
            lines.append(
                f"{self.names[i]:{width}} {self.class_boxes[i]:8d} {self.class_images[i]:7d} "
                f"{self.weights[i]:7.3f} {self.repeats[i]:7.2f}"
            )
        if limit is not None and len(lines) > limit:
            more = f"… {len(lines) - limit} more …"
            lines[limit // 2 : len(lines) - (limit - limit // 2)] = [more]
        head = f"{'class':{width}} {'boxes':>8} {'images':>7} {'weight':>7} {'repeat':>7}"
        return "\n".join([head, *lines])


def statistics(
    data: str | os.PathLike[str] | Dataset,
    splits: Sequence[str] | None = None,
    images: str | os.PathLike[str] | None = None,
) -> list[Statistics]:
    """The figures of each split of a data set; no image is decoded.

    data, images: as for `load`; splits: names, all by default. Raises what `load` raises.

    >>> import tempfile
    >>> from deepseek_det.data import synthetic
    >>> of = statistics(synthetic(tempfile.mkdtemp() + "/shapes", n=8))
    >>> [(s.split, s.images) for s in of], of[0].names[:2]
    ([('train', 6), ('val', 1), ('test', 1)], ['disk', 'square'])
    """
    return [of_split(d) for d in load_all(data, splits, False, images, None)]


def of_split(
    data: Dataset, weights: npt.ArrayLike | None = None, factors: npt.ArrayLike | None = None
) -> Statistics:
    """The figures of one split.

    weights: the (classes,) weights of the loss, `class_balanced_weights` for None; factors:
    (images,) how often each image is shown in an epoch, those of `RepeatSampler(data)` for None.
    """
    from deepseek_det.losses import class_balanced_weights

    n = len(data.names)
    own = [r.boxes[~r.ignore].astype(np.float64) for r in data.records]
    labels = np.concatenate([np.zeros(0, np.int32), *(r.labels[~r.ignore] for r in data.records)])
    boxes = np.concatenate([np.zeros((0, 4)), *own])
    sides = np.sqrt(np.prod(boxes[:, 2:] - boxes[:, :2], 1))
    wide, high = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    size = np.digitize(sides, [SMALL_PX, MEDIUM_PX])
    held = [np.unique(r.labels[~r.ignore]) for r in data.records]
    counts = np.bincount(labels, minlength=n).astype(np.int64)
    factors = RepeatSampler(data).factors if factors is None else np.asarray(factors, float)
    shown = np.zeros(n)
    for record, factor in zip(data.records, factors, strict=True):
        shown += factor * np.bincount(record.labels[~record.ignore], minlength=n)
    return Statistics(
        split=data.split,
        names=data.names,
        images=len(data),
        empty=sum(not len(b) for b in own),
        ignored=sum(int(r.ignore.sum()) for r in data.records),
        class_boxes=counts,
        class_images=np.bincount(np.concatenate(held), minlength=n).astype(np.int64),
        sizes=np.stack([np.bincount(labels[size == k], minlength=n) for k in range(3)], 1),
        sides=np.array([np.median(sides[labels == k]) if counts[k] else np.nan for k in range(n)]),
        repeats=shown / np.maximum(counts, 1),
        weights=class_balanced_weights(counts) if weights is None else np.asarray(weights, float),
        per_image=_histogram(np.array([len(b) for b in own], float), whole=True),
        side=_histogram(sides, log=True),
        aspect=_histogram(high / np.maximum(wide, 1e-9), log=True, ends=(1 / 8, 8)),
        image_side=_histogram(np.array([max(r.width, r.height) for r in data.records], float)),
        heat=_heat(data),
    )


def _histogram(
    values: Floats,
    log: bool = False,
    whole: bool = False,
    ends: tuple[float, float] | None = None,
) -> Histogram:
    """At most 24 bins: equal ones, whole numbers, or by quarter to half powers of two."""
    if not len(values):
        return Histogram(np.array([1.0, 2.0]), np.zeros(1, np.int64), log)
    low, high = ends or (float(values.min()), float(values.max()))
    edges: npt.NDArray[np.floating[Any]]
    if log:
        first, last = np.floor(2 * np.log2(low)), np.ceil(2 * np.log2(high) + 1e-9)
        edges = np.exp2(np.arange(first, max(last, first + 1) + 1) / 2)
    elif whole:
        step = max(1, int(np.ceil((high + 1) / 24)))
        edges = np.arange(0, int(high) // step * step + step + 1, step) - 0.5
    else:
        edges = np.linspace(low, high, 21) if high > low else np.array([low - 1, low + 1])
    inside = np.clip(np.searchsorted(edges, values, "right") - 1, 0, len(edges) - 2)
    counts = np.bincount(inside, minlength=len(edges) - 1).astype(np.int64)
    return Histogram(edges.astype(np.float64), counts, log)


def _heat(data: Dataset) -> Floats:
    """Share of the boxes that lie over each cell of the image."""
    heat = np.zeros((HEAT_CELLS, HEAT_CELLS))
    total = 0
    for r in data.records:
        scale = HEAT_CELLS / np.array([r.width, r.height] * 2)
        cells = r.boxes[~r.ignore] * scale
        low, high = np.floor(cells[:, :2]).astype(int), np.ceil(cells[:, 2:]).astype(int)
        for (x0, y0), (x1, y1) in zip(low.tolist(), high.tolist(), strict=True):
            heat[y0:y1, x0:x1] += 1
        total += len(cells)
    return heat / max(total, 1)
