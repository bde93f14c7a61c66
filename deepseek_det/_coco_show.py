"""COCO.showAnns: annotations drawn into matplotlib's present axes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from deepseek_det._coco_api import COCO


def show(coco: COCO, anns: Any, draw_bbox: bool) -> None:
    """Polygons and masks in random colours, keypoints with their skeleton; captions are printed."""
    if len(anns) == 0:
        return
    if "segmentation" not in anns[0] and "keypoints" not in anns[0]:
        if "caption" not in anns[0]:
            raise Exception("datasetType not supported")
        for ann in anns:
            print(ann["caption"])
        return
    import matplotlib.pyplot as plt
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Polygon

    axes = plt.gca()
    axes.set_autoscale_on(False)
    shapes: list[Any] = []
    colours: list[Any] = []
    rng = np.random.default_rng()
    for ann in anns:
        colour = rng.random(3) * 0.6 + 0.4
        segm = ann.get("segmentation")
        if isinstance(segm, list):
            shapes += [Polygon(np.reshape(part, (-1, 2))) for part in segm]
            colours += [colour] * len(segm)
        elif segm is not None:
            pixels = coco.annToMask(ann)
            shown = np.ones((*pixels.shape, 4)) * [*colour, 1]
            shown[:, :, 3] = pixels * 0.5
            axes.imshow(shown)
        if isinstance(ann.get("keypoints"), list):
            _points(axes, coco, ann, colour)
        if draw_bbox:
            x, y, w, h = ann["bbox"]
            shapes.append(Polygon([[x, y], [x, y + h], [x + w, y + h], [x + w, y]]))
            colours.append(colour)
    axes.add_collection(PatchCollection(shapes, facecolor=colours, linewidths=0, alpha=0.4))
    axes.add_collection(PatchCollection(shapes, facecolor="none", edgecolors=colours, linewidths=2))


def _points(axes: Any, coco: COCO, ann: Any, colour: Any) -> None:
    bones = np.array(coco.loadCats(ann["category_id"])[0].get("skeleton", []), int) - 1
    x, y, v = (np.array(ann["keypoints"][i::3]) for i in range(3))
    for bone in bones:
        if (v[bone] > 0).all():
            axes.plot(x[bone], y[bone], linewidth=3, color=colour)
    axes.plot(x[v > 0], y[v > 0], "o", markersize=8, markerfacecolor=colour, markeredgecolor="k")
    axes.plot(x[v > 1], y[v > 1], "o", markersize=8, markerfacecolor=colour)
