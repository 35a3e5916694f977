"""Decides the outcome of an attempt from its result or exception. No database, no clock."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from typing import Any

from pqlite.backoff import BackoffPolicy, retry_seconds, seconds
from pqlite.codec import clean_text, encode_clean, format_error
from pqlite.errors import Cancel, Fail, HandlerSignal, PayloadError, RetryAfter, Snooze
from pqlite.handlers import Retrying
from pqlite.job import Job, JobStatus
from pqlite.outcome import Outcome, Verb

logger = logging.getLogger(__name__)

MAX_RESULT_BYTES = 16 * 1024 * 1024


def decide(
    job: Job, stop_reason: str | None, error: BaseException | None, torn_down: bool, retrying: Retrying
) -> Outcome:
    """Return the outcome of an attempt that raised `error`, or that completed its job in its own transaction.

    `torn_down` says that the event loop is ending and cancels every task.
    """
    if job.status is JobStatus.DONE:
        if error is not None and not isinstance(error, asyncio.CancelledError):
            logger.error("Job %s failed after it was completed; it stays DONE.", job.id, exc_info=error)
        return Outcome(job, Verb.DONE, committed=True)
    assert error is not None
    error = _unwrap_group(error)
    match error:
        case Snooze():
            return Outcome(job, Verb.SNOOZED, error=_reason(error), delay=seconds(error.delay))
        case Cancel():
            return Outcome(job, Verb.CANCELLED, error=_reason(error))
        case Fail():
            return Outcome(job, Verb.FAILED, error=_reason(error) or "Fail")
        case RetryAfter():
            return Outcome(job, Verb.RETRY, error=_reason(error) or "RetryAfter", delay=seconds(error.delay))
        case asyncio.CancelledError():
            return _cancelled(job, stop_reason, error, torn_down, retrying)
        case _ if stop_reason in ("shutdown", "lease"):
            # It was asked to stop, and failed while it did: a deploy must not cost an attempt.
            return _interrupted(job)
        case _ if stop_reason == "cancel":
            return Outcome(job, Verb.CANCELLED, error=format_error(error))
        case _:
            return _failed(job, error, format_error(error), retrying)


def outcome_of_result(job: Job, result: Any, duration_ms: int, write: Callable[[Any], Any] | None = None) -> Outcome:
    """Return the outcome of an attempt whose handler returned and was not interrupted.

    `write` converts the result of an annotated handler to a JSON value.
    """
    try:
        if write is not None:
            result = write(result)
        encoded = None if result is None else encode_clean(result, max_bytes=MAX_RESULT_BYTES)
        return Outcome(job, Verb.DONE, encoded, None, 0.0, duration_ms)
    except PayloadError as error:
        # The work is done, and another attempt would return the same kind of result.
        return Outcome(job, Verb.FAILED, error=f"The handler finished, but its result cannot be stored: {error}")


def _unwrap_group(error: BaseException) -> BaseException:
    """Return the signal that the tasks of a task group raised, instead of the group: Fail or Cancel if one of them did,
    another signal if they raised nothing else.
    """
    if not isinstance(error, BaseExceptionGroup):
        return error
    raised = list(_leaves(error))
    for final in (Fail, Cancel):
        for each in raised:
            if isinstance(each, final):
                return each
    return raised[0] if all(isinstance(each, HandlerSignal) for each in raised) else error


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _leaves(each)
    else:
        yield error


def _cancelled(job: Job, stop_reason: str | None, error: BaseException, torn_down: bool, retrying: Retrying) -> Outcome:
    match stop_reason:
        case "timeout":
            text = f"TimeoutError: the attempt took longer than timeout_seconds ({job.timeout_seconds:g} s)"
            return _failed(job, TimeoutError(), text, retrying)
        case "cancel":
            return Outcome(job, Verb.CANCELLED, error="cancelled")
        case "shutdown" | "lease":
            return _interrupted(job)
        case _ if torn_down:
            return _interrupted(job)
        case _:
            return _failed(job, error, "CancelledError: not requested by the worker", retrying)


def _failed(job: Job, error: BaseException, text: str, retrying: Retrying) -> Outcome:
    """Return the outcome of an attempt that ended with an error: RETRY, unless the retry rules exclude that error."""
    if not retrying.again(error):
        return Outcome(job, Verb.FAILED, error=text)
    return Outcome(job, Verb.RETRY, error=text, delay=_retry_delay(job, retrying.backoff or BackoffPolicy()))


def _interrupted(job: Job) -> Outcome:
    if job.max_attempts == 1:
        error = "The worker stopped while the job ran, and max_attempts = 1 promises that it is started at most once."
        return Outcome(job, Verb.FAILED, error=error)
    return Outcome(job, Verb.RELEASED)


def _retry_delay(job: Job, backoff: BackoffPolicy) -> float:
    try:
        return retry_seconds(backoff, job.attempts)
    except Exception:
        logger.exception("%s failed on attempt %s; using pqlite's own delays.", type(backoff).__name__, job.attempts)
        return retry_seconds(BackoffPolicy(), job.attempts)


def _reason(signal: Fail | Cancel | Snooze | RetryAfter) -> str | None:
    try:
        return clean_text(str(signal.reason)) or None
    except Exception:
        return f"{type(signal.reason).__name__} (it could not be converted to text)"
