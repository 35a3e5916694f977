"""Why a measurement cannot be made, in a sentence."""

from __future__ import annotations

from pqlite.errors import PqliteError


class BenchError(PqliteError):
    """The benchmark cannot go on; the message is for the person who started it."""
