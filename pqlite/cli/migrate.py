"""`pqlite migrate`: bring the database's schema up to date, say what that would do, or print the SQL that does it."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys

from pqlite import schema
from pqlite.cli import database
from pqlite.cli.command import Commands, add_command
from pqlite.cli.failure import Failure
from pqlite.store.postgres import PgJobStore

DESCRIPTION = """\
Bring the database's schema up to date. Each step is a transaction of its own
that waits two seconds at most for a lock and is tried again, so that no
session that works waits for long. Running it twice, or from several machines
at once, is harmless. The role needs the right to create the schema.
"""

EXAMPLES = """\
examples:
  pqlite migrate --dsn postgresql://localhost/app
  pqlite migrate --schema jobs --plan
  pqlite migrate --sql | psql app
  pqlite migrate --sql --from 2 | psql app
"""


def add(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "migrate",
        run,
        help="create or update pqlite's tables and functions",
        description=DESCRIPTION,
        examples=EXAMPLES,
    )
    database.add_arguments(parser)
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--plan", action="store_true", help="print what would be done, step by step; change nothing")
    instead.add_argument(
        "--sql", action="store_true", help="print the SQL that builds the whole schema; needs no database"
    )
    instead.add_argument("--roles", action="store_true", help="print the SQL that makes the roles; needs no database")
    parser.add_argument("--to", type=int, metavar="N", help="stop at this version; default: the latest")
    parser.add_argument(
        "--from", type=int, metavar="N", dest="since", help="with --sql: what a schema at this version lacks"
    )


def run(arguments: argparse.Namespace) -> int:
    """Migrate and print what was applied; or print a plan, SQL or roles."""
    if arguments.since is not None and not arguments.sql:
        raise Failure("--from goes with --sql; a database says itself which version it is at.", status=2)
    if arguments.to is not None and arguments.roles:
        raise Failure("--to does not go with --roles.", status=2)
    if arguments.sql:
        return _print(schema.script(arguments.schema, since=arguments.since or 0, to=arguments.to))
    if arguments.roles:
        return _print(schema.roles(arguments.schema))
    address = database.address(arguments.dsn)
    with database.reaching(address.source):
        plan, applied = asyncio.run(_migrate(address.dsn, arguments))
    if arguments.plan:
        return _print(_told(plan, arguments.schema))
    for migration in plan.migrations:
        if migration.version in applied:
            print(f"Applied {migration}.")
    if plan.functions and not plan.migrations:
        print("Replaced the functions.")
    elif not applied:
        print(f"Nothing to do: the schema is at version {max([plan.present, *(m.version for m in plan.migrations)])}.")
    return 0


async def _migrate(dsn: str, arguments: argparse.Namespace) -> tuple[schema.Plan, list[int]]:
    async with PgJobStore(dsn=dsn, schema=arguments.schema) as store, store.migrating() as conn:
        plan = await schema.plan(conn, arguments.schema, to=arguments.to)
        if arguments.plan:
            return plan, []
        return plan, await schema.migrate(conn, arguments.schema, to=arguments.to)


def _told(plan: schema.Plan, name: str) -> str:
    at = f"is at version {plan.present}" if plan.present else "does not exist"
    lines = [f"The schema {name!r} {at}; this pqlite needs version {schema.latest()}."]
    for migration in plan.migrations:
        how = "as a single statement, outside a transaction" if migration.alone else "in a transaction of its own"
        lines.append(f"Would apply {migration}, {how}.")
        if 0 < plan.present < migration.serves:
            lines.append(f"  Workers of a pqlite that needs less than version {migration.serves}: stop them first.")
    if plan.functions:
        lines.append("Would replace the functions, in one transaction.")
    lines.append("Nothing was changed." if len(lines) > 1 else "Nothing to do.")
    return "\n".join(lines) + "\n"


def _print(text: str) -> int:
    try:
        print(text, end="", flush=True)
    except BrokenPipeError:
        # The reader has closed the pipe. Python would raise again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0
