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
    server: str = (
        "select pg_catalog.clock_timestamp(), pg_catalog.current_setting('server_version_num')::int, "
        "pg_catalog.pg_is_in_recovery()"
    )
    stats: str = "select pqlite.stats($1)::text"
    doctor: str = "select severity, code, finding, advice from pqlite.doctor($1)"
    workers: str = (
        "select w.id, w.label, case when w.dead_at is not null then 'dead' "
        "when w.lease_until < pg_catalog.clock_timestamp() then 'silent' else 'alive' end, w.started_at, w.renewed_at, "
        "h.jobs, h.oldest, w.info::text from pqlite.workers w cross join lateral ("
        "select count(*) as jobs, min(j.locked_at) as oldest from pqlite.jobs j "
        "where j.status = 'RUNNING' and j.locked_by = w.id) h order by w.label, w.started_at limit 1000"
    )
    explain: str = "select code, reason from pqlite.explain($1)"


@lru_cache
def for_schema(schema: str) -> Statements:
    """Return the statements for a schema."""
    return Statements(**{field.name: render(str(field.default), schema) for field in fields(Statements)})
