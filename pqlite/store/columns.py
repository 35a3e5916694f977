"""How rows become the arguments of the SQL functions that enqueue: all of them take COLUMNS, in that order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic_core import to_json

from pqlite.job import NewJob
from pqlite.store.validation import COLUMNS, Row, row

DEFAULTS: Row = (None, *row(NewJob(job_type="any"), max_payload_bytes=2)[1:])
"""The values that the SQL functions use for null, by column. There is no default job type."""
JSON = ("payload", "metadata")
"""The columns that are JSON."""
LINES = ("payload", "tags", "metadata")
"""The columns that many jobs send as one text with a line of JSON for each job. It is faster to pass than an array of
texts (a third of a microsecond per element), and compact JSON contains no line feed.
"""
KEY = COLUMNS.index("dedupe_key")
PAYLOAD, TAGS, METADATA = (COLUMNS.index(column) for column in LINES)


def parameters() -> str:
    """Return the parameters of a statement that enqueues one row, and takes the time to wait for a held key as well."""
    each = [f"${n}::text::jsonb" if column in JSON else f"${n}" for n, column in enumerate(COLUMNS, 1)]
    return ", ".join([*each, f"${len(each) + 1}"])


def array_parameters(*, keyed: bool) -> str:
    """Return the parameters of a statement that takes `arguments(rows, keyed=keyed)`, and with keys the time to wait
    for a held one as well.
    """
    columns = [column for column in COLUMNS if keyed or column != "dedupe_key"]
    each = [
        rf"pg_catalog.string_to_array(${n}, E'\n')" if column in LINES else f"${n}"
        for n, column in enumerate(columns, 1)
    ]
    return ", ".join([*each, f"${len(each) + 1}"] if keyed else each)


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
