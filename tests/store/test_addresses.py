"""Whatever a DSN looks like, nobody is told what is in it."""

import asyncio
import logging
import socket
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest

from pqlite import ConfigurationError, PgJobStore, Worker
from pqlite.cli import main
from pqlite.store.dsn import address
from pqlite.store.hosts import Host, several_hosts
from tests.support import sqlalchemy_url

SECRET = "s3cr3tm4rker"

# Where nobody listens; {port} is one that is bound and refuses.
SHAPES = [
    "postgresql://app:{secret}@127.0.0.1:{port}/db",
    "postgres://app:{secret}@127.0.0.1:{port}/db",
    "postgresql://app:{secret}@127.0.0.1:{port}",
    "postgresql://app:{secret}@127.0.0.1:{port}/",
    "postgresql://app:{secret}@localhost:{port}/db",
    "postgresql://app:{secret}@[::1]:{port}/db",
    "postgresql://:{secret}@127.0.0.1:{port}/db",
    "postgresql://app%40tenant:{secret}@127.0.0.1:{port}/db",
    "postgresql://app:%2F{secret}%40%3A@127.0.0.1:{port}/db",
    "postgresql://app:{secret}@127.0.0.1:{port},127.0.0.1:{port}/db",
    "postgresql://app:{secret}@127.0.0.1:{port},127.0.0.1:{port}/db?target_session_attrs=any",
    "postgresql://app@127.0.0.1:{port}/db?password={secret}",
    "postgresql://127.0.0.1:{port}/db?user=app&password={secret}",
    "postgresql:///db?host=127.0.0.1&port={port}&user=app&password={secret}",
    "postgresql:///db?host=/nowhere/at/all&user=app&password={secret}",
    "postgresql:///db?host=127.0.0.1,127.0.0.1&port={port},{port}&password={secret}",
    "postgresql://app:{secret}@127.0.0.1:{port}/db?sslmode=disable",
    "postgresql://app:{secret}@127.0.0.1:{port}/db?sslmode=require",
    "postgresql://app@127.0.0.1:{port}/db?sslpassword={secret}",
    "postgresql://app:{secret}@127.0.0.1:{port}/db?application_name=app",
    "postgresql://app:{secret}@127.0.0.1:{port}/db?connect_timeout=3",
    "postgresql://app:{secret}@127.0.0.1:{port}/?service=nowhere",
    # What cannot be an address.
    "postgresql://app:{secret}",
    "postgresql://app:{secret}/db",
    "postgresql://app:{secret}@127.0.0.1:x/db",
    "postgresql://app:{secret}@127.0.0.1:99999999/db",
    "postgresql://app:1{secret}:2@127.0.0.1:{port}/db",
    "postgresql://app:a@{secret}@127.0.0.1:{port}/db",
    "postgresql://app:a/{secret}@127.0.0.1:{port}/db",
    "postgresql://app:1/{secret}@127.0.0.1:{port}/db",
    "postgresql://app:a?{secret}@127.0.0.1:{port}/db",
    "postgresql://app:1?{secret}@127.0.0.1:{port}/db",
    "postgresql://app:1?a={secret}@127.0.0.1:{port}/db",
    "postgresql://app:a#{secret}@127.0.0.1:{port}/db",
    "postgresql://app:1#{secret}@127.0.0.1:{port}/db",
    "postgresql://app:[{secret}@127.0.0.1:{port}/db",
    "postgresql://app:[{secret}]@127.0.0.1:{port}/db",
    "postgresql://app:a]{secret}@127.0.0.1:{port}/db",
    "postgresql://app:{secret}\u2100@127.0.0.1:{port}/db",
    "postgresql://app:%zz{secret}@127.0.0.1:{port}/db",
    "postgresql://app:{secret} @127.0.0.1:{port}/db",
    "postgresql://app:{secret}\n@127.0.0.1:{port}/db",
    "postgresql://app:{secret}\0@127.0.0.1:{port}/db",
    "postgresql://app@127.0.0.1:{port}/db?{secret}",
    "postgresql://app@127.0.0.1:{port}/db?password={secret}&x",
    "postgresql://app@127.0.0.1:{port}/db?port={secret}",
    "postgresql://app@127.0.0.1:{port}/db?host=127.0.0.1:{secret}",
    "postgresql://app:{secret}@127.0.0.1:1,127.0.0.1:2,:/db",
    "postgresql:///db?host=a,b&port=1,2,3&password={secret}",
    "postgresql://app:{secret}@127.0.0.1:{port}/db?sslmode=none",
    "postgresql://app:{secret}@127.0.0.1:{port}/db?sslmode=verify-full&sslrootcert=/nowhere",
    "postgresql://app:{secret}@127.0.0.1:{port}/db?target_session_attrs=best",
    "postgresql+asyncpg://app:{secret}@127.0.0.1:{port}/db",
    "mysql://app:{secret}@127.0.0.1:{port}/db",
    "POSTGRESQL//app:{secret}@127.0.0.1:{port}/db",
    "app:{secret}@127.0.0.1:{port}/db",
    "host=127.0.0.1 port={port} user=app password={secret} dbname=db",
    "{secret}",
    "",
]


@pytest.fixture
def refusing() -> Iterator[int]:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


async def everything_said(shape: str, argument: str) -> list[str]:
    """Use an address in every way there is; return what came of it."""
    said = []

    def heard(error: BaseException) -> None:
        said.extend((repr(error), *traceback.format_exception(error)))

    try:
        store = PgJobStore(**({"dsn": shape} if argument == "dsn" else {"dsn": "postgresql://", argument: shape}))
    except ConfigurationError as error:
        heard(error)
        return said
    said += [repr(store), str(vars(store))]
    engine = store.engine("claimer") if argument == "dsn" else store.listening_engine("sentinel", None)  # type: ignore[arg-type]
    said.append(repr(engine.link))
    try:
        await engine.link.connect(5.0)
    except Exception as error:
        heard(error)
    if argument == "dsn":
        worker = Worker(store, {"t": print})
        said.append(repr(worker))
        async with store:
            for action in (store.enqueue("t"), store.enqueue("t", dedupe_key="k"), store.migrate()):
                try:
                    await action
                except Exception as error:
                    heard(error)
            said.append(repr(store))
            async with worker:
                said += [str(worker.trouble()), repr(worker.diagnosis())]
    assert len(said) > 3
    return said


@pytest.mark.parametrize("argument", ["dsn", "listen_dsn"])
@pytest.mark.parametrize("shape", SHAPES)
async def test_an_address_is_told_to_nobody(
    shape: str,
    argument: str,
    refusing: int,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("PGHOST", "PGSERVICE", "PGDATABASE"):
        monkeypatch.delenv(name, raising=False)
    caplog.set_level(logging.DEBUG)

    said = await everything_said(shape.format(secret=SECRET, port=refusing), argument)

    captured = capfd.readouterr()
    for text in (*said, caplog.text, captured.out, captured.err):
        assert SECRET not in text


@pytest.mark.parametrize("shape", SHAPES)
def test_a_command_tells_nobody_either(
    shape: str, refusing: int, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PQLITE_DSN", "")
    monkeypatch.setenv("DATABASE_URL", "")

    status = main(["migrate", f"--dsn={shape.format(secret=SECRET, port=refusing)}"])

    said = capfd.readouterr()
    assert status in (1, 2)
    assert SECRET not in said.out + said.err
    assert len(said.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("dsn", "says"),
    [
        ("host=db password=x", "must begin with postgresql://"),
        ("postgresql+asyncpg://u:p@db/app?ssl=s3cret", "has an ssl= that is not one of disable, allow"),
        ("postgresql+psycopg://u:p@db/app?channel_binding=require", "asks for channel_binding"),
        ("postgresql://app:x", "has a port that is not a number"),
        ("postgresql://app:p@ss@db/app", "must be percent-encoded"),
        ("postgresql://app:p/ss@db/app", "must be percent-encoded"),
        ("postgresql://app:p#ss@db/app", "must be percent-encoded"),
        ("postgresql://app:p?ss@db/app", "must be percent-encoded"),
    ],
)
@pytest.mark.parametrize("argument", ["dsn", "listen_dsn"])
def test_an_address_that_cannot_be_one_is_refused_by_its_name_when_the_store_is_made(
    dsn: str, says: str, argument: str
) -> None:
    with pytest.raises(ConfigurationError, match=rf"^{argument} .*{says}"):
        PgJobStore(**{"dsn": "postgresql://", argument: dsn})


async def test_what_only_the_driver_can_tell_is_said_when_a_connection_is_made() -> None:
    async with PgJobStore(dsn="postgresql://app@db/app?sslmode=none") as store:
        with pytest.raises(ConfigurationError, match="dsn cannot be used: `sslmode` parameter must be one of"):
            await store.enqueue("t")


def test_ordinary_addresses_are_taken_as_they_are() -> None:
    for dsn in (
        "postgresql://",
        "postgres://u:p@[::1]:5432/db?sslmode=require",
        "postgresql://u%40x:p%2F@a:1,b:2/db?target_session_attrs=any",
        "postgresql://postgres@/postgres?host=/run/x&port=5432",
    ):
        assert address(dsn) == dsn


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("postgresql+asyncpg://u:p@db/app", "postgresql://u:p@db/app"),
        ("postgresql+psycopg://u:p@db/app", "postgresql://u:p@db/app"),
        ("postgresql+psycopg_async://u:p@db/app", "postgresql://u:p@db/app"),
        ("postgresql+psycopg2://u:p@db/app", "postgresql://u:p@db/app"),
        ("postgres+asyncpg://u:p@db/app", "postgres://u:p@db/app"),
        ("postgresql+asyncpg://db/app?ssl=require", "postgresql://db/app?sslmode=require"),
        ("postgresql://db/app?ssl=require&sslmode=verify-full", "postgresql://db/app?sslmode=verify-full"),
        ("postgresql+asyncpg://db/app?prepared_statement_cache_size=0", "postgresql://db/app"),
        ("postgresql+asyncpg://db/app?command_timeout=5&application_name=a", "postgresql://db/app?application_name=a"),
        ("postgresql+psycopg://db/app?connect_timeout=3&channel_binding=prefer", "postgresql://db/app"),
        ("postgresql+asyncpg://u@/app?host=a:1&host=b:2", "postgresql://u@/app?host=a:1,b:2"),
    ],
)
def test_an_address_in_sqlalchemys_form_means_what_it_means_there(given: str, meant: str) -> None:
    assert address(given) == meant
    assert several_hosts(meant) == ([Host("a", 1), Host("b", 2)] if "host=" in meant else [])


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg", "psycopg2", "psycopg_async"])
async def test_a_store_and_the_commands_take_the_address_that_sqlalchemy_has(
    dsn: str, driver: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url = sqlalchemy_url(dsn, driver)
    for given in ({"dsn": url}, {"dsn": url, "listen_dsn": url}):
        async with PgJobStore(**given) as store:  # type: ignore[arg-type]
            await store.check_schema()
    monkeypatch.setenv("DATABASE_URL", url)

    status = await asyncio.to_thread(main, ["migrate", "--plan"])

    assert (status, capsys.readouterr().err) == (0, "")


@pytest.mark.parametrize("name", ["PQLITE_DSN", "DATABASE_URL"])
async def test_a_store_that_is_told_nothing_reads_the_environment_as_the_commands_do(
    dsn: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://nowhere/")
    monkeypatch.setenv(name, dsn)

    async with PgJobStore() as store:
        assert await store.enqueue("t") > 0


def test_a_store_that_nobody_tells_where_postgresql_is_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PQLITE_DSN", "DATABASE_URL", "PGSERVICE", "PGHOST", "PGDATABASE"):
        monkeypatch.delenv(name, raising=False)

    with pytest.raises(ConfigurationError, match="PQLITE_DSN or DATABASE_URL"):
        PgJobStore()


def test_an_address_of_the_environment_that_cannot_be_one_is_named_by_its_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PQLITE_DSN", f"mysql://app:{SECRET}@db/app")

    with pytest.raises(ConfigurationError, match="in PQLITE_DSN must begin with postgresql://, not mysql") as caught:
        PgJobStore()

    assert SECRET not in str(caught.value)


async def test_a_service_file_is_read_and_not_told(
    tmp_path: Path, refusing: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "services"
    file.write_text(f"[app]\nhost=127.0.0.1\nport={refusing}\nuser=u\ndbname=d\npassword={SECRET}\n")
    monkeypatch.setenv("PGSERVICEFILE", str(file))
    caplog.set_level(logging.DEBUG)

    said = await everything_said("postgresql://?service=app", "dsn")

    assert SECRET not in "".join(said) + caplog.text
