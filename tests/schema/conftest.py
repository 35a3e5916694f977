import functools
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pqlite import schema
from pqlite.schema import Patience

DDL = Path(schema.__file__).parents[2] / "ddl"
QUICK = Patience(lock_timeout=0.2, tries=200, pause=0.05)
"""As patient as the real one, in shorter steps."""

Future = Callable[..., Path]


def later(folder: Path, *migrations: str, **functions: str) -> Path:
    """Make the ddl/ of a later pqlite in a folder: today's, and these migrations after it."""
    root = folder / f"ddl_{len(list(folder.iterdir()))}"
    shutil.copytree(DDL, root)
    for number, sql in enumerate(migrations, schema.latest() + 1):
        (root / "migrations" / f"{number:04d}_later.sql").write_text(sql)
    for name, sql in functions.items():
        (root / "functions" / f"{name}.sql").write_text(sql)
    return root


@pytest.fixture
def future(tmp_path: Path) -> Future:
    """Make the ddl/ of a later pqlite, as `later`."""
    return functools.partial(later, tmp_path)
