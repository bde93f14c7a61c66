"""Detectors as ONNX files: what onnxruntime makes of them, and what the files say of themselves."""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import seeded_state
from tiny_net import drawn, register

import deepseek_det as dd
from deepseek_det import Error, cli

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

from deepseek_det.onnx.export import Options, from_detector  # noqa: E402
from deepseek_det.onnx.verify import DRAWN, verify  # noqa: E402

Array = npt.NDArray[Any]
NAMES = ["RBC", "WBC", 'Platelets, "small" ones — é']
ONE_THREAD = ort.SessionOptions()
ONE_THREAD.intra_op_num_threads = 1


def seeded(name: str, classes: list[str], imgsz: int) -> dd.Detector:
    """A detector whose scores and boxes vary widely from place to place and class to class."""
    det = dd.Detector(name, classes=classes, seed=1)
    det.load_state_dict(
        {n: seeded_state.parameter(n, a.shape) for n, a in det.state_dict().items()}
    )
    raw = det.infer(noise(2, imgsz, imgsz, seed=9))
    state = det.state_dict()
    # the heads are linear: this moves and stretches what they say
    for head, spread in (("cls", 1.5), ("box", 0.3)):
        stretch = np.float32(spread / raw[head].std())
        state[f"head.{head}.weight"] *= stretch
        state[f"head.{head}.bias"] *= stretch
    state["head.cls.bias"] -= np.float32(1.5 * raw["cls"].mean() / raw["cls"].std() + 1.5)
    det.load_state_dict(state)
    det.imgsz = imgsz
    return det


@pytest.fixture(scope="module")
def tiny() -> dd.Detector:
    return seeded(register(), NAMES, 96)


@pytest.fixture(scope="module")
def small() -> dd.Detector:
    return seeded("dsdet-n", NAMES, 160)


def session(model: Any) -> Any:
    data = model.SerializeToString() if hasattr(model, "SerializeToString") else str(model)
    return ort.InferenceSession(data, ONE_THREAD)


def run(model: Any, images: Array) -> Array:
    """output0 for (N, H, W, 3) uint8 images."""
    batch = np.ascontiguousarray(images.transpose(0, 3, 1, 2), np.float32) / np.float32(255)
    out: Array = session(model).run(["output0"], {"images": batch})[0]
    return out


def noise(n: int, height: int, width: int, seed: int = 0) -> Array:
    """Images with blobs, so that maps differ from place to place."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (n, height // 8, width // 8, 3))
    fine = rng.integers(-20, 20, (n, height, width, 3))
    return np.clip(coarse.repeat(8, 1).repeat(8, 2) + fine, 0, 255).astype(np.uint8)


def expected(det: dd.Detector, images: Array) -> Array:
    """output0 before NMS, by NumPy in double precision."""
    raw = det.infer(images)
    a = dd.anchors.detector_anchors(images.shape[1:3]).boxes.astype(np.float64)
    side = a[:, 2:] - a[:, :2]
    box, cls = raw["box"].astype(np.float64), raw["cls"].astype(np.float64)
    centre = (a[:, :2] + a[:, 2:]) / 2 + box[..., :2] * side
    size = side * np.exp(np.clip(box[..., 2:], -4, 4))
    return np.concatenate([centre, size, 1 / (1 + np.exp(-cls))], 2).transpose(0, 2, 1)


# ---- the file -----------------------------------------------------------------------------------


def test_file_has_the_promised_ports_and_metadata(small: dd.Detector, tmp_path: Path) -> None:
    path = small.export(tmp_path / "x.onnx")
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    (image,), (out,) = session(path).get_inputs(), session(path).get_outputs()
    assert (image.name, image.shape, image.type) == ("images", ["batch", 3, 160, 160],
                                                     "tensor(float)")  # fmt: skip
    assert (out.name, out.shape, out.type) == ("output0", ["batch", 7, 1575], "tensor(float)")
    facts = {p.key: p.value for p in model.metadata_props}
    assert json.loads(facts["names"]) == ast.literal_eval(facts["names"]) == NAMES
    assert (int(facts["stride"]), int(facts["imgsz"])) == (32, 160)
    assert facts["task"] == "detect" and facts["boxes"] == "cxcywh"
    assert (model.producer_name, model.producer_version) == ("deepseek_det", dd.__version__)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 17)]
    assert "dsdet-n" in model.doc_string and model.graph.doc_string and image.name


def test_initializers_are_the_parameters_by_name(small: dd.Detector) -> None:
    model = from_detector(small, Options())
    arrays = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    store = small.deployed()[1]
    for name in store.names:
        np.testing.assert_array_equal(arrays[name], store.get(name))


def test_transposes_stand_at_the_head_only(small: dd.Detector) -> None:
    nodes = from_detector(small, Options()).graph.node
    # three levels, logits and deltas each, and the output
    assert [n.op_type for n in nodes].count("Transpose") == 7
    assert nodes[0].op_type == "Conv"
    assert len({n.name for n in nodes}) == len(nodes)


@pytest.mark.parametrize("opset", range(13, 22))
@pytest.mark.parametrize("nms", [False, True])
def test_every_opset_says_the_same(tiny: dd.Detector, opset: int, nms: bool) -> None:
    images = noise(2, 96, 96)
    model = from_detector(tiny, Options(opset=opset, nms=nms))
    assert model.opset_import[0].version == opset
    base = from_detector(tiny, Options(nms=nms))
    np.testing.assert_allclose(run(model, images), run(base, images), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("opset", [13, 17, 21])
def test_onnx_own_evaluator_says_the_same(tiny: dd.Detector, opset: int, dynamic: bool) -> None:
    """The onnx package's reference in NumPy, which knows no engine's liberties."""
    from onnx.reference import ReferenceEvaluator

    images = noise(2, 96, 96)
    model = from_detector(tiny, Options(opset=opset, dynamic=dynamic))
    batch = images.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
    got = ReferenceEvaluator(model).run(None, {"images": batch})[0]
    np.testing.assert_allclose(got, expected(tiny, images), rtol=1e-5, atol=1e-3)


# ---- numbers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", dd.list_models()[:3])
def test_raw_output_is_the_decoded_net(name: str) -> None:
    det = seeded(name, NAMES, 96)
    images = noise(2, 96, 96)
    got, want = run(from_detector(det, Options()), images), expected(det, images)
    assert want[:, 4:].std() > 0.05 and want[:, :4].std() > 10
    np.testing.assert_allclose(got[:, :4], want[:, :4], atol=0.05)
    np.testing.assert_allclose(got[:, 4:], want[:, 4:], atol=1e-4)


@pytest.mark.parametrize("options", [{}, {"nms": True}, {"dynamic": True},
                                     {"dynamic": True, "nms": True}])  # fmt: skip
def test_image_has_the_same_answer_alone_and_in_any_batch(
    small: dd.Detector, options: dict[str, Any]
) -> None:
    images = noise(5, 160, 160)
    model = from_detector(small, Options(**options))
    alone = np.concatenate([run(model, images[i : i + 1]) for i in range(5)])
    for batch in (2, 5):
        np.testing.assert_allclose(run(model, images[:batch]), alone[:batch], atol=1e-4)
    # rows of an image do not depend on who is beside it
    np.testing.assert_allclose(run(model, images[::-1])[::-1], alone, atol=1e-4)


@pytest.mark.parametrize("height, width", [(96, 96), (32, 32), (64, 160), (224, 128)])
def test_dynamic_file_takes_any_multiple_of_32(tiny: dd.Detector, height: int, width: int) -> None:
    images = noise(2, height, width)
    want = expected(tiny, images)
    got = run(from_detector(tiny, Options(dynamic=True)), images)
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=0.01)
    table = run(from_detector(tiny, Options(dynamic=True, nms=True, conf=0.3)), images)
    assert_is_detect(tiny, images, table, conf=0.3)


def assert_is_detect(
    det: dd.Detector,
    images: Array,
    table: Array,
    conf: float = 0.25,
    iou: float = 0.7,
    max_det: int = 300,
) -> int:
    """A table of the file is what `ops.detect` finds in the letterboxed images; how many rows."""
    n, height, width = images.shape[:3]
    raw = det.infer(images)
    anchors = dd.anchors.detector_anchors((height, width)).boxes
    maps = np.array([[1, 0, 0, width, height]] * n, np.float32)
    found = dd.ops.detect(
        raw["cls"], raw["box"], anchors, maps, conf=conf, iou=iou, max_det=max_det
    )
    assert table.shape == (n, max_det, 6)
    for i, count in enumerate(found.counts):
        rows = table[i, :count]
        np.testing.assert_allclose(rows[:, :4], found.boxes[i, :count], atol=0.05)
        np.testing.assert_allclose(rows[:, 4], found.scores[i, :count], atol=1e-4)
        np.testing.assert_array_equal(rows[:, 5], found.classes[i, :count])
        assert not table[i, count:].any()
    return int(found.counts.sum())


@pytest.mark.parametrize(
    "conf, iou, max_det",
    [(0.25, 0.7, 300), (0.5, 0.3, 300), (0.25, 0.7, 7), (0.3, 0.0, 2000), (0.0, 1.0, 50)],
)
def test_nms_inside_is_the_detectors(
    tiny: dd.Detector, conf: float, iou: float, max_det: int
) -> None:
    images = noise(3, 96, 96)
    options = Options(nms=True, conf=conf, iou=iou, max_det=max_det)
    model = from_detector(tiny, options)
    assert session(model).get_outputs()[0].shape == ["batch", max_det, 6]
    count = assert_is_detect(tiny, images, run(model, images), conf, iou, max_det)
    assert count > 20
    facts = {p.key: p.value for p in model.metadata_props}
    assert facts["boxes"] == "xyxy"
    assert (float(facts["conf"]), float(facts["iou"])) == (conf, iou)
    assert int(facts["max_det"]) == max_det


def test_nms_with_nothing_found_gives_zeros(tiny: dd.Detector) -> None:
    images = noise(2, 96, 96)
    assert not run(from_detector(tiny, Options(nms=True, conf=1.0)), images).any()


def test_nms_of_one_class() -> None:
    det = seeded(register(), ["thing"], 96)
    images = noise(2, 96, 96)
    table = run(from_detector(det, Options(nms=True)), images)
    assert assert_is_detect(det, images, table) > 0


def test_nms_leaves_out_what_is_not_finite(tiny: dd.Detector) -> None:
    """A broken net says nothing rather than anything."""
    det = tiny.copy()
    state = det.state_dict()
    state["head.cls.bias"] = np.full_like(state["head.cls.bias"], np.nan)
    det.load_state_dict(state)
    assert not run(from_detector(det, Options(nms=True)), noise(1, 96, 96)).any()


def test_anchor_options_of_the_detector_are_in_the_file(tiny: dd.Detector) -> None:
    det = tiny.copy()
    det.anchor_options = {"base": 2.0}
    images = noise(1, 96, 96)
    a, b = (run(from_detector(det, Options(dynamic=d)), images) for d in (False, True))
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-3)
    other = run(from_detector(tiny, Options()), images)
    assert np.abs(a[:, 2:4] / other[:, 2:4] - 2 / 3).max() < 1e-4


def test_backbone_alone_goes_out(tmp_path: Path) -> None:
    backbone = dd.models.mobilenetv3(size="small")
    path = backbone.export(tmp_path / "b.onnx", opset=15)
    images = noise(2, 64, 96)
    batch = np.ascontiguousarray(images.transpose(0, 3, 1, 2), np.float32) / np.float32(255)
    want = backbone.infer(images)
    s = session(path)
    assert [o.name for o in s.get_outputs()] == list(want)
    for got, (name, y) in zip(s.run(None, {"images": batch}), want.items(), strict=True):
        expected_map = y.transpose(0, 3, 1, 2) if y.ndim == 4 else y
        np.testing.assert_allclose(got, expected_map, rtol=1e-3, atol=1e-4, err_msg=name)


# ---- real images --------------------------------------------------------------------------------


def real_images(data_root: Path) -> list[Path]:
    found = sorted((data_root / "BCCD" / "JPEGImages").glob("*.jpg"))[:6]
    return found + sorted((data_root / "coco128" / "images").rglob("*.jpg"))[:10]


@pytest.mark.parametrize("nms", [False, True])
def test_real_images_have_the_boxes_of_predict(
    small: dd.Detector, data_root: Path, tmp_path: Path, nms: bool
) -> None:
    path = small.export(tmp_path / "x.onnx", nms=nms)
    found = verify(small, path, [str(p) for p in real_images(data_root)])
    print(found)
    assert found.ok and found.count > 200
    assert found.worst()["box_px"] <= 0.05 and found.worst()["score"] <= 1e-4


# ---- verify -------------------------------------------------------------------------------------


def test_verify_needs_no_images_and_finds_something(tiny: dd.Detector, tmp_path: Path) -> None:
    for options in ({}, {"nms": True}, {"nms": True, "conf": 0.999, "iou": 0.999}):
        path = tiny.export(tmp_path / "x.onnx", **options)
        found = verify(tiny, path)
        assert found.ok and len(found.rows) == DRAWN and found.count > 0
        assert found.conf == (0.001 if "conf" in options else 0.25)
        assert "agrees with predict" in str(found)


def test_verify_tells_another_detectors_file(tiny: dd.Detector, tmp_path: Path) -> None:
    state = tiny.state_dict()
    state["head.cls.bias"] = state["head.cls.bias"] + np.float32(0.001)
    other = tiny.copy()
    other.load_state_dict(state)
    path = other.export(tmp_path / "x.onnx")
    found = verify(tiny, path)
    assert not found.ok and found.worst()["score"] > 1e-4
    assert "DIFFERS from" in str(found) and "too much" in str(found)


def test_verify_refuses_a_file_that_is_no_detectors(tiny: dd.Detector, tmp_path: Path) -> None:
    path = dd.models.mobilenetv3(size="small").export(tmp_path / "b.onnx")
    with pytest.raises(Error, match="is no file of a detector: its metadata lack 'imgsz'"):
        verify(tiny, path)
    (tmp_path / "c.onnx").write_bytes(b"nothing")
    with pytest.raises(Error, match="onnxruntime refuses the file"):
        verify(tiny, tmp_path / "c.onnx")


# ---- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path, options, text",
    [
        ("x.pt", {}, "a name that ends in .onnx was needed"),
        ("x", {}, "a name that ends in .onnx was needed"),
        ("x.onnx", {"opset": 12}, "opset is 12, 13 to 21 was needed"),
        ("x.onnx", {"opset": 22}, "opset is 22, 13 to 21 was needed"),
        ("x.onnx", {"opset": True}, "opset is True"),
        ("x.onnx", {"opset": "17"}, "opset is '17'"),
        ("x.onnx", {"conf": 1.5}, "conf is 1.5"),
        ("x.onnx", {"iou": -0.1}, "iou is -0.1"),
        ("x.onnx", {"max_det": 0}, "max_det is 0"),
        ("x.onnx", {"imgsz": 100}, "128"),
    ],
)
def test_wrong_argument_is_refused_by_name(
    tiny: dd.Detector, tmp_path: Path, path: str, options: dict[str, Any], text: str
) -> None:
    with pytest.raises(ValueError, match="export: ") as caught:
        tiny.export(tmp_path / path, **options)
    assert text in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_detector_without_names_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Error, match="knows no classes yet"):
        dd.Detector("dsdet-n").export(tmp_path / "x.onnx")


def test_missing_folder_is_an_os_error(tiny: dd.Detector, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="can't be written"):
        tiny.export(tmp_path / "nowhere" / "x.onnx")


def test_detector_of_an_onnx_file_names_load_onnx(tiny: dd.Detector, tmp_path: Path) -> None:
    with pytest.raises(Error, match="load_onnx"):
        dd.Detector(tiny.export(tmp_path / "x.onnx"))


@pytest.mark.parametrize("missing", ["onnx", "onnxruntime"])
def test_missing_package_is_told_with_the_command(
    tiny: dd.Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    path = tiny.export(tmp_path / "x.onnx")
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(Error, match=r'pip install ("deepseek-det\[onnx\]"|onnxruntime)'):
        tiny.export(path)
        verify(tiny, path)


# ---- command ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def weights(tiny: dd.Detector, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "w.pt"
    tiny.save(path)
    return path


def test_command_exports_and_verifies(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "x.onnx"
    words = ["export", "--model", str(weights), "--output", str(out), "--opset", "16", "--nms"]
    pictures = sorted((drawn() / "train").glob("*.jpg"))[:2]
    assert pictures
    words += ["--verify", "--source", str(pictures[0].parent), "--json", "--conf", "0.3"]
    assert cli.main(words) == 0
    said = json.loads(capsys.readouterr().out.strip().split("\n")[-1])
    assert said["output"] == str(out) and said["bytes"] == out.stat().st_size
    assert said["verified"]["ok"] and said["verified"]["detections"] > 0
    assert said["verified"]["box_px"] < 0.05
    assert onnx.load(out).opset_import[0].version == 16


def test_command_prints_the_table_and_ends_with_1_on_a_difference(
    weights: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = ["export", "--model", str(weights), "--output", str(tmp_path / "x.onnx"), "--verify"]
    assert cli.main(words) == 0
    out = capsys.readouterr().out
    assert "image" in out and "drawn 0" in out and "agrees with predict" in out
    monkeypatch.setattr("deepseek_det.onnx.verify.SCORE", 0.0)
    assert cli.main(words) == 1
    assert "DIFFERS" in capsys.readouterr().err.strip().split("\n")[-1]


@pytest.mark.parametrize(
    "words, code",
    [(["--output", "x.txt"], 2), (["--output", "x.onnx", "--opset", "9"], 2), ([], 2)],
)
def test_command_refuses(weights: Path, words: list[str], code: int, tmp_path: Path,
                         monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert cli.main(["export", "--model", str(weights), *words]) == code
    assert not list(tmp_path.iterdir())
