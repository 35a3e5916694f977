"""Many jobs in few statements."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from pqlite.errors import InvalidJob
from pqlite.job import Enqueued, NewJob
from pqlite.store.encoding import encode_clean
from pqlite.store.statements import Statements
from pqlite.store.validation import Row, row

if TYPE_CHECKING:
    from pqlite.store.connecting import Connection

CHUNK = 1000
_TAGS = Row._fields.index("tags")


def rows_of(jobs: Iterable[NewJob | Mapping[str, Any]], max_payload_bytes: int) -> list[Row]:
    """Return jobs as rows.

    Raises:
        InvalidJob: one of them cannot be a job; the message names its position.
    """
    rows = []
    for position, job in enumerate(jobs):
        try:
            rows.append(row(job if isinstance(job, NewJob) else NewJob(**job), max_payload_bytes))
        except (InvalidJob, TypeError) as error:
            kind = type(error) if isinstance(error, InvalidJob) else InvalidJob
            raise kind(f"job {position}: {error}") from None
    return rows


async def enqueue_rows(conn: Connection, sql: Statements, rows: list[Row]) -> list[Enqueued]:
    """Insert rows in chunks, in the connection's transaction; return one verdict each, in their order."""
    # All chunks follow one order of keys: two callers with the same keys cannot deadlock, whatever their sizes.
    order = sorted(range(len(rows)), key=lambda i: rows[i].dedupe_key or "")
    verdicts: list[Enqueued | None] = [None] * len(rows)
    for start in range(0, len(order), CHUNK):
        chunk = order[start : start + CHUNK]
        columns = list(zip(*(rows[i] for i in chunk), strict=True))
        columns[_TAGS] = tuple(encode_clean(tags, max_bytes=1 << 30) for tags in columns[_TAGS])
        for ordinal, job_id, inserted in await conn.fetch(sql.enqueue_many, *columns):
            verdicts[chunk[ordinal - 1]] = Enqueued(job_id, inserted)
    return [verdict for verdict in verdicts if verdict is not None]
