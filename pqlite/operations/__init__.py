"""The operator's verbs: list, change, explain, check. The command line, pages and scripts share them."""

from __future__ import annotations

from pqlite.operations.answers import Changed, Count, Page, Reason
from pqlite.operations.doctor import SEVERITIES, Finding, Severity
from pqlite.operations.filters import JobFilter
from pqlite.operations.stats import Ended, Failures, Stats, Waiting
from pqlite.operations.verbs import ACTIONS, Action, Operations
from pqlite.operations.workers import WorkerRow

__all__ = [
    "ACTIONS",
    "SEVERITIES",
    "Action",
    "Changed",
    "Count",
    "Ended",
    "Failures",
    "Finding",
    "JobFilter",
    "Operations",
    "Page",
    "Reason",
    "Severity",
    "Stats",
    "Waiting",
    "WorkerRow",
]
