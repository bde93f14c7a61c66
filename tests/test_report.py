"""The report: one file with nothing to load, right figures, any class names and any metrics."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from deepseek_det import charts
from deepseek_det.data.loader import Batch
from deepseek_det.draw import encode
from deepseek_det.metrics import Metrics, evaluate_detections
from deepseek_det.report import Part, write_batch, write_report

VOID = {"meta", "img", "line", "circle", "polyline", "br"}
NASTY = ["<b>", "a\"&'", "红细胞", "x" * 80]


class Page(HTMLParser):
    """Checks nesting, and collects what a page would load and the text that it shows."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.words: list[str] = []
        self.tags: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [v or "" for k, v in attrs if k in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def metrics(names: list[str], empty: bool = False) -> Metrics:
    rng = np.random.default_rng(0)
    targets, detections = [], []
    for _ in range(6):
        corners = rng.uniform(0, 50, (5, 2))
        boxes = np.concatenate([corners, corners + rng.uniform(5, 50, (5, 2))], 1)
        labels = rng.integers(0, len(names), 5)
        keep = slice(0, 0) if empty else slice(None)
        targets.append((boxes[keep], labels[keep], None))
        detections.append((boxes + rng.normal(0, 2, boxes.shape), rng.uniform(0, 1, 5), labels))
    return evaluate_detections(targets, detections, names)


def picture() -> bytes:
    return encode(np.zeros((8, 8, 3), np.uint8))


@pytest.mark.parametrize("names", [["one"], NASTY, [f"class {i}" for i in range(80)]])
@pytest.mark.parametrize("empty", [False, True])
def test_a_report_is_one_file_that_loads_nothing(
    tmp_path: Path, names: list[str], empty: bool
) -> None:
    m = metrics(names, empty)
    path = write_report(tmp_path, [Part("Test <i>", m, [("caption <", picture())])], None, "T & t")
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert page.loads and all(v.startswith("data:image/jpeg;base64,") for v in page.loads)
    assert "http" not in text.replace("http-equiv", "") and "<script" not in text
    shown = "".join(page.words)
    assert "T & t" in shown and "Test <i>" in shown
    for name in names[:20]:
        assert name in shown
    if not empty:
        assert f"{m.ap:.3f}" in shown
    assert "prefers-color-scheme:dark" in text


def test_a_runs_files_fill_the_page(tmp_path: Path) -> None:
    (tmp_path / "results.csv").write_text(
        "epoch,time_s,loss_cls,loss_box,ap,ap50,lr\n"
        "1,5.5,2.0,1.0,0.1,0.2,0.01\n2,70.2,1.0,0.5,nan,0.4,0.001\n"
    )
    (tmp_path / "args.json").write_text('{"model": "dsdet-n", "freeze": ["a<b"], "lr0": null}')
    (tmp_path / "train_batch.jpg").write_bytes(picture())
    out = tmp_path / "out"
    out.mkdir()
    page = Page(write_report(out, [], None, run=tmp_path).read_text(encoding="utf-8"))
    shown = " ".join(page.words)
    assert "1 min 10 s" in shown
    assert '["a<b"]' in shown
    assert page.tags.count("svg") == 3
    assert page.tags.count("img") == 1


def test_a_folder_without_a_run_gives_a_page(tmp_path: Path) -> None:
    Page(write_report(tmp_path, []).read_text(encoding="utf-8"))


@pytest.mark.parametrize("n", [0, 1, 2])
def test_a_chart_of_few_points(n: int) -> None:
    x = np.arange(n, dtype=float)
    text = charts.line_chart([charts.Series("s", x, x * np.nan if n == 2 else x)], "epoch", "y")
    Page(f"<div>{text}</div>")
    assert ("<svg" in text) == (n == 1)


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (0, 0.0013), (-5, 12345), (1, 2), (3, 3), (0, 1e-30), (0, np.inf)]
)
def test_ticks_lie_inside_and_are_few(low: float, high: float) -> None:
    for whole in (False, True):
        found = charts.ticks(low, high, 5, whole)
        assert len(found) <= 7
        assert all(low - 1e-9 <= t <= high + 1e-9 for t in found) or not np.isfinite(high)
        assert found == sorted(set(found))
        assert not whole or high == low or all(t == int(t) for t in found)


def test_confusion_shows_counts_and_picks_the_largest_classes() -> None:
    counts = np.zeros((31, 31), np.int64)
    counts[np.arange(30), np.arange(30)] = np.arange(30) + 1
    counts[3, 4] = 77
    text = charts.confusion_table(counts, [f"c{i}" for i in range(30)], limit=3)
    shown = Page(f"<div>{text}</div>").words
    assert {"c3", "c28", "c29", "background", "30", "29", "4"} <= set(shown)
    assert "c27" not in shown
    assert "The 3 classes with the most objects of 30." in shown


def test_a_training_batch_is_drawn(tmp_path: Path) -> None:
    batch = Batch(
        images=np.zeros((2, 32, 32, 3), np.uint8),
        boxes=np.array([[2, 2, 20, 20], [4, 4, 30, 30]], np.float32),
        labels=np.array([0, 1], np.int32),
        ignore=np.array([False, True]),
        offsets=np.array([0, 2, 2]),
        indices=np.array([0, 1]),
        ids=(0, 1),
        sizes=np.full((2, 2), 32, np.int32),
        scales=np.ones(2, np.float32),
        pads=np.zeros((2, 2), np.float32),
        number=0,
    )
    from PIL import Image

    write_batch(tmp_path / "b.jpg", batch, ["a", "b"])
    with Image.open(tmp_path / "b.jpg") as image:
        assert image.size == (2 * 320 + 12, 320 + 8)
