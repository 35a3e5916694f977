"""Turns rows into the column arrays that the SQL functions for many jobs take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic_core import to_json

from pqlite.store.validation import COLUMNS, Row

# The values that the SQL functions use for null, by column. There is no default job type.
DEFAULTS: Row = (None, "{}", None, None, None, 0, 5, None, "default", (), "{}", None, None)
KEY = COLUMNS.index("dedupe_key")
PAYLOAD, TAGS, METADATA = (COLUMNS.index(column) for column in ("payload", "tags", "metadata"))


def arguments(rows: Sequence[Row], *, keyed: bool) -> list[Any]:
    """Return the arguments of the statement: a column in which all values are equal as one value, and one with only
    default values as None.
    """
    columns: list[Any] = []
    for values, default in zip(zip(*rows, strict=True), DEFAULTS, strict=True):
        if values.count(values[0]) < len(rows):
            columns.append(values)
        else:
            columns.append(None if values[0] == default else values[:1])
    if (tags := columns[TAGS]) is not None:
        columns[TAGS] = [to_json(each).decode() for each in tags]
    columns[PAYLOAD] = [
        values[PAYLOAD] for values in rows
    ]  # always all of them, because their number is the number of rows
    for column in (PAYLOAD, TAGS, METADATA):
        if columns[column] is not None:
            columns[column] = "\n".join(columns[column])
    if not keyed:
        del columns[KEY]
    return columns
