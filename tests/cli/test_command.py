"""What all commands share, and the demo's place among them."""

import argparse
import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

import pqlite
from pqlite.cli import main
from pqlite.cli.demo import NEEDS
from pqlite.embedded import EmbeddedError
from tests.cli.process import COMMAND, environment


@pytest.fixture
def demo(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[argparse.Namespace], int]], None]:
    """Put another demo in the place of pqlite.demo; it has one option, --port."""

    def replace(run: Callable[[argparse.Namespace], int]) -> None:
        def add_arguments(parser: argparse.ArgumentParser) -> None:
            parser.add_argument("--port", type=int, default=8000, help="where to listen")

        monkeypatch.setitem(sys.modules, "pqlite.demo", SimpleNamespace(main=run, add_arguments=add_arguments))

    return replace


@pytest.mark.parametrize("command", [[], ["migrate"], ["worker"], ["schedules"], ["demo"], ["bench"]])
def test_help_fits_a_narrow_terminal_and_ends_with_an_example(
    command: list[str], demo: Callable[..., None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    demo(lambda arguments: 0)
    monkeypatch.setenv("COLUMNS", "80")

    with pytest.raises(SystemExit) as exit_:
        main([*command, "--help"])

    lines = capsys.readouterr().out.splitlines()
    assert exit_.value.code == 0
    assert max(len(line) for line in lines) <= 80
    assert " ".join(["pqlite", *command]) in lines[-1]


@pytest.mark.parametrize("program", [COMMAND, (str(Path(sys.executable).with_name("pqlite")),)])
def test_the_version_is_the_packages_also_for_the_installed_command(program: tuple[str, ...]) -> None:
    ran = subprocess.run([*program, "--version"], capture_output=True, text=True, env=environment())

    assert (ran.returncode, ran.stdout) == (0, f"pqlite {pqlite.__version__}\n")


@pytest.mark.parametrize("argv", [[], ["migrat"], ["migrate", "--dns", "x"], ["worker"], ["--demo"]])
def test_wrong_usage_exits_with_2_and_shows_the_usage(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(argv)

    assert exit_.value.code == 2
    assert capsys.readouterr().err.startswith("usage: pqlite")


def test_an_interrupt_leaves_no_traceback(demo: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(arguments: argparse.Namespace) -> int:
        raise KeyboardInterrupt

    demo(interrupted)

    assert main(["demo"]) == 130
    assert capsys.readouterr().err == ""


def test_the_demo_gets_its_own_arguments_and_decides_the_exit_status(demo: Callable[..., None]) -> None:
    demo(lambda arguments: int(arguments.port))

    assert main(["demo", "--port", "7"]) == 7


@pytest.mark.parametrize("missing", ["fastapi", "uvicorn", "rich.progress"])
def test_the_demo_without_its_extra_says_what_to_install(
    missing: str, demo: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    def needy(arguments: argparse.Namespace) -> int:
        raise ModuleNotFoundError(f"No module named {missing!r}", name=missing)

    demo(needy)

    assert main(["demo"]) == 1
    assert capsys.readouterr().err == f"{NEEDS}\n"


@pytest.mark.parametrize("installed", [True, False])
def test_a_server_that_cannot_start_says_why_and_what_to_install_if_that_would_help(
    installed: bool,
    demo: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def serverless(arguments: argparse.Namespace) -> int:
        raise EmbeddedError("There is no room for a server.")

    demo(serverless)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if installed else None)

    assert main(["demo"]) == 1
    advice = "" if installed else f"{NEEDS}\n"
    assert capsys.readouterr().err == f"There is no room for a server.\n{advice}"


def test_a_mistake_of_our_own_is_not_hidden_behind_a_sentence(demo: Callable[..., None]) -> None:
    def mistaken(arguments: argparse.Namespace) -> int:
        raise ModuleNotFoundError("No module named 'pqlite.gone'", name="pqlite.gone")

    demo(mistaken)

    with pytest.raises(ModuleNotFoundError):
        main(["demo"])


def test_other_commands_import_neither_the_demo_nor_any_extra() -> None:
    code = (
        "import sys; from pqlite.cli import main; main(['migrate', '--sql']);"
        "extras = {'pqlite.demo', 'pqlite.bench', 'fastapi', 'uvicorn', 'rich'};"
        "print(sorted(extras & set(sys.modules)), file=sys.stderr)"
    )

    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment())

    assert (ran.returncode, ran.stderr) == (0, "[]\n")
