"""Log records as JSON."""

import json
import logging
import sys
from typing import Any

import pytest

from pqlite import ConfigurationError
from pqlite.observability import JsonFormatter
from pqlite.settings import log_as_json


def line(**extra: Any) -> dict[str, Any]:
    record = logging.getLogger("a.b").makeRecord("a.b", logging.WARNING, "f.py", 1, "%s jobs", (3,), None, extra=extra)
    text = JsonFormatter().format(record)
    assert "\n" not in text
    return dict(json.loads(text))


def test_a_record_is_one_object_with_its_time_level_logger_and_message() -> None:
    found = line()

    assert found.pop("time").endswith("+00:00")
    assert found == {"level": "WARNING", "logger": "a.b", "message": "3 jobs"}


def test_what_the_caller_gives_as_extra_is_kept_and_cannot_replace_the_message() -> None:
    found = line(job_id=7, tenant={"id": 1}, level="mine")

    assert (found["job_id"], found["tenant"], found["level"]) == (7, {"id": 1}, "WARNING")


def test_what_json_cannot_hold_is_written_as_text() -> None:
    class Unreadable:
        def __str__(self) -> str:
            raise RuntimeError

    circle: list[Any] = []
    circle.append(circle)
    found = line(number=float("nan"), circle=circle, keys={(1, 2): 3}, lone="\ud800", unreadable=Unreadable())

    assert (found["number"], found["keys"], found["message"]) == ("nan", "{(1, 2): 3}", "3 jobs")
    assert "RuntimeError" in found["unreadable"]


def test_a_traceback_is_in_the_object() -> None:
    try:
        raise ValueError("no")
    except ValueError:
        record = logging.getLogger().makeRecord("x", logging.ERROR, "f.py", 1, "failed", (), sys.exc_info())

    assert json.loads(JsonFormatter().format(record))["error"].endswith("ValueError: no")


def test_the_environment_says_whether_to_log_json() -> None:
    assert log_as_json({"WORKER_LOG_JSON": "yes"})
    assert not log_as_json({"WORKER_LOG_JSON": "0"})
    assert not log_as_json({})
    with pytest.raises(ConfigurationError, match="WORKER_LOG_JSON is 'maybe'"):
        log_as_json({"WORKER_LOG_JSON": "maybe"})
