"""A rolling deploy under load: forward, back, and forward again."""

from pathlib import Path

from tests.deploy.roll import Deployment


async def test_a_rolling_deploy_and_its_rollback_cost_no_job_and_no_attempt(dsn: str, tmp_path: Path) -> None:
    async with Deployment(dsn, tmp_path, kinds=(True, False), rate=20.0, grace=0.5, export_seconds=2.0) as deployment:
        await deployment.roll(2)
        await deployment.ended(await deployment.leave_behind())
        await deployment.roll(1)
        left_behind = await deployment.rows(await deployment.leave_behind())
        await deployment.fleet.start(2, web=False)
        await deployment.finish()

    assert {(row["status"], row["attempts"], row["claims"]) for row in left_behind} == {("READY", 0, 0)}
