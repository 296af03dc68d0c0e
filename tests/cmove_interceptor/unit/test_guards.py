# SPDX-License-Identifier: AGPL-3.0-or-later
"""cmove_interceptor without a server: a move sends what was asked for, and tells the truth about it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any

import pytest

from testing.standin import StandIn
from tests.fakes import Clock, FakeOrthanc, Script, eventually

NAME = "/cmove-interceptor"
FIELDS = {
    "Level": "STUDY", "PatientID": "P", "AccessionNumber": "", "StudyInstanceUID": "1.2", "SeriesInstanceUID": "",
    "SOPInstanceUID": "", "OriginatorAET": "ASKER", "OriginatorID": 7, "SourceAET": "ORTHANC", "TargetAET": "PACS",
}  # fmt: skip


class Moving:
    """The script, and a study of two images; jobs end as `ends` says: well, or because of something."""

    def __init__(self, start: Callable[..., Script], rest: FakeOrthanc, clock: Clock, standin: StandIn) -> None:
        self._start, self.rest, self.standin = start, rest, standin
        self.ends: list[str] = []
        rest.studies["a1"] = ["1", "2"]
        rest.answers |= {
            ("POST", "/tools/find"): [{"ID": "a1", "MainDicomTags": {"StudyInstanceUID": "1.2"}}],
            ("GET", "/studies/a1/series"): [{"ID": "a1-5e", "Instances": ["1", "2"]}],
            ("POST", "/modalities/PACS/store"): self._store,
        }

    def start(self, configuration: dict[str, Any] | None = None, **section: Any) -> None:
        self.script = self._start("cmove_interceptor", {"CMoveInterceptor": section, **(configuration or {})})

    def _store(self, path: str, body: Any) -> Any:
        job = f"j{len(self.rest.jobs) + 1}"
        why = self.ends.pop(0) if self.ends else ""
        content = {"InstancesCount": len(self.rest.studies["a1"])}
        self.rest.jobs[job] = {"ID": job, "State": "Failure" if why else "Success", "Progress": 0 if why else 100,
                               "Content": content, "ErrorDescription": why}  # fmt: skip
        self.script.change("JOB_FAILURE" if why else "JOB_SUCCESS", job)
        return {"ID": job}

    def move(self, **fields: Any) -> None:
        """A C-MOVE, by the callback of plugin 4.0."""
        [callback, *_] = self.standin.registered["RegisterMoveCallback"][-1]
        callback(**{**FIELDS, **fields})

    def states(self) -> list[str]:
        return [request["State"] for request in self.script.get(f"{NAME}/requests")["Items"]]

    def sent(self) -> list[Any]:
        return self.rest.asked("POST", "/modalities/PACS/store")


@pytest.fixture
def moving(start: Callable[..., Script], rest: FakeOrthanc, clock: Clock, orthanc_standin: StandIn) -> Moving:
    return Moving(start, rest, clock, orthanc_standin)


def test_a_move_sends_the_study_as_a_job_that_names_who_asked(moving: Moving) -> None:
    moving.start()
    moving.move()
    [body] = moving.sent()
    assert body["Resources"] == ["a1"]
    assert (body["MoveOriginatorAet"], body["MoveOriginatorID"]) == ("ASKER", 7)
    assert (body["Permissive"], body["Synchronous"]) == (False, False)
    assert moving.states() == ["done"]


def test_a_job_that_fails_fails_the_move(moving: Moving) -> None:
    moving.start()
    moving.ends = ["refused"]
    with pytest.raises(Exception, match="refused"):
        moving.move()
    assert moving.states() == ["failed"]


def test_no_job_begins_while_orthanc_stops(moving: Moving) -> None:
    """On 1.13.0 it ends Orthanc with signal 6."""
    moving.start()
    [callback, *_] = moving.standin.registered["RegisterMoveCallback"][-1]
    callback.__self__._jobs.stopping.set()
    with pytest.raises(Exception, match="Orthanc is stopping"):
        moving.move()
    assert moving.sent() == []


def test_what_is_not_here_is_no_success(moving: Moving) -> None:
    moving.start()
    moving.rest.answers["POST", "/tools/find"] = []
    with pytest.raises(Exception, match="nothing here is what the request means"):
        moving.move()
    assert moving.sent() == []


@pytest.mark.parametrize(("found", "sent"), [("1.2", True), ("1.2 ", True), ("1.20", False), ("1.2.3", False)])
def test_what_orthanc_finds_is_compared_once_more(moving: Moving, found: str, sent: bool) -> None:
    moving.start()
    moving.rest.answers["POST", "/tools/find"] = [{"ID": "a1", "MainDicomTags": {"StudyInstanceUID": found}}]
    if sent:
        moving.move()
    else:
        with pytest.raises(Exception, match="nothing here"):
            moving.move()
    assert bool(moving.sent()) is sent


def test_wildcards_are_characters_like_others(moving: Moving) -> None:
    moving.start()
    moving.rest.answers["POST", "/tools/lookup"] = [{"ID": "a1", "Type": "Study"}, {"ID": "b2", "Type": "Series"}]
    moving.move(StudyInstanceUID="1.*")
    assert moving.rest.asked("POST", "/tools/find") == []
    assert moving.rest.asked("POST", "/tools/lookup") == [b"1.*"]
    assert [body["Resources"] for body in moving.sent()] == [["a1"]]


@pytest.mark.parametrize("asked", ["", " "])
def test_an_empty_patient_id_is_not_searched_for_in_the_whole_archive(moving: Moving, asked: str) -> None:
    moving.start()
    moving.rest.answers["POST", "/tools/lookup"] = [{"ID": "a1-9a", "Type": "Patient"}, {"ID": "a1", "Type": "Study"}]
    moving.rest.answers["GET", "/patients/a1-9a/series"] = [{"ID": "a1-5e", "Instances": ["1", "2"]}]
    moving.move(Level="PATIENT", PatientID=asked, StudyInstanceUID="")
    assert moving.rest.asked("POST", "/tools/find") == []
    assert moving.rest.asked("POST", "/tools/lookup") == [b""]
    assert [body["Resources"] for body in moving.sent()] == [["a1-9a"]]


@pytest.mark.parametrize("fields", [{"StudyInstanceUID": ""}, {"Level": "SERIES"}, {"Level": "INSTANCE"}])
def test_what_is_empty_at_another_level_means_nothing(moving: Moving, fields: dict[str, str]) -> None:
    moving.start()
    with pytest.raises(Exception, match="needs S"):
        moving.move(**fields)
    assert (moving.sent(), moving.rest.asked("POST", "/tools/lookup")) == ([], [])


@pytest.mark.parametrize(("seconds", "warned"), [(29, False), (31, True)])
def test_a_long_move_in_which_the_caller_hears_nothing_is_a_warning(
    moving: Moving, clock: Clock, seconds: float, warned: bool
) -> None:
    moving.start()
    plain = moving.rest.answers["POST", "/modalities/PACS/store"]

    def send_slowly(path: str, body: Any) -> Any:
        clock.advance(seconds)
        return plain(path, body)

    moving.rest.answers["POST", "/modalities/PACS/store"] = send_slowly
    moving.move()
    lines = [text for level, text in moving.standin.logs if level == "warning" and "took" in text]
    assert len(lines) == warned
    assert all("'PACS' took 31 s" in line and "pending responses" in line for line in lines)


@pytest.mark.parametrize(("strict", "aet", "sent"), [(False, "pacs", True), (True, "pacs", False), (True, "PACS", True),
                                                     (False, "VNA", False)])  # fmt: skip
def test_an_unknown_destination_gets_nothing(moving: Moving, strict: bool, aet: str, sent: bool) -> None:
    moving.start({"StrictAetComparison": strict})
    if sent:
        moving.move(TargetAET=aet)
    else:
        with pytest.raises(Exception, match="no modality has the AE title"):
            moving.move(TargetAET=aet)
    assert bool(moving.sent()) is sent


def test_in_mode_notify_nothing_is_sent(moving: Moving) -> None:
    moving.start(Mode="notify")
    moving.move()
    assert (moving.sent(), moving.states()) == ([], ["done"])


def test_a_rule_chooses_another_mode_and_of_a_list_each_identifier_must_fit(moving: Moving) -> None:
    moving.start(Rules=[{"Mode": "notify", "Identifiers": {"StudyInstanceUID": "1.2*"}}])
    moving.move(StudyInstanceUID="1.2")
    assert moving.sent() == []
    moving.move(StudyInstanceUID="1.2\\9.9")
    assert len(moving.sent()) == 1


def test_a_required_service_that_can_not_be_reached_fails_the_move(moving: Moving) -> None:
    moving.start(Notify=[{"Url": "http://127.0.0.1:1/x", "Required": True}])
    with pytest.raises(Exception, match=r"127\.0\.0\.1"):
        moving.move()
    assert moving.sent() == []


def test_a_notification_that_is_not_delivered_waits_and_survives_a_restart(moving: Moving, clock: Clock) -> None:
    section: dict[str, Any] = {
        "Notify": [{"Url": "http://127.0.0.1:1/{StudyInstanceUID}"}],
    }
    moving.start(**section)
    moving.move()

    def notifications() -> dict[str, int]:
        found: dict[str, int] = moving.script.get(f"{NAME}/status")["Notifications"]
        return found

    eventually(lambda: notifications()["waiting"] == 1 and moving.standin.logs[-1][1].endswith("it goes again"))
    moving.start(**section)
    assert notifications()["waiting"] + notifications()["sending"] == 1


def test_the_pieces_of_a_series_make_it_up_and_none_is_too_large(moving: Moving, source: Any) -> None:
    moving.start()
    for count in (*range(1, 1000), 5000):
        sizes = source("cmove_interceptor.planning").piece_sizes(count)
        assert (sum(sizes), max(sizes) <= 64, min(sizes) > 0) == (count, True, True)


@pytest.mark.parametrize("value", ["..", "../..", "a/b", "a?b=c", "a&b", "#x", "@evil", "é\n", "%2e%2e", ""])
def test_no_value_reaches_beyond_its_place_in_a_url(moving: Moving, value: str, source: Any) -> None:
    moving.start()
    url = source("cmove_interceptor.templates").filled_url(
        "http://host/a/{PatientID}/b?q={PatientID}&r=1", {"PatientID": value}
    )
    assert url.startswith("http://host/a/")
    assert (url.count("/"), url.count("?"), url.count("&"), url.count("#")) == (5, 1, 1, 0)
    assert "/../" not in url


@pytest.mark.parametrize("what", ["fail", "end"])
def test_a_notification_whose_attempt_could_not_be_written_down_is_sent_again(
    moving: Moving, source: Any, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """A backup locks the ledger for a moment, just then."""
    moving.start(Notify=[{"Url": "http://127.0.0.1:1/x"}])
    sent: list[str] = []
    error = source("cmove_interceptor.caller").NotDeliveredError

    def send(_caller: Any, prepared: Any, *_: Any) -> None:
        sent.append(prepared["RequestID"])
        if what == "fail" and len(sent) == 1:
            raise error("it answered 503")

    ledger, locked = source("common.ledger").Ledger, True
    plain = getattr(ledger, what)

    def settle(*arguments: Any, **named: Any) -> Any:
        nonlocal locked
        if locked:
            locked = False
            raise sqlite3.OperationalError("database is locked")
        return plain(*arguments, **named)

    monkeypatch.setattr(source("cmove_interceptor.caller").Caller, "send", send)
    monkeypatch.setattr(ledger, what, settle)
    moving.move()
    eventually(lambda: moving.script.get(f"{NAME}/status")["Notifications"]["done"] == 1)
    assert sent == 2 * sent[:1]


def test_what_has_ended_is_forgotten_while_the_server_runs(
    moving: Moving, source: Any, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    moving.start(KeepDoneDays=2, Notify=[{"Url": "http://127.0.0.1:1/x"}])
    monkeypatch.setattr(source("cmove_interceptor.caller").Caller, "send", lambda *_: None)
    moving.move()

    def notifications() -> dict[str, int]:
        found: dict[str, int] = moving.script.get(f"{NAME}/status")["Notifications"]
        return found

    eventually(lambda: notifications()["done"] == 1)
    clock.advance(1.9 * 86400)
    moving.move()
    eventually(lambda: notifications()["done"] == 2)
    clock.advance(0.2 * 86400)
    eventually(lambda: (len(moving.states()), notifications()["done"]) == (1, 1))
