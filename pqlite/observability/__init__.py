"""What the log says of the worker's events, and what ties log records to jobs."""

from pqlite.observability.job_fields import JobFields

__all__ = ["JobFields"]
