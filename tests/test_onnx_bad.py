"""ONNX files that are damaged, hostile, or not supported: always an error that says so."""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import deepseek_det as dd
from deepseek_det import Error

onnx = pytest.importorskip("onnx")

from onnx import ModelProto, TensorProto, helper  # noqa: E402
from onnx_files import (  # noqa: E402
    FLOAT,
    model,
    mutated,
    node,
    relu,
    stem,
    structural,
    try_bytes,
)

Spoil = Callable[[ModelProto], None]
SPOILED: dict[str, tuple[str, Spoil]] = {}


def spoiled(name: str, message: str) -> Callable[[Spoil], Spoil]:
    def enter(f: Spoil) -> Spoil:
        SPOILED[name] = (message, f)
        return f

    return enter


def add_constant(m: ModelProto, name: str = "w", **fields: Any) -> TensorProto:
    tensor = m.graph.initializer.add(name=name, data_type=FLOAT)
    for key, value in fields.items():
        if key in ("raw_data", "data_type", "data_location"):
            setattr(tensor, key, value)
        else:
            getattr(tensor, key).extend(value)
    return tensor


# ---- the file's own contradictions ------------------------------------------------------------


@spoiled("no graph", "no graph")
def _(m: ModelProto) -> None:
    m.ClearField("graph")


@spoiled("no outputs", "no outputs")
def _(m: ModelProto) -> None:
    del m.graph.output[:]


@spoiled("an opset too old", "opset 6, 7 to")
def _(m: ModelProto) -> None:
    m.opset_import[0].version = 6


@spoiled("an opset too new", "opset 1000, 7 to")
def _(m: ModelProto) -> None:
    m.opset_import[0].version = 1000


@spoiled("no opset", "0 versions")
def _(m: ModelProto) -> None:
    del m.opset_import[:]


@spoiled("two opsets", "2 versions")
def _(m: ModelProto) -> None:
    m.opset_import.add(domain="", version=13)


@spoiled("a negative dimension", "dimension 2 is -4, at least 1")
def _(m: ModelProto) -> None:
    m.graph.input[0].type.tensor_type.shape.dim[2].dim_value = -4


@spoiled("a dimension of zero", "dimension 1 is 0, at least 1")
def _(m: ModelProto) -> None:
    m.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 0


@spoiled("ten dimensions", "has 10 dimensions, at most 6")
def _(m: ModelProto) -> None:
    shape = m.graph.input[0].type.tensor_type.shape
    for _ in range(6):
        shape.dim.add(dim_value=1)


@spoiled("10^12 elements", "larger than 4 GiB|2\\^40")
def _(m: ModelProto) -> None:
    for dim in m.graph.input[0].type.tensor_type.shape.dim:
        dim.dim_value = 1000


@spoiled("an input without a shape", "has no shape")
def _(m: ModelProto) -> None:
    m.graph.input[0].type.tensor_type.ClearField("shape")


@spoiled("an input that is no tensor", "is no tensor")
def _(m: ModelProto) -> None:
    m.graph.input[0].type.sequence_type.elem_type.tensor_type.elem_type = FLOAT


@spoiled("an input of texts", "elements of type string")
def _(m: ModelProto) -> None:
    m.graph.input[0].type.tensor_type.elem_type = TensorProto.STRING


@spoiled("an input of no known type", "elements of type number 999")
def _(m: ModelProto) -> None:
    m.graph.input[0].type.tensor_type.elem_type = 999


@spoiled("an input of doubles", "'x' is float64, which is not supported")
def _(m: ModelProto) -> None:
    m.graph.input[0].type.tensor_type.elem_type = TensorProto.DOUBLE


@spoiled("two inputs of one name", "input 'x' is there twice")
def _(m: ModelProto) -> None:
    m.graph.input.append(m.graph.input[0])


@spoiled("two outputs of one name", "output 'y' is there twice")
def _(m: ModelProto) -> None:
    m.graph.output.append(m.graph.output[0])


@spoiled("an output that nobody makes", "output 'z' is made by no node")
def _(m: ModelProto) -> None:
    m.graph.output[0].name = "z"


@spoiled("a node's input that nobody makes", "its input 'gone' is made by no node")
def _(m: ModelProto) -> None:
    m.graph.node[0].input[0] = "gone"


@spoiled("a value made twice", "'y' is there already")
def _(m: ModelProto) -> None:
    m.graph.node.append(m.graph.node[0])


@spoiled("a node that makes the input", "'x' is there already")
def _(m: ModelProto) -> None:
    m.graph.node[0].output[0] = "x"


@spoiled("a node without outputs", "has no outputs")
def _(m: ModelProto) -> None:
    del m.graph.node[0].output[:]


@spoiled("a cycle", "is part of a cycle")
def _(m: ModelProto) -> None:
    m.graph.node.append(node("Add", ["a", "x"], ["b"]))
    m.graph.node.append(node("Add", ["b", "x"], ["a"]))


@spoiled("a node that reads itself", "is part of a cycle")
def _(m: ModelProto) -> None:
    m.graph.node[0].input[0] = "y"


@spoiled("an attribute twice", "attribute 'axis' is there twice")
def _(m: ModelProto) -> None:
    m.graph.node[0].attribute.extend([helper.make_attribute("axis", 1)] * 2)


@spoiled("an attribute of another kind", "'axis' is 1.5, an integer is needed")
def _(m: ModelProto) -> None:
    m.graph.node[0].CopyFrom(node("Softmax", ["x"], ["y"], axis=1.5))


@spoiled("an attribute that is no number", "'alpha' is not a number")
def _(m: ModelProto) -> None:
    m.graph.node[0].CopyFrom(node("LeakyRelu", ["x"], ["y"], alpha=float("nan")))


@spoiled("an attribute of an unknown name", "'beta' is not known")
def _(m: ModelProto) -> None:
    m.graph.node[0].attribute.append(helper.make_attribute("beta", 1.0))


@spoiled("an attribute of a function", "refers to a function's")
def _(m: ModelProto) -> None:
    m.graph.node[0].attribute.add(name="alpha", type=1, ref_attr_name="a")


@spoiled("a text that is no UTF-8", "is no UTF-8 text")
def _(m: ModelProto) -> None:
    m.graph.node[0].attribute.add(name="mode", type=3, s=b"\xff\xfe")


@spoiled("a sparse constant", "sparse initializers")
def _(m: ModelProto) -> None:
    m.graph.sparse_initializer.add()


# ---- constants --------------------------------------------------------------------------------


@spoiled("a constant without a name", "initializer '' is there twice or has no name")
def _(m: ModelProto) -> None:
    add_constant(m, "", dims=[1], float_data=[1])


@spoiled("a constant twice", "initializer 'w' is there twice")
def _(m: ModelProto) -> None:
    add_constant(m, dims=[1], float_data=[1])
    add_constant(m, dims=[1], float_data=[1])


@spoiled("data in two fields", "has its data twice, in float_data and raw_data")
def _(m: ModelProto) -> None:
    add_constant(m, dims=[1], float_data=[1], raw_data=b"\0\0\0\0")


@spoiled("data in another type's field", "has its data in int64_data, float_data is needed")
def _(m: ModelProto) -> None:
    add_constant(m, dims=[1], int64_data=[1])


@spoiled("raw data too short", "has 7 bytes, 8 are needed")
def _(m: ModelProto) -> None:
    add_constant(m, dims=[2], raw_data=b"\0" * 7)


@spoiled("raw data too long", "has 12 bytes, 8 are needed")
def _(m: ModelProto) -> None:
    add_constant(m, dims=[2], raw_data=b"\0" * 12)


@spoiled("too few values", "has 1 values, 6 are needed")
def _(m: ModelProto) -> None:
    add_constant(m, dims=[2, 3], float_data=[1])


@spoiled("a shape of 10^18 elements", "are needed for the shape")
def _(m: ModelProto) -> None:
    add_constant(m, dims=[10**9, 10**9], raw_data=b"\0" * 4)


@spoiled("a constant of negative size", r"has the shape \[-1, 4\]")
def _(m: ModelProto) -> None:
    add_constant(m, dims=[-1, 4], float_data=[1])


@spoiled("a value outside of its type", "has a value outside of its type")
def _(m: ModelProto) -> None:
    add_constant(m, dims=[1], data_type=TensorProto.UINT8, int32_data=[300])


@spoiled("a truth value of 2", "neither 0 nor 1")
def _(m: ModelProto) -> None:
    add_constant(m, dims=[1], data_type=TensorProto.BOOL, raw_data=b"\2")


@spoiled("a constant of texts", "elements of type string")
def _(m: ModelProto) -> None:
    add_constant(m, dims=[1], data_type=TensorProto.STRING, string_data=[b"a"])


@spoiled("a segment", "is a segment")
def _(m: ModelProto) -> None:
    add_constant(m, dims=[1], float_data=[1]).segment.begin = 1


@spoiled("external data in a file that says it is inside", "says that its data is in the file")
def _(m: ModelProto) -> None:
    add_constant(m, dims=[1], float_data=[1]).external_data.add(key="location", value="a")


@pytest.mark.parametrize("name", SPOILED)
def test_spoiled_file_is_refused_with_the_reason(name: str) -> None:
    message, spoil = SPOILED[name]
    m = relu()
    spoil(m)
    with pytest.raises(Error, match=message):
        dd.load_onnx(m.SerializeToString())


# ---- nodes that ask for too much, or for what does not fit ------------------------------------

INTS = np.int64
BAD_NETS: dict[str, tuple[str, Callable[[], ModelProto]]] = {
    "10^9 elements from a shape": (
        "4000000000 bytes",
        lambda: model(
            [node("ConstantOfShape", ["s"], ["c"]), node("Add", ["x", "c"], ["y"])],
            {"x": [1]},
            ["y"],
            {"s": np.array([10**9], INTS)},
        ),
    ),
    "a range of 10^12": (
        "a computed constant of",
        lambda: model(
            [node("Range", ["a", "b", "d"], ["r"]), node("Add", ["x", "r"], ["y"])],
            {"x": [1]},
            ["y"],
            {"a": np.float32(0), "b": np.float32(1e12), "d": np.float32(1)},
        ),
    ),
    "a tile of 10^10": (
        "a computed constant of",
        lambda: model(
            [node("Tile", ["c", "t"], ["r"]), node("Add", ["x", "r"], ["y"])],
            {"x": [1]},
            ["y"],
            {"c": np.zeros((4, 4), np.float32), "t": np.array([10**5, 10**5], INTS)},
        ),
    ),
    "an expansion to 10^12": (
        "a computed constant of",
        lambda: model(
            [node("Expand", ["c", "s"], ["r"]), node("Add", ["x", "r"], ["y"])],
            {"x": [1]},
            ["y"],
            {"c": np.zeros(1, np.float32), "s": np.array([10**6, 10**6], INTS)},
        ),
    ),
    "a pad of 10^9": (
        "a computed constant of",
        lambda: model(
            [node("Pad", ["c", "p"], ["r"]), node("Add", ["x", "r"], ["y"])],
            {"x": [1]},
            ["y"],
            {"c": np.zeros(1, np.float32), "p": np.array([10**9, 0], INTS)},
        ),
    ),
    "constants that double forty times": (
        "a computed constant of",
        lambda: model(
            [
                *(node("Concat", [f"c{i}", f"c{i}"], [f"c{i + 1}"], axis=0) for i in range(40)),
                node("Add", ["x", "c40"], ["y"]),
            ],
            {"x": [1]},
            ["y"],
            {"c0": np.zeros(1024, np.float32)},
        ),
    ),
    "an activation of 10^12": (
        "larger than 4 GiB|2\\^40|depends|is 1048577|from 1048577|size",
        lambda: model(
            [node("Pad", ["x", "p"], ["y"])],
            {"x": [1, 1, 1, 1]},
            ["y"],
            {"p": np.array([0, 0, 10**6, 10**6, 0, 0, 0, 0], INTS)},
        ),
    ),
    "a resize by 10^6": (
        "larger than 4 GiB|2\\^40",
        lambda: model(
            [node("Resize", ["x", "", "s"], ["y"])],
            {"x": [1, 1, 2, 2]},
            ["y"],
            {"s": np.array([1, 1, 1e6, 1e6], np.float32)},
        ),
    ),
    "a gather beyond the end": (
        "indices",
        lambda: model(
            [node("Gather", ["x", "i"], ["y"], axis=1)],
            {"x": [2, 3]},
            ["y"],
            {"i": np.array([3], INTS)},
        ),
    ),
    "an axis that is not there": (
        "axis 4 of 4",
        lambda: model([node("Softmax", ["x"], ["y"], axis=4)], {"x": [1, 2, 3, 4]}, ["y"]),
    ),
    "a permutation that is none": (
        "perm is",
        lambda: model([node("Transpose", ["x"], ["y"], perm=[0, 0])], {"x": [2, 3]}, ["y"]),
    ),
    "a reshape that does not fill": (
        "does not fill",
        lambda: model(
            [node("Reshape", ["x", "s"], ["y"])],
            {"x": [2, 3]},
            ["y"],
            {"s": np.array([4, -1], INTS)},
        ),
    ),
    "a reshape with two free sizes": (
        "two sizes of -1",
        lambda: model(
            [node("Reshape", ["x", "s"], ["y"])],
            {"x": [2, 3]},
            ["y"],
            {"s": np.array([-1, -1], INTS)},
        ),
    ),
    "a weight for other channels": (
        "x has 3 channels",
        lambda: model(
            [node("Conv", ["x", "w"], ["y"])],
            {"x": [1, 3, 8, 8]},
            ["y"],
            {"w": np.zeros((4, 5, 3, 3), np.float32)},
        ),
    ),
    "a weight of another rank": (
        "the weight has 3 dimensions, x has 4",
        lambda: model(
            [node("Conv", ["x", "w"], ["y"])],
            {"x": [1, 3, 8, 8]},
            ["y"],
            {"w": np.zeros((4, 3, 3), np.float32)},
        ),
    ),
    "an empty weight": (
        "the weight is",
        lambda: model(
            [node("Conv", ["x", "w"], ["y"])],
            {"x": [1, 3, 8, 8]},
            ["y"],
            {"w": np.zeros((0, 3, 3, 3), np.float32)},
        ),
    ),
    "a kernel larger than the map": (
        "windows of 9 on 8 pixels",
        lambda: model(
            [node("MaxPool", ["x"], ["y"], kernel_shape=[9, 9])], {"x": [1, 3, 8, 8]}, ["y"]
        ),
    ),
    "a stride of zero": (
        "strides is",
        lambda: model(
            [node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2], strides=[0, 1])],
            {"x": [1, 3, 8, 8]},
            ["y"],
        ),
    ),
    "a stride of 2^62": (
        "strides is",
        lambda: model(
            [node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2], strides=[1 << 62, 1])],
            {"x": [1, 3, 8, 8]},
            ["y"],
        ),
    ),
    "shapes that do not broadcast": (
        "do not broadcast",
        lambda: model([node("Add", ["x", "z"], ["y"])], {"x": [2, 3], "z": [2, 4]}, ["y"]),
    ),
    "a split that does not add up": (
        "6 in pieces",
        lambda: model(
            [node("Split", ["x", "s"], ["y", "z"], axis=1)],
            {"x": [1, 6]},
            ["y", "z"],
            {"s": np.array([2, 3], INTS)},
        ),
    ),
    "a slice of nothing": (
        "an empty array",
        lambda: model(
            [node("Slice", ["x", "a", "b"], ["y"])],
            {"x": [4]},
            ["y"],
            {"a": np.array([3], INTS), "b": np.array([3], INTS)},
        ),
    ),
    "floats of integers": (
        "floats are needed",
        lambda: model(
            [node("Relu", ["x"], ["y"])], {"x": [2]}, ["y"], types={"x": TensorProto.INT32}
        ),
    ),
    "a missing input": (
        "1 inputs, 2 to 3 are needed",
        lambda: model([node("Conv", ["x"], ["y"])], {"x": [1, 3, 8, 8]}, ["y"]),
    ),
    "too many outputs": (
        "has 2 outputs",
        lambda: model([node("Relu", ["x"], ["y", "z"])], {"x": [2]}, ["y"]),
    ),
    "a shape that only the run knows": (
        "the shape is not constant",
        lambda: model(
            [node("Reshape", ["x", "s"], ["y"])],
            {"x": [2, 3], "s": [2]},
            ["y"],
            types={"s": TensorProto.INT64},
        ),
    ),
    "a division of sizes by zero": (
        "division by zero",
        lambda: model(
            [
                node("Shape", ["x"], ["s"]),
                node("Div", ["s", "zero"], ["t"]),
                node("Reshape", ["x", "t"], ["y"]),
            ],
            {"x": [2, 3]},
            ["y"],
            {"zero": np.array([0], INTS)},
        ),
    ),
}


@pytest.mark.parametrize("name", BAD_NETS)
def test_net_that_does_not_hold_together_is_refused_with_the_node(name: str) -> None:
    message, make = BAD_NETS[name]
    start = time.perf_counter()
    with pytest.raises(Error, match=message):
        dd.load_onnx(make().SerializeToString())
    assert time.perf_counter() - start < 3


def test_all_unsupported_nodes_are_named_at_once() -> None:
    m = model(
        [
            node("Foo", ["x"], ["a"]),
            node("Relu", ["a"], ["b"]),
            helper.make_node("Bar", ["b"], ["c"], name="second", domain="com.acme"),
            node("LeakyRelu", ["x"], ["d"], slope=1.0),
            node("Relu", ["x"], ["e"]),
        ],
        {"x": [2]},
        ["c", "d", "e"],
    )
    with pytest.raises(Error) as caught:
        dd.load_onnx(m.SerializeToString())
    text = str(caught.value)
    assert "3 nodes can't be imported" in text
    assert "node 0 (Foo 'make_a'): the operator is not supported" in text
    assert "node 2 (com.acme::Bar 'second')" in text
    assert "node 3 (LeakyRelu 'make_d'): the attribute 'slope' is not known" in text


def test_subgraphs_are_refused_however_deep() -> None:
    inner = helper.make_graph([node("Relu", ["x"], ["y"])], "g", [], [])
    for _ in range(80):
        branch = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)
        inner = helper.make_graph([branch], "g", [], [])
        if len(inner.SerializeToString()) > 1 << 20:
            break
    m = relu()
    m.graph.node[0].CopyFrom(helper.make_node("If", ["x"], ["y"], then_branch=inner))
    with pytest.raises(Error, match=r"If.*holds a graph of its own|no ONNX file, or a damaged one"):
        dd.load_onnx(m.SerializeToString())


def test_very_long_chain_is_no_recursion() -> None:
    n = 3000
    nodes = [node("Relu", [f"v{i}"], [f"v{i + 1}"]) for i in range(n)]
    net = dd.load_onnx(model(nodes, {"v0": [4]}, [f"v{n}"]).SerializeToString())
    assert net.run(np.array([-1, 0, 1, 2], np.float32))[f"v{n}"].tolist() == [0, 0, 1, 2]


def test_nodes_out_of_order_are_sorted() -> None:
    nodes = [node("Neg", ["b"], ["y"]), node("Relu", ["a"], ["b"]), node("Neg", ["x"], ["a"])]
    net = dd.load_onnx(model(nodes, {"x": [3]}, ["y"]).SerializeToString())
    assert net.run(np.array([-2, 0, 2], np.float32))["y"].tolist() == [-2, 0, 0]


# ---- data in other files ----------------------------------------------------------------------


def with_external(location: str, offset: str = "0", length: str = "16") -> ModelProto:
    m = model([node("Add", ["x", "w"], ["y"])], {"x": [4]}, ["y"])
    tensor = add_constant(m, dims=[4], data_location=1)
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=value)
    return m


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model's folder with a weight file, and a secret beside it."""
    inside = tmp_path / "model"
    (inside / "sub").mkdir(parents=True)
    data = np.arange(8, dtype=np.float32).tobytes()
    (inside / "w.bin").write_bytes(data)
    (inside / "sub" / "w.bin").write_bytes(data)
    (tmp_path / "secret").write_bytes(data)
    (inside / "link").symlink_to(tmp_path / "secret")
    (inside / "folder_link").symlink_to(tmp_path)
    os.mkfifo(inside / "pipe")
    return inside


def test_external_data_is_read_only_when_allowed(folder: Path) -> None:
    path = folder / "m.onnx"
    path.write_bytes(with_external("sub/w.bin", "16").SerializeToString())
    with pytest.raises(Error, match="external_data=True allows"):
        dd.load_onnx(path)
    net = dd.load_onnx(path, external_data=True)
    assert net.run(np.zeros(4, np.float32))["y"].tolist() == [4, 5, 6, 7]
    with pytest.raises(Error, match="external_data=True allows"):
        dd.load_onnx(path.read_bytes(), external_data=True)  # bytes have no folder


@pytest.mark.parametrize(
    ("location", "offset", "length", "message"),
    [
        ("../secret", "0", "16", "below the model's folder"),
        ("sub/../../secret", "0", "16", "below the model's folder"),
        ("/etc/passwd", "0", "16", "below the model's folder"),
        ("..\\secret", "0", "16", "below the model's folder"),
        ("", "0", "16", "below the model's folder"),
        ("w.bin\0x", "0", "16", "below the model's folder"),
        ("link", "0", "16", "below the model's folder"),
        ("folder_link/secret", "0", "16", "below the model's folder"),
        ("sub", "0", "16", "a regular file"),
        ("pipe", "0", "16", "a regular file"),
        ("missing", "0", "16", "can't be read"),
        ("w.bin", "20", "16", "which has 32"),
        ("w.bin", "-4", "16", "which has 32"),
        ("w.bin", "0", "12", "16 are needed"),
        ("w.bin", "zero", "16", "no number"),
        ("w.bin", "0", str(1 << 70), "16 are needed"),
    ],
)
def test_external_data_outside_of_the_folder_or_the_file_is_refused(
    folder: Path, location: str, offset: str, length: str, message: str
) -> None:
    path = folder / "m.onnx"
    path.write_bytes(with_external(location, offset, length).SerializeToString())
    with pytest.raises(Error, match=message):
        dd.load_onnx(path, external_data=True)


def test_external_data_larger_than_a_file_may_be_is_refused(folder: Path) -> None:
    m = with_external("w.bin", "0", str(4 << 40))
    del m.graph.initializer[0].dims[:]
    m.graph.initializer[0].dims.extend([1 << 20, 1 << 20])
    path = folder / "m.onnx"
    path.write_bytes(m.SerializeToString())
    with pytest.raises(Error, match="at most"):
        dd.load_onnx(path, external_data=True)


# ---- bytes ------------------------------------------------------------------------------------


def test_missing_file_is_the_systems_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        dd.load_onnx(tmp_path / "none.onnx")


@pytest.mark.parametrize("data", [b"", b"\0", b"\xff" * 100, b"PK\3\4" + b"\0" * 60, b"{}"])
def test_bytes_that_are_no_onnx_file_are_refused(data: bytes) -> None:
    with pytest.raises(Error, match="no ONNX file"):
        dd.load_onnx(data)


def test_random_bytes_are_refused() -> None:
    rng = random.Random(0)
    for _ in range(200):
        with pytest.raises(Error):
            dd.load_onnx(rng.randbytes(rng.randrange(200)))


def test_every_truncation_is_an_error_or_a_smaller_net() -> None:
    data = stem()
    dd.load_onnx(data)
    for end in range(0, len(data), 7):
        try_bytes(data[:end])


def test_mutated_small_net_never_does_worse_than_our_errors() -> None:
    data, rng = stem(), random.Random(1)
    loaded = sum(try_bytes(mutated(data, rng)) for _ in range(400))
    assert loaded > 20  # some changes are in names and weights only


@pytest.mark.parametrize("name", ["yolox_nano", "nanodet_m", "fastestdet"])
def test_mutated_real_net_never_does_worse_than_our_errors(models_root: Path, name: str) -> None:
    """A few here; tests/fuzz/onnx_replay.py goes on for as long as one likes."""
    data = (models_root / f"{name}.onnx").read_bytes()
    rng = random.Random(name)
    for _ in range(8):
        m = ModelProto.FromString(data)
        for _ in range(rng.choice([1, 2, 5])):
            structural(m, rng)
        try_load(m.SerializeToString())


def test_structural_changes_of_small_net_never_do_worse_than_our_errors() -> None:
    data, rng = stem(), random.Random(3)
    for _ in range(400):
        m = ModelProto.FromString(data)
        for _ in range(rng.choice([1, 1, 2, 4])):
            structural(m, rng)
        try_bytes(m.SerializeToString())


def try_load(data: bytes) -> None:
    with contextlib.suppress(Error):
        dd.load_onnx(data)
