"""Listeners to the worker's events, and what ties logs to jobs."""

from pqlite.observability.job_fields import JobFields

__all__ = ["JobFields"]
