"""Boxes and labels on pictures, with Pillow: for `Results.plot`, the report and the examples."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

Pixels = npt.NDArray[np.uint8]
Colour = tuple[int, int, int]

# Ten hues that differ in lightness too, so that they can be told apart without colour vision;
# further classes take them again.
PALETTE: tuple[Colour, ...] = (
    (31, 119, 255),
    (255, 127, 14),
    (44, 190, 78),
    (230, 40, 60),
    (160, 90, 230),
    (0, 200, 210),
    (240, 90, 190),
    (205, 205, 0),
    (150, 85, 50),
    (120, 130, 145),
)


def colour(label: int) -> Colour:
    """The colour of a class, always the same one for the same index."""
    return PALETTE[label % len(PALETTE)]


def draw_boxes(
    image: npt.ArrayLike,
    xyxy: npt.ArrayLike,
    labels: npt.ArrayLike,
    texts: Sequence[str] | None = None,
    width: int | None = None,
) -> Pixels:
    """A copy of an image with a frame around each box and its text on a ground of the same colour.

    image: (H, W, 3) uint8 RGB; xyxy: (n, 4) pixels; labels: (n,) integers that choose the colours;
    texts: n strings, "" for none. width: of the lines in pixels, None for one that suits the size.
    The first boxes are drawn last, so that the most confident ones lie on top. Labels stay inside
    of the image. Raises ValueError on shapes.

    >>> draw_boxes(np.zeros((20, 30, 3), np.uint8), [[2, 3, 20, 15]], [0])[3, 10].tolist()
    [31, 119, 255]
    """
    pixels = np.asarray(image)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise ValueError(
            f"draw_boxes: an image {pixels.shape} {pixels.dtype} came, (H, W, 3) uint8 was needed"
        )
    boxes = np.asarray(xyxy, np.float64).reshape(-1, 4)
    classes = np.asarray(labels, np.int64).reshape(-1)
    words = [""] * len(boxes) if texts is None else list(texts)
    if not len(boxes) == len(classes) == len(words):
        raise ValueError(
            f"draw_boxes: {len(boxes)} boxes, {len(classes)} labels and {len(words)} texts came"
        )
    canvas = Image.fromarray(np.ascontiguousarray(pixels))
    brush = ImageDraw.Draw(canvas)
    line = width or max(1, round(max(canvas.size) / 210))
    font = _font(min(max(10, round(max(canvas.size) / 40)), 40))
    for i in reversed(range(len(boxes))):
        _frame(brush, canvas.size, boxes[i], colour(int(classes[i])), line)
    for i in reversed(range(len(boxes))):
        if words[i]:
            _label(brush, canvas.size, boxes[i], words[i], colour(int(classes[i])), font)
    return np.asarray(canvas)


def _frame(
    brush: ImageDraw.ImageDraw,
    size: tuple[int, int],
    box: npt.NDArray[np.float64],
    ink: Colour,
    line: int,
) -> None:
    if not np.isfinite(box).all():
        return
    x0, y0 = (min(max(round(float(v)), 0), s - 1) for v, s in zip(box[:2], size, strict=True))
    # Half-open: an edge at x = 10 ends with pixel 9.
    x1, y1 = (min(max(round(float(v)) - 1, 0), s - 1) for v, s in zip(box[2:], size, strict=True))
    brush.rectangle((x0, y0, max(x0, x1), max(y0, y1)), outline=ink, width=line)


def _label(
    brush: ImageDraw.ImageDraw,
    size: tuple[int, int],
    box: npt.NDArray[np.float64],
    text: str,
    ink: Colour,
    font: Any,
) -> None:
    """The text above its box, or inside of it where there is no room above."""
    if not np.isfinite(box).all():
        return
    left, top, right, bottom = _extent(brush, text, font)
    while right - left + 4 > size[0] and len(text) > 1:
        text = text[: max(1, len(text) - 2)].rstrip(" .…") + "…"
        if len(text) <= 2:
            break
        left, top, right, bottom = _extent(brush, text, font)
    wide, high = right - left + 4, bottom - top + 4
    x = min(max(round(float(box[0])), 0), max(size[0] - wide, 0))
    y = round(float(box[1])) - high
    if y < 0:
        y = min(max(round(float(box[1])), 0), max(size[1] - high, 0))
    brush.rectangle((x, y, x + wide - 1, y + high - 1), fill=ink)
    dark = 0.299 * ink[0] + 0.587 * ink[1] + 0.114 * ink[2] > 140
    brush.text(
        (x + 2 - left, y + 2 - top), _drawable(text, font), (0, 0, 0) if dark else None, font
    )


def _extent(brush: ImageDraw.ImageDraw, text: str, font: Any) -> tuple[int, int, int, int]:
    left, top, right, bottom = brush.textbbox((0, 0), _drawable(text, font), font=font)
    return int(left), int(top), int(-(-right // 1)), int(-(-bottom // 1))


def _drawable(text: str, font: Any) -> str:
    """The text as far as the font can show it: Pillow's built-in bitmap font has Latin-1 only."""
    if isinstance(font, ImageFont.ImageFont):
        return text.encode("latin-1", "replace").decode("latin-1")
    return text


def _font(size: int) -> Any:
    try:
        return ImageFont.load_default(size)
    except (TypeError, OSError, ImportError):  # Pillow before 10.1, or without FreeType
        return ImageFont.load_default()


def mosaic(images: Sequence[Pixels], columns: int = 4, side: int = 320, gap: int = 4) -> Pixels:
    """Images as a grid on gray, shrunk where they do not fit into squares of `side` pixels.

    images: at least one (H, W, 3) uint8. Returns (H, W, 3) uint8.

    >>> mosaic([np.zeros((8, 8, 3), np.uint8)] * 3, columns=2, side=8, gap=2).shape
    (22, 22, 3)
    """
    columns = min(columns, len(images))
    side = min(side, max(max(i.shape[:2]) for i in images))
    rows = -(-len(images) // columns)
    step = side + gap
    sheet = Image.new("RGB", (columns * step + gap, rows * step + gap), (128, 128, 128))
    for i, pixels in enumerate(images):
        tile = Image.fromarray(np.ascontiguousarray(pixels))
        scale = min(side / max(tile.size), 1.0)
        if scale < 1:
            shape = (max(1, round(tile.width * scale)), max(1, round(tile.height * scale)))
            tile = tile.resize(shape, Image.Resampling.BILINEAR)
        x = gap + (i % columns) * step + (side - tile.width) // 2
        y = gap + (i // columns) * step + (side - tile.height) // 2
        sheet.paste(tile, (x, y))
    return np.asarray(sheet)


def encode(image: Pixels, suffix: str = ".jpg") -> bytes:
    """An image as the bytes of a file: .jpg (quality 90), .png, .webp or .bmp.

    Raises ValueError for another suffix.
    """
    kinds = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".webp": "WEBP", ".bmp": "BMP"}
    if suffix.lower() not in kinds:
        raise ValueError(f"encode: {suffix!r} came, one of {', '.join(kinds)} was needed")
    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(out, kinds[suffix.lower()], quality=90)
    return out.getvalue()
