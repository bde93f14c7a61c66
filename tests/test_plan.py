"""The planner against the interpreter: every pattern, odd shapes, threads, strips, allocations."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import plan_nets
import pytest

from deepseek_det import _core, nn
from deepseek_det.models import build
from deepseek_det.models.blocks import (
    MOMENTUM,
    ConvNorm,
    DepthwiseSeparable,
    InvertedResidual,
    RepVGGBlock,
)
from deepseek_det.models.pan import PAN

NAMES = re.findall(
    r"DD_PATTERN\((\w+)\)", (Path(__file__).parents[1] / "csrc/graph/steps.def").read_text()
)
PATTERNS = len(NAMES)


class Net(nn.Module):
    """Modules in a row."""

    def __init__(self, *modules: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(*modules)

    def forward(self, x: nn.Value) -> nn.Value:
        value: nn.Value = self.body(x)
        return value


class Pyramid(nn.Module):
    """Three maps, a PAN, outputs joined along the rows."""

    def __init__(self) -> None:
        super().__init__()
        self.a = ConvNorm(5, 8, 3, 2)
        self.b = RepVGGBlock(8, 12, 2)
        self.c = RepVGGBlock(12, 12, 2)
        self.pan = PAN((8, 12, 12), 10)
        self.out = nn.Conv2d(10, 6, 1)

    def forward(self, x: nn.Value) -> nn.Value:
        a = self.a(x)
        b = self.b(a)
        maps = self.pan([a, b, self.c(b)])
        return nn.concat([nn.reshape(self.out(m), [0, -1, 3]) for m in maps], axis=1)


class Branches(nn.Module):
    """Channel concat of values with readers of their own; a shared convolution; two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.a = ConvNorm(5, 7, 3)
        self.b = ConvNorm(7, 7, 3, act="hard_swish")
        self.last = nn.Conv2d(21, 4, 1)

    def forward(self, x: nn.Value) -> list[nn.Value]:
        a = self.a(x)
        b = self.b(a)
        c = self.b(b)
        return [self.last(nn.concat([a, b, c])), nn.unary(b * c, "silu")]


NETS: dict[str, Callable[[], nn.Module]] = {
    **plan_nets.NETS,
    "conv 1x1": lambda: Net(nn.Conv2d(5, 9, 1), nn.ReLU()),
    "conv 3x3 s2": lambda: Net(nn.Conv2d(5, 9, 3, 2, 1, bias=False)),
    "conv 5x5 s3 p1": lambda: Net(nn.Conv2d(5, 9, 5, 3, 1)),
    "conv 2x2 s2": lambda: Net(nn.Conv2d(5, 6, 2, 2), nn.SiLU(), nn.Conv2d(6, 3, 1)),
    "conv 1x1 s2": lambda: Net(ConvNorm(5, 6, 3), nn.Conv2d(6, 6, 1, 2), nn.Conv2d(6, 2, 1)),
    "conv valid": lambda: Net(ConvNorm(5, 6, 1), nn.Conv2d(6, 8, 3), nn.Conv2d(8, 3, 3)),
    "conv dilated": lambda: Net(ConvNorm(5, 6, 1), nn.Conv2d(6, 8, 3, 1, 2, dilation=2)),
    "conv groups": lambda: Net(ConvNorm(5, 8, 1), nn.Conv2d(8, 12, 3, 2, 1, groups=4)),
    "depthwise": lambda: Net(DepthwiseSeparable(5), DepthwiseSeparable(5, 3)),
    "depthwise s2": lambda: Net(ConvNorm(5, 24, 1), ConvNorm(24, 24, 5, 2, groups=24)),
    "inverted residual": lambda: Net(
        InvertedResidual(5, 20, 12, 5, 2, "hard_swish"),
        InvertedResidual(12, 24, 12, 3, 1, "relu"),
    ),
    "repvgg": lambda: Net(ConvNorm(5, 12, 3, 2), RepVGGBlock(12, 12), RepVGGBlock(12, 9, 2)),
    "pyramid": Pyramid,
    "branches": Branches,
}

SHAPES = [(2, 24, 16, 5), (1, 16, 32, 5), (3, 32, 24, 5)]


def trace(module: nn.Module) -> tuple[_core.Graph, _core.Store]:
    store = _core.Store()
    module.name_children()
    for _, p in module.named_parameters():
        store.add(p.name, p.shape, p.role, p.decay)
        store.set(p.name, p.initial(3))
    rng = np.random.default_rng(5)
    for name in store.names:  # norms that do something
        shape = store.get(name).shape
        if name.endswith(("bn.weight", "running_var")):
            store.set(name, rng.uniform(0.5, 1.5, shape).astype(np.float32))
        elif name.endswith(("bias", "running_mean")):
            store.set(name, rng.normal(0, 0.3, shape).astype(np.float32))
    tracer = nn.Tracer(store)
    out = module(tracer.input("x", "f32", [-1, -1, -1, 5]))
    for i, value in enumerate(out if isinstance(out, list) else [out]):
        tracer.graph.output(f"y{i}", value.id)
    return tracer.graph, store


def difference(a: np.ndarray, b: np.ndarray) -> float:
    assert a.shape == b.shape
    return float(np.abs(a - b).max() / max(float(np.abs(b).max()), 1e-20)) if a.size else 0.0


def train_both(
    graph: _core.Graph, store: _core.Store, x: np.ndarray, **options: Any
) -> tuple[float, float, float]:
    """Differences of outputs, gradients (worst entry) and running statistics.

    In bfloat16 the gradient's difference is that of the whole, by its norm: rounding shows most
    where an entry's terms cancel.
    """
    mine, theirs = store.copy(), store.copy()
    training = graph.differentiate(store)
    types = [("f32", x.shape)]
    plan = _core.Plan(training, mine, types, **options)
    oracle = _core.Interpreter(training, theirs, types, seed=0)
    out, expected = plan.forward([x]), oracle.forward([x])
    rng = np.random.default_rng(9)
    seeds = [rng.standard_normal(e.shape).astype(np.float32) for e in expected]
    a, b = np.zeros(mine.size, np.float32), np.zeros(mine.size, np.float32)
    plan.backward(seeds, a)
    oracle.backward(seeds, b)
    forward = max(difference(p, q) for p, q in zip(out, expected, strict=True))
    if options.get("bf16"):
        error = float(np.linalg.norm(a - b) / np.linalg.norm(b))
        return forward, error, difference(mine.flat(), theirs.flat())
    entries = [e for e in store.entries() if e["role"] == "trainable"]
    scale = float(np.abs(b).max())
    worst = 0.0
    for e in entries:
        part = slice(e["offset"], e["offset"] + int(np.prod(e["shape"])))
        error = float(np.abs(a[part] - b[part]).max())
        # A bias in front of a norm has a gradient of zero but for rounding.
        worst = max(worst, error / max(float(np.abs(b[part]).max()), 1e-3 * scale))
    return forward, worst, difference(mine.flat(), theirs.flat())


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = _core.get_num_threads()
    yield
    _core.set_num_threads(before)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", NETS)
def test_plan_training_equals_interpreter(name: str, shape: tuple[int, ...]) -> None:
    graph, store = trace(NETS[name]())
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    forward, gradient, statistics = train_both(graph, store, x)
    assert forward <= 1e-5
    assert gradient <= 1e-4
    assert statistics <= 1e-5


def test_plan_training_of_large_maps_equals_interpreter() -> None:
    """Maps that no cache holds are stored past the caches."""
    graph, store = trace(Net(InvertedResidual(5, 64, 7, 3, 2, "relu"), nn.Conv2d(7, 2, 1)))
    x = np.random.default_rng(1).standard_normal((1, 193, 192, 5)).astype(np.float32)
    forward, gradient, statistics = train_both(graph, store, x)
    assert forward <= 1e-5
    assert gradient <= 1e-4
    assert statistics <= 1e-5


def patterns(graph: _core.Graph, store: _core.Store, shape: tuple[int, ...]) -> list[str]:
    plan = _core.Plan(graph.differentiate(store), store, [("f32", shape)])
    return [s["pattern"] for s in plan.steps()]


class Residuals(nn.Module):
    """Expansions of stored sums, of a norm's result with an activation, and of the image."""

    def __init__(self, act: str, kernel: int, stride: int) -> None:
        super().__init__()
        self.a = InvertedResidual(5, 18, 7, kernel, stride, act)
        self.b = InvertedResidual(7, 14, 7, kernel, 1, act)
        self.c = InvertedResidual(7, 33, 7, kernel, 1, act)
        self.d = ConvNorm(7, 9, 3, act="hard_swish")
        self.e = InvertedResidual(9, 20, 4, kernel, stride, act)

    def forward(self, x: nn.Value) -> nn.Value:
        value: nn.Value = self.e(self.d(self.c(self.b(self.a(x)))))
        return value


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("act", ["relu", "hard_swish", "silu"])
def test_plan_expansions_equal_interpreter(act: str, kernel: int, stride: int, bf16: bool) -> None:
    """No wide map, no gradient of one is stored; forward and backward are those of single steps."""
    graph, store = trace(Residuals(act, kernel, stride))
    shape = (2, 19, 22, 5)
    found = patterns(graph, store, shape)
    assert found.count("expand") == found.count("expand_backward") == 4
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    forward, gradient, statistics = train_both(graph, store, x, bf16=bf16)
    assert forward <= (0.03 if bf16 else 1e-5)
    assert gradient <= (0.2 if bf16 else 1e-4)
    assert statistics <= (0.01 if bf16 else 1e-5)


def test_plan_expansions_take_a_part_of_the_memory() -> None:
    graph, store = trace(Residuals("relu", 3, 1))
    training = graph.differentiate(store)
    types = [("f32", (2, 64, 64, 5))]
    single = _core.Plan(training, store, types, without_patterns=1 << NAMES.index("expand"))
    assert _core.Plan(training, store, types).arena_bytes < 0.7 * single.arena_bytes


def test_plan_expansion_of_a_large_map_equals_interpreter() -> None:
    """The narrow map and its gradient go past the caches as well."""
    net = Net(ConvNorm(5, 32, 1), InvertedResidual(32, 64, 7, 3, 2, "relu"))
    graph, store = trace(net)
    shape = (1, 257, 260, 5)
    assert "expand_backward" in patterns(graph, store, shape)
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    forward, gradient, statistics = train_both(graph, store, x)
    assert max(forward, statistics) <= 1e-5
    assert gradient <= 1e-4


@pytest.mark.parametrize("mean", [0.0, 3.0, 100.0])
def test_plan_expansion_statistics_equal_direct_sums(mean: float) -> None:
    """From the narrow map's moments, in float32 about a guess of the mean: what float64 finds."""
    graph, store = trace(Net(InvertedResidual(5, 20, 6, 3, 1, "relu")))
    rng = np.random.default_rng(3)
    mix = rng.standard_normal((5, 5))  # channels that go along with each other
    x = (mean + rng.standard_normal((3, 40, 48, 5)) @ mix).astype(np.float32)
    plan = _core.Plan(graph.differentiate(store), store, [("f32", x.shape)])
    assert "expand" in [s["pattern"] for s in plan.steps()]
    name = next(n for n in store.names if n.endswith("running_mean"))[: -len("running_mean")]
    weight = next(n for n in store.names if store.get(n).shape == (20, 5, 1, 1))
    before = {k: store.get(name + k).astype(np.float64) for k in ("running_mean", "running_var")}
    wide = x.astype(np.float64).reshape(-1, 5) @ store.get(weight)[:, :, 0, 0].astype(float).T
    plan.forward([x])
    direct = {
        "running_mean": wide.mean(axis=0),
        "running_var": wide.var(axis=0, ddof=1),
    }
    for key, value in direct.items():
        wanted = before[key] + MOMENTUM * (value - before[key])
        error = np.abs(store.get(name + key) - wanted) / np.maximum(np.abs(wanted), 1e-3)
        assert error.max() <= 1e-5


@pytest.mark.parametrize("why", ["output", "other reader", "frozen", "few channels"])
def test_plan_expansion_that_others_read_is_stored(why: str) -> None:
    class Tapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            c = 8 if why == "few channels" else 12
            self.a = ConvNorm(5, c, 1, act="relu")
            self.b = ConvNorm(c, c, 3, groups=c)
            self.c = nn.Conv2d(c, 4, 1)

        def forward(self, x: nn.Value) -> list[nn.Value]:
            a = self.a(x)
            b = self.b(a)
            more = [a] if why == "output" else []
            return [self.c(b + a) if why == "other reader" else self.c(b), *more]

    graph, store = trace(Tapped())
    if why == "frozen":
        weight = next(n for n in store.names if len(store.get(n).shape) == 4)
        store.set_options(weight, frozen=True)
    assert "expand" not in patterns(graph, store, SHAPES[0])
    x = np.random.default_rng(1).standard_normal(SHAPES[0]).astype(np.float32)
    forward, gradient, statistics = train_both(graph, store, x)
    assert max(forward, statistics) <= 1e-5
    assert gradient <= 1e-4


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", NETS)
def test_plan_training_in_bfloat16_is_near_the_interpreter(
    name: str, shape: tuple[int, ...]
) -> None:
    """Maps rounded to eight bits: some per cent of the outputs. A few units of a relu switch, which
    counts more in the gradient: in the maps of a real net it averages out."""
    graph, store = trace(NETS[name]())
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    forward, gradient, statistics = train_both(graph, store, x, bf16=True)
    assert forward <= 0.03
    assert gradient <= 0.2
    assert statistics <= 0.01


def test_plan_in_bfloat16_takes_half_the_memory() -> None:
    graph, store = trace(Net(*(InvertedResidual(i, 32, 8, 3, 1, "relu") for i in (5, 8, 8))))
    training = graph.differentiate(store)
    types = [("f32", (2, 64, 64, 5))]
    whole = _core.Plan(training, store, types).arena_bytes
    assert _core.Plan(training, store, types, bf16=True).arena_bytes < 0.6 * whole


@pytest.mark.parametrize("name", ["inverted residual", "depthwise s2", "repvgg", "pyramid"])
@pytest.mark.parametrize("bf16", [False, True])
def test_plan_with_frozen_weights_equals_interpreter(name: str, bf16: bool) -> None:
    """Every other convolution only passes its gradient on."""
    graph, store = trace(NETS[name]())
    weights = [e["name"] for e in store.entries() if len(e["shape"]) == 4]
    for entry in weights[1::2]:
        store.set_options(entry, frozen=True)
    x = np.random.default_rng(1).standard_normal(SHAPES[0]).astype(np.float32)
    forward, gradient, statistics = train_both(graph, store, x, bf16=bf16)
    assert max(forward, statistics) <= (0.03 if bf16 else 1e-5)
    assert gradient <= (0.2 if bf16 else 1e-4)


@pytest.mark.parametrize("without", [1 << i for i in range(PATTERNS)] + [(1 << PATTERNS) - 1])
@pytest.mark.parametrize(
    "name",
    ["inverted residual", "repvgg", "pyramid", "branches", "pools", "arithmetic", "cuts"],
)
def test_plan_without_a_pattern_stays_right(name: str, without: int) -> None:
    graph, store = trace(NETS[name]())
    x = np.random.default_rng(1).standard_normal(SHAPES[0]).astype(np.float32)
    forward, gradient, statistics = train_both(graph, store, x, without_patterns=without)
    assert max(forward, statistics) <= 1e-5
    assert gradient <= 1e-4


@pytest.mark.parametrize("name", NETS)
def test_plan_inference_equals_interpreter(name: str) -> None:
    graph, store = trace(NETS[name]())
    deployed, folded = graph.deploy(store)
    for shape in SHAPES:
        x = np.random.default_rng(2).standard_normal(shape).astype(np.float32)
        types = [("f32", shape)]
        expected = _core.Interpreter(graph, store, types, seed=0).forward([x])
        for g, s in ((graph, store), (deployed, folded)):
            for out, e in zip(_core.Plan(g, s, types).forward([x]), expected, strict=True):
                assert difference(out, e) <= 1e-5


@pytest.mark.parametrize("stem", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
def test_plan_chain_of_large_maps_has_the_same_bits(stride: int, stem: bool) -> None:
    """An expansion too large for the cache is computed by rows, in any number of units; the stem
    in front of it as well."""
    front = [ConvNorm(5, 6, 3, 2)] if stem else []
    block = InvertedResidual(6 if stem else 5, 17, 5, 5, stride, "hard_swish")
    graph, store = trace(Net(*front, block))
    deployed, folded = graph.deploy(store)
    shape = (2, 201, 224, 5) if stem else (2, 101, 112, 5)
    x = np.random.default_rng(2).standard_normal(shape).astype(np.float32)
    types = [("f32", x.shape)]
    expected = _core.Interpreter(graph, store, types, seed=0).forward([x])[0]
    single = _core.Plan(deployed, folded, types, without_patterns=1).forward([x])[0]
    assert difference(single, expected) <= 1e-5
    for threads in (1, 2, 3):
        for strip in (0, 1, 3):
            _core.set_num_threads(threads)
            plan = _core.Plan(deployed, folded, types, strip_rows=strip)
            assert [s["pattern"] for s in plan.steps()] == ["chain"]
            assert plan.forward([x])[0].tobytes() == single.tobytes()


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("name", NETS)
def test_plan_bits_do_not_depend_on_threads_or_strips(name: str, bf16: bool) -> None:
    graph, store = trace(NETS[name]())
    training = graph.differentiate(store)
    x = np.random.default_rng(1).standard_normal(SHAPES[2]).astype(np.float32)
    types = [("f32", x.shape)]
    results = []
    rng = np.random.default_rng(4)
    for count in (1, 2, 3, 4):
        for strip in (0, int(rng.integers(1, 9))):
            _core.set_num_threads(count)
            mine = store.copy()
            plan = _core.Plan(training, mine, types, strip_rows=strip, bf16=bf16)
            out = plan.forward([x])
            gradient = np.zeros(mine.size, np.float32)
            plan.backward([np.cos(o) for o in out], gradient)
            # Sums over several strips of one row block join in float32 differently; the outputs
            # and, at the chosen strip, everything are the same bits.
            key = [o.tobytes() for o in out]
            results.append((strip, key, gradient.tobytes(), mine.flat().tobytes()))
    assert all(r[1] == results[0][1] for r in results)
    chosen = [r for r in results if r[0] == 0]
    assert all(r == chosen[0] for r in chosen)


@pytest.mark.parametrize("name", NETS)
def test_plan_batch_split_gives_same_bits(name: str) -> None:
    graph, store = trace(NETS[name]())
    deployed, folded = graph.deploy(store)
    x = np.random.default_rng(1).standard_normal(SHAPES[2]).astype(np.float32)
    whole = _core.Plan(deployed, folded, [("f32", x.shape)]).forward([x])
    single = _core.Plan(deployed, folded, [("f32", (1, *x.shape[1:]))])
    for i in range(len(x)):
        parts = single.forward([x[i : i + 1]])
        for a, b in zip(parts, whole, strict=True):
            assert a.tobytes() == b[i : i + 1].tobytes()


def test_plan_second_run_allocates_nothing() -> None:
    graph, store = trace(Pyramid())
    training = graph.differentiate(store)
    x = np.random.default_rng(1).standard_normal(SHAPES[0]).astype(np.float32)
    plan = _core.Plan(training, store, [("f32", x.shape)])
    out = plan.forward([x])
    gradient = np.zeros(store.size, np.float32)
    plan.backward([o.copy() for o in out], gradient)
    seeds = [o.copy() for o in out]
    live = _core._alloc_live()
    calls = []
    for _ in range(3):
        before = _core._alloc_calls()
        plan.forward([x], out=out)
        plan.backward(seeds, gradient)
        calls.append(_core._alloc_calls() - before)
    assert _core._alloc_live() == live
    # The binding may take a few small blocks for its lists of arrays, the core none that grow.
    assert len(set(calls)) == 1
    assert calls[0] <= 4


@pytest.mark.parametrize("model", ["dsdet-n", "dsdet-s"])
def test_plan_whole_net_equals_interpreter(model: str) -> None:
    module = build(model, 3)
    store = _core.Store()
    module.name_children()
    for _, p in module.named_parameters():
        store.add(p.name, p.shape, p.role, p.decay)
        store.set(p.name, p.initial(0))
    tracer = nn.Tracer(store)
    outputs = module(tracer.input("x", "f32", [-1, -1, -1, 3]))
    for name, value in outputs.items():
        tracer.graph.output(name, value.id)
    x = np.random.default_rng(0).random((2, 64, 64, 3), np.float32)
    forward, gradient, statistics = train_both(tracer.graph, store, x)
    assert max(forward, statistics) <= 1e-4
    assert gradient <= 1e-3  # the worst entry, relative to its own largest; 1e-4 of the whole


def test_plan_wrong_input_is_named() -> None:
    graph, store = trace(Pyramid())
    plan = _core.Plan(graph, store, [("f32", (1, 16, 16, 5))])
    with pytest.raises((ValueError, TypeError), match="16"):
        plan.forward([np.zeros((1, 8, 16, 5), np.float32)])


def test_plan_outputs_that_are_held_stay_as_they_are() -> None:
    """Output arrays are used again only when their caller has let go of them."""
    graph, store = trace(Pyramid())
    deployed, folded = graph.deploy(store)
    rng = np.random.default_rng(1)
    plan = _core.Plan(deployed, folded, [("f32", SHAPES[0])])
    pictures = [rng.standard_normal(SHAPES[0]).astype(np.float32) for _ in range(6)]
    wanted = [[o.copy() for o in plan.forward([x])] for x in pictures]
    held = [plan.forward([x]) for x in pictures]
    for k, outputs in enumerate(held):
        for a, b in zip(outputs, wanted[k], strict=True):
            assert a.tobytes() == b.tobytes()
    part = plan.forward([pictures[0]])[0][:, :1]  # a view holds its base
    addresses = set()
    for x in pictures:
        out = plan.forward([x])
        addresses.add(out[0].ctypes.data)
    assert part.tobytes() == wanted[0][0][:, :1].tobytes()
    assert len(addresses) == 2  # a loop that holds one set alternates between two
