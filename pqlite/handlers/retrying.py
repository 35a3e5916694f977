"""Whether a failed attempt is followed by another, and how long after."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from pqlite.backoff import BackoffPolicy
from pqlite.errors import ConfigurationError

Errors: TypeAlias = type[BaseException] | Sequence[type[BaseException]]
"""An exception class, or several."""


@dataclass(frozen=True, slots=True)
class Retrying:
    """A job type's rules. `backoff` is None for the worker's, `retry_on` where every error may be retried."""

    backoff: BackoffPolicy | None = None
    retry_on: tuple[type[BaseException], ...] | None = None
    never_retry_on: tuple[type[BaseException], ...] = ()

    def again(self, error: BaseException) -> bool:
        """Return whether an attempt that ended with the error may be followed by another.

        A group of errors may if each of them may: what is hopeless in one of a task group's tasks stays so.
        """
        return all(
            (self.retry_on is None or isinstance(each, self.retry_on)) and not isinstance(each, self.never_retry_on)
            for each in _leaves(error)
        )


def errors(what: str, given: Errors) -> tuple[type[BaseException], ...]:
    """Return exception classes as a tuple.

    Raises:
        ConfigurationError: one of them is none.
    """
    several = (given,) if isinstance(given, type) else tuple(given)
    for each in several:
        if not (isinstance(each, type) and issubclass(each, BaseException)):
            raise ConfigurationError(f"{what} must name exception classes, not {each!r}")
    return several


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _leaves(each)
    else:
        yield error
