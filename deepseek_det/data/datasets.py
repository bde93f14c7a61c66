"""Data sets: any layout on disk becomes checked records.

`load` finds the layout by itself, reads one split, and returns a `Dataset`. Nothing in the user's
folder is ever written. What is wrong in the files is never repaired in silence: it is left out and
listed in `Dataset.rejected`, or refused with `strict=True`.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from deepseek_det.data import coco, darknet, kitti, lvis, tables, voc, yolo
from deepseek_det.data.decode import decode
from deepseek_det.data.records import (
    CODES,
    Defect,
    Federated,
    Intake,
    Record,
    Sample,
    Table,
    as_names,
)
from deepseek_det.errors import Error

SMALL_PX, MEDIUM_PX = 32, 96
"""COCO's borders between small, medium and large: square roots of a box's area."""

_LOOKED_FOR = (
    "VOC (Annotations/*.xml with JPEGImages/ or images/, ImageSets/Main/<split>.txt; or *.xml "
    "beside the images, in <split>/ or alone), "
    "COCO (annotations/instances_<split>*.json, <split>/_annotations.coco.json, or a .json file), "
    "LVIS (lvis_*<split>.json), "
    "YOLO (data.yaml, obj.data, images/ beside labels/, or <split>/images beside <split>/labels), "
    "KITTI (image_2/ beside label_2/), CSV (<split>*.csv with a header)"
)


class Layout(Protocol):
    """What `load` needs of a format."""

    root: Path
    format: str

    def splits(self) -> list[str]:
        """Names of the splits that are there."""

    def read(
        self, split: str, intake: Intake, chosen: list[str] | None, one_based: bool | None
    ) -> Table:
        """Records of one split; what is wrong goes to `intake`."""


class Dataset:
    """One split of a data set: checked records, decoded on demand.

    root, split, format: where it comes from ("voc", "coco", "lvis", "yolo", "kitti" or "csv");
    names: class names, label i is names[i]; categories: the format's own class ids (0..n-1 where it
    has none); records: the images with their boxes; rejected: what was left out and why; notes:
    what stayed but deserves a look; federated: LVIS' lists; unread: what the files hold beyond
    boxes, counted. `len` and indexing work: `dataset[i]` decodes image i and leaves ignored regions
    out.
    """

    def __init__(
        self,
        root: str | Path,
        split: str,
        format: str,
        names: Sequence[str],
        categories: Sequence[int],
        records: Sequence[Record],
        rejected: Sequence[Defect] = (),
        notes: Sequence[Defect] = (),
        federated: Federated | None = None,
        unread: Mapping[str, int] | None = None,
    ) -> None:
        self.root = Path(root)
        self.split = split
        self.format = format
        self.names = list(names)
        self.categories = list(categories)
        self.records = list(records)
        self.rejected = list(rejected)
        self.notes = list(notes)
        self.federated = federated
        self.unread = dict(unread or {})

    def __len__(self) -> int:
        return len(self.records)

    def __repr__(self) -> str:
        return (
            f"Dataset({str(self.root)!r}, split={self.split!r}, format={self.format!r}, "
            f"{len(self)} images, {self.n_boxes} boxes, {len(self.names)} classes, "
            f"{len(self.rejected)} rejected)"
        )

    def __getitem__(self, index: int) -> Sample:
        record = self.records[index]
        keep = ~record.ignore
        return Sample(self.image(index), record.boxes[keep], record.labels[keep])

    @property
    def n_boxes(self) -> int:
        """Boxes of all images, ignored regions left out."""
        return int(self.counts().sum())

    def counts(self) -> npt.NDArray[np.int64]:
        """(classes,) boxes of each class, ignored regions left out."""
        labels = [r.labels[~r.ignore] for r in self.records]
        joined = np.concatenate([np.zeros(0, np.int32), *labels])
        return np.bincount(joined, minlength=len(self.names)).astype(np.int64)

    def image(self, index: int, shrink: int = 1) -> npt.NDArray[np.uint8]:
        """Decodes image `index` to (H, W, 3) uint8 RGB, EXIF orientation applied.

        shrink: 1, 2, 4 or 8; the size is ceil(size / shrink). Raises `Error` with the file's name
        where it cannot be decoded or is not the image that `load` saw.
        """
        record = self.records[index]
        pixels = decode(record.path, shrink, say_frames=False)
        expected = (-(-record.height // shrink), -(-record.width // shrink))
        if pixels.shape[:2] != expected:
            got = f"{pixels.shape[1]}x{pixels.shape[0]}"
            raise Error(
                f"image: {record.path}: {got} px, {expected[1]}x{expected[0]} was expected; "
                "the file has changed since it was read"
            )
        return pixels

    def subset(self, indices: Sequence[int], split: str | None = None) -> Dataset:
        """A data set of some of the records, in the order of `indices`; rejected stays here."""
        records = [self.records[i] for i in indices]
        split = self.split if split is None else split
        made = Dataset(self.root, split, self.format, self.names, self.categories, records)
        made.federated = self.federated
        return made

    def batches(
        self,
        imgsz: int,
        batch: int = 16,
        augment: bool = True,
        seed: int = 0,
        epoch: int = 0,
        workers: int | None = None,
    ) -> Iterator[tuple[npt.NDArray[np.uint8], list[npt.NDArray[np.float32]]]]:
        """The batches of one epoch: images (N, imgsz, imgsz, 3) uint8 and a list of N targets.

        A target is (n, 5) float32: class, x0 y0 x1 y1 in pixels of the letterboxed image. The
        stream is a function of seed, epoch and position only, whatever the number of workers.
        """
        # Training alone needs the loader and the C image code behind it.
        from deepseek_det.data.loader import batches

        return batches(self, imgsz, batch, augment, seed, epoch, workers)

    def report(self, limit: int = 3) -> str:
        """A text for people: counts by class, box sizes, defects by reason with the first few.

        limit: how many defects of each reason are listed with file and line.
        """
        counts = self.counts()
        lines = [f"{self.root} · {self.format} · split {self.split}: {len(self)} images, "]
        lines[0] += f"{self.n_boxes} boxes, {len(self.names)} classes"
        empty = sum(1 for r in self.records if not len(r.boxes))
        ignored = sum(int(r.ignore.sum()) for r in self.records)
        if empty:
            lines.append(f"  {empty} images without boxes")
        if ignored:
            lines.append(f"  {ignored} ignored regions (crowd or difficult)")
        sides = [np.sqrt(box_areas(r.boxes[~r.ignore])) for r in self.records]
        side = np.concatenate([np.zeros(0, np.float32), *sides])
        small, large = int((side < SMALL_PX).sum()), int((side >= MEDIUM_PX).sum())
        lines.append(
            f"  sizes: {small} small (< {SMALL_PX} px), {len(side) - small - large} medium, "
            f"{large} large (>= {MEDIUM_PX} px)"
        )
        width = max([5, *(len(n) for n in self.names)])
        for name, count in zip(self.names, counts, strict=True):
            remark = "" if count else "  (no boxes)"
            lines.append(f"  {name:{width}} {count:7d}{remark}")
        lines += defect_lines("left out", self.rejected, limit)
        lines += defect_lines("to look at", self.notes, limit)
        return "\n".join(lines)


def load(
    path: str | os.PathLike[str] | Dataset,
    split: str = "train",
    strict: bool = False,
    images: str | os.PathLike[str] | None = None,
    names: Sequence[str] | None = None,
    voc_one_based: bool | None = None,
) -> Dataset:
    """Reads one split of a data set in any layout of docs/data.md, which is found by itself.

    path: folder, data.yaml, json or csv file. split: its name; a single json or csv is the split
    that its file name states (`instances_val2017.json`: val), and "train", the default, as well.
    strict: refuse the data set where anything would be left out. images: folder of the images,
    where the layout does not say it. names: class names that replace those of the data, in this
    order; other classes become defects. voc_one_based: overrides what the VOC files say.
    Raises `Error` for an unknown layout, a missing or empty split, and what `strict` refuses.

    >>> import tempfile
    >>> from deepseek_det.data import synthetic
    >>> data = load(synthetic(tempfile.mkdtemp() + "/set", n=3), split="test")
    >>> data.format, len(data), data.names[:2]
    ('coco', 1, ['disk', 'square'])
    """
    if isinstance(path, Dataset):
        return path
    chosen = as_names(names, "load")
    _check_path(path)
    try:
        return _load(Path(path), split, strict, images, chosen, voc_one_based)
    except OSError as error:
        raise Error(f"load: {error.filename or path}: {error.strerror or error}") from error


def _load(
    path: Path,
    split: str,
    strict: bool,
    images: str | os.PathLike[str] | None,
    chosen: list[str] | None,
    one_based: bool | None,
) -> Dataset:
    """`load` after its arguments' types are checked; may raise OSError where reading fails."""
    layout = recognise(path, images)
    present = layout.splits()
    if path.is_file() and layout.format in ("coco", "lvis", "csv") and split == "train":
        source = present[0]
    else:
        source = yolo.ALIASES.get(split, split) if split not in present else split
    if source not in present:
        raise Error(
            f"load: {layout.root}: no split {split!r}; there is: {', '.join(present) or 'none'}"
        )
    intake = Intake(layout.root)
    table = layout.read(source, intake, chosen, one_based)
    if strict and intake.rejected:
        raise Error(f"load: {layout.root}: {_refusal(intake.rejected)}")
    if not table.records:
        reason = _refusal(intake.rejected) if intake.rejected else "the split is empty"
        raise Error(f"load: {layout.root}: split {split!r} has no usable image: {reason}")
    names, categories, records, federated, unread = table
    told = intake.rejected, intake.notes
    return Dataset(
        layout.root, split, layout.format, names, categories, records, *told, federated, unread
    )


def splits(path: str | os.PathLike[str], images: str | os.PathLike[str] | None = None) -> list[str]:
    """Names of the splits that a data set has, train first. A single json has one."""
    return recognise(path, images).splits()


def recognise(path: str | os.PathLike[str], images: str | os.PathLike[str] | None = None) -> Layout:
    """The layout at `path`; an `Error` that says what was looked for where there is none."""
    _check_path(path)
    root = Path(path)
    folder = None if images is None else Path(images)
    if folder is not None and not folder.is_dir():
        raise Error(f"load: images {str(folder)!r} is no folder")
    if not root.exists():
        raise Error(f"load: {root}: no such file or folder")
    layout = _find(root, folder)
    if layout is not None:
        return layout
    hint = ""
    if root.is_dir():
        near = [*sorted(p for p in root.iterdir() if p.is_dir())[:64], root.resolve().parent]
        found = next((p for p in near if _find(p, None) is not None), None)
        hint = f"; {found} has one of these: was that meant?" if found else ""
    raise Error(f"load: {root}: no known layout; looked for {_LOOKED_FOR}{hint}")


def holdout(dataset: Dataset, fraction: float = 0.1, seed: int = 0) -> tuple[Dataset, Dataset]:
    """Splits a data set without a val split: (train, val), the val part drawn by `seed`.

    fraction: of the images that go to val, at least one; both keep the order of the records. A
    data set of one image is its own val part. Raises ValueError unless 0 < fraction < 1.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"holdout: fraction is {fraction}, a value between 0 and 1 was needed")
    n = len(dataset)
    if n == 1:
        return dataset, dataset.subset([0], "val")
    count = min(max(1, round(n * fraction)), n - 1)
    drawn = np.random.Generator(np.random.Philox(seed)).permutation(n)[:count]
    chosen = set(drawn.tolist())
    train = dataset.subset([i for i in range(n) if i not in chosen])
    train.rejected, train.notes = dataset.rejected, dataset.notes
    return train, dataset.subset(sorted(chosen), "val")


def box_areas(boxes: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """(n,) areas of (n, 4) xyxy boxes."""
    areas: npt.NDArray[np.float32] = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return areas


def defect_lines(title: str, defects: Sequence[Defect], limit: int) -> list[str]:
    """Lines of a report: one a reason with its count, then the first few by file and line."""
    lines: list[str] = []
    by_code = Counter(d.code for d in defects)
    for code, count in by_code.most_common():
        meaning = f" ({CODES[code]})" if code in CODES else ""
        lines.append(f"  {title}: {count} x {code}{meaning}")
        first = [d for d in defects if d.code == code][:limit]
        lines += [f"    {d}" for d in first]
        if count > len(first):
            lines.append(f"    and {count - len(first)} more")
    return lines


def _check_path(path: object) -> None:
    if not isinstance(path, (str, os.PathLike)) or not os.fspath(path):
        raise TypeError(f"load: path is {path!r}, a folder or file name was needed")
    if "\0" in os.fspath(path):
        raise Error(f"load: path {os.fspath(path)!r} holds a NUL")


def _find(root: Path, images: Path | None) -> Layout | None:
    # LVIS before COCO, whose files it would take; loose files (xml beside images, csv) last.
    finders: tuple[Any, ...] = (
        *(voc.Layout, lvis.Layout, coco.Layout, darknet.Layout, yolo.Layout),
        *(kitti.Layout, voc.Beside, tables.Layout),
    )
    for finder in finders:
        layout: Layout | None = finder.find(root, images)
        if layout is not None:
            return layout
    return None


def _refusal(defects: Sequence[Defect], limit: int = 5) -> str:
    """One sentence: how many defects, by reason, the first few."""
    by_code = ", ".join(f"{n} {c}" for c, n in Counter(d.code for d in defects).most_common())
    first = "; ".join(str(d) for d in defects[:limit])
    more = f"; and {len(defects) - limit} more" if len(defects) > limit else ""
    return f"{len(defects)} defects ({by_code}): {first}{more}"
