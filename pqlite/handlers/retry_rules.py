"""Whether a failed attempt is followed by another, and how long after."""

from __future__ import annotations

from collections.abc import Sequence
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
        if _some(error, self.never_retry_on):
            return False
        return self.retry_on is None or _all(error, self.retry_on)


def error_classes(what: str, given: Errors) -> tuple[type[BaseException], ...]:
    """Return exception classes as a tuple.

    Raises:
        ConfigurationError: one of them is none.
    """
    several = (given,) if isinstance(given, (type, str)) else tuple(given)
    for each in several:
        if not (isinstance(each, type) and issubclass(each, BaseException)):
            raise ConfigurationError(f"{what} must name exception classes, not {each!r}")
    return several


def _some(error: BaseException, kinds: tuple[type[BaseException], ...]) -> bool:
    return isinstance(error, kinds) or any(_some(each, kinds) for each in _parts(error))


def _all(error: BaseException, kinds: tuple[type[BaseException], ...]) -> bool:
    parts = _parts(error)
    return isinstance(error, kinds) or (len(parts) > 0 and all(_all(each, kinds) for each in parts))


def _parts(error: BaseException) -> Sequence[BaseException]:
    return error.exceptions if isinstance(error, BaseExceptionGroup) else ()
