"""Known nodes that move elements: shapes, parts, wholes; and quantized weights as floats."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from deepseek_det.onnx.dims import Dim, Size, Undecided
from deepseek_det.onnx.fold import (
    ALL,
    Budget,
    function,
    integers,
    is_free,
    known,
    shape_array,
    target_shape,
)
from deepseek_det.onnx.ir import Array, Node

# ---- shapes and places ------------------------------------------------------------------------


@function("Identity", "Dropout")
def _same(node: Node, arrays: Sequence[Any], budget: Budget) -> Sequence[Array]:
    return [arrays[0]]


@function("Constant", needs=0)
def _constant(node: Node, arrays: Sequence[Any], budget: Budget) -> Sequence[Array]:
    if len(node.attributes) != 1:
        raise ValueError(f"has the attributes {sorted(node.attributes)}, one value is needed")
    ((name, value),) = node.attributes.items()
    if name == "value" and isinstance(value, np.ndarray):
        return [value]
    types = {
        "value_int": np.int64,
        "value_ints": np.int64,
        "value_float": np.float32,
        "value_floats": np.float32,
    }
    if name not in types:
        raise ValueError(f"a constant by {name!r}, which is not supported")
    return [np.asarray(value, types[name])]


@function("Shape")
def _shape(node: Node, arrays: Sequence[Any], budget: Budget) -> Sequence[Array]:
    return [shape_array(shape_range(node, arrays[0].shape))]


def shape_range(node: Node, dims: Sequence[Size]) -> list[Size]:
    """Shape's `start` and `end`, since opset 15."""
    start = int(node.attributes.get("start", 0))
    end = int(node.attributes.get("end", len(dims)))
    return list(dims)[slice(start, end)]


@function("Size")
def _size(node: Node, arrays: Sequence[Any], budget: Budget) -> Sequence[Array]:
    return [np.asarray(arrays[0].size, np.int64)]


@function("Reshape", needs=2)
def _reshape(node: Node, arrays: Sequence[Any], budget: Budget) -> Sequence[Array]:
    a = arrays[0]
    wanted = integers(arrays[1], "the shape")
    shape = target_shape(a.shape, wanted, bool(node.attributes.get("allowzero", 0)))
    return [a.reshape([int(d) for d in shape])]


@function("Flatten")
def _flatten(node: Node, arrays: Sequence[Any], budget: Budget) -> Sequence[Array]:
    a = arrays[0]
    axis = int(node.attributes.get("axis", 1))
    if not -a.ndim <= axis <= a.ndim:
        raise ValueError(f"axis {axis} of {a.ndim} dimensions")
    axis = axis + a.ndim if axis < 0 else axis
    return [a.reshape(math.prod(a.shape[:axis]), -1)]


@function("Transpose")
def _transpose(node: Node, arrays: Sequence[Any], budget: Budget) -> Sequence[Array]:
    a = arrays[0]
    perm = node.attributes.get("perm", list(range(a.ndim))[::-1])
    if sorted(perm) != list(range(a.ndim)):
        raise ValueError(f"perm is {perm} for {a.ndim} dimensions")
    budget.take(a.shape, a.itemsize)
    return [np.ascontiguousarray(a.transpose(perm))]


def axes_of(node: Node, arrays: Sequence[Any], i: int) -> list[int] | None:
    """`axes`, an attribute in old files and input i in new ones; None where not given."""
    if "axes" in node.attributes:
        return [int(a) for a in node.attributes["axes"]]
    if i < len(arrays) and arrays[i] is not None:
        return [int(a) for a in integers(arrays[i], "axes")]
    return None


@function("Unsqueeze")
def _unsqueeze(node: Node, arrays: Sequence[Any], budget: Budget) -> Sequence[Array]:
    axes = axes_of(node, arrays, 1)
    if axes is None:
        raise ValueError("axes are missing")
    if arrays[0].ndim + len(axes) > 32:
        raise ValueError(f"{len(axes)} new axes")
    return [np.expand_dims(arrays[0], tuple(axes))]


@function("Squeeze")
def _squeeze(node: Node, arrays: Sequence[Any], budget: Budget) -> Sequence[Array]:
    axes = axes_of(node, arrays, 1)
    return [np.squeeze(arrays[0], None if axes is None else tuple(axes))]


@function("Concat", needs=ALL)
def _concat(node: Node, arrays: Sequence[Any], budget: Budget) -> Sequence[Array]:
    if "axis" not in node.attributes or not arrays:
        raise ValueError("axis or inputs are missing")
    budget.take([sum(a.size for a in arrays)], max(a.itemsize for a in arrays))
    return [known(np.concatenate(arrays, int(node.attributes["axis"])))]


@function("Gather", needs=2)
def _gather(node: Node, arrays: Sequence[Any], budget: Budget) -> Sequence[Array]:
    a, indices = arrays
    axis = int(node.attributes.get("axis", 0))
    if not -a.ndim <= axis < a.ndim or indices.dtype.kind not in "iu":
        raise ValueError(f"axis {axis} of {a.ndim} dimensions")
    kept = math.prod(n for k, n in enumerate(a.shape) if k != axis % a.ndim)
    budget.take([indices.size, kept], a.itemsize)
    return [known(np.asarray(np.take(a, indices.astype(np.int64), axis)))]


def cuts(node: Node, arrays: Sequence[Any], rank: int) -> list[tuple[int, Any, Any, int]]:
    """Slice's (axis, start, end, step), from attributes (opset 9) or inputs."""
    if node.opset < 10:
        starts, ends = node.attributes.get("starts"), node.attributes.get("ends")
        axes, steps = node.attributes.get("axes"), None
        if starts is None or ends is None:
            raise ValueError("starts or ends are missing")
    else:
        if len(arrays) < 3 or arrays[1] is None or arrays[2] is None:
            raise ValueError("starts or ends are missing")
        starts, ends = integers(arrays[1], "starts"), integers(arrays[2], "ends")
        axes = axes_of(node, arrays, 3)
        steps = integers(arrays[4], "steps") if len(arrays) > 4 and arrays[4] is not None else None
    axes = list(range(len(starts))) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    if not len(starts) == len(ends) == len(axes) == len(steps):
        raise ValueError("starts, ends, axes and steps differ in length")
    made = []
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        if not -rank <= axis < rank or isinstance(step, Dim) or step == 0:
            raise ValueError(f"axis {axis} of {rank} dimensions, step {step}")
        made.append((axis % rank, start, end, int(step)))
    if len({axis for axis, *_ in made}) < len(made):
        raise ValueError("an axis is named twice")
    return made


@function("Slice")
def _slice(node: Node, arrays: Sequence[Any], budget: Budget) -> Sequence[Array]:
    a = arrays[0]
    index = [slice(None)] * a.ndim
    for axis, start, end, step in cuts(node, arrays, a.ndim):
        low = -(1 << 62)
        # Python counts a negative end from the end; one before the beginning means all.
        size = a.shape[axis]
        stop: int | None = max(min(int(end), 1 << 62), low)
        if step < 0 and stop is not None and stop < -size:
            stop = None
        index[axis] = slice(max(min(int(start), 1 << 62), low), stop, step)
    return [known(np.ascontiguousarray(a[tuple(index)]))]


def split_sizes(node: Node, arrays: Sequence[Any], size: Size, outputs: int) -> list[int]:
    """The pieces of Split along an axis of `size`."""
    if isinstance(size, Dim):
        raise Undecided(f"a split of the free dimension {size}")
    wanted = node.attributes.get("split")
    if len(arrays) > 1 and arrays[1] is not None:
        wanted = integers(arrays[1], "split")
    parts = int(node.attributes.get("num_outputs", outputs))
    if wanted is None:
        if parts != outputs or parts < 1:
            raise ValueError(f"num_outputs is {parts} with {outputs} outputs")
        each = -(-size // parts)
        wanted = [min(each, size - i * each) for i in range(parts)]
    sizes = [int(w) for w in wanted]
    if len(sizes) != outputs or any(s < 1 for s in sizes) or sum(sizes) != size:
        raise ValueError(f"{size} in pieces {sizes} for {outputs} outputs")
    return sizes


@function("Split")
def _split(node: Node, arrays: Sequence[Any], budget: Budget) -> Sequence[Array]:
    a = arrays[0]
    axis = int(node.attributes.get("axis", 0))
    if not -a.ndim <= axis < a.ndim:
        raise ValueError(f"axis {axis} of {a.ndim} dimensions")
    sizes = split_sizes(node, arrays, a.shape[axis], len(node.outputs))
    budget.take(a.shape, a.itemsize)
    return [known(p) for p in np.split(a, np.cumsum(sizes)[:-1].tolist(), axis)]


@function("Expand", needs=2)
def _expand(node: Node, arrays: Sequence[Any], budget: Budget) -> Sequence[Array]:
    a = arrays[0]
    wanted = integers(arrays[1], "the shape")
    if any(isinstance(d, Dim) for d in wanted):
        raise Undecided("a constant's size depends on free dimensions")
    if len(wanted) > 32 or any(d < 0 for d in wanted):
        raise ValueError(f"the shape is {wanted}")
    dims = np.broadcast_shapes(a.shape, tuple(wanted))
    budget.take(dims, a.itemsize)
    return [np.ascontiguousarray(np.broadcast_to(a, dims))]


@function("Tile", needs=2)
def _tile(node: Node, arrays: Sequence[Any], budget: Budget) -> Sequence[Array]:
    a = arrays[0]
    repeats = integers(arrays[1], "repeats")
    if len(repeats) != a.ndim or any(isinstance(r, Dim) or r < 0 for r in repeats):
        raise ValueError(f"repeats are {repeats} for {a.ndim} dimensions")
    budget.take([n * r for n, r in zip(a.shape, repeats, strict=True)], a.itemsize)
    return [np.tile(a, repeats)]


@function("ConstantOfShape")
def _constant_of_shape(node: Node, arrays: Sequence[Any], budget: Budget) -> Sequence[Array]:
    dims = integers(arrays[0], "the shape")
    value = node.attributes.get("value", np.zeros(1, np.float32))
    if not isinstance(value, np.ndarray) or value.size != 1 or len(dims) > 32:
        raise ValueError("value is no single number")
    budget.take(dims, value.itemsize)
    return [np.full(dims, value.reshape(()).item(), value.dtype)]


@function("Range", needs=3)
def _range(node: Node, arrays: Sequence[Any], budget: Budget) -> Sequence[Array]:
    if is_free(*arrays):
        raise Undecided("a range of a free dimension")
    start, limit, delta = (a.reshape(()).item() for a in arrays)
    if delta == 0:
        raise ValueError("delta is 0")
    spread = (limit - start) / delta
    if not math.isfinite(spread):
        raise ValueError(f"from {start} to {limit} by {delta}")
    count = max(math.ceil(spread), 0)
    budget.take([count], 8)
    return [(start + np.arange(count) * delta).astype(arrays[0].dtype)]


@function("NonZero")
def _nonzero(node: Node, arrays: Sequence[Any], budget: Budget) -> Sequence[Array]:
    budget.take([arrays[0].ndim, arrays[0].size])
    return [np.asarray(np.nonzero(arrays[0]), np.int64)]


@function("Pad")
def _pad(node: Node, arrays: Sequence[Any], budget: Budget) -> Sequence[Array]:
    a = arrays[0]
    if node.attributes.get("mode", "constant") != "constant" or len(arrays) > 3:
        raise ValueError("of a constant by a mode that is not supported")
    pads = integers(arrays[1], "pads") if len(arrays) > 1 else node.attributes.get("pads", [])
    if len(pads) != 2 * a.ndim or any(p < 0 for p in pads):
        raise ValueError(f"pads are {pads} for {a.ndim} dimensions")
    value = arrays[2] if len(arrays) > 2 else node.attributes.get("value", 0)
    width = [(int(b), int(e)) for b, e in zip(pads[: a.ndim], pads[a.ndim :], strict=True)]
    budget.take([n + b + e for n, (b, e) in zip(a.shape, width, strict=True)], a.itemsize)
    fill = 0 if value is None else np.asarray(value).reshape(()).item()
    return [np.pad(a, width, constant_values=fill)]


@function("ReduceProd", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceMean")
def _reduce(node: Node, arrays: Sequence[Any], budget: Budget) -> Sequence[Array]:
    a = arrays[0]
    axes = axes_of(node, arrays, 1)
    keep = bool(node.attributes.get("keepdims", 1))
    if not axes and node.attributes.get("noop_with_empty_axes", 0):
        return [a]
    f: dict[str, Any] = {
        "ReduceProd": np.prod,
        "ReduceSum": np.sum,
        "ReduceMax": np.max,
        "ReduceMin": np.min,
        "ReduceMean": np.mean,
    }
    made = f[node.op](a, axis=tuple(axes) if axes else None, keepdims=keep)
    made = np.asarray(made)
    return [known(made) if made.dtype == object else made.astype(a.dtype)]


@function("QuantizeLinear", needs=2)
def _quantize(node: Node, arrays: Sequence[Any], budget: Budget) -> Sequence[Array]:
    """Weights that training for quantization left as floats."""
    x = arrays[0]
    if x.dtype.kind != "f" or "output_dtype" in node.attributes:
        raise ValueError(f"of {x.dtype}")
    budget.take(x.shape, 1)
    zero = arrays[2] if len(arrays) > 2 and arrays[2] is not None else np.zeros((), np.uint8)
    if zero.dtype not in (np.uint8, np.int8):
        raise ValueError(f"to {zero.dtype}")
    scale, shift = _spread(node, arrays[1], zero, x.shape)
    low, high = np.iinfo(zero.dtype).min, np.iinfo(zero.dtype).max
    steps = np.rint(x.astype(np.float32) / scale) + shift
    return [np.clip(np.nan_to_num(steps), low, high).astype(zero.dtype)]


@function("DequantizeLinear", needs=2)
def _dequantize(node: Node, arrays: Sequence[Any], budget: Budget) -> Sequence[Array]:
    """Quantized weights become the floats that they stand for."""
    q = arrays[0]
    if q.dtype.kind not in "iu" or "output_dtype" in node.attributes:
        raise ValueError(f"of {q.dtype}")
    budget.take(q.shape, 4)
    zero = arrays[2] if len(arrays) > 2 and arrays[2] is not None else np.zeros((), q.dtype)
    scale, shift = _spread(node, arrays[1], zero, q.shape)
    made = (q.astype(np.float64) - shift).astype(np.float32) * scale
    return [np.asarray(made, np.float32)]


def _spread(
    node: Node, scale: Any, zero: Any, dims: Sequence[int]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]:
    """Scale and zero point, one for all or one along `axis`, so that they broadcast to dims."""
    if int(node.attributes.get("block_size", 0)):
        raise ValueError("block_size is not supported")
    if scale.dtype.kind != "f" or not np.all(np.isfinite(scale)) or not np.all(scale > 0):
        raise ValueError("scales are not all above 0")
    shape = [1] * len(dims)
    if scale.size > 1:
        axis = int(node.attributes.get("axis", 1))
        if not -len(dims) <= axis < len(dims) or scale.shape != (dims[axis],):
            raise ValueError(f"scale has the shape {scale.shape} for x {tuple(dims)}, axis {axis}")
        shape[axis] = scale.size
    if zero.size not in (1, scale.size) or scale.size < 1:
        raise ValueError(f"scale and zero point have the shapes {scale.shape} and {zero.shape}")
    wide = np.broadcast_to(zero.reshape(-1), (scale.size,))
    return scale.astype(np.float32).reshape(shape), wide.astype(np.float64).reshape(shape)
