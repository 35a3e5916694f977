"""A job store without a database."""

from pqlite.testing.memory.clock import Clock
from pqlite.testing.memory.connection import MemoryConnection
from pqlite.testing.memory.store import MemoryJobStore

__all__ = ["Clock", "MemoryConnection", "MemoryJobStore"]
