"""Makes detector_v1.pt, detector_v1.ppm and detector_v1.txt: a model file as this version writes
it, a picture, and what the model finds on it; for programs and readers that have no Python.

Run from the project's root: python tests/golden/make_detector.py. The files stay as they are for
ever: later versions must read them, so a new format gets files of its own.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

import deepseek_det as dd

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import tiny_net  # noqa: E402

with tempfile.TemporaryDirectory() as folder:
    data = dd.data.synthetic(Path(folder) / "set", n=80, seed=5)
    det = dd.Detector(tiny_net.register())
    det.train(
        data, epochs=200, imgsz=128, batch=8, seed=1, project=folder, name="run", verbose=False
    )
    best = dd.Detector(f"{folder}/run/weights/best.pt")
    images = [image for image, *_ in dd.data.load(data, split="val")]


def small(image: np.ndarray) -> Image.Image:
    """A picture of 80 pixels' width."""
    height, width = image.shape[:2]
    return Image.fromarray(image).resize((80, 80 * height // width))


def look(picture: Image.Image) -> list[tuple[str, float, float, float, float, float]]:
    """Class name, score and box of what is found, best first."""
    found = best.predict(np.asarray(picture))[0]
    rows = zip(found.cls, found.conf, found.xyxy, strict=True)
    return [(found.names[k], float(c), *map(float, box)) for k, c, box in rows]


# The picture on which the net is surest, for it has a few thousand parameters.
picture = max(map(small, images), key=lambda p: sum(row[1] for row in look(p)))
best.meta = {}
best.save(HERE / "detector_v1.pt")
picture.save(HERE / "detector_v1.ppm")
lines = ["\t".join([name, *(f"{v:.4g}" for v in values)]) for name, *values in look(picture)]
(HERE / "detector_v1.txt").write_text("".join(line + "\n" for line in lines))
print("\n".join(lines))
