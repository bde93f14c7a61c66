"""Images that look the same: perceptual hashes propose pairs, gray thumbnails confirm them.

The hash is the 64-bit pHash: signs of the low frequencies of a 32×32 gray thumbnail against their
median (Zauner 2010, "Implementation and Benchmarking of Perceptual Image Hash Functions"). On its
own it takes any two pictures of one scene type for equal (blood smears, road scenes), so a pair
counts only if the thumbnails correlate as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

THUMB_PX = 32
HASH_SIDE = 8
NEAR_BITS = 10
"""Hashes that differ in at most so many of their 64 bits are looked at more closely."""
NEAR_IMAGE = 0.995
"""Correlation of two images' gray thumbnails beyond which they are taken for one photo."""

Thumb = npt.NDArray[np.float32]


def thumbnail(pixels: npt.NDArray[np.uint8]) -> Thumb:
    """(THUMB_PX, THUMB_PX) means of the green channel's blocks; smaller images repeat pixels."""
    height, width = pixels.shape[:2]
    rows = np.arange(THUMB_PX) * height // THUMB_PX
    columns = np.arange(THUMB_PX) * width // THUMB_PX
    green = pixels[..., 1]
    by_row = np.add.reduceat(green, rows, axis=0, dtype=np.float32)
    sums = np.add.reduceat(by_row, columns, axis=1, dtype=np.float32)
    high = np.maximum(np.diff(np.append(rows, height)), 1)
    wide = np.maximum(np.diff(np.append(columns, width)), 1)
    result: Thumb = (sums / (high[:, None] * wide)).astype(np.float32)
    return result


def normalized(thumb: Thumb) -> Thumb:
    """(THUMB_PX²,) values of mean 0 and length 1, so that a product is the correlation.

    A flat picture has no direction to compare; it becomes a zero vector that matches nothing.
    """
    flat = thumb.ravel() - thumb.mean()
    norm = float(np.linalg.norm(flat))
    return flat / np.float32(norm) if norm > 1e-3 else np.zeros_like(flat)


def phash(thumbs: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """(n, 64) bits of the hashes of (n, THUMB_PX²) thumbnails.

    >>> image, other = np.random.default_rng(0).random((2, 1024)).astype(np.float32)
    >>> bits = phash(np.stack([image, image * 2 + 7, other]))
    >>> int((bits[0] != bits[1]).sum()), int((bits[0] != bits[2]).sum()) > NEAR_BITS
    (0, True)
    """
    at = np.arange(THUMB_PX)
    # Rows 1 to 8 of the DCT-II: the mean is left out, so brightness does not matter.
    basis = np.cos(np.pi * (at[None] + 0.5) * np.arange(1, HASH_SIDE + 1)[:, None] / THUMB_PX)
    images = thumbs.reshape(-1, THUMB_PX, THUMB_PX).astype(np.float64)
    low = (basis @ images @ basis.T).reshape(len(images), -1)
    bits: npt.NDArray[np.bool_] = low > np.median(low, 1, keepdims=True)
    return bits


def near_pairs(
    thumbs: Sequence[Thumb] | npt.NDArray[np.float32], block: int = 2048
) -> Iterator[tuple[int, int, float]]:
    """Pairs a < b of images that look the same, with their thumbnails' correlation.

    thumbs: of `normalized`. Time grows with the square, by 64 multiplications a pair.
    """
    if len(thumbs) < 2:
        return
    table = np.asarray(thumbs, np.float32).reshape(len(thumbs), -1)
    # As ±1 the product of two hashes is 64 minus twice the number of bits that differ.
    signs = np.where(phash(table), np.float32(1), np.float32(-1))
    signs[~table.any(1)] = 0
    enough = signs.shape[1] - 2 * NEAR_BITS
    for start in range(0, len(table), block):
        close = signs[start : start + block] @ signs[start:].T
        for row, column in np.argwhere(close >= enough).tolist():
            if row < column:
                a, b = start + row, start + column
                alike = float(table[a] @ table[b])
                if alike > NEAR_IMAGE:
                    yield a, b, alike
