# SPDX-License-Identifier: AGPL-3.0-or-later
"""How the tests ask for copies, and what a copy must not contain."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydicom
from PIL import Image
from pydicom.encaps import generate_frames

from testing.server import OrthancServer

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "anonymize_series.py"
HIDDEN = "a secret for the tests, which nobody knows"
OPEN = {"AllowBurnedIn": True, "AllowNonImages": True}


def section(**more: Any) -> dict[str, Any]:
    return {"AnonymizeSeries": {"Secret": HIDDEN, "Recipes": {"strict": {}, "open": OPEN}, **more}}


def read(server: OrthancServer, instance: str) -> Any:
    return pydicom.dcmread(io.BytesIO(server.request("GET", f"/instances/{instance}/file").content), force=True)


def has_same_pixels(server: OrthancServer, copy: str, original: str) -> bool:
    """Return whether an image shows what another one shows: what is no pixel may differ."""
    one, other = read(server, copy), read(server, original)
    if one.PixelData == other.PixelData:
        return True
    pairs = itertools.zip_longest(_drawn(server, copy, one), _drawn(server, original, other))
    return len(one.PixelData) == len(other.PixelData) and all(ours == before for ours, before in pairs)


def _drawn(server: OrthancServer, instance: str, dataset: Any) -> Iterator[bytes | None]:
    """Yield the pixels of each frame as Orthanc reads them, else as Pillow does; None where neither can."""
    frames = int(dataset.get("NumberOfFrames") or 1)
    for number, frame in enumerate(generate_frames(dataset.PixelData, number_of_frames=frames)):
        answer = server.request("GET", f"/instances/{instance}/frames/{number}/image-int16")
        try:
            yield answer.content if answer.status_code == 200 else Image.open(io.BytesIO(frame)).tobytes()
        except (OSError, Image.DecompressionBombError):  # of one broken on purpose
            yield None


def anonymize(server: OrthancServer, resource: str, recipe: str) -> dict[str, Any]:
    """De-identify by hand, and wait until that is done."""
    return ended(server, server.post(f"/anonymize-series/{resource}", {"Recipe": recipe})["ID"])


def ended(server: OrthancServer, work: int) -> dict[str, Any]:
    def done() -> dict[str, Any] | None:
        found: dict[str, Any] = server.get(f"/anonymize-series/jobs/{work}")
        return found if found["State"] in ("done", "partly", "dead") else None

    return dict(server.wait_until(done, 120, f"work {work}"))


# What must not be in a copy, told here independently of the script (PS3.15 E.1).


TELLING = (
    *(
        "PatientID",
        "OtherPatientIDs",
        "AccessionNumber",
        "StudyID",
        "DeviceSerialNumber",
        "InstitutionName",
        "StationName",
    ),
    *("InstitutionAddress", "PatientAddress", "PatientTelephoneNumbers", "RequestedProcedureID", "AdmissionID"),
    *("InstitutionalDepartmentName", "PerformedProcedureStepID", "ScheduledProcedureStepID", "IssuerOfPatientID"),
    *("PatientComments", "AdditionalPatientHistory", "EthnicGroup", "Occupation"),
)
ELSEWHERE = ("PatientID", "OtherPatientIDs", "AccessionNumber", "StudyID", "DeviceSerialNumber", "AdmissionID")


def texts(element: Any) -> list[str]:
    if element.VR == "SQ" or element.value is None or isinstance(element.value, bytes):
        return []
    many = element.value if isinstance(element.value, pydicom.multival.MultiValue) else [element.value]
    return [text for each in many if (text := str(each).strip())]


def told_by(dataset: Any) -> tuple[dict[int, set[str]], set[str]]:
    """Identifying values by tag; and names, identifiers, UIDs and dates of four characters and more."""
    by_tag: dict[int, set[str]] = {}
    anywhere = set()
    for element in dataset.iterall():
        of_instances = element.VR == "UI" and "Class" not in element.keyword and "CodingScheme" not in element.keyword
        for text in texts(element):
            if of_instances and text.startswith("1.2.840.10008."):
                continue
            if of_instances or element.VR in ("PN", "DA", "DT") or element.keyword in TELLING:
                by_tag.setdefault(int(element.tag), set()).add(text)
            if of_instances or element.VR in ("PN", "DA", "DT") or element.keyword in ELSEWHERE:
                words = [text, *text.split("^")] if element.VR == "PN" else [text]
                anywhere |= {word for word in words if len(word) >= 4}
    return by_tag, anywhere


def told_again(original: Any, copy: Any) -> list[str]:
    by_tag, anywhere = told_by(original)
    found = []
    for element in [*copy.iterall(), *copy.file_meta]:
        values = texts(element)
        if set(values) & by_tag.get(int(element.tag), set()):
            found.append(f"{element.keyword}: the same value")
        if element.VR in ("DS", "IS"):
            found += [f"{element.keyword}: {value}" for value in values if value in anywhere]
        else:
            found += [f"{element.keyword} holds {word}" for value in values for word in anywhere if word in value]
        if isinstance(element.value, bytes) and element.tag.group != 0x7FE0:
            found += [f"{element.tag} holds {word}" for word in anywhere if word.encode() in element.value]
    return found
