"""Run-length encoded masks, with pycocotools.mask's functions, arguments and results.

A mask is ``{"size": [h, w], "counts": bytes}``: the lengths of the runs of zeros and ones down its
columns, zeros first, in COCO's compressed text. Functions take one mask or a list of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from deepseek_det import _core

__all__ = ["area", "decode", "encode", "frPyObjects", "iou", "merge", "toBbox"]

Rle = dict[str, Any]
_POLYGONS, _BOXES, _RUNS = range(3)


def encode(bimask: npt.NDArray[Any]) -> Any:
    """The mask of pixels (h, w), or the list of masks of (h, w, n); every value but 0 is set.

    Raises ValueError on another number of dimensions.

    >>> encode(np.eye(2, dtype=np.uint8))
    {'size': [2, 2], 'counts': b'0120'}
    """
    pixels = np.asarray(bimask)
    if pixels.ndim not in (2, 3):
        raise ValueError(f"encode: pixels (h, w) or (h, w, n) are needed, came {pixels.shape}")
    stack = pixels[:, :, None] if pixels.ndim == 2 else pixels
    if stack.dtype != np.uint8:
        stack = stack != 0
    masks = _core.mask_encode(np.ascontiguousarray(stack.transpose(2, 1, 0)).view(np.uint8))
    return masks[0] if pixels.ndim == 2 else masks


def decode(rleObjs: Any) -> npt.NDArray[np.uint8]:
    """Pixels (h, w) of a mask, or (h, w, n) of a list of masks of one size; 0 and 1, by columns.

    Raises ValueError where the runs are longer than the mask or the sizes differ.

    >>> decode({"size": [2, 2], "counts": b"0120"}).tolist()
    [[1, 0], [0, 1]]
    """
    if isinstance(rleObjs, list):
        return _core.mask_decode(rleObjs).transpose(2, 1, 0)
    return _core.mask_decode([rleObjs]).transpose(2, 1, 0)[:, :, 0]


def area(rleObjs: Any) -> Any:
    """Pixels that are set: uint32, or (n,) uint32 of a list.

    >>> int(area({"size": [2, 2], "counts": b"0120"}))
    2
    """
    if isinstance(rleObjs, list):
        return _core.mask_measures(rleObjs)[0]
    return _core.mask_measures([rleObjs])[0][0]


def toBbox(rleObjs: Any) -> npt.NDArray[np.float64]:
    """The box x, y, w, h around the pixels that are set: (4,), or (n, 4) of a list.

    >>> toBbox({"size": [2, 2], "counts": b"0120"}).tolist()
    [0.0, 0.0, 2.0, 2.0]
    """
    if isinstance(rleObjs, list):
        return _core.mask_measures(rleObjs)[1]
    box: npt.NDArray[np.float64] = _core.mask_measures([rleObjs])[1][0]
    return box


def merge(rleObjs: Sequence[Rle], intersect: bool = False) -> Rle:
    """The union of masks of one size, or their intersection; an empty mask of size 0 where sizes
    differ or no mask came.

    >>> a, b = encode(np.array([[1, 1, 0]])), encode(np.array([[0, 1, 1]]))
    >>> decode(merge([a, b], intersect=True)).tolist()
    [[0, 1, 0]]
    """
    return _core.mask_merge(list(rleObjs), bool(intersect))


def _boxes(value: Any) -> npt.NDArray[np.float64]:
    return np.asarray(value, np.float64).reshape(-1, 4)


def _box_iou(dt: Any, gt: Any, crowd: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """IoU of boxes x, y, w, h, operation by operation as maskApi has it."""
    d, g = _boxes(dt)[:, None], _boxes(gt)[None]
    w = np.minimum(d[..., 2] + d[..., 0], g[..., 2] + g[..., 0]) - np.maximum(d[..., 0], g[..., 0])
    h = np.minimum(d[..., 3] + d[..., 1], g[..., 3] + g[..., 1]) - np.maximum(d[..., 1], g[..., 1])
    meet = (w > 0) & (h > 0)
    both = np.where(meet, w * h, 0.0)
    d_area, g_area = d[..., 2] * d[..., 3], g[..., 2] * g[..., 3]
    whole = np.where(crowd[None], d_area + 0 * g_area, d_area + g_area - both)
    with np.errstate(divide="ignore", invalid="ignore"):
        out: npt.NDArray[np.float64] = np.where(meet, both / whole, 0.0)
    return out


def iou(dt: Any, gt: Any, pyiscrowd: Sequence[Any]) -> Any:
    """IoU (n, m) of n detections and m objects, masks both or boxes x, y, w, h both.

    pyiscrowd: m flags; with a crowd it is the intersection over the detection's area. Masks of
    different sizes whose boxes meet have IoU -1. An empty list where either side is empty.

    >>> iou(np.array([[0.0, 0, 2, 2]]), np.array([[0.0, 0, 2, 4]]), [0]).tolist()
    [[0.5]]
    """
    if len(dt) == 0 or len(gt) == 0:
        return []
    crowd = np.asarray([bool(c) for c in pyiscrowd])
    if len(crowd) != len(gt):
        raise ValueError(f"iou: {len(crowd)} crowd flags came for {len(gt)} objects")
    kinds = [isinstance(side[0], Mapping) for side in (dt, gt)]
    if kinds[0] != kinds[1]:
        raise ValueError("iou: masks came on one side and boxes on the other")
    if kinds[0]:
        return _core.mask_iou(list(dt), list(gt), crowd)
    return _box_iou(dt, gt, crowd)


def _uncompressed(masks: Sequence[Mapping[str, Any]]) -> list[Rle]:
    out = []
    for mask in masks:
        h, w = (int(v) for v in mask["size"])
        out += _core.mask_from([np.asarray(mask["counts"], np.float64)], h, w, _RUNS)
    return out


def frPyObjects(pyobj: Any, h: int, w: int) -> Any:
    """Masks of polygons [x0, y0, x1, ...], boxes x, y, w, h or uncompressed run lengths.

    pyobj: a list of one of them, or one alone (a mask comes back then). Four numbers are a box. A
    mask of run lengths has its own size; polygons and boxes are drawn into h rows and w columns.
    Raises ValueError on anything else.

    >>> decode(frPyObjects([[1, 1, 3, 1, 3, 3, 1, 3]], 4, 4))[:, :, 0].sum()
    np.uint64(4)
    """
    if isinstance(pyobj, Mapping):
        return _uncompressed([pyobj])[0]
    if isinstance(pyobj, np.ndarray):
        return _core.mask_from(list(_boxes(pyobj)), h, w, _BOXES)
    rows = list(pyobj)
    if rows and isinstance(rows[0], Mapping):
        return _uncompressed(rows)
    single = bool(rows) and np.ndim(rows[0]) == 0
    rows = [np.asarray(row, np.float64).ravel() for row in ([rows] if single else rows)]
    if not rows or len(rows[0]) < 4:
        raise ValueError("frPyObjects: polygons, boxes or run lengths are needed")
    kind = _BOXES if len(rows[0]) == 4 else _POLYGONS
    out = _core.mask_from(rows, int(h), int(w), kind)
    return out[0] if single else out
