"""Loss functions; every one returns (value, gradient).

The gradient is that of the returned value with respect to the first argument, exact, in its shape
and type (float32 or float64; anything else is taken as float64). ``reduction`` is "none", "mean"
or "sum" over items: logits, or boxes. All arithmetic is double, so values and gradients agree with
the formulas to rounding, for logits up to ±1e4 and beyond. A network is trained with
`detection_loss`, which assigns anchors and fuses the sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, overload

import numpy as np
import numpy.typing as npt

from deepseek_det import _core
from deepseek_det.ops import _boxes, _numbers

__all__ = [
    "DetectionLoss",
    "bce_loss",
    "class_balanced_weights",
    "detection_loss",
    "focal_loss",
    "giou_loss",
    "l2_loss",
    "quality_focal_loss",
    "smooth_l1_loss",
]

Reduction = Literal["none", "mean", "sum"]
Array = npt.NDArray[Any]
_REDUCTIONS = {"none": 0, "mean": 1, "sum": 2}
_DEFAULTS = {name: defaults for name, _, _, defaults, _ in _core.losses()}


def _run(
    name: str,
    x: npt.ArrayLike,
    t: npt.ArrayLike,
    params: Sequence[float],
    reduction: str,
    width: int,
) -> tuple[Any, Array]:
    """Shapes and types around `_core.loss`."""
    if reduction not in _REDUCTIONS:
        names = '"none", "mean" or "sum"'
        raise ValueError(f"{name}: reduction is {reduction!r}, {names} was needed")
    a, b = _numbers(x, f"{name}: input"), _numbers(t, f"{name}: target")
    if a.shape != b.shape:
        raise ValueError(f"{name}: input has shape {a.shape}, target {b.shape}; equal ones needed")
    if width > 1 and (a.ndim < 1 or a.shape[-1] != width):
        raise ValueError(f"{name}: shape {a.shape} came, (..., {width}) was needed")
    kind = a.dtype if a.dtype in (np.float32, np.float64) else np.dtype(np.float64)
    values, grad = _core.loss(
        name,
        np.ascontiguousarray(a, np.float64).reshape(-1, width),
        np.ascontiguousarray(b, np.float64).reshape(-1, width),
        np.asarray(params, np.float64),
        _REDUCTIONS[reduction],
    )
    gradient = grad.reshape(a.shape).astype(kind, copy=False)
    if reduction != "none":
        return float(values[0]), gradient
    return values.reshape(a.shape if width == 1 else a.shape[:-1]).astype(
        kind, copy=False
    ), gradient


@overload
def focal_loss(
    logits: npt.ArrayLike,
    targets: npt.ArrayLike,
    alpha: float = ...,
    gamma: float = ...,
    reduction: Literal["mean", "sum"] = ...,
) -> tuple[float, Array]: ...
@overload
def focal_loss(
    logits: npt.ArrayLike,
    targets: npt.ArrayLike,
    alpha: float = ...,
    gamma: float = ...,
    *,
    reduction: Literal["none"],
) -> tuple[Array, Array]: ...
@overload
def focal_loss(
    logits: npt.ArrayLike,
    targets: npt.ArrayLike,
    alpha: float,
    gamma: float,
    reduction: Literal["none"],
) -> tuple[Array, Array]: ...
def focal_loss(
    logits: npt.ArrayLike,
    targets: npt.ArrayLike,
    alpha: float = 0.25,
    gamma: float = 2.0,
    reduction: Reduction = "mean",
) -> tuple[float | Array, Array]:
    """Focal loss (Lin et al. 2017, eq. 5) of sigmoid logits: ``alpha_t (1 - p_t)^gamma BCE``.

    logits, targets: arrays of one shape, targets 0 or 1 (what lies between is weighted linearly).
    alpha: weight of the positives, 1 - alpha that of the negatives; below 0: no weights.
    Returns the reduced value, or an array under "none", and the gradient.
    Raises ValueError on shapes, a gamma below 0 or an unknown reduction.

    >>> value, grad = focal_loss(np.array([0.0, 3.0]), np.array([1.0, 0.0]), reduction="sum")
    >>> round(value, 5), grad.round(5).tolist()
    (2.11803, [-0.07457, 0.84506])
    """
    return _run("focal", logits, targets, (alpha, gamma), reduction, 1)


@overload
def bce_loss(
    logits: npt.ArrayLike, targets: npt.ArrayLike, reduction: Literal["mean", "sum"] = ...
) -> tuple[float, Array]: ...
@overload
def bce_loss(
    logits: npt.ArrayLike, targets: npt.ArrayLike, reduction: Literal["none"]
) -> tuple[Array, Array]: ...
def bce_loss(
    logits: npt.ArrayLike, targets: npt.ArrayLike, reduction: Reduction = "mean"
) -> tuple[float | Array, Array]:
    """Binary cross-entropy of sigmoid logits with soft targets in [0, 1].

    logits, targets: arrays of one shape. Returns and raises like `focal_loss`.

    >>> value, grad = bce_loss([0.0, 2.0], [0.5, 1.0])
    >>> round(value, 5), grad.round(5).tolist()
    (0.41004, [0.0, -0.0596])
    """
    return _run("bce", logits, targets, (), reduction, 1)


@overload
def quality_focal_loss(
    logits: npt.ArrayLike,
    targets: npt.ArrayLike,
    beta: float = ...,
    reduction: Literal["mean", "sum"] = ...,
) -> tuple[float, Array]: ...
@overload
def quality_focal_loss(
    logits: npt.ArrayLike,
    targets: npt.ArrayLike,
    beta: float = ...,
    *,
    reduction: Literal["none"],
) -> tuple[Array, Array]: ...
@overload
def quality_focal_loss(
    logits: npt.ArrayLike, targets: npt.ArrayLike, beta: float, reduction: Literal["none"]
) -> tuple[Array, Array]: ...
def quality_focal_loss(
    logits: npt.ArrayLike,
    targets: npt.ArrayLike,
    beta: float = 2.0,
    reduction: Reduction = "mean",
) -> tuple[float | Array, Array]:
    """Quality focal loss (Li et al. 2020, eq. 2): ``|t - p|^beta BCE``, the target a quality.

    logits, targets: arrays of one shape, targets in [0, 1]. Returns and raises like `focal_loss`.

    >>> value, grad = quality_focal_loss([0.0], [0.7])
    >>> round(value, 5), grad.round(5).tolist()
    (0.02773, [-0.07731])
    """
    return _run("qfl", logits, targets, (beta,), reduction, 1)


@overload
def giou_loss(
    pred_xyxy: npt.ArrayLike, target_xyxy: npt.ArrayLike, reduction: Literal["mean", "sum"] = ...
) -> tuple[float, Array]: ...
@overload
def giou_loss(
    pred_xyxy: npt.ArrayLike, target_xyxy: npt.ArrayLike, reduction: Literal["none"]
) -> tuple[Array, Array]: ...
def giou_loss(
    pred_xyxy: npt.ArrayLike, target_xyxy: npt.ArrayLike, reduction: Reduction = "mean"
) -> tuple[float | Array, Array]:
    """GIoU loss of paired boxes (Rezatofighi et al. 2019): ``1 - IoU + (C - U) / C``.

    pred_xyxy, target_xyxy: (..., 4) ``x0 y0 x1 y1``. A box without area has IoU 0; where edges
    coincide the gradient is the mean of the one-sided ones.
    Returns and raises like `focal_loss`; the mean is over boxes, 0 of none.

    >>> value, grad = giou_loss([[0.0, 0.0, 2.0, 2.0]], [[1.0, 1.0, 3.0, 3.0]])
    >>> round(value, 5), grad.round(3).tolist()
    (1.07937, [[-0.078, -0.078, -0.234, -0.234]])
    """
    return _run("giou", pred_xyxy, target_xyxy, (), reduction, 4)


@overload
def l2_loss(
    pred: npt.ArrayLike, target: npt.ArrayLike, reduction: Literal["mean", "sum"] = ...
) -> tuple[float, Array]: ...
@overload
def l2_loss(
    pred: npt.ArrayLike, target: npt.ArrayLike, reduction: Literal["none"]
) -> tuple[Array, Array]: ...
def l2_loss(
    pred: npt.ArrayLike, target: npt.ArrayLike, reduction: Reduction = "mean"
) -> tuple[float | Array, Array]:
    """Sum of the squared differences of a box's four numbers; the loss that GIoU replaced.

    pred, target: (..., 4). Returns and raises like `giou_loss`.

    >>> l2_loss([[0.0, 0.0, 2.0, 2.0]], [[1.0, 0.0, 2.0, 0.0]])[0]
    5.0
    """
    return _run("l2", pred, target, (), reduction, 4)


@overload
def smooth_l1_loss(
    pred: npt.ArrayLike,
    target: npt.ArrayLike,
    beta: float = ...,
    reduction: Literal["mean", "sum"] = ...,
) -> tuple[float, Array]: ...
@overload
def smooth_l1_loss(
    pred: npt.ArrayLike, target: npt.ArrayLike, beta: float = ..., *, reduction: Literal["none"]
) -> tuple[Array, Array]: ...
@overload
def smooth_l1_loss(
    pred: npt.ArrayLike, target: npt.ArrayLike, beta: float, reduction: Literal["none"]
) -> tuple[Array, Array]: ...
def smooth_l1_loss(
    pred: npt.ArrayLike,
    target: npt.ArrayLike,
    beta: float = 1.0,
    reduction: Reduction = "mean",
) -> tuple[float | Array, Array]:
    """Smooth L1 (Girshick 2015): quadratic below `beta`, linear beyond, summed over a box.

    pred, target: (..., 4). Returns and raises like `giou_loss`; beta must be positive.

    >>> smooth_l1_loss([[0.0, 0.0, 2.0, 2.0]], [[3.0, 0.0, 2.0, 1.5]])[0]
    2.625
    """
    return _run("smooth_l1", pred, target, (beta,), reduction, 4)


def class_balanced_weights(counts: npt.ArrayLike, beta: float = 0.999) -> npt.NDArray[np.float64]:
    """Weights of the class-balanced loss (Cui et al. 2019, eq. 4), of mean 1 over present classes.

    counts: (C,) samples of each class, ≥ 0; a class without samples gets weight 0. The paper's sum
    is its number of classes, all of which have samples: here it is the number of those that have.
    Raises ValueError unless 0 ≤ beta < 1 and on negative or NaN counts.

    >>> class_balanced_weights([10, 1000]).round(2).tolist()
    [1.97, 0.03]
    """
    array = _numbers(counts, "class_balanced_weights: counts")
    if array.ndim != 1:
        raise ValueError(f"class_balanced_weights: counts has shape {array.shape}, (C,) was needed")
    return _core.class_weights(np.ascontiguousarray(array, np.float64), beta)


class DetectionLoss(NamedTuple):
    """What `detection_loss` returns.

    loss_cls, loss_box: the weighted terms, their sum is the loss; target_sum: the sum of the class
    targets (what the class loss is divided by, 1 at least); positives: anchors with an object;
    dlogits, ddeltas: gradients in the shapes of the outputs, None without `grad`.
    """

    loss_cls: float
    loss_box: float
    target_sum: float
    positives: int
    dlogits: npt.NDArray[np.float32] | None
    ddeltas: npt.NDArray[np.float32] | None


def detection_loss(
    logits: npt.ArrayLike,
    deltas: npt.ArrayLike,
    anchors: npt.ArrayLike,
    boxes: npt.ArrayLike,
    labels: npt.ArrayLike,
    offsets: npt.ArrayLike,
    ignore: npt.ArrayLike | None = None,
    *,
    levels: npt.ArrayLike | None = None,
    assigner: str = "atss",
    cls_loss: str = "bce",
    box_loss: str = "giou",
    cls_weight: float = 1.0,
    box_weight: float = 2.0,
    class_weights: npt.ArrayLike | None = None,
    cls_params: Sequence[float] | None = None,
    box_params: Sequence[float] | None = None,
    alpha: float = 0.5,
    beta: float = 6.0,
    topk: int | None = None,
    max_ratio: float = 3.0,
    positive_iou: float = 0.5,
    negative_iou: float = 0.4,
    ignore_share: float = 0.5,
    grad: bool = True,
    out: tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]] | None = None,
) -> DetectionLoss:
    """The training criterion of an anchor detector: assigns, sums both losses, gives gradients.

    logits: (N, A, nc); deltas: (N, A, 4); anchors: (A, 4), `levels` their offsets by level (ATSS
    looks at each; None: one level; `anchors.detector_anchors` gives both). Ground truth: boxes
    (M, 4) of all images one after another in network pixels, labels (M,), ignore (M,) bool or
    None, offsets (N + 1,): image i has the rows ``offsets[i]:offsets[i + 1]``. Anchors mostly
    inside an ignore box get no class loss; broken boxes are nobody's object.

    assigner: "atss" (as `Detector.train` has it: of the `topk` = 27 nearest a level those whose IoU
    is above the mean plus the deviation), "tal" (task-aligned: metric score^alpha · IoU^beta, the
    best `topk` = 13 an object among anchors whose centre lies in it and no side of which is more
    than `max_ratio` off) or "max_iou". cls_loss: "bce", "focal" or "qfl" with `cls_params`
    in the order of their own functions; box_loss: "giou" on decoded boxes, "l2" or "smooth_l1" on
    deltas. class_weights: (nc,) for the classes' columns.
    Both losses are divided by the sum of their targets over the batch, 1 at least.
    out: arrays that get the two gradients in place.
    Non-finite outputs give non-finite losses, never an error. The same bits for any number of
    threads. Raises ValueError on shapes, labels, offsets and options that do not fit.

    >>> from deepseek_det.anchors import detector_anchors
    >>> a = detector_anchors(64)
    >>> r = detection_loss(np.full((1, len(a.boxes), 2), -2.0), np.zeros((1, len(a.boxes), 4)),
    ...                    a.boxes, [[8, 8, 40, 40]], [1], [0, 1], levels=a.levels)
    >>> r.positives, round(r.loss_box, 3), r.dlogits.shape
    (15, 1.116, (1, 252, 2))
    """
    x = np.ascontiguousarray(logits, np.float32)
    d = np.ascontiguousarray(deltas, np.float32)
    gradients: tuple[Any, Any] = (None, None)
    if grad:
        gradients = out if out is not None else (np.empty_like(x), np.empty_like(d))
    m = _boxes(boxes, "detection_loss: boxes")
    classes = _integers(labels, np.int32, "detection_loss: labels")
    loss_cls, loss_box, target_sum, positives = _core.detection_loss(
        (x, d, _boxes(anchors, "detection_loss: anchors"), _optional(levels, np.int64)),
        (m, classes, _optional(ignore, np.bool_), _integers(offsets, np.int64, "offsets")),
        _optional(class_weights, np.float32),
        (assigner, alpha, beta, topk or 0, max_ratio, positive_iou, negative_iou, ignore_share),
        (
            cls_loss,
            np.asarray(_DEFAULTS.get(cls_loss, ()) if cls_params is None else cls_params, float),
            box_loss,
            np.asarray(_DEFAULTS.get(box_loss, ()) if box_params is None else box_params, float),
            cls_weight,
            box_weight,
        ),
        *gradients,
    )
    return DetectionLoss(loss_cls, loss_box, target_sum, positives, *gradients)


def _optional(value: npt.ArrayLike | None, dtype: npt.DTypeLike) -> Array | None:
    return None if value is None else np.ascontiguousarray(value, dtype)


def _integers(value: npt.ArrayLike, dtype: npt.DTypeLike, who: str) -> Array:
    array = _numbers(value, who)
    whole = array.astype(dtype)
    if not np.array_equal(whole, array):
        raise ValueError(f"{who}: whole numbers in the range of {np.dtype(dtype)} were needed")
    return np.ascontiguousarray(whole)
