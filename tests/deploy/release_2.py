"""What is deployed over it: `welcome` is called `greet` now, an invoice has lines, and a survey is new."""

import asyncio
from collections.abc import Iterator
from typing import Any

from pqlite import Handlers, JobContext
from pqlite.job import TypedJob

handlers = Handlers()
EFFECT = "insert into public.effects (job_id, claims, worker) values ($1, $2, 'release 2')"


@handlers.job("greet", aliases=["welcome"], max_attempts=1)
async def greet(ctx: JobContext, number: int) -> str:
    return f"release 2 greets customer {number}"


def with_lines(payload: dict[str, Any]) -> dict[str, Any]:
    """Return the payload of an invoice as it was in release 1, as it is now."""
    return {"number": payload["number"], "lines": [payload["cents"]]}


@handlers.job("invoice", version=2, upgrade={1: with_lines})
async def invoice(ctx: JobContext, number: int, lines: list[int]) -> None:
    async with ctx.complete(result={"by": "release 2", "number": number, "total": sum(lines)}) as conn:
        await conn.execute(EFFECT, ctx.job.id, ctx.job.claims)


@handlers.job("export")
async def export(ctx: JobContext, number: int, seconds: float) -> None:
    await asyncio.sleep(seconds)
    async with ctx.complete(result={"by": "release 2", "number": number}) as conn:
        await conn.execute(EFFECT, ctx.job.id, ctx.job.claims)


@handlers.job("survey")
async def survey(ctx: JobContext, number: int) -> None:
    async with ctx.complete(result={"by": "release 2", "number": number}) as conn:
        await conn.execute(EFFECT, ctx.job.id, ctx.job.claims)


def jobs(number: int, *, export_seconds: float) -> Iterator[TypedJob[object]]:
    """Yield the jobs that an order makes; every 20th has one that takes long."""
    yield greet.new(number)
    yield invoice.new(number, lines=[60 * number, 40 * number])
    yield survey.new(number)
    if number % 20 == 0:
        yield export.new(number, seconds=export_seconds)
