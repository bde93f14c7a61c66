"""The table of the ablations: differences in test AP with a paired bootstrap over the test images.

A resample draws the test images with replacement, the same ones for both sides and all seeds, and
takes the mean AP over the seeds of each side; the interval holds 95 % of the differences.
Usage: python bench/ablations/compare.py [--data DIR] [--runs DIR] [--resamples N]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deepseek_det.data import load
from deepseek_det.metrics import evaluate_detections

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from arms import QUESTIONS, SEEDS, SETUPS  # isort: skip
from racing import table  # isort: skip

Side = list[list[Any]]  # a seed's detections, image by image
Draws = Sequence[np.ndarray]  # indices of test images; the first draw is all of them, once


def read_side(runs: Path, setup: str) -> Side:
    """The finished seeds of a setup."""
    side = []
    for seed in SEEDS:
        file = runs / f"{setup}-{seed}.npz"
        if not file.exists():
            continue
        with np.load(file) as f:
            cuts = np.cumsum(f["counts"])[:-1]
            parts = [np.split(f[name], cuts) for name in ("boxes", "scores", "classes")]
        side.append(list(zip(*parts, strict=True)))
    return side


def resampled(side: Side, targets: list[Any], names: Sequence[str], draws: Draws) -> np.ndarray:
    """(draws, 1 + classes): on each draw's images the AP, then each class's, mean over the seeds.

    A class without objects in a draw has no AP there: NaN, which the intervals leave out.
    """
    rows = []
    for images in draws:
        drawn = [targets[i] for i in images]
        seeds = []
        for found in side:
            metrics = evaluate_detections(drawn, [found[i] for i in images], names)
            by_class = {r["name"]: r["ap"] for r in metrics.per_class}
            seeds.append([metrics.ap, *(by_class.get(name, np.nan) for name in names)])
        rows.append(np.mean(np.array(seeds, float), 0))
    return np.array(rows)


def figure(aps: np.ndarray, names: Sequence[str], classes: tuple[str, ...] | None) -> np.ndarray:
    """The column that a question looks at: of all classes, or the mean of some."""
    if classes is None:
        return aps[:, 0]
    return aps[:, [1 + list(names).index(c) for c in classes]].mean(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/BCCD"))
    parser.add_argument("--runs", type=Path, default=Path("runs/ablations"))
    parser.add_argument("--resamples", type=int, default=1000)
    args = parser.parse_args()
    test = load(args.data, "test")
    targets = [(r.boxes, r.labels, r.ignore) for r in test.records]
    rng = np.random.default_rng(0)
    n = len(targets)
    draws = [np.arange(n), *(rng.integers(0, n, n) for _ in range(args.resamples))]
    sides = {name: read_side(args.runs, name) for name in SETUPS}
    asked = {name for q in QUESTIONS for name in (q.base, q.variant) if sides[name]}
    tables = {name: resampled(sides[name], targets, test.names, draws) for name in sorted(asked)}
    rows = []
    for q in QUESTIONS:
        if q.base not in tables or q.variant not in tables:
            continue
        base, variant = (figure(tables[k], test.names, q.classes) for k in (q.base, q.variant))
        low, high = np.nanpercentile((variant - base)[1:], [2.5, 97.5])
        difference = f"{variant[0] - base[0]:+.3f} ({low:+.3f} to {high:+.3f})"
        seeds = f"{len(sides[q.base])} / {len(sides[q.variant])}"
        rows.append([q.asked, seeds, f"{base[0]:.3f}", f"{variant[0]:.3f}", difference])
    head = ["question", "seeds", "AP of the first", "of the second", "difference (95 %)"]
    print(table(head, rows))


if __name__ == "__main__":
    main()
