"""The schema in the database: finds the files of ddl/, renders them for a schema's name, migrates and uninstalls.

A schema of an unknown version is refused.
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
