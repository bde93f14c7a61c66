"""ONNX files as networks: idioms, layouts and free sizes against onnxruntime; training further."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import deepseek_det as dd
from deepseek_det import Error

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

from onnx import ModelProto, TensorProto  # noqa: E402
from onnx_files import model, node  # noqa: E402

from deepseek_det.onnx.net import Net  # noqa: E402

Array = npt.NDArray[Any]
INT = np.int64
OPTIONS = ort.SessionOptions()
OPTIONS.intra_op_num_threads = 1
OPTIONS.log_severity_level = 3
RNG = np.random.default_rng(5)


def draw(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


def runtime(m: ModelProto | bytes, inputs: dict[str, Array]) -> dict[str, Array]:
    data = m if isinstance(m, bytes) else m.SerializeToString()
    session = ort.InferenceSession(data, OPTIONS)
    return dict(
        zip((o.name for o in session.get_outputs()), session.run(None, inputs), strict=True)
    )


def assert_equal(got: dict[str, Array], want: dict[str, Array], within: float = 1e-4) -> None:
    assert list(got) == list(want)
    for name, array in want.items():
        assert got[name].shape == array.shape and got[name].dtype == array.dtype
        scale = max(float(np.abs(array.astype(np.float64)).max()), 1e-6)
        assert np.abs(got[name].astype(np.float64) - array).max() <= within * scale, name


def agree(m: ModelProto, *shapes: Sequence[int], within: float = 1e-4) -> Net:
    """The net, whose plan and interpreter give what onnxruntime gives at all these input shapes."""
    net = dd.load_onnx(m.SerializeToString())
    for shape in shapes or [[int(d or 1) for d in net.inputs[0].shape]]:
        x = {net.inputs[0].name: draw(*shape)}
        want = runtime(m, x)
        assert_equal(net.run(x), want, within)
        net.model.executor = "interpret"
        assert_equal(net.run(x), want, within)
        net.model.executor = "plan"
    return net


def ops(net: Net) -> Counter[str]:
    return Counter(n["op"] for n in net.model.graph.nodes())


# ---- whole nets -------------------------------------------------------------------------------

REAL = {
    "yolox_nano": (255.0, {"transpose": 1, "conv": 113}),
    "nanodet_m": (1.0, {"transpose": 1, "channel_shuffle": 16, "split": 16}),
    "fastestdet": (1.0, {"transpose": 2, "channel_shuffle": 13, "split": 13}),
}


@pytest.mark.parametrize("name", REAL)
def test_real_net_gives_what_onnxruntime_gives(models_root: Path, name: str) -> None:
    top, counts = REAL[name]
    path = models_root / f"{name}.onnx"
    net = dd.load_onnx(path)
    shape = [int(d or 1) for d in net.inputs[0].shape]
    x = {net.inputs[0].name: RNG.random(shape, np.float32) * np.float32(top)}
    assert_equal(net.run(x), runtime(path.read_bytes(), x), 1e-3)
    found = ops(net)
    assert {op: found[op] for op in counts} == counts
    assert not found["slice"] and not found["expand"]
    assert 0 < net.params <= sum(a.size for a in net.state_dict().values())


@pytest.mark.parametrize("name", REAL)
def test_gradient_of_real_net_is_that_of_differences(models_root: Path, name: str) -> None:
    """Along one direction of all weights together, by a run before and one behind."""
    net = dd.load_onnx(models_root / f"{name}.onnx")
    x = {net.inputs[0].name: RNG.random([int(d or 1) for d in net.inputs[0].shape], np.float32)}
    seeds = {k: y / y.size for k, y in net.forward(x).items()}
    net.backward(seeds)
    flat, start = net.model.store.flat(), net.model.store.flat().copy()
    direction = (np.abs(start) * draw(start.size)).astype(np.float32)
    sums = []
    for step in (-3e-5, 3e-5):
        flat[:] = start + np.float32(step) * direction
        net.model.store.touch()
        sums.append(sum((y.astype(np.float64) * seeds[k]).sum() for k, y in net.run(x).items()))
    found = (sums[1] - sums[0]) / 6e-5
    wanted = float(net.model.gradient.astype(np.float64) @ direction)
    assert found == pytest.approx(wanted, rel=5e-2)


def test_real_net_saved_and_loaded_is_the_same(models_root: Path, tmp_path: Path) -> None:
    net = dd.load_onnx(models_root / "fastestdet.onnx")
    net.save(tmp_path / "x.pt")
    twin = Net.load(tmp_path / "x.pt")
    assert twin.inputs == net.inputs and twin.outputs == net.outputs
    x = RNG.random((1, 3, 352, 352), np.float32)
    assert np.array_equal(net.run(x)["758"], twin.run(x)["758"])


def test_import_of_package_does_not_import_onnx() -> None:
    code = "import sys, deepseek_det, deepseek_det.onnx; sys.exit('onnx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_missing_onnx_package_is_told_with_the_way_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(Error, match=r'pip install "deepseek-det\[onnx\]"'):
        dd.load_onnx(b"x")


# ---- idioms -----------------------------------------------------------------------------------

ONE_INPUT: dict[str, Any] = {"x": [2, 6, 4, 4]}
ACTIVATIONS = {
    "silu": (
        [node("Sigmoid", ["x"], ["s"]), node("Mul", ["x", "s"], ["y"])],
        {},
        "silu",
    ),
    "silu, turned": (
        [node("Sigmoid", ["x"], ["s"]), node("Mul", ["s", "x"], ["y"])],
        {},
        "silu",
    ),
    "hard swish by its sigmoid": (
        [node("HardSigmoid", ["x"], ["s"], alpha=1 / 6, beta=0.5), node("Mul", ["x", "s"], ["y"])],
        {},
        "hard_swish",
    ),
    "hard swish by clip": (
        [
            node("Add", ["x", "three"], ["a"]),
            node("Clip", ["a", "zero", "six"], ["c"]),
            node("Mul", ["x", "c"], ["p"]),
            node("Div", ["p", "six"], ["y"]),
        ],
        {"three": np.float32(3), "zero": np.float32(0), "six": np.float32(6)},
        "hard_swish",
    ),
    "hard swish by clip and product": (
        [
            node("Add", ["x", "three"], ["a"]),
            node("Clip", ["a", "zero", "six"], ["c"]),
            node("Div", ["c", "six"], ["d"]),
            node("Mul", ["d", "x"], ["y"]),
        ],
        {"three": np.float32(3), "zero": np.float32(0), "six": np.float32(6)},
        "hard_swish",
    ),
    "hard sigmoid by clip": (
        [
            node("Add", ["three", "x"], ["a"]),
            node("Clip", ["a", "zero", "six"], ["c"]),
            node("Mul", ["c", "sixth"], ["y"]),
        ],
        {
            "three": np.float32(3),
            "zero": np.float32(0),
            "six": np.float32(6),
            "sixth": np.float32(1 / 6),
        },
        "hard_sigmoid",
    ),
    "gelu": (
        [
            node("Div", ["x", "root"], ["d"]),
            node("Erf", ["d"], ["e"]),
            node("Add", ["e", "one"], ["a"]),
            node("Mul", ["x", "a"], ["m"]),
            node("Mul", ["m", "half"], ["y"]),
        ],
        {"root": np.float32(2**0.5), "one": np.float32(1), "half": np.float32(0.5)},
        "gelu",
    ),
    "mish": (
        [
            node("Softplus", ["x"], ["p"]),
            node("Tanh", ["p"], ["t"]),
            node("Mul", ["x", "t"], ["y"]),
        ],
        {},
        "mish",
    ),
    "softplus by its formula": (
        [
            node("Exp", ["x"], ["e"]),
            node("Add", ["e", "one"], ["a"]),
            node("Log", ["a"], ["y"]),
        ],
        {"one": np.float32(1)},
        "softplus",
    ),
    "relu6": (
        [node("Clip", ["x", "zero", "six"], ["y"])],
        {"zero": np.float32(0), "six": np.float32(6)},
        "clip",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_in_several_nodes_becomes_one(name: str) -> None:
    nodes, constants, kind = ACTIVATIONS[name]
    net = agree(model(nodes, ONE_INPUT, ["y"], constants))
    (only,) = (n for n in net.model.graph.nodes() if n["op"] == "unary")
    assert only["params"]["kind"] == kind
    assert set(ops(net)) == {"unary"}


def test_pattern_whose_middle_is_read_elsewhere_stays_right() -> None:
    nodes = [
        node("Sigmoid", ["x"], ["s"]),
        node("Mul", ["x", "s"], ["y"]),
        node("Add", ["s", "y"], ["z"]),
    ]
    agree(model(nodes, ONE_INPUT, ["y", "z", "s"]))


def focus(order: Sequence[tuple[int, int]]) -> ModelProto:
    """YOLOX' stem with the four slices in some order, then a convolution of stride 1."""
    constants: dict[str, Any] = {
        "0": np.array([0], INT),
        "1": np.array([1], INT),
        "end": np.array([2**63 - 1], INT),
        "two": np.array([2], INT),
        "three": np.array([3], INT),
        "w": draw(5, 12, 3, 3),
        "b": draw(5),
    }
    nodes = []
    for i, (dy, dx) in enumerate(order):
        nodes.append(node("Slice", ["x", str(dy), "end", "two", "two"], [f"r{i}"]))
        nodes.append(node("Slice", [f"r{i}", str(dx), "end", "three", "two"], [f"p{i}"]))
    nodes.append(node("Concat", [f"p{i}" for i in range(4)], ["f"], axis=1))
    nodes.append(node("Conv", ["f", "w", "b"], ["y"], pads=[1, 1, 1, 1]))
    return model(nodes, {"x": [1, 3, 12, 16]}, ["y"], constants)


@pytest.mark.parametrize(
    "order", [[(0, 0), (1, 0), (0, 1), (1, 1)], [(1, 1), (0, 0), (1, 0), (0, 1)]]
)
def test_focus_becomes_one_convolution(order: list[tuple[int, int]]) -> None:  # fmt: skip
    net = agree(focus(order))
    assert ops(net) == Counter(transpose=2, conv=1)
    assert net.state_dict()["w"].shape == (5, 3, 6, 6)


def test_slices_that_are_no_focus_stay_what_they_are() -> None:
    m = focus([(0, 0), (0, 0), (0, 1), (1, 1)])
    net = agree(m)
    assert net.state_dict()["w"].shape == (5, 12, 3, 3)


@pytest.mark.parametrize("free", [False, True])
def test_channel_shuffle_of_five_axes_is_one_operator(free: bool) -> None:
    shape = ["n", 6, "h", "w"] if free else [2, 6, 4, 4]
    nodes = [
        node("Shape", ["c"], ["s"]),
        node("Gather", ["s", "0"], ["n"], axis=0),
        node("Gather", ["s", "23"], ["hw"], axis=0),
        node("Unsqueeze", ["n", "axis"], ["n1"]),
        node("Concat", ["n1", "groups", "hw"], ["wide"], axis=0),
        node("Concat", ["n1", "all", "hw"], ["flat"], axis=0),
        node("Reshape", ["c", "wide"], ["r"]),
        node("Transpose", ["r"], ["t"], perm=[0, 2, 1, 3, 4]),
        node("Reshape", ["t", "flat"], ["q"]),
        node("Conv", ["q", "v"], ["y"]),
    ]
    constants = {
        "0": np.array(0, INT),
        "23": np.array([2, 3], INT),
        "axis": np.array([0], INT),
        "groups": np.array([2, 4], INT),
        "all": np.array([-1], INT),
        "w": draw(8, 6, 1, 1),
        "v": draw(3, 8, 1, 1),
    }
    nodes.insert(0, node("Conv", ["x", "w"], ["c"]))
    m = model(nodes, {"x": shape}, ["y"], constants)
    net = agree(m, *([(2, 6, 4, 4), (1, 6, 3, 5)] if free else [(2, 6, 4, 4)]))
    assert ops(net) == Counter(transpose=2, conv=2, channel_shuffle=1)


def test_transposes_that_cancel_never_come_to_be() -> None:
    nodes = [
        node("Conv", ["x", "w"], ["c"]),
        node("Transpose", ["c"], ["t"], perm=[0, 2, 3, 1]),
        node("Softmax", ["t"], ["s"], axis=-1),
        node("Transpose", ["s"], ["u"], perm=[0, 3, 1, 2]),
        node("Conv", ["u", "v"], ["y"]),
    ]
    net = agree(
        model(nodes, {"x": [1, 3, 5, 7]}, ["y"], {"w": draw(4, 3, 1, 1), "v": draw(2, 4, 1, 1)})
    )
    assert ops(net) == Counter(transpose=2, conv=2, softmax=1)


def test_head_is_a_view_of_channels_last() -> None:
    """(N, 85, H, W) → (N, 85, HW), joined, → (N, HW, 85): no transpose is left."""
    nodes = [
        node("Conv", ["x", "w"], ["a"]),
        node("Conv", ["a", "v"], ["b"], strides=[2, 2]),
        node("Flatten", ["a"], ["unused"], axis=2),
        node("Reshape", ["a", "s"], ["p"]),
        node("Reshape", ["b", "s"], ["q"]),
        node("Concat", ["p", "q"], ["j"], axis=2),
        node("Transpose", ["j"], ["y"], perm=[0, 2, 1]),
    ]
    constants = {"w": draw(7, 3, 1, 1), "v": draw(7, 7, 1, 1), "s": np.array([0, 7, -1], INT)}
    net = agree(model(nodes, {"x": ["n", 3, 4, 6]}, ["y"], constants), (1, 3, 4, 6), (3, 3, 4, 6))
    assert ops(net) == Counter(transpose=1, conv=2, reshape=2, concat=1)


def test_pads_before_a_window_become_its_own() -> None:
    nodes = [
        node("Pad", ["x", "p"], ["a"]),
        node("Conv", ["a", "w"], ["b"], pads=[0, 1, 0, 1]),
        node("Pad", ["b", "p"], ["c"]),
        node("AveragePool", ["c"], ["y"], kernel_shape=[3, 3]),
    ]
    constants = {"p": np.array([0, 0, 1, 2, 0, 0, 2, 1], INT), "w": draw(4, 3, 3, 3)}
    net = agree(model(nodes, {"x": [1, 3, 9, 9]}, ["y"], constants))
    assert not ops(net)["pad"]


def test_bias_after_a_product_is_the_products() -> None:
    nodes = [node("MatMul", ["x", "w"], ["m"]), node("Add", ["b", "m"], ["y"])]
    net = agree(model(nodes, {"x": [2, 3, 5]}, ["y"], {"w": draw(5, 4), "b": draw(4)}))
    assert ops(net) == Counter(matmul=1)
    assert {e["name"]: e["role"] for e in net.model.store.entries()} == {
        "w": "trainable",
        "b": "trainable",
    }


def test_group_norm_of_torch_is_one_operator() -> None:
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Reshape", ["x", "apart"], ["r"]),
        node("InstanceNormalization", ["r", "ones", "zeros"], ["i"]),
        node("Reshape", ["i", "s"], ["q"]),
        node("Mul", ["q", "g"], ["m"]),
        node("Add", ["m", "b"], ["y"]),
    ]
    constants = {
        "apart": np.array([0, 2, -1], INT),
        "ones": np.ones(2, np.float32),
        "zeros": np.zeros(2, np.float32),
        "g": draw(6, 1, 1),
        "b": draw(6, 1, 1),
    }
    net = agree(model(nodes, {"x": [2, 6, "h", 4]}, ["y"], constants), (2, 6, 3, 4))
    assert ops(net)["group_norm"] == 1


@pytest.mark.parametrize("axis", [-1, 1])
def test_layer_norm_by_its_formula_is_one_operator(axis: int) -> None:
    nodes = [
        node("ReduceMean", ["x"], ["m"], axes=[axis]),
        node("Sub", ["x", "m"], ["d"]),
        node("Pow", ["d", "two"], ["p"]) if axis == 1 else node("Mul", ["d", "d"], ["p"]),
        node("ReduceMean", ["p"], ["v"], axes=[axis]),
        node("Add", ["v", "eps"], ["e"]),
        node("Sqrt", ["e"], ["r"]),
        node("Div", ["d", "r"], ["q"]),
        node("Mul", ["q", "g"], ["s"]),
        node("Add", ["s", "b"], ["y"]),
    ]
    tail = (1, 1) if axis == 1 else ()
    constants = {
        "two": np.float32(2),
        "eps": np.float32(1e-5),
        "g": draw(6, *tail),
        "b": draw(6, *tail),
    }
    shape = (2, 6, 3, 4) if axis == 1 else (2, 3, 4, 6)
    net = agree(model(nodes, {"x": ["n", *shape[1:]]}, ["y"], constants), shape)
    assert ops(net)["layer_norm"] == 1 and not ops(net)["binary"]
    assert {e["role"] for e in net.model.store.entries()} == {"trainable"}


# ---- free sizes and shape arithmetic ----------------------------------------------------------


def test_free_sizes_stay_free_through_shape_arithmetic() -> None:
    nodes = [
        node("Conv", ["x", "w"], ["c"], strides=[2, 2], pads=[1, 1, 1, 1]),
        node("Shape", ["x"], ["s"]),
        node("Slice", ["s", "two", "four"], ["hw"]),
        node("Shape", ["c"], ["t"]),
        node("Slice", ["t", "zero", "two"], ["nc"]),
        node("Concat", ["nc", "hw"], ["target"], axis=0),
        node("Resize", ["c", "", "", "target"], ["u"], mode="linear"),
        node("Add", ["u", "x1"], ["a"]),
        node("Conv", ["x", "v"], ["x1"]),
        node("ReduceMean", ["a"], ["y"], axes=[2, 3]),
    ]
    nodes = [nodes[8], *nodes[:8], nodes[9]]
    constants = {
        "w": draw(4, 3, 3, 3),
        "v": draw(4, 3, 1, 1),
        "zero": np.array([0], INT),
        "two": np.array([2], INT),
        "four": np.array([4], INT),
    }
    m = model(nodes, {"x": ["batch", 3, "height", "width"]}, ["a", "y"], constants)
    net = agree(m, (1, 3, 8, 8), (2, 3, 11, 7))
    assert net.inputs[0].shape == (None, 3, None, None)
    assert net.outputs[0].shape == (None, 4, None, None)
    assert net.outputs[1].shape == (None, 4, 1, 1)


def test_shapes_fixes_free_sizes() -> None:
    m = model(
        [node("Reshape", ["x", "s"], ["y"])],
        {"x": ["n", "h", "w"]},
        ["y"],
        {"s": np.array([-1, 6], INT)},
    )
    with pytest.raises(Error, match=r"(?s)fills \[-1, 6\].*shapes=\{'x': .* fixes free dimensions"):
        dd.load_onnx(m.SerializeToString())
    net = dd.load_onnx(m.SerializeToString(), shapes={"x": (2, 3, 4)})
    assert net.inputs[0].shape == (2, 3, 4) and net.outputs[0].shape == (4, 6)
    for shapes in ({"z": (1,)}, {"x": (1, 2)}, {"x": (0, 3, 4)}):
        with pytest.raises(ValueError, match="load_onnx: shapes"):
            dd.load_onnx(m.SerializeToString(), shapes=shapes)


def test_constants_are_computed_once_and_leave_no_nodes() -> None:
    nodes = [
        node("ConstantOfShape", ["s"], ["zeros"]),
        node("Range", ["a", "b", "d"], ["r"]),
        node("Cast", ["r"], ["f"], to=TensorProto.FLOAT),
        node("Mul", ["f", "f"], ["q"]),
        node("Add", ["q", "zeros"], ["c"]),
        node("Add", ["x", "c"], ["y"]),
    ]
    constants = {
        "s": np.array([3, 1], INT),
        "a": np.array(0, INT),
        "b": np.array(4, INT),
        "d": np.array(1, INT),
    }
    assert ops(agree(model(nodes, {"x": [3, 4]}, ["y"], constants))) == Counter(binary=1)


def test_quantized_weights_are_the_floats_they_stand_for() -> None:
    nodes = [
        node("DequantizeLinear", ["q", "scale", "zero"], ["w"], axis=0),
        node("QuantizeLinear", ["x", "sx", "zx"], ["xq"]),
        node("DequantizeLinear", ["xq", "sx", "zx"], ["xd"]),
        node("Conv", ["xd", "w"], ["y"]),
    ]
    constants = {
        "q": RNG.integers(-64, 65, (4, 3, 1, 1)).astype(np.int8),
        "scale": np.array([0.1, 0.2, 0.3, 0.4], np.float32),
        "zero": np.zeros(4, np.int8),
        "sx": np.float32(0.02),
        "zx": np.uint8(128),
    }
    net = agree(model(nodes, {"x": [1, 3, 4, 4]}, ["y"], constants))
    assert ops(net)["quantize"] == ops(net)["dequantize"] == 1
    assert net.state_dict()["w"].shape == (4, 3, 1, 1)


# ---- inputs and outputs -----------------------------------------------------------------------


def test_several_inputs_of_several_types() -> None:
    types = {"i": TensorProto.INT64, "c": TensorProto.BOOL, "p": TensorProto.INT64}
    nodes = [
        node("Gather", ["x", "i"], ["g"], axis=1),
        node("Where", ["c", "g", "other"], ["y"]),
        node("ArgMax", ["x"], ["p"], axis=1),
        node("Greater", ["y", "other"], ["c2"]),
    ]
    m = model(
        nodes,
        {"x": [2, 5], "i": [3], "c": [2, 3]},
        ["y", "p", "c2"],
        {"other": np.float32(-1)},
        types={**types, "c2": TensorProto.BOOL},
    )
    net = dd.load_onnx(m.SerializeToString())
    x = {
        "x": draw(2, 5),
        "i": np.array([4, -5, 2]),
        "c": np.array([[True, False, True], [False, True, False]]),
    }
    assert_equal(net.run(x), runtime(m, x))
    assert [p.dtype for p in net.inputs] == [np.float32, np.int64, np.bool_]
    with pytest.raises(TypeError, match="input 'c' is int64, bool is needed"):
        net.run({**x, "c": np.ones((2, 3), INT)})
    with pytest.raises(ValueError, match=r"input 'x' is \(5,\), \(2, 5\) is needed"):
        net.run({**x, "x": draw(5)})
    with pytest.raises(ValueError, match=r"inputs \['c', 'x'\] came"):
        net.run({"x": x["x"], "c": x["c"]})
    with pytest.raises(ValueError, match="beyond 32 bits"):
        net.run({**x, "i": np.array([0, 1, 1 << 40])})
    with pytest.raises(ValueError, match="one array came"):
        net.run(x["x"])


def test_outputs_may_be_inputs_and_constants() -> None:
    m = model([node("Identity", ["x"], ["y"])], {"x": [2]}, ["y", "w", "x"], {"w": draw(3)})
    m.graph.output[2].name = "x"
    data = m.SerializeToString()
    x = draw(2)
    got = dd.load_onnx(data).run(x)
    assert np.array_equal(got["y"], x) and np.array_equal(got["x"], x)
    assert np.array_equal(got["w"], onnx.numpy_helper.to_array(m.graph.initializer[0]))


def test_half_precision_is_computed_in_single() -> None:
    half = {"x": TensorProto.FLOAT16, "y": TensorProto.FLOAT16}
    m = model(
        [node("Add", ["x", "w"], ["y"])],
        {"x": [4]},
        ["y"],
        {"w": draw(4).astype(np.float16)},
        types=half,
    )
    x = draw(4).astype(np.float16)
    got = dd.load_onnx(m.SerializeToString()).run(x)["y"]
    assert got.dtype == np.float16
    assert np.allclose(got, runtime(m, {"x": x})["y"], atol=2e-3)


@pytest.mark.parametrize("opset", [9, 10, 11, 12, 13, 15, 17, 18, 19, 20, 21])
def test_every_opset_in_its_own_words(opset: int) -> None:
    """Slice, Clip, Unsqueeze, ReduceMean, ReduceSum, Pad, Split and Softmax changed their form."""
    constants: dict[str, Any] = {"w": draw(6, 3, 3, 3)}

    def by(name: str, values: Any, since: int, **old: Any) -> tuple[list[str], dict[str, Any]]:
        """An operand as attribute or as input."""
        if opset < since:
            return [], old
        constants[name] = np.asarray(values)
        return [name], {}

    pads, old_pads = by(
        "pads", np.array([0, 0, 1, 0, 0, 0, 1, 0], INT), 11, pads=[0, 0, 1, 0, 0, 0, 1, 0]
    )
    low, old_low = by("low", np.float32(-0.5), 11, min=-0.5)
    axes, old_axes = by("axes", np.array([2], INT), 13, axes=[2])
    mean, old_mean = by("mean", np.array([3], INT), 18, axes=[3])
    total, old_total = by("total", np.array([1], INT), 13, axes=[1])
    parts, old_parts = by("parts", np.array([2, 4], INT), 13, split=[2, 4])
    starts, old_starts = by("starts", np.array([1], INT), 10, starts=[1], ends=[5], axes=[2])
    if starts:
        constants.update(ends=np.array([5], INT), where=np.array([2], INT))
        starts = ["starts", "ends", "where"]
    resized = ["j", "none", "s"] if opset > 10 else ["j", "s"]
    nodes = [
        node("Pad", ["x", *pads], ["a"], **old_pads),
        node("Conv", ["a", "w"], ["b"]),
        node("Clip", ["b", *low], ["c"], **old_low),
        node("Slice", ["c", *starts], ["d"], **old_starts),
        node("Split", ["d", *parts], ["e", "f"], axis=1, **old_parts),
        node("Softmax", ["f"], ["g"], axis=1),
        node("ReduceMean", ["g", *mean], ["h"], keepdims=0, **old_mean),
        node("Unsqueeze", ["h", *axes], ["i"], **old_axes),
        node("ReduceSum", ["e", *total], ["j"], **old_total),
        node("Upsample" if opset < 10 else "Resize", resized, ["k"], mode="nearest"),
    ]
    constants["none"] = np.zeros(0, np.float32)
    constants["s"] = np.array([1, 1, 2, 2], np.float32)
    agree(model(nodes, {"x": [2, 3, 8, 8]}, ["i", "k"], constants, opset=opset))


# ---- training further -------------------------------------------------------------------------


def trainable() -> ModelProto:
    nodes = [
        node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1], strides=[2, 2]),
        node("BatchNormalization", ["c", "g", "h", "m", "v"], ["n"], momentum=0.8, epsilon=1e-3),
        node("Sigmoid", ["n"], ["s"]),
        node("Mul", ["n", "s"], ["a"]),
        node("GlobalAveragePool", ["a"], ["p"]),
        node("Flatten", ["p"], ["f"]),
        node("Gemm", ["f", "d", "e"], ["y"], transB=1),
    ]
    constants = {
        "w": draw(6, 3, 3, 3) / 3,
        "b": draw(6),
        "g": 1 + draw(6) / 10,
        "h": draw(6),
        "m": draw(6) / 10,
        "v": 1 + draw(6) ** 2,
        "d": draw(4, 6),
        "e": draw(4),
    }
    return model(nodes, {"x": ["n", 3, 8, 8]}, ["y"], constants)


def test_imported_net_has_the_roles_of_its_parameters() -> None:
    net = dd.load_onnx(trainable().SerializeToString())
    roles = {e["name"]: e["role"] for e in net.model.store.entries()}
    assert {n for n, role in roles.items() if role == "trainable"} == set("wbghde")
    assert {n for n, role in roles.items() if role == "state"} == {"m.running", "v.running"}
    decays = {e["name"] for e in net.model.store.entries() if e["decay"]}
    assert decays == {"w", "d"}


def test_gradients_of_imported_net_are_those_of_differences() -> None:
    net = dd.load_onnx(trainable().SerializeToString())
    x, seed = draw(3, 3, 8, 8), draw(3, 4)
    state = net.state_dict()

    def loss(name: str, step: Array) -> float:
        twin = dd.load_onnx(trainable_data)
        twin.load_state_dict({**state, name: state[name] + step})
        twin.model.executor = "interpret"
        return float((twin.forward(x)["y"].astype(np.float64) * seed).sum())

    trainable_data = _as_file(state)
    net.forward(x)
    net.backward({"y": seed})
    gradient = net.model.gradient
    for name in "wgde":
        entry = net.model.store.entry(name)
        own = gradient[entry["offset"] : entry["offset"] + entry["count"]].reshape(entry["shape"])
        direction = draw(*entry["shape"])
        eps = np.float32(1e-2)
        found = (loss(name, eps * direction) - loss(name, -eps * direction)) / (2 * eps)
        assert found == pytest.approx(float((own * direction).sum()), rel=2e-2, abs=2e-2)


def _as_file(state: dict[str, Array]) -> bytes:
    m = trainable()
    for tensor in m.graph.initializer:
        value = state.get(tensor.name, state.get(f"{tensor.name}.running"))
        tensor.CopyFrom(onnx.numpy_helper.from_array(value, tensor.name))
    return bytes(m.SerializeToString())


def test_imported_net_learns() -> None:
    net = dd.load_onnx(trainable().SerializeToString())
    x, target = draw(4, 3, 8, 8), draw(4, 4)
    before = net.state_dict()["m.running"]
    losses = []
    for _ in range(30):
        y = net.forward(x)["y"]
        losses.append(float(((y - target) ** 2).mean()))
        net.backward({"y": 2 * (y - target) / y.size})
        net.step(lr=3e-2, weight_decay=0.0)
    assert losses[-1] < losses[0] / 5
    assert not np.array_equal(net.state_dict()["m.running"], before)
    assert np.isfinite(net.run(x)["y"]).all()


def test_gradient_of_unknown_output_is_refused() -> None:
    net = dd.load_onnx(trainable().SerializeToString())
    net.forward(draw(2, 3, 8, 8))
    with pytest.raises(ValueError, match=r"gradient of \['z'\] came, outputs are \['y'\]"):
        net.backward({"z": draw(2, 4)})


def test_profile_and_repr_tell_of_the_net() -> None:
    net = dd.load_onnx(trainable().SerializeToString())
    assert repr(net).startswith("Net(x float32 (?, 3, 8, 8) → y float32 (?, 4)")
    assert net.profile(runs=1).steps
