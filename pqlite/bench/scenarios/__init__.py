"""What is measured: one module per scenario, each with the cases that it consists of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pqlite.bench.figures import Case
from pqlite.bench.options import Options


@dataclass(frozen=True, slots=True)
class Scenario:
    """A question and the cases that answer it; `notes` say what a reader of the table must know."""

    name: str
    summary: str
    cases: Callable[[Options], Sequence[Case]]
    notes: str = ""
