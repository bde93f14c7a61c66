"""The generator of the seed, the detector's levels, the density rule, recall."""

import doctest
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepseek_det import anchors, ops
from deepseek_det.anchors import (
    DynamicAnchorGenerator,
    anchor_strides,
    detector_anchors,
    letterboxed,
)


def grid_twin(h, w, stride, sizes, ratios):
    """Row, column, size, ratio; one anchor at a time."""
    out = []
    for row in range(h):
        for col in range(w):
            for size in sizes:
                for ratio in ratios:
                    aw, ah = size / ratio**0.5, size * ratio**0.5
                    cx, cy = (col + 0.5) * stride, (row + 0.5) * stride
                    out.append([cx - aw / 2, cy - ah / 2, cx + aw / 2, cy + ah / 2])
    return np.array(out, np.float32).reshape(-1, 4)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 5),
    st.integers(0, 5),
    st.lists(st.floats(1, 300), min_size=1, max_size=3),
    st.sampled_from([None, 4, 8.0, 13.5]),
)
def test_generator_equals_its_twin(h, w, sizes, stride):
    g = DynamicAnchorGenerator(base_sizes=sizes)
    got = g(np.zeros((2, 3, h, w)), stride=stride)
    step = g.stride(h, w) if stride is None else stride
    want = [grid_twin(h, w, step, [s / 2, s, s * 2], [1, 2, 0.5]) for s in sizes]
    assert got.shape == (1, h * w * 9 * len(sizes), 4) and got.dtype == np.float32
    np.testing.assert_allclose(got[0], np.concatenate(want), rtol=1e-6, atol=1e-5)


def test_generator_has_the_attributes_of_the_seed():
    g = DynamicAnchorGenerator()
    assert g.base_sizes == [32, 64, 128] and g.aspect_ratios == [[1, 2, 0.5]] * 3
    assert g(SimpleNamespace(shape=(1, 8, 4, 6))).shape == (1, 4 * 6 * 27, 4)
    tall = g(np.zeros((1, 1, 1, 1)), stride=8)[0, 1]  # ratio 2 is height / width
    assert (tall[3] - tall[1]) / (tall[2] - tall[0]) == pytest.approx(2, rel=1e-6)
    assert (tall[3] - tall[1]) * (tall[2] - tall[0]) == pytest.approx(16**2, rel=1e-6)


@pytest.mark.parametrize(("cells", "stride"), [(80, 4), (40, 8), (20, 16), (10, 32), (5000, 1)])
def test_stride_follows_the_maps_resolution(cells, stride):
    assert DynamicAnchorGenerator().stride(cells, cells // 2) == stride


def test_detector_levels_and_order():
    boxes, levels = detector_anchors((64, 96))
    want = [grid_twin(64 // s, 96 // s, s, [3 * s], [1, 2, 0.5]) for s in (8, 16, 32)]
    np.testing.assert_allclose(boxes, np.concatenate(want), rtol=1e-6)
    assert levels.tolist() == [0, 288, 360, 378]
    boxes, levels = detector_anchors(100, strides=(16,), ratios=(1,), scales=(1, 2))
    np.testing.assert_allclose(boxes, grid_twin(7, 7, 16, [48, 96], [1]), rtol=1e-6)


@given(st.integers(1, 5000))
def test_levels_reach_nine_tenths_of_any_image_and_no_more_than_needed(size):
    strides = anchor_strides(size)
    assert 9 * strides[-1] >= 0.9 * size - 1e-9
    assert len(strides) == 1 or 9 * strides[-2] < 0.9 * size
    assert strides[0] == 8 and all(b == 2 * a for a, b in pairwise(strides))
    assert anchor_strides(320) == anchors.STRIDES


def test_letterboxed_like_the_letterbox_of_images():
    assert letterboxed([[0, 0, 100, 333]], 333, 100, 320).tolist() == [
        pytest.approx([112, 0, 112 + 100 * 320 / 333, 320])
    ]
    assert letterboxed([], 10, 10, 32).shape == (0, 4)


def test_recall_by_size():
    a, _ = detector_anchors(320)
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 200, (400, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(4, 120, (400, 2))], 1).astype(np.float32)
    hit = ops.box_iou(boxes, a).max(1) >= 0.5
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1) * 4
    got = ops.best_possible_recall(boxes, 320, areas=area)
    assert got["all"] == hit.mean() and got == ops.best_possible_recall(boxes, a, 0.5, area)
    assert got["small"] == hit[area < 1024].mean()
    assert got["medium"] == hit[(area >= 1024) & (area < 9216)].mean()
    assert got["large"] == hit[area >= 9216].mean()
    assert ops.best_possible_recall([], (320, 256)) == dict.fromkeys(got)
    assert ops.best_possible_recall(a[:7], 320, 1.0)["all"] == 1


BAD_CASES = {
    "no sizes": lambda: DynamicAnchorGenerator([]),
    "size 0": lambda: DynamicAnchorGenerator([32, 0]),
    "size nan": lambda: DynamicAnchorGenerator([np.nan]),
    "rank": lambda: DynamicAnchorGenerator()(np.zeros((4, 4))),
    "stride 0": lambda: DynamicAnchorGenerator()(np.zeros((1, 1, 4, 4)), stride=0),
    "stride nan": lambda: DynamicAnchorGenerator()(np.zeros((1, 1, 4, 4)), stride=np.nan),
    "too many": lambda: DynamicAnchorGenerator()(SimpleNamespace(shape=(1, 1, 2**20, 2**20))),
    "imgsz 0": lambda: detector_anchors(0),
    "imgsz negative": lambda: detector_anchors((-32, 32)),
    "imgsz fraction": lambda: detector_anchors((32.5, 32)),
    "imgsz three": lambda: detector_anchors((32, 32, 32)),
    "no strides": lambda: detector_anchors(64, strides=()),
    "strides 0": lambda: detector_anchors(64, strides=(8, 0)),
    "ratio 0": lambda: detector_anchors(64, ratios=(1, 0)),
    "scale negative": lambda: detector_anchors(64, scales=(-1,)),
    "finest": lambda: anchor_strides(320, 0),
    "letterbox": lambda: letterboxed([[0, 0, 1, 1]], 0, 5, 32),
}


@pytest.mark.parametrize("case", BAD_CASES)
def test_bad_input_is_refused(case):
    with pytest.raises(ValueError, match=r"needed|possible"):
        BAD_CASES[case]()


def test_docstrings_run():
    assert doctest.testmod(anchors).failed == 0
