"""Trains a detector on a folder of labelled images, then uses it.

    python examples/train_own_data.py path/to/data --epochs 60

Without a path it draws a small data set first, so that the script can be tried at once. The folder
may hold VOC, COCO or YOLO labels; nothing says which, it is found out.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import deepseek_det as dd


def main(argv: list[str] | None = None) -> float:
    """Returns the AP50 on the split that was not used for training."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("data", nargs="?", help="folder; left out: a drawn data set")
    parser.add_argument("--model", default="dsdet-n", choices=dd.list_models())
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--imgsz", type=int, default=160)
    parser.add_argument("--images", type=int, default=400, help="how many to draw")
    parser.add_argument("--project", default="runs")
    args = parser.parse_args(argv)
    data = args.data
    if data is None:
        data = dd.data.synthetic(Path(tempfile.mkdtemp()) / "drawn", n=args.images)

    # 1. What is in there, and what is wrong with it? The same as `deepseek-det check`.
    print(dd.data.load(data, "train").report())

    # 2. Train. The best checkpoint by AP on val, the curves and report.html land in run.dir.
    det = dd.Detector(args.model)
    run = det.train(data, epochs=args.epochs, imgsz=args.imgsz, seed=0, project=args.project)

    # 3. A checkpoint knows its classes, its image size and its net: the file is all one needs.
    best = dd.Detector(run.best)
    held_out = "test" if "test" in dd.data.splits(data) else "val"
    metrics = best.val(data, split=held_out)
    print(metrics.table())

    # 4. Predict. Here on the files of that split; a photo, a folder, bytes or an array do as well.
    files = [record.path for record in dd.data.load(data, held_out).records[:4]]
    for result in best.predict(files, conf=0.3):
        print(result)
        for box, score, k in zip(result.xyxy, result.conf, result.cls, strict=True):
            print(f"  {result.names[k]:10} {score:.2f}  {box.round(1).tolist()}")
        result.save(run.dir / f"seen_{Path(result.path or 'image').stem}.jpg")
    print(f"report: {run.dir / 'report.html'}")
    return metrics.ap50


if __name__ == "__main__":
    main()
