"""The error of a measurement that cannot be made."""

from __future__ import annotations

from pqlite.errors import PqliteError


class BenchError(PqliteError):
    """The benchmark cannot continue; the message is shown to the user."""
