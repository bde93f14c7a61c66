"""Two pages about a data set, each one HTML file with nothing to load: its statistics with
histograms and a sample of pictures, and its images as training sees them, augmented, with boxes."""

from __future__ import annotations

import base64
import os
from collections import Counter
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np
import numpy.typing as npt

from deepseek_det import charts, draw
from deepseek_det.data import transforms as tf
from deepseek_det.data.census import Histogram, Statistics, of_split
from deepseek_det.data.convert import load_all
from deepseek_det.data.datasets import Dataset
from deepseek_det.report import page

WIDTH_PX, HEIGHT_PX = 420, 190
LEFT_PX, BOTTOM_PX, TOP_PX = 40, 34, 8
SAMPLE = 12
BARS = 24
"""Classes that the bar chart shows; the table has them all."""
KINDS = {1: "augmented", 2: "CutMix", 4: "Mosaic"}

_STYLE = (
    "<style>.bar{fill:#2f7de1}.shots{display:grid;gap:14px;"
    "grid-template-columns:repeat(auto-fill,minmax(min(240px,100%),1fr))}"
    ".shots img{width:100%;display:block}.shots figcaption{padding-top:4px;line-height:1.35}"
    ".keys{display:flex;flex-wrap:wrap;gap:4px 14px;margin:0 0 14px;font-size:13px;"
    "color:var(--soft)}.keys i{display:inline-block;width:11px;height:11px;margin-right:5px;"
    "border-radius:2px}.heat{max-width:300px}.bars th{white-space:nowrap}"
    ".bars{width:100%;max-width:760px}.bars td:last-child{width:70%}"
    ".bars i{display:block;height:11px;border-radius:2px;background:#2f7de1}</style>"
)


def write_statistics(
    data: str | os.PathLike[str] | Dataset,
    file: str | os.PathLike[str],
    splits: Sequence[str] | None = None,
    images: str | os.PathLike[str] | None = None,
) -> Path:
    """Writes the page of statistics: classes, histograms and some pictures of each split.

    data, splits, images: as for `statistics`. Returns the file's path. Raises what `load` raises
    and OSError where the file cannot be written.
    """
    sets = load_all(data, splits, False, images, None)
    every = [of_split(d) for d in sets]
    tiles = [
        ("images", sum(s.images for s in every)),
        ("boxes", sum(s.boxes for s in every)),
        ("classes", len(sets[0].names)),
        ("ignored regions", sum(s.ignored for s in every)),
        ("images without boxes", sum(s.empty for s in every)),
    ]
    sections = [("Classes", _class_bars(every) + _class_table(every))]
    for d, s in zip(sets, every, strict=True):
        title = f"Split {s.split}: {s.images:,} images, {s.boxes:,} boxes"
        sections.append((title, _charts(s) + "<h3>A sample</h3>" + _sample(d)))
    text = page(f"{sets[0].root.resolve().name}: statistics", sections, _STYLE + _tiles(tiles))
    return _write(file, text)


def write_pictures(
    data: str | os.PathLike[str] | Dataset,
    file: str | os.PathLike[str],
    split: str = "train",
    imgsz: int = 320,
    augment: tf.Augment | None = None,
    seed: int = 0,
    n: int = SAMPLE,
    images: str | os.PathLike[str] | None = None,
) -> Path:
    """Writes the page of training images: letterboxed, augmented, and mixed, with their boxes.

    imgsz: side in pixels; augment: what is done to them, the defaults of `Augment` for None; n:
    pictures of each kind. The pictures are the first of the epoch that `seed` begins. Returns the
    file's path; raises what `load` raises and ValueError for a bad imgsz.
    """
    side = tf.check_imgsz(imgsz, "pictures")
    loaded = load_all(data, None if isinstance(data, Dataset) else [split], False, images, None)[0]
    chosen = augment or tf.Augment()
    from deepseek_det.data.sampling import epoch_order

    order = epoch_order(len(loaded), 1, seed, 0)
    made: dict[int, list[str]] = {0: [], 1: [], 2: [], 4: []}
    plain = tf.identity_pieces()
    for position in range(min(len(order), n)):
        made[0].append(_shot(loaded, [int(order[position])], plain, side, None))
    # A position past the epoch's end is one of the next pass: small sets show mixing, too.
    for position in range(40 * n):
        if all(len(made[k]) >= n for k in KINDS):
            break
        partners, pieces = tf.draw_pieces(chosen, seed, 0, position, len(order))
        if len(made[len(pieces)]) < n:
            own = [int(order[position % len(order)]), *(int(order[p]) for p in partners[1:])]
            made[len(pieces)].append(_shot(loaded, own, pieces, side, chosen))
    titles = {0: "As they are, letterboxed", 1: "Augmented", 2: "CutMix", 4: "Mosaic"}
    sections = [
        (titles[k], f'<div class="shots">{"".join(shots)}</div>')
        for k, shots in made.items()
        if shots
    ]
    lead = _STYLE + _tiles(
        [("images", len(loaded)), ("boxes", loaded.n_boxes), ("image size, px", side)]
    )
    title = f"{loaded.root.resolve().name}, {loaded.split}: training images"
    return _write(file, page(title, sections, lead + _keys(loaded.names)))


# ---- pieces of both pages -------------------------------------------------------------------


def _write(file: str | os.PathLike[str], text: str) -> Path:
    from deepseek_det.checkpoint import write_bytes

    target = Path(file)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(target, text.encode("utf-8"))
    return target


def _tiles(rows: Sequence[tuple[str, int]]) -> str:
    cells = "".join(f"<div><b>{v:,}</b><span>{escape(k)}</span></div>" for k, v in rows)
    return f'<div class="tiles">{cells}</div>'


def _keys(names: Sequence[str]) -> str:
    """Which colour is which class; ten colours serve, so further classes share them."""
    marks = "".join(
        f'<span><i style="background:rgb{draw.colour(i)}"></i>{escape(name)}</span>'
        for i, name in enumerate(names[: 2 * charts.COLOURS])
    )
    more = len(names) - 2 * charts.COLOURS
    return f'<h2>Classes</h2><p class="keys">{marks}{f"and {more} more" if more > 0 else ""}</p>'


def _image(pixels: npt.NDArray[np.uint8], caption: str, alt: str) -> str:
    text = base64.b64encode(draw.encode(pixels)).decode()
    return (
        f'<figure><img alt="{escape(alt)}" src="data:image/jpeg;base64,{text}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _sample(data: Dataset) -> str:
    """Some images of a split with their boxes, spread evenly over it."""
    chosen = np.unique(np.linspace(0, len(data) - 1, min(SAMPLE, len(data))).astype(int))
    shots = []
    for i in chosen.tolist():
        r = data.records[i]
        pixels = data.image(i, next((s for s in (4, 2) if max(r.width, r.height) >= s * 480), 1))
        scale = pixels.shape[1] / r.width
        texts = [data.names[k] for k in r.labels.tolist()]
        texts = ["ignored" if gone else t for t, gone in zip(texts, r.ignore, strict=True)]
        name = escape(r.path.name)
        caption = f"{name}, {r.width}×{r.height}, {int((~r.ignore).sum())} boxes"
        shots.append(
            _image(draw.draw_boxes(pixels, r.boxes * scale, r.labels, texts), caption, name)
        )
    return f'<div class="shots">{"".join(shots)}</div>'


def _shot(
    data: Dataset, own: Sequence[int], pieces: tf.Pieces, side: int, augment: tf.Augment | None
) -> str:
    """One training image: composed as the loader does, its boxes drawn, what was lost said."""
    samples = [(data.image(i), data.records[i].boxes, data.records[i].labels) for i in own]
    limits = (augment.min_clipped, augment.min_visible) if augment else (0.0, 0.0)
    made = tf.mix_pieces(pieces, samples, side, *limits)
    zoom = max(1, -(-320 // side))
    pixels = made.image.repeat(zoom, 0).repeat(zoom, 1)
    ignore = np.concatenate([data.records[i].ignore for i in own])[made.keep]
    texts = [data.names[k] for k in made.labels.tolist()]
    texts = ["ignored" if gone else t for t, gone in zip(texts, ignore, strict=True)]
    shown = draw.draw_boxes(pixels, made.boxes * zoom, made.labels, texts)
    names = ", ".join(escape(data.records[i].path.name) for i in own)
    lost = Counter(r for r in made.reasons if r)
    dropped = ", ".join(f"{n} {reason}" for reason, n in lost.most_common())
    caption = f"{names}<br>{int((~ignore).sum())} boxes" + (f"; dropped: {dropped}" if lost else "")
    if augment is not None and len(pieces) == 1:
        scale, degrees = pieces[0, 0], pieces[0, 1]
        caption += f"; scale {scale:.2f}, {degrees:+.0f}°"
    return _image(shown, caption, names)


# ---- statistics -----------------------------------------------------------------------------


def _class_bars(every: Sequence[Statistics]) -> str:
    """The classes by number of boxes over all splits, the most frequent first."""
    total = np.sum([s.class_boxes for s in every], 0)
    order = np.argsort(-total, kind="stable")[:BARS].tolist()
    most = max(int(total.max(initial=0)), 1)
    rows = "".join(
        f"<tr><th>{escape(every[0].names[i])}</th><td>{total[i]:,}</td>"
        f'<td><i style="width:{100 * total[i] / most:.1f}%"></i></td></tr>'
        for i in order
    )
    note = f"<p>The {BARS} most frequent classes of {len(total)}.</p>" if len(total) > BARS else ""
    return f'<table class="bars"><tbody>{rows}</tbody></table>{note}'


def _class_table(every: Sequence[Statistics]) -> str:
    """A row a class: boxes by split, and sizes, weight and repeats in the first split."""
    first = every[0]
    head = ["class", *(f"boxes, {s.split}" for s in every), f"images, {first.split}"]
    head += ["small", "medium", "large", "median side px", "loss weight", "repeat"]
    rows = []
    for i, name in enumerate(first.names):
        side = "–" if np.isnan(first.sides[i]) else f"{first.sides[i]:.0f}"
        rows.append(
            [name, *(f"{s.class_boxes[i]:,}" for s in every), f"{first.class_images[i]:,}"]
            + [f"{v:,}" for v in first.sizes[i]]
            + [side, f"{first.weights[i]:.3f}", f"{first.repeats[i]:.2f}"]
        )
    note = (
        f"<p>Columns from “images” on are of split {escape(first.split)}. Loss weight: "
        "<code>--loss-weights balanced</code>; repeat: how often <code>--sampler repeat</code> "
        "shows a box of the class.</p>"
    )
    return f"<h3>By class</h3>{charts.table(head, rows)}{note}"


def _charts(s: Statistics) -> str:
    parts = [
        _bars(s.per_image, "Boxes an image", "boxes"),
        _bars(s.side, "Size of the boxes, square root of the area", "px"),
        _bars(s.aspect, "Height over width of the boxes", "ratio"),
        _bars(s.image_side, "Longer side of the images", "px"),
        _heat_map(s),
    ]
    return f'<div class="charts">{"".join(parts)}</div>'


def _bars(h: Histogram, title: str, unit: str) -> str:
    """A histogram as SVG; of logarithmic edges every bin has the same width."""
    n, most = len(h.counts), max(int(h.counts.max(initial=0)), 1)
    right, bottom = WIDTH_PX - 8, HEIGHT_PX - BOTTOM_PX
    step = (right - LEFT_PX) / n

    def height(v: float) -> float:
        return v / most * (bottom - TOP_PX)

    parts = [f'<svg viewBox="0 0 {WIDTH_PX} {HEIGHT_PX}" role="img" aria-label="{escape(title)}">']
    for y in charts.ticks(0, most, 4, whole=True):
        v = bottom - height(y)
        parts.append(f'<line class="grid" x1="{LEFT_PX}" x2="{right}" y1="{v:.1f}" y2="{v:.1f}"/>')
        parts.append(f'<text class="end" x="{LEFT_PX - 5}" y="{v + 4:.1f}">{y:g}</text>')
    for i, count in enumerate(h.counts.tolist()):
        if count:
            x, high = LEFT_PX + i * step, height(count)
            low, up = h.edges[i], h.edges[i + 1]
            parts.append(
                f'<rect class="bar" x="{x + 0.5:.1f}" y="{bottom - high:.1f}" '
                f'width="{max(step - 1, 0.5):.1f}" height="{high:.1f}">'
                f"<title>{low:.4g} to {up:.4g}: {count:,}</title></rect>"
            )
    for at, text in _marks(h):
        x = LEFT_PX + at * step
        parts.append(f'<text class="mid" x="{x:.1f}" y="{bottom + 16}">{text}</text>')
    parts.append(f'<line class="axis" x1="{LEFT_PX}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
    middle = (LEFT_PX + right) / 2
    parts.append(f'<text class="mid" x="{middle}" y="{HEIGHT_PX - 3}">{escape(unit)}</text></svg>')
    return f"<figure><h3>{escape(title)}</h3>{''.join(parts)}</figure>"


def _marks(h: Histogram) -> list[tuple[float, str]]:
    """Places on the axis, in bins, and their text."""
    n = len(h.counts)
    if h.log:
        # Edges are half powers of two: mark the whole ones, thinned out where there are many.
        every = 2 * max(1, -(-n // 16))
        first = round(2 * np.log2(h.edges[0]))
        return [(i, f"{h.edges[i]:.3g}") for i in range(n + 1) if (first + i) % every == 0]
    low, high = float(h.edges[0]), float(h.edges[-1])
    return [((v - low) / (high - low) * n, f"{v:g}") for v in charts.ticks(low, high, 6)]


def _heat_map(s: Statistics) -> str:
    """Where boxes lie: the darker, the more of them cover the place."""
    n = len(s.heat)
    most = max(float(s.heat.max()), 1e-9)
    cells = "".join(
        f'<rect x="{x}" y="{y}" width="1.02" height="1.02" fill="#2f7de1" '
        f'fill-opacity="{v / most:.2f}"><title>{v:.0%} of the boxes</title></rect>'
        for (y, x), v in np.ndenumerate(s.heat)
        if v > 0
    )
    frame = f'<rect width="{n}" height="{n}" fill="none" class="axis" stroke-width=".2"/>'
    size = f'viewBox="0 0 {n} {n}" role="img" aria-label="places"'
    svg = f'<svg class="heat" {size}>{cells}{frame}</svg>'
    return f"<figure><h3>Where boxes lie in the image</h3>{svg}</figure>"
