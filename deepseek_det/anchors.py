"""Anchors: the seed's generator, a detector's levels, assignment, and how well anchors fit.

Anchors are ``x0 y0 x1 y1`` in pixels of the network's input, float32. A ratio is height / width,
and a size is the side of the square of equal area: ``w = size / √ratio``, ``h = size · √ratio``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from deepseek_det import _core
from deepseek_det.losses import _integers, _optional
from deepseek_det.ops import _boxes

__all__ = [
    "STRIDES",
    "Anchors",
    "Assignment",
    "DynamicAnchorGenerator",
    "anchor_strides",
    "assign",
    "detector_anchors",
    "letterboxed",
]

_RULE = _core.anchor_rule()
STRIDES = _RULE["strides"]
"""The strides of the detectors' levels, fine to coarse: 8, 16, 32."""
RATIOS = _RULE["ratios"]
BASE = _RULE["base"]
"""A level's base size in strides: 24, 48 and 96 pixels."""
REACH = 10
"""The last level's stride times this covers the image; see `anchor_strides`."""

FloatArray = npt.NDArray[np.float32]


def _size(imgsz: int | tuple[int, int], who: str) -> tuple[int, int]:
    """(height, width) of an image size."""
    pair = (imgsz, imgsz) if isinstance(imgsz, int | np.integer) else tuple(imgsz)
    if len(pair) != 2 or any(not isinstance(v, int | np.integer) for v in pair):
        raise ValueError(f"{who}: imgsz is {imgsz!r}, an integer or (height, width) was needed")
    if not all(1 <= v <= 2**20 for v in pair):
        raise ValueError(f"{who}: imgsz is {imgsz!r}, sides from 1 to {2**20} were needed")
    return int(pair[0]), int(pair[1])


class DynamicAnchorGenerator:
    """Anchors of several sizes and ratios at every cell of a feature map.

    base_sizes: in pixels; each gives three scales (×½, ×1, ×2) in the three ratios of
    ``aspect_ratios``, so a cell has ``9 · len(base_sizes)`` anchors. Both attributes may be read.

    Density follows the map's resolution: anchors stand one stride apart, so an image has
    ``9 · len(base_sizes) / stride²`` of them a pixel, and a map of twice the resolution carries
    four times as many. Where no stride is given, the map is taken as one of an image of
    ``10 · min(base_sizes)`` pixels (320 for the default), rounded to a power of two::

        stride = max(1, 2 ** round(log2(10 · min(base_sizes) / max(h, w))))

    so maps of 40, 20 and 10 cells get strides 8, 16 and 32, the detector's levels at 320.

    Raises ValueError on sizes that are not positive and finite.

    >>> g = DynamicAnchorGenerator(base_sizes=[32, 64, 128])
    >>> g.aspect_ratios
    [[1, 2, 0.5], [1, 2, 0.5], [1, 2, 0.5]]
    >>> a = g(np.zeros((1, 64, 20, 20)))
    >>> a.shape, a[0, 0].tolist()
    ((1, 10800, 4), [0.0, 0.0, 16.0, 16.0])
    """

    def __init__(self, base_sizes: Sequence[float] = (32, 64, 128)) -> None:
        sizes = list(base_sizes)
        if not sizes or not all(math.isfinite(s) and s > 0 for s in sizes):
            raise ValueError(f"DynamicAnchorGenerator: base_sizes is {sizes}, positive ones needed")
        self.base_sizes = sizes
        self.aspect_ratios = [[1, 2, 0.5]] * len(sizes)

    def stride(self, height: int, width: int) -> int:
        """The stride that a map of height × width cells is taken to have.

        >>> DynamicAnchorGenerator().stride(40, 40)
        8
        """
        cells = max(height, width, 1)
        exponent = round(math.log2(REACH * min(self.base_sizes) / cells))
        return int(2 ** max(0, exponent))

    def __call__(self, feature_map: Any, stride: float | None = None) -> FloatArray:
        """The anchors of `feature_map`, anything with an (N, C, H, W) ``.shape``.

        stride: pixels a cell; None: the class' rule. Centres lie at ``(cell + ½) · stride``.
        Returns (1, A, 4), A = H · W · 9 · len(base_sizes), in the order base size, row, column,
        scale, ratio. Raises ValueError on another rank or a stride that is not positive.
        """
        shape = tuple(feature_map.shape)
        if len(shape) != 4:
            raise ValueError(
                f"DynamicAnchorGenerator: a map of shape {shape} came, (N, C, H, W) was needed"
            )
        h, w = int(shape[2]), int(shape[3])
        step = float(self.stride(h, w) if stride is None else stride)
        parts = [
            _core.anchor_grid(
                h,
                w,
                step,
                np.array([size * 2.0**i for i in range(-1, 2)]),
                np.array(ratios, np.float64),
            )
            for size, ratios in zip(self.base_sizes, self.aspect_ratios, strict=True)
        ]
        return np.concatenate(parts)[None]

    def __repr__(self) -> str:
        return f"DynamicAnchorGenerator(base_sizes={self.base_sizes})"


def anchor_strides(imgsz: int | tuple[int, int], finest: int = 8) -> tuple[int, ...]:
    """The density rule: which strides ought to carry anchors at an image size.

    A level of stride s has base size 3s and takes objects with sides from s to 9s (three times off
    either way). Levels double from `finest` until the last one's reach covers the longer side L of
    the image, nine tenths of it at least::

        s_i = finest · 2^i,  i = 0 … max(0, ⌈log2(L / (10 · finest))⌉)

    so the density of anchors a pixel, ``3 Σ 1 / s_i²``, is always finest for the smallest objects
    and a head's channels never change with the image. At 320 the levels are 8, 16 and 32.

    imgsz: int or (height, width). Raises ValueError on sizes below 1.

    >>> [anchor_strides(s) for s in (80, 160, 320, 640)]
    [(8,), (8, 16), (8, 16, 32), (8, 16, 32, 64)]
    """
    if finest < 1:
        raise ValueError(f"anchor_strides: finest is {finest}, 1 or more was needed")
    longest = max(_size(imgsz, "anchor_strides"))
    last = max(0, math.ceil(math.log2(longest / (REACH * finest))))
    return tuple(finest * 2**i for i in range(last + 1))


class Anchors(NamedTuple):
    """A detector's anchors: boxes (A, 4) float32, and levels (L + 1,) int64, their offsets."""

    boxes: FloatArray
    levels: npt.NDArray[np.int64]


def detector_anchors(
    imgsz: int | tuple[int, int],
    strides: Sequence[int] = STRIDES,
    ratios: Sequence[float] = RATIOS,
    scales: Sequence[float] = _RULE["scales"],
    base: float = BASE,
) -> Anchors:
    """The anchors of a detector whose heads stand at `strides`, for one image size.

    imgsz: int or (height, width); a level has ``⌈H / s⌉ × ⌈W / s⌉`` cells and sizes
    ``base · s · scales``. Order: level as in `strides` (fine to coarse), row, column, scale, ratio.
    `anchor_strides` says which strides suit a size; a network's own are fixed by its heads.
    Raises ValueError on sizes, strides, ratios or scales that are not positive, and on more than 16
    of one of them.

    >>> a = detector_anchors(320)
    >>> a.boxes.shape, a.levels.tolist(), a.boxes[0].tolist()
    ((6300, 4), [0, 4800, 6000, 6300], [-8.0, -8.0, 16.0, 16.0])
    """
    h, w = _size(imgsz, "detector_anchors")
    if not strides or any(s < 1 for s in strides):
        raise ValueError(f"detector_anchors: strides is {strides}, positive ones were needed")
    boxes, levels = _core.detector_anchors(
        h,
        w,
        np.asarray(strides),
        np.asarray(scales, np.float64),
        np.asarray(ratios, np.float64),
        base,
    )
    return Anchors(boxes, levels)


class Assignment(NamedTuple):
    """One image's assignment.

    object: (A,) int32, index of the object, -1 background, -2 ignored; target: (A,) float32, the
    class target; iou: (A,) float32, of the predicted box (or the anchor) with the object's;
    boxes: (A, 4) float32, the object's box, zeros where none is.
    """

    object: npt.NDArray[np.int32]
    target: FloatArray
    iou: FloatArray
    boxes: FloatArray


def assign(
    anchors: npt.ArrayLike,
    boxes: npt.ArrayLike,
    labels: npt.ArrayLike,
    ignore: npt.ArrayLike | None = None,
    *,
    logits: npt.ArrayLike | None = None,
    deltas: npt.ArrayLike | None = None,
    levels: npt.ArrayLike | None = None,
    assigner: str = "atss",
    alpha: float = 0.5,
    beta: float = 6.0,
    topk: int | None = None,
    max_ratio: float = 3.0,
    positive_iou: float = 0.5,
    negative_iou: float = 0.4,
    ignore_share: float = 0.5,
) -> Assignment:
    """Which anchor is trained towards which object, for one image; options as `detection_loss`.

    anchors: (A, 4); boxes: (M, 4) in the same pixels; labels: (M,); ignore: (M,) bool or None;
    logits: (A, nc), deltas: (A, 4): what the task-aligned rule judges by; without them the anchors
    stand for the predicted boxes and every score is 1.
    An anchor that several objects claim goes to the one with the highest IoU, then to the first.
    Every object with a sound box gets an anchor, unless each is another object's only one.
    Raises ValueError on shapes, labels and options that do not fit.

    >>> a = assign([[0, 0, 8, 8], [8, 0, 16, 8]], [[9, 0, 15, 8]], [0])
    >>> a.object.tolist(), a.target.round(2).tolist()
    ([-1, 0], [0.0, 1.0])
    """
    a, m = _boxes(anchors, "assign: anchors"), _boxes(boxes, "assign: boxes")
    obj, target, iou = _core.assign(
        a,
        _optional(levels, np.int64),
        m,
        _integers(labels, np.int32, "assign: labels"),
        _optional(ignore, np.bool_),
        _optional(logits, np.float32),
        _optional(deltas, np.float32),
        (assigner, alpha, beta, topk or 0, max_ratio, positive_iou, negative_iou, ignore_share),
    )
    found = np.zeros((len(a), 4), np.float32)
    found[obj >= 0] = m[obj[obj >= 0]]
    return Assignment(obj, target, iou, found)


def letterboxed(
    boxes: npt.ArrayLike, height: int, width: int, imgsz: int
) -> npt.NDArray[np.float32]:
    """Boxes of an image of height × width as they lie in its letterbox of side `imgsz`.

    boxes: (n, 4). The scale is ``imgsz / max(height, width)``, one for both axes; the content,
    ``max(1, round(side · scale))`` pixels, is centred on whole pixels (the margin halved, rounded
    down). Raises ValueError on sizes below 1.

    >>> letterboxed([[0, 0, 640, 480]], 480, 640, 320).tolist()
    [[0.0, 40.0, 320.0, 280.0]]
    """
    if min(height, width, imgsz) < 1:
        raise ValueError(f"letterboxed: {height} x {width} to {imgsz} came, 1 or more was needed")
    scale = imgsz / max(height, width)
    pad = [(imgsz - max(1, math.floor(v * scale + 0.5))) // 2 for v in (width, height)]
    moved = _boxes(boxes, "letterboxed: boxes").astype(np.float64) * scale + np.array([*pad, *pad])
    return np.asarray(moved, np.float32)
