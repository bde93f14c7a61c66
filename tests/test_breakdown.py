"""Errors by kind, calibration, LVIS' figures, and the report that shows them."""

from __future__ import annotations

import contextlib
import copy
import io
from typing import Any

import numpy as np
import pytest
from test_evaluate import as_arrays, random_set

from deepseek_det import charts
from deepseek_det.breakdown import KINDS, calibration, errors
from deepseek_det.errors import Error
from deepseek_det.evaluate import Evaluator, evaluate_detections, lvis
from deepseek_det.metrics import Metrics
from deepseek_det.report import Part, write_report

A, B = [0.0, 0, 10, 10], [50.0, 50, 60, 60]


def one_image(truth: list[Any], found: list[Any]) -> Metrics:
    """truth: (xyxy, class); found: (xyxy, class, confidence)."""
    boxes = np.array([t[0] for t in truth], float).reshape(-1, 4)
    spots = np.array([f[0] for f in found], float).reshape(-1, 4)
    return evaluate_detections(
        [(boxes, [t[1] for t in truth], None)],
        [(spots, [f[2] for f in found], [f[1] for f in found])],
        ["disk", "star"],
    )


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([(A, 0, 0.9), (B, 0, 0.8)], {}),
        ([(A, 1, 0.9), (B, 0, 0.8)], {"classification": 1}),
        ([([4, 0, 14, 10], 0, 0.9), (B, 0, 0.8)], {"localization": 1}),
        ([([4, 0, 14, 10], 1, 0.9), (B, 0, 0.8)], {"both": 1, "missed": 1}),
        ([(A, 0, 0.9), (A, 0, 0.8), (B, 0, 0.7)], {"duplicate": 1}),
        ([(A, 0, 0.9), (B, 0, 0.8), ([80, 0, 90, 10], 0, 0.7)], {"background": 1}),
        ([(A, 0, 0.9)], {"missed": 1}),
        ([], {"missed": 2}),
    ],
)
def test_errors_each_kind_is_found_by_hand(found: list[Any], expected: dict[str, int]) -> None:
    made = one_image([(A, 0), (B, 0)], found).errors()
    assert {k: v for k, v in made.counts.items() if v} == expected
    assert set(made.cost) == set(KINDS)


def test_errors_putting_one_kind_right_gives_what_it_cost() -> None:
    # The background detection is the best one: precision is 1/2, then 2/3 at full recall.
    m = one_image([(A, 0), (B, 0)], [([80, 0, 90, 10], 0, 0.9), (A, 0, 0.8), (B, 0, 0.7)])
    assert m.errors().ap == pytest.approx(2 / 3)
    assert m.errors().cost["background"] == pytest.approx(1 / 3)
    m = one_image([(A, 0), (B, 0)], [(A, 0, 0.8), ([54, 50, 64, 60], 0, 0.7)])
    assert m.errors().cost["localization"] == pytest.approx(1 - 51 / 101)
    m = one_image([(A, 0), (B, 0)], [(A, 0, 0.8)])
    assert m.errors().cost["missed"] == pytest.approx(1 - 51 / 101)


@pytest.mark.parametrize("seed", range(12))
def test_errors_account_for_everything_on_random_sets(seed: int) -> None:
    gt, dt, _ = random_set(seed)
    targets, detections, names = as_arrays(gt, dt)
    m = evaluate_detections(targets, detections, names)
    made = m.errors()
    assert m.boxes is not None
    kinds = [int((made.kind == i).sum()) for i in range(7)]
    assert kinds[1:6] == [made.counts[name] for name in KINDS[:-1]]
    assert sum(kinds) + int((made.kind == 255).sum()) == len(made.kind)
    most = np.unique(m.boxes.detection_image, return_counts=True)[1].max(initial=0)
    if most <= 100:  # COCO's figure looks at the best hundred only
        assert made.ap == pytest.approx(max(0.0, m.ap50), abs=0.02)
    worst = made.worst_images(m.boxes, 3)
    assert len(worst) <= 3
    assert all(0 <= i < len(targets) for i in worst)


def test_errors_crowds_are_left_out() -> None:
    box = np.array([A, B])
    m = evaluate_detections([(box, [0, 0], [False, True])], [(box, [0.9, 0.8], [0, 0])], ["disk"])
    assert m.errors().kind.tolist() == [0, 255]
    assert calibration(m.boxes).counts.sum() == 1  # type: ignore[arg-type]


def test_calibration_of_honest_and_boastful_confidences() -> None:
    rng = np.random.default_rng(0)
    score = rng.random(4000)
    for right, error in ((rng.random(4000) < score, 0.0), (rng.random(4000) < score / 2, 0.25)):
        boxes = np.tile([A], (4000, 1))
        targets = [(boxes[:1] if r else boxes[:0], [0] if r else [], None) for r in right]
        found = [(boxes[:1], [s], [0]) for s in score]
        made = evaluate_detections(targets, found, ["disk"]).calibration()
        assert made.error == pytest.approx(error, abs=0.03)
        assert made.counts.sum() == 4000
    with pytest.raises(ValueError, match="bins"):
        calibration(errors and one_image([(A, 0)], []).boxes, 0)  # type: ignore[arg-type]


def test_report_shows_errors_calibration_and_no_outside_link(tmp_path: Any) -> None:
    m = one_image([(A, 0), (B, 0)], [(A, 1, 0.9), ([80, 0, 90, 10], 0, 0.7)])
    page = write_report(tmp_path, [Part("Split val", m)]).read_text()
    for text in ("AP50 that is lost to", "classification", "Expected calibration error", "medium"):
        assert text in page
    assert "http" not in page.replace("http://www.w3.org", "")
    assert "nothing" in charts.bar_chart(["a"], [0.0], "lost")


# ---- LVIS


def federated(seed: int) -> tuple[Any, Any]:
    gt, dt, _ = random_set(seed)
    rng = np.random.default_rng(seed)
    kinds = [c["id"] for c in gt["categories"]]
    for c in gt["categories"]:
        c["frequency"] = str(rng.choice(list("rcf")))
    for a in gt["annotations"]:
        a["iscrowd"] = 0
    for image in gt["images"]:
        image["neg_category_ids"] = [int(c) for c in kinds if rng.random() < 0.4]
        image["not_exhaustive_category_ids"] = []
    return gt, dt


@pytest.mark.parametrize("seed", range(10))
def test_lvis_without_open_lists_is_coco_on_the_judged_detections(seed: int) -> None:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    gt, dt = federated(seed)
    judged = {(i["id"], k) for i in gt["images"] for k in i["neg_category_ids"]}
    judged |= {(a["image_id"], a["category_id"]) for a in gt["annotations"]}
    kept = [d for d in dt if (d["image_id"], d["category_id"]) in judged]
    if not kept or not gt["annotations"]:
        return
    ours = lvis(gt, dt, max_det=10**6)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = copy.deepcopy(gt)
        truth.createIndex()
        ev = COCOeval(truth, truth.loadRes(copy.deepcopy(kept)), "bbox")
        ev.params.maxDets = [10**6]
        ev.evaluate()
        ev.accumulate()
    assert ours.precision.tobytes() == ev.eval["precision"].tobytes()
    assert ours.recall.tobytes() == ev.eval["recall"].tobytes()
    for i, group in enumerate("rcf"):
        at = [k for k, f in enumerate(ours.frequency) if f == group]
        values = ours.precision[:, :, at, 0][ours.precision[:, :, at, 0] > -1]
        assert ours["AP" + "rcf"[i]] == (values.mean() if values.size else -1)


def test_lvis_open_lists_and_the_limit_an_image_by_hand() -> None:
    box = {"image_id": 1, "bbox": [8, 8, 16, 16]}
    gt = {
        "images": [{"id": 1, "neg_category_ids": [3], "not_exhaustive_category_ids": [1]}],
        "categories": [{"id": i, "name": f"c{i}", "frequency": "rcf"[i - 1]} for i in (1, 2, 3)],
        "annotations": [box | {"id": 1, "category_id": 1, "area": 256, "iscrowd": 0}],
    }
    stray = {"image_id": 1, "bbox": [80, 80, 9, 9], "score": 0.95}
    hit = box | {"category_id": 1, "score": 0.9}
    assert lvis(gt, [stray | {"category_id": 1}, hit])["APr"] == pytest.approx(1)
    gt["images"][0]["not_exhaustive_category_ids"] = []
    assert lvis(gt, [stray | {"category_id": 1}, hit])["APr"] == pytest.approx(0.5)
    # A judged category without an object has no AP; it still takes a place among the best.
    many = [stray | {"category_id": 3}, hit]
    assert lvis(gt, many)["APr"] == pytest.approx(1)
    assert lvis(gt, many, max_det=1)["APr"] == pytest.approx(0)
    assert lvis(gt, many)["APf"] == -1


@pytest.mark.parametrize(
    ("change", "iou_type", "message"),
    [
        ({}, "keypoints", "keypoints"),
        ({"image_id": 9}, "bbox", "image_id 9"),
    ],
)
def test_lvis_bad_input_is_named(change: Any, iou_type: str, message: str) -> None:
    gt = {"images": [{"id": 1}], "categories": [{"id": 1, "name": "a"}], "annotations": []}
    result = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1], "score": 1} | change
    with pytest.raises((ValueError, Error), match=message):
        lvis(gt, [result], iou_type)


def test_metrics_of_an_evaluator_have_errors_too() -> None:
    ev = Evaluator()
    found = {"boxes": [A, B], "scores": [0.9, 0.8], "labels": [0, 0]}
    ev.update([found], [{"boxes": [A], "labels": [0]}])
    assert ev.compute().errors().counts["background"] == 1
