"""Writes a handler's result as JSON and reads it back, according to its return annotation."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, create_model
from pydantic.errors import PydanticUserError
from pydantic_core import from_json, to_json

from pqlite.codec import find_secret
from pqlite.errors import ConfigurationError, HandlerSignal, PayloadError, UnexpectedResult
from pqlite.handlers.exact import Uncertain, Writer, writer_of
from pqlite.handlers.roundtrip import difference
from pqlite.handlers.signature import is_plain, returned_by

# A float is not among them: NaN and infinity are written as strings, which are read as numbers again.
_PLAIN = frozenset({str, int, bool, NoneType, Any, list, dict})
_CONFIG = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64", ser_json_inf_nan="strings")


class Result:
    """The result of one job type. Its annotation is resolved when a worker starts, or at the first use."""

    def __init__(self, job_type: str, function: Callable[..., Any]) -> None:
        self._job_type = job_type
        self._function = function

    def read(self, result: Any) -> Any:
        """Return a job's result, a JSON value, converted to the annotation; without one, unchanged.

        Raises:
            UnexpectedResult: it does not fit. ConfigurationError: the annotation's type cannot be read from JSON.
        """
        try:
            return self._model.__pydantic_validator__.validate_json(to_json({"value": result})).value
        except ValidationError as error:
            raise UnexpectedResult(f"The result of {self._job_type!r} does not fit: {_first(error)}") from None

    @cached_property
    def writer(self) -> Callable[[Any], Any] | None:
        """Converts a handler's result to JSON. Raises PayloadError if the result does not fit the annotation, or would
        be read back as another value; `model_fields_set` is not kept.

        It is None, and results are stored unconverted, if there is no annotation, if its type cannot be read from JSON,
        or if it is None (then it does not describe the result that the handler passes to `ctx.complete`).
        """
        try:
            return None if self._annotation in (Any, NoneType) or self._model is None else self._write
        except ConfigurationError:
            return None  # `read` raises the error

    def _write(self, value: Any) -> Any:
        annotation = self._annotation
        try:
            model = self._model.__pydantic_validator__.validate_python({"value": value})
            if is_plain(annotation, _PLAIN):
                return model.value
            if self._exact_writer is not None:
                try:
                    return self._exact_writer(model.value)
                except Uncertain:
                    pass
            text = model.model_dump_json(by_alias=True, round_trip=True, warnings=False).encode()
            if secret := find_secret(model.value, "result", text):
                raise PayloadError(secret)
            arriving = self._model.__pydantic_validator__.validate_json(text)
            if changed := difference(model.value, arriving.value, "result", sets=False):
                raise PayloadError(f"by the annotation {_shown(annotation)}, {changed}")
        except PayloadError:
            raise
        except Exception as error:  # a validator or serializer of the user's may raise anything
            reason = _first(error) if isinstance(error, ValidationError) else f"result: {error}"
            raise PayloadError(f"it does not fit the annotation {_shown(annotation)}: {reason}") from None
        return from_json(text)["value"]

    @cached_property
    def _exact_writer(self) -> Writer | None:
        return writer_of(self._annotation, with_defaults=True)

    @cached_property
    def _annotation(self) -> Any:
        return _without_signals(returned_by(self._function, f"the handler of {self._job_type!r}"))

    @cached_property
    def _model(self) -> type[BaseModel]:
        try:
            model: type[BaseModel] = create_model("Result", __config__=_CONFIG, value=(self._annotation, ...))
        except (PydanticUserError, TypeError, NameError) as error:
            raise ConfigurationError(
                f"The handler of {self._job_type!r} returns {self._annotation!r}, which cannot be read from JSON: "
                f"{str(error).partition(chr(10))[0]}"
            ) from None
        return model


def _first(error: ValidationError) -> str:
    """Return where the first error is and what it is, without the value: it may be a secret."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    return f"{'.'.join(map(str, first['loc'][1:])) or 'result'}: {first['msg']}"


def _shown(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) and not get_args(annotation) else str(annotation)


def _without_signals(annotation: Any) -> Any:
    """Return a union without the signals that a handler may return instead of a result, such as Snooze."""
    if get_origin(annotation) not in (Union, UnionType):
        return NoneType if _is_signal(annotation) else annotation
    kept = tuple(each for each in get_args(annotation) if not _is_signal(each))
    return Union[kept] if kept else NoneType  # noqa: UP007 - of a tuple


def _is_signal(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, HandlerSignal)
