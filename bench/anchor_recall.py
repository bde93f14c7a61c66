"""Best-possible recall of dynamic against fixed anchors at equal count: docs/anchors.md's table.

    python bench/anchor_recall.py [--data FOLDER ...] [--imgsz 160 320 640] [--iou 0.5]

Without --data: BCCD where the real data lies (DEEPSEEK_DET_DATA, ../shared/data) and the embedded
synthetic set. All splits are joined: nothing is trained here. Three layouts are compared:

dynamic   sizes and strides by `anchor_strides`: each level as dense as its objects are small
detector  the three levels that a network's heads have at every size: strides 8, 16, 32
fixed     the dynamic layout's sizes and ratios, all on one uniform grid with about as many anchors
"""

import argparse
import os
import tempfile
from pathlib import Path

import numpy as np

import deepseek_det as dd
from deepseek_det import _core, anchors

ROOT = Path(__file__).resolve().parent.parent


def fixed_anchors(imgsz, strides, count):
    """Every size on one grid of g × g cells, g being what brings the count nearest to `count`."""
    sizes, ratios = np.array(strides) * anchors.BASE, np.array(anchors.RATIOS)
    g = max(1, round((count / (len(sizes) * len(ratios))) ** 0.5))
    return _core.anchor_grid(g, g, imgsz / g, sizes, ratios)


def objects(path):
    """(height, width, boxes) of every image once, whatever splits name it."""
    seen = set()
    for split in dd.data.splits(path):
        for record in dd.data.load(path, split).records:
            if record.path not in seen:
                seen.add(record.path)
                yield record.height, record.width, record.boxes[~record.ignore]


def rows(scenes, imgsz, iou):
    """(layout, count, recalls, recall at 0.7) of each layout at one image size."""
    boxes = np.concatenate([anchors.letterboxed(b, h, w, imgsz) for h, w, b in scenes])
    areas = np.concatenate([(b[:, 2:] - b[:, :2]).prod(1) for _, _, b in scenes])
    strides = anchors.anchor_strides(imgsz)
    dynamic = anchors.detector_anchors(imgsz, strides).boxes
    layouts = {
        f"dynamic {strides}": dynamic,
        f"detector {anchors.STRIDES}": anchors.detector_anchors(imgsz).boxes,
        "fixed": fixed_anchors(imgsz, strides, len(dynamic)),
    }
    for name, boxes_of in layouts.items():
        recall = dd.ops.best_possible_recall(boxes, boxes_of, iou, areas)
        strict = dd.ops.best_possible_recall(boxes, boxes_of, 0.7, areas)["all"]
        yield name, len(boxes_of), recall, strict


def table(title, path, sizes, iou):
    scenes = list(objects(path))
    areas = np.concatenate([(b[:, 2:] - b[:, :2]).prod(1) for _, _, b in scenes])
    counts = [
        int(((areas >= low) & (areas < high)).sum()) for low, high in dd.ops.COCO_SIZES.values()
    ]
    small, medium, large = counts
    print(f"\n### {title}: {len(scenes)} images, {len(areas)} boxes ", end="")
    print(f"({small} small, {medium} medium, {large} large)\n")
    print("| imgsz | anchors | count | all | small | medium | large | all, IoU 0.7 |")
    print("|---|---|---|---|---|---|---|---|")
    for imgsz in sizes:
        for name, count, recall, strict in rows(scenes, imgsz, iou):
            cells = ["–" if v is None else f"{v:.3f}" for v in (*recall.values(), strict)]
            print(f"| {imgsz} | {name} | {count} | {' | '.join(cells)} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="*", type=Path)
    parser.add_argument("--imgsz", nargs="*", type=int, default=[160, 320, 640])
    parser.add_argument("--iou", type=float, default=0.5)
    args = parser.parse_args()
    if args.data:
        for path in args.data:
            table(path.name, path, args.imgsz, args.iou)
        return
    real = Path(os.environ.get("DEEPSEEK_DET_DATA", ROOT.parent / "shared" / "data")) / "BCCD"
    if real.is_dir():
        table("BCCD", real, args.imgsz, args.iou)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "synthetic"
        dd.data.synthetic(target, n=400, seed=0)
        table("synthetic (n=400, seed 0)", target, args.imgsz, args.iou)


if __name__ == "__main__":
    main()
