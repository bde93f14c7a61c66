"""Where a value's elements lie, apart from what its axes mean: views cost nothing until needed.

ONNX counts axes as the file does (N, C, H, W); the engine stores activations as (N, H, W, C). A
`Val` keeps both: its *logical* axes are the file's, its *stored* axes those of the graph's value.
Each axis is a list of factors, numbers into `sizes`, so Reshape, Transpose, Flatten, Squeeze and
Unsqueeze only regroup and reorder the logical lists. When an operator needs its operand stored in
some order, `arrange` makes the difference with as little as possible: nothing, a reshape, a channel
shuffle, or a transpose. So transposes that cancel never come to be, and a reshape, transpose,
reshape that shuffles channels is one `channel_shuffle`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from deepseek_det.onnx.dims import Size, Undecided, product, quotient

Axis = tuple[int, ...]  # factors, outermost first; none: a size of 1
NHWC = (0, 2, 3, 1)


@dataclass(frozen=True)
class Val:
    """A value of the graph under construction.

    id: the graph's value. dtype: the core's name, or "bool" for u8 that holds truth values.
    sizes: of the factors. stored, logical: the axes as lists of factors, each once.
    """

    id: int
    dtype: str
    sizes: tuple[Size, ...]
    stored: tuple[Axis, ...]
    logical: tuple[Axis, ...]

    @staticmethod
    def plain(id: int, dims: Sequence[Size], dtype: str = "f32", perm: Sequence[int] = ()) -> Val:
        """A value whose stored axis k is logical axis perm[k] (none: the same order).

        dims: the logical ones.
        """
        sizes = tuple(d for d in dims if not _is_one(d))
        logical, at = [], 0
        for d in dims:
            logical.append(() if _is_one(d) else (at,))
            at += not _is_one(d)
        stored = [logical[k] for k in (perm or range(len(dims)))]
        return Val(id, dtype, sizes, tuple(stored), tuple(logical))

    def size(self, axis: Axis) -> Size:
        """Of a list of factors."""
        return product([self.sizes[f] for f in axis])

    @property
    def dims(self) -> tuple[Size, ...]:
        """The shape that the file's nodes see."""
        return tuple(self.size(axis) for axis in self.logical)

    @property
    def stored_dims(self) -> tuple[Size, ...]:
        """The shape of the graph's value."""
        return tuple(self.size(axis) for axis in self.stored)

    @property
    def rank(self) -> int:
        """The number of logical axes."""
        return len(self.logical)

    # ---- views: nothing is emitted ----------------------------------------------------------

    def transposed(self, perm: Sequence[int]) -> Val:
        """Logical axis k of the result is logical axis perm[k] of this."""
        return replace(self, logical=tuple(self.logical[k] for k in perm))

    def reshaped(self, dims: Sequence[Size]) -> Val | None:
        """The elements in the file's order under another shape; None where that is no view.

        It is one where the old and the new shape have a common refinement: (2, 12) and (6, 4) do,
        (4, 6) and (6, 4) don't.
        """
        pieces = _refine([(f, self.sizes[f]) for axis in self.logical for f in axis], dims)
        if pieces is None:
            return None
        sizes, parts, logical = pieces
        stored = tuple(tuple(p for f in axis for p in parts[f]) for axis in self.stored)
        return _merged(Val(self.id, self.dtype, tuple(sizes), stored, tuple(logical)))

    def order(self, raw: bool = False) -> tuple[int, ...]:
        """The order of logical axes that is nearest to how the value is stored.

        raw: do not prefer NHWC where an axis order is open.
        """
        flat = [f for axis in self.stored for f in axis]
        natural = tuple(range(self.rank))
        likely = [natural] if raw else [NHWC, natural]
        for perm in likely:
            if len(perm) == self.rank and [f for k in perm for f in self.logical[k]] == flat:
                return perm
        place = {f: i for i, f in enumerate(flat)}
        if not raw and self.rank == 4:
            # An axis of size 1 stands where NHWC has it.
            fixed = sorted(
                (k for k in natural if self.logical[k]), key=lambda k: _first(self, k, place)
            )
            if fixed == [k for k in NHWC if self.logical[k]]:
                return NHWC
        last = -1
        keys = {}
        for k in natural:
            last = _first(self, k, place) if self.logical[k] else last
            keys[k] = (last, k)
        return tuple(sorted(natural, key=lambda k: keys[k]))


def _first(v: Val, axis: int, place: dict[int, int]) -> int:
    return min(place[f] for f in v.logical[axis])


def _is_one(size: Size) -> bool:
    return isinstance(size, int) and size == 1


def _refine(
    old: list[tuple[int, Size]], dims: Sequence[Size]
) -> tuple[list[Size], dict[int, list[int]], list[Axis]] | None:
    """Factors that both the old list and the new dimensions are products of, both in order."""
    sizes: list[Size] = []
    parts: dict[int, list[int]] = {f: [] for f, _ in old}
    logical: list[list[int]] = [[] for _ in dims]
    todo = [(k, d) for k, d in enumerate(dims) if not _is_one(d)]
    i = j = 0
    have: Size = old[0][1] if old else 1
    want: Size = todo[0][1] if todo else 1
    while i < len(old) and j < len(todo):
        step: Size
        if have == want or quotient(want, have) is not None:
            step = have
        elif quotient(have, want) is not None:
            step = want
        else:
            return None
        parts[old[i][0]].append(len(sizes))
        logical[todo[j][0]].append(len(sizes))
        sizes.append(step)
        have, want = quotient(have, step) or 0, quotient(want, step) or 0
        if _is_one(have):
            i += 1
            have = old[i][1] if i < len(old) else 1
        if _is_one(want):
            j += 1
            want = todo[j][1] if j < len(todo) else 1
    if i < len(old) or j < len(todo):
        return None
    return sizes, parts, [tuple(axis) for axis in logical]


def _merged(v: Val) -> Val:
    """Joins factors that follow each other in both lists: there is nothing between them."""
    follows: dict[int, int] = {}
    for axis in v.stored:
        follows.update(itertools.pairwise(axis))
    joined: dict[int, int] = {}  # factor → the one that it became a part of
    for axis in v.logical:
        for a, b in itertools.pairwise(axis):
            if follows.get(a) == b:
                joined[b] = joined.get(a, a)
    if not joined:
        return v
    heads = [f for f in range(len(v.sizes)) if f not in joined]
    number = {f: i for i, f in enumerate(heads)}
    sizes = [v.sizes[f] for f in heads]
    for f, head in joined.items():
        sizes[number[head]] = sizes[number[head]] * v.sizes[f]

    def keep(axes: tuple[Axis, ...]) -> tuple[Axis, ...]:
        return tuple(tuple(number[f] for f in axis if f in number) for axis in axes)

    return Val(v.id, v.dtype, tuple(sizes), keep(v.stored), keep(v.logical))


# ---- making a storage order real ------------------------------------------------------------


class Emitter(Protocol):
    """What adds nodes to the graph."""

    def emit(self, op: str, inputs: Sequence[int | None], params: dict[str, Any]) -> int:
        """The first output of a new node, or of one that is there already and the same."""
        ...


def arrange(to: Emitter, v: Val, want: Sequence[Axis]) -> Val:
    """The value stored with the axes `want`, which hold each of its factors once."""
    want = tuple(want)
    if v.stored == want:
        return v
    flat, goal = _flat(v.stored), _flat(want)
    if flat != goal:
        shuffled = _shuffled(to, v, want, flat, goal)
        v = shuffled if shuffled is not None else _turned(to, v, want)
    return _regrouped(to, v, want)


def by_axes(to: Emitter, v: Val, perm: Sequence[int]) -> Val:
    """The value stored so that stored axis k is logical axis perm[k], each as one axis."""
    v = arrange(to, v, [v.logical[k] for k in perm])
    return Val.plain(v.id, v.dims, v.dtype, perm)


def in_order(to: Emitter, v: Val) -> Val:
    """The value stored as the file would store it."""
    return by_axes(to, v, range(v.rank))


def new_shape(old: Sequence[Size], new: Sequence[Size]) -> list[int]:
    """`reshape`'s attribute: 0 keeps a free size at the same place, one -1 is the rest."""
    shape: list[int] = []
    for k, size in enumerate(new):
        if isinstance(size, int):
            shape.append(size)
        elif k < len(old) and old[k] == size:
            shape.append(0)
        else:
            shape.append(-1)
    if shape.count(-1) > 1:
        raise Undecided(f"a reshape from {tuple(old)} to {tuple(new)} depends on free dimensions")
    return shape


def _flat(axes: Sequence[Axis]) -> list[int]:
    return [f for axis in axes for f in axis]


def _regrouped(to: Emitter, v: Val, want: tuple[Axis, ...]) -> Val:
    """The same order of elements in other axes."""
    target = replace(v, stored=want)
    if v.stored_dims == target.stored_dims:
        return target
    shape = new_shape(v.stored_dims, target.stored_dims)
    return replace(target, id=to.emit("reshape", [v.id], {"shape": shape}))


def _shuffled(
    to: Emitter, v: Val, want: tuple[Axis, ...], flat: list[int], goal: list[int]
) -> Val | None:
    """One channel shuffle, where two runs of factors change places within the last axis."""
    same = next(i for i, (a, b) in enumerate(zip(flat, goal, strict=True)) if a != b)
    now, then = flat[same:], goal[same:]
    cut = now.index(then[0])
    if now[cut:] + now[:cut] != then:
        return None
    last_now, last_then = _last(v.stored), _last(want)
    if len(last_now) < len(now) or len(last_then) < len(now):
        return None
    groups = v.size(tuple(now[:cut]))
    if not isinstance(groups, int) or not isinstance(v.size(tuple(now)), int):
        return None
    # Real axes: all before the shuffled run, then the run itself.
    front = _split_last(v.stored, len(now))
    v = _regrouped(to, v, front)
    id = to.emit("channel_shuffle", [v.id], {"groups": groups})
    return replace(v, id=id, stored=(*front[:-1], tuple(then)))


def _last(axes: Sequence[Axis]) -> Axis:
    return next((axis for axis in reversed(axes) if axis), ())


def _split_last(axes: Sequence[Axis], count: int) -> tuple[Axis, ...]:
    """The axes with the last `count` factors as an axis of their own, at the end."""
    kept = list(axes)
    while not kept[-1]:
        kept.pop()
    if len(kept[-1]) == count:
        return tuple(kept)
    return (*kept[:-1], kept[-1][:-count], kept[-1][-count:])


def _turned(to: Emitter, v: Val, want: tuple[Axis, ...]) -> Val:
    """A transpose: of the axes as they are where these are only reordered, else of runs."""
    if sorted(v.stored) == sorted(want):
        perm, taken = [], set()
        for axis in want:  # axes of size 1 in the order in which they come
            k = next(k for k, a in enumerate(v.stored) if a == axis and k not in taken)
            taken.add(k)
            perm.append(k)
        return replace(v, id=to.emit("transpose", [v.id], {"perm": perm}), stored=want)
    flat, goal = _flat(v.stored), _flat(want)
    after = dict(itertools.pairwise(goal))
    runs: list[list[int]] = []
    for f in flat:
        if runs and after.get(runs[-1][-1]) == f:
            runs[-1].append(f)
        else:
            runs.append([f])
    order = sorted(range(len(runs)), key=lambda i: goal.index(runs[i][0]))
    v = _regrouped(to, v, tuple(tuple(run) for run in runs))
    stored = tuple(tuple(runs[i]) for i in order)
    return replace(v, id=to.emit("transpose", [v.id], {"perm": order}), stored=stored)
