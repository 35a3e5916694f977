"""The loop of every part of a worker: acts, pauses, survives errors with backoff, and reports when it does not work."""

from __future__ import annotations

import asyncio
import heapq
import math
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

from pqlite.backoff import LoopErrorPolicy
from pqlite.errors import WorkerError
from pqlite.uninterrupted import others_cancellation_as

FOREVER = 3600.0
"""What `once` returns when only a wake-up gives it something to do."""


class Untried(float):
    """A pause, in seconds, returned by a call of `once` that tried nothing, because nothing was due.

    After a failure such a call does not show that the loop works again.
    """


class Loop:
    """Calls `once` again and again, pausing for as many seconds as it returns, until stopped.

    An error is announced, never raised: the loop pauses as its policy says and goes on. Failures are counted until a
    call succeeds that did something (see Untried). The loop is stopped by a flag between two calls, so a statement is
    never cut in two.
    """

    def __init__(
        self,
        name: str,
        once: Callable[[], Awaitable[float]],
        *,
        errors: LoopErrorPolicy,
        failed: Callable[[str, Exception, int], None],
        recovered: Callable[[str, int], None],
        overdue_after: float = 60.0,
    ) -> None:
        self.name = name
        self._once = once
        self._errors = errors
        self._failed = failed
        self._recovered = recovered
        self._overdue_after = overdue_after
        self._woken = asyncio.Event()
        self._halted = asyncio.Event()
        self._stopped = False
        self._alarms: list[float] = []
        self._failures = 0
        self.last_error: Exception | None = None
        """The latest error, None once the loop works again."""
        self._next_cycle = time.monotonic()
        """When the next call is to begin, or the present one began (time.monotonic)."""

    def wake(self) -> None:
        """End the pause, unless it follows an error: those are not cut short by what goes on meanwhile."""
        self._woken.set()

    def wake_in(self, seconds: float) -> None:
        """Wake now, and again in so many seconds (unless an error is being paused for: then after that)."""
        heapq.heappush(self._alarms, time.monotonic() + seconds)
        self.wake()

    def stop(self) -> None:
        """End after the call under way."""
        self._stopped = True
        self._woken.set()
        self._halted.set()

    def trouble(self) -> str | None:
        """Return what is wrong with the loop, None if it works."""
        if self._failures:
            return f"the {self.name} has failed {self._failures} times in a row: {self.last_error!r}"
        late = time.monotonic() - self._next_cycle
        if not self._stopped and late > self._overdue_after:
            return f"the {self.name} has not completed a cycle for {late:.0f} s"
        return None

    async def run(self) -> None:
        """Run until stopped."""
        while not self._stopped:
            self._woken.clear()
            ended_by, began = self._woken, time.monotonic()
            self._next_cycle = began  # a wake-up may have ended a pause of an hour
            try:
                with others_cancellation_as(WorkerError, "What it waited for was cancelled."):
                    pause = await self._once()
            except Exception as error:
                self._failures += 1
                self.last_error = error
                self._failed(self.name, error, self._failures)
                pause, ended_by = self._pause_after_error(), self._halted
            else:
                if self._failures and not isinstance(pause, Untried):
                    self._recovered(self.name, self._failures)
                    self._failures, self.last_error = 0, None
                pause = min(pause, self._until_alarm(began))
            self._next_cycle = time.monotonic() + pause
            await _rest(pause, ended_by)

    def _until_alarm(self, began: float) -> float:
        """Return in how many seconds an alarm is due that was not yet due when the latest call began; inf for none."""
        while self._alarms and self._alarms[0] <= began:
            heapq.heappop(self._alarms)
        return self._alarms[0] - time.monotonic() if self._alarms else math.inf

    def _pause_after_error(self) -> float:
        try:
            pause = float(self._errors.next_sleep(self._failures))
        except Exception as error:
            self._failed(f"{self.name}'s loop_error_policy", error, self._failures)
            pause = 2.0
        # Jitter: a fleet that lost the same server must not come back in step.
        return max(pause, 0.05) * random.uniform(0.8, 1.2)


async def _rest(pause: float, ended_by: asyncio.Event) -> None:
    if pause <= 0:
        await asyncio.sleep(0)
    elif not ended_by.is_set():
        with suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await ended_by.wait()
