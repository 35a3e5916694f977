"""Line plots as SVG, by hand: one panel per measured series, one colour per contender. Pure."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from pqlite.bench.contenders import FLOOR, PEERS, PQLITE
from pqlite.bench.figures import Result

WIDTH, PANEL = 760, 230
LEFT, RIGHT, TOP, BOTTOM = 78, 24, 46, 40
COLOURS = dict(zip((PQLITE, FLOOR, *PEERS), ("#1c7ed6", "#868e96", "#e8590c", "#2f9e44"), strict=True))
_UNITS = ((7200.0, 3600.0, "hours"), (600.0, 60.0, "minutes"), (0.0, 1.0, "seconds"))

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Panel:
    """One plot: its title, the unit of its values, and lines by contender, one per repetition."""

    title: str
    unit: str
    lines: Sequence[tuple[str, Points]]


def panels(results: Sequence[Result]) -> list[Panel]:
    """Return a panel for each series of each case."""
    found: dict[tuple[str, str], list[tuple[str, Points]]] = {}
    for result in results:
        for sample in result.samples:
            for unit, points in sample.series.items():
                if len(points) > 1:
                    title = f"{result.case.scenario}, {result.case.name}"
                    found.setdefault((title, unit), []).append((result.contender, points))
    return [Panel(title, unit, lines) for (title, unit), lines in found.items()]


def svg(panels: Sequence[Panel]) -> str:
    """Return an SVG document with the panels below each other."""
    height = PANEL * len(panels)
    drawn = "\n".join(
        f'<g transform="translate(0 {PANEL * number})">\n{_panel(panel)}\n</g>' for number, panel in enumerate(panels)
    )
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"
 font-family="system-ui, sans-serif" font-size="12" fill="#495057">
<rect width="{WIDTH}" height="{height}" fill="#fff"/>
{drawn}
</svg>
"""


def _panel(panel: Panel) -> str:
    most_x = max(x for _, points in panel.lines for x, _ in points)
    divisor, time = next((divisor, time) for least, divisor, time in _UNITS if most_x >= least)
    x_ticks = _ticks(most_x / divisor, 8)
    y_ticks = _ticks(max(y for _, points in panel.lines for _, y in points), 4)

    def x_of(x: float) -> float:
        return LEFT + x / divisor / x_ticks[-1] * (WIDTH - LEFT - RIGHT)

    def y_of(y: float) -> float:
        return PANEL - BOTTOM - y / y_ticks[-1] * (PANEL - TOP - BOTTOM)

    parts = [f'<text x="{LEFT}" y="20" font-size="14" font-weight="600" fill="#212529">{escape(panel.title)}</text>']
    for tick in y_ticks:
        y = y_of(tick)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="{"#adb5bd" if not tick else "#e9ecef"}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{tick:,g}</text>')
    for tick in x_ticks:
        x = x_of(tick * divisor)
        parts.append(f'<text x="{x:.1f}" y="{PANEL - BOTTOM + 17}" text-anchor="middle">{tick:,g}</text>')
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{PANEL - 7}" text-anchor="end">{time}</text>')
    parts.append(f'<text x="{LEFT}" y="38">{escape(panel.unit)}</text>')
    for name, points in panel.lines:
        path = " ".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in points)
        colour = COLOURS[name]
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
    return "\n".join([*parts, *_legend(panel)])


def _legend(panel: Panel) -> list[str]:
    names = list(dict.fromkeys(name for name, _ in panel.lines))
    widths = [34 + 7 * len(name) for name in names]
    begins = itertools.accumulate(widths, initial=WIDTH - RIGHT - sum(widths))
    parts = []
    for name, begin in zip(names, begins, strict=False):
        parts.append(f'<path d="M{begin} 34h18" stroke="{COLOURS[name]}" stroke-width="3"/>')
        parts.append(f'<text x="{begin + 24}" y="38">{escape(name)}</text>')
    return parts


def _ticks(most: float, count: int) -> list[float]:
    """Return round numbers from 0 to the first that is not below `most`, about so many."""
    most = max(most, 1e-9)
    magnitude = 10 ** math.floor(math.log10(most / count))
    step = next(step for step in (magnitude * factor for factor in (1, 2, 2.5, 5, 10)) if step * count >= most)
    return [step * number for number in range(math.ceil(most / step - 1e-9) + 1)]
