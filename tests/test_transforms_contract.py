"""What every transform promises: what it returns, what it keeps, what nothing to do does."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepseek_det.data import transforms as tf

SETTINGS = settings(max_examples=60, deadline=None)
SIDE = 64
corner = st.floats(-20, 84, width=32)
boxes_of_any_kind = st.lists(st.tuples(corner, corner, corner, corner), max_size=6)


def noise(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), np.uint8)


def mosaic(image: Any, boxes: Any, labels: Any) -> tf.Transformed:
    return tf.mosaic([(image, boxes, labels)] * 4, centre=(0.4, 0.55), imgsz=SIDE)


def cutmix(image: Any, boxes: Any, labels: Any) -> tf.Transformed:
    sample = (image, boxes, labels)
    return tf.cutmix(sample, sample, rect=(0.3, 0.2, 0.9, 0.7), imgsz=SIDE)


def turned(image: Any, boxes: Any, labels: Any) -> tf.Transformed:
    options: Any = {"scale": 1.1, "degrees": 20, "shift": (0.2, -0.1), "flip_lr": True, "hue": 9}
    return tf.affine(image, boxes, labels, imgsz=SIDE, **options)


# How often each box comes out again, kept or dropped.
TRANSFORMS: dict[str, tuple[Callable[..., tf.Transformed], int]] = {
    "hsv": (lambda *s: tf.hsv(*s, hue=30, saturation=-9, value=5), 1),
    "flip": (lambda *s: tf.flip(*s, lr=True, ud=True), 1),
    "affine": (turned, 1),
    "cutmix": (cutmix, 2),
    "mosaic": (mosaic, 4),
}


@SETTINGS
@given(st.sampled_from(sorted(TRANSFORMS)), boxes_of_any_kind)
def test_transform_accounts_for_every_box(name: str, given_boxes: list[Any]) -> None:
    transform, times = TRANSFORMS[name]
    image, labels = noise(), np.arange(len(given_boxes)) + 7
    before, boxes = image.copy(), np.asarray(given_boxes, np.float32).reshape(-1, 4)
    out = transform(image, boxes.copy(), labels)
    assert np.array_equal(image, before)
    assert out.image.dtype == np.uint8 and out.image.shape == (SIDE, SIDE, 3)
    assert out.keep.dtype == np.bool_ and len(out.keep) == len(out.reasons) == times * len(boxes)
    assert out.boxes.dtype == np.float32 and out.boxes.shape == (int(out.keep.sum()), 4)
    assert out.labels.tolist() == np.tile(labels, times)[out.keep].tolist()
    assert all(r in tf.REASONS for r in out.reasons)
    assert [r == "" for r in out.reasons] == out.keep.tolist()
    if name not in ("hsv", "flip"):
        assert (out.boxes[:, 2:] > out.boxes[:, :2]).all()
        assert (out.boxes >= 0).all() and (out.boxes <= SIDE).all()


@SETTINGS
@given(boxes_of_any_kind)
def test_nothing_to_do_changes_nothing(given_boxes: list[Any]) -> None:
    image = noise(1)
    ordered = [(min(a, c), min(b, d), max(a, c), max(b, d)) for a, b, c, d in given_boxes]
    boxes = np.clip(np.asarray(ordered, np.float32).reshape(-1, 4), 0, SIDE)
    boxes = boxes[(boxes[:, 2:] - boxes[:, :2] >= 1).all(1)]  # a mix drops what is smaller
    labels = np.arange(len(boxes))
    nothing = {
        "hsv": tf.hsv(image, boxes, labels),
        "flip": tf.flip(image, boxes, labels, lr=False),
        "affine": tf.affine(image, boxes, labels, imgsz=SIDE),
        "drawn": tf.mix_pieces(
            tf.draw_pieces(tf.Augment.off(), 5, 0, 3, 9)[1], [(image, boxes, labels)], SIDE, 0, 0
        ),
        "empty patch": tf.cutmix(
            (image, boxes, labels), (noise(2), [], []), rect=(0.5, 0.5, 0.5, 0.5), imgsz=SIDE
        ),
    }
    for name, out in nothing.items():
        assert np.array_equal(out.image, image), name
        assert np.array_equal(out.boxes, boxes), name
        assert out.labels.tolist() == labels.tolist() and out.keep.all(), name


@SETTINGS
@given(
    st.floats(-180, 180),
    st.floats(0.6, 1.3),
    st.tuples(st.floats(6, 20), st.floats(6, 20), st.floats(-4, 4), st.floats(-4, 4)),
)
def test_rotation_inflates_by_the_documented_rule(
    degrees: float, scale: float, shape: tuple[float, float, float, float]
) -> None:
    """The box of the turned inscribed ellipse: never longer than the box's longer side was."""
    w, h, dx, dy = shape
    middle = SIDE / 2
    cx, cy = middle + dx, middle + dy
    box = [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]
    out = tf.affine(noise(), [box], [0], imgsz=SIDE, degrees=degrees, scale=scale)
    cos, sin = math.cos(math.radians(degrees)) * scale, math.sin(math.radians(degrees)) * scale
    half = math.hypot(cos * w / 2, sin * h / 2), math.hypot(sin * w / 2, cos * h / 2)
    at = middle + cos * dx - sin * dy, middle + sin * dx + cos * dy
    want = [at[0] - half[0], at[1] - half[1], at[0] + half[0], at[1] + half[1]]
    assert out.boxes[0].tolist() == pytest.approx(want, abs=1e-3)
    longest = max(w, h) * scale + 1e-3
    assert (out.boxes[0, 2:] - out.boxes[0, :2] <= longest).all()


@SETTINGS
@given(st.integers(0, 2**32), st.integers(3, 9))
def test_objects_stay_within_their_boxes_whatever_is_drawn(seed: int, sides: int) -> None:
    """Regular polygons, which lie within the ellipse of their box, through drawn recipes."""
    rng = np.random.default_rng(seed)
    cx, cy = rng.uniform(24, 40, 2)
    radius = rng.uniform(8, 20)
    y, x = np.mgrid[:SIDE, :SIDE] + 0.5
    turn = rng.uniform(0, 2 * np.pi)
    mask = np.ones((SIDE, SIDE), bool)
    for k in range(sides):
        angle = turn + 2 * np.pi * k / sides
        reach = radius * math.cos(math.pi / sides)
        mask &= (x - cx) * math.cos(angle) + (y - cy) * math.sin(angle) <= reach
    image = np.repeat((mask * 255).astype(np.uint8)[:, :, None], 3, 2)
    box = [cx - radius, cy - radius, cx + radius, cy + radius]
    augment = tf.Augment(hue=0, saturation=0, value=0, mix=0, degrees=180, shift=0.2)
    for position in range(4):
        _, pieces = tf.draw_pieces(augment, seed, 0, position, 1)
        out = tf.mix_pieces(pieces, [(image, [box], [0])], SIDE)
        seen = out.image[:, :, 0] > 150
        if not out.keep[0] or not seen.any():
            continue
        rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
        x0, y0, x1, y1 = out.boxes[0]
        assert columns[0] >= x0 - 1.5 and columns[-1] + 1 <= x1 + 1.5
        assert rows[0] >= y0 - 1.5 and rows[-1] + 1 <= y1 + 1.5
