# SPDX-License-Identifier: AGPL-3.0-or-later
"""forwarding/forwarder.py, in the script for DICOM nodes: what arrives is sent, once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.fakes import eventually
from tests.forwarding.unit.fake_forwarding import NAME, NODES, STUDY, Forwarding


def test_a_stable_study_goes_to_each_destination_as_a_job(forwarding: Forwarding) -> None:
    forwarding.start(Destinations=["PACS", "VNA"])
    forwarding.receive("a1", "i1", "i2")
    assert (forwarding.sent("PACS"), forwarding.sent("VNA")) == ([["i1", "i2"]], [["i1", "i2"]])
    assert all(body["Synchronous"] is False for body in forwarding.rest.asked("POST", "/modalities/PACS/store"))
    assert forwarding.states() == ["sending"] * 2
    for job in forwarding.rest.jobs:
        forwarding.end(job)
    eventually(lambda: forwarding.states() == ["done"] * 2)


def test_without_a_list_every_node_that_orthanc_knows_is_a_destination_also_a_later_one(forwarding: Forwarding) -> None:
    forwarding.rest.known = {"PACS": NODES["PACS"]}
    forwarding.start(Destinations=None)
    forwarding.receive("a1", "i1")
    forwarding.end("PACS-1")
    forwarding.rest.known["VNA"] = NODES["VNA"]
    forwarding.script.change("UPDATED_MODALITIES")
    forwarding.receive("b2", "i2")
    assert (forwarding.sent("PACS"), forwarding.sent("VNA")) == ([["i1"], ["i2"]], [["i2"]])


def test_an_empty_list_of_destinations_is_none(forwarding: Forwarding) -> None:
    forwarding.start(Destinations=[])
    forwarding.receive("a1", "i1")
    assert (forwarding.sent("PACS"), forwarding.sent("VNA")) == ([], [])


def test_what_the_archive_held_is_not_sent_and_a_new_ledger_says_so(forwarding: Forwarding) -> None:
    forwarding.clock.advance(-3600)
    forwarding.rest.receive("a1", "i1")
    forwarding.rest.become_stable("a1")
    forwarding.clock.advance(3600)
    forwarding.start()
    forwarding.turn()
    forwarding.turn()
    assert forwarding.sent() == []
    forwarding.standin.assert_logged("is new; what arrives from now on is forwarded", "warning")


def test_what_came_from_a_node_is_not_sent_back_to_it(forwarding: Forwarding) -> None:
    forwarding.start(Destinations=["PACS", "VNA"])
    forwarding.receive("a1", "i1", RemoteAET="PACS")
    assert (forwarding.sent("PACS"), forwarding.sent("VNA")) == ([], [["i1"]])


@pytest.mark.parametrize("made", ["ModifiedFrom", "AnonymizedFrom"])
@pytest.mark.parametrize("skip", [False, True])
def test_copies_that_orthanc_made_are_left_out_when_asked(forwarding: Forwarding, made: str, skip: bool) -> None:
    forwarding.start(SkipModified=skip)
    forwarding.receive("a1", "i1", **{made: "i0"})
    assert forwarding.sent() == ([] if skip else [["i1"]])


def test_an_unknown_destination_is_named_and_the_others_are_served(forwarding: Forwarding) -> None:
    forwarding.start(Destinations=["PACS", "PASC"])
    forwarding.receive("a1", "i1")
    assert forwarding.sent() == [["i1"]]
    forwarding.standin.assert_logged(
        "Destinations names PASC, which Orthanc does not know; known are: PACS, VNA", "error"
    )
    status = forwarding.script.get(f"{NAME}/status")
    assert (status["State"], status["Reason"]) == (
        "running",
        "Destinations names PASC, which Orthanc does not know; known are: PACS, VNA. "
        "The others are served, and what arrives for it waits.",
    )
    assert forwarding.standin.http("GET", "/scripts/health").status == 503


def test_options_of_a_destination_go_into_its_jobs_and_never_over_ours(forwarding: Forwarding) -> None:
    forwarding.start(DestinationOptions={"PACS": {"Options": {"Timeout": 7}}})
    forwarding.receive("a1", "i1")
    [body] = forwarding.rest.asked("POST", "/modalities/PACS/store")
    assert body == {"Timeout": 7, "Resources": ["i1"], "Synchronous": False}


@pytest.mark.parametrize("key", ["Permissive", "Synchronous", "Asynchronous", "Resources"])
def test_options_that_are_the_scripts_are_refused_by_name(forwarding: Forwarding, key: str) -> None:
    forwarding.start(DestinationOptions={"PACS": {"Options": {key: True}}})
    forwarding.standin.assert_logged(f"DestinationOptions.PACS.Options: found {key}, which is not allowed", "error")
    assert forwarding.standin.http("GET", f"{NAME}/status").status == 503


def test_deleting_is_refused_where_an_instance_may_be_another_by_then(forwarding: Forwarding) -> None:
    forwarding.start({"OverwriteInstances": True}, DeleteAfterForward=True)
    forwarding.standin.assert_logged("DeleteAfterForward: found true, allowed is false", "error")


def test_with_trigger_stored_it_goes_before_it_is_stable_and_nothing_twice(forwarding: Forwarding) -> None:
    forwarding.start(Trigger="Stored")
    store = forwarding.standin.callback("RegisterOnStoredInstanceCallback")
    tags = json.dumps({"0010,0020": "P", "0020,000d": "1.2", "0020,000e": "1.2.3"})
    dicom = forwarding.standin.object("DicomInstance", GetInstanceAdvancedJson=tags, HasInstanceMetadata=0)
    for instance in ("i1", "i2"):
        store(dicom, instance)
        forwarding.rest.receive(STUDY, instance)
    forwarding.turn()
    assert forwarding.sent() == [["i1", "i2"]]
    forwarding.end("PACS-1")
    forwarding.rest.become_stable(STUDY)
    forwarding.turn()
    forwarding.turn()
    assert forwarding.sent() == [["i1", "i2"]]


@pytest.mark.parametrize("same", [True, False])
def test_an_instance_stored_again_is_sent_again_only_if_its_content_is_another(
    forwarding: Forwarding, same: bool
) -> None:
    forwarding.start({"OverwriteInstances": True})
    store = forwarding.standin.callback("RegisterOnStoredInstanceCallback")
    tags = json.dumps({"0010,0020": "P", "0020,000d": "1.2", "0020,000e": "1.2.3"})
    for content in (b"one", b"one" if same else b"two"):
        prepared = {"GetInstanceAdvancedJson": tags, "HasInstanceMetadata": 0, "GetInstanceData": content}
        store(forwarding.standin.object("DicomInstance", **prepared), "i1")
        forwarding.rest.studies = {}
        forwarding.receive(STUDY, "i1")
        for job in forwarding.rest.jobs:
            forwarding.end(job)
        forwarding.turn()
    assert forwarding.sent() == [["i1"]] * (1 if same else 2)


# When it fails


def test_a_paused_destination_gets_nothing_until_it_is_resumed_also_after_a_restart(forwarding: Forwarding) -> None:
    forwarding.start()
    forwarding.script.post(f"{NAME}/destinations/PACS/pause")
    forwarding.receive("a1", "i1")
    forwarding.start()
    forwarding.turn()
    assert forwarding.sent() == []
    forwarding.script.post(f"{NAME}/destinations/PACS/resume")
    forwarding.turn()
    assert forwarding.sent() == [["i1"]]


def test_outside_its_hours_a_destination_gets_nothing(forwarding: Forwarding) -> None:
    # The clock of the tests says 22:13.
    forwarding.start(DestinationOptions={"PACS": {"Windows": [{"From": "23:00", "To": "06:00"}]}})
    forwarding.receive("a1", "i1")
    assert forwarding.sent() == []
    forwarding.turn(3600)
    assert forwarding.sent() == [["i1"]]


def test_a_query_that_orthanc_refuses_leaves_it_idle(forwarding: Forwarding) -> None:
    error = forwarding.rest.error(400, "unknown tag")
    forwarding.rest.answers["POST", "/tools/find"] = lambda _, body: error if "Nonsense" in body["Query"] else []
    forwarding.start(Rules=[{"Name": "mine", "Query": {"Nonsense": "x"}}])
    eventually(lambda: any("Rules[0].Query.Nonsense (rule 'mine')" in text for _, text in forwarding.standin.logs))
    assert forwarding.standin.http("GET", f"{NAME}/status").status == 503


def test_without_the_http_server_it_stays_idle(forwarding: Forwarding) -> None:
    forwarding.start({"HttpServerEnabled": False})
    forwarding.standin.assert_logged("stays idle: it needs Orthanc's HTTP server", "error")


def test_without_a_ledger_it_stays_idle_and_orthanc_runs(forwarding: Forwarding, tmp_path: Path) -> None:
    (tmp_path / "db").write_text("a file where the folder should be")
    forwarding.start()
    assert forwarding.standin.http("GET", f"{NAME}/status").status == 503


def test_a_matcher_that_fails_loses_nothing(forwarding: Forwarding, tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text(
        "from pathlib import Path\ndef f(_):\n    return Path(__file__).with_name('to').read_text()\n"
    )
    forwarding.start(Rules=[{"Name": "mine", "Matcher": "m.py:f"}])
    forwarding.receive("a1", "i1")
    assert forwarding.sent() == []
    assert "the rules can't be applied: FileNotFoundError" in forwarding.deliveries()[0]["Error"]
    for _ in range(3):
        forwarding.turn(40)
    said = [text for level, text in forwarding.standin.logs if level == "warning" and "can't be applied" in text]
    assert len(said) == 1  # more are no news
    assert forwarding.deliveries()[0]["Attempts"] == 4
    (tmp_path / "to").write_text("VNA")
    forwarding.turn(40)
    assert forwarding.sent("VNA") == [["i1"]]


def test_what_was_deleted_before_a_matcher_was_asked_is_forgotten(forwarding: Forwarding, tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text("def f(_):\n    return 'PACS'\n")
    forwarding.start(Rules=[{"Name": "mine", "Matcher": "m.py:f"}])
    forwarding.rest.answers["GET", "/studies/a1"] = forwarding.rest.error(404, "Unknown resource")
    forwarding.receive("a1", "i1")
    assert forwarding.deliveries() == []
    assert forwarding.standin.logs == [] or "can't be applied" not in str(forwarding.standin.logs)


def test_the_log_says_one_line_when_orthanc_stops_answering(forwarding: Forwarding) -> None:
    forwarding.start()
    forwarding.turn()
    forwarding.rest.answers["GET", "/changes"] = forwarding.rest.error(0, "no answer")
    for _ in range(3):
        forwarding.turn(3)
    assert [text for level, text in forwarding.standin.logs if level == "error"] == [
        "auto-forward-modality goes on when this is over: no answer"
    ]
    del forwarding.rest.answers["GET", "/changes"]
    forwarding.receive("a1", "i1")
    assert forwarding.sent() == [["i1"]]
