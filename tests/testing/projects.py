"""Small projects of somebody else's, with tests that use our fixtures; pytest runs them in a process of its own."""

import os
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path

PLUGIN = "pqlite.testing.pytest_plugin"


def run_pytest(project: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a project's tests, without anything of our own configuration."""
    installed = any(point.value == PLUGIN for point in entry_points(group="pytest11"))
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", str(project)]
    command += ["-p", "no:hypothesispytest"]  # takes a second to load
    if not installed:  # a checkout that was not installed since the plugin came
        command += ["-p", PLUGIN]
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("PQLITE_", "PYTEST_"))}
    return subprocess.run(
        [*command, *arguments, str(project)],
        cwd=project,
        env={**ours, "PYTHONPATH": os.pathsep.join(sys.path), **variables},
        capture_output=True,
        text=True,
        timeout=100,
    )


def write_project(folder: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


def passed(ran: subprocess.CompletedProcess[str], count: int) -> bool:
    """Return whether so many tests passed and nothing else happened; else fail with what pytest printed."""
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert f"{count} passed" in ran.stdout, ran.stdout
    assert "failed" not in ran.stdout, ran.stdout
    return True
