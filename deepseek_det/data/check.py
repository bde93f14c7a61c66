"""Looks for what is wrong, or odd, in a data set before time is spent on training.

A *defect* is a label or an image that `load` leaves out, or an image whose pixels do not decode: a
data set with one fails the check. A *warning* stays in and may be right: the same photo twice, two
boxes on one object, an image that lacks a class all others have.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from deepseek_det.data.datasets import Dataset, box_areas, load, recognise
from deepseek_det.data.decode import ImageError, decode
from deepseek_det.data.records import CODES, IMAGE_SUFFIXES, Defect, Record
from deepseek_det.data.similar import THUMB_PX, near_pairs, normalized, thumbnail
from deepseek_det.errors import Error

NEAR_IOU = 0.8
"""Two boxes of one class beyond this overlap are taken for one object labelled twice."""
TINY_PX = 4.0
"""A box whose shorter side is below this at the training size leaves little to learn from."""
NEAR_LIMIT = 100_000
"""Beyond this many images only equal bytes are looked for: pairs grow with the square."""
USUAL, USUAL_IMAGES = 0.9, 20
"""A class that this share of at least so many images has is missed where it is absent."""

WARNINGS = {
    "box_at_border": "a box that touches the image's border, perhaps cut off",
    "box_near_duplicate": f"two boxes of one class with IoU > {NEAR_IOU}",
    "box_tiny": f"a box with a side below {TINY_PX:g} px at the training size",
    "class_absent": f"an image without a class that {USUAL:.0%} of the images have",
    "class_without_boxes": "a class that no image of the split has",
    "exif_turned": "a rotated photo with boxes drawn on the unrotated pixels",
    "field_missing": "a field that was made up for from the image's header",
    "field_type": "a field that was made up for from the image's header",
    "filename_differs": "an annotation whose <filename> is another image",
    "image_animated": "an image with several frames, of which the first is used",
    "image_empty": "an image without boxes",
    "image_gray": "an image without colour",
    "image_near_twin": "two images that look the same",
    "image_twin": "two image files with equal bytes",
    "image_unlabelled": "images in the data set's folders that no split lists",
    "labels_missing": "an image without label file",
    "near_twins_skipped": "too many images to compare each with each",
    "size_differs": "a stated size that is not the image's",
    "split_leak": "an image that is in two splits",
    "split_same": "two splits with the same images",
}
"""Every code of a warning, with its meaning; those of defects stand in `records.CODES`."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding: level "defect" or "warning", the split, and the fields of a `Defect`."""

    level: str
    split: str
    file: str
    line: int
    code: str
    field: str
    value: str
    text: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.text}"


@dataclass(slots=True)
class Report:
    """What `check` found. ok: no defect; str(report) is for people, to_dict() for programs."""

    path: Path
    format: str
    imgsz: int
    splits: dict[str, dict[str, Any]] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    @property
    def defects(self) -> list[Finding]:
        """The findings of level "defect"."""
        return [f for f in self.findings if f.level == "defect"]

    @property
    def warnings(self) -> list[Finding]:
        """The findings of level "warning"."""
        return [f for f in self.findings if f.level == "warning"]

    @property
    def ok(self) -> bool:
        """Whether there is no defect."""
        return not self.defects

    def count(self, code: str, split: str | None = None) -> int:
        """How many findings carry a code, in one split or in all."""
        return sum(f.code == code and split in (None, f.split) for f in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Everything as dictionaries and lists that `json` can write."""
        return {
            "path": str(self.path),
            "format": self.format,
            "imgsz": self.imgsz,
            "ok": self.ok,
            "counts": dict(Counter(f.code for f in self.findings)),
            "splits": self.splits,
            "findings": [asdict(f) for f in self.findings],
        }

    def to_json(self) -> str:
        """`to_dict` as one line of JSON."""
        return json.dumps(self.to_dict())

    def __str__(self) -> str:
        return self.text()

    def text(self, limit: int = 5) -> str:
        """The report as text, with the first `limit` findings of each code."""
        lines = [f"{self.path}: {self.format} layout"]
        for name, split in self.splits.items():
            lines.append(f"  {name}: {split['images']} images, {split['boxes']} boxes")
            width = max([5, *(len(c) for c in split["classes"])])
            lines += [f"    {c:{width}} {n:7d}" for c, n in split["classes"].items() if n]
            recall = split.get("best_recall")
            if recall:
                parts = ", ".join(f"{k} {v:.3f}" for k, v in recall.items() if v is not None)
                lines.append(f"    best possible recall of the anchors at {self.imgsz}: {parts}")
        for level, title in (("defect", "DEFECTS, left out"), ("warning", "warnings")):
            every = [f for f in self.findings if f.level == level]
            lines.append(f"{title}: {len(every)}")
            for code, count in Counter(f.code for f in every).most_common():
                meaning = (CODES if level == "defect" else WARNINGS).get(code, "")
                lines.append(f"  {count} x {code}: {meaning}")
                first = [f for f in every if f.code == code][:limit]
                lines += [f"    {f}" for f in first]
                if count > len(first):
                    lines.append(f"    and {count - len(first)} more")
        return "\n".join(lines)


def check(
    path: str | os.PathLike[str],
    split: str | None = None,
    imgsz: int = 320,
    images: str | os.PathLike[str] | None = None,
    voc_one_based: bool | None = None,
    workers: int | None = None,
) -> Report:
    """Checks a data set: every defect, and what is odd. Reads and decodes all images.

    path, images, voc_one_based: as for `load`. split: one split, all by default. imgsz: the
    training size in pixels, for tiny boxes and the anchors' recall. workers: decoding threads.
    Raises `Error` where there is no data set at all; a split without a usable image is a finding.

    >>> import tempfile
    >>> from deepseek_det.data import synthetic
    >>> report = check(synthetic(tempfile.mkdtemp() + "/shapes", n=3))
    >>> report.ok, report.splits["test"]["images"]
    (True, 1)
    """
    if not 32 <= imgsz <= 8192:
        raise ValueError(f"check: imgsz is {imgsz}, 32 to 8192 was needed")
    layout = recognise(path, images)
    report = Report(layout.root, layout.format, imgsz)
    wanted = layout.splits() if split is None else [split]
    if split is None and {"train", "val", "trainval"} <= set(wanted):
        wanted.remove("trainval")  # holds nothing that train and val do not
    seen: dict[str, dict[Path, str]] = {}
    for name in wanted:
        try:
            data = load(path, name, images=images, voc_one_based=voc_one_based)
        except Error as error:
            if split is not None:
                raise
            empty = Defect(str(layout.root), 0, "split_unusable", "split", name, str(error))
            _add(report, "defect", name, [empty])
            continue
        same = [s for s, files in seen.items() if set(files) == {r.path for r in data.records}]
        if same:
            text = f"split {name!r} has the images of {same[0]!r}: figures on it show memory"
            note = Defect(str(layout.root), 0, "split_same", "split", name, text)
            _add(report, "warning", name, [note])
            continue
        _check_split(report, name, data, imgsz, workers, seen)
    if split is None:
        _add(report, "warning", "", list(_unlisted(report, seen)))
    return report


def _unlisted(report: Report, seen: dict[str, dict[Path, str]]) -> Iterator[Defect]:
    """Folders of the data set's images that hold images which no split lists."""
    listed = {path for files in seen.values() for path in files}
    told = {Path(f.file).name for f in report.defects} | {f.value for f in report.defects}
    for folder in sorted({path.parent for path in listed}):
        more = sorted(
            p.name
            for p in folder.iterdir()
            if p.suffix.lower() in IMAGE_SUFFIXES and p not in listed and p.name not in told
        )
        if more:
            first = ", ".join(more[:3])
            text = f"{len(more)} images that no split lists: {first}"
            yield Defect(str(folder), 0, "image_unlabelled", "images", str(len(more)), text)


def _add(report: Report, level: str, split: str, defects: Sequence[Defect]) -> None:
    report.findings += [
        Finding(level, split, d.file, d.line, d.code, d.field, d.value, d.text) for d in defects
    ]


def _check_split(
    report: Report,
    name: str,
    data: Dataset,
    imgsz: int,
    workers: int | None,
    seen: dict[str, dict[Path, str]],
) -> None:
    _add(report, "defect", name, data.rejected)
    _add(report, "warning", name, data.notes)
    looks = _look_at(data.records, workers)
    _add(report, "defect", name, [look.defect for look in looks if look.defect is not None])
    _add(report, "warning", name, list(_image_warnings(data, looks)))
    _add(report, "warning", name, list(_box_warnings(data, imgsz)))
    _add(report, "warning", name, list(_class_warnings(data)))
    hashes = {r.path: look.hash for r, look in zip(data.records, looks, strict=True)}
    for other, files in seen.items():
        by_hash = {h: path for path, h in files.items()}
        twins = [(path, by_hash[h]) for path, h in hashes.items() if h in by_hash]
        leaks = [
            Defect(str(a), 0, "split_leak", "image", a.name, f"is {b} of split {other!r} too")
            for a, b in twins
        ]
        _add(report, "warning", name, leaks)
    seen[name] = hashes
    counts = dict(zip(data.names, data.counts().tolist(), strict=True))
    report.splits[name] = {
        "images": len(data),
        "boxes": data.n_boxes,
        "classes": counts,
        "best_recall": _best_recall(data, imgsz),
    }


@dataclass(slots=True)
class _Look:
    """What one full decode told of an image. thumb: THUMB_PX² values of mean 0 and length 1."""

    hash: str
    thumb: npt.NDArray[np.float32]
    gray: bool = False
    defect: Defect | None = None


def _look_at(records: Sequence[Record], workers: int | None) -> list[_Look]:
    count = workers if workers is not None else min(4, os.cpu_count() or 1)
    if count < 2:
        return [_look(r) for r in records]
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(_look, records))


def _look(record: Record) -> _Look:
    flat = np.zeros(THUMB_PX * THUMB_PX, np.float32)
    try:
        data = record.path.read_bytes()
        digest = hashlib.blake2b(data, digest_size=16).hexdigest()
        pixels = decode(record.path, say_frames=False)
    except ImageError as error:
        text = error.reason
        file = str(record.path)
        return _Look("", flat, defect=Defect(file, 0, error.code, "image", record.path.name, text))
    except OSError as error:
        text = error.strerror or str(error)
        file = str(record.path)
        return _Look("", flat, defect=Defect(file, 0, "image_unreadable", "image", "", text))
    gray = bool(
        (pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 1] == pixels[..., 2]).all()
    )
    return _Look(digest, normalized(thumbnail(pixels)), gray)


def _image_warnings(data: Dataset, looks: Sequence[_Look]) -> Iterator[Defect]:
    """Gray, empty, equal and similar images."""
    first: dict[str, int] = {}
    twins: set[tuple[int, int]] = set()
    for i, (record, look) in enumerate(zip(data.records, looks, strict=True)):
        file = str(record.path)
        if look.gray:
            yield Defect(file, 0, "image_gray", "image", record.path.name, "has no colour")
        if not len(record.boxes):
            yield Defect(file, 0, "image_empty", "image", record.path.name, "has no boxes")
        if not look.hash:
            continue
        other = first.setdefault(look.hash, i)
        if other != i:
            twins.add((other, i))
            twin = data.records[other]
            equal = np.array_equal(twin.boxes, record.boxes)
            equal = equal and np.array_equal(twin.labels, record.labels)
            text = f"equal bytes to {twin.path.name}, {'equal' if equal else 'different'} boxes"
            yield Defect(file, 0, "image_twin", "image", record.path.name, text)
    if len(looks) > NEAR_LIMIT:
        text = f"{len(looks)} images, more than {NEAR_LIMIT}: not searched for similar ones"
        yield Defect(str(data.root), 0, "near_twins_skipped", "images", str(len(looks)), text)
        return
    for a, b, alike in near_pairs([look.thumb for look in looks]):
        if (a, b) not in twins and looks[a].hash != looks[b].hash:
            file, other_name = str(data.records[b].path), data.records[a].path.name
            text = f"looks like {other_name} (correlation {alike:.4f})"
            yield Defect(file, 0, "image_near_twin", "image", data.records[b].path.name, text)


def _box_warnings(data: Dataset, imgsz: int) -> Iterator[Defect]:
    """Boxes labelled twice, at the border, or too small for the training size."""
    for record in data.records:
        file = str(record.path)
        boxes, labels = record.boxes.astype(np.float64), record.labels
        for a, b, iou in _overlaps(boxes, labels):
            name = data.names[int(labels[a])]
            text = f"two boxes {name} with IoU {iou:.2f}: {_box(boxes[a])} and {_box(boxes[b])}"
            yield Defect(file, 0, "box_near_duplicate", "boxes", name, text)
        size = np.array([record.width, record.height], np.float64)
        border = (boxes[:, :2] <= 0).any(1) | (boxes[:, 2:] >= size).any(1)
        border &= ~record.ignore
        short = (boxes[:, 2:] - boxes[:, :2]).min(1) if len(boxes) else np.zeros(0)
        tiny = (short * (imgsz / size.max()) < TINY_PX) & ~record.ignore
        for i in np.flatnonzero(border):
            name = data.names[int(labels[i])]
            text = f"box {name} {_box(boxes[i])} touches the border"
            yield Defect(file, 0, "box_at_border", "boxes", name, text)
        for i in np.flatnonzero(tiny):
            name = data.names[int(labels[i])]
            text = f"box {name} {_box(boxes[i])} is {short[i] * imgsz / size.max():.1f} px wide"
            text += f" or high at {imgsz}"
            yield Defect(file, 0, "box_tiny", "boxes", name, text)


def _overlaps(
    boxes: npt.NDArray[np.float64], labels: npt.NDArray[np.int32]
) -> Iterator[tuple[int, int, float]]:
    """Pairs a < b of one class with IoU beyond NEAR_IOU."""
    if len(boxes) < 2:
        return
    low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    both = np.clip(high - low, 0, None).prod(2)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    iou = both / (area[:, None] + area[None, :] - both)
    near = (iou > NEAR_IOU) & (labels[:, None] == labels[None, :])
    for a, b in np.argwhere(np.triu(near, 1)).tolist():
        yield a, b, float(iou[a, b])


def _class_warnings(data: Dataset) -> Iterator[Defect]:
    """Classes without boxes, and images that lack a class which nearly all others have."""
    counts = data.counts()
    root = str(data.root)
    for name, count in zip(data.names, counts, strict=True):
        if not count:
            text = f"class {name!r} has no box in split {data.split!r}"
            yield Defect(root, 0, "class_without_boxes", "names", name, text)
    has = np.zeros((len(data), len(data.names)), bool)
    for i, record in enumerate(data.records):
        has[i, record.labels] = True
    if len(data) < USUAL_IMAGES or len(data.names) < 2:
        return
    share = has.mean(0)
    for label in np.flatnonzero((share >= USUAL) & (share < 1)).tolist():
        for i in np.flatnonzero(~has[:, label]).tolist():
            name, path = data.names[label], data.records[i].path
            text = f"no {name}, which {share[label]:.0%} of the images have: not labelled?"
            yield Defect(str(path), 0, "class_absent", "names", name, text)


def _best_recall(data: Dataset, imgsz: int) -> dict[str, float | None]:
    """Best possible recall of the detector's anchors by object size, letterboxed to imgsz."""
    from deepseek_det import anchors, ops

    boxes, areas = [np.zeros((0, 4), np.float32)], [np.zeros(0, np.float32)]
    for record in data.records:
        own = record.boxes[~record.ignore]
        boxes.append(anchors.letterboxed(own, record.height, record.width, imgsz))
        areas.append(box_areas(own))
    return ops.best_possible_recall(np.concatenate(boxes), imgsz, areas=np.concatenate(areas))


def _box(box: npt.NDArray[np.float64]) -> str:
    return "[" + ", ".join(f"{v:g}" for v in box) + "]"
