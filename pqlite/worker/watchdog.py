"""Names the code that blocks an event loop, from another thread."""

from __future__ import annotations

import logging
import sys
import threading
import time
import traceback

logger = logging.getLogger(__name__)

BLOCKED_AFTER = 5.0


class Watchdog:
    """Watches the event loop of the thread it is made in. That loop calls `tick`, another thread calls `look`."""

    def __init__(self) -> None:
        self._thread = threading.get_ident()
        self._ticked = time.monotonic()
        self._reported = False

    def tick(self) -> None:
        """Say that the loop turns."""
        self._ticked = time.monotonic()

    def look(self) -> tuple[float, str] | None:
        """Return for how many seconds the loop has stood still, and the stack where it does; None if it turns, or if
        this block was reported before.
        """
        still = time.monotonic() - self._ticked
        if still < BLOCKED_AFTER:
            self._reported = False
            return None
        if self._reported:
            return None
        self._reported = True
        frame = sys._current_frames().get(self._thread)
        stack = "".join(traceback.format_stack(frame)) if frame is not None else "(no stack)"
        # Logged now: the loop itself can say nothing until it turns again. And from a thread of its own: if the loop
        # stands in a logging handler, this waits for the same lock, and the renewals must not.
        said = ("The event loop has been blocked for %.0f s, here:\n%s", still, stack)
        threading.Thread(target=logger.error, args=said, daemon=True).start()
        return still, stack
