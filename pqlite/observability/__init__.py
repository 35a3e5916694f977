"""Logging of the worker's events, and the job's fields in log records."""

from pqlite.observability.job_fields import JobFields
from pqlite.observability.json_formatter import JsonFormatter

__all__ = ["JobFields", "JsonFormatter"]
