"""`pqlite bench`: what pqlite does on this server. The benchmarks themselves are in pqlite.bench."""

from __future__ import annotations

import argparse
import importlib
from typing import Any

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


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser], *, chosen: bool) -> None:
    """Add the command; its arguments only if it is `chosen`, because they are the benchmarks'."""
    parser = commands.add_parser(
        "bench",
        help="measure pqlite on your server, or on one of its own",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if chosen:
        _bench().add_arguments(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the benchmarks."""
    return int(_bench().main(arguments))


def _bench() -> Any:
    """Import the benchmarks only when they are asked for: no other command should depend on them."""
    return importlib.import_module("pqlite.bench.session")
