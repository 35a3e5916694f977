"""Results of declared handlers are written by their return annotation, as they are read by it."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any, Generic, TypeVar
from uuid import UUID

import pytest
from pydantic import AliasChoices, BaseModel, Field, SecretStr
from typing_extensions import TypedDict

from pqlite import Handlers, JobContext, JobStatus, PayloadError, PgJobStore, Snooze, TypedHandler
from pqlite.codec import decode, encode_clean
from pqlite.handlers.result import Result
from pqlite.testing import drain

T = TypeVar("T")


class Colour(Enum):
    RED = "red"


class Named(BaseModel):
    is_small: bool = Field(alias="isSmall")


class Order(BaseModel):
    total: Decimal
    parts: list[Named] = []


class Page(BaseModel, Generic[T]):
    items: list[T]


@dataclass
class Point:
    x: Decimal
    key: bytes = b""


class Wait(TypedDict):
    wait: timedelta


class Base(BaseModel):
    n: int = 0


class Derived(Base):
    more: str = ""


class Renamed(BaseModel):
    b: bool = Field(False, validation_alias="my-b")


class Excluded(BaseModel):
    b: bool = Field(False, exclude=True)


class OneWay(BaseModel):
    n: int = Field(validation_alias=AliasChoices("n_in", "m_in"))


def returning(annotation: Any) -> TypedHandler[..., Any, ..., Any]:
    async def function() -> Any: ...

    function.__annotations__["return"] = annotation
    return Handlers().job("t")(function)


def stored(annotation: Any, value: Any) -> Any:
    """Return the JSON value that is stored."""
    writer = returning(annotation).result.writer
    return decode(encode_clean(value if writer is None else writer(value), max_bytes=10_000))


AT = datetime(2024, 2, 29, 12, 30, 1, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (bytes, b"\xff"),
        (list[bytes], [b"\xff", b""]),
        (Decimal, Decimal("0.10000000000000000000001")),
        (Order, Order(total=Decimal("1.20"), parts=[Named(isSmall=True)])),
        (Page[Named], Page[Named](items=[Named(isSmall=False)])),
        (Page[bytes], Page[bytes](items=[b"text"])),
        (Point, Point(Decimal("1.5"), b"\xff")),
        (dict[UUID, Point], {UUID(int=1): Point(Decimal(1))}),
        (dict[Colour, int], {Colour.RED: 1}),
        (Wait, {"wait": timedelta(microseconds=1)}),
        (set[datetime], {AT}),
        (Point | bytes | None, b"\xff"),
        (Point | Snooze, Point(Decimal(1))),
        (dict[str, int] | None, {"a": 1}),
        (float, math.inf),
        (type(None), None),
    ],
)
def test_a_result_is_read_as_what_was_returned(annotation: Any, value: Any) -> None:
    read = returning(annotation).result.read(stored(annotation, value))

    assert read == value
    assert type(read) is type(value)


def test_a_result_has_the_fields_of_a_model_that_were_not_set() -> None:
    assert stored(Base, Base()) == {"n": 0}
    assert stored(Renamed, Renamed()) == {"b": False}
    assert returning(Excluded).result.read(stored(Excluded, Excluded())) == Excluded()


def test_a_number_that_is_none_is_read_as_such() -> None:
    assert math.isnan(returning(float).result.read(stored(float, math.nan)))


@pytest.mark.parametrize(
    ("annotation", "value", "sentence"),
    [
        (int, "many", "the annotation int: result: Input should be a valid integer"),
        (int, None, "the annotation int: result: Input should be a valid integer"),
        (list[Order], [{"total": "much"}], r"the annotation list\[.*Order\]: 0.total: "),
        (Point, Point(Decimal(1), 3), "the annotation Point: key: "),  # type: ignore[arg-type]
        (OneWay, OneWay(n_in=1), "the annotation OneWay: n_in: Field required"),  # type: ignore[call-arg]
        (list[SecretStr], [SecretStr("hunter2")], r"result\[0\] is a SecretStr, which JSON hides"),
        (dict[str, Any], {"a": {None: 1}}, "result.a has the key None"),
        (Base, Derived(n=1, more="x"), "the annotation Base, result is of type Derived and would arrive as Base"),
        (list[Base], [Derived()], r"result\[0\] is of type Derived and would arrive as Base"),
        (Renamed, Renamed.model_validate({"my-b": True}), r"result\.b would arrive changed"),
        (Excluded, Excluded(b=True), r"result\.b would arrive changed"),
        (Any, {(1, 2): 3}, r"result has the key \(1, 2\)"),
    ],
)
def test_a_result_that_does_not_fit_is_refused_with_annotation_and_path(
    annotation: Any, value: Any, sentence: str
) -> None:
    with pytest.raises(PayloadError, match=sentence) as refused:
        stored(annotation, value)
    assert "hunter2" not in str(refused.value)


def test_without_an_annotation_that_can_be_written_a_result_is_stored_as_it_is() -> None:
    def unresolvable() -> "Missing": ...  # type: ignore[name-defined]  # noqa: F821

    assert stored(object(), {"a": 1}) == {"a": 1}
    assert Handlers().job("t")(unresolvable).result.writer is None
    assert returning(Any).result.writer is None


handlers = Handlers()


@handlers.job("binary")
async def binary() -> bytes:
    return b"\xff"


@handlers.job("thread")
def thread() -> Point:
    return Point(Decimal("1.5"), b"\xff")


@handlers.job("wrong")
async def wrong() -> list[int]:
    return [1, "many"]  # type: ignore[list-item]


@handlers.job("completing")
async def completing(ctx: JobContext) -> bytes:
    async with ctx.complete(result=b"\xff"):
        pass
    return b""


@handlers.job("completing_wrong")
async def completing_wrong(ctx: JobContext) -> bytes:
    async with ctx.complete(result=3):
        pass
    return b""


@pytest.mark.parametrize(
    ("make", "value"),
    [(binary.new, b"\xff"), (thread.new, Point(Decimal("1.5"), b"\xff")), (completing.new, b"\xff")],
)
async def test_what_is_waited_for_is_what_the_handler_returned_or_completed_with(
    store: PgJobStore, make: Callable[[], Any], value: Any
) -> None:
    job_id = await store.enqueue(make())
    await drain(store, handlers)

    outcome = await store.wait_for(job_id)

    assert (outcome.status, outcome.result) == (JobStatus.DONE, value)


async def test_a_context_made_by_hand_writes_the_result_by_the_annotation(store: PgJobStore) -> None:
    job_id = await store.enqueue(completing.new())
    job = await store.pickup("test")
    assert job is not None

    await completing(JobContext(job, store, "test"))

    assert (await store.wait_for(job_id)).result == b"\xff"


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (wrong.new, "does not fit the annotation list[int]: 1: Input should be a valid integer"),
        (completing_wrong.new, "does not fit the annotation bytes: result: Input should be a valid bytes"),
    ],
)
async def test_an_attempt_whose_result_does_not_fit_has_failed(
    store: PgJobStore, make: Callable[[], Any], sentence: str
) -> None:
    job_id = await store.enqueue(make())
    await drain(store, handlers, raises=False)

    job = await store.get(job_id)

    assert job.status is not JobStatus.DONE
    assert sentence in (job.last_error or "")


def test_a_handler_that_is_annotated_to_return_nothing_may_complete_with_any_result() -> None:
    async def charge(ctx: JobContext) -> None: ...

    assert Result("charge", charge).writer is None
