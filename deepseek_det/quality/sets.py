"""Several sets of labels for the same images, brought side by side.

Images are recognised by their file names (with as many folders before them as it takes to tell them
apart), or, where suffixes differ, by their names without suffix. Classes are joined by name.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from deepseek_det.data.datasets import Dataset, load, recognise
from deepseek_det.data.records import Record
from deepseek_det.errors import Error

Source = str | os.PathLike[str] | Dataset
MOST_FOLDERS = 8


class Labels(NamedTuple):
    """One annotator's labels of one image: boxes (n, 4), labels (n,) in the joint order of classes,
    ignore (n,)."""

    boxes: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int32]
    ignore: npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Image:
    """An image that labels are compared on. name: what tells it apart, its file name as a rule;
    split, id: the first annotator's; path: its file there; width, height: pixels."""

    name: str
    split: str
    id: int | str
    path: Path
    width: int
    height: int


@dataclass(slots=True)
class Aligned:
    """What `align` returns. labels[i][k]: annotator k's of image i, None where it has no such
    image; rejected[k]: how many labels of annotator k are no sound boxes and were left out."""

    annotators: list[str]
    names: list[str]
    categories: list[int]
    images: list[Image]
    labels: list[list[Labels | None]]
    rejected: list[int]


def align(
    sources: Sequence[Source],
    annotators: Sequence[str] | None = None,
    partial: bool = False,
    strict: bool = False,
    who: str = "cross_check",
) -> Aligned:
    """Loads all splits of each source and lines their images and classes up.

    annotators: their names, "a", "b", … by default. partial: images that not all have are compared
    between those that have them, or passed over; else they are an Error. strict: as for `load`.
    Raises Error where images, sizes or classes do not fit together, ValueError on names.
    """
    people = _annotators(annotators, len(sources), who)
    sets = [_load_all(s, strict) for s in sources]
    records = _by_name(sets, people, partial, who)
    names, categories = _joint_names(sets, people, who)
    images: list[Image] = []
    labels: list[list[Labels | None]] = []
    for name in dict.fromkeys(n for table in records for n in table):
        have = [table.get(name) for table in records]
        if sum(h is not None for h in have) < 2:
            continue
        split, first = next(h for h in have if h is not None)
        for person, found in zip(people, have, strict=True):
            _check_record(found and found[1], first, name, person, who)
        images.append(Image(name, split.split, first.id, first.path, first.width, first.height))
        labels.append([h and _labels(h[1], h[0], names) for h in have])
    if not images:
        raise Error(f"{who}: no image is in two of the sets, at least one was needed")
    rejected = [sum(len(d.rejected) for d in splits) for splits in sets]
    return Aligned(people, names, categories, images, labels, rejected)


def _annotators(given: Sequence[str] | None, count: int, who: str) -> list[str]:
    if given is None:
        # a … z, then a2 … z2: what a person can say and type
        return [
            chr(ord("a") + i % 26) + (str(i // 26 + 1) if i >= 26 else "") for i in range(count)
        ]
    names = [str(n) for n in given]
    if isinstance(given, str) or len(names) != count or len({*names, ""}) != count + 1:
        raise ValueError(
            f"{who}: annotators is {given!r}; {count} different, non-empty names were needed"
        )
    return names


def _load_all(source: Source, strict: bool) -> list[Dataset]:
    """All splits of a source; a split that repeats others' images (trainval) adds none of them."""
    if isinstance(source, Dataset):
        return [source]
    wanted = recognise(source).splits()
    if {"train", "val", "trainval"} <= set(wanted):
        wanted.remove("trainval")
    return [load(source, split, strict) for split in wanted]


_Table = dict[str, tuple[Dataset, Record]]


def _by_name(
    sets: Sequence[Sequence[Dataset]], people: Sequence[str], partial: bool, who: str
) -> list[_Table]:
    """A table of records a set; the keys are the shortest ones that tell each set's images apart
    and, if there are such, that all sets share."""
    found: list[tuple[int, list[_Table]]] = []
    for stem in (False, True):
        for folders in range(1, MOST_FOLDERS + 1):
            tables = [_table(splits, folders, stem) for splits in sets]
            if any(t is None for t in tables):
                continue
            whole = [t for t in tables if t is not None]
            shared = len(set.intersection(*(set(t) for t in whole)))
            if shared and all(len(t) == shared for t in whole):
                return whole
            found.append((shared, whole))
            break  # more folders only make more names differ
    if not found:
        raise Error(f"{who}: two images of one set have the same name in folders of the same names")
    shared, best = max(found, key=lambda f: f[0])
    if partial and shared:
        return best
    for person, table in zip(people[1:], best[1:], strict=True):
        for mine, other, lacks in ((best[0], table, person), (table, best[0], people[0])):
            missing = [n for n in mine if n not in other]
            if missing:
                raise Error(
                    f"{who}: {len(missing)} of {len(mine)} images are not in the set of "
                    f"{lacks!r}, the first is {missing[0]!r}; the same images were needed"
                )
    raise AssertionError("sets that differ have an image that is missing in one")


def _table(splits: Sequence[Dataset], folders: int, stem: bool) -> _Table | None:
    """Records by name, None where two images share one."""
    table: _Table = {}
    for data in splits:
        for record in data.records:
            parts = record.path.parts[-folders:]
            name = "/".join((*parts[:-1], record.path.stem if stem else parts[-1]))
            if name in table:
                if table[name][1].path == record.path:
                    continue  # one image in two splits
                return None
            table[name] = (data, record)
    return table


def _joint_names(
    sets: Sequence[Sequence[Dataset]], people: Sequence[str], who: str
) -> tuple[list[str], list[int]]:
    """The classes of the first set in its order, then the others' as they come; ids likewise."""
    own: list[dict[str, int]] = []
    for splits in sets:
        mine: dict[str, int] = {}
        for data in splits:
            for name, id in zip(data.names, data.categories, strict=True):
                mine.setdefault(name, id)
        own.append(mine)
    for person, mine in zip(people[1:], own[1:], strict=True):
        if own[0] and mine and not set(mine) & set(own[0]):
            raise Error(
                f"{who}: {person!r} has the classes {list(mine)}, {people[0]!r} {list(own[0])}; "
                "sets with a class in common were needed"
            )
    joint = dict(own[0])
    for mine in own[1:]:
        for name, id in mine.items():
            if name not in joint:
                joint[name] = id if id not in joint.values() else max(joint.values()) + 1
    return list(joint), list(joint.values())


def _check_record(record: Record | None, first: Record, name: str, person: str, who: str) -> None:
    if record is None:
        return
    if (record.width, record.height) != (first.width, first.height):
        raise Error(
            f"{who}: {name}: the image of {person!r} is {record.width}x{record.height}, "
            f"{first.width}x{first.height} was needed: not the same image"
        )
    # `load` lets no such box through; a Dataset made by hand may hold one.
    boxes = np.asarray(record.boxes)
    if boxes.shape != (len(record.labels), 4) or len(record.ignore) != len(record.labels):
        raise ValueError(
            f"{who}: {name}: {person!r} has boxes {boxes.shape}, {len(record.labels)} labels and "
            f"{len(record.ignore)} ignore flags; (n, 4), n and n were needed"
        )
    if not np.isfinite(boxes).all() or (boxes[:, 2:] <= boxes[:, :2]).any():
        wrong = boxes[~(np.isfinite(boxes).all(1) & (boxes[:, 2:] > boxes[:, :2]).all(1))][0]
        raise ValueError(
            f"{who}: {name}: {person!r} has the box {wrong.tolist()}; finite x0 < x1 and y0 < y1 "
            "were needed"
        )


def _labels(record: Record, data: Dataset, names: Sequence[str]) -> Labels:
    places = np.array([names.index(n) for n in data.names], np.int32)
    return Labels(
        np.ascontiguousarray(record.boxes, np.float32),
        np.ascontiguousarray(places[record.labels] if len(record.labels) else [], np.int32),
        np.ascontiguousarray(record.ignore, np.bool_),
    )


def one_set(source: Source, who: str) -> tuple[dict[str, Record], list[str]]:
    """The images of one set by the names that `align` would give them, and its classes.

    All splits together; the records' labels are positions in the returned classes.
    Raises Error where two images can't be told apart.
    """
    splits = _load_all(source, False)
    for folders in range(1, MOST_FOLDERS + 1):
        table = _table(splits, folders, False)
        if table is not None:
            break
    else:
        raise Error(f"{who}: two images have the same name in folders of the same names")
    names, _ = _joint_names([splits], [""], who)
    records: dict[str, Record] = {}
    for name, (data, record) in table.items():
        _check_record(record, record, name, str(data.root), who)
        records[name] = replace(record, labels=_labels(record, data, names).labels)
    return records, names


def images_of(
    source: Source, named: Mapping[str, Record], names: Sequence[str]
) -> tuple[list[Image], list[int]]:
    """The images of `one_set` with their splits, and the classes' ids."""
    splits = _load_all(source, False)
    split = {r.path: d.split for d in reversed(splits) for r in d.records}
    _, categories = _joint_names([splits], [""], "images_of")
    images = [
        Image(name, split[r.path], r.id, r.path, r.width, r.height) for name, r in named.items()
    ]
    return images, categories
