"""Logging of the worker's events, and the job's fields in log records."""

from pqlite.observability.job_fields import JobFields

__all__ = ["JobFields"]
