"""Imports the names of a package at their first use."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Sequence
from importlib import import_module
from typing import Any


def lazy_getattr(package: str, names: Collection[str], modules: Sequence[str]) -> Callable[[str], Any]:
    """Return a `__getattr__` for a package, which looks up the given names in the given modules, in order."""

    def find(name: str) -> Any:
        if name in modules:
            return import_module(f"{package}.{name}")
        if name in names:
            for module in modules:
                found = import_module(f"{package}.{module}")
                if hasattr(found, name):
                    setattr(sys.modules[package], name, getattr(found, name))
                    return getattr(found, name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return find
