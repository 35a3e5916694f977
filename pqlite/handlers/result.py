"""A handler's result, read back from JSON as what its return annotation says."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError
from pydantic_core import to_json

from pqlite.errors import ConfigurationError, HandlerSignal, UnexpectedResult
from pqlite.handlers.signature import returned_by


class Result:
    """The result of one job type. The annotation is looked at when somebody first asks: most never do."""

    def __init__(self, job_type: str, function: Callable[..., Any]) -> None:
        self._job_type = job_type
        self._function = function

    def read(self, result: Any) -> Any:
        """Return a job's result, a JSON value, as what the annotation says; without one, as it is.

        Raises:
            UnexpectedResult: it does not fit. ConfigurationError: nothing of the kind can be read from JSON.
        """
        try:
            return self._adapter.validate_json(to_json(result))
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"])) or "result"
            raise UnexpectedResult(f"The result of {self._job_type!r} does not fit: {where}: {first['msg']}") from None

    @cached_property
    def _adapter(self) -> TypeAdapter[Any]:
        annotation = returned_by(self._function, f"the handler of {self._job_type!r}")
        try:
            return TypeAdapter(_without_signals(annotation))
        except (PydanticUserError, TypeError, NameError) as error:
            raise ConfigurationError(
                f"The handler of {self._job_type!r} returns {annotation!r}, which cannot be read from JSON: "
                f"{str(error).partition(chr(10))[0]}"
            ) from None


def _without_signals(annotation: Any) -> Any:
    """Return a union without what a handler returns instead of a result: Snooze and the like."""
    if get_origin(annotation) not in (Union, UnionType):
        return NoneType if _is_signal(annotation) else annotation
    kept = tuple(each for each in get_args(annotation) if not _is_signal(each))
    return Union[kept] if kept else NoneType  # noqa: UP007 - made of what is only known here


def _is_signal(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, HandlerSignal)
