"""Figures of a detector on a set of images, from arrays: what `val` and the trainer report.

`evaluate_detections` takes boxes per image and gives `Metrics`. The figures are COCO's
(:mod:`deepseek_det.evaluate` has the same ones for COCO files).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from deepseek_det import _core

if TYPE_CHECKING:
    from deepseek_det.breakdown import Calibration, Errors

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Array = npt.NDArray[Any]

STATS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
_AREAS = ((0.0, 1e5**2), (0.0, 32.0**2), (32.0**2, 96.0**2), (96.0**2, 1e5**2))
_AREA_NAMES = ("all", "small", "medium", "large")
_KEYPOINT_AREAS = ("all", "medium", "large")


def _array(values: Any, what: str) -> Floats:
    out = np.ascontiguousarray(values, dtype=np.float64)
    if out.size == 0 or not np.isfinite(out).all():
        raise ValueError(f"{what}: finite numbers are needed, at least one; came {values!r}")
    return out


@dataclass(frozen=True, slots=True, eq=False)
class Params:
    """Thresholds of a COCO evaluation; the defaults are COCO's own.

    iou: (T,) thresholds. recall: (R,) where precision is read, ascending. areas: (A, 2) least and
    greatest object area in square pixels. area_names: A names; the figures by size look for
    "small", "medium" and "large". max_det: (M,) detections that count per image and class.

    >>> Params().max_det.tolist()
    [1, 10, 100]
    """

    iou: Floats = field(default_factory=lambda: np.linspace(0.5, 0.95, 10))
    recall: Floats = field(default_factory=lambda: np.linspace(0.0, 1.0, 101))
    areas: Floats = field(default_factory=lambda: np.array(_AREAS))
    area_names: tuple[str, ...] = _AREA_NAMES
    max_det: Ints = field(default_factory=lambda: np.array([1, 10, 100], np.int64))
    use_classes: bool = True

    @classmethod
    def make(
        cls,
        iou: Any = None,
        recall: Any = None,
        areas: Any = None,
        area_names: Sequence[str] | None = None,
        max_det: Any = None,
        use_classes: bool = True,
    ) -> Params:
        """Params with checks; None keeps COCO's value. Raises ValueError on a broken list."""
        base = cls()
        boxes = base.areas if areas is None else _array(areas, "area ranges")
        if boxes.ndim != 2 or boxes.shape[1] != 2:
            raise ValueError(f"area ranges: (A, 2) is needed, came {boxes.shape}")
        if area_names is None:
            area_names = _AREA_NAMES if len(boxes) == 4 else [str(i) for i in range(len(boxes))]
        if len(area_names) != len(boxes):
            raise ValueError(f"{len(area_names)} names came for {len(boxes)} area ranges")
        counts = base.max_det if max_det is None else np.sort(np.asarray(max_det).ravel())
        if counts.size == 0 or counts.dtype.kind not in "iu" or counts.min() < 1:
            raise ValueError(f"max_det: whole numbers of at least 1 are needed, came {max_det!r}")
        return cls(
            base.iou if iou is None else _array(iou, "iou thresholds").ravel(),
            base.recall if recall is None else np.sort(_array(recall, "recalls").ravel()),
            np.ascontiguousarray(boxes),
            tuple(area_names),
            np.ascontiguousarray(counts, np.int64),
            bool(use_classes),
        )

    @classmethod
    def keypoints(cls) -> Params:
        """COCO's own for keypoints: 20 detections an image, no small objects."""
        return cls.make(areas=_AREAS[:1] + _AREAS[2:], area_names=_KEYPOINT_AREAS, max_det=[20])

    def core(self) -> tuple[Floats, Floats, Floats, Ints, bool]:
        """The tuple that the C functions take."""
        return self.iou, self.recall, self.areas, self.max_det, self.use_classes

    def area_index(self, name: str) -> int:
        """Position of a named area range, -1 if there is none."""
        return self.area_names.index(name) if name in self.area_names else -1

    def named_areas(self) -> tuple[int, int, int, int]:
        """Positions of COCO's four ranges."""
        a, s, m, b = (self.area_index(name) for name in _AREA_NAMES)
        return a, s, m, b


@dataclass(frozen=True, slots=True, eq=False)
class Boxes:
    """All boxes of a set in flat arrays, as the C evaluator takes them.

    Images and classes are positions in [0, n_images) and [0, n_classes); -1 leaves a box out.
    Boxes are (n, 4) float64 x, y, w, h. crowd marks regions that are ignored; blank marks objects
    whose match does not count (None: none does).
    """

    n_images: int
    n_classes: int
    object_image: Array
    object_class: Array
    object_box: Floats
    object_area: Floats
    object_crowd: Array
    detection_image: Array
    detection_class: Array
    detection_box: Floats
    detection_score: Floats
    object_blank: Array | None = None
    extra: dict[str, Any] | None = None  # what masks, keypoints and LVIS add

    def objects(self) -> tuple[Any, ...]:
        """The tuple that the C functions take for the ground truth."""
        return (
            self.object_image,
            self.object_class,
            self.object_box,
            self.object_area,
            self.object_crowd,
            self.object_blank,
        )

    def detections(self) -> tuple[Any, ...]:
        """The tuple that the C functions take for the detections."""
        return (
            self.detection_image,
            self.detection_class,
            self.detection_box,
            self.detection_score,
        )

    def evaluate(self, params: Params) -> tuple[Floats, Floats, Floats, Floats]:
        """precision (T,R,K,A,M), recall (T,K,A,M), scores (T,R,K,A,M) and COCO's twelve figures."""
        core = params.core()
        precision, recall, scores = _core.coco_evaluate(
            self.n_images, self.n_classes, self.objects(), self.detections(), core, self.extra
        )
        stats = _core.coco_stats(core, self.n_classes, params.named_areas(), precision, recall)
        return precision, recall, scores, stats


def _mean(values: Floats) -> float:
    """Mean of what counts (above -1); NaN where nothing does."""
    valid = values[values > -1]
    return float(valid.mean()) if valid.size else float("nan")


def _keypoint_rows() -> list[tuple[int, float | None, str, int]]:
    """pycocotools' ten figures of keypoints: precision?, IoU, area, max_det."""
    kinds = ((None, "all"), (0.5, "all"), (0.75, "all"), (None, "medium"), (None, "large"))
    return [(ap, iou, area, 20) for ap in (1, 0) for iou, area in kinds]


def keypoint_stats(precision: Floats, recall: Floats, params: Params) -> Floats:
    """AP AP50 AP75 APm APl AR AR50 AR75 ARm ARl at 20 detections an image; -1: nothing counts."""
    out = []
    for ap, iou, area, count in _keypoint_rows():
        s = precision if ap else recall
        if iou is not None:
            s = s[np.flatnonzero(params.iou == iou)]
        a = [i for i, name in enumerate(params.area_names) if name == area]
        m = [i for i, most in enumerate(params.max_det) if most == count]
        valid = s[..., a, m][s[..., a, m] > -1]
        out.append(float(valid.mean()) if valid.size else -1.0)
    return np.array(out)


def summary_lines(stats: Floats, params: Params, iou_type: str = "bbox") -> list[str]:
    """The lines that pycocotools prints, word for word: twelve, ten of keypoints."""
    m = params.max_det
    last = int(m[2] if len(m) > 2 else m[-1])
    whole = f"{params.iou[0]:0.2f}:{params.iou[-1]:0.2f}"
    if iou_type == "keypoints":
        rows = [
            (ap, whole if iou is None else f"{iou:0.2f}", area, count)
            for ap, iou, area, count in _keypoint_rows()
        ]
    else:
        rows = [(1, whole, "all", 100), (1, "0.50", "all", last), (1, "0.75", "all", last)]
        rows += [(1, whole, name, last) for name in _AREA_NAMES[1:]]
        rows += [(0, whole, "all", int(m[min(i, len(m) - 1)])) for i in range(3)]
        rows += [(0, whole, name, last) for name in _AREA_NAMES[1:]]
    kinds = (("Average Recall", "(AR)"), ("Average Precision", "(AP)"))
    return [
        f" {kinds[ap][0]:<18} {kinds[ap][1]} @[ IoU={iou_text:<9} | area={area:>6s} | "
        f"maxDets={count:>3d} ] = {value:0.3f}"
        for (ap, iou_text, area, count), value in zip(rows, stats, strict=True)
    ]


@dataclass(frozen=True, slots=True, eq=False)
class Metrics:
    """What a detector reached on a set of images.

    stats: (12,) COCO's AP AP50 AP75 APs APm APl AR1 AR10 AR100 ARs ARm ARl; -1: nothing counts.
    names: the K classes. per_class: K rows {name, objects, detections, ap, ap50, ap75, ar}, NaN
    where a class has no object. confusion: (K+1, K+1) counts, row true, column detected, the last
    of each is the background. precision (T,R,K,A,M), recall (T,K,A,M), scores (T,R,K,A,M): the
    curves at every threshold of `params`. Reads like a dictionary with torchmetrics' names, too.

    >>> box, one = np.array([[0, 0, 10, 10]], np.float32), np.array([0])
    >>> m = evaluate_detections([(box, one, None)], [(box, np.array([0.9]), one)], ["disk"])
    >>> round(m.ap, 6), round(m["map_50"], 6), m.confusion.tolist()
    (1.0, 1.0, [[1, 0], [0, 0]])
    """

    stats: Floats
    names: list[str]
    per_class: list[dict[str, Any]]
    confusion: Ints
    precision: Floats
    recall: Floats
    scores: Floats
    params: Params
    classes: list[int]
    boxes: Boxes | None = None  # what was evaluated: errors, calibration, worst images

    @classmethod
    def from_arrays(
        cls,
        boxes: Boxes,
        names: Sequence[str],
        params: Params | None = None,
        *,
        conf: float = 0.25,
        iou: float = 0.5,
        classes: Sequence[int] | None = None,
    ) -> Metrics:
        """Evaluates flat arrays.

        names: one for each of boxes.n_classes. conf, iou: thresholds of the confusion matrix.
        classes: original ids of the classes, 0..K-1 by default. Raises ValueError on an index out
        of range or a score that is NaN.
        """
        params = params or Params()
        if len(names) != boxes.n_classes:
            raise ValueError(f"Metrics: {len(names)} names came for {boxes.n_classes} classes")
        precision, recall, scores, stats = boxes.evaluate(params)
        if 100 not in params.max_det:  # pycocotools would say -1 for AP
            stats[0] = np.nan_to_num(_mean(precision[:, :, :, 0, -1]), nan=-1.0)
        confusion = _core.confusion_count(
            boxes.n_images, boxes.n_classes, boxes.objects(), boxes.detections(), conf, iou
        )
        return cls(
            stats,
            list(names),
            _class_rows(boxes, names, precision, recall, params),
            confusion,
            precision,
            recall,
            scores,
            params,
            list(range(boxes.n_classes) if classes is None else classes),
            boxes,
        )

    def errors(self) -> Errors:
        """The mistakes by kind (classification, localization, both, duplicate, background, missed)
        and the AP that each costs; see `deepseek_det.breakdown.errors`."""
        from deepseek_det.breakdown import errors

        if self.boxes is None:
            raise ValueError("errors: these figures were made without their boxes")
        return errors(self.boxes)

    def calibration(self, bins: int = 10) -> Calibration:
        """How far confidences can be believed; see `deepseek_det.breakdown.calibration`."""
        from deepseek_det.breakdown import calibration

        if self.boxes is None:
            raise ValueError("calibration: these figures were made without their boxes")
        return calibration(self.boxes, bins)

    def __repr__(self) -> str:
        return f"Metrics(ap={self.ap:.3f}, ap50={self.ap50:.3f}, {len(self.names)} classes)"

    def __str__(self) -> str:
        return f"{self.summarize()}\n{self.table()}"

    @property
    def ap(self) -> float:
        """Mean average precision over IoU 0.50 to 0.95."""
        return float(self.stats[0])

    @property
    def ap50(self) -> float:
        """Mean average precision at IoU 0.50."""
        return float(self.stats[1])

    @property
    def ap75(self) -> float:
        """Mean average precision at IoU 0.75."""
        return float(self.stats[2])

    def curves(self, iou: float = 0.5) -> dict[str, Floats]:
        """Precision over recall at one IoU threshold, for plots.

        Returns recall (R,), precision (K, R) and confidence (K, R): the score down to which one
        must go for that recall (0 where it is not reached). NaN rows for classes without objects.
        Raises ValueError unless `iou` is among params.iou.
        """
        t = np.flatnonzero(np.isclose(self.params.iou, iou))
        if t.size == 0:
            raise ValueError(f"curves: IoU {iou} was not evaluated, {self.params.iou} were")
        precision = self.precision[t[0], :, :, 0, -1].T.copy()
        confidence = self.scores[t[0], :, :, 0, -1].T.copy()
        confidence[precision < 0] = np.nan
        precision[precision < 0] = np.nan
        return {"recall": self.params.recall, "precision": precision, "confidence": confidence}

    def summarize(self) -> str:
        """The twelve lines as pycocotools prints them."""
        return "\n".join(summary_lines(self.stats, self.params))

    def table(self) -> str:
        """A table by class: objects, AP, AP50, AP75 and AR in text."""
        width = max([5, *(len(name) for name in self.names)])
        lines = [f"{'class':<{width}} {'objects':>8} {'AP':>6} {'AP50':>6} {'AP75':>6} {'AR':>6}"]
        for row in self.per_class:
            figures = " ".join(f"{row[key]:>6.3f}" for key in ("ap", "ap50", "ap75", "ar"))
            lines.append(f"{row['name']:<{width}} {row['objects']:>8} {figures}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: the twelve figures by name, per_class, confusion; NaN is None."""
        rows = [
            {k: None if isinstance(v, float) and np.isnan(v) else v for k, v in row.items()}
            for row in self.per_class
        ]
        figures = {name: float(value) for name, value in zip(STATS, self.stats, strict=True)}
        return {
            "ap": self.ap,
            "ap50": self.ap50,
            "ap75": self.ap75,
            "stats": figures,
            "names": list(self.names),
            "per_class": rows,
            "confusion": self.confusion.tolist(),
        }

    # ---- torchmetrics' names

    def keys(self) -> list[str]:
        """The names that `metrics[name]` knows: torchmetrics' and those of to_dict."""
        m = [int(n) for n in self.params.max_det]
        sizes = ("small", "medium", "large")
        keys = ["map", "map_50", "map_75", *(f"map_{size}" for size in sizes)]
        keys += [f"mar_{n}" for n in m] + [f"mar_{size}" for size in sizes]
        return [*keys, "map_per_class", f"mar_{m[-1]}_per_class", "classes"]

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __getitem__(self, name: str) -> Any:
        """A figure by torchmetrics' name, or an entry of `to_dict()`."""
        fixed = ("map", "map_50", "map_75", "map_small", "map_medium", "map_large")
        if name in fixed:
            return float(self.stats[fixed.index(name)])
        if name in ("mar_small", "mar_medium", "mar_large"):
            return float(self.stats[9 + ("mar_small", "mar_medium", "mar_large").index(name)])
        if name == "classes":
            return np.array(self.classes, np.int64)
        if name == "map_per_class":
            return np.nan_to_num([row["ap"] for row in self.per_class], nan=-1.0)
        last = int(self.params.max_det[-1])
        if name == f"mar_{last}_per_class":
            return np.nan_to_num([row["ar"] for row in self.per_class], nan=-1.0)
        for i, count in enumerate(self.params.max_det):
            if name == f"mar_{count}":
                return float(np.nan_to_num(_mean(self.recall[:, :, 0, i]), nan=-1.0))
        plain = self.to_dict()
        if name in plain:
            return plain[name]
        raise KeyError(f"{name!r} is no figure; there are {', '.join(self.keys())}")


def _class_rows(
    boxes: Boxes, names: Sequence[str], precision: Floats, recall: Floats, params: Params
) -> list[dict[str, Any]]:
    """One row of figures a class, at all sizes and the largest max_det."""
    if not params.use_classes:
        return []
    objects = (boxes.object_class >= 0) & ~np.asarray(boxes.object_crowd, bool)
    counts = np.bincount(boxes.object_class[objects], minlength=boxes.n_classes)
    given = boxes.detection_class[boxes.detection_class >= 0]
    detections = np.bincount(given, minlength=boxes.n_classes)
    at = {key: np.flatnonzero(params.iou == iou) for key, iou in (("ap50", 0.5), ("ap75", 0.75))}
    rows = []
    for k, name in enumerate(names):
        row: dict[str, Any] = {"name": name, "objects": int(counts[k])}
        row["detections"] = int(detections[k])
        row["ap"] = _mean(precision[:, :, k, 0, -1])
        for key, t in at.items():
            row[key] = _mean(precision[t, :, k, 0, -1])
        row["ar"] = _mean(recall[:, k, 0, -1])
        rows.append(row)
    return rows


def xywh(xyxy: Any) -> Floats:
    """Corners to x, y, w, h, in float64; an empty list is (0, 4)."""
    out = np.array(xyxy, np.float64).reshape(-1, 4)
    out[:, 2:] -= out[:, :2]
    return out


def flatten(parts: Sequence[Any], dtype: Any) -> tuple[Array, Array]:
    """Lists of per-image values to one flat array, and the image of each value."""
    arrays = [np.asarray(part).reshape(-1) for part in parts]
    image = np.repeat(np.arange(len(arrays), dtype=np.int32), [len(a) for a in arrays])
    return np.concatenate([*arrays, np.empty(0, dtype)]).astype(dtype), image


def _check_counts(what: str, boxes: Sequence[Any], *others: tuple[str, Sequence[Any]]) -> None:
    """Every image needs as many of each field as it has boxes."""
    for name, parts in others:
        for i, (box, part) in enumerate(zip(boxes, parts, strict=True)):
            if np.size(box) != 4 * np.size(part):
                raise ValueError(
                    f"{what} of image {i}: boxes of shape {np.shape(box)} and {name} of shape "
                    f"{np.shape(part)} came, (n, 4) and (n,) are needed"
                )


def _check_labels(what: str, labels: Array, image: Array, n_classes: int) -> Array:
    wrong = np.flatnonzero((labels < 0) | (labels >= n_classes))
    if wrong.size:
        at = int(wrong[0])
        raise ValueError(
            f"{what} of image {int(image[at])}: class {int(labels[at])} came, "
            f"there are {n_classes} classes"
        )
    return labels.astype(np.int32)


def evaluate_detections(
    targets: Sequence[tuple[Any, Any, Any]],
    detections: Sequence[tuple[Any, Any, Any]],
    names: Sequence[str],
    params: Params | None = None,
    *,
    conf: float = 0.25,
    iou: float = 0.5,
) -> Metrics:
    """Figures of detections against ground truth, image by image.

    targets: per image (boxes (n, 4) xyxy, labels (n,), ignore (n,) bool or None); an ignored box is
    a region where detections are not counted (COCO's crowd). detections: per image (boxes (m, 4)
    xyxy, conf (m,), cls (m,)), in any order. names: the classes. conf, iou: thresholds of the
    confusion matrix. Object sizes are the areas of the boxes, in square pixels as given.
    Raises ValueError on counts that do not fit, a class out of range or a NaN score.

    >>> box = np.array([[0, 0, 10, 10]], np.float32)
    >>> truth = [(box, [1], None)]
    >>> evaluate_detections(truth, [(box + 1, [0.8], [1])], ["disk", "star"]).stats[:3].round(2)
    array([0.4, 1. , 0. ])
    """
    if len(targets) != len(detections):
        raise ValueError(
            f"evaluate_detections: {len(targets)} targets and {len(detections)} detections came"
        )
    t_boxes = [t[0] for t in targets]
    crowds = [np.zeros(np.size(t[1]), bool) if t[2] is None else t[2] for t in targets]
    t_labels = [t[1] for t in targets]
    d_boxes = [d[0] for d in detections]
    d_scores, d_labels = [d[1] for d in detections], [d[2] for d in detections]
    _check_counts("targets", t_boxes, ("labels", t_labels), ("ignore", crowds))
    _check_counts("detections", d_boxes, ("conf", d_scores), ("cls", d_labels))
    object_class, object_image = flatten(t_labels, np.int64)
    detection_class, detection_image = flatten(d_labels, np.int64)
    object_box = xywh(flatten(t_boxes, np.float64)[0])
    boxes = Boxes(
        n_images=len(targets),
        n_classes=len(names),
        object_image=object_image,
        object_class=_check_labels("targets", object_class, object_image, len(names)),
        object_box=object_box,
        object_area=object_box[:, 2] * object_box[:, 3],
        object_crowd=flatten(crowds, np.bool_)[0],
        detection_image=detection_image,
        detection_class=_check_labels("detections", detection_class, detection_image, len(names)),
        detection_box=xywh(flatten(d_boxes, np.float64)[0]),
        detection_score=flatten(d_scores, np.float64)[0],
    )
    return Metrics.from_arrays(boxes, names, params, conf=conf, iou=iou)
