"""How the commands print what they found."""

from __future__ import annotations

import getpass
import shutil
import sys
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from pydantic_core import to_json


def as_json(value: Any) -> str:
    """Return the value as JSON for scripts; what JSON has no form for as text."""
    return to_json(value, indent=2, fallback=str).decode()


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return the rows, of which the first is the heads, in columns; lines that are too long for a terminal are cut."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    room = shutil.get_terminal_size().columns if sys.stdout.isatty() else None  # a script gets everything
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip()[:room] for row in rows)


def facts(named: dict[str, Any]) -> str:
    """Return names and values, one a line, without those that are empty."""
    shown = {name.replace("_", " "): value for name, value in named.items() if value not in (None, "", [], {})}
    width = max(map(len, shown), default=0)
    return "\n".join(f"{name:{width}}  {_plain(value)}" for name, value in shown.items())


def moment(time: datetime | None) -> str:
    """Return a time of the database, in UTC."""
    return "-" if time is None else f"{time:%Y-%m-%d %H:%M:%S}"


def shortened(text: str | None, width: int) -> str:
    """Return the last line of a text, at most `width` characters of it."""
    line = (text or "").rstrip().rpartition("\n")[2]
    return line if len(line) <= width else line[: width - 3] + "..."


def user() -> str | None:
    """Return the name of the user that runs the command."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # no such user, as in some containers
        return None


def _plain(value: Any) -> str:
    if isinstance(value, (dict, list)):
        return to_json(value, fallback=str).decode()
    return f"{value:%Y-%m-%d %H:%M:%S} UTC" if isinstance(value, datetime) else str(value)
