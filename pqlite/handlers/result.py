"""A handler's result: written as JSON, and read back, by its return annotation."""

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
    """The result of one job type. Its annotation is resolved when a worker starts, or when somebody first asks."""

    def __init__(self, job_type: str, function: Callable[..., Any]) -> None:
        self._job_type = job_type
        self._function = function

    def read(self, result: Any) -> Any:
        """Return a job's result, a JSON value, as what the annotation says; without one, as it is.

        Raises:
            UnexpectedResult: it does not fit. ConfigurationError: nothing of the kind can be read from JSON.
        """
        try:
            return self._model.__pydantic_validator__.validate_json(to_json({"value": result})).value
        except ValidationError as error:
            raise UnexpectedResult(f"The result of {self._job_type!r} does not fit: {_first(error)}") from None

    @cached_property
    def writer(self) -> Callable[[Any], Any] | None:
        """Makes a JSON value of what the handler returns. Raises PayloadError for what does not fit the annotation, or
        would be read as something else than what was returned; which fields of a model were set is not kept.

        None where the result is stored as it is: the annotation is missing, or can be neither written nor read, or is
        None, which says nothing of the result that such a handler gives to `ctx.complete`.
        """
        try:
            return None if self._annotation in (Any, NoneType) or self._model is None else self._write
        except ConfigurationError:
            return None  # whoever waits for a result is told

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
    """Return where the first fault is, and what it is. Not the value: it may be a secret."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    return f"{'.'.join(map(str, first['loc'][1:])) or 'result'}: {first['msg']}"


def _shown(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) and not get_args(annotation) else str(annotation)


def _without_signals(annotation: Any) -> Any:
    """Return a union without what a handler returns instead of a result: Snooze and the like."""
    if get_origin(annotation) not in (Union, UnionType):
        return NoneType if _is_signal(annotation) else annotation
    kept = tuple(each for each in get_args(annotation) if not _is_signal(each))
    return Union[kept] if kept else NoneType  # noqa: UP007 - made of what is only known here


def _is_signal(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, HandlerSignal)
