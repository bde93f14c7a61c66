"""Which image stands where in an epoch: pure functions of (seed, epoch), drawn in C.

An epoch has ceil(n / batch) full batches: its permutation first, and what the last batch lacks from
the permutation of the next epoch (and so on, where a batch is larger than the data). The next
epoch starts its own permutation anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from deepseek_det import _core
from deepseek_det.data.transforms import check_imgsz


class Labelled(Protocol):
    """What the sampler needs of a record."""

    @property
    def labels(self) -> npt.NDArray[np.int32]: ...
    @property
    def ignore(self) -> npt.NDArray[np.bool_]: ...


class HasRecords(Protocol):
    """What the sampler needs of a data set."""

    @property
    def records(self) -> Sequence[Labelled]: ...


class Sampler(Protocol):
    """Says how often each image is in an epoch."""

    def indices(self, seed: int, epoch: int) -> npt.NDArray[np.int64]:
        """Image numbers, with repeats, not yet shuffled."""


def steps_per_epoch(n: int, batch: int) -> int:
    """Full batches of an epoch of n images.

    >>> steps_per_epoch(205, 16)
    13
    """
    if n < 1:
        raise ValueError(f"sampling: {n} images came, at least one was needed")
    if batch < 1:
        raise ValueError(f"sampling: batch is {batch}, at least 1 was needed")
    return -(-n // batch)


def epoch_order(n: int, batch: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """(steps · batch,) int64: the image at each position of an epoch.

    The first n are a permutation; the rest comes from the permutations of the next epochs.

    >>> order = epoch_order(5, 4, seed=0, epoch=0)
    >>> sorted(order[:5].tolist()), len(order)
    ([0, 1, 2, 3, 4], 8)
    """
    total = steps_per_epoch(n, batch) * batch
    passes = -(-total // n)
    parts = [_core.order_permutation(seed, epoch + i, n) for i in range(passes)]
    return np.concatenate(parts)[:total].astype(np.int64)


def sampled_order(
    sampler: Sampler, batch: int, seed: int, epoch: int
) -> tuple[npt.NDArray[np.int64], int]:
    """`epoch_order` for a sampler, and how many positions are this epoch's own.

    The sampler's indices of this epoch are shuffled and completed from those of the next.
    """
    own = _shuffled(sampler, seed, epoch)
    total = steps_per_epoch(len(own), batch) * batch
    parts, have = [own], len(own)
    while have < total:
        parts.append(_shuffled(sampler, seed, epoch + len(parts)))
        have += len(parts[-1])
    return np.concatenate(parts)[:total], len(own)


def mixing_on(epoch: int, epochs: int, close_mix: int = 10) -> bool:
    """Whether epoch `epoch` (from 0) of `epochs` mixes images: the last `close_mix` do not.

    >>> [mixing_on(e, 60) for e in (0, 49, 50)]
    [True, True, False]
    """
    return epoch < epochs - close_mix


def batch_side(imgsz: int, multi_scale: float, seed: int, epoch: int, index: int) -> int:
    """The side of batch `index`: a multiple of 32 from imgsz·(1 - multi_scale) to its mirror.

    multi_scale: 0 (always imgsz) to 0.5. Raises ValueError otherwise.

    >>> batch_side(320, 0.0, seed=0, epoch=0, index=0)
    320
    """
    if not 0 <= multi_scale <= 0.5:
        raise ValueError(f"multi_scale is {multi_scale}, 0 to 0.5 was needed")
    return _core.order_side(seed, epoch, index, check_imgsz(imgsz), float(multi_scale))


def largest_side(imgsz: int, multi_scale: float) -> int:
    """The largest side that `batch_side` can give.

    >>> largest_side(320, 0.5), largest_side(320, 0.25)
    (480, 384)
    """
    return max(32, int(check_imgsz(imgsz) * (1 + multi_scale) / 32 + 1e-9) * 32)


class RepeatSampler:
    """Oversampling of rare classes: each image is repeated by the rarest class in it.

    dataset: anything with `records` (labels and ignore of each image). f is the share of images
    that hold a class. mode "inverse": a class asks for 1/f, the seed's rule; "sqrt": for
    max(1, sqrt(threshold / f)), LVIS' rule (Gupta et al. 2019). An image gets the largest wish of
    its classes, at most `cap`; one without boxes stays single. Fractions are rounded up or down by
    a draw each epoch, so the mean over epochs is exact.
    factors: (n,) float64. Raises ValueError for another mode and numbers out of range.

    >>> from types import SimpleNamespace as N
    >>> image = lambda *labels: N(labels=np.array(labels), ignore=np.zeros(len(labels), bool))
    >>> RepeatSampler(N(records=[image(0), image(0), image(0, 1), image(0)])).factors.tolist()
    [1.0, 1.0, 4.0, 1.0]
    """

    def __init__(
        self,
        dataset: HasRecords,
        mode: str = "inverse",
        cap: float = 5.0,
        threshold: float = 0.001,
    ) -> None:
        if mode not in ("inverse", "sqrt"):
            raise ValueError(f"sampler: mode is {mode!r}, 'inverse' or 'sqrt' was needed")
        if not 1 <= cap <= 1000:
            raise ValueError(f"sampler: cap is {cap}, 1 to 1000 was needed")
        if not 0 < threshold <= 1:
            raise ValueError(f"sampler: threshold is {threshold}, above 0 up to 1 was needed")
        self.mode, self.cap, self.threshold = mode, float(cap), float(threshold)
        self.factors = self._factors([_classes(r) for r in dataset.records])

    def __repr__(self) -> str:
        total = float(self.factors.sum())
        return f"RepeatSampler({self.mode!r}, {len(self.factors)} images -> {total:.0f} an epoch)"

    def steps(self, batch: int, seed: int, epoch: int) -> int:
        """Full batches of an epoch."""
        return steps_per_epoch(len(self.indices(seed, epoch)), batch)

    def indices(self, seed: int, epoch: int) -> npt.NDArray[np.int64]:
        """Image numbers of an epoch in ascending order, each as often as it is repeated."""
        counts = _core.order_repeats(seed, epoch, self.factors)
        return np.repeat(np.arange(len(counts), dtype=np.int64), counts)

    def _factors(self, classes: list[npt.NDArray[np.int64]]) -> npt.NDArray[np.float64]:
        if not classes:
            raise ValueError("sampler: the data set is empty")
        held = np.concatenate(classes)
        images = np.bincount(held) if len(held) else np.zeros(0, np.int64)
        share = np.maximum(images, 1) / len(classes)
        if self.mode == "inverse":
            wish = 1.0 / share
        else:
            wish = np.maximum(1.0, np.sqrt(self.threshold / share))
        wish = np.minimum(wish, self.cap)
        return np.array([wish[c].max() if len(c) else 1.0 for c in classes], np.float64)


def _classes(record: Labelled) -> npt.NDArray[np.int64]:
    """The classes that an image holds, each once, ignored regions left out."""
    return np.unique(record.labels[~record.ignore]).astype(np.int64)


def _shuffled(sampler: Sampler, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    pool = np.asarray(sampler.indices(seed, epoch), np.int64)
    if not len(pool):
        raise ValueError("sampling: the sampler gave no images")
    shuffled: npt.NDArray[np.int64] = pool[_core.order_permutation(seed, epoch, len(pool))]
    return shuffled
