"""A private PostgreSQL server for the demo, for development and for tests; never for production.

The binaries come from the `embedded` extra or from the machine. The server listens on a unix socket in a
directory of its own and does not outlive the process that started it, however that process ends.
"""

from pqlite.embedded.program import EmbeddedError, find_binaries
from pqlite.embedded.server import EmbeddedPostgres

__all__ = ["EmbeddedError", "EmbeddedPostgres", "find_binaries"]
