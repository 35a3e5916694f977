"""The sentinel, call by call and by a clock of the test's own: when it lets a worker go, and what it tells."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from pqlite import LeaseLost, PgJobStore
from pqlite.store.route import Pooling
from pqlite.worker import sentinel
from pqlite.worker.presence import Presence
from pqlite.worker.sentinel import LEASE_MARGIN, RECONNECT_SECONDS, SILENCE, Sentinel
from pqlite.worker.watchdog import BLOCKED_AFTER

LEASE = 20.0
RENEW_EVERY = 3.0


class Heard:
    """What the worker is told."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args: self.told.append((name, *args))


class Desk:
    """A sentinel in the test's own thread, without its loops."""

    def __init__(self, store: PgJobStore) -> None:
        self.now = 1000.0
        self.heard = Heard()
        self.store = store
        self.sentinel = each = Sentinel(
            make_engine=store.listening_engine,
            pooling=lambda: None,
            label="w",
            channel="wake",
            lease=timedelta(seconds=LEASE),
            renew_every=timedelta(seconds=RENEW_EVERY),
            info={"queues": None},
            listener=self.heard,
        )
        each._loop = asyncio.get_running_loop()
        each._engine = self.engine = store.listening_engine("sentinel", each._on_connect)
        each._renewing = each._make_loop("sentinel", each._renew)
        each._seconds_to_stop = 1.0

    def monotonic(self) -> float:
        return self.now

    async def told(self, of: str = "registered fenced cancel_requested") -> list[tuple[Any, ...]]:
        """Return what the worker was told since this was asked last."""
        for _ in range(3):
            await asyncio.sleep(0)
        told, self.heard.told = self.heard.told, []
        return [each for each in told if each[0] in of.split()]

    async def registered(self) -> str:
        """Register; return the holder's name."""
        await self.sentinel._renew()
        [(what, holder)] = await self.told()
        assert what == "registered"
        return str(holder)

    async def lose(self) -> None:
        """Lose the connection now."""
        await self.engine.link.close()
        self.engine.link.lost_at = self.now

    def renewals(self, instead: Callable[..., Awaitable[Any]]) -> None:
        self.engine.renew = instead  # type: ignore[assignment, method-assign]


@pytest.fixture
async def desk(store: PgJobStore, monkeypatch: pytest.MonkeyPatch) -> Desk:
    desk = Desk(store)
    monkeypatch.setattr(sentinel, "time", desk)
    return desk


async def test_a_worker_is_told_its_name_once_and_renews_as_often_as_it_should(desk: Desk) -> None:
    assert "not registered" in (desk.sentinel.trouble() or "")
    holder = await desk.registered()

    assert holder.startswith("w-")
    assert await desk.sentinel._renew() == RENEW_EVERY
    assert await desk.told() == []
    assert desk.sentinel.trouble() is None


async def test_a_worker_that_was_declared_dead_is_stopped_before_it_is_given_a_new_name(desk: Desk) -> None:
    first = await desk.registered()
    await desk.engine.unregister(first)

    await desk.sentinel._renew()

    [(stopped, old, reason), (begins, new)] = await desk.told()
    assert (stopped, old, begins) == ("fenced", first, "registered")
    assert "declared dead" in reason
    assert new != first


async def test_a_worker_that_gave_up_and_was_then_declared_dead_is_stopped_once(desk: Desk) -> None:
    first = await desk.registered()
    desk.now += LEASE
    desk.sentinel._watch_lease()
    await desk.engine.unregister(first)

    await desk.sentinel._renew()

    assert [what for what, *_ in await desk.told()] == ["fenced", "registered"]


async def test_a_worker_that_cannot_register_anew_stays_stopped_and_says_so(desk: Desk) -> None:
    first = await desk.registered()
    await desk.engine.unregister(first)
    register = desk.engine.register

    async def fail(*_args: Any) -> None:
        raise ConnectionResetError

    desk.engine.register = fail  # type: ignore[assignment, method-assign]
    for _ in range(2):
        with pytest.raises(ConnectionResetError):
            await desk.sentinel._renew()
        desk.sentinel._watch_lease()
    assert [what for what, *_ in await desk.told()] == ["fenced"]
    assert desk.sentinel.trouble() is not None

    desk.engine.register = register  # type: ignore[method-assign]
    assert await desk.registered() != first


async def test_who_asked_to_cancel_is_passed_on_and_nobody_else(desk: Desk) -> None:
    holder = await desk.registered()
    job_id = await desk.store.enqueue("t")
    [head] = await desk.engine.lanes(None, None)
    asked = [(head.lane, head.mark._replace(id=head.mark.id - 1))]
    await desk.engine.claim(holder, 1, suspect=False, queues=None, types=None, lanes=asked)
    await desk.sentinel._renew()
    assert await desk.told() == []

    await desk.store.cancel(job_id)
    await desk.sentinel._renew()
    assert await desk.told() == [("cancel_requested", [(job_id, 1)])]


async def test_a_worker_gives_up_before_its_lease_ends_and_once(desk: Desk) -> None:
    holder = await desk.registered()
    desk.now += LEASE - LEASE_MARGIN
    desk.sentinel._watch_lease()
    assert await desk.told() == []

    desk.now += 0.1
    for _ in range(2):
        desk.sentinel._watch_lease()
    [(what, who, reason)] = await desk.told()
    assert (what, who) == ("fenced", holder)
    assert "could not be renewed" in reason
    assert desk.sentinel.trouble() is not None

    await desk.sentinel._renew()  # nobody has judged it
    assert await desk.told() == [("registered", holder)]


async def test_before_there_is_a_registration_there_is_nothing_to_give_up(desk: Desk) -> None:
    desk.now += 10 * LEASE
    desk.sentinel._watch_lease()

    assert await desk.told() == []


async def test_a_renewal_counts_from_when_it_was_sent(desk: Desk) -> None:
    await desk.registered()
    renew = desk.engine.renew

    async def slow(*args: Any, **options: Any) -> Any:
        wanted = await renew(*args, **options)
        desk.now += 2.5
        return wanted

    desk.renewals(slow)
    await desk.sentinel._renew()
    desk.now += LEASE - LEASE_MARGIN - 2.4
    desk.sentinel._watch_lease()

    assert [what for what, *_ in await desk.told()] == ["fenced"]


async def lock_may_be_free(desk: Desk, renewals: int = 1) -> None:
    """Lose the connection, and with it the lock, for so long that others may judge soon."""
    await desk.registered()
    for _ in range(renewals):
        await desk.sentinel._renew()
    desk.now += SILENCE - RECONNECT_SECONDS
    await desk.lose()
    desk.now += RECONNECT_SECONDS + 0.1


@pytest.mark.parametrize("renewals", [0, 1])
async def test_a_worker_whose_lock_may_be_free_gives_up_before_others_may_judge_it(desk: Desk, renewals: int) -> None:
    await lock_may_be_free(desk, renewals)
    await desk.sentinel._watch()

    [(what, _, reason)] = await desk.told()
    assert what == "fenced"
    assert "connection is lost" in reason


async def test_a_worker_with_a_connection_has_its_lock_however_late_the_renewal(desk: Desk) -> None:
    await desk.registered()
    await desk.sentinel._renew()
    desk.now += SILENCE + 1
    desk.sentinel._watch_lease()

    assert await desk.told() == []


async def test_a_worker_that_renewed_a_moment_ago_is_judged_by_nobody_though_its_connection_is_lost(
    desk: Desk,
) -> None:
    await desk.registered()
    await desk.sentinel._renew()
    await desk.lose()
    desk.now += SILENCE
    desk.sentinel._watch_lease()

    assert await desk.told() == []


async def test_a_connection_that_was_lost_a_moment_ago_may_come_back_in_time(desk: Desk) -> None:
    await desk.registered()
    await desk.sentinel._renew()
    desk.now += SILENCE + 0.1
    await desk.lose()
    desk.now += RECONNECT_SECONDS
    desk.sentinel._watch_lease()

    assert await desk.told() == []


async def test_while_the_server_is_down_nobody_judges_and_only_the_lease_counts(desk: Desk) -> None:
    await lock_may_be_free(desk)
    desk.engine.link.last_error = asyncpg.CannotConnectNowError("starting up")  # type: ignore[assignment]
    desk.sentinel._watch_lease()
    assert await desk.told() == []

    desk.now += LEASE
    desk.sentinel._watch_lease()
    assert [what for what, *_ in await desk.told()] == ["fenced"]


async def test_a_worker_that_never_had_a_lock_is_judged_by_its_lease_alone(desk: Desk) -> None:
    desk.sentinel._presence._pooling = lambda: Pooling.TRANSACTION
    await lock_may_be_free(desk)
    desk.sentinel._watch_lease()

    assert await desk.told() == []


async def test_a_lock_that_a_renewal_without_an_answer_may_have_shown_counts(desk: Desk) -> None:
    desk.sentinel._presence._pooling = lambda: Pooling.TRANSACTION
    await desk.registered()
    desk.sentinel._presence._pooling = lambda: None

    async def unanswered(*_args: Any, **_options: Any) -> Any:
        raise TimeoutError

    desk.renewals(unanswered)
    await desk.engine.link.close()
    with pytest.raises(TimeoutError):
        await desk.sentinel._renew()
    await desk.lose()
    desk.now += SILENCE + 0.1
    desk.sentinel._watch_lease()

    assert [what for what, *_ in await desk.told()] == ["fenced"]


async def test_a_lock_that_is_not_shown_any_more_does_not_count(desk: Desk) -> None:
    await desk.registered()
    desk.sentinel._presence._pooling = lambda: Pooling.TRANSACTION
    await desk.engine.link.close()
    await desk.sentinel._renew()
    await desk.lose()
    desk.now += SILENCE + 0.1
    desk.sentinel._watch_lease()

    assert await desk.told() == []


async def test_a_lock_that_could_not_be_had_is_shown_from_the_first_renewal_on_that_has_it(desk: Desk) -> None:
    await desk.registered()
    old, desk.engine.link._conn = desk.engine.link._conn, None
    shown: list[object] = []
    renew = desk.engine.renew

    async def seen(holder: str, lease: timedelta, lock_key: int | None, *, deadline: float) -> Any:
        shown.append(lock_key is not None)
        return await renew(holder, lease, lock_key, deadline=deadline)

    desk.renewals(seen)
    await desk.sentinel._renew()
    await end_session(desk.store, old)
    await desk.sentinel._renew()

    assert shown == [False, True]


async def test_a_request_to_cancel_is_a_reason_to_renew_at_once(desk: Desk) -> None:
    await desk.registered()
    desk.sentinel._presence._on_notification(None, 0, "wake", "cancel")

    assert desk.sentinel._renewing._woken.is_set()


async def test_a_loop_that_stands_still_is_told_of_once(desk: Desk) -> None:
    desk.sentinel._watchdog._ticked -= 2 * BLOCKED_AFTER
    for _ in range(2):
        await desk.sentinel._watch()

    [(_, seconds, stack)] = await desk.told("blocked")
    assert seconds > BLOCKED_AFTER
    assert "test_a_loop_that_stands_still" in stack


async def test_only_the_loss_of_the_connection_in_use_is_a_reason_to_renew_at_once(desk: Desk) -> None:
    await desk.registered()
    desk.sentinel._on_lost(object())
    assert not desk.sentinel._renewing._woken.is_set()

    desk.sentinel._on_lost(desk.engine.link._conn)
    assert desk.sentinel._renewing._woken.is_set()


async def test_a_farewell_takes_the_registration_away_and_one_that_fails_is_said(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    await desk.sentinel._unregister()
    holder = await desk.registered()

    async def fail(_holder: str) -> bool:
        raise ConnectionResetError

    unregister, desk.engine.unregister = desk.engine.unregister, fail  # type: ignore[assignment, method-assign]
    with caplog.at_level(logging.WARNING, "pqlite.worker.sentinel"):
        await desk.sentinel._unregister()
    assert "could not unregister" in caplog.text

    desk.engine.unregister = unregister  # type: ignore[method-assign]
    await desk.sentinel._unregister()
    with pytest.raises(LeaseLost):
        await desk.engine.renew(holder, timedelta(seconds=LEASE), None, deadline=1.0)


async def end_session(store: PgJobStore, conn: Any) -> None:
    """Close a connection; return when the server has freed its advisory locks."""
    pid = conn.get_server_pid()
    await conn.close()
    async with store.connection() as own:
        while await own.fetchval("select exists (select from pg_catalog.pg_locks where pid = $1)", pid):
            await asyncio.sleep(0.01)


class Ears:
    """A session, and what it passes on."""

    def __init__(self, store: PgJobStore, queues: list[str] | None = None) -> None:
        self.heard: list[object] = []
        self.pooling: Pooling | None = None
        self.presence = Presence(
            "wake",
            queues,
            pooling=lambda: self.pooling,
            notified=self.heard.append,
            paused=lambda: self.heard.append("pause"),
            renew=lambda: self.heard.append("cancel"),
        )
        self.engine = store.listening_engine("test", self._on_connect)
        self.link = self.engine.link

    async def _on_connect(self, conn: Any) -> None:
        await self.presence.begin(conn, None)

    def hear(self, payload: str) -> list[object]:
        self.heard.clear()
        self.presence._on_notification(None, 0, "wake", payload)
        return list(self.heard)


async def test_what_is_heard_is_passed_on_if_it_concerns_the_worker(desk: Desk) -> None:
    everybody, mine = Ears(desk.store), Ears(desk.store, ["mine"])

    for ears in (everybody, mine):
        assert ears.hear("cancel") == ["cancel"]
        assert ears.hear("rewind") == [True]
        assert ears.hear("") == [False]
        assert ears.hear('["other", "mine"]') == [False]
    assert everybody.hear('["other"]') == [False]
    assert mine.hear('["other"]') == []


async def test_with_each_connection_the_worker_listens_anew_and_looks_for_what_it_missed(desk: Desk) -> None:
    ears = Ears(desk.store)
    for _ in range(2):
        await ears.link.connect(1.0)
        assert (ears.presence.listens, ears.presence.locked, ears.heard) == (True, True, [True])
        assert ears.presence.lock_key is not None
        ears.heard.clear()
        await ears.link.close()


async def test_a_lock_that_the_old_connection_still_holds_is_taken_once_it_is_free(desk: Desk) -> None:
    ears = Ears(desk.store)
    await ears.link.connect(1.0)
    old, ears.link._conn = ears.link._conn, None
    await ears.link.connect(1.0)
    assert (ears.presence.listens, ears.presence.lock_key) == (True, None)

    await ears.presence.lock(ears.engine)
    assert ears.presence.lock_key is None
    await end_session(desk.store, old)
    await ears.presence.lock(ears.engine)
    assert ears.presence.lock_key is not None


async def test_behind_a_pooler_of_transactions_there_is_neither_lock_nor_ears_and_that_is_said_once(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    ears = Ears(desk.store)
    await ears.link.connect(1.0)
    await ears.link.close()
    ears.pooling = Pooling.TRANSACTION
    with caplog.at_level(logging.WARNING, "pqlite.worker.presence"):
        for _ in range(2):
            ears.heard.clear()
            await ears.link.connect(1.0)
            await ears.presence.lock(ears.engine)
            assert (ears.presence.listens, ears.presence.lock_key, ears.heard) == (False, None, [True])
            await ears.link.close()

    assert caplog.text.count("listen_dsn") == 1


class Conn:
    """A connection of the server at that address; the session's own is seen from outside as `getpeername` says."""

    def __init__(self, host: str) -> None:
        self.host = host

    async def fetchrow(self, _sql: str, _key: int) -> tuple[object, ...]:
        return True, self.host, 5432, "origin"

    async def add_listener(self, _channel: str, _callback: object) -> None:
        pass

    def getpeername(self) -> tuple[str, int]:
        return "10.0.0.5", 5432


async def test_a_refusal_says_that_the_server_is_down_only_if_the_latest_connection_was_direct(desk: Desk) -> None:
    presence = Ears(desk.store).presence
    said = []
    for host in ("10.0.0.5", "10.0.0.7", "10.0.0.5"):
        conn = Conn(host)
        await presence.begin(conn, conn)
        said.append(presence.server_is_down(ConnectionRefusedError()))
    assert said == [True, False, True]

    presence._pooling = lambda: Pooling.TRANSACTION
    await presence.begin(conn, conn)
    assert not presence.server_is_down(ConnectionRefusedError())


async def test_a_role_whose_inserts_wake_nobody_is_told_how_to_change_that(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    class Replica(Conn):
        async def fetchrow(self, _sql: str, _key: int) -> tuple[object, ...]:
            return True, self.host, 5432, "replica"

    conn = Replica("10.0.0.5")
    with caplog.at_level(logging.WARNING, "pqlite.worker.presence"):
        await Ears(desk.store).presence.begin(conn, conn)

    assert "session_replication_role" in caplog.text
