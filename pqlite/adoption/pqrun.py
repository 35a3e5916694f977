"""Adopts a table of pqrun: moves its jobs into pqlite.jobs, and replaces it by a view for the SQL of its clients.

First, in one short transaction, the old table is renamed, the view gets its name, and active jobs with a dedupe_key are
moved, so that their keys stay held. From then on new jobs are inserted into pqlite.jobs. The other jobs are moved in
chunks, active ones first. This can be interrupted and continued later, because jobs that are not yet moved stay in the
old table. When the old table is empty, it is dropped.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import asyncpg

from pqlite.errors import ConfigurationError, SchemaError
from pqlite.schema import files, steps
from pqlite.schema.files import DEFAULT, render
from pqlite.schema.migrating import check
from pqlite.schema.steps import PATIENCE, Patience

if TYPE_CHECKING:
    from pqlite.schema.steps import Connection

TABLE = "public.jobs"
CHUNK = 5000
HEADROOM = 10_000
"""How many ids the old table's sequence may still assign until the switch; new ids begin after them."""
_TABLE = re.compile(r"([a-z_][a-z0-9_]{0,62})\.([a-z_][a-z0-9_]{0,55})")
_COLUMNS = frozenset(
    (
        *("id", "job_type", "payload", "status", "priority", "attempts", "max_attempts", "run_after"),
        *("timeout_seconds", "locked_at", "locked_by", "dedupe_key", "last_error", "finished_at", "duration_ms"),
        *("result", "created_at", "updated_at"),
    )
)


@dataclass(slots=True)
class Survey:
    """What adopting a table would do."""

    state: str
    """'pqrun': not adopted yet; 'moving': begun; 'adopted': done."""
    jobs: dict[str, int] = field(default_factory=dict)
    """How many jobs would move, by status."""
    columns: list[str] = field(default_factory=list)
    """Columns that pqrun does not have: their values are moved into the jobs' metadata."""
    obstacles: list[str] = field(default_factory=list)
    """Reasons against it, which must be removed first."""
    warnings: list[str] = field(default_factory=list)
    """Reasons against it that `force` ignores."""


async def survey(conn: Connection, table: str = TABLE, schema: str = DEFAULT) -> Survey:
    """Inspect a table without changing anything. Reads all of it, and waits for no lock.

    Raises:
        SchemaError: there is no such table, it is no table of pqrun's, or pqlite's own schema is missing or old.
        ConfigurationError: the name is not two plain lower-case identifiers with a dot.
    """
    if table.split(".")[0] == schema:
        raise ConfigurationError(f"{table} is in pqlite's own schema; adopt it into another: --schema NAME")
    quoted = _quoted(table)
    await check(conn, schema)
    # If another process replaces or drops the table meanwhile, inspect it again.
    while True:
        before = await _stage(conn, quoted, schema)
        try:
            async with steps.reading(conn):
                found = await _look(conn, table, schema)
        except asyncpg.UndefinedTableError:
            if before == await _stage(conn, quoted, schema):
                raise
        else:
            if before == await _stage(conn, quoted, schema):
                return found


async def _stage(conn: Connection, quoted: str, schema: str) -> tuple[Any, ...]:
    async with steps.reading(conn):
        return (
            await conn.fetchval(_statement("parked", schema)),
            await conn.fetchval(_statement("columns", schema), quoted),
        )


async def _look(conn: Connection, table: str, schema: str) -> Survey:
    parked = await conn.fetchval(_statement("parked", schema))
    if parked is not None:
        if parked.replace('"', "") != f"{table}_pqrun":
            raise SchemaError(f"The jobs of {parked} are still being moved: first finish that.")
        return Survey("moving", await _counts(conn, "statuses", f"{table}_pqrun", schema))
    row = await conn.fetchrow(_statement("columns", schema), _quoted(table))
    if row is None:
        raise SchemaError(f"There is no table {table}.")
    if row["adopted"]:
        return Survey("adopted")
    missing = sorted(_COLUMNS - set(row["columns"]))
    if row["kind"] != "r" or missing:
        lacks = f": it has no column {', '.join(missing)}" if missing else ""
        raise SchemaError(f"{table} is not a table of pqrun{lacks}.")
    found = Survey(
        "pqrun",
        await _counts(conn, "statuses", table, schema),
        columns=[name for name in row["columns"] if name not in _COLUMNS],
    )
    if row["secured"]:
        found.obstacles.append("it has row level security, which a view of another table cannot keep")
    for reason, ids in await conn.fetch(_sql("unfit", table, schema)):
        found.obstacles.append(f"jobs have {reason}: ids {', '.join(map(str, ids))}")
    await _find_obstacles(conn, table, schema, found)
    return found


async def _find_obstacles(conn: Connection, table: str, schema: str, found: Survey) -> None:
    for passable, reason in await conn.fetch(_sql("obstacles", table, schema)):
        (found.warnings if passable else found.obstacles).append(reason)


async def adopt(
    conn: Connection,
    table: str = TABLE,
    schema: str = DEFAULT,
    *,
    force: bool = False,
    chunk: int = CHUNK,
    patience: Patience = PATIENCE,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Move the jobs of pqrun's table into the schema and replace the table by a view; return how many this call moved.

    Ids, times, attempts, keys and results stay the same; jobs that are RUNNING become READY as suspects, or FAILED if
    that was their last attempt. A call continues where an earlier one was interrupted, and several may run at once.
    `progress` is called after each transaction with the number of jobs moved so far. The connection stays the caller's.

    Raises:
        SchemaError: as `survey`; there are reasons against it (with `force`: reasons that it does not ignore); a step
            did not get its locks; the connection is in a transaction. Jobs that were moved stay moved.
        asyncpg.PostgresError: the server refused, for example because the role does not own the table.
    """
    steps.refuse_transaction(conn)
    found = await survey(conn, table, schema)
    refuse(table, found, force)
    moved = 0

    def count(more: int) -> None:
        nonlocal moved
        moved += more
        if progress is not None:
            progress(moved)

    if found.state == "pqrun":
        count(
            await steps.with_retries(
                conn,
                schema,
                f"Replacing {table} by a view",
                patience,
                lambda: _switch(conn, table, schema, force, patience),
                _quoted(table),
            )
        )
    if found.state != "adopted":
        await _move(conn, schema, "active", patience, count, chunk=chunk)
        await _move(conn, schema, "rest", patience, count, chunk=chunk, after=0)
        await steps.with_retries(
            conn, schema, "Dropping the empty table", patience, lambda: _finish(conn, table, schema, patience)
        )
    return moved


def refuse(table: str, found: Survey, force: bool) -> None:
    """Raise SchemaError if there are reasons against adopting a table."""
    reasons = found.obstacles + ([] if force else [f"{reason} (--force ignores this)" for reason in found.warnings])
    if reasons:
        raise SchemaError(f"{table} cannot be adopted: {'; '.join(reasons)}.")


async def _switch(conn: Connection, table: str, schema: str, force: bool, patience: Patience) -> int:
    async with steps.transaction(conn, schema, patience):
        if await _switched(conn, table, schema):
            return 0
        last = await _set_ids(conn, table, schema)
    async with steps.transaction(conn, schema, patience):
        if await _switched(conn, table, schema):
            return 0
        await conn.execute(_sql("lock", table, schema))
        if (await conn.fetchval(_sql("last", table, schema)) or 0) > last:
            raise steps.Interrupted(f"jobs with ids beyond {last} were inserted in the meantime")
        found = Survey("pqrun")
        await _find_obstacles(conn, table, schema, found)
        refuse(table, found, force)
        await conn.execute(_sql("switch", table, schema))
        ids = [id_ for (id_,) in await conn.fetch(_statement("keyed", schema))]
        await conn.execute(_statement("move", schema), ids)
    return len(ids)


async def _switched(conn: Connection, table: str, schema: str) -> bool:
    """Return whether another process has made the switch."""
    return (
        await conn.fetchval(_statement("parked", schema)) is not None
        or await conn.fetchval(_statement("columns", schema), _quoted(table)) != "r"
    )


async def _set_ids(conn: Connection, table: str, schema: str) -> int:
    """Set the sequence of pqlite.jobs beyond the ids of the old table; return the id after which its ids begin.

    It runs in a transaction of its own to avoid deadlocks. It waits for transactions that have drawn ids, so that none
    of them can insert a smaller one, and blocks nextval while it sets the sequence.
    """
    # NO CYCLE is the default: the command is only used for its lock, which nextval respects. LOCK TABLE takes no
    # sequences.
    await conn.execute(render("alter sequence pqlite.jobs_id_seq no cycle", schema))
    return int(await conn.fetchval(_sql("ids", table, schema), HEADROOM))


async def _move(
    conn: Connection,
    schema: str,
    name: str,
    patience: Patience,
    count: Callable[[int], None],
    *,
    chunk: int,
    after: int | None = None,
) -> None:
    """Move the jobs that the statement finds, chunk by chunk, until it finds none; with `after`, in the order of
    ids.
    """
    while True:
        arguments = [chunk] if after is None else [chunk, after]
        moving = partial(_chunk, conn, schema, name, arguments, patience)
        ids = await steps.with_retries(conn, schema, "Moving jobs", patience, moving)
        if not ids:
            return
        count(len(ids))
        after = None if after is None else max(ids)


async def _chunk(conn: Connection, schema: str, name: str, arguments: list[int], patience: Patience) -> list[int]:
    """Move one chunk; return the ids that moved."""
    async with steps.transaction(conn, schema, patience):
        if await conn.fetchval(_statement("parked", schema)) is None:
            return []  # another process has finished
        ids = [id_ for (id_,) in await conn.fetch(_statement(name, schema), *arguments)]
        await conn.execute(_statement("move", schema), ids)
        # They may be due behind the watermarks of sleeping workers.
        await conn.execute(render("select pqlite.wake(p_payload => 'rewind')", schema))
    return ids


async def _finish(conn: Connection, table: str, schema: str, patience: Patience) -> None:
    async with steps.transaction(conn, schema, patience):
        if await conn.fetchval(_statement("parked", schema)) is not None:
            if await conn.fetchval(render("select exists (select from pqlite.pqrun_jobs)", schema)):
                raise SchemaError(f"New jobs were inserted into {table}_pqrun; repeat the command.")
            await conn.execute(_sql("finish", table, schema))


async def _counts(conn: Connection, name: str, table: str, schema: str) -> dict[str, int]:
    return {row["status"]: row["count"] for row in await conn.fetch(_sql(name, table, schema))}


def _sql(name: str, table: str, schema: str) -> str:
    """Return a statement that is written for public.jobs for another table; see `render`."""
    quoted, parked = _quoted(table), _quoted(f"{table}_pqrun")
    names = {"public.jobs": quoted, "public.jobs_pqrun": parked, "jobs_pqrun": parked.rpartition(".")[2]}
    pattern = r"\bpublic\.jobs(?:_pqrun)?\b|\bjobs_pqrun\b"
    return re.sub(pattern, lambda found: names[found[0]], _statement(name, schema))


def _statement(name: str, schema: str) -> str:
    return files.statement(name, schema, package="pqlite.adoption")


def _quoted(table: str) -> str:
    parts = _TABLE.fullmatch(table.removesuffix("_pqrun"))
    if parts is None:
        raise ConfigurationError(
            f"table is {table!r}; it must be schema.table, plain lower-case names, such as {TABLE}"
        )
    space, name = table.split(".")
    return f'"{space}"."{name}"'
