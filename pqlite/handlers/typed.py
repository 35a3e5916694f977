"""A declared handler: still the plain function, and the maker of its jobs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import update_wrapper
from typing import Any, Generic, ParamSpec, TypeVar

from pqlite.backoff import BackoffPolicy
from pqlite.errors import ConfigurationError, InvalidJob, InvalidSchedule
from pqlite.handlers.context import JobContext, as_it_is
from pqlite.handlers.dependencies import Injection
from pqlite.handlers.payload import Payload, Upgrade
from pqlite.handlers.result import Result
from pqlite.handlers.retry_rules import Retrying
from pqlite.handlers.signature import refuse_generator, signature_of
from pqlite.job import JobId, JobOptions, TypedJob
from pqlite.schedules import Schedule
from pqlite.store.validation import name, row

Call = ParamSpec("Call")
Answer_co = TypeVar("Answer_co", covariant=True)
Arguments = ParamSpec("Arguments")
Result_co = TypeVar("Result_co", covariant=True)


class TypedHandler(Generic[Call, Answer_co, Arguments, Result_co]):
    """What `@handlers.job(...)` makes of a function.

    Calling it calls the function, as if it had not been decorated: for unit tests, with dependencies of your own. A
    context for it is `JobContext(await store.pickup("test"), store, "test")`, where the job was enqueued. `new` makes
    jobs of it. To the type checkers `Call` and `Answer_co` are the function's parameters and what calling it gives,
    `Arguments` its parameters without the context, `Result_co` what the job's result is.

    Attributes:
        function: the plain function.
        job_type, aliases: the names under which workers claim its jobs.
        version: the version of the payloads that it makes.
        injection: how its dependencies are made from the next attempt on.
        schedules: what `@handlers.cron` and `@handlers.every` have declared of it.

    Raises:
        ConfigurationError: something in the declaration cannot work; the message says what.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        job_type: str,
        *,
        defaults: JobOptions,
        retrying: Retrying,
        aliases: tuple[str, ...],
        version: int,
        upgrade: Mapping[int, Upgrade],
    ) -> None:
        if isinstance(function, TypedHandler):  # it is declared under another name as well
            function = function.function
        if not callable(function):
            raise ConfigurationError(f"The handler of {job_type!r} must be a function, not {function!r}")
        refuse_generator(function, f"The handler of {job_type!r}")
        update_wrapper(self, function, updated=())  # an object's own attributes are no business of ours
        self.function: Callable[..., Any] = function
        self.job_type = job_type
        self.aliases = aliases
        self.version = version
        self.retrying = retrying
        self.signature = signature_of(function, f"the handler of {job_type!r}")
        self.takes_context = self.signature.context is not None
        if self.takes_context and not self.signature.leads:
            raise ConfigurationError(
                f"Parameter {self.signature.context!r} of the handler of {job_type!r} takes the JobContext: it must be "
                f"the first"
            )
        self.payload = Payload(job_type, self.signature, version, upgrade)
        self.injection = Injection(self.signature.injected)
        self.schedules: list[Schedule] = []
        self._defaults = defaults
        # A class of its own, and not an attribute of each id: of those there may be a million.
        self.result = Result(job_type, function)
        read = staticmethod(self.result.read)
        self._id_type: type[JobId[Result_co]] = type("JobId", (JobId,), {"__slots__": (), "read": read})
        try:
            for each in (job_type, *aliases):
                name("job_type", each, 200)
            row(TypedJob(job_type=job_type, **defaults), 1 << 20)
        except InvalidJob as error:
            raise ConfigurationError(f"The declaration of {job_type!r}: {error}") from None

    def __call__(self, /, *args: Call.args, **kwargs: Call.kwargs) -> Answer_co:
        """Call the plain function."""
        if (context := self.signature.context) is not None:
            ctx = args[0] if args else kwargs.get(context)
            if isinstance(ctx, JobContext) and ctx._write is as_it_is:  # made by hand
                ctx._write = self.result.writer
        answer: Answer_co = self.function(*args, **kwargs)
        return answer

    def new(self, /, *args: Arguments.args, **kwargs: Arguments.kwargs) -> TypedJob[Result_co]:
        """Return a job that will call the handler with these arguments; nothing happens until it is enqueued.

            await store.enqueue(send_welcome.new(42, template="short"), conn=session, priority=5)
            await store.enqueue_many(send_welcome.new(i) for i in ids)

        It has the declaration's queue, priority and so on; `.with_options(...)` and `enqueue` change them.

        Raises:
            PayloadError: the arguments do not fit the handler's signature, or would not arrive as they are: what the
                handler receives equals what is given here, up to pydantic's conversion to the annotated types. The
                message has the path. NaN and what else only the store can tell is refused by `enqueue`.
        """
        payload = self.payload.of(args, kwargs)
        return TypedJob(
            job_type=self.job_type, payload=payload, version=self.version, id_type=self._id_type, **self._defaults
        )

    def add_schedule(self, name: str | None, payload: Any, **arguments: Any) -> None:
        """Declare a schedule of its jobs; `arguments` are those of Schedule.

        Args:
            name: None: the job type's name.
            payload: the arguments of the handler by name, or its one argument, or None for none.

        Raises:
            InvalidSchedule: it cannot work, or has the name of another one.
            PayloadError: the payload does not fit the handler's signature.
        """
        name = self.job_type if name is None else name
        if any(each.name == name for each in self.schedules):
            raise InvalidSchedule(f"{self.job_type!r} has a schedule {name!r} already: give this one another name=")
        arguments_by_name = isinstance(payload, Mapping) and not self.payload.is_whole
        if payload is None:
            job = self.new()  # type: ignore[call-arg]  # it may have no arguments
        elif arguments_by_name:
            job = self.new(**payload)  # type: ignore[call-arg]
        else:
            job = self.new(payload)  # type: ignore[call-arg]
        self.schedules.append(Schedule(name, job, **arguments))

    def job_id(self, number: int, /) -> JobId[Result_co]:
        """Return the id of one of its jobs as what `store.wait_for` gets the result's type from."""
        return self._id_type(number)

    def rules(self, backoff: BackoffPolicy) -> Retrying:
        """Return when its attempts are repeated, where the worker's policy is `backoff`."""
        own = self.retrying
        return own if own.backoff is not None else Retrying(backoff, own.retry_on, own.never_retry_on)

    def __repr__(self) -> str:
        """Name the job type and the function."""
        return f"<TypedHandler {self.job_type!r}: {getattr(self.function, '__qualname__', self.function)}>"
