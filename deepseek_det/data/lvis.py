"""LVIS layout: COCO's files with names of their own and the lists of a federated data set.

    root/annotations/lvis_v1_<split>.json  or  root/lvis_v1_<split>.json
    one json file whose name holds "lvis", or whose images have neg_category_ids

Images are named by file_name, or by the last two parts of coco_url (LVIS v1), which is found in
`root`, `root/images` and the folders that COCO's layout knows; where no image is found that way
the last part alone is tried. An image of LVIS is labelled for some classes only: which ones stands
in `Dataset.federated` and matters for evaluation, not for reading.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from deepseek_det import _core
from deepseek_det.data import coco
from deepseek_det.data.records import Federated
from deepseek_det.errors import Error

_NAME = re.compile(r"lvis(?:_v[0-9.]+)?_(.+)\.json", re.I)
_MARKS = (b'"neg_category_ids"', b'"not_exhaustive_category_ids"')
_SNIFF_BYTES = 1 << 16


class Layout(coco.Layout):
    """Files in LVIS layout; made by `find`. files: split → JSON file."""

    format = "lvis"

    @classmethod
    def find(cls, path: Path, images: Path | None = None) -> Layout | None:
        """The layout at `path` (a folder or a json file), None where it is not LVIS'."""
        if path.is_file():
            if path.suffix.lower() != ".json" or not _is_lvis(path):
                return None
            root = path.parent.parent if path.parent.name == "annotations" else path.parent
            return cls(root, {_split(path): path}, images)
        if not path.is_dir():
            return None
        every = sorted([*(path / "annotations").glob("*.json"), *path.glob("*.json")])
        files = {_split(p): p for p in every if _NAME.fullmatch(p.name)}
        return cls(path, files, images) if files else None

    def _open(self, path: Path) -> tuple[_core._CocoFile, Federated | None]:
        try:
            text = path.read_bytes()
        except OSError as error:
            raise Error(f"load: {path}: {error.strerror or error}") from error
        file = _core.coco_read(text, name=str(path))
        images, categories = file["images"], file["categories"]
        ids = images["id"].tolist()
        lists = [
            dict(zip(ids, _lists(path, text, images, what), strict=True))
            for what in ("negative", "partial")
        ]
        frequency = {
            int(id): chr(f)
            for id, f in zip(categories["id"], categories["frequency"].tolist(), strict=True)
            if chr(f) in "rcf"
        }
        return file, Federated(lists[0], lists[1], frequency)

    def _place(self, split: str, path: Path, names: list[str]) -> tuple[Path, Sequence[str]]:
        folder, same = super()._place(split, path, names)
        first = [n for n in names[:32] if n and "\0" not in n]
        if any((folder / n).is_file() for n in first):
            return folder, same
        return super()._place(split, path, [n.rsplit("/", 1)[-1] for n in names])


def _split(file: Path) -> str:
    match = _NAME.fullmatch(file.name)
    return match[1] if match else "train"


def _is_lvis(file: Path) -> bool:
    """By the name, else by LVIS' keys near the file's beginning or end."""
    if "lvis" in file.name.lower():
        return True
    with file.open("rb") as stream:
        head = stream.read(_SNIFF_BYTES)
        stream.seek(max(0, stream.seek(0, 2) - _SNIFF_BYTES))
        tail = stream.read(_SNIFF_BYTES)
    return any(mark in part for mark in _MARKS for part in (head, tail))


def _lists(
    path: Path, text: bytes, images: dict[str, npt.NDArray[np.generic]], what: str
) -> list[list[int]]:
    """The lists of category ids of all images; the reader has checked that they are JSON."""
    result = []
    columns = (images[key].tolist() for key in (f"{what}_at", f"{what}_bytes", "line"))
    for at, length, line in zip(*columns, strict=True):
        ids = json.loads(text[at : at + length]) if length else []
        if not isinstance(ids, list) or not all(type(i) is int for i in ids):
            raise Error(f"load: {path}:{line}: {what} categories are {ids!r:.60}, ids were needed")
        result.append(ids)
    return result
