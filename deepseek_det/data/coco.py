"""COCO layout: one JSON file a split, read by the strict C reader of the evaluator.

    root/annotations/instances_<split>*.json   root/<split>*/  or  root/images/<split>*/
    root/<split>/_annotations.coco.json        (Roboflow: the images lie beside it)
    one json file, with images= its folder

Labels are the categories in ascending order of their ids, whatever the order in the file; ids may
have gaps and are kept in `Dataset.categories`. A crowd (iscrowd 1) becomes an ignored region.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from deepseek_det import _core
from deepseek_det.data.records import Classes, Columns, Federated, Intake, Record, Table
from deepseek_det.data.yolo import ALIASES, SPLITS, split_name
from deepseek_det.errors import Error

ROBOFLOW = "_annotations.coco.json"
OTHER_TASKS = ("captions_", "person_keypoints_", "stuff_", "panoptic_", "image_info_")

_CODES = {
    "missing_field": "field_missing",
    "wrong_type": "field_type",
    "bad_id": "id_range",
    "duplicate_id": "id_duplicate",
    "unknown_image": "image_unknown",
    "unknown_category": "class_unknown",
    "bad_box": "box_missing",
    "value_out_of_range": "field_type",
}


class Layout:
    """Files in COCO layout; made by `find`. files: split → JSON file."""

    format = "coco"

    def __init__(self, root: Path, files: dict[str, Path], images: Path | None) -> None:
        self.root, self.files, self.images = root, files, images

    @classmethod
    def find(cls, path: Path, images: Path | None = None) -> Layout | None:
        """The layout at `path` (a folder or a json file), None where it is not COCO's."""
        if path.is_file():
            if path.suffix.lower() != ".json":
                return None
            root = path.parent.parent if path.parent.name == "annotations" else path.parent
            return cls(root, {_only_split(path): path}, images)
        if not path.is_dir():
            return None
        folders = {p.name.lower(): p for p in sorted(path.iterdir()) if p.is_dir()}
        found: list[Path] = []
        if "annotations" in folders:
            every = sorted(folders["annotations"].glob("*.json"))
            found = [p for p in every if p.name.startswith("instances_")]
            found = found or [p for p in every if not p.name.startswith(OTHER_TASKS)]
        if not found:
            found = [p / ROBOFLOW for p in folders.values() if (p / ROBOFLOW).is_file()]
        if not found:
            found = sorted([*path.glob("instances_*.json"), *path.glob(ROBOFLOW)])
        if not found:
            return None
        if len(found) == 1:
            return cls(path, {_only_split(found[0]): found[0]}, images)
        files: dict[str, Path] = {}
        short = [split_name(_split_of(p)) for p in found]
        for file, name in zip(found, short, strict=True):
            # train2014 beside train2017: neither is "train", both are asked for by their full name.
            files[name if short.count(name) == 1 else _split_of(file)] = file
        return cls(path, files, images)

    def splits(self) -> list[str]:
        """Names of the splits, train first."""
        return sorted(self.files, key=lambda n: (SPLITS.index(n) if n in SPLITS else 3, n))

    def read(
        self,
        split: str,
        intake: Intake,
        chosen: list[str] | None = None,
        one_based: bool | None = None,
    ) -> Table:
        """Records of one split, in the file's order of images."""
        path = self.files[split]
        file, federated = self._open(path)
        missing = [s for s in ("images", "annotations", "categories") if s not in file["sections"]]
        if missing:
            raise Error(f"load: {path}: no {missing[0]!r} list; a COCO ground truth has one")
        _take_defects(path, file, intake)
        names, ids = _categories(path, file, intake)
        classes = Classes(names, ids, chosen)
        images = file["images"]
        folder, files = self._place(split, path, images["name"])
        unread = int(np.count_nonzero(file["annotations"]["segmentation_bytes"] > len("[]")))
        boxes = _boxes(path, file, classes, intake)
        file["annotations"] = {}  # what is needed of it stands in `boxes`
        records: list[Record] = []
        seen: dict[str, int] = {}
        columns = (images[key].tolist() for key in ("id", "line", "width", "height"))
        for i, (id, line, *size) in enumerate(zip(*columns, strict=True)):
            name = files[i]
            if not name:
                continue  # told as a missing file_name
            if intake.inside(folder, name, path, line, "file_name", self.images) is None:
                continue
            if name in seen:
                text = f"file_name {name!r} is used in line {seen[name]} already"
                intake.reject(path, line, "image_duplicate", "file_name", name, text)
                continue
            seen[name] = line
            picture = intake.picture(folder / name, path, line, "file_name")
            if picture is None:
                continue
            declared = (size[0], size[1]) if min(size) > 0 else None
            image = folder / name
            records.append(intake.record(image, id, picture, declared, boxes.of(i), path, line))
        return Table(classes.names, classes.categories, records, federated, {"mask": unread})

    def _open(self, path: Path) -> tuple[_core._CocoFile, Federated | None]:
        """The file's tables, and what LVIS adds to them."""
        return _core.coco_read(path), None

    def _place(self, split: str, path: Path, names: list[str]) -> tuple[Path, Sequence[str]]:
        """The folder of the images, and their names in it."""
        return self._folder(split, path, names[:32]), names

    def _folder(self, split: str, file: Path, names: list[str]) -> Path:
        """The folder of the split's images: the candidate that holds most of the first ones."""
        if self.images is not None:
            return self.images
        if file.name == ROBOFLOW:
            return file.parent
        alias = [a for a, name in ALIASES.items() if name == split]
        words = list(dict.fromkeys([_split_of(file), split, *alias]))
        candidates = [p for w in words for p in (self.root / w, self.root / "images" / w)]
        candidates += [self.root / "images", self.root, file.parent]
        candidates = [p for p in candidates if p.is_dir()]
        safe = [n for n in names if n and "\0" not in n]
        hits = [sum((p / n).is_file() for n in safe) for p in candidates]
        return candidates[hits.index(max(hits))]


def _split_of(file: Path) -> str:
    """The split that a file's name states; "train" where it states none."""
    if file.name == ROBOFLOW:
        return file.parent.name
    name = file.stem.removeprefix("instances_")
    return name if name not in ("default", "instances", "annotations") else "train"


def _only_split(file: Path) -> str:
    """The split of a file that has no others beside it: "train" unless its name is another's."""
    name = split_name(_split_of(file))
    return name if name in SPLITS else "train"


def _take_defects(path: Path, file: _core._CocoFile, intake: Intake) -> None:
    told = Counter[tuple[str, str]]()
    for section, reason, index, line, field, value in file["defects"]:
        told[section, reason] += 1
        code = _CODES[reason]
        if field == "bbox" and reason == "missing_field":
            code = "box_missing"
        text = f"{section}[{index}]: {field}: {reason.replace('_', ' ')}"
        text += f" ({value})" if value else ""
        # The image's header tells its size as well, so such an image stays.
        if section == "images" and field in ("width", "height"):
            intake.note(path, line, code, field, value, text)
        else:
            intake.reject(path, line, code, field, value, text)
    for (section, reason), count in file["defect_counts"].items():
        more = count - told[section, reason]
        if more > 0:
            text = f"{more} more records of {section!r} like this, not listed"
            intake.reject(path, 0, _CODES[reason], section, more, text)


def _categories(path: Path, file: _core._CocoFile, intake: Intake) -> tuple[list[str], list[int]]:
    """Names and ids in ascending order of the ids; of two equal names the first stays."""
    names: list[str] = []
    ids: list[int] = []
    table = file["categories"]
    for i in np.argsort(table["id"], kind="stable").tolist():
        id = int(table["id"][i])
        name = table["name"][i] or str(id)
        if name in names:
            text = f"category {id} is called {name!r} like category {ids[names.index(name)]}"
            line = int(table["line"][i])
            intake.reject(path, line, "category_duplicate", "name", name, text)
            continue
        names.append(name)
        ids.append(id)
    return names, ids


def _boxes(path: Path, file: _core._CocoFile, classes: Classes, intake: Intake) -> Columns:
    """The boxes of known classes."""
    table, categories = file["annotations"], file["categories"]
    known = [classes.label(id) for id in categories["id"].tolist()]
    of_category = np.array([-1 if k is None else k for k in known] or [-1], np.int32)
    label = of_category[table["category"]]
    for i in np.flatnonzero(label < 0).tolist():
        name = categories["name"][table["category"][i]]
        text = f"class {name!r} is none of {classes.names}"
        line = int(table["line"][i])
        intake.reject(path, line, "class_unknown", "category_id", name, text)
    box, crowd, lines = table["box"], table["crowd"], table["line"]
    return Columns(table["image"], label, box, crowd, lines, "bbox", xywh=True)
