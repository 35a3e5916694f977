"""`pqlite enqueue`: make a job."""

from __future__ import annotations

import argparse
import asyncio
from datetime import timedelta
from typing import Any

from pydantic_core import from_json

from pqlite.cli import database
from pqlite.cli.command import Commands, add_command
from pqlite.cli.failure import Failure
from pqlite.cli.printing import as_json
from pqlite.job import Enqueued, NewJob
from pqlite.store.postgres import PgJobStore

DESCRIPTION = """\
Make a job, and print its id. The payload is made of KEY=VALUE, where a value is
JSON, or else text; or it is given as a whole by --payload.
"""

EXAMPLES = """\
examples:
  pqlite enqueue send_invoice customer=7 kind=reminder
  pqlite enqueue report --payload '{"days": [1, 2]}' --queue slow --delay 60
"""


def add(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(commands, "enqueue", run, help="make a job", description=DESCRIPTION, examples=EXAMPLES)
    parser.add_argument("job_type", metavar="TYPE", help="the job type")
    parser.add_argument("items", nargs="*", metavar="KEY=VALUE", help="of the payload")
    parser.add_argument("--payload", metavar="JSON", help="the whole payload")
    parser.add_argument("--queue", default="default", metavar="NAME", help="default: %(default)s")
    parser.add_argument("--priority", type=int, default=0, metavar="N", help="higher runs sooner; default: %(default)s")
    parser.add_argument("--delay", type=float, default=None, metavar="SECONDS", help="start it later")
    parser.add_argument("--dedupe-key", metavar="KEY", help="make none while a job with this key is active")
    parser.add_argument("--max-attempts", type=int, default=5, metavar="N", help="default: %(default)s")
    parser.add_argument("--json", action="store_true", help="print JSON")
    database.add_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Make the job."""
    job = NewJob(
        job_type=arguments.job_type,
        payload=_payload(arguments),
        queue=arguments.queue,
        priority=arguments.priority,
        run_after=None if arguments.delay is None else timedelta(seconds=arguments.delay),
        dedupe_key=arguments.dedupe_key,
        max_attempts=arguments.max_attempts,
    )
    address = database.address(arguments.dsn)
    with database.reaching(address.source):
        made = asyncio.run(_made(address.dsn, arguments.schema, job))
    if arguments.json:
        print(as_json({"job_id": made.id, "inserted": made.inserted}))
    else:
        print(f"Enqueued job {made.id}." if made.inserted else f"Job {made.id} with that key is active already.")
    return 0


async def _made(dsn: str, schema: str, job: NewJob) -> Enqueued[Any]:
    async with PgJobStore(dsn=dsn, schema=schema) as store:
        [made] = await store.enqueue_many([job])
    return made


def _payload(arguments: argparse.Namespace) -> Any:
    if arguments.payload is not None:
        if arguments.items:
            raise Failure("Give the payload by --payload or by KEY=VALUE, not by both.", status=2)
        try:
            return from_json(arguments.payload)
        except ValueError as error:
            raise Failure(f"--payload is no JSON: {error}.", status=2) from None
    payload = {}
    for item in arguments.items:
        key, equals, text = item.partition("=")
        if not equals or not key:
            raise Failure(f"{item!r} is not KEY=VALUE.", status=2)
        try:
            payload[key] = from_json(text)
        except ValueError:
            payload[key] = text
    return payload
