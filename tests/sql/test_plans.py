"""The plans that really run inside the functions, in the states of the table that have fooled planners.

A plan cached while the table was empty and analysed must still be right when the table is full: that is every queue's
Monday morning. So no plan may depend on statistics.
"""

import asyncio
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import asyncpg
import pytest

ROWS = 50_000
BEFORE_IT_IS_FILLED = 7
"""After five runs the server may go over to a generic plan."""


@dataclass
class Ran:
    """What one call ran: its plans, those of the statements in the functions it called included."""

    plans: list[dict[str, Any]]

    def nodes(self) -> Iterator[dict[str, Any]]:
        pending = [plan["Plan"] for plan in self.plans]
        while pending:
            node = pending.pop()
            pending.extend(node.get("Plans", []))
            yield node

    def of_kind(self, kind: str) -> list[dict[str, Any]]:
        return [node for node in self.nodes() if node["Node Type"] == kind]

    @property
    def unbounded_scans(self) -> list[str]:
        """Scans of jobs that are no index scans, or walk an index of the whole table without a bound."""
        scans = [node for node in self.nodes() if node.get("Relation Name") == "jobs" and "Scan" in node["Node Type"]]
        return [
            str(node)
            for node in scans
            if "Index Name" not in node or ("Index Cond" not in node and node["Index Name"] != "jobs_suspect")
        ]

    @property
    def sorts(self) -> list[str]:
        """What was sorted instead of read in order; aggregates over arguments excepted."""
        return [
            str(node)
            for node in self.nodes()
            if "Sort" in node["Node Type"] and any(below.get("Relation Name") == "jobs" for below in _below(node))
        ]

    @property
    def indexes(self) -> set[str]:
        return {
            node["Index Name"] for node in self.nodes() if node.get("Relation Name") == "jobs" and "Index Name" in node
        }

    @property
    def buffers(self) -> int:
        """Shared buffers touched by the outermost statement, everything below it included."""
        return max(
            plan["Plan"].get("Shared Hit Blocks", 0) + plan["Plan"].get("Shared Read Blocks", 0) for plan in self.plans
        )


def _below(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for child in node.get("Plans", []):
        yield child
        yield from _below(child)


class Session:
    """A session whose plans are collected by auto_explain."""

    def __init__(self, conn: asyncpg.Connection) -> None:
        self.conn = conn
        self._plans: list[dict[str, Any]] = []
        conn.add_log_listener(self._on_log)

    def _on_log(self, _conn: object, message: Any) -> None:
        _, found, plan = message.message.partition("plan:\n")
        if found:
            self._plans.append(json.loads(plan))

    async def run(self, sql: str, *args: Any) -> Ran:
        """Run a statement and return its plans; what it changes is rolled back."""
        transaction = self.conn.transaction()
        await transaction.start()
        try:
            self._plans.clear()
            with suppress(asyncpg.UnknownPostgresError):  # PQ001: there is no such claim in an empty table
                await self.conn.fetch(sql, *args)
            await asyncio.sleep(0)
            return Ran(self._plans.copy())
        finally:
            await transaction.rollback()

    async def call(self, verb: str) -> Ran:
        """Call one of the VERBS; `$1` is what `me` holds."""
        sql = VERBS[verb][0]
        if "$1" not in sql:
            return await self.run(sql)
        await self.conn.execute("set auto_explain.log_min_duration = -1")
        mine = "select array(select id from pqlite.jobs where status = 'RUNNING' and locked_by = 'me' order by id)"
        ids = await self.conn.fetchval(mine)
        await self.conn.execute("set auto_explain.log_min_duration = 0")
        return await self.run(sql, ids)


@pytest.fixture
async def session(conn: asyncpg.Connection) -> Session:
    try:
        await conn.execute("load 'auto_explain'")
    except asyncpg.PostgresError as error:
        pytest.skip(f"auto_explain cannot be loaded: {error}")
    await conn.execute(
        """
        set auto_explain.log_min_duration = 0; set auto_explain.log_nested_statements = on;
        set auto_explain.log_level = notice; set auto_explain.log_format = json;
        set auto_explain.log_analyze = on; set auto_explain.log_buffers = on; set auto_explain.log_timing = off;
        -- nobody analyses behind our back
        alter table pqlite.jobs set (autovacuum_enabled = off);
        alter table pqlite.workers set (autovacuum_enabled = off);
        insert into pqlite.workers (id, label, lease_until, dead_at, steady_since)
        values ('me', 'me', 'infinity', null, now() - interval '1 hour'), ('dead', 'dead', 'infinity', now(), now());
        """
    )
    return Session(conn)


# How each verb is called, and how many buffers it may touch for what it does.

LANE = "'{q1}', '{t1}', '{0}', '{-infinity}', '{0}'"
VERBS: dict[str, tuple[str, int]] = {
    "enqueue": ("select pqlite.enqueue('t', '{}', dedupe_key => 'new')", 150),
    "enqueue of a duplicate": ("select pqlite.enqueue('t', '{}', dedupe_key => 'k7')", 150),
    "enqueue_many of 500, half of them duplicates": (
        """
        select pqlite.enqueue_many(
          array_agg('t'::text), array_agg('{}'::text), array_agg('k' || n - 250), array_agg(null::timestamptz),
          array_agg(null::interval), array_agg(0), array_agg(5), array_agg(null::float8), array_agg('q1'::text),
          array_agg('[]'::text), array_agg('{}'::text), array_agg(null::text), array_agg(null::timestamptz))
        from generate_series(1, 500) n
        """,
        20_000,
    ),
    "enqueue_keyless of 500": (
        """
        select pqlite.enqueue_keyless('{t}', array_agg('{}'::text), p_priority => array_agg(n), p_queue => '{q1}')
        from generate_series(1, 500) n
        """,
        20_000,
    ),
    "claim of 100": (f"select from pqlite.claim('me', 100, false, null, null, {LANE})", 6_000),
    "claim of 100 from 20 lanes": (
        """
        select from (select array_agg('q' || n % 5 order by n) q, array_agg('t' || n % 4 order by n) t,
                            array_agg(n % 2 order by n) p, array_agg('-infinity'::timestamptz) w, array_agg(0::bigint) i
                     from generate_series(0, 19) n) l,
          lateral pqlite.claim('me', 50, true, null, null, l.q, l.t, l.p, l.w, l.i, 50)
        """,
        6_000,
    ),
    "claim of 100 behind payloads that are too new": (
        f"select from pqlite.claim('me', 100, true, null, null, {LANE}, 0, '{{\"t1\": 1}}')",
        6_000,
    ),
    "claim of a suspect": ("select from pqlite.claim('me', 1, true, null, null, '{}', '{}', '{}', '{}', '{}')", 400),
    "claim of nothing": (
        "select from pqlite.claim('me', 9, true, '{none}', '{none}', '{q1}', '{none}', '{0}', '{-infinity}', '{0}')",
        400,
    ),
    "settle of 200": (
        """
        select from cardinality($1::bigint[]) n, pqlite.settle(
          'me', $1::bigint[], array_fill(1, array[n]), array_fill('DONE'::text, array[n]),
          array_fill('1'::text, array[n]), array_fill(null::text, array[n]), array_fill(0::bigint, array[n]),
          array_fill(5, array[n]))
        """,
        15_000,
    ),
    "settle of 200 that are not kept": (
        """
        select from cardinality($1::bigint[]) n, pqlite.settle(
          'me', $1::bigint[], array_fill(1, array[n]), array_fill('DONE'::text, array[n]),
          array_fill('1'::text, array[n]), '{}', '{}', array_fill(5, array[n]), false)
        """,
        15_000,
    ),
    "settle of 200 that asks for statuses": (
        """
        select from cardinality($1::bigint[]) n, pqlite.settle(
          'me', $1::bigint[], array_fill(1, array[n]), array_fill('DONE'::text, array[n]),
          array_fill('1'::text, array[n]), array_fill(null::text, array[n]), array_fill(0::bigint, array[n]),
          array_fill(5, array[n]), p_statuses => true)
        """,
        15_000,
    ),
    "settle of 200 to be retried that asks for statuses": (
        """
        select from cardinality($1::bigint[]) n, pqlite.settle(
          'me', $1::bigint[], array_fill(1, array[n]), array_fill('RETRY'::text, array[n]), '{}',
          array_fill('oops'::text, array[n]), array_fill(0::bigint, array[n]), array_fill(5, array[n]),
          p_statuses => true)
        """,
        15_000,
    ),
    "settle of strangers": (
        """
        select from pqlite.settle('nobody', '{1,2,3}', '{1,1,1}', '{DONE,DONE,DONE}', '{null,null,null}',
                                  '{null,null,null}', '{0,0,0}', '{null,null,null}')
        """,
        100,
    ),
    "renew": ("select from pqlite.renew('me', '20 s', null)", 100),
    "disown": ("select from pqlite.disown('me', '{1}', '90 s', now())", 15_000),
    "reap of 200": ("select from pqlite.reap('me')", 15_000),
    "reap_stale": ("select from pqlite.reap_stale('20 minutes')", 100),
    "unregister": ("select pqlite.unregister('me')", 100),
    "lanes": ("select from pqlite.lanes(null, null)", 2_000),
    "lanes behind watermarks": (
        """
        select from (select array_agg('q' || n / 8 order by n) q, array_agg('t' || n / 2 % 4 order by n) t,
                            array_agg(1 - n % 2 order by n) p, array_agg(now()) w, array_agg(0::bigint) i
                     from generate_series(0, 39) n) l,
          lateral pqlite.lanes(null, null, l.q, l.t, l.p, l.w, l.i)
        """,
        2_000,
    ),
    "lanes of some types": ("select from pqlite.lanes('{q1,q2}', '{t1}')", 1_000),
    "lanes with payloads that are too new": (
        """
        select from (select array_agg('q' || n / 8 order by n) q, array_agg('t' || n / 2 % 4 order by n) t,
                            array_agg(1 - n % 2 order by n) p, array_agg(now()) w, array_agg(0::bigint) i
                     from generate_series(0, 19) n) l,
          lateral pqlite.lanes(null, null, l.q, l.t, l.p, l.w, l.i, p_versions => '{"t0": 1, "t1": 1, "t2": 1}')
        """,
        2_500,
    ),
    "pickup": ("select from pqlite.pickup('me', null, null)", 2_500),
    "cancel": ("select pqlite.cancel(1)", 100),
    "retry": ("select pqlite.retry(1)", 100),
    "job": ("select * from pqlite.job(1)", 100),
    "ended": ("select * from pqlite.ended($1::bigint[])", 15_000),
    "complete": ("select pqlite.complete('me', ($1::bigint[])[1], 1, null)", 100),
    "prune of 1000": ("select pqlite.prune('7 days', '7 days', null, 1000)", 20_000),
}

FILL = {
    # ready (with and without keys, 5 queues, 4 types, 2 priorities), held by me and by a dead worker, suspects, history
    # (Each lane of the backlog begins with payloads of version 2.)
    "backlog": """
        insert into pqlite.jobs (queue, job_type, priority, dedupe_key, run_after, metadata)
        select 'q' || n % 5, 't' || n % 4, n % 2, case when n % 10 = 0 then 'k' || n / 10 end,
               now() - interval '1 day' + n * interval '1 ms',
               case when n < 500 then '{{"payload_version": 2}}' else '{{}}' end::jsonb
        from generate_series(1, {rows}) n
    """,
    "history": """
        insert into pqlite.jobs (queue, job_type, status, dedupe_key, created_at, finished_at)
        select 'q' || n % 5, 't' || n % 4, (array['DONE', 'DONE', 'DONE', 'FAILED'])[n % 4 + 1],
               case when n % 10 = 0 then 'k' || n / 10 end, now() - interval '30 days', now() - interval '30 days'
        from generate_series(1, {rows}) n
    """,
    "running": """
        insert into pqlite.jobs (queue, job_type, status, locked_by, locked_at, claims, attempts)
        select 'q' || n % 5, 't' || n % 4, 'RUNNING', case when n % 2 = 0 then 'me' else 'dead' end, now(), 1, 1
        from generate_series(1, 400) n
    """,
    "running of others": """
        insert into pqlite.workers (id, label, lease_until)
        select 'w' || n, 'w', 'infinity' from generate_series(1, 9) n;
        insert into pqlite.jobs (job_type, status, locked_by, locked_at, claims, attempts)
        select 't', 'RUNNING', 'w' || n % 9 + 1, now(), 1, 1 from generate_series(1, {rows} / 5) n
    """,
    "suspects": """
        insert into pqlite.jobs (queue, job_type, crashes, attempts)
        select 'q1', 't1', 1, 1 from generate_series(1, 50) n
    """,
    "a few ready": "insert into pqlite.jobs (queue, job_type) select 'q1', 't1' from generate_series(1, 200) n",
}


async def fill(conn: asyncpg.Connection, *parts: str) -> None:
    await conn.execute("set auto_explain.log_min_duration = -1")
    for part in parts:
        await conn.execute(FILL[part].format(rows=ROWS))
    await conn.execute("set auto_explain.log_min_duration = 0")


async def check_every_verb(session: Session) -> None:
    for verb, (_, most_buffers) in VERBS.items():
        ran = await session.call(verb)
        assert ran.unbounded_scans == [], verb
        assert ran.sorts == [], verb
        assert ran.buffers < most_buffers, f"{verb} touched {ran.buffers} buffers; indexes: {ran.indexes}"


async def call_every_verb(session: Session) -> None:
    for _ in range(BEFORE_IT_IS_FILLED):
        for verb in VERBS:
            await session.call(verb)


async def test_the_statuses_of_jobs_that_are_not_done_cost_nothing_where_all_are_done(session: Session) -> None:
    await fill(session.conn, "running", "backlog")

    verbs = ("settle of 200", "settle of 200 that asks for statuses")
    await session.call(verbs[0])  # what it has rolled back is in the way of both that follow
    without, asking = [await session.call(verb) for verb in verbs]

    assert len(asking.plans) == len(without.plans)
    assert asking.buffers <= without.buffers * 1.02


MODES = ["auto", "force_generic_plan", "force_custom_plan"]


@pytest.mark.parametrize("mode", MODES)
async def test_plans_made_for_an_empty_analysed_table_are_right_when_it_is_full(session: Session, mode: str) -> None:
    await session.conn.execute(f"set plan_cache_mode = {mode}")
    await session.conn.execute("vacuum analyze pqlite.jobs")
    await call_every_verb(session)

    await fill(session.conn, "running", "suspects", "backlog", "history", "running of others")

    await check_every_verb(session)


@pytest.mark.parametrize("mode", MODES)
async def test_plans_are_right_beside_a_long_analysed_history(session: Session, mode: str) -> None:
    await session.conn.execute(f"set plan_cache_mode = {mode}")
    await fill(session.conn, "history", "running", "suspects", "a few ready")
    await session.conn.execute("vacuum analyze pqlite.jobs")

    await check_every_verb(session)


async def test_plans_are_right_in_a_long_analysed_backlog(session: Session) -> None:
    await fill(session.conn, "backlog", "running", "suspects", "running of others")
    await session.conn.execute("vacuum analyze pqlite.jobs")

    await check_every_verb(session)


async def test_plans_are_right_in_a_table_that_was_never_analysed(session: Session) -> None:
    await fill(session.conn, "running", "suspects", "backlog", "history", "running of others")

    await check_every_verb(session)


async def test_plans_are_right_when_the_statistics_say_that_all_is_history(session: Session) -> None:
    await fill(session.conn, "history")
    await session.conn.execute("vacuum analyze pqlite.jobs")
    await call_every_verb(session)

    await fill(session.conn, "running", "suspects", "backlog", "running of others")

    await check_every_verb(session)


async def test_a_claim_from_the_watermark_reads_no_entry_before_it_even_where_vacuum_may_not_remove_them(
    session: Session, dsn: str
) -> None:
    await fill(session.conn, "backlog")
    pin = await asyncpg.connect(dsn)
    try:
        await pin.execute("begin isolation level repeatable read; select 1 from pqlite.jobs limit 1")
        await session.conn.execute(
            "update pqlite.jobs set status = 'DONE' where queue = 'q1' and job_type = 't1' and priority = 1 "
            "and run_after < (select max(run_after) from pqlite.jobs) - interval '1 s'"
        )
        await session.conn.execute("vacuum pqlite.jobs")
        mark = await session.conn.fetchrow(
            "select run_after, id from pqlite.jobs where status = 'READY' and queue = 'q1' and job_type = 't1' "
            "order by run_after, id limit 1"
        )
        assert mark is not None

        claim = "select from pqlite.claim('me', 1, false, null, null, '{q1}', '{t1}', '{1}', $1, $2)"
        from_the_mark = await session.run(claim, [mark["run_after"]], [mark["id"]])

        assert from_the_mark.buffers < 100

        look = """
            select from (select array_agg(l.queue) q, array_agg(l.job_type) t, array_agg(l.priority) p,
                                array_agg(case when l.queue = 'q1' and l.job_type = 't1' then $1::timestamptz
                                               else l.run_after end) w,
                                array_agg(case when l.queue = 'q1' and l.job_type = 't1' then $2::bigint
                                               else l.id end) i
                         from (select * from pqlite.lanes(null, null)
                               order by queue collate "C", job_type collate "C", -priority) l) l,
              lateral pqlite.lanes(null, null, l.q, l.t, l.p, l.w, l.i)"""
        await session.conn.execute("set auto_explain.log_min_duration = -1")
        known = await session.conn.fetchrow(look.replace("select from (", "select l.* from (", 1), *mark)
        await session.conn.execute("set auto_explain.log_min_duration = 0")
        assert known is not None
        all_known = await session.run("select from pqlite.lanes(null, null, $1, $2, $3, $4, $5)", *known)
        none_known = await session.run("select from pqlite.lanes(null, null)")
        assert all_known.buffers < 500 < none_known.buffers
    finally:
        await pin.close()


async def test_each_verb_uses_the_index_that_was_made_for_it(session: Session) -> None:
    await fill(session.conn, "running", "suspects", "backlog", "history", "running of others")
    await session.conn.execute("vacuum analyze pqlite.jobs")

    expected = {
        "claim of 100": "jobs_ready",
        "claim of a suspect": "jobs_suspect",
        "enqueue of a duplicate": "jobs_dedupe",
        "renew": "jobs_cancel",
        "disown": "jobs_running",
        "reap of 200": "jobs_running",
        "reap_stale": "jobs_running",
        "lanes": "jobs_ready",
        "prune of 1000": "jobs_failed",
    }
    for verb, index in expected.items():
        assert index in (await session.call(verb)).indexes, verb


async def test_a_claim_sorts_nothing_and_neither_does_the_search_for_lanes(session: Session) -> None:
    for parts in ((), ("running", "suspects", "backlog", "history")):
        await fill(session.conn, *parts)
        for verb in ("claim of 100", "claim of a suspect", "lanes", "lanes of some types", "reap of 200"):
            ran = await session.call(verb)
            assert ran.sorts == [], verb
