"""The page of disputes in a real browser: load, decide, export, import, resolve."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import chromium
import numpy as np
import pytest
from planted import write_image

from deepseek_det.data import Dataset, Record, load
from deepseek_det.errors import Error
from deepseek_det.quality import CrossCheck, cross_check, read_decisions, resolve

NAMES = ["cat", "</script><b>dog"]
"""The second name would end the page's script, were it not escaped."""
A = [
    [("cat", (4, 4, 20, 20)), ("cat", (30, 10, 50, 40))],
    [("cat", (10, 10, 30, 30)), (NAMES[1], (40, 5, 60, 25))],
]
B = [
    [("cat", (4, 4, 20, 20)), (NAMES[1], (30, 10, 50, 40)), ("cat", (5, 28, 15, 44))],
    [("cat", (14, 10, 34, 30))],
]


def labelled(folder: Path, annotations: list[list[tuple[str, tuple[int, ...]]]]) -> Dataset:
    """A data set of 64x48 images with these labels."""
    records = []
    for i, labels in enumerate(annotations):
        path = folder / f"photo {i}.png"
        if not path.exists():
            write_image(path, seed=i)
        boxes = np.array([b for _, b in labels], np.float32).reshape(-1, 4)
        classes = np.array([NAMES.index(n) for n, _ in labels], np.int32)
        records.append(Record(path, i + 1, 64, 48, boxes, classes, np.zeros(len(boxes), bool)))
    return Dataset(folder, "train", "coco", NAMES, [1, 2], records)


@pytest.fixture
def disputes(tmp_path: Path) -> CrossCheck:
    q = cross_check(labelled(tmp_path / "images", A), labelled(tmp_path / "images", B))
    assert [d.reason for d in q.disputes] == ["class", "only-in-one", "location", "only-in-one"]
    return q


@pytest.fixture(scope="module")
def chrome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chromium.Browser]:
    program = chromium.find()
    if program is None:
        pytest.skip("no Chromium: apt-get install chromium")
    with chromium.Browser(program, tmp_path_factory.mktemp("browser")) as b:
        yield b


@pytest.fixture
def browser(chrome: chromium.Browser) -> Iterator[chromium.Browser]:
    yield chrome
    chrome.run("localStorage.clear()")
    assert chrome.errors == []


def test_page_decisions_by_keyboard_are_exported_and_resolved(
    browser: chromium.Browser, disputes: CrossCheck, tmp_path: Path
) -> None:
    browser.open(disputes.page(tmp_path / "page.html"))
    assert browser.run("document.querySelectorAll('#map button').length") == 4
    assert browser.run("$('number').textContent") == "1 of 4"
    assert "</script><b>dog" in browser.run("$('candidates').textContent")
    assert browser.run("document.querySelectorAll('#boxes .box').length") == 2
    browser.wait("document.querySelector('#view image').getBBox().width == 64")
    browser.key("b")  # b's class
    browser.key("a")  # what a says: nothing is there
    browser.key("m")  # the mean of both boxes
    browser.key("d")
    assert browser.run("$('count').textContent") == "4 of 4 decided"
    browser.key("e")
    file = browser.downloaded("decisions.json")
    decisions = read_decisions(file, disputes)
    assert decisions == {
        "1": {"action": "accept", "candidate": 1},
        "2": {"action": "drop"},
        "3": {"action": "merge"},
        "4": {"action": "drop"},
    }
    made = load(resolve(disputes, file, tmp_path / "new"), "train")
    assert [r.boxes.tolist() for r in made.records] == [
        [[4, 4, 20, 20], [30, 10, 50, 40]],
        [[12, 10, 32, 30]],
    ]
    assert [r.labels.tolist() for r in made.records] == [[0, 1], [0]]


def test_page_box_drawn_with_the_mouse_has_its_pixels(
    browser: chromium.Browser, disputes: CrossCheck, tmp_path: Path
) -> None:
    browser.open(disputes.page(tmp_path / "page.html"))
    browser.key("z")  # the whole image
    browser.key("r")
    assert not browser.run("$('hint').hidden")
    browser.key("d")  # while a box is drawn no other key decides
    assert browser.run("Object.keys(decisions).length") == 0

    def point(x: float, y: float) -> tuple[float, float]:
        left, top = browser.run(
            "(({left, top}) => [left, top])($('stage').getBoundingClientRect())"
        )
        scale, box = browser.run("[shown.scale, shown.box]")
        return left + (x - box[0]) / scale, top + (y - box[1]) / scale

    browser.drag(point(50, 36), point(32, 12))
    browser.drag(point(32, 20), point(28, 22))  # the left edge, moved
    browser.key("]")  # the next class
    browser.key("Enter")
    decision = browser.run("decisions[1]")
    assert decision["action"] == "redraw" and decision["name"] == NAMES[1]
    assert np.allclose(decision["xyxy"], [28, 12, 50, 36], atol=0.2)
    browser.key("r")
    browser.key("Escape")
    browser.key("i")
    assert browser.run("decisions[2]") == {"action": "ignore"}
    with pytest.warns(UserWarning, match="2 of 4 disputes are undecided"):
        new = resolve(disputes, browser.run("decisions"), tmp_path / "new")
    made = load(new, "train")
    assert made.records[0].ignore.tolist() == [False, False, True]


def test_page_undo_reload_and_import(
    browser: chromium.Browser, disputes: CrossCheck, tmp_path: Path
) -> None:
    page = disputes.page(tmp_path / "page.html")
    browser.open(page)
    for key in "adk":
        browser.key(key)
    assert browser.run("decisions[3]") == {"action": "accept", "candidate": [0, 1]}
    browser.key("z", control=True)
    assert browser.run("at") == 2 and browser.run("Object.keys(decisions)") == ["1", "2"]
    browser.key("ArrowLeft")
    browser.key("i")  # another decision on the second
    browser.key("u")
    assert browser.run("decisions[2]") == {"action": "drop"}
    browser.key("e")
    file = browser.downloaded("decisions.json")
    browser.open(page)  # what was decided is still there
    assert browser.run("[Object.keys(decisions).length, at]") == [2, 2]
    browser.run("localStorage.clear()")
    browser.open(page)
    assert browser.run("[Object.keys(decisions).length, at]") == [0, 0]
    browser.choose_file("#file", file)
    browser.wait("Object.keys(decisions).length == 2")
    assert browser.run("$('count').textContent") == "2 of 4 decided"
    assert browser.run("at") == 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"digest": "0" * 16}, "other disputes"),
        ({"version": 9}, "not a file of decisions"),
        ({"decisions": {"77": {"action": "drop"}}}, "no dispute 77"),
        (None, "not a json file"),
    ],
)
def test_page_import_of_a_wrong_file_changes_nothing(
    change: dict[str, object] | None,
    said: str,
    browser: chromium.Browser,
    disputes: CrossCheck,
    tmp_path: Path,
) -> None:
    browser.open(disputes.page(tmp_path / "page.html"))
    browser.key("a")
    content = json.loads(browser.run("exportText()"))
    file = tmp_path / "other.json"
    file.write_text("{" if change is None else json.dumps({**content, **change}))
    browser.choose_file("#file", file)
    browser.wait("!$('toast').hidden && $('toast').className == 'bad'")
    assert said in browser.run("$('toast').textContent").lower()
    assert browser.run("Object.keys(decisions)") == ["1"]


def test_page_links_images_relative_to_itself(
    browser: chromium.Browser, disputes: CrossCheck, tmp_path: Path
) -> None:
    page = disputes.page(tmp_path / "page.html", images="link")
    assert "images/photo%200.png" in page.read_text()
    assert "base64" not in page.read_text()
    browser.open(page)
    loaded = "(async () => { const i = new Image(); i.src = data.images[now().image].src;"
    assert browser.run(loaded + " await i.decode(); return i.naturalWidth; })()") == 64


def test_page_without_disputes_says_so(browser: chromium.Browser, tmp_path: Path) -> None:
    data = labelled(tmp_path / "images", A)
    browser.open(cross_check(data, data).page(tmp_path / "page.html"))
    assert browser.run("$('text').textContent") == "There is nothing to decide."
    for key in "abdmuz":
        browser.key(key)


# ---- without a browser --------------------------------------------------------------------------


def test_page_with_wrong_images_argument_is_refused(disputes: CrossCheck, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="images is 'copy'"):
        disputes.page(tmp_path / "page.html", images="copy")
    assert not (tmp_path / "page.html").exists()


def test_page_of_an_image_that_is_gone_is_an_error(disputes: CrossCheck, tmp_path: Path) -> None:
    (tmp_path / "images/photo 1.png").unlink()
    with pytest.raises(Error, match=r"photo 1\.png"):
        disputes.page(tmp_path / "page.html")


def test_page_embeds_a_turned_photo_upright(tmp_path: Path) -> None:
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "images").mkdir()
    Image.new("RGB", (48, 64)).save(tmp_path / "images/photo 0.png", exif=exif)
    q = cross_check(
        labelled(tmp_path / "images", [[("cat", (4, 4, 20, 20))]]),
        labelled(tmp_path / "images", [[]]),
    )
    page = q.page(tmp_path / "page.html", images="link").read_text()
    assert "data:image/jpeg;base64," in page and "photo%200" not in page
