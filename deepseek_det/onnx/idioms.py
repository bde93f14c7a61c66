"""What exporters write in several nodes is one operator again, before the graph is built.

Each idiom is a function of the last node of its pattern. It turns that node into the operator that
the whole is; what nobody reads any more is dropped afterwards, so a pattern may well have readers
in its middle. Channel shuffles are no idiom here: they fall out of `layout`.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable

import numpy as np

from deepseek_det.onnx import fold_moves
from deepseek_det.onnx.ir import Array, Model, Node

Idiom = Callable[["Net", Node], bool]
IDIOMS: list[tuple[tuple[str, ...], Idiom]] = []


def idiom(*last: str) -> Callable[[Idiom], Idiom]:
    """Enters a function for patterns that end with these operators."""

    def enter(f: Idiom) -> Idiom:
        IDIOMS.append((last, f))
        return f

    return enter


class Net:
    """A model's nodes by what they make and read."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.makers = {name: node for node in model.nodes for name in node.outputs if name}
        self.readers: dict[str, int] = {}
        for node in model.nodes:
            for name in node.inputs:
                self.readers[name] = self.readers.get(name, 0) + 1
        self.outputs = {port.name for port in model.outputs}

    def maker(self, name: str, *ops: str) -> Node | None:
        """The node that makes a value as its first output, if it is one of these operators."""
        node = self.makers.get(name)
        return node if node and node.op in ops and node.outputs[0] == name else None

    def array(self, name: str) -> Array | None:
        """A constant's array."""
        return self.model.constants.get(name)

    def number(self, name: str) -> float | None:
        """A constant of one element."""
        array = self.array(name)
        return float(array.reshape(()).item()) if array is not None and array.size == 1 else None

    def operands(self, node: Node) -> list[tuple[str, str]]:
        """Both orders of the inputs of a node that has two."""
        if len(node.inputs) != 2 or not all(node.inputs):
            return []
        x, y = node.inputs
        return [(x, y), (y, x)]

    def with_number(self, node: Node | None, number: float) -> str | None:
        """The other operand of a node that has this number as one."""
        if node is None:
            return None
        for x, y in self.operands(node):
            found = self.number(y)
            if found is not None and math.isclose(found, number, rel_tol=1e-4, abs_tol=1e-12):
                return x
        return None

    def become(self, node: Node, op: str, inputs: list[str], **attributes: object) -> bool:
        """The node is now another one."""
        node.op, node.inputs, node.attributes = op, inputs, dict(attributes)
        return True


def rewrite(model: Model) -> None:
    """Constants out of nodes, then all idioms, then away with what nobody reads."""
    kept = []
    for node in model.nodes:
        value = node.attributes.get("value")
        if node.op == "Constant" and len(node.attributes) == 1 and isinstance(value, np.ndarray):
            model.constants[node.outputs[0]] = value
        elif node.op == "Identity" and node.inputs[:1] and node.inputs[0] in model.constants:
            # An exporter's twin of an equal constant: a parameter of its own.
            model.constants[node.outputs[0]] = model.constants[node.inputs[0]]
        else:
            kept.append(node)
    model.nodes = kept
    net = Net(model)
    for ops, f in IDIOMS:
        for node in model.nodes:
            if node.op in ops:
                # A node that is not made as the idiom expects is reported when it is built.
                with contextlib.suppress(ValueError, TypeError, LookupError, AttributeError):
                    f(net, node)
    _drop_unread(model)


def _drop_unread(model: Model) -> None:
    wanted = {port.name for port in model.outputs}
    kept = []
    for node in reversed(model.nodes):
        if any(name in wanted for name in node.outputs):
            kept.append(node)
            node.outputs = [name if name in wanted else "" for name in node.outputs]
            wanted.update(node.inputs)
    model.nodes = kept[::-1]


# ---- activations ------------------------------------------------------------------------------


@idiom("Mul")
def silu(net: Net, node: Node) -> bool:
    """x · sigmoid(x)."""
    for x, y in net.operands(node):
        inner = net.maker(y, "Sigmoid")
        if inner and inner.inputs == [x]:
            return net.become(node, "Silu", [x])
    return False


@idiom("Log")
def softplus(net: Net, node: Node) -> bool:
    """log(exp(x) + 1)."""
    x = net.with_number(net.maker(node.inputs[0], "Add"), 1.0)
    inner = net.maker(x, "Exp") if x else None
    return inner is not None and net.become(node, "Softplus", inner.inputs[:1])


@idiom("Mul")
def mish(net: Net, node: Node) -> bool:
    """x · tanh(softplus(x))."""
    for x, y in net.operands(node):
        tanh = net.maker(y, "Tanh")
        inner = net.maker(tanh.inputs[0], "Softplus") if tanh else None
        if inner and inner.inputs == [x]:
            return net.become(node, "Mish", [x])
    return False


def _clipped_at_6(net: Net, name: str) -> str | None:
    """x of clip(x + 3, 0, 6)."""
    node = net.maker(name, "Clip")
    if node is None:
        return None
    low, high = node.attributes.get("min"), node.attributes.get("max")
    if len(node.inputs) > 2:
        low, high = (net.number(n) for n in node.inputs[1:3])
    if low != 0 or high != 6:
        return None
    return net.with_number(net.maker(node.inputs[0], "Add"), 3.0)


@idiom("Div", "Mul")
def hard_sigmoid(net: Net, node: Node) -> bool:
    """clip(x + 3, 0, 6) / 6, the division after or as a product."""
    if node.op == "Div" and net.number(node.inputs[1]) != 6:
        return False
    inner = node.inputs[0] if node.op == "Div" else net.with_number(node, 1 / 6)
    x = _clipped_at_6(net, inner) if inner else None
    return bool(x) and net.become(node, "HardSigmoid", [x or ""], alpha=1 / 6, beta=0.5)


@idiom("Mul", "Div")
def hard_swish(net: Net, node: Node) -> bool:
    """x · hard_sigmoid(x), or x · clip(x + 3, 0, 6) / 6."""
    if node.op == "Mul":
        for x, y in net.operands(node):
            inner = net.maker(y, "HardSigmoid")
            if inner and inner.inputs == [x]:
                alpha = float(inner.attributes.get("alpha", 0.2))
                if math.isclose(alpha, 1 / 6, rel_tol=1e-4) and (
                    inner.attributes.get("beta", 0.5) == 0.5
                ):
                    return net.become(node, "HardSwish", [x])
    whole = node.inputs[0] if node.op == "Div" and net.number(node.inputs[1]) == 6 else None
    if node.op == "Mul":
        whole = net.with_number(node, 1 / 6)
    product = net.maker(whole, "Mul") if whole else None
    for x, y in net.operands(product) if product else []:
        if _clipped_at_6(net, y) == x:
            return net.become(node, "HardSwish", [x])
    return False


@idiom("Mul")
def gelu(net: Net, node: Node) -> bool:
    """x · ½ · (1 + erf(x / √2)), the three factors in any order."""
    factors: list[str] = []
    todo = [node.inputs]
    while todo:
        for name in todo.pop():
            inner = net.maker(name, "Mul")
            if inner and len(factors) + len(todo) < 4:
                todo.append(inner.inputs)
            else:
                factors.append(name)
    halves = [f for f in factors if net.number(f) == 0.5]
    for name in factors:
        erf_name = net.with_number(net.maker(name, "Add"), 1.0)
        erf = net.maker(erf_name, "Erf") if erf_name else None
        x = _over_root_2(net, erf.inputs[0]) if erf else None
        if x and len(halves) == 1 and sorted(factors) == sorted([x, halves[0], name]):
            return net.become(node, "Gelu", [x])
    return False


def _over_root_2(net: Net, name: str) -> str | None:
    node = net.maker(name, "Div")
    if node and math.isclose(net.number(node.inputs[1]) or 0, math.sqrt(2), rel_tol=1e-4):
        return node.inputs[0]
    return net.with_number(net.maker(name, "Mul"), math.sqrt(0.5))


@idiom("Div")
def layer_norm(net: Net, node: Node) -> bool:
    """(x - mean) / √(mean of (x - mean)² + eps) over one axis."""
    apart = net.maker(node.inputs[0], "Sub")
    root = net.maker(node.inputs[1], "Sqrt")
    total = net.maker(root.inputs[0], "Add") if root else None
    mean = net.maker(apart.inputs[1], "ReduceMean") if apart else None
    if not apart or not total or not mean or mean.inputs[0] != apart.inputs[0]:
        return False
    for name, eps_name in net.operands(total):
        eps, variance = net.number(eps_name), net.maker(name, "ReduceMean")
        square = net.maker(variance.inputs[0], "Pow", "Mul") if variance else None
        if eps is None or not variance or not square:
            continue
        squared = square.inputs[1] == node.inputs[0] or (
            square.op == "Pow" and net.number(square.inputs[1]) == 2
        )
        axis, other = _one_axis(net, mean), _one_axis(net, variance)
        if squared and square.inputs[0] == node.inputs[0] and axis == other is not None:
            return net.become(node, "LayerNorm", [apart.inputs[0]], axis=axis, epsilon=eps)
    return False


def _one_axis(net: Net, node: Node) -> int | None:
    """The axis of a reduction over one that keeps it."""
    axes = node.attributes.get("axes")
    if axes is None and len(node.inputs) > 1:
        array = net.array(node.inputs[1])
        axes = None if array is None else array.reshape(-1).tolist()
    kept = node.attributes.get("keepdims", 1) == 1
    return int(axes[0]) if kept and axes is not None and len(axes) == 1 else None


@idiom("Add")
def scaled_layer_norm(net: Net, node: Node) -> bool:
    """Its scale and bias, a value a position of the axis."""
    for y, beta in net.operands(node):
        product = net.maker(y, "Mul")
        for z, gamma in net.operands(product) if product else []:
            norm = net.maker(z, "LayerNorm")
            scales = [net.array(name) for name in (gamma, beta)]
            if norm is None or len(norm.inputs) != 1 or any(s is None for s in scales):
                continue
            axis = norm.attributes["axis"]
            fits = axis == -1 and all(s is not None and s.ndim == 1 for s in scales)
            first = axis == 1 and all(s is not None and s.shape[1:] == (1, 1) for s in scales)
            if fits or first:
                inputs = [norm.inputs[0], gamma, beta]
                return net.become(node, "LayerNorm", inputs, **norm.attributes)
    return False


@idiom("Add")
def group_norm(net: Net, node: Node) -> bool:
    """torch's: reshaped to groups, an instance norm, reshaped back, then scale and bias."""
    for y, beta in net.operands(node):
        product = net.maker(y, "Mul")
        for z, gamma in net.operands(product) if product else []:
            back = net.maker(z, "Reshape")
            norm = net.maker(back.inputs[0], "InstanceNormalization") if back else None
            apart = net.maker(norm.inputs[0], "Reshape") if norm else None
            if not back or not norm or not apart or len(norm.inputs) != 3:
                continue
            ones, zeros = (net.array(name) for name in norm.inputs[1:])
            scales = [net.array(name) for name in (gamma, beta)]
            if ones is None or zeros is None or np.any(ones != 1) or np.any(zeros != 0):
                continue
            if any(s is None or s.shape[1:] != (1, 1) for s in scales):
                continue
            inputs = [apart.inputs[0], apart.inputs[1], back.inputs[1], gamma, beta]
            epsilon = norm.attributes.get("epsilon", 1e-5)
            return net.become(node, "GroupNorm", inputs, num_groups=ones.size, epsilon=epsilon)
    return False


# ---- products and pads ------------------------------------------------------------------------


@idiom("Add")
def linear(net: Net, node: Node) -> bool:
    """x · W + bias with constants."""
    for y, name in net.operands(node):
        bias = net.array(name)
        inner = net.maker(y, "MatMul")
        weight = net.array(inner.inputs[1]) if inner else None
        if inner is None or bias is None or weight is None or weight.ndim != 2:
            continue
        if bias.shape == weight.shape[1:]:
            return net.become(node, "Linear", [*inner.inputs, name])
    return False


@idiom("Conv", "AveragePool")
def padded_window(net: Net, node: Node) -> bool:
    """Zeros around a map go into the pads of the window that reads it."""
    pad = net.maker(node.inputs[0], "Pad")
    if pad is None or node.attributes.get("auto_pad", "NOTSET") != "NOTSET":
        return False
    if node.op == "AveragePool":
        # The pads count only where it had none of its own, or where they count as well.
        own = any(node.attributes.get("pads", []))
        if (own and not node.attributes.get("count_include_pad", 0)) or node.attributes.get(
            "ceil_mode", 0
        ):
            return False
    pads = _zeros_around(net, pad)
    if pads is None or len(pads) != 8 or any(pads[:2] + pads[4:6]) or min(pads) < 0:
        return False
    old = node.attributes.get("pads", [0, 0, 0, 0])
    if len(old) != 4:
        return False
    more = {"count_include_pad": 1} if node.op == "AveragePool" else {}
    new = [a + b for a, b in zip(old, pads[2:4] + pads[6:8], strict=True)]
    kernel = node.attributes.get("kernel_shape", [])
    if node.op == "AveragePool" and any(p >= k for p, k in zip(new, [*kernel] * 2, strict=False)):
        return False
    attributes = {**node.attributes, "pads": new, **more}
    return net.become(node, node.op, [pad.inputs[0], *node.inputs[1:]], **attributes)


def _zeros_around(net: Net, pad: Node) -> list[int] | None:
    """The pads of a Pad that fills with zeros."""
    if pad.attributes.get("mode", "constant") != "constant" or pad.attributes.get("value", 0.0):
        return None
    if len(pad.inputs) > 3 and pad.inputs[3]:
        return None
    if len(pad.inputs) > 2 and pad.inputs[2] and net.number(pad.inputs[2]) != 0:
        return None
    if pad.opset < 11:
        given = pad.attributes.get("pads")
        return None if given is None else [int(p) for p in given]
    array = net.array(pad.inputs[1]) if len(pad.inputs) > 1 else None
    return None if array is None or array.dtype.kind != "i" else [int(p) for p in array.reshape(-1)]


# ---- suppression ------------------------------------------------------------------------------

LOWEST = -3.4028234663852886e38


@idiom("ScatterND")
def suppress(net: Net, node: Node) -> bool:
    """The scores of all boxes that NonMaxSuppression lists, in their places in a map of zeros.

    The scores' axes are those of the list (image, class, box), or its columns are brought into
    their order: (image, box, class).
    """
    zeros, place, values = node.inputs
    shape = net.maker(zeros, "ConstantOfShape")
    like = net.maker(shape.inputs[0], "Shape") if shape else None
    picked = net.maker(values, "GatherND")
    if (
        shape is None
        or like is None
        or picked is None
        or node.attributes.get("reduction", "none") != "none"
    ):
        return False
    scores = picked.inputs[0]
    if np.any(shape.attributes.get("value", 0)) or like.attributes or like.inputs != [scores]:
        return False
    if picked.attributes.get("batch_dims", 0) or picked.inputs[1] != place:
        return False
    columns, found = net.maker(place, "Gather"), net.maker(place, "NonMaxSuppression")
    by_class = found is not None
    if columns is not None and columns.attributes.get("axis", 0) in (1, -1):
        order = net.array(columns.inputs[1])
        found = net.maker(columns.inputs[0], "NonMaxSuppression")
        if order is None or order.reshape(-1).tolist() != [0, 2, 1]:
            return False
    if found is None:
        return False
    given = found.inputs[1]
    if not by_class:
        turned = net.maker(given, "Transpose")
        given = turned.inputs[0] if turned and turned.attributes.get("perm") == [0, 2, 1] else ""
    # Without a number of boxes it lists none; without a threshold every score counts.
    numbers = [net.number(n) if n else None for n in (found.inputs + [""] * 3)[2:5]]
    missing = [not n for n in (found.inputs + [""] * 3)[2:5]]
    if given != scores or any(n is None and not m for n, m in zip(numbers, missing, strict=True)):
        return False
    most, iou, conf = numbers
    return net.become(
        node,
        "Suppress",
        [found.inputs[0], scores],
        iou=float(iou or 0.0),
        conf=LOWEST if conf is None else float(conf),
        max_det=min(max(int(most or 0), 0), 2**31 - 1),
        centre=int(found.attributes.get("center_point_box", 0)),
        by_class=int(by_class),
    )


# ---- focus ------------------------------------------------------------------------------------


@idiom("Conv")
def focus(net: Net, node: Node) -> bool:
    """YOLOX' stem: every second row and column four times, joined, then a k×k convolution.

    It is a 2k×2k convolution of stride 2 with the same weights in other places.
    """
    join = net.maker(node.inputs[0], "Concat")
    if join is None or len(join.inputs) != 4 or join.attributes.get("axis") not in (1, -3):
        return False
    parts = [_every_second(net, name) for name in join.inputs]
    sources = {part[0] for part in parts if part}
    weight = net.array(node.inputs[1])
    plain = (
        node.attributes.get("group", 1) == 1
        and all(d == 1 for d in node.attributes.get("dilations", [1, 1]))
        and node.attributes.get("auto_pad", "NOTSET") == "NOTSET"
    )
    places = [part[1:] for part in parts if part]
    if len(sources) != 1 or sorted(places) != [(0, 0), (0, 1), (1, 0), (1, 1)] or not plain:
        return False
    if weight is None or weight.ndim != 4 or weight.shape[1] % 4:
        return False
    o, c, kh, kw = weight.shape
    wide = np.zeros((o, c // 4, 2 * kh, 2 * kw), weight.dtype)
    for i, (dy, dx) in enumerate(places):
        wide[:, :, dy::2, dx::2] = weight[:, i * c // 4 : (i + 1) * c // 4]
    name = node.inputs[1]
    if net.readers.get(name, 0) > 1 or name in net.outputs:
        name = f"{name}.focus"
    net.model.constants[name] = wide
    attributes = {
        "kernel_shape": [2 * kh, 2 * kw],
        "strides": [2 * s for s in node.attributes.get("strides", [1, 1])],
        "pads": [2 * p for p in node.attributes.get("pads", [0, 0, 0, 0])],
    }
    return net.become(node, "Conv", [*sources, name, *node.inputs[2:]], **attributes)


def _every_second(net: Net, name: str) -> tuple[str, int, int] | None:
    """(x, row, column) of a slice, or two, that takes every second pixel from there on."""
    starts: dict[int, int] = {}
    while len(starts) < 2:
        node = net.maker(name, "Slice")
        if node is None:
            return None
        arrays = [net.array(n) if n else None for n in node.inputs]
        if any(a is None and n for a, n in zip(arrays[1:], node.inputs[1:], strict=True)):
            return None
        try:
            found = fold_moves.cuts(node, arrays, 4)
        except ValueError:
            return None
        for axis, start, end, step in found:
            if axis not in (2, 3) or axis in starts or start not in (0, 1):
                return None
            if step != 2 or end < 1 << 30:
                return None
            starts[axis] = start
        name = node.inputs[0]
    return name, starts[2], starts[3]
