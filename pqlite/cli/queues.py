"""`pqlite queues`: look at queues, pause and resume them."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence
from dataclasses import asdict
from datetime import timedelta
from typing import Any

from pydantic_core import to_json

from pqlite.cli import database
from pqlite.cli.command import Commands, add_command
from pqlite.cli.failure import Failure
from pqlite.cli.printing import user
from pqlite.store.pausing import Pause, QueueStats
from pqlite.store.postgres import PgJobStore

DESCRIPTION = """\
Look at queues, and pause or resume them. While a queue is paused, no worker
starts a job of it; jobs that run go on, and jobs can be enqueued.

  list           what waits and runs, and what is paused; the default
  pause NAME     start no more jobs of it
  resume NAME    end its pause

NAME is a queue; with --job-type a job type, with --key a concurrency key.
"""

EXAMPLES = """\
examples:
  pqlite queues
  pqlite queues pause mail --reason "the provider is down" --minutes 60
  pqlite queues pause send_invoice --job-type
  pqlite queues resume mail --json
"""

ACTIONS = ("list", "pause", "resume")


def add(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "queues",
        run,
        help="look at queues, pause or resume one",
        description=DESCRIPTION,
        examples=EXAMPLES,
    )
    parser.add_argument("action", nargs="?", choices=ACTIONS, default="list", metavar="ACTION", help="see above")
    parser.add_argument("name", nargs="?", metavar="NAME", help="of the queue, job type or key")
    scope = parser.add_mutually_exclusive_group()
    scope.add_argument("--job-type", action="store_true", help="NAME is a job type")
    scope.add_argument("--key", action="store_true", help="NAME is a concurrency key")
    parser.add_argument("--reason", metavar="TEXT", help="why it is paused")
    parser.add_argument("--minutes", type=float, metavar="N", help="end the pause after so many minutes")
    parser.add_argument("--json", action="store_true", help="print JSON")
    database.add_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Do what was asked, and print the result."""
    if (arguments.name is None) != (arguments.action == "list"):
        wants = "takes no name" if arguments.action == "list" else "needs a name"
        raise Failure(f"pqlite queues {arguments.action} {wants}.", status=2)
    if arguments.minutes is not None and not 0 < arguments.minutes <= 5_000_000:
        raise Failure(f"--minutes must be above 0 and at most 5,000,000, not {arguments.minutes:g}.", status=2)
    address = database.address(arguments.dsn)
    with database.reaching(address.source):
        value, text = asyncio.run(_done(address.dsn, arguments))
    print(to_json(value, indent=2).decode() if arguments.json else text)
    return 0


async def _done(dsn: str, arguments: argparse.Namespace) -> tuple[Any, str]:
    """Return the result as a JSON value and as text."""
    scope = "job_type" if arguments.job_type else "key" if arguments.key else "queue"
    what: dict[str, Any] = {scope: arguments.name}
    async with PgJobStore(dsn=dsn, schema=arguments.schema) as store:
        if arguments.action == "pause":
            until = None if arguments.minutes is None else timedelta(minutes=arguments.minutes)
            await store.pause(**what, reason=arguments.reason, by=user(), until=until)
            return {"paused": what}, f"The {scope.replace('_', ' ')} {arguments.name!r} is paused."
        if arguments.action == "resume":
            found = await store.resume(**what)
            said = "was resumed" if found else "was not paused"
            return {"resumed": found}, f"The {scope.replace('_', ' ')} {arguments.name!r} {said}."
        stats, pauses = await store.queue_stats(), await store.pauses()
    value = {"queues": [asdict(each) for each in stats], "pauses": [asdict(each) for each in pauses]}
    return value, "\n\n".join(part for part in (_table(stats), _paused(pauses)) if part)


def _table(stats: Sequence[QueueStats]) -> str:
    if not stats:
        return "There are no jobs."
    rows: list[tuple[str, ...]] = [("QUEUE", "JOB TYPE", "DUE", "LATER", "RUNNING", "DONE/H", "FAILED/H", "OLDEST")]
    for each in stats:
        oldest = "-" if each.oldest_due_seconds is None else f"{each.oldest_due_seconds:,.0f} s"
        counts = (each.due, each.later, each.running, each.done_last_hour, each.failed_last_hour)
        rows.append((each.queue, each.job_type, *(f"{count:,}" for count in counts), oldest))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(_aligned(row, widths) for row in rows)


def _aligned(row: Sequence[str], widths: Sequence[int]) -> str:
    names = map(str.ljust, row[:2], widths[:2])
    numbers = map(str.rjust, row[2:], widths[2:])
    return "  ".join((*names, *numbers))


def _paused(pauses: Sequence[Pause]) -> str:
    lines = []
    for each in pauses:
        until = "" if each.until is None else f" until {each.until:%Y-%m-%d %H:%M:%S} UTC"
        by = "" if each.paused_by is None else f" by {each.paused_by}"
        reason = "" if each.reason is None else f": {each.reason}"
        lines.append(f"The {each.scope.replace('_', ' ')} {each.name!r} is paused{by}{until}{reason}")
    return "\n".join(lines)
