"""The command line: a table of calls, exit codes, the last line of an error, --json, Ctrl-C."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_net import drawn, register

import deepseek_det as dd
from deepseek_det import cli, flags
from deepseek_det.cli import VERBS, main

TRAIN = ["--model", "tiny-test-net", "--imgsz", "64", "--batch", "4", "--workers", "0"]


class Outcome:
    """What a call of the command gave."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def last(self) -> str:
        """The last line of stderr."""
        lines = self.err.strip().split("\n")
        return lines[-1]

    @property
    def json(self) -> Any:
        """The last line of stdout, read."""
        return json.loads(self.out.strip().split("\n")[-1])


class Shell:
    """Runs the command in this process, in a folder of its own."""

    def __init__(self, capsys: pytest.CaptureFixture[str], folder: Path) -> None:
        self._capsys = capsys
        self.folder = folder

    def __call__(self, *words: object) -> Outcome:
        self._capsys.readouterr()
        code = main([str(w) for w in words])
        captured = self._capsys.readouterr()
        return Outcome(code, captured.out, captured.err)


@pytest.fixture
def shell(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Shell:
    register()
    monkeypatch.chdir(tmp_path)
    return Shell(capsys, tmp_path)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the drawn set's classes."""
    data = dd.data.load(drawn(), "train")
    det = dd.Detector(register(), classes=data.names)
    det.categories = data.categories
    det.imgsz = 64
    det.load_state_dict(
        {n: a + (0.2 if n == "head.cls.bias" else 0) for n, a in det.state_dict().items()}
    )
    path = tmp_path_factory.mktemp("weights") / "w.pt"
    det.save(path)
    return path


# ---- usage -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["fly"],
        ["export"],
        ["train", "--data"],
        ["train"],
        ["train", "--data", "x", "--epoch", "3"],  # no abbreviations
        ["train", "--data", "x", "--epochs", "many"],
        ["train", "--data", "x", "--epochs", "1.5"],
        ["train", "--data", "x", "--optimizer", "lion"],
        ["train", "--data", "x", "--lr0", "fast"],
        ["train", "--data", "{data}", "--imgsz", "33"],
        ["train", "--data", "{data}", "--epochs", "0"],
        ["train", "--data", "{data}", "--model", "dsdet-xxl"],
        ["train", "--data", "{data}", "--device", "tpu", "--model", "tiny-test-net"],
        ["train", "--data", "{data}", "--loss-weights", "1,2", "--model", "tiny-test-net"],
        ["val", "--data", "{data}"],
        ["val", "--model", "{weights}"],
        ["val", "--data", "{data}", "--model", "{weights}", "--conf", "2"],
        ["predict", "--model", "{weights}"],
        ["predict", "--source", "x.jpg"],
        ["predict", "--source", "{data}/test", "--model", "{weights}", "--imgsz", "0"],
        ["check"],
        ["check", "{data}", "--data", "{data}"],
        ["check", "{data}", "--imgsz", "5"],
        ["convert", "{data}"],
        ["convert", "{data}", "--output", "o", "--format", "docx"],
        ["info", "--model", "dsdet-xxl"],
        ["info", "--model", "{weights}", "--imgsz", "31"],
        ["demo", "--n", "2"],
        ["info", "extra"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_exit_2_with_one_last_line(
    shell: Shell, weights: Path, words: list[str]
) -> None:
    done = shell(*(w.format(data=drawn(), weights=weights) for w in words))
    assert done.code == 2, done.err
    assert done.last.startswith("error: ")
    assert done.err.count("error: ") == 1
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "--data", "nowhere"], "nowhere"),
        (["train", "--data", "{data}", "--model", "no.pt"], "no.pt"),
        (["train", "--resume", "--name", "nothing"], "no checkpoint runs/nothing/weights/last.pt"),
        (["val", "--data", "{data}", "--model", "no.pt"], "no.pt"),
        (["val", "--data", "{data}", "--model", "{weights}", "--split", "x"], "train, val, test"),
        (["val", "--data", "{data}", "--model", "{text}"], "text.pt"),
        (["val", "--data", "{data}", "--model", "{other}"], "['cat']"),
        (["predict", "--source", "no.jpg", "--model", "{weights}"], "no.jpg: no such file"),
        (["predict", "--source", "*.png", "--model", "{weights}"], "*.png"),
        (["check", "nowhere"], "nowhere"),
        (["check", "--data", "nowhere", "--strict"], "nowhere"),
        (["convert", "nowhere", "--output", "o"], "nowhere"),
        (["convert", "{data}", "--output", "{data}"], "not an empty folder"),
        (["info", "--model", "{text}"], "text.pt"),
    ],
)
def test_what_is_not_there_or_does_not_fit_is_exit_1(
    shell: Shell, weights: Path, words: list[str], message: str
) -> None:
    (shell.folder / "text.pt").write_text("no checkpoint")
    dd.Detector(register(), classes=["cat"]).save(shell.folder / "other.pt")
    values = {"data": drawn(), "weights": weights, "text": "text.pt", "other": "other.pt"}
    done = shell(*(w.format(**values) for w in words))
    assert done.code == 1, done.err
    assert done.last.startswith("error: ")
    assert message in done.last
    assert "Traceback" not in done.err
    assert not list(shell.folder.glob("runs/*/*.pt"))


def test_debug_shows_where(shell: Shell) -> None:
    with pytest.raises(dd.Error):
        shell("check", "nowhere", "--debug")


@pytest.mark.parametrize("verb", VERBS)
def test_every_flag_has_a_help_text(shell: Shell, verb: str) -> None:
    done = shell(verb, "--help")
    assert done.code == 0
    for argument in flags.signature(VERBS[verb].module, VERBS[verb].function):
        if argument.name in cli._LEFT_OUT:
            continue
        assert cli.HELP[argument.name]
        assert f"--{argument.name.replace('_', '-')}" in done.out


def test_flags_are_the_arguments_of_python() -> None:
    import inspect

    for verb, function in (("train", dd.Detector.train), ("val", dd.Detector.val)):
        read = flags.signature(VERBS[verb].module, VERBS[verb].function)
        real = {n: p for n, p in inspect.signature(function).parameters.items() if n != "self"}
        assert [a.name for a in read] == list(real)
        for a in read:
            expected = real[a.name].default
            assert a.required == (expected is inspect.Parameter.empty)
            assert a.required or a.default == expected


def test_version(shell: Shell) -> None:
    done = shell("--version")
    assert (done.code, done.out.strip()) == (0, f"deepseek_det {dd.__version__}")


def test_help_is_quick() -> None:
    """The processor's time, since the clock's depends on what else runs."""

    def spent() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    times = []
    for words in ([], ["train"], ["train"]):
        before = spent()
        subprocess.run(
            [sys.executable, "-m", "deepseek_det", *words, "--help"],
            check=True,
            capture_output=True,
        )
        times.append(spent() - before)
    assert min(times) < 0.3, times


# ---- the verbs --------------------------------------------------------------------------------


def test_train_resume_val_predict(shell: Shell) -> None:
    """The life of a detector on the command line."""
    done = shell("train", "--data", drawn(), *TRAIN, "--epochs", 2, "--name", "a", "--json")
    assert done.code == 0, done.err
    assert done.json["verb"] == "train"
    assert Path(done.json["best"]).is_file() and Path(done.json["report"]).is_file()
    assert "epoch   1/2" in done.err
    assert done.out.count("\n") == 1

    again = shell("train", "--resume", "--project", "runs", "--name", "a", "--json")
    assert again.code == 0
    assert "has finished its 2 epochs" in again.err
    assert again.json["epochs"] == 2

    other = shell("train", "--resume", "--name", "a", "--epochs", 9)
    assert other.code == 1
    assert "started with epochs=2, now 9 came" in other.last

    best = done.json["best"]
    val = shell("val", "--data", drawn(), "--model", best, "--split", "test", "--json")
    assert val.code == 0, val.err
    figures = dd.Detector(best).val(drawn(), split="test").to_dict()
    assert val.json["ap"] == figures["ap"]
    folder = Path(val.json["dir"])
    assert folder == Path("runs/val")
    assert json.loads((folder / "metrics.json").read_text()) == figures
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth = COCO(str(drawn() / "annotations" / "instances_test.json"))
    if json.loads((folder / "detections.json").read_text()):
        evaluation = COCOeval(truth, truth.loadRes(str(folder / "detections.json")), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        assert figures["stats"]["AR100"] == pytest.approx(evaluation.stats[8], abs=1e-9)


def test_quiet_is_silent(shell: Shell) -> None:
    done = shell("train", "--data", drawn(), *TRAIN, "--epochs", 1, "--quiet")
    assert (done.code, done.err, done.out) == (0, "", "")
    done = shell("val", "--data", drawn(), "--model", "runs/train/weights/best.pt", "--quiet")
    assert (done.code, done.err) == (0, "")
    assert "Average Precision" in done.out


def test_train_without_a_terminal_has_a_line_an_epoch(shell: Shell) -> None:
    done = shell("train", "--data", drawn(), *TRAIN, "--epochs", 2)
    assert [line[:9] for line in done.err.split("\n") if line.startswith("epoch")] == [
        "epoch   1",
        "epoch   2",
    ]
    assert "\r" not in done.err


def test_predict_writes_pictures_and_json(shell: Shell, weights: Path) -> None:
    done = shell(
        "predict", "--source", drawn() / "test", "--model", weights, "--conf", "0.01", "--json"
    )
    assert done.code == 0, done.err
    images = done.json["images"]
    assert len(images) == len(list((drawn() / "test").iterdir()))
    folder = Path(done.json["dir"])
    assert sum(p.suffix == ".jpg" for p in folder.iterdir()) == len(images)
    rows = json.loads((folder / "detections.json").read_text())
    assert len(rows) == sum(len(i["boxes"]) for i in images) > 0
    first = Path(images[0]["path"])
    assert (rows[0]["image_id"], rows[0]["file_name"]) == (int(first.stem), first.name)
    assert rows[0]["category_id"] == images[0]["boxes"][0]["cls"] + 1
    (r,) = dd.Detector(weights).predict(images[0]["path"], conf=0.01)  # type: ignore[misc]
    assert images[0] == r.to_dict()
    assert done.json["passed_over"] == []


def test_predict_without_pictures(shell: Shell, weights: Path) -> None:
    done = shell("predict", "--source", drawn() / "test", "--model", weights, "--no-save")
    assert done.code == 0
    assert [p.name for p in Path("runs/predict").iterdir()] == ["detections.json"]
    assert "320x320: " in done.out


def test_predict_of_equal_names_keeps_all(shell: Shell, weights: Path) -> None:
    for place in ("a", "b"):
        Path(place).mkdir()
        Image.new("RGB", (40, 40)).save(f"{place}/x.png")
    done = shell("predict", "--source", "*/*.png", "--model", weights)
    assert done.code == 0
    names = {p.name for p in Path("runs/predict").iterdir()}
    assert names == {"x.jpg", "x_2.jpg", "detections.json"}


def test_predict_ends_with_1_where_an_image_was_damaged(shell: Shell, weights: Path) -> None:
    Path("in").mkdir()
    Image.new("RGB", (40, 40)).save("in/a.png")
    Path("in/b.jpg").write_bytes(b"\xff\xd8\xff nothing")
    done = shell("predict", "--source", "in", "--model", weights)
    assert done.code == 1
    assert "1 of 2 images could not be read" in done.last and "b.jpg" in done.last
    assert Path("runs/predict/a.jpg").is_file()


def test_check_of_a_clean_and_of_a_dirty_set(shell: Shell) -> None:
    clean = shell("check", drawn(), "--json")
    assert clean.code == 0, clean.err
    assert clean.json["ok"] and clean.json["format"] == "coco"
    shutil.copytree(drawn(), "dirty")
    file = Path("dirty/annotations/instances_train.json")
    content = json.loads(file.read_text())
    content["annotations"][0]["bbox"] = [5, 5, 0, 7]
    file.write_text(json.dumps(content))
    dirty = shell("check", "--data", "dirty")
    assert dirty.code == 1
    assert "1 defects came" in dirty.last and "instances_train.json" in dirty.last
    assert "box_zero_area" in dirty.out
    strict = shell("train", "--data", "dirty", *TRAIN, "--epochs", 1, "--strict")
    assert strict.code == 1 and "box_zero_area" in strict.last
    assert not Path("runs").exists()
    assert shell("convert", "dirty", "--output", "o", "--strict").code == 1
    assert not Path("o").exists()
    loose = shell("convert", "dirty", "--output", "o", "--format", "voc", "--json")
    assert loose.code == 0 and loose.json["rejected"] == 1
    assert "1 x box_zero_area" in loose.err


def test_val_lists_what_it_left_out(shell: Shell, weights: Path) -> None:
    shutil.copytree(drawn(), "dirty")
    file = Path("dirty/annotations/instances_val.json")
    content = json.loads(file.read_text())
    content["annotations"][0]["bbox"] = [5, 5, 0, 7]
    file.write_text(json.dumps(content))
    done = shell("val", "--data", "dirty", "--model", weights)
    assert done.code == 0
    assert "1 x box_zero_area" in done.err
    assert len(json.loads(Path("runs/val/rejected.json").read_text())) == 1
    assert shell("val", "--data", "dirty", "--model", weights, "--strict").code == 1


@pytest.mark.parametrize("layout", ["coco", "voc", "yolo"])
def test_convert(shell: Shell, layout: str) -> None:
    done = shell("convert", drawn(), "--output", "out", "--format", layout, "--json")
    assert done.code == 0, done.err
    assert dd.data.load("out", "train").format == layout
    assert done.json["boxes"] > 0


def test_info(shell: Shell, weights: Path) -> None:
    plain = shell("info", "--json")
    assert plain.json["models"][:3] == ["dsdet-n", "dsdet-s", "dsdet-m"]
    assert "instructions" in shell("info").out
    of_file = shell("info", "--model", weights, "--imgsz", "96", "--json")
    det = dd.Detector(weights)
    assert of_file.json["params"] == det.params
    assert of_file.json["macs"] == det.macs(96)
    assert of_file.json["names"] == det.names
    assert "parameters" in shell("info", "--model", weights).out


def test_demo(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a few images and one epoch; the figures are those of the real demo alone."""
    done = shell(
        "demo", "--n", 6, "--epochs", 1, "--imgsz", 64, "--batch", 2, "--workers", 0, "--json"
    )
    assert done.code == 0, done.err
    assert set(done.json) == {"verb", "ap", "ap50", "report", "best", "seconds"}
    page = Path(done.json["report"]).read_text()
    assert "not seen in training" in page and "data:image/jpeg;base64," in page
    assert Path("runs/demo/predictions.jpg").is_file()
    assert len(list(Path("runs/demo/predictions").iterdir())) == 1
    assert dd.Detector(done.json["best"]).names[0] == "disk"


# ---- processes --------------------------------------------------------------------------------


def test_ctrl_c_says_how_to_go_on(tmp_path: Path) -> None:
    words = ["train", "--data", str(drawn()), "--model", "dsdet-n", "--imgsz", "64", "--batch", "2"]
    process = subprocess.Popen(
        [sys.executable, "-m", "deepseek_det", *words, "--epochs", "500"],
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(dd.__file__).parent.parent)])},
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("epoch "):
            break
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    rest = process.stderr.read()
    process.stderr.close()
    assert process.wait(60) == 130
    last = rest.strip().split("\n")[-1]
    assert last.startswith("error: train: interrupted; runs/train/weights/last.pt is whole")
    assert last.endswith("deepseek-det train --resume --project runs --name train")
    assert "Traceback" not in rest
    assert dd.Detector(tmp_path / "runs" / "train" / "weights" / "last.pt").names[0] == "disk"


def test_a_reader_that_leaves_is_no_error(weights: Path, tmp_path: Path) -> None:
    root = str(Path(dd.__file__).parent.parent)
    done = subprocess.run(
        f"{sys.executable} -m deepseek_det info --model {weights} | head -1",
        shell=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": root},
    )
    assert done.stdout.startswith("layer")
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("error", "text", "code"),
    [
        (ValueError("train: x is 1"), "train: x is 1", 2),
        (TypeError("a\nb"), "a\nb", 2),
        (OSError(28, "No space left on device", "f.pt"), "val: f.pt: No space left on device", 1),
        (OSError("odd"), "val: odd", 1),
        (MemoryError(), "val: no memory", 1),
        (dd.Error("load: x"), "load: x", 1),
        (KeyError("k"), "val: KeyError: 'k'; a defect of this program: see --debug", 1),
    ],
)
def test_explain(error: Exception, text: str, code: int) -> None:
    assert cli._explain(error, "val") == (text, code)


@pytest.mark.parametrize(
    ("annotation", "text", "value"),
    [
        ("int | Sequence[str] | None", "3", 3),
        ("int | Sequence[str] | None", "stem, neck.a", ["stem", "neck.a"]),
        ("Literal['balanced', 'none'] | Sequence[float]", "none", "none"),
        ("Literal['balanced', 'none'] | Sequence[float]", "1,0.5", [1.0, 0.5]),
        ("Sequence[str] | None", "train,val", ["train", "val"]),
        ("float | None", "1e-3", 1e-3),
        ("str | os.PathLike[str] | Dataset", "a b", "a b"),
    ],
)
def test_flag_values(annotation: str, text: str, value: object) -> None:
    kind, _ = flags._kind(annotation)
    assert kind(text) == value


def test_picture_names_do_not_depend_on_case() -> None:
    from deepseek_det.commands import _picture_name
    from deepseek_det.results import Results

    none = (np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))
    taken: set[str] = set()
    made = [
        _picture_name(Results(*none, [], path, (1, 1), frame), taken)
        for path, frame in (("a/X.png", None), ("x.jpg", None), (None, None), ("v.mp4", 3))
    ]
    assert made == ["X.jpg", "x_2.jpg", "image.jpg", "v_000003.jpg"]
