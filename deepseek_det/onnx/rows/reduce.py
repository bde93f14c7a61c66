"""Rows that sum, normalize or choose along axes."""

from __future__ import annotations

from dataclasses import replace

from deepseek_det.onnx.build import Builder, Row, Unsupported, Value, axis_of, operator
from deepseek_det.onnx.dims import product
from deepseek_det.onnx.ir import Node
from deepseek_det.onnx.layout import Val
from deepseek_det.onnx.rows.elementwise import float_val
from deepseek_det.onnx.rows.shape import axes_of


@operator("Softmax", "axis")
def softmax(b: Builder, node: Node) -> list[Value]:
    """Before opset 13, axes from `axis` on counted as one."""
    v = float_val(b, node, 0)
    axis = axis_of(int(node.attributes.get("axis", -1 if node.opset >= 13 else 1)), v.rank)
    if node.opset < 13 and product(v.dims[axis:]) != v.dims[axis]:
        from deepseek_det.onnx.rows.shape import reshaped

        flat = reshaped(b, v, [product(v.dims[:axis]), product(v.dims[axis:])])
        return [reshaped(b, _softmax(b, flat, 1), v.dims)]
    return [_softmax(b, v, axis)]


def _softmax(b: Builder, v: Val, axis: int) -> Val:
    v, perm = b.aligned(v)
    return replace(v, id=b.emit("softmax", [v.id], {"axis": perm.index(axis)}))


def reduced(b: Builder, v: Val, kind: str, axes: list[int], keep: bool) -> Val:
    """A sum, mean or extreme over logical axes."""
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
        return [reduced(b, v, kind, axes, keep)]

    return row


for _name, _kind in {
    "ReduceSum": "sum",
    "ReduceMean": "mean",
    "ReduceMax": "max",
    "ReduceMin": "min",
}.items():
    operator(_name, "axes", "keepdims", "noop_with_empty_axes", inputs=(1, 2))(_row(_kind))
