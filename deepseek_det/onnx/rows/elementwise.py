"""Rows that work on each element alone: they take values as they are stored."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from deepseek_det.onnx import layout
from deepseek_det.onnx.build import (
    DTYPES,
    Builder,
    Const,
    Row,
    Unsupported,
    Value,
    operator,
    stored_type,
)
from deepseek_det.onnx.dims import Size, unequal
from deepseek_det.onnx.ir import Node
from deepseek_det.onnx.layout import Val
from deepseek_det.onnx.read import TYPES
from deepseek_det.onnx.rows.shape import widened

FLOAT_MAX = 3.4028234663852886e38


def float_val(b: Builder, node: Node, i: int) -> Val:
    """Input i, which must hold floats."""
    v = b.val(node, i)
    if v.dtype != "f32":
        raise Unsupported(f"input {i} has elements of type {v.dtype}, floats are needed")
    return v


def unary(b: Builder, v: Val, kind: str, bounds: tuple[float, ...] = ()) -> Val:
    """A function of each element; bounds: its a, or a and b."""
    params = {"kind": kind, **dict(zip("ab", bounds, strict=False))}
    return replace(v, id=b.emit("unary", [v.id], params))


# ---- functions of one -------------------------------------------------------------------------

# Rows that are the engine's own functions under another name.
_PLAIN = {
    "Relu": "relu",
    "Sigmoid": "sigmoid",
    "Tanh": "tanh",
    "Erf": "erf",
    "Exp": "exp",
    "Log": "log",
    "Sqrt": "sqrt",
    "Abs": "abs",
    "Neg": "neg",
    "Softplus": "softplus",
    "HardSwish": "hard_swish",
    "Mish": "mish",
    "Softsign": "softsign",
    "Reciprocal": "reciprocal",
    "Floor": "floor",
    "Ceil": "ceil",
    "Round": "round",
    "Sign": "sign",
    "Sin": "sin",
    "Cos": "cos",
}


def _enter(name: str, kind: str) -> None:
    def row(b: Builder, node: Node) -> list[Value]:
        return [unary(b, float_val(b, node, 0), kind)]

    operator(name)(row)


for _name, _kind in _PLAIN.items():
    _enter(_name, _kind)


@operator("Silu")  # made by idioms
def silu(b: Builder, node: Node) -> list[Value]:
    return [unary(b, float_val(b, node, 0), "silu")]


@operator("LeakyRelu", "alpha")
def leaky_relu(b: Builder, node: Node) -> list[Value]:
    alpha = float(node.attributes.get("alpha", 0.01))
    return [unary(b, float_val(b, node, 0), "leaky_relu", (alpha,))]


@operator("Elu", "alpha")
def elu(b: Builder, node: Node) -> list[Value]:
    alpha = float(node.attributes.get("alpha", 1.0))
    return [unary(b, float_val(b, node, 0), "elu", (alpha,))]


@operator("Celu", "alpha")
def celu(b: Builder, node: Node) -> list[Value]:
    """alpha · elu(x / alpha), whose slope is 1 at 0."""
    alpha = float(node.attributes.get("alpha", 1.0))
    if alpha == 0:
        raise ValueError("alpha is 0")
    v = with_number(b, "mul", float_val(b, node, 0), 1 / alpha)
    return [with_number(b, "mul", unary(b, v, "elu", (1.0,)), alpha)]


@operator("Selu", "alpha", "gamma")
def selu(b: Builder, node: Node) -> list[Value]:
    alpha = float(node.attributes.get("alpha", 1.67326319217681884765625))
    gamma = float(node.attributes.get("gamma", 1.05070102214813232421875))
    return [unary(b, float_val(b, node, 0), "selu", (alpha, gamma))]


@operator("Gelu", "approximate")
def gelu(b: Builder, node: Node) -> list[Value]:
    form = node.attributes.get("approximate", "none")
    if form not in ("none", "tanh"):
        raise ValueError(f"approximate is {form!r}")
    return [unary(b, float_val(b, node, 0), "gelu" if form == "none" else "gelu_tanh")]


@operator("ThresholdedRelu", "alpha")
def thresholded_relu(b: Builder, node: Node) -> list[Value]:
    """x where it is above alpha, else 0."""
    x = float_val(b, node, 0)
    limit = Const("", np.asarray([float(node.attributes.get("alpha", 1.0))], np.float32))
    above = converted(b, replace(binary(b, "greater", x, number(limit)), dtype="bool"), "f32")
    return [binary(b, "mul", x, above)]


@operator("Clip", "min", "max", inputs=(1, 3))
def clip(b: Builder, node: Node) -> list[Value]:
    low = b.number(node, 1, "min") if b.has(node, 1) else node.attributes.get("min", -math.inf)
    high = b.number(node, 2, "max") if b.has(node, 2) else node.attributes.get("max", math.inf)
    low, high = max(float(low), -FLOAT_MAX), min(float(high), FLOAT_MAX)
    v = float_val(b, node, 0)
    if low == 0 and high >= FLOAT_MAX:
        return [unary(b, v, "relu")]
    if low > high:  # ONNX: then everything is max
        low = high
    return [unary(b, v, "clip", (low, high))]


@operator("HardSigmoid", "alpha", "beta")
def hard_sigmoid(b: Builder, node: Node) -> list[Value]:
    """clip(alpha·x + beta, 0, 1); with alpha 1/6 and beta 1/2 it has a name of its own."""
    alpha = float(node.attributes.get("alpha", 0.2))
    beta = float(node.attributes.get("beta", 0.5))
    v = float_val(b, node, 0)
    if math.isclose(alpha, 1 / 6, rel_tol=1e-5) and beta == 0.5:
        return [unary(b, v, "hard_sigmoid")]
    return [unary(b, v, "ramp", (alpha, beta))]


@operator("PRelu", inputs=(2, 2))
def prelu(b: Builder, node: Node) -> list[Value]:
    """Its slope learns."""
    x = float_val(b, node, 0)
    ids, like = together(b, [x, b.value(node, 1)], "trainable")
    if like.dims != x.dims:
        raise ValueError(f"the slope is larger than x, which is {x.dims}")
    return [replace(like, id=b.emit("prelu", ids, {}))]


# ---- functions of two -------------------------------------------------------------------------


def with_number(b: Builder, kind: str, v: Val, value: float) -> Val:
    """A function of each element and a number: binary with a constant of one element."""
    const = number(Const("", np.asarray([value], np.float32)))
    id = b.parameter(const, const.array, role="constant")
    return replace(v, id=b.emit("binary", [v.id, id], {"kind": kind}))


def number(const: Const) -> Const:
    """A constant of one element, under a name that says its value."""
    return Const(f"number.{const.array.reshape(()).item()!r}", const.array)


def broadcast_dims(dims: Sequence[Sequence[Size]]) -> list[Size]:
    """The shape that shapes of the same rank broadcast to."""
    made = list(dims[0])
    for other in dims[1:]:
        for k, size in enumerate(other):
            if made[k] == 1:
                made[k] = size
            elif size != 1 and unequal(made[k], size):
                raise ValueError(f"{tuple(dims[0])} and {tuple(other)} do not broadcast")
            elif isinstance(size, int) and size != 1:
                made[k] = size  # a free one must be this
    return made


def together(b: Builder, values: Sequence[Value], role: str = "constant") -> tuple[list[int], Val]:
    """Operands stored alike, so that they broadcast as they lie.

    The graph's values, and a Val of the result's shape whose id and type are the first one's.
    role: of the constants among them.
    """
    found = [v for v in values if isinstance(v, Val)]
    if found and all(_alike(v, found[0]) or _single(v) for v in values):
        ids = [v.id if isinstance(v, Val) else _placed(b, v, 1, (0,), role) for v in values]
        ranks = [v.rank if isinstance(v, Val) else v.array.ndim for v in values]
        return ids, widened(found[0], max(ranks))
    ranks = [v.rank if isinstance(v, Val) else v.array.ndim for v in values]
    rank = max(ranks)
    wide = [widened(v, rank) if isinstance(v, Val) else v for v in values]
    vals = [v for v in wide if isinstance(v, Val)]
    if not vals:  # constants alone: as they are
        vals = [b.constant(v) for v in values if isinstance(v, Const)]
        wide = [widened(v, rank) for v in vals]
        vals = [v for v in wide if isinstance(v, Val)]
    lead = max(vals, key=lambda v: sum(bool(axis) for axis in v.logical))
    lead, perm = b.aligned(lead)
    dims = broadcast_dims(
        [
            v.dims if isinstance(v, Val) else (1,) * (rank - v.array.ndim) + v.array.shape
            for v in wide
        ]
    )
    ids = [
        layout.by_axes(b, v, perm).id if isinstance(v, Val) else _placed(b, v, rank, perm, role)
        for v in wide
    ]
    return ids, Val.plain(ids[0], dims, vals[0].dtype, perm)


def _alike(v: Value, first: Val) -> bool:
    if not isinstance(v, Val):
        return False
    return (v.sizes, v.stored, v.logical) == (first.sizes, first.stored, first.logical)


def _single(v: Value) -> bool:
    return isinstance(v, Const) and v.array.size == 1


def _placed(b: Builder, const: Const, rank: int, perm: Sequence[int], role: str) -> int:
    """A constant stored in an order of axes, without the axes of size 1 in front."""
    if const.array.size == 1:
        return b.parameter(const, const.array.reshape(1), "", role)
    array = const.array.reshape((1,) * (rank - const.array.ndim) + const.array.shape)
    array = array.transpose(perm)
    while array.ndim > 1 and array.shape[0] == 1:
        array = array[0]
    same = array.size == max(array.shape)
    tag = "" if same or list(perm) == list(range(rank)) else "".join(map(str, perm))
    return b.parameter(const, array, tag, role)


def binary(b: Builder, kind: str, x: Value, y: Value) -> Val:
    """A function of two, with broadcasting: of floats, or of whole numbers of 32 bits.

    The latter are places and counts; what does not fit 32 bits fails the run.
    """
    found = [v.dtype for v in (x, y) if isinstance(v, Val)]
    whole = all(v.array.dtype.kind in "iu" for v in (x, y) if isinstance(v, Const))
    if found and set(found) == {"s32"} and whole and kind != "pow":
        ids, like = typed(b, [x, y], ["s32", "s32"])
        return replace(like, id=b.emit("binary", ids, {"kind": kind}), dtype="s32")
    for v in (x, y):
        if isinstance(v, Val) and v.dtype != "f32":
            raise Unsupported(f"an operand has elements of type {v.dtype}, floats are needed")
    ids, like = together(b, [x, y])
    return replace(like, id=b.emit("binary", ids, {"kind": kind}), dtype="f32")


_TWO = {"Add": "add", "Sub": "sub", "Mul": "mul", "Div": "div", "Pow": "pow"}
_COMPARE = {
    "Equal": "equal",
    "Less": "less",
    "LessOrEqual": "less_equal",
    "Greater": "greater",
    "GreaterOrEqual": "greater_equal",
}


def _row_of_two(kind: str) -> Row:
    def row(b: Builder, node: Node) -> list[Value]:
        if kind == "pow" and b.const(node, 1) is not None:
            array = b.need_const(node, 1, "the exponent").array
            power = float(array.reshape(()).item()) if array.size == 1 else None
            x = b.val(node, 0)
            if power == 2.0:
                return [binary(b, "mul", x, x)]
            if power == 1.0:
                return [x]
            if power == 0.5:
                return [unary(b, x, "sqrt")]
        return [binary(b, kind, b.value(node, 0), b.value(node, 1))]

    return row


def _row_of_comparison(kind: str) -> Row:
    def row(b: Builder, node: Node) -> list[Value]:
        ids, like = typed(b, [b.value(node, 0), b.value(node, 1)])
        return [replace(like, id=b.emit("binary", ids, {"kind": kind}), dtype="bool")]

    return row


for _name, _kind in _TWO.items():
    operator(_name, inputs=(2, 2))(_row_of_two(_kind))
for _name, _kind in _COMPARE.items():
    operator(_name, inputs=(2, 2))(_row_of_comparison(_kind))


def _of_many(kind: str, mean: bool = False) -> Row:
    def row(b: Builder, node: Node) -> list[Value]:
        values = [b.value(node, i) for i in range(len(node.inputs))]
        if len(values) == 1:
            return [values[0]]
        made = functools.reduce(lambda x, y: binary(b, kind, x, y), values)
        assert isinstance(made, Val)
        return [with_number(b, "mul", made, 1.0 / len(values)) if mean else made]

    return row


operator("Sum", inputs=(1, 256))(_of_many("add"))
operator("Max", inputs=(1, 256))(_of_many("max"))
operator("Min", inputs=(1, 256))(_of_many("min"))
operator("Mean", inputs=(1, 256))(_of_many("add", mean=True))


# ---- truth ------------------------------------------------------------------------------------


@operator("Where", inputs=(3, 3))
def where(b: Builder, node: Node) -> list[Value]:
    values = [b.value(node, i) for i in range(3)]
    found = [v.dtype for v in values[1:] if isinstance(v, Val)] or ["f32"]
    ids, like = typed(b, values, ["bool", found[0], found[0]])
    return [replace(like, id=b.emit("where", ids, {}), dtype=found[0])]


def typed(b: Builder, values: Sequence[Value], dtypes: Sequence[str] = ()) -> tuple[list[int], Val]:
    """As `together`, of these types; none: all of the first value's. Constants are converted."""
    if not dtypes:
        dtypes = [next((v.dtype for v in values if isinstance(v, Val)), "f32")] * len(values)
    for value, dtype in zip(values, dtypes, strict=True):
        if isinstance(value, Val) and value.dtype != dtype:
            raise ValueError(f"an operand is {value.dtype}, {dtype} is needed")
    ids, like = together(b, values)
    for i, (value, dtype) in enumerate(zip(values, dtypes, strict=True)):
        if isinstance(value, Const) and dtype != "f32":  # the store holds floats
            ids[i] = b.emit("cast", [ids[i]], {"dtype": stored_type(dtype)})
    return ids, like


def _row_of_truth(kind: str) -> Row:
    def row(b: Builder, node: Node) -> list[Value]:
        ids, like = typed(b, [b.value(node, 0), b.value(node, 1)], ["bool", "bool"])
        return [replace(like, id=b.emit("binary", ids, {"kind": kind}), dtype="bool")]

    return row


for _name, _kind in {"And": "and", "Or": "or", "Xor": "xor"}.items():
    operator(_name, inputs=(2, 2))(_row_of_truth(_kind))


@operator("Not")
def not_(b: Builder, node: Node) -> list[Value]:
    """It equals false."""
    false = number(Const("", np.zeros(1, np.float32)))
    ids, like = typed(b, [b.val(node, 0), false], ["bool", "bool"])
    return [replace(like, id=b.emit("binary", ids, {"kind": "equal"}), dtype="bool")]


# ---- types ------------------------------------------------------------------------------------


@operator("Cast", "to", "saturate")
def cast(b: Builder, node: Node) -> list[Value]:
    to: Any = node.attributes.get("to")
    if to not in TYPES:
        raise Unsupported(f"to element type {to}, which is not supported")
    dtype = DTYPES.get(np.dtype(TYPES[to][0]))
    if dtype is None:
        raise Unsupported(f"to {np.dtype(TYPES[to][0])}, which is not supported")
    return [converted(b, b.val(node, 0), dtype)]


@operator("CastLike", "saturate", inputs=(2, 2))
def cast_like(b: Builder, node: Node) -> list[Value]:
    like = b.value(node, 1)
    dtype = like.dtype if isinstance(like, Val) else DTYPES.get(like.array.dtype)
    if dtype is None:
        raise Unsupported("to a type that is not supported")
    return [converted(b, b.val(node, 0), dtype)]


def converted(b: Builder, v: Val, dtype: str) -> Val:
    """The value in another type; any number but 0 is true."""
    if v.dtype == dtype or (v.dtype == "bool" and dtype == "u8"):
        return replace(v, dtype=dtype)
    if dtype == "bool":
        if v.dtype != "f32":
            v = converted(b, v, "f32")
        zero = number(Const("", np.zeros(1, np.float32)))
        made = binary(b, "not_equal", v, zero)
        return replace(made, dtype="bool")
    id = b.emit("cast", [v.id], {"dtype": stored_type(dtype)})
    return replace(v, id=id, dtype=dtype)
