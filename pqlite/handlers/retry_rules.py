"""Whether and when a failed attempt is retried."""

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
    """A job type's retry rules. `backoff` None means the worker's; `retry_on` None means all errors."""

    backoff: BackoffPolicy | None = None
    retry_on: tuple[type[BaseException], ...] | None = None
    never_retry_on: tuple[type[BaseException], ...] = ()

    def again(self, error: BaseException) -> bool:
        """Return whether an attempt that ended with the error may be retried; for a group, whether all may."""
        if _some(error, self.never_retry_on):
            return False
        return self.retry_on is None or _all(error, self.retry_on)


def error_classes(what: str, given: Errors) -> tuple[type[BaseException], ...]:
    """Return exception classes as a tuple.

    Raises:
        ConfigurationError: one of them is not an exception class.
    """
    classes = (given,) if isinstance(given, (type, str)) else tuple(given)
    for each in classes:
        if not (isinstance(each, type) and issubclass(each, BaseException)):
            raise ConfigurationError(f"{what} must name exception classes, not {each!r}")
    return classes


def _some(error: BaseException, kinds: tuple[type[BaseException], ...]) -> bool:
    return isinstance(error, kinds) or any(_some(each, kinds) for each in _parts(error))


def _all(error: BaseException, kinds: tuple[type[BaseException], ...]) -> bool:
    parts = _parts(error)
    return isinstance(error, kinds) or (len(parts) > 0 and all(_all(each, kinds) for each in parts))


def _parts(error: BaseException) -> Sequence[BaseException]:
    return error.exceptions if isinstance(error, BaseExceptionGroup) else ()
