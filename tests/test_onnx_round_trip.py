"""Nets that came from ONNX go out again, and what went out comes back: with equal outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from tiny_net import register

import deepseek_det as dd

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper  # noqa: E402

from deepseek_det.onnx.export import from_net  # noqa: E402

Array = npt.NDArray[Any]
ONE_THREAD = ort.SessionOptions()
ONE_THREAD.intra_op_num_threads = 1
ONE_THREAD.log_severity_level = 3


def run(model: Any, feeds: dict[str, Array]) -> list[Array]:
    """What onnxruntime makes of a file or a model."""
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    out: list[Array] = ort.InferenceSession(source, ONE_THREAD).run(None, feeds)
    return out


def close(got: Array, want: Array, tolerance: float = 1e-3) -> bool:
    return float(np.abs(got - want).max()) <= tolerance * max(float(np.abs(want).max()), 1e-6)


@pytest.mark.parametrize("name", ["yolox_nano", "nanodet_m", "fastestdet"])
def test_foreign_net_goes_out_as_it_came(models_root: Path, name: str) -> None:
    path = models_root / f"{name}.onnx"
    net = dd.load_onnx(path)
    (port,) = net.inputs
    x = np.random.default_rng(0).random([d or 1 for d in port.shape], np.float32)
    want = run(path, {port.name: x})
    model = from_net(net)
    onnx.checker.check_model(model, full_check=True)
    assert [o.name for o in model.graph.output] == [p.name for p in net.outputs]
    for got, expected in zip(run(model, {port.name: x}), want, strict=True):
        assert got.shape == expected.shape and close(got, expected)
    back = dd.load_onnx(model.SerializeToString())
    for got, expected in zip(back.run({port.name: x}).values(), want, strict=True):
        assert got.shape == expected.shape and close(got, expected)


@pytest.mark.parametrize("dynamic", [False, True])
def test_our_detector_comes_back(tmp_path: Path, dynamic: bool) -> None:
    det = dd.Detector(register(), classes=["a", "b"], seed=3)
    path = det.export(tmp_path / "x.onnx", imgsz=96, dynamic=dynamic)
    # sizes that are free in a computed grid are said at the import
    shapes = {"images": (2, 3, 96, 96)} if dynamic else None
    net = dd.load_onnx(path, shapes=shapes)
    x = np.random.default_rng(0).random((2, 3, 96, 96), np.float32)
    got, want = net.run({"images": x})["output0"], run(path, {"images": x})[0]
    np.testing.assert_allclose(got[:, :4], want[:, :4], atol=0.01)
    np.testing.assert_allclose(got[:, 4:], want[:, 4:], atol=1e-5)
    again = net.export(tmp_path / "y.onnx", opset=13)
    np.testing.assert_allclose(run(again, {"images": x})[0], want, rtol=1e-4, atol=0.01)
    facts = {p.key: p.value for p in onnx.load(again).metadata_props}
    assert facts["names"] == '["a", "b"]' and facts["stride"] == "32"


def small(elements: dict[str, int]) -> Any:
    """A net that takes and gives other types than float32."""
    ports = {n: helper.make_tensor_value_info(n, t, ["n", 4]) for n, t in elements.items()}
    nodes = [
        helper.make_node("Cast", ["half"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["count"], ["g"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["f", "g"], ["sum"]),
        helper.make_node("Greater", ["f", "g"], ["more"]),
        helper.make_node("Cast", ["sum"], ["small"], to=TensorProto.FLOAT16),
    ]
    outs = [ports.pop("more"), ports.pop("small")]
    graph = helper.make_graph(nodes, "types", list(ports.values()), outs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_declared_types_stay_at_the_border() -> None:
    model = small(
        {
            "half": TensorProto.FLOAT16,
            "count": TensorProto.INT64,
            "more": TensorProto.BOOL,
            "small": TensorProto.FLOAT16,
        }
    )
    again = from_net(dd.load_onnx(model.SerializeToString()))
    rng = np.random.default_rng(0)
    feeds = {
        "half": rng.normal(0, 3, (3, 4)).astype(np.float16),
        "count": rng.integers(-3, 3, (3, 4)),
    }
    for got, want in zip(run(again, feeds), run(model, feeds), strict=True):
        assert got.dtype == want.dtype
        np.testing.assert_array_equal(got, want)


def test_what_a_net_learned_goes_out(tmp_path: Path) -> None:
    det = dd.Detector(register(), classes=["a"], seed=3)
    net = dd.load_onnx(det.export(tmp_path / "x.onnx", imgsz=64))
    state = net.state_dict()
    name = next(n for n in state if n.endswith("stem.0.conv.weight"))
    net.load_state_dict({**state, name: 2 * state[name]})
    model = onnx.load(net.export(tmp_path / "y.onnx"))
    arrays = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    np.testing.assert_array_equal(arrays[name], 2 * state[name])
    x = np.random.default_rng(0).random((1, 3, 64, 64), np.float32)
    got = run(tmp_path / "y.onnx", {"images": x})[0]
    assert not np.allclose(got, run(tmp_path / "x.onnx", {"images": x})[0], atol=1e-3)
    np.testing.assert_allclose(got, net.run({"images": x})["output0"], rtol=1e-4, atol=0.01)


def test_net_refuses_wrong_path_and_opset(tmp_path: Path) -> None:
    net = dd.load_onnx(dd.Detector(register(), ["a"]).export(tmp_path / "x.onnx", imgsz=64))
    with pytest.raises(ValueError, match=r"ends in \.onnx"):
        net.export(tmp_path / "y.pt")
    with pytest.raises(ValueError, match="opset is 8"):
        net.export(tmp_path / "y.onnx", opset=8)
