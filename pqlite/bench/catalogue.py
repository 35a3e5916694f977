"""All scenarios, by name."""

from __future__ import annotations

from pqlite.bench.scenarios import (
    Scenario,
    backlog,
    drain,
    enqueue,
    features,
    idle,
    lanes,
    latency,
    pinned,
    soak,
    sustained,
)

SCENARIOS: dict[str, Scenario] = {
    module.SCENARIO.name: module.SCENARIO
    for module in (enqueue, drain, features, sustained, pinned, backlog, lanes, latency, idle, soak)
}
DEFAULT = tuple(name for name in SCENARIOS if name != "soak")


def listing() -> str:
    """Return a line per scenario."""
    return "\n".join(f"{scenario.name:<10} {scenario.summary}" for scenario in SCENARIOS.values())
