"""Training: the loop, its settings, and what a run leaves behind.

One epoch: batches → forward → criterion → backward → optimizer with the moving average → the
average's figures on the val split → checkpoints, results.csv. The recipe's numbers were measured
(docs/models.md); the schedule scales with the run's length.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import numpy.typing as npt

from deepseek_det import __version__, checkpoint, losses
from deepseek_det.data import Dataset, RepeatSampler, holdout, load, splits
from deepseek_det.data.datasets import defect_lines
from deepseek_det.data.loader import Batch, ImageCache, stream
from deepseek_det.data.sampling import largest_side, mixing_on, steps_per_epoch
from deepseek_det.data.transforms import Augment, check_imgsz
from deepseek_det.detector import Detector
from deepseek_det.errors import Error
from deepseek_det.interrupt import Interrupts
from deepseek_det.metrics import Metrics
from deepseek_det.predict import evaluate, load_for
from deepseek_det.progress import Progress
from deepseek_det.runs import as_started, claim, place, plain, read_last

Callback = Callable[[str, "Trainer"], object]
"""Called as callback(event, trainer): "start", "epoch_start", "batch_end", "epoch_end", "end"."""

# lr0 at batch 16; other batches scale it by the square root, as suits Adam's steps.
BASE_LR = {"adamw": 1e-2, "sgd": 2e-2}
SAMPLERS = {"repeat": "inverse", "repeat-sqrt": "sqrt"}
"""Modes of `RepeatSampler` by what `sampler` is called."""
WEIGHT_DECAY = {"adamw": 0.05, "sgd": 5e-4}
WARMUP_STEPS, FINAL_LR = 60, 0.01
CLIP_NORM = 10.0
# The average spans about an eighth of the run: its decay ends at 1 - 7.8 / steps (0.99 at 780).
EMA_SPAN = 7.8


@dataclass(frozen=True)
class Settings:
    """The arguments of `Detector.train` that decide the result; args.json holds them."""

    epochs: int = 60
    imgsz: int = 320
    batch: int = 16
    lr0: float | None = None
    seed: int = 0
    device: str = "cpu"
    workers: int | None = None
    freeze: int | Sequence[str] | None = None
    patience: int | None = None
    amp: bool = False
    optimizer: Literal["auto", "adamw", "sgd"] = "auto"
    cls_loss: Literal["auto", "bce", "focal", "qfl"] = "auto"
    box_loss: Literal["giou", "l2", "smooth_l1"] = "giou"
    assigner: Literal["tal", "atss", "max_iou"] = "atss"
    loss_weights: Literal["balanced", "none"] | Sequence[float] = "balanced"
    sampler: Literal["repeat", "repeat-sqrt"] | None = None
    multi_scale: float = 0.0
    close_mix: int = 10
    augment: bool = True
    strict: bool = False
    images: str | None = None

    def check(self) -> None:
        """Raises ValueError naming the first setting that is out of range."""
        check_imgsz(self.imgsz, "train")
        for name, low in (("epochs", 1), ("batch", 1), ("close_mix", 0), ("seed", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < low:
                raise ValueError(
                    f"train: {name} is {value!r}, a whole number from {low} was needed"
                )
        if self.lr0 is not None and not 0 < self.lr0 < math.inf:
            raise ValueError(f"train: lr0 is {self.lr0}, a positive number was needed")
        if self.workers is not None and not 0 <= self.workers <= 256:
            raise ValueError(f"train: workers is {self.workers}, 0 to 256 was needed")
        if not 0 <= self.multi_scale <= 0.5:
            raise ValueError(f"train: multi_scale is {self.multi_scale}, 0 to 0.5 was needed")
        if self.patience is not None and self.patience < 1:
            raise ValueError(f"train: patience is {self.patience}, 1 or more was needed")
        choices = {
            "optimizer": ("auto", "adamw", "sgd"),
            "cls_loss": ("auto", "bce", "focal", "qfl"),
            "box_loss": ("giou", "l2", "smooth_l1"),
            "assigner": ("tal", "atss", "max_iou"),
            "sampler": (None, *SAMPLERS),
            "device": ("cpu",),
            "amp": (False, True),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"train: {name} is {getattr(self, name)!r}, "
                    f"one of {', '.join(map(repr, allowed))} was needed"
                )

    @property
    def optimizer_kind(self) -> Literal["adamw", "sgd"]:
        """The optimizer, "auto" resolved."""
        return "sgd" if self.optimizer == "sgd" else "adamw"

    @property
    def peak_lr(self) -> float:
        """The highest learning rate of the run."""
        if self.lr0 is not None:
            return self.lr0
        return BASE_LR[self.optimizer_kind] * math.sqrt(self.batch / 16)


@dataclass(frozen=True, slots=True)
class EpochSeconds:
    """Where an epoch's time went: wait for batches, work on them (with callbacks), validation."""

    wait: float
    work: float
    val: float

    @property
    def wait_share(self) -> float:
        """Of the pass over the training images; below 0.05 the loader holds nothing back.

        >>> EpochSeconds(wait=1.0, work=19.0, val=5.0).wait_share
        0.05
        """
        return self.wait / max(self.wait + self.work, 1e-9)


@dataclass
class Run:
    """What a training leaves behind.

    dir: its folder; best, last: its checkpoints; history: the rows of results.csv; metrics: the
    figures of the best weights on val; seconds: where the time of this call's epochs went.
    """

    dir: Path
    history: list[dict[str, float]] = field(default_factory=list, repr=False)
    metrics: Metrics | None = field(default=None, repr=False)
    seconds: list[EpochSeconds] = field(default_factory=list, repr=False)

    @property
    def best(self) -> Path:
        """The checkpoint with the best AP on val."""
        return self.dir / "weights" / "best.pt"

    @property
    def last(self) -> Path:
        """The checkpoint of the last finished epoch; `resume=True` goes on from it."""
        return self.dir / "weights" / "last.pt"


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Linear warm-up over 60 steps (a tenth of a short run), then a cosine to 1 % of the peak.

    >>> [round(learning_rate(s, 780, 0.01), 5) for s in (0, 59, 420, 779)]
    [0.00017, 0.01, 0.00504, 0.0001]
    """
    warm = min(WARMUP_STEPS, max(1, steps // 10))
    if step < warm:
        return peak * (step + 1) / warm
    done = (step - warm) / max(1, steps - 1 - warm)
    return peak * (FINAL_LR + (1 - FINAL_LR) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0))))


def ema_rate(step: int, steps: int) -> float:
    """The share of the new weights in the moving average after `step` steps (from 1 on)."""
    limit = min(max(1 - EMA_SPAN / steps, 0.9), 0.9999)
    decay = min(limit * (1 - math.exp(-step / max(1.0, steps / 10))), (1 + step) / (10 + step))
    return 1 - decay


class Trainer:
    """One run. The pieces of its state are attributes, for callbacks to look at.

    detector (the net in training), averaged (its moving average, as of the last epoch), settings,
    run_record (what `train` returns), epoch, step, steps, lr, loss (cls, box of the last batch),
    best_ap, train_set, val_set, last_batch. A callback that sets `finished` ends the run after the
    epoch.
    """

    def __init__(
        self,
        detector: Detector,
        data: str | os.PathLike[str] | Dataset | None,
        settings: Settings,
        project: str | os.PathLike[str] = "runs",
        name: str = "train",
        exist_ok: bool = False,
        resume: bool = False,
        callbacks: Sequence[Callback] = (),
        verbose: bool = True,
    ) -> None:
        self.dir = place(project, name, "train")
        self.run_record = Run(self.dir)
        before = read_last(self.run_record.last) if resume else None
        if before is not None:
            settings, data = as_started(settings, data, before)
        if data is None:
            raise ValueError("train: data is missing, a data set was needed")
        settings.check()
        self.settings = settings
        self.user_detector = detector
        self.callbacks = tuple(callbacks)
        self.progress = Progress(verbose)
        self.train_set, self.val_set = self._load(data)
        self.data = str(data) if isinstance(data, (str, os.PathLike)) else str(data.root)
        # A net of its own: whatever ends the run early, the user's is as it was.
        fitting = detector.with_classes(self.train_set.names, self.train_set.categories)
        self.detector = fitting.copy()
        self.detector.imgsz = settings.imgsz
        self.detector.amp = settings.amp
        self.sampler = self._sampler()
        self.steps_of = self._steps_of()
        self.steps = sum(self.steps_of)
        self.epoch = self.step = 0
        self.lr = 0.0
        self.loss = (0.0, 0.0)
        self.best_ap, self.best_epoch = -math.inf, -1
        self.elapsed = 0.0
        self._waited = 0.0
        self.class_weights = self._class_weights()
        self.cache = ImageCache(largest_side(settings.imgsz, settings.multi_scale))
        self.val_cache = ImageCache(settings.imgsz)
        self.last_batch: Batch | None = None
        self._freeze()
        size = self.detector.store.size
        self.moments = (np.zeros(size, np.float32), np.zeros(size, np.float32))
        self.ema = self.detector.store.flat().copy()
        self.averaged = self.detector.copy()
        self.finished = False
        self.interrupts = Interrupts()
        if before is not None:
            self._resume(before)
        else:
            self._start(exist_ok)

    # ---- setting up -------------------------------------------------------------------------

    def _load(self, data: str | os.PathLike[str] | Dataset) -> tuple[Dataset, Dataset]:
        strict, images = self.settings.strict, self.settings.images
        train = load(data, "train", strict=strict, images=images)
        self.progress.say(train.report())
        # A file is one split, whatever its name says; a Dataset is one, too.
        if (
            isinstance(data, Dataset)
            or Path(data).suffix.lower() == ".json"
            or "val" not in splits(data, images)
        ):
            train, val = holdout(train, seed=self.settings.seed)
            self.progress.say(
                f"no val split: {len(val)} of {len(train) + len(val)} training images are held out"
            )
            return train, val
        val = load_for(train.names, data, "val", strict, images, "train")
        if val.rejected:
            self.progress.say("\n".join(["split val", *defect_lines("left out", val.rejected, 3)]))
        known = {r.path for r in train.records}
        shared = sum(r.path in known for r in val.records)
        if shared:
            self.progress.say(
                f"{shared} of {len(val)} val images are training images too: AP shows memory there"
            )
        return train, val

    def _sampler(self) -> RepeatSampler | None:
        kind = self.settings.sampler
        return RepeatSampler(self.train_set, SAMPLERS[kind]) if kind else None

    def _steps_of(self) -> list[int]:
        """Batches of each epoch; a sampler's epochs differ in length."""
        if not self.train_set.n_boxes:
            raise Error(
                f"train: the {len(self.train_set)} training images of {self.train_set.root} have "
                "no boxes, one was needed"
            )
        if not self.val_set.n_boxes:
            self.progress.say("the val images have no boxes: AP is -1, the last weights are kept")
        s = self.settings
        if self.sampler is None:
            return [steps_per_epoch(len(self.train_set), s.batch)] * s.epochs
        return [self.sampler.steps(s.batch, s.seed, epoch) for epoch in range(s.epochs)]

    def _class_weights(self) -> npt.NDArray[np.float32] | None:
        n = len(self.train_set.names)
        chosen = self.settings.loss_weights
        if isinstance(chosen, str):
            if chosen == "none":
                return None
            if chosen != "balanced":
                raise ValueError(
                    f"train: loss_weights is {chosen!r}, 'balanced', 'none' or a list was needed"
                )
            counts = np.zeros(n, np.int64)
            for record in self.train_set.records:
                counts += np.bincount(record.labels[~record.ignore], minlength=n)
            weights = np.asarray(losses.class_balanced_weights(counts), np.float32)
            # A class without boxes has only negatives to learn from: they count like any other's.
            weights[counts == 0] = 1.0
            return weights
        weights = np.asarray(chosen, np.float32)
        if weights.shape != (n,) or not (np.isfinite(weights) & (weights >= 0)).all():
            raise ValueError(f"train: loss_weights needs {n} finite numbers ≥ 0, got {chosen!r}")
        return weights

    def _freeze(self) -> None:
        freeze = self.settings.freeze
        names = list(self.detector.store.names)
        if freeze is None:
            return
        parts = list(dict.fromkeys(".".join(n.split(".")[:2]) for n in names if "." in n))
        if isinstance(freeze, int):
            if not 0 <= freeze < len(parts):
                raise ValueError(f"train: freeze is {freeze}, the net has {len(parts)} parts")
            freeze = parts[:freeze]
        for prefix in freeze:
            chosen = [n for n in names if n == prefix or n.startswith(prefix + ".")]
            if not chosen:
                raise ValueError(
                    f"train: freeze names {prefix!r}, no parameter starts so; parts: {parts}"
                )
            for n in chosen:
                self.detector.store.set_options(n, frozen=True)

    def _start(self, exist_ok: bool) -> None:
        self.dir = claim(self.dir.parent, self.dir.name, exist_ok, "train")
        self.run_record.dir = self.dir
        (self.dir / "weights").mkdir(parents=True, exist_ok=True)
        for stale in (self.run_record.best, self.dir / "rejected.json"):
            stale.unlink(missing_ok=True)
        values = {
            "model": self.detector.model_name,
            "data": self.data,
            **asdict(self.settings),
            "peak_lr": self.settings.peak_lr,
            "version": __version__,
        }
        _write_text(self.dir / "args.json", json.dumps(values, indent=2, default=str) + "\n")
        if self.train_set.rejected or self.val_set.rejected:
            # Splits may share files, and then defects.
            every = dict.fromkeys((*self.train_set.rejected, *self.val_set.rejected))
            rejected = [d.to_dict() for d in every]
            _write_text(self.dir / "rejected.json", json.dumps(rejected, indent=1) + "\n")
        _write_text(self.dir / "results.csv", ",".join(COLUMNS) + "\n")
        self._save(self.run_record.last)

    # ---- the loop ---------------------------------------------------------------------------

    def run(self) -> Run:
        """Trains to the end (or to where patience ends) and returns the run."""
        if self.finished:
            self.progress.say(
                f"{self.dir}: this run has finished its {self.settings.epochs} epochs"
            )
            return self._end()
        if self.step == 0:
            self._say_balance()
        with self.interrupts:
            self._epochs()
        return self._end()

    def _say_balance(self) -> None:
        """The table of class weights and repeats, where there are any."""
        told = self.class_weights is not None or self.sampler is not None
        if told and len(self.train_set.names) > 1:
            from deepseek_det.data.census import of_split

            ones = np.ones(len(self.train_set.names))
            weights = ones if self.class_weights is None else self.class_weights
            factors = np.ones(len(self.train_set)) if self.sampler is None else self.sampler.factors
            self.progress.say(of_split(self.train_set, weights, factors).table(24))

    def _epochs(self) -> None:
        started = time.monotonic() - self.elapsed
        self._call("start")
        while self.epoch < self.settings.epochs and not self.finished:
            self._call("epoch_start")
            self._waited = 0.0
            begun = time.monotonic()
            mean = self._train_epoch()
            trained = time.monotonic()
            metrics = self._validate()
            times = EpochSeconds(
                wait=self._waited,
                work=trained - begun - self._waited,
                val=time.monotonic() - trained,
            )
            self.run_record.seconds.append(times)
            self.epoch += 1
            self.elapsed = time.monotonic() - started
            row = {
                "epoch": self.epoch,
                "time_s": round(self.elapsed, 2),
                "loss_cls": mean[0],
                "loss_box": mean[1],
                "ap": metrics.ap,
                "ap50": metrics.ap50,
                "lr": self.lr,
            }
            self.run_record.history.append(row)
            self._keep(metrics)
            with (self.dir / "results.csv").open("a", encoding="utf-8") as table:
                _write_row(table, row)
            self.progress.epoch(row, self.settings.epochs)
            self._call("epoch_end")
            self.interrupts.check()
        self.finished = True

    def _train_epoch(self) -> tuple[float, float]:
        s = self.settings
        sums = np.zeros(2)
        batches = stream(
            self.train_set,
            s.imgsz,
            s.batch,
            Augment() if s.augment else None,
            s.seed,
            self.epoch,
            s.workers,
            mixing=mixing_on(self.epoch, s.epochs, s.close_mix),
            multi_scale=s.multi_scale,
            shuffle=True,
            sampler=self.sampler,
            cache=self.cache,
        )
        seen = 0
        title, steps = f"epoch {self.epoch + 1}/{s.epochs}", self.steps_of[self.epoch]
        with contextlib.closing(batches), self.progress.bar(steps, title) as bar:  # type: ignore[type-var]
            for batch in self._watched(batches):
                if self.step == 0:
                    self._picture(batch)
                self._train_batch(batch)
                self.interrupts.check()
                sums += self.loss
                seen += 1
                bar.update(f"cls {sums[0] / seen:.3f} box {sums[1] / seen:.3f}")
                self._call("batch_end")
        return float(sums[0] / max(seen, 1)), float(sums[1] / max(seen, 1))

    def _watched(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The batches; the time that each is waited for is added up, the end's too."""
        while True:
            begun = time.monotonic()
            batch = next(batches, None)
            self._waited += time.monotonic() - begun
            if batch is None:
                return
            yield batch
            del batch  # the consumer's alone: its memory is free when it is done with

    def _picture(self, batch: Batch) -> None:
        from deepseek_det.report import write_batch

        write_batch(self.dir / "train_batch.jpg", batch, self.detector.names)

    def _train_batch(self, batch: Batch) -> None:
        self.last_batch = batch
        out = self.detector.forward(batch.images)
        loss = self._criterion(out, batch)
        self.loss = (loss.loss_cls, loss.loss_box)
        if not (math.isfinite(loss.loss_cls) and math.isfinite(loss.loss_box)):
            raise Error(self._nonfinite(batch, "the loss is not finite"))
        assert loss.dlogits is not None and loss.ddeltas is not None
        self.detector.backward({"cls": loss.dlogits, "box": loss.ddeltas})
        self.lr = learning_rate(self.step, self.steps, self.settings.peak_lr)
        self.step += 1
        kind = self.settings.optimizer_kind
        try:
            self.detector.step(
                lr=self.lr,
                optimizer=kind,
                weight_decay=WEIGHT_DECAY[kind],
                clip_norm=CLIP_NORM,
                ema=self.ema,
                ema_rate=ema_rate(self.step, self.steps),
                moments=self.moments,
                number=self.step,
            )
        except ValueError as error:
            raise Error(self._nonfinite(batch, str(error))) from error

    def _criterion(
        self, out: dict[str, npt.NDArray[np.float32]], batch: Batch
    ) -> losses.DetectionLoss:
        s = self.settings
        anchors = self.detector.anchors_for(batch.imgsz)
        return losses.detection_loss(
            out["cls"],
            out["box"],
            anchors.boxes,
            batch.boxes,
            batch.labels,
            batch.offsets,
            batch.ignore,
            levels=anchors.levels,
            assigner=s.assigner,
            cls_loss="bce" if s.cls_loss == "auto" else s.cls_loss,
            box_loss=s.box_loss,
            class_weights=self.class_weights,
        )

    def _nonfinite(self, batch: Batch, what: str) -> str:
        layer = self.detector.first_nonfinite()
        images = ", ".join(str(self.train_set.records[i].path) for i in batch.indices[:4])
        more = f" and {len(batch.indices) - 4} more" if len(batch.indices) > 4 else ""
        where = f"first at layer {layer}" if layer else "at the loss itself"
        return (
            f"train: {what} in epoch {self.epoch + 1}, batch {batch.number + 1} ({where}); images "
            f"{images}{more}; the last good checkpoint is {self.run_record.last}. "
            "A lower lr0 may help"
        )

    def _validate(self) -> Metrics:
        self.averaged.store.flat()[:] = self.ema
        self.averaged.store.touch()
        return evaluate(
            self.averaged,
            self.val_set,
            imgsz=self.settings.imgsz,
            batch=self.settings.batch,
            workers=self.settings.workers,
            cache=self.val_cache,
        )

    # ---- checkpoints ------------------------------------------------------------------------

    def _keep(self, metrics: Metrics) -> None:
        better = metrics.ap > self.best_ap
        if better:
            self.best_ap, self.best_epoch = metrics.ap, self.epoch
        # As long as nothing is found at all, the latest weights are the best guess.
        if better or metrics.ap == self.best_ap <= 0:
            self.run_record.metrics = metrics
            self.averaged.meta = {"train": self._summary(metrics)}
            self.averaged.imgsz = self.settings.imgsz
            self.averaged.save(self.run_record.best)
        patience = self.settings.patience
        if patience is not None and self.epoch - self.best_epoch >= patience:
            self.progress.say(f"no better AP for {patience} epochs: training ends")
            self.finished = True
        self.finished = self.finished or self.epoch >= self.settings.epochs
        self._save(self.run_record.last)

    def _summary(self, metrics: Metrics) -> dict[str, Any]:
        return {"epoch": self.epoch, "ap": metrics.ap, "ap50": metrics.ap50, "data": self.data}

    def _save(self, path: Path) -> None:
        """last.pt: the averaged weights for use, and all that the run needs to go on."""
        self.averaged.store.flat()[:] = self.ema
        self.averaged.store.touch()
        training = {
            "weights": self.detector.store.flat().copy(),
            "ema": self.ema,
            "m": self.moments[0],
            "v": self.moments[1],
            "epoch": self.epoch,
            "step": self.step,
            "best_ap": self.best_ap if math.isfinite(self.best_ap) else None,
            "best_epoch": self.best_epoch,
            "elapsed": self.elapsed,
            "finished": self.finished,
            "history": self.run_record.history,
            "settings": {k: plain(v) for k, v in asdict(self.settings).items()},
            "data": str(Path(self.data).resolve()),
        }
        checkpoint.write(path, self.averaged.meta_dict(), self.averaged.state_dict(), training)

    def _resume(self, t: dict[str, Any]) -> None:
        path = self.run_record.last
        if t["weights"].shape != (self.detector.store.size,):
            raise Error(
                f"train: resume: {path} has {t['weights'].size} parameters, "
                f"{self.detector.model_name or 'the net'} has {self.detector.store.size}"
            )
        self.detector.store.flat()[:] = t["weights"]
        self.detector.store.touch()
        self.ema[:] = t["ema"]
        self.moments[0][:] = t["m"]
        self.moments[1][:] = t["v"]
        self.epoch, self.step = int(t["epoch"]), int(t["step"])
        self.detector._steps = self.step  # random operators draw by it
        self.best_ap = -math.inf if t["best_ap"] is None else float(t["best_ap"])
        self.best_epoch = int(t["best_epoch"])
        self.elapsed = float(t["elapsed"])
        self.finished = bool(t["finished"])
        self.run_record.history = list(t["history"])
        table = io.StringIO()
        table.write(",".join(COLUMNS) + "\n")
        for row in self.run_record.history:
            _write_row(table, row)
        _write_text(self.dir / "results.csv", table.getvalue())

    def _end(self) -> Run:
        best = Detector(self.run_record.best)
        self.user_detector.become(best)
        if self.run_record.metrics is None:
            self.run_record.metrics = evaluate(best, self.val_set, imgsz=self.settings.imgsz)
        self._report(best)
        self._call("end")
        return self.run_record

    def _report(self, best: Detector) -> None:
        from deepseek_det.report import write_run

        path = write_run(self, best)
        self.progress.say(
            f"best AP {self.best_ap:.3f} in epoch {self.best_epoch}: {self.run_record.best}\n"
            f"report: {path}"
        )

    def _call(self, event: str) -> None:
        for callback in self.callbacks:
            callback(event, self)


COLUMNS = ("epoch", "time_s", "loss_cls", "loss_box", "ap", "ap50", "lr")


def _write_row(table: IO[str], row: dict[str, float]) -> None:
    table.write(",".join(f"{row[c]:.6g}" for c in COLUMNS) + "\n")
    table.flush()


def _write_text(path: Path, text: str) -> None:
    checkpoint.write_bytes(path, text.encode("utf-8"))
