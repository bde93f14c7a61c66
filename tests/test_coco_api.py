"""COCO, COCOeval and mask against pycocotools: fixtures, random sets, printed text, bad input."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_evaluate import random_set

from deepseek_det import Error, mask
from deepseek_det.evaluate import COCO, COCOeval, coco

RANDOM_SETS = int(os.environ.get("DEEPSEEK_DET_RANDOM_SETS", "150"))
"""How many random sets are compared; 1,500 take a minute and a half."""

pycocotools_mask = pytest.importorskip("pycocotools.mask")
pytestmark = pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")


def evaluated(kind: str, gt: Any, dt: Any, iou_type: str, settings: dict[str, Any]) -> Any:
    """(COCOeval, what it printed) of pycocotools ("theirs") or of this package ("ours")."""
    if kind == "theirs":
        from pycocotools.coco import COCO as Data
        from pycocotools.cocoeval import COCOeval as Evaluation
    else:
        Data, Evaluation = COCO, COCOeval
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        if isinstance(gt, str):
            truth = Data(gt)
            found = truth.loadRes(dt)
        else:
            truth = Data()
            truth.dataset = copy.deepcopy(gt)
            truth.createIndex()
            found = truth.loadRes(copy.deepcopy(dt))
        ev = Evaluation(truth, found, iou_type)
        for key, value in settings.items():
            setattr(ev.params, key, value)
        ev.evaluate()
        ev.accumulate()
        if len(ev.params.maxDets) == 3 or iou_type == "keypoints":
            ev.summarize()
    return ev, re.sub(r"t=[0-9.]+", "t=", out.getvalue())


def assert_same(theirs: Any, ours: Any) -> None:
    for key in ("precision", "recall", "scores"):
        assert theirs.eval[key].tobytes() == ours.eval[key].tobytes(), key
    assert np.asarray(theirs.stats).tobytes() == np.asarray(ours.stats).tobytes()
    assert len(theirs.evalImgs) == len(ours.evalImgs)
    for x, y in zip(theirs.evalImgs, ours.evalImgs, strict=True):
        assert (x is None) == (y is None)
        if x is not None:
            assert x.keys() == y.keys()
            for key in x:
                assert np.array_equal(np.asarray(x[key]), np.asarray(y[key])), key
    assert theirs.ious.keys() == ours.ious.keys()
    for key, matrix in theirs.ious.items():
        assert len(matrix) == len(ours.ious[key])
        if len(matrix):
            assert np.asarray(matrix).tobytes() == np.asarray(ours.ious[key]).tobytes()


# ---- fixtures

_COCO = "cocoapi/instances_val2014_100.json"
_BOXES = "cocoapi/instances_val2014_fakebbox100_results.json"
_MASKS = "cocoapi/instances_val2014_fakesegm100_results.json"
_FASTER = "faster_coco_eval/"


@pytest.mark.parametrize("from_files", [True, False])
@pytest.mark.parametrize(
    ("gt", "dt", "iou_type"),
    [
        (_COCO, _BOXES, "bbox"),
        (_COCO, _BOXES, "segm"),
        (_COCO, _MASKS, "segm"),
        (_COCO, _MASKS, "bbox"),
        (_FASTER + "dataset/gt_dataset.json", _FASTER + "dataset/dt_dataset.json", "segm"),
        (
            _FASTER + "keypoints_dataset/gt_dataset.json",
            _FASTER + "keypoints_dataset/dt_dataset.json",
            "keypoints",
        ),
        ("sahi/coco_evaluate/dataset.json", "sahi/coco_evaluate/result.json", "bbox"),
    ],
)
def test_dropin_fixtures_equal_pycocotools_and_its_text(
    data_root: Path, gt: str, dt: str, iou_type: str, from_files: bool
) -> None:
    folder = data_root / "coco_eval_ref"
    sides: list[Any] = [str(folder / gt), str(folder / dt)]
    if not from_files:
        sides = [json.loads(Path(side).read_text()) for side in sides]
    theirs, their_text = evaluated("theirs", *sides, iou_type, {})
    ours, our_text = evaluated("ours", *sides, iou_type, {})
    assert_same(theirs, ours)
    assert our_text == their_text
    result = coco(*sides, iou_type, compatible=True)
    assert result.precision.tobytes() == theirs.eval["precision"].tobytes()
    assert result.stats.tobytes() == np.asarray(theirs.stats).tobytes()
    assert "\n".join(their_text.splitlines()[-len(result.stats) :]) == result.summarize()


# ---- random sets


def random_mask(rng: np.random.Generator, box: list[float], h: int, w: int, form: int) -> Any:
    """An object's mask as polygons, compressed or uncompressed run lengths."""
    x, y, bw, bh = box
    t = np.sort(rng.random(int(rng.integers(3, 12)))) * 2 * np.pi
    polygon = np.stack([x + bw / 2 * (1 + np.cos(t)), y + bh / 2 * (1 + np.sin(t))], 1).ravel()
    polygons = [polygon.tolist()]
    if rng.random() < 0.3:
        polygons.append((polygon + rng.normal(0, 10)).tolist())
    if form == 0:
        return polygons
    rle = pycocotools_mask.merge(pycocotools_mask.frPyObjects(polygons, h, w))
    if form == 1:
        return {"size": rle["size"], "counts": rle["counts"].decode()}
    pixels = pycocotools_mask.decode(rle).ravel(order="F").astype(int)
    ends = np.flatnonzero(np.diff(pixels, prepend=0))
    return {"size": rle["size"], "counts": np.diff([0, *ends, h * w]).tolist()}


def with_masks(seed: int) -> Any:
    gt, dt, params = random_set(seed)
    rng = np.random.default_rng(seed + 7)
    for image in gt["images"]:
        image["height"], image["width"] = (int(v) for v in rng.integers(20, 400, 2))
    sizes = {i["id"]: (i["height"], i["width"]) for i in gt["images"]}
    for a in gt["annotations"]:
        a["segmentation"] = random_mask(rng, a["bbox"], *sizes[a["image_id"]], rng.integers(0, 3))
    for d in dt:
        if seed % 3 < 2:
            d["segmentation"] = random_mask(rng, d["bbox"], *sizes[d["image_id"]], 1)
        if seed % 3 == 0:
            del d["bbox"]
    return gt, dt, params


def with_keypoints(seed: int) -> Any:
    gt, dt, params = random_set(seed)
    rng = np.random.default_rng(seed + 7)
    by_image: dict[int, list[Any]] = {}
    for a in gt["annotations"]:
        x, y, w, h = a["bbox"]
        v = rng.integers(0, 3, 17) * (rng.random() < 0.8)
        points = np.stack([x + rng.random(17) * w, y + rng.random(17) * h, v], 1)
        a["keypoints"] = points.round(int(rng.integers(0, 3))).ravel().tolist()
        a["num_keypoints"] = int((v > 0).sum())
        by_image.setdefault(a["image_id"], []).append(a)
    for d in dt:
        points = rng.random((17, 3)) * 100
        if d["image_id"] in by_image and rng.random() < 0.8:
            a = by_image[d["image_id"]][int(rng.integers(len(by_image[d["image_id"]])))]
            points = np.array(a["keypoints"]).reshape(-1, 3)
            noise = rng.normal(0, 0.05 * np.sqrt(a["area"] + 0.1), (17, 2))
            points[:, :2] += noise * rng.choice([0, 0.3, 1])
            d["category_id"] = a["category_id"]
        d["keypoints"] = points.ravel().tolist()
        del d["bbox"]
    return gt, dt, {k: v for k, v in params.items() if k == "useCats"}


@pytest.mark.parametrize("block", range(4))
def test_dropin_random_sets_equal_pycocotools_bit_for_bit(block: int, tmp_path: Path) -> None:
    makers = {"bbox": random_set, "segm": with_masks, "keypoints": with_keypoints}
    checked = 0
    for seed in range(block, RANDOM_SETS, 4):
        iou_type = ("bbox", "segm", "keypoints", "segm")[seed // 4 % 4]
        gt, dt, params = makers[iou_type](seed)
        if not dt or not gt["annotations"]:  # pycocotools cannot load an empty list
            continue
        theirs, their_text = evaluated("theirs", gt, dt, iou_type, params)
        ours, our_text = evaluated("ours", gt, dt, iou_type, params)
        assert_same(theirs, ours)
        assert our_text == their_text
        if seed % 5 == 0:
            paths = [str(tmp_path / "gt.json"), str(tmp_path / "dt.json")]
            Path(paths[0]).write_text(json.dumps(gt))
            Path(paths[1]).write_text(json.dumps(dt))
            assert_same(theirs, evaluated("ours", *paths, iou_type, params)[0])
        checked += 1
    assert checked > RANDOM_SETS // 6


# ---- the data set's class


def small() -> dict[str, Any]:
    square = [10.0, 10, 10, 20, 20, 20, 20, 10]
    return {
        "info": {"year": 2020},
        "images": [{"id": i, "height": 40, "width": 50, "file_name": f"{i}.jpg"} for i in (7, 3)],
        "categories": [
            {"id": 2, "name": "cat", "supercategory": "animal"},
            {"id": 5, "name": "cup", "supercategory": "thing"},
        ],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 2, "bbox": [10, 10, 10, 10], "area": 100.0}
            | {"iscrowd": 0, "segmentation": [square]},
            {"id": 4, "image_id": 7, "category_id": 5, "bbox": [0, 0, 50, 40], "area": 2000.0}
            | {"iscrowd": 1, "segmentation": {"size": [40, 50], "counts": [0, 2000]}},
            {"id": 9, "image_id": 3, "category_id": 2, "bbox": [1, 1, 3, 3], "area": 9.0}
            | {"iscrowd": 0, "segmentation": {"size": [40, 50], "counts": "Y11lV1"}},
        ],
    }


QUERIES = [
    ("getAnnIds", {}),
    ("getAnnIds", {"imgIds": 7}),
    ("getAnnIds", {"imgIds": [3, 7], "catIds": [2]}),
    ("getAnnIds", {"areaRng": [9, 2000]}),
    ("getAnnIds", {"iscrowd": True}),
    ("getAnnIds", {"imgIds": [99]}),
    ("getCatIds", {}),
    ("getCatIds", {"catNms": ["cup"]}),
    ("getCatIds", {"supNms": "animal"}),
    ("getCatIds", {"catIds": 5}),
    ("getImgIds", {}),
    ("getImgIds", {"catIds": [2, 5]}),
    ("getImgIds", {"imgIds": [3], "catIds": 2}),
    ("loadAnns", {"ids": [4, 1]}),
    ("loadAnns", {"ids": 9}),
    ("loadCats", {"ids": [2]}),
    ("loadImgs", {"ids": 3}),
]


@pytest.mark.parametrize("from_file", [True, False])
def test_dropin_queries_equal_pycocotools(tmp_path: Path, from_file: bool) -> None:
    from pycocotools.coco import COCO as Theirs

    path = tmp_path / "gt.json"
    path.write_text(json.dumps(small()))
    with contextlib.redirect_stdout(None):
        theirs = Theirs(str(path))
        for name, arguments in QUERIES:
            ours = COCO(path if from_file else small())
            got, expected = getattr(ours, name)(**arguments), getattr(theirs, name)(**arguments)
            key = sorted if name == "getImgIds" else list
            assert key(got) == key(expected), (name, arguments)
        for annotation in small()["annotations"][:2]:
            assert ours.annToRLE(annotation) == theirs.annToRLE(annotation)
            assert np.array_equal(ours.annToMask(annotation), theirs.annToMask(annotation))
        ours.info()


def test_dropin_changed_dictionaries_are_what_is_evaluated(tmp_path: Path) -> None:
    path = tmp_path / "gt.json"
    path.write_text(json.dumps(small()))
    results = [{"image_id": 7, "category_id": 2, "bbox": [10, 10, 10, 10], "score": 0.9}]
    with contextlib.redirect_stdout(None):
        gt = COCO(path)
        dt = gt.loadRes(results)
        gt.anns[9]["iscrowd"] = 1
        ev = COCOeval(gt, dt, "bbox")
        ev.evaluate()
        ev.accumulate()
        ev.summarize()
        assert ev.stats[0] == pytest.approx(1)
        gt.anns[9]["iscrowd"] = 0
        ev.evaluate()
        ev.accumulate()
        ev.summarize()
    assert 0.4 < ev.stats[0] < 0.6
    assert results[0]["id"] == 1  # as pycocotools does


def test_dropin_array_of_results_equals_the_list(tmp_path: Path) -> None:
    rows = np.array([[7, 10, 10, 10, 10, 0.9, 2], [3, 1, 1, 3, 3, 0.5, 2]])
    with contextlib.redirect_stdout(None):
        gt = COCO(small())
        dt = gt.loadRes(rows)
        assert [a["bbox"] for a in dt.anns.values()] == rows[:, 1:5].tolist()
        ev = COCOeval(gt, gt.loadRes(rows), "bbox")
        ev.evaluate()
        ev.accumulate()
        ev.summarize()
    assert ev.stats[0] == pytest.approx(1)


def test_dropin_strangers_and_missing_steps_are_refused(tmp_path: Path) -> None:
    with contextlib.redirect_stdout(None):
        gt = COCO(small())
        with pytest.raises(AssertionError, match="do not correspond"):
            gt.loadRes([{"image_id": 1, "category_id": 2, "bbox": [0, 0, 1, 1], "score": 1}])
        with pytest.raises(Exception, match="accumulate"):
            COCOeval(gt, gt, "bbox").summarize()
        with pytest.raises(Exception, match="not supported"):
            COCOeval(gt, gt, "pose")
        with pytest.raises(OSError, match="nowhere"):
            COCO("/nowhere/gt.json")
        broken = tmp_path / "broken.json"
        broken.write_text('{"images": [')
        with pytest.raises(Error, match="nothing came in images"):
            COCO(broken)
        with pytest.raises(AttributeError, match="nothing"):
            _ = gt.nothing


def test_init_as_pycocotools_serves_its_imports() -> None:
    code = (
        "import deepseek_det as dd; dd.evaluate.init_as_pycocotools()\n"
        "from pycocotools.coco import COCO\n"
        "from pycocotools.cocoeval import COCOeval, Params\n"
        "from pycocotools import mask as m; import pycocotools.mask\n"
        "assert COCO is dd.evaluate.COCO and m.encode is dd.evaluate.mask.encode"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# ---- masks


def test_mask_polygons_equal_pycocotools() -> None:
    rng = np.random.default_rng(0)
    for i in range(2000):
        h, w = (int(v) for v in rng.integers(1, 60, 2))
        spread = (10, 60, 300, 60)[i % 4]
        points = rng.normal(0, spread / 2, 2 * int(rng.integers(3, 12))) + rng.random() * 50
        points = np.round(points) if i % 4 == 3 else points
        polygon = [np.abs(points).tolist() if rng.random() < 0.3 else points.tolist()]
        assert mask.frPyObjects(polygon, h, w) == pycocotools_mask.frPyObjects(polygon, h, w)


def test_mask_functions_equal_pycocotools() -> None:
    theirs = pycocotools_mask
    rng = np.random.default_rng(1)
    for _ in range(300):
        h, w = (int(v) for v in rng.integers(1, 40, 2))
        pixels = np.asfortranarray((rng.random((h, w, 3)) < rng.random()).astype(np.uint8))
        a = theirs.encode(pixels)
        b = theirs.encode(np.asfortranarray((rng.random((h, w, 4)) < 0.5).astype(np.uint8)))
        crowd = (rng.random(4) < 0.5).astype(int).tolist()
        boxes, others = rng.random((3, 4)) * 20, rng.random((4, 4)) * 20
        assert mask.encode(pixels) == a
        assert np.array_equal(mask.decode(a), theirs.decode(a))
        assert np.array_equal(mask.area(a), theirs.area(a))
        assert np.array_equal(mask.toBbox(a), theirs.toBbox(a))
        assert mask.merge(a, True) == theirs.merge(a, True)
        assert mask.merge(a) == theirs.merge(a)
        assert mask.iou(a, b, crowd).tobytes() == theirs.iou(a, b, crowd).tobytes()
        assert (
            mask.iou(boxes, others, crowd).tobytes() == theirs.iou(boxes, others, crowd).tobytes()
        )
        assert mask.frPyObjects(boxes, h, w) == theirs.frPyObjects(boxes, h, w)


def test_mask_empty_runs_equal_pycocotools() -> None:
    theirs = pycocotools_mask
    rng = np.random.default_rng(2)
    for _ in range(500):
        pair = []
        for _ in range(2):
            counts = [int(v) for v in rng.integers(0, 4, int(rng.integers(2, 9)))]
            counts.append(40 - sum(counts))
            pair += theirs.frPyObjects([{"size": [40, 1], "counts": counts}], 40, 1)
            assert mask.frPyObjects([{"size": [40, 1], "counts": counts}], 40, 1) == pair[-1:]
        for intersect in (False, True):
            assert mask.merge(pair, intersect) == theirs.merge(pair, intersect)
        if theirs.area(pair).all():
            assert np.array_equal(mask.toBbox(pair), theirs.toBbox(pair))
            assert np.array_equal(
                mask.iou(pair[:1], pair[1:], [0]), theirs.iou(pair[:1], pair[1:], [0])
            )


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: mask.decode({"size": [2, 2], "counts": b"09"}), ValueError, "longer than"),
        (lambda: mask.decode({"size": [2, 2], "counts": b"\x01"}), Error, "byte 0"),
        (lambda: mask.decode({"size": [2, 2], "counts": b"o"}), Error, "end within"),
        (lambda: mask.decode({"size": [2, 2], "counts": 3}), TypeError, "bytes or str"),
        (lambda: mask.decode({"size": [2, 2]}), KeyError, "counts"),
        (lambda: mask.area({"size": [70000, 70000], "counts": b""}), ValueError, "at most"),
        (lambda: mask.frPyObjects([[1, 2]], 4, 4), ValueError, "polygons"),
        (lambda: mask.frPyObjects([[1, 2, 3, 4, 5, 1e300]], 4, 4), ValueError, "1e\\+300"),
        (lambda: mask.encode(np.zeros(3)), ValueError, r"\(h, w\)"),
        (lambda: mask.iou([[0, 0, 1, 1]], [[0, 0, 1, 1]], []), ValueError, "flags"),
    ],
)
def test_mask_bad_input_is_named(call: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ({"size": [4, 4], "counts": "~"}, "mask 0"),
        ({"size": [4, 4], "counts": [20]}, "longer than"),
        ({"size": [4, 4]}, "size and counts"),
        ({"size": [4], "counts": [16]}, "two whole numbers"),
        ([["a"]], "a number was needed"),
        (3, "an object was needed"),
    ],
)
def test_coco_broken_masks_name_the_annotation(segmentation: Any, message: str) -> None:
    gt = small()
    gt["annotations"][0]["segmentation"] = segmentation
    results = [{"image_id": 7, "category_id": 2, "bbox": [10, 10, 10, 10], "score": 0.9}]
    with pytest.raises((Error, ValueError), match=message):
        coco(gt, results, "segm")
