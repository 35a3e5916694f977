"""What the sentinel has of its session on the server: a lock that vanishes with the process, and ears."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Sequence
from typing import Any

from pydantic_core import from_json

from pqlite.store.engine import Engine
from pqlite.store.link import is_direct, says_server_is_down
from pqlite.store.route import Pooling

logger = logging.getLogger(__name__)

TRY_SECONDS = 2.0
# With its schema and type: one for text that somebody made in `public` would be preferred.
_LOCK = "pg_catalog.pg_try_advisory_lock($1::bigint)"


class Session:
    """The lock, the ears, and what is known of the way to the server.

    Behind a pooler in transaction mode there is no session to have: then only the lease speaks for the worker, and
    nothing is heard. Told once, in the log.

    Args:
        channel: what to listen to.
        queues: which queues the worker serves; None: all.
        pooling: says what stands between here and the server, once there is a connection.
        notified: there may be something to claim; True: also among what was looked at before.
        renew: somebody asked to cancel a job, or changed a schedule: a renewal hears of both.
    """

    def __init__(
        self,
        channel: str,
        queues: Sequence[str] | None,
        *,
        pooling: Callable[[], Pooling | None],
        notified: Callable[[bool], None],
        renew: Callable[[], None],
    ) -> None:
        self._channel = channel
        self._queues = None if queues is None else set(queues)
        self._pooling = pooling
        self._notified = notified
        self._renew = renew
        self._key = secrets.randbits(63)
        self._direct = False
        self._warned = False
        self.locked = False
        """Whether the lock is held, as far as is known."""
        self.hears = False
        """Whether notifications can come; also read from the worker's loop."""

    @property
    def lock_key(self) -> int | None:
        """What others may judge the worker by; None while it does not hold the lock."""
        return self._key if self.locked else None

    async def begin(self, conn: Any, socket: Any) -> None:
        """Make a new connection the worker's session."""
        self.locked = self._direct = self.hears = False
        if self._pooling() is Pooling.TRANSACTION:
            self._warn(
                "A pooler in transaction mode stands between this worker and PostgreSQL, and lets no notification "
                "through: jobs that other processes enqueue are found by polling (see IdlePollPolicy), and if the "
                "worker dies its jobs are taken over when its lease ends. Give PgJobStore listen_dsn=, an address of "
                "PostgreSQL itself, for one connection that makes both quick."
            )
        else:
            # False: the old connection's backend may not have noticed yet that it is gone; `lock` tries again.
            found = await conn.fetchrow(
                f"select {_LOCK}, pg_catalog.host(pg_catalog.inet_server_addr()), pg_catalog.inet_server_port(), "
                "pg_catalog.current_setting('session_replication_role')",
                self._key,
            )
            self.locked = found[0]
            self._direct = is_direct(found[1], found[2], socket)
            if found[3] == "replica":
                self._warn(
                    "The role's session_replication_role is replica: the trigger that wakes workers does not fire for "
                    "the jobs it enqueues, and they are found by polling. Change it with ALTER ROLE ... SET."
                )
            await conn.add_listener(self._channel, self._on_notification)
            self.hears = True
        # Anything may have been missed while there was no connection.
        self._notified(True)

    async def lock(self, engine: Engine) -> None:
        """Take the lock, if it can be had and is not held."""
        if self.hears and not self.locked:
            self.locked = await engine.try_lock(self._key, deadline=TRY_SECONDS)

    def server_is_down(self, error: BaseException | None) -> bool:
        """Return whether an error of the connection shows that the server is away, rather than the way to it."""
        return error is not None and says_server_is_down(error, direct=self._direct)

    def _on_notification(self, _conn: Any, _pid: int, _channel: str, payload: object) -> None:
        if payload in {"cancel", "schedules"}:
            self._renew()
        elif self._concerns(str(payload)):
            self._notified(payload == "rewind")

    def _concerns(self, payload: str) -> bool:
        """Return whether a notification may be about a queue that this worker serves."""
        return self._queues is None or not payload.startswith("[") or not self._queues.isdisjoint(from_json(payload))

    def _warn(self, sentence: str) -> None:
        if not self._warned:
            self._warned = True
            logger.warning(sentence)
