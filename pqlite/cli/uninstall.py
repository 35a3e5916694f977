"""`pqlite uninstall`: drop pqlite's schema and the jobs in it; without --yes, say what that would drop."""

from __future__ import annotations

import argparse
import asyncio

from pqlite import schema
from pqlite.cli import database
from pqlite.cli.command import Commands, add_command
from pqlite.store.postgres import PgJobStore

DESCRIPTION = """\
Drop pqlite's schema, with all jobs. Without --yes it only says what would be
dropped. It refuses while workers are alive, where the schema holds what pqlite
did not make, and where objects elsewhere depend on it.
"""

EXAMPLES = """\
examples:
  pqlite uninstall --dsn postgresql://localhost/app
  pqlite uninstall --schema jobs --yes
"""


def add(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "uninstall",
        run,
        help="drop pqlite's tables and functions, and the jobs",
        description=DESCRIPTION,
        examples=EXAMPLES,
    )
    database.add_arguments(parser)
    parser.add_argument("--yes", action="store_true", help="do it")
    parser.add_argument("--force", action="store_true", help="even while workers are alive")


def run(arguments: argparse.Namespace) -> int:
    """Drop the schema, or print what it contains."""
    address = database.address(arguments.dsn)
    with database.reaching(address.source):
        found = asyncio.run(_uninstall(address.dsn, arguments))
    print(_told(found, arguments))
    return 0


async def _uninstall(dsn: str, arguments: argparse.Namespace) -> schema.Census:
    async with PgJobStore(dsn=dsn, schema=arguments.schema) as store, store.connection() as conn:
        found = await schema.census(conn, arguments.schema)
        if arguments.yes:
            await schema.uninstall(conn, arguments.schema, force=arguments.force)
        return found


def _told(found: schema.Census, arguments: argparse.Namespace) -> str:
    objects = ", ".join(f"{len(names)} {kind}s" for kind, names in found.ours.items() if names)
    jobs = ", ".join(f"{count} {status}" for status, count in found.jobs.items()) or "none"
    verb = "Dropped" if arguments.yes else "Would drop"
    lines = [f"{verb} the schema {arguments.schema!r} at version {found.version}: {objects}.", f"Jobs: {jobs}."]
    if arguments.yes:
        return "\n".join(lines)
    if found.workers:
        lines.append(f"Workers are alive: {', '.join(found.workers)}. Stop them first, or say --force.")
    if found.foreign:
        lines.append(f"pqlite did not make these, and would refuse: {', '.join(found.foreign)}.")
    return "\n".join([*lines, "Nothing was changed; say --yes to do it."])
