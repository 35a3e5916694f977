"""How a child process communicates: commands come on stdin, answers go to stdout, as lines of JSON."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
from collections.abc import Mapping
from typing import Any, NoReturn

Spec = Mapping[str, Any]


class Wire:
    """Reads commands and writes answers. When stdin ends, the parent is gone and the process ends at once."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._commands: asyncio.Queue[str] = asyncio.Queue()
        # A thread, because the loop may be busy, or blocked, when the parent dies.
        threading.Thread(target=self._listen, name="commands", daemon=True).start()

    async def command(self) -> str:
        """Return the next command."""
        return await self._commands.get()

    async def expect(self, expected: str) -> None:
        """Wait for one command."""
        command = await self.command()
        if command != expected:
            raise ValueError(f"got {command!r} where {expected!r} was expected")

    def say(self, **facts: Any) -> None:
        """Send an answer to the parent."""
        say(**facts)

    def _listen(self) -> NoReturn:
        while line := sys.stdin.readline():
            self._loop.call_soon_threadsafe(self._commands.put_nowait, line.strip())
        os._exit(1)


def say(**facts: Any) -> None:
    """Write one line of JSON."""
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()
