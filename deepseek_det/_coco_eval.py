"""COCOeval: a drop-in replacement for pycocotools' class on top of the C evaluator."""

from __future__ import annotations

import copy
import datetime
import json
import sys
import time
import types
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np

from deepseek_det import _core, mask
from deepseek_det._coco_api import COCO
from deepseek_det._coco_input import SIGMAS, Columns, boxes, dict_columns, places, set_sizes
from deepseek_det.metrics import Params as _Thresholds
from deepseek_det.metrics import keypoint_stats, summary_lines


class Params:
    """pycocotools' parameters: imgIds, catIds, iouThrs, recThrs, maxDets, areaRng, areaRngLbl,
    useCats, iouType, and kpt_oks_sigmas of keypoints; all may be set before evaluate()."""

    def __init__(self, iouType: str = "segm") -> None:
        if iouType not in ("segm", "bbox", "keypoints"):
            raise Exception("iouType not supported")
        points = iouType == "keypoints"
        made = _Thresholds.keypoints() if points else _Thresholds()
        self.imgIds: Any = []
        self.catIds: Any = []
        self.iouThrs: Any = made.iou
        self.recThrs: Any = made.recall
        self.maxDets: Any = made.max_det.tolist()
        ranges = [[0**2, 1e5**2], [0**2, 32**2], [32**2, 96**2], [96**2, 1e5**2]]
        self.areaRng: Any = [ranges[0], *ranges[2:]] if points else ranges
        self.areaRngLbl: Any = list(made.area_names)
        self.useCats: Any = 1
        if points:
            self.kpt_oks_sigmas: Any = SIGMAS.copy()
        self.iouType = iouType
        self.useSegm: Any = None

    def _thresholds(self) -> _Thresholds:
        # Recalls stay in the order that was given: pycocotools reads them one by one.
        made = _Thresholds.make(
            self.iouThrs, None, self.areaRng, self.areaRngLbl, self.maxDets, bool(self.useCats)
        )
        recall = np.asarray(self.recThrs, np.float64).ravel()
        return _Thresholds(
            made.iou, recall, made.areas, made.area_names, made.max_det, made.use_classes
        )


class COCOeval:
    """COCO's evaluation as pycocotools.cocoeval.COCOeval has it: the same figures to the last bit.

    cocoGt, cocoDt: a `COCO` and what its `loadRes` made. evaluate(), accumulate(), summarize(),
    then `stats`, `eval` and `evalImgs`. `evalImgs` and `ious` are made when somebody asks for them.
    """

    def __init__(self, cocoGt: Any = None, cocoDt: Any = None, iouType: str = "segm") -> None:
        if not iouType:
            print("iouType not specified. use default iouType segm")
        self.cocoGt, self.cocoDt = cocoGt, cocoDt
        self.params = Params(iouType=iouType or "segm")
        self.eval: dict[str, Any] = {}
        self.stats: Any = []
        self._paramsEval: Any = {}
        self._forget()
        if cocoGt is not None:
            self.params.imgIds = sorted(cocoGt.getImgIds())
            self.params.catIds = sorted(cocoGt.getCatIds())

    def _forget(self) -> None:
        self._sides: Any = None
        self._made_images: Any = None
        self._made_ious: Any = None

    # ---- evaluate

    def evaluate(self) -> None:
        """Prepares both sides and decides all matches."""
        start = time.time()
        print("Running per image evaluation...")
        p = self.params
        if p.useSegm is not None:
            p.iouType = "segm" if p.useSegm == 1 else "bbox"
            print(f"useSegm (deprecated) is not None. Running {p.iouType} evaluation")
        print(f"Evaluate annotation type *{p.iouType}*")
        p.imgIds = list(np.unique(p.imgIds))
        if p.useCats:
            p.catIds = list(np.unique(p.catIds))
        p.maxDets = sorted(p.maxDets)
        self._forget()
        self.eval = {}
        self._prepare()
        self._paramsEval = copy.deepcopy(p)
        self._result = self._run(p)
        print(f"DONE (t={time.time() - start:0.2f}s).")

    def _prepare(self) -> None:
        p = self.params
        gt, dt = self._side(self.cocoGt, False), self._side(self.cocoDt, True)
        for side in (gt, dt):
            if p.iouType == "segm" or side.segmentation_bytes.any():
                self._sizes(side)
        where = [(places(s.image_id, p.imgIds), places(s.category_id, p.catIds)) for s in (gt, dt)]
        both = boxes(
            gt,
            dt,
            p.iouType,
            n_images=len(p.imgIds),
            n_classes=len(p.catIds),
            truth_at=where[0],
            dt_at=where[1],
            blank=gt.id == 0,  # its matches look like "unmatched" to pycocotools
            sigmas=getattr(p, "kpt_oks_sigmas", None),
        )
        if p.iouType == "keypoints" and not p.useCats:
            # pycocotools looks for the similarities of category -1 then, and finds none.
            both.extra["points"] = None  # type: ignore[index]
            both.object_box[:] = 0
        self._sides = (gt, dt, both)

    def _side(self, data: Any, results: bool) -> Columns:
        columns: Columns | None = data.__dict__.get("_columns") if isinstance(data, COCO) else None
        if columns is not None:
            return copy.copy(columns)
        name = "results" if results else "ground truth"
        return dict_columns(data.dataset["annotations"], name, self.params.iouType, results)

    def _sizes(self, side: Columns) -> None:
        """Image sizes of rows, where the file's own columns do not have them yet."""
        if len(side.height) == len(side) and len(side):
            return
        file = self.cocoGt.__dict__.get("_file") if isinstance(self.cocoGt, COCO) else None
        if file is not None and isinstance(side.image_id, np.ndarray):
            images = file["images"]
            set_sizes(side, images["id"], images["height"], images["width"])
            return
        sizes = self.cocoGt.imgs
        rows = [sizes.get(i, {}) for i in side.image_id]
        side.height = np.array([r.get("height", 0) for r in rows], np.int32)
        side.width = np.array([r.get("width", 0) for r in rows], np.int32)

    def _run(self, p: Params) -> tuple[Any, Any, Any, Any]:
        precision, recall, scores, stats = self._sides[2].evaluate(p._thresholds())
        return precision, recall, scores, stats

    # ---- what evaluate() found, image by image

    @property
    def evalImgs(self) -> Any:
        """Per category, area range and image: ids, matches, scores and ignored flags, or None."""
        if self._made_images is None:
            self._made_images = self._image_list() if self._sides else defaultdict(list)
        return self._made_images

    @evalImgs.setter
    def evalImgs(self, value: Any) -> None:
        self._made_images = value

    def _image_list(self) -> list[Any]:
        gt, dt, both = self._sides
        p = self._paramsEval
        thresholds = p._thresholds()
        objects, detections, groups, match = _core.coco_match(
            both.n_images,
            both.n_classes,
            both.objects(),
            both.detections(),
            thresholds.core(),
            both.extra,
        )
        categories = p.catIds if p.useCats else [-1]
        n_images, n_areas = len(p.imgIds), len(p.areaRng)
        out: list[Any] = [None] * (len(categories) * n_areas * n_images)
        group = _Group(gt, dt, both, p, thresholds)
        for g0, g1, d0, d1 in groups.tolist():
            rows, found = objects[g0:g1], detections[d0:d1][: p.maxDets[-1]]
            image = both.object_image[rows[0]] if len(rows) else both.detection_image[found[0]]
            k = 0
            if p.useCats:
                k = both.object_class[rows[0]] if len(rows) else both.detection_class[found[0]]
            for a in range(n_areas):
                at = match[d0 : d0 + len(found), a].T
                at = np.where(at < 0, -1, at - g0)
                out[(k * n_areas + a) * n_images + image] = group.entry(
                    rows, found, at, a, p.imgIds[image], categories[k]
                )
        return out

    @property
    def ious(self) -> Any:
        """IoU matrices by (image id, category id): detections, best first, against objects."""
        if self._made_ious is None:
            self._made_ious = dict(self._iou_matrices()) if self._sides else {}
        return self._made_ious

    @ious.setter
    def ious(self, value: Any) -> None:
        self._made_ious = value

    def _iou_matrices(self) -> Iterator[tuple[Any, Any]]:
        gt, dt, both = self._sides
        p = self._paramsEval
        objects, detections, groups, _ = _core.coco_match(
            both.n_images,
            both.n_classes,
            both.objects(),
            both.detections(),
            p._thresholds().core(),
            both.extra,
        )
        categories = p.catIds if p.useCats else [-1]
        found: dict[Any, Any] = {}
        for g0, g1, d0, d1 in groups.tolist():
            rows, best = objects[g0:g1], detections[d0:d1][: p.maxDets[-1]]
            image = both.object_image[rows[0]] if len(rows) else both.detection_image[best[0]]
            k = 0
            if p.useCats:
                k = both.object_class[rows[0]] if len(rows) else both.detection_class[best[0]]
            found[p.imgIds[image], categories[k]] = self._ious_of(gt, dt, both, rows, best)
        for image in p.imgIds:
            for category in categories:
                yield (image, category), found.get((image, category), [])

    def _ious_of(self, gt: Columns, dt: Columns, both: Any, rows: Any, best: Any) -> Any:
        if len(rows) == 0 or len(best) == 0:
            return []
        if self._paramsEval.iouType == "keypoints":
            points = (both.extra or {}).get("points")
            if points is None:
                return []
            return _similarities(
                points[0][rows],
                points[1][best],
                points[2],
                both.object_box[rows],
                both.object_area[rows],
            )
        crowd = both.object_crowd[rows].tolist()
        if self._paramsEval.iouType == "bbox":
            return mask.iou(both.detection_box[best], both.object_box[rows], crowd)
        return mask.iou(_row_masks(dt, best), _row_masks(gt, rows), crowd)

    # ---- accumulate and summarize

    def accumulate(self, p: Any = None) -> None:
        """Fills `eval` with the curves; p: other Params than those of evaluate()."""
        print("Accumulating evaluation results...")
        start = time.time()
        if self._sides is None:
            print("Please run evaluate() first")
        given = self.params if p is None else p
        result = self._result if p is None or p is self.params else self._run(given)
        given.catIds = given.catIds if given.useCats == 1 else [-1]
        precision, recall, scores, self._stats = result
        self.eval = {
            "params": given,
            "counts": list(precision.shape),
            "date": datetime.datetime.now().strftime("%Y-%m-%d %H:%M:%S"),
            "precision": precision,
            "recall": recall,
            "scores": scores,
        }
        print(f"DONE (t={time.time() - start:0.2f}s).")

    def summarize(self) -> None:
        """Computes `stats` and prints them."""
        if not self.eval:
            raise Exception("Please run accumulate() first")
        thresholds = self.params._thresholds()
        if self.params.iouType == "keypoints":
            self.stats = keypoint_stats(self.eval["precision"], self.eval["recall"], thresholds)
        else:
            self.stats = self._stats.copy()
        for line in summary_lines(self.stats, thresholds, self.params.iouType):
            print(line)

    def __str__(self) -> str:
        self.summarize()
        return ""


class _Group:
    """Makes pycocotools' dictionaries of one (image, category) out of the matches."""

    def __init__(
        self, gt: Columns, dt: Columns, both: Any, p: Params, thresholds: _Thresholds
    ) -> None:
        self.gt, self.dt, self.both, self.p, self.areas = gt, dt, both, p, thresholds.areas
        extra = both.extra or {}
        ignore = extra.get("ignore")
        crowd = np.asarray(both.object_crowd, bool)
        self.ignore = crowd if ignore is None else crowd | ignore
        self.area = extra["detection_area"]

    def entry(self, rows: Any, found: Any, match: Any, a: int, image: Any, category: Any) -> Any:
        """rows, found: input positions; match: (T, D) places among rows or -1."""
        low, high = self.areas[a]
        area = self.both.object_area[rows]
        ignored = self.ignore[rows] | (area < low) | (area > high)
        order = np.argsort(ignored, kind="stable")
        ids, dt_ids = self.gt.id[rows], self.dt.id[found]
        hit = match >= 0
        if len(rows):
            dt_matches = np.where(hit, ids[match], 0).astype(float)
            dt_ignore = hit & ignored[match]
        else:
            dt_matches, dt_ignore = np.zeros(match.shape), hit
        gt_matches = np.zeros((len(match), len(rows)))
        for t, d in np.argwhere(hit):  # in rising d: of a crowd's several matches the last stays
            gt_matches[t, match[t, d]] = dt_ids[d]
        outside = (self.area[found] < low) | (self.area[found] > high)
        return {
            "image_id": image,
            "category_id": category,
            "aRng": self.p.areaRng[a],
            "maxDet": self.p.maxDets[-1],
            "dtIds": dt_ids.tolist(),
            "gtIds": ids[order].tolist(),
            "dtMatches": dt_matches,
            "gtMatches": gt_matches[:, order],
            "dtScores": self.dt.score[found].tolist() if self.dt.score is not None else [],
            "gtIgnore": ignored[order].astype(int),
            "dtIgnore": dt_ignore | ((dt_matches == 0) & outside[None]),
        }


def _row_masks(side: Columns, rows: Any) -> list[dict[str, Any]]:
    """Masks of some rows as dictionaries."""
    out = []
    text = side.text
    for i in rows.tolist():
        h, w = int(side.height[i]), int(side.width[i])
        at, length = int(side.segmentation_at[i]), int(side.segmentation_bytes[i])
        if not length:
            out += mask.frPyObjects(side.box[i : i + 1], h, w)
            continue
        segm = json.loads(bytes(text[at : at + length]))
        if isinstance(segm, list):
            out.append(mask.merge(mask.frPyObjects(segm, h, w)))
        else:
            out.append(mask.frPyObjects(segm, h, w) if isinstance(segm["counts"], list) else segm)
    return out


def _similarities(gt: Any, dt: Any, variances: Any, box: Any, area: Any) -> Any:
    """pycocotools' object keypoint similarities (D, G)."""
    out = np.zeros((len(dt), len(gt)))
    for j, g in enumerate(gt):
        gx, gy, visible = g[0::3], g[1::3], g[2::3] > 0
        x0, y0, w, h = box[j]
        for i, d in enumerate(dt):
            dx, dy = d[0::3] - gx, d[1::3] - gy
            if not visible.any():
                dx = np.maximum(0, x0 - w - d[0::3]) + np.maximum(0, d[0::3] - (x0 + w * 2))
                dy = np.maximum(0, y0 - h - d[1::3]) + np.maximum(0, d[1::3] - (y0 + h * 2))
            e = (dx**2 + dy**2) / variances / (area[j] + np.spacing(1)) / 2
            e = e[visible] if visible.any() else e
            out[i, j] = np.sum(np.exp(-e)) / e.shape[0]
    return out


def init_as_pycocotools() -> None:
    """Makes `import pycocotools` (coco, cocoeval, mask) give this package's classes from now on.

    Call it before the framework that imports pycocotools; it changes sys.modules of the process.
    """
    package = types.ModuleType("pycocotools")
    package.__path__ = []
    parts: dict[str, dict[str, Any]] = {
        "coco": {"COCO": COCO},
        "cocoeval": {"COCOeval": COCOeval, "Params": Params},
    }
    for name, members in parts.items():
        module = types.ModuleType(f"pycocotools.{name}")
        module.__dict__.update(members)
        if name == "coco":
            module.__dict__["maskUtils"] = mask
        setattr(package, name, module)
        sys.modules[f"pycocotools.{name}"] = module
    package.mask = mask  # type: ignore[attr-defined]
    sys.modules["pycocotools"] = package
    sys.modules["pycocotools.mask"] = mask
