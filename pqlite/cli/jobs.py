"""`pqlite jobs`, `pqlite explain` and `pqlite enqueue`: look at jobs, change them, make one."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from pydantic_core import from_json

from pqlite.cli import database
from pqlite.cli.command import Commands, add_command
from pqlite.cli.failure import Failure
from pqlite.cli.printing import as_json, facts, moment, shortened, table, user
from pqlite.job import Job, JobStatus
from pqlite.operations import Action, Changed, JobFilter, Operations
from pqlite.store.postgres import PgJobStore

DESCRIPTION = """\
Look at jobs, and change one or many.

  list            newest first; the default
  show ID         all that is known of one, and why it does not run
  retry           run ended jobs again, now
  cancel          waiting jobs at once, running ones through their workers
  delete          ended jobs
  run-now         make jobs due that wait for a later time
  set-queue Q     move waiting jobs to the queue Q (with --to Q)
  set-priority N  change the priority of waiting jobs (with --to N)

The last six take ids, or a filter. With a filter they say how many jobs match,
and change nothing unless --yes is given.
"""

EXAMPLES = """\
examples:
  pqlite jobs --status FAILED --type send_invoice
  pqlite jobs show 42
  pqlite jobs retry 42 43
  pqlite jobs retry --status FAILED --type send_invoice --error timeout --yes
  pqlite jobs set-queue --type report --to slow --yes
  pqlite jobs --payload '{"customer": 7}' --json
"""

CHANGES: dict[str, Action] = {
    "retry": "retry",
    "cancel": "cancel",
    "delete": "delete",
    "run-now": "run_now",
    "set-queue": "set_queue",
    "set-priority": "set_priority",
}
ACTIONS = ("list", "show", *CHANGES)
TEXTS = ("queue", "tag", "key", "worker", "schedule", "error")
TIMES = ("created", "due", "finished")


def add(commands: Commands) -> None:
    """Add the commands."""
    parser = add_command(
        commands,
        "jobs",
        run,
        help="look at jobs, retry, cancel or delete them",
        description=DESCRIPTION,
        examples=EXAMPLES,
    )
    parser.add_argument("action", nargs="?", choices=ACTIONS, default="list", metavar="ACTION", help="see above")
    parser.add_argument("ids", nargs="*", type=int, metavar="ID", help="of jobs")
    which = parser.add_argument_group("filter")
    which.add_argument(
        "--status",
        action="append",
        type=str.upper,
        choices=list(JobStatus),
        metavar="STATUS",
        help=f"{', '.join(JobStatus)}; may be repeated",
    )
    which.add_argument("--type", action="append", dest="job_type", metavar="NAME", help="job type; may be repeated")
    for each in TEXTS:
        which.add_argument(f"--{each}", metavar="TEXT", help=_HELP[each])
    which.add_argument("--payload", metavar="JSON", help="what the payload must contain")
    which.add_argument("--metadata", metavar="JSON", help="what the metadata must contain")
    for each in TIMES:
        which.add_argument(f"--{each}-after", type=_time, metavar="TIME", help=f"{each} then or later (ISO 8601)")
        which.add_argument(f"--{each}-before", type=_time, metavar="TIME", help=f"{each} before")
    parser.add_argument("--limit", type=int, default=None, metavar="N", help="how many; list: 20 unless given")
    parser.add_argument("--cursor", metavar="CURSOR", help="go on where a list has ended")
    parser.add_argument("--to", metavar="VALUE", help="the queue or the priority to set")
    parser.add_argument("--all", action="store_true", help="change all jobs: takes the place of a filter")
    parser.add_argument("--yes", action="store_true", help="change the jobs that the filter matches")
    parser.add_argument("--json", action="store_true", help="print JSON")
    database.add_arguments(parser)


_HELP = {
    "queue": "the queue",
    "tag": "a tag",
    "key": "the dedupe key or concurrency key",
    "worker": "the label of the worker that runs it, or the beginning of its id",
    "schedule": "the schedule that made it",
    "error": "a part of the last error",
}


def run(arguments: argparse.Namespace) -> int:
    """Do what was asked, and print the result."""
    wanted = _filter(arguments)
    action = arguments.action
    if action == "show" and len(arguments.ids) != 1:
        raise Failure("pqlite jobs show needs the id of one job.", status=2)
    if action == "list" and arguments.ids:
        raise Failure("pqlite jobs list takes no id: use pqlite jobs show ID.", status=2)
    if action in CHANGES and wanted == JobFilter() and not arguments.all:
        raise Failure(f"pqlite jobs {action} needs ids or a filter; --all means all jobs.", status=2)
    if (action in ("set-queue", "set-priority")) != (arguments.to is not None):
        wants = "takes no --to" if arguments.to is not None else "needs --to"
        raise Failure(f"pqlite jobs {action} {wants}.", status=2)
    address = database.address(arguments.dsn)
    with database.reaching(address.source):
        value, text = asyncio.run(_done(address.dsn, arguments, wanted))
    print(as_json(value) if arguments.json else text)
    return 0


async def _done(dsn: str, arguments: argparse.Namespace, wanted: JobFilter) -> tuple[Any, str]:
    """Return the result as a JSON value and as text."""
    async with PgJobStore(dsn=dsn, schema=arguments.schema) as store:
        operations = Operations(store, actor=user())
        if arguments.action == "list":
            page = await operations.list_jobs(wanted, cursor=arguments.cursor, limit=arguments.limit or 20)
            more = "" if page.cursor is None else f"\nMore: --cursor {page.cursor}"
            return asdict(page), _table(page.jobs) + more
        if arguments.action == "show":
            job = await store.get(arguments.ids[0])
            reasons = await operations.explain(job.id)
            value = {**asdict(job), "reasons": [asdict(each) for each in reasons]}
            return value, facts(asdict(job)) + "\n\n" + "\n".join(f"{each.code}: {each.text}" for each in reasons)
        if arguments.ids or arguments.yes:
            done = await operations.change(
                CHANGES[arguments.action],
                wanted,
                value=_value(arguments),
                limit=arguments.limit,
                progress=None if arguments.json else _progress,
            )
            return asdict(done), f"{_jobs(f'{done.matched:,}')} matched, {done.changed:,} changed."
        count = await operations.count(wanted)
    said = f"{_jobs(str(count))} match{'es' if count.number == 1 else ''}. Nothing was changed: --yes does it."
    return {"matched": count.number, "capped": count.capped, "changed": 0}, said


def _filter(arguments: argparse.Namespace) -> JobFilter:
    times = {f"{each}_{side}": getattr(arguments, f"{each}_{side}") for each in TIMES for side in ("after", "before")}
    return JobFilter(
        status=arguments.status,
        job_type=arguments.job_type,
        **{each: getattr(arguments, each) for each in TEXTS},
        payload=_json("--payload", arguments.payload),
        metadata=_json("--metadata", arguments.metadata),
        ids=arguments.ids or None,
        **times,
    )


def _json(what: str, text: str | None) -> Any:
    try:
        return None if text is None else from_json(text)
    except ValueError as error:
        raise Failure(f"{what} is no JSON: {error}.", status=2) from None


def _time(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text).astimezone()
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no time such as 2026-03-01T12:00") from None


def _value(arguments: argparse.Namespace) -> str | int | None:
    if arguments.action != "set-priority":
        return arguments.to  # type: ignore[no-any-return] # argparse's values have no types
    try:
        return int(arguments.to)
    except ValueError:
        raise Failure(f"--to must be a whole number, not {arguments.to!r}.", status=2) from None


def _progress(done: Changed) -> None:
    if done.matched >= 1000:  # short work needs no progress
        print(f"{done.matched:,} matched, {done.changed:,} changed", file=sys.stderr)


def _jobs(number: str) -> str:
    return f"{number} job{'' if number == '1' else 's'}"


def _table(jobs: Sequence[Job]) -> str:
    if not jobs:
        return "No job matches."
    rows = [("ID", "JOB TYPE", "QUEUE", "STATUS", "TRIES", "DUE (UTC)", "LAST ERROR")]
    for job in jobs:
        tries = f"{job.attempts}/{job.max_attempts}"
        error = shortened(job.last_error, 60)
        rows.append((str(job.id), job.job_type, job.queue, job.status, tries, moment(job.run_after), error))
    return table(rows)
