"""Encodes and decodes JSON. A payload that cannot be stored is refused; a result is cleaned where that is possible."""

from __future__ import annotations

import dataclasses
import inspect
import math
import re
import traceback
from typing import Any

from pydantic import Secret, SecretBytes, SecretStr
from pydantic_core import PydanticSerializationError, from_json, to_json

from pqlite.errors import PayloadError

MAX_DEPTH = 200
MAX_ERROR_CHARACTERS = 8000
MAX_MESSAGE_CHARACTERS = 1000
# Python refuses to read an integer of more digits.
_LONG_NUMBER = re.compile(r"(?<!\d)\d{4301}")
_ATOMS = frozenset({str, int, float, bool, type(None)})
_SECRETS = (SecretStr, SecretBytes, Secret)


def encode(value: Any, *, what: str, max_bytes: int) -> str:
    """Return JSON text that PostgreSQL's jsonb stores as it is.

    Accepts what pydantic can serialize: plain JSON values, models, dataclasses, UUID, datetime, Decimal, Enum, set.
    Keys must be strings, or numbers, which JSON writes as strings. A model decides how it writes the keys of its
    fields.

    Raises:
        PayloadError: it cannot be serialized, contains NaN, infinity, NUL, a lone surrogate, a key of another type, two
            keys with the same JSON or a secret, or is too deep or too large; the message names the path.
    """
    try:
        data = to_json(value, inf_nan_mode="constants")
    except (PydanticSerializationError, ValueError, TypeError, RecursionError) as error:
        path, reason = _locate(value, what)
        raise PayloadError(f"{path} cannot be stored as JSON: {reason or error}") from None
    if len(data) > max_bytes:
        raise PayloadError(f"{what} is {len(data):,} bytes of JSON; at most {max_bytes:,} are stored")
    text = data.decode()
    if _needs_check(text):
        try:
            problem = _find_unstorable(from_json(text), what)
        except ValueError as error:
            problem = f"{what} cannot be read back: {error}"
        if problem:
            raise PayloadError(problem)
    if not _is_plain(value) and (problem := _find_loss(value, what, data)):
        raise PayloadError(problem)
    return text


def encode_clean(value: Any, *, max_bytes: int) -> str | None:
    r"""Return JSON text of a handler's result: NaN and infinity become null, NUL and lone surrogates are escaped.

    Raises:
        PayloadError: it cannot be serialized, contains a key or a secret that `encode` refuses, or is too deep or too
            large.
    """
    if value is None:
        return None
    try:
        return encode(value, what="result", max_bytes=max_bytes)
    except PayloadError as refusal:
        try:
            data = to_json(value, inf_nan_mode="null")
            if _find_loss(value, "result", data):
                raise refusal
            cleaned = _clean(from_json(data))
            return encode(cleaned, what="result", max_bytes=max_bytes)
        except (PydanticSerializationError, ValueError, TypeError, RecursionError):
            raise refusal from None


def clean_text(text: str) -> str:
    """Return text that PostgreSQL can store: NUL and lone surrogates are replaced by escape sequences."""
    return text.replace("\x00", "\\x00").encode("utf-8", "backslashreplace").decode()


def format_error(error: BaseException) -> str:
    """Return an exception's traceback with its causes, without locals, in at most 8,000 characters.

    Messages are shortened to 1,000 characters, so that there is room for the frames. If the text is still too long, its
    middle is left out: the beginning says where the exception was raised, the end which one.
    """
    try:
        # Each frame, and each exception's message, is one piece.
        pieces = traceback.TracebackException.from_exception(error).format()
        text = "".join(_shortened(piece, MAX_MESSAGE_CHARACTERS) for piece in pieces)
    except Exception:
        # An exception whose __str__ raises must not make the failure unstorable.
        text = f"{type(error).__name__} (its message could not be read)"
    return clean_text(_shortened(text.strip(), MAX_ERROR_CHARACTERS))


def _shortened(text: str, limit: int) -> str:
    """Return text of at most `limit` characters; the middle is replaced by the number of characters left out."""
    if len(text) <= limit:
        return text
    omission = f" ... ({len(text) - limit:,} characters left out) ... "
    kept = limit - len(omission)
    return f"{text[: kept // 2]}{omission}{text[kept // 2 - kept :]}"


def decode(text: str | None) -> Any:
    """Return the value of JSON text; None for None."""
    return None if text is None else from_json(text)


def _needs_check(text: str) -> bool:
    """Return whether `_find_unstorable` must check the value. A quick test, which most payloads pass with False."""
    return (
        "\\u0000" in text  # searching text, because searching bytes costs twice as much
        or "NaN" in text
        or "Infinity" in text
        # each level takes two characters
        or (len(text) > 2 * MAX_DEPTH and text.count("[") + text.count("{") > MAX_DEPTH)
        or (len(text) > 4300 and _LONG_NUMBER.search(text) is not None)
    )


def _find_unstorable(value: Any, path: str) -> str | None:
    """Return what jsonb cannot store of a JSON value, and where, or None."""
    pending = [(value, path, 1)]
    while pending:
        item, where, depth = pending.pop()
        if depth > MAX_DEPTH:
            return f"{path} is nested deeper than {MAX_DEPTH} levels"
        if isinstance(item, float) and not math.isfinite(item):
            return f"{where} is {item!r}, which JSON cannot express"
        if isinstance(item, str) and "\x00" in item:
            return f"{where} contains a NUL character, which PostgreSQL cannot store"
        if isinstance(item, dict):
            for key, child in item.items():
                if "\x00" in key:
                    return f"a key of {where} contains a NUL character, which PostgreSQL cannot store"
                pending.append((child, f"{where}.{key}", depth + 1))
        elif isinstance(item, list):
            pending.extend((child, f"{where}[{i}]", depth + 1) for i, child in enumerate(item))
    return None


def _is_plain(value: Any) -> bool:
    """Return whether a value consists of JSON's own types only, so that JSON preserves it."""
    kind = type(value)
    if kind is dict:
        for key, item in value.items():
            if type(key) is not str or (type(item) not in _ATOMS and not _is_plain(item)):
                return False
        return True
    if kind is list:
        return all(type(item) in _ATOMS or _is_plain(item) for item in value)
    return kind in _ATOMS


def _find_loss(value: Any, path: str, data: bytes) -> str | None:
    """Return which part of a value its JSON, `data`, does not preserve, or None."""
    pending = [(value, path)]
    while pending:
        item, where = pending.pop()
        if isinstance(item, dict) and (wrong := _wrong_key(item)):
            return f"{where} {wrong}"
        if not hasattr(type(item), "__pydantic_serializer__"):  # a model decides how it writes its keys
            pending.extend(_children(item, where))
    return find_secret(value, path, data)


def find_secret(value: Any, path: str, data: bytes) -> str | None:
    """Return which part of a value is a secret that its JSON, `data`, contains as a mask, or None."""
    pending = [(value, path)]
    while pending:
        item, where = pending.pop()
        if isinstance(item, _SECRETS) and item.get_secret_value() and to_json(item) in data:
            return f"{where} is a {type(item).__name__}, which JSON hides: pass a reference to the secret instead"
        pending.extend(_children(item, where))
    return None


def _wrong_key(value: dict[Any, Any]) -> str | None:
    written: dict[str, Any] = {}
    for key in value:
        if not isinstance(key, (str, int, float)) or isinstance(key, bool) or key != key:
            return f"has the key {key!r}; JSON's keys are strings or numbers"
        (name,) = (key,) if type(key) is str else from_json(to_json({key: None}))
        if name in written:
            return f"has the keys {written[name]!r} and {key!r}, which are the same in JSON"
        written[name] = key
    return None


def _kind(value: Any) -> str:
    if inspect.iscoroutine(value):
        return "it is a coroutine; is an 'await' missing?"
    return f"it is the class {value.__name__}" if isinstance(value, type) else f"its type is {type(value).__name__}"


def _locate(value: Any, root: str) -> tuple[str, str]:
    """Return the path of the first part that cannot be serialized, and why."""
    path = root
    for _ in range(MAX_DEPTH):
        if isinstance(value, dict):
            for key in value:
                try:
                    to_json({key: None})
                except Exception:
                    return path, f"it has the key {key!r}"
        children = _children(value, path)
        for child, where in children:
            try:
                to_json(child)
            except Exception:
                value, path = child, where
                break
        else:
            if isinstance(value, str):
                return path, "it contains a lone surrogate"
            if not children:
                return path, _kind(value)
            if not isinstance(value, (dict, list, tuple)):
                return path, ""  # a model with valid parts: its own serializer fails
            break  # every part is valid, the whole is too deep
    return root, f"it is nested deeper than {MAX_DEPTH} levels or refers to itself"


def _children(value: Any, path: str) -> list[tuple[Any, str]]:
    if isinstance(value, dict):
        return [(child, f"{path}.{key}") for key, child in value.items()]
    if isinstance(value, (list, tuple, set, frozenset)):
        return [(child, f"{path}[{i}]") for i, child in enumerate(value)]
    if dataclasses.is_dataclass(value):
        return [(getattr(value, f.name), f"{path}.{f.name}") for f in dataclasses.fields(value)]
    fields = getattr(type(value), "model_fields", {})
    return [(getattr(value, name), f"{path}.{name}") for name in fields]


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, list):
        return [_clean(item) for item in value]
    if isinstance(value, dict):
        return {clean_text(key): _clean(item) for key, item in value.items()}
    return value
