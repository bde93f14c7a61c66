"""The lines of docs/deploy.md run as they stand, and find what `predict` finds."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_onnx_export import noise, seeded
from tiny_net import register

import deepseek_det as dd

pytest.importorskip("onnxruntime")

PAGE = Path(__file__).resolve().parent.parent / "docs" / "deploy.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.M)
NAMES = ["cat", "dog", "bird"]


@pytest.mark.parametrize("width, height", [(96, 96), (96, 64), (40, 96)])
def test_page_finds_what_predict_finds(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    width: int,
    height: int,
) -> None:
    monkeypatch.chdir(tmp_path)
    det = seeded(register(), NAMES, 96)
    det.export("best.onnx")
    # its longer side is the net's: no pixel is resized, so both see the same
    Image.fromarray(noise(1, height, width)[0]).save("photo.png")
    page: dict[str, Any] = {}
    for block in BLOCKS:
        exec(compile(block, str(PAGE), "exec"), page)
    (want,) = det.predict("photo.png")
    assert len(want.conf) > 5
    np.testing.assert_allclose(page["boxes"], want.xyxy, atol=0.05)
    np.testing.assert_allclose(page["scores"], want.conf, atol=1e-4)
    np.testing.assert_array_equal(page["classes"], want.cls)
    lines = capsys.readouterr().out.strip().split("\n")
    assert len(lines) == len(page["boxes"]) and lines[0].split()[0] in NAMES


def test_pillows_letterbox_is_close_to_ours(tmp_path: Path) -> None:
    page: dict[str, Any] = {}
    exec(compile(BLOCKS[0], str(PAGE), "exec"), page)
    picture = noise(1, 104, 200)[0]
    ours = dd.ops.letterbox(picture, 96)
    theirs, (scale, left, top) = page["prepare"](Image.fromarray(picture), 96)
    assert (left, top) == ours.pad and scale == pytest.approx(ours.scale)
    assert np.abs(theirs[0].transpose(1, 2, 0) * 255 - ours.image).mean() < 1.5


def test_suppression_on_the_page_is_short() -> None:
    assert len(BLOCKS[1].strip().split("\n")) <= 20
