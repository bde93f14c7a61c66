"""The demo's data set: drawn objects on textured backgrounds, a pure function of its seed.

Six classes (disk, square, triangle, star, ring, cross), turned, in any colour that stands off its
surroundings, from about 20 to 160 pixels on 320x320 images, overlapping, cut by the border, with
noise, blur and uneven light. Lines and specks that belong to no class lie between them.

Boxes are honest: the extent of the pixels that are really visible, measured at four times the
resolution after everything in front has been drawn; no object is hidden by more than 40 %.
Random bits come from Philox streams (seed, image), used raw, so that a NumPy release with other
distributions draws the same pictures; the JPEG files depend on Pillow's libjpeg beyond that.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from deepseek_det.errors import Error

CLASSES = ("disk", "square", "triangle", "star", "ring", "cross")
SIZE_PX = 320
OVERSAMPLE = 4
SIDES_PX = (24.0, 160.0)
MIN_VISIBLE = 0.6
FRACTIONS = {"val": 0.10, "test": 0.15}
QUALITY = 92

Mask = npt.NDArray[np.bool_]
Pixels = npt.NDArray[np.float32]


class Draw:
    """Random values from the raw bits of one Philox stream.

    >>> Draw(0, 0).uniform(0, 1) == Draw(0, 0).uniform(0, 1)
    True
    """

    def __init__(self, seed: int, stream: int) -> None:
        self._bits = np.random.Philox(key=[seed % (1 << 64), stream])

    def uniform(self, low: float, high: float) -> float:
        """One value in [low, high)."""
        raw = int(self._bits.random_raw())
        return low + (high - low) * ((raw >> 11) * 2.0**-53)

    def integer(self, low: int, high: int) -> int:
        """One integer in low..high, both ends included."""
        return min(high, low + int(self.uniform(0, high - low + 1)))

    def chance(self, p: float) -> bool:
        """True with probability p."""
        return self.uniform(0, 1) < p

    def bytes(self, *shape: int) -> npt.NDArray[np.uint8]:
        """Uniform bytes of the given shape."""
        count = math.prod(shape)
        raw = np.asarray(self._bits.random_raw(-(-count // 8)), np.uint64)
        return raw.astype("<u8").view(np.uint8)[:count].reshape(shape)


@dataclass(slots=True)
class Shape:
    """One drawn object. mask: at OVERSAMPLE times the resolution; x, y: its corner there."""

    label: int
    x: int
    y: int
    mask: Mask


def synthetic(folder: str | os.PathLike[str], n: int = 400, seed: int = 0) -> Path:
    """Draws a data set of `n` images in COCO layout: train, val (10 %) and test (15 %).

    folder: must not exist, or be empty; it appears when everything is written. n: at least 3.
    Returns the folder. Raises `Error` for a full folder, ValueError for a smaller n.

    >>> import tempfile
    >>> folder = synthetic(tempfile.mkdtemp() + "/shapes", n=3)
    >>> sorted(p.name for p in folder.iterdir())
    ['annotations', 'test', 'train', 'val']
    """
    if n < 3:
        raise ValueError(f"synthetic: n is {n}, at least 3 were needed (train, val, test)")
    target = Path(folder)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise Error(f"synthetic: {target} exists and is not an empty folder; a new one was needed")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        try:
            _write(work, n, seed)
            work.chmod(0o755)
            if target.exists():
                target.rmdir()
            work.rename(target)
        except BaseException:
            shutil.rmtree(work, ignore_errors=True)
            raise
    except OSError as error:
        raise Error(f"synthetic: {error.filename or target}: {error.strerror or error}") from error
    return target


def picture(seed: int, index: int) -> tuple[Image.Image, list[tuple[int, list[float], float]]]:
    """Image `index` of a seed, and each object's label, [x, y, w, h] and visible area in pixels."""
    draw = Draw(seed, index)
    pixels = _background(draw)
    _specks(draw, pixels)
    owner = np.zeros((SIZE_PX * OVERSAMPLE, SIZE_PX * OVERSAMPLE), np.uint8)
    shapes: list[Shape] = []
    for _ in range(draw.integer(3, 8)):
        shape = _place(draw, owner, shapes)
        if shape is not None:
            shapes.append(shape)
            _paint(draw, pixels, shape)
    pixels = _light(draw, pixels)
    image = Image.fromarray(np.clip(pixels + 0.5, 0, 255).astype(np.uint8))
    if draw.chance(0.5):
        image = image.filter(ImageFilter.GaussianBlur(draw.uniform(0.2, 0.9)))
    found = []
    for number, shape in enumerate(shapes, 1):
        seen = _seen(owner, shape, number)
        rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
        x0, x1 = max(shape.x, 0) + int(columns[0]), max(shape.x, 0) + int(columns[-1]) + 1
        y0, y1 = max(shape.y, 0) + int(rows[0]), max(shape.y, 0) + int(rows[-1]) + 1
        box = [v / OVERSAMPLE for v in (x0, y0, x1 - x0, y1 - y0)]
        found.append((shape.label, box, int(seen.sum()) / OVERSAMPLE**2))
    return image, found


def _write(folder: Path, n: int, seed: int) -> None:
    """All splits; image numbers run through train, val and test."""
    counts = {name: max(1, round(n * part)) for name, part in FRACTIONS.items()}
    counts = {"train": n - sum(counts.values()), **counts}
    (folder / "annotations").mkdir()
    index = 0
    for split, count in counts.items():
        (folder / split).mkdir()
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for _ in range(count):
            image, found = picture(seed, index)
            name = f"{index:06d}.jpg"
            image.save(folder / split / name, quality=QUALITY)
            images.append({"id": index + 1, "file_name": name, "width": SIZE_PX, "height": SIZE_PX})
            annotations += [
                {
                    "id": len(annotations) + i,
                    "image_id": index + 1,
                    "category_id": label + 1,
                    "bbox": box,
                    "area": area,
                    "iscrowd": 0,
                    "segmentation": [],
                }
                for i, (label, box, area) in enumerate(found, 1)
            ]
            index += 1
        categories = [{"id": i, "name": name} for i, name in enumerate(CLASSES, 1)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        file = folder / "annotations" / f"instances_{split}.json"
        file.write_text(json.dumps(content), encoding="utf-8")


def _background(draw: Draw) -> Pixels:
    """(H, W, 3) float32: a colour, two octaves of smooth noise, sometimes stripes or squares."""
    base = np.array([draw.uniform(50, 205) for _ in range(3)], np.float32)
    pixels = np.broadcast_to(base, (SIZE_PX, SIZE_PX, 3)).astype(np.float32)
    for cells in (draw.integer(3, 6), draw.integer(12, 40)):
        noise = Image.fromarray(draw.bytes(cells, cells, 3))
        smooth = noise.resize((SIZE_PX, SIZE_PX), Image.Resampling.BICUBIC)
        pixels += (np.asarray(smooth, np.float32) - 127.5) * draw.uniform(0.08, 0.30)
    if draw.chance(0.5):
        angle, period = draw.uniform(0, math.pi), draw.uniform(8, 48)
        along = np.arange(SIZE_PX, dtype=np.float32) * np.float32(2 * math.pi / period)
        wave_x = np.sin(along * np.float32(math.cos(angle)))
        wave = wave_x[None, :] * np.cos(along * np.float32(math.sin(angle)))[:, None]
        if draw.chance(0.3):
            wave = np.sign(wave)
        pixels += wave[:, :, None] * np.float32(draw.uniform(6, 22))
    return pixels


def _specks(draw: Draw, pixels: Pixels) -> None:
    """Thin lines and dots that belong to no class."""
    canvas = Image.new("L", (SIZE_PX * 2, SIZE_PX * 2))
    pen = ImageDraw.Draw(canvas)
    for _ in range(draw.integer(0, 5)):
        ends = [draw.uniform(0, SIZE_PX * 2) for _ in range(4)]
        pen.line(ends, fill=draw.integer(90, 255), width=draw.integer(2, 5))
    for _ in range(draw.integer(0, 12)):
        x, y, r = (draw.uniform(0, SIZE_PX * 2), draw.uniform(0, SIZE_PX * 2), draw.uniform(2, 6))
        pen.ellipse((x - r, y - r, x + r, y + r), fill=draw.integer(90, 255))
    alpha = np.asarray(canvas.reduce(2), np.float32)[:, :, None] / 255
    colour = np.array([draw.uniform(0, 255) for _ in range(3)], np.float32)
    pixels += (colour - pixels) * alpha * np.float32(0.7)


def _outline(label: int, radius: float, angle: float) -> list[tuple[float, float]]:
    """Corner points of a class's polygon around 0, 0; empty for the round ones."""

    def ring(count: int, radii: tuple[float, ...]) -> list[tuple[float, float]]:
        turns = [angle + 2 * math.pi * i / count for i in range(count)]
        return [
            (radii[i % len(radii)] * math.cos(a), radii[i % len(radii)] * math.sin(a))
            for i, a in enumerate(turns)
        ]

    name = CLASSES[label]
    if name == "square":
        return ring(4, (radius,))
    if name == "triangle":
        return ring(3, (radius,))
    if name == "star":
        return ring(10, (radius, 0.42 * radius))
    if name == "cross":
        # A plus of arm width 2t: twelve corners, three a quarter turn.
        t = 0.30 * radius
        far = math.sqrt(radius**2 - t**2)
        corners = [(far, -t), (far, t), (t, t)]
        result = []
        for quarter in range(4):
            a = angle + quarter * math.pi / 2
            c, s = math.cos(a), math.sin(a)
            result += [(x * c - y * s, x * s + y * c) for x, y in corners]
        return result
    return []


def _mask(label: int, side_px: float, angle: float) -> Mask:
    """The object's pixels at OVERSAMPLE times the resolution, in a tight square patch."""
    radius = side_px * OVERSAMPLE / 2
    half = math.ceil(radius) + 1
    canvas = Image.new("L", (2 * half, 2 * half))
    pen = ImageDraw.Draw(canvas)
    points = _outline(label, radius, angle)
    if points:
        pen.polygon([(half + x, half + y) for x, y in points], fill=255)
    else:
        pen.ellipse((half - radius, half - radius, half + radius, half + radius), fill=255)
        if CLASSES[label] == "ring":
            hole = radius * 0.58
            pen.ellipse((half - hole, half - hole, half + hole, half + hole), fill=0)
    return np.asarray(canvas) > 0


def _window(shape: Shape) -> tuple[slice, slice, Mask]:
    """The part of the canvas that a shape's patch covers, and the patch cut to it."""
    limit = SIZE_PX * OVERSAMPLE
    height, width = shape.mask.shape
    y0, y1 = max(shape.y, 0), min(shape.y + height, limit)
    x0, x1 = max(shape.x, 0), min(shape.x + width, limit)
    cut = shape.mask[y0 - shape.y : y1 - shape.y, x0 - shape.x : x1 - shape.x]
    return slice(y0, y1), slice(x0, x1), cut


def _seen(owner: npt.NDArray[np.uint8], shape: Shape, number: int) -> Mask:
    """The visible pixels of shape `number` within its window."""
    rows, columns, _ = _window(shape)
    seen: Mask = owner[rows, columns] == number
    return seen


def _place(draw: Draw, owner: npt.NDArray[np.uint8], shapes: list[Shape]) -> Shape | None:
    """A new object in front of the others that hides none of them too much; None after 12 tries.

    Marks it in `owner`, where 0 is background and k the k-th shape.
    """
    label = draw.integer(0, len(CLASSES) - 1)
    low, high = math.log(SIDES_PX[0]), math.log(SIDES_PX[1])
    side = math.exp(draw.uniform(low, high))
    mask = _mask(label, side, draw.uniform(0, 2 * math.pi))
    height, width = mask.shape
    limit = SIZE_PX * OVERSAMPLE
    for _ in range(12):
        x = int(draw.uniform(-0.2 * width, limit - 0.8 * width))
        y = int(draw.uniform(-0.2 * height, limit - 0.8 * height))
        shape = Shape(label, x, y, mask)
        rows, columns, cut = _window(shape)
        if cut.sum() < 0.75 * mask.sum():
            continue
        before = owner[rows, columns]
        covered = np.bincount(before[cut], minlength=len(shapes) + 1)
        for number in np.flatnonzero(covered[1:]) + 1:
            other = shapes[int(number) - 1]
            left = int(_seen(owner, other, int(number)).sum()) - int(covered[number])
            if left < MIN_VISIBLE * int(other.mask.sum()):
                break
        else:
            before[cut] = len(shapes) + 1
            return shape
    return None


def _paint(draw: Draw, pixels: Pixels, shape: Shape) -> None:
    """Lays the object over the picture: smooth edge, a colour with a gradient, a little grain."""
    k = OVERSAMPLE
    height, width = shape.mask.shape
    # The patch, padded so that it starts on a whole pixel of the picture.
    pad_y, pad_x = shape.y % k, shape.x % k
    rows, columns = -(-(pad_y + height) // k), -(-(pad_x + width) // k)
    fine = np.zeros((rows * k, columns * k), np.float32)
    fine[pad_y : pad_y + height, pad_x : pad_x + width] = shape.mask
    alpha = fine.reshape(rows, k, columns, k).mean((1, 3), dtype=np.float32)
    top, left = (shape.y - pad_y) // k, (shape.x - pad_x) // k
    y0, y1 = max(top, 0), min(top + rows, SIZE_PX)
    x0, x1 = max(left, 0), min(left + columns, SIZE_PX)
    alpha = alpha[y0 - top : y1 - top, x0 - left : x1 - left, None]
    under = pixels[y0:y1, x0:x1]
    colour = _colour(draw, under.mean((0, 1)))
    slope_y, slope_x = (draw.uniform(-35, 35) for _ in range(2))
    ys = np.linspace(-0.5, 0.5, y1 - y0, dtype=np.float32)[:, None, None]
    xs = np.linspace(-0.5, 0.5, x1 - x0, dtype=np.float32)[None, :, None]
    fill = colour + ys * np.float32(slope_y) + xs * np.float32(slope_x)
    under += (fill - under) * alpha


def _colour(draw: Draw, around: Pixels) -> Pixels:
    """A colour at least 100 away (RGB distance) from the mean of what lies around."""
    for _ in range(32):
        colour = np.array([draw.uniform(0, 255) for _ in range(3)], np.float32)
        if float(np.linalg.norm(colour - around)) >= 100:
            return colour
    return np.where(around < 127, np.float32(240), np.float32(15)).astype(np.float32)


def _light(draw: Draw, pixels: Pixels) -> Pixels:
    """Uneven light across the picture and sensor noise."""
    angle, strength = draw.uniform(0, 2 * math.pi), draw.uniform(0, 0.35)
    t = np.linspace(-1, 1, SIZE_PX, dtype=np.float32)
    slope = t[None, :] * np.float32(math.cos(angle)) + t[:, None] * np.float32(math.sin(angle))
    gain = np.float32(draw.uniform(0.8, 1.1)) * (1 + slope * np.float32(strength))
    # The sum of two uniform bytes is noise enough, and the same on every NumPy.
    grain = draw.bytes(2, SIZE_PX, SIZE_PX, 3).astype(np.float32).sum(0) - 255
    lit: Pixels = pixels * gain[:, :, None] + grain * np.float32(draw.uniform(0.01, 0.09))
    return lit
