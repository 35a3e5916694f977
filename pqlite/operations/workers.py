"""The workers that are registered, as an operator sees them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from pydantic_core import from_json


@dataclass(frozen=True, slots=True)
class WorkerRow:
    """A registered worker: what it says of itself, and how many jobs it holds.

    `state` is "alive"; "silent" after its lease has ended; "dead" after another worker has noticed that. `queues` and
    `job_types` are None for all of them. `running` counts its RUNNING jobs; `oldest_claim` is the
    time of the earliest claim among them.
    """

    id: str
    label: str
    state: Literal["alive", "silent", "dead"]
    host: str | None
    pid: int | None
    queues: list[str] | None
    job_types: list[str] | None
    concurrency: int | None
    started_at: datetime
    renewed_at: datetime
    running: int
    oldest_claim: datetime | None


def worker_from_row(row: Any) -> WorkerRow:
    """Return the worker of a row of `Statements.workers`."""
    worker_id, label, state, started_at, renewed_at, running, oldest, text = row
    info = from_json(text)
    told = info.get if isinstance(info, dict) else {}.get
    return WorkerRow(
        id=worker_id,
        label=label,
        state=state,
        host=told("host"),
        pid=told("pid"),
        queues=told("queues"),
        job_types=told("job_types"),
        concurrency=told("concurrency"),
        started_at=started_at,
        renewed_at=renewed_at,
        running=running,
        oldest_claim=oldest,
    )
