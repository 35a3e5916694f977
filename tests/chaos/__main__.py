"""Break everything at random, then audit; exit 1 if a promise was broken.

python -m tests.chaos --minutes 10 --processes 3 --seed 7 --jobs-per-second 50
python -m tests.chaos --kills 20 --jobs 20000
python -m tests.chaos crash-loop --runs 20 --jobs 40000
"""

import argparse
import asyncio
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import asyncpg

from pqlite import schema
from pqlite.embedded import EmbeddedPostgres
from tests.chaos.crash_loop import crash_loop
from tests.chaos.storm import Storm
from tests.conftest import fast_directory
from tests.faults.auditor import Audit, Violation, overlapping
from tests.faults.kills import drain_with_kills
from tests.faults.scene import Scene

RECOVERY = 10.0


async def main(args: argparse.Namespace) -> int:
    seed = random.randrange(1 << 32) if args.seed is None else args.seed
    broken = [found for number in range(args.runs) if (found := await run(args, seed + number))]
    print("BROKEN\n" + "\n".join(broken) if broken else "Every promise was kept.")
    return 1 if broken else 0


async def run(args: argparse.Namespace, seed: int) -> str:
    """Make one run on a server of its own; return what was broken, nothing if all was kept."""
    begins = time.monotonic()
    broken = ""
    faults: Counter[str] = Counter()
    own = EmbeddedPostgres(fsync=False, port=0, temp_dir=fast_directory(), settings={"max_connections": "200"})
    with tempfile.TemporaryDirectory(prefix="pqlite-chaos-") as directory:
        async with own:
            await _migrate(own.dsn)
            async with Scene(own.dsn, Path(directory)) as scene:
                print(f"seed {seed}, {args.processes} processes")
                audit = Audit()
                try:
                    if args.kills or args.scenario == "crash-loop":
                        if args.kills:
                            audit = await drain_with_kills(
                                scene, jobs=args.jobs, kills=args.kills, every=5.0, processes=args.processes, seed=seed
                            )
                        else:
                            audit = await crash_loop(scene, jobs=args.jobs, processes=args.processes, seed=seed)
                        faults["SIGKILL"] = len(scene.processes) - args.processes
                        slow = [seconds for seconds in audit.recoveries if seconds > RECOVERY]
                        audit.require(f"every kill is recovered within {RECOVERY:g} s", slow)
                        audit.check()
                    else:
                        storm = Storm(scene, own, seed=seed, rate=args.jobs_per_second)
                        faults = storm.faults
                        audit = await storm.rage(args.minutes * 60.0, args.processes)
                except Violation as violation:
                    broken = str(violation)
                    audit = violation.audit or audit
                except AssertionError as stuck:
                    broken = str(stuck)
                await _report(scene, faults, audit, time.monotonic() - begins)
    return broken


async def _migrate(dsn: str) -> None:
    conn = await asyncpg.connect(dsn)
    try:
        await schema.migrate(conn, schema="pqlite")
    finally:
        await conn.close()


async def _report(scene: Scene, faults: Counter[str], audit: Audit, seconds: float) -> None:
    counts = await scene.fetch(
        "select (select count(*) from pqlite.jobs) as jobs, "
        "(select count(*) from unnest($1::bigint[]) x where not exists (select from pqlite.jobs j where j.id = x)) "
        "as lost, "
        "(select count(*) from (select from public.effects group by job_id having count(*) > 1) d) as doubled",
        scene.ids,
    )
    # Runs that failed because they were told to are no executions to be repeated.
    runs = Counter(run.job for run in audit.runs if "as ordered" not in (run.error or ""))
    recoveries = sorted(audit.recoveries)
    rows: list[tuple[str, object]] = [
        *sorted(faults.items()),
        ("faults", faults.total()),
        ("jobs", counts[0]["jobs"]),
        ("lost", counts[0]["lost"]),
        ("doubled effects", counts[0]["doubled"]),
        ("runs", len(audit.runs)),
        ("re-executed jobs", sum(1 for count in runs.values() if count > 1)),
        ("overlapping runs", len(overlapping(audit.runs, scene.frozen))),
        ("deaths with jobs", len(recoveries)),
        ("recovery p50 (s)", f"{statistics.median(recoveries):.1f}" if recoveries else "-"),
        ("recovery max (s)", f"{recoveries[-1]:.1f}" if recoveries else "-"),
        ("took (s)", f"{seconds:.0f}"),
    ]
    for name, value in rows:
        print(f"{name:>22}  {value}")


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    made.formatter_class = argparse.RawDescriptionHelpFormatter
    made.add_argument("scenario", nargs="?", choices=["storm", "crash-loop"], default="storm")
    made.add_argument("--runs", type=int, default=1, help="this often, each on a server of its own")
    made.add_argument("--minutes", type=float, default=2.0)
    made.add_argument("--processes", type=int, default=3)
    made.add_argument("--seed", type=int)
    made.add_argument("--jobs-per-second", type=float, default=50.0)
    made.add_argument("--kills", type=int, default=0, help="only SIGKILLs, this many, while --jobs jobs drain")
    made.add_argument("--jobs", type=int, default=20_000)
    return made


if __name__ == "__main__":
    sys.exit(asyncio.run(main(parser().parse_args())))
