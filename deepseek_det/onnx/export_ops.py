"""One row an operator that can leave: what it is in ONNX, for every operator set that is written.

A row takes a `Call`, one node of the graph, and writes ONNX nodes for it. It names the attributes
that it understands; one that it does not, with another value than the initial one, is refused and
never passed over in silence. Operators without a row are those that only passes for training make.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from deepseek_det.errors import Error
from deepseek_det.onnx.export_axes import Order, Places, channels_first, native
from deepseek_det.onnx.writer import BOOL, ELEMENT, UINT8, Writer


class Call:
    """A node of the graph while it is written: attributes, inputs, and a place for the output."""

    def __init__(self, node: Any, places: Places) -> None:
        self.op: str = node["op"]
        self.name: str = node["name"]
        self.p: dict[str, Any] = node["params"]
        self.inputs: list[int] = [-1 if v is None else v for v in node["inputs"]]
        self.outputs: list[int] = node["outputs"]
        self.places = places
        self.w: Writer = places.writer

    def has(self, i: int) -> bool:
        """Whether input i is there."""
        return i < len(self.inputs) and self.inputs[i] >= 0

    def x(self, i: int = 0, order: Order | None = None) -> str:
        """Input i in an order of axes, its own by default; "" where it is absent."""
        return self.places.get(self.inputs[i], order) if self.has(i) else ""

    def shape(self, i: int = 0) -> tuple[int, ...]:
        """The sizes of input i, -1 where they are free."""
        return self.places.shape(self.inputs[i])

    def rank(self, i: int = 0) -> int:
        """How many axes input i has."""
        return len(self.shape(i))

    def dtype(self, i: int = 0) -> str:
        """Input i's type of elements."""
        return self.places.dtype(self.inputs[i])

    def order(self, i: int = 0) -> Order:
        """The order in which input i is there already."""
        return self.places.any(self.inputs[i])

    def first(self, i: int = 0) -> Order:
        """Input i's axes with the channels behind the batch."""
        return channels_first(self.rank(i))

    def axis(self, axis: int, order: Order) -> int:
        """Where one of input 0's axes is in a tensor of that order."""
        return order.index(axis % len(order))

    def node(self, op: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Writes an ONNX node of one output."""
        return self.w.node(op, inputs, self.name, **attributes)

    def out(self, tensor: str, order: Order | None = None, slot: int = 0) -> None:
        """Says which tensor is the output, in which order of axes."""
        value = self.outputs[slot]
        self.places.give(value, native(self.places.rank(value)) if order is None else order, tensor)

    def same(self, order: Order | None = None) -> None:
        """Says that the output is input 0, with its axes in `order`."""
        self.places.share(self.outputs[0], self.inputs[0], order)

    def fail(self, text: str) -> Error:
        """An error that names the node."""
        return Error(f"export: {self.op} {self.name!r}: {text}")


Row = Callable[[Call], None]
ROWS: dict[str, tuple[Row, frozenset[str]]] = {}
"""{operator: (what writes it, the attributes that are understood)}."""


def row(op: str, *attributes: str) -> Callable[[Row], Row]:
    """Enters a function in the table."""

    def enter(function: Row) -> Row:
        ROWS[op] = function, frozenset(attributes)
        return function

    return enter


# ---- compute ------------------------------------------------------------------------------------


@row("conv", "stride", "pads", "dilation", "groups")
def _conv(c: Call) -> None:
    inputs = [c.x(0, c.first()), c.x(1), *([c.x(2)] if c.has(2) else [])]
    y = c.node(
        "Conv",
        inputs,
        kernel_shape=list(c.shape(1)[2:]),
        strides=list(c.p["stride"] or (1, 1)),
        pads=list(c.p["pads"] or (0, 0, 0, 0)),
        dilations=list(c.p["dilation"] or (1, 1)),
        group=c.p["groups"],
    )
    c.out(y, c.first())


def _swapped(rank: int) -> Order:
    return (*range(rank - 2), rank - 1, rank - 2)


@row("matmul", "transpose_a", "transpose_b")
def _matmul(c: Call) -> None:
    if c.rank(0) == c.rank(1) == 2:
        inputs = [c.x(0), c.x(1), *([c.x(2)] if c.has(2) else [])]
        flags = {"transA": int(c.p["transpose_a"]), "transB": int(c.p["transpose_b"])}
        return c.out(c.node("Gemm", inputs, **flags))
    a = c.x(0, _swapped(c.rank(0)) if c.p["transpose_a"] else None)
    b = c.x(1, _swapped(c.rank(1)) if c.p["transpose_b"] else None)
    y = c.node("MatMul", [a, b])
    c.out(c.node("Add", [y, c.x(2)]) if c.has(2) else y)


# ---- norm ---------------------------------------------------------------------------------------


@row("batch_norm", "eps", "momentum", "frozen")
def _batch_norm(c: Call) -> None:
    inputs = [c.x(0, c.first()), *(c.x(i) for i in range(1, 5))]
    c.out(c.node("BatchNormalization", inputs, epsilon=c.p["eps"]), c.first())


@row("layer_norm", "eps")
def _layer_norm(c: Call) -> None:
    gamma = c.x(1) or c.w.constant(np.ones(c.shape()[-1], np.float32))
    if c.w.opset >= 17:
        inputs = [c.x(), gamma, *([c.x(2)] if c.has(2) else [])]
        return c.out(c.node("LayerNormalization", inputs, axis=-1, epsilon=c.p["eps"]))
    away = c.node("Sub", [c.x(), _reduced(c, "Mean", c.x(), [-1], True)])
    variance = _reduced(c, "Mean", c.node("Mul", [away, away]), [-1], True)
    deviation = c.node("Sqrt", [c.node("Add", [variance, c.w.constant(c.p["eps"])])])
    y = c.node("Mul", [c.node("Div", [away, deviation]), gamma])
    c.out(c.node("Add", [y, c.x(2)]) if c.has(2) else y)


@row("softmax", "axis")
def _softmax(c: Call) -> None:
    order = c.order()
    c.out(c.node("Softmax", [c.x(0, order)], axis=c.axis(c.p["axis"], order)), order)


# ---- elementwise --------------------------------------------------------------------------------

_UNARY = {
    "relu": "Relu",
    "sigmoid": "Sigmoid",
    "softplus": "Softplus",
    "tanh": "Tanh",
    "erf": "Erf",
    "exp": "Exp",
    "log": "Log",
    "sqrt": "Sqrt",
    "abs": "Abs",
    "neg": "Neg",
}
_HARD = {"alpha": 1 / 6, "beta": 0.5}


def _gelu(c: Call, x: str) -> str:
    if c.w.opset >= 20:
        return c.node("Gelu", [x])
    scaled = c.node("Mul", [x, c.w.constant(math.sqrt(0.5))])
    normal = c.node("Add", [c.node("Erf", [scaled]), c.w.constant(1)])
    return c.node("Mul", [c.node("Mul", [x, normal]), c.w.constant(0.5)])


def _mish(c: Call, x: str) -> str:
    if c.w.opset >= 18:
        return c.node("Mish", [x])
    return c.node("Mul", [x, c.node("Tanh", [c.node("Softplus", [x])])])


def _hard_swish(c: Call, x: str) -> str:
    if c.w.opset >= 14:
        return c.node("HardSwish", [x])
    return c.node("Mul", [x, c.node("HardSigmoid", [x], **_HARD)])


_COMPOSED: dict[str, Callable[[Call, str], str]] = {
    "clip": lambda c, x: c.node("Clip", [x, c.w.constant(c.p["a"]), c.w.constant(c.p["b"])]),
    "leaky_relu": lambda c, x: c.node("LeakyRelu", [x], alpha=c.p["a"]),
    "elu": lambda c, x: c.node("Elu", [x], alpha=c.p["a"]),
    "hard_sigmoid": lambda c, x: c.node("HardSigmoid", [x], **_HARD),
    "hard_swish": _hard_swish,
    "silu": lambda c, x: c.node("Mul", [x, c.node("Sigmoid", [x])]),
    "mish": _mish,
    "gelu": _gelu,
}


@row("unary", "kind", "a", "b")
def _unary(c: Call) -> None:
    kind, order = c.p["kind"], c.order()
    if kind == "identity":
        return c.same()
    x = c.x(0, order)
    if kind in _COMPOSED:
        return c.out(_COMPOSED[kind](c, x), order)
    if kind not in _UNARY:
        raise c.fail(f"kind {kind!r} has no ONNX form")
    c.out(c.node(_UNARY[kind], [x]), order)


def _together(c: Call, among: Sequence[int]) -> tuple[list[str], Order]:
    """Inputs that broadcast against each other, in an order that is there already."""
    rank = max(c.rank(i) for i in among)
    # computed values before parameters, which come in any order for nothing
    wide = [i for i in among if c.rank(i) == rank]
    wide.sort(key=lambda i: c.places.array(c.inputs[i]) is not None)
    order = c.order(wide[0])
    return [c.places.widened(c.inputs[i], order) for i in among], order


_BINARY = {
    "add": "Add",
    "sub": "Sub",
    "mul": "Mul",
    "div": "Div",
    "max": "Max",
    "min": "Min",
    "pow": "Pow",
    "equal": "Equal",
    "less": "Less",
    "less_equal": "LessOrEqual",
    "greater": "Greater",
    "greater_equal": "GreaterOrEqual",
}
_ARITHMETIC = frozenset(("add", "sub", "mul", "div", "max", "min", "pow"))


@row("binary", "kind")
def _binary(c: Call) -> None:
    kind = c.p["kind"]
    inputs, order = _together(c, (0, 1))
    if kind in _ARITHMETIC:
        return c.out(c.node(_BINARY[kind], inputs), order)
    if kind == "not_equal":
        y = c.node("Not", [c.node("Equal", inputs)])
    elif kind in _BINARY:
        y = c.node(_BINARY[kind], inputs)
    else:
        raise c.fail(f"kind {kind!r} has no ONNX form")
    # ONNX compares to booleans, we to bytes of 0 and 1
    c.out(c.node("Cast", [y], to=UINT8), order)


def _as_bool(c: Call, tensor: str) -> str:
    return c.node("Cast", [tensor], to=BOOL)


# ---- reduce -------------------------------------------------------------------------------------


def _pool(c: Call, name: str, **attributes: Any) -> None:
    x = c.x(0, c.first())
    if not c.p["kernel"]:
        return c.out(c.node(f"Global{name}", [x]), c.first())
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


@row("max_pool", "kernel", "stride", "pads", "ceil_mode")
def _max_pool(c: Call) -> None:
    _pool(c, "MaxPool")


@row("avg_pool", "kernel", "stride", "pads", "ceil_mode", "count_pad")
def _avg_pool(c: Call) -> None:
    _pool(c, "AveragePool", count_include_pad=int(c.p["count_pad"]))


# Kinds whose axes became an input with operator set 13; the others' did with 18.
_EARLY = frozenset(("Sum",))


def _reduced(c: Call, kind: str, x: str, axes: Sequence[int], keep: bool) -> str:
    """A Reduce node; no axes: over all."""
    if kind in _EARLY or c.w.opset >= 18:
        inputs = [x, c.w.sizes(axes)] if axes else [x]
        return c.node(f"Reduce{kind}", inputs, keepdims=int(keep))
    return c.node(f"Reduce{kind}", [x], axes=list(axes) or None, keepdims=int(keep))


_REDUCE = {"sum": "Sum", "mean": "Mean", "max": "Max", "min": "Min"}


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
    y = _reduced(c, _REDUCE[c.p["kind"]], c.x(0, order), axes, c.p["keepdims"])
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


@row("pad", "before", "after", "value")
def _pad(c: Call) -> None:
    order = c.order()
    pads = [sizes[k] if sizes else 0 for sizes in (c.p["before"], c.p["after"]) for k in order]
    value = c.w.constant(c.p["value"], np.float32 if c.dtype() == "f32" else _NUMPY[c.dtype()])
    c.out(c.node("Pad", [c.x(0, order), c.w.sizes(pads), value], mode="constant"), order)


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


_RESIZE = {
    ("nearest", False): ("nearest", "asymmetric", "floor"),
    ("bilinear", False): ("linear", "half_pixel", None),
    ("bilinear", True): ("linear", "align_corners", None),
}


@row("resize", "mode", "align_corners", "scale")
def _resize(c: Call) -> None:
    first = c.first()
    x = c.x(0, first)
    mode, place, rounding = _RESIZE[c.p["mode"], c.p["align_corners"]]
    attributes = {
        "mode": mode,
        "coordinate_transformation_mode": place,
        "nearest_mode": rounding,
    }
    if not c.has(1):
        scales = c.w.constant([1, 1, *c.p["scale"]], np.float32, "scales")
        return c.out(c.node("Resize", [x, "", scales], **attributes), first)
    like, spans = c.node("Shape", [c.x(1, first)]), [c.w.sizes([k]) for k in (0, 2, 4)]
    own = c.node("Slice", [c.node("Shape", [x]), spans[0], spans[1]])
    sizes = c.node("Concat", [own, c.node("Slice", [like, spans[1], spans[2]])], axis=0)
    c.out(c.node("Resize", [x, "", "", sizes], **attributes), first)


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


NOT_WRITTEN = frozenset(("conv_dx", "conv_dw", "bn_reduce", "bn_dx", "unary_dx"))
"""Operators that passes make for training only; no file for inference holds them."""
