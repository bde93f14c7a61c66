"""Prediction and validation: batches of letterboxed images through the deployed net."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from deepseek_det import ops
from deepseek_det.data.loader import ImageCache, stream
from deepseek_det.data.transforms import check_imgsz
from deepseek_det.errors import Error
from deepseek_det.metrics import Metrics, evaluate_detections

if TYPE_CHECKING:
    from deepseek_det.data import Dataset
    from deepseek_det.detector import Detector

Detected = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.int64]]


def postprocess(
    detector: Detector,
    images: npt.NDArray[np.uint8],
    maps: npt.NDArray[np.float32],
    conf: float,
    iou: float,
    max_det: int,
) -> list[Detected]:
    """Letterboxed images (N, S, S, 3) to boxes, scores and classes in the original images."""
    out = detector.infer(images)
    found = ops.detect(
        out["cls"],
        out["box"],
        detector.anchors_for(images.shape[1]).boxes,
        maps,
        conf=conf,
        iou=iou,
        max_det=max_det,
    )
    return [
        (found.boxes[i, :n], found.scores[i, :n], found.classes[i, :n].astype(np.int64))
        for i, n in enumerate(found.counts)
    ]


def evaluate(
    detector: Detector,
    dataset: Dataset,
    conf: float = 0.001,
    iou: float = 0.6,
    max_det: int = 300,
    imgsz: int | None = None,
    batch: int = 16,
    workers: int | None = None,
    cache: ImageCache | None = None,
) -> Metrics:
    """COCO figures of a detector on a data set.

    Raises Error where the data set's classes are not the detector's.
    """
    from deepseek_det.detector import letterbox_maps

    if list(dataset.names) != list(detector.names):
        raise Error(
            f"val: {dataset.root} has the classes {list(dataset.names)}, "
            f"the detector {list(detector.names)}"
        )
    side = check_imgsz(imgsz or detector.imgsz, "val")
    targets: list[Any] = []
    detections: list[Detected] = []
    batches = stream(dataset, side, batch, None, workers=workers, cache=cache)
    with contextlib.closing(batches):  # type: ignore[type-var]
        for b in batches:
            maps = letterbox_maps(b.sizes, b.scales, b.pads)
            detections += postprocess(detector, b.images, maps, conf, iou, max_det)
            for i in b.indices:
                record = dataset.records[int(i)]
                targets.append((record.boxes, record.labels, record.ignore))
    return evaluate_detections(targets, detections, dataset.names)
