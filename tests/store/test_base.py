"""JobStore has each public verb once."""

import inspect

import pytest

from pqlite import JobStore, PgJobStore
from pqlite.testing import MemoryJobStore

OF_ITS_CONNECTIONS = {"started", "start", "migrate", "connection", "transaction", "was_completed"}
"""Verbs that JobStore only declares."""


@pytest.mark.parametrize("backend", [PgJobStore, MemoryJobStore])
def test_no_backend_has_a_verb_of_its_own_version(backend: type[JobStore]) -> None:
    verbs = {name for name, _ in inspect.getmembers(JobStore) if not name.startswith("_")}

    assert verbs & vars(backend).keys() == OF_ITS_CONNECTIONS


@pytest.mark.parametrize("backend", [PgJobStore, MemoryJobStore])
def test_a_backend_takes_over_the_signature_of_what_it_implements(backend: type[JobStore]) -> None:
    for name in OF_ITS_CONNECTIONS - {"started"}:
        declared, implemented = (inspect.signature(getattr(each, name)) for each in (JobStore, backend))

        assert list(declared.parameters) == list(implemented.parameters), name
