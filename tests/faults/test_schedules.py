"""Schedules under kills; `python -m tests.chaos.schedules` is the long version, which restarts the server as well."""

import pytest

from tests.chaos.schedules import storm


@pytest.mark.timeout(160)
async def test_under_kills_each_slot_fires_once_and_two_jobs_that_may_not_overlap_never_do(dsn: str) -> None:
    verdict = await storm(dsn, 10.0, schedules=12, processes=2, seed=11)

    assert verdict.slots > 60
    assert (verdict.doubled, verdict.lost, verdict.overlapping) == ([], [], [])
