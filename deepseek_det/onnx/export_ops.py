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

from deepseek_det.onnx.export_axes import Order, Places, channels_first, native
from deepseek_det.onnx.writer import BOOL, INT32, UINT8, Writer


class Refused(Exception):
    """A node that has no ONNX form; the message names it."""


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

    def fail(self, text: str) -> Refused:
        """Why the node can't be written, with its name."""
        return Refused(f"{self.op} {self.name!r}: {text}")


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


@row("conv_transpose", "stride", "pads", "dilation", "output_pad", "groups")
def _conv_transpose(c: Call) -> None:
    inputs = [c.x(0, c.first()), c.x(1), *([c.x(2)] if c.has(2) else [])]
    y = c.node(
        "ConvTranspose",
        inputs,
        kernel_shape=list(c.shape(1)[2:]),
        strides=list(c.p["stride"] or (1, 1)),
        pads=list(c.p["pads"] or (0, 0, 0, 0)),
        dilations=list(c.p["dilation"] or (1, 1)),
        output_padding=list(c.p["output_pad"] or (0, 0)),
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


# Reductions whose axes became an input with operator set 13; the others' did with 18.
_EARLY = frozenset(("Sum",))


def reduced(c: Call, kind: str, x: str, axes: Sequence[int], keep: bool) -> str:
    """A Reduce node; no axes: over all."""
    if kind in _EARLY or c.w.opset >= 18:
        inputs = [x, c.w.sizes(axes)] if axes else [x]
        return c.node(f"Reduce{kind}", inputs, keepdims=int(keep))
    return c.node(f"Reduce{kind}", [x], axes=list(axes) or None, keepdims=int(keep))


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
    away = c.node("Sub", [c.x(), reduced(c, "Mean", c.x(), [-1], True)])
    variance = reduced(c, "Mean", c.node("Mul", [away, away]), [-1], True)
    deviation = c.node("Sqrt", [c.node("Add", [variance, c.w.constant(c.p["eps"])])])
    y = c.node("Mul", [c.node("Div", [away, deviation]), gamma])
    c.out(c.node("Add", [y, c.x(2)]) if c.has(2) else y)


@row("group_norm", "groups", "eps")
def _group_norm(c: Call) -> None:
    """By instance norm, whose channels the groups become; GroupNormalization is sound since 21."""
    channels, order = c.shape()[-1], c.first()
    groups = c.p["groups"] or channels
    x = c.x(0, order)
    if groups != channels or c.rank() < 3:
        parts = c.node("Reshape", [x, c.w.sizes([0, groups, -1])])
    else:
        parts = x
    plain = [c.w.constant(np.full(groups, v, np.float32)) for v in (1, 0)]
    y = c.node("InstanceNormalization", [parts, *plain], epsilon=c.p["eps"])
    if parts != x:
        y = c.node("Reshape", [y, c.node("Shape", [x])])
    for i, op in ((1, "Mul"), (2, "Add")):
        if c.has(i):
            y = c.node(op, [y, c.places.widened(c.inputs[i], order)])
    c.out(y, order)


@row("softmax", "axis")
@row("log_softmax", "axis")
def _softmax(c: Call) -> None:
    order, op = c.order(), "Softmax" if c.op == "softmax" else "LogSoftmax"
    c.out(c.node(op, [c.x(0, order)], axis=c.axis(c.p["axis"], order)), order)


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
    "softsign": "Softsign",
    "reciprocal": "Reciprocal",
    "floor": "Floor",
    "ceil": "Ceil",
    "round": "Round",
    "sign": "Sign",
    "sin": "Sin",
    "cos": "Cos",
}
_HARD = {"alpha": 1 / 6, "beta": 0.5}


def _gelu(c: Call, x: str) -> str:
    if c.w.opset >= 20:
        return c.node("Gelu", [x])
    scaled = c.node("Mul", [x, c.w.constant(math.sqrt(0.5))])
    normal = c.node("Add", [c.node("Erf", [scaled]), c.w.constant(1)])
    return c.node("Mul", [c.node("Mul", [x, normal]), c.w.constant(0.5)])


def _gelu_tanh(c: Call, x: str) -> str:
    """x · sigmoid(2u), u = √(2/π) · (x + 0.044715 · x³)."""
    if c.w.opset >= 20:
        return c.node("Gelu", [x], approximate="tanh")
    square = c.node("Mul", [c.node("Mul", [x, x]), c.w.constant(0.044715)])
    slope = c.node("Mul", [x, c.w.constant(math.sqrt(8 / math.pi))])
    inner = c.node("Mul", [slope, c.node("Add", [square, c.w.constant(1)])])
    return c.node("Mul", [x, c.node("Sigmoid", [inner])])


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
    "gelu_tanh": _gelu_tanh,
    "ramp": lambda c, x: c.node("HardSigmoid", [x], alpha=c.p["a"], beta=c.p["b"]),
    "selu": lambda c, x: c.node("Selu", [x], alpha=c.p["a"], gamma=c.p["b"]),
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


_ARITHMETIC = {
    "add": "Add",
    "sub": "Sub",
    "mul": "Mul",
    "div": "Div",
    "max": "Max",
    "min": "Min",
    "pow": "Pow",
}
_COMPARE = {
    "equal": "Equal",
    "not_equal": "Equal",  # and Not
    "less": "Less",
    "less_equal": "LessOrEqual",
    "greater": "Greater",
    "greater_equal": "GreaterOrEqual",
}
_LOGIC = {"and": "And", "or": "Or", "xor": "Xor"}


@row("binary", "kind")
def _binary(c: Call) -> None:
    """ONNX has booleans where we have bytes of 0 and 1; engines compare floats and int32."""
    kind = c.p["kind"]
    inputs, order = _together(c, (0, 1))
    if kind in _ARITHMETIC:
        return c.out(c.node(_ARITHMETIC[kind], inputs), order)
    if kind in _LOGIC:
        y = c.node(_LOGIC[kind], [c.node("Cast", [x], to=BOOL) for x in inputs])
    elif kind in _COMPARE:
        if c.dtype() in ("u8", "s8"):
            inputs = [c.node("Cast", [x], to=INT32) for x in inputs]
        y = c.node(_COMPARE[kind], inputs)
        y = c.node("Not", [y]) if kind == "not_equal" else y
    else:
        raise c.fail(f"kind {kind!r} has no ONNX form")
    c.out(c.node("Cast", [y], to=UINT8), order)


@row("prelu")
def _prelu(c: Call) -> None:
    inputs, order = _together(c, (0, 1))
    c.out(c.node("PRelu", inputs), order)


@row("where")
def _where(c: Call) -> None:
    (condition, a, b), order = _together(c, (0, 1, 2))
    c.out(c.node("Where", [c.node("Cast", [condition], to=BOOL), a, b]), order)


NOT_WRITTEN = frozenset(("conv_dx", "conv_dw", "bn_reduce", "bn_dx", "unary_dx"))
"""Operators that passes make for training only; no file for inference holds them."""
