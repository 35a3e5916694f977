"""Adopting a table of pqrun's: its jobs move into pqlite's schema, and a view takes its place."""

from __future__ import annotations

from pqlite.adoption.pqrun import TABLE, Survey, adopt, refuse, survey

__all__ = ["TABLE", "Survey", "adopt", "refuse", "survey"]
