"""Handlers, the registry of declared jobs. The app creates it; there is no global registry."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, Unpack, overload

from pqlite.backoff import Backoff, policy_of
from pqlite.errors import ConfigurationError
from pqlite.handlers.context import JobContext
from pqlite.handlers.dependencies import Replacements
from pqlite.handlers.payload import Upgrade
from pqlite.handlers.retry_rules import Errors, Retrying, error_classes
from pqlite.handlers.typed import TypedHandler
from pqlite.job import JobOptions
from pqlite.schedules import Missed, Overlap

P = ParamSpec("P")
R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., Any])


class _Anything:
    """For type checkers only: matches a first parameter that accepts anything (Any, object)."""


class Declare(Protocol):
    """The decorator that `handlers.job(...)` returns: it turns a function into a TypedHandler.

    `async def` runs on the event loop, plain `def` in a thread. A first parameter annotated JobContext gets the
    context; parameters with a default of `Depends(...)` are injected; the others are the payload: an object with their
    names, or the model itself if a pydantic model is the only one (adding a second parameter then changes the shape of
    the payload, and needs a new `version`).

    If the first parameter accepts anything (Any, object), type checkers know the result type but not the arguments.
    """

    @overload
    def __call__(
        self, function: Callable[Concatenate[_Anything, P], Coroutine[Any, Any, R]], /
    ) -> TypedHandler[..., Coroutine[Any, Any, R], ..., R]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[_Anything, P], R], /) -> TypedHandler[..., R, ..., R]: ...
    @overload
    def __call__(
        self, function: Callable[Concatenate[JobContext, P], Coroutine[Any, Any, R]], /
    ) -> TypedHandler[Concatenate[JobContext, P], Coroutine[Any, Any, R], P, R]: ...
    @overload
    def __call__(
        self, function: Callable[P, Coroutine[Any, Any, R]], /
    ) -> TypedHandler[P, Coroutine[Any, Any, R], P, R]: ...
    @overload
    def __call__(
        self, function: Callable[Concatenate[JobContext, P], R], /
    ) -> TypedHandler[Concatenate[JobContext, P], R, P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> TypedHandler[P, R, P, R]: ...
    def __call__(self, function: Callable[..., Any], /) -> TypedHandler[..., Any, ..., Any]:
        """Declare the function."""
        ...


class Handlers(Mapping[str, TypedHandler[..., Any, ..., Any]]):
    """Declared handlers by job type, and by the old names of job types. A Worker gets those declared before it is made.

        handlers = Handlers()

        @handlers.job("send_welcome", max_attempts=3, timeout=30)
        async def send_welcome(ctx: JobContext, user_id: int, template: str = "plain") -> Receipt: ...

        await store.enqueue(send_welcome.new(42))

    Together with plain handlers: `Worker(handlers={**handlers, "other": function})`.
    """

    def __init__(self) -> None:
        self._handlers: dict[str, TypedHandler[..., Any, ..., Any]] = {}
        self._scheduled: dict[Callable[..., Any], list[dict[str, Any]]] = {}

    def job(
        self,
        job_type: str,
        *,
        queue: str = "default",
        priority: int = 0,
        max_attempts: int = 5,
        timeout: float | timedelta | None = None,
        tags: Iterable[str] = (),
        backoff: Backoff | None = None,
        retry_on: Errors | None = None,
        never_retry_on: Errors = (),
        aliases: Iterable[str] = (),
        version: int = 1,
        upgrade: Mapping[int, Upgrade] | None = None,
    ) -> Declare:
        """Declare the decorated function as the handler of a job type.

        Args:
            job_type: its name in the database, independent of the function's name.
            queue, priority, max_attempts, timeout, tags: the defaults of the jobs that `new` makes. They do not apply
                to `store.enqueue("job_type", ...)`, which does not know the declaration.
            timeout: an attempt that takes longer, in seconds, is cancelled; it counts as a TimeoutError.
            backoff: the delay before the next attempt, instead of the worker's: a policy, or a function of the number
                of the failed attempt.
            retry_on: only these exceptions are retried; with others the job is FAILED at once.
            never_retry_on: with these the job is FAILED at once. `Fail`, `RetryAfter` and `Snooze` are not affected.
            aliases: former names of the job type. Jobs with these names are run too.
            version: the version of the payload. Increase it when older workers cannot run the new payloads: they do not
                claim jobs of a newer version.
            upgrade: functions by version; the one of version n converts a payload of version n (a JSON value) to
                version n + 1. A version without a function is not converted.

        Raises:
            ConfigurationError: the name or an alias is taken, or an argument is invalid.
        """
        if not isinstance(job_type, str):
            raise ConfigurationError(f"job needs the job type's name, @handlers.job('job_type'), not {job_type!r}")
        defaults: JobOptions = {"queue": queue, "priority": priority, "max_attempts": max_attempts}
        if timeout is not None:
            defaults["timeout_seconds"] = timeout
        if tags := _names("tags", tags):
            defaults["tags"] = tags
        retrying = Retrying(
            None if backoff is None else policy_of(backoff),
            None if retry_on is None else error_classes("retry_on", retry_on),
            error_classes("never_retry_on", never_retry_on),
        )
        old_names = _names("aliases", aliases)

        def declare(function: Callable[..., Any], /) -> TypedHandler[..., Any, ..., Any]:
            handler: TypedHandler[..., Any, ..., Any] = TypedHandler(
                function,
                job_type,
                defaults=defaults,
                retrying=retrying,
                aliases=old_names,
                version=version,
                upgrade=upgrade or {},
            )
            for arguments in self._scheduled.get(function, ()):
                handler.add_schedule(**arguments)
            self._add(dict.fromkeys((job_type, *old_names), handler))
            self._scheduled.pop(function, None)
            return handler

        return declare  # type: ignore[return-value]  # one implementation of all its overloads

    def cron(
        self,
        expression: str,
        *,
        timezone: str = "UTC",
        name: str | None = None,
        payload: Any = None,
        overlap: Overlap = "skip",
        missed: Missed = "latest",
        jitter: float | timedelta = 0.0,
        **options: Unpack[JobOptions],
    ) -> Callable[[F], F]:
        """Enqueue a job at the times of a cron expression. Put this above or below `@handlers.job(...)`.

            @handlers.cron("0 3 * * *", timezone="Europe/Berlin")
            @handlers.cron("0 12 * * mon", name="weekly_report", payload={"days": 7})
            @handlers.job("report")
            async def report(ctx: JobContext, days: int = 1) -> None: ...

        Args:
            expression, timezone, overlap, missed, jitter: see pqlite.Schedule.
            name: the schedule's name; by default the job type.
            payload: the handler's arguments by name, or its one argument if that is a pydantic model.
            options: options of the jobs that override the declaration: queue, priority, max_attempts and so on.

        Raises:
            InvalidSchedule: an argument is invalid. PayloadError: the payload does not fit the handler.
        """
        return self._declaring(
            name=name, payload=payload, cron=expression, timezone=timezone, overlap=overlap, missed=missed,
            jitter=jitter, **options,
        )  # fmt: skip

    def every(
        self,
        interval: float | timedelta,
        *,
        anchor: datetime | None = None,
        name: str | None = None,
        payload: Any = None,
        overlap: Overlap = "skip",
        missed: Missed = "latest",
        jitter: float | timedelta = 0.0,
        **options: Unpack[JobOptions],
    ) -> Callable[[F], F]:
        """Enqueue a job at a fixed interval (seconds or timedelta), counted from `anchor` (by default 1970-01-01 00:00
        UTC) and so independent of restarts; the other arguments are as for `cron`.

        Raises:
            InvalidSchedule: an argument is invalid. PayloadError: the payload does not fit the handler.
        """
        return self._declaring(
            name=name, payload=payload, every=interval, anchor=anchor, overlap=overlap, missed=missed, jitter=jitter,
            **options,
        )  # fmt: skip

    def _declaring(self, **arguments: Any) -> Callable[[F], F]:
        def declare(target: F) -> F:
            handler: Any = target  # otherwise type checkers narrow `target`, which is then not an F
            if isinstance(handler, TypedHandler):
                handler.add_schedule(**arguments)
            elif callable(target):
                self._scheduled.setdefault(target, []).append(arguments)
            else:
                raise ConfigurationError(f"A schedule is declared on a handler, not on {target!r}")
            return target

        return declare

    def refuse_undeclared(self) -> None:
        """Raise ConfigurationError if a function has a schedule but is not declared as a job."""
        for function in self._scheduled:
            raise ConfigurationError(
                f"{function!r} has a schedule and is no job of this registry: add @handlers.job('job_type') to it"
            )

    def include(self, other: Handlers) -> None:
        """Add the handlers that another registry has now.

        Raises:
            ConfigurationError: a name or an alias is taken; nothing was added.
        """
        self._add(other._handlers)

    @contextmanager
    def override(self, replaced: Replacements) -> Iterator[None]:
        """Replace dependencies within the block, for tests: `with handlers.override({get_mailer: FakeMailer}): ...`

        It applies to attempts that start within the block, also in other registries that include these handlers. A
        replacement may have dependencies of its own.

        Raises:
            ConfigurationError: no handler depends on one of the functions, or a replacement is invalid.
        """
        affected = {id(each): each for each in self._handlers.values()}.values()
        for function in replaced:
            if not any(handler.injection.asks_for(function) for handler in affected):
                raise ConfigurationError(f"No job here depends on {function!r}, so it cannot be overridden")
        before = [(handler, handler.injection) for handler in affected]
        within = [injection.replacing(replaced) for _, injection in before]
        try:
            for handler, injection in zip(affected, within, strict=True):
                handler.injection = injection
            yield
        finally:
            for handler, injection in before:
                handler.injection = injection

    def _add(self, handlers: Mapping[str, TypedHandler[..., Any, ..., Any]]) -> None:
        for job_type, handler in handlers.items():
            if (taken := self._handlers.get(job_type)) is not None and taken is not handler:
                raise ConfigurationError(f"The job type {job_type!r} is declared already, by {taken!r}")
        self._handlers.update(handlers)

    def __getitem__(self, job_type: str) -> TypedHandler[..., Any, ..., Any]:
        """Return the handler of a job type, or of a former name of one."""
        return self._handlers[job_type]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the job types, including their former names."""
        return iter(self._handlers)

    def __len__(self) -> int:
        """Return the number of names."""
        return len(self._handlers)


def _names(what: str, given: Iterable[str]) -> tuple[str, ...]:
    if isinstance(given, str):
        raise ConfigurationError(f"{what} must be a list of names, not the string {given!r}")
    return tuple(given)
