"""CSV layout: a file a split, a row a box.

    root/<split>.csv, root/<split>_labels.csv, root/annotations_<split>.csv (or in annotations/)
    root/<split>/_annotations.csv                          (Roboflow: the images lie beside it)
    one csv file, with images= its folder

The first row names the columns, in any order and in the words of the usual tools: an image
(filename, image, path, ImageID), a class (class, label, LabelName, …), four edges (xmin, x1, XMin,
…), perhaps the image's width and height, and a mark for regions to ignore (difficult, IsGroupOf).
Without such a row the columns are `image, x0, y0, x1, y1, class` (keras-retinanet). A row whose box
and class are empty is an image without objects.

OpenImages' files (ImageID, XMin, …) hold fractions of the image, and names without a suffix; all
others hold pixels, taken as edges. Delimiters are commas, semicolons or tabs. Class names are those
found over all splits, sorted, unless a `classes.csv` (rows `name,id`) fixes their order.
"""

from __future__ import annotations

import csv
import re
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from deepseek_det.data.decode import Picture
from deepseek_det.data.records import (
    IMAGE_SUFFIXES,
    Classes,
    Columns,
    Found,
    Intake,
    Record,
    Table,
    number,
)
from deepseek_det.data.voc import images_by_stem
from deepseek_det.data.yolo import ALIASES, SPLITS, split_name
from deepseek_det.errors import Error

EXPORT = "_annotations.csv"
CLASSES = "classes.csv"
MAX_ROW_BYTES = 1 << 16
SIDES = ("xmin", "ymin", "xmax", "ymax")

_WORDS = {
    "image": {"filename", "image", "imagename", "imagepath", "imageid", "path", "file", "img"},
    "class": {"class", "label", "labelname", "classname", "name", "category", "celltype", "object"},
    "xmin": {"xmin", "x1", "x0", "left", "bboxxmin"},
    "ymin": {"ymin", "y1", "y0", "top", "bboxymin"},
    "xmax": {"xmax", "x2", "right", "bboxxmax"},
    "ymax": {"ymax", "y2", "bottom", "bboxymax"},
    "width": {"width", "imagewidth", "imgwidth"},
    "height": {"height", "imageheight", "imgheight"},
    "ignore": {"difficult", "iscrowd", "isgroupof", "ignore"},
}
_HEADLESS = dict(zip(("image", *SIDES, "class"), range(6), strict=True))
_AROUND = re.compile(
    r"(?:annotations?|labels?|boxes|instances)[_-]?|[_-]?(?:annotations?|labels?)$"
)


@dataclass(frozen=True, slots=True)
class Header:
    """Where a file's columns are. fractions: boxes are shares of the image; rows: of the header."""

    at: dict[str, int]
    fractions: bool = False
    rows: int = 1


@dataclass(slots=True)
class Rows:
    """What one file says: image names in order of appearance, and boxes by columns.

    sizes: stated width and height by image; box: 4 numbers a row, as written; label: index into
    `labels`, the class names in order of appearance; line: of each box.
    """

    header: Header
    images: list[str] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    sizes: dict[int, tuple[int, int]] = field(default_factory=dict)
    labels: list[str] = field(default_factory=list)
    image: array[int] = field(default_factory=lambda: array("q"))
    label: array[int] = field(default_factory=lambda: array("q"))
    line: array[int] = field(default_factory=lambda: array("q"))
    box: array[float] = field(default_factory=lambda: array("d"))
    ignore: bytearray = field(default_factory=bytearray)


class Layout:
    """CSV files; made by `find`. files: split → file."""

    format = "csv"

    def __init__(self, root: Path, files: dict[str, Path], images: Path | None) -> None:
        self.root, self.files, self.images = root, files, images

    @classmethod
    def find(cls, path: Path, images: Path | None = None) -> Layout | None:
        """The layout at `path` (a folder or a csv file), None where it is not CSV's."""
        if path.is_file():
            if path.suffix.lower() != ".csv":
                return None
            near = path.parent / "images"
            root = path.parent if near.is_dir() or images else _common_root(path.parent)
            return cls(root, {_only_split(path): path}, images)
        if not path.is_dir():
            return None
        found = [p / EXPORT for p in sorted(path.iterdir()) if (p / EXPORT).is_file()]
        if not found:
            every = [*path.glob("*.csv"), *(path / "annotations").glob("*.csv")]
            found = [p for p in sorted(every) if p.name != CLASSES and _has_header(p)]
        if not found:
            return None
        if len(found) == 1:
            return cls(path, {_only_split(found[0]): found[0]}, images)
        files: dict[str, Path] = {}
        for file in found:
            name = split_name(_split_of(file))
            files[name if name not in files else file.stem] = file
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
        """Records of one split, images in order of their first row."""
        file = self.files[split]
        rows = read_rows(file, intake)
        names = chosen or self._names(rows, split)
        classes = Classes(names, list(range(len(names))))
        folder = self._folder(split, file, rows.images[:32])
        stems = images_by_stem(folder)
        boxes = _columns(rows, file, names, intake)
        records: list[Record] = []
        taken: dict[Path, int] = {}
        for i, (name, line) in enumerate(zip(rows.images, rows.lines, strict=True)):
            if intake.inside(folder, name, file, line, "image", self.images or folder) is None:
                continue
            path = folder / name
            if path.suffix.lower() not in IMAGE_SUFFIXES:
                path = stems.get(path.name, path)
            if path in taken:
                text = f"{name!r} is the image of line {taken[path]} by another name"
                intake.reject(file, line, "image_duplicate", "image", name, text)
                continue
            taken[path] = line
            picture = intake.picture(path, file, line)
            if picture is None:
                continue
            found = boxes.of(i)
            if rows.header.fractions:
                found = [_in_pixels(f, picture) for f in found]
            size = rows.sizes.get(i)
            records.append(intake.record(path, path.stem, picture, size, found, file, line))
        return Table(classes.names, classes.categories, records)

    def _names(self, rows: Rows, split: str) -> list[str]:
        """The class names: those of classes.csv, else of all splits, sorted."""
        declared = self.root / CLASSES
        if declared.is_file():
            return read_classes(declared)
        names = set(rows.labels)
        for other, file in self.files.items():
            if other != split:
                names.update(read_rows(file, Intake(self.root)).labels)
        return sorted(names)

    def _folder(self, split: str, file: Path, names: list[str]) -> Path:
        """The folder of the split's images: the candidate that holds most of the first ones."""
        if self.images is not None:
            return self.images
        if file.name == EXPORT:
            return file.parent
        words = [split, *(a for a, name in ALIASES.items() if name == split)]
        candidates = [p for w in words for p in (self.root / w, self.root / "images" / w)]
        candidates += [self.root / "images", self.root / "JPEGImages", self.root, file.parent]
        candidates = [p for p in candidates if p.is_dir()]
        safe = [n for n in names if n and "\0" not in n]
        stems = [images_by_stem(p) for p in candidates]
        hits = [
            sum((p / n).is_file() or n in known for n in safe)
            for p, known in zip(candidates, stems, strict=True)
        ]
        return candidates[hits.index(max(hits))]


def read_rows(file: Path, intake: Intake) -> Rows:
    """Reads a file row by row; wrong rows become defects. Raises `Error` where it is no CSV."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            return rows_of(_lines(stream, file), file, intake)
    except OSError as error:
        raise Error(f"load: {file}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise Error(f"load: {file}:{_bad_line(file)}: not UTF-8 text: {error.reason}") from error


def _bad_line(file: Path) -> int:
    """The first line that is not UTF-8: the text layer reads ahead and cannot tell."""
    with file.open("rb") as stream:
        for count, line in enumerate(stream, 1):
            if line.decode("utf-8", "replace").encode() != line:
                return count
    return 0


def _lines(stream: Iterator[str], file: Path) -> Iterator[str]:
    """The lines, refused where one is so long that no box could be meant."""
    for count, line in enumerate(stream, 1):
        if len(line) > MAX_ROW_BYTES:
            raise Error(f"load: {file}:{count}: {len(line)} characters; the limit is 65536")
        yield line


def rows_of(lines: Iterator[str], file: Path, intake: Intake) -> Rows:
    """`read_rows` on the lines of a text. file: for messages."""
    first = next(lines, "")
    delimiter = max(",;\t", key=first.count) if first else ","
    header = _header(next(csv.reader([first], delimiter=delimiter), []))
    if header is None:
        raise Error(f"load: {file}:1: no header with an image, a class, xmin, ymin, xmax and ymax")

    def every() -> Iterator[str]:
        yield first
        yield from lines

    reader = csv.reader(every(), delimiter=delimiter, strict=True)
    rows = Rows(header)
    taker = _Taker(rows, file, intake)
    line = 0
    try:
        for cells in reader:
            if line >= header.rows and cells:
                taker.take(cells, line + 1)
            line = reader.line_num
    except csv.Error as error:
        raise Error(f"load: {file}:{reader.line_num}: CSV: {error}") from error
    return rows


class _Taker:
    """Puts rows into `Rows`."""

    def __init__(self, rows: Rows, file: Path, intake: Intake) -> None:
        self.rows, self.file, self.intake = rows, file, intake
        self.of_image: dict[str, int] = {}
        self.of_label: dict[str, int] = {}
        self.width = max(rows.header.at.values()) + 1

    def take(self, cells: list[str], line: int) -> None:
        """One row."""
        at = self.rows.header.at
        if len(cells) < self.width:
            text = f"{len(cells)} fields, {self.width} were needed"
            self._reject(line, "field_count", "row", ",".join(cells), text)
            return
        name = cells[at["image"]].strip()
        if not name:
            self._reject(line, "field_missing", "image", ",".join(cells), "row without an image")
            return
        image = self._image(name, line, cells)
        label, texts = cells[at["class"]].strip(), [cells[at[s]].strip() for s in SIDES]
        if not label and not any(texts):
            return  # an image without objects
        if not label:
            self._reject(line, "field_missing", "class", ",".join(cells), "row without a class")
            return
        box = self._box(texts, line)
        known = self.of_label.setdefault(label, len(self.of_label))
        if known == len(self.rows.labels):
            self.rows.labels.append(label)
        if box is None:
            return
        mark = cells[at["ignore"]].strip().lower() if "ignore" in at else ""
        self.rows.image.append(image)
        self.rows.label.append(known)
        self.rows.line.append(line)
        self.rows.box.extend(box)
        self.rows.ignore.append(mark not in ("", "0", "0.0", "false", "-1"))

    def _image(self, name: str, line: int, cells: list[str]) -> int:
        rows = self.rows
        image = self.of_image.setdefault(name, len(rows.images))
        if image == len(rows.images):
            rows.images.append(name)
            rows.lines.append(line)
            at = rows.header.at
            if "width" in at and "height" in at:
                size = [number(cells[at[key]]) for key in ("width", "height")]
                w, h = size
                if w is not None and h is not None and 1 <= w < 1e6 and 1 <= h < 1e6:
                    rows.sizes[image] = (int(w), int(h))
        return image

    def _box(self, texts: list[str], line: int) -> list[float] | None:
        if self.rows.header.fractions:
            # Spreadsheets of some countries write 0,5; in fractions a comma means nothing else.
            texts = [t.replace(",", ".") for t in texts]
        box = []
        for side, text in zip(SIDES, texts, strict=True):
            value = number(text)
            if value is None:
                self._reject(line, "not_a_number", side, text, f"{side} is {text[:60]!r}")
                return None
            box.append(value)
        return box

    def _reject(self, line: int, code: str, what: str, value: str, text: str) -> None:
        self.intake.reject(self.file, line, code, what, value, text)


def read_classes(file: Path) -> list[str]:
    """Class names of a classes.csv (rows `name,id`, ids from 0 without gaps), by id."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            rows = [r for r in csv.reader(_lines(stream, file), strict=True) if r]
    except OSError as error:
        raise Error(f"load: {file}: {error.strerror or error}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise Error(f"load: {file}: {error}") from error
    by_id = {r[1].strip(): r[0] for r in rows if len(r) == 2}
    names = [by_id.get(str(i), "") for i in range(len(rows))]
    if "" in names or len(set(names)) < len(names):
        raise Error(f"load: {file}: rows of a name and its number, 0 to {len(rows) - 1}, needed")
    return names


def _header(cells: list[str]) -> Header | None:
    """Where the columns are, by the first row; None where it is neither a header nor a box."""
    words = [re.sub(r"[\s_.-]+", "", c).lower() for c in cells]
    at: dict[str, int] = {}
    for key, known in _WORDS.items():
        found = [i for i, w in enumerate(words) if w in known]
        if found:
            at[key] = found[0]
    if {"image", "class", *SIDES} <= set(at):
        return Header(at, fractions="imageid" in words and "xmin" in words)
    # x1 y1 x2 y2 of headless files are numbers, or all empty.
    if len(cells) == 6 and cells[0].strip():
        numbers = [number(c) for c in cells[1:5]]
        if None not in numbers or not any(c.strip() for c in cells[1:]):
            return Header(dict(_HEADLESS), rows=0)
    return None


def _has_header(file: Path) -> bool:
    """Whether a file's first row is a header of ours; any other csv may lie in a folder."""
    try:
        with file.open("rb") as stream:
            first = stream.readline(MAX_ROW_BYTES).decode("utf-8-sig", "replace")
        header = _header(next(csv.reader([first], delimiter=max(",;\t", key=first.count)), []))
    except (OSError, csv.Error):
        return False
    return header is not None and header.rows == 1


def _columns(rows: Rows, file: Path, names: list[str], intake: Intake) -> Columns:
    """The boxes, their classes as labels; those of other classes become defects."""
    order = {name: i for i, name in enumerate(names)}
    of_label = np.array([order.get(n, -1) for n in rows.labels] or [-1], np.int64)
    own = np.frombuffer(rows.label, np.int64) if rows.label else np.zeros(0, np.int64)
    label = of_label[own]
    for i in np.flatnonzero(label < 0).tolist():
        name = rows.labels[rows.label[i]]
        text = f"class {name!r} is none of {names}"
        intake.reject(file, rows.line[i], "class_unknown", "class", name, text)
    return Columns(
        np.asarray(rows.image, np.int64),
        label,
        np.asarray(rows.box, np.float64).reshape(-1, 4),
        np.frombuffer(bytes(rows.ignore), np.bool_),
        np.asarray(rows.line, np.int64),
        "box",
    )


def _in_pixels(found: Found, picture: Picture) -> Found:
    x0, y0, x1, y1 = found.corners
    width, height = picture.width, picture.height
    return found._replace(corners=(x0 * width, y0 * height, x1 * width, y1 * height))


def _split_of(file: Path) -> str:
    """The split that a file's name states."""
    if file.name == EXPORT:
        return file.parent.name
    return _AROUND.sub("", file.stem.lower()) or file.stem


def _only_split(file: Path) -> str:
    """The split of a file that has no others beside it: "train" unless its name is another's."""
    name = split_name(_split_of(file))
    return name if name in SPLITS else "train"


def _common_root(folder: Path) -> Path:
    """The folder of a lone file's data set: the one above where that holds the images."""
    above = folder.parent
    return above if (above / "images").is_dir() or (above / "JPEGImages").is_dir() else folder
