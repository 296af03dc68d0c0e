# SPDX-License-Identifier: AGPL-3.0-or-later
"""The summary: from what scripts say, in a fixed number of requests, with what needs a person first."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from testing.standin import StandIn
from tests.fakes import Clock, FakeOrthanc, Script, eventually

TOTALS = {"waiting": 2, "sending": 1, "done": 5, "gone": 0, "dead": 3}
UP: dict[str, Any] = {"Away": False, "Misconfigured": False, "Error": "", "Paused": False, "Open": True, "Slow": None}


class Neighbours:
    """An Orthanc whose other scripts answer what a test wants."""

    def __init__(self, start: Callable[..., Script], rest: FakeOrthanc, standin: StandIn, clock: Clock) -> None:
        self.start, self.rest, self.standin, self.clock = start, rest, standin, clock
        self.destinations: dict[str, Any] = {"PACS": {**UP, "Totals": TOTALS}}
        self.status: dict[str, Any] = {
            **{"State": "running", "Totals": TOTALS, "LastError": None},
            **{"Delivered": {"Deliveries": 5, "Instances": 40}, "WaitingSince": None},
        }
        self.scripts = [self.entry("auto_forward_modality"), self.entry("dashboard")]
        rest.answers |= {
            ("GET", "/statistics"): {"CountStudies": 7, "CountInstances": 70, "TotalDiskSize": "1000"},
            ("GET", "/scripts"): lambda *_: self.scripts,
            ("GET", "/auto-forward-modality/status"): lambda *_: self.status,
            ("GET", "/auto-forward-modality/destinations"): lambda *_: self.destinations,
            ("GET", "/combined-scripts"): [],
        }
        self.script = start("dashboard")

    @staticmethod
    def entry(name: str, **more: Any) -> dict[str, Any]:
        base = f"/{name.replace('_', '-')}"
        entry = {"Name": name, "State": "running", "Reason": None, "Version": "1", "Healthy": True}
        return {**entry, "Routes": base, "Status": f"{base}/status", **more}

    def summary(self) -> Any:
        """The summary as it is 3 s later: what is older than 2 s is asked again."""
        self.clock.advance(3)
        return self.script.get("/dashboard/summary")

    def alerts(self) -> list[tuple[str, str]]:
        return [(each["Level"], each["Text"]) for each in self.summary()["Alerts"]]


@pytest.fixture
def around(start: Callable[..., Script], rest: FakeOrthanc, orthanc_standin: StandIn, clock: Clock) -> Neighbours:
    return Neighbours(start, rest, orthanc_standin, clock)


def test_it_says_what_flows_and_what_is_stuck(around: Neighbours) -> None:
    found = around.summary()
    assert (found["Server"]["Studies"], found["Server"]["Bytes"]) == (7, 1000)
    assert found["Flow"] == {
        **{"Received": 0, "Forwarded": 0, "Waiting": 2, "Sending": 1, "Failed": 3, "LagSeconds": 0.0}
    }
    [place] = found["Destinations"]
    assert (place["Name"], place["State"], place["Route"]) == ("PACS", "up", "/auto-forward-modality")
    assert [each["Name"] for each in found["Scripts"]] == ["auto_forward_modality", "dashboard"]


def test_what_needs_a_person_comes_before_what_heals_by_itself(around: Neighbours) -> None:
    around.destinations = {
        "AWAY": {**UP, "Away": True, "Error": "refused", "Totals": {"waiting": 1}},
        "HELD": {**UP, "Paused": True, "Away": True, "Totals": {"waiting": 2}},
        "WRONG": {**UP, "Misconfigured": True, "Error": "another AE title", "Totals": {}},
        "DEAD": {**UP, "Totals": {"dead": 1}},
    }
    around.scripts.append(around.entry("audit_log", Healthy=False, State="misconfigured", Reason="no such key"))
    assert around.alerts() == [
        ("act", "audit_log does not run"),
        ("act", "WRONG is not as it is configured"),
        ("act", "1 delivery to DEAD failed for good"),
        ("watch", "AWAY is away, 1 delivery waits"),
        ("watch", "HELD is paused, 2 deliveries wait"),
    ]
    assert [each["State"] for each in around.summary()["Destinations"]] == ["away", "paused", "misconfigured", "up"]


def test_a_broker_that_is_off_leads_to_the_events(around: Neighbours) -> None:
    """A script that has another trouble leads to what it says of itself."""
    around.scripts.append(around.entry("dicom_events", Healthy=False, Reason='the broker "hook" is off: no URL'))
    brokers = {"hook": {"Type": "webhook", "State": "misconfigured", "Backlog": 0, "LastError": "no URL"}}
    around.rest.answers["GET", "/dicom-events/status"] = {"State": "running", "Brokers": brokers}
    [found] = [each for each in around.summary()["Alerts"] if each["ID"] == "script:dicom_events"]
    assert (found["Panel"], found["Row"], found["Why"]) == ("events", [], 'the broker "hook" is off: no URL')
    brokers["hook"]["State"] = "connected"
    [found] = [each for each in around.summary()["Alerts"] if each["ID"] == "script:dicom_events"]
    assert (found["Panel"], found["Row"]) == ("scripts", ["dicom_events"])


def test_all_who_ask_at_once_get_the_same_and_scripts_are_asked_every_other_second(around: Neighbours) -> None:
    around.summary()
    asked = len(around.rest.requests)
    for _ in range(50):
        around.script.get("/dashboard/summary")
    assert len(around.rest.requests) == asked
    around.summary()
    assert len(around.rest.requests) - asked <= 6, "a fixed number of requests, whatever the archive holds"


def test_since_when_is_known_over_a_restart(around: Neighbours) -> None:
    around.destinations["PACS"]["Away"] = True
    since = around.summary()["Destinations"][0]["Since"]
    around.clock.advance(1000)
    around.script = around.start("dashboard")
    assert around.summary()["Destinations"][0]["Since"] == since
    around.destinations["PACS"]["Away"] = False
    assert around.summary()["Destinations"][0]["Since"] > since


def test_images_are_counted_once_also_while_a_script_does_not_answer(around: Neighbours) -> None:
    around.summary()
    around.status["Delivered"] = {"Deliveries": 6, "Instances": 43}
    around.script.change("NEW_INSTANCE", "a", "INSTANCE")
    found = around.summary()["Flow"]
    assert (found["Received"], found["Forwarded"]) == (1, 3)
    status, around.status = around.status, {"State": "running", "Totals": {}}
    around.summary()
    around.status = status
    assert around.summary()["Flow"]["Forwarded"] == 3


def test_finished_rows_that_are_forgotten_are_no_deliveries(around: Neighbours) -> None:
    around.summary()
    for done in (900, 20, 21):
        around.destinations["PACS"]["Totals"] = {"done": done}
        found = around.summary()
    assert found["Destinations"][0]["LastMinute"] == 895 + 1


def test_each_minute_is_written_down_and_a_day_is_kept(around: Neighbours, tmp_path: Path) -> None:
    around.summary()
    around.script.change("NEW_INSTANCE", "a", "INSTANCE")
    for _ in range(3):
        around.clock.advance(61)
        around.summary()
    eventually(lambda: len(around.script.get("/dashboard/flow")["Minute"]) > 2)
    columns = around.script.get("/dashboard/flow")
    assert sum(columns["Received"]) == 1
    assert {len(each) for each in columns.values()} == {len(columns["Minute"])}
    last = columns["Minute"][-1]
    assert around.standin.http("GET", "/dashboard/flow", get={"since": str(last)}).json()["Minute"] == [last]
    file = next(tmp_path.rglob("dashboard.sqlite"))
    with closing(sqlite3.connect(file)) as db, db:
        db.execute("INSERT INTO minutes VALUES(1,1,1,1,1,1,1)")
    around.clock.advance(61)
    around.summary()
    eventually(lambda: 1 not in around.script.get("/dashboard/flow")["Minute"])


def test_a_minute_that_can_not_be_written_now_is_written_later(around: Neighbours, tmp_path: Path) -> None:
    around.summary()
    around.script.change("NEW_INSTANCE", "a", "INSTANCE")
    with closing(sqlite3.connect(next(tmp_path.rglob("dashboard.sqlite")))) as db:
        db.execute("BEGIN IMMEDIATE")
        around.clock.advance(61)
        around.summary()
        eventually(lambda: any("locked" in text for _, text in around.standin.logs))
        db.rollback()
    around.clock.advance(61)
    around.summary()
    eventually(lambda: sum(around.script.get("/dashboard/flow")["Received"]) == 1)


def test_may_act_does_nothing_and_is_for_who_may(around: Neighbours) -> None:
    asked = len(around.rest.requests)
    assert around.script.post("/dashboard/may-act").status == 200
    assert around.standin.http("GET", "/dashboard/may-act").status == 405
    strange = {"sec-fetch-site": "cross-site", "user-agent": "Mozilla/5.0"}
    assert around.standin.http("POST", "/dashboard/may-act", body="{}", headers=strange).status == 403
    assert len(around.rest.requests) == asked
    around.script = around.start("dashboard", {"Dashboard": {"Actions": False}})
    refused = around.script.post("/dashboard/may-act")
    assert (refused.status, refused.json()["HttpStatus"]) == (403, 403)


def test_one_script_that_fails_is_left_out_and_the_others_are_shown(around: Neighbours) -> None:
    around.scripts.append(around.entry("purge_old_studies"))
    around.rest.answers["GET", "/purge-old-studies/status"] = around.rest.error(500)
    assert [each["Name"] for each in around.summary()["Scripts"]][-1] == "purge_old_studies"
