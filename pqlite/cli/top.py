"""`pqlite top`: what the queues do, live."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from pqlite.cli import database
from pqlite.cli.command import Commands, add_command
from pqlite.cli.failure import Failure
from pqlite.operations import Operations, Stats, WorkerRow
from pqlite.store.postgres import PgJobStore

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

DESCRIPTION = """\
Show what waits, runs and fails, again and again until Ctrl-C. It needs rich:
pip install 'pqlite-queue[cli]'.
"""

EXAMPLES = """\
examples:
  pqlite top
  pqlite top --every 5
  pqlite top --once
"""

NO_RICH = "pqlite top needs rich: pip install 'pqlite-queue[cli]'. pqlite status needs nothing."
RATIOS = {"QUEUE": 1, "JOB TYPE": 2, "ID": 2, "HOST": 1}
HEADER_LINES = 10
"""What the titles and heads of three tables, and the summary, take of the terminal's height."""


def add(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands, "top", run, help="show what the queues do, live", description=DESCRIPTION, examples=EXAMPLES
    )
    parser.add_argument("--every", type=float, default=2.0, metavar="SECONDS", help="default: %(default)g")
    parser.add_argument("--once", action="store_true", help="print one picture, and end")
    database.add_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Show pictures until Ctrl-C."""
    if not 0.2 <= arguments.every <= 3600:
        raise Failure(f"--every must be 0.2 to 3600, not {arguments.every:g}.", status=2)
    try:
        from rich.console import Console
    except ModuleNotFoundError:
        raise Failure(NO_RICH) from None
    address = database.address(arguments.dsn)
    with database.reaching(address.source), suppress(KeyboardInterrupt):
        asyncio.run(_show(address.dsn, arguments, Console()))
    return 0


async def _show(dsn: str, arguments: argparse.Namespace, console: Console) -> None:
    from rich.live import Live

    async with PgJobStore(dsn=dsn, schema=arguments.schema) as store:
        operations = Operations(store)
        if arguments.once:
            console.print(await _picture(operations, console.height))
            return
        with Live(await _picture(operations, console.height), console=console, screen=True, auto_refresh=False) as live:
            while True:
                await asyncio.sleep(arguments.every)
                live.update(await _picture(operations, console.height), refresh=True)


async def _picture(operations: Operations, height: int) -> RenderableType:
    """Return what fits on a terminal of this height."""
    from rich.console import Group
    from rich.text import Text

    stats, workers = await operations.stats(), await operations.workers()
    rows = max((height - HEADER_LINES) // 3, 2)
    return Group(Text(_summary(stats, workers)), _waiting(stats, rows), _ended(stats, rows), _workers(workers, rows))


def _summary(stats: Stats, workers: Sequence[WorkerRow]) -> str:
    alive = sum(each.state == "alive" for each in workers)
    done = sum(each.done_1 for each in stats.ended)
    oldest = stats.oldest_due_seconds
    return (
        f"workers {alive}  running {stats.running}  blocked {stats.blocked}  suspects {stats.suspects}  "
        f"done/min {done:,}  oldest due {'-' if oldest is None else f'{oldest:,.0f} s'}"
    )


def _waiting(stats: Stats, rows: int) -> RenderableType:
    lanes = sorted(stats.waiting, key=lambda each: -(each.oldest_due_seconds or 0))
    told = [
        (each.queue, each.job_type, str(each.due), str(each.later), _seconds(each.oldest_due_seconds))
        for each in lanes[:rows]
    ]
    return _table("waiting", ("QUEUE", "JOB TYPE", "DUE", "LATER", "OLDEST"), told, len(lanes))


def _ended(stats: Stats, rows: int) -> RenderableType:
    types = sorted(stats.ended, key=lambda each: (-each.failed_60, -each.done_60))
    told = [
        (each.job_type, f"{each.done_1:,}", f"{each.done_60:,}", f"{each.failed_60:,}", _seconds(each.run_p95))
        for each in types[:rows]
    ]
    return _table("ended", ("JOB TYPE", "DONE 1 MIN", "60 MIN", "FAILED", "RUN P95"), told, len(types))


def _workers(workers: Sequence[WorkerRow], rows: int) -> RenderableType:
    told = [
        (each.id, each.state, each.host or "?", str(each.pid or "?"), f"{each.running}/{each.concurrency or '?'}")
        for each in sorted(workers, key=lambda each: (each.state == "alive", each.id))[:rows]
    ]
    return _table("workers", ("ID", "STATE", "HOST", "PID", "RUNNING"), told, len(workers))


def _table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]], total: int) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    more = f" ({len(rows)} of {total})" if total > len(rows) else ""
    table = Table(title=title + more, title_justify="left", box=None, expand=True, pad_edge=False)
    for head in heads:  # names share what the numbers leave: a long one must not hide the others
        table.add_column(head, no_wrap=True, overflow="ellipsis", ratio=RATIOS.get(head))
    for row in rows:
        table.add_row(*map(Text, row))  # names are no markup
    return table


def _seconds(number: float | None) -> str:
    return "-" if number is None else f"{number:,.3f} s" if number < 10 else f"{number:,.0f} s"
