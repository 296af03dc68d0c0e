# SPDX-License-Identifier: AGPL-3.0-or-later
"""event_dispatcher.py on a real Orthanc, alone and combined, across kill -9."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from testing.dicom import make_study, orthanc_identifier, uid
from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancServer
from tests.scripts import PACKAGES, SCRIPTS, combine_scripts

ROOT = Path(__file__).parents[2]
IMPORTS = """
import asyncio, functools, json, logging, os, threading, time
import orthanc
from event_dispatcher import *
from event_dispatcher import register_event_handlers, create_session, create_internal_client

CHANGE = orthanc.ChangeType
CONFIGURATION = json.loads(orthanc.GetConfiguration())

def note(*words):
    with open(CONFIGURATION["Notes"], "a") as file:
        file.write(" ".join(map(str, words)) + "\\n")
"""


def written(folder: Path, text: str, name: str = "mine.py") -> Path:
    """A user's script, with event_dispatcher.py beside it."""
    folder.mkdir(exist_ok=True)
    shutil.copy(ROOT / "event_dispatcher.py", folder)
    (folder / name).write_text(IMPORTS + text)
    return folder / name


def combined(script: Path, *others: Path) -> Path:
    return combine_scripts(script, *others, to=script.with_name("combined.py"))


class Notes:
    """What handlers write down."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "notes"
        self.path.touch()
        self.configuration = {"Notes": str(self.path)}

    def lines(self) -> list[str]:
        return self.path.read_text().splitlines()

    def has(self, line: str) -> bool:
        return line in self.lines()


@pytest.fixture
def notes(tmp_path: Path) -> Notes:
    return Notes(tmp_path)


HELLO = """
def hello(event, session):
    logging.warning("%s", event)
    return session.get('/system').json()["ApiVersion"]

def tell(result, session):
    logging.info("ApiVersion %s", result)

register_event_handlers({CHANGE.ORTHANC_STARTED: pipeline(hello, tell)}, orthanc, create_session(orthanc))
"""


@pytest.mark.parametrize(
    "how", ["alone", "combined with all others", "with the users that Orthanc asks for", "with AllowThreads"]
)
def test_the_hello_handler_runs(start_orthanc: StartOrthanc, tmp_path: Path, how: str) -> None:
    script = written(tmp_path / "scripts", HELLO)
    if how == "combined with all others":
        script = combined(script, *SCRIPTS, *PACKAGES)
        shutil.rmtree(tmp_path / "scripts" / "__pycache__", ignore_errors=True)
        (tmp_path / "scripts" / "event_dispatcher.py").unlink()  # it is in the combined file
    configurations: dict[str, dict[str, Any]] = {
        "with authentication": {"AuthenticationEnabled": True, "RegisteredUsers": {"a": "b"}},
        "with AllowThreads": {"Python": {"AllowThreads": True}},
    }
    server = start_orthanc(script, configurations.get(how), verbose=True)
    version = server.get("/system")["ApiVersion"]
    server.wait_for_log(f"ApiVersion {version}")
    (line,) = [line for line in server.log.splitlines() if "ChangeEvent(" in line]
    assert line.startswith("W")
    assert line.endswith("ChangeEvent(change_type=ORTHANC_STARTED, resource_type=NONE, resource_id='')")
    assert "HTTP Request" not in server.log


class Service(ThreadingHTTPServer):
    """Answers none of its callers before all of them have come."""

    request_queue_size = 128
    daemon_threads = True

    def __init__(self, callers: int) -> None:
        super().__init__(("127.0.0.1", 0), Meeting)
        self.barrier = threading.Barrier(callers)
        self.url = f"http://127.0.0.1:{self.server_port}"


class Meeting(BaseHTTPRequestHandler):
    server: Service

    def do_GET(self) -> None:
        try:
            self.server.barrier.wait(20)
            self.send_response(200)
        except threading.BrokenBarrierError:
            self.send_response(503)
        self.end_headers()

    def log_message(self, *_: Any) -> None: ...


@contextmanager
def meeting(callers: int) -> Iterator[Service]:
    service = Service(callers)
    thread = threading.Thread(target=service.serve_forever)
    thread.start()
    try:
        yield service
    finally:
        service.shutdown()
        service.server_close()
        thread.join()


TOGETHER = """
URL = CONFIGURATION["Service"]

async def coroutine(event, session):
    note("coroutine", (await session.get(URL)).status_code)

def plain(event, session):
    note("plain", session.get(URL).status_code)

register_event_handlers({CHANGE.NEW_PATIENT: [*[coroutine] * 50, plain]}, orthanc, create_session(orthanc))
"""


@pytest.mark.parametrize("together", ["alone", "combined"])
def test_fifty_coroutines_and_a_blocking_handler_wait_on_a_slow_service_at_the_same_time(
    start_orthanc: StartOrthanc, tmp_path: Path, notes: Notes, together: str
) -> None:
    script = written(tmp_path / "scripts", TOGETHER)
    with meeting(51) as service:
        configuration = {**notes.configuration, "Service": service.url}
        server = start_orthanc(combined(script) if together == "combined" else script, configuration)
        server.store(make_study())
        server.wait_until(lambda: len(notes.lines()) == 51)
    assert sorted(notes.lines()) == ["coroutine 200"] * 50 + ["plain 200"]


EVENTS = """
EVENTS = {CHANGE.NEW_PATIENT, CHANGE.NEW_INSTANCE, CHANGE.STABLE_SERIES, CHANGE.DELETED}

def tell(event, session):
    note(*[str(event.change_type), str(event.resource_type), event.resource_id])

def look(event, session):
    tags, aet = first_instance_tags(event, session), first_instance_metadata(event, session, "RemoteAET")
    note("look", tags["PatientID"], aet, *sorted(parents(event, session)))

async def look_too(event, session):
    note("look too", (await first_instance_tags(event, session))["PatientID"])

register_event_handlers(
    {**dict.fromkeys(EVENTS, tell), CHANGE.STABLE_SERIES: [tell, look, look_too]}, orthanc, create_session(orthanc)
)
"""


def test_every_event_reaches_its_handlers_and_helpers_find_what_it_is_about(
    start_orthanc: StartOrthanc, tmp_path: Path, notes: Notes
) -> None:
    server = start_orthanc(written(tmp_path / "scripts", EVENTS), notes.configuration)
    server.store_scu(make_study(patient_id="P1", instances=2), aet="CT1")
    looked = {"look P1 CT1 Patient Series Study", "look too P1"}
    server.wait_until(lambda: looked < set(notes.lines()))
    server.delete(f"/patients/{orthanc_identifier('P1')}")
    server.wait_until(lambda: sum(line.startswith("DELETED") for line in notes.lines()) == 5)
    patient = orthanc_identifier("P1")
    series = orthanc_identifier("P1", uid(0, "P1"), uid(uid(0, "P1"), 1))
    expected = {f"NEW_PATIENT PATIENT {patient}", f"STABLE_SERIES SERIES {series}", f"DELETED PATIENT {patient}"}
    assert expected < set(notes.lines())
    assert sum(line.startswith("NEW_INSTANCE INSTANCE") for line in notes.lines()) == 2


INTERNAL = """
def mine(output, uri, **request):
    output.AnswerBuffer(b"mine", "text/plain")

orthanc.RegisterRestCallback("/mine", mine)

def ask(event, session):
    series = session.get(f"/series/{event.resource_id}").json()
    path = f"/series/{event.resource_id}/metadata/1024"
    note(session.get("/mine").status_code, create_internal_client(orthanc, after_plugins=True).get("/mine").text)
    note(session.put(path, content="it's this").status_code, session.get(path).text)
    found = session.post("/tools/find", json={"Level": "Study", "Query": {"PatientID": "P1"}}).json()
    note(found == [series["ParentStudy"]], session.get("/series", params={"expand": ""}).json()[0]["ID"] == event.resource_id)
    note(session.get("/studies/none").status_code, session.post("/tools/find", content=b"{").status_code)
    note(session.delete(path).status_code, session.get(path).status_code)

register_event_handlers({CHANGE.STABLE_SERIES: ask}, orthanc, create_internal_client(orthanc))
"""


def test_the_internal_client_works_without_an_http_server_of_orthancs(
    start_orthanc: StartOrthanc, tmp_path: Path, notes: Notes
) -> None:
    configuration = {**notes.configuration, "HttpServerEnabled": False}
    server = start_orthanc(written(tmp_path / "scripts", INTERNAL), configuration)
    server.store_scu(make_study(patient_id="P1"))
    server.wait_until(lambda: len(notes.lines()) == 5, what=f"five lines: {notes.lines()}")
    assert notes.lines() == ["404 mine", "200 it's this", "True True", "404 400", "200 404"]


BUSY = """
def busy(event, session):
    internal = create_internal_client(orthanc)
    while True:
        internal.get("/statistics")
        logging.info("busy")

async def busy_too(event, session):
    try:
        while True:
            await session.get("/statistics")
    finally:
        note("cleaned up")

def last(event, session):
    note("stopped")

register_event_handlers({CHANGE.NEW_INSTANCE: busy, CHANGE.NEW_PATIENT: busy_too, CHANGE.ORTHANC_STOPPED: last},
                        orthanc, create_session(orthanc), executor=Executor(threads=3, stop_within=1))
"""


@pytest.mark.parametrize("threads", [False, True])
def test_a_stop_amid_busy_handlers_is_clean(
    start_orthanc: StartOrthanc, tmp_path: Path, notes: Notes, threads: bool
) -> None:
    """The exit status is looked at by the fixture: a call of the plugin after ORTHANC_STOPPED would abort Orthanc."""
    configuration = {**notes.configuration, "Python": {"AllowThreads": threads}}
    server = start_orthanc(written(tmp_path / "scripts", BUSY), configuration)
    server.store(make_study(instances=3))
    server.wait_until_stable()
    assert server.stop() == 0
    assert sorted(notes.lines()) == ["cleaned up", "stopped"]
    assert "Orthanc stops: 0 handlers had no turn, 4 are still running: busy, busy_too" in server.log


KEPT = """
KEPT = AtLeastOnce("mine", first=0.1, longest=0.2, reconcile=CONFIGURATION.get("Reconcile", True))

def first_fails(event, session):
    note("try", event.change_type, event.resource_id)
    if os.path.exists(CONFIGURATION["Notes"] + ".hang"):
        time.sleep(600)
    if os.path.exists(CONFIGURATION["Notes"] + ".fail"):
        raise RuntimeError("not now")
    note("done", event.change_type, event.resource_type, event.resource_id)

async def coroutine(event, session):
    note("coroutine", event.change_type, event.resource_id)

def started(event, session):
    note("started")

DISPATCHER = register_event_handlers(
    {CHANGE.STABLE_STUDY: [first_fails, coroutine], CHANGE.NEW_PATIENT: first_fails, CHANGE.DELETED: first_fails,
     CHANGE.ORTHANC_STARTED: started},
    orthanc, create_session(orthanc), at_least_once=KEPT)
"""
STUDY = orthanc_identifier("P1", uid(0, "P1"))
PATIENT = orthanc_identifier("P1")
STUDY_IS_DONE = f"done STABLE_STUDY STUDY {STUDY}"


def kept(start_orthanc: StartOrthanc, tmp_path: Path, notes: Notes, **configuration: Any) -> OrthancServer:
    server = start_orthanc(written(tmp_path / "scripts", KEPT), {**notes.configuration, **configuration})
    server.wait_until(
        lambda: "started" in notes.lines(), what="the ledger"
    )  # what came before there is one is not promised
    return server


def test_an_event_whose_handler_was_killed_is_handled_after_the_restart(
    start_orthanc: StartOrthanc, tmp_path: Path, notes: Notes
) -> None:
    hang = tmp_path / "notes.hang"
    hang.touch()
    server = kept(start_orthanc, tmp_path, notes)
    server.store(make_study(patient_id="P1"))
    server.wait_until(lambda: f"try NEW_PATIENT {PATIENT}" in notes.lines())
    server.kill()
    hang.unlink()
    server.start()
    server.wait_until(lambda: f"done NEW_PATIENT PATIENT {PATIENT}" in notes.lines())
    server.wait_until(lambda: STUDY_IS_DONE in notes.lines())
    assert notes.lines().count("started") == 2


@pytest.mark.parametrize("reconcile", [True, False])
def test_what_fails_is_tried_again_until_it_succeeds_and_what_succeeded_is_not(
    start_orthanc: StartOrthanc, tmp_path: Path, notes: Notes, reconcile: bool
) -> None:
    fail = tmp_path / "notes.fail"
    fail.touch()
    server = kept(start_orthanc, tmp_path, notes, Reconcile=reconcile)
    server.store(make_study(patient_id="P1"))
    server.wait_until(lambda: notes.lines().count(f"try STABLE_STUDY {STUDY}") >= 3)
    fail.unlink()
    server.wait_until(lambda: STUDY_IS_DONE in notes.lines())
    server.wait_until(lambda: f"coroutine STABLE_STUDY {STUDY}" in notes.lines())
    server.delete(f"/patients/{PATIENT}")
    server.wait_until(lambda: f"done DELETED PATIENT {PATIENT}" in notes.lines())
    assert notes.lines().count(f"coroutine STABLE_STUDY {STUDY}") == 1
    assert notes.lines().count(STUDY_IS_DONE) == 1
    assert "first_fails failed on ChangeEvent(change_type=STABLE_STUDY" in server.log


def test_a_study_whose_stability_a_kill_swallowed_is_handled_all_the_same(
    start_orthanc: StartOrthanc, tmp_path: Path, notes: Notes
) -> None:
    server = kept(start_orthanc, tmp_path, notes, StableAge=5)
    server.store(make_study(patient_id="P1"))
    [ledger] = server.folder.rglob("*.sqlite")
    unfinished = "SELECT 1 FROM work WHERE state IN ('waiting', 'sending')"

    def is_noted() -> bool:  # else the handler that had just ended is called again
        with contextlib.closing(sqlite3.connect(ledger)) as database:
            return not database.execute(unfinished).fetchall()

    server.wait_until(lambda: f"done NEW_PATIENT PATIENT {PATIENT}" in notes.lines() and is_noted())
    assert STUDY_IS_DONE not in notes.lines()
    server.kill()
    server.start()
    server.wait_until(lambda: STUDY_IS_DONE in notes.lines())
    assert notes.lines().count(f"done NEW_PATIENT PATIENT {PATIENT}") == 1


GIVEN_UP = (
    KEPT.replace("longest=0.2", "longest=0.2, give_up_hours=0")
    + """
def retry(output, uri, **request):
    output.AnswerBuffer(str(DISPATCHER.retry_dead()), "text/plain")

orthanc.RegisterRestCallback("/retry", retry)
"""
)


def test_what_is_given_up_goes_again_when_a_person_says_so_and_what_has_no_handler_any_more_is_named(
    start_orthanc: StartOrthanc, tmp_path: Path, notes: Notes
) -> None:
    fail = tmp_path / "notes.fail"
    fail.touch()
    script = written(tmp_path / "scripts", GIVEN_UP)
    server = start_orthanc(script, notes.configuration)
    server.store(make_study(patient_id="P1"))
    server.wait_until(lambda: server.log.count("first_fails is given up on") == 2)
    server.restart()
    fail.unlink()
    server.wait_until(lambda: server.request("POST", "/retry").text == "2")
    server.wait_until(lambda: {STUDY_IS_DONE, f"done NEW_PATIENT PATIENT {PATIENT}"} < set(notes.lines()))
    fail.touch()
    server.delete(f"/patients/{PATIENT}")
    server.wait_until(lambda: server.log.count("first_fails is given up on") > 2)
    server.stop()
    written(tmp_path / "scripts", GIVEN_UP.replace("first_fails", "renamed"))
    server.start()
    said = "wait for handlers that are not registered any more: first_fails"
    server.wait_for_log(said)
    server.assert_logged(said, level="warning")


def test_two_combined_scripts_keep_their_events_apart(
    start_orthanc: StartOrthanc, tmp_path: Path, notes: Notes
) -> None:
    other = written(tmp_path / "other", KEPT.replace('"mine"', '"other"').replace('note("', 'note("other-'), "other.py")
    script = combined(written(tmp_path / "scripts", KEPT), other)
    server = start_orthanc(script, notes.configuration)
    server.store(make_study(patient_id="P1"))
    expected = {STUDY_IS_DONE, f"other-{STUDY_IS_DONE}", f"other-coroutine STABLE_STUDY {STUDY}"}
    server.wait_until(lambda: expected < set(notes.lines()))
    assert {path.name for path in (server.folder / "storage").glob("*.sqlite")} == {"mine.sqlite", "other.sqlite"}


def test_a_name_for_a_ledger_that_leads_elsewhere_is_refused(start_orthanc: StartOrthanc, tmp_path: Path) -> None:
    text = 'register_event_handlers({}, orthanc, None, at_least_once="../mine")\n'
    server = start_orthanc(written(tmp_path / "scripts", text), {"Notes": ""}, start=False)
    with pytest.raises(Exception, match=r"at_least_once: found '../mine', allowed: letters, digits, _ and -"):
        server.start()
