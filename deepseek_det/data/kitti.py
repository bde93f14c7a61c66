"""KITTI's object layout, its 2D part: a text file an image, a row an object.

    root/training/image_2/*  root/training/label_2/*.txt      (or both folders in root itself)
    root/ImageSets/<split>.txt                                (else all of them are "train")

A row is `type truncated occluded alpha x0 y0 x1 y1`, then seven numbers of the 3D box (checked to
be numbers, not used), and in result files a score. Boxes are taken as edges, as the devkit's areas
do. `DontCare` marks a region in which nothing was labelled: it becomes an ignored region of every
class. Class names are those found over all label files, sorted by code point.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from deepseek_det.data.records import (
    Classes,
    Found,
    Intake,
    Table,
    natural,
    number,
)
from deepseek_det.data.voc import images_by_stem, listed_ids
from deepseek_det.data.yolo import SPLITS, split_rows

DONT_CARE = "DontCare"
FIELDS = (15, 16)
"""Fields of a row: of a label file, and of a result with its score."""
_FIRST_BOX = 4


class Layout:
    """A folder in KITTI's layout; made by `find`."""

    format = "kitti"

    def __init__(self, root: Path, labels: Path, images: Path, sets: Path | None) -> None:
        self.root, self.labels, self.images, self.sets = root, labels, images, sets

    @classmethod
    def find(cls, root: Path, images: Path | None = None) -> Layout | None:
        """The layout of `root`, None where it is not KITTI's. images: overrides image_2."""
        for base in (root / "training", root):
            labels = base / "label_2"
            folder = images or base / "image_2"
            if not labels.is_dir() or not folder.is_dir():
                continue
            if next(labels.glob("*.txt"), None) is not None:
                sets = [p / "ImageSets" for p in (root, base)]
                found = next((p for p in sets if next(p.glob("*.txt"), None)), None)
                return cls(root, labels, folder, found)
        return None

    def splits(self) -> list[str]:
        """Names of the splits, train first; KITTI's own "test" has no labels and is none."""
        if self.sets is None:
            return ["train"]
        names = [p.stem for p in self.sets.glob("*.txt")]
        with_labels = [n for n in names if n != "test" or self._has_labels(n)]
        return sorted(with_labels, key=lambda n: (SPLITS.index(n) if n in SPLITS else 3, n))

    def read(
        self,
        split: str,
        intake: Intake,
        chosen: list[str] | None = None,
        one_based: bool | None = None,
    ) -> Table:
        """Records of one split. chosen: class names that replace the found ones."""
        names = chosen or self._names()
        classes = Classes(names, list(range(len(names))))
        by_stem = images_by_stem(self.images)
        records = []
        for id, file, line in self._listed(split, intake):
            path = self.labels / f"{id}.txt"
            if not path.is_file():
                text = f"no label file {intake.name(path)}"
                intake.reject(file, line, "annotation_missing", "id", id, text)
                continue
            if not intake.followed(path, file, line, "id"):
                continue
            image = by_stem.get(id, self.images / f"{id}.png")
            picture = intake.picture(image, file, line)
            if picture is None:
                continue
            found = list(boxes_of(split_rows(path, intake), path, classes, intake))
            records.append(intake.record(image, id, picture, None, found, path))
        return Table(classes.names, classes.categories, records)

    def _listed(self, split: str, intake: Intake) -> Iterator[tuple[str, Path, int]]:
        """(id, file, line) of each image of a split; the file that names it."""
        if self.sets is None:
            for path in sorted(self.labels.glob("*.txt"), key=lambda p: natural(p.name)):
                yield path.stem, path, 0
        else:
            yield from listed_ids(self.sets / f"{split}.txt", self.labels, intake)

    def _has_labels(self, split: str) -> bool:
        listed = self._listed(split, Intake(self.root))
        return any((self.labels / f"{id}.txt").is_file() for id, _, _ in listed)

    def _names(self) -> list[str]:
        """Sorted class names over all label files."""
        silent = Intake(self.root)
        names = set[str]()
        for path in self.labels.glob("*.txt"):
            if silent.followed(path, path, 0, ""):
                names.update(w[0] for _, w in split_rows(path, silent) if len(w) in FIELDS)
        return sorted(names - {DONT_CARE})


def boxes_of(
    rows: Iterable[tuple[int, list[str]]], file: Path, classes: Classes, intake: Intake
) -> Iterator[Found]:
    """The sound boxes of a label file's rows (line, words); the others become defects."""
    for line, words in rows:
        row = " ".join(words)
        if len(words) not in FIELDS:
            text = f"{len(words)} fields, {FIELDS[0]} were needed"
            intake.reject(file, line, "field_count", "row", row, text)
            continue
        values = [number(word) for word in words[1:]]
        if None in values:
            at = values.index(None) + 1
            text = f"field {at + 1} is {words[at][:60]!r}, a number was needed"
            intake.reject(file, line, "not_a_number", f"field {at + 1}", row, text)
            continue
        numbers = [v for v in values if v is not None]
        x0, y0, x1, y1 = numbers[_FIRST_BOX - 1 : _FIRST_BOX + 3]
        if words[0] == DONT_CARE:
            for label in range(len(classes.names)):
                yield Found((x0, y0, x1, y1), label, True, line, "bbox", row)
        elif words[0] in classes.names:
            label = classes.names.index(words[0])
            yield Found((x0, y0, x1, y1), label, False, line, "bbox", row)
        else:
            text = f"class {words[0]!r} is none of {classes.names}"
            intake.reject(file, line, "class_unknown", "type", words[0], text)
