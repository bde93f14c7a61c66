"""Prediction: sources, errors, equality with validation, memory."""

from __future__ import annotations

import io
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_net import drawn, register

import deepseek_det as dd
from deepseek_det.data import Dataset, load
from deepseek_det.data.loader import stream
from deepseek_det.predict import _items, _prepare, detect_dataset, load_for
from deepseek_det.results import Results

CLASSES = ["disk", "square", "triangle", "star", "ring", "cross"]
LOW = {"conf": 0.005, "imgsz": 96}


@pytest.fixture(scope="module")
def detector() -> dd.Detector:
    """Untrained, but with scores and boxes that differ from place to place."""
    det = dd.Detector(register(), classes=CLASSES, seed=1)
    state = det.state_dict()
    rng = np.random.default_rng(0)
    for name in ("head.cls.weight", "head.box.weight"):
        state[name] = rng.normal(0, 0.3, state[name].shape).astype(np.float32)
    det.load_state_dict(state)
    return det


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """PNG pictures of several sizes."""
    place = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(5)
    for i, (h, w) in enumerate([(64, 96), (96, 64), (80, 80), (30, 90), (96, 96), (61, 35)]):
        Image.fromarray(rng.integers(0, 255, (h, w, 3), np.uint8)).save(place / f"{i}.png")
    (place / "notes.txt").write_text("no picture")
    (place / "deeper").mkdir()
    Image.new("RGB", (8, 8)).save(place / "deeper" / "x.png")
    return place


def same(a: Results, b: Results) -> bool:
    return (
        np.array_equal(a.xyxy, b.xyxy)
        and np.array_equal(a.conf, b.conf)
        and np.array_equal(a.cls, b.cls)
        and a.orig_shape == b.orig_shape
    )


def test_results_have_the_types_that_are_promised(detector: dd.Detector, folder: Path) -> None:
    (r,) = detector.predict(folder / "0.png", **LOW)
    assert len(r) > 3
    assert (r.xyxy.dtype, r.conf.dtype, r.cls.dtype) == (np.float32, np.float32, np.int64)
    assert r.xyxy.shape == (len(r), 4)
    assert (np.diff(r.conf) <= 0).all()
    assert r.orig_shape == (64, 96)
    assert r.names == CLASSES
    assert r.path == str(folder / "0.png")
    assert (r.xyxy >= 0).all() and (r.xyxy <= [96, 64, 96, 64]).all()


def sources(folder: Path) -> dict[str, Any]:
    path = folder / "0.png"
    with Image.open(path) as image:
        image.load()
    pixels = np.asarray(image)
    return {
        "Path": path,
        "str": str(path),
        "bytes": path.read_bytes(),
        "bytearray": bytearray(path.read_bytes()),
        "PIL": image,
        "array": pixels,
        "view": np.asfortranarray(pixels),
        "read-only": np.frombuffer(pixels.tobytes(), np.uint8).reshape(pixels.shape),
        "list": [path],
        "nested": ([pixels],),
        "glob": str(folder / "0*"),
    }


def test_every_kind_of_source_gives_the_same(detector: dd.Detector, folder: Path) -> None:
    found = {k: detector.predict(s, **LOW) for k, s in sources(folder).items()}
    first = found["Path"][0]
    for kind, results in found.items():
        assert len(results) == 1, kind
        assert same(results[0], first), kind


def test_a_folder_is_its_images_by_name(detector: dd.Detector, folder: Path) -> None:
    results = detector.predict(folder, **LOW)
    assert [Path(r.path or "").name for r in results] == [f"{i}.png" for i in range(6)]
    again = [r for i in range(6) for r in detector.predict(folder / f"{i}.png", **LOW)]
    assert all(map(same, results, again))  # a batch changes no bit
    deep = detector.predict(str(folder / "**" / "*.png"), **LOW)
    assert len(deep) == 7


def test_stream_looks_at_images_one_by_one(detector: dd.Detector, folder: Path) -> None:
    results = detector.predict([folder / f"{i}.png" for i in range(6)], stream=True, **LOW)
    assert isinstance(results, Iterator)
    assert next(results).path == str(folder / "0.png")
    assert len(list(results)) == 5


def test_imgsz_and_thresholds_are_kept(detector: dd.Detector, folder: Path) -> None:
    (many,) = detector.predict(folder / "4.png", conf=0.0, imgsz=64)
    (few,) = detector.predict(folder / "4.png", conf=0.0, imgsz=64, max_det=5)
    (sure,) = detector.predict(folder / "4.png", conf=float(many.conf[3]), imgsz=64)
    (loose,) = detector.predict(folder / "4.png", conf=0.0, iou=1.0, imgsz=64, max_det=5000)
    assert len(few) == 5 and np.array_equal(few.conf, many.conf[:5])
    assert (sure.conf > many.conf[3]).all()
    assert len(loose) > len(many)


@pytest.mark.parametrize(
    ("source", "kind", "message"),
    [
        ("nowhere.jpg", dd.Error, "nowhere.jpg: no such file"),
        ("nothing*.jpg", dd.Error, r"no image matches nothing\*\.jpg"),
        ("", ValueError, "no file name"),
        ("a\0b", ValueError, "no file name"),
        ([], ValueError, "empty list"),
        (3, TypeError, "source is int"),
        (None, TypeError, "source is NoneType"),
        (b"", dd.Error, "empty"),
        (b"no picture", dd.Error, "text"),
        (np.zeros((4, 4), np.uint8), ValueError, r"\(4, 4\) uint8 came"),
        (np.zeros((4, 4, 3), np.float32), ValueError, "float32 came"),
        (np.zeros((0, 4, 3), np.uint8), ValueError, r"\(0, 4, 3\)"),
        (np.zeros((2, 4, 4, 3), np.uint8), ValueError, r"\(H, W, 3\) uint8 RGB was needed"),
        ([np.zeros((4, 4, 3), np.uint8), 7], TypeError, "source is int"),
    ],
)
def test_a_wrong_source_is_told(
    detector: dd.Detector, source: Any, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        detector.predict(source)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"imgsz": 33}, "imgsz is 33.*next is 64"),
        ({"imgsz": 0}, "imgsz is 0"),
        ({"imgsz": 100_000}, "imgsz is 100000"),
        ({"conf": -0.1}, "conf is -0.1"),
        ({"conf": float("nan")}, "conf is nan"),
        ({"conf": "0.5"}, "conf is '0.5'"),
        ({"iou": 1.5}, "iou is 1.5"),
        ({"max_det": 0}, "max_det is 0"),
        ({"max_det": 2.0}, "max_det is 2.0"),
    ],
)
def test_a_wrong_option_is_told_before_anything_runs(
    detector: dd.Detector, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        detector.predict("nowhere.jpg", stream=True, **options)


def test_a_damaged_image_of_a_folder_is_passed_over_aloud(
    detector: dd.Detector, folder: Path, tmp_path: Path
) -> None:
    whole = (folder / "0.png").read_bytes()
    (tmp_path / "a.png").write_bytes(whole)
    (tmp_path / "b.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "c.png").write_bytes(b"")
    with pytest.warns(UserWarning, match="passed over") as told:
        results = detector.predict(tmp_path, **LOW)
    assert [Path(r.path or "").name for r in results] == ["a.png"]
    assert sorted(n for w in told for n in ("b.png", "c.png") if n in str(w.message)) == [
        "b.png",
        "c.png",
    ]
    with pytest.raises(dd.Error, match=r"b\.png"):
        detector.predict(tmp_path / "b.png")
    with pytest.raises(dd.Error, match="holds no image"):
        detector.predict(_empty(tmp_path))


def _empty(place: Path) -> Path:
    (place / "empty").mkdir()
    return place / "empty"


def test_a_turned_photo_is_looked_at_as_displayed(detector: dd.Detector, tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 255, (40, 90, 3), np.uint8)
    image = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "t.png", exif=exif)
    (turned,) = detector.predict(tmp_path / "t.png", **LOW)
    (plain,) = detector.predict(np.rot90(pixels, -1), **LOW)
    assert turned.orig_shape == (90, 40)
    assert same(turned, plain)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "I;16", "1"])
def test_images_of_other_modes_work(detector: dd.Detector, mode: str) -> None:
    image = Image.new("I;16", (40, 30), 5000) if mode == "I;16" else Image.new(mode, (40, 30))
    (r,) = detector.predict(image, imgsz=64)
    assert r.orig_shape == (30, 40)
    assert r.plot().shape == (30, 40, 3)


def test_extreme_shapes_work(detector: dd.Detector) -> None:
    for shape in ((1, 1, 3), (1, 3000, 3), (2000, 2, 3)):
        (r,) = detector.predict(np.zeros(shape, np.uint8), conf=0.0, imgsz=32)
        assert (r.xyxy >= 0).all() and (r.xyxy <= [shape[1], shape[0]] * 2).all()


@pytest.mark.parametrize("side", [96, 160, 320])
def test_prediction_sees_the_pixels_of_validation(side: int) -> None:
    data = load(drawn(), "train")
    for batch in stream(data.subset(range(3)), side, 3, None, workers=0):
        for i, index in enumerate(batch.indices):
            ready = _prepare(next(_items(data.records[index].path)), side)
            assert np.array_equal(ready.pixels, batch.images[i])


def test_val_and_predict_find_the_same(detector: dd.Detector) -> None:
    data = load(drawn(), "train")
    found = detect_dataset(detector, data, conf=0.01, iou=0.7, imgsz=96, batch=3)
    for record, (xyxy, conf, cls) in zip(data.records, found, strict=True):
        (r,) = detector.predict(record.path, conf=0.01, iou=0.7, imgsz=96)
        assert np.array_equal(r.xyxy, xyxy)
        assert np.array_equal(r.conf, conf)
        assert np.array_equal(r.cls, cls)


def test_val_takes_a_path_or_a_data_set(detector: dd.Detector) -> None:
    one = detector.val(drawn(), split="train", imgsz=64)
    two = detector.val(load(drawn(), "train"), imgsz=64, batch=2, workers=0)
    assert one.to_dict() == two.to_dict()
    assert one.names == CLASSES


def test_val_names_what_does_not_fit(detector: dd.Detector) -> None:
    other = dd.Detector(register(), classes=["cat"])
    with pytest.raises(dd.Error, match=r"has the classes \['disk'.*\['cat'\] were needed"):
        other.val(drawn())
    with pytest.raises(dd.Error, match="no split 'nope'; there is: train, val, test"):
        detector.val(drawn(), split="nope")
    with pytest.raises(ValueError, match="imgsz is 50"):
        detector.val(drawn(), imgsz=50)


def test_a_split_with_fewer_classes_in_another_order_fits(tmp_path: Path) -> None:
    for i in range(2):
        (tmp_path / "images").mkdir(exist_ok=True)
        (tmp_path / "labels").mkdir(exist_ok=True)
        Image.new("RGB", (32, 32)).save(tmp_path / "images" / f"{i}.png")
        (tmp_path / "labels" / f"{i}.txt").write_text(f"{i} 0.5 0.5 0.5 0.5\n")
    (tmp_path / "data.yaml").write_text("train: images\nval: images\nnames: [a, b]\n")
    data = load_for(["b", "c", "a"], tmp_path, "val")
    assert isinstance(data, Dataset)
    assert data.names == ["b", "c", "a"]
    assert [int(r.labels[0]) for r in data.records] == [2, 0]


def test_a_detector_without_classes_says_so() -> None:
    with pytest.raises(dd.Error, match="knows no classes yet"):
        dd.Detector(register()).predict(np.zeros((32, 32, 3), np.uint8))


def test_a_video_without_opencv_says_what_to_install(
    detector: dd.Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    (tmp_path / "v.mp4").write_bytes(b"\0" * 100)
    with pytest.raises(dd.Error, match=r'pip install "deepseek-det\[video\]"'):
        detector.predict(tmp_path / "v.mp4")


def test_a_video_is_its_frames(
    detector: dd.Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Video:
        def __init__(self, name: str) -> None:
            self.left = 0 if "none" in name else 3

        def isOpened(self) -> bool:
            return True

        def read(self) -> tuple[bool, Any]:
            self.left -= 1
            return self.left >= 0, np.full((40, 60, 3), (1, 2, 3), np.uint8)

        def release(self) -> None:
            pass

    module = type(sys)("cv2")
    module.VideoCapture = Video  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cv2", module)
    for name in ("v.mp4", "none.avi"):
        (tmp_path / name).touch()
    results = detector.predict(tmp_path / "v.mp4", **LOW)
    assert [r.frame for r in results] == [0, 1, 2]
    assert tuple(results[0].image[0, 0]) == (3, 2, 1)  # BGR came
    with pytest.raises(dd.Error, match="no frame"):
        detector.predict(tmp_path / "none.avi")


def test_results_do_not_hold_a_batch_alive(detector: dd.Detector, folder: Path) -> None:
    (r,) = detector.predict(folder / "0.png", **LOW)
    assert r.xyxy.base is None and r.conf.base is None


def test_predict_needs_less_than_100_mb(tmp_path: Path) -> None:
    """Peak memory of a whole process that predicts on a 640-pixel JPEG, over a bare interpreter."""
    out = io.BytesIO()
    Image.effect_noise((640, 480), 60).convert("RGB").save(out, "JPEG")
    (tmp_path / "x.jpg").write_bytes(out.getvalue())
    code = textwrap.dedent("""
        import resource, sys
        if len(sys.argv) > 1:
            import deepseek_det as dd
            det = dd.Detector("dsdet-s", classes=["a", "b", "c"])
            det.predict(sys.argv[1], imgsz=640)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    """)

    def peak(*args: str) -> int:
        done = subprocess.run(
            [sys.executable, "-c", code, *args], capture_output=True, text=True, check=True
        )
        return int(done.stdout)

    grown = (peak(str(tmp_path / "x.jpg")) - peak()) / 1024
    assert grown < 100, f"{grown:.0f} MB"


def test_prediction_warns_of_nothing_else(detector: dd.Detector, folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        detector.predict(folder, **LOW)
