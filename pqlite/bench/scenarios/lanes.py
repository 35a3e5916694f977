"""What many job types, priorities and queues cost."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from pqlite.bench.contenders import FLOOR, PQLITE
from pqlite.bench.contenders.base import Load
from pqlite.bench.figures import Case
from pqlite.bench.options import Options
from pqlite.bench.scenarios import Scenario
from pqlite.bench.scenarios.backlog import METRICS, measure

NOTES = (
    "A lane is a queue, a job type and a priority. One worker process, 20 s at most (5 with --quick); the floor knows "
    "all its lanes beforehand."
)


def cases(options: Options) -> Sequence[Case]:
    """Return a case for one lane, and one for sixty thousand."""
    jobs, seconds = options.jobs_or(100_000, 20_000), min(options.seconds_or(20, 5), 60)
    repeat = options.repeat_or(3)
    loads = {
        "one lane": Load(jobs),
        "20 types x 3 priorities x 1,000 queues": Load(jobs, job_types=20, priorities=3, queues=1_000),
    }
    return [
        Case("lanes", name, METRICS, (PQLITE, FLOOR), partial(measure, load=load, seconds=seconds), repeat)
        for name, load in loads.items()
    ]


SCENARIO = Scenario("lanes", "many job types, priorities and queues against one", cases, NOTES)
