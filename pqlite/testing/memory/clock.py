"""A clock that tests can set forward."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta


class Clock:
    """The time of a store in memory, which decides which jobs are due.

    It runs like the machine's clock and can be set forward; with `start` it stands still until it is set forward.
    A naive `start` is local time.
    """

    def __init__(self, start: datetime | None = None) -> None:
        self._stands_at = None if start is None else start.astimezone(UTC)
        self._ahead = timedelta(0)

    def now(self) -> datetime:
        """Return the time, in UTC."""
        return datetime.now(UTC) + self._ahead if self._stands_at is None else self._stands_at

    def advance(self, by: timedelta) -> datetime:
        """Set the clock forward; return the new time.

        Raises:
            ValueError: it would go back.
        """
        if by < timedelta(0):
            raise ValueError(f"a clock is set forward, not by {by!r}")
        if self._stands_at is None:
            self._ahead += by
        else:
            self._stands_at += by
        return self.now()
