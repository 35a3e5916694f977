"""Describes the machine and the server of a measurement, without addresses."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from pqlite import __version__
from pqlite.bench.options import Options
from pqlite.bench.server import Server


def environment(server: Server, options: Options, *, embedded: bool) -> dict[str, Any]:
    """Return the facts that figures depend on."""
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "pqlite": __version__,
        "asyncpg": version("asyncpg"),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "loop": "uvloop" if options.uvloop else "asyncio",
        "platform": platform.platform(terse=True),
        "cores": cores(),
        "server": {"embedded": embedded, "local": server.local, "cpu_visible": server.cpu() is not None}
        | server.settings,
        "peers": {name: version(name) for name in options.peers},
    }


def cores() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def described(facts: dict[str, Any]) -> list[str]:
    """Return the facts as lines for people."""
    server = facts["server"]
    where = "embedded" if server["embedded"] else "local" if server["local"] else "on another host"
    return [
        f"PostgreSQL {server['server_version']} ({where}): fsync {server['fsync']}, "
        f"synchronous_commit {server['synchronous_commit']}, shared_buffers {server['shared_buffers']}",
        f"pqlite {facts['pqlite']}, asyncpg {facts['asyncpg']}, {facts['python']} with {facts['loop']}, "
        f"{facts['cores']} cores, {facts['platform']}",
        *(f"{name} {found}" for name, found in facts["peers"].items()),
    ]
