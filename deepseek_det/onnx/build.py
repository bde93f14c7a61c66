"""Turns a checked file into a graph over a store: node by node, in the order of the file.

A value is a `Const` (known now: weights, shapes, what follows from them) or a `Val` (known at the
run). A node whose inputs are all constant is computed at once; the others are rows of the table in
`rows`, each a function from a node to its outputs. What can't be imported is collected, so that one
error names all of it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from deepseek_det import _core
from deepseek_det.errors import Error
from deepseek_det.onnx import fold, fold_moves, layout
from deepseek_det.onnx.dims import Dim, Size, Undecided
from deepseek_det.onnx.ir import Array, Model, Node, Port
from deepseek_det.onnx.layout import Val
from deepseek_det.onnx.read import MAX_RANK, Subgraph

assert fold_moves  # its import fills the table of functions
MAX_PROBLEMS = 50  # lines of one error
MAX_NAME = 400  # bytes of a name in a store
MAX_ACTIVATION = 1 << 32  # bytes of one value at the declared sizes

# What runs on the engine as which of its types. Wider ones are computed as f32 or s32.
DTYPES = {
    np.dtype(np.float32): "f32",
    np.dtype(np.float16): "f32",
    np.dtype(np.uint8): "u8",
    np.dtype(np.int8): "s8",
    np.dtype(np.int32): "s32",
    np.dtype(np.int64): "s32",
    np.dtype(np.bool_): "bool",
}


class Unsupported(Exception):
    """A node, or a use of one, that the importer does not know."""


@dataclass(frozen=True)
class Const:
    """An array that is known now, under the name that its parameter gets.

    array: of numbers, or of objects where sizes are free (integers and `Dim`s).
    """

    name: str
    array: Array


Value = Const | Val
Row = Callable[["Builder", Node], Sequence[Value | None]]


# Attributes that are no single integer: their kind is the same wherever the name stands.
_KINDS: dict[str, str] = {
    **dict.fromkeys(
        ("alpha", "beta", "bias", "conf", "cubic_coeff_a", "epsilon", "extrapolation_value",
         "gamma", "iou", "max", "min", "momentum", "ratio", "value_float"), "a number"),
    **dict.fromkeys(
        ("approximate", "auto_pad", "coordinate_transformation_mode", "keep_aspect_ratio_policy",
         "mode", "nearest_mode"), "a text"),
    **dict.fromkeys(
        ("axes", "dilations", "ends", "kernel_shape", "output_padding", "output_shape", "pads",
         "perm", "shape", "split", "starts", "strides", "value_ints"), "integers"),
    **dict.fromkeys(("scales", "value_floats"), "numbers"),
    "value": "a number or a tensor",
}  # fmt: skip
_TESTS: dict[str, Callable[[Any], bool]] = {
    "an integer": lambda v: type(v) is int,
    "a number": lambda v: type(v) is float,
    "a text": lambda v: type(v) is str,
    "integers": lambda v: type(v) is list and all(type(x) is int for x in v),
    "numbers": lambda v: type(v) is list and all(type(x) is float for x in v),
    "a number or a tensor": lambda v: isinstance(v, float | np.ndarray),
}


def _check_attributes(node: Node) -> None:
    """A row may then take an attribute as what it is."""
    for name, value in node.attributes.items():
        kind = _KINDS.get(name, "an integer")
        if not _TESTS[kind](value):
            raise Unsupported(f"the attribute {name!r} is {str(value)[:60]}, {kind} is needed")
        flat = value if isinstance(value, list) else [value]
        if any(isinstance(v, float) and math.isnan(v) for v in flat):
            raise Unsupported(f"the attribute {name!r} is not a number")


class Broken:
    """The outputs of a node that could not be imported."""


@dataclass
class Operator:
    """A row of the table: what an operator of ONNX becomes.

    attributes: those that the row understands. first: the smallest opset that has the operator.
    """

    name: str
    row: Row
    attributes: frozenset[str]
    inputs: tuple[int, int]


TABLE: dict[str, Operator] = {}


def operator(name: str, *attributes: str, inputs: tuple[int, int] = (1, 1)) -> Callable[[Row], Row]:
    """Enters a function into the table, under an operator's name."""

    def enter(row: Row) -> Row:
        TABLE[name] = Operator(name, row, frozenset(attributes), inputs)
        return row

    return enter


class Builder:
    """The graph and the store under construction."""

    def __init__(self, model: Model, shapes: Mapping[str, Sequence[int]] | None = None) -> None:
        self.model = model
        self.graph = _core.Graph()
        self.store = _core.Store()
        self.budget = fold.Budget()
        self.env: dict[str, Value | Broken] = {}
        self.problems: list[str] = []
        self.users = model.users()
        self.node_name = ""
        self.free = ""  # an input whose free dimensions are in the way
        self._made: dict[Any, list[int]] = {}
        self._entries: dict[Any, int] = {}
        self._names: set[str] = set()
        self.inputs = fixed(model.inputs, shapes or {})
        self.spatial = any(n.op in ("Conv", "ConvTranspose", "Resize") for n in model.nodes)

    # ---- the walk ---------------------------------------------------------------------------

    def build(self) -> dict[str, Val]:
        """Adds all nodes; {output: value as the file would store it}.

        Raises Error that names all that is in the way.
        """
        for name, array in self.model.constants.items():
            self.env[name] = Const(name, array)
        for port in self.inputs:
            self.env[port.name] = self._input(port)
        for node in self.model.nodes:
            self._node(node)
        if self.problems:
            shown = self.problems[:MAX_PROBLEMS]
            more = len(self.problems) - len(shown)
            raise Error(
                f"onnx: {len(self.problems)} nodes can't be imported:\n  "
                + "\n  ".join(shown)
                + (f"\n  and {more} more" if more else "")
                + (f"\nshapes={{{self.free!r}: (…)}} fixes free dimensions" if self.free else "")
            )
        outputs = {}
        for port in self.model.outputs:
            value = self.env[port.name]
            assert not isinstance(value, Broken)
            try:
                self.node_name = self.name(port.name, of_node=True)
                if isinstance(value, Const):
                    value = self.constant(value)
                if value.rank > MAX_RANK:
                    raise Unsupported(
                        f"has {value.rank} dimensions, at most {MAX_RANK} are possible"
                    )
                outputs[port.name] = layout.in_order(self, value)
            except (Unsupported, ValueError) as error:
                raise Error(f"onnx: output {port.name!r}: {error}") from None
        return outputs

    def check(self) -> None:
        """Types of all values at the declared sizes, which the engine checks once more."""
        if any(shape is None for port in self.inputs for shape in port.shape):
            return
        shapes = [[int(d or 0) for d in port.shape] for port in self.inputs]
        try:
            types = self.graph.infer(self.store, shapes)["values"]
        except MemoryError as error:
            raise Error(f"onnx: a value is larger than 4 GiB: {error}") from None
        except (ValueError, TypeError, Error) as error:
            raise Error(f"onnx: the graph does not hold together: {error}") from None
        for found in types:
            if found is not None and math.prod(found[1]) * 4 > MAX_ACTIVATION:
                raise Error(f"onnx: a value of the shape {found[1]} is larger than 4 GiB")

    def _input(self, port: Port) -> Val:
        dtype = DTYPES.get(port.dtype)
        if dtype is None:
            raise Error(f"onnx: input {port.name!r} is {port.dtype}, which is not supported")
        dims = [d if isinstance(d, int) else -1 for d in port.sizes]
        name = self.name(port.name)
        value = Val.plain(self.graph.input(name, stored_type(dtype), dims), port.sizes, dtype)
        return value

    def _node(self, node: Node) -> None:
        """One node; what goes wrong becomes a problem, and its outputs are broken."""
        wanted = [name for name in node.inputs if name]
        if any(isinstance(self.env[name], Broken) for name in wanted):
            for name in filter(None, node.outputs):
                self.env[name] = Broken()
            if node.op in TABLE:
                return
        try:
            outputs = self._outputs(node)
            if len(outputs) < len(node.outputs) or any(
                name and value is None for name, value in zip(node.outputs, outputs, strict=False)
            ):
                raise Unsupported(f"has {len(node.outputs)} outputs")
        except (Unsupported, Error, ValueError, TypeError, ArithmeticError, LookupError) as error:
            said = f"{node}: {error}"
            if isinstance(error, Undecided):
                self.free = next((p.name for p in self.inputs if None in p.shape), "")
            self.problems.append(said)
            for name in filter(None, node.outputs):
                self.env[name] = Broken()
            return
        for name, value in zip(node.outputs, outputs, strict=False):
            if name and value is not None:
                self.env[name] = value

    def _outputs(self, node: Node) -> Sequence[Value | None]:
        row = TABLE.get(node.op)
        if any(isinstance(a, Subgraph) for a in node.attributes.values()):
            raise Unsupported("holds a graph of its own, which is not supported")
        if row is None and node.op not in fold.FUNCTIONS:
            raise Unsupported("the operator is not supported")
        constants = [self.const(node, i) for i in range(len(node.inputs))]
        fits = all(c is not None or not n for c, n in zip(constants, node.inputs, strict=True))
        if fits and node.op in fold.FUNCTIONS:
            _check_attributes(node)
            arrays = [None if c is None else c.array for c in constants]
            try:
                made = fold.compute(node, arrays, self.budget)
                return [Const(name or "", a) for name, a in zip(node.outputs, made, strict=False)]
            except Undecided:  # of free sizes: perhaps the graph can
                if row is None:
                    raise
        if row is None:
            raise Unsupported("is supported on constants only")
        low, high = row.inputs
        if not low <= len(node.inputs) <= high or not all(node.inputs[:low]):
            raise Unsupported(f"has {len(node.inputs)} inputs, {low} to {high} are needed")
        strange = sorted(set(node.attributes) - row.attributes)
        if strange:
            raise Unsupported(f"the attribute {strange[0]!r} is not known")
        _check_attributes(node)
        self.node_name = self.name(node.name or next(filter(None, node.outputs)), of_node=True)
        return row.row(self, node)

    # ---- what rows ask ----------------------------------------------------------------------

    def has(self, node: Node, i: int) -> bool:
        """Whether input i is there."""
        return i < len(node.inputs) and bool(node.inputs[i])

    def value(self, node: Node, i: int) -> Value:
        """Input i, whatever it is."""
        if not self.has(node, i):
            raise Unsupported(f"input {i} is missing")
        value = self.env[node.inputs[i]]
        assert not isinstance(value, Broken)
        return value

    def const(self, node: Node, i: int) -> Const | None:
        """Input i where it is known now."""
        value = self.env[node.inputs[i]] if self.has(node, i) else None
        return value if isinstance(value, Const) else None

    def need_const(self, node: Node, i: int, what: str) -> Const:
        """Input i, which must be known now."""
        found = self.const(node, i)
        if found is None:
            raise Unsupported(f"{what} is not constant")
        return found

    def val(self, node: Node, i: int) -> Val:
        """Input i as a value of the graph; a constant becomes a parameter that does not learn."""
        value = self.value(node, i)
        if isinstance(value, Val):
            return value
        return self.constant(value)

    def sizes(self, node: Node, i: int, what: str) -> list[Size]:
        """Input i as a list of sizes, which must be known now."""
        array = self.need_const(node, i, what).array
        if array.ndim > 1:
            raise Unsupported(f"{what} has the shape {array.shape}, one dimension is needed")
        if array.dtype.kind not in "iuO":
            raise Unsupported(f"{what} has elements of type {array.dtype}, integers are needed")
        return [v if isinstance(v, Dim) else int(v) for v in array.reshape(-1).tolist()]

    def integers(self, node: Node, i: int, what: str) -> list[int]:
        """Input i as a list of numbers, which must be known now."""
        sizes = self.sizes(node, i, what)
        for v in sizes:
            if isinstance(v, Dim):
                raise Undecided(f"{what} depends on the free dimension {v}")
        return [int(v) for v in sizes]

    def number(self, node: Node, i: int, what: str) -> float:
        """Input i as one number, which must be known now."""
        array = self.need_const(node, i, what).array
        if array.size != 1 or array.dtype.kind not in "fiub":
            raise Unsupported(f"{what} has the shape {array.shape}, one number is needed")
        return float(array.reshape(()).item())

    # ---- what rows make ---------------------------------------------------------------------

    def emit(self, op: str, inputs: Sequence[int | None], params: dict[str, Any]) -> int:
        """The first output of a node of the graph; the same node is made once."""
        return self.emit_many(op, inputs, params, 0)[0]

    def emit_many(
        self, op: str, inputs: Sequence[int | None], params: dict[str, Any], outputs: int
    ) -> list[int]:
        """All outputs of a node with `outputs` of them (0: the operator's own number)."""
        key = (op, tuple(inputs), repr(sorted(params.items())), outputs)
        if key not in self._made:
            name = self.node_name
            self._made[key] = self.graph.node(op, name, list(inputs), params, n_outputs=outputs)
        return self._made[key]

    def parameter(
        self,
        const: Const,
        array: Array,
        tag: str = "",
        role: str = "trainable",
        decay: bool = False,
    ) -> int:
        """The graph's value of a constant that went into the store as `array`, under its name.

        tag: tells two forms of the same constant apart.
        """
        key = (const.name, tag, array.shape, role)
        if key not in self._entries:
            if array.dtype.kind not in "fiub":
                raise Undecided("a constant of free dimensions meets data")
            values = np.asarray(array, np.float32, order="C")
            if array.dtype.kind in "iu" and array.size and np.abs(values).max() > 1 << 24:
                raise Unsupported(f"the constant {const.name!r} has integers beyond float32's")
            if array.size == 0:
                raise Unsupported(f"the constant {const.name!r} is empty")
            name = self.name(f"{const.name}.{tag}" if tag else const.name)
            self.store.add(name, array.shape, role, decay)
            self.store.set(name, values)
            self._entries[key] = self.graph.entry(self.store, name)
        return self._entries[key]

    def constant(self, const: Const, dims: Sequence[int] | None = None) -> Val:
        """A constant as a value that does not learn, with the shape `dims` (none: its own)."""
        array = const.array if dims is None else const.array.reshape(dims)
        id = self.parameter(const, array, role="constant")
        return Val.plain(id, array.shape)

    def name(self, wanted: str, of_node: bool = False) -> str:
        """A name like `wanted` that is short enough and, for a parameter, not taken."""
        base = wanted.encode()[: MAX_NAME - 20].decode(errors="ignore") or "value"
        base = re.sub(r"[\x00-\x1f\x7f]", "_", base)
        if of_node:
            return base
        name, i = base, 1
        while name in self._names:
            i += 1
            name = f"{base}.{i}"
        self._names.add(name)
        return name

    def output_name(self, wanted: str) -> str:
        """A name of the graph for an output of the file."""
        return self.name(wanted, of_node=True)

    def map_of_size(self, dims: Sequence[Size]) -> int | None:
        """A value stored (N, H, W, C) whose height and width are these, free ones included."""
        for value in self.env.values():
            if isinstance(value, Val) and value.rank == 4 and value.dims[2:] == tuple(dims):
                return self.images(value).id
        return None

    def like(self, dims: Sequence[Size]) -> Val | None:
        """A value with these dimensions, free ones included."""
        for value in self.env.values():
            if isinstance(value, Val) and value.dims == tuple(dims):
                return value
        return None

    def images(self, v: Val) -> Val:
        """A rank-4 value stored (N, H, W, C), as the engine's operators on maps take it."""
        if v.rank != 4:
            raise Unsupported(f"x has {v.rank} dimensions, 4 are needed")
        return layout.by_axes(self, v, layout.NHWC)

    def aligned(self, v: Val) -> tuple[Val, tuple[int, ...]]:
        """The value with one stored axis an axis, nearly as it lies, and the order of these."""
        if v.rank > MAX_RANK:
            raise Unsupported(f"a value has {v.rank} dimensions, at most {MAX_RANK} are supported")
        perm = v.order()
        if v.rank == 4 and self.spatial and perm == (0, 1, 2, 3) and self.is_input(v):
            perm = layout.NHWC
        return layout.by_axes(self, v, perm), perm

    def is_input(self, v: Val) -> bool:
        """Whether the value is an input of the graph itself."""
        return any(v.id == id for _, _, _, id in self.graph.inputs)


def stored_type(dtype: str) -> str:
    """The core's name of a value's type."""
    return "u8" if dtype == "bool" else dtype


def axis_of(axis: int, rank: int) -> int:
    """A negative axis counts from the end; ValueError where there is none such."""
    if not -rank <= axis < rank:
        raise ValueError(f"axis {axis} of {rank} dimensions")
    return axis % rank if rank else 0


def fixed(inputs: list[Port], shapes: Mapping[str, Sequence[int]]) -> list[Port]:
    """The inputs with the sizes that the caller fixes; ValueError where those are others."""
    for name in shapes:
        if all(port.name != name for port in inputs):
            raise ValueError(
                f"load_onnx: shapes names {name!r}, the inputs are {[p.name for p in inputs]}"
            )
    made = []
    for port in inputs:
        given = [int(d) for d in shapes.get(port.name, [])]
        if port.name in shapes:
            fits = len(given) == len(port.shape) and all(
                d > 0 and have in (None, d) for d, have in zip(given, port.shape, strict=True)
            )
            if not fits:
                raise ValueError(
                    f"load_onnx: shapes says {given} for {port.name!r}, which is {port.shape}"
                )
            port = Port(port.name, port.dtype, tuple(given), tuple(given))
        made.append(port)
    # A symbol that two inputs share is fixed in both.
    known = {
        str(old): new
        for before, after in zip(inputs, made, strict=True)
        for old, new in zip(before.sizes, after.sizes, strict=True)
        if isinstance(old, Dim) and isinstance(new, int)
    }
    return [substituted(port, known) for port in made]


def substituted(port: Port, known: Mapping[str, int]) -> Port:
    """The port with numbers for the symbols that are known."""
    sizes = tuple(known.get(str(s), s) if isinstance(s, Dim) else s for s in port.sizes)
    shape = tuple(s if isinstance(s, int) else None for s in sizes)
    return Port(port.name, port.dtype, shape, sizes)
