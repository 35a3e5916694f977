"""pqlite.enqueue_on_change: an outbox is one CREATE TRIGGER."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from pqlite import PgJobStore
from tests.store.workers import until_blocked
from tests.support import PATIENCE, until


@pytest.fixture
async def orders(conn: asyncpg.Connection) -> asyncpg.Connection:
    await conn.execute("create table orders (id int primary key, customer text, total numeric(10, 2), paid boolean)")
    return conn


@pytest.fixture
async def other(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(dsn)
    try:
        yield connection
    finally:
        await connection.close(timeout=5)


async def listen_to(
    conn: asyncpg.Connection, options: dict[str, Any] | str | None = None, table: str = "orders"
) -> None:
    text = json.dumps(options) if isinstance(options, dict) else options
    quoted = "" if text is None else f", '{text}'"
    await conn.execute(
        f"create trigger changed after insert or update or delete on {table} for each row "
        f"execute function pqlite.enqueue_on_change('changed'{quoted})"
    )


async def payloads(conn: asyncpg.Connection) -> list[dict[str, Any]]:
    return [json.loads(row[0]) for row in await conn.fetch("select payload::text from pqlite.jobs order by id")]


async def keys(conn: asyncpg.Connection) -> list[str | None]:
    return [row[0] for row in await conn.fetch("select dedupe_key from pqlite.jobs order by id")]


async def test_every_changed_row_becomes_a_job_with_what_was_and_what_is(orders: asyncpg.Connection) -> None:
    await listen_to(orders)

    await orders.execute("insert into orders values (1, 'Ada', 10, false), (2, null, 0.5, true)")
    await orders.execute("update orders set total = 12 where id = 1")
    await orders.execute("delete from orders where id = 2")

    table = {"schema": "public", "table": "orders"}
    ada = {"id": 1, "customer": "Ada", "total": 10.0, "paid": False}
    nobody = {"id": 2, "customer": None, "total": 0.5, "paid": True}
    assert await payloads(orders) == [
        {"operation": "INSERT", **table, "new": ada, "old": None},
        {"operation": "INSERT", **table, "new": nobody, "old": None},
        {"operation": "UPDATE", **table, "new": {**ada, "total": 12.0}, "old": ada},
        {"operation": "DELETE", **table, "new": None, "old": nobody},
    ]
    assert await orders.fetchval("select array_agg(distinct job_type) from pqlite.jobs") == ["changed"]


async def test_a_change_that_is_rolled_back_makes_no_job(orders: asyncpg.Connection) -> None:
    await listen_to(orders)
    transaction = orders.transaction()
    await transaction.start()
    await orders.execute("insert into orders values (1)")
    await transaction.rollback()

    assert await payloads(orders) == []


async def test_the_options_are_those_of_enqueue(orders: asyncpg.Connection) -> None:
    options = {"queue": "mail", "priority": -3, "max_attempts": 1, "timeout_seconds": 1.5, "delay": "1 hour 30 minutes"}
    await listen_to(orders, options)
    await orders.execute("insert into orders values (1)")

    row = await orders.fetchrow(
        "select queue, priority, max_attempts, timeout_seconds, run_after - created_at > interval '89 minutes' "
        "from pqlite.jobs"
    )
    assert tuple(row or ()) == ("mail", -3, 1, 1.5, True)


async def test_a_writer_whose_literals_have_escapes_is_understood(orders: asyncpg.Connection) -> None:
    """The function's own literals are read as the writer's session says."""
    await listen_to(orders, {"priority": 3, "delay": "1.5 hours", "columns": ["id"], "dedupe": "order:{id}"})
    await orders.execute("set standard_conforming_strings = off")
    await orders.execute("set escape_string_warning = off")

    await orders.execute("insert into orders values (1)")

    row = await orders.fetchrow("select priority, dedupe_key from pqlite.jobs")
    assert tuple(row or ()) == (3, "order:1")


async def test_a_delay_may_be_a_number_of_seconds(orders: asyncpg.Connection) -> None:
    await listen_to(orders, {"delay": 5400.5})
    await orders.execute("insert into orders values (1)")

    assert await orders.fetchval("select run_after - created_at > interval '89 minutes' from pqlite.jobs")


async def test_only_the_chosen_columns_are_in_the_payload(orders: asyncpg.Connection) -> None:
    await listen_to(orders, {"columns": ["id", "paid"]})
    await orders.execute("insert into orders values (1, 'Ada', 10, false)")
    await orders.execute("update orders set paid = true")

    found = [(payload["new"], payload["old"]) for payload in await payloads(orders)]
    assert found == [({"id": 1, "paid": False}, None), ({"id": 1, "paid": True}, {"id": 1, "paid": False})]


# Dedupe


async def test_changes_of_one_key_share_a_job_until_it_starts(orders: asyncpg.Connection) -> None:
    await listen_to(orders, {"dedupe": "order:{id}/{customer}", "columns": ["id"], "delay": 60})
    await orders.execute("insert into orders values (1, 'Ada'), (2, '{id}'), (3, null), (3 + 1, null)")
    await orders.execute("update orders set paid = true")

    assert await keys(orders) == ["order:1/Ada", "order:2/{id}", None, None, None, None]


async def test_a_change_while_the_keys_job_runs_makes_another(orders: asyncpg.Connection) -> None:
    """The running job may have read the row before it was changed."""
    await listen_to(orders, {"dedupe": "order:{id}"})
    await orders.execute("insert into orders values (1)")
    for _ in range(2):
        await orders.fetch("select id from pqlite.pickup('me', null, null)")
        for _ in range(2):
            await orders.execute("update orders set paid = not coalesce(paid, false)")

    assert await keys(orders) == ["order:1", "order:1 #2", "order:1 #3"]


async def test_a_job_does_not_start_before_the_changes_it_stands_for_are_committed(
    orders: asyncpg.Connection, other: asyncpg.Connection
) -> None:
    await listen_to(orders, {"dedupe": "order:{id}"})
    await orders.execute("insert into orders values (1)")
    pickup = "select id from pqlite.pickup('me', null, null)"

    async with orders.transaction():
        await orders.execute("update orders set paid = true")
        assert await other.fetch(pickup) == []

    assert len(await other.fetch(pickup)) == 1
    assert await keys(orders) == ["order:1"]


async def test_workers_that_passed_over_the_job_are_told_to_look_again(
    orders: asyncpg.Connection, other: asyncpg.Connection
) -> None:
    await listen_to(orders, {"dedupe": "order:{id}"})
    await orders.execute("insert into orders values (1)")
    told: asyncio.Queue[str] = asyncio.Queue()
    await other.add_listener("pqlite_wake", lambda *args: told.put_nowait(args[3]))
    await orders.execute("select pqlite.arm(60000)")

    await orders.execute("update orders set paid = true")

    async with asyncio.timeout(10):
        assert await told.get() == "rewind"


async def test_a_change_waits_for_another_open_transaction_with_its_key_and_then_shares_its_job(
    orders: asyncpg.Connection, other: asyncpg.Connection, dsn: str
) -> None:
    await listen_to(orders, {"dedupe": "customer:{customer}"})
    first = orders.transaction()
    await first.start()
    await orders.execute("insert into orders values (1, 'Ada')")

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(other.execute("insert into orders values (2, 'Ada')"))
        watcher = await asyncpg.connect(dsn)
        await until_blocked(watcher)
        await watcher.close()
        await first.commit()

    assert await keys(orders) == ["customer:Ada"]


async def test_a_key_whose_writers_overlap_without_end_is_worked_on_and_misses_no_change(
    orders: asyncpg.Connection, store: PgJobStore, dsn: str
) -> None:
    await listen_to(orders, {"dedupe": "customer:{customer}"})
    rows = 8
    await orders.execute("insert into orders select i, 'Ada', 0 from generate_series(1, $1) i", rows)
    total = "select sum(total)::int from orders where customer = 'Ada'"
    written = 0
    read: list[int] = []
    enough = asyncio.Event()

    async def write(row: int) -> None:
        """Change a row in transactions that stay open for a while, one after the other."""
        nonlocal written
        connection = await asyncpg.connect(dsn)
        while not enough.is_set():
            await connection.execute(
                f"begin; update orders set total = total + 1 where id = {row}; select pg_sleep(0.02); commit"
            )
            written += 1
        await connection.close()

    async def work() -> bool:
        """Do what a handler of the key's job would: read what is committed."""
        job = await store.pickup("me")
        if job is not None:
            read.append(await orders.fetchval(total))
            await store.mark_done(job)
        return job is not None

    async with asyncio.TaskGroup() as tasks:
        for row in range(1, rows + 1):
            tasks.create_task(write(row))
        try:
            await until(lambda: written >= rows)
            beside = len(read)
            async with asyncio.timeout(PATIENCE):
                while len(read) < beside + 5:
                    if not await work():
                        await asyncio.sleep(0.001)
        finally:
            enough.set()

    while await work():
        pass
    assert read[-1] == written == await orders.fetchval(total)


@pytest.mark.parametrize("due", ["3 s", "30 s", "5 minutes", "1 hour", "2 days"])
async def test_a_key_has_few_jobs_however_long_no_worker_comes(orders: asyncpg.Connection, due: str) -> None:
    await listen_to(orders, {"dedupe": "order:{id}"})
    await orders.execute("insert into orders values (1)")
    for _ in range(30):
        await orders.execute("update pqlite.jobs set run_after = run_after - $1::text::interval", due)
        await orders.execute("update orders set paid = not coalesce(paid, false)")

    assert len(await keys(orders)) <= 6


async def test_a_change_that_shares_a_job_of_later_wakes_nobody(
    orders: asyncpg.Connection, other: asyncpg.Connection
) -> None:
    await listen_to(orders, {"dedupe": "order:{id}", "delay": "1 hour"})
    await orders.execute("insert into orders values (1)")
    told: asyncio.Queue[str] = asyncio.Queue()
    await other.add_listener("pqlite_wake", lambda *args: told.put_nowait(args[3]))
    await orders.execute("select pqlite.arm(60000)")

    await orders.execute("update orders set paid = true")
    await orders.execute("select pg_notify('pqlite_wake', 'last')")

    async with asyncio.timeout(10):
        assert await told.get() == "last"


# What is wrong is said


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ('{"colour": 1}', r'there is no option "colour"; there are columns, dedupe, .*timeout_seconds'),
        ('{"priority": "high"}', 'option "priority" must be a whole number, not "high"'),
        ('{"priority": 1.5}', 'option "priority" must be a whole number, not 1.5'),
        ('{"max_attempts": null}', 'option "max_attempts" must be a whole number, not null'),
        ('{"queue": 7}', 'option "queue" must be a text, not 7'),
        ('{"timeout_seconds": "1 s"}', 'option "timeout_seconds" must be a number of seconds, not "1 s"'),
        ('{"delay": "soon"}', 'option "delay" must be a number of seconds, or a text such as "10 minutes", not "soon"'),
        ('{"columns": "id"}', 'option "columns" must be a list of names, not "id"'),
        ('{"columns": ["id", 7]}', r'option "columns" must be a list of names, not \["id", 7\]'),
        ('{"columns": ["id", "idd"]}', 'option "columns" names "idd", which is no column'),
        ('{"dedupe": "order:{idd}"}', 'option "dedupe" names "idd", which is no column'),
        ('{"dedupe": "order:{id"}', 'option "dedupe" must be a text with columns in braces, such as "order:{id}"'),
        ('{"dedupe": ""}', 'option "dedupe" must be a text with columns'),
        ("[]", r"the options must be a JSON object, not \[\]"),
        ("queue=mail", "invalid input syntax for type json"),
        ('{"max_attempts": 0}', "jobs_max_attempts_positive"),
    ],
)
async def test_a_bad_option_is_an_error_that_names_it(orders: asyncpg.Connection, options: str, says: str) -> None:
    await listen_to(orders, options)

    with pytest.raises(asyncpg.PostgresError, match=says) as raised:
        await orders.execute("insert into orders values (1)")
    if not isinstance(raised.value, (asyncpg.CheckViolationError, asyncpg.InvalidTextRepresentationError)):
        assert str(raised.value).startswith("trigger changed on public.orders: ")
    assert await orders.fetchval("select count(*) from orders") == 0


@pytest.mark.parametrize(
    ("trigger", "says"),
    [
        ("before insert on orders for each row execute function pqlite.enqueue_on_change('t')", "make it AFTER"),
        ("after insert on orders for each statement execute function pqlite.enqueue_on_change('t')", "FOR EACH ROW"),
        (
            "after insert on orders for each row execute function pqlite.enqueue_on_change()",
            "the arguments are the",
        ),
        (
            "after insert on orders for each row execute function pqlite.enqueue_on_change('t', '{}', '{}')",
            "the arguments are the job type",
        ),
        ("after insert on orders for each row execute function pqlite.enqueue_on_change('')", "jobs_job_type_length"),
    ],
)
async def test_a_trigger_of_another_shape_is_refused_at_its_first_use(
    orders: asyncpg.Connection, trigger: str, says: str
) -> None:
    await orders.execute(f"create trigger changed {trigger}")

    with pytest.raises(asyncpg.PostgresError, match=says):
        await orders.execute("insert into orders values (1)")


async def test_jobs_do_not_make_jobs_of_themselves(conn: asyncpg.Connection) -> None:
    await listen_to(conn, table="pqlite.jobs")

    with pytest.raises(asyncpg.PostgresError, match="each job would make another"):
        await conn.execute("select pqlite.enqueue('t')")


# Tables and columns of every kind


async def test_columns_of_types_that_are_not_built_in_come_as_text(conn: asyncpg.Connection) -> None:
    await conn.execute(
        """
        create type mood as enum ('glad', 'sad, "very"');
        create type pair as (a int, b text);
        create domain email as text;
        create domain moods as mood[];
        create table people (
          "Id %s" int, mood mood, moods mood[], pair pair, pairs pair[], email email, "nothing" mood, gone int,
          of_domain moods, tags text[], at timestamptz, range int4range, data jsonb);
        alter table people drop column gone;
        """
    )
    await listen_to(conn, {"dedupe": "{mood}"}, table="people")

    await conn.execute(
        "insert into people values (7, 'glad', '{glad,\"sad, \\\"very\\\"\",null}', (1, 'x y'), "
        "array[(1, null)::pair], 'a@b', null, '{glad}', '{a,b}', '2030-01-01 00:00Z', '[1,3)', '{\"a\": [1]}')"
    )

    assert (await payloads(conn))[0]["new"] == {
        **{"Id %s": 7, "mood": "glad", "moods": ["glad", 'sad, "very"', None], "pair": '(1,"x y")', "pairs": ["(1,)"]},
        **{"email": "a@b", "nothing": None, "of_domain": ["glad"], "tags": ["a", "b"], "range": "[1,3)"},
        **{"data": {"a": [1]}, "at": "2030-01-01T00:00:00+00:00"},
    }
    assert await keys(conn) == ["glad"]


async def test_a_list_whose_type_has_a_delimiter_of_its_own_is_a_list(conn: asyncpg.Connection) -> None:
    """As PostGIS's geometry, whose arrays are written {a:b}."""
    await conn.execute(
        """
        create type place;
        create function place_in(cstring) returns place language internal immutable strict as 'textin';
        create function place_out(place) returns cstring language internal immutable strict as 'textout';
        create type place (input = place_in, output = place_out, like = text, delimiter = ':');
        create domain places as place[];
        create domain site as place;
        create table tours (places place[], of_domain places, sites site[], home place, none place[], nothing place[],
                            boxes box[]);
        """
    )
    await listen_to(conn, table="tours")

    await conn.execute(
        """insert into tours values ('{a,b:null:"c:d"}', '{a:b}', '{a:b}', 'a', '{}', null, '{(1,1),(0,0)}')"""
    )

    assert (await payloads(conn))[0]["new"] == {
        **{"places": ["a,b", None, "c:d"], "of_domain": ["a", "b"], "sites": ["a", "b"], "home": "a"},
        **{"none": [], "nothing": None, "boxes": ["(1,1),(0,0)"]},
    }


NAMES = [
    *["r", "new", "old", "x", "j", "t", "c", "p", "o", "e", "i", "key", "value", "name", "part", "id", "payload"],
    *["v_row", "v_new", "tg_op", "found", "$1", "*", '"', "'", "%", "%s", "%1$I", "\\", "{", "a.b", "(r).x"],
]


@pytest.mark.parametrize(("type_", "value", "read"), [("int", "1", 1), ("mood", "1", "1"), ("pair", "(1)", "(1)")])
async def test_a_column_may_have_any_name(conn: asyncpg.Connection, type_: str, value: str, read: str | int) -> None:
    quoted = ['"' + name.replace('"', '""') + '"' for name in NAMES]
    await conn.execute("create type mood as enum ('1'); create type pair as (r text)")
    await conn.execute(f"create table named ({', '.join(f'{name} {type_}' for name in quoted)})")
    options = json.dumps({"columns": NAMES})
    await conn.execute(
        "create trigger inserted after insert on named for each row execute function pqlite.enqueue_on_change('t');"
        "create trigger updated after update on named for each row "
        f"execute function pqlite.enqueue_on_change('t', $options${options}$options$)"
    )

    await conn.execute(f"insert into named values ({', '.join([repr(value)] * len(NAMES))}); update named set r = r")

    inserted, updated = await payloads(conn)
    assert inserted["new"] == updated["new"] == updated["old"] == dict.fromkeys(NAMES, read)


@pytest.mark.parametrize("name", ["r", "v_row", "p", "key"])
async def test_a_key_may_be_made_of_a_column_of_any_name(conn: asyncpg.Connection, name: str) -> None:
    await conn.execute(f"create type mood as enum ('glad'); create table named (id int, {name} mood)")
    await listen_to(conn, {"dedupe": f"{{{name}}}", "columns": ["id"]}, table="named")

    await conn.execute("insert into named values (7, 'glad')")

    assert await keys(conn) == ["glad"]
    assert (await payloads(conn))[0]["new"] == {"id": 7}


async def test_a_row_of_a_partition_tells_the_partitions_name(conn: asyncpg.Connection) -> None:
    await conn.execute(
        """
        create table measured (day date, value int) partition by range (day);
        create table measured_2030 (value int, day date);
        alter table measured attach partition measured_2030 for values from ('2030-01-01') to ('2031-01-01');
        """
    )
    await listen_to(conn, {"columns": ["value"]}, table="measured")

    await conn.execute("insert into measured values ('2030-05-05', 7)")

    [payload] = await payloads(conn)
    assert (payload["table"], payload["new"]) == ("measured_2030", {"value": 7})


async def test_a_table_without_columns_has_empty_rows(conn: asyncpg.Connection) -> None:
    await conn.execute("create table nothing ()")
    await listen_to(conn, table="nothing")

    await conn.execute("insert into nothing default values")

    assert [(payload["new"], payload["old"]) for payload in await payloads(conn)] == [({}, None)]
