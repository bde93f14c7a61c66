"""Results: drawing, saving, and the forms for other programs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deepseek_det import Error
from deepseek_det.draw import PALETTE, draw_boxes, encode, mosaic
from deepseek_det.results import Results

NAMES = ["disk", "ring"]


def results(
    source: object = None, path: str | None = None, shape: tuple[int, int] = (60, 80)
) -> Results:
    return Results(
        np.array([[10, 5, 30.5, 25], [0, 0, 80, 60]], np.float32),
        np.array([0.9, 0.25], np.float32),
        np.array([1, 0]),
        NAMES,
        path,
        shape,
        categories=(7, 3),
        source=np.zeros((*shape, 3), np.uint8) if source is None else source,
    )


def test_to_coco_gives_xywh_and_the_data_sets_ids() -> None:
    rows = results().to_coco(42)
    assert rows[0]["image_id"] == 42
    assert [r["category_id"] for r in rows] == [3, 7]
    assert rows[0]["bbox"] == [10.0, 5.0, 20.5, 20.0]
    assert rows[0]["score"] == pytest.approx(0.9)
    assert json.loads(json.dumps(rows)) == rows


def test_to_json_holds_all_of_it() -> None:
    content = json.loads(results(path="a/ä.jpg").to_json())
    assert (content["path"], content["width"], content["height"]) == ("a/ä.jpg", 80, 60)
    assert [b["name"] for b in content["boxes"]] == ["ring", "disk"]
    assert content["boxes"][1]["xyxy"] == [0, 0, 80, 60]


def test_text_counts_the_objects() -> None:
    assert str(results(path="x.jpg")) == "x.jpg 80x60: 1 disk, 1 ring"
    none = Results(
        np.zeros((0, 4), np.float32),
        np.zeros(0, np.float32),
        np.zeros(0, np.int64),
        NAMES,
        None,
        (4, 4),
    )
    assert str(none) == "image 4x4: nothing found"
    assert (len(none), none.to_coco(1)) == (0, [])


def test_plot_draws_and_leaves_the_image_alone() -> None:
    image = np.zeros((60, 80, 3), np.uint8)
    plotted = results(image).plot(labels=False, conf=False)
    assert not image.any()
    assert tuple(plotted[5, 20]) == PALETTE[1]
    assert tuple(plotted[59, 79]) == PALETTE[0]  # half-open: xmax = width is the last pixel
    assert (results(image).plot() != plotted).any()  # the labels


def test_plot_of_a_file_decodes_it_again(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    Image.new("RGB", (80, 60), (9, 8, 7)).save(path)
    r = results(path, str(path))
    assert tuple(r.plot()[58, 40]) == (9, 8, 7)
    Image.new("RGB", (70, 60)).save(path)
    with pytest.raises(Error, match="70x60 px, it was 80x60"):
        r.plot()
    path.unlink()
    with pytest.raises(Error, match=r"x\.png"):
        r.plot()


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".png", ".webp", ".bmp", ".PNG"])
def test_save_writes_the_format_of_the_suffix(tmp_path: Path, suffix: str) -> None:
    path = results().save(tmp_path / f"o{suffix}")
    with Image.open(path) as image:
        assert image.size == (80, 60)
    assert [p.name for p in tmp_path.iterdir()] == [f"o{suffix}"]


def test_save_names_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'\.gif' came"):
        results().save(tmp_path / "o.gif")
    with pytest.raises(OSError, match="nowhere"):
        results().save(tmp_path / "nowhere" / "o.jpg")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("size", [(40, 30), (300, 200), (7, 400), (1, 1)])
@pytest.mark.parametrize(
    "text", ["disk 0.98", "ein sehr langer Name einer Klasse 0.31", "红细胞", "x"]
)
def test_labels_stay_inside_of_the_image(size: tuple[int, int], text: str) -> None:
    """The label of a box at each corner takes as many coloured pixels as one in the middle."""
    width, height = size
    image = np.zeros((height, width, 3), np.uint8)
    for x in (0, width - 1, width // 2):
        for y in (0, height - 1, height // 2):
            drawn = draw_boxes(image, [[x, y, x + 1, y + 1]], [0], [text])
            assert drawn.shape == image.shape
            assert (drawn == np.array(PALETTE[0])).all(2).any()


def test_a_label_at_the_border_is_whole() -> None:
    image = np.zeros((100, 200, 3), np.uint8)

    def ground(x: int, y: int) -> int:
        blank = draw_boxes(image, [[x, y, x + 40, y + 40]], [2])
        marked = draw_boxes(image, [[x, y, x + 40, y + 40]], [2], ["triangle 0.5"])
        rows, columns = np.nonzero((marked != blank).any(2))
        return int((np.ptp(rows) + 1) * (np.ptp(columns) + 1))

    middle = ground(60, 50)
    assert ground(170, 50) == middle  # moved to the left
    assert abs(ground(60, 2) - middle) <= middle // 4  # inside of the box, whose frame it covers


def test_draw_boxes_takes_what_nets_give() -> None:
    image = np.zeros((20, 20, 3), np.uint8)
    nan, inf = np.nan, np.inf
    boxes = [[nan, 0, 1, 1], [-inf, 0, inf, 1], [-50, -50, 90, 90], [5, 5, 5, 5], [30, 30, 40, 40]]
    assert draw_boxes(image, boxes, [0, 1, 2, 30, 4], ["a"] * 5).shape == (20, 20, 3)
    assert (draw_boxes(image, np.zeros((0, 4)), []) == image).all()


@pytest.mark.parametrize(
    ("image", "boxes", "labels", "texts"),
    [
        (np.zeros((4, 4), np.uint8), [], [], None),
        (np.zeros((4, 4, 3), np.float32), [], [], None),
        (np.zeros((4, 4, 4), np.uint8), [], [], None),
        (np.zeros((4, 4, 3), np.uint8), [[0, 0, 1, 1]], [], None),
        (np.zeros((4, 4, 3), np.uint8), [[0, 0, 1, 1]], [1], ["a", "b"]),
    ],
)
def test_draw_boxes_refuses_shapes(
    image: object, boxes: object, labels: object, texts: object
) -> None:
    with pytest.raises(ValueError, match="draw_boxes"):
        draw_boxes(image, boxes, labels, texts)  # type: ignore[arg-type]


def test_mosaic_keeps_small_images_and_shrinks_large_ones() -> None:
    sheet = mosaic(
        [np.full((50, 400, 3), 9, np.uint8), np.full((20, 10, 3), 7, np.uint8)], 2, 100, 2
    )
    assert sheet.shape == (104, 206, 3)
    assert (sheet == 7).all(2).sum() == 200
    assert (sheet == 9).all(2).sum() == 100 * 12


def test_encode_refuses_an_unknown_suffix() -> None:
    with pytest.raises(ValueError, match=r"'\.tiff' came"):
        encode(np.zeros((2, 2, 3), np.uint8), ".tiff")
