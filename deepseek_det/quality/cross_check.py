"""Compares annotators' labels of the same images.

Every two annotators' boxes of an image are matched one to one and optimally (csrc/detect/match.h
states the rules). Of more than two annotators the pairs are joined to groups, those that agree
first, then by falling overlap, at most one box an annotator in a group; so neither the order of the
annotators nor that of the boxes matters.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from deepseek_det import _core
from deepseek_det.quality.agreement import ABSENT, UNKNOWN, Tally
from deepseek_det.quality.disputes import Agreed, Box, Candidate, CrossCheck, Dispute
from deepseek_det.quality.sets import Labels, Source, align

NEAR = 0.1
"""Boxes that overlap less than this are never taken for one object. Low, for a box in the wrong
place is one dispute then and not two; in crowds the matching keeps neighbours apart."""
COVERED = 0.5
"""A box with this share of its area in another's ignored region is excused there."""


def cross_check(
    a: Source,
    b: Source,
    *more: Source,
    iou: float = 0.7,
    near: float = NEAR,
    partial: bool = False,
    strict: bool = False,
    annotators: Sequence[str] | None = None,
    agreed_box: str = "mean",
) -> CrossCheck:
    """Compares two or more sets of labels of the same images; `.disputes` is what they differ in.

    a, b, more: paths as for `data.load` (all splits) or data sets. Two boxes of one class agree
    from `iou` on. Below, but from `near` on, they dispute the location, and boxes of two classes
    the class; what is left is only in one (or some) of the sets. Three or more annotators of whom
    no majority says one thing are "ambiguous", as is a box that another one ignored. partial: only
    compare what images two have in common; else other images are an Error. strict: as for `load`.
    annotators: names, "a", "b", … by default. agreed_box: "mean" of agreeing boxes, or "first".
    Nothing is written: see `CrossCheck.write`, `CrossCheck.page` and `resolve`.
    Raises ValueError on arguments, Error where the sets do not fit together.

    >>> import tempfile
    >>> from deepseek_det.data import load, synthetic
    >>> data = load(synthetic(tempfile.mkdtemp() + "/set", n=3), "test")
    >>> q = cross_check(data, data)
    >>> len(q.disputes), q.agreement.overall.f1, q.agreement.overall.alpha
    (0, 1.0, 1.0)
    """
    if not 0 < near <= iou <= 1:
        raise ValueError(f"cross_check: iou is {iou}, near {near}; 0 < near <= iou <= 1 was needed")
    if agreed_box not in ("mean", "first"):
        raise ValueError(f'cross_check: agreed_box is {agreed_box!r}, "mean" or "first" was needed')
    sets = align([a, b, *more], annotators, partial, strict)
    tally = Tally(sets.annotators, sets.names)
    q = CrossCheck(
        sets.annotators, sets.names, sets.categories, iou, sets.images, [], [], None, sets.rejected
    )
    for image, labels in zip(sets.images, sets.labels, strict=True):
        tally.begin(image.name)
        view = _View(image.name, sets.annotators, sets.names, labels, iou)
        for group in _groups(view, near, tally):
            _judge(view, group, agreed_box == "first", q, tally)
        q.agreed += _ignored(view)
    q.agreement = tally.figures()
    return q


Group = dict[int, int]
"""Annotator → position of the box in that annotator's labels; in ascending order."""


@dataclass(slots=True)
class _View:
    """One image as all annotators see it."""

    image: str
    annotators: list[str]
    names: list[str]
    labels: list[Labels | None]
    iou: float

    def box(self, person: int, i: int) -> npt.NDArray[np.float32]:
        found = self.labels[person]
        assert found is not None
        box: npt.NDArray[np.float32] = found.boxes[i]
        return box

    def label(self, person: int, i: int) -> int:
        found = self.labels[person]
        assert found is not None
        return int(found.labels[i])

    def agree(self, x: tuple[int, int], y: tuple[int, int]) -> bool:
        """Whether two labels (annotator, position) say the same."""
        overlap = _core.box_iou(self.box(*x)[None], self.box(*y)[None])[0, 0]
        return self.label(*x) == self.label(*y) and bool(overlap >= np.float32(self.iou))

    def near(self, x: tuple[int, int], y: tuple[int, int]) -> bool:
        """Whether two labels lie in one place, whatever their classes."""
        overlap = _core.box_iou(self.box(*x)[None], self.box(*y)[None])[0, 0]
        return bool(overlap >= np.float32(self.iou))

    def excused(self, person: int, box: npt.NDArray[np.float32]) -> bool:
        """Whether an annotator need not have this box: no such image, or an ignored region."""
        found = self.labels[person]
        if found is None:
            return True
        regions = found.boxes[found.ignore]
        sides = np.minimum(box[2:], regions[:, 2:]) - np.maximum(box[:2], regions[:, :2])
        inside = np.maximum(sides, 0).prod(1)
        return bool((inside >= COVERED * np.prod(box[2:] - box[:2])).any())


class _Match(NamedTuple):
    agreed: bool
    overlap: float
    first: tuple[int, int]  # annotator, position
    second: tuple[int, int]


def _groups(view: _View, near: float, tally: Tally) -> list[Group]:
    """The boxes of an image that are taken for one object each; counts labels for F1."""
    kept = [None if s is None else np.flatnonzero(~s.ignore).astype(np.int32) for s in view.labels]
    matches: list[_Match] = []
    people = [k for k, s in enumerate(view.labels) if s is not None]
    for x, i in enumerate(people):
        for j in people[x + 1 :]:
            found = list(_pairs(view, i, j, kept, near))
            matches += found
            _count_labels(view, i, j, kept, found, tally)
    group_of: dict[tuple[int, int], Group] = {}
    groups: list[Group] = []
    for k in people:
        for i in [] if kept[k] is None else kept[k].tolist():  # type: ignore[union-attr]
            group_of[k, i] = {k: i}
            groups.append(group_of[k, i])
    matches.sort(key=lambda m: (not m.agreed, -m.overlap, m.first, m.second))
    for m in matches:
        one, other = group_of[m.first], group_of[m.second]
        if one is other or set(one) & set(other):
            continue
        one.update(other)
        for k, i in other.items():
            group_of[k, i] = one
        other.clear()
    return [dict(sorted(g.items())) for g in groups if g]


def _pairs(
    view: _View,
    i: int,
    j: int,
    kept: Sequence[npt.NDArray[np.int32] | None],
    near: float,
) -> Iterator[_Match]:
    """The matched boxes of two annotators."""
    one, other, mine, theirs = view.labels[i], view.labels[j], kept[i], kept[j]
    assert one is not None and other is not None and mine is not None and theirs is not None
    partner, overlap = _core.match_labels(
        one.boxes[mine], one.labels[mine], other.boxes[theirs], other.labels[theirs], view.iou, near
    )
    for x, (y, value) in enumerate(zip(partner.tolist(), overlap.tolist(), strict=True)):
        if y >= 0:
            first, second = (i, int(mine[x])), (j, int(theirs[y]))
            same = view.label(*first) == view.label(*second)
            yield _Match(same and value >= np.float32(view.iou), value, first, second)


def _count_labels(
    view: _View,
    i: int,
    j: int,
    kept: Sequence[npt.NDArray[np.int32] | None],
    matches: Sequence[_Match],
    tally: Tally,
) -> None:
    agreed = {end for m in matches if m.agreed for end in (m.first, m.second)}
    paired = {end for m in matches for end in (m.first, m.second)}
    for person, other in ((i, j), (j, i)):
        mine = kept[person]
        for k in [] if mine is None else mine.tolist():
            here = (person, k)
            if here in paired or not view.excused(other, view.box(*here)):
                tally.label(view.label(*here), (i, j), here in agreed)


def _judge(view: _View, group: Group, first: bool, q: CrossCheck, tally: Tally) -> None:
    """Decides whether a group is agreed or disputed, and why."""
    members = list(group.items())
    labels = [view.label(*m) for m in members]
    boxes = np.array([view.box(*m) for m in members], np.float64)
    mean: npt.NDArray[np.float64] = boxes.sum(0) / len(boxes)
    absent = [k for k in range(len(view.annotators)) if k not in group]
    excused = [k for k in absent if view.excused(k, mean.astype(np.float32))]
    _count_units(view, members, excused, tally)
    if len(members) == 1 and len(excused) == len(absent):
        if not any(view.labels[k] is not None for k in absent):
            return  # nobody else has seen the image
        who = ", ".join(view.annotators[k] for k in excused if view.labels[k] is not None)
        text = f"{who} has an ignored region here"
        _dispute(view, members, "ambiguous", "ignore", text, q, tally)
        return
    voters = len(members) + len(absent) - len(excused)
    support = [sum(view.agree(m, other) for other in members) for m in members]
    if len(members) == voters and all(s == voters for s in support):
        box = _box(boxes[0] if first else mean)
        q.agreed.append(Agreed(view.image, view.names[labels[0]], box))
        tally.outcome("agreed", labels, list(group))
        return
    reason = _reason(members, labels, view, voters)
    against = voters - len(members)
    suggestion: int | str | None = None
    if 2 * max(support) > voters:
        suggestion = support.index(max(support))
    elif 2 * against > voters:
        suggestion = "drop"
    elif voters > 2:
        reason = "ambiguous"
    text = _why(view, members, labels, absent, excused)
    _dispute(view, members, reason, suggestion, text, q, tally)


def _reason(
    members: Sequence[tuple[int, int]], labels: Sequence[int], view: _View, voters: int
) -> str:
    if len(set(labels)) > 1:
        return "class"
    if not all(view.near(x, y) for k, x in enumerate(members) for y in members[k + 1 :]):
        return "location"
    assert len(members) < voters
    return "only-in-one" if len(members) == 1 else "only-in-some"


def _why(
    view: _View,
    members: Sequence[tuple[int, int]],
    labels: Sequence[int],
    absent: Sequence[int],
    excused: Sequence[int],
) -> str:
    """One line for people."""
    says = [
        f"{view.annotators[m[0]]}: {view.names[k]}" for m, k in zip(members, labels, strict=True)
    ]
    says += [f"{view.annotators[k]}: nothing" for k in absent if k not in excused]
    if len(members) > 1:
        boxes = np.array([view.box(*m) for m in members], np.float32)
        says.append(f"IoU {_core.box_iou(boxes, boxes).min():.2f}")
    return ", ".join(says)


def _dispute(
    view: _View,
    members: Sequence[tuple[int, int]],
    reason: str,
    suggestion: int | str | None,
    text: str,
    q: CrossCheck,
    tally: Tally,
) -> None:
    candidates = tuple(
        Candidate(_box(view.box(*m)), view.names[view.label(*m)], view.annotators[m[0]])
        for m in members
    )
    id = len(q.disputes) + 1
    q.disputes.append(Dispute(id, view.image, reason, candidates, suggestion, None, text))
    tally.outcome(reason, [view.label(*m) for m in members], [m[0] for m in members])


def _box(values: npt.NDArray[np.floating]) -> Box:
    x0, y0, x1, y1 = values.astype(np.float64).tolist()
    return x0, y0, x1, y1


def _count_units(
    view: _View, members: Sequence[tuple[int, int]], excused: Sequence[int], tally: Tally
) -> None:
    """The group's places for α: members that overlap enough, directly or through others."""
    rest = list(members)
    while rest:
        place = [rest.pop(0)]
        for x in place:
            joined = [y for y in rest if view.near(x, y)]
            rest = [y for y in rest if y not in joined]
            place += joined
        values = [UNKNOWN if k in excused else ABSENT for k in range(len(view.annotators))]
        for m in place:
            values[m[0]] = view.label(*m)
        tally.unit(values)


def _ignored(view: _View) -> list[Agreed]:
    """Every annotator's ignored regions, those that agree once."""
    made: list[tuple[int, npt.NDArray[np.float32]]] = []
    for found in view.labels:
        if found is None:
            continue
        for i in np.flatnonzero(found.ignore).tolist():
            label, box = int(found.labels[i]), found.boxes[i]
            known = np.array([b for k, b in made if k == label], np.float32).reshape(-1, 4)
            if not (_core.box_iou(known, box[None]) >= np.float32(view.iou)).any():
                made.append((label, box))
    return [Agreed(view.image, view.names[k], _box(box), True) for k, box in made]
