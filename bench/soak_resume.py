"""Kills a training at random moments, over and over, and checks that nothing is ever lost.

    python bench/soak_resume.py --minutes 60

Each round draws a run, trains it once without interruption, and once more with `kill -9` after
random times and `--resume`. After every kill last.pt must open and best.pt, if there is one, must
predict; at the end the weights, averages, moments and results of both runs must be the same bits.
Rounds are numbered and their outcomes appended to soak.csv in the folder, so that a stopped soak
goes on where it was.
"""

from __future__ import annotations

import argparse
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

import deepseek_det as dd
from deepseek_det import checkpoint


def command(data: Path, project: Path, name: str, seed: int, resume: bool) -> list[str]:
    """The words of one training."""
    words = [sys.executable, "-m", "deepseek_det", "train", "--project", str(project)]
    words += ["--name", name, "--quiet"]
    if resume:
        return [*words, "--resume"]
    words += ["--data", str(data), "--model", "dsdet-n", "--imgsz", "64", "--batch", "4"]
    return [*words, "--epochs", "6", "--seed", str(seed), "--exist-ok"]


def killed_run(data: Path, project: Path, seed: int, rng: random.Random) -> int:
    """Trains with interruptions; returns how many kills it took."""
    last = project / "killed" / "weights" / "last.pt"
    kills = 0
    while True:
        # Before the first save there is nothing to go on with: the run starts anew.
        words = command(data, project, "killed", seed, resume=last.exists())
        process = subprocess.Popen(words)
        try:
            if process.wait(rng.uniform(0.5, 6)) == 0:
                return kills
            raise SystemExit(f"the run failed by itself: exit {process.returncode}")
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1
        if last.exists() and checkpoint.read(last).training is None:
            raise SystemExit(f"{last} has no training state after kill {kills}")
        best = last.with_name("best.pt")
        if best.exists():
            dd.Detector(best).predict(np.zeros((64, 64, 3), np.uint8))


def compare(one: Path, two: Path) -> None:
    """Both runs' last.pt and best.pt hold the same bits, the clock apart."""
    a, b = (checkpoint.read(p / "weights" / "last.pt").training for p in (one, two))
    assert a is not None and b is not None
    for name in ("weights", "ema", "m", "v"):
        assert np.array_equal(a[name], b[name]), name
    for row, other in zip(a["history"], b["history"], strict=True):
        assert {**row, "time_s": 0} == {**other, "time_s": 0}
    best = [checkpoint.read(p / "weights" / "best.pt").state for p in (one, two)]
    assert all(np.array_equal(best[0][n], best[1][n]) for n in best[0])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--folder", type=Path, default=Path("runs/soak"))
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    table = args.folder / "soak.csv"
    done = len(table.read_text().splitlines()) - 1 if table.exists() else 0
    if not table.exists():
        table.write_text("round,kills,seconds\n")
    data = args.folder / "data"
    if not data.exists():
        dd.data.synthetic(data, n=14, seed=1)
    end = time.monotonic() + 60 * args.minutes
    while time.monotonic() < end:
        started = time.monotonic()
        for name in ("whole", "killed"):
            shutil.rmtree(args.folder / name, ignore_errors=True)
        subprocess.run(command(data, args.folder, "whole", done, False), check=True)
        kills = killed_run(data, args.folder, done, random.Random(done))
        compare(args.folder / "whole", args.folder / "killed")
        with table.open("a") as file:
            file.write(f"{done},{kills},{time.monotonic() - started:.0f}\n")
        print(f"round {done}: {kills} kills, equal", flush=True)
        done += 1


if __name__ == "__main__":
    main()
