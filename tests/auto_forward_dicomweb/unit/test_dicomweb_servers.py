# SPDX-License-Identifier: AGPL-3.0-or-later
"""auto_forward_dicomweb without a server: what is sent in one request, what counts as there, and what proves it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from testing.standin import StandIn
from tests.fakes import Clock, FakeOrthanc, Script, eventually

NAME = "/auto-forward-dicomweb"
SERVERS = "/dicom-web/servers"
STUDY = "a1"
SERIES = {"ID": "a1-5e", "ParentStudy": STUDY, "MainDicomTags": {"SeriesInstanceUID": "1.2.3"}}
CONTENT = {"MainDicomTags": {"StudyInstanceUID": "1.2"}, "PatientMainDicomTags": {"PatientID": "P1"}}
FAILED = {"FunctionErrorDescription": "Error in the network protocol", "FunctionErrorDetails": "1 of 3 instances"}


class Cloud:
    """The script, an archive, and the server `cloud` of the plugin, which has what it is said to have."""

    def __init__(self, start: Callable[..., Script], rest: FakeOrthanc, clock: Clock, standin: StandIn) -> None:
        self._start, self.rest, self.clock, self.standin = start, rest, clock, standin
        self.known = {"cloud": {"Url": "https://cloud.example.org/dicom-web/"}}
        self.there: list[str] = []
        self.patient = "P1"
        self.file: str | None = None  # what it answers to our own route
        self.no_file = 404
        self.page = 1000
        self.size = 1000  # bytes of each instance
        self.asked: list[dict[str, Any]] = []
        self.whole = "UncompressedSize"
        rest.answers |= {
            ("GET", SERVERS): lambda *_: self.known,
            ("POST", f"{SERVERS}/cloud/stow"): self._stow,
            ("POST", f"{SERVERS}/cloud/get"): self._get,
            ("GET", f"/studies/{STUDY}"): CONTENT,
            ("GET", f"/studies/{STUDY}/statistics"): lambda *_: {
                self.whole: str(self.size * len(rest.studies.get(STUDY, ())))
            },
            ("POST", "/tools/bulk-content"): self._content,
        }

    def start(self, configuration: dict[str, Any] | None = None, **section: Any) -> None:
        configuration = {"DicomWeb": {"Servers": self.known}, "AutoForwardDicomweb": section, **(configuration or {})}
        self.script = self._start("auto_forward_dicomweb", configuration)

    def receive(self, *instances: str, **metadata: str) -> None:
        self.rest.receive(STUDY, *instances, **metadata)
        self.rest.become_stable(STUDY)
        self.turn()

    def turn(self, seconds: float = 1.0) -> None:
        def polls() -> int:
            return sum(path.startswith("/changes?since") for _, path, _ in self.rest.requests)

        self.clock.advance(seconds)
        for _ in range(3):
            before = polls()
            self.script.change("STABLE_STUDY", "another")
            eventually(lambda: polls() > before)  # noqa: B023 - it is called here

    def sent(self) -> list[list[str]]:
        return [sorted(body["Resources"]) for body in self.rest.asked("POST", f"{SERVERS}/cloud/stow")]

    def end(self, number: int, **content: str) -> None:
        """A job ends: well, or with what the plugin says of it."""
        job = f"job-{number}"
        self.rest.jobs[job] |= {"State": "Failure" if content else "Success", "Content": content}
        self.script.change("JOB_FAILURE" if content else "JOB_SUCCESS", job)

    def rows(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.script.get(f"{NAME}/deliveries")["Items"]
        return found

    def shown(self) -> list[tuple[str, int]]:
        return [(row["State"], row["Instances"]) for row in self.rows()]

    def _stow(self, _path: str, body: Any) -> Any:
        job = f"job-{len(self.rest.jobs) + 1}"
        self.rest.jobs[job] = {"ID": job, "Type": "DicomWebStowClient", "State": "Pending", "Content": {}}
        assert body["Synchronous"] is False
        return {"ID": job}

    def _get(self, _path: str, body: Any) -> Any:
        if "/files/" in body["Uri"]:
            return {"FileUuid": self.file} if self.file else self.rest.error(self.no_file)
        self.asked.append(body)
        if body["Uri"] == "/studies":
            return [{"0020000D": {"Value": ["1.2"]}, "00100020": {"Value": [self.patient]}}]
        start = int(body["Arguments"]["offset"])
        page = self.there[start : start + self.page]
        answers = [{"00080018": {"Value": [f"uid of {one}"]}, "00100020": {"Value": [self.patient]}} for one in page]
        return json.dumps(answers).encode() if answers else b""  # as of a server that answers 204 to nothing found

    def _content(self, _path: str, body: Any) -> list[dict[str, Any]]:
        if body["Resources"] == [SERIES["ID"]]:
            return [SERIES]
        found = self.rest._content(body)
        for one in found:
            uid = {"SOPInstanceUID": f"uid of {one['ID']}"}
            one |= {"FileSize": self.size, "ParentSeries": SERIES["ID"], "MainDicomTags": uid}
        return found


@pytest.fixture
def cloud(start: Callable[..., Script], rest: FakeOrthanc, clock: Clock, orthanc_standin: StandIn) -> Cloud:
    return Cloud(start, rest, clock, orthanc_standin)


# How much is sent at once


def test_what_fits_is_one_request_and_no_instance_is_looked_at(cloud: Cloud) -> None:
    cloud.start()
    cloud.receive("i1", "i2", "i3")
    eventually(cloud.sent)
    assert cloud.sent() == [["i1", "i2", "i3"]]
    asked = cloud.rest.asked("POST", "/tools/bulk-content")
    assert [body for body in asked if body.get("Metadata") is False] == []


def test_what_is_larger_goes_in_several_requests_one_after_the_other(cloud: Cloud) -> None:
    cloud.size = 1 << 20
    cloud.start(MaxRequestMegabytes=2)
    cloud.receive("i1", "i2", "i3", "i4", "i5")
    for number, some in enumerate((["i1", "i2"], ["i3", "i4"], ["i5"]), 1):
        eventually(lambda: len(cloud.sent()) == number)  # noqa: B023 - it is called here
        assert cloud.sent()[-1] == some
        cloud.turn()
        assert len(cloud.sent()) == number
        cloud.end(number)
    eventually(lambda: cloud.shown() == [("done", 2), ("done", 2), ("done", 1)])


def test_an_instance_that_is_larger_alone_goes_alone(cloud: Cloud) -> None:
    cloud.size = 3 << 20
    cloud.start(MaxRequestMegabytes=2)
    cloud.receive("i1", "i2")
    eventually(cloud.sent)
    assert cloud.sent() == [["i1"]]


# What has arrived although a job has failed


def test_what_arrived_of_a_job_that_failed_is_done_and_only_the_rest_is_sent_again(cloud: Cloud) -> None:
    cloud.start()
    cloud.receive("i1", "i2", "i3")
    eventually(cloud.sent)
    cloud.there = ["i1", "i3"]
    cloud.end(1, **FAILED)
    eventually(lambda: cloud.shown()[0] == ("done", 2))
    eventually(lambda: len(cloud.rows()) == 2 and cloud.rows()[1]["Error"])
    assert cloud.rows()[1]["Error"] == "Error in the network protocol: 1 of 3 instances"
    cloud.turn(60)
    eventually(lambda: len(cloud.sent()) > 1)
    assert cloud.sent()[1] == ["i2"]


@pytest.mark.parametrize("overwrites", [True, "Always", "IfChanged"])
def test_where_an_image_may_come_again_with_another_content_that_it_is_there_says_nothing(
    cloud: Cloud, overwrites: Any
) -> None:
    cloud.start({"OverwriteInstances": overwrites})
    cloud.receive("i1", "i2")
    eventually(cloud.sent)
    cloud.there = ["i1", "i2"]
    cloud.end(1, **FAILED)
    eventually(lambda: cloud.rows()[0]["Error"])
    assert "done" not in [state for state, _ in cloud.shown()]


def test_what_arrived_whole_is_done_whatever_the_job_says(cloud: Cloud) -> None:
    cloud.start()
    cloud.receive("i1", "i2")
    eventually(cloud.sent)
    cloud.there = ["i1", "i2"]
    cloud.end(1, **FAILED)
    eventually(lambda: cloud.shown() == [("done", 2)])


def test_what_is_there_of_another_patient_has_not_arrived(cloud: Cloud) -> None:
    cloud.start()
    cloud.receive("i1", "i2")
    eventually(cloud.sent)
    cloud.there, cloud.patient = ["i1", "i2"], "P2"
    cloud.end(1, **FAILED)
    eventually(lambda: cloud.rows()[0]["Error"])
    assert cloud.shown()[0][0] != "done"


def test_a_password_that_is_wrong_says_nothing_against_the_images(source: Any) -> None:
    was_out_of_reach = source("forwarding.failures").was_out_of_reach
    assert was_out_of_reach("Bad credentials were provided to an HTTP request: Plugin error code 29")
    assert not was_out_of_reach("Error in the network protocol: 1 of 3 instances")


# The plugin and its servers


def test_without_the_plugin_what_is_wanted_is_an_error(cloud: Cloud) -> None:
    cloud.rest.answers["GET", SERVERS] = cloud.rest.error(404)
    cloud.start()
    eventually(lambda: any("DICOMweb plugin, which is not loaded" in text for _, text in cloud.standin.logs))
    answer = cloud.standin.http("GET", f"{NAME}/status")
    assert (answer.status, answer.json()["State"]) == (503, "misconfigured")


def test_without_the_plugin_and_without_a_wish_there_is_nobody_to_send_to(cloud: Cloud) -> None:
    cloud.rest.answers["GET", SERVERS] = cloud.rest.error(404)
    cloud.script = cloud._start("auto_forward_dicomweb", {})
    cloud.receive("i1")
    assert cloud.script.get(f"{NAME}/status")["State"] == "running"
    assert (cloud.script.get(f"{NAME}/destinations"), cloud.rows()) == ({}, [])
    assert [text for level, text in cloud.standin.logs if level == "error"] == []


def test_servers_that_are_added_later_are_known_without_an_event_and_unknown_ones_are_named_once(cloud: Cloud) -> None:
    cloud.start(Destinations=["cloud", "later"])
    cloud.turn()
    for _ in range(3):
        cloud.turn(15)
    shown = cloud.script.get(f"{NAME}/destinations")
    assert [(name, each["Away"]) for name, each in shown.items()] == [("cloud", False), ("later", True)]
    assert sum("Destinations names later" in text for _, text in cloud.standin.logs) == 1
    cloud.known = {**cloud.known, "later": {"Url": "http://later/"}}
    cloud.turn(15)
    shown = cloud.script.get(f"{NAME}/destinations")
    assert [(name, each["Away"]) for name, each in shown.items()] == [("cloud", False), ("later", False)]


def test_the_servers_are_waited_for_that_the_plugin_reads_at_its_start(cloud: Cloud) -> None:
    looks = iter([[], [], ["cloud"]])
    real = cloud.rest.answers["GET", SERVERS]
    cloud.rest.answers["GET", SERVERS] = lambda path, body: real(path, body) if "expand" in path else next(looks)
    cloud.start(Destinations=["cloud"])
    cloud.turn()
    assert next(looks, None) is None
    assert [text for level, text in cloud.standin.logs if level == "error"] == []


# Proofs


class Proving:
    """`prove` of the script, for two instances."""

    def __init__(self, cloud: Cloud, source: Any) -> None:
        cloud.start()
        cloud.rest.receive(STUDY, "i1", "i2")
        self.cloud = cloud
        self.loopback = source("common.loopback").Loopback({})
        configuration = {"HttpPort": 8042}
        self.servers = source("forwarding.dicomweb").DicomWebServers(configuration, self.loopback, is_wanted=True)
        found = cloud.rest.answers["POST", "/tools/bulk-content"]("", {"Resources": ["i1", "i2"]})
        self.instances: dict[str, Any] = {one["ID"]: one for one in found}
        cloud.known = {"cloud": {"Url": "http://192.0.2.1/dicom-web/"}}

    def prove(self) -> Any:
        return self.servers.prove(self.loopback, "cloud", self.instances, {})


@pytest.fixture
def proving(cloud: Cloud, source: Any) -> Proving:
    return Proving(cloud, source)


def test_only_what_the_server_finds_is_proved_page_by_page(proving: Proving) -> None:
    proving.cloud.there, proving.cloud.page = ["i9", "i8", "i2"], 1
    assert proving.prove() == {"i2"}
    assert [body["Arguments"]["offset"] for body in proving.cloud.asked] == ["0", "1", "2", "3"]
    place = "/studies/1.2/series/1.2.3/instances"
    assert {(body["Uri"], body["Arguments"]["includefield"]) for body in proving.cloud.asked} == {(place, "00100020")}


def test_what_the_server_has_of_another_patient_is_not_proved(proving: Proving) -> None:
    proving.cloud.there, proving.cloud.patient = ["i1", "i2"], "P2"
    with pytest.raises(ValueError, match="it has their UIDs, but of another patient"):
        proving.prove()


@pytest.mark.parametrize("url", ["http://127.0.0.1:8042/dicom-web/", "http://localhost:8042/"])
def test_a_server_that_leads_back_here_proves_nothing(proving: Proving, url: str) -> None:
    proving.cloud.there, proving.cloud.known = ["i1", "i2"], {"cloud": {"Url": url}}
    with pytest.raises(ValueError, match="cloud leads back to this server"):
        proving.prove()


@pytest.mark.parametrize(("file", "is_ours"), [("file of i1", True), ("another", False), (None, False)])
def test_a_server_that_names_the_very_file_that_is_here_proves_nothing(
    proving: Proving, file: str | None, is_ours: bool
) -> None:
    """It is this server behind a proxy, or shares its database."""
    proving.cloud.there, proving.cloud.file = ["i1", "i2"], file
    proving.instances["i1"]["FileUuid"] = "file of i1"
    if not is_ours:
        assert proving.prove() == {"i1", "i2"}
        return
    with pytest.raises(ValueError, match="cloud leads back to this server, or shares its database"):
        proving.prove()


def test_a_server_that_cant_be_asked_whether_it_leads_back_here_proves_nothing(proving: Proving) -> None:
    """A proxy in between times out, or this script has too many requests at a time."""
    proving.cloud.there, proving.cloud.no_file = ["i1", "i2"], 500
    with pytest.raises(ValueError, match="cloud can't be asked whether it leads back to this server"):
        proving.prove()


def test_the_route_that_another_orthanc_asks_names_the_file(cloud: Cloud) -> None:
    cloud.start()
    cloud.rest.answers["GET", "/instances/0a"] = {"FileUuid": "file of 0a"}
    route = "/dicom-web/auto-forward-dicomweb/files"
    assert cloud.script.get(f"{route}/0a") == {"FileUuid": "file of 0a"}
    assert cloud.standin.http("GET", f"{route}/0b").status == 404


@pytest.mark.parametrize("came", [{"Origin": "Plugins"}, {"Origin": "RestApi", "RemoteIP": "192.0.2.1"}])
def test_what_its_sender_may_count_on_is_not_proved(proving: Proving, came: dict[str, str]) -> None:
    proving.cloud.there = ["i1", "i2"]
    assert proving.prove() == {"i1", "i2"}
    proving.instances["i2"]["Metadata"] = came
    with pytest.raises(ValueError, match="who sent it may count on it being here"):
        proving.prove()


@pytest.mark.parametrize("answer", [b"<html>", {"no": "list"}, [1]])
def test_a_server_that_answers_anything_else_proves_nothing(proving: Proving, answer: Any) -> None:
    proving.cloud.rest.answers["POST", f"{SERVERS}/cloud/get"] = answer
    with pytest.raises(ValueError, match="does not answer as a DICOMweb server"):
        proving.prove()


@pytest.mark.parametrize("element", ["1.2", ["1.2"], {"Value": "1.2"}, {"Value": {"0": "1.2"}}, {"Value": [None]}])
def test_a_server_whose_answers_are_of_another_form_proves_nothing(proving: Proving, element: Any) -> None:
    proving.cloud.rest.answers["POST", f"{SERVERS}/cloud/get"] = [{"00080018": element, "00100020": element}]
    assert proving.prove() == set()


def test_a_server_whose_answers_never_end_proves_nothing(
    proving: Proving, source: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source("forwarding.dicomweb"), "MOST_ANSWERS", 5)
    proving.cloud.rest.answers["POST", f"{SERVERS}/cloud/get"] = lambda _, body: [
        {"00080018": {"Value": [f"1.{body['Arguments']['offset']}.{number}"]}}
        for number in range(2 if int(body["Arguments"]["offset"]) < 40 else 0)
    ]
    with pytest.raises(ValueError, match="has more than 5 answers"):
        proving.prove()


def test_a_server_that_does_not_know_the_study_proves_nothing(proving: Proving) -> None:
    proving.cloud.rest.answers["POST", f"{SERVERS}/cloud/get"] = proving.cloud.rest.error(404)
    assert proving.prove() == set()


def test_a_server_that_orthanc_does_not_know_any_more_proves_nothing(proving: Proving) -> None:
    proving.cloud.known = {}
    with pytest.raises(ValueError, match="Orthanc does not know cloud"):
        proving.prove()


@pytest.mark.parametrize(("status", "answers"), [(404, True), (400, True), (401, False), (500, False)])
def test_a_server_that_can_not_be_searched_is_there_and_one_that_refuses_us_is_not(
    proving: Proving, source: Any, status: int, answers: bool
) -> None:
    proving.cloud.rest.answers["POST", f"{SERVERS}/cloud/get"] = proving.cloud.rest.error(status)
    if answers:
        proving.servers.probe(proving.loopback, "cloud")
    else:
        with pytest.raises(source("common.loopback").LoopbackError):
            proving.servers.probe(proving.loopback, "cloud")


def test_jobs_and_origins_of_dicomweb_name_nobody(cloud: Cloud) -> None:
    cloud.start()
    assert not cloud.script.module.is_for({"Server": "cloud"}, {"Url": "http://cloud/"})
    assert not cloud.script.module.came_from({"Origin": "Plugins", "RemoteIP": ""}, {"Url": "http://cloud/"})
