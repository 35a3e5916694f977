"""The tools are tested on both stores, like the stores themselves."""

from tests.conformance.conftest import fresh_store as fresh_store
from tests.conformance.conftest import make_store as make_store
from tests.conformance.conftest import pytest_generate_tests as pytest_generate_tests
from tests.conformance.conftest import scene as scene
from tests.conformance.conftest import store as store
