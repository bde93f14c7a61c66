"""Training on BCCD against YOLO11n: seconds an epoch, epochs alternated in one run.

YOLO11n trains in an environment and a process of its own, through its command line, and is stopped
by signals while ours runs: nothing of it is imported here. Both train from scratch at 320 pixels,
batch 16, with their own augmentation, validation after every epoch and images kept decoded.

An environment for it, once (it needs torch and a gigabyte or more):
    python -m venv .yolo && .yolo/bin/pip install ultralytics opencv-python-headless
Usage: python bench/race_yolo11n.py --yolo .yolo/bin/yolo [--epochs 5] [--amp] [--data DIR]
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import deepseek_det as dd

from racing import machine, median, record, table  # isort: skip

IMGSZ, BATCH, PLANNED = 320, 16, 60
"""What both are told; the race ends them early, before either turns its mixing off."""
POLL_S = 0.01
TICKS = os.sysconf("SC_CLK_TCK")


class Yolo:
    """The other side's training: it runs only while `epoch` waits for it."""

    def __init__(self, program: Path, data: Path, folder: Path, threads: int) -> None:
        (folder / "site").mkdir()
        # It leaves one CPU out, whatever the user says; on two CPUs that would be half of them.
        site = f"import os\nos.cpu_count = lambda: {threads + 1}\n"
        (folder / "site" / "sitecustomize.py").write_text(site)
        self.table = folder / "yolo" / "results.csv"
        self.log = folder / "yolo.log"
        options = {
            "model": "yolo11n.yaml",
            "data": data,
            "epochs": PLANNED,
            "imgsz": IMGSZ,
            "batch": BATCH,
            "device": "cpu",
            "workers": threads,
            "cache": "ram",
            "plots": False,
            "pretrained": False,
            "seed": 0,
            "project": folder,
            "name": "yolo",
        }
        environment = {
            **os.environ,
            "PYTHONPATH": str(folder / "site"),
            "YOLO_CONFIG_DIR": str(folder),
            "YOLO_OFFLINE": "true",
        }
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [str(program), "detect", "train", *(f"{k}={v}" for k, v in options.items())],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=folder,
                start_new_session=True,  # its helpers stop and end with it
            )
        self.group = self.process.pid

    def epoch(self) -> tuple[float, float]:
        """Lets it run until it has finished one more epoch: seconds, and its CPUs' seconds."""
        rows, busy, start = self._rows(), self._cpu_seconds(), time.monotonic()
        os.killpg(self.group, signal.SIGCONT)
        while self._rows() == rows:
            if self.process.poll() is not None:
                words = self.log.read_text(errors="replace").strip().splitlines()[-3:]
                raise RuntimeError("race: YOLO11n's training ended: " + " / ".join(words))
            time.sleep(POLL_S)
        seconds = time.monotonic() - start
        os.killpg(self.group, signal.SIGSTOP)
        return seconds, self._cpu_seconds() - busy

    def end(self) -> None:
        """Ends it and its helpers."""
        if self.process.poll() is None:
            os.killpg(self.group, signal.SIGKILL)
        self.process.wait()

    def _rows(self) -> int:
        return self.table.read_text().count("\n") if self.table.exists() else 0

    def _cpu_seconds(self) -> float:
        """Of its whole group, so far."""
        ticks = 0
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                words = stat.read_text().rpartition(") ")[2].split()
            except OSError:  # gone meanwhile
                continue
            if int(words[2]) == self.group:  # its process group
                ticks += int(words[11]) + int(words[12])
        return ticks / TICKS


class Turns:
    """Our training's callback: after each epoch of ours, one of theirs."""

    def __init__(self, yolo: Yolo, epochs: int) -> None:
        self.yolo, self.epochs = yolo, epochs
        self.ours: list[tuple[float, float]] = []
        self.theirs: list[tuple[float, float]] = []
        self.start = (0.0, 0.0)

    def __call__(self, event: str, trainer: Any) -> None:
        if event == "epoch_end":
            now = (time.monotonic(), time.process_time())
            self.ours.append((now[0] - self.start[0], now[1] - self.start[1]))
            self.theirs.append(self.yolo.epoch())
            print(
                f"epoch {len(self.ours)}: ours {self.ours[-1][0]:.2f} s, "
                f"YOLO11n {self.theirs[-1][0]:.2f} s",
                flush=True,
            )
            trainer.finished = trainer.finished or len(self.ours) > self.epochs
        if event in ("start", "epoch_end"):
            self.start = (time.monotonic(), time.process_time())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--yolo", type=Path, required=True, help="its program, in its environment")
    parser.add_argument("--data", type=Path, default=Path("../shared/data/BCCD"))
    parser.add_argument("--model", default="dsdet-s")
    parser.add_argument("--epochs", type=int, default=5, help="timed ones; one more warms up")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--amp", action="store_true", help="ours with amp=True")
    parser.add_argument("--record", metavar="SECTION", help="section of RESULTS.md to replace")
    args = parser.parse_args()
    dd.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = dd.data.convert(args.data, folder / "data", format="yolo").path
        yolo = Yolo(args.yolo.absolute(), data / "data.yaml", folder, args.threads)
        try:
            yolo.epoch()  # starts, reads the images, and its first epoch
            turns = Turns(yolo, args.epochs)
            detector = dd.Detector(args.model, seed=0)
            run = detector.train(
                args.data,
                epochs=PLANNED,
                imgsz=IMGSZ,
                batch=BATCH,
                amp=args.amp,
                project=folder,
                name="ours",
                callbacks=[turns],
                verbose=False,
            )
        finally:
            yolo.end()
    body = report(args, turns, run)
    print(body)
    if args.record:
        record(args.record, body)


def report(args: argparse.Namespace, turns: Turns, run: Any) -> str:
    """The section's text."""
    ours, theirs = turns.ours[1:], turns.theirs[1:]
    waits = [s.wait_share for s in run.seconds[1 : len(ours) + 1]]
    seconds = [median([s for s, _ in side]) for side in (ours, theirs)]
    busy = [median([cpu for _, cpu in side]) for side in (ours, theirs)]
    name = args.model + (", amp" if args.amp else "")
    rows = [
        [side, f"{s:.2f}", f"{cpu:.1f}"]
        for side, s, cpu in zip((name, "YOLO11n"), seconds, busy, strict=True)
    ]
    return "\n\n".join(
        [
            f"{machine()}; BCCD, {IMGSZ} pixels, batch {BATCH}, {args.threads} threads; median of "
            f"{len(ours)} alternated epochs, validation included.",
            table(["net", "seconds an epoch", "CPU seconds"], rows),
            f"YOLO11n / ours: {seconds[1] / seconds[0]:.2f}. Our loader is waited for in "
            f"{median(waits):.1%} of an epoch, {max(waits):.1%} at most.",
        ]
    )


if __name__ == "__main__":
    main()
