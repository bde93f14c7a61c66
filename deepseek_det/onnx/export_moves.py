"""The table's rows for pools, reductions, everything that moves elements, and borders of integers.

`export_ops` has the others, and what a row is.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from deepseek_det.onnx.export_axes import Order, native
from deepseek_det.onnx.export_head import Suppression, survivors
from deepseek_det.onnx.export_ops import Call, reduced, row
from deepseek_det.onnx.writer import ELEMENT

# ---- reduce -------------------------------------------------------------------------------------


def _pool(c: Call, name: str, **attributes: Any) -> None:
    x = c.x(0, c.first())
    if not c.p["kernel"]:
        return c.out(c.node(f"Global{name}", [x]), c.first())
    dilation = list(c.p["dilation"] or (1, 1))
    if dilation != [1, 1]:
        if name == "AveragePool" and c.w.opset < 19:
            raise c.fail(f"dilation is {dilation}, which needs opset 19")
        attributes["dilations"] = dilation
    y = c.node(
        name,
        [x],
        kernel_shape=list(c.p["kernel"]),
        strides=list(c.p["stride"] or c.p["kernel"]),
        pads=list(c.p["pads"] or (0, 0, 0, 0)),
        ceil_mode=int(c.p["ceil_mode"]),
        **attributes,
    )
    c.out(y, c.first())


@row("max_pool", "kernel", "stride", "pads", "dilation", "ceil_mode")
def _max_pool(c: Call) -> None:
    _pool(c, "MaxPool")


@row("avg_pool", "kernel", "stride", "pads", "dilation", "ceil_mode", "count_pad")
def _avg_pool(c: Call) -> None:
    _pool(c, "AveragePool", count_include_pad=int(c.p["count_pad"]))


_REDUCE = {
    "sum": "Sum",
    "mean": "Mean",
    "max": "Max",
    "min": "Min",
    "prod": "Prod",
    "l1": "L1",
    "l2": "L2",
    "sum_square": "SumSquare",
    "log_sum_exp": "LogSumExp",
}


def _left_over(order: Order, gone: set[int], keep: bool) -> Order:
    """The order of what a reduction leaves, in terms of its own axes."""
    if keep:
        return order
    left = [k for k in order if k not in gone]
    return tuple(sorted(left).index(k) for k in left)


@row("reduce", "kind", "axes", "keepdims")
def _reduce(c: Call) -> None:
    if c.has(1):
        raise c.fail("a sum to another value's shape is a part of training")
    if c.p["kind"] not in _REDUCE:
        raise c.fail(f"kind {c.p['kind']!r} has no ONNX form")
    order = c.order()
    gone = {a % c.rank() for a in c.p["axes"]} or set(range(c.rank()))
    axes = sorted(order.index(a) for a in gone) if c.p["axes"] else []
    y = reduced(c, _REDUCE[c.p["kind"]], c.x(0, order), axes, c.p["keepdims"])
    c.out(y, _left_over(order, gone, c.p["keepdims"]))


# ---- join and shape -----------------------------------------------------------------------------


@row("concat", "axis")
def _concat(c: Call) -> None:
    order = c.order()
    inputs = [c.x(i, order) for i in range(len(c.inputs))]
    c.out(c.node("Concat", inputs, axis=c.axis(c.p["axis"], order)), order)


@row("split", "axis", "parts", "sizes")
def _split(c: Call) -> None:
    order = c.order()
    count = len(c.outputs)
    inputs, more = [c.x(0, order)], {}
    if c.p["sizes"]:
        inputs.append(c.w.sizes(c.p["sizes"]))
    elif c.w.opset >= 18:
        more = {"num_outputs": count}
    axis = c.axis(c.p["axis"], order)
    for slot, y in enumerate(c.w.add("Split", inputs, c.name, count, axis=axis, **more)):
        c.out(y, order, slot)


@row("slice", "starts", "ends", "axes", "steps")
def _slice(c: Call) -> None:
    order, count = c.order(), len(c.p["starts"])
    axes = [c.axis(a, order) for a in (c.p["axes"] or range(count))]
    steps = c.p["steps"] or [1] * count
    lists = [c.w.sizes(values) for values in (c.p["starts"], c.p["ends"], axes, steps)]
    c.out(c.node("Slice", [c.x(0, order), *lists]), order)


@row("pad", "before", "after", "value", "mode")
def _pad(c: Call) -> None:
    order, mode = c.order(), c.p["mode"]
    if mode == "wrap" and c.w.opset < 19:
        raise c.fail("mode wrap needs opset 19")
    pads = [sizes[k] if sizes else 0 for sizes in (c.p["before"], c.p["after"]) for k in order]
    inputs = [c.x(0, order), c.w.sizes(pads)]
    if mode == "constant":
        inputs.append(c.w.constant(c.p["value"], _NUMPY[c.dtype()]))
    c.out(c.node("Pad", inputs, mode=mode), order)


@row("reshape", "shape")
def _reshape(c: Call) -> None:
    have, shape = c.shape(), list(c.p["shape"])
    order, x = c.places.like_memory(c.inputs[0]) or (native(c.rank()), "")
    if order != native(c.rank()):
        # "x's own size at that place" means another size in a tensor with moved axes
        shape = [have[k] if s == 0 and have[k] >= 0 else s for k, s in enumerate(shape)]
        if any(s == 0 and order[k] != k for k, s in enumerate(shape)):
            order, x, shape = native(c.rank()), "", list(c.p["shape"])
    c.out(c.node("Reshape", [x or c.x(), c.w.sizes(shape)]))


@row("transpose", "perm")
def _transpose(c: Call) -> None:
    rank = c.rank()
    c.same(tuple(k % rank for k in c.p["perm"] or range(rank - 1, -1, -1)))


@row("expand", "shape")
def _expand(c: Call) -> None:
    if c.has(1):
        return c.out(c.node("Expand", [c.x(), c.node("Shape", [c.x(1)])]))
    shape = [1 if s == -1 else s for s in c.p["shape"]]
    if len(shape) != c.rank():
        return c.out(c.node("Expand", [c.x(), c.w.sizes(shape)]))
    order = c.order()
    c.out(c.node("Expand", [c.x(0, order), c.w.sizes([shape[k] for k in order])]), order)


_MODES = {"nearest": "nearest", "bilinear": "linear", "cubic": "cubic"}
_ROUNDING = {
    "floor": "floor",
    "ceil": "ceil",
    "half_down": "round_prefer_floor",
    "half_up": "round_prefer_ceil",
}


def _coordinates(c: Call) -> str:
    named = str(c.p["coordinates"])
    if named == "symmetric":
        if c.w.opset < 19:
            raise c.fail("coordinates symmetric needs opset 19")
        return "half_pixel_symmetric"
    if named != "auto":
        return named
    if c.p["mode"] == "nearest":
        return "asymmetric"
    return "align_corners" if c.p["align_corners"] else "half_pixel"


def _new_size(c: Call, x: str) -> str:
    """The sizes of the result: those of x, then a given height and width or another map's."""
    spans = [c.w.sizes([k]) for k in (0, 2, 4)]
    own = c.node("Slice", [c.node("Shape", [x]), spans[0], spans[1]])
    if c.has(1):
        map_size = c.node("Slice", [c.node("Shape", [c.x(1, c.first(1))]), spans[1], spans[2]])
    else:
        map_size = c.w.sizes(c.p["size"])
    return c.node("Concat", [own, map_size], axis=0)


@row(
    "resize",
    "mode",
    "align_corners",
    "scale",
    "size",
    "coordinates",
    "rounding",
    "cubic_a",
    "exclude_outside",
)
def _resize(c: Call) -> None:
    mode, x = c.p["mode"], c.x(0, c.first())
    attributes: dict[str, Any] = {
        "mode": _MODES[mode],
        "coordinate_transformation_mode": _coordinates(c),
    }
    if mode == "nearest":
        attributes["nearest_mode"] = _ROUNDING[c.p["rounding"]]
    if mode == "cubic":
        attributes["cubic_coeff_a"] = c.p["cubic_a"]
        attributes["exclude_outside"] = int(c.p["exclude_outside"])
    if c.p["scale"]:
        scales = c.w.constant([1, 1, *c.p["scale"]], np.float32, "scales")
        inputs = [x, "", scales]
    else:
        inputs = [x, "", "", _new_size(c, x)]
    c.out(c.node("Resize", inputs, **attributes), c.first())


@row("space_to_depth", "block")
def _space_to_depth(c: Call) -> None:
    c.out(c.node("SpaceToDepth", [c.x(0, c.first())], blocksize=c.p["block"]), c.first())


@row("depth_to_space", "block")
def _depth_to_space(c: Call) -> None:
    y = c.node("DepthToSpace", [c.x(0, c.first())], blocksize=c.p["block"], mode="DCR")
    c.out(y, c.first())


@row("channel_shuffle", "groups")
def _channel_shuffle(c: Call) -> None:
    """Reshape, Transpose, Reshape, as engines know it; by index where the map's size is free."""
    groups, channels = c.p["groups"], c.shape()[-1]
    order = c.first()
    sizes = [c.shape()[k] for k in order]
    x = c.x(0, order)
    if any(s < 0 for s in sizes[2:]):
        index = np.arange(channels).reshape(groups, -1).T.ravel()
        return c.out(c.node("Gather", [x, c.w.sizes(index.tolist())], axis=1), order)
    split = c.node("Reshape", [x, c.w.sizes([0, groups, channels // groups, *sizes[2:]])])
    turned = c.node("Transpose", [split], perm=[0, 2, 1, *range(3, 1 + len(sizes))])
    c.out(c.node("Reshape", [turned, c.w.sizes([0, channels, *sizes[2:]])]), order)


# ---- index --------------------------------------------------------------------------------------


@row("gather", "axis")
def _gather(c: Call) -> None:
    order = c.order() if c.rank(1) == 1 else native(c.rank())
    inputs = [c.x(0, order), c.x(1)]
    y = c.node("Gather", inputs, axis=c.axis(c.p["axis"], order))
    c.out(y, order if c.rank(1) == 1 else None)


@row("gather_elements", "axis")
def _gather_elements(c: Call) -> None:
    order = c.order()
    inputs = [c.x(0, order), c.x(1, order)]
    c.out(c.node("GatherElements", inputs, axis=c.axis(c.p["axis"], order)), order)


@row("suppress", "iou", "conf", "max_det", "centre")
def _suppress(c: Call) -> None:
    s = Suppression(c.p["conf"], c.p["iou"], c.p["max_det"])
    c.out(survivors(c.w, c.x(0), c.x(1), s, c.p["centre"]))


@row("arg_max", "axis", "minimum", "keepdims", "last")
def _arg_max(c: Call) -> None:
    order, axis = c.order(), c.p["axis"] % c.rank()
    y = c.node(
        "ArgMin" if c.p["minimum"] else "ArgMax",
        [c.x(0, order)],
        axis=order.index(axis),
        keepdims=int(c.p["keepdims"]),
        select_last_index=int(c.p["last"]),
    )
    y = c.node("Cast", [y], to=ELEMENT[c.places.dtype(c.outputs[0])])
    c.out(y, _left_over(order, {axis}, c.p["keepdims"]))


@row("top_k", "k", "axis", "smallest")
def _top_k(c: Call) -> None:
    order = c.order()
    inputs = [c.x(0, order), c.w.sizes([c.p["k"]])]
    more = {"axis": c.axis(c.p["axis"], order), "largest": int(not c.p["smallest"])}
    values, index = c.w.add("TopK", inputs, c.name, 2, **more)
    c.out(values, order)
    if len(c.outputs) > 1:
        c.out(c.node("Cast", [index], to=ELEMENT[c.places.dtype(c.outputs[1])]), order, 1)


# ---- border and training ------------------------------------------------------------------------

_NUMPY: dict[str, Any] = {"f32": np.float32, "u8": np.uint8, "s8": np.int8, "s32": np.int32}


def _scales(c: Call, dtype: str, order: Order) -> tuple[list[str], dict[str, int]]:
    """Scale and zero point, for one value or one a channel."""
    scale, zero = np.asarray(c.p["scale"], np.float32), np.asarray(c.p["zero"] or [0.0])
    if scale.size == zero.size == 1:
        scale, zero = scale.reshape(()), zero.reshape(())
    else:
        count = max(scale.size, zero.size)
        scale, zero = np.broadcast_to(scale, count), np.broadcast_to(zero, count)
    inputs = [c.w.constant(scale, np.float32, "scale"), c.w.constant(zero, _NUMPY[dtype], "zero")]
    return inputs, {"axis": c.axis(-1, order)} if scale.ndim else {}


@row("quantize", "scale", "zero", "dtype")
def _quantize(c: Call) -> None:
    order = c.order()
    inputs, more = _scales(c, c.p["dtype"], order)
    c.out(c.node("QuantizeLinear", [c.x(0, order), *inputs], **more), order)


@row("dequantize", "scale", "zero")
def _dequantize(c: Call) -> None:
    if c.dtype() == "f32":
        return c.same()
    if any(z != math.floor(z) for z in c.p["zero"]):
        raise c.fail(f"zero is {c.p['zero']}, whole numbers are needed")
    order = c.order()
    inputs, more = _scales(c, c.dtype(), order)
    c.out(c.node("DequantizeLinear", [c.x(0, order), *inputs], **more), order)


_RANGE = {"u8": (0, 255), "s8": (-128, 127), "s32": (-(2**31), 2**31 - 128)}


@row("cast", "dtype")
def _cast(c: Call) -> None:
    """What does not fit is undefined in ONNX, and the nearest end of the range with us."""
    to, order = c.p["dtype"], c.order()
    x = c.x(0, order)
    if to == c.dtype():
        return c.same()
    if c.dtype() == "f32":
        low, high = (c.w.constant(v) for v in _RANGE[to])
        x = c.node("Clip", [x, low, high])
    elif to != "f32" and (c.dtype(), to) not in (("u8", "s32"), ("s8", "s32")):
        low, high = (c.w.constant(v, np.int32) for v in _RANGE[to])
        x = c.node("Clip", [c.node("Cast", [x], to=ELEMENT["s32"]), low, high])
    c.out(c.node("Cast", [x], to=ELEMENT[to]), order)


@row("dropout", "p")
def _dropout(c: Call) -> None:
    c.same()


@row("stop_gradient")
def _stop_gradient(c: Call) -> None:
    c.same()
