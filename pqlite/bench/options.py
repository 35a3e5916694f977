"""The options of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pqlite.bench.contenders import FLOOR, PQLITE


@dataclass(frozen=True, slots=True)
class Options:
    """Sizes that are None are each scenario's own; `quick` makes those small."""

    scenarios: Sequence[str] = ()
    case: str | None = None
    quick: bool = False
    repeat: int | None = None
    seconds: float | None = None
    jobs: int | None = None
    concurrency: int | None = None
    rate: int | None = None
    hours: float | None = None
    uvloop: bool = False
    peers: Sequence[str] = ()
    json: Path | None = None
    svg: Path | None = None
    contenders: Sequence[str] = field(init=False)

    def __post_init__(self) -> None:
        """Return the contenders: pqlite, the floor, and the chosen peers."""
        object.__setattr__(self, "contenders", (PQLITE, FLOOR, *self.peers))

    def jobs_or(self, full: int, quick: int) -> int:
        """Return how many jobs to use."""
        return self.jobs or (quick if self.quick else full)

    def seconds_or(self, full: float, quick: float) -> float:
        """Return for how long to measure."""
        return self.seconds or (quick if self.quick else full)

    def repeat_or(self, full: int) -> int:
        """Return how often to measure."""
        return self.repeat or (1 if self.quick else full)
