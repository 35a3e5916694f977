"""`python -m pqlite.bench.child`: one process of a measurement, so that its processor time and memory are its own.

The first line on stdin says which role to play and everything it needs; it holds the DSN, which must not be seen in
the list of processes. See wire.py for the rest of the conversation.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
from collections.abc import Callable
from typing import Any

from pqlite.bench.wire import Spec, Wire, say


def main() -> int:
    """Play a role; return the exit status."""
    spec: Spec = json.loads(sys.stdin.readline() or "null") or sys.exit(1)
    try:
        with asyncio.Runner(loop_factory=_loop_factory(spec)) as runner:
            runner.run(_play(spec))
    except Exception as error:
        say(error=f"{type(error).__name__}: {' '.join(str(error).split())}")
        return 1
    return 0


async def _play(spec: Spec) -> None:
    # "roles.worker:play": only the role's own module is loaded.
    module, _, function = spec["role"].partition(":")
    play: Callable[..., Any] = getattr(importlib.import_module(f"pqlite.bench.{module}"), function)
    await play(spec, Wire())


def _loop_factory(spec: Spec) -> Callable[[], asyncio.AbstractEventLoop] | None:
    if not spec.get("uvloop"):
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = importlib.import_module("uvloop").new_event_loop
    return factory


if __name__ == "__main__":
    sys.exit(main())
