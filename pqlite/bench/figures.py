"""The measured samples, and their medians, ranges and ratios. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pqlite.bench.contenders import FLOOR

if TYPE_CHECKING:
    from pqlite.bench.run import Run


@dataclass(frozen=True, slots=True)
class Metric:
    """A kind of number: its key in a sample and in JSON, its unit, the table's heading (two lines at most)."""

    key: str
    heading: str
    unit: str
    digits: int = 0


@dataclass(frozen=True, slots=True)
class Sample:
    """The numbers of one run of one contender; None: a number that could not be measured.

    Series, by their unit, are (seconds, value). Remarks are sentences for the reader.
    """

    values: Mapping[str, float | None]
    series: Mapping[str, Sequence[tuple[float, float]]] = field(default_factory=dict)
    remarks: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Case:
    """One comparison of a scenario: `measure` is called for each contender (a queue, or a way to use one), in each
    repetition.

    The first metric is the one that is compared: with that of the contender `base` in the same repetition.
    """

    scenario: str
    name: str
    metrics: Sequence[Metric]
    contenders: Sequence[str]
    measure: Callable[[Run, str], Awaitable[Sample]]
    repeat: int
    base: str = FLOOR


@dataclass(frozen=True, slots=True)
class Result:
    """All samples of one contender in one case, and those of the case's base beside it, repetition by repetition."""

    case: Case
    contender: str
    samples: Sequence[Sample]
    base: Sequence[Sample]

    def values(self, key: str) -> list[float]:
        """Return a metric's values without None."""
        found = (sample.values.get(key) for sample in self.samples)
        return [value for value in found if value is not None]

    def median(self, key: str) -> float | None:
        """Return the median of a metric over the repetitions."""
        values = self.values(key)
        return statistics.median(values) if values else None

    @property
    def ratio(self) -> float | None:
        """Return the median over the repetitions of: the first metric, divided by the base's."""
        key = self.case.metrics[0].key
        pairs = zip(self.samples, self.base, strict=bool(self.base))
        both = ((mine.values.get(key), base.values.get(key)) for mine, base in pairs)
        ratios = [mine / base for mine, base in both if mine is not None and base]
        return statistics.median(ratios) if ratios else None


def percentile(values: Sequence[float], share: float) -> float | None:
    """Return the value that `share` of the values do not exceed."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


def slope(points: Sequence[tuple[float, float]]) -> float | None:
    """Return by how much the values rise per unit of the first coordinate (least squares)."""
    if len({x for x, _ in points}) < 2:
        return None
    return statistics.linear_regression([x for x, _ in points], [y for _, y in points]).slope


def per(amount: float | None, count: float) -> float | None:
    """Return amount / count, None where there is nothing to divide."""
    return None if amount is None or count <= 0 else amount / count
