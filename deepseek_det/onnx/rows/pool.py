"""Rows of windows over maps: pools, and the geometry that convolutions share; resize."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from deepseek_det.onnx import layout
from deepseek_det.onnx.build import Builder, Unsupported, Value, operator
from deepseek_det.onnx.dims import Dim, Size, Undecided, quotient
from deepseek_det.onnx.ir import Node
from deepseek_det.onnx.layout import Val

LARGEST = 1 << 20  # of a kernel's side, a stride, a dilation, a pad


def as_map(b: Builder, v: Val) -> Val:
    """A rank-4 value as it is, a rank-3 one (N, C, L) as a map of one row."""
    if v.rank == 3:
        v = replace(v, logical=(*v.logical[:2], (), v.logical[2]))
    if v.rank != 4:
        raise Unsupported(f"x has {v.rank} dimensions, 3 or 4 are supported")
    if v.dtype != "f32":
        raise Unsupported(f"x has elements of type {v.dtype}, floats are needed")
    return b.images(v)


def as_before(v: Val, rank: int) -> Val:
    """The inverse, of a result."""
    return replace(v, logical=(*v.logical[:2], v.logical[3])) if rank == 3 else v


def integers(node: Node, name: str, n: int, initial: int, low: int) -> list[int]:
    """A list attribute for n axes of the map, checked."""
    given = node.attributes.get(name)
    values = [initial] * n if given is None else [int(v) for v in given]
    if len(values) != n or any(not low <= v <= LARGEST for v in values):
        raise ValueError(f"{name} is {values[:8]}, {n} numbers from {low} on are needed")
    return values


class Windows:
    """Kernel, stride, pads and dilation of a node on a map, both axes given even for 1-D nodes."""

    def __init__(
        self, node: Node, x: Val, rank: int, kernel: Sequence[int], turned: bool = False
    ) -> None:
        """turned: of a transposed convolution, which finds SAME pads by itself."""
        n = rank - 2
        if len(kernel) != n or any(not 1 <= k <= LARGEST for k in kernel):
            raise ValueError(f"the kernel is {list(kernel)} for {n} axes of the map")
        one = [1] * (2 - n)
        self.kernel = one + [int(k) for k in kernel]
        self.stride = one + integers(node, "strides", n, 1, 1)
        self.dilation = one + integers(node, "dilations", n, 1, 1)
        self.ceil = bool(node.attributes.get("ceil_mode", 0))
        auto = node.attributes.get("auto_pad", "NOTSET") or "NOTSET"
        if auto in ("SAME_UPPER", "SAME_LOWER") and turned:
            self.before, self.after = [0, 0], [0, 0]
        elif auto in ("SAME_UPPER", "SAME_LOWER"):
            self._same(x.dims[2:], auto == "SAME_LOWER")
        elif auto in ("NOTSET", "VALID"):
            pads = [0] * (2 * n) if auto == "VALID" else integers(node, "pads", 2 * n, 0, 0)
            zero = [0] * (2 - n)
            self.before, self.after = zero + pads[:n], zero + pads[n:]
        else:
            raise ValueError(f"auto_pad is {auto!r}")

    @property
    def pads(self) -> list[int]:
        """(top, left, bottom, right)."""
        return [*self.before, *self.after]

    def _same(self, dims: Sequence[Size], lower: bool) -> None:
        """As many outputs as ceil(size / stride); the odd pad goes after, or before."""
        self.before, self.after = [0, 0], [0, 0]
        for k, size in enumerate(dims):
            reach = (self.kernel[k] - 1) * self.dilation[k] + 1
            if isinstance(size, int):
                out = -(-size // self.stride[k])
                total = max((out - 1) * self.stride[k] + reach - size, 0)
            elif self.stride[k] == 1:
                total = reach - 1
            else:
                raise Undecided(f"SAME pads depend on the free dimension {size}")
            self.before[k] = (total + lower) // 2
            self.after[k] = total - self.before[k]

    def out(self, dims: Sequence[Size]) -> list[Size]:
        """Sizes of the map of outputs."""
        made: list[Size] = []
        for k, size in enumerate(dims):
            reach = (self.kernel[k] - 1) * self.dilation[k] + 1
            room = size + self.before[k] + self.after[k] - reach
            if isinstance(room, int) and room < 0:
                raise ValueError(f"windows of {reach} on {size} pixels with pads")
            if not self.ceil:
                made.append(room // self.stride[k] + 1)
                continue
            count = (room + (self.stride[k] - 1)) // self.stride[k] + 1
            # The last window begins inside the map or its pad in front.
            if isinstance(count, int) and isinstance(size, int):
                count -= (count - 1) * self.stride[k] >= size + self.before[k]
            made.append(count)
        return made

    def params(self, *names: str) -> dict[str, Any]:
        """The engine's attributes among kernel, stride, pads, dilation."""
        given = {
            "kernel": self.kernel,
            "stride": self.stride,
            "pads": self.pads,
            "dilation": self.dilation,
        }
        made = {name: given[name] for name in names}
        if self.dilation == [1, 1]:
            made.pop("dilation", None)
        return made


# ---- pools ------------------------------------------------------------------------------------


def _pool(b: Builder, node: Node, op: str, **more: Any) -> Val:
    x = b.val(node, 0)
    rank = x.rank
    if "kernel_shape" not in node.attributes:
        raise ValueError("the attribute kernel_shape is missing")
    x = as_map(b, x)
    w = Windows(node, x, rank, node.attributes["kernel_shape"])
    n, c, *map_ = x.dims
    dims = [n, c, *w.out(map_)]
    params = {**w.params("kernel", "stride", "pads", "dilation"), **more}
    if w.ceil:
        params["ceil_mode"] = True
    id = b.emit(op, [x.id], params)
    return as_before(Val.plain(id, dims, "f32", layout.NHWC), rank)


@operator(
    "MaxPool",
    "auto_pad",
    "ceil_mode",
    "dilations",
    "kernel_shape",
    "pads",
    "storage_order",
    "strides",
)
def max_pool(b: Builder, node: Node) -> list[Value]:
    if len([name for name in node.outputs if name]) > 1:
        raise Unsupported("its indices are asked for, which is not supported")
    return [_pool(b, node, "max_pool")]


@operator(
    "AveragePool",
    "auto_pad",
    "ceil_mode",
    "count_include_pad",
    "dilations",
    "kernel_shape",
    "pads",
    "strides",
)
def average_pool(b: Builder, node: Node) -> list[Value]:
    count = bool(node.attributes.get("count_include_pad", 0))
    return [_pool(b, node, "avg_pool", count_pad=count)]


def _global(b: Builder, node: Node, op: str, kind: str) -> Val:
    x = b.val(node, 0)
    if x.rank == 4:
        x = as_map(b, x)
        n, c, _, _ = x.dims
        return Val.plain(b.emit(op, [x.id], {}), [n, c, 1, 1], "f32", layout.NHWC)
    if x.rank < 3 or x.dtype != "f32":
        raise Unsupported(f"x is {x.dtype} with {x.rank} dimensions")
    x, perm = b.aligned(x)
    axes = [k for k, axis in enumerate(perm) if axis > 1]
    id = b.emit("reduce", [x.id], {"kind": kind, "axes": axes, "keepdims": True})
    return Val.plain(id, [*x.dims[:2], *[1] * (x.rank - 2)], "f32", perm)


@operator("GlobalAveragePool")
def global_average_pool(b: Builder, node: Node) -> list[Value]:
    return [_global(b, node, "avg_pool", "mean")]


@operator("GlobalMaxPool")
def global_max_pool(b: Builder, node: Node) -> list[Value]:
    return [_global(b, node, "max_pool", "max")]


# ---- resize -----------------------------------------------------------------------------------


@operator(
    "Resize",
    "antialias",
    "axes",
    "coordinate_transformation_mode",
    "cubic_coeff_a",
    "exclude_outside",
    "extrapolation_value",
    "keep_aspect_ratio_policy",
    "mode",
    "nearest_mode",
    inputs=(1, 4),
)
def resize(b: Builder, node: Node) -> list[Value]:
    x = b.val(node, 0)
    scales, sizes = _targets(b, node, x)
    old = node.opset < 11
    coordinates = (
        "asymmetric" if old else node.attributes.get("coordinate_transformation_mode", "half_pixel")
    )
    rounding = "floor" if old else node.attributes.get("nearest_mode", "round_prefer_floor")
    mode = node.attributes.get("mode", "nearest")
    if node.attributes.get("antialias", 0):
        raise Unsupported("antialias is not supported")
    options = resize_options(mode, coordinates, rounding)
    if mode == "cubic":
        options["cubic_a"] = float(node.attributes.get("cubic_coeff_a", -0.75))
        options["exclude_outside"] = bool(node.attributes.get("exclude_outside", 0))
    elif node.attributes.get("exclude_outside", 0) and mode != "nearest":
        raise Unsupported("exclude_outside is supported in mode 'cubic'")
    return [resized(b, x, scales, sizes, options)]


@operator("Upsample", "mode", "scales", inputs=(1, 2))
def upsample(b: Builder, node: Node) -> list[Value]:
    """Before opset 10: a resize without offsets."""
    x = b.val(node, 0)
    given = node.attributes.get("scales")
    scales = [float(s) for s in given] if given is not None else _floats(b, node, 1)
    dims = _scaled(x.dims, scales)
    mode = node.attributes.get("mode", "nearest")
    return [resized(b, x, scales, dims, resize_options(mode, "asymmetric", "floor"))]


def _floats(b: Builder, node: Node, i: int) -> list[float]:
    array = b.need_const(node, i, "scales").array
    if array.dtype.kind != "f" or array.ndim != 1:
        raise ValueError("scales are no list of floats")
    return [float(s) for s in array]


def _scaled(dims: Sequence[Size], scales: Sequence[float]) -> list[Size]:
    """floor(size · scale)."""
    if len(scales) != len(dims) or any(not 1e-6 <= s <= 1e6 for s in scales):
        raise ValueError(f"scales are {list(scales)[:8]} for {len(dims)} dimensions")
    made: list[Size] = []
    for size, scale in zip(dims, scales, strict=True):
        if isinstance(size, int):
            made.append(math.floor(size * scale))
        elif scale.is_integer():
            made.append(size * int(scale))
        elif (1 / scale).is_integer():
            made.append(size // int(1 / scale))
        else:
            raise Undecided(f"{scale} times the free dimension {size}")
    return made


def _targets(b: Builder, node: Node, x: Val) -> tuple[list[float] | None, list[Size]]:
    """The scales where these are given, and the sizes of the result."""
    i_scales, i_sizes = (1, 9) if node.opset < 11 else (2, 3)
    axes = node.attributes.get("axes")
    axes = list(range(x.rank)) if axes is None else [int(a) % x.rank for a in axes]
    if len(set(axes)) < len(axes):
        raise ValueError(f"axes are {axes}")
    dims = list(x.dims)
    given = b.const(node, i_scales)
    if given is not None and given.array.size:
        floats = _floats(b, node, i_scales)
        if len(floats) != len(axes):
            raise ValueError(f"{len(floats)} scales for {len(axes)} axes")
        scales = [1.0] * x.rank
        for axis, s in zip(axes, floats, strict=True):
            scales[axis] = s
        return scales, _scaled(dims, scales)
    wanted = b.sizes(node, i_sizes, "sizes")
    if len(wanted) != len(axes):
        raise ValueError(f"{len(wanted)} sizes for {len(axes)} axes")
    policy = node.attributes.get("keep_aspect_ratio_policy", "stretch")
    if policy != "stretch":
        known = [(dims[a], w) for a, w in zip(axes, wanted, strict=True)]
        if any(isinstance(d, Dim) or isinstance(w, Dim) for d, w in known):
            raise Undecided("the aspect of free dimensions")
        ratios = [int(w) / int(d) for d, w in known]
        ratio = min(ratios) if policy == "not_larger" else max(ratios)
        for axis in axes:
            dims[axis] = math.floor(ratio * int(dims[axis]) + 0.5)
        return None, dims
    for axis, w in zip(axes, wanted, strict=True):
        dims[axis] = w
    return None, dims


def resized(
    b: Builder,
    x: Val,
    scales: Sequence[float] | None,
    dims: Sequence[Size],
    extra: Mapping[str, Any],
) -> Val:
    """A map under another size; extra: the engine's attributes beside it."""
    rank = x.rank
    if rank in (3, 4) and list(dims[:2]) != list(x.dims[:2]):
        raise Unsupported(f"from {x.dims} to {tuple(dims)}: only maps are resized")
    x = as_map(b, x)
    target = list(dims) if rank == 4 else [dims[0], dims[1], 1, dims[2]]
    if scales is None:
        params = _by_sizes(x.dims[2:], target[2:])
        if params is not None and not params:
            like = b.map_of_size(target[2:])
            if like is None:
                raise Undecided(f"a resize from {x.dims} to {tuple(target)} is of free dimensions")
            id = b.emit("resize", [x.id, like], dict(extra))
            return as_before(Val.plain(id, target, "f32", layout.NHWC), rank)
    else:
        full = list(scales) if rank == 4 else [1.0, 1.0, 1.0, scales[2]]
        params = {"scale": [float(s) for s in full[2:]]}
        whole = all(float(s).is_integer() or (isinstance(d, int) and (d * s).is_integer())
                    for d, s in zip(x.dims[2:], params["scale"], strict=True))  # fmt: skip
        if extra.get("coordinates") == "align_corners" and not whole:
            # The standard's reference and the runtimes differ there.
            raise Unsupported("align_corners with a scale that does not come out whole")
        sizes = [math.floor(d * s) for d, s in zip(x.dims[2:], full[2:], strict=True)
                 if isinstance(d, int)]  # fmt: skip
        if sizes != [t for t in target[2:] if isinstance(t, int)]:
            raise ValueError(f"scales {full[2:]} from {x.dims[2:]} to {target[2:]}")
    if params is None or params.get("scale") == [1.0, 1.0]:
        return as_before(x, rank)
    params.update(extra)
    id = b.emit("resize", [x.id], params)
    return as_before(Val.plain(id, target, "f32", layout.NHWC), rank)


def _by_sizes(old: Sequence[Size], new: Sequence[Size]) -> dict[str, Any] | None:
    """The engine's attributes for given sizes; None where nothing changes, empty where free."""
    if list(old) == list(new):
        return None
    if any(isinstance(s, int) and not 1 <= s <= 1 << 20 for s in new):
        raise ValueError(f"sizes of {list(new)}")
    factors = [_factor(o, n) for o, n in zip(old, new, strict=True)]
    known = [f for f in factors if f is not None]
    if len(known) == len(factors):
        return {"scale": known}  # says the same of maps of any size
    if all(isinstance(s, int) for s in new):
        return {"size": [int(s) for s in new]}
    return {}


def _factor(old: Size, new: Size) -> float | None:
    """new / old where it is a whole number, or one over a power of two: exact as a float."""
    up, down = quotient(new, old), quotient(old, new)
    if isinstance(up, int):
        return float(up)
    if isinstance(down, int) and down & (down - 1) == 0:
        return 1.0 / down
    return None


_MODES = {"nearest": "nearest", "linear": "bilinear", "bilinear": "bilinear", "cubic": "cubic"}
_COORDINATES = {
    "half_pixel": "half_pixel",
    "pytorch_half_pixel": "pytorch_half_pixel",
    "asymmetric": "asymmetric",
    "align_corners": "align_corners",
    "half_pixel_symmetric": "symmetric",
}
_ROUNDING = {
    "floor": "floor",
    "ceil": "ceil",
    "round_prefer_floor": "half_down",
    "round_prefer_ceil": "half_up",
}


def resize_options(mode: str, coordinates: str, rounding: str) -> dict[str, Any]:
    """The engine's attributes for ONNX' words."""
    if mode not in _MODES or coordinates not in _COORDINATES or rounding not in _ROUNDING:
        raise Unsupported(f"mode {mode!r} with {coordinates!r} and {rounding!r} is not supported")
    options: dict[str, Any] = {"mode": _MODES[mode]}
    if mode == "nearest" and (coordinates, rounding) == ("asymmetric", "floor"):
        return options
    options["coordinates"] = _COORDINATES[coordinates]
    if mode == "nearest":
        options["rounding"] = _ROUNDING[rounding]
    elif mode != "cubic" and coordinates == "half_pixel":
        del options["coordinates"]
    return options
