# SPDX-License-Identifier: AGPL-3.0-or-later
"""A DICOMweb server in the test's own process that is as awkward as real ones are, by switches.

    with DicomWebNode(refuses=lambda dataset: dataset.Modality == "SR") as node:
        server = start_orthanc(SCRIPT, {"DicomWeb": {"Servers": {"CLOUD": [node.url]}}})

It takes STOW-RS (POST /studies) and answers QIDO-RS for studies and instances. What it keeps is in `taken`, in the order in
which it came; each switch is an attribute, which a test may change at any time.
"""

from __future__ import annotations

import io
import json
import re
import urllib.parse
from collections.abc import Callable, Mapping
from typing import Any

import pydicom
from pydicom.dataset import Dataset

from testing.nodes import HttpAnswer, HttpNode, HttpRequest

REFERENCED, FAILED = "00081199", "00081198"  # ReferencedSOPSequence, FailedSOPSequence (PS3.18 table 10.5.3-1)
REFUSED, ALREADY_THERE = 0xA700, 0xB00E  # reasons of failure; the second is what cloud archives say
SERIES = re.compile(r"/studies/([0-9.]+)/series/([0-9.]+)/instances")


class DicomWebNode(HttpNode):
    """A server of STOW-RS and QIDO-RS.

    Parameters
    ----------
    refuses
        Says of a dataset whether it is listed as failed.
    forgets
        Says of a dataset whether it is listed as stored, and is not.
    refuses_duplicates
        Whether what it has already is listed as failed: so do archives in the cloud.
    answers
        The status of its answer to a QIDO-RS; None: it answers.
    names_patients
        Whether its answers about instances have the PatientID; those about studies always do.
    page
        How many answers it gives at a time, whatever `limit` says.
    largest
        Bytes of a request, above which it answers 413; None: any number.
    """

    def __init__(
        self,
        *,
        refuses: Callable[[Dataset], object] = lambda _: False,
        forgets: Callable[[Dataset], object] = lambda _: False,
        refuses_duplicates: bool = False,
        answers: int | None = None,
        names_patients: bool = True,
        page: int = 1000,
        largest: int | None = None,
    ) -> None:
        self.refuses, self.forgets, self.refuses_duplicates = refuses, forgets, refuses_duplicates
        self.answers, self.names_patients, self.page, self.largest = answers, names_patients, page, largest
        self.taken: list[Dataset] = []
        self.requests_of: list[int] = []
        """How many instances each request had that it took."""
        super().__init__(self._respond)

    def uids(self) -> list[str]:
        """The SOP Instance UIDs that it has, sorted."""
        return sorted(str(each.SOPInstanceUID) for each in self.taken)

    def _respond(self, request: HttpRequest) -> HttpAnswer:
        path, _, query = request.path.partition("?")
        if request.method == "POST" and path.endswith("/studies"):
            return self._stow(request)
        if self.answers is not None:
            return HttpAnswer(self.answers)
        return self._qido(path, dict(urllib.parse.parse_qsl(query)))

    def _stow(self, request: HttpRequest) -> HttpAnswer:
        if self.largest is not None and len(request.body) > self.largest:
            return HttpAnswer(413)
        listed: dict[str, list[Any]] = {REFERENCED: [], FAILED: []}
        datasets = [pydicom.dcmread(io.BytesIO(part)) for part in _parts(request)]
        self.requests_of.append(len(datasets))
        for dataset in datasets:
            item = {
                "00081150": {"vr": "UI", "Value": [dataset.SOPClassUID]},
                "00081155": {"vr": "UI", "Value": [dataset.SOPInstanceUID]},
            }
            is_known = any(each.SOPInstanceUID == dataset.SOPInstanceUID for each in self.taken)
            reason = REFUSED if self.refuses(dataset) else ALREADY_THERE if is_known and self.refuses_duplicates else 0
            listed[FAILED if reason else REFERENCED].append(
                {**item, **({"00081197": {"vr": "US", "Value": [reason]}} if reason else {})}
            )
            if not reason and not is_known and not self.forgets(dataset):
                self.taken.append(dataset)
        body = {tag: {"vr": "SQ", "Value": items} for tag, items in listed.items() if items or tag == REFERENCED}
        status = 200 if not listed[FAILED] else 202 if listed[REFERENCED] else 409
        return _json(status, body)

    def _qido(self, path: str, query: Mapping[str, str]) -> HttpAnswer:
        if found := SERIES.search(path):
            place = (found[1], found[2])
            of_series = [each for each in self.taken if (each.StudyInstanceUID, each.SeriesInstanceUID) == place]
            tags = ["SOPInstanceUID", *(["PatientID"] if self.names_patients else [])]
            answers = [_as_json(each, *tags) for each in of_series]
        else:
            wanted = query.get("StudyInstanceUID")
            studies = {each.StudyInstanceUID: each for each in self.taken if wanted in (None, each.StudyInstanceUID)}
            answers = [_as_json(each, "StudyInstanceUID", "PatientID") for each in studies.values()]
        start = int(query.get("offset", 0))
        number = min(self.page, int(query.get("limit", self.page)))
        return _json(200, answers[start : start + number])


def _parts(request: HttpRequest) -> list[bytes]:
    """Return the DICOM files of a STOW-RS request (PS3.18 8.6.1.2)."""
    [boundary] = re.findall(r'boundary="?([^";]+)', request.headers["content-type"])
    parts = request.body.split(b"--" + boundary.encode())[1:-1]
    return [part.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n") for part in parts]


def _as_json(dataset: Dataset, *keywords: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for keyword in keywords:
        element = dataset[keyword]
        found[f"{element.tag:08X}"] = {"vr": element.VR, "Value": [str(element.value)]}
    return found


def _json(status: int, body: Any) -> HttpAnswer:
    return HttpAnswer(status, json.dumps(body).encode(), {"Content-Type": "application/dicom+json"})
