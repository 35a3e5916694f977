"""What the operator's verbs return."""

from __future__ import annotations

from dataclasses import dataclass

from pqlite.job import Job


@dataclass(frozen=True, slots=True)
class Page:
    """Some jobs, newest first. `cursor` leads to those that follow; None at the end."""

    jobs: list[Job]
    cursor: str | None


@dataclass(frozen=True, slots=True)
class Count:
    """How many jobs match: exactly `number`, or, if it is `capped`, at least so many."""

    number: int
    capped: bool

    def __str__(self) -> str:
        """Return the number for people, such as 10,000+."""
        return f"{self.number:,}{'+' if self.capped else ''}"


@dataclass(frozen=True, slots=True)
class Changed:
    """What became of a change: how many jobs matched the filter, and how many of them were changed."""

    matched: int
    changed: int


@dataclass(frozen=True, slots=True)
class Reason:
    """One reason why a job does not run: a constant code, and a sentence."""

    code: str
    text: str
