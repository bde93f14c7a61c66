"""Writes losses.npz: values and gradients of torch and torchvision, and torchvision's NMS.

Run with a Python that has torch and torchvision: ``python tests/golden/make_losses.py``. The
inputs are stored too, so the tests need neither. All of it is double except NMS, which is float32
as users call it.
"""

from pathlib import Path

import numpy as np
import torch
import torchvision

OUT = Path(__file__).with_name("losses.npz")


def with_gradient(function, x, *rest):
    """The value per item and the gradient of its sum, by autograd."""
    x = torch.tensor(x, requires_grad=True)
    value = function(x, *map(torch.tensor, rest))
    value.sum().backward()
    return value.detach().numpy(), x.grad.numpy()


def logits_cases(rng, stored):
    x = np.concatenate([rng.normal(0, 4, 60), [0.0, 30, -30, 80, -80, 700, -700, 1e4, -1e4]])
    hard = (rng.random(len(x)) < 0.4).astype(np.float64)
    soft = rng.random(len(x))
    stored.update(logits=x, hard=hard, soft=soft)
    focal = torchvision.ops.sigmoid_focal_loss
    for i, (alpha, gamma) in enumerate([(0.25, 2.0), (0.6, 1.5), (-1.0, 3.0)]):
        for kind, t in (("hard", hard), ("soft", soft)):
            value, grad = with_gradient(lambda a, b, p=(alpha, gamma): focal(a, b, *p), x, t)
            stored[f"focal{i}_{kind}_value"], stored[f"focal{i}_{kind}_grad"] = value, grad
        stored[f"focal{i}_params"] = np.array([alpha, gamma])
    bce = torch.nn.functional.binary_cross_entropy_with_logits
    stored["bce_value"], stored["bce_grad"] = with_gradient(
        lambda a, b: bce(a, b, reduction="none"), x, soft
    )


def boxes_cases(rng, stored):
    a = rng.uniform(0, 100, (80, 2))
    pred = np.concatenate([a, a + rng.uniform(3, 60, (80, 2))], 1)
    target = pred + rng.normal(0, 15, pred.shape)
    target = np.concatenate([target[:, :2], np.maximum(target[:, 2:], target[:, :2] + 2)], 1)
    target[:4] = pred[:4]  # identical: every edge is a tie
    target[4:8, [0, 3]] = pred[4:8, [0, 3]]  # some edges are
    target[8:12] = pred[8:12] + 300  # apart
    stored.update(pred=pred, target=target)
    giou = torchvision.ops.generalized_box_iou_loss
    stored["giou_value"], stored["giou_grad"] = with_gradient(
        lambda p, t: giou(p, t, reduction="none", eps=0), pred, target
    )
    smooth = torch.nn.functional.smooth_l1_loss
    stored["smooth_value"], stored["smooth_grad"] = with_gradient(
        lambda p, t: smooth(p, t, reduction="none", beta=7.0).sum(1), pred, target
    )


def nms_cases(rng, stored):
    corner = rng.uniform(0, 200, (600, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(5, 90, (600, 2))], 1).astype(np.float32)
    boxes[50:60] = boxes[40:50]  # identical boxes
    boxes[60:64, 2] = boxes[60:64, 0]  # without area
    scores = (rng.integers(0, 120, 600) / 120).astype(np.float32)  # ties
    classes = rng.integers(0, 4, 600)
    stored.update(nms_boxes=boxes, nms_scores=scores, nms_classes=classes)
    b, s, c = torch.tensor(boxes), torch.tensor(scores), torch.tensor(classes)
    for threshold in (0.3, 0.5, 0.75):
        key = f"nms_{round(threshold * 100)}"
        stored[key] = torchvision.ops.nms(b, s, threshold).numpy()
        kept = []
        for k in range(4):  # class by class: batched_nms' offset trick rounds the coordinates
            at = torch.nonzero(c == k)[:, 0]
            kept.append(at[torchvision.ops.nms(b[at], s[at], threshold)])
        joined = torch.sort(torch.cat(kept))[0]
        order = torch.sort(s[joined], descending=True, stable=True)[1]
        stored[f"{key}_classes"] = joined[order].numpy()


def main():
    rng = np.random.default_rng(5)
    stored = {"versions": np.array([torch.__version__, torchvision.__version__])}
    logits_cases(rng, stored)
    boxes_cases(rng, stored)
    nms_cases(rng, stored)
    np.savez_compressed(OUT, **stored)
    print(f"{OUT}: {len(stored)} arrays")


if __name__ == "__main__":
    main()
