"""The planner on what imported networks bring: images with channels first, shuffles, cuts."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import plan_nets
import pytest

from deepseek_det import _core, nn

Graph = tuple[_core.Graph, _core.Store]


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = _core.get_num_threads()
    yield
    _core.set_num_threads(before)


def trace(build: plan_nets.Build, dims: list[int]) -> Graph:
    """`build` over one input of these dimensions (-1: free), with random parameters."""
    module = plan_nets.Blocks(build, dims)
    store = _core.Store()
    module.name_children()
    for _, p in module.named_parameters():
        store.add(p.name, p.shape, p.role, p.decay)
        store.set(p.name, p.initial(3))
        if p.name.endswith("bias"):
            values = np.random.default_rng(5).normal(0, 0.3, p.shape)
            store.set(p.name, values.astype(np.float32))
    tracer = nn.Tracer(store)
    out = module(tracer.input("x", "f32", dims))
    for i, value in enumerate(out if isinstance(out, list) else [out]):
        tracer.graph.output(f"y{i}", value.id)
    return tracer.graph, store


def check(graph: _core.Graph, store: _core.Store, shape: tuple[int, ...]) -> list[str]:
    """Plan against interpreter, the same bits for any threads and strips; the patterns."""
    deployed, folded = graph.deploy(store)
    x = np.random.default_rng(2).standard_normal(shape).astype(np.float32)
    types = [("f32", shape)]
    expected = _core.Interpreter(graph, store, types, seed=0).forward([x])
    results = set()
    for count in (1, 2, 3):
        for strip in (0, 1, 3):
            _core.set_num_threads(count)
            plan = _core.Plan(deployed, folded, types, strip_rows=strip)
            out = plan.forward([x])
            for a, b in zip(out, expected, strict=True):
                assert a.shape == b.shape
                assert np.abs(a - b).max() <= 1e-5 * max(1.0, float(np.abs(b).max()))
            results.add(tuple(a.tobytes() for a in out))
    assert len(results) == 1
    return [step["pattern"] for step in plan.steps()]


def stem(k: int, stride: int, pad: int) -> plan_nets.Build:
    def build(m: Callable[..., nn.Module], x: nn.Value) -> nn.Value:
        image = x.op("transpose", perm=[0, 2, 3, 1])
        y = nn.relu(m("a", nn.Conv2d(3, 9, k, stride, pad))(image))
        return y.op("transpose", perm=[0, 3, 1, 2])

    return build


@pytest.mark.parametrize(
    ("k", "stride", "pad"), [(3, 2, 1), (6, 2, 2), (1, 1, 0), (3, 1, 0), (7, 4, 3)]
)
@pytest.mark.parametrize("size", [(33, 40), (20, 17)], ids=str)
def test_channels_first_image_is_read_by_the_stem(
    k: int, stride: int, pad: int, size: tuple[int, int]
) -> None:
    graph, store = trace(stem(k, stride, pad), [-1, 3, -1, -1])
    assert check(graph, store, (2, 3, *size)) == ["conv", "move"]


@pytest.mark.parametrize("slope", [(5,), (1,), (7, 1, 5), (1, 9, 1)], ids=str)
def test_prelu_is_an_elementwise_step_whatever_its_slope(slope: tuple[int, ...]) -> None:
    graph, store = _core.Graph(), _core.Store()
    rng = np.random.default_rng(6)
    for name, shape in (("w", (5, 5, 3, 3)), ("s", slope)):
        store.add(name, shape)
        store.set(name, rng.standard_normal(shape).astype(np.float32))
    x = graph.input("x", "f32", [-1, 7, 9, 5])
    weight, by = graph.entry(store, "w"), graph.entry(store, "s")
    (y,) = graph.node("conv", "c", [x, weight], {"pads": [1] * 4})
    (y,) = graph.node("prelu", "p", [y, by], {})
    graph.output("y", y)
    assert check(graph, store, (3, 7, 9, 5)) == ["conv", "binary"]


@pytest.mark.parametrize("groups", [1, 2, 16])
@pytest.mark.parametrize(
    ("k", "stride", "pads", "dilation"),
    [
        (3, 1, [2] * 4, [2, 2]),
        (3, 1, [9] * 4, [9, 9]),  # most taps lie outside of the map
        (3, 2, [3, 0, 1, 5], [3, 3]),
        (2, 1, [1, 2, 0, 1], [5, 1]),
        (5, 1, [6] * 4, [3, 3]),
        (3, 1, [0] * 4, [2, 2]),
    ],
)
def test_dilated_convolution_is_right_whatever_lies_outside(
    groups: int, k: int, stride: int, pads: list[int], dilation: list[int]
) -> None:
    graph, store = _core.Graph(), _core.Store()
    rng = np.random.default_rng(8)
    for name, shape in (("w", (16, 16 // groups, k, k)), ("b", (16,)), ("v", (16, 16, 1, 1))):
        store.add(name, shape)
        store.set(name, 0.2 * rng.standard_normal(shape).astype(np.float32))
    w, b, v = (graph.entry(store, name) for name in "wbv")
    (y,) = graph.node("conv", "first", [graph.input("x", "f32", [-1, 13, 11, 16]), v], {})
    params = {"pads": pads, "stride": [stride] * 2, "dilation": dilation, "groups": groups}
    (y,) = graph.node("conv", "apart", [y, w, b], params)
    (y,) = graph.node("unary", "act", [y], {"kind": "hard_swish"})
    graph.output("y", y)
    patterns = check(graph, store, (2, 13, 11, 16))
    assert groups == 16 or patterns[-1] == "dilated"


def pooled_stem(channels_first: bool) -> plan_nets.Build:
    def build(m: Callable[..., nn.Module], x: nn.Value) -> nn.Value:
        image = x.op("transpose", perm=[0, 2, 3, 1]) if channels_first else x
        y = nn.unary(m("a", nn.Conv2d(3, 9, 3, 2, 1))(image), "leaky_relu", a=0.1)
        return y.op("max_pool", kernel=[3, 3], stride=[2, 2], pads=[1] * 4)

    return build


@pytest.mark.parametrize("channels_first", [True, False])
def test_stem_and_its_max_pool_are_one_step(channels_first: bool) -> None:
    shape = (2, 3, 37, 44) if channels_first else (2, 37, 44, 3)
    dims = [-1 if n > 3 or i == 0 else 3 for i, n in enumerate(shape)]
    graph, store = trace(pooled_stem(channels_first), dims)
    assert check(graph, store, shape) == ["conv_pool"]


def test_stem_and_first_depthwise_are_one_step_on_large_maps() -> None:
    def build(m: Callable[..., nn.Module], x: nn.Value) -> nn.Value:
        image = x.op("transpose", perm=[0, 2, 3, 1])
        y = nn.unary(m("a", nn.Conv2d(3, 12, 6, 2, 2))(image), "silu")
        y = nn.unary(m("b", nn.Conv2d(12, 12, 3, 2, 1, groups=12))(y), "silu")
        return nn.relu(m("c", nn.Conv2d(12, 7, 1))(y))

    graph, store = trace(build, [-1, 3, -1, -1])
    assert check(graph, store, (2, 3, 240, 244)) == ["chain"]
    deployed, folded = graph.deploy(store)
    x = np.random.default_rng(2).standard_normal((1, 3, 240, 244)).astype(np.float32)
    types = [("f32", x.shape)]
    whole = _core.Plan(deployed, folded, types).forward([x])[0]
    single = _core.Plan(deployed, folded, types, without_patterns=1).forward([x])[0]
    assert whole.tobytes() == single.tobytes()


def test_channels_first_image_with_other_readers_stays_right() -> None:
    def build(m: Callable[..., nn.Module], x: nn.Value) -> list[nn.Value]:
        image = x.op("transpose", perm=[0, 2, 3, 1])
        a = m("a", nn.Conv2d(3, 4, 3, 2, 1))(image)
        b = m("b", nn.Conv2d(3, 3, 3, 1, 1, groups=3))(image)
        return [a, b, m("c", nn.Conv2d(3, 4, 3, 1, 2, dilation=2))(b)]

    graph, store = trace(build, [-1, 3, -1, -1])
    assert "move" not in check(graph, store, (2, 3, 13, 18))
    shared = trace(
        lambda m, x: [build(m, x)[0], nn.relu(x.op("transpose", perm=[0, 2, 3, 1]))],
        [-1, 3, -1, -1],
    )
    check(*shared, (1, 3, 13, 18))


def halves(x: nn.Value) -> tuple[nn.Value, nn.Value]:
    """Even and odd channels, the other shuffle that exporters write."""
    even = x.op("slice", starts=[0], ends=[99], axes=[3], steps=[2])
    return even, x.op("slice", starts=[1], ends=[99], axes=[3], steps=[2])


def even_and_odd(m: Callable[..., nn.Module], x: nn.Value) -> list[nn.Value]:
    y = m("stem", nn.Conv2d(5, 16, 3, 2, 1))(x)
    for n in range(3):
        left, right = halves(y)
        z = nn.relu(m(f"{n}a", nn.Conv2d(8, 8, 1))(right))
        z = m(f"{n}b", nn.Conv2d(8, 8, 3, 1, 1, groups=8))(z)
        y = nn.concat([left, nn.relu(m(f"{n}c", nn.Conv2d(8, 8, 1))(z))])
    pooled = y.op("avg_pool", kernel=[3, 3], stride=[2, 2], pads=[1] * 4)
    return [m("p", nn.Conv2d(16, 4, 1))(y), m("q", nn.Conv2d(16, 3, 3, 1, 1))(pooled)]


def scaled(m: Callable[..., nn.Module], x: nn.Value) -> nn.Value:
    """A shuffle whose channels meet another value's in a sum before a convolution."""
    a = nn.relu(m("a", nn.Conv2d(5, 12, 1))(x))
    b = nn.relu(m("b", nn.Conv2d(5, 12, 1))(x)).op("channel_shuffle", groups=3)
    c = nn.unary(a + b, "hard_swish").op("channel_shuffle", groups=2)
    return m("d", nn.Conv2d(12, 4, 3, 1, 1))(c)


@pytest.mark.parametrize("build", [plan_nets.shuffle_net, even_and_odd, scaled])
def test_shuffles_dissolve_into_the_weights(build: plan_nets.Build) -> None:
    graph, store = trace(build, [-1, -1, -1, 5])
    deployed, folded = graph.deploy(store)
    ops = [node["op"] for node in deployed.nodes()]
    assert "channel_shuffle" not in ops and "split" not in ops
    again, _ = deployed.deploy(folded)
    assert [node["op"] for node in again.nodes()] == ops
    check(graph, store, (2, 24, 18, 5))


def test_a_shuffle_whose_order_others_know_stays() -> None:
    def build(m: Callable[..., nn.Module], x: nn.Value) -> list[nn.Value]:
        a = nn.relu(m("a", nn.Conv2d(5, 12, 1))(x))
        b = a.op("channel_shuffle", groups=3)
        return [b, m("b", nn.Conv2d(12, 4, 1))(b), m("c", nn.Conv2d(12, 4, 1))(a)]

    graph, store = trace(build, [-1, -1, -1, 5])
    deployed, _ = graph.deploy(store)
    assert "channel_shuffle" in [node["op"] for node in deployed.nodes()]
    check(graph, store, (2, 9, 7, 5))


def test_shared_weights_keep_their_order() -> None:
    def build(m: Callable[..., nn.Module], x: nn.Value) -> list[nn.Value]:
        a = nn.relu(m("a", nn.Conv2d(5, 12, 1))(x))
        shared = m("s", nn.Conv2d(12, 4, 1))
        return [shared(a.op("channel_shuffle", groups=3)), shared(a)]

    graph, store = trace(build, [-1, -1, -1, 5])
    check(graph, store, (2, 9, 7, 5))


def test_parts_that_pass_through_a_stage_are_never_copied() -> None:
    graph, store = trace(plan_nets.shuffle_net, [-1, -1, -1, 5])
    patterns = check(graph, store, (1, 24, 18, 5))
    # Copies stand only where a stage ends: its depthwise convolution wants one map.
    assert patterns.count("move") <= 8
