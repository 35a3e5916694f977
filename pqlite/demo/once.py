"""The demo without a web server: enqueue, let the worker run until everything has ended, print a summary."""

from __future__ import annotations

import logging
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio

from pqlite import JobStatus, PgJobStore, Worker
from pqlite.demo.index import enqueue_files
from pqlite.demo.progress import Progress, failures, progress, short

LOOK_SECONDS = 0.1
LINE_SECONDS = 1.0


async def run_once(store: PgJobStore, worker: Worker, root: Path) -> None:
    """Index `root`, and print how it goes and how it went."""
    logging.getLogger("pqlite").setLevel(logging.CRITICAL)  # failures are in the summary, not across the bar
    began = time.monotonic()
    jobs = [job.id for job in await enqueue_files(store, root)]
    print(f"Indexing {len(jobs):,} files of {printable(str(root))}", flush=True)

    async with worker:
        with _display(len(jobs)) as show:
            while (now := await progress(store, jobs)).finished < now.total:
                show(now)
                await anyio.sleep(LOOK_SECONDS)
            show(now)

    await _summarize(store, jobs, now, time.monotonic() - began)


async def _summarize(store: PgJobStore, jobs: list[int], end: Progress, seconds: float) -> None:
    count, listed = await failures(store, jobs)
    for failure in listed:
        print(f"\n{printable(short(failure.path))}")
        print(textwrap.fill(printable(failure.reason), 78, initial_indent="  ", subsequent_indent="  "))
    if count > len(listed):
        print(f"\n... and {count - len(listed):,} more")

    rows = {
        "files": f"{end.total:,}",
        "symbols": f"{end.symbols:,}",
        "failures": f"{end.jobs.get(JobStatus.FAILED, 0):,}",
        "seconds": f"{seconds:.1f}",
        "jobs per second": f"{end.finished / seconds:,.0f}",
    }
    print()
    for name, value in rows.items():
        print(f"{name:<16}{value:>10}")


@contextmanager
def _display(total: int) -> Iterator[Callable[[Progress], None]]:
    """Yield what shows the progress: a bar if this is a terminal and rich is installed, else a line now and then."""
    try:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bar
    except ModuleNotFoundError:
        rich_is_installed = False
    else:
        rich_is_installed = True

    if not (rich_is_installed and sys.stdout.isatty()):
        yield _lines()
        return
    columns = (BarColumn(None), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeElapsedColumn())
    with Bar(*columns, expand=True) as bar:
        task = bar.add_task("", total=total, rate="")
        yield lambda now: bar.update(task, completed=now.finished, rate=f"{now.per_second:,.0f} jobs/s")


def _lines() -> Callable[[Progress], None]:
    due = time.monotonic() + LINE_SECONDS

    def show(now: Progress) -> None:
        nonlocal due
        if now.finished == now.total or time.monotonic() >= due:
            due = time.monotonic() + LINE_SECONDS
            print(f"{now.finished:,} of {now.total:,} files", flush=True)

    return show


def printable(text: str) -> str:
    """Return text without control characters, because file names and source code may contain any."""
    return "".join(character if character.isprintable() else "?" for character in text)
