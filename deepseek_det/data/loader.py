"""The stream of training batches: order, decode, cache, augment, in threads.

A batch is a pure function of (data, options, seed, epoch, its number): workers and cache change the
time and nothing else. Threads suffice, since simplejpeg and the C core drop the GIL. Whatever ends
the stream (the last batch, an error, Ctrl-C, closing the generator), its threads have ended before
the caller goes on.
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from deepseek_det import _core
from deepseek_det.data import sampling, transforms
from deepseek_det.data.transforms import Augment, Boxes, Image, Labels, Mask, Picture
from deepseek_det.errors import Error
from deepseek_det.interrupt import Deferred

PREFETCH = 2
"""Batches that are prepared beyond the one that the caller works on."""

MAX_WORKERS = 8
DEFAULT_CACHE_BYTES = 1 << 30

_REST = (transforms.REASONS.index("clipped"), transforms.REASONS.index("covered"))


class RecordLike(Protocol):
    """What the loader needs of a record; `deepseek_det.data.Record` is one."""

    @property
    def path(self) -> Path: ...
    @property
    def id(self) -> int | str: ...
    @property
    def width(self) -> int: ...
    @property
    def height(self) -> int: ...
    @property
    def boxes(self) -> Boxes: ...
    @property
    def labels(self) -> Labels: ...
    @property
    def ignore(self) -> Mask: ...


class DatasetLike(Protocol):
    """What the loader needs of a data set; `deepseek_det.data.Dataset` is one."""

    @property
    def records(self) -> Sequence[RecordLike]: ...
    def image(self, index: int, shrink: int = 1) -> Image:
        """(H, W, 3) uint8 RGB of size ceil(size / shrink)."""


@dataclass(frozen=True, slots=True)
class Batch:
    """One batch of N images with M boxes.

    images: (N, imgsz, imgsz, 3) uint8; boxes: (M, 4) float32 xyxy in their pixels; labels: (M,)
    int32; ignore: (M,) bool, regions that neither train nor count; offsets: (N + 1,) int64, image
    i has boxes offsets[i]:offsets[i + 1]; indices: (N,) int64 into `dataset.records`; ids: the
    records' ids; sizes: (N, 2) int32 width and height of the originals; scales: (N,) float32 and
    pads: (N, 2) float32, the letterbox x' = scale·x + pad of images that are not augmented;
    number: the batch's place in its epoch.
    """

    images: Image
    boxes: Boxes
    labels: Labels
    ignore: Mask
    offsets: npt.NDArray[np.int64]
    indices: npt.NDArray[np.int64]
    ids: tuple[int | str, ...]
    sizes: npt.NDArray[np.int32]
    scales: npt.NDArray[np.float32]
    pads: npt.NDArray[np.float32]
    number: int

    @property
    def imgsz(self) -> int:
        """The side of the images."""
        return int(self.images.shape[1])

    def targets(self) -> list[npt.NDArray[np.float32]]:
        """N arrays (n, 5) float32: class, x0 y0 x1 y1; ignored regions left out."""
        table = np.concatenate([self.labels[:, None].astype(np.float32), self.boxes], axis=1)
        pairs = zip(self.offsets[:-1], self.offsets[1:], strict=True)
        return [table[a:b][~self.ignore[a:b]] for a, b in pairs]


class ImageCache:
    """Decoded images at the size that training needs, kept up to a budget.

    An image is decoded at the strongest scale that reaches the letterboxed size for `imgsz`,
    reduced to that size where it is still larger, and kept as uint8. What does not fit in the
    budget is decoded each time; nothing is thrown out again, since every epoch wants every image
    once. budget_bytes: None for 1 GiB or a quarter of the memory, whichever is less; 0 keeps
    nothing. A cache serves one data set; threads may share it.
    """

    def __init__(self, imgsz: int, budget_bytes: int | None = None) -> None:
        self.imgsz = transforms.check_imgsz(imgsz, "cache")
        self.budget_bytes = _default_budget() if budget_bytes is None else int(budget_bytes)
        self.bytes = 0
        self._kept: dict[int, tuple[RecordLike, Image, float]] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, dataset: DatasetLike, index: int) -> Picture:
        """The picture of record `index`; errors name its file."""
        record = dataset.records[index]
        kept = self._kept.get(index)
        if kept is None or kept[0] is not record:  # another data set's image is never given out
            pixels, scale = _load(dataset, index, self.imgsz)
            kept = (record, pixels, scale)
            self._keep(index, kept)
        _, pixels, scale = kept
        return Picture(pixels, scale, record.width, record.height, record.boxes, record.ignore)

    def _keep(self, index: int, kept: tuple[RecordLike, Image, float]) -> None:
        pixels = kept[1]
        with self._lock:
            if index not in self._kept and self.bytes + pixels.nbytes <= self.budget_bytes:
                pixels.flags.writeable = False
                self._kept[index] = kept
                self.bytes += pixels.nbytes


class _Sampled(NamedTuple):
    """The boxes of one composed sample."""

    boxes: Boxes
    labels: Labels
    ignore: Mask


@dataclass(frozen=True, slots=True)
class _Epoch:
    """All that a worker needs to make the sample at a position."""

    dataset: DatasetLike
    cache: ImageCache
    augment: Augment | None
    order: npt.NDArray[np.int64]
    pool: int  # the first positions of the order: what partners are drawn from
    seed: int
    epoch: int
    mixing: bool

    def sample(self, position: int, out: Image) -> _Sampled:
        """Paints the sample at `position` into `out` and returns its boxes."""
        indices = [int(self.order[position])]
        if self.augment is None:
            pieces, limits = transforms.identity_pieces(), (0.0, 0.0)
        else:
            limits = (self.augment.min_clipped, self.augment.min_visible)
            partners, pieces = transforms.draw_pieces(
                self.augment, self.seed, self.epoch, position, self.pool, self.mixing
            )
            # Partners are positions of the epoch, so a sampler's repeats weigh here, too.
            indices += [int(self.order[p]) for p in partners[1:]]
        pictures = [self.cache.get(self.dataset, i) for i in indices]
        boxes, drops = _core.image_compose(pieces, pictures, *limits, out)
        labels = np.concatenate([self.dataset.records[i].labels for i in indices])
        ignore = np.concatenate([p.ignore for p in pictures])
        keep = drops == 0
        if self.augment is not None and self.augment.dropped_as_ignore:
            rest = np.isin(drops, _REST)
            ignore = ignore | rest
            keep = (keep | rest) & (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
        return _Sampled(boxes[keep], labels[keep].astype(np.int32), ignore[keep])


def batches(
    dataset: DatasetLike,
    imgsz: int = 640,
    batch: int = 16,
    augment: Augment | bool | None = True,
    seed: int = 0,
    epoch: int = 0,
    workers: int | None = None,
    *,
    mixing: bool = True,
    multi_scale: float = 0.0,
    shuffle: bool | None = None,
    sampler: sampling.Sampler | None = None,
    cache: ImageCache | None = None,
) -> Iterator[tuple[Image, list[npt.NDArray[np.float32]]]]:
    """The batches of one epoch as (images, targets); see `stream` for the arguments.

    images: (N, imgsz, imgsz, 3) uint8; targets: N arrays (n, 5) float32: class, x0 y0 x1 y1 in
    pixels of the letterboxed image, ignored regions left out.
    """
    made = stream(
        dataset,
        imgsz,
        batch,
        augment,
        seed,
        epoch,
        workers,
        mixing=mixing,
        multi_scale=multi_scale,
        shuffle=shuffle,
        sampler=sampler,
        cache=cache,
    )
    return _as_pairs(made)


def stream(
    dataset: DatasetLike,
    imgsz: int = 640,
    batch: int = 16,
    augment: Augment | bool | None = True,
    seed: int = 0,
    epoch: int = 0,
    workers: int | None = None,
    *,
    mixing: bool = True,
    multi_scale: float = 0.0,
    shuffle: bool | None = None,
    sampler: sampling.Sampler | None = None,
    cache: ImageCache | None = None,
    start: int = 0,
) -> Iterator[Batch]:
    """The batches of one epoch as `Batch`: a pure function of all arguments but workers and cache.

    augment: an `Augment`, True for its defaults, False or None for the plain letterbox; mixing:
    CutMix and Mosaic allowed (`sampling.mixing_on` says when); multi_scale: sides vary by this
    share from batch to batch; shuffle: None shuffles where images are augmented. A shuffled epoch
    has full batches only (`sampling.epoch_order`); without shuffle the records come in order, each
    once, and the last batch may be smaller. sampler: a `RepeatSampler`. workers: threads, 0 makes
    the batches in the caller, None as many as CPUs up to 8. cache: an `ImageCache` for
    `sampling.largest_side(imgsz, multi_scale)`; None takes one that belongs to the data set.
    start: the first batch to make. Errors name the argument or the image's file; use
    `contextlib.closing` where the loop may be left early and the threads must end at once.
    """
    side = transforms.check_imgsz(imgsz, "batches")
    sampling.batch_side(side, multi_scale, seed, epoch, 0)  # checks the seed, too
    chosen = Augment() if augment is True else (augment or None)
    if chosen is not None and not isinstance(chosen, Augment):
        raise TypeError(f"batches: augment is {augment!r}, an Augment or a bool was needed")
    n = pool = len(dataset.records)
    steps = sampling.steps_per_epoch(n, batch)
    shuffled = (chosen is not None or sampler is not None) if shuffle is None else shuffle
    if sampler is not None:
        if not shuffled:
            raise ValueError("batches: a sampler came with shuffle=False, only one can be followed")
        order, pool = sampling.sampled_order(sampler, batch, seed, epoch)
    elif shuffled:
        order = sampling.epoch_order(n, batch, seed, epoch)
    else:
        order = np.arange(n, dtype=np.int64)
    if shuffled:
        steps = len(order) // batch
    if not 0 <= start <= steps:
        raise ValueError(f"batches: start is {start}, 0 to {steps} was needed")
    if cache is None:
        cache = _cache_of(dataset, sampling.largest_side(side, multi_scale))
    elif cache.imgsz != sampling.largest_side(side, multi_scale):
        needed = sampling.largest_side(side, multi_scale)
        raise ValueError(f"batches: the cache is for imgsz {cache.imgsz}, {needed} was needed")
    made = _Epoch(dataset, cache, chosen, order, pool, seed, epoch, mixing)

    def plan(number: int) -> _Plan:
        at = sampling.batch_side(side, multi_scale, seed, epoch, number)
        return _Plan(made, number, range(number * batch, min((number + 1) * batch, len(order))), at)

    return _run(plan, range(start, steps), _worker_count(workers))


class _Plan:
    """One batch in the making: its images' memory and the positions that fill it."""

    def __init__(self, epoch: _Epoch, number: int, positions: range, side: int) -> None:
        self.epoch, self.number, self.positions, self.side = epoch, number, positions, side
        self.images = np.empty((len(positions), side, side, 3), np.uint8)

    def make(self, row: int) -> _Sampled:
        """Fills row `row`; its boxes are the result."""
        return self.epoch.sample(self.positions[row], self.images[row])

    def finish(self, samples: list[_Sampled]) -> Batch:
        """The batch, when every row is filled."""
        indices = self.epoch.order[self.positions.start : self.positions.stop]
        records = [self.epoch.dataset.records[i] for i in indices]
        fits = [_core.image_fit(r.width, r.height, self.side) for r in records]
        offsets = np.zeros(len(samples) + 1, np.int64)
        np.cumsum([len(s.boxes) for s in samples], out=offsets[1:])
        return Batch(
            images=self.images,
            boxes=np.concatenate([s.boxes for s in samples]),
            labels=np.concatenate([s.labels for s in samples]),
            ignore=np.concatenate([s.ignore for s in samples]),
            offsets=offsets,
            indices=indices.copy(),
            ids=tuple(r.id for r in records),
            sizes=np.array([(r.width, r.height) for r in records], np.int32),
            scales=np.array([f[0] for f in fits], np.float32),
            pads=np.array([f[3:] for f in fits], np.float32),
            number=self.number,
        )


def _run(plan: Callable[[int], _Plan], numbers: range, workers: int) -> Iterator[Batch]:
    """Makes the planned batches in order, by threads or in the caller."""
    if workers == 0:
        for number in numbers:
            planned = plan(number)
            yield planned.finish([planned.make(i) for i in range(len(planned.positions))])
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="dd-loader")
    waiting: deque[tuple[_Plan, list[Future[_Sampled]]]] = deque()
    upcoming = iter(numbers)
    try:
        while True:
            while len(waiting) <= PREFETCH and (k := next(upcoming, None)) is not None:
                planned = plan(k)
                rows = range(len(planned.positions))
                with Deferred():  # else a thread might start that the pool doesn't know of
                    waiting.append((planned, [pool.submit(planned.make, i) for i in rows]))
            if not waiting:
                return
            planned, futures = waiting.popleft()
            # In order of position: of several errors the caller sees the first, whatever thread
            # met it.
            finished = planned.finish([f.result() for f in futures])
            del planned, futures  # the caller owns the batch's memory alone
            yield finished
            del finished
    finally:
        # Reached by the end, an error, Ctrl-C and the generator's close alike.
        try:
            _end(pool)
        except KeyboardInterrupt:
            _end(pool)  # it came before it could be deferred; a second end does no harm
            raise


def _end(pool: ThreadPoolExecutor) -> None:
    """Returns when the pool's threads have ended, each after the image that it works on."""
    with Deferred():
        pool.shutdown(wait=True, cancel_futures=True)


def _as_pairs(made: Iterator[Batch]) -> Iterator[tuple[Image, list[npt.NDArray[np.float32]]]]:
    try:
        for batch in made:
            yield batch.images, batch.targets()
    finally:
        close = getattr(made, "close", None)
        if close is not None:
            close()


def _load(dataset: DatasetLike, index: int, imgsz: int) -> tuple[Image, float]:
    """Decodes and reduces one image: pixels and how many of them one of the original's is."""
    record = dataset.records[index]
    width, height = record.width, record.height
    try:
        scale, fit_width, fit_height, _, _ = _core.image_fit(width, height, imgsz)
        shrink = transforms.shrink_for(width, height, imgsz)
        pixels = dataset.image(index, shrink)
        expected = (-(-height // shrink), -(-width // shrink), 3)
        if pixels.shape != expected or pixels.dtype != np.uint8:
            raise Error(f"an image {pixels.shape} {pixels.dtype} came, {expected} uint8 was needed")
        if scale * shrink < 1.0:
            step = 1.0 / (scale * shrink)
            return _core.image_resize(pixels, step, fit_width, fit_height), scale
        return np.ascontiguousarray(pixels), 1.0 / shrink
    except MemoryError:
        raise
    except Exception as error:
        if isinstance(error, Error) and str(record.path) in str(error):
            raise
        raise Error(f"batches: {record.path}: {str(error) or type(error).__name__}") from error


_caches: weakref.WeakKeyDictionary[DatasetLike, ImageCache] = weakref.WeakKeyDictionary()
_caches_lock = threading.Lock()


def _cache_of(dataset: DatasetLike, imgsz: int) -> ImageCache:
    """The cache that lives as long as the data set; a new one where the size has changed."""
    with _caches_lock:
        try:
            cache = _caches.get(dataset)
            if cache is None or cache.imgsz != imgsz:
                cache = _caches[dataset] = ImageCache(imgsz)
        except (
            TypeError
        ):  # a data set that cannot be hashed or weakly referenced: this stream's own
            cache = ImageCache(imgsz)
        return cache


def _worker_count(workers: int | None) -> int:
    if workers is None:
        return min(MAX_WORKERS, max(1, _core.config()["cpus"]))
    if isinstance(workers, bool) or not isinstance(workers, int) or not 0 <= workers <= 256:
        raise ValueError(f"batches: workers is {workers!r}, an integer from 0 to 256 was needed")
    return workers


def _default_budget() -> int:
    """1 GiB, or a quarter of the memory that this process may use where that is less."""
    try:
        memory = int(os.sysconf("SC_PAGE_SIZE")) * int(os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, OSError, ValueError):
        return DEFAULT_CACHE_BYTES
    with contextlib.suppress(OSError, ValueError):  # no cgroup, or "max"
        memory = min(memory, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return min(DEFAULT_CACHE_BYTES, memory // 4)
