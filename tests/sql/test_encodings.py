"""Databases of every encoding: names are compared byte by byte, whatever the bytes mean."""

import os
from collections.abc import AsyncIterator

import asyncpg
import pytest

from pqlite import JobStatus, PgJobStore, Worker, schema
from tests.conftest import Server, dsn_of
from tests.support import ended

LAST = {
    "UTF8": "f48fbfbf",
    "SQL_ASCII": "ff",
    **dict.fromkeys(["LATIN1", "LATIN9", "WIN1252", "KOI8R", "ISO_8859_5"], "ff"),
    **dict.fromkeys(["EUC_JP", "EUC_CN", "EUC_KR", "EUC_TW", "EUC_JIS_2004"], "fefe"),
}
"""The last character of each encoding, in hex."""


@pytest.fixture(params=LAST)
async def encoded(server: Server, request: pytest.FixtureRequest) -> AsyncIterator[tuple[str, str]]:
    """The address of a database in an encoding, and the encoding's last character in hex."""
    name = f"pqlite_test_{os.getpid()}_encoded"
    connection = await asyncpg.connect(server.dsn)
    try:
        await connection.execute(
            f"create database {name} encoding '{request.param}' lc_collate 'C' lc_ctype 'C' template template0"
        )
        yield dsn_of(server, name), LAST[request.param]
        await connection.execute(f"drop database {name} with (force)")
    finally:
        await connection.close(timeout=5)


async def test_a_worker_finds_what_it_has_to_do_in_any_encoding(encoded: tuple[str, str]) -> None:
    async with PgJobStore(dsn=encoded[0]) as store:
        await store.migrate()
        job_id = await store.enqueue("t", {"n": 1}, queue="q")
        async with Worker(store=store, handlers={"t": lambda ctx: ctx.job.payload}):
            job = await ended(store, job_id)

    assert (job.status, job.result) == (JobStatus.DONE, {"n": 1})


async def test_lanes_end_behind_the_last_name_that_an_encoding_can_spell(encoded: tuple[str, str]) -> None:
    dsn, last = encoded
    conn = await asyncpg.connect(dsn)
    try:
        await schema.migrate(conn)
        names = f"""
            select 'default' union all select 'a' union all
            select convert_from(decode(repeat('{last}', n), 'hex'), getdatabaseencoding())
            from unnest(array[1, {200 // (len(last) // 2)}]) n
        """
        await conn.execute(
            f"with names (name) as ({names}) insert into pqlite.jobs (queue, job_type) "
            "select q.name, t.name from names q, names t"
        )

        assert await conn.fetchval("select count(*) from pqlite.lanes(null, null)") == 16
        assert await conn.fetchval("select count(*) from pqlite.lanes('{default}', null)") == 4
    finally:
        await conn.close(timeout=5)
