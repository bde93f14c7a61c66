"""Charts and tables of a report as SVG and HTML text; colours come from the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
import numpy.typing as npt

WIDTH_PX, HEIGHT_PX = 560, 300
LEFT_PX, RIGHT_PX, TOP_PX, BOTTOM_PX = 54, 14, 12, 40
COLOURS = 10
"""Line colours that the style sheet has: .c0 to .c9, and .faint for the crowd."""


@dataclass(frozen=True, slots=True)
class Series:
    """One line: its name in the legend ("" for none), points, colour class; gaps where y is NaN."""

    name: str
    x: npt.NDArray[np.float64]
    y: npt.NDArray[np.float64]
    colour: str = "c0"


def ticks(low: float, high: float, count: int = 5, whole: bool = False) -> list[float]:
    """Round numbers that lie in [low, high], about `count` of them; whole: integers only.

    >>> ticks(0, 1), ticks(0, 37)
    ([0.0, 0.2, 0.4, 0.6, 0.8, 1.0], [0.0, 10.0, 20.0, 30.0])
    """
    span = high - low
    if not span > 0 or not math.isfinite(span):
        return [low]
    rough = span / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(s for s in (1, 2, 2.5, 5, 10) if s * power >= rough * 0.999) * power
    step = max(1.0, math.ceil(step)) if whole else step
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [float(f"{i * step:.12g}") + 0.0 for i in range(first, last + 1)]


def line_chart(
    series: Sequence[Series],
    x_label: str,
    y_label: str,
    y_range: tuple[float, float] | None = None,
    x_range: tuple[float, float] | None = None,
) -> str:
    """An SVG with axes, lines and a legend; a chart without a finite point says so."""
    points = [(s.x[np.isfinite(s.y)], s.y[np.isfinite(s.y)]) for s in series]
    xs = np.concatenate([np.zeros(0), *(p[0] for p in points)])
    ys = np.concatenate([np.zeros(0), *(p[1] for p in points)])
    if not xs.size:
        return f'<p class="none">{escape(y_label)}: nothing to draw</p>'
    x0, x1 = x_range or _widened(float(xs.min()), float(xs.max()))
    y0, y1 = y_range or _widened(min(0.0, float(ys.min())), float(ys.max()))
    right, bottom = WIDTH_PX - RIGHT_PX, HEIGHT_PX - BOTTOM_PX

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            LEFT_PX + (x - x0) / (x1 - x0) * (right - LEFT_PX),
            bottom - (y - y0) / (y1 - y0) * (bottom - TOP_PX),
        )

    parts = [
        f'<svg viewBox="0 0 {WIDTH_PX} {HEIGHT_PX}" role="img" aria-label="{escape(y_label)} over '
        f'{escape(x_label)}">'
    ]
    for y in ticks(y0, y1):
        _, v = place(x0, y)
        parts.append(f'<line class="grid" x1="{LEFT_PX}" x2="{right}" y1="{v:.1f}" y2="{v:.1f}"/>')
        parts.append(f'<text class="end" x="{LEFT_PX - 7}" y="{v + 4:.1f}">{y:g}</text>')
    for x in ticks(x0, x1, 6, whole=x_label == "epoch"):
        h, _ = place(x, y0)
        parts.append(f'<text class="mid" x="{h:.1f}" y="{bottom + 17}">{x:g}</text>')
    parts.append(f'<line class="axis" x1="{LEFT_PX}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
    middle = (LEFT_PX + right) / 2
    parts.append(
        f'<text class="mid name" x="{middle}" y="{HEIGHT_PX - 6}">{escape(x_label)}</text>'
    )
    for s, (px, py) in zip(series, points, strict=True):
        parts += _line(s, [place(float(a), float(b)) for a, b in zip(px, py, strict=True)])
    parts.append("</svg>")
    named = [s for s in series if s.name]
    legend = "".join(f'<span><i class="{s.colour}"></i>{escape(s.name)}</span>' for s in named)
    title = f"<h3>{escape(y_label)}</h3>"
    return f'<figure>{title}{"".join(parts)}<div class="legend">{legend}</div></figure>'


def bar_chart(names: Sequence[str], values: Sequence[float], label: str) -> str:
    """Lying bars with their values, from zero; a chart of nothing but zeros says so."""
    most = max([0.0, *(v for v in values if math.isfinite(v))])
    if not most > 0:
        return f'<p class="none">{escape(label)}: nothing</p>'
    height, gap, left = 22, 8, 110
    room = WIDTH_PX - left - 60
    parts = [
        f'<svg viewBox="0 0 {WIDTH_PX} {(height + gap) * len(names)}" role="img" '
        f'aria-label="{escape(label)}">'
    ]
    for i, (name, value) in enumerate(zip(names, values, strict=True)):
        y, width = i * (height + gap), room * max(0.0, value) / most
        middle = y + height * 0.7
        parts.append(f'<text class="end" x="{left - 8}" y="{middle:.1f}">{escape(name)}</text>')
        parts.append(
            f'<rect class="bar c{i % COLOURS}" x="{left}" y="{y}" width="{width:.1f}" '
            f'height="{height}"/>'
        )
        parts.append(f'<text x="{left + width + 6:.1f}" y="{middle:.1f}">{value:.3f}</text>')
    return f"<figure><h3>{escape(label)}</h3>{''.join(parts)}</svg></figure>"


def _line(s: Series, places: Sequence[tuple[float, float]]) -> list[str]:
    if not places:
        return []
    if len(places) == 1:
        return [
            f'<circle class="{s.colour}" cx="{places[0][0]:.1f}" cy="{places[0][1]:.1f}" r="3"/>'
        ]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    return [
        f'<polyline class="{s.colour}" points="{path}">'
        f"<title>{escape(s.name) or 'class'}</title></polyline>"
    ]


def _widened(low: float, high: float) -> tuple[float, float]:
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def table(head: Sequence[str], rows: Sequence[Sequence[str]], style: str = "") -> str:
    """An HTML table: the first column is text, the others are figures."""
    top = "".join(f"<th>{escape(h)}</th>" for h in head)
    body = "".join(
        "<tr>"
        + "".join(
            f"<th>{escape(c)}</th>" if i == 0 else f"<td>{escape(c)}</td>"
            for i, c in enumerate(row)
        )
        + "</tr>"
        for row in rows
    )
    kind = f' class="{style}"' if style else ""
    return (
        f'<div class="scroll"><table{kind}><thead><tr>{top}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def confusion_table(counts: npt.NDArray[np.int64], names: Sequence[str], limit: int = 24) -> str:
    """The confusion matrix as a table whose cells are the darker, the larger their row's share.

    counts: (K + 1, K + 1), row true, column detected, the last of each the background. Of more
    than `limit` classes those with the most objects are shown.
    """
    k = len(names)
    order = np.argsort(-counts[:k].sum(1), kind="stable")[:limit]
    chosen = [*sorted(order.tolist()), k]
    labels = [*names, "background"]
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    head = "".join(f"<th>{escape(labels[j])}</th>" for j in chosen)
    body = ""
    for i in chosen:
        cells = ""
        for j in chosen:
            if i == k and j == k:
                cells += "<td></td>"
                continue
            text = str(int(counts[i, j])) if counts[i, j] else "·"
            cells += (
                f'<td class="cell" style="--s:{share[i, j]:.2f}" '
                f'title="{share[i, j]:.0%} of {escape(labels[i])}">{text}</td>'
            )
        body += f"<tr><th>{escape(labels[i])}</th>{cells}</tr>"
    note = f"<p>The {limit} classes with the most objects of {k}.</p>" if k > limit else ""
    return (
        f'{note}<div class="scroll"><table class="confusion"><thead><tr><th>true \\ detected</th>'
        f"{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )
