"""Collects ONNX nodes and initializers, and makes the file's model of them.

Nodes are kept as plain records, so that the operator table needs no onnx package; `Writer.model` is
the one place where protobuf messages are made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from deepseek_det.errors import Error
from deepseek_det.onnx.read import package

OPSETS = range(13, 22)
"""Versions of the default operator set that can be written."""
FLOAT, UINT8, INT8, INT32, INT64, BOOL, FLOAT16 = 1, 2, 3, 6, 7, 9, 10
"""TensorProto's numbers of element types."""
ELEMENT = {"f32": FLOAT, "u8": UINT8, "s8": INT8, "s32": INT32}
"""The same by the core's names."""


@dataclass(slots=True)
class Record:
    """A node to be: its operator, name, tensors by name ("" for an absent input), attributes."""

    op: str
    name: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Any]


@dataclass(slots=True)
class Port:
    """A graph's input or output. shape: numbers, and words for what is free."""

    name: str
    element: int
    shape: Sequence[int | str]
    doc: str = ""


@dataclass
class Writer:
    """An ONNX graph under construction.

    opset: of the default domain. Names of tensors are unique; the first that asks gets its wish.
    """

    opset: int = 17
    nodes: list[Record] = field(default_factory=list)
    initializers: dict[str, npt.NDArray[Any]] = field(default_factory=dict)
    inputs: list[Port] = field(default_factory=list)
    outputs: list[Port] = field(default_factory=list)
    _taken: dict[str, int] = field(default_factory=dict)
    _constants: dict[tuple[str, tuple[int, ...], bytes], str] = field(default_factory=dict)

    def unique(self, wish: str) -> str:
        """`wish`, or that with a number where it is taken."""
        name = wish
        while name in self._taken:
            self._taken[wish] += 1
            name = f"{wish}_{self._taken[wish]}"
        self._taken[name] = 1
        return name

    def add(
        self, op: str, inputs: Sequence[str], name: str = "", outputs: int = 1, **attributes: Any
    ) -> list[str]:
        """Appends a node and returns its outputs' names; an attribute that is None is none."""
        made = [self.unique(name or op.lower()) for _ in range(outputs)]
        kept = {key: value for key, value in attributes.items() if value is not None}
        self.nodes.append(Record(op, made[0], list(inputs), made, kept))
        return made

    def node(self, op: str, inputs: Sequence[str], name: str = "", **attributes: Any) -> str:
        """`add` for a node of one output."""
        return self.add(op, inputs, name, **attributes)[0]

    def tensor(self, array: npt.NDArray[Any], name: str) -> str:
        """An initializer of its own."""
        name = self.unique(name)
        self.initializers[name] = np.ascontiguousarray(array).reshape(array.shape)
        return name

    def constant(self, value: Any, dtype: Any = np.float32, name: str = "constant") -> str:
        """An initializer for a small constant; equal ones are one."""
        array = np.asarray(value, dtype)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = self.tensor(array, name)
        return self._constants[key]

    def sizes(self, values: Sequence[int]) -> str:
        """A constant list of whole numbers: a shape, axes, an index."""
        return self.constant(list(values), np.int64, "sizes")

    def reserve(self, names: Sequence[str]) -> None:
        """Keeps names for the graph's outputs; Error for one that is taken."""
        for name in names:
            if name in self._taken:
                raise Error(f"export: two tensors would have the name {name!r}")
            self._taken[name] = 1

    def output(self, tensor: str, port: Port) -> None:
        """Declares a tensor as the graph output of a reserved name.

        The tensor takes the name, unless it is an input, an initializer or another output.
        """
        if tensor in self.initializers or tensor in [p.name for p in (*self.inputs, *self.outputs)]:
            self.nodes.append(Record("Identity", port.name, [tensor], [port.name], {}))
        else:
            for n in self.nodes:
                n.inputs = [port.name if i == tensor else i for i in n.inputs]
                n.outputs = [port.name if o == tensor else o for o in n.outputs]
        self.outputs.append(port)

    def model(self, name: str, doc: str, metadata: Mapping[str, str]) -> Any:
        """The onnx.ModelProto. Raises Error where the onnx package is missing or too old."""
        from deepseek_det import __version__

        onnx = package()
        used = {i for n in self.nodes for i in n.inputs}
        if self.opset > onnx.defs.onnx_opset_version():
            raise Error(
                f"export: opset {self.opset} needs a newer onnx package: {onnx.__version__} knows "
                f"{onnx.defs.onnx_opset_version()}"
            )
        make = onnx.helper
        graph = make.make_graph(
            [make.make_node(n.op, n.inputs, n.outputs, n.name, **n.attributes) for n in self.nodes],
            name,
            [self._port(p) for p in self.inputs],
            [self._port(p) for p in self.outputs],
            [
                onnx.numpy_helper.from_array(array, key)
                for key, array in self.initializers.items()
                if key in used
            ],
            doc_string=doc,
        )
        opsets = [make.make_opsetid("", self.opset)]
        model = make.make_model(
            graph,
            opset_imports=opsets,
            ir_version=make.find_min_ir_version_for(opsets),
            producer_name="deepseek_det",
            producer_version=__version__,
            doc_string=doc,
        )
        make.set_model_props(model, dict(metadata))
        return model

    @staticmethod
    def _port(p: Port) -> Any:
        return package().helper.make_tensor_value_info(p.name, p.element, list(p.shape), p.doc)
