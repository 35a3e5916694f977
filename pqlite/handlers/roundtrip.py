"""Compares a value with what JSON makes of it: a handler must receive the values that its job was given."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict, deque
from datetime import UTC, date, datetime, timedelta
from enum import Enum
from functools import cache
from typing import Any
from uuid import UUID

from pydantic import BaseModel, RootModel, Secret, SecretBytes, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

_ATOMS = frozenset({str, int, float, bool, bytes, type(None), UUID, date, timedelta})
_EMPTY = frozenset({list, dict, set, frozenset, tuple, str, bytes, int, float, bool})
_ABSENT = object()


def difference(given: Any, arriving: Any, path: str, sets: bool = True) -> str | None:
    """Return the first part that differs, with its path and without its value, or None if the two are equal.

    Models are equal if their fields, extra fields, private attributes and, unless `sets` is false, `model_fields_set`
    are equal; a field that `drop_unset` keeps may arrive as set. NaN equals NaN, and two aware times are equal if they
    are the same instant. Objects of a type without `__eq__` are equal if their attributes are equal.
    """
    kind = type(given)
    if kind in _ATOMS and kind is type(arriving):
        same = given == arriving or (given != given and arriving != arriving)
        return None if same else f"{path} would arrive changed"
    if kind is not type(arriving) and (isinstance(given, (bool, BaseModel)) or isinstance(arriving, bool)):
        return _changed_type(given, arriving, path)
    if isinstance(given, BaseModel):
        return _between_models(given, arriving, path, sets)
    if kind is type(arriving):
        if isinstance(given, dict):
            return _between_dicts(given, arriving, path, sets)
        if isinstance(given, (list, tuple, deque)) and len(given) == len(arriving):
            pairs = enumerate(zip(given, arriving, strict=True))
            return next(filter(None, (difference(*pair, f"{path}[{i}]", sets) for i, pair in pairs)), None)
        if isinstance(given, (set, frozenset)) and given == arriving:
            twins = {item: item for item in arriving}
            found = (difference(item, twins[item], f"{path}[...]", sets) for item in given)
            return next(filter(None, found), None)
        if dataclasses.is_dataclass(given):
            return _between_attributes(vars_of(given), vars_of(arriving), path, sets)
        if isinstance(given, (SecretStr, SecretBytes, Secret)) and given != arriving:
            return f"{path} is a {kind.__name__}, which JSON hides: pass a reference to the secret instead"
    if _equal(given, arriving, sets):
        return None
    return _changed_type(given, arriving, path) if kind is not type(arriving) else f"{path} would arrive changed"


def drop_unset(value: Any, written: Any) -> None:
    """Remove from a value's JSON all fields of models, nested ones too, that are not set and have their default.

    The model adds them again when it is read. A field that is not set but was changed in place stays, and so does a
    field whose default is made by a function, which could return another value.
    """
    if type(value) in _ATOMS:
        return
    if isinstance(value, RootModel):
        drop_unset(value.root, written)
    elif isinstance(value, BaseModel) and isinstance(written, dict):
        given = value.model_fields_set
        for name, (key, field) in _fields_of(type(value)).items():
            if key not in written:
                continue
            item = value.__dict__.get(name, _ABSENT)
            if name not in given and is_default(field, item):
                del written[key]
            else:
                drop_unset(item, written[key])
    elif dataclasses.is_dataclass(value) and isinstance(written, dict):
        for name, item in vars_of(value).items():
            drop_unset(item, written.get(name))
    elif isinstance(value, dict) and isinstance(written, dict) and len(value) == len(written):
        for item, child in zip(value.values(), written.values(), strict=True):
            drop_unset(item, child)
    elif isinstance(value, (list, tuple, set, frozenset, deque)) and isinstance(written, list):
        for item, child in zip(value, written, strict=False):
            drop_unset(item, child)


def vars_of(value: Any) -> dict[str, Any]:
    """Return the fields of a dataclass instance; it may have slots."""
    return {field.name: getattr(value, field.name, _ABSENT) for field in dataclasses.fields(value)}


@cache
def _fields_of(kind: type[BaseModel]) -> dict[str, tuple[str, FieldInfo]]:
    """Return a model's fields and the key that each has in JSON."""
    return {name: (field.serialization_alias or name, field) for name, field in kind.model_fields.items()}


def is_default(field: FieldInfo, item: Any) -> bool:
    """Return whether a value is its field's default, and the default is constant."""
    factory: Any = field.default_factory
    if factory is None:
        return field.default is not PydanticUndefined and difference(field.default, item, "") is None
    constant = factory in _EMPTY or (
        isinstance(factory, type)
        and issubclass(factory, BaseModel)
        and all(
            each.default_factory is None or each.default_factory in _EMPTY for each in factory.model_fields.values()
        )
    )
    return constant and difference(factory(), item, "") is None


def _between_models(given: BaseModel, arriving: BaseModel, path: str, sets: bool) -> str | None:
    fields = _fields_of(type(given))
    if isinstance(given, RootModel) and isinstance(arriving, RootModel):
        return difference(given.root, arriving.root, path, sets)
    own, others = given.__dict__, arriving.__dict__
    for name in fields:
        if found := difference(own.get(name, _ABSENT), others.get(name, _ABSENT), f"{path}.{name}", sets):
            return found
    for kept, kept_arriving in (
        (given.model_extra, arriving.model_extra),
        (given.__pydantic_private__, arriving.__pydantic_private__),
    ):
        if kept and (found := _between_attributes(kept, kept_arriving or {}, path, sets)):
            return found
    if sets and given.model_fields_set != arriving.model_fields_set:
        for name in sorted(given.model_fields_set ^ arriving.model_fields_set):
            if name in given.model_fields_set:
                return f"{path}.{name} is set and would arrive as not set"
            if name not in fields or is_default(fields[name][1], given.__dict__.get(name)):
                return f"{path}.{name} is not set and would arrive as set"
    return None


def _between_attributes(given: dict[str, Any], arriving: dict[str, Any], path: str, sets: bool) -> str | None:
    for name, item in given.items():
        if found := difference(item, arriving.get(name, _ABSENT), f"{path}.{name}", sets):
            return found
    return None


def _between_dicts(given: dict[Any, Any], arriving: dict[Any, Any], path: str, sets: bool) -> str | None:
    for key, item in given.items():
        if key not in arriving:
            return f"{path} has a key of type {type(key).__name__} that would not arrive"
        if found := difference(item, arriving[key], f"{path}.{key}", sets):
            return found
    if len(given) != len(arriving):
        return f"{path} would arrive with other keys"
    if isinstance(given, OrderedDict) and list(given) != sorted(given, key=_place_of_key):
        return f"{path} is an OrderedDict, whose order PostgreSQL does not keep: pass a list of pairs"
    return None


def _place_of_key(key: Any) -> tuple[int, bytes]:
    name = str(key).encode(errors="replace")
    return len(name), name  # as jsonb sorts keys


def _equal(given: Any, arriving: Any, sets: bool) -> bool:
    if isinstance(given, datetime) and isinstance(arriving, datetime) and given.tzinfo and arriving.tzinfo:
        # In Python, a time in the repeated hour of a clock change equals no time of another zone.
        given, arriving = given.astimezone(UTC), arriving.astimezone(UTC)
    try:
        if given is arriving or given == arriving or (given != given and arriving != arriving):
            return True
    except Exception:
        return False  # such as arrays, whose comparison gives no single truth value
    comparable: Any = type(given).__eq__
    if type(given) is not type(arriving) or comparable is not object.__eq__ or isinstance(given, Enum):
        return False
    try:
        state, other = given.__reduce_ex__(2)[2], arriving.__reduce_ex__(2)[2]
    except Exception:
        return True  # it has no readable state, such as a lock
    return difference(state, other, "", sets) is None


def _changed_type(given: Any, arriving: Any, path: str) -> str:
    if arriving is _ABSENT:
        return f"{path} would not arrive"
    if given is _ABSENT:
        return f"{path} is missing, and would arrive with its default"
    return f"{path} is of type {type(given).__name__} and would arrive as {type(arriving).__name__}"
