# SPDX-License-Identifier: AGPL-3.0-or-later
"""auto_forward_dicomweb.py and servers that list single instances as failed, forget, give few answers, or take little at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest

from testing.dicom import make_study
from testing.dicomweb import DicomWebNode
from testing.installed import dicomweb_plugin, python_plugin
from testing.nodes import redirect_to
from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancServer
from tests.constants import QUICK, script_with

ROOT = Path(__file__).parents[2]
SCRIPT = script_with(ROOT / "auto_forward_dicomweb.py", {**QUICK, "MEGABYTE": 1000})
SECOND: Any = lambda dataset: str(dataset.InstanceNumber) == "2"  # noqa: E731


@pytest.fixture
def node() -> Iterator[DicomWebNode]:
    with DicomWebNode() as found:
        yield found


@pytest.fixture
def start(start_briefly: StartOrthanc, node: DicomWebNode) -> Any:
    """Start an Orthanc that forwards to the node.

    It is killed: 1.13.0 crashes if it is stopped while a job of the plugin is under way.
    """

    def start(**section: Any) -> OrthancServer:
        configuration = {
            "Plugins": [str(python_plugin()), str(dicomweb_plugin())],
            "DicomWeb": {"Servers": {"CLOUD": [node.url]}},
            "AutoForwardDicomweb": {"MaxRequestMegabytes": 1000, **section},
        }
        return start_briefly(SCRIPT, configuration, aet="HERE")

    return start


def rows(server: OrthancServer, task: str = "send") -> list[dict[str, Any]]:
    items = server.get("/auto-forward-dicomweb/deliveries")["Items"]
    return [row for row in items if row["Task"] == task]


def uids(server: OrthancServer) -> list[str]:
    return sorted(each["MainDicomTags"]["SOPInstanceUID"] for each in server.get("/instances?expand"))


def waiting(server: OrthancServer) -> list[dict[str, Any]]:
    return [row for row in rows(server) if row["State"] != "done"]


def test_what_a_server_lists_as_failed_waits_alone_and_the_rest_is_delivered(start: Any, node: DicomWebNode) -> None:
    node.refuses = SECOND
    here = start()
    here.store(make_study(instances=9))
    here.wait_until(lambda: len(node.taken) == 8 and waiting(here), what="deliver the others")
    here.wait_until(lambda: [row["Level"] for row in waiting(here)] == ["Instance"], what="let one wait alone")
    assert "was only able to receive 8 instances out of 9" in here.log
    assert [row["Instances"] for row in waiting(here)] == [1]
    # The server was asked which of them it has: none of those was sent again.
    here.wait_until(lambda: len(node.requests_of) > 1, what="try the last alone")
    assert node.requests_of[:2] == [9, 1]
    assert sum(row["Instances"] for row in rows(here) if row["State"] == "done") == 8
    node.refuses = lambda _: False
    here.wait_until(lambda: not waiting(here), timeout=60, what="deliver the last")
    assert node.uids() == uids(here)


def test_a_server_that_can_not_be_searched_gets_halves_until_what_it_refuses_is_alone(
    start: Any, node: DicomWebNode
) -> None:
    node.refuses, node.answers = SECOND, 404
    here = start()
    here.store(make_study(instances=8))
    here.wait_until(lambda: len(node.taken) == 7, timeout=60, what="deliver the others")
    here.wait_until(lambda: [row["Level"] for row in waiting(here)] == ["Instance"], timeout=60, what="bisect")


def test_what_a_server_has_already_and_lists_as_failed_for_that_is_delivered(start: Any, node: DicomWebNode) -> None:
    """As archives in the cloud do, which answer 409 to what is sent again after a kill."""
    node.refuses_duplicates = True
    study = make_study(instances=3)
    node.taken = [pydicom.dcmread(pydicom.filebase.DicomBytesIO(each)) for each in study[:3]]
    here = start()
    here.store(study)
    here.wait_until(lambda: rows(here) and not waiting(here), what="deliver")
    assert node.requests_of == [3]


def test_a_study_that_is_larger_than_a_request_may_be_goes_in_several(start: Any, node: DicomWebNode) -> None:
    node.largest = 40_000
    here = start(MaxRequestMegabytes=30)  # of 1000 bytes each
    here.store(make_study(instances=10))  # of 9300 bytes each
    here.wait_until(lambda: len(node.taken) == 10 and not waiting(here), what="deliver")
    assert node.requests_of == [3, 3, 3, 1]
    assert [row["Instances"] for row in rows(here)] == [3, 3, 3, 1]
    assert node.uids() == uids(here)


def test_an_instance_that_is_larger_than_a_request_may_be_goes_alone(start: Any, node: DicomWebNode) -> None:
    here = start(MaxRequestMegabytes=1)
    here.store(make_study(instances=3))
    here.post("/auto-forward-dicomweb/send", {"Resource": here.get("/studies")[0]})  # whole, by a person
    here.wait_until(lambda: len(node.taken) == 3 and not waiting(here), timeout=60, what="deliver")
    assert set(node.requests_of) == {1}


@pytest.mark.parametrize("names_patients", [True, False])
def test_proofs_are_read_to_the_last_page(start: Any, node: DicomWebNode, names_patients: bool) -> None:
    node.page, node.names_patients = 2, names_patients
    here = start(DeleteAfterForward=True)
    here.store_scu(make_study(series=2, instances=5))
    here.wait_until(lambda: [row["State"] for row in rows(here, "delete")] == ["done"], what="delete")
    assert here.get("/instances") == []
    assert len(node.taken) == 10


def test_what_is_there_of_another_patient_is_no_proof(start: Any, node: DicomWebNode) -> None:
    def stored(patient: str) -> list[bytes]:
        return make_study(patient_id=patient, instances=2, StudyInstanceUID="1.2.3")

    here = start(DeleteAfterForward=True)
    here.store_scu(stored("MINE"))
    here.wait_until(lambda: len(node.taken) == 2, what="deliver")
    for dataset in node.taken:
        dataset.PatientID = "OTHER"
    here.wait_for_log("it has their UIDs, but of another patient")
    assert len(here.get("/instances")) == 2


def test_what_a_server_forgets_is_sent_again_where_it_is_to_be_verified(start: Any, node: DicomWebNode) -> None:
    node.forgets = SECOND
    here = start(DestinationOptions={"CLOUD": {"Verify": True}})
    here.store(make_study(instances=3))
    here.wait_for_log("CLOUD took 3 instances and does not have 1 of them (Verify)")
    assert [row["Instances"] for row in rows(here) if row["State"] == "done"] == [2]
    node.forgets = lambda _: False
    here.wait_until(lambda: not waiting(here), timeout=60, what="send it again")
    assert node.uids() == uids(here)


def test_a_server_that_redirects_has_nothing(start: Any, node: DicomWebNode) -> None:
    """A POST that is redirected becomes a GET, whose answer lists nothing as stored."""
    there, node.respond = node.respond, redirect_to(f"{node.url}/elsewhere")
    here = start()
    here.store(make_study(instances=2))
    here.wait_until(lambda: rows(here) and rows(here)[0]["Error"], what="fail")
    assert node.taken == []
    node.respond = there
    here.wait_until(lambda: not waiting(here), timeout=60, what="deliver")
    assert node.uids() == uids(here)
