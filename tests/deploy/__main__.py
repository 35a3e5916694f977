"""Deploy a release over another, back, and again, under load and with the default grace; exit 1 if it cost anything.

python -m tests.deploy --seconds 300 --web 2 --workers 2 --orders-per-second 30
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path

import asyncpg

from pqlite import schema
from pqlite.embedded import EmbeddedPostgres
from tests.conftest import fast_directory
from tests.deploy.roll import Deployment
from tests.deploy.verdict import Figures


async def main(args: argparse.Namespace) -> int:
    ends = time.monotonic() + args.seconds
    rolls = 0
    own = EmbeddedPostgres(fsync=False, port=0, temp_dir=fast_directory(), settings={"max_connections": "200"})
    with tempfile.TemporaryDirectory(prefix="pqlite-deploy-") as directory:
        async with own:
            conn = await asyncpg.connect(own.dsn)
            try:
                await schema.migrate(conn, schema="pqlite")
            finally:
                await conn.close()
            kinds = [True] * args.web + [False] * args.workers
            try:
                async with Deployment(
                    own.dsn,
                    Path(directory),
                    kinds=kinds,
                    rate=args.orders_per_second,
                    grace=args.grace,
                    export_seconds=args.export_seconds,
                ) as deployment:
                    await deployment.roll(2)
                    while rolls == 0 or time.monotonic() < ends:
                        await deployment.leave_behind()
                        await deployment.roll(1)
                        await deployment.leave_behind()
                        await deployment.roll(2)
                        rolls += 1
                    figures = await deployment.finish()
            except AssertionError as broken:
                print(f"BROKEN\n{broken}")
                return 1
    report(figures)
    print(f"{1 + 2 * rolls} deployments cost nothing.")
    return 0


def report(figures: Figures) -> None:
    """Print what happened; times in seconds."""
    print(f"{'':>28} {'number':>7} {'median':>8} {'p99':>8} {'longest':>8}")
    for name, seconds in [
        *((f"wait of {kind}", waits) for kind, waits in sorted(figures.waits.items())),
        ("wait of those left behind", figures.left_behind),
        ("hand-over when interrupted", figures.hand_overs),
        ("stop of a process", figures.stops),
    ]:
        print(f"{name:>28} {_row(sorted(seconds))}")
    for name, number in (("jobs", figures.jobs.total()), ("claims", figures.claims), ("runs", figures.runs)):
        print(f"{name:>28} {number:>7}")


def _row(seconds: list[float]) -> str:
    if not seconds:
        return f"{0:>7}"
    p99 = seconds[int(0.99 * (len(seconds) - 1))]
    return f"{len(seconds):>7} {statistics.median(seconds):>8.3f} {p99:>8.3f} {seconds[-1]:>8.3f}"


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m tests.deploy", description=__doc__)
    made.formatter_class = argparse.RawDescriptionHelpFormatter
    made.add_argument("--seconds", type=float, default=120.0, help="how long to go on; the last roll is finished")
    made.add_argument("--web", type=int, default=2, help="processes with web server and worker (at least 1)")
    made.add_argument("--workers", type=int, default=2, help="processes with the worker alone")
    made.add_argument("--orders-per-second", type=float, default=10.0)
    made.add_argument("--grace", type=float, default=10.0)
    made.add_argument("--export-seconds", type=float, default=20.0, help="how long the longest jobs take")
    return made


if __name__ == "__main__":
    sys.exit(asyncio.run(main(parser().parse_args())))
