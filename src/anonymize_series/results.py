# SPDX-License-Identifier: AGPL-3.0-or-later
"""A result that came back for a copy, put into the original study."""

import io
from collections.abc import Callable, Mapping
from typing import Any

import pydicom

from anonymize_series.elements import map_uids
from anonymize_series.pseudonyms import Pseudonyms

# What a result takes from the original study (PS3.3 C.7.1.1, C.7.2.1).
STUDY_TAGS = (
    *(
        "PatientName",
        "PatientID",
        "IssuerOfPatientID",
        "PatientBirthDate",
        "PatientSex",
        "StudyInstanceUID",
        "StudyDate",
    ),
    *("StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName", "StudyDescription", "SpecificCharacterSet"),
)
ANONYMIZATION_TAGS = ("PatientIdentityRemoved", "DeidentificationMethod", "DeidentificationMethodCodeSequence")


def re_identified(
    content: bytes, study: Mapping[str, Any], original_of: Callable[[str], str | None], pseudonyms: Pseudonyms
) -> Any:
    """Return what came back as a part of the study that it is about.

    UIDs of copies become those of the originals, its own become others.

    `study` are the tags of the original study, as DICOM JSON; `original_of` is the register of UIDs.
    """
    dataset = pydicom.dcmread(io.BytesIO(content), force=True)
    map_uids(dataset, lambda _, value: original_of(value) or pseudonyms.uid(value, "result"))
    original = pydicom.Dataset.from_json(dict(study))
    dataset.SpecificCharacterSet = "ISO_IR 192"  # of both: pydicom writes all texts again
    for keyword in STUDY_TAGS[:-1]:
        if keyword in original:
            dataset[keyword] = original[keyword]
        elif keyword in dataset:
            del dataset[keyword]
    for keyword in ANONYMIZATION_TAGS:
        if keyword in dataset:
            del dataset[keyword]
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    return dataset
