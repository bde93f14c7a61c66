"""LVIS, KITTI, CSV and XML beside the images: recognized, read, the same as the known layouts."""

from __future__ import annotations

import contextlib
import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from planted import (
    coco_annotation,
    coco_image,
    coco_text,
    kitti_row,
    voc_object,
    voc_xml,
    write_coco,
    write_image,
    write_kitti,
)

from deepseek_det import Error
from deepseek_det.data import load, splits

SIDES = "xmin,ymin,xmax,ymax"


def test_lvis_federated_lists_and_names_from_urls(tmp_path: Path) -> None:
    images = [
        {"id": 3, "coco_url": "http://images/val2017/a.jpg", "width": 64, "height": 48},
        {"id": 9, "coco_url": "http://images/train2017/b.jpg", "width": 64, "height": 48},
    ]
    images[0] |= {"neg_category_ids": [7], "not_exhaustive_category_ids": [1]}
    annotation = {k: v for k, v in coco_annotation(1, 3).items() if k != "iscrowd"}
    categories = [
        {"id": 1, "name": "cat", "frequency": "f"},
        {"id": 7, "name": "dog", "frequency": "r"},
    ]
    text = coco_text([annotation], images, categories)
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "lvis_v1_val.json").write_text(text)
    write_image(tmp_path / "val2017" / "a.jpg")
    write_image(tmp_path / "train2017" / "b.jpg")
    data = load(tmp_path, "val", strict=True)
    assert data.format == "lvis" and [r.id for r in data.records] == [3, 9]
    assert data.federated is not None
    assert data.federated.negative == {3: [7], 9: []}
    assert data.federated.partial == {3: [1], 9: []}
    assert data.federated.frequency == {1: "f", 7: "r"}
    # the images in one folder, as after a download of COCO's zip files into it
    flat = tmp_path / "flat"
    write_image(flat / "images" / "a.jpg")
    write_image(flat / "images" / "b.jpg")
    (flat / "some.json").write_text(text)
    lone = load(flat / "some.json", strict=True)
    assert lone.format == "lvis" and [r.path.name for r in lone.records] == ["a.jpg", "b.jpg"]


def test_lvis_list_of_other_things_is_error(tmp_path: Path) -> None:
    image = coco_image(neg_category_ids=["dog"])
    write_coco(tmp_path, coco_text([coco_annotation()], [image]))
    file = tmp_path / "annotations" / "instances_train.json"
    file.rename(file.with_name("lvis_train.json"))
    with pytest.raises(Error, match=r"lvis_train\.json:3: negative categories"):
        load(tmp_path)


def test_lvis_real_file_reads_as_the_json_module_does(data_root: Path, tmp_path: Path) -> None:
    source = data_root / "coco_eval_ref" / "lvis" / "lvis_val_100.json"
    content = json.loads(source.read_text())
    for image in content["images"]:
        write_image(tmp_path / image["file_name"], image["width"], image["height"], quality=20)
    data = load(source, images=tmp_path)
    assert data.format == "lvis" and len(data.names) == len(content["categories"])
    assert data.n_boxes + len(data.rejected) == len(content["annotations"])
    assert data.unread["mask"] == len(content["annotations"])
    assert data.federated is not None
    for image in content["images"]:
        assert data.federated.negative[image["id"]] == image["neg_category_ids"]
        assert data.federated.partial[image["id"]] == image["not_exhaustive_category_ids"]
    frequency = {c["id"]: c["frequency"] for c in content["categories"]}
    assert data.federated.frequency == frequency


def test_kitti_dont_care_is_ignored_for_every_class(tmp_path: Path) -> None:
    rows = [kitti_row("Car"), kitti_row("Van", (1, 2, 30, 40)), kitti_row("DontCare", score=".5")]
    write_kitti(tmp_path, {"000001": "\n".join(rows), "000002": ""})
    data = load(tmp_path, strict=True)
    assert data.format == "kitti" and data.names == ["Car", "Van"] and len(data) == 2
    assert data.records[0].ignore.tolist() == [False, False, True, True]
    assert data.records[0].boxes[1].tolist() == [1, 2, 30, 40]
    assert data.n_boxes == 2


def test_kitti_splits_by_lists(tmp_path: Path) -> None:
    write_kitti(tmp_path, {k: kitti_row("Car") for k in ("1", "2", "3")})
    (tmp_path / "ImageSets").mkdir()
    lists = {"train": "1\n2\n", "val": "3\n4\n", "test": "9\n"}
    for split, ids in lists.items():
        (tmp_path / "ImageSets" / f"{split}.txt").write_text(ids)
    assert splits(tmp_path) == ["train", "val"]
    val = load(tmp_path, "val")
    assert len(val) == 1
    assert [(d.code, d.line) for d in val.rejected] == [("annotation_missing", 2)]


def test_kitti_real_frames(data_root: Path) -> None:
    data = load(data_root / "kitti_frames", strict=True)
    assert data.names == ["Car", "Cyclist", "Pedestrian"] and len(data) == 2
    text = (data_root / "kitti_frames/training/label_2/000008.txt").read_text()
    rows = [row.split() for row in text.splitlines()]
    want = [[float(v) for v in row[4:8]] for row in rows if row[0] != "DontCare"]
    record = next(r for r in data.records if r.id == "000008")
    got = record.boxes[~record.ignore]
    assert np.allclose(got, want, atol=1e-4)
    assert int(record.ignore.sum()) == 3 * sum(row[0] == "DontCare" for row in rows)


CSV_FORMS = {
    "tensorflow": (
        "filename,width,height,class,xmin,ymin,xmax,ymax\n"
        "a.jpg,64,48,cat,4,5,30,40\nb.jpg,64,48,dog,1,2,3,4\na.jpg,64,48,dog,0,0,9,9\n"
    ),
    "other_order": (
        "filename,cell_type,xmin,xmax,ymin,ymax\n"
        "a.jpg,cat,4,30,5,40\nb.jpg,dog,1,3,2,4\na.jpg,dog,0,9,0,9\n"
    ),
    "retinanet": "a.jpg,4,5,30,40,cat\nb.jpg,1,2,3,4,dog\na.jpg,0,0,9,9,dog\n",
    "semicolons": (
        "image;label;x1;y1;x2;y2\na.jpg;cat;4;5;30;40\n\nb.jpg;dog;1;2;3;4\na.jpg;dog;0;0;9;9\n"
    ),
    "quoted": (
        '"path","label","xmin","ymin","xmax","ymax"\r\n'
        '"a.jpg","cat","4","5","30","40"\r\n"b.jpg","dog","1","2","3","4"\r\n'
        '"a.jpg","dog","0","0","9","9"\r\n'
    ),
    "openimages": (
        "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf\n"
        'a,x,cat,1,0.0625,"0,46875",0.1041666667,0.8333333333,0,0,0\n'
        "b,x,dog,1,0.015625,0.046875,0.0416666667,0.0833333333,0,0,0\n"
        "a,x,dog,1,0,0.140625,0,0.1875,0,0,0\n"
    ),
}


@pytest.mark.parametrize("form", CSV_FORMS)
def test_csv_forms_are_one(form: str, tmp_path: Path) -> None:
    for i, name in enumerate("ab"):
        write_image(tmp_path / "images" / f"{name}.jpg", seed=i)
    file = tmp_path / "train.csv"
    file.write_text(CSV_FORMS[form], newline="")
    # Without a header a file is taken only where it is named: any csv may lie in a folder.
    data = load(file if form == "retinanet" else tmp_path, strict=True)
    assert data.format == "csv" and data.names == ["cat", "dog"]
    assert [r.id for r in data.records] == ["a", "b"]
    assert np.allclose(data.records[0].boxes, [[4, 5, 30, 40], [0, 0, 9, 9]], atol=1e-4)
    assert np.allclose(data.records[1].boxes, [[1, 2, 3, 4]], atol=1e-4)


def test_csv_empty_images_ignored_regions_and_class_order(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        write_image(tmp_path / "val" / name)
    (tmp_path / "val.csv").write_text(
        "filename,class,xmin,ymin,xmax,ymax,difficult\na.jpg,cat,1,1,9,9,1\nb.jpg,,,,,,\n"
    )
    (tmp_path / "classes.csv").write_text("dog,0\ncat,1\n")
    (tmp_path / "results.csv").write_text("epoch,loss\n1,2\n")
    data = load(tmp_path, "val", strict=True)
    assert data.names == ["dog", "cat"] and data.records[0].ignore.tolist() == [True]
    assert len(data.records[1].boxes) == 0


def test_csv_roboflow_export_and_lists_of_two_splits(tmp_path: Path) -> None:
    head = "filename,width,height,class,xmin,ymin,xmax,ymax\n"
    for split in ("train", "valid"):
        write_image(tmp_path / split / f"{split}.jpg")
        (tmp_path / split / "_annotations.csv").write_text(
            head + f"{split}.jpg,64,48,{split},1,1,9,9\n"
        )
    assert splits(tmp_path) == ["train", "val"]
    assert load(tmp_path, "val", strict=True).names == ["train", "valid"]


def test_csv_real_files_have_the_boxes_of_the_xml(data_root: Path) -> None:
    raccoon = load(data_root / "raccoon" / "data" / "raccoon_labels.csv", strict=True)
    xml = load(data_root / "raccoon")
    boxes = {r.path.name: r.boxes for r in xml.records}
    assert (len(raccoon), raccoon.n_boxes) == (200, 217)
    for record in raccoon.records:
        want = boxes[record.path.name]
        assert np.array_equal(np.sort(record.boxes, 0), np.sort(want, 0))


def test_voc_files_beside_their_images(tmp_path: Path) -> None:
    for split, name in (("train", "cat"), ("valid", "dog")):
        folder = tmp_path / "export" / split
        write_image(folder / "a_jpg.rf.1.jpg")
        xml = voc_xml(voc_object(name), filename="a_jpg.rf.1.jpg")
        (folder / "a_jpg.rf.1.xml").write_text(xml)
    assert splits(tmp_path / "export") == ["train", "val"]
    data = load(tmp_path / "export", "val", strict=True)
    assert data.format == "voc" and data.names == ["cat", "dog"]
    assert data.records[0].labels.tolist() == [1]
    alone = load(tmp_path / "export" / "train", strict=True)
    assert alone.format == "voc" and alone.names == ["cat"]


def test_darknet_paths_and_names(tmp_path: Path) -> None:
    """As CVAT exports it: paths of `data/`, which is the folder itself."""
    for split in ("train", "valid"):
        folder = tmp_path / f"obj_{split}_data"
        write_image(folder / f"{split}.jpg")
        (folder / f"{split}.txt").write_text("1 .5 .5 .25 .25\n")
        (tmp_path / f"{split}.txt").write_text(f"data/obj_{split}_data/{split}.jpg\n")
    text = "classes = 2\ntrain = data/train.txt\nvalid = data/valid.txt\nnames = data/obj.names\n"
    (tmp_path / "obj.data").write_text(text)
    (tmp_path / "obj.names").write_text("cat\ndog\n")
    assert splits(tmp_path) == ["train", "val"]
    data = load(tmp_path, "val", strict=True)
    assert data.format == "yolo" and data.names == ["cat", "dog"]
    assert data.records[0].boxes.tolist() == [[24, 18, 40, 30]]
    assert len(load(tmp_path / "obj.data", strict=True)) == 1


@pytest.mark.parametrize(
    "text, reason",
    [
        ("names = obj.names\n", "none of the keys"),
        ("train = ../../etc/passwd\n", "leaves"),
        ("train = /etc/passwd\n", "leaves"),
        ("train = none.txt\n", "is no file"),
        ("train = train.txt\nnames = ..\n", "leaves"),
        ("\udcff", "decode"),
    ],
)
def test_darknet_bad_file_is_error(text: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "obj.data").write_text(text, errors="surrogateescape")
    (tmp_path / "train.txt").write_text("a.jpg\n")
    with pytest.raises(Error, match=rf"obj\.data.*{reason}"):
        load(tmp_path)


def test_voc2012_csv_darknet_and_loose_xml_agree_with_coco(data_root: Path) -> None:
    """Four more of the forms of the same 273 boxes."""
    base = data_root / "voc2012_100" / "database"
    forms = {
        name: load(base / "gts" / name, images=base / "images")
        for name in ("openimages_format", "pascalvoc_format", "yolo_format")
    }
    file = base / "gts" / "coco_format_v1" / "instances_default.json"
    coco = {r.path.name: r for r in load(file, images=base / "images").records}
    for data in forms.values():
        assert len(data) == 100 and sum(len(r.boxes) for r in data.records) == 273
        for record in data.records:
            gap = np.abs(np.sort(record.boxes, 0) - np.sort(coco[record.path.name].boxes, 0))
            assert gap.max(initial=0) <= 1.01


# ---- memory ----------------------------------------------------------------------------------


def test_large_files_take_little_memory(tmp_path: Path) -> None:
    """Twice the file and a few MB: Python's and NumPy's share of the promise (64 MB)."""
    write_image(tmp_path / "csv" / "train" / "a.jpg")
    write_image(tmp_path / "lvis" / "train" / "a.jpg")
    row = "a.jpg,64,48,c{},{}.25,5.5,30.75,40\n"
    rows = "".join(row.format(k % 90, k % 29) for k in range(8_000))
    (tmp_path / "csv" / "train.csv").write_text(f"filename,width,height,class,{SIDES}\n{rows}")
    boxes = [coco_annotation(k, segmentation=[[1.25, 2.5] * 20]) for k in range(1, 2000)]
    image = coco_image(neg_category_ids=[7], not_exhaustive_category_ids=[])
    (tmp_path / "lvis" / "lvis_train.json").write_text(coco_text(boxes, [image]))
    (tmp_path / "yaml").mkdir()
    yaml = tmp_path / "yaml" / "data.yaml"
    yaml.write_text(f"train: none\nnames: [{','.join(f'c{k}' for k in range(40_000))}]\n")
    for name, room in (("csv", 8), ("lvis", 8), ("yaml", 16)):
        size = sum(p.stat().st_size for p in (tmp_path / name).rglob("*") if p.suffix != ".jpg")
        tracemalloc.start()
        try:
            with contextlib.suppress(Error):
                load(tmp_path / name)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak <= 2 * size + (room << 20), (name, size, peak)
