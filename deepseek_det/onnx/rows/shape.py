"""Rows that move elements or rename axes; most of them are views and leave nothing in the graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from deepseek_det.onnx import fold, fold_moves, layout
from deepseek_det.onnx.build import Builder, Const, Unsupported, Value, axis_of, operator
from deepseek_det.onnx.dims import Dim, Size, Undecided, product, unequal
from deepseek_det.onnx.ir import Array, Node
from deepseek_det.onnx.layout import Val
from deepseek_det.onnx.read import MAX_RANK

INT64_MAX = (1 << 63) - 1


# ---- views ------------------------------------------------------------------------------------


@operator("Identity")
def identity(b: Builder, node: Node) -> list[Value]:
    return [b.value(node, 0)]


@operator("Dropout", "ratio", "seed", "is_test", inputs=(1, 3))
def dropout(b: Builder, node: Node) -> list[Value]:
    """In inference the identity; one that trains is not a deployed net's."""
    if len([name for name in node.outputs if name]) > 1:
        raise Unsupported("its mask is asked for, which is not supported")
    if b.has(node, 2) and b.number(node, 2, "training_mode"):
        raise Unsupported("training_mode is on, which is not supported")
    return [b.value(node, 0)]


@operator("Shape", "start", "end")
def shape(b: Builder, node: Node) -> list[Value]:
    dims = fold_moves.shape_range(node, b.val(node, 0).dims)
    return [Const(node.outputs[0], fold.shape_array(dims))]


@operator("Size")
def size(b: Builder, node: Node) -> list[Value]:
    return [Const(node.outputs[0], fold.shape_array([product(b.val(node, 0).dims)]).reshape(()))]


def reshaped(b: Builder, v: Val, dims: Sequence[Size]) -> Val:
    """The elements in the file's order under another shape: a view, or a reshape of a copy."""
    if any(isinstance(d, int) and d == 0 for d in dims):
        raise Unsupported(f"an array of the shape {list(dims)}: empty ones are not supported")
    view = v.reshaped(dims)
    if view is not None:
        return view
    v = layout.in_order(b, v)
    id = b.emit("reshape", [v.id], {"shape": layout.new_shape(v.dims, dims)})
    return Val.plain(id, dims, v.dtype)


@operator("Reshape", "allowzero", "shape", inputs=(1, 2))
def reshape(b: Builder, node: Node) -> list[Value]:
    v = b.val(node, 0)
    wanted = b.sizes(node, 1, "the shape")
    keep_zero = bool(node.attributes.get("allowzero", 0))
    return [reshaped(b, v, fold.target_shape(v.dims, wanted, keep_zero))]


@operator("Flatten", "axis")
def flatten(b: Builder, node: Node) -> list[Value]:
    v = b.val(node, 0)
    axis = int(node.attributes.get("axis", 1))
    if not -v.rank <= axis <= v.rank:
        raise ValueError(f"axis {axis} of {v.rank} dimensions")
    axis = axis + v.rank if axis < 0 else axis
    return [reshaped(b, v, [product(v.dims[:axis]), product(v.dims[axis:])])]


def axes_of(b: Builder, node: Node, rank: int, i: int = 1) -> list[int] | None:
    """`axes`, an attribute in old files and input i in new ones, from 0 on; None: not given."""
    axes = node.attributes.get("axes")
    if axes is None and b.has(node, i):
        axes = b.integers(node, i, "axes")
    if axes is None:
        return None
    found = [axis_of(int(a), rank) for a in axes]
    if len(set(found)) < len(found):
        raise ValueError(f"axes are {axes}, each may be named once")
    return found


@operator("Squeeze", "axes", inputs=(1, 2))
def squeeze(b: Builder, node: Node) -> list[Value]:
    v = b.val(node, 0)
    axes = axes_of(b, node, v.rank)
    gone = [k for k, axis in enumerate(v.logical) if not axis] if axes is None else axes
    if any(v.logical[k] for k in gone):
        raise ValueError(f"axes {gone} of {v.dims}, sizes of 1 are needed")
    return [replace(v, logical=tuple(a for k, a in enumerate(v.logical) if k not in gone))]


@operator("Unsqueeze", "axes", inputs=(1, 2))
def unsqueeze(b: Builder, node: Node) -> list[Value]:
    v = b.val(node, 0)
    given = node.attributes.get("axes") or b.integers(node, 1, "axes")
    if len(given) > 16:
        raise ValueError(f"{len(given)} new axes")
    axes = axes_of(b, node, v.rank + len(given))
    kept = iter(v.logical)
    return [
        replace(
            v,
            logical=tuple(
                () if k in (axes or ()) else next(kept) for k in range(v.rank + len(given))
            ),
        )
    ]


@operator("Transpose", "perm")
def transpose(b: Builder, node: Node) -> list[Value]:
    v = b.val(node, 0)
    perm = node.attributes.get("perm", list(range(v.rank))[::-1])
    if sorted(perm) != list(range(v.rank)):
        raise ValueError(f"perm is {perm} for {v.rank} dimensions")
    return [v.transposed(perm)]


# ---- parts ------------------------------------------------------------------------------------


def cut(b: Builder, v: Val, axis: int, start: int, stop: int) -> Val:
    """Positions start to stop of a logical axis of known size."""
    if (start, stop) == (0, v.dims[axis]):
        return v
    v, k, rest = _leading(b, v, axis)
    params = {"starts": [start * rest], "ends": [stop * rest], "axes": [k]}
    return _shortened(replace(v, id=b.emit("slice", [v.id], params)), axis, stop - start)


def _leading(b: Builder, v: Val, axis: int) -> tuple[Val, int, int]:
    """The value stored so that parts of a logical axis are ranges of a stored one.

    The stored axis, and how many of its positions one of the logical axis takes.
    """
    factors = v.logical[axis]
    home = next(k for k, stored in enumerate(v.stored) if factors[0] in stored)
    others = tuple(f for f in v.stored[home] if f != factors[0])
    # Where the file has the others in front of it, each piece is of many small parts anyway.
    first = all(f in _flat(v.logical[axis + 1 :]) for f in others)
    known = all(isinstance(v.sizes[f], int) for f in v.stored[home])
    if len(factors) == 1 and first and known:
        want = list(v.stored)
        want[home] = (*factors, *others)
        v = layout.arrange(b, v, want)
        rest = v.size(others)
        assert isinstance(rest, int)
        return v, home, rest
    v, perm = b.aligned(v)
    return v, perm.index(axis), 1


def _flat(axes: Sequence[layout.Axis]) -> list[int]:
    return [f for axis in axes for f in axis]


def _shortened(v: Val, axis: int, size: Size) -> Val:
    """The value whose logical axis, of one factor, has another size."""
    (factor,) = v.logical[axis]
    sizes = tuple(size if f == factor else s for f, s in enumerate(v.sizes))
    if not (isinstance(size, int) and size == 1):
        return replace(v, sizes=sizes)

    def keep(axes: tuple[layout.Axis, ...]) -> tuple[layout.Axis, ...]:
        return tuple(tuple(f - (f > factor) for f in a if f != factor) for a in axes)

    sizes = tuple(s for f, s in enumerate(v.sizes) if f != factor)
    return Val(v.id, v.dtype, sizes, keep(v.stored), keep(v.logical))


@operator("Slice", "starts", "ends", "axes", inputs=(1, 5))
def slice_(b: Builder, node: Node) -> list[Value]:
    v = b.val(node, 0)
    arrays = [None, *(b.need_const(node, i, "a bound").array if b.has(node, i) else None
                      for i in range(1, len(node.inputs)))]  # fmt: skip
    rest: list[tuple[int, Size, Size, int, Size]] = []
    for axis, start, end, step in fold_moves.cuts(node, arrays, v.rank):
        size = v.dims[axis]
        if isinstance(size, int):
            taken = range(size)[slice(int(start), int(end), step)]
            if not taken:
                raise Unsupported(f"positions {start} to {end} of {size}: an empty array")
            if step == 1:
                if v.logical[axis]:
                    v = cut(b, v, axis, taken.start, taken.stop)
            else:
                rest.append((axis, start, end, step, len(taken)))
        else:
            rest.append((axis, start, end, step, _free_count(size, start, end, step)))
    return [_strided(b, v, [r for r in rest if r[4] != v.dims[r[0]] or r[3] != 1])]


def _free_count(size: Dim, start: Size, end: Size, step: int) -> Size:
    """How many positions of a free size are taken."""
    if isinstance(start, Dim) or step < 1:
        raise Undecided(f"a slice of the free dimension {size} from {start} by {step}")
    first: Size = size + start if start < 0 else start
    if isinstance(end, Dim):
        last: Size = end
        if end != size:
            raise Undecided(f"a slice of the free dimension {size} to {end}")
    elif end < 0:
        last = size + end
    elif end > 1 << 30:
        last = size
    else:
        last = end
    return (last - first + (step - 1)) // step


def _strided(b: Builder, v: Val, cuts: list[tuple[int, Size, Size, int, Size]]) -> Val:
    """What can't be a plain range: steps, and bounds of free axes."""
    if not cuts:
        return v
    v, perm = b.aligned(v)
    dims = list(v.dims)
    starts, ends = [], []
    for axis, start, end, _, count in cuts:
        starts.append(int(start))
        ends.append(INT64_MAX if isinstance(end, Dim) else max(min(end, INT64_MAX), -INT64_MAX))
        dims[axis] = count
    params = {
        "starts": starts,
        "ends": ends,
        "axes": [perm.index(axis) for axis, *_ in cuts],
        "steps": [step for _, _, _, step, _ in cuts],
    }
    return Val.plain(b.emit("slice", [v.id], params), dims, v.dtype, perm)


@operator("Split", "axis", "split", "num_outputs", inputs=(1, 2))
def split(b: Builder, node: Node) -> list[Value]:
    v = b.val(node, 0)
    axis = axis_of(int(node.attributes.get("axis", 0)), v.rank)
    if len(node.outputs) > 64:
        raise Unsupported(f"has {len(node.outputs)} outputs, at most 64 are supported")
    arrays = [None, b.need_const(node, 1, "split").array if b.has(node, 1) else None]
    sizes = fold_moves.split_sizes(node, arrays, v.dims[axis], len(node.outputs))
    if len(sizes) == 1:
        return [v]
    return list(pieces(b, v, axis, sizes))


def pieces(b: Builder, v: Val, axis: int, sizes: list[int]) -> list[Val]:
    """The parts of a logical axis one after another: one `split`, or a slice each."""
    v, k, rest = _leading(b, v, axis)
    if len(set(sizes)) == 1:
        params: dict[str, object] = {"axis": k, "parts": len(sizes)}
    elif len(sizes) <= 8:
        params = {"axis": k, "sizes": [s * rest for s in sizes]}
    else:
        ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
        return [cut(b, v, axis, e - s, e) for s, e in zip(sizes, ends, strict=True)]
    ids = b.emit_many("split", [v.id], params, len(sizes))
    return [_shortened(replace(v, id=id), axis, s) for id, s in zip(ids, sizes, strict=True)]


@operator("Gather", "axis", inputs=(2, 2))
def gather(b: Builder, node: Node) -> list[Value]:
    """Constant places become slices: one position, or positions one after another."""
    v = b.val(node, 0)
    axis = axis_of(int(node.attributes.get("axis", 0)), v.rank)
    given = b.value(node, 1)
    if isinstance(given, Val):
        return [_picked(b, v, given, axis)]
    places = given.array
    size = v.dims[axis]
    if isinstance(size, Dim) or places.dtype.kind not in "iu":
        raise Undecided(f"a gather along the free dimension {size}")
    flat = [int(p) for p in places.reshape(-1)]
    if not flat or any(not -size <= p < size for p in flat):
        raise ValueError(f"indices {flat[:8]} of {size} positions")
    flat = [p % size for p in flat]
    step = flat[1] - flat[0] if len(flat) > 1 else 1
    if places.ndim == 0 and _all_taken(b, node, axis, v.rank, size):
        taken = pieces(b, v, axis, [1] * size)[flat[0]]
        return [replace(taken, logical=(*taken.logical[:axis], *taken.logical[axis + 1 :]))]
    if flat != [flat[0] + i * step for i in range(len(flat))] or step == 0:
        taken = _picked(b, v, _places(b, given.name, np.asarray(flat)), axis)
    elif step == 1:
        taken = cut(b, v, axis, flat[0], flat[-1] + 1) if v.logical[axis] else v
    else:
        stop = flat[-1] + (1 if step > 0 else -1)
        end = stop if stop >= 0 else -INT64_MAX
        taken = _strided(b, v, [(axis, flat[0], end, step, len(flat))])
    if places.ndim == 1:
        return [taken]
    if places.ndim == 0:
        kept = (*taken.logical[:axis], *taken.logical[axis + 1 :])
        return [replace(taken, logical=kept)]
    return [reshaped(b, taken, [*taken.dims[:axis], *places.shape, *taken.dims[axis + 1 :]])]


@operator("GatherND", "batch_dims", inputs=(2, 2))
def gather_nd(b: Builder, node: Node) -> Sequence[Value | None]:
    """Constant places along the first axis alone: a Gather."""
    places = b.need_const(node, 1, "indices")
    if node.attributes.get("batch_dims", 0) or places.array.ndim < 1 or places.array.shape[-1] != 1:
        raise Unsupported("with places along several axes is not supported")
    name = f"{places.name}.first"
    b.env[name] = Const(name, places.array[..., 0])
    plain = replace(node, inputs=[node.inputs[0], name], attributes={"axis": 0})
    return gather(b, plain)


def _all_taken(b: Builder, node: Node, axis: int, rank: int, size: int) -> bool:
    """Whether gathers of one position each take the whole axis, so that it is a split."""
    taken = set()
    for user in b.users.get(node.inputs[0], []):
        places = b.env.get(user.inputs[1]) if user.op == "Gather" else None
        if not isinstance(places, Const) or places.array.ndim or places.array.dtype.kind != "i":
            return False
        if axis_of(int(user.attributes.get("axis", 0)), rank) != axis:
            return False
        taken.add(int(places.array) % size)
    return 1 < size <= 64 and len(taken) == size


def _places(b: Builder, name: str, array: Array) -> Val:
    """Constant places as a value."""
    listed = b.constant(Const(f"{name}.places", array))
    return replace(listed, id=b.emit("cast", [listed.id], {"dtype": "s32"}), dtype="s32")


@operator("GatherElements", "axis", inputs=(2, 2))
def gather_elements(b: Builder, node: Node) -> list[Value]:
    """An element for each place."""
    v, given = b.val(node, 0), b.value(node, 1)
    if isinstance(given, Const):
        if given.array.dtype.kind not in "iu":
            raise Unsupported(f"indices have elements of type {given.array.dtype}")
        given = _places(b, given.name, given.array)
    axis = axis_of(int(node.attributes.get("axis", 0)), v.rank)
    if given.dtype != "s32":
        raise Unsupported(f"indices have elements of type {given.dtype}")
    if given.rank != v.rank or v.rank > MAX_RANK:
        raise ValueError(f"indices are {given.dims}, x is {v.dims}")
    v, given = layout.in_order(b, v), layout.in_order(b, given)
    id = b.emit("gather_elements", [v.id, given.id], {"axis": axis})
    return [Val.plain(id, given.dims, v.dtype)]


@operator("NonMaxSuppression", "center_point_box", inputs=(2, 5))
def non_max_suppression(b: Builder, node: Node) -> list[Value]:
    """A list of no known length; where the net makes a map of scores of it, see `suppress`."""
    raise Unsupported(
        "lists as many boxes as it keeps, which depends on data; it is supported where GatherND "
        "and ScatterND put the scores of all that it lists back into their places"
    )


@operator("Suppress", "iou", "conf", "max_det", "centre", "by_class", inputs=(2, 2))
def suppress(b: Builder, node: Node) -> list[Value]:
    """Made by idioms: the scores that suppression leaves, in their places, zeros elsewhere."""
    boxes, scores = b.val(node, 0), b.val(node, 1)
    if boxes.rank != 3 or scores.rank != 3 or (boxes.dtype, scores.dtype) != ("f32", "f32"):
        raise ValueError(f"boxes are {boxes.dtype} {boxes.dims}, scores {scores.dims}")
    by_class = bool(node.attributes["by_class"])
    if by_class:
        scores = scores.transposed([0, 2, 1])
    params = {name: node.attributes[name] for name in ("iou", "conf", "max_det")}
    params["centre"] = bool(node.attributes["centre"])
    boxes, scores = layout.in_order(b, boxes), layout.in_order(b, scores)
    kept = Val.plain(b.emit("suppress", [boxes.id, scores.id], params), scores.dims)
    return [kept.transposed([0, 2, 1]) if by_class else kept]


def _picked(b: Builder, v: Val, places: Val, axis: int) -> Val:
    """Pieces of a logical axis at places that are a value; their axes take its place."""
    if places.dtype != "s32":
        raise Unsupported(f"indices have elements of type {places.dtype}")
    if v.rank + places.rank - 1 > MAX_RANK:
        raise Unsupported(f"the result has {v.rank + places.rank - 1} dimensions")
    places = layout.in_order(b, places)
    dims = [*v.dims[:axis], *places.dims, *v.dims[axis + 1 :]]
    if places.rank == 1:  # no axis more or less: as it lies
        v, perm = b.aligned(v)
        id = b.emit("gather", [v.id, places.id], {"axis": perm.index(axis)})
        return Val.plain(id, dims, v.dtype, perm)
    v = layout.in_order(b, v)
    return Val.plain(b.emit("gather", [v.id, places.id], {"axis": axis}), dims, v.dtype)


# ---- wholes -----------------------------------------------------------------------------------


def join(b: Builder, values: Sequence[Val], axis: int) -> Val:
    """Values one after another along a logical axis."""
    first = values[0]
    for v in values[1:]:
        fits = v.rank == first.rank and v.dtype == first.dtype
        if not fits or any(
            unequal(x, y)
            for k, (x, y) in enumerate(zip(v.dims, first.dims, strict=True))
            if k != axis
        ):
            raise ValueError(
                f"{v.dtype} {v.dims} joins {first.dtype} {first.dims} along axis {axis}"
            )
    if len(values) == 1:
        return first
    if len(values) > 64:
        return join(b, [join(b, values[:64], axis), *values[64:]], axis)
    lead = max(values, key=lambda v: len(v.sizes))
    _, perm = b.aligned(lead)
    ids = [layout.by_axes(b, v, perm).id for v in values]
    dims = list(first.dims)
    for v in values[1:]:
        dims[axis] = dims[axis] + v.dims[axis]
    id = b.emit("concat", ids, {"axis": perm.index(axis)})
    return Val.plain(id, dims, first.dtype, perm)


@operator("Concat", "axis", inputs=(1, 4096))
def concat(b: Builder, node: Node) -> list[Value]:
    if "axis" not in node.attributes:
        raise ValueError("the attribute axis is missing")
    values = [b.val(node, i) for i in range(len(node.inputs))]
    return [join(b, values, axis_of(int(node.attributes["axis"]), values[0].rank))]


@operator("Expand", inputs=(2, 2))
def expand(b: Builder, node: Node) -> list[Value]:
    v = b.val(node, 0)
    wanted = b.sizes(node, 1, "the shape")
    rank = max(v.rank, len(wanted))
    v = widened(v, rank)
    target = [1] * (rank - len(wanted)) + list(wanted)
    dims: list[Size] = []
    for own, want in zip(v.dims, target, strict=True):
        if unequal(own, want) and own != 1 and want != 1:
            raise ValueError(f"{v.dims} does not broadcast to {wanted}")
        dims.append(own if want == 1 else want)
    return [broadcast(b, v, dims)]


def widened(v: Val, rank: int) -> Val:
    """With axes of size 1 in front, up to a rank."""
    return replace(v, logical=((),) * (rank - v.rank) + v.logical)


def broadcast(b: Builder, v: Val, dims: Sequence[Size]) -> Val:
    """Repeated along its axes of size 1, to the same rank's dims."""
    if list(v.dims) == list(dims):
        return v
    v, perm = b.aligned(v)
    stored = [dims[k] for k in perm]
    shape = [
        d if isinstance(d, int) else -1 if d == own else None
        for d, own in zip(stored, v.stored_dims, strict=True)
    ]
    if None in shape:
        like = b.like(dims)
        if like is None:
            raise Undecided(f"an expansion of {v.dims} to {tuple(dims)} depends on free dimensions")
        like, perm = b.aligned(like)
        v = layout.by_axes(b, v, perm)
        return Val.plain(b.emit("expand", [v.id, like.id], {}), dims, v.dtype, perm)
    id = b.emit("expand", [v.id], {"shape": shape})
    return Val.plain(id, dims, v.dtype, perm)


@operator("ConstantOfShape", "value")
def constant_of_shape(b: Builder, node: Node) -> list[Value]:
    """Of free sizes: one number, broadcast. Others are computed."""
    dims = b.sizes(node, 0, "the shape")
    value = node.attributes.get("value", np.zeros(1, np.float32))
    if not isinstance(value, np.ndarray) or value.size != 1:
        raise ValueError("value is no single number")
    if value.dtype.kind != "f":
        raise Unsupported(f"a constant of {value.dtype} and free dimensions")
    one = b.constant(Const(f"number.{value.item()!r}", value.reshape([1] * len(dims))))
    return [broadcast(b, one, dims)]


@operator("Tile", inputs=(2, 2))
def tile(b: Builder, node: Node) -> list[Value]:
    v = b.val(node, 0)
    repeats = b.integers(node, 1, "repeats")
    if len(repeats) != v.rank or any(not 1 <= r <= 1 << 20 for r in repeats):
        raise ValueError(f"repeats are {repeats} for {v.rank} dimensions")
    for axis, times in enumerate(repeats):
        if times == 1:
            continue
        # A new axis in front of the repeated one, broadcast, then both are one.
        dims = v.dims
        wide = replace(v, logical=(*v.logical[:axis], (), *v.logical[axis:]))
        wide = broadcast(b, wide, [*dims[:axis], times, *dims[axis:]])
        v = reshaped(b, wide, [*dims[:axis], dims[axis] * times, *dims[axis + 1 :]])
    return [v]


@operator("Pad", "mode", "pads", "value", inputs=(1, 4))
def pad(b: Builder, node: Node) -> list[Value]:
    v = b.val(node, 0)
    pads, axes = pads_of(b, node, v.rank)
    before, after = [0] * v.rank, [0] * v.rank
    for i, axis in enumerate(axes):
        before[axis], after[axis] = pads[i], pads[len(axes) + i]
    for axis in range(v.rank):  # a negative pad cuts
        if before[axis] < 0 or after[axis] < 0:
            size = v.dims[axis]
            low, high = max(-before[axis], 0), max(-after[axis], 0)
            if isinstance(size, Dim) or low + high >= size:
                raise Unsupported(f"pads {before[axis]} and {after[axis]} of {size} positions")
            v = cut(b, v, axis, low, size - high)
    before, after = [max(p, 0) for p in before], [max(p, 0) for p in after]
    if not any(before) and not any(after):
        return [v]
    value = float(node.attributes.get("value", 0.0))
    if b.has(node, 2):
        value = b.number(node, 2, "the value")
    return [padded(b, v, before, after, node.attributes.get("mode", "constant"), value)]


def pads_of(b: Builder, node: Node, rank: int) -> tuple[list[int], list[int]]:
    """Pad's pads (all before, then all after) and the axes that they are for."""
    pads = node.attributes.get("pads") if node.opset < 11 else b.integers(node, 1, "pads")
    if pads is None:
        raise ValueError("pads are missing")
    axes = axes_of(b, node, rank, 3)
    axes = list(range(rank)) if axes is None else axes
    if len(pads) != 2 * len(axes) or any(abs(p) > 1 << 30 for p in pads):
        raise ValueError(f"pads are {pads[:16]} for {len(axes)} axes")
    return [int(p) for p in pads], axes


def padded(
    b: Builder, v: Val, before: list[int], after: list[int], mode: str, value: float = 0.0
) -> Val:
    """The value with positions around it."""
    modes = ("constant", "edge", "reflect", "wrap")
    if mode not in modes or v.dtype != "f32":
        raise Unsupported(f"mode {mode!r} of {v.dtype} is not supported")
    v, perm = b.aligned(v)
    params: dict[str, object] = {
        "before": [before[k] for k in perm],
        "after": [after[k] for k in perm],
    }
    if mode == "constant":
        params["value"] = value
    else:
        params["mode"] = mode
    dims = [d + before[k] + after[k] for k, d in enumerate(v.dims)]
    return Val.plain(b.emit("pad", [v.id], params), dims, v.dtype, perm)


# ---- depth and space --------------------------------------------------------------------------


@operator("DepthToSpace", "blocksize", "mode")
def depth_to_space(b: Builder, node: Node) -> list[Value]:
    """DCR is the engine's; CRD, torch's pixel_shuffle, needs the channels shuffled before."""
    v = b.images(b.val(node, 0))
    n, c, h, w = v.dims
    block = int(node.attributes.get("blocksize", 0))
    mode = node.attributes.get("mode", "DCR")
    if mode not in ("DCR", "CRD") or not isinstance(c, int) or block < 1 or c % (block * block):
        raise ValueError(f"mode {mode!r}, blocks of {block}, {c} channels")
    each = c // (block * block)
    id = v.id
    if mode == "CRD" and each > 1 and block > 1:
        id = b.emit("channel_shuffle", [id], {"groups": each})
    id = b.emit("depth_to_space", [id], {"block": block})
    return [Val.plain(id, [n, each, h * block, w * block], v.dtype, layout.NHWC)]


@operator("SpaceToDepth", "blocksize", "mode")
def space_to_depth(b: Builder, node: Node) -> list[Value]:
    v = b.images(b.val(node, 0))
    n, c, h, w = v.dims
    block = int(node.attributes.get("blocksize", 0))
    if block < 1 or unequal(h % block, 0) or unequal(w % block, 0):
        raise ValueError(f"blocks of {block} in {h}×{w}")
    id = b.emit("space_to_depth", [v.id], {"block": block})
    mode = node.attributes.get("mode", "DCR")
    if mode not in ("DCR", "CRD"):
        raise ValueError(f"mode is {mode!r}")
    if mode == "CRD" and c != 1 and block > 1:
        id = b.emit("channel_shuffle", [id], {"groups": block * block})
    return [Val.plain(id, [n, c * block * block, h // block, w // block], v.dtype, layout.NHWC)]
