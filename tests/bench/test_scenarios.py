"""Every scenario, really measured, in its smallest size."""

import xml.etree.ElementTree as ElementTree

import pytest
from pydantic_core import from_json

from pqlite.bench.catalogue import SCENARIOS
from pqlite.bench.contenders import FLOOR, PQLITE
from pqlite.bench.contenders.base import Load
from pqlite.bench.figures import Case, Result, Sample
from pqlite.bench.measuring import measure
from pqlite.bench.options import Options
from pqlite.bench.roles.features import DECLARED
from pqlite.bench.run import Run
from pqlite.bench.scenarios import drain, features
from tests.bench.conftest import SHARES, Measured

pytestmark = pytest.mark.timeout(240)  # The first test waits for every scenario to be measured.

SVG = "{http://www.w3.org/2000/svg}"
# What may be nothing: processor time too short to be seen, and what did not grow or fall due in so short a time.
MAY_BE_NOTHING = {"cpu", "server_cpu", "transactions", "slope", "p50", "p99", "first", "last"}


def test_every_scenario_is_measured_here() -> None:
    assert {name for share in SHARES for name in share} == set(SCENARIOS)


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_scenario_gives_numbers_for_pqlite_and_for_the_floor_beside_it(
    name: str, measured: dict[str, Measured]
) -> None:
    results = [result for result in measured[name].record["results"] if result["scenario"] == name]

    if name != "features":
        expected = {PQLITE} if name == "soak" else {PQLITE, FLOOR}
        for case in {result["case"] for result in results}:
            assert {result["contender"] for result in results if result["case"] == case} == expected
    for result in results:
        ratio = result["ratio_to_plain" if name == "features" else "ratio_to_floor"]
        assert (ratio is None) == (name == "soak")
        for key, metric in result["metrics"].items():
            assert metric["values"]
            for value in metric["values"]:
                assert value is None or value > 0 or key in MAY_BE_NOTHING, (result["case"], key, value)


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_scenarios_table_fits_80_columns_and_has_every_case(name: str, measured: dict[str, Measured]) -> None:
    lines = measured[name].ran.out.splitlines()

    assert max(map(len, lines)) <= 80
    assert [line for line in lines if line.startswith(f"{name}: ")]
    for result in measured[name].record["results"]:
        assert result["case"] in lines


@pytest.mark.parametrize("share", SHARES)
def test_nothing_is_left_in_the_database(share: tuple[str, ...], measured: dict[str, Measured]) -> None:
    assert measured[share[0]].schemas == []


@pytest.mark.parametrize("share", SHARES)
def test_the_record_says_what_was_measured_on_and_never_where_that_is(
    share: tuple[str, ...], measured: dict[str, Measured]
) -> None:
    run = measured[share[0]]

    assert run.record["environment"]["server"]["server_version"]
    assert run.record["environment"]["cores"] > 0
    for secret in ("s3cret", "postgresql://"):
        assert secret not in run.json + run.ran.out + run.ran.err


async def test_repetitions_are_interleaved_and_nobody_is_always_first(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    measured: list[str] = []

    async def note(run: Run, name: str) -> Sample:
        measured.append(name)
        return Sample({"rate": float(len(measured))})

    case = Case("drain", "a case", drain.METRICS[:1], (PQLITE, FLOOR), note, repeat=3)
    results: list[Result] = []
    await measure(run, [case], results.append)

    assert measured == [PQLITE, FLOOR, FLOOR, PQLITE, PQLITE, FLOOR]
    assert [result.values("rate") for result in results] == [[1, 4, 5], [2, 3, 6]]
    told = capsys.readouterr()
    assert told.out == ""
    assert [line.split()[-4:-1] for line in told.err.splitlines()][:2] == [["1/3", PQLITE, "1"], ["1/3", FLOOR, "2"]]


# Half of the lines: on a busy machine a run of a second may have too few samples for some.
@pytest.mark.parametrize(("name", "least"), [("sustained", 4), ("soak", 3)])
def test_what_ran_for_a_time_is_plotted_as_well_formed_svg(
    name: str, least: int, measured: dict[str, Measured]
) -> None:
    svg = measured[name].svg
    assert svg is not None

    root = ElementTree.fromstring(svg)

    lines = root.findall(f".//{SVG}polyline")
    assert len(lines) >= least
    texts = {text.text for text in root.findall(f".//{SVG}text")}
    assert {"jobs/s", "seconds", PQLITE} <= texts
    for line in lines:
        for point in line.attrib["points"].split():
            x, y = map(float, point.split(","))
            assert 0 <= x <= 760
            assert 0 <= y <= 230


def test_what_did_not_run_for_a_time_is_not_plotted(measured: dict[str, Measured]) -> None:
    assert measured["lanes"].svg is None


def test_every_way_to_declare_a_job_is_compared_with_the_plain_one(measured: dict[str, Measured]) -> None:
    by_case: dict[str, list[str]] = {}
    for result in measured["features"].record["results"]:
        by_case.setdefault(result["case"], []).append(result["contender"])
        if result["contender"] == "plain":
            assert result["ratio_to_plain"] == 1

    assert [*by_case.values()] == [[*features.DECLARED], [*features.MADE], [*features.MADE]]
    assert set(features.DECLARED) == set(DECLARED)


@pytest.mark.parametrize("feature", features.MADE)
async def test_every_way_to_make_a_job_writes_the_same_payload(feature: str, run: Run) -> None:
    _, alone, many = features.cases(Options(jobs=100))

    for case in (alone, many):
        await case.measure(run, feature)

        payloads = await run.conn.fetch("select distinct payload from pqlite_bench.jobs")
        assert [from_json(row[0]) for row in payloads] == [{"i": 0, **features.PAYLOAD}]


async def test_what_a_worker_with_all_features_is_given_has_that_payload_too(run: Run) -> None:
    running, *_ = features.cases(Options(jobs=100))

    await running.measure(run, "everything")

    jobs = await run.conn.fetch("select status, payload - 'i', count(*) from pqlite_bench.jobs group by 1, 2")
    assert [(row[0], from_json(row[1]), row[2]) for row in jobs] == [("DONE", features.PAYLOAD, 100)]


def test_a_soak_runs_all_kinds_of_jobs_and_ends_with_a_verdict(measured: dict[str, Measured]) -> None:
    [result] = measured["soak"].record["results"]

    said = " ".join(result["remarks"][0])
    assert "Verdict: too short to say" in said
    assert "DONE" in said
    assert "RETRY" in said
    assert {"worker MiB", "connections", "dead rows", "table MiB", "jobs/s"} <= set(result["series"][0])
    assert " min " in measured["soak"].ran.err


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("name", [PQLITE, FLOOR])
async def test_a_drain_ends_when_every_job_is_done(name: str, processes: int, run: Run) -> None:
    sample = await drain.measure(run, name, load=Load(300), processes=processes)

    rows = await run.conn.fetch(f"select status, count(*) from {run.contenders[name].schema}.jobs group by status")
    assert dict(rows) == {"DONE": 300}
    assert sample.values["rate"]


async def test_the_floor_deletes_what_is_not_to_be_kept(run: Run) -> None:
    await drain.measure(run, FLOOR, load=Load(300), keep=False)

    assert await run.conn.fetchval("select count(*) from pqlite_bench_floor.jobs") == 0


@pytest.mark.parametrize("name", [PQLITE, FLOOR])
async def test_jobs_of_many_types_priorities_and_queues_make_as_many_lanes(name: str, run: Run) -> None:
    load = Load(600, job_types=20, priorities=3, queues=10)

    await run.prepare(name, load)

    lanes = f"select count(distinct (queue, job_type, priority)) from {run.contenders[name].schema}.jobs"
    assert await run.conn.fetchval(lanes) == 600
    await drain.measure(run, name, load=load)
    statuses = await run.conn.fetch(f"select distinct status from {run.contenders[name].schema}.jobs")
    assert [row[0] for row in statuses] == ["DONE"]
