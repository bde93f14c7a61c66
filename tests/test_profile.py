"""Profiles: that each step's figures are those of the graph, and that the words are honest."""

from __future__ import annotations

import json

import numpy as np
import pytest

import deepseek_det as dd
from deepseek_det import _core, cli, nn, profile
from deepseek_det.model import Model
from deepseek_det.profile import Machine, Profile, Step

MACHINE = Machine("avx2", 2, flops=100e9, bytes_per_second=10e9, clock_s=25e-9)


def small() -> Model:
    return Model(
        nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, padding=1, groups=8),
            nn.Conv2d(8, 4, 1),
        )
    )


def test_machine_is_measured_once_a_thread_count_and_is_plausible() -> None:
    threads = _core.get_num_threads()
    try:
        dd.set_num_threads(1)
        first = profile.measure()
        assert first is profile.measure()
        assert (first.threads, first.isa) == (1, _core.config()["isa"])
        assert 1e6 < first.flops < 1e13
        assert 1e8 < first.bytes_per_second < 1e13
        assert 0 < first.clock_s < 1e-3
    finally:
        dd.set_num_threads(threads)


@pytest.mark.parametrize("batch", [1, 3])
def test_inference_counts_what_the_graph_has(batch: int) -> None:
    model = small()
    found = model.profile(imgsz=32, batch=batch, runs=3)
    assert found.images == batch
    assert found.flop == 2 * batch * model.macs(32)
    assert sum(s.ms for s in found.steps) > 0
    assert found.ms > 0
    layers = [name for s in found.steps for name in s.layers]
    assert len(layers) == len(set(layers))
    assert {r["name"] for r in model.layers(32) if r["op"] == "conv"} <= set(layers)
    assert found.steps[-1].shape == (batch, 16, 16, 4)
    assert not any(s.backward for s in found.steps)


def test_bytes_are_operands_weights_and_results_once() -> None:
    model = Model(nn.Conv2d(3, 8, 1))
    (step,) = model.profile(imgsz=32, runs=1).steps
    pixels = 32 * 32
    assert step.bytes == pixels * 3 + 4 * (3 * 8 + 8) + 4 * pixels * 8


def test_training_has_backward_and_update_and_leaves_parameters_alone() -> None:
    model = small()
    before = model.state_dict()
    found = model.profile(imgsz=32, batch=2, runs=2, training=True)
    graph = model.training_graph()
    assert found.flop == 2 * graph.macs(model.store, [("u8", (2, 32, 32, 3))])
    assert [s.pattern for s in found.steps if s.backward][-1] == "optimizer"
    assert all(np.array_equal(before[n], a) for n, a in model.state_dict().items())
    assert "forward, backward and update, 2 images" in found.totals()


def test_mixed_precision_moves_fewer_bytes() -> None:
    model = dd.Detector("dsdet-n", seed=0)
    full = model.profile(imgsz=64, batch=2, runs=1, training=True)
    model.amp = True
    half = model.profile(imgsz=64, batch=2, runs=1, training=True)
    assert half.bytes < 0.9 * full.bytes
    assert half.flop == full.flop


def test_inputs_are_what_the_graph_leaves_free() -> None:
    graph = _core.Graph()
    graph.input("x", "f32", [-1, 3, 8, -1])
    graph.input("n", "s32", [2])
    x, n = profile.inputs_of(graph, side=16, batch=4)
    assert (x.shape, x.dtype, n.shape, n.dtype) == ((4, 3, 8, 16), np.float32, (2,), np.int32)
    assert profile.inputs_of(graph, 16, 32)[0].shape == (1, 3, 8, 32)
    fixed = _core.Graph()
    fixed.input("x", "f32", [1, 3, 8, 8])
    with pytest.raises(ValueError, match="batch 2 came, input 'x' is 1×3×8×8"):
        profile.inputs_of(fixed, 16, batch=2)
    with pytest.raises(ValueError, match="imgsz 32"):
        profile.inputs_of(fixed, 16, imgsz=32)


def test_plain_steps_have_traffic_too() -> None:
    class Shifted(nn.Module):
        def forward(self, x: nn.Value) -> nn.Value:
            return nn.reshape(x * x, [0, -1])

    found = Model(Shifted()).profile(imgsz=32, runs=1)
    assert all(s.bytes > 0 for s in found.steps)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch": 0}, "batch 0"),
        ({"imgsz": 0}, "imgsz is 0"),
        ({"runs": 0}, "runs is 0"),
    ],
)
def test_bad_arguments_are_named(options: dict[str, int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        small().profile(**{"imgsz": 32, **options})


@pytest.mark.parametrize(
    ("ms", "flop", "count", "bound"),
    [
        (1.0, 80_000_000, 1_000_000, "arithmetic"),
        (1.0, 10_000_000, 8_000_000, "traffic"),
        (1.0, 60_000_000, 70_000_000, "traffic"),  # from a cache: seven times the memory
        (1.0, 30_000_000, 3_000_000, "neither"),
        (1.0, 0, 0, "neither"),
        (0.0004, 80_000, 0, ""),  # 16 steps of the clock
    ],
)
def test_bound(ms: float, flop: int, count: int, bound: str) -> None:
    step = Step("conv", ("a",), None, ms, flop, count)
    assert step.bound(MACHINE) == bound
    if not bound:
        assert step.shares(MACHINE) == (0.0, 0.0)
        text = Profile((step,), MACHINE, ms, 1).table()
        assert "too short" in text
        assert "< 0.0005" in text


@pytest.mark.parametrize(
    ("layers", "word"),
    [
        ([], ""),
        (["a.b.conv"], "a.b.conv"),
        (["a.b.conv", "a.b.act"], "a.b"),
        (["a.b", "a.b.act"], "a.b"),
        (["a1.b", "a2.b"], "a1.b … a2.b"),
        (["dx:a.conv", "dw:a.conv", "reduce:b.bn"], "dx, dw: a.conv"),
    ],
)
def test_label(layers: list[str], word: str) -> None:
    assert profile.label(layers) == word


def test_text_and_dictionary_hold_every_step() -> None:
    found = small().profile(imgsz=64, runs=2)
    head, *lines = found.table().splitlines()
    assert head.split()[:3] == ["step", "layers", "output"]
    assert len(lines) == len(found.steps)
    kept = json.loads(json.dumps(found.to_dict()))
    assert len(kept["steps"]) == len(found.steps)
    assert kept["images_per_second"] == pytest.approx(1e3 / found.ms)
    assert kept["bound_ms"] > 0
    assert sum(len(steps) for _, steps in found.by_pattern()) == len(found.steps)
    assert str(found).endswith(str(found.machine))


def test_bench_prints_json_last(capsys: pytest.CaptureFixture[str]) -> None:
    threads = _core.get_num_threads()
    try:
        words = "bench --model dsdet-n --imgsz 64 --runs 2 --threads 1 --json --quiet"
        assert cli.main(words.split()) == 0
    finally:
        dd.set_num_threads(threads)
    made = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (made["verb"], made["threads"], made["images"]) == ("bench", 1, 1)
    assert {"chain", "conv"} <= {s["pattern"] for s in made["steps"]}


def test_bench_without_layers_is_a_summary(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        cli.main(["bench", "--model", "dsdet-n", "--imgsz", "64", "--runs", "1", "--no-layers"])
        == 0
    )
    text = capsys.readouterr().out
    assert "backbone.stem" not in text
    assert "images/s" in text


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("bench", 2),
        ("bench --model nothing", 2),
        ("bench --model dsdet-n --batch 0", 2),
        ("bench --model dsdet-n --imgsz 321", 2),
        ("bench --model dsdet-n --device cuda", 2),
        ("bench --model dsdet-n --threads 0", 2),
        ("bench --model dsdet-n --amp", 2),
    ],
)
def test_bench_refuses(words: str, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words.split()) == code
    assert "error: bench" in capsys.readouterr().err or code == 2
