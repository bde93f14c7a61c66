"""`optim_apply` against plain NumPy in double, and what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from deepseek_det import _core

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]


def make_store() -> _core.Store:
    store = _core.Store()
    rng = np.random.default_rng(0)
    for name, shape, role, decay in [
        ("w", (30, 40), "trainable", True),
        ("b", (30,), "trainable", False),
        ("mean", (30,), "state", False),
        ("frozen", (10,), "trainable", True),
    ]:
        store.add(name, shape, role, decay)
        store.set(name, rng.standard_normal(shape).astype(np.float32))
    store.set_options("frozen", frozen=True)
    store.set_options("b", lr_factor=0.1)
    return store


def part(store: _core.Store, flat: npt.NDArray[Any], name: str) -> npt.NDArray[Any]:
    entry = store.entry(name)
    return flat[entry["offset"] : entry["offset"] + entry["count"]]


def reference(kind: str, w: F64, g: F64, m: F64, v: F64, t: int, lr: float, decay: float) -> F64:
    """One step of torch.optim.AdamW, or SGD with Nesterov's momentum and decoupled decay."""
    w = w * (1 - lr * decay)
    if kind == "sgd":
        m[:] = 0.9 * m + g
        return w - lr * (g + 0.9 * m)
    m[:] = 0.9 * m + 0.1 * g
    v[:] = 0.99 * v + 0.01 * g * g
    return w - lr * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.99**t)) + 1e-8)


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
@pytest.mark.parametrize("clip", [0.0, 0.3])
def test_optim_apply_equals_the_formula(kind: str, clip: float) -> None:
    store = make_store()
    rng = np.random.default_rng(1)
    size = store.size
    m, v = np.zeros(size, np.float32), np.zeros(size, np.float32)
    ema = store.flat().copy()
    w64 = store.flat().astype(np.float64)
    m64, v64, ema64 = np.zeros(size), np.zeros(size), w64.copy()
    trained = np.zeros(size, bool)
    for name in ("w", "b"):
        part(store, trained, name)[:] = True
    for t in range(1, 5):
        gradient: F32 = np.zeros(size, np.float32)
        for name in store.names:
            part(store, gradient, name)[:] = rng.standard_normal(store.entry(name)["count"])
        g64 = gradient.astype(np.float64) * 0.25
        norm = float(np.sqrt((g64[trained] ** 2).sum()))
        if clip and norm > clip:
            g64 *= clip / (norm + 1e-6)
        for name, factor, decay in [("w", 1.0, 0.05), ("b", 0.1, 0.0)]:
            views = [part(store, a, name) for a in (w64, g64, m64, v64)]
            views[0][:] = reference(kind, *views, t, 0.01 * factor, decay)
        ema64 += 0.2 * (w64 - ema64)
        got = _core.optim_apply(
            store,
            gradient,
            m,
            v if kind == "adamw" else None,
            ema,
            kind=kind,
            lr=0.01,
            decay=0.05,
            momentum=0.9,
            beta2=0.99,
            clip_norm=clip,
            grad_scale=0.25,
            ema_rate=0.2,
            step=t,
        )
        assert got == pytest.approx(norm, rel=1e-6)
        assert not gradient.any()
    np.testing.assert_allclose(store.flat(), w64, rtol=0, atol=2e-6)
    np.testing.assert_allclose(ema, ema64, rtol=0, atol=2e-6)


def call(store: _core.Store, **changes: Any) -> float:
    size = store.size
    arguments: dict[str, Any] = {
        name: np.zeros(size, np.float32) for name in ("gradient", "m", "v", "ema")
    }
    arguments |= {"lr": 0.1, "step": 1} | changes
    positional = [arguments.pop(name) for name in ("gradient", "m", "v", "ema")]
    return _core.optim_apply(store, *positional, **arguments)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"kind": "adam"}, ValueError, "'adam'"),
        ({"lr": float("nan")}, ValueError, "lr nan"),
        ({"step": 0}, ValueError, "step 0"),
        ({"momentum": 1.0}, ValueError, "momentum"),
        ({"clip_norm": -1.0}, ValueError, "clip_norm"),
        ({"ema_rate": 1.5}, ValueError, "ema_rate"),
        ({"v": None}, TypeError, "v"),
        ({"m": np.zeros(3, np.float32)}, ValueError, "m has 3"),
        ({"gradient": np.zeros((1, 3), np.float32)}, ValueError, "gradient"),
        ({"ema": np.zeros(3)}, TypeError, "ema"),
        ({"m": [0.0]}, TypeError, "m"),
    ],
)
def test_optim_apply_refuses(changes: dict[str, Any], error: type[Exception], words: str) -> None:
    store = make_store()
    before = store.flat().copy()
    with pytest.raises(error, match=words):
        call(store, **changes)
    np.testing.assert_array_equal(store.flat(), before)


def test_optim_apply_without_lr_or_step_says_so() -> None:
    store = make_store()
    zeros = [np.zeros(store.size, np.float32) for _ in range(3)]
    with pytest.raises(ValueError, match="lr"):
        _core.optim_apply(store, *zeros, None, step=1)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="step"):
        _core.optim_apply(store, *zeros, None, lr=0.1)  # type: ignore[call-arg]


def test_optim_apply_names_the_gradient_that_is_not_finite() -> None:
    store = make_store()
    gradient = np.zeros(store.size, np.float32)
    part(store, gradient, "b")[3] = np.inf
    before = store.flat().copy()
    with pytest.raises(ValueError, match="'b' is inf at element 3"):
        call(store, gradient=gradient)
    np.testing.assert_array_equal(store.flat(), before)
    assert gradient.any()
