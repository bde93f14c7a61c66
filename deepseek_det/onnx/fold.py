"""Nodes whose inputs are known are computed now, in NumPy, under a budget.

Shapes with free dimensions are arrays of objects (integers and `Dim`s): the functions of shape
arithmetic take these as well. A file can't make us compute more than the budget allows.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from deepseek_det.onnx.dims import Dim, Size, Undecided, product, quotient
from deepseek_det.onnx.ir import Array, Node

LIMIT = 64 << 20  # bytes, of one array and of all together

Function = Callable[[Node, Sequence[Any], "Budget"], Sequence[Array]]
FUNCTIONS: dict[str, Function] = {}
ALL = 1 << 30
_NEEDS: dict[str, int] = {}  # how many of its inputs a function can't do without


class Budget:
    """Bytes that computed constants may still take."""

    def __init__(self, limit: int = LIMIT) -> None:
        self.left = limit
        self.limit = limit

    def take(self, dims: Sequence[Any], itemsize: int = 8) -> None:
        """Before an array is made: ValueError when it is larger than what is left."""
        if any(isinstance(d, Dim) for d in dims):
            raise Undecided("a constant's size depends on free dimensions")
        if any(int(d) < 0 for d in dims):
            raise ValueError(f"a constant of the shape {[int(d) for d in dims]}")
        count = math.prod(int(d) for d in dims) * itemsize
        if count > self.left:
            raise ValueError(
                f"a computed constant of {count} bytes: {self.limit} are allowed in all, "
                f"{self.left} are left"
            )
        self.left -= count


def function(*names: str, needs: int = 1) -> Callable[[Function], Function]:
    """Enters a function under operators' names; needs: inputs that must be there."""

    def enter(f: Function) -> Function:
        for name in names:
            FUNCTIONS[name] = f
            _NEEDS[name] = needs
        return f

    return enter


def compute(node: Node, arrays: Sequence[Any], budget: Budget) -> Sequence[Array]:
    """The outputs of a node whose inputs are known; ValueError where it can't be."""
    needs = _NEEDS[node.op]
    if needs == ALL:
        needs = max(len(arrays), 1)
    if len(arrays) < needs or any(a is None for a in arrays[:needs]):
        raise ValueError(f"has {len(arrays)} inputs, {needs} are needed")
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return FUNCTIONS[node.op](node, arrays, budget)


def is_free(*arrays: Any) -> bool:
    """Whether one of the arrays holds free dimensions."""
    return any(a is not None and a.dtype == object for a in arrays)


def shape_array(dims: Sequence[Size]) -> Array:
    """A shape as the file's nodes see it: int64, or objects where a size is free."""
    free = any(isinstance(d, Dim) for d in dims)
    array = np.empty(len(dims), object if free else np.int64)
    for i, d in enumerate(dims):
        array[i] = d
    return array


def known(array: Array) -> Array:
    """int64 where no free dimension is left in an array of objects."""
    if array.dtype == object and not any(isinstance(v, Dim) for v in array.reshape(-1).tolist()):
        return np.asarray(array.astype(np.int64))
    return array


def integers(array: Any, what: str) -> list[Any]:
    """A list of sizes out of an array."""
    if array is None or array.ndim > 1 or array.dtype.kind not in "iuO":
        raise ValueError(f"{what} is no list of integers")
    return [v if isinstance(v, Dim) else int(v) for v in array.reshape(-1).tolist()]


def target_shape(dims: Sequence[Size], wanted: Sequence[Any], zero_is_zero: bool) -> list[Size]:
    """Reshape's rule: 0 keeps the size at that place, one -1 takes what is left."""
    shape: list[Size] = []
    rest = -1
    for k, size in enumerate(wanted):
        if isinstance(size, int) and size == 0 and not zero_is_zero:
            if k >= len(dims):
                raise ValueError(f"shape[{k}] is 0, but x has {len(dims)} dimensions")
            size = dims[k]
        elif isinstance(size, int) and size == -1:
            if rest >= 0:
                raise ValueError("the shape has two sizes of -1")
            rest = k
            size = 1
        elif isinstance(size, int) and size < 0:
            raise ValueError(f"shape[{k}] is {size}")
        shape.append(size)
    whole, part = product(list(dims)), product(shape)
    if rest >= 0:
        left = quotient(whole, part)
        if left is None and isinstance(whole, Dim):
            raise Undecided(f"whether {list(dims)} fills {list(wanted)} depends on free dimensions")
        if left is None:
            raise ValueError(f"{list(dims)} does not fill {list(wanted)}")
        shape[rest] = left
    elif isinstance(whole, int) and isinstance(part, int) and whole != part:
        raise ValueError(f"{list(dims)} does not fill {list(wanted)}")
    return shape


# ---- elementwise ------------------------------------------------------------------------------


def _broadcast(arrays: Sequence[Any], budget: Budget) -> None:
    dims = np.broadcast_shapes(*(a.shape for a in arrays))
    if len(dims) > 0:
        budget.take(dims, max(a.itemsize for a in arrays))


def _divide(a: Any, b: Any) -> Any:
    if a.dtype == object or b.dtype == object:
        return a // b
    if a.dtype.kind in "iu":
        if not np.all(b):
            raise ValueError("a division by zero")
        whole = np.abs(a) // np.abs(b)  # toward zero, as ONNX says
        return (whole * np.sign(a) * np.sign(b)).astype(a.dtype)
    return a / b


def _modulo(node: Node, arrays: Sequence[Any], budget: Budget) -> Sequence[Array]:
    a, b = arrays
    _broadcast(arrays, budget)
    if a.dtype.kind in "iu" and not np.all(b):
        raise ValueError("a division by zero")
    return [np.asarray(np.fmod(a, b) if node.attributes.get("fmod", 0) else a % b)]


def _power(a: Any, b: Any) -> Any:
    if a.dtype == object or b.dtype == object:
        raise Undecided("a power of free dimensions")
    return np.asarray(np.power(a.astype(np.float64), b)).astype(a.dtype)


def _each(f: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda a: f(a).astype(a.dtype) if a.dtype != object else a


_UNARY: dict[str, Callable[[Any], Any]] = {
    "Neg": lambda a: -a,
    "Abs": np.abs,
    "Sqrt": np.sqrt,
    "Exp": np.exp,
    "Log": np.log,
    "Floor": _each(np.floor),  # sizes are whole
    "Ceil": _each(np.ceil),
    "Round": _each(np.rint),
    "Reciprocal": np.reciprocal,
    "Sign": np.sign,
    "Not": np.logical_not,
    "Sigmoid": lambda a: 1 / (1 + np.exp(-a)),
    "Tanh": np.tanh,
    "Relu": lambda a: np.maximum(a, 0),
    "Sin": np.sin,
    "Cos": np.cos,
}
_BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "Add": lambda a, b: a + b,
    "Sub": lambda a, b: a - b,
    "Mul": lambda a, b: a * b,
    "Div": _divide,
    "Pow": _power,
    "Equal": lambda a, b: a == b,
    "Less": lambda a, b: a < b,
    "LessOrEqual": lambda a, b: a <= b,
    "Greater": lambda a, b: a > b,
    "GreaterOrEqual": lambda a, b: a >= b,
    "And": np.logical_and,
    "Or": np.logical_or,
    "Xor": np.logical_xor,
}


def _enter_elementwise() -> None:
    def unary(f: Callable[[Any], Any]) -> Function:
        def run(node: Node, arrays: Sequence[Any], budget: Budget) -> Sequence[Array]:
            budget.take(arrays[0].shape, arrays[0].itemsize)
            return [known(np.asarray(f(arrays[0])))]

        return run

    def binary(f: Callable[[Any, Any], Any]) -> Function:
        def run(node: Node, arrays: Sequence[Any], budget: Budget) -> Sequence[Array]:
            _broadcast(arrays, budget)
            a, b = arrays
            if not is_free(a, b) and a.dtype != b.dtype and node.op != "Pow":
                raise ValueError(f"operands of types {a.dtype} and {b.dtype}")
            made = np.asarray(f(_whole(a, b), _whole(b, a)))
            if made.dtype == object and f(1, 1) in (True, False) and type(f(1, 1)) is bool:
                made = made.astype(np.bool_)
            return [known(made)]

        return run

    for name, one in _UNARY.items():
        function(name)(unary(one))
    for name, two in _BINARY.items():
        function(name, needs=2)(_typed(two) if name in ("Div", "Pow") else binary(two))
    function("Mod", needs=2)(_modulo)


def _typed(f: Callable[[Any, Any], Any]) -> Function:
    def run(node: Node, arrays: Sequence[Any], budget: Budget) -> Sequence[Array]:
        _broadcast(arrays, budget)
        a, b = arrays
        return [known(np.asarray(f(_whole(a, b), _whole(b, a))))]

    return run


def _whole(a: Any, other: Any) -> Any:
    """Beside free dimensions, a float that is whole counts as an integer: h · 2.0."""
    if other.dtype != object or a.dtype == object:
        return a
    if a.dtype.kind == "f":
        if not np.all(np.isfinite(a)) or not np.array_equal(a, np.rint(a)):
            raise Undecided("free dimensions meet a broken number")
        a = a.astype(np.int64)
    return a.astype(object)


@function("Min", "Max", needs=ALL)
def _extreme(node: Node, arrays: Sequence[Any], budget: Budget) -> Sequence[Array]:
    if not arrays:
        raise ValueError("no inputs")
    _broadcast(arrays, budget)
    f = np.minimum if node.op == "Min" else np.maximum
    made = arrays[0]
    for a in arrays[1:]:
        made = f(made, a)
    return [known(np.asarray(made))]


@function("Sum", needs=ALL)
def _sum(node: Node, arrays: Sequence[Any], budget: Budget) -> Sequence[Array]:
    if not arrays:
        raise ValueError("no inputs")
    _broadcast(arrays, budget)
    made = arrays[0]
    for a in arrays[1:]:
        made = made + a
    return [known(np.asarray(made))]


@function("Where", needs=3)
def _where(node: Node, arrays: Sequence[Any], budget: Budget) -> Sequence[Array]:
    _broadcast(arrays, budget)
    if arrays[0].dtype != np.bool_:
        raise ValueError(f"the condition is {arrays[0].dtype}")
    return [known(np.asarray(np.where(*arrays)))]


@function("Clip")
def _clip(node: Node, arrays: Sequence[Any], budget: Budget) -> Sequence[Array]:
    a = arrays[0]
    budget.take(a.shape, a.itemsize)
    low = arrays[1] if len(arrays) > 1 else node.attributes.get("min")
    high = arrays[2] if len(arrays) > 2 else node.attributes.get("max")
    if low is not None:
        a = np.maximum(a, low)
    if high is not None:
        a = np.minimum(a, high)
    return [np.asarray(a).astype(arrays[0].dtype)]


@function("Cast", "CastLike", needs=1)
def _cast(node: Node, arrays: Sequence[Any], budget: Budget) -> Sequence[Array]:
    from deepseek_det.onnx.read import _TYPES

    a = arrays[0]
    if node.op == "CastLike":
        dtype = np.dtype(np.int64 if arrays[1].dtype == object else arrays[1].dtype)
    else:
        to = node.attributes.get("to")
        if to not in _TYPES:
            raise ValueError(f"to element type {to}, which is not supported")
        dtype = np.dtype(_TYPES[to][0])
    budget.take(a.shape, dtype.itemsize)
    if a.dtype == object:  # sizes stay whole numbers
        return [a]
    return [a.astype(dtype)]


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


_enter_elementwise()
