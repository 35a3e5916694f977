"""The claims that callers without a worker hold: `pickup` gives them a job, `mark_*` may name it by its id."""

from __future__ import annotations

from pqlite.errors import LeaseLost
from pqlite.job import Job

SETTLED_KEPT = 1000


class ByHand:
    """Remembers picked-up jobs until they are settled, and the latest settled ones for those who repeat themselves."""

    def __init__(self) -> None:
        self._picked_up: dict[int, Job] = {}
        self._settled: dict[int, Job] = {}

    def picked_up(self, job: Job) -> None:
        """Remember a job that was just claimed."""
        self._picked_up[job.id] = job

    def claim_of(self, job: Job | int) -> Job:
        """Return the claimed job that is meant.

        Raises:
            LeaseLost: there is no claim on it that could be settled.
        """
        claimed = (self._picked_up.get(job) or self._settled.get(job)) if isinstance(job, int) else job
        if claimed is None or claimed.locked_by is None:
            raise LeaseLost(f"This store has not picked up job {job if isinstance(job, int) else job.id}.")
        return claimed

    def settled(self, claimed: Job) -> None:
        """Move a claim from the open to the settled ones."""
        picked_up = self._picked_up.get(claimed.id)
        if picked_up is not None and picked_up.claims == claimed.claims:
            del self._picked_up[claimed.id]
            self._settled.pop(claimed.id, None)
            self._settled[claimed.id] = picked_up
            if len(self._settled) > SETTLED_KEPT:
                del self._settled[next(iter(self._settled))]
