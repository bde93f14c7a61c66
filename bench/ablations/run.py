"""Trains the arms of the ablations on BCCD, resumable: a finished arm is a JSON file, a killed one
goes on from its last epoch.

Usage: python bench/ablations/run.py [arm ...] [--data DIR] [--runs DIR]; an arm is "l2:1", a setup
and a seed; without arms: all. python bench/ablations/compare.py makes the table.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import deepseek_det as dd
from deepseek_det.data import load
from deepseek_det.predict import detect_dataset, figures

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from arms import BATCH, IMGSZ, SEEDS, SETUPS  # isort: skip
from nets import detector  # isort: skip
from racing import machine  # isort: skip


def reduced(data: Path, images: int, seed: int, target: Path) -> Path:
    """The VOC set with `images` of its train split, drawn by the seed; files are links."""
    sets = data / "ImageSets" / "Main"
    names = (sets / "train.txt").read_text().split()
    chosen = sorted(np.random.default_rng(seed).permutation(names)[:images])
    lists = target / "ImageSets" / "Main"
    lists.mkdir(parents=True, exist_ok=True)
    for folder in ("Annotations", "JPEGImages"):
        if not (target / folder).exists():
            (target / folder).symlink_to((data / folder).resolve())
    for split in ("val", "test"):
        shutil.copy(sets / f"{split}.txt", lists)
    (lists / "train.txt").write_text("\n".join(chosen) + "\n")
    return target


def run_arm(arm: str, data: Path, runs: Path, epochs: int | None = None) -> None:
    setup_name, seed = arm.split(":")
    setup, folder = SETUPS[setup_name], runs / arm.replace(":", "-")
    done = folder.with_suffix(".json")
    if done.exists():
        return
    if setup.images is not None:
        data = reduced(data, setup.images, int(seed), runs / f"data-{setup.images}-{seed}")
    det = detector(setup.model, load(data, "train").names, int(seed))
    started = time.monotonic()
    run = det.train(
        data,
        epochs=epochs or setup.epochs,
        imgsz=IMGSZ,
        batch=BATCH,
        seed=int(seed),
        project=runs,
        name=folder.name,
        exist_ok=True,
        resume=(folder / "weights" / "last.pt").exists(),
        **setup.options,
    )
    best, test = dd.Detector(run.best), load(data, "test")
    found = detect_dataset(best, test)
    metrics = figures(test, found)
    boxes, scores, classes = (np.concatenate(part) for part in zip(*found, strict=True))
    np.savez_compressed(
        folder.with_suffix(".npz"),
        counts=[len(scores) for _, scores, _ in found],
        boxes=boxes,
        scores=scores,
        classes=classes,
    )
    result: dict[str, Any] = {
        "arm": arm,
        "params": best.params,
        "val": run.metrics.ap if run.metrics else None,
        "test": metrics.stats.tolist(),
        "per_class": {row["name"]: row["ap"] for row in metrics.per_class},
        "seconds": round(run.history[-1]["time_s"], 1),
        "wall_seconds": round(time.monotonic() - started, 1),
        "machine": machine(),
    }
    done.write_text(json.dumps(result, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("arms", nargs="*")
    parser.add_argument("--data", type=Path, default=Path("../shared/data/BCCD"))
    parser.add_argument("--runs", type=Path, default=Path("runs/ablations"))
    parser.add_argument("--epochs", type=int, help="of every arm: fewer only to try it out")
    args = parser.parse_args()
    every = [f"{setup}:{seed}" for seed in SEEDS for setup in SETUPS]
    for arm in args.arms:
        if arm not in every:
            parser.error(f"{arm} is no arm; arms: {' '.join(every)}")
    args.runs.mkdir(parents=True, exist_ok=True)
    for arm in args.arms or every:
        run_arm(arm, args.data, args.runs, args.epochs)


if __name__ == "__main__":
    main()
