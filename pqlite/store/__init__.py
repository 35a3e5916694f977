"""Where jobs are kept."""

from pqlite.store.base import JobStore
from pqlite.store.postgres import PgJobStore

__all__ = ["JobStore", "PgJobStore"]
