"""Type checkers accept the right calls of calls.py, and reject the wrong ones, which are marked."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
CALLS = "tests/typing/calls.py"


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("command", "reported"),
    [
        (["mypy", "--strict", "--config-file", "pyproject.toml", CALLS], r"calls\.py:(\d+): error"),
        (
            ["pyright", "--project", "pyproject.toml", "--pythonpath", sys.executable, CALLS],
            r"calls\.py:(\d+):\d+ - error",
        ),
    ],
    ids=["mypy", "pyright"],
)
def test_exactly_the_wrong_calls_are_rejected(command: list[str], reported: str) -> None:
    lines = (CHECKOUT / CALLS).read_text().splitlines()
    wrong = {number for number, line in enumerate(lines, 1) if line.endswith("# E")}

    checked = subprocess.run([sys.executable, "-m", *command], cwd=CHECKOUT, capture_output=True, text=True)

    assert checked.returncode == 1, checked.stderr
    rejected = {int(number) for number in re.findall(reported, checked.stdout)}
    assert {n: lines[n - 1] for n in sorted(rejected)} == {n: lines[n - 1] for n in sorted(wrong)}
