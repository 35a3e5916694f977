"""A PgBouncer of one's own, in front of the tests' server."""

import asyncio
import os
import re
import shutil
import signal
import socket
import subprocess
from typing import Self
from urllib.parse import parse_qs, unquote, urlsplit

from pqlite.embedded.guard import Guarded
from pqlite.embedded.program import as_user, give, private_directory, program_for
from tests.support import until

PROGRAM = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


def version() -> tuple[int, int]:
    assert PROGRAM is not None
    said = subprocess.run([PROGRAM, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"PgBouncer (\d+)\.(\d+)", said)
    assert found is not None, said
    return int(found[1]), int(found[2])


class PgBouncer:
    """`settings` are those of its [pgbouncer] section. Everything else it does by its defaults."""

    def __init__(self, upstream: str, **settings: str) -> None:
        self._upstream = urlsplit(upstream)
        # Like PostgreSQL it refuses to run as root, and must get at PostgreSQL's socket.
        self._user = program_for(None).user
        self._directory = private_directory(self._user)
        with socket.socket() as bound:
            bound.bind(("127.0.0.1", 0))
            self.port = bound.getsockname()[1]
        self._settings = {
            "listen_addr": "127.0.0.1",
            "listen_port": str(self.port),
            "unix_socket_dir": "",
            "auth_type": "any",
            "pool_mode": "transaction",
            "default_pool_size": "4",
            "logfile": str(self._directory / "pgbouncer.log"),
        } | settings
        self._process: Guarded | None = None

    def dsn(self, direct: str) -> str:
        """Return the address of a database by way of us."""
        return f"postgresql://someone@127.0.0.1:{self.port}{urlsplit(direct).path}"

    @property
    def log(self) -> str:
        return (self._directory / "pgbouncer.log").read_text()

    async def __aenter__(self) -> Self:
        query = {name: values[-1] for name, values in parse_qs(self._upstream.query).items()}
        words = {
            "host": self._upstream.hostname or query.get("host"),
            "port": self._upstream.port or query.get("port"),
            "user": unquote(self._upstream.username or ""),
            "password": unquote(self._upstream.password or ""),
        }
        target = " ".join(f"{word}={value}" for word, value in words.items() if value)
        lines = ["[databases]", f"* = {target}", "[pgbouncer]", *(f"{k} = {v}" for k, v in self._settings.items())]
        file = self._directory / "pgbouncer.ini"
        file.write_text("\n".join(lines) + "\n")
        give(file, self._user)
        await self._start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()
        shutil.rmtree(self._directory, ignore_errors=True)

    async def stop(self) -> None:
        """End it, and with it every connection."""
        if self._process is not None:
            self._process.signal(signal.SIGKILL)
            await self._process.ended(10.0)
            self._process.release()
            self._process = None

    async def restart(self) -> None:
        await self.stop()
        await self._start()

    async def _start(self) -> None:
        assert PROGRAM is not None
        command = [PROGRAM, str(self._directory / "pgbouncer.ini")]
        log = self._directory / "pgbouncer.log"
        self._process = Guarded(command, log, (self._directory, None), **as_user(self._user))
        await until(self._answers, "pgbouncer to answer")

    async def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.returncode is None, self.log
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        writer.close()
        await writer.wait_closed()
        return True
