"""What is in production."""

import asyncio
from collections.abc import Iterator

from pqlite import Handlers, JobContext
from pqlite.job import TypedJob

handlers = Handlers()
EFFECT = "insert into public.effects (job_id, claims, worker) values ($1, $2, 'release 1')"


@handlers.job("welcome", max_attempts=1)
async def welcome(ctx: JobContext, number: int) -> str:
    return f"release 1 welcomes customer {number}"


@handlers.job("invoice")
async def invoice(ctx: JobContext, number: int, cents: int) -> None:
    async with ctx.complete(result={"by": "release 1", "number": number, "total": cents}) as conn:
        await conn.execute(EFFECT, ctx.job.id, ctx.job.claims)


@handlers.job("export")
async def export(ctx: JobContext, number: int, seconds: float) -> None:
    await asyncio.sleep(seconds)
    async with ctx.complete(result={"by": "release 1", "number": number}) as conn:
        await conn.execute(EFFECT, ctx.job.id, ctx.job.claims)


def jobs(number: int, *, export_seconds: float) -> Iterator[TypedJob[object]]:
    """Yield the jobs that an order makes; every 20th has one that takes long."""
    yield welcome.new(number)
    yield invoice.new(number, cents=100 * number)
    if number % 20 == 0:
        yield export.new(number, seconds=export_seconds)
