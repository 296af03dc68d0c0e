# SPDX-License-Identifier: AGPL-3.0-or-later
"""anonymize_series.py: the way back, and requests that are refused."""

from __future__ import annotations

import concurrent.futures
import io
import stat
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset

from testing.dicom import make_study, part10_files
from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancServer
from tests.anonymize_series.helpers import HIDDEN, SCRIPT, anonymize, ended, read, section


def result_on(copy: Any, **tags: Any) -> Any:
    """What a service makes of a copy: another image, in a series of its own, that refers to it."""
    result = pydicom.dcmread(io.BytesIO(next(part10_files(copy))))
    result.SOPInstanceUID = result.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    result.SeriesInstanceUID, result.SeriesDescription = pydicom.uid.generate_uid(), "Result"
    reference = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = copy.SOPClassUID, copy.SOPInstanceUID
    result.ReferencedImageSequence = [reference]
    for keyword, value in tags.items():
        setattr(result, keyword, value)
    return result


@pytest.mark.parametrize("name", ["Müller^Jürgen", "Yamada^Tarou=山田^太郎=やまだ^たろう"])
def test_a_result_is_put_into_the_original_study_with_its_identity(archive: OrthancServer, name: str) -> None:
    files = make_study(
        patient_id=f"B{len(name)}", PatientName=name, AccessionNumber="ACC-77", modality="MR", PatientSex="F", seed=name
    )
    stored = archive.store(files)[0]
    original = read(archive, stored["ID"])
    copy = read(archive, anonymize(archive, stored["ParentStudy"], "strict")["Copies"][0])
    came = archive.store(result_on(copy))[0]
    done = ended(archive, archive.post(f"/anonymize-series/{came['ParentSeries']}/re-identify")["ID"])
    [made] = done["Copies"]
    result = read(archive, made)
    assert archive.get(f"/instances/{made}/study")["ID"] == stored["ParentStudy"]
    for keyword in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyDate",
                    "AccessionNumber", "StudyDescription", "FrameOfReferenceUID"):  # fmt: skip
        assert result[keyword].value == original[keyword].value, keyword
    assert result.ReferencedImageSequence[0].ReferencedSOPInstanceUID == original.SOPInstanceUID
    assert (result.SeriesDescription, result.PixelData) == ("Result", original.PixelData)
    assert "PatientIdentityRemoved" not in result
    # Its own UIDs are others: who knows the result as it came can't tell whose it is.
    assert read(archive, came["ID"]).SOPInstanceUID != result.SOPInstanceUID
    # Twice it is the same; and the copy itself, which may come back too, is no result that replaces its original.
    again = ended(archive, archive.post(f"/anonymize-series/{came['ParentStudy']}/re-identify")["ID"])
    assert (again["Copies"], again["Instances"]) == (done["Copies"], 2)
    assert read(archive, stored["ID"]) == original
    for asked in ({"patient": original.PatientID}, {"study": original.StudyInstanceUID}, {"pseudonym": copy.PatientID}):
        [entry] = archive.get("/anonymize-series/register", **asked)["Items"]
        assert (entry["PatientID"], entry["Pseudonym"]) == (original.PatientID, copy.PatientID)


def test_a_result_is_taken_back_also_when_the_original_is_gone_from_here(archive: OrthancServer) -> None:
    stored = archive.store(make_study(patient_id="GONE-1", PatientName="Roe^Richard"))[0]
    copy = read(archive, anonymize(archive, stored["ParentStudy"], "strict")["Copies"][0])
    archive.delete(f"/studies/{stored['ParentStudy']}")
    came = archive.store(result_on(copy))[0]
    done = ended(archive, archive.post(f"/anonymize-series/{came['ID']}/re-identify")["ID"])
    result = read(archive, done["Copies"][0])
    assert (result.PatientName, result.PatientID) == ("Roe^Richard", "GONE-1")
    assert archive.get(f"/instances/{done['Copies'][0]}/study")["ID"] == stored["ParentStudy"]


def test_nobody_is_told_whose_a_copy_is_unless_that_is_configured(start_orthanc: StartOrthanc) -> None:
    server = start_orthanc(SCRIPT, section())
    stored = server.store(make_study(patient_id="HIDDEN-1"))[0]
    copy = anonymize(server, stored["ParentStudy"], "strict")["Copies"][0]
    answers = [
        server.request("POST", f"/anonymize-series/{copy}/re-identify"),
        server.request("GET", "/anonymize-series/register?patient=HIDDEN-1"),
    ]
    assert [answer.status_code for answer in answers] == [403, 403]
    assert "ReIdentify is false" in answers[0].json()["Message"]
    path = Path(server.configuration["IndexDirectory"]) / "anonymize_series.sqlite"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert HIDDEN not in server.log
    assert "HIDDEN-1" not in server.log
    assert HIDDEN.encode() not in path.read_bytes()


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "00000000-00000000-00000000-00000000-00000000", {"Recipe": "open"}, 404),
        ("POST", "00000000-00000000-00000000-00000000-00000000", {"Recipe": "other"}, 400),
        ("POST", "00000000-00000000-00000000-00000000-00000000", {}, 400),
        ("POST", "00000000-00000000-00000000-00000000-00000000", {"Recipe": "open", "Keep": []}, 400),
        ("POST", "00000000-00000000-00000000-00000000-00000000/re-identify", {}, 404),
        ("POST", "{original}/re-identify", {}, 409),
        ("GET", "jobs/999999999999999999999", None, 404),
        ("GET", "jobs?state=lost", None, 400),
        ("GET", "held?limit=0", None, 400),
        ("GET", "register", None, 400),
        ("DELETE", "status", None, 405),
    ],
)
def test_what_can_not_be_done_is_a_4xx_that_says_why(
    archive: OrthancServer, method: str, path: str, body: Any, status: int
) -> None:
    if "{original}" in path:
        path = path.format(original=archive.store(make_study(patient_id="NEVER"))[0]["ParentStudy"])
    answer = archive.request(method, f"/anonymize-series/{path}", json=body)
    assert answer.status_code == status
    assert status == 405 or answer.json()["Message"]
    evil = {"Origin": "https://evil.example"}
    if method == "POST":
        assert archive.request(method, f"/anonymize-series/{path}", json=body, headers=evil).status_code == 403


def test_more_callers_than_orthanc_has_threads_stop_nobody(start_orthanc: StartOrthanc) -> None:
    server = start_orthanc(SCRIPT, {**section(), "HttpThreadsCount": 5})
    path = f"/anonymize-series/{server.store(make_study())[0]['ParentStudy']}"
    asked: dict[str, Any] = {"json": {"Recipe": "strict"}, "timeout": 30}
    with concurrent.futures.ThreadPoolExecutor(15) as callers:
        answers = [callers.submit(server.request, "POST", path, **asked) for _ in range(60)]
        assert {answer.result().status_code for answer in answers} <= {200, 503}
    assert server.request("POST", path, **asked).status_code == 200
