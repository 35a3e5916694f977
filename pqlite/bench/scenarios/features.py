"""What types, dependencies, hooks, events and context cost: a job that does nothing, declared in each way."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from pqlite.bench.contenders import PQLITE
from pqlite.bench.contenders.base import Load
from pqlite.bench.figures import Case, Metric, Sample
from pqlite.bench.options import Options
from pqlite.bench.run import Run
from pqlite.bench.scenarios import Scenario, drain, enqueue

CALLERS = 20
PLAIN = "plain"
PAYLOAD = {
    "customer": "0d1e5a3c-94c5-4f0e-a6a4-6d2f1c0c8f57",
    "email": "ada@example.org",
    "due": "2030-02-28T12:30:00Z",
    "items": [3, 1, 4, 1, 5],
}
DECLARED = (
    *(PLAIN, "unused", "parameters", "model", "context", "dependency", "generator"),
    *("hooks", "middleware", "observer", "job fields", "ctx.log", "everything"),
)
MADE = (PLAIN, "parameters", "model", "middleware")
RUN_METRICS = (
    Metric("cpu", "worker\nus/job", "us/job", 1),
    Metric("settled", "settled\njobs/s", "jobs/s"),
    Metric("server_cpu", "server\nus/job", "us/job", 1),
)
ENQUEUE_METRICS = (
    Metric("cpu", "client\nus/job", "us/job", 1),
    Metric("rate", "jobs/s", "jobs/s"),
    Metric("server_cpu", "server\nus/job", "us/job", 1),
)
NOTES = (
    "Less is better, also the ratio. plain: a function of the context, a dict enqueued; unused: the same beside what "
    "is not used: what it costs is noise. parameters: five, with types; model: they are one pydantic model. context, "
    "dependency, generator: parameters, and that; hooks, middleware, observer, job fields (for the log's records) and "
    "ctx.log: plain, and that. None of them does anything."
)


def cases(options: Options) -> Sequence[Case]:
    """Return a case for running jobs, and one for each of two ways to enqueue them; ways to declare them take turns."""
    jobs, repeat = options.jobs_or(40_000, 5_000), options.repeat_or(3)
    running = partial(_run, load=Load(jobs, payload=PAYLOAD))
    alone = partial(_enqueue, jobs=min(jobs, options.jobs_or(20_000, 2_000)), callers=CALLERS, bulk=False)
    bulk = partial(_enqueue, jobs=jobs, callers=1, bulk=True)
    return [
        Case("features", "run", RUN_METRICS, DECLARED, running, repeat, PLAIN),
        Case("features", f"enqueue, {CALLERS} callers at once", ENQUEUE_METRICS, MADE, alone, repeat, PLAIN),
        Case("features", "enqueue_many", ENQUEUE_METRICS, MADE, bulk, repeat, PLAIN),
    ]


async def _run(run: Run, feature: str, *, load: Load) -> Sample:
    return await drain.measure(run, PQLITE, load=load, role="roles.features:work", feature=feature)


async def _enqueue(run: Run, feature: str, *, jobs: int, callers: int, bulk: bool) -> Sample:
    role = "roles.features:enqueue"
    return await enqueue.measure(
        run, PQLITE, jobs=jobs, callers=callers, bulk=bulk, role=role, feature=feature, payload=PAYLOAD
    )


SCENARIO = Scenario("features", "what types, hooks, events and so on cost, beside a plain handler", cases, NOTES)
