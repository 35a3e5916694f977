import math
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum, StrEnum
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, SecretBytes, SecretStr, field_serializer, model_serializer

from pqlite import PayloadError
from pqlite.codec import MAX_ERROR_CHARACTERS, clean_text, decode, encode, encode_clean, format_error


def result(value: Any) -> str | None:
    return encode_clean(value, max_bytes=1000)


# Results are cleaned


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        (None, None),
        ({"a": math.nan, "b": [math.inf, -math.inf]}, {"a": None, "b": [None, None]}),
        ({"k\x00": ["v\x00"]}, {"k\\x00": ["v\\x00"]}),
        (datetime(2026, 1, 2, tzinfo=UTC), "2026-01-02T00:00:00Z"),
        ({"NaN": "Infinity"}, {"NaN": "Infinity"}),
    ],
)
def test_a_result_is_cleaned_until_it_can_be_stored(value: Any, stored: Any) -> None:
    assert decode(result(value)) == stored


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (object(), "result cannot be stored as JSON: its type is object"),
        (ValueError, "result cannot be stored as JSON: it is the class ValueError"),
        ({"a": {"b": object()}}, "result.a.b cannot be stored as JSON: its type is object"),
        ("x" * 1000, "result is 1,002 bytes of JSON; at most 1,000 are stored"),
    ],
)
def test_a_result_that_cannot_be_cleaned_is_refused_with_its_path(value: Any, sentence: str) -> None:
    with pytest.raises(PayloadError) as refusal:
        result(value)
    assert str(refusal.value) == sentence


# What JSON would change without an error


class Mode(StrEnum):
    FAST = "fast"


class Place(Enum):
    HERE = "here"


class Card(BaseModel):
    token: SecretStr
    spent: dict[UUID, int] = {}


class Shown(Card):
    @field_serializer("token")
    def revealed(self, token: SecretStr) -> str:
        return token.get_secret_value()


@dataclass
class Box:
    content: Any


CHANGED = [
    ({"a": [{(1, 2): 3}]}, ".a[0] has the key (1, 2); JSON's keys are strings or numbers"),
    ({None: 1}, " has the key None; JSON's keys are strings or numbers"),
    ({True: 1}, " has the key True; JSON's keys are strings or numbers"),
    ({math.nan: 1}, " has the key nan; JSON's keys are strings or numbers"),
    ({Place.HERE: 1}, " has the key <Place.HERE: 'here'>; JSON's keys are strings or numbers"),
    (Box({UUID(int=1): 1}), f".content has the key {UUID(int=1)!r}; JSON's keys are strings or numbers"),
    ({"a": {1: "a", "1": "b"}}, ".a has the keys 1 and '1', which are the same in JSON"),
    ({1.5: "a", "1.5": "b"}, " has the keys 1.5 and '1.5', which are the same in JSON"),
    (Card(token=SecretStr("tok_1")), ".token is a SecretStr, which JSON hides: pass a reference to the secret instead"),
    ([{"a": SecretBytes(b"x")}], "[0].a is a SecretBytes, which JSON hides: pass a reference to the secret instead"),
]


@pytest.mark.parametrize(("value", "sentence"), CHANGED, ids=[sentence[:20] for _, sentence in CHANGED])
def test_what_json_would_change_is_refused_with_its_path(value: Any, sentence: str) -> None:
    with pytest.raises(PayloadError) as refusal:
        encode(value, what="payload", max_bytes=1000)
    assert str(refusal.value) == f"payload{sentence}"

    for unclean in (value, {"nan": math.nan, "value": value}):
        with pytest.raises(PayloadError):
            result(unclean)


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        ({1: "a", "2": "b", 1.5: "c"}, {"1": "a", "2": "b", "1.5": "c"}),
        ({Mode.FAST: 1}, {"fast": 1}),
        (Card(token=SecretStr(""), spent={UUID(int=1): 3}), {"token": "", "spent": {str(UUID(int=1)): 3}}),
        (Shown(token=SecretStr("tok_1")), {"token": "tok_1", "spent": {}}),
        ({"masked": "**********"}, {"masked": "**********"}),
    ],
)
def test_numbers_as_keys_and_what_a_model_writes_by_itself_are_stored(value: Any, stored: Any) -> None:
    assert decode(encode(value, what="payload", max_bytes=1000)) == stored
    assert decode(result(value)) == stored


# Where the offender is


class Moody(BaseModel):
    x: int = 1

    @model_serializer
    def refuse(self) -> dict[str, int]:
        raise ValueError("not today")


class Model(BaseModel):
    name: str
    extra: object = None


@dataclass(slots=True)
class Slotted:
    inner: Any


@pytest.mark.parametrize(
    ("value", "path", "reason"),
    [
        ({"a": [Slotted({"b": object()})]}, "payload.a[0].inner.b", "its type is object"),
        (Model(name="x", extra=[object()]), "payload.extra[0]", "its type is object"),
        ({"m": Moody()}, "payload.m", "not today"),
        ((1, {"k": {object(): 1}}), "payload[1].k", "it has the key <object"),
        ("\ud800", "payload", "it contains a lone surrogate"),
    ],
)
def test_a_refusal_names_the_path_and_the_reason(value: Any, path: str, reason: str) -> None:
    with pytest.raises(PayloadError) as refusal:
        encode(value, what="payload", max_bytes=1000)
    assert str(refusal.value).startswith(f"{path} cannot be stored as JSON: ")
    assert reason in str(refusal.value)


def test_a_long_text_of_digits_is_no_long_number() -> None:
    for text in ("7" * 5000, "x" + "7" * 5000):
        assert decode(encode(text, what="payload", max_bytes=10_000)) == text


# Text of errors


@given(st.text(st.characters(codec=None)))
def test_cleaned_text_can_be_stored_and_is_cleaned_once(text: str) -> None:
    cleaned = clean_text(text)

    assert "\x00" not in cleaned
    assert cleaned.encode().decode() == cleaned
    assert clean_text(cleaned) == cleaned


def test_text_without_anything_to_clean_is_kept() -> None:
    assert clean_text("naïve 😀 \\x00\n") == "naïve 😀 \\x00\n"


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return caught


def test_an_error_is_its_traceback_and_what_happened_comes_last() -> None:
    text = format_error(raised(ValueError("boom")))

    assert text.startswith("Traceback (most recent call last):")
    assert "in raised" in text
    assert text.endswith("ValueError: boom")


def test_a_long_message_is_shortened_and_the_frames_of_all_causes_are_kept() -> None:
    def first() -> None:
        raise KeyError("y" * 20_000)

    def second() -> None:
        try:
            first()
        except KeyError as cause:
            raise ValueError("x" * 100_000 + " the end") from cause

    with pytest.raises(ValueError) as caught:
        second()
    text = format_error(caught.value)

    assert len(text) <= MAX_ERROR_CHARACTERS
    assert [frame in text for frame in ("in first", "in second")] == [True, True]
    assert "KeyError: 'yyy" in text
    assert "ValueError: xxx" in text
    assert "characters left out" in text
    assert text.endswith("the end")


def test_of_very_many_frames_the_first_and_the_last_are_kept() -> None:
    def even(n: int) -> None:
        odd(n - 1)

    def odd(n: int) -> None:
        if n < 0:
            raise ValueError("the end")
        even(n - 1)

    with pytest.raises(ValueError) as caught:
        even(200)
    text = format_error(caught.value)

    assert len(text) == MAX_ERROR_CHARACTERS
    assert "in test_of_very_many_frames" in text
    assert text.endswith("ValueError: the end")


def test_an_error_with_a_nul_or_a_surrogate_in_its_message_can_be_stored() -> None:
    assert format_error(ValueError("a\x00b\ud800")).endswith("ValueError: a\\x00b\\ud800")


def test_the_values_of_locals_are_not_told() -> None:
    def with_a_secret() -> None:
        password = "-".join("hunter")  # noqa: F841
        raise ValueError

    with pytest.raises(ValueError) as caught:
        with_a_secret()

    assert "h-u-n-t-e-r" not in format_error(caught.value)


def test_an_error_that_cannot_be_written_is_still_an_error() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    class Deaf(Exception):
        @property
        def __cause__(self) -> None:  # type: ignore[override]
            raise RuntimeError

    assert "Mute" in format_error(raised(Mute()))
    assert format_error(Deaf()) == "Deaf (its message could not be read)"


def test_the_causes_and_the_members_of_groups_are_told() -> None:
    try:
        try:
            raise KeyError("first")
        except KeyError as cause:
            raise ExceptionGroup("several", [ValueError("one"), TypeError("two")]) from cause
    except ExceptionGroup as group:
        text = format_error(group)

    assert all(part in text for part in ("KeyError: 'first'", "ValueError: one", "TypeError: two"))
