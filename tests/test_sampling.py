"""The order of an epoch: permutations, completion, repeats, sizes."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepseek_det.data import sampling

SETTINGS = settings(max_examples=60, deadline=None)
SEEDS = st.integers(0, 2**64 - 1)


def labelled(*images: list[int], ignored: int | None = None) -> SimpleNamespace:
    """A data set of images with these labels; label `ignored` is a region to ignore."""
    records = [
        SimpleNamespace(
            labels=np.array(labels, np.int32), ignore=np.array([x == ignored for x in labels], bool)
        )
        for labels in images
    ]
    return SimpleNamespace(records=records)


@SETTINGS
@given(SEEDS, st.integers(0, 10_000), st.integers(1, 300), st.integers(1, 64))
def test_epoch_order_is_a_permutation_completed_from_the_next(
    seed: int, epoch: int, n: int, batch: int
) -> None:
    order = sampling.epoch_order(n, batch, seed, epoch)
    assert order.dtype == np.int64 and len(order) % batch == 0 and 0 <= len(order) - n < batch
    assert np.array_equal(np.sort(order[:n]), np.arange(n))
    rest = order[n:]
    for i in range(0, len(rest), n):  # a batch may be larger than the data
        following = sampling.epoch_order(n, 1, seed, epoch + 1 + i // n)
        assert np.array_equal(rest[i : i + n], following[: len(rest) - i])
    assert np.array_equal(order, sampling.epoch_order(n, batch, seed, epoch))


def test_epoch_order_differs_by_seed_and_epoch() -> None:
    orders = [sampling.epoch_order(50, 1, s, e).tobytes() for s in range(5) for e in range(5)]
    assert len(set(orders)) == 25


def test_epoch_order_every_place_is_equally_likely() -> None:
    n, epochs = 8, 4000
    table = np.zeros((n, n))
    for epoch in range(epochs):
        table[np.arange(n), sampling.epoch_order(n, n, 7, epoch)] += 1
    expected = epochs / n
    chi2 = ((table - expected) ** 2 / expected).sum()
    assert chi2 < 49 + 6 * np.sqrt(2 * 49)  # (n - 1)² degrees of freedom, six deviations


@pytest.mark.parametrize(
    "n, batch, words", [(0, 4, "0 images"), (5, 0, "batch is 0"), (5, -1, "batch is -1")]
)
def test_epoch_order_bad_sizes_are_errors(n: int, batch: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        sampling.epoch_order(n, batch, 0, 0)


@pytest.mark.parametrize("seed, epoch", [(-1, 0), (2**64, 0), (0, -1), (0, 2**32), (0.5, 0)])
def test_epoch_order_bad_seed_or_epoch_is_an_error(seed: object, epoch: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        sampling.epoch_order(5, 2, seed, epoch)  # type: ignore[arg-type]


# ---- repeats


def test_repeat_inverse_is_one_over_the_share_of_images() -> None:
    # class 0 in 4 of 4 images, class 1 in 2, class 2 in 1; two boxes of a class count once
    data = labelled([0, 0], [0, 1], [0, 1, 2], [0])
    assert sampling.RepeatSampler(data).factors.tolist() == [1, 2, 4, 1]
    assert sampling.RepeatSampler(data, cap=3).factors.tolist() == [1, 2, 3, 1]


def test_repeat_sqrt_is_the_rule_of_lvis() -> None:
    data = labelled(*[[0]] * 99, [0, 1])
    factors = sampling.RepeatSampler(data, "sqrt", cap=100, threshold=0.25).factors
    assert factors[:99].tolist() == [1.0] * 99
    assert factors[99] == pytest.approx((0.25 / 0.01) ** 0.5)


def test_repeat_ignored_regions_and_empty_images_ask_for_nothing() -> None:
    data = labelled([0], [0], [], [0, 5], ignored=5)
    assert np.allclose(sampling.RepeatSampler(data, cap=9).factors, [4 / 3, 4 / 3, 1, 4 / 3])
    assert sampling.RepeatSampler(labelled([], [])).factors.tolist() == [1, 1]


def test_repeat_indices_have_the_factors_as_their_mean() -> None:
    sampler = sampling.RepeatSampler(labelled([0], [0], [0, 1], [], [0]), cap=2.5)
    epochs = 2000
    total = np.zeros(5)
    for epoch in range(epochs):
        indices = sampler.indices(3, epoch)
        assert (np.diff(indices) >= 0).all()
        counts = np.bincount(indices, minlength=5)
        assert (np.abs(counts - sampler.factors) < 1).all()
        total += counts
    assert np.allclose(total / epochs, sampler.factors, atol=0.06)
    assert np.array_equal(sampler.indices(3, 7), sampler.indices(3, 7))


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"mode": "often"}, "mode is 'often'"),
        ({"cap": 0.5}, "cap is 0.5"),
        ({"cap": float("nan")}, "cap"),
        ({"mode": "sqrt", "threshold": 0}, "threshold is 0"),
    ],
)
def test_repeat_bad_arguments_are_errors(arguments: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        sampling.RepeatSampler(labelled([0]), **arguments)


def test_repeat_empty_data_set_is_an_error() -> None:
    with pytest.raises(ValueError, match="empty"):
        sampling.RepeatSampler(labelled())


@SETTINGS
@given(SEEDS, st.integers(0, 1000), st.integers(1, 40))
def test_sampled_order_holds_the_samplers_indices(seed: int, epoch: int, batch: int) -> None:
    sampler = sampling.RepeatSampler(labelled([0], [0, 1], [0], [0, 2], []))
    order, own = sampling.sampled_order(sampler, batch, seed, epoch)
    assert np.array_equal(np.sort(order[:own]), sampler.indices(seed, epoch))
    assert len(order) % batch == 0 and 0 <= len(order) - own < batch


# ---- sizes and mixing


@SETTINGS
@given(SEEDS, st.integers(1, 40), st.floats(0, 0.5), st.integers(0, 100))
def test_batch_side_is_a_multiple_of_32_in_range(
    seed: int, steps: int, spread: float, index: int
) -> None:
    imgsz = 32 * steps
    side = sampling.batch_side(imgsz, spread, seed, 1, index)
    assert side % 32 == 0 and side >= 32
    assert imgsz * (1 - spread) - 1e-6 <= side <= imgsz * (1 + spread) + 1e-6
    assert side <= sampling.largest_side(imgsz, spread)


def test_batch_side_takes_every_size() -> None:
    sides = {sampling.batch_side(320, 0.2, 0, 0, i) for i in range(200)}
    assert sides == {256, 288, 320, 352, 384}
    assert sampling.largest_side(320, 0.2) == 384
    assert {sampling.batch_side(320, 0.0, s, 0, 3) for s in range(50)} == {320}


@pytest.mark.parametrize("imgsz, spread", [(33, 0.0), (320, 0.6), (320, -0.1), (320, float("nan"))])
def test_batch_side_bad_arguments_are_errors(imgsz: int, spread: float) -> None:
    with pytest.raises(ValueError):
        sampling.batch_side(imgsz, spread, 0, 0, 0)


def test_mixing_is_off_in_the_last_epochs() -> None:
    assert [sampling.mixing_on(e, 12) for e in range(12)] == [True, True] + [False] * 10
    assert not sampling.mixing_on(0, 5) and sampling.mixing_on(4, 5, close_mix=0)
