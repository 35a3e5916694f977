"""Converts arguments to a payload when a job is made, and back before it runs, with validation both times."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from copy import deepcopy
from types import NoneType
from typing import Any, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic.errors import PydanticUserError
from pydantic_core import PydanticSerializationError, to_json

from pqlite.errors import ConfigurationError, Fail, PayloadError, Snooze
from pqlite.handlers.exact import Uncertain, Writer, writer_of
from pqlite.handlers.roundtrip import difference, drop_unset
from pqlite.handlers.signature import Signature, is_plain
from pqlite.job import PAYLOAD_VERSION, Job

Upgrade: TypeAlias = Callable[[Any], Any]
"""Converts a payload of one version to the next. It gets a copy of the JSON value, and may change it."""

NEWER_WORKER_WITHIN = 30.0
"""For how many seconds a job is snoozed whose payload is too new, if one is claimed although workers leave it alone."""

_MISSING = inspect.Parameter.empty
_CONFIG = ConfigDict(
    extra="forbid",
    ser_json_bytes="base64",
    val_json_bytes="base64",
    ser_json_inf_nan="constants",  # so that the store refuses them: an argument of any type would become None
)
_UNFIT = (PydanticUserError, TypeError, NameError)
_REPORTED = 5
_PLAIN = frozenset({str, int, float, bool, NoneType})


class Payload:
    """The payload of one job type: an object of its arguments, or a pydantic model if that is the only argument.

    Args:
        job_type: for messages.
        signature: the handler's.
        version, upgrade: the present version, and the functions that convert version n to n + 1; a version without an
            upgrade is not converted.

    Raises:
        ConfigurationError: a parameter's annotation cannot be read from JSON, or an upgrade's version is wrong.
    """

    def __init__(self, job_type: str, signature: Signature, version: int, upgrade: Mapping[int, Upgrade]) -> None:
        if not isinstance(version, int) or isinstance(version, bool) or version < 1:
            raise ConfigurationError(f"version of {job_type!r} must be a whole number of 1 or more, not {version!r}")
        for number, function in upgrade.items():
            if number not in range(1, version):
                raise ConfigurationError(
                    f"upgrade of {job_type!r} has the key {number!r}; version is {version}, so keys are 1 to "
                    f"{version - 1}: {{n: function from version n to n + 1}}"
                )
            if not callable(function):
                raise ConfigurationError(f"upgrade {number} of {job_type!r} must be a function, not {function!r}")
        self.version = version
        self._job_type = job_type
        self._signature = signature
        self._upgrade = dict(upgrade)
        self._names = {f"argument_{number}": name for number, name in enumerate(signature.payload)}
        self._whole: tuple[str, type[BaseModel]] | None = None
        if len(signature.payload) == 1:
            ((name, (annotation, _)),) = signature.payload.items()
            if isinstance(annotation, type) and issubclass(annotation, BaseModel):
                self._whole = name, annotation
        annotations = [annotation for annotation, _ in signature.payload.values()]
        self._plain = all(is_plain(annotation, _PLAIN) for annotation in annotations)
        """Whether the arguments are plain JSON values, which arrive unchanged."""
        self._model = self._whole[1] if self._whole is not None else self._made_model()
        writers = {
            field: writer_of(note, with_defaults=False) for field, note in zip(self._names, annotations, strict=True)
        }
        self._writers: dict[str, Writer] | None = {field: each for field, each in writers.items() if each is not None}
        if len(self._writers) < len(writers):
            self._writers = None

    def _made_model(self) -> type[BaseModel]:
        # The arguments' names are aliases of generated field names, so that they may be names that BaseModel uses.
        fields: dict[str, Any] = {}
        for field, name in self._names.items():
            annotation, default = self._signature.payload[name]
            fields[field] = annotation, Field(alias=name) if default is _MISSING else Field(default=None, alias=name)
        try:
            return _model(fields)
        except _UNFIT as error:
            for field, name in self._names.items():
                try:
                    _model({field: fields[field]})
                except _UNFIT as reason:
                    raise ConfigurationError(
                        f"Parameter {name!r} of {self._job_type!r} cannot be part of its payload: "
                        f"{str(reason).partition(chr(10))[0]} Other objects can be injected: {name} = Depends(...)"
                    ) from None
            raise ConfigurationError(f"The arguments of {self._job_type!r} cannot be a payload: {error}") from None

    @property
    def is_whole(self) -> bool:
        """Return whether it is a pydantic model, and not an object of arguments."""
        return self._whole is not None

    def of(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Return the payload that calls the handler with these arguments, without those that were left out.

        Raises:
            PayloadError: they do not fit the signature, or would not arrive unchanged.
        """
        values = self._bound(args, kwargs)
        # Not model_validate, whose options cost half as much time as the validation.
        validate = self._model.__pydantic_validator__.validate_python
        try:
            model = validate(values if self._whole is None else self._the_whole(values))
        except ValidationError as error:
            raise PayloadError(f"The arguments of {self._job_type!r} do not fit: {_described(error)}") from None
        if self._plain:
            given = model.__dict__
            return {name: given[field] for field, name in self._names.items() if field in model.model_fields_set}
        if self._writers is not None:
            try:
                return self._written(model, self._writers)
            except Uncertain:
                pass
        return self._compared(model)

    def _written(self, model: BaseModel, writers: Mapping[str, Writer]) -> Any:
        """Return the payload without a comparison.

        Raises:
            Uncertain: it may arrive changed.
        """
        if self._whole is not None:
            (write,) = writers.values()
            return write(model)
        given, values = model.model_fields_set, model.__dict__
        return {self._names[field]: write(values[field]) for field, write in writers.items() if field in given}

    def _compared(self, model: BaseModel) -> Any:
        """Return the payload after reading it back and comparing it.

        Raises:
            PayloadError: it cannot be written or read back, or would arrive changed.
        """
        include = model.model_fields_set if self._whole is None else None
        try:
            payload = model.model_dump(mode="json", by_alias=True, round_trip=True, include=include, warnings=False)
            drop_unset(model, payload)
            text = to_json(payload, inf_nan_mode="constants")
            arriving = self._model.__pydantic_validator__.validate_json(text)
            changed = self._difference(model, arriving)
        except ValidationError as error:
            raise PayloadError(
                f"The arguments of {self._job_type!r} cannot be read back from JSON: {_described(error)}"
            ) from None
        except (PydanticSerializationError, ValueError, TypeError, RecursionError) as error:
            raise PayloadError(f"The arguments of {self._job_type!r} cannot be stored as JSON: {error}") from None
        if changed is not None:
            raise PayloadError(
                f"The arguments of {self._job_type!r} cannot be carried by JSON: {changed}. The handler would receive "
                "other values; the annotation, aliases, `exclude` and serializers decide what JSON carries"
            )
        return payload

    def _difference(self, given: BaseModel, arriving: BaseModel) -> str | None:
        """Return which part of the arguments would arrive changed, or None."""
        if self._whole is not None:
            return difference(given, arriving, self._whole[0])
        for field in given.model_fields_set:
            if found := difference(given.__dict__[field], arriving.__dict__.get(field), self._names[field]):
                return found
        return None

    def arguments(self, job: Job) -> dict[str, Any]:
        """Return the handler's arguments, by name.

        Raises:
            Fail: the payload does not fit the handler.
            Snooze: its version is newer than this worker supports.
            Exception: an upgrade raised it.
        """
        payload = job.payload
        version = job.metadata.get(PAYLOAD_VERSION, 1) if job.metadata else 1
        if version != self.version:
            payload = self._upgraded(payload, version)
        try:
            model = self._model.__pydantic_validator__.validate_json(to_json(payload))
        except ValidationError as error:
            raise Fail(f"The payload does not fit the handler of {self._job_type!r}: {_described(error)}") from None
        if self._whole is not None:
            return {self._whole[0]: model}
        values, given = model.__dict__, model.model_fields_set
        return {name: values[field] for field, name in self._names.items() if field in given}

    def _upgraded(self, payload: Any, version: Any) -> Any:
        if not isinstance(version, int) or isinstance(version, bool) or version < 1:
            raise Fail(f"The job's metadata say {PAYLOAD_VERSION}: {version!r}, which is no version")
        if version > self.version:
            # Not an error, and not counted as an attempt: both releases run during a rolling deploy.
            raise Snooze(
                NEWER_WORKER_WITHIN,
                f"The payload has version {version}; this worker knows {self._job_type!r} up to version "
                f"{self.version} and leaves it to a newer one.",
            )
        payload = deepcopy(payload)
        for number in range(version, self.version):
            if (function := self._upgrade.get(number)) is not None:
                payload = function(payload)
        return payload

    def _bound(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        positional = self._signature.positional
        if len(args) > len(positional):
            raise PayloadError(f"{self._job_type!r} takes {len(positional)} arguments by position, not {len(args)}")
        values = dict(zip(positional, args, strict=False))
        for name in values.keys() & kwargs.keys():
            raise PayloadError(f"{self._job_type!r} was given its argument {name!r} twice")
        values.update(kwargs)
        for name in values.keys() & self._signature.injected.keys():
            raise PayloadError(f"{name!r} of {self._job_type!r} is injected when the job runs; it cannot be passed")
        return values

    def _the_whole(self, values: dict[str, Any]) -> Any:
        assert self._whole is not None
        name, _ = self._whole
        for other in values:
            if other != name:
                raise PayloadError(f"The arguments of {self._job_type!r} do not fit: there is no {other!r}")
        value = values.get(name, self._signature.payload[name][1])
        if value is _MISSING:
            raise PayloadError(f"The arguments of {self._job_type!r} do not fit: {name}: Field required")
        return value


def _model(fields: dict[str, Any]) -> type[BaseModel]:
    model: type[BaseModel] = create_model("Arguments", __config__=_CONFIG, **fields)
    return model


def _described(error: ValidationError) -> str:
    """Return what is wrong and where, without the values: they may be secrets, and the text is logged."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    parts = [f"{'.'.join(map(str, each['loc'])) or 'payload'}: {each['msg']}" for each in found[:_REPORTED]]
    return "; ".join(parts) + (f" (and {len(found) - _REPORTED} more)" if len(found) > _REPORTED else "")
