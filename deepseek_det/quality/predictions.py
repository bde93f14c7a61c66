"""What a model sees on the images of a data set, kept for judging the labels by it.

A model that was trained on a label remembers it, right or wrong. So predictions for judging labels
come from `fold_predictions`: k models, each of which looks at images that it has not seen.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from deepseek_det.checkpoint import write_bytes
from deepseek_det.data.datasets import Dataset
from deepseek_det.data.loader import stream
from deepseek_det.data.records import Record
from deepseek_det.data.transforms import check_imgsz
from deepseek_det.errors import Error
from deepseek_det.quality.disputes import parse_json
from deepseek_det.quality.sets import Source, one_set

if TYPE_CHECKING:
    from deepseek_det.detector import Detector

FORMAT, VERSION = "deepseek_det predictions", 1
CONF, IOU, MAX_DET = 0.05, 0.6, 200
SCALES = (0.75, 1.25)
"""Other sizes at which the model looks again, as shares of its own."""


class Seen(NamedTuple):
    """What a model sees on one image: xyxy (n, 4) float32 pixels, conf (n,) float32, labels (n,)
    int32 positions in the names; best first."""

    xyxy: npt.NDArray[np.float32]
    conf: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int32]


@dataclass(slots=True)
class Predictions:
    """A model's detections on the images of a data set, from several views.

    names: the classes; views: what was shown ("plain", "flip", "0.75", …), the plain one first;
    images: {image's name: what is seen in each view}, for the names that `rank` uses: file names,
    with as many folders before them as it takes to tell them apart.
    """

    names: list[str]
    views: list[str]
    images: dict[str, list[Seen]]

    def write(self, path: str | os.PathLike[str]) -> Path:
        """Writes a JSON file: {"names", "views", "images": {name: [{"xyxy", "conf", "labels"}]}}.

        Raises OSError where that can't be written.
        """
        images = {
            name: [
                {"xyxy": s.xyxy.tolist(), "conf": s.conf.tolist(), "labels": s.labels.tolist()}
                for s in seen
            ]
            for name, seen in self.images.items()
        }
        content = {"format": FORMAT, "version": VERSION, "names": self.names}
        content |= {"views": self.views, "images": images}
        write_bytes(path, (json.dumps(content, allow_nan=False) + "\n").encode("utf-8"))
        return Path(path)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Predictions:
        """Reads what `write` wrote. Raises Error where it is no such file."""
        file = Path(path)
        content = parse_json(file, "predictions")
        try:
            if content["format"] != FORMAT or content["version"] != VERSION:
                raise ValueError(f"format {content['format']!r} version {content['version']!r}")
            names, views = [str(n) for n in content["names"]], [str(v) for v in content["views"]]
            images = {
                str(name): [_seen(s, len(names)) for s in seen]
                for name, seen in content["images"].items()
            }
            if not views or any(len(seen) != len(views) for seen in images.values()):
                raise ValueError(f"not every image has {len(views)} views")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise Error(f"predictions: {file}: {type(error).__name__} {error}") from None
        return cls(names, views, images)


def _seen(row: Any, classes: int) -> Seen:
    xyxy = np.array(row["xyxy"], np.float32).reshape(-1, 4)
    conf, labels = np.array(row["conf"], np.float32), np.array(row["labels"], np.int32)
    if not len(xyxy) == len(conf) == len(labels):
        raise ValueError(f"{len(xyxy)} boxes, {len(conf)} confidences and {len(labels)} labels")
    if not (np.isfinite(xyxy).all() and ((conf >= 0) & (conf <= 1)).all()):
        raise ValueError("a box or confidence is out of range")
    if ((labels < 0) | (labels >= classes)).any():
        raise ValueError(f"a label is none of {classes} classes")
    return Seen(xyxy, conf, labels)


def predictions_of(
    det: Detector,
    data: Source,
    views: bool = True,
    imgsz: int | None = None,
    batch: int = 16,
    workers: int | None = None,
) -> Predictions:
    """What one detector sees on all images of a data set.

    views: look at mirrored and scaled images, too, which shows where it wavers. imgsz: None for the
    size that it was trained at. Beware: on images that it was trained on it repeats the labels.
    Raises Error where the classes are not the detector's.
    """
    named, names = one_set(data, "predictions_of")
    return _predict(det, named, names, views, imgsz, batch, workers)


def _predict(
    det: Detector,
    named: Mapping[str, Record],
    names: Sequence[str],
    views: bool,
    imgsz: int | None,
    batch: int,
    workers: int | None,
) -> Predictions:
    if set(det.names) != set(names):
        raise Error(f"predictions_of: the data has {list(names)}, the detector {det.names}")
    side = check_imgsz(det.imgsz if imgsz is None else imgsz, "predictions_of")
    shown = [("plain", side, False)]
    if views:
        shown.append(("flip", side, True))
        sizes = {f"{s:g}": max(32, round(side * s / 32) * 32) for s in SCALES}
        shown += [(name, s, False) for name, s in sizes.items() if s != side]
    # The records' own labels play no part, but those of a class the net lacks would be refused.
    blank = [_without_labels(r) for r in named.values()]
    dataset = Dataset(Path(), "all", "coco", det.names, det.categories, blank)
    images: dict[str, list[Seen]] = {name: [] for name in named}
    place = np.array([list(names).index(n) for n in det.names], np.int32)
    for _, size, flip in shown:
        found = _look(det, dataset, size, flip, batch, workers)
        for name, (xyxy, conf, labels) in zip(named, found, strict=True):
            images[name].append(Seen(xyxy.copy(), conf.copy(), place[labels]))
    return Predictions(list(names), [v[0] for v in shown], images)


def _without_labels(record: Record) -> Record:
    empty = np.zeros((0, 4), np.float32)
    size = (record.width, record.height)
    none = np.zeros(0, np.int32), np.zeros(0, np.bool_)
    return Record(record.path, record.id, *size, empty, *none)


def _look(
    det: Detector, dataset: Dataset, side: int, flip: bool, batch: int, workers: int | None
) -> list[tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.int64]]]:
    """Detections on every record; `flip` mirrors the letterboxed image, and the boxes back."""
    from deepseek_det.detector import letterbox_maps
    from deepseek_det.predict import postprocess

    results = []
    batches = stream(dataset, side, batch, None, workers=workers)
    with contextlib.closing(batches):  # type: ignore[type-var]
        for b in batches:
            images, pads, width = b.images, b.pads, b.sizes[:, :1].astype(np.float32)
            if flip:
                images = np.ascontiguousarray(images[:, :, ::-1])
                pads = pads.copy()
                pads[:, 0] = side - pads[:, 0] - np.round(width[:, 0] * b.scales)
            maps = letterbox_maps(b.sizes, b.scales, pads)
            found = postprocess(det, images, maps, CONF, IOU, MAX_DET)
            for (xyxy, conf, labels), w in zip(found, width[:, 0], strict=True):
                if flip:
                    xyxy = np.stack([w - xyxy[:, 2], xyxy[:, 1], w - xyxy[:, 0], xyxy[:, 3]], 1)
                results.append((xyxy, conf, labels))
    return results


def fold_predictions(
    data: Source,
    k: int = 5,
    model: str = "dsdet-n",
    seed: int = 0,
    views: bool = True,
    project: str | os.PathLike[str] = "runs",
    name: str = "folds",
    verbose: bool = True,
    **train: Any,
) -> Predictions:
    """Predictions by k detectors, each of which looks at the images that it was not trained on.

    model: of the registry, or a checkpoint that has not seen the data. Images go to folds by
    `seed`, equal files together. train: arguments of `Detector.train` (epochs, imgsz, batch, …).
    Every fold is a run in project/name/fold<i> with its predictions beside it: when the call is
    repeated with the same arguments, what is finished is read and a run that was cut off goes on.
    Raises ValueError on k, Error on data, or where project/name holds folds of other arguments.
    """
    from deepseek_det.detector import Detector

    named, names = one_set(data, "fold_predictions")
    if isinstance(k, bool) or not isinstance(k, int) or not 2 <= k <= len(named):
        raise ValueError(f"fold_predictions: k is {k!r}, 2 to {len(named)} (images) was needed")
    folder = Path(project) / name
    _claim(folder, named, {"k": k, "model": str(model), "seed": seed, "views": views, **train})
    fold = _folds(named, k, seed)
    merged = Predictions(list(names), [], {})
    for i in range(k):
        file = folder / f"fold{i}.json"
        if not file.is_file():
            seen = [r for n, r in named.items() if fold[n] != i]
            unseen = {n: r for n, r in named.items() if fold[n] == i}
            part = Dataset(folder, "train", "coco", list(names), list(range(len(names))), seen)
            last = folder / f"fold{i}" / "weights" / "last.pt"
            if last.is_file():
                det = Detector(last)
                det.train(part, resume=True, project=folder, name=f"fold{i}", verbose=verbose)
            else:
                det = Detector(model, seed=seed)
                options = {"seed": seed, **train, "project": folder, "name": f"fold{i}"}
                det.train(part, exist_ok=True, verbose=verbose, **options)
            _predict(det, unseen, names, views, None, 16, None).write(file)
        one = Predictions.read(file)
        merged.views = one.views
        merged.images |= one.images
    merged.images = {n: merged.images[n] for n in named}
    return merged


def _folds(named: Mapping[str, Record], k: int, seed: int) -> dict[str, int]:
    """Image → fold: equal files in one, the folds as equal in size as that allows."""
    groups: dict[bytes, list[str]] = {}
    for name, record in named.items():
        try:
            content = record.path.read_bytes()
        except OSError as error:
            raise Error(f"fold_predictions: {record.path}: {error.strerror or error}") from error
        groups.setdefault(hashlib.blake2b(content, digest_size=16).digest(), []).append(name)
    members = list(groups.values())
    sizes = [0] * k
    fold: dict[str, int] = {}
    for g in np.random.Generator(np.random.Philox(seed)).permutation(len(members)).tolist():
        i = sizes.index(min(sizes))
        sizes[i] += len(members[g])
        fold |= dict.fromkeys(members[g], i)
    return fold


def _claim(folder: Path, named: Mapping[str, Record], arguments: Mapping[str, Any]) -> None:
    """Writes what the folds are made of, or compares it with what stands there."""
    labels = hashlib.blake2b(digest_size=8)
    for name, r in named.items():
        for part in (name.encode(), r.boxes.tobytes(), r.labels.tobytes(), r.ignore.tobytes()):
            labels.update(len(part).to_bytes(8, "little") + part)
    wanted = json.loads(json.dumps({**arguments, "labels": labels.hexdigest()}, default=str))
    file = folder / "folds.json"
    if file.is_file():
        found = parse_json(file, "fold_predictions")
        if found != wanted:
            raise Error(
                f"fold_predictions: {folder} holds folds of other arguments or labels "
                f"({found}); another name was needed"
            )
        return
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes(file, (json.dumps(wanted) + "\n").encode("utf-8"))
