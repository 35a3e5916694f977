"""Finds the files of ddl/, renders them for a schema's name, migrates, uninstalls, refuses an unknown schema.

files.py reads and renders, steps.py runs one step with short lock waits, migrating.py knows versions, removal.py drops.
"""

from __future__ import annotations

from pqlite.schema.files import DEFAULT, Migration, channel, functions, latest, migrations, render, roles, script
from pqlite.schema.migrating import MINIMUM_SERVER, Plan, check, migrate, plan, version
from pqlite.schema.removal import Census, census, uninstall
from pqlite.schema.steps import PATIENCE, Patience

__all__ = [
    "DEFAULT",
    "MINIMUM_SERVER",
    "PATIENCE",
    "Census",
    "Migration",
    "Patience",
    "Plan",
    "census",
    "channel",
    "check",
    "functions",
    "latest",
    "migrate",
    "migrations",
    "plan",
    "render",
    "roles",
    "script",
    "uninstall",
    "version",
]
