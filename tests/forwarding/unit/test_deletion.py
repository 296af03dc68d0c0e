# SPDX-License-Identifier: AGPL-3.0-or-later
"""DeleteAfterForward without a server: what keeps a study here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from testing.standin import StandIn
from tests.fakes import FakeOrthanc, eventually

MANY = [f"i{number:03}" for number in range(150)]  # two requests


class Deletion:
    """A deleter on a ledger of its own; `prove` is what destinations say."""

    def __init__(self, source: Any, rest: FakeOrthanc, folder: Path) -> None:
        self.rest = rest
        module, feed = source("forwarding.deletion"), source("common.changes")
        loopback = source("common.loopback").Loopback({})
        self.ledger = source("common.ledger").Ledger(folder / "x.sqlite", feed.FEED_TABLES)
        self.ledger.set_value("cursor", 0)
        self.prove: Callable[..., Any] = lambda _name, instances, _asked: set(instances)
        self.looks = 0
        retry = source("common.retry").Retry()
        self.trouble = source("common.worker").Trouble("x")
        self.deleter = module.Deleter("x", self.ledger, loopback, self._prove, retry, self.trouble)
        self.task = module.DELETE
        self.feed = feed.Feed(self.ledger, loopback, lambda *_: None, ["Study"], 60.0, True)

    def _prove(self, name: str, instances: Any, asked: Any) -> Any:
        self.looks += 1
        return self.prove(name, instances, asked)

    @property
    def row(self) -> Any:
        return self.ledger.rows("SELECT * FROM work WHERE task=?", self.task)[0]

    def put_off(self) -> Any:
        """Wait until it was looked at, and is to be looked at again."""
        return eventually(lambda: self.row["next_attempt"] and self.row)

    def deleted(self) -> list[str]:
        return [each for body in self.rest.asked("POST", "/tools/bulk-delete") for each in body["Resources"]]


@pytest.fixture
def deletion(source: Any, rest: FakeOrthanc, tmp_path: Path) -> Iterator[Deletion]:
    made = Deletion(source, rest, tmp_path)
    rest.studies["a1"] = list(MANY)
    yield made
    assert made.deleter.stop(5)
    made.ledger.close()


def test_what_every_destination_has_is_deleted_and_said(deletion: Deletion, orthanc_standin: StandIn) -> None:
    deletion.deleter.note("Study", "a1", ["PACS", "VNA"])
    eventually(lambda: deletion.row["state"] == "done")
    assert sorted(deletion.deleted()) == MANY
    assert deletion.looks == 2
    eventually(lambda: orthanc_standin.logs)  # after the row is done
    orthanc_standin.assert_logged("deleted study a1, 150 instances, which PACS, VNA proved to have", "warning")


@pytest.mark.parametrize("destinations", [["PACS"], ["PACS", "VNA"]])
def test_what_one_destination_has_not_proved_stays(deletion: Deletion, destinations: list[str]) -> None:
    deletion.prove = lambda name, instances, _: set(instances) - ({"i149"} if name == destinations[-1] else set())
    deletion.deleter.note("Study", "a1", destinations)
    eventually(lambda: "has not proved to have 1 of 150 instances" in deletion.row["error"])
    assert deletion.deleted() == []


def test_one_whose_patient_nobody_can_say_anything_of_now_holds_up_no_other(deletion: Deletion) -> None:
    deletion.rest.studies["b2"] = ["j1"]
    protected = next(iter(deletion.deleter._content("a1", "Patient")))
    deletion.rest.answers["GET", f"/patients/{protected}/protected"] = deletion.rest.error(503)
    with deletion.ledger.transaction():
        deletion.deleter.note("Study", "a1", ["PACS"])
        deletion.deleter.note("Study", "b2", ["PACS"])
    eventually(lambda: deletion.deleted() == ["j1"])


def test_a_rule_of_another_level_is_asked_only_for_what_it_has_sent(deletion: Deletion) -> None:
    """PACS got one image, VNA the whole study."""
    whole = deletion.deleter._proofs._content
    deletion.deleter._proofs._content = lambda resource, level: (
        {resource: {}} if resource == "i003" else whole(resource, level)
    )
    deletion.prove = lambda name, instances, _: set(instances) & {"i003"} if name == "PACS" else set(instances)
    with deletion.ledger.transaction():
        deletion.deleter.note("Study", "a1", ["VNA"])
        deletion.deleter.note("Instance", "i003", ["PACS"])
    eventually(lambda: sorted(deletion.deleted()) == MANY)


def test_what_a_destination_got_by_a_rule_of_another_level_waits_for_its_proof_too(deletion: Deletion) -> None:
    deletion.prove = lambda name, instances, _: set(instances) if name == "PACS" else set()
    series = next(iter(deletion.deleter._content("a1", "Series")))
    with deletion.ledger.transaction():
        deletion.deleter.note("Study", "a1", ["VNA"])
        deletion.deleter.note("Series", series, ["PACS"])

    def errors() -> list[str]:
        rows = deletion.ledger.rows("SELECT error FROM work WHERE task=?", deletion.task)
        return [row["error"] for row in rows if "VNA has not proved to have 150 of 150 instances" in row["error"]]

    eventually(lambda: len(errors()) == 2)
    assert deletion.deleted() == []


def test_a_proof_that_is_under_way_is_waited_for(deletion: Deletion) -> None:
    def prove(name: str, instances: Any, asked: Any) -> Any:
        asked[name] = "transaction"
        return None if name == "VNA" else set(instances)

    deletion.prove = prove
    deletion.deleter.note("Study", "a1", ["PACS", "VNA"])
    assert "transaction" in deletion.put_off()["data"]  # what was asked is remembered
    assert deletion.deleted() == []


def test_what_comes_again_between_proof_and_the_first_request_stays(deletion: Deletion) -> None:
    def prove(_name: str, instances: Any, _asked: Any) -> set[str]:
        deletion.rest.receive("a1", "i000")  # the same image, overwritten
        return set(instances)

    deletion.prove = prove
    deletion.deleter.note("Study", "a1", ["PACS"])
    deletion.put_off()
    assert deletion.deleted() == []


def test_what_comes_again_between_two_requests_stays(deletion: Deletion) -> None:
    def delete(_path: str, body: Any) -> Any:
        deletion.rest.receive("a1", "i120")
        return {}

    deletion.rest.answers["POST", "/tools/bulk-delete"] = delete
    deletion.deleter.note("Study", "a1", ["PACS"])
    deletion.put_off()
    assert deletion.deleted() == MANY[:100]
    assert deletion.row["state"] == "waiting"


@pytest.mark.parametrize("resource", ["a1", "a1-5e", "i003"])
def test_what_is_to_be_sent_since_it_was_proved_stays(deletion: Deletion, resource: str) -> None:
    """A proof takes its time: meanwhile a person says that it goes to another destination too."""

    def prove(_name: str, instances: Any, _asked: Any) -> set[str]:
        deletion.ledger.add("VNA", resource, {"Level": "Study", "Instances": None})
        return set(instances)

    deletion.prove = prove
    deletion.deleter.note("Study", "a1", ["PACS"])
    deletion.put_off()
    assert deletion.deleted() == []
    assert deletion.row["state"] == "waiting"


@pytest.mark.parametrize("destinations", [["PACS"], ["VNA"]])
def test_what_is_noted_while_it_is_deleted_is_looked_at_again(deletion: Deletion, destinations: list[str]) -> None:
    noted: list[bool] = []

    def delete(_path: str, body: Any) -> Any:
        if MANY[-1] in body["Resources"] and not noted:  # the last request
            deletion.ledger.run("UPDATE work SET created=created-1")
            noted.append(True)
            deletion.deleter.note("Study", "a1", destinations)
        return {}

    deletion.rest.answers["POST", "/tools/bulk-delete"] = delete
    deletion.deleter.note("Study", "a1", ["PACS"])
    eventually(lambda: noted and deletion.looks >= 2)


def test_what_has_arrived_and_is_not_stable_yet_stays(deletion: Deletion) -> None:
    """Also where the log of changes is not read (Reconcile is false)."""
    deletion.ledger.set_value("cursor", -1)
    deletion.ledger.run("INSERT INTO arrived VALUES('Study','i007',0,0,'a1')")
    deletion.deleter.note("Study", "a1", ["PACS"])
    deletion.put_off()
    assert deletion.looks == 0
    assert deletion.deleted() == []


def test_a_log_of_changes_that_is_not_read_to_its_end_keeps_all(deletion: Deletion) -> None:
    deletion.rest.receive("b2", *(f"x{number}" for number in range(600)))  # more than a page: what follows is not known
    deletion.deleter.note("Study", "a1", ["PACS"])
    deletion.put_off()
    assert deletion.deleted() == []


@pytest.mark.parametrize("state", ["waiting", "sending", "dead"])
@pytest.mark.parametrize("resource", ["a1", "a1-9a", "a1-5e", "i003"])
def test_a_delivery_that_waits_or_is_under_way_or_was_given_up_keeps_it_whatever_its_level(
    deletion: Deletion, state: str, resource: str
) -> None:
    row = deletion.ledger.add("VNA", resource, {"Level": "Study", "Instances": None})
    deletion.ledger.end(row, state)
    deletion.deleter.note("Study", "a1", ["PACS"])
    deletion.put_off()
    assert deletion.deleted() == []


@pytest.mark.parametrize(("level", "resource"), [("Study", "a1"), ("Series", "a1-5e"), ("Patient", "a1-9a")])
@pytest.mark.parametrize("owed", ["a1", "a1-9a"])
def test_what_another_script_is_not_done_with_stays_and_the_row_says_so_until_it_is(
    deletion: Deletion, level: str, resource: str, owed: str
) -> None:
    not_done = [owed]
    deletion.rest.answers["POST", "/auto-forward-peer/owed"] = lambda _path, body: {
        "Owed": [each for each in not_done if each in body["Resources"]]
    }
    deletion.deleter.note(level, resource, ["PACS"])
    assert deletion.put_off()["error"] == "auto_forward_peer has not delivered it"
    assert (deletion.looks, deletion.deleted(), deletion.row["attempts"]) == (0, [], 0)
    not_done.clear()
    deletion.deleter.delivered(resource)
    eventually(lambda: deletion.row["state"] == "done")
    assert sorted(deletion.deleted()) == MANY


def test_what_another_script_gets_while_it_is_proved_or_deleted_stays(deletion: Deletion) -> None:
    asked = 0

    def owed(_path: str, _body: Any) -> Any:
        nonlocal asked
        asked += deletion.looks
        return {"Owed": ["a1"] if asked > 1 else []}  # from the second of two requests on

    deletion.rest.answers["POST", "/auto-forward-peer/owed"] = owed
    deletion.deleter.note("Study", "a1", ["PACS"])
    deletion.put_off()
    assert deletion.deleted() == MANY[:100]
    assert deletion.row["state"] == "waiting"


def test_another_script_that_is_there_and_can_not_say_keeps_it(deletion: Deletion) -> None:
    deletion.rest.answers["POST", "/auto-forward-peer/owed"] = deletion.rest.error(503, "it is idle")
    deletion.deleter.note("Study", "a1", ["PACS"])
    assert "auto_forward_peer can't say whether it has delivered it: it is idle" in deletion.put_off()["error"]
    assert deletion.deleted() == []


def test_of_many_studies_another_script_is_asked_at_once(deletion: Deletion) -> None:
    studies = [f"s{number}" for number in range(50)]
    deletion.rest.studies |= {study: [f"{study}-i"] for study in studies}
    deletion.rest.answers["POST", "/auto-forward-peer/owed"] = lambda _path, body: {"Owed": body["Resources"]}
    with deletion.ledger.transaction():
        for study in studies:
            deletion.deleter.note("Study", study, ["PACS"])
    eventually(lambda: all(row["next_attempt"] for row in deletion.ledger.rows("SELECT next_attempt FROM work")))
    assert deletion.rest.asked("POST", "/tools/bulk-content") == []


@pytest.mark.parametrize("state", ["done", "gone"])
def test_a_delivery_that_has_ended_does_not_keep_it(deletion: Deletion, state: str) -> None:
    deletion.ledger.end(deletion.ledger.add("VNA", "a1", {"Level": "Study", "Instances": None}), state)
    deletion.deleter.note("Study", "a1", ["PACS"])
    eventually(lambda: deletion.row["state"] == "done")
    assert sorted(deletion.deleted()) == MANY


def test_when_a_delivery_has_ended_it_is_looked_at_at_once(deletion: Deletion) -> None:
    row = deletion.ledger.add("VNA", "a1", {"Level": "Study", "Instances": None})
    deletion.deleter.note("Study", "a1", ["PACS"])
    deletion.put_off()
    deletion.ledger.end(row, "done")
    deletion.deleter.delivered("a1")
    eventually(lambda: deletion.row["state"] == "done")


def test_a_protected_patient_keeps_it(deletion: Deletion, orthanc_standin: StandIn) -> None:
    deletion.rest.answers["GET", "/patients/a1-9a/protected"] = 1
    deletion.deleter.note("Study", "a1", ["PACS"])
    eventually(lambda: deletion.row["state"] == "done")
    assert deletion.deleted() == []
    eventually(lambda: orthanc_standin.logs)  # after the row is done
    orthanc_standin.assert_logged("its patient is protected", "warning")


def test_what_was_deleted_by_somebody_else_ends(deletion: Deletion) -> None:
    deletion.rest.studies.clear()
    deletion.deleter.note("Study", "a1", ["PACS"])
    eventually(lambda: deletion.row["state"] == "gone")
    assert deletion.looks == 0


def test_noted_again_it_is_proved_by_all_destinations_of_both_times(deletion: Deletion) -> None:
    deletion.prove = lambda *_: None
    deletion.deleter.note("Study", "a1", ["PACS"])
    deletion.deleter.note("Study", "a1", ["VNA"])
    [row] = deletion.ledger.rows("SELECT data FROM work WHERE task=?", deletion.task)
    assert '"PACS", "VNA"' in row["data"]


def test_while_orthanc_does_not_answer_nothing_is_deleted_or_counted(
    deletion: Deletion, orthanc_standin: StandIn
) -> None:
    deletion.rest.answers["POST", "/tools/bulk-content"] = deletion.rest.error(0, "no answer")
    deletion.deleter.note("Study", "a1", ["PACS"])
    eventually(lambda: orthanc_standin.logs)
    orthanc_standin.assert_logged("deletes nothing now: no answer", "error")
    assert deletion.row["attempts"] == 0
