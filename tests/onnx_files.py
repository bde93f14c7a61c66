"""Small ONNX files for the tests of the importer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

FLOAT = TensorProto.FLOAT


def node(op: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> NodeProto:
    """A node, named by what it makes."""
    return helper.make_node(
        op, list(inputs), list(outputs), name=f"make_{outputs[0]}", **attributes
    )


def model(
    nodes: Sequence[NodeProto],
    inputs: dict[str, Sequence[Any]],
    outputs: Sequence[str],
    constants: dict[str, Any] | None = None,
    opset: int = 17,
    types: dict[str, int] | None = None,
) -> ModelProto:
    """A file of float32 values, other types by name."""
    types = types or {}
    graph = helper.make_graph(
        list(nodes),
        "net",
        [helper.make_tensor_value_info(n, types.get(n, FLOAT), s) for n, s in inputs.items()],
        [helper.make_tensor_value_info(n, types.get(n, FLOAT), None) for n in outputs],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in (constants or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def relu() -> ModelProto:
    """The smallest file that is right: for tests that then spoil it."""
    return model([node("Relu", ["x"], ["y"])], {"x": [1, 3, 4, 4]}, ["y"])
