"""Finds the Worker that MODULE:ATTRIBUTE names, as uvicorn finds an app."""

from __future__ import annotations

import argparse
import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple, TypeVar

from pqlite.cli.failure import Failure, full_stop, text
from pqlite.errors import PqliteError
from pqlite.worker import Worker

T = TypeVar("T")


class Target(NamedTuple):
    """The two halves of MODULE:ATTRIBUTE."""

    module: str
    attribute: str

    def __str__(self) -> str:
        return f"{self.module}:{self.attribute}"


def parse(value: str) -> Target:
    """Return the target that a command-line argument names.

    Raises:
        argparse.ArgumentTypeError: it is not of the form MODULE:ATTRIBUTE.
    """
    module, _, attribute = value.partition(":")
    if all(part.isidentifier() for name in (module, attribute) for part in name.split(".")):
        return Target(module, attribute)
    raise argparse.ArgumentTypeError(f"{value!r} is not of the form MODULE:ATTRIBUTE, such as main:worker")


def load(target: Target) -> Worker:
    """Import the module, with the current directory on sys.path, and return the Worker.

    A function without arguments that returns a Worker is called.

    Raises:
        Failure: there is no such module or attribute, it is not a Worker, or the module's own code failed (its
            traceback has been printed).
    """
    if (here := os.getcwd()) not in sys.path:
        sys.path.insert(0, here)
    module = _import(target.module)
    found: Any = module
    for name in target.attribute.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            raise Failure(f"Module {target.module!r} has no attribute {target.attribute!r}{_hint(module)}.") from None
    what = f"{target} must be a Worker"
    if not isinstance(found, Worker) and _is_called_without_arguments(found):
        found = _running_their_code(f"Calling {target} failed", found)
        what = f"{target}() must return a Worker"
    if isinstance(found, Worker):
        return found
    if inspect.iscoroutine(found):
        found.close()
    raise Failure(f"{what}, not {type(found).__name__!r}{_hint(module)}.")


def _import(name: str) -> ModuleType:
    def imported() -> ModuleType | None:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is not None and f"{name}.".startswith(f"{error.name}."):
                return None
            raise

    module = _running_their_code(f"Importing {name!r} failed", imported)
    if module is None:
        raise Failure(f"There is no module {name!r} in this directory or on sys.path.")
    return module


def _running_their_code(what: str, call: Callable[[], T]) -> T:
    try:
        return call()
    except PqliteError as error:
        raise Failure(full_stop(f"{what}: {text(error)}")) from error
    except (Exception, SystemExit) as error:
        traceback.print_exception(type(error), error, _without_our_frames(error))
        raise Failure(full_stop(f"{what}: {type(error).__name__}: {text(error)}")) from error


def _without_our_frames(error: BaseException) -> Any:
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_globals.get("__name__", "").partition(".")[0] in (
        "importlib",
        "pqlite",
    ):
        trace = trace.tb_next
    return trace


def _is_called_without_arguments(found: Any) -> bool:
    if not callable(found):
        return False
    try:
        inspect.signature(found).bind()
    except (TypeError, ValueError):
        return False
    return True


def _hint(module: ModuleType) -> str:
    names = [repr(name) for name, value in vars(module).items() if isinstance(value, Worker)]
    return f"; Workers in {module.__name__!r}: {', '.join(names)}" if names else ""
