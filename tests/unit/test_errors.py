import inspect
import pickle
import re
from datetime import timedelta

import pytest

import pqlite
from pqlite import Cancel, Fail, RetryAfter, Snooze, errors
from pqlite.errors import HandlerSignal, PqliteError


def drawn() -> dict[str, str]:
    """Return each class of the drawing at the top of the module with its parent."""
    parents: dict[str, str] = {}
    path: list[str] = []
    for line in inspect.getdoc(errors).splitlines():  # type: ignore[union-attr]
        if match := re.match(r"([│ ]*)(?:[├└]── )?([A-Z]\w+)(?:\s{2,}|$)", line):
            depth = (len(match[1]) // 4 + 1) if "──" in line else 0
            path[depth:] = [match[2]]
            if depth:
                parents[match[2]] = path[depth - 1]
    return parents


def test_the_tree_of_errors_is_the_one_that_is_drawn() -> None:
    real = {
        name: base.__name__
        for name, kind in vars(errors).items()
        if inspect.isclass(kind) and issubclass(kind, Exception)
        for base in kind.__bases__
        if base.__module__ == errors.__name__
    }

    assert drawn() == real
    assert PqliteError.__base__ is HandlerSignal.__base__ is Exception


def test_what_handlers_raise_is_no_error_of_pqlites() -> None:
    for signal in (Fail, Cancel, RetryAfter, Snooze):
        assert not issubclass(signal, PqliteError)


def test_every_error_can_be_imported_from_the_top() -> None:
    named = set(drawn()) | {"PqliteError"}

    assert named <= set(pqlite.__all__) | {"HandlerSignal"}


@pytest.mark.parametrize(
    ("error", "also"),
    [
        ("ConfigurationError", ValueError),
        ("InvalidJob", ValueError),
        ("PayloadError", ValueError),
        ("NotStarted", RuntimeError),
        ("JobNotFound", LookupError),
        ("WorkerError", RuntimeError),
    ],
)
def test_an_error_is_also_the_builtin_that_python_people_expect(error: str, also: type[Exception]) -> None:
    assert issubclass(getattr(errors, error), also)


def test_signals_keep_their_reason_and_delay() -> None:
    assert (Fail("gone").reason, str(Fail("gone")), Cancel().reason) == ("gone", "gone", "")
    later = RetryAfter(timedelta(hours=1), "limit")
    assert (later.delay, later.reason, Snooze(5).delay) == (timedelta(hours=1), "limit", 5)


class Busy(RetryAfter):
    def __init__(self, host: str) -> None:
        super().__init__(5, f"{host} is busy")
        self.host = host


@pytest.mark.parametrize(
    "signal", [Fail("gone"), Cancel(), RetryAfter(60, "limit"), Snooze(timedelta(hours=1)), Busy("example.org")]
)
def test_a_signal_comes_through_from_another_process(signal: HandlerSignal) -> None:
    arrived = pickle.loads(pickle.dumps(signal))

    assert (type(arrived), vars(arrived), str(arrived)) == (type(signal), vars(signal), str(signal))


@pytest.mark.parametrize("signal", [Snooze, RetryAfter])
@pytest.mark.parametrize("delay", ["60", "rate limited", None])
def test_a_delay_that_is_none_is_refused_where_it_is_written(signal: type[Snooze], delay: object) -> None:
    with pytest.raises(TypeError, match=f"^{signal.__name__} takes seconds or a timedelta, and then a reason, not "):
        signal(delay)  # type: ignore[arg-type]
