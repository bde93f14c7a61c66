"""The drawn data set: its layout, that it is a function of the seed, and that boxes are honest."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deepseek_det import Error
from deepseek_det.data import load, splits, synthetic
from deepseek_det.data.synthetic import CLASSES, OVERSAMPLE, SIZE_PX, Draw, _mask, picture


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty images."""
    return synthetic(tmp_path_factory.mktemp("drawn") / "set", n=40, seed=0)


def digests(folder: Path) -> dict[str, str]:
    """Hash of every file by its relative name."""
    files = (p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_synthetic_has_three_splits_that_load_strictly(drawn: Path) -> None:
    assert splits(drawn) == ["train", "val", "test"]
    sizes = {s: len(load(drawn, s, strict=True)) for s in splits(drawn)}
    assert sizes == {"train": 30, "val": 4, "test": 6}
    data = load(drawn)
    assert data.names == list(CLASSES) and data.categories == [1, 2, 3, 4, 5, 6]
    assert (data.counts() > 0).all() and not data.notes
    ids = [r.id for s in splits(drawn) for r in load(drawn, s).records]
    assert ids == list(range(1, 41))


def test_synthetic_is_a_function_of_the_seed(drawn: Path, tmp_path: Path) -> None:
    again = synthetic(tmp_path / "again", n=40, seed=0)
    assert digests(again) == digests(drawn)
    other = synthetic(tmp_path / "other", n=3, seed=1)
    assert digests(other)["train/000000.jpg"] != digests(drawn)["train/000000.jpg"]


def test_draw_bits_are_philox_and_never_change() -> None:
    """Stored values: a NumPy that changes the raw stream would change every picture."""
    draw = Draw(5, 2)
    assert [draw.integer(0, 999) for _ in range(4)] == STORED_INTEGERS
    assert draw.bytes(4).tolist() == STORED_BYTES


STORED_INTEGERS = [846, 716, 420, 230]
STORED_BYTES = [228, 183, 241, 116]


def test_synthetic_objects_span_small_to_large_and_overlap(drawn: Path) -> None:
    data = load(drawn)
    sides = np.concatenate(
        [np.sqrt((r.boxes[:, 2:] - r.boxes[:, :2]).prod(1)) for r in data.records]
    )
    assert (sides < 32).mean() > 0.15 and (sides > 96).mean() > 0.1
    overlapping = 0
    for record in data.records:
        low = np.maximum(record.boxes[:, None, :2], record.boxes[None, :, :2])
        high = np.minimum(record.boxes[:, None, 2:], record.boxes[None, :, 2:])
        both = np.clip(high - low, 0, None).prod(2)
        overlapping += bool((np.triu(both, 1) > 0).any())
    assert overlapping > len(data) / 3


def test_picture_boxes_lie_within_and_fit_what_is_visible() -> None:
    """The visible area fills its box as its shape can: nothing is labelled that is not there."""
    for index in range(12):
        image, found = picture(0, index)
        assert image.size == (SIZE_PX, SIZE_PX) and 1 <= len(found) <= 8
        for label, (x, y, w, h), area in found:
            assert 0 <= x < x + w <= SIZE_PX and 0 <= y < y + h <= SIZE_PX
            assert 0 <= label < len(CLASSES)
            assert 0.1 < area / (w * h) <= 1.0


def test_picture_object_stands_out_where_its_box_says() -> None:
    """A lone object's box agrees with a rendering of the scene without it."""
    checked = 0
    for index in range(60):
        image, found = picture(3, index)
        pixels = np.asarray(image, np.float32)
        for label, (x, y, w, h), area in found:
            if CLASSES[label] != "disk" or min(w, h) < 40 or area < 0.7 * w * h:
                continue
            middle = pixels[int(y + h / 2) - 3 : int(y + h / 2) + 3, int(x + w / 2) - 3 :][:, :6]
            assert middle.std((0, 1)).max() < 60
            checked += 1
    assert checked > 5


@pytest.mark.parametrize("label", range(len(CLASSES)))
@pytest.mark.parametrize("side", [20.0, 75.5, 150.0])
def test_mask_has_the_asked_extent(label: int, side: float) -> None:
    """Whatever the turn, a shape lies in the circle of its size and reaches its border."""
    for angle in np.linspace(0, 6, 9):
        mask = _mask(label, side, float(angle))
        rows, columns = np.nonzero(mask)
        centre = (np.array(mask.shape) - 1) / 2
        far = np.hypot(rows - centre[0], columns - centre[1]).max()
        assert abs(far - side * OVERSAMPLE / 2) <= 2


def test_synthetic_refuses_few_images_and_full_folders(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least 3"):
        synthetic(tmp_path / "few", n=2)
    (tmp_path / "x.txt").write_text("keep")
    with pytest.raises(Error, match="not an empty folder"):
        synthetic(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["x.txt"]


def test_synthetic_failure_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", "a.jpg")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(Error, match="No space left"):
        synthetic(tmp_path / "set", n=3)
    assert not list(tmp_path.iterdir())


def test_picture_is_quick() -> None:
    """400 images are promised in 10 s on an idle core; a loaded one gets a wide margin here."""
    start = time.process_time()
    for index in range(10):
        picture(0, index)
    assert (time.process_time() - start) / 10 < 0.1
