"""`pqlite worker MODULE:ATTRIBUTE`: run an app's Worker without its web server."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
import threading
import time

from pqlite.cli import target
from pqlite.cli.command import Commands, add_command
from pqlite.observability import JobFields, JsonFormatter
from pqlite.settings import log_as_json
from pqlite.worker import Worker

logger = logging.getLogger(__name__)

LEAVE_SECONDS = 2.0
"""How long the process may take to end once its worker has stopped, unless less is left of its shutdown_timeout."""

DESCRIPTION = """\
Run the Worker that an app uses, without the web server, whatever WORKER_ENABLED
says. MODULE is imported with the current directory on sys.path; a function
without arguments that returns a Worker is called.

SIGTERM and SIGINT stop it gracefully: running jobs may go on for its
shutdown_grace, and the stop takes its shutdown_timeout at most. A second signal
stops it at once. Either way jobs that have not ended are given back, and the
attempt is not counted.

With --once it runs what is due now, and what that makes due, until nothing is:
for a cron job. It then takes nothing over from workers that died.
"""

EXAMPLES = """\
examples:
  pqlite worker main:worker
  pqlite worker main:worker --once
  WORKER_CONCURRENCY=50 pqlite worker shop.jobs:make_worker
"""


def add(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "worker",
        run,
        help="run an app's worker without its web server",
        description=DESCRIPTION,
        examples=EXAMPLES,
    )
    parser.add_argument("target", type=target.parse, metavar="MODULE:ATTRIBUTE", help="where the Worker is")
    parser.add_argument("--once", action="store_true", help="end when nothing is due any more")


def run(arguments: argparse.Namespace) -> int:
    """Run the worker until it is asked to stop; return 0 if it stopped gracefully."""
    worker = target.load(arguments.target)
    _log_to_stderr()
    threads = set(threading.enumerate())
    stop = _Stop(worker)
    watchdog: threading.Timer | None = None
    try:
        with asyncio.Runner() as runner:
            try:
                return runner.run(_serve(worker, stop, once=arguments.once))
            finally:
                # At exit Python would join a thread whose handler does not stop, or that resolves a host name. Other
                # workers may run its job by now.
                watchdog = threading.Timer(stop.seconds_to_leave(), _leave_without_them)
                watchdog.daemon = True
                watchdog.start()
    finally:
        for thread in set(threading.enumerate()) - threads:
            if not thread.daemon:
                thread.join()
        if watchdog is not None:
            watchdog.cancel()


class _Stop:
    """The signals that the process has received, and when."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._signals = 0
        self._began = 0.0

    def on_signal(self, number: signal.Signals, running: asyncio.Task[None]) -> None:
        self._signals += 1
        if self._signals == 1:
            self._began = time.monotonic()
            logger.info(
                "%s: the worker stops gracefully, within %g s; a second signal stops it at once.",
                number.name,
                self._worker.settings.shutdown_timeout.total_seconds(),
            )
            self._worker.begin_shutdown()
        elif self._signals == 2:
            # Only once: a second cancellation would interrupt the worker while it gives its jobs back.
            logger.warning("%s: the worker stops at once.", number.name)
            running.cancel()

    def seconds_to_leave(self) -> float:
        if not self._signals:
            return LEAVE_SECONDS
        left = self._began + self._worker.settings.shutdown_timeout.total_seconds() - time.monotonic()
        return min(LEAVE_SECONDS, max(left - 0.2, 0.1))


async def _serve(worker: Worker, stop: _Stop, *, once: bool) -> int:
    running = asyncio.create_task(_run_once(worker) if once else worker.run(), name="pqlite worker command")
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.on_signal, number, running)
    await asyncio.wait([running])
    if running.cancelled():
        return 1
    running.result()
    return 0


async def _run_once(worker: Worker) -> None:
    print(f"Attempts: {await worker.run_once()}")


def _leave_without_them() -> None:
    print("A handler does not stop; the process ends without it.", file=sys.stderr, flush=True)
    os._exit(1)


def _log_to_stderr() -> None:
    """Log to stderr, as JSON with WORKER_LOG_JSON, unless the app has configured logging."""
    if logging.getLogger().hasHandlers():
        return
    handler: logging.Handler = logging.StreamHandler()
    if log_as_json():
        handler.setFormatter(JsonFormatter())
        logging.basicConfig(level=logging.INFO, handlers=[handler])
        return
    form = "%(asctime)s %(levelname)s %(name)s: %(job)s%(message)s"
    if sys.stderr.isatty():
        try:
            from rich.console import Console
            from rich.logging import RichHandler
        except ModuleNotFoundError:
            pass  # plain lines say the same
        else:
            handler, form = RichHandler(console=Console(stderr=True), show_path=False), "%(job)s%(message)s"
    handler.addFilter(_NameJob())
    logging.basicConfig(level=logging.INFO, format=form, handlers=[handler])


class _NameJob(JobFields):
    """Adds the job to each record that a job's handler logs."""

    def filter(self, record: logging.LogRecord) -> bool:
        super().filter(record)
        fields = record.__dict__
        named = "" if fields["job_id"] is None else "[job {job_id} {job_type}, attempt {attempt}] "
        record.job = named.format_map(fields)
        return True
