# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a move fetches first: all of what was asked for, nothing else, and what is deleted afterwards is nobody else's."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any

import pytest

from testing.standin import StandIn
from tests.fakes import FakeOrthanc, Script, eventually

NAME = "/cmove-interceptor"
FIELDS = {
    "Level": "STUDY", "PatientID": "", "AccessionNumber": "A1", "StudyInstanceUID": "", "SeriesInstanceUID": "",
    "SOPInstanceUID": "", "OriginatorAET": "ASKER", "OriginatorID": 7, "SourceAET": "ORTHANC", "TargetAET": "PACS",
}  # fmt: skip


class Fetching:
    """The script, and the modality `far`, whose studies (UID and instances) come when they are retrieved."""

    def __init__(self, start: Callable[..., Script], rest: FakeOrthanc, standin: StandIn) -> None:
        self.rest, self.standin = rest, standin
        self.far: list[tuple[str, dict[str, Any], list[str]]] = []
        self.here: dict[str, list[str]] = {}  # instances by StudyInstanceUID
        self.senders: dict[str, str] = {}
        self.meanwhile: Callable[[], None] = lambda: None
        self.retrieved: list[int] = []
        rest.known["far"] = {"AET": "FAR", "Host": "far", "Port": 104}
        rest.answers |= {
            ("POST", "/modalities/far/query"): {"ID": "q"},
            ("GET", "/queries/q/answers"): lambda *_: [answer for _, answer, _ in self.far],
            ("DELETE", "/queries/q"): {},
            ("POST", "/tools/find"): self._find,
            ("POST", "/tools/bulk-content"): self._content,
            ("POST", "/modalities/PACS/store"): self._send,
        }
        for number in range(3):
            rest.answers["POST", f"/queries/q/answers/{number}/retrieve"] = lambda *_, n=number: self._retrieve(n)
        self.script = start(
            "cmove_interceptor",
            {"CMoveInterceptor": {"Mode": "fetch", "Fetch": {"From": ["modality:far"], "Keep": False}}},
        )

    def has(self, uid: str, *instances: str, **more: str) -> None:
        answer = {"StudyInstanceUID": uid, "AccessionNumber": "A1", **more}
        self.far.append((uid, {**answer, "NumberOfStudyRelatedInstances": str(len(instances))}, list(instances)))

    def arrives(self, uid: str, *instances: str, sender: str) -> None:
        self.here.setdefault(uid, []).extend(instances)
        self.senders |= dict.fromkeys(instances, sender)
        self.rest.answers["GET", f"/studies/{uid}/instances"] = lambda *_: [
            {"ID": each, "MainDicomTags": {"SOPInstanceUID": each}} for each in self.here[uid]
        ]
        self.rest.answers["GET", f"/studies/{uid}/series"] = lambda *_: [{"ID": uid, "Instances": self.here[uid]}]

    def _find(self, _path: str, body: Any) -> Any:
        wanted = body["Query"].get("StudyInstanceUID")
        tags = [{"StudyInstanceUID": uid, "AccessionNumber": "A1"} for uid in self.here]
        return [{"ID": each["StudyInstanceUID"], "MainDicomTags": each} for each in tags
                if wanted in (None, each["StudyInstanceUID"])]  # fmt: skip

    def _content(self, _path: str, body: Any) -> Any:
        assert body["Metadata"]
        return [{"ID": each, "Metadata": {"RemoteAET": self.senders[each]}} for each in body["Resources"]]

    def _retrieve(self, number: int) -> Any:
        uid, _, instances = self.far[number]
        self.retrieved.append(number)
        self.arrives(uid, *instances, sender="FAR")
        self.meanwhile()
        return self._job(f"r{number}", len(instances))

    def _send(self, _path: str, body: Any) -> Any:
        return self._job(f"s{len(self.rest.jobs)}", sum(len(self.here[each]) for each in body["Resources"]))

    def _job(self, name: str, count: int) -> Any:
        content = {"InstancesCount": count}
        self.rest.jobs[name] = {"ID": name, "State": "Success", "Progress": 100, "Content": content}
        self.script.change("JOB_SUCCESS", name)
        return {"ID": name}

    def move(self, **fields: Any) -> None:
        [callback, *_] = self.standin.registered["RegisterMoveCallback"][-1]
        callback(**{**FIELDS, **fields})

    def deleted(self) -> list[str]:
        bodies = self.rest.asked("POST", "/tools/bulk-delete")
        return sorted(each for body in bodies for each in body["Resources"])

    def sent(self) -> list[str]:
        return [each for body in self.rest.asked("POST", "/modalities/PACS/store") for each in body["Resources"]]


@pytest.fixture
def fetching(start: Callable[..., Script], rest: FakeOrthanc, orthanc_standin: StandIn) -> Fetching:
    return Fetching(start, rest, orthanc_standin)


def test_of_two_studies_with_one_accession_number_both_are_fetched(fetching: Fetching) -> None:
    fetching.has("1.1", "a", "b", "c")
    fetching.has("1.2", "d")
    fetching.move()
    assert sorted(fetching.sent()) == ["1.1", "1.2"]
    assert fetching.deleted() == ["a", "b", "c", "d"]


def test_what_a_modality_answers_besides_is_not_fetched(fetching: Fetching) -> None:
    fetching.has("1.1", "a")
    fetching.has("9.9", "x", "y", AccessionNumber="OTHER")
    fetching.move()
    assert fetching.retrieved == [0]


@pytest.mark.parametrize("asked", ["", " ", "*"])
def test_without_a_patient_id_nothing_is_asked_for_elsewhere(fetching: Fetching, asked: str) -> None:
    """There it would mean all patients."""
    fetching.has("1.1", "a")
    with pytest.raises(Exception, match="elsewhere it would mean more"):
        fetching.move(Level="PATIENT", PatientID=asked, AccessionNumber="")
    assert fetching.rest.asked("POST", "/modalities/far/query") == []


def test_what_somebody_else_sends_meanwhile_is_not_deleted(fetching: Fetching) -> None:
    fetching.has("1.1", "a")
    fetching.meanwhile = lambda: fetching.arrives("1.1", "ct", sender="CT1")
    fetching.move()
    assert fetching.deleted() == ["a"]


def test_what_was_fetched_for_a_move_that_fails_is_deleted_too(fetching: Fetching) -> None:
    fetching.has("1.1", "a")
    with pytest.raises(Exception, match="no modality has the AE title"):
        fetching.move(TargetAET="NOBODY")
    assert fetching.deleted() == ["a"]


def test_a_move_ends_although_what_was_fetched_can_not_be_deleted(fetching: Fetching) -> None:
    fetching.has("1.1", "a")
    fetching.rest.answers["POST", "/tools/bulk-delete"] = fetching.rest.error(500)
    fetching.move()
    assert [each["State"] for each in fetching.script.get(f"{NAME}/requests")["Items"]] == ["done"]
    fetching.standin.assert_logged("what was fetched could not be deleted", "error")


def test_the_end_of_a_move_is_written_down_when_the_disk_has_room_again(
    fetching: Fetching, source: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    records, full = source("cmove_interceptor.records").Records, True
    plain = records.end

    def end(*arguments: Any) -> None:
        if full:
            raise sqlite3.OperationalError("database or disk is full")
        plain(*arguments)

    monkeypatch.setattr(records, "end", end)
    fetching.has("1.1", "a")
    fetching.move()

    def state() -> str:
        return str(fetching.script.get(f"{NAME}/requests")["Items"][0]["State"])

    assert state() == "moving"
    full = False
    eventually(lambda: state() == "done")
