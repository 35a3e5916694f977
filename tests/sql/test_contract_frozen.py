"""The SQL contract does not change within a major version: new parameters and columns come last, with defaults."""

from pathlib import Path

import asyncpg

CONTRACT = Path(__file__).parent / "contract.txt"

FUNCTIONS = (
    *("enqueue", "enqueue_many", "enqueue_keyless", "enqueue_on_change", "cancel", "retry", "job", "ended"),
    *("pause", "resume"),
    *("add_schedule", "change_schedule", "remove_schedule", "pause_schedule", "resume_schedule", "run_schedule_now"),
)
SIGNATURES = """
    select p.proname || '(' || replace(pg_get_function_arguments(p.oid), ', ', E',\\n  ') || E')\\n  returns ' ||
           replace(pg_get_function_result(p.oid), ', ', E',\\n  ')
    from pg_proc p
    where p.pronamespace = 'pqlite'::regnamespace
      and p.proname = any ($1)
    order by p.proname
"""
VIEWS = """
    select 'view ' || c.relname || string_agg(E'\\n  ' || a.attname || ' ' || format_type(a.atttypid, a.atttypmod), ''
                                              order by a.attnum)
    from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0
    where c.relnamespace = 'pqlite'::regnamespace and c.relkind = 'v'
    group by c.relname order by c.relname
"""


async def test_the_functions_and_views_of_the_contract_are_those_that_were_promised(conn: asyncpg.Connection) -> None:
    found = [row[0] for row in [*await conn.fetch(SIGNATURES, FUNCTIONS), *await conn.fetch(VIEWS)]]

    text = "\n\n".join(found) + "\n"
    assert text == CONTRACT.read_text(encoding="utf-8"), f"the contract has changed; if it may, it is now:\n{text}"
