"""Whether an exported file says what the detector says: both look at the same images.

The file runs in onnxruntime (``pip install onnxruntime``), on one image and on a batch. What is
compared is what a user gets: detections in the original image, after NMS where the file has none.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from deepseek_det import ops
from deepseek_det.errors import Error
from deepseek_det.onnx.export import INPUT, Options
from deepseek_det.onnx.read import package

if TYPE_CHECKING:
    from deepseek_det.detector import Detector

BOX_PX, SCORE = 0.05, 1e-4
"""The largest differences that pass: a box's edge in pixels of the original image, a score."""
FAR = 1000.0
"""Allowed differences, that many times: farther apart are not the same detection."""
LOW = 0.001
"""The confidence of the comparison where nothing is found above the file's own."""
PRE_NMS = 4096
"""Candidates that `predict`'s NMS looks at."""
DRAWN = 4
"""Images that are drawn where none are given."""
BATCH = 4
"""Images that go through the file at once."""

Found = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.int64]]


@dataclass(frozen=True)
class Comparison:
    """One image: how many detections `predict` has, and what lies between them and the file's.

    box_px, score: the largest differences of pairs; unmatched: detections of either side without a
    partner. batch_px, batch_score, batch_unmatched: the same between the file's answer to the image
    alone and in a batch.
    """

    image: str
    count: int
    box_px: float
    score: float
    unmatched: int
    batch_px: float
    batch_score: float
    batch_unmatched: int

    @property
    def ok(self) -> bool:
        """Whether all is within BOX_PX and SCORE, and every detection has a partner."""
        return (
            max(self.box_px, self.batch_px) <= BOX_PX
            and max(self.score, self.batch_score) <= SCORE
            and self.unmatched == self.batch_unmatched == 0
        )


@dataclass(frozen=True)
class Verification:
    """What `verify` found, at which confidence; its text is a table for people."""

    path: str
    conf: float
    rows: list[Comparison] = field(default_factory=list)

    @property
    def count(self) -> int:
        """How many detections were compared."""
        return sum(r.count for r in self.rows)

    @property
    def ok(self) -> bool:
        """Whether every image passed, and there was something to compare."""
        return self.count > 0 and all(r.ok for r in self.rows)

    def worst(self) -> dict[str, float]:
        """The largest value of every column."""
        names = [f.name for f in fields(Comparison) if f.name not in ("image", "count")]
        return {n: max((float(getattr(r, n)) for r in self.rows), default=0.0) for n in names}

    def __str__(self) -> str:
        width = max([len("image"), *(len(r.image) for r in self.rows)])
        head = f"{'image':<{width}}  found  box, px    score  unmatched  in a batch: px    score"
        lines = [head]
        for r in self.rows:
            lines.append(
                f"{r.image:<{width}}  {r.count:>5}  {r.box_px:>7.4f}  {r.score:>7.1e}  "
                f"{r.unmatched:>9}  {r.batch_px:>14.4f}  {r.batch_score:>7.1e}"
                f"{'' if r.ok else '  too much'}"
            )
        return "\n".join([*lines, self.verdict()])

    def verdict(self) -> str:
        """The last line of the table."""
        limits = f"{BOX_PX} px and {SCORE:g} are allowed"
        if not self.count:
            return f"{self.path}: nothing was found above {self.conf}, so nothing was compared"
        word = "agrees with" if self.ok else "DIFFERS from"
        return f"{self.path} in onnxruntime {word} predict above {self.conf}: {limits}"


def runtime() -> Any:
    """The onnxruntime package; Error with the way to install it where it is missing."""
    try:
        import onnxruntime  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError:
        raise Error(
            "export: verify: onnxruntime is needed for it: pip install onnxruntime"
        ) from None
    return onnxruntime


def session(model: str | os.PathLike[str] | bytes) -> Any:
    """An onnxruntime session on the CPU for a file or its bytes; Error where that can't be."""
    onnxruntime = runtime()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    source = model if isinstance(model, bytes) else os.fspath(model)
    try:
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        text = str(error).split("\n")[0]
        raise Error(f"export: verify: onnxruntime refuses the file: {text}") from error


def verify(
    detector: Detector,
    path: str | os.PathLike[str],
    source: Any = None,
    conf: float = 0.25,
    iou: float = 0.7,
    max_det: int = 300,
) -> Verification:
    """Compares a file that `Detector.export` wrote with the detector's `predict`.

    source: images as `Detector.predict` takes them; None: a few that are drawn. conf, iou, max_det:
    of the NMS behind a file that has none inside; one that has says its own. Where nothing is found
    above conf, LOW stands for it, in the file too.
    Raises Error without onnxruntime, and for a file that says too little of itself.
    """
    run = session(path)
    options = _options_of(run, os.fspath(path), Options(conf=conf, iou=iou, max_det=max_det))
    options = options.checked(detector)
    found = _compare(detector, run, source, options, os.fspath(path))
    if found.count or options.conf <= LOW:
        return found
    low = replace(options, conf=LOW)
    return _compare(detector, session(_lowered(path)), source, low, os.fspath(path))


def _options_of(run: Any, path: str, given: Options) -> Options:
    """What a file's metadata say of it, and `given` for the rest."""
    facts = run.get_modelmeta().custom_metadata_map
    try:
        size, nms = int(facts["imgsz"]), facts["nms"] == "true"
        if not nms:
            return replace(given, imgsz=size)
        conf, iou = float(facts["conf"]), float(facts["iou"])
        return Options(nms=True, conf=conf, iou=iou, max_det=int(facts["max_det"]), imgsz=size)
    except (KeyError, ValueError) as error:
        raise Error(
            f"export: verify: {path} is no file of a detector: its metadata lack {error}"
        ) from None


def _lowered(path: str | os.PathLike[str]) -> bytes:
    """The file with LOW in place of its threshold, where it has one."""
    onnx = package()
    model = onnx.load(os.fspath(path))
    thresholds = [n.input[4] for n in model.graph.node if n.op_type == "NonMaxSuppression"]
    low = np.array([LOW], np.float32)
    for tensor in model.graph.initializer:
        if tensor.name in thresholds:
            tensor.CopyFrom(onnx.numpy_helper.from_array(low, tensor.name))
    return bytes(model.SerializeToString())


def _compare(detector: Detector, run: Any, source: Any, o: Options, path: str) -> Verification:
    rows: list[Comparison] = []
    for names, pixels, maps in _batches(source, int(o.imgsz or 0)):
        batch = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2), np.float32) / np.float32(255)
        together = run.run(None, {INPUT: batch})[0]
        for i, name in enumerate(names):
            one = slice(i, i + 1)
            alone = detections(run.run(None, {INPUT: batch[one]})[0], maps[one], o)[0]
            shared = detections(together[one], maps[one], o)[0]
            ours = _predicted(detector, pixels[one], maps[one], o)
            both = (*differences(ours, alone, o), *differences(alone, shared, o))
            rows.append(Comparison(name, len(ours[1]), *both))
    return Verification(path, o.conf, rows)


def _batches(
    source: Any, size: int
) -> Iterator[tuple[list[str], npt.NDArray[np.uint8], npt.NDArray[np.float32]]]:
    """Names, letterboxed pixels and the ways back, BATCH at a time, as `predict` prepares them."""
    from deepseek_det.predict import _items, _prepare

    items = _items(_drawn() if source is None else source)
    number = 0
    while chunk := list(islice(items, BATCH)):
        ready = [_prepare(item, size) for item in chunk]
        names = []
        for r in ready:
            unnamed = f"{'drawn' if source is None else 'image'} {number}"
            names.append(Path(r.item.path).name if r.item.path else unnamed)
            number += 1
        maps = np.array([r.map for r in ready], np.float32)
        yield names, np.stack([r.pixels for r in ready]), maps


def _drawn() -> list[npt.NDArray[np.uint8]]:
    """Pictures of the demo's kind, of several shapes."""
    from deepseek_det.data.synthetic import picture

    pictures = [np.asarray(picture(0, i)[0]) for i in range(DRAWN)]
    return [p if i % 2 else np.ascontiguousarray(p[: 200 + 20 * i]) for i, p in enumerate(pictures)]


def _predicted(
    detector: Detector, pixels: npt.NDArray[np.uint8], maps: npt.NDArray[np.float32], o: Options
) -> Found:
    """`predict`'s detections on one letterboxed image.

    A file with NMS inside can't know where the letterbox's margin begins: what lies in it has a row
    like any other, and so it has here.
    """
    from deepseek_det.predict import postprocess

    if not o.nms:
        return postprocess(detector, pixels, maps, o.conf, o.iou, o.max_det)[0]
    whole = np.array([[1, 0, 0, pixels.shape[2], pixels.shape[1]]], np.float32)
    boxes, scores, classes = postprocess(detector, pixels, whole, o.conf, o.iou, o.max_det)[0]
    table = np.concatenate([boxes, scores[:, None], classes[:, None].astype(np.float32)], 1)
    return _from_table(table, maps[0])


def detections(
    output: npt.NDArray[np.float32], maps: npt.NDArray[np.float32], o: Options
) -> list[Found]:
    """The detections in a file's output, mapped back to the original images.

    maps: (N, 5) scale, pad x, pad y, width, height, as `ops.detect` takes them.
    """
    return [
        _from_table(one, way) if o.nms else _from_raw(one, way, o)
        for one, way in zip(output, maps, strict=True)
    ]


def _map_back(xyxy: npt.NDArray[Any], way: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    scale, x, y, width, height = way.astype(np.float64)
    boxes = (xyxy.astype(np.float64) - (x, y, x, y)) / scale
    clipped: npt.NDArray[np.float64] = np.clip(boxes, 0, (width, height, width, height))
    return clipped.astype(np.float32)


def _from_table(rows: npt.NDArray[np.float32], way: npt.NDArray[np.float32]) -> Found:
    real = rows[:, 4] > 0
    return _map_back(rows[real, :4], way), rows[real, 4], rows[real, 5].astype(np.int64)


def _from_raw(columns: npt.NDArray[np.float32], way: npt.NDArray[np.float32], o: Options) -> Found:
    candidates: npt.NDArray[np.bool_] = np.greater(columns[4:].T, o.conf)
    anchor, cls = np.nonzero(candidates)
    scores = columns[4 + cls, anchor]
    centre, half = columns[:2, anchor].T, columns[2:4, anchor].T / 2
    xyxy = np.concatenate([centre - half, centre + half], 1)
    boxes = _map_back(xyxy, way)
    real = (boxes[:, 2:] > boxes[:, :2]).all(1)
    best = np.flatnonzero(real)
    best = best[np.argsort(-scores[best], kind="stable")[:PRE_NMS]]
    boxes, xyxy, scores, cls = boxes[best], xyxy[best], scores[best], cls[best]
    kept = ops.nms(xyxy, scores, o.iou, classes=cls.astype(np.int32), max_det=o.max_det)
    return boxes[kept], scores[kept], cls[kept].astype(np.int64)


def differences(ours: Found, theirs: Found, o: Options) -> tuple[float, float, int]:
    """Largest difference of boxes and of scores over the pairs, and how many have no partner.

    A pair is of one class and the closest that there is, each used once. A detection within SCORE
    of the lowest score that could stay needs no partner: rounding decides whether it does.
    """
    box_px, score, unmatched = 0.0, 0.0, 0
    lowest = [_lowest(side[1], o) for side in (ours, theirs)]
    left = np.ones(len(theirs[1]), bool)
    for box, own, cls in zip(*ours, strict=True):
        apart = np.abs(theirs[0] - box).max(1, initial=0)
        scores = np.abs(theirs[1] - own)
        near = np.where(left & (theirs[2] == cls), apart / BOX_PX + scores / SCORE, np.inf)
        k = int(near.argmin()) if len(near) else -1
        if k < 0 or not near[k] < FAR:
            unmatched += int(own > lowest[1] + SCORE)
            continue
        left[k] = False
        box_px, score = max(box_px, float(apart[k])), max(score, float(scores[k]))
    return box_px, score, unmatched + int((theirs[1][left] > lowest[0] + SCORE).sum())


def _lowest(scores: npt.NDArray[np.float32], o: Options) -> float:
    """What a score had to be above: conf, or the last one that found room."""
    return float(scores.min()) if len(scores) >= o.max_det else o.conf
