import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the sdist of this checkout and the wheel built from that sdist."""
    if not (CHECKOUT / "pyproject.toml").exists():
        pytest.skip("these tests run from a checkout")
    target = tmp_path_factory.mktemp("dist")
    built = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(target), str(CHECKOUT)],
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return target


@pytest.fixture(scope="module")
def wheel(distributions: Path) -> set[str]:
    [path] = distributions.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        return set(archive.namelist())


def test_the_wheel_holds_every_file_of_ddl(wheel: set[str]) -> None:
    expected = {f"pqlite/{name}" for name in _files("ddl", "*.sql")}

    assert expected, "the checkout has no ddl/*.sql"
    assert expected <= wheel


def test_the_wheel_holds_every_file_of_the_package_and_nothing_beside_it(wheel: set[str]) -> None:
    assert _files("pqlite", "*") <= wheel
    assert {name.split("/")[0] for name in wheel} == {"pqlite", "pqlite_queue-0.1.0.dist-info"}


def test_the_wheel_says_that_it_is_typed_and_brings_the_licence_and_the_command(wheel: set[str]) -> None:
    information = "pqlite_queue-0.1.0.dist-info"

    assert "pqlite/py.typed" in wheel
    assert f"{information}/licenses/LICENSE" in wheel
    assert f"{information}/entry_points.txt" in wheel


def test_the_sdist_holds_what_a_packager_needs_to_run_the_tests(distributions: Path) -> None:
    [path] = distributions.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}

    assert _files("ddl", "*.sql") | _files("tests", "*.py") <= names
    assert {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md"} <= names


def test_the_installed_wheel_finds_its_ddl_away_from_the_checkout(distributions: Path, tmp_path: Path) -> None:
    [path] = distributions.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        archive.extractall(tmp_path)
    code = "import sys, pqlite.cli; print(pqlite.__file__); sys.exit(pqlite.cli.main(['migrate', '--sql']))"

    ran = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )

    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith(str(tmp_path))
    assert "jobs" in ran.stdout


def _files(folder: str, pattern: str) -> set[str]:
    paths = (CHECKOUT / folder).rglob(pattern)
    return {str(path.relative_to(CHECKOUT)) for path in paths if path.is_file() and "__pycache__" not in path.parts}
