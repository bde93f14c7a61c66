"""Split, merge, subset: what stays together, what is balanced, what is left out."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from planted import coco_annotation, coco_text, write_coco, write_image, write_yolo

from deepseek_det import Error
from deepseek_det.data import load, merge, split, splits, subset, synthetic
from deepseek_det.data.similar import near_pairs, normalized, thumbnail

BOX = ".5 .5 .5 .5"


def photo(path: Path, seed: int, quality: int = 90) -> None:
    """A picture of its own, whose thumbnail is like no other's."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (24, 32), np.uint8)).convert("RGB")
    path.parent.mkdir(parents=True, exist_ok=True)
    small.resize((96, 72), Image.Resampling.BICUBIC).save(path, quality=quality)


def many(root: Path, n: int = 60) -> Path:
    """Images with one to three boxes: class 0 in all, 1 in a third, 2 in a tenth."""
    rows = {}
    for i in range(n):
        rows[f"p{i // 4}_{i}"] = "".join(
            f"{k} {BOX}\n" for k, each in ((0, 1), (1, 3), (2, 10)) if i % each == 0
        )
    write_yolo(root, rows, names=("a", "b", "c"))
    for i, stem in enumerate(rows):
        photo(root / "images" / "train" / f"{stem}.jpg", i)
    return root


def names_of(path: object, part: str) -> set[str]:
    return {r.path.name for r in load(path, part).records}


def test_split_balances_classes_and_keeps_every_image(tmp_path: Path) -> None:
    src = many(tmp_path / "src")
    done = split(src, tmp_path / "dst", {"train": 0.7, "val": 0.2, "test": 0.1})
    assert done.splits == {"train": 42, "val": 12, "test": 6}
    parts = {p: load(done, p, strict=True) for p in done.splits}
    together = [r.path.name for d in parts.values() for r in d.records]
    assert Counter(together) == Counter(names_of(src, "train"))
    counts = np.array([d.counts() for d in parts.values()])
    assert counts.sum(0).tolist() == [60, 20, 6]
    assert np.abs(counts - np.outer([0.7, 0.2, 0.1], [60, 20, 6])).max() <= 1
    again = split(src, tmp_path / "again", [0.7, 0.2, 0.1])
    assert all(names_of(done, p) == names_of(again, p) for p in parts)
    other = split(src, tmp_path / "other", [0.7, 0.2, 0.1], seed=1)
    assert names_of(other, "val") != names_of(done, "val")


def test_split_random_counts_images_alone(tmp_path: Path) -> None:
    done = split(many(tmp_path / "src", 20), tmp_path / "dst", [0.8, 0.2], by="random")
    assert done.splits == {"train": 16, "val": 4}


@pytest.mark.parametrize("by", [r"p(\d+)_", r"p\d+_", lambda r: r.path.stem.split("_")[0]])
def test_split_keeps_groups_together(by: object, tmp_path: Path) -> None:
    done = split(many(tmp_path / "src"), tmp_path / "dst", [0.6, 0.4], by=by)  # type: ignore[arg-type]
    groups = [{n.split("_")[0] for n in names_of(done, p)} for p in ("train", "val")]
    assert not groups[0] & groups[1] and len(groups[0] | groups[1]) == 15
    assert done.splits == {"train": 36, "val": 24}


def test_split_keeps_folders_together_and_joins_old_splits(tmp_path: Path) -> None:
    root = synthetic(tmp_path / "src", n=12)
    done = split(root, tmp_path / "dst", {"a": 0.5, "b": 0.5}, near=False)
    assert done.splits == {"a": 6, "b": 6}
    folders = split(root, tmp_path / "folders", [0.8, 0.2], by="folder", near=False)
    held = {p: len(load(root, p)) for p in splits(root)}
    assert sum(folders.splits.values()) == sum(held.values())
    assert folders.splits["train"] in {*held.values(), 12 - min(held.values())}


def test_split_keeps_near_duplicates_together(tmp_path: Path) -> None:
    src = tmp_path / "src"
    write_yolo(src, {f"{c}{k}": f"0 {BOX}\n" for c in "abcdefgh" for k in range(2)})
    for i, c in enumerate("abcdefgh"):
        for k in range(2):  # the same picture saved twice
            photo(src / "images" / "train" / f"{c}{k}.jpg", i, quality=95 - 40 * k)
    for seed in range(3):
        done = split(src, tmp_path / f"near{seed}", [0.5, 0.5], seed=seed)
        letters = [{n[0] for n in names_of(done, p)} for p in ("train", "val")]
        assert not letters[0] & letters[1] and done.splits == {"train": 8, "val": 8}
    apart = [
        split(src, tmp_path / f"far{seed}", [0.5, 0.5], near=False, seed=seed) for seed in range(3)
    ]
    shared = [
        {n[0] for n in names_of(d, "train")} & {n[0] for n in names_of(d, "val")} for d in apart
    ]
    assert any(shared)


def test_split_of_raccoon_parts_no_twins(data_root: Path, tmp_path: Path) -> None:
    done = split(data_root / "raccoon", tmp_path / "dst", [0.8, 0.1, 0.1])
    part_of = {r.path.stem[8:]: p for p in done.splits for r in load(done, p).records}
    for pair in ("65/98", "83/120", "11/116", "74/52"):
        assert len({part_of[n] for n in pair.split("/")}) == 1
    assert sum(done.splits.values()) == 200
    assert abs(done.splits["train"] - 160) <= 2


def test_near_pairs_brightness_and_size_do_not_matter() -> None:
    rng = np.random.default_rng(3)
    image = np.asarray(
        Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8)).resize((320, 240))
    )
    half = np.asarray(Image.fromarray(image).resize((160, 120)))
    dark = (image * 0.6).astype(np.uint8)
    other = np.asarray(Image.fromarray(rng.integers(0, 256, (240, 320, 3), np.uint8)))
    flat = np.full((50, 50, 3), 9, np.uint8)
    thumbs = [normalized(thumbnail(i)) for i in (image, half, dark, other, flat, flat)]
    assert {(a, b) for a, b, _ in near_pairs(thumbs)} == {(0, 1), (0, 2), (1, 2)}
    assert list(near_pairs(thumbs[:1])) == []


@pytest.mark.parametrize(
    "fractions", [[0.5, 0.4], [1.2, -0.2], {}, {"a": 1.0, "b": 0.0}, {"../x": 1.0}, [0.25] * 4]
)
def test_split_bad_fractions_are_errors(fractions: object, tmp_path: Path) -> None:
    src = write_yolo(tmp_path / "src", {"a": f"0 {BOX}\n"})
    with pytest.raises(ValueError, match="fractions"):
        split(src, tmp_path / "dst", fractions)  # type: ignore[arg-type]
    assert not (tmp_path / "dst").exists()


def test_split_other_bad_arguments_are_errors(tmp_path: Path) -> None:
    src = many(tmp_path / "src", 4)
    with pytest.raises(ValueError, match="no pattern"):
        split(src, tmp_path / "dst", [0.5, 0.5], by="(")
    with pytest.raises(Error, match="'nothing' finds nothing"):
        split(src, tmp_path / "dst", [0.5, 0.5], by="nothing")
    with pytest.raises(Error, match="nothing is left for 'val': 4 images in 1 groups"):
        split(src, tmp_path / "dst", [0.5, 0.5], by="folder")
    with pytest.raises(ValueError, match="format"):
        split(src, tmp_path / "dst", [0.5, 0.5], format="labelme")
    assert not (tmp_path / "dst").exists()


# ---- merge -----------------------------------------------------------------------------------


def test_merge_joins_classes_by_name_and_splits(tmp_path: Path) -> None:
    a = write_yolo(tmp_path / "a", {"x": f"1 {BOX}\n"}, names=("cat", "dog"))
    b = write_yolo(tmp_path / "b", {"x": f"0 {BOX}\n", "y": f"1 {BOX}\n"}, names=("dog", "bird"))
    c = write_yolo(tmp_path / "c", {"z": f"0 {BOX}\n"}, names=("cat",), split="val")
    for i, path in enumerate(sorted(tmp_path.rglob("*.jpg"))):
        photo(path, i)
    done = merge(tmp_path / "dst", a, b, c)
    assert done.splits == {"train": 3, "val": 1} and not done.lost
    data = load(done, strict=True)
    assert data.names == ["cat", "dog", "bird"]
    assert [r.labels.tolist() for r in data.records] == [[1], [1], [2]]
    assert len({r.path.name for r in data.records}) == 3
    assert load(done, "val").names == data.names


def test_merge_keeps_category_ids_where_all_agree(tmp_path: Path) -> None:
    sets = [write_coco(tmp_path / n, coco_text([coco_annotation()])) for n in "ab"]
    photo(sets[1] / "train" / "a.jpg", 1)
    data = load(merge(tmp_path / "dst", *sets), strict=True)
    assert data.categories == [1, 7] and len(data) == 2 and len({r.id for r in data.records}) == 2


def test_merge_leaves_out_images_that_are_there(tmp_path: Path) -> None:
    a = write_yolo(tmp_path / "a", {"x": f"0 {BOX}\n", "y": f"0 {BOX}\n"})
    b = write_yolo(tmp_path / "b", {"u": f"0 {BOX}\n", "v": "0 .5 .5 .2 .2\n"}, split="val")
    shutil.copy(a / "images/train/x.jpg", b / "images/val/u.jpg")
    shutil.copy(a / "images/train/y.jpg", b / "images/val/v.jpg")
    photo(b / "images/val/w.jpg", 5)
    done = merge(tmp_path / "dst", a, b)
    assert done.splits == {"train": 2, "val": 1}
    assert done.lost == {
        "image that was there already": 1,
        "image that was there with other boxes": 1,
    }
    with pytest.raises(ValueError, match="no source"):
        merge(tmp_path / "none")


# ---- subset ----------------------------------------------------------------------------------


def test_subset_of_classes_and_images(tmp_path: Path) -> None:
    src = many(tmp_path / "src", 30)
    done = subset(src, tmp_path / "dst", classes=["c", "b"], empty=False)
    data = load(done, strict=True)
    assert data.names == ["c", "b"] and data.counts().tolist() == [3, 10]
    assert all(len(r.boxes) for r in data.records)
    assert len(load(subset(src, tmp_path / "all", classes=["c"]))) == 30
    drawn = [names_of(subset(src, tmp_path / f"n{s}", n=7, seed=s), "train") for s in (0, 1)]
    assert len(drawn[0]) == 7 and drawn[0] != drawn[1]
    few = subset(src, tmp_path / "few", where=lambda r: len(r.boxes) == 3)
    assert few.splits == {"train": 1}


def test_subset_bad_arguments_are_errors(tmp_path: Path) -> None:
    src = many(tmp_path / "src", 4)
    with pytest.raises(ValueError, match="class 'z' is none of"):
        subset(src, tmp_path / "dst", classes=["z"])
    with pytest.raises(ValueError, match="n is 0"):
        subset(src, tmp_path / "dst", n=0)
    with pytest.raises(Error, match="no image is left"):
        subset(src, tmp_path / "dst", where=lambda r: False)
    write_image(tmp_path / "full" / "a.jpg")
    with pytest.raises(Error, match="not an empty folder"):
        subset(src, tmp_path / "full")
