"""New data sets from old ones: split, merge, subset. Sources are never touched; the result is a new
folder, written whole or not at all, in any layout (`writers`)."""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt

from deepseek_det.data.convert import load_all
from deepseek_det.data.datasets import Dataset
from deepseek_det.data.decode import decode
from deepseek_det.data.records import Record, as_names
from deepseek_det.data.similar import THUMB_PX, near_pairs, normalized, thumbnail
from deepseek_det.data.writers import Conversion, check_format, check_target, write
from deepseek_det.errors import Error

Source = str | os.PathLike[str] | Dataset
Key = Callable[[Record], Hashable]

USUAL = ("train", "val", "test")
_ENOUGH_PX = 128
"""A thumbnail is made from a scaled decode whose shorter side has at least so many pixels: from
fewer, the decoder's rounding shows in the comparison."""


def split(
    src: Source,
    dst: str | os.PathLike[str],
    fractions: Mapping[str, float] | Sequence[float],
    by: str | Key = "class",
    near: bool = True,
    seed: int = 0,
    format: str = "coco",
    strict: bool = False,
    images: str | os.PathLike[str] | None = None,
) -> Conversion:
    """Divides all images of a data set anew, and writes the parts as a new data set.

    fractions: {name: share}, or shares of train, val and, with three, test; their sum is 1.
    by: "class" balances the classes' boxes over the parts (iterative stratification, Sechidis et
    al. 2011), "random" only the numbers of images. Anything else balances the classes and keeps
    groups in one part: "folder" groups by the image's folder, a pattern such as r"patient(\\d+)" by
    what its group (or the whole match) finds in the image's path, a function by what it returns for
    a record. near: images that look the same (`similar`) stay in one part, too.
    seed: same seed, same parts. format, strict, images: as for `convert`; src may have splits, they
    are put together first. Raises ValueError on bad fractions, `Error` where a part stays empty.

    >>> import tempfile
    >>> from deepseek_det.data import synthetic
    >>> folder = Path(tempfile.mkdtemp())
    >>> made = split(synthetic(folder / "a", n=10), folder / "b", {"train": 0.7, "val": 0.3})
    >>> made.splits
    {'train': 7, 'val': 3}
    """
    check_format(format, "split")
    check_target(dst, "split")
    shares = _shares(fractions)
    key = _key(by)
    data = _pooled(load_all(src, None, strict, images, None))
    units = _units(data, key, near)
    # "random" counts images only, the others boxes by class as well.
    wanted = _wishes(data, units, classes=by != "random")
    part_of = _assign(wanted, list(shares.values()), seed)
    sets = []
    for number, name in enumerate(shares):
        chosen = sorted(
            i for unit, p in zip(units, part_of, strict=True) if p == number for i in unit
        )
        if not chosen:
            text = f"{len(data)} images in {len(units)} groups that stay together"
            raise Error(f"split: {data.root}: nothing is left for {name!r}: {text}")
        sets.append(data.subset(chosen, name))
    sets[0].rejected, sets[0].unread = data.rejected, data.unread
    return write(sets, dst, format, "split")


def merge(
    dst: str | os.PathLike[str],
    *srcs: Source,
    format: str = "coco",
    strict: bool = False,
) -> Conversion:
    """Puts data sets together: splits of one name are joined, classes are matched by name.

    The classes are those of the first source, then what the others add. Category ids are kept where
    all sources agree on them, else the classes are numbered from 1. An image whose bytes another
    source has already given is left out and counted in `lost`, by whether its boxes are the same.
    format, strict: as for `convert`. Raises ValueError without a source.
    """
    check_format(format, "merge")
    check_target(dst, "merge")
    if not srcs:
        raise ValueError("merge: no source came, at least one was needed")
    sources = [load_all(src, None, strict, None, None) for src in srcs]
    names, categories = _joined_classes(sources)
    taken: dict[tuple[int, str], Record] = {}
    lost = {"image that was there already": 0, "image that was there with other boxes": 0}
    parts: dict[str, Dataset] = {}
    for sets in sources:
        own: dict[tuple[int, str], Record] = {}
        for data in sets:
            to = np.array([names.index(n) for n in data.names] or [0], np.int32)
            records = []
            for record in data.records:
                mark = _file_mark(record.path)
                moved = _relabelled(record, to[record.labels])
                twin = taken.get(mark)
                if twin is None:
                    own[mark] = moved
                    records.append(moved)
                else:
                    same = _same_boxes(twin, moved)
                    lost[list(lost)[0 if same else 1]] += 1
            part = parts.get(data.split)
            if part is None:
                part = Dataset(data.root, data.split, data.format, names, categories, [])
                parts[data.split] = part
            part.records += records
            part.rejected += data.rejected
            for what, count in data.unread.items():
                part.unread[what] = part.unread.get(what, 0) + count
        taken |= own  # twins within one source are that source's affair
    order = sorted(parts, key=lambda n: (USUAL.index(n) if n in USUAL else len(USUAL), n))
    done = write([parts[n] for n in order if parts[n].records], dst, format, "merge")
    for what, count in lost.items():
        done.lose(what, count)
    return done


def subset(
    src: Source,
    dst: str | os.PathLike[str],
    classes: Sequence[str] | None = None,
    n: int | None = None,
    splits: Sequence[str] | None = None,
    where: Callable[[Record], bool] | None = None,
    empty: bool = True,
    seed: int = 0,
    format: str = "coco",
    strict: bool = False,
) -> Conversion:
    """Writes a part of a data set.

    classes: names to keep, in this order (category ids are kept if they ascend in it, else counted
    from 1); boxes of the others go. n: at most so many images of each
    split, drawn by `seed`. where: keeps the images for which it is true. empty: whether images
    without boxes stay (after the classes were chosen). splits, format, strict: as for `convert`.
    Raises ValueError for a class that is not there, `Error` where nothing is left.
    """
    check_format(format, "subset")
    check_target(dst, "subset")
    chosen = as_names(classes, "subset")
    if n is not None and n < 1:
        raise ValueError(f"subset: n is {n}, at least 1 was needed")
    sets = []
    for data in load_all(src, splits, strict, None, None):
        part = data if chosen is None else _of_classes(data, chosen)
        kept = [
            i
            for i, r in enumerate(part.records)
            if (empty or len(r.boxes)) and (where is None or where(r))
        ]
        if n is not None and len(kept) > n:
            drawn = np.random.Generator(np.random.Philox(seed)).permutation(len(kept))[:n]
            kept = [kept[i] for i in sorted(drawn.tolist())]
        smaller = part.subset(kept)
        smaller.rejected, smaller.unread = data.rejected, data.unread
        if kept:
            sets.append(smaller)
    if not sets:
        raise Error("subset: no image is left")
    return write(sets, dst, format, "subset")


# ---- split's parts --------------------------------------------------------------------------


def _shares(fractions: Mapping[str, float] | Sequence[float]) -> dict[str, float]:
    if isinstance(fractions, Mapping):
        shares = {str(k): float(v) for k, v in fractions.items()}
    else:
        values = [float(v) for v in fractions]
        if not 1 <= len(values) <= len(USUAL):
            raise ValueError(
                f"split: {len(values)} fractions came, up to 3 or a mapping was needed"
            )
        shares = dict(zip(USUAL, values, strict=False))
    bad = any(not re.fullmatch(r"[\w.-]+", name) or name.startswith(".") for name in shares)
    good = shares and all(math.isfinite(v) and v > 0 for v in shares.values())
    if bad or not good or abs(sum(shares.values()) - 1) > 1e-6:
        raise ValueError(
            f"split: fractions are {fractions!r}, names with shares above 0 of sum 1 were needed"
        )
    return shares


def _key(by: str | Key) -> Key | None:
    """The function that gives an image's group, None for no groups."""
    if callable(by):
        return by
    if by in ("class", "random"):
        return None
    if by == "folder":
        return lambda record: record.path.parent
    try:
        pattern = re.compile(by)
    except re.error as error:
        raise ValueError(f"split: by is {by!r}, no pattern: {error}") from error

    def group(record: Record) -> Hashable:
        match = pattern.search(record.path.as_posix())
        if match is None:
            raise Error(f"split: by {by!r} finds nothing in {record.path}")
        return match[1] if pattern.groups else match[0]

    return group


def _pooled(sets: Sequence[Dataset]) -> Dataset:
    """All splits as one, an image that two of them list once."""
    first = sets[0]
    records = {r.path: r for data in sets for r in data.records}
    pool = Dataset(
        first.root, "all", first.format, first.names, first.categories, list(records.values())
    )
    pool.federated = first.federated if len(sets) == 1 else None
    for data in sets:
        pool.rejected += data.rejected
        for what, count in data.unread.items():
            pool.unread[what] = pool.unread.get(what, 0) + count
    return pool


def _units(data: Dataset, key: Key | None, near: bool) -> list[list[int]]:
    """Indices of images that have to stay together, by first index."""
    parent = list(range(len(data)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    if key is not None:
        first: dict[Hashable, int] = {}
        for i, record in enumerate(data.records):
            parent[root(i)] = root(first.setdefault(key(record), i))
    if near:
        for a, b, _ in near_pairs(thumbs(data)):
            parent[root(b)] = root(a)
    units: dict[int, list[int]] = {}
    for i in range(len(data)):
        units.setdefault(root(i), []).append(i)
    return sorted(units.values())


def thumbs(data: Dataset) -> npt.NDArray[np.float32]:
    """(n, 1024) normalized thumbnails of all images, by scaled decodes where these suffice."""

    def one(record: Record) -> npt.NDArray[np.float32]:
        short = min(record.width, record.height)
        shrink = next((s for s in (8, 4, 2) if short >= s * _ENOUGH_PX), 1)
        return normalized(thumbnail(decode(record.path, shrink, say_frames=False)))

    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        every = list(pool.map(one, data.records))
    return np.asarray(every, np.float32).reshape(-1, THUMB_PX * THUMB_PX)


def _wishes(
    data: Dataset, units: Sequence[Sequence[int]], classes: bool
) -> npt.NDArray[np.float64]:
    """(units, 1 + classes): images of each unit, and where `classes` its boxes of each class."""
    width = 1 + (len(data.names) if classes else 0)
    table = np.zeros((len(units), width))
    for row, unit in zip(table, units, strict=True):
        row[0] = len(unit)
        for i in unit if classes else ():
            r = data.records[i]
            row[1:] += np.bincount(r.labels[~r.ignore], minlength=width - 1)
    return table


def _assign(
    wishes: npt.NDArray[np.float64], shares: Sequence[float], seed: int
) -> npt.NDArray[np.int64]:
    """(units,) part of each unit, so that every column is divided as `shares` ask.

    Iterative stratification: the column with the fewest units left goes first; its units, the
    largest first, go to the part that still lacks most of it, then most images.
    """
    share = np.asarray(shares)
    lacking = share[:, None] * wishes.sum(0)
    part = np.full(len(wishes), -1, np.int64)
    order = np.random.Generator(np.random.Philox(seed)).permutation(len(wishes))
    total = np.maximum(wishes.sum(0), 1)
    while (part < 0).any():
        open_units = order[part[order] < 0]
        holders = (wishes[open_units, 1:] > 0).sum(0)
        if holders.any():
            column = 1 + int(np.argmin(np.where(holders > 0, holders, len(wishes) + 1)))
        else:
            column = 0
        mine = open_units[wishes[open_units, column] > 0]
        for unit in mine[np.argsort(-wishes[mine, column], kind="stable")].tolist():
            # A part that has its images already takes no more while another has room. Of those
            # that lack the same of the column, the one that lacks most images.
            rank = np.round(lacking[:, column] / total[column], 9)
            room = lacking[:, 0] >= 0.5 * wishes[unit, 0]
            rank[~room] = rank[~room] if not room.any() else -np.inf
            best = np.flatnonzero(rank == rank.max())
            chosen = int(best[np.argmax(lacking[best, 0])])
            part[unit] = chosen
            lacking[chosen] -= wishes[unit]
    return part


# ---- merge's and subset's parts -------------------------------------------------------------


def _joined_classes(sources: Sequence[Sequence[Dataset]]) -> tuple[list[str], list[int]]:
    """Names in order of appearance, and their ids."""
    ids: dict[str, set[int]] = {}
    for sets in sources:
        for name, category in zip(sets[0].names, sets[0].categories, strict=True):
            ids.setdefault(name, set()).add(category)
    names = list(ids)
    first = [min(i) for i in ids.values()]
    agreed = all(len(i) == 1 for i in ids.values()) and len(set(first)) == len(first)
    return names, first if agreed else list(range(1, len(names) + 1))


def _file_mark(path: Path) -> tuple[int, str]:
    """What tells a file from others with different bytes."""
    data = path.read_bytes()
    return len(data), hashlib.blake2b(data, digest_size=16).hexdigest()


def _relabelled(record: Record, labels: npt.NDArray[np.int32]) -> Record:
    return Record(
        record.path,
        record.id,
        record.width,
        record.height,
        record.boxes,
        labels.astype(np.int32).reshape(-1),
        record.ignore,
    )


def _same_boxes(a: Record, b: Record) -> bool:
    return np.array_equal(a.boxes, b.boxes) and np.array_equal(a.labels, b.labels)


def _of_classes(data: Dataset, chosen: Sequence[str]) -> Dataset:
    """The data set with the chosen classes alone."""
    missing = [n for n in chosen if n not in data.names]
    if missing:
        raise ValueError(f"subset: class {missing[0]!r} is none of {data.names}")
    order = [data.names.index(n) for n in chosen]
    to = np.full(len(data.names), -1, np.int32)
    to[order] = np.arange(len(order))
    records = []
    for r in data.records:
        labels = to[r.labels]
        keep = labels >= 0
        records.append(
            Record(r.path, r.id, r.width, r.height, r.boxes[keep], labels[keep], r.ignore[keep])
        )
    categories = [data.categories[i] for i in order]
    ascending = categories == sorted(categories)
    if not ascending:  # COCO's order of classes is that of their ids
        categories = list(range(1, len(order) + 1))
    made = Dataset(data.root, data.split, data.format, chosen, categories, records)
    made.federated = data.federated if ascending else None
    return made
