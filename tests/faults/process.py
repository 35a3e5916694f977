"""A worker process to be broken: `python -m tests.faults.process DSN LEDGER LABEL`."""

import argparse
import asyncio
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import Any

import asyncpg
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from pqlite import JobContext, PgJobStore, Worker
from pqlite.backoff import BackoffPolicy
from tests.faults.ledger import Ledger

POISON_EXIT = 13

AsyncHandler = Callable[[JobContext], Awaitable[Any]]


EFFECT = "insert into public.effects (job_id, claims, worker) values (:1, :2, :3)"


class QuickBackoff(BackoffPolicy):
    def retry_delay(self, attempts: int) -> float:
        return 0.2


def handlers(ledger: Ledger, sessions: async_sessionmaker[AsyncSession] | None = None) -> dict[str, Any]:
    """Return one handler per way to behave; `seconds` in the payload says for how long; a list, for each claim."""

    def noted(handler: AsyncHandler) -> AsyncHandler:
        @wraps(handler)
        async def run(ctx: JobContext) -> Any:
            job = ctx.job
            facts = {"job": job.id, "claims": job.claims, "holder": job.locked_by}
            ledger.note("start", **facts)
            try:
                result = await handler(ctx)
            except BaseException as error:
                ledger.note("end", **facts, more={"error": repr(error)})
                raise
            ledger.note("end", **facts)
            return result

        return run

    async def effect(ctx: JobContext, *, pause: bool = True) -> None:
        """Write one row, together with DONE. Nothing but that keeps it from being two rows."""
        if pause:
            await asyncio.sleep(_seconds(ctx))
        async with ctx.complete() as conn:
            await conn.execute(EFFECT.replace(":", "$"), ctx.job.id, ctx.job.claims, ctx.worker_id)

    async def session_effect(ctx: JobContext) -> None:
        """The same in a session of the handler's own."""
        assert sessions is not None
        await asyncio.sleep(_seconds(ctx))
        async with sessions.begin() as session:
            values = {"1": ctx.job.id, "2": ctx.job.claims, "3": ctx.worker_id}
            await session.execute(text(EFFECT), values)
            await ctx.complete(conn=session)

    async def stubborn(ctx: JobContext) -> None:
        """Take no notice of being cancelled, and then write the effect."""
        ends = time.monotonic() + _seconds(ctx)
        while (left := ends - time.monotonic()) > 0:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(left)
        await effect(ctx, pause=False)

    async def slow(ctx: JobContext) -> None:
        await asyncio.sleep(_seconds(ctx))

    async def flaky(ctx: JobContext) -> None:
        await asyncio.sleep(_seconds(ctx))
        if ctx.attempt == 1:
            raise RuntimeError("as ordered")

    async def block(ctx: JobContext) -> None:
        time.sleep(_seconds(ctx))  # THE BLOCKING LINE

    async def busy(ctx: JobContext) -> None:
        ends = time.monotonic() + _seconds(ctx)
        while time.monotonic() < ends:
            pass

    async def thread(ctx: JobContext) -> None:
        await asyncio.to_thread(time.sleep, _seconds(ctx))

    async def poison(ctx: JobContext) -> None:
        await asyncio.sleep(_seconds(ctx))
        os._exit(POISON_EXIT)

    async def fork(ctx: JobContext) -> None:
        """Leave a child behind that outlives us."""
        child = os.fork()
        if child == 0:
            time.sleep(_seconds(ctx))
            os._exit(0)
        ledger.note("forked", job=ctx.job.id, more={"child": child})
        await asyncio.sleep(3600)

    kinds = (effect, session_effect, stubborn, slow, flaky, block, busy, thread, poison, fork)
    return {handler.__name__: noted(handler) for handler in kinds}


def _seconds(ctx: JobContext) -> float:
    seconds = (ctx.job.payload or {}).get("seconds", 0.0)
    return float(seconds[ctx.job.claims - 1] if isinstance(seconds, list) else seconds)


async def main(args: argparse.Namespace) -> int:
    ledger = Ledger(args.ledger, args.label)
    tasks = asyncio.all_tasks()
    engine = create_async_engine(
        "postgresql+asyncpg://", async_creator=lambda: asyncpg.connect(args.dsn, timeout=5, command_timeout=5)
    )
    worker = Worker(
        PgJobStore(dsn=args.dsn),
        handlers(ledger, async_sessionmaker(engine)),
        worker_id=args.label,
        concurrency=args.concurrency,
        lease=args.lease,
        shutdown_grace=args.grace,
        backoff=QuickBackoff(),
        observers=[ledger],
    )
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.begin_shutdown)
    await worker.run()
    await engine.dispose()
    await asyncio.sleep(0)
    left = [repr(task) for task in asyncio.all_tasks() - tasks]
    left += [repr(thread) for thread in threading.enumerate() if thread.name.startswith("pqlite")]
    if left:
        ledger.note("leaked", more={"left": left})
    return 1 if left else 0


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="tests.faults.process")
    made.add_argument("dsn")
    made.add_argument("ledger", type=Path)
    made.add_argument("label")
    made.add_argument("--lease", type=float, default=20.0)
    made.add_argument("--concurrency", type=int, default=10)
    made.add_argument("--grace", type=float, default=10.0)
    return made


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    sys.exit(asyncio.run(main(parser().parse_args())))
