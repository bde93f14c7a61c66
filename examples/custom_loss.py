"""One's own loss and training loop: NumPy in, NumPy out, no framework.

    python examples/custom_loss.py --epochs 20

`det.forward` gives the net's raw outputs as arrays. Any function of them will do as a loss, as long
as it can say its gradient: in NumPy as here, or from JAX or torch. `det.backward` takes that
gradient, `det.step` moves the parameters. The class loss below is PolyLoss (Leng et al. 2022,
eq. 5): cross-entropy plus epsilon times (1 - p of the truth). Boxes learn by the absolute error.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

import deepseek_det as dd
from deepseek_det.anchors import assign

Floats = npt.NDArray[np.float32]


def poly_loss(logits: Floats, targets: Floats, epsilon: float = 1.0) -> tuple[float, Floats]:
    """Sum of the loss over all logits (targets 0 to 1), and its gradient.

    >>> value, gradient = poly_loss(np.zeros(1, np.float32), np.ones(1, np.float32))
    >>> round(value, 4), gradient.tolist()
    (1.1931, [-0.75])
    """
    p = 1 / (1 + np.exp(-logits))
    entropy = np.logaddexp(0, logits) - targets * logits
    truth = targets * p + (1 - targets) * (1 - p)
    value = float((entropy + epsilon * (1 - truth)).sum())
    gradient = (p - targets) - epsilon * (2 * targets - 1) * p * (1 - p)
    return value, gradient.astype(np.float32)


def box_deltas(boxes: Floats, anchors: Floats) -> Floats:
    """The four numbers a row that turn an anchor into a box, as the detector decodes them."""
    size = anchors[:, 2:] - anchors[:, :2]
    wanted = np.maximum(boxes[:, 2:] - boxes[:, :2], 1e-3)
    shift = ((boxes[:, :2] + boxes[:, 2:]) - (anchors[:, :2] + anchors[:, 2:])) / 2
    return np.concatenate([shift / size, np.log(wanted / size)], 1).astype(np.float32)


def criterion(
    out: dict[str, Floats], targets: list[Floats], anchors: Floats
) -> tuple[float, dict[str, Floats]]:
    """The loss of a batch and its gradients by output name.

    targets: an array (n, 5) an image: class, x0 y0 x1 y1 in the net's pixels.
    """
    total, gradients, positives = 0.0, {k: np.zeros_like(v) for k, v in out.items()}, 0
    for i, rows in enumerate(targets):
        labels, boxes = rows[:, 0].astype(np.int32), rows[:, 1:]
        # Which anchor learns which object is our choice, too; "max_iou" needs the anchors alone.
        found = assign(anchors, boxes, labels, assigner="max_iou")
        learns = found.object >= 0
        classes = np.zeros_like(out["cls"][i])
        classes[learns, labels[found.object[learns]]] = 1
        value, gradients["cls"][i] = poly_loss(out["cls"][i], classes)
        gradients["cls"][i][found.object == -2] = 0  # neither object nor background
        error = out["box"][i][learns] - box_deltas(found.boxes[learns], anchors[learns])
        gradients["box"][i][learns] = np.sign(error)
        total += value + float(np.abs(error).sum())
        positives += int(learns.sum())
    n = max(positives, 1)
    return total / n, {name: g / np.float32(n) for name, g in gradients.items()}


def main(argv: list[str] | None = None) -> list[float]:
    """Returns the mean loss of each epoch."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", help="folder; left out: a drawn data set")
    parser.add_argument("--model", default="dsdet-n", choices=dd.list_models())
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--imgsz", type=int, default=160)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--images", type=int, default=200, help="how many to draw")
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--output", help="where to write the checkpoint")
    args = parser.parse_args(argv)
    folder = args.data or dd.data.synthetic(Path(tempfile.mkdtemp()) / "drawn", n=args.images)

    data = dd.data.load(folder, "train")
    det = dd.Detector(args.model, classes=data.names, seed=0)
    det.imgsz = args.imgsz
    anchors = det.anchors_for(args.imgsz).boxes
    history = []
    for epoch in range(args.epochs):
        losses = []
        for images, targets in data.batches(args.imgsz, args.batch, seed=0, epoch=epoch):
            out = det.forward(images)
            loss, gradients = criterion(out, targets, anchors)
            det.backward(gradients)
            det.step(lr=args.lr, clip_norm=10.0)
            losses.append(loss)
        history.append(float(np.mean(losses)))
        print(f"epoch {epoch + 1:3d}  loss {history[-1]:.3f}")
    metrics = det.val(folder, split="val", imgsz=args.imgsz)
    print(f"AP50 on val {metrics.ap50:.3f}")
    if args.output:
        det.save(args.output)
    return history


if __name__ == "__main__":
    main()
