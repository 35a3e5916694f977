"""Which version a schema is at, who may use it, and how it becomes the one that this pqlite needs."""

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
    """The version the schema is at; 0: there is none."""
    migrations: tuple[Migration, ...]
    """What would be applied, in order."""
    functions: bool
    """Whether the functions would be replaced, after that."""


async def version(conn: Connection, schema: str = DEFAULT) -> int:
    """Return the database's schema version, 0 when there is none."""
    async with steps.looking(conn):
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
    async with steps.looking(conn):
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
    # Those of a newer pqlite, whose schema still serves this one, are left alone.
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

    Each migration is a transaction of its own under an advisory lock that ends with it, waits no longer for a lock
    than `patience` says, and is tried again; the functions follow in one more, if they differ from this pqlite's and
    the latest version is reached. Twice is harmless, several at once are harmless; with nothing to do it only reads.
    A schema that is newer, but still serves this pqlite, is left as it is. `root` is another folder than ddl/.

    Raises:
        SchemaError: the server is too old; the schema is newer and no longer serves this pqlite; there is no version
            `to`; a step did not get its locks, or was cancelled (the steps before it are done); the connection is in a
            transaction.
        asyncpg.PostgresError: a statement failed; the steps before its own are done.
    """
    steps.refuse_transaction(conn)
    planned = await plan(conn, schema, to=to, root=root)
    applied = []
    for migration in planned.migrations:
        take = partial(_alone if migration.alone else _in_transaction, conn, migration, schema, patience)
        if await steps.patiently(conn, schema, f"Migration {migration}", patience, take):
            applied.append(migration.version)
    if planned.functions:
        await steps.patiently(
            conn, schema, "Replacing the functions", patience, lambda: _replace_functions(conn, schema, patience, root)
        )
    return applied


async def check(conn: Connection, schema: str = DEFAULT, *, root: Path | None = None) -> str | None:
    """Return if this pqlite can run on the database's schema: it is the one it needs, or newer and still serves it.
    What works, but worse than it should, is returned as a sentence; None if there is nothing.

    Raises:
        SchemaError: it is missing, older, or too new; the message says what to run.
    """
    needed = files.latest(root)
    async with steps.looking(conn):
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
    async with steps.looking(conn):
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
    """Apply a migration that is one statement outside transactions. Two migrators may both come to it: the table's
    lock lets one build, and IF NOT EXISTS the other go on.
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
            f"Migration {migration} was stopped: {error}. Behind a pooler the session's statement_timeout cannot be "
            "lifted for it: connect to PostgreSQL itself, or say ALTER ROLE ... SET statement_timeout = 0. Repeating "
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
        # Whoever builds an index holds this lock until it is valid; those who read and write jobs do not mind it. No
        # waiting: the builder may itself have to wait until our snapshot is gone.
        await conn.execute(f"lock table {table} in share update exclusive mode nowait")
    for index, table in await conn.fetch(statement("leftovers", schema), indexes):
        if table in tables:
            await conn.execute(f"drop index {index}")


async def _replace_functions(conn: Connection, schema: str, patience: Patience, root: Path | None) -> None:
    async with steps.transaction(conn, schema, patience):
        # A newer pqlite may have come first.
        if await _version(conn, schema) != files.latest(root) or await _installed(conn, schema, root) is not None:
            return
        for sql in files.functions(root):
            await conn.execute(render(sql, schema))
        await conn.execute(statement("installed", schema), await _digests(conn, schema, root))


async def _digests(conn: Connection, schema: str, root: Path | None) -> str:
    """Return the digests of this pqlite's functions and of those in the database, as `script` writes them."""
    return f"{files.functions_digest(root)} {await conn.fetchval(statement('digest', schema))}"


async def _installed(conn: Connection, schema: str, root: Path | None) -> str | None:
    """Return the digest of the functions if they are this pqlite's, and as it left them; else None."""
    if await conn.fetchval(statement("disabled", schema)):
        return None
    now = await _digests(conn, schema, root)
    return now if await conn.fetchval(statement("functions", schema)) == now else None
