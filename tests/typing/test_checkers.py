"""Both type checkers accept the right calls of the public API, and report each wrong one where it is.

The calls are those of calls.py, where wrong ones are marked, and those of an example, with one mistake after the other.
"""

import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
CALLS = CHECKOUT / "tests" / "typing" / "calls.py"
EXAMPLE = CHECKOUT / "examples" / "typed_jobs.py"
COMMANDS = {
    "mypy": (["mypy", "--strict", "--config-file", "pyproject.toml"], r"(\w+)\.py:(\d+): error"),
    "pyright": (
        ["pyright", "--project", "pyproject.toml", "--pythonpath", sys.executable],
        r"(\w+)\.py:(\d+):\d+ - error",
    ),
}

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


class Checked(NamedTuple):
    """What a checker printed, and the (file, line) of each error; `made` are the mistakes of the example."""

    output: str
    reports: set[tuple[str, int]]
    made: dict[tuple[str, int], str]


@pytest.fixture(scope="module", params=COMMANDS)
def checked(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Checked:
    """Run a checker over everything: once, because starting it takes longer than any of the files."""
    folder, app = tmp_path_factory.mktemp("mistakes"), EXAMPLE.read_text()
    (folder / "app.py").write_text(app)
    made = {}
    for number, (right, wrong) in enumerate(MISTAKES):
        before, found, after = app.partition(right)
        assert found, f"{EXAMPLE} has no {right!r} any more"
        (folder / f"mistake_{number}.py").write_text(before + wrong + after)
        made[f"mistake_{number}", before.count("\n") + 1] = wrong
    command, reported = COMMANDS[request.param]

    files = [str(CALLS), *sorted(map(str, folder.glob("*.py")))]
    ran = subprocess.run([sys.executable, "-m", *command, *files], cwd=CHECKOUT, capture_output=True, text=True)

    assert ran.returncode == 1, ran.stderr
    return Checked(ran.stdout, {(name, int(line)) for name, line in re.findall(reported, ran.stdout)}, made)


@pytest.mark.timeout(400)
def test_exactly_the_wrong_calls_are_rejected(checked: Checked) -> None:
    lines = CALLS.read_text().splitlines()
    wrong = {number for number, line in enumerate(lines, 1) if line.endswith("# E")}
    rejected = {line for name, line in checked.reports if name == "calls"}

    assert {n: lines[n - 1] for n in sorted(rejected)} == {n: lines[n - 1] for n in sorted(wrong)}


@pytest.mark.timeout(400)
def test_each_mistake_is_found_on_its_line_and_the_app_has_none(checked: Checked) -> None:
    reports = {(name, line) for name, line in checked.reports if name != "calls"}

    missed = [wrong for place, wrong in checked.made.items() if place not in reports]
    assert not missed, checked.output
    assert reports == set(checked.made), checked.output
