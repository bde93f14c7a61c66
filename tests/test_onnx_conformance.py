"""The onnx package's own node tests, for the operators that the importer has in its table."""

from __future__ import annotations

import importlib.util
import re
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

onnx = pytest.importorskip("onnx")

from deepseek_det.onnx import fold, rows  # noqa: E402
from deepseek_det.onnx.build import TABLE  # noqa: E402

assert rows
ROOT = Path(__file__).resolve().parent.parent
# Operators of which every node test is refused, and why; and rows that idioms make.
WITHOUT_A_PASS = {
    "CastLike": "element types",
    "ConstantOfShape": "on data",
    "GatherND": "places along several axes",
    "Mod": "on data",
    "NonMaxSuppression": "a list whose length depends on data",
    "NonZero": "on data",
    "ReduceLogSumExp": "float64",
}
MADE_BY_IDIOMS = {"Silu", "Linear", "GroupNorm", "LayerNorm", "Suppress"}


@pytest.fixture(scope="module")
def script() -> ModuleType:
    path = ROOT / "docs" / "make_conformance.py"
    spec = importlib.util.spec_from_file_location("make_conformance", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules["make_conformance"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def found(script: ModuleType) -> list[Any]:
    return [f for f in map(script.run_case, script.cases()) if f]


def test_no_claimed_operator_fails(found: list[Any]) -> None:
    assert [(f.name, f.detail) for f in found if f.outcome == "fail"] == []
    assert Counter(f.outcome for f in found)["pass"] > 400


def test_every_operator_of_the_table_passes_some_case(found: list[Any]) -> None:
    passed = {name for f in found if f.outcome == "pass" for name in f.operators}
    tested = {name for f in found for name in f.operators}
    claimed = (set(TABLE) | set(fold.FUNCTIONS)) - MADE_BY_IDIOMS
    assert sorted(tested - passed) == sorted(WITHOUT_A_PASS)
    assert sorted(claimed - tested) == []


def test_every_refusal_has_a_reason_on_the_page(script: ModuleType, found: list[Any]) -> None:
    reasons = {script.reason(f.detail) for f in found if f.outcome == "refused"}
    assert [r for r in reasons if r.startswith("other")] == []


def test_page_has_this_table(script: ModuleType, found: list[Any]) -> None:
    text = script.PAGE.read_text(encoding="utf-8")
    shown = text.split(script.BEGIN)[1].split(script.END)[0]
    version = re.search(r"onnx (\S+):", shown)
    assert version
    if version[1] != onnx.__version__:
        pytest.skip(f"the page is of onnx {version[1]}, {onnx.__version__} has other cases")
    assert script.table(found) in shown, "run `python docs/make_conformance.py`"
