"""Drops a schema with all objects of pqlite, and refuses to drop any other object."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import asyncpg

from pqlite.errors import SchemaError
from pqlite.schema import files, steps
from pqlite.schema.files import DEFAULT, render, statement
from pqlite.schema.migrating import version
from pqlite.schema.steps import PATIENCE, Patience

if TYPE_CHECKING:
    from pqlite.schema.steps import Connection

_CREATED = re.compile(
    r"^\s*create (?:or replace |unlogged )?(table|sequence|view|function|procedure) (?:if not exists )?pqlite\.(\w+)",
    re.MULTILINE,
)
_VIEW = re.compile(r"^\s*call pqlite\.replace_(view)\('(\w+)'", re.MULTILINE)
_ORDER = ("view", "function", "procedure", "table", "sequence")


@dataclass(frozen=True, slots=True)
class Census:
    """The contents of a schema."""

    version: int
    jobs: dict[str, int]
    """How many jobs there are, by status."""
    workers: list[str]
    """The labels of the workers that are alive."""
    ours: dict[str, list[str]]
    """pqlite's objects, by kind."""
    foreign: list[str]
    """Objects that pqlite did not create."""


async def census(conn: Connection, schema: str = DEFAULT) -> Census:
    """Count what `uninstall` would drop. Reads all of the jobs' table; changes nothing.

    Raises:
        SchemaError: there is no schema of pqlite of that name.
    """
    present = await version(conn, schema)
    if present == 0:
        raise SchemaError(f"The database has no schema {schema!r} of pqlite.")
    async with steps.reading(conn):
        jobs = {row["status"]: row["count"] for row in await conn.fetch(statement("statuses", schema))}
        workers = await _alive(conn, schema)
        ours, foreign = await _objects(conn, schema)
    return Census(present, jobs, workers, ours, foreign)


async def uninstall(
    conn: Connection, schema: str = DEFAULT, *, force: bool = False, patience: Patience = PATIENCE
) -> None:
    """Drop the schema with its jobs, in one transaction, or change nothing. The connection stays the caller's.

    Raises:
        SchemaError: there is none; workers are alive (unless `force`); it holds objects that pqlite did not make, or
            objects elsewhere depend on it; it did not get its locks; the connection is in a transaction.
    """
    steps.refuse_transaction(conn)
    if await version(conn, schema) == 0:
        raise SchemaError(f"The database has no schema {schema!r} of pqlite.")
    try:
        await steps.with_retries(
            conn, schema, "Dropping the schema", patience, lambda: _drop(conn, schema, force, patience)
        )
    except asyncpg.DependentObjectsStillExistError as error:
        raise SchemaError(f"Objects elsewhere depend on the schema {schema!r}: {error.detail or error}") from error


async def _drop(conn: Connection, schema: str, force: bool, patience: Patience) -> None:
    async with steps.transaction(conn, schema, patience):
        # Checked before the locks, so that a refusal does not disturb workers, and again after, because a worker may
        # have started.
        await _refuse_alive(conn, schema, force)
        await conn.execute(render("lock table pqlite.jobs in access exclusive mode", schema))
        # NOWAIT: a claim locks jobs before workers, a renewal workers before jobs, so that waiting here could deadlock
        # with one of them.
        await conn.execute(render("lock table pqlite.workers in access exclusive mode nowait", schema))
        await _refuse_alive(conn, schema, force)
        ours, foreign = await _objects(conn, schema)
        if foreign:
            raise SchemaError(f"The schema {schema!r} has objects that pqlite did not create: {', '.join(foreign)}.")
        for (trigger,) in await conn.fetch(statement("triggers", schema)):
            await conn.execute(f"drop trigger {trigger}")
        for kind in _ORDER:
            if ours[kind]:
                await conn.execute(f"drop {kind} {', '.join(ours[kind])}")
        await conn.execute(render("drop schema pqlite", schema))


async def _refuse_alive(conn: Connection, schema: str, force: bool) -> None:
    if not force and (alive := await _alive(conn, schema)):
        raise SchemaError(f"Workers are alive: {', '.join(alive)}. Stop them first, or use --force.")


async def _alive(conn: Connection, schema: str) -> list[str]:
    return [label for (label,) in await conn.fetch(statement("alive", schema))]


async def _objects(conn: Connection, schema: str) -> tuple[dict[str, list[str]], list[str]]:
    texts = [*(migration.sql for migration in files.migrations()), *files.functions()]
    known = {match for text in texts for pattern in (_CREATED, _VIEW) for match in pattern.findall(text)}
    ours: dict[str, list[str]] = {kind: [] for kind in _ORDER}
    foreign = []
    for kind, name, identity in await conn.fetch(statement("objects", schema)):
        if (kind, name) in known:
            ours[kind].append(identity)
        else:
            foreign.append(f"{kind} {identity}")
    return ours, foreign
