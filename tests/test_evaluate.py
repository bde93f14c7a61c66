"""Evaluation against pycocotools (bit for bit), published figures, a naive VOC twin, bad input."""

from __future__ import annotations

import contextlib
import copy
import doctest
import io
import json
import math
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import deepseek_det as dd
from deepseek_det import _core, _voc, evaluate, mask, metrics
from deepseek_det.evaluate import Evaluator, Params, coco, evaluate_detections, voc

# ---- pycocotools


def reference(gt: Any, dt: Any, **settings: Any) -> Any:
    """pycocotools' COCOeval, evaluated and summarized; settings are attributes of its Params."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = copy.deepcopy(gt)
        truth.createIndex()
        ev = COCOeval(truth, truth.loadRes(copy.deepcopy(dt)), "bbox")
        for key, value in settings.items():
            setattr(ev.params, key, value)
        ev.evaluate()
        ev.accumulate()
        if len(ev.params.maxDets) == 3:
            ev.summarize()
    return ev


def random_set(seed: int) -> tuple[dict[str, Any], list[dict[str, Any]], dict[str, Any]]:
    """A small data set with everything that may go differently, and evaluation parameters."""
    rng = np.random.default_rng(seed)
    n_images, n_classes = int(rng.integers(1, 9)), int(rng.integers(1, 6))
    image_ids = rng.choice(2**53 if seed % 5 == 0 else 1000, n_images, replace=False).tolist()
    classes = (rng.choice(90, n_classes, replace=False) + 1).tolist()
    scale = float(rng.choice([20, 80, 300]))

    def box() -> list[float]:
        xy, wh = rng.random(2) * scale, rng.random(2) * scale * rng.choice([0.2, 1])
        values = np.concatenate([xy, wh])
        return (np.round(values) if rng.random() < 0.3 else values).tolist()

    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for image in image_ids:
        if rng.random() < 0.15:
            continue
        for _ in range(int(rng.integers(0, 12))):
            b = box()
            if annotations and rng.random() < 0.1:
                b = list(annotations[-1]["bbox"])
            area = b[2] * b[3] * rng.choice([1, 1, 0.7, 0])
            annotations.append(
                {
                    "image_id": image,
                    "category_id": int(rng.choice(classes)),
                    "bbox": b,
                    "area": float(area),
                    "iscrowd": int(rng.random() < 0.15),
                }
            )
            for _ in range(int(rng.integers(0, 4))):
                jitter = (np.array(b) + rng.normal(0, 0.08 * scale, 4)).tolist()
                jitter = b if rng.random() < 0.2 else jitter
                results.append({"image_id": image, "bbox": [*jitter[:2], *np.abs(jitter[2:])]})
        for _ in range(int(rng.integers(0, 25 if seed % 7 else 140))):
            results.append({"image_id": image, "bbox": box()})
    for result in results:
        result["bbox"] = [float(v) for v in result["bbox"]]
        result["category_id"] = int(rng.choice(classes))
        tie = rng.random() < 0.5
        result["score"] = float(rng.integers(0, 5) / 4 if tie else rng.random())
    order = rng.permutation(len(results)).tolist()
    ids = (rng.permutation(len(annotations) * 3)[: len(annotations)] + 1).tolist()
    for annotation, i in zip(annotations, ids, strict=True):
        annotation["id"] = i
    gt = {
        "images": [{"id": i, "width": 9, "height": 9, "file_name": "x"} for i in image_ids],
        "annotations": annotations,
        "categories": [{"id": i, "name": f"c{i}"} for i in classes],
    }
    params: dict[str, Any] = {}
    if seed % 3 == 1:
        params["maxDets"] = sorted(rng.choice([1, 2, 3, 7, 20, 100, 300], 3, False).tolist())
    if seed % 4 == 2:
        params["useCats"] = 0
    if seed % 6 == 3:
        params["areaRng"] = [[0, 1e10], [10, 500], [500.5, 1e4]]
        params["areaRngLbl"] = ["all", "small", "large"]
        params["iouThrs"] = np.array([0.0, 0.3, 0.5, 0.75, 1.0])
        params["recThrs"] = np.linspace(0, 1, 11)
    return gt, [results[i] for i in order], params


def ours(gt: Any, dt: Any, params: dict[str, Any], **kwargs: Any) -> evaluate.CocoResult:
    made = Params.make(
        iou=params.get("iouThrs"),
        recall=params.get("recThrs"),
        areas=params.get("areaRng"),
        area_names=params.get("areaRngLbl"),
        max_det=params.get("maxDets"),
        use_classes=bool(params.get("useCats", 1)),
    )
    return coco(gt, dt, params=made, **kwargs)


def assert_same_bits(ev: Any, result: evaluate.CocoResult) -> None:
    for key in ("precision", "recall", "scores"):
        expected, got = ev.eval[key], getattr(result, key)
        assert expected.shape == got.shape
        assert expected.tobytes() == got.tobytes(), key
    if len(ev.params.maxDets) == 3:
        assert np.asarray(ev.stats).tobytes() == result.stats.tobytes()


@pytest.mark.parametrize("block", range(8))
def test_coco_random_sets_equal_pycocotools_bit_for_bit(block: int) -> None:
    checked = 0
    for seed in range(block * 40, block * 40 + 40):
        gt, dt, params = random_set(seed)
        if not dt:  # pycocotools cannot load an empty list
            continue
        assert_same_bits(reference(gt, dt, **params), ours(gt, dt, params))
        checked += 1
    assert checked >= 30


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_coco_any_number_of_threads_gives_the_same_bits(threads: int) -> None:
    gt, dt, params = random_set(7)
    before = dd.get_num_threads()
    try:
        dd.set_num_threads(1)
        one = ours(gt, dt, params)
        dd.set_num_threads(threads)
        many = ours(gt, dt, params)
    finally:
        dd.set_num_threads(before)
    assert one.precision.tobytes() == many.precision.tobytes()
    assert one.scores.tobytes() == many.scores.tobytes()


def test_coco_default_parameters_are_pycocotools() -> None:
    from pycocotools.cocoeval import Params as Theirs

    theirs, mine = Theirs("bbox"), Params()
    assert mine.iou.tobytes() == theirs.iouThrs.tobytes()
    assert mine.recall.tobytes() == theirs.recThrs.tobytes()
    assert mine.areas.tolist() == theirs.areaRng
    assert mine.max_det.tolist() == theirs.maxDets


def test_coco_large_set_statistics_keep_numpys_order_of_summation() -> None:
    rng = np.random.default_rng(3)
    gt: dict[str, Any] = {"images": [{"id": i} for i in range(30)], "annotations": []}
    gt["categories"] = [{"id": i, "name": str(i)} for i in range(1, 40)]
    dt = []
    for i in range(600):
        image, category = int(rng.integers(30)), int(rng.integers(1, 40))
        box = (rng.random(4) * 100).tolist()
        one = {"image_id": image, "category_id": category, "bbox": box}
        gt["annotations"].append({"id": i + 1, "area": box[2] * box[3], "iscrowd": 0, **one})
        moved = (np.array(box) * (1 + rng.normal(0, 0.05, 4))).tolist()
        dt.append({**one, "bbox": moved, "score": float(rng.random())})
    ev = reference(gt, dt)
    assert_same_bits(ev, coco(gt, dt))


def test_coco_summary_text_is_pycocotools() -> None:
    from pycocotools.cocoeval import COCOeval

    gt, dt, _ = random_set(6)
    ev = reference(gt, dt)
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        COCOeval.summarize(ev)
    assert coco(gt, dt).summarize() == text.getvalue().rstrip("\n")


def test_coco_subset_of_images_and_categories_equals_pycocotools() -> None:
    gt, dt, _ = random_set(14)
    images = [i["id"] for i in gt["images"]][::2]
    classes = [c["id"] for c in gt["categories"]][:2]
    ev = reference(gt, dt, imgIds=sorted(images), catIds=sorted(classes))
    assert_same_bits(ev, coco(gt, dt, image_ids=images, category_ids=classes))
    with pytest.raises(ValueError, match="image id 5 is not in"):
        coco({**gt, "images": [{"id": 4}], "annotations": []}, [], image_ids=[5])


def test_coco_annotation_of_id_zero_matches_unless_compatible() -> None:
    gt, dt, _ = random_set(1)
    one = copy.deepcopy(gt["annotations"][0])
    one.update(id=0, iscrowd=0, area=one["bbox"][2] * one["bbox"][3])
    gt["annotations"] = [one]
    hit = {**{k: one[k] for k in ("image_id", "category_id", "bbox")}, "score": 1.0}
    assert_same_bits(reference(gt, [hit, *dt]), coco(gt, [hit, *dt], compatible=True))
    with pytest.warns(UserWarning, match="id 0"):
        assert coco(gt, [hit]).stats[0] == pytest.approx(1)
    assert coco(gt, [hit], compatible=True).stats[0] == 0


def test_coco_results_as_list_bytes_array_and_path_agree(tmp_path: Path) -> None:
    gt, dt, _ = random_set(12)
    for image, i in zip(gt["images"], range(1, 99), strict=False):  # an array holds doubles
        old, image["id"] = image["id"], i
        for row in [*gt["annotations"], *dt]:
            row["image_id"] = i if row["image_id"] == old else row["image_id"]
    table = np.array([[d["image_id"], *d["bbox"], d["score"], d["category_id"]] for d in dt])
    (tmp_path / "gt.json").write_text(json.dumps(gt, indent=1))
    (tmp_path / "dt.json").write_text(json.dumps(dt))
    expected = coco(gt, dt).precision.tobytes()
    assert coco(tmp_path / "gt.json", str(tmp_path / "dt.json")).precision.tobytes() == expected
    assert coco(json.dumps(gt).encode(), json.dumps(dt).encode()).precision.tobytes() == expected
    assert coco(gt, table).precision.tobytes() == expected
    scalars = [{**d, "score": np.float64(d["score"]), "bbox": np.array(d["bbox"])} for d in dt]
    assert coco(gt, scalars).precision.tobytes() == expected


def test_coco_without_detections_or_objects_gives_zero_and_minus_one() -> None:
    gt, _, _ = random_set(3)
    assert coco(gt, []).stats[0] == 0
    assert (coco({**gt, "annotations": []}, []).stats == -1).all()
    assert (coco({"images": [], "annotations": [], "categories": []}, []).stats == -1).all()


# ---- published figures


def read(path: Path) -> Any:
    return json.loads(path.read_text())


@pytest.mark.parametrize(
    ("gt", "dt", "figures"),
    [
        (
            "cocoapi/instances_val2014_100.json",
            "cocoapi/instances_val2014_fakebbox100_results.json",
            "0.504581 0.696973 0.572982 0.585626 0.519400 0.501398 0.386813 0.593680 0.595353 "
            "0.639811 0.566421 0.564291",
        ),
        (
            "faster_coco_eval/dataset/gt_dataset.json",
            "faster_coco_eval/dataset/dt_dataset.json",
            "0.694719 0.694719 0.694719 -1 0.792079 0 0.666667 0.75 0.75 -1 0.791667 0",
        ),
        (
            "sahi/coco_evaluate/dataset.json",
            "sahi/coco_evaluate/result.json",
            "0.071954 0.184978 0.069383 -1 -1 0.077099 0.011876 0.032862 0.075788 -1 -1 0.075788",
        ),
    ],
)
def test_coco_fixtures_give_the_published_figures(
    data_root: Path, gt: str, dt: str, figures: str
) -> None:
    folder = data_root / "coco_eval_ref"
    result = coco(folder / gt, folder / dt)
    assert result.stats == pytest.approx([float(x) for x in figures.split()], abs=1e-6)
    assert_same_bits(reference(read(folder / gt), read(folder / dt)), result)


def test_coco_ignore_fixture_equals_pycocotools(data_root: Path) -> None:
    folder = data_root / "coco_eval_ref" / "faster_coco_eval" / "dataset"
    gt, dt = read(folder / "gt_ignore_test.json"), read(folder / "dt_ignore_test.json")
    with pytest.raises(dd.Error, match='wrong_type: id is "2299"'):
        coco(gt, dt)
    for row in gt["images"]:
        row["id"] = int(row["id"])
    for row in gt["annotations"]:
        row["image_id"] = int(row["image_id"])
    assert_same_bits(reference(gt, dt), coco(gt, dt, compatible=True))


def test_coco_box_areas_give_the_published_figures(data_root: Path) -> None:
    folder = data_root / "voc2012_100" / "tests" / "test_coco_eval"
    gt = read(folder / "gts" / "sampled_gts_bbox_area.json")
    dt = read(folder / "dets" / "sampled_bbox_results.json")["annotations"]
    published = (
        "0.503647 0.696973 0.571667 0.593252 0.557991 0.489363 0.386813 0.593680 0.595353 "
        "0.654764 0.603130 0.553744"
    )
    assert coco(gt, dt).stats == pytest.approx([float(x) for x in published.split()], abs=1e-6)


def test_voc_golden_case_gives_the_published_figures(data_root: Path) -> None:
    folder = data_root / "voc2012_100" / "tests" / "test_case_1"
    gt, dt = {}, {}
    for path in sorted((folder / "gts").glob("*.txt")):
        rows = [line.split() for line in path.read_text().splitlines() if line.strip()]
        gt[path.stem] = {"boxes": corners(rows, 1), "labels": [r[0] for r in rows]}
        rows = [line.split() for line in (folder / "dets" / path.name).read_text().splitlines()]
        rows = [r for r in rows if r]
        scores = [float(r[1]) for r in rows]
        labels = [r[0] for r in rows]
        dt[path.stem] = {"boxes": corners(rows, 2), "labels": labels, "scores": scores}
    published = {
        0.1: (0.3333333333, 0.3371980676),
        0.3: (0.2683982683, 0.2456866804),
        0.5: (0.0303030303, 0.0222222222),
        0.75: (0.0, 0.0),
    }
    for iou, (eleven, every) in published.items():
        assert voc(gt, dt, True, iou=iou).map == pytest.approx(eleven, abs=1e-9)
        assert voc(gt, dt, iou=iou).map == pytest.approx(every, abs=1e-9)


def corners(rows: list[list[str]], first: int) -> np.ndarray:
    """x y w h columns as the kit that made the goldens turns them into corners."""
    table = np.array([[float(x) for x in r[first : first + 4]] for r in rows]).reshape(-1, 4)
    table[:, 2:] += table[:, :2]
    return table


# ---- VOC against a naive twin


def naive_voc(gt: Any, dt: Any, name: str, iou: float, eleven: bool) -> float:
    """The development kit's loops, in Python, for one class."""
    rows = [
        (-s, i, k, b)
        for i, image in enumerate(dt)
        for k, (s, b, x) in enumerate(
            zip(image["scores"], image["boxes"], image["labels"], strict=True)
        )
        if x == name
    ]
    rows.sort(key=lambda r: (r[0], r[1], r[2]))
    objects = [
        [
            [b, d, False]
            for b, x, d in zip(g["boxes"], g["labels"], g["difficult"], strict=True)
            if x == name
        ]
        for g in gt
    ]
    total = sum(not o[1] for g in objects for o in g)
    tp = fp = 0
    recall, precision = [], []
    for _, image, _, b in rows:
        best, hit = -math.inf, None
        for o in objects[image]:
            g = o[0]
            w = min(b[2], g[2]) - max(b[0], g[0]) + 1
            h = min(b[3], g[3]) - max(b[1], g[1]) + 1
            if w > 0 and h > 0:
                area = (b[2] - b[0] + 1) * (b[3] - b[1] + 1)
                area += (g[2] - g[0] + 1) * (g[3] - g[1] + 1) - w * h
                if w * h / area > best:
                    best, hit = w * h / area, o
        if best >= iou and hit is not None:
            if not hit[1]:
                tp, fp = tp + (not hit[2]), fp + hit[2]
                hit[2] = True
        else:
            fp += 1
        recall.append(tp / total if total else 0)
        precision.append(tp / max(tp + fp, 1))
    if not total:
        return math.nan
    if eleven:
        return sum(
            max([p for r, p in zip(recall, precision, strict=True) if r >= t * 0.1], default=0) / 11
            for t in range(11)
        )
    r, p = [0.0, *recall, 1.0], [0.0, *precision, 0.0]
    for i in range(len(p) - 2, -1, -1):
        p[i] = max(p[i], p[i + 1])
    return sum((r[i] - r[i - 1]) * p[i] for i in range(1, len(r)) if r[i] != r[i - 1])


@pytest.mark.parametrize("seed", range(30))
def test_voc_random_sets_equal_the_kits_loops(seed: int) -> None:
    rng = np.random.default_rng(seed)

    def boxes(n: int) -> np.ndarray:
        xy = rng.integers(0, 40, (n, 2))
        return np.concatenate([xy, xy + rng.integers(0, 30, (n, 2))], 1).astype(float)

    gt, dt = [], []
    for _ in range(5):
        n, m = int(rng.integers(0, 8)), int(rng.integers(0, 30))
        names = rng.choice(["a", "b", "c"], n)
        gt.append({"boxes": boxes(n), "labels": names, "difficult": rng.random(n) < 0.3})
        scores = rng.integers(0, 12, m) / 12
        dt.append({"boxes": boxes(m), "labels": rng.choice(["a", "b", "c"], m), "scores": scores})
    for iou in (0.2, 0.5):
        for eleven in (False, True):
            result = voc(gt, dt, eleven, iou=iou, names=["a", "b", "c"])
            expected = [naive_voc(gt, dt, name, iou, eleven) for name in "abc"]
            assert result.ap == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_voc_folders_of_xml_and_results_are_read(tmp_path: Path) -> None:
    xml = """<annotation><filename>a.jpg</filename><object><name>cat</name><difficult>{}</difficult>
<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part>
<bndbox><xmin>10</xmin><ymin>10</ymin><xmax>49</xmax><ymax>49</ymax></bndbox></object></annotation>"""
    truth, results = tmp_path / "Annotations", tmp_path / "results"
    truth.mkdir(), results.mkdir()
    (truth / "a.xml").write_text(xml.format(0))
    (truth / "b.xml").write_text(xml.format(1))
    rows = "b 0.9 10 10 49 49\na 0.8 10 10 49 49\na 0.7 60 60 70 70\n"
    (results / "comp4_det_test_cat.txt").write_text(rows)
    result = voc(tmp_path, results)
    assert result.names == ["cat"] and result.ap.tolist() == [1.0]
    assert result.positives.tolist() == [1]
    assert result.curves["cat"][1].tolist() == [0.0, 1.0, 0.5]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!DOCTYPE a [<!ENTITY b 'c'>]><annotation/>", "document type"),
        ("<annotation><object><name>x</name></object></annotation>", "no xmin"),
        ("<annotation>", ":1: no element found"),
        (
            "<annotation><object><name>x</name><bndbox><xmin>a</xmin><ymin>1</ymin><xmax>2</xmax>"
            "<ymax>3</ymax></bndbox></object></annotation>",
            "no numbers",
        ),
        (
            "<annotation><object><name>x</name><bndbox><xmin>nan</xmin><ymin>1</ymin>"
            "<xmax>2</xmax><ymax>3</ymax></bndbox></object></annotation>",
            "finite",
        ),
    ],
)
def test_voc_broken_xml_names_the_file(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.xml").write_text(text)
    with pytest.raises(dd.Error, match=message):
        voc(tmp_path, {})


BOX = [[1, 1, 10, 10]]


@pytest.mark.parametrize(
    ("gt", "dt", "message"),
    [
        ([{"labels": ["a"]}], [], "no 'boxes'"),
        ([{"boxes": BOX}], [], "no 'labels'"),
        ([{"boxes": [[1, 2, 3]], "labels": ["a"]}], [], r"\(n, 4\)|\('n', 4\)"),
        ([{"boxes": BOX, "labels": []}], [], "labels of shape"),
        ([], [{"boxes": [], "labels": [], "scores": []}], "image 0"),
        ([{"boxes": [[1, 1, math.nan, 2]], "labels": ["a"]}], [], "not finite"),
        (
            [{"boxes": BOX, "labels": ["a"]}],
            [{"boxes": BOX, "labels": ["a"], "scores": [math.nan]}],
            "not finite",
        ),
    ],
)
def test_voc_bad_records_are_refused(gt: Any, dt: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        voc(gt, dt)


# ---- JSON

BAD_JSON = [
    (b"", "the file ends"),
    (b"   ", "the file ends"),
    (b"\xef\xbb\xbf{}", "byte order mark"),
    (b"{", "the file ends"),
    (b"[", "the file ends"),
    (b"[1", "the file ends"),
    (b"[1,", "the file ends"),
    (b"[1,]", "trailing comma"),
    (b'{"a":1,}', "trailing comma"),
    (b"[1 2]", "',' or ']'"),
    (b"[,1]", "a value"),
    (b"{1:2}", "key in double quotes"),
    (b"{'a':2}", "key in double quotes"),
    (b'{"a" 2}', "':'"),
    (b'{"a":}', "a value"),
    (b'{"a":1 "b":2}', "',' or '}'"),
    (b'{"a":1]', "',' or '}'"),
    (b"[1}", "',' or ']'"),
    (b"[1]]", "end of the file"),
    (b"{} {}", "end of the file"),
    (b"nul", "null"),
    (b"tru", "true or false"),
    (b"True", "a value"),
    (b"NaN", "a value"),
    (b"[NaN]", "a value"),
    (b"[Infinity]", "a value"),
    (b"[-Infinity]", "a digit"),
    (b"+1", "a value"),
    (b"01", "leading zero"),
    (b"-01", "leading zero"),
    (b"-", "a digit"),
    (b"1.", "a digit"),
    (b".5", "a value"),
    (b"1e", "a digit"),
    (b"1e+", "a digit"),
    (b"0x10", "end of the file"),
    (b"1e400", "range of a double"),
    (b'"', "ends within a string"),
    (b'"a\nb"', "control character"),
    (b'"a\x00b"', "control character"),
    (b'"\\x"', "unknown escape"),
    (b'"\\u12g4"', "hexadecimal"),
    (b'"\\ud800"', "lone surrogate"),
    (b'"\\udc00"', "lone surrogate"),
    (b'"\\ud800\\u0041"', "lone surrogate"),
    (b'"\xff"', "UTF-8"),
    (b'"\xc0\xaf"', "UTF-8"),
    (b'"\xed\xa0\x80"', "UTF-8"),
    (b'"\xf5\x80\x80\x80"', "UTF-8"),
    (b'"\xe2\x82"', "UTF-8"),
    (b'{"a":1,"a":2}', "twice"),
    (b'{"a":1,"\\u0061":2}', "twice"),
    (b'{"x":{"a":1,"b":2,"a":3}}', "twice"),
    (b"// comment\n1", "a value"),
    (b"[1, /* no */ 2]", "a value"),
    (b"\x001", "a value"),
    (b"1\x00", "end of the file"),
    (b"[" * 65 + b"]" * 65, "nested too deep"),
]


@pytest.mark.parametrize(("text", "message"), BAD_JSON)
def test_json_broken_text_is_refused_with_its_place(text: bytes, message: str) -> None:
    with pytest.raises(dd.Error, match=r"t\.json:\d+: byte \d+: ") as error:
        _core.json_parse(text, "t.json")
    assert message in str(error.value)


def test_json_error_names_line_and_byte() -> None:
    with pytest.raises(dd.Error, match=r"^t:3: byte 11: 'x' came"):
        _core.json_parse(b'{"a": 1,\n\n x}', "t")


def test_json_duplicate_among_many_keys_is_refused() -> None:
    many = {f"k{i}": i for i in range(500)}
    text = json.dumps(many).encode()
    assert _core.json_parse(text) == many
    with pytest.raises(dd.Error, match='"k17" comes twice'):
        _core.json_parse(text[:-1] + b', "k17": 0}')


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=5)
    ),
    max_leaves=20,
)


@settings(max_examples=200, deadline=None)
@given(JSON, st.booleans(), st.sampled_from([None, 1]))
def test_json_anything_that_python_writes_reads_back(value: Any, ascii: bool, indent: Any) -> None:
    text = json.dumps(value, ensure_ascii=ascii, indent=indent)
    assert _core.json_parse(text.encode()) == value


@settings(max_examples=300, deadline=None)
@given(
    st.from_regex(r"-?(0|[1-9][0-9]{0,25})(\.[0-9]{1,25})?([eE][+-]?[0-9]{1,3})?", fullmatch=True)
)
def test_json_numbers_are_the_nearest_double(text: str) -> None:
    expected = float(text)
    if math.isinf(expected):
        with pytest.raises(dd.Error, match="range of a double"):
            _core.json_parse(text.encode())
    else:
        got = _core.json_parse(text.encode())
        assert np.float64(got).tobytes() == np.float64(expected).tobytes() or got == expected == 0


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=40))
def test_json_accepts_no_more_than_python(text: bytes) -> None:
    try:
        value = _core.json_parse(text)
    except dd.Error:
        return
    assert json.loads(text.decode()) == value


# ---- COCO files


def one_set(**changes: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "images": [{"id": 1, "width": 64, "height": 48, "file_name": "a.jpg"}],
        "annotations": [
            {"id": 5, "image_id": 1, "category_id": 3, "bbox": [1, 2, 3, 4], "iscrowd": 0}
        ],
        "categories": [{"id": 3, "name": "disk"}],
    }
    for key, value in changes.items():
        section, _, field = key.partition("__")
        if not field:
            base[section] = value
        elif value is ...:
            del base[section][0][field]
        else:
            base[section][0][field] = value
    return base


DEFECTS = [
    ({"images__id": ...}, ("images", "missing_field", "id", "")),
    ({"images__id": "x"}, ("images", "wrong_type", "id", '"x"')),
    ({"images__id": 1.5}, ("images", "bad_id", "id", "1.5")),
    ({"images__id": 2**60}, ("images", "bad_id", "id", str(2**60))),
    ({"images__width": ...}, ("images", "missing_field", "width", "")),
    ({"images__width": 0}, ("images", "value_out_of_range", "width", "0")),
    ({"images__height": -3}, ("images", "value_out_of_range", "height", "-3")),
    ({"images__height": "7"}, ("images", "wrong_type", "height", '"7"')),
    ({"images__file_name": ...}, ("images", "missing_field", "file_name", "")),
    ({"images__file_name": 3}, ("images", "wrong_type", "file_name", "3")),
    ({"images__file_name": "a\0b"}, ("images", "value_out_of_range", "file_name", "a\\u0000b")),
    ({"categories__id": None}, ("categories", "wrong_type", "id", "null")),
    ({"categories__name": ...}, ("categories", "missing_field", "name", "")),
    ({"annotations__id": ...}, ("annotations", "missing_field", "id", "")),
    ({"annotations__id": -(2**53) - 1}, ("annotations", "bad_id", "id", str(-(2**53) - 1))),
    ({"annotations__image_id": ...}, ("annotations", "missing_field", "image_id", "")),
    ({"annotations__image_id": 9}, ("annotations", "unknown_image", "image_id", "9")),
    ({"annotations__category_id": 9}, ("annotations", "unknown_category", "category_id", "9")),
    ({"annotations__category_id": [3]}, ("annotations", "wrong_type", "category_id", "[3]")),
    ({"annotations__bbox": ...}, ("annotations", "missing_field", "bbox", "")),
    ({"annotations__bbox": [1, 2, 3]}, ("annotations", "bad_box", "bbox", "[1, 2, 3]")),
    ({"annotations__bbox": [1, 2, 3, 4, 5]}, ("annotations", "bad_box", "bbox", "[1, 2, 3, 4, 5]")),
    ({"annotations__bbox": [1, "2", 3, 4]}, ("annotations", "bad_box", "bbox", '[1, "2", 3, 4]')),
    ({"annotations__bbox": []}, ("annotations", "bad_box", "bbox", "[]")),
    ({"annotations__bbox": {"x": 1}}, ("annotations", "wrong_type", "bbox", '{"x": 1}')),
    ({"annotations__area": "big"}, ("annotations", "wrong_type", "area", '"big"')),
    ({"annotations__iscrowd": 2}, ("annotations", "value_out_of_range", "iscrowd", "2")),
    ({"annotations__iscrowd": "no"}, ("annotations", "wrong_type", "iscrowd", '"no"')),
]


@pytest.mark.parametrize(("changes", "defect"), DEFECTS)
def test_coco_read_names_each_defect(changes: Any, defect: tuple[str, ...]) -> None:
    file = _core.coco_read(json.dumps(one_set(**changes), indent=1).encode())
    section, reason, field = defect[:3]
    found = [d for d in file["defects"] if d[0] == section]
    assert [(d[0], d[1], d[4]) for d in found] == [defect[:3]]
    assert found[0][5].replace(" ", "") == defect[3].replace(" ", "")
    assert found[0][2] == 0 and found[0][3] > 1
    assert file["defect_counts"][(section, reason)] == 1
    kept = (section, field) in {
        ("images", "width"),
        ("images", "height"),
        ("images", "file_name"),
        ("categories", "name"),
    }
    assert len(file[section]["id"]) == int(kept)  # type: ignore[literal-required]


def test_coco_read_cuts_long_values_between_characters() -> None:
    file = _core.coco_read(json.dumps(one_set(images__id="ü" * 80), ensure_ascii=False).encode())
    value = file["defects"][0][5]
    assert value.endswith("ü...") and len(value.encode()) in (46, 47)


def test_coco_read_duplicate_ids_keep_the_first() -> None:
    gt = one_set()
    for section in ("images", "categories", "annotations"):
        gt[section].append(copy.deepcopy(gt[section][0]))
    gt["images"][1]["file_name"] = "b.jpg"
    file = _core.coco_read(json.dumps(gt, indent=0).encode())
    assert [(d[0], d[1], d[2]) for d in file["defects"]] == [
        ("images", "duplicate_id", 1),
        ("categories", "duplicate_id", 1),
        ("annotations", "duplicate_id", 1),
    ]
    assert file["images"]["name"] == ["a.jpg"]


def test_coco_read_gives_every_field() -> None:
    gt = one_set()
    gt["images"].append({"file_name": "ü\n.png", "height": 2, "width": 1, "id": -7})
    more = {"id": 6, "image_id": -7.0, "category_id": 3, "bbox": [0.5, 0, 1e1, 2], "iscrowd": True}
    gt["annotations"].append(
        {**more, "area": 12.5, "segmentation": [[1, 2, 3]], "extra": {"a": []}}
    )
    text = json.dumps(gt).encode()
    file = _core.coco_read(text)
    rows = file["annotations"]
    assert file["defects"] == [] and file["sections"] == ["images", "annotations", "categories"]
    assert file["images"]["id"].tolist() == [1, -7] and file["images"]["name"][1] == "ü\n.png"
    assert file["images"]["width"].tolist() == [64, 1]
    assert rows["image"].tolist() == [0, 1] and rows["image_id"].tolist() == [1, -7]
    assert rows["box"].tolist() == [[1, 2, 3, 4], [0.5, 0, 10, 2]]
    assert np.isnan(rows["area"][0]) and rows["area"][1] == 12.5
    assert rows["crowd"].tolist() == [False, True]
    at, n = int(rows["segmentation_at"][1]), int(rows["segmentation_bytes"][1])
    assert json.loads(text[at : at + n]) == [[1, 2, 3]]


@pytest.mark.parametrize(
    ("text", "results", "message"),
    [
        (b"[]", False, "a list came"),
        (b"{}", True, "an array was needed"),
        (b"3", False, "an object was needed"),
        (b'{"images": {}}', False, "an array was needed"),
        (b'{"images": [3]}', False, "a number came in images"),
        (b"[[1]]", True, "an array came in annotations"),
        (b'{"images": [], "images": []}', False, "twice"),
        (b'{"info": {"a": NaN}}', False, "'N' came"),
        (b'{"annotations": [{"bbox": [NaN, 1, 2, 3]}]}', False, "'N' came"),
        (b'{"annotations": [{"id": 1', False, "the file ends"),
        (b'[{"score": 1e999}]', True, "range of a double"),
    ],
)
def test_coco_read_broken_frame_is_fatal(text: bytes, results: bool, message: str) -> None:
    with pytest.raises(dd.Error, match=message):
        _core.coco_read(text, results)


@pytest.mark.parametrize(
    ("gt", "dt", "error", "message"),
    [
        ({"images": []}, [], dd.Error, "no list 'annotations'"),
        (one_set(annotations__id=2**60), [], dd.Error, r"annotations\[0\]: bad_id: id is 1152"),
        (one_set(annotations__bbox=[1]), [], dd.Error, "bad_box"),
        (one_set(images=[{"id": 1}, {"id": 1}]), [], dd.Error, "duplicate_id"),
        (one_set(), [{"image_id": 1}], dd.Error, "missing_field: category_id"),
        (
            one_set(),
            [{"image_id": 8, "category_id": 3, "bbox": [1, 1, 1, 1], "score": 1}],
            dd.Error,
            "image_id 8",
        ),
        (
            one_set(),
            [{"image_id": 1, "category_id": 3, "bbox": [1, 1, 1, 1], "score": math.nan}],
            dd.Error,
            "not JSON compliant",
        ),
        (one_set(), np.zeros((2, 6)), ValueError, r"\(n, 7\)"),
        ("/nowhere/gt.json", [], OSError, "/nowhere/gt.json"),
    ],
)
def test_coco_bad_input_is_named(gt: Any, dt: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        coco(gt, dt)
    with pytest.raises(ValueError, match="'boxes'"):
        coco(one_set(), [], "boxes")


def test_coco_strangers_are_left_out_with_a_warning() -> None:
    gt = one_set()
    gt["annotations"].append({**gt["annotations"][0], "id": 6, "image_id": 77})
    dt = [{"image_id": 1, "category_id": 4, "bbox": [1, 2, 3, 4], "score": 1}]
    with pytest.warns(UserWarning) as caught:
        result = coco(gt, dt)
    assert any("unknown_image" in str(w.message) for w in caught)
    assert any("category_id" in str(w.message) for w in caught)
    assert result.stats[0] == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        coco(one_set(), [])


def test_coco_failing_allocations_raise_and_leak_nothing() -> None:
    gt, dt, _ = random_set(2)
    text, results = json.dumps(gt).encode(), json.dumps(dt).encode()
    file = _core.coco_read(text)
    del file
    live = _core._alloc_live()
    failures = 0
    for n in range(1, 200):
        _core._alloc_fail_at(n)
        try:
            coco(text, results)
        except MemoryError:
            failures += 1
        else:
            break
        finally:
            _core._alloc_fail_at(0)
        assert _core._alloc_live() == live
    assert failures >= 12


# ---- metrics from arrays, Evaluator


def as_arrays(gt: Any, dt: Any) -> tuple[list[Any], list[Any], list[str]]:
    """A COCO set as the lists that the trainer has."""
    classes = sorted(c["id"] for c in gt["categories"])
    targets, detections = [], []
    for image in sorted(i["id"] for i in gt["images"]):
        rows = [a for a in gt["annotations"] if a["image_id"] == image]
        found = [d for d in dt if d["image_id"] == image]
        targets.append(
            (
                xyxy([r["bbox"] for r in rows]),
                np.array([classes.index(r["category_id"]) for r in rows], np.int64),
                np.array([r["iscrowd"] for r in rows], bool),
            )
        )
        detections.append(
            (
                xyxy([r["bbox"] for r in found]),
                np.array([r["score"] for r in found], np.float32),
                np.array([classes.index(r["category_id"]) for r in found], np.int64),
            )
        )
    return targets, detections, [str(c) for c in classes]


def xyxy(boxes: Any) -> np.ndarray:
    out = np.array(boxes, np.float64).reshape(-1, 4)
    out[:, 2:] += out[:, :2]
    return out


@pytest.mark.parametrize("seed", [4, 8, 16])
def test_evaluate_detections_equals_pycocotools(seed: int) -> None:
    gt, dt, _ = random_set(seed)
    for row in gt["annotations"]:
        row["bbox"] = [round(v * 4) / 4 for v in row["bbox"]]  # exact as corners
        row["area"] = row["bbox"][2] * row["bbox"][3]
    for row in dt:
        row["bbox"] = [round(v * 4) / 4 for v in row["bbox"]]
        row["score"] = float(np.float32(row["score"]))
    m = evaluate_detections(*as_arrays(gt, dt))
    ev = reference(gt, dt)
    assert m.stats == pytest.approx(ev.stats, abs=1e-12)
    assert m.ap == ev.stats[0] or m.ap == pytest.approx(ev.stats[0], abs=1e-12)
    ap = [row["ap"] for row in m.per_class]
    expected = [
        float(np.mean(p[p > -1])) if (p > -1).any() else math.nan
        for p in (ev.eval["precision"][:, :, k, 0, -1] for k in range(len(ap)))
    ]
    assert ap == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_metrics_confusion_counts_by_hand() -> None:
    a, b, c = [0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]
    targets = [
        (np.array([a, b, c, [100, 100, 200, 200]]), [0, 1, 1, 0], [False, False, False, True])
    ]
    detections = [
        (
            np.array([a, b, [60, 0, 70, 10], [110, 110, 120, 120], c]),
            [0.9, 0.8, 0.7, 0.6, 0.1],
            [0, 0, 1, 1, 1],
        )
    ]
    m = evaluate_detections(targets, detections, ["x", "y"])
    assert m.confusion.tolist() == [[1, 0, 0], [1, 0, 1], [0, 1, 0]]
    assert m.per_class[0]["objects"] == 1 and m.per_class[1]["objects"] == 2
    assert m.per_class[1]["detections"] == 3


def test_metrics_curves_table_and_dictionary() -> None:
    gt, dt, _ = random_set(8)
    m = evaluate_detections(*as_arrays(gt, dt))
    curves = m.curves()
    assert curves["precision"].shape == curves["confidence"].shape == (len(m.names), 101)
    plain = json.loads(json.dumps(m.to_dict()))
    assert plain["ap"] == m.ap and plain["stats"]["AP50"] == m.ap50
    assert len(m.table().splitlines()) == len(m.names) + 1
    assert set(dict(m)) >= {"map", "map_50", "mar_100", "map_per_class"}
    assert m["map_small"] == m.stats[3] and m["mar_1"] == m.stats[6]
    with pytest.raises(KeyError, match="map_50"):
        m["nothing"]
    with pytest.raises(ValueError, match="IoU"):
        m.curves(iou=0.33)


def test_metrics_of_nothing_are_minus_one() -> None:
    m = evaluate_detections([], [], ["a"])
    assert m.ap == -1 and m.confusion.tolist() == [[0, 0], [0, 0]]
    empty = (np.empty((0, 4), np.float32), np.empty(0, np.int64), None)
    none = (np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.int64))
    assert evaluate_detections([empty], [none], ["a"]).to_dict()["per_class"][0]["ap"] is None


@pytest.mark.parametrize(
    ("targets", "detections", "message"),
    [
        ([], [([], [], [])], "0 targets and 1 detections"),
        ([(BOX, [0, 1], None)], [([], [], [])], "targets of image 0"),
        ([(BOX, [0], [True, False])], [([], [], [])], "ignore of shape"),
        ([(BOX, [2], None)], [([], [], [])], "class 2 came"),
        ([([], [], None)], [(BOX, [0.5], [-1])], "class -1 came"),
        ([([], [], None)], [(BOX, [math.nan], [0])], "NaN"),
        ([([], [], None)], [(BOX, [0.5, 0.6], [0])], "conf of shape"),
    ],
)
def test_evaluate_detections_bad_input_is_named(
    targets: Any, detections: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate_detections(targets, detections, ["a", "b"])


def test_evaluator_in_batches_and_merged_equals_coco() -> None:
    gt, dt, _ = random_set(24)
    for rows in (gt["annotations"], dt):
        for row in rows:
            row["bbox"] = [round(v * 4) / 4 for v in row["bbox"]]
    for row in gt["annotations"]:
        row["area"] = max(row["area"], 0.5)
    images = sorted(i["id"] for i in gt["images"])
    preds, targets = [], []
    for image in images:
        found = [d for d in dt if d["image_id"] == image]
        rows = [a for a in gt["annotations"] if a["image_id"] == image]
        preds.append(
            {
                "boxes": xyxy([d["bbox"] for d in found]),
                "scores": np.array([d["score"] for d in found]),
                "labels": np.array([d["category_id"] for d in found]),
            }
        )
        targets.append(
            {
                "boxes": xyxy([a["bbox"] for a in rows]),
                "labels": np.array([a["category_id"] for a in rows]),
                "iscrowd": np.array([a["iscrowd"] for a in rows]),
                "area": np.array([a["area"] for a in rows]),
            }
        )
    first, second = Evaluator(), Evaluator()
    first.update(preds[:2], targets[:2])
    second.update(preds[2:], targets[2:])
    m = first.merge(second).compute()
    ev = reference(gt, dt)
    assert len(first) == len(images)
    assert m.stats == pytest.approx(ev.stats, abs=1e-12)
    assert m["classes"].tolist() == sorted({r["category_id"] for r in [*gt["annotations"], *dt]})


@pytest.mark.parametrize("box_format", ["xywh", "cxcywh"])
def test_evaluator_box_formats_agree(box_format: str) -> None:
    box = {"xywh": [10, 20, 30, 40], "cxcywh": [25, 40, 30, 40]}[box_format]
    ev = Evaluator(box_format=box_format, names=["no", "disk"])
    ev.update([{"boxes": [box], "scores": [0.5], "labels": [1]}], [{"boxes": [box], "labels": [1]}])
    m = ev.compute()
    assert m["map"] == pytest.approx(1) and m["map_medium"] == pytest.approx(1)
    assert m.names == ["disk"]
    ev.reset()
    assert ev.compute()["map"] == -1


@pytest.mark.parametrize(
    ("preds", "targets", "message"),
    [
        ([], [{}], "0 preds and 1 targets"),
        ([{"boxes": BOX}], [{"boxes": BOX, "labels": [1]}], "no 'scores'"),
        ([{"scores": []}], [{}], "no 'boxes'"),
        ([{"boxes": [[1, 2]], "scores": [1], "labels": [1]}], [{}], r"\(n, 4\)"),
        ([{"boxes": BOX, "scores": [1, 2], "labels": [1]}], [{}], "2 scores came for 1"),
        ([{"boxes": BOX, "scores": [math.nan], "labels": [1]}], [{}], "NaN"),
    ],
)
def test_evaluator_bad_input_keeps_nothing(preds: Any, targets: Any, message: str) -> None:
    ev = Evaluator()
    with pytest.raises(ValueError, match=message):
        ev.update(preds, targets)
    assert len(ev) == 0


@pytest.mark.parametrize("iou_type", ["segm", "keypoints"])
def test_evaluator_of_masks_and_keypoints_equals_coco_in_parts(iou_type: str) -> None:
    rng = np.random.default_rng(3)
    gt: dict[str, Any] = {"images": [], "categories": [{"id": 0, "name": "a"}], "annotations": []}
    dt: list[dict[str, Any]] = []
    parts = [Evaluator(iou_type), Evaluator(iou_type)]
    for image in range(6):
        gt["images"].append({"id": image, "height": 40, "width": 50, "file_name": "x"})
        if iou_type == "segm":
            shapes = rng.random((3, 40, 50)) < 0.5
            noisy = shapes ^ (rng.random((3, 40, 50)) < rng.random() * 0.4)
            rows = [
                [{"segmentation": m | {"counts": m["counts"].decode()}} for m in side]
                for side in (mask.encode(s.transpose(1, 2, 0)) for s in (shapes, noisy))
            ]
        else:
            shapes = rng.random((3, 17, 3)) * [50, 40, 2]
            shapes[:, :, 2] = shapes[:, :, 2].round()
            noisy = shapes + rng.normal(0, 1.5, (3, 17, 3)) * [1, 1, 0]
            rows = [[{"keypoints": s.ravel().tolist()} for s in side] for side in (shapes, noisy)]
        score = rng.random(3)
        key = "masks" if iou_type == "segm" else "keypoints"
        pred = {key: noisy, "scores": score, "labels": [0] * 3}
        target = {key: shapes, "labels": [0] * 3}
        for i in range(3):
            shape = rows[0][i]
            x, y = shapes[i, :, :2].T if iou_type == "keypoints" else (np.zeros(1), np.zeros(1))
            box = [x.min(), y.min(), np.ptp(x), np.ptp(y)]
            area = float(shapes[i].sum()) if iou_type == "segm" else float(box[2] * box[3])
            ids = {"image_id": image, "category_id": 0}
            entry = ids | {"id": image * 3 + i + 1, "bbox": box, "area": area, "iscrowd": 0} | shape
            gt["annotations"].append(entry)
            dt.append(ids | {"score": float(score[i])} | rows[1][i])
        parts[image % 2].update([pred], [target])
    merged = pickle.loads(pickle.dumps(parts[0])).merge(parts[1])
    made = merged.compute()
    order = [0, 2, 4, 1, 3, 5]  # merging appends; equal scores would make that a difference
    expected = coco(gt | {"images": [gt["images"][i] for i in order]}, dt, iou_type)
    at = slice(0, 1)
    assert np.array_equal(made.precision[:, :, :, at, -1], expected.precision[:, :, :, at, -1])
    assert 0 < made.ap < 1
    with pytest.raises(ValueError, match="merge"):
        merged.merge(Evaluator())
    with pytest.raises(ValueError, match=key):
        merged.update([{"boxes": [[0, 0, 1, 1]], "scores": [1], "labels": [0]}], [target])


def test_evaluator_bad_settings_are_named() -> None:
    with pytest.raises(ValueError, match="box_format"):
        Evaluator(box_format="yxyx")
    with pytest.raises(ValueError, match="max_det"):
        Evaluator(max_detection_thresholds=[0])
    with pytest.raises(ValueError, match="other thresholds"):
        Evaluator().merge(Evaluator(iou_thresholds=[0.5]))


@pytest.mark.parametrize("module", [evaluate, metrics, _voc])
def test_docstring_examples_run(module: Any) -> None:
    assert doctest.testmod(module).failed == 0
