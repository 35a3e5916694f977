"""Removes the frames before the handler's from the traceback of a failed attempt."""

from __future__ import annotations

import contextlib
from functools import partial
from os.path import dirname, join
from types import CodeType, TracebackType
from typing import Any

import anyio

_CALLERS = (
    dirname(__file__),
    join(dirname(dirname(__file__)), "handlers"),
    dirname(anyio.__file__),
    contextlib.__file__,
)
"""Files whose code calls handlers, middleware and dependencies."""


def code_of(function: Any) -> CodeType | None:
    """Return the code that runs when the function is called; None if it is not written in Python."""
    while isinstance(function, partial):
        function = function.func
    code = getattr(function, "__code__", None) or getattr(type(function).__call__, "__code__", None)
    return code if isinstance(code, CodeType) else None


def from_handler(trace: TracebackType | None, handler: CodeType | None) -> TracebackType | None:
    """Return the part of a traceback that begins with the handler's first frame.

    If the handler was not reached, return the part that begins with middleware or a dependency; if neither was called,
    the whole traceback.
    """
    beginning = None
    frame = trace
    while frame is not None:
        code = frame.tb_frame.f_code
        if code is handler:
            return frame
        if beginning is None and not code.co_filename.startswith(_CALLERS):
            beginning = frame
        frame = frame.tb_next
    return beginning or trace
