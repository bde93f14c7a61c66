"""NMS, soft-NMS and the way from raw outputs to detections, against NumPy twins and torchvision."""

import doctest
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepseek_det import _core, ops
from deepseek_det.anchors import detector_anchors, letterboxed

GOLDEN = Path(__file__).parent / "golden" / "losses.npz"


def iou_matrix(a, b):
    """float32 in torchvision's order of operations; boxes without area meet nothing."""
    a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
    side = lambda v: np.maximum(v[:, 2:] - v[:, :2], 0).prod(1)  # noqa: E731
    corner = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])
    inter = np.maximum(corner, np.float32(0)).prod(2)
    union = side(a)[:, None] + side(b)[None] - inter
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(inter > 0, inter / union, np.float32(0))


def nms_twin(boxes, scores, threshold, classes=None, max_det=None):
    boxes, scores = np.asarray(boxes, np.float32).reshape(-1, 4), np.asarray(scores, np.float32)
    iou = iou_matrix(boxes, boxes)
    order = np.argsort(-scores, kind="stable")
    kept = []
    for i in order:
        if np.isnan(scores[i]) or np.isnan(boxes[i]).any():
            continue
        rivals = [k for k in kept if classes is None or classes[k] == classes[i]]
        if not any(iou[k, i] > np.float32(threshold) for k in rivals):
            kept.append(int(i))
    return kept[:max_det]


def random_boxes(rng, n, size=80):
    corner = rng.uniform(0, 100, (n, 2))
    return np.concatenate([corner, corner + rng.uniform(1, size, (n, 2))], 1).astype(np.float32)


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.75])
def test_nms_equals_torchvision(threshold):
    with np.load(GOLDEN) as golden:
        boxes, scores, classes = (golden[f"nms_{k}"] for k in ("boxes", "scores", "classes"))
        want = golden[f"nms_{round(threshold * 100)}"]
        by_class = golden[f"nms_{round(threshold * 100)}_classes"]
    np.testing.assert_array_equal(ops.nms(boxes, scores, threshold), want)
    np.testing.assert_array_equal(ops.nms(boxes, scores, threshold, classes), by_class)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**31), st.integers(0, 60), st.floats(0, 1), st.booleans())
def test_nms_equals_its_twin(seed, n, threshold, by_class):
    rng = np.random.default_rng(seed)
    boxes = np.round(random_boxes(rng, n), rng.integers(0, 3))
    scores = rng.integers(-5, 5, n) / 5
    classes = rng.integers(0, 3, n) if by_class else None
    max_det = int(rng.integers(0, 70))
    got = ops.nms(boxes, scores, threshold, classes, max_det)
    assert got.tolist() == nms_twin(boxes, scores, threshold, classes, max_det)


NMS_CASES = {
    "empty": (np.zeros((0, 4)), [], 0.5, None, []),
    "empty list": ([], [], 0.5, [], []),
    "identical": ([[0, 0, 9, 9]] * 3, [0.5, 0.5, 0.5], 0.5, None, [0]),
    "identical at 1": ([[0, 0, 9, 9]] * 2, [0.5, 0.6], 1.0, None, [1, 0]),
    "iou at the threshold stays": ([[0, 0, 2, 2], [0, 0, 2, 1]], [0.9, 0.8], 0.5, None, [0, 1]),
    "no area": ([[1, 1, 1, 5], [1, 1, 1, 5], [0, 0, 9, 9]], [0.9, 0.8, 0.7], 0, None, [0, 1, 2]),
    "reversed": ([[9, 9, 0, 0], [0, 0, 9, 9]], [0.9, 0.8], 0.1, None, [0, 1]),
    "nan score": ([[0, 0, 9, 9], [0, 0, 9, 9]], [np.nan, 0.1], 0.5, None, [1]),
    "nan box": ([[0, np.nan, 9, 9], [0, 0, 9, 9]], [0.9, 0.1], 0.5, None, [1]),
    "infinite score": ([[0, 0, 9, 9], [0, 0, 9, 9]], [0.1, np.inf], 0.5, None, [1]),
    "negative zero": ([[0, 0, 9, 9], [20, 0, 29, 9]], [-0.0, 0.0], 0.5, None, [0, 1]),
    "classes far apart": ([[0, 0, 9, 9]] * 3, [0.1, 0.2, 0.3], 0.5, [2**40, -1, 2**40], [2, 1]),
    "classes as floats": ([[0, 0, 9, 9]] * 2, [0.1, 0.2], 0.5, [1.0, 1.0], [1]),
}


@pytest.mark.parametrize("case", NMS_CASES)
def test_nms_at_the_edges(case):
    boxes, scores, threshold, classes, want = NMS_CASES[case]
    assert ops.nms(boxes, scores, threshold, classes).tolist() == want


BOX = [[0, 0, 1, 1]]
BAD_CASES = {
    "threshold": (lambda: ops.nms(BOX, [1], 1.5), ValueError, "iou_threshold"),
    "threshold nan": (lambda: ops.nms(BOX, [1], np.nan), ValueError, "iou_threshold"),
    "threshold text": (lambda: ops.nms(BOX, [1], "0.5"), TypeError, "float|real"),
    "boxes width": (lambda: ops.nms([[0, 0, 1]], [1], 0.5), ValueError, "boxes"),
    "boxes rank": (lambda: ops.nms([0, 0, 1, 1], [1], 0.5), ValueError, "boxes"),
    "boxes text": (lambda: ops.nms([["a"] * 4], [1], 0.5), TypeError, "boxes"),
    "scores count": (lambda: ops.nms(BOX, [1, 2], 0.5), ValueError, "scores"),
    "classes count": (lambda: ops.nms(BOX, [1], 0.5, [1, 2]), ValueError, "classes"),
    "classes fraction": (lambda: ops.nms(BOX, [1], 0.5, [0.5]), ValueError, "whole"),
    "max_det": (lambda: ops.nms(BOX, [1], 0.5, None, -1), ValueError, "max_det"),
    "max_det type": (lambda: ops.nms(BOX, [1], 0.5, None, 2.5), TypeError, "max_det"),
    "soft method": (lambda: ops.soft_nms(BOX, [1], method="hard"), ValueError, "method"),
    "soft sigma": (lambda: ops.soft_nms(BOX, [1], sigma=0), ValueError, "sigma"),
    "recall threshold": (lambda: ops.best_possible_recall(BOX, BOX, 0), ValueError, "threshold"),
    "recall areas": (lambda: ops.best_possible_recall(BOX, BOX, areas=[1, 2]), ValueError, "areas"),
}


@pytest.mark.parametrize("case", BAD_CASES)
def test_bad_input_is_refused(case):
    call, kind, text = BAD_CASES[case]
    with pytest.raises(kind, match=text):
        call()


@pytest.mark.parametrize("method", ["gaussian", "linear"])
@pytest.mark.parametrize("by_class", [False, True])
def test_soft_nms_equals_its_twin(method, by_class):
    rng = np.random.default_rng(4)
    boxes, scores = random_boxes(rng, 70), rng.random(70).astype(np.float32)
    classes = rng.integers(0, 3, 70) if by_class else np.zeros(70, int)
    iou, left, want = iou_matrix(boxes, boxes).astype(float), scores.copy(), []
    while len(want) < 40:
        best = int(np.argmax(left))
        if left[best] < 0.05:
            break
        want.append((best, left[best]))
        overlap = iou[best] * (classes == classes[best])
        factor = np.exp(-(overlap**2) / 0.5)
        if method == "linear":
            factor = np.where(overlap > np.float32(0.3), 1 - overlap, 1)
        left = (left * factor).astype(np.float32)
        left[[k for k, _ in want]] = -1
    keep, lowered = ops.soft_nms(
        boxes, scores, 0.3, classes if by_class else None, 40, method=method, min_score=0.05
    )
    assert keep.tolist() == [k for k, _ in want]
    np.testing.assert_allclose(lowered, [s for _, s in want], rtol=1e-5)


# ---- raw outputs to detections ----


def detect_twin(logits, deltas, anchors, maps, conf, iou, max_det, agnostic, multi_label):
    """One image at a time with `nms_twin`."""
    for x, d, (scale, pad_x, pad_y, width, height) in zip(logits, deltas, maps, strict=True):
        x, d, a = x.astype(float), d.astype(float), anchors.astype(float)
        score = (1 / (1 + np.exp(-x))).astype(np.float32)
        if not multi_label:
            best = x.argmax(1)
            score = np.where(np.arange(x.shape[1]) == best[:, None], score, -1)
        at, cls = np.nonzero(score > np.float32(conf))
        side, centre = a[at, 2:] - a[at, :2], (a[at, 2:] + a[at, :2]) / 2
        middle, size = centre + d[at, :2] * side, side * np.exp(np.clip(d[at, 2:], -4, 4))
        boxes = np.concatenate([middle - size / 2, middle + size / 2], 1)
        pad, end = np.array([pad_x, pad_y] * 2), np.array([width, height] * 2)
        mapped = np.clip((boxes - pad) / scale, 0, end).astype(np.float32)
        alive = np.flatnonzero((mapped[:, 2:] > mapped[:, :2]).all(1))
        classes = None if agnostic else cls[alive]
        kept = nms_twin(boxes[alive], score[at, cls][alive], iou, classes, max_det)
        kept = alive[kept]
        yield mapped[kept], score[at, cls][kept], cls[kept], at[kept]


def outputs(nc=3, imgsz=64, n=3, seed=0):
    rng = np.random.default_rng(seed)
    anchors = detector_anchors(imgsz).boxes
    logits = rng.normal(-2, 1.5, (n, len(anchors), nc)).astype(np.float32)
    deltas = rng.normal(0, 0.3, (n, len(anchors), 4)).astype(np.float32)
    deltas[:, :5, 2:] = 9  # beyond the clamp
    maps = np.array([[0.5, 0, 8, 128, 96], [1, 0, 0, 64, 64], [2, 16, 0, 16, 32]], np.float32)
    return logits, deltas, anchors, maps[:n]


@pytest.mark.parametrize("agnostic", [False, True])
@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize(("conf", "iou", "max_det"), [(0.1, 0.5, 300), (0.3, 0.7, 7), (0, 0.6, 50)])
def test_detect_equals_its_twin(agnostic, multi_label, conf, iou, max_det):
    logits, deltas, anchors, maps = outputs()
    got = ops.detect(
        logits, deltas, anchors, maps, conf=conf, iou=iou, max_det=max_det,
        agnostic=agnostic, multi_label=multi_label,
    )  # fmt: skip
    want = detect_twin(logits, deltas, anchors, maps, conf, iou, max_det, agnostic, multi_label)
    for i, (boxes, scores, classes, places) in enumerate(want):
        n = got.counts[i]
        assert n == len(boxes)
        np.testing.assert_allclose(got.boxes[i, :n], boxes, rtol=1e-5, atol=1e-4)
        np.testing.assert_array_equal(got.scores[i, :n], scores)
        np.testing.assert_array_equal(got.classes[i, :n], classes)
        np.testing.assert_array_equal(got.anchors[i, :n], places)
        assert not got.boxes[i, n:].any() and not got.scores[i, n:].any()


@pytest.mark.parametrize("pre_nms", [1, 10, 50, 300])
def test_detect_takes_the_best_candidates_only(pre_nms):
    logits, deltas, anchors, maps = outputs(nc=5)
    maps[:] = [1, -500, -500, 1000, 1000]  # nothing is clipped
    logits = np.round(logits, 1)  # many equal scores: the lower (anchor, class) is the better
    got = ops.detect(logits, deltas, anchors, maps, conf=0.05, iou=1.0, pre_nms=pre_nms)
    for i, x in enumerate(logits):
        order = np.argsort(-x.reshape(-1), kind="stable")[:pre_nms]
        n = got.counts[i]
        flat = got.anchors[i, :n] * 5 + got.classes[i, :n]
        np.testing.assert_array_equal(flat, order[: min(n, 300)])
        assert n == pre_nms


def test_detect_leaves_out_what_is_not_finite():
    logits, deltas, anchors, maps = outputs(n=2)
    logits[0, 3, 1] = np.nan
    logits[0, 9, 0] = np.inf
    deltas[1, 7] = np.nan
    deltas[1, 8, 0] = np.inf
    got = ops.detect(logits, deltas, anchors, maps, conf=0, iou=1, max_det=9000, pre_nms=9000)
    assert np.isfinite(got.boxes).all() and np.isfinite(got.scores).all()
    n = got.counts
    assert got.scores[0, 0] == 1 and got.anchors[0, 0] == 9
    assert (3, 1) not in zip(got.anchors[0, : n[0]], got.classes[0, : n[0]], strict=True)
    assert not {7, 8} & set(got.anchors[1, : n[1]].tolist())


def test_detect_is_the_same_with_any_number_of_threads():
    before, results = _core.get_num_threads(), []
    try:
        for threads in (1, 3):
            _core.set_num_threads(threads)
            results.append(ops.detect(*outputs(nc=7), conf=0.01))
    finally:
        _core.set_num_threads(before)
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)


BAD_DETECT = {
    "conf": ({"conf": 1.5}, "conf"),
    "conf nan": ({"conf": np.nan}, "conf"),
    "iou": ({"iou": -0.1}, "iou"),
    "max_det": ({"max_det": 0}, "max_det"),
    "max_det huge": ({"max_det": 2**30}, "max_det"),
    "pre_nms": ({"pre_nms": 0}, "pre_nms"),
    "scale": ({"maps": np.zeros((3, 5), np.float32)}, "scale"),
    "maps count": ({"maps": np.ones((2, 5), np.float32)}, "maps"),
    "deltas": ({"deltas": np.zeros((3, 4, 4), np.float32)}, "deltas"),
    "anchors": ({"anchors": np.ones((2, 4), np.float32)}, "anchors"),
}


@pytest.mark.parametrize("case", BAD_DETECT)
def test_detect_refuses_bad_input(case):
    changes, text = BAD_DETECT[case]
    arguments = dict(zip(("logits", "deltas", "anchors", "maps"), outputs(), strict=True))
    with pytest.raises(ValueError, match=text):
        ops.detect(**(arguments | changes))


def test_detect_undoes_the_letterbox():
    anchors = detector_anchors(320).boxes
    want = np.array([[100, 50, 200, 150]], np.float32)
    inside = letterboxed(want, 480, 640, 320)[0]
    assert inside.tolist() == [50, 65, 100, 115]
    at = int(np.argmax(iou_matrix(anchors, inside[None])[:, 0]))
    side = anchors[at, 2:] - anchors[at, :2]
    centre = (anchors[at, 2:] + anchors[at, :2]) / 2
    deltas = np.zeros((1, len(anchors), 4), np.float32)
    deltas[0, at, :2] = ((inside[:2] + inside[2:]) / 2 - centre) / side
    deltas[0, at, 2:] = np.log((inside[2:] - inside[:2]) / side)
    logits = np.full((1, len(anchors), 2), -9, np.float32)
    logits[0, at, 1] = 3
    got = ops.detect(logits, deltas, anchors, [[0.5, 0, 40, 640, 480]])
    assert got.counts[0] == 1 and got.classes[0, 0] == 1
    np.testing.assert_allclose(got.boxes[0, 0], want[0], atol=1e-3)


def test_docstrings_run():
    assert doctest.testmod(ops).failed == 0
