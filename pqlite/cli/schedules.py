"""`pqlite schedules`: look at schedules, pause them, run one now."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from pydantic_core import to_json

from pqlite.cli import database
from pqlite.cli.command import Commands, add_command
from pqlite.cli.failure import Failure
from pqlite.schedules import StoredSchedule
from pqlite.store.postgres import PgJobStore

DESCRIPTION = """\
Look at schedules and change whether they run. What they do is changed in the
code that defines them, by store.change_schedule or by SQL.

  list           all of them, the default
  show NAME      what one is, and what became of it
  next NAME      its next slots
  pause NAME     no more slots until it is resumed
  resume NAME    go on with the next slot
  run NAME       enqueue a job of it now
"""

EXAMPLES = """\
examples:
  pqlite schedules next nightly --count 10
  pqlite schedules pause nightly --json
  pqlite schedules run nightly --dsn postgresql://localhost/app
"""

ACTIONS = ("list", "show", "next", "pause", "resume", "run")


def add(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "schedules",
        run,
        help="look at schedules, pause, resume or run one",
        description=DESCRIPTION,
        examples=EXAMPLES,
    )
    parser.add_argument("action", nargs="?", choices=ACTIONS, default="list", metavar="ACTION", help="see above")
    parser.add_argument("name", nargs="?", metavar="NAME", help="of the schedule")
    parser.add_argument("--count", type=int, default=5, metavar="N", help="how many slots; default: %(default)s")
    parser.add_argument("--json", action="store_true", help="print JSON")
    database.add_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Do what was asked, and print the result."""
    if (arguments.name is None) != (arguments.action == "list"):
        wants = "takes no name" if arguments.action == "list" else "needs the name of a schedule"
        raise Failure(f"pqlite schedules {arguments.action} {wants}.", status=2)
    if not 1 <= arguments.count <= 1000:
        raise Failure(f"--count must be 1 to 1000, not {arguments.count}.", status=2)
    address = database.address(arguments.dsn)
    with database.reaching(address.source):
        value, text = asyncio.run(_done(address.dsn, arguments))
    print(to_json(value, indent=2).decode() if arguments.json else text)
    return 0


async def _done(dsn: str, arguments: argparse.Namespace) -> tuple[Any, str]:
    """Return the result as a JSON value and as text."""
    name = arguments.name
    async with PgJobStore(dsn=dsn, schema=arguments.schema) as store:
        match arguments.action:
            case "list":
                schedules = await store.schedules()
                return [asdict(each) for each in schedules], _table(schedules)
            case "next":
                ticks = await store.next_ticks(name, arguments.count)
                return ticks, "\n".join(tick.isoformat() for tick in ticks) or "It has no further slot."
            case "run":
                job = await store.run_schedule_now(name)
                said = f"Enqueued job {job.id}." if job.inserted else f"Job {job.id} of it is active already."
                return {"job_id": job.id, "inserted": job.inserted}, said
            case "pause":
                schedule = await store.pause_schedule(name)
            case "resume":
                schedule = await store.resume_schedule(name)
            case _:
                schedule = await store.schedule(name)
    return asdict(schedule), _shown(schedule)


def _timing(schedule: StoredSchedule) -> str:
    return f"every {schedule.every}" if schedule.cron is None else f"{schedule.cron} ({schedule.timezone})"


def _state(schedule: StoredSchedule) -> str:
    if schedule.paused_at is not None:
        return "paused"
    if schedule.disabled_at is not None:
        return "disabled"
    return "failing" if schedule.problem else "active"


def _table(schedules: Sequence[StoredSchedule]) -> str:
    if not schedules:
        return "There are no schedules."
    rows = [("NAME", "JOB TYPE", "WHEN", "STATE", "NEXT (UTC)", "LAST JOB")]
    for each in schedules:
        next_at = "-" if each.next_at is None else f"{each.next_at:%Y-%m-%d %H:%M:%S}"
        last = "-" if each.last_job_id is None else f"{each.last_job_id} {each.last_job_status or 'deleted'}"
        rows.append((each.name, each.job_type, _timing(each), _state(each), next_at, last))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def _shown(schedule: StoredSchedule) -> str:
    facts = {"state": _state(schedule), "when": _timing(schedule), **asdict(schedule)}
    shown = {key: value for key, value in facts.items() if value not in (None, [], {}) and key not in ("cron", "every")}
    width = max(map(len, shown))
    return "\n".join(f"{key.replace('_', ' '):{width}}  {value}" for key, value in shown.items())
