"""The examples run, with a tiny net and a few images."""

from __future__ import annotations

import doctest
import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from tiny_net import drawn, register

import deepseek_det as dd

FOLDER = Path(__file__).resolve().parent.parent / "examples"


def example(name: str) -> ModuleType:
    """An example as a module."""
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_train_own_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(drawn()), "--model", register(), "--epochs", "1", "--imgsz", "64"]
    ap50 = example("train_own_data").main([*words, "--project", str(tmp_path)])
    assert 0 <= ap50 <= 1
    assert (tmp_path / "train" / "report.html").is_file()
    assert "report: " in capsys.readouterr().out
    assert list((tmp_path / "train").glob("seen_*.jpg"))


def test_custom_loss_trains(tmp_path: Path) -> None:
    words = ["--data", str(drawn()), "--model", register(), "--epochs", "25", "--imgsz", "64"]
    path = tmp_path / "x.pt"
    history = example("custom_loss").main(
        [*words, "--batch", "5", "--lr", "0.03", "--output", str(path)]
    )
    assert history[-1] < 0.9 * history[0]
    assert dd.Detector(path).names[0] == "disk"


def test_custom_loss_gradient_and_docstring() -> None:
    module = example("custom_loss")
    assert doctest.testmod(module).failed == 0
    rng = np.random.default_rng(0)
    x, t = rng.normal(0, 3, 20), rng.uniform(0, 1, 20)
    gradient = module.poly_loss(x, t)[1]
    for i in range(20):
        step = np.zeros(20)
        step[i] = 1e-5
        slope = (module.poly_loss(x + step, t)[0] - module.poly_loss(x - step, t)[0]) / 2e-5
        assert gradient[i] == pytest.approx(slope, abs=1e-5)


def test_custom_loss_deltas_are_those_that_are_decoded() -> None:
    module = example("custom_loss")
    anchors = np.array([[0, 0, 16, 16], [10, 20, 42, 36]], np.float32)
    boxes = np.array([[2, 3, 30, 20], [11, 11, 40, 60]], np.float32)
    deltas = module.box_deltas(boxes, anchors)
    maps = np.array([[1, 0, 0, 100, 100]], np.float32)
    found = dd.ops.detect(np.array([[[3.0], [2.0]]]), deltas[None], anchors, maps)
    assert np.allclose(found.boxes[0, :2], boxes, atol=1e-4)
