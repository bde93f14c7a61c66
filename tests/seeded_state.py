"""Parameters and inputs by formula: the stored values of nets need no stored weights."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]


def draw(name: str, shape: tuple[int, ...]) -> FloatArray:
    """N(0, 1) by name; RandomState's stream is frozen for all versions of NumPy."""
    state = np.random.RandomState(zlib.crc32(name.encode()))
    return state.standard_normal(shape).astype(np.float32)


def parameter(name: str, shape: tuple[int, ...]) -> FloatArray:
    """A parameter's value: matrices keep the signal's scale, norms are near the identity."""
    if len(shape) > 1:
        return draw(name, shape) * np.float32(np.sqrt(2.0 / np.prod(shape[1:])))
    noise = draw(name, shape) * np.float32(0.1)
    if name.endswith("running_var"):
        return 1 + np.abs(noise)
    return noise if name.endswith(("bias", "running_mean")) else 1 + noise


def state(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, FloatArray]:
    """All parameters; torch's counter of batches is none."""
    return {n: parameter(n, s) for n, s in shapes.items() if not n.endswith("num_batches_tracked")}


def images(seed: int, n: int, side: int) -> npt.NDArray[np.uint8]:
    """(n, side, side, 3) noise."""
    return np.random.RandomState(seed).randint(0, 256, (n, side, side, 3)).astype(np.uint8)


def samples(count: int, most: int = 32) -> npt.NDArray[np.int64]:
    """Positions in an array of `count` elements that are kept of a gradient."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(np.int64))


def names_digest(names: Iterable[str]) -> int:
    """A number that tells two sets of names apart."""
    return zlib.crc32("\n".join(sorted(names)).encode())
