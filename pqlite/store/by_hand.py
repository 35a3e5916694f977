"""Claims of callers without a worker, which `pickup` makes and `mark_done` and `mark_error` end."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from pqlite.backoff import seconds
from pqlite.codec import clean_text, encode_clean
from pqlite.errors import InvalidJob, LeaseLost
from pqlite.job import Job
from pqlite.outcome import Outcome, Verb
from pqlite.store.validation import milliseconds

RETRY_AFTER = timedelta(minutes=1)
SETTLED_KEPT = 1000


class ByHand:
    """Remembers jobs that were picked up, until they are settled, and the latest settled ones so that a call can be
    repeated.
    """

    def __init__(self, max_payload_bytes: int) -> None:
        self._max_payload_bytes = max_payload_bytes
        self._picked_up: dict[int, Job] = {}
        self._settled: dict[int, Job] = {}

    def picked_up(self, job: Job) -> None:
        """Remember a job that was just claimed."""
        self._picked_up[job.id] = job

    def done(self, job: Job | int, *, result: Any, duration_ms: float | None) -> Outcome:
        """Check the arguments of JobStore.mark_done and return the outcome."""
        return self._outcome(job, Verb.DONE, result, duration_ms)

    def error(
        self,
        job: Job | int,
        error: str,
        *,
        retry_after: timedelta | None,
        terminal: bool,
        result: Any,
        duration_ms: float | None,
    ) -> Outcome:
        """Check the arguments of JobStore.mark_error and return the outcome."""
        if not isinstance(error, str):
            raise InvalidJob(f"error must be text, not {error!r}")
        try:
            delay = seconds(RETRY_AFTER if retry_after is None else retry_after)
        except (TypeError, ValueError) as problem:
            raise InvalidJob(f"retry_after must be a timedelta, not {retry_after!r}") from problem
        outcome = self._outcome(job, Verb.FAILED if terminal else Verb.RETRY, result, duration_ms)
        return outcome._replace(error=clean_text(error), delay=delay)

    def _outcome(self, job: Job | int, verb: Verb, result: Any, duration_ms: float | None) -> Outcome:
        claimed = self.claim_of(job)
        encoded = encode_clean(result, max_bytes=self._max_payload_bytes)
        return Outcome(claimed, verb, result=encoded, duration_ms=milliseconds("duration_ms", duration_ms))

    def claim_of(self, job: Job | int) -> Job:
        """Return the claimed job that was meant.

        Raises:
            LeaseLost: this store has not picked up a job with that id. InvalidJob: it is neither a job nor an id.
        """
        if not isinstance(job, (Job, int)) or isinstance(job, bool):
            raise InvalidJob(f"expected a claimed job or its id, not {job!r}")
        claimed = (self._picked_up.get(job) or self._settled.get(job)) if isinstance(job, int) else job
        if claimed is None or claimed.locked_by is None:
            raise LeaseLost(f"This store has not picked up job {job if isinstance(job, int) else job.id}.")
        return claimed

    def settled(self, claimed: Job) -> None:
        """Note that a claim was settled."""
        picked_up = self._picked_up.get(claimed.id)
        if picked_up is not None and picked_up.claims == claimed.claims:
            del self._picked_up[claimed.id]
            self._settled.pop(claimed.id, None)
            self._settled[claimed.id] = picked_up
            if len(self._settled) > SETTLED_KEPT:
                del self._settled[next(iter(self._settled))]
