"""Detects from another thread that an event loop is blocked, and by which code."""

from __future__ import annotations

import logging
import sys
import threading
import time
import traceback

logger = logging.getLogger(__name__)

BLOCKED_AFTER = 5.0


class Watchdog:
    """Watches the event loop of the thread it is made in. That loop calls `tick`, another thread calls `check`."""

    def __init__(self) -> None:
        self._thread = threading.get_ident()
        self._ticked = time.monotonic()
        self._reported = False

    def tick(self) -> None:
        """Record that the loop is running."""
        self._ticked = time.monotonic()

    def check(self) -> tuple[float, str] | None:
        """Return for how many seconds the loop has been blocked, and the blocking stack; None if it is not blocked, or
        if this block was reported before.
        """
        blocked = time.monotonic() - self._ticked
        if blocked < BLOCKED_AFTER:
            self._reported = False
            return None
        if self._reported:
            return None
        self._reported = True
        frame = sys._current_frames().get(self._thread)
        stack = "".join(traceback.format_stack(frame)) if frame is not None else "(no stack)"
        # Logged here, because the blocked loop cannot; and in a thread of its own: if a logging handler blocks the
        # loop, this waits for the same lock, and the renewals of the lease must not.
        record = ("The event loop has been blocked for %.0f s, here:\n%s", blocked, stack)
        threading.Thread(target=logger.error, args=record, daemon=True).start()
        return blocked, stack
