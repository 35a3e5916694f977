"""What the command says when it is used wrongly, and what its processes say when they fail."""

import importlib.util

import pytest

from pqlite.bench.catalogue import SCENARIOS
from pqlite.bench.children import child
from pqlite.bench.contenders import PEERS, installed
from pqlite.bench.errors import BenchError
from pqlite.cli import main
from tests.bench.conftest import bench


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["sprint"], "there is no scenario 'sprint'; there are: enqueue, drain"),
        (["--peers", "celery"], "there is no peer 'celery'; there are: pgqueuer, procrastinate, or all"),
        (["--repeat", "0"], "0 is not a count; it must be 1 or more"),
        (["--seconds", "inf"], "inf is not a duration"),
        (["--jobs", "3"], "3 jobs are not measured; it must be 100 to 10,000,000"),
        (["--json", "no/such/directory/x.json"], "there is no directory for"),
    ],
)
def test_wrong_usage_is_a_sentence_and_exits_with_2(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["bench", *arguments])

    assert exit_.value.code == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["soak"], "A soak is run alone and needs to know for how long: pqlite bench soak --hours 8\n"),
        (["soak", "drain", "--hours", "1"], "A soak is run alone"),
        (
            ["drain", "--case", "3 processes"],
            "No case says '3 processes'; there are: 1 process, rows kept; 2 processes",
        ),
        (["drain", "--hours", "1"], "Only a soak takes --hours; other scenarios take --seconds.\n"),
        (["--dsn", "mysql://app:s3cret@db/app"], "The address in --dsn must begin with postgresql://, not mysql://.\n"),
    ],
)
def test_arguments_that_do_not_go_together_are_a_sentence_and_exit_with_2(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", *arguments]) == 2

    assert capsys.readouterr().err.startswith(says)


@pytest.mark.parametrize("peer", [name for name in PEERS if not installed(name)])
def test_a_peer_that_is_not_installed_says_what_to_install(peer: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["bench", "--peers", peer])

    assert exit_.value.code == 2
    assert f'{peer} is not installed: pip install "{PEERS[peer].requirement}"' in capsys.readouterr().err


@pytest.mark.skipif(importlib.util.find_spec("uvloop") is not None, reason="uvloop is installed")
def test_uvloop_that_is_not_installed_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--uvloop"]) == 2
    assert capsys.readouterr().err == "uvloop is not installed: pip install uvloop\n"


def test_the_list_names_every_scenario(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--list"]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(SCENARIOS)
    assert max(map(len, lines)) <= 80


async def test_the_environments_database_is_not_measured_unless_it_is_named(empty_dsn: str) -> None:
    nowhere = "/no/such/directory"

    ran = await bench("enqueue", PQLITE_DSN=empty_dsn, DATABASE_URL=empty_dsn, PQLITE_POSTGRES_BIN=nowhere)

    assert (ran.status, ran.out) == (1, "")
    assert f"PQLITE_POSTGRES_BIN is '{nowhere}'" in ran.err
    assert "Or measure a server of yours: pqlite bench --dsn" in ran.err


async def test_an_unreachable_server_is_a_sentence_without_the_password() -> None:
    ran = await bench("enqueue", "--dsn", "postgresql://app:s3cret@127.0.0.1:1/app")

    assert (ran.status, ran.out) == (1, "")
    assert ran.err.startswith("The database of --dsn cannot be reached: ")
    assert "s3cret" not in ran.err
    assert len(ran.err.splitlines()) == 1


async def test_a_failure_of_a_process_is_a_sentence() -> None:
    async with child("roles.worker:no_such_role", "pqlite (worker)") as failing:
        with pytest.raises(BenchError, match=r"^The process of pqlite \(worker\) failed: AttributeError: "):
            await failing.answer()


async def test_a_process_that_is_gone_is_noticed_where_nobody_asks_it(empty_dsn: str) -> None:
    async with child("roles.idlers:play", "pqlite (idlers)", dsn=empty_dsn, workers=0) as doomed:
        await doomed.answer()
        doomed._process.kill()
        await doomed._process.wait()

        with pytest.raises(BenchError, match=r"^The process of pqlite \(idlers\) ended with status -9\.$"):
            await doomed.check()


async def test_a_worker_that_cannot_work_fails_the_measurement_with_its_reason(empty_dsn: str) -> None:
    """There is no schema, so neither queue can begin."""
    spec = {"contender": "floor", "dsn": empty_dsn, "tally": "/dev/null", "slot": 0}
    async with child("roles.worker:play", "floor (worker)", **spec) as worker:
        with pytest.raises(BenchError, match=r"^The process of floor \(worker\) failed: "):
            await worker.answer()
