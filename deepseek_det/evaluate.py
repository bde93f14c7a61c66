"""Evaluation by the rules that papers report: COCO, VOC, and torchmetrics' way of feeding it.

The COCO figures equal pycocotools' to the last bit; the VOC ones follow the development kit.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from deepseek_det import mask
from deepseek_det._coco_api import COCO
from deepseek_det._coco_eval import COCOeval, init_as_pycocotools
from deepseek_det._coco_input import (
    SIGMAS,
    Columns,
    Source,
    array_columns,
    boxes,
    check_defects,
    check_type,
    file_columns,
    mask_set,
    positions,
    read,
    set_sizes,
    source_name,
)
from deepseek_det._lvis import LvisResult, lvis
from deepseek_det._voc import VocResult, voc
from deepseek_det.errors import Error
from deepseek_det.metrics import (
    Array,
    Boxes,
    Floats,
    Ints,
    Metrics,
    Params,
    evaluate_detections,
    flatten,
    keypoint_stats,
    summary_lines,
    xywh,
)

__all__ = [
    "COCO",
    "COCOeval",
    "CocoResult",
    "Evaluator",
    "LvisResult",
    "Metrics",
    "Params",
    "VocResult",
    "coco",
    "evaluate_detections",
    "init_as_pycocotools",
    "lvis",
    "mask",
    "voc",
]

# ---- COCO files


def _chosen(wanted: Sequence[int] | None, ids: Ints, what: str) -> Ints:
    """The ids to evaluate, ascending: all, or the given ones that exist."""
    if wanted is None:
        return np.sort(ids)
    chosen = np.unique(np.asarray(wanted, np.int64))
    unknown = chosen[~np.isin(chosen, ids)]
    if unknown.size:
        raise ValueError(f"coco: {what} {unknown[0]} is not in the ground truth")
    return chosen


def _read_truth(source: Any) -> tuple[Any, Columns]:
    """The ground truth's file and its annotations."""
    name = source_name(source, "ground truth")
    file = read(source, name, False)
    for section in ("images", "annotations", "categories"):
        if section not in file["sections"]:
            raise Error(f"{name}: there is no list {section!r}, a COCO ground truth needs it")
    check_defects(file, name, False)
    return file, file_columns(file, name, False)


def _read_results(source: Any, images: Any, iou_type: str) -> Columns:
    """Results of any source; images: the ground truth's, which polygons are drawn into."""
    if isinstance(source, np.ndarray):
        return array_columns(source)
    name = source_name(source, "results")
    file = read(source, name, True)
    check_defects(file, name, True)
    columns = file_columns(file, name, True)
    if iou_type == "segm" or columns.segmentation_bytes.any():
        set_sizes(columns, images["id"], images["height"], images["width"])
    return columns


@dataclass(frozen=True, slots=True, eq=False)
class CocoResult:
    """Figures of one results file, as pycocotools' COCOeval holds them.

    stats: (12,) AP AP50 AP75 APs APm APl AR1 AR10 AR100 ARs ARm ARl; of keypoints (10,) AP AP50
    AP75 APm APl AR AR50 AR75 ARm ARl. precision and scores:
    (T, R, K, A, M), recall: (T, K, A, M) over IoU thresholds, recalls, categories, area ranges and
    max_det of `params`; -1 where a category has no object. names and category_ids belong to K.
    """

    stats: Floats
    precision: Floats
    recall: Floats
    scores: Floats
    params: Params
    image_ids: list[int]
    category_ids: list[int]
    names: list[str]
    iou_type: str = "bbox"

    def summarize(self) -> str:
        """The lines as pycocotools prints them: twelve, ten of keypoints."""
        return "\n".join(summary_lines(self.stats, self.params, self.iou_type))


def coco(
    gt_json: Source,
    dt_json: Source,
    iou_type: str = "bbox",
    *,
    params: Params | None = None,
    image_ids: Sequence[int] | None = None,
    category_ids: Sequence[int] | None = None,
    compatible: bool = False,
    sigmas: Any = None,
) -> CocoResult:
    """COCO's figures of a results file, equal to pycocotools' to the last bit.

    gt_json: ground truth; a path, the file's bytes or the loaded dictionary. dt_json: results
    {image_id, category_id, score, and bbox, segmentation or keypoints}; a path, bytes, the loaded
    list, or an (n, 7) array image_id, x, y, w, h, score, category_id. Boxes are x, y, w, h in
    pixels. iou_type: "bbox", "segm" (polygons or run lengths) or "keypoints". An annotation without
    an area gets its box's. params: other thresholds (`Params.make`); image_ids, category_ids: a
    part of the ground truth. sigmas: (k,) spreads of keypoints, COCO's 17 by default. compatible:
    an annotation of id 0 is never matched, as in pycocotools (its matches look like "unmatched"
    there); by default it is treated like any other, with a warning.

    Raises Error on a broken file, naming line and field (duplicate ids and results of unknown
    images among them), OSError where one cannot be read, ValueError on a broken parameter.
    Annotations and results of unknown categories are left out with a warning.

    >>> gt = {
    ...     "images": [{"id": 1, "width": 64, "height": 64, "file_name": "a.jpg"}],
    ...     "categories": [{"id": 7, "name": "disk"}],
    ...     "annotations": [
    ...         {"id": 1, "image_id": 1, "category_id": 7, "bbox": [8, 8, 16, 16], "area": 200}
    ...     ],
    ... }
    >>> dt = [{"image_id": 1, "category_id": 7, "bbox": [8, 8, 16, 14], "score": 0.9}]
    >>> coco(gt, dt).stats[:3].round(2).tolist()
    [0.8, 1.0, 1.0]
    """
    check_type("coco", iou_type)
    params = params or (Params.keypoints() if iou_type == "keypoints" else Params())
    file, truth = _read_truth(gt_json)
    all_images, all_categories = file["images"], file["categories"]
    images = _chosen(image_ids, all_images["id"], "image id")
    chosen = _chosen(category_ids, all_categories["id"], "category id")
    dt = _read_results(dt_json, all_images, iou_type)
    name = source_name(dt_json, "results")
    dt_at = positions(dt.image_id, images), positions(dt.category_id, chosen)
    here = dt_at[0]
    if image_ids is not None:
        here = positions(dt.image_id, np.sort(all_images["id"]))
    strangers = dt.image_id[here < 0]
    if strangers.size:
        raise Error(
            f"{name}: {strangers.size} results are of images that the ground "
            f"truth does not have, image_id {strangers[0]} the first"
        )
    if category_ids is None and (dt_at[1] < 0).any():
        warnings.warn(
            f"{int((dt_at[1] < 0).sum())} results are left out, their category_id is not in the "
            f"ground truth: {dt.category_id[dt_at[1] < 0][0]} the first",
            stacklevel=2,
        )
    if (truth.id == 0).any() and not compatible:
        warnings.warn(
            f"{truth.name}: an annotation has id 0; pycocotools would never count it as found, "
            "here it is treated like any other (compatible=True gives pycocotools' figure)",
            stacklevel=2,
        )
    both = boxes(
        truth,
        dt,
        iou_type,
        n_images=len(images),
        n_classes=len(chosen),
        truth_at=(positions(truth.image_id, images), positions(truth.category_id, chosen)),
        dt_at=dt_at,
        blank=truth.id == 0 if compatible else None,
        sigmas=sigmas,
    )
    precision, recall, scores, stats = both.evaluate(params)
    if iou_type == "keypoints":
        stats = keypoint_stats(precision, recall, params)
    by_id = dict(zip(all_categories["id"].tolist(), all_categories["name"], strict=True))
    return CocoResult(
        stats,
        precision,
        recall,
        scores,
        params,
        images.tolist(),
        chosen.tolist(),
        [by_id[i] or str(i) for i in chosen.tolist()],
        iou_type,
    )


# ---- torchmetrics' dictionaries


def _numpy(value: Any) -> Array:
    """An array of what came: NumPy, a list, or a tensor of any framework, on any device."""
    for step in ("detach", "cpu"):
        if hasattr(value, step):
            value = getattr(value, step)()
    return np.asarray(value)


def _take(item: Mapping[str, Any], key: str, who: str, count: int | None) -> Array:
    if key not in item:
        raise ValueError(f"{who}: there is no {key!r}, there are {sorted(item)}")
    out = _numpy(item[key]).reshape(-1)
    if count is not None and len(out) != count:
        raise ValueError(f"{who}: {len(out)} {key} came for {count} boxes")
    return out


class Evaluator:
    """Collects detections and ground truth batch by batch, like torchmetrics' MeanAveragePrecision.

    iou_type: "bbox"; "segm", whose items have masks (n, h, w); or "keypoints", whose items have
    keypoints (n, k, 3) x, y, visibility, with `sigmas` (k,), COCO's 17 by default. Both may go
    without boxes. box_format: "xyxy", "xywh" or "cxcywh", pixels. names: class names by label;
    labels may be any integers and those that occur are the classes. The thresholds are
    torchmetrics' arguments.

    >>> ev = Evaluator()
    >>> box = np.array([[0.0, 0, 10, 10]])
    >>> ev.update([{"boxes": box, "scores": [0.9], "labels": [3]}], [{"boxes": box, "labels": [3]}])
    >>> round(ev.compute()["map"], 6)
    1.0
    """

    def __init__(
        self,
        iou_type: str = "bbox",
        *,
        box_format: str = "xyxy",
        iou_thresholds: Sequence[float] | None = None,
        rec_thresholds: Sequence[float] | None = None,
        max_detection_thresholds: Sequence[int] | None = None,
        names: Mapping[int, str] | Sequence[str] | None = None,
        sigmas: Any = None,
    ) -> None:
        check_type("Evaluator", iou_type)
        if box_format not in ("xyxy", "xywh", "cxcywh"):
            raise ValueError(
                f"Evaluator: box_format is {box_format!r}, one of xyxy, xywh, cxcywh is needed"
            )
        self.box_format = box_format
        self.iou_type = iou_type
        self.sigmas = SIGMAS if sigmas is None else np.asarray(sigmas, np.float64)
        if iou_type == "keypoints" and max_detection_thresholds is None:
            max_detection_thresholds = [20]
        self.params = Params.make(iou_thresholds, rec_thresholds, max_det=max_detection_thresholds)
        self.names = names
        self.reset()

    def reset(self) -> None:
        """Forgets everything that was collected."""
        self._objects: list[tuple[Floats, Ints, Array, Floats]] = []  # box, label, crowd, area
        self._detections: list[tuple[Floats, Floats, Ints]] = []  # box, score, label
        self._shapes: tuple[list[Any], list[Any]] = [], []  # masks or keypoints of both sides

    def __len__(self) -> int:
        """Images collected so far."""
        return len(self._objects)

    def _shape(self, item: Mapping[str, Any], who: str) -> Any:
        """The item's masks as a list of run lengths, or its keypoints (n, 3k); None for boxes."""
        if self.iou_type == "bbox":
            return None
        key = "masks" if self.iou_type == "segm" else "keypoints"
        if key not in item:
            raise ValueError(f"{who}: there is no {key!r}, there are {sorted(item)}")
        raw = _numpy(item[key])
        if self.iou_type == "segm":
            if raw.size and raw.ndim != 3:
                raise ValueError(f"{who}: masks of shape {raw.shape} came, (n, h, w) is needed")
            return mask.encode(raw.transpose(1, 2, 0)) if raw.size else []
        k = len(self.sigmas)
        if raw.size and raw.shape[1:] != (k, 3):
            raise ValueError(f"{who}: keypoints of shape {raw.shape} came, (n, {k}, 3) is needed")
        return raw.reshape(-1, 3 * k).astype(np.float64)

    def _boxes(self, item: Mapping[str, Any], who: str, shape: Any = None) -> Floats:
        """The item's boxes as x, y, w, h; without any, those around its masks or keypoints."""
        if "boxes" not in item and shape is not None:
            if self.iou_type == "segm":
                return np.asarray(mask.toBbox(shape), np.float64).reshape(-1, 4)
            x, y = shape[:, 0::3], shape[:, 1::3]
            low = np.stack([x.min(1), y.min(1)], 1) if len(shape) else np.zeros((0, 2))
            high = np.stack([x.max(1), y.max(1)], 1) if len(shape) else low
            return np.concatenate([low, high - low], 1)
        if "boxes" not in item:
            raise ValueError(f"{who}: there is no 'boxes', there are {sorted(item)}")
        raw = _numpy(item["boxes"]).astype(np.float64)
        if raw.size and (raw.ndim != 2 or raw.shape[1] != 4):
            raise ValueError(f"{who}: boxes of shape {raw.shape} came, (n, 4) is needed")
        boxes = raw.reshape(-1, 4)
        if self.box_format == "xyxy":
            return xywh(boxes)
        if self.box_format == "cxcywh":
            boxes[:, :2] -= boxes[:, 2:] / 2
        return boxes

    def update(
        self, preds: Sequence[Mapping[str, Any]], targets: Sequence[Mapping[str, Any]]
    ) -> None:
        """Adds images.

        preds: {boxes (n, 4), scores (n,), labels (n,)}; targets: {boxes (m, 4), labels (m,)} and
        perhaps iscrowd (m,) and area (m,), where an area of 0 means the box's (the mask's); masks
        or keypoints as `iou_type` says. NumPy arrays, lists or tensors. Raises ValueError on
        missing keys or counts that do not fit; then nothing of this call is kept.
        """
        if len(preds) != len(targets):
            raise ValueError(f"update: {len(preds)} preds and {len(targets)} targets came")
        objects, detections = [], []
        shapes: tuple[list[Any], list[Any]] = [], []
        for i, (pred, target) in enumerate(zip(preds, targets, strict=True)):
            shape = self._shape(pred, f"update: preds[{i}]")
            boxes = self._boxes(pred, f"update: preds[{i}]", shape)
            self._keep_shape(shapes[1], shape, len(boxes), f"update: preds[{i}]")
            scores = _take(pred, "scores", f"update: preds[{i}]", len(boxes)).astype(np.float64)
            labels = _take(pred, "labels", f"update: preds[{i}]", len(boxes)).astype(np.int64)
            if np.isnan(scores).any():
                raise ValueError(f"update: preds[{i}]: a score is NaN")
            detections.append((boxes, scores, labels))
            who = f"update: targets[{i}]"
            shape = self._shape(target, who)
            boxes = self._boxes(target, who, shape)
            n = len(boxes)
            self._keep_shape(shapes[0], shape, n, who)
            labels = _take(target, "labels", who, n).astype(np.int64)
            crowd = _take(target, "iscrowd", who, n) if "iscrowd" in target else np.zeros(n)
            area = _take(target, "area", who, n) if "area" in target else np.zeros(n)
            own = mask.area(shape) if self.iou_type == "segm" else boxes[:, 2] * boxes[:, 3]
            area = np.where(area > 0, area, own).astype(np.float64)
            objects.append((boxes, labels, crowd.astype(bool), area))
        self._objects += objects
        self._detections += detections
        for kept, new in zip(self._shapes, shapes, strict=True):
            kept.extend(new)

    @staticmethod
    def _keep_shape(kept: list[Any], shape: Any, count: int, who: str) -> None:
        if shape is None:
            return
        if len(shape) != count:
            raise ValueError(f"{who}: {len(shape)} masks or keypoints came for {count} boxes")
        kept.extend(shape)

    def merge(self, other: Evaluator) -> Evaluator:
        """Appends the images of another evaluator (of another worker, say); returns itself."""
        if other.params.core()[4] != self.params.core()[4] or any(
            not np.array_equal(a, b)
            for a, b in zip(other.params.core()[:4], self.params.core()[:4], strict=True)
        ):
            raise ValueError("merge: the other evaluator has other thresholds")
        if other.iou_type != self.iou_type:
            raise ValueError(f"merge: {other.iou_type!r} does not go with {self.iou_type!r}")
        self._objects += other._objects
        self._detections += other._detections
        for kept, new in zip(self._shapes, other._shapes, strict=True):
            kept.extend(new)
        return self

    def _class_name(self, label: int) -> str:
        if isinstance(self.names, Mapping):
            return self.names.get(label, str(label))
        if self.names is not None and 0 <= label < len(self.names):
            return self.names[label]
        return str(label)

    def _extra(self) -> dict[str, Any] | None:
        """What masks and keypoints add to the boxes."""
        truth, found = self._shapes
        if self.iou_type == "segm":
            areas = mask.area(found) if found else np.zeros(0)
            return {
                "object_masks": mask_set(truth),
                "detection_masks": mask_set(found),
                "detection_area": np.asarray(areas, np.float64),
            }
        if self.iou_type == "keypoints":
            width = 3 * len(self.sigmas)
            sides = [np.array(side, np.float64).reshape(-1, width) for side in (truth, found)]
            return {
                "points": (*sides, (self.sigmas * 2) ** 2, np.exp),
                "ignore": ~(sides[0][:, 2::3] > 0).any(1),
            }
        return None

    def compute(self) -> Metrics:
        """The figures over all images so far; `compute()["map"]` and the like are torchmetrics'."""
        object_label, object_image = flatten([o[1] for o in self._objects], np.int64)
        label, image = flatten([d[2] for d in self._detections], np.int64)
        classes = np.unique(np.concatenate([object_label, label]))
        boxes = Boxes(
            n_images=len(self._objects),
            n_classes=len(classes),
            object_image=object_image,
            object_class=np.searchsorted(classes, object_label).astype(np.int32),
            object_box=flatten([o[0] for o in self._objects], np.float64)[0].reshape(-1, 4),
            object_area=flatten([o[3] for o in self._objects], np.float64)[0],
            object_crowd=flatten([o[2] for o in self._objects], np.bool_)[0],
            detection_image=image,
            detection_class=np.searchsorted(classes, label).astype(np.int32),
            detection_box=flatten([d[0] for d in self._detections], np.float64)[0].reshape(-1, 4),
            detection_score=flatten([d[1] for d in self._detections], np.float64)[0],
            extra=self._extra(),
        )
        ids = classes.tolist()
        names = [self._class_name(i) for i in ids]
        return Metrics.from_arrays(boxes, names, self.params, classes=ids)
