"""A fast path to JSON for values that are certain to arrive unchanged, so that they need not be read back and compared.

A writer takes a value and returns the JSON value that pydantic would write, or raises Uncertain: then the value is
read back and compared (see roundtrip.py). It checks the value's own type as well as the annotation, because pydantic
does not validate again a model that was made without validation, or changed afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from math import isfinite
from types import NoneType, UnionType
from typing import Any, Literal, TypeAlias, Union, get_args, get_origin
from uuid import UUID

from pydantic import BaseModel, RootModel
from pydantic.fields import FieldInfo

from pqlite.handlers.roundtrip import is_default

Writer: TypeAlias = Callable[[Any], Any]
"""Returns a value's JSON value, or raises Uncertain."""

_HARMLESS = frozenset({"extra", "frozen", "from_attributes", "populate_by_name", "title", "validate_assignment"})
"""Options of a model's configuration that do not affect its JSON."""


class Uncertain(Exception):
    """The value may arrive changed."""


def writer_of(annotation: Any, *, with_defaults: bool) -> Writer | None:
    """Return the writer of an annotation's values, or None if they must be compared.

    There is one for str, int, bool, float, None, Decimal, UUID, date, datetime, enumerations and Literals of strings,
    lists, dictionaries with string keys, optionals, and models of these that have no aliases, excluded or private
    fields, constraints, validators, serializers or `__init__` of their own, and do not contain themselves. It omits a
    model's fields that are not set and have their constant default, unless `with_defaults`.
    """
    return _writer_of(annotation, with_defaults, ())


def _writer_of(annotation: Any, with_defaults: bool, around: tuple[type[BaseModel], ...]) -> Writer | None:
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is None:
        if not isinstance(annotation, type):
            return None
        if annotation in _ATOMS:
            return _ATOMS[annotation]
        if issubclass(annotation, BaseModel):
            return None if annotation in around else _of_model(annotation, with_defaults, (*around, annotation))
        return _of_enum(annotation) if issubclass(annotation, Enum) else None
    if origin is Literal:
        return _of_literal(parts) if all(type(part) is str for part in parts) else None
    if origin is list and (item := _writer_of(parts[0], with_defaults, around)):
        return _of_list(item)
    if origin is dict and parts[0] is str and (item := _writer_of(parts[1], with_defaults, around)):
        return _of_dict(item)
    if origin in (Union, UnionType) and len(parts) == 2 and NoneType in parts:
        (part,) = (part for part in parts if part is not NoneType)
        if item := _writer_of(part, with_defaults, around):
            return _of_optional(item)
    return None


def _unchanged(kind: type) -> Writer:
    def write(value: Any) -> Any:
        if type(value) is not kind:
            raise Uncertain
        return value

    return write


def _float(value: Any) -> Any:
    if type(value) is not float or not isfinite(value):
        raise Uncertain
    return value


def _decimal(value: Any) -> Any:
    if type(value) is not Decimal or not value.is_finite():
        raise Uncertain
    return str(value)


def _uuid(value: Any) -> Any:
    if type(value) is not UUID:
        raise Uncertain
    return str(value)


def _date(value: Any) -> Any:
    if type(value) is not date:
        raise Uncertain
    return value.isoformat()


def _datetime(value: Any) -> Any:
    if type(value) is not datetime:
        raise Uncertain
    if value.tzinfo is None:
        return value.isoformat()
    if value.tzinfo is not UTC:
        raise Uncertain
    return f"{value.isoformat()[:-6]}Z"


_ATOMS: dict[Any, Writer] = {
    **{kind: _unchanged(kind) for kind in (str, int, bool, NoneType)},
    float: _float,
    Decimal: _decimal,
    UUID: _uuid,
    date: _date,
    datetime: _datetime,
}


def _of_enum(kind: type[Enum]) -> Writer | None:
    if hasattr(kind, "__get_pydantic_core_schema__") or not all(type(each.value) is str for each in kind):
        return None

    def write(value: Any) -> Any:
        if type(value) is not kind:
            raise Uncertain
        return value.value

    return write


def _of_literal(allowed: tuple[str, ...]) -> Writer:
    def write(value: Any) -> Any:
        if type(value) is not str or value not in allowed:
            raise Uncertain
        return value

    return write


def _of_list(item: Writer) -> Writer:
    def write(value: Any) -> Any:
        if type(value) is not list:
            raise Uncertain
        return [item(each) for each in value]

    return write


def _of_dict(item: Writer) -> Writer:
    def write(value: Any) -> Any:
        if type(value) is not dict:
            raise Uncertain
        for key in value:
            if type(key) is not str:
                raise Uncertain
        return {key: item(each) for key, each in value.items()}

    return write


def _of_optional(item: Writer) -> Writer:
    def write(value: Any) -> Any:
        return None if value is None else item(value)

    return write


def _of_model(kind: type[BaseModel], with_defaults: bool, around: tuple[type[BaseModel], ...]) -> Writer | None:
    if not _is_simple(kind):
        return None
    fields: list[tuple[str, FieldInfo, Writer]] = []
    for name, field in kind.model_fields.items():
        write_item = _writer_of(field.annotation, with_defaults, around) if _is_simple_field(field) else None
        if write_item is None:
            return None
        fields.append((name, field, write_item))
    names = frozenset(kind.model_fields)

    def write(value: Any) -> Any:
        if type(value) is not kind:
            raise Uncertain
        values, given = value.__dict__, value.__pydantic_fields_set__
        if not (given <= names <= values.keys()) or value.__pydantic_extra__:
            raise Uncertain
        written = {}
        for name, field, write_item in fields:
            item = values[name]
            json = write_item(item)
            if with_defaults or name in given or not is_default(field, item):
                written[name] = json
        return written

    return write


def _is_simple(kind: type[BaseModel]) -> bool:
    """Return whether pydantic reads and writes the model field by field, without code of the user."""
    decorators = kind.__pydantic_decorators__
    return (
        not issubclass(kind, RootModel)
        and kind.__pydantic_complete__
        and kind.model_config.keys() <= _HARMLESS
        and kind.model_config.get("extra") != "allow"
        and not any(getattr(decorators, each) for each in decorators.__slots__)
        and not kind.__private_attributes__
        and all(getattr(kind, name) is getattr(BaseModel, name) for name in ("__init__", "model_dump", "__new__"))
        and kind.model_post_init is BaseModel.model_post_init
        and not any("__get_pydantic_core_schema__" in vars(each) for each in kind.__mro__ if each is not BaseModel)
    )


def _is_simple_field(field: FieldInfo) -> bool:
    return (
        not field.metadata
        and not field.exclude
        and not field.validate_default
        and field.discriminator is None
        and field.alias is None
        and field.validation_alias is None
        and field.serialization_alias is None
    )
