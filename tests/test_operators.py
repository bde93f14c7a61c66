"""The operator table from Python: wrong use is refused in words, and what gradients don't show.

Values and gradients are checked in test_ops_golden.py (torch) and tests/c/check_ops.c (finite
differences); here are refusals, integers, comparisons, dropout, and the generated page.
"""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import deepseek_det as dd
from deepseek_det import _core

ROOT = Path(__file__).resolve().parent.parent
Shape = tuple[int, ...] | tuple[str, tuple[int, ...]] | None


def build(op: str, params: dict[str, Any], types: list[Any]) -> tuple[_core.Graph, list[Any]]:
    """A graph of one node on inputs of the given types (None: absent)."""
    graph = _core.Graph()
    ids, given = [], []
    for k, t in enumerate(types):
        if t is None:
            ids.append(None)
            continue
        dtype, shape = t if t and isinstance(t[0], str) else ("f32", t)
        ids.append(graph.input(f"x{k}", dtype, shape))
        given.append((dtype, shape))
    sizes = params.get("sizes")
    made = graph.node(op, "n", ids, params, len(sizes) if sizes else params.get("parts", 0))
    for k, value in enumerate(made):
        graph.output(f"y{k}", value)
    return graph, given


def run(op: str, params: dict[str, Any], *arrays: np.ndarray) -> list[np.ndarray]:
    names = {"float32": "f32", "uint8": "u8", "int8": "s8", "int32": "s32"}
    types = [(names[str(a.dtype)], a.shape) for a in arrays]
    graph, given = build(op, params, types)
    return _core.Interpreter(graph, _core.Store(), given).forward(list(arrays))


X = (2, 6, 5, 4)
REFUSED: list[tuple[str, dict[str, Any], list[Any], str]] = [
    ("conv", {}, [(2, 6, 5), (8, 4, 3, 3)], "x is f32 .2, 6, 5., rank 4"),
    ("conv", {}, [("u8", X), (8, 4, 3, 3)], "x is u8, f32 is needed"),
    ("conv", {}, [X, (8, 3, 3, 3)], "weight has 3 input channels in 1 groups, x has 4"),
    ("conv", {"groups": 3}, [X, (8, 4, 3, 3)], "8 output channels in 3 groups"),
    ("conv", {"groups": 0}, [X, (8, 4, 3, 3)], "groups is 0"),
    ("conv", {"stride": [0, 1]}, [X, (8, 4, 3, 3)], "stride has 0"),
    ("conv", {"stride": [2]}, [X, (8, 4, 3, 3)], "stride has 1 items, 2"),
    ("conv", {"pads": [1, 1]}, [X, (8, 4, 3, 3)], "pads has 2 items, 4"),
    ("conv", {"pads": [-1, 0, 0, 0]}, [X, (8, 4, 3, 3)], "pads has -1"),
    ("conv", {"dilation": [3, 3]}, [X, (8, 4, 3, 3)], "too few for 3×3 taps"),
    ("conv", {}, [X, (8, 4, 3, 3), (7,)], "bias is f32 .7,., f32 .8,. is needed"),
    ("conv", {}, [X, None], "input 1 is absent"),
    ("matmul", {}, [(3, 5), (4, 7)], "a has 5 columns, b has 4 rows"),
    ("matmul", {}, [(2, 3, 5), (3, 5, 7)], "leading axes must broadcast"),
    ("matmul", {}, [(5,), (5, 7)], "rank 2 to 6"),
    ("matmul", {"transpose_b": True}, [(3, 5), (7, 5), (5,)], "bias"),
    ("batch_norm", {}, [X, (4,), (4,), (4,), (3,)], "running variance"),
    ("batch_norm", {"eps": 0.0}, [X, (4,), (4,), (4,), (4,)], "eps is 0"),
    ("batch_norm", {"momentum": 1.5}, [X, (4,), (4,), (4,), (4,)], "momentum is 1.5"),
    ("layer_norm", {}, [X, (5,)], "gamma"),
    ("layer_norm", {"eps": -1.0}, [X], "eps is -1"),
    ("softmax", {"axis": 4}, [X], "axis is 4, -4 to 3"),
    ("unary", {"kind": "clip", "a": 2.0, "b": 1.0}, [X], "clip from a = 2 to b = 1"),
    ("unary", {}, [("s32", X)], "x is s32"),
    ("binary", {}, [X, (3,)], "do not broadcast"),
    ("binary", {}, [X, ("u8", X)], "b is u8"),
    ("binary", {"kind": "less"}, [("s32", X), ("u8", X)], "a is s32, b is u8"),
    ("binary", {"kind": "and"}, [("u8", X), X], "b is f32, u8 is needed"),
    ("max_pool", {"kernel": [7, 7]}, [X], "too few for 7 taps"),
    ("max_pool", {"kernel": [2, 2], "pads": [2, 0, 0, 0]}, [X], "less than the kernel's 2"),
    ("avg_pool", {"stride": [2, 2]}, [X], "stride, pads and dilation need a kernel"),
    ("max_pool", {"kernel": [2, 2], "dilation": [2, 0]}, [X], "dilation has 0"),
    ("max_pool", {"kernel": [3, 3], "dilation": [3, 1]}, [X], "too few for 3 taps"),
    ("avg_pool", {"kernel": [0, 2]}, [X], "kernel has 0"),
    ("reduce", {"axes": [1, 1]}, [X], "axis 1 is named twice"),
    ("reduce", {"axes": [5]}, [X], "axis is 5"),
    ("reduce", {"kind": "max"}, [(2, 0, 3)], "axis 1 is empty"),
    ("reduce", {}, [X, (3,)], "does not broadcast"),
    ("reduce", {"kind": "mean"}, [X, (4,)], "kind is sum"),
    ("concat", {}, [X, (2, 5, 5, 4)], "all but axis 3 must agree"),
    ("concat", {}, [X, ("u8", X)], "must agree"),
    ("concat", {"axis": -5}, [X], "axis is -5"),
    ("split", {"parts": 3}, [X], "axis 3 of 4 in 3 equal parts"),
    ("split", {"sizes": [1, 2]}, [X], "sizes sum to 3, axis 3 has 4"),
    ("split", {"sizes": [-1, 5]}, [X], "a size is -1"),
    ("slice", {"starts": [0], "ends": [1, 2]}, [X], "items"),
    ("slice", {"starts": [0], "ends": [1], "steps": [0]}, [X], "a step is 0"),
    ("slice", {"starts": [0, 0], "ends": [1, 1], "axes": [1, -3]}, [X], "named twice"),
    ("pad", {"before": [1], "after": [1]}, [X], "before has 1 items, 4"),
    ("pad", {"before": [-1], "after": [0]}, [(3,)], "before has -1"),
    ("pad", {"before": [0, 6, 0, 0], "after": [0] * 4, "mode": "reflect"}, [X], "at most 5"),
    ("pad", {"before": [0, 0, 0, 5], "after": [0] * 4, "mode": "wrap"}, [X], "at most 4"),
    ("pad", {"before": [0, 1], "after": [0, 0], "mode": "edge"}, [(2, 0)], "has no edge"),
    ("conv_transpose", {}, [X, (3, 8, 2, 2)], "weight has 3 input channels, x has 4"),
    ("conv_transpose", {"groups": 3}, [X, (4, 8, 2, 2)], "4 input channels in 3 groups"),
    ("conv_transpose", {"output_pad": [1, 0]}, [X, (4, 8, 2, 2)], "less than the stride"),
    ("conv_transpose", {"pads": [4, 0, 4, 0]}, [X, (4, 8, 2, 2)], "y would have -1×6"),
    ("conv_transpose", {}, [X, (4, 8, 2, 2), (4,)], "bias"),
    ("prelu", {}, [X, (3,)], "slope is f32 .3,., which does not broadcast to x"),
    ("prelu", {}, [(3,), (1, 3)], "does not broadcast"),
    ("where", {}, [X, X, X], "condition is f32"),
    ("where", {}, [("u8", X), X, ("u8", X)], "a is f32, b is u8"),
    ("where", {}, [("u8", (2,)), (3,), (3,)], "do not broadcast"),
    ("group_norm", {"groups": 3}, [X], "4 channels in 3 groups"),
    ("group_norm", {"eps": 0.0}, [X], "eps is 0"),
    ("group_norm", {}, [X, (4,), (3,)], "beta"),
    ("group_norm", {}, [(2, 0, 4)], "axis 1 is empty"),
    ("log_softmax", {"axis": -5}, [X], "log_softmax: axis is -5"),
    ("arg_max", {"axis": 4}, [X], "axis is 4"),
    ("arg_max", {"axis": 0}, [(0, 3)], "axis 0 has 0 elements"),
    ("arg_max", {}, [("u8", X)], "x is u8"),
    ("top_k", {"k": 5}, [X], "k is 5, 1 to the axis' 4"),
    ("top_k", {"k": 0}, [X], "k is 0"),
    ("gather", {}, [X, (3,)], "indices is f32, s32 is needed"),
    ("gather", {"axis": 4}, [X, ("s32", (3,))], "axis is 4"),
    ("gather", {}, [(1,) * 6, ("s32", (1, 1))], "rank 7, at most 6"),
    ("gather_elements", {}, [X, X], "indices is f32, s32 is needed"),
    ("gather_elements", {"axis": 4}, [X, ("s32", X)], "axis is 4"),
    ("gather_elements", {}, [X, ("s32", (6,))], "may differ along the axis only"),
    ("gather_elements", {}, [X, ("s32", (2, 7, 5, 4))], "may differ along the axis only"),
    ("suppress", {}, [(2, 9, 4), (2, 8, 3)], "boxes is f32 .2, 9, 4., scores is f32 .2, 8, 3."),
    ("suppress", {}, [(2, 9, 5), (2, 9, 3)], "N, A, 4. and"),
    ("suppress", {}, [(9, 4), (2, 9, 3)], "rank 3"),
    ("suppress", {}, [(2, 9, 4), ("u8", (2, 9, 3))], "scores is u8"),
    ("suppress", {"iou": 1.5}, [(2, 9, 4), (2, 9, 3)], "iou is 1.5"),
    ("suppress", {"max_det": -1}, [(2, 9, 4), (2, 9, 3)], "max_det -1"),
    ("binary", {"kind": "pow"}, [("s32", X), ("s32", X)], "a is s32, f32 is needed"),
    ("binary", {}, [("s32", X), X], "a is s32, f32 is needed"),
    ("reduce", {"kind": "log_sum_exp", "axes": [1]}, [(2, 0)], "axis 1 is empty"),
    ("reshape", {"shape": [-1, -1]}, [X], "one -1"),
    ("reshape", {"shape": [7, -1]}, [X], "does not fill"),
    ("reshape", {"shape": [2**31, 2**31, 2**31]}, [X], "larger than"),
    ("reshape", {"shape": [-2]}, [X], "shape.0. is -2"),
    ("transpose", {"perm": [0, 1, 2]}, [X], "perm has 3 items"),
    ("transpose", {"perm": [0, 1, 1, 2]}, [X], "named twice"),
    ("transpose", {"perm": [0, 1, 2, 2**40]}, [X], "axis is"),
    ("expand", {}, [X], "either `shape` or a second input"),
    ("expand", {"shape": [3, 6, 5, 4]}, [X], "does not broadcast"),
    ("resize", {}, [X], "either `scale`, `size` or a second input"),
    ("resize", {"scale": [2.0, 2.0], "size": [3, 3]}, [X], "either `scale`, `size`"),
    ("resize", {"size": [0, 3]}, [X], "size has 0"),
    ("resize", {"size": [3, 3], "mode": "bilinear", "rounding": "ceil"}, [X], "mode nearest"),
    ("resize", {"size": [3, 3], "mode": "cubic", "cubic_a": 11.0}, [X], "cubic_a is 11"),
    ("resize", {"scale": [0.1, 1.0]}, [X], "6 to 0 pixels"),
    ("resize", {"scale": [-1.0, 1.0]}, [X], "scale is -1"),
    ("resize", {"scale": [2.0]}, [X], "scale has 1 items"),
    ("resize", {"scale": [2.0, 2.0], "align_corners": True}, [X], "align_corners"),
    ("space_to_depth", {"block": 4}, [X], "blocks have 4"),
    ("space_to_depth", {"block": 0}, [X], "block is 0"),
    ("depth_to_space", {"block": 3}, [X], "a multiple of 9"),
    ("channel_shuffle", {"groups": 3}, [X], "4 channels in 3 groups"),
    ("quantize", {}, [X], "scale has 0 items"),
    ("quantize", {"scale": [0.0]}, [X], "scale is 0"),
    ("quantize", {"scale": [1.0], "zero": [0.5]}, [X], "whole number of u8"),
    ("quantize", {"scale": [1.0], "zero": [-1.0]}, [X], "whole number of u8"),
    ("dequantize", {"scale": [1.0]}, [("s32", X)], "x is s32"),
    ("dequantize", {"scale": [1.0] * 3}, [("u8", X)], "scale has 3 items, 1 or 4"),
    ("dequantize", {"scale": [float("inf")]}, [("u8", X)], "scale is inf"),
    ("dropout", {"p": 1.0}, [X], "p is 1"),
]


@pytest.mark.parametrize(
    ("op", "params", "types", "words"), REFUSED, ids=[f"{r[0]}-{r[3][:24]}" for r in REFUSED]
)
def test_wrong_use_is_refused_with_node_operator_and_cause(
    op: str, params: dict[str, Any], types: list[Any], words: str
) -> None:
    with pytest.raises((ValueError, TypeError), match=words) as caught:
        graph, given = build(op, params, types)
        graph.infer(_core.Store(), given)
    assert op in str(caught.value)


def test_quantize_rounds_half_to_even_and_saturates() -> None:
    x = np.array([-9, -0.5, 0.5, 1.5, 2.5, 3, 300, np.nan, np.inf, -np.inf], np.float32)
    (y,) = run("quantize", {"scale": [1.0], "zero": [1.0]}, x)
    assert y.dtype == np.uint8
    assert y.tolist() == [0, 1, 1, 3, 3, 4, 255, 1, 255, 0]
    (y,) = run("quantize", {"scale": [0.5], "zero": [-2.0], "dtype": "s8"}, x[:6])
    assert y.tolist() == [-20, -3, -1, 1, 3, 4]


def test_dequantize_inverts_quantize_within_half_a_step() -> None:
    x = np.linspace(-1, 1, 500).reshape(100, 5).astype(np.float32)
    scale, zero = [0.01, 0.02, 0.008, 0.05, 0.1], [128.0, 100.0, 127.0, 30.0, 11.0]
    (q,) = run("quantize", {"scale": scale, "zero": zero}, x)
    (y,) = run("dequantize", {"scale": scale, "zero": zero}, q)
    assert np.all(np.abs(y - x) <= np.array(scale, np.float32) / 2 + 1e-6)
    assert np.array_equal(run("dequantize", {"scale": [0.1]}, x)[0], x), "floats pass through"


def test_cast_truncates_and_saturates() -> None:
    x = np.array([-300, -1.7, -0.2, 1.9, 127.5, 300, np.nan, np.inf], np.float32)
    assert run("cast", {"dtype": "u8"}, x)[0].tolist() == [0, 0, 0, 1, 127, 255, 0, 255]
    assert run("cast", {"dtype": "s8"}, x)[0].tolist() == [-128, -1, 0, 1, 127, 127, 0, 127]
    assert run("cast", {"dtype": "s32"}, x)[0].tolist() == [-300, -1, 0, 1, 127, 300, 0, 2**31 - 1]


@pytest.mark.parametrize(
    ("kind", "function"),
    [
        ("equal", np.equal),
        ("not_equal", np.not_equal),
        ("less", np.less),
        ("less_equal", np.less_equal),
        ("greater", np.greater),
        ("greater_equal", np.greater_equal),
    ],
)
def test_comparisons_give_numpys_answers(kind: str, function: Any) -> None:
    a = np.array([[0, 1, 2, np.nan]], np.float32)
    b = np.array([[1], [2], [np.nan]], np.float32)
    (y,) = run("binary", {"kind": kind}, a, b)
    assert y.dtype == np.uint8
    assert np.array_equal(y.astype(bool), function(a, b))


@pytest.mark.parametrize("groups", [1, 2])
def test_planned_conv_transpose_has_the_same_bits_for_any_threads_and_batch(groups: int) -> None:
    rng = np.random.default_rng(groups)
    store, graph = _core.Store(), _core.Graph()
    store.add("w", (32, 24 // groups, 4, 3), "trainable")
    store.set("w", rng.normal(size=(32, 24 // groups, 4, 3)).astype(np.float32))
    store.add("b", (24,), "trainable")
    store.set("b", rng.normal(size=24).astype(np.float32))
    x = rng.normal(size=(3, 7, 9, 32)).astype(np.float32)
    whole = graph.input("x", "f32", (-1, 7, 9, 32))
    ids = [whole, graph.entry(store, "w"), graph.entry(store, "b")]
    params = {"stride": [2, 3], "pads": [1, 0, 2, 1], "output_pad": [0, 2], "groups": groups}
    (y,) = graph.node("conv_transpose", "up", ids, params)
    (z,) = graph.node("unary", "act", [y], {"kind": "silu"})
    graph.output("z", z)
    (want,) = _core.Interpreter(graph, store, [("f32", x.shape)]).forward([x])
    before, results = _core.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            _core.set_num_threads(threads)
            results.append(_core.Plan(graph, store, [("f32", x.shape)]).forward([x])[0])
            one = _core.Plan(graph, store, [("f32", (1, 7, 9, 32))])
            results.append(np.concatenate([one.forward([x[i : i + 1]])[0] for i in range(3)]))
    finally:
        _core.set_num_threads(before)
    assert np.abs(results[0] - want).max() <= 1e-5 * np.abs(want).max()
    assert all(np.array_equal(r, results[0]) for r in results)


@pytest.mark.parametrize(
    ("a", "b", "params", "parameter"),
    [
        ((3, 50), (1000, 50), {"transpose_b": True}, True),  # few rows: cut by columns
        ((2, 60, 17), (17, 90), {}, True),  # one matrix serves all: cut by rows
        ((2, 3, 19, 70), (2, 1, 19, 33), {"transpose_a": True}, False),
        ((5, 1, 40, 8), (1, 3, 21, 8), {"transpose_b": True}, False),
    ],
)
def test_planned_products_have_the_same_bits_for_any_threads(
    a: tuple[int, ...], b: tuple[int, ...], params: dict[str, Any], parameter: bool
) -> None:
    rng = np.random.default_rng(1)
    store, graph = _core.Store(), _core.Graph()
    x, w = rng.normal(size=a).astype(np.float32), rng.normal(size=b).astype(np.float32)
    ids, inputs = [graph.input("a", "f32", a)], [x]
    if parameter:
        store.add("w", b, "trainable")
        store.set("w", w)
        ids.append(graph.entry(store, "w"))
    else:
        ids.append(graph.input("b", "f32", b))
        inputs.append(w)
    (y,) = graph.node("matmul", "product", ids, params)
    (z,) = graph.node("unary", "act", [y], {"kind": "relu"})
    graph.output("z", z)
    types = [("f32", i.shape) for i in inputs]
    (want,) = _core.Interpreter(graph, store, types).forward(inputs)
    plan, before, results = _core.Plan(graph, store, types), _core.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            _core.set_num_threads(threads)
            results.append(plan.forward(inputs)[0])
    finally:
        _core.set_num_threads(before)
    assert np.abs(results[0] - want).max() <= 1e-5 * np.abs(want).max()
    assert all(np.array_equal(r, results[0]) for r in results)
    if parameter:  # packed anew where the parameter has changed
        store.set("w", -w)
        (turned,) = _core.Interpreter(graph, store, types).forward(inputs)
        assert np.abs(plan.forward(inputs)[0] - turned).max() <= 1e-5 * np.abs(turned).max()


def test_comparisons_take_integers_and_logic_takes_bytes() -> None:
    a, b = np.array([[-3], [2**31 - 1]], np.int32), np.array([-3, 0, 2**31 - 2], np.int32)
    assert np.array_equal(run("binary", {"kind": "greater"}, a, b)[0], a > b)
    signed = np.array([-128, 127, 0], np.int8)
    assert run("binary", {"kind": "less"}, signed, signed[::-1].copy())[0].tolist() == [1, 0, 0]
    p, q = np.array([[0], [1], [200]], np.uint8), np.array([0, 1, 7], np.uint8)
    for kind, function in (
        ("and", np.logical_and),
        ("or", np.logical_or),
        ("xor", np.logical_xor),
    ):
        assert np.array_equal(run("binary", {"kind": kind}, p, q)[0], function(p, q)), kind


def test_arithmetic_of_integers_is_exact_or_refused() -> None:
    a = np.array([[7], [-7], [2**31 - 1], [-(2**31)]], np.int32)
    b = np.array([2, -2, 3], np.int32)
    wide, other = a[:2].astype(np.int64), b.astype(np.int64)
    towards_0 = np.trunc(wide / other).astype(np.int64)
    for kind, want in (
        ("add", wide + other),
        ("sub", wide - other),
        ("mul", wide * other),
        ("div", towards_0),
    ):
        (y,) = run("binary", {"kind": kind}, a[:2], b)
        assert y.dtype == np.int32 and np.array_equal(y, want), kind
    assert np.array_equal(run("binary", {"kind": "max"}, a, b)[0], np.maximum(a, b))
    assert np.array_equal(run("binary", {"kind": "min"}, a, b)[0], np.minimum(a, b))
    for kind, p, q, words in (
        ("add", 2**31 - 1, 1, "add of 2147483647 and 1 is beyond 32 bits"),
        ("sub", -(2**31), 1, "sub of"),
        ("mul", 2**16, 2**15, "mul of"),
        ("div", -(2**31), -1, "div of"),
        ("div", 5, 0, "5 is to be divided by 0"),
    ):
        graph, given = build("binary", {"kind": kind}, [("s32", (1,)), ("s32", (1,))])
        arrays = [np.array([p], np.int32), np.array([q], np.int32)]
        for executor in (_core.Interpreter, _core.Plan):
            with pytest.raises(ValueError, match=words):
                executor(graph, _core.Store(), given).forward(arrays)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_arg_max_is_numpys_and_can_take_the_last(axis: int) -> None:
    x = np.random.default_rng(axis).integers(-2, 3, size=(4, 5, 6)).astype(np.float32)
    for minimum, function in ((False, np.argmax), (True, np.argmin)):
        params = {"axis": axis, "minimum": minimum, "keepdims": False}
        (y,) = run("arg_max", params, x)
        assert y.dtype == np.int32 and np.array_equal(y, function(x, axis))
        (y,) = run("arg_max", params | {"keepdims": True, "last": True}, x)
        want = x.shape[axis] - 1 - np.expand_dims(function(np.flip(x, axis), axis), axis)
        assert np.array_equal(y, want)
    x[:, 2, 3] = np.nan
    (y,) = run("arg_max", {"axis": 1}, x)
    assert (y[:, 0, 3] == 2).all(), "a NaN is the largest"


@pytest.mark.parametrize(("axis", "k"), [(0, 1), (1, 4), (2, 7)])
def test_top_k_is_a_stable_sort(axis: int, k: int) -> None:
    x = np.random.default_rng(k).integers(-3, 4, size=(3, 6, 7)).astype(np.float32)
    for smallest in (False, True):
        values, places = run("top_k", {"k": k, "axis": axis, "smallest": smallest}, x)
        order = np.argsort(x if smallest else -x, axis, kind="stable")
        want = np.take(order, range(k), axis)
        assert np.array_equal(places, want)
        assert np.array_equal(values, np.take_along_axis(x, want, axis))
    line = np.array([1, np.nan, 3, np.nan], np.float32)
    assert run("top_k", {"k": 4}, line)[1].tolist() == [1, 3, 2, 0]
    assert run("top_k", {"k": 4, "smallest": True}, line)[1].tolist() == [0, 2, 1, 3]


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_gather_elements_is_numpys_take_along_axis(axis: int) -> None:
    rng = np.random.default_rng(3)
    for dtype in (np.float32, np.int32, np.uint8):
        x = rng.integers(0, 99, (4, 5, 6)).astype(dtype)
        shape = [4, 5, 6]
        shape[axis] = 3
        at = rng.integers(-x.shape[axis], x.shape[axis], shape).astype(np.int32)
        (y,) = run("gather_elements", {"axis": axis}, x, at)
        assert y.dtype == dtype and np.array_equal(y, np.take_along_axis(x, at, axis))
    few = np.array([[[3, -5]], [[0, 4]]], np.int32)
    (y,) = run("gather_elements", {"axis": 1}, x, few)
    assert np.array_equal(y, np.take_along_axis(x[:2, :, :2], few, 1))
    graph, given = build("gather_elements", {}, [(4,), ("s32", (1,))])
    with pytest.raises(ValueError, match="gather_elements: an index is 4, the axis has 4"):
        _core.Plan(graph, _core.Store(), given).forward([np.zeros(4, "f4"), np.array([4], "i4")])


@pytest.mark.parametrize("centre", [False, True])
def test_suppress_is_nms_by_image_and_class(centre: bool) -> None:
    rng = np.random.default_rng(7)
    low = rng.uniform(0, 40, (3, 60, 2))
    corners = np.concatenate([low, low + rng.uniform(1, 30, (3, 60, 2))], 2).astype(np.float32)
    scores = np.round(rng.uniform(-0.2, 1, (3, 60, 4)), 1).astype(np.float32)  # many are equal
    boxes = corners
    if centre:
        boxes = np.concatenate([(low + corners[..., 2:]) / 2, corners[..., 2:] - low], 2)
        boxes = boxes.astype(np.float32)
        half = boxes[..., 2:] / np.float32(2)
        corners = np.concatenate([boxes[..., :2] - half, boxes[..., :2] + half], 2)
    else:  # any two opposite corners
        boxes = np.where(rng.random((3, 60, 1)) < 0.5, boxes, boxes[..., [2, 1, 0, 3]])
    scores[0, 3, 1] = np.nan
    want = np.zeros_like(scores)
    for image in range(3):
        for cls in range(4):
            s = scores[image, :, cls]
            above = np.flatnonzero(s > np.float32(0.3))
            kept = above[dd.ops.nms(corners[image, above], s[above], 0.4, max_det=7)]
            want[image, kept, cls] = s[kept]
    params = {"iou": 0.4, "conf": 0.3, "max_det": 7, "centre": centre}
    (y,) = run("suppress", params, boxes, scores)
    assert 0 < (want > 0).sum() < (scores > 0.3).sum()
    assert np.array_equal(y, want)


def test_gather_is_numpys_take_and_refuses_an_index_beyond() -> None:
    x = np.arange(24, dtype=np.float32).reshape(2, 4, 3)
    at = np.array([[3, -1], [0, -4]], np.int32)
    assert np.array_equal(run("gather", {"axis": 1}, x, at)[0], np.take(x, at, 1))
    whole = x.astype(np.int32)
    assert np.array_equal(run("gather", {"axis": -2}, whole, at)[0], np.take(whole, at, 1))
    graph, given = build("gather", {"axis": 1}, [x.shape, ("s32", (1,))])
    for executor in (_core.Interpreter, _core.Plan):
        for wrong in (4, -5, 2**31 - 1, -(2**31)):
            with pytest.raises(ValueError, match=f"an index is {wrong}, the axis has 4"):
                executor(graph, _core.Store(), given).forward([x, np.array([wrong], np.int32)])


def test_where_takes_any_condition_that_is_not_zero() -> None:
    condition = np.array([0, 1, 2, 255], np.uint8)
    a, b = np.array([1, 2, 3, 4], np.int32), np.array([[9], [8]], np.int32)
    (y,) = run("where", {}, condition, a, b)
    assert y.tolist() == [[9, 2, 3, 4], [8, 2, 3, 4]]


@pytest.mark.parametrize("mode", ["edge", "reflect", "wrap"])
def test_pad_is_numpys_on_every_axis(mode: str) -> None:
    x = np.random.default_rng(1).normal(size=(3, 4, 2, 5)).astype(np.float32)
    before, after = [2, 0, 1, 3], [1, 3, 0, 4]
    (y,) = run("pad", {"before": before, "after": after, "mode": mode}, x)
    assert np.array_equal(y, np.pad(x, list(zip(before, after, strict=True)), mode))


def test_round_takes_halves_to_even_and_keeps_what_is_whole() -> None:
    x = np.array([-2.5, -0.5, 0.5, 1.5, 2.5, 8388609, -3e9, np.inf], np.float32)
    for kind, function in (("round", np.rint), ("floor", np.floor), ("ceil", np.ceil)):
        graph, given = build("unary", {"kind": kind}, [x.shape])
        for executor in (_core.Interpreter, _core.Plan):
            (y,) = executor(graph, _core.Store(), given).forward([x])
            assert np.array_equal(y, function(x)), kind


def test_dropout_draw_depends_on_seed_and_step_only() -> None:
    x = np.ones((4, 1000), np.float32)
    graph, given = build("dropout", {"p": 0.25}, [x.shape])
    store = _core.Store()
    assert np.array_equal(_core.Interpreter(graph, store, given).forward([x])[0], x)
    training = graph.differentiate(store, True)

    def draw(seed: int, step: int, executor: str = "Interpreter") -> np.ndarray:
        return getattr(_core, executor)(training, store, given, seed=seed).forward([x], step)[0]

    y = draw(1, 5)
    assert np.array_equal(y, draw(1, 5)) and np.array_equal(y, draw(1, 5, "Plan"))
    assert not np.array_equal(y, draw(1, 6)) and not np.array_equal(y, draw(2, 5))
    assert set(np.unique(y)) == {0, np.float32(1 / 0.75)}
    assert abs((y == 0).mean() - 0.25) < 0.03

    run_ = _core.Interpreter(training, store, given, seed=1)
    kept = run_.forward([x], 5)[0] != 0
    given_back = run_.backward([np.ones_like(x), None], np.zeros(0, np.float32))["d:x0"]
    assert np.array_equal(given_back != 0, kept)


def test_stop_gradient_stops_it() -> None:
    graph = _core.Graph()
    x = graph.input("x", "f32", (3,))
    (held,) = graph.node("stop_gradient", "held", [x])
    (product,) = graph.node("binary", "product", [x, held], {"kind": "mul"})
    graph.output("y", product)
    store = _core.Store()
    run_ = _core.Interpreter(graph.differentiate(store, True), store, [("f32", (3,))])
    values = np.array([1, 2, 3], np.float32)
    assert run_.forward([values])[0].tolist() == [1, 4, 9]
    back = run_.backward([np.ones(3, np.float32), None], np.zeros(0, np.float32))
    assert back["d:x"].tolist() == [1, 2, 3], "as if the held factor were a constant"


def test_space_to_depth_order_and_inverse() -> None:
    x = np.arange(2 * 4 * 6 * 3, dtype=np.float32).reshape(2, 4, 6, 3)
    (y,) = run("space_to_depth", {"block": 2}, x)
    want = x.reshape(2, 2, 2, 3, 2, 3).transpose(0, 1, 3, 2, 4, 5).reshape(2, 2, 3, 12)
    assert np.array_equal(y, want)
    assert np.array_equal(run("depth_to_space", {"block": 2}, y)[0], x)


@pytest.mark.parametrize("cut", [(1, 7, 2), (-2, -9, -1), (5, -99, -2), (0, 99, 1), (4, 2, 1)])
def test_slice_is_pythons(cut: tuple[int, int, int]) -> None:
    x = np.arange(24, dtype=np.float32).reshape(3, 8)
    start, end, step = cut
    params = {"starts": [start], "ends": [end], "axes": [1], "steps": [step]}
    assert np.array_equal(run("slice", params, x)[0], x[:, start:end:step])


def test_nan_comes_through_maxima_and_activations() -> None:
    x = np.array([1, np.nan, 3, -1], np.float32)
    assert np.isnan(run("reduce", {"kind": "max"}, x)[0])
    assert np.isnan(run("max_pool", {}, x.reshape(1, 2, 2, 1))[0]).all()
    for kind in ("relu", "clip", "hard_swish", "hard_sigmoid", "sigmoid", "leaky_relu"):
        (y,) = run("unary", {"kind": kind, "a": 0.0, "b": 6.0}, x)
        assert np.isnan(y).tolist() == [False, True, False, False], kind


def test_operator_page_is_what_the_table_says() -> None:
    path = ROOT / "docs" / "make_operators.py"
    spec = importlib.util.spec_from_file_location("make_operators", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    have = path.with_name("operators.md").read_text(encoding="utf-8")
    assert have == module.page(), "run `python docs/make_operators.py`"
