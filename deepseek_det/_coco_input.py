"""What the COCO evaluators take: files, dictionaries and arrays as columns, masks and keypoints.

`Columns` is one side, ground truth or results, a row an annotation, whatever it came from; `boxes`
puts two sides together for the C evaluator.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from deepseek_det import _core
from deepseek_det.errors import Error
from deepseek_det.metrics import Array, Boxes, Floats, Ints

Source = str | os.PathLike[str] | bytes | Mapping[str, Any] | Sequence[Any] | Array

IOU_TYPES = ("bbox", "segm", "keypoints")

_SPREADS = (0.26, 0.25, 0.25, 0.35, 0.35, 0.79, 0.79, 0.72, 0.72, 0.62, 0.62, 1.07, 1.07)
SIGMAS = np.array((*_SPREADS, 0.87, 0.87, 0.89, 0.89)) / 10.0
"""COCO's spread of each of the 17 human keypoints, relative to the object's size."""

# Defects of a ground truth that leave its figures as they are in pycocotools.
_HARMLESS = {("images", "width"), ("images", "height"), ("images", "file_name")}
_HARMLESS |= {("categories", "name")}
_DROPPED = {"unknown_image": "images", "unknown_category": "categories"}


def check_type(who: str, iou_type: str) -> None:
    """Raises ValueError unless the evaluators know this type."""
    if iou_type not in IOU_TYPES:
        raise ValueError(
            f"{who}: iou_type is {iou_type!r}, one of {', '.join(IOU_TYPES)} is needed"
        )


@dataclass(slots=True, eq=False)
class Columns:
    """One side as columns of n rows.

    image_id, category_id, id: (n,) as given. box: (n, 4) xywh, NaN without one. area: (n,), NaN
    where unknown. score, crowd, num_keypoints: (n,) or None. height, width: (n,) of the row's
    image, 0 where unknown. The places of masks and keypoints are offsets in `text`, JSON with a NUL
    byte at its end; their bytes are 0 where there is none.
    """

    name: str
    image_id: Any
    category_id: Any
    id: Any
    box: Floats
    area: Floats
    text: Array
    segmentation_at: Array
    segmentation_bytes: Array
    keypoints_at: Array
    keypoints_bytes: Array
    score: Floats | None = None
    crowd: Array | None = None
    num_keypoints: Array | None = None
    height: Array = field(default_factory=lambda: np.zeros(0, np.int32))
    width: Array = field(default_factory=lambda: np.zeros(0, np.int32))

    def __len__(self) -> int:
        return len(self.box)

    def masks(self) -> tuple[Any, Floats, Floats]:
        """The set of masks for the C evaluator, areas (n,) and boxes (n, 4) of the masks."""
        return _core.mask_set(
            self.name,
            self.text,
            self.segmentation_at,
            self.segmentation_bytes,
            self.height,
            self.width,
            self.box,
        )

    def points(self, count: int = 0) -> Floats:
        """Keypoints (n, count) x, y, visibility; zeros where a row has none; 0: as the first."""
        return _core.points_read(
            self.name, self.text, self.keypoints_at, self.keypoints_bytes, count
        )


# ---- files


def plain(value: Any) -> Any:
    """NumPy values within a loaded dictionary, for json."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, bytes):  # counts of a mask
        return value.decode("ascii", "replace")
    raise TypeError(f"a value of type {type(value).__name__} came, plain data is needed")


def source_name(source: Any, kind: str) -> str:
    """How messages call a source: its path, or its kind."""
    return os.fspath(source) if isinstance(source, str | os.PathLike) else kind


def read(source: Any, kind: str, results: bool) -> Any:
    """A file, its bytes, or what json.load made of it, through the one strict reader."""
    if not isinstance(source, str | os.PathLike | bytes):
        try:
            source = json.dumps(source, default=plain, allow_nan=False).encode()
        except (TypeError, ValueError) as error:
            raise Error(f"{kind}: {error}") from None
        return _core.coco_read(source, results, kind, True)
    return _core.coco_read(source, results, kind if isinstance(source, bytes) else None, True)


def _defect_text(name: str, defect: tuple[str, str, int, int, str, str]) -> str:
    section, reason, index, line, field_name, value = defect
    what = f" is {value}" if value else ""
    return f"{name}:{line}: {section}[{index}]: {reason}: {field_name}{what}"


def check_defects(file: Any, name: str, results: bool, level: int = 4) -> None:
    """Refuses what would make the figures wrong; warns of what pycocotools leaves out silently."""
    where = "results" if results else "annotations"
    fatal = [
        d
        for d in file["defects"]
        if (d[0], d[4]) not in _HARMLESS and (d[1] not in _DROPPED or d[0] != "annotations")
    ]
    if fatal:
        lines = [_defect_text(name, d) for d in fatal[:5]]
        more = f"\n... {len(fatal)} in all" if len(fatal) > 5 else ""
        raise Error("\n".join(lines) + more)
    for reason, section in _DROPPED.items():
        count = file["defect_counts"].get(("annotations", reason), 0)
        if count:
            first = next(d for d in file["defects"] if d[1] == reason)
            warnings.warn(
                f"{count} {where} are left out, they belong to no entry of {section}: "
                f"{_defect_text(name, first)}",
                stacklevel=level,
            )


def file_columns(file: Any, name: str, results: bool) -> Columns:
    """The annotations of what the reader gave."""
    rows = file["annotations"]
    sides: dict[str, Array] = {}
    if not results:
        for side in ("height", "width"):
            sizes = file["images"][side]
            sides[side] = sizes[rows["image"]] if len(sizes) else np.zeros(0, np.int32)
    n = len(rows["box"])
    none = np.zeros(n, np.uint64), np.zeros(n, np.uint32)  # results without masks or keypoints
    return Columns(
        name=name,
        image_id=rows["image_id"],
        category_id=rows["category_id"],
        id=np.arange(1, n + 1) if results else rows["id"],
        box=rows["box"],
        area=np.full(n, np.nan) if results else rows["area"],
        text=file["text"],
        segmentation_at=rows.get("segmentation_at", none[0]),
        segmentation_bytes=rows.get("segmentation_bytes", none[1]),
        keypoints_at=rows.get("keypoints_at", none[0]),
        keypoints_bytes=rows.get("keypoints_bytes", none[1]),
        score=rows["score"] if results else None,
        crowd=None if results else rows["crowd"],
        num_keypoints=None if results else rows["num_keypoints"],
        **sides,
    )


def array_columns(source: Array, name: str = "results") -> Columns:
    """Results of an (n, 7) array image_id x y w h score category_id, what loadRes takes."""
    if source.ndim != 2 or source.shape[1] != 7 or not np.isfinite(source).all():
        raise ValueError(
            f"coco: an array of results needs (n, 7) finite numbers image_id x y w h score "
            f"category_id, came {source.shape}"
        )
    table = np.ascontiguousarray(source, np.float64)
    ids = table[:, [0, 6]].astype(np.int64)
    n = len(table)
    none = np.zeros(n, np.uint64), np.zeros(n, np.uint32)
    return Columns(
        name=name,
        image_id=ids[:, 0],
        category_id=ids[:, 1],
        id=np.arange(1, n + 1),
        box=table[:, 1:5].copy(),
        area=np.full(n, np.nan),
        text=np.zeros(1, np.uint8),
        segmentation_at=none[0],
        segmentation_bytes=none[1],
        keypoints_at=none[0],
        keypoints_bytes=none[1],
        score=table[:, 5].copy(),
    )


def _places(values: list[Any]) -> tuple[list[bytes], Array, Array]:
    """JSON pieces of the values that are there, and the pieces' offsets and lengths."""
    pieces = [b"" if v is None else json.dumps(v, default=plain).encode() for v in values]
    lengths = np.array([len(p) for p in pieces], np.int64)
    return pieces, (np.cumsum(lengths) - lengths).astype(np.uint64), lengths.astype(np.uint32)


def dict_columns(
    annotations: Sequence[Mapping[str, Any]], name: str, iou_type: str, results: bool
) -> Columns:
    """Columns of annotations in memory, which may have ids of any type; what pycocotools would miss
    is a KeyError here, too."""
    segm = [a.get("segmentation") if iou_type == "segm" else None for a in annotations]
    points = [a.get("keypoints") if iou_type == "keypoints" else None for a in annotations]
    masks, mask_at, mask_bytes = _places(segm)
    keys, key_at, key_bytes = _places(points)
    before = np.uint64(sum(len(m) for m in masks))
    none = [np.nan] * 4
    box = [a["bbox"] if iou_type == "bbox" else a.get("bbox") for a in annotations]
    return Columns(
        name=name,
        image_id=[a["image_id"] for a in annotations],
        category_id=[a["category_id"] for a in annotations],
        id=np.array([a["id"] for a in annotations], np.int64),
        box=np.array([none if b is None or len(b) == 0 else b for b in box], np.float64).reshape(
            -1, 4
        ),
        area=np.array([a["area"] for a in annotations], np.float64),
        text=np.frombuffer(b"".join([*masks, *keys, b"\0"]), np.uint8),
        segmentation_at=mask_at,
        segmentation_bytes=mask_bytes,
        keypoints_at=key_at + before,
        keypoints_bytes=key_bytes,
        score=np.array([a["score"] for a in annotations], np.float64) if results else None,
        crowd=None
        if results
        else np.array([bool(a.get("iscrowd", 0)) for a in annotations], np.bool_),
        num_keypoints=np.array([a.get("num_keypoints", -1) for a in annotations], np.int32),
    )


def mask_set(rles: list[dict[str, Any]]) -> Any:
    """The set of masks for the C evaluator of masks in memory."""
    pieces, at, lengths = _places(rles)
    h, w = (np.array([r["size"][i] for r in rles], np.int32) for i in (0, 1))
    text = np.frombuffer(b"".join([*pieces, b"\0"]), np.uint8)
    box = np.full((len(rles), 4), np.nan)
    return _core.mask_set("masks", text, at, lengths, h, w, box)[0]


# ---- positions and sizes


def positions(ids: Ints, sorted_ids: Ints) -> Array:
    """Place of each id in sorted_ids, -1 where it is not there."""
    return _core.id_positions(ids, sorted_ids)


def places(ids: Any, chosen: Any) -> Any:
    """Place of each id among the chosen ones (in their order), -1 where it is not there."""
    if isinstance(ids, np.ndarray) and ids.dtype.kind == "i":
        wanted = np.asarray(chosen)
        if wanted.dtype.kind in "iu" and wanted.size:
            order = np.argsort(wanted, kind="stable")
            at = positions(ids, wanted[order].astype(np.int64))
            if (order == np.arange(len(order))).all():
                return at
            return np.where(at < 0, -1, order[at]).astype(np.int32)
    places = {value: i for i, value in reversed(list(enumerate(chosen)))}
    return np.array([places.get(value, -1) for value in ids], np.int32)


def set_sizes(columns: Columns, ids: Ints, height: Array, width: Array) -> None:
    """Gives the rows their images' sizes; ids: (m,) of the images, in any order."""
    order = np.argsort(ids, kind="stable")
    at = positions(np.asarray(columns.image_id, np.int64), ids[order])
    known = at >= 0
    rows = order[at] if len(order) else np.zeros(len(at), np.int64)
    columns.height = np.where(known, height[rows] if len(order) else 0, 0).astype(np.int32)
    columns.width = np.where(known, width[rows] if len(order) else 0, 0).astype(np.int32)


# ---- both sides


def _results_extent(dt: Columns) -> tuple[Floats, Floats, Any]:
    """Boxes, areas and masks (or None) of results, by pycocotools' rule: the first result decides.

    With a box, areas are the boxes'; with a mask alone, the mask's; with keypoints alone, those of
    the box around all of them.
    """
    box, area = dt.box, dt.area
    masks = None
    missing = np.isnan(box[:, 0])
    if missing.any():
        if dt.segmentation_bytes[missing].any():
            masks, mask_area, mask_box = dt.masks()
        else:
            points = dt.points().reshape(len(dt), -1, 3)
            x, y = points[:, :, 0], points[:, :, 1]
            low = np.stack([x.min(1), y.min(1)], 1)
            mask_box = np.concatenate([low, np.stack([x.max(1), y.max(1)], 1) - low], 1)
            mask_area = mask_box[:, 2] * mask_box[:, 3]
        box = np.where(missing[:, None], mask_box, box)
        area = np.where(np.isnan(area) & missing, mask_area, area)
    if np.isnan(area).any():
        area = np.where(np.isnan(area), box[:, 2] * box[:, 3], area)
    return box, area, masks


def boxes(
    truth: Columns,
    dt: Columns,
    iou_type: str,
    *,
    n_images: int,
    n_classes: int,
    truth_at: tuple[Array, Array],
    dt_at: tuple[Array, Array],
    blank: Array | None = None,
    sigmas: Floats | None = None,
) -> Boxes:
    """Both sides as the C evaluator takes them.

    truth_at, dt_at: positions (image, class) of the rows, -1 leaves one out. blank: as in Boxes.
    sigmas: (k,) of keypoints. Raises Error on masks or keypoints that are broken.
    """
    extra: dict[str, Any] = {}
    dt_box, dt_area, dt_masks = _results_extent(dt)
    extra["detection_area"] = dt_area
    truth_area, truth_box = truth.area, truth.box
    if iou_type == "segm":
        extra["object_masks"], mask_area, mask_box = truth.masks()
        extra["detection_masks"] = dt.masks()[0] if dt_masks is None else dt_masks
        lost = np.isnan(truth_box[:, 0])
        truth_box = np.where(lost[:, None], mask_box, truth_box)
        truth_area = np.where(np.isnan(truth_area), mask_area, truth_area)
    if iou_type == "keypoints":
        given = SIGMAS if sigmas is None else np.asarray(sigmas, np.float64)
        width = 3 * len(given)
        points = truth.points(width)
        extra["points"] = (points, dt.points(width), (given * 2) ** 2, np.exp)
        visible = (points[:, 2::3] > 0).sum(1)
        stated = truth.num_keypoints if truth.num_keypoints is not None else np.full(len(truth), -1)
        extra["ignore"] = np.where(stated >= 0, stated, visible) == 0
    truth_area = np.where(np.isnan(truth_area), truth_box[:, 2] * truth_box[:, 3], truth_area)
    crowd = truth.crowd if truth.crowd is not None else np.zeros(len(truth), np.bool_)
    return Boxes(
        n_images=n_images,
        n_classes=n_classes,
        object_image=truth_at[0],
        object_class=truth_at[1],
        object_box=truth_box,
        object_area=truth_area,
        object_crowd=crowd,
        object_blank=blank,
        detection_image=dt_at[0],
        detection_class=dt_at[1],
        detection_box=dt_box,
        detection_score=dt.score if dt.score is not None else np.zeros(0),
        extra=extra,
    )
