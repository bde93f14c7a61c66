#!/usr/bin/env python3
"""Runs the onnx package's own node tests and writes the counts into docs/onnx.md.

    python docs/make_conformance.py            rewrites the page's table
    python docs/make_conformance.py NAME…      prints what became of the cases with NAME in theirs

A case counts where all its operators stand in the importer's table. Cases often hand over what nets
hold as constants (axes, shapes, sizes, scales): where an input must be constant, the case runs once
more with all inputs but the first as initializers.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
import sys
import warnings
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

PAGE = Path(__file__).parent / "onnx.md"
BEGIN, END = "<!-- conformance: begin -->\n", "<!-- conformance: end -->\n"

# Operators of the standard without a row, by what keeps them out, first match.
KINDS = (
    (r"If|Loop|Scan", "graphs inside a node"),
    (r".*Sequence.*|Optional.*", "sequences and optional values"),
    (r"String.*|TfIdf.*|Regex.*|ImageDecoder", "texts and files"),
    (r"RNN|LSTM|GRU", "recurrent layers"),
    (r"Random.*|Bernoulli|Multinomial", "random numbers"),
    (r".*Loss", "losses"),
    (r"QLinear.*|.*Integer|DynamicQuantizeLinear", "products of integers"),
    (r"Bit.*", "bits"),
    (r"DFT|STFT|.*Window|Mel.*|.*Attention|RotaryEmbedding|.*State", "sound and language"),
    (r"Unique|Compress|NonZero", "sizes that depend on data"),
)
TYPE = "element type "
# Why a case is refused, by what the error says, first match.
REASONS = (
    (r"type (bfloat16|float8\w*|float4\w*|u?int[24]|number \d+|string)", "element type {0}"),
    (r"is (float64|u?int16|uint32|uint64),", "element type {0}"),
    (r"to (float64|u?int16|uint32|uint64),", "element type {0}"),
    (r"(?:of type|of) (?:s8|u8|s32|bool)(?:, floats| is not supp)", "arithmetic on integers"),
    (r"beyond float32's", "arithmetic on integers"),
    (r"dimension \d+ is 0|is empty|empty array|empty ones", "empty arrays"),
    (r"is no tensor", "sequences and optional values"),
    (r"training_mode|mask is asked", "training"),
    (r"(5|6) dimensions, 3 or 4", "three-dimensional maps"),
    (r"places along several axes", "places along several axes"),
    (r"which depends on data", "a list whose length depends on data"),
    (r"indices is not constant", "places known at the run only"),
    (r"constants only", "on data, not on constants"),
    (r"the scale has the shape", "one scale a channel or block, of data"),
    (r"(tf_crop_and_resize|align_corners with a scale)", "{0}"),
    (r"not constant|free", "shapes known at the run only"),
    (r"The attribute '(\w+)'|the attribute '(\w+)'", "attribute {0}"),
    (r"(antialias|block_size|its indices)", "{0}"),
)


# Modules that are not named as the operators they test.
EXTRA_MODULES = {"rangeop"}


@dataclass
class Found:
    """What became of one case: "pass", "fail" or "refused", and why."""

    name: str
    operators: list[str]
    outcome: str
    detail: str = ""
    constants: bool = False


@dataclass
class Row:
    """Counts of one operator."""

    passed: int = 0
    constants: int = 0
    failed: int = 0
    refused: Counter[str] = field(default_factory=Counter)


def cases() -> list[Any]:
    """Node tests of the installed onnx package for the claimed operators.

    Its modules make their cases when imported; those it expands into functions are left out.
    """
    from onnx.backend.test.case import node as package

    import deepseek_det.onnx.rows  # noqa: F401  fills the table
    from deepseek_det.onnx.build import TABLE
    from deepseek_det.onnx.fold import FUNCTIONS

    claimed = {name.lower() for name in (*TABLE, *FUNCTIONS)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for found in pkgutil.iter_modules(package.__path__):
            if found.name.replace("_", "") in claimed | EXTRA_MODULES:
                importlib.import_module(f"{package.__name__}.{found.name}")
    return [case for case in package._NodeTestCases if "_expanded" not in case.name]


def run_case(case: Any) -> Found | None:
    """None for a case with an operator that is not claimed.

    A case of an opset that is older than any we read counts as of the oldest: such an operator has
    not changed since.
    """
    from deepseek_det import Error, load_onnx
    from deepseek_det.onnx.build import TABLE
    from deepseek_det.onnx.fold import FUNCTIONS
    from deepseek_det.onnx.read import FIRST_OPSET

    operators = sorted({n.op_type for n in case.model.graph.node})
    if not all(name in TABLE or name in FUNCTIONS for name in operators):
        return None
    model, inputs, constants = case.model, None, False
    for opset in model.opset_import:
        opset.version = max(opset.version, FIRST_OPSET) if opset.domain == "" else opset.version
    try:
        try:
            net = load_onnx(model.SerializeToString())
        except Error as error:
            if not re.search("not constant|constants only", str(error)) or len(case.data_sets) != 1:
                raise
            model, inputs = baked(case)
            net, constants = load_onnx(model.SerializeToString()), True
    except Error as error:
        return Found(case.name, operators, "refused", str(error))
    for given, wanted in case.data_sets:
        given = [as_array(v) for v in (given if inputs is None else inputs)]
        names = [value.name for value in model.graph.input]
        got = net.run(dict(zip(names, given, strict=True)))
        for port, want in zip(net.outputs, wanted, strict=True):
            problem = difference(got[port.name], as_array(want), case)
            if problem:
                return Found(case.name, operators, "fail", f"{port.name}: {problem}", constants)
    return Found(case.name, operators, "pass", "", constants)


def baked(case: Any) -> tuple[Any, list[Any]]:
    """The model with all inputs but the first as initializers; the inputs that are left."""
    import onnx

    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    ((given, _),) = case.data_sets
    data = {n for node in model.graph.node for n in node.input[:1]}
    kept, values = [], []
    for i, (value, array) in enumerate(zip(case.model.graph.input, given, strict=True)):
        if i == 0 and value.name in data and as_array(array).ndim:
            kept.append(value)
            values.append(array)
        else:
            tensor = onnx.numpy_helper.from_array(as_array(array), value.name)
            model.graph.initializer.append(tensor)
    del model.graph.input[:]
    model.graph.input.extend(kept)
    return model, values


def as_array(value: Any) -> Any:
    """A case's array, which may be a message."""
    from onnx import TensorProto, numpy_helper

    return numpy_helper.to_array(value) if isinstance(value, TensorProto) else np.asarray(value)


def difference(got: Any, want: Any, case: Any) -> str:
    """What is wrong with an output; the empty text where nothing is."""
    if got.shape != want.shape or got.dtype != want.dtype:
        return f"{got.dtype} {got.shape}, {want.dtype} {want.shape} is right"
    a, b = got.astype(np.float64), want.astype(np.float64)
    if not np.allclose(a, b, rtol=max(case.rtol, 1e-3), atol=max(case.atol, 1e-6), equal_nan=True):
        return f"differs by {np.nanmax(np.abs(a - b)):.3g}"
    return ""


def reason(detail: str) -> str:
    """A refusal in a few words."""
    for pattern, words in REASONS:
        found = re.search(pattern, detail)
        if found:
            return words.format(*(g for g in found.groups() if g)) if found.groups() else words
    return "other: " + detail[-80:].replace("\n", " ")


def table(found: list[Found]) -> str:
    """The page's table: one line an operator, then what is refused and why."""
    rows: dict[str, Row] = defaultdict(Row)
    for f in found:
        name = f.operators[0] if len(f.operators) == 1 else "several operators"
        row = rows[name]
        row.passed += f.outcome == "pass"
        row.constants += f.outcome == "pass" and f.constants
        row.failed += f.outcome == "fail"
        if f.outcome == "refused":
            row.refused[reason(f.detail)] += 1
    lines = ["| operator | passed | failed | not claimed, by reason |", "|---|---|---|---|"]
    for name in sorted(rows, key=lambda n: (n == "several operators", n)):
        row = rows[name]
        types = sorted(w.removeprefix(TYPE) for w in row.refused if w.startswith(TYPE))
        parts = [
            (n, words) for words, n in sorted(row.refused.items()) if not words.startswith(TYPE)
        ]
        if types:
            count = sum(n for words, n in row.refused.items() if words.startswith(TYPE))
            parts.append((count, f"element types {', '.join(types)}"))
        why = "; ".join(f"{n} {words}" for n, words in parts)
        with_constants = f" ({row.constants} with constants)" if row.constants else ""
        lines.append(f"| {name} | {row.passed}{with_constants} | {row.failed} | {why} |")
    total = Counter(f.outcome for f in found)
    lines.append(f"| **all** | **{total['pass']}** | **{total['fail']}** | {total['refused']} |")
    return "\n".join(lines) + "\n"


def without_a_row() -> str:
    """The standard's operators that are not claimed, by kind."""
    from onnx.defs import get_all_schemas

    from deepseek_det.onnx.build import TABLE
    from deepseek_det.onnx.fold import FUNCTIONS

    kinds: dict[str, list[str]] = defaultdict(list)
    for name in sorted({schema.name for schema in get_all_schemas() if not schema.domain}):
        if name not in TABLE and name not in FUNCTIONS:
            kind = next((words for form, words in KINDS if re.fullmatch(form, name)), "others")
            kinds[kind].append(name)
    lines = ["| not claimed | operators |", "|---|---|"]
    for kind in sorted(kinds, key=lambda k: (k == "others", k)):
        lines.append(f"| {kind} | {', '.join(kinds[kind])} |")
    return "\n".join(lines) + "\n"


def main(names: list[str]) -> int:
    import onnx

    found = []
    for case in cases():
        if not names or any(name in case.name for name in names):
            became = run_case(case)
            if became:
                found.append(became)
                if names:
                    print(became.outcome, became.name, became.detail[-300:])
    if names:
        return 0
    text = PAGE.read_text(encoding="utf-8")
    head, rest = text.split(BEGIN)
    _, tail = rest.split(END)
    body = (
        f"{BEGIN}Node tests of onnx {onnx.__version__}:\n\n{table(found)}\n{without_a_row()}{END}"
    )
    PAGE.write_text(head + body + tail, encoding="utf-8")
    failed = [f for f in found if f.outcome == "fail"]
    for f in failed:
        print(f.name, f.detail)
    print(f"{PAGE}: {len(found)} cases, {len(failed)} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
