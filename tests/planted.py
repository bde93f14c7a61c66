"""Small data sets on disk, written by hand for the tests of readers, checks and conversions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def write_image(path: Path, width: int = 64, height: int = 48, seed: int = 0, **save: Any) -> Path:
    """An image of random blocks; the suffix chooses the format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 255, (6, 8, 3)).astype(np.uint8)
    image = Image.fromarray(small).resize((width, height), Image.Resampling.NEAREST)
    image.save(path, **save)
    return path


def voc_object(
    name: str = "cat", box: Sequence[object] = (4, 5, 30, 40), difficult: int | None = None
) -> str:
    """One `<object>` on seven lines, the name on its second, xmin on its fourth."""
    sides = zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    lines = ["<object>", f"<name>{name}</name>", "<bndbox>"]
    lines += [f"<{k}>{v}</{k}>" for k, v in sides]
    lines += ["</bndbox>"]
    if difficult is not None:
        lines.append(f"<difficult>{difficult}</difficult>")
    return "\n".join([*lines, "</object>"])


def voc_xml(
    *objects: str, filename: str = "", size: tuple[int, int] | None = (64, 48), source: str = ""
) -> str:
    """An annotation file; the first object starts on line 4."""
    head = f"<size><width>{size[0]}</width><height>{size[1]}</height></size>" if size else ""
    name = f"<filename>{filename}</filename>" if filename else ""
    said = f"<source><annotation>{source}</annotation></source>" if source else ""
    return "\n".join([f"<annotation>{name}", head, said, *objects, "</annotation>"])


def write_voc(
    root: Path, files: dict[str, str], splits: dict[str, Sequence[str]] | None = None
) -> Path:
    """VOC layout: {id: xml}, an image each; {split: ids} where there are ImageSets."""
    (root / "Annotations").mkdir(parents=True, exist_ok=True)
    for i, (id, xml) in enumerate(files.items()):
        (root / "Annotations" / f"{id}.xml").write_text(xml, encoding="utf-8")
        write_image(root / "JPEGImages" / f"{id}.jpg", seed=i)
    if splits is not None:
        (root / "ImageSets" / "Main").mkdir(parents=True)
        for split, ids in splits.items():
            text = "".join(f"{id}\n" for id in ids)
            (root / "ImageSets" / "Main" / f"{split}.txt").write_text(text)
    return root


def coco_image(id: Any = 1, name: str = "a.jpg", **more: Any) -> dict[str, Any]:
    """One record of `images`, 64x48."""
    return {"id": id, "file_name": name, "width": 64, "height": 48} | more


def coco_annotation(
    id: Any = 1, image_id: Any = 1, category_id: Any = 1, **more: Any
) -> dict[str, Any]:
    """One record of `annotations` with a sound box."""
    base = {"id": id, "image_id": image_id, "category_id": category_id}
    return base | {"bbox": [4, 5, 20, 30], "area": 600, "iscrowd": 0} | more


def coco_text(
    annotations: Sequence[dict[str, Any]],
    images: Sequence[dict[str, Any]] | None = None,
    categories: Sequence[dict[str, Any]] | None = None,
) -> str:
    """A ground truth file with one record a line; the images start on line 3.

    With one image the annotations start on line 6; two lines lie between the sections.
    """
    images = [coco_image()] if images is None else images
    categories = (
        [{"id": 1, "name": "cat"}, {"id": 7, "name": "dog"}] if categories is None else (categories)
    )
    sections = {"images": images, "annotations": annotations, "categories": categories}
    parts = []
    for key, records in sections.items():
        parts.append(f'"{key}": [\n' + ",\n".join(json.dumps(r) for r in records) + "\n]")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def write_coco(
    root: Path, text: str, split: str = "train", images: Sequence[str] = ("a.jpg",)
) -> Path:
    """COCO layout: annotations/instances_<split>.json and images in <split>/."""
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    (root / "annotations" / f"instances_{split}.json").write_text(text, encoding="utf-8")
    for i, name in enumerate(images):
        write_image(root / split / name, seed=i)
    return root


def write_yolo(
    root: Path,
    labels: dict[str, str],
    names: Sequence[str] | None = ("cat", "dog"),
    split: str = "train",
) -> Path:
    """YOLO layout: {stem: rows}, an image each; data.yaml where names are given."""
    folder = root / "labels" / split
    folder.mkdir(parents=True, exist_ok=True)
    for i, (stem, rows) in enumerate(labels.items()):
        (folder / f"{stem}.txt").write_text(rows, encoding="utf-8")
        write_image(root / "images" / split / f"{stem}.jpg", seed=i)
    if names is not None:
        text = f"path: .\n{split}: images/{split}\nnames: {json.dumps(list(names))}\n"
        (root / "data.yaml").write_text(text)
    return root


def kitti_row(
    name: str = "Car", box: Sequence[object] = (4, 5, 30, 40), score: str | None = None
) -> str:
    """One row of a KITTI label file."""
    sides = " ".join(str(v) for v in box)
    row = f"{name} 0.00 0 -1.57 {sides} 1.5 1.6 3.9 1.0 1.5 20.0 -1.6"
    return row if score is None else f"{row} {score}"


def write_kitti(root: Path, labels: dict[str, str]) -> Path:
    """KITTI layout: {id: rows}, an image each."""
    folder = root / "training" / "label_2"
    folder.mkdir(parents=True, exist_ok=True)
    for i, (id, rows) in enumerate(labels.items()):
        (folder / f"{id}.txt").write_text(rows, encoding="utf-8")
        write_image(root / "training" / "image_2" / f"{id}.png", seed=i)
    return root


CSV_HEAD = "filename,width,height,class,xmin,ymin,xmax,ymax\n"


def write_csv(root: Path, text: str, images: Sequence[str] = ("a.jpg", "b.jpg")) -> Path:
    """CSV layout: train.csv and images beside it in train/."""
    for i, name in enumerate(images):
        write_image(root / "train" / name, seed=i)
    (root / "train.csv").write_text(text, encoding="utf-8")
    return root
