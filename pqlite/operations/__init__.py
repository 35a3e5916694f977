"""The operator's verbs: list, change, explain, check. The command line, pages and scripts share them."""

from __future__ import annotations

from pqlite.operations.filters import JobFilter
from pqlite.operations.verbs import ACTIONS, Action, Changed, Count, Operations, Page, Reason

__all__ = ["ACTIONS", "Action", "Changed", "Count", "JobFilter", "Operations", "Page", "Reason"]
