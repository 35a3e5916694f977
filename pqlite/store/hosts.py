"""The hosts in a DSN."""

from __future__ import annotations

import os
from typing import NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit


class Host(NamedTuple):
    """A name, an address or a directory of sockets, and a port."""

    name: str
    port: int


def several_hosts(dsn: str) -> list[Host]:
    """Return the hosts of a dsn (or of PGHOST, if it has none) if there are several, else an empty list. Hosts in a
    service file are left to the driver.
    """
    try:
        parts = urlsplit(dsn)
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        names = unquote(parts.netloc.rpartition("@")[2]) or query.get("host", "")
        if not names and "service" not in query:
            names = os.environ.get("PGHOST", "")
        if "," not in names:
            return []
        ports = (query.get("port") or os.environ.get("PGPORT") or "5432").split(",")
        each = names.split(",")
        ports = ports * len(each) if len(ports) == 1 else ports
        return [_host(name, port) for name, port in zip(each, ports, strict=True)]
    except ValueError:
        return []  # the driver raises the error


def says_which(dsn: str) -> bool:
    """Return whether the dsn or the environment sets target_session_attrs."""
    return "target_session_attrs=" in dsn or "PGTARGETSESSIONATTRS" in os.environ


def _host(name: str, port: str) -> Host:
    before, colon, after = name.rpartition(":")
    if colon and not name.startswith("/") and not name.endswith("]"):
        name, port = before, after
    return Host(name.strip("[]"), int(port))
