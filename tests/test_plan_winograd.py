"""Winograd's 3×3 in a plan: right to its stated error, the same bits however it runs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from test_plan import Net, difference, trace, train_both

from deepseek_det import _core, nn
from deepseek_det.models.blocks import ConvNorm, RepVGGBlock

STEPS = (Path(__file__).parents[1] / "csrc/graph/steps.def").read_text()
WITHOUT = 1 << re.findall(r"DD_PATTERN\((\w+)", STEPS).index("winograd")
TOLERANCE = 2e-5  # of the largest output


class Residual(nn.Module):
    """x + conv(x), then an activation: what the step's store can do."""

    def __init__(self, channels: int, act: str) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, 1, 1)
        self.act = act

    def forward(self, x: nn.Value) -> nn.Value:
        return nn.unary(x + self.conv(x), self.act)


class Branches(nn.Module):
    """Convolutions that need nothing of each other run between the same barriers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(5, 40, 1)
        self.branches = nn.ModuleList([nn.Conv2d(40, c, 3, 1, 1) for c in (32, 64, 120)])
        self.last = nn.Conv2d(216, 4, 1)

    def forward(self, x: nn.Value) -> nn.Value:
        x = self.first(x)
        value: nn.Value = self.last(nn.concat([branch(x) for branch in self.branches]))
        return value


# channels up to 96 or so take tiles of 4 × 4 outputs, more take 2 × 2
NETS: dict[str, Callable[[], nn.Module]] = {
    "4x4": lambda: Net(nn.Conv2d(5, 40, 1), nn.Conv2d(40, 33, 3, 1, 1), nn.Conv2d(33, 3, 1)),
    "2x2": lambda: Net(nn.Conv2d(5, 120, 1), nn.Conv2d(120, 90, 3, 1, 1), nn.Conv2d(90, 3, 1)),
    "few channels": lambda: Net(ConvNorm(5, 16, 3), ConvNorm(16, 32, 3), ConvNorm(32, 16, 3)),
    "no padding": lambda: Net(nn.Conv2d(5, 32, 1), nn.Conv2d(32, 32, 3), nn.Conv2d(32, 32, 3)),
    "padding 3": lambda: Net(nn.Conv2d(5, 32, 1), nn.Conv2d(32, 32, 3, 1, 3, bias=False)),
    "hard_swish": lambda: Net(ConvNorm(5, 32, 1), ConvNorm(32, 48, 3, act="hard_swish")),
    "repvgg": lambda: Net(ConvNorm(5, 36, 3, 2), RepVGGBlock(36, 36), RepVGGBlock(36, 50)),
    "branches": Branches,
    "residual": lambda: Net(ConvNorm(5, 32, 1), Residual(32, "relu"), Residual(32, "silu")),
}
SHAPES = [(2, 13, 18, 5), (1, 5, 7, 5), (3, 24, 40, 5)]


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = _core.get_num_threads()
    yield
    _core.set_num_threads(before)


def deployed(name: str) -> tuple[_core.Graph, _core.Store]:
    graph, store = trace(NETS[name]())
    result: tuple[_core.Graph, _core.Store] = graph.deploy(store)
    return result


def draw(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(3).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", NETS)
def test_winograd_equals_interpreter(name: str, shape: tuple[int, ...]) -> None:
    graph, store = deployed(name)
    x, types = draw(shape), [("f32", shape)]
    plan = _core.Plan(graph, store, types)
    assert "winograd" in [s["pattern"] for s in plan.steps()]
    expected = _core.Interpreter(graph, store, types, seed=0).forward([x])[0]
    assert difference(plan.forward([x])[0], expected) <= TOLERANCE
    without = _core.Plan(graph, store, types, without_patterns=WITHOUT)
    assert "winograd" not in [s["pattern"] for s in without.steps()]
    assert difference(without.forward([x])[0], expected) <= 1e-5


@pytest.mark.parametrize("name", NETS)
def test_winograd_bits_do_not_depend_on_threads_rounds_or_batch(name: str) -> None:
    graph, store = deployed(name)
    x = draw(SHAPES[2])
    results = set()
    for count in (1, 2, 3):
        _core.set_num_threads(count)
        for strip in (0, 1, 2, 5):
            plan = _core.Plan(graph, store, [("f32", x.shape)], strip_rows=strip)
            results.add(plan.forward([x])[0].tobytes())
    single = _core.Plan(graph, store, [("f32", (1, *x.shape[1:]))])
    results.add(b"".join(single.forward([x[i : i + 1]])[0].tobytes() for i in range(len(x))))
    assert len(results) == 1


@pytest.mark.parametrize("name", ["4x4", "2x2"])
def test_winograd_bits_do_not_depend_on_the_map(name: str) -> None:
    """A tile whose patch of inputs lies inside both maps gives the same in both."""
    graph, store = deployed(name)
    large = draw((1, 37, 50, 5))
    small = large[:, :18, :23]
    a = _core.Plan(graph, store, [("f32", large.shape)]).forward([large])[0]
    b = _core.Plan(graph, store, [("f32", small.shape)]).forward([np.ascontiguousarray(small)])[0]
    assert a[:, :16, :20].tobytes() == b[:, :16, :20].tobytes()


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", NETS)
def test_winograd_training_equals_interpreter(
    name: str, shape: tuple[int, ...], bf16: bool
) -> None:
    """Forward and the gradient of the input, with the sums of the norms around them."""
    graph, store = trace(NETS[name]())
    forward, gradient, statistics = train_both(graph, store, draw(shape), bf16=bf16)
    assert forward <= (0.03 if bf16 else 1e-5)
    assert gradient <= (0.2 if bf16 else 1e-4)
    assert statistics <= (0.01 if bf16 else 1e-5)


def test_winograd_takes_both_passes_of_training() -> None:
    graph, store = trace(NETS["few channels"]())
    plan = _core.Plan(graph.differentiate(store), store, [("f32", SHAPES[0])])
    steps = [(s["pattern"], s["backward"]) for s in plan.steps()]
    assert steps.count(("winograd", False)) == 2
    assert steps.count(("winograd", True)) == 4  # the gradients of input and weights


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("name", ["few channels", "2x2", "repvgg", "residual"])
def test_winograd_training_bits_do_not_depend_on_threads_or_rounds(name: str, bf16: bool) -> None:
    """Rounds of any height: sums for norms go by rows of tiles. What other steps sum by strips
    (weight gradients) keeps its strip."""
    graph, store = trace(NETS[name]())
    training, x = graph.differentiate(store), draw(SHAPES[2])
    outputs, gradients = set(), set()
    for count in (1, 2, 3):
        for strip in (0, 1, 3):
            _core.set_num_threads(count)
            mine = store.copy()
            plan = _core.Plan(training, mine, [("f32", x.shape)], strip_rows=strip, bf16=bf16)
            out = plan.forward([x])
            gradient = np.zeros(mine.size, np.float32)
            plan.backward([np.cos(o) for o in out], gradient)
            outputs.add((out[0].tobytes(), mine.flat().tobytes()))
            if strip == 0:
                gradients.add(gradient.tobytes())
    assert len(outputs) == 1
    assert len(gradients) == 1
