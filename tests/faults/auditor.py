"""The one auditor that every test ends with: what was promised, held against what happened."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import asyncpg

from tests.faults.ledger import Line
from tests.support import until

# effects has no unique key on purpose. departures holds every change of a state that only an outcome, the reaper or an
# operator may end: what the database accepted, seen by the database itself.
TABLES = """
create table public.effects (
  job_id bigint not null, claims int not null, worker text not null, at timestamptz not null default clock_timestamp());
create table public.departures (
  job_id bigint not null, claims int not null, holder text, was text not null, became text not null,
  at timestamptz not null default clock_timestamp());
create function public.note_departure() returns trigger language plpgsql as $$
begin
  insert into public.departures (job_id, claims, holder, was, became)
  values (old.id, old.claims, old.locked_by, old.status, new.status);
  return null;
end $$;
create trigger note_departure after update of status on pqlite.jobs for each row
  when (old.status not in ('READY', 'BLOCKED') and old.status <> new.status)
  execute function public.note_departure();
"""

# Each query returns the offenders.
RULES = {
    "an enqueued job is there": "select x from unnest($1::bigint[]) x where not exists "
    "(select from pqlite.jobs j where j.id = x)",
    "a job that has not ended has a live holder": "select j.id, j.status, j.locked_by from pqlite.jobs j "
    "where j.id = any ($1) and j.status in ('READY', 'BLOCKED', 'RUNNING') and not exists "
    "(select from pqlite.workers w where w.id = j.locked_by and w.dead_at is null and w.lease_until > now())",
    "a claim ends once": "select job_id, claims, count(*) from public.departures "
    "where was = 'RUNNING' group by 1, 2 having count(*) > 1",
    "nothing leaves a final state": "select * from public.departures where was <> 'RUNNING'",
    "a DONE effect job has one effect": "select j.id, (select count(*) from public.effects e where e.job_id = j.id) "
    "from pqlite.jobs j where j.job_type in ('effect', 'session_effect', 'stubborn') and j.status = 'DONE' "
    "and (select count(*) from public.effects e where e.job_id = j.id) <> 1",
    "an effect is of a DONE job, by its last claim": "select e.* from public.effects e where not exists "
    "(select from pqlite.jobs j where j.id = e.job_id and j.status = 'DONE' and j.claims = e.claims)",
    "one active job has a dedupe key": "select dedupe_key, count(*) from pqlite.jobs "
    "where status in ('READY', 'BLOCKED', 'RUNNING') and dedupe_key is not null group by 1 having count(*) > 1",
    "attempts stay within max_attempts": "select id, attempts, max_attempts, claims from pqlite.jobs "
    "where attempts > max_attempts or attempts < 0 or claims < attempts",
    "no advisory lock is held": "select * from pg_locks where locktype = 'advisory' and database = "
    "(select oid from pg_database where datname = current_database())",
}


class Violation(AssertionError):
    """A promise was broken; `audit` is what was found."""

    def __init__(self, message: str, audit: "Audit | None" = None) -> None:
        super().__init__(message)
        self.audit = audit


@dataclass(slots=True)
class Run:
    """One run of a handler, as the ledger tells it."""

    job: int
    claims: int
    pid: int
    holder: str
    begins: float
    ends: float
    error: str | None = None


@dataclass(slots=True)
class Audit:
    """What was found: offenders by broken rule, and figures."""

    broken: dict[str, list[str]] = field(default_factory=dict)
    runs: list[Run] = field(default_factory=list)
    recoveries: list[float] = field(default_factory=list)

    def require(self, rule: str, offenders: Iterable[Any]) -> None:
        if found := [str(offender) for offender in offenders]:
            self.broken.setdefault(rule, []).extend(found)

    def runs_of(self, job_id: int) -> list[Run]:
        return [run for run in self.runs if run.job == job_id]

    def check(self) -> None:
        if self.broken:
            raise Violation(
                "\n".join(f"{rule}: {found[:10]} ({len(found)})" for rule, found in self.broken.items()), self
            )


async def examine(
    conn: asyncpg.Connection,
    ids: Sequence[int],
    lines: Sequence[Line],
    deaths: Mapping[int, float],
    frozen: Collection[int],
    *,
    overlaps: bool = False,
) -> Audit:
    """Hold the database and the ledger against the rules. Every process has ended.

    A process in `deaths` ended at that time; one in `frozen` may have been overtaken.
    """
    audit = Audit(runs=runs_in(lines, deaths))
    dead_holders = {line.holder for line in lines if line.what == "registered" and line.pid in deaths}

    async def strangers() -> list[asyncpg.Record]:
        return await conn.fetch(
            "select pid, application_name, state, query from pg_stat_activity "
            "where datname = current_database() and backend_type = 'client backend' and pid <> pg_backend_pid() "
            "and application_name <> 'auditor'"
        )

    async def nobody() -> bool:
        return not await strangers()

    try:
        await until(nobody, patience=10.0)
    except AssertionError:
        audit.require("no connection is left", await strangers())
    for rule, sql in RULES.items():
        audit.require(rule, await conn.fetch(sql, *([list(ids)] if "$1" in sql else [])))
    registered = await conn.fetch("select id from pqlite.workers where dead_at is null")
    audit.require("every worker said goodbye or died", {row[0] for row in registered} - dead_holders)

    known = set(ids)
    audit.require(
        "nothing runs that was not enqueued", {run.job for run in audit.runs if known and run.job not in known}
    )
    audit.require("nothing leaks in a process", [line for line in lines if line.what == "leaked"])
    finals = await conn.fetch(
        "select job_id, extract(epoch from at)::float8 as at from public.departures where became <> 'READY'"
    )
    ended = {row["job_id"]: row["at"] for row in finals}
    audit.require(
        "nothing starts after its end", [run for run in audit.runs if run.begins > ended.get(run.job, run.begins)]
    )
    if not overlaps:
        audit.require("a job runs once at a time", overlapping(audit.runs, frozen))
    audit.recoveries = await recoveries(conn, lines, deaths)
    return audit


def runs_in(lines: Sequence[Line], deaths: Mapping[int, float]) -> list[Run]:
    """Return every run: from its first line to its last, or to the death of its process."""
    runs: list[Run] = []
    open_runs: dict[tuple[int, int], Run] = {}
    latest: dict[int, float] = {}
    for line in lines:
        latest[line.pid] = line.at
        if line.job is None or line.what not in ("start", "end"):
            continue
        if line.what == "start":
            assert line.claims is not None
            assert line.holder is not None
            run = Run(line.job, line.claims, line.pid, line.holder, line.at, -1.0)
            open_runs[line.pid, line.job] = run
            runs.append(run)
        elif (begun := open_runs.pop((line.pid, line.job), None)) is not None:
            begun.ends, begun.error = line.at, line.more.get("error")
    for run in open_runs.values():
        run.ends = deaths.get(run.pid, latest[run.pid])
    return runs


def overlapping(runs: Sequence[Run], frozen: Collection[int]) -> list[tuple[Run, Run]]:
    """Return pairs of runs of one job that were under way at the same time."""
    found = []
    by_job: dict[int, list[Run]] = defaultdict(list)
    for run in runs:
        by_job[run.job].append(run)
    for those in by_job.values():
        those.sort(key=lambda run: run.begins)
        found += [
            (one, two)
            for i, one in enumerate(those)
            for two in those[i + 1 :]
            if two.begins < one.ends and one.pid not in frozen
        ]
    return found


async def recoveries(conn: asyncpg.Connection, lines: Sequence[Line], deaths: Mapping[int, float]) -> list[float]:
    """Return, for each death of a process that held jobs, after how many seconds the last of them was given back."""
    seconds = []
    holders = defaultdict(list)
    for line in lines:
        if line.what == "registered":
            holders[line.pid].append(line.holder)
    for pid, died in deaths.items():
        last = await conn.fetchval(
            "select max(extract(epoch from at))::float8 from public.departures "
            "where was = 'RUNNING' and holder = any ($1) and extract(epoch from at) > $2",
            holders[pid],
            died,
        )
        if last is not None:
            seconds.append(last - died)
    return seconds
