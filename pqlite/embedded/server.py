"""Starts, stops and finds a server on one data directory; the only part that talks to it."""

from __future__ import annotations

import contextlib
import functools
import os
import random
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Literal, NamedTuple, Self
from urllib.parse import quote

import anyio
import asyncpg

from pqlite.embedded.guard import Guarded
from pqlite.embedded.program import (
    EmbeddedError,
    Program,
    as_user,
    give,
    may,
    private_directory,
    program_for,
    require_same_major,
)
from pqlite.uninterrupted import uninterrupted

if TYPE_CHECKING:
    import pwd

StopMode = Literal["fast", "immediate"]

_SIGNALS: dict[StopMode, signal.Signals] = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT}
_START_DEADLINE = 60.0
_STOP_DEADLINE = 20.0


class EmbeddedPostgres:
    """A PostgreSQL server that lives as long as the `async with` block, and no longer than this process.

    Without `data_dir` the data is temporary and removed by `stop`. A server that already runs on `data_dir`
    is used and left running. The superuser is `postgres`, without a password; with `port` (0 chooses a free
    one) the server listens on 127.0.0.1 too, and then every user of this machine may connect.

    Started by root, the server runs as the owner of `data_dir` or as `postgres` or `nobody`, because
    PostgreSQL refuses to run as root. `fsync=False` is for tests: a crash of the machine loses the data.
    The socket and temporary data live in a new directory below `temp_dir`, by default the system's.
    """

    def __init__(
        self,
        data_dir: Path | None = None,
        *,
        port: int | None = None,
        settings: Mapping[str, str] | None = None,
        fsync: bool = True,
        temp_dir: Path | None = None,
    ) -> None:
        self.pid: int | None = None
        self.port = _free_port() if port == 0 else port
        self._given_data_dir = None if data_dir is None else Path(data_dir).absolute()
        self._settings = dict(settings or {})
        self._fsync = fsync
        self._temp_dir = temp_dir
        self._home: Path | None = None
        self._foreign: _Found | None = None
        self._process: Guarded | None = None

    @property
    def socket_dir(self) -> Path:
        """Return the directory of the unix socket, fixed by the first start."""
        if self._foreign is not None:
            return Path(self._foreign.host)
        if self._home is None:
            raise EmbeddedError("The embedded server was never started; use 'async with EmbeddedPostgres()'.")
        return self._home

    @property
    def data_dir(self) -> Path:
        """Return where the server keeps its files and `server.log`."""
        return self._given_data_dir or self.socket_dir / "data"

    @property
    def dsn(self) -> str:
        """Return the address of the database `postgres`, the same before and after a restart."""
        return self._foreign.dsn if self._foreign is not None else _dsn(self.socket_dir, self.port or 5432)

    async def __aenter__(self) -> Self:
        """Start."""
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop."""
        await self.stop()

    async def start(self) -> None:
        """Start the server and return once it accepts connections; a running one is left as it is.

        Raises:
            EmbeddedError: there are no binaries, the data directory belongs to another major version, or
                the server ended early (the message has the end of its log).
        """
        if self._foreign is not None or (self._process is not None and self._process.returncode is None):
            return
        if sys.platform == "win32":
            raise EmbeddedError("The embedded server needs a POSIX system; give the DSN of a server instead.")
        if self._given_data_dir is not None:
            self._foreign = await _running_server(self._given_data_dir)
            if self._foreign is not None:
                self.pid = self._foreign.pid
                return
        await self._halt("fast")  # a server that died is forgotten properly
        program = await anyio.to_thread.run_sync(program_for, self._given_data_dir)
        try:
            self._prepare_directories(program.user)
            if (self.data_dir / "PG_VERSION").exists():
                require_same_major(self.data_dir, program.bin_dir)
            else:
                await self._init(program)
            await self._launch(program)
        except BaseException:
            await self.stop()
            raise

    async def stop(self, mode: StopMode = "fast") -> None:
        """End the server, its open connections and its temporary files; an attached server stays."""
        await uninterrupted(self._end(mode))

    async def _end(self, mode: StopMode) -> None:
        await self._halt(mode)
        self._foreign = self.pid = None
        if self._home is not None:
            await anyio.to_thread.run_sync(functools.partial(shutil.rmtree, self._home, ignore_errors=True))

    async def restart(self, mode: StopMode = "fast") -> None:
        """Stop and start again on the same data and the same address; `immediate` is a crash."""
        async with self.outage(mode):
            pass

    @contextlib.asynccontextmanager
    async def outage(self, mode: StopMode = "fast") -> AsyncIterator[None]:
        """Keep the server down inside the block; data and address survive, temporary ones too."""
        if self._foreign is not None:
            raise EmbeddedError(f"The server on {str(self.data_dir)!r} was not started here; stop it where it was.")
        await uninterrupted(self._halt(mode))
        try:
            yield
        finally:
            await self.start()

    def _prepare_directories(self, user: pwd.struct_passwd | None) -> None:
        if self._home is None:
            self._home = private_directory(user, self._temp_dir)
        elif not self._home.exists():
            self._home.mkdir(mode=0o700)
            give(self._home, user)
        if user is not None and self._given_data_dir is not None:
            if not self.data_dir.exists():
                self.data_dir.mkdir(mode=0o700, parents=True)
            if not any(self.data_dir.iterdir()):
                give(self.data_dir, user)
            if not may(user, "-w", self.data_dir):
                raise EmbeddedError(
                    f"The data directory {str(self.data_dir)!r} is out of reach for {user.pw_name!r}, the "
                    "user the server runs as when root starts it; choose a directory that it may enter."
                )

    async def _init(self, program: Program) -> None:
        command = [str(program.bin_dir / "initdb"), "-D", str(self.data_dir), "-U", "postgres", "-A", "trust"]
        command += ["-E", "UTF8", "--no-locale"]
        if not self._fsync or self._given_data_dir is None:
            command.append("--no-sync")
        log = self.socket_dir / "initdb.log"
        self._process = Guarded(command, log, (self.socket_dir, program.copy), **as_user(program.user))
        if not await self._process.ended(_START_DEADLINE) or self._process.returncode != 0:
            raise EmbeddedError(f"initdb could not create {str(self.data_dir)!r}:\n{_tail(log)}")
        self._process.release()

    async def _launch(self, program: Program) -> None:
        settings = {} if self._fsync else {"fsync": "off", "full_page_writes": "off"}
        command = [str(program.bin_dir / "postgres"), "-D", str(self.data_dir), "-k", str(self.socket_dir)]
        command += ["-h", "" if self.port is None else "127.0.0.1", "-p", str(self.port or 5432)]
        for name, value in (settings | self._settings).items():
            command += ["-c", f"{name}={value}"]
        log = self.data_dir / "server.log"
        self._process = Guarded(command, log, (self.socket_dir, program.copy), **as_user(program.user))
        deadline = monotonic() + _START_DEADLINE
        while await _served_directory(self.dsn) is None:
            if self._process.returncode is not None:
                raise EmbeddedError(f"PostgreSQL ended while it started; the end of {str(log)!r}:\n{_tail(log)}")
            if monotonic() > deadline:
                raise EmbeddedError(f"PostgreSQL is not ready after {_START_DEADLINE:.0f} s:\n{_tail(log)}")
            await anyio.sleep(0.01)
        self.pid = self._process.pid

    async def _halt(self, mode: StopMode) -> None:
        if self._process is None:
            return
        for number in (_SIGNALS[mode], signal.SIGQUIT, signal.SIGKILL):
            self._process.signal(number)
            if await self._process.ended(_STOP_DEADLINE):
                break
        self._process.release()
        self._process = self.pid = None


class _Found(NamedTuple):
    """A server that another process has started, as its postmaster.pid describes it."""

    pid: int
    host: str
    port: str

    @property
    def dsn(self) -> str:
        return _dsn(self.host, self.port)


async def _running_server(data_dir: Path) -> _Found | None:
    deadline = monotonic() + _STOP_DEADLINE
    while (found := _recorded_server(data_dir)) is not None:
        if found.host and (directory := await _served_directory(found.dsn)) is not None:
            return found if directory.samefile(data_dir) else None
        if monotonic() > deadline:
            raise EmbeddedError(
                f"Process {found.pid} holds {str(data_dir / 'postmaster.pid')!r} and does not answer as "
                "PostgreSQL; stop it, or remove the file if that is another program."
            )
        await anyio.sleep(0.05)
    return None


def _recorded_server(data_dir: Path) -> _Found | None:
    try:
        lines = (data_dir / "postmaster.pid").read_text().splitlines() + [""] * 6
        pid = int(lines[0])
        os.kill(pid, 0)
    except PermissionError:
        pass  # alive, and owned by another user
    except (OSError, ValueError):
        return None
    return _Found(pid, host=lines[4] or lines[5], port=lines[3])


async def _served_directory(dsn: str) -> Path | None:
    """Return the data directory of the server at that address, or None while it is not ready."""
    try:
        connection = await asyncpg.connect(dsn, timeout=5)
    except (OSError, asyncpg.CannotConnectNowError, asyncpg.ConnectionDoesNotExistError):
        return None
    except asyncpg.PostgresError as error:
        raise EmbeddedError(f"The server refuses the user 'postgres' at {dsn!r}: {error}") from error
    try:
        return Path(await connection.fetchval("show data_directory"))
    finally:
        await connection.close()


def _dsn(host: Path | str, port: int | str) -> str:
    return f"postgresql://postgres@/postgres?host={quote(str(host), safe='')}&port={port}"


def _tail(log: Path) -> str:
    with contextlib.suppress(OSError):
        return "\n".join(log.read_text(errors="replace").splitlines()[-20:])
    return "(there is no log)"


def _free_port() -> int:
    # Below the range of outgoing connections, so that no connection takes the port during a restart.
    for port in random.sample(range(20_000, 32_000), 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise EmbeddedError("No free port was found on 127.0.0.1.")
