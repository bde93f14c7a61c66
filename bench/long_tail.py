"""Long tails: a set with counts like 1/rank made from a real one, trained with and without the
repeat sampler and the class-balanced loss; AP of the rare third of the classes, all and paired.

    python bench/long_tail.py [arm ...] [--data DIR] [--runs DIR] [--power P] [--floor N] [--table]

An arm is "both:1", a setup and a seed; without arms: all of them. A finished arm is a JSON file, a
killed one goes on from its last epoch. --table only prints the table of those that are finished:
the difference of each setup to plain training, mean over the seeds, with the 95 % interval of a
paired bootstrap over the test images.

The tail is made of whole images: labels are never taken away, for the objects would stay in the
picture as background. Classes are ranked by their boxes; images that hold too many boxes of a rare
class go until its count is the first class' over rank^power. A set whose own tail is steeper than
1/rank stays as it is under --power 1. BCCD is one (2381, 214 and 209 boxes); the default here, 3,
makes its rare third rare: 1544, 132 and 57 boxes on 122 images.

Setups with the sampler train for fewer epochs, so that every arm takes about the same steps.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import deepseek_det as dd
from deepseek_det.data import Dataset, RepeatSampler, load, splits
from deepseek_det.predict import detect_dataset, figures

sys.path.insert(0, str(Path(__file__).resolve().parent / "ablations"))
from compare import figure, read_side, resampled  # isort: skip
from racing import machine, table  # isort: skip

SEEDS = (0, 1, 2)
EPOCHS, IMGSZ, BATCH = 60, 320, 16
SETUPS: dict[str, dict[str, Any]] = {
    "plain": {"loss_weights": "none"},
    "balanced": {"loss_weights": "balanced"},
    "repeat": {"loss_weights": "none", "sampler": "repeat"},
    "both": {"loss_weights": "balanced", "sampler": "repeat"},
}


def counts_of(data: Dataset, kept: list[int]) -> np.ndarray:
    """(classes,) boxes of the kept images."""
    n = len(data.names)
    table = np.zeros(n, np.int64)
    for i in kept:
        r = data.records[i]
        table += np.bincount(r.labels[~r.ignore], minlength=n)
    return table


def tail(data: Dataset, power: float, floor: int, seed: int = 0) -> list[int]:
    """Images of a long-tailed part: count of the class of rank r at most first / r^power.

    floor: boxes that every class keeps where it has them. Among the images of a class that has too
    many, those go first that cost the classes with room to spare least.
    """
    n = len(data.names)
    held = np.zeros((len(data), n), np.int64)
    for row, r in zip(held, data.records, strict=True):
        row += np.bincount(r.labels[~r.ignore], minlength=n)
    order = np.argsort(-held.sum(0), kind="stable")
    rank = np.empty(n)
    rank[order] = np.arange(1, n + 1)
    here = np.ones(len(data), bool)
    noise = np.random.default_rng(seed).random(len(data)) * 1e-6
    while True:
        have = held[here].sum(0)
        want = np.maximum(have.max() / rank**power, floor)
        over = np.flatnonzero(have > want)
        if not len(over):
            return np.flatnonzero(here).tolist()
        rarest = over[np.argmax(rank[over])]
        images = np.flatnonzero(here & (held[:, rarest] > 0))
        # What an image's other boxes are worth: much where their class has none to spare.
        worth = np.where(have > want, 0.0, 1.0 / np.maximum(have, 1))
        fits = held[images, rarest] <= have[rarest] - floor
        if not fits.any():
            rank[rarest] = 1e-9  # every image would take the class below the floor: leave it
            continue
        cost = held[images] @ worth + noise[images]
        here[images[np.argmin(np.where(fits, cost, np.inf))]] = False


def long_tailed(source: Path, target: Path, power: float, floor: int) -> Path:
    """The set with a long-tailed train split, other splits as they are; made once."""
    if target.exists():
        return target
    train = load(source, "train")
    chosen = {train.records[i].path for i in tail(train, power, floor)}
    names = [s for s in splits(source) if s in ("val", "test")]
    kept = chosen | {r.path for s in names for r in load(source, s).records}
    wanted = ["train", *names]
    dd.data.subset(source, target, splits=wanted, where=lambda record: record.path in kept)
    return target


def epochs_of(data: Dataset, options: dict[str, Any], epochs: int) -> int:
    """Epochs that take about as many steps as `epochs` of them without a sampler."""
    if options.get("sampler") is None:
        return epochs
    longer = RepeatSampler(data).factors.sum() / len(data)
    return max(1, round(epochs / float(longer)))


def run_arm(arm: str, data: Path, runs: Path, epochs: int, imgsz: int) -> None:
    setup, seed = arm.split(":")
    folder, options = runs / arm.replace(":", "-"), SETUPS[setup]
    done = folder.with_suffix(".json")
    if done.exists():
        return
    train = load(data, "train")
    det = dd.Detector("dsdet-s", classes=train.names, seed=int(seed))
    started = time.monotonic()
    run = det.train(
        data,
        epochs=epochs_of(train, options, epochs),
        imgsz=imgsz,
        batch=BATCH,
        seed=int(seed),
        project=runs,
        name=folder.name,
        exist_ok=True,
        resume=(folder / "weights" / "last.pt").exists(),
        **options,
    )
    best, test = dd.Detector(run.best), load(data, "test")
    found = detect_dataset(best, test)
    metrics = figures(test, found)
    boxes, scores, classes = (np.concatenate(part) for part in zip(*found, strict=True))
    np.savez_compressed(
        folder.with_suffix(".npz"),
        counts=[len(s) for _, s, _ in found],
        boxes=boxes,
        scores=scores,
        classes=classes,
    )
    result = {
        "arm": arm,
        "epochs": len(run.history),
        "test": metrics.stats.tolist(),
        "per_class": {row["name"]: row["ap"] for row in metrics.per_class},
        "seconds": round(run.history[-1]["time_s"], 1),
        "wall_seconds": round(time.monotonic() - started, 1),
        "machine": machine(),
    }
    done.write_text(json.dumps(result, indent=1) + "\n")


def compare(data: Path, runs: Path, resamples: int) -> str:
    """The table of the finished arms."""
    train, test = load(data, "train"), load(data, "test")
    counts = train.counts()
    rare = [train.names[i] for i in np.argsort(counts, kind="stable")[: -(-len(counts) // 3)]]
    targets = [(r.boxes, r.labels, r.ignore) for r in test.records]
    rng = np.random.default_rng(0)
    n = len(targets)
    draws = [np.arange(n), *(rng.integers(0, n, n) for _ in range(resamples))]
    sides = {name: read_side(runs, name) for name in SETUPS}
    aps = {k: resampled(v, targets, test.names, draws) for k, v in sides.items() if v}
    rows = []
    for name, values in aps.items():
        row = [name, str(len(sides[name]))]
        for classes in (tuple(rare), None):
            own = figure(values, test.names, classes)
            row.append(f"{own[0]:.3f}")
            if name == "plain" or "plain" not in aps:
                row.append("")
                continue
            away = own - figure(aps["plain"], test.names, classes)
            low, high = np.nanpercentile(away[1:], [2.5, 97.5]) if resamples else (np.nan, np.nan)
            row.append(f"{away[0]:+.3f} ({low:+.3f} to {high:+.3f})")
        rows.append(row)
    shown = ", ".join(f"{train.names[i]} {counts[i]}" for i in np.argsort(-counts, kind="stable"))
    head = ["training", "seeds", "AP of the rare third", "against plain (95 %)"]
    head += ["AP", "against plain (95 %)"]
    title = f"{len(train)} training images ({shown}); rare third: {', '.join(rare)}"
    return f"{title}\n\n{table(head, rows)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("arms", nargs="*")
    parser.add_argument("--data", type=Path, default=Path("../shared/data/BCCD"))
    parser.add_argument("--runs", type=Path, default=Path("runs/long_tail"))
    parser.add_argument("--power", type=float, default=3.0, help="of the rank")
    parser.add_argument("--floor", type=int, default=20, help="boxes that every class keeps")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="fewer only to try it out")
    parser.add_argument("--imgsz", type=int, default=IMGSZ)
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--table", action="store_true", help="no training")
    args = parser.parse_args()
    every = [f"{setup}:{seed}" for seed in SEEDS for setup in SETUPS]
    for arm in args.arms:
        if arm not in every:
            parser.error(f"{arm} is no arm; arms: {' '.join(every)}")
    args.runs.mkdir(parents=True, exist_ok=True)
    data = long_tailed(args.data, args.runs / "data", args.power, args.floor)
    if not args.table:
        for arm in args.arms or every:
            run_arm(arm, data, args.runs, args.epochs, args.imgsz)
    print(compare(data, args.runs, args.resamples))


if __name__ == "__main__":
    main()
