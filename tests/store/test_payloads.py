import math
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from pqlite import JobStatus, PayloadError, PgJobStore


class Colour(Enum):
    RED = "red"


class Order(BaseModel):
    id: UUID
    total: Decimal
    lines: list[str] = []


@dataclass
class Point:
    x: int
    inner: Any = None


ID = UUID("6f1a2b3c-0000-4000-8000-000000000001")


def nested(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels - 1):
        value = [value]
    return value


circular: list[Any] = []
circular.append(circular)


@pytest.mark.parametrize(
    ("payload", "sentence"),
    [
        ({"a": [1, {"b": math.nan}]}, "payload.a[1].b is nan, which JSON cannot express"),
        ([-math.inf], "payload[0] is -inf, which JSON cannot express"),
        (Point(1, math.nan), "payload.inner is nan"),
        ({"a": "x\x00y"}, "payload.a contains a NUL character"),
        ({"a": {"k\x00": 1}}, "a key of payload.a contains a NUL character"),
        ({"a": ["\ud800"]}, "payload.a[0] cannot be stored as JSON: it contains a lone surrogate"),
        ({"\udfff": 1}, "payload cannot be stored as JSON: it has the key '\\udfff'"),
        ({"a": [object()]}, "payload.a[0] cannot be stored as JSON: its type is object"),
        ({"a": Point(1, {"c": object()})}, "payload.a.inner.c cannot be stored as JSON: its type is object"),
        ({"a": {object()}}, "payload.a[0] cannot be stored as JSON: its type is object"),
        (b"\xff", "payload cannot be stored as JSON: its type is bytes"),
        (nested(201), "payload is nested deeper than 200 levels"),
        (nested(2000), "payload cannot be stored as JSON: it is nested deeper than 200 levels or refers to itself"),
        (circular, "payload cannot be stored as JSON: it is nested deeper than 200 levels or refers to itself"),
        ({"n": 10**5000}, "payload cannot be read back: number out of range"),
        ("x" * 1024 * 1024, "payload is 1,048,578 bytes of JSON; at most 1,048,576 are stored"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
async def test_a_payload_that_cannot_be_stored_is_refused_with_the_path_of_the_offender(
    payload: Any, sentence: str
) -> None:
    # nothing listens there
    async with PgJobStore(dsn="postgresql://127.0.0.1:1/nowhere") as store:
        with pytest.raises(PayloadError) as refusal:
            await store.enqueue("t", payload)
    assert str(refusal.value).startswith(sentence)


async def test_the_largest_payload_is_the_stores_setting(dsn: str) -> None:
    async with PgJobStore(dsn=dsn, max_payload_bytes=10) as store:
        await store.enqueue("t", "12345678")
        with pytest.raises(PayloadError, match="payload is 11 bytes of JSON; at most 10 are stored"):
            await store.enqueue("t", "123456789")


json_like = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(codec=None), max_size=20)
    | st.sampled_from(["\x00", "\ud800", "NaN", "\\u0000", "Infinity", "1" * 5000, -0.0, 1e308, 5e-324])
    | st.sampled_from([4299, 4300]).map(lambda exponent: 10**exponent),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


def can_be_stored(value: Any) -> bool:
    match value:
        case int():
            return abs(value) < 10**4300
        case float():
            return math.isfinite(value)
        case str():
            return "\x00" not in value and not any("\ud800" <= character <= "\udfff" for character in value)
        case list():
            return all(map(can_be_stored, value))
        case dict():
            return all(map(can_be_stored, value)) and all(map(can_be_stored, value.values()))
    return True


def with_float_numbers(value: Any) -> Any:
    """Return the value with numbers as floats: PostgreSQL writes 1e22 as an integer."""
    match value:
        case bool():
            return value
        case int() | float():
            with suppress(OverflowError):
                return float(value)
        case list():
            return [with_float_numbers(item) for item in value]
        case dict():
            return {key: with_float_numbers(item) for key, item in value.items()}
    return value


@given(payload=json_like)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_a_json_like_value_comes_back_if_it_can_be_stored_and_is_refused_otherwise(
    store: PgJobStore, payload: Any
) -> None:
    if can_be_stored(payload):
        job = await store.get(await store.enqueue("t", payload))
        assert with_float_numbers(job.payload) == with_float_numbers({} if payload is None else payload)
    else:
        with pytest.raises(PayloadError):
            await store.enqueue("t", payload)


@pytest.mark.parametrize("column", ["payload", "metadata", "result", "progress"])
async def test_a_job_is_read_and_picked_up_whatever_sql_has_put_into_its_json(
    store: PgJobStore, conn: asyncpg.Connection, column: str
) -> None:
    job_id = await store.enqueue("t", {"a": 1}, metadata={"b": 2})
    value = "jsonb_build_object('n', 10::numeric ^ 5000)"
    await conn.execute(f"update pqlite.jobs set {column} = {value}")

    seen = await store.get(job_id)
    picked_up = await store.pickup("me")

    assert picked_up is not None
    await store.mark_error(picked_up, repr(picked_up.payload), terminal=True)
    unreadable = getattr(seen, "payload" if column == "metadata" else column)
    assert repr(unreadable).startswith("<JSON that cannot be read: number out of range")
    assert (await store.get(job_id)).status is JobStatus.FAILED
