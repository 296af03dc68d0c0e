# SPDX-License-Identifier: AGPL-3.0-or-later
"""anonymize_series.py: rules, and destinations that copies go to."""

from __future__ import annotations

import io

import pydicom
import pytest

from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc, StoreScp
from tests.anonymize_series.helpers import ROOT, SCRIPT, anonymize, ended, read, section, told_again

MR_TO = {"Rules": [{"Name": "mr", "Level": "Series", "Query": {"Modality": "MR"}, "Destinations": ["out"]}]}


@pytest.mark.parametrize("kind", ["Modality", "Peer"])
def test_a_stable_series_goes_out_de_identified_and_the_copy_is_deleted_and_killed_it_goes_on(
    start_orthanc: StartOrthanc, kind: str
) -> None:
    research = start_orthanc(aet="RESEARCH")
    known = {"DicomModalities": {"RESEARCH": research.as_modality()}, "OrthancPeers": {"RESEARCH": research.as_peer()}}
    recipes = {"out": {kind: "RESEARCH", "DeleteCopy": True}}
    server = start_orthanc(SCRIPT, {**section(Recipes=recipes, **MR_TO), **known})
    research.stop()
    originals = server.store(make_study(modality="MR", patient_id="4711", instances=3))
    server.store(make_study(modality="CT", patient_id="4712"))
    server.wait_until(lambda: server.get("/anonymize-series/status")["Copies"] == 3, what="make the copies")
    server.kill()
    research.start()
    server.start()
    server.wait_until(lambda: len(research.get("/instances")) == 3, 60, "arrive")
    server.wait_until(lambda: len(server.get("/instances")) == 4, 60, "delete the copies, and nothing else")
    assert {each["ID"] for each in originals} < set(server.get("/instances"))
    for each in research.get("/instances"):
        dataset = read(research, each)
        assert told_again(pydicom.dcmread(io.BytesIO(make_study(modality="MR", patient_id="4711")[0])), dataset) == []
    # Its own copies are no reason to make copies.
    server.wait_until_stable()
    assert server.get("/anonymize-series/status")["Copies"] == 3


@pytest.mark.parametrize(("dicom_web", "root"), [({}, "/dicom-web"), ({"Root": "/elsewhere/web/"}, "/elsewhere/web")])
def test_copies_go_to_a_dicomweb_server_by_the_plugins_route(
    start_orthanc: StartOrthanc, dicom_web: dict[str, str], root: str
) -> None:
    plugin = f"""
import json, sys
sys.path.insert(0, {str(ROOT)!r})
import orthanc
import anonymize_series
def stow(output, uri, **request):
    job = json.loads(orthanc.RestApiPost("/modalities/NODE/store", request["body"]))
    output.AnswerBuffer(json.dumps({{"ID": job["ID"], "Path": job["Path"]}}).encode(), "application/json")
orthanc.RegisterRestCallback("{root}/servers/cloud/stow", stow)
"""
    research = start_orthanc(aet="RESEARCH")
    server = start_orthanc(
        plugin,
        {
            **section(Recipes={"out": {"Stow": "cloud"}}),
            "DicomModalities": {"NODE": research.as_modality()},
            "DicomWeb": dicom_web,
        },
    )
    study = server.store(make_study())[0]["ParentStudy"]
    done = anonymize(server, study, "out")
    assert (done["State"], research.get("/instances")) == ("done", done["Copies"])


def test_a_destination_that_is_not_there_is_tried_again_then_dead_until_a_person_retries(
    start_orthanc: StartOrthanc, storescp: StoreScp
) -> None:
    storescp.stop()
    recipes = {"out": {"Modality": "NODE", "DeleteCopy": True}}
    retry = {"GiveUpHours": 1 / 3600}
    server = start_orthanc(
        SCRIPT, {**section(Recipes=recipes, Retry=retry), "DicomModalities": {"NODE": storescp.as_modality()}}
    )
    study = server.store(make_study())[0]["ParentStudy"]
    done = anonymize(server, study, "out")
    assert done["State"] == "dead"
    last = server.get("/anonymize-series/status")["LastError"]
    assert done["Error"] in last["Text"]
    assert last["Time"] >= done["Created"]
    assert set(done["Copies"]) <= set(server.get("/instances"))  # what did not arrive is not deleted
    storescp.start()
    server.post(f"/anonymize-series/jobs/{done['ID']}/retry")
    assert ended(server, done["ID"])["State"] == "done"
    assert len(storescp.files()) == 1
    assert server.request("POST", f"/anonymize-series/jobs/{done['ID']}/retry").status_code == 409
