"""Sizes with free dimensions against numbers, and chains of views and cuts against NumPy."""

from __future__ import annotations

import math
import random
from collections import Counter
from typing import Any

import numpy as np
import pytest

import deepseek_det as dd

pytest.importorskip("onnx")

from onnx_files import model, node

from deepseek_det.onnx.dims import Dim, Undecided, product, quotient
from deepseek_det.onnx.layout import NHWC, Val, arrange

INT = np.int64

# ---- sizes ------------------------------------------------------------------------------------

H, W = Dim.symbol("h"), Dim.symbol("w")


def formulas() -> list[tuple[Any, Any]]:
    """Random formulas of h and w, and the same as functions of numbers."""
    rng = random.Random(0)
    found: list[tuple[Any, Any]] = [
        (H, lambda h, w: h),
        (W, lambda h, w: w),
        (3, lambda h, w: 3),
    ]
    while len(found) < 150:
        (a, f), (b, g) = rng.choice(found), rng.choice(found)
        k = rng.randrange(1, 9)
        made: list[tuple[Any, Any]] = [
            (a + b, lambda h, w, f=f, g=g: f(h, w) + g(h, w)),
            (a * b, lambda h, w, f=f, g=g: f(h, w) * g(h, w)),
            (a - k, lambda h, w, f=f, k=k: f(h, w) - k),
            (a // k, lambda h, w, f=f, k=k: f(h, w) // k),
            (a % k, lambda h, w, f=f, k=k: f(h, w) % k),
            ((a + k) // 2 + 1, lambda h, w, f=f, k=k: (f(h, w) + k) // 2 + 1),
        ]
        value, function = rng.choice(made)
        if len(repr(value)) < 200:
            found.append((value, function))
    return found


def numbers(value: Any, h: int, w: int) -> int:
    """A formula with numbers in it: its text is Python once the brackets are floors."""
    text = repr(value).replace("·", "*").replace("[", "math.floor(").replace("]", ")")
    return int(eval(text, {"h": h, "w": w, "math": math}))


def test_formulas_of_free_sizes_are_right_for_numbers() -> None:
    for value, function in formulas():
        for h, w in ((1, 1), (5, 8), (64, 33), (416, 417)):
            assert numbers(value, h, w) == function(h, w), value


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((H + 1) // 2 * 2 - (H + 1) // 2, (H - 1) // 2 + 1),  # two convolutions of stride 2
        (((H + 1) // 2 + 1) // 2, (H + 3) // 4),
        ((H * 4) // 4, H),
        ((H * 6 + 3) // 3, 2 * H + 1),
        (H % 1, 0),
        (2 * H - H - H, 0),
        (H * W - W * H, 0),
        ((2 * H + 1) // 2, H),
    ],
)
def test_equal_sizes_have_one_form(a: Any, b: Any) -> None:
    assert a == b and (isinstance(a, int) or hash(a) == hash(b))


def test_comparisons_of_free_sizes_are_decided_where_they_can_be() -> None:
    assert H > 0 and H >= 1 and not H < 1 and H + 1 > H and H * 2 >= H
    questions = (lambda: H > 3, lambda: H < W, lambda: int(H), lambda: float(H), lambda: [0][H])
    for question in questions:
        with pytest.raises(Undecided):
            question()
    assert quotient(H * W * 6, W * 2) == 3 * H
    assert quotient(H + 1, 2) is None and quotient(6, H) is None and quotient(5, 0) is None
    assert product([H, 2, W]) == 2 * H * W


# ---- views ------------------------------------------------------------------------------------


class Recorder:
    """Counts what a layout would emit."""

    def __init__(self) -> None:
        self.ops: Counter[str] = Counter()

    def emit(self, op: str, inputs: Any, params: Any) -> int:
        self.ops[op] += 1
        return 100 + self.ops.total()


def test_shuffle_is_a_view_until_it_is_stored() -> None:
    to = Recorder()
    v = Val.plain(1, (2, 12, 5, 7), perm=NHWC).reshaped((2, 3, 4, 5, 7))
    assert v is not None
    shuffled = v.transposed((0, 2, 1, 3, 4)).reshaped((2, 12, 5, 7))
    assert shuffled is not None and shuffled.id == 1 and not to.ops
    arrange(to, shuffled, [shuffled.logical[k] for k in NHWC])
    assert to.ops == Counter(channel_shuffle=1)


def test_reshape_without_a_common_refinement_is_no_view() -> None:
    assert Val.plain(1, (4, 6)).reshaped((6, 4)) is None
    assert Val.plain(1, (2, 12)).reshaped((6, 4)) is not None
    assert Val.plain(1, (H, 12)).reshaped((H * 3, 4)) is not None
    assert Val.plain(1, (H, W)).reshaped((H * W,)) is not None
    assert Val.plain(1, (H * W,)).reshaped((H, W)) is not None


def test_axes_of_size_one_are_free() -> None:
    to = Recorder()
    v = Val.plain(1, (1, 8, 1, 1), perm=NHWC)
    arrange(to, v, [v.logical[k] for k in (0, 1, 2, 3)])
    assert to.ops["transpose"] == 0


def chain(seed: int) -> tuple[Any, Any]:
    """A net of random views and cuts after a convolution, and the same in NumPy."""
    rng = random.Random(seed)
    constants: dict[str, Any] = {"w": np.random.default_rng(seed).random((12, 3, 1, 1), np.float32)}
    nodes = [node("Conv", ["x", "w"], ["v0"])]
    dims = [2, 12, 4, 6]
    steps: list[Any] = []
    for i in range(rng.randrange(2, 8)):
        at, to = f"v{i}", f"v{i + 1}"
        kind = rng.choice(["reshape", "transpose", "transpose", "squeeze", "slice", "gather",
                           "split", "softmax", "flatten", "concat", "add", "mean"])  # fmt: skip
        axis = rng.randrange(len(dims))
        if kind == "reshape":
            wanted = regrouped(dims, rng)
            constants[f"s{i}"] = np.array(wanted, INT)
            nodes.append(node("Reshape", [at, f"s{i}"], [to]))
            steps.append(lambda a, wanted=wanted: a.reshape(wanted))
        elif kind == "transpose":
            perm = rng.sample(range(len(dims)), len(dims))
            nodes.append(node("Transpose", [at], [to], perm=perm))
            steps.append(lambda a, perm=perm: a.transpose(perm))
        elif kind == "squeeze":
            constants[f"s{i}"] = np.array([axis], INT)
            if dims[axis] == 1 and len(dims) > 1:
                nodes.append(node("Squeeze", [at, f"s{i}"], [to]))
                steps.append(lambda a, axis=axis: a.squeeze(axis))
            else:
                nodes.append(node("Unsqueeze", [at, f"s{i}"], [to]))
                steps.append(lambda a, axis=axis: np.expand_dims(a, axis))
        elif kind == "slice":
            size = dims[axis]
            begin, step = rng.randrange(size), rng.choice([1, 1, 2, -1])
            end = rng.randrange(begin + 1, size + 1) if step > 0 else -(2**62)
            for name, value in (("b", begin), ("e", end), ("a", axis), ("t", step)):
                constants[f"{name}{i}"] = np.array([value], INT)
            nodes.append(node("Slice", [at, f"b{i}", f"e{i}", f"a{i}", f"t{i}"], [to]))
            cut = slice(begin, end if step > 0 else None, step)
            steps.append(lambda a, axis=axis, cut=cut: a[(slice(None),) * axis + (cut,)])
        elif kind == "gather":
            places: Any = rng.randrange(dims[axis])
            if len(dims) == 1 or rng.random() < 0.5:
                places = [rng.randrange(dims[axis]) for _ in range(rng.randrange(1, 4))]
            constants[f"p{i}"] = np.array(places, INT)
            nodes.append(node("Gather", [at, f"p{i}"], [to], axis=axis))
            steps.append(lambda a, p=constants[f"p{i}"], axis=axis: np.take(a, p, axis))
        elif kind == "split" and dims[axis] > 1:
            first = rng.randrange(1, dims[axis])
            constants[f"s{i}"] = np.array([first, dims[axis] - first], INT)
            nodes.append(node("Split", [at, f"s{i}"], [f"other{i}", to], axis=axis))
            steps.append(lambda a, axis=axis, n=first: np.split(a, [n], axis)[1])
        elif kind == "softmax":
            nodes.append(node("Softmax", [at], [to], axis=axis))
            steps.append(lambda a, axis=axis: np.exp(a) / np.exp(a).sum(axis, keepdims=True))
        elif kind == "flatten":
            nodes.append(node("Flatten", [at], [to], axis=axis))
            steps.append(lambda a, axis=axis: a.reshape(math.prod(a.shape[:axis]), -1))
        elif kind == "concat":
            nodes.append(node("Neg", [at], [f"n{i}"]))
            nodes.append(node("Concat", [at, f"n{i}"], [to], axis=axis))
            steps.append(lambda a, axis=axis: np.concatenate([a, -a], axis))
        elif kind == "mean":
            nodes.append(node("ReduceMean", [at], [to], axes=[axis], keepdims=1))
            steps.append(lambda a, axis=axis: a.mean(axis, keepdims=True))
        else:
            c = np.random.default_rng(i).random(dims[axis:], np.float32)
            constants[f"c{i}"] = c
            nodes.append(node("Add", [at, f"c{i}"], [to]))
            steps.append(lambda a, c=c: a + c)
        dims = list(steps[-1](np.zeros(dims)).shape)
        if len(dims) > 5 or math.prod(dims) > 5000:
            break
    last = f"v{len(steps)}"
    return model(nodes, {"x": [2, 3, 4, 6]}, [last], constants, opset=13), (constants["w"], steps)


def regrouped(dims: list[int], rng: random.Random) -> list[int]:
    """Another shape of the same elements, of at most five axes."""
    left, made = math.prod(dims), []
    while len(made) < 4 and rng.random() < 0.8:
        size = rng.choice([d for d in range(1, left + 1) if left % d == 0])
        made.append(size)
        left //= size
    return [*made, left]


@pytest.mark.parametrize("block", range(8))
def test_random_chain_of_views_is_numpys(block: int) -> None:
    for seed in range(block * 25, block * 25 + 25):
        m, (w, steps) = chain(seed)
        x = np.random.default_rng(seed).random((2, 3, 4, 6), np.float32)
        want = np.einsum("oi,nihw->nohw", w[:, :, 0, 0].astype(np.float64), x)
        for step in steps:
            want = step(want)
        net = dd.load_onnx(m.SerializeToString())
        (got,) = net.run(x).values()
        assert got.shape == want.shape, seed
        assert np.allclose(got, want, rtol=1e-4, atol=1e-5), seed
