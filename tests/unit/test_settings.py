from datetime import timedelta
from typing import Any

import pytest

from pqlite import ConfigurationError
from pqlite.settings import WorkerSettings, from_environment

SECONDS = "a number of seconds above 0"
BOOLEAN = "one of 1, true, yes, on, 0, false, no, off"


@pytest.mark.parametrize(
    ("name", "value", "field", "expected"),
    [
        *[("WORKER_ENABLED", value, "enabled", False) for value in ("0", "false", "NO", " off ")],
        *[("WORKER_ENABLED", value, "enabled", True) for value in ("1", "True", "yes", "on")],
        ("WORKER_CONCURRENCY", "25", "concurrency", 25),
        ("WORKER_REAPER_ENABLED", "no", "enable_reaper", False),
        ("WORKER_REAP_INTERVAL", "7.5", "reap_stale_every", timedelta(seconds=7.5)),
        ("WORKER_STALE_TIMEOUT", "60", "default_stale_after", timedelta(minutes=1)),
        ("WORKER_SHUTDOWN_GRACE", "0", "shutdown_grace", timedelta(0)),
        ("WORKER_SHUTDOWN_GRACE", "3", "shutdown_grace", timedelta(seconds=3)),
        ("WORKER_SHUTDOWN_TIMEOUT", "90", "shutdown_timeout", timedelta(seconds=90)),
    ],
)
def test_each_variable_of_the_environment_wins_over_the_argument(
    name: str, value: str, field: str, expected: Any
) -> None:
    given = WorkerSettings(enabled=expected is False, concurrency=3)

    settings = from_environment(given, {name: value, "WORKER_UNKNOWN": "x"})

    assert getattr(settings, field) == expected
    unchanged = [other for other in WorkerSettings.__dataclass_fields__ if other != field]
    assert all(getattr(settings, other) == getattr(given, other) for other in unchanged)


@pytest.mark.parametrize(
    ("name", "value", "accepted"),
    [
        *[("WORKER_ENABLED", value, BOOLEAN) for value in ("maybe", "2", "falsee")],
        *[("WORKER_CONCURRENCY", value, "a whole number of 1 or more") for value in ("0", "-1", "1.5", "ten")],
        ("WORKER_REAPER_ENABLED", "x", BOOLEAN),
        *[("WORKER_REAP_INTERVAL", value, SECONDS) for value in ("0", "-1", "inf", "nan", "1m", "1e300")],
        ("WORKER_STALE_TIMEOUT", "20 minutes", SECONDS),
        ("WORKER_SHUTDOWN_GRACE", "-1", "a number of seconds, 0 or more"),
        ("WORKER_SHUTDOWN_TIMEOUT", "0", SECONDS),
    ],
)
def test_a_malformed_variable_is_refused_in_a_sentence_with_its_name_value_and_what_is_accepted(
    name: str, value: str, accepted: str
) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        from_environment(WorkerSettings(), {name: value})

    assert str(refusal.value) == f"{name} is {value!r}; it must be {accepted}"


@pytest.mark.parametrize("value", ["", "  "])
def test_an_empty_variable_is_as_good_as_none(value: str) -> None:
    assert from_environment(WorkerSettings(), {"WORKER_CONCURRENCY": value}) == WorkerSettings()


def test_the_process_environment_is_read_unless_another_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKER_CONCURRENCY", "4")

    assert from_environment(WorkerSettings()).concurrency == 4
    assert from_environment(WorkerSettings(), {}).concurrency == 10


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"concurrency": 0}, "concurrency must be a whole number of 1 or more, not 0"),
        ({"reap_stale_every": timedelta(0)}, "reap_stale_every must be longer than zero"),
        ({"default_stale_after": timedelta(-1)}, "default_stale_after must be longer than zero"),
        ({"shutdown_timeout": timedelta(0)}, "shutdown_timeout must be longer than zero"),
        ({"shutdown_grace": timedelta(-1)}, "shutdown_grace must not be negative"),
        ({"retain_done": timedelta(-1)}, "retain_done must not be negative"),
        ({"retain_failed": timedelta(-1)}, "retain_failed must not be negative"),
        ({"lease": timedelta(seconds=11.9)}, "lease must be 12 seconds or longer"),
        ({"renew_every": timedelta(0)}, "renew_every must be longer than zero"),
        ({"renew_every": timedelta(seconds=4.1)}, "renew_every must be 4 seconds or shorter"),
    ],
)
def test_settings_that_cannot_work_are_refused_in_a_sentence(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        WorkerSettings(**fields)
