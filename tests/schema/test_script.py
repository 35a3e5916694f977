"""The same steps for psql."""

import shutil
import subprocess

import asyncpg
import pytest

from pqlite import schema
from tests.cli.test_migrate import run_script
from tests.schema.conftest import Future

NEXT = schema.latest() + 1
STEPS = (
    "-- pqlite: serves 1\nalter table pqlite.jobs add column extra int;",
    "-- pqlite: no transaction\ncreate index concurrently if not exists jobs_extra on pqlite.jobs (extra);",
    "alter table pqlite.jobs add column more int;",
)

pytestmark = pytest.mark.skipif(shutil.which("psql") is None, reason="only psql runs statement by statement")


@pytest.mark.parametrize("since", [0, 1, NEXT - 1, NEXT, NEXT + 1])
async def test_a_script_from_any_version_on_leaves_nothing_to_do_also_through_steps_without_a_transaction(
    empty_dsn: str, future: Future, since: int
) -> None:
    root = future(*STEPS)
    conn = await asyncpg.connect(empty_dsn)
    try:
        if since:
            await schema.migrate(conn, "other", to=since, root=root)

        await run_script(empty_dsn, schema.script("other", since=since, root=root))

        assert await schema.plan(conn, "other", root=root) == schema.Plan(NEXT + 2, (), False)
        serves = await conn.fetch("select serves from other.migrations where version >= $1 order by version", NEXT)
        assert [value for (value,) in serves] == [1, NEXT + 1, NEXT + 2]
    finally:
        await conn.close(timeout=5)


async def test_a_script_from_another_version_changes_nothing(
    dsn: str, conn: asyncpg.Connection, future: Future
) -> None:
    root = future(*STEPS)

    for since in (1, NEXT):
        with pytest.raises(subprocess.CalledProcessError) as caught:
            await run_script(dsn, schema.script(since=since, root=root))
        assert f"this script is for a schema at version {since}" in caught.value.stderr.decode()

    assert await schema.version(conn) == NEXT - 1
    await schema.check(conn)


async def test_a_script_up_to_a_version_goes_no_further(dsn: str, conn: asyncpg.Connection, future: Future) -> None:
    root = future(*STEPS)

    await run_script(dsn, schema.script(since=NEXT - 1, to=NEXT, root=root))

    assert [m.version for m in (await schema.plan(conn, root=root)).migrations] == [NEXT + 1, NEXT + 2]
