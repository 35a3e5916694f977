"""The command line: one module per command. Needs the core's dependencies only; rich, where installed, adds colour.

Exit status: 0 all went well, 1 it failed, 2 the command was used wrongly, 130 interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from pqlite import __version__
from pqlite.cli import (
    adopt,
    bench,
    demo,
    doctor,
    enqueue,
    explain,
    jobs,
    migrate,
    prune,
    queues,
    schedules,
    status,
    uninstall,
    worker,
)
from pqlite.cli import failure as failures

EXAMPLES = """\
examples:
  pqlite migrate --dsn postgresql://localhost/app
  pqlite worker main:worker
  pqlite jobs --status FAILED
  pqlite explain 42
  pqlite doctor
  pqlite demo
  pqlite bench --quick
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command, of the arguments in `argv` (by default those of the process), and return the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    arguments = _parser(argv).parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        failure = failures.explain(error)
        if failure is None:
            raise
        print(failure, file=sys.stderr)
        return failure.status


def _parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pqlite",
        description="A PostgreSQL job queue that lives in an ASGI app's lifespan.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"pqlite {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    migrate.add(commands)
    worker.add(commands)
    status.add(commands)
    queues.add(commands)
    jobs.add(commands)
    explain.add(commands)
    enqueue.add(commands)
    doctor.add(commands)
    prune.add(commands)
    schedules.add(commands)
    adopt.add(commands)
    uninstall.add(commands)
    # No option before the command takes a value, so the first plain word is the command.
    command = next((word for word in argv if not word.startswith("-")), None)
    demo.add(commands, chosen=command == "demo")
    bench.add(commands, chosen=command == "bench")
    return parser
