"""BCCD from scratch: the arms of docs/models.md, resumable, one JSON file a finished arm.

Every arm trains on train, picks its checkpoint on val, and is looked at once on test, by our
evaluator and by pycocotools. Usage: python bench/bccd.py [arm ...] [--data DIR] [--runs DIR]
Without arms: the table of those that are finished.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

import deepseek_det as dd
from deepseek_det.data import load

from racing import machine, table  # isort: skip

ARMS: dict[str, dict[str, Any]] = {
    **{f"dsdet-s seed {s}": {"model": "dsdet-s", "seed": s} for s in (0, 1, 2)},
    **{
        f"dsdet-s TAL seed {s}": {"model": "dsdet-s", "seed": s, "assigner": "tal"}
        for s in (0, 1, 2)
    },
    **{f"dsdet-s amp seed {s}": {"model": "dsdet-s", "seed": s, "amp": True} for s in (0, 1, 2)},
    "dsdet-s focal": {"model": "dsdet-s", "seed": 0, "cls_loss": "focal"},
    "dsdet-s TAL focal": {"model": "dsdet-s", "seed": 0, "assigner": "tal", "cls_loss": "focal"},
    "dsdet-s max-IoU": {"model": "dsdet-s", "seed": 0, "assigner": "max_iou"},
    "dsdet-s unweighted": {"model": "dsdet-s", "seed": 0, "loss_weights": "none"},
    "dsdet-n seed 0": {"model": "dsdet-n", "seed": 0},
    "dsdet-n TAL": {"model": "dsdet-n", "seed": 0, "assigner": "tal"},
    "dsdet-m seed 0": {"model": "dsdet-m", "seed": 0},
}


def pycocotools_stats(dataset: Any, results: list[Any]) -> list[float]:
    """The twelve figures by pycocotools itself."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    images, annotations, detections = [], [], []
    for i, (record, result) in enumerate(zip(dataset.records, results, strict=True), 1):
        images.append({"id": i, "width": record.width, "height": record.height})
        for box, label, crowd in zip(record.boxes, record.labels, record.ignore, strict=True):
            x0, y0, x1, y1 = map(float, box)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": i,
                    "category_id": int(label) + 1,
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": (x1 - x0) * (y1 - y0),
                    "iscrowd": int(crowd),
                }
            )
        for box, score, label in zip(result.xyxy, result.conf, result.cls, strict=True):
            x0, y0, x1, y1 = map(float, box)
            detections.append(
                {
                    "image_id": i,
                    "category_id": int(label) + 1,
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "score": float(score),
                }
            )
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "images": images,
            "annotations": annotations,
            "categories": [{"id": i, "name": n} for i, n in enumerate(dataset.names, 1)],
        }
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(detections), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float(v) for v in evaluation.stats]


def run_arm(name: str, data: Path, runs: Path) -> dict[str, Any]:
    folder = name.replace(" ", "-")
    done = runs / f"{folder}.json"
    if done.exists():
        result: dict[str, Any] = json.loads(done.read_text())
        return result
    options = dict(ARMS[name])
    det = dd.Detector(options.pop("model"), seed=options["seed"])
    resume = (runs / folder / "weights" / "last.pt").exists()
    started = time.monotonic()
    run = det.train(
        data,
        epochs=60,
        imgsz=320,
        batch=16,
        project=runs,
        name=folder,
        exist_ok=True,
        resume=resume,
        **options,
    )
    best = dd.Detector(run.best)
    test = load(data, "test")
    ours = best.val(test)
    results = best.predict(
        [r.path for r in test.records], conf=0.001, iou=0.6, max_det=300, stream=True
    )
    result = {
        "arm": name,
        "params": best.params,
        "val": run.metrics.stats.tolist() if run.metrics else None,
        "test": ours.stats.tolist(),
        "pycocotools": pycocotools_stats(test, list(results)),
        "per_class": {row["name"]: row["ap"] for row in ours.per_class},
        "curve": [round(row["ap"], 4) for row in run.history],
        "seconds": round(run.history[-1]["time_s"], 1),
        "wall_seconds": round(time.monotonic() - started, 1),
        "machine": machine(),
    }
    done.write_text(json.dumps(result, indent=1) + "\n")
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("arms", nargs="*", choices=[*ARMS, []])
    parser.add_argument("--data", type=Path, default=Path("../shared/data/BCCD"))
    parser.add_argument("--runs", type=Path, default=Path("runs/bccd"))
    args = parser.parse_args()
    args.runs.mkdir(parents=True, exist_ok=True)
    for name in args.arms:
        run_arm(name, args.data, args.runs)
    rows = []
    for name in ARMS:
        file = args.runs / f"{name.replace(' ', '-')}.json"
        if not file.exists():
            continue
        r = json.loads(file.read_text())
        classes = ", ".join(f"{k} {v:.3f}" for k, v in r["per_class"].items())
        rows.append(
            [name, f"{r['params'] / 1e6:.3f} M", f"{r['val'][0]:.3f}"]
            + [f"{v:.3f}" for v in r["pycocotools"][:3]]
            + [classes, f"{r['seconds']:.0f}"]
        )
        assert np.allclose(r["pycocotools"], r["test"], atol=2e-3), name
    print(table(["arm", "parameters", "val AP", "AP", "AP50", "AP75", "by class", "s"], rows))


if __name__ == "__main__":
    main()
