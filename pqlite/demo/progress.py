"""Reads the progress of the jobs by plain SQL: the queue is a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pqlite import JobStatus, PgJobStore
from pqlite.demo.index import STANDARD_LIBRARY

# The latest job of each file: with a kept database, a file may have been indexed before.
_COUNTS = """
with latest as (
  select distinct on (payload->>'path') status, finished_at, (result->>'symbols')::int as symbols
  from pqlite.jobs
  where job_type = 'index' and ($1::bigint[] is null or id = any ($1))
  order by payload->>'path', id desc
)
select status,
       count(*) as jobs,
       count(*) filter (where finished_at > clock_timestamp() - interval '3 seconds') as finished_lately,
       coalesce(sum(symbols), 0) as symbols
from latest group by status
"""

_FAILURES = """
select id, path, coalesce(last_error, '') as error, count(*) over () as failures
from (
  select distinct on (payload->>'path') id, payload->>'path' as path, status, last_error
  from pqlite.jobs
  where job_type = 'index' and ($1::bigint[] is null or id = any ($1))
  order by payload->>'path', id desc
) latest
where status = 'FAILED' order by path limit 10
"""

_LARGEST = "select path, count(*) as symbols from demo.symbols group by path order by symbols desc, path limit 10"


@dataclass(frozen=True, slots=True)
class Progress:
    """How many jobs are in which status, how many symbols they found, how many end per second at the moment."""

    jobs: dict[JobStatus, int]
    symbols: int
    per_second: float

    @property
    def total(self) -> int:
        """Return how many jobs there are."""
        return sum(self.jobs.values())

    @property
    def finished(self) -> int:
        """Return how many have ended, well or badly."""
        return sum(self.jobs.get(status, 0) for status in (JobStatus.DONE, JobStatus.FAILED, JobStatus.CANCELLED))


class Failure(NamedTuple):
    """A file that could not be indexed, and why."""

    job_id: int
    path: str
    reason: str


async def progress(store: PgJobStore, job_ids: Sequence[int] | None = None) -> Progress:
    """Return how far the jobs are: those with these ids, or all."""
    async with store.connection() as conn:
        rows = await conn.fetch(_COUNTS, job_ids)
    return Progress(
        jobs={JobStatus(row["status"]): row["jobs"] for row in rows},
        symbols=sum(row["symbols"] for row in rows),
        per_second=sum(row["finished_lately"] for row in rows) / 3,
    )


async def failures(store: PgJobStore, job_ids: Sequence[int] | None = None) -> tuple[int, list[Failure]]:
    """Return how many jobs failed, and the first ten."""
    async with store.connection() as conn:
        rows = await conn.fetch(_FAILURES, job_ids)
    listed = [Failure(row["id"], row["path"], last_line(row["error"])) for row in rows]
    return (rows[0]["failures"] if rows else 0), listed


async def largest(store: PgJobStore) -> list[tuple[str, int]]:
    """Return the ten files with the most symbols, largest first."""
    async with store.connection() as conn:
        return [(row["path"], row["symbols"]) for row in await conn.fetch(_LARGEST)]


def last_line(error: str) -> str:
    """Return the end of an error, which says what happened: of an unexpected one, pqlite keeps the traceback."""
    return error.rstrip().rpartition("\n")[2]


def short(path: str) -> str:
    """Return a path to display: within the standard library, the relative path."""
    return path.removeprefix(f"{STANDARD_LIBRARY}/")
