# SPDX-License-Identifier: Apache-2.0
"""Draw the dimuon mass spectrum as SVG, with nothing but Python: the peak, its fit, and the whole range inset."""

import math
from collections.abc import Callable, Iterable
from html import escape
from typing import Any, NamedTuple

WIDTH, HEIGHT = 860, 600
INK, GREY, ACCENT, PALE = "#1b1f24", "#6b7280", "#c2410c", "#94a3b8"
STYLE = """
text { font-family: 'Helvetica Neue', Helvetica, Arial, 'Liberation Sans', sans-serif; fill: #1b1f24; }
.title { font-size: 19px; } .label { font-size: 17px; } .tick { font-size: 14px; }
.note { font-size: 15px; } .small { font-size: 11px; fill: #4b5563; } .result { font-size: 16px; font-weight: 600; }
"""


class Frame(NamedTuple):
    """A pair of axes: where it lies on the page and what it spans."""

    left: float
    top: float
    width: float
    height: float
    x: tuple[float, float]
    y: tuple[float, float]
    """Span of the y axis; of its decimal logarithm when `log`."""
    log: bool = False

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Return a point's place on the page, held inside the frame."""
        if self.log:
            y = math.log10(y) if y > 0 else self.y[0]
        right = (x - self.x[0]) / (self.x[1] - self.x[0])
        up = min(1.0, max(0.0, (y - self.y[0]) / (self.y[1] - self.y[0])))
        return self.left + right * self.width, self.top + (1 - up) * self.height


def line(x1: float, y1: float, x2: float, y2: float, colour: str = INK, width: float = 1.2) -> str:
    """Return a straight line."""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" stroke-width="{width:g}"/>'


def text(x: float, y: float, words: str, kind: str, anchor: str = "start", turn: bool = False) -> str:
    """Return words; `kind` is a class of the style sheet. Markup in them is kept: escape what is not yours."""
    turned = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if turn else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}"{turned}>{words}</text>'


def path(points: Iterable[tuple[float, float]], stroke: str, width: float, fill: str = "none") -> str:
    """Return a line through points."""
    steps = " L".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<path d="M{steps}" fill="{fill}" stroke="{stroke}" stroke-width="{width:g}" stroke-linejoin="round"/>'


def axes(frame: Frame, ticks: tuple[list[float], list[float]], minor: list[float], kind: str) -> list[str]:
    """Return a closed frame with ticks inwards on all sides, as physicists like it, and their numbers."""
    long, parts = (9.0, []) if kind == "tick" else (5.0, [])
    right, bottom = frame.left + frame.width, frame.top + frame.height
    for x in [*ticks[0], *minor]:
        place = frame.at(x, 1)[0]
        size = long if x in ticks[0] else long / 2
        parts += [line(place, bottom, place, bottom - size), line(place, frame.top, place, frame.top + size)]
    for y in ticks[1]:
        place = frame.at(frame.x[0], y)[1]
        parts += [line(frame.left, place, frame.left + long, place), line(right, place, right - long, place)]
        parts.append(text(frame.left - long, place + (5 if kind == "tick" else 4), number(y, frame.log), kind, "end"))
    parts += [text(frame.at(x, 1)[0], bottom + 2.2 * long, f"{x:g}", kind, "middle") for x in ticks[0]]
    parts.append(
        f'<rect x="{frame.left:g}" y="{frame.top:g}" width="{frame.width:g}" height="{frame.height:g}" '
        f'fill="none" stroke="{INK}" stroke-width="1.4"/>'
    )
    return parts


def number(value: float, power: bool) -> str:
    """Return a tick's number, as a power of ten where wanted."""
    if not power:
        return f"{value:,.0f}"
    return f'10<tspan dy="-5" font-size="8">{round(math.log10(value))}</tspan>'


def nice_step(span: float) -> float:
    """Return a round distance that gives four to eight ticks."""
    size = 10.0 ** math.floor(math.log10(span))
    return next(size * factor for factor in (0.1, 0.2, 0.25, 0.5, 1.0, 2.0) if span / (size * factor) <= 7)


def points(frame: Frame, counts: list[int]) -> list[str]:
    """Return one marker per 1 GeV bin with its statistical error."""
    parts = []
    for low in range(int(frame.x[0]), int(frame.x[1])):
        count = counts[low]
        error = math.sqrt(count)
        x, y = frame.at(low + 0.5, count)
        parts.append(line(x, frame.at(0, count - error)[1], x, frame.at(0, count + error)[1], INK, 1.3))
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.1" fill="{INK}"/>')
    return parts


def peak(histogram: dict[str, Any], curve: Callable[[float], float]) -> list[str]:
    """Return the large picture: the points around the Z and the fitted curve."""
    counts, fit = histogram["counts"], histogram["fit"]
    top = 1.14 * max(counts[60:120])
    frame = Frame(96, 48, 736, 472, (60, 120), (0, top))
    step = nice_step(top)
    y_ticks = [step * index for index in range(int(top / step) + 1)]
    inside = [fit["from_gev"] + (fit["to_gev"] - fit["from_gev"]) * index / 240 for index in range(241)]
    fitted = [frame.at(mass, curve(mass)) for mass in inside]
    floor = frame.at(60, 0)[1]
    return [
        path([(fitted[0][0], floor), *fitted, (fitted[-1][0], floor)], "none", 0, "#fff1e7"),
        *axes(frame, ([60, 70, 80, 90, 100, 110, 120], y_ticks), [float(x) for x in range(62, 120, 2)], "tick"),
        path(fitted, ACCENT, 2.4),
        *points(frame, counts),
        text(
            832,
            562,
            '<tspan font-style="italic">m</tspan>(μ<tspan dy="-6" font-size="12">+</tspan>'
            '<tspan dy="6">μ</tspan><tspan dy="-6" font-size="12">−</tspan><tspan dy="6">) [GeV]</tspan>',
            "label",
            "end",
        ),
        text(28, 48, "events / 1 GeV", "label", "end", turn=True),
    ]


def overview(histogram: dict[str, Any]) -> list[str]:
    """Return the small picture: the whole spectrum on a logarithmic scale."""
    counts = histogram["counts"]
    decades = max(1, math.ceil(math.log10(max(max(counts), 10))))
    frame = Frame(560, 84, 244, 168, (0, 200), (math.log10(0.5), decades + 0.15), log=True)
    outline = [frame.at(0, 0)]
    for low, count in enumerate(counts):
        outline += [frame.at(low, count), frame.at(low + 1, count)]
    outline.append(frame.at(200, 0))
    y_ticks = [10.0**power for power in range(decades + 1)]
    return [
        path(outline, PALE, 1, "#e2e8f0"),
        *axes(frame, ([0, 50, 100, 150, 200], y_ticks), [float(x) for x in range(10, 200, 10)], "small"),
    ]


def legend(histogram: dict[str, Any]) -> list[str]:
    """Return what the picture says in words."""
    fit = histogram["fit"]
    title = (
        'Z/γ* → μ<tspan dy="-6" font-size="13">+</tspan><tspan dy="6">μ</tspan><tspan dy="-6" font-size="13">−</tspan>'
    )
    return [
        text(96, 34, title, "title"),
        text(832, 34, f"{histogram['events']:,} events", "note", "end"),
        f'<circle cx="132" cy="90" r="3.1" fill="{INK}"/>',
        line(132, 82, 132, 98, INK, 1.3),
        text(150, 95, "muon pairs, with statistical errors", "note"),
        line(120, 116, 144, 116, ACCENT, 2.4),
        text(150, 121, "Breit–Wigner ⊗ Gaussian + line", "note"),
        text(150, 156, escape(f"peak  {fit['peak_gev']:.3f} ± {fit['peak_error_gev']:.3f} GeV"), "result"),
        text(150, 180, escape(f"resolution  {fit['resolution_gev']:.2f} GeV"), "note"),
        text(150, 202, f"χ² / ndf  {fit['chi2']:.1f} / {fit['ndf']:.0f}", "note"),
    ]


def draw(histogram: dict[str, Any], curve: Callable[[float], float]) -> str:
    """Return the picture as SVG.

    Args:
        histogram: Counts of 1 GeV bins from 0 to 200, number of events, and the fit's result.
        curve: The fitted events per GeV at a mass in GeV.
    """
    parts = [*peak(histogram, curve), *overview(histogram), *legend(histogram)]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}">'
    return "\n".join(
        [head, f"<style>{STYLE}</style>", '<rect width="100%" height="100%" fill="white"/>', *parts, "</svg>\n"]
    )
