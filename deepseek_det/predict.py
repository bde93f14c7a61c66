"""Prediction and validation: batches of letterboxed images through the deployed net."""

from __future__ import annotations

import contextlib
import glob
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from deepseek_det import ops
from deepseek_det.data.decode import decode, header
from deepseek_det.data.loader import ImageCache, stream
from deepseek_det.data.records import IMAGE_SUFFIXES
from deepseek_det.data.transforms import check_imgsz, letterbox, shrink_for
from deepseek_det.errors import Error
from deepseek_det.metrics import Metrics, evaluate_detections
from deepseek_det.progress import Progress
from deepseek_det.results import Results

if TYPE_CHECKING:
    from deepseek_det.data import Dataset
    from deepseek_det.detector import Detector

Detected = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.int64]]

BATCH = 4
"""Images of a folder or list that go through the net at once; the results do not depend on it."""

VIDEO_SUFFIXES = frozenset((".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg"))


def postprocess(
    detector: Detector,
    images: npt.NDArray[np.uint8],
    maps: npt.NDArray[np.float32],
    conf: float,
    iou: float,
    max_det: int,
) -> list[Detected]:
    """Letterboxed images (N, S, S, 3) to boxes, scores and classes in the original images.

    maps: (N, 5) as `ops.detect` takes them.
    """
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


def check_thresholds(conf: float, iou: float, max_det: int, who: str) -> None:
    """Raises ValueError naming the first one that is out of range."""
    for name, value in (("conf", conf), ("iou", iou)):
        if isinstance(value, (str, bytes)) or not 0 <= value <= 1:
            raise ValueError(f"{who}: {name} is {value!r}, a number from 0 to 1 was needed")
    if isinstance(max_det, bool) or not isinstance(max_det, int) or max_det < 1:
        raise ValueError(f"{who}: max_det is {max_det!r}, a whole number from 1 was needed")


# ---- validation -----------------------------------------------------------------------------


def load_for(
    names: Sequence[str],
    data: str | os.PathLike[str] | Dataset,
    split: str,
    strict: bool = False,
    images: str | os.PathLike[str] | None = None,
    who: str = "val",
) -> Dataset:
    """A split of a data set with its classes in the order of `names`.

    A split may lack classes or list them in another order; Error for one that `names` lacks.
    """
    from deepseek_det.data import load

    dataset = load(data, split, strict=strict, images=images)
    if list(dataset.names) == list(names):
        return dataset
    if isinstance(data, (str, os.PathLike)) and set(dataset.names) <= set(names):
        return load(data, split, strict=strict, images=images, names=names)
    raise Error(
        f"{who}: {dataset.root}, split {split}, has the classes {list(dataset.names)}; "
        f"{list(names)} were needed"
    )


def detect_dataset(
    detector: Detector,
    dataset: Dataset,
    conf: float = 0.001,
    iou: float = 0.6,
    max_det: int = 300,
    imgsz: int | None = None,
    batch: int = 16,
    workers: int | None = None,
    cache: ImageCache | None = None,
    progress: Progress | None = None,
) -> list[Detected]:
    """The detections on each record of a data set: boxes, scores and classes.

    Raises Error where the data set's classes are not the detector's, ValueError on arguments.
    """
    from deepseek_det.detector import letterbox_maps

    check_thresholds(conf, iou, max_det, "val")
    if list(dataset.names) != list(detector.names):
        raise Error(
            f"val: {dataset.root} has the classes {list(dataset.names)}, "
            f"the detector {list(detector.names)}"
        )
    side = check_imgsz(detector.imgsz if imgsz is None else imgsz, "val")
    detections: list[Detected] = []
    batches = stream(dataset, side, batch, None, workers=workers, cache=cache)
    steps = -(-len(dataset) // batch)
    with contextlib.closing(batches), (progress or Progress(False)).bar(steps, "val") as bar:  # type: ignore[type-var]
        for b in batches:
            maps = letterbox_maps(b.sizes, b.scales, b.pads)
            detections += postprocess(detector, b.images, maps, conf, iou, max_det)
            bar.update()
    return detections


def figures(dataset: Dataset, detections: list[Detected]) -> Metrics:
    """COCO figures of the detections on each record of a data set."""
    targets = [(r.boxes, r.labels, r.ignore) for r in dataset.records]
    return evaluate_detections(targets, detections, dataset.names)


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

    Raises Error where the data set's classes are not the detector's, ValueError on arguments.
    """
    return figures(
        dataset,
        detect_dataset(detector, dataset, conf, iou, max_det, imgsz, batch, workers, cache),
    )


# ---- prediction -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Item:
    """One image to look at. optional: found by looking into a folder, so it may turn out to be
    damaged without ending the run."""

    source: Any
    path: str | None = None
    frame: int | None = None
    optional: bool = False
    alone: bool = False


@dataclass(frozen=True, slots=True)
class _Ready:
    """A letterboxed image and how its pixels map to the original's."""

    item: _Item
    pixels: npt.NDArray[np.uint8]
    map: tuple[float, float, float, float, float]


def predict(
    detector: Detector,
    source: Any,
    conf: float = 0.25,
    iou: float = 0.7,
    max_det: int = 300,
    imgsz: int | None = None,
) -> Iterator[Results]:
    """The generator behind `Detector.predict`; arguments are checked before it starts.

    An image of a folder or glob that can't be decoded is passed over with a warning; one that was
    named is an Error.
    """
    check_thresholds(conf, iou, max_det, "predict")
    side = check_imgsz(detector.imgsz if imgsz is None else imgsz, "predict")
    if not detector.names:
        raise Error(
            "predict: the detector knows no classes yet; train it, or name them: "
            "Detector(..., classes=[...])"
        )
    return _predict(detector, _items(source), side, (conf, iou, max_det))


def _predict(
    detector: Detector, items: Iterator[_Item], side: int, thresholds: tuple[float, float, int]
) -> Iterator[Results]:
    waiting: list[_Ready] = []
    for item in items:
        try:
            waiting.append(_prepare(item, side))
        except Error as error:
            if not item.optional:
                raise
            warnings.warn(f"predict: passed over: {error}", stacklevel=3)
        if len(waiting) == BATCH or (waiting and item.alone):
            yield from _look(detector, waiting, thresholds)
            waiting = []
    if waiting:
        yield from _look(detector, waiting, thresholds)


def _prepare(item: _Item, side: int) -> _Ready:
    """Decodes as validation does: scaled down while decoding where that is enough."""
    if isinstance(item.source, np.ndarray):
        height, width = item.source.shape[:2]
        boxed = letterbox(item.source, side)
    else:
        seen = header(item.source)
        width, height = seen.width, seen.height
        pixels = decode(item.source, shrink_for(width, height, side))
        boxed = letterbox(pixels, side, size=(width, height))
    return _Ready(item, boxed.image, (boxed.scale, *boxed.pad, width, height))


def _look(
    detector: Detector, ready: list[_Ready], thresholds: tuple[float, float, int]
) -> Iterator[Results]:
    images = np.stack([r.pixels for r in ready])
    maps = np.array([r.map for r in ready], np.float32)
    for r, (xyxy, conf, cls) in zip(
        ready, postprocess(detector, images, maps, *thresholds), strict=True
    ):
        shape = (int(r.map[4]), int(r.map[3]))
        yield Results(
            xyxy.copy(),  # not a view that keeps the whole batch's capacity alive
            conf.copy(),
            cls,
            list(detector.names),
            r.item.path,
            shape,
            r.item.frame,
            tuple(detector.categories),
            r.item.source,
        )


# ---- sources --------------------------------------------------------------------------------


def _items(source: Any) -> Iterator[_Item]:
    """All images of a source; what is wrong with the source itself is raised at once."""
    if isinstance(source, (list, tuple)):
        if not source:
            raise ValueError("predict: an empty list came, at least one image was needed")
        parts = [_items(part) for part in source]
        return (item for part in parts for item in part)
    if isinstance(source, (str, os.PathLike)):
        return _from_path(os.fspath(source))
    if isinstance(source, (bytes, bytearray, memoryview)):
        return iter([_Item(bytes(source))])
    if isinstance(source, np.ndarray):
        return iter([_Item(_checked(source))])
    if hasattr(source, "getexif") and hasattr(source, "mode"):  # PIL's Image, without its import
        return iter([_Item(source, getattr(source, "filename", None) or None)])
    raise TypeError(
        f"predict: source is {type(source).__name__}; a path, folder, glob, bytes, PIL image, "
        "(H, W, 3) uint8 array or a list of these was needed"
    )


def _checked(image: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(
            f"predict: an array {image.shape} {image.dtype} came, (H, W, 3) uint8 RGB was needed"
        )
    return np.ascontiguousarray(image)


def _from_path(name: str | bytes) -> Iterator[_Item]:
    text = os.fsdecode(name)
    if "\0" in text or not text:
        raise ValueError(f"predict: source {text!r} is no file name")
    path = Path(text)
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
        if not files:
            raise Error(f"predict: the folder {text} holds no image; it is not searched deeper")
    elif path.exists():
        if path.suffix.lower() in VIDEO_SUFFIXES:
            return _frames(path)
        return iter([_Item(path, text)])
    elif glob.has_magic(text):
        found = map(Path, glob.glob(text, recursive=True))  # noqa: PTH207  (an absolute one, too)
        files = sorted(p for p in found if p.suffix.lower() in IMAGE_SUFFIXES)
        if not files:
            raise Error(f"predict: no image matches {text}")
    else:
        raise Error(f"predict: {text}: no such file or folder")
    return iter([_Item(p, str(p), optional=True) for p in files])


def _frames(path: Path) -> Iterator[_Item]:
    """The frames of a video, one at a time."""
    try:
        import cv2  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        raise Error(
            f"predict: {path} is a video; opencv is needed for it: "
            'pip install "deepseek-det[video]"'
        ) from None
    video = cv2.VideoCapture(str(path))
    if not video.isOpened():
        raise Error(f"predict: {path} can't be opened as a video")
    return _read_frames(video, path)


def _read_frames(video: Any, path: Path) -> Iterator[_Item]:
    number = 0
    try:
        while True:
            more, frame = video.read()
            if not more:
                break
            rgb = np.ascontiguousarray(frame[:, :, ::-1])
            yield _Item(rgb, str(path), number, alone=True)
            number += 1
    finally:
        video.release()
    if not number:
        raise Error(f"predict: {path} holds no frame that can be decoded")
