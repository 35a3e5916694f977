"""`pqlite doctor` and `pqlite workers`: what is wrong, and which workers there are."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence
from dataclasses import asdict
from datetime import timedelta

from pqlite.cli import database
from pqlite.cli.command import Commands, add_command
from pqlite.cli.failure import Failure
from pqlite.cli.printing import as_json, moment, table
from pqlite.operations import Finding, Operations, WorkerRow
from pqlite.store.postgres import PgJobStore

DESCRIPTION = """\
Say what is wrong with the queue and its database, and what to do about it:
schema, privileges, trigger, workers, jobs that nobody runs, schedules, clock,
long transactions, vacuum. Exit status 1 if there is an error or a warning.
"""

EXAMPLES = """\
examples:
  pqlite doctor
  pqlite doctor --minutes 1 --json
"""

WORKERS = """\
List the registered workers. One that is silent has not renewed its lease in
time; dead means that another worker has noticed, and takes its jobs over.
"""

WORKERS_EXAMPLES = """\
examples:
  pqlite workers
  pqlite workers --json
"""


def add(commands: Commands) -> None:
    """Add the commands."""
    doctor = add_command(
        commands, "doctor", run, help="say what is wrong, and what to do", description=DESCRIPTION, examples=EXAMPLES
    )
    doctor.add_argument(
        "--minutes",
        type=float,
        default=5.0,
        metavar="N",
        help="the age from which on transactions and due jobs are findings; default: %(default)g",
    )
    workers = add_command(
        commands, "workers", list_workers, help="list workers", description=WORKERS, examples=WORKERS_EXAMPLES
    )
    for parser in (doctor, workers):
        parser.add_argument("--json", action="store_true", help="print JSON")
        database.add_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the findings; return 1 if there is an error or a warning."""
    if not 0 <= arguments.minutes <= 1_000_000:
        raise Failure(f"--minutes must be 0 to 1,000,000, not {arguments.minutes:g}.", status=2)
    address = database.address(arguments.dsn)
    with database.reaching(address.source):
        found = asyncio.run(_findings(address.dsn, arguments))
    if arguments.json:
        print(as_json([asdict(each) for each in found]))
    elif found:
        print("\n".join(f"{each.severity.upper()} {each.code}: {each.text}\n    {each.advice}" for each in found))
    else:
        print("All is well.")
    return int(any(each.severity != "info" for each in found))


def list_workers(arguments: argparse.Namespace) -> int:
    """Print the workers."""
    address = database.address(arguments.dsn)
    with database.reaching(address.source):
        workers = asyncio.run(_workers(address.dsn, arguments))
    print(as_json([asdict(each) for each in workers]) if arguments.json else _table(workers))
    return 0


async def _findings(dsn: str, arguments: argparse.Namespace) -> list[Finding]:
    async with PgJobStore(dsn=dsn, schema=arguments.schema) as store:
        return await Operations(store).doctor(patience=timedelta(minutes=arguments.minutes))


async def _workers(dsn: str, arguments: argparse.Namespace) -> list[WorkerRow]:
    async with PgJobStore(dsn=dsn, schema=arguments.schema) as store:
        return await Operations(store).workers()


def _table(workers: Sequence[WorkerRow]) -> str:
    if not workers:
        return "No worker is registered."
    rows = [("ID", "STATE", "HOST", "PID", "RUNNING", "QUEUES", "STARTED (UTC)", "RENEWED (UTC)")]
    for each in workers:
        queues = "all" if each.queues is None else ",".join(each.queues)
        running = f"{each.running}/{each.concurrency or '?'}"
        place = (each.host or "?", str(each.pid or "?"))
        rows.append((each.id, each.state, *place, running, queues, moment(each.started_at), moment(each.renewed_at)))
    return table(rows)
