"""The writers of all layouts: images copied, labels written, all or nothing.

What survives: image files byte for byte, the sizes, the order of images within a split, class
names, boxes. What a format cannot say is counted in `Conversion.lost`:

- COCO keeps all: boxes exact (float32 corners survive x, y, width, height in decimal), category
  ids, integer image ids (others are numbered from 1), ignored regions as iscrowd.
- LVIS is COCO with its lists: those of the source where it is LVIS, else each image says that all
  classes without a box are absent; ignored regions keep COCO's iscrowd, frequencies are counted
  anew (r up to 10 images, c up to 100) where the source has none.
- VOC keeps boxes exact, as edges with as many decimals as needed (the file does not say PASCAL VOC,
  so no reader shifts them), ignored regions as difficult; ids become the image's name. A class
  without any box is lost, for VOC has no list of classes.
- YOLO keeps boxes to float32 exactness except for the last bits of edges below about 1e-4 px, as
  it stores fractions; ignored regions have no form there and are left out.
- KITTI keeps boxes exact. A region that is ignored for every class becomes DontCare, any other
  ignored one is left out; so are classes without a box. Blanks in a class name become `_`.
- CSV keeps boxes exact, ignored regions in a column `difficult` where there are any, class names
  and their order in classes.csv.

Masks are no part of a record: they are counted as lost.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import yaml

from deepseek_det.data.datasets import Dataset
from deepseek_det.data.kitti import DONT_CARE
from deepseek_det.data.records import Defect, Federated, Record
from deepseek_det.data.tables import CLASSES, SIDES
from deepseek_det.errors import Error

FREQUENCIES = ((10, "r"), (100, "c"))
"""LVIS' borders: a class in at most so many images is rare, common; beyond that frequent."""


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


def write(
    sets: Sequence[Dataset], dst: str | os.PathLike[str], format: str, who: str
) -> Conversion:
    """Writes data sets with the same classes, one a split, as a new folder.

    dst: must not exist, or be empty; it appears when everything is written, not before. who: the
    caller's name, for messages. Raises `Error` for a full target or a failing disk, ValueError for
    an unknown format.
    """
    check_format(format, who)
    target = check_target(dst, who)
    done = Conversion(target, format, {d.split: len(d) for d in sets})
    for data in sets:
        done.rejected += data.rejected
        for what, count in data.unread.items():
            done.lose(what, count)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        try:
            WRITERS[format](sets, folder, done)
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


def check_format(format: str, who: str) -> None:
    """ValueError where `format` is none that can be written."""
    if format not in WRITERS:
        raise ValueError(f"{who}: format is {format!r}, one of {', '.join(WRITERS)} was needed")


def check_target(dst: str | os.PathLike[str], who: str) -> Path:
    """The target as a path; `Error` where something stands there already."""
    target = Path(dst)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise Error(f"{who}: {target} exists and is not an empty folder; a new one was needed")
    return target


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


def _coco_content(data: Dataset, names: Sequence[str]) -> dict[str, Any]:
    """A split as COCO's dictionary; ids of images and categories are the data's own if possible."""
    ids = [r.id for r in data.records]
    if not all(isinstance(i, int) for i in ids) or len(set(ids)) < len(ids):
        ids = list(range(1, len(ids) + 1))
    images, annotations = [], list[dict[str, Any]]()
    for record, id, name in zip(data.records, ids, names, strict=True):
        size = {"width": record.width, "height": record.height}
        images.append({"id": id, "file_name": name, **size})
        columns = (record.boxes.astype(float), record.labels, record.ignore)
        for (x0, y0, x1, y1), label, ignore in zip(*(c.tolist() for c in columns), strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": id,
                    "category_id": data.categories[label],
                    "bbox": [_decimal(v) for v in (x0, y0, x1 - x0, y1 - y0)],
                    "area": _decimal((x1 - x0) * (y1 - y0)),
                    "iscrowd": int(ignore),
                    "segmentation": [],
                }
            )
    categories = [
        {"id": k, "name": n, "supercategory": ""}
        for k, n in zip(data.categories, data.names, strict=True)
    ]
    return {"images": images, "annotations": annotations, "categories": categories}


def _write_coco(sets: Sequence[Dataset], folder: Path, done: Conversion) -> None:
    _write_json(sets, folder, done, "instances", _coco_content)


def _write_lvis(sets: Sequence[Dataset], folder: Path, done: Conversion) -> None:
    _write_json(sets, folder, done, "lvis_v1", _lvis_content)


def _write_json(
    sets: Sequence[Dataset],
    folder: Path,
    done: Conversion,
    stem: str,
    content: Callable[[Dataset, Sequence[str]], dict[str, Any]],
) -> None:
    (folder / "annotations").mkdir()
    for data in sets:
        names = _file_names(data)
        _copy_images(data, names, folder / data.split)
        made = content(data, names)
        file = folder / "annotations" / f"{stem}_{data.split}.json"
        file.write_text(json.dumps(made, ensure_ascii=False), encoding="utf-8")
        done.boxes += len(made["annotations"])


def _lvis_content(data: Dataset, names: Sequence[str]) -> dict[str, Any]:
    """COCO's dictionary with LVIS' lists and counts."""
    made = _coco_content(data, names)
    known = data.federated or Federated()
    holds = [{data.categories[k] for k in r.labels.tolist()} for r in data.records]
    for image, record, held in zip(made["images"], data.records, holds, strict=True):
        # Other formats are labelled for every class, so what has no box there is absent.
        absent = [k for k in data.categories if k not in held] if data.federated is None else []
        image["neg_category_ids"] = list(known.negative.get(record.id, absent))
        image["not_exhaustive_category_ids"] = list(known.partial.get(record.id, ()))
    images = Counter(k for held in holds for k in held)
    boxes = Counter(a["category_id"] for a in made["annotations"])
    for category in made["categories"]:
        k = category["id"]
        frequency = next((f for limit, f in FREQUENCIES if images[k] <= limit), "f")
        category["frequency"] = known.frequency.get(k, frequency)
        category["image_count"], category["instance_count"] = images[k], boxes[k]
    return made


def _write_voc(sets: Sequence[Dataset], folder: Path, done: Conversion) -> None:
    (folder / "Annotations").mkdir()
    (folder / "ImageSets" / "Main").mkdir(parents=True)
    taken: set[str] = set()
    used: set[str] = set()
    for data in sets:
        names = _shared_names(data, taken)
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


def _shared_names(data: Dataset, taken: set[str]) -> list[str]:
    """Names for a folder that the images of all splits share; ids there hold no blanks."""
    names = ["_".join(n.split()) for n in _file_names(data)]
    names = [f"{data.split}_{n}" if Path(n).stem.lower() in taken else n for n in names]
    taken.update(Path(n).stem.lower() for n in names)
    return names


def _write_kitti(sets: Sequence[Dataset], folder: Path, done: Conversion) -> None:
    types = ["_".join(n.split()) for n in sets[0].names]
    if len(set(types)) < len(types) or DONT_CARE in types:
        text = "need different names in KITTI's form, none of them DontCare"
        raise Error(f"convert: the classes {sets[0].names} {text}")
    done.lose("blank in a class name", sum(len(n.split()) > 1 for n in sets[0].names))
    labels, lists = folder / "training" / "label_2", folder / "ImageSets"
    labels.mkdir(parents=True)
    lists.mkdir()
    taken, used = set[str](), set[str]()
    for data in sets:
        names = _shared_names(data, taken)
        _copy_images(data, names, folder / "training" / "image_2")
        for record, name in zip(data.records, names, strict=True):
            rows = list(_kitti_rows(record, types, done))
            text = "".join(f"{row}\n" for row in rows)
            (labels / f"{Path(name).stem}.txt").write_text(text, encoding="utf-8")
            done.boxes += len(rows)
            used.update(types[i] for i in record.labels[~record.ignore].tolist())
        listed = "".join(f"{Path(n).stem}\n" for n in names)
        (lists / f"{data.split}.txt").write_text(listed, encoding="utf-8")
    if any(d.categories != list(range(len(d.names))) for d in sets):
        done.lose("category ids")
    done.lose("class without a box", len(set(types) - used))


def _kitti_rows(record: Record, types: Sequence[str], done: Conversion) -> Iterator[str]:
    """The rows of an image: what a 2D set does not know has KITTI's values for "unknown"."""
    unknown = "-1 -1 -1 -1000 -1000 -1000 -10"
    regions: dict[tuple[float, ...], set[int]] = {}
    for box, label, ignore in zip(record.boxes, record.labels, record.ignore, strict=True):
        corners = tuple(box.astype(float).tolist())
        if ignore:
            regions.setdefault(corners, set()).add(int(label))
            continue
        sides = " ".join(str(_decimal(v)) for v in corners)
        yield f"{types[label]} 0 0 -10 {sides} {unknown}"
    for corners, labels in regions.items():
        if len(labels) < len(types):
            done.lose("region that only some classes ignore")
            continue
        sides = " ".join(str(_decimal(v)) for v in corners)
        yield f"{DONT_CARE} -1 -1 -10 {sides} {unknown}"


def _write_csv(sets: Sequence[Dataset], folder: Path, done: Conversion) -> None:
    marks = any(r.ignore.any() for d in sets for r in d.records)
    head = ["filename", "width", "height", "class", *SIDES, *(["difficult"] if marks else [])]
    for data in sets:
        names = _file_names(data)
        _copy_images(data, names, folder / data.split)
        with (folder / f"{data.split}.csv").open("w", encoding="utf-8", newline="") as stream:
            out = csv.writer(stream, lineterminator="\n")
            out.writerow(head)
            for record, name in zip(data.records, names, strict=True):
                image = [name, record.width, record.height]
                if not len(record.boxes):
                    out.writerow(image + [""] * (len(head) - len(image)))
                columns = (record.boxes, record.labels.tolist(), record.ignore.tolist())
                for box, label, ignore in zip(*columns, strict=True):
                    sides = [_decimal(v) for v in box]
                    out.writerow([*image, data.names[label], *sides, *([int(ignore)] * marks)])
            done.boxes += sum(len(r.boxes) for r in data.records)
    with (folder / CLASSES).open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream, lineterminator="\n").writerows(
            [name, i] for i, name in enumerate(sets[0].names)
        )
    if any(d.categories != list(range(len(d.names))) for d in sets):
        done.lose("category ids")


WRITERS: dict[str, Callable[[Sequence[Dataset], Path, Conversion], None]] = {
    "coco": _write_coco,
    "lvis": _write_lvis,
    "voc": _write_voc,
    "yolo": _write_yolo,
    "kitti": _write_kitti,
    "csv": _write_csv,
}
