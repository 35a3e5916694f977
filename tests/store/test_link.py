"""An engine's connection: what costs it, what does not, and what is known of it afterwards."""

import asyncio
import os
import time
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable

import asyncpg
import pytest

from pqlite.store import link as links
from pqlite.store.link import Link
from tests.support import until

PID = "select pg_catalog.pg_backend_pid()"


@pytest.fixture
async def link(dsn: str) -> AsyncIterator[Link]:
    link = Link(lambda: asyncpg.connect(dsn))
    try:
        yield link
    finally:
        await link.close()


async def pid_of(link: Link) -> int:
    [row] = await link.fetch(PID, deadline=5.0)
    return int(row[0])


async def gone(conn: asyncpg.Connection, pid: int) -> None:
    """Return when there is no such session."""
    alive = "select count(*) from pg_stat_activity where pid = $1"
    await until(lambda: _none(conn.fetchval(alive, pid)), "the session to end")


async def _none(count: Awaitable[int]) -> bool:
    return await count == 0


async def test_a_connection_is_made_when_it_is_needed_and_kept(link: Link) -> None:
    assert (link.connected, link.generation, link.socket) == (False, 0, None)
    pid = await pid_of(link)
    await link.connect(5.0)

    assert await pid_of(link) == pid
    assert (link.connected, link.generation, link.last_error) == (True, 1, None)
    assert link.socket is not None


async def test_a_statement_that_is_not_answered_in_time_costs_the_connection(
    link: Link, conn: asyncpg.Connection
) -> None:
    pid = await pid_of(link)
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        await link.fetch("select pg_catalog.pg_sleep(60)", deadline=0.05)

    assert not link.connected
    assert isinstance(link.last_error, asyncio.CancelledError)
    assert link.lost_at >= began
    assert await pid_of(link) != pid
    assert (link.generation, link.last_error) == (2, None)


async def test_a_statement_that_is_cancelled_costs_the_connection(link: Link) -> None:
    pid = await pid_of(link)
    task = asyncio.create_task(link.fetch("select pg_catalog.pg_sleep(60)", deadline=60.0))
    await asyncio.sleep(0.02)
    task.cancel()
    await asyncio.wait([task])

    assert task.cancelled()
    assert not link.connected
    assert await pid_of(link) != pid


async def test_who_waits_too_long_for_another_statement_leaves_it_alone(link: Link) -> None:
    pid = await pid_of(link)
    first = asyncio.create_task(link.fetch("select pg_catalog.pg_sleep(0.3)", deadline=60.0))
    await asyncio.sleep(0)
    with pytest.raises(TimeoutError):
        await link.fetch(PID, deadline=0.02)
    await first

    assert (await pid_of(link), link.generation) == (pid, 1)


async def test_a_statement_that_is_wrong_costs_no_connection(link: Link) -> None:
    pid = await pid_of(link)
    with pytest.raises(asyncpg.DivisionByZeroError):
        await link.fetch("select 1 / 0", deadline=5.0)

    assert (await pid_of(link), link.generation, link.lost_at) == (pid, 1, 0.0)


@pytest.mark.parametrize("state", ["25006", "57P03", "08006"])
async def test_an_error_that_another_server_might_not_have_costs_the_connection(link: Link, state: str) -> None:
    pid = await pid_of(link)
    with pytest.raises(asyncpg.PostgresError):
        await link.fetch(f"do $$ begin raise exception 'weather' using errcode = '{state}'; end $$", deadline=5.0)

    assert not link.connected
    assert getattr(link.last_error, "sqlstate", None) == state
    assert await pid_of(link) != pid


async def test_a_connection_that_was_ended_by_the_server_is_made_again(link: Link, conn: asyncpg.Connection) -> None:
    pid = await pid_of(link)
    await conn.execute("select pg_terminate_backend($1)", pid)
    await until(lambda: not link.connected, "the link to notice")

    assert await pid_of(link) != pid
    assert link.generation == 2
    assert link.lost_at > 0


async def test_who_cannot_connect_knows_why_until_it_can(dsn: str) -> None:
    refuse = True

    async def connect() -> asyncpg.Connection:
        if refuse:
            raise ConnectionRefusedError
        return await asyncpg.connect(dsn)

    link = Link(connect)
    with pytest.raises(ConnectionRefusedError):
        await link.connect(5.0)
    assert (link.connected, link.generation) == (False, 0)
    assert isinstance(link.last_error, ConnectionRefusedError)

    refuse = False
    await link.connect(5.0)
    assert (link.connected, link.generation, link.last_error) == (True, 1, None)
    await link.close()


async def test_a_connection_that_takes_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "CONNECT_SECONDS", 0.02)

    async def connect() -> asyncpg.Connection:
        await asyncio.sleep(60)
        raise AssertionError

    link = Link(connect)
    with pytest.raises(TimeoutError):
        await link.fetch(PID, deadline=30.0)
    assert isinstance(link.last_error, TimeoutError)


async def test_a_connection_that_cannot_be_prepared_is_thrown_away(dsn: str, conn: asyncpg.Connection) -> None:
    made: list[int] = []

    async def refuse(new: asyncpg.Connection) -> None:
        made.append(await new.fetchval(PID))
        raise ValueError("not this one")

    link = Link(lambda: asyncpg.connect(dsn), refuse)
    for _ in range(2):
        with pytest.raises(ValueError, match="not this one"):
            await link.connect(5.0)

    assert (link.connected, link.generation) == (False, 0)
    assert isinstance(link.last_error, ValueError)
    assert len(set(made)) == 2
    for pid in made:
        await gone(conn, pid)


async def test_a_closed_connection_is_gone_and_no_longer_held(link: Link, conn: asyncpg.Connection) -> None:
    pid = await pid_of(link)
    mine: Callable[[object], bool] = link.holds
    held = link._conn
    assert mine(held)
    assert not mine(conn)
    await link.close()

    assert not mine(held)
    assert not link.connected
    await gone(conn, pid)


async def test_a_fork_leaves_the_child_no_more_descriptors_than_its_parent_has(dsn: str) -> None:
    links = [Link(lambda: asyncpg.connect(dsn)) for _ in range(4)]
    for link in links:
        await link.connect(5.0)
    descriptors = len(os.listdir("/proc/self/fd"))
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads, in later Pythons
        child = os.fork()
    if child == 0:
        os.write(writing, str(len(os.listdir("/proc/self/fd")) - 2).encode())
        os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with os.fdopen(reading) as answer:
        assert int(answer.read()) <= descriptors  # the event loop closes one of its own
    for link in links:
        await link.close()
