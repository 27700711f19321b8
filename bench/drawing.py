"""Draws the picture: latency distributions on a logarithmic axis, and throughput beside nginx."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 900, 420
LEFT, TOP, PLOT_W, PLOT_H = 60, 50, 480, 310
BARS_LEFT, BARS_W = 620, 250
LOW_MS, HIGH_MS = 0.01, 100.0

STYLE = """
text { font: 12px system-ui, sans-serif; fill: #333 }
.title { font-weight: 600; font-size: 14px }
.grid { stroke: #ddd }
.axis { stroke: #888 }
.curve { fill: none; stroke-width: 2.5 }
@media (prefers-color-scheme: dark) {
  svg { background: #161616 } text { fill: #ddd } .grid { stroke: #333 }
}
"""


def picture(data: dict[str, Any]) -> str:
    """Return an SVG document of whatever was measured."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
        "<title>Latency distributions and throughput</title>",
        f"<style>{STYLE}</style>",
        *frame(),
        *curves(list(series(data))),
        *bars(data),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def series(data: dict[str, Any]) -> Iterator[tuple[str, str, list[float]]]:
    """Yield label, colour and curve of each measured distribution."""
    wanted = (
        ("warm", "nginx_ms", "nginx, one call at a time", "#999999"),
        ("warm", "hearth_ms", "warm call", "#2a7f62"),
        ("cold", "spare_ms", "cold start, spare ready", "#d9822b"),
        ("cold", "no_spare_ms", "cold start, no spare", "#b5443c"),
    )
    for row, key, label, colour in wanted:
        if row in data:
            yield label, colour, data[row][key]["curve"]


def x_of(milliseconds: float) -> float:
    """Return where a duration lies on the logarithmic axis."""
    clipped = min(max(milliseconds, LOW_MS), HIGH_MS)
    share = math.log(clipped / LOW_MS) / math.log(HIGH_MS / LOW_MS)
    return LEFT + PLOT_W * share


def y_of(percent: float) -> float:
    """Return where a percentage lies."""
    return TOP + PLOT_H * (1 - percent / 100)


def text(x: float, y: float, content: str, anchor: str = "start", extra: str = "") -> str:
    """Return one label."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {extra}>{escape(content)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    """Return one straight line."""
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def box(x: float, y: float, width: float, height: float, colour: str) -> str:
    """Return one filled rectangle."""
    place = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
    return f'<rect {place} fill="{colour}"/>'


def frame() -> Iterator[str]:
    """Yield the axes of the distributions."""
    yield text(LEFT, 28, "Share of calls answered within …", extra='class="title"')
    for percent in (0, 25, 50, 75, 100):
        yield line(LEFT, y_of(percent), LEFT + PLOT_W, y_of(percent), "grid")
        yield text(LEFT - 8, y_of(percent) + 4, f"{percent} %", "end")
    for value in (0.01, 0.1, 1, 10, 100):
        yield line(x_of(value), TOP, x_of(value), TOP + PLOT_H, "grid")
        yield text(x_of(value), TOP + PLOT_H + 18, f"{value:g} ms", "middle")


def curves(wanted: list[tuple[str, str, list[float]]]) -> Iterator[str]:
    """Yield the distributions and their legend."""
    for index, (label, colour, curve) in enumerate(wanted):
        points = " ".join(f"{x_of(v):.1f},{y_of(p):.1f}" for p, v in enumerate(curve))
        yield f'<polyline class="curve" stroke="{colour}" points="{points}"/>'
        x, y = LEFT + 12 + (index % 2) * 240, TOP + PLOT_H + 38 + (index // 2) * 18
        yield box(x, y - 9, 12, 10, colour)
        yield text(x + 18, y, f"{label}: p50 {curve[50]:.2g} ms, p99 {curve[99]:.2g} ms")


def bars(data: dict[str, Any]) -> Iterator[str]:
    """Yield requests per second of nginx and Hearth, with the bar that is promised."""
    if "throughput" not in data:
        return
    yield text(BARS_LEFT, 28, "Requests per second (keep-alive)", extra='class="title"')
    runs = [(c, s) for c in ("c32", "c64") for s in ("nginx", "hearth")]
    top = max(data["throughput"][c][s]["per_second"] for c, s in runs)
    width = BARS_W / len(runs)
    for index, (connections, side) in enumerate(runs):
        rate = data["throughput"][connections][side]["per_second"]
        height = PLOT_H * rate / top
        x, y = BARS_LEFT + index * width, TOP + PLOT_H - height
        colour = "#999999" if side == "nginx" else "#2a7f62"
        yield box(x, y, width - 12, height, colour)
        middle = x + (width - 12) / 2
        yield text(middle, y - 6, f"{rate:,}", "middle")
        yield text(middle, TOP + PLOT_H + 18, f"{side} {connections}", "middle")
        if side == "nginx":
            promised = TOP + PLOT_H * (1 - 0.22 * rate / top)
            yield line(x, promised, x + 2 * width - 12, promised, "axis")
            yield text(middle, promised - 4, "0.22 of it", "middle")
