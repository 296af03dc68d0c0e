# SPDX-License-Identifier: AGPL-3.0-or-later
"""examples/ai_workflow: one configuration, from the PACS to an AI and back, with three real Orthancs."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pydicom

from testing.dicom import make_study, pydicom_files
from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancServer
from tests.scripts import combine_scripts

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "ai_workflow"
HIDDEN = "a secret for the tests, which nobody knows"


def datasets(server: OrthancServer) -> list[Any]:
    instances = server.get("/instances")
    return [pydicom.dcmread(io.BytesIO(server.request("GET", f"/instances/{each}/file").content)) for each in instances]


def test_a_result_on_an_anonymized_series_arrives_in_the_original_study(
    start_orthanc: StartOrthanc, tmp_path: Path
) -> None:
    scripts = [ROOT / "anonymize_series.py", ROOT / "auto_forward_modality.py"]
    combined = combine_scripts(*scripts, to=tmp_path / "combined.py")
    example = json.loads((EXAMPLE / "orthanc.json").read_text())
    sections = {key: example[key] for key in ("AnonymizeSeries", "AutoForwardModality")}
    gateway = start_orthanc(
        combined, sections, aet=example["DicomAet"], environment={"ANONYMIZE_SECRET": HIDDEN}, start=False
    )
    back = {"DicomModalities": {"GATEWAY": gateway.as_modality()}}
    pacs = start_orthanc(None, back, aet="PACS")
    ai = start_orthanc(EXAMPLE / "ai_service.py", back, aet="AI")
    gateway.configuration["DicomModalities"] = {"PACS": pacs.as_modality(), "AI": ai.as_modality()}
    gateway.start()
    files = make_study(modality="MR", patient_id="4711", instances=3, PatientName="Doe^Jane", AccessionNumber="ACC-9")
    files += make_study(modality="CT", patient_id="4711", seed="other")
    real = pydicom.dcmread(next(path for path in pydicom_files() if path.name == "MR_small.dcm"))
    studies = {each["ParentStudy"] for each in pacs.store([*files, real])}
    originals = datasets(pacs)
    pacs.post("/modalities/GATEWAY/store", list(studies))

    results = pacs.wait_until(
        lambda: [each for each in datasets(pacs) if each.get("SeriesDescription") == "AI result"][1:], 60, "two results"
    )
    results = [each for each in datasets(pacs) if each.get("SeriesDescription") == "AI result"]
    assert len(results) == 2
    for result in results:
        [original] = [
            each
            for each in originals
            if each.SOPInstanceUID == result.ReferencedImageSequence[0].ReferencedSOPInstanceUID
        ]
        for keyword in (
            "PatientName",
            "PatientID",
            "PatientBirthDate",
            "StudyInstanceUID",
            "StudyDate",
            "AccessionNumber",
        ):
            assert result[keyword].value == original[keyword].value, keyword
        assert result.FrameOfReferenceUID == original.FrameOfReferenceUID
        assert "DeidentificationMethod" not in result
    assert set(pacs.get("/studies")) == studies

    # The AI has seen MR alone, and nobody's name.
    seen = datasets(ai)
    assert {each.Modality for each in seen} == {"MR", "OT"}
    assert len([each for each in seen if each.Modality == "MR"]) == 4
    text = "\n".join(map(str, seen))
    for original in originals:
        for value in (original.PatientName, original.PatientID, original.StudyInstanceUID, original.SOPInstanceUID):
            assert f"{value}" not in text or len(f"{value}") < 4
    # In the gateway remain the originals and the results: no copy, and no result as it came.
    gateway.wait_until(lambda: len(gateway.get("/instances")) == len(originals) + 2, what="delete the copies")
    assert {str(each.PatientID) for each in datasets(gateway)} == {"4711", "4MR1"}
    status = gateway.get("/anonymize-series/status")
    assert (status["Copies"], status["Results"], status["Held"]) == (4, 2, 0)
    assert HIDDEN not in gateway.log
