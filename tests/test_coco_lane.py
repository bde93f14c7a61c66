"""The reader's fast lane: whatever a list's records look like, what is read is what json reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deepseek_det import Error, _core

N = 4000


def records(seed: int) -> list[dict[str, Any]]:
    """Results of one form, of which some differ in ways that a lane may trip over."""
    rng = np.random.default_rng(seed)
    out: list[dict[str, Any]] = []
    for i in range(N):
        box = [float(v) for v in rng.random(4) * 500]
        style = rng.random()
        if style < 0.5:
            box = [round(v, int(rng.integers(0, 9))) for v in box]
        elif style < 0.6:
            box = [int(v) for v in box]
        elif style < 0.7:
            box = [v * 1e-9 for v in box]
        elif style < 0.75:
            box = [-0.0, -box[1], box[2] * 1e17, 123456789.12345678]
        record: dict[str, Any] = {"image_id": int(rng.integers(0, 10 ** int(rng.integers(1, 15))))}
        record |= {
            "category_id": int(rng.integers(1, 90)),
            "bbox": box,
            "score": float(rng.random()),
        }
        odd = rng.random() if seed else 1.0
        if odd < 0.01:
            record = dict(reversed(record.items()))
        elif odd < 0.02:
            record["note"] = '{"image_id": 1, "category_id": 2, "bbox": [1, 2, 3, 4], "score": 1}'
        elif odd < 0.03:
            record["image_id"] = -5
        elif odd < 0.04:
            record["score"] = 1
        elif odd < 0.05:
            record["extra"] = {"deep": [[[i]]], "bbox": [1]}
        out.append(record)
    return out


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "style",
    [{}, {"separators": (",", ":")}, {"indent": 1}, {"separators": (" , ", " : ")}],
)
def test_results_read_as_json_reads_them(seed: int, style: Any, threads: int) -> None:
    from deepseek_det import get_num_threads, set_num_threads

    rows = records(seed)
    before = get_num_threads()
    set_num_threads(threads)
    try:
        got = _core.coco_read(json.dumps(rows, **style).encode(), True)["annotations"]
    finally:
        set_num_threads(before)
    assert got["image_id"].tolist() == [r["image_id"] for r in rows]
    assert got["category_id"].tolist() == [r["category_id"] for r in rows]
    assert got["score"].tolist() == [float(r["score"]) for r in rows]
    assert got["box"].tobytes() == np.array([r["bbox"] for r in rows], float).tobytes()


@pytest.mark.parametrize("style", [{}, {"separators": (",", ":")}, {"indent": 2}])
def test_ground_truth_read_as_json_reads_it(tmp_path: Path, style: Any) -> None:
    rng = np.random.default_rng(5)
    rows = []
    for i, r in enumerate(records(0)):
        r.pop("score")
        r["image_id"] = int(rng.integers(0, 50))
        points = [round(float(v), int(rng.integers(0, 3))) for v in rng.random(12) * 100]
        masks: list[Any] = [
            [points, points[:6]],
            {"size": [9, 9], "counts": "U2]\\n"},
            {"size": [9, 9], "counts": [3, 78]},
            [],
        ]
        r |= {"segmentation": masks[int(rng.choice(4, p=[0.9, 0.04, 0.04, 0.02]))], "id": i + 1}
        r |= {"area": float(rng.random() * 1e4), "iscrowd": int(rng.random() < 0.1)}
        rows.append(r)
    gt = {
        "annotations": rows,
        "images": [{"id": i, "width": 9, "height": 9, "file_name": "x"} for i in range(50)],
        "categories": [{"id": k, "name": f"c{k}"} for k in range(1, 91)],
    }
    text = json.dumps(gt, **style)
    path = tmp_path / "gt.json"
    path.write_text(text)
    file = _core.coco_read(path, False, None, True)
    got = file["annotations"]
    assert not file["defects"]
    assert got["id"].tolist() == [r["id"] for r in rows]
    assert got["area"].tolist() == [r["area"] for r in rows]
    assert got["crowd"].tolist() == [bool(r["iscrowd"]) for r in rows]
    assert got["box"].tobytes() == np.array([r["bbox"] for r in rows], float).tobytes()
    for at, n, r in zip(got["segmentation_at"], got["segmentation_bytes"], rows, strict=True):
        assert json.loads(bytes(file["text"][int(at) : int(at) + int(n)])) == r["segmentation"]
    lines = text.split("\n")
    for i in (
        (0, 1, N // 2, N - 1) if style.get("indent") else ()
    ):  # the line of a record's opening brace
        line = int(got["line"][i]) - 1
        rest = "\n".join(lines[line:])
        assert f'"id": {rows[i]["id"]},' in rest[:3000]


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ('"score": 0.5}', '"score": 00.5}'),
        ('"score": 0.5}', '"score": 1.}'),
        ('"score": 0.5}', '"score": 0.5, "score": 1}'),
        ('"score": 0.5}', '"score": NaN}'),
        ('"score": 0.5}', '"score": 1e999}'),
        ('"score": 0.5}', '"score": 0.5,}'),
        ("[1, 2, 3, 4]", "[1, 2, 3, 4"),
        ("[1, 2, 3, 4]", "[1, 2, 3, 04]"),
    ],
)
def test_a_broken_record_far_down_is_refused_with_its_line(broken: str, message: str) -> None:
    record = '{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}'
    lines = [record] * N
    lines[3000] = record.replace(broken, message)
    with pytest.raises(Error, match=r"^t:300[12]: "):
        _core.coco_read(("[" + ",\n".join(lines) + "]").encode(), True, "t")


def test_a_defect_far_down_has_its_line_and_index() -> None:
    record = '{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}'
    lines = [record] * N
    lines[3000] = record.replace("[1, 2, 3, 4]", "[1, 2, 3]")
    file = _core.coco_read(("[" + ",\n".join(lines) + "]").encode(), True, "t")
    assert [d[2:4] for d in file["defects"]] == [(3000, 3001)]
    assert len(file["annotations"]["score"]) == N - 1
