"""What is made of the numbers: pure functions."""

import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path

import pytest

from pqlite.bench.figures import Case, Metric, Result, Sample, per, percentile, slope
from pqlite.bench.plot import Panel, svg
from pqlite.bench.report import report
from pqlite.bench.scenarios.drain import METRICS
from pqlite.bench.tally import Tallies, Tally


async def unmeasured(run: object, name: str) -> Sample:
    raise NotImplementedError


def result(mine: Sequence[float | None], floor: Sequence[float | None]) -> Result:
    case = Case("drain", "a case", (Metric("rate", "jobs/s", "jobs/s"),), ("pqlite", "floor"), unmeasured, len(mine))
    return Result(case, "pqlite", *([Sample({"rate": value}) for value in values] for values in (mine, floor)))


def test_the_ratio_is_that_of_the_same_repetition_not_that_of_the_medians() -> None:
    drifting = result([10, 20, 90], [20, 40, 100])

    assert drifting.ratio == 0.5
    assert drifting.median("rate") == 20


def test_a_number_that_could_not_be_had_spoils_neither_median_nor_ratio() -> None:
    assert result([10, None, 30], [10, 10, 10]).ratio == 2
    assert result([None], [10]).median("rate") is None
    assert result([10], []).ratio is None


def test_a_percentile_is_one_of_the_values() -> None:
    values = [float(value) for value in range(1, 101)]

    assert percentile(values, 0.5) == 51
    assert percentile(values, 0.99) == 100
    assert percentile(values, 1.0) == 100
    assert percentile([], 0.5) is None


def test_a_slope_is_the_rise_per_hour_also_of_values_that_jitter() -> None:
    assert slope([(0, 10), (1, 12), (2, 14)]) == pytest.approx(2)
    assert slope([(0, 10), (0, 12)]) is None


def test_nothing_is_divided_by_nothing() -> None:
    assert per(1.0, 0) is None
    assert per(None, 2) is None
    assert per(4.0, 2) == 2


def test_a_table_of_six_digit_rates_and_long_names_fits_80_columns() -> None:
    names = ("pqlite", "floor", "pgqueuer", "procrastinate")
    case = Case("drain", "2 processes, rows not kept", METRICS, names, unmeasured, 3)
    costs = {"cpu": 1234.5, "server_cpu": 1234.5, "rss": 123}
    samples = [Sample({"rate": value, "settled": value} | costs) for value in (111_111.11, 888_888.88, 999_999.99)]

    text = report("drain: jobs", [Result(case, name, samples, samples) for name in names], "Words " * 30)

    assert max(map(len, text.splitlines())) <= 80
    assert text.count("888,889") >= 4
    assert "111,111 - 1,000,000" in text


def test_a_case_can_be_compared_with_another_than_the_floor() -> None:
    case = Case("features", "run", METRICS[:1], ("plain", "hooks"), unmeasured, 1, "plain")
    plain, hooks = Sample({"rate": 10.0}), Sample({"rate": 12.5})

    text = report("features", [Result(case, "plain", [plain], [plain]), Result(case, "hooks", [hooks], [plain])], "")

    lines = [line.split() for line in text.splitlines()]
    assert ["hooks", "12", "1.25x"] in lines
    assert ["plain", "10"] in lines
    assert "plain" in lines[2]


def test_a_plot_of_nothing_but_zeros_is_drawn() -> None:
    root = ElementTree.fromstring(svg([Panel("a <title> & more", "jobs/s", [("pqlite", [(0, 0), (7200, 0)])])]))

    texts = [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "a <title> & more" in texts
    assert "hours" in texts


def test_what_one_process_counts_another_sees(tmp_path: Path) -> None:
    seen = Tallies(tmp_path / "tally")
    first, second = Tally(seen.path, 0), Tally(seen.path, 1)

    assert (seen.total, seen.first, seen.last) == (0, 0, 0)
    first.add()
    began = first.latest
    second.add()
    second.add()

    assert seen.total == 3
    assert seen.first == began
    assert seen.last == second.latest
    assert Tallies.of(seen.path).total == 3
