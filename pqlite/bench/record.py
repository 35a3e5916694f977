"""The JSON of a run: what it was measured on, and every repetition. Never an address."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from pqlite.bench.figures import Result


def record(facts: dict[str, Any], results: Sequence[Result]) -> str:
    """Return a run as JSON."""
    return json.dumps({"environment": facts, "results": [_entry(result) for result in results]}, indent=1) + "\n"


def _entry(result: Result) -> dict[str, Any]:
    return {
        "scenario": result.case.scenario,
        "case": result.case.name,
        "contender": result.contender,
        f"ratio_to_{result.case.base}": result.ratio,
        "metrics": {
            metric.key: asdict(metric)
            | {
                "median": result.median(metric.key),
                "values": [sample.values.get(metric.key) for sample in result.samples],
            }
            for metric in result.case.metrics
        },
        "series": [dict(sample.series) for sample in result.samples],
        "remarks": [list(sample.remarks) for sample in result.samples],
    }
