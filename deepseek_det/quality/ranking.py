"""Labels that a model doubts, worst first.

Each image's labels are matched with the predictions that are worth it, one to one and optimally as
in `cross_check`. What does not fit becomes a suspicion with a score from 0 to 1, an estimate of how
surely something is wrong there:

- missing: a prediction without a label. Score: how often predictions of this confidence and class
  are right, measured on the data set itself (most labels are right), less as other labels cover it.
- spurious: a label without a prediction. Score: how often the model finds such labels, of this
  class and size, less as weak predictions support it.
- location: label and prediction of one class that overlap less than is usual for the class.
- class: label and prediction of different classes in one place.
- ambiguous: any of these where the model wavers over mirrored and scaled views, or the image is
  blurred there: nobody is clearly wrong, so leaving it out of the loss is suggested.

The evidence is the mean over the views, so that a single odd look counts less.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import numpy as np
import numpy.typing as npt

from deepseek_det import _core
from deepseek_det.data.decode import decode
from deepseek_det.data.records import Record
from deepseek_det.errors import Error
from deepseek_det.quality.disputes import Agreed, Box, Candidate, CrossCheck, Dispute
from deepseek_det.quality.predictions import Predictions, Seen, predictions_of
from deepseek_det.quality.sets import Source, images_of, one_set

if TYPE_CHECKING:
    from deepseek_det.detector import Detector

FloatArray = npt.NDArray[np.float64]

NEAR, SAME_PLACE = 0.1, 0.5
"""IoU from which a label and a prediction may mean one object; from which they are in one place."""
BINS = 12
"""Steps of the curves that are measured on the data: confidence → precision, size → recall."""
PRIOR = 4.0
"""Weight of a curve's mean in a step with few samples."""
STRONG = 0.3
"""Predictions that are right more often than this are matched with the labels."""
WAVER = 0.5
"""Span of the evidence over the views beyond which the model wavers."""
BLUR_QUANTILE, BLUR_SIDE_PX = 0.03, 8
"""A place is blurred when it is less sharp than this share of the labels of its class; boxes with a
shorter side are too small to tell."""


class Ranking(CrossCheck):
    """Suspicious labels, worst first: a list of `Dispute`, and all that a comparison offers.

    So `page`, `write` and `resolve` work on it as on a `CrossCheck`; its annotators are "label" and
    "model", the agreed labels those that nothing speaks against.
    """

    def __len__(self) -> int:
        return len(self.disputes)

    def __iter__(self) -> Iterator[Dispute]:
        return iter(self.disputes)

    @overload
    def __getitem__(self, index: int) -> Dispute: ...
    @overload
    def __getitem__(self, index: slice) -> list[Dispute]: ...
    def __getitem__(self, index: int | slice) -> Dispute | list[Dispute]:
        return self.disputes[index]

    def text(self, limit: int = 10) -> str:
        """A report for people, with the first suspicions."""
        count = len(self.disputes)
        lines = [f"{len(self.images)} images, {count} suspicions, worst first"]
        lines += [f"  {n:6d} x {reason}" for reason, n in self.by_reason().items()]
        lines += [
            f"  {d.score:.2f} {d.reason:10} {d.image}: {d.text}" for d in self.disputes[:limit]
        ]
        return "\n".join(lines)


def rank(
    data: Source,
    det_or_folds: Detector | Predictions | str | os.PathLike[str],
    min_score: float = 0.05,
    blur: bool = True,
) -> Ranking:
    """Labels that a model doubts, worst first.

    data: path or data set; all its splits. det_or_folds: predictions of `fold_predictions` (or
    their file), or a detector that was not trained on these labels: one that was repeats their
    errors. min_score: what is less suspicious is left out. blur: decode images to see where they
    are blurred. Ignored regions are neither judged nor missing.
    Raises Error where classes or images do not fit, ValueError on min_score.
    """
    if not 0 <= min_score <= 1:
        raise ValueError(f"rank: min_score is {min_score}, 0 to 1 was needed")
    named, names = one_set(data, "rank")
    predictions = _predictions(data, det_or_folds)
    views = [_by_names(predictions, n, names) for n in named]
    judge = _Judge.measure(list(named.values()), [v[0] for v in views], len(names))
    suspicions: list[_Suspicion] = []
    for (name, record), seen in zip(named.items(), views, strict=True):
        suspicions += judge.look(name, record, seen)
    suspicions = [s for s in suspicions if s.score >= min_score]
    suspicions.sort(key=lambda s: (-s.score, s.image))
    if blur:
        _mark_blurred(suspicions, named)
    return _ranking(data, named, names, suspicions)


def _predictions(data: Source, given: Any) -> Predictions:
    if isinstance(given, Predictions):
        return given
    if isinstance(given, (str, os.PathLike)) and os.fspath(given).endswith(".json"):
        return Predictions.read(given)
    from deepseek_det.detector import Detector

    det = given if isinstance(given, Detector) else Detector(given)
    return predictions_of(det, data)


def _by_names(predictions: Predictions, image: str, names: Sequence[str]) -> list[Seen]:
    """What is seen on an image, labels in the data's order of classes."""
    if image not in predictions.images:
        raise Error(f"rank: there are no predictions for {image}")
    if not set(predictions.names) <= set(names):
        raise Error(f"rank: predictions are of {predictions.names}, the data has {list(names)}")
    place = np.array([names.index(n) for n in predictions.names], np.int32)
    return [Seen(s.xyxy, s.conf, place[s.labels]) for s in predictions.images[image]]


# ---- what the model is worth ----------------------------------------------------------------


@dataclass(slots=True)
class _Curve:
    """A rate that grows with x, measured in steps: a share of hits a step, smoothed towards the
    mean where samples are few."""

    edges: FloatArray
    rates: FloatArray

    @classmethod
    def measure(cls, x: FloatArray, hit: npt.NDArray[np.bool_], rising: bool) -> _Curve:
        mean = (float(hit.sum()) + 1) / (len(hit) + 2)
        edges = np.unique(np.quantile(x, np.linspace(0, 1, BINS + 1)[1:-1])) if len(x) else x
        step = np.searchsorted(edges, x, "right")
        n = np.bincount(step, minlength=len(edges) + 1)
        hits = np.bincount(step, hit.astype(np.float64), len(edges) + 1)
        rates = (hits + PRIOR * mean) / (n + PRIOR)
        return cls(edges, np.maximum.accumulate(rates) if rising else rates)

    def __call__(self, x: npt.ArrayLike) -> FloatArray:
        return self.rates[np.searchsorted(self.edges, x, "right")]


def _closeness(iou: npt.ArrayLike) -> FloatArray:
    """How far two boxes are one place: 0 up to an IoU of NEAR, 1 from SAME_PLACE on."""
    return np.clip((np.asarray(iou, np.float64) - NEAR) / (SAME_PLACE - NEAR), 0, 1)


class _Suspicion(NamedTuple):
    image: str
    reason: str
    score: float
    label: int | None  # position in the record
    box: Box
    kind: int  # the label's class, or the prediction's
    model: tuple[Box, int, float] | None  # box, class and confidence of the prediction
    span: float  # of the evidence over the views
    text: str = ""
    blurred: bool = False


@dataclass(slots=True)
class _Judge:
    """What the model is worth on this data set, by class, and how it judges an image."""

    precision: list[_Curve]
    recall: list[_Curve]
    usual_iou: list[float]
    classes: int = field(default=0)

    @classmethod
    def measure(cls, records: Sequence[Record], seen: Sequence[Seen], classes: int) -> _Judge:
        conf: list[list[FloatArray]] = [[] for _ in range(classes)]
        right: list[list[npt.NDArray[np.bool_]]] = [[] for _ in range(classes)]
        size: list[list[FloatArray]] = [[] for _ in range(classes)]
        found: list[list[npt.NDArray[np.bool_]]] = [[] for _ in range(classes)]
        overlaps: list[list[float]] = [[] for _ in range(classes)]
        for record, s in zip(records, seen, strict=True):
            keep = ~record.ignore
            boxes, labels = record.boxes[keep], record.labels[keep]
            free = ~_in_regions(s.xyxy, record.boxes[record.ignore])
            s = Seen(s.xyxy[free], s.conf[free], s.labels[free])
            partner, overlap = _core.match_labels(
                boxes, labels, s.xyxy, s.labels, SAME_PLACE, SAME_PLACE
            )
            hit = partner >= 0
            hit[hit] = labels[hit] == s.labels[partner[hit]]
            taken = np.zeros(len(s.conf), np.bool_)
            taken[partner[hit]] = True
            area = np.sqrt(np.prod((boxes[:, 2:] - boxes[:, :2]).astype(np.float64), 1))
            for k in range(classes):
                conf[k].append(s.conf[s.labels == k].astype(np.float64))
                right[k].append(taken[s.labels == k])
                size[k].append(area[labels == k])
                found[k].append(hit[labels == k])
                overlaps[k] += overlap[hit & (labels == k)].tolist()
        joined = [
            [np.concatenate([np.zeros(0), *part]) for part in table] for table in (conf, size)
        ]
        flags = [
            [np.concatenate([np.zeros(0, np.bool_), *part]) for part in table]
            for table in (right, found)
        ]
        return cls(
            [_Curve.measure(joined[0][k], flags[0][k], True) for k in range(classes)],
            [_Curve.measure(joined[1][k], flags[1][k], False) for k in range(classes)],
            [float(np.quantile(o, 0.1)) if len(o) >= 10 else SAME_PLACE for o in overlaps],
            classes,
        )

    def chance(self, s: Seen) -> FloatArray:
        """How surely each prediction is right."""
        p = np.zeros(len(s.conf))
        for k in range(self.classes):
            mine = s.labels == k
            p[mine] = self.precision[k](s.conf[mine])
        return p

    def support(self, views: Sequence[Seen], box: Box, kind: int | None) -> FloatArray:
        """What each view has for an object of class `kind` (None: of any) in a place, 0 to 1."""
        here = np.array([box], np.float32)
        found = []
        for s in views:
            mine = np.ones(len(s.conf), np.bool_) if kind is None else s.labels == kind
            if not mine.any():
                found.append(0.0)
                continue
            close = _closeness(_core.box_iou(here, s.xyxy[mine])[0])
            part = Seen(s.xyxy[mine], s.conf[mine], s.labels[mine])
            found.append(float((close * self.chance(part)).max()))
        return np.array(found)

    def look(self, image: str, record: Record, views: Sequence[Seen]) -> Iterator[_Suspicion]:
        """The suspicions on one image."""
        plain = views[0]
        keep = np.flatnonzero(~record.ignore)
        boxes, labels = record.boxes[keep], record.labels[keep]
        strong = np.flatnonzero(
            (self.chance(plain) >= STRONG) & ~_in_regions(plain.xyxy, record.boxes[record.ignore])
        )
        strong_boxes, strong_labels = plain.xyxy[strong], plain.labels[strong]
        partner, overlap = _core.match_labels(
            boxes, labels, strong_boxes, strong_labels, SAME_PLACE, NEAR
        )
        used: set[int] = set()
        for i, (j, iou) in enumerate(zip(partner.tolist(), overlap.tolist(), strict=True)):
            box, kind, at = _as_box(boxes[i]), int(labels[i]), int(keep[i])
            if j >= 0 and (strong_labels[j] == kind or iou >= SAME_PLACE):
                used.add(j)
                p = int(strong[j])
                model = (_as_box(plain.xyxy[p]), int(plain.labels[p]), float(plain.conf[p]))
                yield self._paired(image, views, at, box, kind, model, iou)
            else:
                yield self._spurious(image, views, at, box, kind)
        for j, p in enumerate(strong.tolist()):
            if j not in used:
                model = (_as_box(plain.xyxy[p]), int(plain.labels[p]), float(plain.conf[p]))
                yield self._missing(image, views, model, boxes)

    def _paired(
        self,
        image: str,
        views: Sequence[Seen],
        at: int,
        box: Box,
        kind: int,
        model: tuple[Box, int, float],
        iou: float,
    ) -> _Suspicion:
        evidence = self.support(views, model[0], model[1])
        sure = float(evidence.mean())
        if model[1] != kind:
            own = float(self.support(views, box, kind).mean())
            score, reason = sure * (1 - own), "class"
            text = f"IoU {iou:.2f}"
        else:
            usual = self.usual_iou[kind]
            far = min(max((usual - iou) / max(usual - NEAR, 0.01), 0.0), 1.0)
            score, reason = sure * far, "location"
            text = f"IoU {iou:.2f}, {usual:.2f} is usual"
        span = float(np.ptp(evidence))
        return _Suspicion(image, reason, score, at, box, kind, model, span, text)

    def _spurious(
        self, image: str, views: Sequence[Seen], at: int, box: Box, kind: int
    ) -> _Suspicion:
        side = float(np.sqrt((box[2] - box[0]) * (box[3] - box[1])))
        finds = float(self.recall[kind](side))
        evidence = self.support(views, box, None)
        score = finds * (1 - float(evidence.mean()))
        text = f"the model finds {finds:.0%} of such labels"
        return _Suspicion(
            image, "spurious", score, at, box, kind, None, float(np.ptp(evidence)), text
        )

    def _missing(
        self,
        image: str,
        views: Sequence[Seen],
        model: tuple[Box, int, float],
        boxes: npt.NDArray[np.float32],
    ) -> _Suspicion:
        box, kind, _ = model
        evidence = self.support(views, box, kind)
        covered = 0.0
        if len(boxes):
            covered = float(_closeness(_core.box_iou(np.array([box], np.float32), boxes)).max())
        score = float(evidence.mean()) * (1 - covered)
        text = f"such predictions are right in {evidence[0]:.0%}"
        span = float(np.ptp(evidence))
        return _Suspicion(image, "missing", score, None, box, kind, model, span, text)


def _as_box(values: npt.NDArray[np.float32]) -> Box:
    x0, y0, x1, y1 = values.tolist()
    return x0, y0, x1, y1


def _in_regions(
    boxes: npt.NDArray[np.float32], regions: npt.NDArray[np.float32]
) -> npt.NDArray[np.bool_]:
    """Which boxes lie in an ignored region by half of their area or more."""
    low = np.maximum(boxes[:, None, :2], regions[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], regions[None, :, 2:])
    inside = np.maximum(high - low, 0).prod(2)
    area = np.maximum(boxes[:, 2:] - boxes[:, :2], 0).prod(1)
    found: npt.NDArray[np.bool_] = (inside >= 0.5 * area[:, None]).any(1)
    return found


# ---- blur -----------------------------------------------------------------------------------


def _sharpness(pixels: npt.NDArray[np.uint8], box: Box) -> float:
    """Energy of the Laplacian over the energy of the contrast in a box; 0 for a flat one.

    The ratio, not the energy: a faint object in focus is not blurred.
    """
    x0, y0 = int(box[0]), int(box[1])
    x1, y1 = int(np.ceil(box[2])), int(np.ceil(box[3]))
    crop = pixels[max(y0, 0) : y1, max(x0, 0) : x1, 1].astype(np.float64)
    if min(crop.shape) < BLUR_SIDE_PX:
        return float("nan")
    middle = crop[1:-1, 1:-1]
    edges = crop[:-2, 1:-1] + crop[2:, 1:-1] + crop[1:-1, :-2] + crop[1:-1, 2:] - 4 * middle
    contrast = float(crop.var())
    return float(edges.var()) / contrast if contrast > 1 else 0.0


def _mark_blurred(suspicions: list[_Suspicion], named: Mapping[str, Record]) -> None:
    """Marks suspicions whose place is less sharp than nearly all labels of its class."""
    by_image: dict[str, list[int]] = {}
    for i, s in enumerate(suspicions):
        by_image.setdefault(s.image, []).append(i)
    usual: dict[int, list[float]] = {}
    own: dict[int, float] = {}
    for image, members in by_image.items():
        record = named[image]
        pixels = decode(record.path, say_frames=False)
        for box, kind in zip(record.boxes, record.labels.tolist(), strict=True):
            usual.setdefault(kind, []).append(_sharpness(pixels, _as_box(box)))
        for i in members:
            own[i] = _sharpness(pixels, suspicions[i].box)
    limit = {
        k: np.nanquantile(v, BLUR_QUANTILE)
        for k, v in usual.items()
        if np.isfinite(v).sum() >= 1 / BLUR_QUANTILE
    }
    for i, value in own.items():
        if value < limit.get(suspicions[i].kind, -1.0):
            suspicions[i] = suspicions[i]._replace(blurred=True)


# ---- the result -----------------------------------------------------------------------------


def _ranking(
    data: Source,
    named: Mapping[str, Record],
    names: Sequence[str],
    suspicions: Sequence[_Suspicion],
) -> Ranking:
    images, categories = images_of(data, named, names)
    q = Ranking(["label", "model"], list(names), categories, SAME_PLACE, images, [], [])
    doubted = {(s.image, s.label) for s in suspicions if s.label is not None}
    for name, record in named.items():
        rows = zip(record.boxes, record.labels.tolist(), record.ignore.tolist(), strict=True)
        q.agreed += [
            Agreed(name, names[k], _as_box(box), ignore)
            for i, (box, k, ignore) in enumerate(rows)
            if (name, i) not in doubted
        ]
    for s in suspicions:
        q.disputes.append(_dispute(len(q.disputes) + 1, s, names))
    return q


def _dispute(id: int, s: _Suspicion, names: Sequence[str]) -> Dispute:
    candidates = []
    if s.label is not None:
        candidates.append(Candidate(s.box, names[s.kind], "label"))
    if s.model is not None:
        box, kind, conf = s.model
        candidates.append(Candidate(box, names[kind], "model", round(conf, 4)))
    reason, text = s.reason, s.text
    suggestion: int | str = "drop" if s.reason == "spurious" else len(candidates) - 1
    if s.span > WAVER or s.blurred:
        why = "blurred" if s.blurred else "the model wavers"
        reason, text, suggestion = "ambiguous", f"{s.reason}? {why}; {text}", "ignore"
    return Dispute(id, s.image, reason, tuple(candidates), suggestion, round(s.score, 4), text)
