"""Turns errors into the one sentence that a command prints to stderr, which never contains a DSN or a password."""

from __future__ import annotations

from pqlite.errors import PqliteError


class Failure(Exception):
    """The command cannot do what it was asked; `status` is the process's exit status."""

    def __init__(self, sentence: str, *, status: int = 1) -> None:
        super().__init__(sentence)
        self.status = status


def explain(error: Exception) -> Failure | None:
    """Return the failure for an expected error; None for an error that needs its traceback."""
    if isinstance(error, Failure):
        return error
    if isinstance(error, (PqliteError, OSError)) or from_asyncpg(error):
        return Failure(full_stop(text(error)))
    return None


def from_asyncpg(error: BaseException) -> bool:
    """Return whether asyncpg made the error. By its module's name: only the database's neighbours import asyncpg."""
    return type(error).__module__.partition(".")[0] == "asyncpg"


def text(error: BaseException) -> str:
    """Return an error's message on one line, or its type if it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def full_stop(sentence: str) -> str:
    """Return the sentence with a full stop."""
    return sentence if sentence.endswith((".", "!", "?")) else f"{sentence}."
