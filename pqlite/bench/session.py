"""A run of the benchmarks from beginning to end."""

from __future__ import annotations

import asyncio
import signal
import sys
import tempfile
import textwrap
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg

from pqlite.bench.catalogue import SCENARIOS
from pqlite.bench.environment import described, environment
from pqlite.bench.figures import Result
from pqlite.bench.measuring import measure
from pqlite.bench.options import Options
from pqlite.bench.place import schemas
from pqlite.bench.plot import panels, svg
from pqlite.bench.record import record
from pqlite.bench.report import WIDTH, report
from pqlite.bench.run import Run, progress
from pqlite.bench.server import Server
from pqlite.embedded import EmbeddedPostgres

EMBEDDED_SETTINGS = {"max_connections": "500"}  # a hundred idle workers need 400


def run(options: Options, dsn: str | None, reaching: AbstractContextManager[None]) -> None:
    """Run the benchmarks, print the report, and write the files that were asked for.

    Without a `dsn` they run on an embedded server, made for them. `reaching` is around the first connection: it may
    turn its errors into other ones.

    Raises:
        PqliteError: they cannot be run; the message is a sentence.
        KeyboardInterrupt: SIGINT or SIGTERM came; what was measured has been reported.
    """
    try:
        asyncio.run(_run(options, dsn, reaching))
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None  # SIGTERM ends a run as SIGINT does


async def _run(options: Options, dsn: str | None, reaching: AbstractContextManager[None]) -> None:
    # A SIGTERM, from a service manager or a CI job, must not leave schemas behind either.
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    results: list[Result] = []
    async with _prepared(options, dsn, reaching) as run:
        facts = environment(run.server, options, embedded=dsn is None)
        _introduce(facts)
        try:
            for name in options.scenarios:
                cases = SCENARIOS[name].cases(options)
                await measure(run, [case for case in cases if (options.case or "") in case.name], results.append)
        finally:
            # The results of an interrupted run are reported, too.
            _report(options, facts, results)


@asynccontextmanager
async def _prepared(options: Options, dsn: str | None, reaching: AbstractContextManager[None]) -> AsyncIterator[Run]:
    async with AsyncExitStack() as stack:
        if dsn is None:
            progress("Starting PostgreSQL ...")
            embedded = EmbeddedPostgres(fsync=True, settings=EMBEDDED_SETTINGS)
            dsn = (await stack.enter_async_context(embedded)).dsn
        with reaching:
            conn = await asyncpg.connect(dsn, server_settings={"application_name": "pqlite bench"})
        stack.push_async_callback(_close, conn)
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pqlite-bench-")))
        run = Run(dsn, conn, await Server.reached(conn), options, directory)
        await stack.enter_async_context(schemas(conn, dsn, list(run.contenders.values())))
        yield run


async def _close(conn: asyncpg.Connection[Any]) -> None:
    await conn.close(timeout=5)


def _introduce(facts: dict[str, Any]) -> None:
    for line in described(facts):
        print("\n".join(textwrap.wrap(line, WIDTH, subsequent_indent="  ")))
    print(flush=True)


def _report(options: Options, facts: dict[str, Any], results: list[Result]) -> None:
    for name in options.scenarios:
        if found := [result for result in results if result.case.scenario == name]:
            scenario = SCENARIOS[name]
            print(f"{report(f'{name}: {scenario.summary}', found, scenario.notes)}\n", flush=True)
    if options.json is not None and results:
        options.json.write_text(record(facts, results), encoding="utf-8")
        print(f"Every repetition is in {options.json}.", file=sys.stderr)
    if options.svg is not None and (drawn := panels(results)):
        options.svg.write_text(svg(drawn), encoding="utf-8")
        print(f"The plot is in {options.svg}.", file=sys.stderr)
