"""The job: read one Python file, write the symbols it defines. And how such jobs get into the queue."""

from __future__ import annotations

import ast
import os
import sysconfig
import threading
from pathlib import Path
from typing import NamedTuple

import anyio.to_thread

from pqlite import BackoffPolicy, Enqueued, Fail, JobContext, NewJob, PgJobStore, Worker

STANDARD_LIBRARY = Path(os.path.realpath(sysconfig.get_path("stdlib")))
CONCURRENCY = 4

# Two threads would parse no faster, because of the GIL; and on some versions of Python they disturb each other:
# "AST constructor recursion depth mismatch".
_one_parses = threading.Lock()

_TABLES = """
create schema if not exists demo;

create table if not exists demo.symbols (
  path text not null,
  name text not null,
  kind text not null,
  line int not null
);

create index if not exists symbols_path on demo.symbols (path);
"""


class Symbol(NamedTuple):
    """A class or a function, by its name within the module: `Worker.run`."""

    name: str
    kind: str
    line: int


class EverySecond(BackoffPolicy):
    """Retry after a second, so that the demo is quick."""

    def retry_delay(self, attempts: int) -> float:
        """Return one second, whatever the attempt."""
        return 1.0


def indexer(store: PgJobStore, concurrency: int = CONCURRENCY) -> Worker:
    """Return the worker, to enter it or to use its lifespan in an app."""
    return Worker(store, {"index": index}, backoff=EverySecond(), concurrency=concurrency)


async def index(ctx: JobContext) -> None:
    """Write the symbols of the file that the payload names.

    Parsing keeps a CPU busy, so it happens in a thread and the event loop stays free for the app. The symbols and the
    job's completion are one transaction: a reader that sees the job DONE sees its symbols, and a crash leaves no part
    of them.
    """
    path = ctx.job.payload["path"]
    try:
        symbols = await anyio.to_thread.run_sync(parse, path)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        # No retry would make it parse. Everything else, such as an unreadable file, is retried.
        raise Fail(f"{type(error).__name__}: {error}") from error

    async with ctx.complete(result={"symbols": len(symbols)}) as conn:
        await conn.execute("delete from demo.symbols where path = $1", path)
        await conn.copy_records_to_table("symbols", schema_name="demo", records=[(path, *symbol) for symbol in symbols])


def parse(path: str) -> list[Symbol]:
    """Return the classes and functions that a file defines, at any depth.

    Raises:
        SyntaxError, ValueError, RecursionError, MemoryError: it does not parse.
    """
    source = Path(path).read_bytes()
    with _one_parses:
        tree = ast.parse(source, path)
    symbols = []
    pending: list[tuple[ast.AST, str]] = [(tree, "")]
    while pending:
        node, prefix = pending.pop()
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                kind = "class" if isinstance(child, ast.ClassDef) else "function"
                symbols.append(Symbol(prefix + child.name, kind, child.lineno))
                pending.append((child, f"{prefix}{child.name}."))
            elif isinstance(child, (ast.stmt, ast.ExceptHandler, ast.match_case)):
                pending.append((child, prefix))
    return symbols


async def create_tables(store: PgJobStore) -> None:
    """Create the demo's own tables, next to pqlite's."""
    async with store.connection() as conn:
        await conn.execute(_TABLES)


async def enqueue_files(store: PgJobStore, root: Path) -> list[Enqueued[int]]:
    """Enqueue one job for each Python file of `root`, except for those that a waiting or running job is about to read.

    All of them are enqueued in one transaction. The payload is the path, not the file: a queue carries references.
    """
    paths = await anyio.to_thread.run_sync(python_files, root)
    return await store.enqueue_many(
        NewJob(job_type="index", payload={"path": path}, dedupe_key=f"index:{path}") for path in paths
    )


def existing(path: str) -> Path:
    """Return the absolute path of a file or a directory.

    Raises:
        FileNotFoundError: there is none, or it cannot be reached; the message is a sentence.
    """
    try:
        return Path(os.path.realpath(path, strict=True))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise FileNotFoundError(f"The path {path!r} cannot be indexed: {reason}.") from None


def python_files(root: Path) -> list[str]:
    """Return `root` if it is a file, else the Python files below it; of the standard library only its own."""
    if root.is_file():
        return [str(root)]
    files: list[str] = []
    for folder, folders, names in os.walk(root):
        if root == STANDARD_LIBRARY:
            folders[:] = [name for name in folders if name not in ("site-packages", "dist-packages")]
        paths = (os.path.join(folder, name) for name in names if name.endswith(".py"))
        files += (path for path in paths if os.path.isfile(path))
    return files
