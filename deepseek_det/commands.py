"""What the verbs of the command line do.

Each returns what --json prints, and the text of an error that was found on the way ("" for none).
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from deepseek_det.checkpoint import write_bytes
from deepseek_det.detector import Detector
from deepseek_det.errors import Error
from deepseek_det.progress import Progress
from deepseek_det.runs import claim, place

if TYPE_CHECKING:
    from deepseek_det.data.records import Defect
    from deepseek_det.profile import Profile
    from deepseek_det.results import Results
    from deepseek_det.train import Run, Trainer

Made = tuple[dict[str, Any], str]

running: Run | None = None
"""The run that a training has started, for the message after Ctrl-C."""


@dataclass(frozen=True, slots=True)
class Call:
    """The flags of a call by Python name."""

    values: dict[str, Any]

    def __getattr__(self, name: str) -> Any:
        return self.values[name]

    def only(self, *names: str) -> dict[str, Any]:
        """Some of the flags as keyword arguments."""
        return {name: self.values[name] for name in names}

    @property
    def progress(self) -> Progress:
        """Where messages go, unless --quiet."""
        return Progress(not self.values["quiet"])

    def tell(self, text: str) -> None:
        """A result for people; --json has its own line instead."""
        if not self.values["json"]:
            print(text, flush=True)


def _write_json(path: Path, content: Any) -> None:
    write_bytes(path, (json.dumps(content, ensure_ascii=False) + "\n").encode("utf-8"))


def _reject(call: Call, folder: Path | None, rejected: Sequence[Defect]) -> None:
    """Says aloud what was left out of a data set, and keeps the list beside the run."""
    from deepseek_det.data.datasets import defect_lines

    if rejected:
        call.progress.say("\n".join(defect_lines("left out", rejected, 3)))
        if folder is not None:
            _write_json(folder / "rejected.json", [d.to_dict() for d in rejected])


# ---- train ----------------------------------------------------------------------------------


def train(call: Call) -> Made:
    """Trains, or goes on with a run."""
    from deepseek_det.flags import signature

    names = [a.name for a in signature("detector", "Detector.train")]
    arguments = call.only(*(n for n in names if n not in ("callbacks", "verbose")))
    model = call.model
    if call.resume:
        last = place(call.project, call.name, "train") / "weights" / "last.pt"
        if not last.is_file():
            raise Error(f"train: resume: there is no checkpoint {last}")
        model = last
    detector = Detector(model, seed=call.seed)
    run = detector.train(**arguments, callbacks=[_remember], verbose=not call.quiet)
    metrics = run.metrics
    made = {
        "dir": str(run.dir),
        "best": str(run.best),
        "last": str(run.last),
        "report": str(run.dir / "report.html"),
        "epochs": len(run.history),
        "ap": metrics.ap if metrics else None,
        "ap50": metrics.ap50 if metrics else None,
    }
    return made, ""


def _remember(event: str, trainer: Trainer) -> None:
    global running
    running = trainer.run_record


# ---- val ------------------------------------------------------------------------------------


def val(call: Call) -> Made:
    """Evaluates a checkpoint; leaves report.html, metrics.json and detections.json."""
    from deepseek_det.predict import detect_dataset, figures, load_for
    from deepseek_det.report import Part, pictures_of, write_report

    detector = Detector(call.model)
    dataset = load_for(detector.names, call.data, call.split, call.strict, call.images)
    options = call.only("conf", "iou", "max_det", "imgsz", "batch", "workers")
    detections = detect_dataset(detector, dataset, **options, progress=call.progress)
    metrics = figures(dataset, detections)
    folder = claim(call.project, call.name, call.exist_ok, "val")
    _reject(call, folder, dataset.rejected)
    _write_json(folder / "metrics.json", metrics.to_dict())
    rows = [
        {"image_id": r.id, "category_id": detector.categories[k], "bbox": box, "score": s}
        for r, found in zip(dataset.records, detections, strict=True)
        for box, s, k in _rows(*found)
    ]
    _write_json(folder / "detections.json", rows)
    pictures = pictures_of(detector, dataset, detections, metrics)
    part = Part(f"Split {dataset.split}, {len(dataset)} images", metrics, pictures)
    title = f"{Path(call.model).name} on {dataset.root.name}, {dataset.split}"
    report = write_report(folder, [part], detector, title)
    call.tell(f"{metrics.summarize()}\n\n{metrics.table()}")
    call.progress.say(f"report: {report}")
    return {"dir": str(folder), "report": str(report), **metrics.to_dict()}, ""


def _rows(xyxy: Any, conf: Any, cls: Any) -> list[tuple[list[float], float, int]]:
    """Boxes as x, y, w, h with their scores and classes."""
    boxes = xyxy.astype(float)
    boxes[:, 2:] -= boxes[:, :2]
    return list(zip(boxes.tolist(), conf.tolist(), cls.tolist(), strict=True))


# ---- predict --------------------------------------------------------------------------------


def predict(call: Call) -> Made:
    """Finds objects; writes the pictures and, in COCO's results format, detections.json."""
    detector = Detector(call.model)
    options = call.only("conf", "iou", "max_det", "imgsz")
    results = detector.predict(call.source, **options, stream=True)
    folder = claim(call.project, call.name, call.exist_ok, "predict")
    passed_over: list[str] = []
    found: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    taken: set[str] = set()
    with warnings.catch_warnings():
        usual = warnings.showwarning

        def show(message: Warning | str, *rest: Any, **more: Any) -> None:
            if str(message).startswith("predict: passed over: "):
                passed_over.append(str(message).removeprefix("predict: passed over: "))
            usual(message, *rest, **more)

        warnings.simplefilter("always")
        warnings.showwarning = show
        for r in results:
            found.append(r.to_dict())
            name = Path(r.path or "image").name
            rows += [{**row, "file_name": name} for row in r.to_coco(_image_id(r))]
            if call.save:
                r.save(folder / _picture_name(r, taken))
            call.tell(str(r))
    _write_json(folder / "detections.json", rows)
    call.progress.say(f"{len(found)} images: {folder}")
    problem = ""
    if passed_over:
        total = len(found) + len(passed_over)
        problem = (
            f"predict: {len(passed_over)} of {total} images could not be read, the first is "
            f"{passed_over[0]}; the others are in {folder}"
        )
    return {"dir": str(folder), "images": found, "passed_over": passed_over}, problem


def _image_id(r: Results) -> int | str:
    """What stands for an image in COCO's results: its number, where its name is one."""
    if r.frame is not None:
        return r.frame
    stem = Path(r.path or "image").stem
    return int(stem) if stem.isascii() and stem.isdigit() else stem


def _picture_name(r: Results, taken: set[str]) -> str:
    """A file name that no other result of this call has."""
    stem = Path(r.path or "image").stem
    if r.frame is not None:
        stem += f"_{r.frame:06d}"
    name, number = f"{stem}.jpg", 2
    while name.lower() in taken:
        name, number = f"{stem}_{number}.jpg", number + 1
    taken.add(name.lower())
    return name


# ---- export ---------------------------------------------------------------------------------


def export(call: Call) -> Made:
    """Writes an ONNX file; under --verify, one that differs from the model is exit 1."""
    from deepseek_det.onnx.verify import runtime, verify

    if call.verify:
        runtime()  # that it is missing is told before the file is made
    detector = Detector(call.model)
    given = call.only("opset", "nms", "conf", "iou", "max_det", "imgsz", "dynamic")
    path = detector.export(call.output, **given)
    made: dict[str, Any] = {"output": str(path), "bytes": path.stat().st_size, "opset": call.opset}
    call.tell(f"{path}: {made['bytes']:,} bytes, opset {call.opset}")
    if not call.verify:
        return made, ""
    found = verify(detector, path, call.source, **call.only("conf", "iou", "max_det"))
    call.tell(str(found))
    made["verified"] = {"ok": found.ok, "detections": found.count, **found.worst()}
    return made, "" if found.ok else f"export: verify: {found.verdict()}"


# ---- data -----------------------------------------------------------------------------------


def _data(call: Call, verb: str) -> str:
    if (call.where is None) == (call.data is None):
        raise ValueError(f"{verb}: the data set is needed once, as DATA or as --data")
    return str(call.where if call.data is None else call.data)


def check(call: Call) -> Made:
    """Reports on a data set; a defect is exit 1."""
    from deepseek_det.data import check as check_data

    path = _data(call, "check")
    if call.against:
        return _cross_check(call, path)
    alone = [n for n in ("disputes", "page", "decisions", "output") if call.values[n]]
    if alone:
        raise ValueError(f"check: {alone[0]} came without against, which it belongs to")
    report = check_data(path, **call.only("split", "imgsz", "images", "voc_one_based", "workers"))
    call.tell(report.text())
    made = report.to_dict() | _pages(call, path)
    problem = ""
    if not report.ok:
        count, first = len(report.defects), report.defects[0]
        problem = f"check: {path}: {count} defects came, none was needed; the first: {first}"
    return made, problem


def _pages(call: Call, path: str) -> dict[str, str]:
    """The pages that check was asked for, in the folder project/name."""
    from deepseek_det.data import splits, write_pictures, write_statistics

    if not call.pictures and not call.statistics:
        return {}
    folder = claim(call.project, call.name, call.exist_ok, "check")
    made = {}
    if call.statistics:
        wanted = None if call.split is None else [call.split]
        file = write_statistics(path, folder / "statistics.html", wanted, call.images)
        made["statistics"] = str(file)
    if call.pictures:
        chosen = call.split or splits(path, call.images)[0]
        file = folder / "pictures.html"
        file = write_pictures(path, file, chosen, call.imgsz, images=call.images)
        made["pictures"] = str(file)
    for page in made.values():
        call.progress.say(f"page: {page}: open it in a browser")
    return made


def _cross_check(call: Call, path: str) -> Made:
    """check --against: agreement and disputes; under --strict a dispute is exit 1."""
    from deepseek_det.quality import cross_check, resolve

    for name in ("split", "images", "voc_one_based"):
        if call.values[name] is not None:
            raise ValueError(f"check: {name} came with against, which reads whole data sets")
    if (call.decisions is None) != (call.output is None):
        raise ValueError("check: decisions and output need each other")
    q = cross_check(path, *call.against, **call.only("iou", "partial", "strict"))
    call.tell(q.text())
    made = q.to_dict()
    if call.disputes:
        made["disputes_file"] = str(q.write(call.disputes))
    if call.page:
        made["page"] = str(q.page(call.page, "link" if call.link else "embed"))
        call.progress.say(f"page: {made['page']}: open it in a browser")
    if call.decisions:
        made["output"] = str(resolve(q, call.decisions, call.output))
        call.progress.say(f"written: {made['output']}")
    problem = ""
    if call.strict and q.disputes and not call.decisions:
        reasons = ", ".join(f"{n} {r}" for r, n in q.by_reason().items())
        problem = f"check: {len(q.disputes)} disputes came ({reasons}), none was needed"
    return made, problem


def convert(call: Call) -> Made:
    """Writes a data set in another layout."""
    from deepseek_det.data import convert as convert_data

    done = convert_data(
        _data(call, "convert"),
        call.output,
        **call.only("format", "splits", "strict", "images", "voc_one_based"),
    )
    _reject(call, None, done.rejected)
    call.tell(str(done))
    made = {
        "output": str(done.path),
        "format": done.format,
        "splits": done.splits,
        "boxes": done.boxes,
        "rejected": len(done.rejected),
        "lost": done.lost,
    }
    return made, ""


# ---- info -----------------------------------------------------------------------------------


def info_arguments(imgsz: int | None = None) -> None:
    """The flags of info beside --model."""


def info(call: Call) -> Made:
    """A model's layers, or the installation and the models that there are."""
    import deepseek_det as dd

    if call.model is None:
        call.tell(f"{dd.show_config()}\nmodels  {', '.join(dd.list_models())}")
        return {"version": dd.__version__, "models": dd.list_models()}, ""
    detector = Detector(call.model)
    if call.imgsz is not None:
        from deepseek_det.data.transforms import check_imgsz

        detector.imgsz = check_imgsz(call.imgsz, "info")
    call.tell(detector.info())
    if detector.names:
        call.tell(f"classes: {', '.join(detector.names)}")
    made = {
        "model": detector.model_name,
        "names": detector.names,
        "params": detector.params,
        "imgsz": detector.imgsz,
        "macs": detector.macs(detector.imgsz),
    }
    return made, ""


# ---- demo -----------------------------------------------------------------------------------


def demo_arguments(
    epochs: int = 40,
    imgsz: int = 160,
    batch: int = 16,
    n: int = 400,
    seed: int = 0,
    workers: int | None = None,
    project: str = "runs",
    name: str = "demo",
) -> None:
    """The flags of demo."""


def demo(call: Call) -> Made:
    """Draws a data set, trains on it, evaluates on its test split and shows unseen images."""
    from deepseek_det.data import load, synthetic
    from deepseek_det.report import CAPTION, Part, picture_of, write_report

    started = time.monotonic()
    say = call.progress.say
    folder = claim(call.project, call.name, who="demo")
    data = synthetic(folder / "data", n=call.n, seed=call.seed)
    say(f"drawn: {call.n} images in {data} ({time.monotonic() - started:.0f} s)")
    detector = Detector("dsdet-n", seed=call.seed)
    run = detector.train(
        data,
        **call.only("epochs", "imgsz", "batch", "seed", "workers"),
        project=folder,
        name="train",
        callbacks=[_remember],
        verbose=not call.quiet,
    )
    test = load(data, "test")
    metrics = detector.val(test)
    for r in detector.predict(data / "test", stream=True):
        (folder / "predictions").mkdir(exist_ok=True)
        r.save(folder / "predictions" / f"{Path(r.path or '').stem}.jpg")
    unseen = picture_of(detector, test)
    write_bytes(folder / "predictions.jpg", unseen)
    parts = [
        Part(
            f"Test, {len(test)} images that were not seen in training", metrics, [(CAPTION, unseen)]
        )
    ]
    if run.metrics is not None:
        parts.append(Part("Validation", run.metrics))
    report = write_report(folder, parts, detector, "Demo: drawn objects", run.dir)
    seconds = time.monotonic() - started
    call.tell(
        f"{metrics.table()}\n"
        f"AP50 {metrics.ap50:.3f}, AP {metrics.ap:.3f} on {len(test)} test images, "
        f"{seconds:.0f} s in all\nreport: {report.resolve()}"
    )
    made = {
        "ap": metrics.ap,
        "ap50": metrics.ap50,
        "report": str(report),
        "best": str(run.best),
        "seconds": round(seconds, 1),
    }
    return made, ""


# ---- bench ----------------------------------------------------------------------------------


def bench_arguments(
    imgsz: int | None = None,
    batch: int | None = None,
    shapes: Sequence[str] | None = None,
    threads: int | None = None,
    device: Literal["cpu"] = "cpu",
    runs: int = 20,
    training: bool = False,
    amp: bool = False,
    layers: bool = True,
) -> None:
    """The flags of bench beside --model."""


def bench(call: Call) -> Made:
    """Profiles a net: its steps against what the machine was measured to do."""
    import deepseek_det as dd

    if call.amp and not call.training:
        raise ValueError("bench: amp came without training, which alone knows mixed precision")
    if call.threads is not None:
        dd.set_num_threads(call.threads)
    profile = _bench_file(call) if str(call.model).endswith(".onnx") else _bench_detector(call)
    if call.layers:
        call.tell(f"{profile.table()}\n")
    call.tell(f"{profile.summary()}\n\n{profile.totals()}")
    return profile.to_dict(), ""


def _bench_detector(call: Call) -> Profile:
    if call.shapes is not None:
        raise ValueError("bench: shapes came, which names inputs of an .onnx file")
    net = Detector(call.model)
    net.amp = call.amp
    batch = 1 if call.batch is None else call.batch
    return net.profile(call.imgsz, batch, call.runs, call.training)


def _bench_file(call: Call) -> Profile:
    """Of an ONNX file, read with the sizes of this run: some nets have a form for these only."""
    from deepseek_det.onnx import net, sizes

    shapes = sizes.parsed(call.shapes or [])
    read = net.load(
        call.model, shapes=lambda ports: sizes.filled(ports, call.imgsz, call.batch, shapes)
    )
    read.model.amp = call.amp
    return read.profile(runs=call.runs, training=call.training)
