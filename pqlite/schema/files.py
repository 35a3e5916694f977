"""The files of ddl/: migrations, functions, roles; rendered for a schema's name, and as one script for psql."""

from __future__ import annotations

import hashlib
import importlib.resources
import re
from functools import lru_cache
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import NamedTuple

from pqlite.errors import ConfigurationError, SchemaError

DEFAULT = "pqlite"
_NAME = re.compile(r"[a-z_][a-z0-9_]{0,40}")
_MIGRATION = re.compile(r"(\d{4})_(\w+)\.sql")
_ROLE = re.compile(r"\bpqlite_(migrator|worker|producer|viewer)\b")
_DIRECTIVE = re.compile(r"-- pqlite: (?:(no transaction)|serves (\d+))")


class Migration(NamedTuple):
    """One file of ddl/migrations; its SQL is for the default schema."""

    version: int
    name: str
    sql: str

    @property
    def alone(self) -> bool:
        """Return whether it is one statement that cannot run in a transaction: `-- pqlite: no transaction`."""
        return any(found[1] for found in self._directives())

    @property
    def serves(self) -> int:
        """Return the oldest version that a pqlite may have been written for and still work after this migration.

        `-- pqlite: serves 3`; without that, the migration's own.
        """
        return min((int(found[2]) for found in self._directives() if found[2]), default=self.version)

    def __str__(self) -> str:
        """Return the file's name without its ending."""
        return f"{self.version:04d}_{self.name}"

    def _directives(self) -> list[re.Match[str]]:
        """Raise SchemaError for a line at the top that looks like a directive but is not."""
        found = []
        for line in self.sql.splitlines():
            if not line.startswith("--"):
                break
            if line.startswith("-- pqlite:"):
                match = _DIRECTIVE.fullmatch(line.rstrip())
                if match is None or int(match[2] or 0) > self.version:
                    raise SchemaError(f"{self}.sql says '{line}', which is not a directive.")
                found.append(match)
        return found


def _root() -> Traversable:
    inside = importlib.resources.files("pqlite") / "ddl"  # a wheel
    if inside.is_dir():
        return inside
    beside = Path(__file__).resolve().parents[2] / "ddl"  # a checkout, an editable install
    if beside.is_dir():
        return beside
    raise FileNotFoundError("pqlite's ddl/*.sql are missing from this installation; reinstall pqlite-queue")


@lru_cache
def migrations(root: Path | None = None) -> tuple[Migration, ...]:
    """Return every migration, in order. `root` is a directory to use instead of ddl/."""
    files = ((root or _root()) / "migrations").iterdir()
    matches = [(match, file) for file in files if (match := _MIGRATION.fullmatch(file.name))]
    return tuple(
        sorted(Migration(int(match[1]), match[2], file.read_text(encoding="utf-8")) for match, file in matches)
    )


@lru_cache
def functions(root: Path | None = None) -> tuple[str, ...]:
    """Return the SQL of everything that is replaced when it differs, for the default schema, in the order in which it
    must run in one transaction: a note of who may execute what, each function, each view, and who may execute them.
    """
    base = root or _root()
    replaced = [(_root() / "grants.sql").read_text(encoding="utf-8")]
    for folder in (base / "functions", base / "views"):
        files = [file for file in folder.iterdir() if file.name.endswith(".sql")] if folder.is_dir() else []
        replaced += [file.read_text(encoding="utf-8") for file in sorted(files, key=lambda file: file.name)]
    return (*replaced, (_root() / "privileges.sql").read_text(encoding="utf-8"))


def functions_digest(root: Path | None = None) -> str:
    """Return a digest of the files of functions."""
    return hashlib.sha256("\0".join(functions(root)).encode()).hexdigest()[:32]


def roles(schema: str = DEFAULT) -> str:
    """Return the psql script that makes pqlite's roles."""
    return render((_root() / "roles.sql").read_text(encoding="utf-8"), schema)


def latest(root: Path | None = None) -> int:
    """Return the version that this pqlite needs."""
    return migrations(root)[-1].version


def render(sql: str, schema: str) -> str:
    """Return SQL written for the schema `pqlite` for another schema. This is the only place where a name is put into
    SQL.

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


@lru_cache
def statement(name: str, schema: str, package: str = "pqlite.schema") -> str:
    """Return sql/<name>.sql of a package, rendered."""
    file = importlib.resources.files(package) / "sql" / f"{name}.sql"
    return render(file.read_text(encoding="utf-8"), schema)


def record(migration: Migration) -> str:
    """Return the statement that records a migration as applied, for the default schema."""
    # Both come from a file's name and head. The table has had `serves` since the second migration.
    columns, values = "version, name", f"{migration.version}, '{migration.name}'"
    if migration.version > 1:
        columns, values = f"{columns}, serves", f"{values}, {migration.serves}"
    return f"insert into pqlite.migrations ({columns}) values ({values});"  # noqa: S608


def script(schema: str = DEFAULT, *, since: int = 0, to: int | None = None, root: Path | None = None) -> str:
    """Return one SQL script that brings a schema at version `since` to version `to` (by default the latest).

    What `pqlite migrate --sql` prints and psql can run, without pqlite's help. The whole schema is one transaction,
    but for statements that can run in none; from a version on, each step is one, with a short wait for locks. A schema
    at another version than `since` is refused, and nothing is changed.

    Raises:
        SchemaError: there are no such versions.
    """
    known = [0, *(migration.version for migration in migrations(root))]
    target = known[-1] if to is None else to
    if since not in known or target not in known:
        raise SchemaError(f"There is no way from version {since} to {target}: pqlite knows {known[1]} to {known[-1]}.")

    def begin(at: int) -> str:
        start = "begin;\nset local search_path = pg_catalog, pg_temp;"
        if since == 0:
            return start
        guard = statement("guard", DEFAULT).replace("$1", str(at))
        return f"{start}\nset local lock_timeout = '2s';\n{guard}"

    title = "the whole schema, for an empty database" if since == 0 else f"from version {since} to {target}"
    parts = [f"-- pqlite: {title}.\n\\set ON_ERROR_STOP on", begin(since)]
    at = since
    for migration in migrations(root):
        if since < migration.version <= target:
            parts += ["commit;", migration.sql, begin(at)] if migration.alone else [migration.sql]
            parts += [record(migration)]
            at = migration.version
            if since > 0:
                parts += ["commit;", begin(at)]
    if target == known[-1]:
        digest = f"'{functions_digest(root)} ' || ({statement('digest', DEFAULT)})"
        parts += [*functions(root), statement("installed", DEFAULT).replace("$1", digest)]
    parts.append("commit;")
    return render("\n".join(parts) + "\n", schema)
