"""Writes a data set in another layout, images copied, all or nothing.

What survives: image files byte for byte, the sizes, the order of images within a split, class
names, boxes. What a format cannot say is counted in `Conversion.lost`:

- COCO keeps all: boxes exact (float32 corners survive x, y, width, height in decimal), category
  ids, integer image ids (others are numbered from 1), ignored regions as iscrowd.
- VOC keeps boxes exact, as edges with as many decimals as needed (the file does not say PASCAL VOC,
  so no reader shifts them), ignored regions as difficult; ids become the image's name. A class
  without any box is lost, for VOC has no list of classes.
- YOLO keeps boxes to float32 exactness except for the last bits of edges below about 1e-4 px, as
  it stores fractions; ignored regions have no form there and are left out.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import yaml

from deepseek_det.data.datasets import Dataset, load, recognise
from deepseek_det.data.records import Defect, Record
from deepseek_det.errors import Error

FORMATS = ("coco", "voc", "yolo")


@dataclass(slots=True)
class Conversion:
    """What `convert` did. It can be used as the path of the new data set.

    path: the new folder; splits: {split: images}; boxes: number written; rejected: what was left
    out of the source, as `Dataset.rejected`; lost: {what the format cannot say: how often}.
    """

    path: Path
    format: str
    splits: dict[str, int]
    boxes: int = 0
    rejected: list[Defect] = field(default_factory=list)
    lost: dict[str, int] = field(default_factory=dict)

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        parts = ", ".join(f"{split} {n} images" for split, n in self.splits.items())
        text = f"{self.path}: {self.format}, {parts}, {self.boxes} boxes"
        if self.rejected:
            text += f"\n  left out: {len(self.rejected)} defects, first {self.rejected[0]}"
        for what, count in self.lost.items():
            text += f"\n  lost: {count} x {what}"
        return text

    def lose(self, what: str, count: int = 1) -> None:
        """Counts something that the target format has no form for."""
        if count:
            self.lost[what] = self.lost.get(what, 0) + count


def convert(
    src: str | os.PathLike[str] | Dataset,
    dst: str | os.PathLike[str],
    format: str = "coco",
    splits: Sequence[str] | None = None,
    strict: bool = False,
    images: str | os.PathLike[str] | None = None,
    voc_one_based: bool | None = None,
) -> Conversion:
    """Writes `src` to the new folder `dst` as "coco", "voc" or "yolo".

    src: as for `load`, or a `Dataset` (its one split). dst: must not exist, or be empty; it appears
    when everything is written, not before. splits: the names to convert, all by default. strict,
    images, voc_one_based: as for `load`. Raises `Error` for a full target and what `load` refuses,
    ValueError for another format.
    """
    if format not in FORMATS:
        raise ValueError(f"convert: format is {format!r}, one of {', '.join(FORMATS)} was needed")
    _check_target(Path(dst), "convert")  # before a long reading
    return write_sets(_load_all(src, splits, strict, images, voc_one_based), dst, format)


def write_sets(
    sets: Sequence[Dataset],
    dst: str | os.PathLike[str],
    format: str = "coco",
    who: str = "convert",
) -> Conversion:
    """Writes splits, with the same classes each, to the new folder `dst`; as `convert` does.

    who: the caller's name for messages. Raises `Error` for a full target and what the disk refuses.
    """
    target = Path(dst)
    _check_target(target, who)
    done = Conversion(target, format, {d.split: len(d) for d in sets})
    for data in sets:
        done.rejected += data.rejected
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        try:
            writer = {"coco": _write_coco, "voc": _write_voc, "yolo": _write_yolo}[format]
            writer(sets, folder, done)
            folder.chmod(0o755)
            if target.exists():
                target.rmdir()
            folder.rename(target)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
    except OSError as error:
        raise Error(f"{who}: {error.filename or target}: {error.strerror or error}") from error
    return done


def _check_target(target: Path, who: str) -> None:
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise Error(f"{who}: {target} exists and is not an empty folder; a new one was needed")


def _load_all(
    src: str | os.PathLike[str] | Dataset,
    splits: Sequence[str] | None,
    strict: bool,
    images: str | os.PathLike[str] | None,
    voc_one_based: bool | None,
) -> list[Dataset]:
    if isinstance(src, Dataset):
        return [src]
    wanted = list(splits) if splits is not None else recognise(src, images).splits()
    # trainval repeats train and val; it is made when asked for.
    if splits is None and {"train", "val", "trainval"} <= set(wanted):
        wanted.remove("trainval")
    sets = [load(src, s, strict, images, voc_one_based=voc_one_based) for s in wanted]
    first = sets[0]
    for data in sets[1:]:
        if data.names != first.names:
            raise Error(
                f"convert: {data.root}: split {data.split!r} has the classes {data.names}, "
                f"{first.split!r} has {first.names}; convert them one by one"
            )
    return sets


def _file_names(data: Dataset) -> list[str]:
    """A name an image, unique within the split: its own, with its folders where names collide."""
    names = [r.path.name for r in data.records]
    stems = [Path(n).stem.lower() for n in names]
    if len(set(stems)) == len(stems):
        return names
    result, taken = [], set[str]()
    for record in data.records:
        stem, suffix = record.path.stem, record.path.suffix
        unique, k = f"{record.path.parent.name}_{stem}", 1
        while unique.lower() in taken:
            k += 1
            unique = f"{record.path.parent.name}_{stem}_{k}"
        taken.add(unique.lower())
        result.append(unique + suffix)
    return result


def _copy_images(data: Dataset, names: Sequence[str], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for record, name in zip(data.records, names, strict=True):
        shutil.copyfile(record.path, folder / name)


def _decimal(value: float) -> int | float:
    """A number that JSON and XML write short: integers without a point."""
    value = float(value)
    return int(value) if value.is_integer() else value


def _write_coco(sets: Sequence[Dataset], folder: Path, done: Conversion) -> None:
    (folder / "annotations").mkdir()
    for data in sets:
        names = _file_names(data)
        _copy_images(data, names, folder / data.split)
        ids = [r.id for r in data.records]
        if not all(isinstance(i, int) for i in ids) or len(set(ids)) < len(ids):
            ids = list(range(1, len(ids) + 1))
        images, annotations = [], list[dict[str, Any]]()
        for record, id, name in zip(data.records, ids, names, strict=True):
            images.append(
                {"id": id, "file_name": name, "width": record.width, "height": record.height}
            )
            boxes = record.boxes.astype(float).tolist()
            for (x0, y0, x1, y1), label, ignore in zip(
                boxes, record.labels.tolist(), record.ignore.tolist(), strict=True
            ):
                box = [_decimal(v) for v in (x0, y0, x1 - x0, y1 - y0)]
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": id,
                        "category_id": data.categories[label],
                        "bbox": box,
                        "area": _decimal((x1 - x0) * (y1 - y0)),
                        "iscrowd": int(ignore),
                        "segmentation": [],
                    }
                )
        categories = [
            {"id": k, "name": n, "supercategory": ""}
            for k, n in zip(data.categories, data.names, strict=True)
        ]
        content = {"images": images, "annotations": annotations, "categories": categories}
        file = folder / "annotations" / f"instances_{data.split}.json"
        file.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
        done.boxes += len(annotations)


def _write_voc(sets: Sequence[Dataset], folder: Path, done: Conversion) -> None:
    (folder / "Annotations").mkdir()
    (folder / "ImageSets" / "Main").mkdir(parents=True)
    taken: set[str] = set()
    used: set[str] = set()
    for data in sets:
        names = _file_names(data)
        # One folder holds the images of all splits there, and a list separates ids by blanks.
        names = ["_".join(n.split()) for n in names]
        names = [f"{data.split}_{n}" if Path(n).stem.lower() in taken else n for n in names]
        taken.update(Path(n).stem.lower() for n in names)
        _copy_images(data, names, folder / "JPEGImages")
        for record, name in zip(data.records, names, strict=True):
            file = folder / "Annotations" / f"{Path(name).stem}.xml"
            file.write_text(_voc_xml(record, name, data.names), encoding="utf-8")
            done.boxes += len(record.boxes)
            used.update(data.names[i] for i in record.labels.tolist())
        listed = "".join(f"{Path(n).stem}\n" for n in names)
        (folder / "ImageSets" / "Main" / f"{data.split}.txt").write_text(listed, encoding="utf-8")
    done.lose("class without a box", len(set(sets[0].names) - used))


def _voc_xml(record: Record, name: str, names: Sequence[str]) -> str:
    lines = [
        "<annotation>",
        f"\t<filename>{escape(name)}</filename>",
        f"\t<size><width>{record.width}</width><height>{record.height}</height>"
        "<depth>3</depth></size>",
    ]
    for box, label, ignore in zip(record.boxes, record.labels, record.ignore, strict=True):
        sides = zip(("xmin", "ymin", "xmax", "ymax"), map(_decimal, box), strict=True)
        lines.append(f"\t<object>\n\t\t<name>{escape(names[label])}</name>")
        lines.append(f"\t\t<difficult>{int(ignore)}</difficult>")
        lines.append("\t\t<bndbox>" + "".join(f"<{k}>{v}</{k}>" for k, v in sides) + "</bndbox>")
        lines.append("\t</object>")
    return "\n".join([*lines, "</annotation>\n"])


def _write_yolo(sets: Sequence[Dataset], folder: Path, done: Conversion) -> None:
    # No "path": readers then start at the file itself; of "." some make the current folder.
    content: dict[str, Any] = {}
    for data in sets:
        names = _file_names(data)
        _copy_images(data, names, folder / "images" / data.split)
        labels = folder / "labels" / data.split
        labels.mkdir(parents=True)
        content[data.split] = f"images/{data.split}"
        for record, name in zip(data.records, names, strict=True):
            rows = []
            kept = ~record.ignore
            done.lose("ignored region", int(record.ignore.sum()))
            boxes = record.boxes[kept].astype(float).tolist()
            for (x0, y0, x1, y1), label in zip(boxes, record.labels[kept].tolist(), strict=True):
                width, height = record.width, record.height
                centre = ((x0 + x1) / 2 / width, (y0 + y1) / 2 / height)
                size = ((x1 - x0) / width, (y1 - y0) / height)
                rows.append(f"{label} " + " ".join(repr(v) for v in (*centre, *size)) + "\n")
            (labels / f"{Path(name).stem}.txt").write_text("".join(rows), encoding="utf-8")
            done.boxes += len(rows)
    if any(d.categories != list(range(len(d.names))) for d in sets):
        done.lose("category ids")
    content["names"] = dict(enumerate(sets[0].names))
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    (folder / "data.yaml").write_text(text, encoding="utf-8")
