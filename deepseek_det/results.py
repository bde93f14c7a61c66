"""What `Detector.predict` gives for an image."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from deepseek_det.errors import Error

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class Results:
    """The detections on one image, best first.

    xyxy: (N, 4) float32 pixels of the original image, half-open; conf: (N,) float32; cls: (N,)
    int64, positions in `names`; path: the file, None for what came from memory; frame: number of a
    video's frame; orig_shape: (height, width) as displayed, EXIF applied. The image itself is
    decoded again when it is drawn, so a list of results is small.

    >>> r = Results(np.array([[1, 2, 5, 6]], np.float32), np.array([0.9], np.float32),
    ...             np.array([0]), ["disk"], None, (8, 8), source=np.zeros((8, 8, 3), np.uint8))
    >>> len(r), r.to_coco(7)[0]["bbox"], r.plot().shape
    (1, [1.0, 2.0, 4.0, 4.0], (8, 8, 3))
    """

    xyxy: npt.NDArray[np.float32]
    conf: npt.NDArray[np.float32]
    cls: npt.NDArray[np.int64]
    names: list[str]
    path: str | None
    orig_shape: tuple[int, int]
    frame: int | None = None
    categories: Sequence[int] = ()
    source: Any = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.xyxy)

    @property
    def image(self) -> Pixels:
        """(H, W, 3) uint8 RGB: the image that was looked at, decoded now.

        Raises Error where its file is gone or has changed its size.
        """
        from deepseek_det.data.decode import decode

        if isinstance(self.source, np.ndarray):
            return self.source
        pixels = decode(self.source, say_frames=False)
        if pixels.shape[:2] != tuple(self.orig_shape):
            raise Error(
                f"results: {self.path} is {pixels.shape[1]}x{pixels.shape[0]} px, it was "
                f"{self.orig_shape[1]}x{self.orig_shape[0]} when it was looked at"
            )
        return pixels

    def plot(self, labels: bool = True, conf: bool = True, width: int | None = None) -> Pixels:
        """The image with its boxes: a new (H, W, 3) uint8 RGB array.

        labels, conf: whether names and confidences stand at the boxes. width: of the lines.
        """
        from deepseek_det.draw import draw_boxes

        texts = []
        for score, label in zip(self.conf.tolist(), self.cls.tolist(), strict=True):
            words = [self.names[label]] if labels else []
            texts.append(" ".join([*words, f"{score:.2f}"] if conf else words))
        return draw_boxes(self.image, self.xyxy, self.cls, texts, width)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes the image with its boxes; the suffix says the format (.jpg, .png, .webp, .bmp).

        Returns the path. Raises ValueError for another suffix, OSError where it can't be written.
        """
        from deepseek_det.checkpoint import write_bytes
        from deepseek_det.draw import encode

        target = Path(path)
        write_bytes(target, encode(self.plot(), target.suffix))
        return target

    def to_coco(self, image_id: int | str) -> list[dict[str, Any]]:
        """Rows of a COCO results file: image_id, category_id (the data's own ids), bbox, score."""
        ids = list(self.categories) or list(range(len(self.names)))
        rows = []
        for box, score, label in zip(
            self.xyxy.astype(np.float64).tolist(),
            self.conf.tolist(),
            self.cls.tolist(),
            strict=True,
        ):
            x0, y0, x1, y1 = box
            rows.append(
                {
                    "image_id": image_id,
                    "category_id": ids[label],
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "score": score,
                }
            )
        return rows

    def to_dict(self) -> dict[str, Any]:
        """Plain values: path, frame, width, height and a list of boxes."""
        rows = zip(self.xyxy.tolist(), self.conf.tolist(), self.cls.tolist(), strict=True)
        height, width = self.orig_shape
        return {
            "path": self.path,
            "frame": self.frame,
            "width": width,
            "height": height,
            "boxes": [
                {"name": self.names[label], "cls": label, "conf": score, "xyxy": box}
                for box, score, label in rows
            ],
        }

    def to_json(self) -> str:
        """`to_dict` as one line of JSON."""
        return json.dumps(self.to_dict(), ensure_ascii=False)

    def __str__(self) -> str:
        counts = np.bincount(self.cls, minlength=len(self.names))
        found = ", ".join(f"{n} {self.names[i]}" for i, n in enumerate(counts.tolist()) if n)
        height, width = self.orig_shape
        where = self.path or "image"
        if self.frame is not None:
            where += f", frame {self.frame}"
        return f"{where} {width}x{height}: {found or 'nothing found'}"
