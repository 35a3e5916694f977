"""Tools to test jobs: a store in memory, ways to run jobs without a worker, and events to wait for.

`pytest_plugin` gives the fixtures `pqlite_memory_store`, `pqlite_store`, `pqlite_dsn` and `pqlite_sql`, `pqlite_server`
and `pqlite_schema`.
"""

from typing import TYPE_CHECKING

from pqlite.lazy_imports import lazy_getattr

if TYPE_CHECKING:
    from pqlite.testing.asserting import assert_enqueued, jobs_of
    from pqlite.testing.binding import bound
    from pqlite.testing.draining import AttemptFailed, drain
    from pqlite.testing.inlining import inline
    from pqlite.testing.log import EventLog
    from pqlite.testing.memory import Clock, MemoryConnection, MemoryJobStore

__all__ = [
    "AttemptFailed",
    "Clock",
    "EventLog",
    "MemoryConnection",
    "MemoryJobStore",
    "assert_enqueued",
    "bound",
    "drain",
    "inline",
    "jobs_of",
]

if not TYPE_CHECKING:
    # See pqlite/__init__.py: the plugin is in this package, and loaded by every pytest.
    __getattr__ = lazy_getattr(__name__, __all__, ("log", "memory", "draining", "inlining", "asserting", "binding"))
