"""Measuring cases: every contender in turn, repetition by repetition."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pqlite.bench.figures import Case, Result, Sample
from pqlite.bench.run import Run, progress


async def measure(run: Run, cases: Sequence[Case], finished: Callable[[Result], None]) -> None:
    """Measure the cases one after the other, the contenders in turn within each repetition.

    `finished` gets each contender's samples as soon as a case is complete.
    """
    for case in cases:
        samples: dict[str, list[Sample]] = {name: [] for name in case.contenders}
        for repetition in range(case.repeat):
            # The order rotates, because machines warm up, get busy and slow down.
            turn = repetition % len(case.contenders)
            for name in (*case.contenders[turn:], *case.contenders[:turn]):
                sample = await case.measure(run, name)
                samples[name].append(sample)
                progress(_line(case, repetition, name, sample))
        for name in case.contenders:
            finished(Result(case, name, samples[name], samples.get(case.base, ())))


def _line(case: Case, repetition: int, name: str, sample: Sample) -> str:
    metric = case.metrics[0]
    value = sample.values.get(metric.key)
    shown = "-" if value is None else f"{value:,.{metric.digits}f} {metric.unit}"
    turn = f"{repetition + 1}/{case.repeat}"
    return f"{case.scenario + ', ' + case.name:<45} {turn:>5} {name:<13} {shown}"
