# SPDX-License-Identifier: AGPL-3.0-or-later
"""DeleteAfterForward deletes for no other patient's images: the proof compares patients, whatever proves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from testing.dicom import make_study
from testing.nodes import DicomNode, HttpAnswer, HttpNode, HttpRequest, pass_on_to
from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancServer, send_by_cstore
from testing.standin import StandIn
from tests.constants import QUICK, script_with

ROOT = Path(__file__).parent.parent
NODES, PEERS = (script_with(ROOT / f"auto_forward_{kind}.py", QUICK) for kind in ("modality", "peer"))
DELETES: dict[str, Any] = {"DeleteAfterForward": True}
SAME = {"StudyInstanceUID": "1.2.826.0.1.3680043.2.1143.1", "instances": 2}
MINE, OTHER = make_study(patient_id="MINE", **SAME), make_study(patient_id="OTHER", **SAME)  # type: ignore[arg-type]
OF_ANOTHER = "has not proved to have 2 of 2 instances: it has their UIDs, but of another patient"


def deletes(server: OrthancServer) -> list[dict[str, Any]]:
    rows = server.get("/auto-forward-modality/deliveries")["Items"]
    return [row for row in rows if row["Task"] == "delete"]


@pytest.fixture(params=["StorageCommitment", "C-FIND"])
def proof(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def source(start_orthanc: StartOrthanc, proof: str) -> Callable[[DicomNode], OrthancServer]:
    def start(node: DicomNode) -> OrthancServer:
        section = {**DELETES, "DestinationOptions": {"NODE": {"Proof": proof}}}
        here = start_orthanc(
            NODES, {"DicomModalities": {"NODE": node.as_modality()}, "AutoForwardModality": section}, aet="HERE"
        )
        node.commits_for = here.as_modality()
        return here

    return start


@pytest.fixture
def node() -> Iterator[DicomNode]:
    with DicomNode("NODE", drops_duplicates=True) as each:
        yield each


def test_the_same_uids_of_another_patient_are_no_proof_where_a_node_drops_duplicates(
    source: Callable[[DicomNode], OrthancServer], node: DicomNode
) -> None:
    send_by_cstore(OTHER, port=node.port, called="NODE")
    here = source(node)
    here.store_scu(MINE)
    here.wait_for_log(OF_ANOTHER)
    here.wait_until(lambda: deletes(here)[0]["Attempts"] > 1, what="ask again")
    assert node.patients() == ["OTHER", "OTHER"]
    assert len(here.get("/instances")) == 2


def test_what_a_node_has_of_the_patient_is_deleted_here(
    source: Callable[[DicomNode], OrthancServer], node: DicomNode
) -> None:
    here = source(node)
    here.store_scu(MINE)
    here.wait_until(lambda: here.get("/instances") == [], what="delete")
    assert node.patients() == ["MINE", "MINE"]


def test_a_node_that_says_the_patient_of_studies_only_proves_by_that(
    source: Callable[[DicomNode], OrthancServer], node: DicomNode
) -> None:
    node.leaves_out = ("IMAGE.PatientID",)
    here = source(node)
    here.store_scu(MINE)
    here.wait_until(lambda: here.get("/instances") == [], what="delete")
    assert {keys.QueryRetrieveLevel for keys in node.found} == {"IMAGE", "STUDY"}


def test_a_node_that_does_not_say_the_patient_proves_nothing(
    source: Callable[[DicomNode], OrthancServer], node: DicomNode
) -> None:
    node.leaves_out = ("PatientID",)
    here = source(node)
    here.store_scu(MINE)
    here.wait_for_log("does not say of which")
    assert len(here.get("/instances")) == 2


@pytest.mark.parametrize("proof", ["StorageCommitment", "StorageCommitmentOnly"])
def test_a_node_without_c_find_deletes_only_where_a_person_has_said_that_commitment_suffices(
    source: Callable[[DicomNode], OrthancServer], proof: str
) -> None:
    with DicomNode("NODE", finds=False) as node:
        here = source(node)
        here.store_scu(MINE)
        if proof == "StorageCommitmentOnly":
            here.wait_until(lambda: here.get("/instances") == [], what="delete")
        else:
            here.wait_for_log("can't be asked by C-FIND of which patient it has what it committed to")
            assert len(here.get("/instances")) == 2


# The comparison alone


class Answers:
    """A loopback of one series of one study of the patient "P 1", and a node that answers C-FIND with these."""

    def __init__(self, images: list[dict[str, str]], studies: list[dict[str, str]], patient: str = "P 1 ") -> None:
        self.answers = {"Instance": images, "Study": studies}
        self.patient, self.levels = patient, list[str]()

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        if path == "/tools/bulk-content":
            return [{"ID": "series", "ParentStudy": "study", "MainDicomTags": {"SeriesInstanceUID": "1.2"}}]
        self.levels.append(body["Level"])
        return {"ID": "q"}

    def get(self, path: str) -> Any:
        if path == "/studies/study":
            return {"MainDicomTags": {"StudyInstanceUID": "1.1"}, "PatientMainDicomTags": {"PatientID": self.patient}}
        return self.answers[self.levels[-1]]

    def request(self, method: str, path: str) -> None:
        assert (method, path) == ("DELETE", "/queries/q")


IMAGE = {"SOPInstanceUID": "1.3", "StudyInstanceUID": "1.1", "SeriesInstanceUID": "1.2"}
HERE = {"image": {"ParentSeries": "series", "MainDicomTags": {"SOPInstanceUID": "1.3"}}}


@pytest.mark.parametrize(
    ("images", "studies", "proved"),
    [
        ([{**IMAGE, "PatientID": "P 1"}], [], True),
        ([{**IMAGE, "PatientID": " P 1  "}], [], True),  # spaces aside
        ([{**IMAGE, "PatientID": "P 1\0"}], [], True),
        ([{**IMAGE, "PatientID": "p 1"}], [], False),
        ([{**IMAGE, "PatientID": "P1"}], [], False),
        ([{**IMAGE, "PatientID": "OTHER"}], [], False),
        ([{**IMAGE, "PatientID": "OTHER"}, {**IMAGE, "PatientID": "P 1"}], [], True),  # it keeps both
        ([{**IMAGE, "PatientID": "OTHER"}], [{"PatientID": "P 1", "StudyInstanceUID": "1.1"}], False),
        ([IMAGE], [], False),
        ([{**IMAGE, "PatientID": ""}], [{"PatientID": ""}], False),
        ([IMAGE], [{"PatientID": "P 1", "StudyInstanceUID": "1.1"}], True),
        ([IMAGE], [{"PatientID": "P 1"}, {"PatientID": "OTHER"}], False),  # of which it is, nobody knows
        ([IMAGE], [{"PatientID": "P 1", "StudyInstanceUID": "1.9"}], False),  # answers with more than was asked for
        ([{**IMAGE, "PatientID": "P 1", "SeriesInstanceUID": "1.9"}], [], None),
        ([{**IMAGE, "PatientID": "P 1", "StudyInstanceUID": "1.9"}], [], None),
        ([{**IMAGE, "PatientID": "P 1", "SOPInstanceUID": "1.4"}], [], None),
        ([], [{"PatientID": "P 1"}], None),
    ],
)
def test_an_answer_proves_only_with_the_patient_of_the_instance(
    orthanc_standin: StandIn, images: list[dict[str, str]], studies: list[dict[str, str]], proved: bool | None
) -> None:
    script = orthanc_standin.load(NODES)
    loopback = Answers(images, studies)
    if proved is False:
        with pytest.raises(ValueError, match="another patient, or does not say of which"):
            script.found_by_patient(loopback, "NODE", HERE)
    else:
        assert script.found_by_patient(loopback, "NODE", HERE) == ({"image"} if proved else set())


def test_an_instance_without_a_patient_is_never_proved(orthanc_standin: StandIn) -> None:
    script = orthanc_standin.load(NODES)
    for images in ([{**IMAGE, "PatientID": ""}], [IMAGE]):
        with pytest.raises(ValueError, match="does not say of which"):
            script.found_by_patient(Answers(images, [{"PatientID": ""}], patient=""), "NODE", HERE)


def test_a_peer_that_has_the_uids_of_another_patient_has_not_proved_to_have_ours(start_orthanc: StartOrthanc) -> None:
    there = start_orthanc(aet="THERE")
    there.store(OTHER)
    passes_on = pass_on_to(there.url)

    def drop_duplicates(request: HttpRequest) -> HttpAnswer:
        return passes_on(request) if request.path != "/instances" else HttpAnswer(200, b'{"Status": "AlreadyStored"}')

    with HttpNode(drop_duplicates) as peer:
        configuration = {"OrthancPeers": {"THERE": peer.as_peer()}, "AutoForwardPeer": DELETES}
        here = start_orthanc(PEERS, configuration, aet="HERE")
        here.store_scu(MINE)
        here.wait_for_log("THERE has not proved to have 2 of 2 instances")
        assert len(peer.requests("POST", "/instances")) == 2
        assert len(here.get("/instances")) == 2
