# SPDX-License-Identifier: AGPL-3.0-or-later
"""Every script with state on a real Orthanc: a bad start heals, one process has the state, nothing is lost on a full disk."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from testing.dicom import make_study
from testing.installed import dicomweb_plugin, python_plugin
from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancServer
from tests.disks import filled, locked
from tests.privileges import AS_ROOT

ROOT = Path(__file__).parents[2]
SECRET = "0123456789abcdef" * 2
DISPATCHER = """
import event_dispatcher, orthanc

def on_stable(event, _session):
    orthanc.LogWarning(f"handled {event.resource_id}")

handlers = {orthanc.ChangeType.STABLE_STUDY: on_stable}
event_dispatcher.register_event_handlers(handlers, orthanc, None, at_least_once="mine")
"""


class Case(NamedTuple):
    """A script, its configuration, its state file, a route that reads it, and what shows that it has caught up."""

    name: str
    configuration: dict[str, Any]
    route: str
    caught_up: Callable[[OrthancServer], Any]
    state: str = ""
    script: str = ""

    @property
    def file(self) -> str:
        return f"{self.state or self.name}.sqlite"


def forwarded(route: str) -> Callable[[OrthancServer], Any]:
    def look(server: OrthancServer) -> Any:
        totals = server.get(f"/{route}/status")["Totals"]
        return sum(totals.values()) > 0

    return look


NODE = {"DicomModalities": {"AWAY": ["AWAY", "127.0.0.1", 1]}}
PEER = {"OrthancPeers": {"away": ["http://127.0.0.1:1/"]}}
DICOMWEB = {
    "Plugins": [str(python_plugin()), str(dicomweb_plugin())],
    "DicomWeb": {"Servers": {"away": ["http://127.0.0.1:1/"]}},
}
CASES = [
    Case("auto_forward_dicomweb", DICOMWEB, "/auto-forward-dicomweb/status", forwarded("auto-forward-dicomweb")),
    Case("auto_forward_modality", NODE, "/auto-forward-modality/status", forwarded("auto-forward-modality")),
    Case("auto_forward_peer", PEER, "/auto-forward-peer/status", forwarded("auto-forward-peer")),
    Case(
        "anonymize_series",
        {"AnonymizeSeries": {"Secret": SECRET, "Recipes": {"all": {}}, "Rules": [{"Destinations": ["all"]}]}},
        "/anonymize-series/status",
        lambda server: sum(server.get("/anonymize-series/status")["Totals"].values()) > 0,
    ),
    Case(
        "audit_log",
        {"AuditLog": {"Key": SECRET}},
        "/audit-log/status",
        lambda server: server.get("/audit-log", event="received")["Total"] > 0,
    ),
    Case(
        "auto_retries",
        NODE,
        "/auto-retries/status",
        lambda server: server.get("/auto-retries/jobs")["Total"] > 0,
    ),
    Case(
        "series_private_tags",
        {"SeriesMainPrivateDicomTags": ["0009,1001:MINE"]},
        "/with-private-tags/status",
        lambda server: server.get("/with-private-tags/status")["Series"] > 0,
    ),
    Case("purge_old_studies", {}, "/purge-old-studies/status", lambda _server: True),
    Case("cmove_interceptor", {}, "/cmove-interceptor/status", lambda _server: True),
    Case("dashboard", {}, "/dashboard/flow", lambda server: server.get("/dashboard/summary")["Server"]["Studies"] > 0),
    Case(
        "event_dispatcher",
        {},
        "",
        lambda server: "handled " in server.log,
        state="mine",
        script=DISPATCHER,
    ),
    Case(
        "dicom_events/__init__",
        {"DicomEvents": {"Broker": {"Type": "log"}}},
        "/dicom-events/status",
        lambda server: "dicom.study.stable" in server.log,
        state="dicom_events",
    ),
]
ALL = pytest.mark.parametrize("case", CASES, ids=[case.name.partition("/")[0] for case in CASES])
TROUBLE = re.compile(r"^[EW]\d{4} .*(?:idle until this is over|goes on, this is over)", re.MULTILINE)


def server_of(case: Case, start: StartOrthanc, **more: Any) -> OrthancServer:
    """An Orthanc with the script, its state in a folder of its own, not started."""
    script: Path | str = ROOT / f"{case.name}.py"
    server = start(case.script or script, {"StableAge": 1, **case.configuration, **more}, start=False)
    if case.script:
        shutil.copy(ROOT / f"{case.name}.py", server.folder)
    (server.folder / "storage").mkdir(exist_ok=True)
    return server


def give_work(case: Case, server: OrthancServer) -> None:
    """What each script has to take in sooner or later: an image, and a job that fails."""
    server.store(make_study(patient_id=os.urandom(4).hex()))
    if case.name == "auto_retries":
        study = server.get("/studies")[0]
        server.post("/modalities/AWAY/store", {"Resources": [study], "Synchronous": False})


def assert_said_once(server: OrthancServer, why: str = "") -> None:
    """One line of the log when it failed, and one when it worked."""
    lines = [line for line in server.log.splitlines() if TROUBLE.search(line)]
    assert len(lines) == 2, lines
    assert why in lines[0]
    assert "idle until this is over" in lines[0]
    assert "goes on, this is over" in lines[1]


def line_with(server: OrthancServer, text: str, timeout: float = 30) -> str:
    """Wait for a line of the log that has this text, and return it."""
    server.wait_for_log(text, timeout=timeout)
    return next(line for line in server.log.splitlines() if text in line)


@contextlib.contextmanager
def full(folder: Path) -> Iterator[None]:
    """A disk of its own for the folder, full."""
    subprocess.run([*AS_ROOT, "mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder], check=True)
    with filled(folder):
        yield


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """A disk of its own for the folder, that can't be written."""
    subprocess.run([*AS_ROOT, "mount", "-t", "tmpfs", "-o", "ro,size=8m", "tmpfs", folder], check=True)
    try:
        yield
    finally:
        subprocess.run([*AS_ROOT, "mount", "-o", "remount,rw", folder], check=True)


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "state"
    folder.mkdir()
    yield folder
    subprocess.run([*AS_ROOT, "umount", "--lazy", folder], check=False, stderr=subprocess.DEVNULL)


def with_state(case: Case, state: Path) -> Case:
    """The case with its state in a folder of its own."""
    if case.script:
        script = case.script.replace(
            'at_least_once="mine"', f'at_least_once=event_dispatcher.AtLeastOnce("mine", folder={str(state)!r})'
        )
        return case._replace(script=script)
    section = {
        "dicom_events/__init__": "DicomEvents",
        "series_private_tags": "SeriesMainPrivateDicomTags",
        "cmove_interceptor": "CMoveInterceptor",
    }.get(case.name) or "".join(map(str.capitalize, case.name.split("_")))
    content = case.configuration.get(section, {})
    content = {"Tags": content} if isinstance(content, list) else content
    return case._replace(configuration={**case.configuration, section: {**content, "StatePath": str(state)}})


FAULTS = {"locked": "database is locked", "full": "full", "read-only": "StatePath"}


@ALL
@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_start_heals_says_so_once_and_catches_up(
    start_briefly: StartOrthanc, state: Path, case: Case, fault: str
) -> None:
    case = with_state(case, state)
    server = server_of(case, start_briefly)
    spoil = {
        "locked": lambda: locked(state / case.file),
        "full": lambda: full(state),
        "read-only": lambda: read_only(state),
    }
    with spoil[fault]():
        server.start()
        server.wait_until(lambda: "idle until this is over" in server.log, what="say what is wrong")
        give_work(case, server)
        if case.route:
            began = time.monotonic()
            answer = server.request("GET", case.route)
            assert time.monotonic() - began < 2
            assert answer.status_code == 503
            assert "idle until this is over" in answer.json()["Message"]
        time.sleep(2)  # a second try fails too
    server.wait_until(lambda: "goes on, this is over" in server.log, what="heal", timeout=20)
    server.wait_until(lambda: case.caught_up(server), what="catch up", timeout=20)
    why = {"read-only": "folder"}.get(fault, FAULTS[fault]) if case.script else FAULTS[fault]
    assert_said_once(server, why)
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in state.iterdir() if file.is_file()}
    assert modes == dict.fromkeys(modes, 0o600)
    assert case.file in modes


# One process


@ALL
def test_of_two_servers_on_one_state_the_second_waits_and_takes_over_after_kill_9(
    start_briefly: StartOrthanc, state: Path, case: Case
) -> None:
    case = with_state(case, state)
    first, second = server_of(case, start_briefly), server_of(case, start_briefly)
    first.start()
    give_work(case, first)
    first.wait_until(lambda: case.caught_up(first), what="work")
    second.start()
    said = line_with(second, "another process uses")
    assert str(state / case.file) in said
    assert ("folder" if case.script else "StatePath") in said
    give_work(case, second)
    time.sleep(2)
    if case.route:
        assert first.request("GET", case.route).status_code == 200
        assert second.request("GET", case.route).status_code == 503
    first.kill()
    second.wait_until(lambda: "goes on, this is over" in second.log, what="take over", timeout=20)
    give_work(
        case, second
    )  # its archive is another, so that what came while it waited may lie before its place in the log
    second.wait_until(lambda: case.caught_up(second), what="work", timeout=20)
    lines = [line for line in second.log.splitlines() if TROUBLE.search(line)]
    assert [line[0] for line in lines] == ["W", "W"], lines


def test_in_a_rolling_update_the_new_server_goes_on_when_the_old_one_ends(
    start_orthanc: StartOrthanc, state: Path
) -> None:
    # 1.13.0 itself ends with -6 while a job of its DICOMweb plugin runs.
    case = with_state(next(case for case in CASES if case.name == "auto_forward_modality"), state)
    old, new = server_of(case, start_orthanc), server_of(case, start_orthanc)
    old.start()
    old.store(make_study(patient_id="P"))
    old.wait_until(lambda: case.caught_up(old), what="work")
    new.start()
    new.wait_for_log("another process uses")
    assert old.stop() == 0
    new.wait_until(lambda: new.request("GET", case.route).status_code == 200, what="take over", timeout=20)
    assert sum(new.get(case.route)["Totals"].values()) == 1  # what the old one left


# While it runs


@ALL
def test_while_the_ledger_is_locked_or_full_routes_answer_soon_and_never_with_500(
    start_briefly: StartOrthanc, state: Path, case: Case
) -> None:
    if not case.route:
        return
    subprocess.run([*AS_ROOT, "mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", state], check=True)
    case = with_state(case, state)
    server = server_of(case, start_briefly).start()
    server.wait_until(lambda: server.request("GET", case.route).status_code == 200, what="start")

    def ask_while_working() -> None:
        give_work(case, server)
        for _ in range(6):
            began = time.monotonic()
            answer = server.request("GET", case.route)
            assert answer.status_code in (200, 503), answer.text
            assert time.monotonic() - began < 2  # one second, and a machine that others use too
            time.sleep(0.3)

    with locked(state / case.file):
        ask_while_working()
    with filled(state):
        ask_while_working()
    server.wait_until(lambda: case.caught_up(server), what="go on", timeout=20)
    assert server.request("GET", case.route).status_code == 200
    server.assert_not_logged("please report")


@ALL
def test_a_state_that_is_taken_away_is_noticed_and_nothing_is_done_that_can_not_be_recorded(
    start_briefly: StartOrthanc, state: Path, case: Case
) -> None:
    case = with_state(case, state / "mine")
    server = server_of(case, start_briefly).start()
    server.wait_until(lambda: (state / "mine" / case.file).exists(), what="open its state")
    if case.route:
        server.wait_until(lambda: server.request("GET", case.route).status_code == 200, what="start")
    time.sleep(1)
    (state / "mine").rename(state / "away")
    assert line_with(server, "was deleted or replaced while it was in use", timeout=12).startswith("E")
    give_work(case, server)
    time.sleep(3)
    if case.name != "dicom_events/__init__" and case.route:
        answer = server.request("GET", case.route)
        assert answer.status_code == 503
        assert "was deleted or replaced" in answer.json()["Message"]
    if case.name != "purge_old_studies" and case.name != "cmove_interceptor":
        jobs = server.get("/jobs?expand")
        assert all(job["Type"] != "DicomModalityStore" or case.name == "auto_retries" for job in jobs)
    assert "handled " not in server.log
    assert "dicom.study.stable" not in server.log
    assert not (state / "mine").exists()
    (state / "away").rename(state / "mine")
    server.wait_for_log("this is over", timeout=20)
    if case.route:
        server.wait_until(lambda: server.request("GET", case.route).status_code == 200, what="answer again")
    server.wait_until(lambda: case.caught_up(server), what="go on with the very same", timeout=20)


# What a full disk must not lose


def test_the_audit_log_has_a_line_for_each_arrival_on_a_full_disk(start_briefly: StartOrthanc, state: Path) -> None:
    subprocess.run([*AS_ROOT, "mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", state], check=True)
    case = with_state(next(case for case in CASES if case.name == "audit_log"), state)
    server = server_of(case, start_briefly).start()
    server.wait_until(lambda: server.request("GET", case.route).status_code == 200, what="start")
    with filled(state):
        for number in range(40):
            server.store(make_study(patient_id=f"P{number}"))
            time.sleep(0.2)
        server.wait_for_log("audit_log goes on when this is over")
    server.wait_until(lambda: server.get(case.route)["Waiting"] == 0, what="write all", timeout=20)
    found = server.get("/audit-log", event="received", limit=1000)
    assert sorted(item["Patient"] for item in found["Items"]) == sorted(f"P{number}" for number in range(40))
    assert server.get("/audit-log", event="lost")["Total"] == 0


def test_private_tags_come_back_at_once_after_a_full_disk(start_briefly: StartOrthanc, state: Path) -> None:
    subprocess.run([*AS_ROOT, "mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", state], check=True)
    case = with_state(next(case for case in CASES if case.name == "series_private_tags"), state)
    server = server_of(case, start_briefly).start()
    server.wait_until(lambda: server.request("GET", case.route).status_code == 200, what="start")
    with filled(state):
        for number in range(60):
            server.store(make_study(patient_id=f"P{number}"))
        time.sleep(5)
    # One that waited two seconds for each took two minutes.
    server.wait_until(lambda: server.get(case.route)["Series"] == 60, what="catch up", timeout=15)
