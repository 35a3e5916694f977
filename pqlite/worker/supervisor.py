"""The background loop that runs each part of a worker: it pauses between steps, backs off after errors, and reports
when it does not work.
"""

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
"""What `step` returns when it has nothing to do until it is woken."""


class Untried(float):
    """A pause, in seconds, returned by a step that did nothing because nothing was due.

    After a failure, such a step does not show that the loop works again.
    """


class Loop:
    """Calls `step` until it is stopped, and pauses after each call for the number of seconds that it returned.

    Errors are announced and not raised: the loop pauses as its policy says, and continues. Failures are counted until
    a step succeeds that did something (see Untried). The loop stops between two steps, so that no statement is
    interrupted.
    """

    def __init__(
        self,
        name: str,
        step: Callable[[], Awaitable[float]],
        *,
        errors: LoopErrorPolicy,
        failed: Callable[[str, Exception, int], None],
        recovered: Callable[[str, int], None],
        overdue_after: float = 60.0,
    ) -> None:
        self.name = name
        self._step = step
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
        """When the next step is to begin, or the current one began (time.monotonic)."""

    def wake(self) -> None:
        """End the pause, unless it follows an error: such a pause is not shortened."""
        self._woken.set()

    def wake_in(self, seconds: float) -> None:
        """Wake now, and again in so many seconds (during a pause after an error: when that has ended)."""
        heapq.heappush(self._alarms, time.monotonic() + seconds)
        self.wake()

    def stop(self) -> None:
        """End after the current step."""
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
            self._next_cycle = began  # the pause may have been ended early
            try:
                with others_cancellation_as(WorkerError, "An operation that it waited for was cancelled."):
                    pause = await self._step()
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
        """Return the seconds until the first alarm that was not due when the last step began; inf if there is none."""
        while self._alarms and self._alarms[0] <= began:
            heapq.heappop(self._alarms)
        return self._alarms[0] - time.monotonic() if self._alarms else math.inf

    def _pause_after_error(self) -> float:
        try:
            pause = float(self._errors.next_sleep(self._failures))
        except Exception as error:
            self._failed(f"{self.name}'s loop_error_policy", error, self._failures)
            pause = 2.0
        # Jitter: workers that lost the same server must not all reconnect at the same moment.
        return max(pause, 0.05) * random.uniform(0.8, 1.2)


async def _rest(pause: float, ended_by: asyncio.Event) -> None:
    if pause <= 0:
        await asyncio.sleep(0)
    elif not ended_by.is_set():
        with suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await ended_by.wait()
