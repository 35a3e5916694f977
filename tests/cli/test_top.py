"""`pqlite top` draws a picture that fits the terminal."""

import os
import pty
import subprocess

import anyio
import pytest

from pqlite import PgJobStore
from tests.cli.process import COMMAND, environment, pqlite

LONG = "a_job_type_with_a_name_that_is_longer_than_most_terminals_have_room_for_in_one_column"


@pytest.mark.parametrize("width", [80, 200])
async def test_a_picture_fits_into_the_width(dsn: str, store: PgJobStore, width: int) -> None:
    await store.enqueue(LONG, queue="[red]mail")

    ran = await pqlite("top", "--once", "--dsn", dsn, env={"COLUMNS": str(width), "LINES": "24"})

    lines = ran.out.splitlines()
    assert lines[0].startswith("workers 0  running 0  blocked 0  suspects 0  done/min 0  oldest due ")
    assert max(map(len, lines)) <= width
    assert len(lines) <= 24
    assert "[red]mail" in ran.out
    assert (LONG in ran.out) == (width == 200)


async def test_it_draws_again_until_it_is_interrupted_and_leaves_the_terminal_as_it_was(
    dsn: str, store: PgJobStore
) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, "top", "--every", "0.2", "--dsn", dsn],
        stdin=theirs, stdout=theirs, stderr=theirs, env=environment(TERM="xterm"), start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    seen = b""

    def read_until(text: bytes) -> None:
        nonlocal seen
        while text not in seen:
            seen += os.read(ours, 10_000)

    try:
        with anyio.fail_after(30):
            await anyio.to_thread.run_sync(read_until, b"workers 0")
            await store.enqueue("seen_later")
            await anyio.to_thread.run_sync(read_until, b"seen_later")
            process.send_signal(2)
            await anyio.to_thread.run_sync(read_until, b"\x1b[?1049l")  # back from the alternate screen
            assert await anyio.to_thread.run_sync(process.wait) == 0
    finally:
        process.kill()
        os.close(ours)
