"""Finds the version of a schema, checks whether this pqlite can use it, and migrates it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg

from pqlite.errors import SchemaError
from pqlite.schema import files, steps
from pqlite.schema.files import DEFAULT, Migration, render, statement
from pqlite.schema.steps import PATIENCE, Patience

if TYPE_CHECKING:
    from pqlite.schema.steps import Connection

MINIMUM_SERVER = 140000
_INDEX = re.compile(r"\bindex\s+(?:concurrently\s+)?(?:if\s+not\s+exists\s+)?(?:pqlite\.)?(\w+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a migration would do."""

    present: int
    """The version of the schema; 0: there is none."""
    migrations: tuple[Migration, ...]
    """The migrations that would be applied, in order."""
    functions: bool
    """Whether the functions would then be replaced."""


async def version(conn: Connection, schema: str = DEFAULT) -> int:
    """Return the version of the schema in the database, 0 if there is none."""
    async with steps.reading(conn):
        return await _version(conn, schema)


async def _version(conn: Connection, schema: str) -> int:
    if not await conn.fetchval(statement("exists", DEFAULT), schema):
        return 0
    return int(await conn.fetchval(render("select coalesce(max(m.version), 0) from pqlite.migrations m", schema)))


async def plan(conn: Connection, schema: str = DEFAULT, *, to: int | None = None, root: Path | None = None) -> Plan:
    """Return what `migrate` with the same arguments would do. Changes nothing and waits for no lock.

    Raises:
        SchemaError: as `migrate`.
    """
    async with steps.reading(conn):
        return await _plan(conn, schema, to, root)


async def _plan(conn: Connection, schema: str, to: int | None, root: Path | None) -> Plan:
    server = int(await conn.fetchval("select current_setting('server_version_num')::int"))
    if server < MINIMUM_SERVER:
        raise SchemaError(f"pqlite needs PostgreSQL 14 or newer; this server is {server // 10000}")
    newest = files.latest(root)
    target = newest if to is None else to
    if target not in [migration.version for migration in files.migrations(root)]:
        raise SchemaError(f"There is no version {target}; this pqlite knows 1 to {newest}.")
    present = await _version(conn, schema)
    if to is not None and to < present:
        raise SchemaError(
            f"The database's schema {schema!r} is at version {present}: migrations only go forward, not back to {to}."
        )
    await _refuse_newer(conn, present, schema, newest)
    missing = tuple(m for m in files.migrations(root) if present < m.version <= target)
    # The functions of a newer, compatible schema are not replaced.
    reached = missing[-1].version if missing else present
    stale = reached == newest and (bool(missing) or await _installed(conn, schema, root) is None)
    return Plan(present, missing, stale)


async def migrate(
    conn: Connection,
    schema: str = DEFAULT,
    *,
    to: int | None = None,
    patience: Patience = PATIENCE,
    root: Path | None = None,
) -> list[int]:
    """Bring the schema up to date, or to version `to`; return the versions applied here. The connection stays yours.

    Each migration runs in a transaction of its own, under an advisory lock, waits for locks as `patience` says, and is
    retried. Once the schema has the latest version, the functions are replaced in another transaction if they differ
    from those of this pqlite. It can be called repeatedly, and by several processes at once; if there is nothing to do,
    it only reads. A newer, compatible schema is not changed. `root` is a directory to use instead of ddl/.

    Raises:
        SchemaError: the server is too old; the schema is too new for this pqlite; there is no version `to`; a step did
            not get its locks, or was cancelled (earlier steps stay applied); the connection is in a transaction.
        asyncpg.PostgresError: a statement failed; earlier steps stay applied.
    """
    steps.refuse_transaction(conn)
    planned = await plan(conn, schema, to=to, root=root)
    applied = []
    for migration in planned.migrations:
        take = partial(_alone if migration.alone else _in_transaction, conn, migration, schema, patience)
        if await steps.with_retries(conn, schema, f"Migration {migration}", patience, take):
            applied.append(migration.version)
    if planned.functions:
        await steps.with_retries(
            conn, schema, "Replacing the functions", patience, lambda: _replace_functions(conn, schema, patience, root)
        )
    return applied


async def check(conn: Connection, schema: str = DEFAULT, *, root: Path | None = None) -> str | None:
    """Check that this pqlite can use the database's schema: it has the version that is needed, or a newer compatible
    one. Return a warning if something does not work as it should, else None.

    Raises:
        SchemaError: it is missing, older, or too new; the message says what to run.
    """
    needed = files.latest(root)
    async with steps.reading(conn):
        present = await _version(conn, schema)
        await _refuse_newer(conn, present, schema, needed)
    command = "pqlite migrate" if schema == DEFAULT else f"pqlite migrate --schema {schema}"
    if present == 0:
        raise SchemaError(f"The database has no schema {schema!r} of pqlite; run '{command}' or await store.migrate().")
    if present < needed:
        raise SchemaError(
            f"The database's schema {schema!r} is at version {present} and this pqlite needs {needed}; "
            f"run '{command}' or await store.migrate()."
        )
    async with steps.reading(conn):
        if await conn.fetchval(statement("disabled", schema)):
            return (
                f"The trigger jobs_inserted of {schema}.jobs is disabled: nothing wakes workers, which find jobs by "
                f"polling. Run '{command}', or ALTER TABLE {schema}.jobs ENABLE TRIGGER jobs_inserted."
            )
    return None


async def _refuse_newer(conn: Connection, present: int, schema: str, known: int) -> None:
    if present > known and await conn.fetchval(statement("serves", schema), known) > known:
        raise SchemaError(
            f"The database's schema {schema!r} is at version {present} and this pqlite knows {known}; "
            "run 'pip install --upgrade pqlite-queue'."
        )


async def _in_transaction(conn: Connection, migration: Migration, schema: str, patience: Patience) -> bool:
    async with steps.transaction(conn, schema, patience):
        if await _version(conn, schema) >= migration.version:
            return False
        await conn.execute(render(migration.sql, schema))
        await conn.execute(render(files.record(migration), schema))
    return True


async def _alone(conn: Connection, migration: Migration, schema: str, patience: Patience) -> bool:
    """Apply a migration that is one statement outside of transactions. If two processes do so at once, the lock of the
    table makes the second one wait, and IF NOT EXISTS then makes it do nothing.
    """
    indexes = list(dict.fromkeys(_INDEX.findall(re.sub(r"--.*", "", migration.sql))))
    async with steps.transaction(conn, schema, patience):
        if await _version(conn, schema) >= migration.version:
            return False
        await _drop_leftovers(conn, schema, indexes)
    try:
        async with steps.unlimited(conn):
            await conn.execute(render(migration.sql, schema))
    except asyncpg.QueryCanceledError as error:
        raise SchemaError(
            f"Migration {migration} was cancelled: {error}. Behind a pooler the session's statement_timeout cannot be "
            "changed for it: connect to PostgreSQL itself, or use ALTER ROLE ... SET statement_timeout = 0. Repeating "
            "the command is safe."
        ) from error
    async with steps.transaction(conn, schema, patience):
        if await _version(conn, schema) >= migration.version:
            return False
        if await conn.fetch(statement("leftovers", schema), indexes):
            raise steps.Interrupted("an index is still being built, or its building was interrupted")
        await conn.execute(render(files.record(migration), schema))
    return True


async def _drop_leftovers(conn: Connection, schema: str, indexes: list[str]) -> None:
    tables = {table for _, table in await conn.fetch(statement("leftovers", schema), indexes)}
    for table in tables:
        # A session that builds an index holds this lock, which does not conflict with reads and writes. NOWAIT, because
        # that session may be waiting for the end of our snapshot.
        await conn.execute(f"lock table {table} in share update exclusive mode nowait")
    for index, table in await conn.fetch(statement("leftovers", schema), indexes):
        if table in tables:
            await conn.execute(f"drop index {index}")


async def _replace_functions(conn: Connection, schema: str, patience: Patience, root: Path | None) -> None:
    async with steps.transaction(conn, schema, patience):
        # A newer pqlite may have migrated in the meantime.
        if await _version(conn, schema) != files.latest(root) or await _installed(conn, schema, root) is not None:
            return
        for sql in files.functions(root):
            await conn.execute(render(sql, schema))
        await conn.execute(statement("installed", schema), await _digests(conn, schema, root))


async def _digests(conn: Connection, schema: str, root: Path | None) -> str:
    """Return the digests of this pqlite's functions and of those in the database, in the form that `script` writes."""
    return f"{files.functions_digest(root)} {await conn.fetchval(statement('digest', schema))}"


async def _installed(conn: Connection, schema: str, root: Path | None) -> str | None:
    """Return the digest of the functions if they are those of this pqlite and unchanged; else None."""
    if await conn.fetchval(statement("disabled", schema)):
        return None
    now = await _digests(conn, schema, root)
    return now if await conn.fetchval(statement("functions", schema)) == now else None
