"""What really happened, whatever the database says: a file to which every process appends one line per fact.

Not a table: the database is what is being broken, and a commit of ours would flush the very claims it may lose.
"""

import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pqlite.events import (
    ClaimsReleased,
    Event,
    JobsTakenOver,
    LoopBlocked,
    OutcomeRefused,
    WorkerFenced,
    WorkerRegistered,
)


@dataclass(frozen=True, slots=True)
class Line:
    """One fact. `at` is time.time(); `holder` is what jobs.locked_by says."""

    what: str
    at: float
    pid: int
    label: str
    job: int | None = None
    claims: int | None = None
    holder: str | None = None
    more: dict[str, Any] = field(default_factory=dict)


class Ledger:
    """Writes lines; an observer of workers, too."""

    def __init__(self, path: Path, label: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self._label = label

    def note(self, what: str, **facts: Any) -> None:
        line = {"what": what, "at": time.time(), "pid": os.getpid(), "label": self._label, **facts}
        os.write(self._file, json.dumps(line).encode() + b"\n")

    def close(self) -> None:
        os.close(self._file)

    def __call__(self, event: Event) -> None:
        match event:
            case WorkerRegistered():
                self.note("registered", holder=event.holder)
            case WorkerFenced():
                self.note("fenced", holder=event.holder, more={"reason": event.reason})
            case OutcomeRefused():
                job = event.outcome.job
                self.note("refused", job=job.id, claims=job.claims, holder=job.locked_by)
            case ClaimsReleased():
                self.note("released", more={"jobs": list(event.job_ids)})
            case JobsTakenOver():
                self.note("took over", more={"jobs": [[job.id, job.locked_by] for job in event.jobs]})
            case LoopBlocked():
                self.note("blocked", more={"seconds": event.seconds, "stack": event.stack})
            case _:
                pass


class Reader:
    """Reads what was appended, a bit further each time."""

    def __init__(self, path: Path) -> None:
        path.touch()
        self._file = path.open("rb")
        self._rest = b""
        self._lines: list[Line] = []

    def lines(self, what: str | None = None, **facts: Any) -> list[Line]:
        """Return every line so far, in order, or those of one kind and with these facts."""
        *whole, self._rest = (self._rest + self._file.read()).split(b"\n")
        self._lines += [Line(**json.loads(text)) for text in whole]
        if what is None:
            return self._lines
        return [
            line
            for line in self._lines
            if line.what == what and all(getattr(line, name) == value for name, value in facts.items())
        ]

    def close(self) -> None:
        self._file.close()
