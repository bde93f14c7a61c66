"""The C program: it finds what Python finds, to the bit; the library installs and shows what it
should.

The program is the one that CMake builds with the C tests (build/c/example_detect, or the file that
DEEPSEEK_DET_C_EXAMPLE names); the library is the installed tree that DEEPSEEK_DET_C_PREFIX names.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import deepseek_det as dd
from deepseek_det import checkpoint

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "golden"
SOURCE = ROOT / "examples" / "c"


@pytest.fixture(scope="module")
def program() -> Path:
    """The built example; skips where it is not there."""
    default = ROOT / "build" / "c" / "example_detect"
    path = Path(os.environ.get("DEEPSEEK_DET_C_EXAMPLE", default))
    if not path.is_file():
        pytest.skip("the C example is not built (make ctest, or set DEEPSEEK_DET_C_EXAMPLE)")
    return path


@pytest.fixture(scope="module")
def prefix() -> Path:
    """The installed library; skips where none is named."""
    if "DEEPSEEK_DET_C_PREFIX" not in os.environ:
        pytest.skip("no installed C library (set DEEPSEEK_DET_C_PREFIX)")
    return Path(os.environ["DEEPSEEK_DET_C_PREFIX"]).resolve()


def run(command: Sequence[str | Path], **more: str) -> subprocess.CompletedProcess[str]:
    """A finished process; `more` goes into its environment."""
    return subprocess.run(
        [str(c) for c in command], capture_output=True, text=True, env=os.environ | more
    )


def lines_of(model: Path, image: Path, program: Path) -> list[tuple[str, list[float]]]:
    """What the program prints: names, then score and box as float32."""
    done = run([program, model, image])
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    return [(name, [float(np.float32(v)) for v in values]) for name, *values in rows]


def predicted(detector: dd.Detector, pixels: np.ndarray) -> list[tuple[str, list[float]]]:
    """The same of `Detector.predict`."""
    (r,) = detector.predict(pixels)
    rows = zip(r.cls, r.conf, r.xyxy, strict=True)
    return [(r.names[k], [float(c), *map(float, box)]) for k, c, box in rows]


# ---- what it finds ------------------------------------------------------------------------------


def test_program_finds_what_python_finds_in_the_golden_picture(program):
    model, image = GOLDEN / "detector_v1.pt", GOLDEN / "detector_v1.ppm"
    found = lines_of(model, image, program)
    assert found == predicted(dd.Detector(model), np.asarray(Image.open(image)))
    # other instruction sets round otherwise, so the stored figures have four digits
    stored = [row.split("\t") for row in (GOLDEN / "detector_v1.txt").read_text().splitlines()]
    assert [name for name, _ in found] == [name for name, *_ in stored]
    for (_, values), (_, *expected) in zip(found, stored, strict=True):
        np.testing.assert_allclose(values, [float(v) for v in expected], rtol=1e-3)


def loud(classes: list[str]) -> dd.Detector:
    """An untrained dsdet-n that finds something everywhere."""
    det = dd.Detector("dsdet-n", classes=classes, seed=3)
    state = det.state_dict()
    rng = np.random.default_rng(0)
    for name, array in state.items():
        if name.startswith("head.") and name.endswith(".bias"):
            array[:] = rng.normal(-2, 1, array.shape)
        if name.startswith(("head.cls", "head.box")) and name.endswith(".weight"):
            array *= 20
    det.load_state_dict(state)
    return det


def test_program_finds_what_python_finds_in_photos(program, data_root, tmp_path):
    photos = sorted((data_root / "coco128").rglob("*.jpg"))[:6]
    photos += sorted((data_root / "BCCD").rglob("*.jpg"))[:3]
    loud(["a", "b b", "ü"]).save(tmp_path / "loud.pt")
    counts = set()
    for photo in photos:
        pixels = np.asarray(Image.open(photo).convert("RGB"))
        Image.fromarray(pixels).save(tmp_path / "x.ppm")
        for model in (tmp_path / "loud.pt", GOLDEN / "detector_v1.pt"):
            found = lines_of(model, tmp_path / "x.ppm", program)
            assert found == predicted(dd.Detector(model), pixels), photo
            counts.add(len(found))
    assert len(counts) > 3, counts


@pytest.mark.parametrize("size", [(1, 1), (200, 3), (3, 200), (64, 64), (129, 97)])
def test_program_takes_any_size(program, tmp_path, size):
    pixels = np.random.default_rng(1).integers(0, 256, (*size[::-1], 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.ppm")
    model = GOLDEN / "detector_v1.pt"
    assert lines_of(model, tmp_path / "x.ppm", program) == predicted(dd.Detector(model), pixels)


def test_program_knows_anchors_of_the_file(program, tmp_path):
    det = dd.Detector(GOLDEN / "detector_v1.pt")
    det.anchor_options = {"strides": (8, 16, 32), "ratios": [2, 1.5, 0.25], "base": 2.5}
    det.save(tmp_path / "x.pt")
    image = GOLDEN / "detector_v1.ppm"
    found = lines_of(tmp_path / "x.pt", image, program)
    assert found == predicted(det, np.asarray(Image.open(image)))
    assert found != lines_of(GOLDEN / "detector_v1.pt", image, program)


# ---- what it refuses ----------------------------------------------------------------------------

HEAD = b"P6\n# a comment\n4 2\n255\n"


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (HEAD + bytes(24), ""),
        (HEAD + bytes(23), "cut off"),
        (HEAD, "cut off"),
        (b"", "no binary PPM"),
        (b"P5\n4 2\n255\n" + bytes(24), "no binary PPM"),
        (b"P6\n4 2\n65535\n" + bytes(48), "no binary PPM"),
        (b"P6\n-4 2\n255\n" + bytes(24), "no binary PPM"),
        (b"P6\n0 2\n255\n", "no binary PPM"),
        (b"P6\n99999999999 2\n255\n", "no binary PPM"),
        (b"P6\n65536 2\n255\n", "no binary PPM"),
        (b"P6 # no end", "no binary PPM"),
    ],
)
def test_program_on_pictures_of_every_kind(program, tmp_path, image, message):
    (tmp_path / "x.ppm").write_bytes(image)
    done = run([program, GOLDEN / "detector_v1.pt", tmp_path / "x.ppm"])
    assert done.returncode == (1 if message else 0)
    assert re.fullmatch(f"error: .*{message}.*\n" if message else "", done.stderr)


def test_program_on_other_files_says_what_is_wrong(program, tmp_path):
    (tmp_path / "x.pt").write_bytes((GOLDEN / "detector_v1.pt").read_bytes()[:-100])
    for arguments, code, message in (
        ((), 2, "usage: "),
        ((tmp_path / "none.pt", tmp_path / "x.ppm"), 1, "error: .*none.pt: No such file"),
        ((tmp_path / "x.pt", tmp_path / "x.ppm"), 1, "error: .*x.pt is truncated or damaged"),
        ((GOLDEN / "torch.pt", tmp_path / "x.ppm"), 1, "error: .*not written by deepseek_det"),
        ((GOLDEN / "checkpoint_v1.pt", tmp_path / "x.ppm"), 1, "error: .*outputs 'cls' and 'box'"),
        ((GOLDEN / "detector_v1.pt", tmp_path / "none.ppm"), 1, "error: .*none.ppm"),
    ):
        done = run([program, *arguments])
        assert done.returncode == code
        assert re.match(message, done.stderr), done.stderr


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m, s: None, ""),
        (lambda m, s: m.pop("categories"), ""),
        (lambda m, s: m.pop("anchors"), ""),
        (lambda m, s: m.update(imgsz=96, model="renamed", more=[1, {"x": None}]), ""),
        (lambda m, s: m.pop("graph"), "meta has no graph"),
        (lambda m, s: m.pop("entries"), "meta has no graph"),
        (lambda m, s: m.update(graph=m["graph"][:50]), "does not hold together"),
        (lambda m, s: m.update(graph=m["graph"].replace("head.cls", "head.xyz")), "head.xyz"),
        (lambda m, s: m["entries"].pop(), "does not hold together|meta.entries"),
        (lambda m, s: m["entries"].append(m["entries"][0]), "does not hold together"),
        (lambda m, s: m["entries"][0].pop("role"), "does not hold together"),
        (lambda m, s: m["entries"][0].update(role="boss"), "'trainable'"),
        (lambda m, s: m["entries"].insert(0, 3), "does not hold together"),
        (lambda m, s: s.update(more=np.zeros(3)), "does not hold together"),
        (lambda m, s: m["names"].pop(), "does not hold together|detector"),
        (lambda m, s: m["categories"].pop(), "does not hold together"),
        (lambda m, s: m.update(imgsz="large"), "imgsz|no detector's"),
        (lambda m, s: m["anchors"].update(strides=[8, 16]), "anchors"),
        (lambda m, s: m["anchors"].update(strides=[8, 16, 0]), "strides"),
        (lambda m, s: m["anchors"].update(sides=[8]), "anchors|sides"),
    ],
)
def test_c_and_python_take_the_same_files(program, tmp_path, change, message):
    read = checkpoint.read(GOLDEN / "detector_v1.pt")
    meta, state = dict(read.meta), dict(read.state)
    meta["anchors"] = dict(meta["anchors"])
    change(meta, state)
    path, image = tmp_path / "x.pt", GOLDEN / "detector_v1.ppm"
    checkpoint.write(path, meta, state)
    pixels = np.asarray(Image.open(image))
    if not message:
        assert lines_of(path, image, program) == predicted(dd.Detector(path), pixels)
        return
    done = run([program, path, image])
    assert done.returncode == 1
    assert re.match(f"error: .*({message})", done.stderr), done.stderr
    with pytest.raises((dd.Error, TypeError, ValueError), match=message):
        predicted(dd.Detector(path), pixels)


# ---- the installed library ----------------------------------------------------------------------


def test_library_shows_only_its_own_names(prefix):
    done = run(["nm", "-D", "--defined-only", prefix / "lib" / "libdeepseek_det.so"])
    names = [line.split()[2] for line in done.stdout.splitlines()]
    assert {"dd_model_load", "dd_detector_run", "dd_message", "dd_plan_create"} <= set(names)
    assert [n for n in names if not n.startswith("dd_")] == []


def test_public_header_is_enough_for_cpp(prefix, tmp_path):
    compiler = next(filter(shutil.which, ("c++", "g++", "clang++")), None)
    if compiler is None:
        pytest.skip("no C++ compiler here")
    (tmp_path / "x.cpp").write_text(
        '#include "dd.h"\n'
        'int main() { dd_model *m = nullptr; return dd_model_load("none", &m) != DD_EIO; }\n'
    )
    flags = ["-std=c++17", "-Wall", "-Wextra", "-pedantic", "-Werror"]
    folders = [f"-I{prefix}/include/deepseek_det", f"-L{prefix}/lib", f"-Wl,-rpath,{prefix}/lib"]
    command = [compiler, *flags, tmp_path / "x.cpp", *folders, "-ldeepseek_det"]
    built = run([*command, "-o", tmp_path / "x"])
    assert built.returncode == 0, built.stderr
    assert run([tmp_path / "x"]).returncode == 0


@pytest.mark.parametrize("way", ["shared", "static", "cmake"])
def test_example_builds_against_the_installed_library(prefix, tmp_path, way):
    built = tmp_path / "detect"
    if way == "cmake":
        command = ["cmake", "-S", SOURCE, "-B", tmp_path, f"-DCMAKE_PREFIX_PATH={prefix}"]
        done = run(command)
        assert done.returncode == 0, done.stderr
        done = run(["cmake", "--build", tmp_path])
    else:
        if shutil.which("pkg-config") is None:
            pytest.skip("no pkg-config here")
        options = ["--static"] if way == "static" else []
        flags = run(
            ["pkg-config", *options, "--cflags", "--libs", "deepseek_det"],
            PKG_CONFIG_PATH=str(prefix / "lib" / "pkgconfig"),
        ).stdout.split()
        last = ["-static"] if way == "static" else [f"-Wl,-rpath,{prefix}/lib"]
        done = run(["cc", "-Wall", "-Werror", SOURCE / "detect.c", "-o", built, *flags, *last])
    assert done.returncode == 0, done.stderr
    image = GOLDEN / "detector_v1.ppm"
    pixels = np.asarray(Image.open(image))
    model = GOLDEN / "detector_v1.pt"
    assert lines_of(model, image, built) == predicted(dd.Detector(model), pixels)


def test_example_is_short():
    assert len((SOURCE / "detect.c").read_text().splitlines()) <= 100
