# SPDX-License-Identifier: AGPL-3.0-or-later
"""The real studies that `make demo` and `docker compose up` send. Needs pydicom only."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass, field

import pydicom

from testing.dicom import orthanc_identifier, pydicom_files


@dataclass
class Study:
    """One study on its way."""

    patient: str
    uid: str
    modalities: set[str] = field(default_factory=set)
    files: dict[str, bytes] = field(default_factory=dict)  # by SOPInstanceUID
    sent: float = 0.0  # time.monotonic() of the last arrival here
    delivered: float | None = None  # and of when the destination had all
    here: int = 0
    there: int = 0

    @property
    def identifier(self) -> str:
        """Orthanc's own."""
        return orthanc_identifier(self.patient, self.uid)


def real_studies() -> list[Study]:
    """Studies that pydicom carries as test files: the patients of its media directories, and a picture of each modality."""
    studies: dict[str, Study] = {}
    pictured: set[str] = set()
    for path in pydicom_files():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = pydicom.dcmread(io.BytesIO(path.read_bytes()), stop_before_pixels=True)
            names = ("PatientID", "StudyInstanceUID", "SOPInstanceUID", "Modality")
            tags = {name: str(dataset.get(name) or "") for name in names}
        whole = "dicomdirtests" in path.parts
        if not whole and (tags["Modality"] in pictured or not tags["Modality"] or not tags["PatientID"].isascii()):
            continue
        if not whole:
            pictured.add(tags["Modality"])
        study = studies.setdefault(tags["StudyInstanceUID"], Study(tags["PatientID"].strip(), tags["StudyInstanceUID"]))
        study.modalities.add(tags["Modality"])
        study.files.setdefault(tags["SOPInstanceUID"], path.read_bytes())
    return list(studies.values())
