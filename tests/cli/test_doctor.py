"""`pqlite doctor` and `pqlite workers`, as a person and as a script use them."""

import json

from pqlite import JobContext, PgJobStore, Worker
from tests.cli.process import pqlite


async def test_the_doctor_says_what_to_do_and_its_status_says_whether_there_is_something(
    dsn: str, store: PgJobStore
) -> None:
    well = await pqlite("doctor", "--dsn", dsn)
    assert (well.status, well.out) == (0, "All is well.\n")

    await store.enqueue("t")
    ill = await pqlite("doctor", "--dsn", dsn)
    assert (ill.status, ill.out.splitlines()[1]) == (1, "    start a worker")
    assert ill.out.startswith("ERROR NO_WORKER: jobs of the type t in the queue default are due since ")
    [found] = json.loads((await pqlite("doctor", "--dsn", dsn, "--json")).out)
    assert (found["severity"], found["code"]) == ("error", "NO_WORKER")


async def test_workers_are_listed(dsn: str, store: PgJobStore) -> None:
    assert (await pqlite("workers", "--dsn", dsn)).out == "No worker is registered.\n"

    async def nothing(ctx: JobContext) -> None: ...

    async with Worker(store=store, handlers={"t": nothing}, worker_id="mine", concurrency=4):
        listed = (await pqlite("workers", "--dsn", dsn)).out.splitlines()

    assert listed[1].split()[0].startswith("mine")
    assert (listed[1].split()[1], listed[1].split()[4:6]) == ("alive", ["0/4", "all"])
