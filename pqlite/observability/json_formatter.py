"""Log records as JSON, one object a line."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Any

from pqlite.observability.job_fields import JobFields

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}
_job_fields = JobFields()


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of JSON: `time` (ISO 8601, UTC), `level`, `logger`, `message`, and, where there is
    one, `error` (the traceback) and `stack`. Within an attempt `job_id`, `job_type` and `attempt` are added, and always
    what the caller gave as `extra`. What JSON cannot hold is written as text, so that no record is lost.

        handler = logging.StreamHandler()
        handler.setFormatter(JsonFormatter())
        logging.basicConfig(level=logging.INFO, handlers=[handler])
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        fields: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        _job_fields.filter(record)
        extra = {name: value for name, value in vars(record).items() if name not in _STANDARD and value is not None}
        if record.exc_info:
            fields["error"] = self.formatException(record.exc_info)
        if record.stack_info:
            fields["stack"] = self.formatStack(record.stack_info)
        fields = extra | fields
        try:
            return json.dumps(fields, default=_text, allow_nan=False)
        except (TypeError, ValueError, RecursionError):  # keys that are no text, NaN, a circle
            return json.dumps(
                {name: value if isinstance(value, str) else _text(value) for name, value in fields.items()}
            )


def _text(value: Any) -> str:
    try:
        return str(value)
    except Exception as error:
        return f"<a {type(value).__name__} whose text cannot be read: {type(error).__name__}>"
