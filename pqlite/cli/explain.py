"""`pqlite explain`: why a job does not run."""

from __future__ import annotations

import argparse
import asyncio
from dataclasses import asdict

from pqlite.cli import database
from pqlite.cli.command import Commands, add_command
from pqlite.cli.printing import as_json
from pqlite.operations import Operations, Reason
from pqlite.store.postgres import PgJobStore

DESCRIPTION = """\
Say why a job does not run: each reason on a line, the one to remove first at
the top. If DUE is the only reason, the next free worker starts the job.
"""

EXAMPLES = """\
examples:
  pqlite explain 42
  pqlite explain 42 --json
"""


def add(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands, "explain", run, help="say why a job does not run", description=DESCRIPTION, examples=EXAMPLES
    )
    parser.add_argument("id", type=int, metavar="ID", help="of the job")
    parser.add_argument("--json", action="store_true", help="print JSON")
    database.add_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the reasons."""
    address = database.address(arguments.dsn)
    with database.reaching(address.source):
        reasons = asyncio.run(_reasons(address.dsn, arguments))
    if arguments.json:
        print(as_json([asdict(each) for each in reasons]))
    else:
        print("\n".join(f"{each.code}: {each.text}" for each in reasons))
    return 0


async def _reasons(dsn: str, arguments: argparse.Namespace) -> list[Reason]:
    async with PgJobStore(dsn=dsn, schema=arguments.schema) as store:
        return await Operations(store).explain(arguments.id)
