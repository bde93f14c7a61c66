"""Suppression in ONNX files: our own exports come back, forms of fixed size; others are named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import deepseek_det as dd
from deepseek_det import Error
from deepseek_det.onnx.export import Options
from deepseek_det.onnx.verify import _batches, detections, differences

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

from onnx import ModelProto, NodeProto, TensorProto  # noqa: E402
from onnx_files import model, node  # noqa: E402
from test_onnx_export import NAMES, noise, real_images, seeded  # noqa: E402
from test_onnx_import import agree, ops, runtime  # noqa: E402
from tiny_net import register  # noqa: E402

Array = npt.NDArray[Any]


@pytest.fixture(scope="module")
def tiny() -> dd.Detector:
    return seeded(register(), NAMES, 96)


def batch(images: Array) -> Array:
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2), np.float32) / np.float32(255)


def compare(path: Path, x: Array, **options: Any) -> dd.onnx.net.Net:
    """The net of a file, whose rows are onnxruntime's."""
    net = dd.load_onnx(path, **options)
    want = runtime(onnx.load(path), {"images": x})["output0"]
    got = net.run({"images": x})["output0"]
    assert got.shape == want.shape and (want[..., 4] > 0).sum() > 20
    assert np.array_equal(got[..., 5], want[..., 5])
    np.testing.assert_allclose(got[..., 4], want[..., 4], atol=1e-5)
    np.testing.assert_allclose(got[..., :4], want[..., :4], atol=2e-3)
    return net


@pytest.mark.parametrize("opset", [13, 17, 18, 21])
@pytest.mark.parametrize("dynamic", [False, True])
def test_export_with_nms_comes_back_and_goes_out_again(
    tiny: dd.Detector, tmp_path: Path, opset: int, dynamic: bool
) -> None:
    options: dict[str, Any] = {"conf": 0.2, "iou": 0.5, "max_det": 40, "dynamic": dynamic}
    path = tiny.export(tmp_path / "x.onnx", nms=True, opset=opset, **options)
    x = batch(noise(2, 96, 96))
    net = compare(path, x, shapes={"images": x.shape} if dynamic else None)
    assert ops(net)["suppress"] == 1
    again = net.export(tmp_path / "y.onnx", opset=opset)
    np.testing.assert_allclose(
        runtime(onnx.load(again), {"images": x})["output0"], net.run(x)["output0"], atol=2e-3
    )
    net.save(tmp_path / "x.pt")
    twin = dd.onnx.net.Net.load(tmp_path / "x.pt")
    assert np.array_equal(twin.run(x)["output0"], net.run(x)["output0"])
    net.model.executor = "interpret"
    np.testing.assert_allclose(net.run(x)["output0"], twin.run(x)["output0"], atol=2e-3)


def test_real_images_have_onnxruntimes_rows(data_root: Path, tmp_path: Path) -> None:
    # As sets: scores that are equal but for rounding change places.
    options = Options(nms=True)
    path = seeded("dsdet-n", NAMES, 160).export(tmp_path / "x.onnx", nms=True)
    net, count = dd.load_onnx(path), 0
    for _, pixels, maps in _batches([str(p) for p in real_images(data_root)[:8]], 160):
        x = batch(pixels)
        found = (net.run(x)["output0"], runtime(onnx.load(path), {"images": x})["output0"])
        for ours, theirs in zip(*(detections(f, maps, options) for f in found), strict=True):
            box_px, score, unmatched = differences(ours, theirs, options)
            assert box_px <= 0.05 and score <= 1e-4 and unmatched == 0
            count += len(ours[1])
    assert count > 200


def test_a_batch_of_any_size_gives_each_image_its_own_rows(
    tiny: dd.Detector, tmp_path: Path
) -> None:
    net = dd.load_onnx(tiny.export(tmp_path / "x.onnx", nms=True, conf=0.2))
    x = batch(noise(3, 96, 96))
    together = net.run(x)["output0"]
    for i in range(3):
        assert np.array_equal(net.run(x[i : i + 1])["output0"][0], together[i])


# ---- the pattern by hand -------------------------------------------------------------------------

I64 = np.int64


def pattern(
    by_class: bool = False, center: int = 0, options: str = "mic", broken: str = ""
) -> ModelProto:
    """Scores in their places; options: which of the number, IoU and confidence are given."""
    given = {
        "m": np.array([4], I64),
        "i": np.array([0.3], np.float32),
        "c": np.array([0.4], np.float32),
    }
    inputs = [name if name in options else "" for name in "mic"]
    shown = "scores" if by_class else "turned"
    nodes: list[NodeProto] = [
        node("Transpose", ["scores"], ["turned"], perm=[0, 2, 1]),
        node("NonMaxSuppression", ["boxes", shown, *inputs], ["found"], center_point_box=center),
        node("Gather", ["found", "order"], ["picked"], axis=1),
        node("GatherND", ["scores", "found" if by_class else "picked"], ["values"]),
        node("Shape", ["scores"], ["shape"]),
        node("ConstantOfShape", ["shape"], ["zeros"]),
        node(
            "ScatterND",
            ["scores" if broken == "zeros" else "zeros", "found" if by_class else "picked",
             "values"],
            ["kept"],
            **({"reduction": "add"} if broken == "reduction" else {}),
        ),
        node("Cast", ["found"], ["listed"], to=TensorProto.FLOAT),
    ]  # fmt: skip
    order = [0, 1, 2] if broken == "order" else [0, 2, 1]
    constants = {k: v for k, v in given.items() if k in options} | {"order": np.array(order, I64)}
    shape = [2, 3, 20] if by_class else [2, 20, 3]
    outputs = ["listed"] if broken == "list" else ["kept"]
    return model(nodes, {"boxes": [2, 20, 4], "scores": shape}, outputs, constants)


@pytest.mark.parametrize("by_class", [False, True])
@pytest.mark.parametrize("center", [0, 1])
@pytest.mark.parametrize("options", ["mic", "mi", "mc", "m"])
def test_scores_in_their_places_are_onnxruntimes(by_class: bool, center: int, options: str) -> None:
    m = pattern(by_class, center, options)
    rng = np.random.default_rng(4)
    boxes = rng.uniform(0, 20, (2, 20, 4)).astype(np.float32)
    scores = np.round(rng.uniform(0.01, 1, (2, 20, 3)), 1).astype(np.float32)
    x = {"boxes": boxes, "scores": scores.transpose(0, 2, 1).copy() if by_class else scores}
    want = runtime(m, x)["kept"]
    got = dd.load_onnx(m.SerializeToString()).run(x)["kept"]
    assert np.array_equal(got, want) and 0 < (want > 0).sum() < want.size


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ("list", r"\(NonMaxSuppression 'make_found'\): lists as many boxes as it keeps"),
        ("zeros", "NonMaxSuppression.*(.|\n)*ScatterND.*is not supported"),
        ("reduction", "NonMaxSuppression"),
        ("order", "NonMaxSuppression"),
    ],
)
def test_lists_of_unknown_length_are_named(broken: str, words: str) -> None:
    with pytest.raises(Error, match=words):
        dd.load_onnx(pattern(broken=broken).SerializeToString())


def test_without_a_number_of_boxes_nothing_is_kept() -> None:
    net = dd.load_onnx(pattern(options="ic").SerializeToString())
    x = {"boxes": np.ones((2, 20, 4), np.float32), "scores": np.ones((2, 20, 3), np.float32)}
    assert not net.run(x)["kept"].any()


# ---- places and counts ---------------------------------------------------------------------------


def test_places_are_counted_with_as_integers() -> None:
    """Which row and column the best are in: a division and what it leaves."""
    m = model(
        [
            node("TopK", ["x", "k"], ["v", "i"], axis=1),
            node("Div", ["i", "n"], ["row"]),
            node("Mul", ["row", "n"], ["begin"]),
            node("Sub", ["i", "begin"], ["column"]),
            node("Max", ["column", "one"], ["most"]),
            node("Add", ["row", "most"], ["sum"]),
            node("Cast", ["sum"], ["y"], to=TensorProto.FLOAT),
        ],
        {"x": ["n", 24]},
        ["y"],
        {"k": np.array([5], I64), "n": np.array(7, I64), "one": np.array(1, I64)},
    )
    agree(m, [2, 24], [5, 24])


@pytest.mark.parametrize("axis", [0, 2, -1])
@pytest.mark.parametrize("constant", [False, True])
def test_gather_elements_is_onnxruntimes(axis: int, constant: bool) -> None:
    at = np.random.default_rng(1).integers(-3, 3, (3, 4, 3)).astype(I64)
    nodes = [node("GatherElements", ["x", "i"], ["y"], axis=axis)]
    if constant:
        agree(model(nodes, {"x": [3, 4, 3]}, ["y"], {"i": at}))
        return
    m = model(nodes, {"x": [3, 4, 3], "i": [3, 4, 3]}, ["y"], types={"i": TensorProto.INT64})
    x = {"x": np.random.default_rng(2).random((3, 4, 3), np.float32), "i": at}
    got = dd.load_onnx(m.SerializeToString()).run(x)["y"]
    assert np.array_equal(got, runtime(m, x)["y"])


def test_powers_of_integers_are_refused() -> None:
    m = model(
        [node("Pow", ["x", "x"], ["y"])], {"x": [3]}, ["y"],
        types={"x": TensorProto.INT64, "y": TensorProto.INT64},
    )  # fmt: skip
    with pytest.raises(Error, match="floats are needed"):
        dd.load_onnx(m.SerializeToString())
