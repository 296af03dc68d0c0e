# SPDX-License-Identifier: AGPL-3.0-or-later
"""forwarding/jobs.py, in the script for DICOM nodes: each row is one job, whatever happens while it is submitted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.fakes import eventually
from tests.forwarding.unit.fake_forwarding import NAME, OTHER_STUDY, STUDY, Forwarding


def test_what_was_deleted_meanwhile_is_left_out_and_ends_as_gone(forwarding: Forwarding) -> None:
    forwarding.start()
    forwarding.turn()
    store = forwarding.rest._answer

    def answer(path: str, body: Any) -> Any:
        gone = [each for each in body["Resources"] if each.startswith("gone")]
        del forwarding.rest.answers["POST", path]
        found = forwarding.rest.error(404, "Unknown resource") if gone else store("POST", path, body)
        forwarding.rest.answers["POST", path] = answer
        return found

    forwarding.rest.answers["POST", "/modalities/PACS/store"] = answer
    forwarding.rest.receive("a1", "i1", "gone1")
    forwarding.rest.become_stable("a1")
    forwarding.rest.receive("b2", "gone2")
    forwarding.rest.become_stable("b2")
    bulk = forwarding.rest._content
    forwarding.rest.answers["POST", "/tools/bulk-content"] = lambda _, body: [
        each for each in bulk(body) if "Short" not in body or not each["ID"].startswith("gone")
    ]
    forwarding.turn()
    assert forwarding.sent() == [["gone1", "i1"], ["i1"], ["gone2"]]
    assert forwarding.states() == ["sending", "gone"]


class Meanwhile:
    """Two studies are due; while the first is submitted, something happens to the second."""

    def __init__(self, forwarding: Forwarding, act: Callable[[dict[str, Any]], object]) -> None:
        forwarding.start(MaxPerDestination=8)
        forwarding.turn()
        submit, acted = forwarding.rest._answer, list[bool]()

        def answer(path: str, body: Any) -> Any:
            if not acted:
                acted.append(True)
                act(forwarding.deliveries()[1])
            del forwarding.rest.answers["POST", path]
            found = submit("POST", path, body)
            forwarding.rest.answers["POST", path] = answer
            return found

        forwarding.rest.answers["POST", "/modalities/PACS/store"] = answer
        for study, instance in ((STUDY, "i1"), (OTHER_STUDY, "i2")):
            forwarding.rest.receive(study, instance)
            forwarding.rest.become_stable(study)
        forwarding.turn()
        assert acted


def test_what_a_person_drops_while_the_one_before_it_is_submitted_is_not_sent(forwarding: Forwarding) -> None:
    def drop(row: dict[str, Any]) -> None:
        assert forwarding.standin.http("DELETE", f"{NAME}/deliveries/{row['ID']}").status == 200

    Meanwhile(forwarding, drop)
    assert forwarding.sent() == [["i1"]]
    assert forwarding.states() == ["sending"]


def test_what_joins_a_row_while_the_one_before_it_is_submitted_is_sent_with_it(forwarding: Forwarding) -> None:
    def send(row: dict[str, Any]) -> None:
        answer = forwarding.script.post(f"{NAME}/send", {"Resource": row["Resource"]})
        assert answer.json()["Deliveries"] == [row["ID"]]

    Meanwhile(forwarding, send)
    assert forwarding.sent() == [["i1"], [OTHER_STUDY]]


def test_a_resource_that_is_not_deleted_is_not_taken_for_it(forwarding: Forwarding) -> None:
    forwarding.rest.answers["POST", "/modalities/PACS/store"] = forwarding.rest.error(404, "Unknown modality")
    forwarding.start()
    forwarding.receive("a1", "i1")
    [row] = forwarding.deliveries()
    assert (row["State"], row["Error"]) == ("waiting", "Unknown modality")


# What jobs do unseen


def test_a_job_that_ends_before_its_submission_is_answered_counts(forwarding: Forwarding) -> None:
    forwarding.start()
    forwarding.turn()

    def answer(_path: str, body: Any) -> Any:
        forwarding.rest.jobs["PACS-1"] = {"ID": "PACS-1", "State": "Success", "Content": {}}
        forwarding.script.change("JOB_SUCCESS", "PACS-1")
        return {"ID": "PACS-1"}

    forwarding.rest.answers["POST", "/modalities/PACS/store"] = answer
    forwarding.receive("a1", "i1")
    eventually(lambda: forwarding.states() == ["done"])
    assert len(forwarding.sent()) == 1


def test_a_submission_that_was_not_answered_is_found_by_its_content_and_not_sent_twice(forwarding: Forwarding) -> None:
    forwarding.start()
    forwarding.turn()

    def answer(path: str, body: Any) -> Any:
        del forwarding.rest.answers["POST", path]
        forwarding.rest.jobs["other"] = {"ID": "other", "Type": "DicomModalityStore", "State": "Running",
                                         "Content": {"RemoteAet": "PACS", "ParentResources": ["i9"]}}  # fmt: skip
        forwarding.rest._answer("POST", path, body)
        return forwarding.rest.error(0, "no answer")

    forwarding.rest.answers["POST", "/modalities/PACS/store"] = answer
    forwarding.receive("a1", "i1")
    forwarding.turn(10)
    assert forwarding.sent() == [["i1"]]
    [row] = forwarding.deliveries()
    assert (row["State"], row["Job"]) == ("sending", "PACS-2")
    forwarding.end("PACS-2")
    eventually(lambda: forwarding.states() == ["done"])


def test_a_job_that_lives_on_after_a_kill_is_known_and_one_that_is_gone_goes_again(forwarding: Forwarding) -> None:
    forwarding.start()
    forwarding.receive("a1", "i1")
    forwarding.receive("b2", "i2")
    del forwarding.rest.jobs["PACS-2"]  # its end came while Orthanc was down
    forwarding.start()
    forwarding.turn(10)
    forwarding.turn(10)
    assert forwarding.sent() == [["i1"], ["i2"], ["i2"]]


def test_an_end_that_no_event_told_of_is_found(forwarding: Forwarding) -> None:
    forwarding.start()
    forwarding.receive("a1", "i1")
    forwarding.rest.jobs["PACS-1"]["State"] = "Success"
    forwarding.turn(10)
    assert forwarding.states() == ["done"]


# When nothing may be sent
