"""Writes the worker's events to the standard logger `pqlite`.

Records about one job have the fields `job_id`, `job_type` and `attempt`.
"""

from __future__ import annotations

import logging
from typing import Any

from pqlite import events as e
from pqlite.job import Job, JobStatus, TakenOver
from pqlite.outcome import Outcome, Verb

logger = logging.getLogger("pqlite")

FAILURES_PER_REMINDER = 600
"""A failing loop is logged at its first failure, and again after so many failures: about every 20 minutes."""


def log_event(event: e.Event) -> None:
    """Log one event: steps of jobs at DEBUG, start and stop of the worker at INFO, problems at WARNING, failed jobs at
    ERROR.
    """
    match event:
        case e.JobStarted(job=job):
            logger.debug("Job %s (%s) started, attempt %s.", job.id, job.job_type, job.attempts, extra=_fields(job))
        case e.JobsClaimed(jobs=jobs):
            logger.debug("Claimed %s jobs.", len(jobs))
        case e.JobAdopted(job=job):
            logger.info(
                "Job %s (%s) was claimed again after its claim was undone; it is not started twice.",
                job.id,
                job.job_type,
                extra=_fields(job),
            )
        case e.JobStopping(job=job, reason=reason):
            logger.debug("Job %s (%s) was asked to stop: %s.", job.id, job.job_type, reason, extra=_fields(job))
        case e.JobSettled(outcome=outcome, status=status):
            _log_settled(outcome, status)
        case e.OutcomeRefused(outcome=o):
            logger.warning(
                "Job %s (%s): the outcome %s was refused, because the worker's claim is no longer current.",
                o.job.id,
                o.job.job_type,
                o.verb,
                extra=_fields(o.job),
            )
        case e.JobStuck(job=job, seconds=seconds):
            logger.warning(
                "Job %s (%s) was asked to stop %.0f s ago and still runs.",
                job.id,
                job.job_type,
                seconds,
                extra=_fields(job),
            )
        case e.ClaimsReleased(job_ids=ids):
            logger.warning("Gave back %s jobs whose claim's answer was lost: %s", len(ids), list(ids[:20]))
        case e.JobsExpired(job_ids=ids):
            logger.info("Cancelled %s jobs that were not started before they expired: %s", len(ids), list(ids[:20]))
        case e.JobsTakenOver(jobs=jobs):
            for taken in jobs[:20]:
                logger.warning(
                    "Job %s (%s) taken over from %s: %s",
                    taken.id,
                    taken.job_type,
                    taken.locked_by,
                    taken.status,
                    extra=_fields(taken),
                )
            if len(jobs) > 20:
                logger.warning("... and %s more jobs.", len(jobs) - 20)
        case e.JobsPruned(deleted=deleted):
            logger.info("Deleted %s finished jobs.", deleted)
        case e.ScheduleFired(name=name, slot=slot, job_id=job_id):
            logger.debug("Schedule %s: job %s for %s.", name, job_id, slot.isoformat(), extra={"job_id": job_id})
        case e.ScheduleSkipped(name=name, slot=slot, job_id=job_id, held=held):
            logger.info(
                "Schedule %s: the slot %s %s, because job %s is active.",
                name,
                slot.isoformat(),
                "waits" if held else "is skipped",
                job_id,
                extra={"job_id": job_id},
            )
        case e.ScheduleMissed(name=name, slots=slots):
            logger.warning(
                "Schedule %s: %s slots passed without a worker.", name, f"{slots}+" if slots >= 100 else slots
            )
        case e.ScheduleFailed(name=name, reason=reason):
            logger.error("Schedule %s does not work: %s", name, reason)
        case e.WorkerRegistered(holder=holder):
            logger.info("Worker %s is registered.", holder)
        case e.WorkerFenced(holder=holder, reason=reason):
            logger.error("Worker %s is fenced and stops its attempts: %s.", holder, reason)
        case e.WorkerStopping(running=running):
            logger.info("Worker %s is stopping, %s jobs run.", event.worker_id, running)
        case e.WorkerStopped(left=left):
            level = logging.WARNING if left else logging.INFO
            logger.log(level, "Worker %s has stopped, %s jobs left running.", event.worker_id, left)
        case e.LoopFailed(part=part, error=error, failures=n) if n == 1 or n % FAILURES_PER_REMINDER == 0:
            logger.warning("The %s failed (%s in a row): %s: %s", part, n, type(error).__name__, error)
        case e.LoopRecovered(part=part, failures=failures):
            logger.info("The %s works again after %s failures.", part, failures)


def _log_settled(outcome: Outcome, status: JobStatus) -> None:
    job = outcome.job
    match status:
        case JobStatus.FAILED if outcome.verb is Verb.RETRY:
            logger.error(
                "Job %s (%s) failed its last attempt: %s", job.id, job.job_type, outcome.error, extra=_fields(job)
            )
        case JobStatus.FAILED:
            logger.error("Job %s (%s) failed: %s", job.id, job.job_type, outcome.error, extra=_fields(job))
        case JobStatus.READY if outcome.verb is Verb.RETRY:
            logger.warning(
                "Job %s (%s) failed attempt %s of %s, next in %.1f s: %s",
                job.id, job.job_type, job.attempts, job.max_attempts, outcome.delay, _last_line(outcome.error),
                extra=_fields(job),
            )  # fmt: skip
        case _:
            logger.debug(
                "Job %s (%s): %s in %s ms.",
                job.id,
                job.job_type,
                outcome.verb if status is JobStatus.READY else status,
                outcome.duration_ms,
                extra=_fields(job),
            )


def _fields(job: Job | TakenOver) -> dict[str, Any]:
    """Return the fields that `JobFields` and `ctx.log` add, for records written outside of the job's attempt."""
    return {"job_id": job.id, "job_type": job.job_type, "attempt": job.attempts}


def _last_line(error: str | None) -> str:
    """Return the last line of a traceback; the job's row has the rest."""
    return (error or "").strip().rpartition("\n")[2]
