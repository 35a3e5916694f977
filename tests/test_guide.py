"""The guide, examples/README.md: each section names examples that tests run, and shows lines of theirs."""

import re
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent
EXAMPLES = CHECKOUT / "examples"
SECTIONS = {
    text.partition("\n")[0]: text for text in (EXAMPLES / "README.md").read_text(encoding="utf-8").split("\n## ")[1:]
}
TESTS = "".join(
    path.read_text(encoding="utf-8")
    for path in [CHECKOUT / "tests/test_examples.py", *(CHECKOUT / "tests/sql").glob("*.py")]
)


def examples() -> set[str]:
    """Return the programs, scripts and folders in examples/, as the guide links to them."""
    scripts = {f"sql/{path.name}" for path in (EXAMPLES / "sql").iterdir()}
    programs = {path.name for path in EXAMPLES.glob("*.py")}
    folders = {f"{path.name}/" for path in EXAMPLES.iterdir() if any(path.glob("test_*.py"))}
    return scripts | programs | folders


def linked(section: str) -> list[str]:
    return re.findall(r"\]\(([^)]+)\)", section)


def test_every_example_has_a_section_and_every_link_leads_to_an_example() -> None:
    links = [link for section in SECTIONS.values() for link in linked(section)]

    assert sorted(links) == sorted(examples())


@pytest.mark.parametrize("title", SECTIONS)
def test_a_section_names_an_example_that_a_test_runs(title: str) -> None:
    names = [link.rstrip("/").rpartition("/")[2].removesuffix(".py") for link in linked(SECTIONS[title])]

    assert names
    # load("quickstart"), run("examples/chaining.py"), EXAMPLES / "outbox.sql", ... / "testing_jobs"
    assert [name for name in names if not re.search(rf'["/.]{re.escape(name)}["\.]', TESTS)] == []


@pytest.mark.parametrize("title", SECTIONS)
def test_the_code_of_a_section_is_taken_from_its_example(title: str) -> None:
    files = [EXAMPLES / link for link in linked(SECTIONS[title])]
    lines = {line.strip() for file in files if file.is_file() for line in file.read_text(encoding="utf-8").splitlines()}
    shown = re.findall(r"^```\w+\n(.*?)^```", SECTIONS[title], re.MULTILINE | re.DOTALL)

    assert [line for line in "".join(shown).splitlines() if line.strip() not in lines | {""}] == []
