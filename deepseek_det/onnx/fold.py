"""Nodes whose inputs are known are computed now, in NumPy, under a budget.

Shapes with free dimensions are arrays of objects (integers and `Dim`s): the functions of shape
arithmetic take these as well. A file can't make us compute more than the budget allows.

Here are the budget, the table of functions and those of each element alone; `fold_moves` has those
that move elements.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

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
    from deepseek_det.onnx.read import TYPES

    a = arrays[0]
    if node.op == "CastLike":
        dtype = np.dtype(np.int64 if arrays[1].dtype == object else arrays[1].dtype)
    else:
        to = node.attributes.get("to")
        if to not in TYPES:
            raise ValueError(f"to element type {to}, which is not supported")
        dtype = np.dtype(TYPES[to][0])
    budget.take(a.shape, dtype.itemsize)
    if a.dtype == object:  # sizes stay whole numbers
        return [a]
    return [a.astype(dtype)]


_enter_elementwise()
