"""Annotators compared: matching, agreement, disputes, decisions, the new data set."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from planted import write_image

import deepseek_det as dd
from deepseek_det import _core, cli
from deepseek_det.data import Dataset, Record, load
from deepseek_det.errors import Error
from deepseek_det.quality import (
    CrossCheck,
    cross_check,
    krippendorff_alpha,
    read_decisions,
    read_disputes,
    resolve,
)

Label = tuple[Any, ...]
NAMES = ["cat", "dog"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for i in range(4):
        write_image(folder / f"p{i}.png", seed=i)
    return folder


@pytest.fixture
def annotate(pictures: Path) -> Callable[..., Dataset]:
    """Makes a data set: for each image its labels (name, box) or (name, box, "ignore")."""

    def make(
        *images: Sequence[Label],
        names: Sequence[str] = NAMES,
        categories: Sequence[int] | None = None,
        first: int = 0,
        split: str = "train",
    ) -> Dataset:
        records = []
        for i, labels in enumerate(images, first):
            boxes = np.array([row[1] for row in labels], np.float32).reshape(-1, 4)
            kinds = np.array([list(names).index(row[0]) for row in labels], np.int32)
            ignore = np.array([len(row) > 2 for row in labels], np.bool_)
            records.append(Record(pictures / f"p{i}.png", i + 10, 64, 48, boxes, kinds, ignore))
        ids = list(range(3, 3 + len(names))) if categories is None else list(categories)
        return Dataset(pictures, split, "coco", names, ids, records)

    return make


BOX, CLOSE, HALF, FAR = (4, 4, 24, 24), (5, 4, 25, 24), (14, 4, 34, 24), (40, 20, 60, 44)

# scipy 1.17.1's linear_sum_assignment of default_rng(7).normal(size=(9, 12)), and the least sum
# that it finds for default_rng(11).uniform(size=(180, 200)).
SCIPY_COLUMNS = [5, 6, 2, 9, 0, 11, 8, 1, 3]
SCIPY_SUM = 1.1866613779957724

# ---- the matching -------------------------------------------------------------------------------


def test_assignment_is_scipys() -> None:
    cost = np.random.default_rng(7).normal(size=(9, 12))
    assert _core.assignment(cost).tolist() == SCIPY_COLUMNS
    turned = [SCIPY_COLUMNS.index(j) if j in SCIPY_COLUMNS else -1 for j in range(12)]
    assert _core.assignment(np.ascontiguousarray(cost.T)).tolist() == turned
    large = np.random.default_rng(11).uniform(size=(180, 200))
    found = _core.assignment(large)
    assert len(set(found.tolist())) == 180
    assert large[np.arange(180), found].sum() == pytest.approx(SCIPY_SUM, abs=1e-12)


def test_matching_does_not_depend_on_order() -> None:
    rng = np.random.default_rng(3)
    low = rng.uniform(0, 60, (40, 2))
    a = np.concatenate([low, low + rng.uniform(10, 30, (40, 2))], 1).astype(np.float32)
    b = (a + rng.normal(0, 2, a.shape)).astype(np.float32)
    kinds = rng.integers(0, 3, 40).astype(np.int32)
    partner, overlap = _core.match_labels(a, kinds, b, kinds, 0.7, 0.3)
    p, q = rng.permutation(40), rng.permutation(40)
    again, _ = _core.match_labels(a[p], kinds[p], b[q], kinds[q], 0.7, 0.3)
    pairs = {(i, j) for i, j in enumerate(partner.tolist()) if j >= 0}
    assert {(p[i], q[j]) for i, j in enumerate(again.tolist()) if j >= 0} == pairs
    assert (overlap[partner >= 0] >= 0.3).all() and (overlap[partner < 0] == 0).all()


# ---- α ------------------------------------------------------------------------------------------


def alpha_by_definition(table: Sequence[Sequence[int | None]]) -> float:
    """Krippendorff 2011, C: the coincidence matrix, pair by pair."""
    o: dict[tuple[int, int], float] = {}
    for unit in table:
        values = [v for v in unit if v is not None]
        for x, y in itertools.permutations(range(len(values)), 2):
            key = (values[x], values[y])
            o[key] = o.get(key, 0) + 1 / (len(values) - 1)
    kinds = {k for key in o for k in key}
    totals = {c: sum(v for (x, _), v in o.items() if x == c) for c in kinds}
    n = sum(totals.values())
    observed = sum(v for (x, y), v in o.items() if x != y)
    expected = sum(totals[x] * totals[y] for x in kinds for y in kinds if x != y)
    return 1 - (n - 1) * observed / expected


def test_alpha_of_krippendorffs_example() -> None:
    # Computing Krippendorff's Alpha-Reliability (2011), part C: 4 observers, 12 units, α = 0.743.
    rows = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
        [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
    ]
    table = [list(unit) for unit in zip(*rows, strict=True)]
    ours = krippendorff_alpha([[-2 if v is None else v for v in unit] for unit in table])
    assert ours == pytest.approx(0.743, abs=5e-4)
    assert ours == pytest.approx(alpha_by_definition(table), abs=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_alpha_equals_its_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    table = rng.integers(-2, 3, (30, 4))
    reference = alpha_by_definition([[None if v == -2 else v for v in u] for u in table.tolist()])
    assert krippendorff_alpha(table) == pytest.approx(reference, abs=1e-12)


@pytest.mark.parametrize(
    ("table", "alpha"),
    [([[1, 1], [1, 1]], 1.0), ([[1, -2], [-2, 1]], math.nan), (np.zeros((0, 3)), math.nan)],
)
def test_alpha_at_its_ends(table: Any, alpha: float) -> None:
    assert krippendorff_alpha(table) == pytest.approx(alpha, nan_ok=True)


def test_alpha_of_a_wrong_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="units, annotators"):
        krippendorff_alpha([1, 2])


# ---- what is disputed ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b", "reason", "who"),
    [
        ([("cat", BOX)], [("cat", CLOSE)], None, ""),
        ([("cat", BOX)], [("dog", CLOSE)], "class", "ab"),
        ([("cat", BOX)], [("cat", HALF)], "location", "ab"),
        ([("cat", BOX)], [("dog", HALF)], "class", "ab"),
        ([("cat", BOX)], [], "only-in-one", "a"),
        ([], [("cat", BOX)], "only-in-one", "b"),
        ([("cat", BOX)], [("dog", BOX, "ignore")], "ambiguous", "a"),
        ([("cat", FAR)], [("cat", FAR), ("cat", BOX, "ignore")], None, ""),
        ([("cat", BOX), ("dog", BOX)], [("dog", BOX), ("cat", CLOSE)], None, ""),
    ],
)
def test_one_difference_is_one_dispute(
    annotate: Any, a: list[Label], b: list[Label], reason: str | None, who: str
) -> None:
    q = cross_check(annotate(a), annotate(b))
    assert [d.reason for d in q.disputes] == ([] if reason is None else [reason])
    for d in q.disputes:
        assert (d.id, d.image) == (1, "p0.png")
        assert "".join(c.annotator for c in d.candidates) == who
        own = {"a": a, "b": b}
        for c in d.candidates:
            assert (c.name, c.xyxy) in [(x[0], x[1]) for x in own[c.annotator]]
    assert q.agreement is not None
    # An ignored region is no object that the other failed to find.
    if any(len(x) > 2 for x in b) or reason is None:
        f1 = q.agreement.overall.f1
        assert math.isnan(f1) or f1 == 1.0


def test_boxes_too_far_apart_are_two_disputes(annotate: Any) -> None:
    q = cross_check(annotate([("cat", BOX)]), annotate([("cat", HALF)]), near=0.5)
    assert [d.reason for d in q.disputes] == ["only-in-one", "only-in-one"]


def test_three_annotators_by_majority(annotate: Any) -> None:
    a = annotate([("cat", BOX)], [("cat", BOX)], [("cat", BOX)], [("cat", BOX)])
    b = annotate([("cat", CLOSE)], [("cat", CLOSE)], [], [("dog", BOX)])
    c = annotate([("cat", BOX)], [], [], [("cat", HALF)])
    q = cross_check(a, b, c)
    assert [(d.reason, d.suggestion) for d in q.disputes] == [
        ("only-in-some", 0),
        ("only-in-one", "drop"),
        ("ambiguous", None),
    ]
    assert [len(d.candidates) for d in q.disputes] == [2, 1, 3]
    counts = {f.name: f.counts for f in q.agreement.annotators}  # type: ignore[union-attr]
    assert counts["a"]["alone"] == 1 and counts["c"]["lacks"] == 1


def test_order_of_annotators_does_not_matter(annotate: Any) -> None:
    rng = np.random.default_rng(5)
    people = []
    for _ in range(3):
        low = rng.integers(0, 30, (2, 6, 2))
        labels = [
            [(NAMES[rng.integers(2)], (*xy, *(xy + rng.integers(8, 18, 2)))) for xy in image]
            for image in low
        ]
        people.append(annotate(*labels))
    seen = []
    for order in itertools.permutations(range(3)):
        names = [str(k) for k in order]
        q = cross_check(*(people[k] for k in order), annotators=names)
        groups = {
            (d.image, d.reason, frozenset((c.annotator, c.xyxy) for c in d.candidates))
            for d in q.disputes
        }
        assert q.agreement is not None
        overall = q.agreement.overall
        seen.append((groups, round(overall.f1, 12), round(overall.alpha, 12)))
    assert all(s == seen[0] for s in seen)


def test_figures_by_hand(annotate: Any) -> None:
    a = annotate([("cat", BOX), ("dog", FAR)], [("cat", BOX)], [])
    b = annotate([("cat", CLOSE), ("cat", FAR)], [("cat", BOX), ("dog", FAR)], [])
    q = cross_check(a, b)
    agreement = q.agreement
    assert agreement is not None
    # 7 labels, of which 2 pairs agree
    assert agreement.overall.f1 == pytest.approx(4 / 7)
    units = [[0, 0], [1, 0], [0, 0], [-1, 1]]
    assert agreement.overall.alpha == pytest.approx(krippendorff_alpha(units))
    assert agreement.overall.counts == {"agreed": 2, "class": 1, "only-in-one": 1}
    cat, dog = agreement.classes
    assert (cat.labels, cat.f1) == (5, pytest.approx(4 / 5))
    assert (dog.labels, dog.f1) == (2, 0.0)
    single = [[v == 0 for v in u] for u in units]
    assert cat.alpha == pytest.approx(krippendorff_alpha(single))
    assert [f.f1 for f in agreement.images[:2]] == [pytest.approx(2 / 4), pytest.approx(2 / 3)]
    assert math.isnan(agreement.images[2].f1) and math.isnan(agreement.images[2].alpha)
    assert agreement.annotators[0].f1 == agreement.annotators[1].f1 == agreement.overall.f1
    text = q.text()
    assert "3 images, annotators a, b: 2 labels agreed" in text and "p0.png" in text
    assert json.dumps(q.to_dict(), allow_nan=False)


def test_classes_are_joined_by_name(annotate: Any) -> None:
    a = annotate([("cat", BOX), ("dog", FAR)])
    b = annotate([("dog", FAR), ("cat", BOX)], names=["dog", "owl", "cat"], categories=[1, 3, 9])
    q = cross_check(a, b)
    assert not q.disputes
    assert q.names == ["cat", "dog", "owl"] and q.categories == [3, 4, 5]


def test_agreed_box_is_the_mean_or_the_first(annotate: Any, tmp_path: Path) -> None:
    a, b = annotate([("cat", BOX)]), annotate([("cat", CLOSE)])
    assert cross_check(a, b).agreed[0].xyxy == (4.5, 4, 24.5, 24)
    assert cross_check(a, b, agreed_box="first").agreed[0].xyxy == BOX


# ---- images side by side ------------------------------------------------------------------------


def test_images_of_three_layouts_are_lined_up(tmp_path: Path) -> None:
    source = dd.data.synthetic(tmp_path / "set", n=6, seed=1)
    paths: list[Any] = [source]
    for format in ("voc", "yolo"):
        paths.append(dd.data.convert(source, tmp_path / format, format=format).path)
    q = cross_check(*paths, iou=0.99)
    assert q.disputes == [] and len(q.images) == 6
    assert {i.split for i in q.images} == {"train", "val", "test"}


def test_suffix_and_folder_of_an_image_may_differ(annotate: Any, tmp_path: Path) -> None:
    a = annotate([("cat", BOX)], [])
    b = replace_paths(annotate([("cat", BOX)], []), lambda p: tmp_path / f"{p.stem}.jpg")
    assert [i.name for i in cross_check(a, b).images] == ["p0", "p1"]


def replace_paths(data: Dataset, rule: Callable[[Path], Path]) -> Dataset:
    records = [replace(r, path=rule(r.path)) for r in data.records]
    return Dataset(data.root, data.split, "coco", data.names, data.categories, records)


def test_equal_names_are_told_apart_by_folders(annotate: Any) -> None:
    def in_folders(data: Dataset) -> Dataset:
        turns = iter(("left", "right"))
        return replace_paths(data, lambda p: p.parent / next(turns) / "same.png")

    q = cross_check(
        in_folders(annotate([("cat", BOX)], [])), in_folders(annotate([("cat", BOX)], []))
    )
    assert [i.name for i in q.images] == ["left/same.png", "right/same.png"]
    assert not q.disputes


def test_partial_compares_what_two_have(annotate: Any) -> None:
    a, b = annotate([("cat", BOX)], [("cat", BOX)]), annotate([("cat", BOX)], first=1)
    with pytest.raises(Error, match=r"1 of 2 images are not in the set of 'b', the first is 'p0"):
        cross_check(a, b)
    q = cross_check(a, b, partial=True)
    assert [i.name for i in q.images] == ["p1.png"] and not q.disputes
    # what only one of three has seen counts for nobody
    c = annotate([], [("cat", BOX)])
    assert [d.image for d in cross_check(a, b, c, partial=True).disputes] == ["p0.png"]


# ---- bad inputs ---------------------------------------------------------------------------------


def broken(data: Dataset, **fields: Any) -> Dataset:
    record = replace(data.records[0], **fields)
    rest = data.records[1:]
    return Dataset(data.root, "train", "coco", data.names, data.categories, [record, *rest])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"boxes": np.array([[1, 2, np.nan, 9]], np.float32)}, ValueError, "finite x0 < x1"),
        ({"boxes": np.array([[9, 2, 4, 9]], np.float32)}, ValueError, "finite x0 < x1"),
        ({"boxes": np.zeros((2, 4), np.float32)}, ValueError, r"boxes \(2, 4\), 1 labels"),
        ({"width": 65}, Error, "65x48, 64x48 was needed"),
    ],
)
def test_broken_record_is_named(
    annotate: Any, change: dict[str, Any], error: type[Exception], message: str
) -> None:
    good = annotate([("cat", BOX)])
    with pytest.raises(error, match=message) as told:
        cross_check(good, broken(good, **change))
    assert "p0.png" in str(told.value) and "'b'" in str(told.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"iou": 0}, "iou is 0"),
        ({"iou": 1.2}, "iou is 1.2"),
        ({"iou": math.nan}, "iou is nan"),
        ({"near": 0.8}, "near 0.8"),
        ({"agreed_box": "last"}, "agreed_box is 'last'"),
        ({"annotators": ["x"]}, "annotators is"),
        ({"annotators": ["x", "x"]}, "annotators is"),
        ({"annotators": "ab"}, "annotators is"),
        ({"annotators": ["x", ""]}, "annotators is"),
    ],
)
def test_wrong_argument_is_refused(annotate: Any, arguments: dict[str, Any], message: str) -> None:
    good = annotate([("cat", BOX)])
    with pytest.raises(ValueError, match=message):
        cross_check(good, good, **arguments)


def test_sets_without_a_common_image_or_class_are_refused(annotate: Any) -> None:
    with pytest.raises(Error, match="not in the set"):
        cross_check(annotate([]), annotate([], first=1))
    with pytest.raises(Error, match="a class in common"):
        cross_check(annotate([]), annotate([], names=["owl"]))
    twins = replace_paths(annotate([], []), lambda p: p.parent / "same.png")
    assert len(cross_check(twins, twins).images) == 1  # one file listed twice is one image


def test_missing_folder_is_an_error(tmp_path: Path, annotate: Any) -> None:
    with pytest.raises(Error, match="no such file"):
        cross_check(tmp_path / "a", annotate([]))


# ---- the file of disputes -----------------------------------------------------------------------


@pytest.fixture
def q(annotate: Any) -> CrossCheck:
    """class, location, only-in-one, and an agreed label and an ignored region."""
    a = [("cat", BOX), ("cat", FAR)], [("dog", BOX)], [("dog", FAR), ("cat", BOX, "ignore")]
    b = [("dog", BOX), ("cat", FAR)], [("dog", HALF)], []
    return cross_check(annotate(*a), annotate(*b))


def test_disputes_file_is_coco_and_comes_back(q: CrossCheck, tmp_path: Path) -> None:
    file = q.write(tmp_path / "disputes.json")
    content = json.loads(file.read_text())
    for row in content["annotations"]:
        assert row["status"] == ("agreed" if row["id"] > 3 else "open")
    assert [row.get("reason") for row in content["annotations"][:3]] == [
        "class",
        "location",
        "only-in-one",
    ]
    folder = q.images[0].path.parent
    coco = load(file, "train", images=folder)  # any reader of COCO takes it
    assert [len(r.boxes) for r in coco.records] == [2, 1, 2]
    again = read_disputes(file)
    assert again.disputes == q.disputes and again.agreed == q.agreed
    assert (again.names, again.categories, again.annotators) == (q.names, q.categories, ["a", "b"])
    assert [i.path.resolve() for i in again.images] == [i.path.resolve() for i in q.images]
    assert again.digest() == q.digest()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"version": 1', '"version": 2'),
        ('"annotator": "a", "name": "cat"', '"annotator": "a", "name": "owl"'),
        ('"reason": "class"', '"reason": "mood"'),
        ('"digest": "', '"digest": "0'),
        ('"width": 64', '"width": 64, "width": 64'),
        ('"image_id": 1', '"image_id": 77'),
        ("}]}", "}"),
    ],
)
def test_damaged_disputes_file_is_an_error(
    q: CrossCheck, tmp_path: Path, old: str, new: str
) -> None:
    file = q.write(tmp_path / "disputes.json")
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    with pytest.raises(Error, match=r"disputes\.json"):
        read_disputes(file)


# ---- decisions ----------------------------------------------------------------------------------


def labels_of(path: Path) -> list[list[tuple[str, list[float], bool]]]:
    data = load(path, "train")
    return [
        [
            (data.names[k], b, i)
            for k, b, i in zip(r.labels.tolist(), r.boxes.tolist(), r.ignore.tolist(), strict=True)
        ]
        for r in data.records
    ]


@pytest.mark.parametrize(
    ("id", "decision", "left"),
    [
        (1, {"action": "accept", "candidate": 1}, [("dog", BOX, False)]),
        (1, {"action": "accept", "candidate": 0}, [("cat", BOX, False)]),
        (1, {"action": "accept"}, [("cat", BOX, False)]),
        (1, {"action": "accept", "candidate": [0, 1]}, [("cat", BOX, False), ("dog", BOX, False)]),
        (1, {"action": "merge", "name": "dog"}, [("dog", BOX, False)]),
        (2, {"action": "merge"}, [("dog", (9, 4, 29, 24), False)]),
        (2, {"action": "drop"}, []),
        (2, {"action": "ignore"}, [("dog", (4, 4, 34, 24), True)]),
        (2, {"action": "ignore", "xyxy": [0, 0, 90, 9]}, [("dog", (0, 0, 64, 9), True)]),
        (
            2,
            {"action": "redraw", "xyxy": [-5, 1.5, 20, 20], "name": "cat"},
            [("cat", (0, 1.5, 20, 20), False)],
        ),
    ],
)
def test_decision_has_its_outcome(
    q: CrossCheck, tmp_path: Path, id: int, decision: dict[str, Any], left: list[Any]
) -> None:
    decisions = {i: {"action": "drop"} for i in (1, 2, 3)} | {id: decision}
    made = labels_of(resolve(q, decisions, tmp_path / "new"))
    expected: list[list[Any]] = [[("cat", list(FAR), False)], [], [("cat", list(BOX), True)]]
    expected[id - 1] += [(n, list(map(float, b)), i) for n, b, i in left]
    assert made == expected


def test_resolve_writes_a_new_set_and_touches_no_source(q: CrossCheck, tmp_path: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in q.images[0].path.parent.iterdir()}
    new = resolve(q, {}, tmp_path / "deep/new", undecided="drop")
    assert isinstance(new, Path) and new == tmp_path / "deep/new"
    data = load(new, "train")
    assert data.names == NAMES and data.categories == [3, 4]
    assert [r.id for r in data.records] == [10, 11, 12]
    assert {p: p.stat().st_mtime_ns for p in q.images[0].path.parent.iterdir()} == before
    with pytest.raises(Error, match="exists and is not an empty folder"):
        resolve(q, {}, new, undecided="drop")


def test_undecided_disputes(q: CrossCheck, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="3 of 3 disputes are undecided"):
        made = labels_of(resolve(q, {}, tmp_path / "first"))
    assert made[0][-1] == ("cat", list(BOX), False)
    made = labels_of(resolve(q, {}, tmp_path / "ignore", undecided="ignore"))
    assert [row[-1][2] for row in made] == [True, True, True]
    with pytest.raises(ValueError, match="3 disputes are undecided, the first is 1"):
        resolve(q, {}, tmp_path / "error", undecided="error")
    with pytest.raises(ValueError, match="undecided is 'keep'"):
        resolve(q, {}, tmp_path / "keep", undecided="keep")
    assert not (tmp_path / "error").exists()


@pytest.mark.parametrize(
    ("decisions", "message"),
    [
        ({9: {"action": "drop"}}, "no dispute 9"),
        ({"x": {"action": "drop"}}, "no dispute 'x'"),
        ({True: {"action": "drop"}}, "no dispute True"),
        ({1: {"action": "drop"}, "1": {"action": "drop"}}, "dispute 1 is decided twice"),
        ({1: "drop"}, "an action of"),
        ({1: {}}, "an action of"),
        ({1: {"action": "burn"}}, "an action of"),
        ({1: {"action": "drop", "candidate": 0}}, "'drop' came with"),
        ({1: {"action": "accept", "candidate": 2}}, "0 to 1"),
        ({1: {"action": "accept", "candidate": -1}}, "0 to 1"),
        ({1: {"action": "accept", "candidate": []}}, "0 to 1"),
        ({1: {"action": "accept", "candidate": [0, 0]}}, "0 to 1"),
        ({1: {"action": "accept", "candidate": "0"}}, "0 to 1"),
        ({1: {"action": "merge"}}, "a name was needed"),
        ({1: {"action": "merge", "name": "owl"}}, "'owl' came"),
        ({1: {"action": "redraw", "name": "cat"}}, "xyxy and name were needed"),
        ({1: {"action": "redraw", "xyxy": [1, 2, 3], "name": "cat"}}, "four numbers"),
        ({1: {"action": "redraw", "xyxy": "abcd", "name": "cat"}}, "four numbers"),
        ({1: {"action": "redraw", "xyxy": [1, 2, math.nan, 4], "name": "cat"}}, "finite"),
        ({1: {"action": "redraw", "xyxy": [9, 9, 5, 20], "name": "cat"}}, "no area"),
        ({1: {"action": "redraw", "xyxy": [70, 9, 80, 20], "name": "cat"}}, "no area"),
        ({1: {"action": "ignore", "xyxy": [5, 5, 5, 9]}}, "no area"),
    ],
)
def test_wrong_decision_is_refused(
    q: CrossCheck, tmp_path: Path, decisions: dict[Any, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        resolve(q, decisions, tmp_path / "new", undecided="drop")
    assert not (tmp_path / "new").exists()


def test_decisions_file_is_checked(q: CrossCheck, tmp_path: Path) -> None:
    content = {
        "format": "deepseek_det decisions",
        "version": 1,
        "digest": q.digest(),
        "decisions": {"1": {"action": "drop"}},
    }
    file = tmp_path / "decisions.json"
    file.write_text(json.dumps(content))
    assert read_decisions(file, q) == {"1": {"action": "drop"}}
    disputes = q.write(tmp_path / "disputes.json")
    made = labels_of(resolve(disputes, file, tmp_path / "new", undecided="ignore"))
    assert made[0] == [("cat", list(map(float, FAR)), False)]
    for change, message in (
        ({"digest": "1" * 16}, "other disputes"),
        ({"format": "x"}, "no file of decisions"),
        ({"version": 2}, "version 2"),
        ({"decisions": []}, "version 1"),
    ):
        file.write_text(json.dumps({**content, **change}))
        with pytest.raises(Error, match=message):
            read_decisions(file, q)
    text = json.dumps(content)
    file.write_text(text.replace('"1": {"action": "drop"}', '"1": {}, "1": {"action": "drop"}'))
    with pytest.raises(Error, match="twice"):
        read_decisions(file, q)
    with pytest.raises(Error, match="none"):
        read_decisions(tmp_path / "none.json", q)


# ---- the ignored region, honoured ---------------------------------------------------------------


def test_ignored_region_neither_trains_nor_counts(q: CrossCheck, tmp_path: Path) -> None:
    decisions = {1: {"action": "drop"}, 2: {"action": "ignore"}, 3: {"action": "drop"}}
    data = load(resolve(q, decisions, tmp_path / "new"), "train")
    assert data.records[1].ignore.tolist() == [True] and data.n_boxes == 1
    from deepseek_det.data.loader import stream
    from deepseek_det.evaluate import Evaluator

    batch = next(stream(data, 64, 3, None, workers=0))
    assert batch.ignore.tolist() == [False, True, True]
    # A confident detection in the region is no false alarm; outside of it it is.
    for box, ap in (((4, 4, 30, 24), 1.0), ((40, 30, 60, 46), 0.5)):
        evaluator = Evaluator()
        for r, found, score in zip(data.records, (FAR, box, None), (0.5, 0.9, 0.0), strict=True):
            boxes = np.array([] if found is None else [found], np.float32).reshape(-1, 4)
            n = len(boxes)
            preds = {"boxes": boxes, "scores": [score] * n, "labels": [0] * n}
            labels = np.zeros(len(r.labels), np.int64)
            targets = {"boxes": r.boxes, "labels": labels, "iscrowd": r.ignore}
            evaluator.update([preds], [targets])
        assert evaluator.compute().ap50 == pytest.approx(ap, abs=0.01)


# ---- the command --------------------------------------------------------------------------------


def test_check_against_reports_writes_and_resolves(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = dd.data.synthetic(tmp_path / "a", n=8, seed=2)
    other = dd.data.convert(source, tmp_path / "b").path
    file = other / "annotations/instances_train.json"
    content = json.loads(file.read_text())
    content["annotations"].pop()
    file.write_text(json.dumps(content))
    words = ["check", str(source), "--against", str(other)]
    files = ["--disputes", str(tmp_path / "d.json"), "--page", str(tmp_path / "p.html")]
    assert cli.main([*words, *files, "--json"]) == 0
    made = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert made["disputes"] == 1 and made["by_reason"] == {"only-in-one": 1}
    assert made["agreement"]["overall"]["f1"] < 1
    assert "<svg" in (tmp_path / "p.html").read_text()
    q = read_disputes(tmp_path / "d.json")
    decisions = {
        "format": "deepseek_det decisions",
        "version": 1,
        "digest": q.digest(),
        "decisions": {"1": {"action": "accept", "candidate": 0}},
    }
    (tmp_path / "decisions.json").write_text(json.dumps(decisions))
    result = ["--decisions", str(tmp_path / "decisions.json"), "--output", str(tmp_path / "new")]
    assert cli.main([*words, *result]) == 0
    assert not cross_check(source, tmp_path / "new").disputes


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--strict"], 1, "1 disputes came (1 only-in-one), none was needed"),
        (["--iou", "2"], 2, "iou is 2.0"),
        (["--split", "train"], 2, "split came with against"),
        (["--decisions", "x.json"], 2, "decisions and output need each other"),
        (["--against", "nowhere"], 1, "nowhere"),
    ],
)
def test_check_against_wrong_usage(
    annotate: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    code: int,
    message: str,
) -> None:
    a = dd.data.convert(annotate([("cat", BOX)]), tmp_path / "a").path
    b = dd.data.convert(annotate([]), tmp_path / "b").path
    assert cli.main(["check", str(a), "--against", str(b), *words]) == code
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ") and message in last


def test_check_page_without_against_is_wrong_usage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["check", str(tmp_path), "--page", "p.html"]) == 2
    assert "page came without against" in capsys.readouterr().err


# ---- the real data ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["BCCD", "raccoon"])
def test_real_set_agrees_with_itself(data_root: Path, name: str) -> None:
    q = cross_check(data_root / name, data_root / name)
    assert not q.disputes and q.agreement is not None
    assert q.agreement.overall.f1 == q.agreement.overall.alpha == 1.0
