import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pqlite.cli import main

APP = """
from types import SimpleNamespace
from pqlite import PgJobStore, Worker

def handler(ctx):
    pass

worker = Worker(store=PgJobStore(dsn="postgresql://localhost/app"), handlers={"job": handler})
number = 7

class Application:
    async def __call__(self, scope, receive, send):
        pass

application = Application()

async def make_later():
    return worker

def make_nothing():
    pass

def make_trouble():
    raise LookupError("no such tenant")

def make_for(tenant):
    return worker
"""

HINT = "; Workers in 'shopapp': 'worker'."


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current directory, with an app in `shopapp.py`; what is imported from it is forgotten afterwards."""
    (tmp_path / "shopapp.py").write_text(APP)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    for name in ("shopapp", "broken"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("target", "sentence"),
    [
        ("shopap:worker", "There is no module 'shopap' in this directory or on sys.path."),
        ("shopapp.jobs:worker", "There is no module 'shopapp.jobs' in this directory or on sys.path."),
        ("shopapp:wrker", f"Module 'shopapp' has no attribute 'wrker'{HINT}"),
        ("shopapp:number.worker", f"Module 'shopapp' has no attribute 'number.worker'{HINT}"),
        ("shopapp:number", f"shopapp:number must be a Worker, not 'int'{HINT}"),
        ("shopapp:application", f"shopapp:application must be a Worker, not 'Application'{HINT}"),
        ("shopapp:make_for", f"shopapp:make_for must be a Worker, not 'function'{HINT}"),
        ("shopapp:make_nothing", f"shopapp:make_nothing() must return a Worker, not 'NoneType'{HINT}"),
        ("shopapp:make_later", f"shopapp:make_later() must return a Worker, not 'coroutine'{HINT}"),
        ("json:decoder", "json:decoder must be a Worker, not 'module'."),
    ],
)
def test_a_target_that_is_no_worker_is_a_sentence(
    target: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["worker", target]) == 1

    assert capsys.readouterr().err == f"{sentence}\n"


@pytest.mark.parametrize("target", ["shopapp", "shopapp:", ":worker", "shopapp.py:worker:x", "./shopapp:worker", ""])
def test_a_target_of_another_form_is_wrong_usage(target: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["worker", target])

    assert exit_.value.code == 2
    assert "is not of the form MODULE:ATTRIBUTE, such as main:worker" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("1 / 0", "Importing 'broken' failed: ZeroDivisionError: division by zero."),
        ("import no_such_dependency", "Importing 'broken' failed: ModuleNotFoundError: No module named"),
        ("def :", "Importing 'broken' failed: SyntaxError: invalid syntax"),
        ("raise SystemExit(0)", "Importing 'broken' failed: SystemExit: 0."),
    ],
)
def test_a_module_that_fails_shows_its_own_traceback_and_a_sentence(
    directory: Path, code: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (directory / "broken.py").write_text(f"{code}\n")

    assert main(["worker", "broken:worker"]) == 1

    said = capsys.readouterr().err
    assert said.splitlines()[-1].startswith(sentence)
    assert "broken.py" in said
    assert code in said
    assert "importlib" not in said
    assert "target.py" not in said


def test_a_function_that_fails_shows_its_own_traceback_and_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["worker", "shopapp:make_trouble"]) == 1

    said = capsys.readouterr().err
    assert said.splitlines()[-1] == "Calling shopapp:make_trouble failed: LookupError: no such tenant."
    assert 'raise LookupError("no such tenant")' in said
    assert "target.py" not in said


def test_a_malformed_worker_variable_is_a_sentence_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORKER_CONCURRENCY", "many")

    assert main(["worker", "shopapp:worker"]) == 1

    assert capsys.readouterr().err == (
        "Importing 'shopapp' failed: WORKER_CONCURRENCY is 'many'; it must be a whole number of 1 or more.\n"
    )
