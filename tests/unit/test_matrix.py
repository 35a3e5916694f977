"""The command that runs tests on every major version of PostgreSQL says what it lacks; it never passes by itself."""

from pathlib import Path

import pytest

from tests import matrix


@pytest.mark.parametrize("folder", ["", "no/such/folder"])
def test_without_a_folder_of_servers_it_says_what_to_set(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], folder: str
) -> None:
    monkeypatch.setenv(matrix.FOLDER, folder)

    assert matrix.main([]) == 2
    assert capsys.readouterr().err.startswith("PQLITE_TEST_POSTGRES must name a folder")


def test_a_version_that_is_missing_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv(matrix.FOLDER, str(tmp_path))

    assert matrix.main([]) == 1
    assert capsys.readouterr().out.split("\n")[1:-1] == [f"PostgreSQL {major}: no binaries" for major in matrix.MAJORS]


def test_binaries_are_found_however_deep_and_told_apart_by_what_they_say(tmp_path: Path) -> None:
    for folder, says in (("a/b/c/bin", "postgres (PostgreSQL) 14.23"), ("d/bin", "postgres (PostgreSQL) 18beta1")):
        (tmp_path / folder).mkdir(parents=True)
        program = tmp_path / folder / "postgres"
        program.write_text(f"#!/bin/sh\necho '{says}'\n")
        program.chmod(0o755)

    assert matrix.servers(tmp_path) == {14: tmp_path / "a/b/c/bin", 18: tmp_path / "d/bin"}
