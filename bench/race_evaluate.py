"""COCO evaluation against pycocotools and its fast successors: 2,000 images, 180,000 detections.

    python bench/race_evaluate.py [--rounds 5] [--peers PYTHON] [--record]

PYTHON is an interpreter that has hotcoco, ultrafast-pycocotools, faster-coco-eval and pycocotools
(the present one where left out). Files are made from a seed: objects and detections that look like
COCO's, ground truth with polygons, results with boxes or with compressed masks.

Two kinds of rows. "In process": a program that is loaded already calls load and evaluate on the two
files, again and again; contestants are processes of their own that take turns, so each sees the
same machine. "Whole process": from starting Python to its end. A row from arrays has no JSON in it.
pycocotools takes part with one round. Every contestant must give the same twelve figures.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import racing

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
N_IMAGES, N_CLASSES, EACH = 2000, 80, 90

# What a contestant's process runs: commands come by lines, answers are seconds and figures.
PEER = """
import sys, time, json, io, contextlib
module, gt, dt, kind = sys.argv[1:5]
if module == "pycocotools":
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval
elif module == "faster_coco_eval":
    from faster_coco_eval import COCO, COCOeval_faster as COCOeval
else:
    package = __import__(module)
    COCO, COCOeval = package.COCO, package.COCOeval
def run():
    truth = COCO(gt)
    found = (truth.loadRes if hasattr(truth, "loadRes") else truth.load_res)(dt)
    ev = COCOeval(truth, found, kind)
    ev.evaluate(); ev.accumulate(); ev.summarize()
    return ev.stats
"""
OURS = """
import sys, time, json, io, contextlib
_, gt, dt, kind = sys.argv[1:5]
import deepseek_det as dd
def run():
    return dd.evaluate.coco(gt, dt, kind).stats
"""
ARRAYS = """
import sys, time, json, io, contextlib
_, gt, dt, kind = sys.argv[1:5]
import numpy as np
from deepseek_det.metrics import Boxes, Params
truth, found = json.load(open(gt)), json.load(open(dt))
places = {image["id"]: i for i, image in enumerate(truth["images"])}
kinds = {c["id"]: k for k, c in enumerate(truth["categories"])}
def columns(items):
    image = np.array([places[a["image_id"]] for a in items], np.int32)
    kind = np.array([kinds[a["category_id"]] for a in items], np.int32)
    return image, kind, np.array([a["bbox"] for a in items], float)
objects, spots = columns(truth["annotations"]), columns(found)
area = np.array([a["area"] for a in truth["annotations"]])
crowd = np.zeros(len(area), bool)
score = np.array([d["score"] for d in found])
boxes = Boxes(len(places), len(kinds), *objects, area, crowd, *spots, score)
def run():
    return boxes.evaluate(Params())[3]
"""
LOOP = """
for line in sys.stdin:
    times = []
    for _ in range(int(line)):
        with contextlib.redirect_stdout(io.StringIO()):
            start = time.perf_counter()
            stats = run()
            times.append(time.perf_counter() - start)
    print(json.dumps([times, [float(v) for v in stats]]), flush=True)
"""


def make_set(folder: Path, masks: bool) -> tuple[Path, Path]:
    """Ground truth with polygons, and results with boxes or with masks."""
    from deepseek_det import mask

    rng = np.random.default_rng(0)
    ids = np.sort(rng.choice(600_000, N_IMAGES, replace=False)).tolist()
    kinds = np.sort(rng.choice(90, N_CLASSES, replace=False) + 1).tolist()
    share = 1 / np.arange(1, N_CLASSES + 1)
    share /= share.sum()
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []

    def polygon(x: float, y: float, w: float, h: float) -> list[float]:
        m = int(rng.integers(6, 40))
        t = np.sort(rng.random(m)) * 2 * np.pi
        radius = rng.uniform(0.8, 1, (2, m)) / 2
        points = [x + w / 2 + w * np.cos(t) * radius[0], y + h / 2 + h * np.sin(t) * radius[1]]
        return np.stack(points, 1).round(2).ravel().tolist()

    for image in ids:
        objects = []
        for _ in range(rng.poisson(7.3)):
            w, h = np.exp(rng.normal(4, 1, 2)).clip(4, 470)
            x, y = rng.random(2) * [640 - w, 480 - h]
            box = [round(float(v), 2) for v in (x, y, w, h)]
            kind = int(rng.choice(kinds, p=share))
            annotations.append(
                {"segmentation": [polygon(*box)], "area": round(float(w * h * 0.7), 4)}
                | {"iscrowd": 0, "image_id": image, "bbox": box, "category_id": kind}
                | {"id": len(annotations) + 1000}
            )
            objects.append((np.array(box), kind))
        for k in range(EACH):
            if objects and k < 3 * len(objects):
                box, kind = objects[k % len(objects)]
                spot = np.abs(box + rng.normal(0, 0.07, 4) * box[[2, 3, 2, 3]])
                kind = int(rng.choice(kinds)) if rng.random() < 0.1 else kind
                score = rng.beta(2, 2)
            else:
                spot = np.array([*rng.random(2) * [600, 440], *np.exp(rng.normal(4, 1, 2))])
                kind, score = int(rng.choice(kinds, p=share)), rng.beta(1, 8)
            shape: dict[str, Any] = {"bbox": [round(float(v), 3) for v in spot]}
            if masks:
                rle = mask.frPyObjects([polygon(*shape["bbox"])], 480, 640)[0]
                shape = {"segmentation": rle | {"counts": rle["counts"].decode()}}
            result = {"image_id": image, "category_id": kind} | shape
            results.append(result | {"score": round(float(score), 5)})
    gt = {
        "images": [
            {"file_name": f"{i:012d}.jpg", "height": 480, "width": 640, "id": i} for i in ids
        ],
        "annotations": annotations,
        "categories": [{"id": k, "name": f"c{k}"} for k in kinds],
    }
    paths = folder / "gt.json", folder / ("masks.json" if masks else "boxes.json")
    for path, value in zip(paths, (gt, results), strict=True):
        path.write_text(json.dumps(value))
    return paths


class Contestant:
    """A process that runs its evaluation when it is told to."""

    def __init__(self, name: str, python: str, code: str, module: str, *files: str) -> None:
        self.name, self.times, self.stats = name, [], []  # type: ignore[var-annotated]
        self.command = [python, "-c", code + LOOP, module, *files]
        self.process: Any = None

    def start(self) -> None:
        self.process = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )

    def run(self, times: int, keep: bool = True) -> None:
        self.process.stdin.write(f"{times}\n")
        self.process.stdin.flush()
        made, self.stats = json.loads(self.process.stdout.readline())
        if keep:
            self.times += made

    def end(self) -> None:
        self.process.stdin.close()
        self.process.wait()

    def whole(self) -> float:
        """Seconds from the interpreter's start to its end, one evaluation in between."""
        start = time.perf_counter()
        subprocess.run(
            self.command, input="1\n", text=True, check=True, capture_output=True, cwd=ROOT
        )
        return time.perf_counter() - start


def race(kind: str, peers: str, gt: Path, dt: Path, rounds: int, slow: bool) -> list[list[str]]:
    files = (str(gt), str(dt), kind)
    contestants = [Contestant("deepseek_det", sys.executable, OURS, "-", *files)]
    for module in ("ultrafast_pycocotools", "hotcoco"):
        contestants.append(Contestant(module, peers, PEER, module, *files))
    if kind == "bbox":
        contestants.append(
            Contestant("deepseek_det, from arrays", sys.executable, ARRAYS, "-", *files)
        )
    for c in contestants:
        c.start()
        c.run(2, keep=False)
    for i in range(rounds):
        for c in contestants[i % len(contestants) :] + contestants[: i % len(contestants)]:
            c.run(3)
    for c in contestants:
        c.end()
    lasting = {c.name: min(c.whole() for _ in range(3)) for c in contestants[:3]}
    if slow:
        reference = Contestant("pycocotools", peers, PEER, "pycocotools", *files)
        reference.start()
        reference.run(1)
        reference.end()
        contestants.append(reference)
        if not np.allclose(reference.stats, contestants[0].stats, rtol=0, atol=0):
            raise SystemExit(f"{kind}: figures differ from pycocotools'")
    base = racing.median(contestants[0].times)
    rows = []
    for c in contestants:
        here = racing.median(c.times)
        if c.stats and not np.allclose(c.stats, contestants[0].stats, rtol=0, atol=1e-12):
            raise SystemExit(f"{kind}: {c.name} gives other figures: {c.stats}")
        whole = f"{lasting[c.name] * 1e3:.0f}" if c.name in lasting else "–"
        figures = [f"{here * 1e3:.1f}", f"{min(c.times) * 1e3:.1f}", f"{here / base:.2f}"]
        rows.append([kind, c.name, *figures, whole])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peers", default=sys.executable)
    parser.add_argument("--kinds", nargs="+", default=["bbox", "segm"], choices=["bbox", "segm"])
    parser.add_argument("--no-pycocotools", action="store_true", help="it takes half a minute")
    parser.add_argument("--record", action="store_true")
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for kind in args.kinds:
            gt, dt = make_set(Path(folder), kind == "segm")
            print(f"{kind}: {gt.stat().st_size / 1e6:.1f} + {dt.stat().st_size / 1e6:.1f} MB")
            rows += race(kind, args.peers, gt, dt, args.rounds, not args.no_pycocotools)
    head = ["task", "", "median ms", "least ms", "× ours", "whole process, ms"]
    body = racing.table(head, rows)
    print(body)
    if args.record:
        note = (
            f"{racing.machine()}\n\nLoad and evaluate from JSON files: {N_IMAGES:,} images, "
            f"{N_IMAGES * EACH:,} detections, {N_CLASSES} categories, 2 cores; contestants take "
            "turns (bench/race_evaluate.py). All give the same figures.\n\n"
        )
        racing.record("COCO evaluation", note + body)


if __name__ == "__main__":
    main()
