"""What annotators do not agree on, as objects and as a file.

The file is COCO ground truth that other tools can open: an annotation a label, the agreed ones as
they are, a disputed one with the box of its first candidate and three fields more: `status`
("agreed" or "open"), `reason` and `candidates`. `info` says in which folder the images are.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepseek_det import _core
from deepseek_det.checkpoint import write_bytes
from deepseek_det.errors import Error
from deepseek_det.quality.sets import Image

if TYPE_CHECKING:
    from deepseek_det.quality.agreement import Agreement

FORMAT, VERSION = "deepseek_det disputes", 1
Box = tuple[float, float, float, float]

REASONS = {
    "class": "one place, different classes",
    "location": "one object, boxes that overlap too little",
    "only-in-one": "one annotator alone has it",
    "only-in-some": "several annotators have it, not all",
    "missing": "no label where the model sees an object",
    "spurious": "a label where the model sees nothing",
    "ambiguous": "nobody is clearly wrong: leave it out of the loss?",
}
"""Every reason of a dispute: the first four of `cross_check`, "missing" and "spurious" of `rank`,
which has "class" and "location" too; "ambiguous" of both."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One opinion. xyxy: pixels, half-open; name: the class; annotator: whose it is ("model" for
    a prediction); conf: the model's confidence."""

    xyxy: Box
    name: str
    annotator: str
    conf: float | None = None


@dataclass(frozen=True, slots=True)
class Dispute:
    """One object, or what some take for one, that a person has to decide on.

    id: from 1, in the order of images; image: its name; reason: a key of `REASONS`; candidates: at
    most one an annotator; suggestion: what most annotators (or the model) say: the position of a
    candidate, "drop" or "ignore", None where nothing speaks for either; score: how sure `rank` is
    that something is wrong, 0 to 1; text: why, for people.
    """

    id: int
    image: str
    reason: str
    candidates: tuple[Candidate, ...]
    suggestion: int | str | None = None
    score: float | None = None
    text: str = ""


@dataclass(frozen=True, slots=True)
class Agreed:
    """A label that nobody disputes: image, class, box, and whether it is an ignored region."""

    image: str
    name: str
    xyxy: Box
    ignore: bool = False


@dataclass(slots=True)
class CrossCheck:
    """Several annotators' labels of the same images: what they agree on and what not.

    annotators: their names; names, categories: the classes with their ids; iou: the overlap from
    which two boxes agree; images, agreed, disputes: in the order of the images; agreement: the
    figures, None for what was read from a file or ranked by a model; rejected: labels by annotator
    that are no sound boxes and were left out.

    >>> q = CrossCheck(["a", "b"], ["cat"], [1], 0.7, [], [], [])
    >>> len(q.disputes), q.by_reason()
    (0, {})
    """

    annotators: list[str]
    names: list[str]
    categories: list[int]
    iou: float
    images: list[Image]
    agreed: list[Agreed]
    disputes: list[Dispute]
    agreement: Agreement | None = None
    rejected: list[int] = field(default_factory=list)

    def by_reason(self) -> dict[str, int]:
        """How many disputes there are of each reason, most first."""
        return dict(Counter(d.reason for d in self.disputes).most_common())

    def digest(self) -> str:
        """16 hexadecimal digits that tell these disputes from others: decisions carry them."""
        rows = [
            [d.id, d.image, d.reason, [[*c.xyxy, c.name, c.annotator] for c in d.candidates]]
            for d in self.disputes
        ]
        text = json.dumps([self.names, rows], ensure_ascii=False)
        return hashlib.blake2b(text.encode("utf-8"), digest_size=8).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """Figures and counts that `json` can write; the disputes themselves are in `write`."""
        return {
            "annotators": self.annotators,
            "iou": self.iou,
            "images": len(self.images),
            "agreed": sum(not a.ignore for a in self.agreed),
            "disputes": len(self.disputes),
            "by_reason": self.by_reason(),
            "rejected": dict(zip(self.annotators, self.rejected, strict=False)),
            "agreement": None if self.agreement is None else self.agreement.to_dict(images=False),
        }

    def write(self, path: str | os.PathLike[str]) -> Path:
        """Writes the disputes as a JSON file, which finds its images relative to itself.

        Raises OSError where that can't be written.
        """
        target = Path(path)
        content = _content(self, target.resolve().parent)
        text = json.dumps(content, ensure_ascii=False, allow_nan=False)
        write_bytes(target, (text + "\n").encode("utf-8"))
        return target

    def page(
        self,
        path: str | os.PathLike[str],
        images: str = "embed",
        title: str = "",
    ) -> Path:
        """Writes the page on which a person decides; see `quality.page.write_page`."""
        from deepseek_det.quality.page import write_page

        return write_page(self, path, images, title)

    def __str__(self) -> str:
        return self.text()

    def text(self, limit: int = 5) -> str:
        """A report for people, with the images of least agreement."""
        agreed = sum(not a.ignore for a in self.agreed)
        lines = [
            f"{len(self.images)} images, annotators {', '.join(self.annotators)}: "
            f"{agreed} labels agreed at IoU {self.iou:g}, {len(self.disputes)} disputes"
        ]
        lines += [f"  {n:6d} x {r}: {REASONS[r]}" for r, n in self.by_reason().items()]
        for person, count in zip(self.annotators, self.rejected, strict=False):
            if count:
                lines.append(f"  {person}: {count} labels are no sound boxes and were left out")
        if self.agreement is not None:
            lines.append(self.agreement.text(limit))
        return "\n".join(lines)


# ---- the file -------------------------------------------------------------------------------


def _decimal(value: float) -> int | float:
    return int(value) if float(value).is_integer() else float(value)


def _row(id: int, image: int, category: int, box: Box, ignore: bool) -> dict[str, Any]:
    x0, y0, x1, y1 = box
    return {
        "id": id,
        "image_id": image,
        "category_id": category,
        "bbox": [_decimal(v) for v in (x0, y0, x1 - x0, y1 - y0)],
        "area": _decimal((x1 - x0) * (y1 - y0)),
        "iscrowd": int(ignore),
        "segmentation": [],
    }


def _content(q: CrossCheck, folder: Path) -> dict[str, Any]:
    number = {image.name: i for i, image in enumerate(q.images, 1)}
    category = dict(zip(q.names, q.categories, strict=True))
    rows = []
    # Disputes first: a dispute's id is its annotation's.
    for d in q.disputes:
        first = d.candidates[0]
        row = _row(d.id, number[d.image], category[first.name], first.xyxy, False)
        row |= {"status": "open", "reason": d.reason, "suggestion": d.suggestion}
        row |= {"score": d.score, "text": d.text}
        row["candidates"] = [
            {
                "annotator": c.annotator,
                "name": c.name,
                "category_id": category[c.name],
                "xyxy": [_decimal(v) for v in c.xyxy],
                "conf": c.conf,
            }
            for c in d.candidates
        ]
        rows.append(row)
    free = max((d.id for d in q.disputes), default=0) + 1
    parents = [str(image.path.resolve().parent) for image in q.images]
    root = Path(os.path.commonpath(parents) if parents else folder)
    for i, a in enumerate(q.agreed, free):
        row = _row(i, number[a.image], category[a.name], a.xyxy, a.ignore)
        rows.append({**row, "xyxy": [_decimal(v) for v in a.xyxy], "status": "agreed"})
    return {
        "info": {
            "format": FORMAT,
            "version": VERSION,
            "digest": q.digest(),
            "images": Path(os.path.relpath(root, folder)).as_posix(),
            "iou": q.iou,
            "annotators": q.annotators,
            "agreement": None if q.agreement is None else q.agreement.to_dict(images=False),
        },
        "images": [
            {
                "id": i,
                "file_name": image.path.resolve().relative_to(root).as_posix(),
                "width": image.width,
                "height": image.height,
                "name": image.name,
                "split": image.split,
                "source_id": image.id,
            }
            for i, image in enumerate(q.images, 1)
        ],
        "annotations": rows,
        "categories": [
            {"id": k, "name": n, "supercategory": ""}
            for n, k in zip(q.names, q.categories, strict=True)
        ],
    }


def parse_json(path: Path, who: str) -> Any:
    """A JSON file by the strict reader: no key twice, no NaN. Raises Error with file and line."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise Error(f"{who}: {path}: {error.strerror or error}") from error
    return _core.json_parse(text, str(path))


def read_disputes(path: str | os.PathLike[str]) -> CrossCheck:
    """Reads a file that `CrossCheck.write` wrote; images are looked for relative to its folder.

    Raises Error where it is no such file or does not hold together.
    """
    file = Path(path)
    content = parse_json(file, "read_disputes")
    try:
        return _from_content(content, file.resolve().parent)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise Error(
            f"read_disputes: {file}: {type(error).__name__} {error}: not as this version writes it"
        ) from None


def _from_content(content: Any, folder: Path) -> CrossCheck:
    info = content["info"]
    if info["format"] != FORMAT or info["version"] != VERSION:
        raise ValueError(f"format {info['format']!r} version {info['version']!r}")
    names = {int(c["id"]): str(c["name"]) for c in content["categories"]}
    images: dict[int, Image] = {}
    for row in content["images"]:
        place = Path(os.path.normpath(folder / str(info["images"]) / str(row["file_name"])))
        size = (int(row["width"]), int(row["height"]))
        id = row["source_id"] if isinstance(row["source_id"], int) else str(row["source_id"])
        images[int(row["id"])] = Image(str(row["name"]), str(row["split"]), id, place, *size)
    q = CrossCheck(
        [str(a) for a in info["annotators"]],
        list(names.values()),
        list(names),
        float(info["iou"]),
        list(images.values()),
        [],
        [],
    )
    for row in content["annotations"]:
        image = images[row["image_id"]].name
        if row["status"] == "agreed":
            name = names[row["category_id"]]
            q.agreed.append(Agreed(image, name, _box(row["xyxy"]), bool(row["iscrowd"])))
        else:
            q.disputes.append(_dispute(row, image, q.names))
    if q.digest() != info["digest"]:
        raise ValueError("the disputes are not those of its digest")
    return q


def _box(values: Sequence[Any]) -> Box:
    x0, y0, x1, y1 = (float(v) for v in values)
    if not (x0 < x1 and y0 < y1):
        raise ValueError(f"box {list(values)} has no area")
    return x0, y0, x1, y1


def _dispute(row: Any, image: str, names: Sequence[str]) -> Dispute:
    candidates = tuple(
        Candidate(_box(c["xyxy"]), names[names.index(c["name"])], str(c["annotator"]), c["conf"])
        for c in row["candidates"]
    )
    if not candidates or row["reason"] not in REASONS:
        raise ValueError(f"dispute {row['id']} has no candidates or an unknown reason")
    return Dispute(
        int(row["id"]),
        image,
        str(row["reason"]),
        candidates,
        row["suggestion"],
        row["score"],
        str(row["text"]),
    )
