"""Small ONNX files for the tests of the importer, and seeded changes of files."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

import deepseek_det as dd
from deepseek_det import Error

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


def stem() -> bytes:
    """A small net that has most of what the reader and the builder do."""
    rng = np.random.default_rng(0)
    return bytes(
        model(
            [
                node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1], strides=[2, 2]),
                node("BatchNormalization", ["c", "g", "b", "m", "v"], ["n"]),
                node("Sigmoid", ["n"], ["s"]),
                node("Mul", ["n", "s"], ["a"]),
                node("Shape", ["a"], ["shape"]),
                node("Gather", ["shape", "two"], ["h"], axis=0),
                node("Unsqueeze", ["h", "zero"], ["hh"]),
                node("Concat", ["ones", "hh", "rest"], ["target"], axis=0),
                node("Reshape", ["a", "target"], ["r"]),
                node("Transpose", ["r"], ["t"], perm=[0, 2, 1, 3]),
                node("Softmax", ["t"], ["p"], axis=-1),
                node("Resize", ["a", "", "scales"], ["u"], mode="linear"),
                node("Slice", ["u", "starts", "ends", "axes"], ["q"]),
                node("ReduceMean", ["q"], ["y"], axes=[2, 3], keepdims=0),
            ],
            {"x": ["n", 3, 16, 16]},
            ["p", "y"],
            {
                "w": rng.standard_normal((8, 3, 3, 3)).astype(np.float32),
                **{k: np.abs(rng.standard_normal(8)).astype(np.float32) for k in "bgmv"},
                "two": np.array(2, np.int64),
                "zero": np.array([0], np.int64),
                "ones": np.array([0, 4], np.int64),
                "rest": np.array([-1], np.int64),
                "scales": np.array([1, 1, 2, 2], np.float32),
                "starts": np.array([1], np.int64),
                "ends": np.array([-1], np.int64),
                "axes": np.array([1], np.int64),
            },
        ).SerializeToString()
    )


# ---- changes ----------------------------------------------------------------------------------


def try_bytes(data: bytes) -> bool:
    """Loads, and runs where it loads; anything but our errors fails the test."""
    try:
        net = dd.load_onnx(data)
    except Error:
        return False
    try:
        shapes = {p.name: [d or 1 + k for k, d in enumerate(p.shape)] for p in net.inputs}
        if all(np.prod(s) < 1e6 for s in shapes.values()):
            net.run({p.name: np.ones(shapes[p.name], p.dtype) for p in net.inputs})
    except (Error, ValueError, TypeError, MemoryError):
        pass
    return True


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Flipped bits, numbers at their ends, parts cut out, doubled or moved."""
    out = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 4, 16])):
        at = rng.randrange(len(out))
        kind = rng.randrange(6)
        if kind == 0:
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            out[at] = rng.choice([0, 1, 2, 0x7F, 0x80, 0xFF])
        elif kind == 2:
            del out[at : at + rng.randrange(1, 9)]
        elif kind == 3:
            out[at:at] = out[at : at + rng.randrange(1, 17)]
        elif kind == 4:
            out[at:at] = rng.randbytes(rng.randrange(1, 5))
        else:
            other = rng.randrange(len(out))
            out[at : at + 4] = out[other : other + 4]
        if not out:
            break
    return bytes(out)


def structural(m: ModelProto, rng: random.Random) -> None:
    """One change that keeps the protobuf whole: other names, counts, sizes, operators."""
    nodes, graph = m.graph.node, m.graph
    one = rng.choice(nodes)
    names = [n for each in nodes for n in (*each.input, *each.output)]
    numbers = [-(2**63), -(2**31), -2, -1, 0, 1, 2, 3, 7, 2**31, 2**40, 2**63 - 1]
    kind = rng.randrange(9)
    if kind == 0 and one.input:
        one.input[rng.randrange(len(one.input))] = rng.choice([*names, ""])
    elif kind == 1:
        one.op_type = rng.choice([n.op_type for n in nodes] + ["Loop", "Tile", "Pad", "Expand"])
    elif kind == 2 and one.attribute:
        attribute = rng.choice(one.attribute)
        attribute.i = rng.choice(numbers)
        attribute.f = rng.choice([0.0, -1.0, 1e38, float("inf"), float("nan")])
        if len(attribute.ints):
            attribute.ints[rng.randrange(len(attribute.ints))] = rng.choice(numbers)
    elif kind == 3 and one.attribute:
        rng.choice(one.attribute).type = rng.randrange(1, 12)
    elif kind == 4 and one.attribute:
        del one.attribute[rng.randrange(len(one.attribute))]
    elif kind == 5 and graph.initializer:
        tensor = rng.choice(graph.initializer)
        try:
            array = numpy_helper.to_array(tensor).copy()
        except (ValueError, MemoryError):  # an earlier change
            return
        if array.size:
            array.reshape(-1)[rng.randrange(array.size)] = rng.choice([0, 1, 2, 3, -1, 100])
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    elif kind == 6 and graph.initializer:
        tensor = rng.choice(graph.initializer)
        if len(tensor.dims):
            tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice(numbers)
    elif kind == 7:
        dim = rng.choice(graph.input).type.tensor_type.shape.dim
        if len(dim):
            rng.choice(dim).dim_value = rng.choice([-1, 0, 1, 2, 5, 17, 2**31, 2**60])
    elif kind == 8:
        nodes.insert(rng.randrange(len(nodes)), rng.choice(nodes))
