"""What a deployment may not do, held against the database, the ledger and the processes; and how long jobs waited."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import asyncpg

from tests.deploy.fleet import Fleet, Instance
from tests.deploy.load import Load
from tests.faults.auditor import Audit, Run, examine

NEEDLESS_WAIT = 10.0
"""What a job may wait while a worker that knows it is there: seconds, on a machine that starts processes meanwhile."""

# Each query returns the offenders.
RULES = {
    "every job is DONE": "select id, job_type, status, last_error from pqlite.jobs where status <> 'DONE'",
    "every job took one attempt": "select id, job_type, attempts, claims from pqlite.jobs where attempts <> 1",
    "no worker died": "select id, job_type, crashes from pqlite.jobs where crashes <> 0",
    "no job has an error": "select id, job_type, errors from pqlite.jobs "
    "where errors <> '[]' or last_error is not null",
    "a job's result is that of its order": """
        select id, job_type, payload, result from pqlite.jobs where not coalesce(case job_type
          when 'welcome' then result #>> '{}' like 'release _ %s customer ' || (payload ->> 'number')
          when 'greet' then result #>> '{}' = 'release 2 greets customer ' || (payload ->> 'number')
          when 'invoice' then (result ->> 'total')::int = 100 * (payload ->> 'number')::int
          else result ->> 'number' = payload ->> 'number' end, false)""",
    "a job is run by a release that knows it": """
        select id, job_type, metadata, result from pqlite.jobs
        where (job_type in ('greet', 'survey') or metadata ? 'payload_version') and result::text like '%release 1%'""",
    "what a handler writes is written once, by the release that ended the job": """
        select id, job_type, (select array_agg(e.worker) from public.effects e where e.job_id = id)
        from pqlite.jobs where job_type in ('invoice', 'export', 'survey')
          and array[result ->> 'by'] is distinct from
              (select array_agg(e.worker) from public.effects e where e.job_id = id)
    """,
}


@dataclass(slots=True)
class Figures:
    """What happened. Times in seconds: `waits` from the enqueue of each job to its first start, without the time when
    nobody could run it; `left_behind` the same of those that were enqueued when their release had no worker;
    `hand_overs` from the end of each interrupted run to the job's next start; `stops` from SIGTERM to the end of each
    process.
    """

    jobs: Counter[str]
    claims: int
    runs: int
    waits: dict[str, list[float]]
    left_behind: list[float]
    hand_overs: list[float]
    stops: list[float]


async def judge(
    conn: asyncpg.Connection, fleet: Fleet, load: Load, exports: Sequence[int], left_behind: Sequence[int]
) -> Figures:
    """Hold everything that is left against the rules. Every process has ended.

    Raises:
        Violation: with the offenders.
    """
    ids = [*load.ids, *exports, *left_behind]
    audit = await examine(conn, ids, fleet.reader.lines(), {}, ())
    audit.require("every order is answered", load.failed)
    unclean = [(each.label, each.returncode) for each in fleet.all if not each.stopped_cleanly]
    audit.require("a process stops cleanly", unclean)
    audit.require("nothing is logged as an error", [each.label for each in fleet.all if _complains(each)])
    for rule, sql in RULES.items():
        audit.require(rule, await conn.fetch(sql))
    _require_runs(audit, ids, fleet)
    figures = await _figures(conn, audit.runs, fleet, set(left_behind))
    waits = [*figures.left_behind, *(seconds for each in figures.waits.values() for seconds in each)]
    audit.require("no job waits beside a worker that knows it", [w for w in waits if w > NEEDLESS_WAIT])
    audit.require("a stop interrupts something", [] if figures.hand_overs else ["no export was interrupted"])
    audit.check()
    return figures


def _complains(instance: Instance) -> bool:
    log = instance.log.read_text()
    return "Traceback" in log or "ERROR" in log


def _require_runs(audit: Audit, ids: Collection[int], fleet: Fleet) -> None:
    whole = Counter(run.job for run in audit.runs if run.error is None)
    audit.require("every job is run to its end once", [job for job in ids if whole[job] != 1])
    stopped = {each.pid: each.stopped_at for each in fleet.all}
    audit.require(
        "only a stop interrupts a run",
        [
            run
            for run in audit.runs
            if run.error is not None and (not run.error.startswith("CancelledError") or _began(run, stopped) < 0)
        ],
    )


def _began(run: Run, stopped: dict[int, float | None]) -> float:
    """Return how long a run went on after its process was told to stop."""
    at = stopped[run.pid]
    return run.ends - at if at is not None else -1.0


async def _figures(
    conn: asyncpg.Connection, runs: Iterable[Run], fleet: Fleet, left_behind: Collection[int]
) -> Figures:
    by_job: defaultdict[int, list[Run]] = defaultdict(list)
    for run in sorted(runs, key=lambda run: run.begins):
        by_job[run.job].append(run)
    rows = await conn.fetch(
        "select id, job_type || case when metadata ? 'payload_version' then ' 2' else '' end as kind, claims, "
        "extract(epoch from created_at)::float8 as at from pqlite.jobs"
    )
    figures = Figures(Counter(), 0, sum(map(len, by_job.values())), defaultdict(list), [], [], [])
    for row in rows:
        kind, first = row["kind"], by_job[row["id"]][0]
        waits = figures.left_behind if row["id"] in left_behind else figures.waits[kind]
        waits.append(_beside(row["at"], first.begins, _those_that_know(kind, fleet)))
        figures.jobs[kind] += 1
        figures.claims += row["claims"]
    for one in by_job.values():
        figures.hand_overs += [after.begins - run.ends for run, after in pairwise(one)]
    figures.stops = [each.ended_at - each.stopped_at for each in fleet.all if each.ended_at and each.stopped_at]
    return figures


def _those_that_know(kind: str, fleet: Fleet) -> list[Instance]:
    return [each for each in fleet.all if each.release == 2 or kind in ("welcome", "invoice", "export")]


def _beside(since: float, until: float, workers: Iterable[Instance]) -> float:
    """Return for how much of that time at least one of the workers was there, and had not been told to stop."""
    seconds = 0.0
    for begins, ends in sorted((each.registered_at, each.stopped_at or until) for each in workers):
        begins = max(begins, since)
        if (left := min(ends, until) - begins) > 0:
            seconds += left
            since = min(ends, until)
    return seconds
