"""The binding of stores, graphs, interpreters and plans: conversion, refusals, lifetimes."""

from __future__ import annotations

import gc
import json
import threading
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from deepseek_det import _core

Array = npt.NDArray[np.float32]


class Net:
    """A small net: conv, batch norm, activation, residual, and a second output."""

    def __init__(self, seed: int = 0, act: str = "silu") -> None:
        self.store = _core.Store()
        self.graph = _core.Graph()
        self.rng = np.random.default_rng(seed)
        x = self.graph.input("x", "f32", [-1, -1, -1, 3])
        y = self.conv("stem", x, 3, 8)
        y = self.norm("bn", y, 8)
        y = self.graph.node("unary", "act", [y], {"kind": act})[0]
        z = self.conv("block", y, 8, 8, bias=True)
        z = self.graph.node("binary", "sum", [y, z], {"kind": "add"})[0]
        self.graph.output("y", y)
        self.graph.output("z", z)

    def entry(self, name: str, shape: tuple[int, ...], role: str = "trainable") -> int:
        self.store.add(name, shape, role, decay=len(shape) > 1)
        values = self.rng.uniform(0.2, 1.0, shape) * (
            self.rng.choice([-1, 1], shape) if len(shape) > 1 else 1
        )
        self.store.set(name, values.astype(np.float32))
        return self.graph.entry(self.store, name)

    def conv(self, name: str, x: int, c_in: int, c_out: int, bias: bool = False) -> int:
        inputs: list[int | None] = [x, self.entry(f"{name}.weight", (c_out, c_in, 3, 3))]
        inputs.append(self.entry(f"{name}.bias", (c_out,)) if bias else None)
        return self.graph.node("conv", name, inputs, {"pads": [1, 1, 1, 1]})[0]

    def norm(self, name: str, x: int, c: int) -> int:
        words = [("weight", "trainable"), ("bias", "trainable")]
        words += [("running_mean", "state"), ("running_var", "state")]
        inputs = [x] + [self.entry(f"{name}.{word}", (c,), role) for word, role in words]
        return self.graph.node("batch_norm", name, inputs)[0]


SHAPE = (2, 6, 5, 3)


def image(seed: int = 1, shape: tuple[int, ...] = SHAPE) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


# ---- store


def test_store_entries_keep_names_shapes_and_options() -> None:
    store = _core.Store()
    assert store.add("a.weight", (2, 3), decay=True) == 0
    assert store.add("a.mean", [5], "state") == 1
    assert store.names == ["a.weight", "a.mean"]
    assert len(store) == 2 and "a.mean" in store and "b" not in store and 3 not in store
    store.set_options("a.weight", lr_factor=0.5, frozen=True)
    entry = store.entry("a.weight")
    assert entry["shape"] == (2, 3) and entry["role"] == "trainable" and entry["count"] == 6
    assert entry["lr_factor"] == 0.5 and entry["frozen"] and entry["decay"]
    assert store.entries()[1]["role"] == "state" and store.entries()[1]["offset"] % 16 == 0
    version = store.version
    store.set("a.weight", np.arange(6, dtype=np.float32).reshape(2, 3))
    assert store.version > version
    np.testing.assert_array_equal(store.get("a.weight"), np.arange(6).reshape(2, 3))
    copy = store.copy()
    store.set("a.weight", np.zeros((2, 3), np.float32))
    assert copy.get("a.weight").sum() == 15


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda s: s.add("a", (2,)), ValueError, "'a'"),
        (lambda s: s.add("", (2,)), ValueError, "name"),
        (lambda s: s.add("b", (-2,)), ValueError, "-2"),
        (lambda s: s.add("b", (2,) * 7), ValueError, "7 dimensions"),
        (lambda s: s.add("b", (2,), "weights"), ValueError, "'weights'"),
        (lambda s: s.add("b", (1 << 40, 1 << 40)), MemoryError, "1 TiB"),
        (lambda s: s.add("b", 3), TypeError, "."),
        (lambda s: s.get("nobody"), KeyError, "nobody"),
        (lambda s: s.set("a", np.zeros(4, np.float32)), ValueError, r"\(4,\)"),
        (lambda s: s.set("a", np.zeros(3)), TypeError, "a"),
        (lambda s: s.set_options("nobody", frozen=True), KeyError, "nobody"),
        (lambda s: s.set_options("a", lr_factor=-1), ValueError, "lr_factor"),
        (lambda s: s.set_options("a", lr_factor=float("nan")), ValueError, "lr_factor"),
    ],
)
def test_store_refuses(call: Any, error: type[Exception], words: str) -> None:
    store = _core.Store()
    store.add("a", (3,))
    with pytest.raises(error, match=words):
        call(store)
    assert store.names == ["a"]


def test_store_flat_view_pins_and_outlives() -> None:
    store = _core.Store()
    store.add("a", (3,))
    view = store.flat()
    view[1] = 7
    assert store.get("a").tolist() == [0, 7, 0]
    with pytest.raises(BufferError):
        store.add("b", (2,))
    other = view[1:]
    del view
    gc.collect()
    with pytest.raises(BufferError):
        store.add("b", (2,))
    del other
    gc.collect()
    store.add("b", (2,))
    view = store.flat()
    del store
    gc.collect()
    assert view[1] == 7


# ---- graph


def test_graph_infers_and_counts() -> None:
    net = Net()
    types = net.graph.infer(net.store, [SHAPE])
    assert types["outputs"] == {"y": ("f32", (2, 6, 5, 8)), "z": ("f32", (2, 6, 5, 8))}
    assert types["macs"] == 2 * 6 * 5 * 8 * 9 * (3 + 8)
    assert net.graph.macs(net.store, [("f32", SHAPE)]) == types["macs"]
    layers = net.graph.layers(net.store, [SHAPE])
    assert [layer["op"] for layer in layers] == ["conv", "batch_norm", "unary", "conv", "binary"]
    assert [layer["params"] for layer in layers] == [216, 16, 0, 584, 0]
    assert layers[0]["shape"] == (2, 6, 5, 8)
    assert net.graph.inputs == [("x", "f32", (-1, -1, -1, 3), 0)]
    assert net.graph.output_names == ["y", "z"]
    assert not net.graph.training


def test_graph_nodes_give_back_their_attributes() -> None:
    graph = _core.Graph()
    x = graph.input("x", "f32", [-1, 4])
    graph.node("unary", "u", [x], {"kind": "clip", "a": float("-inf"), "b": 6})
    graph.node("slice", "s", [x], {"starts": (0, 1), "ends": [2**31 - 1, 3]})
    params = [node["params"] for node in graph.nodes()]
    assert params[0] == {"kind": "clip", "a": float("-inf"), "b": 6.0}
    assert params[1]["starts"] == (0, 1) and params[1]["ends"] == (2**31 - 1, 3)
    first, second = graph.node("split", "cut", [x], {"parts": 2}, n_outputs=2)
    assert graph.values()[second]["name"] == "cut:1" and graph.values()[first]["slot"] == 0


@pytest.mark.parametrize(
    ("op", "inputs", "params", "error", "words"),
    [
        ("nothing", [0], {}, ValueError, "'nothing'"),
        ("unary", [], {}, ValueError, "0 inputs"),
        ("unary", [None], {}, ValueError, "absent"),
        ("unary", [9], {}, ValueError, "9"),
        ("unary", [-5], {}, ValueError, "-5"),
        ("unary", ["x"], {}, TypeError, "."),
        ("unary", [0] * 65, {}, ValueError, "65"),
        ("unary", [0], {"slope": 1}, ValueError, "'slope', valid are: kind, a, b"),
        ("unary", [0], {3: 1}, ValueError, "valid are"),
        ("unary", [0], {"kind": "rel"}, ValueError, "'rel', one of identity, relu"),
        ("unary", [0], {"kind": 1}, TypeError, "kind"),
        ("unary", [0], {"a": "1"}, TypeError, "'a' is '1', a number"),
        ("unary", [0], {"a": float("nan")}, ValueError, "'a'"),
        ("unary", [0], [("a", 1)], TypeError, "dict"),
        ("batch_norm", [0, 0, 0, 0, 0], {"frozen": 1}, TypeError, "bool"),
        ("conv", [0, 0], {"groups": 1.5}, TypeError, "integer"),
        ("conv", [0, 0], {"groups": 2**70}, TypeError, "integer"),
        ("conv", [0, 0], {"pads": 1}, TypeError, "list of integers"),
        ("conv", [0, 0], {"pads": "1111"}, TypeError, "list of integers"),
        ("conv", [0, 0], {"pads": [1] * 9}, ValueError, "9 items"),
        ("conv", [0, 0], {"pads": [1, 1, 1, 0.5]}, TypeError, "list of integers"),
    ],
)
def test_graph_node_refuses(
    op: str, inputs: Any, params: Any, error: type[Exception], words: str
) -> None:
    graph = _core.Graph()
    graph.input("x", "f32", [-1, 4])
    with pytest.raises(error, match=words):
        graph.node(op, "n", inputs, params)
    assert graph.nodes() == []


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ([], "0 input types"),
        ([(2, 6, 5, 4)], "input 'x'"),
        ([(2, 6, 5)], "input 'x'"),
        ([("u8", SHAPE)], "input 'x'"),
        ([("f31", SHAPE)], "f31"),
        ([(2, -1, 5, 3)], "input 'x'"),
    ],
)
def test_graph_infer_refuses(inputs: Any, words: str) -> None:
    net = Net()
    with pytest.raises(ValueError, match=words):
        net.graph.infer(net.store, inputs)


def test_graph_infer_names_the_node() -> None:
    net = Net()
    graph = net.graph
    w = net.entry("odd.weight", (4, 5, 1, 1))
    graph.node("conv", "head.odd", [0, w])
    with pytest.raises(ValueError, match=r"head\.odd: conv: .*3"):
        graph.infer(net.store, [SHAPE])


def test_graph_json_is_stable_and_belongs_to_its_store() -> None:
    net = Net()
    text = net.graph.to_json(net.store)
    assert json.loads(text)["format"] == "deepseek_det.graph"
    again = _core.Graph.from_json(text, net.store)
    assert again.to_json(net.store) == text
    x = image()
    want = _core.Interpreter(net.graph, net.store, [SHAPE]).forward([x])
    have = _core.Interpreter(again, net.store, [SHAPE]).forward([x])
    for a, b in zip(have, want, strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises((ValueError, _core.Error), match=r"stem\.weight"):
        _core.Graph.from_json(text, _core.Store())
    with pytest.raises((ValueError, _core.Error)):
        _core.Graph.from_json(text[:-1], net.store)
    training = net.graph.differentiate(net.store)
    with pytest.raises(ValueError, match="training"):
        training.to_json(net.store)


def test_graph_deploy_folds_within_1e_5() -> None:
    net = Net()
    graph, store = net.graph.deploy(net.store)
    assert [node["op"] for node in graph.nodes()] == ["conv", "unary", "conv"]
    assert set(store.names) == {"stem.weight", "stem.bias", "block.weight", "block.bias"}
    x = image()
    want = _core.Interpreter(net.graph, net.store, [SHAPE]).forward([x])
    have = _core.Interpreter(graph, store, [SHAPE]).forward([x])
    for a, b in zip(have, want, strict=True):
        assert np.abs(a - b).max() <= 1e-5 * np.abs(b).max()


def test_graph_prune_dead_and_copy() -> None:
    net = Net()
    net.graph.node("unary", "dead", [0], {"kind": "relu"})
    copy = net.graph.copy()
    net.graph.prune_dead()
    assert len(net.graph.nodes()) == 5 and len(copy.nodes()) == 6


# ---- runs


@pytest.fixture(params=["Interpreter", "Plan"])
def executor(request: pytest.FixtureRequest) -> Any:
    return getattr(_core, request.param)


def test_run_gives_outputs_and_gradients(executor: Any) -> None:
    net = Net()
    training = net.graph.differentiate(net.store, inputs_too=True)
    assert training.training and training.output_names == ["y", "z", "d:x"]
    run = executor(training, net.store, [SHAPE])
    x = image()
    out = run.forward([x], step=3)
    seeds = [image(2, out[0].shape), None, None]
    gradient = np.zeros(net.store.size, np.float32)
    extra = run.backward(seeds, gradient)
    assert extra["d:x"].shape == SHAPE and np.abs(extra["d:x"]).max() > 0
    entry = net.store.entry("stem.weight")
    assert np.abs(gradient[entry["offset"] :][: entry["count"]]).max() > 0
    entry = net.store.entry("block.weight")  # y's seed does not reach it
    assert np.abs(gradient[entry["offset"] :][: entry["count"]]).max() == 0
    once = gradient.copy()
    run.backward(seeds, gradient)
    np.testing.assert_allclose(gradient, 2 * once, rtol=1e-5, atol=1e-6)


def test_plan_equals_the_interpreter() -> None:
    net = Net()
    results = []
    for executor in (_core.Interpreter, _core.Plan):
        store = net.store.copy()
        run = executor(net.graph.differentiate(store, inputs_too=True), store, [SHAPE])
        out = run.forward([image()])
        gradient = np.zeros(store.size, np.float32)
        extra = run.backward([image(2, out[0].shape), image(3, out[1].shape), None], gradient)
        results.append([*out[:2], gradient, extra["d:x"], store.get("bn.running_var")])
    for a, b in zip(*results, strict=True):
        assert np.abs(a - b).max() <= 1e-5 * np.abs(b).max()


@pytest.mark.parametrize(
    ("inputs", "error", "words"),
    [
        ([], ValueError, "0 arrays"),
        ([np.zeros((2, 6, 5, 4), np.float32)], ValueError, "'x'"),
        ([np.zeros((2, 6, 5), np.float32)], ValueError, "'x'"),
        ([np.zeros(SHAPE, np.uint8)], TypeError, "'x'"),
        ([np.zeros(SHAPE)], TypeError, "'x'"),
        ([None], ValueError, "'x'"),
        (None, TypeError, "."),
    ],
)
def test_run_refuses_inputs(executor: Any, inputs: Any, error: type[Exception], words: str) -> None:
    net = Net()
    run = executor(net.graph, net.store, [SHAPE])
    with pytest.raises(error, match=words):
        run.forward(inputs)


def test_run_refuses_backward_out_of_order(executor: Any) -> None:
    net = Net()
    gradient = np.zeros(net.store.size, np.float32)
    run = executor(net.graph, net.store, [SHAPE])
    run.forward([image()])
    with pytest.raises(_core.Error, match="training graph"):
        run.backward([None, None], gradient)
    run = executor(net.graph.differentiate(net.store), net.store, [SHAPE])
    with pytest.raises(_core.Error, match="forward"):
        run.backward([None, None], gradient)
    run.forward([image()])
    with pytest.raises(ValueError, match="1 arrays"):
        run.backward([None], gradient)
    with pytest.raises(ValueError, match="'y'"):
        run.backward([np.zeros(3, np.float32), None], gradient)
    with pytest.raises(ValueError, match="gradient"):
        run.backward([None, None], gradient[:-1].copy())
    with pytest.raises(TypeError):
        run.backward([None, None], gradient.astype(np.float64))


def test_run_is_not_touched_by_later_changes_of_the_graph(executor: Any) -> None:
    net = Net()
    run = executor(net.graph, net.store, [SHAPE])
    want = [a.copy() for a in run.forward([image()])]
    for k in range(40):
        net.graph.node("unary", f"late{k}", [0], {"kind": "relu"})
    del net.graph
    gc.collect()
    for a, b in zip(run.forward([image()]), want, strict=True):
        np.testing.assert_array_equal(a, b)


def test_interpreter_value_is_a_tap() -> None:
    net = Net()
    run = _core.Interpreter(net.graph, net.store, [SHAPE])
    y = dict(net.graph.outputs)["y"]
    assert run.value(y) is None
    out = run.forward([image()])
    tap = run.value(y)
    assert tap is not None
    np.testing.assert_array_equal(tap, out[0])
    with pytest.raises(IndexError):
        run.value(999)


def test_plan_writes_into_out() -> None:
    net = Net()
    plan = _core.Plan(net.graph, net.store, [SHAPE])
    want = plan.forward([image()])
    out: list[Any] = [np.full((2, 6, 5, 8), 9, np.float32), None]
    have = plan.forward([image()], out=out)
    assert have[0] is out[0]
    np.testing.assert_array_equal(have[0], want[0])
    np.testing.assert_array_equal(have[1], want[1])
    with pytest.raises(ValueError, match="'y'"):
        plan.forward([image()], out=[np.zeros((2, 6, 5, 7), np.float32), None])
    with pytest.raises(TypeError):
        plan.forward([image()], out=[np.zeros((2, 6, 5, 8)), None])
    with pytest.raises(ValueError, match="2 are needed"):
        plan.forward([image()], out=[None])


def test_plans_share_an_arena() -> None:
    net = Net()
    arena = _core.Arena()
    training = net.graph.differentiate(net.store)
    small = _core.Plan(training, net.store, [SHAPE], arena=arena)
    large = _core.Plan(training, net.store, [(2, 24, 20, 3)], arena=arena)
    gradient = np.zeros(net.store.size, np.float32)
    small.forward([image()])
    assert arena.bytes >= small.arena_bytes
    large.forward([image(1, (2, 24, 20, 3))])
    assert arena.bytes >= large.arena_bytes and small.arena is arena
    with pytest.raises(_core.Error, match="just before"):
        small.backward([None, None], gradient)
    large.backward([None, None], gradient)
    with pytest.raises(TypeError):
        _core.Plan(training, net.store, [SHAPE], arena=3)  # type: ignore[arg-type]


def test_plan_runs_from_several_threads_one_after_another() -> None:
    net = Net()
    plan = _core.Plan(net.graph, net.store, [SHAPE])
    wants = [plan.forward([image(k)])[1].copy() for k in range(4)]
    wrong: list[int] = []

    def work(k: int) -> None:
        for _ in range(10):
            if not np.array_equal(plan.forward([image(k)])[1], wants[k]):
                wrong.append(k)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_plan_second_run_allocates_nothing_of_the_core() -> None:
    net = Net()
    training = net.graph.differentiate(net.store)
    plan = _core.Plan(training, net.store, [SHAPE])
    gradient = np.zeros(net.store.size, np.float32)
    x, seed = image(), image(2, (2, 6, 5, 8))
    for _ in range(2):
        plan.forward([x])
        plan.backward([seed, None], gradient)
    calls = _core._alloc_calls()
    plan.forward([x])
    plan.backward([seed, None], gradient)
    assert _core._alloc_calls() == calls


def test_plan_reports_steps_and_what_is_not_finite() -> None:
    net = Net()
    plan = _core.Plan(net.graph, net.store, [SHAPE])
    with pytest.raises(_core.Error, match="forward"):
        plan.first_nonfinite()
    plan.profile(True)
    x = image()
    plan.forward([x])
    assert plan.first_nonfinite() is None
    steps = plan.steps()
    assert steps and sum(step["macs"] for step in steps) == net.graph.macs(net.store, [SHAPE])
    assert all(step["milliseconds"] >= 0 and not step["backward"] for step in steps)
    x[0, 0, 0, 0] = np.nan
    plan.forward([x])
    assert isinstance(plan.first_nonfinite(), str)


def test_objects_give_all_their_memory_back() -> None:
    gc.collect()
    live = _core._alloc_live()
    for _ in range(3):
        net = Net()
        training = net.graph.differentiate(net.store, inputs_too=True)
        for executor in (_core.Interpreter, _core.Plan):
            run = executor(training, net.store, [SHAPE])
            run.forward([image()])
            run.backward([None] * 3, np.zeros(net.store.size, np.float32))
            with pytest.raises(ValueError):
                run.forward([])
        graph, store = net.graph.deploy(net.store)
        _core.Graph.from_json(graph.to_json(store), store)
        del net, training, run, graph, store
        gc.collect()
        assert _core._alloc_live() == live


# ---- the list of operators


def test_ops_describe_themselves() -> None:
    ops = {op["name"]: op for op in _core.ops()}
    assert {"conv", "batch_norm", "unary", "binary", "concat", "resize"} <= set(ops)
    assert all(op["doc"] and op["version"] >= 1 and op["min_in"] >= 1 for op in ops.values())
    fields = {field["name"]: field for field in ops["unary"]["fields"]}
    assert fields["kind"]["initial"] == "identity" and "relu" in fields["kind"]["names"]
    assert ops["split"]["n_outputs"] == -1 and ops["conv"]["gradient"]
