"""The check of a data set: planted oddities one by one, and the real data's known dirt."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from planted import (
    coco_annotation,
    coco_image,
    coco_text,
    voc_object,
    voc_xml,
    write_coco,
    write_image,
    write_voc,
    write_yolo,
)

from deepseek_det import Error
from deepseek_det.data import check, synthetic
from deepseek_det.data.check import WARNINGS, Report
from deepseek_det.data.records import CODES

ROW = "0 0.5 0.5 0.5 0.5\n"


def two(root: Path) -> Path:
    """Two sound images with a box each, names cat and dog, dog without boxes."""
    return write_yolo(root, {"a": ROW, "b": ROW})


def twin(root: Path) -> None:
    images = two(root) / "images" / "train"
    shutil.copy(images / "a.jpg", images / "b.jpg")


def near_twin(root: Path) -> None:
    images = two(root) / "images" / "train"
    image = np.asarray(Image.open(images / "a.jpg")).astype(int)
    Image.fromarray(np.clip(image + 3, 0, 255).astype(np.uint8)).save(images / "b.jpg")


def gray(root: Path) -> None:
    path = two(root) / "images" / "train" / "a.jpg"
    Image.open(path).convert("L").save(path)


def animated(root: Path) -> None:
    folder = two(root) / "images" / "train"
    frames = [Image.new("RGB", (64, 48), c) for c in ("red", "blue")]
    frames[0].save(folder / "a.gif", save_all=True, append_images=frames[1:])
    (folder / "a.jpg").unlink()


def many(root: Path) -> None:
    rows = {f"i{k}": ROW + "1 0.5 0.5 0.2 0.2\n" for k in range(24)}
    write_yolo(root, rows | {"i7": ROW})


def leak(root: Path) -> None:
    # val's c is drawn like train's a, d is copied from it
    two(root)
    write_yolo(root, {"c": ROW, "d": ROW}, split="val")
    shutil.copy(root / "images/train/a.jpg", root / "images/val/d.jpg")
    (root / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [cat, dog]\n")


def same_split(root: Path) -> None:
    two(root)
    (root / "data.yaml").write_text("train: images/train\nval: images/train\nnames: [cat, dog]\n")


def exif(root: Path) -> None:
    write_voc(root, {"a": voc_xml(voc_object())})
    tag = Image.Exif()
    tag[0x0112] = 6
    Image.open(root / "JPEGImages" / "a.jpg").save(root / "JPEGImages" / "a.jpg", exif=tag)


def unlisted(root: Path) -> None:
    write_coco(root, coco_text([coco_annotation()]))
    for name in ("x.jpg", "y.jpg"):
        write_image(root / "train" / name)


PLANTED: dict[str, tuple[Callable[[Path], object], int]] = {
    "image_twin": (twin, 1),
    "image_near_twin": (near_twin, 1),
    "image_gray": (gray, 1),
    "image_animated": (animated, 1),
    "image_empty": (lambda r: write_yolo(r, {"a": ROW, "b": ""}), 1),
    "labels_missing": (lambda r: (two(r) / "labels/train/a.txt").unlink(), 1),
    "box_near_duplicate": (lambda r: write_yolo(r, {"a": ROW + "0 .5 .5 .48 .5\n"}), 1),
    "box_at_border": (lambda r: write_yolo(r, {"a": "0 .25 .5 .5 .5\n0 .5 .5 1 1\n"}), 2),
    "box_tiny": (lambda r: write_yolo(r, {"a": "0 .5 .5 .01 .5\n"}), 1),
    "class_without_boxes": (two, 1),
    "class_absent": (many, 1),
    "split_leak": (leak, 2),
    "split_same": (same_split, 1),
    "size_differs": (lambda r: write_voc(r, {"a": voc_xml(voc_object(), size=(99, 9))}), 1),
    "exif_turned": (exif, 1),
    "image_unlabelled": (unlisted, 1),
    "near_twins_skipped": (two, 1),
    "field_type": (
        lambda r: write_coco(
            r, coco_text([coco_annotation()], [coco_image(width="wide", height=48)])
        ),
        1,
    ),
    "filename_differs": (
        lambda r: write_voc(r, {c: voc_xml(voc_object(), filename="a.jpg") for c in "ab"}),
        1,
    ),
    "field_missing": (
        lambda r: write_coco(r, coco_text([coco_annotation()], [{"id": 1, "file_name": "a.jpg"}])),
        2,
    ),
}


@pytest.mark.parametrize("code", PLANTED)
def test_check_finds_planted_oddity(
    code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant, count = PLANTED[code]
    plant(tmp_path)
    if code == "near_twins_skipped":
        monkeypatch.setattr(sys.modules["deepseek_det.data.check"], "NEAR_LIMIT", 1)
    report = check(tmp_path)
    assert report.count(code) == count
    assert report.ok and all(f.level == "warning" for f in report.findings)
    assert {f.code for f in report.findings} <= set(WARNINGS)
    assert code in str(report)


def test_every_oddity_is_planted_here() -> None:
    assert set(PLANTED) == set(WARNINGS)


def test_check_other_classes_or_small_overlap_is_no_duplicate(tmp_path: Path) -> None:
    write_yolo(tmp_path, {"a": ROW + "1 .5 .5 .5 .5\n0 .5 .5 .4 .4\n"})
    assert check(tmp_path).count("box_near_duplicate") == 0


def test_check_flat_images_are_no_twins(tmp_path: Path) -> None:
    two(tmp_path)
    for k, name in enumerate("ab"):
        path = tmp_path / "images" / "train" / f"{name}.jpg"
        Image.new("RGB", (64, 48), (k * 90, 10, 10)).save(path)
    assert check(tmp_path).count("image_near_twin") == 0


def test_check_reports_defects_of_every_split(tmp_path: Path) -> None:
    files = {"a": voc_xml(voc_object()), "b": voc_xml(voc_object(box=(5, 5, 5, 9)))}
    write_voc(tmp_path, files, {"train": ["a"], "val": ["b"], "test": []})
    report = check(tmp_path)
    assert not report.ok
    assert [(f.split, f.code, f.line) for f in report.defects] == [
        ("val", "box_zero_area", 7),
        ("test", "split_unusable", 0),
    ]
    assert list(report.splits) == ["train", "val"]
    assert check(tmp_path, "train").ok
    with pytest.raises(Error, match="split is empty"):
        check(tmp_path, "test")


def test_check_finds_damage_within_an_image(tmp_path: Path) -> None:
    """A PNG whose end is in place but whose middle is not: found by decoding only."""
    two(tmp_path)
    path = tmp_path / "images" / "train" / "a.png"
    Image.open(path.with_suffix(".jpg")).save(path)
    data = bytearray(path.read_bytes())
    at = data.index(b"IDAT") + 4
    data[at : at + 2] = b"\xff\xff"
    path.write_bytes(data)
    (path.with_suffix(".jpg")).unlink()
    report = check(tmp_path)
    assert [(f.code, Path(f.file).name) for f in report.defects] == [("image_unreadable", "a.png")]


def test_check_json_holds_everything(tmp_path: Path) -> None:
    write_yolo(tmp_path, {"a": ROW + "9 .5 .5 .5 .5\n"})
    report = check(tmp_path, imgsz=640)
    content = json.loads(report.to_json())
    assert content["ok"] is False and content["imgsz"] == 640 and content["format"] == "yolo"
    assert content["counts"]["class_unknown"] == 1
    assert len(content["findings"]) == len(report.findings)
    assert content["splits"]["train"]["classes"] == {"cat": 1, "dog": 0}


def test_check_is_the_same_for_any_number_of_workers(tmp_path: Path) -> None:
    twin(tmp_path)
    assert check(tmp_path, workers=1).to_dict() == check(tmp_path, workers=3).to_dict()


def test_check_bad_arguments(tmp_path: Path) -> None:
    with pytest.raises(Error, match="no known layout"):
        check(tmp_path)
    with pytest.raises(ValueError, match="imgsz"):
        check(two(tmp_path), imgsz=0)


def test_check_synthetic_has_no_defect(tmp_path: Path) -> None:
    report = check(synthetic(tmp_path / "set", n=10))
    assert report.ok
    assert {f.code for f in report.findings} <= {"box_at_border", "class_without_boxes"}


def test_codes_of_defects_and_warnings_have_a_meaning() -> None:
    assert all(CODES.values()) and all(WARNINGS.values())


# ---- real data: the dirt that is known to be in it ---------------------------------------


@pytest.fixture(scope="module")
def bccd(data_root: Path) -> Report:
    """BCCD, all splits."""
    return check(data_root / "BCCD")


@pytest.fixture(scope="module")
def raccoon(data_root: Path) -> Report:
    """raccoon, its one split."""
    return check(data_root / "raccoon")


def test_check_bccd_finds_its_dirt(bccd: Report) -> None:
    assert [f.code for f in bccd.defects] == ["box_zero_area"] * 2
    assert bccd.count("box_near_duplicate") == 8
    assert bccd.count("box_at_border") == 545
    missing = [f for f in bccd.findings if f.code == "class_absent" and " RBC" in f.text]
    assert len(missing) == 15
    assert bccd.count("split_leak") == bccd.count("image_twin") == 0


def test_check_raccoon_finds_its_dirt(raccoon: Report) -> None:
    assert raccoon.ok
    twins = [f for f in raccoon.findings if f.code == "image_twin"]
    pairs = {frozenset((Path(f.file).stem[8:], f.text.split()[3][8:-5])) for f in twins}
    assert pairs == {frozenset(p.split("/")) for p in ("65/98", "83/120", "11/116", "74/52")}
    assert all("different boxes" in f.text for f in twins)
    assert raccoon.count("image_near_twin") == 3 and raccoon.count("image_gray") == 3


def test_check_coco128_finds_its_dirt(data_root: Path) -> None:
    report = check(data_root / "coco128")
    assert [f.code for f in report.defects] == ["image_missing"] * 2
    assert report.count("labels_missing") == 2 and report.count("split_same") == 1
    # Two are gray JPEGs, two more are colour JPEGs of gray pixels.
    assert report.count("image_gray") == 4
    assert report.count("class_without_boxes") == 9
