"""Child processes that end with this process, even if it is killed."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path
from time import monotonic
from typing import Any

import anyio

# Arguments: log file, two directories to remove, command. The shell becomes the command and leaves a
# watcher process behind, which reads from a pipe: a line means a normal end, end of file means that our process
# has died. The kernel's parent-death signal cannot be used: it fires when the thread ends.
_GUARD = """
exec 3<&0 </dev/null >>"$1" 2>&1
alive() {
    kill -0 $$ 2>/dev/null || return
    # An init that does not collect orphans leaves the dead in the table.
    ! read -r pid name state rest 2>/dev/null </proc/$$/stat || [ "$state" != Z ]
}
( (
    trap '' HUP INT TERM
    read -r farewell <&3 && exit
    for signal in INT QUIT KILL; do
        alive && kill -$signal $$
        tries=0
        while [ $tries -lt 50 ] && alive; do sleep 0.1; tries=$((tries + 1)); done
    done
    rm -rf -- "$2" "$3"
) & )
shift 3
exec "$@" 3<&-
"""

# The write ends of our watchers' pipes. Spawned children never get them (close-on-exec); forked ones close
# them here, so that a surviving child does not keep the server of a dead parent alive.
_lifelines: set[int] = set()


class Guarded:
    """A child process in a session of its own, with the watcher that ends it when we are gone.

    The watcher then also removes the `doomed` directories. `options` are those of `subprocess.Popen`.
    """

    def __init__(self, command: list[str], log: Path, doomed: tuple[Path | None, Path | None], **options: Any) -> None:
        lifeline, self._lifeline = os.pipe()
        _lifelines.add(self._lifeline)
        guard = ["/bin/sh", "-c", _GUARD, "pqlite", str(log), *(str(path or "") for path in doomed)]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        try:
            self._popen = subprocess.Popen(
                [*guard, *command],
                stdin=lifeline,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env=environment | {"LC_ALL": "C", "TZ": "UTC"},
                start_new_session=True,  # Ctrl-C is for our process, which then stops the server
                **options,
            )
        finally:
            os.close(lifeline)
        self.pid = self._popen.pid
        self.signal = self._popen.send_signal

    @property
    def returncode(self) -> int | None:
        """Return the status that the process has ended with, None while it runs."""
        return self._popen.poll()

    async def ended(self, seconds: float) -> bool:
        """Wait that long for the end of the process; its own child watchers would bind us to one loop."""
        deadline = monotonic() + seconds
        while self.returncode is None:
            if monotonic() > deadline:
                return False
            await anyio.sleep(0.01)
        return True

    def release(self) -> None:
        """End the watcher."""
        if self._lifeline in _lifelines:
            _lifelines.discard(self._lifeline)
            with contextlib.suppress(OSError):  # the watcher may have been killed
                os.write(self._lifeline, b"farewell\n")
            os.close(self._lifeline)


def _close_lifelines() -> None:
    while _lifelines:
        os.close(_lifelines.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_lifelines)
