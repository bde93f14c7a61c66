"""Geometry and colour of training images: the letterbox, the augmentations and their boxes.

All arithmetic is in C (`csrc/image`): an augmented sample is one warp of the decoded image, boxes
included. The functions here do one thing at a time, with numbers that you give, on arrays; the
loader draws the numbers. Coordinates are continuous: pixel (x, y) covers [x, x+1) × [y, y+1).

A box that has lost its object is dropped, with a reason (`Transformed.reasons`):

- "clipped": at most `min_clipped` (30 %) of its area is inside of its image or window;
- "covered": less than `min_visible` (50 %) of what was there is left under a pasted rectangle;
- "outside": nothing of it is there; "tiny": a side is below one pixel; "flat": it had no area.

After a rotation a box is the bounding box of its turned inscribed ellipse: half-sides
sqrt((a·w/2)² + (b·h/2)²) and sqrt((d·w/2)² + (e·h/2)²) for the matrix (a b; d e).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from deepseek_det import _core

Image: TypeAlias = npt.NDArray[np.uint8]
Boxes: TypeAlias = npt.NDArray[np.float32]
Labels: TypeAlias = npt.NDArray[np.int32]
Mask: TypeAlias = npt.NDArray[np.bool_]
Pieces: TypeAlias = npt.NDArray[np.float64]

IMGSZ_STEP, IMGSZ_MAX = 32, 8192

REASONS = ("", "outside", "clipped", "covered", "tiny", "flat")
"""Why a box was dropped, by the C code's number; "" for a box that was kept."""

FIELDS = (
    *("scale", "degrees", "shift_x", "shift_y", "flip_lr", "flip_ud"),
    *("hue", "saturation", "value"),
    *("x0", "y0", "x1", "y1", "zoom", "offset_x", "offset_y"),
)
"""The columns of a piece (`dd_piece` in csrc/image/augment.h)."""

_PLAIN = np.array([[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 0, 0]], np.float64)

_RANGES = {
    "degrees": (0, 180),
    "shift": (0, 1),
    "flip_lr": (0, 1),
    "flip_ud": (0, 1),
    "hue": (0, 90),
    "saturation": (0, 255),
    "value": (0, 255),
    "mix": (0, 1),
    "min_clipped": (0, 1),
    "min_visible": (0, 1),
}


@dataclass(frozen=True, slots=True)
class Augment:
    """What training images go through; every number is drawn uniformly for each sample.

    scale: (low, high) factors; degrees: ±, about the centre; shift: ±, share of the side, on both
    axes; flip_lr, flip_ud: probabilities; hue, saturation, value: ±, in OpenCV's 8-bit units (hue
    0–179, the others 0–255); mix: share of samples that are CutMix or Mosaic (4:1);
    min_clipped, min_visible: see the module's text; dropped_as_ignore: what is still to be seen of
    a clipped or covered box becomes a region to ignore instead of background.
    Raises ValueError that names the field. `Augment.off()` changes nothing.

    >>> Augment(degrees=5).scale
    (0.8, 1.2)
    """

    scale: tuple[float, float] = (0.8, 1.2)
    degrees: float = 15.0
    shift: float = 0.1
    flip_lr: float = 0.5
    flip_ud: float = 0.5
    hue: float = 15.0
    saturation: float = 30.0
    value: float = 20.0
    mix: float = 0.5
    min_clipped: float = 0.3
    min_visible: float = 0.5
    dropped_as_ignore: bool = False

    def __post_init__(self) -> None:
        for name, limits in _RANGES.items():
            object.__setattr__(self, name, _number("augment", name, getattr(self, name), *limits))
        try:
            low, high = self.scale
        except (TypeError, ValueError):
            raise ValueError(f"augment: scale is {self.scale!r}, (low, high) was needed") from None
        low = _number("augment", "scale", low, 0.05, 20)
        object.__setattr__(self, "scale", (low, _number("augment", "scale", high, low, 20)))

    @classmethod
    def off(cls) -> Augment:
        """No change at all: its images are letterboxed bit for bit."""
        return cls((1.0, 1.0), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)

    def ranges(self) -> npt.NDArray[np.float64]:
        """(10,) float64: the C code's `dd_augment`."""
        values = (self.degrees, self.shift, self.flip_lr, self.flip_ud)
        colours = (self.hue, self.saturation, self.value)
        return np.array([*self.scale, *values, *colours, self.mix], np.float64)


class Letterboxed(NamedTuple):
    """image (imgsz, imgsz, 3) uint8; x' = scale·x + pad[0], y' = scale·y + pad[1]."""

    image: Image
    scale: float
    pad: tuple[int, int]


class Transformed(NamedTuple):
    """What a transform returns.

    image (H, W, 3) uint8; boxes (k, 4) float32 and labels (k,) int32 of the boxes that were kept;
    keep (n,) bool and reasons (n,) for all boxes that came, in their order ("" = kept).
    """

    image: Image
    boxes: Boxes
    labels: Labels
    keep: Mask
    reasons: tuple[str, ...]


class Picture(NamedTuple):
    """A decoded image with its boxes in the original's pixels, as the C code takes it.

    pixels: (h, w, 3) uint8; scale: pixels a pixel of the original (0.5 after a decode at half
    size); width, height: the original's; boxes: (n, 4) float32; ignore: (n,) bool.
    """

    pixels: Image
    scale: float
    width: int
    height: int
    boxes: Boxes
    ignore: Mask


def check_imgsz(imgsz: object, who: str = "imgsz") -> int:
    """imgsz as an int: a multiple of 32 from 32 to 8192; ValueError that names the next one.

    >>> check_imgsz(320)
    320
    """
    if isinstance(imgsz, bool) or not isinstance(imgsz, (int, np.integer)):
        raise TypeError(f"{who}: imgsz is {imgsz!r}, an integer was needed")
    side = int(imgsz)
    if side > IMGSZ_MAX:
        raise ValueError(f"{who}: imgsz is {side}, at most {IMGSZ_MAX} was needed")
    if side < IMGSZ_STEP or side % IMGSZ_STEP:
        following = max(IMGSZ_STEP, -(-side // IMGSZ_STEP) * IMGSZ_STEP)
        needed = f"a multiple of {IMGSZ_STEP} was needed; the next is {following}"
        raise ValueError(f"{who}: imgsz is {side}, {needed}")
    return side


def letterbox(image: Image, imgsz: int = 640, size: tuple[int, int] | None = None) -> Letterboxed:
    """Puts an image into a square: one scale, centred, value 114 around it, antialiased.

    image: (H, W, 3) uint8. size: (width, height) of the original where `image` was decoded at a
    half, a quarter or an eighth of it; scale and pad refer to the original.
    scale = imgsz / max(width, height); pad = (imgsz - round(scale·size)) // 2.
    Raises ValueError for a wrong shape or imgsz.

    >>> letterbox(np.zeros((240, 320, 3), np.uint8), 64)[1:]
    (0.2, (0, 8))
    """
    side = check_imgsz(imgsz, "letterbox")
    image = _image("letterbox", image)
    height, width = image.shape[:2]
    shrink = 1 if size is None else _shrink_of((width, height), size)
    if size is not None:
        width, height = size
    scale, _, _, left, top = _core.image_fit(width, height, side)
    pixels = _core.image_letterbox(image, 1.0 / shrink, width, height, side)
    return Letterboxed(pixels, scale, (left, top))


def shrink_for(width: int, height: int, imgsz: int) -> int:
    """The strongest scaled decode (8, 4, 2 or 1) that still reaches the letterboxed size.

    Training, validation and prediction all decode by this rule, so they see the same pixels.

    >>> shrink_for(640, 480, 320), shrink_for(639, 480, 320)
    (2, 1)
    """
    scale = _core.image_fit(width, height, imgsz)[0]
    return next((s for s in (8, 4, 2) if s * scale <= 1.0), 1)


def hsv(
    image: Image,
    boxes: npt.ArrayLike = (),
    labels: npt.ArrayLike = (),
    *,
    hue: float = 0.0,
    saturation: float = 0.0,
    value: float = 0.0,
) -> Transformed:
    """Shifts colours in OpenCV's units: hue (mod 180), saturation and value (cut to 0–255).

    Gray stays gray: saturation grows to twice its value at most. Boxes pass unchanged.

    >>> red = np.full((1, 1, 3), (255, 0, 0), np.uint8)
    >>> hsv(red, hue=60).image.ravel().tolist()
    [0, 255, 0]
    """
    own, names = _boxes("hsv", boxes, labels)
    out = _core.image_hsv(_image("hsv", image), hue, saturation, value)
    return Transformed(out, own, names, np.ones(len(own), np.bool_), ("",) * len(own))


def flip(
    image: Image,
    boxes: npt.ArrayLike = (),
    labels: npt.ArrayLike = (),
    *,
    lr: bool = True,
    ud: bool = False,
) -> Transformed:
    """Mirrors an image and its boxes left–right, upside down, or both; nothing is lost.

    >>> flip(np.zeros((4, 10, 3), np.uint8), [[1, 1, 3, 2]], [0]).boxes.tolist()
    [[7.0, 1.0, 9.0, 2.0]]
    """
    own, names = _boxes("flip", boxes, labels)
    out = _image("flip", image)
    height, width = out.shape[:2]
    if lr:
        out = out[:, ::-1]
        own = np.stack([width - own[:, 2], own[:, 1], width - own[:, 0], own[:, 3]], 1)
    if ud:
        out = out[::-1]
        own = np.stack([own[:, 0], height - own[:, 3], own[:, 2], height - own[:, 1]], 1)
    out = np.ascontiguousarray(out)
    return Transformed(out, own, names, np.ones(len(own), np.bool_), ("",) * len(own))


def affine(
    image: Image,
    boxes: npt.ArrayLike = (),
    labels: npt.ArrayLike = (),
    *,
    imgsz: int = 640,
    scale: float = 1.0,
    degrees: float = 0.0,
    shift: tuple[float, float] = (0.0, 0.0),
    flip_lr: bool = False,
    flip_ud: bool = False,
    hue: float = 0.0,
    saturation: float = 0.0,
    value: float = 0.0,
    min_clipped: float = 0.3,
) -> Transformed:
    """Letterbox, flips, scale, rotation (clockwise as seen), shift and colours in one warp.

    image: (H, W, 3) uint8; boxes: (n, 4) xyxy in its pixels; shift: shares of the side. The result
    is (imgsz, imgsz, 3), its boxes in its pixels. Without arguments it is the letterbox, bit for
    bit, and drops nothing but boxes without area. Raises ValueError for numbers out of range.

    >>> black = np.zeros((32, 32, 3), np.uint8)
    >>> affine(black, [[0, 0, 32, 16]], [3], imgsz=32, degrees=90).boxes.round(3).tolist()
    [[16.0, 0.0, 32.0, 32.0]]
    """
    piece = _PLAIN.copy()
    piece[0, :9] = scale, degrees, *shift, flip_lr, flip_ud, hue, saturation, value
    return mix_pieces(piece, [(image, boxes, labels)], imgsz, min_clipped)


def cutmix(
    base: tuple[Image, npt.ArrayLike, npt.ArrayLike],
    patch: tuple[Image, npt.ArrayLike, npt.ArrayLike],
    *,
    rect: tuple[float, float, float, float],
    imgsz: int = 640,
    min_clipped: float = 0.3,
    min_visible: float = 0.5,
) -> Transformed:
    """Pastes a rectangle of one letterboxed sample over another (Yun et al. 2019, for boxes).

    base, patch: (image, boxes, labels); rect: (x0, y0, x1, y1) as shares of the square, the same
    place in both. Boxes of the base come first. A box that the rectangle covers partly is shrunk
    to its visible part where that is a rectangle.

    >>> black, white = np.zeros((32, 32, 3), np.uint8), np.full((32, 32, 3), 255, np.uint8)
    >>> base, patch = (black, [[0, 0, 20, 20]], [0]), (white, [], [])
    >>> mixed = cutmix(base, patch, rect=(0.5, 0, 1, 1), imgsz=32)
    >>> mixed.boxes.tolist(), int(mixed.image[0, 15, 0]), int(mixed.image[0, 16, 0])
    ([[0.0, 0.0, 16.0, 20.0]], 0, 255)
    """
    pieces = np.repeat(_PLAIN, 2, 0)
    pieces[1, 9:13] = rect
    return mix_pieces(pieces, [base, patch], imgsz, min_clipped, min_visible)


def mosaic(
    samples: Sequence[tuple[Image, npt.ArrayLike, npt.ArrayLike]],
    *,
    centre: tuple[float, float] = (0.5, 0.5),
    imgsz: int = 640,
    min_clipped: float = 0.3,
) -> Transformed:
    """Four letterboxed samples in one square, meeting at `centre` (Bochkovskiy et al. 2020).

    samples: four (image, boxes, labels): top left, top right, bottom left, bottom right; centre:
    shares of the side, inside of (0, 1). A sample is shrunk just so far that it fills its quadrant,
    and shows its own middle there.

    >>> gray = np.full((64, 64, 3), 50, np.uint8)
    >>> out = mosaic([(gray, [[0, 0, 64, 64]], [i]) for i in range(4)], imgsz=64)
    >>> out.boxes.tolist()[3], out.labels.tolist()
    ([32.0, 32.0, 64.0, 64.0], [0, 1, 2, 3])
    """
    if len(samples) != 4:
        raise ValueError(f"mosaic: {len(samples)} samples came, 4 were needed")
    cx, cy = (_number("mosaic", "centre", c, 0.01, 0.99) for c in centre)
    pieces = np.repeat(_PLAIN, 4, 0)
    for i, piece in enumerate(pieces):
        x0, x1 = (cx, 1.0) if i % 2 else (0.0, cx)
        y0, y1 = (cy, 1.0) if i // 2 else (0.0, cy)
        zoom = max(x1 - x0, y1 - y0)
        offset = x0 - (zoom - (x1 - x0)) / 2, y0 - (zoom - (y1 - y0)) / 2
        piece[9:] = x0, y0, x1, y1, zoom, *offset
    return mix_pieces(pieces, samples, imgsz, min_clipped)


def mix_pieces(
    pieces: Pieces,
    samples: Sequence[tuple[Image, npt.ArrayLike, npt.ArrayLike]],
    imgsz: int,
    min_clipped: float = 0.3,
    min_visible: float = 0.5,
) -> Transformed:
    """Composes samples by explicit pieces: (k, 16) float64 with the columns of `FIELDS`.

    This is what the loader does with the pieces that `draw_pieces` gives; one sample a piece.
    """
    side = check_imgsz(imgsz, "transforms")
    pictures, all_labels = [], []
    for image, boxes, labels in samples:
        image = _image("transforms", image)
        own, names = _boxes("transforms", boxes, labels)
        height, width = image.shape[:2]
        pictures.append(Picture(image, 1.0, width, height, own, np.zeros(len(own), np.bool_)))
        all_labels.append(names)
    out = np.empty((side, side, 3), np.uint8)
    low = _number("transforms", "min_clipped", min_clipped, 0, 1)
    seen = _number("transforms", "min_visible", min_visible, 0, 1)
    moved, drops = _core.image_compose(pieces, pictures, low, seen, out)
    keep = drops == 0
    names = np.concatenate([np.zeros(0, np.int32), *all_labels])
    reasons = tuple(REASONS[d] for d in drops)
    return Transformed(out, moved[keep], names[keep], keep, reasons)


def draw_pieces(
    augment: Augment, seed: int, epoch: int, position: int, n: int, mixing: bool = True
) -> tuple[npt.NDArray[np.uint32], Pieces]:
    """The sample at `position` of an epoch, drawn: a pure function of its arguments.

    n: how many images partners are drawn from. Returns partners (k,) uint32 (entry 0 means the
    sample's own image) and pieces (k, 16): k is 1 for a plain sample, 2 for CutMix, 4 for Mosaic.
    """
    return _core.image_recipe(augment.ranges(), seed, epoch, position, n, mixing)


def identity_pieces() -> Pieces:
    """(1, 16): the piece of a plain letterbox."""
    return _PLAIN.copy()


def _number(who: str, name: str, value: object, low: float, high: float) -> float:
    """A finite number from low to high, or an error that names the field."""
    if isinstance(value, (str, bytes)) or value is None:
        raise TypeError(f"{who}: {name} is {value!r}, a number was needed")
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise TypeError(f"{who}: {name} is {value!r}, a number was needed") from None
    if not (math.isfinite(number) and low <= number <= high):
        raise ValueError(f"{who}: {name} is {number:g}, {low:g} to {high:g} was needed")
    return number


def _image(who: str, image: object) -> Image:
    array = np.asarray(image)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise ValueError(
            f"{who}: an image of type {array.dtype} and shape {array.shape} came, "
            "uint8 (H, W, 3) was needed"
        )
    return array


def _boxes(who: str, boxes: npt.ArrayLike, labels: npt.ArrayLike) -> tuple[Boxes, Labels]:
    own = np.asarray(boxes, np.float32)
    own = own.reshape(0, 4) if own.size == 0 else own
    names = np.asarray(labels)
    names = np.zeros(0, np.int32) if names.size == 0 else names
    if own.ndim != 2 or own.shape[1] != 4 or names.shape != own.shape[:1]:
        raise ValueError(
            f"{who}: boxes {own.shape} and labels {names.shape} came, (n, 4) and (n,) were needed"
        )
    if names.dtype.kind not in "iu":
        raise ValueError(f"{who}: labels are of type {names.dtype}, integers were needed")
    return np.ascontiguousarray(own), names.astype(np.int32)


def _shrink_of(got: tuple[int, int], original: tuple[int, int]) -> int:
    """By what a decoder has divided the original's size, rounding up."""
    for shrink in (1, 2, 4, 8):
        if got == (-(-original[0] // shrink), -(-original[1] // shrink)):
            return shrink
    raise ValueError(
        f"letterbox: an image of {got[0]}x{got[1]} px came, size {original[0]}x{original[1]} "
        "divided by 1, 2, 4 or 8 was needed"
    )
