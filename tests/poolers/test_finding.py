"""What stands between a store and its server is found out, whatever it is."""

import asyncio

import asyncpg
import pytest

from pqlite import PgJobStore
from pqlite.store import route
from pqlite.store.connecting import OWN
from pqlite.store.route import Pooling, Route
from tests.poolers.conftest import Bounce

PREPARED = "select count(*) from pg_prepared_statements"


async def found(made: Route) -> Pooling | None:
    conn = await made.connection("test", OWN)
    try:
        await conn.fetchval("select $1::int", 1)
    finally:
        await conn.close()
    return made.pooling


async def test_a_direct_connection_is_direct_and_prepares_its_statements(dsn: str) -> None:
    made = Route(dsn)

    assert made.pooling is None
    assert await found(made) is Pooling.NONE
    conn = await made.connection("test", OWN)
    assert await conn.fetchval(PREPARED) > 0
    await conn.close()


@pytest.mark.parametrize("round_robin", ["0", "1"])
async def test_a_pooler_in_transaction_mode_is_told_by_what_it_does(dsn: str, bounce: Bounce, round_robin: str) -> None:
    """Round robin lends another session with every transaction; without it, the one used last."""
    pooler = await bounce(server_round_robin=round_robin)
    made = Route(pooler.dsn(dsn))
    others = [await asyncpg.connect(pooler.dsn(dsn), statement_cache_size=0) for _ in range(3)]
    await asyncio.gather(*(other.execute("select pg_sleep(0.05)") for other in others))  # a session for each

    assert await found(made) is Pooling.TRANSACTION
    assert await found(made) is Pooling.TRANSACTION

    for other in others:
        assert await other.fetch("select name, statement, from_sql from pg_prepared_statements") == []
        await other.close()


async def test_a_pooler_in_session_mode_is_as_good_as_none(dsn: str, bounce: Bounce) -> None:
    pooler = await bounce(pool_mode="session")
    made = Route(pooler.dsn(dsn))

    assert await found(made) is Pooling.SESSION
    conn = await made.connection("test", OWN)
    assert await conn.fetchval(PREPARED) > 0
    await conn.close()


async def test_where_there_is_no_time_to_find_out_the_worse_is_assumed(
    dsn: str, bounce: Bounce, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one session for all, the second connection of the test would wait for ever."""
    pooler = await bounce(pool_mode="session", default_pool_size="1")
    monkeypatch.setattr(route, "TEST_SECONDS", 0.2)

    assert await found(Route(pooler.dsn(dsn))) is Pooling.TRANSACTION


async def test_a_pooler_that_comes_or_goes_is_noticed_with_the_next_connection(dsn: str, bounce: Bounce) -> None:
    pooler = await bounce()
    address = {"dsn": dsn}

    async def connect() -> asyncpg.Connection:
        return await asyncpg.connect(address["dsn"], statement_cache_size=0)

    made = Route(None, connect)
    assert await found(made) is Pooling.NONE
    address["dsn"] = pooler.dsn(dsn)
    assert await found(made) is Pooling.TRANSACTION
    address["dsn"] = dsn
    assert await found(made) is Pooling.NONE


async def test_several_hosts_may_be_poolers(dsn: str, bounce: Bounce) -> None:
    pooler = await bounce()
    hosts = f"127.0.0.1:1,127.0.0.1:{pooler.port}"
    made = Route(pooler.dsn(dsn).replace(f"127.0.0.1:{pooler.port}", hosts))

    assert await found(made) is Pooling.TRANSACTION
    conn = await made.connection("test", OWN)
    assert await conn.fetchval(PREPARED) == 0
    await conn.close()


async def test_a_store_knows_what_its_connections_met(dsn: str, bounce: Bounce) -> None:
    pooler = await bounce()
    async with PgJobStore(dsn=pooler.dsn(dsn), listen_dsn=dsn) as store:
        assert store.pooling is None
        await store.enqueue("t")
        assert store.pooling is Pooling.TRANSACTION
        assert store.listen_pooling is None
