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
from arms import QUESTIONS, SEEDS  # isort: skip
from racing import table  # isort: skip

Side = list[list[Any]]  # a seed's detections, image by image


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


def mean_ap(
    side: Side,
    targets: list[Any],
    names: Sequence[str],
    images: np.ndarray,
    classes: tuple[str, ...] | None,
) -> float:
    """Mean over the seeds of the AP on these images, of all classes or of some."""
    values = []
    for found in side:
        metrics = evaluate_detections(
            [targets[i] for i in images], [found[i] for i in images], names
        )
        rows = [r["ap"] for r in metrics.per_class if classes and r["name"] in classes]
        values.append(np.mean(rows) if classes else metrics.ap)
    return float(np.mean(values))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/BCCD"))
    parser.add_argument("--runs", type=Path, default=Path("runs/ablations"))
    parser.add_argument("--resamples", type=int, default=1000)
    args = parser.parse_args()
    test = load(args.data, "test")
    targets = [(r.boxes, r.labels, r.ignore) for r in test.records]
    everything = np.arange(len(targets))
    rows = []
    for q in QUESTIONS:
        base, variant = read_side(args.runs, q.base), read_side(args.runs, q.variant)
        if not base or not variant:
            continue
        both = [mean_ap(s, targets, test.names, everything, q.classes) for s in (base, variant)]
        rng = np.random.default_rng(0)
        differences = []
        for _ in range(args.resamples):
            images = rng.integers(0, len(targets), len(targets))
            a, b = (mean_ap(s, targets, test.names, images, q.classes) for s in (base, variant))
            differences.append(b - a)
        low, high = np.percentile(differences, [2.5, 97.5])
        rows.append(
            [q.asked, f"{len(base)} / {len(variant)}"]
            + [f"{v:.3f}" for v in both]
            + [f"{both[1] - both[0]:+.3f} ({low:+.3f} to {high:+.3f})"]
        )
    head = ["question", "seeds", "AP of the first", "of the second", "difference (95 %)"]
    print(table(head, rows))


if __name__ == "__main__":
    main()
