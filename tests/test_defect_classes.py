"""Every class of defect that `check` knows: planted, it is found; in clean sets there is none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from planted import (
    CSV_HEAD,
    coco_annotation,
    coco_image,
    coco_text,
    kitti_row,
    voc_object,
    voc_xml,
    write_coco,
    write_csv,
    write_image,
    write_kitti,
    write_voc,
    write_yolo,
)

from deepseek_det.data import check, convert, synthetic
from deepseek_det.data.check import WARNINGS
from deepseek_det.data.records import CODES

Plant = Callable[[Path], object]

ROW = "0 .5 .5 .25 .25\n"
GOOD = voc_object()
SOUND = {"good": ROW}


def yolo(rows: str) -> Plant:
    """A YOLO set with these rows beside a sound image."""
    return lambda root: write_yolo(root, SOUND | {"a": rows})


def voc(xml: str) -> Plant:
    """A VOC set with this file beside a sound one."""
    return lambda root: write_voc(root, {"a": xml, "good": voc_xml(GOOD)})


def coco(*annotations: dict, **more: object) -> Plant:
    """A COCO set with these annotations after a sound one."""
    return lambda root: write_coco(root, coco_text([coco_annotation(100), *annotations], **more))


def annotation_missing(root: Path) -> None:
    write_voc(root, {"good": voc_xml(GOOD)}, {"train": ["good", "gone"]})


def encoding(root: Path) -> None:
    write_yolo(root, SOUND | {"a": ""})
    (root / "labels" / "train" / "a.txt").write_bytes(b"\xff\xfe0\x00")


def image_damaged(root: Path) -> None:
    write_yolo(root, SOUND | {"a": ROW})
    image = root / "images" / "train" / "a.jpg"
    image.write_bytes(image.read_bytes()[:-300])


def image_large(root: Path) -> None:
    write_yolo(root, SOUND | {"a": ROW})
    Image.new("L", (60_000, 1)).save(root / "images" / "train" / "a.jpg")


def image_missing(root: Path) -> None:
    write_yolo(root, SOUND | {"a": ROW})
    (root / "images" / "train" / "a.jpg").unlink()


def link_outside(root: Path) -> None:
    write_yolo(root, SOUND | {"a": ROW})
    image = root / "images" / "train" / "a.jpg"
    image.unlink()
    image.symlink_to(write_image(root.parent / "elsewhere" / "b.jpg"))


def split_unusable(root: Path) -> None:
    write_voc(root, {"good": voc_xml(GOOD)}, {"train": ["good"], "val": []})


TWICE = {"categories": [{"id": 1, "name": "cat"}, {"id": 7, "name": "cat"}]}
DEFECTS: dict[str, Plant] = {
    "annotation_missing": annotation_missing,
    "box_missing": voc(voc_xml("<object><name>cat</name></object>")),
    "box_negative": yolo("0 .01 .5 .2 .2\n"),
    "box_not_finite": yolo("0 nan .5 .2 .2\n"),
    "box_outside": coco(coco_annotation(bbox=[50, 9, 20, 9])),
    "box_reversed": coco(coco_annotation(bbox=[50, 9, -20, 9])),
    "box_zero_area": voc(voc_xml(voc_object(box=(5, 5, 5, 9)))),
    "category_duplicate": coco(**TWICE),
    "class_unknown": yolo("7 .5 .5 .2 .2\n"),
    "encoding": encoding,
    "field_count": yolo("0 .5 .5 .2\n"),
    "field_missing": voc(voc_xml(GOOD.replace("<name>cat</name>", ""))),
    "field_type": coco(coco_annotation(image_id="1")),
    "id_duplicate": coco(coco_annotation(100)),
    "id_range": coco(coco_annotation(2**60)),
    "image_duplicate": coco(images=[coco_image(), coco_image(2)]),
    "image_missing": image_missing,
    "image_too_large": image_large,
    "image_unknown": coco(coco_annotation(image_id=9)),
    "image_unreadable": image_damaged,
    "link_outside": link_outside,
    "not_a_number": lambda root: write_csv(
        root, CSV_HEAD + "a.jpg,64,48,cat,4,five,30,40\nb.jpg,64,48,cat,4,5,30,40\n"
    ),
    "path_outside": coco(images=[coco_image(), coco_image(2, "../../x.jpg")]),
    "split_unusable": split_unusable,
    "xml_dtd": voc('<!DOCTYPE a [<!ENTITY b "c">]>\n' + voc_xml(GOOD)),
    "xml_structure": voc("<html></html>"),
    "xml_syntax": voc("<annotation><object></annotation>"),
}


@pytest.mark.parametrize("code", DEFECTS)
def test_check_finds_planted_defect(code: str, tmp_path: Path) -> None:
    DEFECTS[code](tmp_path / "set")
    report = check(tmp_path / "set")
    assert [f.code for f in report.defects] == [code]
    defect = report.defects[0]
    assert defect.text and Path(defect.file).exists() and code in str(report)


def test_every_class_of_defect_is_planted_here() -> None:
    assert set(DEFECTS) == {*CODES, "split_unusable"} and len(DEFECTS) >= 25


def test_every_code_stands_in_the_docs() -> None:
    text = (Path(__file__).resolve().parent.parent / "docs" / "data.md").read_text()
    assert all(f"| `{code}` | " in text for code in (*DEFECTS, *WARNINGS))


# ---- clean sets ------------------------------------------------------------------------------

FORMATS = ("coco", "lvis", "voc", "yolo", "kitti", "csv")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A drawn data set in COCO's layout."""
    return Path(synthetic(tmp_path_factory.mktemp("drawn") / "set", n=12))


@pytest.mark.parametrize("format", FORMATS)
def test_check_clean_set_has_no_defect(format: str, drawn: Path, tmp_path: Path) -> None:
    report = check(convert(drawn, tmp_path / "set", format))
    assert report.ok and report.format == format
    usual = {"box_at_border", "class_without_boxes", "box_tiny"}
    assert {f.code for f in report.findings} <= usual <= set(WARNINGS)


@pytest.mark.parametrize("format", FORMATS)
def test_check_small_clean_set_has_no_finding_at_all(format: str, tmp_path: Path) -> None:
    src = write_kitti(tmp_path / "src", {c: kitti_row("Car", (4, 5, 30, 40)) for c in "abc"})
    report = check(convert(src, tmp_path / "set", format))
    assert report.findings == []


def test_check_real_clean_sets_have_no_defect(data_root: Path) -> None:
    base = data_root / "voc2012_100" / "database"
    images = base / "images"
    for path in ("coco_format_v1/instances_default.json", "pascalvoc_format", "imagenet_format"):
        assert check(base / "gts" / path, images=images).defects == []
    assert check(data_root / "kitti_frames").defects == []
