"""Every operator against stored torch values, forward and gradients, in both executors.

tests/golden/make_ops.py made the values (torch in double precision, rounded to float32).
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deepseek_det import _core

GOLDEN = np.load(Path(__file__).parent / "golden" / "ops.npz")
CASES: list[dict[str, Any]] = json.loads(str(GOLDEN["cases"]))
# The interpreter sums in double; the planned executor in float32. Of the largest element.
TOLERANCE = {"Interpreter": 1e-6, "Plan": 1e-5}
DTYPES = {"float32": "f32", "uint8": "u8", "int32": "s32"}


def types_of(inputs: list[np.ndarray]) -> list[tuple[str, tuple[int, ...]]]:
    return [(DTYPES[str(x.dtype)], x.shape) for x in inputs]


def stored(case: str, what: str) -> list[tuple[int, np.ndarray]]:
    """The case's arrays whose key is `what` and a number."""
    prefix = f"{case}/{what}"
    keys = [k for k in GOLDEN.files if k.startswith(prefix)]
    return sorted((int(k[len(prefix) :]), GOLDEN[k]) for k in keys)


def build(case: dict[str, Any]) -> tuple[_core.Graph, _core.Store, list[np.ndarray]]:
    """The case as a graph of one node; parameters live in the store, all else is an input."""
    graph, store = _core.Graph(), _core.Store()
    ids, inputs = [], []
    for (k, array), role in zip(stored(case["name"], "in"), case["roles"], strict=True):
        if role in ("trainable", "state"):
            store.add(f"p{k}", array.shape, role)
            store.set(f"p{k}", array)
            ids.append(graph.entry(store, f"p{k}"))
        else:
            ids.append(graph.input(f"x{k}", DTYPES[str(array.dtype)], array.shape))
            inputs.append(array)
    outputs = stored(case["name"], "out")
    several = len(outputs) if case["op"] == "split" else 0
    made = graph.node(case["op"], "node", ids, case["params"], several)
    for (k, _), value in zip(outputs, made, strict=False):  # top_k's places have no gradient
        graph.output(f"y{k}", value)
    return graph, store, inputs


def check(executor: str, what: str, have: np.ndarray, want: np.ndarray) -> None:
    assert have.shape == want.shape, what
    scale = max(float(np.abs(want).max()), 1e-6)
    error = float(np.abs(have.astype(np.float64) - want).max()) / scale
    assert error <= TOLERANCE[executor], f"{what}: off by {error:.2g} of its largest"


@pytest.mark.parametrize("executor", ["Interpreter", "Plan"])
@pytest.mark.parametrize("case", CASES, ids=[c["name"] for c in CASES])
def test_operator_forward_and_gradient_equal_torch(case: dict[str, Any], executor: str) -> None:
    graph, store, inputs = build(case)
    training = graph.differentiate(store, True)
    run = getattr(_core, executor)(training, store, types_of(inputs))
    name = case["name"]
    outputs = run.forward(inputs)
    for k, want in stored(name, "out"):
        check(executor, f"output {k}", outputs[k], want)
    gradient = np.zeros(store.size, np.float32)
    seeds = [seed for _, seed in stored(name, "seed")]
    seeds += [None] * (len(training.outputs) - len(seeds))
    given = run.backward(seeds, gradient)
    for k, want in stored(name, "d"):
        if case["roles"][k] == "input":
            check(executor, f"gradient of input {k}", given[f"d:x{k}"], want)
        else:
            entry = store.entry(f"p{k}")
            have = gradient[entry["offset"] :][: entry["count"]].reshape(want.shape)
            check(executor, f"gradient of parameter {k}", have, want)
    for k, want in stored(name, "after"):
        check(executor, f"running statistic {k}", store.get(f"p{k}"), want)


@pytest.mark.parametrize("case", CASES, ids=[c["name"] for c in CASES])
def test_operator_planned_inference_equals_interpreted(case: dict[str, Any]) -> None:
    graph, store, inputs = build(case)
    types = types_of(inputs)
    want = _core.Interpreter(graph, store, types).forward(inputs)
    have = _core.Plan(graph, store, types).forward(inputs)
    for k, (a, b) in enumerate(zip(have, want, strict=True)):
        check("Plan", f"output {k}", a, b)


def test_golden_values_cover_every_differentiable_operator() -> None:
    backward = {"conv_dx", "conv_dw", "bn_reduce", "bn_dx", "unary_dx"}  # tested by their forward
    plain = {"dropout", "dequantize", "space_to_depth"}  # random, identity, an inverse
    wanted = {op["name"] for op in _core.ops() if op["gradient"]} - backward - plain
    assert wanted <= {c["op"] for c in CASES}
