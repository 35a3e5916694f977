"""What becomes of an attempt, by how it ended and why it was asked to stop. No worker, no database."""

import asyncio
from typing import Any

import pytest

from pqlite import BackoffPolicy, Cancel, Fail, Job, JobStatus, RetryAfter, Snooze
from pqlite.handlers import Retrying
from pqlite.outcome import Outcome, Verb
from pqlite.worker.deciding import decide

PLAIN = Retrying(BackoffPolicy())
CANCELLED = asyncio.CancelledError()
OOPS = ValueError("oops")


def job(**given: Any) -> Job:
    fields: dict[str, Any] = dict.fromkeys(Job.__dataclass_fields__)
    fields |= {"id": 1, "status": JobStatus.RUNNING, "attempts": 1, "max_attempts": 5, "timeout_seconds": 3.0}
    return Job(**fields | given)


def decided(error: BaseException, stop: str | None = None, torn_down: bool = False, **given: Any) -> Outcome:
    return decide(job(**given), stop, error, torn_down, PLAIN)


@pytest.mark.parametrize(
    ("error", "verb", "text", "delay"),
    [
        (Snooze(5, "later"), Verb.SNOOZED, "later", 5.0),
        (Snooze(5), Verb.SNOOZED, None, 5.0),
        (Cancel("no more"), Verb.CANCELLED, "no more", None),
        (Fail("never"), Verb.FAILED, "never", None),
        (Fail(), Verb.FAILED, "Fail", None),
        (RetryAfter(7, "busy"), Verb.RETRY, "busy", 7.0),
        (RetryAfter(7), Verb.RETRY, "RetryAfter", 7.0),
        (ExceptionGroup("", [Cancel("no more"), Fail("never")]), Verb.FAILED, "never", None),
        (ExceptionGroup("", [OOPS, ExceptionGroup("", [Cancel("no more")])]), Verb.CANCELLED, "no more", None),
        (ExceptionGroup("", [Snooze(5, "later"), RetryAfter(7)]), Verb.SNOOZED, "later", 5.0),
    ],
)
def test_what_a_handler_says_is_what_becomes_of_the_job(
    error: BaseException, verb: Verb, text: str | None, delay: float | None
) -> None:
    outcome = decided(error)

    assert (outcome.verb, outcome.error) == (verb, text)
    assert delay is None or outcome.delay == delay


@pytest.mark.parametrize(
    ("error", "stop", "torn_down", "verb", "text"),
    [
        (OOPS, None, False, Verb.RETRY, "oops"),
        (OOPS, "timeout", False, Verb.RETRY, "oops"),
        (OOPS, "cancel", False, Verb.CANCELLED, "oops"),
        (OOPS, "shutdown", False, Verb.RELEASED, None),
        (OOPS, "lease", False, Verb.RELEASED, None),
        (CANCELLED, "timeout", False, Verb.RETRY, "TimeoutError: the attempt took longer than timeout_seconds (3 s)"),
        (CANCELLED, "cancel", False, Verb.CANCELLED, "cancelled"),
        (CANCELLED, "shutdown", False, Verb.RELEASED, None),
        (CANCELLED, "lease", False, Verb.RELEASED, None),
        (CANCELLED, None, True, Verb.RELEASED, None),
        (CANCELLED, None, False, Verb.RETRY, "not requested by the worker"),
        (ExceptionGroup("", [Snooze(5), OOPS]), None, False, Verb.RETRY, "oops"),
    ],
)
def test_an_error_counts_as_what_the_reason_to_stop_makes_of_it(
    error: BaseException, stop: str | None, torn_down: bool, verb: Verb, text: str | None
) -> None:
    outcome = decided(error, stop, torn_down)

    assert outcome.verb is verb
    assert (text is None and outcome.error is None) or (text is not None and text in (outcome.error or ""))


@pytest.mark.parametrize("stop", ["shutdown", "lease"])
def test_only_a_job_that_may_start_once_fails_because_its_worker_stops(stop: str) -> None:
    assert decided(CANCELLED, stop, 1, attempts=1, max_attempts=1).verb is Verb.FAILED
    assert decided(CANCELLED, stop, 1, attempts=5, max_attempts=5).verb is Verb.RELEASED


def test_a_types_own_rules_decide_about_its_errors_and_a_timeout_is_a_timeout_error() -> None:
    class Soon(BackoffPolicy):
        def retry_delay(self, attempts: int) -> float:
            return 5.0

    hopeless = Retrying(BackoffPolicy(), never_retry_on=(TimeoutError,))

    assert decide(job(), "timeout", CANCELLED, 1, hopeless).verb is Verb.FAILED
    assert decide(job(), None, OOPS, 0, hopeless).verb is Verb.RETRY
    assert decide(job(), None, OOPS, 0, Retrying(Soon())).delay == 5.0


def test_what_goes_wrong_after_a_job_has_completed_is_logged_unless_it_was_cancelled(
    caplog: pytest.LogCaptureFixture,
) -> None:
    for error in (None, CANCELLED, OOPS):
        outcome = decide(job(status=JobStatus.DONE), None, error, 0, PLAIN)
        assert (outcome.verb, outcome.committed) == (Verb.DONE, True)

    assert [record.getMessage() for record in caplog.records] == ["Job 1 failed after it was completed; it stays DONE."]
