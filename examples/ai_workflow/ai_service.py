# SPDX-License-Identifier: AGPL-3.0-or-later
"""Plays an AI service, as a script of an Orthanc of its own: of each stable MR series it sends a mask back.

A real one differs in what it computes. It works on what it gets, keeps UIDs and identifiers of patient and study as they are,
gives its result a series and UIDs of its own, and refers to the images that the result is about.
"""

from __future__ import annotations

import io
import json
import queue
import threading
from typing import Any

import orthanc
import pydicom
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

BACK_TO = "GATEWAY"  # of DicomModalities
SERIES: queue.Queue[str | None] = queue.Queue()


def mask(image: Any) -> bytes:
    """A secondary capture: white where the image is brighter than its middle."""
    pixels = memoryview(image.PixelData).cast("H" if image.BitsAllocated == 16 else "B")
    middle = (max(pixels) + min(pixels)) // 2
    result = pydicom.Dataset()
    for keyword in ("PatientID", "PatientName", "StudyInstanceUID", "FrameOfReferenceUID", "Rows", "Columns"):
        if keyword in image:
            result[keyword] = image[keyword]
    reference = pydicom.Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
    result.update(
        {
            "SpecificCharacterSet": "ISO_IR 192", "SOPClassUID": SecondaryCaptureImageStorage, "SOPInstanceUID": generate_uid(),
            "SeriesInstanceUID": generate_uid(), "Modality": "OT", "SeriesDescription": "AI result", "SeriesNumber": 1000,
            "InstanceNumber": 1, "ConversionType": "WSD", "StudyDate": "", "StudyTime": "", "StudyID": "",
            "AccessionNumber": "", "ReferringPhysicianName": "", "PatientBirthDate": "", "PatientSex": "",
            "ReferencedImageSequence": [reference], "SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2",
            "BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "PixelRepresentation": 0,
        }
    )  # fmt: skip
    result.PixelData = bytes(255 if value > middle else 0 for value in pixels)
    result["PixelData"].VR = "OB"
    result.file_meta = pydicom.dataset.FileMetaDataset()
    result.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    buffer = io.BytesIO()
    result.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def work() -> None:
    while series := SERIES.get():
        content = json.loads(orthanc.RestApiGet(f"/series/{series}"))
        if content["MainDicomTags"].get("Modality") != "MR":
            continue  # our own result
        image = pydicom.dcmread(io.BytesIO(orthanc.RestApiGet(f"/instances/{content['Instances'][0]}/file")))
        result = json.loads(orthanc.RestApiPost("/instances", mask(image)))["ID"]
        orthanc.RestApiPost(f"/modalities/{BACK_TO}/store", json.dumps({"Resources": [result], "Synchronous": False}))


WORKER = threading.Thread(target=work, name="ai-service", daemon=True)


def on_change(change: int, _level: int, resource: str) -> None:
    if change == orthanc.ChangeType.STABLE_SERIES:
        SERIES.put(resource)
    elif change == orthanc.ChangeType.ORTHANC_STARTED:
        WORKER.start()
    elif change == orthanc.ChangeType.ORTHANC_STOPPED:
        SERIES.put(None)
        WORKER.join(2)


orthanc.RegisterOnChangeCallback(on_change)
