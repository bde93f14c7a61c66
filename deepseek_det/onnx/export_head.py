"""What follows a detector's net in an ONNX file: boxes from deltas, scores from logits, and NMS.

Only operators of the default domain. All of it holds for any batch, and, where the image size is
free, for any multiple of the largest stride.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from deepseek_det.onnx.writer import FLOAT, Writer

DELTA_CLAMP = 4.0
"""The decoder's bound on log-sizes (csrc/detect/anchors.h)."""


@dataclass(frozen=True)
class Grid:
    """One level's anchors: a cell's boxes (k, 2) width and height in pixels, every `stride`."""

    stride: int
    sides: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Decoded:
    """Tensors by name: centre, side (N, A, 2), scores (N, A, classes), limits (4,) W H W H."""

    centre: str
    side: str
    scores: str
    limits: str


@dataclass(frozen=True)
class Suppression:
    """The thresholds of NMS, as `predict` has them."""

    conf: float
    iou: float
    max_det: int


def fixed_anchors(w: Writer, boxes: npt.NDArray[np.float32]) -> tuple[str, str]:
    """The anchors' centres and sides, (1, A, 2) each, for one image size."""
    corners = boxes.astype(np.float64)
    centre, side = (corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]
    return (
        w.tensor(centre[None].astype(np.float32), "anchors.centre"),
        w.tensor(side[None].astype(np.float32), "anchors.side"),
    )


def free_anchors(w: Writer, image: str, grids: Sequence[Grid]) -> tuple[str, str]:
    """As `fixed_anchors`, computed from the size of an image tensor (N, C, H, W)."""
    shape = w.node("Shape", [image], "image.shape")
    centres, sides = [], []
    flat = w.sizes([1, -1, 2])
    for grid in grids:
        # (rows, 1, 1, 2) with y and (1, columns, 1, 2) with x; a cell's anchors lie along axis 2
        y = w.node("Reshape", [_line(w, shape, 2, grid.stride, (0, 1)), w.sizes([-1, 1, 1, 2])])
        x = w.node("Reshape", [_line(w, shape, 3, grid.stride, (1, 0)), w.sizes([1, -1, 1, 2])])
        cells = w.node("Add", [y, x], "anchors.cells")
        cell = w.tensor(grid.sides[None, None], f"anchors.stride{grid.stride}")
        centre = w.node("Add", [cells, w.constant(np.zeros((1, 1, len(grid.sides), 2)))])
        side = w.node("Expand", [cell, w.node("Shape", [centre])])
        centres.append(w.node("Reshape", [centre, flat], "anchors.level"))
        sides.append(w.node("Reshape", [side, flat], "anchors.level"))
    return (
        w.node("Concat", centres, "anchors.centre", axis=1),
        w.node("Concat", sides, "anchors.side", axis=1),
    )


def _line(w: Writer, shape: str, axis: int, stride: int, unit: tuple[int, int]) -> str:
    """(cells, 2): the centres of the cells along one axis of the image, times `unit`."""
    size = w.node("Gather", [shape, w.constant(axis, np.int64)], "image.side", axis=0)
    more = w.node("Add", [size, w.constant(stride - 1, np.int64)], "image.side")
    cells = w.node("Div", [more, w.constant(stride, np.int64)], "cells")
    ends = [w.constant(0, np.int64), cells, w.constant(1, np.int64)]
    number = w.node("Cast", [w.node("Range", ends, "cells")], "cells", to=FLOAT)
    centre = w.node("Mul", [w.node("Add", [number, w.constant(0.5)], "cells"), w.constant(stride)])
    wide = w.node("Unsqueeze", [centre, w.sizes([1])], "cells")
    return w.node("Mul", [wide, w.constant(unit)], "cells")


def limits(w: Writer, image: str, size: int | None) -> str:
    """(4,) W H W H of the input, from the tensor's own size where `size` is None."""
    if size is not None:
        return w.constant([size] * 4, np.float32, "limits")
    shape = w.node("Shape", [image], "image.shape")
    index = w.constant([3, 2, 3, 2], np.int64, "sizes")
    picked = w.node("Gather", [shape, index], "limits", axis=0)
    return w.node("Cast", [picked], "limits", to=FLOAT)


def decode(w: Writer, cls: str, box: str, anchors: tuple[str, str], limit: str) -> Decoded:
    """Deltas (N, A, 4) and logits (N, A, classes) to boxes and scores, as `ops.detect`."""
    centre, side = anchors
    shift, grow = w.add("Split", [box, w.sizes([2, 2])], "decode.deltas", 2, axis=2)
    bounds = [w.constant(-DELTA_CLAMP), w.constant(DELTA_CLAMP)]
    moved = w.node("Mul", [shift, side], "decode.shift")
    grown = w.node("Exp", [w.node("Clip", [grow, *bounds], "decode.clamp")], "decode.grow")
    return Decoded(
        w.node("Add", [centre, moved], "decode.centre"),
        w.node("Mul", [side, grown], "decode.side"),
        w.node("Sigmoid", [cls], "decode.scores"),
        limit,
    )


def raw_output(w: Writer, d: Decoded) -> str:
    """(N, 4 + classes, A): centre x, centre y, width, height, then a score a class."""
    rows = w.node("Concat", [d.centre, d.side, d.scores], "decode.rows", axis=2)
    return w.node("Transpose", [rows], "decode.columns", perm=[0, 2, 1])


def suppressed(w: Writer, d: Decoded, classes: int, s: Suppression) -> str:
    """(N, max_det, 6): x0 y0 x1 y1 score class, best first; the rows that are left are zeros.

    A box that the input's border leaves nothing of is out before it can suppress another, as in
    `ops.detect`; the border of the original image is not known here.
    """
    half = w.node("Mul", [d.side, w.constant(0.5)], "nms.half")
    corners = [w.node(op, [d.centre, half], "nms.corner") for op in ("Sub", "Add")]
    boxes = w.node("Concat", corners, "nms.boxes", axis=2)
    high = w.node("Min", [w.node("Max", [boxes, w.constant(0)], "nms.low"), d.limits], "nms.inside")
    scores = _with_area(w, high, d.scores)
    kept = survivors(w, boxes, scores, s)
    return _best(w, high, kept, classes, s.max_det)


def _with_area(w: Writer, boxes: str, scores: str) -> str:
    """The scores (N, A, classes), 0 where a box has no area."""
    low, high = w.add("Split", [boxes, w.sizes([2, 2])], "nms.sides", 2, axis=2)
    size = w.node("Sub", [high, low], "nms.size")
    across, down = w.add("Split", [size, w.sizes([1, 1])], "nms.size", 2, axis=2)
    smaller = w.node("Min", [across, down], "nms.size")
    sound = w.node("Greater", [smaller, w.constant(0)], "nms.sound")
    return w.node("Where", [sound, scores, w.constant(0)], "nms.scores")


def survivors(w: Writer, boxes: str, scores: str, s: Suppression, centre: bool = False) -> str:
    """The scores (N, A, classes), 0 where NMS or `conf` takes the candidate out.

    centre: boxes are centre x, centre y, width, height instead of corners.
    """
    by_class = w.node("Transpose", [scores], "nms.by_class", perm=[0, 2, 1])
    # each an initializer of its own, so that one can be changed in the file
    options = [
        w.tensor(np.array([s.max_det], np.int64), "nms.max_det"),
        w.tensor(np.array([s.iou], np.float32), "nms.iou"),
        w.tensor(np.array([s.conf], np.float32), "nms.conf"),
    ]
    form = {"center_point_box": 1} if centre else {}
    found = w.node("NonMaxSuppression", [boxes, by_class, *options], "nms.selected", **form)
    # image, class, anchor → image, anchor, class, in which equal scores have predict's order
    place = w.node("Gather", [found, w.sizes([0, 2, 1])], "nms.place", axis=1)
    values = w.node("GatherND", [scores, place], "nms.values")
    nothing = w.node("ConstantOfShape", [w.node("Shape", [scores], "nms.shape")], "nms.nothing")
    return w.node("ScatterND", [nothing, place, values], "nms.kept")


def _best(w: Writer, boxes: str, kept: str, classes: int, max_det: int) -> str:
    """The max_det best of the scores left, with their boxes and classes."""
    flat = w.node("Reshape", [kept, w.sizes([0, -1])], "nms.flat")
    # small nets have fewer candidates than rows
    room = w.node("Pad", [flat, w.sizes([0, 0, 0, max_det])], "nms.room", mode="constant")
    score, index = w.add("TopK", [room, w.sizes([max_det])], "nms.best", 2, axis=1)
    real = w.node("Greater", [score, w.constant(0)], "nms.real")
    index = w.node("Where", [real, index, w.constant(0, np.int64)], "nms.index")
    n = w.constant(classes, np.int64, "classes")
    anchor = w.node("Div", [index, n], "nms.anchor")
    cls = w.node("Sub", [index, w.node("Mul", [anchor, n], "nms.class")], "nms.class")
    column = w.sizes([2])
    wide = w.node("Unsqueeze", [anchor, column], "nms.anchor")
    four = w.node("Expand", [wide, w.sizes([1, 1, 4])], "nms.anchor")
    rows = [
        w.node("GatherElements", [boxes, four], "nms.picked", axis=1),
        w.node("Unsqueeze", [score, column], "nms.score"),
        w.node("Unsqueeze", [w.node("Cast", [cls], "nms.class", to=FLOAT), column], "nms.class"),
    ]
    table = w.node("Concat", rows, "nms.rows", axis=2)
    there = w.node("Unsqueeze", [real, column], "nms.real")
    return w.node("Where", [there, table, w.constant(0)], "nms.table")
