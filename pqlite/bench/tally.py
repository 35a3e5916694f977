"""How many jobs have started, counted in memory that the measuring process and its children share."""

from __future__ import annotations

import mmap
import time
from pathlib import Path

SLOTS = 8
_CELLS = 3
_SIZE = SLOTS * _CELLS * 8


def clock() -> int:
    """Return nanoseconds on a clock that all processes of this machine share."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC)


class Tally:
    """One process's count of starts, and when the first and the latest were."""

    def __init__(self, path: str | Path, slot: int) -> None:
        self._cells = _cells(path)[slot * _CELLS : (slot + 1) * _CELLS]
        self.count = 0
        self.latest = 0

    def add(self) -> None:
        """Count one start."""
        self.latest = now = clock()
        self.count += 1
        if self.count == 1:
            self._cells[1] = now
        self._cells[2] = now
        self._cells[0] = self.count


class Tallies:
    """The counts of all processes."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(bytes(_SIZE))
        self.path = str(path)
        self._cells = _cells(path)

    @classmethod
    def of(cls, path: str) -> Tallies:
        """Return the counts that another process made."""
        tallies = cls.__new__(cls)
        tallies.path, tallies._cells = path, _cells(path)
        return tallies

    @property
    def total(self) -> int:
        """Return how many jobs have started."""
        return sum(self._cells[0::_CELLS])

    @property
    def first(self) -> int:
        """Return when the first job started."""
        return min(filter(None, self._cells[1::_CELLS]), default=0)

    @property
    def last(self) -> int:
        """Return when the latest job started."""
        return max(self._cells[2::_CELLS])


def _cells(path: str | Path) -> memoryview[int]:
    with open(path, "r+b") as file:
        return memoryview(mmap.mmap(file.fileno(), _SIZE)).cast("q")
