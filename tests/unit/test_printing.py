"""Tables of the command line."""

import shutil
import sys

import pytest

from pqlite.cli.printing import table

ROWS = [("ID", "ERROR"), ("1", "x" * 100)]


@pytest.mark.parametrize(("terminal", "longest"), [(True, 80), (False, 104)])
def test_lines_are_cut_for_a_terminal_and_not_for_a_script(
    monkeypatch: pytest.MonkeyPatch, terminal: bool, longest: int
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    monkeypatch.setattr(shutil, "get_terminal_size", lambda: type("Size", (), {"columns": 80}))

    assert max(map(len, table(ROWS).splitlines())) == longest
