"""The options of a job are named once for each purpose, and all agree."""

from dataclasses import fields

from pqlite import NewJob
from pqlite.job import Job, JobOptions
from pqlite.store.columns import DEFAULTS
from pqlite.store.validation import COLUMNS, row

NOT_OPTIONS = {"job_type", "payload", "version"}
"""What the arguments beside the options say; the version of a payload goes into the metadata."""


def test_every_option_of_enqueue_is_a_field_of_a_new_job_and_no_field_is_forgotten() -> None:
    assert {field.name for field in fields(NewJob)} - NOT_OPTIONS == JobOptions.__annotations__.keys()


def test_every_option_is_a_column_that_is_written() -> None:
    assert set(COLUMNS) == JobOptions.__annotations__.keys() | {"job_type", "payload", "delay"}


def test_a_row_has_a_value_for_every_column() -> None:
    assert len(row(NewJob(job_type="mail"), 100)) == len(COLUMNS) == len(DEFAULTS)


def test_every_column_but_the_delay_can_be_read_from_a_job() -> None:
    assert set(COLUMNS) - {field.name for field in fields(Job)} == {"delay"}
