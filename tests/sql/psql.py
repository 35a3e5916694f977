"""SQL scripts, run as psql runs them."""

import re
import shutil
from collections.abc import Iterator

import anyio
import asyncpg

from tests.cli.process import environment


async def run_psql(dsn: str, script: str) -> str:
    """Run a script, each statement in a transaction of its own; return what was printed, a row per line.

    Without psql it goes through asyncpg, without psql's own commands, and nothing is printed.
    """
    if shutil.which("psql") is not None:
        command = ["psql", "--no-psqlrc", "--quiet", "--no-align", "--tuples-only", "--set", "ON_ERROR_STOP=1", dsn]
        done = await anyio.run_process(command, input=script.encode(), env=environment(), check=False)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()
    connection = await asyncpg.connect(dsn)
    try:
        for statement in _statements(script):
            await connection.execute(statement)
    finally:
        await connection.close()
    return ""


def _statements(script: str) -> Iterator[str]:
    statement = ""
    for line in script.splitlines():
        if line.startswith("\\"):
            continue
        statement += line + "\n"
        ends = re.sub(r"\s*--.*", "", line).endswith(";")
        if ends and all(statement.count(quote) % 2 == 0 for quote in set(re.findall(r"\$\w*\$", statement))):
            yield statement
            statement = ""
