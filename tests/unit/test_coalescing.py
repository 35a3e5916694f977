"""Rows written together: who shares whose fate. No database: the writes are scripted."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar

import pytest

from pqlite.store import coalescing
from pqlite.store.coalescing import Coalescer, Write

request: ContextVar[str] = ContextVar("request", default="none")


class Refused(Exception):
    """The scripted database does not like a row."""


class Lost(Exception):
    """The scripted connection was lost."""


class Scripted:
    """Where rows are written to: remembers the writes, and holds them up while `open` is cleared."""

    def __init__(self) -> None:
        self.writes: list[list[int]] = []
        self.sessions = self.sessions_open = self.cut_short = 0
        self.contexts: list[str] = []
        self.may_connect, self.may_write, self.may_end = asyncio.Event(), asyncio.Event(), asyncio.Event()
        for allowed in (self.may_connect, self.may_write, self.may_end):
            allowed.set()
        self.connecting, self.writing, self.ending_now = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.errors: dict[int, Exception] = {}
        """By row."""
        self.no_session: Exception | None = None
        self.ending: Exception | None = None

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Write[int, int]]:
        self.connecting.set()
        await self.may_connect.wait()
        if self.no_session is not None:
            raise self.no_session
        self.sessions += 1
        self.sessions_open += 1
        try:
            yield self.write
        finally:
            self.sessions_open -= 1
        self.ending_now.set()
        try:
            await self.may_end.wait()
        except asyncio.CancelledError:
            self.cut_short += 1
            raise
        if self.ending is not None:
            raise self.ending

    async def write(self, rows: list[int]) -> Sequence[int]:
        self.writes.append(rows)
        self.contexts.append(request.get())
        self.writing.set()
        await self.may_write.wait()
        for row in rows:
            if row in self.errors:
                raise self.errors[row]
        return [row * 10 for row in rows]

    def coalescer(self) -> Coalescer[int, int]:
        return Coalescer(self.session, lambda error: isinstance(error, Refused))


@pytest.fixture
async def scripted() -> AsyncIterator[Scripted]:
    yield Scripted()
    assert [task for task in asyncio.all_tasks() if task.get_name() == "pqlite enqueue"] == []


async def outcome(coalescer: Coalescer[int, int], row: int) -> int | Exception:
    try:
        return await coalescer.write(row)
    except Exception as error:
        return error


def start(coalescer: Coalescer[int, int], *rows: int) -> list[asyncio.Task[int | Exception]]:
    return [asyncio.create_task(outcome(coalescer, row)) for row in rows]


async def results(tasks: list[asyncio.Task[int | Exception]]) -> list[int | Exception]:
    async with asyncio.timeout(10):
        return await asyncio.gather(*tasks)


async def test_rows_that_come_while_others_are_written_are_written_together(scripted: Scripted) -> None:
    coalescer = scripted.coalescer()
    scripted.may_write.clear()

    first = start(coalescer, 1)
    await scripted.writing.wait()
    others = start(coalescer, 2, 3, 4)
    await asyncio.sleep(0)
    assert scripted.writes == [[1]]
    scripted.may_write.set()

    assert await results(first + others) == [10, 20, 30, 40]
    assert scripted.writes == [[1], [2, 3, 4]]
    await coalescer.idle()


async def test_a_write_takes_five_hundred_rows_at_most_in_the_order_they_came(scripted: Scripted) -> None:
    coalescer = scripted.coalescer()

    tasks = start(coalescer, *range(1200))

    assert await results(tasks) == [row * 10 for row in range(1200)]
    assert [len(rows) for rows in scripted.writes] == [500, 500, 200]
    assert [row for rows in scripted.writes for row in rows] == list(range(1200))
    await coalescer.idle()


async def test_one_session_serves_whoever_goes_on_writing_and_is_given_back_when_nobody_does(
    scripted: Scripted,
) -> None:
    coalescer = scripted.coalescer()

    for row in range(50):
        await asyncio.wait_for(coalescer.write(row), 10)
    await coalescer.idle()

    assert (scripted.sessions, scripted.sessions_open) == (1, 0)
    await coalescer.write(51)
    await coalescer.idle()
    assert (scripted.sessions, scripted.sessions_open) == (2, 0)


# Errors


async def test_a_refused_row_fails_its_own_caller_only(scripted: Scripted) -> None:
    coalescer = scripted.coalescer()
    refusals = {2: Refused(2), 4: Refused(4)}
    scripted.errors.update(refusals)

    assert await results(start(coalescer, 1, 2, 3, 4)) == [10, refusals[2], 30, refusals[4]]

    assert scripted.writes == [[1, 2, 3, 4], [1], [2], [3], [4]]
    await coalescer.idle()
    assert scripted.sessions == 1


async def test_a_refused_row_that_is_alone_is_not_written_twice(scripted: Scripted) -> None:
    coalescer = scripted.coalescer()
    scripted.errors[1] = Refused()

    assert await results(start(coalescer, 1)) == [scripted.errors[1]]

    assert scripted.writes == [[1]]
    await coalescer.idle()


async def test_any_other_error_goes_to_everybody_in_that_write_and_nothing_is_repeated(scripted: Scripted) -> None:
    coalescer = scripted.coalescer()
    lost = scripted.errors[2] = Lost()

    assert await results(start(coalescer, 1, 2, 3)) == [lost] * 3
    assert await coalescer.write(4) == 40

    assert scripted.writes == [[1, 2, 3], [4]]
    await coalescer.idle()
    assert scripted.sessions == 2  # the first was not trusted any more


async def test_a_connection_that_is_lost_while_rows_are_written_one_by_one_fails_the_rest_unwritten(
    scripted: Scripted,
) -> None:
    coalescer = scripted.coalescer()
    refused, lost = Refused(), Lost()
    scripted.errors.update({1: refused, 3: lost})

    assert await results(start(coalescer, 1, 2, 3, 4)) == [refused, 20, lost, lost]

    assert scripted.writes == [[1, 2, 3, 4], [1], [2], [3]]
    await coalescer.idle()


async def test_a_session_that_cannot_be_opened_fails_all_who_wait_for_it_and_the_next_call_tries_again(
    scripted: Scripted,
) -> None:
    coalescer = scripted.coalescer()
    away = scripted.no_session = OSError("no way")

    assert await results(start(coalescer, 1, 2, 3)) == [away] * 3
    scripted.no_session = None

    assert await coalescer.write(4) == 40
    assert scripted.writes == [[4]]
    await coalescer.idle()


async def test_a_session_that_fails_to_end_concerns_neither_who_was_answered_nor_who_comes_meanwhile(
    scripted: Scripted,
) -> None:
    coalescer = scripted.coalescer()
    scripted.ending = Lost()
    scripted.may_end.clear()
    assert await coalescer.write(1) == 10
    await scripted.ending_now.wait()

    scripted.may_connect.clear()
    meanwhile = start(coalescer, 2)
    await asyncio.sleep(0)
    scripted.may_end.set()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    scripted.may_connect.set()

    assert await results(meanwhile) == [20]
    await coalescer.idle()


async def test_who_comes_while_a_session_ends_does_not_wait_for_that(scripted: Scripted) -> None:
    coalescer = scripted.coalescer()
    scripted.may_end.clear()
    assert await coalescer.write(1) == 10
    await scripted.ending_now.wait()

    async with asyncio.timeout(10):
        assert await coalescer.write(2) == 20

    scripted.may_end.set()
    await coalescer.idle()


# Cancellation


async def test_a_row_whose_caller_is_cancelled_before_it_is_sent_is_left_out(scripted: Scripted) -> None:
    coalescer = scripted.coalescer()
    scripted.may_write.clear()
    first = start(coalescer, 1)
    await scripted.writing.wait()

    others = start(coalescer, 2, 3)
    await asyncio.sleep(0)
    others[0].cancel()
    scripted.may_write.set()

    assert await results([first[0], others[1]]) == [10, 30]
    assert scripted.writes == [[1], [3]]
    assert others[0].cancelled()
    await coalescer.idle()


async def test_a_caller_who_is_cancelled_while_its_row_is_written_takes_nobody_with_it(scripted: Scripted) -> None:
    coalescer = scripted.coalescer()
    scripted.may_write.clear()
    tasks = start(coalescer, 1, 2, 3)
    await scripted.writing.wait()

    tasks[0].cancel()  # the one who came first
    scripted.may_write.set()

    assert await results(tasks[1:]) == [20, 30]
    assert scripted.writes == [[1, 2, 3]]
    await coalescer.idle()


async def test_a_caller_who_leaves_while_rows_are_written_one_by_one_has_its_own_left_out(scripted: Scripted) -> None:
    coalescer = scripted.coalescer()
    scripted.errors[1] = Refused()
    scripted.may_write.clear()
    tasks = start(coalescer, 1, 2, 3)
    await scripted.writing.wait()

    tasks[1].cancel()
    scripted.may_write.set()

    assert await results([tasks[0], tasks[2]]) == [scripted.errors[1], 30]
    assert scripted.writes == [[1, 2, 3], [1], [3]]
    await coalescer.idle()


async def test_a_write_that_hangs_is_given_up_when_the_last_of_its_callers_has_left(scripted: Scripted) -> None:
    coalescer = scripted.coalescer()
    scripted.may_write.clear()
    tasks = start(coalescer, 1, 2)
    await scripted.writing.wait()

    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    await coalescer.idle()

    assert scripted.sessions_open == 0
    scripted.may_write.set()
    assert await coalescer.write(3) == 30
    await coalescer.idle()


async def test_nobody_waits_for_a_connection_any_more_when_every_caller_has_left(scripted: Scripted) -> None:
    coalescer = scripted.coalescer()
    scripted.may_connect.clear()
    tasks = start(coalescer, 1, 2)
    await scripted.connecting.wait()

    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    await coalescer.idle()

    assert (scripted.sessions, scripted.writes) == (0, [])
    scripted.may_connect.set()
    assert await coalescer.write(3) == 30
    assert scripted.writes == [[3]]
    await coalescer.idle()


async def test_a_caller_who_leaves_does_not_cut_the_end_of_another_session_short(scripted: Scripted) -> None:
    coalescer = scripted.coalescer()
    scripted.may_end.clear()
    assert await coalescer.write(1) == 10
    await scripted.ending_now.wait()
    scripted.may_connect.clear()

    [leaving] = start(coalescer, 2)
    await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.wait([leaving])
    scripted.may_end.set()
    await coalescer.idle()

    assert scripted.cut_short == 0


async def test_a_timeout_of_one_caller_is_not_the_others(scripted: Scripted) -> None:
    coalescer = scripted.coalescer()
    scripted.may_write.clear()

    other = start(coalescer, 1)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await coalescer.write(2)
    scripted.may_write.set()

    assert await results(other) == [10]
    await coalescer.idle()


async def test_a_writer_that_somebody_cancels_leaves_no_caller_hanging(scripted: Scripted) -> None:
    coalescer = scripted.coalescer()
    scripted.may_write.clear()
    sent = start(coalescer, 1)
    await scripted.writing.wait()
    pending = start(coalescer, 2)
    await asyncio.sleep(0)

    for task in asyncio.all_tasks():
        if task.get_name() == "pqlite enqueue":
            task.cancel()
    await asyncio.wait(sent)
    scripted.may_write.set()

    assert sent[0].cancelled()
    assert await results(pending) == [20]
    await coalescer.idle()


async def test_the_first_callers_context_is_not_the_writers(scripted: Scripted) -> None:
    coalescer = scripted.coalescer()
    request.set("of the first")

    await coalescer.write(1)

    assert scripted.contexts == ["none"]
    await coalescer.idle()


# Time


async def test_a_write_that_hangs_holds_up_others_for_its_term_only(
    scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coalescing, "TERM_SECONDS", 0.01)
    coalescer = scripted.coalescer()
    scripted.may_write.clear()
    hanging = start(coalescer, 1)
    await scripted.writing.wait()
    scripted.writing.clear()

    later = start(coalescer, 2)
    await scripted.writing.wait()
    assert (scripted.writes, scripted.sessions_open) == ([[1], [2]], 2)
    scripted.may_write.set()

    assert await results(hanging + later) == [10, 20]
    await coalescer.idle()


async def test_a_session_is_given_back_after_its_term_although_there_is_more_to_write(
    scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coalescing, "TERM_SECONDS", 0.01)
    coalescer = scripted.coalescer()

    async with asyncio.timeout(10):
        row = 0
        while scripted.sessions < 3:
            row += 1
            assert await coalescer.write(row) == row * 10
    await coalescer.idle()

    assert [rows for rows in scripted.writes if len(rows) != 1] == []
    assert scripted.sessions_open == 0


# The end


async def test_idle_waits_for_what_is_pending(scripted: Scripted) -> None:
    coalescer = scripted.coalescer()
    scripted.may_write.clear()
    tasks = start(coalescer, 1)
    await scripted.writing.wait()
    idle = asyncio.create_task(coalescer.idle())
    tasks += start(coalescer, 2)
    await asyncio.sleep(0)

    scripted.may_write.set()
    await idle

    assert scripted.writes == [[1], [2]]
    assert await results(tasks) == [10, 20]


async def test_abort_answers_everybody_with_its_error_and_leaves_no_task(scripted: Scripted) -> None:
    coalescer = scripted.coalescer()
    scripted.may_write.clear()
    tasks = start(coalescer, 1)
    await scripted.writing.wait()
    tasks += start(coalescer, 2)
    await asyncio.sleep(0)

    closed = Lost("closed")
    coalescer.abort(closed)

    assert await results(tasks) == [closed] * 2
    await coalescer.idle()
    assert scripted.writes == [[1]]


async def test_a_write_carries_no_more_than_its_length_allows_but_always_one_row(
    scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coalescing, "MOST_CHARACTERS", 10)
    coalescer: Coalescer[int, int] = Coalescer(scripted.session, lambda error: False, size=lambda row: row)

    tasks = start(coalescer, 4, 6, 5, 50, 1)

    assert await results(tasks) == [40, 60, 50, 500, 10]
    assert scripted.writes == [[4, 6], [5], [50], [1]]


async def test_without_a_term_a_session_serves_one_write(scripted: Scripted) -> None:
    coalescer: Coalescer[int, int] = Coalescer(scripted.session, lambda error: False, term=0)
    scripted.may_write.clear()
    first = start(coalescer, 1)
    await scripted.writing.wait()
    others = start(coalescer, 2, 3)
    await asyncio.sleep(0)
    scripted.may_write.set()

    assert await results(first + others) == [10, 20, 30]
    assert scripted.writes == [[1], [2, 3]]
    assert scripted.sessions == 2
    await coalescer.idle()
