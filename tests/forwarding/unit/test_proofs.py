# SPDX-License-Identifier: AGPL-3.0-or-later
"""auto_forward_modality and auto_forward_peer without a server: when a destination has proved to have an instance."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.fakes import Clock, FakeOrthanc, Script

INSTANCES = {
    f"i{number}": {"ID": f"i{number}", "ParentSeries": "se", "MainDicomTags": {"SOPInstanceUID": f"1.{number}"}}
    for number in (1, 2)
}


class Proving:
    """`prove` of the script for DICOM nodes, by `StorageCommitment` or `C-FIND`."""

    def __init__(self, start: Callable[..., Script], rest: FakeOrthanc, source: Any) -> None:
        self.rest = rest
        self.module = start("auto_forward_modality").module
        self.node_proof = source("forwarding.node_proof")
        self.loopback = source("common.loopback").Loopback({})
        self.asked: dict[str, Any] = {}

    def prove(self, **options: Any) -> Any:
        settings = self.module.Settings(destination_options={"PACS": self.module.DestinationOptions(**options)})
        return self.module.prove(settings, self.loopback, "PACS", INSTANCES, self.asked)

    def hold(self, *uids: str, patient: str = "P1", at_study: str | None = None, **more: str) -> None:
        """PACS answers C-FIND with these instances, and with the patient of the instance or of its study alone."""
        at_instance = {"PatientID": patient} if at_study is None else {}
        answers: dict[str, list[dict[str, str]]] = {
            "Instance": [{"SOPInstanceUID": uid, **at_instance, **more} for uid in uids],
            "Study": [{"StudyInstanceUID": "1.2", "PatientID": at_study or patient}],
        }
        series = {"ID": "se", "ParentStudy": "a1", "MainDicomTags": {"SeriesInstanceUID": "1.2.3"}}
        study = {"MainDicomTags": {"StudyInstanceUID": "1.2"}, "PatientMainDicomTags": {"PatientID": "P1"}}
        self.rest.answers |= {
            ("POST", "/tools/bulk-content"): [series],
            ("GET", "/studies/a1"): study,
            ("POST", "/modalities/PACS/query"): lambda _, body: {"ID": body["Level"]},
            **{("GET", f"/queries/{level}/answers"): found for level, found in answers.items()},
            **{("DELETE", f"/queries/{level}"): {} for level in answers},
        }

    def report(self, status: str, *uids: str) -> None:
        success = [{"SOPClassUID": "1", "SOPInstanceUID": uid} for uid in uids]
        self.rest.answers["GET", "/storage-commitment/t1"] = {"Status": status, "Success": success, "Failures": []}


@pytest.fixture
def proving(start: Callable[..., Script], rest: FakeOrthanc, clock: Clock, source: Any) -> Proving:
    rest.answers["POST", "/modalities/PACS/storage-commitment"] = {"ID": "t1"}
    rest.answers["GET", "/system"] = {"DicomAet": "HERE", "DicomPort": 4242}
    rest.answers["GET", "/modalities?expand"] = {"PACS": {"AET": "PACS", "Host": "192.0.2.1", "Port": 104}}
    return Proving(start, rest, source)


@pytest.mark.parametrize(
    ("node", "why"),
    [
        ({"AET": "HERE", "Host": "192.0.2.1", "Port": 104}, "PACS has the AE title of this server"),
        ({"AET": "PACS", "Host": "127.0.0.1", "Port": 4242}, "PACS leads back to this server"),
    ],
)
@pytest.mark.parametrize("proof", ["StorageCommitment", "StorageCommitmentOnly", "C-FIND"])
def test_a_node_that_leads_back_to_this_server_proves_nothing(
    proving: Proving, node: dict[str, Any], why: str, proof: str
) -> None:
    proving.rest.answers["GET", "/modalities?expand"] = {"PACS": node}
    proving.hold("1.1", "1.2")
    proving.report("Success", "1.1", "1.2")
    with pytest.raises(ValueError, match=why):
        proving.prove(proof=proof)


def test_what_is_to_be_retrieved_from_this_server_is_not_proved(proving: Proving) -> None:
    proving.hold("1.1", "1.2", RetrieveAETitle="HERE\\OTHER")
    with pytest.raises(ValueError, match="is to be retrieved from HERE"):
        proving.prove(proof="C-FIND")


def test_what_is_to_be_retrieved_from_this_server_is_not_proved_in_a_later_series_either(proving: Proving) -> None:
    proving.hold("1.1")
    second = {"ID": "se2", "ParentStudy": "a1", "MainDicomTags": {"SeriesInstanceUID": "1.2.4"}}
    first = proving.rest.answers["POST", "/tools/bulk-content"][0]
    proving.rest.answers["POST", "/tools/bulk-content"] = [first, second]
    asked: list[str] = []

    def query(_path: str, body: Any) -> dict[str, str]:
        asked.append(body["Query"]["SeriesInstanceUID"])
        return {"ID": "Instance"}

    def answers(_path: str, _body: Any) -> list[dict[str, str]]:
        number, at = ("1", "OTHER") if asked[-1] == "1.2.3" else ("2", "HERE")
        return [{"SOPInstanceUID": f"1.{number}", "PatientID": "P1", "RetrieveAETitle": at}]

    proving.rest.answers |= {
        ("POST", "/modalities/PACS/query"): query,
        ("GET", "/queries/Instance/answers"): answers,
    }
    instances = {"i1": INSTANCES["i1"], "i2": {**INSTANCES["i2"], "ParentSeries": "se2"}}
    with pytest.raises(ValueError, match="is to be retrieved from HERE"):
        proving.node_proof.found_by_patient(proving.loopback, "PACS", instances, "HERE")
    assert asked == ["1.2.3", "1.2.4"]


def test_a_node_is_asked_once_to_commit_and_its_report_counts(proving: Proving) -> None:
    proving.hold("1.1", "1.2")
    assert proving.prove() is None
    proving.report("Pending")
    assert proving.prove() is None
    proving.report("Success", "1.1", "1.2", "9.9")
    assert proving.prove() == {"i1", "i2"}
    assert proving.rest.asked("POST", "/modalities/PACS/storage-commitment") == [{"Resources": ["i1", "i2"]}]


def test_what_a_report_does_not_name_as_committed_is_not_proved(proving: Proving) -> None:
    proving.hold("1.1", "1.2")
    proving.prove()
    proving.report("Failure", "1.1")
    assert proving.prove() == {"i1"}


def test_what_is_committed_but_not_found_is_not_proved(proving: Proving) -> None:
    """A commitment names no patient: the same UIDs may be those of another."""
    proving.prove()
    proving.report("Success", "1.1", "1.2")
    proving.hold("1.1")
    assert proving.prove() == {"i1"}
    proving.hold("1.1", "1.2", patient="P2")
    with pytest.raises(
        ValueError, match="has not proved to have 2 of 2 instances: it has their UIDs, but of another patient"
    ):
        proving.prove()


def test_a_node_that_has_committed_but_can_not_be_asked_for_the_patient_proves_nothing(proving: Proving) -> None:
    proving.prove()
    proving.report("Success", "1.1", "1.2")
    proving.hold("1.1", "1.2")
    proving.rest.answers["POST", "/modalities/PACS/query"] = proving.rest.error(500)
    with pytest.raises(ValueError, match="PACS can't be asked by C-FIND of which patient"):
        proving.prove()


def test_a_commitment_alone_counts_where_it_was_chosen(proving: Proving) -> None:
    proving.prove(proof="StorageCommitmentOnly")
    proving.report("Success", "1.2")
    assert proving.prove(proof="StorageCommitmentOnly") == {"i2"}
    assert proving.rest.asked("POST", "/modalities/PACS/query") == []


def test_without_a_report_in_time_nothing_is_proved(proving: Proving, clock: Clock) -> None:
    proving.prove()
    proving.report("Pending")
    clock.advance(proving.node_proof.COMMITTED_WITHIN + 1)
    with pytest.raises(ValueError, match="PACS has sent no report of storage commitment"):
        proving.prove()


def test_a_report_that_orthanc_has_forgotten_is_asked_for_again(proving: Proving) -> None:
    proving.prove()
    assert proving.prove() is None
    assert proving.asked == {}
    proving.prove()
    assert len(proving.rest.asked("POST", "/modalities/PACS/storage-commitment")) == 2


def test_by_c_find_only_what_the_node_lists_is_proved_and_the_query_is_removed(proving: Proving) -> None:
    proving.hold("1.2", "7.7")
    assert proving.prove(proof="C-FIND") == {"i2"}
    [asked] = proving.rest.asked("POST", "/modalities/PACS/query")
    place = {"StudyInstanceUID": "1.2", "SeriesInstanceUID": "1.2.3"}
    assert asked["Query"] == {"PatientID": "", **place, "SOPInstanceUID": ""}
    assert proving.rest.asked("DELETE", "/queries/Instance") == [None]


def test_by_c_find_a_node_that_names_the_patient_at_the_study_alone_is_asked_there(proving: Proving) -> None:
    proving.hold("1.1", "1.2", at_study="P1 ")
    assert proving.prove(proof="C-FIND") == {"i1", "i2"}
    proving.hold("1.1", "1.2", at_study="P2")
    with pytest.raises(ValueError, match="of another patient"):
        proving.prove(proof="C-FIND")


def test_by_c_find_what_lies_elsewhere_is_not_proved(proving: Proving) -> None:
    """Some nodes answer with more than they were asked for."""
    proving.hold("1.1", "1.2", SeriesInstanceUID="1.2.4")
    assert proving.prove(proof="C-FIND") == set()


def test_a_node_is_known_by_its_aet(proving: Proving) -> None:
    node = {"AET": "PACS", "Host": "h", "Port": 104}
    assert proving.module.is_for({"RemoteAet": "PACS"}, node)
    assert not proving.module.is_for({"RemoteAet": "VNA"}, node)
    assert proving.module.came_from({"RemoteAET": "PACS"}, node)
    assert not proving.module.came_from({"CalledAET": "PACS"}, node)


# Peers


class Peer(http.server.BaseHTTPRequestHandler):
    has: list[str] = []
    files = "there"
    status = 200
    seen: list[tuple[str, str, Any]] = []

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        Peer.seen.append((self.path, self.headers.get("Authorization", ""), body))
        content = json.dumps([{"ID": each, "FileUuid": f"{Peer.files} {each}"} for each in Peer.has]).encode()
        self.send_response(Peer.status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def peer() -> Iterator[str]:
    """The URL of a peer that has `Peer.has`."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Peer)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    Peer.has, Peer.status, Peer.seen, Peer.files = [], 200, [], "there"
    yield f"http://127.0.0.1:{server.server_port}/base/"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def prove(start: Callable[..., Script], rest: FakeOrthanc, source: Any, peer: str) -> Callable[..., Any]:
    module, loopback = start("auto_forward_peer").module, source("common.loopback").Loopback({})
    peers_of = source("forwarding.peers").Peers
    rest.known = {"research": {"Url": peer, "Username": "alice"}}

    def ask(instances: Any = INSTANCES, peers: Any = None) -> Any:
        configuration = {"OrthancPeers": {"research": [peer, "alice", "hidden"]} if peers is None else peers}
        return module.prove(peers_of(configuration, loopback), loopback, "research", instances, {})

    return ask


def test_a_peer_proves_what_it_lists(prove: Callable[..., Any]) -> None:
    Peer.has = ["i2", "i9"]
    assert prove() == {"i2"}
    [(path, credentials, body)] = Peer.seen
    assert path == "/base/tools/bulk-content"
    assert credentials == "Basic YWxpY2U6aGlkZGVu"
    assert body == {"Resources": ["i1", "i2"], "Short": False, "Metadata": False}


def test_a_peer_that_names_the_very_files_that_are_here_proves_nothing(prove: Callable[..., Any]) -> None:
    Peer.has, Peer.files = ["i1", "i2"], "here"
    here = {key: {**one, "FileUuid": f"here {key}"} for key, one in INSTANCES.items()}
    with pytest.raises(ValueError, match="research leads back to this server, or shares its database"):
        prove(here)


@pytest.mark.parametrize("status", [401, 404, 500, 204, 301])
def test_a_peer_that_answers_anything_else_proves_nothing(prove: Callable[..., Any], status: int) -> None:
    Peer.status, Peer.has = status, ["i1", "i2"]
    with pytest.raises(ValueError, match=f"research answers {status} when asked"):
        prove()


def test_what_came_from_the_peers_own_address_is_never_proved(prove: Callable[..., Any]) -> None:
    """Two that forward to each other and both delete would be left with nothing."""
    Peer.has = ["i1", "i2"]
    came = {
        "i1": INSTANCES["i1"],
        "i2": {**INSTANCES["i2"], "Metadata": {"Origin": "RestApi", "RemoteIP": "127.0.0.1"}},
    }
    with pytest.raises(ValueError, match="it came in over HTTP from the address of research"):
        prove(came)
    came["i2"] = {**INSTANCES["i2"], "Metadata": {"Origin": "DicomProtocol", "RemoteIP": "127.0.0.1"}}
    assert prove(came) == {"i1", "i2"}


def test_a_peer_whose_password_is_not_known_is_not_asked(prove: Callable[..., Any], rest: FakeOrthanc) -> None:
    with pytest.raises(ValueError, match="does not tell the password of research"):
        prove(peers={})
    rest.known = {}
    with pytest.raises(ValueError, match="Orthanc does not know research"):
        prove(peers={})
    assert Peer.seen == []


def test_a_peer_is_known_by_its_url(start: Callable[..., Script], rest: FakeOrthanc) -> None:
    module = start("auto_forward_peer").module
    assert module.is_for({"Peer": ["http://x:8042"]}, {"Url": "http://x:8042/"})
    assert not module.is_for({"Peer": ["http://x:8043"]}, {"Url": "http://x:8042/"})
    assert not module.is_for({}, {"Url": "http://x:8042/"})
    # So Orthanc gives one with a timeout, headers or a certificate.
    with_headers = {"Url": "http://x:8042", "HttpHeaders": {"X-Token": "t"}, "Timeout": 5}
    assert module.is_for({"Peer": with_headers}, {"Url": "http://x:8042/"})
    assert not module.is_for({"Peer": with_headers}, {"Url": "http://x:8043/"})


# What is near a proof and none


def test_while_this_orthanc_does_not_answer_a_commitment_proves_nothing_yet(proving: Proving) -> None:
    proving.prove()
    proving.report("Success", "1.1", "1.2")
    proving.hold("1.1", "1.2")
    proving.rest.answers["POST", "/modalities/PACS/query"] = proving.rest.error(0)
    with pytest.raises(type(proving.rest.error(0))):
        proving.prove()
    proving.rest.answers["GET", "/storage-commitment/t1"] = proving.rest.error(500)
    with pytest.raises(type(proving.rest.error(0))):
        proving.prove()
    assert proving.asked


def test_a_report_is_waited_for_until_its_time_is_over_also_by_a_clock_that_went_back(
    proving: Proving, clock: Clock
) -> None:
    within = proving.node_proof.COMMITTED_WITHIN
    assert within == 3600
    for jump in (within - 1, -(within - 1)):
        proving.asked.clear()
        proving.prove()
        proving.report("Pending")
        clock.jump(jump)
        assert proving.prove() is None
        clock.jump(1 if jump > 0 else -1)
        with pytest.raises(ValueError, match="PACS has sent no report of storage commitment within 3600 s"):
            proving.prove()


def test_a_node_that_orthanc_does_not_know_proves_nothing(proving: Proving) -> None:
    proving.rest.answers["GET", "/modalities?expand"] = {}
    with pytest.raises(ValueError, match="Orthanc does not know PACS"):
        proving.prove(proof="C-FIND")


@pytest.mark.parametrize("node", [{"Host": "127.0.0.1", "Port": 11112}, {"Host": "192.0.2.1", "Port": 4242}])
def test_another_program_on_this_machine_and_the_same_port_of_another_machine_are_not_this_server(
    proving: Proving, node: dict[str, Any]
) -> None:
    proving.rest.answers["GET", "/modalities?expand"] = {"PACS": {"AET": "PACS", **node}}
    proving.hold("1.1")
    assert proving.prove(proof="C-FIND") == {"i1"}


@pytest.mark.parametrize("ours", ["", "P1"])
def test_an_image_without_a_patient_is_never_proved(proving: Proving, ours: str) -> None:
    """Two that are both without one may be of two patients."""
    proving.hold("1.1", patient="")
    study = {"MainDicomTags": {"StudyInstanceUID": "1.2"}, "PatientMainDicomTags": {"PatientID": ours} if ours else {}}
    proving.rest.answers["GET", "/studies/a1"] = study
    with pytest.raises(ValueError, match="has not proved to have 1 of 2 instances"):
        proving.prove(proof="C-FIND")


def test_a_study_of_two_patients_proves_nothing_of_either(proving: Proving) -> None:
    proving.hold("1.1", at_study="P1")
    answers = [{"StudyInstanceUID": "1.2", "PatientID": each} for each in ("P1", "P2")]
    proving.rest.answers["GET", "/queries/Study/answers"] = answers
    with pytest.raises(ValueError, match="of another patient"):
        proving.prove(proof="C-FIND")
    answers[1]["StudyInstanceUID"] = "9.9"  # another study, which was not asked for
    assert proving.prove(proof="C-FIND") == {"i1"}


def test_a_node_that_has_it_of_the_right_patient_too_has_proved_it(proving: Proving) -> None:
    proving.hold("1.1", patient="P2")
    proving.rest.answers["GET", "/queries/Instance/answers"] += [{"SOPInstanceUID": "1.1 ", "PatientID": "P1\0"}]
    assert proving.prove(proof="C-FIND") == {"i1"}


def test_its_study_is_asked_for_once_and_only_where_the_instance_names_no_patient(proving: Proving) -> None:
    proving.hold("1.1", "1.2", at_study="P1")
    proving.prove(proof="C-FIND")
    assert [each["Level"] for each in proving.rest.asked("POST", "/modalities/PACS/query")] == ["Instance", "Study"]
    proving.rest.requests.clear()
    proving.hold("1.1", "1.2")
    proving.prove(proof="C-FIND")
    assert [each["Level"] for each in proving.rest.asked("POST", "/modalities/PACS/query")] == ["Instance"]


def test_without_an_ae_title_of_ours_it_does_not_matter_where_it_is_retrieved_from(proving: Proving) -> None:
    for retrieved in ({}, {"RetrieveAETitle": ""}, {"RetrieveAETitle": "HERE"}):
        proving.hold("1.1", **retrieved)
        assert proving.node_proof.found_by_patient(proving.loopback, "PACS", INSTANCES) == {"i1"}
    proving.hold("1.1", RetrieveAETitle="OTHER\\ here ")
    with pytest.raises(ValueError, match="is to be retrieved from HERE"):
        proving.prove(proof="C-FIND")


def test_places_that_are_given_are_not_asked_for(proving: Proving) -> None:
    proving.hold("1.1", "1.2")
    place = {"PatientID": "P1", "StudyInstanceUID": "1.2", "SeriesInstanceUID": "1.2.3"}
    given = {key: {**one, "Place": place} for key, one in INSTANCES.items()}
    assert proving.node_proof.found_by_patient(proving.loopback, "PACS", given) == {"i1", "i2"}
    assert proving.rest.asked("POST", "/tools/bulk-content") == []


def test_an_address_of_this_machine_is_one_and_no_other_is(source: Any) -> None:
    is_this_machine = source("forwarding.patient_proof").is_this_machine
    assert is_this_machine("127.0.0.1")
    assert is_this_machine("localhost")
    assert not is_this_machine("192.0.2.1")


def test_a_query_is_removed_also_when_its_answers_can_not_be_read(proving: Proving) -> None:
    proving.hold("1.1")
    proving.rest.answers["GET", "/queries/Instance/answers"] = proving.rest.error(500)
    with pytest.raises(type(proving.rest.error(500))):
        proving.prove(proof="C-FIND")
    assert proving.rest.asked("DELETE", "/queries/Instance") == [None]
