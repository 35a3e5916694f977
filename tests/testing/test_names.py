"""What can be imported from where, and what is not imported until somebody asks."""

import subprocess
import sys

import pytest

import pqlite
import pqlite.testing


@pytest.mark.parametrize("package", [pqlite, pqlite.testing])
def test_every_public_name_is_there_and_a_wrong_one_is_an_attribute_error(package: object) -> None:
    names = package.__all__  # type: ignore[attr-defined]

    assert names == sorted(set(names))
    for name in names:
        assert getattr(package, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        package.nonsense  # type: ignore[attr-defined]  # noqa: B018


def test_importing_pqlite_imports_nothing_for_tests_and_no_driver() -> None:
    code = (
        "import sys, pqlite; before = set(sys.modules); pqlite.Fail; errors = set(sys.modules); pqlite.Worker; "
        "assert not before & {'asyncpg', 'pydantic'}; assert 'asyncpg' not in errors; "
        "assert not {m for m in sys.modules if m.startswith(('pqlite.testing', 'pqlite.embedded', 'pytest'))}"
    )

    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert ran.returncode == 0, ran.stderr
