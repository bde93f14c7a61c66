"""Operations on boxes: overlap, suppression, post-processing, best-possible recall.

Boxes are (n, 4) ``x0 y0 x1 y1`` in pixels, half-open, and are taken as float32. A box whose sides
are not both positive has no area: it overlaps nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from deepseek_det import _core
from deepseek_det.data.transforms import letterbox

__all__ = [
    "Detections",
    "best_possible_recall",
    "box_iou",
    "detect",
    "giou",
    "letterbox",
    "nms",
    "soft_nms",
]

FloatArray = npt.NDArray[np.float32]
NO_LIMIT = 2**31 - 1
COCO_SIZES = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, np.inf)}
"""COCO's object sizes by area in pixels of the original image, half-open."""


def _numbers(value: npt.ArrayLike, who: str) -> npt.NDArray[Any]:
    """`value` as an array of real numbers; TypeError when it is something else."""
    array = np.asarray(value)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{who}: an array of {array.dtype} came, real numbers were needed")
    return array


def _boxes(value: npt.ArrayLike, who: str) -> FloatArray:
    """`value` as (n, 4) float32; an empty list is no boxes."""
    array = _numbers(value, who)
    if array.size == 0 and array.ndim <= 2:
        array = np.zeros((0, 4), np.float32)
    if array.ndim != 2 or array.shape[1] != 4:
        raise ValueError(f"{who}: an array of shape {array.shape} came, (n, 4) was needed")
    return np.ascontiguousarray(array, np.float32)


def _vector(value: npt.ArrayLike, n: int, who: str) -> FloatArray:
    array = _numbers(value, who)
    if array.shape != (n,) and not (n == 0 and array.size == 0):
        raise ValueError(f"{who}: an array of shape {array.shape} came, ({n},) was needed")
    return np.ascontiguousarray(array.reshape(n), np.float32)


def _classes(value: npt.ArrayLike | None, n: int, who: str) -> npt.NDArray[np.int32] | None:
    """Any integers as int32 that are equal where they are."""
    if value is None:
        return None
    array = _numbers(value, who)
    if array.size == 0 and n == 0:
        return np.zeros(0, np.int32)
    if array.shape != (n,):
        raise ValueError(f"{who}: an array of shape {array.shape} came, ({n},) was needed")
    if array.dtype.kind == "f":
        if not np.all(array == np.floor(array)):
            raise ValueError(f"{who}: whole numbers were needed")
        return np.unique(array, return_inverse=True)[1].astype(np.int32)
    if array.dtype.itemsize > 2 and array.dtype != np.int32:
        return np.unique(array, return_inverse=True)[1].astype(np.int32)
    return array.astype(np.int32)


def _limit(max_det: int | None, who: str) -> int:
    if max_det is None:
        return NO_LIMIT
    if isinstance(max_det, bool) or not isinstance(max_det, int | np.integer):
        raise TypeError(f"{who}: max_det is {max_det!r}, an integer or None was needed")
    if max_det < 0:
        raise ValueError(f"{who}: max_det is {max_det}, 0 or more was needed")
    return min(int(max_det), NO_LIMIT)


def box_iou(a: npt.ArrayLike, b: npt.ArrayLike) -> FloatArray:
    """Intersection over union of every box of `a` with every box of `b`.

    a: (n, 4), b: (m, 4). Returns (n, m) float32, 0 where the union is empty.
    Raises ValueError on other shapes, TypeError on what is not numbers.

    >>> box_iou([[0, 0, 2, 2]], [[0, 0, 2, 2], [1, 0, 3, 2], [5, 5, 6, 6]]).round(3).tolist()
    [[1.0, 0.3330000042915344, 0.0]]
    """
    return _core.box_iou(_boxes(a, "box_iou: a"), _boxes(b, "box_iou: b"))


def giou(a: npt.ArrayLike, b: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Generalized IoU (Rezatofighi et al. 2019) of every box of `a` with every box of `b`.

    a: (n, 4), b: (m, 4). Returns (n, m) float64 in (-1, 1]. The loss of pairs, with its gradient,
    is `losses.giou_loss`. Raises like `box_iou`.

    >>> giou([[0, 0, 2, 2]], [[0, 0, 2, 2], [2, 2, 4, 4]]).tolist()
    [[1.0, -0.5]]
    """
    x, t = _boxes(a, "giou: a"), _boxes(b, "giou: b")
    pairs = np.broadcast_to(x[:, None], (len(x), len(t), 4)).reshape(-1, 4)
    others = np.broadcast_to(t[None], (len(x), len(t), 4)).reshape(-1, 4)
    none = np.zeros(0)
    values, _ = _core.loss("giou", pairs.astype(np.float64), others.astype(np.float64), none, 0)
    return (1 - values).reshape(len(x), len(t))


def nms(
    boxes: npt.ArrayLike,
    scores: npt.ArrayLike,
    iou_threshold: float,
    classes: npt.ArrayLike | None = None,
    max_det: int | None = None,
) -> npt.NDArray[np.int64]:
    """Greedy non-maximum suppression; the result is torchvision's.

    boxes: (n, 4); scores: (n,); classes: (n,) integers, boxes of different classes leave each
    other alone; None: one class. A box goes when its IoU with a kept better one is strictly above
    `iou_threshold`. Order and ties: score descending, then index ascending. A NaN box or score is
    never kept, a box without area never suppresses another.
    Returns the kept indices, int64, best first, at most `max_det`.
    Raises ValueError on shapes, a threshold outside [0, 1] or a negative max_det.

    >>> nms([[0, 0, 10, 10], [1, 0, 10, 10], [20, 20, 30, 30]], [0.8, 0.9, 0.3], 0.5).tolist()
    [1, 2]
    """
    b = _boxes(boxes, "nms: boxes")
    s = _vector(scores, len(b), "nms: scores")
    c = _classes(classes, len(b), "nms: classes")
    return _core.nms(b, s, c, iou_threshold, _limit(max_det, "nms"))


def soft_nms(
    boxes: npt.ArrayLike,
    scores: npt.ArrayLike,
    iou_threshold: float = 0.3,
    classes: npt.ArrayLike | None = None,
    max_det: int | None = None,
    *,
    method: Literal["gaussian", "linear"] = "gaussian",
    sigma: float = 0.5,
    min_score: float = 0.001,
) -> tuple[npt.NDArray[np.int64], FloatArray]:
    """Soft-NMS (Bodla et al. 2017): overlapping boxes lose score instead of being dropped.

    Arguments as for `nms`. A kept box multiplies the scores of the others of its class by
    ``exp(-IoU² / sigma)`` ("gaussian"), or by ``1 - IoU`` where the IoU is above `iou_threshold`
    ("linear"); boxes below `min_score` are left out.
    Returns the kept indices, best first, and their lowered scores.
    Raises ValueError as `nms` does, and on an unknown method or a sigma that is not positive.

    >>> keep, s = soft_nms([[0, 0, 10, 10], [0, 0, 10, 5]], [0.9, 0.8], method="linear")
    >>> keep.tolist(), s.round(2).tolist()
    ([0, 1], [0.8999999761581421, 0.4000000059604645])
    """
    if method not in ("gaussian", "linear"):
        raise ValueError(f'soft_nms: method is {method!r}, "gaussian" or "linear" was needed')
    b = _boxes(boxes, "soft_nms: boxes")
    s = _vector(scores, len(b), "soft_nms: scores")
    c = _classes(classes, len(b), "soft_nms: classes")
    limit = _limit(max_det, "soft_nms")
    return _core.soft_nms(b, s, c, method == "gaussian", iou_threshold, sigma, min_score, limit)


class Detections(NamedTuple):
    """A batch's detections with a fixed capacity; rows from ``counts[i]`` on are zero.

    counts: (N,) int32; boxes: (N, max_det, 4) float32 pixels of the original images; scores:
    (N, max_det) float32, descending; classes, anchors: (N, max_det) int32.
    """

    counts: npt.NDArray[np.int32]
    boxes: FloatArray
    scores: FloatArray
    classes: npt.NDArray[np.int32]
    anchors: npt.NDArray[np.int32]


def detect(
    logits: npt.ArrayLike,
    deltas: npt.ArrayLike,
    anchors: npt.ArrayLike,
    maps: npt.ArrayLike,
    *,
    conf: float = 0.25,
    iou: float = 0.7,
    max_det: int = 300,
    pre_nms: int = 4096,
    agnostic: bool = False,
    multi_label: bool = True,
) -> Detections:
    """From a network's raw outputs to detections in the original images, in one call for a batch.

    logits: (N, A, nc); deltas: (N, A, 4), centre and log-size relative to the anchors (A, 4);
    maps: (N, 5) ``scale, pad_x, pad_y, width, height``: an original pixel x came to the network at
    ``x * scale + pad_x``, and detections are clipped to width and height.
    conf: a score must be above it; iou: threshold of NMS, class-wise unless `agnostic`; pre_nms:
    best candidates an image that NMS looks at; multi_label: every class above conf makes a
    candidate, else an anchor's best class only. Order: score descending, then anchor, then class.
    Raises ValueError on shapes or values out of range.

    >>> out = detect([[[2.0], [1.0]]], np.zeros((1, 2, 4)), [[0, 0, 8, 8], [0, 0, 8, 9]],
    ...              [[0.5, 0, 0, 640, 480]])
    >>> out.counts.tolist(), out.boxes[0, 0].tolist()
    ([1], [0.0, 0.0, 16.0, 16.0])
    """
    counts, boxes, scores, classes, places = _core.detect(
        np.ascontiguousarray(logits, np.float32),
        np.ascontiguousarray(deltas, np.float32),
        _boxes(anchors, "detect: anchors"),
        np.ascontiguousarray(maps, np.float32),
        (conf, iou, max_det, pre_nms, agnostic, multi_label),
    )
    return Detections(counts, boxes, scores, classes, places)


def best_possible_recall(
    boxes: npt.ArrayLike,
    anchors: npt.ArrayLike | int | tuple[int, int],
    iou_threshold: float = 0.5,
    areas: npt.ArrayLike | None = None,
) -> dict[str, float | None]:
    """The share of objects that some anchor overlaps with IoU ≥ `iou_threshold`, by object size.

    It bounds what matching by that IoU could reach; several objects may share an anchor.
    boxes: (n, 4) in the pixels of the network's input (`anchors.letterboxed` brings them there).
    anchors: (A, 4), or an image size, int or (height, width), for the detector's own.
    areas: (n,) by which COCO's small (< 32²), medium and large (≥ 96²) are told, for letterboxed
    boxes the areas in the original images; None: those of `boxes`.
    Returns ``{"all", "small", "medium", "large"}``; None where there is no such object.
    Raises ValueError on shapes or a threshold outside (0, 1].

    >>> best_possible_recall([[10, 10, 34, 34], [0, 0, 319, 20]], 320)
    {'all': 0.5, 'small': 1.0, 'medium': 0.0, 'large': None}
    """
    if not 0 < iou_threshold <= 1:
        raise ValueError(f"best_possible_recall: iou_threshold is {iou_threshold}, (0, 1] needed")
    b = _boxes(boxes, "best_possible_recall: boxes")
    if isinstance(anchors, int | np.integer) or (
        isinstance(anchors, Sequence) and len(anchors) == 2 and np.ndim(anchors[0]) == 0
    ):
        from deepseek_det.anchors import detector_anchors

        size = anchors if isinstance(anchors, int | np.integer) else tuple(anchors)
        anchors = detector_anchors(size).boxes  # type: ignore[arg-type]
    iou, _ = _core.box_best(b, _boxes(anchors, "best_possible_recall: anchors"))
    side = np.maximum(b[:, 2:] - b[:, :2], 0)
    area = side[:, 0] * side[:, 1] if areas is None else _vector(areas, len(b), "areas")
    hit = iou >= np.float32(iou_threshold)
    groups = {"all": np.ones(len(b), bool)}
    groups |= {name: (area >= low) & (area < high) for name, (low, high) in COCO_SIZES.items()}
    return {name: float(hit[g].mean()) if g.any() else None for name, g in groups.items()}
