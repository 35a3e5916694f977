"""`pqlite migrate`: bring the database's schema up to date, or print the SQL that builds it."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys

from pqlite import schema
from pqlite.cli import database
from pqlite.store.postgres import PgJobStore

DESCRIPTION = """\
Bring the database's schema up to date, in one transaction. Running it twice, or
from several machines at once, is harmless. The role needs the right to create
the schema.
"""

EXAMPLES = """\
examples:
  pqlite migrate --dsn postgresql://localhost/app
  pqlite migrate --schema jobs
  pqlite migrate --sql | psql app
"""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "migrate",
        help="create or update pqlite's tables and functions",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    database.add_arguments(parser)
    parser.add_argument(
        "--sql", action="store_true", help="print the SQL that builds the whole schema; needs no database"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Migrate, and say what was applied."""
    if arguments.sql:
        return _print_sql(arguments.schema)
    address = database.address(arguments.dsn)
    with database.reaching(address.source):
        applied = asyncio.run(_migrate(address.dsn, arguments.schema))
    for version, name, _ in schema.migrations():
        if version in applied:
            print(f"Applied {version:04d}_{name}.")
    if not applied:
        print(f"Nothing to do: the schema is at version {schema.latest()}.")
    return 0


async def _migrate(dsn: str, schema_name: str) -> list[int]:
    async with PgJobStore(dsn=dsn, schema=schema_name) as store:
        return await store.migrate()


def _print_sql(schema_name: str) -> int:
    try:
        print(schema.script(schema_name), end="", flush=True)
    except BrokenPipeError:
        # The reader has seen enough. Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0
