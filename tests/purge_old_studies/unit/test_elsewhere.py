# SPDX-License-Identifier: AGPL-3.0-or-later
"""purge_old_studies without a server: by `OnlyIfAt`, what a destination does not prove to have stays."""

from __future__ import annotations

import importlib
import json
import re
import sqlite3
import time
import types
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from testing.standin import StandIn
from tests.fakes import Clock, FakeOrthanc, Script, eventually
from tests.purge_old_studies.unit.test_guards import LONG_AGO, NAME, RULE, Purging, purge
from tests.purge_old_studies.unit.test_space import RULE as ROOM
from tests.purge_old_studies.unit.test_space import Filling

AT_PACS = {"only-if-at": ["PACS"]}
REMOTE = {"PACS": "modality", "VNA": "modality", "research": "peer"}


class Elsewhere(Purging):
    """A purge whose studies have two instances each, and destinations that have what `there` says."""

    def __init__(self, start: Callable[..., Script], rest: FakeOrthanc, clock: Clock, standin: StandIn) -> None:
        super().__init__(start, rest, clock, standin)
        self.instances: dict[str, list[str]] = {}
        self.there: dict[str, set[str]] = {name: set() for name in REMOTE}
        self.questions: list[tuple[str, list[str]]] = []
        self.before: Callable[[str, list[str]], Any] = lambda *_: None  # raises, or returns None for "not known yet"
        self.proofs: list[str] = []
        names = {kind: [name for name, each in REMOTE.items() if each == kind] for kind in ("modality", "peer")}
        rest.answers |= {("GET", "/modalities"): names["modality"], ("GET", "/peers"): names["peer"]}

    def add(self, study: str, date: str = "19990101", received: str = LONG_AGO) -> None:
        super().add(study, date, received)
        self.instances[study] = [f"{study}-{number}" for number in (1, 2)]

    def has(self, name: str, studies: Iterable[str]) -> None:
        self.there[name] |= {instance for study in studies for instance in self.instances[study]}

    def start(self, configuration: dict[str, Any] | None = None, **section: Any) -> None:
        super().start(configuration, **section)
        module: Any = importlib.import_module("purge_old_studies.elsewhere")
        module.Elsewhere.prove = lambda _, *given: self._prove(*given)

    def _prove(self, destination: Any, instances: Any, asked: dict[str, Any], proof: str) -> set[str] | None:
        assert REMOTE[destination.name] == destination.kind
        for one in instances.values():
            assert one["Place"]["StudyInstanceUID"]
            assert one["FileUuid"]
        studies = sorted({key.partition("-")[0] for key in instances})
        self.questions.append((destination.name, studies))
        self.proofs.append(proof)
        assert proof != "StorageCommitmentOnly" or len(instances) <= 100
        if self.before(destination.name, studies) == "not yet":
            return None
        return {*instances} & self.there[destination.name]

    def _content(self, path: str, body: Any) -> Any:
        level, resources = body.get("Level"), body["Resources"]
        if level == "Series":
            there = [study for study in resources if study in self.found]
            uids = {"SeriesInstanceUID": "1.2"}
            return [
                {"ID": f"{one}-5e", "ParentStudy": one, "Instances": self.instances[one], "MainDicomTags": uids}
                for one in there
            ]
        if level is None:
            return [
                {"ID": key, "ParentSeries": f"{key.partition('-')[0]}-5e", "MainDicomTags": {}, "FileUuid": f"f{key}"}
                for key in resources
            ]
        return super()._content(path, body)

    def _delete(self, _path: str, body: Any) -> Any:
        for study in [*self.instances]:
            left = [one for one in self.instances[study] if one not in body["Resources"]]
            if study in body["Resources"] or not left:
                del self.instances[study], self.found[study]
            else:
                self.instances[study] = left
        return {}

    def why(self, number: int = 1) -> dict[str, str]:
        """Why studies of a purge were not deleted."""
        found = self.script.get(f"{NAME}/jobs/{number}")["NotDeleted"]
        return {each["ID"]: each["Reason"] for each in found}


@pytest.fixture
def purging(start: Callable[..., Script], rest: FakeOrthanc, clock: Clock, orthanc_standin: StandIn) -> Elsewhere:
    found = Elsewhere(start, rest, clock, orthanc_standin)
    for study in ("a1", "b2", "c3"):
        found.add(study)
    return found


def test_only_what_each_destination_has_wholly_goes_and_by_its_instances(purging: Elsewhere) -> None:
    purging.has("PACS", ["a1", "b2"])
    purging.there["PACS"] |= {"c3-1"}
    purging.has("research", ["a1", "c3"])
    purging.start()
    answer = purge(purging, **{"only-if-at": ["PACS", "peer:research"]})
    assert (answer.status, answer.json()["Deleted"], answer.json()["Kept"]) == (500, 1, ["b2", "c3"])
    assert purging.deleted() == ["a1-1", "a1-2"]
    assert purging.why() == {
        "b2": "research has not proved to have 2 of 2 instances",
        "c3": "PACS has not proved to have 1 of 2 instances",
    }
    assert purging.questions == [("PACS", ["a1", "b2", "c3"]), ("PACS", ["a1", "b2", "c3"]), ("research", ["a1", "b2"])]
    assert purging.proofs[:2] == ["C-FIND", "StorageCommitmentOnly"]
    lines = purging.script.get(f"{NAME}/history")["Items"]
    assert {line["Reason"] for line in lines if line["Event"] == "kept"} == {*purging.why().values()}
    [job] = purging.purges()
    assert job["Conditions"]["only_if_at"] == ["PACS", "peer:research"]


@pytest.mark.parametrize("proof", ["C-FIND", "StorageCommitmentOnly"])
def test_the_proof_is_the_one_that_was_asked_for(purging: Elsewhere, proof: str) -> None:
    purging.has("PACS", ["a1", "b2", "c3"])
    purging.start()
    assert purge(purging, **AT_PACS, proof=proof).json() == {"Deleted": 3, "Since": "20000101"}
    assert purging.proofs == [proof]


def test_what_is_found_and_not_committed_to_stays_and_the_other_way_round(purging: Elsewhere) -> None:
    def change(*_: Any) -> None:
        a1 = {"a1-1"} if purging.proofs[-1] == "C-FIND" else {"a1-1", "a1-2"}
        b2 = {"b2-1", "b2-2"} if purging.proofs[-1] == "C-FIND" else {"b2-2"}
        purging.there["PACS"] = a1 | b2 | {"c3-1", "c3-2"}

    purging.before = change
    purging.start()
    assert purge(purging, **AT_PACS).json()["Deleted"] == 1
    assert purging.deleted() == ["c3-1", "c3-2"]


def test_a_node_is_asked_to_commit_itself_to_few_instances_at_a_time(purging: Elsewhere) -> None:
    purging.instances["a1"] = [f"a1-{number}" for number in range(250)]
    purging.has("PACS", purging.found)
    purging.start()
    assert purge(purging, **AT_PACS).json()["Deleted"] == 3
    assert purging.proofs[:4] == ["C-FIND"] + 3 * ["StorageCommitmentOnly"]
    assert len(purging.deleted()) == 254


def test_without_destinations_nobody_is_asked_and_studies_go_whole(purging: Elsewhere) -> None:
    purging.start()
    assert purge(purging).json()["Deleted"] == 3
    assert purging.questions == []
    assert purging.deleted() == ["a1", "b2", "c3"]
    assert "only_if_at" not in purging.purges()[0]["Conditions"]


def test_a_study_that_makes_a_proof_impossible_keeps_no_other(purging: Elsewhere) -> None:
    def refuse(_name: str, studies: list[str]) -> None:
        if "b2" in studies:
            raise ValueError("it has their UIDs, but of another patient")

    purging.has("PACS", ["a1", "b2", "c3"])
    purging.before = refuse
    purging.start()
    assert purge(purging, **AT_PACS).json()["Deleted"] == 2
    assert purging.deleted() == ["a1-1", "a1-2", "c3-1", "c3-2"]
    assert purging.why() == {"b2": "PACS has not proved to have it: it has their UIDs, but of another patient"}


@pytest.mark.parametrize("kind", ["refuses", "cannot be reached"])
def test_a_destination_that_does_not_answer_is_left_alone_by_this_purge_and_asked_by_the_next(
    purging: Elsewhere, kind: str
) -> None:
    for number in range(4, 9):
        purging.add(f"d{number}")

    def fail(*_: Any) -> None:
        raise purging.rest.error(500, "no route to PACS") if kind == "refuses" else ConnectionRefusedError("PACS")

    purging.before = fail
    purging.has("PACS", purging.found)
    purging.start()
    answer = purge(purging, **AT_PACS).json()
    assert (answer["Deleted"], len(answer["Kept"])) == (0, 8)
    assert len(purging.questions) == 3
    assert set(purging.why().values()) <= {
        f"PACS has not proved to have it: {text}{again}"
        for text in ("no route to PACS", "PACS")
        for again in ("", " (this purge does not ask it again)")
    }
    purging.before = lambda *_: None
    assert purge(purging, **AT_PACS).json() == {"Deleted": 8, "Since": "20000101"}


def test_one_that_fails_now_and_then_is_asked_on(purging: Elsewhere) -> None:
    for study in ("d4", "e5", "f6", "g7"):
        purging.add(study)

    def fail(_name: str, studies: list[str]) -> None:
        if {"b2", "d4", "f6"} & {*studies}:
            raise purging.rest.error(500, "an odd study")

    purging.before = fail
    purging.has("PACS", purging.found)
    purging.start()
    assert purge(purging, **AT_PACS).json()["Deleted"] == 4
    assert purging.why() == dict.fromkeys(("b2", "d4", "f6"), "PACS has not proved to have it: an odd study")


def test_a_report_that_does_not_come_in_time_keeps_all_and_is_waited_for_once(
    purging: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", purging.clock.advance)
    purging.before = lambda *_: "not yet" if purging.proofs[-1] != "C-FIND" else None
    purging.has("PACS", purging.found)
    purging.start()
    before = purging.clock.ticks
    assert purge(purging, **AT_PACS).json()["Deleted"] == 0
    assert 300 <= purging.clock.ticks - before < 310
    assert set(purging.why().values()) == {
        "PACS has not proved to have it: it has sent no report of storage commitment within 300 s "
        "(this purge does not ask it again)"
    }


def test_a_report_that_comes_is_waited_for(purging: Elsewhere, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", purging.clock.advance)
    purging.before = lambda *_: "not yet" if 1 < len(purging.questions) < 10 else None
    purging.has("PACS", purging.found)
    purging.start()
    assert purge(purging, **AT_PACS).json()["Deleted"] == 3


def test_a_purge_that_is_cancelled_while_it_waits_for_a_report_deletes_nothing_and_ends(
    purging: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)
    purging.before = lambda *_: "not yet" if purging.proofs[-1] != "C-FIND" else None
    purging.has("PACS", purging.found)
    purging.start()
    number = purge(purging, **AT_PACS, **{"async": True}).json()["ID"]
    eventually(lambda: purging.questions)
    purging.script.post(f"{NAME}/jobs/{number}/cancel", {})
    eventually(lambda: purging.purges()[0]["Ended"])
    [job] = purging.purges()
    assert (job["State"], job["Deleted"], job["Kept"], job["Remaining"]) == ("cancelled", 0, 0, 3)


def test_while_this_orthanc_itself_does_not_answer_the_purge_waits(purging: Elsewhere) -> None:
    system, silent = purging.rest.answers["GET", "/system"], purging.rest.error(0, "Orthanc does not answer")
    failures = [1, 1]

    def fail(*_: Any) -> None:
        if failures:
            failures.pop()
            purging.rest.answers["GET", "/system"] = silent
            raise purging.rest.error(0, "Orthanc does not answer")

    def answer_again(*_: Any) -> Any:
        purging.rest.answers["GET", "/system"] = system
        return ["PACS"]

    purging.before = fail
    purging.rest.answers["GET", "/modalities"] = answer_again
    purging.has("PACS", purging.found)
    purging.start()
    assert purge(purging, **AT_PACS).json()["Deleted"] == 3
    purging.standin.assert_logged("purge 1 waits: Orthanc does not answer", "error")


def test_a_destination_that_holds_up_this_orthanc_s_answer_is_one_that_does_not_answer(purging: Elsewhere) -> None:
    def fail(*_: Any) -> None:
        raise purging.rest.error(0, "Orthanc does not answer POST /modalities/PACS/query: timed out")

    purging.before = fail
    purging.start()
    assert len(purge(purging, **AT_PACS).json()["Kept"]) == 3
    assert len(purging.questions) == 3


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("PACSS", "OnlyIfAt: Orthanc knows no destination 'PACSS' (did you mean PACS?), allowed: PACS, VNA, research"),
        ("peer:PACS", "OnlyIfAt: Orthanc knows no destination 'peer:PACS'"),
        ("X", "OnlyIfAt: Orthanc knows no destination 'X', allowed: PACS, VNA, research"),
    ],
)
def test_a_name_that_orthanc_does_not_know_deletes_nothing(purging: Elsewhere, name: str, why: str) -> None:
    purging.has("PACS", purging.found)
    purging.start(Rules=[{**RULE, "OnlyIfAt": ["PACS", name]}])
    line = f"purge_old_studies: PurgeOldStudies.Rules[0].{why}"
    eventually(lambda: any(level == "error" and text.startswith(line) for level, text in purging.standin.logs))
    for more in ({}, {"dry-run": True}):
        answer = purge(purging, **{"only-if-at": [name, "PACS"], **more})
        assert (answer.status, answer.json()["Message"][: len(why)]) == (400, why)
    purging.looked()
    purging.clock.advance(180)
    eventually(lambda: any("rule old does not run this time: OnlyIfAt" in text for _, text in purging.standin.logs))
    eventually(lambda: purging.script.get(f"{NAME}/status")["Rules"][0]["Last"])
    assert purging.script.get(f"{NAME}/status")["Rules"][0]["Last"]["State"] == "not run"
    assert purging.deleted() == []
    assert purging.questions == []


def test_a_name_of_several_destinations_says_which_one_it_means(purging: Elsewhere) -> None:
    purging.rest.answers |= {
        ("GET", "/peers"): ["PACS", "research"],
        ("GET", "/dicom-web/servers"): ["PACS"],
    }
    purging.has("PACS", purging.found)
    purging.start()
    answer = purge(purging, **AT_PACS)
    allowed = "allowed: modality:PACS, peer:PACS, dicomweb:PACS"
    why = f"OnlyIfAt: 'PACS' is the name of several destinations, {allowed}"
    assert (answer.status, answer.json()["Message"]) == (400, why)
    assert purge(purging, **{"only-if-at": ["modality:PACS"]}).json()["Deleted"] == 3


def test_a_server_that_the_plugin_has_not_read_yet_is_known_by_the_configuration(purging: Elsewhere) -> None:
    purging.rest.answers["GET", "/dicom-web/servers"] = []
    cloud = {"DicomWeb": {"Servers": {"cloud": ["https://cloud.example.org/"]}}}
    purging.start(cloud, Rules=[{**RULE, "OnlyIfAt": ["cloud"]}])
    eventually(lambda: purging.rest.asked("GET", "/dicom-web/servers"))
    assert [text for level, text in purging.standin.logs if level == "error"] == []


def test_where_images_may_be_overwritten_no_proof_counts(purging: Elsewhere) -> None:
    purging.has("PACS", purging.found)
    purging.start({"OverwriteInstances": True})
    answer = purge(purging, **AT_PACS)
    assert answer.status == 400
    assert answer.json()["Message"].startswith('OnlyIfAt: not allowed where "OverwriteInstances" is on')
    assert purging.deleted() == []


def test_a_name_that_is_gone_when_it_is_asked_keeps_all(purging: Elsewhere) -> None:
    answers = [["PACS"], ["OTHER"]]
    purging.rest.answers["GET", "/modalities"] = lambda *_: answers.pop(0) if len(answers) > 1 else answers[0]
    purging.has("PACS", purging.found)
    purging.start()
    assert len(purge(purging, **AT_PACS).json()["Kept"]) == 3
    assert purging.deleted() == []
    assert purging.questions == []


def test_a_study_that_receives_something_while_it_is_proved_stays(purging: Elsewhere) -> None:
    def grow(*_: Any) -> None:
        purging.clock.advance(1)
        purging.found["a1"] = {**purging.found["a1"], "LastUpdate": "20260301T022800"}

    purging.has("PACS", purging.found)
    purging.before = grow
    purging.start()
    assert purge(purging, **AT_PACS).json()["Kept"] == ["a1"]
    assert purging.deleted() == ["b2-1", "b2-2", "c3-1", "c3-2"]
    assert purging.why() == {"a1": "it has received something since it was chosen"}


def test_an_image_that_comes_in_between_the_last_look_and_the_deletion_stays(purging: Elsewhere) -> None:
    def delete(path: str, body: Any) -> Any:
        purging.instances["a1"].append("a1-3")
        purging.rest.answers["POST", "/tools/bulk-delete"] = purging._delete
        return purging._delete(path, body)

    purging.has("PACS", purging.found)
    purging.rest.answers["POST", "/tools/bulk-delete"] = delete
    purging.start()
    assert purge(purging, **AT_PACS).json()["Kept"] == ["a1"]
    assert purging.instances == {"a1": ["a1-3"]}
    assert purging.why() == {"a1": "something came in while it was being deleted, and stays"}


def test_a_deletion_that_orthanc_refuses_is_one_that_failed(purging: Elsewhere) -> None:
    purging.has("PACS", purging.found)
    purging.rest.answers["POST", "/tools/bulk-delete"] = purging.rest.error(500, "the disk is read-only")
    purging.start()
    assert purge(purging, **AT_PACS).json()["Failed"] == ["a1", "b2", "c3"]
    assert set(purging.why().values()) == {"the disk is read-only"}


@pytest.mark.parametrize("what", ["no file", "no instance"])
def test_a_study_whose_instances_can_not_be_read_stays(purging: Elsewhere, what: str) -> None:
    """Without the names of files nobody could see that a destination shares our database."""

    def content(path: str, body: Any) -> Any:
        found = purging._content(path, body)
        for each in found:
            if each["ID"] == "a1-2":
                del each["FileUuid"]
            elif each["ID"] == "a1-5e" and what == "no instance":
                each["Instances"] = []
        return found

    purging.rest.answers["POST", "/tools/bulk-content"] = content
    purging.has("PACS", purging.found)
    purging.start()
    assert purge(purging, **AT_PACS).json()["Kept"] == ["a1"]
    assert purging.instances == {"a1": ["a1-1", "a1-2"]}
    assert purging.why() == {"a1": "its instances can't be read"}


def test_the_rest_of_a_study_that_was_being_deleted_is_proved_anew_after_a_restart(
    purging: Elsewhere, tmp_path: Path
) -> None:
    purging.has("PACS", purging.found)
    purging.start()
    purge(purging, since="19000101", **AT_PACS)  # so that there is a ledger
    with closing(sqlite3.connect(next(tmp_path.rglob("purge_old_studies.sqlite")))) as db, db:
        asked = {"last": "20000101", "by": "StudyDate", "query": {}, "labels": [], "labels_constraint": "All"}
        asked |= {"only_if_at": ["PACS"], "proof": "C-FIND"}
        values = (7, "running", 0, json.dumps({"User": None, "Rule": None}), json.dumps(asked), 1.0)
        db.execute("INSERT INTO purges VALUES(?,?,?,?,?,?,NULL)", values)
        for number, study in enumerate(("a1", "b2")):
            facts = json.dumps({"StudyInstanceUID": f"1.{study}", "LastUpdate": LONG_AGO, "Instances": 2})
            db.execute("INSERT INTO studies VALUES(7,?,?,?,'pieces','')", (number, study, facts))
    purging.there["PACS"] -= {"a1-2"}
    purging.start()
    eventually(lambda: purging.purges()[-1]["Ended"])
    assert purging.deleted() == ["b2-1", "b2-2"]
    assert purging.why(7) == {"a1": "PACS has not proved to have 1 of 2 instances"}
    assert set(purging.proofs) == {"C-FIND"}


def test_a_dry_run_says_where_it_must_be_and_asks_nobody(purging: Elsewhere) -> None:
    for study in purging.found:
        purging.standin.answers["GET", f"/studies/{study}/statistics"] = {"DiskSize": "10"}
    purging.start(Rules=[{**RULE, "OnlyIfAt": ["PACS", "research"]}])
    answer = purge(purging, **AT_PACS, **{"dry-run": True})
    assert (answer.json()["Studies"], answer.json()["OnlyIfAt"]) == (3, ["PACS"])
    assert "OnlyIfAt: PACS\n" in purge(purging, **AT_PACS, **{"dry-run": True, "format": "text"}).text
    assert purging.script.get(f"{NAME}/rules/old/dry-run")["OnlyIfAt"] == ["PACS", "research"]
    assert purging.questions == []


def test_a_proof_needs_destinations(purging: Elsewhere) -> None:
    purging.start()
    assert purge(purging, proof="C-FIND").json()["Message"] == "proof needs only-if-at"
    for value in ([], ["PACS", ""], "PACS"):
        assert purge(purging, **{"only-if-at": value}).status == 400
    assert purge(purging, **AT_PACS, proof="QIDO").status == 400
    assert purging.deleted() == []


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"Proof": "C-FIND"}, "Rules[0].Proof: only a rule with OnlyIfAt has it"),
        ({"OnlyIfAt": [" "]}, 'Rules[0].OnlyIfAt: found [" "], allowed: names of destinations'),
        ({"OnlyIfAt": ["PACS"], "Proof": "QIDO"}, 'Rules[0].Proof: found "QIDO", allowed: one of'),
        ({"OnlyIfAt": "PACS"}, 'Rules[0].OnlyIfAt: found "PACS", allowed: a list'),
    ],
)
def test_a_rule_that_says_it_wrongly_is_an_error(source: Any, more: dict[str, Any], why: str) -> None:
    settings = source("purge_old_studies.settings")
    with pytest.raises(settings.SettingsError, match=re.escape(f"PurgeOldStudies.{why}")):
        settings.read_configuration({"PurgeOldStudies": {"Rules": [{**RULE, **more}]}})


def test_a_rule_deletes_at_its_time_what_is_elsewhere(purging: Elsewhere) -> None:
    purging.has("PACS", ["a1", "c3"])
    purging.start(Rules=[{**RULE, "OnlyIfAt": ["PACS"], "Proof": "C-FIND"}])
    purging.looked()
    purging.clock.advance(180)
    eventually(purging.purges)
    purging.looked()
    assert purging.deleted() == ["a1-1", "a1-2", "c3-1", "c3-2"]
    assert purging.why() == {"b2": "PACS has not proved to have 2 of 2 instances"}


def test_a_restart_knows_what_the_conditions_were(source: Any) -> None:
    conditions = source("purge_old_studies.conditions")
    for more in ({}, {"only-if-at": ["PACS", "peer:X"]}, {"only-if-at": ["PACS"], "proof": "C-FIND"}):
        asked = conditions.conditions({"since": "20000101", **more}, conditions.datetime.date(2026, 1, 1))
        assert conditions.Conditions.from_json(json.dumps(asked.as_json())) == asked
        assert asked.only_if_at == tuple(more.get("only-if-at", ()))


# By space


@pytest.fixture
def filling(purging: Elsewhere) -> Filling:
    """Of fourteen studies of a gigabyte, the oldest three are nowhere else."""
    purging.found.clear()
    purging.instances.clear()
    found = Filling(purging)
    found.add(*range(101, 115))
    purging.has("PACS", [study for study in purging.found if study > "a103"])
    return found


BY_SPACE = {**ROOM, "AtMost": 2, "OnlyIfAt": ["PACS"]}


def test_a_rule_by_space_passes_over_what_is_nowhere_else_for_some_hours(filling: Filling, purging: Elsewhere) -> None:
    filling.start(Rules=[BY_SPACE])
    eventually(lambda: len(purging.found) == 8)
    filling.looked()
    assert {study for study in purging.instances if study <= "a103"} == {"a101", "a102", "a103"}
    asked = [study for _, studies in purging.questions for study in studies]
    assert asked.count("a101") <= 3  # once found, once in a batch of two, once alone
    number = len(purging.purges())
    filling.add(115, 116, 117, 118)
    filling.looked()
    assert len(purging.purges()) > number
    purging.has("PACS", ["a101"])
    purging.clock.advance(7 * 3600)
    filling.add(119, 120, 121)
    eventually(lambda: "a101" not in purging.found)


def test_a_rule_by_space_that_finds_nothing_elsewhere_says_so(filling: Filling, purging: Elsewhere) -> None:
    purging.there["PACS"].clear()
    filling.start(Rules=[BY_SPACE])
    why = "nothing older than 1y may go; 14 stay: PACS did not prove to have them within the last hours"
    eventually(lambda: filling.logged(f"down to 8 GB, but {why}"))
    filling.looked()
    assert purging.deleted() == []
    assert len(purging.purges()) == 7  # of two each


def test_while_a_destination_is_away_a_rule_by_space_begins_no_more_purges(
    filling: Filling, purging: Elsewhere
) -> None:
    def fail(*_: Any) -> None:
        raise purging.rest.error(500, "no route")

    echo = ("POST", "/modalities/PACS/echo")
    purging.before, purging.rest.answers[echo] = fail, purging.rest.error(500, "no route")
    filling.start(Rules=[BY_SPACE])
    eventually(lambda: filling.logged("rule keep room frees nothing: PACS does not answer: no route"))
    number = len(purging.purges())
    filling.looked()
    assert len(purging.purges()) == number
    purging.before, purging.rest.answers[echo] = lambda *_: None, {}
    eventually(purging.deleted)


def test_a_study_that_could_not_be_asked_for_is_not_left_out(filling: Filling, purging: Elsewhere) -> None:
    failures = [1]

    def fail(*_: Any) -> None:
        if failures:
            failures.pop()
            raise purging.rest.error(500, "no route")

    purging.before = fail
    purging.has("PACS", ["a101"])
    filling.start(Rules=[{**BY_SPACE, "AtMost": 1}])
    eventually(lambda: "a101" not in purging.found)
    assert purging.why(1) == {"a101": "PACS has not proved to have it: no route"}


def test_few_studies_are_remembered(source: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    module = source("purge_old_studies.elsewhere")
    monkeypatch.setattr(module, "MOST_REMEMBERED", 2)
    found, question = module.Elsewhere({}, None), (("PACS",), "C-FIND")
    asked = types.SimpleNamespace(only_if_at=question[0], proof=question[1])
    studies = [types.SimpleNamespace(id=f"a{number}", received="20000101T000000") for number in range(3)]
    for study in (studies[0], studies[1], studies[0], studies[2]):
        found.lacks(study, *question)
    assert [found.has_lacked(study, asked) for study in studies] == [True, False, True]
    studies[0].received = "20260101T000000"
    assert not found.has_lacked(studies[0], asked)
