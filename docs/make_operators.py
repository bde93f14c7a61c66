"""Writes operators.md from the operator table of the built module.

    python docs/make_operators.py

A test compares the file with what `page()` says, so a row that changed without it fails.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deepseek_det import _core

HEAD = """\
# Operators

Made by `docs/make_operators.py` from the table that the engine itself reads (`csrc/ops/ops.def`).
To add a row, see [add_an_op.md](add_an_op.md).

Activations are (N, H, W, C), convolution weights (O, C/groups, R, S). Attributes are keyword
arguments of `Graph.node(op, name, inputs, params)`; one that is not given has its initial value.
An optional input is left out at the end, or `None`. An operator without gradient either stops it
(`stop_gradient`, comparisons, integers) or is made by a pass only (`conv_dx`, `unary_dx`, …).
"""

KINDS = {
    "int": "integer",
    "float": "number",
    "bool": "true or false",
    "ints": "list of integers",
    "floats": "list of numbers",
}


def _count(low: int, high: int, many: int = 64) -> str:
    if low == high:
        return str(low)
    return f"{low} or more" if high >= many else f"{low} to {high}"


def _initial(field: dict[str, Any]) -> str:
    value = field["initial"]
    if field["kind"] in ("ints", "floats"):
        return "empty"
    if field["kind"] == "bool":
        return str(bool(value)).lower()
    if field["kind"] == "enum":
        return f"`{value}`"
    return f"{value:g}"


def _section(op: dict[str, Any]) -> str:
    outputs = "as many as asked for" if op["n_outputs"] < 0 else str(op["n_outputs"])
    gradient = "has a gradient" if op["gradient"] else "no gradient"
    lines = [
        f"## {op['name']}",
        "",
        op["doc"],
        "",
        f"Inputs: {_count(op['min_in'], op['max_in'])}. Outputs: {outputs}. Version "
        f"{op['version']}, {gradient}.",
    ]
    if op["fields"]:
        lines += ["", "| attribute | values | initial |", "|---|---|---|"]
        for f in op["fields"]:
            values = KINDS.get(f["kind"]) or ", ".join(f"`{n}`" for n in f["names"])
            lines.append(f"| `{f['name']}` | {values} | {_initial(f)} |")
    return "\n".join(lines) + "\n"


def page() -> str:
    """The text of operators.md."""
    ops: list[Any] = list(_core.ops())
    contents = ", ".join(f"[{op['name']}](#{op['name']})" for op in ops)
    return "\n".join([HEAD, contents + ".\n", *map(_section, ops)])


if __name__ == "__main__":
    Path(__file__).with_name("operators.md").write_text(page(), encoding="utf-8")
