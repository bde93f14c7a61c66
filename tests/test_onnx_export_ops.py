"""Every operator that can leave says in onnxruntime what the interpreter says, in both layouts."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from deepseek_det import Error, _core

pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

from deepseek_det.onnx.export import from_graph  # noqa: E402
from deepseek_det.onnx.export_ops import NOT_WRITTEN, ROWS  # noqa: E402

OPTIONS = ort.SessionOptions()
OPTIONS.intra_op_num_threads = 1
Array = npt.NDArray[Any]
OPS = {row["name"]: row for row in _core.ops()}
NAMES = {np.dtype(np.float32): "f32", np.dtype(np.uint8): "u8", np.dtype(np.int32): "s32"}


def draw(*shape: int, seed: int = 0, low: float = -3, high: float = 3) -> Array:
    return np.random.default_rng(seed).uniform(low, high, shape).astype(np.float32)


MAP = draw(2, 6, 5, 8)  # N, H, W, C
SMALL = draw(2, 4, 3, 8, seed=1)
ROW = draw(2, 7, 12)
BYTES = np.arange(2 * 3 * 4 * 2, dtype=np.uint8).reshape(2, 3, 4, 2)
INTS = np.random.default_rng(5).integers(-3, 3, (4, 5)).astype(np.int32)
BOXES, SCORES = draw(2, 30, 4, low=0, high=20), draw(2, 30, 3, seed=2, low=0, high=1)
UNARY = [
    k
    for f in OPS["unary"]["fields"]
    if f["name"] == "kind"
    for k in f["names"]
    if k not in ("log", "sqrt")
]
AB = {"clip": (-1, 2), "leaky_relu": (0.1, 0), "elu": (0.7, 0), "ramp": (0.3, 0.45)}
AB["selu"] = (1.67, 1.05)
BINARY = next(f["names"] for f in OPS["binary"]["fields"] if f["name"] == "kind")
REDUCE = next(f["names"] for f in OPS["reduce"]["fields"] if f["name"] == "kind")


class P:
    """An operand that is a parameter."""

    def __init__(self, array: Array) -> None:
        self.array = array


# operator, operands, attributes
CASES: list[tuple[str, list[Any], dict[str, Any]]] = [
    ("conv", [MAP, P(draw(4, 8, 3, 3)), P(draw(4))], {"pads": [1, 0, 2, 1], "stride": [2, 1]}),
    ("conv", [MAP, P(draw(8, 1, 3, 3))], {"groups": 8, "dilation": [1, 2], "pads": [1, 2, 1, 2]}),
    ("conv_transpose", [MAP, P(draw(8, 3, 2, 2)), P(draw(3))], {"stride": [2, 2]}),
    (
        "conv_transpose",
        [MAP, P(draw(8, 2, 3, 3))],
        {"stride": [2, 3], "pads": [1, 1, 0, 1], "groups": 4, "output_pad": [1, 2]},
    ),
    ("matmul", [ROW, P(draw(5, 12)), P(draw(5))], {"transpose_b": True}),
    ("matmul", [draw(3, 12), P(draw(5, 12)), P(draw(5))], {"transpose_b": True}),
    ("matmul", [draw(12, 3), P(draw(12, 5))], {"transpose_a": True}),
    ("matmul", [ROW, draw(2, 7, 9, seed=2)], {"transpose_a": True}),
    ("matmul", [draw(2, 3, 4, 5), draw(2, 3, 6, 5, seed=2)], {"transpose_b": True}),
    (
        "batch_norm",
        [MAP, *(P(draw(8, seed=i, low=0.5, high=2)) for i in range(4))],
        {"eps": 0.01},
    ),
    ("batch_norm", [draw(3, 8), *(P(draw(8, seed=i, low=0.5, high=2)) for i in range(4))], {}),
    ("layer_norm", [ROW, P(draw(12)), P(draw(12, seed=3))], {}),
    ("layer_norm", [MAP], {"eps": 0.1}),
    ("group_norm", [MAP, P(draw(8)), P(draw(8, seed=3))], {"groups": 4}),
    ("group_norm", [MAP, None, P(draw(8))], {"groups": 2}),
    ("group_norm", [MAP], {"groups": 0, "eps": 0.1}),
    ("group_norm", [ROW, P(draw(12))], {"groups": 3}),
    ("softmax", [MAP], {"axis": -1}),
    ("softmax", [MAP], {"axis": 2}),
    ("softmax", [ROW], {"axis": 1}),
    ("log_softmax", [MAP], {"axis": 3}),
    *(
        ("unary", [MAP], {"kind": k, "a": AB.get(k, (0, 0))[0], "b": AB.get(k, (0, 0))[1]})
        for k in UNARY
    ),
    *(("unary", [draw(2, 3, low=0.1)], {"kind": k}) for k in ("log", "sqrt")),
    ("prelu", [MAP, P(draw(8))], {}),
    ("prelu", [ROW, P(draw(1))], {}),
    *(("binary", [MAP, np.round(MAP) if "equal" in k else SMALL[:1, :1, :1]], {"kind": k})
      for k in BINARY if k not in ("pow", "and", "or", "xor")),
    *(("binary", [BYTES % 3, BYTES // 3 % 2], {"kind": k}) for k in ("and", "or", "xor", "less")),
    *(("binary", [INTS, np.roll(INTS, 1)], {"kind": k}) for k in BINARY[-9:-3]),
    ("binary", [draw(2, 3, 4, low=0.1), draw(3, 1)], {"kind": "pow"}),
    ("binary", [MAP, P(draw(8))], {"kind": "mul"}),
    ("binary", [P(draw(5, 1)), MAP], {"kind": "sub"}),
    ("binary", [MAP, draw(5, 8)], {"kind": "add"}),
    ("binary", [draw(8), MAP], {"kind": "div"}),
    ("where", [(MAP > 0).astype(np.uint8), MAP, SMALL[:1, :1, :1]], {}),
    ("where", [(MAP[0, 0] > 0).astype(np.uint8), P(draw(1)), MAP], {}),
    ("max_pool", [MAP], {"kernel": [3, 2], "stride": [2, 1], "pads": [1, 0, 1, 1]}),
    ("max_pool", [MAP], {"kernel": [3, 3], "stride": [2, 2], "ceil_mode": True}),
    ("max_pool", [MAP], {"kernel": [2, 2], "dilation": [2, 2], "stride": [1, 1]}),
    ("max_pool", [MAP], {}),
    ("avg_pool", [MAP], {}),
    ("avg_pool", [MAP], {"kernel": [3, 3], "stride": [2, 2], "pads": [1, 1, 1, 1]}),
    ("avg_pool", [MAP], {"kernel": [3, 3], "stride": [1, 2], "pads": [1] * 4, "count_pad": True}),
    (
        "avg_pool",
        [MAP],
        {"kernel": [3, 3], "stride": [2, 2], "ceil_mode": True, "pads": [1, 1, 0, 0]},
    ),
    (
        "avg_pool",
        [MAP],
        {"kernel": [3, 3], "stride": [2, 2], "ceil_mode": True, "pads": [1] * 4, "count_pad": True},
    ),
    ("avg_pool", [MAP], {"kernel": [2, 2], "dilation": [2, 2], "stride": [1, 1]}),
    *(("reduce", [np.abs(MAP) + 0.1], {"kind": k, "axes": [1, -1]}) for k in REDUCE),
    *(("reduce", [MAP], {"kind": k, "axes": [2], "keepdims": True}) for k in REDUCE),
    ("reduce", [ROW], {"kind": "mean"}),
    ("reduce", [MAP], {"kind": "max", "axes": [3]}),
    ("concat", [MAP, MAP[..., :3]], {"axis": -1}),
    ("concat", [ROW, ROW[:, :2]], {"axis": 1}),
    ("split", [MAP], {"axis": 3, "parts": 4}),
    ("split", [MAP], {"axis": 1, "sizes": [1, 2, 3]}),
    ("slice", [MAP], {"starts": [1, -1], "ends": [2**62, -(2**62)], "axes": [1, 3],
                      "steps": [2, -1]}),
    ("slice", [ROW], {"starts": [0, 2], "ends": [1, -2]}),
    ("pad", [MAP], {"before": [0, 1, 2, 0], "after": [0, 0, 1, 3], "value": 1.5}),
    ("pad", [MAP], {"before": [0, 2, 1, 0], "after": [0, 1, 1, 0], "mode": "reflect"}),
    ("pad", [MAP], {"before": [0, 2, 1, 0], "after": [0, 1, 1, 0], "mode": "edge"}),
    ("pad", [MAP], {"before": [0, 2, 1, 0], "after": [0, 1, 1, 0], "mode": "wrap"}),
    ("reshape", [MAP], {"shape": [0, -1, 4]}),
    ("reshape", [MAP[:, :1, :1]], {"shape": [0, -1]}),
    ("reshape", [ROW], {"shape": [0, 7, 3, 4]}),
    ("transpose", [MAP], {"perm": [0, 3, 1, 2]}),
    ("transpose", [MAP], {"perm": [2, 0, 3, 1]}),
    ("transpose", [ROW], {}),
    ("expand", [MAP[:, :1]], {"shape": [-1, 3, -1, -1]}),
    ("expand", [MAP[0, :1, :1]], {"shape": [2, 3, 4, -1]}),
    ("expand", [draw(1, 1, 1, 8), MAP], {}),
    ("resize", [SMALL], {"scale": [2, 3]}),
    ("resize", [MAP, SMALL], {}),
    ("resize", [SMALL], {"scale": [2, 2], "mode": "bilinear"}),
    ("resize", [SMALL], {"scale": [1.75, 0.5], "mode": "bilinear"}),
    ("resize", [SMALL, MAP], {"mode": "bilinear", "align_corners": True}),
    ("resize", [SMALL], {"size": [7, 9], "mode": "bilinear", "coordinates": "asymmetric"}),
    ("resize", [SMALL], {"size": [8, 9], "mode": "bilinear", "coordinates": "pytorch_half_pixel"}),
    ("resize", [SMALL], {"scale": [2, 2], "mode": "cubic", "cubic_a": -0.5}),
    ("resize", [SMALL], {"size": [7, 5], "mode": "cubic", "exclude_outside": True}),
    ("resize", [SMALL], {"scale": [1.6, 1.7], "mode": "bilinear", "coordinates": "symmetric"}),
    *(
        ("resize", [SMALL], {"size": [7, 5], "coordinates": "half_pixel", "rounding": r})
        for r in ("floor", "ceil", "half_down", "half_up")
    ),
    ("space_to_depth", [draw(2, 4, 6, 3)], {"block": 2}),
    ("depth_to_space", [MAP], {"block": 2}),
    ("channel_shuffle", [MAP], {"groups": 2}),
    ("channel_shuffle", [MAP], {"groups": 4}),
    ("gather", [MAP, np.array([3, 0, 0, -1], np.int32)], {"axis": 3}),
    ("gather", [MAP, np.array([[1, 0], [2, 2]], np.int32)], {"axis": 1}),
    ("gather_elements", [MAP, np.array([[[[1, 0, -1]], [[2, 0, 1]]]], np.int32)], {"axis": 2}),
    ("gather_elements", [ROW, np.array([[[1, -7]], [[0, 6]]], np.int32)], {"axis": 1}),
    ("suppress", [BOXES, SCORES], {"iou": 0.3, "conf": 0.2, "max_det": 5}),
    ("suppress", [BOXES, SCORES], {"iou": 0.5, "max_det": 100, "centre": True}),
    ("binary", [INTS, np.array([2], np.int32)], {"kind": "div"}),
    ("binary", [INTS, INTS], {"kind": "mul"}),
    ("arg_max", [MAP], {"axis": 3}),
    ("arg_max", [np.round(MAP)], {"axis": 1, "minimum": True, "keepdims": True, "last": True}),
    ("top_k", [MAP], {"k": 3, "axis": -1}),
    ("top_k", [ROW], {"k": 4, "axis": 1, "smallest": True}),
    ("quantize", [MAP], {"scale": [0.02], "zero": [128.0]}),
    ("quantize", [MAP], {"scale": [0.02 * (i + 1) for i in range(8)], "dtype": "s8"}),
    ("dequantize", [BYTES], {"scale": [0.5], "zero": [3.0]}),
    ("dequantize", [BYTES], {"scale": [0.5, 0.25], "zero": [3.0, 0.0]}),
    ("dequantize", [MAP], {"scale": [0.5]}),
    ("cast", [100 * MAP], {"dtype": "u8"}),
    ("cast", [100 * MAP], {"dtype": "s8"}),
    ("cast", [MAP], {"dtype": "s32"}),
    ("cast", [BYTES], {"dtype": "f32"}),
    ("cast", [np.array([[-5, 300, 77]], np.int32)], {"dtype": "u8"}),
    ("dropout", [MAP], {"p": 0.5}),
    ("stop_gradient", [MAP], {}),
]  # fmt: skip


class Built:
    """A graph of one operator, and what the interpreter says."""

    def __init__(self, op: str, operands: list[Any], params: dict[str, Any]) -> None:
        self.store, self.graph = _core.Store(), _core.Graph()
        self.arrays: list[Array] = []
        values: list[int | None] = []
        for i, operand in enumerate(operands):
            if operand is None:
                values.append(None)
            elif isinstance(operand, P):
                self.store.add(f"p{i}", operand.array.shape)
                self.store.set(f"p{i}", operand.array)
                values.append(self.graph.entry(self.store, f"p{i}"))
            else:
                shape = [-1] * operand.ndim
                values.append(self.graph.input(f"x{i}", NAMES[operand.dtype], shape))
                self.arrays.append(np.ascontiguousarray(operand))
        count = params.get("parts") or len(params.get("sizes", ())) if op == "split" else 0
        self.outputs = self.graph.node(op, "the.node", values, params, count)
        for i, value in enumerate(self.outputs):
            self.graph.output(f"y{i}", value)
        types = [(NAMES[a.dtype], a.shape) for a in self.arrays]
        self.want = _core.Interpreter(self.graph, self.store, types).forward(self.arrays)

    def run(self, opset: int, first: bool, free: bool) -> list[Array]:
        """What onnxruntime says, as the graph has it; free: sizes are left open where they can."""
        inputs = []
        for (name, dtype, _, _), a in zip(self.graph.inputs, self.arrays, strict=True):
            inputs.append((name, (dtype, tuple(_opened(a, free)))))
        model = from_graph(self.graph, self.store, inputs, opset=opset, first=first)
        assert {o.domain for o in model.opset_import} == {""}
        feeds = {
            name: a.transpose(0, 3, 1, 2) if first and a.ndim == 4 else a
            for (name, _), a in zip(inputs, self.arrays, strict=True)
        }
        session = ort.InferenceSession(model.SerializeToString(), OPTIONS)
        outs = session.run(None, {n: np.ascontiguousarray(a) for n, a in feeds.items()})
        return [o.transpose(0, 2, 3, 1) if first and o.ndim == 4 else o for o in outs]


def _opened(a: Array, free: bool) -> list[int]:
    """The shape with -1 for the batch, and for a map's height and width with `free`."""
    shape = list(a.shape)
    if a.ndim == 4:
        shape[0] = -1 if shape[0] > 1 else 1
        if free:
            shape[1:3] = [-1 if s > 1 else 1 for s in shape[1:3]]
    return shape


def _id(case: tuple[str, list[Any], dict[str, Any]]) -> str:
    return f"{case[0]}-{'-'.join(str(v) for v in case[2].values())[:40]}"


# Their result has a size of its own: with another image size it would be another net.
FIXED = frozenset(("reshape", "expand", "binary", "where", "matmul", "top_k", "slice", "split"))


# Operator set, maps in ONNX' order at the border, free sizes.
FORMS = [(13, True, False), (17, False, True), (18, True, True), (21, False, False)]


@pytest.mark.parametrize("case", [c for c in CASES if c[0] in OPS], ids=_id)
def test_operator_says_the_same_in_onnxruntime(case: tuple[str, list[Any], dict[str, Any]]) -> None:
    built = Built(*case)
    for opset, first, free in FORMS:
        try:
            got = built.run(opset, first, free and case[0] not in FIXED)
        except Error as error:
            assert "needs opset 19" in str(error) and opset < 19, error
            continue
        for y, want in zip(got, built.want, strict=True):
            assert y.shape == want.shape and y.dtype == want.dtype
            np.testing.assert_allclose(y, want, rtol=2e-5, atol=2e-5)


def test_every_operator_has_a_row_or_is_made_for_training_only() -> None:
    assert set(OPS) - set(ROWS) == NOT_WRITTEN


def test_every_operator_of_the_table_has_a_case() -> None:
    assert set(OPS) - NOT_WRITTEN <= {op for op, *_ in CASES}


@pytest.mark.parametrize("op", sorted(set(ROWS) & set(OPS)))
def test_row_knows_every_attribute(op: str) -> None:
    assert ROWS[op][1] == {f["name"] for f in OPS[op]["fields"]}


# ---- what is refused ----------------------------------------------------------------------------


def refused(nodes: list[tuple[str, dict[str, Any]]], opset: int = 17) -> str:
    """The error for a chain of nodes on a map."""
    store, graph = _core.Store(), _core.Graph()
    value = graph.input("x", "f32", [-1, -1, -1, 8])
    for i, (op, params) in enumerate(nodes):
        inputs = [value, value] if op == "unary_dx" else [value]
        value = graph.node(op, f"node{i}", inputs, params)[0]
    graph.output("y", value)
    with pytest.raises(Error) as caught:
        from_graph(graph, store, [("x", ("f32", (-1, -1, -1, 8)))], opset=opset)
    return str(caught.value)


def test_all_refused_nodes_are_named_at_once() -> None:
    wrap = {"before": [0, 1, 1, 0], "after": [0, 0, 0, 0], "mode": "wrap"}
    pool = {"kernel": [2, 2], "dilation": [2, 2], "stride": [1, 1]}
    text = refused(
        [
            ("unary", {"kind": "relu"}),
            ("pad", wrap),
            ("unary_dx", {"kind": "relu"}),
            ("unary", {"kind": "exp"}),
            ("avg_pool", pool),
        ]
    )
    assert "3 nodes have no ONNX form" in text
    for part in ("pad 'node1': mode wrap needs opset 19", "unary_dx 'node2'", "avg_pool 'node4'"):
        assert part in text
    assert "unary_dx" in refused([("unary_dx", {"kind": "relu"})], opset=21)


def test_attribute_that_a_row_does_not_know_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ROWS, "softmax", (ROWS["softmax"][0], frozenset()))
    assert "softmax 'node0': axis is 1" in refused([("softmax", {"axis": 1})])
