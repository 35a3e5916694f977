"""TypedHandler, a declared handler: it can be called like its function, and makes jobs."""

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
    """A function that was declared with `@handlers.job(...)`.

    Calling it calls the function as if it had not been decorated: for unit tests, with your own dependencies. A context
    for that is `JobContext(await store.pickup("test"), store, "test")`, after the job was enqueued. `new` makes jobs.
    For type checkers, `Call` and `Answer_co` are the parameters and the return type of the function, `Arguments` the
    parameters without the context, and `Result_co` the type of the job's result.

    Attributes:
        function: the plain function.
        job_type, aliases: the names under which workers claim its jobs.
        version: the version of the payloads that it makes.
        injection: the dependencies for the attempts that start from now on.
        schedules: the schedules that `@handlers.cron` and `@handlers.every` have declared on it.

    Raises:
        ConfigurationError: the declaration is invalid; the message says why.
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
        if isinstance(function, TypedHandler):  # declared before, under another name
            function = function.function
        if not callable(function):
            raise ConfigurationError(f"The handler of {job_type!r} must be a function, not {function!r}")
        refuse_generator(function, f"The handler of {job_type!r}")
        update_wrapper(self, function, updated=())  # without the function's own attributes
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
        # A class for each handler instead of an attribute of each id: there may be a million ids.
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
            if isinstance(ctx, JobContext) and ctx._write is as_it_is:  # not made by a worker
                ctx._write = self.result.writer
        answer: Answer_co = self.function(*args, **kwargs)
        return answer

    def new(self, /, *args: Arguments.args, **kwargs: Arguments.kwargs) -> TypedJob[Result_co]:
        """Return a job that will call the handler with these arguments; nothing happens until it is enqueued.

            await store.enqueue(send_welcome.new(42, template="short"), conn=session, priority=5)
            await store.enqueue_many(send_welcome.new(i) for i in ids)

        It has the declaration's queue, priority and so on; `.with_options(...)` and `enqueue` can change them.

        Raises:
            PayloadError: the arguments do not fit the handler's signature, or would not arrive unchanged (apart from
                pydantic's conversion to the annotated types). The message has the path. Values that only the store can
                check, such as NaN, are refused by `enqueue`.
        """
        payload = self.payload.of(args, kwargs)
        return TypedJob(
            job_type=self.job_type, payload=payload, version=self.version, id_type=self._id_type, **self._defaults
        )

    def add_schedule(self, name: str | None, payload: Any, **arguments: Any) -> None:
        """Add a schedule of its jobs; `arguments` are those of Schedule.

        Args:
            name: the schedule's name; None: the job type.
            payload: the arguments of the handler by name, or its one argument, or None for none.

        Raises:
            InvalidSchedule: an argument is invalid, or the name is used by another schedule of this handler.
            PayloadError: the payload does not fit the handler's signature.
        """
        name = self.job_type if name is None else name
        if any(each.name == name for each in self.schedules):
            raise InvalidSchedule(f"{self.job_type!r} has a schedule {name!r} already: give this one another name=")
        arguments_by_name = isinstance(payload, Mapping) and not self.payload.is_whole
        if payload is None:
            job = self.new()  # type: ignore[call-arg]  # the handler may have no arguments
        elif arguments_by_name:
            job = self.new(**payload)  # type: ignore[call-arg]
        else:
            job = self.new(payload)  # type: ignore[call-arg]
        self.schedules.append(Schedule(name, job, **arguments))

    def job_id(self, number: int, /) -> JobId[Result_co]:
        """Return the id of one of its jobs as a JobId, which gives `store.wait_for` the result's type."""
        return self._id_type(number)

    def rules(self, backoff: BackoffPolicy) -> Retrying:
        """Return its retry rules, with the worker's policy `backoff` unless it has its own."""
        own = self.retrying
        return own if own.backoff is not None else Retrying(backoff, own.retry_on, own.never_retry_on)

    def __repr__(self) -> str:
        """Show the job type and the function."""
        return f"<TypedHandler {self.job_type!r}: {getattr(self.function, '__qualname__', self.function)}>"
