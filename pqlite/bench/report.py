"""The table at the end, at most 80 columns wide."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Sequence

from pqlite.bench.figures import Case, Metric, Result

WIDTH = 80
NAME_WIDTH = 15


def report(title: str, results: Sequence[Result], notes: str) -> str:
    """Return a scenario's results: a table for each kind of numbers, in it a block per case, a line per contender."""
    tables = [_table(list(group)) for _, group in itertools.groupby(results, lambda result: result.case.metrics)]
    remarks = [remark for result in results for sample in result.samples for remark in sample.remarks]
    return "\n".join([title, *tables, *(line for text in (notes, *remarks) for line in textwrap.wrap(text, WIDTH))])


def _table(results: Sequence[Result]) -> str:
    cells = [_headings(results[0].case, 0), _headings(results[0].case, 1), *(_cells(result) for result in results)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    gap = 2 if NAME_WIDTH + sum(widths) + 2 * len(widths) <= WIDTH else 1

    def line(name: str, row: Sequence[str]) -> str:
        aligned = (cell.rjust(width + gap) for cell, width in zip(row, widths, strict=True))
        return f"{name:<{NAME_WIDTH}}{''.join(aligned)}".rstrip()

    lines = [line("", cells[0]), line("", cells[1])]
    case = None
    for result, row in zip(results, cells[2:], strict=True):
        if result.case is not case:
            case = result.case
            lines.append(case.name)
        lines.append(line(f"  {result.contender}", row))
    return "\n".join(lines)


def _headings(case: Case, number: int) -> list[str]:
    first, *others = [["", *metric.heading.split("\n")][-2:] for metric in case.metrics]
    return [first[number], ("", "min - max")[number], ("to", case.base)[number], *(other[number] for other in others)]


def _cells(result: Result) -> list[str]:
    first, *others = result.case.metrics
    values = result.values(first.key)
    span = f"{_shown(min(values), first)} - {_shown(max(values), first)}" if len(values) > 1 else ""
    ratio = "" if result.ratio is None or result.contender == result.case.base else f"{result.ratio:.2f}x"
    medians = (_shown(result.median(metric.key), metric) for metric in others)
    return [_shown(result.median(first.key), first), span, ratio, *medians]


def _shown(value: float | None, metric: Metric) -> str:
    return "-" if value is None else f"{value:,.{metric.digits}f}"
