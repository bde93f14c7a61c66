"""A model's doubts: predictions kept and read, folds, and the ranking against planted errors."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageFilter
from planted import write_image

import deepseek_det as dd
from deepseek_det.data import Dataset, Record, load
from deepseek_det.errors import Error
from deepseek_det.quality import (
    Predictions,
    advise,
    cross_check,
    fold_predictions,
    predictions_of,
    rank,
    resolve,
)
from deepseek_det.quality.predictions import Seen

NAMES = ["cat", "dog"]
CELLS = [(x, y) for y in (6, 54, 102) for x in (6, 62, 118)]
SIDE = 36


@pytest.fixture(autouse=True)
def short_rehearsal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enough for these errors, which are plain."""
    monkeypatch.setattr("deepseek_det.quality.ranking.REHEARSED_LABELS", 900)


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """20 images with nine objects each, apart from each other."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    records = []
    for i in range(20):
        path = write_image(folder / f"p{i:02}.png", 160, 144, seed=i)
        boxes = np.array([(x, y, x + SIDE, y + SIDE) for x, y in CELLS], np.float32)
        labels = rng.integers(0, 2, len(boxes)).astype(np.int32)
        records.append(Record(path, i, 160, 144, boxes, labels, np.zeros(len(boxes), np.bool_)))
    return Dataset(folder, "train", "coco", NAMES, [1, 2], records)


def good_model(data: Dataset, seed: int = 1, views: int = 3) -> Predictions:
    """What a model sees that finds nearly all, a little off, with weak inventions beside."""
    rng = np.random.default_rng(seed)
    images: dict[str, list[Seen]] = {}
    for r in data.records:
        images[r.path.name] = []
        for _ in range(views):
            xyxy = r.boxes + rng.normal(0, 1, r.boxes.shape).astype(np.float32)
            conf = rng.uniform(0.6, 0.95, len(xyxy))
            conf[rng.random(len(conf)) < 0.03] = 0.15
            low = rng.uniform(0, 100, (2, 2))
            xyxy = np.concatenate([xyxy, np.concatenate([low, low + SIDE], 1)]).astype(np.float32)
            conf = np.concatenate([conf, rng.uniform(0.05, 0.3, 2)]).astype(np.float32)
            labels = np.concatenate([r.labels, rng.integers(0, 2, 2)]).astype(np.int32)
            order = np.argsort(-conf)
            images[r.path.name].append(Seen(xyxy[order], conf[order], labels[order]))
    return Predictions(NAMES, ["plain", "flip", "0.75"][:views], images)


@pytest.fixture
def model(clean: Dataset) -> Predictions:
    return good_model(clean)


def with_labels(data: Dataset, image: int, **fields: Any) -> Dataset:
    records = list(data.records)
    records[image] = replace(records[image], **fields)
    return Dataset(data.root, "train", "coco", data.names, data.categories, records)


def without(data: Dataset, image: int, label: int) -> Dataset:
    r = data.records[image]
    keep = np.arange(len(r.boxes)) != label
    fields = {k: getattr(r, k)[keep] for k in ("boxes", "labels", "ignore")}
    return with_labels(data, image, **fields)


def moved(data: Dataset, image: int, label: int, by: float) -> Dataset:
    boxes = data.records[image].boxes.copy()
    boxes[label, [0, 2]] += by
    return with_labels(data, image, boxes=boxes)


def swapped(data: Dataset, image: int, label: int) -> Dataset:
    labels = data.records[image].labels.copy()
    labels[label] = 1 - labels[label]
    return with_labels(data, image, labels=labels)


def extra(data: Dataset, image: int) -> Dataset:
    r = data.records[image]
    box = np.array([[100, 30, 122, 52]], np.float32)
    return with_labels(
        data,
        image,
        boxes=np.concatenate([r.boxes, box]),
        labels=np.append(r.labels, np.int32(0)),
        ignore=np.append(r.ignore, False),
    )


def test_each_kind_of_error_is_found_among_the_first(clean: Dataset, model: Predictions) -> None:
    data = extra(swapped(moved(without(clean, 2, 4), 5, 1, 14), 9, 7), 11)
    ranking = rank(data, model)
    first = {(d.image, d.reason) for d in ranking[:6]}
    planted = {
        ("p02.png", "missing"),
        ("p05.png", "location"),
        ("p09.png", "class"),
        ("p11.png", "spurious"),
    }
    assert planted <= first
    scores = [d.score for d in ranking]
    assert all(0 <= s <= 1 for s in scores if s is not None)
    assert scores == sorted(scores, key=lambda s: -(s or 0))
    assert [d.id for d in ranking] == list(range(1, len(ranking) + 1))
    one = {d.image: d for d in ranking[:6] if (d.image, d.reason) in planted}
    assert [c.annotator for c in one["p05.png"].candidates] == ["label", "model"]
    assert (one["p02.png"].suggestion, one["p11.png"].suggestion) == (0, "drop")
    assert (one["p05.png"].suggestion, one["p09.png"].suggestion) == (1, 1)
    kinds = [c.name for c in one["p09.png"].candidates]
    assert sorted(kinds) == NAMES
    assert "p05.png" in str(ranking)


def test_suggestions_taken_mend_the_set(clean: Dataset, model: Predictions, tmp_path: Path) -> None:
    data = extra(swapped(moved(without(clean, 2, 4), 5, 1, 14), 9, 7), 11)
    ranking = rank(data, model)
    decisions: dict[int, dict[str, Any]] = {}
    for d in ranking:
        if (d.image, d.reason) in {
            ("p02.png", "missing"),
            ("p05.png", "location"),
            ("p09.png", "class"),
            ("p11.png", "spurious"),
        } and d.id <= 6:
            drop = d.suggestion == "drop"
            decisions[d.id] = (
                {"action": "drop"} if drop else {"action": "accept", "candidate": d.suggestion}
            )
        elif d.candidates[0].annotator == "label":
            decisions[d.id] = {"action": "accept", "candidate": 0}
        else:
            decisions[d.id] = {"action": "drop"}
    made = load(resolve(ranking, decisions, tmp_path / "new"), "train")
    assert made.n_boxes == clean.n_boxes
    for ours, truth in zip(made.records, clean.records, strict=True):
        iou = dd.ops.box_iou(truth.boxes, ours.boxes)
        assert (iou.max(1) > 0.8).all()
        assert (ours.labels[iou.argmax(1)] == truth.labels).all()


def test_clean_labels_are_suspected_less(clean: Dataset, model: Predictions) -> None:
    dirty = rank(extra(without(clean, 2, 4), 11), model)
    quiet = rank(clean, model)
    assert max(d.score or 0 for d in quiet) < max(d.score or 0 for d in dirty)
    assert {d.image for d in dirty[:2]} == {"p02.png", "p11.png"}


def test_model_that_wavers_makes_it_ambiguous(clean: Dataset, model: Predictions) -> None:
    data = without(clean, 2, 4)
    box = clean.records[2].boxes[4]
    flip = model.images["p02.png"][1]
    away = dd.ops.box_iou(box[None], flip.xyxy)[0] < 0.3
    model.images["p02.png"][1] = Seen(flip.xyxy[away], flip.conf[away], flip.labels[away])
    found = next(d for d in rank(data, model) if d.image == "p02.png")
    assert found.reason == "ambiguous" and found.suggestion == "ignore"
    assert "missing? the model wavers" in found.text


def test_blurred_place_is_ambiguous(clean: Dataset, tmp_path: Path) -> None:
    records = []
    for r in clean.records:
        path = tmp_path / r.path.name
        noise = np.random.default_rng(int(r.id)).integers(0, 255, (144, 160, 3)).astype(np.uint8)
        image = Image.fromarray(noise)
        if r.path.name == "p03.png":
            image = image.filter(ImageFilter.GaussianBlur(6))
        image.save(path)
        records.append(replace(r, path=path))
    data = Dataset(tmp_path, "train", "coco", NAMES, [1, 2], records)
    model = good_model(data)
    data = without(without(data, 3, 2), 8, 2)
    found = {d.image: d for d in rank(data, model)[:2]}
    assert found["p03.png"].reason == "ambiguous" and "blurred" in found["p03.png"].text
    assert found["p08.png"].reason == "missing"
    assert {d.reason for d in rank(data, model, blur=False)[:2]} == {"missing"}


def test_ignored_regions_are_neither_judged_nor_missing(clean: Dataset, model: Predictions) -> None:
    r = clean.records[2]
    ignore = np.zeros(len(r.boxes), np.bool_)
    ignore[4] = True
    ranking = rank(with_labels(clean, 2, ignore=ignore), model)
    centre = r.boxes[4]
    near = [
        d
        for d in ranking
        if d.image == "p02.png" and dd.ops.box_iou(centre[None], [d.candidates[0].xyxy])[0, 0] > 0.3
    ]
    assert near == []
    assert sum(a.ignore for a in ranking.agreed) == 1


def test_single_class_and_empty_images(clean: Dataset, model: Predictions) -> None:
    empty = with_labels(
        clean,
        0,
        boxes=np.zeros((0, 4), np.float32),
        labels=np.zeros(0, np.int32),
        ignore=np.zeros(0, np.bool_),
    )
    found = [d for d in rank(empty, model, min_score=0) if d.image == "p00.png"]
    # Nine lack their label (weak ones may be passed over), each of them less tellingly than one.
    assert len([d for d in found if d.reason == "missing"]) >= 7
    records = [replace(r, labels=np.zeros_like(r.labels)) for r in clean.records]
    one = Dataset(clean.root, "train", "coco", ["cat"], [1], records)
    images = {n: [s._replace(labels=s.labels * 0) for s in v] for n, v in model.images.items()}
    ranking = rank(extra(one, 4), Predictions(["cat"], model.views, images))
    assert ranking[0].image == "p04.png" and "class" not in ranking.by_reason()
    nothing = {
        n: [s._replace(xyxy=s.xyxy[:0], conf=s.conf[:0], labels=s.labels[:0]) for s in v]
        for n, v in model.images.items()
    }
    assert rank(clean, Predictions(NAMES, model.views, nothing), blur=False).by_reason().keys() == {
        "spurious"
    }


def test_classes_may_come_in_another_order(clean: Dataset, model: Predictions) -> None:
    turned = {n: [s._replace(labels=1 - s.labels) for s in v] for n, v in model.images.items()}
    data = swapped(clean, 9, 7)
    a = rank(data, model)
    b = rank(data, Predictions(NAMES[::-1], model.views, turned))
    assert a.disputes == b.disputes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"min_score": 2}, "min_score is 2"),
        ({"rate": 0}, "rate is 0"),
        ({"rate": 1}, "rate is 1"),
    ],
)
def test_wrong_argument_is_refused(
    clean: Dataset, model: Predictions, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        rank(clean, model, **arguments)


def test_predictions_that_do_not_fit_are_refused(clean: Dataset, model: Predictions) -> None:
    other = Predictions(["cat", "owl"], model.views, model.images)
    with pytest.raises(Error, match="predictions are of"):
        rank(clean, other)
    del model.images["p07.png"]
    with pytest.raises(Error, match=r"no predictions for p07\.png"):
        rank(clean, model)


# ---- a third opinion ----------------------------------------------------------------------------


def perfect(data: Dataset) -> Predictions:
    """A model that sees exactly the labels, with confidence 0.9."""
    images = {
        r.path.name: [Seen(r.boxes, np.full(len(r.boxes), 0.9, np.float32), r.labels)] * 2
        for r in data.records
    }
    return Predictions(NAMES, ["plain", "flip"], images)


def test_model_takes_the_side_that_it_sees(clean: Dataset) -> None:
    b = extra(swapped(moved(without(clean, 2, 4), 5, 1, 14), 9, 7), 11)
    q = cross_check(clean, b)
    advised = advise(q, perfect(clean), blur=False)
    assert {(d.image, d.reason, d.suggestion) for d in advised.disputes} == {
        ("p02.png", "only-in-one", 0),
        ("p05.png", "location", 0),
        ("p09.png", "class", 0),
        ("p11.png", "only-in-one", "drop"),
    }
    assert all("the model" in d.text for d in advised.disputes)
    assert advised.agreement is q.agreement and all(d.suggestion is None for d in q.disputes)


def test_model_without_a_side_makes_it_ambiguous(clean: Dataset) -> None:
    a, b = moved(without(clean, 2, 4), 5, 1, -7), moved(swapped(clean, 9, 7), 5, 1, 7)
    model = perfect(clean)
    plain, _ = model.images["p09.png"]  # both classes in one place
    both = Seen(
        np.concatenate([plain.xyxy, plain.xyxy[7:8]]),
        np.append(plain.conf, np.float32(0.85)),
        np.append(plain.labels, 1 - plain.labels[7]).astype(np.int32),
    )
    model.images["p09.png"] = [both, both]
    s = model.images["p02.png"][0]  # seen in one view only
    keep = np.arange(len(s.conf)) != 4
    model.images["p02.png"][1] = Seen(s.xyxy[keep], s.conf[keep], s.labels[keep])
    q = advise(cross_check(a, b), model, blur=False)
    found = {d.image: (d.reason, d.suggestion, d.text.split("; ")[-1]) for d in q.disputes}
    assert found == {
        "p02.png": ("ambiguous", "ignore", "the model wavers"),
        "p05.png": ("ambiguous", "ignore", "the model takes no side"),
        "p09.png": ("ambiguous", "ignore", "the model takes no side"),
    }


def test_majority_is_not_overruled(clean: Dataset) -> None:
    q = cross_check(clean, clean, without(clean, 2, 4))
    assert [d.suggestion for d in advise(q, perfect(without(clean, 2, 4))).disputes] == [0]


def test_advice_needs_predictions_of_the_images(clean: Dataset, model: Predictions) -> None:
    q = cross_check(clean, without(clean, 2, 4))
    del model.images["p02.png"]
    with pytest.raises(Error, match=r"advise: there are no predictions for p02\.png"):
        advise(q, model)


# ---- predictions --------------------------------------------------------------------------------


def same(a: Predictions, b: Predictions) -> bool:
    return (a.names, a.views, list(a.images)) == (b.names, b.views, list(b.images)) and all(
        np.array_equal(x, y)
        for n in a.images
        for s, t in zip(a.images[n], b.images[n], strict=True)
        for x, y in zip(s, t, strict=True)
    )


def test_predictions_file_comes_back(clean: Dataset, model: Predictions, tmp_path: Path) -> None:
    file = model.write(tmp_path / "p.json")
    assert same(Predictions.read(file), model)
    assert rank(clean, file).disputes == rank(clean, model).disputes


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"format": "x"},
        {"views": ["plain"]},
        {"views": []},
        {"names": ["cat"]},
        {"images": []},
        {"images": {"a": [{"xyxy": [[1, 2, 3, 4]], "conf": [2], "labels": [0]}] * 3}},
        {"images": {"a": [{"xyxy": [[1, 2, 3]], "conf": [0.5], "labels": [0]}] * 3}},
        {"images": {"a": [{"xyxy": [], "conf": [0.5], "labels": [0]}] * 3}},
        {"images": {"a": [{"xyxy": [[1, 2, 3, 4]], "conf": [0.5], "labels": [-1]}] * 3}},
    ],
)
def test_damaged_predictions_file_is_an_error(
    model: Predictions, tmp_path: Path, change: dict[str, Any]
) -> None:
    file = model.write(tmp_path / "p.json")
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(Error, match=r"p\.json"):
        Predictions.read(file)


class Mirror:
    """A detector stand-in that finds the one bright square of a letterboxed image."""

    names, categories, imgsz = ["spot"], [1], 128


def spot_of(image: npt.NDArray[np.uint8]) -> tuple[float, float, float, float]:
    rows, columns = np.nonzero(image[..., 0] > 200)
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


def test_mirrored_view_has_its_boxes_in_the_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def postprocess(_: Any, images: Any, maps: Any, *__: Any) -> list[Any]:
        found = []
        for image, (scale, x, y, *_size) in zip(images, maps, strict=True):
            box = np.array(spot_of(image), np.float32)
            box = (box - np.array([x, y, x, y], np.float32)) / scale
            found.append((box[None], np.ones(1, np.float32), np.zeros(1, np.int64)))
        return found

    monkeypatch.setattr("deepseek_det.predict.postprocess", postprocess)
    records = []
    for i, (width, height) in enumerate([(64, 64), (64, 40), (128, 50), (37, 64)]):
        pixels = np.zeros((height, width, 3), np.uint8)
        pixels[8:20, 4:24] = 255
        path = tmp_path / f"{i}.png"
        Image.fromarray(pixels).save(path)
        empty = np.zeros((0, 4), np.float32), np.zeros(0, np.int32), np.zeros(0, np.bool_)
        records.append(Record(path, i, width, height, *empty))
    data = Dataset(tmp_path, "train", "coco", ["spot"], [1], records)
    seen = predictions_of(Mirror(), data, workers=0)  # type: ignore[arg-type]
    assert seen.views == ["plain", "flip", "0.75", "1.25"]
    for views in seen.images.values():
        for s in views:
            assert np.allclose(s.xyxy[0], (4, 8, 24, 20), atol=2.1)


def test_detector_of_other_classes_is_refused(clean: Dataset) -> None:
    with pytest.raises(Error, match="the detector"):
        rank(clean, dd.Detector("dsdet-n", classes=["cat", "owl"]))


def test_folds_are_trained_kept_and_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = load(dd.data.synthetic(tmp_path / "set", n=16, seed=4), "train")
    twin = data.records[0].path.with_name("twin.jpg")
    twin.write_bytes(data.records[0].path.read_bytes())
    data.records.append(replace(data.records[0], path=twin))
    options: dict[str, Any] = {"epochs": 1, "imgsz": 64, "batch": 4, "workers": 0}
    call = {"k": 2, "project": tmp_path / "runs", "verbose": False, "views": False, **options}
    first = fold_predictions(data, **call)
    assert list(first.images) == [r.path.name for r in data.records]
    assert first.views == ["plain"] and first.names == data.names
    folds = [set(Predictions.read(tmp_path / f"runs/folds/fold{i}.json").images) for i in (0, 1)]
    assert not folds[0] & folds[1] and abs(len(folds[0]) - len(folds[1])) <= 2
    assert any({"twin.jpg", data.records[0].path.name} <= f for f in folds)
    # A call that was cut off before its second fold's predictions goes on from the checkpoint.
    (tmp_path / "runs/folds/fold1.json").unlink()
    assert same(fold_predictions(data, **call), first)
    monkeypatch.setattr(dd.Detector, "train", lambda *_, **__: pytest.fail("trained again"))
    assert same(fold_predictions(data, **call), first)
    with pytest.raises(Error, match="folds of other arguments or labels"):
        fold_predictions(data, **{**call, "epochs": 2})
    data.records[1] = replace(data.records[1], labels=data.records[1].labels * 0)
    with pytest.raises(Error, match="folds of other arguments or labels"):
        fold_predictions(data, **call)


@pytest.mark.parametrize("k", [1, 99, 2.0, True])
def test_wrong_number_of_folds_is_refused(clean: Dataset, k: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="k is"):
        fold_predictions(clean, k, project=tmp_path)
    assert not list(tmp_path.iterdir())
