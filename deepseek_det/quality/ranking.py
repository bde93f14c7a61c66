"""Labels that a model doubts, worst first.

Each image's labels are matched with the confident predictions, one to one and optimally as in
`cross_check`. What does not fit is a suspicion with evidence, from 0 to 1:

- missing: a prediction without a label. Its confidence, less as a label covers its place, and less
  where the image has many more like it: there somebody stopped labelling, or the model invents.
- spurious: a label without a prediction. What weak predictions of its class lack of supporting it.
- location: label and prediction of one class. How far even the view that fits best is from the
  label.
- class: label and prediction of different classes in one place. The confidence for the other class,
  less what supports the label's own.

The evidence is a mean over the views (plain, mirrored, scaled), so that a single odd look counts
less. Where the model wavers between them, or the image is blurred, a suspicion is "ambiguous":
nobody is clearly wrong, and leaving the place out of the loss is suggested.

Evidence of one kind is not worth what the same number of another kind is. So scores come from a
rehearsal: errors of all kinds are planted into a copy of the labels (the predictions stay as they
are, their makers have not seen these labels), and what share of the suspicions of a kind and
strength then points at a planted error is the score, for the rate of errors that is assumed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import numpy as np
import numpy.typing as npt

from deepseek_det import _core
from deepseek_det.data.records import Record
from deepseek_det.errors import Error
from deepseek_det.quality.blur import blurred
from deepseek_det.quality.disputes import Agreed, Box, Candidate, CrossCheck, Dispute
from deepseek_det.quality.predictions import Predictions, Seen, predictions_of
from deepseek_det.quality.sets import Source, images_of, one_set

if TYPE_CHECKING:
    from deepseek_det.detector import Detector

FloatArray = npt.NDArray[np.float64]

NEAR, SAME_PLACE = 0.1, 0.5
"""IoU from which a label and a prediction may mean one object; from which they are in one place."""
BINS = 12
"""Steps of the curve from evidence to score."""
STRONG = 0.25
"""Predictions of this confidence are matched with the labels; weaker ones only support them."""
WAVER = 0.5
"""Span of the evidence over the views beyond which the model wavers."""


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
    min_score: float = 0.01,
    rate: float = 0.05,
    blur: bool = True,
    seed: int = 0,
) -> Ranking:
    """Labels that a model doubts, worst first.

    data: path or data set; all its splits. det_or_folds: predictions of `fold_predictions` (or
    their file), or a detector that was not trained on these labels: one that was repeats their
    errors. min_score: what is less suspicious is left out. rate: the share of labels that is
    assumed to be wrong, in equal parts of each kind; it moves the scores more than their order.
    blur: decode images to see where they are blurred. seed: of the rehearsal. Ignored regions are
    neither judged nor missing.
    Raises Error where classes or images do not fit, ValueError on min_score and rate.
    """
    if not 0 <= min_score <= 1:
        raise ValueError(f"rank: min_score is {min_score}, 0 to 1 was needed")
    if not 0 < rate < 1:
        raise ValueError(f"rank: rate is {rate}, a share between 0 and 1 was needed")
    named, names = one_set(data, "rank")
    predictions = _predictions(data, det_or_folds)
    views = [seen_on(predictions, n, names, "rank") for n in named]
    curves = _rehearse(list(named.values()), views, len(names), rate, seed)
    found = [
        s
        for (name, record), seen in zip(named.items(), views, strict=True)
        for s in _look(name, record, seen)
    ]
    found.sort(key=lambda s: -s.score)  # what gets equal scores stays in the evidence's order
    suspicions = [s._replace(score=curves[s.reason](s.score)) for s in found]
    suspicions = [s for s in suspicions if s.score >= min_score]
    suspicions.sort(key=lambda s: -s.score)
    if blur:
        places = {
            r.path: [(_as_box(b), names[k]) for b, k in zip(r.boxes, r.labels, strict=True)]
            for r in named.values()
        }
        asked = [(named[s.image].path, (s.box, names[s.kind])) for s in suspicions]
        marks = blurred(asked, places)
        suspicions = [s._replace(blurred=m) for s, m in zip(suspicions, marks, strict=True)]
    return _ranking(data, named, names, suspicions)


def _predictions(data: Source, given: Any) -> Predictions:
    if isinstance(given, Predictions):
        return given
    if isinstance(given, (str, os.PathLike)) and os.fspath(given).endswith(".json"):
        return Predictions.read(given)
    from deepseek_det.detector import Detector

    det = given if isinstance(given, Detector) else Detector(given)
    return predictions_of(det, data)


def seen_on(predictions: Predictions, image: str, names: Sequence[str], who: str) -> list[Seen]:
    """What is seen on an image, labels in the order of `names`. Raises Error where it has no
    predictions, or they are of other classes."""
    if image not in predictions.images:
        raise Error(f"{who}: there are no predictions for {image}")
    if not set(predictions.names) <= set(names):
        raise Error(f"{who}: predictions are of {predictions.names}, the data has {list(names)}")
    place = np.array([names.index(n) for n in predictions.names], np.int32)
    return [Seen(s.xyxy, s.conf, place[s.labels]) for s in predictions.images[image]]


# ---- what does not fit ----------------------------------------------------------------------


class _Suspicion(NamedTuple):
    image: str
    reason: str
    score: float  # the evidence, later the score
    label: int | None  # position in the record
    box: Box
    kind: int  # the label's class, or the prediction's
    model: tuple[Box, int, float] | None  # box, class and confidence of the prediction
    span: float  # of the support over the views
    text: str = ""
    blurred: bool = False


def _closeness(iou: npt.ArrayLike) -> FloatArray:
    """How far two boxes are one place: 0 up to an IoU of NEAR, 1 from SAME_PLACE on."""
    return np.clip((np.asarray(iou, np.float64) - NEAR) / (SAME_PLACE - NEAR), 0, 1)


def support(views: Sequence[Seen], box: Box, kind: int) -> FloatArray:
    """What each view has for an object of class `kind` in a place: the best confidence, less as
    the prediction lies apart."""
    here = np.array([box], np.float32)
    found = np.zeros(len(views))
    for v, s in enumerate(views):
        mine = s.labels == kind
        if mine.any():
            close = _closeness(_core.box_iou(here, s.xyxy[mine])[0])
            found[v] = (close * s.conf[mine]).max()
    return found


def fit(views: Sequence[Seen], box: Box, kind: int) -> FloatArray:
    """In each view the IoU of a box with the confident prediction of its class that fits best."""
    here = np.array([box], np.float32)
    best = np.zeros(len(views))
    for v, s in enumerate(views):
        mine = (s.labels == kind) & (s.conf >= STRONG)
        if mine.any():
            best[v] = _core.box_iou(here, s.xyxy[mine]).max()
    return best


def _look(image: str, record: Record, views: Sequence[Seen]) -> Iterator[_Suspicion]:
    """The suspicions on one image; their scores are the evidence."""
    plain = views[0]
    keep = np.flatnonzero(~record.ignore)
    boxes, labels = record.boxes[keep], record.labels[keep]
    regions = record.boxes[record.ignore]
    strong = np.flatnonzero((plain.conf >= STRONG) & ~_in_regions(plain.xyxy, regions))
    strong_labels = plain.labels[strong]
    partner, overlap = _core.match_labels(
        boxes, labels, plain.xyxy[strong], strong_labels, SAME_PLACE, NEAR
    )
    used: set[int] = set()
    for i, (j, iou) in enumerate(zip(partner.tolist(), overlap.tolist(), strict=True)):
        box, kind, at = _as_box(boxes[i]), int(labels[i]), int(keep[i])
        if j >= 0 and (strong_labels[j] == kind or iou >= SAME_PLACE):
            used.add(j)
            yield _paired(image, views, (at, box, kind), _prediction(plain, int(strong[j])), iou)
        else:
            found = support(views, box, kind)
            text = f"the model's best is {found.max():.2f}"
            score, span = 1 - float(found.mean()), float(np.ptp(found))
            yield _Suspicion(image, "spurious", score, at, box, kind, None, span, text)
    alone = [int(p) for j, p in enumerate(strong.tolist()) if j not in used]
    # One of many that lack a label is less telling than a single one.
    usual = (len(boxes) + 1) / (len(boxes) + 1 + len(alone))
    for p in alone:
        yield _missing(image, views, _prediction(plain, p), boxes, usual)


def _prediction(seen: Seen, i: int) -> tuple[Box, int, float]:
    return _as_box(seen.xyxy[i]), int(seen.labels[i]), float(seen.conf[i])


def _paired(
    image: str,
    views: Sequence[Seen],
    label: tuple[int, Box, int],
    model: tuple[Box, int, float],
    iou: float,
) -> _Suspicion:
    """A label and the prediction that it was matched with."""
    at, box, kind = label
    found = support(views, model[0], model[1])
    span, text = float(np.ptp(found)), f"IoU {iou:.2f}"
    if model[1] != kind:
        score = float(found.mean()) * (1 - float(support(views, box, kind).mean()))
        return _Suspicion(image, "class", score, at, box, kind, model, span, text)
    score = float(np.sqrt(found.mean())) * (1 - float(fit(views, box, kind).max()))
    return _Suspicion(image, "location", score, at, box, kind, model, span, text)


def _missing(
    image: str,
    views: Sequence[Seen],
    model: tuple[Box, int, float],
    boxes: npt.NDArray[np.float32],
    usual: float,
) -> _Suspicion:
    """A prediction that no label was matched with."""
    box, kind, _ = model
    found = support(views, box, kind)
    covered = _covered(box, boxes)
    score = float(found.mean()) * (1 - covered) * usual
    text = f"confidence {found.mean():.2f} over the views"
    return _Suspicion(image, "missing", score, None, box, kind, model, float(np.ptp(found)), text)


def _covered(box: Box, boxes: npt.NDArray[np.float32]) -> float:
    """The largest share of a box that one label covers."""
    if not len(boxes):
        return 0.0
    low, high = np.maximum(box[:2], boxes[:, :2]), np.minimum(box[2:], boxes[:, 2:])
    inside = float(np.maximum(high - low, 0).prod(1).max())
    return inside / max((box[2] - box[0]) * (box[3] - box[1]), 1e-9)


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


# ---- the rehearsal --------------------------------------------------------------------------

REHEARSED = 0.1
"""Share of the labels that get an error in a round of the rehearsal: few enough to leave their
surroundings as they are."""
REHEARSED_LABELS, MOST_ROUNDS = 3000, 20
"""A small set is rehearsed in as many rounds as it takes to have seen so many labels."""
FEW_HITS = 5
"""With fewer planted errors found, a kind has no curve: its score is half of its evidence."""
PLACES = 20
"""Tries to find a free place for an invented label."""


class _Score(NamedTuple):
    """Evidence → share of suspicions like it that point at an error; straight between points."""

    x: FloatArray
    share: FloatArray

    def __call__(self, x: float) -> float:
        return float(np.interp(x, self.x, self.share))


def _rehearse(
    records: Sequence[Record],
    views: Sequence[Sequence[Seen]],
    classes: int,
    rate: float,
    seed: int,
) -> dict[str, _Score]:
    """The score of each reason as a function of its evidence."""
    rng = np.random.Generator(np.random.Philox(seed))
    sizes = [r.boxes[:, 2:] - r.boxes[:, :2] for r in records]
    joined = np.concatenate([np.zeros((0, 2), np.float32), *sizes])
    evidence: dict[str, list[float]] = {r: [] for r in ("missing", "spurious", "location", "class")}
    hits: dict[str, list[bool]] = {r: [] for r in evidence}
    rounds = min(max(-(-REHEARSED_LABELS // max(len(joined), 1)), 1), MOST_ROUNDS)
    for record, seen in [*zip(records, views, strict=True)] * rounds:
        worse, places = _plant(rng, record, joined, classes)
        for s in _look("", worse, seen):
            evidence[s.reason].append(s.score)
            near = len(places) > 0
            near = near and _core.box_iou(np.array([s.box], np.float32), places).max() >= 0.3
            hits[s.reason].append(bool(near))
    return {r: _score(np.array(evidence[r]), np.array(hits[r], np.bool_), rate) for r in evidence}


def _score(x: FloatArray, hit: npt.NDArray[np.bool_], rate: float) -> _Score:
    """From (evidence, points at an error) to a rising curve, by steps of equally many hits."""
    if hit.sum() < FEW_HITS:
        return _Score(np.array([0.0, 1.0]), np.array([0.0, 0.5]))
    # The steps are cut at the hits, which are few and strong; what lies below the weakest is one.
    cuts = np.unique(np.quantile(x[hit], np.linspace(0, 1, BINS + 1)))
    step = np.searchsorted(cuts, x, "right")
    n = np.bincount(step, minlength=len(cuts) + 1).astype(np.float64)
    hits = np.bincount(step, hit.astype(np.float64), len(cuts) + 1)
    middle = np.bincount(step, x, len(cuts) + 1) / np.maximum(n, 1)
    seen = n > 0
    share = np.maximum.accumulate((hits[seen] + 0.5) / (n[seen] + 1))
    odds = share / (1 - share) * (rate / (1 - rate)) / (REHEARSED / (1 - REHEARSED))
    return _Score(middle[seen], odds / (1 + odds))


def _plant(
    rng: np.random.Generator, record: Record, sizes: npt.NDArray[np.float32], classes: int
) -> tuple[Record, npt.NDArray[np.float32]]:
    """The record with errors, and where they are (for a moved box both places)."""
    boxes, labels = record.boxes.copy(), record.labels.copy()
    kinds = ["missing", "spurious", "location", *(["class"] if classes > 1 else [])]
    limit = np.array([record.width, record.height], np.float32)
    drawn = rng.random(len(boxes)) < REHEARSED
    places: list[npt.NDArray[np.float32]] = []
    gone, extra = np.zeros(len(boxes), np.bool_), list[tuple[npt.NDArray[np.float32], int]]()
    for i in np.flatnonzero(drawn & ~record.ignore).tolist():
        kind = kinds[rng.integers(len(kinds))]
        if kind == "missing":
            gone[i] = True
            places.append(boxes[i])
        elif kind == "class":
            labels[i] = (labels[i] + rng.integers(1, classes)) % classes
            places.append(boxes[i])
        elif kind == "spurious":
            box = _free_place(rng, boxes, sizes, limit)
            if box is None:
                continue
            extra.append((box, int(rng.integers(classes))))
            places.append(box)
        else:
            size = boxes[i, 2:] - boxes[i, :2]
            shift = rng.uniform(-0.5, 0.5, 2) * size
            scale = rng.uniform(0.7, 1.4, 2)
            middle = (boxes[i, :2] + boxes[i, 2:]) / 2 + shift
            box = np.concatenate([middle - scale * size / 2, middle + scale * size / 2])
            box = np.clip(box, 0, np.tile(limit, 2)).astype(np.float32)
            if (box[2:] - box[:2]).min() < 1 or _core.box_iou(box[None], boxes[i : i + 1]) > 0.6:
                continue
            places += [boxes[i].copy(), box]
            boxes[i] = box
    keep = ~gone
    more = np.array([b for b, _ in extra], np.float32).reshape(-1, 4)
    changed = replace(
        record,
        boxes=np.concatenate([boxes[keep], more]),
        labels=np.concatenate([labels[keep], np.array([k for _, k in extra], np.int32)]),
        ignore=np.concatenate([record.ignore[keep], np.zeros(len(extra), np.bool_)]),
    )
    return changed, np.array(places, np.float32).reshape(-1, 4)


def _free_place(
    rng: np.random.Generator,
    boxes: npt.NDArray[np.float32],
    sizes: npt.NDArray[np.float32],
    limit: npt.NDArray[np.float32],
) -> npt.NDArray[np.float32] | None:
    """A box of a size that occurs, where no label is; None where there is hardly a place."""
    for _ in range(PLACES):
        size = np.minimum(sizes[rng.integers(len(sizes))], limit)
        low = (rng.random(2) * (limit - size)).astype(np.float32)
        box = np.concatenate([low, low + size]).astype(np.float32)
        if not len(boxes) or _core.box_iou(box[None], boxes).max() <= 0.2:
            return box
    return None


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
