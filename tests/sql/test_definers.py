"""Functions that run with their owner's rights: enough for a role without any right on a table, and no more."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

MINUTELY = '{"job_type": "t", "every": "1 minute"}'
DEFINED = f'[{{"name": "s", "digest": "d", "definition": {MINUTELY}}}]'
FIRE = """
    select f.verdict from pqlite.schedules s, pqlite.fire_schedules(jsonb_build_array(jsonb_build_object(
      'name', s.name, 'revision', s.revision, 'handled_through', s.handled_through, 'missed', 0,
      'slots', jsonb_build_array(jsonb_build_object('slot', pg_catalog.clock_timestamp(), 'run_after', s.next_at)),
      'through', s.handled_through))) f
"""

CALLS = {
    "enqueue": "select id from pqlite.enqueue('t', '{}', dedupe_key => 'k', delay => '1 s', lock_wait => '1 s')",
    "enqueue_many": "select id from pqlite.enqueue_many('{t}', array['{}', '{}'], '{k,l}', p_tags => array['[\"a\"]'])",
    "enqueue_keyless": "select pqlite.enqueue_keyless('{t}', array['{}', '{}'], p_tags => array['[\"a\"]'])",
    "cancel": "select pqlite.cancel(id) from pqlite.enqueue('t')",
    "retry": "select pqlite.retry(id) from pqlite.enqueue('t')",
    "job": "select j.id from pqlite.enqueue('t') e, pqlite.job(e.id) j",
    "ended": "select n.id from pqlite.enqueue('t') e, pqlite.ended(array[e.id, 404]) n",
    "enqueue_on_change": """
        create temp table mine (id int);
        create trigger changed after insert or update on mine for each row
          execute function pqlite.enqueue_on_change('t', '{"dedupe": "k:{id}", "columns": ["id"], "delay": "1 day"}');
        insert into mine values (1); update mine set id = 1
    """,
    "current_epoch": "select pqlite.current_epoch(); select id from pqlite.enqueue('t')",
    "add_schedule": f"select pqlite.add_schedule('s', '{MINUTELY}')",
    "change_schedule": f"select pqlite.add_schedule('s', '{MINUTELY}'), pqlite.change_schedule('s', '{{}}')",
    "pause_schedule": f"select pqlite.add_schedule('s', '{MINUTELY}'), pqlite.pause_schedule('s')",
    "resume_schedule": f"select pqlite.add_schedule('s', '{MINUTELY}'), pqlite.resume_schedule('s')",
    "remove_schedule": f"select pqlite.add_schedule('s', '{MINUTELY}'), pqlite.remove_schedule('s')",
    "run_schedule_now": f"select pqlite.add_schedule('s', '{MINUTELY}'); select id from pqlite.run_schedule_now('s')",
    "fire_schedules": f"select pqlite.add_schedule('s', '{MINUTELY}'); {FIRE}",
    "reconcile_schedules": f"select n.name from pqlite.reconcile_schedules('{DEFINED}', '1 min', true) n",
    "schedule_changed": f"select pqlite.add_schedule('s', '{MINUTELY}')",
    "pause": "select pqlite.pause('queue', 'q'); select id from pqlite.enqueue('t')",
    "resume": "select pqlite.pause('key', 'k'), pqlite.resume('key', 'k'); select id from pqlite.enqueue('t')",
    "any_pause": "select pqlite.pause('queue', 'q'), pqlite.any_pause(); select id from pqlite.enqueue('t')",
    "paused": "select pqlite.pause('queue', 'q'), pqlite.paused('q', 't', 'k'); select id from pqlite.enqueue('t')",
    "jobs_inserted": "insert into pqlite.jobs (job_type) values ('t')",
}

ROWS = {"enqueue_many": 2, "enqueue_keyless": 2, "run_schedule_now": 2, "fire_schedules": 2, "remove_schedule": 0}
"""How many jobs and schedules there are after a call, if not one."""

HOSTILE = """
    create schema hostile;
    create function hostile.spy() returns void language plpgsql as $$
      begin raise exception 'I run as %', current_user; end $$;
    create function hostile.clock_timestamp() returns timestamptz language plpgsql as $$
      begin perform hostile.spy(); return null; end $$;
    create function hostile.pg_notify(text, text) returns void language plpgsql as $$
      begin perform hostile.spy(); end $$;
    create function hostile.set_config(text, text, boolean) returns text language plpgsql as $$
      begin perform hostile.spy(); return null; end $$;
    create function hostile.current_setting(text) returns text language plpgsql as $$
      begin perform hostile.spy(); return null; end $$;
    create function hostile.nextval(regclass) returns bigint language plpgsql as $$
      begin perform hostile.spy(); return null; end $$;
    create function hostile.cardinality(anyarray) returns int language plpgsql as $$
      begin perform hostile.spy(); return null; end $$;
    create function hostile.to_jsonb(anyelement) returns jsonb language plpgsql as $$
      begin perform hostile.spy(); return null; end $$;
    create function hostile.jsonb_typeof(jsonb) returns text language plpgsql as $$
      begin perform hostile.spy(); return null; end $$;
    create function hostile.format(text, text) returns text language plpgsql as $$
      begin perform hostile.spy(); return null; end $$;
    create function hostile.same(text, text) returns boolean language plpgsql as $$
      begin perform hostile.spy(); return null; end $$;
    create function hostile.same(bigint, bigint) returns boolean language plpgsql as $$
      begin perform hostile.spy(); return null; end $$;
    create function hostile.get(jsonb, text) returns text language plpgsql as $$
      begin perform hostile.spy(); return null; end $$;
    create operator hostile.= (leftarg = text, rightarg = text, function = hostile.same);
    create operator hostile.= (leftarg = bigint, rightarg = bigint, function = hostile.same);
    create operator hostile.->> (leftarg = jsonb, rightarg = text, function = hostile.get);
    create role pqlite_test_role;
    grant usage on schema pqlite, hostile to pqlite_test_role;
    grant insert on pqlite.jobs to pqlite_test_role;
    grant select on pqlite.schedules to pqlite_test_role;
    grant execute on function pqlite.enqueue, pqlite.enqueue_many, pqlite.enqueue_keyless, pqlite.enqueue_on_change,
      pqlite.cancel, pqlite.retry, pqlite.job, pqlite.ended, pqlite.current_epoch,
      pqlite.add_schedule, pqlite.change_schedule, pqlite.pause_schedule, pqlite.resume_schedule,
      pqlite.pause, pqlite.resume, pqlite.any_pause, pqlite.paused, pqlite.remove_schedule, pqlite.run_schedule_now,
      pqlite.fire_schedules, pqlite.reconcile_schedules to pqlite_test_role;
    grant create on schema public to pqlite_test_role;
    create temp table jobs (like pqlite.jobs including all);
    create temp table workers (like pqlite.workers);
    alter table pg_temp.jobs owner to pqlite_test_role;
    alter table pg_temp.workers owner to pqlite_test_role;
"""


@pytest.fixture
async def hostile(conn: asyncpg.Connection) -> AsyncIterator[asyncpg.Connection]:
    """A session of a role that may call the contract's functions, and has put its own things in front of all others.

    In a transaction that is rolled back, because roles belong to the server.
    """
    await conn.execute("select pqlite.arm(60000)")  # so that the trigger notifies
    transaction = conn.transaction()
    await transaction.start()
    try:
        await conn.execute(HOSTILE)
        await conn.execute("set local role pqlite_test_role")
        await conn.execute(
            """
            create temp table inserted (queue text);
            create temp sequence wake_until;
            create function pg_temp.clock_timestamp() returns timestamptz language sql as
              'select hostile.clock_timestamp()';
            create function pg_temp.spread(anyarray, int) returns anyarray language sql as
              'select hostile.spy(); select $1';
            """
        )
        await conn.execute("set local search_path = pg_temp, hostile, pg_catalog, public")
        yield conn
    finally:
        await transaction.rollback()


async def test_every_function_that_runs_with_its_owners_rights_is_tried_here(conn: asyncpg.Connection) -> None:
    definers = "select proname from pg_proc where pronamespace = 'pqlite'::regnamespace and prosecdef"

    assert {row[0] for row in await conn.fetch(definers)} == set(CALLS)


@pytest.mark.parametrize("function", CALLS)
async def test_a_hostile_session_lends_it_nothing_of_its_own(hostile: asyncpg.Connection, function: str) -> None:
    await hostile.execute(CALLS[function])

    await hostile.execute("reset role; set local search_path = pg_catalog")
    rows = "select (select count(*) from pqlite.jobs) + (select count(*) from pqlite.schedules)"
    assert await hostile.fetchval(rows) == ROWS.get(function, 1)
    assert await hostile.fetchval("select count(*) from pg_temp.jobs") == 0


async def test_the_hostile_session_would_catch_a_function_that_looks_names_up(hostile: asyncpg.Connection) -> None:
    """Otherwise the tests above could not fail."""
    await hostile.execute("reset role")
    await hostile.execute(
        "create or replace function pqlite.cancel(job_id bigint) returns text language plpgsql security definer as "
        "$$ begin return clock_timestamp(); end $$"
    )
    await hostile.execute("set local role pqlite_test_role")
    with pytest.raises(asyncpg.RaiseError, match="I run as "):
        await hostile.execute("select pqlite.cancel(1)")


@pytest.mark.parametrize("column", ["mood", "mood[]", "pair", "pair[]", "moods", "span"])
async def test_a_type_with_its_own_way_to_json_gains_nothing_by_an_outbox(
    hostile: asyncpg.Connection, column: str
) -> None:
    """to_jsonb calls a cast that the type's owner has made, with the rights of whoever runs to_jsonb."""
    await hostile.execute(
        """
        set local search_path = public, pg_catalog;
        create type mood as enum ('glad');
        create type pair as (mood mood);
        create domain moods as mood;
        create type span as range (subtype = text);
        create function spy(mood) returns json language plpgsql as $$ begin perform hostile.spy(); return null; end $$;
        create function spy(span) returns json language plpgsql as $$ begin perform hostile.spy(); return null; end $$;
        create cast (mood as json) with function spy(mood);
        create cast (span as json) with function spy(span);
        """
    )
    value = {"mood": "'glad'", "moods": "'glad'", "mood[]": "'{glad}'", "pair": "'(glad)'", "span": "'[a,b)'"}
    await hostile.execute(
        f"""
        create table of_mood (m {column});
        insert into of_mood values ({value.get(column, "array['(glad)'::pair]")});
        create trigger changed after update on of_mood for each row execute function pqlite.enqueue_on_change('t');
        """
    )

    await hostile.execute("update of_mood set m = m")

    assert await hostile.fetchval("select payload -> 'new' ->> 'm' from pqlite.job(1)") in (
        *["glad", '["glad"]', "(glad)", '["(glad)"]', "[a,b)"],
    )
    with pytest.raises(asyncpg.RaiseError, match="I run as pqlite_test_role"):
        await hostile.execute("select to_jsonb(o) from of_mood o")


async def test_a_role_that_may_not_call_it_makes_no_trigger_of_it_but_may_write_where_another_made_one(
    conn: asyncpg.Connection,
) -> None:
    transaction = conn.transaction()
    await transaction.start()
    try:
        await conn.execute(
            """
            create role pqlite_test_role;
            create table orders (id int);
            create trigger changed after insert on orders for each row execute function pqlite.enqueue_on_change('t');
            grant insert on orders to pqlite_test_role;
            set local role pqlite_test_role;
            create temp table mine (id int);
            """
        )
        await conn.execute("insert into orders values (1)")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            async with conn.transaction():
                await conn.execute(
                    "create trigger changed after insert on mine for each row "
                    "execute function pqlite.enqueue_on_change('t')"
                )
        await conn.execute("reset role")
        assert await conn.fetchval("select count(*) from pqlite.jobs") == 1
    finally:
        await transaction.rollback()
