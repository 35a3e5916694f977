"""The SQL of the benchmarks: one statement per file in sql/, or a whole script."""

from __future__ import annotations

import importlib.resources
from functools import cache


@cache
def statement(name: str) -> str:
    """Return the text of sql/<name>.sql."""
    return (importlib.resources.files("pqlite.bench") / "sql" / f"{name}.sql").read_text(encoding="utf-8")
