"""What a checked ONNX file is to the rest of the importer: lists and NumPy arrays."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from deepseek_det.onnx.dims import Size

Array = npt.NDArray[Any]


@dataclass
class Node:
    """A node: attributes are int, float, str, lists of these, or arrays.

    number: its place in the file, for messages. opset: the version of ONNX' own operators.
    """

    op: str
    name: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Any]
    number: int
    opset: int

    def __str__(self) -> str:
        return f"node {self.number} ({self.op}{' ' + repr(self.name) if self.name else ''})"


@dataclass(frozen=True)
class Port:
    """An input or output of the file: its name, NumPy's dtype, and its dimensions as declared.

    shape: None for a dimension that is free. sizes: the same, with free ones as symbols.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | None, ...]
    sizes: tuple[Size, ...] = field(repr=False, compare=False, default=())


@dataclass
class Model:
    """A checked file: nodes in the order in which they can run."""

    opset: int
    inputs: list[Port]
    outputs: list[Port]
    constants: dict[str, Array]
    nodes: list[Node]
    metadata: dict[str, str]

    def users(self) -> dict[str, list[Node]]:
        """The nodes that read each value; a node that reads it twice counts once."""
        found: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(node.inputs):
                if name:
                    found.setdefault(name, []).append(node)
        return found
