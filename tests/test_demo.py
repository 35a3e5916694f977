"""The demo, as a newcomer meets it: in a process of its own, with a database of its own."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from pqlite import JobStatus, PgJobStore
from pqlite.demo.index import STANDARD_LIBRARY, Symbol, create_tables, enqueue_files, indexer, parse, python_files
from pqlite.demo.once import printable
from tests.conftest import fast_directory
from tests.support import ended, settled

DEMO = [sys.executable, "-m", "pqlite", "demo"]

SOURCE = """
class Outer:
    class Inner:
        def method(self): ...

async def top():
    try:
        ...
    except ValueError:
        def nested(): ...
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with four Python files that parse, three that do not, and what is not to be indexed."""
    root = tmp_path_factory.mktemp("source")
    (root / "package" / "empty directory").mkdir(parents=True)
    (root / "package" / "__init__.py").touch()
    (root / "package" / "good.py").write_text(SOURCE)
    (root / "package" / "größe.py").write_text("# -*- coding: latin-1 -*-\ndef größe(): 'ä'\n", encoding="latin-1")
    (root / "<b>bold.py").write_text("def shout(): ...\n")
    (root / "syntax.py").write_text("def <b>(:\n")
    (root / "nul.py").write_bytes(b"x = '\0'\n")
    (root / "undecodable.py").write_bytes(b"x = '\xff'\n")
    (root / "notes.txt").write_text("no Python")
    (root / "dangling.py").symlink_to(root / "nowhere")
    return root


class Demo(NamedTuple):
    """A served demo, and where its PostgreSQL keeps its data."""

    process: subprocess.Popen[str]
    url: str
    data_dir: Path

    def get(self, path: str, **headers: str) -> httpx.Response:
        return httpx.get(self.url + path, headers=headers)

    def index(self, path: Path | str) -> httpx.Response:
        return httpx.post(self.url + "/index", json={"path": str(path)})

    def page(self, condition: Callable[[str], object]) -> str:
        """Return the progress page once the condition holds of it."""
        deadline = time.monotonic() + 15
        while not condition(text := self.get("/").text):
            assert time.monotonic() < deadline, text
            time.sleep(0.05)
        return text


@pytest.fixture(scope="module")
def demo(source: Path) -> Iterator[Demo]:
    # The server's user, which is not root, must be able to enter it.
    folder = Path(tempfile.mkdtemp(prefix="pqlite-test-", dir=fast_directory()))
    folder.chmod(0o755)
    command = [*DEMO, "--port", "0", "--path", str(source), "--data-dir", str(folder / "data")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert process.stdout is not None
        output = ""
        while not (address := re.search(r"http://127\.0\.0\.1:\d+", output)):
            line = process.stdout.readline()
            assert line, f"the demo ended: {output}"
            output += line
        yield Demo(process, address[0], folder / "data")
    finally:
        process.kill()
        process.communicate()
        shutil.rmtree(folder)


def test_indexing_once_reports_every_file_as_done_or_failed_with_a_reason(source: Path) -> None:
    finished = subprocess.run([*DEMO, "--once", "--path", source], capture_output=True, text=True, timeout=60)

    assert finished.returncode == 0, finished.stderr
    assert finished.stderr == ""
    assert "7 of 7 files" in finished.stdout
    assert dict(re.findall(r"^(files|symbols|failures) +(\d+)$", finished.stdout, re.MULTILINE)) == {
        "files": "7",
        "symbols": "7",
        "failures": "3",
    }
    for name in ("syntax.py", "nul.py", "undecodable.py"):
        assert re.search(rf"{name}\n  (SyntaxError|ValueError): \S", finished.stdout)


def test_a_path_that_does_not_exist_is_refused_in_a_sentence_before_anything_starts() -> None:
    finished = subprocess.run([*DEMO, "--once", "--path", "nowhere"], capture_output=True, text=True, timeout=30)

    assert finished.returncode == 1
    assert finished.stderr == "The path 'nowhere' cannot be indexed: No such file or directory.\n"
    assert finished.stdout == ""


def test_a_port_in_use_is_refused_in_a_sentence_before_anything_starts() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        finished = subprocess.run([*DEMO, "--port", str(port)], capture_output=True, text=True, timeout=30)

    assert finished.returncode == 1
    assert finished.stderr.startswith(f"Port {port} of 127.0.0.1 cannot be used")
    assert len(finished.stderr.splitlines()) == 1
    assert finished.stdout == ""


def test_the_page_shows_the_progress_and_the_largest_modules_and_refreshes_itself(demo: Demo) -> None:
    page = demo.page(lambda text: "7 of 7 files" in text)

    assert '<meta http-equiv="refresh"' in page
    assert "<script" not in page
    assert page.index("good.py") < page.index("größe.py")
    assert re.search(r"<dt>Failed</dt><dd>3</dd>", page)


def test_names_and_reasons_from_the_source_are_escaped(demo: Demo) -> None:
    page = demo.page(lambda text: "7 of 7 files" in text)
    job = demo.index(demo_file := Path(re.findall(r"[^<>\"]*&lt;b&gt;bold\.py", page)[0].replace("&lt;b&gt;", "<b>")))

    assert "&lt;b&gt;bold.py" in page
    assert "<b>bold" not in page
    shown = demo.get(f"/jobs/{job.json()['jobs'][0]}", accept="text/html").text
    assert demo_file.name.replace("<b>", "&lt;b&gt;") in shown
    assert "<b>bold" not in shown


def test_a_failure_links_to_its_job_which_keeps_the_reason(demo: Demo) -> None:
    page = demo.page(lambda text: "7 of 7 files" in text)
    link = re.search(r'<a href="(/jobs/\d+)">[^<]*nul\.py</a>', page)
    assert link is not None

    job = demo.get(link[1]).json()
    shown = demo.get(link[1], accept="text/html,*/*")

    assert (job["status"], job["attempts"]) == ("FAILED", 1)
    assert "null byte" in job["last_error"]
    assert shown.headers["content-type"].startswith("text/html")
    assert "null byte" in shown.text


def test_more_files_can_be_posted_and_are_indexed(demo: Demo, tmp_path: Path) -> None:
    (tmp_path / "posted.py").write_text("def posted(): ...\n")

    accepted = demo.index(tmp_path)

    assert accepted.status_code == 202
    assert accepted.json()["new"] == 1
    [job_id] = accepted.json()["jobs"]
    demo.page(lambda text: "posted.py" in text)
    assert demo.get(f"/jobs/{job_id}").json()["result"] == {"symbols": 1}


def test_a_directory_without_python_is_accepted_and_makes_no_job(demo: Demo, tmp_path: Path) -> None:
    assert demo.index(tmp_path).json() == {"jobs": [], "new": 0}


@pytest.mark.parametrize("path", ["/no/such/path", "nul\0byte", "x" * 5000])
def test_posting_a_path_that_does_not_exist_is_answered_with_404_and_a_sentence(demo: Demo, path: str) -> None:
    answer = demo.index(path)

    assert answer.status_code == 404
    assert re.fullmatch(r"The path '.*' cannot be indexed: .+\.", answer.json()["detail"])


def test_a_job_that_does_not_exist_is_answered_with_404(demo: Demo) -> None:
    answer = demo.get("/jobs/987654321")

    assert answer.status_code == 404
    assert answer.json() == {"detail": "There is no job 987654321."}


@pytest.mark.parametrize("job_id", ["0", "-1", "9" * 30, "seven"])
def test_what_is_no_job_id_is_refused(demo: Demo, job_id: str) -> None:
    assert demo.get(f"/jobs/{job_id}").status_code == 422


def test_ctrl_c_ends_the_demo_promptly_and_its_server_with_it(demo: Demo) -> None:
    """The last test with this demo."""
    server = int((demo.data_dir / "postmaster.pid").read_text().split()[0])
    os.kill(server, 0)

    demo.process.send_signal(signal.SIGINT)
    output, _ = demo.process.communicate(timeout=10)

    assert demo.process.returncode == 0
    assert "Traceback" not in output
    assert not (demo.data_dir / "postmaster.pid").exists()
    with pytest.raises(ProcessLookupError):
        os.kill(server, 0)


async def test_a_file_that_cannot_be_read_is_retried_after_a_second(store: PgJobStore, tmp_path: Path) -> None:
    file = tmp_path / "late.py"
    file.touch()
    await create_tables(store)
    [job] = await enqueue_files(store, file)
    file.unlink()

    async with indexer(store):
        failed = await settled(store, job.id)
        file.write_text(SOURCE)
        done = await ended(store, job.id)

    assert failed.status is JobStatus.READY
    assert "FileNotFoundError" in (failed.last_error or "")
    assert failed.updated_at is not None
    assert (failed.run_after - failed.updated_at).total_seconds() == pytest.approx(1.0, abs=0.01)
    assert (done.status, done.attempts, done.result) == (JobStatus.DONE, 2, {"symbols": 5})


async def test_the_symbols_of_a_file_are_replaced_when_it_is_indexed_again(store: PgJobStore, tmp_path: Path) -> None:
    file = tmp_path / "changing.py"
    await create_tables(store)

    async with indexer(store):
        for source in (SOURCE, "def other(): ..."):
            file.write_text(source)
            [job] = await enqueue_files(store, file)
            await ended(store, job.id)

    async with store.connection() as conn:
        symbols = await conn.fetch("select name, kind, line from demo.symbols where path = $1", str(file))
    assert [Symbol(*row) for row in symbols] == [Symbol("other", "function", 1)]


async def test_a_file_that_waits_already_is_not_enqueued_twice(store: PgJobStore, source: Path) -> None:
    first = await enqueue_files(store, source)
    again = await enqueue_files(store, source)

    assert [job.id for job in first] == [job.id for job in again]
    assert all(job.inserted for job in first)
    assert not any(job.inserted for job in again)


def test_symbols_are_classes_and_functions_at_any_depth(tmp_path: Path) -> None:
    (tmp_path / "good.py").write_text(SOURCE)

    assert {(symbol.name, symbol.kind) for symbol in parse(str(tmp_path / "good.py"))} == {
        ("Outer", "class"),
        ("Outer.Inner", "class"),
        ("Outer.Inner.method", "function"),
        ("top", "function"),
        ("top.nested", "function"),
    }


def test_the_standard_library_is_indexed_without_what_pip_installed_beside_it() -> None:
    files = python_files(STANDARD_LIBRARY)

    assert str(STANDARD_LIBRARY / "asyncio" / "tasks.py") in files
    assert not any("site-packages" in file for file in files)


def test_a_file_name_cannot_command_the_terminal() -> None:
    assert printable("bell\a and \x1b[2J.py") == "bell? and ?[2J.py"
