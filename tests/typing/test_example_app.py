"""A mistake in an app with typed jobs is found where it was made, by both type checkers, before the app runs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
EXAMPLE = CHECKOUT / "examples" / "typed_jobs.py"

MISTAKES = [
    # Jobs: arguments that are wrong, missing, or unknown; the function itself instead of a job of it.
    ("send_welcome.new(user)", "send_welcome.new(user.email)"),
    ("send_welcome.new(user)", "send_welcome.new()"),
    ("send_welcome.new(user)", "send_welcome.new(user, copies=2)"),
    ("send_welcome.new(user)", "send_welcome(user)"),
    ("send_welcome.new(user)", "send_welcome"),
    ("send_reminder.new(user_id, after)", "send_reminder.new(user_id, hours)"),
    ("send_reminder.new(user_id, after)", "send_reminder.new(after, user_id)"),
    ("send_reminder.new(user_id, after)", "send_reminder.new(user_id, when=after)"),
    # Options of a job, and of a declaration.
    ("run_after=after", "run_after=hours"),
    ('dedupe_key=f"reminder:{user_id}"', "dedupe_key=user_id"),
    ("dedupe_key=", "dedup_key="),
    ("max_attempts=8", 'max_attempts="8"'),
    ("timeout=30", 'timeout="30"'),
    ("base=1", 'base="1"'),
    ("retry_on=OSError", 'retry_on="OSError"'),
    ("upgrade={1: days_to_duration}", "upgrade=days_to_duration"),
    # What a handler does with what it gets.
    ("user: NewUser, mailer: Mailer = Depends(get_mailer)", "user: NewUser, mailer: Mailer = Depends(get_pool)"),
    ("mailer.send(user.email,", "mailer.send(user,"),
    ("user.name}!", "user.nickname}!"),
    ("ctx.log.info(", "ctx.logger.info("),
    # The worker.
    ("resources=resources,", "resources=[resources],"),
    ("hooks=Hooks(before_job=announce)", "hooks=announce"),
    ("handlers=handlers,", "handlers=[send_welcome, send_reminder],"),
]


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("command", "reported"),
    [
        (["mypy", "--strict", "--config-file", "pyproject.toml"], r"(\w+)\.py:(\d+): error"),
        (["pyright", "--project", "pyproject.toml", "--pythonpath", sys.executable], r"(\w+)\.py:(\d+):\d+ - error"),
    ],
    ids=["mypy", "pyright"],
)
def test_each_mistake_is_found_on_its_line_and_the_app_has_none(
    tmp_path: Path, command: list[str], reported: str
) -> None:
    app = EXAMPLE.read_text()
    (tmp_path / "app.py").write_text(app)
    made = {}
    for number, (right, wrong) in enumerate(MISTAKES):
        before, found, after = app.partition(right)
        assert found, f"{EXAMPLE} has no {right!r} any more"
        (tmp_path / f"mistake_{number}.py").write_text(before + wrong + after)
        made[f"mistake_{number}", before.count("\n") + 1] = wrong

    files = sorted(map(str, tmp_path.glob("*.py")))
    checked = subprocess.run([sys.executable, "-m", *command, *files], cwd=CHECKOUT, capture_output=True, text=True)

    assert checked.returncode == 1, checked.stderr
    reports = {(name, int(line)) for name, line in re.findall(reported, checked.stdout)}
    missed = [wrong for place, wrong in made.items() if place not in reports]
    assert not missed, checked.stdout
    assert reports == set(made), checked.stdout
