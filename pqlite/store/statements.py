"""The statements that call the SQL functions in ddl/functions, for one schema. Values are always parameters."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import lru_cache

from pqlite.schema import render
from pqlite.store.columns import array_parameters, parameters

JOB_COLUMNS = (
    "id, job_type, payload::text, queue, priority, run_after, attempts, max_attempts, claims, crashes, "
    "timeout_seconds, dedupe_key, concurrency_key, tags, metadata::text, created_at, locked_at, locked_by, status, "
    "cancel_requested_at, updated_at, finished_at, expires_at, duration_ms, waiting_on, progress::text, result::text, "
    "last_error, errors::text"
)
"""A whole job, in the order of `rows.job_from_row`."""


@dataclass(frozen=True, slots=True)
class Statements:
    """One statement for each act. JSON is passed as `$n::text::jsonb`; a codec that the user has set for jsonb would
    encode it again otherwise.
    """

    enqueue: str = f"select id, inserted, cancelling from pqlite.enqueue({parameters()})"  # noqa: S608 - constant text
    enqueue_many: str = (
        f"select ordinal, id, inserted, cancelling from pqlite.enqueue_many({array_parameters(keyed=True)})"  # noqa: S608
    )
    enqueue_keyless: str = f"select pqlite.enqueue_keyless({array_parameters(keyed=False)})"
    holder: str = "select locked_by from pqlite.job($1)"
    get: str = f"select {JOB_COLUMNS} from pqlite.job($1)"  # noqa: S608 - constant text
    cancel: str = "select pqlite.cancel($1)"
    retry: str = "select pqlite.retry($1)"
    pickup: str = f"select {JOB_COLUMNS} from pqlite.pickup($1, $2, $3)"  # noqa: S608 - constant text
    progress: str = "select pqlite.progress($1, $2, $3, $4::text::jsonb)"
    complete: str = "select pqlite.complete($1, $2, $3, $4::text::jsonb)"
    end_of: str = "select status, claims from pqlite.jobs where id = $1 for share nowait"
    ended: str = "select id, status, result::text, last_error, errors::text from pqlite.ended($1)"
    try_lock: str = "select pg_catalog.pg_try_advisory_lock($1::bigint)"
    settle: str = (
        "select id, claims, verdict, status from pqlite.settle("
        "$1, $2::text::bigint[], $3::text::int[], $4::text::text[], $5, $6, $7::text::bigint[], $8::text::int[], $9, "
        "$10)"
    )
    claim: str = "select * from pqlite.claim($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12::text::jsonb)"
    lanes: str = (
        "select queue, job_type, priority, run_after, id, "
        "extract(epoch from run_after - pg_catalog.clock_timestamp())::float8 "
        "from pqlite.lanes($1, $2, $3, $4, $5, $6, $7, p_versions => $8::text::jsonb)"
    )
    disown: str = "select * from pqlite.disown($1, $2, $3, $4)"
    arm: str = "select pqlite.arm($1, $2)"
    register: str = "select pqlite.register($1, $2, $3, $4, $5::text::jsonb), pqlite.next_schedule()"
    renew: str = (
        "select id, claims, null::double precision from pqlite.renew($1, $2, $3) "
        "union all select null, null, s from pqlite.next_schedule() s where s is not null"
    )
    unregister: str = "select pqlite.unregister($1)"
    reap: str = "select id, job_type, queue, status, attempts, locked_by from pqlite.reap($1, $2)"
    reap_stale: str = "select id, job_type, queue, status, attempts, locked_by from pqlite.reap_stale($1)"
    expire: str = "select pqlite.expire()"
    next_death: str = "select pqlite.next_death($1)"
    pause: str = "select pqlite.pause($1, $2, $3, $4, $5)"
    resume: str = "select pqlite.resume($1, $2)"
    pauses: str = (
        "select scope, name, reason, paused_by, paused_at, until from pqlite.pauses "
        "where until is null or until > pg_catalog.clock_timestamp() order by scope, name"
    )
    queue_stats: str = (
        "select queue, job_type, due, later, suspects, blocked, running, done_last_hour, failed_last_hour, "
        "cancelled_last_hour, oldest_due_seconds from pqlite.queue_stats order by queue, job_type"
    )
    prune: str = "select next_cursor, deleted, extract(epoch from again_in)::float8 from pqlite.prune($1, $2, $3, $4)"
    add_schedule: str = "select pqlite.add_schedule($1, $2::text::jsonb)"
    change_schedule: str = "select pqlite.change_schedule($1, $2::text::jsonb)"
    remove_schedule: str = "select pqlite.remove_schedule($1)"
    pause_schedule: str = "select pqlite.pause_schedule($1)"
    resume_schedule: str = "select pqlite.resume_schedule($1)"
    run_schedule_now: str = "select id, inserted from pqlite.run_schedule_now($1)"
    schedules: str = (
        "select s.name, s.job_type, s.payload::text, s.queue, s.priority, s.max_attempts, s.timeout_seconds, s.tags, "
        "s.metadata::text, s.concurrency_key, s.cron, s.every, s.anchor, s.timezone, s.overlap, s.missed, s.jitter, "
        "s.next_at, s.handled_through, s.held_since, s.paused_at, s.disabled_at, s.defined_in, s.revision, "
        "s.last_slot, s.last_fired_at, s.last_job_id, j.status as last_job_status, s.last_fired_at - s.last_slot as "
        "lateness, s.fired, s.skipped, s.missed_slots, t.problem, s.created_at, s.updated_at "
        "from pqlite.schedules s join pqlite.schedule_stats t on t.name = s.name "
        "left join pqlite.jobs j on j.id = s.last_job_id "
        "where $1::text is null or s.name = $1 order by s.name"
    )
    due_schedules: str = (
        "select name, revision, cron, every, anchor, timezone, missed, jitter, handled_through, held, next_at, now "
        "from pqlite.due_schedules($1)"
    )
    fire_schedules: str = (
        "select name, verdict, slot, job_id, late, count, detail from pqlite.fire_schedules($1::text::jsonb)"
    )
    reconcile_schedules: str = "select name, verdict from pqlite.reconcile_schedules($1::text::jsonb, $2, $3)"


@lru_cache
def for_schema(schema: str) -> Statements:
    """Return the statements for a schema.

    Raises:
        ConfigurationError: its name is not a plain identifier.
    """
    return Statements(**{f.name: render(getattr(Statements(), f.name), schema) for f in fields(Statements)})
