# SPDX-License-Identifier: AGPL-3.0-or-later
"""audit_log.py on a real Orthanc with the DICOMweb plugin: where a push went, and what of."""

from __future__ import annotations

from testing.dicom import make_study
from testing.installed import dicomweb_plugin, python_plugin
from testing.pytest_plugin import StartOrthanc
from tests.audit_log.test_audit_log import KEY, SCRIPT


def test_of_a_dicomweb_push_server_and_studies_are_told_as_far_as_the_plugin_shows_them(
    start_briefly: StartOrthanc, orthanc_version: tuple[int, ...]
) -> None:
    server = start_briefly(
        SCRIPT,
        {
            "Plugins": [str(python_plugin()), str(dicomweb_plugin())],
            "DicomWeb": {"Servers": {"CLOUD": ["http://127.0.0.1:1/", "alice", "hush-hush"]}},
            "AuditLog": {"Key": KEY, "Path": "log"},
        },
    )
    whole = server.store(make_study(patient_id="WHOLE", instances=2))[0]["ParentStudy"]
    alone = server.store(make_study(patient_id="ALONE"))[0]
    body = {"Resources": [whole, alone["ID"]], "Synchronous": False}
    job = server.post("/dicom-web/servers/CLOUD/stow", body)["ID"]
    lines = server.wait_until(
        lambda: [each for each in server.get("/audit-log")["Items"] if each.get("Job") == job], what="tell of the push"
    )
    told = sorted((each.get("Patient", ""), each.get("Study", ""), each.get("To", "")) for each in lines)
    if orthanc_version < (1, 11):  # its plugin shows neither
        assert told == [("", "", "")]
    else:
        assert told == [("ALONE", alone["ParentStudy"], "CLOUD"), ("WHOLE", whole, "CLOUD")]
    assert {(each["Event"], each["Result"]) for each in lines} == {("sent", "failure")}
