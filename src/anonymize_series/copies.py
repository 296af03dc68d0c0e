# SPDX-License-Identifier: AGPL-3.0-or-later
"""A copy of an instance, with the UIDs and the patient that it shall have."""

import io
from typing import Any, NamedTuple

import pydicom

from anonymize_series.basic_profile import apply_profile
from anonymize_series.checks import identifying, what_remains
from anonymize_series.elements import elements_of, map_uids, text_of, values_of, written
from anonymize_series.pixel_data import clean_pixels
from anonymize_series.pseudonyms import Pseudonyms
from anonymize_series.settings import Recipe, tag_number
from common.identifiers import orthanc_identifier


class Copy(NamedTuple):
    """A de-identified instance: its file, Orthanc identifier and patient, and its UIDs by those of the original."""

    content: bytes
    instance: str
    patient: str
    uids: dict[str, str]


def de_identified(made: bytes, original: Any, recipe: Recipe, pseudonyms: Pseudonyms) -> Copy | str:
    """Return what Orthanc's anonymization made, with the UIDs and the patient that it shall have; or why it is held back."""
    copy = pydicom.dcmread(io.BytesIO(made), force=True)
    apply_profile(copy, original, recipe)
    uids: dict[str, str] = {}

    def change(_element: Any, value: str) -> str:
        return uids.setdefault(value, pseudonyms.uid(value))

    map_uids(copy, change, original)
    for tag in [tag for tag in copy.keys() if tag.group & 0xFF00 == 0x6000]:  # noqa: SIM118 - pydicom's is another
        del copy[tag]  # overlays may show names
    kept = frozenset(number for tag in (*recipe.keep, *recipe.replace) if (number := tag_number(tag)))
    if why := clean_pixels(copy, original, kept):
        return why
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):  # a private root may look like a kind's
        value = text_of(original, keyword)
        setattr(copy, keyword, uids.setdefault(value, pseudonyms.uid(value)))
    copy.file_meta.MediaStorageSOPInstanceUID = copy.SOPInstanceUID
    by_tag, _ = identifying(original, kept)
    for _, holder, element in list(elements_of(copy)):
        # What the profile leaves: Orthanc's 1.10.1 leaves InstanceCreationDate, for one.
        if element.VR != "UI" and set(map(str.strip, values_of(element))) & by_tag.get(int(element.tag), set()):
            holder[element.tag].value = ""
    patient = pseudonyms.patient(text_of(original, "PatientID"), text_of(original, "StudyInstanceUID"))
    copy.PatientID = copy.PatientName = patient
    content = written(copy)
    if remains := what_remains(pydicom.dcmread(io.BytesIO(content)), original, kept):
        return remains
    identifiers = (patient, copy.StudyInstanceUID, copy.SeriesInstanceUID, copy.SOPInstanceUID)
    return Copy(content, orthanc_identifier(*map(str, identifiers)), patient, uids)
