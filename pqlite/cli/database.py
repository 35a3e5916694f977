"""The database that a command uses, and messages for when it cannot be reached."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from pqlite import schema
from pqlite.cli.failure import Failure, from_asyncpg, full_stop, text
from pqlite.errors import ConfigurationError
from pqlite.store import dsn
from pqlite.store.dsn import IN, SHAPE, Address

NOT_GIVEN = (
    f"No database is given: use --dsn {SHAPE}, or set PQLITE_DSN or DATABASE_URL to that, "
    "or set libpq's PGHOST, PGDATABASE or PGSERVICE."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --dsn and --schema."""
    parser.add_argument(
        "--dsn", help="where PostgreSQL is; default: PQLITE_DSN, DATABASE_URL, or libpq's variables (PGHOST, ...)"
    )
    parser.add_argument(
        "--schema",
        type=_schema_name,
        default=schema.DEFAULT,
        metavar="NAME",
        help="the schema of pqlite's tables and functions; default: %(default)s",
    )


def address(given: str | None, environ: Mapping[str, str] | None = None) -> Address:
    """Return the address given on the command line, else the environment's.

    Raises:
        Failure: there is none, or it is no address of PostgreSQL.
    """
    try:
        found = Address(dsn.address(given, IN.format("--dsn")), "--dsn") if given else dsn.from_environment(environ)
    except ConfigurationError as error:
        raise Failure(full_stop(str(error)), status=2) from None
    if found is None:
        raise Failure(NOT_GIVEN, status=2)
    return found


@contextmanager
def reaching(source: str) -> Iterator[None]:
    """Turn the errors of a connection into sentences."""
    try:
        yield
    except TimeoutError:
        raise Failure(f"The database of {source} did not answer in time.") from None
    except OSError as error:
        raise Failure(full_stop(f"The database of {source} cannot be reached: {text(error)}")) from error
    except ConfigurationError:
        raise
    except ValueError as error:
        # Python's errors, and asyncpg's about the host, quote the part that they could not read, perhaps a password.
        quotes = not from_asyncpg(error) or "URI" in str(error)
        reason = f"it must look like {SHAPE}" if quotes else text(error)
        raise Failure(full_stop(f"The address in {source} cannot be used: {reason}")) from None
    except Exception as error:
        if not from_asyncpg(error):
            raise
        raise Failure(full_stop(f"The database of {source} refused: {text(error)}")) from error


def _schema_name(value: str) -> str:
    try:
        schema.render("", value)
    except ConfigurationError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return value
