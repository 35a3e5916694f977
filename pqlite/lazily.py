"""Names of a package that are imported when they are first asked for."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Sequence
from importlib import import_module
from typing import Any


def lazily(package: str, names: Collection[str], modules: Sequence[str]) -> Callable[[str], Any]:
    """Return a package's `__getattr__`: it looks for these names, and only these, in these of its modules, in their
    order.
    """

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
