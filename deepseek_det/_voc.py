"""PASCAL VOC average precision: `deepseek_det.evaluate.voc` and the files that it reads."""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.parsers import expat

import numpy as np

from deepseek_det import _core
from deepseek_det.errors import Error
from deepseek_det.metrics import Array, Floats, Ints, flatten

_Images = dict[Hashable, Mapping[str, Any]]
Source = str | os.PathLike[str] | Mapping[Any, Mapping[str, Any]] | Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True, eq=False)
class VocResult:
    """VOC figures: ap (K,) of the K classes in `names`, NaN for a class without objects that count.

    positives: (K,) objects that are not difficult. curves: by class name (recall, precision), each
    (n,) over the class's detections, best first.
    """

    ap: Floats
    names: list[Any]
    positives: Ints
    curves: dict[Any, tuple[Floats, Floats]]
    iou: float

    @property
    def map(self) -> float:
        """Mean of ap over the classes that have objects; NaN if none has."""
        valid = self.ap[~np.isnan(self.ap)]
        return float(valid.mean()) if valid.size else float("nan")

    def per_class(self) -> dict[Any, float]:
        """AP by class name."""
        return dict(zip(self.names, self.ap.tolist(), strict=True))


# ---- files


class _Annotation:
    """Builds one image's record while expat walks a VOC file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.parser = expat.ParserCreate()
        self.open: list[str] = []
        self.text = ""
        self.fields: dict[str, str] = {}
        self.record: dict[str, list[Any]] = {"boxes": [], "labels": [], "difficult": []}
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._data
        self.parser.StartDoctypeDeclHandler = self._doctype

    def _fail(self, what: str) -> Error:
        return Error(f"{self.path}:{self.parser.CurrentLineNumber}: {what}")

    def _doctype(self, *_: Any) -> None:
        raise self._fail("a document type came, entities are not read")

    def _start(self, tag: str, _: Any) -> None:
        self.open.append(tag)
        self.text = ""
        if self.open == ["annotation", "object"]:
            self.fields = {}

    def _data(self, text: str) -> None:
        self.text += text

    def _end(self, tag: str) -> None:
        depth = len(self.open)
        inside = self.open[:2] == ["annotation", "object"]
        if inside and (depth == 3 or (depth == 4 and self.open[2] == "bndbox")):
            self.fields[tag] = self.text.strip()  # parts of an object lie deeper
        if inside and depth == 2:
            self._object()
        self.open.pop()

    def _object(self) -> None:
        sides = ("xmin", "ymin", "xmax", "ymax")
        for key in ("name", *sides):
            if key not in self.fields:
                raise self._fail(f"an object has no {key}")
        try:
            box = [float(self.fields[side]) for side in sides]
        except ValueError:
            raise self._fail(f"bndbox is {[self.fields[s] for s in sides]}, no numbers") from None
        if not np.isfinite(box).all():
            raise self._fail(f"bndbox is {box}, finite numbers are needed")
        self.record["boxes"].append(box)
        self.record["labels"].append(self.fields["name"])
        self.record["difficult"].append(self.fields.get("difficult", "0") == "1")

    def read(self) -> dict[str, list[Any]]:
        try:
            self.parser.Parse(self.path.read_bytes(), True)
        except expat.ExpatError as error:
            raise Error(f"{self.path}:{error.lineno}: {expat.ErrorString(error.code)}") from None
        return self.record


def _truth_from_folder(folder: Path) -> _Images:
    """Image name -> record, of all *.xml in a folder or in its Annotations."""
    inner = folder / "Annotations"
    files = sorted((inner if inner.is_dir() else folder).glob("*.xml"))
    if not files:
        raise Error(f"{folder}: there is no *.xml, a folder of VOC annotations was needed")
    return {path.stem: _Annotation(path).read() for path in files}


def _detections_from_folder(folder: Path) -> _Images:
    """Image name -> record, of the kit's results `<anything>_<class>.txt`: image score box."""
    files = sorted(folder.glob("*_*.txt"))
    if not files:
        raise Error(f"{folder}: there is no *_<class>.txt, a folder of VOC results was needed")
    images: dict[Hashable, dict[str, list[Any]]] = {}
    for path in files:
        label = path.stem.rsplit("_", 1)[1]
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            parts = line.split()
            if not parts:
                continue
            try:
                values = [float(part) for part in parts[1:]]
            except ValueError:
                values = []
            if len(values) != 5 or not np.isfinite(values).all():
                raise Error(
                    f"{path}:{number}: {line[:60]!r} came, image, score and four corners are needed"
                )
            empty: dict[str, list[Any]] = {"boxes": [], "scores": [], "labels": []}
            record = images.setdefault(parts[0], empty)
            record["scores"].append(values[0])
            record["boxes"].append(values[1:])
            record["labels"].append(label)
    return dict(images)


# ---- records


def _images(source: Source, results: bool) -> _Images:
    if isinstance(source, str | os.PathLike):
        folder = Path(source)
        if not folder.is_dir():
            raise Error(f"{folder}: a folder was needed")
        return _detections_from_folder(folder) if results else _truth_from_folder(folder)
    return dict(source) if isinstance(source, Mapping) else dict(enumerate(source))


def _field(record: Mapping[str, Any], key: str, who: str, shape: tuple[int, ...]) -> Array:
    """A field as an array of n values, or (n, 4); empty lists have any shape."""
    if key not in record:
        raise ValueError(f"voc: {who}: there is no {key!r}, there are {sorted(record)}")
    values = np.asarray(record[key])
    if values.size == 0:
        values = values.reshape((0, *shape[1:]))
    if (
        values.ndim != len(shape)
        or values.shape[1:] != shape[1:]
        or shape[0]
        not in (
            -1,
            len(values),
        )
    ):
        wanted = tuple("n" if side < 0 else side for side in shape)
        raise ValueError(f"voc: {who}: {key} of shape {values.shape} came, {wanted} is needed")
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise ValueError(f"voc: {who}: {key} holds a value that is not finite")
    return values


def _columns(images: _Images, keys: Iterable[Hashable], fields: Sequence[str]) -> list[list[Array]]:
    """Per field, the list of its arrays over the images; boxes come first and set the count."""
    columns: list[list[Array]] = [[] for _ in range(len(fields) + 1)]
    for key in keys:
        record = images[key]
        boxes = _field(record, "boxes", f"image {key!r}", (-1, 4))
        columns[0].append(boxes)
        for column, name in zip(columns[1:], fields, strict=True):
            if name == "difficult" and name not in record:
                column.append(np.zeros(len(boxes), bool))
            else:
                column.append(_field(record, name, f"image {key!r}", (len(boxes),)))
    return columns


def _flat_labels(parts: list[Array]) -> list[Any]:
    return [label for part in parts for label in part.tolist()]


def _curves(
    names: list[Any], order: Array, fates: Array, classes: Array, positives: Ints
) -> dict[Any, tuple[Floats, Floats]]:
    curves = {}
    for k, name in enumerate(names):
        fate = fates[order[classes[order] == k]]
        hits, false = np.cumsum(fate == 1), np.cumsum(fate == 0)
        recall = hits / max(int(positives[k]), 1)
        curves[name] = (recall, hits / np.maximum(hits + false, 1))
    return curves


def voc(
    gt: Source,
    dt: Source,
    use_07_metric: bool = False,
    *,
    iou: float = 0.5,
    names: Sequence[Any] | None = None,
) -> VocResult:
    """Average precision as the PASCAL VOC development kit computes it, on raw VOC values.

    gt: by image {boxes (n, 4) xmin ymin xmax ymax in inclusive pixels, labels (n,), difficult (n,)
    optional}, as a mapping from image to record or a sequence of records; or a folder of VOC XML
    files. dt: the same with scores (m,), its images among gt's; or a folder of the kit's results
    `<anything>_<class>.txt`. Labels are names or numbers. use_07_metric: the mean of eleven
    precisions (VOC2007), else the whole area under the curve. names: the classes, by default all
    that occur in gt, sorted; other labels are left out.

    Raises ValueError on records that do not fit and Error on a broken file.

    >>> gt = [{"boxes": [[1, 1, 10, 10], [20, 20, 29, 29]], "labels": ["cat", "cat"]}]
    >>> dt = [{"boxes": [[1, 1, 10, 10]], "labels": ["cat"], "scores": [0.9]}]
    >>> voc(gt, dt).map, round(voc(gt, dt, use_07_metric=True).map, 3)
    (0.5, 0.545)
    """
    truth, found = _images(gt, False), _images(dt, True)
    keys = list(truth)
    unknown = [key for key in found if key not in truth]
    if unknown:
        raise ValueError(f"voc: detections of image {unknown[0]!r} came, gt does not have it")
    if not isinstance(iou, int | float) or not 0 < iou <= 1:
        raise ValueError(f"voc: iou is {iou!r}, more than 0 and at most 1 is needed")
    nothing: Mapping[str, Any] = {"boxes": [], "labels": [], "scores": []}
    found = {key: found.get(key, nothing) for key in keys}
    t_box, t_label, difficult = _columns(truth, keys, ("labels", "difficult"))
    d_box, d_label, score = _columns(found, keys, ("labels", "scores"))
    names = sorted(set(_flat_labels(t_label))) if names is None else list(names)
    place = {name: k for k, name in enumerate(names)}
    t_class = np.array([place.get(x, -1) for x in _flat_labels(t_label)], np.int32)
    d_class = np.array([place.get(x, -1) for x in _flat_labels(d_label)], np.int32)
    t_image, d_image = flatten(t_label, object)[1], flatten(d_label, object)[1]
    hard = flatten(difficult, np.bool_)[0]
    t_boxes = flatten(t_box, np.float64)[0].reshape(-1, 4)
    d_boxes = flatten(d_box, np.float64)[0].reshape(-1, 4)
    ap, positives, fates, order = _core.voc_evaluate(
        len(keys),
        len(names),
        (t_image, t_class, t_boxes, None, hard, None),
        (d_image, d_class, d_boxes, flatten(score, np.float64)[0]),
        float(iou),
        use_07_metric,
    )
    return VocResult(ap, names, positives, _curves(names, order, fates, d_class, positives), iou)
