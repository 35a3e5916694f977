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


@pytest.fixture
def future(tmp_path: Path) -> Future:
    """Make the ddl/ of a later pqlite: today's, and these migrations after it."""

    def make(*migrations: str, **functions: str) -> Path:
        root = tmp_path / f"ddl_{len(list(tmp_path.iterdir()))}"
        shutil.copytree(DDL, root)
        for number, sql in enumerate(migrations, schema.latest() + 1):
            (root / "migrations" / f"{number:04d}_later.sql").write_text(sql)
        for name, sql in functions.items():
            (root / "functions" / f"{name}.sql").write_text(sql)
        return root

    return make
