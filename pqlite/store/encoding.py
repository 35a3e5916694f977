"""JSON at the border: what users enqueue is refused when it cannot be stored, what handlers produced is cleaned."""

from __future__ import annotations

import math
import traceback
from typing import Any

from pydantic_core import PydanticSerializationError, from_json, to_json

from pqlite.errors import PayloadError

MAX_DEPTH = 200
MAX_ERROR_CHARACTERS = 8000


def encode(value: Any, *, what: str, max_bytes: int) -> str:
    """Return JSON text that PostgreSQL's jsonb stores as it is.

    Takes what pydantic can serialize: plain JSON values, models, dataclasses, UUID, datetime, Decimal, Enum, set.

    Raises:
        PayloadError: it cannot be serialized, holds NaN, infinity, NUL or a lone surrogate, or is too deep or too
            large; the message names the path.
    """
    try:
        data = to_json(value, inf_nan_mode="constants")
    except (PydanticSerializationError, ValueError, TypeError, RecursionError) as error:
        path, reason = _locate(value, what)
        raise PayloadError(f"{path} cannot be stored as JSON: {reason or error}") from None
    if len(data) > max_bytes:
        raise PayloadError(f"{what} is {len(data):,} bytes of JSON; at most {max_bytes:,} are stored")
    if _may_offend(data) and (offence := _offence(from_json(data), what)):
        raise PayloadError(offence)
    return data.decode()


def encode_clean(value: Any, *, max_bytes: int) -> str | None:
    """Return JSON text of a handler's result: NaN and infinity become null, NUL goes, surrogates are replaced.

    Raises:
        PayloadError: it cannot be serialized at all, is too deep or too large.
    """
    if value is None:
        return None
    try:
        return encode(value, what="result", max_bytes=max_bytes)
    except PayloadError as refusal:
        try:
            cleaned = _clean(from_json(to_json(value, inf_nan_mode="null")))
            return encode(cleaned, what="result", max_bytes=max_bytes)
        except (PydanticSerializationError, ValueError, TypeError, RecursionError):
            raise refusal from None


def clean_text(text: str) -> str:
    """Return text that PostgreSQL stores: without NUL, lone surrogates spelled out."""
    return text.replace("\x00", "\\x00").encode("utf-8", "backslashreplace").decode()


def format_error(error: BaseException) -> str:
    """Return an exception's traceback, without locals, its end kept: the end says what happened."""
    try:
        text = "".join(traceback.format_exception(error))
    except Exception:
        # An exception whose __str__ raises must not make the failure unstorable.
        text = f"{type(error).__name__} (its message could not be read)"
    return clean_text(text.strip()[-MAX_ERROR_CHARACTERS:])


def decode(text: str | None) -> Any:
    """Return the value of JSON text, None for None."""
    return None if text is None else from_json(text)


def _may_offend(data: bytes) -> bool:
    """Return whether a closer look is needed; the common payload passes without one."""
    return (
        b"\\u0000" in data or b"NaN" in data or b"Infinity" in data or data.count(b"[") + data.count(b"{") > MAX_DEPTH
    )


def _offence(value: Any, path: str) -> str | None:
    pending = [(value, path, 1)]
    while pending:
        item, where, depth = pending.pop()
        if depth > MAX_DEPTH:
            return f"{path} is nested deeper than {MAX_DEPTH} levels"
        if isinstance(item, float) and not math.isfinite(item):
            return f"{where} is {item!r}, which JSON has no number for"
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


def _locate(value: Any, path: str, depth: int = 0) -> tuple[str, str]:
    """Return the path of the first part that cannot be serialized, and why."""
    if depth > MAX_DEPTH:
        return path, f"it is nested deeper than {MAX_DEPTH} levels or refers to itself"
    children: list[tuple[Any, str]] = []
    if isinstance(value, dict):
        for key in value:
            try:
                to_json({key: None})
            except Exception:
                return path, f"it has the key {key!r}"
        children = [(child, f"{path}.{key}") for key, child in value.items()]
    elif isinstance(value, (list, tuple)):
        children = [(child, f"{path}[{i}]") for i, child in enumerate(value)]
    for child, where in children:
        try:
            to_json(child)
        except Exception:
            return _locate(child, where, depth + 1)
    if isinstance(value, str):
        return path, "it contains a lone surrogate"
    return path, "" if children else f"it is a {type(value).__name__}"


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, list):
        return [_clean(item) for item in value]
    if isinstance(value, dict):
        return {clean_text(key): _clean(item) for key, item in value.items()}
    return value
