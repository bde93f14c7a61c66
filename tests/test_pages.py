"""Figures of a data set, and the two pages about one."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from planted import coco_annotation, coco_image, coco_text, write_coco, write_yolo

from deepseek_det import Error
from deepseek_det.cli import main
from deepseek_det.data import load, statistics, synthetic, write_pictures, write_statistics
from deepseek_det.data.census import HEAT_CELLS

EMPTY = {"meta", "img", "br", "link", "input", "hr"}


class Balance(HTMLParser):
    """Counts tags that are opened and not closed; SVG's self-closing ones are fine."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [v or "" for k, v in attrs if k in ("src", "href")]
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def looked_at(file: Path) -> str:
    """The page's text, after a check that it is whole and loads nothing."""
    text = file.read_text(encoding="utf-8")
    parser = Balance()
    parser.feed(text)
    assert parser.open == []
    assert all(s.startswith("data:image/jpeg;base64,") for s in parser.sources)
    assert "http" not in text.replace("http-equiv", "")
    return text


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small drawn data set."""
    return Path(synthetic(tmp_path_factory.mktemp("drawn") / "set", n=16))


def test_statistics_count_what_is_there(tmp_path: Path) -> None:
    boxes = [
        coco_annotation(1, 1, 1, bbox=[0, 0, 16, 16]),
        coco_annotation(2, 1, 7, bbox=[10, 10, 40, 36]),
        coco_annotation(3, 1, 1, bbox=[0, 0, 64, 48], iscrowd=1),
        coco_annotation(4, 2, 1, bbox=[0, 0, 4, 9]),
    ]
    images = [coco_image(), coco_image(2, "b.jpg"), coco_image(3, "c.jpg")]
    categories = [{"id": 1, "name": "cat"}, {"id": 7, "name": "dog"}, {"id": 9, "name": "owl"}]
    write_coco(tmp_path, coco_text(boxes, images, categories), images=("a.jpg", "b.jpg", "c.jpg"))
    (s,) = statistics(tmp_path)
    assert (s.images, s.empty, s.boxes, s.ignored) == (3, 1, 3, 1)
    assert s.class_boxes.tolist() == [2, 1, 0] and s.class_images.tolist() == [2, 1, 0]
    assert s.sizes.tolist() == [[2, 0, 0], [0, 1, 0], [0, 0, 0]]
    assert s.sides[0] == 11 and np.isnan(s.sides[2])
    # image 1 holds dog (1 of 3 images): shown 3 times; image 2 cat alone: 1.5 times
    assert s.repeats.tolist() == [2.25, 3, 0]
    assert s.weights.sum() == pytest.approx(2) and s.weights[2] == 0
    for h in (s.per_image, s.side, s.aspect, s.image_side):
        assert len(h.edges) == len(h.counts) + 1 and (np.diff(h.edges) > 0).all()
    assert s.per_image.counts.tolist() == [1, 1, 1]
    assert s.side.counts.sum() == s.aspect.counts.sum() == 3
    assert s.heat.shape == (HEAT_CELLS, HEAT_CELLS) and s.heat[0, 0] == pytest.approx(2 / 3)
    content = json.loads(json.dumps(s.to_dict(), allow_nan=False))
    assert content["classes"][1]["name"] == "dog" and content["classes"][2]["side"] is None
    assert [line.split()[0] for line in s.table().splitlines()] == ["class", "cat", "dog", "owl"]


def test_statistics_of_a_set_without_boxes(tmp_path: Path) -> None:
    (s,) = statistics(write_yolo(tmp_path / "set", {"a": "", "b": ""}))
    assert s.boxes == 0 and s.empty == 2 and s.weights.tolist() == [0, 0]
    text = looked_at(write_statistics(tmp_path / "set", tmp_path / "page.html"))
    assert "images without boxes" in text


def test_statistics_page_has_every_split_and_class(drawn: Path, tmp_path: Path) -> None:
    text = looked_at(write_statistics(drawn, tmp_path / "new" / "page.html"))
    for word in (
        f"Split train: {len(load(drawn)):,} images",
        "Split val",
        "Split test",
        "triangle",
        "loss weight",
    ):
        assert word in text
    pictures = {s.split: min(12, s.images) for s in statistics(drawn)}
    assert text.count("data:image/jpeg") == sum(pictures.values())
    one = looked_at(write_statistics(load(drawn, "val"), tmp_path / "one.html"))
    assert "Split val" in one and "Split train" not in one


def test_pictures_page_shows_every_kind(drawn: Path, tmp_path: Path) -> None:
    text = looked_at(write_pictures(drawn, tmp_path / "page.html", imgsz=96, n=3))
    for title in ("As they are, letterboxed", "Augmented", "CutMix", "Mosaic"):
        assert f"<h2>{title}</h2>" in text
    assert text.count("data:image/jpeg") == 12
    again = write_pictures(drawn, tmp_path / "again.html", imgsz=96, n=3)
    assert again.read_text() == text
    other = write_pictures(drawn, tmp_path / "other.html", imgsz=96, n=3, seed=1)
    assert other.read_text() != text


def test_pages_do_not_count_ignored_regions(tmp_path: Path) -> None:
    both = [coco_annotation(1), coco_annotation(2, iscrowd=1)]
    root = write_coco(tmp_path / "set", coco_text(both))
    text = looked_at(write_statistics(root, tmp_path / "statistics.html"))
    assert "a.jpg, 64×48, 1 boxes" in text
    text = looked_at(write_pictures(root, tmp_path / "pictures.html", imgsz=64, n=1))
    assert "a.jpg<br>1 boxes" in text


def test_pages_escape_names(tmp_path: Path) -> None:
    root = write_yolo(tmp_path / "a<b", {"x": "0 .5 .5 .5 .5\n"}, names=["<script>"])
    for write in (write_statistics, write_pictures):
        text = looked_at(write(root, tmp_path / "page.html"))
        assert "<script>" not in text and "&lt;script&gt;" in text


def test_pictures_bad_arguments_are_errors(drawn: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="imgsz is 100"):
        write_pictures(drawn, tmp_path / "page.html", imgsz=100)
    with pytest.raises(Error, match="no split 'dev'"):
        write_pictures(drawn, tmp_path / "page.html", split="dev")
    assert not (tmp_path / "page.html").exists()


def test_check_writes_the_pages_it_is_asked_for(
    drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = ["--project", str(tmp_path), "--imgsz", "96", "--json"]
    assert main(["check", str(drawn), "--pictures", "--statistics", *place]) == 0
    made = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert made["pictures"] == str(tmp_path / "check" / "pictures.html")
    assert re.search("Mosaic", looked_at(Path(made["pictures"])))
    assert "Split train" in looked_at(Path(made["statistics"]))
    assert main(["check", str(drawn), "--json"]) == 0
    assert "pictures" not in json.loads(capsys.readouterr().out.splitlines()[-1])
