"""The queues that are measured: pqlite, the bare floor, and those peers that are installed."""

from __future__ import annotations

import importlib
import importlib.util
from typing import NamedTuple

from pqlite.bench.contenders.base import Contender

PQLITE, FLOOR, WRITES = "pqlite", "floor", "writes"


class Peer(NamedTuple):
    """Another queue: where its adapter is, and what must be installed."""

    adapter: str
    requirement: str


PEERS = {
    "pgqueuer": Peer("peer_pgqueuer:Pgqueuer", "pgqueuer>=1.6"),
    "procrastinate": Peer("peer_procrastinate:Procrastinate", "procrastinate>=3.10"),
}
_ADAPTERS = {
    PQLITE: "ours:Pqlite",
    FLOOR: "floor:Floor",
    WRITES: "floor:Writes",
    **{name: peer.adapter for name, peer in PEERS.items()},
}


def contender(name: str) -> Contender:
    """Return a contender. Only what it needs itself is imported: the memory of its processes is measured."""
    module, _, attribute = _ADAPTERS[name].partition(":")
    found: Contender = getattr(importlib.import_module(f"pqlite.bench.contenders.{module}"), attribute)()
    return found


def installed(peer: str) -> bool:
    """Return whether a peer's package can be imported."""
    return importlib.util.find_spec(peer) is not None
