# SPDX-License-Identifier: AGPL-3.0-or-later
"""Orthanc's index, read in lists by loopback HTTP: through the SDK what takes long would hold stores up."""

from __future__ import annotations

import functools
import itertools
import json
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import orthanc

from common.loopback import Loopback

from .studies import Study, matches

STUDIES_PAGE = 500  # studies read at a time: each question reads through all that match
INSTANCES_PAGE = 2000  # instances read at a time: to decode an answer holds the interpreter, and with it every store
INSTANCES_BY_NAME = 200  # instances of one question before 1.12.5
FEW = 30  # studies of one question before 1.12.5: hardly anybody else gets at Orthanc's index before it is answered
UNKNOWN_RESOURCE = (17, 3)  # codes of OrthancException; 3 is what the protection of an unknown patient gives


class Index:
    """What Orthanc knows of its studies, asked as its version allows; `with_metadata`: all metadata of a study are needed."""

    def __init__(self, loopback: Loopback, *, with_metadata: bool) -> None:
        self._loopback, self._with_metadata = loopback, with_metadata

    @functools.cached_property
    def _system(self) -> dict[str, Any]:
        found: dict[str, Any] = self._loopback.get("/system")
        return found

    @property
    def is_extended(self) -> bool:
        """Whether one question gives all that is asked of a list, from Orthanc 1.12.5."""
        # Then a list is read in pages, with all that is asked of it; there, reading one study costs in proportion to the
        # archive. Before, a single one is quick, and a page costs in proportion to what precedes it.
        return bool(self._loopback.has_extended_find)

    @functools.cached_property
    def has_labels(self) -> bool:
        """Whether this Orthanc knows labels, from 1.12.0."""
        if "HasLabels" in self._system:  # from 1.12.0; some databases have none
            return bool(self._system["HasLabels"])
        found = re.match(r"(\d+)\.(\d+)", self._system["Version"])
        return self.is_extended or (found is not None and (int(found[1]), int(found[2])) >= (1, 12))

    @property
    def version(self) -> str:
        """The version of this Orthanc."""
        return str(self._system["Version"])

    @property
    def is_elsewhere(self) -> bool:
        """Whether a plugin keeps the files, so that the file system of `StorageDirectory` says nothing of them."""
        return bool(self._system.get("StorageAreaPlugin"))

    def matching(self, query: Mapping[str, str]) -> Iterator[dict[str, Any]]:
        """Yield the studies that match, as Orthanc gives them: at least all that do."""
        pages = self._pages(query) if self.is_extended else self._before_pages(query)
        return itertools.chain.from_iterable(pages)

    def _pages(self, query: Mapping[str, str]) -> Iterator[list[dict[str, Any]]]:
        for since in itertools.count(0, STUDIES_PAGE):
            # Counted here, not when they are looked at again: each question that counts reads through the archive once more.
            page = self.search(
                self.find(query, Since=since, Limit=STUDIES_PAGE, RequestedTags=["NumberOfStudyRelatedInstances"])
            )
            yield page
            if len(page) < STUDIES_PAGE:
                return

    def _before_pages(self, query: Mapping[str, str]) -> Iterator[list[dict[str, Any]]]:
        if self._loopback.find_is_unlimited:
            studies = self._loopback.post("/tools/find", self.find(query, Expand=False))
        else:
            studies = self._loopback.get("/studies")  # `is_meant` looks at each
        for start in range(0, len(studies), STUDIES_PAGE):
            page = self.content("Study", studies[start : start + STUDIES_PAGE])
            yield page if self._loopback.find_is_unlimited else self._of_modality(page, query.get("ModalitiesInStudy"))

    def _of_modality(self, studies: list[dict[str, Any]], wanted: str | None) -> list[dict[str, Any]]:
        """Return those with a series of a wanted modality: what `is_meant` can't see of a study."""
        if not wanted:
            return studies
        series = self.content("Series", [study["ID"] for study in studies])
        meant = {each["ParentStudy"] for each in series if matches(each["MainDicomTags"].get("Modality", ""), wanted)}
        return [study for study in studies if study["ID"] in meant]

    def find(self, query: Mapping[str, str], **more: Any) -> dict[str, Any]:
        """Return a question for studies."""
        # Without regard to case, since pages can't be had with it; `is_meant` has it.
        find = {"Level": "Study", "Query": dict(query), "Expand": True, **more}
        if self.is_extended:
            find["ResponseContent"] = ["MainDicomTags", "Metadata", "Parent", "Labels"]
        return find

    def search(self, find: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return what Orthanc answers to a question."""
        found: list[dict[str, Any]] = self._loopback.post("/tools/find", find)
        return found

    def content(self, level: str, studies: Sequence[str]) -> list[dict[str, Any]]:
        """Return what is there of some studies at a level, before 1.12.5."""
        found: list[dict[str, Any]] = []
        for start in range(0, len(studies), FEW):
            some = {"Resources": studies[start : start + FEW], "Level": level}
            found += self._loopback.post("/tools/bulk-content", {**some, "Metadata": self._with_metadata})
        return found

    def children(
        self, level: str, studies: Iterable[Study], content: Sequence[str], **more: Any
    ) -> list[dict[str, Any]]:
        """Return what some studies hold at a level."""
        if not self.is_extended:
            return self.content(level, [study.id for study in studies])
        uids = "\\".join(study.tags["StudyInstanceUID"] for study in studies)
        find = {"Level": level, "Query": {"StudyInstanceUID": uids}, "Expand": True, "ResponseContent": content}
        return self.search({**find, **more})

    def sizes_of(self, studies: Collection[Study]) -> dict[str, int]:
        """Return the bytes on the disk of studies, 0 for one that is not there.

        From 1.12.5 the statistics of a single study cost in proportion to the archive, and so does each question for some.
        """
        if not self.is_extended:
            found = {study.id: if_there(f"/studies/{study.id}/statistics") or {} for study in studies}
            return {study: int(statistics.get("DiskSize", 0)) for study, statistics in found.items()}
        sizes = dict.fromkeys((study.id for study in studies), 0)
        if not sizes:
            return sizes
        study_of = {series["ID"]: series["ParentStudy"] for series in self.children("Series", studies, ["Parent"])}
        for instance in self._instances(studies, ["Attachments", "Parent"]):
            # Others may have the same StudyInstanceUID; a series may have come in between the two questions.
            if (study := study_of.get(instance["ParentSeries"])) in sizes:
                sizes[study] += sum(int(file["CompressedSize"]) for file in instance["Attachments"])
        return sizes

    def instances_of(self, studies: Collection[Study]) -> Iterator[tuple[str, str, dict[str, Any]]]:
        """Yield study, identifier and content of each instance of some studies: what proofs of having it need, and no more.

        It is as `/tools/bulk-content` gives it, with the `Place` of its series.
        """
        of_study = {study.id: study for study in studies}
        if self.is_extended:
            every_series = self.children("Series", studies, ["MainDicomTags", "Parent"])
            found = self._instances(studies, ["MainDicomTags", "Metadata", "Parent", "Attachments"])
        else:
            every_series = self.content("Series", [*of_study])
            found = self._by_name([instance for series in every_series for instance in series["Instances"]])
        # Others may have the same StudyInstanceUID; what comes in between the two questions is not among them.
        here = {each["ID"]: each for each in every_series if each["ParentStudy"] in of_study}
        places = {key: _place(of_study[each["ParentStudy"]], each) for key, each in here.items()}
        for each in found:
            if series := here.get(each["ParentSeries"]):
                yield series["ParentStudy"], each["ID"], _for_proof(each, places[series["ID"]])

    def _by_name(self, instances: Sequence[str]) -> Iterator[dict[str, Any]]:
        for start in range(0, len(instances), INSTANCES_BY_NAME):
            some = {"Resources": instances[start : start + INSTANCES_BY_NAME], "Metadata": True}
            yield from self._loopback.post("/tools/bulk-content", some)

    def _instances(self, studies: Collection[Study], content: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Yield the instances of some studies, from 1.12.5: a page at a time, for they may be hundreds of thousands."""
        for since in itertools.count(0, INSTANCES_PAGE):
            page = self.children("Instance", studies, content, Since=since, Limit=INSTANCES_PAGE)
            yield from page
            if len(page) < INSTANCES_PAGE:
                return

    def count(self) -> int:
        """Return how many studies there are."""
        return int(self._loopback.get("/statistics")["CountStudies"])


def _place(study: Study, series: Mapping[str, Any]) -> dict[str, str]:
    """Return what the identifiers of a series, its study and its patient are."""
    uids = {tag: study.tags.get(tag, "") for tag in ("PatientID", "StudyInstanceUID")}
    return {**uids, "SeriesInstanceUID": series["MainDicomTags"].get("SeriesInstanceUID", "")}


def _file_of(instance: Mapping[str, Any]) -> str:
    """Return Orthanc's name of the DICOM file of an instance (an attachment of type 1), or ""."""
    files = [file["Uuid"] for file in instance.get("Attachments", ()) if file["ContentType"] == 1]
    return str(instance.get("FileUuid") or (files or [""])[0])


def _for_proof(instance: Mapping[str, Any], place: Mapping[str, str]) -> dict[str, Any]:
    """Return of an instance what proofs look at: there may be hundreds of thousands."""
    metadata = instance.get("Metadata", {})
    return {
        "ParentSeries": instance["ParentSeries"],
        "MainDicomTags": {"SOPInstanceUID": instance["MainDicomTags"].get("SOPInstanceUID", "")},
        "FileUuid": _file_of(instance),
        "Metadata": {key: sys.intern(str(metadata[key])) for key in ("Origin", "RemoteIP") if key in metadata},
        "Place": place,
    }


def if_there(path: str) -> Any:
    """Return what Orthanc says of one resource (through the SDK: microseconds); None if it is not there.

    Any other error is raised: who can't see whether a study is protected does not delete it.
    """
    try:
        return json.loads(orthanc.RestApiGet(path))
    except orthanc.OrthancException as error:
        if error.args[0] in UNKNOWN_RESOURCE:
            return None
        raise
