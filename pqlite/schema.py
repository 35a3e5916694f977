"""The database's side: finds ddl/, renders it for a schema's name, migrates, and refuses what it does not know."""

from __future__ import annotations

import importlib.resources
import re
from functools import lru_cache
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg

from pqlite.errors import ConfigurationError, SchemaError

if TYPE_CHECKING:
    Connection = asyncpg.Connection[Any] | asyncpg.pool.PoolConnectionProxy[Any]

DEFAULT = "pqlite"
MINIMUM_SERVER = 140000
_NAME = re.compile(r"[a-z_][a-z0-9_]{0,40}")
_MIGRATION = re.compile(r"(\d{4})_(\w+)\.sql")
_ROLE = re.compile(r"\bpqlite_(migrator|worker|producer|viewer)\b")


def _root() -> Traversable:
    inside = importlib.resources.files("pqlite") / "ddl"  # a wheel
    if inside.is_dir():
        return inside
    beside = Path(__file__).resolve().parent.parent / "ddl"  # a checkout, an editable install
    if beside.is_dir():
        return beside
    raise FileNotFoundError("pqlite's ddl/*.sql are missing from this installation; reinstall pqlite-queue")


@lru_cache(maxsize=1)
def migrations() -> tuple[tuple[int, str, str], ...]:
    """Return every migration as (version, name, SQL for the default schema), in order."""
    files = (_root() / "migrations").iterdir()
    matches = [(match, file) for file in files if (match := _MIGRATION.fullmatch(file.name))]
    return tuple(sorted((int(match[1]), match[2], file.read_text(encoding="utf-8")) for match, file in matches))


@lru_cache(maxsize=1)
def functions() -> tuple[str, ...]:
    """Return the SQL of everything that is replaced on every migrate, for the default schema, in the order in which it
    must run: each function, each view, and last that nobody may call a function without a grant.
    """
    replaced: list[str] = []
    for folder in ("functions", "views"):
        files = [file for file in (_root() / folder).iterdir() if file.name.endswith(".sql")]
        replaced += [file.read_text(encoding="utf-8") for file in sorted(files, key=lambda file: file.name)]
    return (*replaced, (_root() / "privileges.sql").read_text(encoding="utf-8"))


def roles(schema: str = DEFAULT) -> str:
    """Return the SQL script, for psql, that makes the roles of a schema: `pqlite_worker`, or `other_worker`, ..."""
    return render((_root() / "roles.sql").read_text(encoding="utf-8"), schema)


def latest() -> int:
    """Return the version this pqlite needs."""
    return migrations()[-1][0]


def render(sql: str, schema: str) -> str:
    """Return SQL written for the schema `pqlite` for another schema. The one place where a name becomes text.

    Raises:
        ConfigurationError: the name is not a plain lower-case identifier of at most 41 characters.
    """
    if not _NAME.fullmatch(schema):
        raise ConfigurationError(
            f"schema is {schema!r}; it must be lower-case letters, digits and _, 41 at most, not starting with a digit"
        )
    if schema == DEFAULT:
        return sql
    sql = _ROLE.sub(rf'"{schema}_\1"', sql.replace("pqlite_wake", channel(schema)))
    return re.sub(r"\bpqlite\b", f'"{schema}"', sql)


def channel(schema: str) -> str:
    """Return the NOTIFY channel of a schema."""
    return f"{schema}_wake"


def script(schema: str = DEFAULT) -> str:
    """Return one SQL script that builds the whole schema: what `pqlite migrate --sql` prints and psql can run."""
    parts = [
        "-- pqlite: the whole schema, for an empty database. Runs in one transaction.\n\\set ON_ERROR_STOP on\nbegin;"
    ]
    for version, name, sql in migrations():
        parts += [sql, _record(version, name)]
    parts += [*functions(), "commit;"]
    return render("\n".join(parts) + "\n", schema)


def _record(version: int, name: str) -> str:
    return f"insert into pqlite.migrations (version, name) values ({version}, '{name}');"  # noqa: S608 - both from a file's name


async def version(conn: Connection, schema: str = DEFAULT) -> int:
    """Return the database's schema version, 0 when there is none."""
    table = render("pqlite.migrations", schema)
    if await conn.fetchval("select to_regclass($1::text) is null", table):
        return 0
    return int(await conn.fetchval(f"select coalesce(max(version), 0) from {table}"))  # noqa: S608 - rendered name


async def migrate(conn: Connection, schema: str = DEFAULT) -> list[int]:
    """Bring the schema up to date, in one transaction under an advisory lock; return the versions applied.

    Twice is harmless, several at once are harmless: the later ones wait and find nothing to do. The functions are
    replaced every time. The connection stays the caller's.

    Raises:
        SchemaError: the server is too old, or the database's schema is newer than this pqlite.
    """
    server = int(await conn.fetchval("select current_setting('server_version_num')::int"))
    if server < MINIMUM_SERVER:
        raise SchemaError(f"pqlite needs PostgreSQL 14 or newer; this server is {server // 10000}")
    applied = []
    # A stricter isolation, set for the role, would look at the versions with a snapshot from before the wait.
    async with conn.transaction(isolation="read_committed"):
        await conn.execute("select pg_advisory_xact_lock(hashtextextended($1, 0))", f"pqlite migrate {schema}")
        present = await version(conn, schema)
        _refuse_newer(present, schema)
        for number, name, sql in migrations():
            if number > present:
                await conn.execute(render(sql, schema))
                await conn.execute(render(_record(number, name), schema))
                applied.append(number)
        for sql in functions():
            await conn.execute(render(sql, schema))
    return applied


async def check(conn: Connection, schema: str = DEFAULT) -> None:
    """Return if the database's schema is the one this pqlite needs.

    Raises:
        SchemaError: it is missing, older or newer; the message says what to run.
    """
    present = await version(conn, schema)
    _refuse_newer(present, schema)
    command = "pqlite migrate" if schema == DEFAULT else f"pqlite migrate --schema {schema}"
    if present == 0:
        raise SchemaError(f"The database has no schema {schema!r} of pqlite; run '{command}' or await store.migrate().")
    if present < latest():
        raise SchemaError(
            f"The database's schema {schema!r} is at version {present} and this pqlite needs {latest()}; "
            f"run '{command}' or await store.migrate()."
        )


def _refuse_newer(present: int, schema: str) -> None:
    if present > latest():
        raise SchemaError(
            f"The database's schema {schema!r} is at version {present} and this pqlite knows {latest()}; "
            "run 'pip install --upgrade pqlite-queue'."
        )
