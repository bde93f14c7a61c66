"""Long tails in training: the schedule of a sampler's epochs, and the table that is printed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from planted import write_yolo

import deepseek_det as dd
from deepseek_det.data import RepeatSampler, load
from deepseek_det.data.sampling import steps_per_epoch
from deepseek_det.train import SAMPLERS, Trainer, learning_rate

ROW = "0 .5 .5 .5 .5\n"


@pytest.fixture
def tail(tmp_path: Path) -> Path:
    """Twelve images of class a; one of them holds b as well, c stands nowhere."""
    rows = {f"i{k}": ROW for k in range(12)} | {"i3": f"{ROW}1 .5 .5 .4 .4\n"}
    return write_yolo(tmp_path / "set", rows, names=("a", "b", "c"))


def train(data: Path, folder: Path, **options: Any) -> list[Trainer]:
    seen: list[Trainer] = []
    given = {"epochs": 3, "imgsz": 32, "batch": 2, "workers": 0, "project": folder, "name": "t"}
    dd.Detector("dsdet-n", classes=["a", "b", "c"]).train(
        data, **given, **options, callbacks=[lambda _, t: seen.append(t)]
    )
    return seen


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_sampler_epochs_fill_the_schedule(sampler: str, tail: Path, tmp_path: Path) -> None:
    """The rate reaches its end with the last batch, however long the sampler's epochs are."""
    trainer = train(tail, tmp_path, sampler=sampler, verbose=False)[-1]
    train_set = trainer.train_set
    expected = RepeatSampler(train_set, SAMPLERS[sampler])
    lengths = [len(expected.indices(0, epoch)) for epoch in range(3)]
    assert trainer.steps_of == [steps_per_epoch(n, 2) for n in lengths]
    assert trainer.step == trainer.steps == sum(trainer.steps_of)
    assert trainer.lr == learning_rate(trainer.steps - 1, trainer.steps, trainer.settings.peak_lr)


def test_table_of_weights_and_repeats_is_printed(
    tail: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = train(tail, tmp_path, sampler="repeat")[-1]
    lines = capsys.readouterr().err.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("class "))
    table = {line.split()[0]: line.split()[1:] for line in lines[at + 1 : at + 4]}
    assert set(table) == {"a", "b", "c"} and table["c"] == ["0", "0", "1.000", "0.00"]
    weights = dict(zip("abc", trainer.class_weights, strict=True))
    for name in "ab":
        assert float(table[name][2]) == pytest.approx(weights[name], abs=6e-4)
    if table["b"][0] == "1":  # b's image was not held out for validation
        assert float(table["b"][3]) == 5
    train(tail, tmp_path / "plain", loss_weights="none")
    assert "weight  repeat" not in capsys.readouterr().err


def test_present_classes_weigh_one_on_average_however_many_are_named() -> None:
    few = dd.losses.class_balanced_weights([10, 1000])
    many = dd.losses.class_balanced_weights([10, 1000] + [0] * 78)
    assert np.array_equal(many[:2], few) and many.sum() == pytest.approx(2)


def test_table_of_many_classes_shows_both_ends(tmp_path: Path) -> None:
    from deepseek_det.data.census import of_split

    rows = "".join(f"{k} .5 .5 .5 .5\n" * (40 - k) for k in range(40))
    data = load(write_yolo(tmp_path, {"a": rows}, names=[f"c{k}" for k in range(40)]))
    lines = of_split(data).table(10).splitlines()
    assert len(lines) == 12 and lines[6] == "… 30 more …"
    assert [line.split()[0] for line in (lines[1], lines[-1])] == ["c0", "c39"]
