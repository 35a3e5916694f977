"""Handlers: their registry and declarations, the context and dependencies they get, and middleware around them."""

from pqlite.handlers.calls import compiled
from pqlite.handlers.context import JobContext
from pqlite.handlers.dependencies import Depends
from pqlite.handlers.middleware import CallNext, Hooks, Middleware, with_hooks
from pqlite.handlers.plain import AnyHandler, Handler, checked, versions
from pqlite.handlers.registry import Handlers
from pqlite.handlers.retry_rules import Retrying
from pqlite.handlers.typed import TypedHandler

__all__ = [
    "AnyHandler",
    "CallNext",
    "Depends",
    "Handler",
    "Handlers",
    "Hooks",
    "JobContext",
    "Middleware",
    "Retrying",
    "TypedHandler",
    "checked",
    "compiled",
    "versions",
    "with_hooks",
]
