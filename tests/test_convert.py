"""Conversion between layouts: exact round trips, all or nothing, losses told."""

from __future__ import annotations

import errno
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
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
    write_voc,
    write_yolo,
)

from deepseek_det import Error
from deepseek_det.data import Dataset, Record, convert, load, splits

FORMATS = ("coco", "lvis", "voc", "yolo", "kitti", "csv")
WIDTH, HEIGHT = 97, 61


def same(a: Dataset, b: Dataset, ignore: bool = True) -> None:
    """Equal sizes, boxes and class names, image by image."""
    assert len(a) == len(b)
    for one, other in zip(a.records, b.records, strict=True):
        assert (one.width, one.height) == (other.width, other.height)
        kept = np.ones(len(one.boxes), bool) if ignore else ~one.ignore
        assert np.array_equal(one.boxes[kept], other.boxes)
        names = [a.names[i] for i in one.labels[kept]]
        assert names == [b.names[i] for i in other.labels]
        assert np.array_equal(one.ignore[kept], other.ignore)
        assert one.path.read_bytes() == other.path.read_bytes()


sides = st.floats(0, 1, width=32)


@st.composite
def boxes(draw: st.DrawFn) -> npt.NDArray[np.float32]:
    """Up to 6 boxes of any float32 corners, 1/64 px or more in size, on the border or off it."""
    found = []
    for _ in range(draw(st.integers(0, 6))):
        x = sorted(np.float32(draw(sides) * WIDTH) for _ in range(2))
        y = sorted(np.float32(draw(sides) * HEIGHT) for _ in range(2))
        x0, y0 = (np.float32(0) if v < 1e-3 else v for v in (x[0], y[0]))
        if x[1] - x0 > 1 / 64 and y[1] - y0 > 1 / 64:
            found.append((x0, y0, x[1], y[1]))
    return np.asarray(found, np.float32).reshape(-1, 4)


@settings(max_examples=40, deadline=None)
@given(boxes(), st.permutations(FORMATS), st.randoms(use_true_random=False))
def test_convert_round_trip_keeps_every_box(
    found: npt.NDArray[np.float32], order: list[str], random: Any
) -> None:
    folder = Path(tempfile.mkdtemp())
    try:
        image = write_image(folder / "in" / "photo.png", WIDTH, HEIGHT)
        labels = np.asarray([random.randrange(3) for _ in found], np.int32)
        ignore = np.zeros(len(found), bool)
        record = Record(image, "photo", WIDTH, HEIGHT, found, labels, ignore)
        # KITTI alone has no form for a blank in a name.
        names = ["0", "no", 'ein_"Käse"_&_<b>']
        start = Dataset(folder / "in", "train", "yolo", names, [0, 1, 2], [record])
        data = start
        for k, format in enumerate(order):
            data = load(convert(data, folder / str(k), format), strict=True)
            same(start, data)
    finally:
        shutil.rmtree(folder)


@pytest.mark.parametrize("format", FORMATS)
def test_convert_keeps_splits_images_and_names(format: str, tmp_path: Path) -> None:
    files = {c: voc_xml(voc_object(n)) for c, n in zip("abc", ("x", "y", "x"), strict=True)}
    src = write_voc(tmp_path / "src", files, {"train": ["a", "b"], "val": ["c"]})
    done = convert(src, tmp_path / "dst", format)
    assert done.path == tmp_path / "dst" and done.splits == {"train": 2, "val": 1}
    assert done.boxes == 3 and not done.lost and not done.rejected
    assert splits(done) == ["train", "val"]
    for split in ("train", "val"):
        data = load(done, split, strict=True)
        assert data.format == format and data.names == ["x", "y"]
        same(load(src, split), data)
    assert "train 2 images" in str(done) and not list(tmp_path.glob(".dst*"))


def test_convert_coco_keeps_ids_crowds_and_areas(tmp_path: Path) -> None:
    text = coco_text(
        [coco_annotation(5, 1, 7, iscrowd=1), coco_annotation(9, 44, 1)],
        [coco_image(1), coco_image(44, "b.jpg")],
    )
    src = write_coco(tmp_path / "src", text, images=("a.jpg", "b.jpg"))
    data = load(convert(src, tmp_path / "dst"), strict=True)
    same(load(src), data)
    assert [r.id for r in data.records] == [1, 44] and data.categories == [1, 7]
    content = json.loads((tmp_path / "dst/annotations/instances_train.json").read_text())
    assert content["annotations"][0]["bbox"] == [4, 5, 20, 30]
    assert content["annotations"][0]["area"] == 600


def test_convert_voc_keeps_difficult_and_yolo_tells_the_loss(tmp_path: Path) -> None:
    xml = voc_xml(voc_object(), voc_object(difficult=1))
    src = write_voc(tmp_path / "src", {"a": xml})
    same(load(src), load(convert(src, tmp_path / "voc", "voc")))
    done = convert(src, tmp_path / "yolo", "yolo")
    assert done.lost == {"ignored region": 1} and "lost: 1 x ignored region" in str(done)
    same(load(src), load(done), ignore=False)


def test_convert_one_based_voc_becomes_edges(tmp_path: Path) -> None:
    src = write_voc(tmp_path / "src", {"a": voc_xml(voc_object(), source="PASCAL VOC2007")})
    data = load(convert(src, tmp_path / "dst", "voc"))
    assert data.records[0].boxes.tolist() == [[3, 4, 30, 40]]


def test_convert_tells_classes_and_ids_that_are_lost(tmp_path: Path) -> None:
    src = write_coco(tmp_path / "src", coco_text([coco_annotation()]))
    assert convert(src, tmp_path / "voc", "voc").lost == {"class without a box": 1}
    done = convert(src, tmp_path / "yolo", "yolo")
    assert done.lost == {"category ids": 1} and load(done).names == ["cat", "dog"]


def test_convert_equal_file_names_get_their_own(tmp_path: Path) -> None:
    src = tmp_path / "src"
    for folder in ("train/x", "train/y"):
        write_image(src / "images" / folder / "a.jpg", seed=len(folder))
        (src / "labels" / folder).mkdir(parents=True)
        (src / "labels" / folder / "a.txt").write_text("0 .5 .5 .5 .5\n")
    (src / "data.yaml").write_text("train: images/train\nnames: [cat]\n")
    for format in FORMATS:
        data = load(convert(src, tmp_path / format, format), strict=True)
        assert sorted(r.path.name for r in data.records) == ["x_a.jpg", "y_a.jpg"]


def test_convert_of_splits_that_share_names_to_voc(tmp_path: Path) -> None:
    src = tmp_path / "src"
    for k, split in enumerate(("train", "val")):
        write_coco(src, coco_text([coco_annotation(bbox=[k, 0, 9, 9])]), split)
    done = convert(src, tmp_path / "dst", "voc")
    for split in ("train", "val"):
        assert np.array_equal(load(src, split).records[0].boxes, load(done, split).records[0].boxes)


def test_convert_leaves_defects_out_and_tells_or_refuses(tmp_path: Path) -> None:
    src = write_yolo(tmp_path / "src", {"a": "0 .5 .5 .5 .5\n0 .5 .5 0 0\n"})
    done = convert(src, tmp_path / "dst")
    assert [d.code for d in done.rejected] == ["box_zero_area"] and done.boxes == 1
    with pytest.raises(Error, match="box_zero_area"):
        convert(src, tmp_path / "other", strict=True)
    assert not (tmp_path / "other").exists()


def test_convert_refuses_full_folder_and_other_format(tmp_path: Path) -> None:
    src = write_yolo(tmp_path / "src", {"a": "0 .5 .5 .5 .5\n"})
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("keep")
    with pytest.raises(Error, match="full exists and is not an empty folder"):
        convert(src, tmp_path / "full")
    with pytest.raises(ValueError, match="'labelme'"):
        convert(src, tmp_path / "x", "labelme")
    (tmp_path / "empty").mkdir()
    assert len(load(convert(src, tmp_path / "empty"))) == 1


@pytest.mark.parametrize("format", FORMATS)
def test_convert_on_a_full_disk_leaves_nothing(
    format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    src = write_yolo(tmp_path / "src", {"a": "", "b": "0 .5 .5 .5 .5\n"})
    copied = []

    def copy(source: Path, target: Path) -> None:
        copied.append(target)
        if len(copied) == 2:
            raise OSError(errno.ENOSPC, "No space left on device", str(target))
        Path(target).write_bytes(Path(source).read_bytes())

    monkeypatch.setattr(shutil, "copyfile", copy)
    with pytest.raises(Error, match="No space left on device"):
        convert(src, tmp_path / "dst", format)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["src"]


def test_convert_bccd_to_every_format_and_back(data_root: Path, tmp_path: Path) -> None:
    done = convert(data_root / "BCCD", tmp_path / "0", splits=["test"])
    assert done.boxes == 945
    for k, format in enumerate(["lvis", "yolo", "kitti", "csv", "voc"], 1):
        done = convert(done, tmp_path / str(k), format)
        same(load(data_root / "BCCD", "test"), load(done, "test", strict=True))


def test_convert_voc2012_keeps_its_difficult_objects(data_root: Path, tmp_path: Path) -> None:
    base = data_root / "voc2012_100" / "database"
    start = load(base / "gts" / "pascalvoc_format", images=base / "images")
    assert sum(int(r.ignore.sum()) for r in start.records) == 38
    done = start
    for k, format in enumerate(["lvis", "csv", "coco", "voc"]):
        done = load(convert(done, tmp_path / str(k), format), strict=True)
        same(start, done)


def test_convert_kitti_keeps_regions_that_all_classes_ignore(tmp_path: Path) -> None:
    rows = [kitti_row("Car"), kitti_row("Van"), kitti_row("DontCare", (0, 0, 9, 9))]
    src = write_kitti(tmp_path / "src", {"1": "\n".join(rows)})
    back = convert(convert(src, tmp_path / "coco"), tmp_path / "kitti", "kitti")
    assert not back.lost and back.boxes == 3
    same(load(src), load(back, strict=True))


def test_convert_lvis_says_what_is_absent_and_keeps_lists(tmp_path: Path) -> None:
    src = write_coco(tmp_path / "src", coco_text([coco_annotation()]))
    done = convert(src, tmp_path / "lvis", "lvis")
    first = load(done, strict=True).federated
    assert first is not None and first.negative == {1: [7]} and first.partial == {1: []}
    assert first.frequency == {1: "r", 7: "r"}
    file = tmp_path / "lvis" / "annotations" / "lvis_v1_train.json"
    content = json.loads(file.read_text())
    content["images"][0] |= {"neg_category_ids": [], "not_exhaustive_category_ids": [1]}
    file.write_text(json.dumps(content))
    again = load(convert(done, tmp_path / "again", "lvis"), strict=True).federated
    assert again is not None and again.negative == {1: []} and again.partial == {1: [1]}


def test_convert_kitti_tells_what_it_cannot_say(tmp_path: Path) -> None:
    src = write_yolo(tmp_path / "src", {"a": "0 .5 .5 .5 .5\n"}, names=["traffic light", "x"])
    done = convert(src, tmp_path / "kitti", "kitti")
    assert done.lost == {"blank in a class name": 1, "class without a box": 1}
    assert load(done).names == ["traffic_light"]
    twice = write_yolo(tmp_path / "twice", {"a": "0 .5 .5 .5 .5\n"}, names=["a b", "a_b"])
    with pytest.raises(Error, match="different names in KITTI's form"):
        convert(twice, tmp_path / "x", "kitti")
    assert not (tmp_path / "x").exists()


def test_convert_counts_masks_as_lost(tmp_path: Path) -> None:
    mask = coco_annotation(segmentation=[[1, 1, 9, 1, 9, 9]])
    src = write_coco(tmp_path / "src", coco_text([mask, coco_annotation(2)]))
    assert convert(src, tmp_path / "dst").lost == {"mask": 1}
