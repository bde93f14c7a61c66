"""Rows with weights: convolutions, matrix products, norms; and the quantization border."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from deepseek_det.onnx import fold, layout
from deepseek_det.onnx.build import Builder, Const, Unsupported, Value, operator
from deepseek_det.onnx.dims import Size, Undecided, product, unequal
from deepseek_det.onnx.ir import Array, Node
from deepseek_det.onnx.layout import Val
from deepseek_det.onnx.rows.elementwise import binary, broadcast_dims, float_val, with_number
from deepseek_det.onnx.rows.pool import Windows, as_before, as_map, integers
from deepseek_det.onnx.rows.shape import widened


def weight(b: Builder, node: Node, i: int, decay: bool, dims: tuple[int, ...] = ()) -> int:
    """Input i as a parameter that learns, or as a value of the graph stored in the file's order.

    dims: another shape of the same elements.
    """
    value = b.value(node, i)
    if isinstance(value, Const):
        array = value.array.reshape(dims) if dims else value.array
        return b.parameter(value, array, decay=decay)
    v = layout.in_order(b, value)
    if dims:
        return b.emit("reshape", [v.id], {"shape": list(dims)})
    return v.id


def known_dims(b: Builder, node: Node, i: int) -> list[int]:
    """The shape of input i, which must not be free."""
    value = b.value(node, i)
    dims = value.array.shape if isinstance(value, Const) else value.dims
    return [int(d) for d in dims]


def bias(b: Builder, node: Node, i: int, channels: int) -> list[int]:
    """Input i as a bias, where there is one."""
    if not b.has(node, i):
        return []
    if known_dims(b, node, i) != [channels]:
        raise ValueError(f"the bias has the shape {known_dims(b, node, i)}, {[channels]} is needed")
    return [weight(b, node, i, decay=False)]


# ---- convolutions -----------------------------------------------------------------------------


@operator(
    "Conv", "auto_pad", "dilations", "group", "kernel_shape", "pads", "strides", inputs=(2, 3)
)
def conv(b: Builder, node: Node) -> list[Value]:
    x = b.val(node, 0)
    rank = x.rank
    x = as_map(b, x)
    shape = known_dims(b, node, 1)
    if len(shape) != rank:
        raise ValueError(f"the weight has {len(shape)} dimensions, x has {rank}")
    groups = int(node.attributes.get("group", 1))
    n, c, *map_ = x.dims
    kernel = node.attributes.get("kernel_shape", shape[2:])
    if list(kernel) != shape[2:]:
        raise ValueError(f"kernel_shape is {kernel}, the weight has {shape[2:]}")
    if groups < 1 or unequal(c, shape[1] * groups) or shape[0] % groups or 0 in shape:
        raise ValueError(f"the weight is {shape} with {groups} groups, x has {c} channels")
    w = Windows(node, x, rank, kernel)
    dims = [n, shape[0], *w.out(map_)]
    four = (*shape[:2], 1, shape[2]) if rank == 3 else ()
    inputs = [x.id, weight(b, node, 1, True, four), *bias(b, node, 2, shape[0])]
    params = {**w.params("stride", "pads", "dilation"), "groups": groups}
    id = b.emit("conv", inputs, params)
    return [as_before(Val.plain(id, dims, "f32", layout.NHWC), rank)]


@operator(
    "ConvTranspose",
    "auto_pad",
    "dilations",
    "group",
    "kernel_shape",
    "output_padding",
    "output_shape",
    "pads",
    "strides",
    inputs=(2, 3),
)
def conv_transpose(b: Builder, node: Node) -> list[Value]:
    """Its weight is (C, O/groups, kh, kw); `output_shape` and SAME tell the pads."""
    x = b.val(node, 0)
    rank = x.rank
    x = as_map(b, x)
    shape = known_dims(b, node, 1)
    groups = int(node.attributes.get("group", 1))
    n, c, *map_ = x.dims
    if len(shape) != rank or 0 in shape or groups < 1 or unequal(c, shape[0]) or shape[0] % groups:
        raise ValueError(f"the weight is {shape} with {groups} groups, x is {x.dims}")
    kernel = node.attributes.get("kernel_shape", shape[2:])
    if list(kernel) != shape[2:]:
        raise ValueError(f"kernel_shape is {kernel}, the weight has {shape[2:]}")
    w = Windows(node, x, rank, kernel, turned=True)
    more = [0] * (4 - rank) + integers(node, "output_padding", rank - 2, 0, 0)
    wanted = node.attributes.get("output_shape")
    if wanted is not None:
        wanted = [1] * (4 - rank) + integers(node, "output_shape", rank - 2, 0, 1)
    same = str(node.attributes.get("auto_pad", "NOTSET"))
    dims: list[Size] = [n, shape[1] * groups]
    for k, size in enumerate(map_):
        reach = (w.kernel[k] - 1) * w.dilation[k] + 1
        full = (size - 1) * w.stride[k] + reach + more[k]
        if wanted is not None or same.startswith("SAME"):
            target = wanted[k] if wanted is not None else size * w.stride[k]
            total = full - target
            if not isinstance(total, int):
                raise Undecided(f"the pads of an output of {target} depend on {size}")
            if total < 0:  # the output goes beyond what the windows reach
                more[k] -= total
                full, total = full - total, 0
            half = total // 2
            w.before[k] = total - half if same == "SAME_LOWER" else half
            w.after[k] = total - w.before[k]
        dims.append(full - w.before[k] - w.after[k])
    four = (*shape[:2], 1, shape[2]) if rank == 3 else ()
    inputs = [x.id, weight(b, node, 1, True, four), *bias(b, node, 2, shape[1] * groups)]
    params = {**w.params("stride", "pads", "dilation"), "groups": groups}
    if any(more):
        params["output_pad"] = more
    id = b.emit("conv_transpose", inputs, params)
    return [as_before(Val.plain(id, dims, "f32", layout.NHWC), rank)]


# ---- matrix products --------------------------------------------------------------------------


@operator("Gemm", "alpha", "beta", "transA", "transB", inputs=(2, 3))
def gemm(b: Builder, node: Node) -> list[Value]:
    """alpha·A·B + beta·C; factors go into the constants where these are."""
    a = layout.in_order(b, float_val(b, node, 0))
    alpha = float(node.attributes.get("alpha", 1.0))
    beta = float(node.attributes.get("beta", 1.0))
    turn_a, turn_b = (bool(node.attributes.get(name, 0)) for name in ("transA", "transB"))
    shape = known_dims(b, node, 1)
    if a.rank != 2 or len(shape) != 2:
        raise ValueError(f"A has {a.rank} dimensions, B has {len(shape)}, 2 are needed")
    rows, inner = (a.dims[1], a.dims[0]) if turn_a else a.dims
    deep, columns = shape[::-1] if turn_b else shape
    if unequal(inner, deep):
        raise ValueError(f"A has {inner} columns, B has {deep} rows")
    inputs = [a.id, _scaled(b, node, 1, alpha, True)]
    params = {"transpose_a": turn_a, "transpose_b": turn_b}
    c = b.value(node, 2) if b.has(node, 2) else None
    dims = (() if c is None else c.array.shape if isinstance(c, Const) else c.dims) or (1,)
    vector = c is not None and dims[-1] == columns and all(d == 1 for d in dims[:-1])
    if vector:
        inputs.append(_scaled(b, node, 2, beta, False, (columns,)))
    v = Val.plain(b.emit("matmul", inputs, params), [rows, columns])
    if c is None or vector:
        return [v]
    addend = _times(c, beta) if isinstance(c, Const) else c
    if isinstance(addend, Val) and beta != 1:
        addend = with_number(b, "mul", addend, beta)
    return [binary(b, "add", v, addend)]


def _times(const: Const, factor: float) -> Const:
    if factor == 1:
        return const
    array: Array = (const.array * np.float32(factor)).astype(np.float32)
    return Const(f"{const.name}.times.{factor!r}", array)


def _scaled(
    b: Builder, node: Node, i: int, factor: float, decay: bool, dims: tuple[int, ...] = ()
) -> int:
    value = b.value(node, i)
    if isinstance(value, Const):
        value = _times(value, factor)
        array = value.array.reshape(dims) if dims else value.array
        return b.parameter(value, array, decay=decay)
    v = layout.in_order(b, value)
    if factor != 1:
        v = with_number(b, "mul", v, factor)
    return b.emit("reshape", [v.id], {"shape": list(dims)}) if dims else v.id


@operator("Linear", inputs=(3, 3))  # made by idioms
def linear(b: Builder, node: Node) -> list[Value]:
    """x · W + bias, both constant."""
    x = float_val(b, node, 0)
    deep, columns = known_dims(b, node, 1)
    if x.rank < 2 or unequal(x.dims[-1], deep):
        raise ValueError(f"{x.dims} times {[deep, columns]}")
    x = layout.in_order(b, x)
    inputs = [x.id, weight(b, node, 1, True), *bias(b, node, 2, columns)]
    return [Val.plain(b.emit("matmul", inputs, {}), [*x.dims[:-1], columns])]


@operator("MatMul", inputs=(2, 2))
def matmul(b: Builder, node: Node) -> list[Value]:
    """With a constant that has two dimensions it is a layer whose weight learns."""
    values = [b.value(node, i) for i in (0, 1)]
    operands = []
    for i, value in enumerate(values):
        if isinstance(value, Const):
            array = value.array
            if array.ndim < 1:
                raise ValueError("an operand is a number")
            role = "trainable" if array.ndim == 2 else "constant"
            id = b.parameter(value, array, role=role, decay=role == "trainable")
            operands.append(Val.plain(id, array.shape))
        else:
            operands.append(float_val(b, node, i))
    x, y = operands
    if not x.rank or not y.rank:
        raise ValueError("an operand is a number")
    vector_x, vector_y = x.rank == 1, y.rank == 1
    if vector_x:
        x = replace(x, logical=((), *x.logical))
    if vector_y:
        y = replace(y, logical=(*y.logical, ()))
    v = product_of(b, x, y)
    if vector_y:
        v = replace(v, logical=v.logical[:-1])
    if vector_x:
        at = v.rank - (1 if vector_y else 2)
        v = replace(v, logical=(*v.logical[:at], *v.logical[at + 1 :]))
    return [v]


def product_of(b: Builder, x: Val, y: Val) -> Val:
    """x (…, M, K) times y (…, K, N), leading axes broadcast; transposes go into it."""
    if unequal(x.dims[-1], y.dims[-2]):
        raise ValueError(f"{x.dims} times {y.dims}")
    rank = max(x.rank, y.rank)
    lead = broadcast_dims([widened(v, rank).dims[:-2] for v in (x, y)])
    params: dict[str, Any] = {}
    ids = []
    for v, name in ((x, "transpose_a"), (y, "transpose_b")):
        perm = list(range(v.rank))
        turned = [*perm[:-2], perm[-1], perm[-2]]
        turn = list(v.order(raw=True)) == turned and bool(v.logical[-1] and v.logical[-2])
        ids.append(layout.by_axes(b, v, turned if turn else perm).id)
        params[name] = turn
    id = b.emit("matmul", ids, params)
    return Val.plain(id, [*lead, x.dims[-2], y.dims[-1]])


# ---- norms ------------------------------------------------------------------------------------


@operator("BatchNormalization", "epsilon", "momentum", "spatial", "training_mode", inputs=(5, 5))
def batch_norm(b: Builder, node: Node) -> list[Value]:
    """Its running statistics are state; the engine's own deployment folds it into a convolution."""
    if node.attributes.get("training_mode", 0) or len([n for n in node.outputs if n]) > 1:
        raise Unsupported("training_mode is on, which is not supported")
    x = float_val(b, node, 0)
    if x.rank < 2 or node.attributes.get("spatial", 1) != 1:
        raise Unsupported(f"x has {x.rank} dimensions")
    channels = x.dims[1]
    for i in range(1, 5):
        if known_dims(b, node, i) != [channels]:
            raise ValueError(f"input {i} has the shape {known_dims(b, node, i)}, x is {x.dims}")
    x = channels_last(b, x)
    eps = float(node.attributes.get("epsilon", 1e-5))
    momentum = 1.0 - float(node.attributes.get("momentum", 0.9))
    params: dict[str, Any] = {"eps": eps, "momentum": momentum}
    values = [b.value(node, i) for i in range(1, 5)]
    inputs = []
    for i, value in enumerate(values):
        if isinstance(value, Const):
            role = "trainable" if i < 2 else "state"
            tag = "" if i < 2 else "running"
            inputs.append(b.parameter(value, value.array, tag, role))
        else:
            inputs.append(layout.in_order(b, value).id)
    return [replace(x, id=b.emit("batch_norm", [x.id, *inputs], params))]


def channels_last(b: Builder, x: Val) -> Val:
    """(N, C, …) stored as (N, …, C)."""
    if x.rank < 2:
        raise Unsupported(f"x has {x.rank} dimensions")
    return layout.by_axes(b, x, [0, *range(2, x.rank), 1])


@operator("InstanceNormalization", "epsilon", inputs=(3, 3))
def instance_norm(b: Builder, node: Node) -> list[Value]:
    """A group norm with a group a channel."""
    x = channels_last(b, float_val(b, node, 0))
    scale = [bias(b, node, i, _channels(x))[0] for i in (1, 2)]
    params = {"groups": 0, "eps": float(node.attributes.get("epsilon", 1e-5))}
    return [replace(x, id=b.emit("group_norm", [x.id, *scale], params))]


@operator("GroupNormalization", "epsilon", "num_groups", "stash_type", inputs=(3, 3))
def group_norm(b: Builder, node: Node) -> list[Value]:
    """Before opset 21 scale and bias were a value a group."""
    x = channels_last(b, float_val(b, node, 0))
    c = _channels(x)
    groups = int(node.attributes.get("num_groups", 0))
    if groups < 1 or c % groups:
        raise ValueError(f"{c} channels in {groups} groups")
    scale = []
    for i in (1, 2):
        if node.opset >= 21:
            scale += bias(b, node, i, c)
            continue
        value = b.value(node, i)
        if known_dims(b, node, i) != [groups]:
            raise ValueError(f"input {i} has the shape {known_dims(b, node, i)}")
        if isinstance(value, Const):
            scale.append(b.parameter(value, np.repeat(value.array, c // groups), "channels"))
        else:
            v = layout.in_order(b, value)
            wide = b.emit("reshape", [v.id], {"shape": [groups, 1]})
            wide = b.emit("expand", [wide], {"shape": [groups, c // groups]})
            scale.append(b.emit("reshape", [wide], {"shape": [c]}))
    params = {"groups": groups, "eps": float(node.attributes.get("epsilon", 1e-5))}
    return [replace(x, id=b.emit("group_norm", [x.id, *scale], params))]


@operator("GroupNorm", "epsilon", "num_groups", inputs=(5, 5))  # made by idioms
def group_norm_of_torch(b: Builder, node: Node) -> list[Value]:
    """x, the shape with groups, x's own shape once more, scale and bias (C, 1, 1)."""
    x = float_val(b, node, 0)
    groups = int(node.attributes["num_groups"])
    shapes = [fold.target_shape(x.dims, b.sizes(node, i, "the shape"), False) for i in (1, 2)]
    c = x.dims[1] if x.rank > 1 else 0
    own = isinstance(c, int) and c % groups == 0 and known_dims(b, node, 3) == [c, 1, 1]
    wanted = [x.dims[0], groups, product([*x.dims[2:], c // groups])] if own else []
    if not own or shapes[1] != list(x.dims) or shapes[0] != wanted:
        raise Unsupported(f"reshapes of {x.dims} around a norm to {shapes[0]} and {shapes[1]}")
    x = channels_last(b, x)
    scale = [weight(b, node, i, False, (int(c),)) for i in (3, 4)]
    params = {"groups": groups, "eps": float(node.attributes["epsilon"])}
    return [replace(x, id=b.emit("group_norm", [x.id, *scale], params))]


def _channels(x: Val) -> int:
    c = x.dims[1]
    if not isinstance(c, int):
        raise Undecided(f"the number of channels is free: {c}")
    return c


# ---- quantization -----------------------------------------------------------------------------

_BYTES = {np.dtype(np.uint8): "u8", np.dtype(np.int8): "s8"}


def _scale_and_zero(b: Builder, node: Node) -> tuple[dict[str, Any], np.dtype[Any]]:
    scale = b.number(node, 1, "the scale")
    zero, dtype = 0.0, np.dtype(np.uint8)
    if b.has(node, 2):
        array = b.need_const(node, 2, "the zero point").array
        zero, dtype = b.number(node, 2, "the zero point"), array.dtype
    return {"scale": [scale], "zero": [zero]}, dtype


@operator(
    "QuantizeLinear", "axis", "block_size", "output_dtype", "precision", "saturate", inputs=(2, 3)
)
def quantize(b: Builder, node: Node) -> list[Value]:
    v = float_val(b, node, 0)
    params, dtype = _scale_and_zero(b, node)
    if dtype not in _BYTES:
        raise Unsupported(f"to {dtype}, which is not supported")
    name = _BYTES[dtype]
    return [replace(v, id=b.emit("quantize", [v.id], {**params, "dtype": name}), dtype=name)]


@operator("DequantizeLinear", "axis", "block_size", "output_dtype", inputs=(2, 3))
def dequantize(b: Builder, node: Node) -> list[Value]:
    v = b.val(node, 0)
    if v.dtype not in ("u8", "s8"):
        raise Unsupported(f"from {v.dtype}, which is not supported")
    params, _ = _scale_and_zero(b, node)
    return [replace(v, id=b.emit("dequantize", [v.id], params), dtype="f32")]
