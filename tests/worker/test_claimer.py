"""The claimer, call by call: what it asks for, how long it sleeps, and what it gives back."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, cast

import pytest

from pqlite import IdlePollPolicy, Job, JobStatus, LeaseLost, WorkerError
from pqlite.events import ClaimsReleased
from pqlite.events.announcer import Announcer
from pqlite.store.engine import Claimed, Head, Lane, Mark, Unknown
from pqlite.testing import EventLog
from pqlite.worker import claimer, lanes
from pqlite.worker.claimer import ARM_MARGIN, AUDIT_EVERY, DISCOVERY_SECONDS, MAX_REFUSALS, NOT_ARMED, Claimer
from pqlite.worker.lanes import Lanes, place_of
from pqlite.worker.supervisor import FOREVER
from tests.worker.memory import MemoryEngine, StoreWithEngine, Way


class Watched:
    """The engine's verbs over a connection that can be lost, and what was asked of them."""

    def __init__(self, engine: MemoryEngine) -> None:
        self._engine = engine
        self.link = Way()
        self.claims: list[dict[str, Any]] = []
        self.looks: list[float] = []
        self.armed: list[tuple[timedelta, Sequence[str] | None]] = []
        self.disowned = 0
        self.clock_ahead = timedelta(0)
        self.failure: Exception | None = None
        self.meanwhile: Callable[[], Awaitable[object]] | None = None

    async def claim(self, holder: str, room: int, **asked: Any) -> tuple[list[Claimed], bool]:
        self.claims.append({"room": room, **asked})
        return await self._engine.claim(holder, room, **asked)

    async def lanes(
        self,
        queues: Sequence[str] | None,
        types: Sequence[str] | None,
        known: Iterable[tuple[Lane, Mark]] = (),
        *,
        versions: Mapping[str, int] | None = None,
        deadline: float = 0.0,
    ) -> list[Head]:
        self.looks.append(deadline)
        self._fail()
        heads = await self._engine.lanes(queues, types, known, versions=versions)
        await self._happen()
        return heads

    async def arm(self, duration: timedelta, queues: Sequence[str] | None = None) -> datetime:
        self.armed.append((duration, queues))
        return await self._engine.arm(duration, queues) + self.clock_ahead

    async def disown(self, unknown: Unknown) -> list[int]:
        self.disowned += 1
        self._fail()
        released = await self._engine.disown(unknown)
        await self._happen()
        return released

    async def _happen(self) -> None:
        if self.meanwhile is not None:
            await self.meanwhile()

    def _fail(self) -> None:
        if self.failure is not None:
            raise self.failure


class Streak(IdlePollPolicy):
    """Sleeps one minute, and a minute longer after each claim in a row that found nothing."""

    def next_sleep(self, empty_streak: int) -> float:
        return 60.0 * (empty_streak + 1)


class Desk:
    """A claimer, and whom it calls."""

    def __init__(self, store: StoreWithEngine) -> None:
        self.log = EventLog()
        self.announce = Announcer([self.log])
        self.engine = Watched(store.engine("claimer"))
        self.room, self.prefetch = 5, 0
        self.hears = True
        self.accepted: list[Job] = []
        self.everywhere = self.lost = self.audits = 0
        self.lanes = Lanes()
        self.claimer = Claimer(
            engine=cast(Any, self.engine),
            worker_id="w",
            queues=["default", "other"],
            types=["t", "u"],
            versions={"t": 1},
            idle=Streak(),
            announce=self.announce,
            lanes=self.lanes,
            capacity=lambda _round_trip: (self.room, self.prefetch),
            held=lambda: [job.id for job in self.accepted],
            accept=self.accepted.extend,
            lease_lost=self._lost,
            rescan=self._everywhere,
            listens=lambda: self.hears,
            start_audit=self._audit,
        )
        self.claimer.holder = "me"

    def _lost(self) -> None:
        self.lost += 1

    def _everywhere(self) -> None:
        self.everywhere += 1

    def _audit(self) -> None:
        self.audits += 1

    async def asleep(self) -> float:
        """Go on until it sleeps; return for how long."""
        while not (pause := await self.claimer.step()):
            pass
        return pause


@pytest.fixture
async def store() -> StoreWithEngine:
    store = StoreWithEngine()
    await store.start()
    for holder in ("me", "another"):
        await store.engine("test").register(holder, "worker", None, timedelta(seconds=20), {})
    return store


@pytest.fixture
def desk(store: StoreWithEngine) -> Desk:
    return Desk(store)


async def claim_all(store: StoreWithEngine, holder: str) -> list[int]:
    """Claim whatever is due, by another hand than the claimer's."""
    engine = store.engine("test")
    asked = [place_of(head) for head in await engine.lanes(None, None)]
    claimed, _ = await engine.claim(holder, 100, suspect=False, queues=None, types=None, lanes=asked)
    return [job.id for _, jobs in claimed for job in jobs]


async def suspect(store: StoreWithEngine, job_type: str = "t", queue: str = "default") -> int:
    """Enqueue a job, let a worker that holds it die, and return it."""
    engine = store.engine("test")
    await engine.register("victim", "worker", None, timedelta(seconds=20), {})
    job_id = await store.enqueue(job_type, queue=queue)
    assert await claim_all(store, "victim") == [job_id]
    await engine.unregister("victim")
    assert [taken.id for taken in await engine.reap("nobody")] == [job_id]
    return job_id


async def test_without_a_registration_it_asks_nothing_until_it_is_woken(desk: Desk) -> None:
    desk.claimer.holder = None

    assert await desk.claimer.step() == FOREVER
    assert (desk.engine.link.connected, desk.engine.claims) == (False, [])


async def test_without_room_nothing_is_claimed_and_audits_go_on(store: StoreWithEngine, desk: Desk) -> None:
    await store.enqueue("t")
    desk.room = 0

    assert await desk.claimer.step() == AUDIT_EVERY
    assert (desk.engine.link.connected, desk.engine.claims) == (True, [])


async def test_with_every_slot_taken_jobs_are_claimed_to_wait(store: StoreWithEngine, desk: Desk) -> None:
    for _ in range(3):
        await store.enqueue("t")
    desk.room, desk.prefetch = 0, 2

    assert await desk.claimer.step() == 0.0
    assert len(desk.accepted) == 2


async def test_jobs_of_other_queues_and_types_are_left_alone_be_they_suspects_or_not(
    store: StoreWithEngine, desk: Desk
) -> None:
    for job_type, queue in (("t", "elsewhere"), ("unknown", "default")):
        await suspect(store, job_type, queue)
    mine = [await suspect(store, "u", "other")]
    for job_type, queue in (("t", "elsewhere"), ("unknown", "default")):
        await store.enqueue(job_type, queue=queue)
    mine.append(await store.enqueue("t", queue="other"))

    await desk.asleep()
    assert {job.id for job in desk.accepted} == set(mine)
    assert all(len(asked["lanes"]) <= 1 for asked in desk.engine.claims)


async def test_its_sleep_grows_while_there_is_nothing_and_a_job_or_a_wake_up_makes_it_short_again(
    store: StoreWithEngine, desk: Desk
) -> None:
    assert [await desk.claimer.step() for _ in range(4)] == [0, 60, 120, 180]

    await store.enqueue("t")
    assert [await desk.claimer.step() for _ in range(3)] == [0, 60, 120]

    assert desk.claimer.wake_up()
    assert [await desk.claimer.step() for _ in range(3)] == [0, 60, 120]


@pytest.mark.parametrize(("policy", "sleep"), [(-5.0, 0.0), (float("inf"), FOREVER)])
async def test_no_policy_makes_it_sleep_for_ever_or_less_than_nothing(desk: Desk, policy: float, sleep: float) -> None:
    class Policy(IdlePollPolicy):
        def next_sleep(self, empty_streak: int) -> float:
            return policy

    desk.claimer._idle = Policy()

    assert [await desk.claimer.step() for _ in range(2)] == [0, sleep]
    assert [duration.total_seconds() for duration, _ in desk.engine.armed] == [sleep + ARM_MARGIN] * 2


async def test_it_sleeps_no_longer_than_until_the_next_job_is_due(store: StoreWithEngine, desk: Desk) -> None:
    await store.enqueue("u", run_after=timedelta(seconds=50))
    await store.enqueue("t", run_after=timedelta(seconds=30))

    assert 20 < await desk.asleep() <= 30


async def test_a_job_that_another_worker_was_quicker_to_claim_is_no_reason_to_hurry(
    store: StoreWithEngine, desk: Desk
) -> None:
    await desk.asleep()
    await store.enqueue("t")
    desk.engine.meanwhile = lambda: claim_all(store, "another")

    assert await desk.claimer.step() == 120
    assert desk.accepted == []


async def test_it_asks_to_be_notified_for_longer_than_it_sleeps_and_looks_once_more_after_the_first_time(
    desk: Desk,
) -> None:
    queues = ["default", "other"]
    assert await desk.claimer.step() == 0.0
    assert desk.engine.armed == [(timedelta(seconds=60 + ARM_MARGIN), queues)]

    assert [await desk.claimer.step() for _ in range(2)] == [60, 120]
    assert [duration.total_seconds() for duration, _ in desk.engine.armed[1:]] == [60 + ARM_MARGIN, 120 + ARM_MARGIN]


async def test_who_cannot_hear_neither_asks_to_be_notified_nor_looks_once_more(desk: Desk) -> None:
    desk.hears = False

    assert [await desk.claimer.step() for _ in range(2)] == [60, 120]
    assert [duration for duration, _ in desk.engine.armed] == [NOT_ARMED] * 2


async def test_on_a_new_connection_it_asks_anew_to_be_notified_and_looks_everywhere(desk: Desk) -> None:
    await desk.asleep()
    assert desk.everywhere == 1
    desk.engine.link.connected = False

    assert await desk.claimer.step() == 0.0
    assert desk.everywhere == 2


async def test_wake_ups_that_lead_to_nothing_make_it_deaf_for_a_while_and_those_that_lead_to_jobs_do_not(
    store: StoreWithEngine, desk: Desk
) -> None:
    for _ in range(10):
        await store.enqueue("t")
        assert desk.claimer.wake_up()
        await desk.asleep()
        assert desk.claimer.wake_up()
        await desk.asleep()

    pauses = []
    while desk.claimer.wake_up():
        pauses.append(await desk.asleep())
    armed = len(desk.engine.armed)

    assert pauses[0] >= 60
    assert 0 < pauses[-1] <= 0.1
    await desk.claimer.step()
    assert len(desk.engine.armed) == armed


async def test_a_wake_up_asks_the_lane_that_served_last_before_it_looks_around_but_not_twice_in_a_row(
    store: StoreWithEngine, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claimer, "DISCOVER_EVERY", 0.0)
    await store.enqueue("t")
    await desk.claimer.step()
    looks = []
    for _ in range(4):
        await store.enqueue("t")
        desk.claimer.wake_up()
        before = len(desk.engine.looks)
        await desk.claimer.step()
        looks.append(len(desk.engine.looks) - before)

    assert len(desk.accepted) == 5
    assert looks == [0, 1, 0, 1]
    assert [asked["suspect"] for asked in desk.engine.claims] == [True, False, True, False, True]


async def test_payloads_that_are_too_new_are_neither_claimed_nor_looked_for(store: StoreWithEngine, desk: Desk) -> None:
    await store.enqueue("t", 1)
    await store.enqueue("t", 2, metadata={"payload_version": 2})

    await desk.claimer.step()
    await desk.claimer.step()

    assert [job.payload for job in desk.accepted] == [1]
    assert desk.engine.claims[-1]["lanes"] == []


async def test_while_known_lanes_have_jobs_it_looks_for_others_only_now_and_then(
    store: StoreWithEngine, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.room = 1
    for _ in range(5):
        await store.enqueue("t")
    assert [await desk.claimer.step() for _ in range(3)] == [0, 0, 0]
    assert len(desk.engine.looks) == 1

    await store.enqueue("u", priority=9)
    desk.claimer._next_discovery = 0.0
    await desk.claimer.step()
    assert (len(desk.engine.looks), desk.accepted[-1].job_type) == (2, "u")


async def test_lanes_that_were_not_asked_yet_are_asked_at_once(
    store: StoreWithEngine, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "MAX_LANES", 1)
    await desk.asleep()
    await store.enqueue("u", priority=9)
    desk.engine.meanwhile = lambda: claim_all(store, "another")
    await store.enqueue("t")

    assert [await desk.claimer.step() for _ in range(3)] == [0, 0, 120]


async def test_a_lane_whose_next_job_may_not_wait_is_asked_again_without_a_look(
    store: StoreWithEngine, desk: Desk
) -> None:
    desk.room, desk.prefetch = 1, 5
    for _ in range(3):
        await store.enqueue("t", max_attempts=1)

    for _ in range(3):
        await desk.claimer.step()

    assert len(desk.accepted) == 3
    assert len(desk.engine.looks) == 1
    assert [asked["prefetch"] for asked in desk.engine.claims] == [5, 0, 0]


async def test_a_job_that_may_not_wait_keeps_no_others_from_being_claimed_to_wait(
    store: StoreWithEngine, desk: Desk
) -> None:
    desk.room = 1
    for _ in range(2):
        await store.enqueue("t", max_attempts=1, priority=9)
    await desk.claimer.step()
    await store.enqueue("u")
    desk.claimer._next_discovery = 0.0
    desk.room, desk.prefetch = 0, 5

    await desk.claimer.step()
    assert [job.job_type for job in desk.accepted] == ["t", "u"]


async def test_while_a_suspect_waits_for_room_the_lanes_stay_known_and_nothing_is_asked_in_a_hurry(
    store: StoreWithEngine, desk: Desk
) -> None:
    await suspect(store)
    await store.enqueue("t")
    desk.room, desk.prefetch = 0, 5

    assert await desk.claimer.step() == AUDIT_EVERY
    assert desk.accepted == []

    desk.room = 5
    await desk.claimer.step()
    assert (len(desk.accepted), len(desk.engine.looks)) == (2, 1)


async def test_a_name_that_is_no_more_is_told_and_is_no_error(store: StoreWithEngine, desk: Desk) -> None:
    await store.enqueue("t")
    desk.claimer.holder = "gone"

    assert await desk.claimer.step() == 1.0
    assert desk.lost == 1

    desk.claimer.holder = "me"
    assert await desk.claimer.step() == 0.0
    assert len(desk.accepted) == 1


async def test_a_name_that_is_refused_again_and_again_is_an_error_and_one_that_was_accepted_meanwhile_is_not(
    store: StoreWithEngine, desk: Desk
) -> None:
    await store.enqueue("t")
    for holder in ("gone", "gone too"):
        desk.claimer.holder = holder
        for _ in range(MAX_REFUSALS - 1):
            assert await desk.claimer.step() == 1.0

    desk.claimer.holder = "me"
    await desk.claimer.step()
    await store.enqueue("t")
    desk.claimer.holder = "gone too"
    for _ in range(MAX_REFUSALS - 1):
        assert await desk.claimer.step() == 1.0
    with pytest.raises(WorkerError, match="listen_dsn") as caught:
        await desk.claimer.step()
    assert isinstance(caught.value.__cause__, LeaseLost)


async def test_a_look_that_is_not_answered_is_given_more_time_the_next_time_and_not_for_ever(desk: Desk) -> None:
    desk.engine.failure = TimeoutError()
    for _ in range(6):
        with pytest.raises(TimeoutError):
            await desk.claimer.step()
    desk.engine.failure = None
    await desk.claimer.step()
    await desk.claimer.step()

    assert [seconds / DISCOVERY_SECONDS for seconds in desk.engine.looks] == [1, 2, 4, 8, 12, 12, 12, 1]


@pytest.fixture
def looks_are_dear(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second look in a row is followed by a long rest."""
    monkeypatch.setattr(claimer, "CHEAP", 0.0)
    monkeypatch.setattr(claimer, "RATION", 1e9)
    monkeypatch.setattr(claimer, "DISCOVER_EVERY", 0.0)


@pytest.mark.usefixtures("looks_are_dear")
async def test_when_it_is_too_early_to_look_for_lanes_it_waits_for_that_and_can_be_notified(desk: Desk) -> None:
    await desk.asleep()
    rest = await desk.claimer.step()

    assert len(desk.engine.looks) == 2
    assert 0 < rest <= desk.claimer.new_lanes_within
    assert desk.engine.armed[-1][0].total_seconds() == pytest.approx(rest + ARM_MARGIN)


@pytest.mark.usefixtures("looks_are_dear")
async def test_a_busy_worker_too_leaves_it_alone_after_dear_looks(store: StoreWithEngine, desk: Desk) -> None:
    desk.room = 1
    for _ in range(9):
        await store.enqueue("t")
    for _ in range(6):
        await desk.claimer.step()

    assert (len(desk.accepted), len(desk.engine.looks)) == (6, 2)


async def test_after_a_look_that_took_long_the_next_claim_begins_where_it_found_something(
    store: StoreWithEngine, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "SLOW", 0.0)
    await store.enqueue("t")
    await desk.claimer.step()
    job_id = await store.enqueue("t")
    await desk.claimer.step()

    job = await store.get(job_id)
    [(_, mark)] = desk.engine.claims[-1]["lanes"]
    assert mark == (job.run_after, job.id - 1)


async def test_a_claim_that_took_long_and_got_nothing_leaves_its_lane_without_hope(
    store: StoreWithEngine, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "SLOW", 0.0)
    await store.enqueue("t")
    await desk.claimer.step()
    for _ in range(2):
        desk.claimer.wake_up()
        await desk.claimer.step()

    assert [len(asked["lanes"]) for asked in desk.engine.claims] == [1, 1, 0]


async def test_a_clock_that_was_set_back_is_a_reason_to_look_everywhere(store: StoreWithEngine, desk: Desk) -> None:
    await store.enqueue("t")
    await desk.claimer.step()
    await desk.asleep()
    assert desk.everywhere == 1

    desk.engine.clock_ahead = timedelta(hours=-1)
    await desk.claimer.step()
    assert desk.everywhere == 2


async def test_claims_whose_answers_were_lost_with_the_connection_are_given_back_before_the_next_claim(
    store: StoreWithEngine, desk: Desk
) -> None:
    await desk.asleep()
    await store.enqueue("t")
    [lost] = await claim_all(store, "me")
    desk.engine.link.connected = False

    await desk.claimer.step()

    assert [(job.id, job.claims, job.attempts) for job in desk.accepted] == [(lost, 2, 1)]
    await desk.announce.finish()
    [event] = desk.log.of(ClaimsReleased)
    assert list(event.job_ids) == [lost]


async def test_an_audit_is_not_due_at_every_call_and_is_made_once(
    store: StoreWithEngine, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        await desk.claimer.step()
    assert desk.audits == 0

    desk.claimer._next_audit = 0.0
    for _ in range(3):
        await desk.claimer.step()
    assert desk.audits == 1
    for _ in range(2):
        await desk.claimer.run_pending_audit(cast(Any, desk.engine))
    assert desk.engine.disowned == 1


async def test_an_audit_gives_back_what_was_unknown_when_it_was_due_and_nothing_that_was_claimed_since(
    store: StoreWithEngine, desk: Desk
) -> None:
    await desk.asleep()
    await store.enqueue("t")
    [lost] = await claim_all(store, "me")
    desk.claimer._next_audit, everywhere = 0.0, desk.everywhere
    await desk.claimer.step()
    await store.enqueue("t")
    [later] = await claim_all(store, "me")

    await desk.claimer.run_pending_audit(cast(Any, desk.engine))

    assert [(await store.get(job_id)).status for job_id in (lost, later)] == [JobStatus.READY, JobStatus.RUNNING]
    assert desk.everywhere == everywhere + 1


async def test_an_audit_leaves_alone_what_the_worker_knows_of(store: StoreWithEngine, desk: Desk) -> None:
    job_id = await store.enqueue("t")
    await desk.claimer.step()
    desk.claimer._next_audit, everywhere = 0.0, desk.everywhere
    await desk.claimer.step()

    await desk.claimer.run_pending_audit(cast(Any, desk.engine))

    assert (await store.get(job_id)).status is JobStatus.RUNNING
    assert (desk.engine.disowned, desk.everywhere) == (1, everywhere)


async def test_an_audit_that_was_due_on_a_lost_connection_gives_back_nothing_by_the_clock_of_another_server(
    store: StoreWithEngine, desk: Desk
) -> None:
    await desk.asleep()
    desk.claimer._next_audit, desk.engine.clock_ahead = 0.0, timedelta(seconds=30)
    await desk.claimer.step()
    assert desk.audits == 1

    desk.engine.clock_ahead, desk.engine.link.connected = timedelta(0), False
    job_id = await store.enqueue("t")
    await desk.claimer.step()
    await desk.claimer.run_pending_audit(cast(Any, desk.engine))

    assert [job.id for job in desk.accepted] == [job_id]
    assert (await store.get(job_id)).status is JobStatus.RUNNING


async def test_after_an_audit_that_failed_the_next_covers_the_same_time(
    store: StoreWithEngine, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claimer, "AUDIT_MARGIN", 0.0)
    monkeypatch.setattr(claimer, "AUDIT_EVERY", 0.0)
    await desk.asleep()
    await store.enqueue("t")
    [lost] = await claim_all(store, "me")
    for _ in range(3):
        await desk.claimer.step()
        desk.engine.failure = ConnectionResetError()
        with pytest.raises(ConnectionResetError):
            await desk.claimer.run_pending_audit(cast(Any, desk.engine))
        desk.engine.failure = None

    await desk.claimer.step()
    await desk.claimer.run_pending_audit(cast(Any, desk.engine))

    assert (await store.get(lost)).status is JobStatus.READY


async def test_a_claim_that_commits_only_after_an_audit_is_given_back_by_the_next(
    store: StoreWithEngine, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claimer, "AUDIT_MARGIN", 0.0)
    monkeypatch.setattr(claimer, "AUDIT_EVERY", 0.0)
    await desk.asleep()
    await store.enqueue("t")
    [late] = await claim_all(store, "me")
    desk.accepted.append(await store.get(late))  # as if the first audit could not see it
    for _ in range(2):
        await desk.claimer.step()
        await desk.claimer.run_pending_audit(cast(Any, desk.engine))
        desk.accepted.clear()

    assert (await store.get(late)).status is JobStatus.READY


async def test_an_audit_that_becomes_due_during_another_is_made_after_it(store: StoreWithEngine, desk: Desk) -> None:
    await desk.asleep()
    desk.claimer._next_audit = 0.0
    await desk.claimer.step()

    async def due_again() -> None:
        desk.engine.meanwhile = None
        desk.claimer._next_audit = 0.0
        await desk.claimer.step()

    desk.engine.meanwhile = due_again
    for _ in range(3):
        await desk.claimer.run_pending_audit(cast(Any, desk.engine))

    assert (desk.audits, desk.engine.disowned) == (2, 2)
