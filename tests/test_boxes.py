"""IoU and GIoU matrices against NumPy in double."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepseek_det import _core, ops

TINY = float(np.finfo(np.float32).tiny)  # the core's threads take smaller numbers for 0


def iou_twin(a, b):
    a, b = (np.asarray(v, np.float32).astype(float).reshape(-1, 4) for v in (a, b))
    out = np.zeros((len(a), len(b)))
    for i, p in enumerate(a):
        for j, q in enumerate(b):
            w = max(0, min(p[2], q[2]) - max(p[0], q[0]))
            h = max(0, min(p[3], q[3]) - max(p[1], q[1]))
            sides = [(max(0, v[2] - v[0]), max(0, v[3] - v[1])) for v in (p, q)]
            union = sum(x * y for x, y in sides) - w * h
            tiny = min(w, h, w * h, *(min(x, y, x * y) for x, y in sides)) < TINY
            out[i, j] = 0 if tiny else w * h / union
    return out


coordinates = st.lists(st.floats(-500, 500, width=32), min_size=4, max_size=4)


@settings(max_examples=150, deadline=None)
@given(st.lists(coordinates, max_size=6), st.lists(coordinates, max_size=6))
def test_box_iou_equals_its_twin(a, b):
    a, b = (np.array(v, np.float32).reshape(-1, 4) for v in (a, b))
    got = ops.box_iou(a, b)
    assert got.shape == (len(a), len(b)) and got.dtype == np.float32
    # a sliver's sides are differences of float32 numbers: their product has a rounding more
    np.testing.assert_allclose(got, iou_twin(a, b), rtol=1e-4, atol=1e-6)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**31))
def test_iou_and_giou_are_symmetric_and_bounded(seed):
    rng = np.random.default_rng(seed)
    corner = rng.uniform(-50, 50, (12, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(0.5, 40, (12, 2))], 1)
    iou, giou = ops.box_iou(boxes, boxes), ops.giou(boxes, boxes)
    np.testing.assert_array_equal(iou, iou.T)
    np.testing.assert_allclose(giou, giou.T, atol=1e-12)
    np.testing.assert_array_equal(np.diag(iou), 1)
    np.testing.assert_allclose(np.diag(giou), 1, atol=1e-12)
    assert (giou > -1).all() and (giou <= iou + 1e-6).all()


@pytest.mark.parametrize(
    ("a", "b", "iou", "giou"),
    [
        ([0, 0, 2, 2], [1, 0, 3, 2], 1 / 3, 1 / 3),
        ([0, 0, 2, 2], [2, 0, 4, 2], 0, 0),  # half-open: they touch and share nothing
        ([0, 0, 4, 4], [1, 1, 2, 2], 1 / 16, 1 / 16),
        ([0, 0, 1, 1], [3, 0, 4, 1], 0, -0.5),
        ([0, 0, 0, 4], [0, 0, 4, 4], 0, 0),  # no area
    ],
)
def test_known_pairs(a, b, iou, giou):
    assert ops.box_iou([a], [b])[0, 0] == pytest.approx(iou, abs=1e-7)
    assert ops.giou([a], [b])[0, 0] == pytest.approx(giou, abs=1e-12)


def test_empty_sides_and_nan():
    assert ops.box_iou([], np.zeros((3, 4))).shape == (0, 3)
    assert ops.giou(np.zeros((2, 4)), []).shape == (2, 0)
    assert ops.box_iou([[np.nan, 0, 5, 5]], [[0, 0, 5, 5]])[0, 0] == 0


def test_best_takes_the_first_of_equals():
    iou, index = _core.box_best(
        np.array([[0, 0, 2, 2], [90, 90, 91, 91]], np.float32),
        np.array([[1, 0, 3, 2], [0, 0, 2, 2], [0, 0, 2, 2]], np.float32),
    )
    assert iou.tolist() == [1, 0] and index.tolist() == [1, -1]


@pytest.mark.parametrize("bad", [[[1, 2, 3]], [1, 2, 3, 4], np.zeros((2, 2, 4))])
def test_other_shapes_are_refused(bad):
    for function in (ops.box_iou, ops.giou):
        with pytest.raises(ValueError, match="b: an array of shape"):
            function([[0, 0, 1, 1]], bad)


def test_what_is_not_numbers_is_refused():
    with pytest.raises(TypeError, match="real numbers"):
        ops.box_iou([[0, 0, 1, 1j]], [[0, 0, 1, 1]])
