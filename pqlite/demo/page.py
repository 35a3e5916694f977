"""HTML, without a template engine and without JavaScript. All data is escaped."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from pqlite import Job, JobStatus
from pqlite.demo.progress import Failure, Progress, short

_STYLE = """
:root {
  color-scheme: light dark;
  --ink: #1c2024; --soft: #60646c; --line: #e2e4e8; --page: #fff;
  --good: #2b9a66; --bad: #ce2c31; --bar: #8da4ef;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ink: #edeef0; --soft: #a3a8b0; --line: #363a3f; --page: #151718;
    --good: #33b074; --bad: #f2555a; --bar: #435db1;
  }
}
* { box-sizing: border-box }
body {
  max-width: 46rem; margin: 0 auto; padding: 2.5rem 1.25rem;
  font: 16px/1.5 system-ui, sans-serif; font-variant-numeric: tabular-nums; overflow-wrap: anywhere;
  color: var(--ink); background: var(--page);
}
h1 { margin: 0; font-size: 1.5rem }
h2 { margin: 2.5rem 0 .75rem; font-size: 1rem }
p { margin: .25rem 0; color: var(--soft) }
a { color: inherit; text-underline-offset: .2em }
pre { margin: 0; font: .875rem/1.5 ui-monospace, monospace; white-space: pre-wrap }
ol, ul { margin: 0; padding: 0; list-style: none }
li { padding: .5rem 0; border-top: 1px solid var(--line) }
dl, dd { margin: 0 }
dt { color: var(--soft) }
.progress { display: flex; height: .75rem; margin: 1.5rem 0; border-radius: 1rem; overflow: hidden }
.progress, .largest i { background: var(--line) }
.done { background: var(--good) }
.failed { background: var(--bad) }
.counts { display: grid; grid-template-columns: repeat(auto-fit, minmax(6rem, 1fr)); gap: 1rem }
.counts dt { font-size: .875rem }
.counts dd { font-size: 1.5rem }
.largest li { display: grid; grid-template-columns: minmax(0, 1fr) 30% 3rem; gap: 1rem; align-items: center }
.largest i, .largest b { display: block; height: .5rem; border-radius: 1rem }
.largest b { background: var(--bar) }
.largest span { text-align: right }
.facts { display: grid; grid-template-columns: 8rem minmax(0, 1fr); gap: .75rem 1rem; margin-top: 1.5rem }
@media (max-width: 30rem) {
  .largest li { grid-template-columns: minmax(0, 1fr) auto; gap: .25rem 1rem }
  .largest i { grid-area: 2 / 1 / 3 / 3 }
  .facts { grid-template-columns: minmax(0, 1fr); gap: 0 }
  .facts dd { margin-bottom: .75rem }
}
"""


def overview(
    progress: Progress, largest: Sequence[tuple[str, int]], failures: tuple[int, Sequence[Failure]], trouble: str | None
) -> str:
    """Return the page that shows how far the worker is; `trouble` is what keeps it from working, if anything does."""
    total, count = max(progress.total, 1), progress.jobs.get
    percent = 100 * progress.finished / total
    shares = {name: 100 * count(JobStatus(name.upper()), 0) / total for name in ("done", "failed")}
    bar = "".join(f'<div class="{name}" style="width:{share:.2f}%"></div>' for name, share in shares.items())
    waiting = progress.total - progress.finished
    sentence = f"{waiting:,} to go." if waiting else 'Nothing is waiting. For more: POST /index {"path": "..."}'
    return _document(
        f"{percent:.0f}% indexed",
        f"""
<h1>{progress.finished:,} of {progress.total:,} files</h1>
<p>{escape(trouble or sentence)}</p>
<div class="progress" role="progressbar" aria-label="Indexed" aria-valuenow="{percent:.0f}">{bar}</div>
<dl class="counts">{_pairs(_counts(progress))}</dl>
<h2>Largest modules</h2>
{_largest(largest) or "<p>None yet.</p>"}
<h2>Failures</h2>
{_failures(*failures) or "<p>None.</p>"}
""",
        refreshes=True,
    )


def job(job: Job) -> str:
    """Return the page of one job."""
    facts = {
        "Status": job.status,
        "Payload": json.dumps(job.payload, ensure_ascii=False),
        "Attempts": f"{job.attempts} of {job.max_attempts}",
        "Result": None if job.result is None else json.dumps(job.result, ensure_ascii=False),
        "Error": job.last_error,
        "Enqueued": f"{job.created_at:%Y-%m-%d %H:%M:%S} UTC",
        "Took": None if job.duration_ms is None else f"{job.duration_ms:,} ms",
        "Worker": job.locked_by,
    }
    known = {name: f"<pre>{escape(value)}</pre>" for name, value in facts.items() if value}
    title = f"Job {job.id}: {escape(job.job_type)}"
    return _document(
        title,
        f"""
<p><a href="/">All jobs</a></p>
<h1>{title}</h1>
<dl class="facts">{_pairs(known)}</dl>
""",
        refreshes=job.finished_at is None,
    )


def _counts(progress: Progress) -> dict[str, str]:
    """Return the four statuses of an ordinary life, others if there are any, and what else is counted."""
    ordinary = (JobStatus.READY, JobStatus.RUNNING, JobStatus.DONE, JobStatus.FAILED)
    statuses = [*ordinary, *(status for status in progress.jobs if status not in ordinary)]
    counts = {status.capitalize(): f"{progress.jobs.get(status, 0):,}" for status in statuses}
    return counts | {"Jobs/s": f"{progress.per_second:,.0f}", "Symbols": f"{progress.symbols:,}"}


def _largest(modules: Sequence[tuple[str, int]]) -> str:
    return _list(
        "largest",
        (
            f'{escape(short(path))} <i><b style="width:{100 * symbols / modules[0][1]:.1f}%"></b></i>'
            f"<span>{symbols:,}</span>"
            for path, symbols in modules
        ),
    )


def _failures(count: int, failures: Sequence[Failure]) -> str:
    items = [
        f'<a href="/jobs/{failure.job_id}">{escape(short(failure.path))}</a><p>{escape(failure.reason)}</p>'
        for failure in failures
    ]
    if count > len(items):
        items.append(f"... and {count - len(items):,} more")
    return _list("failures", items)


def _list(name: str, items: Iterable[str]) -> str:
    inside = "".join(f"<li>{item}</li>" for item in items)
    return inside and f'<ul class="{name}">{inside}</ul>'


def _pairs(pairs: Mapping[str, str]) -> str:
    return "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in pairs.items())


def _document(title: str, body: str, *, refreshes: bool) -> str:
    refresh = '<meta http-equiv="refresh" content="2">' if refreshes else ""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
{refresh}
<title>{title}</title>
<style>{_STYLE}</style>
</head>
<body>{body}</body>
</html>
"""
