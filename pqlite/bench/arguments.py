"""The arguments of `pqlite bench`."""

from __future__ import annotations

import argparse
import importlib.util
from dataclasses import fields
from pathlib import Path

from pqlite.bench.catalogue import DEFAULT, SCENARIOS
from pqlite.bench.contenders import PEERS, installed
from pqlite.bench.options import Options

MOST_JOBS = 10_000_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare them."""
    add = parser.add_argument
    add("scenarios", nargs="*", type=_scenario, metavar="SCENARIO", help=f"by default: {', '.join(DEFAULT)}")
    add("--case", metavar="TEXT", help="only cases of which the table's row says TEXT, such as: 2 processes")
    add("--list", action="store_true", help="say what the scenarios are, and exit")
    add("--dsn", help="measure this server, in schemas made for it; default: an embedded PostgreSQL")
    add("--quick", action="store_true", help="small sizes: all of it in two minutes, to see that it works")
    add("--repeat", type=_count, metavar="N", help="repetitions of each case (3; 1 of those that run for a time)")
    add("--seconds", type=_seconds, metavar="S", help="for how long to measure what runs for a time (60)")
    add("--jobs", type=_jobs, metavar="N", help="how many jobs wait (100,000; features 40,000; backlog 1,000,000)")
    add("--rate", type=_count, metavar="N", help="jobs offered per second where they are offered (5,000)")
    add("--concurrency", type=_count, metavar="N", help="of pqlite's workers (pqlite's default)")
    add("--hours", type=_seconds, metavar="N", help="how long a soak takes; fractions are fine")
    add("--uvloop", action="store_true", help="uvloop in every measured process, not asyncio's loop")
    add("--peers", type=_peers, default=(), metavar="NAME,...", help=f"measure {', '.join(PEERS)} or all as well")
    add("--json", type=_file, metavar="FILE", help="write every repetition and what it was measured on")
    add("--svg", type=_file, metavar="FILE", help="plot what ran for a time")


def options_of(arguments: argparse.Namespace) -> Options:
    """Return the arguments' meaning.

    Raises:
        ValueError: they do not go together; the message is a sentence.
    """
    scenarios = tuple(dict.fromkeys(arguments.scenarios)) or DEFAULT
    if "soak" in scenarios and (len(scenarios) > 1 or arguments.hours is None):
        raise ValueError("A soak is run alone and needs to know for how long: pqlite bench soak --hours 8")
    if arguments.hours is not None and scenarios != ("soak",):
        raise ValueError("Only a soak takes --hours; other scenarios take --seconds.")
    if arguments.case is not None:
        names = [case.name for name in scenarios for case in SCENARIOS[name].cases(_options(arguments, scenarios))]
        if not any(arguments.case in name for name in names):
            raise ValueError(f"No case says {arguments.case!r}; there are: {'; '.join(names)}")
    if arguments.uvloop and importlib.util.find_spec("uvloop") is None:
        raise ValueError("uvloop is not installed: pip install uvloop")
    return _options(arguments, scenarios)


def _options(arguments: argparse.Namespace, scenarios: tuple[str, ...]) -> Options:
    given = [field.name for field in fields(Options) if field.init and field.name != "scenarios"]
    return Options(scenarios=scenarios, **{name: getattr(arguments, name) for name in given})


def _scenario(text: str) -> str:
    if text not in SCENARIOS:
        raise argparse.ArgumentTypeError(f"there is no scenario {text!r}; there are: {', '.join(SCENARIOS)}")
    return text


def _peers(text: str) -> tuple[str, ...]:
    if text == "all":
        found = tuple(filter(installed, PEERS))
        if not found:
            wanted = " ".join(f'"{peer.requirement}"' for peer in PEERS.values())
            raise argparse.ArgumentTypeError(f"no peer is installed: pip install {wanted}")
        return found
    names = tuple(dict.fromkeys(text.split(",")))
    for name in names:
        if name not in PEERS:
            raise argparse.ArgumentTypeError(f"there is no peer {name!r}; there are: {', '.join(PEERS)}, or all")
        if not installed(name):
            raise argparse.ArgumentTypeError(f'{name} is not installed: pip install "{PEERS[name].requirement}"')
    return names


def _file(text: str) -> Path:
    path = Path(text)
    if not path.resolve().parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no directory for {text!r}")
    return path


def _count(text: str) -> int:
    if (count := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a count; it must be 1 or more")
    return count


def _jobs(text: str) -> int:
    if (count := int(text)) < 100 or count > MOST_JOBS:
        raise argparse.ArgumentTypeError(f"{text} jobs are not measured; it must be 100 to {MOST_JOBS:,}")
    return count


def _seconds(text: str) -> float:
    if not 0 < (seconds := float(text)) < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a duration")
    return seconds
