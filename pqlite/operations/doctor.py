"""What is wrong with the queue and its database, and what to do about it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Literal, TypeAlias

from pqlite.errors import SchemaError
from pqlite.operations.statements import Statements
from pqlite.store.postgres import PgJobStore
from pqlite.store.route import Pooling

if TYPE_CHECKING:
    from pqlite.store.connecting import Connection

Severity: TypeAlias = Literal["error", "warning", "info"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")
OLDEST_SERVER = 14
CLOCK_TOLERANCE = timedelta(seconds=2)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong: a constant code, a sentence, and what to do."""

    severity: Severity
    code: str
    text: str
    advice: str


async def examine(
    store: PgJobStore,
    limited: Callable[[], AbstractAsyncContextManager[Connection]],
    sql: Statements,
    patience: timedelta,
) -> list[Finding]:
    """Return what is wrong, errors first. If the schema does not serve this pqlite, only that and the server are told.

    Raises:
        StoreTimeout: the server did not answer in time.
    """
    async with limited() as conn:
        found = await server_findings(conn, sql)
    found += _pooler(store)
    try:
        await store.check_schema()
    except SchemaError as error:
        found.append(Finding("error", "SCHEMA", str(error), "run pqlite migrate, of the newest pqlite that is in use"))
    else:
        async with limited() as conn:
            found += [Finding(*row) for row in await conn.fetch(sql.doctor, patience)]
    return sorted(found, key=lambda each: SEVERITIES.index(each.severity))


async def server_findings(
    conn: Connection, sql: Statements, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
) -> list[Finding]:
    """Return what is wrong with the server itself, and with its clock beside this machine's."""
    found = []
    before = clock()
    row = await conn.fetchrow(sql.server)
    after = clock()
    assert row is not None
    now, version, standby = row
    if version < OLDEST_SERVER * 10_000:
        text = f"PostgreSQL {version // 10_000} is older than {OLDEST_SERVER}"
        found.append(Finding("error", "VERSION", text, "upgrade the server"))
    if standby:
        text = "the server is a standby and accepts no writes"
        found.append(Finding("error", "STANDBY", text, "connect to the primary"))
    if not before - CLOCK_TOLERANCE <= now <= after + CLOCK_TOLERANCE:
        seconds = (now - before).total_seconds()
        text = f"the server's clock is {abs(seconds):,.0f} s {'ahead of' if seconds > 0 else 'behind'} this machine's"
        advice = "synchronize both; the server's clock decides when jobs are due"
        found.append(Finding("warning", "CLOCK", text, advice))
    return found


def _pooler(store: PgJobStore) -> list[Finding]:
    if store.listen_pooling is not Pooling.TRANSACTION:
        return []
    text = "behind a pooler in transaction mode workers poll for jobs, and notice the death of others by the lease only"
    return [Finding("info", "POOLER", text, "give the workers' store listen_dsn=, an address that bypasses the pooler")]
