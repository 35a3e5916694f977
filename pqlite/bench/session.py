"""A run of `pqlite bench` from beginning to end."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import tempfile
import textwrap
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg

from pqlite.bench import arguments as bench_arguments
from pqlite.bench.catalogue import SCENARIOS, listing
from pqlite.bench.environment import described, environment
from pqlite.bench.figures import Result
from pqlite.bench.options import Options
from pqlite.bench.place import schemas
from pqlite.bench.plot import panels, svg
from pqlite.bench.record import record
from pqlite.bench.report import WIDTH, report
from pqlite.bench.run import Run, measure, progress
from pqlite.bench.server import Server
from pqlite.cli import database
from pqlite.cli.failure import Failure
from pqlite.embedded import EmbeddedError, EmbeddedPostgres
from pqlite.store.dsn import SHAPE

EMBEDDED_SETTINGS = {"max_connections": "500"}  # a hundred idle workers need 400
OR_GIVE_ONE = f"Or measure a server of yours: pqlite bench --dsn {SHAPE}"

add_arguments = bench_arguments.add_arguments


def main(arguments: argparse.Namespace) -> int:
    """Run the benchmarks; return the exit status.

    Raises:
        Failure, PqliteError: they cannot be run; the message is a sentence.
    """
    if arguments.list:
        print(listing())
        return 0
    try:
        options = bench_arguments.options_of(arguments)
    except ValueError as error:
        raise Failure(str(error), status=2) from None
    # The environment's database is an app's: only one that was named here is measured.
    address = None if arguments.dsn is None else database.address(arguments.dsn, {})
    try:
        asyncio.run(_run(options, None if address is None else address.dsn))
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None  # SIGTERM ends a run as SIGINT does
    return 0


async def _run(options: Options, dsn: str | None) -> None:
    # What a service manager or a CI job sends must not leave schemas behind either.
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    results: list[Result] = []
    async with _prepared(options, dsn) as run:
        facts = environment(run.server, options, embedded=dsn is None)
        _introduce(facts)
        try:
            for name in options.scenarios:
                cases = SCENARIOS[name].cases(options)
                await measure(run, [case for case in cases if (options.case or "") in case.name], results.append)
        finally:
            # An interrupted run has measured something, too.
            _report(options, facts, results)


@asynccontextmanager
async def _prepared(options: Options, dsn: str | None) -> AsyncIterator[Run]:
    async with AsyncExitStack() as stack:
        if dsn is None:
            progress("Starting PostgreSQL ...")
            try:
                embedded = EmbeddedPostgres(fsync=True, settings=EMBEDDED_SETTINGS)
                dsn = (await stack.enter_async_context(embedded)).dsn
            except EmbeddedError as error:
                raise Failure(f"{error}\n{OR_GIVE_ONE}") from error
        with database.reaching("--dsn"):
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
