"""`pqlite demo`: all of pqlite on one machine, in a few small files to read.

index.py     the job: parse a Python file, write its symbols; how jobs are enqueued; the worker
app.py       a FastAPI app with the worker in its lifespan; page.py is its HTML
progress.py  what became of the jobs: plain SQL on pqlite.jobs
once.py      the same jobs without a web server

It listens on 127.0.0.1 only, and indexes any path that is requested: it is for one person on one machine.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import logging
import os
import signal
import socket
import sys
import warnings
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from pqlite.demo.index import CONCURRENCY, STANDARD_LIBRARY, create_tables, enqueue_files, existing, indexer
from pqlite.demo.once import run_once
from pqlite.embedded import EmbeddedPostgres
from pqlite.store.postgres import PgJobStore

HOST = "127.0.0.1"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `pqlite demo`."""
    parser.add_argument("--once", action="store_true", help="index, print a summary and exit; no web server")
    parser.add_argument("--path", default=str(STANDARD_LIBRARY), help="file or directory (the standard library)")
    parser.add_argument("--port", type=_port, default=8000, help=f"port on {HOST}, 0 for any free one (%(default)s)")
    parser.add_argument("--concurrency", type=_count, default=CONCURRENCY, help="files indexed at once (%(default)s)")
    parser.add_argument("--data-dir", type=Path, help="where to keep the database (a temporary directory)")


def main(arguments: argparse.Namespace) -> int:
    """Run the demo; return the exit status.

    Raises:
        OSError: there is nothing at the path, or the port is taken; the message is a sentence.
        PqliteError: the database cannot be started or used.
        ModuleNotFoundError: the `demo` extra is not installed.
    """
    os.environ.pop("WORKER_ENABLED", None)  # without a worker there is nothing to see
    warnings.simplefilter("ignore", SyntaxWarning)  # of the files that are parsed
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # what is wrong with a file may be its alphabet
    root = existing(arguments.path)
    return asyncio.run(_once(arguments, root) if arguments.once else _serve(arguments, root))


async def _once(arguments: argparse.Namespace, root: Path) -> int:
    async with _database(arguments.data_dir) as store:
        await run_once(store, indexer(store, arguments.concurrency), root)
    return 0


async def _serve(arguments: argparse.Namespace, root: Path) -> int:
    import uvicorn  # not before it is needed: `--once` does without the extra's web server

    from pqlite.demo.app import create_app

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with _listen(arguments.port) as listener:
        async with _database(arguments.data_dir) as store:
            await enqueue_files(store, root)
            app = create_app(store, indexer(store, arguments.concurrency))
            server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=5))
            print(f"Watch it at http://{HOST}:{listener.getsockname()[1]} (Ctrl-C stops).", flush=True)
            with _signals_end_here():
                await server.serve(sockets=[listener])
    return 0


@asynccontextmanager
async def _database(data_dir: Path | None) -> AsyncIterator[PgJobStore]:
    """Start PostgreSQL, with pqlite's tables and the demo's in it; without a directory, it is gone afterwards."""
    print("Starting PostgreSQL ...", flush=True)
    # A temporary database need not survive a crash of the machine, so it does not wait for the disk.
    async with EmbeddedPostgres(data_dir, fsync=data_dir is not None) as postgres:
        async with PgJobStore(dsn=postgres.dsn) as store:
            await store.migrate()
            await create_tables(store)
            yield store


def _listen(port: int) -> socket.socket:
    """Take the port before anything else is started."""
    try:
        return socket.create_server((HOST, port))
    except OSError as error:
        raise OSError(f"Port {port} of {HOST} cannot be used ({error.strerror}); choose another with --port.") from None


@contextmanager
def _signals_end_here() -> Iterator[None]:
    """Keep a signal that has stopped uvicorn from stopping us as well: the database must still be shut down.

    uvicorn stops gracefully, then raises the signal again for the handler that it found, which would be asyncio's.
    """
    numbers = (signal.SIGINT, signal.SIGTERM)
    handlers = [signal.signal(number, lambda *_: None) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, handlers, strict=True):
            signal.signal(number, handler)


def _port(text: str) -> int:
    if not 0 <= (port := int(text)) <= 65535:
        raise argparse.ArgumentTypeError(f"{text} is not a port; ports are 0 to 65535")
    return port


def _count(text: str) -> int:
    if (count := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a count; it must be 1 or more")
    return count
