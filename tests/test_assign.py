"""Assignment rules against twins in NumPy, and what must hold for any scene."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_nms import iou_matrix

import deepseek_det as dd
from deepseek_det.anchors import assign, detector_anchors

ANCHORS, LEVELS = detector_anchors(128)


def scene(seed, n=7, nc=4):
    """Objects of all sizes, some overlapping; predictions near the anchors."""
    rng = np.random.default_rng(seed)
    corner = rng.uniform(-5, 100, (n, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(3, 90, (n, 2))], 1).astype(np.float32)
    if n > 3:
        boxes[2] = boxes[1] * 1.05 + 2  # no equal areas: rounding would decide
    labels = rng.integers(0, nc, n)
    logits = rng.normal(-2, 2, (len(ANCHORS), nc)).astype(np.float32)
    deltas = rng.normal(0, 0.3, (len(ANCHORS), 4)).astype(np.float32)
    return boxes, labels, logits, deltas


def decode(deltas):
    a, d = ANCHORS.astype(float), deltas.astype(float)
    side, centre = a[:, 2:] - a[:, :2], (a[:, 2:] + a[:, :2]) / 2
    middle, size = centre + d[:, :2] * side, side * np.exp(np.clip(d[:, 2:], -4, 4))
    return np.concatenate([middle - size / 2, middle + size / 2], 1).astype(np.float32)


def inside(box):
    centre = (ANCHORS[:, :2] + ANCHORS[:, 2:]) / 2
    return ((centre >= box[:2]) & (centre < box[2:])).all(1)


def conflicts(claims, iou, n):
    """{object: [anchors]} → object of each anchor: the highest IoU, then the first."""
    owner = np.full(len(ANCHORS), -1)
    for m in range(n):
        for a in claims[m]:
            if owner[a] < 0 or iou[m, a] > iou[owner[a], a]:
                owner[a] = m
    return owner


def tal_twin(boxes, labels, logits, deltas, topk=13, alpha=0.5, beta=6):
    predicted = decode(deltas)
    iou = iou_matrix(boxes, predicted).astype(float)
    side = (ANCHORS[:, 2:] - ANCHORS[:, :2]).astype(float)
    metric, claims = np.zeros_like(iou), []
    for m, box in enumerate(boxes):
        ratio = side / (box[2:] - box[:2])
        good = inside(box) & (np.maximum(ratio, 1 / ratio) <= 3).all(1)
        score = 1 / (1 + np.exp(-logits[:, labels[m]].astype(float)))
        metric[m] = np.where(good, score**alpha * iou[m] ** beta, 0)
        order = np.argsort(-metric[m], kind="stable")[:topk]
        claims.append([a for a in order if metric[m, a] > 0])
    owner = conflicts(claims, iou, len(boxes))
    target = np.zeros(len(ANCHORS))
    for m in range(len(boxes)):
        kept = np.flatnonzero(owner == m)
        if len(kept):
            target[kept] = metric[m, kept] / metric[m, kept].max() * iou[m, kept].max()
    return owner, target


def atss_twin(boxes, k=27):
    iou, claims = iou_matrix(boxes, ANCHORS).astype(float), []
    centre = ((ANCHORS[:, :2] + ANCHORS[:, 2:]) / 2).astype(np.float32)
    for m, box in enumerate(boxes):
        middle = (box[:2] + box[2:]) * np.float32(0.5)
        distance = ((centre - middle) ** 2).sum(1)
        near = np.concatenate(
            [f + np.argsort(distance[f:e], kind="stable")[:k] for f, e in pairwise(LEVELS)]
        )
        threshold = iou[m, near].mean() + iou[m, near].std(ddof=1)
        claims.append([a for a in near if iou[m, a] >= threshold and inside(box)[a]])
    return conflicts(claims, iou, len(boxes))


def settled(owner, n):
    """Objects that the twins' rules gave an anchor; the others are the rescue's."""
    return np.isin(np.arange(n), owner)


@pytest.mark.parametrize("seed", range(25))
def test_task_aligned_equals_its_twin(seed):
    boxes, labels, logits, deltas = scene(seed)
    owner, target = tal_twin(boxes, labels, logits, deltas)
    got = assign(
        ANCHORS, boxes, labels, logits=logits, deltas=deltas, levels=LEVELS, assigner="tal"
    )
    sure = settled(owner, len(boxes))
    rescued = np.isin(got.object, np.flatnonzero(~sure)) & (got.object >= 0)
    np.testing.assert_array_equal(got.object[~rescued], owner[~rescued])
    untouched = ~np.isin(owner, owner[rescued][owner[rescued] >= 0]) & ~rescued
    np.testing.assert_allclose(got.target[untouched], target[untouched], rtol=2e-5, atol=1e-7)
    assert rescued.sum() == (~sure).sum() and (got.target[rescued] >= np.float32(0.1)).all()
    positive = got.object >= 0
    np.testing.assert_array_equal(got.boxes[positive], boxes[got.object[positive]])


@pytest.mark.parametrize("seed", range(25))
def test_atss_equals_its_twin(seed):
    boxes, labels, _, deltas = scene(seed)
    owner = atss_twin(boxes)
    got = assign(ANCHORS, boxes, labels, deltas=deltas, levels=LEVELS, assigner="atss")
    rescued = np.isin(got.object, np.flatnonzero(~settled(owner, len(boxes)))) & (got.object >= 0)
    np.testing.assert_array_equal(got.object[~rescued], owner[~rescued])
    np.testing.assert_array_equal(got.target, got.object >= 0)
    positive = np.flatnonzero(got.object >= 0)
    want = iou_matrix(boxes, decode(deltas))[got.object[positive], positive]
    np.testing.assert_allclose(got.iou[positive], want, atol=2e-5)


@pytest.mark.parametrize("seed", range(25))
def test_max_iou_equals_its_twin(seed):
    boxes, labels, *_ = scene(seed)
    iou = iou_matrix(boxes, ANCHORS)
    best, where = iou.max(0), iou.argmax(0)
    want = np.where(best >= 0.5, where, np.where(best >= np.float32(0.4), -2, -1))
    got = assign(ANCHORS, boxes, labels, assigner="max_iou")
    rescued = got.object != want
    lonely = np.flatnonzero(~settled(want, len(boxes)))
    assert sorted(got.object[rescued]) == lonely.tolist()
    for m in lonely:
        a = int(np.flatnonzero(got.object == m)[0])
        taken = np.bincount(want[want >= 0], minlength=len(boxes))
        free = (want < 0) | (taken[np.maximum(want, 0)] > 1)
        free &= ~np.isin(got.object, lonely[lonely < m])  # gone to an earlier one
        assert iou[m, a] == pytest.approx(iou[m, free].max(), abs=1e-6)


@settings(max_examples=120, deadline=None)
@given(
    st.integers(0, 2**31), st.integers(0, 12), st.sampled_from(["tal", "atss", "max_iou"]),
    st.booleans(),
)  # fmt: skip
def test_what_holds_for_any_scene(seed, n, assigner, broken):
    boxes, labels, logits, deltas = scene(seed, n)
    ignore = np.random.default_rng(seed).random(n) < 0.2
    if broken and n:
        boxes[0, 2] = boxes[0, 0]
        deltas[::5] = np.nan
        logits[::7] = np.inf
    got = assign(
        ANCHORS, boxes, labels, ignore, logits=logits, deltas=deltas, levels=LEVELS,
        assigner=assigner,
    )  # fmt: skip
    real = ~ignore & (boxes[:, 2:] > boxes[:, :2]).all(1)
    counts = np.bincount(got.object[got.object >= 0], minlength=n)
    np.testing.assert_array_equal(counts > 0, real)
    assert ((got.object >= 0) == (got.target > 0)).all()
    assert (got.target <= 1).all() and (got.iou >= 0).all() and (got.iou <= 1 + 1e-6).all()
    assert not got.boxes[got.object < 0].any()


def test_ignored_anchors_lie_mostly_in_an_ignore_box():
    boxes, labels = np.array([[20, 20, 100, 90], [0, 0, 30, 30]], np.float32), np.array([0, 0])
    got = assign(ANCHORS, boxes, labels, [True, False], levels=LEVELS)
    corner = np.minimum(ANCHORS[:, 2:], boxes[0, 2:]) - np.maximum(ANCHORS[:, :2], boxes[0, :2])
    share = np.maximum(corner, 0).prod(1) / (ANCHORS[:, 2:] - ANCHORS[:, :2]).prod(1)
    expected = (share > 0.5) & (got.object < 0)
    np.testing.assert_array_equal(got.object == -2, expected)
    assert expected.any() and set(got.object.tolist()) == {-2, -1, 1}


def test_a_tiny_object_gets_its_nearest_anchor_and_identical_ones_share():
    boxes = np.array([[63, 63, 65, 65], [10, 10, 50, 50], [10, 10, 50, 50]], np.float32)
    got = assign(ANCHORS, boxes, [0, 0, 0], levels=LEVELS)
    counts = np.bincount(got.object[got.object >= 0], minlength=3)
    assert counts[0] == 1 and counts[1] >= 1 and counts[2] == 1
    a = int(np.flatnonzero(got.object == 0)[0])
    assert (
        iou_matrix(boxes[:1], ANCHORS)[0].max() == iou_matrix(boxes[:1], ANCHORS[a : a + 1])[0, 0]
    )


def test_more_objects_than_anchors_leave_the_last_ones_out():
    few = np.array([[0, 0, 8, 8], [8, 0, 16, 8]], np.float32)
    got = assign(few, [[0, 0, 7, 7], [9, 0, 15, 8], [1, 1, 6, 6]], [0, 0, 0])
    assert got.object.tolist() == [0, 1]
    assert assign(np.zeros((0, 4)), [[0, 0, 7, 7]], [0]).object.shape == (0,)


def test_training_and_its_parts_start_from_one_assigner():
    from inspect import signature

    from deepseek_det import losses
    from deepseek_det.train import Settings

    starts = [f.__kwdefaults__["assigner"] for f in (assign, losses.detection_loss)]
    starts += [signature(f).parameters["assigner"].default for f in (Settings, dd.Detector.train)]
    assert set(starts) == {"atss"}
    boxes, labels, logits, deltas = scene(0)
    given = {"logits": logits, "deltas": deltas, "levels": LEVELS}
    got, want = (assign(ANCHORS, boxes, labels, **given, **o) for o in ({}, {"assigner": "atss"}))
    assert all(np.array_equal(a, b) for a, b in zip(got, want, strict=True))


BAD_CASES = {
    "label": ({"labels": [9]}, "label"),
    "label negative": ({"labels": [-1]}, "label"),
    "labels": ({"labels": [0, 1]}, "labels"),
    "ignore": ({"ignore": [True, False]}, "ignore"),
    "assigner": ({"assigner": "simota"}, "assigner"),
    "topk": ({"topk": 1000}, "topk"),
    "alpha": ({"alpha": -1}, "alpha"),
    "beta nan": ({"beta": np.nan}, "beta"),
    "ratio": ({"max_ratio": 0.5}, "max_ratio"),
    "thresholds": ({"positive_iou": 0.3}, "positive_iou"),
    "share": ({"ignore_share": 2}, "ignore_share"),
    "levels": ({"levels": [0, 5]}, "levels"),
    "one level": ({"levels": [0]}, "levels"),
    "logits": ({"logits": np.zeros((3, 2))}, "logits"),
    "deltas": ({"deltas": np.zeros((3, 4))}, "deltas"),
    "anchor nan": ({"anchors": np.full((4, 4), np.nan)}, "anchor 0"),
    "boxes": ({"boxes": [[0, 0, 5]]}, "boxes"),
}


@pytest.mark.parametrize("case", BAD_CASES)
def test_bad_input_is_refused(case):
    changes, text = BAD_CASES[case]
    good = {
        "anchors": ANCHORS, "boxes": [[0, 0, 50, 50]], "labels": [0],
        "logits": np.zeros((len(ANCHORS), 2)), "deltas": np.zeros((len(ANCHORS), 4)),
    }  # fmt: skip
    if "anchors" in changes:
        good = {k: good[k] for k in ("anchors", "boxes", "labels")}
    with pytest.raises(ValueError, match=text):
        assign(**(good | changes))
