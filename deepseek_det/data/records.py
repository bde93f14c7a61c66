"""Records of images and boxes, and the checks that every reader of a format passes them through.

A reader knows a layout on disk; what a sound box, path or image is stands here, once. A label that
fails a check becomes a `Defect` and is left out; nothing is repaired in silence except rounding:
an edge that is up to half a pixel outside of its image is moved onto the border.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from deepseek_det.data.decode import ImageError, Picture, probe

SLOP_PX = 0.5
"""How far an edge may stand outside of the image and still count as rounding (YOLO files carry
six decimals, COCO files two)."""

IMAGE_SUFFIXES = frozenset(
    f".{s}"
    for s in (
        *("jpg", "jpeg", "jpe", "mpo", "png", "bmp", "dib", "gif", "webp", "tif", "tiff"),
        *("ppm", "pgm", "pbm", "pnm", "jp2", "j2k", "avif"),
    )
)

CODES = {
    "annotation_missing": "the split names an image that has no annotation file",
    "box_missing": "an object without bndbox or bbox",
    "box_negative": "an edge left of or above the image",
    "box_not_finite": "a coordinate that is NaN or infinite",
    "box_outside": "an edge right of or below the image",
    "box_reversed": "xmax < xmin or ymax < ymin, or a negative width or height",
    "box_zero_area": "a box without width or height",
    "category_duplicate": "two categories with one id or one name",
    "class_unknown": "a class that the data set's names do not hold",
    "encoding": "a label file that is not UTF-8 text",
    "field_count": "a row with another number of fields than its format has",
    "field_missing": "a key or element that has to be there",
    "field_type": "a value of another type than the format asks for",
    "id_duplicate": "an id that was used before",
    "id_range": "an id that is not an integer from 0 to 2^53",
    "image_duplicate": "an image that the split lists twice",
    "image_missing": "labels, or a list, that name an image which is not there",
    "image_too_large": "an image beyond the size limit",
    "image_unknown": "an annotation of an image that the file does not list",
    "image_unreadable": "an image that cannot be read: empty, truncated, or no image",
    "link_outside": "a file that is a link out of the data set's folder",
    "not_a_number": "text where a number has to be",
    "path_outside": "a path that leaves the data set's folder",
    "xml_dtd": "an XML file with a DTD or entities",
    "xml_structure": "an XML file that is not a VOC annotation",
    "xml_syntax": "an XML file that cannot be parsed",
}
"""Every code that a `Defect` of `Dataset.rejected` can carry, with its meaning."""


@dataclass(frozen=True, slots=True)
class Defect:
    """One thing that is wrong in a data set, and where.

    file, line: the file that holds it (`line` counts from 1; 0 = the file as a whole); code: the
    reason, a key of `CODES`; field, value: what was wrong, as written; text: the sentence.

    >>> print(Defect("a.xml", 7, "box_zero_area", "bndbox", "5 5 5 9", "no width"))
    a.xml:7: box_zero_area: no width
    """

    file: str
    line: int
    code: str
    field: str
    value: str
    text: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.code}: {self.text}"

    def to_dict(self) -> dict[str, Any]:
        """The fields as a dictionary that `json` can write."""
        return asdict(self)


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """One image of a data set with its checked boxes.

    path: the image file; id: the format's own (COCO: integer; else the name without suffix);
    width, height: pixels as displayed, EXIF orientation applied; boxes: (n, 4) float32
    x0 y0 x1 y1 in pixels, half-open, inside of the image and of positive area; labels: (n,) int32
    indices into `Dataset.names`; ignore: (n,) bool, regions that neither train nor count (COCO's
    crowds, VOC's difficult objects).
    """

    path: Path
    id: int | str
    width: int
    height: int
    boxes: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int32]
    ignore: npt.NDArray[np.bool_]


class Sample(NamedTuple):
    """What `dataset[i]` returns: image (H, W, 3) uint8 RGB, boxes (n, 4) float32, labels (n,)."""

    image: npt.NDArray[np.uint8]
    boxes: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Federated:
    """What LVIS says about which classes were looked for.

    negative, partial: by image id the category ids that are known to be absent
    (neg_category_ids), and those of which perhaps not every object is labelled
    (not_exhaustive_category_ids); frequency: by category id "r", "c" or "f".
    """

    negative: Mapping[int | str, Sequence[int]] = field(default_factory=dict)
    partial: Mapping[int | str, Sequence[int]] = field(default_factory=dict)
    frequency: Mapping[int, str] = field(default_factory=dict)


class Table(NamedTuple):
    """What a reader returns: class names, their original ids, the records in order.

    federated: LVIS' lists, None for other formats; unread: {what the files hold and records do
    not: how often}, such as masks.
    """

    names: list[str]
    categories: list[int]
    records: list[Record]
    federated: Federated | None = None
    unread: Mapping[str, int] = {}


class Found(NamedTuple):
    """One raw box of a reader: corners in pixels of the frame in which it was drawn.

    line, field, value: where it stands and what is written there, for a defect's message.
    """

    corners: tuple[float, float, float, float]
    label: int
    ignore: bool
    line: int
    field: str
    value: object


class Columns:
    """The raw boxes of a file that holds those of many images, by columns instead of objects.

    image: (n,) number of the image that a box belongs to; label: (n,), negative for a box to leave
    out; box: (n, 4) as written, corners or (`xywh`) corner and size; ignore: (n,) bool; line:
    (n,). A file of a million boxes stays near its own size this way; `Found` objects are made an
    image at a time.
    """

    def __init__(
        self,
        image: npt.NDArray[Any],
        label: npt.NDArray[Any],
        box: npt.NDArray[np.float64],
        ignore: npt.NDArray[np.bool_],
        line: npt.NDArray[Any],
        field: str,
        xywh: bool = False,
    ) -> None:
        self.label, self.box, self.ignore, self.line = label, box, ignore, line
        self.field, self.xywh = field, xywh
        kept = np.flatnonzero(label >= 0)
        self.order = kept[np.argsort(image[kept], kind="stable")]
        self.sorted = image[self.order]

    def of(self, image: int) -> list[Found]:
        """The boxes of one image, in the file's order."""
        low, high = np.searchsorted(self.sorted, [image, image + 1]).tolist()
        rows = self.order[low:high]
        found = []
        for at, (a, b, c, d) in zip(rows.tolist(), self.box[rows].tolist(), strict=True):
            corners = (a, b, a + c, b + d) if self.xywh else (a, b, c, d)
            label, ignore = int(self.label[at]), bool(self.ignore[at])
            line = int(self.line[at])
            found.append(Found(corners, label, ignore, line, self.field, (a, b, c, d)))
        return found


_NUMBER = re.compile(r"[+-]?(?:(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|nan|inf(?:inity)?)", re.I)


def number(text: str) -> float | None:
    """The number that `text` spells, None where it spells none (`float` would take `1_0`).

    >>> number("1e2"), number("1_0"), number("")
    (100.0, None, None)
    """
    text = text.strip()
    return float(text) if _NUMBER.fullmatch(text) and text.isascii() else None


def natural(text: str) -> list[tuple[int, int, str]]:
    """Sort key under which `img2` comes before `img10`.

    >>> sorted(["b10", "b9", "a"], key=natural)
    ['a', 'b9', 'b10']
    """
    parts = re.split(r"([0-9]+)", text)
    return [(0, int(p), p) if p[:1].isdecimal() and p.isascii() else (1, 0, p) for p in parts if p]


class Intake:
    """Takes what a reader found, lets the sound part through and keeps the rest as defects.

    rejected: what was left out; notes: what was kept but deserves a look (`check` shows both).
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.rejected: list[Defect] = []
        self.notes: list[Defect] = []

    def reject(
        self, file: Path, line: int, code: str, field: str, value: object, text: str
    ) -> None:
        """Keeps a defect; `code` has to stand in `CODES`."""
        assert code in CODES, code
        self.rejected.append(Defect(str(file), line, code, field, _short(value), text))

    def note(self, file: Path, line: int, code: str, field: str, value: object, text: str) -> None:
        """Keeps a remark about something that stays in."""
        self.notes.append(Defect(str(file), line, code, field, _short(value), text))

    def inside(
        self, folder: Path, name: str, file: Path, line: int, field: str, root: Path | None = None
    ) -> Path | None:
        """`folder / name`, or None and a defect where that would leave `root` (or the data set)."""
        reason = outside_reason(root or self.root, folder, name)
        if reason is not None:
            self.reject(file, line, "path_outside", field, name, f"path {_short(name)!r} {reason}")
            return None
        # Folders within the name; the file itself is judged when it is opened.
        place = folder
        for part in Path(name).parts[:-1]:
            place = place / part
            if not self.followed(place, file, line, field):
                return None
        return folder / name

    def followed(self, path: Path, file: Path, line: int, field: str) -> bool:
        """Whether `path` may be opened: no link, or one that stays; else False and a defect.

        A link stays when its target lies in the data set's folder, or in the folder in which it
        stands (so the user may place a whole folder of images elsewhere and link that).
        """
        if not path.is_symlink():
            return True
        target = Path(os.path.realpath(path))
        for base in (self.root, path.parent):
            if Path(os.path.realpath(base)) in target.parents:
                return True
        text = f"{self.name(path)} is a link that leaves the data set's folder, to {target}"
        self.reject(file, line, "link_outside", field, path.name, text)
        return False

    def picture(self, path: Path, file: Path, line: int, field: str = "") -> Picture | None:
        """The image's header, or None and a defect. file, line: where the image is named."""
        if not self.followed(path, file, line, field or "image"):
            return None
        try:
            picture = probe(path)
        except ImageError as error:
            if error.code == "image_missing":
                text = f"no image {self.name(path)}"
                self.reject(file, line, error.code, field or "image", path.name, text)
            else:
                self.reject(path, 0, error.code, "image", path.name, error.reason)
            return None
        if picture.frames > 1:
            text = f"{picture.frames} frames, only the first is used"
            self.note(path, 0, "image_animated", "frames", picture.frames, text)
        return picture

    def name(self, path: Path) -> str:
        """`path` relative to the data set where it lies inside."""
        try:
            return str(path.relative_to(self.root))
        except ValueError:
            return str(path)

    def record(
        self,
        path: Path,
        id: int | str,
        picture: Picture,
        declared: tuple[int, int] | None,
        found: Iterable[Found],
        file: Path,
        line: int = 0,
    ) -> Record:
        """A record of the boxes that pass.

        declared: (width, height) that the labels' file states, None where it states none. Where it
        equals the stored size of a photo whose EXIF tag turns it by 90 degrees, the boxes were
        drawn on the unturned pixels and are turned with them.
        """
        width, height = picture.width, picture.height
        turn = 0
        if declared is not None and declared != (width, height):
            if declared == picture.stored:
                turn = picture.orientation
                text = "boxes were drawn on the unrotated photo; they are rotated with it (EXIF)"
                self.note(file, line, "exif_turned", "size", _by(declared), text)
            else:
                text = f"size says {_by(declared)}, the image is {_by((width, height))}"
                self.note(file, line, "size_differs", "size", _by(declared), text)
        frame = picture.stored if turn else (width, height)
        kept: list[tuple[float, ...]] = []
        labels: list[int] = []
        ignore: list[bool] = []
        for item in found:
            corners = self._corners(item, frame, file)
            if corners is not None:
                kept.append(turn_box(corners, turn, frame))
                labels.append(item.label)
                ignore.append(item.ignore)
        return Record(
            path=path,
            id=id,
            width=width,
            height=height,
            boxes=np.asarray(kept, np.float32).reshape(-1, 4),
            labels=np.asarray(labels, np.int32),
            ignore=np.asarray(ignore, np.bool_),
        )

    def _corners(
        self, item: Found, frame: tuple[int, int], file: Path
    ) -> tuple[float, float, float, float] | None:
        """The box clipped by at most SLOP_PX, or None and a defect."""
        x0, y0, x1, y1 = item.corners
        width, height = frame
        code, text = "", ""
        if not all(map(math.isfinite, item.corners)):
            code, text = "box_not_finite", "not finite"
        elif x1 < x0 or y1 < y0:
            code, text = "box_reversed", "its ends are reversed"
        elif x1 == x0 or y1 == y0:
            code, text = "box_zero_area", "it has no area"
        elif x0 < -SLOP_PX or y0 < -SLOP_PX:
            code, text = "box_negative", f"it starts outside of the {_by(frame)} image"
        elif x1 > width + SLOP_PX or y1 > height + SLOP_PX:
            code, text = "box_outside", f"it ends outside of the {_by(frame)} image"
        else:
            corners = (max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height)))
            # float32 is finer than 1/256 px up to the decoder's limit: only less can vanish in it.
            if min(corners[2] - corners[0], corners[3] - corners[1]) > 1 / 256:
                return corners
            as_f32 = np.asarray(corners, np.float32)
            if as_f32[2] > as_f32[0] and as_f32[3] > as_f32[1]:
                return corners
            code, text = "box_zero_area", "it has no area inside of the image"
        self.reject(
            file, item.line, code, item.field, item.value, f"box {_short(item.value)}: {text}"
        )
        return None


def outside_reason(root: Path, folder: Path, name: str) -> str | None:
    """Why `folder / name` may not be read for the data set at `root`; None where it may.

    Judged by the words of the path, not by the disk: a link that the user placed in the folder is
    the user's will, a name in a file is not.
    """
    if not name:
        return "is empty"
    if "\0" in name:
        return "holds a NUL"
    if PurePosixPath(name).is_absolute() or PureWindowsPath(name).drive:
        target = Path(os.path.normpath(name))
    else:
        target = Path(os.path.normpath(folder / name))
    base = Path(os.path.normpath(root))
    if target != base and base not in target.parents:
        return "leaves the data set's folder"
    return None


def turn_box(
    box: tuple[float, float, float, float], orientation: int, frame: tuple[int, int]
) -> tuple[float, float, float, float]:
    """A box of the stored frame (width, height) as it lies after EXIF `orientation` 5 to 8.

    >>> turn_box((1, 2, 3, 5), 6, (10, 20))
    (15, 1, 18, 3)
    """
    x0, y0, x1, y1 = box
    width, height = frame
    if orientation == 5:
        return y0, x0, y1, x1
    if orientation == 6:
        return height - y1, x0, height - y0, x1
    if orientation == 7:
        return height - y1, width - x1, height - y0, width - x0
    if orientation == 8:
        return y0, width - x1, y1, width - x0
    return box


class Classes:
    """Turns a format's own class ids into labels 0..n-1, and refuses the others.

    names, ids: what the format declares, in its order. chosen: the user's `names=`; they fix the
    order, and a class that is not among them becomes unknown.
    """

    def __init__(
        self, names: Sequence[str], ids: Sequence[int], chosen: Sequence[str] | None = None
    ) -> None:
        own = dict(zip(names, ids, strict=True))
        self.names = list(names if chosen is None else chosen)
        self.categories = [own.get(n, -1) for n in self.names]
        # A name that the file does not know still needs an id of its own, for writing COCO files.
        free = max([-1, *ids]) + 1
        for i, category in enumerate(self.categories):
            if category < 0:
                self.categories[i], free = free, free + 1
        order = {n: i for i, n in enumerate(self.names)}
        self._label = {k: order[n] for n, k in own.items() if n in order}

    def label(self, id: int) -> int | None:
        """The label of a format's id, None where it is unknown."""
        return self._label.get(id)


def as_names(names: Sequence[str] | None, who: str) -> list[str] | None:
    """The user's `names=` checked: strings, none empty, none twice."""
    if names is None:
        return None
    if isinstance(names, str):
        raise TypeError(f"{who}: names is the string {names!r}, a list of strings was needed")
    result = list(names)
    for name in result:
        if not isinstance(name, str):
            raise TypeError(f"{who}: names holds {name!r}, strings were needed")
    if not result or "" in result or len(set(result)) < len(result):
        raise ValueError(f"{who}: names has to hold different, non-empty strings, got {result!r}")
    return result


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _short(value: object, limit: int = 120) -> str:
    """A value as text for a message: one line, printable, bounded."""
    text = str(value)
    text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text[: limit + 1])
    return text if len(text) <= limit else text[: limit - 3] + "..."
