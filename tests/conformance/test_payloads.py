from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel

from tests.conformance.conftest import Store


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


@pytest.mark.parametrize(
    ("payload", "stored"),
    [
        (None, {}),
        ([], []),
        (0, 0),
        (False, False),
        ("", ""),
        ({"ümlaut": "😀 \\u0000 \t"}, {"ümlaut": "😀 \\u0000 \t"}),
        (2**70, 2**70),
        (Order(id=ID, total=Decimal("1.10"), lines=["a"]), {"id": str(ID), "total": "1.10", "lines": ["a"]}),
        (Point(1, Point(2)), {"x": 1, "inner": {"x": 2, "inner": None}}),
        ({"id": ID}, {"id": str(ID)}),
        (datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), "2026-01-02T03:04:05Z"),
        (Decimal("1.10"), "1.10"),
        (Decimal("NaN"), "NaN"),
        (Colour.RED, "red"),
        (
            {"deep": [{"point": Point(3), "colour": Colour.RED}]},
            {"deep": [{"point": {"x": 3, "inner": None}, "colour": "red"}]},
        ),
        ({1: "a", 2.5: "b"}, {"1": "a", "2.5": "b"}),
        ((1, 2), [1, 2]),
        ({7}, [7]),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_a_payload_comes_back_as_the_json_it_means(store: Store, payload: Any, stored: Any) -> None:
    one = await store.enqueue("t", payload)
    [(many, _)] = await store.enqueue_many([{"job_type": "t", "payload": payload}])

    assert (await store.get(one)).payload == stored
    assert (await store.get(many)).payload == stored


async def test_a_payload_of_two_hundred_levels_is_stored(store: Store) -> None:
    job_id = await store.enqueue("t", nested(200))

    assert (await store.get(job_id)).payload == nested(200)


async def test_a_payload_comes_back_in_the_same_order_and_types_from_every_store(store: Store) -> None:
    payload = {"ccc": 1, "b": [1.0, 1e16, 1.5e300, -0.0, 1e-7], "é": {"z": 1, "a": 2}, "a": None}

    again = (await store.get(await store.enqueue("t", payload, metadata=payload))).payload

    whole = 15 * 10**299
    assert repr(again) == f"{{'a': None, 'b': [1.0, {10**16}, {whole}, 0.0, 1e-07], 'é': {{'a': 2, 'z': 1}}, 'ccc': 1}}"
