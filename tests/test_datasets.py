"""Readers of VOC, COCO and YOLO layouts: what they find, and each kind of dirt as a defect."""

from __future__ import annotations

import doctest
import hashlib
import importlib
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from planted import (
    coco_annotation,
    coco_text,
    voc_object,
    voc_xml,
    write_coco,
    write_image,
    write_voc,
    write_yolo,
)

from deepseek_det import Error
from deepseek_det.data import Dataset, holdout, load, splits
from deepseek_det.data.records import Classes, number, turn_box

GOOD = voc_object()
YOLO_GOOD = "0 0.5 0.5 0.25 0.25\n"
A = coco_annotation

# ---- COCO ----


def test_coco_gaps_in_category_ids_are_kept(tmp_path: Path) -> None:
    categories = [{"id": 90, "name": "z"}, {"id": 3, "name": "y"}, {"id": 11, "name": "x"}]
    write_coco(tmp_path, coco_text([A(1, 1, 90), A(2, 1, 3)], None, categories))
    data = load(tmp_path)
    assert data.names == ["y", "x", "z"] and data.categories == [3, 11, 90]
    assert data.records[0].labels.tolist() == [2, 0]
    assert data.counts().tolist() == [1, 0, 1]
    assert "x" in data.report() and "(no boxes)" in data.report()


def test_coco_names_choose_and_order_the_classes(tmp_path: Path) -> None:
    write_coco(tmp_path, coco_text([A(1, 1, 1), A(2, 1, 7)]))
    data = load(tmp_path, names=["bird", "dog"])
    assert data.names == ["bird", "dog"] and data.categories == [8, 7]
    assert data.records[0].labels.tolist() == [1]
    assert [d.code for d in data.rejected] == ["class_unknown"]


def test_coco_crowd_is_ignored_region(tmp_path: Path) -> None:
    write_coco(tmp_path, coco_text([A(1, iscrowd=1), A(2)]))
    data = load(tmp_path)
    assert data.records[0].ignore.tolist() == [True, False]
    assert data.n_boxes == 1 and len(data[0].boxes) == 1
    assert "1 ignored region" in data.report()


def test_coco_missing_size_is_read_from_the_image(tmp_path: Path) -> None:
    write_coco(tmp_path, coco_text([A()], [{"id": 1, "file_name": "a.jpg"}]))
    data = load(tmp_path)
    assert (data.records[0].width, data.records[0].height) == (64, 48)
    assert not data.rejected and {d.field for d in data.notes} == {"width", "height"}


def test_coco_layouts_are_all_recognised(tmp_path: Path) -> None:
    text = coco_text([A()])
    for where in ("train2017", "images/train2017", "train", "images/train", "images"):
        root = tmp_path / where.replace("/", "_")
        (root / "annotations").mkdir(parents=True)
        (root / "annotations" / "instances_train2017.json").write_text(text)
        (root / "annotations" / "captions_train2017.json").write_text("{}")
        write_image(root / where / "a.jpg")
        data = load(root)
        assert (data.format, len(data), data.n_boxes) == ("coco", 1, 1)
        assert splits(root) == ["train"]


def test_coco_roboflow_export_is_recognised(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        folder = tmp_path / split
        write_image(folder / "a.jpg")
        (folder / "_annotations.coco.json").write_text(coco_text([A()]))
    assert splits(tmp_path) == ["train", "val"]
    assert len(load(tmp_path, "val")) == len(load(tmp_path, "valid")) == 1


def test_coco_single_json_with_images(tmp_path: Path) -> None:
    write_image(tmp_path / "elsewhere" / "a.jpg")
    for name, split in (("my_labels.json", "train"), ("instances_val2017.json", "val")):
        file = tmp_path / name
        file.write_text(coco_text([A()]))
        assert splits(file) == [split]
        for asked in {"train", split}:
            data = load(file, asked, images=tmp_path / "elsewhere")
            assert len(data) == 1 and data.split == asked
        with pytest.raises(Error, match=f"no split 'test'; there is: {split}"):
            load(file, "test", images=tmp_path / "elsewhere")
        with pytest.raises(Error, match="no usable image"):
            load(file)


def test_coco_two_years_need_the_full_name(tmp_path: Path) -> None:
    for year in ("train2014", "train2017"):
        write_coco(tmp_path, coco_text([A()]), year)
    assert splits(tmp_path) == ["train2014", "train2017"]
    with pytest.raises(Error, match="train2014, train2017"):
        load(tmp_path, "train")
    assert len(load(tmp_path, "train2014")) == 1


# ---- images ----


def test_exif_turned_photo_has_displayed_size(tmp_path: Path) -> None:
    write_yolo(tmp_path, {"a": "0 0.25 0.5 0.5 1\n"})
    exif = Image.Exif()
    exif[0x0112] = 6
    write_image(tmp_path / "images" / "train" / "a.jpg", exif=exif)
    data = load(tmp_path)
    record = data.records[0]
    assert (record.width, record.height) == (48, 64)
    assert record.boxes.tolist() == [[0, 0, 24, 64]]
    assert data.image(0).shape == (64, 48, 3) and data.image(0, 4).shape == (16, 12, 3)


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_boxes_drawn_on_unrotated_pixels_turn_with_the_photo(
    orientation: int, tmp_path: Path
) -> None:
    write_voc(tmp_path, {"a": voc_xml(voc_object(box=(8, 16, 24, 40)))})
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.new("RGB", (64, 48))
    image.paste((255, 255, 255), (8, 16, 24, 40))
    image.save(tmp_path / "JPEGImages" / "a.jpg", exif=exif, quality=100, subsampling=0)
    data = load(tmp_path)
    assert [d.code for d in data.notes] == ["exif_turned"]
    white = data.image(0)[..., 1] > 127
    rows, columns = np.flatnonzero(white.any(1)), np.flatnonzero(white.any(0))
    expected = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    assert data.records[0].boxes[0].tolist() == expected


def test_other_declared_size_is_noted_and_the_real_one_counts(tmp_path: Path) -> None:
    write_voc(tmp_path, {"a": voc_xml(GOOD, size=(640, 480)), "b": voc_xml(GOOD, size=(0, 0))})
    data = load(tmp_path)
    assert [(d.code, Path(d.file).name) for d in data.notes] == [("size_differs", "a.xml")]
    assert (data.records[0].width, data.records[0].height) == (64, 48)


def test_changed_file_is_error(tmp_path: Path) -> None:
    data = load(write_yolo(tmp_path, {"a": YOLO_GOOD}))
    write_image(data.records[0].path, 32, 32)
    with pytest.raises(Error, match=r"a\.jpg: 32x32 px, 64x48 was expected"):
        data.image(0)


# ---- VOC ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "override", "expected"),
    [
        ("PASCAL VOC2007", None, [3, 4, 30, 40]),
        ("PASCAL VOC2012", None, [3, 4, 30, 40]),
        ("Unknown", None, [4, 5, 30, 40]),
        ("", None, [4, 5, 30, 40]),
        ("PASCAL VOC2007", False, [4, 5, 30, 40]),
        ("", True, [3, 4, 30, 40]),
    ],
)
def test_voc_one_based_rule(
    source: str, override: bool | None, expected: list[int], tmp_path: Path
) -> None:
    write_voc(tmp_path, {"a": voc_xml(GOOD, source=source)})
    data = load(tmp_path, voc_one_based=override)
    assert data.records[0].boxes.tolist() == [expected]


def test_voc_splits_names_and_difficult(tmp_path: Path) -> None:
    files = {
        "a": voc_xml(voc_object("zebra"), voc_object("ant", difficult=1)),
        "b": voc_xml(voc_object("bee")),
        "c": voc_xml(voc_object("wasp")),
    }
    lists = {"test": ["c"], "train": ["a"], "val": ["b"], "ant_train": ["a  1"]}
    write_voc(tmp_path, files, lists)
    assert splits(tmp_path) == ["train", "val", "test"]
    for split in ("train", "val", "test"):
        assert load(tmp_path, split).names == ["ant", "bee", "wasp", "zebra"]
    data = load(tmp_path)
    assert data.records[0].labels.tolist() == [3, 0]
    assert data.records[0].ignore.tolist() == [False, True]
    assert data.n_boxes == 1


def test_voc_parts_of_an_object_are_no_classes(tmp_path: Path) -> None:
    part = "<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part></object>"
    write_voc(tmp_path, {"a": voc_xml(voc_object("person").replace("</object>", part))})
    data = load(tmp_path)
    assert data.names == ["person"] and data.n_boxes == 1 and not data.rejected


def test_voc_list_with_unknown_and_repeated_id(tmp_path: Path) -> None:
    write_voc(tmp_path, {"a": voc_xml(GOOD)}, {"train": ["a", "", "a", "gone", "../a"]})
    found = [(d.code, d.line) for d in load(tmp_path).rejected]
    assert sorted(found) == [("annotation_missing", 4), ("image_duplicate", 3), ("path_outside", 5)]


def test_voc_filename_is_used_where_the_stem_has_no_image(tmp_path: Path) -> None:
    write_voc(tmp_path, {"a": voc_xml(GOOD, filename="photo.png")})
    (tmp_path / "JPEGImages" / "a.jpg").unlink()
    write_image(tmp_path / "JPEGImages" / "photo.png")
    assert load(tmp_path).records[0].path.name == "photo.png"


def test_voc_filename_of_another_image_is_noted(tmp_path: Path) -> None:
    write_voc(tmp_path, {"a": voc_xml(GOOD, filename="b.jpg"), "b": voc_xml(GOOD)})
    data = load(tmp_path)
    assert [r.path.name for r in data.records] == ["a.jpg", "b.jpg"]
    assert [d.code for d in data.notes] == ["filename_differs"]


def test_voc_encoded_names(tmp_path: Path) -> None:
    xml = '<?xml version="1.0" encoding="iso-8859-1"?>\n' + voc_xml(voc_object("Käse &amp; Brot"))
    write_voc(tmp_path, {"a": voc_xml(GOOD)})
    (tmp_path / "Annotations" / "a.xml").write_bytes(xml.encode("latin-1"))
    assert load(tmp_path).names == ["Käse & Brot"]


# ---- YOLO ---------------------------------------------------------------------------------


def test_yolo_yaml_forms(tmp_path: Path) -> None:
    write_yolo(tmp_path, {"a": "2 .5 .5 .5 .5\n"})
    yaml = tmp_path / "data.yaml"
    yaml.write_text("train: images/train\nnames: {0: no, 2: 1e3}\n")
    data = load(tmp_path)
    assert data.names == ["no", "1e3"] and data.categories == [0, 2]
    assert data.records[0].labels.tolist() == [1]
    yaml.write_text(
        "path: ../somewhere/" + tmp_path.name + "\ntrain: ../images/train\nnames: [a,b,c]\n"
    )
    assert len(load(yaml)) == 1
    (tmp_path / "list.txt").write_text("./images/train/a.jpg\n\nimages/train/b.jpg\n/etc/x.jpg\n")
    yaml.write_text("train: [list.txt]\nval: images/train\nnames: [a, b, c]\nnc: 3\n")
    assert [d.code for d in load(yaml).rejected] == ["image_missing", "path_outside"] or [
        d.code for d in load(yaml).rejected
    ] == ["path_outside", "image_missing"]


def test_yolo_bare_folders_and_names(tmp_path: Path) -> None:
    write_yolo(tmp_path, {"a": "3 .5 .5 .5 .5\n"}, names=None)
    write_yolo(tmp_path, {"b": "0 .5 .5 .5 .5\n"}, names=None, split="val")
    assert splits(tmp_path) == ["train", "val"]
    assert load(tmp_path, "val").names == ["0", "1", "2", "3"]
    (tmp_path / "classes.txt").write_text("w\nx\ny\nz\n")
    assert load(tmp_path).names == ["w", "x", "y", "z"]
    assert load(tmp_path, names=["z"]).records[0].labels.tolist() == [0]


def test_yolo_split_folders(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        write_image(tmp_path / split / "images" / "a.jpg")
        (tmp_path / split / "labels").mkdir()
        (tmp_path / split / "labels" / "a.txt").write_text(YOLO_GOOD)
    assert splits(tmp_path) == ["train", "val"]
    assert load(tmp_path, "val").n_boxes == 1


def test_yolo_flat_images_and_labels(tmp_path: Path) -> None:
    write_image(tmp_path / "images" / "a.png")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text("0 .5 .5 1.0000004 1\r\n")
    data = load(tmp_path)
    assert data.records[0].boxes.tolist() == [[0, 0, 64, 48]] and data.records[0].id == "images/a"


# ---- the data set -------------------------------------------------------------------------


def test_one_image_data_set_works(tmp_path: Path) -> None:
    data = load(write_voc(tmp_path, {"a": voc_xml(GOOD)}))
    image, boxes, labels = data[0]
    assert image.shape == (48, 64, 3) and image.dtype == np.uint8
    assert boxes.dtype == np.float32 and labels.dtype == np.int32
    assert len(data) == 1 and data[-1].labels.tolist() == [0]
    train, val = holdout(data)
    assert len(train) == len(val) == 1
    with pytest.raises(IndexError):
        data[1]


def test_empty_split_is_error(tmp_path: Path) -> None:
    write_voc(tmp_path, {"a": voc_xml(GOOD)}, {"train": ["a"], "val": []})
    with pytest.raises(Error, match=r"split 'val' .*is empty"):
        load(tmp_path, "val")


def test_split_without_a_sound_image_is_error_with_defects(tmp_path: Path) -> None:
    write_voc(tmp_path, {"a": "<broken"})
    with pytest.raises(Error, match=r"no usable image: 1 defects \(1 xml_syntax\): .*a\.xml:1"):
        load(tmp_path)


def test_missing_split_names_those_present(tmp_path: Path) -> None:
    write_voc(tmp_path, {"a": voc_xml(GOOD)}, {"train": ["a"], "val": ["a"]})
    with pytest.raises(Error, match="no split 'test'; there is: train, val"):
        load(tmp_path, "test")


def test_unknown_layout_says_what_was_looked_for(tmp_path: Path) -> None:
    write_image(tmp_path / "deep" / "a.jpg")
    with pytest.raises(Error, match=r"VOC .*COCO .*YOLO ") as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)
    write_voc(tmp_path / "inner", {"a": voc_xml(GOOD)})
    with pytest.raises(Error, match="inner has one of these"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        ({"path": ""}, TypeError),
        ({"path": 7}, TypeError),
        ({"path": "no/such/folder"}, Error),
        ({"path": "a\0b"}, Error),
        ({"names": "cat"}, TypeError),
        ({"names": [1]}, TypeError),
        ({"names": []}, ValueError),
        ({"names": ["a", "a"]}, ValueError),
        ({"images": "no/such/folder"}, Error),
    ],
)
def test_load_bad_argument_is_named(
    arguments: dict[str, Any], kind: type[Exception], tmp_path: Path
) -> None:
    write_voc(tmp_path, {"a": voc_xml(GOOD)})
    with pytest.raises(kind, match="load"):
        load(**({"path": tmp_path} | arguments))


def test_load_of_a_data_set_returns_it(tmp_path: Path) -> None:
    data = load(write_voc(tmp_path, {"a": voc_xml(GOOD)}))
    assert load(data) is data


def test_nothing_in_the_folder_is_written(tmp_path: Path) -> None:
    write_voc(tmp_path, {"a": voc_xml(GOOD), "b": "<broken"})

    def state() -> list[tuple[str, int, str]]:
        files = sorted(p for p in tmp_path.rglob("*") if p.is_file())
        digests = [hashlib.sha256(p.read_bytes()).hexdigest() for p in files]
        stamps = [p.stat().st_mtime_ns for p in files]
        return list(zip(map(str, files), stamps, digests, strict=True))

    before = state()
    load(tmp_path).image(0)
    assert state() == before


def test_read_only_folder_loads(tmp_path: Path) -> None:
    write_voc(tmp_path, {"a": voc_xml(GOOD)})
    for folder in (tmp_path, tmp_path / "Annotations", tmp_path / "JPEGImages"):
        folder.chmod(0o555)
    try:
        assert len(load(tmp_path)) == 1
    finally:
        tmp_path.chmod(0o755)
        for folder in tmp_path.iterdir():
            folder.chmod(0o755)


def test_holdout_is_seeded_disjoint_and_whole(tmp_path: Path) -> None:
    data = load(write_voc(tmp_path, {f"i{k}": voc_xml(GOOD) for k in range(20)}))
    for fraction in (0.1, 0.5, 0.99):
        train, val = holdout(data, fraction, seed=3)
        assert sorted([*map(str, _ids(train)), *map(str, _ids(val))]) == sorted(_ids(data))
        assert len(val) == min(19, round(20 * fraction)) and len(train) >= 1
        assert _ids(val) == _ids(holdout(data, fraction, seed=3)[1])
    assert _ids(holdout(data, 0.5, seed=4)[1]) != _ids(holdout(data, 0.5, seed=3)[1])
    with pytest.raises(ValueError, match="fraction"):
        holdout(data, 1.0)


def _ids(data: Dataset) -> list[Any]:
    return [r.id for r in data.records]


def test_report_names_counts_and_defects(tmp_path: Path) -> None:
    write_voc(tmp_path, {"a": voc_xml(GOOD, *[voc_object(box=(5, 5, 5, 9))] * 9)})
    report = load(tmp_path).report()
    assert "1 images, 1 boxes" in report and "9 x box_zero_area" in report
    assert "a.xml:16" in report and "and 6 more" in report


def test_natural_order_of_files(tmp_path: Path) -> None:
    write_voc(tmp_path, {f"i{k}": voc_xml(GOOD) for k in (10, 9, 1)})
    assert _ids(load(tmp_path)) == ["i1", "i9", "i10"]


def test_batches_of_a_data_set(tmp_path: Path) -> None:
    data = load(write_yolo(tmp_path, {"a": YOLO_GOOD, "b": YOLO_GOOD, "c": ""}))
    for augment in (False, True):
        made = list(data.batches(imgsz=64, batch=2, augment=augment, workers=0))
        assert all(images.shape[1:] == (64, 64, 3) for images, _ in made)
        assert all(t.shape[1] == 5 for _, targets in made for t in targets)
    _, targets = next(data.batches(imgsz=64, batch=2, augment=False, workers=0))
    assert targets[0].tolist() == [[0, 24, 26, 40, 38]]  # 64x48 is centred: 8 px above


@pytest.mark.parametrize(
    "name",
    [
        *("records", "decode", "voc", "coco", "yolo", "datasets", "convert", "synthetic", "check"),
        *("lvis", "kitti", "tables", "writers", "compose", "similar", "census", "pages", "darknet"),
    ],
)
def test_docstring_examples_hold(name: str) -> None:
    result = doctest.testmod(importlib.import_module(f"deepseek_det.data.{name}"))
    assert result.failed == 0


# ---- the rules alone ----------------------------------------------------------------------


@settings(max_examples=200)
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_number_reads_what_python_writes(value: float) -> None:
    assert number(repr(value)) == value


@pytest.mark.parametrize("text", ["", "1_0", "0x10", "1,5", "--1", "1e", "١", "1 2", "."])
def test_number_refuses(text: str) -> None:
    assert number(text) is None


def test_number_reads_nan_and_inf() -> None:
    assert math.isnan(number("NaN") or 0) and number("-inf") == -math.inf


@settings(max_examples=100)
@given(st.integers(5, 8), st.lists(st.integers(0, 60), min_size=4, max_size=4))
def test_turn_box_follows_the_pixels(orientation: int, sides: list[int]) -> None:
    from deepseek_det.data.decode import oriented

    x0, x1 = sorted((sides[0] % 20, sides[1] % 20))
    y0, y1 = sorted((sides[2] % 30, sides[3] % 30))
    x1, y1 = x1 + 1, y1 + 1
    pixels = np.zeros((31, 21), bool)
    pixels[y0:y1, x0:x1] = True
    turned = oriented(pixels, orientation)
    rows, columns = np.flatnonzero(turned.any(1)), np.flatnonzero(turned.any(0))
    expected = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    assert turn_box((x0, y0, x1, y1), orientation, (21, 31)) == expected


def test_classes_give_new_names_free_ids() -> None:
    classes = Classes(["a", "b"], [5, 2], ["b", "new", "a", "other"])
    assert classes.categories == [2, 6, 5, 7]
    assert [classes.label(k) for k in (5, 2, 6)] == [2, 0, None]


# ---- real data ----------------------------------------------------------------------------

BCCD = {"train": (205, {"Platelets": 209, "WBC": 214}, 1), "val": (87, {}, 1), "test": (72, {}, 0)}


def test_bccd_counts(data_root: Path) -> None:
    total, rejected = 0, []
    for split, (images, counts, defects) in BCCD.items():
        data = load(data_root / "BCCD", split)
        assert data.names == ["Platelets", "RBC", "WBC"] and data.format == "voc"
        assert len(data) == images and len(data.rejected) == defects
        by_name = dict(zip(data.names, data.counts().tolist(), strict=True))
        assert counts.items() <= by_name.items()
        total += data.n_boxes
        rejected += data.rejected
    assert total == 4888 - 2
    found = sorted((Path(d.file).stem, d.code, d.line) for d in rejected)
    assert found == [
        ("BloodImage_00338", "box_zero_area", 164),
        ("BloodImage_00343", "box_zero_area", 56),
    ]


def test_raccoon_counts(data_root: Path) -> None:
    data = load(data_root / "raccoon")
    assert (len(data), data.n_boxes, data.names) == (200, 217, ["raccoon"])
    assert not data.rejected and splits(data_root / "raccoon") == ["train"]


def test_coco128_counts(data_root: Path) -> None:
    data = load(data_root / "coco128")
    assert (len(data), data.n_boxes, len(data.names)) == (128, 929, 80)
    assert [(d.code, Path(d.file).name) for d in data.rejected] == [
        ("image_missing", "000000000656.txt"),
        ("image_missing", "000000000659.txt"),
    ]
    assert [Path(d.file).name for d in data.notes] == ["000000000250.jpg", "000000000508.jpg"]


def test_voc2012_formats_agree(data_root: Path) -> None:
    """The same 273 boxes from VOC XML and from COCO json; the devkit's pixels are 1-based."""
    base = data_root / "voc2012_100" / "database"
    xml = load(base / "gts" / "imagenet_format", images=base / "images")
    assert (len(xml), xml.n_boxes + sum(int(r.ignore.sum()) for r in xml.records)) == (100, 273)
    file = base / "gts" / "coco_format_v1" / "instances_default.json"
    coco = load(file, images=base / "images")
    assert (len(coco), sum(len(r.boxes) for r in coco.records)) == (100, 273)
    by_name = {r.path.name: r for r in coco.records}
    for record in xml.records:
        other = by_name[record.path.name]
        assert len(other.boxes) == len(record.boxes)
        gap = np.abs(np.sort(record.boxes, 0) - np.sort(other.boxes, 0))
        assert gap.max(initial=0) <= 1.01


def test_coco_val2014_reads_as_the_json_module_does(data_root: Path) -> None:
    file = data_root / "coco_eval_ref" / "cocoapi" / "instances_val2014_100.json"
    with pytest.raises(Error, match="100 image_missing"):
        load(file)
    content = json.loads(file.read_text())
    from deepseek_det import _core

    table = _core.coco_read(os.fspath(file))
    assert table["annotations"]["box"].tolist() == [a["bbox"] for a in content["annotations"]]
    assert table["images"]["name"] == [i["file_name"] for i in content["images"]]
