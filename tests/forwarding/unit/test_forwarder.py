# SPDX-License-Identifier: AGPL-3.0-or-later
"""forwarding/forwarder.py, in the script for DICOM nodes: what arrives is sent, once, whatever happens to jobs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from testing.dicom import orthanc_identifier
from testing.standin import StandIn
from tests.fakes import Clock, FakeOrthanc, Script, eventually

NAME = "/auto-forward-modality"
STUDY = orthanc_identifier("P", "1.2")  # of what OnStoredInstance hands over
OTHER_STUDY = orthanc_identifier("Q", "1.3")
NODES = {name: {"AET": name, "Host": name.lower(), "Port": 104} for name in ("PACS", "VNA")}


class Forwarding:
    """The script, and an archive with the nodes PACS and VNA; only PACS is a destination unless said otherwise."""

    def __init__(self, start: Callable[..., Script], rest: FakeOrthanc, clock: Clock, standin: StandIn) -> None:
        self._start, self.rest, self.clock, self.standin = start, rest, clock, standin
        rest.known = dict(NODES)

    def start(self, configuration: dict[str, Any] | None = None, **section: Any) -> None:
        section = {"Destinations": ["PACS"], **section}
        self.script = self._start("auto_forward_modality", {"AutoForwardModality": section, **(configuration or {})})

    def turn(self, seconds: float = 1.0) -> None:
        """Let time pass until the script has looked at all and done what was due."""

        def polls() -> int:
            return sum(path.startswith("/changes?since") for _, path, _ in self.rest.requests)

        self.clock.advance(seconds)
        for _ in range(3):  # the first may be under way already; when the third begins, the second has ended
            before = polls()
            self.script.change("STABLE_STUDY", "another")  # wakes it
            eventually(lambda: polls() > before)  # noqa: B023 - it is called here

    def receive(self, study: str, *instances: str, **metadata: str) -> None:
        """A study arrives and becomes stable."""
        self.rest.receive(study, *instances, **metadata)
        self.rest.become_stable(study)
        self.turn()

    def sent(self, name: str = "PACS") -> list[list[str]]:
        """What each job was to send."""
        return [sorted(body["Resources"]) for body in self.rest.asked("POST", f"/modalities/{name}/store")]

    def end(self, job: str, *, why: str = "") -> None:
        """A job ends: well, or because of something."""
        self.rest.jobs[job] |= {"State": "Failure" if why else "Success", "ErrorDescription": why}
        self.script.change("JOB_FAILURE" if why else "JOB_SUCCESS", job)

    def deliveries(self, query: str = "") -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.script.get(f"{NAME}/deliveries{query}")["Items"]
        return found

    def states(self) -> list[str]:
        return [row["State"] for row in self.deliveries()]


@pytest.fixture
def forwarding(start: Callable[..., Script], rest: FakeOrthanc, clock: Clock, orthanc_standin: StandIn) -> Forwarding:
    return Forwarding(start, rest, clock, orthanc_standin)


# What is sent


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
        "Destinations names PASC, which Orthanc does not know; known are: PACS, VNA. The others are served.",
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


def test_a_failed_job_goes_again_later_and_then_it_has_arrived(forwarding: Forwarding) -> None:
    forwarding.start()
    forwarding.receive("a1", "i1")
    forwarding.end("PACS-1", why="Cannot connect")
    eventually(lambda: forwarding.states() == ["waiting"])
    [row] = forwarding.deliveries()
    assert (row["Attempts"], row["Error"]) == (1, "Cannot connect")
    assert row["NextAttempt"] > row["Updated"]
    forwarding.turn(10)
    assert forwarding.sent() == [["i1"]]
    forwarding.turn(60)
    assert forwarding.sent() == [["i1"]] * 2
    forwarding.end("PACS-2")
    eventually(lambda: forwarding.states() == ["done"])
    forwarding.standin.assert_logged(
        "did not reach PACS (attempt 1): Cannot connect. It will be tried again", "warning"
    )


def test_jobs_that_wait_for_a_node_that_failed_are_called_back_and_that_is_no_attempt(forwarding: Forwarding) -> None:
    forwarding.start()
    forwarding.receive("a1", "i1")
    forwarding.receive("b2", "i2")
    forwarding.receive("c3", "i3")
    forwarding.rest.jobs["PACS-3"]["State"] = "Running"  # too late for that one
    forwarding.end("PACS-1", why="Cannot connect")
    eventually(lambda: forwarding.states() == ["waiting", "waiting", "sending"])
    assert [row["Attempts"] for row in forwarding.deliveries()] == [1, 0, 1]
    assert forwarding.rest.asked("POST", "/jobs/PACS-2/cancel") == [b""]
    assert forwarding.rest.asked("POST", "/jobs/PACS-3/cancel") == []
    assert (forwarding.deliveries()[1]["Job"], forwarding.deliveries()[1]["NextAttempt"]) == (None, None)
    forwarding.script.change("JOB_FAILURE", "PACS-2")  # the end of what was canceled
    forwarding.turn()
    assert [row["Attempts"] for row in forwarding.deliveries()] == [1, 0, 1]


def test_a_node_that_answers_again_gets_at_once_what_waits_for_it(forwarding: Forwarding) -> None:
    forwarding.start()
    forwarding.receive("a1", "i1")
    forwarding.end("PACS-1", why="Cannot connect")
    forwarding.turn()
    assert forwarding.rest.asked("POST", "/modalities/PACS/echo")
    assert forwarding.sent() == [["i1"]]
    forwarding.rest.answers["POST", "/modalities/PACS/echo"] = {}
    forwarding.turn(2)
    forwarding.turn(2)
    assert forwarding.sent() == [["i1"]] * 2


def test_after_its_hours_it_is_dead_until_a_person_retries(forwarding: Forwarding) -> None:
    forwarding.start(Retry={"GiveUpHours": 1})
    forwarding.receive("a1", "i1")
    forwarding.clock.advance(3700)
    forwarding.end("PACS-1", why="refused")
    eventually(lambda: forwarding.states() == ["dead"])
    [row] = forwarding.deliveries()
    forwarding.standin.assert_logged(f"Given up after 1 hours; POST {NAME}/deliveries/{row['ID']}/retry", "error")
    forwarding.turn(9000)
    assert forwarding.sent() == [["i1"]]
    assert forwarding.script.post(f"{NAME}/deliveries/{row['ID']}/retry").status == 200
    forwarding.turn()
    assert forwarding.sent() == [["i1"]] * 2


def test_an_instance_that_a_node_refuses_stands_alone_and_the_rest_arrives(forwarding: Forwarding) -> None:
    forwarding.rest.answers["POST", "/modalities/PACS/echo"] = {}  # it is there: it minds the content
    forwarding.start()
    forwarding.receive("a1", "i1", "i2", "i3", "bad")
    ended: set[str] = set()
    for _ in range(20):
        for job in forwarding.rest.jobs.keys() - ended:
            ended.add(job)
            bad = "bad" in forwarding.rest.jobs[job]["Content"]["ParentResources"]
            forwarding.end(job, why="DIMSE status 0xA700" if bad else "")
        forwarding.turn()
    rows = forwarding.deliveries()
    assert [(row["Level"], row["Resource"]) for row in rows if row["State"] == "waiting"] == [("Instance", "bad")]
    assert {row["Study"] for row in rows} == {"a1"}
    arrived = {each for body in forwarding.rest.jobs.values() if body["State"] == "Success"
               for each in body["Content"]["ParentResources"]}  # fmt: skip
    assert arrived == {"i1", "i2", "i3"}


def refuse_all(forwarding: Forwarding, why: Callable[[list[str]], str]) -> list[str]:
    """Let each job to a node that is there fail; give the warnings about it."""
    forwarding.rest.answers["POST", "/modalities/PACS/echo"] = {}
    forwarding.start()
    forwarding.receive("a1", "i1", "i2", "i3")
    ended: set[str] = set()
    for _ in range(20):
        for job in forwarding.rest.jobs.keys() - ended:
            ended.add(job)
            forwarding.end(job, why=why(forwarding.rest.jobs[job]["Content"]["ParentResources"]))
        forwarding.turn()
    assert sorted(row["Resource"] for row in forwarding.deliveries()) == ["i1", "i2", "i3"]  # each alone
    return [text for level, text in forwarding.standin.logs if level == "warning" and "did not reach" in text]


def test_images_of_one_study_that_are_refused_for_one_reason_are_one_line(forwarding: Forwarding) -> None:
    assert refuse_all(forwarding, lambda _: "DIMSE status 0xA700") == [
        "auto-forward-modality: study a1 did not reach PACS (attempt 1): DIMSE status 0xA700. It will be tried again"
    ]


def test_what_is_refused_for_another_reason_than_the_whole_is_a_line_of_its_own(forwarding: Forwarding) -> None:
    reasons = refuse_all(forwarding, lambda images: f"DIMSE status {'0xC000' if images == ['i3'] else '0xA700'}")
    assert [line.partition("DIMSE status ")[2][:6] for line in reasons] == ["0xA700", "0xC000"]


def test_the_status_has_the_newest_failure_also_when_it_is_over(forwarding: Forwarding) -> None:
    def last() -> Any:
        return forwarding.script.get(f"{NAME}/status")["LastError"]

    forwarding.start(Destinations=["PACS", "VNA"])
    assert last() is None
    forwarding.receive("a1", "i1")
    forwarding.end("PACS-1", why="DIMSE status 0xA700")
    eventually(lambda: forwarding.states() == ["waiting", "sending"])
    first = eventually(last)
    assert first["Text"] == "auto-forward-modality: study a1 did not reach PACS (attempt 1): DIMSE status 0xA700"
    forwarding.clock.advance(30)
    forwarding.end("VNA-2", why="Association rejected")
    eventually(lambda: last() != first)
    assert last()["Text"] == "auto-forward-modality: study a1 did not reach VNA (attempt 1): Association rejected"
    assert last()["Time"] > first["Time"]
    status = forwarding.script.get(f"{NAME}/status")
    assert (status["State"], status["Reason"]) == ("running", None)
    assert forwarding.script.get("/scripts/health")["Healthy"]  # what is away makes no script unhealthy


def test_a_node_that_answers_and_breaks_off_each_association_is_not_tried_again_and_again(
    forwarding: Forwarding,
) -> None:
    forwarding.rest.answers["POST", "/modalities/PACS/echo"] = {}
    forwarding.start()
    forwarding.receive("a1", "i1", "i2")
    ended: set[str] = set()
    for _ in range(100):
        for job in forwarding.rest.jobs.keys() - ended:
            ended.add(job)
            forwarding.end(job, why='connecting to AET "PACS": Peer aborted Association (or never connected)')
        forwarding.turn()
    assert forwarding.sent()[:2] == [["i1", "i2"]] * 2  # the second time at once: it answers
    assert 3 <= len(ended) <= 5  # after some 30 and 60 s
    assert forwarding.states() == ["waiting"]


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


def test_no_more_than_so_many_jobs_wait_in_orthanc_for_a_destination(forwarding: Forwarding) -> None:
    forwarding.start(MaxPerDestination=1)
    for number in range(8):
        forwarding.rest.receive(f"a{number}", f"i{number}")
        forwarding.rest.become_stable(f"a{number}")
    forwarding.turn()
    assert len(forwarding.sent()) == 4  # one that runs, and those that follow it at once
    forwarding.end("PACS-1")
    forwarding.turn()
    assert len(forwarding.sent()) == 5


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
