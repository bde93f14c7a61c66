"""Sizes for what an ONNX file leaves free: profiles, and bench on the command line."""

from __future__ import annotations

import doctest
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_net import register

import deepseek_det as dd
from deepseek_det import cli

pytest.importorskip("onnx")

from onnx import ModelProto
from onnx_files import model, node

from deepseek_det.onnx import sizes

INPUTS = {
    "image": {"x": ["n", 3, "h", "w"]},
    "unnamed": {"x": [None, 3, None, None]},
    "channels last": {"x": ["n", "h", "w", 3]},
    "all free": {"x": ["n", "c", "h", "w"]},
    "fixed": {"x": [2, 3, 8, 16]},
    "table": {"x": ["n", 4]},
    "text": {"x": ["n", "words"]},
    "vector": {"x": ["k"]},
    "two images": {"x": ["n", 3, "h", "w"], "z": ["n", 3, "h", "w"]},
    "two sizes": {"x": ["n", 3, "h", "w"], "z": ["n", 1, "a", "b"]},
    "image and scale": {"x": [None, 3, None, None], "s": [None, 2]},
    "image and tokens": {"x": ["n", 3, "h", "w"], "t": ["n", "words"]},
}


def net(kind: str) -> ModelProto:
    """Every input through a Relu of its own."""
    inputs: dict[str, list[Any]] = INPUTS[kind]
    nodes = [node("Relu", [name], [f"{name}.y"]) for name in inputs]
    return model(nodes, inputs, [f"{name}.y" for name in inputs])


def test_docstring_examples_run() -> None:
    assert doctest.testmod(sizes).failed == 0


@pytest.mark.parametrize(
    ("kind", "wanted", "found"),
    [
        ("image", {}, {"x": (1, 3, 320, 320)}),
        ("image", {"imgsz": 64, "batch": 2}, {"x": (2, 3, 64, 64)}),
        ("image", {"shapes": {"x": (1, 3, 8, 9)}}, {"x": (1, 3, 8, 9)}),
        ("image", {"shapes": {"x": (2, 3, 8, 9)}, "batch": 2}, {"x": (2, 3, 8, 9)}),
        ("unnamed", {"imgsz": 32}, {"x": (1, 3, 32, 32)}),
        ("channels last", {"imgsz": 32, "batch": 5}, {"x": (5, 32, 32, 3)}),
        ("fixed", {}, {"x": (2, 3, 8, 16)}),
        ("fixed", {"batch": 2, "imgsz": 8}, {"x": (2, 3, 8, 16)}),
        ("table", {"batch": 7}, {"x": (7, 4)}),
        ("text", {"shapes": {"x": (1, 5)}}, {"x": (1, 5)}),
        ("vector", {}, {"x": (1,)}),
        ("two images", {"shapes": {"x": (2, 3, 8, 9)}}, {"x": (2, 3, 8, 9), "z": (2, 3, 8, 9)}),
        ("two sizes", {"shapes": {"z": (2, 1, 8, 9)}, "imgsz": 4},
         {"x": (2, 3, 4, 4), "z": (2, 1, 8, 9)}),
        ("image and scale", {"imgsz": 4, "batch": 3}, {"x": (3, 3, 4, 4), "s": (3, 2)}),
        ("image and tokens", {"imgsz": 4, "shapes": {"t": (2, 6)}},
         {"x": (2, 3, 4, 4), "t": (2, 6)}),
    ],
)  # fmt: skip
def test_free_sizes_are_filled(
    kind: str, wanted: dict[str, Any], found: dict[str, tuple[int, ...]]
) -> None:
    read = dd.load_onnx(net(kind).SerializeToString())
    assert sizes.filled(read.inputs, **wanted) == found
    assert read.profile(runs=1, **wanted).images == next(iter(found.values()))[0]


@pytest.mark.parametrize(
    ("kind", "wanted", "words"),
    [
        ("all free", {}, "free dimensions need sizes: c of input 'x'.*--shapes \"x=1xcx320x320\""),
        ("text", {}, "words of input 'x'.*--shapes \"x=1xwords\""),
        ("two sizes", {}, "h, w of input 'x'; a, b of input 'z'"),
        ("image and tokens", {"imgsz": 4}, "words of input 't'"),
        ("image", {"imgsz": 0}, "imgsz is 0"),
        ("image", {"batch": 0}, "batch 0"),
        ("fixed", {"imgsz": 32}, "imgsz 32 came, input 'x' is 2×3×8×16"),
        ("fixed", {"batch": 1}, "batch 1 came, input 'x' is 2×3×8×16"),
        ("table", {"imgsz": 32}, "one input of four dimensions is needed for it, not 'x' 1×4"),
        ("image", {"shapes": {"y": (1,)}}, "shapes names 'y', the inputs are"),
        ("image", {"shapes": {"x": (1, 4, 8, 8)}}, "shapes says"),
        ("image", {"shapes": {"x": (1, 3, 8, 8)}, "imgsz": 16}, "imgsz 16 came, input 'x' is"),
    ],
)
def test_sizes_that_do_not_fit_are_named(kind: str, wanted: dict[str, Any], words: str) -> None:
    read = dd.load_onnx(net(kind).SerializeToString())
    with pytest.raises(ValueError, match=words):
        read.profile(runs=1, **wanted)


def test_profile_refuses_sizes_beside_arrays() -> None:
    read = dd.load_onnx(net("image").SerializeToString())
    x = np.zeros((1, 3, 8, 8), np.float32)
    assert read.profile(x, runs=1).images == 1
    with pytest.raises(ValueError, match="inputs have their own sizes"):
        read.profile(x, runs=1, imgsz=8)


def test_a_saved_net_has_free_sizes_without_names(tmp_path: Path) -> None:
    dd.load_onnx(net("image").SerializeToString()).save(tmp_path / "x.pt")
    read = dd.onnx.net.Net.load(tmp_path / "x.pt")
    assert sizes.filled(read.inputs, imgsz=16, batch=2) == {"x": (2, 3, 16, 16)}


@pytest.mark.parametrize(
    "texts", [["x"], ["=1x2"], ["x="], ["x=1x"], ["x=1x-2"], ["x=ax2"], ["x=1", "x=2"], [""]]
)
def test_texts_that_are_no_shape_are_refused(texts: list[str]) -> None:
    with pytest.raises(ValueError, match="bench: shapes"):
        sizes.parsed(texts)


def test_names_may_hold_a_sign() -> None:
    assert sizes.parsed(["a=b:0=1x2", "i=3×4"]) == {"a=b:0": (1, 2), "i": (3, 4)}


# ---- the command ---------------------------------------------------------------------------------


def bench(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, dict[str, Any]]:
    code = cli.main(["bench", *map(str, words), "--runs", "1", "--json", "--quiet"])
    out, err = capsys.readouterr()
    return code, err, json.loads(out.splitlines()[-1]) if out else {}


@pytest.mark.parametrize("nms", [False])
def test_bench_fills_a_detectors_dynamic_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], nms: bool
) -> None:
    det = dd.Detector(register(), classes=["a", "b"])
    path = det.export(tmp_path / "dynamic.onnx", dynamic=True, nms=nms)
    for words, batch, side in (
        ([], 1, 320),
        (["--imgsz", 64, "--batch", 3], 3, 64),
        (["--shapes", "images=2x3x96x96"], 2, 96),
    ):
        code, err, made = bench(capsys, "--model", path, *words)
        assert code == 0, err
        assert made["images"] == batch
        stem = next(s for s in made["steps"] if s["pattern"] != "move")
        assert stem["shape"][:3] == [batch, side // 2, side // 2]


def test_bench_trains_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    w = np.ones((4, 3, 3, 3), np.float32)
    file = model([node("Conv", ["x", "w"], ["y"])], {"x": ["n", 3, "h", "w"]}, ["y"], {"w": w})
    (tmp_path / "x.onnx").write_bytes(file.SerializeToString())
    code, err, made = bench(capsys, "--model", tmp_path / "x.onnx", "--imgsz", 16, "--training")
    assert (code, err, made["training"]) == (0, "", True)


@pytest.mark.parametrize(
    ("kind", "words", "said"),
    [
        ("text", [], 'words of input \'x\'; shapes says them, on the command line numbers in '
         '--shapes "x=1xwords"'),
        ("text", ["--shapes", "x=1x"], "NAME=1x3x320x320 is needed"),
        ("fixed", ["--imgsz", 32], "imgsz 32 came"),
        ("fixed", ["--batch", 1], "batch 1 came"),
    ],
)  # fmt: skip
def test_bench_names_what_is_free(
    kind: str, words: list[object], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.onnx").write_bytes(net(kind).SerializeToString())
    code, err, _ = bench(capsys, "--model", tmp_path / "x.onnx", *words)
    assert code == 2 and said in err


def test_bench_refuses_shapes_of_a_detector(capsys: pytest.CaptureFixture[str]) -> None:
    code, err, _ = bench(capsys, "--model", "dsdet-n", "--shapes", "x=1x3x64x64")
    assert code == 2 and "names inputs of an .onnx file" in err
