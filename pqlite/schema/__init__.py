"""The database's side: finds ddl/, renders it for a schema's name, migrates, adopts, drops, and refuses what it does
not know.

files.py reads and renders, steps.py takes a step without hurting anybody, migrating.py knows versions; removal.py and
adoption.py (of a table of pqrun's) are commands of an operator.
"""

from __future__ import annotations

from pqlite.schema.adoption import TABLE, Survey, adopt, refuse, survey
from pqlite.schema.files import DEFAULT, Migration, channel, functions, latest, migrations, render, roles, script
from pqlite.schema.migrating import MINIMUM_SERVER, Plan, check, migrate, plan, version
from pqlite.schema.removal import Census, census, uninstall
from pqlite.schema.steps import PATIENCE, Patience

__all__ = [
    "DEFAULT",
    "MINIMUM_SERVER",
    "PATIENCE",
    "TABLE",
    "Census",
    "Migration",
    "Patience",
    "Plan",
    "Survey",
    "adopt",
    "census",
    "channel",
    "check",
    "functions",
    "latest",
    "migrate",
    "migrations",
    "plan",
    "refuse",
    "render",
    "roles",
    "script",
    "survey",
    "uninstall",
    "version",
]
