"""Arguments become a payload, and the payload the same arguments; what does not fit is refused with its name."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, IntEnum
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, Json, RootModel, SecretStr, field_serializer
from pydantic_core import from_json, to_json
from typing_extensions import TypedDict

from pqlite import Fail, Handlers, Job, JobStatus, NewJob, PayloadError, Snooze, TypedHandler
from pqlite.codec import encode


class Colour(Enum):
    RED = "red"


class Size(IntEnum):
    LARGE = 3


class Line(BaseModel):
    sku: UUID
    price: Decimal
    colours: set[Colour] = set()
    id: UUID = Field(default_factory=uuid4)


class Strict(BaseModel):
    model_config = ConfigDict(strict=True)
    at: datetime
    kinds: frozenset[Size]


class Named(BaseModel):
    model_config = ConfigDict(extra="forbid")
    is_small: bool = Field(alias="isSmall")


class Tree(BaseModel):
    children: list[Tree] = []


@dataclass
class Address:
    street: str
    since: date
    key: bytes = b""


class Point(NamedTuple):
    x: int
    y: float


class Options(TypedDict, total=False):
    wait: timedelta


Numbers = RootModel[list[int]]


def handler_of(annotation: Any, **options: Any) -> TypedHandler[..., Any, ..., Any]:
    def function(value: Any) -> None: ...

    function.__annotations__["value"] = annotation
    return Handlers().job("t", **options)(function)


def stored(job: NewJob) -> Job:
    """Return the job as a worker would get it."""
    now = datetime.now(UTC)
    metadata = {"payload_version": job.version} if job.version > 1 else {}
    payload = from_json(to_json(job.payload))
    return Job(
        *(1, job.job_type, payload, "default", 0, now, 1, 5, 1, 0, None, None, None, [], metadata, now, now),
        *("me", JobStatus.RUNNING),
    )


AT = datetime(2024, 2, 29, 12, 30, 1, 5, tzinfo=UTC)
ID = UUID("12345678123456781234567812345678")


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (UUID, ID),
        (datetime, AT),
        (datetime, AT.replace(tzinfo=None)),
        (date, AT.date()),
        (time, AT.time()),
        (timedelta, timedelta(days=-400, microseconds=1)),
        (Decimal, Decimal("0.10000000000000000000001")),
        (Colour, Colour.RED),
        (Size, Size.LARGE),
        (bytes, b"\x00\xff\xfe text"),
        (list[bytes], [b"\xff", b""]),
        (set[UUID], {ID}),
        (frozenset[Size], frozenset({Size.LARGE})),
        (tuple[int, str, date], (1, "a", AT.date())),
        (dict[int, datetime], {7: AT}),
        (dict[Colour, set[int]], {Colour.RED: {1, 2}}),
        (Address, Address("Main", AT.date(), b"\xff")),
        (list[Address], [Address("Main", AT.date(), b"\xff")]),
        (Point, Point(1, 2.5)),
        (Options, {"wait": timedelta(minutes=1)}),
        (Line | None, None),
        (Line | None, Line(sku=ID, price=Decimal("1.20"), colours={Colour.RED})),
        (list[Line], [Line(sku=ID, price=Decimal("1.20"))]),
        (dict[str, Strict], {"a": Strict(at=AT, kinds=frozenset({Size.LARGE}))}),
        (Literal["a", 3], 3),
        (Path, Path("a/b")),
        (Annotated[int, Field(gt=3)], 4),
        (int | str, "7"),
        (float, 0.1),
        (Any, {"a": [1, None, "ü"]}),
        (str, "**********"),
        # The only argument and a model: it is the payload.
        (Line, Line(sku=ID, price=Decimal("1.20"))),
        (Strict, Strict(at=AT, kinds=frozenset({Size.LARGE}))),
        (Named, Named(isSmall=True)),
        (Tree, Tree(children=[Tree(), Tree(children=[Tree()])])),
        (Numbers, Numbers([1, 2])),
    ],
)
def test_an_argument_arrives_as_it_was_given(annotation: Any, value: Any) -> None:
    handler = handler_of(annotation)

    arguments = handler.payload.arguments(stored(handler.new(value)))

    assert arguments == {"value": value}
    assert type(arguments["value"]) is type(value)


@given(
    text=st.text(), data=st.binary(), when=st.datetimes(timezones=st.just(UTC)), wait=st.timedeltas(),
    amount=st.decimals(allow_nan=False, allow_infinity=False), keys=st.sets(st.uuids()),
)  # fmt: skip
def test_any_arguments_arrive_as_they_were_given(**values: Any) -> None:
    assert many_kinds.payload.arguments(stored(many_kinds.new(**values))) == values


def many_kinds_function(
    text: str, data: bytes, when: datetime, wait: timedelta, amount: Decimal, keys: set[UUID]
) -> None: ...


many_kinds = Handlers().job("many_kinds")(many_kinds_function)


def test_a_model_that_is_the_only_argument_is_the_payload_and_others_are_parts_of_an_object() -> None:
    handlers = Handlers()

    @handlers.job("one")
    def one(line: Named) -> None: ...

    @handlers.job("two")
    def two(line: Named, n: int) -> None: ...

    assert one.new(Named(isSmall=True)).payload == {"isSmall": True}
    assert one.new(line=Named(isSmall=True)).payload == {"isSmall": True}
    assert two.new(Named(isSmall=True), 3).payload == {"line": {"isSmall": True}, "n": 3}


def test_arguments_that_are_left_out_stay_out_and_default_when_the_job_runs() -> None:
    made: list[str] = []

    def at_enqueue() -> str:
        made.append("x")
        return "x"

    class Stamped(BaseModel):
        stamp: str = Field(default_factory=at_enqueue)

    def function(a: int, b: int = 2, stamped: Any = None) -> None: ...

    function.__annotations__["stamped"] = Stamped
    handler = Handlers().job("t")(function)

    assert handler.new(1).payload == {"a": 1}
    assert handler.payload.arguments(stored(handler.new(1))) == {"a": 1}
    # What a model makes by itself is made once: the payload has it.
    assert handler.new(1, stamped=Stamped()).payload == {"a": 1, "stamped": {"stamp": "x"}}
    assert made == ["x"]


@pytest.mark.parametrize("name", ["self", "json", "schema", "copy", "model_config", "validate", "model_dump"])
def test_an_argument_may_have_any_name(name: str) -> None:
    namespace: dict[str, Any] = {}
    exec(f"def function({name}: int, other: int): ...", namespace)
    handler = Handlers().job("t")(namespace["function"])

    assert handler.payload.arguments(stored(handler.new(**{name: 1, "other": 2}))) == {name: 1, "other": 2}


def sample(to: str, copies: Annotated[int, Field(gt=0)] = 1, *, order: Line | None = None) -> None: ...


@pytest.mark.parametrize(
    ("args", "kwargs", "sentence"),
    [
        ((), {}, "'sample' do not fit: to: Field required"),
        ((7,), {}, "to: Input should be a valid string"),
        (("a", 0), {}, "copies: Input should be greater than 0"),
        ((), {"copies": "x"}, "to: Field required; copies: Input should be a valid integer"),
        (("a", 1, 2), {}, "'sample' takes 2 arguments by position, not 3"),
        (("a",), {"to": "b"}, "'sample' was given its argument 'to' twice"),
        (("a",), {"copy": 1}, "copy: Extra inputs are not permitted"),
        (("a",), {"order": {"sku": ID, "price": "much"}}, "order.price: Input should be a valid decimal"),
        (
            ("a",),
            {"order": Line.model_construct(sku=3, price=Decimal(1))},
            "read back from JSON: order.sku: UUID input",
        ),
        (("a",), {"order": Line.model_construct(sku=ID, price=print)}, "cannot be stored as JSON: Unable to serialize"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_by_name(args: Any, kwargs: Any, sentence: str) -> None:
    handler = Handlers().job("sample")(sample)

    with pytest.raises(PayloadError, match=sentence):
        handler.new(*args, **kwargs)


class Login(BaseModel):
    password: int


@pytest.mark.parametrize(
    ("annotation", "value"),
    [(int, "hunter2"), (Login, Login.model_construct(password="hunter2"))],  # type: ignore[arg-type]
)
def test_a_refusal_does_not_repeat_the_values(annotation: Any, value: Any) -> None:
    with pytest.raises(PayloadError) as refused:
        handler_of(annotation).new(value)

    assert "hunter2" not in str(refused.value)
    assert refused.value.__cause__ is None


class OneWay(BaseModel):
    n: int = Field(validation_alias=AliasChoices("n_in", "m_in"), serialization_alias="n_out")


class Lossy(BaseModel):
    n: int

    @field_serializer("n")
    def as_words(self, n: int) -> str:
        return "many"


@pytest.mark.parametrize("value", [OneWay.model_validate({"n_in": 1}), Lossy(n=1)])
def test_what_a_worker_could_not_read_back_is_refused_when_the_job_is_made(value: BaseModel) -> None:
    with pytest.raises(PayloadError, match="cannot be read back from JSON: n"):
        handler_of(type(value)).new(value)


def test_a_secret_that_would_arrive_masked_is_refused() -> None:
    with pytest.raises(PayloadError, match=r"value\[0\] is a SecretStr, which JSON hides"):
        handler_of(list[SecretStr]).new([SecretStr("x")])


@pytest.mark.parametrize("annotation", [float, float | None, Any, list[Any], dict[str, float]])
def test_what_json_has_no_number_for_is_left_to_the_store_to_refuse(annotation: Any) -> None:
    value: Any = {list[Any]: [math.nan], dict[str, float]: {"a": math.nan}}.get(annotation, math.nan)
    payload = handler_of(annotation).new(value).payload

    with pytest.raises(PayloadError, match=r"payload\.value.* is nan, which JSON cannot express"):
        encode(payload, what="payload", max_bytes=1000)


@pytest.mark.parametrize(
    ("payload", "sentence"),
    [
        ({}, "The payload does not fit the handler of 'sample': to: Field required"),
        ({"to": "a", "copies": "x"}, "copies: Input should be a valid integer"),
        ({"to": "a", "more": 1}, "more: Extra inputs are not permitted"),
        ([1], "payload: "),
        (None, "payload: "),
        ("text", "payload: "),
    ],
)
def test_a_payload_that_does_not_fit_fails_the_job_with_a_sentence(payload: Any, sentence: str) -> None:
    handler = Handlers().job("sample")(sample)

    with pytest.raises(Fail, match=sentence):
        handler.payload.arguments(stored(NewJob(job_type="sample", payload=payload)))


def renamed(payload: dict[str, Any]) -> dict[str, Any]:
    payload["recipient"] = payload.pop("to")
    return payload


def versioned(recipient: str, copies: int, urgent: bool = False) -> None: ...


def test_old_payloads_are_upgraded_step_by_step_and_stay_as_they_were() -> None:
    handler = Handlers().job("t", version=4, upgrade={1: renamed, 3: lambda old: {**old, "copies": 1}})(versioned)
    first = stored(NewJob(job_type="t", payload={"to": "ada"}))
    third = stored(NewJob(job_type="t", payload={"recipient": "ada"}, version=3))

    assert handler.payload.arguments(first) == {"recipient": "ada", "copies": 1}
    assert handler.payload.arguments(third) == {"recipient": "ada", "copies": 1}
    assert first.payload == {"to": "ada"}
    assert handler.new("ada", 2).version == 4


def test_a_payload_that_no_upgrade_makes_fit_fails_the_job() -> None:
    handler = Handlers().job("t", version=2)(versioned)

    with pytest.raises(Fail, match="does not fit"):
        handler.payload.arguments(stored(NewJob(job_type="t", payload={"to": "ada"})))


def test_a_payload_of_a_newer_version_is_left_to_newer_workers() -> None:
    handler = Handlers().job("t", version=2)(versioned)

    with pytest.raises(Snooze, match=r"version 3; this worker knows 't' up to version 2") as left:
        handler.payload.arguments(stored(NewJob(job_type="t", payload={"whatever": 1}, version=3)))
    assert left.value.delay == 30.0


@pytest.mark.parametrize("version", ["2", 0, True, None, 1.0])
def test_a_version_that_is_none_fails_the_job(version: Any) -> None:
    handler = Handlers().job("t", version=2)(versioned)
    job = stored(NewJob(job_type="t", payload={"recipient": "ada", "copies": 1}))
    job.metadata = {"payload_version": version}

    with pytest.raises(Fail, match="which is no version"):
        handler.payload.arguments(job)


def test_json_within_json_stays_the_text_that_it_was() -> None:
    declared = handler_of(Json[list[int]])
    job = declared.new("[1, 2]")

    assert job.payload == {"value": "[1,2]"}
    assert declared.payload.arguments(stored(job)) == {"value": [1, 2]}
