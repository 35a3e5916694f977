"""The processor time and memory of this process."""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path
from typing import NamedTuple


class Usage(NamedTuple):
    """Seconds of processor time so far (user and system), and resident memory in MiB at the moment."""

    cpu: float
    rss: float


def usage() -> Usage:
    """Return what this process has used."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return Usage(used.ru_utime + used.ru_stime, _resident(used.ru_maxrss))


def _resident(most: int) -> float:
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        # Elsewhere only the maximum is known; macOS counts it in bytes.
        return most / (1 << 20 if sys.platform == "darwin" else 1 << 10)
    return pages * os.sysconf("SC_PAGESIZE") / (1 << 20)
