"""Rows that sum, normalize or choose along axes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from deepseek_det.onnx import layout
from deepseek_det.onnx.build import Builder, Const, Row, Unsupported, Value, axis_of, operator
from deepseek_det.onnx.dims import Undecided, product
from deepseek_det.onnx.ir import Node
from deepseek_det.onnx.layout import Val
from deepseek_det.onnx.rows.compute import weight
from deepseek_det.onnx.rows.elementwise import binary, float_val, unary, with_number
from deepseek_det.onnx.rows.pool import as_before, as_map
from deepseek_det.onnx.rows.shape import axes_of, reshaped


@operator("Softmax", "axis")
def softmax(b: Builder, node: Node) -> list[Value]:
    """exp(x) over its sum along an axis."""
    return [_along(b, node, _softmax)]


@operator("LogSoftmax", "axis")
def log_softmax(b: Builder, node: Node) -> list[Value]:
    """The logarithm of it, without one of a rounded zero."""
    return [_along(b, node, _log_softmax)]


def _log_softmax(b: Builder, v: Val, axis: int) -> Val:
    v, perm = b.aligned(v)
    return replace(v, id=b.emit("log_softmax", [v.id], {"axis": perm.index(axis)}))


def _along(b: Builder, node: Node, f: Callable[[Builder, Val, int], Val]) -> Val:
    """A function along `axis`; before opset 13, axes from there on counted as one."""
    v = float_val(b, node, 0)
    axis = axis_of(int(node.attributes.get("axis", -1 if node.opset >= 13 else 1)), v.rank)
    if node.opset < 13 and product(v.dims[axis:]) != v.dims[axis]:
        flat = reshaped(b, v, [product(v.dims[:axis]), product(v.dims[axis:])])
        return reshaped(b, f(b, flat, 1), v.dims)
    return f(b, v, axis)


def _softmax(b: Builder, v: Val, axis: int) -> Val:
    v, perm = b.aligned(v)
    return replace(v, id=b.emit("softmax", [v.id], {"axis": perm.index(axis)}))


def reduced(b: Builder, v: Val, kind: str, axes: list[int], keep: bool) -> Val:
    """A sum, mean or extreme over logical axes."""
    if kind == "mean" and v.rank == 4 and sorted(axes) == [2, 3]:  # as a pool of the whole map
        v = b.images(v)
        made = Val.plain(b.emit("avg_pool", [v.id], {}), [*v.dims[:2], 1, 1], "f32", layout.NHWC)
        return made if keep else replace(made, logical=made.logical[:2])
    v, perm = b.aligned(v)
    params = {"kind": kind, "axes": [perm.index(a) for a in axes], "keepdims": True}
    id = b.emit("reduce", [v.id], params)
    dims = [1 if k in axes else d for k, d in enumerate(v.dims)]
    made = Val.plain(id, dims, "f32", perm)
    if not keep:
        made = replace(made, logical=tuple(a for k, a in enumerate(made.logical) if k not in axes))
    return made


def _row(kind: str) -> Row:
    def row(b: Builder, node: Node) -> list[Value]:
        v = float_val(b, node, 0)
        axes = axes_of(b, node, v.rank)
        keep = bool(node.attributes.get("keepdims", 1))
        if not axes:
            if node.attributes.get("noop_with_empty_axes", 0):
                return [v]
            axes = list(range(v.rank))
        if not axes:
            raise Unsupported("x has no dimensions")
        if kind == "log_sum":
            return [unary(b, reduced(b, v, "sum", axes, keep), "log")]
        return [reduced(b, v, kind, axes, keep)]

    return row


for _name, _kind in {
    "ReduceSum": "sum",
    "ReduceMean": "mean",
    "ReduceMax": "max",
    "ReduceMin": "min",
    "ReduceProd": "prod",
    "ReduceL1": "l1",
    "ReduceL2": "l2",
    "ReduceSumSquare": "sum_square",
    "ReduceLogSumExp": "log_sum_exp",
    "ReduceLogSum": "log_sum",
}.items():
    operator(_name, "axes", "keepdims", "noop_with_empty_axes", inputs=(1, 2))(_row(_kind))


def _row_of_places(minimum: bool) -> Row:
    def row(b: Builder, node: Node) -> list[Value]:
        v = float_val(b, node, 0)
        axis = axis_of(int(node.attributes.get("axis", 0)), v.rank)
        v, perm = b.aligned(v)
        params = {
            "axis": perm.index(axis),
            "minimum": minimum,
            "keepdims": True,
            "last": bool(node.attributes.get("select_last_index", 0)),
        }
        dims = [1 if k == axis else d for k, d in enumerate(v.dims)]
        made = Val.plain(b.emit("arg_max", [v.id], params), dims, "s32", perm)
        if not node.attributes.get("keepdims", 1):
            kept = tuple(a for k, a in enumerate(made.logical) if k != axis)
            made = replace(made, logical=kept)
        return [made]

    return row


operator("ArgMax", "axis", "keepdims", "select_last_index")(_row_of_places(False))
operator("ArgMin", "axis", "keepdims", "select_last_index")(_row_of_places(True))


@operator("TopK", "axis", "k", "largest", "sorted", inputs=(1, 2))
def top_k(b: Builder, node: Node) -> list[Value]:
    """In order, also where the file does not ask for one."""
    v = float_val(b, node, 0)
    axis = axis_of(int(node.attributes.get("axis", -1)), v.rank)
    given = [node.attributes.get("k", 0)] if node.opset < 10 else b.integers(node, 1, "k")
    size = v.dims[axis]
    if len(given) != 1 or given[0] < 1 or (isinstance(size, int) and given[0] > size):
        raise ValueError(f"k is {given} of {size}")
    v, perm = b.aligned(v)
    params = {
        "k": given[0],
        "axis": perm.index(axis),
        "smallest": not node.attributes.get("largest", 1),
    }
    dims = [given[0] if k == axis else d for k, d in enumerate(v.dims)]
    values, places = b.emit_many("top_k", [v.id], params, 0)
    return [Val.plain(values, dims, "f32", perm), Val.plain(places, dims, "s32", perm)]


# ---- norms ------------------------------------------------------------------------------------


@operator("LpNormalization", "axis", "p")
def lp_normalization(b: Builder, node: Node) -> list[Value]:
    v = float_val(b, node, 0)
    axis, p = axis_of(int(node.attributes.get("axis", -1)), v.rank), node.attributes.get("p", 2)
    if p not in (1, 2):
        raise ValueError(f"p is {p}")
    # A vector of zeros stays one.
    tiny = Const("number.tiny", np.asarray([np.finfo(np.float32).tiny], np.float32))
    norm = binary(b, "max", reduced(b, v, f"l{p}", [axis], True), tiny)
    return [binary(b, "div", v, norm)]


@operator("LayerNormalization", "axis", "epsilon", "stash_type", inputs=(2, 3))
def layer_normalization(b: Builder, node: Node) -> list[Value]:
    """Over the axes from `axis` on, taken as one."""
    v = float_val(b, node, 0)
    axis = axis_of(int(node.attributes.get("axis", -1)), v.rank)
    size = product(v.dims[axis:])
    if not isinstance(size, int):
        raise Unsupported(f"over {v.dims[axis:]}, which is free")
    flat = reshaped(b, v, [*v.dims[:axis], size])
    flat = layout.in_order(b, flat)
    inputs = [flat.id]
    for i in range(1, len(node.inputs)):
        if b.has(node, i):
            inputs.append(weight(b, node, i, False, (size,)))
    params = {"eps": float(node.attributes.get("epsilon", 1e-5))}
    made: list[Value] = [
        reshaped(b, replace(flat, id=b.emit("layer_norm", inputs, params)), v.dims)
    ]
    if len([name for name in node.outputs if name]) > 1:
        kept = [*v.dims[:axis], *[1] * (v.rank - axis)]
        mean = reduced(b, flat, "mean", [axis], True)
        apart = binary(b, "sub", flat, mean)
        variance = reduced(b, binary(b, "mul", apart, apart), "mean", [axis], True)
        spread = unary(b, with_number(b, "add", variance, params["eps"]), "sqrt")
        made += [reshaped(b, s, kept) for s in (mean, unary(b, spread, "reciprocal"))]
    return made


@operator("LayerNorm", "axis", "epsilon", inputs=(1, 3))  # made by idioms
def layer_norm(b: Builder, node: Node) -> list[Value]:
    """Over one axis, which is stored last."""
    v = float_val(b, node, 0)
    axis = axis_of(int(node.attributes["axis"]), v.rank)
    size = v.dims[axis]
    if len(node.inputs) > 1 and not isinstance(size, int):
        raise Undecided(f"a scale for {size} positions")
    v, perm = b.aligned(v)
    if perm[-1] != axis:
        v = layout.by_axes(b, v, [*(k for k in perm if k != axis), axis])
    inputs = [v.id, *(weight(b, node, i, False, (int(size),)) for i in range(1, len(node.inputs)))]
    id = b.emit("layer_norm", inputs, {"eps": float(node.attributes["epsilon"])})
    return [replace(v, id=id)]


@operator("LRN", "alpha", "beta", "bias", "size")
def local_response_norm(b: Builder, node: Node) -> list[Value]:
    """x / (bias + alpha · mean of x² over nearby channels)^beta: a pool over channels."""
    rank = b.val(node, 0).rank
    x = as_map(b, b.val(node, 0))
    size = int(node.attributes.get("size", 0))
    n, c, h, w = x.dims
    if not 1 <= size <= 1 << 10 or not isinstance(c, int):
        raise ValueError(f"size is {size} of {c} channels")
    squares = binary(b, "mul", x, x)
    rows = b.emit("reshape", [squares.id], {"shape": layout.new_shape(
        x.stored_dims, [n, product([h, w]), c, 1])})  # fmt: skip
    before = (size - 1) // 2
    params = {
        "kernel": [1, size],
        "stride": [1, 1],
        "pads": [0, before, 0, size - 1 - before],
        "count_pad": True,
    }
    # The pool slides over axis 2, which are the channels here.
    means = b.emit("avg_pool", [rows], params)
    shape = layout.new_shape([n, product([h, w]), c, 1], x.stored_dims)
    mean = replace(x, id=b.emit("reshape", [means], {"shape": shape}))
    base = with_number(b, "mul", mean, float(node.attributes.get("alpha", 1e-4)))
    base = with_number(b, "add", base, float(node.attributes.get("bias", 1.0)))
    scale = with_number(b, "pow", base, float(node.attributes.get("beta", 0.75)))
    return [as_before(binary(b, "div", x, scale), rank)]
