"""Where the average precision is lost, and whether confidences can be believed.

`errors` sorts a detector's mistakes into the six kinds of TIDE (Bolya et al. 2020) and tells how
much AP each costs; `calibration` compares confidences with how often they are right. Both look at
IoU 0.5.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deepseek_det import _core
from deepseek_det.metrics import Array, Boxes, Floats, Ints, Params

KINDS = ("classification", "localization", "both", "duplicate", "background", "missed")
"""Names of the errors; a detection's kind is its position here plus one, 0 is right."""

_CLASSIFICATION, _LOCALIZATION, _BOTH, _DUPLICATE, _BACKGROUND = range(1, 6)
RIGHT, LEFT_OUT = 0, 255


@dataclass(frozen=True, slots=True, eq=False)
class Errors:
    """The mistakes of a detector at IoU 0.5.

    ap: AP at IoU 0.5. cost: by name of `KINDS`, the AP that is gained when these errors alone are
    put right. counts: how many there are. kind: (n,) of each detection, 0 right, 1 to 5 a place in
    KINDS plus one, 255 left out (in a crowd). target: (n,) the object that a detection is about, -1
    for none. missed: (m,) objects that nothing accounts for.
    """

    ap: float
    cost: dict[str, float]
    counts: dict[str, int]
    kind: Array
    target: Ints
    missed: Array

    def worst_images(self, boxes: Boxes, limit: int = 8) -> list[int]:
        """Images with the most grievous errors, worst first: a false detection counts its
        confidence, a missed object one. Images without an error are not among them."""
        badness = np.zeros(boxes.n_images)
        wrong = (self.kind > RIGHT) & (self.kind < LEFT_OUT)
        np.add.at(badness, boxes.detection_image[wrong], boxes.detection_score[wrong])
        np.add.at(badness, boxes.object_image[self.missed], 1.0)
        order = np.argsort(-badness, kind="stable")[:limit]
        return [int(i) for i in order if badness[i] > 0]


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """Reliability of the confidences: of the detections in each bin, how many are right.

    edges: (B + 1,) of the bins. confidence, precision: (B,) means, NaN for an empty bin. counts:
    (B,). error: the expected calibration error, the mean gap weighted by count.
    """

    edges: Floats
    confidence: Floats
    precision: Floats
    counts: Ints
    error: float


def _matches(boxes: Boxes) -> Ints:
    """Of each detection the object that COCO's rule gives it at IoU 0.5, -1 for none."""
    most = max(1, len(boxes.detection_score))
    params = Params.make(iou=[0.5], areas=[[0, 1e10]], area_names=["all"], max_det=[most])
    objects, detections, _, match = _core.coco_match(
        boxes.n_images,
        boxes.n_classes,
        boxes.objects(),
        boxes.detections(),
        params.core(),
        boxes.extra,
    )
    out = np.full(len(boxes.detection_score), -1, np.int64)
    places = match[:, 0, 0]
    hit = places >= 0
    out[detections[hit]] = objects[places[hit]]
    return out


def _iou(a: Floats, b: Floats) -> Floats:
    """(n, m) IoU of boxes x, y, w, h."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, :2] + a[:, None, 2:], b[None, :, :2] + b[None, :, 2:])
    both = np.clip(high - low, 0, None).prod(2)
    whole = a[:, None, 2:].prod(2) + b[None, :, 2:].prod(2) - both
    return np.where(both > 0, both / np.where(whole > 0, whole, 1), 0.0)


def _kinds_of_image(
    iou: Floats, same: Array, free: Array, foreground: float, background: float
) -> tuple[Array, Ints]:
    """Kinds and targets of an image's false detections, from their IoUs (n, m) with its objects.

    same: (n, m) of the same class; free: (m,) objects that no right detection has.
    """
    n = len(iou)
    kind = np.full(n, _BOTH, np.uint8)
    target = np.full(n, -1, np.int64)
    own = np.where(same, iou, 0.0)
    others = np.where(same, 0.0, iou)
    best_own, best_other = own.max(1, initial=0.0), others.max(1, initial=0.0)
    if iou.shape[1]:
        target = np.where(best_own >= background, own.argmax(1), others.argmax(1))
    # In TIDE's order: the first that fits.
    taken = (np.where(same & ~free[None], iou, 0.0).max(1, initial=0.0)) >= foreground
    rules = (
        (_LOCALIZATION, (best_own >= background) & (best_own < foreground)),
        (_CLASSIFICATION, best_other >= foreground),
        (_DUPLICATE, taken),
        (_BACKGROUND, np.maximum(best_own, best_other) < background),
    )
    undecided = np.ones(n, bool)
    for name, fits in rules:
        kind[undecided & fits] = name
        undecided &= ~fits
    wrong_class = (kind == _CLASSIFICATION) & (n > 0)
    if iou.shape[1]:
        target = np.where(wrong_class, others.argmax(1), target)
    target[(kind == _BACKGROUND) | (kind == _BOTH)] = -1
    return kind, target


def _average_precision(
    label: Array, score: Floats, right: Array, counts: Ints, recalls: Floats
) -> float:
    """Mean over the classes that have objects; right: bool of each detection that counts."""
    order = np.argsort(-score, kind="stable")
    label, right = label[order], right[order]
    out = []
    for k in np.flatnonzero(counts):
        hits = right[label == k]
        tp = np.cumsum(hits)
        precision = tp / np.arange(1, len(hits) + 1) if len(hits) else np.zeros(0)
        best = np.maximum.accumulate(precision[::-1])[::-1]
        at = np.searchsorted(tp / counts[k], recalls)
        out.append(np.where(at < len(best), np.append(best, 0.0)[np.minimum(at, len(best))], 0.0))
    return float(np.mean(out)) if out else 0.0


class _Fixes:
    """AP after each kind of error has been put right."""

    def __init__(self, boxes: Boxes, kind: Array, target: Ints, missed: Array) -> None:
        self.label = boxes.detection_class.astype(np.int64)
        self.score = boxes.detection_score
        self.kind, self.target, self.missed = kind, target, missed
        self.object_label = boxes.object_class
        counts = ~np.asarray(boxes.object_crowd, bool) & (boxes.object_class >= 0)
        self.counts = np.bincount(boxes.object_class[counts], minlength=boxes.n_classes)
        self.recalls = Params().recall

    def ap(self, fixed: int | None = None) -> float:
        """AP; fixed: the kind that is put right, 6 for missed objects."""
        keep = self.kind != LEFT_OUT
        right = self.kind == RIGHT
        label, counts = self.label, self.counts
        if fixed in (_CLASSIFICATION, _LOCALIZATION):
            # The best of an object's mistaken detections finds it now, if nothing else did.
            chosen = np.flatnonzero(self.kind == fixed)
            found = set(self.target[right & keep].tolist())
            label, right = label.copy(), right.copy()
            for i in chosen[np.argsort(-self.score[chosen], kind="stable")].tolist():
                goal = int(self.target[i])
                if goal in found:
                    keep[i] = False
                    continue
                found.add(goal)
                label[i], right[i] = self.object_label[goal], True
        elif fixed == len(KINDS):
            lost = np.bincount(self.object_label[self.missed], minlength=len(counts))
            counts = counts - lost
        elif fixed is not None:
            keep = keep & (self.kind != fixed)
        return _average_precision(label[keep], self.score[keep], right[keep], counts, self.recalls)


def errors(boxes: Boxes, foreground: float = 0.5, background: float = 0.1) -> Errors:
    """Sorts the mistakes of a detector on a set of images.

    boxes: the set, as `Metrics.boxes` holds it. A detection that COCO's rule gives no object is, in
    this order: localization, if it overlaps an object of its class by `background` IoU or more but
    not by `foreground`; classification, if it overlaps one of another class by `foreground`;
    duplicate, if its object is found already; background, if it overlaps nothing by `background`;
    both otherwise. An object that is neither found nor the target of a localization or
    classification error is missed.

    >>> from deepseek_det.metrics import evaluate_detections
    >>> box = np.array([[0, 0, 10, 10], [50, 50, 10, 10]], np.float32)
    >>> box[:, 2:] += box[:, :2]
    >>> found = (box[:1] + 3, [0.9], [0])
    >>> made = errors(evaluate_detections([(box, [0, 0], None)], [found], ["disk"]).boxes)
    >>> made.counts["localization"], made.counts["missed"]
    (1, 1)
    """
    match = _matches(boxes)
    crowd = np.asarray(boxes.object_crowd, bool)
    kind = np.zeros(len(match), np.uint8)
    kind[(boxes.detection_image < 0) | (boxes.detection_class < 0)] = LEFT_OUT
    hit = match >= 0
    kind[hit] = np.where(crowd[match[hit]], LEFT_OUT, RIGHT)
    found = np.zeros(len(crowd), bool)
    found[match[hit]] = True
    target = match.copy()
    false = np.flatnonzero(~hit & (kind == RIGHT))
    by_image = false[np.argsort(boxes.detection_image[false], kind="stable")]
    images = boxes.detection_image[by_image]
    usable = np.flatnonzero(~crowd & (boxes.object_class >= 0) & (boxes.object_image >= 0))
    usable = usable[np.argsort(boxes.object_image[usable], kind="stable")]
    owner = boxes.object_image[usable]
    for image in np.unique(images):
        rows = by_image[slice(*np.searchsorted(images, [image, image + 1]))]
        objects = usable[slice(*np.searchsorted(owner, [image, image + 1]))]
        iou = _iou(boxes.detection_box[rows], boxes.object_box[objects])
        same = boxes.detection_class[rows][:, None] == boxes.object_class[objects][None]
        kind[rows], place = _kinds_of_image(iou, same, ~found[objects], foreground, background)
        target[rows] = np.where(place >= 0, objects[place] if len(objects) else -1, -1)
    about = np.isin(kind, (_CLASSIFICATION, _LOCALIZATION))
    covered = found.copy()
    covered[target[about & (target >= 0)]] = True
    missed = ~covered & ~crowd & (boxes.object_class >= 0) & (boxes.object_image >= 0)
    fixes = _Fixes(boxes, kind, target, missed)
    ap = fixes.ap()
    counts = {name: int((kind == i).sum()) for i, name in enumerate(KINDS[:-1], 1)}
    counts["missed"] = int(missed.sum())
    cost = {name: max(0.0, fixes.ap(i) - ap) for i, name in enumerate(KINDS, 1)}
    return Errors(ap, cost, counts, kind, target, missed)


def calibration(boxes: Boxes, bins: int = 10) -> Calibration:
    """How far confidences can be believed: bins of equal width from 0 to 1.

    A detection is right where COCO's rule gives it an object at IoU 0.5; those in crowds are left
    out. Raises ValueError unless bins is at least 1.

    >>> from deepseek_det.metrics import evaluate_detections
    >>> box = np.array([[0, 0, 10, 10]], np.float32)
    >>> m = evaluate_detections([(box, [0], None)], [(box, [0.8], [0])], ["disk"])
    >>> round(calibration(m.boxes).error, 2)
    0.2
    """
    if bins < 1:
        raise ValueError(f"calibration: bins is {bins}, at least 1 is needed")
    match = _matches(boxes)
    crowd = np.asarray(boxes.object_crowd, bool)
    hit = match >= 0
    used = (boxes.detection_image >= 0) & (boxes.detection_class >= 0)
    used[hit] &= ~crowd[match[hit]]
    score = np.clip(boxes.detection_score[used], 0, 1)
    right = hit[used].astype(float)
    at = np.minimum((score * bins).astype(np.int64), bins - 1)
    counts = np.bincount(at, minlength=bins)
    with np.errstate(invalid="ignore"):
        confidence = np.bincount(at, score, bins) / counts
        precision = np.bincount(at, right, bins) / counts
    some = counts > 0
    gap = np.abs(confidence[some] - precision[some])
    error = float((gap * counts[some]).sum() / max(1, counts.sum()))
    return Calibration(np.linspace(0, 1, bins + 1), confidence, precision, counts, error)
