"""A primary and a streaming standby, each a server of its own on this machine."""

import asyncio
import shutil
from pathlib import Path
from typing import Self

import asyncpg

from pqlite import schema
from pqlite.embedded import EmbeddedPostgres
from pqlite.embedded.guard import Guarded
from pqlite.embedded.program import as_user, find_binaries, private_directory, program_for
from tests.conftest import fast_directory
from tests.support import until


def missing() -> str | None:
    """Return why there can be no standby, None if there can be one."""
    if not (find_binaries() / "pg_basebackup").is_file():
        return f"{find_binaries()} has no pg_basebackup (PQLITE_POSTGRES_BIN names other binaries)"
    return None


class Pair:
    """The primary waits for the standby with every synchronous commit: what it has said to be committed, both have."""

    def __init__(self) -> None:
        self.primary = EmbeddedPostgres(fsync=False, port=0, temp_dir=fast_directory())
        self._home: Path | None = None

    @property
    def dsn(self) -> str:
        """Both, the primary first."""
        return self._address(self.primary.port, self.standby.port)

    @property
    def standbys_dsn(self) -> str:
        return self._address(self.standby.port)

    def _address(self, *ports: int | None) -> str:
        return f"postgresql://postgres@{','.join(f'127.0.0.1:{port}' for port in ports)}/postgres"

    async def __aenter__(self) -> Self:
        await self.primary.start()
        conn = await asyncpg.connect(self.primary.dsn)
        try:
            await schema.migrate(conn)
            program = program_for(None)
            self._home = private_directory(program.user, fast_directory())
            await self._copy(program.bin_dir)
            self.standby = EmbeddedPostgres(self._home / "data", fsync=False, port=0)
            await self.standby.start()
            await conn.execute("alter system set synchronous_standby_names = '*'")
            await conn.execute("select pg_reload_conf()")
            in_step = "select true from pg_stat_replication where sync_state = 'sync'"
            await until(lambda: conn.fetchval(in_step), "the standby to be synchronous")
        except BaseException:
            await self.__aexit__()
            raise
        finally:
            await conn.close()
        return self

    async def __aexit__(self, *exc: object) -> None:
        if hasattr(self, "standby"):
            await self.standby.stop("immediate")
        await self.primary.stop("immediate")
        if self._home is not None:
            await asyncio.to_thread(shutil.rmtree, self._home, ignore_errors=True)

    async def promote(self) -> None:
        """Make the standby the primary; return once it accepts writes."""
        conn = await asyncpg.connect(self.standby.dsn)
        try:
            assert await conn.fetchval("select pg_promote()")
        finally:
            await conn.close()

    async def _copy(self, bin_dir: Path) -> None:
        assert self._home is not None
        command = [str(bin_dir / "pg_basebackup"), "-D", str(self._home / "data"), "-R", "-X", "stream", "-c", "fast"]
        command += ["-N", "-h", "127.0.0.1", "-p", str(self.primary.port), "-U", "postgres"]
        log = self._home / "basebackup.log"
        process = Guarded(command, log, (self._home, None), **as_user(program_for(None).user))
        ended = await process.ended(60.0)
        process.release()
        assert ended, "pg_basebackup takes too long"
        assert process.returncode == 0, log.read_text()
