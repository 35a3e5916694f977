"""What a declaration makes of a function, and which declarations are refused."""

import dataclasses
import inspect
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, cast

import fastapi
import pytest
from pydantic import BaseModel, Field

from pqlite import ConfigurationError, Depends, Handlers, JobContext, NewJob, PgJobStore, TypedJob, Worker
from tests.support import ended

if TYPE_CHECKING:
    from somewhere import Unknown  # type: ignore[import-not-found]


class Order(BaseModel):
    lamp: int


def number() -> int:
    return 1


async def test_a_declared_function_is_called_as_if_it_were_not() -> None:
    handlers = Handlers()

    @handlers.job("add")
    async def add(a: int, b: int = 2) -> int:
        """Add."""
        return a + b

    @handlers.job("double")
    def double(a: int) -> int:
        return 2 * a

    assert (await add(1), await add(1, b=3), double(4)) == (3, 4, 8)
    assert (add.__doc__, list(inspect.signature(add).parameters)) == ("Add.", ["a", "b"])
    assert list(handlers) == ["add", "double"]
    assert handlers["add"] is add


def test_a_new_job_has_the_defaults_of_its_declaration_and_what_it_was_given_instead() -> None:
    handlers = Handlers()

    @handlers.job("t", queue="mail", priority=3, max_attempts=2, timeout=timedelta(seconds=9), tags=["a"], version=4)
    async def handler(n: int) -> None: ...

    job = handler.new(7)
    changed = job.with_options(priority=0, tags=(), dedupe_key="k")

    assert job == TypedJob(
        job_type="t",
        payload={"n": 7},
        queue="mail",
        priority=3,
        max_attempts=2,
        timeout_seconds=timedelta(seconds=9),
        tags=("a",),
        version=4,
    )
    assert isinstance(job, NewJob)
    assert changed == dataclasses.replace(job, priority=0, tags=(), dedupe_key="k")
    assert job.priority == 3


def test_a_job_type_is_declared_once_under_all_its_names() -> None:
    handlers, others = Handlers(), Handlers()

    @handlers.job("new", aliases=["old"])
    async def handler() -> None: ...

    for registry in (handlers, others):
        for taken in ("new", "old"):
            if registry is others:
                registry = Handlers()
                registry.include(handlers)
            with pytest.raises(ConfigurationError, match=f"'{taken}' is declared already, by <TypedHandler 'new'"):
                registry.job(taken)(number)
            with pytest.raises(ConfigurationError, match=f"'{taken}' is declared already"):
                registry.job("other", aliases=[taken])(number)
            assert sorted(registry) == ["new", "old"]


async def test_a_function_may_be_declared_twice(store: PgJobStore) -> None:
    handlers = Handlers()

    @handlers.job("urgent", priority=9)
    @handlers.job("normal")
    async def handler(n: int) -> int:
        return n

    async with Worker(store, handlers):
        ids = [await store.enqueue(handlers[job_type].new(1)) for job_type in ("urgent", "normal")]
        jobs = [await ended(store, job_id) for job_id in ids]

    assert [(job.job_type, job.priority, job.result) for job in jobs] == [("urgent", 9, 1), ("normal", 0, 1)]
    assert await handler(3) == 3


def test_registries_are_combined_unless_a_name_is_in_both() -> None:
    one, two, three = Handlers(), Handlers(), Handlers()
    one.job("a")(number)
    two.job("b")(number)
    three.job("c", aliases=["a"])(number)

    one.include(two)
    one.include(two)

    assert list(one) == ["a", "b"]
    with pytest.raises(ConfigurationError, match="'a' is declared already"):
        one.include(three)
    assert list(one) == ["a", "b"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"queue": ""}, "queue must be 1 to 200 bytes"),
        ({"priority": 1.5}, "priority must be a whole number"),
        ({"max_attempts": 0}, "max_attempts must be a whole number from 1"),
        ({"timeout": 0}, "timeout_seconds must be a number above 0"),
        ({"timeout": timedelta(0)}, "timeout_seconds must be a number above 0"),
        ({"tags": "mail"}, "tags must be a list of names, not the string 'mail'"),
        ({"tags": [1]}, "tags must be a list of strings"),
        ({"aliases": "old"}, "aliases must be a list of names"),
        ({"aliases": [""]}, "job_type must be 1 to 200 bytes"),
        ({"backoff": 3}, "backoff must be a BackoffPolicy or a function"),
        ({"retry_on": "ValueError"}, "retry_on must name exception classes, not 'ValueError'"),
        ({"retry_on": ["ValueError"]}, "retry_on must name exception classes, not 'ValueError'"),
        ({"never_retry_on": int}, "never_retry_on must name exception classes"),
        ({"version": 0}, "version of 't' must be a whole number of 1 or more"),
        ({"version": "2"}, "version of 't' must be a whole number of 1 or more"),
        ({"version": 2, "upgrade": {2: dict}}, "has the key 2; version is 2, so keys are 1 to 1"),
        ({"version": 2, "upgrade": {1: "f"}}, "upgrade 1 of 't' must be a function"),
    ],
)
def test_a_declaration_that_cannot_work_says_why(options: dict[str, Any], sentence: str) -> None:
    handlers = Handlers()

    with pytest.raises(ConfigurationError, match=sentence):
        handlers.job("t", **options)(number)
    assert not handlers


@pytest.mark.parametrize("name", ["", "ü" * 101, "a\x00b", 7])
def test_a_job_type_that_is_no_name_is_refused(name: Any) -> None:
    with pytest.raises(ConfigurationError, match="job_type"):
        Handlers().job(name)(number)


def test_a_declaration_without_a_name_is_refused() -> None:
    handlers = Handlers()

    with pytest.raises(ConfigurationError, match=r"@handlers\.job\('job_type'\), not <function number"):
        handlers.job(number)  # type: ignore[arg-type]


class Pool:
    pass


def many(*numbers: int) -> None: ...
def open_ended(**numbers: int) -> None: ...
def nameless(number: int, /) -> None: ...
def unknown(thing: "Unknown") -> None: ...
def no_data(pool: Pool) -> None: ...
def late(number: int, ctx: JobContext) -> None: ...
def twice(ctx: JobContext, other: JobContext) -> None: ...
def annotated(number: Annotated[int, Depends(number)]) -> None: ...
def fastapis(number: int = fastapi.Depends(number)) -> None: ...
def with_field(number: int = Field(3, gt=1)) -> None: ...
def with_default_in_field(number: Annotated[int, Field(default=3)]) -> None: ...
def local() -> Any:
    class Inside(BaseModel):
        n: int

    def function(thing: "Inside") -> None: ...

    return function


class Sender:
    """Has attributes like those of a handler, which are its own."""

    def __init__(self) -> None:
        self.new = self.rules = self.payload = self.version = "its own"

    async def __call__(self, to: str) -> str:
        return to

    async def send(self, to: str) -> str:
        return f"{self.new} {to}"


async def yields_later() -> AsyncIterator[int]:
    yield 1


def yields() -> Iterator[int]:
    yield 1


def asks_for_a_value(value: int) -> int:
    return value


def depends_on_that(value: int = Depends(asks_for_a_value)) -> None: ...


@pytest.mark.parametrize(
    ("function", "sentence"),
    [
        (many, "'numbers' of the handler of 't' takes any number of arguments"),
        (open_ended, "'numbers' of the handler of 't' takes any number of arguments"),
        (nameless, "'number' of the handler of 't' is positional-only"),
        (unknown, "'thing' .* annotation 'Unknown', which cannot be resolved: name 'Unknown' is not defined"),
        (no_data, r"'pool' of 't' cannot be part of its payload: .* pool = Depends\(\.\.\.\)"),
        (late, "'ctx' .* takes the JobContext: it must be the first"),
        (twice, "'other' .* is a second JobContext"),
        (annotated, r"'number' .* make it the default value: = Depends\(\.\.\.\)"),
        (fastapis, "'number' .* has FastAPI's Depends, which needs a request; use pqlite.Depends"),
        (depends_on_that, "'value' of the dependency asks_for_a_value has no value"),
        (with_field, r"'number' .* has Field as its default value; put it in its annotation: Annotated\["),
        (with_default_in_field, "'number' .* has its default value in Field; make it the default of the parameter"),
        (local(), "annotation 'Inside', .*: define or import it at the top of the module, not in a function"),
        (yields, "The handler of 't' has a `yield`; a handler returns its result"),
        (yields_later, "The handler of 't' has a `yield`"),
        (partial(yields), "The handler of 't' has a `yield`"),
        (Sender.send, "'self' of the handler of 't' is that of a method"),
        (7, "must be a function, not 7"),
    ],
)
def test_a_signature_that_cannot_work_says_why(function: Any, sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        Handlers().job("t")(function)


def asks_for_nothing() -> None: ...
async def asks_for_more(ctx: JobContext, number: int) -> None: ...
async def asks_for_a_dependency(ctx: JobContext, value: int = Depends(number)) -> None: ...


@pytest.mark.parametrize(
    ("handlers", "sentence"),
    [
        ({"t": asks_for_nothing}, "'t' is called with a JobContext alone: too many positional arguments"),
        ({"t": asks_for_more}, "missing a required argument: 'number'. .* is declared with @handlers.job"),
        ({"t": asks_for_a_dependency}, "'t' has Depends, and is called with a JobContext alone"),
        (number, "handlers must be a Handlers registry, or functions by job type"),
        ([number], "handlers must be a Handlers registry, or functions by job type"),
    ],
)
def test_plain_handlers_that_cannot_be_called_with_a_context_are_refused(handlers: Any, sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        Worker(PgJobStore(dsn="postgresql://"), handlers)


@pytest.mark.parametrize(
    ("store", "sentence"),
    [(PgJobStore, "it is the class PgJobStore$"), ("postgresql://u:secret@localhost/app", "it is of type str$")],
)
def test_a_worker_without_a_store_is_refused_and_no_address_quoted(store: Any, sentence: str) -> None:
    with pytest.raises(
        ConfigurationError, match=r"store must be a store, such as PgJobStore\(dsn=\.\.\.\); " + sentence
    ):
        Worker(store, {"t": lambda ctx: None})


@pytest.mark.parametrize("handler", [yields, yields_later])
def test_a_plain_handler_that_yields_is_refused_when_the_worker_is_made(handler: Any) -> None:
    with pytest.raises(ConfigurationError, match="The handler of 't' has a `yield`"):
        Worker(PgJobStore(dsn="postgresql://"), {"t": handler})


async def test_an_object_a_method_and_a_partial_may_be_handlers(store: PgJobStore) -> None:
    handlers, sender = Handlers(), Sender()
    jobs = [
        handlers.job("object")(sender).new("ada"),
        handlers.job("method")(sender.send).new("ada"),
        handlers.job("partial")(partial(sender.send, to="bob")).new(),
    ]

    async with Worker(store, handlers):
        results = [(await ended(store, await store.enqueue(job))).result for job in jobs]

    assert results == ["ada", "its own ada", "its own bob"]


def test_a_context_is_told_by_its_annotation_also_where_that_cannot_be_resolved_or_is_missing() -> None:
    handlers = Handlers()

    def unresolved(context: "somewhere.JobContext", n: int) -> None: ...  # type: ignore[name-defined]  # noqa: F821
    def bare(ctx, n): ...  # type: ignore[no-untyped-def]
    def optional(context: JobContext | None, n: int) -> None: ...
    def marked(context: Annotated[JobContext, "the context"], n: int) -> None: ...
    def injected(n: int, pool: "Unknown" = Depends(number)) -> None: ...

    assert handlers.job("a")(unresolved).takes_context
    assert handlers.job("b")(bare).takes_context
    assert handlers.job("optional")(optional).takes_context
    assert handlers.job("marked")(marked).takes_context
    assert not handlers.job("c")(injected).takes_context


class Client:
    """As libraries write them: with types that exist for checkers only, and parameters that nobody here gives."""

    def __init__(self, verify: "Unknown" = True, /, *args: int, ctx: "x.JobContext", **more: "Unknown") -> None:  # type: ignore[name-defined]  # noqa: F821
        self.job_id = ctx.job.id


async def test_a_library_class_and_a_builtin_type_may_be_dependencies(store: PgJobStore) -> None:
    handlers = Handlers()

    @handlers.job("t")
    async def handler(client: Client = Depends(Client), seen: dict[str, int] = Depends(dict)) -> list[Any]:
        return [client.job_id, seen]

    async with Worker(store, handlers):
        job = await ended(store, await store.enqueue(handler.new()))

    assert job.result == [job.id, {}]


def test_what_depends_takes_must_be_a_function() -> None:
    with pytest.raises(ConfigurationError, match="Depends takes a function, not 3"):
        Depends(3)  # type: ignore[call-overload]


def get_lamp() -> str:
    return "lamp"


def get_shop() -> str:
    return "shop"


def test_what_replaces_a_dependency_may_not_need_it_itself() -> None:
    def get_brighter_lamp(lamp: str = Depends(get_lamp)) -> str:
        return lamp

    handlers = Handlers()

    @handlers.job("t")
    def sell(lamp: str = Depends(get_lamp)) -> None: ...

    with (
        pytest.raises(ConfigurationError, match="get_brighter_lamp depends on itself"),
        handlers.override({get_lamp: get_brighter_lamp}),
    ):
        pass


def test_replacements_within_others_are_beside_them() -> None:
    handlers = Handlers()

    @handlers.job("t")
    def sell(lamp: str = Depends(get_lamp), shop: str = Depends(get_shop)) -> None: ...

    with (
        handlers.override({get_lamp: lambda: "another lamp"}),
        handlers.override({get_shop: lambda: "another shop"}),
        ExitStack() as stack,
    ):
        made = sell.injection.enter_plain(cast(Any, None), stack)

    assert made == {"lamp": "another lamp", "shop": "another shop"}
