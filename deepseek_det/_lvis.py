"""LVIS' figures: COCO's with federated labels (Gupta, Dollár, Girshick 2019).

An image of LVIS is labelled for some categories only. Those with an object in it, or in its list
`neg_category_ids`, are judged; detections of any other category are left out. Where a category is
in `not_exhaustive_category_ids`, a detection that matches nothing is no false alarm.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from deepseek_det._coco_input import Columns, Source, boxes, check_type, positions
from deepseek_det.errors import Error
from deepseek_det.metrics import Array, Floats, Params

FREQUENCIES = ("r", "c", "f")


@dataclass(frozen=True, slots=True, eq=False)
class LvisResult:
    """LVIS' figures by name: AP AP50 AP75 APs APm APl APr APc APf AR@n ARs@n ARm@n ARl@n, -1 where
    nothing counts; APr, APc and APf are means over rare, common and frequent categories.

    precision and scores: (T, R, K, A, 1), recall: (T, K, A, 1), as in CocoResult. frequency: (K,)
    "r", "c", "f" or "".
    """

    figures: dict[str, float]
    precision: Floats
    recall: Floats
    scores: Floats
    params: Params
    category_ids: list[int]
    names: list[str]
    frequency: list[str]

    def __getitem__(self, name: str) -> float:
        return self.figures[name]


def _lists(file: Any, which: str, categories: Any) -> Array:
    """Pairs (image position in the file, category position) of one of the images' lists."""
    images = file["images"]
    pairs: list[tuple[int, int]] = []
    at = zip(images[f"{which}_at"].tolist(), images[f"{which}_bytes"].tolist(), strict=True)
    for i, (start, length) in enumerate(at):
        if not length:
            continue
        ids = json.loads(bytes(file["text"][start : start + length]))
        if not isinstance(ids, list) or not all(isinstance(k, int) for k in ids):
            raise Error(f"lvis: image {images['id'][i]}: a list of category ids is needed")
        pairs += [(i, k) for k in ids]
    table = np.array(pairs, np.int64).reshape(-1, 2)
    return np.stack([table[:, 0], positions(table[:, 1], categories)], 1)


def _best(dt: Columns, image: Array, most: int) -> Array:
    """Whether a detection is among the `most` best of its image, over all categories."""
    score = dt.score if dt.score is not None else np.zeros(0)
    order = np.lexsort((np.arange(len(dt)), -score, image))
    sorted_image = image[order]
    first = np.searchsorted(sorted_image, sorted_image, side="left")
    keep = np.zeros(len(dt), bool)
    keep[order] = np.arange(len(dt)) - first < most
    return keep


def _mean(values: Floats) -> float:
    valid = values[values > -1]
    return float(valid.mean()) if valid.size else -1.0


def _figures(precision: Floats, recall: Floats, frequency: Array, most: int) -> dict[str, float]:
    p, r = precision[..., 0], recall[..., 0]
    out = {"AP": _mean(p[:, :, :, 0])}
    for name, iou in (("AP50", 0.5), ("AP75", 0.75)):
        out[name] = _mean(p[np.flatnonzero(Params().iou == iou)][:, :, :, 0])
    for a, size in enumerate("sml", 1):
        out[f"AP{size}"] = _mean(p[:, :, :, a])
    for group in FREQUENCIES:
        out[f"AP{group}"] = _mean(p[:, :, np.flatnonzero(frequency == ord(group)), 0])
    for a, size in enumerate(("", "s", "m", "l")):
        out[f"AR{size}@{most}"] = _mean(r[:, :, a])
    return out


def lvis(
    gt_json: Source, dt_json: Source, iou_type: str = "bbox", *, max_det: int = 300
) -> LvisResult:
    """LVIS' figures of a results file.

    gt_json: LVIS annotations; images have neg_category_ids and not_exhaustive_category_ids (a
    missing list is an empty one), categories a frequency "r", "c" or "f". dt_json: results as for
    `coco`. iou_type: "bbox" or "segm". max_det: detections of an image, over all categories.

    Raises as `coco` does.

    >>> box = {"image_id": 1, "bbox": [8, 8, 16, 16]}
    >>> gt = {
    ...     "images": [{"id": 1, "neg_category_ids": [], "not_exhaustive_category_ids": []}],
    ...     "categories": [{"id": i, "name": f"c{i}", "frequency": "r"} for i in (1, 2)],
    ...     "annotations": [box | {"id": 1, "category_id": 1, "area": 200}],
    ... }
    >>> round(lvis(gt, [box | {"category_id": i, "score": 0.9} for i in (1, 2)])["APr"], 6)
    1.0
    """
    from deepseek_det.evaluate import _read_results, _read_truth

    check_type("lvis", iou_type)
    if iou_type == "keypoints":
        raise ValueError("lvis: iou_type is 'keypoints', 'bbox' or 'segm' is needed")
    file, truth = _read_truth(gt_json)
    dt = _read_results(dt_json, file["images"], iou_type)
    order = np.argsort(file["images"]["id"], kind="stable")
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    images, kinds = file["images"]["id"][order], np.sort(file["categories"]["id"])
    truth_at = positions(truth.image_id, images), positions(truth.category_id, kinds)
    image, kind = positions(dt.image_id, images), positions(dt.category_id, kinds)
    if (image < 0).any():
        raise Error(f"{dt.name}: image_id {dt.image_id[image < 0][0]} is not in the ground truth")
    negative, partial = (_lists(file, which, kinds) for which in ("negative", "partial"))

    def key(i: Array, k: Array) -> Array:
        return np.asarray(i, np.int64) * len(kinds) + k

    known = key(place[negative[:, 0]], negative[:, 1])[negative[:, 1] >= 0]
    judged = np.isin(key(image, kind), np.concatenate([known, key(*truth_at)]))
    kept = judged & (kind >= 0) & _best(dt, image, max_det)
    both = boxes(
        truth,
        dt,
        iou_type,
        n_images=len(images),
        n_classes=len(kinds),
        truth_at=truth_at,
        dt_at=(np.where(kept, image, -1).astype(np.int32), kind),
    )
    assert both.extra is not None
    open_lists = key(place[partial[:, 0]], partial[:, 1])[partial[:, 1] >= 0]
    both.extra["partial"] = np.isin(key(image, kind), open_lists)
    both.object_crowd[:] = False  # LVIS has none
    params = Params.make(max_det=[max_det])
    precision, recall, scores, _ = both.evaluate(params)
    categories = file["categories"]
    rank = np.argsort(categories["id"], kind="stable")
    frequency = categories["frequency"][rank]
    return LvisResult(
        _figures(precision, recall, frequency, max_det),
        precision,
        recall,
        scores,
        params,
        kinds.tolist(),
        [categories["name"][i] for i in rank.tolist()],
        [chr(f) if f else "" for f in frequency.tolist()],
    )
