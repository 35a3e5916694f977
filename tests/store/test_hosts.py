"""With several hosts, the one that accepts writes is found, and one that does not answer holds up nobody for long."""

import asyncio
import socket
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest

from pqlite import PgJobStore
from pqlite.store import route
from pqlite.store.connecting import OWN
from pqlite.store.hosts import Host, says_which, several_hosts
from pqlite.store.link import says_server_is_down
from pqlite.store.route import Pooling, Route
from tests.store.test_sessions import set_for_the_database


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> socket.socket:
    """A host that takes connections and never says a word."""
    monkeypatch.setattr(route, "HOST_SECONDS", 0.2)
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        bound.listen(100)
        yield bound


def with_others(dsn: str, *before: tuple[str, int]) -> str:
    """Return the address with other hosts in front of its own, in libpq's words."""
    parts = urlsplit(dsn)
    query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    own = (query.get("host") or parts.hostname, query.get("port") or parts.port or 5432)
    hosts = [*before, own]
    names, ports = ",".join(str(name) for name, _ in hosts), ",".join(str(port) for _, port in hosts)
    user = parts.netloc.rpartition("@")[0]
    return f"postgresql://{user}@{parts.path}?host={names}&port={ports}"


async def test_a_host_that_does_not_answer_is_passed_over_and_not_asked_again(dsn: str, silent: socket.socket) -> None:
    made = Route(with_others(dsn, silent.getsockname(), ("127.0.0.1", 1)))
    async with asyncio.timeout(2.0):
        await (await made.connection("test", OWN)).close()
    assert made.pooling is Pooling.NONE
    silent.close()  # nobody would be passed over now

    conn = await made.connection("test", OWN)
    await conn.fetchval("select $1::int", 1)
    assert await conn.fetchval("select count(*) from pg_prepared_statements") > 0
    await conn.close()


async def test_many_connections_at_once_all_find_the_one_that_answers(dsn: str) -> None:
    made = Route(with_others(dsn, ("127.0.0.1", 1), ("127.0.0.1", 1)))

    for conn in await asyncio.gather(*(made.connection("test", OWN) for _ in range(10))):
        await conn.close()


async def test_an_attempt_that_is_cut_short_goes_on_with_the_next_host(dsn: str, silent: socket.socket) -> None:
    made = Route(with_others(dsn, silent.getsockname()))

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await made.connection("test", OWN)
    async with asyncio.timeout(2.0):
        await (await made.connection("test", OWN)).close()


async def test_where_nobody_accepts_writes_it_says_why(dsn: str, conn: asyncpg.Connection) -> None:
    await set_for_the_database(conn, {"default_transaction_read_only": "on"})
    async with PgJobStore(dsn=with_others(dsn, ("127.0.0.1", 1))) as store:
        says = r"No host of the dsn accepts writes \(host 1: .*; host 2 is a standby"
        with pytest.raises(ConnectionRefusedError, match=says):
            await store.enqueue("t")


async def test_where_one_does_not_answer_nothing_shows_that_the_server_is_down(silent: socket.socket) -> None:
    made = Route(f"postgresql://127.0.0.1:1,127.0.0.1:{silent.getsockname()[1]}/db")

    with pytest.raises(ConnectionError, match="no answer") as caught:
        await made.connection("test", OWN)
    assert not says_server_is_down(caught.value, direct=True)


async def test_who_wants_any_host_gets_any(dsn: str, conn: asyncpg.Connection) -> None:
    await set_for_the_database(conn, {"default_transaction_read_only": "on"})
    async with PgJobStore(dsn=f"{with_others(dsn, ('127.0.0.1', 1))}&target_session_attrs=any") as store:
        await store.enqueue("t")


async def test_a_wrong_password_or_database_is_no_reason_to_ask_another_host(dsn: str) -> None:
    elsewhere = with_others(dsn, ("127.0.0.1", 1)).replace(urlsplit(dsn).path, "/no_such_database")

    with pytest.raises(asyncpg.InvalidCatalogNameError):
        await Route(elsewhere).connection("test", OWN)


@pytest.mark.parametrize(
    ("dsn", "hosts"),
    [
        ("postgresql://a,b/db", [("a", 5432), ("b", 5432)]),
        ("postgresql://u:p@a:5433,[::1]:5434/db", [("a", 5433), ("::1", 5434)]),
        ("postgresql://[::1],b/db", [("::1", 5432), ("b", 5432)]),
        ("postgresql:///db?host=/a,/b&port=1,2", [("/a", 1), ("/b", 2)]),
        ("postgresql:///db?host=a,b&port=7", [("a", 7), ("b", 7)]),
        ("postgresql://u:p,w@a/db", []),
        ("postgresql://a/db", []),
        ("postgresql://a,b/db?port=1,2,3", []),
        ("postgresql://", []),
        ("postgresql://[a,b", []),
    ],
)
def test_the_hosts_of_an_address(dsn: str, hosts: list[Host], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PGHOST", raising=False)
    monkeypatch.delenv("PGPORT", raising=False)

    assert several_hosts(dsn) == hosts


def test_the_environments_count_where_the_address_names_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGHOST", "a,b")
    monkeypatch.setenv("PGPORT", "1,2")

    assert several_hosts("postgresql:///db") == [("a", 1), ("b", 2)]
    assert several_hosts("postgresql://c/db") == []
    assert several_hosts("postgresql://?service=shop") == []
    assert not says_which("postgresql:///db")
    monkeypatch.setenv("PGTARGETSESSIONATTRS", "any")
    assert says_which("postgresql:///db")
