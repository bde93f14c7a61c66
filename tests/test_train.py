"""Training: what a run leaves, determinism, resuming, and everything that can end it early."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_net import drawn, register, rows

import deepseek_det as dd
from deepseek_det import checkpoint
from deepseek_det.data import load
from deepseek_det.train import COLUMNS, Run, Settings, Trainer, ema_rate, learning_rate

TINY = {"epochs": 2, "imgsz": 64, "batch": 4, "workers": 0, "verbose": False}


def new(seed: int = 0) -> dd.Detector:
    return dd.Detector(register(), seed=seed)


def train(folder: Path, detector: dd.Detector | None = None, **options: Any) -> Run:
    settings: dict[str, Any] = {**TINY, "data": drawn(), "project": folder, "name": "r", **options}
    return (detector or new()).train(**settings)


def state_of(path: Path) -> dict[str, Any]:
    """The training part of a last.pt without the clock."""
    training = checkpoint.read(path).training
    assert training is not None
    history = [{k: v for k, v in row.items() if k != "time_s"} for row in training["history"]]
    return {**{k: v for k, v in training.items() if k != "elapsed"}, "history": history}


# ---- the whole -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[dd.Detector, Run, list[str]]:
    """A run of two epochs, with the events that its callback saw."""
    events: list[str] = []
    detector = new()
    run = train(
        tmp_path_factory.mktemp("runs"), detector, callbacks=[lambda event, _: events.append(event)]
    )
    return detector, run, events


def test_a_run_leaves_its_files(finished: tuple[dd.Detector, Run, list[str]]) -> None:
    _, run, _ = finished
    names = {str(p.relative_to(run.dir)) for p in run.dir.rglob("*") if p.is_file()}
    assert names == {
        "args.json",
        "report.html",
        "results.csv",
        "train_batch.jpg",
        "val_predictions.jpg",
        "weights/best.pt",
        "weights/last.pt",
    }
    args = json.loads((run.dir / "args.json").read_text())
    assert (args["epochs"], args["imgsz"], args["model"]) == (2, 64, register())
    assert args["peak_lr"] == pytest.approx(0.005)
    table = rows((run.dir / "results.csv").read_text())
    assert table[0] == ["epoch", "time_s", "loss_cls", "loss_box", "ap", "ap50", "lr"]
    assert [r[0] for r in table[1:]] == ["1", "2"]
    assert [row["epoch"] for row in run.history] == [1, 2]
    assert table[0] == list(COLUMNS)
    assert len(run.seconds) == 2
    assert all(s.wait > 0 and s.work > 0 and s.val > 0 for s in run.seconds)
    assert all(0 < s.wait_share < 1 for s in run.seconds)
    assert sum(s.wait + s.work + s.val for s in run.seconds) <= float(table[-1][1]) + 0.01


def test_the_detector_becomes_the_best_one(finished: tuple[dd.Detector, Run, list[str]]) -> None:
    detector, run, _ = finished
    best = dd.Detector(run.best)
    assert detector.names == best.names == load(drawn(), "train").names
    assert detector.categories == [1, 2, 3, 4, 5, 6]
    assert detector.imgsz == 64
    for name, array in best.state_dict().items():
        assert np.array_equal(array, detector.state_dict()[name])
    assert run.metrics is not None
    assert run.metrics.to_dict() == best.val(drawn()).to_dict()


def test_callbacks_see_the_events_in_order(finished: tuple[dd.Detector, Run, list[str]]) -> None:
    _, _, events = finished
    epoch = ["epoch_start", *["batch_end"] * (events.count("batch_end") // 2), "epoch_end"]
    assert events == ["start", *epoch, *epoch, "end"]


def test_another_run_of_that_name_gets_a_number(tmp_path: Path) -> None:
    for expected in ("r", "r2", "r3"):
        assert train(tmp_path, epochs=1).dir.name == expected
    assert train(tmp_path, epochs=1, exist_ok=True).dir.name == "r"


def test_training_learns() -> None:
    """The loss of a net that sees the same images again and again goes down."""
    data = load(drawn(), "train").subset(range(4))
    losses: list[float] = []
    settings = Settings(epochs=30, imgsz=64, batch=4, workers=0, augment=False, lr0=0.01)
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            new(),
            data,
            settings,
            project=folder,
            callbacks=[
                lambda event, t: losses.append(sum(t.loss)) if event == "batch_end" else None
            ],
            verbose=False,
        )
        trainer._validate = lambda: _no_figures(trainer)  # type: ignore[method-assign]
        trainer.run()
    assert losses[-1] < 0.6 * losses[0]


def _no_figures(trainer: Trainer) -> Any:
    from deepseek_det.predict import figures

    none = (np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))
    return figures(trainer.val_set, [none] * len(trainer.val_set))


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": "sgd"},
        {"cls_loss": "focal"},
        {"cls_loss": "qfl", "box_loss": "smooth_l1"},
        {"box_loss": "l2", "assigner": "max_iou"},
        {"assigner": "atss", "loss_weights": "none"},
        {"loss_weights": [1, 2, 1, 0.5, 1, 0], "sampler": "repeat"},
        {"sampler": "repeat-sqrt"},
        {"multi_scale": 0.5, "batch": 3},
        {"augment": False, "close_mix": 0, "lr0": 1e-4},
        {"batch": 50},
        {"workers": 3, "seed": 2**31},
        {"freeze": 1},
        {"freeze": ["stem", "down.0"]},
    ],
    ids=str,
)
def test_every_setting_trains(tmp_path: Path, options: dict[str, Any]) -> None:
    run = train(tmp_path, **{"epochs": 1, **options})
    assert np.isfinite([run.history[0]["loss_cls"], run.history[0]["loss_box"]]).all()
    assert checkpoint.read(run.best).state.keys() == checkpoint.read(run.last).state.keys()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"imgsz": 33}, "train: imgsz is 33, a multiple of 32 was needed; the next is 64"),
        ({"imgsz": 0}, "imgsz is 0.*next is 32"),
        ({"imgsz": 100_000}, "imgsz is 100000, at most 8192"),
        ({"epochs": 0}, "epochs is 0"),
        ({"epochs": True}, "epochs is True"),
        ({"batch": -1}, "batch is -1"),
        ({"batch": 2.0}, "batch is 2.0"),
        ({"lr0": 0.0}, "lr0 is 0.0"),
        ({"lr0": float("nan")}, "lr0 is nan"),
        ({"patience": 0}, "patience is 0"),
        ({"workers": -1}, "workers is -1"),
        ({"multi_scale": 0.9}, "multi_scale is 0.9"),
        ({"device": "tpu"}, "device is 'tpu', one of 'cpu' was needed"),
        ({"amp": "yes"}, "amp is 'yes'"),
        ({"optimizer": "lion"}, "optimizer is 'lion', one of 'auto', 'adamw', 'sgd'"),
        ({"cls_loss": "hinge"}, "cls_loss is 'hinge'"),
        ({"sampler": "x"}, "sampler is 'x'"),
        ({"loss_weights": "heavy"}, "loss_weights is 'heavy'"),
        ({"loss_weights": [1.0]}, "loss_weights needs 6 finite numbers"),
        ({"loss_weights": [1, 1, 1, 1, 1, -1]}, "loss_weights needs 6"),
        ({"freeze": 99}, "freeze is 99, the net has"),
        ({"freeze": ["nose"]}, "freeze names 'nose'"),
        ({"data": None}, "data is missing"),
        ({"name": ""}, "name ''"),
    ],
    ids=str,
)
def test_a_wrong_setting_is_named_before_anything_is_written(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        train(tmp_path, **options)
    assert not list(tmp_path.iterdir())


def test_the_users_net_stays_as_it_was_when_a_run_fails(tmp_path: Path) -> None:
    detector = dd.Detector(register(), classes=load(drawn(), "train").names)
    before = detector.state_dict()

    def stop(event: str, trainer: Trainer) -> None:
        if event == "batch_end" and trainer.step == 2:
            raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        train(tmp_path, detector, callbacks=[stop], freeze=["stem"])
    assert not any(e["frozen"] for e in detector.store.entries())
    for name, array in detector.state_dict().items():
        assert np.array_equal(array, before[name]), name


def test_frozen_parts_do_not_move(tmp_path: Path) -> None:
    detector = dd.Detector(register(), classes=load(drawn(), "train").names)
    before = detector.state_dict()
    run = train(tmp_path, detector, freeze=["stem"])
    after = checkpoint.read(run.last).state
    moved = {name for name in before if not np.array_equal(before[name], after[name])}
    assert moved
    assert not any(name.startswith("stem.") for name in moved)
    assert {n for n in before if not n.startswith("stem.")} - moved <= {
        n for n in before if "scale" in n
    }


def test_frozen_norms_run_planned_as_interpreted() -> None:
    """A frozen norm below all that trains has no backward, so nothing keeps what it saves."""
    x = np.random.default_rng(0).integers(0, 255, (2, 64, 64, 3), np.uint8)
    gradients = {}
    for executor in ("plan", "interpret"):
        detector = dd.Detector(register(), classes=["a", "b"])
        detector.executor = executor  # type: ignore[assignment]
        for name in detector.store.names:
            if name.startswith(("stem.", "down.0.")):
                detector.store.set_options(name, frozen=True)
        out = detector.forward(x)
        detector.backward({k: np.ones_like(v) for k, v in out.items()})
        gradients[executor] = detector.gradient.copy()
    scale = np.abs(gradients["interpret"]).max()
    assert scale > 0
    assert np.abs(gradients["plan"] - gradients["interpret"]).max() <= 1e-4 * scale


def test_patience_ends_a_run(tmp_path: Path) -> None:
    run = train(tmp_path, epochs=9, patience=1, lr0=1e-12)
    assert len(run.history) < 9
    assert state_of(run.last)["finished"]


def test_new_classes_keep_what_fits(tmp_path: Path) -> None:
    detector = dd.Detector(register(), classes=["cat", "dog"], seed=5)
    before = detector.state_dict()
    train(tmp_path, detector, epochs=1, lr0=1e-9)
    assert detector.names[0] == "disk"
    name = "stem.0.conv.weight"
    assert np.allclose(detector.state_dict()[name], before[name], atol=1e-6)


# ---- data ------------------------------------------------------------------------------------


def test_without_a_val_split_a_tenth_is_held_out_aloud(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = drawn() / "annotations" / "instances_train.json"
    seen: list[Trainer] = []
    train(tmp_path, data=file, epochs=1, verbose=True, callbacks=[lambda _, t: seen.append(t)])
    assert "no val split: 1 of 9 training images are held out" in capsys.readouterr().err
    ids = {r.id for r in seen[0].val_set.records}
    assert len(ids) == 1
    assert not ids & {r.id for r in seen[0].train_set.records}


def test_a_val_split_of_training_images_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "labels").mkdir()
    (tmp_path / "images").mkdir()
    for i in range(2):
        Image.new("RGB", (32, 32)).save(tmp_path / "images" / f"{i}.png")
        (tmp_path / "labels" / f"{i}.txt").write_text("0 0.5 0.5 0.5 0.5\n7 0.5 0.5 0.5 0.5\n")
    (tmp_path / "data.yaml").write_text("train: images\nval: images\nnames: [a, never]\n")
    run = train(tmp_path / "runs", data=tmp_path, epochs=1, verbose=True)
    assert "2 of 2 val images are training images too" in capsys.readouterr().err
    assert len(json.loads((run.dir / "rejected.json").read_text())) == 2


@pytest.mark.parametrize("names", ["[a, b]", "[a]"])
def test_images_without_boxes_are_no_training_set(tmp_path: Path, names: str) -> None:
    for i in range(3):
        for place in ("images", "labels"):
            (tmp_path / place).mkdir(exist_ok=True)
        Image.new("RGB", (32, 32)).save(tmp_path / "images" / f"{i}.png")
        (tmp_path / "labels" / f"{i}.txt").touch()
    (tmp_path / "data.yaml").write_text(f"train: images\nnames: {names}\n")
    with pytest.raises(dd.Error, match="have no boxes"):
        train(tmp_path / "runs", data=tmp_path)
    assert not (tmp_path / "runs").exists()


def test_val_images_without_boxes_keep_the_last_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split in ("train", "val"):
        (tmp_path / split / "images").mkdir(parents=True)
        (tmp_path / split / "labels").mkdir()
        for i in range(2):
            Image.new("RGB", (32, 32), (i, 0, 99)).save(tmp_path / split / "images" / f"{i}.png")
            row = "0 0.5 0.5 0.5 0.5\n" if split == "train" else ""
            (tmp_path / split / "labels" / f"{i}.txt").write_text(row)
    (tmp_path / "data.yaml").write_text("train: train/images\nval: val/images\nnames: [a, never]\n")
    run = train(tmp_path / "runs", data=tmp_path, verbose=True)
    assert "the val images have no boxes" in capsys.readouterr().err
    last = checkpoint.read(run.last).state
    for name, array in checkpoint.read(run.best).state.items():
        assert np.array_equal(array, last[name])


def test_a_callback_can_end_a_run(tmp_path: Path) -> None:
    def enough(event: str, trainer: Trainer) -> None:
        if event == "epoch_end" and trainer.epoch == 2:
            trainer.finished = True

    assert len(train(tmp_path, epochs=9, callbacks=[enough]).history) == 2


def test_a_data_set_object_trains(tmp_path: Path) -> None:
    run = train(tmp_path, data=load(drawn(), "train"), epochs=1)
    assert run.best.is_file()


def test_one_image_is_enough(tmp_path: Path) -> None:
    run = train(tmp_path, data=load(drawn(), "train").subset([0]), epochs=1)
    assert run.best.is_file()


def test_dirty_labels_are_listed_beside_the_run_or_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    data = tmp_path / "data"
    shutil.copytree(drawn(), data)
    file = data / "annotations" / "instances_train.json"
    content = json.loads(file.read_text())
    content["annotations"][0]["bbox"] = [5, 5, 0, 7]
    file.write_text(json.dumps(content))
    run = train(tmp_path / "runs", data=data, epochs=1, verbose=True)
    rejected = json.loads((run.dir / "rejected.json").read_text())
    assert [r["code"] for r in rejected] == ["box_zero_area"]
    assert "1 x box_zero_area" in capsys.readouterr().err
    with pytest.raises(dd.Error, match="1 box_zero_area"):
        train(tmp_path / "strict", data=data, strict=True)
    assert not (tmp_path / "strict").exists()


# ---- determinism and resuming ----------------------------------------------------------------


def test_same_seed_same_bits_for_any_threads_and_workers(tmp_path: Path) -> None:
    before = dd.get_num_threads()
    try:
        for threads in (1, 2, 3):
            dd.set_num_threads(threads)
            train(tmp_path, name=f"t{threads}", workers=threads - 1)
    finally:
        dd.set_num_threads(before)
    for threads in (2, 3):
        a, b = (checkpoint.read(tmp_path / f"t{t}" / "weights" / "last.pt") for t in (1, threads))
        assert a.training is not None and b.training is not None
        for name in ("weights", "ema", "m", "v"):
            assert np.array_equal(a.training[name], b.training[name])
    train(tmp_path, name="other", seed=1)
    other = checkpoint.read(tmp_path / "other" / "weights" / "last.pt").training
    assert other is not None
    assert not np.array_equal(a.training["weights"], other["weights"])


@pytest.mark.parametrize("at", [("batch_end", 1), ("batch_end", 5), ("epoch_end", 6), ("end", 9)])
def test_a_resumed_run_ends_as_one_never_stopped(tmp_path: Path, at: tuple[str, int]) -> None:
    options: dict[str, Any] = {
        "epochs": 3,
        "multi_scale": 0.5,
        "sampler": "repeat",
        "workers": 2,
        "loss_weights": [1, 2, 1, 0.5, 1, 1],
    }
    whole = train(tmp_path, name="whole", **options)

    def stop(event: str, trainer: Trainer) -> None:
        if event == at[0] and trainer.step >= at[1]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, name="stopped", callbacks=[stop], **options)
    # Another detector object, and nothing but the name of the run.
    again = new(seed=9).train(
        resume=True, project=tmp_path, name="stopped", verbose=False, workers=0
    )
    assert [r["epoch"] for r in again.history] == [1, 2, 3]
    a, b = state_of(whole.last), state_of(again.last)
    a["settings"]["workers"] = b["settings"]["workers"] = None
    for name in ("weights", "ema", "m", "v"):
        assert np.array_equal(a[name], b[name]), name
    assert a["history"] == b["history"]
    assert a["settings"] == b["settings"]
    for one, two in ((whole.best, again.best), (whole.last, again.last)):
        one_state, two_state = checkpoint.read(one).state, checkpoint.read(two).state
        assert all(np.array_equal(one_state[n], two_state[n]) for n in one_state)
    first = rows((whole.dir / "results.csv").read_text())
    second = rows((again.dir / "results.csv").read_text())
    assert [[r[0], *r[2:]] for r in first] == [[r[0], *r[2:]] for r in second]


def test_mixed_precision_trains_and_resumes_like_float32(tmp_path: Path) -> None:
    options: dict[str, Any] = {"epochs": 4, "workers": 0}
    exact = train(tmp_path, name="exact", **options)
    whole = train(tmp_path, name="whole", amp=True, **options)
    for a, b in zip(exact.history, whole.history, strict=True):
        assert b["loss_cls"] == pytest.approx(a["loss_cls"], rel=0.05)
        assert b["loss_box"] == pytest.approx(a["loss_box"], rel=0.1)
    assert not np.array_equal(state_of(exact.last)["weights"], state_of(whole.last)["weights"])

    def stop(event: str, trainer: Trainer) -> None:
        if event == "epoch_end" and trainer.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, name="stopped", amp=True, callbacks=[stop], **options)
    again = new().train(resume=True, project=tmp_path, name="stopped", verbose=False)
    a, b = state_of(whole.last), state_of(again.last)
    for name in ("weights", "ema", "m", "v"):
        assert a[name].dtype == np.float32
        assert np.array_equal(a[name], b[name]), name


def test_resume_says_what_does_not_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(dd.Error, match="no checkpoint"):
        train(tmp_path, resume=True)
    run = train(tmp_path)
    with pytest.raises(dd.Error, match="started with batch=4, now 8 came"):
        train(tmp_path, resume=True, batch=8)
    with pytest.raises(dd.Error, match="parameters"):
        dd.Detector("dsdet-n").train(resume=True, project=tmp_path, name="r", verbose=False)
    best = run.best.read_bytes()
    again = train(tmp_path, resume=True, verbose=True)
    assert "has finished its 2 epochs" in capsys.readouterr().err
    assert len(again.history) == 2
    assert again.best.read_bytes() == best
    run.last.write_bytes(best)
    with pytest.raises(dd.Error, match="no training state"):
        train(tmp_path, resume=True)
    run.last.write_bytes(best[:-50])
    with pytest.raises(dd.Error, match=r"last\.pt"):
        train(tmp_path, resume=True)


# ---- what ends a run early --------------------------------------------------------------------


def test_a_loss_that_is_not_finite_names_layer_and_images(tmp_path: Path) -> None:
    kept: list[bytes] = []

    def poison(event: str, trainer: Trainer) -> None:
        if event == "epoch_start" and trainer.epoch == 1:
            kept.append(trainer.run_record.last.read_bytes())
            trainer.detector.store.set(
                "down.0.conv.weight", np.full((16, 16, 3, 3), np.nan, np.float32)
            )

    with pytest.raises(dd.Error, match="not finite in epoch 2, batch 1") as told:
        train(tmp_path, callbacks=[poison])
    text = str(told.value)
    assert "down.0" in text
    assert ".jpg" in text and "last.pt" in text
    assert (tmp_path / "r" / "weights" / "last.pt").read_bytes() == kept[0]
    assert dd.Detector(tmp_path / "r" / "weights" / "best.pt").names[0] == "disk"


def test_a_rate_far_too_high_is_told(tmp_path: Path) -> None:
    with contextlib.suppress(dd.Error):  # it may survive on batch norm alone
        train(tmp_path, lr0=1e30, epochs=1, optimizer="sgd")
        return
    assert checkpoint.read(tmp_path / "r" / "weights" / "last.pt").training is not None


SCRIPT = textwrap.dedent("""
    import sys
    sys.path.insert(0, {tests!r})
    import deepseek_det as dd
    from tiny_net import register
    def tell(event, trainer):
        print(event, trainer.epoch, trainer.step, flush=True)
    det = dd.Detector(register())
    try:
        det.train({data!r}, epochs={epochs}, imgsz={imgsz}, batch=4, project={project!r}, name="r",
                  verbose=False, callbacks=[tell], resume={resume})
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        sys.exit(130)
""")


@contextlib.contextmanager
def running(
    project: Path, imgsz: int = 64, resume: bool = False, epochs: int = 400
) -> Iterator[subprocess.Popen[str]]:
    """A process that trains and prints its events."""
    code = SCRIPT.format(
        tests=str(Path(__file__).parent),
        data=str(drawn()),
        project=str(project),
        imgsz=imgsz,
        resume=resume,
        epochs=epochs,
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_for(process: subprocess.Popen[str], event: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(event):
            return
    pytest.fail(f"the process ended before {event}: {process.stderr and process.stderr.read()}")


def test_ctrl_c_leaves_a_usable_checkpoint_soon(tmp_path: Path) -> None:
    # Batches that take long: the signal has to be seen within one.
    with running(tmp_path, imgsz=640) as process:
        wait_for(process, "batch_end")
        time.sleep(0.05)
        at = time.monotonic()
        process.send_signal(signal.SIGINT)
        wait_for(process, "interrupted")
        took = time.monotonic() - at
        assert process.wait(30) == 130
    # 0.2 s on a machine that has nothing else to do.
    share = os.getloadavg()[0] / (os.cpu_count() or 1)
    assert took < 0.2 * max(1.0, 4 * share), f"{took:.2f} s"
    assert checkpoint.read(tmp_path / "r" / "weights" / "last.pt").training is not None


def test_a_ctrl_c_that_python_throws_away_still_ends_the_run(tmp_path: Path) -> None:
    class Careless:
        """Its finalizer is interrupted; Python prints that and goes on."""

        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            for _ in range(10_000):
                pass

    def drop(event: str, trainer: Trainer) -> None:
        if event == "batch_end" and trainer.step == 2:
            Careless()

    ignored: list[Any] = []
    usual, sys.unraisablehook = sys.unraisablehook, ignored.append
    try:
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path, epochs=50, callbacks=[drop])
    finally:
        sys.unraisablehook = usual
    assert ignored
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert state_of(tmp_path / "r" / "weights" / "last.pt")["epoch"] < 3


def test_a_run_killed_at_random_moments_ends_as_one_never_killed(tmp_path: Path) -> None:
    """bench/soak_resume.py does this for hours."""
    rng = np.random.default_rng()
    last = tmp_path / "r" / "weights" / "last.pt"
    epoch, kills, epochs = 0, 0, 40
    while kills < 3:
        with running(tmp_path, resume=kills > 0, epochs=epochs) as process:
            # By events, not by the clock: however fast the machine is, the run is not over yet.
            for _ in range(int(rng.integers(1, 4))):
                wait_for(process, "epoch_end" if kills == 0 else "batch_end")
            time.sleep(float(rng.uniform(0, 0.02)))
            process.kill()
            process.wait()
        kills += 1
        training = checkpoint.read(last).training
        assert training is not None
        assert training["epoch"] >= epoch
        epoch = training["epoch"]
        assert dd.Detector(last.with_name("best.pt")).names
    train(tmp_path, resume=True, epochs=epochs)
    whole = train(tmp_path, name="whole", epochs=epochs, workers=None)
    a, b = state_of(whole.last), state_of(last)
    for name in ("weights", "ema", "m", "v"):
        assert np.array_equal(a[name], b[name]), name
    assert a["history"] == b["history"]
    assert {p.name for p in last.parent.iterdir()} == {"best.pt", "last.pt"}


def test_a_full_disk_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    def stop(event: str, trainer: Trainer) -> None:
        if event == "epoch_end":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, callbacks=[stop])
    weights = tmp_path / "r" / "weights"
    before = {p.name: p.read_bytes() for p in weights.iterdir()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(OSError, match=r"\.pt"):
            train(tmp_path, resume=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {p.name: p.read_bytes() for p in weights.iterdir()} == before
    assert len(train(tmp_path, resume=True).history) == 2


def test_an_output_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises((OSError, dd.Error), match="file"):
        train(tmp_path / "file")
    with pytest.raises(dd.Error, match="is a file, a folder was needed"):
        train(tmp_path, name="file")
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    if os.geteuid() == 0:
        return  # the mode binds everybody but root
    with pytest.raises(OSError, match="closed"):
        train(closed)


# ---- the schedule -----------------------------------------------------------------------------


def test_learning_rate_warms_up_and_falls() -> None:
    for steps in (1, 2, 9, 30, 780, 5000):
        rates = [learning_rate(s, steps, 1.0) for s in range(steps)]
        assert all(0 < r <= 1 for r in rates)
        assert max(rates) == 1.0
        peak = rates.index(1.0)
        assert peak <= max(60, steps // 10)
        assert rates[: peak + 1] == sorted(rates[: peak + 1])
        assert rates[peak:] == sorted(rates[peak:], reverse=True)
        if steps >= 30:
            assert rates[-1] == pytest.approx(0.01)


def test_the_average_forgets_its_start() -> None:
    for steps in (5, 100, 780, 20_000):
        shares = [ema_rate(s, steps) for s in range(1, steps + 1)]
        assert all(0 < r <= 1 for r in shares)
        assert np.prod([1 - r for r in shares]) < 0.3


# ---- nothing grows -----------------------------------------------------------------------------


def _resident_kb() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1])
    raise AssertionError


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")
def test_a_hundred_epochs_grow_nothing(tmp_path: Path) -> None:
    seen: dict[int, tuple[int, int, int]] = {}

    def look(event: str, trainer: Trainer) -> None:
        if event == "epoch_end":
            fds = len(list(Path("/proc/self/fd").iterdir()))
            seen[trainer.epoch] = (_resident_kb(), fds, threading.active_count())

    data = load(drawn(), "train").subset(range(3))
    train(tmp_path, data=data, epochs=100, imgsz=32, batch=2, workers=2, callbacks=[look])
    early, late = seen[20], seen[100]
    assert late[1:] == early[1:]
    assert late[0] - early[0] < 4_000, f"{late[0] - early[0]} kB more after 80 epochs"


def test_callbacks_may_be_any_callable(tmp_path: Path) -> None:
    calls: list[Callable[..., object]] = []

    class Counter:
        def __call__(self, event: str, trainer: Trainer) -> None:
            assert isinstance(trainer, Trainer)
            calls.append(self.__call__)

    train(tmp_path, epochs=1, callbacks=[Counter(), lambda *_: None])
    assert calls
