"""The advisory lock and the LISTEN of the sentinel's connection."""

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
# With schema and type: otherwise a function of the same name for text, in `public`, would be preferred.
_LOCK = "pg_catalog.pg_try_advisory_lock($1::bigint)"


class Presence:
    """Takes the worker's advisory lock, which the server releases when the process dies, and listens to notifications.

    Neither works behind a pooler in transaction mode: then only the lease shows that the worker is alive, and jobs are
    found by polling. The log says so once.

    Args:
        channel: the channel to listen to.
        queues: the queues that the worker serves; None: all.
        pooling: returns the kind of pooler, None before the first connection.
        notified: called when there may be jobs to claim; with True, also behind the watermarks.
        paused: called when something was paused: jobs that were claimed and not started must be given back.
        renew: called when a job was asked to cancel or a schedule was changed: a renewal of the lease reads both.
    """

    def __init__(
        self,
        channel: str,
        queues: Sequence[str] | None,
        *,
        pooling: Callable[[], Pooling | None],
        notified: Callable[[bool], None],
        paused: Callable[[], None],
        renew: Callable[[], None],
    ) -> None:
        self._channel = channel
        self._queues = None if queues is None else set(queues)
        self._pooling = pooling
        self._notified = notified
        self._paused = paused
        self._renew = renew
        self._key = secrets.randbits(63)
        self._direct = False
        self._warned = False
        self.locked = False
        """Whether the lock was taken on the present connection."""
        self.listens = False
        """Whether notifications can be received; also read from the worker's loop."""

    @property
    def lock_key(self) -> int | None:
        """The key by which others check that the worker is alive; None while it does not hold the lock."""
        return self._key if self.locked else None

    async def begin(self, conn: Any, socket: Any) -> None:
        """Take the lock and listen on a new connection."""
        self.locked = self._direct = self.listens = False
        if self._pooling() is Pooling.TRANSACTION:
            self._warn(
                "A pooler in transaction mode stands between this worker and PostgreSQL, and lets no notification "
                "through: jobs that other processes enqueue are found by polling (see IdlePollPolicy), and if the "
                "worker dies its jobs are taken over when its lease ends. Give PgJobStore listen_dsn=, an address of "
                "PostgreSQL itself, for one connection that makes both quick."
            )
        else:
            # Not locked if the backend of the old connection has not ended yet; `lock` tries again.
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
            self.listens = True
        # Notifications may have been missed while there was no connection.
        self._notified(True)

    async def lock(self, engine: Engine) -> None:
        """Try to take the lock, if it is not held."""
        if self.listens and not self.locked:
            self.locked = await engine.try_lock(self._key, deadline=TRY_SECONDS)

    def server_is_down(self, error: BaseException | None) -> bool:
        """Return whether a connection error shows that the server itself is down, and not only the network."""
        return error is not None and says_server_is_down(error, direct=self._direct)

    def _on_notification(self, _conn: Any, _pid: int, _channel: str, payload: object) -> None:
        if payload in {"cancel", "schedules"}:
            self._renew()
        elif payload == "pause":
            self._paused()
        elif self._concerns(str(payload)):
            self._notified(payload == "rewind")

    def _concerns(self, payload: str) -> bool:
        """Return whether a notification may be about a queue that this worker serves."""
        return self._queues is None or not payload.startswith("[") or not self._queues.isdisjoint(from_json(payload))

    def _warn(self, sentence: str) -> None:
        if not self._warned:
            self._warned = True
            logger.warning(sentence)
