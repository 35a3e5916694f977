"""The statements of the operator's verbs, for one schema. Values are always parameters."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import lru_cache

from pqlite.schema import render
from pqlite.store.statements import JOB_COLUMNS


@dataclass(frozen=True, slots=True)
class Statements:
    """One statement for each act; JSON is passed as `$n::text::jsonb`, as in the store's."""

    limits: str = "select pg_catalog.set_config('statement_timeout', $1, true)"
    find: str = "select ids, next_at, next_id from pqlite.find_jobs($1::text::jsonb, $2, $3, $4)"
    jobs: str = (
        f"select {JOB_COLUMNS} from pg_catalog.unnest($1::bigint[]) with ordinality w(wanted, place) "  # noqa: S608
        "join pqlite.jobs on id = wanted order by place"
    )
    change: str = "select pqlite.change_jobs($1, $2, $3::text::jsonb, $4)"
    audited: str = "select pqlite.audited($1, $2, $3::text::jsonb, $4, $5)"
    explain: str = "select code, reason from pqlite.explain($1)"


@lru_cache
def for_schema(schema: str) -> Statements:
    """Return the statements for a schema."""
    return Statements(**{field.name: render(str(field.default), schema) for field in fields(Statements)})
