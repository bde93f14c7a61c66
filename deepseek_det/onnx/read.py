"""Reads an ONNX file strictly: every count, size and name is checked before anything is built.

The protobuf itself is read by the `onnx` package; from its messages only what is known here is
taken. No data outside the file is touched unless asked for, and then only below its folder.
"""

from __future__ import annotations

import math
import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deepseek_det.errors import Error
from deepseek_det.onnx.dims import Dim, Size
from deepseek_det.onnx.ir import Array, Model, Node, Port

FIRST_OPSET, LAST_OPSET = 7, 28
MAX_RANK = 6
MAX_NODES = 20_000
MAX_BYTES = 1 << 31  # protobuf's own limit, for a file and for a tensor outside of it

# TensorProto's element types by number: NumPy's type, and the field that holds values one by one.
TYPES: dict[int, tuple[str, str]] = {
    1: ("f4", "float_data"),
    2: ("u1", "int32_data"),
    3: ("i1", "int32_data"),
    4: ("u2", "int32_data"),
    5: ("i2", "int32_data"),
    6: ("i4", "int32_data"),
    7: ("i8", "int64_data"),
    9: ("?", "int32_data"),
    10: ("f2", "int32_data"),
    11: ("f8", "double_data"),
    12: ("u4", "uint64_data"),
    13: ("u8", "uint64_data"),
}
_NAMES = {
    8: "string",
    14: "complex64",
    15: "complex128",
    16: "bfloat16",
    17: "float8e4m3fn",
    18: "float8e4m3fnuz",
    19: "float8e5m2",
    20: "float8e5m2fnuz",
    21: "uint4",
    22: "int4",
    23: "float4e2m1",
}
_DATA_FIELDS = (
    "float_data",
    "int32_data",
    "string_data",
    "int64_data",
    "raw_data",
    "double_data",
    "uint64_data",
)


def package() -> Any:
    """The onnx package; Error with the way to install it where it is missing."""
    try:
        import onnx
    except ImportError:
        raise Error(
            "onnx: reading and writing ONNX files needs the onnx package: "
            'pip install "deepseek-det[onnx]"'
        ) from None
    return onnx


def read(source: str | os.PathLike[str] | bytes, external_data: bool = False) -> Model:
    """A checked file.

    source: a path, or the file's bytes. external_data: whether tensors may lie in other files of
    the model's folder. Raises OSError where there is no such file, Error with the reason for one
    that is damaged or contradicts itself.
    """
    folder: Path | None = None
    if isinstance(source, (bytes, bytearray, memoryview)):
        data, who = bytes(source), "the bytes"
    else:
        path = Path(source)
        who, folder = os.fspath(source), path.parent
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise Error(f"onnx: {who} has {size} bytes, at most {MAX_BYTES} are possible")
        data = path.read_bytes()
    proto = package().ModelProto()
    try:
        proto.ParseFromString(data)
    except Exception as error:  # protobuf's DecodeError: its class depends on the implementation
        if isinstance(error, MemoryError):
            raise
        raise Error(f"onnx: {who} is no ONNX file, or a damaged one") from None
    if not data or not proto.HasField("graph"):
        raise Error(f"onnx: {who} is no ONNX file: it holds no graph")
    try:
        return _Reader(folder if external_data else None).model(proto)
    except Error as error:
        raise Error(f"onnx: {who}: {error}") from None


class _Reader:
    """folder: where external tensors may lie; None: nowhere."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def model(self, proto: Any) -> Model:
        graph = proto.graph
        opset = _opset(proto)
        if len(graph.sparse_initializer):
            raise Error("sparse initializers are not supported")
        constants: dict[str, Array] = {}
        for tensor in graph.initializer:
            _words(tensor.name)
            if not tensor.name or tensor.name in constants:
                raise Error(f"initializer {tensor.name!r} is there twice or has no name")
            constants[tensor.name] = self.tensor(tensor, f"initializer {tensor.name!r}")
        # Old files list initializers among the inputs, too.
        inputs = [_port(v, "input") for v in graph.input if v.name not in constants]
        outputs = [_port(v, "output") for v in graph.output]
        _no_twins([v.name for v in graph.input], "input")
        _no_twins([v.name for v in outputs], "output")
        if not outputs:
            raise Error("the graph has no outputs")
        if len(graph.node) > MAX_NODES:
            raise Error(f"{len(graph.node)} nodes, at most {MAX_NODES} are possible")
        nodes = [self.node(n, i, opset) for i, n in enumerate(graph.node)]
        known = set(constants) | {v.name for v in inputs}
        nodes = _in_order(nodes, known)
        known.update(name for node in nodes for name in node.outputs)
        for port in outputs:
            if port.name not in known:
                raise Error(f"output {port.name!r} is made by no node")
        metadata = {p.key: p.value for p in proto.metadata_props}
        _words(*metadata, *metadata.values())
        return Model(opset, inputs, outputs, constants, nodes, metadata)

    def node(self, proto: Any, number: int, opset: int) -> Node:
        _words(proto.name, proto.op_type, proto.domain, *proto.input, *proto.output)
        domain = "" if proto.domain == "ai.onnx" else proto.domain
        op = f"{domain}::{proto.op_type}" if domain else proto.op_type
        node = Node(op, proto.name, list(proto.input), list(proto.output), {}, number, opset)
        if getattr(proto, "overload", ""):
            node.op = f"{domain}::{proto.op_type}:{proto.overload}"
        for attribute in proto.attribute:
            _words(attribute.name)
            if not attribute.name or attribute.name in node.attributes:
                raise Error(f"{node}: attribute {attribute.name!r} is there twice or has no name")
            node.attributes[attribute.name] = self.attribute(attribute, node)
        return node

    def attribute(self, proto: Any, node: Node) -> Any:
        where = f"{node}: attribute {proto.name!r}"
        if proto.ref_attr_name:
            raise Error(f"{where} refers to a function's, which is not supported")
        kind = proto.type
        if kind == 1:
            return float(proto.f)
        if kind == 2:
            return int(proto.i)
        if kind == 3:
            return _text(proto.s, where)
        if kind == 4:
            return self.tensor(proto.t, where)
        if kind == 6:
            return [float(v) for v in proto.floats]
        if kind == 7:
            return [int(v) for v in proto.ints]
        if kind == 8:
            return [_text(v, where) for v in proto.strings]
        if kind in (5, 10):
            return Subgraph()
        raise Error(f"{where} has type {kind}, numbers, texts and tensors are supported")

    def tensor(self, proto: Any, where: str) -> Array:
        """The array of a TensorProto; the data must fit its type and dimensions exactly."""
        if proto.data_type not in TYPES:
            name = _NAMES.get(proto.data_type, f"number {proto.data_type}")
            raise Error(f"{where} has elements of type {name}, which is not supported")
        dims = [int(d) for d in proto.dims]
        if any(d < 0 for d in dims) or len(dims) > 32:
            raise Error(f"{where} has the shape {dims}")
        count = math.prod(dims)
        code, field = TYPES[proto.data_type]
        dtype = np.dtype(code).newbyteorder("<")
        if proto.HasField("segment"):
            raise Error(f"{where} is a segment of a tensor, which is not supported")
        present = [f for f in _DATA_FIELDS if len(getattr(proto, f))]
        if proto.data_location == 1:
            if present:
                raise Error(f"{where} has data both inside and outside of the file")
            raw = self.external(proto, count * dtype.itemsize, where)
        elif len(proto.external_data):
            raise Error(f"{where} names external data, but says that its data is in the file")
        elif len(present) > 1:
            raise Error(f"{where} has its data twice, in {present[0]} and {present[1]}")
        elif present == ["raw_data"]:
            raw = proto.raw_data
        elif present in ([field], []):
            return _one_by_one(getattr(proto, field), dtype, count, dims, where)
        else:
            raise Error(f"{where} has its data in {present[0]}, {field} is needed")
        if len(raw) != count * dtype.itemsize:
            raise Error(
                f"{where} has {len(raw)} bytes, {count * dtype.itemsize} are needed for the shape "
                f"{dims}"
            )
        values = np.frombuffer(raw, dtype).reshape(dims)
        return _bools(values, raw, where) if code == "?" else values.astype(np.dtype(code))

    def external(self, proto: Any, bytes_needed: int, where: str) -> bytes:
        """Bytes of another file: a regular one below the model's folder, links resolved."""
        keys = {e.key: e.value for e in proto.external_data}
        _words(*keys, *keys.values())
        location = keys.get("location", "")
        if self.folder is None:
            raise Error(
                f"{where} lies in another file, {location!r}; external_data=True allows files of "
                "the model's folder"
            )
        if bytes_needed > MAX_BYTES:
            raise Error(f"{where} needs {bytes_needed} bytes, at most {MAX_BYTES} are possible")
        try:
            offset, length = int(keys.get("offset", "0")), int(keys.get("length", bytes_needed))
        except ValueError:
            raise Error(f"{where}: its offset or length is no number") from None
        parts = re.split(r"[/\\]", location)
        if not location or "\0" in location or ".." in parts or Path(location).is_absolute():
            raise Error(f"{where} lies in {location!r}, a file below the model's folder is needed")
        root = self.folder.resolve()
        try:
            path = (root / location).resolve(strict=True)
            status = path.stat()
            if not path.is_relative_to(root) or not stat.S_ISREG(status.st_mode):
                raise Error(
                    f"{where} lies in {location!r}, a regular file below the model's folder is "
                    "needed"
                )
            if length != bytes_needed or offset < 0 or offset > status.st_size - length:
                raise Error(
                    f"{where}: bytes {offset} to {offset + length} of {location!r}, which has "
                    f"{status.st_size}; {bytes_needed} are needed"
                )
            with path.open("rb") as file:
                file.seek(offset)
                data: bytes = file.read(length)
                return data
        except OSError as error:
            raise Error(f"{where}: {location!r} can't be read: {error.strerror}") from None


class Subgraph:
    """Stands for a graph inside a node (If, Loop, Scan): never looked into, always refused."""


def _opset(proto: Any) -> int:
    versions = [o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")]
    if len(versions) != 1:
        raise Error(f"the file names {len(versions)} versions of ONNX' operators, one is needed")
    opset = int(versions[0])
    if not FIRST_OPSET <= opset <= LAST_OPSET:
        raise Error(f"opset {opset}, {FIRST_OPSET} to {LAST_OPSET} are supported")
    return opset


def _words(*texts: Any) -> None:
    """Texts must be texts: protobuf hands over bytes where they are no UTF-8."""
    for text in texts:
        if not isinstance(text, str):
            raise Error(f"the name {bytes(text[:40])!r} is no UTF-8 text")


def _text(value: bytes, where: str) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise Error(f"{where} is no UTF-8 text") from None


def _no_twins(names: Sequence[str], what: str) -> None:
    seen: set[str] = set()
    for name in names:
        if not name or name in seen:
            raise Error(f"{what} {name!r} is there twice or has no name")
        seen.add(name)


def _port(value: Any, what: str) -> Port:
    """An input must say its rank and have positive sizes; an output's shape is information."""
    _words(value.name)
    where = f"{what} {value.name!r}"
    if value.type.WhichOneof("value") != "tensor_type":
        raise Error(f"{where} is no tensor, which is not supported")
    tensor = value.type.tensor_type
    if tensor.elem_type not in TYPES:
        name = _NAMES.get(tensor.elem_type, f"number {tensor.elem_type}")
        raise Error(f"{where} has elements of type {name}, which is not supported")
    dtype = np.dtype(TYPES[tensor.elem_type][0])
    if not tensor.HasField("shape"):
        if what == "input":
            raise Error(f"{where} has no shape: its number of dimensions must be known")
        return Port(value.name, dtype, ())
    sizes: list[Size] = []
    for i, dim in enumerate(tensor.shape.dim):
        given = dim.WhichOneof("value")
        if given == "dim_value" and dim.dim_value < (1 if what == "input" else 0):
            raise Error(f"{where}: dimension {i} is {dim.dim_value}, at least 1 is needed")
        if given == "dim_value":
            sizes.append(int(dim.dim_value))
        else:
            name = dim.dim_param if given == "dim_param" else ""
            _words(name)
            sizes.append(Dim.symbol(name or f"{value.name}.{i}"))
    if what == "input" and len(sizes) > MAX_RANK:
        raise Error(f"{where} has {len(sizes)} dimensions, at most {MAX_RANK} are supported")
    shape = tuple(s if isinstance(s, int) else None for s in sizes)
    return Port(value.name, dtype, shape, tuple(sizes))


def _one_by_one(field: Any, dtype: Any, count: int, dims: list[int], where: str) -> Array:
    if len(field) != count:
        raise Error(f"{where} has {len(field)} values, {count} are needed for the shape {dims}")
    if dtype.kind == "f" and dtype.itemsize == 2:  # the bits, one number each
        bits = np.asarray(field, np.int64)
        if count and (bits.min() < 0 or bits.max() > 0xFFFF):
            raise Error(f"{where} has a value outside of its type")
        return bits.astype(np.uint16).view(np.float16).reshape(dims)
    if dtype.kind == "f":
        return np.asarray(field, dtype.newbyteorder("=")).reshape(dims)
    wide = np.asarray(field, np.uint64 if dtype.kind == "u" and dtype.itemsize > 2 else np.int64)
    low, high = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    if count and (int(wide.min()) < low or int(wide.max()) > high):
        raise Error(f"{where} has a value outside of its type")
    return wide.astype(dtype.newbyteorder("=")).reshape(dims)


def _bools(values: Array, raw: bytes, where: str) -> Array:
    if np.frombuffer(raw, np.uint8).max(initial=0) > 1:
        raise Error(f"{where} has a truth value that is neither 0 nor 1")
    return values.copy()


def _in_order(nodes: list[Node], known: set[str]) -> list[Node]:
    """Sorted so that each value is made before it is read; a value is made once."""
    makers: dict[str, Node] = {}
    for node in nodes:
        if not any(node.outputs):
            raise Error(f"{node} has no outputs")
        for name in node.outputs:
            if name and (name in known or name in makers):
                raise Error(f"{node}: {name!r} is there already, a value is made once")
            if name:
                makers[name] = node
    waiting: dict[int, int] = {}
    readers: dict[str, list[Node]] = {}
    ready = []
    for node in nodes:
        needed = {name for name in node.inputs if name and name not in known}
        for name in needed:
            if name not in makers:
                raise Error(f"{node}: its input {name!r} is made by no node")
            readers.setdefault(name, []).append(node)
        waiting[node.number] = len(needed)
        if not needed:
            ready.append(node)
    order: list[Node] = []
    ready.reverse()  # files are in order nearly always: keep theirs
    while ready:
        node = ready.pop()
        order.append(node)
        for name in dict.fromkeys(filter(None, node.outputs)):
            for reader in readers.get(name, ()):
                waiting[reader.number] -= 1
                if not waiting[reader.number]:
                    ready.append(reader)
    if len(order) < len(nodes):
        stuck = next(n for n in nodes if waiting[n.number])
        raise Error(f"{stuck} is part of a cycle")
    return sorted(order, key=lambda n: n.number) if _sorted(nodes, known) else order


def _sorted(nodes: list[Node], known: set[str]) -> bool:
    seen = set(known)
    for node in nodes:
        if any(name and name not in seen for name in node.inputs):
            return False
        seen.update(node.outputs)
    return True
