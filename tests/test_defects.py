"""Dirty data sets: each kind of dirt, planted, is a defect with file, line, code and field."""

from __future__ import annotations

import ast
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
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

from deepseek_det import Error
from deepseek_det.data import load
from deepseek_det.data import records as record_rules
from deepseek_det.data.records import CODES

# ---- dirt, planted: what is written → the defects' (code, line, field) ------------------------

GOOD = voc_object()
VOC_DIRT: dict[str, tuple[str, list[tuple[str, int, str]]]] = {
    "dtd": (
        '<!DOCTYPE annotation [<!ENTITY a "b">]>\n' + voc_xml(GOOD),
        [("xml_dtd", 1, "xml")],
    ),
    "external_entity": (
        '<?xml version="1.0"?>\n<!DOCTYPE a SYSTEM "file:///etc/passwd">\n' + voc_xml(GOOD),
        [("xml_dtd", 2, "xml")],
    ),
    "not_well_formed": ("<annotation>\n<object>\n</annotation>", [("xml_syntax", 3, "xml")]),
    "empty": ("", [("xml_syntax", 1, "xml")]),
    "unknown_encoding": (
        '<?xml version="1.0" encoding="klingon"?>' + voc_xml(GOOD),
        [("xml_syntax", 1, "xml")],
    ),
    "multi_byte_encoding": (
        '<?xml version="1.0" encoding="shift_jis"?>' + voc_xml(GOOD),
        [("xml_syntax", 1, "xml")],
    ),
    "other_root": ("<html></html>", [("xml_structure", 1, "xml")]),
    "deep": (
        "<annotation>" + "<a>" * 100 + "</a>" * 100 + "</annotation>",
        [("xml_structure", 1, "xml")],
    ),
    "no_bndbox": (
        voc_xml("<object><name>cat</name></object>", GOOD),
        [("box_missing", 4, "bndbox")],
    ),
    "no_xmax": (voc_xml(GOOD.replace("<xmax>30</xmax>", "")), [("field_missing", 4, "xmax")]),
    "no_name": (voc_xml(GOOD.replace("<name>cat</name>", "")), [("field_missing", 4, "name")]),
    "zero_width": (voc_xml(voc_object(box=(5, 5, 5, 9))), [("box_zero_area", 7, "bndbox")]),
    "zero_height": (voc_xml(voc_object(box=(5, 9, 8, 9))), [("box_zero_area", 7, "bndbox")]),
    "negative": (voc_xml(voc_object(box=(-4, 5, 30, 40))), [("box_negative", 7, "bndbox")]),
    "reversed": (voc_xml(voc_object(box=(30, 5, 4, 40))), [("box_reversed", 7, "bndbox")]),
    "outside": (voc_xml(voc_object(box=(4, 5, 66, 40))), [("box_outside", 7, "bndbox")]),
    "far_outside": (voc_xml(voc_object(box=(100, 100, 120, 120))), [("box_outside", 7, "bndbox")]),
    "nan": (voc_xml(voc_object(box=(4, "nan", 30, 40))), [("box_not_finite", 7, "bndbox")]),
    "infinite": (voc_xml(voc_object(box=(4, 5, "inf", 40))), [("box_not_finite", 7, "bndbox")]),
    "word": (voc_xml(voc_object(box=(4, "five", 30, 40))), [("not_a_number", 8, "ymin")]),
    "empty_number": (voc_xml(voc_object(box=(4, "", 30, 40))), [("not_a_number", 8, "ymin")]),
    "two": (
        voc_xml(voc_object(box=(5, 5, 5, 9)), GOOD, voc_object(box=(0, 0, 0, 0))),
        [("box_zero_area", 7, "bndbox"), ("box_zero_area", 25, "bndbox")],
    ),
    "path_up": (voc_xml(GOOD, filename="../../secret.jpg"), [("path_outside", 1, "filename")]),
    "path_absolute": (voc_xml(GOOD, filename="/etc/a.jpg"), [("path_outside", 1, "filename")]),
    "path_drive": (voc_xml(GOOD, filename="C:\\a.jpg"), [("path_outside", 1, "filename")]),
}


@pytest.mark.parametrize("name", VOC_DIRT)
def test_voc_dirt_is_defect_with_line(name: str, tmp_path: Path) -> None:
    xml, expected = VOC_DIRT[name]
    write_voc(tmp_path, {"a": xml, "b": voc_xml(GOOD)})
    data = load(tmp_path)
    assert [(d.code, d.line, d.field) for d in data.rejected] == expected
    assert all(d.file == str(tmp_path / "Annotations" / "a.xml") for d in data.rejected)
    assert all(d.code in CODES and d.text for d in data.rejected)
    assert data.records[-1].id == "b" and len(data.records[-1].boxes) == 1
    with pytest.raises(Error, match=rf"{len(expected)} defects .*{expected[0][0]}"):
        load(tmp_path, strict=True)


def test_voc_unknown_class_with_given_names_is_defect(tmp_path: Path) -> None:
    write_voc(tmp_path, {"a": voc_xml(voc_object("dog"), voc_object("cat"))})
    data = load(tmp_path, names=["cat", "bird"])
    assert [(d.code, d.line, d.field, d.value) for d in data.rejected] == [
        ("class_unknown", 5, "name", "dog")
    ]
    assert data.names == ["cat", "bird"] and data.records[0].labels.tolist() == [0]


YOLO_GOOD = "0 0.5 0.5 0.25 0.25\n"
YOLO_DIRT: dict[str, tuple[str, list[tuple[str, int, str]]]] = {
    "four_fields": (YOLO_GOOD + "0 0.5 0.5 0.2\n", [("field_count", 2, "row")]),
    "seven_fields": ("0 .1 .1 .2 .2 .3 .3\n" + YOLO_GOOD, [("field_count", 1, "row")]),
    "class_2_of_2": ("2 0.5 0.5 0.2 0.2\n", [("class_unknown", 1, "class")]),
    "class_negative": ("-1 0.5 0.5 0.2 0.2\n", [("class_unknown", 1, "class")]),
    "class_fraction": ("0.5 0.5 0.5 0.2 0.2\n", [("class_unknown", 1, "class")]),
    "class_nan": ("nan 0.5 0.5 0.2 0.2\n", [("class_unknown", 1, "class")]),
    "class_huge": ("1e300 0.5 0.5 0.2 0.2\n", [("class_unknown", 1, "class")]),
    "word": ("0 0.5 0.5 wide 0.2\n", [("not_a_number", 1, "w")]),
    "underscore": ("0 0.5 0.5 0_1 0.2\n", [("not_a_number", 1, "w")]),
    "nan": ("\n\n0 0.5 nan 0.2 0.2\n", [("box_not_finite", 3, "x y w h")]),
    "zero": ("0 0.5 0.5 0 0.2\n", [("box_zero_area", 1, "x y w h")]),
    "negative_size": ("0 0.5 0.5 -0.1 0.2\n", [("box_reversed", 1, "x y w h")]),
    "pixels": ("0 20 20 10 10\n", [("box_outside", 1, "x y w h")]),
    "left": ("0 0.01 0.5 0.2 0.2\n", [("box_negative", 1, "x y w h")]),
}


@pytest.mark.parametrize("name", YOLO_DIRT)
def test_yolo_dirt_is_defect_with_line(name: str, tmp_path: Path) -> None:
    rows, expected = YOLO_DIRT[name]
    write_yolo(tmp_path, {"a": rows, "b": YOLO_GOOD})
    data = load(tmp_path)
    assert [(d.code, d.line, d.field) for d in data.rejected] == expected
    assert data.rejected[0].file == str(tmp_path / "labels" / "train" / "a.txt")
    assert data.records[1].boxes.tolist() == [[24, 18, 40, 30]]
    with pytest.raises(Error, match=expected[0][0]):
        load(tmp_path, strict=True)


def test_yolo_class_80_of_80_names_both(tmp_path: Path) -> None:
    write_yolo(tmp_path, {"a": "80 .5 .5 .1 .1\n"}, names=[f"c{i}" for i in range(80)])
    defect = load(tmp_path).rejected[0]
    assert "80" in defect.text and "0..79" in defect.text


def test_yolo_label_file_that_is_no_text_is_defect(tmp_path: Path) -> None:
    write_yolo(tmp_path, {"a": YOLO_GOOD})
    (tmp_path / "labels" / "train" / "a.txt").write_bytes(b"\xff\xfe0\x00")
    assert [(d.code, d.line) for d in load(tmp_path).rejected] == [("encoding", 1)]


def test_yolo_orphans_of_both_kinds(tmp_path: Path) -> None:
    write_yolo(tmp_path, {"a": YOLO_GOOD, "b": YOLO_GOOD})
    (tmp_path / "images" / "train" / "a.jpg").unlink()
    (tmp_path / "labels" / "train" / "b.txt").unlink()
    data = load(tmp_path)
    assert [(d.code, Path(d.file).name) for d in data.rejected] == [("image_missing", "a.txt")]
    assert [(d.code, Path(d.file).name) for d in data.notes] == [("labels_missing", "b.jpg")]
    assert len(data) == 1 and len(data.records[0].boxes) == 0


A = coco_annotation
COCO_DIRT: dict[str, tuple[str, list[tuple[str, int, str]]]] = {
    "duplicate_annotation_id": (coco_text([A(1), A(1)]), [("id_duplicate", 7, "id")]),
    "duplicate_image_id": (
        coco_text([A()], [coco_image(), coco_image(1, "b.jpg")]),
        [("id_duplicate", 4, "id")],
    ),
    "duplicate_category_id": (
        coco_text([A()], None, [{"id": 1, "name": "cat"}, {"id": 1, "name": "dog"}]),
        [("id_duplicate", 10, "id")],
    ),
    "duplicate_category_name": (
        coco_text([A()], None, [{"id": 1, "name": "cat"}, {"id": 2, "name": "cat"}]),
        [("category_duplicate", 10, "name")],
    ),
    "duplicate_file_name": (
        coco_text([A()], [coco_image(1), coco_image(2)]),
        [("image_duplicate", 4, "file_name")],
    ),
    "no_bbox": (
        coco_text([{k: v for k, v in A().items() if k != "bbox"}, A(2)]),
        [("box_missing", 6, "bbox")],
    ),
    "no_image_id": (
        coco_text([{k: v for k, v in A().items() if k != "image_id"}, A(2)]),
        [("field_missing", 6, "image_id")],
    ),
    "no_category_id": (
        coco_text([{k: v for k, v in A().items() if k != "category_id"}]),
        [("field_missing", 6, "category_id")],
    ),
    "no_file_name": (
        coco_text([A()], [coco_image(), {"id": 2, "width": 64, "height": 48}]),
        [("field_missing", 4, "file_name")],
    ),
    "huge_id": (coco_text([A(2**60), A(2)]), [("id_range", 6, "id")]),
    "huge_image_id": (
        coco_text([A()], [coco_image(), coco_image(2**60, "b.jpg")]),
        [("id_range", 4, "id")],
    ),
    "fraction_id": (coco_text([A(1.5), A(2)]), [("id_range", 6, "id")]),
    "text_id": (coco_text([A(1, image_id="1"), A(2)]), [("field_type", 6, "image_id")]),
    "unknown_image": (coco_text([A(1, 9), A(2)]), [("image_unknown", 6, "image_id")]),
    "unknown_category": (coco_text([A(1, 1, 2), A(2)]), [("class_unknown", 6, "category_id")]),
    "three_numbers": (coco_text([A(bbox=[1, 2, 3]), A(2)]), [("box_missing", 6, "bbox")]),
    "zero_area": (coco_text([A(bbox=[4, 5, 0, 9]), A(2)]), [("box_zero_area", 6, "bbox")]),
    "negative_width": (coco_text([A(bbox=[9, 9, -5, 9]), A(2)]), [("box_reversed", 6, "bbox")]),
    "negative": (coco_text([A(bbox=[-9, 9, 20, 9]), A(2)]), [("box_negative", 6, "bbox")]),
    "outside": (coco_text([A(bbox=[50, 9, 20, 9]), A(2)]), [("box_outside", 6, "bbox")]),
    "path_up": (
        coco_text([A()], [coco_image(), coco_image(2, "../../x.jpg")]),
        [("path_outside", 4, "file_name")],
    ),
    "path_absolute": (
        coco_text([A()], [coco_image(), coco_image(2, "/etc/x.jpg")]),
        [("path_outside", 4, "file_name")],
    ),
    "path_nul": (
        coco_text([A()], [coco_image(), coco_image(2, "x\0.jpg")]),
        [("path_outside", 4, "file_name"), ("field_type", 4, "file_name")],
    ),
    "no_image": (
        coco_text([A()], [coco_image(), coco_image(2, "b.jpg")]),
        [("image_missing", 4, "file_name")],
    ),
}


@pytest.mark.parametrize("name", COCO_DIRT)
def test_coco_dirt_is_defect_with_line(name: str, tmp_path: Path) -> None:
    text, expected = COCO_DIRT[name]
    write_coco(tmp_path, text)
    data = load(tmp_path)
    got = [(d.code, d.line, d.field) for d in data.rejected]
    if name == "path_nul":  # the JSON reader or the path check may be the one that says it
        assert len(got) == 1 and got[0] in expected
    else:
        assert got == expected
    assert data.rejected[0].file == str(tmp_path / "annotations" / "instances_train.json")
    assert [r.id for r in data.records] == [1]
    with pytest.raises(Error, match="1 defects"):
        load(tmp_path, strict=True)


BROKEN_JSON = {
    "text": "not json",
    "cut": coco_text([A()])[:-20],
    "list": "[]",
    "nan": coco_text([A()]).replace("600", "NaN"),
    "twice": '{"images": [], "images": []}',
    "nothing": "{}",
    "no_annotations": '{"images": [{"id": 1, "file_name": "a.jpg"}], "categories": []}',
    "no_categories": '{"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": []}',
    "trailing": coco_text([A()]) + "x",
    "empty": "",
}


@pytest.mark.parametrize("name", BROKEN_JSON)
def test_coco_broken_json_is_error_with_name(name: str, tmp_path: Path) -> None:
    write_coco(tmp_path, BROKEN_JSON[name])
    with pytest.raises(Error, match=r"instances_train\.json"):
        load(tmp_path)


# ---- images -------------------------------------------------------------------------------

BAD_IMAGES = {
    "zero_byte": (b"", "image_unreadable"),
    "text": (b"hello", "image_unreadable"),
    "truncated": (None, "image_unreadable"),
    "gone": (None, "image_missing"),
    "wide": (None, "image_too_large"),
}


@pytest.mark.parametrize("layout", ["voc", "coco", "yolo"])
@pytest.mark.parametrize("name", BAD_IMAGES)
def test_bad_image_is_defect_and_left_out(name: str, layout: str, tmp_path: Path) -> None:
    if layout == "voc":
        write_voc(tmp_path, {"a": voc_xml(GOOD), "b": voc_xml(GOOD)})
    elif layout == "yolo":
        write_yolo(tmp_path, {"a": YOLO_GOOD, "b": YOLO_GOOD})
    else:
        text = coco_text([A(), A(2, 2)], [coco_image(), coco_image(2, "b.jpg")])
        write_coco(tmp_path, text, images=("a.jpg", "b.jpg"))
    image = next(tmp_path.rglob("a.jpg"))
    data, code = BAD_IMAGES[name]
    if name == "truncated":
        image.write_bytes(image.read_bytes()[:-200])
    elif name == "gone":
        image.unlink()
    elif name == "wide":
        Image.new("L", (60_000, 1)).save(image)
    else:
        assert data is not None
        image.write_bytes(data)
    loaded = load(tmp_path)
    assert [d.code for d in loaded.rejected] == [code]
    assert [r.path.name for r in loaded.records] == ["b.jpg"]
    assert "a." in loaded.rejected[0].file or "a." in loaded.rejected[0].text
    with pytest.raises(Error, match=code):
        load(tmp_path, strict=True)


BAD_YAML = {
    "outside": ("train: ../../etc\nnames: [a]\n", "leaves"),
    "absolute": ("train: /etc\nnames: [a]\n", "leaves"),
    "root_outside": ("path: ../other\ntrain: images/train\nnames: [a]\n", "leaves"),
    "no_split": ("names: [a]\n", "train, val, test"),
    "gone": ("train: images/none\nnames: [a]\n", "does not exist"),
    "list": ("- a\n- b\n", "mapping was needed"),
    "syntax": ("train: images/train\nnames: [a\n", r"data\.yaml:\d+: YAML"),
    "tag": ("train: !!python/object/apply:os.system ['true']\n", "YAML"),
    "twice": ("train: images/train\nnames: [a, a]\n", "more than once"),
    "nc": ("train: images/train\nnc: 3\nnames: [a, b]\n", "nc is 3, names has 2"),
    "names_number": ("train: images/train\nnames: 7\n", "names is no list"),
    "names_empty": ("train: images/train\nnames: ['']\n", "names has to hold"),
    "binary": ("\0", "YAML"),
    "large": ("#" * (1 << 20) + "\n", "limit is 1048576"),
    "deep": ("[" * 5000, "YAML"),
    "key_twice": ("train: images/train\nnames: [a]\ntrain: images\n", r"data\.yaml:3: .*twice"),
    "name_twice": ("train: images/train\nnames: {0: a, 0: b}\n", "twice"),
    "alias": ("a: &a [x, x]\nb: &b [*a, *a]\ntrain: images/train\nnames: [*b]\n", ":2: .*alias"),
    "utf8": ("train: images/train\nnames: [\udcff]\n", "not UTF-8"),
}


@pytest.mark.parametrize("name", BAD_YAML)
def test_yolo_bad_yaml_is_error_with_name(name: str, tmp_path: Path) -> None:
    text, reason = BAD_YAML[name]
    write_yolo(tmp_path, {"a": YOLO_GOOD})
    (tmp_path / "data.yaml").write_text(text, errors="surrogateescape")
    with pytest.raises(Error, match=rf"(?s)data\.yaml.*{reason}|{reason}"):
        load(tmp_path)


def test_every_code_in_use_is_described() -> None:
    """Each code that a reader can give stands in CODES, and CODES holds no others."""
    folder = Path(record_rules.__file__).parent
    words = set()
    for file in folder.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                words.add(node.value)
    assert set(CODES) <= words


KITTI_GOOD = kitti_row()
KITTI_DIRT: dict[str, tuple[str, list[tuple[str, int, str]]]] = {
    "fourteen_fields": (KITTI_GOOD.rsplit(" ", 1)[0], [("field_count", 1, "row")]),
    "seventeen_fields": (f"{KITTI_GOOD} 1 2", [("field_count", 1, "row")]),
    "word": (kitti_row(box=(4, "five", 30, 40)), [("not_a_number", 1, "field 6")]),
    "word_in_3d": (KITTI_GOOD.replace("20.0", "far"), [("not_a_number", 1, "field 14")]),
    "nan": (f"\n{kitti_row(box=('nan', 5, 30, 40))}", [("box_not_finite", 2, "bbox")]),
    "infinite": (kitti_row(box=(4, 5, "inf", 40)), [("box_not_finite", 1, "bbox")]),
    "zero_width": (kitti_row(box=(4, 5, 4, 40)), [("box_zero_area", 1, "bbox")]),
    "reversed": (kitti_row(box=(30, 5, 4, 40)), [("box_reversed", 1, "bbox")]),
    "negative": (kitti_row(box=(-3, 5, 4, 40)), [("box_negative", 1, "bbox")]),
    "outside": (kitti_row(box=(3, 5, 4, 50)), [("box_outside", 1, "bbox")]),
}


@pytest.mark.parametrize("name", KITTI_DIRT)
def test_kitti_dirt_is_defect_with_line(name: str, tmp_path: Path) -> None:
    rows, expected = KITTI_DIRT[name]
    write_kitti(tmp_path, {"a": rows, "b": KITTI_GOOD})
    data = load(tmp_path)
    assert [(d.code, d.line, d.field) for d in data.rejected] == expected
    assert data.rejected[0].file == str(tmp_path / "training" / "label_2" / "a.txt")
    assert len(data.records[1].boxes) == 1
    with pytest.raises(Error, match=expected[0][0]):
        load(tmp_path, strict=True)


CSV_GOOD = "b.jpg,64,48,cat,4,5,30,40\n"
CSV_DIRT: dict[str, tuple[str, list[tuple[str, int, str]]]] = {
    "seven_fields": ("a.jpg,64,48,cat,4,5,30\n", [("field_count", 2, "row")]),
    "no_image_name": (",64,48,cat,4,5,30,40\n", [("field_missing", 2, "image")]),
    "no_class": ("a.jpg,64,48,,4,5,30,40\n", [("field_missing", 2, "class")]),
    "word": ("a.jpg,64,48,cat,4,five,30,40\n", [("not_a_number", 2, "ymin")]),
    "no_number": ("a.jpg,64,48,cat,4,5,,40\n", [("not_a_number", 2, "xmax")]),
    "nan": ("\na.jpg,64,48,cat,nan,5,30,40\n", [("box_not_finite", 3, "box")]),
    "zero_area": ("a.jpg,64,48,cat,4,5,4,40\n", [("box_zero_area", 2, "box")]),
    "reversed": ("a.jpg,64,48,cat,30,5,4,40\n", [("box_reversed", 2, "box")]),
    "negative": ("a.jpg,64,48,cat,-4,5,30,40\n", [("box_negative", 2, "box")]),
    "outside": ("a.jpg,64,48,cat,4,5,66,40\n", [("box_outside", 2, "box")]),
    "image_missing": ("c.jpg,64,48,cat,4,5,6,40\n", [("image_missing", 2, "image")]),
    "path_up": ("../c.jpg,64,48,cat,4,5,6,40\n", [("path_outside", 2, "image")]),
    "path_absolute": ("/etc/c.jpg,64,48,cat,4,5,6,40\n", [("path_outside", 2, "image")]),
    "path_drive": ("C:\\c.jpg,64,48,cat,4,5,6,40\n", [("path_outside", 2, "image")]),
    "path_nul": ("c\0.jpg,64,48,cat,4,5,6,40\n", [("path_outside", 2, "image")]),
    "two_names": ("./b.jpg,64,48,cat,4,5,30,40\n", [("image_duplicate", 3, "image")]),
}


@pytest.mark.parametrize("name", CSV_DIRT)
def test_csv_dirt_is_defect_with_line(name: str, tmp_path: Path) -> None:
    rows, expected = CSV_DIRT[name]
    write_csv(tmp_path, CSV_HEAD + rows + CSV_GOOD)
    data = load(tmp_path)
    assert [(d.code, d.line, d.field) for d in data.rejected] == expected
    assert data.rejected[0].file == str(tmp_path / "train.csv")
    assert sum(len(r.boxes) for r in data.records) == 1
    with pytest.raises(Error, match=expected[0][0]):
        load(tmp_path, strict=True)


BROKEN_CSV = {
    "quote": (CSV_HEAD + 'a.jpg,64,48,"cat,4,5,30,40\n', r"train\.csv:2: CSV"),
    "encoding": (CSV_HEAD + "a\udcff.jpg,64,48,cat,4,5,30,40\n", r"csv:2: not UTF-8"),
    "long": (CSV_HEAD + "a" * 70_000 + "\n", r"train\.csv:2: .*limit"),
}


@pytest.mark.parametrize("name", BROKEN_CSV)
def test_csv_broken_file_is_error_with_name(name: str, tmp_path: Path) -> None:
    text, reason = BROKEN_CSV[name]
    write_csv(tmp_path, "")
    (tmp_path / "train.csv").write_text(text, errors="surrogateescape")
    with pytest.raises(Error, match=reason):
        load(tmp_path)


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", "one\n", "a.jpg,1,2,3\n"])
def test_csv_without_header_is_error(text: str, tmp_path: Path) -> None:
    write_csv(tmp_path, text)
    with pytest.raises(Error, match=r"train\.csv:1: no header"):
        load(tmp_path / "train.csv")
    with pytest.raises(Error, match="no known layout"):
        load(tmp_path)


@pytest.mark.parametrize("text", ["cat,0\ncat,1\n", "cat,0\ndog,2\n", "cat\n", "\0,,\n"])
def test_csv_bad_classes_file_is_error(text: str, tmp_path: Path) -> None:
    write_csv(tmp_path, CSV_HEAD + CSV_GOOD)
    (tmp_path / "classes.csv").write_text(text)
    with pytest.raises(Error, match=r"classes\.csv"):
        load(tmp_path)


# ---- links ---------------------------------------------------------------------------------


def _secret(tmp_path: Path, name: str) -> Path:
    """A file outside of the data set at tmp_path / "set"."""
    path = tmp_path / "elsewhere" / name
    return write_image(path) if path.suffix == ".jpg" else path


def test_link_to_an_image_outside_is_defect(tmp_path: Path) -> None:
    root = write_yolo(tmp_path / "set", {"a": YOLO_GOOD, "b": YOLO_GOOD})
    image = root / "images" / "train" / "a.jpg"
    image.unlink()
    image.symlink_to(_secret(tmp_path, "x.jpg"))
    data = load(root)
    assert [d.code for d in data.rejected] == ["link_outside"] and len(data) == 1
    assert "elsewhere" in data.rejected[0].text


def test_link_to_a_label_file_outside_is_defect(tmp_path: Path) -> None:
    secret = tmp_path / "elsewhere.txt"
    for root, name in (
        (write_yolo(tmp_path / "yolo", {"a": YOLO_GOOD, "b": YOLO_GOOD}), "labels/train/a.txt"),
        (write_voc(tmp_path / "voc", {c: voc_xml(GOOD) for c in "ab"}), "Annotations/a.xml"),
        (
            write_kitti(tmp_path / "kitti", dict.fromkeys("ab", KITTI_GOOD)),
            "training/label_2/a.txt",
        ),
    ):
        secret.write_bytes((root / name).read_bytes())
        (root / name).unlink()
        (root / name).symlink_to(secret)
        data = load(root)
        assert [d.code for d in data.rejected] == ["link_outside"] and len(data) == 1


def test_folder_link_within_a_name_is_defect(tmp_path: Path) -> None:
    _secret(tmp_path, "x.jpg")
    images = [coco_image(), coco_image(2, "more/x.jpg")]
    root = write_coco(tmp_path / "set", coco_text([A()], images))
    (root / "train" / "more").symlink_to(tmp_path / "elsewhere")
    assert [(d.code, d.line) for d in load(root).rejected] == [("link_outside", 4)]


def test_links_that_stay_are_followed(tmp_path: Path) -> None:
    """Within the data set, and a whole folder of images that the user keeps elsewhere."""
    root = write_yolo(tmp_path / "set", {"a": YOLO_GOOD, "b": YOLO_GOOD})
    folder = root / "images" / "train"
    (folder / "a.jpg").rename(root / "kept.jpg")
    (folder / "a.jpg").symlink_to("../../kept.jpg")
    folder.rename(tmp_path / "pictures")
    (tmp_path / "pictures" / "a.jpg").unlink()
    (root / "kept.jpg").rename(tmp_path / "pictures" / "a.jpg")
    folder.symlink_to(tmp_path / "pictures")
    assert len(load(root, strict=True)) == 2


# ---- anything at all ----------------------------------------------------------------------

SOUND_XML = voc_xml(GOOD, filename="a.jpg", source="PASCAL VOC2007").encode()
SOUND_JSON = coco_text([A(), A(2, iscrowd=1)]).encode()
SOUND_ROWS = (YOLO_GOOD * 3).encode()
SOUND_LVIS = coco_text(
    [A(), A(2)], [coco_image(neg_category_ids=[7], not_exhaustive_category_ids=[])]
).encode()
SOUND_KITTI = f"{kitti_row()}\n{kitti_row('DontCare')}\n".encode()
SOUND_CSV = (CSV_HEAD + "a.jpg,64,48,cat,4,5,30,40\n" * 2).encode()
SOUND_YAML = b"path: .\ntrain: images/train\nnames: [cat, dog]\n"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One data set of each layout, whose label files the fuzz test overwrites."""
    root = tmp_path_factory.mktemp("sound")
    write_voc(root / "voc", {"a": SOUND_XML.decode()})
    write_coco(root / "coco", SOUND_JSON.decode())
    write_yolo(root / "rows", {"a": SOUND_ROWS.decode()})
    write_yolo(root / "yaml", {"a": SOUND_ROWS.decode()})
    write_coco(root / "lvis", "")
    (root / "lvis" / "annotations" / "instances_train.json").unlink()
    write_kitti(root / "kitti", {"a": SOUND_KITTI.decode()})
    write_csv(root / "csv", SOUND_CSV.decode())
    write_image(root / "beside" / "a.jpg")
    (root / "beside" / "a.xml").write_bytes(SOUND_XML)
    return root


TARGETS = {
    "voc": ("Annotations/a.xml", SOUND_XML),
    "coco": ("annotations/instances_train.json", SOUND_JSON),
    "rows": ("labels/train/a.txt", SOUND_ROWS),
    "yaml": ("data.yaml", SOUND_YAML),
    "lvis": ("annotations/lvis_v1_train.json", SOUND_LVIS),
    "kitti": ("training/label_2/a.txt", SOUND_KITTI),
    "csv": ("train.csv", SOUND_CSV),
    "beside": ("a.xml", SOUND_XML),
}


@settings(max_examples=250, deadline=None)
@given(
    st.sampled_from(sorted(TARGETS)), st.integers(0, 400), st.integers(0, 9), st.binary(max_size=6)
)
def test_mutated_label_file_is_data_or_error(
    sound: Path, kind: str, at: int, cut: int, put: bytes
) -> None:
    """Whatever stands in a label file, `load` returns checked records or raises `Error`."""
    name, text = TARGETS[kind]
    at %= len(text)
    (sound / kind / name).write_bytes(text[:at] + put + text[at + cut :])
    try:
        data = load(sound / kind)
    except Error as error:
        assert "load" in str(error) or name.rsplit("/", 1)[-1] in str(error)
        return
    for record in data.records:
        x0, y0, x1, y1 = record.boxes.T
        assert ((x0 >= 0) & (y0 >= 0) & (x1 > x0) & (y1 > y0)).all()
        assert ((x1 <= record.width) & (y1 <= record.height)).all()
        assert ((record.labels >= 0) & (record.labels < len(data.names))).all()


# ---- the folder ---------------------------------------------------------------------------


def test_pipe_in_place_of_an_image_is_defect(tmp_path: Path) -> None:
    write_yolo(tmp_path, {"a": YOLO_GOOD, "b": YOLO_GOOD})
    image = tmp_path / "images" / "train" / "a.jpg"
    image.unlink()
    os.mkfifo(image)
    assert [(d.code, d.text) for d in load(tmp_path).rejected] == [
        ("image_unreadable", "is no regular file")
    ]


def test_folder_in_place_of_an_annotation_is_error(tmp_path: Path) -> None:
    write_voc(tmp_path, {"a": voc_xml(GOOD)}, {"train": ["a", "b"]})
    (tmp_path / "Annotations" / "b.xml").mkdir()
    with pytest.raises(Error, match=r"b\.xml: Is a directory"):
        load(tmp_path)
