"""report.html: one file that shows a run, with nothing to load from elsewhere.

`write_run` is what training calls; `write_report` makes the page from a run's folder and the parts
that its caller has evaluated (val writes one part, the demo two).
"""

from __future__ import annotations

import base64
import csv
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deepseek_det import charts, draw
from deepseek_det.checkpoint import write_bytes
from deepseek_det.metrics import Metrics

if TYPE_CHECKING:
    from deepseek_det.data import Dataset
    from deepseek_det.data.loader import Batch
    from deepseek_det.detector import Detector
    from deepseek_det.predict import Detected
    from deepseek_det.train import Trainer

PICTURES = 8
"""Images of a data set that a part of the report shows."""
PICTURE_CONF = 0.25
CAPTION = (
    "Odd rows: the labels. Even rows, below them: what was found with a confidence of at least "
    f"{PICTURE_CONF:g}."
)
MANY_CLASSES = 10
"""Beyond this many classes their lines are faint and only the mean has a colour."""


@dataclass(frozen=True, slots=True)
class Part:
    """A section of figures: its title, the metrics, and pictures as (caption, file's bytes)."""

    title: str
    metrics: Metrics
    pictures: Sequence[tuple[str, bytes]] = field(default=())


# ---- what training writes -------------------------------------------------------------------


def write_run(trainer: Trainer, best: Detector) -> Path:
    """Writes a finished run's pictures and report.html; returns the report's path."""
    run = trainer.run_record
    picture = picture_of(best, trainer.val_set)
    write_bytes(run.dir / "val_predictions.jpg", picture)
    parts = []
    if run.metrics is not None:
        title = f"Validation, {len(trainer.val_set)} images"
        parts.append(Part(title, run.metrics, [(CAPTION, picture)]))
    return write_report(run.dir, parts, best)


def write_batch(path: str | os.PathLike[str], batch: Batch, names: Sequence[str]) -> None:
    """Writes a picture of a training batch, augmented as the net sees it, with its boxes."""
    tiles = []
    zoom = max(1, 320 // batch.imgsz)  # small images are enlarged, so that labels can be read
    for i in range(min(len(batch.images), 16)):
        rows = slice(batch.offsets[i], batch.offsets[i + 1])
        labels = batch.labels[rows]
        texts = [names[k] for k in labels.tolist()]
        texts = [
            "ignored" if gone else t for t, gone in zip(texts, batch.ignore[rows], strict=True)
        ]
        pixels = batch.images[i].repeat(zoom, 0).repeat(zoom, 1)
        tiles.append(draw.draw_boxes(pixels, batch.boxes[rows] * zoom, labels, texts))
    write_bytes(path, draw.encode(draw.mosaic(tiles, 4, 320)))


def picture_of(
    detector: Detector,
    dataset: Dataset,
    detections: Sequence[Detected] | None = None,
    limit: int = PICTURES,
    conf: float = PICTURE_CONF,
    chosen: Sequence[int] | None = None,
) -> bytes:
    """A JPEG of some images of a data set: above the truth, below it what the detector finds.

    detections: one entry a record where they are known already. chosen: the records that are shown;
    None: `limit` of them, spread evenly.
    """
    from deepseek_det.predict import detect_dataset

    if chosen is None:
        spread = np.linspace(0, len(dataset) - 1, min(limit, len(dataset)))
        chosen = np.unique(spread.astype(int)).tolist()
    part = dataset.subset(list(chosen))
    if detections is None:
        found = detect_dataset(detector, part, conf=conf)
    else:
        found = [detections[i] for i in chosen]
    truth, seen = [], []
    for i, (xyxy, score, cls) in enumerate(found):
        pixels, record = part.image(i), part.records[i]
        texts = [part.names[k] for k in record.labels.tolist()]
        truth.append(draw.draw_boxes(pixels, record.boxes, record.labels, texts))
        keep = score >= conf
        marks = [
            f"{part.names[k]} {s:.2f}"
            for k, s in zip(cls[keep].tolist(), score[keep].tolist(), strict=True)
        ]
        seen.append(draw.draw_boxes(pixels, xyxy[keep], cls[keep], marks))
    columns = min(4, len(truth))
    tiles = []
    for start in range(0, len(truth), columns):
        tiles += truth[start : start + columns]
        # A last row that is not full is filled up, so that truth stands above its detections.
        if len(truth) - start < columns and start:
            blank = np.full((8, 8, 3), 128, np.uint8)
            tiles += [blank] * (columns - (len(truth) - start))
        tiles += seen[start : start + columns]
    return draw.encode(draw.mosaic(tiles, columns, 320))


def pictures_of(
    detector: Detector, dataset: Dataset, detections: Sequence[Detected], metrics: Metrics
) -> list[tuple[str, bytes]]:
    """What val shows of a data set: images spread evenly, then those with the worst errors."""
    pictures = [(CAPTION, picture_of(detector, dataset, detections))]
    worst = metrics.errors().worst_images(metrics.boxes, PICTURES) if metrics.boxes else []
    if worst:
        picture = picture_of(detector, dataset, detections, chosen=worst)
        pictures.append((f"The images with the worst errors, the worst first. {CAPTION}", picture))
    return pictures


# ---- the page -------------------------------------------------------------------------------


def write_report(
    folder: str | os.PathLike[str],
    parts: Sequence[Part],
    detector: Detector | None = None,
    title: str | None = None,
    run: str | os.PathLike[str] | None = None,
) -> Path:
    """Writes folder/report.html from what a run left and the evaluated parts.

    run: the run's folder, None: the same one. results.csv there gives the curves, args.json the
    settings, train_batch.jpg the training picture; what is missing is left out. Raises OSError
    where it can't be written.
    """
    place = Path(folder if run is None else run)
    rows = _read_history(place / "results.csv")
    settings = _read_settings(place / "args.json")
    heading = title or f"{settings.get('model') or 'Detector'} · {place.name}"
    body = [_tiles(parts, rows, detector)]
    if rows:
        body.append(_section("Training", _curves(rows)))
    for part in parts:
        body.append(_section(part.title, _figures(part)))
    batch = place / "train_batch.jpg"
    if batch.is_file():
        caption = "The first training batch as the net saw it: augmented, with its boxes."
        body.append(_section("Training images", _picture(caption, batch.read_bytes())))
    if settings:
        shown = [[k, json.dumps(v, ensure_ascii=False)] for k, v in settings.items()]
        body.append(_section("Settings", charts.table(["argument", "value"], shown, "settings")))
    page = _PAGE.format(title=escape(heading), style=_STYLE, body="\n".join(body))
    target = Path(folder) / "report.html"
    write_bytes(target, page.encode("utf-8"))
    return target


def page(title: str, sections: Sequence[tuple[str, str]], lead: str = "") -> str:
    """A page in the report's style: sections as (title, HTML), `lead` before the first."""
    body = [lead, *(_section(name, html) for name, html in sections)]
    return _PAGE.format(title=escape(title), style=_STYLE, body="\n".join(body))


def _read_history(path: Path) -> list[dict[str, float]]:
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


def _read_settings(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    values = json.loads(path.read_text(encoding="utf-8"))
    return values if isinstance(values, dict) else {}


def _tiles(
    parts: Sequence[Part], rows: Sequence[dict[str, float]], detector: Detector | None
) -> str:
    tiles: list[tuple[str, str]] = []
    if parts:
        m = parts[0].metrics
        tiles += [("AP", f"{m.ap:.3f}"), ("AP50", f"{m.ap50:.3f}"), ("AP75", f"{m.ap75:.3f}")]
    if detector is not None:
        tiles += [("parameters", f"{detector.params:,}"), ("image size", f"{detector.imgsz} px")]
    if rows:
        tiles += [("epochs", f"{int(rows[-1]['epoch'])}"), ("time", _clock(rows[-1]["time_s"]))]
    if not tiles:
        return ""
    return (
        '<div class="tiles">'
        + "".join(f"<div><b>{escape(v)}</b><span>{escape(k)}</span></div>" for k, v in tiles)
        + "</div>"
    )


def _clock(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s"
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {whole % 60:02d} s"


def _curves(rows: Sequence[dict[str, float]]) -> str:
    columns = {k: np.array([r[k] for r in rows], np.float64) for k in rows[0]}
    epoch = columns["epoch"]
    loss = charts.line_chart(
        [
            charts.Series("class", epoch, columns["loss_cls"], "c0"),
            charts.Series("box", epoch, columns["loss_box"], "c1"),
        ],
        "epoch",
        "Loss",
    )
    ap = charts.line_chart(
        [
            charts.Series("AP", epoch, columns["ap"], "c0"),
            charts.Series("AP50", epoch, columns["ap50"], "c1"),
        ],
        "epoch",
        "AP on validation",
        (0.0, 1.0),
    )
    rate = charts.line_chart(
        [charts.Series("", epoch, columns["lr"], "c0")], "epoch", "Learning rate"
    )
    return f'<div class="charts">{loss}{ap}{rate}</div>'


def _figures(part: Part) -> str:
    m = part.metrics
    rows = [
        [
            str(row["name"]),
            f"{row['objects']:,}",
            *(_figure(row[k]) for k in ("ap", "ap50", "ap75", "ar")),
        ]
        for row in m.per_class
    ]
    whole = ["all", f"{sum(r['objects'] for r in m.per_class):,}"]
    whole += [_figure(v) for v in (m.ap, m.ap50, m.ap75, float(m.stats[8]))]
    classes = charts.table(["class", "objects", "AP", "AP50", "AP75", "AR"], [whole, *rows])
    sizes = charts.table(
        ["objects", "AP", "AR"],
        [
            [name, _figure(float(m.stats[a])), _figure(float(m.stats[r]))]
            for name, a, r in (
                ("small, below 32² px", 3, 9),
                ("medium", 4, 10),
                ("large, from 96² px", 5, 11),
            )
        ],
    )
    confusion = "<h3>Confusion at confidence 0.25, IoU 0.5</h3>" + charts.confusion_table(
        m.confusion, m.names
    )
    pictures = "".join(_picture(caption, data) for caption, data in part.pictures)
    return (
        f'<div class="charts">{_pr_chart(m)}<div><h3>By class</h3>{classes}'
        f"<h3>By size</h3>{sizes}</div></div>{_mistakes(m)}{confusion}{pictures}"
    )


_EXPLAINED = {
    "classification": "the right place, another class",
    "localization": "the right class, a box that is off",
    "both": "a box that is off and another class",
    "duplicate": "an object that was found already",
    "background": "nothing is there",
    "missed": "an object without a detection",
}


def _mistakes(m: Metrics) -> str:
    """Errors by kind with what they cost, and the reliability of the confidences."""
    if m.boxes is None:
        return ""
    errors, trust = m.errors(), m.calibration()
    rows = [
        [name, f"{errors.counts[name]:,}", f"{cost:.3f}", _EXPLAINED[name]]
        for name, cost in errors.cost.items()
    ]
    costs = charts.bar_chart(list(errors.cost), list(errors.cost.values()), "AP50 that is lost to")
    lines = [
        charts.Series("ideal", np.array([0.0, 1.0]), np.array([0.0, 1.0]), "faint"),
        charts.Series("detections", trust.confidence, trust.precision, "c0 strong"),
    ]
    reliability = charts.line_chart(
        lines, "confidence", "Share that is right, IoU 0.5", (0.0, 1.0), (0.0, 1.0)
    )
    note = (
        f"<p>Expected calibration error {trust.error:.3f} over "
        f"{int(trust.counts.sum()):,} detections.</p>"
    )
    head = ["error", "count", "AP50 lost", "what it is"]
    table = charts.table(head, rows, "errors")
    return (
        f'<div class="charts"><div>{costs}<h3>Errors by kind</h3>{table}</div>'
        f"<div>{reliability}{note}</div></div>"
    )


def _pr_chart(m: Metrics) -> str:
    curves = m.curves(0.5)
    many = len(m.names) > MANY_CLASSES
    series = [
        charts.Series(
            "" if many else name,
            curves["recall"],
            curves["precision"][k],
            "faint" if many else f"c{(k + 1) % charts.COLOURS}",
        )
        for k, name in enumerate(m.names)
    ]
    known = curves["precision"][~np.isnan(curves["precision"]).all(1)]
    if len(known):
        series.append(charts.Series("mean", curves["recall"], known.mean(0), "c0 strong"))
    return charts.line_chart(
        series, "recall", "Precision over recall, IoU 0.5", (0.0, 1.0), (0.0, 1.0)
    )


def _figure(value: float) -> str:
    return "–" if np.isnan(value) or value < 0 else f"{value:.3f}"


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>"


def _picture(caption: str, data: bytes) -> str:
    kind = "png" if data[:4] == b"\x89PNG" else "jpeg"
    text = base64.b64encode(data).decode()
    return (
        f'<figure class="wide"><img alt="{escape(caption)}" src="data:image/{kind};base64,{text}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


_COLOURS = (
    *("#2f7de1", "#e8710a", "#26a65b", "#d93a4c", "#9261d6"),
    *("#0aa5b5", "#d957a8", "#a8a300", "#a9693c", "#7d8797"),
)
_LINES = "".join(f".c{i}{{stroke:{c};--c:{c}}}" for i, c in enumerate(_COLOURS))
_STYLE = (
    ":root{color-scheme:light dark;--ink:#1c2128;--soft:#5d6673;--line:#dfe3e8;--ground:#fff;"
    "--card:#f6f7f9;--heat:47,125,225}"
    "@media(prefers-color-scheme:dark){:root{--ink:#e6e9ee;--soft:#9aa4b2;--line:#343b46;"
    "--ground:#14171c;--card:#1d2128;--heat:72,144,240}}"
    "*{box-sizing:border-box}body{margin:0 auto;max-width:1240px;padding:24px;background:"
    "var(--ground);color:var(--ink);font:15px/1.5 system-ui,sans-serif}"
    "h1{font-size:26px;margin:0 0 16px}h2{font-size:19px;margin:36px 0 12px;padding-bottom:6px;"
    "border-bottom:1px solid var(--line)}h3{font-size:14px;margin:12px 0 6px}"
    ".tiles{display:flex;flex-wrap:wrap;gap:12px}.tiles div{background:var(--card);padding:12px "
    "18px;border-radius:8px}.tiles b{display:block;font-size:22px}.tiles span{color:var(--soft)}"
    ".charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(420px,100%),1fr));"
    "gap:16px 28px}figure{margin:0}figure.wide{margin-top:16px}img{max-width:100%;height:auto;"
    "border-radius:6px}figcaption,.none{color:var(--soft);font-size:13px}"
    "svg{width:100%;height:auto;display:block}svg text{fill:var(--soft);font-size:12px}"
    ".mid{text-anchor:middle}.end{text-anchor:end}.grid{stroke:var(--line)}"
    ".axis{stroke:var(--soft)}polyline{fill:none;stroke-width:2;stroke-linejoin:round}"
    "circle{stroke-width:3}.strong{stroke-width:4}.faint{stroke:var(--soft);--c:var(--soft);opacity:.35;stroke-width:1}"
    ".legend{display:flex;flex-wrap:wrap;gap:4px 16px;font-size:13px;color:var(--soft);"
    "padding-left:54px}.legend i{display:inline-block;width:14px;height:3px;margin-right:6px;"
    "vertical-align:middle;background:var(--c)}"
    ".scroll{overflow:auto}.charts .scroll{max-height:440px}"
    "table{border-collapse:collapse;font-variant-numeric:tabular-nums}"
    "th,td{padding:4px 12px;text-align:right;border-bottom:1px solid var(--line);"
    "font-weight:normal}thead th{color:var(--soft);font-size:13px}th:first-child{text-align:left}"
    ".settings td,.settings th{text-align:left}"
    ".errors td:last-child{text-align:left;color:var(--soft)}.bar{fill:var(--c)}"
    ".settings td{font-family:ui-monospace,monospace;font-size:13px}"
    ".confusion td{text-align:center;min-width:52px;border:1px solid var(--ground)}"
    ".cell{background:rgba(var(--heat),calc(var(--s)*.75 + .04))}" + _LINES
)
_PAGE = (
    '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width,initial-scale=1">'
    "<title>{title}</title><style>{style}</style></head><body><h1>{title}</h1>\n{body}\n"
    "</body></html>\n"
)
