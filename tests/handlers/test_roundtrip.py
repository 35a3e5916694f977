"""What a declared handler receives equals what its job was given, or the job is refused with the path."""

import json
import math
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any, Literal
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import (
    AliasChoices,
    AliasPath,
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    SerializeAsAny,
    computed_field,
    field_serializer,
)

from pqlite import PayloadError
from pqlite.handlers.exact import Uncertain, writer_of
from pqlite.handlers.roundtrip import difference
from tests.handlers.test_arguments import handler_of, stored


class Patch(BaseModel):
    name: str | None = None
    email: str | None = None
    ids: list[int] = []
    groups: list[int] = Field(default_factory=list)


class Nested(BaseModel):
    patches: dict[str, list[Patch]] = {}
    inner: Patch = Field(default_factory=Patch)
    number: UUID = Field(default_factory=uuid4)


class Validated(BaseModel):
    b: bool = Field(False, validation_alias="my-b")


class Serialized(BaseModel):
    b: bool = Field(False, serialization_alias="my-b")


class Choices(BaseModel):
    b: bool = Field(False, validation_alias=AliasChoices("b-in", "c-in"))


class Deep(BaseModel):
    b: bool = Field(False, validation_alias=AliasPath("in", 0))


class Excluded(BaseModel):
    b: bool = Field(False, exclude=True)


class Base(BaseModel):
    n: int = 0


class Derived(Base):
    more: str = ""


class Rounded(BaseModel):
    n: float = 0.0

    @field_serializer("n")
    def rounded(self, n: float) -> float:
        return round(n)


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")


class Loose(BaseModel):
    data: Any


class Area(BaseModel):
    width: int

    @computed_field  # type: ignore[prop-decorator]
    @property
    def doubled(self) -> int:
        return 2 * self.width


class Hidden(BaseModel):
    _n: int = PrivateAttr(default=0)


@dataclass
class Box:
    content: Any


def arrived(annotation: Any, value: Any) -> Any:
    handler = handler_of(annotation)
    return handler.payload.arguments(stored(handler.new(value)))["value"]


@pytest.mark.parametrize("nest", [lambda model: model, lambda model: {"a": [model]}], ids=["whole", "nested"])
def test_the_handler_sees_which_fields_of_a_model_were_set(nest: Any) -> None:
    value = nest(Patch(name="a"))
    annotation = Patch if isinstance(value, Patch) else dict[str, list[Patch]]

    arriving = arrived(annotation, value)

    patch = arriving if isinstance(arriving, Patch) else arriving["a"][0]
    assert arriving == value
    assert patch.model_dump(exclude_unset=True) == {"name": "a"}


def test_a_default_that_was_changed_in_place_arrives() -> None:
    value = Patch(name="a")
    value.ids.append(7)
    value.groups.append(8)

    arriving = arrived(Patch, value)

    assert arriving == value
    assert arriving.email is None
    assert arriving.model_fields_set == {"name", "ids", "groups"}


def test_models_in_models_keep_what_was_set_and_what_a_function_has_made() -> None:
    value = Nested(patches={"a": [Patch(email=None), Patch()]})
    value.inner.ids.append(7)

    arriving = arrived(Nested, value)

    assert arriving == value
    assert [patch.model_fields_set for patch in arriving.patches["a"]] == [{"email"}, set()]
    assert arriving.inner.model_dump(exclude_unset=True) == {"ids": [7]}


def with_private() -> Hidden:
    hidden = Hidden()
    hidden._n = 7
    return hidden


@pytest.mark.parametrize(
    ("annotation", "value", "sentence"),
    [
        (Validated, Validated.model_validate({"my-b": True}), r"value\.b would arrive changed"),
        (Serialized, Serialized(b=True), r"value\.b would arrive changed"),
        (Choices, Choices.model_validate({"b-in": True}), r"value\.b would arrive changed"),
        (Deep, Deep.model_validate({"in": [True]}), r"value\.b would arrive changed"),
        (list[Excluded], [Excluded(), Excluded(b=True)], r"value\[1\]\.b would arrive changed"),
        (Excluded, Excluded(b=False), r"value\.b is set and would arrive as not set"),
        (Base, Derived(n=1, more="x"), "value is of type Derived and would arrive as Base"),
        (dict[str, Base], {"a": Derived()}, r"value\.a is of type Derived and would arrive as Base"),
        (SerializeAsAny[Base], Derived(), "value is of type Derived and would arrive as Base"),
        (Rounded, Rounded(n=1.4), r"value\.n would arrive changed"),
        (Open, Open(at=date(2024, 1, 1)), r"value\.at is of type date and would arrive as str"),  # type: ignore[call-arg]
        (Hidden, with_private(), r"value\._n would arrive changed"),
        (Any, {"a": UUID(int=1)}, r"value\.a is of type UUID and would arrive as str"),
        (Any, (1, 2), "value is of type tuple and would arrive as list"),
        (Any, {"a": {None: 1}}, r"value\.a has a key of type NoneType that would not arrive"),
        (Loose, Loose(data={"a": {None: 1}}), r"value\.data\.a has a key of type NoneType that would not arrive"),
        (list[Loose], [Loose(data={1: 2, "1": 2})], r"value\[0\]\.data has a key of type int that would not arrive"),
        (Box, Box(Decimal(1)), r"value\.content is of type Decimal and would arrive as str"),
        (OrderedDict[str, int], OrderedDict(b=1, a=2), "value is an OrderedDict"),
    ],
)
def test_what_would_arrive_changed_is_refused_with_its_path(annotation: Any, value: Any, sentence: str) -> None:
    with pytest.raises(PayloadError, match=sentence):
        handler_of(annotation).new(value)


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (Validated, Validated()),
        (Excluded, Excluded()),
        (Base | Derived, Derived(more="x")),
        (Open, Open(a=[1, {"b": None}])),  # type: ignore[call-arg]
        (list[Area], [Area(width=2)]),
        (OrderedDict[str, int], OrderedDict(a=1, b=2, aa=0)),
        # Both passes of this hour through the clock are instants of their own.
        (datetime, datetime(2024, 10, 27, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"), fold=1)),
    ],
)
def test_what_arrives_as_it_is_is_not_refused(annotation: Any, value: Any) -> None:
    assert difference(value, arrived(annotation, value), "value") is None


class Plain:
    def __init__(self, n: int) -> None:
        self.n = n


def test_nan_equals_itself_and_objects_without_equality_are_compared_by_attributes() -> None:
    assert difference([math.nan], [float("nan")], "a") is None
    assert difference([math.nan], [1.0], "a") == "a[0] would arrive changed"
    assert difference(Plain(1), Plain(1), "a") is None
    assert difference(Plain(1), Plain(2), "a") == "a would arrive changed"
    assert difference(True, 1, "a") == "a is of type bool and would arrive as int"


patches = st.builds(
    lambda chosen, appended: (lambda patch: (patch.ids.extend(appended), patch)[1])(Patch(**chosen)),
    st.fixed_dictionaries(
        {}, optional={"name": st.none() | st.just("n"), "email": st.none() | st.text("ab"), "groups": st.just([])}
    ),
    st.lists(st.integers(0, 9), max_size=2),
)


class Colour(Enum):
    RED = "red"


class Item(BaseModel):
    at: datetime
    day: date
    price: Decimal = Decimal(1)
    rate: float = 0.5
    colours: list[Colour] = []
    size: Literal["s", "l"] = "s"
    by_id: dict[str, Patch] = {}
    patch: Patch = Field(default_factory=Patch)
    number: UUID = Field(default_factory=uuid4)
    tag: str | None = None


finite = st.decimals(allow_nan=False, allow_infinity=False)
texts = st.text(st.characters(codec="utf-8"), max_size=5)
items = st.builds(
    lambda at, day, chosen: Item(at=at, day=day, **chosen),
    st.datetimes() | st.datetimes(timezones=st.just(UTC)),
    st.dates(),
    st.fixed_dictionaries(
        {},
        optional={
            "price": finite,
            "rate": st.floats(allow_nan=False, allow_infinity=False),
            "colours": st.lists(st.just(Colour.RED), max_size=2),
            "size": st.sampled_from(["s", "l"]),
            "by_id": st.dictionaries(texts, patches, max_size=2),
            "patch": patches,
            "number": st.uuids(),
            "tag": st.none() | texts,
        },
    ),
)
SAFE: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (bool, st.booleans()),
    (int, st.integers(-(2**70), 2**70)),
    (float, st.floats(allow_nan=False, allow_infinity=False)),
    (str, texts),
    (bytes, st.binary(max_size=5)),
    (datetime, st.datetimes() | st.datetimes(timezones=st.just(UTC))),
    (date, st.dates()),
    (UUID, st.uuids()),
    (Decimal, finite),
    (Colour, st.just(Colour.RED)),
    (Patch, patches),
    (Item, items),
]
LEAVES = [
    *SAFE,
    (datetime, st.datetimes(timezones=st.just(ZoneInfo("Europe/Berlin")))),
    (timedelta, st.timedeltas()),
    (
        Any,
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.dates(), lambda inner: st.lists(inner) | st.tuples(inner)
        ),
    ),
]
GROWN = [
    lambda leaf: (list[leaf[0]], st.lists(leaf[1], max_size=3)),
    lambda leaf: (dict[str, leaf[0]], st.dictionaries(st.text("ab1", max_size=3), leaf[1], max_size=3)),
    lambda leaf: (leaf[0] | None if leaf[0] is not Any else Any, st.none() | leaf[1]),
    lambda leaf: (tuple[leaf[0], int], st.tuples(leaf[1], st.integers())),
]


def grown(leaves: list[tuple[Any, st.SearchStrategy[Any]]]) -> st.SearchStrategy[Any]:
    return st.recursive(
        st.sampled_from(leaves),
        lambda inner: st.tuples(st.sampled_from(GROWN), inner).map(lambda t: t[0](t[1])),
        max_leaves=3,
    )


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_whatever_is_given_arrives_equal_or_is_refused(data: st.DataObject) -> None:
    annotation, values = data.draw(grown(LEAVES))
    value = data.draw(values)
    try:
        arriving = arrived(annotation, value)
    except PayloadError:
        # Times of minutes that no longer exist, or more than JSON's types under Any.
        assert annotation is not Patch
        return

    assert arriving == value or difference(value, arriving, "value") is None
    assert difference(value, arriving, "value") is None


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_what_json_can_carry_is_never_refused(data: st.DataObject) -> None:
    annotation, values = data.draw(grown(SAFE))
    value = data.draw(values)

    assert difference(value, arrived(annotation, value), "value") is None


@given(items)
@settings(deadline=None)
def test_a_payload_that_is_not_compared_is_the_one_that_would_be(item: Item) -> None:
    write = writer_of(Item, with_defaults=False)
    assert write is not None

    assert write(item) == handler_of(Item).payload._compared(item)


@pytest.mark.parametrize(
    "value",
    [
        Derived(),
        Base.model_construct(n=(1, 2)),
        Base.model_construct({"n", "zzz"}, n=1),
        Base.model_construct(n=True),
    ],
)
def test_a_model_that_does_not_hold_what_its_annotations_say_is_compared(value: Base) -> None:
    write = writer_of(Base, with_defaults=False)
    assert write is not None
    with pytest.raises(Uncertain):
        write(value)
    with pytest.raises(PayloadError):
        handler_of(list[Base]).new([value])


@pytest.mark.parametrize("kind", [Validated, Serialized, Choices, Deep, Excluded, Rounded, Open, Area, Hidden, Box])
def test_a_model_with_something_of_its_own_is_always_compared(kind: Any) -> None:
    assert writer_of(dict[str, list[kind]], with_defaults=False) is None


@given(patches)
@settings(deadline=None)
def test_a_patch_arrives_with_what_was_set_or_changed_and_no_more(patch: Patch) -> None:
    arriving = arrived(Patch, patch)

    assert arriving == patch
    changed = {"ids"} if patch.ids else set()
    assert arriving.model_fields_set == patch.model_fields_set | changed
    assert json.loads(arriving.model_dump_json(exclude_unset=True)).keys() == arriving.model_fields_set
