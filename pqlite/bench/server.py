"""The server that is measured, and the processor time of its processes where that can be read."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pqlite.bench.contenders.base import Connection

_PROC = Path("/proc")
_IS_LOCAL = "select inet_server_addr() is null or inet_server_addr() = inet_client_addr()"
SETTINGS = ("server_version", "fsync", "synchronous_commit", "full_page_writes", "shared_buffers", "max_connections")


class Server:
    """A running PostgreSQL server."""

    def __init__(self, settings: dict[str, str], local: bool, postmaster: int | None) -> None:
        self.settings = settings
        self.local = local
        self._postmaster = postmaster

    @classmethod
    async def reached(cls, conn: Connection) -> Server:
        """Return the server that a connection leads to."""
        settings = {name: str(await conn.fetchval("select current_setting($1)", name)) for name in SETTINGS}
        local = bool(await conn.fetchval(_IS_LOCAL))
        return cls(settings, local, _parent_of_backend(conn.get_server_pid()) if local else None)

    def cpu(self) -> float | None:
        """Return the processor seconds of all the server's processes so far; None if they cannot be seen."""
        if self._postmaster is None:
            return None
        ended = None
        while True:
            ticks, ended_before = 0, ended
            for directory in _PROC.iterdir():
                if directory.name.isdecimal() and (fields := _stat(directory.name)) is not None:
                    if int(directory.name) == self._postmaster:
                        ended = fields[13:15]  # what its children that have ended had used
                        ticks += sum(map(int, fields[11:15]))
                    elif int(fields[1]) == self._postmaster:
                        ticks += sum(map(int, fields[11:13]))
            # A process that ended meanwhile was counted not at all or twice: read again.
            if ended is None or ended == ended_before:
                return ticks / os.sysconf("SC_CLK_TCK")


def _parent_of_backend(pid: int) -> int | None:
    """Return the postmaster of a backend, unless that number means another process here: it may be in a container."""
    backend = _stat(str(pid))
    parent = None if backend is None else int(backend[1])
    names = {_name(str(pid)), _name(str(parent))}
    return parent if names <= {"postgres", "postmaster"} else None


def _stat(pid: str) -> list[str] | None:
    """Return the fields of /proc/<pid>/stat after the name, which may contain anything."""
    with suppress(OSError):
        return (_PROC / pid / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    return None


def _name(pid: str) -> str | None:
    with suppress(OSError):
        return (_PROC / pid / "comm").read_text(encoding="utf-8", errors="replace").strip()
    return None
