"""Which places of images are blurred, measured against the labels of their own class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from deepseek_det.data.decode import decode
from deepseek_det.quality.disputes import Box

BLUR_QUANTILE, BLUR_SIDE_PX = 0.03, 8
"""A place is blurred when it is less sharp than this share of the labels of its class; boxes with a
shorter side are too small to tell."""

Place = tuple[Box, str]
"""A box and its class."""


def sharpness(pixels: npt.NDArray[np.uint8], box: Box) -> float:
    """Energy of the Laplacian over the energy of the contrast in a box; 0 for a flat one.

    The ratio, not the energy: a faint object in focus is not blurred. pixels: (H, W, 3); NaN for a
    box that is too small.
    """
    x0, y0 = int(box[0]), int(box[1])
    x1, y1 = int(np.ceil(box[2])), int(np.ceil(box[3]))
    crop = pixels[max(y0, 0) : y1, max(x0, 0) : x1, 1].astype(np.float64)
    if min(crop.shape) < BLUR_SIDE_PX:
        return float("nan")
    middle = crop[1:-1, 1:-1]
    edges = crop[:-2, 1:-1] + crop[2:, 1:-1] + crop[1:-1, :-2] + crop[1:-1, 2:] - 4 * middle
    contrast = float(crop.var())
    return float(edges.var()) / contrast if contrast > 1 else 0.0


def blurred(
    asked: Sequence[tuple[Path, Place]], labels: Mapping[Path, Sequence[Place]]
) -> list[bool]:
    """Whether each place is less sharp than nearly all labels of its class in the same images.

    asked: image and place; labels: the places by image that are the measure. A class needs
    1 / BLUR_QUANTILE labels to be one, else nothing of it is called blurred.
    """
    by_image: dict[Path, list[int]] = {}
    for i, (path, _) in enumerate(asked):
        by_image.setdefault(path, []).append(i)
    usual: dict[str, list[float]] = {}
    own: dict[int, float] = {}
    for path, members in by_image.items():
        pixels = decode(path, say_frames=False)
        for box, name in labels.get(path, ()):
            usual.setdefault(name, []).append(sharpness(pixels, box))
        for i in members:
            own[i] = sharpness(pixels, asked[i][1][0])
    limit = {
        name: float(np.nanquantile(values, BLUR_QUANTILE))
        for name, values in usual.items()
        if np.isfinite(values).sum() >= 1 / BLUR_QUANTILE
    }
    return [own[i] < limit.get(name, -1.0) for i, (_, (_, name)) in enumerate(asked)]
