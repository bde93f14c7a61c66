"""What the races stand on: turns, figures, the table's file. The races themselves are not run."""

from __future__ import annotations

import ast
import importlib.util
import math
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCH = Path(__file__).resolve().parents[1] / "bench"


@pytest.fixture
def racing(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("racing", BENCH / "racing.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "PAUSE_S", 0.0)
    return module


def test_turns_are_blocks_whose_order_moves_on(racing: ModuleType) -> None:
    calls: list[str] = []
    contestants = {name: (lambda name=name: calls.append(name)) for name in "abc"}
    times = racing.interleave(contestants, rounds=4, warmup=1, each=3, untimed=2)
    assert {name: len(t) for name, t in times.items()} == {"a": 12, "b": 12, "c": 12}
    assert calls[:3] == ["a", "b", "c"]  # the warm-up
    turns = [calls[i : i + 5] for i in range(3, len(calls), 5)]
    assert all(len(set(turn)) == 1 for turn in turns)
    assert "".join(turn[0] for turn in turns) == "abc" + "bca" + "cab" + "abc"


def test_geometric_mean(racing: ModuleType) -> None:
    assert math.isclose(racing.geometric_mean([1.0, 4.0]), 2.0)


def test_record_replaces_one_section(
    racing: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(racing, "RESULTS", tmp_path / "RESULTS.md")
    racing.record("one", "first")
    racing.record("two", "second")
    racing.record("one", racing.table(["x"], [["1"]]))
    assert (tmp_path / "RESULTS.md").read_text() == (
        "# Results\n\n## one\n\n| x |\n|---|\n| 1 |\n\n## two\n\nsecond\n"
    )


@pytest.mark.parametrize("name", ["race_infer", "race_train", "race_yolo11n"])
def test_no_peer_under_a_strong_licence_is_imported(name: str) -> None:
    tree = ast.parse((BENCH / f"{name}.py").read_text())
    imported = {
        alias.name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    } | {
        str(node.module).split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
    }
    assert not imported & {"ultralytics", "cleanlab"}


def test_reference_net_has_the_documented_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCH))
    try:
        from ref_net import Net

        from deepseek_det.model import Model

        model = Model(Net())
    finally:
        sys.modules.pop("ref_net", None)
    assert 0.45e6 < model.params < 0.55e6
    assert round(model.macs(320) / 1e6) == 297
