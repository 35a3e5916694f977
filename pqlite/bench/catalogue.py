"""All scenarios, by name."""

from __future__ import annotations

from pqlite.bench.scenarios import Scenario, drain, enqueue, latency

SCENARIOS: dict[str, Scenario] = {
    scenario.name: scenario for scenario in (enqueue.SCENARIO, drain.SCENARIO, latency.SCENARIO)
}
DEFAULT = tuple(name for name in SCENARIOS if name != "soak")


def listing() -> str:
    """Return a line per scenario."""
    return "\n".join(f"{scenario.name:<10} {scenario.summary}" for scenario in SCENARIOS.values())
