"""YOLO's oldest layout, darknet's, as CVAT exports it under the name "YOLO 1.1".

    root/obj.data             lines `train = data/train.txt`, `valid = …`, `names = data/obj.names`
    root/train.txt            lines `data/obj_train_data/a.jpg`
    root/obj_train_data/      images, and beside each its label file

Paths begin with the folder from which darknet was run: where `data/train.txt` is not in the root,
`train.txt` is meant, and so for the images. With images= these are looked for by name in that
folder, the label files where the list says.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from deepseek_det.data import yolo
from deepseek_det.data.records import Intake, outside_reason
from deepseek_det.errors import Error

NAME = "obj.data"
MAX_BYTES = 1 << 20
_PREFIX = "data/"


class Layout(yolo.Layout):
    """A folder with obj.data; made by `find`. entries: split → its list."""

    def __init__(
        self,
        root: Path,
        entries: dict[str, list[Path]],
        names: dict[int, str] | None,
        images: Path | None,
    ) -> None:
        super().__init__(root, entries, names)
        self.images = images
        self._labels_of: dict[Path, Path] = {}

    @classmethod
    def find(cls, path: Path, images: Path | None = None) -> Layout | None:
        """The layout at `path` (a folder, or its obj.data), None where there is none."""
        file = path if path.name == NAME else path / NAME
        if not file.is_file():
            return None
        root = file.parent
        content = _read(file)
        entries: dict[str, list[Path]] = {}
        for key in (*yolo.SPLITS, *yolo.ALIASES):
            if content.get(key):
                entries.setdefault(yolo.ALIASES.get(key, key), [_inside(file, key, content[key])])
        if not entries:
            raise Error(f"load: {file}: none of the keys train, valid, test; one was needed")
        names = None
        if "names" in content:
            names = yolo.read_names(_inside(file, "names", content["names"]))
        return cls(root, entries, names, images)

    def _listed(self, file: Path, intake: Intake) -> Iterator[tuple[Path, Path, int]]:
        try:
            lines = file.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise Error(f"load: {file}: {error}") from error
        for line, text in enumerate(lines, 1):
            word = text.strip()
            if not word or intake.inside(self.root, word, file, line, "image") is None:
                continue
            place = _place(self.root, word)
            image = place if self.images is None else self.images / place.name
            self._labels_of[image] = place.with_suffix(".txt")
            yield image, file, line

    def _labels(self, image: Path) -> Path:
        return self._labels_of.get(image) or yolo.label_path(image)


def _read(file: Path) -> dict[str, str]:
    """The `key = value` lines of a file."""
    try:
        data = file.read_bytes()
        if len(data) > MAX_BYTES:
            raise Error(f"load: {file}: {len(data)} bytes; the limit is {MAX_BYTES}")
        lines = data.decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise Error(f"load: {file}: {error}") from error
    pairs = [line.partition("=") for line in lines if "=" in line]
    return {key.strip(): value.strip() for key, _, value in pairs}


def _place(root: Path, word: str) -> Path:
    """Where a path of darknet's is: as written, else without its `data/`."""
    written = root / word
    beside = root / word.removeprefix(_PREFIX)
    there = written.exists() or written.with_suffix(".txt").exists()
    return written if there else beside


def _inside(file: Path, key: str, word: str) -> Path:
    """A file that obj.data names."""
    root = file.parent
    reason = outside_reason(root, root, word)
    place = None if reason else _place(root, word)
    if place is None or not place.is_file():
        raise Error(f"load: {file}: {key}: path {word!r} {reason or f'is no file in {root}'}")
    return place
