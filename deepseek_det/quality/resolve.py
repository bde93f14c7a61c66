"""Decisions on disputes become a new data set; the sources are never touched."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deepseek_det.data.datasets import Dataset
from deepseek_det.data.records import Record
from deepseek_det.data.writers import write
from deepseek_det.errors import Error
from deepseek_det.quality.disputes import (
    Agreed,
    Box,
    CrossCheck,
    Dispute,
    parse_json,
    read_disputes,
)
from deepseek_det.quality.sets import Image

ACTIONS = {
    "accept": ("candidate",),
    "merge": ("name",),
    "redraw": ("xyxy", "name"),
    "drop": (),
    "ignore": ("xyxy",),
}
"""Every action with the fields that it may have."""

DECISIONS, DECISIONS_VERSION = "deepseek_det decisions", 1

Decision = Mapping[str, Any]


def resolve(
    q: CrossCheck | str | os.PathLike[str],
    decisions: Mapping[int | str, Decision] | str | os.PathLike[str],
    dst: str | os.PathLike[str],
    undecided: str = "first",
) -> Path:
    """Writes a new COCO set of what is agreed and what was decided; returns its path.

    q: a `CrossCheck`, a ranking, or a file of disputes. decisions: {id: decision}, or the file that
    the page exports. A decision is one of

    - {"action": "accept", "candidate": i}: the i-th candidate; a list of positions keeps several,
      for what turns out to be two objects
    - {"action": "merge"}: the mean of the candidates' boxes; "name" where their classes differ
    - {"action": "redraw", "xyxy": [x0, y0, x1, y1], "name": "…"}: another box
    - {"action": "drop"}: no object
    - {"action": "ignore"}: leave it out of the loss: the area around all candidates (or "xyxy")
      becomes an ignored region (iscrowd 1), which neither trains nor counts

    A redrawn or ignored box is clipped at its image's border. undecided: what becomes of other
    disputes: "first" (the first candidate stays, with a warning), "drop", "ignore", or "error".
    dst: a new or empty folder, in COCO layout with the first annotator's splits, image files
    copied; it appears when all is written. Raises ValueError on decisions that do not fit the
    disputes, Error on files.

    >>> import tempfile
    >>> from deepseek_det.data import load, synthetic
    >>> from deepseek_det.quality import cross_check
    >>> folder = tempfile.mkdtemp()
    >>> data = load(synthetic(folder + "/set", n=3), "test")
    >>> new = resolve(cross_check(data, data), {}, folder + "/new")
    >>> load(new, "test").n_boxes == data.n_boxes
    True
    """
    if undecided not in ("first", "drop", "ignore", "error"):
        raise ValueError(
            f'resolve: undecided is {undecided!r}, "first", "drop", "ignore" or "error" was needed'
        )
    if not isinstance(q, CrossCheck):
        q = read_disputes(q)
    if isinstance(decisions, (str, os.PathLike)):
        decisions = read_decisions(decisions, q)
    chosen = _by_id(q, decisions)
    left = [d for d in q.disputes if d.id not in chosen]
    if left and undecided == "error":
        raise ValueError(f"resolve: {len(left)} disputes are undecided, the first is {left[0].id}")
    if left and undecided == "first":
        warnings.warn(
            f"resolve: {len(left)} of {len(q.disputes)} disputes are undecided: their first "
            "candidates stay",
            stacklevel=2,
        )
    default = {"action": undecided} if undecided != "first" else {"action": "accept"}
    labels: dict[str, list[Agreed]] = {image.name: [] for image in q.images}
    for label in q.agreed:
        labels[label.image].append(label)
    images = {image.name: image for image in q.images}
    for d in q.disputes:
        outcome = _outcome(d, chosen.get(d.id, default), images[d.image], q.names)
        labels[d.image] += outcome
    return write(_datasets(q, labels), dst, "coco", "resolve").path


def read_decisions(
    path: str | os.PathLike[str], q: CrossCheck | None = None
) -> dict[int | str, Decision]:
    """The decisions of a file that the page exported; with `q`, only those made on its disputes.

    Raises Error where it is no such file, or was made for other disputes.
    """
    file = Path(path)
    content = parse_json(file, "read_decisions")
    if not isinstance(content, dict) or content.get("format") != DECISIONS:
        raise Error(f"read_decisions: {file} is no file of decisions, an export of the page is")
    version, found = content.get("version"), content.get("decisions")
    if version != DECISIONS_VERSION or not isinstance(found, dict):
        raise Error(
            f"read_decisions: {file}: version {version!r} came, {DECISIONS_VERSION} with a table "
            "of decisions was needed"
        )
    if q is not None and content.get("digest") != q.digest():
        raise Error(f"read_decisions: {file} decides on other disputes than these")
    return dict(found)


def _by_id(q: CrossCheck, decisions: Mapping[int | str, Decision]) -> dict[int, Decision]:
    """Decisions by the disputes' own ids; JSON makes text of them."""
    if not isinstance(decisions, Mapping):
        raise TypeError(
            f"resolve: decisions are {type(decisions).__name__}, a dictionary or file was needed"
        )
    known = {d.id for d in q.disputes}
    chosen: dict[int, Decision] = {}
    for key, decision in decisions.items():
        id = int(key) if isinstance(key, str) and key.isascii() and key.isdigit() else key
        if isinstance(id, bool) or id not in known:
            raise ValueError(f"resolve: there is no dispute {key!r} (of {len(known)})")
        if id in chosen:
            raise ValueError(f"resolve: dispute {id} is decided twice")
        chosen[int(id)] = decision
    return chosen


def _outcome(d: Dispute, decision: Decision, image: Image, names: Sequence[str]) -> list[Agreed]:
    """The labels that a decision leaves."""
    who = f"resolve: dispute {d.id}"
    action = decision.get("action") if isinstance(decision, Mapping) else None
    if action not in ACTIONS:
        raise ValueError(f"{who}: {decision!r} came, an action of {', '.join(ACTIONS)} was needed")
    extra = set(decision) - {"action", *ACTIONS[action]}
    if extra:
        raise ValueError(
            f"{who}: {action!r} came with {sorted(extra)}, it may have {ACTIONS[action]}"
        )
    boxes = np.array([c.xyxy for c in d.candidates], np.float64)
    if action == "drop":
        return []
    if action == "accept":
        return [
            Agreed(d.image, d.candidates[i].name, d.candidates[i].xyxy)
            for i in _positions(decision, d, who)
        ]
    if action == "ignore":
        hull = _Tuple(*boxes[:, :2].min(0).tolist(), *boxes[:, 2:].max(0).tolist())
        region = _drawn(decision["xyxy"], image, who) if "xyxy" in decision else hull.box()
        return [Agreed(d.image, d.candidates[0].name, region, True)]
    if action == "merge":
        classes = {c.name for c in d.candidates}
        if "name" not in decision and len(classes) > 1:
            raise ValueError(f"{who}: merge of {sorted(classes)} came, a name was needed")
        name = _name(decision.get("name", d.candidates[0].name), names, who)
        return [Agreed(d.image, name, _Tuple(*boxes.mean(0).tolist()).box())]
    if "xyxy" not in decision or "name" not in decision:
        raise ValueError(f"{who}: redraw came with {sorted(decision)}, xyxy and name were needed")
    name = _name(decision["name"], names, who)
    return [Agreed(d.image, name, _drawn(decision["xyxy"], image, who))]


@dataclass(frozen=True, slots=True)
class _Tuple:
    """Four numbers with their types told."""

    x0: float
    y0: float
    x1: float
    y1: float

    def box(self) -> Box:
        return self.x0, self.y0, self.x1, self.y1


def _positions(decision: Decision, d: Dispute, who: str) -> list[int]:
    given = decision.get("candidate", 0)
    every = list(given) if isinstance(given, (list, tuple)) else [given]
    wrong = [
        i
        for i in every
        if isinstance(i, bool)
        or not isinstance(i, (int, np.integer))
        or not 0 <= i < len(d.candidates)
    ]
    if wrong or not every or len(set(every)) < len(every):
        raise ValueError(
            f"{who}: candidate {given!r} came, a position from 0 to {len(d.candidates) - 1}, or "
            "a list of different ones, was needed"
        )
    return [int(i) for i in every]


def _name(name: object, names: Sequence[str], who: str) -> str:
    if not isinstance(name, str) or name not in names:
        raise ValueError(f"{who}: name {name!r} came, one of {list(names)} was needed")
    return name


def _drawn(values: object, image: Image, who: str) -> Box:
    """A box that a person drew, clipped at the border."""
    try:
        x0, y0, x1, y1 = (float(v) for v in values)  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        raise ValueError(f"{who}: xyxy {values!r} came, four numbers were needed") from None
    if not all(map(math.isfinite, (x0, y0, x1, y1))):
        raise ValueError(f"{who}: xyxy {values!r} came, finite numbers were needed")
    x0, y0 = max(x0, 0.0), max(y0, 0.0)
    x1, y1 = min(x1, float(image.width)), min(y1, float(image.height))
    if not (x0 < x1 and y0 < y1):
        raise ValueError(
            f"{who}: xyxy {values!r} has no area inside of the {image.width}x{image.height} image"
        )
    return x0, y0, x1, y1


def _datasets(q: CrossCheck, labels: Mapping[str, list[Agreed]]) -> list[Dataset]:
    """A data set a split, in the order of the images."""
    number = {name: i for i, name in enumerate(q.names)}
    records: dict[str, list[Record]] = {}
    for image in q.images:
        mine = labels[image.name]
        record = Record(
            path=image.path,
            id=image.id,
            width=image.width,
            height=image.height,
            boxes=np.array([a.xyxy for a in mine], np.float32).reshape(-1, 4),
            labels=np.array([number[a.name] for a in mine], np.int32),
            ignore=np.array([a.ignore for a in mine], np.bool_),
        )
        records.setdefault(image.split, []).append(record)
    return [
        Dataset(Path(), split, "coco", q.names, q.categories, rows)
        for split, rows in records.items()
    ]
