# SPDX-License-Identifier: AGPL-3.0-or-later
"""`make dev`: Orthanc starts again when the script changes, with what it had, whatever is wrong with the script."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from testing.dev import pointed, read_configuration
from testing.dicom import make_study
from testing.server import Process, start_process
from testing.waiting import wait_until

ROOT = Path(__file__).parents[2]
SCRIPT = """
import orthanc
import beside
import event_dispatcher  # of this repository

def on_change(change, level, resource):
    if change == orthanc.ChangeType.ORTHANC_STOPPED:
        orthanc.LogWarning("script has stopped")

def answer(output, uri, **request):
    if "get" in request and "fail" in request["get"]:
        raise ValueError("asked to fail")
    output.AnswerBuffer("VERSION" + beside.MORE, "text/plain")

orthanc.RegisterOnChangeCallback(on_change)
orthanc.RegisterRestCallback("/answer", answer)
"""


class Dev:
    """`python -m testing.dev`, and what it prints."""

    def __init__(self, folder: Path) -> None:
        self.script, self.beside, self._log = folder / "mine.py", folder / "beside.py", folder / "printed"
        self.beside.write_text("MORE = ''\n")
        self.write("1")
        self.temporary = folder / "temporary"
        self.temporary.mkdir()
        ports = ["--http-port", "0", "--dicom-port", "0"]
        command = [sys.executable, "-m", "testing.dev", str(self.script), *ports, "--color"]
        environment = {"PYTHONPATH": str(ROOT), "TMPDIR": str(self.temporary)}
        self.process: Process = start_process(command, log=self._log, environment=environment)
        self.wait_for_starts(1)

    def write(self, version: str) -> None:
        self.script.write_text(SCRIPT.replace("VERSION", version))

    @property
    def printed(self) -> str:
        return self._log.read_text()

    def wait_for_starts(self, number: int) -> None:
        wait_until(lambda: self.printed.count("Started in") == number, what=f"start {number}")

    def wait_for(self, text: str) -> None:
        wait_until(lambda: text in self.printed, what=text)

    def request(self, path: str, method: str = "GET", data: bytes | None = None) -> requests.Response:
        urls = re.findall(r"http://127\.0\.0\.1:\d+", self.printed)
        return requests.request(method, urls[-1] + path, data=data, timeout=30)


@pytest.fixture
def dev(tmp_path: Path) -> Iterator[Dev]:
    started = Dev(tmp_path)
    yield started
    if started.process.poll() is None:
        started.process.send_signal(signal.SIGINT)
        started.process.wait(30)


def test_a_change_starts_it_again_on_the_same_port_with_the_same_data(dev: Dev) -> None:
    assert dev.request("/answer").text == "1"
    assert dev.request("/instances", "POST", make_study()[0]).ok
    dev.write("2")
    dev.wait_for_starts(2)
    assert dev.request("/answer").text == "2"
    dev.beside.write_text("MORE = ' and more'\n")
    dev.wait_for_starts(3)
    assert dev.request("/answer").text == "2 and more"
    assert len(dev.request("/instances").json()) == 1
    assert len(set(re.findall(r"http://127\.0\.0\.1:\d+", dev.printed))) == 1
    assert dev.printed.count("script has stopped") == 2


def test_errors_are_in_colour_point_at_the_source_and_a_correction_goes_on(dev: Dev) -> None:
    assert dev.request("/answer?fail=1").status_code == 500
    line = next(number for number, text in enumerate(SCRIPT.splitlines(), 1) if "asked to fail" in text)
    wait_until(lambda: re.search(rf"\033\[31m\033\[1m +{dev.script}:{line} in answer\033\[0m", dev.printed))
    dev.script.write_text("import orthanc\nundefined_name\n")
    dev.wait_for("Waiting for a change")
    dev.wait_for(f"{dev.script}:2 in <module>")
    dev.wait_for("name 'undefined_name' is not defined")
    dev.write("3")
    dev.wait_for_starts(2)
    assert dev.request("/answer").text == "3"


def test_ctrl_c_ends_it_and_leaves_nothing(dev: Dev) -> None:
    dev.process.send_signal(signal.SIGINT)
    assert dev.process.wait(30) == 0
    assert list(dev.temporary.iterdir()) == []
    assert "script has stopped" in dev.printed


def test_a_script_that_is_not_there_is_named() -> None:
    command = [sys.executable, "-m", "testing.dev", "absent.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, "there is no file absent.py" in done.stderr) == (2, True)


def test_a_configuration_may_have_comments_as_for_orthanc(tmp_path: Path) -> None:
    path = tmp_path / "orthanc.json"
    path.write_text('{ // of both kinds\n"Name": "http://a//b /* none */", /* here\n too */ "StableAge": 2}')
    assert read_configuration(path) == {"Name": "http://a//b /* none */", "StableAge": 2}


@pytest.mark.parametrize(
    ("content", "said"),
    [('{"A": 1, /* two\nlines */\n"B"}', ", line 3: Expecting"), ("[]", ": found no object of keys")],
)
def test_a_configuration_that_can_not_be_read_is_named_in_one_line(tmp_path: Path, content: str, said: str) -> None:
    script, path = tmp_path / "mine.py", tmp_path / "orthanc.json"
    script.write_text("")
    path.write_text(content)
    command = [sys.executable, "-m", "testing.dev", str(script), "--config", str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert f"{path}{said}" in done.stderr
    assert "Traceback" not in done.stderr


def test_make_dev_says_that_it_needs_a_script() -> None:
    done = subprocess.run(["make", "-n", "dev"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "make dev SCRIPT=path.py" in done.stderr


def test_places_in_tracebacks_are_written_as_editors_open_them() -> None:
    assert pointed('  File "/a/b.py", line 12, in <module>') == "  /a/b.py:12 in <module>"
    assert pointed("ValueError: no place") == "ValueError: no place"
