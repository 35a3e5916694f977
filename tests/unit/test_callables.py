"""What calling something gives."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from pqlite.callables import Kind, kind_of


class Asynchronous:
    async def __call__(self, first: int = 1) -> int:
        return first


class Generating:
    def __call__(self) -> Any:
        yield 1


async def coroutine(first: int) -> int:
    return first


async def generator(first: int) -> Any:
    yield first


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        (Asynchronous(), Kind.COROUTINE),
        (Asynchronous, Kind.FUNCTION),  # which makes an object
        (Generating(), Kind.GENERATOR),
        (Generating, Kind.FUNCTION),
        (partial(partial(coroutine), 1), Kind.COROUTINE),
        (partial(Asynchronous(), 1), Kind.COROUTINE),
        (partial(generator, 1), Kind.ASYNC_GENERATOR),
        (len, Kind.FUNCTION),
    ],
)
def test_objects_classes_and_partial_functions_are_told_apart_by_what_calling_them_gives(
    call: Callable[..., Any], kind: Kind
) -> None:
    assert kind_of(call) is kind
