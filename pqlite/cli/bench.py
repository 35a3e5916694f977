"""`pqlite bench`: what pqlite does on this server. The benchmarks themselves are in pqlite.bench."""

from __future__ import annotations

import argparse

from pqlite.cli import database
from pqlite.cli.command import Commands, add_command
from pqlite.cli.failure import Failure
from pqlite.embedded import EmbeddedError
from pqlite.store.dsn import SHAPE

OR_GIVE_ONE = f"Or measure a server of yours: pqlite bench --dsn {SHAPE}"

DESCRIPTION = """\
Measure pqlite on a server, each time beside the bare floor (asyncpg and a few
lines of Python) on the same server in the same run, or, what its features cost,
beside a plain handler. Only the ratio of two such figures says anything about
another machine. It works in the schemas pqlite_bench and pqlite_bench_floor,
which it makes and drops.
"""

EXAMPLES = """\
examples:
  pqlite bench --quick
  pqlite bench drain latency --dsn postgresql://localhost/app --json bench.json
  pqlite bench soak --hours 8 --svg soak.svg
"""


def add(commands: Commands, *, chosen: bool) -> None:
    """Add the command. Its arguments are only declared if it is `chosen`, because that imports the benchmarks."""
    parser = add_command(
        commands,
        "bench",
        run,
        help="measure pqlite on your server, or on one of its own",
        description=DESCRIPTION,
        examples=EXAMPLES,
    )
    if chosen:
        # Imported only for this command: no other command depends on the benchmarks.
        from pqlite.bench.arguments import add_arguments

        add_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the benchmarks."""
    from pqlite.bench import session
    from pqlite.bench.arguments import options_of
    from pqlite.bench.catalogue import listing

    if arguments.list:
        print(listing())
        return 0
    try:
        options = options_of(arguments)
    except ValueError as error:
        raise Failure(str(error), status=2) from None
    # The database in the environment is an app's, so only one named on the command line is measured.
    dsn = None if arguments.dsn is None else database.address(arguments.dsn, {}).dsn
    try:
        session.run(options, dsn, database.reaching("--dsn"))
    except EmbeddedError as error:
        raise Failure(f"{error}\n{OR_GIVE_ONE}") from error
    return 0
