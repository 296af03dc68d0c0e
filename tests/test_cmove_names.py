# SPDX-License-Identifier: AGPL-3.0-or-later
"""What waits for a service of cmove_interceptor.py is bound to its name, and stays when the configuration changes."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancServer
from testing.standin import StandIn
from tests.constants import script_with
from tests.test_cmove_interceptor import (
    SCRIPT,
    SOON,
    SUCCESS,
    Destination,
    Service,
    c_move,
    configuration,
    destination,
    last,
    service,
)

__all__ = ["destination", "service"]  # fixtures
OLD_ROW = (
    "INSERT INTO work(queue,subject,state,attempts,next_attempt,error,job,data,created,updated,priority) "
    "VALUES(?,?,?,0,0,'',NULL,?,?,?,0)"
)


@pytest.fixture
def script(orthanc_standin: StandIn) -> ModuleType:
    orthanc_standin.returns["SetMetricsValue"] = None
    return orthanc_standin.load(script_with(SCRIPT, {"FIRST_NOTIFICATION_DELAY_SECONDS": 0.1}))


@pytest.fixture
def start(script: ModuleType, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """A notifier as it is after a start with these entries of `Notify`; nothing is sent, for nobody listens."""
    running: list[Any] = []

    def stop() -> None:
        for each in running:
            each.stop(time.monotonic() + 5)
            each._ledger.close()
        running.clear()

    def begin(*notify: dict[str, Any], before: Callable[[Any], None] | None = None) -> Any:
        stop()
        settings = script.read_settings(script.Settings, "X", {"X": {"Notify": list(notify)}})
        script.check_settings(settings)
        ledger = script.Ledger(tmp_path / "x.sqlite", script.TABLES)
        if before:
            before(ledger)
        running.append(script.Notifier(settings))
        running[-1].start(ledger)
        return running[-1]

    yield begin
    stop()


def waiting(notifier: Any) -> dict[str, tuple[str, int]]:
    return {name: (each["State"], each["Waiting"] + each["Dead"]) for name, each in notifier.services().items()}


NOBODY = "http://127.0.0.1:1"
VALUES = {"RequestID": "r1", "PatientID": "P1"}


def test_an_entry_is_named_by_its_method_and_host_or_by_its_name(script: ModuleType, start: Callable[..., Any]) -> None:
    notifier = start(
        {"Url": f"{NOBODY}/a?x=1"}, {"Url": f"{NOBODY}/a", "Method": "POST"}, {"Url": f"{NOBODY}/a", "Name": "ris"}
    )
    assert waiting(notifier).keys() == {"GET 127.0.0.1:1", "POST 127.0.0.1:1", "ris"}
    with pytest.raises(
        script.SettingsError, match=r'Notify\[1\]: found the name "GET 127.0.0.1:1" of Notify\[0\] again'
    ):
        start({"Url": f"{NOBODY}/a"}, {"Url": f"{NOBODY}/b"})
    # Nothing waits for one that is required.
    start({"Url": f"{NOBODY}/a", "Required": True}, {"Url": f"{NOBODY}/b"})


def test_what_waits_stays_with_its_entry_whatever_is_put_before_it(start: Callable[..., Any]) -> None:
    ris, other = {"Url": f"{NOBODY}/ris", "Name": "ris"}, {"Url": f"{NOBODY}/other", "Name": "other"}
    start(ris).queue("before", VALUES)
    assert waiting(start(other, ris)) == {"other": ("configured", 0), "ris": ("configured", 1)}
    moved = {**ris, "Url": "http://127.0.0.1:2/new"}
    assert waiting(start(moved)) == {"ris": ("configured", 1)}


def test_what_waits_for_an_entry_that_is_gone_is_kept_shown_and_told_once(
    orthanc_standin: StandIn, start: Callable[..., Any]
) -> None:
    ris, other = {"Url": f"{NOBODY}/ris", "Name": "ris"}, {"Url": f"{NOBODY}/other", "Name": "other"}
    start(ris).queue("before", VALUES)
    orthanc_standin.logs.clear()
    notifier = start(other)
    assert waiting(notifier) == {"other": ("configured", 0), "ris": ("orphaned", 1)}
    assert 29 < notifier.services()["ris"]["DaysLeft"] <= 30
    assert [text for _, text in orthanc_standin.logs if "ris (1)" in text] != []
    assert len([text for _, text in orthanc_standin.logs if "no entry of Notify" in text]) == 1
    assert waiting(start(other, ris)) == {"other": ("configured", 0), "ris": ("configured", 1)}


def test_an_orphan_goes_after_its_days(
    script: ModuleType, orthanc_standin: StandIn, start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    start({"Url": f"{NOBODY}/ris", "Name": "ris"}).queue("before", VALUES)
    monkeypatch.setattr(script, "LOOK_EVERY", 0.05)
    notifier = start({"Url": f"{NOBODY}/other", "Name": "other"})
    time.sleep(0.5)
    assert waiting(notifier)["ris"] == ("orphaned", 1)
    notifier._ledger.run("UPDATE orphan SET seconds=?", 30 * 86400 - 0.1)
    deadline = time.monotonic() + 10
    while "ris" in waiting(notifier):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert any("what waited for ris was kept for KeepOrphanedDays" in text for _, text in orthanc_standin.logs)


# -- a ledger of the first version ----------------------------------------------------------------------------------


def old_rows(*rows: tuple[str, str]) -> Callable[[Any], None]:
    """Rows as the first version wrote them: where to, and position with request."""

    def write(ledger: Any) -> None:
        for queue, subject in rows:
            data = {"Url": queue.partition(" ")[2], "Body": None, "RequestID": subject.partition(" ")[2]}
            with ledger.transaction() as db:
                db.execute(OLD_ROW, (queue, subject, "waiting", json.dumps(data), time.time(), time.time()))

    return write


A, B = f"GET {NOBODY}/a", f"GET {NOBODY}/b"
ONE, TWO = {"Url": f"{NOBODY}/a?x=1", "Name": "one"}, {"Url": f"{NOBODY}/b", "Name": "two"}


@pytest.mark.parametrize(
    ("rows", "notify", "bound"),
    [
        ([(A, "0 r"), (B, "1 r")], [ONE, TWO], {"one": 1, "two": 1}),
        # Another path on the same host is the same service, another host is not.
        ([(A, "0 r")], [{**ONE, "Url": f"{NOBODY}/new"}], {"one": 1}),
        ([(A, "0 r")], [{**ONE, "Url": "http://127.0.0.1:2/a"}], {A: 1, "one": 0}),
        ([(A, "0 r")], [{**ONE, "Url": f"https{NOBODY[4:]}/a"}], {A: 1, "one": 0}),
        ([(A, "0 r")], [{**ONE, "Method": "POST"}], {A: 1, "one": 0}),
        # Moved to another position, it is known by its URL.
        ([(A, "0 r"), (A, "0 s")], [{"Url": "http://127.0.0.1:2/", "Name": "x"}, ONE], {"one": 2, "x": 0}),
        ([(A, "0 r"), (A, "1 r")], [ONE], {"one": 1, A: 1}),
        ([(A, "3 r")], [{**ONE, "Required": True}], {A: 1}),
        ([(A, "12 r")], [], {A: 1}),
    ],
)  # fmt: skip
def test_what_the_first_version_left_is_bound_to_the_entry_at_its_position(
    start: Callable[..., Any], rows: list[tuple[str, str]], notify: list[dict[str, Any]], bound: dict[str, int]
) -> None:
    notifier = start(*notify, before=old_rows(*rows))
    assert {name: number for name, (_, number) in waiting(notifier).items()} == bound
    assert {row["subject"] for row in notifier._ledger.rows("SELECT subject FROM work")} <= {"r", "s"}
    again = start(*notify)
    assert {name: number for name, (_, number) in waiting(again).items()} == bound


def test_a_notification_that_can_not_be_formed_holds_up_no_other(
    script: ModuleType, start: Callable[..., Any], service: Service
) -> None:
    notifier = start({"Url": f"{service.url}/{{PatientID}}", "Name": "ris"})
    notifier._ledger.add("ris", "bad", {"Neither": 1})
    notifier.queue("before", VALUES)
    deadline = time.monotonic() + 10
    while not service.requests or not notifier.services()["ris"]["Waiting"]:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert [each["path"] for each in service.requests] == ["/P1"]
    bad = notifier._ledger.rows("SELECT * FROM work WHERE subject='bad'")[0]
    assert "it can't be sent: KeyError" in bad["error"]


# -- on a server ----------------------------------------------------------------------------------------------------


def begin_again(server: OrthancServer, destination: Destination, notify: list[dict[str, Any]]) -> None:
    server.kill()
    server.configuration["CMoveInterceptor"] = configuration(destination, {"Notify": notify})["CMoveInterceptor"]
    server.start()


def test_what_waits_reaches_its_own_service_when_it_is_back_or_goes_by_delete(
    start_briefly: StartOrthanc, destination: Destination, service: Service
) -> None:
    ris = {"Url": f"{NOBODY}/{{PatientID}}", "Name": "ris"}
    other = {"Url": f"{service.url}/other/{{PatientID}}", "Name": "other/1 é"}
    server = start_briefly(script_with(SCRIPT, SOON), configuration(destination, {"Notify": [ris]}))
    server.store(make_study(patient_id="P1"))
    assert c_move(server, "PATIENT", PatientID="P1")[-1].status == SUCCESS
    begin_again(server, destination, [other])
    status = server.get("/cmove-interceptor/status")["Services"]
    assert (status["ris"]["State"], status["ris"]["Waiting"], status["other/1 é"]["State"]) == (
        "orphaned",
        1,
        "configured",
    )
    assert server.wait_for_log("no entry of Notify").count("no entry of Notify has the name") == 1
    assert last(server)["Notifications"][0]["Service"] == "ris"
    # The service has another address now; its name is the same.
    begin_again(server, destination, [other, {**ris, "Url": f"{service.url}/ris/{{PatientID}}"}])
    server.wait_until(lambda: service.requests, what="tell")
    assert [request["path"] for request in service.requests] == ["/ris/P1"]
    service.status = 503
    assert c_move(server, "PATIENT", PatientID="P1")[-1].status == SUCCESS
    begin_again(server, destination, [ris])
    route = "/cmove-interceptor/services"
    assert server.request("DELETE", f"{route}/ris").status_code == 409
    assert server.request("DELETE", f"{route}/nobody").status_code == 404
    stranger = {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}
    assert server.request("DELETE", f"{route}/other%2F1%20%C3%A9", headers=stranger).status_code == 403
    gone = server.delete(f"{route}/other%2F1%20%C3%A9")
    assert (gone["Service"], gone["State"], gone["Waiting"]) == ("other/1 é", "dropped", 1)
    assert server.get("/cmove-interceptor/status")["Services"].keys() == {"ris"}


def test_a_ledger_of_the_first_version_is_delivered_to_the_entry_at_its_position(
    start_briefly: StartOrthanc, destination: Destination, service: Service
) -> None:
    """Two entries on one host, which have names now."""
    first = {"Url": f"{service.url}/a/{{PatientID}}", "Name": "first", "Token": "t0ken"}
    second = {"Url": f"{service.url}/b/{{PatientID}}", "Name": "second"}
    server = start_briefly(SCRIPT, configuration(destination, {"Notify": [first, second]}), start=False)
    folder = server.folder / "storage"
    folder.mkdir()
    with sqlite3.connect(folder / "cmove_interceptor.sqlite") as db:
        db.executescript(
            "PRAGMA journal_mode=WAL; PRAGMA user_version=1; CREATE TABLE state(name TEXT PRIMARY KEY, value INTEGER NOT NULL);"
            "CREATE TABLE work(id INTEGER PRIMARY KEY AUTOINCREMENT, queue TEXT NOT NULL, subject TEXT NOT NULL, "
            "state TEXT NOT NULL, attempts INTEGER NOT NULL, next_attempt REAL NOT NULL, error TEXT NOT NULL, job TEXT, "
            "data TEXT NOT NULL, created REAL NOT NULL, updated REAL NOT NULL, priority INTEGER NOT NULL DEFAULT 0);"
        )
        for number, letter in enumerate("ab"):
            data = {"Url": f"{service.url}/{letter}/P{number}", "Body": None, "RequestID": f"r{number}"}
            queue = f"GET {service.url}/{letter}/{{PatientID}}"
            db.execute(OLD_ROW, (queue, f"{number} r{number}", "sending", json.dumps(data), time.time(), time.time()))
    db.close()
    server.start()
    server.wait_until(lambda: len(service.requests) == 2, what="tell")
    assert sorted((each["path"], each["headers"].get("authorization")) for each in service.requests) == [
        ("/a/P0", "Bearer t0ken"),
        ("/b/P1", None),
    ]
