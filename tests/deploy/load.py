"""Orders that come in all the time, to whichever process serves."""

import asyncio
import itertools
from typing import NamedTuple

import httpx

from tests.deploy.fleet import Fleet, Instance


class Order(NamedTuple):
    """What was ordered of whom, and the jobs that were answered."""

    number: int
    release: int
    jobs: list[int]


class Load:
    """Sends so many orders a second, in turns to those in rotation, until it is stopped."""

    def __init__(self, fleet: Fleet, *, rate: float, export_seconds: float) -> None:
        self._fleet = fleet
        self._pause = 1.0 / rate
        self._export_seconds = export_seconds
        self._turns = itertools.count()
        self._numbers = itertools.count(1)
        self._over = asyncio.Event()
        self._requests: set[asyncio.Task[None]] = set()
        self._task: asyncio.Task[None] | None = None
        self.orders: list[Order] = []
        self.failed: list[str] = []

    @property
    def ids(self) -> list[int]:
        return [job_id for order in self.orders for job_id in order.jobs]

    def start(self) -> None:
        self._task = asyncio.create_task(self._send(), name="scenario load")

    async def stop(self) -> None:
        """Return when every order was answered."""
        self._over.set()
        if self._task is not None:
            await self._task
        await asyncio.gather(*self._requests)

    async def _send(self) -> None:
        while not self._over.is_set():
            if rotation := self._fleet.rotation:
                instance = rotation[next(self._turns) % len(rotation)]
                instance.in_flight += 1
                task = asyncio.create_task(self._order(next(self._numbers), instance), name="scenario order")
                self._requests.add(task)
                task.add_done_callback(self._requests.discard)
            await asyncio.sleep(self._pause)

    async def _order(self, number: int, instance: Instance) -> None:
        try:
            answer = await self._fleet.client.post(
                f"{instance.url}/orders/{number}", params={"export_seconds": self._export_seconds}
            )
            answer.raise_for_status()
        except httpx.HTTPError as error:
            self.failed.append(f"order {number} of {instance.label}: {error!r}")
        else:
            jobs = answer.json()
            self.orders.append(Order(number, instance.release, jobs))
            if number % 20 == 0:
                self._fleet.exports.add(jobs[-1])
        finally:
            instance.in_flight -= 1
