"""The stream of batches: the same whatever the workers, honest errors, no threads left."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from deepseek_det.data import loader, sampling, transforms
from deepseek_det.data.loader import Batch, ImageCache, batches, stream
from deepseek_det.errors import Error

SIZES = ((64, 48), (50, 80), (200, 150), (31, 31), (128, 96), (97, 33), (640, 20))


class Memory:
    """A data set in memory: noise with two boxes an image, the second to be ignored at times."""

    def __init__(self, n: int = 7) -> None:
        self.names = ["a", "b", "c"]
        self.categories = [0, 1, 2]
        self.reads: list[tuple[int, int]] = []
        self.records = []
        for i in range(n):
            width, height = SIZES[i % len(SIZES)]
            boxes = [[0, 0, width / 2, height / 2], [width / 4, height / 4, width, height]]
            record = SimpleNamespace(
                path=Path(f"folder/image{i}.jpg"),
                id=100 + i,
                width=width,
                height=height,
                boxes=np.array(boxes, np.float32),
                labels=np.array([i % 3, 2], np.int32),
                ignore=np.array([False, i % 2 == 1]),
            )
            self.records.append(record)

    def __len__(self) -> int:
        return len(self.records)

    def full(self, index: int) -> np.ndarray:
        record = self.records[index]
        shape = (record.height, record.width, 3)
        return np.random.default_rng(index).integers(0, 256, shape, np.uint8)

    def image(self, index: int, shrink: int = 1) -> np.ndarray:
        self.reads.append((index, shrink))
        return np.ascontiguousarray(self.full(index)[::shrink, ::shrink])


def equal(a: Batch, b: Batch) -> bool:
    return all(
        np.array_equal(getattr(a, name), getattr(b, name)) for name in Batch.__dataclass_fields__
    )


def loader_threads() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("dd-loader")]


@pytest.fixture(autouse=True)
def no_threads_are_left() -> Iterator[None]:
    yield
    assert loader_threads() == []


# ---- the same stream


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"augment": False},
        {"mixing": False},
        {"multi_scale": 0.5},
        {"augment": transforms.Augment(mix=1.0, dropped_as_ignore=True)},
        {"shuffle": False},
        {"augment": False, "shuffle": True},
    ],
)
def test_stream_is_the_same_for_any_workers_and_cache(options: dict) -> None:
    data = Memory()
    side = sampling.largest_side(64, options.get("multi_scale", 0.0))
    arms = [
        list(stream(data, 64, 3, seed=5, epoch=2, workers=workers, cache=cache, **options))
        for workers in (0, 1, 3)
        for cache in (None, ImageCache(side, 0), ImageCache(side, 30_000))
    ]
    assert len(arms[0]) == 3
    for arm in arms[1:]:
        assert len(arm) == 3 and all(equal(a, b) for a, b in zip(arms[0], arm, strict=True))


def test_stream_differs_by_seed_and_epoch() -> None:
    data = Memory()
    firsts = [
        next(stream(data, 64, 4, seed=s, epoch=e, workers=0)) for s, e in ((0, 0), (1, 0), (0, 1))
    ]
    assert not any(np.array_equal(firsts[0].images, f.images) for f in firsts[1:])


def test_stream_start_gives_the_tail() -> None:
    data = Memory()
    whole = list(stream(data, 64, 2, seed=1, workers=2))
    tail = list(stream(data, 64, 2, seed=1, workers=2, start=2))
    assert [b.number for b in tail] == [2, 3]
    assert all(equal(a, b) for a, b in zip(whole[2:], tail, strict=True))
    assert list(stream(data, 64, 2, start=4, workers=2)) == []


def test_stream_without_augmentation_is_the_letterbox() -> None:
    data = Memory()
    for batch in stream(data, 96, 3, augment=False, workers=2):
        for row, index in enumerate(batch.indices):
            record = data.records[index]
            shrink = transforms.shrink_for(record.width, record.height, 96)
            size = (record.width, record.height)
            boxed = transforms.letterbox(data.full(index)[::shrink, ::shrink], 96, size)
            assert np.array_equal(batch.images[row], boxed.image)
            assert batch.scales[row] == np.float32(boxed.scale)
            assert batch.pads[row].tolist() == list(boxed.pad)
            mine = slice(*batch.offsets[row : row + 2])
            want = record.boxes * boxed.scale + np.tile(boxed.pad, 2)
            assert np.allclose(batch.boxes[mine], want, atol=1e-4)
            assert np.array_equal(batch.labels[mine], record.labels)
            assert np.array_equal(batch.ignore[mine], record.ignore)
            assert batch.ids[row] == record.id and batch.sizes[row].tolist() == list(size)


def test_stream_in_order_gives_each_image_once() -> None:
    got = list(stream(Memory(7), 64, 3, augment=None, workers=2))
    assert np.concatenate([b.indices for b in got]).tolist() == list(range(7))
    assert [len(b.images) for b in got] == [3, 3, 1]


def test_stream_shuffled_has_full_batches() -> None:
    got = list(stream(Memory(7), 64, 3, workers=2))
    assert [len(b.images) for b in got] == [3, 3, 3]
    order = sampling.epoch_order(7, 3, 0, 0)
    assert np.array_equal(np.concatenate([b.indices for b in got]), order)


def test_stream_batch_larger_than_the_data_is_filled() -> None:
    (batch,) = stream(Memory(3), 64, 8, workers=2)
    assert len(batch.images) == 8 and sorted(batch.indices[:3].tolist()) == [0, 1, 2]


def test_stream_one_image_without_boxes_works() -> None:
    data = Memory(1)
    data.records[0].boxes = np.zeros((0, 4), np.float32)
    data.records[0].labels = np.zeros(0, np.int32)
    data.records[0].ignore = np.zeros(0, bool)
    for augment in (True, False):
        (batch,) = stream(data, 64, 2, augment, workers=2, shuffle=True)
        assert batch.boxes.shape == (0, 4) and batch.offsets.tolist() == [0, 0, 0]
        assert [t.shape for t in batch.targets()] == [(0, 5), (0, 5)]


def test_stream_sampler_repeats_images() -> None:
    data = Memory(6)
    sampler = sampling.RepeatSampler(data, cap=3)
    got = list(stream(data, 64, 4, workers=2, sampler=sampler, seed=2, epoch=1))
    order, own = sampling.sampled_order(sampler, 4, 2, 1)
    assert own > 6 and np.array_equal(np.concatenate([b.indices for b in got]), order)
    with pytest.raises(ValueError, match="sampler"):
        stream(data, 64, 4, sampler=sampler, shuffle=False)


def test_stream_multi_scale_changes_the_side_between_batches() -> None:
    data = Memory()
    sides = [b.imgsz for b in stream(data, 64, 1, multi_scale=0.5, workers=2, seed=1)]
    assert sides == [sampling.batch_side(64, 0.5, 1, 0, i) for i in range(7)]
    assert len(set(sides)) > 1


def test_batches_targets_leave_ignored_regions_out() -> None:
    data = Memory()
    pairs = list(batches(data, 64, 3, augment=False, workers=2))
    images = [i for image, _ in pairs for i in image]
    targets = [t for _, target in pairs for t in target]
    assert len(images) == len(targets) == 7
    for record, target in zip(data.records, targets, strict=True):
        assert target.dtype == np.float32 and target.shape == (int((~record.ignore).sum()), 5)
        assert target[:, 0].tolist() == record.labels[~record.ignore].tolist()


def test_boxes_stay_inside_and_dropped_ones_may_be_ignored() -> None:
    data = Memory()
    for as_ignore in (False, True):
        augment = transforms.Augment(shift=0.6, mix=1.0, dropped_as_ignore=as_ignore)
        ignored = 0
        for epoch in range(6):
            for batch in stream(data, 64, 7, augment, epoch=epoch, workers=0):
                assert (batch.boxes >= 0).all() and (batch.boxes <= 64).all()
                assert (batch.boxes[:, 2:] > batch.boxes[:, :2]).all()
                ignored += int((batch.ignore & (batch.labels != 2)).sum())
        assert (ignored > 0) == as_ignore


# ---- cache


def test_cache_reads_each_image_once_and_shrunk() -> None:
    data = Memory()
    cache = ImageCache(32)
    for epoch in range(3):
        list(stream(data, 32, 2, epoch=epoch, cache=cache, workers=0, mixing=False))
    assert sorted(i for i, _ in data.reads) == list(range(7))
    assert dict(data.reads) == {0: 2, 1: 2, 2: 4, 3: 1, 4: 4, 5: 2, 6: 8}
    assert len(cache) == 7 and cache.bytes == sum(k[1].nbytes for k in cache._kept.values())


def test_cache_keeps_to_its_budget() -> None:
    data = Memory()
    cache = ImageCache(64, 20_000)
    for epoch in range(2):
        list(stream(data, 64, 2, epoch=epoch, cache=cache, workers=3))
    assert 0 < cache.bytes <= 20_000 and len(cache) < 7
    assert loader._default_budget() <= 1 << 30


def test_cache_of_another_data_set_gives_no_wrong_images() -> None:
    cache = ImageCache(64)
    first, second = Memory(3), Memory(3)
    list(stream(first, 64, 3, cache=cache, workers=0))
    list(stream(second, 64, 3, cache=cache, workers=0))
    assert len(second.reads) >= 3


def test_cache_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="the cache is for imgsz 64, 96 was needed"):
        stream(Memory(), 96, 3, cache=ImageCache(64))


def test_data_set_that_cannot_be_hashed_works() -> None:
    class Unhashable(Memory):
        __hash__ = None  # type: ignore[assignment]

    assert len(list(stream(Unhashable(), 64, 3, workers=1))) == 3


# ---- errors and ends


class Broken(Memory):
    """Image 4 cannot be read."""

    error: BaseException = ValueError("bad bytes")

    def image(self, index: int, shrink: int = 1) -> np.ndarray:
        if index == 4:
            raise self.error
        return super().image(index, shrink)


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize(
    "error, kind, words",
    [
        (ValueError("bad bytes"), Error, "image4.jpg: bad bytes"),
        (OSError(5, "Input/output error"), Error, "image4.jpg: .*Input/output"),
        (
            Error("decode: folder/image4.jpg: cut off"),
            Error,
            "^decode: folder/image4.jpg: cut off$",
        ),
        (RuntimeError(), Error, "image4.jpg: RuntimeError"),
        (MemoryError(), MemoryError, None),
        (KeyboardInterrupt(), KeyboardInterrupt, None),
    ],
)
def test_error_of_a_worker_reaches_the_caller_with_the_file(
    workers: int, error: BaseException, kind: type, words: str | None
) -> None:
    data = Broken()
    data.error = error
    with pytest.raises(kind, match=words):
        list(stream(data, 64, 2, augment=False, workers=workers))
    assert loader_threads() == []


def test_error_batches_before_it_arrive() -> None:
    got = []
    with pytest.raises(Error, match="image4"):
        for batch in stream(Broken(), 64, 2, augment=False, workers=3):
            got.append(batch.number)
    assert got == [0, 1]


def test_image_of_another_size_is_an_error() -> None:
    data = Memory()
    data.full = lambda index: np.zeros((5, 5, 3), np.uint8)  # type: ignore[method-assign]
    with pytest.raises(Error, match=r"image0.jpg: an image .* was needed"):
        list(stream(data, 64, 2, augment=False, workers=1))


@pytest.mark.parametrize("how", ["close", "closing", "drop", "exception"])
def test_leaving_early_ends_the_threads(how: str) -> None:
    made = batches(Memory(), 64, 1, workers=3)
    next(made)
    assert loader_threads()
    if how == "close":
        made.close()  # type: ignore[attr-defined]
    elif how == "closing":
        with closing(made):  # type: ignore[type-var]
            next(made)
    elif how == "exception":
        with pytest.raises(ZeroDivisionError), closing(made):  # type: ignore[type-var]
            next(made)
            _ = 1 / 0
    del made
    assert loader_threads() == []


def test_prefetch_is_bounded() -> None:
    data = Memory(7)
    made = stream(data, 64, 1, augment=False, workers=2, cache=ImageCache(64, 0))
    with closing(made):  # type: ignore[type-var]
        next(made)
        time.sleep(0.2)
        assert len(data.reads) <= 1 + loader.PREFETCH


@pytest.mark.parametrize(
    "arguments, error, words",
    [
        ({"imgsz": 33}, ValueError, "imgsz is 33"),
        ({"batch": 0}, ValueError, "batch is 0"),
        ({"augment": "yes"}, TypeError, "augment is 'yes'"),
        ({"seed": -1}, ValueError, "seed"),
        ({"epoch": -1}, ValueError, "-1"),
        ({"workers": -1}, ValueError, "workers is -1"),
        ({"workers": 2.5}, ValueError, "workers is 2.5"),
        ({"multi_scale": 0.7}, ValueError, "multi_scale is 0.7"),
        ({"start": 99}, ValueError, "start is 99"),
    ],
)
def test_bad_arguments_are_errors_at_once(arguments: dict, error: type, words: str) -> None:
    with pytest.raises(error, match=words):
        stream(Memory(), **{"imgsz": 64, **arguments})


def test_empty_data_set_is_an_error() -> None:
    with pytest.raises(ValueError, match="0 images"):
        batches(Memory(0), 64)


def loops(script: Path) -> subprocess.Popen[str]:
    """A script that sees these tests and what they see, its output in a pipe."""
    return subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": ":".join([str(Path(__file__).parent), *[p for p in sys.path if p]])},
    )


def test_ctrl_c_ends_the_loop_quickly(tmp_path: Path) -> None:
    script = tmp_path / "loop.py"
    script.write_text(
        textwrap.dedent("""
        import threading
        import numpy as np
        from test_loader import Memory
        from deepseek_det.data.loader import stream
        data = Memory()
        try:
            for epoch in range(10**9):
                for batch in stream(data, 320, 4, epoch=epoch % 1000, workers=2):
                    if epoch == 1:
                        print("running", flush=True)
        except KeyboardInterrupt:
            names = [t.name for t in threading.enumerate()]
            print("interrupted", sum(n.startswith("dd-loader") for n in names), flush=True)
        """)
    )
    process = loops(script)
    assert process.stdout is not None
    try:
        assert process.stdout.readline().strip() == "running"
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read().split("\n")
        assert "interrupted 0" in rest
        assert time.monotonic() - began < 2
    finally:
        process.kill()
        process.wait()


def test_ctrl_c_at_any_moment_leaves_no_thread(tmp_path: Path) -> None:
    # Epochs of a few batches: much of the time goes into starting threads and ending them.
    script = tmp_path / "moments.py"
    script.write_text(
        textwrap.dedent("""
        import os, random, signal, threading, time
        from test_loader import Memory
        from deepseek_det.data.loader import stream
        data, rng, left = Memory(), random.Random(1), 0
        for turn in range(60):
            running = threading.Event()
            def press(wait=rng.uniform(0, 0.02)):
                running.wait()
                time.sleep(wait)
                os.kill(os.getpid(), signal.SIGINT)
            presser = threading.Thread(target=press)
            presser.start()
            try:
                for epoch in range(10**9):
                    for batch in stream(data, 64, 4, epoch=epoch % 1000, workers=2):
                        running.set()
            except KeyboardInterrupt:
                left += sum(t.name.startswith("dd-loader") for t in threading.enumerate())
            presser.join()
        print("left", left)
        """)
    )
    assert loops(script).communicate(timeout=60)[0].strip() == "left 0"


# ---- real data


def test_real_images_stream_as_predict_would_see_them(data_root: Path) -> None:
    from deepseek_det import data
    from deepseek_det.data.decode import decode

    bccd = data.load(data_root / "BCCD", split="test")
    batch = next(iter(bccd.batches(imgsz=320, batch=4, augment=False, workers=2)))
    for row in range(4):
        record = bccd.records[row]
        size = (record.width, record.height)
        pixels = decode(record.path, transforms.shrink_for(*size, 320))
        assert np.array_equal(batch[0][row], transforms.letterbox(pixels, 320, size).image)


def test_real_mixed_epoch_is_equal_for_any_workers(data_root: Path) -> None:
    from deepseek_det import data

    coco = data.load(data_root / "coco128", split="train")
    arms = [list(stream(coco, 160, 16, seed=3, workers=w, cache=ImageCache(160))) for w in (0, 2)]
    assert all(equal(a, b) for a, b in zip(*arms, strict=True))
