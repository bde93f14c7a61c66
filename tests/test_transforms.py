"""Letterbox, colours, warps, CutMix and Mosaic against references that share no code with them."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from deepseek_det import _core
from deepseek_det.data import transforms as tf

SETTINGS = settings(max_examples=60, deadline=None)


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


# ---- letterbox


@pytest.mark.parametrize(
    "width, height, imgsz",
    [(640, 480, 320), (600, 400, 480), (100, 300, 96), (33, 77, 224), (1280, 32, 64), (50, 50, 32)],
)
def test_letterbox_random_image_equals_pillow(width: int, height: int, imgsz: int) -> None:
    image = noise(height, width)
    boxed, scale, (left, top) = tf.letterbox(image, imgsz)
    assert scale == imgsz / max(width, height)
    w, h = max(1, int(width * scale + 0.5)), max(1, int(height * scale + 0.5))
    assert (left, top) == ((imgsz - w) // 2, (imgsz - h) // 2)
    # Pillow maps a source box onto the target: the box that makes its scale exactly ours, where
    # rounding made the target larger than the source its last pixel is left out
    inner_w = w if w / scale <= width else w - 1
    inner_h = h if h / scale <= height else h - 1
    box = (0, 0, inner_w / scale, inner_h / scale)
    pillow = Image.fromarray(image).resize((inner_w, inner_h), Image.Resampling.BILINEAR, box)
    content = boxed[top : top + inner_h, left : left + inner_w].astype(int)
    # Pillow's filter looks beyond its box only up to the box's edge: compare off the cut edges
    away = np.abs(content - np.asarray(pillow, int))
    assert away[: inner_h - 2 or None, : inner_w - 2 or None].max(initial=0) <= 1
    border = np.ones((imgsz, imgsz), bool)
    border[top : top + h, left : left + w] = False
    assert (boxed[border] == 114).all()


def test_letterbox_same_size_keeps_bytes() -> None:
    image = noise(64, 64)
    assert np.array_equal(tf.letterbox(image, 64).image, image)


def test_letterbox_after_scaled_decode_keeps_the_originals_geometry() -> None:
    half = noise(120, 161)
    boxed, scale, pad = tf.letterbox(half, 160, size=(321, 240))
    assert scale == 160 / 321 and pad == (0, 20)
    assert boxed.shape == (160, 160, 3)
    with pytest.raises(ValueError, match="161x120 px came, size 400x240"):
        tf.letterbox(half, 160, size=(400, 240))


@pytest.mark.parametrize(
    "imgsz, error, words",
    [
        (0, ValueError, "the next is 32"),
        (33, ValueError, "imgsz is 33, .* the next is 64"),
        (-32, ValueError, "the next is 32"),
        (100_000, ValueError, "at most 8192"),
        (320.0, TypeError, "an integer"),
        ("320", TypeError, "an integer"),
        (True, TypeError, "an integer"),
    ],
)
def test_letterbox_bad_imgsz_is_an_error(imgsz: object, error: type, words: str) -> None:
    with pytest.raises(error, match=words):
        tf.letterbox(noise(10, 10), imgsz)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
        "image.jpg",
    ],
)
def test_letterbox_bad_image_is_an_error(image: object) -> None:
    with pytest.raises(ValueError, match=r"uint8 \(H, W, 3\) was needed"):
        tf.letterbox(image, 64)  # type: ignore[arg-type]


def test_letterbox_view_with_strides_is_taken() -> None:
    image = noise(64, 128)
    assert np.array_equal(tf.letterbox(image[:, ::2], 64).image, image[:, ::2])


# ---- colours


def hsv_reference(rgb: np.ndarray, hue: float, saturation: float, value: float) -> np.ndarray:
    h, s, v = colorsys.rgb_to_hsv(*(rgb / 255.0))
    s = min(max(s + saturation / 255, 0), 1, 2 * s)
    v = min(max(v + value / 255, 0), 1)
    return np.array(colorsys.hsv_to_rgb((h + hue / 180) % 1, s, v)) * 255


@SETTINGS
@given(
    st.tuples(*[st.integers(0, 255)] * 3),
    st.floats(-15, 15),
    st.floats(-30, 30),
    st.integers(-20, 20),
)
def test_hsv_any_colour_is_within_one_of_colorsys(
    rgb: tuple[int, int, int], hue: float, saturation: float, value: int
) -> None:
    image = np.array([[rgb]], np.uint8)
    got = tf.hsv(image, hue=hue, saturation=saturation, value=value).image[0, 0]
    want = np.round(hsv_reference(np.array(rgb), hue, saturation, value))
    assert np.abs(got - want).max() <= 1
    if len(set(rgb)) == 1:
        assert len(set(got.tolist())) == 1


def test_hsv_no_shift_keeps_bytes_and_input() -> None:
    image = noise(20, 20)
    out = tf.hsv(image, [[0, 0, 5, 5]], [2])
    assert np.array_equal(out.image, image) and out.image is not image
    assert out.keep.all() and out.labels.tolist() == [2]


@pytest.mark.parametrize("shift", [{"hue": 181}, {"saturation": float("nan")}, {"value": -256}])
def test_hsv_shift_out_of_range_is_an_error(shift: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="hsv"):
        tf.hsv(noise(2, 2), **shift)


# ---- geometry


def disk(side: int, cx: float, cy: float, rx: float, ry: float) -> tuple[np.ndarray, list[float]]:
    """A white ellipse on black, and its box."""
    y, x = np.mgrid[:side, :side] + 0.5
    mask = ((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 <= 1
    image = np.repeat((mask * 255).astype(np.uint8)[:, :, None], 3, 2)
    return image, [cx - rx, cy - ry, cx + rx, cy + ry]


def extent(mask: np.ndarray) -> list[int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


@SETTINGS
@given(
    st.floats(0.5, 1.6),
    st.floats(-180, 180),
    st.tuples(st.floats(-0.3, 0.3), st.floats(-0.3, 0.3)),
    st.booleans(),
    st.booleans(),
    st.tuples(st.floats(8, 30), st.floats(8, 30), st.floats(34, 62), st.floats(34, 62)),
)
def test_affine_ellipse_stays_tight_in_its_box(
    scale: float,
    degrees: float,
    shift: tuple[float, float],
    lr: bool,
    ud: bool,
    shape: tuple[float, float, float, float],
) -> None:
    rx, ry, cx, cy = shape
    image, box = disk(96, cx, cy, rx, ry)
    out = tf.affine(
        *(image, [box], [1]),
        imgsz=96,
        scale=scale,
        degrees=degrees,
        shift=shift,
        flip_lr=lr,
        flip_ud=ud,
    )
    seen = (out.image[:, :, 0] > 127) & (out.image[:, :, 0] != 114)
    if not out.keep[0]:
        assert out.reasons[0] in ("clipped", "outside")
        return
    assert (out.boxes >= 0).all() and (out.boxes <= 96).all()
    x0, y0, x1, y1 = np.array(extent(seen)) - out.boxes[0]
    if (out.boxes[0] == [0, 0, 96, 96]).any():  # what was cut off may have reached further out
        assert min(x0, y0, -x1, -y1) >= -1.5
        return
    assert np.abs([x0, y0, x1, y1]).max() <= 1.5


def test_affine_without_arguments_is_the_letterbox() -> None:
    image = noise(50, 70)
    boxes = [[0, 0, 70, 50], [1, 1, 1.01, 1.01], [3, 3, 3, 9], [9, 3, 5, 9]]
    out = tf.affine(image, boxes, [0, 1, 2, 3], imgsz=64)
    assert np.array_equal(out.image, tf.letterbox(image, 64).image)
    assert out.reasons == ("", "", "flat", "flat") and out.labels.tolist() == [0, 1]
    scale = 64 / 70
    assert np.allclose(out.boxes[0], [0, 9, 64, 9 + 50 * scale], atol=1e-5)


@pytest.mark.parametrize("quarter, numpy_turns", [(90, -1), (180, 2), (-90, 1)])
def test_affine_quarter_turns_equal_numpy(quarter: float, numpy_turns: int) -> None:
    image = noise(64, 64)
    out = tf.affine(image, imgsz=64, degrees=quarter).image
    assert np.abs(out.astype(int) - np.rot90(image, numpy_turns)).max() <= 1


def test_affine_flips_equal_numpy_and_flip() -> None:
    image, boxes = noise(64, 64), [[1, 2, 30, 40]]
    warped = tf.affine(image, boxes, [5], imgsz=64, flip_lr=True, flip_ud=True)
    flipped = tf.flip(image, boxes, [5], lr=True, ud=True)
    assert np.array_equal(warped.image, image[::-1, ::-1])
    assert np.array_equal(warped.image, flipped.image)
    assert np.array_equal(warped.boxes, flipped.boxes)


@pytest.mark.parametrize(
    "box, shift, reason",
    [
        ([0, 0, 64, 64], (0.71, 0.0), "clipped"),
        ([0, 0, 64, 64], (0.69, 0.0), ""),
        ([0, 0, 10, 10], (-0.5, 0.0), "outside"),
        ([0, 0, 0.5, 9], (0.1, 0.0), "tiny"),
        ([5, 5, 5, 5], (0.1, 0.0), "flat"),
        ([9, 9, 5, 5], (0.1, 0.0), "flat"),
        ([float("nan"), 0, 5, 5], (0.1, 0.0), "flat"),
    ],
)
def test_affine_each_drop_has_its_reason(
    box: list[float], shift: tuple[float, float], reason: str
) -> None:
    out = tf.affine(noise(64, 64), [box], [0], imgsz=64, shift=shift)
    assert out.reasons == (reason,) and out.keep.tolist() == [reason == ""]
    assert len(out.boxes) == len(out.labels) == (reason == "")


@pytest.mark.parametrize(
    "arguments",
    [
        {"scale": 0},
        {"scale": float("nan")},
        {"degrees": float("inf")},
        {"shift": (float("nan"), 0)},
        {"hue": 999},
        {"imgsz": 33},
        {"min_clipped": 2},
    ],
)
def test_affine_bad_arguments_are_errors(arguments: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        tf.affine(noise(8, 8), **{"imgsz": 32, **arguments})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "boxes, labels",
    [([[1, 2, 3]], [0]), ([[1, 2, 3, 4]], []), ([[1, 2, 3, 4]], [0.5]), ([1, 2, 3, 4], [0])],
)
def test_affine_bad_boxes_are_errors(boxes: object, labels: object) -> None:
    with pytest.raises(ValueError, match=r"boxes|labels"):
        tf.affine(noise(8, 8), boxes, labels, imgsz=32)  # type: ignore[arg-type]


# ---- mixing


def test_cutmix_boxes_follow_what_is_visible() -> None:
    base, patch = noise(64, 64, 1), noise(64, 64, 2)
    base_boxes = [[0, 0, 20, 20], [40, 40, 60, 60], [30, 30, 40, 40]]
    patch_boxes = [[33, 33, 63, 63], [0, 0, 36, 36], [10, 40, 60, 50]]
    out = tf.cutmix(
        (base, base_boxes, [0, 1, 2]),
        (patch, patch_boxes, [3, 4, 5]),
        rect=(0.5, 0.5, 1, 1),
        imgsz=64,
    )
    want = base.copy()
    want[32:, 32:] = patch[32:, 32:]
    assert np.array_equal(out.image, want)
    # [30..40]²: 64 of 100 px are covered; [0..36]²: 4² of 36² px are inside; [10..60]: 28 of 50
    assert out.reasons == ("", "covered", "covered", "", "clipped", "")
    assert out.boxes.tolist() == [[0, 0, 20, 20], [33, 33, 63, 63], [32, 40, 60, 50]]
    assert out.labels.tolist() == [0, 3, 5]


def test_mosaic_quadrants_show_their_images() -> None:
    flat = [np.full((64, 64, 3), 40 * (i + 1), np.uint8) for i in range(4)]
    out = tf.mosaic(
        [(f, [[0, 0, 64, 64]], [i]) for i, f in enumerate(flat)], centre=(0.25, 0.5), imgsz=64
    )
    assert (out.image[:32, :16] == 40).all() and (out.image[:32, 16:] == 80).all()
    assert (out.image[32:, :16] == 120).all() and (out.image[32:, 16:] == 160).all()
    assert out.boxes.tolist() == [
        [0, 0, 16, 32],
        [16, 0, 64, 32],
        [0, 32, 16, 64],
        [16, 32, 64, 64],
    ]
    with pytest.raises(ValueError, match="3 samples came, 4"):
        tf.mosaic([(flat[0], [], [])] * 3, imgsz=64)


def coloured_disks(seed: int) -> list[tuple[np.ndarray, list[list[float]], list[int]]]:
    """Four images with two disks each; all eight have values of their own."""
    rng = np.random.default_rng(seed)
    samples = []
    for i in range(4):
        image = np.zeros((96, 96, 3), np.uint8)
        boxes = []
        for k, centre in enumerate(((26, 30), (68, 62))):
            cx, cy = centre + rng.uniform(-5, 5, 2)
            rx, ry = rng.uniform(8, 20, 2)
            mask, box = disk(96, cx, cy, rx, ry)
            image[mask[:, :, 0] > 0] = 130 + 12 * (2 * i + k)
            boxes.append(box)
        samples.append((image, boxes, [2 * i, 2 * i + 1]))
    return samples


@SETTINGS
@given(st.integers(0, 2**32), st.integers(0, 400))
def test_mixed_boxes_hold_what_is_left_of_their_objects(seed: int, position: int) -> None:
    augment = tf.Augment(hue=0, saturation=0, value=0, mix=1.0)
    _, pieces = tf.draw_pieces(augment, seed, 0, position, 4)
    samples = coloured_disks(seed % 1000)[: len(pieces)]
    out = tf.mix_pieces(pieces, samples, 96)
    values = out.image[:, :, 0].astype(int)
    kept = iter(out.boxes)
    for label, reason in enumerate(out.reasons):
        seen = np.abs(values - (130 + 12 * label)) <= 1
        assert (reason == "") == bool(out.keep[label])
        if reason:
            continue
        x0, y0, x1, y1 = next(kept)
        assert 0 <= x0 < x1 <= 96 and 0 <= y0 < y1 <= 96
        # blended edges of brighter disks pass through other values: judge only solid pixels
        solid = seen & np.roll(seen, 1, 0) & np.roll(seen, -1, 0) & np.roll(seen, 1, 1)
        if solid.any():
            a, b, c, d = extent(solid)
            assert a >= x0 - 1.5 and b >= y0 - 1.5 and c <= x1 + 1.5 and d <= y1 + 1.5
        # no box is kept that has lost its object: at least a fifth of the ellipse is there
        piece = pieces[label // 2]
        ix0, iy0, ix1, iy1 = samples[label // 2][1][label % 2]
        whole = np.pi / 4 * (ix1 - ix0) * (iy1 - iy0) * (piece[0] * piece[13]) ** 2
        assert seen.sum() >= 0.15 * whole - 12


@SETTINGS
@given(st.integers(0, 2**64 - 1), st.integers(0, 1000))
def test_mixing_is_exactly_four_to_one(seed: int, epoch: int) -> None:
    kinds = [len(tf.draw_pieces(tf.Augment(), seed, epoch, p, 9)[1]) for p in range(200)]
    assert (kinds.count(1), kinds.count(2), kinds.count(4)) == (100, 80, 20)
    mixed = [k for k in kinds if k > 1]
    assert all((k == 4) == (i % 5 == 4) for i, k in enumerate(mixed))


@SETTINGS
@given(st.floats(0, 1), st.integers(0, 2**64 - 1), st.integers(1, 5000))
def test_mix_count_is_the_share_rounded(mix: float, seed: int, n: int) -> None:
    count = _core.image_mix_count(mix, seed, 3, n)
    assert int(mix * n) <= count <= int(mix * n) + 1
    assert 0 <= _core.image_mix_count(mix, seed, 3, n + 1) - count <= 1


def test_drawn_pieces_are_pure_and_differ() -> None:
    augment = tf.Augment()
    draws = {}
    for seed, epoch, position in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (2**64 - 1, 5, 7)]:
        pieces = tf.draw_pieces(augment, seed, epoch, position, 5)[1]
        again = tf.draw_pieces(augment, seed, epoch, position, 5)[1]
        assert np.array_equal(pieces, again)
        draws[pieces[0, :9].tobytes()] = True
    assert len(draws) == 5
    assert len(tf.draw_pieces(augment, 0, 0, 1, 5, mixing=False)[1]) == 1


def test_drawn_values_fill_their_ranges() -> None:
    rows = np.array([tf.draw_pieces(tf.Augment(), 0, 0, p, 5)[1][0, :9] for p in range(3000)])
    low = np.array([0.8, -15, -0.1, -0.1, 0, 0, -15, -30, -20])
    high = np.array([1.2, 15, 0.1, 0.1, 1, 1, 15, 30, 20])
    assert (rows >= low).all() and (rows <= high).all()
    assert (np.abs(rows.mean(0) - (low + high) / 2) < 0.03 * (high - low)).all()
    assert (rows.min(0) < low + 0.01 * (high - low)).all()
    assert (rows.max(0) > high - 0.01 * (high - low)).all()


def test_augment_off_draws_the_letterbox() -> None:
    for position in range(20):
        pieces = tf.draw_pieces(tf.Augment.off(), 1, 2, position, 5)[1]
        assert np.array_equal(pieces, tf.identity_pieces())


@pytest.mark.parametrize(
    "arguments, error, words",
    [
        ({"scale": (1.2, 0.8)}, ValueError, "scale"),
        ({"scale": 0.8}, ValueError, "scale"),
        ({"scale": (0, 1)}, ValueError, "scale"),
        ({"degrees": -1}, ValueError, "degrees is -1, 0 to 180"),
        ({"degrees": "15"}, TypeError, "degrees is '15'"),
        ({"shift": float("nan")}, ValueError, "shift"),
        ({"flip_lr": 1.5}, ValueError, "flip_lr"),
        ({"hue": 91}, ValueError, "hue"),
        ({"mix": 1.1}, ValueError, "mix"),
        ({"min_visible": None}, TypeError, "min_visible"),
    ],
)
def test_augment_bad_field_is_named(arguments: dict, error: type, words: str) -> None:
    with pytest.raises(error, match=words):
        tf.Augment(**arguments)


@pytest.mark.parametrize("seed", [-1, 2**64, 1.5, "0"])
def test_draw_bad_seed_is_an_error(seed: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        tf.draw_pieces(tf.Augment(), seed, 0, 0, 5)  # type: ignore[arg-type]


def test_compose_binding_refuses_wrong_arrays() -> None:
    plain, image = tf.identity_pieces(), noise(8, 8)
    boxes, ignore = np.zeros((1, 4), np.float32), np.zeros(1, bool)
    out = np.zeros((32, 32, 3), np.uint8)
    good = (image, 1.0, 8, 8, boxes, ignore)
    assert _core.image_compose(plain, [good], 0.3, 0.5, out)[1].tolist() == [5]
    bad = [
        (plain[:, :9], [good], out),
        (plain, [], out),
        (plain, [good, good], out),
        (plain, [(*good[:4], boxes[:, :3], ignore)], out),
        (plain, [(*good[:5], np.zeros(2, bool))], out),
        (plain, [(image, 0.0, 8, 8, boxes, ignore)], out),
        (plain, [(image, 1.0, 0, 8, boxes, ignore)], out),
        (plain, [good], out[:, :16]),
        (plain, [good], out[::2]),
    ]
    for pieces, pictures, target in bad:
        with pytest.raises(ValueError):
            _core.image_compose(pieces, pictures, 0.3, 0.5, target)
    for pictures in ([image], [good[:3]], 7):
        with pytest.raises((TypeError, ValueError)):
            _core.image_compose(plain, pictures, 0.3, 0.5, out)  # type: ignore[arg-type]
