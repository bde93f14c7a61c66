"""Label quality: planted errors found by a second annotator, and by a model.

    python bench/label_quality.py cross                      two annotators and an oracle, seconds
    python bench/label_quality.py folds --epochs 40          predictions by k folds, resumable
    python bench/label_quality.py assisted                   recall of the planted errors by rank
    python bench/label_quality.py assisted --python PYTHON   and by cleanlab's scores

An *item* is a box of the clean set. 5.2 % of the items get an error, one each, of the kinds in
turn: missing (the label is deleted), spurious (a box of a usual size where there is no object),
location (moved and scaled to an IoU of 0.25 to 0.6), swapped (another class; not where there is
one class only).

cleanlab is AGPL: it runs in an environment and process of its own, from a file of labels and
predictions, and hands back a file of scores.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deepseek_det.data import Dataset, Record, load, splits
from deepseek_det.ops import box_iou
from deepseek_det.quality import (
    CrossCheck,
    Dispute,
    Predictions,
    advise,
    cross_check,
    fold_predictions,
    rank,
    resolve,
)

from racing import machine, table  # isort: skip

SETS = {"BCCD": "BCCD", "raccoon": "raccoon"}
SHARE = 0.052
KINDS = ("missing", "spurious", "location", "swapped")
REVIEWED = (0.05, 0.1, 0.2)
CONFIDENT = (0.95, 0.5)
COPIES = (0, 1)
"""Copies whose errors the ranking has to find. The folds were trained on copy 0, and on it the
ranking was worked out; copy 1's errors are others."""
RIGHT = 0.7
"""IoU from which a label of the right class is right."""


@dataclass(frozen=True)
class Planted:
    """One error: the image's position, its kind, the box that is wrong or was there, and the class
    that it has, or had."""

    image: int
    kind: str
    box: tuple[float, ...]
    label: int


def whole(path: Path) -> Dataset:
    """All splits of a data set as one, without ignored regions: the clean set."""
    names = [s for s in splits(path) if s != "trainval"]
    parts = [load(path, s) for s in names]
    records = []
    for record in (r for p in parts for r in p.records):
        keep = ~record.ignore
        records.append(with_labels(record, record.boxes[keep], record.labels[keep]))
    first = parts[0]
    return Dataset(first.root, "train", first.format, first.names, first.categories, records)


def with_labels(record: Record, boxes: Any, labels: Any) -> Record:
    """The image with other labels."""
    b = np.asarray(boxes, np.float32).reshape(-1, 4)
    k = np.asarray(labels, np.int32)
    size = (record.width, record.height)
    return Record(record.path, record.id, *size, b, k, np.zeros(len(b), np.bool_))


def plant(clean: Dataset, seed: int, share: float = SHARE) -> tuple[Dataset, list[Planted]]:
    """A copy with errors in `share` of the items, drawn by `seed`; the data set is not touched."""
    rng = np.random.default_rng(seed)
    items = [(i, j) for i, r in enumerate(clean.records) for j in range(len(r.boxes))]
    chosen = rng.permutation(len(items))[: round(share * len(items))]
    kinds = KINDS if len(clean.names) > 1 else KINDS[:3]
    by_image: dict[int, list[tuple[int, str]]] = {}
    for n, k in enumerate(chosen.tolist()):
        i, j = items[k]
        by_image.setdefault(i, []).append((j, kinds[n % len(kinds)]))
    sides = np.concatenate([r.boxes[:, 2:] - r.boxes[:, :2] for r in clean.records])
    records, planted = list(clean.records), list[Planted]()
    for i, errors in sorted(by_image.items()):
        record = clean.records[i]
        boxes, labels = record.boxes.copy(), record.labels.copy()
        gone: list[int] = []
        for j, kind in errors:
            old = (tuple(boxes[j].tolist()), int(labels[j]))
            if kind == "missing":
                gone.append(j)
            elif kind == "swapped":
                labels[j] = rng.choice([k for k in range(len(clean.names)) if k != labels[j]])
                old = (old[0], int(labels[j]))
            elif kind == "location":
                boxes[j] = moved(rng, record, boxes[j])
                old = (tuple(boxes[j].tolist()), old[1])
            else:
                extra = invented(rng, record, sides)
                if extra is None:  # no free place in the image: another kind
                    kind = "missing"
                    gone.append(j)
                else:
                    label = int(rng.integers(len(clean.names)))
                    boxes = np.concatenate([boxes, extra[None]])
                    labels = np.append(labels, np.int32(label))
                    old = (tuple(extra.tolist()), label)
            planted.append(Planted(i, kind, *old))
        keep = np.setdiff1d(np.arange(len(boxes)), gone)
        records[i] = with_labels(record, boxes[keep], labels[keep])
    copy = Dataset(clean.root, "train", clean.format, clean.names, clean.categories, records)
    return copy, planted


def moved(rng: np.random.Generator, record: Record, box: Any) -> Any:
    """The box moved and scaled until its IoU with itself is between 0.25 and 0.6."""
    size = box[2:] - box[:2]
    limit = np.array([record.width, record.height], np.float32)
    for _ in range(1000):
        centre = (box[:2] + box[2:]) / 2 + rng.uniform(-0.6, 0.6, 2) * size
        half = size * rng.uniform(0.7, 1.4, 2) / 2
        low, high = np.clip(centre - half, 0, limit), np.clip(centre + half, 0, limit)
        new = np.concatenate([low, high]).astype(np.float32)
        if (new[2:] - new[:2]).min() >= 1 and 0.25 <= box_iou([box], [new])[0, 0] <= 0.6:
            return new
    raise RuntimeError(f"{record.path}: no place for {box}")


def invented(rng: np.random.Generator, record: Record, sides: Any) -> Any:
    """A box of a size that occurs, where no object is; None where there is no place."""
    limit = np.array([record.width, record.height], np.float32)
    for _ in range(300):
        size = np.minimum(sides[rng.integers(len(sides))], limit)
        low = rng.uniform(0, 1, 2) * (limit - size)
        new = np.concatenate([low, low + size]).astype(np.float32)
        if not len(record.boxes) or box_iou([new], record.boxes).max() < 0.15:
            return new
    return None


# ---- two annotators ---------------------------------------------------------------------------


def oracle(dispute: Dispute, truth: Record, names: Sequence[str]) -> dict[str, Any]:
    """What a person who knows the truth does with a dispute, and sees nothing else."""
    boxes = np.array([c.xyxy for c in dispute.candidates], np.float32)
    overlap = box_iou(boxes, truth.boxes) if len(truth.boxes) else np.zeros((len(boxes), 0))
    right: dict[int, tuple[float, int]] = {}  # object → overlap and position of its best candidate
    for i, c in enumerate(dispute.candidates):
        same = np.flatnonzero(truth.labels == names.index(c.name))
        if len(same) and overlap[i, same].max() >= RIGHT:
            thing = int(same[overlap[i, same].argmax()])
            right[thing] = max(right.get(thing, (0.0, 0)), (float(overlap[i, thing]), i))
    if right:
        return {"action": "accept", "candidate": sorted({i for _, i in right.values()})}
    if overlap.size and overlap.max() >= 0.2:
        thing = int(overlap.max(0).argmax())
        name = names[int(truth.labels[thing])]
        return {"action": "redraw", "xyxy": truth.boxes[thing].tolist(), "name": name}
    return {"action": "drop"}


def errors(found: Dataset, truth: Dataset) -> Counter[str]:
    """How a set differs from the truth: each wrong or missing label once."""
    q = cross_check(truth, found, iou=RIGHT, annotators=["truth", "found"])
    return Counter(d.reason for d in q.disputes)


def cross(root: Path, seeds: Sequence[int]) -> str:
    """Error rates before and after, and what had to be looked at."""
    rows = []
    for name, folder in SETS.items():
        clean = whole(root / folder)
        truth = {r.path.name: r for r in clean.records}
        for seed in seeds:
            a, planted = plant(clean, 2 * seed)
            b, _ = plant(clean, 2 * seed + 1)
            q = cross_check(a, b)
            decisions = {d.id: oracle(d, truth[d.image], q.names) for d in q.disputes}
            with tempfile.TemporaryDirectory() as folder_of_result:
                new = resolve(q, decisions, Path(folder_of_result) / "new")
                after = sum(errors(load(new, "train"), clean).values())
            before = [sum(errors(s, clean).values()) for s in (a, b)]
            n = clean.n_boxes
            figures = [f"{100 * v / n:.2f} %" for v in (*before, after)]
            looked = f"{100 * len(q.disputes) / n:.1f} %"
            agreement = q.agreement
            assert agreement is not None
            counts = [str(v) for v in (seed, n, len(planted))]
            rows.append([name, *counts, *figures, looked, _short(q)])
            rows[-1] += [f"{agreement.overall.f1:.3f}", f"{agreement.overall.alpha:.3f}"]
    head = ["set", "seed", "items", "planted in each", "errors a", "errors b", "after"]
    return table([*head, "looked at", "disputes", "F1", "α"], rows)


def _short(q: CrossCheck) -> str:
    return ", ".join(f"{n} {r}" for r, n in q.by_reason().items())


# ---- a model's help ---------------------------------------------------------------------------


def suspects(planted: Sequence[Planted], clean: Dataset, flags: Sequence[tuple[int, Any]]) -> Any:
    """For each flag (image, box), best first, the planted error that it points at, or -1.

    A flag points at an error of its image whose box it overlaps by 0.3 or more; the error's true
    object counts too, for a box that was moved.
    """
    places: dict[int, list[tuple[int, Any]]] = {}
    for k, p in enumerate(planted):
        here = [np.array(p.box, np.float32)]
        if p.kind == "location":
            truth = clean.records[p.image].boxes
            here.append(truth[box_iou([p.box], truth)[0].argmax()])
        places.setdefault(p.image, []).append((k, np.stack(here)))
    hits = []
    for image, box in flags:
        best, at = 0.3, -1
        for k, boxes in places.get(image, []):
            overlap = float(box_iou([box], boxes).max())
            if overlap >= best:
                best, at = overlap, k
        hits.append(at)
    return hits


def recalls(
    hits: Sequence[int], planted: Sequence[Planted], items: int, shares: Sequence[float]
) -> dict[str, list[float]]:
    """The share of the errors that the first flags point at, by kind; a flag is an item that a
    person looks at."""
    found: dict[str, list[float]] = {}
    for kind in ("all", *KINDS):
        mine = {k for k, p in enumerate(planted) if kind in ("all", p.kind)}
        if mine:
            firsts = [mine & set(hits[: round(s * items)]) for s in shares]
            found[kind] = [len(f) / len(mine) for f in firsts]
    return found


def folds(
    root: Path, runs: Path, sets: Sequence[str], k: int, epochs: int, model: str
) -> dict[str, Predictions]:
    """Predictions on copy 0 of each set by detectors that were trained on its other folds."""
    made = {}
    for name in sets:
        copy, _ = plant(whole(root / SETS[name]), 0)
        arguments = {"epochs": epochs, "imgsz": 320, "batch": 16}
        made[name] = fold_predictions(copy, k, model, project=runs, name=name, **arguments)
        made[name].write(runs / f"{name}.json")
    return made


def assisted(root: Path, runs: Path, sets: Sequence[str], python: str | None) -> str:
    """Recall of the planted errors in the first flags of our ranking, and of cleanlab's."""
    rows = []
    for name in sets:
        clean = whole(root / SETS[name])
        predictions = Predictions.read(runs / f"{name}.json")
        place = {image: i for i, image in enumerate(predictions.images)}
        for copy_number in COPIES:
            copy, planted = plant(clean, copy_number)
            ranking = rank(copy, predictions, seed=copy_number)
            ours = [(place[d.image], d.candidates[0].xyxy) for d in ranking]
            contestants = {"deepseek_det": ours}
            if python:
                for c in CONFIDENT:
                    flags = cleanlab(copy, predictions, runs / name, python, c)
                    contestants[f"cleanlab, confident from {c:g}"] = flags
            for who, flags in contestants.items():
                hits = suspects(planted, clean, flags)
                for kind, shares in recalls(hits, planted, clean.n_boxes, REVIEWED).items():
                    count = sum(kind in ("all", p.kind) for p in planted)
                    figures = [f"{100 * s:.0f} %" for s in shares]
                    rows.append([name, str(copy_number), who, kind, str(count), *figures])
    head = ["set", "copy", "by", "errors", "planted"]
    return table([*head, *(f"{s:.0%} reviewed" for s in REVIEWED)], rows)


def advice(root: Path, runs: Path, sets: Sequence[str]) -> str:
    """How often a model's suggestion on the disputes of two copies is what the oracle does."""
    rows = []
    for name in sets:
        clean = whole(root / SETS[name])
        truth = {r.path.name: r for r in clean.records}
        q = cross_check(*(plant(clean, copy)[0] for copy in COPIES))
        advised = advise(q, Predictions.read(runs / f"{name}.json"))
        taken = [d for d in advised.disputes if d.suggestion != "ignore"]
        right = 0
        for d in taken:
            kept = {"action": "accept", "candidate": [d.suggestion]}
            suggested = {"action": "drop"} if d.suggestion == "drop" else kept
            right += suggested == oracle(d, truth[d.image], q.names)
        count = len(q.disputes)
        rows.append([name, str(count), str(count - len(taken)), str(len(taken)), str(right)])
    return table(["set", "disputes", "ambiguous", "suggestions", "right"], rows)


CLEANLAB = """
import json, sys
import numpy as np
from cleanlab.object_detection import rank
content = json.load(open(sys.argv[1]))
classes = len(content["names"])
labels, predictions = [], []
for image in content["images"]:
    labels.append({"bboxes": np.array(image["boxes"], float).reshape(-1, 4),
                   "labels": np.array(image["labels"], int)})
    rows = np.array(image["predictions"], float).reshape(-1, 6)
    predictions.append(np.array([rows[rows[:, 5] == k, :5] for k in range(classes)], dtype=object))
scores = {}
for kind in ("overlooked", "badloc", "swap"):
    more = {} if kind == "badloc" else {"high_probability_threshold": float(sys.argv[3])}
    score = getattr(rank, f"compute_{kind}_box_scores")
    found = score(labels=labels, predictions=predictions, **more)
    scores[kind] = [np.asarray(s, float).tolist() for s in found]
json.dump(scores, open(sys.argv[2], "w"))
"""


def cleanlab(
    data: Dataset, predictions: Predictions, work: Path, python: str, confident: float
) -> list[tuple[int, Any]]:
    """Flags by cleanlab's scores of boxes, worst first, from a process of its own.

    Its three scores (1 is fine, 0 is wrong) are no common scale, so each has its turn: the worst
    box by "overlooked", by "badloc", by "swap", then the second of each. confident: from which
    confidence on a prediction counts for "overlooked" and "swap" (0.95 by its default, which few
    predictions of a small net reach).
    """
    work.mkdir(parents=True, exist_ok=True)
    given, scored = work / "for_cleanlab.json", work / "from_cleanlab.json"
    images = []
    for record, seen in zip(data.records, predictions.images.values(), strict=True):
        plain = seen[0]
        found = [
            [*box, conf, label]
            for box, conf, label in zip(
                plain.xyxy.tolist(), plain.conf.tolist(), plain.labels.tolist(), strict=True
            )
        ]
        images.append(
            {
                "boxes": record.boxes.tolist(),
                "labels": record.labels.tolist(),
                "predictions": found,
            }
        )
    given.write_text(json.dumps({"names": predictions.names, "images": images}))
    subprocess.run([python, "-c", CLEANLAB, str(given), str(scored), str(confident)], check=True)
    scores = json.loads(scored.read_text())
    lists: dict[str, list[tuple[float, int, Any]]] = {kind: [] for kind in scores}
    for i, image in enumerate(images):
        # its predictions in the order in which it was given them: class by class
        found = image["predictions"]
        order = [p[:4] for k in range(len(predictions.names)) for p in found if p[5] == k]
        for kind, boxes in (
            ("overlooked", order),
            ("badloc", image["boxes"]),
            ("swap", image["boxes"]),
        ):
            rows = zip(scores[kind][i], boxes, strict=True) if boxes else ()
            lists[kind] += [(float(s), i, b) for s, b in rows if not np.isnan(s)]
    for rows in lists.values():
        rows.sort(key=lambda f: f[0])
    flags: list[tuple[int, Any]] = []
    seen: set[tuple[int, tuple[float, ...]]] = set()
    for turn in itertools.zip_longest(*lists.values()):
        for flag in turn:
            # a label that two scores name is looked at once
            if flag is not None and (flag[1], tuple(flag[2])) not in seen:
                seen.add((flag[1], tuple(flag[2])))
                flags.append((flag[1], flag[2]))
    return flags


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("what", choices=["cross", "folds", "assisted"])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--runs", type=Path, default=Path("runs/label_quality"))
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--seeds", type=int, default=3, help="pairs of copies for cross")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--model", default="dsdet-n")
    parser.add_argument("--python", help="an interpreter that has cleanlab, for assisted")
    given = parser.parse_args()
    sets = given.sets.split(",")
    if given.what == "cross":
        print(cross(given.data, range(given.seeds)))
    elif given.what == "folds":
        folds(given.data, given.runs, sets, given.folds, given.epochs, given.model)
    else:
        print(f"{machine()}; {given.runs}\n")
        print(assisted(given.data, given.runs, sets, given.python))
        print(f"\n{advice(given.data, given.runs, sets)}")


if __name__ == "__main__":
    main()
